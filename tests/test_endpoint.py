"""The pump between a protocol core and real sockets: refusals, junk, forged sources, timers."""

from __future__ import annotations

import asyncio
import json
import math
import random
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_helpers import SHORT, RawRig, Wire, came_true, run, silent_rig
from processes import LONG, free_port, has_ipv6, until

from rigsync.config.address import parse_uri
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.core import legacy, messages
from rigsync.core.arguments import compose
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import ProbeRefused, ViolationSeen
from rigsync.core.fanout import Fanout
from rigsync.core.responder import Responder
from rigsync.core.rigs import RigConfig
from rigsync.errors import ConfigError, PushTimeout, RemoteProtocolError, RigRefused, RigsyncError
from rigsync.net import udp
from rigsync.net.endpoint import Endpoint, look_up, stamp_clock
from rigsync.rig.rig import Rig

Serve = Callable[..., Rig]
Connect = Callable[..., Auxiliaries]

LARGEST = 65_507
IDLE = 1.0
"""Seconds over which wake-ups are counted."""
STANDSTILL = 1.0
"""Seconds, many times what the scheduling of a busy computer takes."""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="waits for a refusal as only Linux lets it")


@pytest.fixture
def plain() -> Iterator[socket.socket]:
    """A UDP socket as any program has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(LONG)
        yield sock


# ------------------------------------------------------------------------------------------------- in and out


@pytest.mark.parametrize("asked", ["requests", "probes"])
def test_a_refusal_is_told_after_all_that_came_before_it_from_that_rig(asked: str) -> None:
    read: list[int] = []

    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print, on_refusal=lambda *_: read.append(len(wire.received)))
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rig:
                rig.bind(("127.0.0.1", 0))
                rig.settimeout(LONG)
                sources = {}
                for line in ("requests", "probes"):
                    await endpoint.connect(("cameras", line), socket.AF_INET, rig.getsockname())
                    wire.outbox.append((("cameras", line), b"hello"))
                    endpoint.pump()
                    sources[line] = rig.recvfrom(10)[1]
                for n in range(20):
                    rig.sendto(b"%d" % n, sources["probes"])
            wire.outbox.append((("cameras", asked), b"are you there?"))
            endpoint.pump()
            await came_true(lambda: read)
        finally:
            endpoint.close()

    run(main)
    assert read == [20]


def test_lines_carry_datagrams_both_ways(plain: socket.socket) -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        try:
            for line in ("one", "two"):
                await endpoint.connect(line, socket.AF_INET, plain.getsockname())
            wire.outbox += [("one", b"first"), ("two", b"second"), ("one", b"third")]
            endpoint.pump()
            got = [plain.recvfrom(100) for _ in range(3)]
            assert [data for data, _ in got] == [b"first", b"second", b"third"]
            assert got[0][1] == got[2][1] != got[1][1]
            for _, source in got:
                plain.sendto(b"back", source)
            await came_true(lambda: len(wire.received) == 3)
            assert sorted(wire.received) == [(b"back", "one"), (b"back", "one"), (b"back", "two")]
        finally:
            endpoint.close()

    run(main)


def test_listener_answers_each_source(plain: socket.socket) -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        try:
            address = await endpoint.listen(socket.AF_INET, ("127.0.0.1", 0))
            assert address[0] == "127.0.0.1"
            assert address[1] > 0
            plain.sendto(b"", address)
            plain.sendto(b"hello", address)
            await came_true(lambda: len(wire.received) == 2)
            assert wire.received == [(b"", plain.getsockname()), (b"hello", plain.getsockname())]
            wire.outbox.append((plain.getsockname(), b"answer"))
            endpoint.pump()
            assert plain.recvfrom(100) == (b"answer", address)
        finally:
            endpoint.close()

    run(main)


@pytest.mark.skipif(not has_ipv6(), reason="this computer has no IPv6")
def test_ipv6() -> None:
    async def main() -> None:
        here, there = Wire(), Wire()
        listener, endpoint = Endpoint(here, print), Endpoint(there, print)
        try:
            address = await listener.listen(socket.AF_INET6, ("::1", 0))
            await endpoint.connect("line", socket.AF_INET6, address)
            there.outbox.append(("line", b"hello"))
            endpoint.pump()
            await came_true(lambda: here.received)
            here.outbox.append((here.received[0][1], b"answer"))
            listener.pump()
            await came_true(lambda: there.received == [(b"answer", "line")])
        finally:
            listener.close()
            endpoint.close()

    run(main)


def test_largest_datagram_and_a_burst(plain: socket.socket) -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        try:
            await endpoint.connect("line", socket.AF_INET, plain.getsockname())
            wire.outbox.append(("line", b"x" * LARGEST))
            endpoint.pump()
            data, source = plain.recvfrom(70_000)
            assert len(data) == LARGEST
            plain.sendto(data, source)
            for i in range(200):
                plain.sendto(b"%d" % i, source)
            await came_true(lambda: len(wire.received) == 201)
            assert [data for data, _ in wire.received] == [data, *(b"%d" % i for i in range(200))]
        finally:
            endpoint.close()

    run(main)


def test_other_sources_are_kept_out(plain: socket.socket) -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        try:
            await endpoint.connect("line", socket.AF_INET, plain.getsockname())
            wire.outbox.append(("line", b"hello"))
            endpoint.pump()
            _, source = plain.recvfrom(100)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
                forger.sendto(b"forged", source)
                plain.sendto(b"genuine", source)
                await came_true(lambda: wire.received)
            assert wire.received == [(b"genuine", "line")]
        finally:
            endpoint.close()

    run(main)


def test_addresses_that_cannot_be_had_leave_no_socket(plain: socket.socket) -> None:
    async def main() -> None:
        endpoint = Endpoint(Wire(), print)
        try:
            with pytest.raises(OSError, match="in use"):
                await endpoint.listen(socket.AF_INET, plain.getsockname())
            with pytest.raises(OSError, match=r"\d"):
                await endpoint.listen(socket.AF_INET, ("192.0.2.1", 0))
            with pytest.raises(OSError, match=r"\d"):
                await endpoint.connect("line", socket.AF_INET, ("::1", 9))
        finally:
            endpoint.close()

    run(main)


def test_loop_that_goes_deaf_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "ProactorEventLoop", asyncio.SelectorEventLoop, raising=False)

    async def main() -> None:
        with pytest.raises(RigsyncError, match="SelectorEventLoop"):
            Endpoint(Wire(), print)

    run(main)


def test_names_are_looked_up_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def look(host: str, port: int, **_: Any) -> Any:
        threads.append(threading.current_thread())
        if host == "nobody":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET6, 0, 0, "", ("::1", port, 0, 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look)

    async def main() -> None:
        found = await look_up(RigConfig("a", parse_uri("pc:5")))
        assert found == [(socket.AF_INET, ("127.0.0.1", 5)), (socket.AF_INET6, ("::1", 5, 0, 0))]
        with pytest.raises(ConfigError, match="nobody"):
            await look_up(RigConfig("a", parse_uri("nobody")))
        assert threading.current_thread() not in threads
        await look_up(RigConfig("a", parse_uri("127.0.0.1")))  # needs no name server
        assert threads[-1] is threading.current_thread()

    run(main)


# ------------------------------------------------------------------------------------------------ pump and timer


def test_stamps_are_right_though_the_computer_is_busy_between_two_looks_at_its_clocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall, looks = time.time_ns, iter(range(2))

    def dawdle() -> int:
        told = wall()
        time.sleep(0.05 if next(looks, 2) < 2 else 0.0)
        return told

    monkeypatch.setattr(time, "time_ns", dawdle)

    async def main() -> None:
        clock, loop = stamp_clock(), asyncio.get_running_loop()
        before, stamp, after = wall(), clock.stamp(loop.time()), wall()
        assert before - 5_000_000 < stamp < after + 5_000_000

    run(main)


def test_pump_goes_on_until_nothing_is_left_and_may_be_called_from_within(plain: socket.socket) -> None:
    async def main() -> None:
        wire = Wire()
        told: list[Any] = []

        def on_event(event: Any) -> None:
            told.append(event)
            if event < 3:
                wire.outbox.append(("line", b"%d" % event))
                wire.events += [event + 1, 10]
            endpoint.pump()

        endpoint = Endpoint(wire, on_event)
        try:
            await endpoint.connect("line", socket.AF_INET, plain.getsockname())
            wire.events.append(0)
            endpoint.pump()
            assert told == [0, 1, 10, 2, 10, 3, 10]
            assert [plain.recv(10) for _ in range(3)] == [b"0", b"1", b"2"]
        finally:
            endpoint.close()

    run(main)


def test_timer_is_armed_once_and_earlier_where_asked() -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        try:
            endpoint.pump()
            assert endpoint._timer is None
            begin = endpoint.now()
            wire.due = begin + LONG
            endpoint.pump()
            wire.due = begin + SHORT
            endpoint.pump()
            endpoint.pump()
            await came_true(lambda: wire.ticks)
            assert wire.ticks[0] >= begin + SHORT
            await asyncio.sleep(SHORT)
            assert len(wire.ticks) == 1
            wire.due = endpoint.now() - LONG  # overdue: at once, and once
            endpoint.pump()
            await came_true(lambda: len(wire.ticks) == 2)
            await asyncio.sleep(SHORT)
            assert len(wire.ticks) == 2
        finally:
            endpoint.close()

    run(main)


def stand_still() -> None:
    """Do nothing for so long that a busy computer cannot be the reason."""
    time.sleep(STANDSTILL)


@pytest.mark.parametrize("hears", [False, True])
def test_that_this_program_has_stood_still_is_told_before_all_else_and_once(plain: socket.socket, hears: bool) -> None:
    told: list[tuple[int, int]] = []

    class Noting(Wire):
        def note_standstill(self, seconds: float, now: float) -> None:
            if seconds > STANDSTILL / 2:
                told.append((len(self.received), len(self.ticks)))

    async def main() -> None:
        wire = Noting()
        endpoint = Endpoint(wire, print)
        try:
            await endpoint.connect("line", socket.AF_INET, plain.getsockname())
            wire.outbox.append(("line", b"hello"))
            wire.due = endpoint.now() + SHORT
            endpoint.pump()
            _, source = plain.recvfrom(100)
            if hears:
                plain.sendto(b"back", source)
            stand_still()
            await came_true(lambda: wire.ticks and (wire.received or not hears))
            assert told == [(0, 0)]
            wire.due = endpoint.now() - LONG  # long due, and nobody's standing still
            endpoint.pump()
            await came_true(lambda: len(wire.ticks) == 2)
            plain.sendto(b"again", source)
            stand_still()  # with nothing due, there is nothing to be missed
            await came_true(lambda: len(wire.received) == 1 + hears)
            assert told == [(0, 0)]
        finally:
            endpoint.close()

    run(main)


def test_that_what_is_told_has_held_this_program_up_is_noted_each_time(plain: socket.socket) -> None:
    """A callback on this thread that blocks keeps it from hearing rigs, whatever it was called for."""
    told: list[int] = []

    class Noting(Wire):
        def note_standstill(self, seconds: float, now: float) -> None:
            if seconds > STANDSTILL / 2:
                told.append(len(self.ticks))

        def handle_timer(self, now: float) -> None:
            super().handle_timer(now)
            if len(self.ticks) == 1:
                self.events.append("what the timer has brought")

        def receive_datagram(self, data: bytes, source: Any, now: float) -> None:
            super().receive_datagram(data, source, now)
            self.events.append("what was heard")

    async def main() -> None:
        wire = Noting()

        def block(_: Any) -> None:
            if wire.due == math.inf:
                wire.due = endpoint.now() + SHORT  # which is over when this returns
            stand_still()

        endpoint = Endpoint(wire, block)
        try:
            await endpoint.connect("line", socket.AF_INET, plain.getsockname())
            wire.outbox.append(("line", b"hello"))
            wire.due = endpoint.now()
            endpoint.pump()
            _, source = plain.recvfrom(100)
            await came_true(lambda: len(wire.ticks) == 2)
            assert told == [1]
            wire.due = endpoint.now() + SHORT
            endpoint.pump()
            plain.sendto(b"back", source)
            stand_still()
            await came_true(lambda: len(wire.ticks) == 3)
            assert told == [1, 2, 2]
        finally:
            endpoint.close()

    run(main)


def test_close_sends_what_is_left_and_then_nothing_more(plain: socket.socket) -> None:
    async def main() -> None:
        wire = Wire()
        told: list[Any] = []
        endpoint = Endpoint(wire, told.append, told.append)
        await endpoint.connect("line", socket.AF_INET, plain.getsockname())
        wire.due = endpoint.now() + SHORT / 2
        endpoint.pump()
        wire.outbox.append(("line", b"goodbye"))
        wire.events.append("last")
        endpoint.close()
        endpoint.close()
        data, source = plain.recvfrom(100)
        assert (data, told) == (b"goodbye", ["last"])
        plain.sendto(b"late", source)
        wire.outbox.append(("line", b"too late"))
        wire.events.append("too late")
        endpoint.pump()
        endpoint.receive(b"late", "line")
        endpoint.refuse("line")
        await asyncio.sleep(SHORT)
        assert (wire.received, wire.ticks, told) == ([], [], ["last"])
        plain.settimeout(0)
        with pytest.raises(BlockingIOError):
            plain.recv(100)

    run(main)


def test_close_in_an_event(plain: socket.socket) -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, lambda _: endpoint.close())
        await endpoint.connect("line", socket.AF_INET, plain.getsockname())
        wire.due = endpoint.now() + SHORT / 2
        wire.events.append("close")
        endpoint.pump()
        await asyncio.sleep(SHORT)
        assert wire.ticks == []

    run(main)


# --------------------------------------------------------------------------------------------------- refusals


def test_refusal_is_told_by_line() -> None:
    async def main() -> None:
        wire = Wire()
        refused: list[Any] = []
        endpoint = Endpoint(wire, print, lambda line, now: refused.append((line, now)))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            try:
                await endpoint.connect("down", socket.AF_INET, ("127.0.0.1", free_port()))
                await endpoint.connect("up", socket.AF_INET, silent.getsockname())
                begin = endpoint.now()
                for _ in range(3):
                    wire.outbox += [("down", b"hello"), ("up", b"hello")]
                    endpoint.pump()
                    await asyncio.sleep(0.01)
                await came_true(lambda: refused)
                assert {line for line, _ in refused} == {"down"}
                assert all(begin <= now <= endpoint.now() for _, now in refused)
            finally:
                endpoint.close()

    run(main)


@on_linux
def test_datagram_sent_right_after_a_refusal_is_not_lost() -> None:
    async def main() -> None:
        wire = Wire()
        refused: list[Any] = []
        endpoint = Endpoint(wire, print, lambda line, _: refused.append(line))
        address = ("127.0.0.1", free_port())
        try:
            await endpoint.connect("line", socket.AF_INET, address)
            for round_number in range(3):
                wire.outbox.append(("line", b"into the void"))
                endpoint.pump()
                # Without letting the loop see it, which would take note of it in time.
                poll = select.poll()
                poll.register(endpoint._lines["line"]._socket.fileno(), 0)
                assert poll.poll(LONG * 1000), "no refusal came"
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
                    back.bind(address)
                    back.settimeout(LONG)
                    wire.outbox.append(("line", b"hello"))
                    endpoint.pump()
                    assert back.recv(100) == b"hello"
                while len(refused) <= round_number:
                    await asyncio.sleep(0)  # it is told once all that came before has been read
                assert refused == ["line"] * (round_number + 1)
        finally:
            endpoint.close()

    run(main)


class Reset:
    """A socket that tells of a refusal first, as Windows does of one that has sent to a closed port."""

    def __init__(self, sock: socket.socket):
        self._socket, self.is_told = sock, False

    def recvfrom(self, size: int) -> Any:
        if self.is_told:
            return self._socket.recvfrom(size)
        self.is_told = True
        raise ConnectionResetError(10054, "as Windows tells it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def test_refusal_on_a_listener_is_nobodys(plain: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "_TELLS_ADDRESS", False)  # as on Windows

    async def main() -> None:
        wire = Wire()
        told: list[Any] = []
        endpoint = Endpoint(wire, told.append, told.append)
        try:
            address = await endpoint.listen(socket.AF_INET, ("127.0.0.1", 0))
            listener: Any = endpoint._listener
            listener._socket = Reset(listener._socket)
            wire.outbox += [(("127.0.0.1", free_port()), b"into the void"), (plain.getsockname(), b"answer")]
            endpoint.pump()
            assert plain.recv(100) == b"answer"
            plain.sendto(b"hello", address)
            await came_true(lambda: wire.received)
            assert listener._socket.is_told
            assert told == []
        finally:
            endpoint.close()

    run(main)


def test_other_errors_of_the_network_are_logged_once(plain: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        try:
            await endpoint.connect("line", socket.AF_INET, plain.getsockname())
            for _ in range(3):
                wire.outbox += [("line", b"x" * (LARGEST + 1)), ("line", b"hello")]
                endpoint.pump()
                assert plain.recv(100) == b"hello"
        finally:
            endpoint.close()

    run(main)
    told = [r.getMessage() for r in caplog.records if r.name == "rigsync.endpoint"]
    assert len(told) == 1
    assert "sending again" in told[0]


def test_coordinator_outlives_refusals_and_finds_the_rig(connect: Connect, serve: Serve) -> None:
    port = free_port()
    refusals: list[ProbeRefused] = []
    aux = connect({"cameras": f"127.0.0.1:{port}"}, connect_timeout=0)
    aux.on("ProbeRefused", refusals.append)
    until(lambda: len(refusals) > 2)
    serve("cameras", port=port)
    aux.wait_for(timeout=LONG)
    assert aux.request("EXPSTATUS") == {"cameras": [0]}


def test_push_right_after_a_refusal_is_answered(connect: Connect, serve: Serve) -> None:
    rig = serve("cameras")
    aux = connect(rig)
    for _ in range(3):
        port = int(rig.uri.rpartition(":")[2])
        rig.close()
        outcome = aux.push("EXPSTATUS", wait=True, timeout=LONG)
        assert isinstance(outcome.failed["cameras"], RigRefused)
        rig = serve("cameras", port=port)
        assert aux.request("EXPSTATUS") == {"cameras": [0]}


def test_rig_outlives_coordinators_that_vanish(serve: Serve, connect: Connect, plain: socket.socket) -> None:
    answering = threading.Semaphore(0)
    rig = serve("cameras", {"EXPINFO": lambda *_: answering.release()})
    address = ("127.0.0.1", int(rig.uri.rpartition(":")[2]))
    for n in range(1, 6):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as vanishing:
            for data in (
                messages.probe("00000000000000bb", n, 1),
                messages.request("00000000000000bb", n, compose("EXPINFO")),
                legacy.array(compose("EXPINFO"), legacy.COORDINATOR_MARK),
            ):
                vanishing.sendto(data, address)
        for _ in range(2):
            assert answering.acquire(timeout=LONG)
    aux = connect(rig)
    assert aux.all_alive
    assert list(aux.request("EXPINFO")) == ["cameras"]
    plain.sendto(messages.probe("00000000000000cc", 1, 5), address)
    while isinstance(frame := messages.decode(plain.recv(1000)), messages.Notice):
        pass  # of what the others asked for
    assert isinstance(frame, messages.Alive)


# ------------------------------------------------------------------------------------------------------- junk


def junk(seed: int, count: int, frames: list[bytes]) -> Iterator[bytes]:
    """Yield bytes that no side may take for a frame: random, truncated, mutated, huge and empty."""
    draw = random.Random(seed)
    yield from [
        b"",
        b"\x00",
        b"[",
        b"{",
        b"[]",
        b"{}",
        b"[0]",
        b"[999999,1]",
        b"null",
        b'"EXPSTART"',
        b"\xff" * LARGEST,
    ]
    yield b"[" * LARGEST
    yield b'{"rigsync":1,"kind":"request","boot":"00000000000000aa","n":' + b"9" * 60_000
    yield b"[1," + b"9" * 6_000 + b"]extra"
    yield b'[1, "\xed\xa0\x80"]'
    made = 0
    while made < count:
        frame = draw.choice(frames)
        kind = draw.randrange(5)
        if kind == 0:
            piece = draw.randbytes(draw.choice([1, 10, 100, 1_000, LARGEST]))
        elif kind == 1:
            piece = frame[: draw.randrange(len(frame))]
        elif kind == 2:
            place = draw.randrange(len(frame))
            piece = frame[:place] + draw.randbytes(draw.randrange(1, 4)) + frame[place + draw.randrange(3) :]
        elif kind == 3:
            piece = frame + draw.choice(frames)
        else:
            content = json.loads(frame)
            key = draw.choice(list(content)) if isinstance(content, dict) else 0
            content[key] = draw.choice([None, -1, 2**70, 1.5, "", "x" * 1_000, [], {}, [[]] * 50, True])
            piece = json.dumps(content).encode()
        try:
            messages.decode(piece)
        except RemoteProtocolError:
            made += 1
            yield piece


FROM_A_RIG = [
    messages.alive(messages.Alive(RawRig.boot, 1, 1, 2, 3, "raw", ExpStatus.CONNECTED, None, "1")),
    messages.ack(RawRig.boot, 1),
    messages.reply(RawRig.boot, 1, compose("EXPSTATUS"), 1, 2),
    messages.failure(RawRig.boot, 1, "OSError", "no disk", "Traceback"),
    messages.bye(RawRig.boot, 1, "over"),
    legacy.array(compose("EXPINFO", "CONNECTED", {"a": 1}), b""),
    legacy.error_array("OSError", "no disk", ExpMessage.EXPINIT),
]
FROM_A_COORDINATOR = [
    messages.probe("00000000000000bb", 1, 5),
    messages.request("00000000000000bb", 1, compose("EXPINIT", {"exp_ref": "2026-03-01_2_mouse"})),
    messages.bye("00000000000000bb", 1, "over"),
    legacy.array(compose("EXPSTART", "2026-03-01_2_mouse", {"a": 1}), legacy.COORDINATOR_MARK),
]


def violations_of(aux: Auxiliaries, rig: str) -> dict[str, int]:
    """Return how often a rig has sent what it may not, by kind.

    Without the second answers that a `RawRig` gives where this computer was busy and it was asked again.
    """
    assert aux.services is not None
    peer = aux.services[rig].peer
    assert peer is not None
    return {kind: count for kind, count in peer.violations.items() if kind != "late answer"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_coordinator_takes_junk(connect: Connect, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """A rig that sends junk on both lines before every answer."""
    pieces = list(junk(seed, 100, FROM_A_RIG))
    waiting = iter(pieces)
    answered: set[int] = set()

    def answer(raw: RawRig, request: messages.Request, source: Any) -> None:
        if request.n not in answered:  # else it is asked again, since this computer was busy
            answered.add(request.n)
            raw.socket.sendto(next(waiting), source)
            raw.socket.sendto(next(waiting), raw.sources["Probe"])
        raw.reply(request, source)

    with RawRig("raw", answer) as raw:
        aux = connect(raw)
        seen: list[ViolationSeen] = []
        aux.on("ViolationSeen", seen.append)
        for _ in range(len(pieces) // 2):
            assert aux.request("EXPSTATUS") == {"raw": [{"by": "raw"}]}
            assert aux.all_alive
        sent = len(pieces) // 2 * 2
        until(lambda: sum(violations_of(aux, "raw").values()) >= sent, "the count of violations")
        violations = violations_of(aux, "raw")
        assert sum(violations.values()) == sent
        assert sorted(event.kind for event in seen) == sorted(violations)
    told = [r.getMessage() for r in caplog.records if "counted" in r.getMessage()]
    assert len(told) == len(violations)
    assert all(line.startswith("raw: ") and len(line) < 500 for line in told)
    assert not [r for r in caplog.records if r.name == "asyncio"]


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_rig_takes_junk(serve: Serve, plain: socket.socket, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rig = serve("cameras")
    address = ("127.0.0.1", int(rig.uri.rpartition(":")[2]))
    count = 0
    for n, piece in enumerate(junk(seed, 100, FROM_A_COORDINATOR), 1):
        plain.sendto(piece, address)
        plain.sendto(messages.probe("00000000000000bb", n, 5), address)
        frame = messages.decode(plain.recv(70_000))
        assert isinstance(frame, messages.Alive)
        assert (frame.n, frame.status.name) == (n, "CONNECTED")
        count = n
    assert rig._session is not None
    violations = rig._session.responder.violations
    assert sum(violations.values()) == count
    told = [r.getMessage() for r in caplog.records if "counted" in r.getMessage()]
    assert len(told) == len(violations)
    assert all(line.startswith("cameras: 127.0.0.1:") and len(line) < 500 for line in told)
    assert not [r for r in caplog.records if r.name == "asyncio"]


def test_frames_of_the_wrong_side_are_violations(connect: Connect, serve: Serve, plain: socket.socket) -> None:
    rig = serve("cameras")
    address = ("127.0.0.1", int(rig.uri.rpartition(":")[2]))
    for frame in (FROM_A_RIG[0], FROM_A_RIG[2], FROM_A_RIG[3]):
        plain.sendto(frame, address)
    plain.sendto(messages.probe("00000000000000bb", 1, 5), address)
    plain.recv(1000)
    assert rig._session is not None
    assert rig._session.responder.violations == {"stray frame": 3}
    with RawRig("raw") as raw:
        aux = connect(raw)
        aux.request("EXPSTATUS")
        for frame in FROM_A_COORDINATOR[:2]:
            raw.socket.sendto(frame, raw.sources["Request"])
        aux.request("EXPSTATUS")
        until(lambda: violations_of(aux, "raw").get("stray frame") == 2)
        assert violations_of(aux, "raw") == {"stray frame": 2}


def test_datagrams_that_do_not_belong_to_what_is_outstanding(connect: Connect) -> None:
    """Answers with other numbers, of other boots, and second copies settle nothing."""

    def answer(raw: RawRig, request: messages.Request, source: Any) -> None:
        wrong, later = compose("EXPSTATUS", 30), request.n + 1000  # a copy of a request may come while the next waits
        raw.socket.sendto(messages.reply(raw.boot, later, wrong, 1, 2), source)
        raw.socket.sendto(messages.reply(raw.boot, request.n - 1, wrong, 1, 2), source)
        raw.socket.sendto(messages.failure(raw.boot, later, "OSError", "", ""), source)
        raw.socket.sendto(messages.bye("00000000000000cc", 1, "not from this one"), source)
        for _ in range(3):
            raw.reply(request, source)

    with RawRig("raw", answer) as raw:
        aux = connect(raw)
        for _ in range(20):
            assert aux.request("EXPSTATUS") == {"raw": [{"by": "raw"}]}
        assert aux.all_alive


def test_forged_reply_from_another_socket_has_no_effect(connect: Connect, plain: socket.socket) -> None:
    with RawRig("raw", RawRig.acknowledge) as raw:
        aux = connect(raw)
        request_time = aux.push("EXPSTATUS", timeout=0.3)
        until(lambda: raw.requests)
        n = raw.requests[0].n
        for target in (raw.sources["Request"], raw.sources["Probe"]):
            plain.sendto(messages.reply(raw.boot, n, compose("EXPSTATUS", 30), 1, 2), target)
            plain.sendto(messages.failure(raw.boot, n, "OSError", "", ""), target)
            plain.sendto(messages.bye(raw.boot, n, "over"), target)
            plain.sendto(b"junk", target)
        until(lambda: request_time in aux.log)
        assert isinstance(aux.log[request_time], PushTimeout)
        assert aux.all_alive
        assert violations_of(aux, "raw") == {}


# ---------------------------------------------------------------------------------------------------- idleness


@pytest.fixture
def wake_ups(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts how often the timer of each kind of core goes off, and the probes."""
    counts = {"coordinator": 0, "rig": 0, "probes": 0}
    send = Endpoint._send

    def sending(self: Endpoint, destination: Any, data: bytes) -> None:
        counts["probes"] += b'"kind":"probe"' in data
        send(self, destination, data)

    monkeypatch.setattr(Endpoint, "_send", sending)
    for kind, core in (("coordinator", Fanout), ("rig", Responder)):

        def counting(self: Any, now: float, *, kind: str = kind, handle: Any = core.handle_timer) -> None:
            counts[kind] += 1
            handle(self, now)

        monkeypatch.setattr(core, "handle_timer", counting)
    return counts


def test_idle_endpoints_do_not_spin(wake_ups: dict[str, int], serve: Serve, connect: Connect) -> None:
    aux = connect(*[serve(f"rig{i}") for i in range(16)])
    assert aux.all_alive
    aux.request("EXPSTATUS")
    assert aux.services
    until(lambda: not any(rig.peer._liveness._burst_left for rig in aux.services.values()))  # type: ignore[union-attr]
    wake_ups.update(coordinator=0, rig=0, probes=0)
    time.sleep(IDLE)
    # A probe of each a second, more where this computer was busy and clocks are not known well; and little besides.
    assert wake_ups["coordinator"] <= 3 * max(16, wake_ups["probes"])
    assert wake_ups["rig"] == 0
    until(lambda: wake_ups["coordinator"], "the next probe")


def test_idle_endpoints_do_not_spin_though_rigs_are_down(wake_ups: dict[str, int], connect: Connect) -> None:
    with silent_rig() as silent:
        down = {f"down{i}": f"127.0.0.1:{free_port()}" for i in range(2)}
        aux = connect(down, silent, connect_timeout=0)
        for message in ("EXPSTATUS", "EXPEND"):
            aux.push(message)
        time.sleep(0.3)
        wake_ups.update(coordinator=0)
        time.sleep(IDLE)
        assert wake_ups["coordinator"] <= 3 * 20  # a silent rig is probed more often, up to eight times a second
