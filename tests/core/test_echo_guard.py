"""Against echoes of echoes (docs/decisions/0004)."""

from __future__ import annotations

from random import Random

import pytest

from rigsync.core.echo_guard import MOST, WINDOW, EchoGuard

DATA = b'[64, 20, {"a": 1}]'


def test_it_allows_2000_echoes_of_the_same_bytes_in_a_second() -> None:
    guard = EchoGuard()
    assert [guard.allows(DATA, 5.0) for _ in range(2003)] == [True] * 2000 + [False] * 3
    assert (MOST, WINDOW) == (2000, 1.0)


def test_an_exchange_of_echoes_at_full_speed_ends_within_the_window() -> None:
    guard = EchoGuard()
    now = 3.0
    while guard.allows(DATA, now):
        now += 0.0002  # the round trip of a local network
        assert now < 3.0 + WINDOW


def test_a_rig_may_go_on_when_the_window_has_passed() -> None:
    guard = EchoGuard()
    for i in range(MOST + 1):
        guard.allows(DATA, 1.0 + i * 1e-6)
    assert not guard.allows(DATA, 1.0 + WINDOW - 0.001)
    assert all(guard.allows(DATA, 1.0 + WINDOW) for _ in range(MOST))
    assert not guard.allows(DATA, 1.0 + WINDOW)


def test_a_coordinator_that_polls_as_fast_as_it_can_is_allowed() -> None:
    guard = EchoGuard()
    assert all(guard.allows(DATA, i / 1900) for i in range(10_000))


def test_other_bytes_begin_a_new_count() -> None:
    guard = EchoGuard()
    for _ in range(MOST + 1):
        guard.allows(DATA, 0.0)
    assert guard.allows(DATA + b" ", 0.0)
    assert guard.allows(DATA, 0.0)


def test_different_messages_are_never_held_back() -> None:
    guard = EchoGuard()
    assert all(guard.allows(b"[64,%d]" % i, 0.0) for i in range(3 * MOST))


@pytest.mark.parametrize("seed", range(5))
def test_no_more_than_twice_the_most_leave_in_any_second(seed: int) -> None:
    random, guard, now, left = Random(seed), EchoGuard(), 0.0, []
    for _ in range(20_000):
        now += random.expovariate(5000)
        if guard.allows(DATA, now):
            left.append(now)
    assert all(later - earlier >= WINDOW for earlier, later in zip(left, left[2 * MOST :], strict=False))
    assert len(left) > 2 * MOST
