"""The probes of one link: to which of them an answer belongs, and how many are lost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import takewhile

REMEMBERED = 64
"""Probes by which the loss is told: those of a minute. Younger ones than `PATIENCE` are remembered beside them."""
PATIENCE = 1.0
"""Seconds after which an unanswered probe counts as lost."""
MOST = 2 * REMEMBERED
"""Most probes that are remembered. Before an instant there are 50 a second."""


@dataclass(slots=True, eq=False)
class SentProbe:
    """A probe that has been sent."""

    n: int
    sent: float
    """Monotonic seconds."""
    stamp: int
    """The stamp in the probe, in nanoseconds."""
    answered: bool = False


class ProbeLog:
    """The newest probes of one link."""

    __slots__ = ("_by_number", "_newest")

    def __init__(self) -> None:
        self._newest: deque[SentProbe] = deque()
        self._by_number: dict[int, SentProbe] = {}

    def add(self, n: int, now: float, stamp: int) -> None:
        """Remember a probe that is sent at monotonic `now` in seconds."""
        probe = SentProbe(n, now, stamp)
        newest = self._newest
        newest.append(probe)
        self._by_number[n] = probe
        while len(newest) > MOST or (len(newest) > REMEMBERED and now - newest[REMEMBERED].sent >= PATIENCE):
            oldest = newest.popleft()
            if self._by_number.get(oldest.n) is oldest:
                del self._by_number[oldest.n]

    def outstanding(self, n: int) -> SentProbe | None:
        """Return the probe of that number, if it is remembered and unanswered."""
        probe = self._by_number.get(n)
        return None if probe is None or probe.answered else probe

    def awaits_answer(self, now: float) -> bool:
        """Whether the newest probe is unanswered, and not yet lost, as of monotonic `now`."""
        newest = self._newest[-1] if self._newest else None
        return newest is not None and not newest.answered and now - newest.sent < PATIENCE

    def loss(self, now: float) -> float | None:
        """Return the share of lost probes as of monotonic `now`; None while all are too new to tell."""
        newest = tuple(self._newest)  # at one stroke: other threads read this while probes go on
        # Up to the first that may still be answered: of those after it, only the answered could be told yet.
        told = list(takewhile(lambda probe: probe.answered or now - probe.sent >= PATIENCE, newest))[-REMEMBERED:]
        return sum(not probe.answered for probe in told) / len(told) if told else None
