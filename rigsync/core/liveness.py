"""Whether one rig is there: when to probe it, and what its silence means (docs/protocol.md section 3)."""

from __future__ import annotations

import math
from random import Random

from rigsync.core.events import Dialect, LinkState
from rigsync.core.timing import Timing

STAGGER = 0.3
"""Share of the interval by which a probe may leave early."""
MOST_A_SECOND = 3200
"""Datagrams to all rigs together, beyond one a beat: each of 64 rigs gets one every 20 ms at most, each of more rigs
less often. Otherwise a busy computer, whose rigs look overdue, would make itself busier still."""
BROKERED_A_SECOND = 256
"""The same for rigs at a broker. A broker keeps what it cannot pass on: more probes would wait behind those that wait,
and each answer would come later than the one before."""
MEASURED_A_SECOND = 512
"""Of these, probes of all rigs together whose clocks are not known well. They are of use only where the answers come
soon."""

# The look-up of a member is slow until Python 3.12.
_ALIVE, _LOST, _IBLUTIL = LinkState.ALIVE, LinkState.LOST, Dialect.IBLUTIL


class Liveness:
    """State of one of a coordinator's `links`, which share what may leave in a second, `most`.

    Anything received is a sign of life.
    """

    __slots__ = (
        "_burst_left",
        "_dialect",
        "_heard",
        "_last_probe",
        "_links",
        "_lost_after",
        "_most",
        "_next_probe",
        "_random",
        "_refused_at",
        "_suspect_after",
        "_timing",
        "_unanswered",
        "heard_at",
        "is_coarse",
        "left",
        "lost_since",
        "reason",
        "refused",
        "state",
    )

    def __init__(self, timing: Timing, random: Random, links: int = 1, most: int = MOST_A_SECOND):
        self._timing, self._random, self._links, self._most = timing, random, links, most
        self._suspect_after, self._lost_after = timing.suspect_after, timing.lost_after
        self._dialect = Dialect.UNKNOWN
        self._heard = math.inf  # last sign of life, or the beginning of probing
        self._next_probe = self._last_probe = math.inf
        self._burst_left = 0
        self._unanswered = 0
        self.heard_at: float | None = None
        self.state = LinkState.UNKNOWN
        self.refused = False
        self._refused_at = -math.inf
        self.left = False
        self.is_coarse = False
        """Whether the rig's clock is not known well enough, and needs more probes."""
        self.reason = "not yet probed"
        self.lost_since = math.inf

    def connect(self, now: float) -> None:
        """Begin to probe, with a burst."""
        self._heard = self._next_probe = now
        self._burst_left = self._timing.burst_count
        self.reason = "no answer yet"

    def adopt(self, dialect: Dialect) -> None:
        """Probe from now on as `dialect` asks."""
        self._dialect = dialect

    def heard(self, now: float) -> None:
        self._heard = self.heard_at = now
        self._unanswered = 0
        if self._burst_left and self._dialect is Dialect.IBLUTIL:
            # Such a rig shows a warning for each probe, and has no clock that more probes would measure.
            self._burst_left = 0
            self._next_probe = now + self._timing.iblutil_beat
        if self.state is not _ALIVE:
            self._enter(_ALIVE, "answered", now)
            self.refused = self.left = False

    def refuse(self, now: float) -> None:
        self.refused = True
        self._refused_at = now
        self._enter(LinkState.LOST, "its host says that nothing listens at this port", now)

    def farewell(self, reason: str, now: float) -> None:
        self.left = True
        self._enter(LinkState.LOST, f"it said goodbye: {reason}", now)

    def lose(self, reason: str, now: float) -> None:
        self._enter(LinkState.LOST, reason, now)

    @property
    def is_gone(self) -> bool:
        """Whether the rig's process is known to have ended: its port is closed, or it has said goodbye."""
        return (self.refused or self.left) and self.state is _LOST

    def hurry(self, now: float) -> None:
        """Probe now, to find something out; not more often than in the first burst."""
        self._next_probe = min(self._next_probe, max(now, self._last_probe + self._timing.burst_interval))

    def want(self, now: float) -> None:
        """Probe as soon as an overdue rig would be, for somebody waits for the answer."""
        self._next_probe = min(
            self._next_probe, max(now + self._timing.burst_interval, self._last_probe + self._timing.overdue_interval)
        )

    def probe_due(self, now: float) -> bool:
        """Return whether a probe has to leave now, and if so, plan the next."""
        if now < self._next_probe:
            return False
        self._unanswered += 1
        if self.refused and now - self._refused_at >= self._timing.suspect_after:
            # A host that refused and is silent now has another fault. (Hosts limit how often they refuse.)
            self.refused = False
            self.reason = "its host, which refused before, is silent now"
        self._last_probe = now
        self._burst_left = max(0, self._burst_left - 1)
        self._next_probe = now + self._interval(now)
        return True

    def excuse(self) -> None:
        """Forget the last probe: it was not sent."""
        self._unanswered -= 1

    def pass_over(self, seconds: float) -> None:
        """Do not count seconds in which nobody here has listened as the rig's silence."""
        self._heard += seconds
        self._last_probe += seconds
        self._refused_at += seconds

    def handle_timer(self, now: float) -> None:
        if self.state is LinkState.LOST or now < self._next_change():
            return
        if self._dialect is Dialect.IBLUTIL:
            silence = f"{self._unanswered} probes unanswered"
            lost = self._unanswered >= self._timing.iblutil_lost_probes
        else:
            silence = f"silent for {now - self._heard:.1f} s"
            lost = now >= self._heard + self._timing.lost_after
        self._enter(LinkState.LOST if lost else LinkState.SUSPECT, silence, now)

    def next_timer(self) -> float:
        change = self._next_change()
        return change if change < self._next_probe else self._next_probe

    def _next_change(self) -> float:
        if self.state is _LOST:
            return math.inf
        if self._dialect is _IBLUTIL:
            timing = self._timing
            # A probe is unanswered when the time for its echo is over.
            suspect = self.state is LinkState.SUSPECT
            probes = timing.iblutil_lost_probes if suspect else timing.iblutil_suspect_probes
            return self._last_probe + timing.echo_timeout if self._unanswered >= probes else math.inf
        return self._heard + (self._suspect_after if self.state is _ALIVE else self._lost_after)

    def _interval(self, now: float) -> float:
        timing = self._timing
        if self._burst_left > 0:
            return min(timing.beat, max(timing.burst_interval, self._links / self._most))
        if self._dialect is Dialect.IBLUTIL:
            return timing.iblutil_beat
        # Loss alone must not look like silence: an overdue link is probed more often, until it is given up.
        # Half a beat of margin: the answer to the last regular probe came a round trip after it.
        overdue = now - self._heard >= 1.5 * timing.beat
        if self.state is LinkState.LOST or not (overdue or self.is_coarse):
            return timing.beat
        share = self._links / (self._most if overdue else MEASURED_A_SECOND)
        return self.stagger(min(timing.beat, max(timing.overdue_interval, share)))

    def stagger(self, interval: float) -> float:
        """Return an interval, or a little less, so that probes are out of step with those of the other rigs.

        Where many are probed at once, some are always answered late, and their clocks look off by half of that.
        """
        return interval * (1 - self._random.uniform(0.0, STAGGER))

    def _enter(self, state: LinkState, reason: str, now: float) -> None:
        if state is LinkState.LOST and self.state is not LinkState.LOST:
            self.lost_since = now
        self.state, self.reason = state, reason
