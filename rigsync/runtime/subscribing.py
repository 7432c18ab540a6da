"""The part of a hub by which its users subscribe."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

from rigsync.core.events import Event
from rigsync.hub.events import kind_of
from rigsync.hub.hub import HubCore, Stage, Subscription, ignore
from rigsync.runtime.callbacks import name_of, report
from rigsync.runtime.lanes import Callee, Lane
from rigsync.runtime.loop_thread import is_coroutine_function
from rigsync.runtime.workers import Workers

logger = logging.getLogger("rigsync.hub")

Function = TypeVar("Function", bound=Callable[..., Any])


class _Reporter:
    """Logs what goes wrong with subscribers."""

    def raised(self, role: str, name: str, error: BaseException) -> None:
        with contextlib.suppress(Exception):  # a log handler of the program that raises must lose no event
            report(role, name, error)

    def held_up(self, role: str, name: str, seconds: float) -> None:
        text = "%s %s took %.1f s, and the event loop stood still%s"
        remedy = ": subscribe it with run='worker', or do less in it" if role.startswith("subscriber") else ""
        with contextlib.suppress(Exception):
            logger.warning(text, role, name, seconds, remedy)


class _Addressee:
    """A subscriber behind a lane."""

    def __init__(self, subscription: Subscription, callee: Callee):
        self.role, self._subscription, self._callee = subscription.role, subscription, callee

    @property
    def callee(self) -> Callee | None:
        return self._callee if self._subscription.is_active else None


class Subscribing:
    """Filters and subscribers of a hub."""

    _workers: Workers

    def __init__(self) -> None:
        self._core = HubCore(time.monotonic, time.time, _Reporter())
        # Each lives while it has a subscriber, or calls one.
        self._lanes: weakref.WeakValueDictionary[int, Lane] = weakref.WeakValueDictionary()

    @property
    def blocked_by(self) -> str | None:
        """Which subscriber of the program is being told on the event loop at this moment; None for none."""
        running = self._core.running
        return running.name if running and running.stage is Stage.USUAL else None

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
        """Call a function with each event of one kind. From any thread.

        Parameters
        ----------
        kind : class, str or int
            A class in `rigsync.events`, which stands for those derived from it too, its name in any case, or its
            number. ``Event`` is every event.
        function : callable, optional
            Called with the event. A coroutine function is awaited: its own next event waits for it, other subscribers
            do not. Without a function, `subscribe` is a decorator: ``@hub.subscribe("LinkLost")``.
        where : callable, optional
            Called with the event first. Only if it returns something true, the function is called.
        priority : float
            The subscriber of lowest priority is told first; equal ones in the order in which they came.
        run : {'loop', 'worker'}
            Where a plain function is called: on the event loop, where it has to be quick, or on a worker thread, where
            it may block. At most 10,000 events, and 64 MiB, wait for a worker or a coroutine function. Beyond that the
            hub drops the oldest, and logs it. A newer progress takes the place of one that waits.

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
        """Call a function with each event that nobody has subscribed to, and that is not discarded.

        Subscribers to ``Event``, which is every event, do not count. Parameters and errors are those of `subscribe`.
        """
        return self._register(None, function, None, 0, run)

    def filter(self, function: Callable[[Any], object]) -> Callable[[], None]:
        """Call a function with every event. If it returns something true, no later filter or subscriber is told.

        rigsync's own rules are told in any case: a filter cannot keep the answer from a `push`, or a line from the log.

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
        check_callable(function, "filter")
        if is_coroutine_function(function):
            raise TypeError(f"a filter decides at once: {name_of(function)} is a coroutine function")
        return self._core.add_filter(function, name_of(function))

    def discard(self, kind: type[Event] | str | int) -> Callable[[], None]:
        """Keep events of a kind from the default subscribers. Call what it returns to end that."""
        return self._register(kind_of(kind), ignore, None, 0, "loop")

    def rule(self, kind: type[Event], function: Callable[[Any], object], *, last: bool = False) -> Callable[[], None]:
        """Subscribe a rule of rigsync, before or after all others. No filter keeps an event from it."""
        return self._register(kind, function, None, 0, "loop", Stage.LAST if last else Stage.FIRST)

    def lane(self, log: logging.Logger = logger, noun: str = "subscriber", what: str = "events") -> Lane:
        """Return a new room for events that wait for functions; it ends with the hub."""
        lane = Lane(lambda: self._workers, lambda: self._core.boundary, log, noun, what)
        self._lanes[id(lane)] = lane
        return lane

    def _all_lanes(self) -> list[Lane]:
        return [lane for found in self._lanes.valuerefs() if (lane := found()) is not None]

    def _register(
        self,
        kind: type[Event] | None,
        function: Callable[[Any], object],
        where: Callable[[Any], object] | None,
        priority: float,
        run: str,
        stage: Stage = Stage.USUAL,
    ) -> Callable[[], None]:
        check_callable(function, "handler")
        if where is not None:
            check_callable(where, "where")
        if run not in ("loop", "worker"):
            raise ValueError(f"run is 'loop' or 'worker', not {run!r}")
        callee = Callee.of(function)
        if callee.is_coroutine and run == "worker":
            raise TypeError(f"{callee.name} is a coroutine function, which runs on the loop: leave run='worker' out")
        subscription = Subscription(kind, function, priority, stage, callee.name)
        if callee.is_coroutine or run == "worker":
            subscription.tell = functools.partial(self.lane().put, _Addressee(subscription, callee))
        if where is not None:
            subscription.tell = _only_where(where, subscription.tell)
        self._core.subscribe(subscription)

        def end() -> None:
            self._core.end(subscription)

        return end


def _only_where(where: Callable[[Any], object], tell: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda event: tell(event) if where(event) else None


def check_callable(function: object, role: str) -> None:
    """Raise a `TypeError` that names what is no function."""
    if not callable(function):
        raise TypeError(f"a {role} is a function, not {type(function).__name__}: {function!r}")
