"""Stamps of a wall clock that cannot be stepped (PROTOCOL.md section 3)."""

from __future__ import annotations

NANOSECONDS = 1_000_000_000


class StampClock:
    """A wall clock anchored once to the monotonic one.

    A system clock that is stepped while an experiment runs (NTP, summer time, a user) must not reorder what happened,
    hence the wall time is read once, and stamps follow the monotonic clock from there.

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
