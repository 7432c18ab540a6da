"""rigsync does its work without iblutil and NumPy, though they are installed: packages that raise stand before them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Command, environment
from processes import LONG, ROOT, calm

REFERENCE = "2026-03-01_2_mouse"
FORBIDDEN = ("iblutil", "iblrig", "numpy", "numba", "pandas", "pyarrow", "colorlog")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which the import of each of these packages ends the program, with status 99."""
    folder = tmp_path / "forbidden"
    folder.mkdir()
    for name in FORBIDDEN:
        (folder / f"{name}.py").write_text(f"import os; os.write(2, b'{name} was imported'); os._exit(99)\n")
    return environment(tmp_path, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]))


def run(program: str, env: dict[str, str]) -> Any:
    """Run a program; return what it has written as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=env, capture_output=True, text=True, timeout=2 * LONG
    )
    assert (done.returncode, calm(done.stderr)) == (0, "")
    return json.loads(done.stdout)


def test_what_is_forbidden_ends_a_program(bare: dict[str, str]) -> None:
    for name in FORBIDDEN:
        done = subprocess.run([sys.executable, "-c", f"import {name}"], env=bare, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (99, f"{name} was imported")


def test_a_rig_and_a_coordinator_do_a_whole_experiment(bare: dict[str, str]) -> None:
    program = f"""
    import json
    import rigsync
    told = []
    rig = rigsync.Rig("cameras", "udp://127.0.0.1:0")
    rig.on("EXPSTART")(lambda ref, data: told.append(ref))
    rig.command("focus")(lambda: 4.5)
    with rig, rigsync.Auxiliaries({{"cameras": rig.uri}}) as aux:
        services = aux.services
        told.append(isinstance(services, dict) or isinstance(services["cameras"], list))
        told.append(aux.call("cameras", "focus"))
        with aux.experiment("{REFERENCE}"):
            pass
    print(json.dumps(told))
    """
    assert run(program, bare) == [False, 4.5, REFERENCE]


def test_both_dialects_are_spoken(bare: dict[str, str]) -> None:
    program = f"""
    import json, socket
    import rigsync
    with rigsync.Rig("cameras", "udp://127.0.0.1:0") as rig:
        clients = {{"cameras": {{"uri": rig.uri, "dialect": "iblutil"}}}}
        with rigsync.Auxiliaries(clients) as aux:
            result = aux.request("EXPINIT", {{"exp_ref": "{REFERENCE}"}})
            print(json.dumps([aux.services["cameras"].dialect, result["cameras"][0]["exp_ref"]]))
    """
    assert run(program, bare) == ["iblutil", REFERENCE]


@pytest.fixture
def agent(tmp_path: Path, bare: dict[str, str]) -> Iterator[Path]:
    """An agent without code, which `rigsync serve FILE` runs; the folder with rigs.yaml."""
    agent = {
        "name": "cameras",
        "listen": "udp://127.0.0.1:0",
        "on": {"EXPSTART": {"run": [sys.executable, "-c", "pass"]}},
    }
    (tmp_path / "agent.yaml").write_text(json.dumps(agent))
    with Command(["serve", "agent.yaml", "--json"], tmp_path, bare) as serving:
        uri = json.loads(serving.line("{"))["listening"]
        (tmp_path / "rigs.yaml").write_text(json.dumps({"cameras": uri}))
        yield tmp_path
        serving.interrupt()
        outcome = serving.outcome()
        assert outcome.status == 0, outcome.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for one process alone")
@pytest.mark.parametrize(
    "line",
    [
        "check --json",
        "ping cameras --count 1",
        "push EXPINFO",
        f"run --ref {REFERENCE} -- {sys.executable} -c pass",
        "doctor",
        "watch --once --json",
        "schema",
        "demo --help",
    ],
    ids=lambda line: line.partition(" ")[0],
)
def test_an_agent_and_the_commands_do_their_work(agent: Path, bare: dict[str, str], line: str) -> None:
    with Command(line.split(" "), agent, bare) as command:
        outcome = command.outcome()
    assert outcome.status == 0, (outcome.out, outcome.err)


def test_the_demo_says_that_its_last_rig_is_none_of_iblutil_s(tmp_path: Path) -> None:
    program = """
    import sys
    from rigsync.cli import experiment, main
    experiment._has_iblutil = lambda: False
    sys.argv = ["rigsync", "demo", "--rigs", "2", "--loss", "0.01", "--seed", "1", "--json"]
    main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=2 * LONG,
    )
    assert done.returncode == 0, done.stderr
    assert [rig["dialect"] for rig in json.loads(done.stdout)["rigs"].values()] == ["rigsync", "rigsync"]
    assert done.stderr.splitlines() == [
        "Starting 2 rigs on this computer ...",
        "All are rigs of rigsync: a rig of iblutil needs iblutil installed.",
        "A relay loses 1% of all datagrams.",
    ]


def test_the_environment_of_run_py_without_iblutil_has_all_else_that_its_tests_need() -> None:
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    assert spec
    assert spec.loader
    task = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(task)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = {name for key in ("dependencies", "dev") for name, _ in task.listed(project, key)}
    assert named >= task.NOT_BARE
    installed = {"pyyaml", "click", "rich", "pytest", "pytest-xdist", "hypothesis", "psutil", "jsonschema"}
    assert named - task.NOT_BARE == installed
    assert dict(task.listed(project, "dev"))["types-PyYAML"] == "0"  # any will do
    assert all((ROOT / path).exists() for path in task.DRIVES_NO_IBLUTIL)
    assert task.folder_of("bare").name.endswith("-bare")
    assert not task.folder_of("test").name.endswith("-test")
