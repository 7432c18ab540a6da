"""Calls one function for each topic of notices, one after the other, in the order of arrival."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rigsync.core.board import PROGRESS, STREAM
from rigsync.core.events import Notice, ProgressChanged, StreamEvent
from rigsync.runtime.callbacks import RAISED, guarded, name_of
from rigsync.runtime.loop_thread import is_coroutine_function
from rigsync.runtime.workers import Workers

logger = logging.getLogger("rigsync.reports")

WAITING = 10_000
WAITING_BYTES = 64 << 20
"""Notices that may wait for their functions, and their bytes on the network. Beyond that the oldest are dropped."""
TOLD_BY = {PROGRESS: ProgressChanged, STREAM: StreamEvent}
"""Topics that are not told as notices, and the events that tell them instead."""


@dataclass(slots=True, eq=False)
class _Callback:
    """A user's function."""

    function: Callable[[Notice], Any]
    name: str
    """What the log calls it."""
    is_coroutine: bool
    is_over: bool = False
    """Whether it is called no more."""

    def end(self) -> None:
        """Call it no more, and keep alive nothing that it refers to."""
        self.is_over = True
        self.function = _ignore


@dataclass(slots=True, eq=False)
class _Kind:
    """A topic while it has a callback. Notices that waited for this callback are not for a later one."""

    topic: str
    callback: _Callback


class Reports:
    """The callbacks of one coordinator.

    A plain function runs on a thread of its own, so it may block. A coroutine function runs on the event loop. The next
    call begins when it has ended.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._workers = Workers("reports")
        # All below belongs to the loop's thread.
        self._waiting: deque[tuple[_Kind, Notice]] = deque()
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._running: _Callback | None = None
        self._dropped = 0
        self._held_up_by = ""

    def assign(self, topic: str, callback: Callable[[Notice], Any] | None) -> Callable[[], None]:
        """Call a function with each notice of a topic, in place of any other; from any thread.

        Parameters
        ----------
        topic : str
            The topic.
        callback : callable or None
            A plain function or a coroutine function; None ends it.

        Returns
        -------
        callable
            Call it to end this, unless another function has been assigned since.

        Raises
        ------
        TypeError, ValueError
            The topic is no text, empty, or one that events of its own tell; or the callback is no function.
        """
        if not isinstance(topic, str):
            raise TypeError(f"the topic of a notice is text, not {type(topic).__name__}")
        if not topic:
            raise ValueError("the topic of a notice is not empty")
        if event := TOLD_BY.get(topic):
            raise ValueError(f"{topic!r} is told by events of its own: subscribe with aux.on({event.__name__!r}, ...)")
        if callback is not None and not callable(callback):
            raise TypeError(f"a callback is a function, not {type(callback).__name__}")
        made = None if callback is None else _Callback(callback, name_of(callback), is_coroutine_function(callback))
        # In single steps, without a lock: a signal handler may interrupt this, and wait for the service thread, which
        # may be about to assign, too.
        if made is None:
            if kind := self._kinds.pop(topic, None):
                kind.callback.end()
        elif (kind := self._kinds.get(topic)) and not kind.callback.is_over:
            kind.callback = made
        else:
            self._kinds[topic] = _Kind(topic, made)

        def end() -> None:
            if made is not None:
                made.end()

        return end

    def tell(self, notice: Notice) -> None:
        """Queue a notice for its topic's callback, if there is one; on the loop's thread."""
        kind = self._kinds.get(notice.topic)
        if kind is None or kind.callback.is_over:
            return
        self._waiting.append((kind, notice))
        self._waiting_bytes += notice.size
        while len(self._waiting) > WAITING or (self._waiting_bytes > WAITING_BYTES and len(self._waiting) > 1):
            self._drop()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._call_all(), name="rigsync reports")

    def _take(self) -> tuple[_Kind, Notice]:
        kind, notice = self._waiting.popleft()
        self._waiting_bytes -= notice.size
        return kind, notice

    def _drop(self) -> None:
        count = len(self._waiting) - 1
        kind, _ = self._take()
        if kind.callback.is_over:  # meanwhile
            return
        if not self._dropped:
            self._held_up_by = (self._running or kind.callback).name
            logger.warning(
                "callback %s for notices keeps %d of them waiting; the oldest are dropped from now on",
                self._held_up_by,
                count,
            )
        self._dropped += 1

    async def _call_all(self) -> None:
        try:
            while self._waiting:
                kind, notice = self._take()
                callback = kind.callback
                function = callback.function  # before it looks: another thread may end it
                if not callback.is_over:
                    self._running = callback
                    await self._call(callback, function, notice)
            self._running = None
            self._tell_dropped()
        finally:
            self._task = None  # here, since a callback of the task would come a turn later, and notices in between

    async def _call(self, callback: _Callback, function: Callable[[Notice], Any], notice: Notice) -> None:
        if callback.is_coroutine:
            # A task of its own, whose cancelling by itself is told from that of this one.
            await asyncio.wait({asyncio.create_task(_awaited(callback, function, notice), name="rigsync report")})
        else:
            await self._in_worker(callback, function, notice)

    async def _in_worker(self, callback: _Callback, function: Callable[[Notice], Any], notice: Notice) -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        try:
            self._workers.submit(
                lambda: guarded(_role(notice), function, notice),
                lambda *_: loop.call_soon_threadsafe(done.set),
            )
        except RuntimeError:  # the system gives no more threads
            logger.exception("%s %s was not called", _role(notice), callback.name)
        else:
            await done.wait()

    def _tell_dropped(self) -> None:
        if self._dropped:
            logger.warning("%d notices were dropped while callback %s ran", self._dropped, self._held_up_by)
            self._dropped = 0

    def end(self) -> None:
        """Call nothing more; what runs goes on. On the loop's thread."""
        self._waiting.clear()
        self._waiting_bytes = 0
        self._tell_dropped()
        if self._task:
            self._task.cancel()
        self._workers.close(0.0)

    def join(self, timeout: float) -> None:
        """Wait some seconds for a running plain function; not on the loop's thread."""
        stuck = [name for name in self._workers.close(timeout) if name != threading.current_thread().name]
        if stuck and self._running:
            logger.warning("callback %s for notices is still running; it is left to itself", self._running.name)


async def _awaited(callback: _Callback, function: Callable[[Notice], Any], notice: Notice) -> None:
    try:
        await function(notice)
    except asyncio.CancelledError:
        raise
    except BaseException:  # SystemExit, too, which would end the loop
        logger.exception(RAISED, _role(notice), callback.name)


def _ignore(_: Notice) -> None:
    """Do nothing, in place of a function that is called no more."""


def _role(notice: Notice) -> str:
    return f"callback for notices of {notice.topic!r}"
