"""An experiment as a context: begun on all rigs or on none, never left running, every failure named."""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_helpers import EchoServer, Gate, Lab, in_thread
from platforms import posix
from processes import LONG, ROOT, IblutilServer, RigProgram, free_port, until

from rigsync import Auxiliaries, BusyError, ExperimentError, ExpStatus, NotRunning, RemoteError, Rig, RigFailure
from rigsync.coordinator import links
from rigsync.coordinator.failures import MOST_TRIES, FailureWatch, LateStop, logged_unless_raised
from rigsync.core.arguments import compose
from rigsync.core.enums import ExpMessage
from rigsync.core.events import MessageReceived, ProbeAnswered, PushCompleted
from rigsync.core.timing import Timing
from rigsync.net.relay import relay_before
from rigsync.rig.handlers import EndedBadly
from rigsync.runtime.conditions import Latch
from rigsync.runtime.hub import Hub

REFERENCE = "2026-03-01_2_mouse"
OTHER = "2026-03-01_3_mouse"

EAGER = Timing(beat=0.2)
"""What takes 5 s else, that a rig is lost, takes 1 s."""

Serve = Callable[..., Rig]
Connect = Callable[..., Auxiliaries]


@pytest.fixture
def lab(serve: Serve) -> Lab:
    return Lab(serve)


def fail(*_: Any) -> None:
    raise RuntimeError("no camera found")


def answers(aux: Auxiliaries, message: ExpMessage, *rigs: str) -> threading.Event:
    """Return an event that is set when these rigs have answered a message."""
    missing, answered = set(rigs), threading.Event()

    @aux.on("MessageReceived")
    def note(answer: Any) -> None:
        if answer.event is message:
            missing.discard(answer.rig)
        if not missing:
            answered.set()

    return answered


@contextlib.contextmanager
def ctrl_c_at(gate: Gate, lab: Lab) -> Iterator[None]:
    """Press Ctrl-C while a handler of the cameras waits at the gate, which opens when their EXPINTERRUPT has come."""

    def press() -> None:
        gate.reached.wait(LONG)
        os.kill(os.getpid(), signal.SIGINT) if os.name == "posix" else signal.raise_signal(signal.SIGINT)
        until(lambda: "EXPINTERRUPT" in lab.verbs("cameras"))
        gate.open.set()

    pressing = in_thread(press)
    with pytest.raises(KeyboardInterrupt):
        yield
    pressing.result(LONG)


WHOLE = ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]
INTERRUPTED = ["EXPINFO", "EXPINIT", "EXPSTART", "EXPINTERRUPT", "EXPCLEANUP"]


# ---------------------------------------------------------------------------------------------------- a whole session


@pytest.mark.parametrize("other", [None, KeyboardInterrupt])
def test_what_has_failed_is_logged_where_something_else_is_raised(
    caplog: pytest.LogCaptureFixture, other: type[BaseException] | None
) -> None:
    failed = {rig: RemoteError(rig, "OSError", "disk full") for rig in ("cameras", "ephys")}
    with pytest.raises(other) if other else contextlib.nullcontext(), logged_unless_raised("EXPSTART", failed):
        if other:
            raise other
    assert caplog.messages == (["cameras, ephys: EXPSTART failed: OSError: disk full"] if other else [])


def test_a_whole_session(lab: Lab, connect: Connect) -> None:
    rigs = [lab.rig("cameras"), lab.rig("ephys")]
    aux = connect(*rigs)
    before = signal.getsignal(signal.SIGTERM)
    session = aux.experiment(REFERENCE, init={"box": 4}, start={"stage": 2})
    assert not session.ready.is_set()
    with session as entered:
        assert entered is session
        assert session.ready.wait(0)
        assert session.exp_ref == REFERENCE
        assert {rig.status for rig in rigs} == {ExpStatus.RUNNING}
        assert set(session.results) == {"EXPINFO", "EXPINIT", "EXPSTART"}
        session.check()
        assert session.failures == {}
        assert signal.getsignal(signal.SIGTERM) is not before
    assert not session.ready.is_set()
    assert {rig.status for rig in rigs} == {ExpStatus.CONNECTED}
    assert set(session.results) == set(WHOLE)
    for rig in rigs:
        assert lab.verbs(rig.name) == WHOLE
        assert lab.args(rig.name, "EXPINIT") == ({"box": 4, "exp_ref": REFERENCE},)
        assert lab.args(rig.name, "EXPSTART") == (REFERENCE, {"stage": 2})
        status, information = lab.args(rig.name, "EXPINFO")
        assert status == 0
        assert (information["master"], information["exp_ref"]) == (True, REFERENCE)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_reference_may_be_in_parts_or_missing(lab: Lab, connect: Connect) -> None:
    aux = connect(lab.rig("cameras"))
    with aux.experiment({"date": "2026-03-01", "sequence": 2, "subject": "mouse"}) as session:
        assert session.exp_ref == REFERENCE
    with aux.experiment(None) as session:
        assert session.exp_ref is None
        session.check()


def test_with_a_delay_all_begin_together(lab: Lab, connect: Connect) -> None:
    aux = connect(lab.rig("cameras"), lab.rig("ephys"))
    assert aux.services
    # The clocks are better known by the time that the rigs answer: the bound in the result is another one.
    early = {name: 2 * rig.clock.bound for name, rig in aux.services.items()}
    with aux.experiment(REFERENCE, delay=0.2) as session:
        started = session.results["EXPSTART"]
        assert started.skew is not None
        assert started.at
        for name, start in started.starts.items():
            assert start.time >= started.at - early[name] - start.bound - 1e-6


def test_some_of_the_rigs(lab: Lab, connect: Connect) -> None:
    aux = connect(lab.rig("cameras"), lab.rig("ephys"))
    with aux.experiment(REFERENCE, rigs="cam*"):
        pass
    assert (lab.verbs("cameras"), lab.verbs("ephys")) == (WHOLE, [])


def test_an_iblutil_rig_takes_part(lab: Lab, connect: Connect) -> None:
    with IblutilServer("imaging") as imaging:
        aux = connect(lab.rig("cameras"), {"imaging": imaging.uri})
        with aux.experiment(REFERENCE) as session:
            session.check()
        assert imaging.calls == WHOLE


def test_it_can_be_entered_once(lab: Lab, connect: Connect) -> None:
    session = connect(lab.rig("cameras")).experiment(REFERENCE)
    with session:
        pass
    with pytest.raises(RuntimeError, match="begun once; make a new one"):
        session.__enter__()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"init": 3}, TypeError, "init is a mapping"),
        ({"init": {"exp_ref": OTHER}}, ValueError, "first argument"),
        ({"on_failure": 3}, TypeError, "on_failure is a function"),
        ({"rigs": "lasers"}, LookupError, "lasers"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"delay": "soon"}, TypeError, "delay"),
        ({"init": {"x": object()}}, TypeError, "x"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_left_running(
    lab: Lab, connect: Connect, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    rig = lab.rig("cameras")
    aux = connect(rig)
    with pytest.raises(error, match=text), aux.experiment(REFERENCE, **options):
        pytest.fail("it has begun")
    assert rig.status is ExpStatus.CONNECTED
    assert "EXPSTART" not in lab.verbs("cameras")


@pytest.mark.parametrize("ref", [3, "x" * 501, {"date": "2026-03-01"}])
def test_a_reference_that_is_none_is_refused_at_the_call(lab: Lab, connect: Connect, ref: Any) -> None:
    with pytest.raises(ValueError, match="reference"):
        connect(lab.rig("cameras")).experiment(ref)


# ------------------------------------------------------------------------------------------------------- main sync


def test_the_reference_of_the_main_sync_wins(lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    ephys = lab.rig("ephys", {"EXPINFO": lambda *_: {"exp_ref": OTHER}}, main_sync=True)
    aux = connect(lab.rig("cameras"), ephys)
    with aux.experiment(REFERENCE) as session:
        assert session.exp_ref == OTHER
        assert ephys.exp_ref == OTHER
        assert lab.args("cameras", "EXPINIT") == ({"exp_ref": OTHER},)
    assert f"ephys is the main sync: its reference {OTHER} counts, not {REFERENCE}" in caplog.text


@pytest.mark.parametrize("asked", [REFERENCE, None])
def test_a_main_sync_that_contradicts_nobody_is_no_warning(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture, asked: str | None
) -> None:
    ephys = lab.rig("ephys", {"EXPINFO": lambda *_: {"exp_ref": REFERENCE}}, main_sync=True)
    with connect(ephys).experiment(asked) as session:
        assert session.exp_ref == REFERENCE
    assert "counts, not" not in caplog.text


def test_what_a_stopped_main_sync_recorded_before_does_not_count(lab: Lab, connect: Connect) -> None:
    ephys = lab.rig("ephys", main_sync=True)
    with Auxiliaries({"ephys": ephys.uri}) as before:
        for message, args in (("EXPINIT", [OTHER]), ("EXPSTART", []), ("EXPEND", [])):
            before.request(message, *args)
    with connect(ephys).experiment(REFERENCE) as session:
        assert session.exp_ref == REFERENCE


def test_two_main_syncs_are_refused_by_name(lab: Lab, connect: Connect) -> None:
    names = ("ephys", "imaging")
    aux = connect(*(lab.rig(name, main_sync=True) for name in names), lab.rig("cameras"))
    with pytest.raises(ExperimentError, match="ephys and imaging claim to be the main sync") as told:
        aux.experiment(REFERENCE).__enter__()
    assert set(told.value.failed) == set(names)
    assert [lab.verbs(name) for name in (*names, "cameras")] == [["EXPINFO"]] * 3


# ------------------------------------------------------------------------------------------------- beginning fails


def test_one_of_four_refuses_init(lab: Lab, connect: Connect) -> None:
    good = [lab.rig(name) for name in ("ephys", "imaging", "laser")]
    bad = lab.rig("cameras", {"EXPINIT": lambda *_: answered.wait(LONG) and fail()})
    aux = connect(*good, bad)
    answered = answers(aux, ExpMessage.EXPINIT, *(rig.name for rig in good))
    with pytest.raises(ExperimentError) as told, aux.experiment(REFERENCE):
        pytest.fail("it has begun")
    for rig in good:
        assert lab.verbs(rig.name) == ["EXPINFO", "EXPINIT", "EXPINTERRUPT", "EXPCLEANUP"]
        assert rig.status is ExpStatus.CONNECTED
    assert lab.verbs("cameras") == ["EXPINFO", "EXPINIT"]
    error = told.value
    assert error.outcomes == {
        **{rig.name: "initialised; then interrupted and cleaned up" for rig in good},
        "cameras": "EXPINIT failed: RuntimeError: no camera found",
    }
    assert (error.exp_ref, error.stage, list(error.failed)) == (REFERENCE, "EXPINIT", ["cameras"])
    assert isinstance(error.failed["cameras"], RemoteError)
    assert str(error).splitlines() == [
        f"experiment {REFERENCE} failed at EXPINIT on 1 of 4 rigs:",
        "ephys, imaging, laser: initialised; then interrupted and cleaned up",
        "cameras: EXPINIT failed: RuntimeError: no camera found",
    ]
    assert "PushError" in lab.args("ephys", "EXPINTERRUPT")[0]["error"]
    assert pickle.loads(pickle.dumps(error)).outcomes == error.outcomes


def test_one_that_cannot_start_is_cleaned_up_with_the_others(lab: Lab, connect: Connect) -> None:
    rigs = [lab.rig("ephys"), lab.rig("cameras", {"EXPSTART": lambda *_: started.wait(LONG) and fail()})]
    aux = connect(*rigs)
    started = answers(aux, ExpMessage.EXPSTART, "ephys")
    with pytest.raises(ExperimentError) as told, aux.experiment(REFERENCE):
        pytest.fail("it has begun")
    assert told.value.outcomes == {
        "ephys": "started; then interrupted and cleaned up",
        "cameras": "EXPSTART failed: RuntimeError: no camera found; then interrupted and cleaned up",
    }
    assert {rig.status for rig in rigs} == {ExpStatus.CONNECTED}


@pytest.mark.parametrize("message", ["EXPINIT", "EXPSTART"])
def test_one_that_still_prepares_is_called_off_as_soon_as_another_has_failed(
    lab: Lab, connect: Connect, gate: Gate, message: str
) -> None:
    slow, ephys = lab.rig("cameras", {message: gate}), lab.rig("ephys")
    bad = lab.rig("imaging", {message: lambda *_: gate.reached.wait(LONG) and answered.wait(LONG) and fail()})
    aux = connect(slow, ephys, bad)
    answered = answers(aux, ExpMessage[message], "ephys")
    with pytest.raises(ExperimentError) as told, aux.experiment(REFERENCE):
        pytest.fail("it has begun")
    assert not gate.open.is_set()  # it was at work all the while
    error = told.value
    assert (error.stage, list(error.failed)) == (message, ["imaging"])
    assert error.outcomes["cameras"] == f"{message} called off; then interrupted and cleaned up"
    done, _, rest = error.outcomes["ephys"].partition("; then ")
    assert done in ("initialised", "started", f"{message} called off")  # the last where its answer is slow to come
    assert rest == "interrupted and cleaned up"
    assert f"{message} failed: RuntimeError: no camera found" in error.outcomes["imaging"]
    assert lab.verbs("cameras")[-2:] == ["EXPINTERRUPT", "EXPCLEANUP"]
    assert {rig.status for rig in (slow, ephys, bad)} == {ExpStatus.CONNECTED}


def test_one_that_still_prepares_is_called_off_as_soon_as_another_is_killed(
    lab: Lab, connect: Connect, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    slow = lab.rig("cameras", {"EXPINIT": gate})
    with RigProgram("ephys", handlers={"EXPINIT": "hang"}) as ephys:
        aux = connect(slow, {"ephys": ephys.uri})

        def kill() -> None:
            gate.reached.wait(LONG)
            ephys.wait_for("ran")
            ephys.kill()

        killing = in_thread(kill)
        with pytest.raises(ExperimentError, match="ephys: EXPINIT failed: ") as told:
            aux.experiment(REFERENCE).__enter__()
        killing.result(LONG)
    assert not gate.open.is_set()
    assert told.value.outcomes["cameras"] == "EXPINIT called off; then interrupted and cleaned up"
    assert "EXPINIT was overtaken" not in "".join(r.getMessage() for r in caplog.records if r.levelname == "ERROR")


def test_an_iblutil_rig_is_called_off_too(lab: Lab, connect: Connect) -> None:
    bad = lab.rig("cameras", {"EXPINIT": lambda *_: until(lambda: "EXPINIT" in str(imaging.calls)) and fail()})
    silent = {ExpMessage.EXPINIT}  # it works on that, and says nothing
    with EchoServer("imaging", lambda event, data: None if event in silent else [0, {}]) as imaging:
        with pytest.raises(ExperimentError) as told:
            connect(bad, {"imaging": imaging.uri}).experiment(REFERENCE).__enter__()
        assert told.value.outcomes["imaging"] == "EXPINIT called off; then interrupted and cleaned up"
        assert [event.name for event, _ in imaging.calls][-2:] == ["EXPINTERRUPT", "EXPCLEANUP"]


def test_a_push_by_itself_waits_for_all_as_ever(lab: Lab, connect: Connect, gate: Gate) -> None:
    aux = connect(lab.rig("cameras", {"EXPINIT": gate}), lab.rig("ephys", {"EXPINIT": fail}))
    pushing = in_thread(aux.push, "EXPINIT", {"exp_ref": REFERENCE}, wait=True)
    gate.reached.wait(LONG)
    until(lambda: "EXPINIT" in str(lab.told))
    time.sleep(0.2)  # in which it would have been decided
    assert not pushing.done()
    gate.open.set()
    assert list(pushing.result(LONG).result) == ["cameras"]


def test_whom_it_waits_for_is_told_while_it_waits(
    lab: Lab, connect: Connect, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert links.FIRST_WORD == 2.0
    monkeypatch.setattr(links, "FIRST_WORD", 0.1)
    aux = connect(lab.rig("cameras", {"EXPINIT": gate}), lab.rig("ephys"))

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "rigsync.wait"]

    with ctrl_c_at(gate, lab), aux.experiment(REFERENCE):
        pytest.fail("it has begun")
    assert "stopping cameras, ephys: EXPINTERRUPT" in caplog.text
    caplog.clear()
    slow = lab.rig("imaging", {"EXPSTATUS": (second := Gate())})
    with Auxiliaries({"imaging": slow.uri}) as other:
        asking = in_thread(other.request, "EXPSTATUS", 0)
        until(lambda: len(said()) >= 3)
        second.open.set()
        asking.result(LONG)
        heard = said()
        other.request("EXPSTATUS", 0)
        # Further words have come where this thread had to wait for the computer.
        assert heard == [f"waiting for imaging: EXPSTATUS, {0.1 * 2**n:g} s" for n in range(len(heard))]
        assert all(record.levelname == "WARNING" for record in caplog.records if record.name == "rigsync.wait")
        assert said() == heard  # it waits for nobody any more


def test_who_waits_no_longer_is_told_no_more(
    lab: Lab, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "FIRST_WORD", 0.05)
    rig = lab.rig("cameras", {"EXPSTATUS": gate})
    with Auxiliaries({"cameras": rig.uri}) as aux:
        aux.push("EXPSTATUS", 0)  # nobody waits for that
        gate.reached.wait(LONG)
        time.sleep(0.2)
        assert "waiting for" not in caplog.text
        gate.open.set()


def test_a_rig_of_another_experiment_is_not_disturbed(lab: Lab, connect: Connect) -> None:
    rigs = [lab.rig("ephys"), lab.rig("cameras")]
    with Auxiliaries({"cameras": rigs[1].uri}) as other, other.experiment(OTHER):
        with pytest.raises(ExperimentError) as told, connect(*rigs).experiment(REFERENCE):
            pytest.fail("it has begun")
        assert isinstance(told.value.failed["cameras"], BusyError)
        assert rigs[1].status is ExpStatus.RUNNING
        assert "EXPINTERRUPT" not in lab.verbs("cameras")
    assert lab.verbs("ephys")[-2:] == ["EXPINTERRUPT", "EXPCLEANUP"]


def test_ctrl_c_while_it_begins_does_not_stop_what_a_stranger_records(lab: Lab, connect: Connect, gate: Gate) -> None:
    rigs = [lab.rig("ephys"), lab.rig("cameras", {"EXPINIT": gate})]
    aux = connect(*rigs)
    with Auxiliaries({"ephys": rigs[0].uri}) as other, other.experiment(OTHER):
        with ctrl_c_at(gate, lab), aux.experiment(REFERENCE):
            pytest.fail("it has begun")
        assert "EXPINTERRUPT" not in lab.verbs("ephys")
        assert rigs[0].status is ExpStatus.RUNNING


def test_an_experiment_that_goes_on_is_joined_only_where_that_is_meant(lab: Lab, connect: Connect) -> None:
    rig = lab.rig("cameras")
    with Auxiliaries({"cameras": rig.uri}, leave_running=True) as before:
        before.request("EXPINIT", {"exp_ref": REFERENCE})
        before.request("EXPSTART", REFERENCE)
    aux = connect(rig)
    with pytest.raises(ExperimentError, match=f"records {REFERENCE} already"), aux.experiment(REFERENCE):
        pytest.fail("it has begun")
    assert rig.status is ExpStatus.RUNNING
    with aux.experiment(REFERENCE, init={"takeover": True}) as session:
        session.check()
    assert lab.verbs("cameras").count("EXPSTART") == 1
    assert rig.status is ExpStatus.CONNECTED


def test_a_rig_that_works_on_it_is_waited_for(lab: Lab, connect: Connect) -> None:
    go = threading.Event()
    rig = lab.rig("cameras", {"EXPEND": lambda *_: go.wait(LONG) and None})
    with Auxiliaries({"cameras": rig.uri}) as aux:
        services = aux.services
        assert services

        def let_go() -> None:
            until(lambda: "EXPEND" in lab.verbs("cameras"))
            time.sleep(3.0)  # longer than the rig's own time, which is what this is about
            services.timeout = LONG
            go.set()

        helping = threading.Thread(target=let_go)
        with aux.experiment(REFERENCE):
            services.timeout = 2.0
            helping.start()
        helping.join(LONG)
    assert lab.verbs("cameras") == WHOLE


def test_a_rig_that_is_not_there_is_named_before_anything_begins(lab: Lab, connect: Connect) -> None:
    rig = lab.rig("cameras")
    aux = connect(rig, {"ephys": f"udp://127.0.0.1:{free_port()}"}, connect_timeout=0.5)
    with pytest.raises(ExperimentError, match="ephys: EXPINFO failed") as told, aux.experiment(REFERENCE):
        pytest.fail("it has begun")
    assert told.value.outcomes["cameras"] == "not begun"
    assert lab.verbs("cameras") == ["EXPINFO"]


def test_a_rig_that_does_not_answer_may_have_begun_and_is_interrupted(lab: Lab, connect: Connect) -> None:
    go = threading.Event()
    slow = lab.rig("cameras", {"EXPINIT": lambda *_: go.wait(LONG) and None})
    try:
        # Within which EXPINFO is answered, and EXPINIT is not.
        with pytest.raises(ExperimentError) as told, connect(slow).experiment(REFERENCE, timeout=3.0):
            pytest.fail("it has begun")
        assert told.value.stage == "EXPINIT"
        until(lambda: "EXPINTERRUPT" in lab.verbs("cameras"))
    finally:
        go.set()


def test_ctrl_c_while_it_begins_leaves_nothing_running(lab: Lab, connect: Connect, gate: Gate) -> None:
    rigs = [lab.rig("ephys"), lab.rig("cameras", {"EXPSTART": gate})]
    aux = connect(*rigs)
    with ctrl_c_at(gate, lab), aux.experiment(REFERENCE):
        pytest.fail("it has begun")
    for rig in rigs:
        assert lab.args(rig.name, "EXPINTERRUPT")[0]["error"] == "KeyboardInterrupt"
        assert rig.status is ExpStatus.CONNECTED


# ------------------------------------------------------------------------------------------------- the body fails


@pytest.mark.parametrize(
    "error", [ValueError("the valve is stuck"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()]
)
def test_whatever_leaves_the_body_interrupts_and_tells_why(lab: Lab, connect: Connect, error: BaseException) -> None:
    rig = lab.rig("cameras")
    aux = connect(rig)
    with pytest.raises(type(error)) as told, aux.experiment(REFERENCE):
        raise error
    assert told.value is error
    assert lab.verbs("cameras") == INTERRUPTED
    (report,) = lab.args("cameras", "EXPINTERRUPT")
    assert (report["error"], report["message"]) == (type(error).__name__, str(error))
    assert report["file"] == __file__
    assert linecache.getline(__file__, report["line_no"]).strip() == "raise error"
    assert "raise error" in report["traceback"]


# ------------------------------------------------------------------------------------------------- without a `with`


def test_it_can_be_begun_in_one_place_and_ended_in_another(lab: Lab, connect: Connect) -> None:
    rigs = [lab.rig("cameras"), lab.rig("ephys")]
    aux = connect(*rigs)
    session = aux.begin(REFERENCE, init={"box": 4})
    assert session.goes_on
    assert {rig.status for rig in rigs} == {ExpStatus.RUNNING}
    session.check()
    aux.end()
    assert not session.goes_on
    assert lab.verbs("cameras") == WHOLE
    assert lab.args("cameras", "EXPINIT") == ({"box": 4, "exp_ref": REFERENCE},)


@pytest.mark.parametrize("reason", ["the animal is ill", ValueError("the animal is ill")])
def test_it_can_be_interrupted_with_a_reason(lab: Lab, connect: Connect, reason: BaseException | str) -> None:
    aux = connect(lab.rig("cameras"))
    aux.begin(REFERENCE)
    aux.interrupt(reason)
    assert lab.verbs("cameras") == INTERRUPTED
    (report,) = lab.args("cameras", "EXPINTERRUPT")
    assert report["message"] == "the animal is ill"


def test_the_signals_are_the_program_s_again_once_it_is_over(lab: Lab, connect: Connect) -> None:
    aux = connect(lab.rig("cameras"))
    before = signal.getsignal(signal.SIGTERM)
    aux.begin(REFERENCE)
    assert signal.getsignal(signal.SIGTERM) is not before
    aux.end()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_rig_that_fails_meanwhile_is_told_at_the_end(lab: Lab, connect: Connect) -> None:
    rig = lab.rig("cameras")
    aux = connect(rig)
    session = aux.begin(REFERENCE)
    rig.notify("failure", {"problem": "disk full"})
    until(lambda: session.failures)
    with pytest.raises(ExperimentError, match="disk full"):
        aux.end()
    assert lab.verbs("cameras")[-2:] == ["EXPEND", "EXPCLEANUP"]


def test_one_goes_on_at_a_time(lab: Lab, connect: Connect) -> None:
    aux = connect(lab.rig("cameras"))
    aux.begin(REFERENCE)
    with pytest.raises(RuntimeError, match=f"{REFERENCE} goes on; call end\\(\\) or interrupt\\(\\) first"):
        aux.begin(OTHER)
    aux.end()
    aux.begin(OTHER)
    aux.end()
    assert lab.verbs("cameras") == WHOLE + WHOLE


def test_what_was_never_begun_or_is_over_is_neither_checked_nor_ended(lab: Lab, connect: Connect) -> None:
    aux = connect(lab.rig("cameras"))
    session = aux.experiment(REFERENCE)
    for call in (session.check, session.end, session.interrupt):
        with pytest.raises(RuntimeError, match=r"never begun, and nothing is recorded: begin it by `with"):
            call()
    for call in (aux.end, aux.interrupt):
        with pytest.raises(RuntimeError, match=r"no experiment was begun; begin one by begin\(ref\)"):
            call()
    with session:
        session.end()  # leaving has nothing to do any more
    for call in (session.end, session.check):
        with pytest.raises(RuntimeError, match="is over; begin another"):
            call()
    assert lab.verbs("cameras") == WHOLE


def test_one_that_cannot_begin_leaves_nothing_running_and_another_can_be_begun(lab: Lab, connect: Connect) -> None:
    outcomes = iter([fail, lambda *_: None])
    rig = lab.rig("cameras", {"EXPSTART": lambda *args: next(outcomes)(*args)})
    aux = connect(rig)
    with pytest.raises(ExperimentError, match="no camera found"):
        aux.begin(REFERENCE)
    assert rig.status is ExpStatus.CONNECTED
    aux.begin(REFERENCE)
    aux.end()


@posix
def test_the_end_of_the_program_interrupts_what_was_begun(lab: Lab) -> None:
    rig = lab.rig("cameras")
    program = f"""
    from rigsync import Auxiliaries
    aux = Auxiliaries({{"cameras": {rig.uri!r}}})
    aux.begin({REFERENCE!r})
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=LONG, cwd=ROOT)
    assert lab.verbs("cameras")[:4] == INTERRUPTED[:4]
    (report,) = lab.args("cameras", "EXPINTERRUPT")
    assert report["message"] == "the program ended in the middle of the experiment"


@pytest.mark.parametrize("character", ["x", "\x01", "\N{MOUSE FACE}"])  # as JSON these take 1, 6 and 12 bytes
def test_a_huge_traceback_is_cut_so_that_the_interrupt_can_be_sent(lab: Lab, connect: Connect, character: str) -> None:
    rig = lab.rig("cameras")
    with pytest.raises(ValueError, match=character * 3), connect(rig).experiment(REFERENCE):
        raise ValueError(character * 100_000)
    assert lab.verbs("cameras") == INTERRUPTED


class WithoutText(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")


class WithoutAnything(WithoutText):
    def __getattr__(self, name: str) -> None:
        raise LookupError(name)


@pytest.mark.parametrize("kind", [WithoutText, WithoutAnything])
def test_an_exception_that_cannot_be_shown_interrupts_too(lab: Lab, connect: Connect, kind: type[Exception]) -> None:
    rig = lab.rig("cameras")
    with pytest.raises(kind), connect(rig).experiment(REFERENCE):
        raise kind
    assert lab.verbs("cameras") == INTERRUPTED
    assert lab.args("cameras", "EXPINTERRUPT")[0]["error"] == kind.__name__


def test_what_a_rig_does_at_the_interrupt_does_not_hide_why(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    bad = lab.rig("cameras", {"EXPCLEANUP": fail})
    aux = connect(bad, lab.rig("ephys"))
    with pytest.raises(ValueError, match="the valve"), aux.experiment(REFERENCE):
        raise ValueError("the valve is stuck")
    assert lab.verbs("ephys") == INTERRUPTED
    assert "no camera found" in caplog.text


def test_a_body_that_closes_the_connection_has_the_rigs_interrupted_and_is_not_told_otherwise(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    rig = lab.rig("cameras")
    aux = connect(rig)
    with pytest.raises(NotRunning, match="closed"), aux.experiment(REFERENCE):
        aux.close()
    assert rig.status is ExpStatus.STOPPED
    assert "may go on recording" not in caplog.text


def test_a_body_that_closes_the_connection_is_told_once_of_a_rig_that_may_go_on(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    aux = connect(lab.rig("cameras", {"EXPINTERRUPT": fail}), lab.rig("ephys"))
    with pytest.raises(NotRunning), aux.experiment(REFERENCE):
        aux.close()
    assert [line.getMessage() for line in caplog.records if "may go on" in line.getMessage()] == [
        "cameras may go on recording"
    ]


def test_a_body_that_closes_the_connection_is_told_that_rigs_that_are_left_running_may_go_on(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    aux = connect(lab.rig("cameras"), leave_running=True)
    with pytest.raises(NotRunning), aux.experiment(REFERENCE):
        aux.close()
    assert "cameras may go on recording" in caplog.text


# ------------------------------------------------------------------------------------------------ ending fails


def test_one_that_cannot_end_is_interrupted_and_named(lab: Lab, connect: Connect) -> None:
    rigs = [lab.rig("ephys"), lab.rig("cameras", {"EXPEND": fail})]
    with pytest.raises(ExperimentError) as told, connect(*rigs).experiment(REFERENCE):
        pass
    assert told.value.stage == "EXPEND"
    assert told.value.outcomes == {
        "ephys": "ended and cleaned up",
        "cameras": "EXPEND failed: RuntimeError: no camera found; then interrupted and cleaned up",
    }
    assert lab.verbs("ephys") == WHOLE
    assert {rig.status for rig in rigs} == {ExpStatus.CONNECTED}


def test_one_that_cannot_clean_up_is_named(lab: Lab, connect: Connect) -> None:
    aux = connect(lab.rig("ephys"), lab.rig("cameras", {"EXPCLEANUP": fail}))
    with pytest.raises(ExperimentError) as told, aux.experiment(REFERENCE):
        pass
    assert told.value.stage == "EXPCLEANUP"
    assert told.value.outcomes["cameras"] == "ended; then EXPCLEANUP failed: RuntimeError: no camera found"


def test_ctrl_c_while_it_ends_interrupts(lab: Lab, connect: Connect, gate: Gate) -> None:
    rig = lab.rig("cameras", {"EXPEND": gate})
    with ctrl_c_at(gate, lab), connect(rig).experiment(REFERENCE):
        pass
    assert rig.status is ExpStatus.CONNECTED


# ------------------------------------------------------------------------------------- failures while it is recorded


def test_a_failure_is_told_once(lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    rig = lab.rig("cameras")

    def record() -> None:
        with connect(rig).experiment(REFERENCE) as session:
            rig.notify("failure", {"problem": "the recorder was killed", "exp_ref": REFERENCE})
            rig.interrupt("the recorder was killed")
            until(lambda: rig.status is ExpStatus.STOPPED)
            until(lambda: session.failures, "the failure")

    with pytest.raises(ExperimentError):
        record()
    own = ("rigsync.push", "rigsync.link", "rigsync.notice", "rigsync.experiment")
    lines = [r.getMessage() for r in caplog.records if r.name in own and r.levelno >= 30 and "killed" in r.getMessage()]
    assert lines == ["cameras: the recorder was killed"]


def test_a_failure_that_expend_tells_again_is_told_once(lab: Lab, connect: Connect) -> None:
    cameras, problem = lab.rig("cameras"), "left.mp4 had 9 B before, and now has 0 B"

    def end() -> None:
        raise EndedBadly(problem)

    cameras.on("EXPEND")(end)

    def record() -> None:
        with connect(cameras).experiment(REFERENCE) as session:
            cameras.notify("failure", {"problem": problem, "exp_ref": REFERENCE})
            until(lambda: session.failures)

    with pytest.raises(ExperimentError) as raised:
        record()
    assert str(raised.value).count(problem) == 1
    assert f"EXPEND failed: EndedBadly: {problem}" in raised.value.outcomes["cameras"]


def test_a_rig_that_stops_by_itself_is_seen(lab: Lab, connect: Connect) -> None:
    told: list[RigFailure] = []
    cameras = lab.rig("cameras")
    aux = connect(cameras, lab.rig("ephys"))

    def task() -> None:
        with aux.experiment(REFERENCE, on_failure=told.append) as session:
            cameras.interrupt("the recorder has ended by itself with exit status 3")
            until(lambda: told)
            assert not session.ready.is_set()
            session.check()

    with pytest.raises(ExperimentError) as caught:
        task()
    (failure,) = told
    assert failure.rig == "cameras"
    assert "the recorder has ended by itself with exit status 3" in failure.reason
    assert caught.value.stage == "recording"
    assert caught.value.outcomes == {"cameras": failure.reason, "ephys": "records"}
    assert lab.verbs("ephys") == INTERRUPTED


def test_what_nobody_has_checked_is_told_at_the_end(lab: Lab, connect: Connect) -> None:
    cameras = lab.rig("cameras")
    aux = connect(cameras, lab.rig("ephys"))

    def task() -> None:
        with aux.experiment(REFERENCE) as session:
            cameras.interrupt("the disk is full")
            until(lambda: session.failures)

    with pytest.raises(ExperimentError) as told:
        task()
    assert told.value.stage == "recording"
    assert "the disk is full; then ended and cleaned up" in told.value.outcomes["cameras"]
    assert lab.verbs("ephys") == WHOLE


def test_a_rig_that_has_stopped_by_itself_unseen_fails_the_end(lab: Lab, connect: Connect) -> None:
    """Nothing but its answer to EXPEND tells it: the task is over before any notice is there."""
    cameras = lab.rig("cameras")
    aux = connect(cameras, lab.rig("ephys"))

    def task() -> None:
        with aux.experiment(REFERENCE) as session:
            assert session._watch
            session._watch.end()
            cameras.interrupt("the disk is full")
            until(lambda: cameras.status is ExpStatus.STOPPED)

    with pytest.raises(ExperimentError) as told:
        task()
    assert told.value.stage == "EXPEND"
    assert told.value.outcomes == {
        "cameras": "EXPEND failed: EndedBadly: the disk is full; then interrupted and cleaned up",
        "ephys": "ended and cleaned up",
    }
    assert cameras.status is ExpStatus.CONNECTED


@pytest.mark.parametrize("length", [8, 1900])
def test_why_a_rig_has_stopped_by_itself_is_told_once_at_the_end(lab: Lab, connect: Connect, length: int) -> None:
    cameras, reason = lab.rig("cameras"), "disk full".rjust(length)

    def task() -> None:
        with connect(cameras).experiment(REFERENCE) as session:
            cameras.interrupt(reason)
            until(lambda: session.failures)

    with pytest.raises(ExperimentError) as told:
        task()
    assert told.value.outcomes["cameras"].startswith(f"it does not record {REFERENCE} any more: {reason}"[:1000])
    assert told.value.outcomes["cameras"].endswith("; then ended and cleaned up")
    assert "EXPEND" not in told.value.outcomes["cameras"]


def test_an_older_rig_that_has_stopped_by_itself_fails_the_end(lab: Lab, connect: Connect) -> None:
    cameras = lab.rig("cameras", {"EXPEND": lambda *_: {"interrupted": "the disk is full"}})  # as it answered EXPEND

    def task() -> None:
        with connect(cameras).experiment(REFERENCE):
            pass

    with pytest.raises(ExperimentError, match="EXPEND failed: EndedBadly: the disk is full; then interrupted"):
        task()


def test_who_goes_on_after_a_failure_is_not_told_again(lab: Lab, connect: Connect) -> None:
    cameras = lab.rig("cameras")
    with connect(cameras).experiment(REFERENCE) as session:
        cameras.interrupt("the disk is full")
        until(lambda: session.failures)
        with pytest.raises(ExperimentError):
            session.check()


def test_a_rig_that_says_it_records_badly_is_seen(lab: Lab, connect: Connect) -> None:
    cameras = lab.rig("cameras")
    with connect(cameras).experiment(REFERENCE) as session:
        cameras.notify("failure", {"problem": "left.mp4 has stopped growing", "exp_ref": OTHER})  # of yesterday
        cameras.notify("failure", {"problem": "left.mp4 has stopped growing"})
        until(lambda: session.failures)
        assert session.failures == {"cameras": "left.mp4 has stopped growing"}
        with pytest.raises(ExperimentError, match=r"left\.mp4 has stopped growing"):
            session.check()


def test_a_failure_that_a_rig_tells_while_it_initialises_counts_and_one_before_does_not(
    lab: Lab, connect: Connect
) -> None:
    dark = [False]

    def initialise() -> None:
        if dark[0]:
            cameras.notify("failure", {"problem": "dark"})

    cameras = lab.rig("cameras", {"EXPINIT": lambda *_: initialise()})
    aux, told = connect(cameras), []
    aux.on("Notice", told.append)
    cameras.notify("failure", {"problem": "dark"})
    until(lambda: told)
    with aux.experiment(REFERENCE):
        pass
    dark[0] = True
    for _ in range(2):  # also with the same text once more
        with pytest.raises(ExperimentError, match="dark"), aux.experiment(REFERENCE):
            pass


def test_one_whom_somebody_else_stops_is_seen(lab: Lab, connect: Connect) -> None:
    cameras = lab.rig("cameras")
    with connect(cameras).experiment(REFERENCE) as session:
        with Auxiliaries({"cameras": cameras.uri}) as other:
            other.request("EXPINTERRUPT")
        until(lambda: session.failures)
        assert "EXPINTERRUPT came from 127.0.0.1" in session.failures["cameras"]
        with pytest.raises(ExperimentError):
            session.check()


def test_one_that_is_started_anew_is_seen(connect: Connect) -> None:
    uri = f"udp://127.0.0.1:{free_port()}"
    with RigProgram("cameras", uri) as first:
        aux = connect({"cameras": first.uri})

        def task() -> None:
            with aux.experiment(REFERENCE) as session:
                first.kill()
                with RigProgram("cameras", uri):
                    until(lambda: "started anew" in session.failures.get("cameras", ""))
                    session.check()

        with pytest.raises(ExperimentError, match="started anew"):
            task()


def test_one_that_is_lost_and_back_is_ready_again(lab: Lab, connect: Connect) -> None:
    rig = lab.rig("cameras")
    with relay_before({"cameras": ("127.0.0.1", int(rig.uri.rpartition(":")[2]))}) as relays:
        host, port = relays["cameras"].address
        aux = connect({"cameras": f"udp://{host}:{port}"})
        with aux.experiment(REFERENCE) as session:
            relays["cameras"].loss = 1.0
            until(lambda: session.failures)
            assert "lost" in session.failures["cameras"]
            assert not session.ready.is_set()
            with pytest.raises(ExperimentError, match="is lost"):
                session.check()
            relays["cameras"].loss = 0.0
            assert session.ready.wait(LONG)
            session.check()


def test_what_a_probe_saw_before_all_had_begun_is_no_failure(lab: Lab, connect: Connect) -> None:
    rig = lab.rig("cameras")  # which is CONNECTED all the while
    aux = connect(rig)
    assert aux.services
    told: list[RigFailure] = []
    watch = FailureWatch(aux.services, Hub(), ["cameras"], REFERENCE, told.append, Latch())
    watch.begin()
    until(lambda: aux.services and aux.services["cameras"].rig_status is ExpStatus.CONNECTED)
    second = 1_000_000_000
    for n in range(5):
        watch._note_status(ProbeAnswered("cameras", n, 1.0, (0, 0, 0, 60 * second)))  # it was a minute under way
    assert told == []
    for n in range(2):
        watch._note_status(ProbeAnswered("cameras", n, 0.0, (0, 0, 0, 0)))
    assert [failure.rig for failure in told] == ["cameras"]
    watch.close()


def test_sessions_one_after_the_other_do_not_see_each_other(lab: Lab, connect: Connect) -> None:
    rigs = [lab.rig(f"rig{n}") for n in range(3)]
    aux = connect(*rigs)
    for n in range(10):
        with aux.experiment(f"2026-03-01_{n % 2}_mouse") as session:
            session.check()
        assert session.failures == {}


def test_on_failure_that_raises_harms_nothing(lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    cameras = lab.rig("cameras")
    with connect(cameras).experiment(REFERENCE, on_failure=fail) as session:
        cameras.notify("failure", {"problem": "dark"})
        until(lambda: "no camera found" in caplog.text)
        with pytest.raises(ExperimentError):
            session.check()


# ----------------------------------------------------------------------------------------- the program's own end

PROGRAM = """
import json, os, signal, sys, threading, time
from rigsync import Auxiliaries

def say(word):
    print(word, flush=True)

def read_line():
    # Not on this thread: Python misses a signal that comes just before a read that blocks.
    there = threading.Event()
    threading.Thread(target=lambda: (os.read(0, 100), there.set()), daemon=True).start()
    while not there.wait(0.05):
        pass

aux = Auxiliaries({uris})
{body}
"""


@contextlib.contextmanager
def program(uris: dict[str, str], body: str) -> Iterator[subprocess.Popen[str]]:
    source = PROGRAM.format(uris=json.dumps(uris), body=textwrap.dedent(body))
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


RECORDS = f"""
with aux.experiment("{REFERENCE}") as session:
    say("records")
    read_line()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_obeys_signals_as_without_the_experiment(lab: Lab) -> None:
    rig = lab.rig("cameras")
    body = f"""
    with aux.experiment("{REFERENCE}"):
        there, begun = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.write(begun, b"!")  # Python forgets signals that come while it forks
                time.sleep({LONG})
            finally:
                os._exit(3)
        os.read(there, 1)
        os.kill(pid, signal.SIGTERM)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    with program({"cameras": rig.uri}, body) as process:
        assert process.stdout
        assert process.stdout.readline() == f"{-signal.SIGTERM}\n"
        assert process.wait(LONG) == 0
    assert lab.verbs("cameras") == WHOLE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_with_an_experiment_of_its_own_ends_that_one(lab: Lab) -> None:
    rig, own = lab.rig("cameras"), lab.rig("ephys")
    body = f"""
    with aux.experiment("{REFERENCE}"):
        pid = os.fork()
        if pid:
            say(pid)
        else:
            with Auxiliaries({{"ephys": "{own.uri}"}}) as own, own.experiment("{OTHER}"):
                say("records")
                for _ in range(10 * {LONG}):
                    time.sleep(0.1)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    with program({"cameras": rig.uri}, body) as process:
        assert process.stdout
        said = sorted([process.stdout.readline().strip() for _ in range(2)])
        assert said[1] == "records"
        os.kill(int(said[0]), signal.SIGTERM)
        assert process.stdout.readline() == f"{128 + signal.SIGTERM}\n"
        assert process.wait(LONG) == 0
    assert lab.verbs("ephys") == INTERRUPTED
    assert lab.verbs("cameras") == WHOLE


@posix
@pytest.mark.parametrize(
    ("number", "status", "error"),
    [
        (signal.SIGTERM, 128 + signal.SIGTERM, "Terminated"),
        (signal.SIGHUP, 128 + signal.SIGHUP, "Terminated"),
        (signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
    ],
)
def test_a_signal_interrupts(lab: Lab, number: signal.Signals, status: int, error: str) -> None:
    rig = lab.rig("cameras")
    with program({"cameras": rig.uri}, RECORDS) as process:
        assert process.stdout
        assert process.stdout.readline() == "records\n"
        process.send_signal(number)
        assert process.wait(LONG) == status
    assert lab.verbs("cameras") == INTERRUPTED
    (report,) = lab.args("cameras", "EXPINTERRUPT")
    assert report["error"] == error
    if number != signal.SIGINT:
        assert number.name in report["message"]


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_interrupts_where_there_is_no_with(lab: Lab, name: str, ignored: bool) -> None:
    """Unless it is ignored, as SIGHUP is by `nohup`."""
    rig, number = lab.rig("cameras"), getattr(signal, name)
    body = f"""
    if {ignored}:
        signal.signal(signal.{name}, signal.SIG_IGN)
    aux.begin("{REFERENCE}")
    say("records")
    read_line()
    aux.end()
    say("ended")
    """
    with program({"cameras": rig.uri}, body) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "records\n"
        process.send_signal(number)
        if ignored:
            process.stdin.close()
            assert process.stdout.readline() == "ended\n"
            assert process.wait(LONG) == 0
        else:
            assert process.wait(LONG) == (-number if name == "SIGINT" else 128 + number)
    assert lab.verbs("cameras") == (WHOLE if ignored else INTERRUPTED[:-1])


@posix
def test_a_signal_while_it_ends_is_obeyed_when_it_has_ended(lab: Lab) -> None:
    ending, go = threading.Event(), threading.Event()
    rig = lab.rig("cameras", {"EXPEND": lambda *_: ending.set() or (go.wait(LONG) and None)})
    body = f"""
    with aux.experiment("{REFERENCE}"):
        pass
    say("goes on")
    """
    with program({"cameras": rig.uri}, body) as process:
        assert ending.wait(LONG)
        process.terminate()
        time.sleep(0.1)  # for the signal to be delivered; were it late, the test would pass all the same
        go.set()
        assert process.wait(LONG) == 128 + signal.SIGTERM
        assert process.stdout
        assert process.stdout.read() == ""
    assert lab.verbs("cameras") == WHOLE


@posix
def test_a_program_that_handles_its_signals_keeps_doing_so(lab: Lab) -> None:
    rig = lab.rig("cameras")
    body = f"""
    signal.signal(signal.SIGTERM, lambda *_: say("handled"))
    with aux.experiment("{REFERENCE}"):
        say("records")
        read_line()
    """
    with program({"cameras": rig.uri}, body) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "records\n"
        process.terminate()
        assert process.stdout.readline() == "handled\n"
        process.stdin.close()
        assert process.wait(LONG) == 0
    assert lab.verbs("cameras") == WHOLE


@pytest.mark.parametrize(
    "body",
    [
        f'session = aux.experiment("{REFERENCE}")\nsession.__enter__()\n',
        f"""
        def record():
            with aux.experiment("{REFERENCE}"):
                say("records")
                time.sleep(1000)

        threading.Thread(target=record, daemon=True).start()
        time.sleep(0.5)
        while not aux.response_received.is_set() or len(aux.log) < 3:
            time.sleep(0.01)
        """,
    ],
    ids=["entered by hand", "in a daemon thread"],
)
def test_the_end_of_the_interpreter_interrupts(lab: Lab, body: str) -> None:
    rig = lab.rig("cameras")
    with program({"cameras": rig.uri}, body) as process:
        assert process.wait(LONG) == 0
    assert lab.verbs("cameras")[:4] == INTERRUPTED[:4]
    (report,) = lab.args("cameras", "EXPINTERRUPT")
    assert report["message"] == "the program ended in the middle of the experiment"


def test_in_another_thread_than_the_main_one_the_signals_are_left_alone(lab: Lab, connect: Connect) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []
    aux = connect(lab.rig("cameras"))

    def record() -> None:
        with aux.experiment(REFERENCE):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=record)
    thread.start()
    thread.join(LONG)
    assert seen == [before]


# ------------------------------------------------------------------------------- while it begins, and at awkward times


def test_what_goes_wrong_while_another_rig_still_starts_is_seen(lab: Lab, connect: Connect) -> None:
    go = threading.Event()
    told: list[RigFailure] = []
    cameras = lab.rig("cameras")
    cameras.on("EXPSTART")(lambda *_: None)
    ephys = lab.rig("ephys", {"EXPSTART": lambda *_: go.wait(LONG) and None})
    aux = connect(cameras, ephys)
    seen = []
    aux.on("notice", lambda notice: seen.append(notice) if notice.topic == "failure" else None)

    def fail_early() -> None:
        until(lambda: cameras.status is ExpStatus.RUNNING)
        cameras.notify("failure", {"problem": "left.mp4 has stopped growing", "exp_ref": REFERENCE})
        until(lambda: seen)
        go.set()

    failing = threading.Thread(target=fail_early)
    failing.start()
    with aux.experiment(REFERENCE, on_failure=told.append) as session:
        failing.join(LONG)
        assert session.failures == {"cameras": "left.mp4 has stopped growing"}
        assert not session.ready.is_set()
        until(lambda: told)
        with pytest.raises(ExperimentError):
            session.check()
    assert len(told) == 1


def test_a_rig_that_is_lost_while_another_still_starts_is_seen(lab: Lab, connect: Connect) -> None:
    go = threading.Event()
    cameras, ephys = lab.rig("cameras"), lab.rig("ephys", {"EXPSTART": lambda *_: go.wait(LONG) and None})
    with relay_before({"cameras": ("127.0.0.1", int(cameras.uri.rpartition(":")[2]))}) as relays:
        host, port = relays["cameras"].address
        aux = connect(ephys, {"cameras": f"udp://{host}:{port}"})
        answered = threading.Event()
        aux.on(
            "MessageReceived",
            lambda event: answered.set() if (event.rig, event.event.name) == ("cameras", "EXPSTART") else None,
        )

        def lose() -> None:
            assert answered.wait(LONG)
            relays["cameras"].loss = 1.0
            until(lambda: aux.services and aux.services["cameras"].state.value == "lost")
            go.set()

        losing = threading.Thread(target=lose)
        losing.start()
        with aux.experiment(REFERENCE) as session:
            losing.join(LONG)
            with pytest.raises(ExperimentError, match="is lost"):
                session.check()
            relays["cameras"].loss = 0.0
            assert session.ready.wait(LONG)
            session.check()


def test_a_second_failure_of_another_kind_is_told_though_the_first_was(lab: Lab, connect: Connect) -> None:
    cameras = lab.rig("cameras")
    with relay_before({"cameras": ("127.0.0.1", int(cameras.uri.rpartition(":")[2]))}) as relays:
        host, port = relays["cameras"].address
        aux = connect({"cameras": f"udp://{host}:{port}"})

        def task() -> None:
            with aux.experiment(REFERENCE) as session:
                relays["cameras"].loss = 1.0
                until(lambda: session.failures)
                with pytest.raises(ExperimentError, match="is lost"):
                    session.check()
                relays["cameras"].loss = 0.0
                assert session.ready.wait(LONG)
                cameras.interrupt("the disk is full")
                until(lambda: session.failures)

        with pytest.raises(ExperimentError, match="the disk is full"):
            task()


def test_one_that_the_program_itself_stops_is_told_so(lab: Lab, connect: Connect) -> None:
    """As by a button of its window: nobody else has done it."""
    aux = connect(lab.rig("cameras"))
    with aux.experiment(REFERENCE) as session:
        aux.request("EXPINTERRUPT")
        until(lambda: session.failures)
        with pytest.raises(ExperimentError, match="this program sent EXPINTERRUPT while the experiment went on"):
            session.check()


@pytest.mark.parametrize("message", ["EXPSTART", "EXPEND"])
def test_one_that_is_out_of_reach_when_it_is_over_is_stopped_when_it_answers_again(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture, message: str
) -> None:
    """The program goes on, as one with a window does: no lease would end what is recorded."""
    cut_off = threading.Event()

    def start(*_: Any) -> None:
        if message == "EXPSTART" and not cut_off.is_set():
            relays["cameras"].loss_back = relays["cameras"].loss = 1.0
            cut_off.set()

    rig, other = lab.rig("cameras", {"EXPSTART": start}), lab.rig("ephys")
    with relay_before({"cameras": ("127.0.0.1", int(rig.uri.rpartition(":")[2]))}) as relays:
        host, port = relays["cameras"].address
        aux = connect({"cameras": f"udp://{host}:{port}"}, other, timing=EAGER)
        with (
            pytest.raises(ExperimentError, match="it is told again once it answers") as told,
            aux.experiment(REFERENCE),
        ):
            relays["cameras"].loss = 1.0
        assert told.value.stage == message
        assert rig.status is ExpStatus.RUNNING
        assert "cameras may go on recording" in caplog.text
        relays["cameras"].loss_back = relays["cameras"].loss = 0.0
        until(lambda: rig.status is ExpStatus.CONNECTED)
        assert lab.verbs("cameras") == INTERRUPTED
        assert "cameras answers again, and is told to stop" in caplog.text
        with aux.experiment(OTHER) as session:
            session.check()
    assert lab.verbs("ephys")[-5:] == WHOLE


def late_stop(aux: Auxiliaries, *rigs: str) -> LateStop:
    assert aux.services is not None
    said = compose("EXPINTERRUPT", {"error": "RigLost"}), compose("EXPCLEANUP")
    return LateStop(aux.services, aux.hub, rigs, REFERENCE, *said, 0.0)


@pytest.mark.parametrize("reference", [None, OTHER])
def test_what_such_a_rig_does_for_another_experiment_is_left_alone(
    lab: Lab, connect: Connect, reference: str | None
) -> None:
    aux = connect(lab.rig("cameras"), timing=EAGER)
    aux.request("EXPINIT", reference)
    aux.request("EXPSTART")
    late = late_stop(aux, "cameras")
    until(lambda: not late._tries)
    assert "EXPINTERRUPT" not in lab.verbs("cameras")


def test_such_a_rig_that_the_program_itself_commands_by_then_is_left_alone(lab: Lab, connect: Connect) -> None:
    aux = connect(lab.rig("cameras"), timing=EAGER)
    aux.hub.subscribe(ProbeAnswered, lambda _: None)
    aux.request("EXPINIT", REFERENCE)
    late = late_stop(aux)
    late._tries["cameras"] = 1
    late._note_answer(MessageReceived("cameras", ExpMessage.EXPSTART, [], 1.0))
    assert not late._tries


def test_one_that_answers_and_does_not_stop_is_not_told_for_ever(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()
    aux = connect(
        {"cameras": {"uri": lab.rig("cameras", {"EXPINTERRUPT": lambda *_: go.wait(LONG)}).uri, "timeout": 0.2}},
        timing=EAGER,
    )
    aux.request("EXPINIT", REFERENCE)
    late = late_stop(aux, "cameras")
    try:
        until(lambda: not late._tries)
        assert "cameras answers, but does not stop" in caplog.text
    finally:
        go.set()


def test_one_that_is_lost_again_and_again_before_it_hears_is_stopped_in_the_end(lab: Lab, connect: Connect) -> None:
    rig = lab.rig("cameras")
    with relay_before({"cameras": ("127.0.0.1", int(rig.uri.rpartition(":")[2]))}) as relays:
        host, port = relays["cameras"].address
        aux = connect({"cameras": f"udp://{host}:{port}"}, timing=Timing(beat=0.1, lost_grace=0.1))
        aux.request("EXPINIT", REFERENCE)
        failed: list[PushCompleted] = []

        def cut_off(_: ProbeAnswered) -> None:
            relays["cameras"].loss = float(len(failed) <= MOST_TRIES)

        def let_through(event: PushCompleted) -> None:
            if event.failures:
                failed.append(event)
            relays["cameras"].loss = 0.0

        aux.on("ProbeAnswered", cut_off)
        aux.on("PushCompleted", let_through)
        late_stop(aux, "cameras")
        until(lambda: rig.status is ExpStatus.CONNECTED)
        assert len(failed) > MOST_TRIES


def test_ctrl_c_while_another_cleans_up_leaves_none_that_is_out_of_reach_to_itself(
    lab: Lab, connect: Connect, gate: Gate
) -> None:
    rig, cleaning = lab.rig("ephys"), lab.rig("cameras", {"EXPCLEANUP": gate})
    with relay_before({"ephys": ("127.0.0.1", int(rig.uri.rpartition(":")[2]))}) as relays:
        host, port = relays["ephys"].address
        aux = connect({"ephys": f"udp://{host}:{port}"}, cleaning, timing=EAGER)
        with ctrl_c_at(gate, lab), aux.experiment(REFERENCE):
            relays["ephys"].loss = 1.0
            raise ValueError("the screen went black")
        assert rig.status is ExpStatus.RUNNING
        relays["ephys"].loss = 0.0
        until(lambda: rig.status is ExpStatus.CONNECTED)


def test_of_an_iblutil_rig_nobody_says_that_it_is_told_again(connect: Connect) -> None:
    with (
        IblutilServer("imaging") as imaging,
        relay_before({"imaging": ("127.0.0.1", imaging.port)}) as relays,
    ):
        host, port = relays["imaging"].address
        aux = connect({"imaging": f"udp://{host}:{port}"})
        with pytest.raises(ExperimentError) as told, aux.experiment(REFERENCE, timeout=2.0):
            relays["imaging"].loss = 1.0
        assert "EXPINTERRUPT failed" in told.value.outcomes["imaging"]
        assert "told again" not in told.value.outcomes["imaging"]


def test_a_generator_that_is_collected_on_the_service_thread_leaves_nothing_running(lab: Lab, connect: Connect) -> None:
    rig = lab.rig("cameras")
    aux = connect(rig, timing=EAGER)
    before = signal.getsignal(signal.SIGTERM)

    def trials() -> Iterator[int]:
        with aux.experiment(REFERENCE):
            yield 1

    running = trials()
    assert next(running) == 1
    held = [running]  # by one that is then let go of there
    del running
    aux.on("ProbeAnswered", lambda _: held.clear())
    until(lambda: rig.status is ExpStatus.CONNECTED)
    assert lab.verbs("cameras") == INTERRUPTED
    if (left := signal.getsignal(signal.SIGTERM)) is not before:  # which cannot be given back from there
        signal.signal(signal.SIGTERM, before)
        assert callable(left)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("error", [None, ValueError("the valve is stuck")])
def test_who_presses_ctrl_c_again_and_again_leaves_nothing_running(
    lab: Lab, connect: Connect, error: Exception | None
) -> None:
    interrupted, go = threading.Event(), threading.Event()
    rig = lab.rig("cameras", {"EXPINTERRUPT": lambda *_: interrupted.set() or (go.wait(LONG) and None)})
    aux = connect(rig)

    def press() -> None:
        interrupted.wait(LONG)
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # else the system makes one signal of them
        go.set()

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt), aux.experiment(REFERENCE):
        raise error or KeyboardInterrupt
    pressing.join(LONG)
    assert lab.verbs("cameras") == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@posix
def test_a_signal_while_an_inner_experiment_is_interrupted_waits_for_it(lab: Lab) -> None:
    interrupted, go = threading.Event(), threading.Event()
    outer = lab.rig("outer")
    inner = lab.rig("inner", {"EXPINTERRUPT": lambda *_: interrupted.set() or (go.wait(LONG) and None)})
    body = f"""
    with aux.experiment("{REFERENCE}", rigs="outer"):
        with aux.experiment("{OTHER}", rigs="inner"):
            raise ValueError("the valve is stuck")
    """
    with program({"outer": outer.uri, "inner": inner.uri}, body) as process:
        assert interrupted.wait(LONG)
        process.terminate()
        time.sleep(0.1)  # for the signal to be delivered; were it late, the test would pass all the same
        go.set()
        assert process.wait(LONG) == 128 + signal.SIGTERM
    assert lab.verbs("inner") == INTERRUPTED
    assert lab.verbs("outer") == INTERRUPTED
    assert lab.args("outer", "EXPINTERRUPT")[0]["error"] == "Terminated"


@posix
def test_a_handler_that_the_body_has_put_in_stays(lab: Lab, connect: Connect) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with connect(lab.rig("cameras")).experiment(REFERENCE):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_main_sync_tells_that_is_no_reference_is_refused_by_its_name(lab: Lab, connect: Connect) -> None:
    ephys = lab.rig("ephys", {"EXPINFO": lambda *_: {"exp_ref": [1, 2]}}, main_sync=True)
    with pytest.raises(ExperimentError, match="ephys") as told, connect(ephys).experiment(REFERENCE):
        pytest.fail("it has begun")
    assert told.value.stage == "EXPINFO"
    assert lab.verbs("ephys") == ["EXPINFO"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_that_leaves_the_experiment_does_not_end_it(lab: Lab) -> None:
    rig = lab.rig("cameras")
    body = f"""
    with aux.experiment("{REFERENCE}"):
        pid = os.fork()
        if not pid:
            sys.exit(3)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        say(len(aux.services["cameras"].progress))
        read_line()
    """
    with program({"cameras": rig.uri}, body) as process:
        assert process.stdout
        assert process.stdout.readline() == "3\n"
        assert rig.status is ExpStatus.RUNNING
        assert process.stdin
        process.stdin.close()
        assert process.wait(LONG) == 0
    assert lab.verbs("cameras") == WHOLE
