"""A thread that writes to a disk, which may be slow, or hang for good: whoever has something to write goes on."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from rigsync.runtime.callbacks import report
from rigsync.runtime.precise import wake_exactly

_Item = TypeVar("_Item")

SLOW = 5.0
"""Seconds after which a disk that has not taken something is reported as hanging."""


_STRETCH = 16
"""Items that are worked on without a pause: with fewer, 20,000 a second would be late on the disk."""
_PAUSE = 20e-6
"""Seconds of a pause, with which a thread that wants the interpreter gets it."""


def at_ease(items: Sequence[_Item]) -> Iterator[_Item]:
    """Yield items with pauses: an event loop that wants the interpreter meanwhile does not wait for all of them.

    Python has a thread wait for 5 ms before it takes the interpreter from another one.
    """
    for number, item in enumerate(items, 1):
        yield item
        if number % _STRETCH == 0:
            time.sleep(_PAUSE)


class WaitingRoom(Generic[_Item]):
    """What waits for the disk, in its order. What comes while it is full is lost, and counted.

    One thread puts and one takes, at any time and without a lock. `most` and `most_bytes` bound what waits.
    """

    __slots__ = ("_known", "_most", "_most_bytes", "_put", "_taken", "_waiting", "lost")

    def __init__(self, most: int, most_bytes: int):
        self._most, self._most_bytes = most, most_bytes
        self._waiting: deque[tuple[_Item, int]] = deque()
        # Each is changed by one thread alone.
        self._put = self._taken = self._known = 0
        self.lost = 0
        """How many there was no room for, ever."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_crowded(self) -> bool:
        """Whether more than half of it is taken."""
        return len(self._waiting) > self._most // 2 or self._put - self._taken > self._most_bytes // 2

    def put(self, item: _Item, size: int = 0) -> bool:
        """Let an item of so many bytes wait; return False where there is no room."""
        if len(self._waiting) >= self._most or self._put - self._taken + size > self._most_bytes:
            self.lost += 1
            return False
        self._put += size
        self._waiting.append((item, size))
        return True

    def put_anyway(self, item: _Item) -> None:
        """Let an item wait that counts for nothing."""
        self._waiting.append((item, 0))

    def take(self, most: int) -> list[_Item]:
        """Return the items that have waited longest."""
        taken: list[_Item] = []
        for _ in range(min(most, len(self._waiting))):
            item, size = self._waiting.popleft()
            self._taken += size
            taken.append(item)
        return taken

    def take_lost(self) -> int:
        """Return how many were lost since the last time, after all that waits now."""
        lost, self._known = self.lost - self._known, self.lost
        return lost


class DiskWriter:
    """A daemon thread that works when somebody knocks.

    Parameters
    ----------
    name : str
        Name of the thread.
    work : callable
        Called on the thread, with whether this is the last time. It returns the seconds until it is to be called
        again at the latest; None for not before somebody knocks.
    tell_slow : callable
        Called by whoever notices that the work takes long.
    gather : float
        Seconds from a knock until the work, for others to come; a knock that is `urgent` ends that.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[bool], float | None],
        tell_slow: Callable[[], object],
        gather: float = 0.0,
    ):
        self._name, self._work, self.tell_slow, self._gather = name, work, tell_slow, gather
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # a signal handler may ring it at any moment
        self.is_knocked = False
        """Whether the thread will look again at what waits. Who has put something has to knock otherwise."""
        self._is_urgent = self._is_closing = False
        self._busy_since: float | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Have the thread run, by one caller at a time; return False where the system gives no more threads."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; in a fork it does not."""
        return self._thread is not None and self._thread.is_alive()

    def knock(self, urgent: bool = False) -> None:
        """Have the thread work soon; at once, if it is urgent."""
        self.is_knocked = True
        if urgent:
            self._is_urgent = True
        self._bell.put(None)

    def look(self) -> None:
        """Tell if the work takes long; from any thread."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > SLOW:
            self.tell_slow()

    def end(self) -> None:
        """Have the thread end when it has worked once more."""
        self._is_closing = True
        self.knock()

    def join(self, limit: float) -> bool:
        """Wait some seconds for the end; return whether it has come."""
        if self._thread:
            self._thread.join(limit)
        return not self.is_alive

    def _run(self) -> None:
        wake_exactly()  # from the pauses of `at_ease`: else each takes several times as long
        due: float | None = None
        while True:
            if not self._is_closing:
                self._hear(due)
            if self._gather and not (self._is_closing or self._is_urgent):
                self._hear(self._gather)
            is_last = self._is_closing  # before it works: what was put before the end is written
            self.is_knocked = self._is_urgent = False
            self._busy_since = time.monotonic()
            due = None
            try:
                due = self._work(is_last)
            except Exception as error:  # a mistake of this program, which must not end the writing for good
                report("thread", self._name, error, then="it goes on")
            self._busy_since = None
            if is_last:
                return

    def _hear(self, seconds: float | None) -> None:
        """Wait until somebody has rung, some seconds at most."""
        with contextlib.suppress(queue.Empty):
            self._bell.get(timeout=seconds)
            while True:  # all at once
                self._bell.get_nowait()
