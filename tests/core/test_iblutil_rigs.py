"""What a coordinator allows for in programs of rigs that iblutil's users have written."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from rigsync.core.arguments import compose
from rigsync.core.clock import StampClock
from rigsync.core.enums import ExpMessage
from rigsync.core.events import MessageReceived, PushCompleted, RequestReceived, ViolationSeen
from rigsync.core.fanout import Fanout
from rigsync.core.legacy_link import VERB_GAP
from rigsync.core.orders import Order
from rigsync.core.outputs import Line
from rigsync.core.rigs import Address, RigConfig
from rigsync.core.timing import Timing
from rigsync.errors import RigLost, RigRefused, RigTimeout

from .support import COORDINATOR, WALL, PeerBench

PAUSE = 0.2


@pytest.fixture
def ibl() -> PeerBench:
    """A rig of the iblutil dialect that is known and alive."""
    return PeerBench().connected("iblutil")


def answered(bench: PeerBench, event: str, *args: Any, **options: float) -> None:
    """Have a message answered at once."""
    request = bench.submit(event, **options)
    bench.sent()
    bench.receive(request.array)
    bench.array(ExpMessage[event], *args)
    bench.sent()
    assert bench.outcome() == list(args)


# ------------------------------------------------------------------------------------------------------- pauses


def test_a_first_message_leaves_at_once(ibl: PeerBench) -> None:
    request = ibl.submit("EXPINIT", pause=PAUSE)
    assert ibl.sent() == [request.array]


@pytest.mark.parametrize("event", ["EXPSTART", "EXPINTERRUPT", "EXPEND"])
def test_the_next_leaves_a_pause_after_the_answer(ibl: PeerBench, event: str) -> None:
    answered(ibl, "EXPINIT", {}, pause=PAUSE)
    ibl.now += 0.05
    request = ibl.submit(event, pause=PAUSE)
    assert ibl.sent() == []
    assert ibl.run(1) == pytest.approx([0.15])
    assert ibl.sent() == [request.array]


def test_one_that_waited_already_leaves_a_pause_after_the_answer(ibl: PeerBench) -> None:
    first = ibl.submit("EXPINIT", pause=PAUSE)
    second = ibl.submit("EXPSTART", pause=PAUSE)
    ibl.sent()
    ibl.receive(first.array)
    answer = ibl.array(ExpMessage.EXPINIT, {})
    assert ibl.sent() == [answer]  # its echo, which the rig awaits
    assert ibl.run(1) == pytest.approx([0.2])
    assert ibl.sent() == [second.array]


def test_after_a_pause_nothing_is_waited_for(ibl: PeerBench) -> None:
    answered(ibl, "EXPINIT", {}, pause=PAUSE)
    ibl.run(PAUSE)
    request = ibl.submit("EXPSTART", pause=PAUSE)
    assert ibl.sent() == [request.array]


def test_a_message_of_the_rigs_own_and_an_error_begin_a_pause(ibl: PeerBench) -> None:
    ibl.array(ExpMessage.EXPSTATUS, 20)
    ibl.sent()
    ibl.receive(ibl.submit("EXPINIT", pause=PAUSE).array)
    assert ibl.run(1) == pytest.approx([0.2])
    ibl.receive(ibl.sent()[0])
    ibl.array(ExpMessage(0), "KeyError: x", int(ExpMessage.EXPINIT))
    ibl.submit("EXPSTART", pause=PAUSE)
    assert ibl.run(1) == pytest.approx([0.2])


def test_a_token_begins_a_pause_with_its_echo(ibl: PeerBench) -> None:
    alyx = SimpleNamespace(base_url="https://alyx", user="ana", _token={"token": "t"}, is_logged_in=True)
    request = ibl.submit("ALYX", alyx, pause=PAUSE)
    ibl.sent()
    ibl.receive(request.array)
    ibl.submit("EXPINFO", pause=PAUSE)
    assert ibl.run(1) == pytest.approx([0.2])


def test_a_rig_that_goes_on_talking_puts_nothing_off_without_end(ibl: PeerBench) -> None:
    answered(ibl, "EXPINIT", {}, pause=PAUSE)
    request = ibl.submit("EXPSTART", pause=PAUSE)
    for _ in range(10):
        ibl.run(0.05)
        ibl.array(ExpMessage.EXPSTATUS, 20)
    assert ibl.now == pytest.approx(0.5)
    assert [data for data in ibl.sent() if data == request.array] == [request.array]
    assert ibl.peer.requests.errands.current is not None
    assert ibl.peer.requests.errands.current.sent_at == pytest.approx(2 * PAUSE)


def test_the_configuration_decides_on_the_pause() -> None:
    for configured, expected in ((0.0, []), (0.5, [0.5])):
        ibl = PeerBench(pause=configured).connected("iblutil")
        answered(ibl, "EXPINIT", {}, pause=PAUSE)
        ibl.submit("EXPSTART", pause=PAUSE)
        assert ibl.run(1) == pytest.approx(expected)
        assert len(ibl.sent()) == 1


def test_an_instant_is_kept_unless_it_lies_within_the_pause(ibl: PeerBench) -> None:
    answered(ibl, "EXPINIT", {}, pause=PAUSE)
    ibl.submit("EXPSTART", delay=0.1, pause=PAUSE)
    assert ibl.run(1) == pytest.approx([0.2])
    ibl.receive(ibl.sent()[0])
    ibl.array(ExpMessage.EXPSTART, None, {})
    ibl.sent()
    ibl.submit("EXPEND", delay=0.7, pause=PAUSE)
    assert ibl.run(1) == pytest.approx([0.7])


def test_what_waits_for_the_pause_can_be_taken_back(ibl: PeerBench) -> None:
    answered(ibl, "EXPINIT", {}, pause=PAUSE)
    ibl.submit("EXPSTART", pause=PAUSE)
    assert len(ibl.peer.requests.withdraw_queued()) == 1
    assert ibl.run(1) == []


def test_a_rig_of_the_rigsync_dialect_has_no_pause() -> None:
    bench = PeerBench(pause=5.0).connected()
    bench.submit("EXPINIT", pause=PAUSE)
    bench.sent()
    bench.reply({})
    request = bench.submit("EXPSTART", pause=PAUSE)
    assert bench.sent() == [bench.frame(request)]


class Pair:
    """A `Fanout` of two rigs of the iblutil dialect."""

    def __init__(self) -> None:
        names = ("cameras", "ephys")
        configs = {
            name: RigConfig(name, Address("udp", f"10.0.1.{i}", 11001), dialect="iblutil")
            for i, name in enumerate(names)
        }
        self.now, self.pushes = 0.0, 0
        self.fanout = Fanout(configs, Timing(), COORDINATOR, StampClock(WALL, 0.0), Random(0))
        self.fanout.connect(self.now)
        for name in names:
            self.receive(name, b"[32,0]")  # a sign of life
        self.run(1.0)
        self.sent()
        self.fanout.take_events()

    def push(self, event: str, **options: Any) -> None:
        self.pushes += 1
        self.fanout.push(Order(compose(event), float(self.pushes), pause=PAUSE, **options), self.now)

    def receive(self, rig: str, data: bytes) -> None:
        self.fanout.receive_datagram(data, (rig, Line.REQUESTS), self.now)

    def sent(self) -> list[tuple[str, bytes]]:
        return [(rig, data) for (rig, line), data in self.fanout.take_datagrams() if line is Line.REQUESTS]

    def answer(self, rig: str, asked: bytes, answer: bytes) -> None:
        self.receive(rig, asked)
        self.receive(rig, answer)
        assert self.sent() == [(rig, answer)]

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (when := self.fanout.next_timer()) <= end:
            self.now = max(self.now, when)
            self.fanout.handle_timer(self.now)
        self.now = end

    def completed(self) -> PushCompleted:
        (event,) = [event for event in self.fanout.take_events() if isinstance(event, PushCompleted)]
        return event


INIT, START = b"[1,null ]", b"[2,null,null ]"


def test_all_iblutil_rigs_get_a_message_in_one_turn_though_one_has_answered_later() -> None:
    pair = Pair()
    pair.push("EXPINIT")
    assert pair.sent() == [("cameras", INIT), ("ephys", INIT)]
    pair.answer("cameras", INIT, b"[1,{}]")
    pair.run(0.1)
    pair.answer("ephys", INIT, b"[1,{}]")
    pair.push("EXPSTART")
    pair.run(0.199)
    assert pair.sent() == []
    pair.run(0.001)
    assert pair.sent() == [("cameras", START), ("ephys", START)]


def test_no_interrupt_waits_for_the_pause_of_another_rig() -> None:
    pair = Pair()
    pair.push("EXPINIT")
    pair.sent()
    pair.answer("cameras", INIT, b"[1,{}]")
    pair.run(0.1)
    pair.answer("ephys", INIT, b"[1,{}]")
    pair.push("EXPINTERRUPT")
    pair.run(0.11)
    assert pair.sent() == [("cameras", b"[16,null ]")]
    pair.run(0.1)
    assert pair.sent() == [("ephys", b"[16,null ]")]


def test_what_waits_behind_another_has_its_time_after_the_pause(ibl: PeerBench) -> None:
    first = ibl.submit("EXPINIT", timeout=1.0, pause=2.0)
    ibl.submit("EXPSTART", timeout=1.0, pause=2.0)
    ibl.receive(first.array)
    ibl.array(ExpMessage.EXPINIT, {})
    ibl.sent()
    ibl.outcomes.clear()
    assert ibl.run(2.5) == pytest.approx([2.0])
    assert ibl.outcomes == []
    ibl.run(1)
    assert isinstance(ibl.outcome(), RigTimeout)


def test_of_many_that_wait_each_has_its_time(ibl: PeerBench) -> None:
    requests = [ibl.submit("EXPINFO", "CONNECTED", n, timeout=1.0, pause=PAUSE) for n in range(30)]
    for request in requests:
        ibl.run(PAUSE)
        ibl.receive(request.array)
        ibl.array(ExpMessage.EXPINFO, 0, {})
    assert [outcome for _, outcome in ibl.outcomes] == [[0, {}]] * 30


def test_a_rig_that_talks_takes_nothing_of_the_time_for_the_answer(ibl: PeerBench) -> None:
    answered(ibl, "EXPINIT", {}, pause=0.5)
    ibl.submit("EXPINTERRUPT", timeout=0.3, pause=0.5)
    for _ in range(11):
        ibl.run(0.1)
        ibl.array(ExpMessage.EXPSTATUS, 20)
    assert any(data.startswith(b"[16") for data in ibl.sent())
    assert ibl.outcomes == []


def test_the_pause_takes_nothing_of_the_time_for_the_answer() -> None:
    pair = Pair()
    pair.push("EXPINIT")
    pair.sent()
    pair.answer("cameras", INIT, b"[1,{}]")
    pair.answer("ephys", INIT, b"[1,{}]")
    pair.completed()
    pair.push("EXPSTART", timeout=0.1)
    pair.run(0.25)
    assert len(pair.sent()) == 2
    for rig in ("cameras", "ephys"):
        pair.receive(rig, START)
        pair.receive(rig, b"[2,null,{}]")
    assert pair.completed().failures == {}


# -------------------------------------------------------------------------------------------- verbs, and their echo


def test_a_verb_ends_with_the_echo_and_the_next_leaves_then(ibl: PeerBench) -> None:
    verbs = [ibl.submit(event, confirm=True, pause=PAUSE) for event in ("EXPINIT", "EXPSTART", "EXPEND")]
    for verb in verbs:
        assert ibl.sent() == [verb.array]
        ibl.receive(verb.array)
        assert ibl.outcome() is None
        ibl.run(VERB_GAP)
    assert [event.request_time for event in ibl.events(RequestReceived)] == [1.0, 2.0, 3.0]
    assert ibl.events(MessageReceived) == []


def test_the_answer_to_a_verb_is_met_by_no_other_message(ibl: PeerBench) -> None:
    """A rig that awaits the echo of its answer takes any other message for a wrong one, and closes."""
    ibl.receive(ibl.submit("EXPINIT", confirm=True, pause=PAUSE).array)
    following = ibl.submit("EXPSTART", confirm=True, pause=PAUSE)
    ibl.sent()
    ibl.run(0.01)
    answer = ibl.array(ExpMessage.EXPINIT, {})
    assert ibl.sent() == [answer]
    assert ibl.run(1) == pytest.approx([0.2])
    assert ibl.sent() == [following.array]


def test_the_answer_to_a_verb_is_told_when_it_comes(ibl: PeerBench) -> None:
    ibl.receive(ibl.submit("EXPINIT", confirm=True).array)
    ibl.array(ExpMessage.EXPINIT, {"ready": True})
    (told,) = ibl.events(MessageReceived)
    assert (told.event, told.args, told.request_time) == (ExpMessage.EXPINIT, [{"ready": True}], None)


def test_a_verb_of_a_rig_that_does_not_confirm_fails_in_its_time(ibl: PeerBench) -> None:
    ibl.submit("EXPINIT", confirm=True, timeout=2)
    ibl.run(2)
    assert isinstance(ibl.outcome(), RigTimeout)


def test_a_verb_of_a_rigsync_rig_is_settled_by_its_answer() -> None:
    bench = PeerBench().connected()
    bench.submit("EXPINIT", confirm=True)
    bench.ack()
    assert [event.request_time for event in bench.events(RequestReceived)] == [1.0]
    assert bench.outcomes == []
    bench.reply({})
    assert bench.outcome() == [{}]


# ------------------------------------------------------------------------------------- patience, and what is known


def test_an_echo_is_no_sign_of_work(ibl: PeerBench) -> None:
    request = ibl.submit("EXPCLEANUP", timeout=2, patience=600)
    ibl.receive(request.array)
    ibl.run(1.99)
    assert ibl.outcomes == []
    ibl.run(0.02)
    error = ibl.outcome()
    assert isinstance(error, RigTimeout)
    assert "has received it, and says no more" in str(error)


def test_an_ack_is_a_sign_of_work() -> None:
    bench = PeerBench().connected()
    bench.submit("EXPCLEANUP", timeout=2, patience=600)
    bench.ack()
    for _ in range(600):
        bench.run(1)
        bench.alive(bench.peer.probe(bench.now))
    assert bench.outcomes == []


def test_what_an_iblutil_rig_had_when_its_program_ended_is_not_said_to_have_been_worked_on(ibl: PeerBench) -> None:
    ibl.receive(ibl.submit("EXPSTART").array)
    ibl.peer.report_refusal(ibl.now)
    ibl.run(1.1)
    error = ibl.outcome()
    assert isinstance(error, (RigRefused, RigLost))
    assert "the rig had EXPSTART when its program ended" in str(error)


# -------------------------------------------------------------------------------------- answers of another name

ENDS = ["EXPEND", "EXPINTERRUPT", "EXPCLEANUP"]


@pytest.mark.parametrize("asked", ENDS)
@pytest.mark.parametrize("answer", ENDS)
def test_any_answer_that_ends_a_recording_is_taken_for_what_it_is(ibl: PeerBench, asked: str, answer: str) -> None:
    """iblrig's camera answers EXPCLEANUP by EXPINTERRUPT."""
    request = ibl.submit(asked)
    ibl.sent()
    ibl.receive(request.array)
    ibl.events()
    data = ibl.array(ExpMessage[answer], {"status": 30})
    assert ibl.sent() == [data]
    assert ibl.outcome() == [{"status": 30}]
    told = ibl.events()
    (received,) = [event for event in told if isinstance(event, MessageReceived)]
    assert (received.event.name, received.request_time) == (answer, 1.0)
    warned = [event.problem for event in told if isinstance(event, ViolationSeen)]
    expected = f"{asked} was answered by {answer}: taken for its answer, since it ends a recording"
    assert warned == ([] if asked == answer else [expected])


@pytest.mark.parametrize(
    ("asked", "answer"), [("EXPSTART", "EXPINTERRUPT"), ("EXPEND", "EXPINFO"), ("EXPINIT", "EXPEND")]
)
def test_no_other_answer_of_another_name_is(ibl: PeerBench, asked: str, answer: str) -> None:
    ibl.receive(ibl.submit(asked).array)
    ibl.array(ExpMessage[answer], 0, {})
    assert ibl.outcomes == []


def test_each_pair_of_names_is_told_once(ibl: PeerBench) -> None:
    for asked, answer in (("EXPCLEANUP", "EXPINTERRUPT"), ("EXPEND", "EXPINTERRUPT"), ("EXPCLEANUP", "EXPINTERRUPT")):
        ibl.receive(ibl.submit(asked).array)
        ibl.array(ExpMessage[answer], {})
    told = [event.problem.partition(":")[0] for event in ibl.events(ViolationSeen)]
    assert told == ["EXPCLEANUP was answered by EXPINTERRUPT", "EXPEND was answered by EXPINTERRUPT"]


def test_the_second_answer_of_a_rig_that_was_asked_twice_is_none_to_the_next_message() -> None:
    ibl = PeerBench(resend=True).connected("iblutil")
    request = ibl.submit("EXPEND")
    ibl.run(0.03)
    ibl.receive(request.array)
    ibl.array(ExpMessage.EXPEND, {"status": 30})
    ibl.outcomes.clear()
    ibl.receive(ibl.submit("EXPCLEANUP").array)
    ibl.array(ExpMessage.EXPEND, {"status": 30})
    assert ibl.outcomes == []


@pytest.mark.parametrize("how", ["refused", "another dialect"])
def test_a_program_that_has_ended_owes_nothing(ibl: PeerBench, how: str) -> None:
    ibl.receive(ibl.submit("EXPINTERRUPT", timeout=1).array)
    ibl.run(1.5)
    ibl.outcomes.clear()
    if how == "refused":
        ibl.peer.report_refusal(ibl.now)
    else:
        ibl.alive(ibl.peer.probe(ibl.now))
        ibl.peer.probe(ibl.now)
        ibl.receive(ibl.sent(Line.PROBES)[-1], Line.PROBES)
    ibl.array(ExpMessage.EXPSTATUS, 0)
    ibl.run(1)
    ibl.receive(ibl.submit("EXPCLEANUP").array)
    ibl.array(ExpMessage.EXPINTERRUPT, {"status": 30})
    assert ibl.outcome() == [{"status": 30}]


def test_an_answer_of_another_name_does_not_count_before_the_echo(ibl: PeerBench) -> None:
    ibl.submit("EXPCLEANUP")
    ibl.array(ExpMessage.EXPINTERRUPT, {})
    assert ibl.outcomes == []


def given_up(ibl: PeerBench) -> None:
    ibl.receive(ibl.submit("EXPEND", timeout=1).array)
    ibl.run(1.5)


def overtaken(ibl: PeerBench) -> None:
    ibl.receive(ibl.submit("EXPEND").array)
    ibl.receive(ibl.submit("EXPINTERRUPT").array)
    ibl.array(ExpMessage.EXPINTERRUPT, {"status": 30})


def confirmed(ibl: PeerBench) -> None:
    ibl.receive(ibl.submit("EXPEND", confirm=True).array)
    ibl.run(VERB_GAP)


@pytest.mark.parametrize("before", [given_up, overtaken, confirmed])
def test_the_answer_that_is_owed_to_a_message_before_is_not_taken_for_that_of_the_next(
    ibl: PeerBench, before: Any
) -> None:
    before(ibl)
    ibl.outcomes.clear()
    ibl.receive(ibl.submit("EXPCLEANUP").array)
    ibl.array(ExpMessage.EXPEND, {"late": True})
    assert ibl.outcomes == []
    ibl.array(ExpMessage.EXPCLEANUP, {})
    assert ibl.outcome() == [{}]
    # It has come, so that another one is an answer again.
    ibl.receive(ibl.submit("EXPCLEANUP").array)
    ibl.array(ExpMessage.EXPEND, {"status": 0})
    assert ibl.outcome() == [{"status": 0}]
