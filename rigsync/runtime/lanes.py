"""Events on their way to slow functions: one after the other, in the order of arrival, bounded."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rigsync.core.events import Event
from rigsync.hub.bounded import Bounded, superseding_key
from rigsync.runtime.callbacks import guarded, name_of, report
from rigsync.runtime.loop_thread import is_coroutine_function
from rigsync.runtime.workers import Workers

WAITING = 10_000
WAITING_BYTES = 64 << 20
"""Most events that wait for the functions of one lane, and their bytes on the network. Beyond that the lane drops the
oldest. A newer progress of an item takes the place of one that waits."""

told: contextvars.ContextVar[Event | None] = contextvars.ContextVar("told", default=None)
"""The event that a coroutine or a worker is being told: the cause of the events that it tells the hub."""


@dataclass(frozen=True, slots=True, eq=False)
class Callee:
    """A function of the program, as it was given."""

    function: Callable[[Any], Any]
    is_coroutine: bool

    @classmethod
    def of(cls, function: Callable[[Any], Any]) -> Callee:
        return cls(function, is_coroutine_function(function))

    @property
    def name(self) -> str:
        return name_of(self.function)


class Target(Protocol):
    """The function that events wait for. It may be replaced or ended meanwhile."""

    @property
    def callee(self) -> Callee | None:
        """The function; None after its end."""

    @property
    def role(self) -> str:
        """What the log calls it beside its name."""


class Lane:
    """Calls functions with events: the next one begins when the one before has ended.

    A plain function runs on a worker, so that it may block, a coroutine function on the event loop. What was dropped
    is logged; there a function is called `noun`, and the events `what`.
    """

    def __init__(
        self,
        workers: Callable[[], Workers],
        boundary: Callable[[], object],
        logger: logging.Logger,
        noun: str = "subscriber",
        what: str = "events",
    ):
        self._workers, self._boundary = workers, boundary
        self._logger, self._noun, self._what = logger, noun, what
        # All below belongs to the loop's thread.
        self._waiting: Bounded[tuple[Target, Event]] = Bounded()
        self._task: asyncio.Task[None] | None = None
        self._running: Callee | None = None
        self._held_up_by = ""

    def put(self, target: Target, event: Event) -> None:
        """Have the function of a target called with an event. On the loop's thread."""
        key, size = superseding_key(event, self._boundary()), getattr(event, "size", 0)
        self._waiting.put((target, event), key and (target, key), size if isinstance(size, int) else 0)
        while (entry := self._waiting.drop_excess(WAITING, WAITING_BYTES)) is not None:
            self._note_dropped(entry[0])
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._call_all(), name=f"rigsync {self._what}")

    def _note_dropped(self, target: Target) -> None:
        if target.callee is None:  # ended meanwhile
            self._waiting.dropped -= 1
        elif self._waiting.dropped == 1:
            self._held_up_by = (self._running or target.callee).name
            self._logger.warning(
                "%s %s for %s keeps %d of them waiting; the oldest are dropped from now on",
                self._noun,
                self._held_up_by,
                self._what,
                len(self._waiting),
            )

    async def _call_all(self) -> None:
        try:
            while len(self._waiting):
                target, event = self._waiting.take()
                if callee := target.callee:
                    self._running = callee
                    await self._call(callee, target.role, event)
            self._running = None
            self._tell_dropped()
        finally:
            self._task = None  # here, for a callback of the task would come a turn later, and events between

    async def _call(self, callee: Callee, role: str, event: Event) -> None:
        if callee.is_coroutine:
            # A task of its own, whose cancelling by itself is told from that of this one.
            await asyncio.wait(
                {asyncio.create_task(_awaited(callee, role, event, self._logger), name="rigsync subscriber")}
            )
        else:
            await self._in_worker(callee, role, event)

    async def _in_worker(self, callee: Callee, role: str, event: Event) -> None:
        def call() -> None:
            told.set(event)
            guarded(role, callee.function, event)
            told.set(None)

        try:
            called = self._workers().begin(call)
        except RuntimeError:  # the system gives no more threads
            self._logger.exception("%s %s was not called", role, callee.name)
        else:
            await called

    def _tell_dropped(self) -> None:
        if count := self._waiting.dropped:
            self._logger.warning("%d %s were dropped while %s %s ran", count, self._what, self._noun, self._held_up_by)
            self._waiting.dropped = 0

    def end(self) -> None:
        """Call nothing any more. A plain function that runs goes on; a coroutine is cancelled. On the loop's thread."""
        self._waiting.clear()
        self._tell_dropped()
        if self._task:
            self._task.cancel()

    def note_stuck(self, threads: list[str]) -> None:
        """Log which function still runs, if one of these threads, which have not ended, may run it."""
        stuck = [name for name in threads if name != threading.current_thread().name]
        if stuck and self._running and not self._running.is_coroutine:
            text = "%s %s for %s is still running; it is left to itself"
            self._logger.warning(text, self._noun, self._running.name, self._what)


async def _awaited(callee: Callee, role: str, event: Event, log: logging.Logger) -> None:
    told.set(event)  # for this task alone
    try:
        await callee.function(event)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # also SystemExit, which would end the loop
        report(role, callee.name, error, log)
