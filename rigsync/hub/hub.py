"""The hub without a loop: events go in, and are told to filters and subscribers in order.

Whoever is told may tell the hub more. Such secondary events wait behind all that wait already, so that events are told
breadth first; there is no bound to their number, and nobody waits for room. `rigsync.Hub` turns this on an event loop.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

from rigsync.core.events import Event, put_stamp
from rigsync.errors import UnknownEvent

SLOW = 0.5
"""Seconds for which a subscriber may hold up the event loop before that is told."""


class State(Enum):
    """What a hub does."""

    READY = "READY"
    STARTING = "STARTING"
    LOOPING = "LOOPING"
    STOPPED = "STOPPED"


class Stage(Enum):
    """When a subscriber is told.

    Rigsync's own rules are told of every event of their own hub: filters stand after the first of them.
    """

    FIRST = 0
    USUAL = 1
    LAST = 2


class Reporter(Protocol):
    """Hears of what goes wrong with subscribers."""

    def raised(self, role: str, name: str, error: BaseException) -> None:
        """Take note that a subscriber raised."""

    def held_up(self, role: str, name: str, seconds: float) -> None:
        """Take note that a subscriber has held up the event loop."""


@dataclass(eq=False, slots=True)
class Subscription:
    """Somebody who is told of events."""

    kind: type[Event] | None
    """Events of this class and those derived from it; None for those that nobody else asks for."""
    tell: Callable[[Any], object]
    priority: float
    stage: Stage
    name: str
    is_active: bool = True

    @property
    def role(self) -> str:
        """What reports call it."""
        if self.kind is None:
            return "default subscriber"
        return f"{'subscriber to' if self.stage is Stage.USUAL else 'rule for'} {self.kind.__name__}"


@dataclass(eq=False, slots=True)
class Filter:
    """A function that is asked about each event."""

    function: Callable[[Any], object]
    name: str


class _Route(NamedTuple):
    """Who is told of one class of events."""

    first: tuple[Subscription, ...]
    usual: tuple[Subscription, ...]
    last: tuple[Subscription, ...]
    all: tuple[Subscription, ...]


@dataclass(slots=True, eq=False)
class Forwarded:
    """An event that has come from another hub, and by which boundary."""

    event: Event
    boundary: object


class HubCore:
    """Filters, subscribers, and the events that wait to be told.

    Subscribers come and go on any thread; all else is for one thread. `clock` returns monotonic seconds, and `wall`
    Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float], reporter: Reporter):
        self._clock, self._wall, self._reporter = clock, wall, reporter
        self._ids = itertools.count(1)
        # Changed in single steps, without a lock, and the routes after what they are made of: a signal handler may
        # interrupt who subscribes, and wait for the thread that tells, which may be about to subscribe, too.
        self._subscriptions: dict[Subscription, None] = {}
        self._filters: dict[Filter, None] = {}
        self._routes: dict[type[Any], _Route] = {}
        self._usual: deque[Event | Forwarded] = deque()
        self._lanes: dict[int, deque[Event | Forwarded]] = {0: self._usual}
        self._by_priority = [self._usual]
        self.waiting = 0
        """How many events wait to be told."""
        self._mark = 0.0
        self._told: Event | None = None
        self.is_telling = False
        self.boundary: object = None
        """By which boundary the event has come that is being told; None where it was ingested here."""
        self.running: Subscription | None = None
        """Who is being told."""

    # ------------------------------------------------------------------------------------------- who is told what

    def subscribe(self, subscription: Subscription) -> None:
        """Tell a subscriber of the events that are told from now on."""
        self._subscriptions[subscription] = None
        self._routes = {}

    def end(self, subscription: Subscription) -> None:
        """Tell a subscriber of nothing more, not even of the event that is being told."""
        subscription.is_active, subscription.tell = False, ignore
        self._subscriptions.pop(subscription, None)
        self._routes = {}

    def add_filter(self, function: Callable[[Any], object], name: str) -> Callable[[], None]:
        """Ask a function, after those before it, whether it consumes an event; return what ends it."""
        entry = Filter(function, name)
        self._filters[entry] = None

        def end() -> None:
            self._filters.pop(entry, None)

        return end

    def _route(self, kind: type[Event], routes: dict[type[Any], _Route]) -> _Route:
        known = tuple(self._subscriptions)
        named = [entry for entry in known if entry.kind is not None and issubclass(kind, entry.kind)]
        is_asked_for = any(entry.kind is not Event and entry.stage is Stage.USUAL for entry in named)
        told = [entry for entry in known if entry in named or (entry.kind is None and not is_asked_for)]
        told.sort(key=lambda entry: (entry.stage.value, entry.priority))  # equal ones stay as they were registered
        first, usual, last = (tuple(entry for entry in told if entry.stage is stage) for stage in Stage)
        route = routes[kind] = _Route(first, usual, last, tuple(told))
        return route

    # ----------------------------------------------------------------------------------------------------- telling

    def stamp(self, event: Event, id: int | None, priority: int | None, cause: int | None) -> None:
        """Note id, priority, time and cause of an event; on any thread.

        Raises
        ------
        UnknownEvent
            It is no event.
        """
        try:
            number = next(self._ids) if id is None else id
            put_stamp(event, (number, event.PRIORITY if priority is None else priority, self._wall(), cause))
        except (AttributeError, TypeError):
            raise UnknownEvent(f"what is told is an event, derived from rigsync.events.Event, not {event!r}") from None

    def put(self, event: Event, boundary: object = None) -> None:
        """Let an event that is stamped wait to be told, behind those of its priority."""
        priority = event._stamp[1]
        lane = self._lanes.get(priority)
        if lane is None:
            self._lanes = {number: lane for number, lane in self._lanes.items() if lane or number == 0}
            lane = self._lanes[priority] = deque()
            self._by_priority = [self._lanes[number] for number in sorted(self._lanes)]
        lane.append(event if boundary is None else Forwarded(event, boundary))
        self.waiting += 1

    def clear(self) -> int:
        """Forget what waits; return how much that was."""
        count, self.waiting = self.waiting, 0
        for lane in self._by_priority:
            lane.clear()
        return count

    def tell_all(self, until: float = math.inf) -> bool:
        """Tell what waits, until monotonic `until` at most; return whether nothing waits any more.

        Not from within itself: what a subscriber puts waits behind the rest.
        """
        self.is_telling, self._mark = True, self._clock()
        try:
            while self.waiting and self._mark < until:
                self.waiting -= 1
                event = next(filter(None, self._by_priority)).popleft()
                if isinstance(event, Forwarded):
                    self.boundary = event.boundary
                    self._tell(event.event)
                    self.boundary = None
                else:
                    self._tell(event)
            return not self.waiting
        finally:
            self.is_telling, self._told, self.running, self.boundary = False, None, None, None

    def ingest(self, event: Event, id: int | None, priority: int | None, cause: int | None) -> None:
        """Stamp an event, and tell it at once, unless it has to wait. What it leads to waits for `tell_all`."""
        if self.waiting or self.is_telling or self._filters:
            if cause is None and self._told is not None:
                cause = self._told._stamp[0]
            self.stamp(event, id, priority, cause)
            self.put(event)
            return
        self.stamp(event, id, priority, cause)
        self.is_telling, self._told = True, event
        self._mark = self._clock()
        routes, kind = self._routes, event.__class__
        try:
            self._tell_each(event, (routes.get(kind) or self._route(kind, routes)).all)
        finally:
            self.is_telling, self._told, self.running = False, None, None

    def _tell(self, event: Event) -> None:
        self._told = event
        routes = self._routes
        route = routes.get(event.__class__) or self._route(event.__class__, routes)
        if self.boundary is not None:  # rules take only this hub's own events: another lab's answer is not for us
            if not self._is_consumed(event):
                self._tell_each(event, route.usual)
        elif not self._filters:
            self._tell_each(event, route.all)
        else:
            self._tell_each(event, route.first)
            if not self._is_consumed(event):
                self._tell_each(event, route.usual)
            self._tell_each(event, route.last)

    def _tell_each(self, event: Event, subscriptions: Iterable[Subscription]) -> None:
        clock, mark = self._clock, self._mark
        limit = mark + SLOW  # beyond which it is worth while to look who it was
        for subscription in subscriptions:
            self.running = subscription
            try:
                subscription.tell(event)
            except BaseException as error:  # also SystemExit, which would end the loop
                self._reporter.raised(subscription.role, subscription.name, error)
            now = clock()
            if now > limit:
                if now - mark > SLOW:
                    self._reporter.held_up(subscription.role, subscription.name, now - mark)
                limit = now + SLOW
            mark = now
        self._mark = mark

    def _is_consumed(self, event: Event) -> bool:
        for entry in tuple(self._filters):
            try:
                if entry.function(event):
                    return True
            except BaseException as error:
                self._reporter.raised("filter", entry.name, error)
            now = self._clock()
            if now - self._mark > SLOW:
                self._reporter.held_up("filter", entry.name, now - self._mark)
            self._mark = now
        return False


def ignore(_: Event) -> None:
    """Stand in for a subscriber that has been ended, or that is to do nothing."""
