"""How often a thing that keeps changing is told: at once where it was quiet, then at most once an interval."""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

TOLD_EACH_MINUTE = 3
"""Refusals of one kind to one host, and answers that it has not confirmed, that people are told in a minute."""
ALL_TOLD_EACH_MINUTE = 60
"""Of all hosts together, but for those of the one in charge, which are all told; the others are counted only."""

Key = TypeVar("Key", bound=Hashable)


class Throttle(Generic[Key]):
    """Says when each of many things may be told. What is left out is always followed by what came last.

    Time must not go back from call to call.

    Parameters
    ----------
    interval : float
        Seconds that lie between two tellings of one thing at least.
    """

    __slots__ = ("_count", "_due", "_interval", "_told", "_waiting")

    def __init__(self, interval: float):
        self._interval = interval
        self._told: OrderedDict[Key, float] = OrderedDict()  # less than an interval ago
        self._waiting: dict[Key, float] = {}
        self._due: list[tuple[float, int, Key]] = []  # a heap, also of what waits no longer
        self._count = 0

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be told later."""
        return bool(self._waiting)

    def note(self, key: Key, now: float) -> bool:
        """Take note of a change at monotonic `now` (s); return whether to tell it now, else `take` gives it later."""
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
        """Take note that a thing is told now, whatever it had to wait for."""
        self._waiting.pop(key, None)
        self._told[key] = now
        self._told.move_to_end(key)
        while next(iter(self._told.values())) + self._interval <= now:
            self._told.popitem(last=False)

    def drop(self, key: Key) -> None:
        """Forget what waits of one thing, but not when it was told."""
        self._waiting.pop(key, None)

    def clear(self) -> None:
        """Forget all that waits, but not what was told when."""
        self._waiting.clear()
        self._due.clear()

    def take(self, now: float) -> list[Key]:
        """Return what is to be told now."""
        taken = []
        while self._due and self._due[0][0] <= now:
            due, _, key = heapq.heappop(self._due)
            if self._waiting.get(key) == due:
                self.tell(key, now)
                taken.append(key)
        return taken

    def next_timer(self) -> float:
        """Return when `take` has something to give, in monotonic seconds; it may be called too early without harm."""
        return self._due[0][0] if self._due else math.inf


class Ration(Generic[Key]):
    """Says which of many like things are told: the first few of each sort, and not too many of all, in a while.

    Parameters
    ----------
    interval : float
        Seconds after which it begins anew.
    each : int
        How many of one sort are told in that time.
    over_all : int
        How many of all sorts are; and so how many sorts are remembered.
    """

    __slots__ = ("_each", "_interval", "_over_all", "_since", "_told")

    def __init__(self, interval: float, each: int, over_all: int):
        self._interval, self._each, self._over_all = interval, each, over_all
        self._since = -math.inf
        self._told: Counter[Key] = Counter()

    def allows(self, key: Key, now: float) -> bool:
        """Tell whether one more of a sort is told at monotonic `now` (s), and count it."""
        if now >= self._since + self._interval:
            self._since = now
            self._told.clear()
        if self._told.get(key, 0) >= self._each or self._told.total() >= self._over_all:
            return False
        self._told[key] += 1
        return True
