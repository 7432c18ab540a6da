"""Bad networks and sudden deaths, with real sockets and processes: what may fail does so by itself, and says so."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from processes import LONG, PROBE_WARNING, IblutilProgram, Program, RigProgram, port_of, until

from rigsync import (
    Auxiliaries,
    BusyError,
    ExpStatus,
    PushError,
    PushResult,
    PushTimeout,
    Rig,
    RigLost,
    RigRefused,
    RigTimeout,
    Timing,
)
from rigsync.config.rigs import rigs_from
from rigsync.core.events import LinkChanged, LinkState
from rigsync.net.relay import Relay, relay_before

pytestmark = pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")

REFERENCE = "2026-03-01_2_mouse"
NAMES = ("cameras", "ephys", "microscope")

EAGER = Timing(beat=0.2, iblutil_beat=0.2)
"""What takes 5 s else, that a rig is lost, takes 1 s."""


class Counted:
    """Rigs whose handlers count their runs by message and argument."""

    def __init__(self, stack: contextlib.ExitStack):
        self.runs: Counter[tuple[str, str, Any]] = Counter()
        self._lock = threading.Lock()
        self.rigs = {name: self._serve(name, stack) for name in NAMES}
        self.targets = {name: ("127.0.0.1", port_of(rig.uri)) for name, rig in self.rigs.items()}

    def _serve(self, name: str, stack: contextlib.ExitStack) -> Rig:
        rig = Rig(name, "udp://127.0.0.1:0")

        def count(message: str) -> Callable[[Any], None]:
            def handle(*args: Any) -> None:
                with self._lock:
                    self.runs[name, message, args[-1]] += 1

            return handle

        for message in ("EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"):
            rig.on(message)(count(message))
        stack.enter_context(rig)
        return rig


def connect(stack: contextlib.ExitStack, uris: Mapping[str, str], timing: Timing | None = None) -> Auxiliaries:
    return stack.enter_context(Auxiliaries(rigs_from(uris, timing)))


def behind(stack: contextlib.ExitStack, targets: Mapping[str, tuple[str, int]], **faults: Any) -> dict[str, Relay]:
    return stack.enter_context(relay_before(targets, **faults))


def uris_of(relays: Mapping[str, Relay]) -> dict[str, str]:
    return {name: f"udp://127.0.0.1:{relay.address[1]}" for name, relay in relays.items()}


def losses(aux: Auxiliaries) -> list[LinkChanged]:
    """Return a list that fills with the links that are lost from now on."""
    found: list[LinkChanged] = []
    aux.on("LinkChanged", lambda event: found.append(event) if event.after is LinkState.LOST else None)
    return found


def answers(aux: Auxiliaries, message: str, *args: Any, **options: Any) -> PushResult:
    """Return what all rigs answered."""
    outcome = aux.push(message, *args, wait=True, **{"timeout": LONG, **options})
    assert isinstance(outcome, PushResult), outcome
    return outcome


def failures(aux: Auxiliaries, message: str, *args: Any, **options: Any) -> PushError:
    """Return how some rigs failed."""
    outcome = aux.push(message, *args, wait=True, **{"timeout": LONG, **options})
    assert isinstance(outcome, PushError), outcome
    return outcome


# ------------------------------------------------------------------------------------------------- a bad network


@pytest.mark.parametrize("seed", range(4))
def test_each_handler_runs_once_whatever_the_network_does(stack: contextlib.ExitStack, seed: int) -> None:
    counted = Counted(stack)
    relays = behind(stack, counted.targets, seed=seed, loss=0.3, duplication=0.1, reordering=0.2, delay=(0.0, 0.002))
    aux = connect(stack, uris_of(relays))
    lost = losses(aux)
    expected: Counter[tuple[str, str, Any]] = Counter()
    experiment = [("EXPINIT",), ("EXPSTART", REFERENCE), ("EXPEND",), ("EXPCLEANUP",)]
    for n, (message, *args) in enumerate([("EXPINFO", "CONNECTED")] * 6 + experiment):
        assert set(answers(aux, message, *args, n)) == set(NAMES)
        expected.update((name, message, n) for name in NAMES)
    assert counted.runs == expected
    assert all(rig.status is ExpStatus.CONNECTED for rig in counted.rigs.values())
    assert lost == []
    assert all(relay.dropped > 0 for relay in relays.values())


def test_pushes_from_many_threads_over_a_bad_network(stack: contextlib.ExitStack) -> None:
    counted = Counted(stack)
    relays = behind(stack, counted.targets, seed=11, loss=0.2, duplication=0.2, reordering=0.3)
    aux = connect(stack, uris_of(relays))
    outcomes: list[Any] = []

    def push(thread: int) -> None:
        outcomes.extend(answers(aux, "EXPINFO", "CONNECTED", 10 * thread + n) for n in range(3))

    threads = [threading.Thread(target=push, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert [set(outcome) for outcome in outcomes] == [set(NAMES)] * 12
    assert len(counted.runs) == 12 * len(NAMES)
    assert set(counted.runs.values()) == {1}


def test_answer_that_is_lost_while_the_rig_works_is_asked_for_again(stack: contextlib.ExitStack) -> None:
    counted = Counted(stack)
    begun, go = threading.Event(), threading.Event()
    stack.callback(go.set)

    @counted.rigs["cameras"].on("EXPSTART")
    def slow() -> None:
        begun.set()
        assert go.wait(LONG)

    relays = behind(stack, counted.targets, seed=0)
    relay = relays["cameras"]
    aux = connect(stack, uris_of(relays))
    answers(aux, "EXPINIT")
    asked = aux.push("EXPSTART", REFERENCE, 1, timeout=LONG)
    assert begun.wait(LONG)
    peer = aux.services["cameras"].peer
    until(lambda: peer.requests.errands.current and peer.requests.errands.current.received)
    relay.loss = 1.0
    go.set()
    until(lambda: counted.rigs["cameras"].status is ExpStatus.RUNNING)
    dropped = relay.dropped
    until(lambda: relay.dropped > dropped)
    assert aux.response(asked) is None
    relay.loss = 0.0
    assert set(until(lambda: aux.response(asked))) == set(NAMES)
    assert counted.runs["cameras", "EXPSTART", 1] == 1


def test_an_answer_too_large_for_the_way_back(stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def carry(self: Relay, random: Any, loss: float, send: Any) -> None:
        if len(send.args[0]) <= 1400:  # as where a link of a smaller MTU drops what does not fit, without a word
            carry_before(self, random, loss, send)

    carry_before = Relay._carry
    monkeypatch.setattr(Relay, "_carry", carry)
    rig = Rig("cameras", "udp://127.0.0.1:0")
    ran: list[Any] = []
    rig.on("EXPINFO")(lambda *_: ran.append(1) or {"text": "x" * 31_000})
    stack.enter_context(rig)
    relay = stack.enter_context(relay_before({"cameras": ("127.0.0.1", port_of(rig.uri))}))["cameras"]
    aux = stack.enter_context(Auxiliaries({"cameras": "udp://{}:{}".format(*relay.address)}))
    # Longer than `ask_again`: a busy rig acknowledges first, and only the next question is answered by its size.
    outcome = aux.push("EXPINFO", wait=True, timeout=2.5)
    assert isinstance(outcome, PushError)
    failure = outcome.failed["cameras"]
    assert isinstance(failure, RigTimeout)
    assert "the rig has run it, but its answer of 31.3 kB does not arrive" in str(failure)
    assert ran == [1]


def test_partition_and_healing(stack: contextlib.ExitStack) -> None:
    counted = Counted(stack)
    relays = behind(stack, counted.targets, seed=0)
    aux = connect(stack, uris_of(relays), EAGER)
    answers(aux, "EXPINIT", 0)
    relays["ephys"].loss = 1.0
    for n in range(1, 3):  # while it is thought alive, and when it is lost
        error = failures(aux, "EXPINFO", "RUNNING", n)
        assert isinstance(error, PushTimeout)
        assert set(error.result) == {"cameras", "microscope"}
        assert isinstance(error.failed["ephys"], RigLost)
        assert "silent for" in str(error.failed["ephys"])
        assert not aux.all_alive
    relays["ephys"].loss = 0.0
    until(lambda: aux.all_alive)
    assert set(answers(aux, "EXPINFO", "RUNNING", 3)) == set(NAMES)
    assert {n for name, _, n in counted.runs if name == "ephys"} == {0, 3}  # and what was given up stays so
    assert set(counted.runs.values()) == {1}


def test_nothing_ever_comes_through(stack: contextlib.ExitStack) -> None:
    counted = Counted(stack)
    relays = behind(stack, counted.targets, loss=1.0)
    aux = stack.enter_context(Auxiliaries(uris_of(relays), connect_timeout=0.1))
    error = failures(aux, "EXPSTART", REFERENCE, timeout=0.2)
    assert isinstance(error, PushTimeout)
    assert {type(failure) for failure in error.failed.values()} == {RigTimeout}
    assert "nothing has ever come" in str(error)
    eager = stack.enter_context(Auxiliaries(rigs_from(uris_of(relays), EAGER), connect_timeout=0.1))
    until(lambda: all(rig.state is LinkState.LOST for rig in eager.services.values()))
    error = failures(eager, "EXPSTART", REFERENCE)  # does not take the LONG that it is given
    assert {type(failure) for failure in error.failed.values()} == {RigLost}
    assert counted.runs == {}


# ------------------------------------------------------------------------------------------------- sudden deaths


def test_rig_that_is_killed_in_the_middle_of_a_start(stack: contextlib.ExitStack) -> None:
    counted = Counted(stack)
    uris = {name: counted.rigs[name].uri for name in ("cameras", "microscope")}
    handlers = {"EXPINIT": "count", "EXPSTART": "hang"}
    with RigProgram("ephys", handlers=handlers) as victim:
        aux = connect(stack, {"cameras": uris["cameras"], "ephys": victim.uri, "microscope": uris["microscope"]})
        lost = losses(aux)
        answers(aux, "EXPINIT", REFERENCE)
        asked = aux.push("EXPSTART", REFERENCE, 1, timeout=LONG)
        victim.wait_for("ran", "EXPSTART")
        victim.kill()
        outcome = until(lambda: aux.response(asked))
        assert isinstance(outcome.failed["ephys"], RigRefused | RigLost)
        assert set(outcome.result) == {"cameras", "microscope"}
        assert {event.rig for event in lost} == {"ephys"}
        error = failures(aux, "EXPINFO", "RUNNING", 2)
        assert set(error.failed) == {"ephys"}
        assert set(error.result) == {"cameras", "microscope"}
    restarts: list[Any] = []
    aux.on("RestartSeen", restarts.append)
    with RigProgram("ephys", victim.uri, handlers=handlers) as successor:
        until(lambda: aux.all_alive)
        assert set(answers(aux, "EXPINFO", "RUNNING", 3)) == {"cameras", "ephys", "microscope"}
        assert [event.rig for event in restarts] == ["ephys"]
        assert answers(aux, "EXPINIT", REFERENCE, rigs="ephys")["ephys"][0]["pid"] == successor.pid
        assert not successor.all("ran", "EXPSTART")  # nobody repeats what the dead one was told
    assert {event.rig for event in lost} == {"ephys"}
    assert set(counted.runs.values()) == {1}


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals on Windows")
def test_rig_that_freezes_and_thaws(stack: contextlib.ExitStack) -> None:
    """Its port stays open, so that there is nothing but silence."""
    program = stack.enter_context(RigProgram("ephys", handlers={"EXPINIT": "count"}))
    aux = connect(stack, {"ephys": program.uri}, EAGER)
    changes: list[LinkChanged] = []
    aux.on("LinkChanged", changes.append)
    answers(aux, "EXPINIT", REFERENCE)
    program.signal(signal.SIGSTOP)
    until(lambda: changes and changes[-1].after is LinkState.LOST)
    assert changes[-1].reason.startswith("silent for")
    assert isinstance(failures(aux, "EXPSTATUS").failed["ephys"], RigLost)
    program.signal(signal.SIGCONT)
    until(lambda: aux.all_alive)
    assert answers(aux, "EXPINIT", REFERENCE)  # the experiment is still there: a repeat, which runs nothing
    assert len(program.all("ran", "EXPINIT")) == 1


def test_coordinator_that_is_killed_leaves_the_rig_to_others(stack: contextlib.ExitStack) -> None:
    program = stack.enter_context(RigProgram("ephys", handlers={"EXPINIT": "count", "EXPSTART": "hang"}))
    aux = connect(stack, {"ephys": program.uri})
    lost = losses(aux)
    with Program("coordinate", rigs={"ephys": program.uri}) as victim:
        assert victim.wait_for("connected") == ["connected", True]
        victim.tell("push", "EXPINIT", REFERENCE)
        assert set(victim.wait_for("result", "EXPINIT")[2]) == {"ephys"}
        victim.tell("push", "EXPSTART", REFERENCE)
        program.wait_for("ran", "EXPSTART")
        victim.kill()
    assert answers(aux, "EXPSTATUS") == {"ephys": [10]}
    program.tell("go")  # its answer to the dead one is refused, which is of no account
    until(lambda: answers(aux, "EXPSTATUS") == {"ephys": [20]})
    refused = aux.push("EXPEND", wait=True)
    assert isinstance(refused.failed["ephys"], BusyError)
    assert all(word in str(refused) for word in ("127.0.0.1", REFERENCE, "takeover"))
    assert answers(aux, "EXPINIT", {"exp_ref": REFERENCE, "takeover": True})["ephys"][0]["status"] == 20
    assert answers(aux, "EXPEND")["ephys"][0]["exp_ref"] == REFERENCE
    assert answers(aux, "EXPCLEANUP")
    with Program("coordinate", rigs={"ephys": program.uri}) as successor:
        successor.wait_for("connected")
        successor.tell("push", "EXPINIT", REFERENCE)
        assert set(successor.wait_for("result", "EXPINIT")[2]) == {"ephys"}
    assert lost == []


def test_iblutil_rig_that_is_killed_and_started_again(stack: contextlib.ExitStack) -> None:
    counted = Counted(stack)
    with IblutilProgram("ephys") as victim:
        aux = connect(stack, {"ephys": victim.uri, "cameras": counted.rigs["cameras"].uri}, EAGER)
        assert set(answers(aux, "EXPINIT", 0)) == {"ephys", "cameras"}
        victim.kill()
        error = failures(aux, "EXPSTART", REFERENCE, 0)
        assert isinstance(error.failed["ephys"], RigRefused)
        assert set(error.result) == {"cameras"}
        assert not aux.all_alive
    with IblutilProgram("ephys", victim.port) as successor:
        until(lambda: aux.all_alive)
        assert set(answers(aux, "EXPEND", 0)) == {"ephys", "cameras"}
        successor.tell("ask")
        assert successor.wait_for("connected") == ["connected", True]
        assert [report[1] for report in successor.all("called")] == ["EXPEND"]
        assert not successor.all("error")
