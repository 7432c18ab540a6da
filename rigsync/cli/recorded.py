"""What a rig has recorded, in words."""

from __future__ import annotations

from typing import Any

from rigsync._text import duration_text, size_text


def recorded_text(answer: list[Any]) -> str:
    """Return what an answer to EXPEND says of what was recorded, as the end of a sentence; nothing where it does not.

    The answer is a rig's, and anything may be in it.
    """
    information = answer[-1] if answer else None
    told = information.get("recorded") if isinstance(information, dict) else None
    if not isinstance(told, dict) or not isinstance(files := told.get("files"), list):
        return ""
    sizes = [file["bytes"] for file in files if isinstance(file, dict) and _is_number(file.get("bytes"))]
    more, more_bytes, seconds = told.get("more", 0), told.get("more_bytes", 0), told.get("seconds")
    count = len(files) + (more if isinstance(more, int) else 0)
    size = size_text(sum(sizes) + (more_bytes if _is_number(more_bytes) else 0))
    lasted = f" in {duration_text(seconds)}" if seconds is not None and _is_number(seconds) else ""
    return f": {count} file{'' if count == 1 else 's'}, {size}{lasted}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e24
