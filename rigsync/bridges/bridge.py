"""What all bridges share: each runs on the event loop of a hub, as one of its sources and one of its subscribers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from rigsync._text import one_line
from rigsync.core.events import Event
from rigsync.errors import LoopBlocked, LoopStuck, NotRunning
from rigsync.hub.hub import State
from rigsync.runtime.hub import Hub

logger = logging.getLogger("rigsync.bridge")

PATIENCE = 10.0
"""Seconds that a bridge may take to open, with a slow name server."""
CLOSE_TIMEOUT = 2.0
"""Seconds that a bridge may take to close."""
TOLD_EVERY = 60.0
"""Seconds between two lines of the log about one kind of fault."""
_Bridge = TypeVar("_Bridge", bound="Bridge")


class Bridge:
    """Tells others the events of a hub, or tells the hub theirs; subclasses say how.

    A context manager: ``async with`` on the hub's event loop, ``with`` on any other thread. The bridge ends with the
    hub at the latest.

    Parameters
    ----------
    hub : Hub
        The hub of an `Auxiliaries`, a `Coordinator` or a `Rig`, or one of the program's own. It has to run.
    """

    name: str

    def __init__(self, hub: Hub):
        self.hub = hub
        self.counts: Counter[str] = Counter()
        """How often each kind of fault has happened since the bridge was made."""
        self._said: dict[str, tuple[float, int]] = {}
        self._opened: Future[None]
        self._closed: Future[None]
        self._remove: Callable[[], None]
        self._ends: list[Callable[[], object]] = []

    async def _open(self) -> None:
        """Open what the bridge needs, on the hub's event loop, and add to `_ends` what closes that."""
        raise NotImplementedError

    def _tell(self, event: Event) -> None:
        """Tell others of an event."""

    def _attend(self) -> Callable[[], None]:
        """Have `_tell` called from now on; return what ends that."""
        return self.hub.subscribe(Event, self._tell)

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
        self._ends.append(self._attend())
        self._opened.set_result(None)

    async def _say_last_words(self) -> None:
        """Wait a moment for what is under way, before all is closed."""

    async def close(self) -> None:
        """End, on the hub's event loop; for the hub."""
        try:
            if self._ends:
                await self._say_last_words()
        finally:
            ends, self._ends = self._ends, []
            with contextlib.ExitStack() as all_of_them:  # even if one raises
                if not self._closed.done():
                    all_of_them.callback(self._closed.set_result, None)
                for end in reversed(ends):
                    all_of_them.callback(end)

    # ------------------------------------------------------------------------------------------- for the program

    def _begin(self) -> None:
        if self.hub.state is not State.LOOPING:
            whose = "the Auxiliaries, Coordinator, Rig or Hub"
            raise NotRunning(f"{self.name}: hub {self.hub.name!r} does not run: enter {whose} before the bridge")
        self._opened, self._closed = Future(), Future()
        for future in (self._opened, self._closed):
            future.set_running_or_notify_cancel()  # whoever gives up waiting must not cancel it
        self._remove = self.hub.add(self)

    def __enter__(self: _Bridge) -> _Bridge:
        if self.hub.runs_here:
            raise LoopBlocked("on the event loop of its hub a bridge is entered by `async with`")
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
