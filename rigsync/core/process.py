"""The program that answers at a rig's address: whether it is the rig, and which process of it (docs/protocol.md 3)."""

from __future__ import annotations

from collections import deque

from rigsync._text import one_line
from rigsync.core.enums import ExpStatus
from rigsync.core.events import Dialect, LinkState
from rigsync.core.link import Link
from rigsync.core.messages import Alive
from rigsync.core.probes import SentProbe
from rigsync.core.rigs import is_called
from rigsync.errors import WrongRig

PAST_BOOTS = 16
"""Earlier boot numbers of a rig that are remembered. Their late answers are not taken for another restart."""


class Process:
    """Who answers, and what it says of itself."""

    def __init__(self, link: Link):
        self._link = link
        self.dialect = Dialect.UNKNOWN
        self.boot: str | None = None
        self._past: deque[str] = deque(maxlen=PAST_BOOTS)
        self._newest = self.left_at = self._met_at = -1
        """Numbers of the newest answered probe, of the last one before the rig's goodbye, and of the last one before
        this process of it was met."""
        self.names_me = False
        """Whether the rig puts this coordinator's boot number, which no forger knows, into all that it sends. Older
        rigs do not."""
        self.status: ExpStatus | None = None
        self.exp_ref: str | None = None
        self.version: str | None = None
        self.owner: str | None = None
        self.troubles: int | None = None
        self.owner_heard: float | None = None
        self.interrupts_at: float | None = None
        """When it last heard a silent owner, and when it interrupts for want of one, in monotonic seconds here."""
        self.mistaken: tuple[str, float] | None = None
        """Name of another rig that answers in this one's place, and when it last did, in monotonic seconds."""
        self.is_shared = False
        """Whether another rig of the configuration has the same address. Then one answers for both."""

    def wrong(self, now: float) -> WrongRig | None:
        """Return the error where another rig answers at this one's address."""
        if self.mistaken is None or now >= self.mistaken[1] + self._link.timing.lost_after:
            return None
        name, told = self._link.name, one_line(self.mistaken[0])
        return WrongRig(
            name,
            f"the rig at {self._link.config.address} says that it is {told}; correct the address of {name} in the "
            f"configuration, or the name {told} where that rig's program is started",
        )

    def is_rig(self, told: str) -> bool:
        return self.is_shared or is_called(self._link.name, told)

    def may_have_left_out(self, to: str | None, now: float) -> bool:
        """Whether a frame may be for this coordinator although it does not name it.

        A rig that has named it once has to go on. An older program in its place is believed once the link was lost.
        """
        liveness = self._link.liveness
        lost_for = now - liveness.lost_since if liveness.state is LinkState.LOST else 0.0
        return to is None and (not self.names_me or lost_for >= self._link.timing.lost_after)

    def may_follow(self, frame: Alive, probe: SentProbe) -> bool:
        """Whether an answer of an unknown process shows that it has taken the place of the known one."""
        # Two processes may have answered one burst of probes, and the later one may have been met first. A probe
        # sent from now on shows which of them is there.
        is_old = frame.boot in self._past and frame.n <= self._met_at
        return frame.t0 == probe.stamp and not is_old

    def meet(self, boot: str, n: int) -> None:
        """Begin anew with another process, which answers when the last probe was number `n`."""
        self.forget()
        self.boot, self._met_at = boot, n
        self._newest = self.left_at = -1

    def forget(self) -> None:
        """Take the known process for ended."""
        if self.boot:
            self._past.append(self.boot)
        self.boot, self.names_me = None, False

    def take(self, frame: Alive, now: float) -> None:
        self.names_me, self.mistaken = frame.to is not None, None
        if frame.n >= self._newest:  # a later probe's answer may have overtaken this one
            self._newest = frame.n
            self.status, self.exp_ref = frame.status, frame.exp_ref
            self.version, self.owner, self.troubles = frame.version, frame.owner, frame.troubles
            self.owner_heard = None if frame.silence is None else now - frame.silence / 1000
            self.interrupts_at = None if frame.lease is None else now + frame.lease / 1000
