"""Timers, with time as an argument: no drift, ticks that were missed, and what is no timer."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from rigsync.hub.events import Tick
from rigsync.hub.timers import Kind, Timer, Timers


def told(timer: Timer, *instants: float) -> list[Tick]:
    timers = Timers()
    timers.add(timer, 100.0)
    return [tick for instant in instants for _, tick in timers.take_due(100.0 + instant)]


def test_one_shot_fires_once() -> None:
    assert told(Timer(2.0, name="end"), 1.9, 2.0, 2.1, 50.0) == [Tick("end", 1, 0, True)]


def test_one_shot_may_fire_at_once() -> None:
    assert told(Timer(0), 0.0, 1.0) == [Tick("timer", 1, 0, True)]


def test_count_up_and_down() -> None:
    up = told(Timer(1.0, Kind.COUNT_UP, count=3), 1, 2, 3, 4, 5)
    assert [(tick.value, tick.is_last) for tick in up] == [(1, False), (2, False), (3, True)]
    down = told(Timer(1.0, "count down", count=3), 1, 2, 3, 4, 5)
    assert [(tick.value, tick.is_last) for tick in down] == [(2, False), (1, False), (0, True)]


def test_ongoing_does_not_drift() -> None:
    timer = Timer(0.1, Kind.ONGOING)
    timers = Timers()
    timers.add(timer, 0.0)
    now = 0.0
    for n in range(1, 10_001):
        assert timers.next_due() == n * 0.1
        now = timers.next_due() + 0.03  # late each time
        assert [tick.value for _, tick in timers.take_due(now)] == [n]
    assert now < 1000.04


@pytest.mark.parametrize(
    ("kind", "count", "expected"),
    [
        (Kind.ONGOING, 0, [(1, 0, False), (8, 6, False), (9, 0, False), (20, 10, False)]),
        (Kind.COUNT_UP, 10, [(1, 0, False), (8, 6, False), (9, 0, False), (10, 0, True)]),
        (Kind.COUNT_DOWN, 10, [(9, 0, False), (2, 6, False), (1, 0, False), (0, 0, True)]),
    ],
)
def test_one_that_is_late_tells_how_many_it_missed_and_always_the_last(
    kind: Kind, count: int, expected: list[Any]
) -> None:
    ticks = told(Timer(1.0, kind, count=count), 1.0, 8.5, 9.0, 20.9)
    assert [(tick.value, tick.missed, tick.is_last) for tick in ticks] == expected


def test_several_are_told_in_the_order_of_their_instants() -> None:
    timers = Timers()
    for interval, name in ((3.0, "slow"), (1.0, "quick"), (2.0, "middle")):
        timers.add(Timer(interval, name=name), 0.0)
    assert timers.next_due() == 1.0
    assert [tick.timer for _, tick in timers.take_due(10.0)] == ["quick", "middle", "slow"]
    assert timers.next_due() == math.inf
    assert timers._due == []  # nothing is kept of those that are over


def test_one_that_is_removed_is_not_told_and_one_that_is_added_again_begins_anew() -> None:
    timers, timer = Timers(), Timer(1.0, Kind.ONGOING)
    timers.add(timer, 0.0)
    assert timers.remove(timer)
    assert not timers.remove(timer)
    assert timers.take_due(5.0) == []
    timers.add(timer, 10.0)
    timers.add(timer, 10.5)
    assert [tick.value for _, tick in timers.take_due(11.5)] == [1]
    timers.clear()
    assert timers.next_due() == math.inf


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1.0,), ValueError),
        ((-1,), ValueError),
        ((math.nan,), ValueError),
        ((math.inf,), ValueError),
        ((True,), TypeError),
        (("1",), TypeError),
        ((0, Kind.ONGOING), ValueError),
        ((1.0, "for ever"), ValueError),
    ],
)
def test_what_is_no_interval(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        Timer(*arguments, name="blinker")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("cuont down", "timer 'blinker': there is no kind 'cuont down'; did you mean 'count down'?"),
        (3, "timer 'blinker': there is no kind 3; it is one of one-shot, count up, count down, ongoing"),
    ],
)
def test_the_error_names_the_timer_and_the_kind(kind: Any, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        Timer(1.0, kind, name="blinker")


def test_the_error_names_the_timer_and_the_interval() -> None:
    with pytest.raises(ValueError, match=r"timer 'blinker': the interval is a number of seconds from 0 on, not -0.5"):
        Timer(-0.5, name="blinker")


@pytest.mark.parametrize(("kind", "count"), [("count up", 0), ("count down", -1), ("ongoing", 3), ("count up", True)])
def test_what_is_no_count(kind: str, count: Any) -> None:
    with pytest.raises(ValueError, match="the count is"):
        Timer(1.0, kind, count=count)


def test_make_is_a_function() -> None:
    with pytest.raises(TypeError, match="make is a function, not int"):
        Timer(1.0, make=3)  # type: ignore[arg-type]
