from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from processes import LONG, free_port, has_ipv6, until

from rigsync.net import relay as relay_module
from rigsync.net import udp as udp_module
from rigsync.net.relay import Relay, relay_before
from rigsync.runtime.loop_thread import LoopThread

NAMES = [b"%02d" % number for number in range(50)]
"""Datagrams that can be told apart."""


def open_sockets() -> int:
    return sum(isinstance(thing, socket.socket) and thing.fileno() != -1 for thing in gc.get_objects())


@pytest.fixture(autouse=True)
def nothing_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail on threads and sockets left behind, and on what asyncio has to complain of."""
    sockets, threads = open_sockets(), set(threading.enumerate())
    yield
    assert open_sockets() == sockets
    assert set(threading.enumerate()) <= threads
    gc.collect()  # what was left to the collector gives a ResourceWarning now
    assert [record.getMessage() for record in caplog.records] == []


@contextlib.contextmanager
def udp(address: tuple[str, int] = ("127.0.0.1", 0), family: int = socket.AF_INET) -> Iterator[socket.socket]:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LONG)
        sock.bind(address)
        yield sock


@pytest.fixture
def rig() -> Iterator[socket.socket]:
    with udp() as sock:
        yield sock


@pytest.fixture
def source() -> Iterator[socket.socket]:
    with udp() as sock:
        yield sock


@contextlib.contextmanager
def before(rig: socket.socket, **faults: Any) -> Iterator[Relay]:
    with relay_before({"cameras": rig.getsockname()[:2]}, **faults) as relays:
        yield relays["cameras"]


def send_all(source: socket.socket, relay: Relay) -> None:
    for name in NAMES:
        source.sendto(name, relay.address)


# --------------------------------------------------------------------------------------------------- a good network


def test_it_forwards_both_ways(rig: socket.socket, source: socket.socket) -> None:
    with before(rig) as relay:
        source.sendto(b"there", relay.address)
        data, path = rig.recvfrom(100)
        assert data == b"there"
        rig.sendto(b"back", path)
        assert source.recvfrom(100) == (b"back", relay.address)
        until(lambda: relay.forwarded == 2)
        assert relay.dropped == 0


def test_it_keeps_the_order(rig: socket.socket, source: socket.socket) -> None:
    with before(rig) as relay:
        send_all(source, relay)
        assert [rig.recv(100) for _ in NAMES] == NAMES


@pytest.mark.parametrize("size", [0, 65_507])
def test_it_carries_every_size_that_udp_has(rig: socket.socket, source: socket.socket, size: int) -> None:
    data = b"x" * size
    # macOS takes the send buffer for the largest datagram.
    source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with before(rig) as relay:
        source.sendto(data, relay.address)
        assert rig.recv(1 << 16) == data


def test_two_sources_are_kept_apart(rig: socket.socket, source: socket.socket) -> None:
    with before(rig) as relay, udp() as other:
        source.sendto(b"one", relay.address)
        one, path_of_one = rig.recvfrom(100)
        other.sendto(b"two", relay.address)
        two, path_of_two = rig.recvfrom(100)
        assert (one, two) == (b"one", b"two")
        assert path_of_one != path_of_two
        rig.sendto(b"to two", path_of_two)
        rig.sendto(b"to one", path_of_one)
        assert source.recv(100) == b"to one"
        assert other.recv(100) == b"to two"


def test_a_source_keeps_its_path(rig: socket.socket, source: socket.socket) -> None:
    with before(rig) as relay:
        send_all(source, relay)
        assert len({rig.recvfrom(100)[1] for _ in NAMES}) == 1


def test_the_longest_silent_source_makes_room(
    rig: socket.socket, source: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "MOST_SOURCES", 2)

    def path_of(sock: socket.socket) -> Any:
        sock.sendto(b"", relay.address)
        return rig.recvfrom(100)[1]

    with before(rig) as relay, udp() as second, udp() as third:
        paths = {sock: path_of(sock) for sock in (source, second)}
        assert path_of(source) == paths[source]  # so that the second is the longest silent
        sockets = open_sockets()
        path_of(third)
        assert open_sockets() == sockets
        assert path_of(source) == paths[source]
        rig.sendto(b"too late", paths[second])
        path_of(second)  # is served all the same, by a socket of its own again
        rig.sendto(b"in time", path_of(source))
        assert source.recv(100) == b"in time"


def test_a_host_name_will_do(rig: socket.socket, source: socket.socket) -> None:
    with relay_before({"cameras": ("localhost", rig.getsockname()[1])}) as relays:
        source.sendto(b"there", relays["cameras"].address)
        assert rig.recv(100) == b"there"


@pytest.mark.skipif(not has_ipv6(), reason="this computer has no IPv6")
def test_the_target_may_be_ipv6(source: socket.socket) -> None:
    with udp(("::1", 0), socket.AF_INET6) as rig, before(rig) as relay:
        source.sendto(b"there", relay.address)
        data, path = rig.recvfrom(100)
        assert data == b"there"
        rig.sendto(b"back", path)
        assert source.recv(100) == b"back"


# ---------------------------------------------------------------------------------------------------- a bad network


def test_a_loss_of_1_cuts_the_network_until_it_is_healed(rig: socket.socket, source: socket.socket) -> None:
    with before(rig, loss=1.0) as relay:
        send_all(source, relay)
        until(lambda: relay.dropped == len(NAMES))
        assert relay.forwarded == 0
        relay.loss = 0.0
        source.sendto(b"healed", relay.address)
        data, path = rig.recvfrom(100)
        assert data == b"healed"
        relay.loss = 1.0
        rig.sendto(b"lost", path)
        until(lambda: relay.dropped == len(NAMES) + 1)
        relay.loss = 0.0
        rig.sendto(b"healed", path)
        assert source.recv(100) == b"healed"


def test_a_loss_on_the_way_back_leaves_the_way_there(rig: socket.socket, source: socket.socket) -> None:
    with before(rig, loss_back=1.0) as relay:
        source.sendto(b"there", relay.address)
        data, path = rig.recvfrom(100)
        assert data == b"there"
        rig.sendto(b"nobody hears of it", path)
        until(lambda: relay.dropped == 1)
        relay.loss, relay.loss_back = 1.0, 0.0
        rig.sendto(b"back", path)
        assert source.recv(100) == b"back"
        source.sendto(b"lost", relay.address)
        until(lambda: relay.dropped == 2)
        relay.loss_back = None  # as the other way
        rig.sendto(b"lost too", path)
        until(lambda: relay.dropped == 3)


def test_a_duplication_of_1_doubles_everything(rig: socket.socket, source: socket.socket) -> None:
    with before(rig, duplication=1.0) as relay:
        send_all(source, relay)
        received = [rig.recvfrom(100) for _ in range(2 * len(NAMES))]
        assert [data for data, _ in received] == [name for name in NAMES for _ in range(2)]
        rig.sendto(b"back", received[0][1])
        assert [source.recv(100), source.recv(100)] == [b"back", b"back"]
        until(lambda: relay.forwarded == 2 * len(NAMES) + 2)


def test_reordering_changes_the_order_and_nothing_else(rig: socket.socket, source: socket.socket) -> None:
    with before(rig, reordering=1.0, seed=1) as relay:
        send_all(source, relay)
        received = [rig.recv(100) for _ in NAMES]
        assert received != NAMES
        assert sorted(received) == NAMES


def test_a_delay_holds_each_way(rig: socket.socket, source: socket.socket) -> None:
    with before(rig, delay=(0.1, 0.2)) as relay:
        begin = time.monotonic()
        source.sendto(b"there", relay.address)
        _, path = rig.recvfrom(100)
        middle = time.monotonic()
        rig.sendto(b"back", path)
        assert source.recv(100) == b"back"
        # Not 0.1, since timers may be early by the resolution of the clock, which is 16 ms on Windows.
        assert middle - begin > 0.08
        assert time.monotonic() - middle > 0.08


def fate(rig: socket.socket, relay: Relay) -> list[list[bytes]]:
    """Send everything both ways at the same time, and return what arrives at the rig and at the source."""
    with udp() as source:
        relay.loss = 0.0
        source.sendto(b"begin", relay.address)
        _, path = rig.recvfrom(100)
        until(lambda: relay.forwarded == 1)
        relay.loss = 0.5
        for name in NAMES:
            source.sendto(name, relay.address)
            rig.sendto(name, path)
        until(lambda: relay.forwarded + relay.dropped == 1 + 2 * len(NAMES))
        relay.loss = 0.0
        source.sendto(b"end", relay.address)
        rig.sendto(b"end", path)
        return [list(iter(functools.partial(sock.recv, 100), b"end")) for sock in (rig, source)]


def test_the_same_seed_gives_the_same_losses(rig: socket.socket) -> None:
    fates = []
    for seed in (1, 1, 2):
        with before(rig, seed=seed) as relay:
            fates.append(fate(rig, relay))
    one, again, other = fates
    assert one == again
    assert one != other
    there, back = one
    assert there != back
    assert 0 < len(there) < len(NAMES)
    assert 0 < len(back) < len(NAMES)


def test_each_rig_has_losses_of_its_own(rig: socket.socket) -> None:
    target = rig.getsockname()
    with relay_before({"cameras": target, "ephys": target}, seed=1) as relays:
        assert fate(rig, relays["cameras"]) != fate(rig, relays["ephys"])


# -------------------------------------------------------------------------------------------------------- refusals


def test_a_refused_port_is_silent_and_what_comes_after_gets_through(source: socket.socket) -> None:
    target = ("127.0.0.1", free_port())
    with relay_before({"cameras": target}) as relays:
        relay = relays["cameras"]
        send_all(source, relay)
        until(lambda: relay.forwarded + relay.dropped == len(NAMES))
        with udp(target) as rig:
            source.sendto(b"there", relay.address)
            data, path = rig.recvfrom(100)
            assert data == b"there"
            rig.sendto(b"back", path)
            assert source.recv(100) == b"back"  # and not a refusal


def test_it_is_not_its_own_target(source: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Towards a port of this machine the system may choose that very port, and the socket would hear itself."""
    target = ("127.0.0.1", free_port())
    made: list[socket.socket] = []

    def at_the_targets_port(family: int) -> socket.socket:
        sock = udp_socket(family)
        if not made:
            sock.bind(target)
        made.append(sock)
        return sock

    udp_socket = udp_module.udp_socket
    with relay_before({"cameras": target}) as relays:
        monkeypatch.setattr(udp_module, "udp_socket", at_the_targets_port)
        source.sendto(b"nobody is there", relays["cameras"].address)
        until(lambda: relays["cameras"].forwarded == 1)
        with udp(target) as rig:  # whose port is free
            source.sendto(b"there", relays["cameras"].address)
            assert rig.recv(100) == b"there"
    assert len(made) == 2


def test_a_source_that_has_gone_does_no_harm_to_others(rig: socket.socket, source: socket.socket) -> None:
    with before(rig) as relay:
        with udp() as gone:
            gone.sendto(b"gone", relay.address)
            _, path = rig.recvfrom(100)
        rig.sendto(b"refused", path)
        until(lambda: relay.forwarded + relay.dropped == 2)
        source.sendto(b"there", relay.address)
        assert rig.recv(100) == b"there"


def test_what_cannot_be_sent_is_dropped(
    rig: socket.socket, source: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: socket.socket, address: object) -> None:
        raise OSError("network is unreachable")

    with before(rig) as relay:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect", unreachable)
            source.sendto(b"lost", relay.address)
            until(lambda: relay.dropped == 1)
        source.sendto(b"there", relay.address)
        assert rig.recv(100) == b"there"


def test_a_send_in_place_of_which_a_refusal_is_reported_is_repeated(
    rig: socket.socket, source: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [ConnectionRefusedError()]
    send = socket.socket.send

    def refused_once(self: socket.socket, data: bytes) -> int:
        # The event loop wakes itself up by a socket of its own, which is no UDP socket.
        if self.type == socket.SOCK_DGRAM and refusals:
            raise refusals.pop()
        return send(self, data)

    monkeypatch.setattr(socket.socket, "send", refused_once)
    with before(rig) as relay:
        source.sendto(b"there", relay.address)
        assert rig.recv(100) == b"there"
        until(lambda: relay.forwarded == 1)
        assert (relay.dropped, refusals) == (0, [])


# --------------------------------------------------------------------------------------------------- open and close


def run(coroutine: Any) -> None:
    """Run a coroutine as `asyncio.run` does, but on a selector event loop on Windows too."""
    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(coroutine, LONG))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def test_it_works_on_the_callers_own_loop(rig: socket.socket, source: socket.socket) -> None:
    async def carry() -> None:
        async with Relay(rig.getsockname()) as relay:
            source.sendto(b"there", relay.address)
            while not relay.forwarded:
                await asyncio.sleep(0.001)

    run(carry())
    assert rig.recv(100) == b"there"


def test_close_frees_the_port_and_may_be_repeated(rig: socket.socket, source: socket.socket) -> None:
    async def open_and_close() -> None:
        before_all = open_sockets()
        relay = Relay(rig.getsockname())
        relay.close()
        await relay.open()
        source.sendto(b"there", relay.address)
        while not relay.forwarded:
            await asyncio.sleep(0.001)
        relay.close()
        relay.close()
        assert open_sockets() == before_all
        with udp(relay.address):
            pass

    run(open_and_close())


def test_what_is_under_way_when_it_closes_is_dropped(rig: socket.socket, source: socket.socket) -> None:
    class Closing(Relay):
        """Closes when something is under way."""

        def _carry(self, *args: Any) -> None:
            super()._carry(*args)
            self.close()

    async def close_early() -> None:
        async with Closing(rig.getsockname(), delay=(0.05, 0.05)) as relay:
            source.sendto(b"late", relay.address)
            while not relay.dropped:
                await asyncio.sleep(0.001)
        assert relay.forwarded == 0

    run(close_early())


def test_a_failure_within_the_context_closes_everything(rig: socket.socket) -> None:
    def fail() -> None:
        with before(rig) as relay:
            raise LookupError(relay.address)

    with pytest.raises(LookupError):
        fail()


def test_an_unknown_host_is_an_error_and_closes_the_others(rig: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def no_such_host(host: str, *args: Any, **options: Any) -> Any:
        if host == "nowhere":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    relays = relay_before({"cameras": rig.getsockname(), "ephys": ("nowhere", 1)})
    with pytest.raises(socket.gaierror), relays:
        pass


def test_several_rigs_have_one_thread(rig: socket.socket, source: socket.socket) -> None:
    with udp() as other, relay_before({"cameras": rig.getsockname(), "ephys": other.getsockname()}) as relays:
        assert list(relays) == ["cameras", "ephys"]
        source.sendto(b"one", relays["cameras"].address)
        source.sendto(b"two", relays["ephys"].address)
        assert (rig.recv(100), other.recv(100)) == (b"one", b"two")
        assert sum(isinstance(thread, LoopThread) for thread in threading.enumerate()) == 1
