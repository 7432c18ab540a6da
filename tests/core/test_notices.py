"""What rigs tell of their own accord: which notices a coordinator has not had, and when a rig sends them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigsync.core.messages import Notice
from rigsync.core.notices import KEPT, KEYS, NoticeFilter, NoticeQueue
from rigsync.core.timing import Timing

from .support import RIG, Fixed


def notice(n: int, *, topic: str = "log", key: str | None = None, confirm: bool = True) -> Notice:
    return Notice(RIG, n, topic, key, None, confirm)


# ------------------------------------------------------------------------------------------------- coordinator


def test_a_confirmed_notice_is_new_once() -> None:
    notices = NoticeFilter()
    assert [notices.is_new(notice(n)) for n in (1, 1, 2, 1, 2, 7, 7, 6)] == [
        *(True, False, True, False),
        *(False, True, False, False),
    ]


def test_the_first_number_may_be_0() -> None:
    assert NoticeFilter().is_new(notice(0))
    assert NoticeFilter().is_new(notice(0, confirm=False))


def test_a_confirmed_notice_is_not_superseded_by_another_of_its_topic_and_key() -> None:
    notices = NoticeFilter()
    assert all(notices.is_new(notice(n, topic="progress", key="trial")) for n in range(1, 10))


def test_of_those_not_confirmed_an_older_one_of_the_same_topic_and_key_is_not_told_after_a_newer() -> None:
    notices = NoticeFilter()
    assert [notices.is_new(notice(n, confirm=False)) for n in (1, 3, 2, 3, 4)] == [True, True, False, False, True]


@pytest.mark.parametrize(
    ("topic", "key"), [("log", "a"), ("log", ""), ("progress", None), ("progress", "a"), ("", None)]
)
def test_one_of_another_topic_or_key_supersedes_nothing(topic: str, key: str | None) -> None:
    notices = NoticeFilter()
    assert notices.is_new(notice(9, confirm=False))
    assert notices.is_new(notice(5, topic=topic, key=key, confirm=False))


def test_confirmed_ones_and_others_do_not_hold_each_other_up() -> None:
    notices = NoticeFilter()
    assert notices.is_new(notice(5, confirm=False))
    assert notices.is_new(notice(3))  # sent again, and late
    assert notices.is_new(notice(6))
    assert notices.is_new(notice(4, key="other", confirm=False))
    assert not notices.is_new(notice(4, confirm=False))


def test_the_topics_and_keys_that_are_remembered_are_bounded_and_the_longest_unused_goes_first() -> None:
    notices = NoticeFilter()
    for n in range(KEYS):
        notices.is_new(notice(n + 10, key=str(n), confirm=False))
    assert not notices.is_new(notice(1, key="0", confirm=False))  # still remembered, and used again by that
    notices.is_new(notice(5000, key="one more", confirm=False))
    assert len(notices._newest) == KEYS
    assert not notices.is_new(notice(1, key="0", confirm=False))
    assert notices.is_new(notice(1, key="1", confirm=False))


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["a", "b"]), st.booleans())))
def test_what_is_told_of_one_sort_is_in_order_and_once(arrived: list[tuple[int, str, bool]]) -> None:
    notices = NoticeFilter()
    told: dict[Any, list[int]] = {}
    for n, key, confirm in arrived:
        if notices.is_new(notice(n, key=key, confirm=confirm)):
            told.setdefault(key if not confirm else None, []).append(n)
    for numbers in told.values():
        assert numbers == sorted(set(numbers))


# --------------------------------------------------------------------------------------------------------- rig


@pytest.fixture
def queue() -> NoticeQueue:
    return NoticeQueue(Timing(), Fixed())


def test_nothing_is_due_before_there_is_one(queue: NoticeQueue) -> None:
    assert (len(queue), queue.due) == (0, math.inf)


def test_the_first_is_due_at_once_and_the_next_when_it_has_been_acknowledged(queue: NoticeQueue) -> None:
    for n in (4, 5, 6):
        queue.add(n, b"%d" % n, 10.0 + n)
    assert queue.due == 14.0
    assert queue.send(14.0) == b"4"
    assert queue.due > 14.0
    queue.acknowledge(4, 14.02)
    assert queue.due == 14.02
    assert queue.send(14.02) == b"5"
    queue.acknowledge(5, 14.03)
    assert queue.send(14.03) == b"6"
    queue.acknowledge(6, 14.04)
    assert (len(queue), queue.due) == (0, math.inf)
    queue.add(7, b"7", 20.0)
    assert queue.due == 20.0


def test_one_that_is_not_acknowledged_is_sent_again_with_back_off(queue: NoticeQueue) -> None:
    queue.add(1, b"1", 0.0)
    waits, now = [], 0.0
    for _ in range(6):
        assert queue.send(now) == b"1"
        waits.append(queue.due - now)
        now = queue.due
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_a_round_trip_is_measured_where_it_was_sent_once_only(queue: NoticeQueue) -> None:
    queue.add(1, b"1", 0.0)
    queue.send(0.0)
    queue.acknowledge(1, 0.2)
    queue.add(2, b"2", 1.0)
    queue.send(1.0)
    assert queue.due - 1.0 == pytest.approx(0.2 + 4 * 0.1)
    queue.send(queue.due)
    queue.acknowledge(2, 50.0)  # to the first or to the second: not to be told (Karn's rule)
    queue.add(3, b"3", 60.0)
    queue.send(60.0)
    assert queue.due - 60.0 == pytest.approx(0.2 + 4 * 0.1)


def test_after_a_copy_whose_round_trip_says_nothing_the_next_is_measured_again(queue: NoticeQueue) -> None:
    queue.add(1, b"one", 0.0)
    queue.send(0.0)
    queue.pause()
    queue.resume(5.0)
    queue.send(5.0)
    queue.acknowledge(1, 5.2)  # to the first or to the second
    queue.add(2, b"two", 6.0)
    queue.send(6.0)
    queue.acknowledge(2, 6.2)
    queue.add(3, b"three", 7.0)
    queue.send(7.0)
    assert queue.due == pytest.approx(7.0 + 0.2 + 4 * 0.1)


def test_what_waits_takes_its_bytes_and_300_more_each(queue: NoticeQueue) -> None:
    for n in (1, 2, 3):
        queue.add(n, bytes(1000), 0.0)
    assert queue.size == 3 * 1300
    queue.send(0.0)
    queue.acknowledge(1, 0.1)
    assert queue.size == 2 * 1300
    queue.clear()
    assert queue.size == 0


def test_the_next_begins_the_back_off_anew(queue: NoticeQueue) -> None:
    queue.add(1, b"1", 0.0)
    queue.add(2, b"2", 0.0)
    for now in (0.0, 0.1, 0.3, 0.7):
        queue.send(now)
    queue.acknowledge(1, 0.8)
    queue.send(0.8)
    assert queue.due == pytest.approx(0.9)


@pytest.mark.parametrize("n", [0, 2, 3, 2**63 - 1])
def test_an_acknowledgement_of_another_means_nothing(queue: NoticeQueue, n: int) -> None:
    queue.add(1, b"1", 0.0)
    queue.add(2, b"2", 0.0)
    queue.send(0.0)
    queue.acknowledge(n, 0.01)
    assert len(queue) == 2
    assert queue.send(1.0) == b"1"


def test_an_acknowledgement_of_what_has_not_been_sent_means_nothing(queue: NoticeQueue) -> None:
    queue.acknowledge(1, 0.0)
    queue.add(1, b"1", 0.0)
    queue.acknowledge(1, 0.0)
    assert (len(queue), queue.due) == (1, 0.0)


def test_a_second_acknowledgement_means_nothing(queue: NoticeQueue) -> None:
    queue.add(1, b"1", 0.0)
    queue.add(2, b"2", 0.0)
    queue.send(0.0)
    queue.acknowledge(1, 0.01)
    queue.acknowledge(1, 0.02)
    assert queue.send(0.02) == b"2"


def test_a_pause_keeps_all_and_the_first_is_sent_at_once_when_it_ends(queue: NoticeQueue) -> None:
    for n in (1, 2):
        queue.add(n, b"%d" % n, 0.0)
    for now in (0.0, 0.1, 0.3, 0.7):
        queue.send(now)
    queue.pause()
    assert queue.due == math.inf
    queue.add(3, b"3", 20.0)
    assert queue.due == math.inf
    queue.resume(60.0)
    assert (queue.due, len(queue)) == (60.0, 3)
    assert queue.send(60.0) == b"1"
    assert queue.due == pytest.approx(60.1)  # with the back-off begun anew: the link is back


def test_the_end_of_a_pause_that_was_none_changes_nothing(queue: NoticeQueue) -> None:
    queue.resume(5.0)
    assert queue.due == math.inf
    queue.add(1, b"1", 6.0)
    queue.send(6.0)
    queue.resume(6.05)
    assert queue.due == pytest.approx(6.1)


def test_an_acknowledgement_that_comes_during_a_pause_counts(queue: NoticeQueue) -> None:
    queue.add(1, b"1", 0.0)
    queue.add(2, b"2", 0.0)
    queue.send(0.0)
    queue.pause()
    queue.acknowledge(1, 30.0)
    queue.resume(30.0)
    assert queue.send(30.0) == b"2"


def test_all_can_be_forgotten(queue: NoticeQueue) -> None:
    queue.add(1, b"1", 0.0)
    queue.add(2, b"2", 0.0)
    queue.send(0.0)
    queue.clear()
    assert (len(queue), queue.due) == (0, math.inf)
    queue.acknowledge(1, 0.1)
    queue.resume(0.2)
    assert queue.due == math.inf
    queue.add(3, b"3", 1.0)
    assert queue.send(1.0) == b"3"


def test_beyond_so_many_bytes_the_oldest_are_given_up(queue: NoticeQueue) -> None:
    for n in range(10):
        queue.add(n, bytes(1 << 20), 0.0)
    assert queue.overflowed
    assert queue.rest() == [bytes(1 << 20)] * 4
    queue.clear()
    for n in range(4):
        queue.add(n, bytes(1 << 20), 0.0)
    assert len(queue) == 4


def test_beyond_so_many_the_oldest_but_the_one_under_way_is_given_up(
    queue: NoticeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 256
    monkeypatch.setattr("rigsync.core.notices.WAITING", most)
    for n in range(most):
        queue.add(n, b"%d" % n, 0.0)
    queue.send(0.0)
    assert not queue.overflowed
    for n in range(most, most + 3):
        queue.add(n, b"%d" % n, 0.0)
    assert queue.overflowed
    assert len(queue) == most
    came = []
    for n in [0, *range(4, most + 3)]:
        came.append(queue.send(1.0))
        queue.acknowledge(n, 1.0)
    assert came == [b"%d" % n for n in [0, *range(4, most + 3)]]
    assert len(queue) == 0


def test_what_is_given_up_beside_the_one_under_way_is_told(queue: NoticeQueue) -> None:
    queue.add(1, b"1", 0.0)
    assert not queue.give_up()
    assert not queue.overflowed
    queue.add(2, b"2", 0.0)
    assert queue.give_up()
    assert queue.overflowed
    assert queue.rest() == [b"1"]


def test_the_newest_word_on_something_takes_the_place_of_one_that_waits(queue: NoticeQueue) -> None:
    for n, of in enumerate(["a", "b", None, "a", "b", "a", None]):
        queue.add(n, b"%d" % n, 0.0, of)
    assert queue.rest() == [b"0", b"2", b"4", b"5", b"6"]  # the first is under way
    queue.take_back("a")
    queue.take_back("c")
    assert queue.rest() == [b"0", b"2", b"4", b"6"]
    came = []
    while len(queue):
        came.append(int(queue.send(1.0)))
        queue.acknowledge(came[-1], 1.0)
    assert came == [0, 2, 4, 6]
    assert (queue._newest, queue._bytes) == ({}, 0)


def test_one_that_was_given_up_is_not_taken_out_again(queue: NoticeQueue) -> None:
    for n in range(5):
        queue.add(n, bytes(1 << 20), 0.0, n)
    assert queue.overflowed
    queue.add(9, b"", 0.0, 1)
    assert len(queue) == 5


def test_they_wait_for_longer_than_a_partition_that_heals_by_itself() -> None:
    assert KEPT == 120.0


STEPS = st.lists(
    st.sampled_from(["add", "add", "send", "send", "lose", "ack", "ack late", "pause", "resume"]), max_size=120
)


@given(STEPS)
def test_over_any_network_each_is_told_once_and_in_order(steps: list[str]) -> None:
    queue, told, now, added = NoticeQueue(Timing(), Fixed()), NoticeFilter(), 0.0, 0
    heard: list[int] = []
    acknowledged: list[int] = []

    def send(lost: bool) -> None:
        n = int(queue.send(now))
        if not lost:
            if told.is_new(notice(n)):
                heard.append(n)
            acknowledged.append(n)

    for step in [*steps, "resume"]:
        now += 0.5
        if step == "add":
            added += 1
            queue.add(added, b"%d" % added, now)
        elif step in ("send", "lose") and queue.due <= now:
            send(step == "lose")
        elif step.startswith("ack") and acknowledged:
            queue.acknowledge(acknowledged[0 if step == "ack late" else -1], now)
        elif step == "pause":
            queue.pause()
        elif step == "resume":
            queue.resume(now)
    while len(queue):
        now = max(now, queue.due)
        send(False)
        queue.acknowledge(acknowledged[-1], now)
    assert heard == list(range(1, added + 1))
