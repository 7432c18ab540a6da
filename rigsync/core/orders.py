"""What a program asks of rigs at once: made where it is asked, and handed on whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rigsync.core.enums import ExpMessage
from rigsync.core.messages import Message


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One push as a program asks for it, unchecked. For the fields see `rigsync.Coordinator.push` and `Order`."""

    message: ExpMessage | str | int
    args: tuple[Any, ...] = ()
    rigs: str | Iterable[str] | None = None
    timeout: float | None = None
    at: float | None = None
    delay: float | None = None
    patience: float = 0.0
    all_or_none: bool = False
    raises: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """One push.

    Parameters
    ----------
    message : Message
        What to send.
    request_time : float
        Unix time in seconds, by which the push is filed; each is used once.
    rigs : list of str, optional
        Names; all rigs by default.
    timeout : float, optional
        Seconds, instead of each rig's own; they count from `act_at`.
    act_at : float, optional
        Monotonic seconds at which the rigs are to act, None for at once.
    patience : float
        Seconds beyond the timeout for rigs that confirm that they are working on it.
    pause : float
        Seconds between the last word of an iblutil rig and the message, unless its configuration says otherwise; they
        do not count for the timeout. All iblutil rigs get the message when the last of them has had its pause. An
        EXPINTERRUPT waits for each rig's own pause only.
    all_or_none : bool
        Whether to tell, by `PushDecided`, that it has failed on one rig, as soon as each of the others has answered or
        works on it. Not before: the EXPINTERRUPT that follows must not reach another coordinator's rig.
    confirm : bool
        Whether to tell, by `RequestReceived`, when a rig confirms that it has the message. Of an iblutil rig nothing
        more is awaited.
    raises : bool
        Whether who waits for the outcome raises what has failed, so that the log need not tell it, too.
    beside : bool
        Whether it waits for no turn: it is sent as soon as the rig has what was sent before, and runs beside that. Of
        a command alone.
    """

    message: Message
    request_time: float
    rigs: list[str] | None = None
    timeout: float | None = None
    act_at: float | None = None
    patience: float = 0.0
    pause: float = 0.0
    all_or_none: bool = False
    confirm: bool = False
    raises: bool = False
    beside: bool = False
