"""What a rig says in an answer that it has recorded, in sum; anything may be in its place."""

from __future__ import annotations

from typing import Any, NamedTuple

from rigsync._text import size_text, span_text


class Totals(NamedTuple):
    """All that one rig has recorded."""

    files: int
    bytes: int
    seconds: float | None
    """For how long, where it says so."""

    def __str__(self) -> str:
        lasted = "" if self.seconds is None else f", in {span_text(self.seconds)}"
        return f"{'one file' if self.files == 1 else f'{self.files} files'}, {size_text(self.bytes)}{lasted}"


def totals_of(told: Any) -> Totals | None:
    """Return the sums of what stands under ``recorded``; None where it does not say so in its form."""
    files = told.get("files") if isinstance(told, dict) else None
    if not isinstance(files, list):
        return None
    known = [file for file in files if isinstance(file, dict)]
    size = sum(_whole(file.get("bytes")) for file in known) + _whole(told.get("more_bytes"))
    seconds = told.get("seconds")
    is_time = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < 1e12
    return Totals(len(known) + _whole(told.get("more")), size, float(seconds) if is_time else None)


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 < value < 1 << 60 else 0
