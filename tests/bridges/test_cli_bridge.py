"""`rigsync bridge`, as a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pythonosc", reason="python-osc is not installed here")
pytest.importorskip("zmq", reason="pyzmq is not installed here")
pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed here")

import zmq
from cli_programs import Command, Outcome, environment, run_here
from processes import LONG, until
from pythonosc.udp_client import SimpleUDPClient

REFERENCE = "2026-11-20_1_mouse"
NOT_THERE = 'raise ModuleNotFoundError("No module named {0!r}", name={0!r})\n'


def file_of_rigs(folder: Path, uri: str, more: str = "") -> None:
    (folder / "rigs.yaml").write_text(f"rigs:\n  cameras: {uri}\n{more}", encoding="utf-8")


def started(command: Command) -> int:
    """Return the port of the bridge, as its log tells it."""
    for _ in range(10):
        if found := re.search(r"OSC bridge listens on \S+:(\d+)$", command.error_line()):
            return int(found[1])
    raise AssertionError(command.outcome().err)


def run(folder: Path, *arguments: str, **env: str) -> Outcome:
    return run_here(["bridge", *arguments], folder, environment(folder, **env))


@pytest.mark.parametrize(
    ("arguments", "section"),
    [
        (["osc", "--listen", "udp://127.0.0.1:0"], ""),
        ([], "bridges: {osc: {listen: 'udp://127.0.0.1:0'}}\n"),
        (
            ["osc", "--listen", "udp://127.0.0.1:0", "--rigs", "rigs.yaml"],
            "bridges: {osc: {listen: 'tcp://127.0.0.1:1'}}\n",
        ),
    ],
    ids=["options", "file", "options before the file"],
)
def test_it_serves_until_ctrl_c_and_leaves_nothing_running(
    serve: Callable[..., Any], tmp_path: Path, arguments: list[str], section: str
) -> None:
    told: list[str] = []
    handlers = {verb: (lambda *_, verb=verb: told.append(verb)) for verb in ("EXPINIT", "EXPSTART", "EXPINTERRUPT")}
    file_of_rigs(tmp_path, serve("cameras", handlers).uri, section)
    with Command(["bridge", *arguments], tmp_path, environment(tmp_path)) as command:
        client = SimpleUDPClient("127.0.0.1", started(command))
        with client:
            for verb in ("EXPINIT", "EXPSTART"):
                client.send_message(f"/rigsync/push/{verb}", REFERENCE)
            until(lambda: told == ["EXPINIT", "EXPSTART"])
        command.interrupt()
        assert command.outcome().status == 0
    assert told == ["EXPINIT", "EXPSTART", "EXPINTERRUPT"]


@pytest.mark.parametrize(
    ("arguments", "section"),
    [
        (["zmq", "--pub", "tcp://127.0.0.1:0", "--rep", "tcp://127.0.0.1:0"], ""),
        ([], "bridges: {zmq: {pub: 'tcp://127.0.0.1:0', rep: 'tcp://127.0.0.1:0'}}\n"),
    ],
    ids=["options", "file"],
)
def test_zmq_serves_until_ctrl_c(serve: Callable[..., Any], tmp_path: Path, arguments: list[str], section: str) -> None:
    told: list[str] = []
    file_of_rigs(tmp_path, serve("cameras", {"EXPINIT": lambda *_: told.append("EXPINIT")}).uri, section)
    with Command(["bridge", *arguments], tmp_path, environment(tmp_path)) as command:
        found = None
        while not found:
            line = command.error_line()
            assert line, command.outcome().err
            found = re.search(r"ZeroMQ bridge publishes on tcp://127.0.0.1:\d+ and is asked on (tcp://\S+)$", line)
        with zmq.Context() as context, context.socket(zmq.REQ) as client:
            client.connect(found[1])
            client.rcvtimeo, client.linger = 1000 * int(LONG), 0
            client.send_json({"push": "EXPINIT", "args": [REFERENCE]})
            assert client.recv_json()["outcomes"]["cameras"]["ok"]
        command.interrupt()
        assert command.outcome().status == 0
    assert told == ["EXPINIT"]


def test_a_file_that_names_no_bridge(tmp_path: Path) -> None:
    file_of_rigs(tmp_path, "udp://127.0.0.1:11001")
    outcome = run(tmp_path)
    assert outcome.status == 2
    assert (
        "rigs.yaml: no bridge stands in it; write a section bridges:, or name one, as in rigsync bridge osc"
        in outcome.err
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ocs"], "Did you mean 'osc'?"),
        (["osc", "--listen", "udp:/9000"], "Error: 'udp:/9000' is not the address of an OSC program: "),
        (["osc", "--to", "udp://127.0.0.1"], "it has no port; expected udp://, tcp:// (SLIP) or tcp+length://"),
        (["--rigs", "rigs.yaml", "osc"], "write --rigs behind osc"),
        (["zmq", "--pub", "tcp:/9000"], "Error: 'tcp:/9000' is not where ZeroMQ can listen: "),
        (["mqtt"], "rigs.yaml: no broker stands in it; write --broker mqtt://host/prefix, or bridges: {mqtt: {broker:"),
        (
            ["mqtt", "--broker", "mqtt://me:secret@b/#"],
            "Error: 'mqtt://***@b/#' is not the address of an MQTT broker",
        ),
    ],
)
def test_wrong_usage(serve: Callable[..., Any], tmp_path: Path, arguments: list[str], told: str) -> None:
    file_of_rigs(tmp_path, serve("cameras").uri)
    outcome = run(tmp_path, *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert told in outcome.err


def without_the_libraries(folder: Path) -> dict[str, str]:
    """Return an environment in which python-osc and pyzmq cannot be imported."""
    (folder / "fake").mkdir()
    for name in ("pythonosc", "zmq", "paho"):
        (folder / "fake" / f"{name}.py").write_text(NOT_THERE.format(name), encoding="utf-8")
    usual = environment(folder)["PYTHONPATH"]
    return environment(folder, PYTHONPATH=f"{folder / 'fake'}{';' if sys.platform == 'win32' else ':'}{usual}")


@pytest.mark.parametrize(
    ("name", "protocol", "library"),
    [("osc", "OSC", "python-osc"), ("zmq", "ZeroMQ", "pyzmq"), ("mqtt", "MQTT", "paho-mqtt")],
    ids=["osc", "zmq", "mqtt"],
)
def test_without_its_library_the_command_says_what_to_install(
    tmp_path: Path, name: str, protocol: str, library: str
) -> None:
    file_of_rigs(tmp_path, "udp://127.0.0.1:11001")
    broker = ["--broker", "mqtt://127.0.0.1/lab"] if name == "mqtt" else []
    with Command(["bridge", name, *broker], tmp_path, without_the_libraries(tmp_path)) as command:
        outcome = command.outcome()
    assert (outcome.status, outcome.out) == (2, "")
    told = f"install the extra {name} of rigsync, or pip install {library}\n"
    assert outcome.err == f"Error: {protocol} needs {library}, which is not installed: {told}"


@pytest.mark.parametrize("arguments", [["--help"], ["bridge", "osc", "--help"], ["bridge", "mqtt", "--help"]])
def test_help_needs_no_library(tmp_path: Path, arguments: list[str]) -> None:
    with Command(arguments, tmp_path, without_the_libraries(tmp_path)) as command:
        assert command.outcome().status == 0


def test_importing_rigsync_loads_no_bridge() -> None:
    program = "import sys, rigsync; rigsync.Auxiliaries, rigsync.Coordinator, rigsync.Rig; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG, check=True)
    assert [name for name in done.stdout.split() if re.match(r"pythonosc|zmq|paho|rigsync\.bridges", name)] == []


NO_LIBLSL = "raise RuntimeError('LSL binary library file was not found. Please make sure ...')\n"


def without_liblsl(folder: Path) -> dict[str, str]:
    """Return an environment in which pylsl is there, but finds no library: a wheel that does not carry it."""
    (folder / "fake").mkdir()
    (folder / "fake" / "pylsl.py").write_text(NO_LIBLSL, encoding="utf-8")
    usual = environment(folder)["PYTHONPATH"]
    return environment(folder, PYTHONPATH=f"{folder / 'fake'}{';' if sys.platform == 'win32' else ':'}{usual}")


def test_the_doctor_names_what_the_bridges_of_a_file_lack(serve: Callable[..., Any], tmp_path: Path) -> None:
    text = f"rigs:\n  cameras: {serve('cameras').uri}\nbridges:\n  osc: {{}}\n  lsl: {{}}\n"
    (tmp_path / "rigs.yaml").write_text(text, encoding="utf-8")
    env = without_liblsl(tmp_path)
    with Command(["doctor"], tmp_path, env) as command:
        outcome = command.outcome()
    told = " ".join(outcome.out.split())
    assert outcome.status == 1
    assert "cameras (127.0.0.1" in told
    assert re.search(
        r"bridge lsl: library seen: pylsl finds no liblsl that works here: its wheel for \S+ \S+ has none, or it is "
        r"too old for this system that is: rigsync bridge lsl, .* cannot start on this computer; the rigs work what to "
        r"do: conda install -c conda-forge liblsl, or set PYLSL_LIB to its file 1 bridge without a library$",
        told,
    )
    with Command(["doctor", "--json"], tmp_path, env) as command:
        outcome = command.outcome()
    found = json.loads(outcome.out)
    assert (outcome.status, found["rigs"]["cameras"]["findings"]) == (1, [])
    assert [each["fault"] for each in found["bridges"]["lsl"]["findings"]] == ["library"]
    assert found["bridges"]["osc"] == {"findings": []}
    with Command(["doctor"], tmp_path, environment(tmp_path)) as command:
        assert command.outcome().out.endswith("\nall is well\n")


def test_the_doctor_names_what_the_bridges_of_an_agents_file_lack(tmp_path: Path) -> None:
    text = "name: left\nlisten: udp://127.0.0.1:0\non: {EXPSTART: {run: sleep 0}}\nbridges:\n  lsl: {}\n"
    (tmp_path / "left.yaml").write_text(text, encoding="utf-8")
    with Command(["doctor", "left.yaml"], tmp_path, without_liblsl(tmp_path)) as command:
        outcome = command.outcome()
    assert (outcome.status, "bridge lsl: library" in outcome.out, outcome.err) == (1, True, "")
    with Command(["doctor", "left.yaml"], tmp_path, environment(tmp_path)) as command:
        outcome = command.outcome()
    assert (outcome.status, outcome.out.strip()) == (0, "all is well")
