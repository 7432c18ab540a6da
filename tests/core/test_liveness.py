"""Probing, and what silence means, against docs/protocol.md section 3."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync.core.events import Dialect, LinkState
from rigsync.core.liveness import Liveness
from rigsync.core.timing import Timing

from .support import Fixed

UNKNOWN, ALIVE, SUSPECT, LOST = LinkState.UNKNOWN, LinkState.ALIVE, LinkState.SUSPECT, LinkState.LOST


class Watch:
    """A `Liveness` and a clock that stops at each of its timers."""

    def __init__(
        self, dialect: Dialect = Dialect.UNKNOWN, random: Random | None = None, links: int = 1, **timing: float
    ):
        self.liveness = Liveness(Timing(**timing), random or Fixed(), links)
        if dialect is not Dialect.UNKNOWN:
            self.liveness.adopt(dialect)
        self.now = 0.0
        self.probes: list[float] = []
        self.changes: list[tuple[float, LinkState]] = []
        self.liveness.connect(0.0)
        self.run(0.0)

    def run(self, until: float) -> None:
        while (when := self.liveness.next_timer()) <= until:
            self.now = max(self.now, when)
            if self.liveness.probe_due(self.now):
                self.probes.append(round(self.now, 6))
            before = self.liveness.state
            self.liveness.handle_timer(self.now)
            if self.liveness.state is not before:
                self.changes.append((round(self.now, 6), self.liveness.state))
            assert self.liveness.next_timer() > self.now, "a timer that is due again at once would never sleep"
        self.now = until

    def hear(self, at: float) -> None:
        self.run(at)
        self.liveness.heard(at)


def test_nothing_is_probed_before_connect() -> None:
    liveness = Liveness(Timing(), Fixed())
    assert liveness.next_timer() == math.inf
    assert not liveness.probe_due(1e9)
    assert (liveness.state, liveness.reason, liveness.refused) == (UNKNOWN, "not yet probed", False)
    liveness.connect(1e9)
    assert (liveness.state, liveness.reason) == (UNKNOWN, "no answer yet")


def test_connecting_begins_with_eight_probes_20_ms_apart_then_one_each_beat() -> None:
    watch = Watch()
    watch.hear(0.0001)
    watch.run(0.16)
    assert watch.probes == pytest.approx([0.02 * i for i in range(8)])
    for beat in range(1, 5):
        watch.hear(0.14 + beat - 0.5)
        watch.run(0.15 + beat)
    assert watch.probes[8:] == pytest.approx([1.14, 2.14, 3.14, 4.14])


def test_a_rig_that_never_answers_is_lost_after_5_beats() -> None:
    watch = Watch()
    watch.run(60)
    assert watch.changes == [(5.0, LOST)]
    assert "silent for 5.0 s" in watch.liveness.reason
    assert not watch.liveness.is_gone  # of which nobody has told


def test_seconds_in_which_nobody_listened_are_no_silence() -> None:
    watch = Watch()
    watch.hear(1.0)
    watch.run(3.5)
    watch.liveness.pass_over(10.0)
    watch.run(60)
    assert watch.changes == [(14.0, SUSPECT), (16.0, LOST)]


def test_a_rig_that_falls_silent_is_suspect_after_3_beats_and_lost_after_5() -> None:
    watch = Watch()
    watch.hear(2.0)
    assert watch.liveness.state is ALIVE
    watch.run(60)
    assert watch.changes == [(5.0, SUSPECT), (7.0, LOST)]
    assert watch.liveness.lost_since == 7.0


def test_beats_are_what_the_timing_says() -> None:
    watch = Watch(beat=0.5, suspect_beats=2, lost_beats=4)
    watch.hear(1.0)
    watch.run(60)
    assert watch.changes == [(2.0, SUSPECT), (3.0, LOST)]


def test_any_sign_of_life_revives_the_link() -> None:
    watch = Watch()
    watch.hear(1.0)
    watch.hear(4.5)
    assert watch.liveness.state is ALIVE
    assert watch.changes == [(4.0, SUSPECT)]
    watch.hear(100.0)
    assert watch.changes[-1] == (9.5, LOST)
    assert watch.liveness.state is ALIVE
    assert watch.liveness.reason == "answered"


def test_probing_is_no_sign_of_life() -> None:
    watch = Watch()
    watch.hear(0.5)
    watch.run(30)
    assert len(watch.probes) > 40
    assert watch.liveness.state is LOST


def test_an_overdue_link_is_probed_more_often_until_it_is_lost() -> None:
    watch = Watch()
    watch.hear(1.0)
    watch.run(60)
    overdue = [at for at in watch.probes if 3.2 < at < 6.0]
    assert len(overdue) == pytest.approx(8 * 2.8, abs=1)
    after = [at for at in watch.probes if at > 7.2]
    assert len(after) == pytest.approx(60 - 7.2, abs=1)  # again one each beat
    for at in (60 + i * 0.5 for i in range(20)):
        watch.hear(at)
    before = len(watch.probes)
    watch.hear(80.0 - 10.25)
    watch.run(70.5)
    assert len(watch.probes) - before <= 2


def test_a_link_is_overdue_from_one_and_a_half_beats_on() -> None:
    watch = Watch(burst_count=1)
    watch.hear(0.5)
    watch.run(2.2)
    assert watch.probes == [0.0, 1.0, 2.0, 2.125]


class Highest(Random):
    """Draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(("drawn", "interval"), [(Fixed(), 0.125), (Highest(), 0.125 * 0.7)])
def test_a_probe_of_an_overdue_link_leaves_sooner_by_up_to_three_tenths(drawn: Random, interval: float) -> None:
    watch = Watch(random=drawn)
    watch.hear(1.0)
    watch.run(6.0)
    overdue = [at for at in watch.probes if 3.2 < at < 5.9]
    assert [b - a for a, b in pairwise(overdue)] == pytest.approx([interval] * (len(overdue) - 1), abs=1e-5)


@pytest.mark.parametrize("beat", [0.5, 1.0, 4.0])
def test_an_answer_that_comes_a_little_late_does_not_make_the_link_overdue(beat: float) -> None:
    watch = Watch(beat=beat)
    for i in range(1, 30):
        watch.hear(i * beat + 0.2)
    watch.run(30 * beat)
    assert all(b - a > 0.9 * beat for a, b in pairwise(at for at in watch.probes if at > beat))


def test_a_lost_link_goes_on_being_probed_each_beat() -> None:
    watch = Watch()
    watch.run(100)
    late = [at for at in watch.probes if at > 50]
    assert [b - a for a, b in pairwise(late)] == pytest.approx([1.0] * (len(late) - 1))


def test_a_refusal_is_told_apart_from_silence() -> None:
    watch = Watch()
    watch.liveness.refuse(0.001)
    assert watch.liveness.state is LOST
    assert watch.liveness.refused
    assert "nothing listens" in watch.liveness.reason
    assert watch.liveness.lost_since == 0.001


def test_a_refusal_ends_with_the_next_sign_of_life() -> None:
    watch = Watch()
    watch.liveness.refuse(0.001)
    watch.hear(3.0)
    assert watch.liveness.state is ALIVE
    assert not watch.liveness.refused


def test_further_refusals_do_not_postpone_since_when_the_link_is_lost() -> None:
    watch = Watch()
    for at in (0.1, 0.5, 0.9):
        watch.liveness.refuse(at)
    assert watch.liveness.lost_since == 0.1
    watch.hear(2.0)
    watch.liveness.refuse(3.0)
    assert watch.liveness.lost_since == 3.0


def test_a_goodbye_is_told_with_its_reason() -> None:
    watch = Watch()
    watch.hear(1.0)
    watch.liveness.farewell("lunch", 2.0)
    assert watch.liveness.state is LOST
    assert watch.liveness.reason == "it said goodbye: lunch"
    assert not watch.liveness.refused
    watch.hear(3.0)
    assert watch.liveness.state is ALIVE


# ------------------------------------------------------------------------------------------------- iblutil rigs


def test_the_burst_ends_when_an_iblutil_rig_answers_and_it_is_probed_each_15_s() -> None:
    watch = Watch()
    watch.run(0.03)
    watch.liveness.adopt(Dialect.IBLUTIL)
    for at in (0.031, 15.032, 30.033, 45.034):
        watch.hear(at)
    assert watch.probes == pytest.approx([0.0, 0.02, 15.031, 30.031, 45.031])
    assert watch.liveness.state is ALIVE


def test_an_iblutil_rig_is_suspect_after_two_unanswered_probes_and_lost_after_three() -> None:
    watch = Watch()
    watch.liveness.adopt(Dialect.IBLUTIL)
    watch.hear(0.001)
    watch.run(100)
    # A probe is unanswered when the second that its echo may take is over.
    assert watch.changes == [(31.001, SUSPECT), (46.001, LOST)]
    assert "3 probes unanswered" in watch.liveness.reason


def test_a_suspect_iblutil_rig_revives() -> None:
    watch = Watch()
    watch.liveness.adopt(Dialect.IBLUTIL)
    watch.hear(0.001)
    watch.hear(32.0)
    assert watch.changes == [(31.001, SUSPECT)]
    assert watch.liveness.state is ALIVE
    watch.run(100)
    assert watch.changes[1:] == [(61.001, SUSPECT), (76.001, LOST)]


def test_the_silence_of_a_known_iblutil_rig_between_two_probes_means_nothing() -> None:
    watch = Watch()
    watch.liveness.adopt(Dialect.IBLUTIL)
    for at in (0.001, 15.1, 30.1, 45.1):
        watch.hear(at)
    assert watch.changes == []


def test_a_rig_configured_as_iblutil_that_never_answers_is_lost_a_second_after_the_burst() -> None:
    watch = Watch(Dialect.IBLUTIL)
    watch.run(10)
    assert len(watch.probes) == 8
    assert watch.changes == [(1.14, LOST)]


# ---------------------------------------------------------------------------------------------------- properties

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["hear", "refuse", "farewell", "iblutil", "rigsync", "nothing"]),
        st.floats(0, 20),
    ),
    max_size=12,
)


@given(STEPS)
@settings(deadline=None)
def test_whatever_happens_the_clock_moves_on_and_no_probe_is_forgotten(steps: list[tuple[str, float]]) -> None:
    watch = Watch()
    for step, seconds in steps:
        watch.run(watch.now + seconds)  # asserts that each timer is later than the last
        if step == "hear":
            watch.liveness.heard(watch.now)
        elif step == "refuse":
            watch.liveness.refuse(watch.now)
        elif step == "farewell":
            watch.liveness.farewell("x", watch.now)
        elif step != "nothing":
            watch.liveness.adopt(Dialect(step))
    before = len(watch.probes)
    watch.run(watch.now + 15.1)
    assert len(watch.probes) > before


@given(STEPS)
@settings(deadline=None)
def test_a_rig_that_stays_silent_is_lost_in_the_end_and_one_that_answers_is_alive(
    steps: list[tuple[str, float]],
) -> None:
    watch = Watch()
    for step, seconds in steps:
        watch.run(watch.now + seconds)
        if step in ("iblutil", "rigsync"):
            watch.liveness.adopt(Dialect(step))
    watch.hear(watch.now + 1)
    assert watch.liveness.state is ALIVE
    watch.run(watch.now + 62)
    assert watch.liveness.state is LOST


# ------------------------------------------------------------------------------------------------ more than each beat


def test_a_hurried_probe_leaves_now_and_the_next_a_beat_later() -> None:
    watch = Watch()
    watch.hear(0.001)
    watch.hear(0.5)
    watch.liveness.hurry(0.5)
    watch.run(1.4)
    assert watch.probes[8:] == [0.5]
    watch.run(1.5)
    assert watch.probes[8:] == [0.5, 1.5]


def test_a_probe_is_hurried_no_more_often_than_in_the_first_burst() -> None:
    watch = Watch()
    watch.hear(0.001)
    watch.hear(0.5)
    while watch.now < 1.0:
        watch.liveness.hurry(watch.now)
        watch.run(watch.now + 0.001)
    gaps = [after - before for before, after in pairwise(watch.probes)]
    assert min(gaps) >= Timing().burst_interval - 1e-6
    assert len(watch.probes) >= 8 + 20


def test_a_hurried_probe_is_not_put_off() -> None:
    watch = Watch()
    watch.hear(0.001)
    before = watch.liveness.next_timer()
    watch.liveness.hurry(0.5)
    assert watch.liveness.next_timer() <= before


@pytest.mark.parametrize(("links", "interval"), [(64, 0.125), (128, 0.25), (512, 1.0), (2000, 1.0)])
def test_many_rigs_share_the_probes_that_measure_their_clocks(links: int, interval: float) -> None:
    watch = Watch(links=links)
    watch.liveness.is_coarse = True
    for tenth in range(1, 60):
        watch.hear(tenth / 10)
    assert watch.probes[-1] - watch.probes[-2] == pytest.approx(interval)


@pytest.mark.parametrize(("links", "interval"), [(64, 0.125), (400, 0.125), (800, 0.25), (6400, 1.0)])
def test_many_overdue_rigs_share_what_may_leave(links: int, interval: float) -> None:
    watch = Watch(links=links)
    watch.hear(12.0)
    watch.run(16.9)
    assert watch.probes[-1] - watch.probes[-2] == pytest.approx(interval)


def test_many_rigs_share_the_burst_on_connecting() -> None:
    watch = Watch(links=1280)
    watch.hear(0.001)
    watch.run(2.85)
    assert watch.probes == pytest.approx([0.4 * i for i in range(8)])


def test_while_the_clock_is_coarse_8_probes_a_beat_are_sent() -> None:
    watch = Watch()
    watch.liveness.is_coarse = True
    while watch.now < 4.0:
        watch.hear(watch.now + 0.05)
    assert len([at for at in watch.probes if at > 1.0]) == pytest.approx(24, abs=2)
    watch.liveness.is_coarse = False
    begun = watch.now
    while watch.now < begun + 5.0:
        watch.hear(watch.now + 0.05)
    assert len([at for at in watch.probes if at > begun + 0.2]) == pytest.approx(5, abs=1)


def test_a_lost_rig_is_not_probed_more_often_for_the_sake_of_its_clock() -> None:
    watch = Watch()
    watch.hear(0.001)
    watch.liveness.is_coarse = True
    watch.run(6.0)
    assert watch.liveness.state is LOST
    watch.probes.clear()
    watch.run(16.0)
    assert len(watch.probes) == pytest.approx(10, abs=1)


def test_a_rig_is_gone_where_its_port_is_closed_or_it_has_said_goodbye() -> None:
    silent, refused, left = Watch(), Watch(), Watch()
    for watch in (silent, refused, left):
        watch.hear(0.001)
        assert not watch.liveness.is_gone
    silent.run(10.0)
    refused.liveness.refuse(0.5)
    left.liveness.farewell("x", 0.5)
    assert [watch.liveness.is_gone for watch in (silent, refused, left)] == [False, True, True]
    for watch in (refused, left):
        watch.hear(0.6)
        assert not watch.liveness.is_gone
