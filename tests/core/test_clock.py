"""Stamps: a wall clock that is anchored once; what those of a rig tell of its clock (docs/protocol.md section 3)."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync.core.clock import DRIFT_AFTER, MEMORY, NANOSECONDS, TOLERANCE, ClockEstimate, ClockFilter, StampClock

WALL = 1_700_000_000_123_456_789


def test_at_the_anchor_the_stamp_is_the_wall_time() -> None:
    assert StampClock(WALL, 1234.5).stamp(1234.5) == WALL


@pytest.mark.parametrize(
    ("now", "nanoseconds"), [(1235.5, 10**9), (1234.500001, 1000), (1233.5, -(10**9)), (1294.5, 60 * 10**9)]
)
def test_stamps_follow_the_monotonic_clock_in_nanoseconds(now: float, nanoseconds: int) -> None:
    stamp = StampClock(WALL, 1234.5).stamp(now)
    assert isinstance(stamp, int)
    assert abs(stamp - WALL - nanoseconds) <= 1  # a float of seconds since boot has no more digits


def test_the_unit_is_the_nanosecond() -> None:
    assert NANOSECONDS == 10**9


@given(st.floats(0, 1e7), st.lists(st.floats(0, 1e7), min_size=2))
def test_stamps_are_in_the_order_of_the_monotonic_clock(anchor: float, instants: list[float]) -> None:
    clock = StampClock(WALL, anchor)
    stamps = [clock.stamp(now) for now in sorted(instants)]
    assert stamps == sorted(stamps)


@given(st.floats(0, 1e7), st.floats(-1e5, 1e5))
def test_an_instant_is_that_of_its_stamp(anchor: float, after: float) -> None:
    clock = StampClock(WALL, anchor)
    now = anchor + after
    assert clock.instant(clock.stamp(now)) == pytest.approx(now, abs=1e-8)  # a float of seconds has no more digits


@given(st.integers(-(2**62), 2**62))
def test_a_stamp_is_that_of_its_instant(stamp: int) -> None:
    clock = StampClock(0, 0.0)
    assert abs(clock.stamp(clock.instant(stamp)) - stamp) <= max(1, abs(stamp) // 2**51)


def test_instants_may_be_before_the_anchor() -> None:
    assert StampClock(WALL, 100.0).instant(WALL - 3 * 10**9) == 97.0


# ------------------------------------------------------------------------------------------------------ estimate


class Link:
    """A coordinator that probes a rig whose clock is off and runs a little too fast, over a network that delays."""

    def __init__(self, offset: float, drift: float = 0.0, *, seed: int = 0, least: float = 0.0002):
        self.offset, self.drift, self.least = offset, drift, least
        self.random = Random(seed)
        self.filter = ClockFilter()
        self.now = 50.0
        """Of the coordinator's monotonic clock, which runs truly."""

    def truth(self) -> float:
        """Return the rig's clock less the coordinator's, now, in seconds."""
        return self.offset + self.drift * (self.now - 50.0)

    def probe(self, there: float, back: float, held: float = 0.0) -> None:
        """Send one probe that takes so long each way, in seconds."""
        t0 = self._here()
        self.now += there
        t1 = self._there()
        self.now += held
        t2 = self._there()
        self.now += back
        self.filter.add((t0, t1, t2, self._here()), self.now)

    def jitter(self, most: float = 0.02) -> float:
        """Return a delay as a busy network has: mostly short, now and then long."""
        return self.least + min(self.random.expovariate(5 / most), most)

    def run(self, seconds: float, rate: float = 8.0, most: float = 0.02) -> list[float]:
        """Probe at a rate for some time; return the errors of the estimates, in seconds."""
        errors, end = [], self.now + seconds
        while self.now < end:
            begun = self.now
            self.probe(self.jitter(most), self.jitter(most))
            errors.append(self.error())
            self.now = max(self.now, begun + 1 / rate)
        return errors

    def error(self) -> float:
        """Return the error of the estimate; fail where it is larger than its bound."""
        estimate = self.filter.estimate
        assert estimate is not None
        error = estimate.offset - self.truth()
        assert abs(error) <= estimate.bound + 1e-8, "the bound is none"
        return error

    def _here(self) -> int:
        return WALL + round((self.now - 50.0) * NANOSECONDS)

    def _there(self) -> int:
        return self._here() + round(self.truth() * NANOSECONDS)


def rms(errors: list[float]) -> float:
    return math.sqrt(sum(error * error for error in errors) / len(errors))


def estimate_of(link: Link) -> ClockEstimate:
    assert link.filter.estimate is not None
    return link.filter.estimate


def test_before_the_first_sample_nothing_is_known() -> None:
    clock = ClockFilter()
    assert clock.estimate is None
    assert clock.bound == math.inf


@pytest.mark.parametrize("offset", [0.0, 90.0, -90.0, 1e9, -1.7e9, 1e-6])
def test_of_one_sample_the_estimate_is_the_middle_and_its_bound_half_the_delay(offset: float) -> None:
    link = Link(offset)
    link.probe(0.003, 0.001, held=5.0)
    estimate = estimate_of(link)
    assert estimate.offset - offset == pytest.approx(0.001, abs=3e-7)  # RFC 5905 section 8
    assert estimate.bound == pytest.approx(0.002, abs=1e-8)
    assert estimate.delay == pytest.approx(0.004, abs=1e-8)
    assert estimate.drift == 0.0
    assert link.filter.bound == pytest.approx(0.002, abs=1e-8)


def test_each_way_s_best_sample_counts_by_itself() -> None:
    link = Link(0.5)
    link.probe(0.0001, 0.020)
    link.probe(0.020, 0.0001)
    estimate = estimate_of(link)
    assert estimate.bound < 0.0002
    assert estimate.offset == pytest.approx(0.5, abs=0.0001)
    assert estimate.delay == pytest.approx(0.0201, abs=1e-6)  # of one probe and its answer


def test_the_delay_is_the_least_of_all() -> None:
    link = Link(0.5)
    for delay, pause in ((0.010, 0.0), (0.001, 0.0), (0.020, 2.0), (0.015, 0.0)):
        link.probe(delay, delay)
        link.now += pause
    assert estimate_of(link).delay == pytest.approx(0.002, abs=1e-7)


DELAYS = st.floats(0, 0.2)


@given(
    st.floats(-1e6, 1e6),
    st.floats(-90e-6, 90e-6),
    st.lists(st.tuples(DELAYS, DELAYS, st.floats(0, 0.01), st.floats(0, 20)), min_size=1, max_size=60),
)
@settings(deadline=None)
def test_the_error_is_within_the_bound_whatever_the_delays(
    offset: float, drift: float, probes: list[tuple[float, float, float, float]]
) -> None:
    link, longest = Link(offset, drift), 0.0
    for there, back, held, pause in probes:
        link.probe(there, back, held)
        estimate = estimate_of(link)
        longest = max(longest, there + held + back)
        drifted = 2 * abs(drift) * longest  # while probes were under way
        assert abs(estimate.offset - link.truth()) <= estimate.bound + drifted + 1e-6
        assert estimate.bound >= 0
        assert estimate.delay >= 0
        link.now += pause


@pytest.mark.parametrize(("there", "back"), [(0.0, 0.02), (0.02, 0.0), (0.001, 0.015)])
def test_a_network_that_is_slower_one_way_is_within_the_bound_and_no_better(there: float, back: float) -> None:
    link = Link(3.0)
    for _ in range(50):
        link.probe(there, back)
        link.now += 0.125
    assert abs(link.error()) == pytest.approx(abs(there - back) / 2, abs=1e-4)
    assert estimate_of(link).bound >= abs(there - back) / 2


@pytest.mark.parametrize("drift", [0.0, 50e-6, -50e-6, 90e-6, -90e-6])
def test_under_jitter_the_error_after_two_minutes_is_under_a_third_of_a_millisecond(drift: float) -> None:
    errors: list[float] = []
    for seed in range(3):
        link = Link(90.0, drift, seed=seed, least=0.002)
        link.run(120, most=0.018)
        errors += link.run(60, most=0.018)
    assert rms(errors) < 0.0003


@pytest.mark.parametrize("drift", [0.0, 50e-6, -50e-6, 90e-6, -90e-6])
def test_an_hour_of_drift_is_followed(drift: float) -> None:
    link = Link(-3.0, drift, seed=4)
    link.run(60)
    errors = link.run(3540, rate=1.0)
    assert rms(errors) < 0.0015
    assert max(map(abs, errors)) < 0.006
    assert abs(link.truth() + 3.0) == pytest.approx(3600 * abs(drift), abs=0.01)


@pytest.mark.parametrize("drift", [0.0, 20e-6, -50e-6, 90e-6])
def test_the_drift_is_measured_within_half_a_part_in_a_million_and_under_jitter_within_a_few(drift: float) -> None:
    for seed in range(3):
        link = Link(90.0, drift, seed=seed)
        link.run(180, most=0.004)
        assert estimate_of(link).drift == pytest.approx(drift, abs=5e-7)
        link.run(120)  # of more jitter
        assert estimate_of(link).drift == pytest.approx(drift, abs=5e-6)


def test_no_drift_is_told_before_it_can_be_told_from_jitter() -> None:
    link = Link(0.0, 90e-6)
    link.run(DRIFT_AFTER - 2)
    assert estimate_of(link).drift == 0.0
    link.run(5)
    assert estimate_of(link).drift != 0.0


def test_no_drift_is_told_that_no_clock_has() -> None:
    link = Link(0.0)
    for _ in range(40):  # each way the offset may be anything
        link.probe(*((0.0, 0.2) if link.now < 70 else (0.2, 0.0)))
        link.now += 1.0
    assert abs(estimate_of(link).drift) <= TOLERANCE


@pytest.mark.parametrize("drift", [150e-6, TOLERANCE])
def test_a_clock_that_is_being_slewed_is_within_the_bound_too(drift: float) -> None:
    """An NTP client slews (by up to 500 parts in a million on Linux, which its monotonic clock follows too)
    which must not take the estimate out of its bound.
    """
    link = Link(0.0, drift, seed=1)
    link.run(120)  # looks at the bound each time


def test_more_samples_make_the_bound_smaller() -> None:
    link = Link(1.0, seed=2)
    bounds = []
    for delay in (0.020, 0.010, 0.004, 0.001):
        link.probe(delay, delay)
        bounds.append(estimate_of(link).bound)
    assert bounds == pytest.approx([0.020, 0.010, 0.004, 0.001], rel=0.01)
    link.run(30)
    assert estimate_of(link).bound < 0.001
    assert link.filter.bound <= estimate_of(link).bound  # which is not in its middle


def test_the_bound_grows_again_where_samples_become_worse() -> None:
    link = Link(1.0, seed=2)
    link.run(30, most=0.001)
    good = link.filter.bound
    link.now += 100.0
    link.probe(0.1, 0.1)
    assert link.filter.bound == pytest.approx(good + 100 * TOLERANCE, rel=0.1)


@pytest.mark.parametrize("jump", [5.0, -5.0, 3600.0, -86_400.0, 0.5])
def test_a_clock_that_jumps_or_stands_still_is_known_again_at_the_next_sample(jump: float) -> None:
    link = Link(90.0, 20e-6, seed=3)
    link.run(60)
    link.offset += jump  # the rig, or this computer, was put to sleep: its monotonic clock stood still
    link.probe(0.0005, 0.0005)
    assert abs(link.error()) < 0.001
    assert estimate_of(link).drift == 0.0  # to be measured anew
    errors = link.run(150)
    assert rms(errors[-200:]) < 0.0005


def test_a_jump_within_the_bound_is_followed_when_the_samples_tell_it() -> None:
    link = Link(0.0)
    link.probe(0.005, 0.005)
    link.offset = 0.003
    link.probe(0.0001, 0.0001)
    assert abs(link.error()) < 0.0002


def test_the_memory_is_of_two_minutes_however_often_is_probed() -> None:
    link = Link(0.0)
    for rate in (8.0, 50.0):
        link.run(300, rate=rate)
        assert len(link.filter._seconds) <= MEMORY + 2
    assert MEMORY == 120.0


def test_samples_of_the_same_moment_do_no_harm() -> None:
    link = Link(1.0)
    for _ in range(5):
        link.probe(0.0, 0.0)
    assert estimate_of(link).offset == pytest.approx(1.0, abs=1e-8)
    assert estimate_of(link).bound == pytest.approx(0.0, abs=1e-8)


@given(
    st.lists(
        st.tuples(*[st.integers(-(2**63) + 1, 2**63 - 1)] * 4, st.floats(0, 100)),
        min_size=1,
        max_size=20,
    )
)
@settings(deadline=None)
def test_no_stamps_from_outside_ever_raise_or_give_what_is_no_number(samples: list[tuple[Any, ...]]) -> None:
    clock, now = ClockFilter(), 0.0
    for *stamps, pause in samples:
        now += pause
        clock.add(tuple(stamps), now)
        estimate = clock.estimate
        assert estimate is not None
        assert all(map(math.isfinite, (estimate.offset, estimate.bound, estimate.delay, estimate.drift)))
        assert estimate.delay >= 0
        assert estimate.bound >= 0
