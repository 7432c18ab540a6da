"""What a rig remembers of its coordinators, under floods of forged ones."""

from __future__ import annotations

import math
from random import Random

import pytest

from rigsync.core.coordinators import COORDINATORS, KEPT_BYTES, RECORDS, WATCHERS, Coordinators, Filter
from rigsync.core.timing import Timing
from rigsync.errors import RemoteProtocolError

REAL = "a" * 16
OTHER = "b" * 16
SOURCE = ("10.0.0.1", 50_000)


def forged(number: int) -> str:
    return f"{number:016x}"


def flood(coordinators: Coordinators, count: int, answer: bytes | None = b"done", first: int = 0) -> None:
    """Have forged coordinators send a request each, which is answered."""
    for number in range(first, first + count):
        coordinator = coordinators.seen(forged(number), ("10.0.0.9", number), 1.0)
        assert coordinator
        record = coordinator.open_record(1, SOURCE)
        if answer:
            record.keep(answer)


def test_a_flood_of_probes_does_not_push_out_whoever_has_asked_for_something() -> None:
    coordinators = Coordinators(Timing(), Random(0))
    record = coordinators.seen(REAL, SOURCE, 0.0).open_record(1, SOURCE)
    record.keep(b"done")
    for number in range(3 * COORDINATORS):
        coordinators.seen(forged(number), ("10.0.0.9", number), 1.0)
    assert coordinators.seen(REAL, SOURCE, 2.0).records == {1: record}


def test_a_flood_of_requests_does_not_push_out_whoever_waits_for_an_answer() -> None:
    coordinators = Coordinators(Timing(), Random(0))
    record = coordinators.seen(REAL, SOURCE, 0.0).open_record(1, SOURCE)
    for number in range(3 * COORDINATORS):
        coordinators.seen(forged(number), ("10.0.0.9", number), 1.0).open_record(1, SOURCE).keep(b"done")
    assert coordinators.seen(REAL, SOURCE, 2.0).records == {1: record}


def test_the_number_of_answers_kept_is_bounded() -> None:
    coordinator = Coordinators(Timing(), Random(0)).seen(REAL, SOURCE, 0.0)
    for n in range(1, 3 * RECORDS):
        coordinator.open_record(n, SOURCE).keep(b"done")
    assert len(coordinator.records) == RECORDS
    assert coordinator.kept_bytes == 4 * RECORDS


def test_the_bytes_of_answers_kept_are_bounded() -> None:
    coordinator = Coordinators(Timing(), Random(0)).seen(REAL, SOURCE, 0.0)
    for n in range(1, 100):
        coordinator.open_record(n, SOURCE).keep(bytes(60_000))
    assert sum(len(record.frame or b"") for record in coordinator.records.values()) == coordinator.kept_bytes
    assert coordinator.kept_bytes <= KEPT_BYTES + 60_000
    assert 99 in coordinator.records
    full = Coordinators(Timing(), Random(0)).seen(REAL, SOURCE, 0.0)
    for n in (1, 2):
        full.open_record(n, SOURCE).keep(bytes(KEPT_BYTES // 2))
    assert list(full.records) == [1, 2]


def test_a_coordinator_does_not_change_its_host() -> None:
    coordinators = Coordinators(Timing(), Random(0))
    coordinators.seen(REAL, SOURCE, 0.0)
    with pytest.raises(RemoteProtocolError, match="forged source"):
        coordinators.seen(REAL, ("10.0.0.2", 50_000), 1.0)


def test_the_one_in_charge_is_not_pushed_out_by_a_flood() -> None:
    coordinators = watched(*[forged(10**6 + number) for number in range(WATCHERS)])
    owner = coordinators.seen(REAL, SOURCE, 0.0)
    assert owner
    record = owner.open_record(1, SOURCE)
    record.keep(b"done")
    coordinators.watch(REAL, 0.0, certainly=True)
    flood(coordinators, 3 * COORDINATORS)
    assert coordinators.seen(REAL, SOURCE, 2.0) is owner
    assert owner.records == {1: record}


def test_of_all_that_were_ever_pushed_out_no_request_is_run_again() -> None:
    coordinators = Coordinators(Timing(), Random(0))
    first = coordinators.seen(REAL, SOURCE, 0.0)
    assert first
    first.open_record(7, SOURCE).keep(b"done")
    flood(coordinators, 68_000)
    back = coordinators.seen(REAL, SOURCE, 2.0)
    assert back
    assert back.is_spent
    flood(coordinators, 2 * COORDINATORS, first=10**6)
    again = coordinators.seen(REAL, SOURCE, 3.0)
    assert again
    assert again is not back
    assert again.is_spent
    newcomer = coordinators.seen(OTHER, SOURCE, 4.0)
    assert newcomer
    assert not newcomer.is_spent


def test_where_nobody_may_be_forgotten_another_one_is_not_taken_in() -> None:
    coordinators = Coordinators(Timing(), Random(0))
    flood(coordinators, COORDINATORS, answer=None)
    assert coordinators.seen(REAL, SOURCE, 2.0) is None
    coordinators.watch(REAL, 2.0)
    assert coordinators.watching(2.0) == []


def test_the_filter_knows_all_that_it_was_given_and_few_others() -> None:
    known = Filter()
    assert REAL not in known
    for number in range(20_000):
        known.add(forged(number))
    assert all(forged(number) in known for number in range(20_000))
    assert not any(forged(10**6 + number) in known for number in range(20_000))


def test_a_coordinator_that_was_pushed_out_has_none_of_its_requests_run_again() -> None:
    coordinators = Coordinators(Timing(), Random(0))
    coordinators.seen(REAL, SOURCE, 0.0).open_record(7, SOURCE).keep(b"done")
    for number in range(3 * COORDINATORS):
        coordinators.seen(forged(number), ("10.0.0.9", number), 1.0).open_record(1, SOURCE).keep(b"done")
    back = coordinators.seen(REAL, SOURCE, 2.0)
    assert (back.records, back.highest) == ({}, 7)


# ---------------------------------------------------------------------------------------------------- who gets notices


def watched(*boots: str, now: float = 0.0) -> Coordinators:
    """Return coordinators that have probed, each from a port of its own."""
    coordinators = Coordinators(Timing(), Random(0))
    for port, boot in enumerate(boots):
        coordinators.seen(boot, ("10.0.0.1", port), now)
        coordinators.watch(boot, now)
    return coordinators


def test_only_who_watches_is_told() -> None:
    coordinators = watched(REAL)
    coordinators.seen(forged(1), ("10.0.0.9", 1), 0.0)
    assert coordinators.watching(0.0) == [(("10.0.0.1", 0), REAL)]
    assert [known.host for known in coordinators.file_notice(1, b"1", 0.0)] == ["10.0.0.1"]


def test_who_begins_to_watch_is_a_newcomer_once() -> None:
    coordinators = watched(REAL, forged(1))
    coordinators.watch(REAL, 1.0)
    assert [known.boot for known in coordinators.newcomers] == [REAL, forged(1)]


def test_those_heard_within_5_beats_are_told_but_for_one() -> None:
    coordinators = watched(REAL, forged(1), forged(2))
    coordinators.seen(forged(2), ("10.0.0.1", 77), 3.0)  # from another port now
    assert coordinators.watching(5.0, except_for=REAL) == [(("10.0.0.1", 1), forged(1)), (("10.0.0.1", 77), forged(2))]
    assert coordinators.watching(5.1) == [(("10.0.0.1", 77), forged(2))]
    assert coordinators.watching(8.1) == []


def test_at_most_64_watch_and_who_was_silent_for_two_minutes_makes_room() -> None:
    assert WATCHERS == 64
    coordinators = watched(*[forged(number) for number in range(WATCHERS)])
    coordinators.seen(REAL, SOURCE, 100.0)
    coordinators.watch(REAL, 100.0)
    assert coordinators.watching(100.0) == []
    coordinators.seen(REAL, SOURCE, 121.0)
    coordinators.watch(REAL, 121.0)
    assert coordinators.watching(121.0) == [(SOURCE, REAL)]


def test_a_notice_waits_for_who_is_silent_for_up_to_two_minutes() -> None:
    coordinators = watched(REAL)
    assert len(coordinators.file_notice(1, b"1", 120.0)) == 1
    assert coordinators.due(120.0) == []  # it has to be heard first
    assert coordinators.next_timer() == math.inf
    coordinator = coordinators.seen(REAL, ("10.0.0.1", 0), 150.0)
    assert coordinators.due(150.0) == [coordinator]
    assert coordinator.notices.send(150.0) == b"1"
    assert coordinators.next_timer() > 150.0
    assert coordinators.file_notice(2, b"2", 271.0) == []  # silent for too long: forgotten with all that waits
    assert len(coordinator.notices) == 0


def test_who_has_said_goodbye_is_told_nothing_more() -> None:
    coordinators = watched(REAL)
    coordinators.file_notice(1, b"1", 0.0)
    assert not coordinators.leave(REAL, ("10.0.0.2", 0))
    assert not coordinators.leave(forged(1), ("10.0.0.1", 0))
    assert len(coordinators.due(0.0)) == 1
    assert coordinators.leave(REAL, ("10.0.0.1", 5))
    assert coordinators.due(0.0) == []
    assert coordinators.watching(0.0) == []
    assert coordinators.next_timer() == math.inf


def test_only_its_own_coordinator_acknowledges_a_notice() -> None:
    coordinators = watched(REAL, forged(1))
    coordinator = coordinators.file_notice(1, b"1", 0.0)[0]
    coordinator.notices.send(0.0)
    assert not coordinators.acknowledge(REAL, 1, ("10.0.0.2", 0), 0.1)
    assert not coordinators.acknowledge(forged(2), 1, ("10.0.0.1", 0), 0.1)
    assert coordinators.acknowledge(forged(1), 1, ("10.0.0.1", 1), 0.1)
    assert len(coordinator.notices) == 1
    assert coordinators.acknowledge(REAL, 1, ("10.0.0.1", 99), 0.1)
    assert len(coordinator.notices) == 0


def test_who_watches_is_not_pushed_out_by_a_flood() -> None:
    coordinators = watched(REAL)
    (watcher,) = coordinators.file_notice(1, b"1", 0.0)
    watcher.open_record(7, SOURCE).keep(b"done")
    flood(coordinators, 2 * COORDINATORS)
    assert coordinators.due(1.0) == [watcher]
    assert coordinators.seen(REAL, ("10.0.0.1", 0), 1.0) is watcher
    assert watcher.records
