"""Whole sessions over a simulated bad network: both cores, virtual time, no sockets, no sleeping."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync.core import legacy
from rigsync.core.arguments import compose
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import Dialect, EchoMissing, LinkChanged, LinkState, PushCompleted, RestartSeen
from rigsync.core.messages import Command
from rigsync.core.outputs import Line
from rigsync.errors import Interrupted, NotSupported, RemoteError, RigLost, RigRefused, RigTimeout
from rigsync.testing import Coordinator, EchoRig, FakeRig, SimNetwork

SESSION = ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]
RIGS = ["cameras", "ephys", "imaging"]
REF = "2024-01-02_1_mouse"
STEPS_A_SECOND = 2000
"""What three rigs need in the worst second, some times over; a core that spins makes this many in no time."""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Skip the search for leaks: nothing here opens anything."""


def names(rig: FakeRig | EchoRig) -> list[str]:
    return [event.name for event, _ in rig.calls]


def link_states(coordinator: Coordinator) -> set[LinkState]:
    return {event.after for event in coordinator.events if isinstance(event, LinkChanged)}


def run(network: SimNetwork, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
    """Let time pass as `SimNetwork.run` does, and fail if a core spins."""
    second, steps = int(network.now), 0

    def step() -> bool:
        nonlocal second, steps
        if int(network.now) != second:
            second, steps = int(network.now), 0
        steps += 1
        assert steps < STEPS_A_SECOND, f"more than {STEPS_A_SECOND} steps in second {second}"
        return until()

    return network.run(seconds, step)


@contextmanager
def recorded(network: SimNetwork) -> Iterator[list[tuple[float, Any, Any, bytes]]]:
    """Record what is sent: when, from where, to where, and what."""
    sent: list[tuple[float, Any, Any, bytes]] = []
    send = network.send

    def record(data: bytes, source: Any, destination: Any) -> None:
        sent.append((network.now, source, destination, data))
        send(data, source, destination)

    network.send = record  # type: ignore[method-assign]
    yield sent
    network.send = send  # type: ignore[method-assign]


def alive_pair(network: SimNetwork, **config: Any) -> Coordinator:
    """Plug in a coordinator and wait until it knows all rigs."""
    coordinator = network.coordinator(**config)
    assert run(network, 5, lambda: coordinator.fanout.all_alive)
    return coordinator


# ------------------------------------------------------------------------------------------- a thousand bad networks


def bad_network(seed: int) -> tuple[SimNetwork, Coordinator]:
    """30 % lost each way, 10 % duplicated, many reordered; handlers that take longer than an ack, or not."""
    network = SimNetwork(seed, loss=0.3, duplication=0.1, reordering=0.2)
    for i, name in enumerate(RIGS):
        network.add_rig(name, {"EXPINFO": 0.0, "EXPINIT": 0.1 * i, "EXPSTART": 0.05, "EXPEND": 0.003, "EXPCLEANUP": 2})
    return network, network.coordinator()


def play_session(seed: int) -> None:
    network, coordinator = bad_network(seed)
    pushed = [coordinator.push(event, timeout=60) for event in SESSION]
    assert run(network, 60, lambda: len(coordinator.results) == len(SESSION)), f"seed {seed}: not settled"
    run(network, 2)  # what is still under way must not run anything again
    assert [coordinator.results[at].failures for at in pushed] == [{}] * len(SESSION), f"seed {seed}"
    assert all(sorted(coordinator.results[at].answers) == sorted(RIGS) for at in pushed), f"seed {seed}"
    for rig in network.rigs.values():
        assert names(rig) == SESSION, f"seed {seed}: {rig.name}"
    assert link_states(coordinator) <= {LinkState.ALIVE, LinkState.SUSPECT}, f"seed {seed}: a link was called lost"
    completed = [event for event in coordinator.events if isinstance(event, PushCompleted)]
    assert len(completed) == len(SESSION), f"seed {seed}: a push was completed twice"


@pytest.mark.parametrize("chunk", range(20))
def test_over_a_network_that_loses_30_percent_every_handler_runs_exactly_once_and_in_order(chunk: int) -> None:
    for seed in range(50 * chunk, 50 * chunk + 50):
        play_session(seed)


def play_commands(seed: int) -> None:
    network = SimNetwork(seed, loss=0.3, duplication=0.1, reordering=0.2)
    done: list[tuple[str, int]] = []
    commands = {"focus": lambda i: done.append(("focus", i)) or i, "home": 0.05}
    rig = network.add_rig("cameras", {"EXPINIT": 0.01}, commands=commands)
    coordinator = network.coordinator()
    called = {coordinator.call("cameras", "focus", i, timeout=60): i for i in range(5)}
    coordinator.push("EXPINIT", timeout=60)
    home = coordinator.call("cameras", "home", timeout=60)
    called |= {coordinator.call("cameras", "focus", i=i, timeout=60): i for i in range(5, 10)}
    assert run(network, 60, lambda: len(coordinator.results) == 12), f"seed {seed}: not settled"
    run(network, 2)
    assert {at: coordinator.results[at].answers.get("cameras") for at in called} == {
        at: [value] for at, value in called.items()
    }, f"seed {seed}"
    assert coordinator.results[home].answers == {"cameras": [None]}, f"seed {seed}"
    assert done == [("focus", i) for i in range(10)], f"seed {seed}"
    assert names(rig) == ["focus"] * 5 + ["EXPINIT", "home"] + ["focus"] * 5, f"seed {seed}"


@pytest.mark.parametrize("chunk", range(5))
def test_over_a_network_that_loses_30_percent_each_command_is_done_once_and_in_its_turn(chunk: int) -> None:
    for seed in range(20 * chunk, 20 * chunk + 20):
        play_commands(seed)


def play_interrupt(seed: int) -> None:
    random = Random(seed)
    network = SimNetwork(seed, loss=0.3, duplication=0.1, reordering=0.2)
    for name in RIGS:
        network.add_rig(name, {"EXPINIT": 0.02, "EXPSTART": 1.0, "EXPINTERRUPT": random.choice([0.001, 0.5])})
    coordinator = network.coordinator()
    coordinator.push("EXPINIT", REF, timeout=60)
    start = coordinator.push("EXPSTART", REF, timeout=60)
    run(network, random.uniform(0.0, 4.0))
    interrupt = coordinator.push("EXPINTERRUPT", timeout=60)
    assert run(network, 60, lambda: interrupt in coordinator.results), f"seed {seed}: not settled"
    outcome = coordinator.results[interrupt]
    assert (sorted(outcome.answers), outcome.failures) == (sorted(RIGS), {}), f"seed {seed}"
    assert all(
        isinstance(error, (Interrupted, RemoteError)) for error in coordinator.results[start].failures.values()
    ), f"seed {seed}"
    run(network, 3)
    for rig in network.rigs.values():
        assert isinstance(rig, FakeRig)
        assert max(Counter(names(rig)).values(), default=0) <= 1, f"seed {seed}: {rig.name} ran a handler twice"
        # Where EXPINIT had not arrived there was nothing to interrupt (docs/lifecycle.md).
        expected = ExpStatus.STOPPED if rig.calls else ExpStatus.CONNECTED
        assert rig.responder.agenda.status is expected, f"seed {seed}: {rig.name}"
        assert ("EXPINTERRUPT" in names(rig)) == bool(rig.calls), f"seed {seed}: {rig.name}"
        if rig.calls:
            assert names(rig)[-1] == "EXPINTERRUPT", f"seed {seed}: {rig.name} ran something after EXPINTERRUPT"


@pytest.mark.parametrize("chunk", range(10))
def test_an_interrupt_comes_through_a_bad_network_in_the_middle_of_running_handlers(chunk: int) -> None:
    for seed in range(50 * chunk, 50 * chunk + 50):
        play_interrupt(seed)


# ----------------------------------------------------------------------------------------------------- determinism


def history(seed: int) -> list[Any]:
    network, coordinator = bad_network(seed)
    with recorded(network) as sent:
        for event in SESSION:
            coordinator.push(event, timeout=60)
        run(network, 3)
        coordinator.push("EXPINTERRUPT")
        run(network, 3)
    return [sent, [repr(event) for event in coordinator.events], [rig.calls for rig in network.rigs.values()]]


def test_the_same_seed_gives_the_same_history_to_the_byte_and_the_nanosecond() -> None:
    for seed in range(20):
        assert history(seed) == history(seed), f"seed {seed}"


def test_different_seeds_give_different_histories() -> None:
    histories = [repr(history(seed)[0]) for seed in range(20)]
    assert len(set(histories)) == 20


# ----------------------------------------------------------------------------------------------------- one rig down


class Lab:
    """Three rigs on a good network, with the instants at which each handler of theirs was run."""

    def __init__(self, timeout: float = 60.0, **down: Any):
        self.network = SimNetwork(1)
        self.called: list[tuple[float, str, str]] = []
        for name in RIGS:
            self.network.add_rig(name, {event: self.handler(name, event) for event in [*SESSION, "EXPINTERRUPT"]})
        self.third: Any = self.network.rigs["imaging"]
        self.timeout = timeout
        for key, value in down.items():
            setattr(self.third, key, value)
        self.coordinator = self.network.coordinator()
        run(self.network, 0.1)

    def handler(self, rig: str, event: str) -> Callable[..., None]:
        return lambda *_: self.called.append((self.network.now, rig, event))

    def push(self, event: str) -> float:
        return self.coordinator.push(event, timeout=self.timeout)

    def failure(self, at: float) -> BaseException:
        """Return the failure of the third rig, and check that the other two have succeeded."""
        run(self.network, self.timeout, lambda: at in self.coordinator.results)
        outcome = self.coordinator.results[at]
        assert sorted(outcome.answers) == ["cameras", "ephys"]
        assert list(outcome.failures) == ["imaging"]
        return outcome.failures["imaging"]

    def assert_two_are_told_at_once(self, event: str) -> float:
        before = self.network.now
        at = self.push(event)
        run(self.network, 0.01)
        told = {rig: when - before for when, rig, called in self.called if called == event and when >= before}
        assert sorted(set(told) - {"imaging"}) == ["cameras", "ephys"]
        assert max(told.values()) <= 0.0011  # the longest way through this network
        return at


DOWN = {"silent": {"listening": False, "host_up": False}, "refused": {"listening": False}}


@pytest.mark.parametrize("how", DOWN)
def test_a_rig_that_is_down_from_the_beginning_keeps_nothing_from_the_others(how: str) -> None:
    lab = Lab(timeout=10, **DOWN[how])
    pushed = [lab.assert_two_are_told_at_once(event) for event in [*SESSION[:3], "EXPINTERRUPT", "EXPCLEANUP"]]
    kinds = [type(lab.failure(at)) for at in pushed]
    # The first three are overtaken by EXPINTERRUPT; all that is left is for EXPINTERRUPT and EXPCLEANUP to fail.
    assert kinds == [Interrupted] * 3 + [RigRefused if how == "refused" else RigLost] * 2
    assert lab.third.calls == []


@pytest.mark.parametrize("how", DOWN)
@pytest.mark.parametrize("last", ["EXPEND", "EXPINTERRUPT"])
def test_stop_reaches_the_others_when_a_rig_is_killed_in_the_middle(how: str, last: str) -> None:
    lab = Lab()
    for event in SESSION[:3]:
        lab.assert_two_are_told_at_once(event)
    for key, value in DOWN[how].items():
        setattr(lab.third, key, value)
    stop = lab.assert_two_are_told_at_once(last)
    assert type(lab.failure(stop)) is (RigRefused if how == "refused" else RigLost)
    assert lab.network.now < 8  # long before the time-out of a minute
    lab.assert_two_are_told_at_once("EXPCLEANUP")
    assert [rig.responder.agenda.status for rig in lab.network.rigs.values() if isinstance(rig, FakeRig)] == [
        ExpStatus.CONNECTED,
        ExpStatus.CONNECTED,
        ExpStatus.RUNNING,
    ]


@pytest.mark.parametrize(
    ("how", "expected"),
    [("silent", "RigTimeout the rig has it"), ("refused", "RigRefused the rig had EXPINIT and was working on it")],
)
def test_a_rig_that_is_killed_while_its_handler_runs(how: str, expected: str) -> None:
    lab = Lab(timeout=3)
    network = lab.network
    slow = network.add_rig("slow", {"EXPINIT": 1.0})
    coordinator = network.coordinator(["cameras", "slow"])
    run(network, 0.1)
    at = coordinator.push("EXPINIT", timeout=3)
    run(network, 0.5)
    assert names(slow) == ["EXPINIT"]
    for key, value in DOWN[how].items():
        setattr(slow, key, value)
    run(network, 3)
    outcome = coordinator.results[at]
    assert list(outcome.answers) == ["cameras"]
    error = outcome.failures["slow"]
    kind, _, text = expected.partition(" ")
    assert type(error).__name__ == kind
    assert text in str(error)


def test_a_rig_that_was_never_there_is_a_timeout_at_a_short_deadline() -> None:
    lab = Lab(timeout=2, **DOWN["silent"])
    error = lab.failure(lab.push("EXPINFO"))
    assert type(error) is RigTimeout
    assert "nothing has ever come from udp://10.0.1.3:11001" in str(error)


def test_a_rig_that_comes_back_is_asked_again_and_its_restart_is_told() -> None:
    lab = Lab()
    lab.third.listening = False
    run(lab.network, 2)
    lab.third.restart()
    lab.third.listening = True
    run(lab.network, 2)
    assert [event.rig for event in lab.coordinator.events if isinstance(event, RestartSeen)] == ["imaging"]
    at = lab.push("EXPINIT")
    run(lab.network, 1)
    assert lab.coordinator.results[at].failures == {}


def test_a_restart_in_the_middle_is_told_and_the_new_process_does_not_run_the_message() -> None:
    network = SimNetwork(3)
    rig = network.add_rig("slow", {"EXPINIT": 1.0})
    coordinator = alive_pair(network)
    at = coordinator.push("EXPINIT", timeout=30)
    run(network, 0.5)
    rig.restart()
    assert run(network, 3, lambda: at in coordinator.results)
    assert [type(error).__name__ for error in coordinator.results[at].failures.values()] == ["RigRestarted"]
    run(network, 5)
    assert names(rig) == ["EXPINIT"]


# -------------------------------------------------------------------------------------------------- iblutil rigs


def test_all_iblutil_rigs_are_told_to_start_in_the_same_instant_whatever_their_latency() -> None:
    network = SimNetwork(5, delay=(0.01, 0.01))
    rigs = [network.add_echo_rig(f"rig{i}", latency) for i, latency in enumerate((0.0, 0.4, 0.8, 1.2, 3.0))]
    coordinator = alive_pair(network)
    for event in ["EXPINIT", "EXPSTART"]:
        with recorded(network) as sent:
            at = coordinator.push(event, *([REF] if event == "EXPSTART" else []), timeout=10)
            assert run(network, 10, lambda at=at: at in coordinator.results)  # type: ignore[misc]
        number = b"[%d" % ExpMessage[event]
        told = [when for when, source, _, data in sent if source in coordinator.lines and data.startswith(number)]
        orders = [when for when, data in zip(told, told, strict=True) if when == told[0]]
        assert len(orders) == len(rigs), "told one after another"
        assert coordinator.results[at].failures == {}
    for rig in rigs:
        assert names(rig) == ["EXPINIT", "EXPSTART"]
        assert rig.closed == ""


@pytest.mark.parametrize("chunk", range(5))
def test_no_iblutil_rig_ever_closes_while_nothing_is_lost(chunk: int) -> None:
    for seed in range(20 * chunk, 20 * chunk + 20):
        random = Random(seed)
        network = SimNetwork(seed, delay=(0.0, random.choice([0.001, 0.05, 0.2])))
        for i in range(4):
            network.add_echo_rig(f"rig{i}", random.choice([0.0, 0.01, 0.5, 2.0]))
        coordinator = network.coordinator()
        pushed = []
        for _ in range(12):
            pushed.append(coordinator.push(random.choice(SESSION), timeout=60))
            run(network, random.choice([0.0, 0.0, 0.3, 20.0]))
        assert run(network, 60, lambda pushed=pushed, c=coordinator: len(c.results) == len(pushed))  # type: ignore[misc]
        assert all(coordinator.results[at].failures == {} for at in pushed), f"seed {seed}"
        for rig in network.rigs.values():
            assert isinstance(rig, EchoRig)
            assert rig.closed == "", f"seed {seed}: {rig.name}"
            assert len(rig.calls) == len(pushed), f"seed {seed}: {rig.name}"
        assert link_states(coordinator) == {LinkState.ALIVE}, f"seed {seed}"


def test_an_iblutil_rig_that_has_closed_is_named_with_what_to_do() -> None:
    network = SimNetwork(0)
    rig = network.add_echo_rig("old")
    coordinator = alive_pair(network)
    rig.closed = "wrong echo"
    at = coordinator.push("EXPSTART", timeout=5)
    run(network, 5)
    error = coordinator.results[at].failures["old"]
    assert type(error) is RigRefused  # its port is closed, and its host says so
    assert "start the rig's program there" in str(error)


def test_both_dialects_in_one_push_each_answered_in_its_own() -> None:
    network = SimNetwork(2)
    new = network.add_rig("new", dict.fromkeys([*SESSION, "EXPINTERRUPT"], 0.0))
    old = network.add_echo_rig("old", 0.2)
    coordinator = alive_pair(network)
    dialects = {name: peer.dialect for name, peer in coordinator.fanout.peers.items()}
    assert dialects == {"new": Dialect.RIGSYNC, "old": Dialect.IBLUTIL}
    pushed = [coordinator.push(event, timeout=10) for event in SESSION]
    assert run(network, 10, lambda: len(coordinator.results) == len(pushed))
    for at in pushed:
        assert sorted(coordinator.results[at].answers) == ["new", "old"]
        assert coordinator.results[at].answers["old"] == ["old did it"]
    assert names(new) == names(old) == SESSION
    assert old.closed == ""


@pytest.mark.parametrize("known", [False, True])
def test_no_byte_of_a_command_reaches_an_iblutil_rig(known: bool) -> None:
    network = SimNetwork()
    rig = network.add_echo_rig("ephys")
    coordinator = alive_pair(network) if known else network.coordinator()
    with recorded(network) as sent:
        when = coordinator.call("ephys", "focus", z=3)
        info = coordinator.push("EXPINFO")
        assert run(network, 5, lambda: len(coordinator.results) == 2)
        run(network, 20)
    assert isinstance(coordinator.results[when].failures["ephys"], NotSupported)
    assert coordinator.results[info].answers["ephys"]
    assert names(rig) == ["EXPINFO"]
    assert not [data for _, _, _, data in sent if b"focus" in data or b'"request"' in data]


def test_a_command_of_another_coordinator_s_experiment_is_refused() -> None:
    network = SimNetwork()
    rig = network.add_rig("cameras", commands={"focus": 0.0})
    owner, other = network.coordinator(), network.coordinator()
    owner.push("EXPINIT", REF)
    assert run(network, 5, lambda: bool(owner.results))
    when = other.call("cameras", "focus")
    mine = owner.call("cameras", "focus")
    assert run(network, 5, lambda: when in other.results and mine in owner.results)
    error = other.results[when].failures["cameras"]
    assert isinstance(error, RemoteError)
    assert error.error == "BusyError"
    assert owner.results[mine].answers == {"cameras": [None]}
    assert [event for event, _ in rig.calls] == [Command("focus")]


def test_a_restart_in_the_middle_of_a_command_is_told_and_the_new_process_does_not_do_it() -> None:
    network = SimNetwork()
    rig = network.add_rig("cameras", commands={"focus": 1.0})
    coordinator = alive_pair(network)
    when = coordinator.call("cameras", "focus")
    run(network, 0.5)
    rig.restart()
    assert run(network, 10, lambda: when in coordinator.results)
    assert type(coordinator.results[when].failures["cameras"]).__name__ == "RigRestarted"
    run(network, 5)
    assert len(rig.calls) == 1


def test_an_interrupt_overtakes_a_command_that_takes_its_time() -> None:
    network = SimNetwork()
    network.add_rig("cameras", commands={"focus": 100.0})
    coordinator = alive_pair(network)
    coordinator.push("EXPINIT", REF)
    when = coordinator.call("cameras", "focus", timeout=60)
    run(network, 1)
    interrupt = coordinator.push("EXPINTERRUPT")
    assert run(network, 1, lambda: interrupt in coordinator.results)
    assert isinstance(coordinator.results[when].failures["cameras"], Interrupted)
    assert coordinator.results[interrupt].failures == {}


def test_a_slow_iblutil_rig_holds_up_no_other() -> None:
    network = SimNetwork(2)
    quick = network.add_rig("quick", dict.fromkeys(SESSION, 0.0))
    network.add_echo_rig("slow", 5.0)
    coordinator = alive_pair(network)
    for event in SESSION:
        coordinator.push(event, timeout=60)
    run(network, 0.5)
    assert names(quick) == SESSION
    assert len(coordinator.results) == 0


def test_a_rigsync_rig_of_the_iblutil_dialect_and_its_coordinator_never_lose_an_echo() -> None:
    network = SimNetwork(4, delay=(0.0, 0.05))
    rig = network.add_rig("cameras", dict.fromkeys(SESSION, 0.1))
    coordinator = network.coordinator(dialect="iblutil")
    for event in SESSION * 3:
        coordinator.push(event, timeout=60)
    assert run(network, 60, lambda: len(coordinator.results) == 15)
    assert all(completed.failures == {} for completed in coordinator.results.values())
    assert not [event for event in rig.events if isinstance(event, EchoMissing)]
    assert names(rig) == [*SESSION, *SESSION, *SESSION]


def test_two_coordinators_of_the_same_rigs_do_not_disturb_each_other() -> None:
    network = SimNetwork(6, loss=0.2)
    rig = network.add_rig("cameras", {"EXPINFO": 0.02})
    first, second = network.coordinator(), network.coordinator()
    for _ in range(5):
        first.push("EXPINFO", timeout=60)
        second.push("EXPINFO", timeout=60)
    assert run(network, 60, lambda: len(first.results) == len(second.results) == 5)
    assert len(rig.calls) == 10


# --------------------------------------------------------------------------------------------- anything may happen

PUSHED = ["EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP", "EXPINFO", "EXPINTERRUPT"]

HAPPENINGS = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.sampled_from(PUSHED), st.floats(0.01, 8), st.sets(st.sampled_from(RIGS), min_size=1)),
            st.tuples(st.sampled_from(["silence", "close", "back", "restart"]), st.just(0), st.sampled_from(RIGS)),
            st.tuples(st.sampled_from(["withdraw", "junk"]), st.just(0), st.just(None)),
        ),
        st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0, 3.0, 7.0]),
    ),
    min_size=4,
    max_size=30,
)


@given(
    st.integers(0, 2**32),
    HAPPENINGS,
    st.sampled_from([0.0, 0.1, 0.3]),
    st.lists(st.sampled_from([0.0, 0.003, 0.3, 2.0]), min_size=6, max_size=6),
)
@settings(deadline=None, max_examples=150)
def test_whatever_happens_each_push_is_settled_in_time_and_no_handler_runs_twice(
    seed: int, happenings: list[tuple[Any, float]], loss: float, durations: list[float]
) -> None:
    network = SimNetwork(seed, loss=loss, duplication=loss / 3, reordering=loss)
    rigs = [network.add_rig(name, dict(zip(PUSHED, durations, strict=True))) for name in RIGS]
    coordinator = network.coordinator()
    deadlines: dict[float, float] = {}
    processes: list[list[Any]] = [rig.calls for rig in rigs]
    for number, ((what, timeout, where), pause) in enumerate(happenings):
        if what.isupper():
            args = [None, {"push": number}] if what in ("EXPSTART", "EXPINFO") else [{"push": number}]
            at = coordinator.push(what, *args, rigs=sorted(where), timeout=timeout)
            deadlines[at] = network.now + timeout
        elif what == "withdraw":
            coordinator.fanout.withdraw_queued()
            coordinator.pump()
        elif what == "junk":
            for rig in rigs:
                rig.receive(b"[[[", next(iter(coordinator.lines)), rig.address)
            coordinator.receive(b'{"rigsync":1}', rigs[0].address, next(iter(coordinator.lines)))
        else:
            rig = rigs[RIGS.index(where)]
            rig.listening = what in ("back", "restart")
            rig.host_up = what != "silence"
            if what == "restart":
                rig.calls = []
                processes.append(rig.calls)
                rig.restart()
        run(network, pause)
        overdue = [at for at, deadline in deadlines.items() if at not in coordinator.results and deadline < network.now]
        assert overdue == []
    run(network, 9)
    assert set(coordinator.results) == set(deadlines)
    assert len([event for event in coordinator.events if isinstance(event, PushCompleted)]) == len(deadlines)
    for calls in processes:
        runs = Counter((event, json.dumps(args)) for event, args in calls)
        assert max(runs.values(), default=0) <= 1, "a handler ran twice for one push in one process"
        order = [args[-1]["push"] for event, args in calls if event is not ExpMessage.EXPINFO]
        assert order == sorted(order), "handlers ran in another order than that of the pushes"


@given(st.integers(0, 2**32), HAPPENINGS)
@settings(deadline=None, max_examples=75)
def test_whatever_happens_to_iblutil_rigs_each_push_is_settled_in_time(
    seed: int, happenings: list[tuple[Any, float]]
) -> None:
    network = SimNetwork(seed, loss=0.05)
    rigs = [network.add_echo_rig(name, latency) for name, latency in zip(RIGS, (0.0, 0.3, 2.0), strict=True)]
    coordinator = network.coordinator()
    deadlines: dict[float, float] = {}
    for (what, timeout, where), pause in happenings:
        if what.isupper():
            at = coordinator.push(what, rigs=sorted(where), timeout=timeout)
            deadlines[at] = network.now + timeout
        elif where:
            rigs[RIGS.index(where)].host_up = what in ("back", "restart")
        run(network, pause)
        overdue = [at for at, deadline in deadlines.items() if at not in coordinator.results and deadline < network.now]
        assert overdue == []
    run(network, 9)
    assert set(coordinator.results) == set(deadlines)


# ------------------------------------------------------------------------------------------ the network of these tests


class Sink:
    """A node that keeps what it gets."""

    def __init__(self, network: SimNetwork, host: str):
        self.address, self.network = (host, 1), network
        self.got: list[tuple[float, bytes]] = []
        self.refused = 0
        self.listening = self.host_up = True
        network._at[self.address] = self  # type: ignore[assignment]

    def receive(self, data: bytes, source: Any, destination: Any) -> None:
        self.got.append((self.network.now, data))

    def refuse(self, source: Any, destination: Any) -> None:
        self.refused += 1


def sinks(**options: Any) -> tuple[SimNetwork, Sink, Sink]:
    network = SimNetwork(1, **options)
    return network, Sink(network, "a"), Sink(network, "b")


def send_many(network: SimNetwork, a: Sink, b: Sink, count: int = 2000) -> list[bytes]:
    for i in range(count):
        network.send(b"%d" % i, a.address, b.address)
    network.run(10)
    return [data for _, data in b.got]


def test_a_good_network_delivers_each_datagram_once_in_order_and_within_its_delay() -> None:
    network, a, b = sinks(delay=(0.1, 0.2))
    sent = {}
    for i in range(500):
        sent[b"%d" % i] = network.now
        network.send(b"%d" % i, a.address, b.address)
        network.run(0.05 if i % 2 else 1.0)
    network.run(1)
    assert [data for _, data in b.got] == list(sent)
    delays = [when - sent[data] for when, data in b.got]
    assert 0.1 <= min(delays) < 0.102
    assert 0.198 < max(delays) < 0.2001


def test_loss_duplication_and_reordering_are_shares_of_the_datagrams() -> None:
    assert send_many(*sinks(loss=1.0)) == []
    assert 1300 < len(send_many(*sinks(loss=0.3))) < 1500
    assert 2150 < len(send_many(*sinks(duplication=0.1))) < 2250
    network, a, b = sinks(reordering=0.25, delay=(0.001, 0.001))
    got = send_many(network, a, b)
    assert got != sorted(got, key=int)
    late = [when for when, _ in b.got if when > 0.001]
    assert 400 < len(late) < 600
    assert max(late) <= 0.051


def test_a_closed_port_refuses_and_a_host_that_is_down_is_silent() -> None:
    network, a, b = sinks()
    b.listening = False
    send_many(network, a, b, 3)
    assert (a.refused, b.got) == (3, [])
    b.host_up = False
    send_many(network, a, b, 3)
    assert (a.refused, b.got) == (3, [])


def test_a_program_that_has_ended_sends_nothing_whatever_its_handlers_do() -> None:
    network = SimNetwork(0)
    rig = network.add_rig("cameras", {"EXPINIT": 1.0})
    coordinator = alive_pair(network)
    coordinator.push("EXPINIT", timeout=2)
    run(network, 0.5)
    rig.listening = rig.host_up = False
    with recorded(network) as sent:
        run(network, 0.6)
    assert any(source == rig.address for _, source, _, _ in sent)  # its handler tried
    assert coordinator.results == {}


def test_run_stops_at_the_end_or_when_it_is_told_to() -> None:
    network = SimNetwork()
    assert network.run(5) is False
    assert network.now == 5
    network.after(1, lambda: None)
    assert network.run(5, lambda: network.now >= 6) is True
    assert network.now == 6


def test_a_rig_to_which_nothing_happens_is_not_asked_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    network = SimNetwork(0)
    idle = network.add_rig("idle", {})
    alive_pair(network)
    network.cut_off.add(idle.address[0])
    run(network, 1)  # what is on its way arrives
    asked: list[float] = []
    monkeypatch.setattr(idle, "next_timer", lambda: asked.append(network.now) or math.inf)
    run(network, 5)
    assert len(asked) == 1


def test_a_restarted_rig_has_another_boot_and_no_memory() -> None:
    network = SimNetwork(0)
    rig = network.add_rig("cameras", {})
    coordinator = alive_pair(network)
    coordinator.push("EXPINIT")
    run(network, 1)
    assert rig.responder.agenda.status is ExpStatus.INITIALIZED
    rig.restart()
    assert rig.responder.agenda.status is ExpStatus.CONNECTED
    run(network, 2)
    assert any(isinstance(event, RestartSeen) for event in coordinator.events)


def test_a_handler_may_be_a_function_whose_result_or_error_is_the_answer() -> None:
    def fail(*_: Any) -> None:
        raise FileNotFoundError("no disk D:")

    network = SimNetwork(0)
    network.add_rig("cameras", {"EXPINIT": lambda data: {"got": data}, "EXPINFO": fail})
    coordinator = alive_pair(network)
    init, info = coordinator.push("EXPINIT", {"a": 1}), coordinator.push("EXPINFO")
    run(network, 1)
    assert coordinator.results[init].answers["cameras"][0]["got"] == {"a": 1}
    error = coordinator.results[info].failures["cameras"]
    assert isinstance(error, RemoteError)
    assert (error.error, error.message) == ("FileNotFoundError", "no disk D:")


@pytest.mark.parametrize(("data", "why"), [(None, "no echo within 1 s"), (b"[32,0 ]", "wrong echo")])
def test_the_model_of_an_iblutil_rig_is_as_intolerant_as_the_original(data: bytes | None, why: str) -> None:
    network = SimNetwork(0)
    rig = network.add_echo_rig("old", 0.0)
    sink = Sink(network, "a")
    network.send(legacy.array(compose("EXPINFO"), b""), sink.address, rig.address)
    network.run(0.01)
    assert [received for _, received in sink.got] == [b"[64,0,null]", b'[64,"old did it"]']
    if data:
        network.send(data, sink.address, rig.address)
    network.run(2)
    assert rig.closed.startswith(why)
    network.send(b"[64,0,null]", sink.address, rig.address)
    network.run(1)
    assert len(sink.got) == 2
    assert sink.refused == 1


def test_the_model_of_an_iblutil_rig_goes_on_when_its_answer_is_echoed() -> None:
    network = SimNetwork(0)
    rig = network.add_echo_rig("old", 0.0)
    sink = Sink(network, "a")
    for _ in range(3):
        network.send(b"[64,0,null]", sink.address, rig.address)
        network.run(0.01)
        network.send(sink.got[-1][1], sink.address, rig.address)
        network.run(2)
    assert rig.closed == ""
    assert len(rig.calls) == 3


def test_a_coordinator_uses_another_socket_for_probes_than_for_requests() -> None:
    network = SimNetwork(0)
    network.add_echo_rig("old")
    coordinator = network.coordinator()
    assert sorted(line.name for _, line in coordinator.lines.values()) == ["PROBES", "REQUESTS"]
    with recorded(network) as sent:
        coordinator.push("EXPINFO")
        run(network, 1)
    used = {
        coordinator.lines[source][1] for _, source, _, data in sent if source in coordinator.lines and data[0] == 91
    }
    assert used == {Line.REQUESTS}
