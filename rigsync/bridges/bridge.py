"""What all bridges are: on the event loop of a coordinator's hub, as one of its sources and one of its subscribers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from rigsync._text import one_line
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.coordinator.coordinator import Coordinator
from rigsync.core.events import Event
from rigsync.errors import LoopBlocked, LoopStuck, NotRunning
from rigsync.hub.hub import State

logger = logging.getLogger("rigsync.bridge")

PATIENCE = 10.0
"""Seconds in which a bridge opens, a name server that is slow included."""
CLOSE_TIMEOUT = 2.0
"""Seconds in which it closes."""
TOLD_EVERY = 60.0
"""Seconds between two lines of the log on one kind of fault."""
_Bridge = TypeVar("_Bridge", bound="Bridge")


class Bridge:
    """Tells others of a lab's events, and has rigs told what they ask; subclasses say how.

    A context manager: ``with`` for an `Auxiliaries`, ``async with`` for a `Coordinator`. It ends with these at the
    latest.

    Parameters
    ----------
    lab : Auxiliaries or Coordinator
        Who commands the rigs. It has to be open.
    """

    name: str

    def __init__(self, lab: Auxiliaries | Coordinator):
        self.lab = lab
        self.counts: Counter[str] = Counter()
        """What went wrong, by kind, since it was made."""
        self._said: dict[str, tuple[float, int]] = {}
        self._opened: Future[None]
        self._closed: Future[None]
        self._remove: Callable[[], None]
        self._ends: list[Callable[[], object]] = []

    async def _open(self) -> None:
        """Open what it needs, on the hub's event loop, and add to `_ends` what closes it."""
        raise NotImplementedError

    def _tell(self, event: Event) -> None:
        """Tell others of an event."""
        raise NotImplementedError

    def _note(self, kind: str, text: str) -> None:
        """Count a fault, and log it unless one of its kind was logged a minute ago."""
        self.counts[kind] += 1
        count, now = self.counts[kind], time.monotonic()
        told_at, told = self._said.get(kind, (-math.inf, 0))
        if now >= told_at + TOLD_EVERY:
            self._said[kind] = now, count
            more = f" ({count - told:,} of this kind since the last line)" if count - told > 1 else ""
            logger.warning("%s: %s%s", self.name, one_line(text), more)

    # ---------------------------------------------------------------------------------------- a source of the hub

    async def start(self, ingest: Callable[[Event], None]) -> None:
        """Begin, on the hub's event loop; for the hub."""
        try:
            await self._open()
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            self._opened.set_exception(NotRunning("closed while the bridge was being opened") if cancelled else error)
            if not isinstance(error, Exception):
                raise
            return
        self._ends.append(self.lab.hub.subscribe(Event, self._tell))
        self._opened.set_result(None)

    def close(self) -> None:
        """End, on the hub's event loop; for the hub."""
        ends, self._ends = self._ends, []
        for end in ends:
            end()
        if not self._closed.done():
            self._closed.set_result(None)

    # ------------------------------------------------------------------------------------------- for the program

    def _begin(self) -> None:
        hub = self.lab.hub
        if hub.state is not State.LOOPING:
            raise NotRunning("a bridge needs rigs that are connected: enter the Auxiliaries or Coordinator before it")
        self._opened, self._closed = Future(), Future()
        for future in (self._opened, self._closed):
            future.set_running_or_notify_cancel()  # who gives up waiting for it does not cancel it
        self._remove = hub.add(self)

    def __enter__(self: _Bridge) -> _Bridge:
        if self.lab.services and self.lab.services.runs_here:
            raise LoopBlocked("on the event loop of the rigs a bridge is entered by `async with`")
        self._begin()
        try:
            wait([self._opened], PATIENCE)
            if not self._opened.done():
                raise LoopStuck(f"the bridge was not open within {PATIENCE:g} s: what blocks the event loop?")
            self._opened.result()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()
        wait([self._closed], CLOSE_TIMEOUT)

    async def __aenter__(self: _Bridge) -> _Bridge:
        self._begin()
        try:
            await asyncio.wrap_future(self._opened)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._remove()
        await asyncio.wait({asyncio.wrap_future(self._closed)}, timeout=CLOSE_TIMEOUT)
