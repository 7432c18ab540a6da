"""References of experiments, as ``yyyy-mm-dd_n_subject``."""

from __future__ import annotations

import datetime
import re

_PARTS = re.compile(r"(\d{4}-\d{2}-\d{2})_(\d+)_(.+)", re.ASCII | re.DOTALL)


def reference_parts(reference: str) -> tuple[str, str, str] | None:
    """Return date, number and subject of a reference ``yyyy-mm-dd_n_subject``, or None for another form.

    The number comes without leading zeros: ALF writes them, iblutil drops them.
    """
    parts = _PARTS.fullmatch(reference)
    return (parts[1], parts[2].lstrip("0") or "0", parts[3]) if parts else None


def canonical_reference(reference: str) -> str:
    """Return `reference` without leading zeros in its number; unchanged if it has another form."""
    return "_".join(reference_parts(reference) or (reference,))


def is_date(text: str) -> bool:
    """Return whether a text is a day of the calendar, as ``2026-11-20``."""
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True
