"""The one pump under both roles: messages in, messages out, one timer.

Only here a protocol core meets asyncio. `rigsync.net.lines` gets bytes in and out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from rigsync.core.clock import StampClock
from rigsync.core.coordinators import Standing
from rigsync.core.events import Event
from rigsync.core.rigs import Address, RigConfig, is_literal
from rigsync.errors import ConfigError, RemoteProtocolError, RigsyncError
from rigsync.net.lines import Line, Listener, label
from rigsync.net.resolve import resolve_all
from rigsync.net.tcp import TcpLine
from rigsync.net.tcp_listener import open_tcp_listener
from rigsync.net.udp import open_udp_line, open_udp_listener
from rigsync.runtime.workers import Workers

logger = logging.getLogger("rigsync.endpoint")

ANCHORINGS = 5
"""Times that the wall clock is read to anchor stamps; the best reading counts."""


LATE = 0.1
"""Seconds that a timer may be late on a busy computer. If it is later, this program has stood still."""


class Core(Protocol):
    """A protocol core: datagrams and time in, datagrams and events out."""

    def receive_datagram(self, data: bytes, source: Any, now: float) -> None: ...

    def report_violation(self, source: Any, error: RemoteProtocolError) -> None:
        """Report that bytes from `source` are no message."""

    def note_standstill(self, seconds: float, now: float) -> None:
        """Do not count seconds in which nobody here listened as silence. Called before anything else at `now`."""

    def handle_timer(self, now: float) -> None: ...

    def next_timer(self) -> float:
        """Return when something is due, in monotonic seconds."""

    def take_datagrams(self) -> Sequence[tuple[Any, bytes]]:
        """Return the datagrams to send, each with its destination, and forget them."""

    def take_events(self) -> Sequence[Event]:
        """Return what has happened since the last call."""


class Endpoint:
    """Drives one core: a coordinator's over lines to its rigs, a rig's over one place where it listens.

    It calls `on_event` with each event, `on_refusal` with a refused line and the monotonic time in seconds, and
    `on_life` with line and time when part of a message came or went, and `on_loss` with line, reason and time when the
    way to a rig has ended. `standing` is asked, by the beginning of a message
    and its source, how much its sender has to do with this side; by default all are strangers.

    Raises
    ------
    RigsyncError
        The running event loop is Windows' proactor loop.
    """

    def __init__(
        self,
        core: Core,
        on_event: Callable[[Event], None],
        on_refusal: Callable[[Any, float], None] | None = None,
        on_life: Callable[[Any, float], None] | None = None,
        standing: Callable[[bytes, Any], Standing] = lambda *_: Standing.STRANGER,
        on_loss: Callable[[Any, str, float], None] | None = None,
    ):
        self._core, self._on_event, self._on_refusal, self._on_life = core, on_event, on_refusal, on_life
        self._on_loss = on_loss
        self.standing = standing
        self._loop = asyncio.get_running_loop()
        proactor = getattr(asyncio, "ProactorEventLoop", None)
        if proactor and isinstance(self._loop, proactor):
            raise RigsyncError(
                "this event loop goes deaf on UDP when a port refuses a datagram; "
                "run on asyncio.SelectorEventLoop() instead (asyncio.WindowsSelectorEventLoopPolicy)"
            )
        self._lines: dict[Any, Line] = {}
        self._listener: Listener | None = None
        self._at_broker: Any = None  # that listener, if it is one at a broker
        self._brokers: dict[tuple[Any, ...], Any] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._expected = math.inf
        self._held_from = -math.inf  # since when subscribers may have held up this thread, unknown to the core
        self._pumping = False
        self._closed = False

    async def connect(self, line: Any, family: int, address: tuple[Any, ...]) -> None:
        """Open a UDP socket for a line towards an address, in place of its present one."""
        self._replace([line], await open_udp_line(self, line, family, address))

    def connect_stream(self, lines: Sequence[Any], family: int, address: tuple[Any, ...], limit: int) -> None:
        """Keep one TCP connection for several lines, for messages of `limit` bytes at most, in place of theirs."""
        self._replace(lines, TcpLine(self, lines, family, address, limit))

    def connect_by_broker(self, lines: Sequence[Any], broker: Address, boot: str) -> None:
        """Make several lines one, by way of a broker; `boot` is this coordinator's."""
        key = broker.scheme, broker.host, broker.port, broker.login
        if key not in self._brokers:
            self._brokers[key] = mqtt_module().RigsAtBroker(self, broker, boot)
        self._replace(lines, self._brokers[key].line(lines[0], broker.prefix))

    def _replace(self, lines: Sequence[Any], opened: Line) -> None:
        before = {self._lines[line] for line in lines if line in self._lines}
        self._lines.update(dict.fromkeys(lines, opened))
        for line in before:
            line.close()

    async def listen(self, family: int, address: tuple[Any, ...], limit: int | None = None) -> tuple[Any, ...]:
        """Listen on UDP or, with a `limit`, on TCP for messages of so many bytes at most; return the address.

        Raises
        ------
        OSError
            The address is in use or is not one of this machine's.
        """
        if limit is None:
            self._listener = await open_udp_listener(self, family, address)
        else:
            self._listener = await open_tcp_listener(self, family, address, limit)
        return self._listener.address

    async def listen_at_broker(self, at: Address, rig: str, boot: str, picture: Mapping[str, Any]) -> tuple[Any, ...]:
        """Listen by way of a broker as a rig, of which it keeps a picture; return the broker's host and port.

        Raises
        ------
        ListenError
            The broker refuses, or another program serves under this name.
        ConfigError
            The library for MQTT is not installed, or user, password or the files of TLS cannot be read.
        """
        self._at_broker = self._listener = await mqtt_module().open_mqtt_listener(self, at, rig, boot, picture)
        return tuple(self._at_broker.address)

    def show(self, picture: Mapping[str, Any]) -> None:
        """Change the picture of this rig, if a broker keeps one."""
        if self._at_broker:
            self._at_broker.show(picture)

    def reconnect(self, line: Any, reason: str) -> None:
        """Connect a line anew, if it has a connection: its rig is lost, for this reason."""
        self._lines[line].reconnect(reason)

    def is_stranded(self, line: Any) -> bool:
        """Whether a line's own address no longer reaches the rig, so that the line has to be opened again."""
        return self._lines[line].is_stranded()

    def now(self) -> float:
        return self._loop.time()

    def pump(self) -> None:
        """Send the core's datagrams, tell its events, and arm the timer. Safe to call from `on_event`."""
        self._pump(self._loop.time())

    def _pump(self, now: float) -> None:
        if self._pumping or self._closed:
            return
        self._held_from = now
        core = self._core
        self._pumping = True
        try:
            while True:
                for destination, data in core.take_datagrams():
                    self._send(destination, data)
                if not (events := core.take_events()):
                    break
                for event in events:
                    try:
                        self._on_event(event)
                    except Exception:
                        # For instance a log handler of the program. The events after this one must not be lost.
                        with contextlib.suppress(Exception):
                            logger.exception("telling of %s failed", type(event).__name__)
        finally:
            self._pumping = False
            if not self._closed:  # in an event
                self._arm()

    def close(self) -> None:
        """Send the rest, and close all sockets; idempotent."""
        if self._closed:
            return
        self.pump()
        rest = self._core.take_datagrams()  # where who closes it is being told an event, and `pump` has left them
        for destination, data in rest:
            self._send(destination, data)
        self._closed = True
        if self._timer:
            self._timer.cancel()
        for line in self._lines.values():
            line.close()
        for broker in self._brokers.values():
            broker.close()
        if self._listener:
            self._listener.close()

    def _send(self, destination: Any, data: bytes) -> None:
        if self._listener:
            self._listener.send(destination, data)
        else:
            self._lines[destination].send(destination, data)

    def _arm(self) -> None:
        due = self._core.next_timer()
        if self._timer and self._due <= due:
            return  # waking too early does no harm; arming anew for each datagram would cost time
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._expected = math.inf
        if due < math.inf:
            # A subscriber may hold up this thread. Only what falls due meanwhile is late because of that.
            self._due, self._expected = due, max(due, self._held_from)
            self._timer = self._loop.call_at(due, self._tick)

    def _wake(self) -> float:
        """Return monotonic seconds. If this program has stood still until now, tell the core first."""
        now = self._loop.time()
        late = now - self._expected
        if late > LATE:  # stopped, asleep with its computer, or held up by a callback, a debugger or other code
            self._expected = self._held_from = now  # the core knows; a timer to come is expected at once
            self._core.note_standstill(late, now)
        return now

    def _tick(self) -> None:
        self._timer = None
        now = self._wake()
        try:
            self._core.handle_timer(now)
        finally:
            self._pump(now)

    def receive(self, data: bytes, source: Any) -> None:
        if not self._closed:
            now = self._loop.time()
            if now - self._expected > LATE:
                now = self._wake()
            self._core.receive_datagram(data, source, now)
            self._pump(now)

    def refuse(self, line: Any) -> None:
        # The system reports errors first. So first take all that came from that rig, above all its goodbye.
        for sibling in [opened for name, opened in self._lines.items() if label(name) == label(line)]:
            sibling.read_waiting()
        if self._on_refusal and not self._closed:
            self._on_refusal(line, self._wake())
            self.pump()

    def lose(self, line: Any, reason: str) -> None:
        if self._on_loss and not self._closed:
            self._on_loss(line, reason, self._wake())
            self.pump()

    def show_life(self, line: Any) -> None:
        if self._on_life and not self._closed:
            self._on_life(line, self._wake())
            self.pump()

    def reject(self, source: Any, error: RemoteProtocolError) -> None:
        if not self._closed:
            self._core.report_violation(source, error)
            self.pump()


def mqtt_module() -> Any:
    """Return the module for brokers, whose library may not be installed."""
    try:
        return import_module("rigsync.net.mqtt")
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from error


def stamp_clock() -> StampClock:
    """Return a clock for stamps, anchored now, on the running event loop.

    Between the readings of the wall clock and of the monotonic clock, a busy computer may do something else for
    milliseconds. All stamps would be off by that, so the closest of several pairs counts.
    """
    now = asyncio.get_running_loop().time
    pairs = []
    for _ in range(ANCHORINGS):
        before, wall, after = now(), time.time_ns(), now()
        pairs.append((after - before, wall, (before + after) / 2))
    _, wall, at = min(pairs)
    return StampClock(wall, at)


async def look_up(config: RigConfig) -> list[tuple[int, tuple[Any, ...]]]:
    """Do as `resolve_all` does, without blocking the event loop.

    A name server that is down takes half a minute to fail. The thread that waits for it keeps no program from ending,
    as the thread of an executor would.
    """
    if is_literal(config.address):
        return resolve_all(config)
    workers = Workers("look-up")
    try:
        return await workers.begin(resolve_all, config)
    finally:
        workers.close(0.0)
