"""Many peers: one push out, its outcomes collated."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from rigsync.core import events, messages
from rigsync.core.arguments import compose, compose_command
from rigsync.core.clock import StampClock
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import Event, LinkState, PushCompleted, PushDecided, RequestReceived
from rigsync.core.fanout import Fanout
from rigsync.core.messages import Alive, Command, Message, Request, decode
from rigsync.core.orders import Order
from rigsync.core.outputs import Line
from rigsync.core.rigs import Address, RigConfig
from rigsync.core.timing import Timing
from rigsync.errors import (
    Aborted,
    Cancelled,
    Interrupted,
    NotSupported,
    RemoteError,
    RemoteProtocolError,
    RigLost,
    RigRefused,
    RigRestarted,
    RigTimeout,
)

from .support import COORDINATOR, WALL

RIGS = ["cameras", "ephys", "imaging"]


def boot_of(rig: str) -> str:
    return f"{RIGS.index(rig) + 10:016x}"


class Bench:
    """A `Fanout` of three rigs of the rigsync dialect, all alive unless told otherwise."""

    def __init__(self, alive: list[str] | None = None, rigs: list[str] | None = None, **config: Any):
        names = RIGS if rigs is None else rigs
        configs = {
            name: RigConfig(name, Address("udp", f"10.0.1.{i}", 11001), **config) for i, name in enumerate(names)
        }
        self.now = 0.0
        self.fanout = Fanout(configs, Timing(), COORDINATOR, StampClock(WALL, 0.0), Random(0))
        self.told: list[Event] = []
        self.pushes = 0
        self.fanout.connect(self.now)
        for name in names if alive is None else alive:
            self.alive(name)
        self.fanout.take_datagrams()
        self.fanout.take_events()

    def alive(self, rig: str, offset: float = 0.0) -> None:
        """Have a rig answer the last probe at once, its clock being ahead by so many seconds."""
        probe = self.fanout.peers[rig].prober.log._newest[-1]
        stamp = WALL + round((self.now + offset) * 1e9)
        frame = Alive(boot_of(rig), probe.n, probe.stamp, stamp, stamp, rig, ExpStatus.CONNECTED, None, "")
        self.fanout.receive_datagram(messages.alive(frame), (rig, Line.PROBES), self.now)

    def push(self, event: str, *args: Any, **options: Any) -> float:
        self.pushes += 1
        self.fanout.push(Order(compose(event, *args), float(self.pushes), **options), self.now)
        return float(self.pushes)

    def requests(self) -> list[tuple[str, int, ExpMessage]]:
        """Return the requests sent since the last look: rig, number, message."""
        found = []
        for (rig, line), data in self.fanout.take_datagrams():
            frame = decode(data)
            if line is Line.REQUESTS and isinstance(frame, Request):
                found.append((rig, frame.n, frame.event))
        return found

    def reply(self, rig: str, n: int, *args: Any, started: int = 0) -> None:
        data = messages.reply(boot_of(rig), n, Message.of(ExpMessage.EXPINFO, list(args)), started, started)
        self.fanout.receive_datagram(data, (rig, Line.REQUESTS), self.now)

    def fail(self, rig: str, n: int) -> None:
        data = messages.failure(boot_of(rig), n, "OSError", "disk full", "")
        self.fanout.receive_datagram(data, (rig, Line.REQUESTS), self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (when := self.fanout.next_timer()) <= end:
            self.now = max(self.now, when)
            self.fanout.handle_timer(self.now)
            assert self.fanout.next_timer() > self.now, "a timer that is due again at once would never sleep"
        self.now = end

    def completed(self) -> list[PushCompleted]:
        return [event for event in self.fanout.take_events() if isinstance(event, PushCompleted)]


def test_a_push_leaves_to_all_rigs_in_their_order_and_in_the_same_turn() -> None:
    bench = Bench()
    bench.push("EXPSTART")
    assert bench.requests() == [(rig, 1, ExpMessage.EXPSTART) for rig in RIGS]


def ack(bench: Bench, rig: str, n: int) -> None:
    bench.fanout.receive_datagram(messages.ack(boot_of(rig), n), (rig, Line.REQUESTS), bench.now)


def decided(bench: Bench) -> list[PushDecided]:
    return [event for event in bench.fanout.take_events() if isinstance(event, PushDecided)]


def test_what_all_or_none_are_to_do_is_decided_when_one_has_failed_and_the_others_work_on_it() -> None:
    bench = Bench()
    bench.push("EXPINIT", all_or_none=True)
    first, second, third = RIGS
    bench.fail(first, 1)
    ack(bench, second, 1)
    # It may be another coordinator's, to which an EXPINTERRUPT must not go; it has not said so yet.
    assert decided(bench) == []
    assert bench.fanout.outstanding(1.0) == [second, third]
    bench.reply(third, 1, 0, {})
    (event,) = decided(bench)
    assert (event.request_time, event.event) == (1.0, ExpMessage.EXPINIT)
    assert (list(event.answers), list(event.failures)) == ([third], [first])
    bench.fail(second, 1)
    (completed,) = bench.completed()  # once more, and whole
    assert list(completed.failures) == [first, second]
    assert bench.fanout.outstanding(1.0) == []


def test_one_that_is_silent_is_waited_for_until_it_is_lost() -> None:
    bench = Bench()
    bench.push("EXPINIT", all_or_none=True, timeout=60)
    first, second, third = RIGS
    bench.fail(first, 1)
    bench.run(4.0)
    ack(bench, second, 1)
    assert decided(bench) == []
    for _ in range(4):
        bench.run(1.0)
        bench.alive(second)
    (event,) = decided(bench)
    assert list(event.failures) == [first, third]


def test_it_is_decided_as_soon_as_the_time_of_one_is_up() -> None:
    bench = Bench()
    bench.push("EXPINIT", all_or_none=True, timeout=2, patience=60)
    for rig in RIGS[1:]:
        ack(bench, rig, 1)
    bench.run(2.0)  # and nothing comes meanwhile
    assert [list(event.failures) for event in decided(bench)] == [[RIGS[0]]]


def test_what_was_not_sent_yet_keeps_nobody_waiting() -> None:
    bench = Bench()
    bench.push("EXPINFO", rigs=[RIGS[1]])
    bench.push("EXPINIT", all_or_none=True, rigs=RIGS[:2])
    bench.fail(RIGS[0], 2)
    assert [list(event.failures) for event in decided(bench)] == [[RIGS[0]]]


def test_any_other_push_is_told_of_when_all_have_answered_alone() -> None:
    bench = Bench()
    bench.push("EXPINIT")
    bench.fail(RIGS[0], 1)
    for rig in RIGS[1:]:
        ack(bench, rig, 1)
    assert decided(bench) == []


@pytest.mark.parametrize("event", ["EXPEND", "EXPINTERRUPT", "EXPCLEANUP"])
def test_what_began_first_ends_last(event: str) -> None:
    bench = Bench()
    bench.push(event)
    assert [rig for rig, _, _ in bench.requests()] == RIGS[::-1]


@pytest.mark.parametrize("event", ["EXPINIT", "EXPSTART", "EXPSTATUS", "EXPINFO", "ALYX"])
def test_all_else_goes_out_in_the_order_of_the_rigs(event: str) -> None:
    bench = Bench()
    bench.push(event)
    assert [rig for rig, _, _ in bench.requests()] == RIGS


def test_a_push_to_some_rigs_goes_out_in_the_order_given() -> None:
    bench = Bench()
    bench.push("EXPINIT", rigs=["imaging", "cameras"])
    assert [rig for rig, _, _ in bench.requests()] == ["imaging", "cameras"]
    bench.push("EXPEND", rigs=["ephys"])
    assert [rig for rig, _, _ in bench.requests()] == ["ephys"]


def test_each_rig_s_request_names_its_boot_and_the_arguments_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    message = compose("EXPINIT", {"a": 1})
    expected = [((rig, Line.REQUESTS), messages.request(COORDINATOR, 1, message, boot_of(rig))) for rig in RIGS]
    monkeypatch.setattr(messages, "to_json", None)
    bench.fanout.push(Order(message, 1.0), bench.now)
    assert bench.fanout.take_datagrams() == expected


def test_the_numbers_of_pushes_rise() -> None:
    bench = Bench()
    for event in ("EXPINFO", "EXPSTATUS"):
        bench.push(event, rigs=["cameras"])
    bench.reply("cameras", 1, 20, None)
    assert [n for _, n, _ in bench.requests()] == [1, 2]


def test_a_push_is_completed_by_its_last_answer_and_holds_all() -> None:
    bench = Bench()
    at = bench.push("EXPINFO")
    bench.reply("ephys", 1, 20, "e")
    bench.reply("cameras", 1, 20, "c")
    assert bench.completed() == []
    bench.reply("imaging", 1, 20, "i")
    (completed,) = bench.completed()
    assert (completed.request_time, completed.event) == (at, ExpMessage.EXPINFO)
    assert completed.answers == {"cameras": [20, "c"], "ephys": [20, "e"], "imaging": [20, "i"]}
    assert completed.failures == {}


@pytest.mark.parametrize("event", ["EXPINFO", "EXPEND"])
def test_answers_and_failures_stand_in_the_order_of_the_push_whoever_was_first(event: str) -> None:
    bench = Bench()
    bench.push(event)
    for rig in ("imaging", "ephys", "cameras"):
        bench.reply(rig, 1, None)
    bench.push(event, rigs=["imaging", "cameras"])
    for rig in ("cameras", "imaging"):
        bench.fail(rig, 2)
    first, second = bench.completed()
    assert list(first.answers) == RIGS
    assert list(second.failures) == ["imaging", "cameras"]


def test_partial_success_survives_a_failure() -> None:
    bench = Bench()
    bench.push("EXPSTART", timeout=2)
    bench.reply("cameras", 1, None, None)
    bench.fail("ephys", 1)
    bench.run(2)
    (completed,) = bench.completed()
    assert completed.answers == {"cameras": [None, None]}
    assert {rig: type(error) for rig, error in completed.failures.items()} == {
        "ephys": RemoteError,
        "imaging": RigTimeout,
    }
    assert all(error.rig == rig for rig, error in completed.failures.items())


def test_a_dead_rig_holds_up_no_other() -> None:
    bench = Bench(alive=["cameras", "imaging"])
    bench.push("EXPINIT", timeout=30)
    bench.push("EXPSTART", timeout=30)
    assert bench.requests() == [("cameras", 1, ExpMessage.EXPINIT), ("imaging", 1, ExpMessage.EXPINIT)]
    bench.reply("cameras", 1, None)
    assert bench.requests() == [("cameras", 2, ExpMessage.EXPSTART)]
    bench.reply("cameras", 2, None, None)
    for n in (1, 2):
        bench.reply("imaging", n, None)
    assert bench.completed() == []
    bench.run(5.999)
    assert bench.completed() == []
    bench.run(0.001)
    init, start = bench.completed()
    for completed in (init, start):
        assert list(completed.answers) == ["cameras", "imaging"]
        assert {rig: type(error) for rig, error in completed.failures.items()} == {"ephys": RigLost}


def test_a_push_to_no_rigs_is_completed_at_once() -> None:
    for bench in (Bench(), Bench(rigs=[])):
        at = bench.push("EXPSTART", rigs=[])
        (completed,) = bench.completed()
        assert (completed.request_time, completed.answers, completed.failures) == (at, {}, {})
        assert bench.requests() == []


def test_an_unknown_rig_is_an_error_before_anything_is_sent() -> None:
    bench = Bench()
    with pytest.raises(KeyError):
        bench.push("EXPSTART", rigs=["cameras", "lasers"])
    assert bench.requests() == []


def test_a_request_time_is_used_once() -> None:
    bench = Bench()
    bench.fanout.push(Order(compose("EXPINFO"), 5.0), bench.now)
    with pytest.raises(ValueError, match="already filed"):
        bench.fanout.push(Order(compose("EXPINFO"), 5.0), bench.now)
    assert len(bench.requests()) == 3


def test_each_rig_has_its_own_timeout_unless_the_push_says_otherwise() -> None:
    configs = {
        name: RigConfig(name, Address("udp", f"10.0.1.{i}", 11001), timeout=1.0 + i) for i, name in enumerate(RIGS)
    }
    bench = Bench()
    bench.fanout = Fanout(configs, Timing(), COORDINATOR, StampClock(WALL, 0.0), Random(0))
    bench.fanout.connect(0.0)
    for rig in RIGS:
        bench.alive(rig)
    bench.push("EXPINFO", rigs=["cameras"])
    bench.push("EXPINFO", rigs=["imaging"])
    bench.push("EXPINFO", rigs=["ephys"], timeout=0.5)
    finished = {}
    while len(finished) < 3:
        bench.run(0.25)
        finished |= {completed.request_time: bench.now for completed in bench.completed()}
    assert finished == {1.0: 1.0, 2.0: 3.0, 3.0: 0.5}


def test_an_interrupt_settles_what_is_outstanding_on_every_rig_and_goes_out_at_once() -> None:
    bench = Bench()
    bench.push("EXPINIT")
    bench.push("EXPSTART")
    bench.reply("cameras", 1, None)
    bench.requests()
    bench.push("EXPINTERRUPT")
    assert bench.requests() == [(rig, 3, ExpMessage.EXPINTERRUPT) for rig in RIGS[::-1]]
    init, start = bench.completed()
    assert init.answers == {"cameras": [None]}
    assert {rig: type(error) for rig, error in init.failures.items()} == {"ephys": Interrupted, "imaging": Interrupted}
    assert {rig: type(error) for rig, error in start.failures.items()} == dict.fromkeys(RIGS, Interrupted)
    for rig in RIGS:
        bench.reply(rig, 3, {})
    assert [completed.request_time for completed in bench.completed()] == [3.0]


def test_withdrawing_counts_the_pushes_that_it_touches() -> None:
    bench = Bench()
    bench.push("EXPINIT")
    bench.push("EXPSTART")
    bench.push("EXPEND", rigs=["ephys"])
    assert bench.fanout.withdraw_queued() == 2
    start, end = sorted(bench.completed(), key=lambda completed: completed.request_time)
    assert {rig: type(error) for rig, error in start.failures.items()} == dict.fromkeys(RIGS, Aborted)
    assert list(end.failures) == ["ephys"]
    for rig in RIGS:
        bench.reply(rig, 1, None)
    assert [completed.request_time for completed in bench.completed()] == [1.0]
    assert bench.fanout.withdraw_queued() == 0


def test_receipt_is_told_for_each_rig_where_it_was_asked_for() -> None:
    bench = Bench()
    bench.push("EXPSTART", confirm=True)
    for rig in RIGS:
        bench.fanout.receive_datagram(messages.ack(boot_of(rig), 1), (rig, Line.REQUESTS), bench.now)
    told = [event for event in bench.fanout.take_events() if isinstance(event, RequestReceived)]
    assert told == [RequestReceived(rig, 1.0) for rig in RIGS]


def test_all_alive_means_that_every_rig_has_answered_lately() -> None:
    assert not Bench(rigs=[]).fanout.all_alive
    assert not Bench(alive=["cameras", "ephys"]).fanout.all_alive
    bench = Bench()
    assert bench.fanout.all_alive
    bench.run(3.5)
    assert {peer.state for peer in bench.fanout.peers.values()} == {LinkState.SUSPECT}
    assert bench.fanout.all_alive
    bench.run(2)
    assert not bench.fanout.all_alive


def test_a_refusal_concerns_the_rig_that_it_came_from() -> None:
    bench = Bench()
    bench.push("EXPSTART", timeout=60)
    bench.fanout.report_refusal(("ephys", Line.PROBES), bench.now)
    bench.reply("cameras", 1, None, None)
    bench.run(4.9)
    bench.reply("imaging", 1, None, None)
    (completed,) = bench.completed()
    assert list(completed.answers) == ["cameras", "imaging"]
    assert [type(error) for error in completed.failures.values()] == [RigRefused]


def test_a_silent_rig_is_lost() -> None:
    bench = Bench()
    bench.push("EXPSTART", rigs=["ephys"], timeout=60)
    bench.run(6)
    (completed,) = bench.completed()
    assert [type(error) for error in completed.failures.values()] == [RigLost]


def test_a_rig_can_be_probed_by_name() -> None:
    bench = Bench()
    n = bench.fanout.probe("ephys", bench.now)
    ((destination, data),) = bench.fanout.take_datagrams()
    assert destination == ("ephys", Line.PROBES)
    assert decode(data).n == n  # type: ignore[union-attr]


def test_all_rigs_are_told_when_the_coordinator_closes() -> None:
    bench = Bench(alive=["cameras", "imaging"])
    bench.fanout.say_goodbye()
    assert {(rig, line) for (rig, line), _ in bench.fanout.take_datagrams()} == {
        (rig, line) for rig in ("cameras", "imaging") for line in Line
    }


def test_after_the_goodbye_nothing_is_sent_again_and_nothing_is_heard() -> None:
    """The program ends while somebody waits, who is to end in silence: a rig would answer that it is refused."""
    bench = Bench()
    bench.push("EXPINFO")
    bench.requests()
    bench.fanout.take_events()
    bench.fanout.say_goodbye()
    assert {type(decode(data)) for _, data in bench.fanout.take_datagrams()} == {messages.Bye}
    bench.run(30.0)
    refusal = messages.failure(boot_of("cameras"), 1, "SaidGoodbye", "this coordinator has said goodbye", "")
    bench.fanout.receive_datagram(refusal, ("cameras", Line.REQUESTS), bench.now)
    assert bench.fanout.take_datagrams() == []
    assert bench.fanout.take_events() == []
    bench.fanout.abandon()  # where it closes, who waits is told
    bench.fanout.take_events()


def test_each_rig_of_a_push_is_told_of_from_when_that_is_asked_for() -> None:
    bench = Bench()
    key = bench.push("EXPINFO", rigs=["cameras"])
    assert bench.fanout.tell_each(key + 1) is None
    assert bench.fanout.tell_each(key) == {}
    bench.fanout.take_events()
    bench.fanout.abandon()
    assert [event.rig for event in bench.fanout.take_events() if isinstance(event, events.RigSettled)] == ["cameras"]
    assert bench.fanout.tell_each(key) is None


def test_what_was_taken_is_not_given_again() -> None:
    bench = Bench()
    bench.push("EXPINFO", rigs=[])
    assert len(bench.fanout.take_events()) == 2
    assert bench.fanout.take_events() == []
    bench.push("EXPINFO")
    assert len(bench.fanout.take_datagrams()) == 3
    assert bench.fanout.take_datagrams() == []


def test_without_rigs_nothing_is_ever_due() -> None:
    bench = Bench(rigs=[])
    assert bench.fanout.next_timer() == math.inf
    bench.fanout.handle_timer(1e6)
    assert bench.fanout.next_timer() == math.inf


# -------------------------------------------------------------------------------------------------------- instants


def test_each_rig_is_told_the_instant_in_its_own_clock() -> None:
    bench = Bench(alive=[])
    offsets = {"cameras": 0.0, "ephys": 90.0, "imaging": -7.5}
    for rig, offset in offsets.items():
        bench.alive(rig, offset)
    bench.fanout.take_datagrams()
    bench.push("EXPSTART", act_at=2.0)
    found = {}
    for (rig, line), data in bench.fanout.take_datagrams():
        frame = decode(data)
        if line is Line.REQUESTS and isinstance(frame, Request):
            assert frame.at is not None
            found[rig] = (frame.at - WALL) / 1e9
    assert found == pytest.approx({rig: 2.0 + offset for rig, offset in offsets.items()}, abs=1e-6)


def test_a_result_holds_the_instant_and_each_rig_s_start_in_the_order_of_the_push() -> None:
    bench = Bench(alive=[])
    for rig, offset in (("cameras", 0.0), ("ephys", 90.0), ("imaging", -7.5)):
        bench.alive(rig, offset)
    bench.push("EXPSTART", act_at=2.0)
    bench.run(2.1)
    bench.reply("imaging", 1, None, started=WALL - 5_499_900_000)
    bench.fail("ephys", 1)
    bench.reply("cameras", 1, None, started=WALL + 2_000_300_000)
    (completed,) = bench.completed()
    assert completed.at == pytest.approx(WALL / 1e9 + 2.0, abs=1e-6)
    assert list(completed.starts) == ["cameras", "imaging"]
    starts = {rig: start.time - WALL / 1e9 for rig, start in completed.starts.items()}
    assert starts == pytest.approx({"cameras": 2.0003, "imaging": 2.0001}, abs=1e-6)
    assert all(start.bound < 0.001 and not start.is_estimate for start in completed.starts.values())


def test_what_is_done_at_once_has_starts_and_no_instant() -> None:
    bench = Bench()
    bench.push("EXPINIT", rigs=["cameras"])
    bench.reply("cameras", 1, None, started=WALL + 1_000_000)
    (completed,) = bench.completed()
    assert completed.at is None
    assert completed.starts["cameras"].time == pytest.approx(WALL / 1e9 + 0.001, abs=1e-6)


def test_a_push_to_no_rigs_names_its_instant_as_well() -> None:
    bench = Bench()
    bench.push("EXPSTART", rigs=[], act_at=2.0)
    (completed,) = bench.completed()
    assert (completed.at, completed.starts) == (pytest.approx(WALL / 1e9 + 2.0, abs=1e-6), {})


@pytest.mark.parametrize(("act_at", "settled_at"), [(3.0, 4.0), (-5.0, 1.0), (None, 1.0)])
def test_the_timeout_counts_from_the_instant_unless_that_is_over(act_at: float | None, settled_at: float) -> None:
    bench = Bench()
    bench.push("EXPSTART", act_at=act_at, timeout=1.0, rigs=["cameras"])
    finished = None
    while bench.now < 6 and finished is None:
        bench.run(0.25)
        bench.alive("cameras")
        if bench.completed():
            finished = bench.now
    assert finished == pytest.approx(settled_at)


def test_an_end_calls_a_start_off_on_every_rig() -> None:
    bench = Bench()
    bench.push("EXPSTART", act_at=5.0)
    bench.requests()
    bench.push("EXPEND")
    sent = bench.requests()
    for rig in RIGS:
        failure = messages.failure(boot_of(rig), 1, "Cancelled", "EXPSTART was not run", "")
        bench.fanout.receive_datagram(failure, (rig, Line.REQUESTS), bench.now)
    (start,) = bench.completed()
    assert {rig: type(error) for rig, error in start.failures.items()} == dict.fromkeys(RIGS, Cancelled)
    assert start.at == pytest.approx(WALL / 1e9 + 5.0, abs=1e-6)
    assert sent == [(rig, 2, ExpMessage.EXPEND) for rig in RIGS[::-1]]


def test_a_restart_concerns_the_rig_that_it_happened_to() -> None:
    bench = Bench()
    bench.push("EXPSTART")
    bench.fanout.probe("ephys", bench.now)
    probe = bench.fanout.peers["ephys"].prober.log._newest[-1]
    frame = Alive("f" * 16, probe.n, probe.stamp, WALL, WALL, "ephys", ExpStatus.CONNECTED, None, "")
    bench.fanout.receive_datagram(messages.alive(frame), ("ephys", Line.PROBES), bench.now)
    for rig in ("cameras", "imaging"):
        bench.reply(rig, 1, None)
    (completed,) = bench.completed()
    assert list(completed.answers) == ["cameras", "imaging"]
    assert [type(error) for error in completed.failures.values()] == [RigRestarted]


def test_life_and_violations_reach_the_rig_s_own_peer() -> None:
    bench = Bench()
    first, second, _ = bench.fanout.peers.values()
    bench.fanout.report_violation((first.name, Line.REQUESTS), RemoteProtocolError("junk", "x"))
    assert (first.violations, second.violations) == ({"junk": 1}, {})
    bench.fanout.report_life((first.name, Line.REQUESTS), bench.now)
    assert bench.fanout.next_timer() <= first.next_timer()


# ------------------------------------------------------------------------------------------------------ commands


def test_a_command_goes_to_its_rig_and_its_completion_names_it() -> None:
    bench = Bench()
    bench.fanout.push(Order(compose_command("focus", (), {"z": 3}), 1.0, ["ephys"]), bench.now)
    assert bench.requests() == [("ephys", 1, Command("focus"))]
    bench.reply("ephys", 1, 2.5)
    (completed,) = bench.completed()
    assert (completed.event.name, completed.answers, completed.failures) == ("focus", {"ephys": [2.5]}, {})
    assert list(completed.starts) == ["ephys"]


def test_a_command_that_an_iblutil_rig_does_not_know_is_completed_at_the_call() -> None:
    bench = Bench(dialect="iblutil")
    bench.fanout.push(Order(compose_command("focus", (), {}), 1.0, ["ephys"]), bench.now)
    (completed,) = bench.completed()
    assert isinstance(completed.failures["ephys"], NotSupported)
    assert bench.requests() == []


@pytest.mark.parametrize("late", [0.15, 0.3, 0.99])
def test_timers_of_a_busy_computer_put_off_neither_a_loss_nor_the_end_of_a_push(late: float) -> None:
    """Late by less than a beat is no standing still: else a rig that is gone would be lost much later, or never."""
    bench = Bench()
    lost: list[float] = []
    settled: list[float] = []
    bench.fanout.push(Order(compose("EXPSTATUS"), 1.0, timeout=3.0), bench.now)
    while bench.now < 8.0:
        bench.now = max(bench.now, bench.fanout.next_timer()) + late
        bench.fanout.note_standstill(late, bench.now)
        bench.fanout.handle_timer(bench.now)
        told = bench.fanout.take_events()
        assert not any(isinstance(event, events.StoodStill) for event in told)
        lost += [bench.now for event in told if isinstance(event, events.LinkLost)]
        settled += [bench.now for event in told if isinstance(event, PushCompleted)]
    assert len(lost) == len(RIGS)
    assert max(lost) <= 5.0 + late + 1e-9
    assert max(settled) <= 3.0 + late + 1e-9
