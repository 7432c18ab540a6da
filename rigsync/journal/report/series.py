"""A value over time, thinned: as long a session as there is takes no more room than a short one."""

from __future__ import annotations

from dataclasses import dataclass

MOST = 480
"""Steps that a series keeps, twice as many as a page has room for."""


@dataclass(slots=True)
class Step:
    """What the values of one stretch of time were."""

    begin: float
    end: float
    """Unix time in seconds."""
    low: float
    high: float
    last: float
    count: int = 1

    def merged(self, later: Step) -> Step:
        """Return one step for this one and the next."""
        low, high = min(self.low, later.low), max(self.high, later.high)
        return Step(self.begin, later.end, low, high, later.last, self.count + later.count)


class Series:
    """A value over time. The least and the largest value of each stretch stay, whatever is left out."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.count = 0
        """Values that were added."""
        self._stride = 1

    def add(self, time: float, value: float, low: float | None = None, high: float | None = None) -> None:
        """Add a value, which may have bounds."""
        step = Step(time, time, value if low is None else low, value if high is None else high, value)
        self.count += 1
        steps = self.steps
        if steps and steps[-1].count < self._stride:
            steps[-1] = steps[-1].merged(step)
            return
        if len(steps) == MOST:
            steps[:] = [first.merged(second) for first, second in zip(steps[::2], steps[1::2], strict=True)]
            self._stride *= 2
        steps.append(step)

    @property
    def is_thinned(self) -> bool:
        """Whether a step stands for several values."""
        return self._stride > 1

    @property
    def low(self) -> float:
        """The least value."""
        return min(step.low for step in self.steps)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(step.high for step in self.steps)

    @property
    def middle(self) -> float:
        """The median of what each stretch ended with."""
        ordered = sorted(step.last for step in self.steps)
        return ordered[len(ordered) // 2]

    def thinned(self, most: int) -> list[Step]:
        """Return at most so many steps."""
        steps, size = self.steps, -(-len(self.steps) // most)
        made = []
        for begin in range(0, len(steps), size or 1):
            whole = steps[begin]
            for later in steps[begin + 1 : begin + size]:
                whole = whole.merged(later)
            made.append(whole)
        return made
