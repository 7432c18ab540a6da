"""The iblutil dialect: against echoes of echoes (docs/decisions/0004), and how close messages may follow."""

from __future__ import annotations

import sys
from random import Random

import pytest

from rigsync.core.enums import ExpMessage
from rigsync.core.legacy import (
    ARRAY_GAP,
    MOST,
    NULL_MESSAGE,
    PROBE_GAP,
    WINDOW,
    Array,
    EchoGuard,
    Pacing,
    ProbePacing,
    read_array,
)
from rigsync.errors import RemoteProtocolError

DATA = b'[64, 20, {"a": 1}]'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], "without an event"),
        *[([number], "not the number of an ExpMessage") for number in (True, False, None, "1", 1.0, [1])],
        *[([number], "not the number of one ExpMessage") for number in (3, -1, 1 << 70)],
        *[
            ([0, *args], r"an error message is \[0, text, event\]")
            for args in ([], ["x"], [1, 1], ["x", True], ["x", 3], ["x", 1, 2])
        ],
    ],
)
def test_what_is_no_array_of_the_dialect_says_why(content: list[object], told: str) -> None:
    with pytest.raises(RemoteProtocolError, match=told):
        read_array(content)


def test_an_array_is_a_message_or_what_a_callback_raised() -> None:
    assert read_array([1, "x", 2]) == Array(ExpMessage(1), ["x", 2])
    assert read_array([0, "KeyError: 'x'", 1]) == Array(NULL_MESSAGE, ["KeyError: 'x'", ExpMessage(1)])


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


# ------------------------------------------------------------------------------------------- pacing a stream

ARRAY, OTHER, FRAME = b'[4,{"a":1} ]', b"[8,null ]", b'{"rigsync":1}'


def test_a_message_leaves_at_once_on_a_new_connection() -> None:
    assert not Pacing().must_wait(ARRAY, 0.0)
    assert not ProbePacing().must_wait(FRAME, 0.0)


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [(ARRAY, OTHER, True), (ARRAY, FRAME, True), (FRAME, ARRAY, True), (FRAME, FRAME, False)],
)
def test_nothing_follows_a_message_of_the_dialect_closely_and_none_follows_anything(
    first: bytes, second: bytes, waits: bool
) -> None:
    pacing = Pacing()
    pacing.note_sent(first, 100.0)
    assert pacing.must_wait(second, 100.0 + ARRAY_GAP - 1e-6) is waits
    assert not pacing.must_wait(second, pacing.earliest())
    assert pacing.earliest() == 100.0 + ARRAY_GAP


def test_after_its_echo_the_next_message_leaves_at_once() -> None:
    pacing = Pacing()
    pacing.note_sent(ARRAY, 100.0)
    assert pacing.note_received(OTHER) is False
    assert pacing.must_wait(OTHER, 100.0)
    pacing.note_received(ARRAY)
    assert not pacing.must_wait(OTHER, 100.0)


def test_a_large_message_is_known_again_by_its_echo_and_not_kept_for_it() -> None:
    pacing, large = Pacing(), b"[4," + b"1" * (1 << 20) + b"]"
    references = sys.getrefcount(large)
    pacing.note_sent(large, 100.0)
    assert sys.getrefcount(large) == references
    assert pacing.must_wait(FRAME, 100.0)
    pacing.note_received(large[:-2] + b"2]")
    assert pacing.must_wait(FRAME, 100.0)
    pacing.note_received(bytes([*large]))
    assert not pacing.must_wait(FRAME, 100.0)


def test_towards_a_rig_a_message_waits_longer_for_the_answers_to_the_probes_before_it() -> None:
    pacing = ProbePacing()
    for now in (100.0, 100.1):
        pacing.note_sent(FRAME, now)
    assert pacing.earliest() == 100.1 + PROBE_GAP
    assert pacing.must_wait(ARRAY, 100.1 + PROBE_GAP - 1e-6)
    assert not pacing.must_wait(FRAME, 100.1)
    assert [pacing.note_received(FRAME), pacing.note_received(ARRAY)] == [False, False]
    assert pacing.earliest() == 100.1 + PROBE_GAP
    assert pacing.note_received(FRAME) is True  # all are answered
    assert pacing.earliest() == 100.1 + ARRAY_GAP
    assert pacing.note_received(FRAME) is False


def test_a_probe_is_counted_after_a_message_of_the_dialect_too() -> None:
    pacing = ProbePacing()
    pacing.note_sent(ARRAY, 100.0)
    assert pacing.earliest() == 100.0 + ARRAY_GAP
    pacing.note_sent(FRAME, 101.0)
    assert pacing.earliest() == 101.0 + PROBE_GAP
