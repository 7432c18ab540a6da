"""Hubs that are joined by ZeroMQ: on real sockets, with other processes, and with peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zmq", reason="pyzmq is not installed here")

import zmq
import zmq.auth
from live_helpers import Lab, came_true, run
from processes import LONG, free_port, until

from rigsync import Hub, NotRunning, events
from rigsync.bridges import bridge
from rigsync.bridges.requests import LARGEST
from rigsync.bridges.zmq import ZmqBoundary, ZmqSink, ZmqSource, carrying, hubs
from rigsync.errors import ConfigError, ListenError, LoopBlocked, RigsyncError

ANY = "tcp://127.0.0.1:0"
Ask = events.define("AskOfTheHubsTest")
Told = events.define("ToldOfTheHubsTest")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "RESEND", 0.1)
    monkeypatch.setattr(hubs, "RESEND", 0.1)


def free_uri() -> str:
    return f"tcp://127.0.0.1:{free_port(scheme='tcp')}"


def seen(hub: Hub, kind: Any = Told) -> list[Any]:
    """Return what a hub is told from now on: the payloads of its events."""
    told: list[Any] = []
    hub.subscribe(kind, lambda event: told.append(event.payload))
    return told


PROGRAM = """
import asyncio, sys
from contextlib import closing
from rigsync import Hub, events
from rigsync.bridges.zmq import ZmqBoundary

Ask = events.define("AskOfTheHubsTest")
Told = events.define("ToldOfTheHubsTest")
Other = events.define("OtherOfTheHubsTest")

async def main():
    async with Hub("there") as hub:
        def answer(ask):
            print(ask.payload, *ask.stamp, flush=True)
            hub.ingest(Other("which nobody here knows"))
            hub.ingest(Told(2 * ask.payload, rig="there"))

        hub.subscribe("AskOfTheHubsTest", answer)
        async with ZmqBoundary(hub, *sys.argv[1:3]):
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)

with closing(asyncio.SelectorEventLoop()) as loop:
    loop.run_until_complete(main())
"""


@contextlib.contextmanager
def other_program(listen: str, to: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program with a hub of its own, which answers, until its input is closed."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, listen, to]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(4 * LONG, process.kill)
        watchdog.start()
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            watchdog.cancel()
            watchdog.join()
            process.kill()


@contextlib.asynccontextmanager
async def beside(listen: str, to: str) -> AsyncIterator[subprocess.Popen[str]]:
    """Run it, without holding up the event loop."""
    program = other_program(listen, to)
    process = await asyncio.to_thread(program.__enter__)
    try:
        yield process
    finally:
        await asyncio.to_thread(program.__exit__, None, None, None)


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    """Have a program end, and return what it has printed."""
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    return process.stdout.read().splitlines()


def test_the_hubs_of_two_programs_tell_each_other_whole_events_once(caplog: pytest.LogCaptureFixture) -> None:
    here, there = free_uri(), free_uri()

    async def main() -> list[str]:
        async with Hub("here") as hub:
            told: list[Any] = []
            hub.subscribe(events.Event, told.append)
            async with ZmqBoundary(hub, here, there) as boundary:
                for number in range(100):
                    hub.ingest(Ask(number), priority=-number, cause=4)
                async with beside(there, here) as process:
                    await came_true(lambda: len(told) == 200)
                    lines = await asyncio.to_thread(lines_of, process)
                answers = [event for event in told if isinstance(event, Told)]
                found = sorted((answer.payload, answer.rig, answer.stamp.cause) for answer in answers)
                assert found == [(2 * n, "there", n + 1) for n in range(100)]
                assert boundary.sink.counts.keys() <= {"stuck"}  # a program may take long to begin
                assert boundary.source.counts == {"unknown": 100}
            return lines

    lines = sorted((line.split() for line in run(main, 5 * LONG)), key=lambda words: int(words[0]))
    assert [words[:4] for words in lines] == [[str(n), str(n + 1), "AskOfTheHubsTest", str(-n)] for n in range(100)]
    assert {words[-1] for words in lines} == {"4"}
    assert "no event 'OtherOfTheHubsTest'" in caplog.text


@contextlib.asynccontextmanager
async def circle(count: int) -> Any:
    """Join hubs in a circle, both ways; yield them and what each is told."""
    async with contextlib.AsyncExitStack() as stack:
        all_ = [await stack.enter_async_context(Hub(name)) for name in "abcdef"[:count]]
        sources = [await stack.enter_async_context(ZmqSource(hub, ANY)) for hub in all_]
        for at, hub in enumerate(all_):
            for other in {(at + 1) % count, (at - 1) % count}:
                await stack.enter_async_context(ZmqSink(hub, sources[other].uri))
        yield all_, [seen(hub) for hub in all_], sources


@pytest.mark.parametrize("count", [2, 3, 4])
def test_no_event_goes_round_and_none_is_told_twice(count: int) -> None:
    async def main() -> None:
        async with circle(count) as (all_, told, sources):
            for number in range(20):
                for at, hub in enumerate(all_):
                    hub.ingest(Told(count * number + at))
                    hub.ingest(same := Told("same"))
                    hub.ingest(same)  # the same object, told twice, is two events
            whole = 20 * 3 * count
            await came_true(lambda: all(len(each) == whole for each in told))
            for hub in all_:
                hub.ingest(Told("last"))
            await came_true(lambda: all(each.count("last") == count for each in told))
            assert [len(each) for each in told] == [whole + count] * count
            numbers = [sorted(payload for payload in each if isinstance(payload, int)) for each in told]
            assert numbers == [[*range(20 * count)]] * count
            assert all(source.counts.keys() <= {"repeated"} for source in sources)

    run(main)


def test_a_program_that_is_killed_and_started_again_is_told_all_that_came_meanwhile() -> None:
    here, there = free_uri(), free_uri()

    async def main() -> None:
        async with Hub("here") as hub, ZmqBoundary(hub, here, there) as boundary:
            told = seen(hub)
            async with beside(there, here) as process:
                hub.ingest(Ask(1))
                await came_true(lambda: told == [2])
                process.kill()
                await asyncio.to_thread(process.wait)
            for number in range(2, 30):
                hub.ingest(Ask(number))
            async with beside(there, here) as process:
                await came_true(lambda: len(told) >= 29)
                lines = await asyncio.to_thread(lines_of, process)
            assert [int(line.split()[0]) for line in lines] in ([*range(2, 30)], [*range(1, 30)])
            assert told[-28:] == [*range(4, 60, 2)]
            assert boundary.sink.counts["dropped"] == boundary.source.counts["missed"] == 0

    run(main, 8 * LONG)  # other programs take a while to begin


def test_a_dead_peer_costs_a_bounded_room_and_both_sides_tell_what_went(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(carrying, "MOST_WAITING", 10)
    monkeypatch.setattr(carrying, "PATIENCE", 0.2)
    there = free_uri()

    async def main() -> None:
        async with Hub("here") as hub, Hub("there") as other, ZmqSink(hub, there) as sink:
            for number in range(25):
                hub.ingest(Told(number))
            await came_true(lambda: sink.counts["stuck"])
            assert sink.counts["dropped"] == 15
            assert caplog.text.count("has taken no events for") == 1
            assert caplog.text.count("takes no events, and 10 wait: the oldest are dropped") == 1
            told = seen(other)
            async with ZmqSource(other, there) as source:
                await came_true(lambda: len(told) == 10 and not len(sink._outgoing))
                assert told == [*range(15, 25)]
                assert "takes events again" in caplog.text
                assert (source.counts["missed"], "15 events of another hub are missing" in caplog.text) == (0, False)
            for number in range(25):  # the same source's program misses these, and says so
                hub.ingest(Told(number))
            async with ZmqSource(other, there) as source:
                await came_true(lambda: len(told) == 20)
                assert (told[10:], source.counts["missed"]) == ([*range(15, 25)], 15)
                assert "15 events of another hub are missing: it had no room for them any more" in caplog.text

    run(main)


def test_what_was_told_last_is_taken_before_a_sink_closes_and_what_is_not_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module, name in ((hubs, "LAST_WORDS"), (bridge, "CLOSE_TIMEOUT")):
        monkeypatch.setattr(module, name, LONG)

    async def main() -> None:
        async with Hub("here") as hub, Hub("there") as other:
            told = seen(other)
            async with ZmqSource(other, ANY) as source:
                async with ZmqSink(hub, source.uri) as sink:
                    for number in range(500):
                        hub.ingest(Told(number))
                await came_true(lambda: told == [*range(500)])
                assert sink.counts["left"] == 0
            monkeypatch.setattr(hubs, "LAST_WORDS", 0.1)
            async with ZmqSink(hub, source.uri) as sink:
                hub.ingest(Told(1))
            assert sink.counts["left"] == 1
            assert "closes: 1 events were not taken there" in caplog.text

    run(main)


def test_a_loop_that_cannot_watch_its_sockets_is_told_with_one_that_can() -> None:
    async def main() -> None:
        async with Hub("here") as hub:
            with pytest.MonkeyPatch.context() as patch:  # as Windows' usual loop is
                patch.setattr(asyncio.get_running_loop(), "add_reader", not_implemented)
                for bridge_ in (ZmqSource(hub, ANY), ZmqSink(hub, "tcp://127.0.0.1:9")):
                    with pytest.raises(RigsyncError, match=r"run on asyncio.SelectorEventLoop\(\) instead"):
                        await bridge_.__aenter__()

    def not_implemented(*_: Any) -> None:
        raise NotImplementedError

    run(main)


@contextlib.contextmanager
def raw(kind: int) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.linger, socket.rcvtimeo = 0, 1000 * int(LONG)
        yield socket


def head(sequence: int, **keys: Any) -> bytes:
    return json.dumps({"rigsync": 1, "run": "r", "first": 1, "sequence": sequence, **keys}).encode()


GOOD = b'{"number":1,"via":["x"],"type":"ToldOfTheHubsTest","id":1,"priority":0,"time":1.5,"cause":null,"fields":{}}'


def test_junk_is_answered_and_counted_and_the_next_good_event_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Hub("here") as hub, ZmqSource(hub, ANY) as source:
            told = seen(hub)
            with raw(zmq.DEALER) as peer:
                peer.connect(source.uri)
                refused = [
                    ([b"x"], "a message of 1 parts is nothing that one hub tells another"),
                    ([b"junk", b"x"], "is not JSON"),
                    ([head(1, rigsync=2), GOOD], "version 2, and this one 1: update the older rigsync"),
                    ([b"x" * 5 * LARGEST, GOOD], None),  # cut, and the connection begins anew
                ]
                for parts, problem in refused:
                    peer.send_multipart(parts)
                    if problem:
                        assert problem in json.loads(await asyncio.to_thread(peer.recv))["error"]
                for sequence, data in enumerate([b"{}", b"x" * (LARGEST + 1), GOOD], 1):
                    while source.counts["malformed"] + len(told) < sequence:  # as a sink does, until it is taken
                        peer.send_multipart([head(sequence), data])
                        await asyncio.sleep(0.05)
                await came_true(lambda: told == [None])
                assert (source.counts["refused"], source.counts["malformed"]) == (3, 2)

    run(main)
    assert caplog.text.count("ZeroMQ source: ") == 2  # a line a minute for each kind


def test_a_peer_that_refuses_or_talks_nonsense_is_told_of_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with raw(zmq.ROUTER) as peer:
            port = peer.bind_to_random_port("tcp://127.0.0.1")
            async with Hub("here") as hub, ZmqSink(hub, f"tcp://localhost:{port}") as sink:
                hub.ingest(Told(object()))
                assert sink.counts["not carried"] == 1
                hub.ingest(Told(1))
                who, first, _ = await asyncio.to_thread(peer.recv_multipart)
                for answer in (b"junk", b'{"rigsync":2}', b'{"rigsync":1,"error":"no"}', b'{"rigsync":1,"hub":[]}'):
                    peer.send_multipart([who, answer])
                await came_true(lambda: sink.counts["refused"] == 3)
                assert (await asyncio.to_thread(peer.recv_multipart))[1] == first  # who is there is asked again
                peer.send_multipart([who, b'{"rigsync":1,"hub":"x"}'])
                told = {"rigsync": 1, "run": json.loads(first)["run"], "taken": 1, "hub": "x"}
                while not (await asyncio.to_thread(peer.recv_multipart))[2]:  # a greeting that was on its way
                    pass
                peer.send_multipart([who, json.dumps(told).encode()])
                await came_true(lambda: not len(sink._outgoing))

    run(main)
    assert "ToldOfTheHubsTest cannot be told to another hub: payload" in caplog.text


def test_events_of_others_are_told_to_subscribers_and_are_no_answers_to_this_lab(
    lab: Lab, connect: Callable[..., Any]
) -> None:
    aux = connect(lab.rig("cameras"))
    told: list[Any] = []
    aux.hub.subscribe("LinkLost", told.append)

    async def main(uri: str) -> None:
        lost = (events.LinkState.ALIVE, events.LinkState.LOST)
        async with Hub("there") as hub, ZmqSink(hub, uri, where=lambda event: event.rig != "left"):
            for rig in ("left", "cameras", "ephys"):
                hub.ingest(events.LinkLost(rig, *lost, "silent there"))

    with ZmqSource(aux.hub, ANY) as source:
        run(lambda: main(source.uri))
        until(lambda: len(told) == 2)
        assert [event.rig for event in told] == ["cameras", "ephys"]
        assert (aux.view("cameras").link, aux.view("cameras").last_failure) == (events.LinkState.ALIVE, None)
        assert aux.request("EXPINFO")["cameras"]


@pytest.fixture
def lab(serve: Callable[..., Any]) -> Lab:
    return Lab(serve)


def keys_in(folder: Path, name: str) -> tuple[str, str]:
    _, secret = zmq.auth.create_certificates(folder, name)
    os.chmod(secret, 0o600)
    return secret, zmq.auth.load_certificate(secret)[0].decode()


def test_with_keys_only_the_other_side_is_heard(tmp_path: Path) -> None:
    (mine, public), (other, others), (wrong, _) = (keys_in(tmp_path, name) for name in ("here", "there", "stranger"))
    here, there = free_uri(), free_uri()

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            enter = stack.enter_async_context
            hub, far, stranger = [await enter(Hub(name)) for name in ("here", "there", "stranger")]
            boundary = await enter(ZmqBoundary(hub, here, there, curve={"secret_key": mine, "peer": others}))
            await enter(ZmqBoundary(far, there, here, curve={"secret_key": other, "peer": public}))
            await enter(ZmqSink(stranger, here, curve={"secret_key": wrong, "server": public}))
            plain = await enter(ZmqSink(stranger, here))
            told, told_there = seen(hub), seen(far)
            stranger.ingest(Told("of a stranger"))
            await came_true(lambda: boundary.source.counts["turned away"])
            hub.ingest(Told("hello"))
            await came_true(lambda: told_there == ["hello"])
            far.ingest(Told("you"))
            await came_true(lambda: "you" in told)
            assert told == ["hello", "you"]
            assert len(plain._outgoing) == 1

    run(main)


def test_what_cannot_be_is_told_before_anything_is_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret, _ = keys_in(tmp_path, "here")
    hub = Hub("lab")
    for wrong in ("udp://127.0.0.1:5557", "tcp://localhost:5557", "tcp://127.0.0.1"):
        with pytest.raises(ConfigError, match="is not where ZeroMQ can listen"):
            ZmqSource(hub, wrong)
    for wrong in ("udp://127.0.0.1:5557", "tcp://localhost", "tcp://127.0.0.1:0"):
        with pytest.raises(ConfigError, match="is not where a hub listens"):
            ZmqSink(hub, wrong)
    with pytest.raises(ConfigError, match="curve lacks a server's key"):
        ZmqSink(hub, "tcp://127.0.0.1:5557", curve={"secret_key": secret})
    with pytest.raises(ConfigError, match="is a malformed key"):
        ZmqBoundary(hub, ANY, "tcp://127.0.0.1:5557", curve={"secret_key": secret, "peer": "x"})
    with pytest.raises(NotRunning, match="ZeroMQ source: hub 'lab' does not run: enter the Auxiliaries"):
        ZmqSource(hub, ANY).__enter__()

    async def main() -> None:
        async with Hub("lab") as hub, ZmqSource(hub, ANY) as source:
            with pytest.raises(LoopBlocked, match="async with"):
                ZmqSink(hub, source.uri).__enter__()
            with pytest.raises(ListenError, match="ZeroMQ cannot listen on tcp://"):
                await ZmqBoundary(hub, source.uri, source.uri).__aenter__()
            assert "beyond" not in caplog.text
            async with ZmqSource(hub, "tcp://0.0.0.0:0"):
                assert "beyond this computer and without keys: whoever reaches that port tells hub 'lab'" in caplog.text

    run(main)
