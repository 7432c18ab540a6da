"""`rigsync run`: a command of any language as an experiment, and its exit status."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cli_programs import Command, Outcome, environment, has_ended, run_here, still_there
from live_helpers import Gate
from platforms import linux, posix
from processes import LONG, Leftovers, free_port, keepers_of, suspended, until

from rigsync import ExpStatus, Rig
from rigsync.agent.agent import Agent
from rigsync.agent.file import read_agent_file
from rigsync.cli.run import GRACE
from rigsync.runtime.signals import signals_held_back

REFERENCE = "2026-03-01_2_mouse"
VERBS = ("EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP")
WHOLE = ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]
INTERRUPTED = ["EXPINFO", "EXPINIT", "EXPSTART", "EXPINTERRUPT", "EXPCLEANUP"]


class Bench:
    """A rig, a folder with its rigs.yaml, and what the rig is told."""

    def __init__(self, folder: Path, serve: Callable[..., Rig]):
        self.folder = folder
        self.told: list[tuple[str, tuple[Any, ...]]] = []
        self.rig = serve("cameras", {verb: self._noter(verb) for verb in VERBS})
        (folder / "rigs.yaml").write_text(f"cameras: {self.rig.uri}\n")

    def _noter(self, verb: str) -> Callable[..., None]:
        return lambda *args: self.told.append((verb, args))

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.told]

    def args(self, verb: str) -> tuple[Any, ...]:
        return dict(self.told)[verb]

    def start(self, *arguments: str, ref: str = REFERENCE) -> Command:
        return Command(["run", "--ref", ref, *arguments], self.folder, environment(self.folder))

    def run(self, *arguments: str, ref: str = REFERENCE) -> Outcome:
        with self.start(*arguments, ref=ref) as command:
            return command.outcome()


@pytest.fixture
def bench(tmp_path: Path, serve: Callable[..., Rig]) -> Bench:
    return Bench(tmp_path, serve)


def python(source: str) -> list[str]:
    return ["--", sys.executable, "-c", source]


def test_status_0_ends_the_experiment(bench: Bench) -> None:
    show = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('RIGSYNC_')}))"
    outcome = bench.run("--init", '{"box": 4}', "--start", '{"stage": 2}', "--delay", "0.1", *python(show))
    assert (outcome.status, outcome.err) == (0, "")
    assert json.loads(outcome.out) == {
        "RIGSYNC_EXP_REF": REFERENCE,
        "RIGSYNC_DATE": "2026-03-01",
        "RIGSYNC_NUMBER": "2",
        "RIGSYNC_SUBJECT": "mouse",
        "RIGSYNC_SESSION_PATH": "mouse/2026-03-01/002",
        "RIGSYNC_BIDS": "sub-mouse/ses-20260301002",
        "RIGSYNC_JOURNAL": "off",  # of these tests
    }
    assert bench.verbs == WHOLE
    assert bench.args("EXPINIT") == ({"box": 4, "exp_ref": REFERENCE},)
    assert bench.args("EXPSTART") == (REFERENCE, {"stage": 2})


def test_another_status_interrupts_and_is_passed_on(bench: Bench) -> None:
    outcome = bench.run(*python("import sys; sys.exit(3)"))
    assert outcome.status == 3
    assert "ended with exit status 3: the experiment was interrupted" in outcome.err
    assert bench.verbs == INTERRUPTED
    (report,) = bench.args("EXPINTERRUPT")
    assert report["error"] == "CommandEnded"
    assert "ended with exit status 3" in report["message"]


@posix
def test_a_command_that_a_signal_ends_has_128_and_its_number(bench: Bench) -> None:
    assert bench.run(*python("import os; os.kill(os.getpid(), 9)")).status == 128 + 9
    assert bench.verbs == INTERRUPTED
    assert "was ended by signal 9" in bench.args("EXPINTERRUPT")[0]["message"]


def test_the_options_of_the_command_are_its_own(bench: Bench) -> None:
    outcome = bench.run(*python("import sys; print(sys.argv[1:])"), "--ref", "--", "a b", "$(id)", "--help")
    assert outcome.out == "['--ref', '--', 'a b', '$(id)', '--help']\n"


def test_a_reference_of_another_form_is_refused_unless_it_is_meant(bench: Bench) -> None:
    with bench.start(*python("print('runs')"), ref="mouse1") as command:
        outcome = command.outcome()
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith(
        "Error: the reference 'mouse1' has not the form yyyy-mm-dd_n_subject"
    )
    assert outcome.err.endswith("if it is meant, add --any-ref\n")
    with bench.start("--any-ref", *python("print('runs')"), ref="") as command:
        outcome = command.outcome()
    assert (outcome.status, "the reference is empty" in outcome.err) == (2, True)
    with bench.start("--any-ref", *python("print('runs')"), ref="mouse1") as command:
        outcome = command.outcome()
    assert (outcome.status, outcome.out) == (0, "runs\n")


def test_a_command_that_is_not_there_begins_nothing(bench: Bench) -> None:
    outcome = bench.run("--", "no-such-program")
    assert outcome.status == 127
    assert "no-such-program is not there" in outcome.err
    assert bench.verbs == []


@posix
def test_a_command_that_is_no_program_begins_nothing(bench: Bench) -> None:
    assert bench.run("--", "./rigs.yaml").status == 126
    assert bench.verbs == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--init", "3"], "--init takes a map"),
        (["--init", "{"], "looks like JSON"),
        (["--delay", "-1"], "-1"),
        (["--timeout", "nan"], "nan"),
        (["--to", "lasers"], "lasers"),
        (["--init", '{"exp_ref": "x"}'], "leave exp_ref out of init"),
    ],
)
def test_wrong_usage_begins_nothing(bench: Bench, arguments: list[str], text: str) -> None:
    words = ["run", "--ref", REFERENCE, *arguments, *python("print('ran')")]
    outcome = run_here(words, bench.folder, environment(bench.folder))
    assert outcome.status == 2
    assert text in outcome.err
    assert (bench.verbs, outcome.out) == ([], "")


def test_a_rig_that_fails_keeps_the_command_from_beginning(bench: Bench) -> None:
    (bench.folder / "rigs.yaml").write_text(f"cameras: {bench.rig.uri}\nephys: udp://127.0.0.1:{free_port()}\n")
    outcome = bench.run(*python("print('ran')"))
    assert outcome.status == 125
    assert outcome.out == ""
    assert "ephys: EXPINFO failed" in outcome.err


def test_a_rig_that_fails_meanwhile_is_told_and_spoils_the_end(bench: Bench) -> None:
    def fail() -> None:
        until(lambda: bench.rig.status is ExpStatus.RUNNING)
        bench.rig.interrupt("the disk is full")

    failing = threading.Thread(target=fail)
    failing.start()
    with bench.start(*python("import sys; sys.stdin.read()")) as command:
        assert "does not record" in (line := command.error_line())
        assert "the disk is full" in line
        failing.join(LONG)
        assert command.process.stdin
        command.process.stdin.close()
        outcome = command.outcome()
    assert outcome.status == 125
    assert "failed at recording" in outcome.err
    assert "the disk is full" in outcome.err


@posix
def test_a_recorder_that_ends_badly_spoils_the_end(bench: Bench) -> None:
    recorder = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit('No space left on device'));"
        "open('ready', 'w').close()\nwhile True: time.sleep(0.1)"
    )
    start = {"start": [sys.executable, "-c", recorder], "ready": {"file": "ready", "within": LONG}}
    on = {"EXPSTART": start, "EXPEND": {"stop": {"signal": "interrupt", "grace": 10}}}
    path = bench.folder / "left.yaml"
    path.write_text(yaml.safe_dump({"name": "left", "listen": "udp://127.0.0.1:0", "on": on}))
    with Agent(read_agent_file(path)) as agent:
        (bench.folder / "rigs.yaml").write_text(f"left: {agent.uri}\n")
        outcome = bench.run(*python("print('ran')"))
        assert (outcome.status, outcome.out) == (125, "ran\n")
        assert "failed at EXPEND on 1 of 1 rigs: left: EXPEND failed: EndedBadly: " in outcome.err
        assert "ended with exit status 1" in outcome.err
        assert "No space left on device" in outcome.err
        assert agent.status is ExpStatus.CONNECTED


@posix
@pytest.mark.parametrize(("handles", "verbs", "status"), [(True, WHOLE, 0), (False, INTERRUPTED, 130)])
def test_ctrl_c_is_the_commands(bench: Bench, handles: bool, verbs: list[str], status: int) -> None:
    source = "import signal, sys, time\n"
    source += f"signal.signal(signal.SIGINT, {'lambda *_: sys.exit(0)' if handles else 'signal.SIG_DFL'})\n"
    source += "print('runs', flush=True)\nwhile True: time.sleep(0.1)"  # one long sleep can miss a signal at its start
    with bench.start(*python(source)) as command:
        command.line("runs")
        for process in (*command.children(), psutil.Process(command.process.pid)):  # as a terminal does
            process.send_signal(signal.SIGINT)
        assert command.outcome().status == status
    assert bench.verbs == verbs


@posix
def test_whom_it_waits_for_and_stops_is_told(bench: Bench, gate: Gate) -> None:
    bench.rig.on("EXPINIT")(gate)
    with bench.start(*python("print('ran')")) as command:
        assert command.error_line() == "Warning: waiting for cameras: EXPINIT, 2 s"
        command.interrupt()
        assert command.error_line() == "Warning: stopping cameras: EXPINTERRUPT"
        outcome = command.outcome()
    assert (outcome.status, outcome.out) == (130, "")
    assert bench.verbs[-2:] == ["EXPINTERRUPT", "EXPCLEANUP"]


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_ends_the_command_and_interrupts(bench: Bench, name: str) -> None:
    with bench.start(*python("import time; print('runs', flush=True); time.sleep(1000)")) as command:
        command.line("runs")
        *_, child = command.children()  # the other is its keeper
        command.process.send_signal(getattr(signal, name))
        assert command.outcome().status == 128 + getattr(signal, name)
        assert has_ended(child)
    assert bench.verbs == INTERRUPTED
    assert bench.args("EXPINTERRUPT")[0]["message"] == f"{name} ended the program"


@posix
def test_a_command_that_ignores_sigterm_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('runs', flush=True)\n"
    with bench.start(*python(source + "time.sleep(1000)")) as command:
        command.line("runs")
        *_, child = command.children()  # the other is its keeper
        command.process.terminate()
        assert command.outcome().status == 128 + signal.SIGTERM
        assert has_ended(child)
    assert GRACE < LONG
    assert bench.verbs == INTERRUPTED


@posix
def test_a_second_sigterm_kills_a_command_that_ignores_the_first(bench: Bench) -> None:
    source = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
    source += "print('runs', flush=True)\nwhile True: time.sleep(1)"
    with bench.start(*python(source)) as command:
        command.line("runs")
        *_, child = command.children()  # the other is its keeper
        command.process.terminate()
        command.line("told")
        command.process.terminate()
        assert command.outcome().status == 128 + signal.SIGTERM
        assert has_ended(child)
    assert bench.verbs == INTERRUPTED


@posix
def test_a_command_that_the_system_cannot_run_has_126(bench: Bench) -> None:
    (bench.folder / "program").write_bytes(b"\x7fELF nonsense")
    (bench.folder / "program").chmod(0o700)
    outcome = bench.run("--", "./program")
    assert outcome.status == 126
    assert "program cannot be run" in outcome.err
    assert bench.verbs == INTERRUPTED


def test_a_reference_that_no_environment_can_hold_is_left_out(bench: Bench) -> None:
    bench.rig.on("EXPINFO")(lambda *_: {"exp_ref": "2026-03-01_2_a\0b", "main_sync": True})
    assert bench.run(*python("import os; print('RIGSYNC_EXP_REF' in os.environ)")).out == "False\n"


# ------------------------------------------------------------------------------------------- nothing is left running

TASK = """
import os, signal, subprocess, sys, time
def finish(*_):
    open("finished", "w").close()
    os._exit(0)
signal.signal(signal.SIGINT, finish)
stubborn = "import signal, time\\nsignal.signal(2, signal.SIG_IGN)\\n"
stubborn += "print('grandchild', flush=True); time.sleep(1000)"
subprocess.Popen([sys.executable, "-c", stubborn], start_new_session="session" in sys.argv)
while True: time.sleep(0.1)
"""


@posix
@pytest.mark.parametrize("way", [[], pytest.param(["session"], marks=linux)])
def test_killed_it_leaves_nothing_and_the_command_can_finish(bench: Bench, way: list[str]) -> None:
    task = (
        TASK if sys.platform == "linux" else TASK.replace("subprocess.Popen(", "print('grandchild', flush=True) or (")
    )
    with bench.start(*python(task), *way) as command:
        command.line("grandchild")
        family = command.children()
        command.process.kill()
        assert still_there(family, 2.0) == []  # the promise
    assert (bench.folder / "finished").exists()


@linux
def test_sigterm_ends_what_the_command_has_started_too(bench: Bench) -> None:
    line = f"{sys.executable} -c 'import time; print(0, flush=True); time.sleep(1000)'; true"
    with bench.start("--", "sh", "-c", line) as command:
        command.line("0")
        family = command.children()
        command.process.terminate()
        assert command.outcome().status == 128 + signal.SIGTERM
        assert still_there(family, 0.1) == []


@posix
def test_what_the_command_leaves_behind_by_itself_is_left(bench: Bench) -> None:
    source = "import subprocess; print(subprocess.Popen(['sleep', '1000'], stdout=2, start_new_session=True).pid)"
    with bench.start(*python(source)) as command:
        left = psutil.Process(int(command.line()))
        try:
            assert command.process.wait(LONG) == 0
            assert left.is_running()
        finally:
            left.kill()
    assert bench.verbs == WHOLE


@linux
@pytest.mark.parametrize("way", ["setsid", "unmarked"])
def test_killed_while_its_keeper_is_stopped_it_leaves_nothing(bench: Bench, way: str) -> None:
    with Leftovers() as leftovers:
        line = f"exec env -i sleep {leftovers.seconds}" if way == "unmarked" else leftovers.line(way)
        with bench.start("--", "sh", "-c", line) as command:
            until(leftovers.found) if way == "unmarked" else leftovers.await_all(way)
            (keeper,) = keepers_of(command.process.pid)
            with suspended(keeper):
                command.process.kill()
                until(lambda: not leftovers.found())


@linux
def test_a_command_whose_keeper_is_killed_is_gone_and_has_failed(bench: Bench) -> None:
    with bench.start(*python("import time; print('runs', flush=True); time.sleep(1000)")) as command:
        command.line("runs")
        keeper, child = command.children()
        keeper.kill()
        assert command.outcome().status == 128 + signal.SIGKILL
        assert still_there([child], LONG) == []
    assert bench.verbs == INTERRUPTED


@linux
@pytest.mark.parametrize("way", Leftovers.WAYS)
@pytest.mark.parametrize("together", [False, True], ids=["alone", "with rigsync run"])
def test_a_keeper_that_is_killed_leaves_nothing(bench: Bench, way: str, together: bool) -> None:
    with Leftovers() as leftovers, bench.start("--", "sh", "-c", leftovers.line(way)) as command:
        leftovers.await_all(way)
        guards = keepers_of(command.process.pid)
        assert guards
        if together:
            command.process.send_signal(signal.SIGSTOP)
        for guard in guards:
            guard.kill()
        if together:
            command.process.kill()
            until(lambda: not leftovers.found())
        else:
            assert command.process.wait(LONG) == 128 + signal.SIGKILL
            assert leftovers.found() == []
            assert bench.verbs == INTERRUPTED


@posix
def test_signals_that_were_ignored_stay_so(bench: Bench) -> None:
    source = "import signal\nfor name in 'HUP', 'INT', 'TERM', 'TSTP', 'PIPE':\n"
    source += "    print(name, signal.getsignal(getattr(signal, 'SIG' + name)).__repr__())"
    shown = "trap '' HUP INT TERM TSTP; exec \"$@\""  # as for one in the background of a script
    with Command(
        ["run", "--ref", REFERENCE, *python(source)],
        bench.folder,
        environment(bench.folder),
        before=["sh", "-c", shown, "sh"],
    ) as command:
        outcome = command.outcome()
    told = dict(line.split(" ", 1) for line in outcome.out.splitlines())
    assert [name for name, handler in told.items() if "SIG_IGN" in handler] == [*told]  # the last one: Python
    assert outcome.status == 0


@posix
def test_each_signal_that_was_held_back_takes_effect() -> None:
    """A Ctrl-C that is the command's does not keep this program from ending."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with signals_held_back():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGINT, signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
"""
AT_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: os._exit(5))
print("in front:", os.isatty(0) and os.getpgrp() == os.tcgetpgrp(0), flush=True)
while True:
    print("heard:", input(), flush=True)
"""


@posix
@pytest.mark.skipif(not shutil.which("bash"), reason="no shell with job control here")
def test_the_terminal_is_the_commands(bench: Bench) -> None:
    """What is typed, Ctrl-Z, fg and Ctrl-C reach it, through a shell with job control."""
    (bench.folder / "task.py").write_text(AT_A_TERMINAL)
    line = f"{sys.executable} -m rigsync run --ref {REFERENCE} -- {sys.executable} task.py\n"
    master, slave = os.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=bench.folder,
        env=environment(bench.folder, PS1="$ ", TERM="dumb"),
        start_new_session=True,
    )
    os.close(slave)
    seen = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            while data := os.read(master, 4096):
                seen.extend(data)

    reader = threading.Thread(target=read)
    reader.start()

    def typed(text: str, answer: str) -> None:
        begin = len(seen)
        os.write(master, text.encode())
        until(lambda: answer.encode() in seen[begin:], f"{answer!r} in {bytes(seen)!r}")

    try:
        typed(line, "in front: True")
        typed("hello\n", "heard: hello")
        stopped = [
            process for process in psutil.Process(shell.pid).children(recursive=True) if "task.py" in process.cmdline()
        ]
        typed("\x1a", "Stopped")
        assert psutil.STATUS_STOPPED in [process.status() for process in stopped]
        assert bench.rig.status is ExpStatus.RUNNING
        os.write(master, b"fg\n")
        until(lambda: psutil.STATUS_STOPPED not in [process.status() for process in stopped])
        typed("again\n", "heard: again")
        typed("\x03", "$ ")
        typed("echo status: $?\n", "status: 5")
        typed("exit\n", "exit")
        assert shell.wait(LONG) == 0
    finally:
        shell.kill()
        shell.wait()
        reader.join(LONG)
        os.close(master)
    assert bench.verbs == INTERRUPTED
