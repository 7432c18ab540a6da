"""Hubs of several programs, joined by ZeroMQ: one hub sends whole events, and the other one tells them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from rigsync.bridges.asking import Refused
from rigsync.bridges.bridge import Bridge
from rigsync.bridges.zmq.carrying import PATIENCE, RESEND, VERSION, WINDOW, Incoming, Outgoing, read_head, read_object
from rigsync.bridges.zmq.codec import FARTHEST, NotKnown, NotWhole, read_event, write_event
from rigsync.bridges.zmq.sockets import Inbox, Keys, SocketSet, is_local, zmq_address
from rigsync.core.events import Event, put_stamp
from rigsync.hub.documents import json_of
from rigsync.runtime.callbacks import goes_on
from rigsync.runtime.hub import Hub

logger = logging.getLogger("rigsync.bridge")

ACKNOWLEDGE_AFTER = 0.005
"""Seconds until a source acknowledges: one acknowledgement for all events that came meanwhile."""
LAST_WORDS = 0.5
"""Most seconds that a sink that closes waits until all events are taken."""


class _Arrival(NamedTuple):
    """The way by which the event that is being told has come: for `Hub.boundary`."""

    number: int
    via: tuple[str, ...]


class _Place:
    """What the sources and sinks of one hub share."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        """The name by which other hubs know this one."""
        self.incoming = Incoming()
        self._number = 0
        self._told: Event | None = None
        self._asked: set[object] = set()

    def number_of(self, event: Event, sink: object) -> int:
        """Return the number of an event that this hub tells first: one for all sinks, a new one for each telling."""
        if event is not self._told or sink in self._asked:
            self._told, self._number = event, self._number + 1
            self._asked.clear()
        self._asked.add(sink)
        return self._number


_places: WeakKeyDictionary[Hub, _Place] = WeakKeyDictionary()


class ZmqSource(Bridge):
    """Takes whole events from the sinks of other hubs, and tells them in its own; docs/bridges.md says which.

    A context manager: ``async with`` on the hub's event loop, ``with`` on any other thread.

    Parameters
    ----------
    hub : Hub
        The hub that tells the events. It has to run.
    listen : str
        ``tcp://address:port``. Without keys, whoever reaches that port tells this hub events. With port 0 the system
        chooses one.
    curve : mapping, optional
        ``secret_key``, a file of `zmq.auth.create_certificates` that nobody else may read, and ``clients``, the public
        keys of those who may send.

    Raises
    ------
    ConfigError
        The address or a key is malformed.
    """

    name = "ZeroMQ source"

    def __init__(self, hub: Hub, listen: str, curve: Mapping[str, Any] | None = None):
        super().__init__(hub)
        self._listen = zmq_address(listen)
        self._keys = None if curve is None else Keys(curve)

    @property
    def uri(self) -> str:
        """Where it listens, with the port that the system chose."""
        return str(self._listen)

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._place = _places.setdefault(self.hub, _Place())
        self._due: dict[bytes, str] = {}
        self._alarm: asyncio.Handle | None = None
        sockets = SocketSet(self._keys, lambda who: self._note("turned away", f"{who}: its key is unknown"))
        self._ends += [self._stop, sockets.close]
        self._inbox, self._listen = await sockets.router(self._listen, WINDOW, self._receive)
        logger.info("%s of hub %r listens on %s", self.name, self.hub.name, self.uri)
        if not self._keys and not is_local(self._listen):
            logger.warning(
                "%s listens on %s, beyond this computer and without keys: whoever reaches that port tells hub %r "
                "events; listen on 127.0.0.1, or give keys as curve",
                self.name,
                self.uri,
                self.hub.name,
            )

    def _attend(self) -> Callable[[], None]:
        return lambda: None  # a source only brings events

    def _stop(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        self._acknowledge()

    def _receive(self, parts: list[bytes]) -> None:
        try:
            if len(parts) != 3:
                raise Refused(f"a message of {len(parts) - 1} parts is nothing that one hub tells another")
            who, head, data = parts
            run, first, sequence = read_head(head)
            missed = self._place.incoming.missed
            is_next = self._place.incoming.take(run, first, sequence)
            if missed := self._place.incoming.missed - missed:
                self.counts["missed"] += missed - 1
                self._note("missed", f"{missed:,} events of another hub are missing: it had no room for them any more")
            self._due[who] = run
            if self._alarm is None:
                self._alarm = self._loop.call_later(ACKNOWLEDGE_AFTER, self._acknowledge)
            if is_next:
                self._take(data)
        except Refused as error:
            self._note("refused", str(error))
            self._send(parts[0], {"error": str(error)})
        except BaseException as error:  # also SystemExit, which would end the loop
            if not goes_on(error):
                self._note("failed", f"a message has raised {type(error).__name__}: {error}")

    def _take(self, data: bytes) -> None:
        try:
            event, stamp, number, via = read_event(data)
        except NotKnown as error:
            self._note("unknown", f"an event is not told here: {error}")
        except NotWhole as error:
            self._note("malformed", str(error))
        else:
            if self._place.name in via or not self._place.incoming.is_new(via[0], number):
                self.counts["repeated"] += 1  # normal where hubs are joined in a circle
                return
            put_stamp(event, stamp)
            self.hub.queue(event, _Arrival(number, via))

    def _acknowledge(self) -> None:
        self._alarm = None
        due, self._due = self._due, {}
        for who, run in due.items():
            self._send(who, {"run": run, "taken": self._place.incoming.taken(run), "hub": self._place.name})

    def _send(self, who: bytes, document: dict[str, Any]) -> None:
        self._inbox.send([who, json_of({"rigsync": VERSION, **document}).encode()])


class ZmqSink(Bridge):
    """Sends the events of its hub, whole, to the source of another; docs/bridges.md says which.

    A context manager: ``async with`` on the hub's event loop, ``with`` on any other thread.

    Parameters
    ----------
    hub : Hub
        The hub whose events are sent. It has to run.
    to : str
        ``tcp://host:port`` of a `ZmqSource`, which may come later, go, and come back. At most 10,000 events wait for
        it, and 32 MiB. Beyond that the oldest are dropped, and both sides log it.
    where : callable, optional
        Called with each event. Only those for which it returns something true are sent.
    curve : mapping, optional
        ``secret_key``, a file of `zmq.auth.create_certificates` that nobody else may read, and ``server``, the public
        key of the source.

    Raises
    ------
    ConfigError
        The address or a key is malformed.
    """

    name = "ZeroMQ sink"

    def __init__(
        self,
        hub: Hub,
        to: str,
        where: Callable[[Any], object] | None = None,
        curve: Mapping[str, Any] | None = None,
    ):
        super().__init__(hub)
        self._to, self._where = zmq_address(to, is_ours=False), where
        self._keys = None if curve is None else Keys(curve, "server")

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._place = _places.setdefault(self.hub, _Place())
        self._outgoing = Outgoing()
        self._peer: str | None = None
        self._has_greeted = self._is_stuck = False
        self._alarm: asyncio.Handle | None = None
        self._emptied = asyncio.Event()
        self._emptied.set()
        sockets = SocketSet(self._keys)
        self._ends += [self._stop, sockets.close]
        self._outbox: Inbox = sockets.dealer(self._to, self._receive, self._send)
        self._alarm = self._loop.call_soon(self._tick)

    def _attend(self) -> Callable[[], None]:
        return self.hub.subscribe(Event, self._tell, where=self._where, priority=math.inf)

    async def _say_last_words(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._emptied.wait(), LAST_WORDS)

    def _stop(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        if left := len(self._outgoing):
            self.counts["left"] += left
            logger.warning("%s to %s closes: %s events were not taken there", self.name, self._to, f"{left:,}")

    def _tell(self, event: Event) -> None:
        came = self.hub.boundary
        if isinstance(came, _Arrival):
            number, via = came
            if self._peer in via or len(via) >= FARTHEST:
                return
        else:
            number, via = self._place.number_of(event, self), ()
        try:
            data = write_event(event, number, (*via, self._place.name))
        except NotWhole as error:
            self._note("not carried", str(error))
            return
        dropped = self._outgoing.dropped
        self._outgoing.put(data, time.monotonic(), via)
        if dropped := self._outgoing.dropped - dropped:
            self.counts["dropped"] += dropped - 1
            self._note(
                "dropped", f"{self._to} takes no events, and {len(self._outgoing):,} wait: the oldest are dropped"
            )
        self._emptied.clear()
        self._send()

    def _send(self) -> None:
        """Send what may be sent now. First ask which hub is there, so that it does not get its own events."""
        if self._peer is None:
            self._has_greeted = self._has_greeted or self._outbox.send(list(self._outgoing.greeting()))
            return
        while (message := self._outgoing.due()) and self._outbox.send(list(message)):
            self._outgoing.note_sent(time.monotonic())

    def _tick(self) -> None:
        self._alarm = self._loop.call_later(RESEND / 2, self._tick)
        now = time.monotonic()
        self._has_greeted = False
        self._outgoing.handle_timer(now)
        if self._outgoing.is_stuck(now) and not self._is_stuck:
            self._is_stuck = True
            text = f"{self._to} has taken no events for {PATIENCE:g} s: does its program run, and know this one's key?"
            self._note("stuck", f"{text} {len(self._outgoing):,} wait")
        self._outbox.look()

    def _receive(self, parts: list[bytes]) -> None:
        try:
            found = read_object(parts[-1])
        except Refused as error:
            self._note("refused", f"{self._to}: {error}")
            return
        if "error" in found:
            self._note("refused", f"{self._to} takes no events: {found['error']}")
            return
        before = len(self._outgoing)
        self._outgoing.acknowledge(found.get("run"), found.get("taken"), time.monotonic())
        if isinstance(peer := found.get("hub"), str) and peer != self._peer:
            self._peer = peer
            self._outgoing.leave_out(peer)
        if len(self._outgoing) < before and self._is_stuck:
            self._is_stuck = False
            logger.warning("%s: %s takes events again", self.name, self._to)
        if not len(self._outgoing):
            self._emptied.set()
        self._send()


class ZmqBoundary:
    """Joins a hub with one of another program, both ways: a `ZmqSource` and a `ZmqSink`.

    The other program makes one too, with the addresses the other way round. A context manager: ``async with`` on the
    hub's event loop, ``with`` on any other thread.

    Parameters
    ----------
    hub : Hub
        It has to run.
    listen, to : str
        Where this one listens, ``tcp://address:port``, and where the other one does, ``tcp://host:port``.
    where : callable, optional
        Called with each event of this hub. Only those for which it returns something true are sent.
    curve : mapping, optional
        ``secret_key``, a file of `zmq.auth.create_certificates` that nobody else may read, and ``peer``, the public key
        of the other side.

    Raises
    ------
    ConfigError
        An address or a key is malformed.
    """

    def __init__(
        self,
        hub: Hub,
        listen: str,
        to: str,
        where: Callable[[Any], object] | None = None,
        curve: Mapping[str, Any] | None = None,
    ):
        keys = curve and {"secret_key": curve.get("secret_key", "")}
        peer = curve and curve.get("peer", "")
        self.source = ZmqSource(hub, listen, keys and {**keys, "clients": [peer]})
        self.sink = ZmqSink(hub, to, where, keys and {**keys, "server": peer})

    def __enter__(self) -> ZmqBoundary:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.source)
            stack.enter_context(self.sink)
            stack.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        self.sink.__exit__(*details)
        self.source.__exit__(*details)

    async def __aenter__(self) -> ZmqBoundary:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.source)
            await stack.enter_async_context(self.sink)
            stack.pop_all()
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self.sink.__aexit__(*details)
        await self.source.__aexit__(*details)
