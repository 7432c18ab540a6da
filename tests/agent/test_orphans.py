"""What is left of commands whose keeper and agent were killed, and what looks as though; with real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import LONG, ROOT, until

from rigsync.agent import orphans
from rigsync.agent.orphans import Mark, end, end_of_dead_agents, identity

if sys.platform != "linux":
    pytest.skip("only Linux shows the environment of processes", allow_module_level=True)

GONE, KEEPER = "999999999.1", "999999999.3"
"""Processes that there are not."""
RIG = f"cameras {os.getpid()}"
"""A name that no other test's agent has, which might start just then, and end these."""
SPACE = os.readlink("/proc/self/ns/pid")

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command with a mark, which is killed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def begin(
            rig: str = RIG,
            agent: str = GONE,
            space: str = SPACE,
            source: str = "import time; print(flush=True)\nwhile True: time.sleep(0.1)",
            user: int | None = None,
            mark: str | None = None,
        ) -> subprocess.Popen[bytes]:
            mark = Mark(space, agent, KEEPER, rig).text() if mark is None else mark
            process = subprocess.Popen(
                ["/usr/bin/env", "python3", "-c", source] if user else [sys.executable, "-c", source],
                stdout=subprocess.PIPE,
                env={**os.environ, orphans.MARK: mark, "PYTHONPATH": str(ROOT)},
                user=user,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout
            process.stdout.readline()
            return process

        yield begin


def name_of(process: subprocess.Popen[bytes]) -> str:
    return f"{Path(f'/proc/{process.pid}/comm').read_text().strip()} (process {process.pid})"


def test_an_identity_is_that_of_one_living_process(start: Start) -> None:
    process = start()
    assert identity(process.pid) == identity(process.pid) != identity(os.getpid())
    assert identity(process.pid).startswith(f"{process.pid}.")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert identity(process.pid) == ""  # though nobody has fetched its exit status
    assert identity(999_999_999) == ""


def test_what_a_dead_agent_of_this_name_ran_is_ended_and_named(start: Start) -> None:
    process = start("left: camera/1 'é'")
    name = name_of(process)
    assert end_of_dead_agents("left: camera/1 'é'") == ([name], [])
    assert process.wait(LONG)


def test_what_belongs_to_somebody_is_left(start: Start) -> None:
    others = [
        start("ephys"),
        start(""),  # of `rigsync run`
        start(agent=identity(os.getpid())),
        start(space="pid:[1]"),
    ]
    begin = time.monotonic()
    assert end_of_dead_agents(RIG) == ([], [])
    assert time.monotonic() - begin < orphans.KEEPER_LIMIT
    assert [process.poll() for process in others] == [None] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, and look into what is theirs")
def test_what_belongs_to_another_user_is_left_by_root(start: Start) -> None:
    process = start(user=65534)
    assert end_of_dead_agents(RIG) == ([], [])
    assert process.poll() is None


def test_an_agent_that_a_dead_one_has_started_does_not_end_itself(start: Start) -> None:
    source = f"from rigsync.agent.orphans import end_of_dead_agents; print(); print(end_of_dead_agents({RIG!r}))"
    process = start(source=source)
    assert process.stdout
    assert process.stdout.read().decode() == "([], [])\n"
    assert process.wait(LONG) == 0


def test_a_keeper_of_a_dead_agent_is_woken_and_ends_by_itself(start: Start) -> None:
    source = "import os, sys, time; print(flush=True); os.kill(os.getpid(), 19); time.sleep(0.2); sys.exit(7)"
    process = start(mark=f"{SPACE}/{GONE}/{GONE}/{RIG}", source=source)
    until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T")
    assert end_of_dead_agents(RIG) == ([], [])
    assert process.wait(LONG) == 7


def test_a_keeper_of_a_dead_agent_that_does_not_end_is_told(start: Start) -> None:
    process = start(mark=f"{SPACE}/{GONE}/{GONE}/{RIG}")
    assert end_of_dead_agents(RIG) == ([], [name_of(process)])
    assert process.poll() is None


FORGED = ["\u00b2", "\u00b2.1", "9" * 5000 + ".1", "999999999", "999999999.", "x.1", "-1.1", "9.\u00b2", ""]
"""No process, though Python takes some of it for a number."""


@pytest.mark.parametrize(
    "mark",
    [
        *("", "/", SPACE, f"{SPACE}/{GONE}/{GONE}", f" {SPACE}/{GONE}/{GONE}/RIG"),
        *(f"{SPACE}/{who}/{GONE}/RIG" for who in FORGED),
        *(f"{SPACE}/{GONE}/{who}/RIG" for who in FORGED),
    ],
)
def test_a_mark_that_makes_no_sense_is_none(start: Start, mark: str) -> None:
    process = start(mark=mark.replace("RIG", RIG))
    assert end_of_dead_agents(RIG) == ([], [])
    assert process.pid not in orphans._marked()
    assert process.poll() is None


@pytest.mark.parametrize("keeper", ["\u00b2.1", "9" * 5000 + ".1"])
def test_the_watcher_ends_what_is_the_agents_whatever_others_forge(start: Start, keeper: str) -> None:
    agent = "999999999.2"
    forged = start(mark=f"{SPACE}/{agent}/{keeper}/{RIG}")
    left = start(agent=agent)
    read, write = os.pipe()
    os.close(write)  # the agent is gone
    command = [sys.executable, orphans.__file__, str(read), agent]
    try:
        watcher = subprocess.run(command, pass_fds=[read], stderr=subprocess.PIPE, timeout=LONG, check=True)
    finally:
        os.close(read)
    assert left.wait(LONG)
    assert watcher.stderr == b""
    assert forged.poll() is None


def test_what_is_left_is_interrupted_then_terminated_then_killed(start: Start) -> None:
    source = (
        "import os, signal, sys, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(number, lambda number, _: os.write(1, b'%d ' % number))\n"
        "os.write(1, b'\\n')\nwhile True: time.sleep(0.1)"
    )
    process = start(source=source)
    begin = time.monotonic()
    assert end(lambda: [process.pid] if process.poll() is None else []) == []
    assert time.monotonic() - begin >= orphans.KILL_AFTER
    assert process.stdout
    assert process.stdout.read() == b"2 15 "
    assert process.returncode == -9


def test_what_is_polite_and_what_ignores_interrupts_cost_no_time(start: Start) -> None:
    for source in ("", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"):
        process = start(source=f"{source}import time; print(flush=True)\nwhile True: time.sleep(0.1)")
        begin = time.monotonic()
        assert end(lambda process=process: [process.pid] if process.poll() is None else []) == []  # type: ignore[misc]
        assert time.monotonic() - begin < orphans.TERMINATE_AFTER


def test_what_does_not_end_is_named_when_the_time_is_over() -> None:
    looks: list[None] = []
    assert end(lambda: [999_999_999], 0.2, lambda: looks.append(None)) == [999_999_999]
    assert looks


def test_a_stopped_one_learns_of_its_end(start: Start) -> None:
    process = start()
    os.kill(process.pid, 19)
    until(lambda: f"{identity(process.pid)}" and "T" in Path(f"/proc/{process.pid}/stat").read_text().split()[2])
    assert end(lambda: [process.pid] if process.poll() is None else []) == []
    assert process.returncode != -9  # which alone ends one that is not woken
