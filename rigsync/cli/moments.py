"""Moments as people name them: ``2h``, ``yesterday``, ``tuesday``, ``14:30``, ``2026-11-30``."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta

EXAMPLES = "2h, 3d, 14:30, yesterday, tuesday, 2026-11-30, '2026-11-30 14:30'"
_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800}
_PART = r"(\d+(?:\.\d+)?)\s*(s|sec|min|m|h|day|d|week|w)s?"
_SPAN = re.compile(rf"{_PART}(?:\s*{_PART})*(?:\s+ago)?")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIMES = ("%H:%M", "%H:%M:%S")


def moment(text: str, now: datetime, *, is_end: bool = False) -> float:
    """Return the Unix time (s) of a moment in the past, in local time.

    Parameters
    ----------
    text : str
        How long ago, a day, a time of day, both, or ``now``. A weekday is the last of its name, today's included. A
        time of day is the last such time.
    now : datetime
        The present, in local time without a zone.
    is_end : bool
        A day stands for its end, and else for its beginning.

    Raises
    ------
    ValueError
        It is none; the text has examples.
    """
    asked = text.strip().lower()
    try:
        found = _span(asked, now) or _day(asked, now, is_end) or _time_of_day(asked, now) or _date(asked, is_end)
        if found is not None:
            return found.timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    raise ValueError(f"{text!r} is no time in the past; write for instance {EXAMPLES}")


def _span(asked: str, now: datetime) -> datetime | None:
    if asked == "now":
        return now
    if not _SPAN.fullmatch(asked):
        return None
    # By the clock of the world, on a day of 23 hours too.
    span = timedelta(seconds=sum(float(count) * _UNITS[unit] for count, unit in re.findall(_PART, asked)))
    return now.astimezone() - span


def _day(asked: str, now: datetime, is_end: bool) -> datetime | None:
    today, name = now.date(), asked.removeprefix("last ")
    if name in ("today", "yesterday"):
        return _edge(today - timedelta(days=int(name == "yesterday")), is_end)
    for number, day in enumerate(_DAYS):
        if name in (day, day[:3]):
            return _edge(today - timedelta(days=(today.weekday() - number) % 7), is_end)
    return None


def _time_of_day(asked: str, now: datetime) -> datetime | None:
    for form in _TIMES:
        try:
            found = datetime.combine(now.date(), datetime.strptime(asked, form).time())
        except ValueError:
            continue
        return found if found <= now else found - timedelta(days=1)
    return None


def _date(asked: str, is_end: bool) -> datetime:
    if re.fullmatch(r"\d{4}-\d\d?-\d\d?", asked):
        return _edge(date(*map(int, asked.split("-"))), is_end)
    whole = re.sub(r"\.(\d{1,6})", lambda found: f".{found[1]:0<6}", asked)  # until 3.11 Python takes no other
    return datetime.fromisoformat(re.sub(r"z$", "+00:00", whole))


def _edge(day: date, is_end: bool) -> datetime:
    """Return the beginning of a day, or its end."""
    if not is_end:
        return datetime.combine(day, time())
    return datetime.combine(day + timedelta(days=1), time()) - timedelta(microseconds=1)
