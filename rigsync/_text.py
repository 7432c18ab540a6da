"""Text for people: one line, shortened, sizes, close matches."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Mapping
from typing import Any

_PREFIXES = ("", "k", "M", "G", "T", "P")


def one_line(text: str) -> str:
    """Return text from outside as one line of a log: control characters and lone surrogates escaped, cut."""
    return printable(text[:1000]) + ("..." if len(text) > 1000 else "")


def printable(text: str) -> str:
    """Return text from the network with its control characters and line ends escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spreadsheet_cell(value: Any) -> Any:
    """Return a value for a table of text, where it stays text: a spreadsheet takes what begins with = for a formula."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = printable(str(value))
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") else text


def printable_lines(text: str) -> str:
    """Return text with its control characters escaped, but not its line ends."""
    return "\n".join(map(printable, text.split("\n")))


def error_text(text: str) -> str:
    """Return text of several lines as one, the last line first: it says what it was."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join([*lines[-1:], *lines[:-1]])


def line_for_each(told: Mapping[str, str], joint: str = ": ") -> list[str]:
    """Return a line for each text that is told of rigs: ``left, right: disk full``."""
    rigs: dict[str, list[str]] = {}
    for rig, text in told.items():
        rigs.setdefault(printable(error_text(text)), []).append(rig)
    return [f"{', '.join(names)}{joint}{text}" for text, names in rigs.items()]


def shortened(value: Any, most: int = 40) -> str:
    """Return how `value` would be written in Python, cut to `most` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number beyond what int() prints; nested to the limit
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def size_text(count: float) -> str:
    """Return a number of bytes as people write it, in powers of 1000 as for disks: ``12.3 MB``."""
    scaled, power = float(count), 0
    while abs(scaled) >= 999.5 and power < len(_PREFIXES) - 1:  # which would be written 1e+03
        scaled, power = scaled / 1000, power + 1
    return f"{scaled:.3g} {_PREFIXES[power]}B"


def duration_text(seconds: float) -> str:
    """Return how long something lasted: ``0:07``, ``12:34``, ``1:02:03``."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def span_text(seconds: float) -> str:
    """Return a span of time in words, in its two largest units: ``7 s``, ``2 min 10 s``, ``1 h 5 min``."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min {rest} s" if minutes and rest else f"{minutes} min" if minutes else f"{rest} s"


def since_text(age: float, now: float) -> str:
    """Return since when something is so that is told at Unix time `now` (s), `age` seconds later; nothing below 1 s."""
    if age < 1:
        return ""
    try:
        first, today = time.localtime(now - age), time.localtime(now)
    except (OverflowError, OSError, ValueError):  # there is no such time
        return ""
    form = "%H:%M:%S" if first[:3] == today[:3] else "%Y-%m-%d %H:%M"
    return f" (since {time.strftime(form, first)})"


def close_match(wanted: object, known: Iterable[str]) -> str:
    """Return ``; did you mean 'name'?`` if a known name is close to the wanted one, otherwise nothing."""
    close = closest(wanted, known)
    return f"; did you mean {close!r}?" if close else ""


def closest(wanted: object, known: Iterable[str]) -> str | None:
    """Return the known name that is close to the wanted one; None if there is none."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(wanted).lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None
