"""What an EXPINIT most likely was to say, where it names no experiment, or names one oddly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rigsync._text import close_match, shortened
from rigsync.core.enums import ExpMessage
from rigsync.core.lifecycle import reference_parts, reference_text
from rigsync.core.references import is_date

EXAMPLE = "2026-11-20_1_mouse"
_OTHER_NAMES = ("ref", "reference", "expref", "experiment", "session")
"""What people write in place of ``exp_ref``, beside what looks like it."""


def doubt_of(event: Any, args: Sequence[Any]) -> str | None:
    """Return what is odd about the experiment that a message names, and what to write; None where nothing is.

    Parameters
    ----------
    event : ExpMessage or Command
        The message. EXPINIT names the experiment.
    args : sequence
        What follows it.
    """
    value = args[0] if args else None
    if event is not ExpMessage.EXPINIT:
        return None
    if isinstance(value, str) and value:
        return doubt_of_reference(value)
    if isinstance(value, Mapping) and value.get("exp_ref"):
        return doubt_of_reference(value["exp_ref"])
    return f"EXPINIT names no experiment{_what_it_has(value)}; write {{'exp_ref': '{EXAMPLE}'}}"


def _what_it_has(data: Any) -> str:
    if data is None or data == "":
        return ""
    if not isinstance(data, Mapping):
        return f": its data are {shortened(data)}, and the reference is text or stands in a map as exp_ref"
    if "exp_ref" in data:
        return ": its 'exp_ref' is empty"
    named = [key for key in data if isinstance(key, str)]
    alike = [key for key in named if key.lower() in _OTHER_NAMES or close_match(key, ["exp_ref"])]
    return f": its data have {alike[0]!r} and no 'exp_ref'" if alike else ": its data have no 'exp_ref'"


def doubt_of_reference(reference: Any) -> str | None:
    """Return what is odd about a reference: it has not the form that agents and the lab's tools know."""
    try:
        text = reference_text(reference)
    except ValueError:
        return None  # it is refused elsewhere
    if text is None:
        return None
    if parts := reference_parts(text):
        return None if is_date(parts[0]) else f"the reference {shortened(text)} has a date that is in no calendar"
    return (
        f"the reference {shortened(text)} has not the form yyyy-mm-dd_n_subject, such as {EXAMPLE}: agents cannot fill "
        "in {date}, {number} and {subject}"
    )
