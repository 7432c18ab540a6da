"""The rig's lifecycle as one literal table (docs/protocol.md section 4)."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from typing import Any, cast

from rigsync._text import shortened
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.messages import Verb
from rigsync.core.references import canonical_reference as canonical_reference
from rigsync.core.references import reference_parts as reference_parts

INIT, START, END = ExpMessage.EXPINIT, ExpMessage.EXPSTART, ExpMessage.EXPEND
INTERRUPT, CLEANUP = ExpMessage.EXPINTERRUPT, ExpMessage.EXPCLEANUP
CONNECTED, INITIALIZED = ExpStatus.CONNECTED, ExpStatus.INITIALIZED
RUNNING, STOPPED = ExpStatus.RUNNING, ExpStatus.STOPPED

NO_OP = "no-op"
REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class ByReference:
    """An entry of the table that depends on whether the message names the rig's present experiment."""

    same: Any
    other: Any


# Each entry is the status after the handler's success, or NO_OP, or REFUSE.
TABLE: dict[ExpStatus, dict[ExpMessage, Any]] = {
    CONNECTED: {INIT: INITIALIZED, START: REFUSE, END: NO_OP, INTERRUPT: NO_OP, CLEANUP: NO_OP},
    INITIALIZED: {
        INIT: ByReference(same=NO_OP, other=INITIALIZED),
        START: ByReference(same=RUNNING, other=REFUSE),
        END: STOPPED,
        INTERRUPT: STOPPED,
        CLEANUP: CONNECTED,
    },
    RUNNING: {
        INIT: ByReference(same=NO_OP, other=REFUSE),
        START: ByReference(same=NO_OP, other=REFUSE),
        END: STOPPED,
        INTERRUPT: STOPPED,
        CLEANUP: REFUSE,
    },
    STOPPED: {INIT: INITIALIZED, START: REFUSE, END: NO_OP, INTERRUPT: NO_OP, CLEANUP: CONNECTED},
}

LIFECYCLE_MESSAGES = frozenset(TABLE[CONNECTED])
"""The messages that can change the status. All others are answered in every status and do not change it."""
ENDS = frozenset({ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT, ExpMessage.EXPCLEANUP})
"""The messages that end a recording."""

LONGEST_REFERENCE = 500
"""Characters of a reference. It is part of every answer to a probe, which has to fit into a datagram."""


def name_different(first: Any, second: Any) -> bool:
    """Whether both have the form ``yyyy-mm-dd_n_subject`` and name different experiments."""
    both = all(isinstance(value, str) and reference_parts(value) for value in (first, second))
    return both and canonical_reference(first) != canonical_reference(second)


def same_reference(first: str | None, second: str | None) -> bool:
    """Whether both name the same experiment."""
    return first is not None and second is not None and canonical_reference(first) == canonical_reference(second)


def fingerprint(event: Verb, args: list[Any]) -> bytes | None:
    """Return what tells the data of one EXPINIT, but for the reference, from those of another; None for no EXPINIT."""
    if event is not INIT:
        return None
    data = args[0] if args else None
    if isinstance(data, str):
        data = None  # the reference alone
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key not in ("exp_ref", "takeover")} or None
    return hashlib.blake2b(_SORTED(data).encode(), digest_size=16).digest()


_SORTED = json.JSONEncoder(sort_keys=True).encode
"""The order of keys makes no other data."""


def takes_over(event: Verb, args: list[Any]) -> bool:
    """Whether a message is an EXPINIT that takes an experiment over; `ValueError` where it says so wrongly."""
    data = args[0] if event is INIT and args else None
    if not isinstance(data, dict) or "takeover" not in data:
        return False
    if not isinstance(data["takeover"], bool):
        raise ValueError(f"takeover is true or false, not {shortened(data['takeover'])}")  # noqa: TRY004 - a refusal
    if data["takeover"] and named_reference(event, args) is None:
        raise ValueError("a takeover has to name the experiment: exp_ref is missing")
    return data["takeover"]


def rehearses(event: Verb, args: list[Any]) -> bool:
    """Whether a message is an EXPINIT that begins a rehearsal; `ValueError` where it says so wrongly."""
    data = args[0] if event is INIT and args else None
    told = data.get("rehearsal", False) if isinstance(data, dict) else False
    if not isinstance(told, bool):
        raise ValueError(f"rehearsal is true or false, not {shortened(told)}")  # noqa: TRY004 - a refusal
    return told


def named_reference(event: Verb, args: list[Any]) -> str | None:
    """Return the experiment reference that an EXPINIT or EXPSTART names, or None; `ValueError` for another form."""
    if not args or event not in (INIT, START):
        return None
    value = args[0]
    if event is INIT and isinstance(value, dict):
        value = value.get("exp_ref")
    elif event is INIT and not isinstance(value, str):
        return None  # EXPINIT may carry any data; only text alone is a reference
    return reference_text(value)


def reference_text(value: Any) -> str | None:
    """Return an experiment reference as ``yyyy-mm-dd_n_subject``, or None where none is given.

    It is text, which is taken as it is, or a mapping with ``date``, ``sequence`` and ``subject``; `ValueError` for
    anything else, and for one that is too long.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        if len(value) > LONGEST_REFERENCE:
            raise ValueError(f"an experiment reference has at most {LONGEST_REFERENCE} characters, not {len(value)}")
        return value
    if isinstance(value, dict):
        try:
            text = f"{str(value['date'])[:10]}_{int(value['sequence'])}_{value['subject']}"
            return reference_text(text)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"an experiment reference needs date, sequence (a whole number) and subject: {shortened(value, 200)}"
            ) from error
    raise ValueError(
        f"an experiment reference is text or a map of date, sequence and subject, not {shortened(value, 200)}"
    )


@dataclass(frozen=True, slots=True)
class Rehearsing:
    """What a rehearsal has to do with a message."""

    is_asked: bool = False
    """Whether an EXPINIT asks for one."""
    is_possible: bool = False
    """Whether the rig can rehearse."""
    goes_on: bool = False
    """Whether the rig's present experiment is one."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the table says of one message: exactly one of the three."""

    status: ExpStatus | None = None
    """Run the handler; its success leads to this status."""
    no_op: bool = False
    """Answer as the first time, without running the handler."""
    refusal: str | None = None
    """Refuse, with this text."""


def decide(
    status: ExpStatus,
    event: Verb,
    present: str | None,
    named: str | None,
    takeover: bool = False,
    has_new_data: bool = False,
    rehearsal: Rehearsing | None = None,
) -> Decision:
    """Look one message of `LIFECYCLE_MESSAGES` up in the table.

    `present` is the reference of the rig's experiment, `named` that of the message. A message that takes the present
    experiment over runs no handler, and begins no other experiment. An EXPINIT that `has_new_data` is no repeat of the
    one before. A rehearsal begins in CONNECTED alone, and neither it nor an experiment is ever taken for the other.
    """
    if event is INIT and rehearsal and (refusal := _refused_rehearsal(status, present, takeover, rehearsal)):
        return Decision(refusal=refusal)
    if takeover and status is not CONNECTED:
        if same_reference(present, named):
            return Decision(no_op=True)
        return Decision(
            refusal=f"takeover of {named} refused: the rig's experiment is {present} ({status.name}), and a takeover "
            f"names the one that goes on; to begin {named} in its place, type {_typed(INTERRUPT, (INIT, named))}"
        )
    entry = TABLE[status][cast("ExpMessage", event)]
    if isinstance(entry, ByReference):
        is_other = status is INITIALIZED and event is INIT and has_new_data
        entry = entry.same if _same(status, event, present, named) and not is_other else entry.other
    if entry == REFUSE:
        return Decision(refusal=_refusal(status, event, present, named))
    return Decision(no_op=True) if entry == NO_OP else Decision(status=entry)


def _refused_rehearsal(status: ExpStatus, present: str | None, takeover: bool, rehearsal: Rehearsing) -> str | None:
    here = f"{status.name}{f' of {present}' if present else ''}"
    if rehearsal.is_asked and not rehearsal.is_possible:
        return (
            "this rig cannot rehearse, and would record as in earnest: write rehearsal into its agent's file, or "
            "@rig.rehearsal into its program"
        )
    typed = _typed(*([END] if status is RUNNING else []), CLEANUP)
    if rehearsal.is_asked and status is not CONNECTED:
        return f"a rehearsal begins where the status is CONNECTED, and here it is {here}; to go on, type {typed}"
    if rehearsal.goes_on and (takeover or status is RUNNING):
        return f"what goes on here is a rehearsal, {here}, whose files are removed; to go on, type {typed}"
    return None


def _same(status: ExpStatus, event: Verb, present: str | None, named: str | None) -> bool:
    if event is START and (named is None or (present is None and status is INITIALIZED)):
        return True  # EXPSTART need not name one; where EXPINIT named none, EXPSTART's reference is the experiment's
    # An EXPINIT without a reference may carry other data than the last one, so it is never taken for a repeat.
    return same_reference(named, present)


def _condition(entry: Any) -> str:
    return " (same reference)" if isinstance(entry, ByReference) and entry.other == REFUSE else ""


def _refusal(status: ExpStatus, event: Verb, present: str | None, named: str | None) -> str:
    allowed = [f"{m.name}{_condition(entry)}" for m, entry in TABLE[status].items() if entry != REFUSE]
    about = f" of {present}" if present else ""
    asked = f" for {named}" if named else ""
    wanted = named or "REF"
    if event is CLEANUP:
        typed = _typed(END, CLEANUP)
    else:
        before = [END] if status is RUNNING else []
        typed = _typed(*before, (INIT, wanted), *[(START, wanted)] if event is START else [])
    return (
        f"{event.name}{asked} refused: status is {status.name}{about}; allowed now: {', '.join(allowed)}; "
        f"to go on, type {typed}"
    )


def _typed(*steps: ExpMessage | tuple[ExpMessage, str | None]) -> str:
    """Return what somebody types in a terminal to send messages, each alone or with its reference."""
    pairs = [step if isinstance(step, tuple) else (step, None) for step in steps]
    lines = (
        f"rigsync push {message.name}{f' {shlex.quote(reference)}' if reference else ''}"
        for message, reference in pairs
    )
    return ", then ".join(lines)


STILL_RUNNING = "it has answered, and says that it is still RUNNING; look there whether it records"
"""What is told of a rig that `says_running`."""


def says_running(answer: object) -> bool:
    """Whether a rig that has answered the end of an experiment says that it records all the same."""
    information = answer[-1] if isinstance(answer, list) and answer else None
    return isinstance(information, dict) and information.get("status") == RUNNING


def nothing_of(reference: str, status: ExpStatus, present: str | None) -> str:
    """Return why an EXPEND is refused that names an experiment of which this program knows nothing."""
    here = f" of {present}" if present else ""
    return (
        f"this program has recorded nothing of {reference or 'that experiment'}: it was started anew since that "
        f"began, and its status is {status.name}{here}; look at the rig for what the program before has left"
    )
