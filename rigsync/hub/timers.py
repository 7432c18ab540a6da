"""Events that are made by time: once, counting up or down, or on and on. Time is an argument here."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from enum import Enum

from rigsync._text import close_match
from rigsync.core.events import Event
from rigsync.hub.events import Tick


class Kind(Enum):
    """How long a timer goes on, and how it counts."""

    ONE_SHOT = "one-shot"
    COUNT_UP = "count up"
    COUNT_DOWN = "count down"
    ONGOING = "ongoing"


class Timer:
    """A timer, to be given to a hub's `add`. It begins to count there, and is told by `rigsync.events.Tick`.

    The n-th tick is due n intervals after the first moment, so that a timer does not drift. A hub that is late tells
    one tick for all that have become due, and how many it has missed. The last tick of one that counts is always told.

    Parameters
    ----------
    interval : float
        Seconds from one tick to the next.
    kind : Kind or str
        `ONE_SHOT` fires once; `COUNT_UP` tells 1, 2, ... `count`; `COUNT_DOWN` tells `count` - 1, ... 0; `ONGOING`
        tells 1, 2, ... until it is removed.
    count : int
        For those that count.
    name : str
        What the ticks say of whose they are.
    make : callable, optional
        Returns the event for a `Tick`, in place of the tick itself; None for no event this time.

    Raises
    ------
    ValueError, TypeError
        No such kind; an interval that is negative or no number, or 0 for more than one tick; a count that is no
        positive whole number, or is given to a timer that does not count; or `make` is no function.
    """

    def __init__(
        self,
        interval: float,
        kind: Kind | str = Kind.ONE_SHOT,
        *,
        count: int = 0,
        name: str = "timer",
        make: Callable[[Tick], Event | None] | None = None,
    ):
        try:
            kind = Kind(kind)
        except ValueError:
            kinds = [known.value for known in Kind]
            close = close_match(kind, kinds) or f"; it is one of {', '.join(kinds)}"
            raise ValueError(f"timer {name!r}: there is no kind {kind!r}{close}") from None
        if isinstance(interval, bool) or not isinstance(interval, (int, float)):
            raise TypeError(f"timer {name!r}: the interval is a number of seconds, not {interval!r}")
        if not 0 <= interval < math.inf or (interval == 0 and kind is not Kind.ONE_SHOT):
            least = "from 0 on" if kind is Kind.ONE_SHOT else "above 0"
            raise ValueError(f"timer {name!r}: the interval is a number of seconds {least}, not {interval!r}")
        counts = kind in (Kind.COUNT_UP, Kind.COUNT_DOWN)
        if isinstance(count, bool) or not isinstance(count, int) or (count < 1 if counts else count != 0):
            wanted = "a positive whole number" if counts else f"of no use to a timer that is {kind.value}"
            raise ValueError(f"timer {name!r}: the count is {wanted}, not {count!r}")
        if make is not None and not callable(make):
            raise TypeError(f"timer {name!r}: make is a function, not {type(make).__name__}")
        self.interval, self.kind, self.count, self.name, self.make = float(interval), kind, count, name, make
        self._last = 1 if kind is Kind.ONE_SHOT else count if counts else math.inf
        self._begun = math.inf
        self._told = 0

    def __repr__(self) -> str:
        return f"<Timer {self.name!r}, {self.kind.value}, {self.interval:g} s>"

    def begin(self, now: float) -> None:
        """Count from now on, in monotonic seconds."""
        self._begun, self._told = now, 0

    def due(self) -> float:
        """Return when the next tick is due, in monotonic seconds; never, where it is over."""
        return math.inf if self._told >= self._last else self._begun + (self._told + 1) * self.interval

    def tick(self, now: float) -> Tick:
        """Return the tick that is due, and all before it that were missed."""
        passed = math.floor((now - self._begun) / self.interval) if self.interval else 1
        number = int(min(self._last, max(passed, self._told + 1)))
        missed, self._told = number - self._told - 1, number
        value = self.count - number if self.kind is Kind.COUNT_DOWN else number
        return Tick(self.name, value, missed, number >= self._last)


class Timers:
    """All timers of a hub."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def add(self, timer: Timer, now: float) -> None:
        """Begin with a timer, or begin it anew."""
        self.remove(timer)
        timer.begin(now)
        self._file(timer)

    def remove(self, timer: Timer) -> bool:
        """Stop a timer; return whether it was running."""
        left = [entry for entry in self._due if entry[2] is not timer]
        was_running = len(left) < len(self._due)
        self._due = left
        heapq.heapify(self._due)
        return was_running

    def clear(self) -> None:
        """Stop all timers."""
        self._due.clear()

    def next_due(self) -> float:
        """Return when `take_due` is to be called, in monotonic seconds."""
        return self._due[0][0] if self._due else math.inf

    def take_due(self, now: float) -> list[tuple[Timer, Tick]]:
        """Return the ticks that are due, in the order of their instants."""
        ticks = []
        while self.next_due() <= now:
            _, _, timer = heapq.heappop(self._due)
            ticks.append((timer, timer.tick(now)))
            self._file(timer)
        return ticks

    def _file(self, timer: Timer) -> None:
        if (due := timer.due()) < math.inf:
            heapq.heappush(self._due, (due, next(self._order), timer))
