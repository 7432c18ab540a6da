"""Waiting for outcomes from the service thread, or for the news that none will come."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rigsync.core.events import Event
from rigsync.errors import LoopStuck, NotRunning
from rigsync.runtime.callbacks import resolve_future
from rigsync.runtime.conditions import Awaited
from rigsync.runtime.hub import Hub
from rigsync.runtime.loop_thread import LoopThread

STUCK_AFTER = 2.0
"""Seconds for the service thread to react to a knock before it counts as stuck."""
GRACE = 0.2
"""Seconds that the service thread may be late before it is knocked at, each time."""
MOST_KNOCKS = 20
"""Knocks that the service thread may answer after the rigs' time is over before the message counts as lost in it."""
LONGEST_WAIT = 0.5
"""Longest single wait in seconds: Windows lets Ctrl-C through only after it, and so does Python everywhere where it
comes just before the wait."""


class Waiters:
    """All waits for one service thread.

    Parameters
    ----------
    thread : LoopThread
        The service thread.
    not_running : callable
        Returns the error for a thread that does not run.
    hub : Hub
        Which knows what runs on it.
    """

    def __init__(self, thread: LoopThread, not_running: Callable[[], NotRunning], hub: Hub):
        self._thread, self._not_running, self._hub = thread, not_running, hub
        self._waiting: set[Awaited] = set()

    @contextlib.contextmanager
    def future(self) -> Iterator[Awaited]:
        """Make a future that is settled even if the service thread ends first."""
        future = Awaited()
        self._waiting.add(future)
        try:
            yield future
        finally:
            self._waiting.discard(future)

    def fail(self, error: NotRunning) -> None:
        """Settle all futures: no answer will come."""
        for future in list(self._waiting):
            future.bring(error)

    def wait(self, future: Awaited, limit: float) -> Any:
        """Return a future's outcome.

        Parameters
        ----------
        future : Awaited
            One of `future`.
        limit : float
            Seconds within which the service thread settles it.

        Raises
        ------
        NotRunning
            The service thread has ended.
        LoopStuck
            It does not react, or has lost the future.
        """
        end = time.monotonic() + limit
        knocks = 0
        while True:
            wait = min(max(0.0, end - time.monotonic()) + GRACE, LONGEST_WAIT)
            if not future.wait(wait):
                if time.monotonic() >= end:
                    try:
                        self._check_not_stuck()
                    except (LoopStuck, NotRunning):  # unless it has just ended, in a signal handler that closes
                        if not future.is_there():
                            raise
                    knocks += 1
                if knocks == MOST_KNOCKS:
                    raise LoopStuck("the service thread reacts but has lost this message; please report it")
                continue
            outcome = future.value()
            if isinstance(outcome, NotRunning):
                raise outcome
            return outcome

    def _check_not_stuck(self) -> None:
        # The rigs' time is over, and the thread should have settled this: it is busy, stuck, or dead.
        reacted = Awaited()
        try:
            self._thread.call(reacted.bring, True)
        except NotRunning:
            raise self._not_running() from None
        if not reacted.wait(STUCK_AFTER):
            raise stuck(self._hub)


async def comes_true(
    condition: Callable[[], object], hub: Hub, kinds: Iterable[type[Event]], limit: float | None
) -> None:
    """Wait until a condition is true, so many seconds at most; look again after each event of these kinds."""
    true: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def look(_: object = None) -> None:
        if condition():
            resolve_future(true, None)

    unsubscribe = [hub.rule(kind, look, last=True) for kind in kinds]
    try:
        look()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(true, limit)
    finally:
        for end in unsubscribe:
            end()


def stuck(hub: Hub) -> LoopStuck:
    """Return the error of a service thread that does not react; it names the subscriber that is being told."""
    name = hub.blocked_by
    return LoopStuck(
        f"the service thread does not react: a callback of this program{f', {name},' if name else ''} blocks it; "
        "callbacks have to return "
        "at once. The rigs may have received the message"
    )
