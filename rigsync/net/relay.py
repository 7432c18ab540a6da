"""Bad networks on real sockets: a UDP relay that loses, duplicates, reorders and delays what it carries.

`rigsync.testing.SimNetwork` does the same in virtual time, without sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from rigsync.net.udp import connected_socket, udp_socket
from rigsync.runtime.loop_thread import LoopThread

LONGEST_HOLD = 0.05
"""Most seconds that a reordered datagram is held back: long enough for the next few to overtake it, and shorter than
the wait before a coordinator sends again."""

MOST_SOURCES = 256
"""Most sources that have a socket at a time: more than a lab has coordinators, fewer than the 512 sockets that a
selector takes on Windows."""

_LONGEST_DATAGRAM = 65_535  # bytes; the length field of UDP has 16 bits (RFC 768)


class Relay:
    """A bad network before one rig: listens at a loopback port of its own, and carries datagrams both ways.

    Each source has a socket of its own towards the rig. So the rig can tell its coordinators apart, and its answers
    find their way back. Beyond `MOST_SOURCES` sources, the one that has been silent for longest loses its socket.

    No program can pass on a refusal (an ICMP message). So a port that refuses looks like silence from behind a relay: a
    coordinator reports such a rig as lost or timed out, not as refused.

    All methods are for the thread of the event loop, which has to be a selector event loop; `relay_before` brings its
    own. The attributes may be read, and the faults changed, at any time from any thread.

    Parameters
    ----------
    target : (str, int)
        Host and port of the rig.
    loss, duplication, reordering : float
        Shares of datagrams, each way, from 0 to 1. A reordered one is held back for up to 50 ms. With a loss of 1 the
        network is cut, and with 0 it is whole again.
    loss_back : float, optional
        Share of datagrams from the rig that are lost, if it differs from `loss`. With 1 the rig does all that it is
        told, and nobody hears of it.
    delay : (float, float)
        Bounds of the one-way delay in seconds. Delays that differ reorder too.
    seed : int, optional
        Makes the faults repeatable: each way, the nth datagram of the nth source always has the same fault.
    """

    address: tuple[str, int]
    """Host and port at which it listens, once it is open."""
    forwarded = 0
    """Datagrams that were sent on, both ways, second copies included."""
    dropped = 0
    """Datagrams that were not sent on: lost on purpose, or refused by the operating system."""

    def __init__(
        self,
        target: tuple[str, int],
        *,
        loss: float = 0.0,
        loss_back: float | None = None,
        duplication: float = 0.0,
        reordering: float = 0.0,
        delay: tuple[float, float] = (0.0, 0.0),
        seed: int | None = None,
    ):
        self.target = target
        self.loss, self.loss_back = loss, loss_back
        self.duplication, self.reordering, self.delay = duplication, reordering, delay
        self._random = Random(seed)
        self._listener: socket.socket | None = None
        self._paths: dict[Any, _Path] = {}  # by address of the source, the one silent for longest first
        self._loop: asyncio.AbstractEventLoop
        self._family: int
        self._sockaddr: tuple[Any, ...]

    async def open(self) -> None:
        """Look the target up, and listen; raise an OSError where its host is unknown."""
        self._loop = asyncio.get_running_loop()
        found = await self._loop.getaddrinfo(*self.target, type=socket.SOCK_DGRAM)
        # IPv4 if there is a choice, as everywhere in rigsync.
        self._family, _, _, _, self._sockaddr = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        listener = self._listener = udp_socket(socket.AF_INET)
        listener.bind(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self._loop.add_reader(listener, self._receive_from_source, listener)

    def close(self) -> None:
        """Close all sockets at once; idempotent. Datagrams on their way are dropped."""
        while self._paths:
            self._close_longest_silent()
        if self._listener:
            self._close_socket(self._listener)
            self._listener = None

    async def __aenter__(self) -> Relay:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _receive_from_source(self, listener: socket.socket) -> None:
        try:
            data, source = listener.recvfrom(_LONGEST_DATAGRAM)
        except OSError:
            return  # Windows reports here that a source has closed its port
        try:
            path = self._paths.pop(source, None) or self._open_path(listener, source)
        except OSError:  # the network of the target is down, or this process has all the sockets it may have
            self.dropped += 1
            return
        self._paths[source] = path
        self._carry(path.there, self.loss, functools.partial(path.socket.send, data))

    def _receive_from_target(self, path: _Path, listener: socket.socket, source: Any) -> None:
        try:
            data = path.socket.recv(_LONGEST_DATAGRAM)
        except OSError:
            return  # the target refuses; behind a relay that is silence
        loss = self.loss if self.loss_back is None else self.loss_back
        self._carry(path.back, loss, functools.partial(listener.sendto, data, source))

    def _open_path(self, listener: socket.socket, source: Any) -> _Path:
        if len(self._paths) >= MOST_SOURCES:
            self._close_longest_silent()
        sock = connected_socket(self._family, self._sockaddr)
        # One generator for each way of each source: with a shared one, the draws would depend on who is first.
        path = _Path(sock, Random(self._random.getrandbits(64)), Random(self._random.getrandbits(64)))
        self._loop.add_reader(sock, self._receive_from_target, path, listener, source)
        return path

    def _close_longest_silent(self) -> None:
        self._close_socket(self._paths.pop(next(iter(self._paths))).socket)

    def _close_socket(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock)
        sock.close()

    def _carry(self, random: Random, loss: float, send: Callable[[], object]) -> None:
        if random.random() < loss:
            self.dropped += 1
            return
        for _ in range(2 if random.random() < self.duplication else 1):
            delay = random.uniform(*self.delay)
            if random.random() < self.reordering:
                delay += random.uniform(0, LONGEST_HOLD)
            if delay > 0:
                self._loop.call_later(delay, self._send, send)
            else:
                self._send(send)

    def _send(self, send: Callable[[], object]) -> None:
        try:
            try:
                send()
            except ConnectionError:
                send()  # the refusal of an earlier datagram was reported in place of sending this one
        except OSError:
            self.dropped += 1
        else:
            self.forwarded += 1


@dataclass(frozen=True)
class _Path:
    """The socket and generators of one source."""

    socket: socket.socket
    there: Random
    back: Random


@contextlib.contextmanager
def relay_before(
    targets: Mapping[str, tuple[str, int]], *, seed: int | None = None, **faults: Any
) -> Iterator[dict[str, Relay]]:
    """Run a relay before each of several rigs, by name of rig, on a thread of their own.

    The faults are the other keywords of `Relay`, the same for all; each relay can be changed afterwards, and draws by
    itself. Leaving the context closes them, and ends the thread. The errors are those of `Relay.open`.
    """
    random = Random(seed)
    relays = {name: Relay(target, seed=random.getrandbits(64), **faults) for name, target in targets.items()}
    thread = LoopThread("relay")
    thread.start()
    try:
        thread.run_coroutine(_open, relays.values())
        yield relays
    finally:
        thread.run_coroutine(_close, relays.values())
        thread.stop()
        thread.join()


async def _open(relays: Iterable[Relay]) -> None:
    for relay in relays:
        await relay.open()


async def _close(relays: Iterable[Relay]) -> None:
    for relay in relays:
        relay.close()
