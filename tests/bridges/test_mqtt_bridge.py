"""The MQTT bridge with a real broker, mosquitto, and its own programs as clients; real rigs behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed here")

from brokers import Broker, Subscriber, needs_mosquitto
from live_helpers import Lab, run
from processes import LONG, until

from rigsync import Coordinator, events
from rigsync.bridges.mqtt import MqttBridge
from rigsync.bridges.mqtt import bridge as bridge_module
from rigsync.bridges.mqtt.topics import Topics
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
    with Broker(tmp_path) as broker:
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


def kept(broker: Broker, topic: str) -> dict[str, Any]:
    """Return what the broker keeps below a topic, for who comes late."""
    command = ["mosquitto_sub", "-p", str(broker.port), "--retained-only", "-W", "1", "-v", "-t", topic]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    return {where: json.loads(text) for where, _, text in (line.partition(" ") for line in done.stdout.splitlines())}


# ---------------------------------------------------------------------------------------------------------- events


def test_a_subscriber_in_another_process_hears_every_event_in_order(
    broker: Broker, lab: Lab, bridged: Callable[..., MqttBridge], hears: Callable[..., Subscriber]
) -> None:
    bridge = bridged(broker.uri, lab.rig("cameras:left"), lab.rig("ephys"))
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
    assert topic == "lab/events/LickOfTheMqttTest/%2B%2F%23%25%00"
    assert (last["rig"], last["fields"]) == ("+/#%\0", {"left_out": ["payload"]})
    assert last["from"]["host"] == socket.gethostname()
    assert f"pid {os.getpid()}" in last["from"]["program"]
    assert bridge.counts.total() == 0


def test_a_facility_tells_coordinators_apart(
    broker: Broker, lab: Lab, bridged: Callable[..., MqttBridge], hears: Callable[..., Subscriber]
) -> None:
    bridges = [bridged(broker.uri, lab.rig(name)) for name in ("cameras", "ephys")]
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
    with MqttBridge(aux, broker.uri):
        sub = hears(broker, "lab/views/#")
        until(lambda: sub.of("lab/views/cameras%2Fleft")[-1:] and sub.of("lab/views/cameras%2Fleft")[-1]["link"] == "alive")
        aux.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True)
        until(lambda: sub.of("lab/views/ephys")[-1]["status"] == "INITIALIZED")
        late = kept(broker, "lab/views/#")
        assert {topic: (told["rig"], told["link"]) for topic, told in late.items()} == {
            "lab/views/cameras%2Fleft": ("cameras/left", "alive"),
            "lab/views/ephys": ("ephys", "alive"),
        }
        (run,) = {told["from"]["run"] for told in late.values()}
        assert [*kept(broker, "lab/bridges/#")] == [f"lab/bridges/{run}"]
    assert kept(broker, "lab/#") == {}
    assert sub.heard[-1] == (f"lab/bridges/{run}", None)
    assert sub.of("lab/views/ephys")[-1] is None


def test_a_picture_is_told_again_only_where_something_is_new_or_after_a_while(
    broker: Broker,
    lab: Lab,
    bridged: Callable[..., MqttBridge],
    hears: Callable[..., Subscriber],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bridge = bridged(broker.uri, lab.rig("cameras"))
    sub = hears(broker, "lab/#")
    until(lambda: len(sub.of("lab/events/ProbeAnswered/cameras")) >= 3)
    until(lambda: sub.of("lab/views/cameras"))
    settled = len(sub.of("lab/views/cameras"))
    probes = len(sub.of("lab/events/ProbeAnswered/cameras"))
    until(lambda: len(sub.of("lab/events/ProbeAnswered/cameras")) >= probes + 2)
    assert len(sub.of("lab/views/cameras")) <= settled + 1  # the burst of probes has ended meanwhile
    monkeypatch.setattr(bridge_module, "RENEWED", 0.0)
    until(lambda: len(sub.of("lab/views/cameras")) >= settled + 3)
    assert bridge.counts.total() == 0
