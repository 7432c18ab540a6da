"""What a rig remembers of its coordinators, under floods of forged ones."""

from __future__ import annotations

import pytest

from rigsync.config import Timing
from rigsync.errors import RemoteProtocolError
from rigsync.protocol.coordinators import COORDINATORS, KEPT_BYTES, RECORDS, Coordinators

REAL = "a" * 16
SOURCE = ("10.0.0.1", 50_000)


def forged(number: int) -> str:
    return f"{number:016x}"


def test_a_flood_of_probes_does_not_push_out_whoever_has_asked_for_something() -> None:
    coordinators = Coordinators(Timing())
    record = coordinators.seen(REAL, SOURCE, 0.0).open_record(1, SOURCE)
    record.keep(b"done")
    for number in range(3 * COORDINATORS):
        coordinators.seen(forged(number), ("10.0.0.9", number), 1.0)
    assert coordinators.seen(REAL, SOURCE, 2.0).records == {1: record}


def test_a_flood_of_requests_does_not_push_out_whoever_waits_for_an_answer() -> None:
    coordinators = Coordinators(Timing())
    record = coordinators.seen(REAL, SOURCE, 0.0).open_record(1, SOURCE)
    for number in range(3 * COORDINATORS):
        coordinators.seen(forged(number), ("10.0.0.9", number), 1.0).open_record(1, SOURCE).keep(b"done")
    assert coordinators.seen(REAL, SOURCE, 2.0).records == {1: record}


def test_the_number_of_answers_kept_is_bounded() -> None:
    coordinator = Coordinators(Timing()).seen(REAL, SOURCE, 0.0)
    for n in range(1, 3 * RECORDS):
        coordinator.open_record(n, SOURCE).keep(b"done")
    assert len(coordinator.records) == RECORDS
    assert coordinator.kept_bytes == 4 * RECORDS


def test_the_bytes_of_answers_kept_are_bounded() -> None:
    coordinator = Coordinators(Timing()).seen(REAL, SOURCE, 0.0)
    for n in range(1, 100):
        coordinator.open_record(n, SOURCE).keep(bytes(60_000))
    assert sum(len(record.frame or b"") for record in coordinator.records.values()) == coordinator.kept_bytes
    assert coordinator.kept_bytes <= KEPT_BYTES + 60_000
    assert 99 in coordinator.records


def test_a_coordinator_does_not_change_its_host() -> None:
    coordinators = Coordinators(Timing())
    coordinators.seen(REAL, SOURCE, 0.0)
    with pytest.raises(RemoteProtocolError, match="forged source"):
        coordinators.seen(REAL, ("10.0.0.2", 50_000), 1.0)


def test_a_coordinator_that_was_pushed_out_has_none_of_its_requests_run_again() -> None:
    coordinators = Coordinators(Timing())
    coordinators.seen(REAL, SOURCE, 0.0).open_record(7, SOURCE).keep(b"done")
    for number in range(3 * COORDINATORS):
        coordinators.seen(forged(number), ("10.0.0.9", number), 1.0).open_record(1, SOURCE).keep(b"done")
    back = coordinators.seen(REAL, SOURCE, 2.0)
    assert (back.records, back.highest) == ({}, 7)
