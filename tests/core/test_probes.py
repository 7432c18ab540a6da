"""Which probe an answer belongs to, and how many are lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigsync.core.probes import MOST, PATIENCE, REMEMBERED, ProbeLog, SentProbe


def log_of(*numbers: int, interval: float = 0.1) -> ProbeLog:
    """Return a log of probes that were sent so many seconds apart, from 0 on."""
    log = ProbeLog()
    for i, n in enumerate(numbers):
        log.add(n, i * interval, 1000 + i)
    return log


def probe_of(log: ProbeLog, n: int) -> SentProbe:
    probe = log.outstanding(n)
    assert probe is not None
    return probe


def test_a_probe_is_known_by_its_number_with_what_was_filed() -> None:
    probe = probe_of(log_of(4, 5), 5)
    assert (probe.n, probe.sent, probe.stamp, probe.answered) == (5, 0.1, 1001, False)


@pytest.mark.parametrize("n", [0, 3, 6, -1])
def test_a_number_that_was_never_sent_belongs_to_no_probe(n: int) -> None:
    assert log_of(4, 5).outstanding(n) is None


def test_an_answered_probe_is_no_longer_outstanding() -> None:
    log = log_of(4, 5)
    probe_of(log, 4).answered = True
    assert log.outstanding(4) is None
    assert log.outstanding(5) is not None


def test_probes_are_recognised_in_any_order_and_for_as_many_as_a_minute_has() -> None:
    assert REMEMBERED >= 60
    log = log_of(*range(REMEMBERED + 2), interval=1.0)
    assert log.outstanding(0) is None
    for n in reversed(range(1, REMEMBERED + 2)):
        assert probe_of(log, n).n == n


def test_of_probes_with_the_same_number_the_newest_counts() -> None:
    log = log_of(0, 0, 0)
    assert probe_of(log, 0).stamp == 1002
    probe_of(log, 0).answered = True
    assert log.outstanding(0) is None


def test_the_newest_of_the_same_number_is_kept_when_the_oldest_is_forgotten() -> None:
    log = log_of(*[0] * (MOST + 5))
    assert probe_of(log, 0).stamp == 1000 + MOST + 4


def test_nothing_is_told_of_a_loss_before_the_first_probe_is_old_enough() -> None:
    assert ProbeLog().loss(1e6) is None
    log = log_of(1)
    assert log.loss(PATIENCE - 0.001) is None
    assert log.loss(PATIENCE) == 1.0


def test_an_answer_tells_at_once() -> None:
    log = log_of(1, 2)
    probe_of(log, 1).answered = True
    assert log.loss(0.1) == 0.0  # the other may still be answered


def test_the_loss_is_the_share_of_those_that_can_be_told() -> None:
    log = log_of(*range(10), interval=0.2)  # sent from 0.0 to 1.8
    for n in (0, 3, 9):
        probe_of(log, n).answered = True
    assert log.loss(1.65) == pytest.approx(2 / 4)  # 0 to 3: 4 may still be answered, and so may what came after it
    assert log.loss(100.0) == pytest.approx(7 / 10)


def test_a_late_answer_takes_the_loss_back() -> None:
    log = log_of(1)
    assert log.loss(5.0) == 1.0
    probe_of(log, 1).answered = True
    assert log.loss(5.0) == 0.0


def test_only_the_newest_probes_count() -> None:
    log = log_of(*range(2 * REMEMBERED))
    for n in range(REMEMBERED, 2 * REMEMBERED):
        probe_of(log, n).answered = True
    assert log.loss(1000.0) == 0.0


@pytest.mark.parametrize("interval", [0.02, 0.1, 1.0])
def test_the_loss_is_that_of_the_link_however_often_it_is_probed(interval: float) -> None:
    log, seconds = ProbeLog(), 100.0
    told = []
    for i in range(round(seconds / interval)):
        log.add(i, i * interval, 0)
        if i % 2:  # every second one is answered, before the next is sent
            probe_of(log, i).answered = True
        if i * interval > 10:
            told.append(log.loss(i * interval))
    assert told == [pytest.approx(0.5, abs=0.02)] * len(told)


def test_probes_that_follow_fast_leave_as_many_settled_ones_as_before() -> None:
    log = log_of(*range(1000), interval=0.02)
    now = 999 * 0.02
    assert sum(now - probe.sent >= PATIENCE for probe in log._newest) == REMEMBERED
    for n in range(1000, 1000 + MOST):
        log.add(n, n * 1.0, 0)
    assert len(log._newest) == REMEMBERED + 1


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 2), st.booleans()), max_size=300))
def test_the_loss_is_a_share_and_the_memory_is_bounded(steps: list[tuple[int, float, bool]]) -> None:
    log, now = ProbeLog(), 0.0
    for n, pause, answered in steps:
        now += pause
        log.add(n, now, 0)
        if answered:
            probe_of(log, n).answered = True
        loss = log.loss(now)
        assert loss is None or 0.0 <= loss <= 1.0
    assert len(log._newest) <= MOST
    assert len(log._by_number) <= MOST
