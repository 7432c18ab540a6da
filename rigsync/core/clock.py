"""Stamps that cannot be stepped, and what they tell of another machine's clock (docs/protocol.md section 3)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

NANOSECONDS = 1_000_000_000

MOST_AHEAD = 3600.0
"""Seconds that an instant may lie ahead. One further away is a mistake of a person or of a clock."""
MEMORY = 120.0
"""Seconds for which samples are kept. The drift in that time can still be told from the network's jitter."""
TOLERANCE = 500e-6
"""Seconds a second by which two clocks drift apart at most. A clock that is being corrected is slewed no faster (RFC
5905 section 11); one that nobody corrects drifts by a tenth of that."""
LIKELY = 20e-6
"""Seconds a second by which they drift apart as a rule. With `TOLERANCE` in its place, a sample of 3 s ago would count
for nothing where the network delays by milliseconds."""
WANDER = 10e-6
"""Seconds a second that remain when the measured drift is taken off; RFC 5905 has 15 ppm as its frequency tolerance."""
DRIFT_EVERY = 5.0
"""Seconds after which a drift is measured anew. That takes three times as long as the rest of an estimate."""
DRIFT_AFTER = 30.0
"""Seconds of samples before a drift is measured: earlier, jitter passes for drift."""


class StampClock:
    """A wall clock anchored once to the monotonic one.

    Somebody may set the system clock while an experiment runs (NTP, summer time, a user). That must not reorder what
    happened. So the wall time is read once, and stamps follow the monotonic clock from there.

    Parameters
    ----------
    wall : int
        Unix time in nanoseconds at the moment of anchoring.
    now : float
        Monotonic seconds at the same moment.
    """

    __slots__ = ("_now", "_wall")

    def __init__(self, wall: int, now: float):
        self._wall, self._now = wall, now

    def stamp(self, now: float) -> int:
        """Return the stamp, in nanoseconds since the Unix epoch, of the monotonic instant `now` in seconds."""
        return self._wall + round((now - self._now) * NANOSECONDS)

    def instant(self, stamp: int) -> float:
        """Return the monotonic instant, in seconds, of a stamp in nanoseconds since the Unix epoch."""
        return self._now + (stamp - self._wall) / NANOSECONDS


@dataclass(frozen=True, slots=True)
class ClockEstimate:
    """How a rig's clock stands to the coordinator's. All in seconds."""

    offset: float
    """The rig's clock less the coordinator's."""
    bound: float
    """Bound of the offset's error."""
    delay: float
    """The least time that a probe and its answer have taken on the network."""
    drift: float
    """How much the rig's clock gains on the coordinator's, in seconds a second; 0 until it has been measured."""


@dataclass(slots=True)
class _Second:
    """The best of the samples of about a second: each way by itself, with when it was."""

    begun: float
    upper_at: float
    upper: float
    lower_at: float
    lower: float
    delay: float


class ClockFilter:
    """Offset of a rig's clock from the stamps of many probes.

    A probe that is answered at once tells that the offset is at most ``t1 - t0`` and at least ``t2 - t3``, since
    nothing arrives before it leaves. Each way's best sample counts by itself, so that a network's jitter averages out
    much sooner than if one probe had to be quick both ways (docs/decisions/0008).
    """

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque()
        self._origin = 0
        self._lowest, self._highest, self._at = -math.inf, math.inf, 0.0  # between these, whatever the drift
        self._estimate: ClockEstimate | None = None
        self._drift, self._drift_at = 0.0, -math.inf

    def add(self, stamps: tuple[int, int, int, int], now: float) -> None:
        """Add the four stamps of one probe, in nanoseconds; its answer came at monotonic `now`, in seconds."""
        t0, t1, t2, t3 = stamps
        if not self._seconds:
            self._origin = t1 - t0
        upper, lower = (t1 - t0 - self._origin) / NANOSECONDS, (t2 - t3 - self._origin) / NANOSECONDS
        widened = TOLERANCE * (now - self._at)
        self._lowest, self._highest = max(self._lowest - widened, lower), min(self._highest + widened, upper)
        self._at = now
        if self._lowest > self._highest:
            # No clock runs like that: one side's has stood still, as in a computer that slept.
            self._seconds.clear()
            self._drift = 0.0
            self._lowest, self._highest = lower, upper
        self._file(upper, lower, now)
        self._estimate = None

    @property
    def bound(self) -> float:
        """Rough bound of the offset's error, in seconds; infinite before the first sample."""
        return (self._highest - self._lowest) / 2

    @property
    def estimate(self) -> ClockEstimate | None:
        """The estimate as of the last sample; None before the first."""
        # Other threads ask for it while probes go on. So samples are copied at one stroke, and each field is read once.
        estimate = self._estimate
        if estimate is None and (seconds := list(self._seconds)):
            estimate = self._estimate = self._make_estimate(seconds)
        return estimate

    def offset_at(self, instant: float) -> float | None:
        """Return the offset expected at monotonic `instant`, in seconds; None before the first sample."""
        estimate = self.estimate
        return None if estimate is None else estimate.offset + estimate.drift * (instant - self._at)

    def _file(self, upper: float, lower: float, now: float) -> None:
        seconds, delay = self._seconds, upper - lower
        if not seconds or now - seconds[-1].begun >= 1.0:
            seconds.append(_Second(now, now, upper, now, lower, delay))
            while now - seconds[0].begun > MEMORY:
                seconds.popleft()
            return
        last = seconds[-1]
        last.delay = min(last.delay, delay)
        if upper < last.upper:
            last.upper, last.upper_at = upper, now
        if lower > last.lower:
            last.lower, last.lower_at = lower, now

    def _make_estimate(self, seconds: list[_Second]) -> ClockEstimate:
        lowest, highest = self._lowest, self._highest
        if not self._drift or self._at >= self._drift_at + DRIFT_EVERY:
            self._drift, self._drift_at = _drift_over(seconds), self._at
        drift = self._drift
        lower, upper = _bounds(seconds, drift, WANDER if drift else LIKELY, self._at)
        likely = min(max((lower + upper) / 2, lowest), highest)
        delay = min(second.delay for second in seconds)
        offset = likely + self._origin / NANOSECONDS
        return ClockEstimate(offset, max(likely - lowest, highest - likely), max(0.0, delay), drift)


def _drift_over(seconds: list[_Second]) -> float:
    if seconds[-1].begun - seconds[0].begun < DRIFT_AFTER:
        return 0.0
    third = len(seconds) // 3
    ends = seconds[: third or 1], seconds[-(third or 1) :]
    drift = 0.0
    for _ in range(3):  # what is found the first time levels each end for the next
        (early, early_at), (late, late_at) = (_middle(end, drift) for end in ends)
        drift = (late - early) / (late_at - early_at)
    return min(max(drift, -TOLERANCE), TOLERANCE)


def _bounds(seconds: Iterable[_Second], drift: float, tolerance: float, at: float) -> tuple[float, float]:
    lower, upper = -math.inf, math.inf
    for second in seconds:
        age = at - second.upper_at
        bound = second.upper + drift * age + tolerance * abs(age)
        if bound < upper:
            upper = bound
        age = at - second.lower_at
        bound = second.lower + drift * age - tolerance * abs(age)
        if bound > lower:
            lower = bound
    return lower, upper


def _middle(seconds: list[_Second], drift: float) -> tuple[float, float]:
    """Return the offset in the middle of some samples, and when that is."""
    at = (seconds[0].begun + seconds[-1].begun) / 2
    lower, upper = _bounds(seconds, drift, 0.0, at)
    return (lower + upper) / 2, at
