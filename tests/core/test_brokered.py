"""Rigs at a broker, purely: what is sent beyond the beat, and what the broker's word means."""

from __future__ import annotations

from random import Random

import pytest

from core.support import COORDINATOR, WALL, PeerBench
from rigsync.core.clock import StampClock
from rigsync.core.events import Dialect, LinkState
from rigsync.core.fanout import Fanout
from rigsync.core.liveness import BROKERED_A_SECOND
from rigsync.core.outputs import Line
from rigsync.core.rigs import Address, RigConfig
from rigsync.core.timing import Timing
from rigsync.errors import ConfigError, RigLost


@pytest.mark.parametrize("rigs", [10, 100, 1000])
def test_silent_rigs_at_a_broker_are_probed_little_more_than_once_a_beat(rigs: int) -> None:
    def sent_in(begin: float, end: float) -> int:
        fanout.take_datagrams()
        while (now := fanout.next_timer()) <= end:
            fanout.handle_timer(now)
            if now < begin:
                fanout.take_datagrams()
        return len(fanout.take_datagrams())

    configs = {f"rig{number}": RigConfig(f"rig{number}", Address("mqtt", "b", 1883, "lab")) for number in range(rigs)}
    fanout = Fanout(configs, Timing(), COORDINATOR, StampClock(WALL, 0.0), Random(1))
    fanout.connect(0.0)
    assert sent_in(0.0, 1.5) <= 2.5 * rigs + 1.5 * BROKERED_A_SECOND  # the burst
    assert sent_in(2.0, 4.0) <= 2 * (1.45 * rigs + BROKERED_A_SECOND / 0.7)  # each a little early, out of step
    assert rigs <= sent_in(6.0, 7.5)  # lost, once a beat


def test_a_clock_that_a_busy_broker_makes_look_bad_is_not_probed_more_often() -> None:
    for scheme, often in (("mqtt", False), ("udp", True)):
        bench = PeerBench(scheme=scheme).connect()
        bench.run(0.4)
        bench.alive(1)  # after 0.4 s: its clock is known to 0.2 s
        assert bench.peer.link.liveness.is_coarse is often


def test_the_broker_s_word_makes_a_link_lost_and_does_not_end_a_request_as_if_the_program_had_ended() -> None:
    bench = PeerBench(scheme="mqtt").connected()
    bench.submit("EXPSTART", "2024-01-02_9_rat", None)
    bench.ack()
    bench.peer.report_loss("the broker says that it has gone", bench.now)
    assert bench.peer.state is LinkState.LOST
    bench.run(1.5)
    outcome = bench.outcome()
    assert isinstance(outcome, RigLost)
    assert "the rig is lost (the broker says that it has gone); check its program and its network" in str(outcome)
    assert "ended" not in str(outcome)
    bench.alive()
    assert bench.peer.state is LinkState.ALIVE
    bench.peer.report_loss("again", bench.now)
    bench.peer.report_loss("and again", bench.now)
    assert bench.peer.reason == "again"  # what is lost is not lost twice


def test_a_rig_at_a_broker_speaks_rigsync_whatever_comes() -> None:
    bench = PeerBench(scheme="mqtt").connect()
    bench.receive(b"[4, null ]")
    assert bench.peer.dialect is Dialect.RIGSYNC
    assert bench.sent(Line.PROBES)
    with pytest.raises(ConfigError):
        PeerBench(scheme="mqtt", dialect="iblutil")
