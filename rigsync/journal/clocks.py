"""One time for what several computers have written, by the estimates that a coordinator had of their clocks.

A rig's stamps are those of a clock that follows its monotonic one (`rigsync.core.clock.StampClock`), and so does the
offset that a coordinator measures. So a record is placed by the monotonic seconds that it has: whoever sets the rig's
system clock in the middle of a session moves nothing.

Between two estimates the offset is drawn as a straight line. Its bound there is what both leave open, if the two
clocks drift apart by no more than `TOLERANCE`. Where they contradict each other, since a computer slept for instance,
the bound takes in both.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rigsync.core.clock import TOLERANCE

PROBED = 2.0
"""Seconds that the last probe of an estimate may have been before the estimate was noted."""
BEGINNING = 5.0
"""Seconds after which a record is no longer of a run's beginning."""
HEARD = 1e-3
"""Seconds from an event to when its monotonic time is read, as a rule much less."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A clock that was read once, and follows the monotonic one from there."""

    time: float
    """Unix time in seconds."""
    mono: float
    """Monotonic seconds at that moment."""

    def stamp(self, mono: float) -> float:
        """Return the Unix time of a monotonic instant."""
        return self.time + (mono - self.mono)


def anchor_of(pairs: Iterable[Sequence[float]], opened: float) -> Anchor | None:
    """Return the anchor of a run that was opened at a Unix time, for that and the monotonic seconds of first records.

    Of those in its first seconds, the pair that is closest together counts: the monotonic time is read a
    little after the other. None where the first came much later: the system clock may have been set meanwhile.
    """
    close = [Anchor(time, mono) for time, mono in pairs if 0 <= time - opened <= BEGINNING]
    return max(close, key=lambda anchor: anchor.time - anchor.mono, default=None)


@dataclass(frozen=True, slots=True, order=True)
class Estimate:
    """How a rig's clock stood to another one, at one moment. All in seconds."""

    stamp: float
    """The moment, by the rig's clock."""
    shift: float
    """What is added to the rig's clock for the other one."""
    bound: float
    """Bound of its error."""
    drift: float
    """How much the rig's clock gains on the other, in seconds a second."""


class Timeline:
    """From a rig's stamps to another clock, by all estimates that there are."""

    def __init__(self, estimates: Iterable[Estimate]):
        self._estimates = sorted(estimates)
        self._stamps = [estimate.stamp for estimate in self._estimates]

    def place(self, stamp: float) -> tuple[float, float] | None:
        """Return the time of a stamp by the other clock, and the bound of its error; None without any estimate."""
        at = bisect.bisect(self._stamps, stamp)
        around = self._estimates[max(0, at - 1) : at + 1]
        if not around:
            return None
        first, last = around[0], around[-1]
        lows, highs = zip(*(_limits(estimate, stamp) for estimate in around), strict=True)
        low, high = max(lows), min(highs)
        if low > high:  # no clock runs like that: it was set between the two
            low, high = min(lows), max(highs)
        if first is last or last.stamp == first.stamp:
            shift = first.shift - first.drift * (stamp - first.stamp)
        else:
            shift = first.shift + (last.shift - first.shift) * (stamp - first.stamp) / (last.stamp - first.stamp)
        shift = min(max(shift, low), high)
        return stamp + shift, max(shift - low, high - shift) + HEARD


def _limits(estimate: Estimate, stamp: float) -> tuple[float, float]:
    """Return between what the shift lies at a stamp, by one estimate."""
    wide = estimate.bound + TOLERANCE * (abs(stamp - estimate.stamp) + PROBED)
    return estimate.shift - wide, estimate.shift + wide
