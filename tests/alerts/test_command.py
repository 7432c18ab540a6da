"""Commands that are told: real ones, also such as never end, and leave children behind."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from cli_programs import still_there
from platforms import posix
from processes import LONG, until

from alerts.test_texts import values
from rigsync.alerts.command import problem_with, tell
from rigsync.alerts.limits import Limit, NotSent
from rigsync.config.alerts import Hook


def python(folder: Path, script: str, *words: str) -> Hook:
    return Hook((sys.executable, "-c", script, *words), str(folder))


def refusal(hook: Hook, limit: Limit | None = None) -> str:
    with pytest.raises(NotSent) as caught:
        tell(hook, values(), limit or Limit(LONG))
    return str(caught.value)


def test_it_runs_in_the_folder_of_the_file(tmp_path: Path) -> None:
    tell(python(tmp_path, "open('told', 'w').write('x')"), values(), Limit(LONG))
    assert (tmp_path / "told").read_text() == "x"


@posix
def test_a_relative_program_is_that_of_the_file_s_folder(tmp_path: Path) -> None:
    program = tmp_path / "tell.sh"
    program.write_text("#!/bin/sh\necho done > told\n")
    program.chmod(0o755)
    tell(Hook(("./tell.sh",), str(tmp_path)), values(), Limit(LONG))
    assert (tmp_path / "told").exists()


def test_one_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    script = "import sys; print('x' * 100_000); print('no such user\\x1b[2J', file=sys.stderr); sys.exit(3)"
    told = refusal(python(tmp_path, script))
    assert told.endswith("ended with exit status 3; its last line: no such user\\x1b[2J")


def test_one_that_is_not_there_or_cannot_run(tmp_path: Path) -> None:
    assert "'nothing-of-the-kind' is not on this computer" in refusal(Hook(("nothing-of-the-kind",), str(tmp_path)))
    assert "is not on this computer" in str(problem_with(Hook(("./nothing",), str(tmp_path))))
    assert problem_with(Hook((sys.executable,), str(tmp_path))) is None
    assert "cannot be started" in refusal(python(tmp_path / "gone", "pass"))


CHILDREN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
children = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
pathlib.Path("pids").write_text(" ".join(str(child.pid) for child in children))
"""


def children_of(folder: Path) -> list[psutil.Process]:
    until(lambda: (folder / "pids").exists() and len((folder / "pids").read_text().split()) == 2)
    return [psutil.Process(int(pid)) for pid in (folder / "pids").read_text().split()]


def test_one_that_never_ends_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    hook, limit = python(tmp_path, f"{CHILDREN}\ntime.sleep(1000)"), Limit(LONG)
    children: list[psutil.Process] = []
    cutting = threading.Thread(target=lambda: (children.extend(children_of(tmp_path)), limit.cut()))
    cutting.start()
    begun = time.monotonic()
    told = refusal(hook, limit)
    cutting.join()
    assert time.monotonic() - begun < LONG
    assert "did not end within" in told
    assert len(children) == 2
    assert still_there(children, LONG) == []


def test_its_time_is_limited(tmp_path: Path) -> None:
    begun = time.monotonic()
    told = refusal(python(tmp_path, "import time; print('asking', flush=True); time.sleep(1000)"), Limit(1.5))
    assert time.monotonic() - begun < 10
    assert told.endswith("did not end within 1.5 s, and was ended; its last line: asking")


def test_what_one_that_has_ended_leaves_is_ended(tmp_path: Path) -> None:
    tell(python(tmp_path, CHILDREN), values(), Limit(LONG))
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert still_there([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], LONG) == []


def test_output_without_end_is_no_obstacle(tmp_path: Path) -> None:
    begun = time.monotonic()
    refusal(python(tmp_path, "while True: print('x' * 1000)"), Limit(1.0))
    assert time.monotonic() - begun < 10
