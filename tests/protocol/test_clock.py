"""Stamps: a wall clock that is anchored once (PROTOCOL.md section 3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigsync.protocol.clock import NANOSECONDS, StampClock

WALL = 1_700_000_000_123_456_789


def test_at_the_anchor_the_stamp_is_the_wall_time() -> None:
    assert StampClock(WALL, 1234.5).stamp(1234.5) == WALL


@pytest.mark.parametrize(
    ("now", "nanoseconds"), [(1235.5, 10**9), (1234.500001, 1000), (1233.5, -(10**9)), (1294.5, 60 * 10**9)]
)
def test_stamps_follow_the_monotonic_clock_in_nanoseconds(now: float, nanoseconds: int) -> None:
    stamp = StampClock(WALL, 1234.5).stamp(now)
    assert isinstance(stamp, int)
    assert abs(stamp - WALL - nanoseconds) <= 1  # a float of seconds since boot has no more digits


def test_the_unit_is_the_nanosecond() -> None:
    assert NANOSECONDS == 10**9


@given(st.floats(0, 1e7), st.lists(st.floats(0, 1e7), min_size=2))
def test_stamps_are_in_the_order_of_the_monotonic_clock(anchor: float, instants: list[float]) -> None:
    clock = StampClock(WALL, anchor)
    stamps = [clock.stamp(now) for now in sorted(instants)]
    assert stamps == sorted(stamps)
