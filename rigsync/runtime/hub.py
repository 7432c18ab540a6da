"""`rigsync.Hub`: the hub on an event loop, with workers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from rigsync.core.events import Event
from rigsync.errors import NotRunning
from rigsync.hub.bounded import Bounded, superseding_key
from rigsync.hub.hub import State
from rigsync.hub.sources import Node, check_joinable, mode_of
from rigsync.hub.timers import Timer
from rigsync.runtime.callbacks import runs_here
from rigsync.runtime.lanes import told
from rigsync.runtime.sources import Sources
from rigsync.runtime.subscribing import Subscribing, check_callable, logger
from rigsync.runtime.workers import Workers

SLICE = 0.05
"""Seconds that a hub tells events at a stretch. Then the rest of the event loop has its turn."""
MOST_WAITING = 100_000
"""Most events that wait for the event loop, from other threads or before the start. Beyond that the oldest go."""
LAST_WORDS = 0.5
"""Most seconds in which a hub that is stopped tells the events that wait."""
END_TIMEOUT = 2.0
"""Seconds that its owner waits, at its end, for subscribers that run, and for bridges that send what they were told."""

LOOPING = State.LOOPING

_joining = threading.RLock()  # boundaries of all hubs, so that two that are made at once cannot close a circle


class Boundary:
    """Two hubs that are joined."""

    def __init__(self) -> None:
        self.parts: list[Callable[[], None]] = []

    def end(self) -> None:
        """Part the hubs; repeatedly, and from any thread."""
        with _joining:
            while self.parts:
                self.parts.pop()()


class Hub(Subscribing):
    """Takes events, and tells them to its subscribers.

    Filters come first, in the order in which they were added, then subscribers by their priority. What a subscriber
    tells the hub waits behind all that waits already. An event of lower `PRIORITY` overtakes; equal ones keep their
    order. docs/hub.md shows all of it.

    A hub runs on the event loop on which it is started: ``async with Hub() as hub``. An `Auxiliaries` and a `Rig` have
    one each, which they start and stop themselves.

    Parameters
    ----------
    name : str
        Its name in errors, and in the names of threads.
    owner : str, optional
        Who starts and stops it. Nobody else may then.
    """

    def __init__(self, name: str = "hub", *, owner: str | None = None):
        super().__init__()
        self.name, self._owner = name, owner
        self._state = State.READY
        self._incoming: deque[tuple[Event, object]] = deque()  # what waits for the loop
        self._dropped = 0
        self._knocked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ident = 0
        self._again: asyncio.Handle | None = None
        self._sources = Sources(self.ingest)
        self._workers = Workers(name)
        self._node = Node(name)
        self._stopped = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Hub {self.name!r} {self._state.value}>"

    @property
    def state(self) -> State:
        """State: ``READY``, ``STARTING``, ``LOOPING`` or ``STOPPED``."""
        return self._state

    # ----------------------------------------------------------------------------------------------------- telling

    def ingest(
        self, event: Event, *, id: int | None = None, priority: int | None = None, cause: int | None = None
    ) -> None:
        """Tell an event; from any thread, without waiting.

        From a subscriber, the event waits behind all others. From elsewhere on the event loop, subscribers that run
        there have been told when this returns, unless there is much to tell. From another thread, or before the start,
        it waits for the loop. At most 100,000 events wait; beyond that the hub drops the oldest, and logs it.

        Parameters
        ----------
        event : Event
            What happened. It is not copied: its `stamp` is that of the hub that took it last.
        id : int, optional
            Its id, in place of the next number.
        priority : int, optional
            In place of that of its class. The lower, the sooner.
        cause : int, optional
            The id of the event that led to it; by default of the one that the calling subscriber is being told.

        Raises
        ------
        NotRunning
            The hub is STOPPED, or its event loop is closed.
        UnknownEvent
            It is no event.
        TypeError
            The priority is no whole number.
        """
        if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int)):
            raise TypeError(f"the priority of an event is a whole number, not {priority!r}")
        core = self._core
        is_here = get_ident() == self._ident and self._state is LOOPING
        if cause is None and not (is_here and core.is_telling) and (leading := told.get()) is not None:
            cause = leading._stamp[0]
        if not is_here:
            core.stamp(event, id, priority, cause)
            self.queue(event)
            return
        core.ingest(event, id, priority, cause)
        if core.waiting and not core.is_telling and self._again is None:
            self._tell()

    @property
    def boundary(self) -> object:
        """The boundary by which the event that is being told has come; None if this hub tells it first."""
        return self._core.boundary

    @property
    def runs_here(self) -> bool:
        """Whether the caller runs on the hub's event loop."""
        return self._loop is not None and runs_here(self._loop)

    def queue(self, event: Event, boundary: object = None) -> None:
        """Let an event that has a stamp wait for the loop; `boundary` has brought it from another hub."""
        # In single steps, without a lock: a signal handler may interrupt this, and wait for what the loop tells.
        if self._state is State.STOPPED:
            raise NotRunning(f"ingest() of {type(event).__name__} while hub {self.name!r} is STOPPED: start it again")
        self._incoming.append((event, boundary))
        if len(self._incoming) > MOST_WAITING:
            with contextlib.suppress(IndexError):  # the loop has just taken all
                self._incoming.popleft()
                self._dropped += 1
                if self._dropped == 1:
                    text = "hub %r keeps %d events waiting for its event loop; the oldest are dropped from now on"
                    logger.warning(text, self.name, MOST_WAITING)
        if self._loop and self._state is State.LOOPING and not self._knocked:
            self._knocked = True
            try:
                if get_ident() == self._ident:
                    self._loop.call_soon(self._take_in)  # nobody has to be woken
                else:
                    self._loop.call_soon_threadsafe(self._take_in)
            except RuntimeError:
                raise NotRunning(f"ingest() while the event loop of hub {self.name!r} is closed") from None

    def _take_in(self) -> None:
        """Tell the events that wait for the loop; on the loop."""
        self._knocked = False  # before it looks: what comes from now on knocks again
        taken: Bounded[tuple[Event, object]] = Bounded()
        with contextlib.suppress(IndexError):  # one of these has been dropped meanwhile
            for _ in range(len(self._incoming)):
                event, boundary = self._incoming.popleft()
                taken.put((event, boundary), superseding_key(event, boundary))
        dropped, self._dropped = self._dropped, 0
        if dropped:
            logger.warning(
                "%d events were dropped while the event loop of hub %r did not take them", dropped, self.name
            )
        while len(taken):
            self._core.put(*taken.take())
        if not self._core.is_telling and self._again is None:
            self._tell()

    def _tell(self) -> None:
        self._again = None
        if self._state is State.LOOPING and not self._core.tell_all(time.monotonic() + SLICE) and self._loop:
            self._again = self._loop.call_soon(self._tell)

    # ------------------------------------------------------------------------------------------- timers and sources

    def add(self, source: Any) -> Callable[[], None]:
        """Take events from a source, which begins and ends with the hub; from any thread.

        Parameters
        ----------
        source : Timer or object
            A `Timer`; or a source that pushes, with a method ``start(ingest)``, plain or a coroutine function, and
            perhaps ``close()``; or an asynchronous iterator of events. The hub asks an iterator for the next event when
            the one before has been told, and removes it when it has no more. It reports and removes a source that
            raises.

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
        """Call a function on the hub's loop, if it runs: now from that loop, soon from elsewhere."""
        if self._state is State.LOOPING and self._loop:
            if self.runs_here:
                function(*args)
            else:
                with contextlib.suppress(RuntimeError):  # closed
                    self._loop.call_soon_threadsafe(function, *args)

    # ---------------------------------------------------------------------------------------------- other hubs

    def join(self, other: Hub, *, both_ways: bool = False, where: Callable[[Any], object] | None = None) -> Boundary:
        """Pass all events on to another hub, on any loop or thread; from any thread.

        An event keeps its stamp, and does not come back the way it came. The hub does not pass on what a filter
        consumes. Over there subscribers are told: what a coordinator or rig does of its own follows from its own
        events alone.

        Parameters
        ----------
        other : Hub
            Where they go.
        both_ways : bool
            Whether its events come here as well.
        where : callable, optional
            Called with each event. Only those for which it returns something true are passed on.

        Returns
        -------
        Boundary
            Its ``end()`` parts the hubs. It ends by itself when the other hub has stopped.

        Raises
        ------
        ValueError
            It is this hub or joined with it already, or the boundary would close a circle.
        TypeError
            It is no hub, or `where` is no function.
        """
        if not isinstance(other, Hub):
            raise TypeError(f"a hub is joined with a hub, not with {other!r}")
        if where is not None:
            check_callable(where, "where")
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
                there.queue(event, boundary)
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
        """Start, and return when somebody has stopped the hub."""
        async with self:
            await self._stopped.wait()

    def stop(self) -> None:
        """Tell what waits, close sources and timers, and take no more events. From any thread, and repeatedly.

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
        self._state = State.STOPPED
        left = self._core.clear() + len(self._incoming)
        self._incoming.clear()
        self._knocked = False
        if left:
            logger.warning("%d events were not told any more: hub %r has stopped", left, self.name)
        self._sources.end()
        for lane in self._all_lanes():
            lane.end()
        self._workers.close(0.0)
        self._stopped.set()

    async def ended(self) -> None:
        """Wait, 2 s at most, until what `end` closes has ended: a bridge sends what it was told last."""
        await self._sources.ended(END_TIMEOUT)

    def in_worker(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run a function on a worker, where it may block; on the event loop."""
        return self._workers.begin(function)

    def end_workers(self, timeout: float) -> None:
        """Wait some seconds for plain functions that run on workers, and name those that go on; off the event loop."""
        stuck = self._workers.close(timeout)
        for lane in self._all_lanes():
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
