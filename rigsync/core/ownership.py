"""Whose experiment it is: that of the coordinator that began it, until it has been silent for too long."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rigsync.core.enums import ExpStatus
from rigsync.core.timing import DEFAULT_TIMING

LEASE = 300.0
"""Seconds of an owner's silence after which a rig interrupts. A computer restarts in less."""


@dataclass(slots=True, eq=False)
class Sender:
    """A coordinator, as a rig recognises it: by its boot number, since its computer may get another address.

    Nobody changes it. It is not frozen, since one is made for each request.
    """

    host: str
    boot: str | None
    """None in the iblutil dialect, where only its host is known."""
    program: str | None = None
    """What it has told of its program, if it has."""
    patience: float = DEFAULT_TIMING.lost_after
    """Seconds of silence after which it does not count as there: five of its beats."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sender):
            return NotImplemented
        return self.boot == other.boot and (self.boot is not None or self.host == other.host)

    def __hash__(self) -> int:
        return hash(self.boot or self.host)


class Ownership:
    """The owner of a rig's experiment, and its lease: seconds of silence after which it counts as gone, 0 for never.

    An owner of the iblutil dialect is always silent between its messages. So it has no lease, and its ownership ends
    with the recording (docs/decisions/0009).
    """

    __slots__ = ("_heard", "_is_excused", "_left", "lease", "owner")

    def __init__(self, lease: float):
        self.lease = lease
        self.owner: Sender | None = None
        self._left = False
        self._heard = -math.inf
        self._is_excused = False

    @property
    def host(self) -> str | None:
        """Host of the owner; None where there is none, or it has said goodbye."""
        return None if self.owner is None or self._left else self.owner.host

    def allows(self, sender: Sender) -> bool:
        """Whether a coordinator may command: the owner, or anyone where there is none."""
        return self.host is None or self.is_led_by(sender)

    def is_led_by(self, sender: Sender) -> bool:
        return self.host is not None and sender == self.owner

    def silence(self, now: float) -> float:
        """Return for how many seconds nothing was heard of the owner; 0 where it is of the iblutil dialect."""
        return 0.0 if self.owner is None or self.owner.boot is None else now - self._heard

    def is_gone(self, now: float) -> bool:
        """Whether the owner has been silent for so long that it does not count as there."""
        return self.owner is not None and self.silence(now) >= self.owner.patience

    def absence(self, now: float) -> tuple[float | None, float | None]:
        """Return for how many seconds the owner has been silent, and those left of its lease.

        Each is None where there is nothing to tell: while the owner counts as there, and of one that has said goodbye
        its silence, of one without a lease its end.
        """
        if not (self._left or self.is_gone(now)):
            return None, None
        left = self.expires() - now
        return None if self._left else self.silence(now), max(0.0, left) if left < math.inf else None

    def claim(self, sender: Sender, now: float) -> None:
        self.owner, self._left, self._heard, self._is_excused = sender, False, now, False

    def restore(self, before: Ownership) -> None:
        """Take a claim back."""
        self.owner, self._left, self._heard = before.owner, before._left, before._heard
        self._is_excused = before._is_excused

    def release(self) -> None:
        self.owner, self._left = None, False

    def heard(self, boot: str, now: float, host: str | None = None, patience: float | None = None) -> None:
        """Take note of a sign of life of some coordinator, and of its host and patience where they are given."""
        owner = self.owner
        if owner is not None and owner.boot == boot and not self._left:
            self._heard, self._is_excused = now, False
            host, patience = host or owner.host, patience or owner.patience
            if (host, patience) != (owner.host, owner.patience):
                self.owner = replace(owner, host=host, patience=patience)

    def pass_over(self, seconds: float, now: float) -> None:
        """Do not hold seconds up to `now` against the owner in which nobody here has listened.

        What has come of it may still lie in the socket, behind what others have sent: where the lease is all but over,
        it goes on for seconds of the owner's patience, once in a silence.
        """
        self._heard += seconds
        owner = self.owner
        if owner is not None and self.expires() < now + owner.patience and not self._is_excused:
            self._is_excused = True
            self._heard = now - max(0.0, self.lease - owner.patience)

    def leave(self, boot: str) -> None:
        """Let others command, for the owner has said goodbye; the lease goes on."""
        if self.owner is not None and self.owner.boot == boot:
            self._left = True

    def ended(self) -> None:
        """End the ownership with the recording, in the iblutil dialect."""
        if self.owner is not None and self.owner.boot is None:
            self.release()

    def expires(self) -> float:
        if self.owner is None or self.owner.boot is None or not self.lease:
            return math.inf
        return self._heard + self.lease

    # ------------------------------------------------------------------------------------------------ refusing

    def refusal(
        self,
        message: str,
        asker: Sender | None,
        status: ExpStatus,
        exp_ref: str | None,
        now: float,
        is_rehearsal: bool = False,
    ) -> str:
        """Return why a message of another coordinator is refused, and what to do."""
        experiment = exp_ref or "an experiment without a reference"
        heard = f", and was last heard {self.silence(now):.0f} s ago" if self.is_gone(now) else ""
        stop = ", or stop it with EXPINTERRUPT"
        if status is ExpStatus.STOPPED and self.owner:
            stop = f"; it is over, and anyone may go on when that one has been silent for {self.owner.patience:g} s"
        owner, where = self._owner_for(asker)
        in_charge = f"{message} refused: {owner} is in charge of {experiment} ({status.name}){heard}"
        if is_rehearsal:  # which nobody can take over
            return f"{in_charge}, a rehearsal of some seconds; wait for its end, or close {where}{stop}"
        return (
            f"{in_charge}; close {where}, or take the experiment over with EXPINIT, its exp_ref and "
            f"takeover: true (rigsync push EXPINIT {exp_ref or 'REF'} --takeover){stop}"
        )

    def _owner_for(self, asker: Sender | None) -> tuple[str, str]:
        owner = self.owner
        program = owner and owner.program
        if asker and owner and program and (asker.host, asker.program) == (owner.host, program):
            return f"this very program ({program}) on {owner.host}, by another connection,", "that one"
        return f"the coordinator on {self.host}" + (f" ({program})" if program else ""), "it there"

    def instant_refusal(self, message: str, asker: Sender, exp_ref: str | None) -> tuple[str, str] | None:
        """Return why a message may not name an instant, if so: what waits takes room for up to an hour."""
        if self.is_led_by(asker):
            return None
        if self.host is None:
            return "StateError", (
                f"{message} refused: nobody is in charge of this rig, and only the coordinator in charge may name an "
                f"instant (at) for {message}; begin with EXPINIT, or ask without one"
            )
        return "BusyError", (
            f"{message} refused: the coordinator on {self.host} is in charge of "
            f"{exp_ref or 'an experiment without a reference'}, and only that one may name an instant (at); "
            "ask without one"
        )
