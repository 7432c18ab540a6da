"""The messages of bundles that wait for the instant of their time tag: numbers and a heap, no clock and no loop."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Generic, TypeVar

MOST_WAITING = 10_000
"""Most messages that wait, of all senders together."""
MOST_BYTES = 4 << 20
"""Bytes of these."""
MOST_AHEAD = 3600.0
"""Seconds ahead that an instant may be, as for `Coordinator.push`: a clock that is wrong fills the queue otherwise."""

_Item = TypeVar("_Item")


class Bundles(Generic[_Item]):
    """What waits for an instant, in the order of the instants; of equal ones, in the order of arrival."""

    def __init__(self, most: int = MOST_WAITING, most_bytes: int = MOST_BYTES):
        self._most, self._most_bytes = most, most_bytes
        self._waiting: list[tuple[float, int, int, _Item]] = []
        self._bytes = 0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    def problem(self, ahead: float, size: int) -> str:
        """Return why a message of so many bytes cannot wait for so many seconds; empty where it can."""
        if ahead > MOST_AHEAD:
            return f"its instant is {ahead:,.0f} s ahead, and an hour is the most; are the clocks right?"
        if len(self._waiting) >= self._most or self._bytes + size > self._most_bytes:
            return (
                f"{len(self._waiting):,} messages of {self._bytes:,} bytes wait already, and there is room for no more"
            )
        return ""

    def put(self, due: float, item: _Item, size: int) -> None:
        """Let a message wait until `due`, as Unix time in seconds; ask for its `problem` before."""
        heapq.heappush(self._waiting, (due, next(self._numbers), size, item))
        self._bytes += size

    def next_due(self) -> float:
        """Return when the next one is due, as Unix time in seconds."""
        return self._waiting[0][0] if self._waiting else math.inf

    def take_due(self, now: float) -> list[_Item]:
        """Return those that are due at `now`, as Unix time in seconds, and let them wait no longer."""
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            _, _, size, item = heapq.heappop(self._waiting)
            self._bytes -= size
            due.append(item)
        return due

    def clear(self) -> int:
        """Cancel all that wait; return how many."""
        count = len(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return count
