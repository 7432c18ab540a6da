"""When an alert is told: gathered, at most once a minute for each cause, tried again. Time is a number here."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.support import happening
from rigsync.alerts.plan import GATHER, INTERVAL, MOST_LINES, TRIES, Message, Plan
from rigsync.alerts.watch import Happening


@pytest.fixture
def plan() -> Plan:
    return Plan(("failure", "lost"), Random(1))


def taken(plan: Plan, now: float) -> Message:
    message = plan.take(now)
    assert message
    return message


def test_what_happens_at_once_is_told_in_one(plan: Plan) -> None:
    for rig in ("left", "right", "ephys"):
        plan.note(happening("silent for 5 s", rig, "lost"), 0.1, 1000.0)
    plan.note(happening("disk full", "left"), 0.2, 1000.1)
    assert plan.take(0.2 + GATHER / 2) is None
    first, second = taken(plan, 0.2 + GATHER), taken(plan, 0.2 + GATHER)
    assert first.what == "left, right, ephys: silent for 5 s"
    assert (first.rigs, first.time, second.what) == (["left", "right", "ephys"], 1000.0, "left: disk full")
    assert plan.take(INTERVAL) is None


def test_a_cause_is_told_once_a_minute_with_the_number_of_those_held_back(plan: Plan) -> None:
    for n in range(30):
        plan.note(happening(f"failure {n}"), float(n), 1000.0 + n)
    first = taken(plan, 29.0)
    assert (first.what, first.held_back) == ("cameras: failure 0", 0)
    plan.sent(first, 29.0)
    assert plan.take(29.0 + INTERVAL - 0.1) is None
    plan.take(29.0 + INTERVAL)
    second = taken(plan, 29.0 + INTERVAL + GATHER)
    assert (second.what, second.held_back) == ("cameras: failure 29", 28)
    plan.sent(second, 29.0 + INTERVAL + GATHER)
    assert plan.is_idle
    assert plan.next_timer() == math.inf


def test_another_rig_is_another_cause(plan: Plan) -> None:
    plan.note(happening("disk full"), 0.0, 1000.0)
    plan.sent(taken(plan, 2.0), 2.0)
    plan.note(happening("disk full", "ephys"), 3.0, 1003.0)
    assert taken(plan, 5.0).what == "ephys: disk full"


def test_the_same_text_is_told_once_whatever_it_is_called(plan: Plan) -> None:
    plan.note(happening("ffmpeg ended by itself"), 0.0, 1000.0)
    plan.note(happening("ffmpeg ended by itself", on="lost"), 0.1, 1000.1)
    assert taken(plan, 2.0).what == "cameras: ffmpeg ended by itself"
    assert plan.is_idle
    plan.note(happening("ffmpeg ended by itself", on="lost"), INTERVAL + 1, 1100.0)
    assert taken(plan, INTERVAL + 3).on == "lost"


def test_a_full_disk_is_a_failure_where_nobody_asks_for_it_by_name() -> None:
    low = Happening("disk low", ("cameras",), "nearly full", None)
    for on, told in ((("failure",), "failure"), (("failure", "disk low"), "disk low"), (("lost",), None)):
        plan = Plan(on, Random(1))
        plan.note(low, 0.0, 1000.0)
        message = plan.take(GATHER)
        assert (message.on if message else None) == told


def test_it_is_tried_again_later_and_later_and_given_up(plan: Plan) -> None:
    plan.note(happening(), 0.0, 1000.0)
    now, waits = GATHER, []
    while True:
        message = taken(plan, now)
        wait = plan.failed(message, now, for_good=False)
        if wait is None:
            break
        waits.append(wait)
        assert plan.take(now + 0.9 * wait) is None
        now += wait
    assert (message.tries, len(waits)) == (TRIES, TRIES - 1)
    assert 2 <= waits[0] <= 3
    assert 64 <= waits[5] <= 120
    assert plan.is_idle


def test_what_cannot_be_told_at_all_is_not_tried_again(plan: Plan) -> None:
    plan.note(happening(), 0.0, 1000.0)
    assert plan.failed(taken(plan, GATHER), GATHER, for_good=True) is None
    assert plan.is_idle


def test_what_happens_meanwhile_joins_what_is_tried_again(plan: Plan) -> None:
    plan.note(happening("one", "left"), 0.0, 1000.0)
    message = taken(plan, 1.0)
    plan.note(happening("two", "right"), 1.5, 1001.5)
    assert (wait := plan.failed(message, 2.0, for_good=False))
    assert taken(plan, 2.0 + wait).what == "left: one; right: two"
    assert plan.is_idle


def test_at_the_end_all_that_waits_is_tried_once(plan: Plan) -> None:
    plan.note(happening("one"), 0.0, 1000.0)
    plan.sent(taken(plan, 1.0), 1.0)
    plan.note(happening("two"), 2.0, 1002.0)
    plan.note(happening("lost", on="lost"), 2.0, 1002.0)
    plan.end(2.0)
    told = [taken(plan, 2.0), taken(plan, 2.0)]
    assert {message.what for message in told} == {"cameras: two", "cameras: lost"}
    assert plan.failed(told[0], 2.0, for_good=False) is None
    assert plan.is_idle


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=200))
def test_no_cause_is_told_twice_within_a_minute_and_nothing_more_than_has_happened(
    steps: list[tuple[float, str, int, bool]],
) -> None:
    plan, now, noted = Plan(("failure",), Random(2)), 0.0, 0
    told: dict[tuple[str, ...], float] = {}
    counted = 0
    for pause, rig, text, works in [*steps, *[(INTERVAL, "", 0, True)] * 4]:
        now += pause
        if rig:
            plan.note(happening(str(text), rig), now, now)
            noted += 1
        while message := plan.take(now):
            assert len(message.lines) <= MOST_LINES
            if not works and plan.failed(message, now, for_good=False) is not None:
                continue
            for rigs in {line.rigs for line in message.lines}:
                assert now >= told.get(rigs, -math.inf) + INTERVAL - 1e-6
                told[rigs] = now
            plan.sent(message, now)
            counted += len(message.lines) + message.held_back
    assert plan.is_idle
    assert counted <= noted
