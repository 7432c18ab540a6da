"""Limits how often a change is told: at once where it was quiet, then at most once an interval."""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

TOLD_EACH_MINUTE = 3
"""Refusals of one kind to one host, and its missing confirmations, that people are told of in a minute."""
ALL_TOLD_EACH_MINUTE = 60
"""The same for all hosts together; the rest are counted. Those of the coordinator in charge are all told."""

Key = TypeVar("Key", bound=Hashable)


class Throttle(Generic[Key]):
    """Says when each of many things may be told, once an interval (s). The last change is always told in the end.

    Time must not go back from call to call.
    """

    __slots__ = ("_count", "_due", "_interval", "_told", "_waiting")

    def __init__(self, interval: float):
        self._interval = interval
        self._told: OrderedDict[Key, float] = OrderedDict()  # less than an interval ago
        self._waiting: dict[Key, float] = {}
        self._due: list[tuple[float, int, Key]] = []  # a heap; some entries may wait no longer
        self._count = 0

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def note(self, key: Key, now: float) -> bool:
        """Note a change at monotonic `now` (s); return whether to tell it now. Otherwise `take` gives it later."""
        if key in self._waiting:
            return False
        due = self._told.get(key, -math.inf) + self._interval
        if now >= due:
            self.tell(key, now)
            return True
        self._waiting[key] = due
        self._count += 1
        heapq.heappush(self._due, (due, self._count, key))
        return False

    def tell(self, key: Key, now: float) -> None:
        """Note that a thing is told now, out of turn."""
        self._waiting.pop(key, None)
        self._told[key] = now
        self._told.move_to_end(key)
        while next(iter(self._told.values())) + self._interval <= now:
            self._told.popitem(last=False)

    def drop(self, key: Key) -> bool:
        """Forget a waiting change of one thing, but not when it was last told; return whether there was one."""
        return self._waiting.pop(key, None) is not None

    def clear(self) -> None:
        """Forget all waiting changes, but not when each was last told."""
        self._waiting.clear()
        self._due.clear()

    def take(self, now: float) -> list[Key]:
        taken = []
        while self._due and self._due[0][0] <= now:
            due, _, key = heapq.heappop(self._due)
            if self._waiting.get(key) == due:
                self.tell(key, now)
                taken.append(key)
        return taken

    def next_timer(self) -> float:
        return self._due[0][0] if self._due else math.inf


class Ration(Generic[Key]):
    """Says which of many like things are told: in each interval (s) the first few of a sort, and not too many of all.

    As many sorts are remembered as may be told of all.
    """

    __slots__ = ("_each", "_interval", "_over_all", "_since", "_told")

    def __init__(self, interval: float, each: int, over_all: int):
        self._interval, self._each, self._over_all = interval, each, over_all
        self._since = -math.inf
        self._told: Counter[Key] = Counter()

    def allows(self, key: Key, now: float) -> bool:
        """Return whether one more of a sort is told at monotonic `now` (s), and count it."""
        if now >= self._since + self._interval:
            self._since = now
            self._told.clear()
        if self._told.get(key, 0) >= self._each or self._told.total() >= self._over_all:
            return False
        self._told[key] += 1
        return True
