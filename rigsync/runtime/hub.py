"""The hub on an event loop, with workers: what `rigsync.Hub` is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeVar, overload

from rigsync.core.events import Event
from rigsync.errors import NotRunning
from rigsync.hub.bounded import Bounded, superseding_key
from rigsync.hub.events import kind_of
from rigsync.hub.hub import HubCore, Stage, State, Subscription, ignore
from rigsync.hub.sources import Node, check_joinable, mode_of
from rigsync.hub.timers import Timer
from rigsync.runtime.callbacks import name_of, report
from rigsync.runtime.lanes import Callee, Lane, told
from rigsync.runtime.loop_thread import is_coroutine_function
from rigsync.runtime.sources import Sources
from rigsync.runtime.workers import Workers

logger = logging.getLogger("rigsync.hub")

SLICE = 0.05
"""Seconds after which a hub that still has events to tell lets the rest of the event loop go on."""
MOST_WAITING = 100_000
"""Events that may wait for the event loop, from other threads or from before the start; the oldest are dropped then."""
LAST_WORDS = 0.5
"""Seconds in which a hub that is stopped tells what waits."""
END_TIMEOUT = 2.0
"""Seconds that `async with` waits, at its end, for subscribers that run."""

LOOPING = State.LOOPING

Function = TypeVar("Function", bound=Callable[..., Any])

_joining = threading.RLock()  # boundaries of all hubs, so that two that are made at once cannot close a circle


class _Reporter:
    """Logs what goes wrong with subscribers."""

    def raised(self, role: str, name: str, error: BaseException) -> None:
        with contextlib.suppress(Exception):  # a log handler of the program that raises must lose no event
            report(role, name, error)

    def held_up(self, role: str, name: str, seconds: float) -> None:
        text = "%s %s took %.1f s, and the event loop stood still: subscribe it with run='worker', or do less in it"
        with contextlib.suppress(Exception):
            logger.warning(text, role, name, seconds)


class _Addressee:
    """A subscriber that is called by way of a lane."""

    def __init__(self, role: str, callee: Callee):
        self.role, self._callee = role, callee
        self.subscription: Subscription | None = None

    @property
    def callee(self) -> Callee | None:
        return self._callee if self.subscription is None or self.subscription.is_active else None


class Boundary:
    """Two hubs that are joined."""

    def __init__(self) -> None:
        self.parts: list[Callable[[], None]] = []

    def end(self) -> None:
        """Part the hubs; repeatedly, and from any thread."""
        with _joining:
            while self.parts:
                self.parts.pop()()


class Hub:
    """Where events are told, and by whom they are heard.

    Filters come first, in the order in which they were added, then subscribers by their priority. What a subscriber
    tells the hub waits behind all that waits already. An event of lower `PRIORITY` overtakes; equal ones keep their
    order. docs/hub.md shows all of it.

    A hub runs on the event loop on which it is started: ``async with Hub() as hub``. An `Auxiliaries` and a `Rig` have
    one each, which they start and stop themselves.

    Parameters
    ----------
    name : str
        What errors and threads call it.
    owner : str, optional
        Who starts and stops it; then nobody else may.
    """

    def __init__(self, name: str = "hub", *, owner: str | None = None):
        self.name, self._owner = name, owner
        self._core = HubCore(time.monotonic, time.time, _Reporter())
        self._state = State.READY
        self._changing = threading.RLock()  # who subscribes; never held while anybody is told
        self._incoming: Bounded[tuple[Event, Boundary | None]] = Bounded()  # what waits for the loop; under the next
        self._putting = threading.RLock()
        self._knocked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ident = 0
        self._again: asyncio.Handle | None = None
        self._sources = Sources(self.ingest)
        self._lanes: weakref.WeakSet[Lane] = weakref.WeakSet()  # each lives while it has a subscriber, or calls one
        self._workers = Workers(name)
        self._node = Node(name)
        self._stopped = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Hub {self.name!r} {self._state.value}>"

    @property
    def state(self) -> State:
        """State: ``READY``, ``STARTING``, ``LOOPING`` or ``STOPPED``."""
        return self._state

    @property
    def blocked_by(self) -> str | None:
        """Str or None: the subscriber that is being told at this moment, on the event loop; from any thread."""
        running = self._core.running
        return running.name if running else None

    # ------------------------------------------------------------------------------------------- who is told what

    @overload
    def subscribe(
        self,
        kind: type[Event] | str | int,
        function: Callable[[Any], object],
        *,
        where: Callable[[Any], object] | None = None,
        priority: float = 0,
        run: str = "loop",
    ) -> Callable[[], None]: ...

    @overload
    def subscribe(
        self,
        kind: type[Event] | str | int,
        function: None = None,
        *,
        where: Callable[[Any], object] | None = None,
        priority: float = 0,
        run: str = "loop",
    ) -> Callable[[Function], Function]: ...

    def subscribe(
        self,
        kind: type[Event] | str | int,
        function: Callable[[Any], object] | None = None,
        *,
        where: Callable[[Any], object] | None = None,
        priority: float = 0,
        run: str = "loop",
    ) -> Any:
        """Have a function called with each event of one kind; from any thread.

        Parameters
        ----------
        kind : class, str or int
            A class in `rigsync.events`, which stands for those derived from it too, its name in any case, or its
            number. ``Event`` is every event.
        function : callable, optional
            Called with the event. A coroutine function is awaited: the others do not wait for it, and its next event
            does. Without a function, `subscribe` decorates: ``@hub.subscribe("LinkLost")``.
        where : callable, optional
            Called before with the event; the function is called only where this returns something true.
        priority : float
            Of several subscribers to an event, the one of lowest priority is told first; equal ones in the order in
            which they came.
        run : {'loop', 'worker'}
            Whether a plain function is called on the event loop, where it has to be quick, or on a worker thread, where
            it may block. 10,000 events may wait for a worker or a coroutine function, and 64 MiB; beyond that the
            oldest are dropped, which the log tells. Of progress, the newest value takes the place of one that waits.

        Returns
        -------
        callable
            Call it to end the subscription; as a decorator, the function.

        Raises
        ------
        UnknownEvent
            No such event; the text names close matches.
        TypeError, ValueError
            The function or `where` is no function, `run` is neither, or a coroutine function is to run on a worker.
        """
        asked = kind_of(kind)

        def register(function: Callable[[Any], object]) -> Callable[[], None]:
            return self._register(asked, function, where, priority, run)

        if function is not None:
            return register(function)

        def decorate(function: Function) -> Function:
            register(function)
            return function

        return decorate

    def default(self, function: Callable[[Any], object], *, run: str = "loop") -> Callable[[], None]:
        """Have a function called with each event that nobody has subscribed to, and that is not discarded.

        Subscribers to ``Event``, which is every event, do not count. Parameters and errors are those of `subscribe`.
        """
        return self._register(None, function, None, 0, run)

    def filter(self, function: Callable[[Any], object]) -> Callable[[], None]:
        """Ask a function about every event; where it returns something true, no filter or subscriber after it is told.

        rigsync's own rules are told all the same: a filter keeps no `push` from its answer, nor the log from its line.

        Parameters
        ----------
        function : callable
            A plain function; called with the event on the event loop.

        Returns
        -------
        callable
            Call it to take the filter away.

        Raises
        ------
        TypeError
            It is no plain function.
        """
        _check_callable(function, "filter")
        if is_coroutine_function(function):
            raise TypeError(f"a filter decides at once: {name_of(function)} is a coroutine function")
        with self._changing:
            return self._ending(self._core.add_filter(function, name_of(function)))

    def discard(self, kind: type[Event] | str | int) -> Callable[[], None]:
        """Keep events of a kind that nobody has subscribed to from the default subscribers; return what ends that."""
        return self._register(kind_of(kind), ignore, None, 0, "loop")

    def rule(self, kind: type[Event], function: Callable[[Any], object], *, last: bool = False) -> Callable[[], None]:
        """Subscribe one of rigsync's own, which no filter keeps from anything: before all others, or after them."""
        return self._register(kind, function, None, 0, "loop", Stage.LAST if last else Stage.FIRST)

    def lane(self, log: logging.Logger = logger, noun: str = "subscriber", what: str = "events") -> Lane:
        """Return a new room for events that wait for functions; it ends with the hub."""
        lane = Lane(lambda: self._workers, log, noun, what)
        self._lanes.add(lane)
        return lane

    def _register(
        self,
        kind: type[Event] | None,
        function: Callable[[Any], object],
        where: Callable[[Any], object] | None,
        priority: float,
        run: str,
        stage: Stage = Stage.USUAL,
    ) -> Callable[[], None]:
        _check_callable(function, "handler")
        if where is not None:
            _check_callable(where, "where")
        if run not in ("loop", "worker"):
            raise ValueError(f"run is 'loop' or 'worker', not {run!r}")
        callee = Callee.of(function)
        if callee.is_coroutine and run == "worker":
            raise TypeError(f"{callee.name} is a coroutine function, which runs on the loop: leave run='worker' out")
        subscription = Subscription(kind, function, priority, stage, callee.name)
        lane: Lane | None = None
        if callee.is_coroutine or run == "worker":
            lane, addressee = self.lane(), _Addressee(subscription.role, callee)
            addressee.subscription = subscription
            put = lane.put
            subscription.tell = lambda event: put(addressee, event)
        if where is not None:
            subscription.tell = _only_where(where, subscription.tell)
        with self._changing:
            self._core.subscribe(subscription)

        def end() -> None:
            self._core.end(subscription)

        return self._ending(end)

    def _ending(self, end: Callable[[], None]) -> Callable[[], None]:
        def end_once() -> None:
            with self._changing:
                end()

        return end_once

    # ----------------------------------------------------------------------------------------------------- telling

    def ingest(
        self, event: Event, *, id: int | None = None, priority: int | None = None, cause: int | None = None
    ) -> None:
        """Tell an event; from any thread, without waiting.

        From a subscriber, the event waits behind all that wait. From elsewhere on the event loop, subscribers that run
        there have been told when this returns, unless there is much to tell. From another thread, or before the start,
        it waits for the loop; 100,000 may, and beyond that the oldest are dropped, which the log tells.

        Parameters
        ----------
        event : Event
            What happened. It is not copied: its `stamp` is that of the hub that was told of it last.
        id : int, optional
            Its id, in place of the next number.
        priority : int, optional
            In place of that of its class: the lower, the sooner it is told.
        cause : int, optional
            The id of the event that led to it. By default the one that the calling subscriber is being told.

        Raises
        ------
        NotRunning
            The hub is STOPPED, or its event loop is closed.
        UnknownEvent
            It is no event.
        """
        core = self._core
        is_here = get_ident() == self._ident and self._state is LOOPING
        if cause is None and not (is_here and core.is_telling) and (leading := told.get()) is not None:
            cause = leading._stamp[0]
        if not is_here:
            core.stamp(event, id, priority, cause)
            self._put(event)
            return
        core.ingest(event, id, priority, cause)
        if core.waiting and not core.is_telling and self._again is None:
            self._tell()

    def _put(self, event: Event, boundary: Boundary | None = None) -> None:
        """Let an event wait for the loop."""
        with self._putting:
            if self._state is State.STOPPED:
                raise NotRunning(
                    f"ingest() of {type(event).__name__} while hub {self.name!r} is STOPPED: start it again"
                )
            self._incoming.put((event, boundary), superseding_key(event))
            is_full = self._incoming.drop_excess(MOST_WAITING, math.inf) is not None and self._incoming.dropped == 1
            knocks = self._state is State.LOOPING and not self._knocked
            self._knocked = self._knocked or knocks
        if is_full:
            text = "hub %r keeps %d events waiting for its event loop; the oldest are dropped from now on"
            logger.warning(text, self.name, MOST_WAITING)
        if knocks and self._loop:
            try:
                self._loop.call_soon_threadsafe(self._take_in)
            except RuntimeError:
                raise NotRunning(f"ingest() while the event loop of hub {self.name!r} is closed") from None

    def _take_in(self) -> None:
        """Take what waits for the loop, and tell it; on the loop."""
        with self._putting:
            self._knocked = False
            taken = [self._incoming.take() for _ in range(len(self._incoming))]
            dropped, self._incoming.dropped = self._incoming.dropped, 0
        if dropped:
            logger.warning(
                "%d events were dropped while the event loop of hub %r did not take them", dropped, self.name
            )
        for event, boundary in taken:
            self._core.put(event, boundary)
        if not self._core.is_telling and self._again is None:
            self._tell()

    def _tell(self) -> None:
        self._again = None
        if self._state is State.LOOPING and not self._core.tell_all(time.monotonic() + SLICE) and self._loop:
            self._again = self._loop.call_soon(self._tell)

    # ------------------------------------------------------------------------------------------- timers and sources

    def add(self, source: Any) -> Callable[[], None]:
        """Take events from a source: begun with the hub, or at once, and closed with it; from any thread.

        Parameters
        ----------
        source : Timer or object
            A `Timer`. Or one that pushes: it has ``start(ingest)``, plain or a coroutine function, and may have
            ``close()``. Or one that is pulled, an asynchronous iterator of events: it is asked for the next event when
            the one before has been told, and removed when it has no more. One that raises is reported and removed.

        Returns
        -------
        callable
            Call it to close and remove the source.

        Raises
        ------
        TypeError
            It is none of these.
        """
        if not isinstance(source, Timer):
            mode_of(source)
        self._sources.add(source)
        self._soon(self._sources.begin)

        def remove() -> None:
            self._sources.forget(source)
            self._soon(self._sources.remove, source)

        return remove

    def _soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the loop, if the hub loops: now, if this is it, else soon."""
        if self._state is State.LOOPING and self._loop:
            if get_ident() == self._ident:
                function(*args)
            else:
                with contextlib.suppress(RuntimeError):  # closed
                    self._loop.call_soon_threadsafe(function, *args)

    # ---------------------------------------------------------------------------------------------- other hubs

    def join(self, other: Hub, *, both_ways: bool = False, where: Callable[[Any], object] | None = None) -> Boundary:
        """Pass all events on to another hub, on whatever loop or thread that runs; from any thread.

        An event keeps its stamp, and does not come back the way it came. One that a filter consumes is not passed on.

        Parameters
        ----------
        other : Hub
            Where they go.
        both_ways : bool
            Whether its events come here as well.
        where : callable, optional
            Called with each event; only those for which it returns something true are passed on.

        Returns
        -------
        Boundary
            Its `end` parts the hubs. It ends by itself where the other hub has stopped.

        Raises
        ------
        ValueError
            It is this hub, is joined with it already, or the boundary would close a circle.
        TypeError
            It is no hub, or `where` is no function.
        """
        if not isinstance(other, Hub):
            raise TypeError(f"a hub is joined with a hub, not with {other!r}")
        if where is not None:
            _check_callable(where, "where")
        boundary = Boundary()
        with _joining:
            check_joinable(self._node, other._node, both_ways)
            self._pass_on(other, boundary, where)
            if both_ways:
                other._pass_on(self, boundary, where)
        return boundary

    def _pass_on(self, there: Hub, boundary: Boundary, where: Callable[[Any], object] | None) -> None:
        def pass_on(event: Event) -> None:
            if self._core.boundary is boundary:
                return
            try:
                there._put(event, boundary)
            except NotRunning as error:
                logger.warning("hub %r passes nothing on any more: %s", self.name, error)
                boundary.end()

        pass_on.__qualname__ = f"boundary to hub {there.name!r}"
        end = self._register(Event, pass_on, where, math.inf, "loop")
        self._node.others.append(there._node)

        def part() -> None:
            end()
            self._node.others.remove(there._node)

        boundary.parts.append(part)

    # ------------------------------------------------------------------------------------------------- life cycle

    async def start(self) -> None:
        """Begin, on the running event loop: sources are started, timers count, and what waits is told.

        Raises
        ------
        RuntimeError
            It is STARTING or LOOPING already, or somebody else starts and stops it.
        NotRunning
            It was stopped meanwhile.
        """
        self._check_owner("start()")
        self._enter_loop()
        await self._sources.begun()
        if self._state is not State.STARTING:
            raise NotRunning(f"stop() while hub {self.name!r} was STARTING: start it again")
        self._go()

    def begin(self) -> None:
        """Do as `start` does, without waiting for sources to start; for the owner of the hub."""
        self._enter_loop()
        self._go()

    def _enter_loop(self) -> None:
        if self._state in (State.STARTING, State.LOOPING) and self._loop and not self._loop.is_closed():
            raise RuntimeError(f"start() while hub {self.name!r} is {self._state.value} already")
        if self._state is State.STOPPED:
            self._workers = Workers(self.name)
        self._loop, self._ident = asyncio.get_running_loop(), get_ident()
        self._stopped = asyncio.Event()
        self._state = State.STARTING
        self._sources.begin()

    def _go(self) -> None:
        self._state = State.LOOPING
        self._sources.begin()
        self._take_in()

    async def run(self) -> None:
        """Start, and return when the hub has been stopped, by whomever."""
        async with self:
            await self._stopped.wait()

    def stop(self) -> None:
        """Tell what waits, close sources and timers, and take no more events; from any thread, repeatedly.

        Raises
        ------
        RuntimeError
            Somebody else starts and stops it.
        """
        self._check_owner("stop()")
        self.end()

    def end(self) -> None:
        """Do as `stop` does, for the owner of the hub."""
        loop = self._loop
        if self._state in (State.READY, State.STOPPED) or loop is None:
            self._state = State.STOPPED
        elif get_ident() == self._ident and not self._core.is_telling:
            self._end()
        else:
            with contextlib.suppress(RuntimeError):  # closed, and nothing runs any more
                loop.call_soon_threadsafe(self._end)
                return
            self._state = State.STOPPED

    def _end(self) -> None:
        if self._state is State.STOPPED:
            return
        self._take_in()
        if self._again:
            self._again.cancel()
            self._again = None
        self._core.tell_all(time.monotonic() + LAST_WORDS)
        with self._putting:
            self._state = State.STOPPED
            left = self._core.clear() + len(self._incoming)
            self._incoming.clear()
            self._knocked = False
        if left:
            logger.warning("%d events were not told any more: hub %r has stopped", left, self.name)
        self._sources.end()
        for lane in list(self._lanes):
            lane.end()
        self._workers.close(0.0)
        self._stopped.set()

    def end_workers(self, timeout: float) -> None:
        """Wait some seconds for plain functions that run on workers, and name those that go on; off the event loop."""
        stuck = self._workers.close(timeout)
        for lane in list(self._lanes):
            lane.note_stuck(stuck)

    async def __aenter__(self) -> Hub:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await self._sources.ended()
        await asyncio.get_running_loop().run_in_executor(None, self.end_workers, END_TIMEOUT)

    def _check_owner(self, call: str) -> None:
        if self._owner:
            raise RuntimeError(
                f"{call} of hub {self.name!r}: {self._owner} starts and stops it, by its own start and close"
            )


def _only_where(where: Callable[[Any], object], tell: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda event: tell(event) if where(event) else None


def _check_callable(function: object, role: str) -> None:
    if not callable(function):
        raise TypeError(f"a {role} is a function, not {type(function).__name__}: {function!r}")
