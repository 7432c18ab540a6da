"""README's commands and snippets do what README says."""

from __future__ import annotations

import importlib.util
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rigsync
from rigsync.findings import Fault
from rigsync.protocol import events

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines() if line]
SCRIPTS = [text for language, text in BLOCKS if language == "python"]
TIMEOUT = 60


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


@pytest.fixture
def ports() -> dict[str, str]:
    return {"11001": str(free_port()), "11002": str(free_port())}


@pytest.fixture
def cameras(tmp_path: Path, ports: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run cameras.py of README, on a free port."""
    script = tmp_path / "cameras.py"
    script.write_text(with_ports(SCRIPTS[0], ports), encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def with_ports(script: str, ports: dict[str, str]) -> str:
    for port, free in ports.items():
        script = script.replace(port, free)
    return script


def test_first_script_starts_and_stops_the_rig(
    cameras: subprocess.Popen[str], ports: dict[str, str], tmp_path: Path
) -> None:
    task = tmp_path / "task.py"
    task.write_text(with_ports(SCRIPTS[1], ports), encoding="utf-8")
    done = run([str(task)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2026-11-20_1_mouse 20 ['2026-11-20_1_mouse/left.mp4']\n"
    assert cameras.stdout
    assert [cameras.stdout.readline() for _ in range(2)] == ["recording 2026-11-20_1_mouse\n", "stopped\n"]


def test_partial_failure_script_prints_what_readme_says(
    cameras: subprocess.Popen[str], ports: dict[str, str], tmp_path: Path
) -> None:
    task = tmp_path / "task.py"
    task.write_text(with_ports(SCRIPTS[2], ports), encoding="utf-8")
    done = run([str(task)], tmp_path)
    printed = done.stdout.strip()
    assert printed, done.stderr
    assert f"this prints `{printed}`" in README


def test_every_script_of_readme_is_tested() -> None:
    assert len(SCRIPTS) == 3


def test_set_up_commands_are_tasks_of_run_py() -> None:
    tasks = run_py().TASKS
    named = [shlex.split(command)[2] for command in COMMANDS if command.startswith("python3 run.py")]
    assert named == ["demo", "test"]
    assert tasks["test"] == ["-m", "pytest"]
    assert tasks["demo"] == ["-m", "rigsync", "demo"]


def test_demo_command_succeeds(tmp_path: Path) -> None:
    done = run(run_py().TASKS["demo"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("rigsync ")])
def test_commands_succeed_where_the_rigs_are_up(command: str, tmp_path: Path) -> None:
    with rigsync.Rig("cameras", "udp://127.0.0.1:0") as rig:
        (tmp_path / "rigs.yaml").write_text(f"cameras: {rig.uri}\n", encoding="utf-8")
        done = run(["-m", "rigsync", *shlex.split(command)[1:]], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cameras" in done.stdout


def test_every_command_of_readme_is_tested() -> None:
    assert all(command.startswith(("python3 run.py ", "rigsync ")) for command in COMMANDS)


def test_errors_that_readme_names_exist() -> None:
    table = README.partition("## What goes wrong")[2].partition("## Figures")[0]
    named = {name for name in re.findall(r"`([A-Z]\w+)[.`]", table) if not name.startswith("EXP")} - {
        "StateError",
        "ValueError",
    }
    assert named
    assert named <= {*rigsync.__all__, *vars(events)}


def test_faults_that_readme_names_are_those_of_the_doctor() -> None:
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", README, re.MULTILINE)
    assert sorted(fault for row in rows for fault in re.findall(r"`([a-z-]+)`", row)) == sorted(Fault)


def test_links_of_readme_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_run_py_says_how_it_is_used(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_py().main(arguments) == 2
    assert "usage: python3 run.py" in capsys.readouterr().err


def run_py() -> Any:
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
