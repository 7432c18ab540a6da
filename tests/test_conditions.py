from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_helpers import in_thread
from processes import LONG, until

from rigsync.runtime.conditions import Arrivals, Latch

FOREVER = 3 * LONG
"""Seconds for waits of which the end by time-out would be too late."""
SHORT = 0.02
"""Seconds for waits that are to end by time-out."""


def waiting(condition: Latch | Arrivals) -> int:
    return len(condition._waiting)


def acquired(condition: Latch | Arrivals, times: int) -> None:
    for _ in range(times):
        condition.acquire()


def released(condition: Latch | Arrivals, times: int) -> None:
    """Release it, which fails unless the thread holds it exactly so many times."""
    for _ in range(times):
        condition.release()
    assert not condition._is_owned()


def tell(condition: Latch | Arrivals) -> None:
    condition.set() if isinstance(condition, Latch) else condition.announce()


both = pytest.mark.parametrize("kind", [Latch, Arrivals])
held = pytest.mark.parametrize("times", [0, 1, 3])


# ------------------------------------------------------------------------------------------------ what both share


@both
def test_is_a_condition(kind: type) -> None:
    condition = kind()
    assert isinstance(condition, threading.Condition)
    with condition:
        assert not in_thread(condition.acquire, False).result(LONG)
    assert not condition.is_set()


@both
@held
def test_wait_releases_the_lock_and_has_it_again_as_often_as_before(kind: type, times: int) -> None:
    condition = kind()

    def wait() -> bool:
        acquired(condition, times)
        woken = condition.wait(FOREVER)
        released(condition, times)
        return woken

    waiter = in_thread(wait)
    until(lambda: waiting(condition) == 1)
    assert condition.acquire(timeout=LONG)
    tell(condition)
    if times:
        assert not waiter.done()  # it has to have the lock again first
    condition.release()
    assert waiter.result(LONG) is True


@both
@held
def test_wait_times_out_with_the_lock_as_before(kind: type, times: int) -> None:
    condition = kind()
    acquired(condition, times)
    start = time.monotonic()
    assert condition.wait(SHORT) is False
    assert time.monotonic() - start >= SHORT * 0.9
    assert condition.wait(0) is False
    assert condition.wait(-1) is False
    released(condition, times)


@both
@held
def test_late_waiter_returns_at_once(kind: type, times: int) -> None:
    condition = kind()
    tell(condition)
    acquired(condition, times)
    assert condition.is_set()
    assert condition.wait() is True
    released(condition, times)


@both
def test_announcing_does_not_wait_for_the_users_lock(kind: type) -> None:
    condition = kind()
    waiter = in_thread(condition.wait, FOREVER)
    until(lambda: waiting(condition) == 1)
    with condition:
        in_thread(tell, condition).result(LONG)
        assert waiter.result(LONG) is True


@both
def test_announcing_wakes_all(kind: type) -> None:
    condition = kind()
    waiters = [in_thread(condition.wait, FOREVER) for _ in range(4)]
    until(lambda: waiting(condition) == 4)
    tell(condition)
    assert all(waiter.result(LONG) for waiter in waiters)


@both
def test_notify_needs_the_lock(kind: type) -> None:
    condition = kind()
    for notify in (condition.notify, condition.notify_all):
        with pytest.raises(RuntimeError, match="un-acquired"):
            notify()
    assert not condition.is_set()


@both
@held
def test_notify_all_wakes_all(kind: type, times: int) -> None:
    condition = kind()

    def wait() -> bool:
        acquired(condition, times)
        woken = condition.wait(FOREVER)
        released(condition, times)
        return woken

    waiters = [in_thread(wait) for _ in range(3)]
    until(lambda: waiting(condition) == 3)
    with condition:
        condition.notify_all()
    assert all(waiter.result(LONG) for waiter in waiters)


@both
def test_no_notification_is_lost_between_lock_and_wait(kind: type) -> None:
    condition = kind()
    items: list[int] = []
    count = 2000

    def consume() -> list[int]:
        got: list[int] = []
        while len(got) < count:
            with condition:
                while not items:
                    assert condition.wait(LONG)
                got.append(items.pop())
                condition.notify()
        return got

    def produce() -> None:
        for item in range(count):
            with condition:
                while items:
                    assert condition.wait(LONG)
                items.append(item)
                condition.notify()

    consumer, producer = in_thread(consume), in_thread(produce)
    producer.result(LONG * 3)
    assert consumer.result(LONG) == list(range(count))


@both
@held
def test_wait_for_sees_what_came_before(kind: type, times: int) -> None:
    condition = kind()
    tell(condition)
    acquired(condition, times)
    assert condition.wait_for(lambda: "value") == "value"
    released(condition, times)


@both
@held
def test_wait_for_is_woken_when_the_predicate_comes_true(kind: type, times: int) -> None:
    condition = kind()
    values: list[str] = []
    owned: list[bool] = []

    def predicate() -> list[str]:
        owned.append(condition._is_owned())
        return values

    def wait() -> list[str]:
        acquired(condition, times)
        value: list[str] = condition.wait_for(predicate, FOREVER)
        released(condition, times)
        return value

    waiter = in_thread(wait)
    until(lambda: waiting(condition) == 1)
    tell(condition)  # of something else
    until(lambda: len(owned) == 2 and waiting(condition) == 1)
    values.append("value")
    tell(condition)
    assert waiter.result(LONG) is values
    assert set(owned) == {times > 0}


@both
def test_wait_for_does_not_miss_what_happens_while_the_predicate_is_evaluated(kind: type) -> None:
    condition = kind()
    evaluations: list[None] = []

    def predicate() -> bool:
        evaluations.append(None)
        if len(evaluations) == 1:
            tell(condition)
            return False
        return True

    assert in_thread(condition.wait_for, predicate, FOREVER).result(LONG) is True
    assert len(evaluations) == 2


@both
@held
def test_wait_for_does_not_spin_and_times_out(kind: type, times: int) -> None:
    condition = kind()
    tell(condition)  # with which wait() returns at once
    evaluations: list[None] = []
    acquired(condition, times)
    assert condition.wait_for(lambda: evaluations.append(None), 5 * SHORT) is None
    assert len(evaluations) == 2
    assert condition.wait_for(lambda: 0, 0) == 0
    released(condition, times)


@both
def test_wait_for_is_woken_by_a_users_notify(kind: type) -> None:
    condition = kind()
    values: list[int] = []
    waiter = in_thread(condition.wait_for, lambda: bool(values), FOREVER)
    until(lambda: waiting(condition) == 1)
    with condition:
        values.append(1)
        condition.notify()
    assert waiter.result(LONG) is True


# ---------------------------------------------------------------------------------------------------------- Latch


def test_latch_holds_until_unset() -> None:
    latch = Latch()
    latch.set()
    latch.set()
    assert latch.wait()
    assert latch.wait()
    latch.unset()
    assert not latch.is_set()
    assert not latch.wait(SHORT)
    latch.unset()
    latch.set()
    assert latch.wait()


def test_latch_unset_at_once_has_still_woken_its_waiters() -> None:
    latch = Latch()
    for _ in range(50):
        waiter = in_thread(latch.wait, FOREVER)
        until(lambda: waiting(latch) == 1)
        latch.set()
        latch.unset()
        assert waiter.result(LONG) is True


def test_latch_unset_does_not_wake_wait() -> None:
    latch = Latch()
    waiter = in_thread(latch.wait, FOREVER)
    until(lambda: waiting(latch) == 1)
    before = next(iter(latch._waiting))
    latch.unset()
    until(lambda: waiting(latch) == 1 and next(iter(latch._waiting), before) is not before)
    assert not waiter.done()
    latch.set()
    assert waiter.result(LONG) is True


def test_latch_unset_wakes_wait_for() -> None:
    latch = Latch()
    latch.set()
    waiter = in_thread(latch.wait_for, lambda: not latch.is_set(), FOREVER)
    until(lambda: waiting(latch) == 1)
    latch.unset()
    assert waiter.result(LONG) is True


def test_latch_unset_does_not_wait_for_the_users_lock() -> None:
    latch = Latch()
    latch.set()
    with latch:
        in_thread(latch.unset).result(LONG)
    assert not latch.is_set()


def test_latch_notify_wakes_as_many_as_asked_for_and_sets_nothing() -> None:
    latch = Latch()
    waiters = [in_thread(latch.wait, FOREVER) for _ in range(3)]
    until(lambda: waiting(latch) == 3)
    with latch:
        latch.notify()
    until(lambda: sum(waiter.done() for waiter in waiters) == 1)
    with latch:
        latch.notify(n=1)
    until(lambda: sum(waiter.done() for waiter in waiters) == 2)
    assert waiting(latch) == 1
    assert not latch.is_set()
    assert not latch.wait(0)
    latch.set()
    assert all(waiter.result(LONG) for waiter in waiters)


# ------------------------------------------------------------------------------------------------------- Arrivals


def test_arrivals_wait_once_for_what_has_happened() -> None:
    arrivals = Arrivals()
    arrivals.announce()
    arrivals.announce()
    assert arrivals.wait()
    assert not arrivals.is_set()
    assert not arrivals.wait(SHORT)


def test_arrivals_of_each_thread() -> None:
    arrivals = Arrivals()
    arrivals.announce()
    assert arrivals.wait(0)

    def other() -> tuple[bool, bool, bool]:
        return arrivals.is_set(), arrivals.wait(0), arrivals.wait(0)

    assert in_thread(other).result(LONG) == (True, True, False)  # it has done nothing before, so sees everything
    assert not arrivals.wait(0)
    arrivals.announce()
    assert arrivals.is_set()


@pytest.mark.parametrize("name", ["mark", "clear"])
def test_arrivals_mark_is_for_the_calling_thread_only(name: str) -> None:
    arrivals = Arrivals()
    arrivals.announce()
    assert in_thread(lambda: (getattr(arrivals, name)(), arrivals.wait(0))).result(LONG) == (None, False)
    assert arrivals.is_set()
    getattr(arrivals, name)()
    assert not arrivals.is_set()
    assert not arrivals.wait(0)
    arrivals.announce()
    assert arrivals.wait(0)


def test_arrivals_between_mark_and_wait_are_not_missed() -> None:
    arrivals = Arrivals()
    arrivals.mark()
    in_thread(arrivals.announce).result(LONG)
    assert arrivals.wait()


def test_arrivals_wait_for_leaves_what_is_seen_alone() -> None:
    arrivals = Arrivals()
    arrivals.announce()
    assert arrivals.wait_for(lambda: True)
    assert arrivals.is_set()


@pytest.mark.parametrize("name", ["notify", "notify_all"])
def test_arrivals_notify_is_an_announcement(name: str) -> None:
    arrivals = Arrivals()
    waiters = [in_thread(arrivals.wait, FOREVER) for _ in range(3)]
    until(lambda: waiting(arrivals) == 3)
    with arrivals:
        getattr(arrivals, name)()
    assert all(waiter.result(LONG) for waiter in waiters)
    assert arrivals.wait(0)  # late


@given(st.lists(st.sampled_from(["announce", "notify", "mark", "clear", "wait", "is_set"])))
def test_arrivals_is_set_exactly_where_wait_returns_at_once(steps: list[str]) -> None:
    arrivals = Arrivals()
    news = False
    for step in steps:
        with arrivals:
            result = arrivals.wait(0) if step == "wait" else getattr(arrivals, step)()
        if step in ("wait", "is_set"):
            assert result is news
        news = step in ("announce", "notify") or (news and step == "is_set")
        assert arrivals.is_set() is news
