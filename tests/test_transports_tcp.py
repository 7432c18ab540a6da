"""TCP connections: streams cut and spoiled, peers that do not read, that say nothing, that come in thousands."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from live_helpers import Wire, came_true, run
from processes import LONG, free_port

from rigsync.core import legacy, messages
from rigsync.core.arguments import compose
from rigsync.core.coordinators import Standing
from rigsync.net import stream as stream_module
from rigsync.net import tcp, tcp_listener
from rigsync.net.endpoint import Endpoint

LIMIT = 1 << 20
STANDINGS = {b"[%d]" % standing: standing for standing in Standing}


@contextlib.asynccontextmanager
async def listening(limit: int = LIMIT) -> AsyncIterator[tuple[Wire, Endpoint, Any]]:
    wire = Wire()
    endpoint = Endpoint(wire, print, standing=lambda head, _: STANDINGS.get(head, Standing.STRANGER))
    try:
        yield wire, endpoint, await endpoint.listen(socket.AF_INET, ("127.0.0.1", 0), limit)
    finally:
        endpoint.close()


@contextlib.contextmanager
def connected(address: Any) -> Iterator[socket.socket]:
    with socket.create_connection(address) as sock:
        sock.settimeout(LONG)
        yield sock


class Rig:
    """Plain sockets that play a rig: they listen, and the connections are taken one by one."""

    def __init__(self, port: int = 0) -> None:
        self.server = socket.create_server(("127.0.0.1", port))
        self.address = self.server.getsockname()
        self.server.setblocking(False)

    async def accept(self) -> socket.socket:
        sock, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(self.server), LONG)
        sock.setblocking(False)
        return sock


async def received(sock: socket.socket, size: int) -> bytes:
    """Read so many bytes, or all until the end."""
    data = b""
    while len(data) < size:
        piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, size - len(data)), LONG)
        if not piece:
            break
        data += piece
    return data


@contextlib.asynccontextmanager
async def towards(
    address: Any, limit: int = LIMIT, on_refusal: Callable[..., None] | None = None
) -> AsyncIterator[tuple[Wire, Endpoint]]:
    wire = Wire()
    endpoint = Endpoint(wire, print, on_refusal)
    try:
        endpoint.connect_stream(["requests", "probes"], socket.AF_INET, address, limit)
        yield wire, endpoint
    finally:
        endpoint.close()
        await came_true(lambda: endpoint._lines["requests"]._task.done())  # type: ignore[attr-defined]


# -------------------------------------------------------------------------------------------------- a listener


def test_messages_come_whole_however_they_are_cut_and_answers_go_back() -> None:
    async def main() -> None:
        async with listening() as (wire, endpoint, address):
            with connected(address) as one, connected(address) as two:
                one.sendall(b'{"a":')
                two.sendall(b"[1][2] \r\n[3")
                await came_true(lambda: len(wire.received) == 2)
                one.sendall(b'"}"}')
                two.sendall(b"]")
                await came_true(lambda: len(wire.received) == 4)
                assert sorted(wire.received) == sorted(
                    [(b'{"a":"}"}', one.getsockname())] + [(b"[%d]" % n, two.getsockname()) for n in (1, 2, 3)]
                )
                wire.outbox += [(one.getsockname(), b"{1}"), (two.getsockname(), b"{2}"), (("gone", 1), b"{3}")]
                endpoint.pump()
                assert await asyncio.to_thread(one.recv, 100) == b"{1}"
                assert await asyncio.to_thread(two.recv, 100) == b"{2}"

    run(main)


@pytest.mark.parametrize(
    ("junk", "kind"),
    [
        (b"junk", "junk in the stream"),
        (b"[}", "mismatched brackets"),
        (b'["' + b"x" * LIMIT, "message over the limit"),
    ],
)
def test_junk_ends_the_stream_it_came_on_with_a_reason_and_no_other(junk: bytes, kind: str) -> None:
    async def main() -> None:
        async with listening() as (wire, _, address):
            with connected(address) as other, connected(address) as sock:
                sock.sendall(b"[1]" + junk)
                await came_true(lambda: wire.violations)
                assert wire.messages == [b"[1]"]
                ((source, error),) = wire.violations
                assert source == sock.getsockname()
                assert error.kind == kind
                assert str(error).endswith("the connection is closed")
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.to_thread(sock.recv, 100) == b""
                other.sendall(b"[2]")
                await came_true(lambda: wire.messages == [b"[1]", b"[2]"])
            with connected(address) as again:
                again.sendall(b"[3]")
                await came_true(lambda: wire.messages == [b"[1]", b"[2]", b"[3]"])
            assert len(wire.violations) == 1

    run(main)


def test_a_stream_cut_in_the_middle_of_a_message_is_told_and_one_that_ends_between_is_not() -> None:
    async def main() -> None:
        async with listening() as (wire, _, address):
            with connected(address) as sock:
                sock.sendall(b"[1] ")
            with connected(address) as sock:
                sock.sendall(b"[1][2,")
                source = sock.getsockname()
            await came_true(lambda: wire.violations)
            assert wire.messages == [b"[1]", b"[1]"]
            ((told, error),) = wire.violations
            assert told == source
            assert str(error) == "cut message: a stream that ends 3 bytes into a message (closed by the other side)"

    run(main)


def test_the_longest_silent_of_too_many_connections_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_listener, "CONNECTIONS", 5)

    async def main() -> None:
        async with listening() as (wire, _, address):
            with contextlib.ExitStack() as stack:
                early = [stack.enter_context(connected(address)) for _ in range(5)]
                early[0].sendall(b"[0]")  # speaks, and so outlives the others
                await came_true(lambda: wire.received)
                for _ in range(20):
                    stack.enter_context(connected(address))
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.to_thread(early[1].recv, 100) == b""
                last = stack.enter_context(connected(address))
                last.sendall(b"[1]")
                await came_true(lambda: len(wire.received) == 2)

    run(main)


def test_a_coordinator_that_speaks_outlives_thousands_that_do_not() -> None:
    async def main() -> None:
        async with listening() as (wire, _, address):
            with connected(address) as sock:
                for n in range(20):
                    with contextlib.ExitStack() as stack:
                        for _ in range(100):
                            stack.enter_context(connected(address))
                        sock.sendall(b"[%d]" % n)
                        await came_true(lambda n=n: len(wire.received) > n)

    run(main)


def test_large_messages_that_never_end_do_not_fill_the_memory() -> None:
    async def main() -> None:
        async with listening() as (wire, endpoint, address):
            with contextlib.ExitStack() as stack:
                sockets = [stack.enter_context(connected(address)) for _ in range(6)]
                for sock in sockets:
                    with contextlib.suppress(ConnectionError):
                        await asyncio.to_thread(sock.sendall, b'["' + b"x" * (LIMIT - 10))
                listener: Any = endpoint._listener
                streams = listener._streams.values
                await came_true(lambda: len(streams()) <= 2)
                assert sum(stream.held for stream in streams()) <= 2 * LIMIT
                with connected(address) as sock:
                    sock.sendall(b"[1]")
                    await came_true(lambda: wire.messages == [b"[1]"])

    run(main)


def test_a_peer_that_does_not_read_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with listening() as (wire, endpoint, address):
            with connected(address) as sock, connected(address) as other:
                sock.sendall(b"[1]")
                other.sendall(b"[2]")
                await came_true(lambda: len(wire.received) == 2)
                listener: Any = endpoint._listener
                stream = listener._streams[sock.getsockname()]
                most = 0
                for _ in range(1000):
                    wire.outbox.append((sock.getsockname(), b"{" + b"x" * 100_000 + b"}"))
                    endpoint.pump()
                    most = max(most, stream.transport.get_write_buffer_size())
                    await asyncio.sleep(0)
                assert most <= stream_module.BACKLOG + 100_002
                assert sock.getsockname() not in listener._streams
                assert "does not read" in stream.reason
                wire.outbox.append((other.getsockname(), b"{1}"))
                endpoint.pump()
                assert await asyncio.to_thread(other.recv, 100) == b"{1}"

    run(main)


def test_large_messages_that_many_do_not_read_do_not_fill_the_memory() -> None:
    async def main() -> None:
        size = 20 << 20
        async with listening(size) as (wire, endpoint, address):
            with contextlib.ExitStack() as stack:
                sockets = [stack.enter_context(connected(address)) for _ in range(6)]
                for sock in sockets:
                    sock.sendall(b"[1]")
                await came_true(lambda: len(wire.received) == len(sockets))
                listener: Any = endpoint._listener
                streams = list(listener._streams.values())
                for sock in sockets[1:]:
                    wire.outbox.append((sock.getsockname(), b"{" + b"x" * (size - 2) + b"}"))
                    endpoint.pump()
                    assert sum(stream.unsent for stream in listener._streams.values()) <= 2 * size
                cut_off = [stream for stream in streams if stream.source not in listener._streams]
                assert 1 <= len(cut_off) < len(sockets) - 1
                assert all("does not read" in stream.reason for stream in cut_off)
                wire.outbox.append((sockets[0].getsockname(), b"{2}"))
                endpoint.pump()
                assert await asyncio.to_thread(sockets[0].recv, 100) == b"{2}"

    run(main)


def test_strangers_are_closed_before_those_who_watch_and_nobody_costs_the_one_in_charge_its_connection() -> None:
    async def main() -> None:
        size = tcp_listener.KEPT
        async with listening(size) as (wire, endpoint, address):
            with contextlib.ExitStack() as stack:
                told = [Standing.IN_CHARGE, Standing.WATCHES, Standing.WATCHES, *[Standing.STRANGER] * 3]
                socks = [stack.enter_context(connected(address)) for _ in told]
                for sock, standing in zip(socks, told, strict=True):
                    sock.sendall(b"[%d]" % standing)
                await came_true(lambda: len(wire.received) == len(socks))
                listener: Any = endpoint._listener
                for sock in socks:  # each reads nothing
                    wire.outbox.append((sock.getsockname(), b"{" + b"x" * (size - 2) + b"}"))
                    endpoint.pump()
                assert [sock.getsockname() in listener._streams for sock in socks] == [True] * 3 + [False] * 3

    run(main)


def test_many_small_messages_that_wait_count_for_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_listener, "KEPT", 1 << 20)

    async def main() -> None:
        async with listening() as (wire, endpoint, address):
            with connected(address) as one, connected(address) as other:
                for sock in (one, other):
                    sock.sendall(b"[0]")
                await came_true(lambda: len(wire.received) == 2)
                listener: Any = endpoint._listener
                streams = list(listener._streams.values())
                for stream in streams:
                    while not stream.unsent:  # the kernels' buffers are full then
                        wire.outbox.append((stream.source, b"{" + b"x" * 50_000 + b"}"))
                        endpoint.pump()
                while not any(stream.reason for stream in streams):
                    for sock in (one, other):
                        wire.outbox += [(sock.getsockname(), b"{1}")] * 1000
                        endpoint.pump()
                    assert all(stream.unsent < tcp_listener.KEPT // 10 for stream in streams)

    run(main)


def test_the_next_large_message_comes_when_the_echo_of_the_one_before_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        large, size = b'["' + b"x" * (20 << 20) + b'"]', 21 << 20
        async with listening(size) as (wire, endpoint, address):
            with connected(address) as first, connected(address) as second:
                received_as_ever = wire.receive_datagram

                def echo(data: bytes, source: Any, now: float) -> None:
                    received_as_ever(data, source, now)
                    wire.outbox.append((source, data))

                monkeypatch.setattr(wire, "receive_datagram", echo)
                sending = asyncio.create_task(asyncio.to_thread(first.sendall, large))
                await came_true(lambda: len(wire.received) == 1)
                await sending
                listener: Any = endpoint._listener
                assert listener._turn is listener._streams[first.getsockname()]
                monkeypatch.setattr(tcp_listener, "STALLED", 0.5)
                sending = asyncio.create_task(asyncio.to_thread(second.sendall, large))
                await came_true(lambda: listener._waiting)
                stream = listener._turn
                await came_true(lambda: len(wire.received) == 2)  # the first has read nothing
                assert "or its echo, does not go on" in stream.reason or "takes more than" in stream.reason
                await sending
                reading = asyncio.create_task(asyncio.to_thread(_read_all, second, len(large)))
                assert await reading == len(large)
                await came_true(lambda: listener._turn is None)

    run(main)


def _read_all(sock: socket.socket, size: int) -> int:
    got = 0
    while got < size:
        got += len(sock.recv(1 << 20))
    return got


def test_one_large_message_and_what_is_small_beside_it_may_wait() -> None:
    async def main() -> None:
        size = 20 << 20
        async with listening(size) as (wire, endpoint, address):
            with connected(address) as sock:
                sock.sendall(b"[1]")
                await came_true(lambda: wire.received)
                wire.outbox.append((sock.getsockname(), b"{" + b"x" * size + b"}"))
                wire.outbox += [(sock.getsockname(), b"{2}")] * 100
                endpoint.pump()

                def read() -> int:
                    count = 0
                    while count < size + 302:
                        count += len(sock.recv(1 << 20))
                    return count

                assert await asyncio.to_thread(read) == size + 302

    run(main)


def test_many_messages_of_one_connection_do_not_keep_others_from_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with listening() as (wire, _, address):
            with connected(address) as many, connected(address) as other:
                take_in = wire.receive_datagram

                def receive(data: bytes, source: Any, now: float) -> None:
                    take_in(data, source, now)
                    if data == b"[0]":
                        other.sendall(b"{1}")

                monkeypatch.setattr(wire, "receive_datagram", receive)
                flood = [b"[%d]" % n for n in range(5_000)]
                many.sendall(b"".join(flood))
                await came_true(lambda: len(wire.received) == 5_001)
                assert wire.messages.index(b"{1}") < 2_500
                assert [data for data in wire.messages if data != b"{1}"] == flood
                many.sendall(b"[last]")  # it is read on
                await came_true(lambda: wire.messages[-1] == b"[last]")

    run(main)


@pytest.mark.parametrize("cut", [b"", b"[2,"])
@pytest.mark.parametrize("reset", [True, False])
def test_what_came_before_a_connection_ended_is_handled_before_that(
    cut: bytes, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with listening() as (wire, endpoint, address):
            listener: Any = endpoint._listener
            with connected(address) as sock:
                source = sock.getsockname()
                sock.sendall(b"[0]" * 1000 + cut)
                await came_true(lambda: wire.received)
                assert len(wire.received) < 1000
                if reset:  # as when the answer to one of them finds that nobody is there
                    listener._streams[source].transport._fatal_error(ConnectionResetError("gone"))
            await came_true(lambda: not listener._streams)
            assert wire.messages == [b"[0]"] * 1000
            assert [told for told, _ in wire.violations] == [source] * bool(cut)
            assert not listener._waiting
            assert listener._turn is None

    monkeypatch.setattr(stream_module, "AT_ONCE", 2)
    run(main)


def test_messages_that_begin_on_many_connections_take_little_at_a_time() -> None:
    async def main() -> None:
        async with listening(1 << 26) as (_, endpoint, address):
            listener: Any = endpoint._listener
            with contextlib.ExitStack() as stack:
                socks = [stack.enter_context(connected(address)) for _ in range(20)]
                for sock in socks:
                    sock.setblocking(False)
                    sock.send(b'["')

                def wait() -> bool:
                    for sock in socks:
                        with contextlib.suppress(BlockingIOError):
                            sock.send(b"x" * 100_000)
                    return len(listener._waiting) == 19  # the other one is read on

                await came_true(wait)
                held = [stream.held for stream in listener._waiting]
                assert min(held) > tcp_listener.LARGE
                assert max(held) <= tcp_listener.LARGE + stream_module.READ

    run(main)


def test_a_connection_with_much_to_read_does_not_keep_another_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    feed = stream_module.StreamDecoder.feed

    def note(decoder: Any, piece: bytes) -> Any:
        looks.append(len(piece))
        return feed(decoder, piece)

    monkeypatch.setattr(stream_module.StreamDecoder, "feed", note)

    async def main() -> None:
        async with listening() as (wire, _, address):
            with connected(address) as sock, connected(address) as other:
                await asyncio.to_thread(sock.sendall, b"[" + b"[]," * 80_000)
                other.sendall(b"[7]")
                await came_true(lambda: wire.messages)
                assert max(looks) <= stream_module.READ

    run(main)


def test_nothing_is_handled_once_this_side_has_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "AT_ONCE", 2)

    async def main() -> None:
        async with listening() as (wire, endpoint, address):
            listener: Any = endpoint._listener
            with connected(address) as sock:
                sock.sendall(b"[0]" * 1000)
                await came_true(lambda: wire.received)
                listener._drop(sock.getsockname(), "a test")
                count = len(wire.received)
                assert count < 1000
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.to_thread(sock.recv, 100) == b""
                assert len(wire.received) == count

    run(main)


def test_a_large_message_that_takes_long_ends_when_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_listener, "STALLED", 0.2)
    monkeypatch.setattr(tcp_listener, "LONGEST_TURN", 0.3)
    monkeypatch.setattr(tcp_listener, "SLOWEST", 1)

    async def main() -> None:
        async with listening(1 << 24) as (wire, endpoint, address):
            listener: Any = endpoint._listener
            large = b'["' + b"x" * 2 * tcp_listener.LARGE + b'"]'
            with connected(address) as slow, connected(address) as other:
                await asyncio.to_thread(slow.sendall, large[:-10])
                await came_true(lambda: listener._turn)
                stream = listener._turn

                async def drip() -> None:
                    while True:
                        slow.sendall(b"x" * 1000)
                        await asyncio.sleep(0.02)

                dripping = asyncio.ensure_future(drip())
                await asyncio.sleep(2 * tcp_listener.LONGEST_TURN)
                assert listener._turn is stream  # nobody waits
                await asyncio.to_thread(other.sendall, large)
                await came_true(lambda: wire.messages == [large])
                assert stream.reason == "a large message takes more than 0.3 s, while others wait for it"
                with contextlib.suppress(ConnectionError):
                    await dripping
                await came_true(lambda: listener._turn is None)
                assert listener._look is None

    run(main)


# --------------------------------------------------------------------------------------------- the iblutil dialect


def test_arrays_leave_apart_and_frames_at_once() -> None:
    async def main() -> None:
        async with listening() as (wire, endpoint, address):
            with connected(address) as sock:
                sock.sendall(b"[0]")
                await came_true(lambda: wire.received)
                sent = [b"{1}", b"{2}", b"[3]", b"[4]", b"{5}", b"{6}"]
                # When they leave, not when they are read: who reads may be held up.
                listener: Any = endpoint._listener
                stream = listener._streams[sock.getsockname()]
                left: dict[bytes, float] = {}
                write = stream._write

                def written(data: bytes) -> None:
                    left[data] = endpoint.now()
                    write(data)

                stream._write = written
                wire.outbox += [(sock.getsockname(), data) for data in sent]
                endpoint.pump()
                assert list(left) == [b"{1}", b"{2}"]
                await came_true(lambda: len(left) == len(sent))
                assert list(left) == sent
                for before, after in (b"{2}", b"[3]"), (b"[3]", b"[4]"), (b"[4]", b"{5}"):
                    assert left[after] - left[before] >= legacy.ARRAY_GAP - 1e-3
                stream._write = write
                got = b""
                while len(got) < 18:
                    got += await asyncio.to_thread(sock.recv, 100)
                assert got == b"".join(sent)

    run(main)


def test_an_array_that_was_echoed_holds_up_nothing() -> None:
    async def main() -> None:
        async with listening() as (wire, endpoint, address):
            with connected(address) as sock:
                sock.sendall(b"[0]")
                await came_true(lambda: wire.received)
                listener: Any = endpoint._listener
                stream = listener._streams[sock.getsockname()]
                for n in range(40):
                    wire.outbox.append((sock.getsockname(), b"[%d]" % n))
                    endpoint.pump()
                    assert not stream._held, "it was not sent at once"
                    echo = await asyncio.to_thread(sock.recv, 100)
                    sock.sendall(echo)
                    await came_true(lambda n=n: len(wire.received) == n + 2)

    run(main)


def test_an_array_waits_until_the_probes_before_it_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a rig of iblutil's that is busy reads them together."""
    monkeypatch.setattr(legacy, "PROBE_GAP", LONG)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        rig = Rig()
        with rig.server:
            async with towards(rig.address) as (wire, endpoint):
                wire.outbox += [("probes", b"{1}"), ("probes", b"{2}"), ("requests", b"[3]")]
                endpoint.pump()
                with await rig.accept() as sock:
                    assert await received(sock, 6) == b"{1}{2}"
                    await loop.sock_sendall(sock, b"{1}")
                    await came_true(lambda: wire.messages == [b"{1}"])
                    await asyncio.sleep(2 * legacy.ARRAY_GAP)
                    with pytest.raises(BlockingIOError):
                        sock.recv(100)
                    await loop.sock_sendall(sock, b"{2}")
                    assert await received(sock, 3) == b"[3]"
                    monkeypatch.setattr(legacy, "PROBE_GAP", 2 * legacy.ARRAY_GAP)
                    begin = loop.time()
                    wire.outbox += [("probes", b"{4}"), ("requests", b"[5]")]
                    endpoint.pump()
                    assert await received(sock, 6) == b"{4}[5]"  # though the probe is lost
                    assert loop.time() - begin >= 2 * legacy.ARRAY_GAP - 1e-3

    run(main)


def test_a_flood_of_arrays_does_not_fill_the_memory() -> None:
    async def main() -> None:
        async with listening() as (wire, endpoint, address):
            with connected(address) as sock:
                sock.sendall(b"[0]")
                await came_true(lambda: wire.received)
                listener: Any = endpoint._listener
                stream = listener._streams[sock.getsockname()]
                wire.outbox += [(sock.getsockname(), b"[" + b"1" * 1000 + b"]")] * 5000
                endpoint.pump()
                assert sum(map(len, stream._held)) <= stream_module.BACKLOG + 1002
                await came_true(lambda: not listener._streams)

    run(main)


# -------------------------------------------------------------------------------------------------- a connection


def test_what_is_sent_while_connecting_leaves_when_the_connection_stands_each_thing_once() -> None:
    async def main() -> None:
        rig = Rig()
        with rig.server:
            async with towards(rig.address) as (wire, endpoint):
                request = b'{"request"}'
                wire.outbox += [("probes", b"{1}"), ("requests", request), ("probes", b"{2}"), ("requests", request)]
                endpoint.pump()
                with await rig.accept() as sock:
                    assert await received(sock, 17) == b'{1}{"request"}{2}'
                    wire.outbox += [("requests", request), ("probes", b"{3}")]  # again by the timers
                    endpoint.pump()
                    assert await received(sock, 3) == b"{3}"
                    large = b"{" + b"x" * stream_module.BACKLOG + b"}"
                    for _ in range(3):
                        wire.outbox.append(("requests", large))
                        endpoint.pump()
                    assert await received(sock, len(large)) == large
                    assert large not in endpoint._lines["requests"]._sent.values()  # type: ignore[attr-defined]
                    wire.outbox += [("probes", b"{same}"), ("probes", bytes([*b"{same}"]))]  # as to an iblutil rig
                    endpoint.pump()
                    assert await received(sock, 12) == b"{same}{same}"
                    await asyncio.get_running_loop().sock_sendall(sock, b"{4}[5]")
                    await came_true(lambda: wire.received == [(b"{4}", "requests"), (b"[5]", "requests")])

    run(main)


def test_a_connection_that_ends_is_opened_again_and_takes_what_is_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        rig = Rig()
        with rig.server:
            async with towards(rig.address) as (wire, endpoint):
                request = b'{"request"}'
                for spoiled in (b"", b"[1]junk", b"[1][2,"):
                    with await rig.accept() as sock:
                        await came_true(lambda: endpoint._lines["requests"]._stream)  # type: ignore[attr-defined]
                        wire.outbox.append(("requests", request))
                        endpoint.pump()
                        assert await received(sock, len(request)) == request
                        if spoiled:
                            await asyncio.get_running_loop().sock_sendall(sock, spoiled)
                    await came_true(lambda: not endpoint._lines["requests"]._stream)  # type: ignore[attr-defined]
                with await rig.accept():
                    pass
                assert wire.messages == [b"[1]", b"[1]"]
                assert [(line, error.kind) for line, error in wire.violations] == [
                    ("requests", "junk in the stream"),
                    ("requests", "cut message"),
                ]

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "requests: the connection has ended (closed by the other side); connecting again" in caplog.messages
    assert any("junk in the stream" in message for message in caplog.messages)


def test_refusal_is_told_until_somebody_listens() -> None:
    refused: list[Any] = []

    async def main() -> None:
        address = ("127.0.0.1", free_port(scheme="tcp"))
        async with towards(address, on_refusal=lambda line, now: refused.append(line)) as (wire, endpoint):
            wire.outbox.append(("requests", b"{lost with the attempt}"))
            endpoint.pump()
            await came_true(lambda: len(refused) == 3)
            rig = Rig(address[1])
            with rig.server, await rig.accept() as accepted:
                await asyncio.get_running_loop().sock_sendall(accepted, b"[1]")
                await came_true(lambda: wire.messages == [b"[1]"])
                wire.outbox.append(("probes", b"{1}"))
                endpoint.pump()
                assert await received(accepted, 3) == b"{1}"

    run(main)
    assert set(refused) == {"requests"}


def test_a_host_that_says_nothing_is_told_with_how_long_that_took(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def silence(*_: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", silence)
        async with towards(("127.0.0.1", free_port(scheme="tcp"))):
            await came_true(lambda: caplog.messages)

    monkeypatch.setattr(tcp, "CONNECT_TIMEOUT", 0.05)
    run(main)
    assert caplog.messages[0] == "requests: no connection: no answer within 0.05 s"


def test_a_rig_that_takes_and_closes_is_not_stormed() -> None:
    async def main() -> int:
        rig = Rig()
        count = 0
        with rig.server:
            async with towards(rig.address):
                end = time.monotonic() + 1.0
                while (left := end - time.monotonic()) > 0 or count < 2:
                    with contextlib.suppress(asyncio.TimeoutError):
                        accepting = asyncio.get_running_loop().sock_accept(rig.server)
                        sock, _ = await asyncio.wait_for(accepting, max(left, 0.1))
                        sock.close()
                        count += 1
        return count

    assert 2 <= run(main) <= 7


def test_a_line_of_a_lost_rig_begins_anew() -> None:
    async def main() -> None:
        rig = Rig()
        with rig.server:
            async with towards(rig.address) as (_, endpoint):
                endpoint.reconnect("requests", "nothing to do yet")
                with await rig.accept() as sock:
                    await came_true(lambda: endpoint._lines["requests"]._stream)  # type: ignore[attr-defined]
                    endpoint.reconnect("probes", "silent for 5 s")
                    with contextlib.suppress(ConnectionResetError):
                        assert await received(sock, 1) == b""
                    with await rig.accept():
                        pass

    run(main)


def test_parts_that_come_and_go_are_signs_of_life() -> None:
    async def main() -> None:
        rig = Rig()
        with rig.server:
            wire = Wire()
            lives: list[Any] = []
            endpoint = Endpoint(wire, print, None, lambda line, now: lives.append(line))
            try:
                endpoint.connect_stream(["requests", "probes"], socket.AF_INET, rig.address, 1 << 26)
                with await rig.accept() as sock:
                    loop = asyncio.get_running_loop()
                    await loop.sock_sendall(sock, b"[1]")
                    await came_true(lambda: wire.received)
                    assert lives == []
                    await loop.sock_sendall(sock, b'["half a mess')
                    await came_true(lambda: lives == ["requests"])
                    await loop.sock_sendall(sock, b'age"]')
                    await came_true(lambda: len(wire.received) == 2)
                    assert lives == ["requests"]

                    def probe() -> int:
                        wire.outbox.append(("probes", b"{1}"))
                        endpoint.pump()
                        return len(lives)

                    wire.outbox.append(("requests", b"{" + b"x" * (1 << 25) + b"}"))
                    endpoint.pump()
                    probe()
                    assert probe() == 1  # nobody reads
                    await received(sock, 1 << 23)
                    assert probe() == 2
            finally:
                endpoint.close()
                await came_true(lambda: endpoint._lines["requests"]._task.done())  # type: ignore[attr-defined]

    run(main)


def test_closing_at_every_stage() -> None:
    async def main() -> None:
        async with towards(("127.0.0.1", free_port(scheme="tcp"))):
            pass  # not even begun
        async with towards(("127.0.0.1", free_port(scheme="tcp"))):
            await asyncio.sleep(2 * tcp.FIRST_RETRY)
        rig = Rig()
        with rig.server:
            async with towards(rig.address) as (wire, endpoint):
                with await rig.accept() as sock:
                    await came_true(lambda: endpoint._lines["requests"]._stream)  # type: ignore[attr-defined]
                    wire.outbox += [("requests", b"[1]"), ("requests", b"[2]"), ("probes", b"{bye}")]
                    endpoint.close()  # what waits for its turn leaves at last
                    assert await received(sock, 100) == b"[1][2]{bye}"

    run(main)


def test_frames_of_both_dialects_go_through_whole() -> None:
    async def main() -> None:
        async with listening(1 << 26) as (wire, _, address), towards(address, 1 << 26) as (here, endpoint):
            large = messages.request("0" * 16, 1, compose("EXPINIT", "x" * 60_000))
            here.outbox += [("probes", messages.probe("0" * 16, 1, 1)), ("requests", large)]
            endpoint.pump()
            await came_true(lambda: len(wire.received) == 2)
            assert wire.messages[1] == large
            assert wire.received[0][1] == wire.received[1][1]  # one connection for both lines

    run(main)
