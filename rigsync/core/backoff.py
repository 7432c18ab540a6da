"""When to send again: the retransmission timer of one link (docs/protocol.md section 2)."""

from __future__ import annotations

from random import Random

from rigsync.core.timing import Timing


class Backoff:
    """Round-trip estimate (RFC 6298 section 2) and the waits that follow from it (RFC 7252 section 4.2).

    A random factor keeps rigs that lost a datagram together from answering together.
    """

    __slots__ = ("_random", "_timing", "smoothed", "variation")

    def __init__(self, timing: Timing, random: Random):
        self._timing, self._random = timing, random
        self.smoothed: float | None = None
        self.variation = 0.0

    def add_sample(self, round_trip: float) -> None:
        """Add one round trip, in seconds, of a datagram that was sent only once (Karn's rule)."""
        if self.smoothed is None:
            self.smoothed, self.variation = round_trip, round_trip / 2
        else:
            self.variation += (abs(self.smoothed - round_trip) - self.variation) / 4
            self.smoothed += (round_trip - self.smoothed) / 8

    def wait(self, tries: int) -> float:
        """Return how long to wait, in seconds, after the `tries`-th sending (from 1) before the next."""
        timing = self._timing
        if self.smoothed is None:
            first = timing.resend_first
        else:
            first = max(timing.resend_min, self.smoothed + 4 * self.variation)
        # An exponent beyond 16 changes nothing under the upper bound and would overflow in a long session.
        return min(timing.resend_max, first * 2.0 ** min(tries - 1, 16) * self._random.uniform(1.0, 1.5))
