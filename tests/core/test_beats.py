"""How long a rig takes a silent coordinator for there: by the beat that the coordinator's probes tell."""

from __future__ import annotations

from typing import Any

import pytest

from core.support import COORDINATOR, HERE, RigBench
from rigsync import ConfigError
from rigsync.core import messages
from rigsync.core.events import Notice
from rigsync.core.messages import Failure, Reply
from rigsync.core.notices import KEPT
from rigsync.core.ownership import Ownership, Sender
from rigsync.core.timing import LONGEST_BEAT, Timing
from rigsync.testing import SimNetwork

STRANGER = "b" * 16
ELSEWHERE = ("10.0.0.2", 50_000)

SILENCES = [(None, 5.0), (0.001, 5.0), (1.0, 5.0), (2.5, 12.5), (10.0, 50.0), (24.0, 120.0), (1e9, 120.0)]
"""A beat as it is told, None by a coordinator of the version before, and the silence that a rig bears with it."""


def probe(bench: RigBench, beat: float | None, source: Any = HERE) -> None:
    bench.receive(messages.probe(COORDINATOR, 1, 0, beat=beat), source)


def stranger_asks(bench: RigBench) -> Any:
    bench.sent()
    bench.request("EXPINIT", {"exp_ref": "2024-01-02_9_rat"}, n=1, boot=STRANGER, source=ELSEWHERE)
    return bench.answer()


@pytest.mark.parametrize(("beat", "silence"), SILENCES)
def test_a_stopped_rig_is_its_owner_s_for_five_of_its_beats(beat: float | None, silence: float) -> None:
    for after, expected in ((silence - 0.1, Failure), (silence + 0.1, Reply)):
        bench = RigBench().enter("STOPPED")
        probe(bench, beat)
        bench.run(after)
        answer = stranger_asks(bench)
        assert isinstance(answer, expected)
        if isinstance(answer, Failure):
            assert f"when that one has been silent for {silence:g} s" in answer.message


@pytest.mark.parametrize(("beat", "silence"), SILENCES)
def test_unconfirmed_notices_leave_for_five_beats(beat: float | None, silence: float) -> None:
    for after, expected in ((silence - 0.1, 1), (silence + 0.1, 0)):
        bench = RigBench()
        probe(bench, beat)
        bench.run(after)
        bench.notices()
        bench.rig.notify("light", None, "on", False, bench.now)
        bench._collect()
        assert len(bench.notices("light")) == expected


@pytest.mark.parametrize(("beat", "silence"), SILENCES)
def test_confirmed_notices_are_sent_again_for_five_beats(beat: float | None, silence: float) -> None:
    bench = RigBench()
    probe(bench, beat)
    bench.notices()
    bench.rig.notify("light", None, "on", True, bench.now)
    bench._collect()
    bench.run(silence - 1.1)
    bench.notices()
    bench.run(1.1)
    assert bench.notices("light")
    bench.run(60.0)
    assert not bench.notices("light")


@pytest.mark.parametrize(("beat", "silence"), SILENCES)
def test_a_boot_is_another_host_s_after_five_beats(beat: float | None, silence: float) -> None:
    for after, forged in ((silence - 0.1, 1), (silence + 0.1, 0)):
        bench = RigBench()
        probe(bench, beat)
        bench.run(after)
        probe(bench, None, ELSEWHERE)
        assert bench.rig.violations.get("forged source", 0) == forged


def test_what_is_forged_from_another_host_tells_no_beat() -> None:
    bench = RigBench().enter("STOPPED")
    probe(bench, 10.0)
    bench.run(40.0)
    probe(bench, 0.001, ELSEWHERE)
    bench.run(5.0)
    assert isinstance(stranger_asks(bench), Failure)


def test_a_probe_without_a_beat_leaves_what_was_told() -> None:
    """It may be from before the coordinator knows that the rig is one of rigsync."""
    bench = RigBench().enter("STOPPED")
    probe(bench, 10.0)
    probe(bench, None)
    bench.run(49.9)
    assert isinstance(stranger_asks(bench), Failure)


def test_each_coordinator_has_a_beat_of_its_own() -> None:
    bench = RigBench()
    probe(bench, 10.0)
    bench.receive(messages.probe(STRANGER, 1, 0, beat=1.0), ELSEWHERE)
    bench.run(6.0)
    bench.notices()
    bench.rig.notify("light", None, "on", False, bench.now)
    bench._collect()
    assert [where for where, _ in bench.notices("light")] == [HERE]


def test_the_longest_silence_is_no_longer_than_notices_wait() -> None:
    """Else a rig would give up the notices of a coordinator that it takes for there."""
    assert Timing().lost_beats * LONGEST_BEAT == KEPT


def test_strangers_with_the_longest_beat_are_forgotten_all_the_same() -> None:
    bench = RigBench()
    for number in range(64):
        bench.receive(messages.probe(f"{number:016x}", 1, 0, beat=1e9), ("10.0.0.9", number))
    bench.run(KEPT + 0.1)
    probe(bench, None)  # a place among those that get notices
    bench.rig.notify("light", None, "on", False, bench.now)
    bench._collect()
    assert [where for where, _ in bench.notices("light")] == [HERE]


def test_an_owner_tells_its_beat_after_it_has_come_into_charge() -> None:
    owner = Sender("10.0.0.1", COORDINATOR)
    ownership = Ownership(300.0)
    ownership.claim(owner, 0.0)
    assert [ownership.is_gone(now) for now in (4.9, 5.0)] == [False, True]
    ownership.heard(COORDINATOR, 1.0, patience=50.0)
    assert [ownership.is_gone(now) for now in (50.9, 51.0)] == [False, True]
    ownership.heard(COORDINATOR, 2.0, "10.0.0.7")
    assert [ownership.is_gone(now) for now in (51.9, 52.0)] == [False, True]
    assert not Ownership(300.0).is_gone(1e9)


def test_after_a_standstill_the_lease_waits_for_an_owner_with_a_long_beat() -> None:
    """A computer that has slept has nothing of its owner in its sockets, whose next probe is up to a beat away."""
    bench = RigBench(lease=30.0).enter("RUNNING")
    probe(bench, 5.0)
    bench.now += 60.0
    bench.rig.note_standstill(30.0, bench.now)
    bench.run(20.0)
    assert bench.agenda.status.name == "RUNNING"
    bench.run(6.0)
    assert bench.agenda.status.name == "STOPPED"


def test_a_beat_that_no_rig_bears_is_refused() -> None:
    assert Timing(beat=24).beat == 24
    with pytest.raises(ConfigError, match=r"at most 24 s, not 24\.1: after 120 s of silence") as caught:
        Timing(beat=24.1)
    assert caught.value.key == "beat"


@pytest.mark.parametrize("seed", range(4))
def test_with_a_beat_of_ten_seconds_no_notice_is_held_back_and_no_stranger_takes_over(seed: int) -> None:
    network = SimNetwork(seed)
    rig = network.add_rig("cameras")
    owner = network.coordinator(timing=Timing(beat=10.0))
    assert network.run(5.0, lambda: owner.fanout.all_alive)
    stranger = network.coordinator()
    for event in ("EXPINIT", "EXPSTART", "EXPEND"):
        owner.push(event)
    assert network.run(5.0, lambda: len(owner.results) == 3)
    refused = []
    for number in range(20):
        rig.notify("light", number, confirm=False)
        pushed = stranger.push("EXPINIT", {"exp_ref": f"2024-01-02_{number}_rat"})
        assert network.run(5.0, lambda pushed=pushed: pushed in stranger.results)
        refused += stranger.results[pushed].failures.values()
        network.run(3.0)
    heard = [event.body for event in owner.events if isinstance(event, Notice) and event.topic == "light"]
    assert heard == list(range(20))
    assert len(refused) == 20
    assert all("it is over, and anyone may go on when that one has been silent for 50 s" in str(one) for one in refused)
