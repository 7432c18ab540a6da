"""`rigsync bridge lsl` as a process of its own, and the page that shows it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Command, environment, has_ended
from processes import LONG, until

from bridges.lsl_support import recorder, stream_name
from rigsync.bridges.lsl import bridge, markers, program

PAGE = (Path(__file__).parents[2] / "docs" / "bridges.md").read_text(encoding="utf-8")
TEXT = PAGE.partition("\n## Lab Streaming Layer\n")[2]
(_, START), (_, TASK) = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
REFERENCE = "2026-11-20_1_mouse"


def started(command: Command) -> str:
    """Return the name of the stream, as the command's log tells it."""
    for _ in range(20):
        if found := re.search(r"LSL stream (\S+) has begun; all in the network can read it$", command.error_line()):
            return found[1]
    raise AssertionError(command.outcome().err)


@pytest.mark.parametrize("where", ["options", "file"])
def test_a_recorder_hears_of_the_rigs_of_the_command_until_ctrl_c(
    serve: Callable[..., Any], tmp_path: Path, where: str
) -> None:
    name, rig = stream_name(), serve("cameras")
    arguments = shlex.split(START)[1:]
    assert arguments == ["bridge", "lsl", "--name", "rig-3", "--from", "stimuli"]
    section = f"bridges: {{lsl: {{name: {name}, from: stimuli}}}}\n" if where == "file" else ""
    arguments = ["bridge"] if where == "file" else ["bridge", "lsl", "--name", name, "--from", "stimuli"]
    (tmp_path / "rigs.yaml").write_text(f"rigs:\n  cameras: {rig.uri}\n{section}", encoding="utf-8")
    with Command(arguments, tmp_path, environment(tmp_path)) as command:
        assert started(command) == name
        with recorder(name, tmp_path) as found:
            assert found.description
            rig.close()
            (lost, _), *_ = until(lambda: found.markers("LinkLost"), "the marker")
        command.interrupt()
        assert command.outcome().status == 0
    assert lost["rig"] == "cameras"
    assert "goodbye" in lost["fields"]["reason"]


def test_nothing_is_left_of_a_command_that_is_killed(serve: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "rigs.yaml").write_text(f"cameras: {serve('cameras').uri}\n", encoding="utf-8")
    arguments = ["bridge", "lsl", "--name", stream_name(), "--from", stream_name()]
    with Command(arguments, tmp_path, environment(tmp_path)) as command:
        started(command)
        (program,) = command.children()
        command.process.kill()
        until(lambda: has_ended(program), "the end of liblsl's program")


def test_the_task_of_the_page_runs(serve: Callable[..., Any], tmp_path: Path) -> None:
    rig, source, name = serve("cameras"), stream_name(), stream_name()
    text = TASK.replace("udp://127.0.0.1:11001", rig.uri).replace("stimuli", source).replace("rig-3", name)
    (tmp_path / "task.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-W", "error", "task.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LONG, check=False)
    # A busy computer gets to the first look for the other stream, which nobody has begun.
    assert re.fullmatch(
        f"(.*LSL stream '{source}' is not there yet; the bridge looks for it until it comes\n)?", done.stderr
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_page_says_is_so() -> None:
    page = " ".join(TEXT.split())
    for told in (
        f"more than {markers.MOST_TOLD:,} characters",
        f"compare the clocks within {program.COMPARING:g} s",
        f"`{bridge.NAME}` by default",
    ):
        assert told in page


NOT_INSTALLED = "raise ModuleNotFoundError(\"No module named 'pylsl'\", name='pylsl')\n"
NO_LIBRARY = "raise RuntimeError('LSL binary library file was not found. Please make sure ...')\n"


@pytest.mark.parametrize(
    ("fake", "told"),
    [
        (
            NOT_INSTALLED,
            "LSL needs pylsl, which is not installed: install the extra lsl of rigsync, or pip install pylsl",
        ),
        (NO_LIBRARY, r"pylsl finds no liblsl that works here: its wheel for \S+ \S+ has none, .*conda install"),
    ],
    ids=["not installed", "no library"],
)
def test_without_its_library_the_command_says_what_to_install(tmp_path: Path, fake: str, told: str) -> None:
    (tmp_path / "rigs.yaml").write_text("cameras: udp://127.0.0.1:11001\n", encoding="utf-8")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "pylsl.py").write_text(fake, encoding="utf-8")
    usual = environment(tmp_path)["PYTHONPATH"]
    path = f"{tmp_path / 'fake'}{';' if sys.platform == 'win32' else ':'}{usual}"
    with Command(["bridge", "lsl"], tmp_path, environment(tmp_path, PYTHONPATH=path)) as command:
        outcome = command.outcome()
    assert (outcome.status, outcome.out) == (2, "")
    assert re.fullmatch(f"Error: {told}.*\n", outcome.err)


def test_a_name_with_quotes(serve: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "rigs.yaml").write_text(f"cameras: {serve('cameras').uri}\n", encoding="utf-8")
    with Command(["bridge", "lsl", "--from", "it's"], tmp_path, environment(tmp_path)) as command:
        outcome = command.outcome()
    assert (outcome.status, outcome.out) == (2, "")
    assert 'Error: "it\'s" is no name of an LSL stream: expected up to 100 characters, no quotes\n' in outcome.err
