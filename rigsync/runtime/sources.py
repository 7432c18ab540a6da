"""The sources of a hub on its event loop: timers, sources that push, and iterators."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterable, Callable
from typing import Any

from rigsync.hub.sources import mode_of, name_of_source
from rigsync.hub.timers import Timer, Timers
from rigsync.runtime.callbacks import report


class Sources:
    """All sources of one hub; on its event loop, but for `add` and `forget`."""

    def __init__(self, ingest: Callable[..., None]):
        self._ingest = ingest
        self._added: list[Any] = []
        self._running: list[tuple[Any, asyncio.Task[None]]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._timers = Timers()
        self._alarm: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    def add(self, source: Any) -> None:
        """Have a source begin at the next `begin`; from any thread."""
        self._added.append(source)

    def forget(self, source: Any) -> None:
        """Forget a source that has not begun; from any thread."""
        self._added[:] = [other for other in self._added if other is not source]

    def begin(self) -> None:
        """Begin with those that were added."""
        self._loop = asyncio.get_running_loop()
        while self._added:
            source = self._added.pop(0)
            if isinstance(source, Timer):
                self._timers.add(source, time.monotonic())
            else:
                run, name = self._run(source), f"rigsync source {name_of_source(source)}"
                self._running.append((source, self._loop.create_task(run, name=name)))
        self._arm()

    async def begun(self) -> None:
        """Wait until those that push have been started."""
        starting = [task for source, task in self._running if mode_of(source) == "push"]
        if starting:
            await asyncio.wait(starting)

    async def _run(self, source: Any) -> None:
        try:
            if isinstance(source, AsyncIterable):
                async for event in source:
                    self._ingest(event)
                    await asyncio.sleep(0)  # one that never waits must not keep the loop for itself
            else:
                started = source.start(self._ingest)
                if inspect.isawaitable(started):
                    await started
                return
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # also SystemExit, which would end the loop
            report("source", name_of_source(source), error, then="it is closed and removed")
        self._running = [entry for entry in self._running if entry[0] is not source]
        await _close(source)

    def remove(self, source: Any) -> None:
        """Close a source and forget it."""
        if isinstance(source, Timer):
            self._timers.remove(source)
            self._arm()
        for entry in [entry for entry in self._running if entry[0] is source]:
            self._running.remove(entry)
            closing = self._loop.create_task(_end(*entry), name="rigsync source ends")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def end(self) -> None:
        """Close all sources."""
        self._timers.clear()
        self._arm()
        for source, _ in list(self._running):
            self.remove(source)

    async def ended(self, limit: float | None = None) -> None:
        """Wait until those that were closed have ended, `limit` seconds at most."""
        if self._closing:
            await asyncio.wait(self._closing, timeout=limit)

    def _arm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if (due := self._timers.next_due()) < math.inf:
            delay = max(0.0, due - time.monotonic())
            self._alarm = self._loop.call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        for timer, tick in self._timers.take_due(time.monotonic()):
            try:
                event = tick if timer.make is None else timer.make(tick)
                if event is not None:
                    self._ingest(event)
            except BaseException as error:
                report("timer", timer.name, error, then="it goes on")
        if self._alarm is None:  # else a subscriber has added a timer
            self._arm()


async def _end(source: Any, task: asyncio.Task[None]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    await _close(source)


async def _close(source: Any) -> None:
    close = getattr(source, "aclose", None) or getattr(source, "close", None)
    try:
        closed = close() if close else None
        if inspect.isawaitable(closed):
            await closed
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        report("closing of source", name_of_source(source), error, then="it counts as closed")
