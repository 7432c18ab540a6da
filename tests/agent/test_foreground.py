"""A command in the foreground; `rigsync run` with one is in tests/test_cli_run.py, its terminal and its death too."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from platforms import posix
from processes import LONG, keepers_of, suspended, until

from rigsync.agent.foreground import Foreground


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


@pytest.fixture
def report(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "report"


@pytest.mark.parametrize("status", [0, 3, 127])
def test_its_exit_status_and_surroundings(report: Path, status: int) -> None:
    source = f"import os, sys; open({str(report)!r}, 'w').write(os.environ['RIGSYNC_EXP_REF']); sys.exit({status})"
    assert Foreground(python(source), {"RIGSYNC_EXP_REF": "mouse"}).wait() == status
    assert report.read_text() == "mouse"


@posix
def test_it_is_in_the_process_group_of_this_program(report: Path) -> None:
    Foreground(python(f"import os; open({str(report)!r}, 'w').write(str(os.getpgrp()))"), {}).wait()
    assert int(report.read_text()) == os.getpgrp()


@posix
def test_a_signal_that_ends_it_is_a_negative_status() -> None:
    assert Foreground(python("import os; os.kill(os.getpid(), 15)"), {}).wait() == -signal.SIGTERM


@posix
def test_a_signal_that_comes_before_it_runs_has_ended_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Ctrl-C does that reaches its keeper before that has begun to leave it to the command."""
    keeper = tmp_path / "keeper.py"
    keeper.write_text("import os, signal; signal.signal(2, signal.SIG_DFL); os.kill(os.getpid(), 2)")
    monkeypatch.setattr("rigsync.agent.kept_command._KEEPER", keeper)
    assert Foreground(python(""), {}).wait() == -signal.SIGINT
    keeper.write_text("raise SystemExit(3)")
    with pytest.raises(OSError, match="did not start"):
        Foreground(python(""), {})


@posix
def test_what_cannot_be_run_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Foreground([str(tmp_path / "missing")], {})
    (tmp_path / "program").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "program").chmod(0o700)
    with pytest.raises(OSError, match="format"):
        Foreground([str(tmp_path / "program")], {})


@posix
def test_one_that_ignores_its_end_is_killed(report: Path) -> None:
    source = "import os, signal, time; signal.signal(15, signal.SIG_IGN)\n"
    source += f"with open({str(report)!r}, 'w') as file: file.write(f'{{os.getpid()}}.')\ntime.sleep(1000)"
    command = Foreground(python(source), {})
    until(lambda: report.exists() and report.read_text().endswith("."))
    command.end(0.1)
    assert not psutil.pid_exists(int(report.read_text()[:-1]))


@posix
def test_a_second_signal_leaves_it_no_more_time(report: Path) -> None:
    class Second(BaseException):
        pass

    def come(*_: object) -> None:
        raise Second

    source = f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(report)!r}, 'w'); time.sleep(1000)"
    command = Foreground(python(source), {})
    until(report.exists)
    before = signal.signal(signal.SIGALRM, come)
    begun = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Second):
            command.end(LONG)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < LONG
    assert psutil.Process().children() == []


def test_it_can_be_ended(report: Path) -> None:
    command = Foreground(python(f"import time; open({str(report)!r}, 'w')\nwhile True: time.sleep(0.1)"), {})
    until(report.exists)
    command.end(10)


@posix
def test_it_can_be_ended_while_its_keeper_is_stopped(report: Path) -> None:
    command = Foreground(python(f"import time; open({str(report)!r}, 'w')\nwhile True: time.sleep(0.1)"), {})
    until(report.exists)
    (keeper,) = keepers_of(os.getpid())
    too_late = threading.Timer(LONG, keeper.kill)
    with suspended(keeper):
        too_late.start()
        command.end(10)
        is_late = too_late.finished.is_set()
        too_late.cancel()
        too_late.join()
    assert not is_late
