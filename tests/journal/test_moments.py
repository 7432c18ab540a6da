"""Moments as people name them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from rigsync.cli.moments import moment

NOW = datetime(2026, 12, 2, 14, 0, 30)  # a Wednesday


@pytest.mark.parametrize(
    ("text", "is_end", "meant"),
    [
        ("now", False, "2026-12-02 14:00:30"),
        ("30s", False, "2026-12-02 14:00:00"),
        ("30 min", False, "2026-12-02 13:30:30"),
        ("2h", False, "2026-12-02 12:00:30"),
        ("2 hours", False, None),
        ("1h30m ago", False, "2026-12-02 12:30:30"),
        ("1.5d", False, "2026-12-01 02:00:30"),
        ("3 days", False, "2026-11-29 14:00:30"),
        ("2w", True, "2026-11-18 14:00:30"),
        ("today", False, "2026-12-02 00:00:00"),
        ("Yesterday", False, "2026-12-01 00:00:00"),
        ("yesterday", True, "2026-12-01 23:59:59.999999"),
        ("tuesday", False, "2026-12-01 00:00:00"),
        ("last Tuesday", True, "2026-12-01 23:59:59.999999"),
        ("wed", False, "2026-12-02 00:00:00"),
        ("thu", False, "2026-11-26 00:00:00"),
        ("14:00", False, "2026-12-02 14:00:00"),
        ("14:30", False, "2026-12-01 14:30:00"),
        ("09:15:20", True, "2026-12-02 09:15:20"),
        ("2026-11-30", False, "2026-11-30 00:00:00"),
        ("2026-11-30", True, "2026-11-30 23:59:59.999999"),
        ("2026-11-30 14:30", False, "2026-11-30 14:30:00"),
        ("2026-11-30T14:30:05.5", True, "2026-11-30 14:30:05.500"),
    ],
)
def test_moments(text: str, is_end: bool, meant: str | None) -> None:
    if meant is None:
        with pytest.raises(ValueError):
            moment(text, NOW, is_end=is_end)
    else:
        assert moment(text, NOW, is_end=is_end) == datetime.fromisoformat(meant).timestamp()


def test_a_time_with_a_zone() -> None:
    assert moment("2026-11-30T14:30:00Z", NOW) == moment("2026-11-30T15:30:00+01:00", NOW) == 1796049000


@pytest.mark.parametrize(
    "text",
    ["yesterdayish", "", "-2h", "2", "h", "25:00", "2026-13-01", "2026-11-31", "99999999999d", "1e5s", "\0", "٣d"],
)
def test_no_moment(text: str) -> None:
    if text == "٣d":  # digits are digits
        assert moment(text, NOW) == moment("3d", NOW)
        return
    with pytest.raises(ValueError, match="is no time in the past; write for instance 2h, 3d, 14:30"):
        moment(text, NOW)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not hasattr(time, "tzset"):
        pytest.skip("the zone of a process cannot be set here")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_days_of_23_and_25_hours(berlin: None) -> None:
    now = datetime(2026, 10, 26, 12)  # the day after the clocks went back
    begin, end = moment("yesterday", now), moment("yesterday", now, is_end=True)
    assert end - begin == pytest.approx(25 * 3600)
    assert now.timestamp() - moment("36h", now) == 36 * 3600
