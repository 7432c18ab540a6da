"""Every time and count that rigsync waits by."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rigsync._text import shortened
from rigsync.errors import ConfigError

LONGEST_BEAT = 24.0
"""Seconds: five such beats are the longest silence for which a rig may take a coordinator for there, 120 s."""
SHORTEST = 0.001
MOST = 1000
"""Bounds of the times (s) and counts in a `Timing`. Beyond them one link would keep a computer busy."""


def check_seconds(value: object, key: str) -> None:
    """Raise `ConfigError` for the key where a value is not a number of seconds above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise ConfigError(f"expected a number of seconds above 0, not {shortened(value, 80)}", key=key)


@dataclass(frozen=True, slots=True)
class Timing:
    """Every time and count that rigsync waits by; times in seconds, reasons beside each.

    Raises
    ------
    ConfigError
        A value is not a number above 0, a count is not a whole number, or two values contradict each other; its
        ``key`` is the name of the field.
    """

    # Liveness (docs/protocol.md section 3).
    beat: float = 1.0  # between two probes of a link, which tell the rig of it
    burst_count: int = 8  # probes on connecting, so that a few lost ones do not delay it ...
    burst_interval: float = 0.02  # ... and between two of them: many round trips of a lab network
    suspect_beats: int = 3  # silent beats after which a link is suspect: two datagrams in a row may get lost
    lost_beats: int = 5  # silent beats after which a link is lost, and a coordinator forgotten by its rigs
    overdue_probes: int = 8  # probes a beat while a link is overdue, so that it is not lost to lost datagrams
    iblutil_beat: float = 15.0  # between two probes of an iblutil rig, which has to echo each
    iblutil_suspect_probes: int = 2  # unanswered probes after which an iblutil rig is suspect ...
    iblutil_lost_probes: int = 3  # ... and lost
    clock_bound: float = 0.001  # a clock that is known less well than this is measured as often as an overdue link
    lost_grace: float = 1.0  # a lost rig is asked all the same; its outcome is settled after this much more silence
    # Resending (docs/protocol.md section 2, after RFC 6298 and RFC 7252).
    resend_first: float = 0.1  # before any round trip was measured: ten of a slow lab network
    resend_min: float = 0.025  # in less, a busy computer looks like loss
    resend_max: float = 1.0  # the back-off ends here: a person waits
    ask_again: float = 1.0  # after an ack, which recovers a lost reply
    ack_delay: float = 0.005  # a rig that cannot answer within this time acknowledges first
    # Waits.
    echo_timeout: float = 1.0  # after which an iblutil peer that awaits an echo closes its socket (section 1)
    connect_timeout: float = 2.0  # the constructor of `Auxiliaries` waits so long for every rig to answer

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float):
                check_seconds(value, field.name)
                if value < SHORTEST:
                    raise ConfigError(f"expected at least {SHORTEST} s, not {shortened(value, 80)}", key=field.name)
            elif not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
                raise ConfigError(
                    f"expected a whole number from 1 to {MOST}, not {shortened(value, 80)}", key=field.name
                )
        if contradictions := list(self._contradictions()):
            raise ConfigError.of(contradictions)

    def _contradictions(self) -> Iterator[ConfigError]:
        if self.beat > LONGEST_BEAT:
            yield ConfigError(
                f"expected at most {LONGEST_BEAT:g} s, not {shortened(self.beat, 80)}: after "
                f"{5 * LONGEST_BEAT:g} s of silence at the latest a rig takes its coordinator for gone",
                key="beat",
            )
        for low, high in (("suspect_beats", "lost_beats"), ("iblutil_suspect_probes", "iblutil_lost_probes")):
            if getattr(self, low) >= getattr(self, high):
                yield ConfigError(
                    f"{getattr(self, low)} is not below {high}, which is {getattr(self, high)}: "
                    "a rig is suspect before it is lost",
                    key=low,
                )
        if self.resend_min > self.resend_max:
            yield ConfigError(f"{self.resend_min} is over resend_max, which is {self.resend_max}", key="resend_min")

    @property
    def suspect_after(self) -> float:
        """Seconds of silence after which a link is suspect."""
        return self.suspect_beats * self.beat

    @property
    def lost_after(self) -> float:
        """Seconds of silence after which a link is lost."""
        return self.lost_beats * self.beat

    def silence(self, beat: float) -> float:
        """Return the seconds of silence after which a rig takes a coordinator that has told its beat for gone.

        What is forged must neither have the one in charge forgotten early nor a stranger kept for long: a rig goes by a
        beat from its own, 1 s, to the longest.
        """
        return self.lost_beats * max(self.beat, min(beat, LONGEST_BEAT))

    @property
    def overdue_interval(self) -> float:
        """Seconds between two probes of a link that is overdue."""
        return self.beat / self.overdue_probes


DEFAULT_TIMING = Timing()
