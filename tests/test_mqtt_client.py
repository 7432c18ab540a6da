"""The client of a broker by itself: what waits, what leaves at the end, and what is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed here")

from brokers import Broker, needs_mosquitto, running_broker
from live_helpers import came_true, run
from processes import LONG

from rigsync.config.address import parse_uri
from rigsync.net import mqtt_client
from rigsync.net.mqtt_broker import UNREADABLE, Will
from rigsync.net.mqtt_client import MqttClient
from rigsync.runtime.workers import Workers

pytestmark = needs_mosquitto
MANY = 300


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running_broker(tmp_path) as broker:
        yield broker


def client_of(broker: Broker, heard: list[Any], **options: Any) -> MqttClient:
    return MqttClient(parse_uri(broker.uri()), lambda *message: heard.append(message), **options)


def test_what_waits_at_the_end_leaves_and_the_last_will_does_not(broker: Broker) -> None:
    heard: list[Any] = []

    async def main() -> None:
        reader = client_of(broker, heard)
        reader.subscribe(["lab/#"])
        writer = client_of(broker, [], will=Will("lab/will", b"gone"))
        await came_true(lambda: reader.is_connected and writer.is_connected)
        for number in range(MANY):
            assert writer.publish(f"lab/{number % 2}", b"%d" % number, qos=number % 2)
        writer.close()
        await came_true(lambda: len(heard) == MANY)
        await asyncio.sleep(0)
        reader.close()

    run(main)
    assert [int(data) for topic, data, _ in heard if topic == "lab/0"] == list(range(0, MANY, 2))
    assert [int(data) for topic, data, _ in heard if topic == "lab/1"] == list(range(1, MANY, 2))


def test_qos_1_waits_for_the_broker_in_order_and_qos_0_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_client, "WAITING", MANY)
    broker, heard, problems = Broker(tmp_path), [], []

    async def main() -> None:
        writer = client_of(broker, [], changed=problems.append)
        await came_true(lambda: problems)
        assert not writer.publish("lab/x", b"now")
        assert [writer.publish("lab/x", b"%d" % number, qos=1) for number in range(MANY + 3)] == MANY * [True] + 3 * [
            False
        ]
        broker.start()
        reader = client_of(broker, heard)
        reader.subscribe(["lab/x"])
        await came_true(lambda: not writer.unsent)
        for client in (reader, writer):
            client.close()

    try:
        run(main)
    finally:
        broker.kill()
    assert problems[0].startswith("nothing listens there")
    assert problems[-1] is None
    numbers = [int(data) for _, data, _ in heard]
    assert numbers == sorted(set(numbers))  # the reader may have come late


def test_what_waited_for_a_broker_that_comes_back_with_a_lower_packet_limit_is_left_out_and_told(
    tmp_path: Path, broker: Broker
) -> None:
    heard: list[Any] = []
    problems: list[str | None] = []

    async def main() -> None:
        writer = client_of(broker, [], changed=problems.append)
        await came_true(lambda: writer.is_connected)
        broker.kill()
        await came_true(lambda: not writer.is_connected)
        broker.configure("allow_anonymous true", "max_packet_size 300")
        assert writer.publish("lab/large", b"x" * 400, qos=1)  # which the broker took, as far as anybody knew
        assert writer.publish("lab/small", b"x", qos=1)
        broker.start()
        reader = client_of(broker, heard)
        reader.subscribe(["lab/#"])
        await came_true(lambda: not writer.unsent and reader.is_connected)
        assert writer.limit == 300
        assert writer._waiting_bytes == 0
        assert not writer.publish("lab/large", b"x" * 400, qos=1)
        assert writer.publish("lab/last", b"x", qos=1)
        await came_true(lambda: any(topic == "lab/last" for topic, *_ in heard))
        for client in (reader, writer):
            client.close()

    run(main)
    assert "lab/large is left out: it takes at most 300 bytes; raise its packet size" in problems
    assert "lab/large" not in {topic for topic, *_ in heard}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP on Windows")
def test_a_broker_that_stands_still_holds_up_nobody(broker: Broker) -> None:
    async def main() -> None:
        writer = client_of(broker, [])
        await came_true(lambda: writer.is_connected)
        assert broker._process
        broker._process.send_signal(signal.SIGSTOP)
        try:
            begun = asyncio.get_running_loop().time()
            sent = 0
            while writer.publish("lab/x", 100_000 * b"x"):
                sent += 1
            assert sent > 50  # what the socket takes, and 8 MiB
            writer.close()
            assert asyncio.get_running_loop().time() < begun + LONG / 2  # some 0.5 s, which it lingers
            await came_true(writer._task.done)
        finally:
            broker._process.send_signal(signal.SIGCONT)

    run(main)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP on Windows")
def test_what_a_broker_has_not_confirmed_leaves_at_its_next_start_only_where_it_is_kept(tmp_path: Path) -> None:
    broker = Broker(tmp_path)

    async def main() -> None:
        clients = [client_of(broker, [], keeps=keeps) for keeps in (True, False)]
        broker.start()
        await came_true(lambda: all(client.is_connected for client in clients))
        assert broker._process
        broker._process.send_signal(signal.SIGSTOP)
        for client, topic in zip(clients, ("lab/kept", "lab/forgotten"), strict=True):
            for number in range(MANY):  # more than paho sends before the first one is confirmed
                assert client.publish(topic, b"%d" % number, qos=1)
        broker.kill()
        await came_true(lambda: not any(client.is_connected for client in clients))
        assert not clients[1].publish("lab/forgotten", b"while it is away", qos=1)
        broker.start()
        await came_true(lambda: all(client.is_connected and not client.unsent for client in clients))
        assert clients[1].publish("lab/new", b"", qos=1)
        await came_true(lambda: not clients[1].unsent)
        for client in clients:
            assert client._waiting_bytes == 0
            client.close()

    try:
        run(main)
    finally:
        broker.kill()
    assert broker.log.count("'lab/kept'") >= MANY
    assert "'lab/new'" in broker.log
    assert "'lab/forgotten'" not in broker.log


def test_a_message_that_waits_is_left_out_where_the_broker_turns_out_to_take_no_such(tmp_path: Path) -> None:
    broker, problems = Broker(tmp_path), []

    async def main() -> None:
        writer = client_of(broker, [], changed=problems.append)
        assert writer.publish("lab/large", 60_000 * b"x", qos=1)
        assert writer.publish("lab/answer", b"", qos=1, correlation=60_000 * b"x")
        assert writer.publish("lab/small", b"x", qos=1)
        broker.configure("allow_anonymous true", "max_packet_size 32768")
        broker.start()
        await came_true(lambda: writer.is_connected and not writer.unsent)
        assert writer._waiting_bytes == 0
        writer.close()

    try:
        run(main)
    finally:
        broker.kill()
    assert "'lab/small'" in broker.log
    assert [text for text in problems if text and "lab/large is left out: it takes" in text]
    assert problems.count(None) == 1  # one connection, which has lasted


def test_a_packet_that_cannot_be_read_is_named_and_is_not_taken_up_again(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    command = ["mosquitto_pub", "-p", str(broker.port), "-r", "-t", "lab/bad", "-m", "x", "-V", "5"]
    subprocess.run([*command, "-D", "publish", "user-property", "k", "\ufeff"], check=True, timeout=LONG)

    async def main() -> None:
        reader, writer = client_of(broker, heard), client_of(broker, [])
        reader.subscribe(["lab/#"])
        await came_true(lambda: any("cannot be read" in text for text in caplog.messages) and writer.is_connected)
        writer.publish("lab/bad", b"", qos=1, retain=True)
        writer.publish("lab/good", b"x", qos=1, retain=True)
        await came_true(lambda: any(topic == "lab/good" for topic, _, _ in heard))
        reader.close()
        writer.close()

    run(main)


def test_a_fault_in_reading_ends_the_connection_and_not_the_client(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str | None] = []

    def fail() -> None:
        monkeypatch.undo()
        raise KeyError("a fault")

    async def main() -> None:
        client = client_of(broker, [], changed=problems.append)
        await came_true(lambda: client.is_connected)
        monkeypatch.setattr(client._paho, "loop_read", fail)
        client.publish("lab/x", b"", qos=1)
        await came_true(lambda: problems == [None, UNREADABLE, None] and not client.unsent)
        client.close()

    run(main)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyError("a fault")])
def test_a_client_goes_on_where_an_attempt_fails_in_a_way_that_nobody_foresaw(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    problems: list[str | None] = []

    def begin(self: Workers, function: Any) -> None:
        monkeypatch.undo()
        raise error

    monkeypatch.setattr(Workers, "begin", begin)

    async def main() -> None:
        client = client_of(broker, [], changed=problems.append)
        await came_true(lambda: client.is_connected)
        client.close()

    run(main)
    assert str(error) in str(problems[0])


def test_the_loss_of_a_broker_is_told_after_it_has_refused_a_topic(tmp_path: Path) -> None:
    problems: list[str | None] = []
    rules = tmp_path / "rules"
    rules.write_text("topic write lab/mine\n", encoding="ascii")
    rules.chmod(0o600)

    async def main(broker: Broker) -> None:
        client = client_of(broker, [], changed=problems.append)
        await came_true(lambda: client.is_connected)
        client.publish("lab/theirs", b"", qos=1)
        await came_true(lambda: any("may not publish on lab/theirs" in str(text) for text in problems))
        broker.kill()
        await came_true(lambda: any("connection is lost" in str(text) for text in problems))
        client.close()

    with running_broker(tmp_path, "allow_anonymous true", f"acl_file {rules}") as broker:
        run(lambda: main(broker))


@pytest.mark.skipif(sys.platform == "win32", reason="select on Windows counts sockets, and does not look at numbers")
def test_a_client_closes_where_its_socket_has_a_large_number(broker: Broker) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 2048:
        pytest.skip("no 2,048 files may be open here")
    heard: list[Any] = []

    async def main() -> None:
        reader = client_of(broker, heard)
        reader.subscribe(["lab/x"])
        await came_true(lambda: reader.is_connected)
        with contextlib.ExitStack() as many:
            for _ in range(1024):
                many.callback(os.close, os.dup(2))
            writer = client_of(broker, [])
            await came_true(lambda: writer.is_connected)
            assert writer._sock.fileno() >= 1024
            writer.publish("lab/x", b"last", qos=1)
            writer.close()
        await came_true(lambda: heard)
        reader.close()

    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, before[1]))
    try:
        run(main)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_has_come_is_handled_in_portions_and_in_order(broker: Broker) -> None:
    heard: list[Any] = []
    turns: list[int] = []

    async def main() -> None:
        client = client_of(broker, heard)
        client.subscribe(["lab/#"], 1)
        await came_true(lambda: client.is_connected)
        await came_true(lambda: not client._asked)
        for number in range(MANY):
            client.publish("lab/x", b"%d" % number, qos=1)
        while len(heard) < MANY:
            before = len(heard)
            await asyncio.sleep(0)
            turns.append(len(heard) - before)
        client.close()

    run(main)
    assert [int(data) for _, data, _ in heard] == list(range(MANY))
    assert max(turns) <= 2 * mqtt_client.AT_ONCE  # the end of what was read, and what was read then
