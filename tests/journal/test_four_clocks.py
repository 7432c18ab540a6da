"""Four computers whose clocks are minutes apart: their journals are merged into one, in the true order.

The computers are processes with false system clocks. Their monotonic clock is one, and each record has it: the truth.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from chaos.test_clocks import false_clock
from cli_programs import Command, environment
from processes import ROOT

from rigsync import Journal
from rigsync.journal.query import Record

RIGS = {"ahead": 90.0, "behind": -300.0, "right": 0.0}
REF = "2026-03-01_1_mouse"
TASK = """
    import sys, time
    from rigsync import Auxiliaries
    with Auxiliaries.from_file("rigs.yaml") as aux:
        with aux.experiment("2026-03-01_1_mouse"):
            for _ in range(2):
                for _ in range(10):
                    aux.push("EXPINFO", wait=True)
                    time.sleep(0.12)
                print("half", flush=True)
                sys.stdin.readline()
"""


WAKEFUL = """
import threading, time
time.sleep = lambda seconds: threading.Event().wait(seconds) and None
"""
"""What each program loads first. Under libfaketime sleep() fails where the monotonic clock is left alone."""


class Script(Command):
    """A program of a task, with false clocks as the environment has them."""

    def __init__(self, text: str, folder: Path, env: dict[str, str]):
        path = folder / "task.py"
        path.write_text(textwrap.dedent(text))
        super().__init__([], folder, env, before=[sys.executable, str(path)])

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def assert_in_order(records: Iterable[Record]) -> None:
    """Fail where one is before another that was earlier by more than both may be wrong."""
    latest = -1e30
    for record in records:
        assert record.bound is not None
        assert record.mono + record.bound >= latest
        latest = max(latest, record.mono - record.bound)


def test_four_computers_whose_clocks_are_minutes_apart(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    """One of them is set forwards and back while it records."""
    clocks = {name: false_clock(tmp_path / f"{name} PC", shift) for name, shift in {**RIGS, "task": -1000.0}.items()}
    journals = {name: tmp_path / f"{name} PC" / "journal.sqlite" for name in clocks}
    (tmp_path / "sitecustomize.py").write_text(WAKEFUL)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    envs = {
        name: environment(tmp_path, RIGSYNC_JOURNAL=str(journals[name]), **{**clock.env, "PYTHONPATH": path})
        for name, clock in clocks.items()
    }
    serving = {
        name: stack.enter_context(
            Command(["serve", name, "--uri", "udp://127.0.0.1:0", "--json"], tmp_path, envs[name])
        )
        for name in RIGS
    }
    uris = {name: json.loads(rig.line('{"listening"'))["listening"] for name, rig in serving.items()}
    (tmp_path / "rigs.yaml").write_text(json.dumps({"rigs": uris}))
    task = stack.enter_context(Script(TASK, tmp_path, envs["task"]))
    for shift in (900.0, -900.0):
        task.line("half")
        clocks["right"].step(shift)
        task.go_on()
    ended = task.outcome()
    assert (ended.status, ended.err) == (0, "")

    with Command(["log", "--collect", "--rigs", "rigs.yaml", "--json"], tmp_path, envs["task"]) as log:
        outcome = log.outcome()
    assert outcome.status == 0
    told = [line.partition(": ") for line in outcome.err.splitlines()]
    assert {name for name, _, what in told if what.endswith(" records")} == RIGS.keys()
    printed = [json.loads(line) for line in outcome.out.splitlines()]
    with Journal(journals["task"]) as journal:
        session = list(journal.events(journal.session(REF)))
        everything = [record for record in journal.events() if record.bound is not None]
        own = journal.session().run
    assert [record["id"] for record in printed] == [record.id for record in session]
    assert all(record.bound is not None for record in session)
    assert_in_order(session)
    assert_in_order(everything)
    assert len(everything) > len(session)
    (lead,) = {round(record.time - record.mono, 1) for record in session if record.run == own}
    for name in RIGS:
        theirs = [record for record in session if record.rig == name and record.run != own]
        statuses = [record.data["after"] for record in theirs if record.kind == "StatusChanged"]
        assert statuses == ["INITIALIZED", "RUNNING", "STOPPED", "CONNECTED"]
        # In the time of the task's computer, though the rig's own clock was minutes off.
        assert max(abs(record.time - record.mono - lead) for record in theirs) < 0.2
        assert max(record.bound or 0.0 for record in theirs) < 0.1
