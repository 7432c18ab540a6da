"""The coordinator's view of one rig, datagram by datagram (docs/protocol.md sections 1 to 4)."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync import errors
from rigsync.core import events, messages
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.errands import Request
from rigsync.core.events import (
    Dialect,
    DialectDetected,
    LinkChanged,
    LinkState,
    MessageReceived,
    ProbeAnswered,
    ProbeRefused,
    RemoteComplaint,
    RequestReceived,
    RestartSeen,
    ViolationSeen,
)
from rigsync.core.legacy import MOST
from rigsync.core.messages import Alive, Bye, Command, Message, Probe, decode
from rigsync.core.orders import Order
from rigsync.core.outputs import Line
from rigsync.core.requests import SINGLE_TRIES
from rigsync.core.timing import Timing
from rigsync.errors import (
    Aborted,
    Interrupted,
    NotSupported,
    RemoteError,
    RemoteProtocolError,
    RigLost,
    RigRefused,
    RigTimeout,
)

from .support import COORDINATOR, NAME, RIG, WALL, PeerBench

NEW = "b" * 16
"""Boot number of the rig after a restart."""
ADDRESS = "udp://10.0.1.1:11001"


@pytest.fixture
def bench() -> PeerBench:
    """A rig of the rigsync dialect that is known and alive."""
    return PeerBench().connected()


@pytest.fixture
def ibl() -> PeerBench:
    """A rig of the iblutil dialect that is known and alive."""
    return PeerBench().connected("iblutil")


# ------------------------------------------------------------------------------------------------------ dialects


def test_connecting_sends_a_probe_at_once() -> None:
    bench = PeerBench().connect()
    assert bench.sent() == []
    assert bench.sent(Line.PROBES) == [messages.probe(COORDINATOR, 1, WALL, beat=1.0)]


def test_probes_have_numbers_and_stamps_of_their_own() -> None:
    bench = PeerBench().connect()
    bench.run(0.05)
    probes = [decode(data) for data in bench.sent(Line.PROBES)]
    assert probes == [Probe(COORDINATOR, n, WALL + (n - 1) * 20_000_000, beat=1000) for n in (1, 2, 3)]


def test_an_alive_tells_the_rigsync_dialect() -> None:
    bench = PeerBench().connect()
    bench.alive()
    assert bench.peer.dialect is Dialect.RIGSYNC
    assert bench.events(DialectDetected) == [DialectDetected(NAME, Dialect.RIGSYNC)]
    assert bench.events(LinkChanged) == [events.LinkAlive(NAME, LinkState.UNKNOWN, LinkState.ALIVE, "answered")]


def test_the_probe_s_own_bytes_tell_the_iblutil_dialect() -> None:
    bench = PeerBench().connect()
    bench.receive(bench.sent(Line.PROBES)[0], Line.PROBES)
    assert bench.peer.dialect is Dialect.IBLUTIL
    assert bench.events(DialectDetected) == [DialectDetected(NAME, Dialect.IBLUTIL)]
    assert bench.peer.state is LinkState.ALIVE
    bench.run(14.9)
    assert bench.sent(Line.PROBES) == []  # the burst ends there
    bench.run(0.2)
    assert len(bench.sent(Line.PROBES)) == 1


def test_a_request_waits_until_the_dialect_is_known() -> None:
    bench = PeerBench().connect()
    request = bench.submit("EXPINIT", {"a": 1})
    assert bench.run(1) == []
    bench.alive()
    assert bench.sent() == [bench.frame(request)]
    assert bench.frame(request) == messages.request(COORDINATOR, 1, request.message, RIG)


def test_a_request_waits_for_the_echo_of_a_probe_as_well() -> None:
    bench = PeerBench().connect()
    request = bench.submit("EXPINIT", {"a": 1})
    bench.receive(bench.sent(Line.PROBES)[0], Line.PROBES)
    assert bench.sent() == [b'[1,{"a":1} ]'] == [request.array]


def test_a_configured_iblutil_rig_needs_no_detection() -> None:
    bench = PeerBench(dialect="iblutil").connect()
    request = bench.submit("EXPINIT")
    assert bench.sent() == [request.array]


def test_a_configured_rigsync_rig_is_asked_when_it_is_known_who_is_asked() -> None:
    bench = PeerBench(dialect="rigsync").connect()
    request = bench.submit("EXPINIT")
    assert bench.run(1) == []
    bench.alive()
    assert bench.sent() == [bench.frame(request, to=RIG)]


def test_a_configured_dialect_is_kept_whatever_the_rig_sends() -> None:
    bench = PeerBench(dialect="iblutil").connect()
    bench.alive()
    assert bench.peer.dialect is Dialect.IBLUTIL
    assert bench.peer.state is LinkState.ALIVE


def test_a_rig_that_comes_back_with_the_other_dialect_is_asked_in_it(ibl: PeerBench) -> None:
    request = ibl.submit("EXPINIT")
    following = ibl.submit("EXPSTART")
    assert ibl.sent() == [request.array]
    ibl.alive()
    assert type(ibl.outcome()) is errors.RigRestarted  # it may have been run by the program that was there before
    assert ibl.sent() == [ibl.frame(following)]
    ibl.reply({})
    assert ibl.outcome() == [{}]


# ------------------------------------------------------------------------------------------------------- probes


def test_an_alive_tells_the_rig_s_state(bench: PeerBench) -> None:
    bench.receive(messages.alive(Alive(RIG, 9, 1, 2, 3, NAME, ExpStatus.RUNNING, "2024-01-02_1_m", "9.9")))
    peer = bench.peer
    assert (peer.process.status, peer.process.exp_ref, peer.process.version) == (
        ExpStatus.RUNNING,
        "2024-01-02_1_m",
        "9.9",
    )


def test_an_answered_probe_gives_the_four_stamps_and_the_round_trip_without_the_time_in_the_rig() -> None:
    bench = PeerBench().connect()
    bench.now = 0.030
    bench.receive(messages.alive(Alive(RIG, 1, WALL, 7_000_000, 17_000_000, NAME, ExpStatus.CONNECTED, None, "")))
    (answered,) = bench.events(ProbeAnswered)
    assert answered.n == 1
    assert answered.round_trip == pytest.approx(0.020)
    assert answered.stamps == (WALL, 7_000_000, 17_000_000, WALL + 30_000_000)


def test_an_echoed_probe_has_no_stamps() -> None:
    bench = PeerBench().connect()
    bench.now = 0.004
    bench.receive(bench.sent(Line.PROBES)[0], Line.PROBES)
    (answered,) = bench.events(ProbeAnswered)
    assert (answered.n, answered.stamps) == (1, None)
    assert answered.round_trip == pytest.approx(0.004)


@pytest.mark.parametrize(("t1", "t2"), [(10**18, 0), (0, 10**18), (0, 2**63 - 1)])
def test_absurd_stamps_never_make_a_round_trip_negative(t1: int, t2: int) -> None:
    bench = PeerBench().connect()
    bench.now = 0.030
    bench.receive(messages.alive(Alive(RIG, 1, WALL, t1, t2, NAME, ExpStatus.CONNECTED, None, "")))
    (answered,) = bench.events(ProbeAnswered)
    assert 0 <= answered.round_trip <= 0.030


def test_the_second_copy_of_an_answer_is_a_sign_of_life_and_no_more(bench: PeerBench) -> None:
    bench.alive(1)
    bench.alive(1000)
    assert bench.events(ProbeAnswered) == []


def test_a_probe_can_be_sent_beside_the_regular_ones(bench: PeerBench) -> None:
    n = bench.peer.probe(bench.now)
    assert [decode(data).n for data in bench.sent(Line.PROBES)] == [n]  # type: ignore[union-attr]
    bench.alive(n)
    assert [answered.n for answered in bench.events(ProbeAnswered)] == [n]


def test_the_probe_of_another_coordinator_is_no_echo(bench: PeerBench) -> None:
    bench.receive(messages.probe("d" * 16, 1, 0), Line.PROBES)
    assert bench.peer.dialect is Dialect.RIGSYNC
    assert bench.peer.violations == {"stray frame": 1}


# ---------------------------------------------------------------------------------------------- asking and resending


def test_a_reply_settles_the_request(bench: PeerBench) -> None:
    request = bench.submit("EXPINFO")
    assert bench.sent() == [bench.frame(request)]
    bench.reply(20, {"a": 1})
    assert bench.outcome() == [20, {"a": 1}]
    (received,) = bench.events(MessageReceived)
    assert (received.rig, received.event, received.args, received.request_time) == (
        NAME,
        ExpMessage.EXPINFO,
        [20, {"a": 1}],
        1.0,
    )
    assert bench.run(3) == []


def test_a_failure_settles_the_request_with_type_text_and_traceback(bench: PeerBench) -> None:
    bench.submit("EXPSTART")
    bench.failure("FileNotFoundError", "no disk D:", "Traceback ...")
    error = bench.outcome()
    assert isinstance(error, RemoteError)
    assert (error.rig, error.error, error.message, error.traceback) == (
        NAME,
        "FileNotFoundError",
        "no disk D:",
        "Traceback ...",
    )
    assert bench.events(MessageReceived) == []


def twice(*times: float) -> list[float]:
    """Return each time twice: after `SINGLE_TRIES` a request leaves in two copies, until the rig has confirmed it."""
    assert SINGLE_TRIES == 2
    return [time for time in times for _ in range(2)]


def test_a_request_that_was_confirmed_is_asked_again_in_one_copy(bench: PeerBench) -> None:
    bench.submit("EXPINIT", timeout=20)
    bench.run(0.5)
    bench.ack()
    assert bench.run(2.5) == pytest.approx([1.0, 2.0])


def test_a_request_is_sent_again_until_something_is_heard_of_it(bench: PeerBench) -> None:
    request = bench.submit("EXPINIT")
    expected = [0.025, *twice(0.075, 0.175, 0.375, 0.775, 1.575, 2.575)]
    times = bench.run(2.6)
    assert times == pytest.approx(expected)
    assert set(bench.sent()) == {bench.frame(request)}


def test_nothing_is_sent_after_the_deadline(bench: PeerBench) -> None:
    bench.submit("EXPINIT", timeout=0.5)
    assert bench.run(20) == pytest.approx([0.025, *twice(0.075, 0.175, 0.375)])
    assert isinstance(bench.outcome(), RigTimeout)


def test_after_an_ack_the_request_is_asked_again_each_second(bench: PeerBench) -> None:
    request = bench.submit("EXPINIT", timeout=4.5)
    bench.run(0.010)
    bench.sent()
    bench.ack()
    assert bench.run(4) == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert bench.sent() == [bench.frame(request)] * 4


def test_each_ack_puts_the_next_asking_off(bench: PeerBench) -> None:
    bench.submit("EXPINIT")
    bench.ack()
    bench.run(0.9)
    bench.ack()
    assert bench.run(1.5) == pytest.approx([1.0])


def test_asking_again_recovers_a_lost_reply(bench: PeerBench) -> None:
    bench.submit("EXPINIT")
    bench.ack()
    assert bench.run(1.5) == [1.0]
    bench.reply({"done": True})
    assert bench.outcome() == [{"done": True}]


def resent_after(bench: PeerBench) -> float:
    """Return after how many seconds of silence a new request is sent again."""
    bench.submit("EXPINFO")
    bench.sent()
    (first, *_) = bench.run(1.1)
    return first


def answered_after(seconds: float) -> PeerBench:
    """Return a bench whose first probe took so long; the others are never answered."""
    bench = PeerBench(timing=Timing(beat=20.0)).connect()
    bench.run(seconds)
    bench.alive()
    return bench


def test_the_first_round_trip_is_measured_with_probes() -> None:
    assert resent_after(answered_after(0.2)) == pytest.approx(0.2 + 4 * 0.1)


def test_a_round_trip_of_a_request_that_was_sent_once_is_a_sample() -> None:
    bench = answered_after(0.2)
    bench.submit("EXPINFO")
    bench.run(0.1)
    bench.reply(20, None)
    # SRTT 7/8 * 0.2 + 1/8 * 0.1, RTTVAR 3/4 * 0.1 + 1/4 * 0.1
    assert resent_after(bench) == pytest.approx(0.1875 + 4 * 0.1)


def test_a_round_trip_of_a_request_that_was_sent_twice_is_none_by_karn_s_rule() -> None:
    bench = answered_after(0.2)
    bench.submit("EXPINFO")
    assert bench.run(0.65) == [0.6]
    bench.reply(20, None)
    assert resent_after(bench) == pytest.approx(0.6)


def test_an_ack_is_a_sample_and_the_reply_after_it_is_none() -> None:
    bench = answered_after(0.2)
    bench.submit("EXPINFO")
    bench.run(0.1)
    bench.ack()
    bench.run(0.7)
    bench.reply(20, None)
    assert resent_after(bench) == pytest.approx(0.1875 + 4 * 0.1)


def test_one_request_is_outstanding_at_a_time_in_the_order_of_pushing(bench: PeerBench) -> None:
    requests = [bench.submit(event) for event in ("EXPINIT", "EXPSTART", "EXPEND")]
    for n, request in enumerate(requests, 1):
        assert bench.sent() == [bench.frame(request)]
        bench.reply({}, n=n)
    assert [request_time for request_time, _ in bench.outcomes] == [1.0, 2.0, 3.0]


def test_the_next_request_is_sent_when_one_is_given_up(bench: PeerBench) -> None:
    bench.submit("EXPINIT", timeout=0.5)
    second = bench.submit("EXPSTART", timeout=10)
    bench.run(0.49)
    bench.sent()
    assert bench.run(0.02) == [0.01]
    assert bench.sent() == [bench.frame(second)]
    assert isinstance(bench.outcome(), RigTimeout)


def test_a_late_answer_is_counted_and_dropped(bench: PeerBench) -> None:
    bench.submit("EXPINIT", timeout=0.5)
    bench.run(1)
    bench.outcome()
    for answer in (bench.reply, bench.ack):
        answer()
    bench.failure("ValueError")
    assert bench.peer.violations == {"late answer": 3}
    assert bench.events(MessageReceived) + bench.events(ViolationSeen) == []
    assert bench.outcomes == []


@pytest.mark.parametrize("n", [0, 1, 3, 2**63 - 1])
def test_the_answer_to_another_request_does_not_settle_this_one(bench: PeerBench, n: int) -> None:
    bench.submit("EXPINIT")
    bench.reply({})
    bench.outcome()
    bench.submit("EXPSTART")
    bench.reply("not this", n=n)
    assert bench.outcomes == []
    assert bench.peer.violations == {"late answer": 1}
    bench.reply("this")
    assert bench.outcome() == ["this"]


def test_the_answer_to_a_request_that_still_waits_does_not_settle_it() -> None:
    bench = PeerBench().connect()
    bench.submit("EXPINIT")
    bench.submit("EXPSTART")
    bench.reply({}, n=2)
    assert bench.outcomes == []


def test_an_answer_to_what_was_not_sent_yet_does_not_settle_it() -> None:
    bench = PeerBench(dialect="iblutil").connect()
    bench.submit("EXPINIT")
    interrupt = bench.submit("EXPINTERRUPT")  # waits for the echo of EXPINIT
    bench.outcomes.clear()
    bench.sent()
    bench.reply({}, n=interrupt.n)
    assert bench.outcomes == []
    assert bench.run(1) == [1.0]


def test_receipt_is_told_once_to_who_asked(bench: PeerBench) -> None:
    bench.submit("EXPINIT", confirm=True)
    bench.ack()
    assert bench.events(RequestReceived) == [RequestReceived(NAME, 1.0)]
    bench.ack()
    bench.reply({})
    assert bench.events(RequestReceived) == []
    bench.submit("EXPINIT")
    bench.ack()
    assert bench.events(RequestReceived) == []


@pytest.mark.parametrize("settle", ["reply", "failure"])
def test_an_answer_without_an_ack_tells_receipt_first(bench: PeerBench, settle: str) -> None:
    bench.submit("EXPINIT", confirm=True)
    bench.reply({}) if settle == "reply" else bench.failure("ValueError")
    told = bench.events()
    assert isinstance(told[0], RequestReceived)
    assert [type(event) for event in told[1:]] == ([MessageReceived] if settle == "reply" else [])


# --------------------------------------------------------------------------------------------------- interrupting


def test_an_interrupt_overtakes_what_is_outstanding_and_what_waits(bench: PeerBench) -> None:
    for event in ("EXPINIT", "EXPSTART", "EXPEND"):
        bench.submit(event)
    bench.sent()
    interrupt = bench.submit("EXPINTERRUPT")
    assert bench.sent() == [bench.frame(interrupt)]
    assert [request_time for request_time, _ in bench.outcomes] == [1.0, 2.0, 3.0]
    for (_, error), name in zip(bench.outcomes, ("EXPINIT", "EXPSTART", "EXPEND"), strict=True):
        assert isinstance(error, Interrupted)
        assert str(error) == f"{NAME}: {name} was overtaken by EXPINTERRUPT before it was answered"
    bench.outcomes.clear()
    bench.reply({})
    assert bench.outcome() == [{}]


def test_an_interrupt_overtakes_what_was_acknowledged(bench: PeerBench) -> None:
    bench.submit("EXPSTART")
    bench.ack()
    bench.sent()
    interrupt = bench.submit("EXPINTERRUPT")
    assert bench.sent() == [bench.frame(interrupt)]
    bench.reply({}, n=1)  # of the EXPSTART: too late
    assert [type(outcome) for _, outcome in bench.outcomes] == [Interrupted]
    assert bench.peer.violations == {"late answer": 1}


def test_an_interrupt_never_overtakes_another(bench: PeerBench) -> None:
    first = bench.submit("EXPINTERRUPT")
    second = bench.submit("EXPINTERRUPT")
    bench.submit("EXPINFO")
    third = bench.submit("EXPINTERRUPT")
    assert bench.sent() == [bench.frame(first)]
    assert [(at, type(outcome)) for at, outcome in bench.outcomes] == [(3.0, Interrupted)]
    bench.outcomes.clear()
    for n, following in ((1, [bench.frame(second)]), (2, [bench.frame(third)]), (4, [])):
        bench.reply({}, n=n)
        assert bench.sent() == following
    assert [at for at, outcome in bench.outcomes if outcome == [{}]] == [1.0, 2.0, 4.0]


def test_what_comes_after_an_interrupt_waits_for_its_answer(bench: PeerBench) -> None:
    bench.submit("EXPINTERRUPT")
    bench.sent()
    following = bench.submit("EXPCLEANUP")
    assert bench.sent() == []
    bench.reply({}, n=1)
    assert bench.sent() == [bench.frame(following)]


def test_an_interrupt_is_resent_like_any_other_request(bench: PeerBench) -> None:
    bench.submit("EXPINTERRUPT")
    assert bench.run(0.2) == pytest.approx([0.025, *twice(0.075, 0.175)])


def test_an_interrupt_overtakes_before_the_rig_is_known() -> None:
    bench = PeerBench().connect()
    bench.submit("EXPSTART")
    interrupt = bench.submit("EXPINTERRUPT")
    assert isinstance(bench.outcome(), Interrupted)
    bench.alive()
    assert bench.sent() == [bench.frame(interrupt)]


# ----------------------------------------------------------------------------------------- silence and its outcomes


def test_a_rig_that_answers_probes_but_not_the_request_is_a_timeout(bench: PeerBench) -> None:
    bench.submit("EXPSTART", timeout=2.0)
    for n in range(2, 6):
        bench.run(0.5)
        bench.alive(n)
    error = bench.outcome()
    assert type(error) is RigTimeout
    assert isinstance(error, TimeoutError)
    assert str(error).startswith(f"{NAME}: no answer to EXPSTART in time: sent 7 times without a sign of it; look at")


def test_an_answer_that_does_not_arrive_is_told_as_such_and_asked_for_without_patience(bench: PeerBench) -> None:
    bench.submit("EXPEND", timeout=2.0, patience=60.0)
    bench.receive(messages.ack(RIG, bench.n, done=31_000))
    times = bench.run(0.5)
    assert len(times) >= 2  # as often as before
    assert len(set(times)) == len(times)  # in one copy
    bench.alive(2)
    bench.run(1.5)
    error = bench.outcome()
    assert type(error) is RigTimeout
    assert "the rig has run it, but its answer of 31 kB does not arrive" in str(error)
    assert "tcp://" in str(error)


def test_the_deadline_is_kept_to_the_instant(bench: PeerBench) -> None:
    bench.submit("EXPSTART", timeout=2.0)
    bench.run(1.999999)
    assert bench.outcomes == []
    bench.run(0.000001)
    assert type(bench.outcome()) is RigTimeout


def test_a_rig_that_has_it_and_is_slow_is_a_timeout_that_says_so(bench: PeerBench) -> None:
    bench.submit("EXPSTART", timeout=2.0)
    bench.ack()
    bench.run(2.0)
    error = bench.outcome()
    assert type(error) is RigTimeout
    assert "the rig has it and is still working on it" in str(error)


def test_what_never_left_the_queue_is_a_timeout_that_says_so(bench: PeerBench) -> None:
    bench.submit("EXPSTART", timeout=5)
    bench.submit("EXPEND", timeout=1)
    bench.run(1.0)
    error = bench.outcome()
    assert type(error) is RigTimeout
    assert "EXPEND in time: it was still waiting behind earlier messages" in str(error)


def test_a_rig_of_which_nothing_was_ever_heard_is_a_timeout_that_says_so() -> None:
    bench = PeerBench().connect()
    bench.submit("EXPINIT", timeout=2.0)
    bench.run(2.0)
    error = bench.outcome()
    assert type(error) is RigTimeout
    assert f"nothing has ever come from {ADDRESS}; is the rig's program running there?" in str(error)


def test_a_request_to_a_lost_rig_is_sent_all_the_same_and_settled_after_1_s(bench: PeerBench) -> None:
    bench.run(20)
    assert bench.peer.state is LinkState.LOST
    request = bench.submit("EXPSTART", timeout=60)
    assert bench.sent() == [bench.frame(request)]
    bench.run(0.999)
    assert bench.outcomes == []
    bench.run(0.001)
    error = bench.outcome()
    assert type(error) is RigLost
    assert isinstance(error, TimeoutError)
    assert str(error) == (
        f"{NAME}: no answer to EXPSTART and the rig is lost (silent for 5.0 s); "
        f"check the power, the cable and the firewall of {ADDRESS}"
    )


def test_what_is_outstanding_when_the_link_is_lost_is_settled_1_s_later(bench: PeerBench) -> None:
    bench.submit("EXPSTART", timeout=60)
    bench.submit("EXPEND", timeout=60)
    bench.run(5.999)
    assert bench.outcomes == []
    bench.run(0.001)
    assert [(at, type(outcome)) for at, outcome in bench.outcomes] == [(1.0, RigLost), (2.0, RigLost)]


def test_a_lost_rig_that_answers_within_its_second_has_not_failed(bench: PeerBench) -> None:
    bench.run(20)
    bench.submit("EXPSTART", timeout=60)
    bench.run(0.9)
    bench.ack()
    assert bench.peer.state is LinkState.ALIVE
    bench.run(2)
    bench.reply({})
    assert bench.outcome() == [{}]


def test_the_deadline_holds_for_a_lost_rig_too(bench: PeerBench) -> None:
    bench.run(20)
    bench.submit("EXPSTART", timeout=0.3)
    bench.run(0.3)
    assert type(bench.outcome()) is RigLost


def test_a_refusal_is_told_apart_from_silence() -> None:
    bench = PeerBench().connect()
    bench.submit("EXPSTART", timeout=60)
    bench.peer.report_refusal(bench.now)
    assert bench.events(ProbeRefused) == [ProbeRefused(NAME)]
    assert [event.after for event in bench.events(LinkChanged)] == [LinkState.LOST]
    bench.run(1.0)
    error = bench.outcome()
    assert type(error) is RigRefused
    assert isinstance(error, ConnectionRefusedError)
    assert not isinstance(error, TimeoutError)
    assert str(error) == (
        f"{NAME}: EXPSTART was refused: the host of {ADDRESS} is up and nothing listens at that port; "
        "start the rig's program there, or correct the port"
    )


def test_a_rig_whose_program_starts_within_the_second_has_not_failed() -> None:
    bench = PeerBench().connect()
    request = bench.submit("EXPINIT", timeout=60)
    bench.peer.report_refusal(bench.now)
    bench.run(0.5)
    bench.alive(2)
    assert bench.sent() == [bench.frame(request)]
    bench.run(3)
    assert bench.outcomes == []
    bench.reply({})
    assert bench.outcome() == [{}]


def test_refusals_that_go_on_do_not_put_the_outcome_off() -> None:
    bench = PeerBench().connect()
    bench.submit("EXPSTART", timeout=60)
    for _ in range(100):
        bench.peer.report_refusal(bench.now)
        bench.run(0.01)
    assert type(bench.outcome()) is RigRefused
    assert len(bench.events(LinkChanged)) == 1


def test_the_link_changes_are_told_with_their_reason(bench: PeerBench) -> None:
    bench.run(6)
    changes = bench.events(LinkChanged)
    assert changes == [
        events.LinkSuspect(NAME, LinkState.ALIVE, LinkState.SUSPECT, "silent for 3.0 s"),
        events.LinkLost(NAME, LinkState.SUSPECT, LinkState.LOST, "silent for 5.0 s"),
    ]
    assert [type(change) for change in changes] == [events.LinkSuspect, events.LinkLost]
    assert bench.peer.reason == "silent for 5.0 s"
    bench.alive(2)
    assert [type(change) for change in bench.events(LinkChanged)] == [events.LinkAlive]


# ------------------------------------------------------------------------------------ this program has stood still


@pytest.mark.parametrize("dialect", ["rigsync", "iblutil"])
def test_what_this_program_did_not_hear_while_it_stood_still_is_no_silence_of_the_rig(dialect: str) -> None:
    bench = PeerBench().connected(dialect)
    bench.run(1)
    bench.now += 3600
    bench.peer.note_standstill(3599.5, bench.now)
    bench.run(1.4)
    assert bench.events(LinkChanged) == []
    bench.run(50)
    assert bench.peer.state is LinkState.LOST  # as ever


def test_an_answer_that_has_come_while_this_program_stood_still_counts(bench: PeerBench) -> None:
    bench.submit("EXPSTART", timeout=3.0)
    bench.submit("EXPINFO", timeout=3.0)
    bench.now += 60
    bench.peer.note_standstill(59.5, bench.now)
    bench.peer.handle_timer(bench.now)
    assert bench.outcomes == []
    bench.reply("2026-03-01_2_mouse", {}, n=1)
    assert bench.outcome() == ["2026-03-01_2_mouse", {}]
    bench.run(2)
    assert isinstance(bench.outcome(), RigTimeout)  # nothing came for that one


def test_a_rig_that_was_lost_before_is_given_its_grace_anew(bench: PeerBench) -> None:
    bench.run(6)
    bench.submit("EXPSTART")
    bench.now += 60
    bench.peer.note_standstill(59.5, bench.now)
    assert bench.run(0.9)
    assert bench.outcomes == []
    bench.run(0.2)
    assert isinstance(bench.outcome(), RigLost)


@pytest.mark.parametrize("lost", [False, True])
def test_a_program_that_stands_still_again_and_again_gives_up_all_the_same(bench: PeerBench, lost: bool) -> None:
    if lost:
        bench.run(6)
    bench.submit("EXPSTART", timeout=3.0)
    bench.submit("EXPINFO", timeout=3.0)
    for _ in range(10):
        bench.now += 1.5
        bench.peer.note_standstill(1.2, bench.now)
        bench.peer.handle_timer(bench.now)
    assert [type(outcome) for _, outcome in bench.outcomes] == [RigLost if lost else RigTimeout] * 2


# ------------------------------------------------------------------------------------------- restarts and goodbyes


def test_a_new_boot_is_a_restart_and_is_told_once(bench: PeerBench) -> None:
    bench.alive(2, boot=NEW)
    bench.alive(3, boot=NEW)
    assert bench.events(RestartSeen) == [RestartSeen(NAME)]


def test_a_rig_that_restarts_during_the_first_probes_is_met_whichever_answer_comes_first() -> None:
    bench = PeerBench().connect()
    bench.run(0.1)
    bench.alive(2, boot=NEW)
    bench.alive(1, boot=RIG)  # from before the restart, and late
    bench.alive(3, boot=NEW)  # of that burst too, so that nobody can tell
    assert bench.peer.process.boot == RIG
    bench.run(1.0)
    bench.alive(bench.peer.prober.n, boot=NEW)
    assert bench.peer.process.boot == NEW
    bench.run(3.0)
    bench.alive(bench.peer.prober.n, boot=NEW)
    assert bench.peer.state is LinkState.ALIVE


def test_the_first_boot_is_no_restart() -> None:
    bench = PeerBench().connect()
    bench.alive()
    assert bench.events(RestartSeen) == []


def test_datagrams_from_before_the_restart_are_dropped(bench: PeerBench) -> None:
    request = bench.submit("EXPSTART")
    bench.alive(2, boot=NEW)
    bench.events()
    bench.run(20)
    assert bench.peer.state is LinkState.LOST
    bench.outcomes.clear()
    bench.events()
    request = bench.submit("EXPSTART")
    bench.reply({}, n=request.n, boot=RIG)
    bench.ack(n=request.n, boot=RIG)
    old = Alive(RIG, 1, WALL, WALL, WALL, NAME, ExpStatus.RUNNING, None, "")  # to a probe that was answered since
    bench.receive(messages.alive(old), Line.PROBES)
    bench.receive(messages.bye(RIG, 0, "closing"))
    assert bench.peer.violations == {"unknown boot": 4}
    assert bench.peer.state is LinkState.LOST  # they are no sign of life
    assert bench.peer.process.status is ExpStatus.CONNECTED
    assert bench.outcomes == []
    assert bench.events() == []


@pytest.mark.parametrize("acknowledged", [False, True])
def test_what_the_old_process_had_is_never_asked_of_the_new_one(bench: PeerBench, acknowledged: bool) -> None:
    bench.submit("EXPSTART")
    if acknowledged:
        bench.ack()
    bench.run(0.5)
    bench.sent()
    bench.alive(2, boot=NEW)
    error = bench.outcome()
    assert type(error) is errors.RigRestarted
    assert str(error) == (
        f"{NAME}: the rig's program was started anew while EXPSTART was outstanding, and the new one does not run it; "
        "look at the rig for what became of its recording, and begin again with EXPINIT"
    )
    assert bench.run(3) == []
    bench.reply({}, boot=NEW)
    assert bench.outcomes == []


@pytest.mark.parametrize(
    ("done", "of"),
    [
        ([("EXPINIT", [{"exp_ref": "ref"}], [{}])], "ref"),
        ([("EXPINIT", [], [{}])], ""),
        ([("EXPINIT", [], [{}]), ("EXPSTART", ["ref"], ["ref", {}])], "ref"),
        ([("EXPINIT", ["ref"], [{}]), ("EXPSTART", [], ["ref", {}])], "ref"),
        ([("EXPINIT", ["x" * 501], [{}])], ""),
        ([("EXPINIT", ["ref"], [{}]), ("EXPSTART", ["ref"], [5])], "ref"),
        ([("EXPSTART", ["ref"], [])], "ref"),
        ([("EXPSTART", ["ref"], ["ref", {}]), ("EXPEND", [], [{}])], None),
        ([("EXPSTART", ["ref"], ["ref", {}]), ("EXPINTERRUPT", [], [{}])], None),
        ([("EXPSTART", ["ref"], ["ref", {}]), ("EXPCLEANUP", [], [{}])], None),
        ([], None),
    ],
)
def test_an_end_for_another_process_says_what_it_is_to_end(
    bench: PeerBench, done: list[tuple[str, list[Any], list[Any]]], of: str | None
) -> None:
    for event, args, answer in done:
        bench.reply(*answer, n=bench.submit(event, *args).n)
    bench.outcomes.clear()
    bench.sent()
    request = bench.submit("EXPEND")
    assert bench.sent() == [bench.frame(request)]  # to the one that has begun it, as ever
    bench.failure("OSError", "no disk", n=request.n)
    bench.alive(2, boot=NEW)
    request = bench.submit("EXPEND")
    (data,) = bench.sent()
    assert data == messages.request(COORDINATOR, request.n, request.message, NEW, None, of)


@pytest.mark.parametrize("ends", [["EXPINTERRUPT"], ["EXPCLEANUP"], ["EXPINTERRUPT", "EXPCLEANUP"]])
def test_what_another_process_has_answered_has_ended_nothing_of_the_one_that_has_begun(
    bench: PeerBench, ends: list[str]
) -> None:
    bench.reply({}, n=bench.submit("EXPINIT", {"exp_ref": "ref"}).n)
    bench.alive(2, boot=NEW)
    for event in ends:
        bench.reply({}, n=bench.submit(event).n, boot=NEW)
    bench.sent()
    request = bench.submit("EXPEND")
    assert bench.sent() == [messages.request(COORDINATOR, request.n, request.message, NEW, None, "ref")]


@pytest.mark.parametrize(
    ("event", "told", "is_failure"),
    [
        ("EXPEND", {"interrupted": "ffmpeg has ended"}, True),
        ("EXPEND", {"interrupted": ""}, False),
        ("EXPEND", {"interrupted": True}, False),
        ("EXPEND", ["interrupted"], False),
        ("EXPINTERRUPT", {"interrupted": "ffmpeg has ended"}, False),
    ],
)
def test_an_older_rig_s_answer_to_an_end_may_tell_that_it_has_ended_badly(
    bench: PeerBench, event: str, told: Any, is_failure: bool
) -> None:
    bench.reply(told, n=bench.submit(event).n)
    outcome = bench.outcome()
    if is_failure:
        assert (type(outcome), outcome.error, outcome.message) == (RemoteError, "EndedBadly", "ffmpeg has ended")
    else:
        assert outcome == [told]
    assert bool(bench.events(MessageReceived)) is not is_failure


def test_an_end_that_leaves_no_room_for_what_it_is_to_end_is_sent_without(bench: PeerBench) -> None:
    bench.reply({}, n=bench.submit("EXPINIT", "x" * 500).n)
    bench.outcomes.clear()
    bench.alive(2, boot=NEW)
    bench.sent()
    request = bench.submit("EXPEND", "x" * 65_250)
    assert bench.sent() == [bench.frame(request, to=NEW)]


def test_what_is_still_queued_when_the_rig_restarts_goes_to_the_new_process(bench: PeerBench) -> None:
    bench.submit("EXPSTART")
    second, third = bench.submit("EXPINFO"), bench.submit("EXPSTATUS")
    bench.sent()
    bench.alive(2, boot=NEW)
    assert [(at, type(outcome)) for at, outcome in bench.outcomes] == [(1.0, errors.RigRestarted)]
    assert bench.sent() == [bench.frame(second, to=NEW)]
    bench.reply(20, None, n=2, boot=NEW)
    assert bench.sent() == [bench.frame(third, to=NEW)]


def test_a_goodbye_loses_the_link_at_once(bench: PeerBench) -> None:
    bench.receive(messages.bye(RIG, 0, "the rig is closing"))
    assert bench.peer.state is LinkState.LOST
    assert bench.peer.reason == "it said goodbye: the rig is closing"
    bench.submit("EXPSTART", timeout=60)
    bench.run(1.0)
    error = bench.outcome()
    assert type(error) is RigLost
    assert "it said goodbye" in str(error)


@pytest.mark.parametrize("boot", [NEW, COORDINATOR])
def test_the_goodbye_of_somebody_else_means_nothing(bench: PeerBench, boot: str) -> None:
    bench.receive(messages.bye(boot, 0, "x"))
    assert bench.peer.state is LinkState.ALIVE
    assert bench.events(RestartSeen) == []


def test_a_goodbye_from_a_rig_never_heard_of_means_nothing() -> None:
    bench = PeerBench().connect()
    bench.receive(messages.bye(RIG, 0, "x"))
    assert bench.peer.state is LinkState.UNKNOWN
    assert bench.peer.dialect is Dialect.UNKNOWN


def test_a_coordinator_that_closes_says_goodbye_to_rigs_that_understand_it(bench: PeerBench, ibl: PeerBench) -> None:
    bench.peer.farewell()
    copies = [data for _, data in bench.outbox]
    assert len(copies) > 2  # for nobody is left to send it again
    assert len(set(copies)) == 1
    assert {line for (_, line), _ in bench.outbox} == set(Line)
    frame = decode(copies[0])
    assert isinstance(frame, Bye)
    assert frame.boot == COORDINATOR
    ibl.peer.farewell()
    assert ibl.outbox == []


# ------------------------------------------------------------------------------------------------------- junk


def test_junk_is_counted_and_told_once_per_kind(bench: PeerBench) -> None:
    for data in (b"hello", b"[", b"\xff", b"{}", b"[]", b"{", b"junk", b'["EXPINIT"]'):
        bench.receive(data)
    assert bench.peer.violations == {
        "junk": 3,
        "not JSON": 2,
        "foreign version": 1,
        "empty array": 1,
        "unknown event": 1,
    }
    told = bench.events(ViolationSeen)
    assert [event.kind for event in told] == ["junk", "not JSON", "foreign version", "empty array", "unknown event"]
    assert all(event.source == NAME and event.problem.startswith(event.kind) for event in told)


def test_junk_is_no_sign_of_life_and_the_next_good_datagram_is_handled_as_if_nothing_had_happened() -> None:
    bench = PeerBench().connect()
    bench.receive(b"hello")
    assert bench.peer.state is LinkState.UNKNOWN
    bench.submit("EXPINIT")
    bench.alive()
    bench.receive(b"[[[[")
    bench.reply({})
    assert bench.outcome() == [{}]


def test_a_request_from_a_rig_is_a_stray(bench: PeerBench) -> None:
    bench.receive(messages.request(RIG, 1, Message.of(ExpMessage.EXPEND, [None])))
    assert bench.peer.violations == {"stray frame": 1}


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"[1]", b'[0,"E",2]', b"[64,20,null\t]", b"[1 ]"])))
@settings(deadline=None, max_examples=60)
def test_no_bytes_from_outside_ever_raise(datagrams: list[bytes]) -> None:
    for dialect in ("rigsync", "iblutil"):
        bench = PeerBench().connected(dialect)
        bench.submit("EXPINIT")
        for data in datagrams:
            bench.receive(data)
            bench.run(0.1)
        bench.run(20)
        assert len(bench.outcomes) == 1


# --------------------------------------------------------------------------------------------------- withdrawing


def test_withdrawing_takes_out_what_was_not_sent(bench: PeerBench) -> None:
    bench.submit("EXPINIT")
    bench.submit("EXPSTART")
    bench.submit("EXPEND")
    assert bench.peer.requests.withdraw_queued() == [2.0, 3.0]
    assert [(at, type(outcome)) for at, outcome in bench.outcomes] == [(2.0, Aborted), (3.0, Aborted)]
    assert str(bench.outcomes[0][1]) == f"{NAME}: EXPSTART was taken out of the queue unsent"
    bench.outcomes.clear()
    bench.reply({}, n=1)
    assert bench.outcome() == [{}]
    bench.run(30)
    assert bench.outcomes == []


def test_withdrawing_takes_out_what_waits_for_the_rig_to_appear() -> None:
    bench = PeerBench().connect()
    bench.submit("EXPINIT")
    bench.submit("EXPSTART")
    assert bench.peer.requests.withdraw_queued() == [1.0, 2.0]
    bench.alive()
    assert bench.sent() == []
    assert bench.peer.requests.withdraw_queued() == []


# ------------------------------------------------------------------------------------------------ iblutil dialect


def test_a_request_is_settled_by_the_answer_of_its_own_event_which_is_echoed(ibl: PeerBench) -> None:
    request = ibl.submit("EXPINFO", None, {"q": 1})
    assert ibl.sent() == [b'[64,0,{"q":1} ]']
    ibl.receive(request.array)
    assert ibl.outbox == []  # an echo is not echoed
    assert ibl.outcomes == []
    answer = ibl.array(ExpMessage.EXPINFO, 20, {"a": 1})
    assert ibl.sent() == [answer]
    assert ibl.outcome() == [20, {"a": 1}]
    (received,) = ibl.events(MessageReceived)
    assert (received.event, received.args, received.request_time) == (ExpMessage.EXPINFO, [20, {"a": 1}], 1.0)


def test_the_echo_of_a_rigsync_rig_s_answer_keeps_its_mark(ibl: PeerBench) -> None:
    request = ibl.submit("EXPEND")
    ibl.sent()
    ibl.receive(request.array)
    ibl.receive(b"[4,null\t]")
    assert ibl.sent() == [b"[4,null\t]"]
    assert ibl.outcome() == [None]


def test_an_answer_with_the_content_of_the_request_is_no_echo(ibl: PeerBench) -> None:
    request = ibl.submit("EXPEND")
    assert ibl.sent() == [b"[4,null ]"]
    ibl.receive(request.array)
    assert ibl.outcomes == []
    ibl.receive(b"[4,null]")
    assert ibl.sent() == [b"[4,null]"]
    assert ibl.outcome() == [None]


def test_nothing_but_echoes_leaves_while_an_echo_is_outstanding(ibl: PeerBench) -> None:
    first = ibl.submit("EXPINIT")
    second = ibl.submit("EXPSTART")
    assert ibl.sent() == [first.array]
    assert ibl.run(0.99) == []
    ibl.receive(first.array)
    assert ibl.run(5) == []  # nor while the answer is
    unsolicited = ibl.array(ExpMessage.EXPSTATUS, 20)
    assert ibl.sent() == [unsolicited]
    answer = ibl.array(ExpMessage.EXPINIT, {})
    assert ibl.sent() == [answer, second.array]  # the echo first


def test_probes_go_on_from_the_other_socket_while_an_echo_is_outstanding(ibl: PeerBench) -> None:
    ibl.now = 14.9
    ibl.submit("EXPINIT", timeout=60)
    ibl.sent()
    ibl.run(0.2)
    assert len(ibl.sent(Line.PROBES)) == 1
    assert ibl.sent() == []


def test_an_iblutil_rig_is_not_asked_twice(ibl: PeerBench) -> None:
    ibl.submit("EXPINIT", timeout=40)
    assert ibl.run(39) == []


def test_a_rig_that_may_be_asked_twice_is_until_its_echo_comes() -> None:
    ibl = PeerBench(resend=True).connected("iblutil")
    request = ibl.submit("EXPINIT", timeout=40)
    ibl.sent()
    assert ibl.run(0.5) == pytest.approx([0.025, 0.075, 0.175, 0.375])
    assert ibl.sent() == [request.array] * 4
    ibl.receive(request.array)
    assert ibl.run(10) == []
    ibl.array(ExpMessage.EXPINIT, None)
    assert ibl.outcome() == [None]


def test_a_remote_error_fails_the_request_at_once_and_is_not_echoed(ibl: PeerBench) -> None:
    request = ibl.submit("EXPSTART")
    ibl.sent()
    ibl.receive(request.array)
    ibl.array(ExpMessage(0), "FileNotFoundError: no disk D: there", 2)
    error = ibl.outcome()
    assert isinstance(error, RemoteError)
    assert (error.error, error.message, error.traceback) == ("FileNotFoundError", "no disk D: there", "")
    assert str(error) == f"{NAME}: FileNotFoundError: no disk D: there"
    assert ibl.outbox == []


def test_a_remote_error_without_a_text_keeps_its_type(ibl: PeerBench) -> None:
    ibl.receive(ibl.submit("EXPSTART").array)
    ibl.array(ExpMessage(0), "KeyError", 2)
    error = ibl.outcome()
    assert (error.error, error.message) == ("KeyError", "")


def test_a_remote_error_for_another_message_is_told_and_does_not_fail_this_one(ibl: PeerBench) -> None:
    ibl.submit("EXPSTART")
    ibl.sent()
    ibl.array(ExpMessage(0), "KeyError: x", int(ExpMessage.EXPINFO))
    assert ibl.outcomes == []
    assert ibl.events(RemoteComplaint) == [RemoteComplaint(NAME, ExpMessage.EXPINFO, "KeyError: x")]
    assert ibl.outbox == []


def test_an_unsolicited_message_is_echoed_and_told_and_the_request_goes_on_waiting(ibl: PeerBench) -> None:
    request = ibl.submit("EXPSTART")
    ibl.sent()
    data = ibl.array(ExpMessage.EXPINFO, 20, {"frame": 7})
    assert ibl.sent() == [data]
    (told,) = ibl.events(MessageReceived)
    assert (told.event, told.args, told.request_time) == (ExpMessage.EXPINFO, [20, {"frame": 7}], None)
    assert ibl.outcomes == []
    ibl.receive(request.array)
    ibl.array(ExpMessage.EXPSTART, "ref", {})
    assert ibl.outcome() == ["ref", {}]


def test_a_message_to_an_idle_coordinator_is_echoed_and_told(ibl: PeerBench) -> None:
    data = ibl.array(ExpMessage.EXPEND, None)
    assert ibl.sent() == [data]
    assert [event.request_time for event in ibl.events(MessageReceived)] == [None]


def test_a_second_echo_is_ignored(ibl: PeerBench) -> None:
    request = ibl.submit("EXPSTART")
    ibl.sent()
    for _ in range(3):
        ibl.receive(request.array)
    assert ibl.outbox == []
    assert ibl.events(MessageReceived) == []
    ibl.array(ExpMessage.EXPSTART, None, None)
    ibl.receive(request.array)
    assert ibl.outcome() == [None, None]
    assert ibl.peer.violations == {"late echo": 3}
    assert ibl.events(ViolationSeen) == []  # duplication is ordinary
    assert len(ibl.sent()) == 1


def test_what_comes_before_the_echo_is_no_answer_but_that_to_a_message_that_was_given_up(ibl: PeerBench) -> None:
    ibl.submit("EXPEND", timeout=1)
    ibl.run(1.5)
    assert isinstance(ibl.outcome(), RigTimeout)
    request = ibl.submit("EXPEND")
    ibl.sent()
    ibl.events()
    late = ibl.array(ExpMessage.EXPEND, {"files": ["of the first"]})
    ibl.array(ExpMessage(0), "OSError: of the first", int(ExpMessage.EXPEND))
    assert ibl.sent() == [late]
    assert ibl.outcomes == []
    assert [event.request_time for event in ibl.events(MessageReceived)] == [None]
    ibl.receive(request.array)
    ibl.array(ExpMessage.EXPEND, {"files": ["of the second"]})
    assert ibl.outcome() == [{"files": ["of the second"]}]


def test_an_answer_that_names_another_experiment_is_none_to_this_start(ibl: PeerBench) -> None:
    request = ibl.submit("EXPSTART", "2024-01-02_2_mouse")
    ibl.receive(request.array)
    ibl.array(ExpMessage.EXPSTART, "2024-01-02_1_mouse", {})
    assert ibl.outcomes == []
    ibl.array(ExpMessage.EXPSTART, "2024-01-02_002_mouse", {})
    assert ibl.outcome() == ["2024-01-02_002_mouse", {}]


def test_an_answer_to_start_need_not_name_the_experiment(ibl: PeerBench) -> None:
    ibl.receive(ibl.submit("EXPSTART", "2024-01-02_2_mouse").array)
    ibl.array(ExpMessage.EXPSTART, "started", None)
    assert ibl.outcome() == ["started", None]


TOKEN = SimpleNamespace(base_url="https://alyx", user="ana", _token={"token": "t"}, is_logged_in=True)


def test_alyx_with_a_token_is_settled_by_its_echo(ibl: PeerBench) -> None:
    request = ibl.submit("ALYX", TOKEN, confirm=True)
    following = ibl.submit("EXPINFO")
    ibl.sent()
    ibl.receive(request.array)
    assert ibl.outcome() == []
    assert ibl.sent() == [following.array]
    assert [type(event) for event in ibl.events()] == [RequestReceived, MessageReceived]


def test_alyx_without_a_token_is_settled_by_its_answer(ibl: PeerBench) -> None:
    request = ibl.submit("ALYX")
    ibl.sent()
    ibl.receive(request.array)
    assert ibl.outcomes == []
    answer = ibl.array(ExpMessage.ALYX, "https://alyx", {"ana": {"token": "t"}})
    assert ibl.sent() == [answer]
    assert ibl.outcome() == ["https://alyx", {"ana": {"token": "t"}}]


def test_an_echo_after_its_second_still_confirms_the_request(ibl: PeerBench) -> None:
    request = ibl.submit("ALYX", TOKEN, confirm=True)
    ibl.run(1.5)
    ibl.receive(request.array)
    assert ibl.outcome() == []
    assert ibl.events(RequestReceived) == [RequestReceived(NAME, 1.0)]


def test_a_rig_that_has_confirmed_and_does_not_answer_is_told_apart_from_one_that_has_not(ibl: PeerBench) -> None:
    request = ibl.submit("EXPSTART", timeout=2)
    ibl.receive(request.array)
    ibl.run(2)
    text = str(ibl.outcome())
    assert "the iblutil rig has received it, and says no more" in text
    assert "still working" not in text  # one echo says that the bytes came, and nothing more
    assert "has ended, or has dropped it" in text
    assert "if it has ended, start it and begin again with EXPINIT" in text
    ibl.submit("EXPEND", timeout=2)
    ibl.run(2)
    error = ibl.outcome()
    assert type(error) is RigTimeout
    assert "the iblutil rig did not confirm it" in str(error)
    assert "closes its socket for good" in str(error)
    assert "restart its program" in str(error)


def test_after_a_missing_echo_the_next_request_waits_until_the_rig_no_longer_awaits_it(ibl: PeerBench) -> None:
    ibl.submit("EXPSTART", timeout=0.25)
    following = ibl.submit("EXPEND", timeout=10)
    ibl.sent()
    assert ibl.run(2) == [1.0]
    assert ibl.sent() == [following.array]


def test_an_interrupt_waits_for_the_outstanding_echo(ibl: PeerBench) -> None:
    request = ibl.submit("EXPSTART")
    ibl.sent()
    interrupt = ibl.submit("EXPINTERRUPT")
    assert isinstance(ibl.outcome(), Interrupted)
    assert ibl.run(0.5) == []
    ibl.receive(request.array)
    assert ibl.sent() == [interrupt.array]


def test_an_interrupt_waits_for_the_outstanding_echo_1_s_at_most(ibl: PeerBench) -> None:
    ibl.submit("EXPSTART")
    ibl.sent()
    ibl.run(0.25)
    interrupt = ibl.submit("EXPINTERRUPT")
    assert ibl.run(5) == [0.75]
    assert ibl.sent() == [interrupt.array]


def test_an_interrupt_does_not_wait_for_the_outstanding_answer(ibl: PeerBench) -> None:
    request = ibl.submit("EXPSTART")
    ibl.receive(request.array)
    ibl.sent()
    interrupt = ibl.submit("EXPINTERRUPT")
    assert ibl.sent() == [interrupt.array]
    ibl.receive(interrupt.array)
    late = ibl.array(ExpMessage.EXPSTART, None, None)  # of what was overtaken: echoed, and told as a message
    assert ibl.sent() == [late]
    ibl.array(ExpMessage.EXPINTERRUPT, {})
    assert [type(outcome) for _, outcome in ibl.outcomes] == [Interrupted, list]


def test_a_message_on_the_line_for_probes_is_a_stray_and_is_not_echoed(ibl: PeerBench) -> None:
    ibl.receive(b"[64, 20, null]", Line.PROBES)
    assert ibl.outbox == []
    assert ibl.peer.violations == {"stray message": 1}


def test_an_exchange_of_echoes_is_broken_off(ibl: PeerBench) -> None:
    for _ in range(MOST + 5):
        ibl.receive(b"[64, 20, null]")
    assert len(ibl.sent()) == MOST
    assert ibl.peer.violations == {"echo loop": 5}
    assert [event.kind for event in ibl.events(ViolationSeen)] == ["echo loop"]


def test_the_answer_that_is_awaited_is_always_echoed(ibl: PeerBench) -> None:
    for _ in range(MOST + 1):
        ibl.receive(b"[64, 20, null]")
    request = ibl.submit("EXPINFO")
    ibl.receive(request.array)
    ibl.sent()
    ibl.receive(b"[64, 20, null]")
    assert ibl.sent() == [b"[64, 20, null]"]
    assert ibl.outcome() == [20, None]


def test_an_iblutil_rig_that_is_lost_is_settled_after_1_s(ibl: PeerBench) -> None:
    ibl.run(100)
    assert ibl.peer.state is LinkState.LOST
    ibl.submit("EXPSTART", timeout=60)
    ibl.run(1)
    error = ibl.outcome()
    assert type(error) is RigLost
    assert "3 probes unanswered" in str(error)


def test_what_the_other_side_writes_is_read_whatever_its_blanks(ibl: PeerBench) -> None:
    request = ibl.submit("EXPINFO")
    ibl.receive(request.array)
    ibl.receive(json.dumps([64, 20, {"a": None}], indent=1).encode())
    assert ibl.outcome() == [20, {"a": None}]


# -------------------------------------------------------------------------------------------------- properties

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("EXPINIT", "EXPSTART", "EXPINTERRUPT", "EXPINFO", "ALYX"),
                *("ack", "reply", "failure", "alive", "restart", "bye", "refuse", "withdraw", "probe", "junk"),
                *("echo", "array", "error", "probe echo", "EXPEND", "notice", "old boot"),
            ]
        ),
        st.floats(0, 8),
        st.floats(0.001, 12),
    ),
    min_size=8,
    max_size=40,
)


@given(ACTIONS, st.sampled_from(["auto", "iblutil", "rigsync"]), st.booleans())
@settings(deadline=None, max_examples=200)
def test_whatever_happens_each_request_is_settled_once_by_its_deadline_and_nothing_spins(
    actions: list[tuple[str, float, float]], dialect: str, resend: bool
) -> None:
    bench = PeerBench(dialect=dialect, resend=resend).connect()
    deadlines: dict[float, float] = {}
    boot = RIG
    last: Any = None
    for action, pause, timeout in actions:
        if action.isupper():
            delay = None if timeout < 4 else 10 * pause
            last = bench.submit(action, timeout=timeout, delay=delay)
            deadlines[last.request_time] = bench.now + timeout + (delay or 0.0)
        elif action == "ack":
            bench.ack(boot=boot)
        elif action == "reply":
            bench.reply({}, boot=boot)
        elif action == "failure":
            bench.failure("ValueError", "x")
        elif action in ("alive", "restart"):
            boot = f"{bench.n + 16:016x}" if action == "restart" else boot
            bench.alive(boot=boot)
        elif action == "bye":
            bench.receive(messages.bye(boot, 0, "x"))
        elif action == "notice":
            bench.notice(int(pause), confirm=timeout < 6)
        elif action == "old boot":
            bench.receive(messages.failure(f"{99:016x}", bench.n, "RigRestarted", "", ""))
        elif action == "refuse":
            bench.peer.report_refusal(bench.now)
        elif action == "withdraw":
            bench.peer.requests.withdraw_queued()
        elif action == "probe":
            bench.peer.probe(bench.now)
        elif action == "junk":
            bench.receive(b"junk")
        elif action == "probe echo":
            bench.receive(messages.probe(COORDINATOR, 1, 0), Line.PROBES)
        elif last and action == "echo":
            bench.receive(last.array)
        elif last and action == "array":
            bench.array(last.event, None)
        elif last and action == "error":
            bench.array(ExpMessage(0), "E: x", int(last.event))
        bench.run(pause)  # asserts that each timer is later than the last
        settled = [request_time for request_time, _ in bench.outcomes]
        assert len(settled) == len(set(settled))
        assert {at for at, deadline in deadlines.items() if deadline <= bench.now} <= set(settled)
    bench.run(93)
    assert sorted(request_time for request_time, _ in bench.outcomes) == sorted(deadlines)
    assert bench.steps < 200 + 60 * bench.now  # 8 probes a beat, resends, and what is due at a deadline
    assert bench.peer.next_timer() < math.inf


def test_a_frame_of_an_unknown_process_neither_kills_the_link_nor_keeps_it_alive(bench: PeerBench) -> None:
    request = bench.submit("EXPSTART")
    bench.ack(boot="f" * 16)
    bench.receive(messages.bye("f" * 16, 0, "forged"))
    bench.receive(messages.alive(Alive("f" * 16, 99, WALL, 0, 0, NAME, ExpStatus.RUNNING, None, "")), Line.PROBES)
    assert bench.peer.violations == {"unknown boot": 3}
    assert bench.peer.state is LinkState.ALIVE
    bench.reply({}, n=request.n)
    assert bench.outcome() == [{}]


def test_a_host_that_refused_and_is_silent_now_is_not_called_up(bench: PeerBench) -> None:
    bench.peer.report_refusal(bench.now)
    bench.run(10)
    bench.submit("EXPSTART")
    bench.run(2)
    error = bench.outcome()
    assert type(error) is RigLost
    assert "silent now" in str(error)


def test_a_closed_program_is_no_broken_cable(bench: PeerBench) -> None:
    bench.receive(messages.bye(RIG, 0, "the rig is closing"))
    bench.submit("EXPSTART")
    bench.run(2)
    assert "start it again" in str(bench.outcome())


def test_closing_settles_what_is_outstanding_and_what_is_queued(bench: PeerBench) -> None:
    bench.submit("EXPSTART")
    bench.submit("EXPEND")
    bench.peer.requests.abandon()
    assert [type(outcome) for _, outcome in bench.outcomes] == [Aborted, Aborted]
    assert {str(outcome) for _, outcome in bench.outcomes} == {
        f"{NAME}: this program closed before EXPSTART was answered",
        f"{NAME}: this program closed before EXPEND was sent",
    }


def test_a_known_iblutil_rig_is_probed_with_the_same_bytes_which_it_shows_once(ibl: PeerBench) -> None:
    ibl.run(40)
    first, second = ibl.sent(Line.PROBES)
    assert first == second
    ibl.receive(second, Line.PROBES)
    assert [answered.n for answered in ibl.events(ProbeAnswered)] == [0]


# --------------------------------------------------------------------------------------------- which boot is meant


def test_a_request_says_which_boot_of_the_rig_it_means(bench: PeerBench) -> None:
    bench.submit("EXPINIT")
    (data,) = bench.sent()
    frame = decode(data)
    assert isinstance(frame, messages.Request)
    assert (frame.boot, frame.to, frame.at) == (COORDINATOR, RIG, None)


def test_what_is_sent_again_means_the_boot_that_it_was_first_sent_to(bench: PeerBench) -> None:
    request = bench.submit("EXPINIT")
    bench.receive(messages.ack(NEW, 77))  # of a process that has not answered a probe yet
    bench.run(1)
    assert set(bench.sent()) == {bench.frame(request, to=RIG)}


def test_a_rig_that_does_not_run_it_since_it_is_another_process_is_a_restarted_one(bench: PeerBench) -> None:
    bench.submit("EXPINIT")
    bench.failure("RigRestarted", "the rig's program was started anew since")
    error = bench.outcome()
    assert type(error) is errors.RigRestarted
    assert str(error) == f"{NAME}: the rig's program was started anew since"


@pytest.mark.parametrize(
    ("error", "kind"), [("Cancelled", errors.Cancelled), ("BusyError", errors.BusyError), ("StateError", RemoteError)]
)
def test_a_failure_is_of_the_class_that_it_has_here(bench: PeerBench, error: str, kind: type[Exception]) -> None:
    bench.submit("EXPINIT")
    bench.failure(error, "text")
    assert type(bench.outcome()) is kind


def test_an_interrupt_that_is_outstanding_when_the_rig_restarts_has_failed_as_well(bench: PeerBench) -> None:
    bench.submit("EXPINTERRUPT")
    bench.alive(2, boot=NEW)
    assert type(bench.outcome()) is errors.RigRestarted


def test_a_rig_that_restarts_with_nothing_outstanding_settles_nothing(bench: PeerBench) -> None:
    bench.alive(2, boot=NEW)
    assert bench.outcomes == []
    assert bench.events(RestartSeen) == [RestartSeen(NAME)]


def test_the_restart_is_told_before_what_it_settles_leads_to_more(bench: PeerBench) -> None:
    bench.submit("EXPINIT", confirm=True)
    bench.alive(2, boot=NEW)
    assert type(bench.outcome()) is errors.RigRestarted
    assert bench.events(RequestReceived) == []


def test_a_frame_of_an_unknown_boot_hurries_the_next_probe_while_something_is_outstanding(bench: PeerBench) -> None:
    bench.run(0.5)
    bench.alive(2)
    bench.sent(Line.PROBES)
    bench.submit("EXPSTART")
    bench.receive(messages.failure(NEW, 1, "RigRestarted", "", ""))
    bench.peer.handle_timer(bench.now)
    (probe,) = bench.sent(Line.PROBES)
    bench.alive(decode(probe).n, boot=NEW)  # type: ignore[union-attr]
    assert type(bench.outcome()) is errors.RigRestarted


def test_no_flood_of_unknown_boots_brings_about_more_probes_than_a_burst_has(bench: PeerBench) -> None:
    bench.run(0.5)
    bench.alive(2)
    bench.sent(Line.PROBES)
    bench.submit("EXPSTART", timeout=60)
    for _ in range(1000):
        bench.receive(messages.ack(NEW, 1))
        bench.run(0.001)
    assert 40 <= len(bench.sent(Line.PROBES)) <= 1 / Timing().burst_interval + 1


def test_an_unknown_boot_hurries_nothing_where_nothing_is_outstanding(bench: PeerBench) -> None:
    bench.run(0.5)
    before = bench.peer.next_timer()
    bench.receive(messages.ack(NEW, 1))
    assert bench.peer.next_timer() == before


def test_an_alive_of_a_new_boot_is_believed_only_as_the_answer_to_a_probe(bench: PeerBench) -> None:
    bench.run(0.05)
    forged = [Alive(NEW, 1, WALL, WALL, WALL, NAME, ExpStatus.RUNNING, None, "")]  # was answered
    forged += [Alive(NEW, 2, WALL + 1, WALL, WALL, NAME, ExpStatus.RUNNING, None, "")]  # with another stamp
    forged += [Alive(NEW, 999, WALL, WALL, WALL, NAME, ExpStatus.RUNNING, None, "")]  # was never sent
    for frame in forged:
        bench.receive(messages.alive(frame), Line.PROBES)
    assert bench.events(RestartSeen) == []
    assert bench.peer.violations == {"unknown boot": 3}
    assert bench.peer.process.status is ExpStatus.CONNECTED


def test_a_boot_that_was_replaced_does_not_come_back(bench: PeerBench) -> None:
    """An answer of the old process, delayed beyond the new one's first, is no other restart."""
    bench.run(0.05)
    bench.alive(3, boot=NEW)
    bench.submit("EXPINIT")
    bench.sent()
    bench.alive(2, boot=RIG)  # left before the restart
    assert bench.events(RestartSeen) == [RestartSeen(NAME)]
    assert bench.outcomes == []


def test_what_a_rig_may_have_run_is_not_asked_again_in_another_dialect(bench: PeerBench) -> None:
    """It would run twice; whoever speaks another dialect is another program."""
    bench.submit("EXPSTART")
    bench.sent()
    bench.run(0.05)
    bench.sent()
    bench.receive(bench.sent(Line.PROBES)[-1], Line.PROBES)
    assert bench.sent() == []
    assert type(bench.outcome()) is errors.RigRestarted


# ------------------------------------------------------------------------------------------------ clocks and probes


def test_the_rig_s_clock_is_known_from_its_answers() -> None:
    bench = PeerBench().connect()
    assert bench.peer.clock is None
    bench.alive(offset=90.0)
    assert bench.peer.clock is not None
    assert bench.peer.clock.offset == pytest.approx(90.0)
    assert bench.peer.clock.bound == pytest.approx(0.0, abs=1e-9)


def test_a_restarted_rig_s_clock_is_measured_anew() -> None:
    bench = PeerBench().connect()
    bench.alive(offset=90.0)
    n = bench.peer.probe(bench.now)
    bench.now += 0.010
    bench.alive(n, boot=NEW, offset=90.0)
    assert bench.peer.clock is not None
    assert bench.peer.clock.bound == pytest.approx(0.005)  # what the old process's said better counts no longer


def test_an_iblutil_rig_has_no_clock(ibl: PeerBench) -> None:
    ibl.run(16)
    ibl.receive(ibl.sent(Line.PROBES)[-1], Line.PROBES)
    assert ibl.peer.clock is None


def test_a_probe_without_a_stamp_measures_no_clock(ibl: PeerBench) -> None:
    """A rigsync rig in the place of an iblutil one answers the probe of stamp 0, by which its clock would be off by
    27 years, and so would every instant until the next probe.
    """
    ibl.run(16)
    ibl.alive(offset=2.0)
    assert ibl.peer.dialect is Dialect.RIGSYNC
    clock = ibl.peer.clock
    assert clock is None or abs(clock.offset - 2.0) < 1.0


def probes_in(bench: PeerBench, seconds: float, delay: float) -> int:
    """Return how many regular probes are sent in some time, each answered after a delay."""
    end, count = bench.now + seconds, 0
    while bench.now < end:
        bench.run(min(0.02, end - bench.now))
        for data in bench.sent(Line.PROBES):
            count += 1
            bench.now += delay
            probe = decode(data)
            assert isinstance(probe, Probe)
            stamp = WALL + round((bench.now - delay / 2) * 1e9)
            frame = Alive(RIG, probe.n, probe.t0, stamp, stamp, NAME, ExpStatus.CONNECTED, None, "")
            bench.receive(messages.alive(frame), Line.PROBES)
    return count


def test_a_clock_that_is_not_known_well_is_probed_8_times_a_beat() -> None:
    bench = PeerBench().connect()
    probes_in(bench, 1.0, delay=0.004)  # the burst
    assert probes_in(bench, 4.0, delay=0.004) == pytest.approx(32, abs=4)
    assert bench.peer.clock is not None
    assert bench.peer.clock.bound > Timing().clock_bound


def test_a_clock_that_is_known_well_is_probed_once_a_beat() -> None:
    bench = PeerBench().connect()
    probes_in(bench, 1.0, delay=0.0004)
    assert probes_in(bench, 5.0, delay=0.0004) == pytest.approx(5, abs=1)


def test_the_loss_is_that_of_the_newest_probes() -> None:
    bench = PeerBench().connect()
    assert bench.peer.loss(bench.now) is None
    bench.run(0.15)  # the burst of 8
    for n in (1, 2, 3, 4, 5, 6):
        bench.alive(n)
    assert bench.peer.loss(bench.now) == 0.0
    assert bench.peer.loss(bench.now + 1.0) == pytest.approx(0.25)


def test_the_owner_is_told_by_the_rig(bench: PeerBench) -> None:
    assert bench.peer.process.owner is None
    for owner in ("10.0.0.9", None):
        bench.receive(messages.alive(Alive(RIG, 9, 1, 2, 3, NAME, ExpStatus.RUNNING, None, "", owner)))
        assert bench.peer.process.owner == owner


# -------------------------------------------------------------------------------------------------------- instants


def at_of(data: bytes) -> int:
    frame = decode(data)
    assert isinstance(frame, messages.Request)
    assert frame.at is not None
    return frame.at


@pytest.mark.parametrize("offset", [0.0, 90.0, -90.0])
def test_a_request_for_an_instant_leaves_at_once_and_says_it_in_the_rig_s_clock(offset: float) -> None:
    bench = PeerBench().connect()
    bench.alive(offset=offset)
    bench.run(0.3)
    bench.sent()
    request = bench.submit("EXPSTART", delay=2.0)
    (data,) = bench.sent()
    assert at_of(data) == pytest.approx(WALL + (0.3 + 2.0 + offset) * 1e9, abs=1000)
    assert data == bench.frame(request, at=at_of(data))


def test_what_is_sent_again_names_the_same_instant(bench: PeerBench) -> None:
    bench.submit("EXPSTART", delay=2.0)
    (first,) = bench.sent()
    bench.run(0.03)
    bench.alive(2, offset=0.002)  # by which the rig's clock is known otherwise than before
    assert bench.peer.clock is not None
    assert bench.peer.clock.offset != 0.0
    bench.run(0.5)
    assert set(bench.sent()) == {first}


def test_what_waited_in_the_queue_names_its_own_instant(bench: PeerBench) -> None:
    bench.submit("EXPINIT")
    bench.submit("EXPSTART", delay=2.0)
    bench.sent()
    bench.run(1.0)
    bench.sent()
    bench.reply({}, n=1)
    (data,) = bench.sent()
    assert at_of(data) == WALL + 2_000_000_000


def test_the_deadline_of_a_request_for_an_instant_counts_from_there(bench: PeerBench) -> None:
    bench.submit("EXPSTART", delay=3.0, timeout=1.0)
    bench.ack()
    for n in range(2, 9):
        bench.run(0.5)
        bench.alive(n)
    assert bench.outcomes == []
    bench.run(0.5)
    assert type(bench.outcome()) is RigTimeout


def test_the_answer_says_when_the_rig_began_by_this_side_s_clock() -> None:
    bench = PeerBench().connect()
    bench.now = 0.004
    bench.alive(1, offset=90.0)  # 4 ms under way, all of it this way as far as is known
    bench.submit("EXPSTART", delay=2.0)
    bench.run(3.0)
    bench.reply("ref", {}, started=WALL + 92_000_000_000)
    assert bench.outcome() == ["ref", {}]
    assert bench.start is not None
    clock = bench.peer.clock
    assert clock is not None
    assert clock.offset == pytest.approx(90.002, abs=1e-6)
    assert bench.start.time == pytest.approx(WALL / 1e9 + 1.998, abs=1e-6)
    assert bench.start.bound == pytest.approx(clock.bound)
    assert bench.start.bound == pytest.approx(0.002, abs=1e-6)
    assert bench.start.is_estimate is False


def test_the_start_of_what_was_to_be_done_at_once_is_told_too(bench: PeerBench) -> None:
    bench.submit("EXPINIT")
    bench.reply({}, started=WALL + 123_000_000)
    assert bench.start is not None
    assert bench.start.time == pytest.approx(WALL / 1e9 + 0.123, abs=1e-6)


def test_a_failure_has_no_start(bench: PeerBench) -> None:
    bench.submit("EXPINIT", delay=1.0)
    bench.failure("OSError", "disk full")
    assert bench.start is None


@pytest.mark.parametrize("acknowledged", [False, True])
def test_an_end_calls_off_what_was_sent_for_a_later_instant(bench: PeerBench, acknowledged: bool) -> None:
    bench.submit("EXPSTART", delay=5.0)
    if acknowledged:
        bench.ack()
    bench.run(4.9)
    bench.sent()
    end = bench.submit("EXPEND")
    assert bench.sent() == [bench.frame(end)]
    assert bench.outcomes == []  # the rig alone knows which was first
    bench.failure("Cancelled", "EXPSTART was not run: EXPEND came before its instant", n=1)
    assert type(bench.outcome()) is errors.Cancelled
    bench.reply({})
    assert bench.outcome() == [{}]


def test_what_began_before_the_end_that_was_to_call_it_off_has_succeeded(bench: PeerBench) -> None:
    bench.submit("EXPSTART", delay=5.0)
    bench.run(4.9)
    bench.submit("EXPEND")
    bench.reply("began", n=1)
    assert bench.outcome() == ["began"]
    bench.reply({})
    assert bench.outcome() == [{}]


@pytest.mark.parametrize("reached", [True, False])
def test_where_the_rig_does_not_say_what_was_first_nothing_is_claimed(bench: PeerBench, reached: bool) -> None:
    bench.submit("EXPSTART", delay=5.0)
    bench.submit("EXPEND", timeout=2.0)
    if reached:
        bench.reply({})
        assert bench.outcome() == [{}]
    asked = bench.run(4.0)
    assert asked  # it is asked what became of it
    *_, (_, error) = bench.outcomes
    assert type(error) is (errors.Cancelled if reached else RigTimeout)
    assert "was not run" not in str(error)
    assert not bench.peer.requests.errands.doubtful


@pytest.mark.parametrize("how", ["EXPINTERRUPT", "restart", "close"])
def test_what_is_doubtful_is_settled_with_all_else(bench: PeerBench, how: str) -> None:
    bench.submit("EXPSTART", delay=5.0)
    bench.submit("EXPEND")
    if how == "EXPINTERRUPT":
        bench.submit("EXPINTERRUPT")
    elif how == "restart":
        bench.alive(2, boot=NEW)
    else:
        bench.peer.requests.abandon()
    expected = {"EXPINTERRUPT": Interrupted, "restart": errors.RigRestarted, "close": Aborted}[how]
    assert [(at, type(error)) for at, error in bench.outcomes] == [(1.0, expected), (2.0, expected)]


def test_a_rig_that_waits_for_its_instant_need_not_be_heard_before_it(bench: PeerBench) -> None:
    bench.submit("EXPSTART", delay=60.0)
    bench.ack()
    bench.run(20)
    assert bench.peer.state is LinkState.LOST
    assert bench.outcomes == []
    bench.run(41.5)
    assert type(bench.outcome()) is RigLost


def test_the_instant_follows_the_drift_and_is_told_again_as_it_is_known_better(bench: PeerBench) -> None:
    for second in range(60):
        bench.run(1.0)
        bench.alive(bench.peer.probe(bench.now), offset=1e-4 * second)
    bench.sent(Line.PROBES)
    bench.submit("EXPSTART", delay=100.0)
    (first,) = bench.sent()
    frame = decode(first)
    assert isinstance(frame, messages.Request)
    assert frame.at is not None
    offset = (frame.at - WALL) / 1e9 - (bench.now + 100.0)
    assert offset == pytest.approx(1e-4 * 159, abs=1e-3)
    bench.ack()
    bench.alive(bench.peer.probe(bench.now), offset=1e-4 * 60)
    bench.run(1.1)
    again = [decode(data) for data in bench.sent()]
    assert [frame.n for frame in again] == [1]  # type: ignore[union-attr]
    assert again[0] != frame


def test_a_late_alive_takes_nothing_back(bench: PeerBench) -> None:
    bench.run(0.1)
    bench.alive(4, status=ExpStatus.RUNNING)
    bench.alive(3, status=ExpStatus.CONNECTED)
    assert bench.peer.process.status is ExpStatus.RUNNING
    bench.receive(messages.bye(RIG, 0, "closing"))
    bench.alive(5)
    assert bench.peer.state is LinkState.LOST


def test_an_end_calls_off_what_waits_in_the_queue_for_a_later_instant_and_nothing_else(bench: PeerBench) -> None:
    bench.submit("EXPINIT")
    bench.submit("EXPSTART", delay=5.0)
    bench.submit("EXPINFO")
    bench.submit("EXPSTATUS", delay=6.0)
    bench.sent()
    bench.submit("EXPEND")
    assert [(at, type(outcome)) for at, outcome in bench.outcomes] == [(2.0, errors.Cancelled), (4.0, errors.Cancelled)]
    assert bench.sent() == []
    for n in (1, 3, 5):
        bench.reply({}, n=n)
    assert [decode(data).n for data in bench.sent()] == [3, 5]  # type: ignore[union-attr]


def test_an_end_does_not_call_off_what_has_begun(bench: PeerBench) -> None:
    bench.submit("EXPSTART", delay=1.0)
    bench.ack()
    bench.run(1.0)
    bench.sent()
    end = bench.submit("EXPEND")
    assert bench.outcomes == []
    bench.reply("ref", {}, n=1)
    assert bench.outcome() == ["ref", {}]
    assert bench.sent() == [bench.frame(end)]


@pytest.mark.parametrize("event", ["EXPINIT", "EXPCLEANUP", "EXPINFO", "EXPSTATUS"])
def test_nothing_but_an_end_or_an_interrupt_calls_off(bench: PeerBench, event: str) -> None:
    bench.submit("EXPSTART", delay=5.0)
    bench.submit(event)
    assert bench.outcomes == []


def test_an_interrupt_overtakes_what_waits_for_its_instant(bench: PeerBench) -> None:
    bench.submit("EXPSTART", delay=5.0)
    bench.ack()
    bench.sent()
    interrupt = bench.submit("EXPINTERRUPT")
    assert type(bench.outcome()) is Interrupted
    assert bench.sent() == [bench.frame(interrupt)]


def test_a_rig_that_calls_it_off_by_itself_is_told_as_such(bench: PeerBench) -> None:
    bench.submit("EXPSTART", delay=5.0)
    bench.failure("Cancelled", "EXPSTART was not run: the coordinator that asked for it has closed")
    assert type(bench.outcome()) is errors.Cancelled


def test_withdrawing_leaves_what_the_rig_has_and_closing_settles_it(bench: PeerBench) -> None:
    bench.submit("EXPSTART", delay=5.0)
    bench.submit("EXPEND", delay=None)
    bench.submit("EXPSTART", delay=50.0)
    assert bench.peer.requests.withdraw_queued() == [3.0]
    bench.peer.requests.abandon()
    assert [(at, type(outcome)) for at, outcome in bench.outcomes] == [(3.0, Aborted), (1.0, Aborted), (2.0, Aborted)]


def test_an_end_for_a_later_instant_leaves_the_start_before_it(bench: PeerBench) -> None:
    """a recording of a given length cannot be scheduled, its end calls its start off."""
    bench.submit("EXPSTART", delay=10.0)
    bench.submit("EXPEND", delay=20.0)
    assert bench.outcomes == []


def test_a_rig_that_restarts_before_the_instant_does_not_act_at_it(bench: PeerBench) -> None:
    bench.submit("EXPSTART", delay=5.0)
    bench.ack()
    bench.run(1.5)
    bench.sent()
    bench.alive(boot=NEW)
    assert type(bench.outcome()) is errors.RigRestarted
    bench.run(10)
    assert bench.sent() == []


def iblutil_with(round_trip: float) -> PeerBench:
    """Return the bench of an iblutil rig whose probe took so long."""
    bench = PeerBench().connect()
    bench.now = round_trip
    bench.receive(bench.sent(Line.PROBES)[0], Line.PROBES)
    bench.outbox.clear()
    bench.told.clear()
    return bench


def test_an_iblutil_rig_is_sent_the_message_half_a_round_trip_before_the_instant() -> None:
    ibl = iblutil_with(0.010)
    request = ibl.submit("EXPSTART", delay=2.0)
    assert ibl.sent() == []
    assert ibl.run(3.0) == pytest.approx([1.995])
    assert ibl.sent() == [request.array]


def test_of_an_iblutil_rig_s_start_an_estimate_is_told() -> None:
    ibl = iblutil_with(0.010)
    request = ibl.submit("EXPSTART", "ref", delay=2.0)
    ibl.run(1.995)
    ibl.now += 0.012
    ibl.receive(request.array)
    ibl.run(0.5)
    ibl.array(ExpMessage.EXPSTART, "ref", {})
    assert ibl.outcome() == ["ref", {}]
    assert ibl.start is not None
    assert ibl.start.is_estimate
    assert ibl.start.time == pytest.approx(WALL / 1e9 + 2.005 + 0.006, abs=1e-6)
    assert ibl.start.bound == pytest.approx(0.006)


def test_a_message_to_an_iblutil_rig_waits_for_the_echo_even_at_its_instant() -> None:
    ibl = iblutil_with(0.010)
    first = ibl.submit("EXPINIT", timeout=0.5)
    request = ibl.submit("EXPSTART", delay=0.7)
    assert ibl.run(0.8) == []
    ibl.sent()
    ibl.receive(first.array)  # of what was given up
    assert ibl.sent() == [request.array]  # late: but it acts


def test_an_end_calls_off_what_an_iblutil_rig_has_not_been_sent() -> None:
    ibl = iblutil_with(0.010)
    ibl.submit("EXPSTART", delay=2.0)
    ibl.run(1.9)
    end = ibl.submit("EXPEND")
    assert type(ibl.outcome()) is errors.Cancelled
    assert ibl.sent() == [end.array]
    ibl.receive(end.array)
    ibl.array(ExpMessage.EXPEND, {})
    assert ibl.outcome() == [{}]
    assert ibl.run(5) == []


def test_an_end_does_not_call_off_what_an_iblutil_rig_has_been_sent() -> None:
    ibl = iblutil_with(0.100)
    start = ibl.submit("EXPSTART", delay=2.0)
    assert ibl.run(1.96) == pytest.approx([1.95])
    ibl.submit("EXPEND")
    assert ibl.outcomes == []
    ibl.receive(start.array)
    ibl.array(ExpMessage.EXPSTART, "ref", {})
    assert ibl.outcome() == ["ref", {}]


def test_what_an_iblutil_rig_has_not_been_sent_yet_can_be_withdrawn_and_overtaken() -> None:
    ibl = iblutil_with(0.010)
    ibl.submit("EXPSTART", delay=2.0)
    assert ibl.peer.requests.withdraw_queued() == [1.0]
    assert type(ibl.outcome()) is Aborted
    ibl.submit("EXPSTART", delay=2.0)
    interrupt = ibl.submit("EXPINTERRUPT")
    assert type(ibl.outcome()) is Interrupted
    assert ibl.sent() == [interrupt.array]
    ibl.submit("EXPSTART", delay=2.0)
    ibl.peer.requests.abandon()
    assert [type(outcome) for _, outcome in ibl.outcomes] == [Aborted, Aborted]


def test_an_instant_that_is_over_by_now_is_asked_for_at_once() -> None:
    ibl = iblutil_with(0.010)
    request = ibl.submit("EXPSTART", delay=0.001)
    assert ibl.sent() == [request.array]


# -------------------------------------------------------------------------------------------------------- notices


def told(bench: PeerBench) -> list[Any]:
    return [event.body for event in bench.events(events.Notice)]


def test_a_notice_is_told_with_what_it_says(bench: PeerBench) -> None:
    bench.notice(1, {"a": [1]}, topic="focus", key="trial")
    bench.notice(2, None, topic="log", confirm=False)
    assert bench.events(events.Notice) == [
        events.Notice(NAME, "focus", "trial", {"a": [1]}, True),
        events.Notice(NAME, "log", None, None, False),
    ]


def test_a_confirmed_notice_is_acknowledged_each_time_and_told_once(bench: PeerBench) -> None:
    for _ in range(3):
        bench.notice(7, "x")
    assert bench.sent(Line.PROBES) == [messages.ack(COORDINATOR, 7)] * 3
    assert bench.sent() == []
    assert told(bench) == ["x"]
    assert bench.peer.violations == {"late notice": 2}
    assert bench.events(ViolationSeen) == []


def test_an_unconfirmed_notice_is_not_acknowledged(bench: PeerBench) -> None:
    bench.notice(7, "x", confirm=False)
    assert bench.outbox == []


def test_confirmed_notices_are_told_in_order_and_late_copies_are_not(bench: PeerBench) -> None:
    for n in (1, 2, 1, 5, 2, 6):
        bench.notice(n, n)
    assert told(bench) == [1, 2, 5, 6]


def test_an_unconfirmed_notice_gives_way_to_a_newer_one_of_its_topic_and_key(bench: PeerBench) -> None:
    for n, key in ((3, "a"), (1, "a"), (2, "b"), (4, "a")):
        bench.notice(n, n, key=key, confirm=False)
    assert told(bench) == [3, 2, 4]


def test_a_notice_of_a_process_that_has_not_answered_a_probe_is_neither_told_nor_acknowledged(bench: PeerBench) -> None:
    data = messages.notice(messages.Notice(NEW, 1, "log", None, "x", True))
    bench.receive(data, Line.PROBES)
    assert bench.outbox == []
    assert told(bench) == []
    bench.alive(boot=NEW)
    bench.receive(data, Line.PROBES)  # which sends it again
    assert bench.sent(Line.PROBES) == [messages.ack(COORDINATOR, 1)]
    assert told(bench) == ["x"]


def test_a_rig_never_heard_of_tells_nothing() -> None:
    bench = PeerBench().connect()
    bench.sent(Line.PROBES)
    bench.notice(1, "x")
    assert bench.outbox == []
    assert told(bench) == []
    assert bench.peer.state is LinkState.UNKNOWN


def test_a_restarted_rig_counts_its_notices_anew(bench: PeerBench) -> None:
    bench.notice(100, "old")
    bench.notice(101, "old", confirm=False)
    bench.alive(boot=NEW)
    bench.told.clear()
    for confirm in (True, False):
        bench.receive(messages.notice(messages.Notice(NEW, 1, "log", None, "new", confirm)), Line.PROBES)
    assert told(bench) == ["new", "new"]


def test_a_notice_is_a_sign_of_life(bench: PeerBench) -> None:
    bench.run(6)
    assert bench.peer.state is LinkState.LOST
    bench.notice(1, "x", confirm=False)
    assert bench.peer.state is LinkState.ALIVE


def test_a_notice_disturbs_no_request(bench: PeerBench) -> None:
    bench.submit("EXPINIT")
    bench.notice(1, "x")  # of the same number
    assert bench.outcomes == []
    bench.reply({})
    assert bench.outcome() == [{}]


# ------------------------------------------------------------------------------------------- a process that has ended


@pytest.mark.parametrize("ending", ["bye", "refusal"])
def test_what_is_asked_of_a_process_that_has_ended_goes_to_the_one_that_takes_its_place(
    bench: PeerBench, ending: str
) -> None:
    if ending == "bye":
        bench.receive(messages.bye(RIG, 0, "the rig is closing"))
    else:
        bench.peer.report_refusal(bench.now)
    request = bench.submit("EXPINIT")
    assert bench.run(0.9) == []  # for the old one it would be for nobody
    assert len(bench.sent(Line.PROBES)) >= 5  # somebody waits: more often than once a beat
    bench.alive(boot=NEW)
    assert bench.sent() == [bench.frame(request, to=NEW)]
    bench.reply({}, boot=NEW)
    assert bench.outcome() == [{}]


def test_probing_for_a_process_that_has_ended_is_never_due_in_the_past(bench: PeerBench) -> None:
    """The last probe may be long ago."""
    bench.submit("EXPINIT", timeout=2.5)
    bench.run(2.0)
    bench.receive(messages.bye(RIG, 0, "the rig is closing"))
    bench.submit("EXPINFO", timeout=1.0)
    bench.run(2.0)  # asserts that each timer is later than the last
    assert [at for at, _ in bench.outcomes] == [1.0, 2.0]


# ------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize(("scheme", "probes"), [("udp", 3), ("tcp", 0)])
def test_an_iblutil_rig_is_not_probed_over_tcp_while_a_request_is_outstanding(scheme: str, probes: int) -> None:
    """Over one connection the probe might meet the rig's answer, and be a wrong echo."""
    ibl = PeerBench(scheme=scheme).connected("iblutil")
    ibl.run(20)
    ibl.receive(ibl.sent(Line.PROBES)[-1], Line.PROBES)
    ibl.submit("EXPSTART", timeout=100.0)
    ibl.receive(ibl.sent()[0])
    ibl.run(45)
    assert len(ibl.sent(Line.PROBES)) == probes
    if scheme == "tcp":
        assert ibl.peer.state is LinkState.ALIVE  # what was not asked is not held against the rig
        ibl.array(ExpMessage.EXPSTART, None)
        ibl.run(15)
        assert len(ibl.sent(Line.PROBES)) == 1


@pytest.mark.parametrize(("scheme", "probes"), [("udp", 8), ("tcp", 1)])
def test_no_probe_follows_another_over_tcp_to_what_may_be_an_iblutil_rig(scheme: str, probes: int) -> None:
    """Over one connection a busy one would read both together, which is junk to it."""
    bench = PeerBench(scheme=scheme).connect()
    bench.run(0.9)
    assert len(bench.sent(Line.PROBES)) == probes
    bench.run(1.5)
    assert bench.sent(Line.PROBES)  # after a second, there is another reason why it is not answered
    bench.alive()
    bench.run(2.5)
    assert len(bench.sent(Line.PROBES)) > 1  # a rigsync rig reads one message after the other, whenever it does


def test_parts_of_messages_keep_a_link_alive_and_revive_none() -> None:
    bench = PeerBench(scheme="tcp").connected()
    for _ in range(10):
        bench.run(2)
        bench.peer.report_life(bench.now)
    assert bench.peer.state is LinkState.ALIVE
    bench.run(4)
    assert bench.peer.state is LinkState.SUSPECT
    bench.peer.report_life(bench.now)
    assert bench.peer.state is LinkState.ALIVE
    bench.run(6)
    bench.peer.report_life(bench.now)
    assert bench.peer.state is LinkState.LOST
    fresh = PeerBench(scheme="tcp").connect()
    fresh.peer.report_life(fresh.now)
    assert fresh.peer.state is LinkState.UNKNOWN


def test_what_a_transport_rejects_is_told_once_for_each_kind(bench: PeerBench) -> None:
    for _ in range(3):
        bench.peer.report_violation(RemoteProtocolError("junk in the stream", "what it was"))
    (seen,) = bench.events(ViolationSeen)
    assert (seen.source, seen.problem) == (bench.peer.name, "junk in the stream: what it was")
    assert bench.peer.violations["junk in the stream"] == 3


def test_iblutil_s_limit_is_named_where_a_message_was_over_it() -> None:
    ibl = PeerBench(scheme="tcp").connected("iblutil")
    message = Message.of(ExpMessage.EXPINIT, ["x" * 70_000], ibl.peer.config.room)
    ibl.peer.requests.submit(Request(Order(message, 1.0), 1), ibl.now + 5, ibl.now)
    ibl.run(6)
    assert "no more than it can read at once" in str(ibl.outcome())


def test_what_a_rig_was_working_on_when_its_program_ended_was_not_refused(bench: PeerBench) -> None:
    bench.submit("EXPSTART")
    bench.ack()
    bench.peer.report_refusal(bench.now)
    bench.run(1.1)
    error = bench.outcome()
    assert type(error) is RigRefused
    assert "was working on it when its program ended" in str(error)


def test_an_answer_after_a_long_standstill_says_nothing_about_the_network(bench: PeerBench) -> None:
    bench.run(0.5)
    before = bench.peer.round_trip
    bench.run(3.0)
    bench.alive(3)
    assert bench.peer.round_trip == before


# ------------------------------------------------------------------------------------------------------ commands


def test_a_command_is_a_request_like_others(bench: PeerBench) -> None:
    request = bench.call("focus", 1, z=2.5)
    assert bench.sent() == [bench.frame(request)]
    assert decode(bench.frame(request)) == messages.Request(
        COORDINATOR, request.n, Command("focus"), [[1], {"z": 2.5}], None, RIG
    )
    assert len(bench.run(0.2)) > 1, "it is sent again"
    bench.ack()
    bench.reply({"at": 3})
    assert bench.outcome() == [{"at": 3}]
    (event,) = bench.events(MessageReceived)
    assert (event.event, event.event.name, event.args) == (Command("focus"), "focus", [{"at": 3}])


def test_a_command_waits_for_its_turn(bench: PeerBench) -> None:
    bench.submit("EXPINFO")
    command, _ = bench.call("focus"), bench.submit("EXPSTATUS")
    bench.sent()
    bench.reply(n=1)
    assert bench.sent() == [bench.frame(command)]
    bench.reply(None, n=2)
    assert len(bench.sent()) == 1


def test_an_interrupt_overtakes_a_command(bench: PeerBench) -> None:
    bench.call("focus")
    bench.call("home")
    bench.submit("EXPINTERRUPT")
    assert [type(outcome) for _, outcome in bench.outcomes] == [Interrupted, Interrupted]
    assert "focus was overtaken" in str(bench.outcomes[0][1])


def test_a_restarted_rig_does_not_do_a_command_that_was_outstanding(bench: PeerBench) -> None:
    bench.call("focus")
    bench.alive(boot=NEW)
    error = bench.outcome()
    assert isinstance(error, errors.RigRestarted)
    assert "focus" in str(error)


@pytest.mark.parametrize("values", [(), (1, 2)])
def test_an_answer_to_a_command_is_one_value(bench: PeerBench, values: tuple[int, ...]) -> None:
    bench.call("focus")
    bench.reply(*values)
    assert bench.outcomes == []
    (violation,) = bench.events(ViolationSeen)
    assert violation.kind == "malformed frame"
    bench.reply(None)
    assert bench.outcome() == [None]


def test_an_iblutil_rig_is_never_sent_a_command(ibl: PeerBench) -> None:
    ibl.call("focus", 1)
    error = ibl.outcome()
    assert isinstance(error, NotSupported)
    assert "focus was not sent" in str(error)
    assert "iblutil dialect" in str(error)
    assert "rigsync serve" in str(error)
    assert ibl.run(12) == []
    ibl.submit("EXPINFO")
    assert len(ibl.sent()) == 1, "what is pushed next is not held up"


def test_a_command_waits_until_it_is_known_what_the_rig_speaks() -> None:
    bench = PeerBench().connect()
    bench.submit("EXPINFO")
    bench.call("focus")
    bench.call("home")
    assert bench.outcomes == []
    bench.receive(bench.sent(Line.PROBES)[-1], Line.PROBES)
    assert [(when, type(outcome)) for when, outcome in bench.outcomes] == [(2.0, NotSupported), (3.0, NotSupported)]
    (data,) = bench.sent()
    assert decode(data).event is ExpMessage.EXPINFO  # type: ignore[union-attr]


def test_a_command_that_is_first_is_refused_as_soon_as_the_rig_is_known_to_be_iblutil_s() -> None:
    bench = PeerBench().connect()
    bench.call("focus")
    info = bench.submit("EXPINFO")
    bench.receive(bench.sent(Line.PROBES)[-1], Line.PROBES)
    assert isinstance(bench.outcome(), NotSupported)
    assert bench.sent() == [info.array]
    assert bench.peer.next_timer() > bench.now


def test_a_rig_that_is_configured_as_iblutil_s_is_asked_no_command() -> None:
    bench = PeerBench(dialect="iblutil").connect()
    bench.call("focus")
    assert isinstance(bench.outcome(), NotSupported)
    assert bench.sent() == []


def test_a_command_to_a_rig_that_never_shows_itself_times_out() -> None:
    bench = PeerBench().connect()
    bench.call("focus", timeout=3.0)
    assert bench.run(4.0) == []
    assert isinstance(bench.outcome(), RigTimeout)


def test_a_rig_that_became_iblutil_s_is_sent_nothing_more_of_a_command(bench: PeerBench) -> None:
    bench.call("focus")
    bench.call("home")
    bench.sent()
    bench.peer.probe(bench.now)
    bench.receive(bench.sent(Line.PROBES)[-1], Line.PROBES)
    assert [type(outcome) for _, outcome in bench.outcomes] == [errors.RigRestarted, NotSupported]
    assert bench.run(5) == []


def test_a_rig_that_ignores_commands_may_have_to_be_updated(bench: PeerBench) -> None:
    bench.call("focus", timeout=2.0)
    for _ in range(20):
        bench.run(0.1)
        bench.alive()
    error = bench.outcome()
    assert isinstance(error, RigTimeout)
    assert "update rigsync there" in str(error)
    assert "0.1.0" in str(error)


def test_a_rig_that_has_a_command_need_not_be_updated(bench: PeerBench) -> None:
    bench.call("focus", timeout=2.0)
    bench.ack()
    for _ in range(20):
        bench.run(0.1)
        bench.alive()
    assert "still working on it" in str(error := bench.outcome())
    assert "update" not in str(error)
