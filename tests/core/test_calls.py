"""Calls beside what a rig does: their order, their numbers, and each answer to its own caller."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from rigsync.core.events import HandlerDue, PushCompleted
from rigsync.core.messages import Command, Request, decode
from rigsync.core.responder import Responder
from rigsync.testing import SimNetwork
from rigsync.testing.nodes import FakeRig


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
