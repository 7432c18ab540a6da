"""The one pump under both roles: sockets in, datagrams out, one timer.

It is the only place where a protocol core meets asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from rigsync.config import RigConfig, is_literal, resolve
from rigsync.errors import RigsyncError
from rigsync.protocol.events import Event

logger = logging.getLogger("rigsync.endpoint")

BUFFER = 1 << 20
"""Bytes asked of the kernel for each socket's buffers: a burst from all rigs fits, and macOS, which takes the send
buffer for the largest datagram, sends 65,507 bytes."""


class Core(Protocol):
    """A protocol core: datagrams and time in, datagrams and events out."""

    def receive_datagram(self, data: bytes, source: Any, now: float) -> None:
        """Take in a datagram."""

    def handle_timer(self, now: float) -> None:
        """Do what is due."""

    def next_timer(self) -> float:
        """Return when something is due, in monotonic seconds."""

    def take_datagrams(self) -> Sequence[tuple[Any, bytes]]:
        """Return what is to be sent, each with its destination, and forget it."""

    def take_events(self) -> Sequence[Event]:
        """Return what has happened since the last call."""


class Endpoint:
    """Drives one core: for a coordinator over a connected socket for each line, for a rig over one that listens.

    Connected sockets tell whose port refuses, on every operating system, and keep out what comes from elsewhere.

    Parameters
    ----------
    core : Core
        The protocol core.
    on_event : callable
        Called with each event.
    on_refusal : callable, optional
        Called with the line that was refused and the monotonic time in seconds.
    """

    def __init__(
        self,
        core: Core,
        on_event: Callable[[Event], None],
        on_refusal: Callable[[Any, float], None] | None = None,
    ):
        self._core, self._on_event, self._on_refusal = core, on_event, on_refusal
        self._loop = asyncio.get_running_loop()
        proactor = getattr(asyncio, "ProactorEventLoop", None)
        if proactor and isinstance(self._loop, proactor):
            raise RigsyncError(
                "this event loop goes deaf on UDP when a port refuses a datagram; "
                "run on asyncio.SelectorEventLoop() instead (asyncio.WindowsSelectorEventLoopPolicy)"
            )
        self._lines: dict[Any, _Line] = {}
        self._listener: _Line | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._pumping = False
        self._closed = False

    async def connect(self, line: Any, family: int, address: tuple[Any, ...]) -> None:
        """Open the socket of one line towards one address; it takes the place of the one that the line has."""
        opened = await self._open(family, lambda sock: sock.connect(address), line)
        before = self._lines.pop(line, None)
        self._lines[line] = opened
        if before:
            before.transport.close()

    async def listen(self, family: int, address: tuple[Any, ...]) -> tuple[Any, ...]:
        """Open the socket that listens, and return the address that it got.

        Raises
        ------
        OSError
            The address is in use or is not one of this machine's.
        """
        self._listener = await self._open(family, lambda sock: sock.bind(address), None)
        name: tuple[Any, ...] = self._listener.transport.get_extra_info("sockname")
        return name

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._loop.time()

    def pump(self) -> None:
        """Send what the core wants sent, tell what it tells, and arm the timer. Safe to call from `on_event`."""
        if self._pumping or self._closed:
            return
        self._pumping = True
        try:
            while True:
                datagrams = self._core.take_datagrams()
                for destination, data in datagrams:
                    self._send(destination, data)
                events = self._core.take_events()
                for event in events:
                    self._tell(event)
                if not datagrams and not events:
                    break
        finally:
            self._pumping = False
            self._arm()

    def close(self) -> None:
        """Send what is left, and close all sockets; idempotent."""
        if self._closed:
            return
        self.pump()
        self._closed = True
        if self._timer:
            self._timer.cancel()
        for line in (*self._lines.values(), self._listener):
            if line:
                line.transport.close()

    async def _open(self, family: int, prepare: Callable[[socket.socket], None], line: Any) -> _Line:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                with contextlib.suppress(OSError):  # a system that grants less than is asked may refuse instead
                    sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            prepare(sock)
            _, protocol = await self._loop.create_datagram_endpoint(lambda: _Line(self, line), sock=sock)
        except BaseException:
            sock.close()
            raise
        return protocol

    def _send(self, destination: Any, data: bytes) -> None:
        if self._listener:
            self._listener.transport.sendto(data, destination)
            return
        line = self._lines[destination]
        line.refused = False
        line.transport.sendto(data)
        if line.refused:
            # The refusal of an earlier datagram was reported in place of sending this one.
            line.transport.sendto(data)

    def _tell(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception:
            # A log handler of the program that raises, for instance: the events after this one must not be lost.
            with contextlib.suppress(Exception):
                logger.exception("telling of %s failed", type(event).__name__)

    def _arm(self) -> None:
        if self._closed:  # in an event
            return
        due = self._core.next_timer()
        if self._timer and self._due <= due:
            return  # waking too early does no harm, arming anew for each datagram would cost
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if due < math.inf:
            self._due = due
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._core.handle_timer(self._loop.time())
        finally:
            self.pump()

    def receive(self, data: bytes, source: Any) -> None:
        """Hand a datagram to the core."""
        if not self._closed:
            self._core.receive_datagram(data, source, self._loop.time())
            self.pump()

    def refuse(self, line: Any) -> None:
        """Tell that a line was refused."""
        if self._on_refusal and not self._closed:
            self._on_refusal(line, self._loop.time())
            self.pump()


async def look_up(config: RigConfig) -> tuple[int, tuple[Any, ...]]:
    """Do as `resolve` does, without blocking the event loop while a name server is asked."""
    if is_literal(config.address):
        return resolve(config)
    return await asyncio.get_running_loop().run_in_executor(None, resolve, config)


class _Line(asyncio.DatagramProtocol):
    """One socket."""

    transport: asyncio.DatagramTransport

    def __init__(self, endpoint: Endpoint, line: Any):
        self._endpoint, self._line = endpoint, line
        self._reported: set[int | None] = set()
        self.refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._endpoint.receive(data, addr if self._line is None else self._line)

    def error_received(self, exc: Exception) -> None:
        # Linux and macOS report an ICMP refusal as the first, Windows as the second.
        if isinstance(exc, (ConnectionRefusedError, ConnectionResetError)):
            self.refused = True
            if self._line is not None:
                self._endpoint.refuse(self._line)
            return
        number = getattr(exc, "errno", None)
        if number not in self._reported:  # once: an unplugged cable would repeat it for each datagram
            self._reported.add(number)
            logger.warning("%s: %s; sending again by the timers", self._line or "listening socket", exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc:
            logger.error("%s: socket closed by %s", self._line or "listening socket", exc)
