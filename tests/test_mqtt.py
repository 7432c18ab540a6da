"""Rigs by way of a broker of MQTT: real brokers, real rigs, other people's clients."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed here")

from brokers import Broker, LossyRelay, needs_mosquitto, running_broker
from live_helpers import came_true, in_thread, run
from processes import LONG, free_port, until

from rigsync import Rig
from rigsync.agent.agent import Agent
from rigsync.agent.file import read_agent_file
from rigsync.config.address import parse_uri
from rigsync.config.files import load_rigs
from rigsync.config.rigs import rigs_from
from rigsync.core import messages
from rigsync.core.enums import ExpStatus
from rigsync.core.events import LinkState, Notice
from rigsync.doctor.doctor import diagnose
from rigsync.doctor.findings import Fault
from rigsync.errors import ConfigError, ListenError, PushError
from rigsync.net.mqtt import RigsAtBroker, topic_name

pytestmark = needs_mosquitto
REFERENCE = "2026-11-20_1_mouse"
SECRET = "sesame!42"
Serve = Callable[..., Any]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running_broker(tmp_path) as broker:
        yield broker


@pytest.fixture
def serve_at(stack: Any) -> Serve:
    """Start a rig at an address: ``serve_at(uri, 'cameras', {'EXPSTART': function})``; it is closed after."""

    def start(uri: str, name: str = "cameras", handlers: dict[str, Callable[..., Any]] | None = None) -> Rig:
        rig = Rig(name, uri)
        for message, handler in (handlers or {}).items():
            rig.on(message)(handler)
        return stack.enter_context(rig)

    return start


def is_alive(auxiliaries: Any, name: str = "cameras") -> bool:
    return auxiliaries.views[name].link is LinkState.ALIVE


def is_lost(auxiliaries: Any, name: str = "cameras") -> bool:
    return auxiliaries.views[name].link is LinkState.LOST


def publish(broker: Broker, topic: str, data: str, *options: str) -> None:
    command = ["mosquitto_pub", "-p", str(broker.port), "-t", topic, "-m", data, *options]
    subprocess.run(command, check=True, timeout=LONG)


def picture(broker: Broker, rig: str = "cameras", *options: str) -> dict[str, Any]:
    """Return what the broker keeps of a rig."""
    command = ["mosquitto_sub", "-p", str(broker.port), "-t", f"lab/{rig}/view", "-C", "1", "-W", str(int(LONG))]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True, timeout=2 * LONG)
    with contextlib.suppress(ValueError):  # where somebody has published junk
        return dict(json.loads(done.stdout))
    return {}


# ------------------------------------------------------------------------------------------------ the same as ever


def test_pushes_notices_clocks_and_calls_go_by_way_of_a_broker(broker: Broker, serve_at: Serve, connect: Serve) -> None:
    runs: list[Any] = []
    heard: list[Notice] = []
    rigs = [serve_at(broker.uri(), name, {"EXPSTART": lambda ref, data: runs.append(ref)}) for name in ("a", "b:1")]
    auxiliaries = connect(*rigs)
    auxiliaries.hub.subscribe(Notice, heard.append)
    assert auxiliaries.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True).keys() == {"a", "b:1"}
    assert auxiliaries.push("EXPSTART", REFERENCE, wait=True)["b:1"][0] == REFERENCE
    assert runs == [REFERENCE, REFERENCE]
    rigs[1].notify("frames", {"number": 7})
    until(
        lambda: [(notice.rig, notice.body) for notice in heard if notice.topic == "frames"] == [("b:1", {"number": 7})]
    )
    until(lambda: auxiliaries.views["a"].status is ExpStatus.RUNNING)
    view = auxiliaries.views["a"]
    assert view.clock is not None
    assert abs(view.clock.offset) < 0.1
    assert view.owner == json.loads(json.dumps(os.uname().nodename[:80] if hasattr(os, "uname") else view.owner))
    assert auxiliaries.push("EXPEND", wait=True).keys() == {"a", "b:1"}


def test_one_client_serves_all_rigs_of_a_coordinator(broker: Broker, serve_at: Serve, connect: Serve) -> None:
    rigs = [serve_at(broker.uri(prefix), name) for prefix, name in (("lab", "a"), ("lab", "b"), ("other/room", "c"))]
    auxiliaries = connect(*rigs)
    until(lambda: all(is_alive(auxiliaries, name) for name in "abc"))
    until(lambda: broker.log.count("New client connected") == 4)  # one of each rig, for its last will, and one more


# --------------------------------------------------------------------------------------------- a broker that goes


def test_a_broker_that_is_killed_in_an_experiment_comes_back_and_nothing_runs_twice(
    broker: Broker, serve_at: Serve, connect: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[str] = []
    rig = serve_at(
        broker.uri(), "cameras", {verb: lambda *_, verb=verb: runs.append(verb) for verb in ("EXPSTART", "EXPEND")}
    )
    auxiliaries = connect(rig)
    auxiliaries.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True)
    auxiliaries.push("EXPSTART", REFERENCE, wait=True)
    with caplog.at_level(logging.INFO, "rigsync.mqtt"):
        broker.kill()
        ended = in_thread(auxiliaries.push, "EXPEND", wait=True, timeout=LONG)
        until(lambda: sum("connection is lost" in text for text in caplog.messages) == 2)
        assert not ended.done()
        broker.start()
        assert ended.result(LONG)["cameras"][0]["status"] == ExpStatus.STOPPED
    assert runs == ["EXPSTART", "EXPEND"]
    until(lambda: is_alive(auxiliaries))
    told = [record.getMessage() for record in caplog.records if record.name == "rigsync.mqtt"]
    assert len([text for text in told if f"127.0.0.1:{broker.port}" in text]) == len(told) == 4  # away and back, twice
    until(lambda: picture(broker).get("status") == "STOPPED")


def test_a_broker_that_stays_away_is_named_as_the_reason(
    broker: Broker, serve_at: Serve, connect: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.net.mqtt.BROKER_PATIENCE", 0.1)
    auxiliaries = connect(serve_at(broker.uri()))
    until(lambda: is_alive(auxiliaries))
    broker.kill()
    until(lambda: is_lost(auxiliaries))
    assert f"the broker mqtt://127.0.0.1:{broker.port}/lab: " in auxiliaries.views["cameras"].reason
    failed = auxiliaries.push("EXPINFO", wait=True, timeout=1.5)
    assert "check its program and its network, and the broker mqtt://" in str(failed)
    broker.start()
    until(lambda: is_alive(auxiliaries))


def test_a_rig_that_starts_before_its_broker_listens_as_soon_as_that_is_there(
    tmp_path: Path, serve_at: Serve, connect: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(tmp_path)
    rig = serve_at(broker.uri())
    assert any("will listen as soon as the broker" in text for text in caplog.messages)
    caplog.set_level(logging.INFO, "rigsync.endpoint")
    auxiliaries = connect(rig)
    assert f"rig cameras listens on {rig.uri}" not in caplog.messages
    broker.start()
    try:
        until(lambda: is_alive(auxiliaries))
        assert f"rig cameras listens on {rig.uri}" in caplog.messages
    finally:
        broker.kill()


def test_five_of_a_hundred_publications_are_lost_and_nothing_differs(
    broker: Broker, stack: Any, serve_at: Serve, connect: Serve
) -> None:
    relay = stack.enter_context(LossyRelay(broker.port, 0.05))
    runs: list[int] = []
    rigs = [serve_at(broker.uri(port=relay.port), f"rig{number}") for number in range(3)]
    for rig in rigs:
        rig.command("count")(runs.append)
    auxiliaries = connect(*rigs)
    until(lambda: all(is_alive(auxiliaries, rig.name) for rig in rigs))
    for number in range(60):
        for rig in rigs:
            auxiliaries.call(rig.name, "count", number)
    assert sorted(runs) == sorted(3 * list(range(60)))  # each once
    assert relay.lost > 5
    assert all(is_alive(auxiliaries, rig.name) for rig in rigs)


def test_only_a_probe_asks_the_broker_whether_somebody_listens(broker: Broker) -> None:
    lost: list[str] = []
    pump: Any = SimpleNamespace(lose=lambda line, reason: lost.append(reason), receive=lambda *_: None)
    request = b'{"rigsync":1,"kind":"request","boot":"00000000000000aa","n":1,"message":"EXPSTART"}'

    async def main() -> None:
        rigs = RigsAtBroker(pump, parse_uri(broker.uri()), "00000000000000aa")
        line = rigs.line("cameras", "lab")
        await came_true(lambda: rigs.client.is_connected)
        for number in (1, 2):
            line.send(None, request)
            assert not rigs.client.unsent  # it does not wait to be confirmed
            line.send(None, messages.probe("00000000000000aa", number, 0))
            await came_true(lambda number=number: len(lost) == number)
        rigs.close()

    run(main)
    assert lost[0].startswith("nobody listens on lab/cameras/in at the broker")


# ------------------------------------------------------------------------------------------------ the broker's word

RIG = """
import sys, rigsync
with rigsync.Rig("cameras", sys.argv[1]) as rig:
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def program(broker: Broker, stack: Any) -> subprocess.Popen[bytes]:
    """A rig in a process of its own."""
    command = [sys.executable, "-c", RIG, broker.uri()]
    process = stack.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n" or b"ready" in process.stdout.readline()
    return process


def test_a_killed_rig_is_lost_at_once_by_its_last_will(
    broker: Broker, program: subprocess.Popen[bytes], connect: Serve
) -> None:
    auxiliaries = connect({"cameras": broker.uri()})
    until(lambda: is_alive(auxiliaries))
    program.kill()
    until(lambda: is_lost(auxiliaries))
    assert auxiliaries.views["cameras"].reason == "the broker says that it has gone: the broker has lost its connection"
    kept = picture(broker)  # which has come before the coordinator heard of it
    assert (kept["connected"], kept["reason"]) == (False, "the broker has lost its connection")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP on Windows")
def test_a_rig_whose_connection_ended_is_not_taken_for_one_whose_program_ended(
    broker: Broker, program: subprocess.Popen[bytes], connect: Serve
) -> None:
    auxiliaries = connect({"cameras": broker.uri()})
    until(lambda: is_alive(auxiliaries))
    program.send_signal(signal.SIGSTOP)
    try:
        boot = picture(broker)["boot"]
        gone = {"rigsync": 1, "name": "cameras", "boot": boot, "connected": False, "reason": "told so"}
        publish(broker, "lab/cameras/view", json.dumps(gone), "-r")
        until(lambda: is_lost(auxiliaries))
        assert "told so" in auxiliaries.views["cameras"].reason
    finally:
        program.send_signal(signal.SIGCONT)
    until(lambda: is_alive(auxiliaries))
    until(lambda: picture(broker).get("connected"))


def test_the_broker_keeps_a_picture_of_each_rig_for_who_comes_late(
    broker: Broker, serve_at: Serve, connect: Serve
) -> None:
    rig = serve_at(broker.uri())
    kept = picture(broker)
    known = {"rigsync": 1, "name": "cameras", "connected": True, "status": "CONNECTED", "exp_ref": None}
    assert {**kept, **known} == kept
    assert re.fullmatch("[0-9a-f]{16}", kept["boot"])
    auxiliaries = connect(rig)
    auxiliaries.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True)
    auxiliaries.push("EXPSTART", REFERENCE, wait=True)
    until(lambda: picture(broker).get("status") == "RUNNING")
    assert picture(broker)["exp_ref"] == REFERENCE
    auxiliaries.push("EXPEND", wait=True)
    rig.close()
    until(lambda: picture(broker).get("reason") == "it was closed")
    assert picture(broker)["connected"] is False
    assert "goodbye" in auxiliaries.views["cameras"].reason


def test_a_rig_that_nobody_hears_is_lost_at_once_with_the_topic(broker: Broker, connect: Serve) -> None:
    auxiliaries = connect({"cameras": broker.uri("lba")})
    until(lambda: is_lost(auxiliaries))
    assert auxiliaries.views["cameras"].reason == (
        "nobody listens on lba/cameras/in at the broker; start the rig's program, or correct its name or prefix"
    )


# ----------------------------------------------------------------------------------------------------- two of a name


def test_a_second_rig_of_the_same_name_is_refused_and_the_first_goes_on(
    broker: Broker, serve_at: Serve, connect: Serve
) -> None:
    rig = serve_at(broker.uri())
    auxiliaries = connect(rig)
    until(lambda: is_alive(auxiliaries))
    with pytest.raises(ListenError, match="another program serves as rig cameras on mqtt://") as raised:
        Rig("cameras", broker.uri()).start()
    assert "stop one of the two, or give one another name" in str(raised.value)
    assert auxiliaries.push("EXPINFO", wait=True)["cameras"]
    until(lambda: picture(broker).get("connected"))


def test_of_two_rigs_of_a_name_that_meet_later_one_serves(
    tmp_path: Path, serve_at: Serve, connect: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.net.mqtt.CLAIM", 1.0)  # for the answer of the other, on a computer that is busy
    monkeypatch.setattr("rigsync.net.mqtt.CLAIM_AGAIN", 0.1)
    broker = Broker(tmp_path)
    rigs = {by: serve_at(broker.uri(), handlers={"EXPINFO": lambda *_, by=by: {"by": by}}) for by in ("one", "other")}
    broker.start()
    try:
        auxiliaries = connect(rigs["one"])
        until(lambda: is_alive(auxiliaries) and any("another program serves" in text for text in caplog.messages))

        def serving() -> Any:
            return auxiliaries.push("EXPINFO", wait=True)["cameras"][-1]["by"]

        by = serving()
        assert [serving() for _ in range(3)] == [by] * 3
        rigs.pop(by).close()
        until(lambda: any("the other program has gone" in text for text in caplog.messages) and is_alive(auxiliaries))
        assert serving() == next(iter(rigs))
        assert len([text for text in caplog.messages if "another program serves" in text]) == 1
    finally:
        broker.kill()


def test_of_two_that_both_serve_the_one_in_an_experiment_or_the_first_stays(
    broker: Broker, serve_at: Serve, connect: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.net.mqtt.CLAIM_AGAIN", 0.1)
    auxiliaries = connect(serve_at(broker.uri()))
    until(lambda: is_alive(auxiliaries))
    own = picture(broker)

    def tell(since: float, status: str) -> None:
        other = {**own, "boot": "0" * 16, "since": since, "status": status}
        publish(broker, "lab/cameras/view", json.dumps(other), "-r")

    tell(own["since"] + 9, "CONNECTED")
    until(lambda: picture(broker) == own)
    auxiliaries.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True)
    tell(own["since"] - 9, "STOPPED")
    until(lambda: picture(broker).get("boot") == own["boot"])
    assert not any("another program serves" in text for text in caplog.messages)
    tell(own["since"] - 9, "RUNNING")
    until(lambda: any("another program serves" in text for text in caplog.messages))
    until(lambda: any("the other program has gone" in text for text in caplog.messages))  # for nobody answers
    assert auxiliaries.push("EXPINFO", wait=True).keys() == {"cameras"}
    until(lambda: picture(broker).get("boot") == own["boot"])


# ------------------------------------------------------------------------------------------------------- secrets


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Broker]:
    """A broker that asks for a password, which `rig` has."""
    passwords = tmp_path / "passwords"
    passwords.write_text("", encoding="ascii")
    passwords.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "rig", SECRET], check=True, timeout=LONG)
    with running_broker(tmp_path, "allow_anonymous false", f"password_file {passwords}") as broker:
        yield broker


def test_user_and_password_come_from_address_environment_or_file_and_are_never_shown(
    locked: Broker,
    serve_at: Serve,
    connect: Serve,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    in_address = locked.uri(login=f"rig:{SECRET.replace('!', '%21')}")
    rig = serve_at(in_address, "a")
    monkeypatch.setenv("RIGSYNC_MQTT_USER", "rig")
    monkeypatch.setenv("RIGSYNC_MQTT_PASSWORD", SECRET)
    serve_at(locked.uri(), "b")
    monkeypatch.delenv("RIGSYNC_MQTT_PASSWORD")
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    file.chmod(0o600)
    monkeypatch.setenv("RIGSYNC_MQTT_PASSWORD_FILE", str(file))
    serve_at(locked.uri(), "c")
    auxiliaries = connect(dict.fromkeys("abc", in_address))
    until(lambda: all(is_alive(auxiliaries, name) for name in "abc"))
    failed = auxiliaries.push("EXPSTART", REFERENCE, wait=True)
    assert isinstance(failed, PushError)
    shown = [repr(rig), rig.uri, str(failed), repr(auxiliaries.services["a"].config), *caplog.messages]
    shown += [json.dumps(view.document()) for view in auxiliaries.views.values()]
    assert not [text for text in shown if SECRET in text or SECRET.replace("!", "%21") in text]


def test_an_agent_listens_at_a_broker_with_the_password_in_its_file(
    locked: Broker, stack: Any, connect: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text(
        f"name: cameras\nlisten: {locked.uri(login=f'rig:{SECRET}')}\non: {{EXPINIT: {{run: [python, -c, pass]}}}}\n",
        encoding="utf-8",
    )
    read = read_agent_file(file)
    assert SECRET not in f"{read!r} {read.listen}"
    stack.enter_context(Agent(read))
    auxiliaries = connect({"cameras": locked.uri(login=f"rig:{SECRET}")})
    until(lambda: is_alive(auxiliaries))


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here, which makes certificates")
def test_tls_with_a_certificate_that_is_trusted_and_with_one_that_is_not(
    tmp_path: Path, serve_at: Serve, connect: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {certificate} -subj /CN=broker"
    options = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *options], check=True, capture_output=True, timeout=LONG)
    lines = ("allow_anonymous true", f"certfile {certificate}", f"keyfile {key}")
    with running_broker(tmp_path, *lines, scheme="mqtts") as broker:
        with pytest.raises(
            ListenError, match=r"its certificate is not trusted .*name that of its authority in RIGSYNC"
        ):
            Rig("cameras", broker.uri()).start()
        monkeypatch.setenv("RIGSYNC_MQTT_CA", str(certificate))
        rig = serve_at(broker.uri(), handlers={"EXPINFO": lambda *_: {"much": 50_000 * "x"}})
        auxiliaries = connect(rig)
        for _ in range(5):  # larger than a record of TLS, of which the rest waits where no selector sees it
            assert len(auxiliaries.push("EXPINFO", wait=True)["cameras"][-1]["much"]) == 50_000
        monkeypatch.setenv("RIGSYNC_MQTT_CA", str(tmp_path / "none"))
        with pytest.raises(ConfigError, match="the files of RIGSYNC_MQTT_CA"):
            Rig("other", broker.uri()).start()


def test_no_error_of_a_file_quotes_a_password() -> None:
    for uri in (f"mqtt://rig:{SECRET}@h/a#b", f"mqtt://rig:{SECRET}@{600 * 'h'}", f"mqtt://rig:{SECRET}@h/a\tb"):
        with pytest.raises(ConfigError) as raised:
            rigs_from({"cameras": {"uri": uri, "timeout": 1}, "other": {"uri": uri}})
        assert SECRET not in str(raised.value)


def test_the_rigs_of_a_file_are_shown_without_the_password_of_its_bridge(tmp_path: Path) -> None:
    file = tmp_path / "rigs.yaml"
    address = f"mqtt://rig:{SECRET}@broker/lab"
    file.write_text(f"rigs: {{cameras: {address}}}\nbridges: {{mqtt: {{broker: {address}}}}}\n", encoding="utf-8")
    rigs = load_rigs(file)
    assert rigs.bridges["mqtt"]["broker"] == address
    assert SECRET not in repr(rigs)


@pytest.mark.parametrize("bad", ["mqtt://rig:{}@a b/lab", "mqt://rig:{}@h/lab", "mqtt://rig:{}@h/la#b", "rig:{}@h"])
def test_no_error_of_an_address_quotes_its_password(bad: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_uri(bad.format(SECRET))
    assert SECRET not in str(raised.value)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of files are others on Windows")
def test_a_password_that_others_may_read_is_refused(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET, encoding="utf-8")
    file.chmod(0o644)
    monkeypatch.setenv("RIGSYNC_MQTT_PASSWORD_FILE", str(file))
    with pytest.raises(ConfigError, match="others may read the broker's password: chmod 600"):
        Rig("cameras", broker.uri()).start()


def test_a_broker_that_refuses_the_password_is_told_once_and_let_in_later(
    locked: Broker, serve_at: Serve, connect: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.net.mqtt.BROKER_PATIENCE", 0.1)
    with pytest.raises(ListenError, match=r"rig cameras cannot listen on mqtt://[\d.:]+/lab: .*wrong user or password"):
        Rig("cameras", locked.uri(login="rig:wrong")).start()
    rig = serve_at(locked.uri(login=f"rig:{SECRET}"))
    caplog.clear()
    auxiliaries = connect({rig.name: locked.uri(login="rig:wrong")})
    until(lambda: is_lost(auxiliaries))
    assert "wrong user or password, or none; correct them" in auxiliaries.views["cameras"].reason
    assert len([text for text in caplog.messages if "wrong user or password" in text and "cameras" not in text]) == 1
    locked.kill()
    locked.configure("allow_anonymous true")
    locked.start()
    until(lambda: is_alive(auxiliaries))


def test_a_broker_that_is_full_says_so(tmp_path: Path, serve_at: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with running_broker(tmp_path, "allow_anonymous true", "max_connections 1") as broker:
        let_in = [serve_at(broker.uri(), name) for name in "ab"]  # mosquitto 2.0.11 counts to two
        serve_at(broker.uri(), "c")
        until(lambda: any("it is full" in text for text in caplog.messages))
        assert "lab/c/view" not in broker.log
        for rig in let_in:
            rig.close()
        until(lambda: "lab/c/view" in broker.log)


def test_a_port_where_no_broker_is_says_so(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    other = serve("other", scheme="tcp")
    with Rig("cameras", f"mqtt://127.0.0.1:{other.uri.rpartition(':')[2]}/lab"):
        until(lambda: any("is no MQTT broker" in text or "port of an MQTT broker" in text for text in caplog.messages))


# -------------------------------------------------------------------------------------------------------- the doctor


def faults_of(uris: dict[str, str]) -> dict[str, list[Any]]:
    return {name: list(found.findings) for name, found in diagnose(rigs_from(uris)).items()}


def test_the_doctor_looks_for_rigs_at_their_broker(broker: Broker, serve_at: Serve) -> None:
    serve_at(broker.uri(), "a")
    serve_at(broker.uri(), "b")
    found = faults_of(
        {"a": broker.uri(), "b": broker.uri(), "c": broker.uri(), "d": f"mqtt://127.0.0.1:{free_port()}/x"}
    )
    assert found["a"] == found["b"] == []
    (absent,), (away,) = found["c"], found["d"]
    assert (absent.fault, away.fault) == (Fault.BROKER, Fault.BROKER)
    assert absent.seen.startswith("nobody listens on lab/c/in at the broker")
    assert f"$ mosquitto_sub -h 127.0.0.1 -p {broker.port} -t lab/+/view -v" in absent.remedies
    assert "nothing listens there; start the broker" in away.seen


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["a/b", "cam+era", "#1", "50%", "a:b", "Käfig 2", "$SYS"])
def test_a_name_that_is_no_topic_is_escaped(name: str, broker: Broker, serve_at: Serve, connect: Serve) -> None:
    assert not set("+#/") & set(topic_name(name))
    auxiliaries = connect(serve_at(broker.uri(), name))
    assert auxiliaries.push("EXPINFO", wait=True).keys() == {name}


def test_names_that_differ_have_topics_that_differ() -> None:
    names = ["a/b", "a%2Fb", "a%252Fb", "a+b", "a%2Bb", "a#b", "a"]
    assert len({topic_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("prefix", ["a//b", "+", "a/#", "$SYS", "a b", "/a", "x" * 201, "a?b"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError):
        parse_uri(f"mqtt://broker/{prefix}")


def test_addresses_of_brokers() -> None:
    plain = parse_uri("mqtt://Broker.lab")
    assert (plain.scheme, plain.host, plain.port, plain.prefix) == ("mqtt", "broker.lab", 1883, "rigsync")
    safe = parse_uri("mqtts://u:p%40@[::1]:99/lab/room-2/")
    assert str(safe) == "mqtts://[::1]:99/lab/room-2"
    assert safe == parse_uri("mqtts://[::1]:99/lab/room-2")
    assert parse_uri("mqtts://b").port == 8883


def test_junk_on_the_topics_disturbs_nobody(
    broker: Broker, serve_at: Serve, connect: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    rig = serve_at(broker.uri())
    auxiliaries = connect(rig)
    until(lambda: is_alive(auxiliaries))
    boot = messages.sender_of(b"") or next(iter(re.findall(r"lab/cameras/out/([0-9a-f]{16})", broker.log)))
    for junk in (
        "",
        "hello",
        "[1,2]",
        "{}",
        '{"rigsync":1}',
        "[" * 5000,
        '{"rigsync":1,"kind":"x","boot":"' + "0" * 16,
    ):
        for topic in ("lab/cameras/in", f"lab/cameras/out/{boot}", "lab/cameras/view", "lab/cameras/in/x"):
            publish(broker, topic, junk)
    publish(broker, "lab/cameras/view", "not json", "-r")
    until(lambda: any("not a frame" in text for text in caplog.messages))
    assert auxiliaries.push("EXPINFO", wait=True)["cameras"]
    assert len([text for text in caplog.messages if "not a frame" in text]) == 1
    until(lambda: picture(broker).get("connected"))


def test_frames_that_are_larger_than_the_broker_admits(tmp_path: Path, serve_at: Serve, connect: Serve) -> None:
    runs: list[Any] = []

    def start(ref: str, data: Any) -> dict[str, Any]:
        runs.append(ref)
        return {"much": "x" * 5000}

    with running_broker(tmp_path, "allow_anonymous true", "max_packet_size 3000") as broker:
        auxiliaries = connect(serve_at(broker.uri(), handlers={"EXPSTART": start}))
        until(lambda: is_alive(auxiliaries))
        failed = auxiliaries.push("EXPINIT", {"exp_ref": REFERENCE, "much": "x" * 5000}, wait=True)
        assert re.search("nothing was run: the message takes [0-9,]+ bytes, of which the broker mqtt://", str(failed))
        auxiliaries.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True)
        failed = auxiliaries.push("EXPSTART", REFERENCE, wait=True)
        assert re.search("the message was run, and its answer takes [0-9,]+ bytes", str(failed))
        assert runs == [REFERENCE]


def test_the_iblutil_dialect_has_no_broker() -> None:
    with pytest.raises(ConfigError, match="no broker carries it"):
        rigs_from({"cameras": {"uri": "mqtt://broker/lab", "dialect": "iblutil"}})


def test_without_paho_it_is_said_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['paho'] = None\n"
        "import rigsync\n"
        f"rigsync.Rig('cameras', 'mqtt://127.0.0.1:{free_port()}/lab').start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG)
    assert "ConfigError: MQTT needs paho-mqtt, which is not installed: install the extra mqtt of rigsync" in done.stderr
