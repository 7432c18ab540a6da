"""The example, as a newcomer would run it: two agents with real ffmpeg, a rig in Python, a task; and what is left."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cli_programs import Command, environment, has_ended, still_there
from platforms import posix
from processes import LONG, ROOT, free_port, until

EXAMPLES = ROOT / "examples"
REFERENCE = "2026-11-20_1_mouse"
PORTS = ("11101", "11102", "11103")

pytestmark = [
    pytest.mark.skipif(not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="no ffmpeg here"),
]


class Example:
    """The example in a folder of its own, at free ports, with its rigs running."""

    def __init__(self, folder: Path):
        self.folder = folder
        ports = {port: str(free_port()) for port in PORTS}
        for path in EXAMPLES.iterdir():
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                for port, other in ports.items():
                    text = text.replace(port, other)
                (folder / path.name).write_text(text, encoding="utf-8")
        self.environment = environment(folder, PYTHONUNBUFFERED="1")
        self.agents = Command(["serve", "left.yaml", "right.yaml"], folder, self.environment)
        self.programs: list[subprocess.Popen[str]] = []
        self.python("stimulus.py")

    def python(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        with open(self.folder / f"{script}.err", "w", encoding="utf-8") as errors:
            program = subprocess.Popen(
                [sys.executable, script, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.programs.append(program)
        return program

    def errors(self, script: str) -> str:
        """Return what a program has written on its stderr."""
        return (self.folder / f"{script}.err").read_text(encoding="utf-8")

    def ffmpegs(self) -> list[psutil.Process]:
        return [child for child in self.agents.children() if "ffmpeg" in child.name()]

    def video(self, rig: str) -> float:
        """Return the seconds of a video that ffprobe can read without complaint."""
        told = subprocess.run(
            ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", f"{rig}.mp4"],
            cwd=self.folder / "data" / REFERENCE,
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stderr == ""
        return float(told.stdout)

    def log(self, rig: str) -> str:
        path = self.folder / "logs" / rig / f"{REFERENCE}.rigsync.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""  # it is written by a thread of its own

    def close(self) -> None:
        self.agents.__exit__(None, None, None)
        for program in self.programs:
            program.kill()
            program.wait()
            if program.stdout:
                program.stdout.close()


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Example]:
    example = Example(tmp_path)
    try:
        yield example
    finally:
        example.close()


def recording(example: Example, seconds: str) -> subprocess.Popen[str]:
    """Return the task once all rigs record, and both ffmpegs have written some frames."""
    task = example.python("task.py", REFERENCE, seconds)
    assert task.stdout
    assert task.stdout.readline() == f"recording {REFERENCE}\n"
    until(lambda: all(len(re.findall(r"frame=", example.log(rig))) > 2 for rig in ("left", "right")))
    return task


def test_the_task_runs_to_its_end(example: Example) -> None:
    task = example.python("task.py", REFERENCE, "3")
    told, _ = task.communicate(timeout=LONG)
    assert task.returncode == 0, example.errors("task.py")
    lines = told.splitlines()
    assert lines[:2] == [f"recording {REFERENCE}", "{'before': 1.0, 'now': 0.5}"]
    assert re.search(r"^left {.*'left.mp4': \d{4,}", told, re.MULTILINE)
    assert re.search(r"^right {.*'ffmpeg frames': \d+", told, re.MULTILINE)
    assert re.search(r"^stimulus {'trials': \d+}", told, re.MULTILINE)
    assert lines[-1] == "done"
    assert example.video("left") > 2
    assert example.video("right") > 2
    assert example.ffmpegs() == []


def test_a_task_that_is_killed_leaves_no_recorder_and_the_log_says_why(example: Example) -> None:
    task = recording(example, "1000")
    recorders = example.ffmpegs()
    assert len(recorders) == 2
    task.kill()
    task.communicate()
    until(lambda: all(has_ended(recorder) for recorder in recorders))
    assert example.agents.process.poll() is None
    for rig in ("left", "right"):
        assert example.video(rig) > 0.3
        until(lambda rig=rig: "was interrupted and ended" in example.log(rig))
        assert "has been silent for the lease of 5 s" in example.log(rig)


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_task_that_is_told_to_end_stops_the_recorders_at_once(example: Example, number: int) -> None:
    task = recording(example, "1000")
    recorders = example.ffmpegs()
    task.send_signal(number)
    task.communicate(timeout=LONG)
    assert task.returncode != 0
    assert all(has_ended(recorder) for recorder in recorders)
    error = {signal.SIGTERM: "Terminated", signal.SIGINT: "KeyboardInterrupt"}[signal.Signals(number)]
    until(lambda: f"EXPINTERRUPT of {REFERENCE}: {error}" in example.log("left"))
    assert example.video("right") > 0.3


@posix
def test_agents_that_are_killed_leave_no_recorder(example: Example) -> None:
    task = recording(example, "1000")
    everything = example.agents.children()
    example.agents.process.kill()
    example.agents.process.wait()
    assert still_there(everything, 2.0) == []  # the promise
    task.communicate(timeout=LONG)
    assert task.returncode == 1
    told = example.errors("task.py")
    assert "ExperimentError" in told
    assert re.search("^(left|right|left, right): the rig is lost", told, re.MULTILINE)  # whichever was found out first
    assert example.video("left") > 0.3


@posix
def test_a_recorder_that_dies_ends_the_task(example: Example) -> None:
    task = recording(example, "1000")
    example.ffmpegs()[0].kill()
    task.communicate(timeout=LONG)
    assert task.returncode == 1
    assert "ffmpeg was killed from outside" in example.errors("task.py")
    assert example.ffmpegs() == []
