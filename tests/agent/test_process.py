"""Commands as the agent's children: real programs, a real ffmpeg, real kills."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from platforms import linux, needs_ffmpeg, posix
from processes import LONG, ROOT, Leftovers, keepers_of, suspended, until, watchers_of

from rigsync.agent import process, programs
from rigsync.agent.output import LONGEST_LINE, Output
from rigsync.agent.process import Exit, Process, ProgramError
from rigsync.agent.windows_job import batch_problem

if sys.platform != "win32":
    from rigsync.agent import keeper


PROMISE = 2.0
"""Seconds after which nothing is left of an agent that was killed."""
LATE_PROMISE = PROMISE + 1.0
"""The same where all processes of the computer have to be looked at, which is busy."""


def wait_for(lines: list[str], text: str) -> str:
    """Wait for a line that begins with a text, and return what follows in it."""
    found: list[str] = until(lambda: [line for line in lines.copy() if line.startswith(text)], f"the line {text!r}")
    return found[0][len(text) :].strip()


class Run:
    """A command with what it has told. Its steps are Python, run by ``python -c``."""

    def __init__(self, command: Sequence[str] | str, folder: str | None = None, **environment: str):
        self.lines: list[str] = []
        self.exits: list[Exit] = []
        self.over = threading.Event()
        self.threads: set[threading.Thread] = set()
        self.process = Process(
            command,
            folder=folder,
            environment=environment,
            on_line=self._hear,
            on_exit=self._end,
        )

    def _hear(self, line: str) -> None:
        self.threads.add(threading.current_thread())
        self.lines.append(line)

    def _end(self, exit_: Exit) -> None:
        self.threads.add(threading.current_thread())
        self.exits.append(exit_)
        self.over.set()

    def wait_for(self, text: str) -> str:
        return wait_for(self.lines, text)

    def ended(self) -> Exit:
        """Wait until it has ended, and return how."""
        assert self.over.wait(LONG)
        (exit_,) = self.exits
        return exit_


@pytest.fixture
def launch() -> Iterator[Callable[..., Run]]:
    """Start a command, which is killed at the end of the test if it has not ended by then."""
    runs: list[Run] = []

    def start(command: Sequence[str] | str, folder: str | None = None, **environment: str) -> Run:
        run = Run(command, folder, **environment)
        run.process.start()
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.process.stop("kill", 0)
    for run in runs:
        run.ended()
        assert len(run.exits) == 1


def python(source: str, *arguments: str) -> list[str]:
    return [sys.executable, "-u", "-c", source, *arguments]


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def descriptors() -> int:
    return psutil.Process().num_handles() if sys.platform == "win32" else psutil.Process().num_fds()


SLEEP = "import time; print('ready')\nwhile True: time.sleep(0.1)"  # one long sleep can miss a signal at its start

STUBBORN = """
import os, signal, sys, time
for name in sys.argv[1:] or ["SIGINT", "SIGTERM"]:
    signal.signal(getattr(signal, name), lambda number, _: print("ignored", number))
print("ready", os.getpid())
while True:
    time.sleep(0.1)
"""
"""Ignores an interrupt and a termination, or only what its arguments name."""


# ------------------------------------------------------------------------------------------------- a command's own end


@pytest.mark.parametrize("status", [0, 1, 3, 127, 255])
def test_the_exit_status_arrives(launch: Callable[..., Run], status: int) -> None:
    run = launch(python(f"print('one'); print('two'); raise SystemExit({status})"))
    assert run.ended() == Exit(status, None, "by itself", ("one", "two"))
    assert run.lines == ["one", "two"]
    assert run.ended().described() == f"ended by itself with exit status {status}"


def test_standard_error_is_output_too_and_there_is_no_input(launch: Callable[..., Run]) -> None:
    run = launch(python("import sys; print('out'); print('error', file=sys.stderr); print(repr(sys.stdin.read()))"))
    run.ended()
    assert run.lines == ["out", "error", "''"]


@posix
def test_an_end_by_a_signal_from_outside_is_told(launch: Callable[..., Run]) -> None:
    run = launch(python(SLEEP))
    run.wait_for("ready")
    os.kill(run.process.pid, signal.SIGKILL)
    assert run.ended() == Exit(None, "SIGKILL", "by itself", ("ready",))
    assert "killed from outside" in run.ended().described()
    run = launch(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert run.ended().described() == "crashed with SIGSEGV"


@pytest.mark.parametrize(
    ("exit_", "text"),
    [
        (Exit(0, None, "by itself"), "ended by itself with exit status 0"),
        (Exit(None, "SIGTERM", "by itself"), "was ended from outside by SIGTERM"),
        (Exit(255, None, "interrupt"), "was interrupted and ended with exit status 255"),
        (Exit(None, "SIGINT", "interrupt"), "was interrupted and ended with SIGINT"),
        (Exit(None, "SIGTERM", "terminate"), "was terminated and ended with SIGTERM"),
        (
            Exit(1, None, "terminate", ignored=("interrupt",)),
            "was terminated after it ignored interrupt and ended with exit status 1",
        ),
        (Exit(None, "SIGKILL", "kill"), "was killed"),
        (
            Exit(None, "SIGKILL", "kill", ignored=("interrupt", "terminate")),
            "was killed after it ignored interrupt and terminate",
        ),
    ],
)
def test_an_exit_is_described(exit_: Exit, text: str) -> None:
    assert exit_.described() == text


# ------------------------------------------------------------------------------------------- what cannot be started


def refused(command: Sequence[str] | str, folder: str | None = None) -> str:
    run = Run(command, folder)
    with pytest.raises(ProgramError) as caught:
        run.process.start()
    assert isinstance(caught.value, OSError)
    run.process.stop("kill", 0)  # does nothing
    assert run.exits == []
    return str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    before = descriptors()
    assert "'no-such-program' was not found in any folder of PATH; install it" in refused(["no-such-program", "a"])
    missing = str(tmp_path / "missing")
    problem = refused([sys.executable, "-c", "pass"], missing)
    assert "in which" in problem
    assert repr(missing) in problem
    assert "does not exist; create it" in problem
    until(lambda: descriptors() <= before, "no descriptor left open")


@posix
def test_what_may_not_be_run_is_named(tmp_path: Path) -> None:
    script = tmp_path / "record.sh"
    assert f"{str(script)!r} does not exist" in refused([str(script)])
    script.write_text("echo hello\n")
    assert "`chmod +x` it" in refused([str(script)])
    script.chmod(0o755)
    assert "first line such as '#!/bin/sh'" in refused([str(script)])
    script.write_text("#!/no/such/interpreter\n")
    assert "interpreter in its first line does not exist" in refused(["./record.sh"], str(tmp_path))
    assert "is a folder, not a program" in refused([str(tmp_path)])
    assert "is a file; correct its path" in refused(["echo"], str(script))


def test_a_null_character_is_refused() -> None:
    assert "null" in refused([sys.executable, "-c", "a\0b"])


def test_what_is_no_command_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Process([], folder=None, environment={}, on_line=print, on_exit=print)


# ----------------------------------------------------------------------------------------- arguments and surroundings


def test_an_argument_stays_one_argument(launch: Callable[..., Run], tmp_path: Path) -> None:
    arguments = [
        "a b",
        "it's",
        '"',
        "$(touch x)",
        "; rm -rf x",
        "`id`",
        "",
        "*",
        "two\nlines",
        "-",
        "--",
        "é",
        "\\",
        "&|",
    ]
    run = launch(python("import json, sys; print(json.dumps(sys.argv[1:]))", *arguments), str(tmp_path))
    run.ended()
    assert json.loads(run.lines[0]) == arguments
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/usr/bin/ffmpeg", "-i", "x"], "ffmpeg"),
        ("ffmpeg -i x", "ffmpeg"),
        ("trap '' INT; exec /usr/bin/ffmpeg -i x", "ffmpeg"),
        ("(trap 'echo done' INT; ffmpeg -i x)", "ffmpeg"),
        ("cd /data && LANG=C nice ffmpeg -i x > log", "ffmpeg"),
        ("while true; do ffmpeg -i x; done", "ffmpeg"),
        ("for i in 1 2; do '/opt/my cam/record' $i; done", "record"),
        ("echo start > file\nffmpeg -i x", "ffmpeg"),
        ("echo a | tr a b", "tr"),
        ("echo session one; echo two", "echo session one; echo two"),
        ("echo 'not closed", "echo 'not closed"),
        ("echo " + 50 * "x", "echo " + 35 * "x"),
        (" ", "sh"),
    ],
)
def test_a_command_is_called_by_its_program(command: list[str] | str, name: str) -> None:
    process = Process(command, folder=None, environment={}, on_line=print, on_exit=print)
    assert process.program == name


def test_a_line_for_the_shell_is_read_by_the_shell(launch: Callable[..., Run]) -> None:
    run = launch("echo $((1 + 2)) | cat; exit 7")
    assert run.ended().status == 7
    assert run.lines == ["3"]


def test_folder_and_environment(launch: Callable[..., Run], tmp_path: Path) -> None:
    source = "import os; print(os.getcwd()); print(os.environ['RIGSYNC_EXP_REF']); print('PATH' in os.environ)"
    run = launch(python(source), str(tmp_path), RIGSYNC_EXP_REF="2026-01-31_1_mouse 'é'", PYTHONIOENCODING="utf-8")
    run.ended()
    assert run.lines == [os.path.realpath(tmp_path), "2026-01-31_1_mouse 'é'", "True"]


@posix
def test_a_command_gets_no_more_than_three_descriptors_and_no_ignored_signals(launch: Callable[..., Run]) -> None:
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a program that a shell runs in the background
    try:
        run = launch(
            python(
                "import os, signal\n"
                f"print(sorted(map(int, os.listdir({folder!r}))))\n"
                "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
                "print(os.getpgrp() == os.getpid())"
            )
        )
        run.ended()
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.lines == ["[0, 1, 2, 3]", "True", "True"]  # 3 is the listing itself


# ----------------------------------------------------------------------------------------------------------- stopping


@posix
def test_an_interrupt_lets_a_command_finish(launch: Callable[..., Run]) -> None:
    run = launch(
        python(
            "import time\ntry:\n  print('ready')\n  while True: time.sleep(0.1)\n"
            "except KeyboardInterrupt: print('finished'); raise SystemExit(5)"
        )
    )
    run.wait_for("ready")
    run.process.stop("interrupt", LONG)
    assert run.ended() == Exit(5, None, "interrupt", ("ready", "finished"))


@posix
def test_a_command_that_ignores_everything_is_killed(launch: Callable[..., Run]) -> None:
    run = launch(python(STUBBORN))
    pid = int(run.wait_for("ready"))
    begin = time.monotonic()
    run.process.stop("interrupt", 0.2)
    exit_ = run.ended()
    assert time.monotonic() - begin > 0.2 + 2.0
    assert exit_ == Exit(None, "SIGKILL", "kill", exit_.last_lines, ("interrupt", "terminate"))
    assert [line for line in run.lines if line.startswith("ignored")] == ["ignored 2", "ignored 15"]
    assert not is_alive(pid)
    assert exit_.described() == "was killed after it ignored interrupt and terminate"


@posix
def test_a_command_that_ignores_an_interrupt_is_terminated(launch: Callable[..., Run]) -> None:
    run = launch(python(STUBBORN, "SIGINT"))
    run.wait_for("ready")
    run.process.stop("interrupt", 0.1)
    exit_ = run.ended()
    assert (exit_.signal, exit_.how, exit_.ignored) == ("SIGTERM", "terminate", ("interrupt",))


@posix
def test_a_stop_can_begin_with_terminate(launch: Callable[..., Run]) -> None:
    run = launch(python(STUBBORN))
    run.wait_for("ready")
    run.process.stop("terminate", 0.2)
    exit_ = run.ended()
    assert (exit_.how, exit_.ignored) == ("kill", ("terminate",))
    assert "ignored 2" not in run.lines


def test_kill_kills_at_once(launch: Callable[..., Run]) -> None:
    run = launch(python(SLEEP))
    run.wait_for("ready")
    run.process.stop("kill", LONG)
    assert run.ended().described() == "was killed"


@posix
def test_a_second_stop_is_not_sent_and_a_kill_goes_further(launch: Callable[..., Run]) -> None:
    run = launch(python(STUBBORN))
    run.wait_for("ready")
    for _ in range(5):
        run.process.stop("interrupt", LONG)
    run.wait_for("ignored")
    run.process.stop("interrupt", LONG)
    run.process.stop("kill", LONG)
    exit_ = run.ended()
    assert (exit_.how, exit_.ignored) == ("kill", ("interrupt",))
    assert [line for line in run.lines if line.startswith("ignored")] == ["ignored 2"]


@posix
def test_a_second_stop_may_be_sooner(launch: Callable[..., Run]) -> None:
    run = launch(python(STUBBORN, "SIGINT"))
    run.wait_for("ready")
    run.process.stop("interrupt", 600)
    run.process.stop("interrupt", 0.1)
    run.process.stop("interrupt", 600)
    assert run.ended().how == "terminate"


def test_a_stop_after_the_end_does_nothing(launch: Callable[..., Run]) -> None:
    run = launch(python("pass"))
    exit_ = run.ended()
    for step in ("interrupt", "terminate", "kill"):
        run.process.stop(step, 0)
    assert run.exits == [exit_]
    assert exit_.how == "by itself"


@posix
def test_stops_while_it_ends_take_nothing_of_what_is_known(launch: Callable[..., Run]) -> None:
    for _ in range(20):
        run = launch("trap '' INT; echo ready; exit 3")
        run.wait_for("ready")
        while not run.exits:
            run.process.stop("interrupt", 600)
        assert run.ended().status == 3


def test_a_stop_before_the_start_ends_the_command_as_soon_as_it_runs() -> None:
    run = Run(python(SLEEP))
    run.process.stop("kill", 0)
    run.process.start()
    assert run.ended().how == "kill"


@posix
def test_a_frozen_command_learns_of_its_stop(launch: Callable[..., Run]) -> None:
    run = launch(python(SLEEP))
    run.wait_for("ready")
    os.kill(run.process.pid, signal.SIGSTOP)
    run.process.stop("interrupt", LONG)
    assert run.ended().how == "interrupt"


def test_a_wait_is_over_in_time(launch: Callable[..., Run]) -> None:
    run = launch(python(SLEEP))
    assert not run.over.wait(0.01)


# ------------------------------------------------------------------------------------------------------ descendants

PARENT = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, lambda *_: os._exit(8))
ways = {"group": {}, "session": {"start_new_session": True}}
stubborn = sys.argv[2] == "stubborn"
source = "import signal, time\\n"
if stubborn: source += "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)\\n"
source += "print('grandchild is ready', flush=True)\\nwhile True: time.sleep(0.1)"
child = subprocess.Popen([sys.executable, "-c", source], **ways[sys.argv[1]])
print("has grandchild", child.pid)
if sys.argv[3] == "orphan":
    sys.stdin.read()
    while not os.path.exists(sys.argv[4]): time.sleep(0.002)
    os._exit(9)
while child.poll() is None: time.sleep(0.05)  # and not in one wait, which can miss a signal
"""


def parent(way: str, temper: str, fate: str, go: str = "") -> list[str]:
    return python(PARENT, way, temper, fate, go)


in_both = pytest.mark.parametrize(
    "way", ["group", pytest.param("session", marks=linux)], ids=["in the group", "in a session of its own"]
)


@posix
@in_both
@pytest.mark.parametrize("temper", ["polite", "stubborn"])
def test_what_a_command_leaves_behind_ends_with_it(
    launch: Callable[..., Run], tmp_path: Path, way: str, temper: str
) -> None:
    go = tmp_path / "go"
    run = launch(parent(way, temper, "orphan", str(go)))
    pid = int(run.wait_for("has grandchild "))
    run.wait_for("grandchild is ready")
    go.touch()
    exit_ = run.ended()  # although the grandchild has the output open
    assert not is_alive(pid)
    assert (exit_.status, exit_.how) == (9, "by itself")


@posix
@in_both
def test_a_stop_reaches_descendants(launch: Callable[..., Run], way: str) -> None:
    run = launch(parent(way, "polite", "wait"))
    pid = int(run.wait_for("has grandchild "))
    run.wait_for("grandchild is ready")
    run.process.stop("interrupt", LONG)
    exit_ = run.ended()
    assert not is_alive(pid)
    assert (exit_.status, exit_.how) == (8, "interrupt")
    assert any("KeyboardInterrupt" in line for line in run.lines)  # of the grandchild


@linux
@in_both
def test_a_descendant_that_ignores_everything_is_killed_without_its_grace(launch: Callable[..., Run], way: str) -> None:
    run = launch(parent(way, "stubborn", "wait"))
    pid = int(run.wait_for("has grandchild "))
    run.wait_for("grandchild is ready")
    run.process.stop("interrupt", 600)
    exit_ = run.ended()
    assert not is_alive(pid)
    assert (exit_.status, exit_.how, exit_.ignored) == (8, "kill", ("interrupt", "terminate"))


@posix
def test_a_recorder_keeps_its_grace_although_the_shell_around_it_is_gone(launch: Callable[..., Run]) -> None:
    recorder = "import time\ntry:\n  print('ready')\n  while True: time.sleep(0.1)\n"
    recorder += "except KeyboardInterrupt: time.sleep(0.5)\nprint('finished')"
    wrapper = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-u', '-c', sys.argv[1]]); os.wait()"
    run = launch(python("import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + wrapper, recorder))
    run.wait_for("ready")
    run.process.stop("interrupt", LONG)
    exit_ = run.ended()
    assert run.lines[-1] == "finished"
    assert (exit_.signal, exit_.how) == ("SIGINT", "interrupt")


@linux
def test_what_forks_while_it_is_killed_is_killed(launch: Callable[..., Run]) -> None:
    source = (
        "import os, signal, time\nprint('ready')\n"
        "for name in ('SIGINT', 'SIGTERM'): signal.signal(getattr(signal, name), signal.SIG_IGN)\n"
        "while True:\n    if os.fork(): os._exit(0)\n    os.setsid(); time.sleep(0.005)"
    )
    run = launch(python(source))
    run.wait_for("ready")
    assert run.ended().how == "by itself"  # launch() finds nothing left


# ---------------------------------------------------------------------------------- the agent's end, and the keeper's

AGENT = """
import json, os, signal, sys, threading, time
from rigsync.agent.process import Process
ready, over = threading.Event(), threading.Event()
def say(line):  # at one stroke, for print() writes piece by piece, and other threads' pieces come in between
    os.write(1, (line + "\\n").encode())
def hear(line):
    say("heard " + line)
    if line.startswith("ready"): ready.set()
def end(exit):
    say("end " + exit.described())
    over.set()
command = json.loads(sys.argv[1])
process = Process(command, folder=None, environment={}, on_line=hear, on_exit=end)
process.start()
say(f"pid {process.pid}")
"""
"""A program that plays the agent; what it does next is added."""


class Agent:
    """A process that plays the agent with one command."""

    def __init__(self, command: Sequence[str] | str, then: str = "over.wait()", **options: Any):
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT + then, json.dumps(command)],
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            **options,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.pid = int(self.wait_for("pid "))
        self.family: list[psutil.Process] = []

    def wait_for(self, text: str) -> str:
        return wait_for(self.lines, text)

    def kill(self) -> None:
        """Kill it alone, and see that its children end."""
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        assert self.pid in {child.pid for child in self.family}
        self.process.kill()
        begin = time.monotonic()
        until(lambda: not self.survivors(), "the end of the command")
        assert time.monotonic() - begin < PROMISE

    def survivors(self) -> list[psutil.Process]:
        return [child for child in self.family if child.is_running() and is_alive(child.pid)]

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(LONG)
        for survivor in self.survivors():
            survivor.kill()
        self._reader.join(LONG)
        assert self.process.stdout
        self.process.stdout.close()


@posix
@needs_ffmpeg
@pytest.mark.parametrize("shell", [False, True], ids=["program", "shell"])
def test_a_recording_is_finished_when_the_agent_is_killed(tmp_path: Path, shell: bool) -> None:
    video = tmp_path / "left.mp4"
    line = f"ffmpeg -hide_banner -re -f lavfi -i testsrc=size=160x120:rate=30 -c:v mpeg4 {video}"
    with Agent(line + "; true" if shell else line.split()) as agent:
        until(lambda: any("frame=" in line for line in agent.lines), "a frame")
        agent.kill()
    # The index of an mp4 is written at its end: only one that was closed plays.
    probe = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]
    frames = subprocess.run([*probe, str(video)], capture_output=True, encoding="utf-8", timeout=LONG)
    assert (frames.returncode, frames.stderr) == (0, "")
    assert int(frames.stdout.strip().rstrip(",")) > 0


@posix
def test_nothing_is_left_of_a_stubborn_command_when_the_agent_is_killed() -> None:
    with Agent(python(STUBBORN)) as agent:
        agent.wait_for("heard ready")
        agent.kill()


@linux
@in_both
def test_no_grandchild_is_left_when_the_agent_is_killed(way: str) -> None:
    with Agent(parent(way, "stubborn", "wait")) as agent:
        agent.wait_for("heard grandchild is ready")
        agent.kill()
        assert len(agent.family) == 3


@posix
def test_a_command_that_is_being_stopped_has_no_more_time_when_the_agent_is_killed() -> None:
    with Agent(python(STUBBORN), "ready.wait(); process.stop('interrupt', 600); over.wait()") as agent:
        agent.wait_for("heard ignored 2")
        agent.kill()
        assert agent.lines.count("heard ignored 2") == 1


@posix
def test_a_dead_agent_is_no_broken_pipe(tmp_path: Path) -> None:
    report = tmp_path / "report"
    source = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "def finish(number, frame):\n"
        "    for _ in range(2000): print('x' * 1000)\n"  # far more than a pipe holds
        f"    open({str(report)!r}, 'w').write('finished'); raise SystemExit\n"
        "signal.signal(signal.SIGINT, finish)\n"
        "print('ready')\nwhile True: time.sleep(0.1)"
    )
    with Agent(python(source)) as agent:
        agent.wait_for("heard ready")
        agent.kill()
    assert report.read_text() == "finished"


@posix
def test_a_command_ends_when_the_agent_exits_without_stopping_it() -> None:
    with Agent(python(SLEEP), "sys.exit()") as agent:
        assert agent.process.wait(LONG) == 0
        until(lambda: not is_alive(agent.pid), "the end of the command")


@linux
def test_a_killed_keeper_leaves_nothing(launch: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    run = launch(parent("group", "stubborn", "wait"))
    pid = int(run.wait_for("has grandchild "))
    run.wait_for("grandchild is ready")
    guard = psutil.Process(run.process.pid).parent()
    assert guard is not None
    assert guard.pid != os.getpid()
    guard.kill()
    exit_ = run.ended()
    assert (exit_.status, exit_.signal, exit_.how) == (None, "SIGKILL", "by itself")
    until(lambda: not is_alive(pid) and not is_alive(run.process.pid), "the end of the group")
    assert "keeper of process" in caplog.text


@linux
def test_a_command_dies_with_its_keeper_when_the_agent_is_gone_too() -> None:
    with Agent(python(STUBBORN)) as agent:
        agent.wait_for("heard ready")
        guard = psutil.Process(agent.pid).parent()
        assert guard is not None
        os.kill(agent.process.pid, signal.SIGSTOP)  # it can do nothing
        guard.kill()
        until(lambda: not is_alive(agent.pid), "the end of the command")


every_way = pytest.mark.parametrize("way", Leftovers.WAYS)


@linux
@every_way
def test_a_keeper_killed_alone_leaves_nothing_and_no_end_is_told_before(launch: Callable[..., Run], way: str) -> None:
    with Leftovers() as leftovers:
        run = launch(leftovers.line(way))
        leftovers.await_all(way)
        begin = time.monotonic()
        for guard in keepers_of(os.getpid()):
            guard.kill()
        exit_ = run.ended()
        assert leftovers.found() == []
        assert time.monotonic() - begin < LATE_PROMISE
        assert (exit_.status, exit_.signal, exit_.how) == (None, "SIGKILL", "by itself")


@linux
def test_a_recorder_in_the_background_finishes_its_file_though_its_keeper_is_killed(
    launch: Callable[..., Run], tmp_path: Path
) -> None:
    report = tmp_path / "report"
    source = "import time\ntry:\n  print('ready', flush=True)\n  while True: time.sleep(0.1)\n"
    source += f"except KeyboardInterrupt: open({str(report)!r}, 'w')"
    wrapper = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); os.wait()"
    run = launch(python(wrapper, source))
    run.wait_for("ready")
    for guard in keepers_of(os.getpid()):
        guard.kill()
    run.ended()
    assert report.exists()


@linux
@every_way
def test_an_agent_and_its_keeper_killed_together_leave_nothing(way: str) -> None:
    with Leftovers() as leftovers, Agent(leftovers.line(way)) as agent:
        leftovers.await_all(way)
        guards = keepers_of(agent.process.pid)
        assert guards
        begin = time.monotonic()
        agent.process.send_signal(signal.SIGSTOP)  # so that it is no help
        for guard in guards:
            guard.kill()
        agent.process.kill()
        until(lambda: not leftovers.found(), "the end of what is left")
        assert time.monotonic() - begin < LATE_PROMISE


@linux
def test_a_keeper_that_is_killed_after_its_agent_leaves_nothing() -> None:
    with Leftovers() as leftovers, Agent(leftovers.line("stubborn")) as agent:
        leftovers.await_all("stubborn")
        guards = keepers_of(agent.process.pid)
        for guard in guards:
            guard.suspend()
        agent.process.kill()
        agent.process.wait(LONG)
        for guard in guards:
            guard.kill()
        until(lambda: not leftovers.found(), "the end of what is left")


@linux
@pytest.mark.parametrize("way", ["background", "setsid", "unmarked"])
def test_a_keeper_that_is_stopped_while_its_agent_is_killed_is_woken(way: str) -> None:
    """What has no mark, since it clears its environment, is found by nobody but the keeper."""
    with Leftovers() as leftovers:
        line = f"exec env -i sleep {leftovers.seconds}" if way == "unmarked" else leftovers.line(way)
        with Agent(line) as agent:
            until(leftovers.found) if way == "unmarked" else leftovers.await_all(way)
            (guard,) = keepers_of(agent.process.pid)
            with suspended(guard):
                agent.process.kill()
                agent.process.wait(LONG)
                until(lambda: not leftovers.found() and not is_alive(guard.pid), "the end of what is left")


@linux
def test_the_watcher_takes_the_place_of_a_keeper_that_cannot_go_on() -> None:
    with Leftovers() as leftovers, Agent(leftovers.line("setsid")) as agent:
        leftovers.await_all("setsid")
        (guard,) = keepers_of(agent.process.pid)
        agent.process.send_signal(signal.SIGSTOP)  # so that it is no help
        with frozen(guard):
            agent.process.kill()
            until(lambda: not leftovers.found(), "the end of what is left")
            assert is_alive(guard.pid)


@contextlib.contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """Stop a process as a debugger does: SIGCONT does not wake it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(0x4206, process.pid, 0, 0) or libc.ptrace(0x4207, process.pid, 0, 0):  # seize, interrupt
        pytest.skip("nobody may trace here")
    os.waitpid(process.pid, 0x40000000)  # __WALL
    try:
        yield
    finally:
        process.kill()
        os.waitpid(process.pid, 0x40000000)


@linux
def test_a_keeper_that_is_stopped_is_woken_by_a_stop(launch: Callable[..., Run]) -> None:
    run = launch(python(SLEEP))
    run.wait_for("ready")
    (guard,) = keepers_of(os.getpid())
    with suspended(guard):
        run.process.stop("interrupt", LONG)
        assert run.ended().how == "interrupt"


@linux
def test_whoever_ends_programs_by_name_does_not_hit_the_keeper(
    launch: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `pkill -f rigsync` does, or `pkill -f` with the recorder's name."""
    environment = tmp_path / "rigsync" / "bin"
    data = tmp_path / "rigsync-data"
    environment.mkdir(parents=True)
    data.mkdir()
    (environment / "python").symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setattr(sys, "executable", str(environment / "python"))
    shutil.copy("/bin/sleep", data / "sleep")
    names: list[str] = []
    launch([str(data / "sleep"), "600"], str(data))
    with contextlib.ExitStack() as stack:
        watcher = programs.Watcher()
        stack.callback(watcher.release)
        for found in (*keepers_of(os.getpid()), *watchers_of(os.getpid())):
            names.append(Path(f"/proc/{found.pid}/cmdline").read_bytes().rstrip(b"\0").decode())
            assert found.name() == names[-1]
    assert set(names) == {"rig-keeper", "rig-watcher"}


@posix
def test_the_command_line_of_a_keeper_has_no_path_of_rigsync_even_before_it_hides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, source = tmp_path / "rigsync-env" / "python", tmp_path / "rigsync" / "keeper.py"
    for path in (python, source):
        path.parent.mkdir()
    python.symlink_to(os.path.realpath(sys.executable))
    source.write_text("")
    monkeypatch.setattr(sys, "executable", str(python))
    with programs.begin(source, programs.KEEPER, [], environment={}, pass_fds=[]) as program:
        assert program.wait(LONG) == 0
        assert "rigsync" not in " ".join(map(str, program.args))


@posix
def test_a_terminals_interrupt_is_the_agents_alone() -> None:
    then = (
        "import fcntl, termios\n"
        "stop = threading.Event()\n"
        "def interrupted(*_):\n    say('agent was interrupted'); process.stop('terminate', 5)\n"
        "signal.signal(signal.SIGINT, interrupted)\n"
        "say('agent listens')\n"
        "while not over.wait(0.01): pass\n"
    )
    master, slave = os.openpty()
    attach = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    try:
        with Agent(python(STUBBORN, "SIGINT"), attach + then, stdin=slave, start_new_session=True) as agent:
            agent.wait_for("heard ready")
            agent.wait_for("agent listens")
            assert os.getsid(agent.pid) != os.getsid(agent.process.pid)
            os.write(master, b"\x03")
            agent.wait_for("agent was interrupted")
            assert agent.wait_for("end ") == "was terminated and ended with SIGTERM"
            assert "heard ignored 2" not in agent.lines
    finally:
        os.close(master)
        os.close(slave)


@linux
def test_a_processs_name_does_not_mislead_the_keeper(launch: Callable[..., Run], tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 1 ("
    shutil.copy("/bin/sleep", odd)
    with subprocess.Popen([str(odd), "600"], start_new_session=True) as child:
        try:
            until(lambda: (child.pid, child.pid) in keeper.descendants())
        finally:
            child.kill()


@posix
def test_a_kill_is_repeated_since_what_is_killed_may_have_started_more_meanwhile() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as child:
        kept = keeper.Keeper(child.pid, False, *os.pipe(), 0)
        try:
            kept.plan(keeper.ladder("kill", 600), 100)
            kept._step(100)
            assert child.wait(LONG) == -signal.SIGKILL
            assert 100 < kept.due["kill"] < 101
            assert kept.made == ["kill"]
        finally:
            child.kill()
            os.close(kept.connection)
            os.close(kept.output)


@posix
def test_a_command_that_hangs_while_it_is_being_started_is_killed_with_the_agent() -> None:
    source = (
        "import os, sys, time\n"
        "from rigsync.agent import keeper\n"
        "def hang(*_):\n    print(os.getpid(), flush=True)\n    time.sleep(600)\n"
        "keeper._become = hang\n"
        "keeper.main([sys.argv[1], sys.argv[1]])\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        command = [sys.executable, "-c", source, str(number)]
        options = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "pass_fds": [number]}
        with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as guard:  # type: ignore[call-overload]
            theirs.close()
            ours.sendall(keeper.order("", "", ["program"]))
            assert guard.stdout
            pid = int(guard.stdout.readline())
            assert is_alive(pid)
            ours.close()
            try:
                assert guard.wait(LONG) == 1
                until(lambda: not is_alive(pid))
            finally:
                guard.kill()


@posix
def test_a_command_that_no_thread_can_be_had_for_is_not_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("rigsync-command-"):
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    run = Run(["sleep", "1000"])
    children = psutil.Process().children(recursive=True)
    try:
        with pytest.raises(ProgramError, match=r"'sleep' was ended at once: can't start new thread"):
            run.process.start()
        assert psutil.Process().children(recursive=True) == children
        assert run.exits == []
    finally:
        run.process.stop("kill", 0)


@posix
def test_each_step_is_made_once_and_no_later_than_planned() -> None:
    kept = keeper.Keeper(0, False, *os.pipe(), 0)
    try:
        kept.plan(keeper.ladder("interrupt", 10), 100)
        assert kept.due == {"interrupt": 100, "terminate": 110, "kill": 112}
        kept.plan(keeper.ladder("interrupt", 1), 100)
        kept.plan(keeper.ladder("interrupt", 20), 100)
        assert kept.due == {"interrupt": 100, "terminate": 101, "kill": 103}
        kept.due.clear()
        kept.made.append("interrupt")
        kept.plan(keeper.ORPHANED, 100)
        assert kept.due == {"terminate": 101, "kill": 101.5}
    finally:
        os.close(kept.connection)
        os.close(kept.output)


# ------------------------------------------------------------------------------------------------------------ output


def test_a_flood_without_an_end_of_line_is_one_line(launch: Callable[..., Run]) -> None:
    source = "import os\nfor _ in range(1000): os.write(1, b'x' * 100_000)\nos.write(1, b'\\nlast\\n')"
    run = launch(python(source))
    assert run.ended().status == 0
    assert run.lines == ["x" * LONGEST_LINE + "...", "last"]
    assert run.ended().last_lines[0].startswith("xxx")
    assert len(run.ended().last_lines[0]) < 1100


def test_a_flood_that_never_ends_can_be_stopped(launch: Callable[..., Run]) -> None:
    run = launch(python("import os\nwhile True: os.write(1, b'y' * 99 + b'\\n')"))
    until(lambda: len(run.lines) > 1000)
    run.process.stop("kill", 0)
    assert run.ended().how == "kill"
    assert len(run.ended().last_lines) == 20


@pytest.mark.parametrize(("end", "most_twice"), [("\\n", 0), ("\\r\\n", 40_000)])
def test_a_command_that_prints_faster_than_anybody_reads_is_not_held_up(
    launch: Callable[..., Run], end: str, most_twice: int
) -> None:
    """It would take half a minute to make lines of all that. An end that is read in two pieces may be counted twice."""
    source = f"import os\nfor n in range(400): os.write(1, b'frame{end}' * 10_000)\nos.write(1, b'last{end}' * 3)"
    run = launch(python(source))
    exit_ = run.ended()
    said = [line for line in run.lines if line.endswith("are left out here: it prints faster than anybody reads)")]
    left_out = sum(int(line[1:].split()[0].replace(",", "")) for line in said)
    assert left_out > 3_500_000  # the end of a line costs more than its six bytes
    assert 0 <= len(run.lines) - len(said) + left_out - 4_000_003 <= most_twice
    assert set(run.lines) - set(said) <= {"frame", "last"}
    assert exit_.last_lines == ("frame",) * 17 + ("last",) * 3


def test_after_a_flood_a_command_is_heard_again(launch: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STEADY", 200_000)  # bytes a second, far below what even a busy computer prints
    source = "import os, time\nfor _ in range(200): os.write(1, (b'x' * 199 + b'\\n') * 300)\n"
    run = launch(python(source + "while True: print('after'); time.sleep(0.02)"))
    until(lambda: "after" in run.lines)
    assert any("are left out here" in line for line in run.lines)


def test_what_is_left_out_leaves_the_last_lines_whole() -> None:
    output = Output()
    output.feed(b"before\nbeg")
    lines = ["line " + "x" * (n % 50) for n in range(2000)]
    output.skip(b"un\n" + b"x" * 20_000 + b"\n" + "\n".join([*lines, "be"]).encode())
    assert output.feed(b"gun\n") == ["begun"]
    assert output.last == (*lines[1981:], "begun")
    output.skip(b"x" * 20_000 + b"\nend\n")
    assert output.last == (*lines[1982:], "begun", "end")


def test_of_lines_that_count_the_first_and_the_last_are_kept() -> None:
    output = Output()
    output.feed(b"opened\n" + b"".join(b"frame=%5d fps=%.1f\n" % (n, n / 7) for n in range(1, 40)) + b"no space left\n")
    assert output.last == ("opened", "frame=    1 fps=0.1", "frame=   39 fps=5.6", "no space left")
    output.feed(b"".join(b"warning: pts %d\nerror\n" % n for n in range(3)))
    assert output.last[4:] == ("warning: pts 0", "error", "warning: pts 1", "error", "warning: pts 2", "error")


def test_of_little_that_is_left_out_nothing_is_missing_in_the_last_lines() -> None:
    """It may be all that a command says of its end, after a flood."""
    output = Output()
    output.feed(b"flood\nbe")
    output.skip(b"gun\nno space left\n")
    output.skip(b"the disk is full\r")
    output.skip(b"\nends\n")
    assert output.last == ("flood", "begun", "no space left", "the disk is full", "ends")


def test_a_command_that_closes_its_output_lives_on(launch: Callable[..., Run], tmp_path: Path) -> None:
    go = tmp_path / "go"
    source = "import os, sys, time; print('closes'); os.close(1); os.close(2)\n"
    run = launch(python(source + "while not os.path.exists(sys.argv[1]): time.sleep(0.002)\nos._exit(4)", str(go)))
    run.wait_for("closes")
    used = psutil.Process().cpu_times()
    assert not run.over.wait(0.3)
    now = psutil.Process().cpu_times()
    assert now.user + now.system - used.user - used.system < 0.2  # nobody looks at what is closed again and again
    go.touch()
    assert run.ended().status == 4


def test_binary_output_is_no_error(launch: Callable[..., Run]) -> None:
    run = launch(python("import os; os.write(1, bytes(range(256)) * 50)"))
    exit_ = run.ended()
    assert all(line.isprintable() for line in exit_.last_lines)
    assert "".join(run.lines).count("\ufffd") > 50


def test_callbacks_run_on_the_commands_own_thread_which_ends(launch: Callable[..., Run]) -> None:
    run = launch(python("print('hello')"))
    run.ended()
    assert threading.current_thread() not in run.threads
    until(lambda: not any(thread.is_alive() for thread in run.threads), "the end of the thread")


def test_callbacks_that_fail_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> None:
        raise ValueError("from the callback")

    process = Process(python("print(1); print(2)"), folder=None, environment={}, on_line=fail, on_exit=fail)
    with caplog.at_level(logging.ERROR, "rigsync.agent"):
        process.start()
        until(lambda: len(caplog.records) == 3)
    assert process.last_lines == ("1", "2")
    assert all(record.exc_info for record in caplog.records)


def test_on_exit_may_stop() -> None:
    told: list[Exit] = []

    def end(exit_: Exit) -> None:
        process.stop("kill", 0)
        told.append(exit_)

    process = Process(python("pass"), folder=None, environment={}, on_line=print, on_exit=end)
    process.start()
    assert until(lambda: told) == [Exit(0, None, "by itself")]


@pytest.mark.parametrize(
    ("pieces", "lines", "last"),
    [
        ([b"one\ntwo\n"], ["one", "two"], ["one", "two"]),
        ([b"o", b"ne\nt", b"wo"], ["one", "two"], ["one", "two"]),
        ([b"a\r\nb\r\n"], ["a", "b"], ["a", "b"]),
        ([b"a\r", b"\nb\r", b"\n"], ["a", "b"], ["a", "b"]),
        ([b"a\n\nb\n"], ["a", "", "b"], ["a", "", "b"]),
        ([b"x\nframe=1\rframe=2\rframe=3\rend\n"], ["x", "frame=1", "frame=2", "frame=3", "end"], ["x", "end"]),
        ([b"frame=1\r", b"frame=2\r"], ["frame=1", "frame=2"], ["frame=2"]),
        ([b"\xc3", b"\xa9\n\xff\n"], ["é", "\ufffd"], ["é", "\ufffd"]),
        ([b"\x1b[31mred\n"], ["\x1b[31mred"], ["\\x1b[31mred"]),
        ([b"", b"a", b"", b"\n", b""], ["a"], ["a"]),
    ],
)
def test_output_becomes_lines(pieces: list[bytes], lines: list[str], last: list[str]) -> None:
    output = Output()
    found = [line for piece in pieces for line in output.feed(piece)] + output.end()
    assert found == lines
    assert list(output.last) == last


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", b"\n\n", b"\xc3\xa9"])), st.data())
def test_it_does_not_matter_how_output_is_cut_into_pieces(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    one, many = Output(), Output()
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    lines = [line for piece in pieces for line in many.feed(piece)] + many.end()
    assert lines == one.feed(whole) + one.end()
    assert many.last == one.last
    assert lines == [part.decode() for part in whole.splitlines()]


@pytest.mark.parametrize("size", [LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1, 10 * LONGEST_LINE])
@pytest.mark.parametrize("piece", [1, 1000, 100_000])
def test_a_long_line_is_cut(size: int, piece: int) -> None:
    output = Output()
    data = b"z" * size + b"\nnext"
    lines = [line for at in range(0, len(data), piece) for line in output.feed(data[at : at + piece])] + output.end()
    cut = "..." if size > LONGEST_LINE else ""
    assert lines == ["z" * min(size, LONGEST_LINE) + cut, "next"]


# ------------------------------------------------------------------------------------------------------------- many


@posix
def test_fifty_at_once_leave_nothing_open() -> None:
    Run(python("pass")).process.start()  # what is opened once and stays
    until(lambda: not psutil.Process().children())
    threads, before = set(threading.enumerate()), descriptors()
    runs = [Run(["sh", "-c", f"echo {number}; exit {number}"]) for number in range(50)]
    starters = [threading.Thread(target=run.process.start) for run in runs]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(LONG)
    for number, run in enumerate(runs):
        assert run.ended() == Exit(number, None, "by itself", (str(number),))
        assert run.lines == [str(number)]
    until(lambda: set(threading.enumerate()) <= threads and descriptors() <= before, "nothing left open")
    assert psutil.Process().children() == []


@posix
def test_one_of_fifty_that_ends_is_not_held_up_by_the_others(launch: Callable[..., Run]) -> None:
    """Each has its own pipes: none that another one inherits would keep them open."""
    runs = [launch(["sleep", "600"]) for _ in range(10)]
    runs[0].process.stop("kill", 0)
    assert runs[0].ended().how == "kill"
    assert not runs[1].exits


def test_a_failed_start_leaves_no_thread_and_no_child() -> None:
    for _ in range(3):
        refused(["no-such-program"])
    with contextlib.suppress(ChildProcessError):
        assert psutil.Process().children() == []


# ----------------------------------------------------------------------------------------------------------- Windows


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["prepare.bat", "2026-01-31_1_mouse"], ""),
        (["prepare.bat", "a&calc"], "'&'"),
        (["C:\\tools\\PREPARE.CMD", 'a"b'], "'\"'"),
        (["prepare.bat. ", "%PATH%"], "'%'"),
        (["prepare.exe", "a&calc"], ""),
        ("prepare.bat a & b", ""),
    ],
)
def test_a_batch_file_gets_no_argument_that_cmd_would_interpret(command: Sequence[str] | str, problem: str) -> None:
    found = batch_problem(command)
    assert (problem in found) if problem else not found


def test_errors_of_the_system_are_told() -> None:
    if sys.platform == "win32":
        pytest.skip("a limit of Linux and macOS")
    problem = refused([sys.executable, "-c", "pass", "x" * 10_000_000])
    assert os.strerror(errno.E2BIG) in problem
