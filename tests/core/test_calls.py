"""Calls beside what a rig does: their order, their numbers, and each answer to its own caller."""

from __future__ import annotations

import functools
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from rigsync.core.arguments import compose_command
from rigsync.core.calls import ANSWER, CALL, CALLS
from rigsync.core.events import HandlerDue, Notice, PushCompleted
from rigsync.core.messages import Command, Message, Request, decode
from rigsync.core.responder import Responder
from rigsync.testing import SimNetwork
from rigsync.testing.nodes import FakeRig

from .support import RigBench


class Slow:
    """A rig whose command `echo` answers with its argument, after seconds that are drawn for each call."""

    def __init__(self, network: SimNetwork, name: str, seconds: Callable[[], float], **handlers: float):
        self.rig = rig = network.add_rig(name, handlers, commands={"echo": 0.0})
        self.name, self.running, self.most = name, 0, 0

        def enter(responder: Responder, due: HandlerDue) -> None:
            if not isinstance(due.event, Command):
                FakeRig._enter(rig, responder, due)
                return
            rig.calls.append((due.event, due.args))
            self.running += 1
            self.most = max(self.most, self.running)
            network.after(seconds(), lambda: settle(responder, due))

        def settle(responder: Responder, due: HandlerDue) -> None:
            self.running -= 1
            responder.agenda.respond(due.task, due.args[0][0], network.now)
            rig.pump()

        rig._enter = enter  # type: ignore[method-assign]


def test_ten_thousand_outstanding_calls_under_loss_are_run_once_and_answered_each_to_its_own_caller() -> None:
    network, random = SimNetwork(7, loss=0.1, duplication=0.02, reordering=0.05), Random(7)
    rigs = [Slow(network, name, lambda: random.uniform(0.0, 0.05)) for name in ("cameras", "ephys", "imaging")]
    lab = network.coordinator()
    network.run(1.0)
    calls = {lab.call_nowait(rigs[n % 3].name, "echo", n, timeout=1000.0): n for n in range(10_000)}
    assert network.run(1000.0, lambda: len(lab.results) == len(calls))
    answers = {key: done.answers for key, done in lab.results.items()}
    assert answers == {key: {rigs[n % 3].name: [n]} for key, n in calls.items()}
    settled = [calls[event.request_time] for event in lab.events if isinstance(event, PushCompleted)]
    for number, rig in enumerate(rigs):
        ran = [args[0][0] for _, args in rig.rig.calls]
        assert ran == list(range(number, 10_000, 3)), "each once, and begun in the order in which they were made"
        answered = [n for n in settled if n % 3 == number]
        assert answered != sorted(answered), "a quick one does not wait for a slow one before it"
        assert 1 < rig.most <= 8
    assert all(peer.requests.errands.is_idle for peer in lab.fanout.peers.values())


def test_a_call_waits_for_no_message_and_no_message_for_a_call() -> None:
    network = SimNetwork(3, loss=0.2)
    rig = Slow(network, "cameras", lambda: 5.0, EXPINIT=1.0).rig
    lab = network.coordinator(timeout=60.0)
    network.run(1.0)
    init, start = lab.push("EXPINIT", "2026-11-30_1_mouse"), lab.push("EXPSTART", "2026-11-30_1_mouse")
    calls = [lab.call_nowait("cameras", "echo", n) for n in range(20)]  # after EXPSTART, which waits for EXPINIT
    assert network.run(60.0, lambda: start in lab.results)
    assert not any(call in lab.results for call in calls), "each takes longer than both"
    assert network.run(60.0, lambda: len(lab.results) == 22)
    assert [lab.results[key].failures for key in (init, start, *calls)] == [{}] * 22
    assert [event.name for event, _ in rig.calls[:2]] == ["EXPINIT", "echo"]
    assert rig.responder.agenda.status.name == "RUNNING"


def test_expinterrupt_overtakes_all_calls_and_later_ones_are_answered() -> None:
    network = SimNetwork(4, loss=0.2)
    Slow(network, "cameras", lambda: 0.3)
    lab = network.coordinator(timeout=60.0)
    network.run(1.0)
    calls = [lab.call_nowait("cameras", "echo", n) for n in range(20)]
    network.run(0.1)
    interrupt = lab.push("EXPINTERRUPT")
    assert network.run(10.0, lambda: interrupt in lab.results)
    assert {type(lab.results[call].failures["cameras"]).__name__ for call in calls} == {"Interrupted"}
    later = lab.call_nowait("cameras", "echo", "later")
    assert network.run(10.0, lambda: later in lab.results)
    assert lab.results[later].answers == {"cameras": ["later"]}
    assert lab.results[interrupt].failures == {}


def test_calls_that_take_much_room_at_the_rig_run_one_at_a_time_and_none_is_refused() -> None:
    network = SimNetwork(5)
    large = Slow(network, "cameras", lambda: 0.1)
    lab = network.coordinator(timeout=60.0)
    network.run(1.0)
    values = [[n] * 15_000 for n in range(12)]  # as lists of numbers they take 2 MiB each there
    calls = [lab.call_nowait("cameras", "echo", value) for value in values]
    assert network.run(60.0, lambda: len(lab.results) == len(calls))
    assert [lab.results[call].answers for call in calls] == [{"cameras": [value]} for value in values]
    assert large.most == 1


def test_nothing_is_sent_while_the_rig_may_not_have_what_was_sent_before() -> None:
    network = SimNetwork(6)
    rig = Slow(network, "cameras", lambda: 5.0).rig
    lab = network.coordinator(timeout=60.0)
    network.run(1.0)
    asked: list[int] = []
    receive = rig.receive

    def lose(data: bytes, source: Any, destination: Any) -> None:
        if isinstance(frame := decode(data), Request):
            asked.append(frame.n)
            if len(asked) < 4:  # the first two are single, and then two copies
                return
        receive(data, source, destination)

    rig.receive = lose  # type: ignore[method-assign]
    lab.call_nowait("cameras", "echo", 1)
    info = lab.push("EXPINFO")
    assert network.run(10.0, lambda: info in lab.results)
    assert lab.results[info].failures == {}
    assert asked[:5] == [1, 1, 1, 1, 2], "the rig would refuse the first as overtaken by the second"


def test_eight_answers_that_fill_a_datagram_are_kept_until_their_coordinator_has_them() -> None:
    network = SimNetwork(8)
    rig = Slow(network, "cameras", lambda: 0.1).rig
    lab = network.coordinator(timeout=60.0)
    network.run(1.0)
    values = [str(n) * 60_000 for n in range(8)]
    calls = [lab.call_nowait("cameras", "echo", value) for value in values]
    receive, until = lab.receive, network.now + 1.0

    def lose(data: bytes, source: Any, destination: Any) -> None:
        if network.now > until or len(data) < 60_000:
            receive(data, source, destination)

    lab.receive = lose  # type: ignore[method-assign]
    assert network.run(60.0, lambda: len(lab.results) == len(calls))
    assert [lab.results[call].answers for call in calls] == [{"cameras": [value]} for value in values]
    assert len(rig.calls) == len(calls)


# ------------------------------------------------------------------------------------- a rig calls its coordinator


class Caller:
    """A rig that calls its coordinator, which answers with what it was asked, doubled."""

    def __init__(self, network: SimNetwork, takes: bool = True, **handlers: float):
        self.network, self.outcomes, self.ran = network, dict[int, Any](), list[Any]()
        self.rig = network.add_rig("cameras", handlers)
        self.lab = network.coordinator(timeout=60.0)
        self.told, self.answered = 0, list[int]()
        pump = self.lab.pump

        def answer() -> None:
            pump()
            told, self.told = self.lab.events[self.told :], len(self.lab.events)
            for event in told:
                if takes and isinstance(event, Notice) and event.topic == CALL:
                    ((value,), _) = event.body["args"]
                    self.ran.append(value)
                    message = compose_command(ANSWER.name, (event.body["id"], 2 * value), {})
                    network.after(0.05, functools.partial(self.answer, value, message))

        self.lab.pump = answer  # type: ignore[method-assign]
        network.run(1.0)

    def answer(self, value: int, message: Message) -> None:
        self.lab._push(message, None, None, None, beside=True)
        self.answered.append(value)

    def init(self) -> None:
        done = self.lab.push("EXPINIT", "2026-11-30_1_mouse")
        assert self.network.run(10.0, lambda: done in self.lab.results)

    def call(self, value: int, timeout: float = 60.0) -> None:
        message = compose_command("double", (value,), {})
        settle = functools.partial(self.outcomes.setdefault, value)
        self.rig.responder.calls.ask(message, timeout, settle, self.network.now)
        self.rig.pump()

    def failure(self, value: int, seconds: float = 10.0) -> str:
        assert self.network.run(seconds, lambda: value in self.outcomes)
        return f"{type(self.outcomes[value]).__name__}: {self.outcomes[value]}"


def test_calls_of_a_rig_are_done_once_each_under_loss_also_while_it_works_on_a_message() -> None:
    network = SimNetwork(9, loss=0.2, duplication=0.1, reordering=0.1)
    caller = Caller(network, EXPSTART=30.0)
    caller.init()
    start = caller.lab.push("EXPSTART", "2026-11-30_1_mouse")
    end = caller.lab.push("EXPEND")  # waits for EXPSTART, and no answer for that
    for n in range(100):
        caller.call(n)
    assert network.run(29.0, lambda: len(caller.outcomes) == 100)
    assert caller.outcomes == {n: [2 * n] for n in range(100)}
    assert caller.ran == list(range(100)), "once each, in order"
    assert start not in caller.lab.results
    assert network.run(60.0, lambda: end in caller.lab.results)
    assert [caller.lab.results[key].failures for key in (start, end)] == [{}, {}]


def test_an_answer_comes_although_expinterrupt_overtakes_all() -> None:
    network = SimNetwork(10, loss=0.3)
    caller = Caller(network)
    caller.init()
    for n in range(30):
        caller.call(n)
        assert network.run(60.0, lambda n=n: n in caller.answered)
        caller.lab.push("EXPINTERRUPT")  # while the answer is on its way, or lost
    assert network.run(60.0, lambda: len(caller.outcomes) == 30)
    assert caller.outcomes == {n: [2 * n] for n in range(30)}
    assert caller.ran == list(range(30))
    assert network.run(60.0, lambda: not caller.lab.fanout._pushes)


def test_expinterrupt_does_not_wait_for_an_answer_that_does_not_arrive() -> None:
    network = SimNetwork(15)
    caller = Caller(network)
    caller.init()
    receive = caller.rig.receive

    def lose(data: bytes, source: Any, destination: Any) -> None:
        if not isinstance(frame := decode(data), Request) or frame.event != ANSWER or lost_until < network.now:
            receive(data, source, destination)

    lost_until = network.now + 2.0
    caller.rig.receive = lose  # type: ignore[method-assign]
    caller.call(1)
    assert network.run(1.0, lambda: caller.answered == [1])
    interrupt = caller.lab.push("EXPINTERRUPT")
    assert network.run(0.1, lambda: interrupt in caller.lab.results)
    assert network.run(10.0, lambda: caller.outcomes == {1: [2]})


def test_a_call_fails_at_once_where_nobody_is_in_charge_or_whoever_is_takes_none() -> None:
    network = SimNetwork(11)
    caller = Caller(network, takes=False)
    caller.call(1)
    assert caller.outcomes[1].args == (
        "double was not called: no coordinator is in charge; one is, from its EXPINIT or EXPSTART until EXPCLEANUP",
    )
    caller.init()
    caller.call(2, timeout=5.0)
    caller.call(3)
    host = next(iter(caller.lab.lines))[0]
    told = f"CallTimeout: no answer to double within 5 s: the coordinator on {host} has it, and may still do it"
    assert caller.failure(2) == told
    caller.lab.fanout.say_goodbye()
    caller.lab.pump()
    told = f"CallError: the coordinator on {host} closed before it answered double; whether it has done it is not known"
    assert caller.failure(3) == told
    caller.call(4)
    assert "no coordinator is in charge" in caller.failure(4)


def test_a_call_of_a_coordinator_of_the_version_before_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    caller = Caller(SimNetwork(12), takes=False)
    caller.init()
    monkeypatch.setattr("rigsync.core.peer.CALL", "as in the version before, which knows of none")
    caller.call(1)
    host = next(iter(caller.lab.lines))[0]
    assert caller.failure(1, 1.0) == (
        f"CallError: double was not called: the coordinator in charge, on {host}, has an older rigsync, which takes no "
        "calls; update it there"
    )


def test_a_coordinator_of_the_iblutil_dialect_takes_no_calls() -> None:
    caller = Caller(SimNetwork(14))
    caller.rig.responder.receive_datagram(b'[1,"2026-11-30_1_mouse"]', ("10.0.9.9", 5000), caller.network.now)
    assert caller.rig.responder.agenda.status.name == "INITIALIZED"
    caller.call(1)
    speaks = "speaks the iblutil dialect, which knows no calls"
    told = f"double was not called: the coordinator in charge, on 10.0.9.9, {speaks}"
    assert caller.outcomes[1].args == (told,)


def test_calls_that_wait_are_bounded_and_an_answer_that_nobody_awaits_is_told_so() -> None:
    network = SimNetwork(13)
    caller = Caller(network, takes=False)
    caller.init()
    for n in range(CALLS + 1):
        caller.call(n)
    told = f"double was not called: {CALLS} calls wait for its answer already; wait for some of them first"
    assert {n: error.args for n, error in caller.outcomes.items()} == {CALLS: (told,)}
    late = caller.lab.call_nowait("cameras", ANSWER.name, 7, "late")
    odd = caller.lab.call_nowait("cameras", ANSWER.name)
    assert network.run(1.0, lambda: odd in caller.lab.results)
    assert [caller.lab.results[key].answers for key in (late, odd)] == [{"cameras": [False]}] * 2
    other = network.coordinator()
    network.run(1.0)
    first = next(iter(caller.rig.responder.calls._pending))
    stolen = other.call_nowait("cameras", ANSWER.name, first, "by another one")
    assert network.run(1.0, lambda: stolen in other.results)
    assert first in caller.rig.responder.calls._pending


def test_arguments_of_calls_that_wait_take_one_mebibyte_at_most() -> None:
    bench = RigBench().enter("INITIALIZED")
    bench.probe()
    outcomes: list[Any] = []

    def ask(size: int) -> None:
        message = compose_command("double", ["x" * (size - len('[[""],{}]'))], {})
        bench.rig.calls.ask(message, 60.0, outcomes.append, bench.now)

    for _ in range(32):
        ask(1 << 15)
    assert outcomes == []
    ask(10)
    (error,) = outcomes
    assert "32 calls wait" in str(error)
