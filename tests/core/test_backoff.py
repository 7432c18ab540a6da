"""The retransmission timer against RFC 6298 section 2, RFC 7252 section 4.2 and docs/protocol.md section 2."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigsync.core.backoff import Backoff
from rigsync.core.timing import Timing


class Factor(Random):
    """Always draws the same share between the bounds."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def uniform(self, a: float, b: float) -> float:
        return a + self.share * (b - a)


def backoff(share: float = 0.0, **timing: float) -> Backoff:
    return Backoff(Timing(**timing), Factor(share))


def test_before_any_sample_the_first_wait_is_100_ms() -> None:
    assert backoff().wait(1) == 0.1


def test_each_wait_is_twice_the_one_before_up_to_1_s() -> None:
    assert [backoff().wait(tries) for tries in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_the_random_factor_is_from_1_to_1_5() -> None:
    assert backoff(0.0).wait(2) == pytest.approx(0.2)
    assert backoff(1.0).wait(2) == pytest.approx(0.3)
    timer = Backoff(Timing(), Random(1))
    waits = [timer.wait(1) for _ in range(2000)]
    assert 0.1 <= min(waits) < 0.102
    assert 0.148 < max(waits) <= 0.15


def test_the_random_factor_never_leads_beyond_1_s() -> None:
    assert backoff(1.0).wait(4) == 1.0
    assert backoff(1.0).wait(1000) == 1.0


def test_the_first_sample_sets_the_estimate() -> None:
    timer = backoff()
    timer.add_sample(0.2)
    assert (timer.smoothed, timer.variation) == (0.2, 0.1)  # SRTT <- R, RTTVAR <- R/2
    assert timer.wait(1) == pytest.approx(0.6)  # SRTT + 4 RTTVAR


def test_further_samples_move_the_estimate_by_an_eighth_and_the_variation_by_a_quarter() -> None:
    timer = backoff()
    timer.add_sample(0.100)
    timer.add_sample(0.200)
    # RTTVAR <- 3/4 * 50 + 1/4 * |100 - 200| = 62.5 ms, then SRTT <- 7/8 * 100 + 1/8 * 200 = 112.5 ms
    assert timer.variation == pytest.approx(0.0625)
    assert timer.smoothed == pytest.approx(0.1125)
    assert timer.wait(1) == pytest.approx(0.1125 + 4 * 0.0625)
    timer.add_sample(0.100)
    assert timer.variation == pytest.approx(0.75 * 0.0625 + 0.25 * 0.0125)
    assert timer.smoothed == pytest.approx(0.875 * 0.1125 + 0.125 * 0.1)


def test_a_fast_network_is_waited_for_25_ms_at_least() -> None:
    timer = backoff()
    for _ in range(50):
        timer.add_sample(0.0002)
    assert [timer.wait(tries) for tries in range(1, 8)] == [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0]


def test_a_slow_network_is_waited_for_1_s_at_most() -> None:
    timer = backoff()
    timer.add_sample(5.0)
    assert timer.wait(1) == 1.0


def test_the_bounds_come_from_the_timing() -> None:
    timer = backoff(resend_first=0.3, resend_min=0.2, resend_max=0.5)
    assert [timer.wait(tries) for tries in (1, 2)] == [0.3, 0.5]
    timer.add_sample(0.001)
    assert timer.wait(1) == 0.2


@given(st.lists(st.floats(0, 1e6), max_size=20), st.integers(1, 10**9), st.integers(0, 2**32))
def test_every_wait_is_above_0_and_at_most_1_s(samples: list[float], tries: int, seed: int) -> None:
    timer = Backoff(Timing(), Random(seed))
    for sample in samples:
        timer.add_sample(sample)
    assert 0.025 <= timer.wait(tries) <= 1.0
