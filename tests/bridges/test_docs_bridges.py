"""docs/bridges.md: its commands and snippets do what it says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pythonosc", reason="python-osc is not installed here")
pytest.importorskip("zmq", reason="pyzmq is not installed here")
pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed here")

from brokers import needs_mosquitto, running_broker
from cli_programs import Command, environment
from processes import LONG, calm, free_port, until

from bridges.test_cli_bridge import file_of_rigs, started
from rigsync import Auxiliaries
from rigsync.bridges import requests, stand_in
from rigsync.bridges.asking import MOST_UNDER_WAY
from rigsync.bridges.mqtt import bridge as mqtt_bridge
from rigsync.bridges.osc import bridge, bundles, clients, telling
from rigsync.bridges.zmq import bridge as zmq_bridge
from rigsync.bridges.zmq import carrying, history, hubs, sockets
from rigsync.cli.push import NOBODY_CONFIRMS
from rigsync.config.files import load_rigs
from rigsync.core.queries import LEAD
from rigsync.net import mqtt_client

PAGE = (Path(__file__).parents[2] / "docs" / "bridges.md").read_text(encoding="utf-8")
TEXT = PAGE.partition("\n## Lab Streaming Layer\n")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
(_, START), (_, RIGS), (_, TASK), (_, SEND), (_, HEAR), (_, HEARD), *MORE = BLOCKS
ZMQ, MQTT, PROGRAMS = MORE[:8], MORE[8:13], [text for _, text in MORE[13:]]
(_, ZMQ_START), (_, ZMQ_RIGS), (_, ASK), (_, ANSWERS), (_, _), (_, ZMQ_KEYS), (_, HUBS), (_, HUBS_TOLD) = ZMQ
(_, MQTT_START), (_, MQTT_RIGS), (_, WATCH), (_, _), (_, COMMAND) = MQTT
PORTS = ("9000", "9001", "11001", "5555", "5556")


def test_every_block_is_known() -> None:
    assert [language for language, _ in BLOCKS] == [
        *("sh", "yaml", "python", "sh", "python", "text"),
        *("sh", "yaml", "python", "text", "python", "yaml", "python", "text"),  # test_zmq_bridge runs "def events"
        *("sh", "yaml", "sh", "text", "sh"),  # test_mqtt_bridge has the access list
        *("yaml", "python", "yaml", "python"),
    ]


@pytest.fixture
def ports(serve: Callable[..., Any], told: list[str]) -> dict[str, str]:
    """The ports of the page, and free ones in their place, the last that of a rig."""
    verbs = ("EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT")
    rig = serve("cameras", {verb: (lambda *_, verb=verb: told.append(verb)) for verb in verbs})
    rig.command("focus")(lambda z: told.append(f"focus {z}"))
    found = [str(free_port()), str(free_port()), rig.uri.rpartition(":")[2]]
    found += [str(free_port(scheme="tcp")) for _ in range(2)]
    return dict(zip(PORTS, found, strict=True))


@pytest.fixture
def told() -> list[str]:
    return []


def with_ports(text: str, ports: dict[str, str]) -> str:
    return re.sub("|".join(PORTS), lambda found: ports[found[0]], text)


def script(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-W", "error", "script.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LONG, check=False)


@pytest.fixture
def running(tmp_path: Path, ports: dict[str, str]) -> Iterator[None]:
    """The first command of the page runs."""
    file_of_rigs(tmp_path, f"udp://127.0.0.1:{ports['11001']}")
    arguments = shlex.split(with_ports(START, ports))
    with Command(arguments[1:], tmp_path, environment(tmp_path)) as command:
        assert str(started(command)) == ports["9000"]
        yield
        command.interrupt()
        assert command.outcome().status == 0


@pytest.mark.usefixtures("running")
@pytest.mark.skipif(not shutil.which("oscsend"), reason="liblo-tools (oscsend) is not here")
def test_the_commands_command_the_rig(ports: dict[str, str], told: list[str]) -> None:
    for line, count in zip(with_ports(SEND, ports).splitlines(), range(1, 5), strict=True):
        subprocess.run(shlex.split(line), check=True, timeout=LONG)
        until(lambda count=count: len(told) == count)
    assert told == ["EXPINIT", "EXPSTART", "focus 2.5", "EXPEND"]


@pytest.mark.usefixtures("running")
def test_the_script_prints_what_the_page_says(ports: dict[str, str], tmp_path: Path) -> None:
    done = script(with_ports(HEAR, ports), tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", HEARD)


def test_the_task_with_a_bridge(ports: dict[str, str], tmp_path: Path, told: list[str]) -> None:
    done = script(with_ports(TASK, ports), tmp_path)
    assert (done.returncode, calm(done.stderr)) == (0, "")
    assert done.stdout == f"OSC programs send to udp://127.0.0.1:{ports['9000']}\n"
    assert told == ["EXPINIT", "EXPSTART", "EXPEND"]


def test_the_requests_are_answered_as_the_page_says(tmp_path: Path, serve: Callable[..., Any]) -> None:
    def focus(_: float) -> None:
        raise ValueError("too near")

    rig = serve("cameras", {"EXPINIT": lambda *_: None, "EXPSTART": lambda *_: None})
    rig.command("focus")(focus)
    file_of_rigs(tmp_path, rig.uri)
    ports = {port: str(free_port(scheme="tcp")) for port in ("5555", "5556")}
    arguments = shlex.split(re.sub("5555|5556", lambda found: ports[found[0]], ZMQ_START))
    with Command(arguments[1:], tmp_path, environment(tmp_path)) as command:
        until(lambda: "is asked on" in command.error_line())
        ask = ASK.replace("5555", ports["5555"])
        assert script(ask.replace("EXPSTART", "EXPINIT"), tmp_path).returncode == 0
        done = script(ask, tmp_path)
        command.interrupt()
        assert command.outcome().status == 0
    assert (done.returncode, done.stderr, done.stdout) == (0, "", ANSWERS)


def test_two_hubs_tell_each_other_what_the_page_says(tmp_path: Path) -> None:
    ports = {port: str(free_port(scheme="tcp")) for port in ("5557", "5558")}
    done = script(re.sub("5557|5558", lambda found: ports[found[0]], HUBS), tmp_path)
    # A busy computer may take longer than a sink has for its last words.
    told = [line for line in done.stderr.splitlines() if "were not taken there" not in line]
    assert (done.returncode, told, done.stdout) == (0, [], HUBS_TOLD)


def test_the_sections_of_zmq_are_good(tmp_path: Path) -> None:
    for text, curve in ((ZMQ_RIGS, None), (ZMQ_KEYS, str(tmp_path / "bridge.key_secret"))):
        (tmp_path / "rigs.yaml").write_text(text, encoding="utf-8")
        found = load_rigs(tmp_path / "rigs.yaml").bridges["zmq"]
        assert (found["curve"] and found["curve"]["secret_key"]) == curve
    assert len(found["curve"]["clients"][0]) == 40


@needs_mosquitto
def test_mosquitto_s_programs_watch_and_command_as_the_page_says(
    tmp_path: Path, serve: Callable[..., Any], told: list[str]
) -> None:
    rig = serve("cameras", {"EXPINIT": lambda *_: told.append("EXPINIT")})
    rig.command("focus")(lambda z: told.append(f"focus {z}"))
    with running_broker(tmp_path) as broker:
        here = f"127.0.0.1:{broker.port}"
        section = f"bridges: {{mqtt: {{broker: 'mqtt://{here}/other', commands: true}}}}\n"
        file_of_rigs(tmp_path, rig.uri, section)
        arguments = shlex.split(MQTT_START.replace("broker.lab", here))
        with Command(arguments[1:], tmp_path, environment(tmp_path)) as command:
            until(lambda: "takes commands" in command.error_line())
            watch = shlex.split(WATCH.replace("broker.lab", f"127.0.0.1 -p {broker.port} -C 1"))
            seen = subprocess.run(watch, capture_output=True, text=True, timeout=LONG, check=True)
            topic, _, picture = seen.stdout.partition(" ")
            assert (topic, json.loads(picture)["link"]) == ("room1/views/cameras", "alive")
            for line in COMMAND.splitlines():
                asked = shlex.split(line.replace("broker.lab", f"127.0.0.1 -p {broker.port}"))
                done = subprocess.run(asked, capture_output=True, text=True, timeout=LONG, check=True)
                assert json.loads(done.stdout)["outcomes"]["cameras"]["ok"]
            command.interrupt()
            assert command.outcome().status == 0
    assert told == ["EXPINIT", "focus 2.5"]


def test_the_section_of_mqtt_is_good(tmp_path: Path) -> None:
    (tmp_path / "rigs.yaml").write_text(MQTT_RIGS, encoding="utf-8")
    found = load_rigs(tmp_path / "rigs.yaml").bridges
    assert found == {"mqtt": {"broker": "mqtt://broker.lab/room1", "commands": False}}


def test_the_section_of_the_file_is_good(tmp_path: Path) -> None:
    (tmp_path / "rigs.yaml").write_text(RIGS, encoding="utf-8")
    found = load_rigs(tmp_path / "rigs.yaml").bridges
    assert found == {"osc": {"listen": bridge.LISTEN, "to": ("udp://127.0.0.1:9001",)}}


@pytest.mark.parametrize("number", [0, 2], ids=["OSC", "ZeroMQ"])
def test_the_programs_are_rigs(number: int, tmp_path: Path) -> None:
    port = str(free_port(scheme=("udp", "tcp")[number // 2]))
    section, program = (text.replace(("9000", "5555")[number // 2], port) for text in PROGRAMS[number : number + 2])
    (tmp_path / "rigs.yaml").write_text(section, encoding="utf-8")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL) as process:
        try:
            with Auxiliaries.from_file(tmp_path / "rigs.yaml", connect_timeout=LONG) as aux:
                assert aux.all_alive
                with aux.experiment("2026-11-20_1_mouse", init={"gain": 2.5}) as session:
                    session.check()
                assert all(not result.unconfirmed for result in session.results.values())
        finally:
            process.kill()


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    page = " ".join(TEXT.split())
    for text in (
        f"After {stand_in.AWAY_AFTER:g} s without one",
        f"leaves {1000 * LEAD:g} ms before it",
        f"exit status {NOBODY_CONFIRMS}",
        f"holds for {clients.KEPT:g} s",
        f"{clients.MOST_CLIENTS} programs may subscribe",
        f"JSON of more than {telling.MOST_TOLD:,} bytes",
        f"{MOST_UNDER_WAY} messages and commands may be under way",
        f"{bundles.MOST_WAITING:,} may wait for their instant",
        f"here beyond {sockets.WAITING:,} events",
        f"{mqtt_client.WAITING:,} messages wait, at most {mqtt_client.WAITING_BYTES >> 20} MiB",
        f"within {1.5 * mqtt_client.KEEPALIVE:g} s",
        f"JSON of more than {mqtt_bridge.MOST_TOLD >> 10} KiB, or more than the broker takes",
        f"keeps the last {history.MOST_KEPT:,}, at most {history.MOST_KEPT_BYTES >> 20} MiB",
        f"has at most {requests.LARGEST >> 20} MiB. From {sockets.CUT >> 20} MiB on",
        f"An answer has {history.MOST_AT_ONCE >> 20} MiB of events",
        f"JSON of more than {zmq_bridge.MOST_TOLD >> 10} KiB",
        f"{carrying.MOST_WAITING:,} events wait, at most {carrying.MOST_WAITING_BYTES >> 20} MiB",
        f"takes nothing for {carrying.PATIENCE:g} s",
        f"closes has {hubs.LAST_WORDS:g} s for what waits",
    ):
        assert text in page
    assert (bundles.MOST_AHEAD, zmq_bridge.BEAT) == (3600, 1.0)
    assert stand_in.PING_EVERY == 1.0
