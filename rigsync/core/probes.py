"""The probes of one link: to which of them an answer belongs, and how many are lost."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import takewhile

from rigsync.core import messages
from rigsync.core.clock import NANOSECONDS, ClockFilter
from rigsync.core.events import ProbeAnswered
from rigsync.core.link import Link

REMEMBERED = 64
"""Probes by which the loss is told: those of a minute. Younger ones than `PATIENCE` are remembered beside them."""
PATIENCE = 1.0
"""Seconds after which an unanswered probe counts as lost."""
MOST = 3 * REMEMBERED
"""Most probes that are remembered. Before an instant there are 100 a second, or some more."""


@dataclass(slots=True, eq=False)
class SentProbe:
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


class Prober:
    """Sends the probes of one link, and learns from their answers: round trips, losses, the rig's clock."""

    def __init__(self, link: Link):
        self._link = link
        self.n = 0
        """Number of the last probe."""
        self.log = ProbeLog()
        self.clock = ClockFilter()
        self._challenged_at = -math.inf

    def send(self, now: float) -> int:
        """Send a probe with a number and a stamp; return its number."""
        link = self._link
        self.n += 1
        stamp = link.stamps.stamp(now)
        self.log.add(self.n, now, stamp)
        data = messages.probe(link.boot, self.n, stamp, program=link.program, beat=link.timing.beat)
        link.outbox.append((link.probes, data))
        return self.n

    def send_plain(self, now: float) -> None:
        """Send a probe of always the same bytes: an iblutil rig shows each datagram that it does not know once."""
        self.log.add(0, now, 0)
        self._link.outbox.append((self._link.probes, messages.probe(self._link.boot, 0, 0)))

    def challenge(self, now: float) -> None:
        """Probe a rig known as iblutil's in the rigsync dialect, once a beat at most."""
        if now >= self._challenged_at + self._link.timing.beat:
            self._challenged_at = now
            self.send(now)

    def take(self, n: int, now: float, stamps: tuple[int, int, int] | None = None) -> None:
        """Take an answer, with t0 to t2 of RFC 5905 section 8 in nanoseconds where the rig has stamps."""
        link, probe = self._link, self.log.outstanding(n)
        if probe is None:
            return  # a second copy, or a very late answer: only a sign of life
        probe.answered = True
        held = max(0, stamps[2] - stamps[1]) / NANOSECONDS if stamps else 0.0
        round_trip = max(0.0, now - probe.sent - held)
        if round_trip < PATIENCE:  # otherwise one side has stood still, which says nothing about the network
            link.backoff.add_sample(round_trip)
        four = (*stamps, link.stamps.stamp(now)) if stamps else None
        if four and four[0] == probe.stamp != 0:  # a rig in the place of an iblutil one answers a probe without stamp
            self.clock.add(four, now)
            # Messages that wait at a broker spoil a clock's estimate, and more probes would make more messages wait.
            link.liveness.is_coarse = self.clock.bound > link.timing.clock_bound and not link.is_brokered
        link.events.append(ProbeAnswered(link.name, n, round_trip, four))
