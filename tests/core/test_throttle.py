"""How often what keeps changing is told."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigsync.core.throttle import Ration, Throttle


@pytest.fixture
def throttle() -> Throttle[str]:
    return Throttle(0.5)


def test_the_first_is_told_at_once_and_the_next_after_the_interval(throttle: Throttle[str]) -> None:
    assert throttle.note("a", 10.0)
    assert (throttle.is_waiting, throttle.next_timer()) == (False, math.inf)
    assert not throttle.note("a", 10.1)
    assert not throttle.note("a", 10.2)
    assert (throttle.is_waiting, throttle.next_timer()) == (True, 10.5)
    assert throttle.take(10.49) == []
    assert throttle.take(10.5) == ["a"]
    assert throttle.take(10.5) == []
    assert not throttle.note("a", 10.6)
    assert throttle.take(11.0) == ["a"]
    assert throttle.note("a", 11.5)


def test_one_does_not_hold_up_another(throttle: Throttle[str]) -> None:
    assert throttle.note("a", 10.0)
    assert throttle.note("b", 10.1)
    throttle.note("b", 10.2)
    throttle.note("a", 10.3)
    assert throttle.next_timer() == 10.5
    assert throttle.take(10.55) == ["a"]
    assert throttle.take(10.6) == ["b"]


def test_what_is_told_for_another_reason_counts(throttle: Throttle[str]) -> None:
    throttle.tell("a", 10.0)
    assert not throttle.note("a", 10.2)
    throttle.tell("a", 10.3)
    assert not throttle.is_waiting
    assert throttle.take(10.5) == []
    assert not throttle.note("a", 10.6)
    assert throttle.take(10.8) == ["a"]


def test_what_is_dropped_is_not_told_but_when_it_was_is_remembered(throttle: Throttle[str]) -> None:
    throttle.note("a", 10.0)
    throttle.note("a", 10.1)
    throttle.drop("a")
    assert throttle.take(10.5) == []
    throttle.note("a", 10.6)
    throttle.note("b", 10.6)
    throttle.note("a", 10.7)
    throttle.note("b", 10.7)
    throttle.clear()
    assert throttle.take(99.0) == []
    assert throttle.next_timer() == math.inf


def test_what_was_told_long_ago_takes_no_memory(throttle: Throttle[str]) -> None:
    for number in range(1000):
        throttle.note(str(number), float(number))
    assert len(throttle._told) == 1


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc"), st.sampled_from(["note", "drop", "tell"]))))
def test_each_is_told_no_oftener_and_the_last_change_always(steps: list[tuple[float, str, str]]) -> None:
    throttle: Throttle[str] = Throttle(0.25)
    now, told, owed = 0.0, dict[str, list[float]](), set[str]()

    def tell(key: str) -> None:
        told.setdefault(key, []).append(now)
        owed.discard(key)

    def run(end: float) -> None:
        nonlocal now
        while (when := throttle.next_timer()) <= end:
            now = max(now, when)
            for key in throttle.take(now):
                tell(key)
            assert throttle.next_timer() > now
        now = end

    for wait, key, step in steps:
        run(now + wait)
        if step == "note":
            owed.add(key)
            if throttle.note(key, now):
                tell(key)
        elif step == "drop":
            throttle.drop(key)
            owed.discard(key)
        elif not throttle.is_waiting and now - max(told.get(key, [-1.0])) >= 0.25:
            throttle.tell(key, now)
            tell(key)
    run(now + 1)
    assert not owed
    for times in told.values():
        assert all(later - earlier >= 0.25 - 1e-9 for earlier, later in itertools.pairwise(times))


def test_a_ration_tells_the_first_few_of_each_sort_and_of_all_and_begins_anew() -> None:
    ration: Ration[str] = Ration(60.0, 2, 5)
    assert [ration.allows("a", 0.0) for _ in range(4)] == [True, True, False, False]
    assert [ration.allows(key, 59.0) for key in "bcdefg"] == [True, True, True, False, False, False]
    assert len(ration._told) <= 5
    assert [ration.allows("a", 60.0) for _ in range(3)] == [True, True, False]
