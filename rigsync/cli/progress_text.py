"""Progress and streams in few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rigsync._text import size_text
from rigsync.core.board import Progress

_BYTES = ("B", "bytes")
_LONGEST = 400
"""Most characters of the text: more than a terminal shows in a line."""


def work_text(
    progress: Mapping[str, Progress], streams: Mapping[str, Mapping[str, Any]], rates: Mapping[str, float] | None = None
) -> str:
    """Return progress by item and streams by name: ``frames 1200/5000, left.mp4 12.3 MB, left: recording``.

    Items with a rate have it: ``left.mp4 12.3 MB (+1.2 MB/s)``.
    """
    rates = rates or {}
    parts = [
        f"{item} {progress_text(shown)}" + (f" ({rate_text(rates[item], shown.unit)})" if item in rates else "")
        for item, shown in progress.items()
    ]
    parts += [stream_text(stream, info) for stream, info in streams.items()]
    text = ", ".join(parts)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def progress_text(progress: Progress) -> str:
    """Return progress as text: ``1200/5000 frames``, ``12.3 MB``."""
    if progress.unit in _BYTES:
        numbers = [size_text(number) for number in (progress.value, progress.total) if number is not None]
        return "/".join(numbers)
    numbers = [_number_text(number) for number in (progress.value, progress.total) if number is not None]
    text = "/".join(numbers)
    if progress.unit == "%":
        return f"{text}%"
    return f"{text} {progress.unit}" if progress.unit else text


def rate_text(rate: float, unit: str | None) -> str:
    """Return what changes a second as text: ``+1.2 MB/s``, ``-30/s``."""
    sign = "+" if rate >= 0 else "-"
    if unit in _BYTES:
        return f"{sign}{size_text(abs(rate))}/s"
    return f"{sign}{abs(rate):.3g}{'%' if unit == '%' else ''}/s"


def stream_text(name: str, info: Mapping[str, Any]) -> str:
    """Return a stream's name and, if it has one, its state: ``left: recording``."""
    state = info.get("state")
    return f"{name}: {state}" if isinstance(state, str) and state else name


def _number_text(number: float) -> str:
    if isinstance(number, int) and abs(number) < 10**15:
        return str(number)
    return f"{number:.6g}"
