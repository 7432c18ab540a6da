"""The MQTT bridge with a real broker, mosquitto, and its own programs as clients; real rigs behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed here")

from brokers import Broker, needs_mosquitto, running_broker
from live_helpers import Gate, Lab, in_thread, run
from processes import LONG, until

from bridges.subscribers import Subscriber, kept, publish
from rigsync import Coordinator, events
from rigsync.bridges.mqtt import MqttBridge
from rigsync.bridges.mqtt import bridge as bridge_module
from rigsync.core.timing import Timing
from rigsync.errors import ConfigError
from rigsync.net import mqtt_client

pytestmark = needs_mosquitto
REFERENCE = "2026-11-20_1_mouse"
Lick = events.define("LickOfTheMqttTest")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "PAUSE", 0.05)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running_broker(tmp_path) as broker:
        yield broker


@pytest.fixture
def lab(serve: Callable[..., Any]) -> Lab:
    return Lab(serve)


@pytest.fixture
def bridged(connect: Callable[..., Any], stack: contextlib.ExitStack) -> Callable[..., MqttBridge]:
    """Connect to rigs, and enter a bridge."""

    def start(uri: str, *rigs: Any, **options: Any) -> MqttBridge:
        return stack.enter_context(MqttBridge(connect(*rigs), uri, **options))

    return start


@pytest.fixture
def hears(stack: contextlib.ExitStack) -> Callable[..., Subscriber]:
    """Start a subscriber, which hears what is published from now on: it has heard of the bridge."""

    def start(broker: Broker, *topics: str) -> Subscriber:
        sub = stack.enter_context(Subscriber(broker, "lab/bridges/#", *topics))
        until(lambda: sub.of("lab/bridges/"))
        return sub

    return start


# ---------------------------------------------------------------------------------------------------------- events


def test_a_subscriber_in_another_process_hears_every_event_in_order(
    broker: Broker, lab: Lab, bridged: Callable[..., MqttBridge], hears: Callable[..., Subscriber]
) -> None:
    bridge = bridged(broker.uri(), lab.rig("cameras:left"), lab.rig("ephys"))
    sub = hears(broker, "lab/events/#")
    for number in range(1000):
        bridge.lab.hub.ingest(Lick(number, rig="cameras:left" if number % 2 else None))
    bridge.lab.hub.ingest(Lick(["x" * 70_000], rig="+/#%\0"))
    until(lambda: sub.of("lab/events/LickOfTheMqttTest/%2B"))
    numbers = [told["sequence"] for told in sub.of("lab/events/")]
    assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    licks = [(topic, told) for topic, told in sub.heard if "Lick" in topic]
    assert [told["fields"].get("payload") for _, told in licks] == [*range(1000), None]
    assert [topic for topic, _ in licks[:2]] == [
        "lab/events/LickOfTheMqttTest",
        "lab/events/LickOfTheMqttTest/cameras:left",
    ]
    topic, last = licks[-1]
    assert topic == r"lab/events/LickOfTheMqttTest/%2B%2F%23%25\x00"
    assert (last["rig"], last["fields"]) == ("+/#%\0", {"left_out": ["payload"]})
    assert last["from"]["host"] == socket.gethostname()
    assert f"pid {os.getpid()}" in last["from"]["program"]
    assert bridge.counts.total() == 0


def test_what_is_larger_than_the_broker_takes_is_told_without_its_large_parts(
    tmp_path: Path, lab: Lab, bridged: Callable[..., MqttBridge], stack: contextlib.ExitStack, caplog: Any
) -> None:
    broker = stack.enter_context(running_broker(tmp_path, "allow_anonymous true", "max_packet_size 1200"))
    rig = lab.rig("cameras")
    rig.command("picture")(lambda: "x" * 1500)
    bridge = bridged(broker.uri(), rig, commands=True)
    with Subscriber(broker, "lab/#") as sub:
        until(lambda: sub.of("lab/views/cameras"))
        bridge.lab.hub.ingest(Lick(["x" * 1500], rig="cameras"))
        until(lambda: sub.of("lab/events/Lick"))
    assert sub.of("lab/events/Lick")[0]["fields"] == {"left_out": ["payload"]}
    assert bridge.counts.total() == 0
    found = asked(broker, "lab/call/picture", '{"rigs": "cameras"}')
    assert found == {
        "error": "the outcome is known, but its answer is too large for the broker, or too much waits for it"
    }
    until(lambda: "is left out: the broker takes at most 1,200 in a packet" in caplog.text)


def test_a_facility_tells_coordinators_apart(
    broker: Broker, lab: Lab, bridged: Callable[..., MqttBridge], hears: Callable[..., Subscriber]
) -> None:
    bridges = [bridged(broker.uri(), lab.rig(name)) for name in ("cameras", "ephys")]
    sub = hears(broker, "lab/events/LickOfTheMqttTest/#")
    for bridge in bridges:
        bridge.lab.hub.ingest(Lick(1))
    until(lambda: len(sub.of("lab/events/")) == 2)
    runs = [told["from"]["run"] for told in sub.of("lab/events/")]
    until(lambda: len(sub.of("lab/bridges/")) == 2)
    rigs = {told["run"]: told["rigs"] for told in sub.of("lab/bridges/")}
    assert sorted(rigs[run] for run in runs) == [["cameras"], ["ephys"]]


# -------------------------------------------------------------------------------------------------------- pictures


def test_who_comes_late_has_the_picture_of_each_rig_at_once_until_the_bridge_ends(
    broker: Broker, lab: Lab, connect: Callable[..., Any], hears: Callable[..., Subscriber]
) -> None:
    aux = connect(lab.rig("cameras/left"), lab.rig("ephys"))
    with MqttBridge(aux, broker.uri()):
        sub = hears(broker, "lab/views/#")
        aux.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True)
        until(lambda: any(told["status"] == "INITIALIZED" for told in sub.of("lab/views/ephys")))
        late = kept(broker, "lab/views/#")
        assert {topic: (told["rig"], told["link"]) for topic, told in late.items()} == {
            "lab/views/cameras%2Fleft": ("cameras/left", "alive"),
            "lab/views/ephys": ("ephys", "alive"),
        }
        (run,) = {told["from"]["run"] for told in late.values()}
        assert [*kept(broker, "lab/bridges/#")] == [f"lab/bridges/{run}"]
    assert kept(broker, "lab/#") == {}
    until(lambda: sub.heard[-1] == (f"lab/bridges/{run}", None))
    assert sub.of("lab/views/ephys")[-1] is None


def test_a_picture_is_told_again_only_where_something_is_new_or_after_a_while(
    broker: Broker,
    lab: Lab,
    connect: Callable[..., Any],
    stack: contextlib.ExitStack,
    hears: Callable[..., Subscriber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aux = connect(lab.rig("cameras"), timing=Timing(beat=0.1))
    bridge = stack.enter_context(MqttBridge(aux, broker.uri()))
    sub = hears(broker, "lab/#")
    until(lambda: len(sub.of("lab/events/ProbeAnswered/cameras")) >= 10)
    aux.push("EXPINIT", REFERENCE, wait=True)
    until(lambda: any(told["status"] == "INITIALIZED" for told in sub.of("lab/views/cameras")))
    changing = ("time", "heard", "round_trip_ms", "clock", "loss")
    told = [{**picture, **dict.fromkeys(changing)} for picture in sub.of("lab/views/cameras")]
    assert all(one != other for one, other in pairwise(told))
    monkeypatch.setattr(bridge_module, "RENEWED", 0.0)
    until(lambda: len(sub.of("lab/views/cameras")) >= len(told) + 3)
    assert bridge.counts.total() == 0


# ------------------------------------------------------------------------------------------------- the broker's part


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_what_happens_while_the_broker_is_away_comes_when_it_is_back(
    tmp_path: Path,
    lab: Lab,
    bridged: Callable[..., MqttBridge],
    stack: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saves = ("persistence true", f"persistence_location {tmp_path}/")
    broker = stack.enter_context(running_broker(tmp_path, "allow_anonymous true", *saves))
    bridge = bridged(broker.uri(), lab.rig("cameras"))
    keeps = ("-c", "-i", "facility")  # mosquitto keeps for it what comes while it is away
    with Subscriber(broker, "lab/#", options=keeps) as sub:
        until(lambda: sub.of("lab/views/cameras"))
    assert broker._process
    broker._process.terminate()  # upon which it saves what it keeps
    broker._process.wait(LONG)
    until(lambda: not bridge._client.is_connected)
    for number in range(200):
        bridge.lab.hub.ingest(Lick(number))
    client, flush, leave = bridge._client, bridge._client._flush, [0]

    def counted() -> None:
        before = len(client._outbox)
        flush()
        leave.append(before - len(client._outbox))

    monkeypatch.setattr(client, "_flush", counted)
    broker.start()
    until(lambda: bridge._client.is_connected)
    bridge.lab.hub.ingest(Lick(200))
    with Subscriber(broker, "lab/#", options=keeps) as sub:
        until(lambda: any(told["fields"]["payload"] == 200 for told in sub.of("lab/events/Lick")))
        assert [told["fields"]["payload"] for told in sub.of("lab/events/Lick")] == [*range(201)]
        until(lambda: sub.of("lab/views/cameras"))
    assert [*kept(broker, "lab/views/#")] == ["lab/views/cameras"]
    assert bridge.counts["left out"] == 0
    assert max(leave) <= mqtt_client.AT_ONCE  # between two turns of the rigs' loop


def test_a_broker_that_is_killed_and_started_anew_has_the_pictures_again_and_that_is_told_once(
    broker: Broker, lab: Lab, bridged: Callable[..., MqttBridge], caplog: Any
) -> None:
    cameras, ephys = lab.rig("cameras"), lab.rig("ephys")
    bridge = bridged(broker.uri(), cameras, ephys)
    ephys.close()  # nothing more is heard of it
    until(lambda: kept(broker, "lab/#").get("lab/views/ephys", {}).get("link") == "lost")
    broker.kill()
    until(lambda: bridge.counts["broker"])
    broker.start()
    until(lambda: len(kept(broker, "lab/#")) == 3)
    (told,) = (text for text in warnings(caplog) if "broker" in text)
    assert told == f"the broker {broker.uri()}: the connection is lost; look whether it runs"


CONNACK = b"\x20\x03\0\0\0"


def test_a_broker_that_lets_go_as_soon_as_it_is_there_is_tried_again(
    lab: Lab, bridged: Callable[..., MqttBridge], caplog: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LONG)
        port = listening.getsockname()[1]
        bridge = bridged(f"mqtt://127.0.0.1:{port}/lab", lab.rig("cameras"))
        for _ in range(3):
            with listening.accept()[0] as connection:
                assert connection.recv(1000)[:1] == b"\x10"  # CONNECT
                connection.sendall(CONNACK)
    until(lambda: bridge.counts["broker"])
    assert set(warnings(caplog)) == {
        f"the broker mqtt://127.0.0.1:{port}/lab: the connection is lost; look whether it runs"
    }


def test_what_waits_for_the_broker_has_a_bound_and_what_is_left_out_is_counted_and_told(
    tmp_path: Path,
    lab: Lab,
    bridged: Callable[..., MqttBridge],
    stack: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
) -> None:
    monkeypatch.setattr(mqtt_client, "WAITING", 50)
    broker = Broker(tmp_path)
    bridge = bridged(broker.uri(), lab.rig("cameras"))  # it opens without a broker
    for number in range(200):
        bridge.lab.hub.ingest(Lick(number))
    until(lambda: bridge.counts["left out"] >= 150)
    told = [text for text in warnings(caplog) if "left out" in text]
    assert len(told) == 1
    assert "50 messages wait for the broker, which takes no more" in told[0]
    stack.callback(broker.kill)
    broker.start()
    until(lambda: "lab/views/cameras" in kept(broker, "lab/#"))
    with Subscriber(broker, "lab/events/LickOfTheMqttTest") as sub:
        until(lambda: bridge.lab.hub.ingest(Lick("here again")) or sub.of("lab/events/"))
        assert sub.of("lab/events/")[0]["sequence"] > 200


KILLED = """
import sys, time
from rigsync import Auxiliaries
from rigsync.bridges.mqtt import MqttBridge
with Auxiliaries({"cameras": sys.argv[1]}) as aux, MqttBridge(aux, sys.argv[2]):
    print("here", flush=True)
    sys.stdin.read()
"""


def test_the_pictures_of_a_bridge_that_is_killed_are_marked_as_no_longer_kept(
    broker: Broker, lab: Lab, hears: Callable[..., Subscriber]
) -> None:
    command = [sys.executable, "-c", KILLED, lab.rig("cameras").uri, broker.uri()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            sub = hears(broker, "lab/views/#")
            until(lambda: sub.of("lab/views/cameras"))
            assert [*kept(broker, "lab/bridges/#")] == [f"lab/bridges/{sub.of('lab/views/')[0]['from']['run']}"]
        finally:
            process.kill()
    until(lambda: sub.of("lab/bridges/")[-1] is None)  # the last will
    assert kept(broker, "lab/bridges/#") == {}
    assert [*kept(broker, "lab/views/#")] == ["lab/views/cameras"]


# -------------------------------------------------------------------------------------------------------- commands


def asked(broker: Broker, topic: str, text: str = "", *options: str) -> Any:
    """Ask by mosquitto_rr, and return the answer."""
    command = ["mosquitto_rr", "-p", str(broker.port), "-t", topic, "-m", text, "-e", "lab/answers/task", "-W", "20"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=LONG, check=False)
    return json.loads(done.stdout)


def test_what_is_asked_by_mqtt_is_done_and_answered(
    broker: Broker, lab: Lab, bridged: Callable[..., MqttBridge], caplog: Any
) -> None:
    rig = lab.rig("cameras")
    rig.command("focus")(lambda z: {"z": z})
    bridge = bridged(broker.uri(), rig, lab.rig("ephys"), commands=True)
    assert f"takes commands on lab/push/+ and lab/call/+ at {broker.uri()}: whoever may publish there" in caplog.text
    until(lambda: kept(broker, "lab/bridges/#"))
    found = asked(broker, "lab/push/EXPINIT", json.dumps({"args": [REFERENCE], "rigs": "cam*", "timeout": 20}))
    assert {name: outcome["ok"] for name, outcome in found["outcomes"].items()} == {"cameras": True}
    assert lab.verbs("cameras") == ["EXPINIT"]
    found = asked(broker, "lab/call/focus", json.dumps({"args": [3], "rigs": "cameras"}))
    assert found["outcomes"]["cameras"] == {"ok": True, "answer": {"z": 3}}
    publish(broker, "lab/push/EXPINFO", "")  # which wants no answer
    until(lambda: "EXPINFO" in lab.verbs("ephys"))
    assert bridge.counts.total() == 0


def test_what_is_asked_wrongly_is_refused_and_the_next_good_one_works(
    broker: Broker, lab: Lab, bridged: Callable[..., MqttBridge], caplog: Any
) -> None:
    publish(broker, "lab/push/EXPSTART", "{}", "-r")
    bridge = bridged(broker.uri(), lab.rig("cameras"), commands=True)
    until(lambda: "lab/push/EXPSTART is retained, and would be done again and again" in caplog.text)
    wrong = [
        ("push/EXPSTRT", "", "there is no message 'EXPSTRT'; did you mean 'EXPSTART'?"),
        ("push/EXPINFO", "{", "is not JSON"),
        ("push/EXPINFO", "[]", "a request is a JSON object"),
        ("push/EXPINFO", '{"call": "focus"}', "a request has one of push, call, views, snapshot, not push, call"),
        ("push/EXPINFO", '{"rigs": "laser"}', "no rig matches 'laser'"),
        ("call/focus", "{}", "a call names its rigs"),
    ]
    for topic, text, told in wrong:
        assert told in asked(broker, f"lab/{topic}", text)["error"]
    publish(broker, "lab/push/EXPINFO", "", "-V", "5", "-D", "publish", "response-topic", "rigs/cameras/in")
    until(lambda: bridge.counts["refused"] == 2 + len(wrong))
    assert asked(broker, "lab/push/EXPINFO")["outcomes"]["cameras"]["ok"]
    assert lab.verbs("cameras") == ["EXPINFO"]


def test_an_answer_that_is_awaited_while_the_bridge_closes(
    broker: Broker, lab: Lab, connect: Callable[..., Any], gate: Gate
) -> None:
    aux = connect(lab.rig("cameras", {"EXPINFO": gate}))
    with MqttBridge(aux, broker.uri(), commands=True) as bridge:
        until(lambda: bridge._client.is_connected)
        answer = in_thread(asked, broker, "lab/push/EXPINFO")
        assert gate.reached.wait(LONG)
    assert answer.result(LONG) == {"error": "the bridge closes before the outcome is known"}


def test_nobody_commands_where_that_is_not_turned_on(
    broker: Broker, lab: Lab, bridged: Callable[..., MqttBridge]
) -> None:
    bridge = bridged(broker.uri(), lab.rig("cameras"))
    with Subscriber(broker, "lab/#") as sub:
        until(lambda: sub.of("lab/views/"))
        publish(broker, "lab/push/EXPINFO", "{}")
        until(lambda: sub.of("lab/push/"))
        bridge.lab.hub.ingest(Lick(1))
        until(lambda: sub.of("lab/events/Lick"))
    assert lab.told == []


# ------------------------------------------------------------------------------------------------ users and secrets

SECRET = "geh;im:sö@x/y"
USER = "rigsync"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """A broker that takes only what its access list allows a user with a password."""
    passwords, access = tmp_path / "passwords", tmp_path / "access"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), USER, SECRET], check=True, timeout=LONG)
    access.write_text(f"user {USER}\ntopic readwrite lab/#\ntopic deny lab/events/LickOfTheMqttTest/#\n", "utf-8")
    lines = ("allow_anonymous false", f"password_file {passwords}", f"acl_file {access}")
    with running_broker(tmp_path, *lines) as broker:
        yield broker


def with_login(uri: str, password: str) -> str:
    return uri.replace("mqtt://", f"mqtt://{USER}:{quote(password, safe='')}@")


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_broker_that_lets_nobody_in_is_told_once_by_name_with_the_remedy(
    guarded: Broker, lab: Lab, bridged: Callable[..., MqttBridge], caplog: Any, password: str | None
) -> None:
    uri = with_login(guarded.uri(), password) if password else guarded.uri()
    bridge = bridged(uri, lab.rig("cameras"))
    until(lambda: guarded.log.count("not authorised") >= 3)
    (told,) = warnings(caplog)
    assert told.startswith(f"the broker {guarded.uri()}: ")
    assert "user" in told
    assert "password" in told
    assert bridge.lab.push("EXPINFO", wait=True)  # the rigs take no notice


def test_what_the_broker_s_access_list_forbids_is_told_and_all_else_goes_on(
    guarded: Broker, lab: Lab, bridged: Callable[..., MqttBridge], caplog: Any
) -> None:
    bridge = bridged(with_login(guarded.uri(), SECRET), lab.rig("cameras"))
    for number in range(20):
        bridge.lab.hub.ingest(Lick(number))
    bridge.lab.hub.ingest(Lick(1, rig="ephys"))
    until(lambda: bridge.counts["denied"] == 2)
    (told,) = warnings(caplog)
    assert told.startswith(
        f"MQTT bridge: the broker {guarded.uri()}: this user may not publish on lab/events/LickOfThe"
    )
    assert told.endswith("allow it in the broker's access list")
    options = ("-u", USER, "-P", SECRET)
    with Subscriber(guarded, "lab/#", options=options) as sub:
        until(lambda: sub.of("lab/views/cameras"))
        until(lambda: sub.of("lab/events/ProbeAnswered"))
        assert not sub.of("lab/events/LickOfTheMqttTest")


PAGE = (Path(__file__).parents[2] / "docs" / "bridges.md").read_text(encoding="utf-8")
ACCESS = next(block for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) if block.startswith("user bridge"))


def test_with_the_page_s_access_list_the_bridge_works_and_only_the_task_commands(
    tmp_path: Path, lab: Lab, bridged: Callable[..., MqttBridge], stack: contextlib.ExitStack
) -> None:
    passwords, access = tmp_path / "passwords", tmp_path / "access"
    for number, user in enumerate(("bridge", "task", "guest")):
        made = ["mosquitto_passwd", "-b", *([] if number else ["-c"]), str(passwords), user, "secret"]
        subprocess.run(made, check=True, timeout=LONG)
    access.write_text(ACCESS.replace("room1", "lab"), encoding="utf-8")
    lines = ("allow_anonymous false", f"password_file {passwords}", f"acl_file {access}")
    broker = stack.enter_context(running_broker(tmp_path, *lines))
    bridge = bridged(broker.uri(login="bridge:secret"), lab.rig("cameras"), commands=True)
    sub = stack.enter_context(Subscriber(broker, "lab/#", options=("-u", "guest", "-P", "secret")))
    until(lambda: sub.of("lab/views/cameras") and sub.of("lab/bridges/"))
    publish(broker, "lab/push/EXPINIT", '{"args": ["never"]}', "-u", "guest", "-P", "secret")
    assert asked(broker, "lab/push/EXPINFO", "", "-u", "task", "-P", "secret")["outcomes"]["cameras"]["ok"]
    until(lambda: any(told["fields"]["event"] == "EXPINFO" for told in sub.of("lab/events/PushCompleted")))
    assert lab.verbs("cameras") == ["EXPINFO"]
    assert bridge.counts.total() == 0


def test_no_secret_is_in_any_log_or_error(
    guarded: Broker, lab: Lab, bridged: Callable[..., MqttBridge], caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    uri = with_login(guarded.uri(), SECRET)
    bridge = bridged(uri, lab.rig("cameras"))
    until(lambda: bridge._client.is_connected)
    guarded.kill()
    until(lambda: bridge.counts["broker"])
    wrong = []
    for address in (uri.replace("mqtt", "mqttt"), uri.replace("/lab", "/#"), uri.replace("mqtt://", "udp://")):
        with pytest.raises(ConfigError) as caught:
            MqttBridge(bridge.lab, address)
        wrong.append(str(caught.value))
    seen = "\n".join([caplog.text, *wrong, repr(vars(bridge)), repr(bridge._broker)])
    for part in (SECRET, quote(SECRET, safe=""), SECRET[:6]):
        assert part not in seen


@pytest.mark.parametrize(
    "uri",
    ["udp://127.0.0.1:1883", "127.0.0.1", "mqtt://", "mqtt://broker/a/+/b", "mqtt://broker/#", "mqtt://a:99999/b"],
)
def test_what_is_no_broker_is_told_with_how_one_is_written(connect: Callable[..., Any], uri: str) -> None:
    with pytest.raises(
        ConfigError, match=r"is not the address of an MQTT broker.*expected mqtt://host\[:port\]/prefix"
    ):
        MqttBridge(connect(), uri)


# ------------------------------------------------------------------------------------------- its beginning and end


def test_a_coordinator_has_one_on_its_own_loop(broker: Broker, lab: Lab) -> None:
    lab.rig("cameras")

    async def main() -> None:
        async with Coordinator(lab.uris) as coordinator, MqttBridge(coordinator, broker.uri()):
            loop = asyncio.get_running_loop()
            while "lab/views/cameras" not in await loop.run_in_executor(None, kept, broker, "lab/#"):
                pass

    run(main)
    assert kept(broker, "lab/#") == {}
