"""The rig's view of its coordinators, datagram by datagram (docs/protocol.md sections 1 to 4)."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync.core import legacy, messages
from rigsync.core.agenda import INTERRUPT_PATIENCE
from rigsync.core.arguments import compose, compose_command
from rigsync.core.coordinators import BEHIND, COORDINATORS, GONE, ONE_PACKET, RECORDS, WATCHERS, Standing
from rigsync.core.enums import PROTOCOL_VERSION, ExpMessage, ExpStatus
from rigsync.core.events import (
    EchoMissing,
    HandlerDue,
    HandlerOvertaken,
    LeaseExpired,
    MessageHandled,
    NoticesDropped,
    StatusChanged,
    ViolationSeen,
)
from rigsync.core.legacy import COORDINATOR_MARK, MOST, NULL_MESSAGE, RIG_MARK, Array
from rigsync.core.legacy_answers import REPEAT_WINDOW
from rigsync.core.messages import (
    MAX_DATAGRAM,
    Ack,
    Alive,
    Bye,
    Command,
    Failure,
    Message,
    Notice,
    Reply,
    decode,
)
from rigsync.core.notices import NoticeFilter
from rigsync.core.queries import CHECK, LEAD, QUERIES, WAITING, WAITING_BYTES
from rigsync.core.reach import CHALLENGES
from rigsync.core.responder import text_of
from rigsync.core.rigs import MAX_MESSAGE, Room
from rigsync.errors import PayloadTooLarge, RemoteProtocolError
from rigsync.rig.rules import log_rules

from .support import COORDINATOR, HERE, NAME, RIG, WALL, RigBench

REF = "2024-01-02_1_mouse"
OTHER = "2024-01-02_2_mouse"
OTHER_PORT = ("10.0.0.1", 50_777)
OTHER_HOST = ("10.0.0.9", 50_000)
CONNECTED, INITIALIZED, RUNNING, STOPPED = ExpStatus.__members__.values()
TAKEOVER = {"exp_ref": REF, "takeover": True}
LIFECYCLE = ("EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP")


# -------------------------------------------------------------------------------------------------- probes


def test_a_probe_is_answered_with_the_state_of_the_rig() -> None:
    bench = RigBench(version="0.1.0").enter("RUNNING")
    bench.now += 2.0
    bench.receive(messages.probe(COORDINATOR, 7, 123), ("10.0.0.1", 60_000))
    ((destination, data),) = bench.outbox
    assert destination == ("10.0.0.1", 60_000)
    stamp = WALL + 2_000_000_000
    assert decode(data) == Alive(RIG, 7, 123, stamp, stamp, NAME, RUNNING, REF, "0.1.0", "10.0.0.1", to=COORDINATOR)


def test_a_stranger_is_asked_whether_it_receives_by_turns_before_and_after_the_answer_to_its_probe() -> None:
    bench = RigBench(strangers=True)
    for n, kinds in ((1, [Alive, Notice]), (2, [Notice, Alive])):
        bench.rig.receive_datagram(messages.probe(COORDINATOR, n, 0, 500), HERE, bench.now)
        assert [type(decode(data)) for _, data in bench.rig.take_datagrams()] == kinds


def test_a_goodbye_is_sent_to_who_has_probed_within_5_beats() -> None:
    bench = RigBench()
    bench.receive(messages.probe("1" * 16, 1, 0), ("10.0.0.1", 1))
    bench.now += 3
    bench.receive(messages.probe("2" * 16, 1, 0), ("10.0.0.2", 2))
    bench.receive(messages.probe("3" * 16, 1, 0), ("10.0.0.3", 3))
    bench.receive(messages.bye("3" * 16, 2, "closing"), ("10.0.0.3", 3))
    bench.now += 4
    bench.outbox.clear()
    bench.rig.farewell(bench.now)
    ((destination, data),) = bench.rig.take_datagrams()
    assert destination == ("10.0.0.2", 2)
    assert decode(data) == Bye(RIG, 0, "the rig is closing", to="2" * 16)


def test_a_goodbye_in_another_s_name_means_nothing() -> None:
    bench = RigBench()
    bench.receive(messages.probe(COORDINATOR, 1, 0))
    bench.receive(messages.bye(COORDINATOR, 2, "closing"), OTHER_HOST)
    bench.rig.take_datagrams()
    bench.rig.farewell(bench.now)
    assert len(bench.rig.take_datagrams()) == 1


# ------------------------------------------------------------------------------------------------ requests


def test_a_request_without_a_handler_is_answered_at_once() -> None:
    bench = RigBench()
    bench.request("EXPINIT", {"exp_ref": REF})
    frame = bench.answer()
    assert isinstance(frame, Reply)
    assert (frame.boot, frame.n) == (RIG, 1)
    assert bench.agenda.status is INITIALIZED
    assert bench.run(1) is None
    assert bench.outbox == []


def test_a_handler_is_due_once_with_the_arguments() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", {"exp_ref": REF, "more": [1]})
    due = bench.due()
    assert (due.event, due.args) == (ExpMessage.EXPINIT, [{"exp_ref": REF, "more": [1]}])
    assert bench.outbox == []
    assert bench.agenda.status is CONNECTED  # it changes when the handler has succeeded
    bench.respond(due.task, {"frames": 3})
    frame = bench.answer()
    assert isinstance(frame, Reply)
    assert frame.args[0]["frames"] == 3
    assert bench.agenda.status is INITIALIZED


def test_a_reply_says_when_the_handler_ran() -> None:
    bench = RigBench("EXPINIT", "EXPEND")
    bench.request("EXPINIT")
    bench.now += 0.5
    bench.request("EXPEND")  # waits for the other
    bench.now += 0.5
    init, end = bench.due(), None
    bench.sent()
    bench.respond(init.task)
    end = bench.due()
    bench.now += 1
    bench.respond(end.task)
    first, second = bench.answers()
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert (first.started, first.finished) == (WALL, WALL + 1_000_000_000)
    assert (second.started, second.finished) == (WALL + 1_000_000_000, WALL + 2_000_000_000)


def test_handlers_may_be_assigned_later() -> None:
    bench = RigBench()
    bench.do("EXPINFO")
    bench.handled.add(ExpMessage.EXPINFO)
    bench.request("EXPINFO")
    assert bench.due().event is ExpMessage.EXPINFO


def test_an_answer_within_5_ms_is_not_acknowledged_first() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT")
    bench.run(0.0049)
    assert bench.outbox == []
    bench.respond(bench.due().task)
    assert isinstance(bench.answer(), Reply)
    bench.run(1)
    assert bench.outbox == []


def test_what_takes_longer_than_5_ms_is_acknowledged_once() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT")
    bench.run(0.005)
    assert bench.answer() == Ack(RIG, 1)
    bench.run(60)
    assert bench.outbox == []
    bench.respond(bench.due().task)
    assert isinstance(bench.answer(), Reply)


def test_what_waits_its_turn_is_acknowledged_too() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT")
    bench.request("EXPSTART")
    bench.run(0.005)
    assert bench.answers() == [Ack(RIG, 1), Ack(RIG, 2)]


def test_a_repeat_of_a_pending_request_is_acknowledged_at_once_and_not_run_again() -> None:
    bench = RigBench("EXPINIT")
    for _ in range(3):
        bench.request("EXPINIT", n=1)
    assert bench.answers() == [Ack(RIG, 1)] * 2
    assert len(bench.events(HandlerDue)) == 1


@pytest.mark.parametrize("ending", ["reply", "failure", "refusal"])
def test_a_repeat_of_a_finished_request_gets_the_stored_answer_byte_for_byte(ending: str) -> None:
    bench = RigBench("EXPINFO")
    bench.request("EXPSTART" if ending == "refusal" else "EXPINFO")
    for due in bench.events(HandlerDue):
        bench.respond(due.task, {"é": [1.5]}) if ending == "reply" else bench.fail(due.task, "OSError", "disk full")
    (first,) = bench.sent()
    bench.now += 100
    bench.handled.clear()
    bench.request("EXPSTART" if ending == "refusal" else "EXPINFO", n=1)
    assert bench.sent() == [first]
    assert bench.events(HandlerDue) == []


def test_the_answer_goes_to_where_the_last_repeat_came_from() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", n=1)
    bench.request("EXPINIT", n=1, source=OTHER_PORT)
    bench.sent()
    bench.respond(bench.due().task)
    assert [destination for destination, _ in bench.outbox] == [OTHER_PORT]


def test_a_request_that_was_overtaken_by_a_later_one_is_never_run() -> None:
    bench = RigBench("EXPSTART", "EXPEND").enter("INITIALIZED")
    bench.request("EXPEND", n=10)
    bench.respond(bench.due().task)
    bench.sent()
    bench.request("EXPSTART", n=9)  # was given up, lay in a queue of the network, and arrives now
    bench.run(1)
    assert bench.answer().error == "Overtaken"
    assert bench.events(HandlerDue) == []
    assert bench.rig.violations == {"overtaken request": 1}
    assert bench.events(ViolationSeen) == []


def test_two_coordinators_have_numbers_of_their_own() -> None:
    bench = RigBench("EXPINFO")
    bench.request("EXPINFO", n=5, boot="1" * 16)
    bench.request("EXPINFO", n=1, boot="2" * 16, source=OTHER_HOST)
    bench.request("EXPINFO", n=5, boot="2" * 16, source=OTHER_HOST)
    assert len(bench.events(HandlerDue)) == 3


def test_two_coordinators_on_one_host_are_two() -> None:
    bench = RigBench("EXPINFO")
    bench.request("EXPINFO", n=1, boot="1" * 16)
    bench.request("EXPINFO", n=1, boot="2" * 16)
    assert len(bench.events(HandlerDue)) == 2


def test_a_frame_in_the_name_of_a_coordinator_on_another_host_is_dropped_and_counted() -> None:
    bench = RigBench("EXPINFO")
    bench.request("EXPINFO", n=1)
    bench.events()
    for _ in range(2):
        bench.request("EXPINFO", n=2, source=OTHER_HOST)
        bench.receive(messages.probe(COORDINATOR, 1, 0), OTHER_HOST)
    assert bench.outbox == []
    assert bench.rig.violations == {"forged source": 4}
    (seen,) = bench.events()
    assert (seen.source, seen.kind) == ("10.0.0.9:50000", "forged source")
    assert "10.0.0.1" in seen.problem


def test_a_coordinator_whose_computer_has_another_address_goes_on_after_5_beats_of_silence() -> None:
    bench = RigBench("EXPINFO", "EXPSTART").enter("RUNNING")
    bench.run(4.9)
    bench.probe(COORDINATOR, OTHER_HOST)
    assert bench.rig.violations == {"forged source": 1}
    bench.run(0.2)
    bench.probe(COORDINATOR, OTHER_HOST)
    assert owner_of(bench) == OTHER_HOST[0]
    bench.request("EXPEND", source=OTHER_HOST)
    assert bench.agenda.status is STOPPED
    bench.probe(COORDINATOR)  # a straggler, or somebody who has listened
    assert bench.rig.violations == {"forged source": 2}


# ------------------------------------------------------------------------------------------ outcomes of handlers


def test_a_handler_that_fails_is_told_with_type_text_and_traceback_and_leaves_the_status() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    n = bench.request("EXPSTART")
    bench.fail(bench.due().task, "FileNotFoundError", "no disk D:", "Traceback ...")
    assert bench.answer() == Failure(RIG, n, "FileNotFoundError", "no disk D:", "Traceback ...")
    assert bench.agenda.status is INITIALIZED
    assert bench.events(StatusChanged) == []
    (handled,) = bench.events(MessageHandled)
    assert (handled.source, handled.event) == ("10.0.0.1:50000", ExpMessage.EXPSTART)
    assert handled.error == "FileNotFoundError: no disk D:"


def test_a_handler_that_failed_may_be_tried_again() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.request("EXPSTART")
    bench.fail(bench.due().task, "OSError")
    assert isinstance(bench.do("EXPSTART"), Reply)
    assert bench.agenda.status is RUNNING


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        ({"a": object()}, "PayloadError"),
        ({"a": b"bytes"}, "PayloadError"),
        ({(1, 2): 3}, "PayloadError"),
        ({"a": 1, 1: 2, "1": 3}, "PayloadError"),
        ({"a": 10**5000}, "PayloadError"),
        ({"a": {(10**5000,)}}, "PayloadError"),
        (cyclic(), "PayloadError"),
        ({"a": np.array([1j])}, "PayloadError"),
        ({"a": "x" * 70_000}, "PayloadTooLarge"),
        ({"a": "x" * 65_400}, "PayloadTooLarge"),
        ([1, 2], "TypeError"),
        ("text", "TypeError"),
        (0, "TypeError"),
        (False, "TypeError"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("event", ["EXPSTART", "EXPINFO"])
def test_a_result_that_cannot_be_sent_is_a_failure_and_leaves_the_status(event: str, returned: Any, error: str) -> None:
    bench = RigBench(event).enter("INITIALIZED")
    bench.request(event)
    bench.respond(bench.due().task, returned)
    frame = bench.answer()
    assert isinstance(frame, Failure)
    assert frame.error == error
    assert frame.message.startswith("the handlers' result cannot be sent: ")
    assert bench.agenda.status is INITIALIZED
    assert isinstance(bench.do("EXPEND"), Reply)  # nothing is stuck


def test_an_identity_that_cannot_be_sent_is_a_failure_and_no_crash() -> None:
    for description in (cyclic(), {"a": object()}, {"a": 10**5000}):
        bench = RigBench(experiment_description=description)
        frame = bench.do("EXPINIT")
        assert isinstance(frame, Failure)
        assert frame.error == "PayloadError"
        assert bench.agenda.status is CONNECTED


def test_rich_results_become_plain() -> None:
    bench = RigBench("EXPINFO")
    frame = bench.do("EXPINFO", returned={"n": np.int64(3), "frames": np.arange(2), 5: {1}})
    assert {key: frame.args[1][key] for key in ("n", "frames", "5")} == {"n": 3, "frames": [0, 1], "5": [1]}


def test_an_outcome_is_taken_once() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT")
    task = bench.due().task
    bench.respond(task)
    bench.sent()
    bench.respond(task)
    bench.fail(task, "OSError")
    bench.fail(12345, "OSError")
    assert bench.outbox == []


# -------------------------------------------------------------------------------------------------- lifecycle


@pytest.mark.parametrize(
    ("status", "event", "args", "after"),
    [
        ("CONNECTED", "EXPINIT", [{"exp_ref": REF}], "INITIALIZED"),
        ("INITIALIZED", "EXPINIT", [{"exp_ref": OTHER}], "INITIALIZED"),
        ("INITIALIZED", "EXPSTART", [REF], "RUNNING"),
        ("INITIALIZED", "EXPSTART", ["2024-01-02_001_mouse"], "RUNNING"),
        ("INITIALIZED", "EXPSTART", [{"date": "2024-01-02", "sequence": 1, "subject": "mouse"}], "RUNNING"),
        ("INITIALIZED", "EXPEND", [], "STOPPED"),
        ("INITIALIZED", "EXPINTERRUPT", [], "STOPPED"),
        ("INITIALIZED", "EXPCLEANUP", [], "CONNECTED"),
        ("RUNNING", "EXPEND", [], "STOPPED"),
        ("RUNNING", "EXPINTERRUPT", [], "STOPPED"),
        ("STOPPED", "EXPINIT", [{"exp_ref": REF}], "INITIALIZED"),
        ("STOPPED", "EXPCLEANUP", [], "CONNECTED"),
    ],
)
def test_a_message_runs_its_handler_and_leads_to_the_table_s_status(
    status: str, event: str, args: list[Any], after: str
) -> None:
    bench = RigBench().enter(status)
    bench.handled.add(ExpMessage[event])
    bench.request(event, *args)
    assert bench.agenda.status is ExpStatus[status]
    bench.respond(bench.due().task)
    assert isinstance(bench.answer(), Reply)
    assert bench.agenda.status is ExpStatus[after]


@pytest.mark.parametrize(
    ("status", "event", "args"),
    [
        ("CONNECTED", "EXPEND", []),
        ("CONNECTED", "EXPINTERRUPT", []),
        ("CONNECTED", "EXPCLEANUP", []),
        ("INITIALIZED", "EXPINIT", [REF]),
        ("RUNNING", "EXPINIT", [REF]),
        ("RUNNING", "EXPSTART", [REF]),
        ("RUNNING", "EXPSTART", []),
        ("STOPPED", "EXPEND", []),
        ("STOPPED", "EXPINTERRUPT", []),
    ],
)
def test_a_no_op_is_answered_without_running_the_handler(status: str, event: str, args: list[Any]) -> None:
    bench = RigBench().enter(status)
    bench.handled.update(ExpMessage[name] for name in LIFECYCLE)
    bench.request(event, *args)
    assert bench.events(HandlerDue) == []
    assert isinstance(bench.answer(), Reply)
    assert bench.agenda.status is ExpStatus[status]


@pytest.mark.parametrize(
    ("status", "event", "args", "text"),
    [
        (
            "CONNECTED",
            "EXPSTART",
            [REF],
            f"EXPSTART for {REF} refused: status is CONNECTED; allowed now: EXPINIT, EXPEND, EXPINTERRUPT, EXPCLEANUP; "
            f"to go on, type rigsync push EXPINIT {REF}, then rigsync push EXPSTART {REF}",
        ),
        (
            "RUNNING",
            "EXPCLEANUP",
            [],
            f"EXPCLEANUP refused: status is RUNNING of {REF}; "
            "allowed now: EXPINIT (same reference), EXPSTART (same reference), EXPEND, EXPINTERRUPT; "
            "to go on, type rigsync push EXPEND, then rigsync push EXPCLEANUP",
        ),
        (
            "RUNNING",
            "EXPINIT",
            [{"exp_ref": OTHER}],
            f"EXPINIT for {OTHER} refused: status is RUNNING of {REF}; "
            "allowed now: EXPINIT (same reference), EXPSTART (same reference), EXPEND, EXPINTERRUPT; "
            f"to go on, type rigsync push EXPEND, then rigsync push EXPINIT {OTHER}",
        ),
    ],
)
def test_a_refusal_is_a_state_error_and_runs_no_handler(status: str, event: str, args: list[Any], text: str) -> None:
    bench = RigBench().enter(status)
    bench.handled.update(ExpMessage[name] for name in LIFECYCLE)
    n = bench.request(event, *args)
    assert bench.events(HandlerDue) == []
    assert bench.answer() == Failure(RIG, n, "StateError", text, "")
    assert bench.agenda.status is ExpStatus[status]
    assert [event.error for event in bench.events(MessageHandled)] == [f"StateError: {text}"]


@pytest.mark.parametrize("event", ["EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"])
def test_a_no_op_answers_as_the_first_time_did(event: str) -> None:
    before = {"EXPINIT": "CONNECTED", "EXPSTART": "INITIALIZED", "EXPEND": "RUNNING", "EXPCLEANUP": "STOPPED"}
    bench = RigBench(event).enter(before[event])
    args = [{"exp_ref": REF}] if event == "EXPINIT" else []
    first = bench.do(event, *args, returned={"file": "a.raw"})
    bench.now += 5
    again = bench.do(event, *args)
    assert first.args == again.args
    assert again.args[-1]["file"] == "a.raw"
    assert again.n == first.n + 1


def test_a_no_op_never_answers_with_what_another_experiment_left() -> None:
    bench = RigBench("EXPEND").enter("RUNNING")
    bench.do("EXPEND", returned={"file": "first.raw"})
    bench.do("EXPCLEANUP")
    bench.do("EXPINIT", {"exp_ref": OTHER})
    bench.do("EXPINTERRUPT")
    assert "file" not in bench.do("EXPEND").args[0]


def of(bench: RigBench, reference: str) -> Any:
    """Return what is answered to an EXPEND of an experiment which another process of the rig has begun."""
    bench.request("EXPEND", of=reference)
    return bench.answer()


@pytest.mark.parametrize("status", ["CONNECTED", "STOPPED"])
@pytest.mark.parametrize("reference", [OTHER, ""])
def test_an_end_of_what_this_program_has_never_begun_is_no_success(status: str, reference: str) -> None:
    bench = RigBench("EXPEND").enter(status)
    refused = of(bench, reference)
    assert (type(refused), refused.error) == (Failure, "StateError")
    text = f"this program has recorded nothing of {reference or 'that experiment'}: it was started anew since that"
    assert refused.message.startswith(text)
    assert status in refused.message
    assert bench.events(HandlerDue) == []
    for event in ("EXPEND", "EXPINTERRUPT", "EXPCLEANUP"):  # which go as ever
        assert isinstance(bench.do(event), Reply)


def test_an_end_of_what_this_program_has_begun_is_a_success_also_when_it_is_over() -> None:
    bench = RigBench().enter("STOPPED")
    for reference in (REF, "2024-01-02_001_mouse"):
        assert isinstance(of(bench, reference), Reply)
    bench.do("EXPCLEANUP")
    assert isinstance(of(bench, REF), Reply)
    bench.do("EXPINIT")
    assert isinstance(of(bench, ""), Reply)


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING"])
def test_an_end_goes_before_what_it_was_meant_for(status: str) -> None:
    bench = RigBench("EXPEND").enter(status)
    bench.request("EXPEND", of=OTHER)
    bench.respond(bench.due().task)
    assert isinstance(bench.answer(), Reply)
    assert bench.agenda.status is STOPPED


def test_a_recording_that_is_over_and_has_failed_is_stopped_and_its_end_fails_again() -> None:
    bench = RigBench("EXPEND", "EXPINTERRUPT").enter("RUNNING")
    bench.request("EXPEND")
    bench.agenda.fail(bench.due().task, "EndedBadly", "ffmpeg crashed", "Traceback ...", bench.now, is_over=True)
    bench._collect()
    first = bench.answer()
    assert (first.error, first.message, first.traceback) == ("EndedBadly", "ffmpeg crashed", "Traceback ...")
    assert bench.agenda.status is STOPPED
    again = bench.do("EXPEND")
    assert (again.error, again.message) == (first.error, first.message)
    assert isinstance(bench.do("EXPINTERRUPT"), Reply)
    assert isinstance(bench.do("EXPCLEANUP"), Reply)
    assert isinstance(bench.do("EXPEND"), Reply)


@pytest.mark.parametrize("event", ["EXPINIT", "EXPSTART", "EXPCLEANUP"])
def test_no_other_message_than_the_end_is_over_where_it_fails(event: str) -> None:
    before = {"EXPINIT": "CONNECTED", "EXPSTART": "INITIALIZED", "EXPCLEANUP": "STOPPED"}[event]
    bench = RigBench(event).enter(before) if event == "EXPCLEANUP" else RigBench().enter(before)
    bench.handled.add(ExpMessage[event])
    bench.request(event)
    bench.agenda.fail(bench.due().task, "EndedBadly", "ffmpeg crashed", "", bench.now, is_over=True)
    assert bench.agenda.status is ExpStatus[before]


def test_an_expinit_without_a_reference_is_never_a_no_op() -> None:
    bench = RigBench("EXPINIT").enter("INITIALIZED", reference=None)
    bench.request("EXPINIT", {"other": "data"})
    assert bench.due().args == [{"other": "data"}]


@pytest.mark.parametrize(
    ("first", "second", "runs"),
    [
        ({"exp_ref": REF, "box": 4}, {"exp_ref": REF, "box": 4}, False),
        ({"exp_ref": REF, "box": 4}, {"exp_ref": REF, "box": 5}, True),
        ({"exp_ref": REF, "box": 4, "c": {"a": 1, "b": 2}}, {"c": {"b": 2, "a": 1}, "box": 4, "exp_ref": REF}, False),
        ({"exp_ref": REF, "box": 4}, {"exp_ref": REF}, True),
        ({"exp_ref": REF, "box": 4}, REF, True),
        ({"exp_ref": REF}, REF, False),
        (REF, {"exp_ref": "2024-01-02_001_mouse"}, False),
        ({"exp_ref": REF, "box": 4}, {"exp_ref": REF, "box": 5, "takeover": True}, False),
    ],
)
def test_expinit_again_with_other_data_prepares_anew(first: Any, second: Any, runs: bool) -> None:
    bench = RigBench("EXPINIT")
    bench.do("EXPINIT", first)
    bench.request("EXPINIT", second)
    assert [due.args for due in bench.events(HandlerDue)] == ([[second]] if runs else [])
    assert bench.agenda.status is INITIALIZED


def test_after_an_expinit_that_failed_the_one_before_prepares_anew() -> None:
    """The handlers may have set up box 5 in part."""
    bench = RigBench("EXPINIT")
    bench.do("EXPINIT", {"exp_ref": REF, "box": 4})
    bench.request("EXPINIT", {"exp_ref": REF, "box": 5})
    bench.agenda.fail(bench.due().task, "OSError", "box 5 is missing", "", bench.now)
    assert bench.agenda.status is INITIALIZED
    bench.request("EXPINIT", {"exp_ref": REF, "box": 4})
    bench.agenda.respond(bench.due().task, None, bench.now)
    bench.request("EXPINIT", {"exp_ref": REF, "box": 4})
    assert bench.events(HandlerDue) == []


def test_a_running_experiment_is_not_prepared_anew() -> None:
    bench = RigBench("EXPINIT").enter("RUNNING")
    bench.request("EXPINIT", {"exp_ref": REF, "box": 5})
    assert bench.events(HandlerDue) == []


def test_changes_of_status_are_told_with_the_reference() -> None:
    bench = RigBench()
    told = []
    for event, args in [
        ("EXPINIT", [{"exp_ref": REF}]),
        ("EXPSTART", []),
        ("EXPSTART", []),
        ("EXPEND", []),
        ("EXPCLEANUP", []),
    ]:
        bench.do(event, *args)
        told += bench.events(StatusChanged)
    assert told == [
        StatusChanged(CONNECTED, INITIALIZED, REF),
        StatusChanged(INITIALIZED, RUNNING, REF),
        StatusChanged(RUNNING, STOPPED, REF),
        StatusChanged(STOPPED, CONNECTED, None),
    ]


def test_expstart_gives_the_reference_where_expinit_gave_none() -> None:
    bench = RigBench().enter("INITIALIZED", reference=None)
    assert bench.agenda.exp_ref is None
    bench.do("EXPSTART", REF)
    assert bench.agenda.exp_ref == REF
    assert isinstance(bench.do("EXPSTART", OTHER), Failure)


def test_another_experiment_s_expinit_changes_the_reference() -> None:
    bench = RigBench().enter("INITIALIZED")
    bench.do("EXPINIT", {"exp_ref": OTHER})
    assert bench.agenda.exp_ref == OTHER


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "reference", [5, [REF], {"date": "2024-01-02"}, {"date": 1, "sequence": 1e999, "subject": 1}, True]
)
def test_a_reference_that_is_none_is_a_failure_and_nothing_is_stuck(reference: Any) -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.receive(messages.request(COORDINATOR, 10, Message.of(ExpMessage.EXPSTART, [reference, None])))
    frame = bench.answer()
    assert isinstance(frame, Failure)
    assert frame.error == "ValueError"
    assert bench.events(HandlerDue) == []
    bench.request("EXPSTART", n=11)
    assert bench.due().event is ExpMessage.EXPSTART


def test_lifecycle_messages_are_handled_one_after_the_other() -> None:
    bench = RigBench("EXPINIT", "EXPSTART", "EXPEND")
    for event in ("EXPINIT", "EXPSTART", "EXPEND"):
        bench.request(event)
    for event in (ExpMessage.EXPINIT, ExpMessage.EXPSTART, ExpMessage.EXPEND):
        due = bench.due()
        assert due.event is event
        bench.respond(due.task)
    assert [frame.n for frame in bench.answers() if isinstance(frame, Reply)] == [1, 2, 3]
    assert bench.agenda.status is STOPPED


def test_questions_are_answered_while_a_handler_runs() -> None:
    bench = RigBench("EXPINIT", "EXPINFO")
    bench.request("EXPINIT")
    bench.events()
    assert bench.do("EXPSTATUS").args == [0]
    assert isinstance(bench.do("EXPINFO"), Reply)


@pytest.mark.parametrize("status", ["CONNECTED", "INITIALIZED", "RUNNING", "STOPPED"])
@pytest.mark.parametrize("event", ["EXPINFO", "EXPSTATUS", "ALYX"])
def test_questions_are_answered_in_every_status_and_change_none(status: str, event: str) -> None:
    bench = RigBench(event).enter(status)
    for _ in range(2):
        bench.request(event)
        bench.respond(bench.due().task)
        assert isinstance(bench.answer(), Reply)
    assert bench.agenda.status is ExpStatus[status]
    assert bench.events(StatusChanged) == []


# ------------------------------------------------------------------------------------------------ EXPINTERRUPT


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING"])
def test_an_interrupt_whose_handler_fails_still_ends_stopped(status: str) -> None:
    bench = RigBench("EXPINTERRUPT").enter(status)
    n = bench.request("EXPINTERRUPT")
    bench.fail(bench.due().task, "OSError", "motor stuck")
    assert bench.answer() == Failure(RIG, n, "OSError", "motor stuck", "")
    assert (bench.agenda.status, bench.agenda.exp_ref) == (STOPPED, REF)


@pytest.mark.parametrize("returned", [{"a": object()}, [1], {"a": "x" * 70_000}], ids=["object", "list", "too large"])
def test_an_interrupt_whose_result_cannot_be_sent_still_ends_stopped(returned: Any) -> None:
    bench = RigBench("EXPINTERRUPT").enter("RUNNING")
    bench.request("EXPINTERRUPT")
    bench.respond(bench.due().task, returned)
    assert isinstance(bench.answer(), Failure)
    assert bench.agenda.status is STOPPED


@pytest.mark.parametrize(
    ("status", "running"),
    [("CONNECTED", "EXPINIT"), ("INITIALIZED", "EXPSTART"), ("RUNNING", "EXPEND"), ("STOPPED", "EXPCLEANUP")],
)
@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_an_interrupt_runs_while_another_handler_runs_and_ends_stopped(status: str, running: str, outcome: str) -> None:
    bench = RigBench(running, "EXPINTERRUPT").enter(status)
    overtaken_n = bench.request(running)
    overtaken = bench.due()
    n = bench.request("EXPINTERRUPT")
    assert bench.events(HandlerOvertaken) == [HandlerOvertaken(overtaken.task, ExpMessage[running])]
    text = f"EXPINTERRUPT overtook {running}"
    assert bench.answer() == Failure(RIG, overtaken_n, "Interrupted", text, "")
    due = bench.due()
    assert due.event is ExpMessage.EXPINTERRUPT
    bench.respond(due.task) if outcome == "success" else bench.fail(due.task, "OSError")
    assert bench.answer().n == n
    assert bench.agenda.status is STOPPED
    bench.events()
    # What the overtaken handler says in the end is dropped.
    bench.respond(overtaken.task, {"late": True})
    assert (bench.outbox, bench.told) == ([], [])
    assert bench.agenda.status is STOPPED
    assert isinstance(bench.do("EXPINFO"), Reply)


def test_the_late_outcome_of_an_overtaken_handler_is_dropped_while_the_interrupt_still_runs() -> None:
    bench = RigBench("EXPSTART", "EXPINTERRUPT").enter("INITIALIZED")
    bench.request("EXPSTART")
    start = bench.due()
    bench.request("EXPINTERRUPT")
    interrupt = bench.due()
    bench.sent()
    bench.fail(start.task, "OSError", "aborted")
    assert bench.outbox == []
    assert bench.agenda.status is INITIALIZED
    bench.respond(interrupt.task)
    assert isinstance(bench.answer(), Reply)
    assert bench.agenda.status is STOPPED


def test_an_interrupt_without_a_handler_overtakes_as_well() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT")
    bench.request("EXPINTERRUPT")
    assert [type(frame) for frame in bench.answers()] == [Failure, Reply]
    assert bench.agenda.status is STOPPED


def test_an_interrupt_overtakes_what_waits_its_turn() -> None:
    bench = RigBench("EXPINIT", "EXPSTART", "EXPINTERRUPT")
    for event in ("EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT"):
        bench.request(event)
    assert [(frame.n, frame.error) for frame in bench.answers()] == [  # type: ignore[union-attr]
        (1, "Interrupted"),
        (2, "Interrupted"),
        (3, "Interrupted"),
    ]
    assert [due.event for due in bench.events(HandlerDue)] == [ExpMessage.EXPINIT, ExpMessage.EXPINTERRUPT]


def test_an_overtaken_request_that_is_repeated_gets_its_stored_failure() -> None:
    bench = RigBench("EXPINIT", "EXPINTERRUPT")
    bench.request("EXPINIT", n=1)
    bench.request("EXPINTERRUPT", n=2)
    first = bench.sent()[0]
    bench.events()
    bench.request("EXPINIT", n=1)
    assert bench.sent() == [first]
    assert bench.events(HandlerDue) == []


def test_a_second_interrupt_waits_for_the_first_and_answers_as_it_did() -> None:
    bench = RigBench("EXPINTERRUPT").enter("RUNNING")
    bench.request("EXPINTERRUPT", n=50)
    bench.request("EXPINTERRUPT", n=51)
    assert bench.events(HandlerOvertaken) == []
    due = bench.due()
    bench.respond(due.task, {"stopped": 1})
    first, second = bench.answers()
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert (first.n, second.n) == (50, 51)
    assert second.args == first.args
    assert bench.events(HandlerDue) == []


def test_a_flood_of_interrupts_is_refused_beyond_what_may_wait() -> None:
    bench = RigBench("EXPINTERRUPT").enter("RUNNING")
    for _ in range(1 + WAITING + 10):
        bench.request("EXPINTERRUPT")
    assert [frame.error for frame in bench.answers()] == ["Busy"] * 10
    bench.respond(bench.due().task)
    assert [type(frame) for frame in bench.answers()] == [Reply] * (1 + WAITING)
    assert bench.agenda.status is STOPPED


def test_what_comes_while_an_interrupt_runs_waits_for_it() -> None:
    bench = RigBench("EXPINTERRUPT", "EXPCLEANUP").enter("RUNNING")
    bench.request("EXPINTERRUPT")
    interrupt = bench.due()
    bench.request("EXPCLEANUP")
    assert bench.events(HandlerDue) == []
    bench.respond(interrupt.task)
    assert bench.due().event is ExpMessage.EXPCLEANUP  # allowed in STOPPED


def test_an_interrupt_leaves_questions_alone() -> None:
    bench = RigBench("EXPINFO", "EXPINTERRUPT").enter("RUNNING")
    n = bench.request("EXPINFO")
    question = bench.due()
    bench.do("EXPINTERRUPT")
    bench.respond(question.task)
    assert bench.answer().n == n


# ----------------------------------------------------------------------------------- what stands where in answers


def expected_info(bench: RigBench, status: ExpStatus, **returned: Any) -> dict[str, Any]:
    return {
        "exp_ref": bench.agenda.exp_ref,
        "main_sync": True,
        "experiment_description": {"devices": {"cameras": {"left": {}}}},
        "master": False,
        "rig_version": "0.1.0",
        "spec_version": PROTOCOL_VERSION,
        "status": int(status),
        **returned,
    }


def rig_with_identity(*handled: str) -> RigBench:
    return RigBench(
        *handled, main_sync=True, experiment_description={"devices": {"cameras": {"left": {}}}}, version="0.1.0"
    )


@pytest.mark.parametrize("dialect", ["rigsync", "iblutil"])
@pytest.mark.parametrize(
    ("status", "event", "after", "before_info"),
    [
        ("CONNECTED", "EXPINIT", INITIALIZED, []),
        ("INITIALIZED", "EXPSTART", RUNNING, [REF]),
        ("RUNNING", "EXPEND", STOPPED, []),
        ("RUNNING", "EXPINTERRUPT", STOPPED, []),
        ("STOPPED", "EXPCLEANUP", CONNECTED, []),
        ("RUNNING", "EXPINFO", RUNNING, [20]),
    ],
)
def test_answers_have_iblrig_s_information_where_its_task_code_looks(
    dialect: str, status: str, event: str, after: ExpStatus, before_info: list[Any]
) -> None:
    bench = rig_with_identity(event).enter(status, dialect=dialect)
    args = [{"exp_ref": REF}] if event == "EXPINIT" else []
    if dialect == "rigsync":
        frame = bench.do(event, *args, returned={"frames": 7})
        answer = frame.args
    else:
        bench.array(ExpMessage[event], *(args or [None]))
        bench.respond(bench.due().task, {"frames": 7})
        _, frame = bench.answers()
        assert isinstance(frame, Array)
        assert frame.event is ExpMessage[event]
        answer = frame.args
    assert answer == [*before_info, expected_info(bench, after, frames=7)]
    json.dumps(answer)


def test_a_status_is_answered_by_its_number() -> None:
    assert rig_with_identity().enter("RUNNING").do("EXPSTATUS").args == [20]


def test_what_handlers_return_goes_over_what_the_rig_says_of_itself() -> None:
    bench = rig_with_identity("EXPINFO").enter("RUNNING")
    answer = bench.do("EXPINFO", returned={"exp_ref": "x", "experiment_description": {}}).args
    assert answer == [20, expected_info(bench, RUNNING, exp_ref="x", experiment_description={})]


@pytest.mark.parametrize(
    ("returned", "args"),
    [
        (None, [None, {}]),
        (("https://alyx", {"ana": {"token": "t"}}), ["https://alyx", {"ana": {"token": "t"}}]),
        (["https://alyx", {}], ["https://alyx", {}]),
    ],
)
def test_alyx_is_answered_with_an_address_and_a_token(returned: Any, args: list[Any]) -> None:
    assert RigBench("ALYX").do("ALYX", returned=returned).args == args


@pytest.mark.parametrize("returned", [5, "token", (1, 2, 3), {"a": 1}], ids=str)
def test_alyx_with_anything_else_is_a_failure(returned: Any) -> None:
    frame = RigBench("ALYX").do("ALYX", returned=returned)
    assert isinstance(frame, Failure)
    assert frame.error == "TypeError"


# ---------------------------------------------------------------------------------------------- iblutil dialect


def test_an_array_is_echoed_first_and_answered_then() -> None:
    bench = RigBench("EXPINFO")
    data = bench.array(ExpMessage.EXPINFO, 0, None)
    assert bench.sent() == [data]
    bench.respond(bench.due().task, {"a": 1})
    (answer,) = bench.sent()
    assert legacy.has_mark(answer, RIG_MARK)
    assert answer.startswith(b"[64,0,{")


def test_an_array_without_a_handler_is_echoed_and_answered_at_once() -> None:
    bench = RigBench()
    data = bench.array(ExpMessage.EXPSTATUS, 0)
    assert bench.sent() == [data, b"[32,0\t]"]


DETAILS = {"error": "ValueError", "message": "the valve is stuck"}


@pytest.mark.parametrize("event", ["EXPEND", "EXPINTERRUPT"])
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([[DETAILS]], [DETAILS]),  # as iblrig's coordinator writes it
        ([DETAILS], [DETAILS]),  # as rigsync's does
        ([[]], [None]),  # iblrig, without data
        ([None], [None]),
        ([[1, 2]], [[1, 2]]),
        ([["text"]], ["text"]),
    ],
)
def test_a_handler_gets_one_form_whoever_sends(event: str, written: list[Any], expected: list[Any]) -> None:
    bench = RigBench(event).enter("RUNNING", dialect="iblutil")
    echo = bench.array(ExpMessage[event], *written)
    assert bench.sent()[0] == echo
    assert bench.due().args == expected


def test_what_rigsync_s_own_coordinator_sends_is_as_it_was_pushed() -> None:
    bench = RigBench("EXPEND").enter("RUNNING", dialect="iblutil")
    bench.receive(legacy.array(compose("EXPEND", [DETAILS]), legacy.COORDINATOR_MARK))
    assert bench.due().args == [[DETAILS]]
    bench = RigBench("EXPINIT")
    bench.array(ExpMessage.EXPINIT, [DETAILS])  # of which iblrig makes no list
    assert bench.due().args == [[DETAILS]]


def test_the_echo_of_a_rigsync_coordinator_s_array_keeps_its_mark() -> None:
    bench = RigBench()
    data = legacy.array(compose("EXPSTATUS"), COORDINATOR_MARK)
    bench.receive(data)
    assert bench.sent() == [data, b"[32,0\t]"]


def test_the_next_answer_waits_for_the_echo_of_the_last() -> None:
    bench = RigBench()
    echoes = [bench.array(ExpMessage.EXPSTATUS, i) for i in range(3)]
    first = b"[32,0\t]"
    assert bench.sent() == [echoes[0], first, echoes[1], echoes[2]]
    bench.receive(first)
    assert bench.sent() == [first]  # the second answer, of the same content
    bench.receive(first)
    assert bench.sent() == [first]
    bench.receive(first)
    bench.receive(first)
    assert bench.sent() == []
    assert bench.events(EchoMissing) == []


def test_answers_to_different_coordinators_do_not_wait_for_each_other() -> None:
    bench = RigBench()
    bench.array(ExpMessage.EXPSTATUS, 0)
    bench.array(ExpMessage.EXPSTATUS, 0, source=OTHER_PORT)
    bench.array(ExpMessage.EXPSTATUS, 0, source=OTHER_HOST)
    answers = [destination for destination, data in bench.outbox if legacy.has_mark(data, RIG_MARK)]
    assert answers == [HERE, OTHER_PORT, OTHER_HOST]


def test_a_missing_echo_is_told_after_1_s_and_the_rig_stays_up() -> None:
    bench = RigBench()
    bench.array(ExpMessage.EXPSTATUS, 0)
    bench.array(ExpMessage.EXPINFO, 0, None)
    bench.sent()
    bench.run(0.999)
    assert bench.events(EchoMissing) == []
    bench.run(0.001)
    assert bench.events(EchoMissing) == [EchoMissing("10.0.0.1:50000", ExpMessage.EXPSTATUS)]
    (answer,) = bench.sent()
    assert answer.startswith(b"[64,0,")  # the next in the queue
    bench.run(1)
    assert len(bench.events(EchoMissing)) == 1
    bench.run(10)
    assert bench.outbox == []
    bench.array(ExpMessage.EXPSTATUS, 0)
    assert len(bench.sent()) == 2


def test_a_late_echo_of_an_answer_is_no_message() -> None:
    bench = RigBench("EXPINFO")
    bench.array(ExpMessage.EXPINFO, 0, None)
    bench.respond(bench.due().task)
    answer = bench.sent()[-1]
    bench.run(2)
    for _ in range(2):
        bench.receive(answer)
    assert bench.outbox == []
    assert bench.events(HandlerDue) == []
    assert bench.rig.violations == {}


def test_a_late_echo_does_not_stand_for_that_of_the_next_answer() -> None:
    bench = RigBench("EXPINFO")
    for number in range(2):
        bench.array(ExpMessage.EXPINFO, 0, number)
        bench.respond(bench.due().task, {"number": number})
    first = bench.sent()[1]
    bench.run(1.5)
    second = bench.sent()[-1]
    bench.receive(first)
    bench.run(1)
    assert second != first
    assert len(bench.events(EchoMissing)) == 2


def test_a_failed_handler_is_told_as_iblutil_tells_it() -> None:
    bench = RigBench("EXPINFO")
    data = bench.array(ExpMessage.EXPINFO, 0, None)
    bench.fail(bench.due().task, "OSError", "disk full", "Traceback ...")
    assert bench.sent() == [data, b'[0,"OSError: disk full",64]']
    bench.run(2)
    assert bench.events(EchoMissing) == []  # it is not echoed


def test_a_refusal_is_told_as_iblutil_tells_a_failed_callback() -> None:
    bench = RigBench()
    bench.array(ExpMessage.EXPSTART, REF, None)
    _, failure = bench.answers()
    assert isinstance(failure, Array)
    assert failure.event == NULL_MESSAGE
    assert failure.args[0].startswith(f"StateError: EXPSTART for {REF} refused: status is CONNECTED")
    assert failure.args[1] is ExpMessage.EXPSTART


def test_a_token_that_is_handed_over_is_echoed_and_not_answered() -> None:
    bench = RigBench("ALYX")
    data = bench.array(ExpMessage.ALYX, "https://alyx", {"ana": {"token": "SECRET"}})
    due = bench.due()
    assert due.args == ["https://alyx", {"ana": {"token": "SECRET"}}]
    bench.respond(due.task)
    assert bench.sent() == [data]
    assert "SECRET" not in repr(due) + repr(bench.told)


@pytest.mark.parametrize("args", [[None, {}], ["https://alyx", {}], [None, None], []])
def test_a_token_that_is_asked_for_is_answered(args: list[Any]) -> None:
    bench = RigBench("ALYX")
    data = bench.array(ExpMessage.ALYX, *args)
    bench.respond(bench.due().task, ("https://alyx", {"ana": "t"}))
    assert bench.sent() == [data, b'[128,"https://alyx",{"ana":"t"}\t]']


def test_a_token_over_the_rigsync_dialect_is_answered_as_every_request() -> None:
    bench = RigBench("ALYX")
    bench.receive(messages.request(COORDINATOR, 1, Message.of(ExpMessage.ALYX, ["https://alyx", {"ana": "t"}])))
    bench.respond(bench.due().task)
    assert isinstance(bench.answer(), Reply)


def test_the_complaint_of_a_coordinator_is_reported_and_not_echoed() -> None:
    bench = RigBench()
    bench.array(ExpMessage(0), "KeyError: x", 64)
    assert bench.outbox == []
    (seen,) = bench.events(ViolationSeen)
    assert seen.kind == "remote error"
    assert "EXPINFO failed: KeyError: x" in seen.problem


def test_an_interrupt_in_the_iblutil_dialect_overtakes_as_well() -> None:
    bench = RigBench("EXPSTART", "EXPINTERRUPT").enter("INITIALIZED", dialect="iblutil")
    bench.array(ExpMessage.EXPSTART, None, None)
    start = bench.due()
    bench.array(ExpMessage.EXPINTERRUPT, None)
    bench.respond(bench.due().task)
    bench.respond(start.task)
    sent = bench.answers()
    assert [(frame.event, len(frame.args)) for frame in sent if isinstance(frame, Array)] == [
        (ExpMessage.EXPSTART, 2),
        (ExpMessage.EXPINTERRUPT, 1),
        (NULL_MESSAGE, 2),
        (ExpMessage.EXPINTERRUPT, 1),
    ]
    assert bench.agenda.status is STOPPED


def test_each_coordinator_is_answered_in_its_own_dialect() -> None:
    bench = RigBench()
    bench.array(ExpMessage.EXPSTATUS, 0, source=OTHER_PORT)
    bench.request("EXPSTATUS")
    kinds = [(destination, type(decode(data))) for destination, data in bench.outbox]
    assert kinds == [(OTHER_PORT, Array), (OTHER_PORT, Array), (HERE, Reply)]


def test_an_exchange_of_echoes_is_broken_off() -> None:
    bench = RigBench()
    echoes = 0
    for _ in range(MOST + 3):
        bench.receive(b"[32,0]")
        sent = bench.sent()
        echoes += sent.count(b"[32,0]")
        for answer in sent[1:]:
            bench.receive(answer)
    assert echoes == MOST
    assert bench.rig.violations["echo loop"] == 3


# ------------------------------------------------------------------------------------------------------- junk


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"hello", "junk"),
        (b"[1", "not JSON"),
        (b"[]", "empty array"),
        (b"{}", "foreign version"),
        (messages.reply(COORDINATOR, 1, Message.of(ExpMessage.EXPEND, []), 0, 0), "stray frame"),
        (messages.failure(COORDINATOR, 1, "", "", ""), "stray frame"),
        (messages.alive(Alive(COORDINATOR, 1, 0, 0, 0, "", CONNECTED, None, "")), "stray frame"),
    ],
)
def test_junk_is_counted_and_told_once_per_host_and_kind(data: bytes, kind: str) -> None:
    bench = RigBench()
    for source in (HERE, OTHER_PORT, HERE):
        bench.receive(data, source)
    bench.receive(data, OTHER_HOST)
    assert bench.rig.violations == {kind: 4}
    assert [(seen.source, seen.kind) for seen in bench.events(ViolationSeen)] == [
        ("10.0.0.1:50000", kind),
        ("10.0.0.9:50000", kind),
    ]
    assert bench.outbox == []
    assert isinstance(bench.do("EXPINFO"), Reply)


def test_an_ack_from_a_coordinator_is_no_violation() -> None:
    bench = RigBench()
    bench.receive(messages.ack(COORDINATOR, 1))
    assert (bench.outbox, bench.told, bench.rig.violations) == ([], [], {})


def bomb(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def deepest() -> int:
    """Return how deep an array may be nested for the decoder to read it, which depends on Python and on the stack."""
    low, high = 1, 32_000
    while low < high:
        middle = (low + high + 1) // 2
        try:
            decode(b"[1," + bomb(middle) + b"]")
            low = middle
        except RemoteProtocolError:
            high = middle - 1
    return low


@pytest.mark.parametrize("frame", ["array", "request", "date", "subject"])
def test_no_depth_of_nesting_gets_through_to_the_caller_as_an_error(frame: str) -> None:
    limit = deepest()
    for depth in (70, 300, *range(limit - 40, limit + 5)):
        bench = RigBench().enter("INITIALIZED")
        if frame == "array":
            bench.receive(b"[2," + bomb(depth) + b",null]")
        elif frame == "request":
            request = messages.request(COORDINATOR, 10, compose("EXPSTART"))
            bench.receive(request.replace(b"[null", b"[" + bomb(depth)))
        else:
            parts = {"date": b"1", "subject": b"1"} | {frame: bomb(depth)}
            reference = b'{"date":%(date)b,"sequence":1,"subject":%(subject)b}'
            bench.receive(b'[1,{"exp_ref":' + reference % {key.encode(): part for key, part in parts.items()} + b"}]")
        bench.outbox.clear()
        bench.n = 20
        assert isinstance(bench.do("EXPINFO"), Reply)


AHEAD = st.none() | st.sampled_from([-1.0, 0.0, 0.5, 3.0, 4000.0])


def request_bytes(event: str, n: int, boot: str, to: str, ahead: float | None) -> bytes:
    at = None if ahead is None else WALL + round(ahead * 1e9)
    args = [TAKEOVER] if event == "EXPINIT" and n == 7 else []
    return messages.request(boot * 16, n, compose(event, *args), to * 16, at)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                request_bytes,
                st.sampled_from(list(ExpMessage.__members__)),
                st.integers(0, 30),
                st.sampled_from("12"),
                st.sampled_from("aaab"),
                AHEAD,
            ),
            st.builds(lambda event: b"[%d,null]" % event, st.sampled_from(list(ExpMessage.__members__.values()))),
            st.sampled_from([b"[32,0\t]", *(messages.probe(boot * 16, 1, 0) for boot in "12")]),
            st.sampled_from([messages.bye(boot * 16, 1, "") for boot in "12"]),
            st.builds(lambda n: messages.ack("1" * 16, n), st.integers(0, 9)),
            st.tuples(st.sampled_from(["respond", "fail", "run", "unknown", "notify"]), st.integers(0, 30)),
        ),
        max_size=40,
    ),
    st.sets(st.sampled_from(list(ExpMessage.__members__))),
)
@settings(deadline=None, max_examples=400)
def test_whatever_comes_each_request_runs_at_most_once_and_nothing_spins(steps: list[Any], handled: set[str]) -> None:
    bench = RigBench(*handled, lease=2.0)
    requests: set[tuple[str, int]] = set()
    open_tasks: list[HandlerDue] = []
    arrays = ran = leases = 0

    def settle(due: HandlerDue, succeeds: bool) -> int:
        """Do as the shell does: wait for the instant, and enter the handlers unless they were called off."""
        if due.schedule:
            bench.run(max(0.0, due.schedule.instant - bench.now))
        entered = not due.schedule or due.schedule.take()
        if not entered or succeeds:
            bench.respond(due.task, {"a": 1})
        else:
            bench.fail(due.task, "OSError")
        return entered

    for step in steps:
        if isinstance(step, bytes):
            bench.receive(step)
            if step.startswith(b'{"rigsync":1,"kind":"request"'):
                frame = decode(step)
                requests.add((frame.boot, frame.n))  # type: ignore[union-attr]
            arrays += step.startswith(b"[") and not step.endswith(b"\t]")
        elif step[0] == "run":
            bench.run(step[1] / 10)  # asserts that each timer is later than the last
        elif step[0] == "notify":
            notify(bench, step[1], confirm=step[1] % 2 == 0)
        elif step[0] == "unknown":
            bench.respond(10**6 + step[1])
            bench.fail(10**6 + step[1], "OSError")
        elif open_tasks:
            ran += settle(open_tasks.pop(step[1] % len(open_tasks)), step[0] == "respond")
        open_tasks += bench.events(HandlerDue)
    for _ in range(200):  # in the end nothing is stuck
        bench.run(40.0)
        open_tasks += bench.events(HandlerDue)
        while open_tasks:
            ran += settle(open_tasks.pop(0), True)
            open_tasks += bench.events(HandlerDue)
    leases = len(bench.events(LeaseExpired))
    assert ran <= len(requests) + arrays + leases
    assert bench.agenda.tasks == {}
    assert bench.agenda.running is None
    assert not bench.agenda._waiting
    assert not bench.agenda._queries.waiting
    assert not bench.agenda._queries.running
    assert bench.agenda._timed == []


# ------------------------------------------------------------------------------------------------------ bounds


def test_the_newest_256_answers_are_kept() -> None:
    bench = RigBench()
    for _ in range(RECORDS + 10):
        bench.request("EXPSTATUS")
    bench.sent()
    assert RECORDS == 256
    bench.request("EXPSTATUS", n=11)
    assert isinstance(bench.answer(), Reply)
    bench.request("EXPSTATUS", n=10)
    assert bench.answer().error == "Overtaken"
    assert bench.rig.violations == {"overtaken request": 1}


def test_a_request_that_is_pending_is_never_forgotten() -> None:
    bench = RigBench("EXPINFO")
    bench.request("EXPINFO")
    for _ in range(2 * RECORDS):
        bench.request("EXPSTATUS")
    bench.sent()
    bench.request("EXPINFO", n=1)
    assert bench.answer() == Ack(RIG, 1)
    bench.respond(bench.due().task)
    assert bench.answer().n == 1


def test_more_than_8_questions_at_a_time_wait_their_turn() -> None:
    bench = RigBench("EXPINFO")
    for _ in range(QUERIES + 2):
        bench.request("EXPINFO")
    first = bench.events(HandlerDue)
    assert QUERIES == len(first) == 8
    bench.respond(first[0].task)
    (ninth,) = bench.events(HandlerDue)
    bench.fail(ninth.task, "OSError")
    assert len(bench.events(HandlerDue)) == 1
    assert bench.do("EXPSTATUS").args == [0]  # what has no handler waits for none


@pytest.mark.parametrize("event", ["EXPINFO", "EXPEND"])
def test_what_does_not_fit_into_the_queue_is_refused_as_busy(event: str) -> None:
    bench = RigBench(event).enter("RUNNING")
    accepted = WAITING + (QUERIES if event == "EXPINFO" else 1)
    for _ in range(accepted):
        bench.request(event)
    assert bench.outbox == []
    bench.request(event)
    frame = bench.answer()
    assert isinstance(frame, Failure)
    assert frame.error == "Busy"
    assert isinstance(bench.do("EXPINTERRUPT"), Reply)
    assert bench.agenda.status is STOPPED  # STOP comes through whatever waits


def test_a_full_queue_of_messages_without_a_handler_is_worked_off_at_once() -> None:
    bench = RigBench("EXPCLEANUP").enter("INITIALIZED")
    bench.request("EXPCLEANUP")
    cleanup = bench.due()
    for number in range(WAITING):
        bench.request("EXPINIT", {"exp_ref": f"2024-01-02_{number}_mouse"})
    assert bench.outbox == []
    bench.respond(cleanup.task)
    answers = bench.answers()
    assert len(answers) == WAITING + 1
    assert all(isinstance(frame, Reply) for frame in answers)
    assert bench.agenda.exp_ref == f"2024-01-02_{WAITING - 1}_mouse"


def test_a_full_queue_of_questions_is_worked_off_when_their_handler_is_taken_away() -> None:
    bench = RigBench("EXPINFO")
    for _ in range(QUERIES + WAITING):
        bench.request("EXPINFO")
    running = bench.events(HandlerDue)
    bench.handled.clear()
    bench.respond(running[0].task)
    assert len(bench.answers()) == WAITING + 1
    for due in running[1:]:
        bench.respond(due.task)
    assert len(bench.answers()) == QUERIES - 1


def test_a_flood_of_coordinators_takes_bounded_memory() -> None:
    bench = RigBench()
    for i in range(3 * COORDINATORS):
        source = (f"10.1.{i >> 8}.{i & 255}", 1000)
        request = messages.request(f"{i:016x}", 1, compose("EXPSTATUS"), RIG)
        for data in (request, messages.probe(f"{i + 10**9:016x}", 1, 0), b"[32, 0]", b"junk"):
            bench.rig.receive_datagram(data, source, bench.now)
        bench.rig.take_datagrams()  # 400,000 of them: to have the bench decode each takes most of the time
        bench.told += bench.rig.take_events()
    coordinators = bench.rig._coordinators
    assert len(coordinators._known) == len(bench.rig._arrays._lanes) == COORDINATORS
    assert len(bench.agenda.tasks) == 0
    assert len(bench.events(ViolationSeen)) <= 256
    assert bench.rig.violations == {"junk": 3 * COORDINATORS}


def test_a_flood_pushes_out_the_coordinator_that_was_silent_for_longest() -> None:
    bench = RigBench("EXPINFO")
    bench.request("EXPINFO", n=1)
    bench.respond(bench.due().task)
    (stored,) = bench.sent()
    for i in range(2 * COORDINATORS):
        bench.receive(messages.probe(f"{i:016x}", 1, 0), ("10.1.0.1", 1000))
        if i % 500 == 0:
            bench.receive(messages.probe(COORDINATOR, 1, 0))
    bench.sent()
    bench.request("EXPINFO", n=1)
    assert bench.sent() == [stored]
    assert bench.events(HandlerDue) == []


def test_answers_that_no_coordinator_confirms_do_not_pile_up() -> None:
    bench = RigBench()
    for i in range(1000):
        bench.array(ExpMessage.EXPSTATUS, i)
    bench.sent()
    bench.run(1000)
    assert len(bench.sent()) <= 64


@pytest.mark.parametrize(
    ("address", "text"),
    [(("10.0.0.1", 11001), "10.0.0.1:11001"), (("fe80::1", 11001, 0, 3), "[fe80::1]:11001")],
)
def test_addresses_are_written_as_people_do(address: Any, text: str) -> None:
    assert text_of(address) == text


def test_an_interrupt_clears_what_waits_behind_a_running_interrupt() -> None:
    bench = RigBench("EXPINIT", "EXPINTERRUPT").enter("RUNNING")
    bench.request("EXPINTERRUPT")
    first = bench.due()
    other = "d" * 16
    waiting = bench.request("EXPINIT", {"exp_ref": "2024-01-02_9_m"})
    bench.sent()
    bench.request("EXPINTERRUPT", n=2, boot=other, source=("10.0.0.2", 1))
    (overtaken,) = bench.answers()
    assert (overtaken.boot, overtaken.n, overtaken.error) == (RIG, waiting, "Interrupted")
    bench.respond(first.task)
    assert [frame.n for frame in bench.answers()] == [3, 2]  # both interrupts, the second as a no-op
    assert bench.events(HandlerDue) == []


def test_an_interrupt_overtakes_one_whose_handler_hangs() -> None:
    bench = RigBench("EXPINTERRUPT").enter("RUNNING")
    bench.request("EXPINTERRUPT")
    hanging = bench.due()
    bench.run(INTERRUPT_PATIENCE + 1)
    bench.sent()
    n = bench.request("EXPINTERRUPT")
    again = bench.due()
    bench.respond(again.task)
    assert [(type(frame).__name__, frame.n) for frame in bench.answers()] == [("Failure", n - 1), ("Reply", n)]
    bench.respond(hanging.task)
    assert bench.sent() == []
    assert bench.agenda.status is STOPPED


def test_a_message_that_the_network_doubles_is_neither_run_nor_echoed_twice() -> None:
    bench = RigBench("EXPINFO")
    data = bench.array(ExpMessage.EXPINFO, 0, None)
    assert bench.sent() == [data]
    due = bench.due()
    bench.receive(data)  # the copy, while the handler runs
    assert bench.sent() == []
    bench.respond(due.task)
    (answer,) = bench.sent()
    bench.receive(data)  # another, while the answer waits for its echo
    assert bench.sent() == []
    bench.receive(answer)
    bench.receive(data)  # asked again, after the answer was confirmed
    assert bench.sent() == [data]
    assert len(bench.events(HandlerDue)) == 1
    assert bench.rig.violations == {"repeated message": 2}


def test_a_message_that_comes_again_after_a_while_is_meant() -> None:
    bench = RigBench("EXPINFO")
    data = bench.array(ExpMessage.EXPINFO, 0, None)
    bench.run(REPEAT_WINDOW)
    bench.receive(data)
    assert bench.sent() == [data, data]


def test_a_token_that_the_network_doubles_is_handed_over_once() -> None:
    bench = RigBench()
    data = bench.array(ExpMessage.ALYX, "https://alyx", {"ana": "t"})
    bench.receive(data)
    assert bench.sent() == [data]


def test_an_overtaken_task_is_closed_before_the_answer_to_the_interrupt_leaves() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", {"exp_ref": "2024-01-02_1_m"})
    task = bench.due().task
    assert bench.agenda.is_open(task)
    interrupt = messages.request(COORDINATOR, 9, compose("EXPINTERRUPT"))
    bench.rig.receive_datagram(interrupt, HERE, bench.now)
    assert not bench.agenda.is_open(task)
    sent = [decode(data) for _, data in bench.rig.take_datagrams()]
    assert [type(frame) for frame in sent if not isinstance(frame, Notice)] == [Failure, Reply]


# --------------------------------------------------------------------------------------------- which boot is meant

ANOTHER = "b" * 16
"""A second coordinator, on `OTHER_HOST` unless told otherwise."""
THIRD_HOST = ("10.0.0.7", 50_000)


def foreign(bench: RigBench, event: str, *args: Any, **options: Any) -> Any:
    """Have the second coordinator's request handled; return its decoded answer, None while it has none."""
    bench.sent()
    bench.n += 1
    n = bench.request(event, *args, n=bench.n, boot=ANOTHER, source=OTHER_HOST, **options)
    for due in bench.events(HandlerDue):
        if due.event is ExpMessage[event]:
            bench.respond(due.task)
    found = [decode(data) for to, data in bench.outbox if to == OTHER_HOST]
    return next((frame for frame in found if not isinstance(frame, (Ack, Alive)) and frame.n == n), None)


@pytest.mark.parametrize("to", [ANOTHER, "", "no boot at all"])
def test_a_request_that_means_another_boot_is_never_run_and_filed_nowhere(to: str) -> None:
    bench = RigBench("EXPINIT")
    for _ in range(2):
        bench.request("EXPINIT", n=5, to=to)
        frame = bench.answer()
        assert (frame.n, frame.error, frame.traceback) == (5, "RigRestarted", "")
        assert frame.message == "the rig's program was started anew since; this one does not run it"
    assert bench.events() == []
    bench.run(1)
    assert bench.outbox == []
    bench.request("EXPINIT", n=5)  # meant for this one: not taken for a repeat
    assert bench.due().event is ExpMessage.EXPINIT


def test_a_request_that_means_no_boot_is_run() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", to=None)
    assert bench.due().event is ExpMessage.EXPINIT


def test_an_interrupt_that_means_another_boot_is_not_run_either() -> None:
    bench = RigBench().enter("RUNNING")
    bench.request("EXPINTERRUPT", to=ANOTHER)
    assert bench.answer().error == "RigRestarted"
    assert bench.agenda.status is RUNNING


# -------------------------------------------------------------------------------------------------------- instants


def test_a_request_for_an_instant_is_acknowledged_at_once_and_handed_over_shortly_before() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    n = bench.request("EXPSTART", delay=5.0)
    assert bench.answer() == Ack(RIG, n)
    bench.run(5.0 - LEAD - 0.001)
    assert bench.events(HandlerDue) == []
    assert bench.outbox == []
    bench.run(0.001)
    due = bench.due()
    assert due.schedule is not None
    assert due.schedule.instant == pytest.approx(bench.now + LEAD, abs=1e-6)
    bench.run(1.0)
    assert bench.events(HandlerDue) == []
    assert bench.agenda.status is INITIALIZED


def test_the_instant_is_of_the_rig_s_clock() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.receive(messages.request(COORDINATOR, 9, compose("EXPSTART"), RIG, WALL + 7_000_000_000))
    bench.run(7.0)
    schedule = bench.due().schedule
    assert schedule is not None
    assert schedule.instant == pytest.approx(107.0, abs=1e-6)


def test_the_answer_says_when_the_handler_was_entered() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.request("EXPSTART", delay=5.0)
    bench.run(5.0)
    task = bench.due().task
    bench.sent()
    bench.now += 2.0
    bench.agenda.respond(task, None, bench.now, started=105.0001)
    bench._collect()
    frame = bench.answer()
    assert (frame.started - WALL, frame.finished - WALL) == (pytest.approx(5_000_100_000, abs=1000), 7_000_000_000)
    assert bench.agenda.status is RUNNING


def test_the_instant_is_waited_for_where_there_is_no_handler_as_well() -> None:
    bench = RigBench().enter("INITIALIZED")
    bench.request("EXPSTART", delay=5.0)
    bench.sent()
    bench.run(4.9)
    assert (bench.outbox, bench.agenda.status) == ([], INITIALIZED)
    bench.run(0.1)
    due = bench.due()
    assert due.schedule is not None
    bench.respond(due.task)
    assert isinstance(bench.answer(), Reply)
    assert bench.agenda.status is RUNNING


@pytest.mark.parametrize("late", [0.0, 0.001, 60.0, 1e6])
def test_one_that_comes_late_is_handed_over_at_once(late: float) -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.request("EXPSTART", delay=-late)
    assert bench.outbox == []  # to be answered soon
    due = bench.due()
    assert due.schedule is not None
    assert due.schedule.instant <= bench.now + 1e-6


def test_one_that_comes_within_the_lead_is_handed_over_at_once() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.request("EXPSTART", delay=LEAD / 2)
    assert bench.due().schedule is not None


@pytest.mark.parametrize("event", ["EXPSTART", "EXPINFO"])
@pytest.mark.parametrize(("ahead", "allowed"), [(3600.0, True), (3659.0, True), (3661.0, False), (1e9, False)])
def test_an_instant_more_than_an_hour_ahead_is_refused(event: str, ahead: float, allowed: bool) -> None:
    bench = RigBench(event).enter("INITIALIZED")
    n = bench.request(event, delay=ahead)
    frame = bench.answer()
    if allowed:
        assert frame == Ack(RIG, n)
    else:
        assert (type(frame), frame.error) == (Failure, "ValueError")
        assert "at most 3600 s" in frame.message
        assert isinstance(bench.do("EXPEND"), Reply)  # nothing is stuck


@pytest.mark.parametrize("at", [-(2**63) + 1, 2**63 - 1, 0])
def test_no_stamp_from_outside_raises(at: int) -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.receive(messages.request(COORDINATOR, 9, compose("EXPSTART"), RIG, at))
    assert len(bench.events(HandlerDue)) == (at <= 0)


def test_a_repeat_of_what_waits_for_its_instant_is_acknowledged_and_runs_once() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    for _ in range(3):
        bench.request("EXPSTART", n=9, delay=5.0)
    assert bench.answers() == [Ack(RIG, 9)] * 3
    bench.run(10)
    assert len(bench.events(HandlerDue)) == 1


def test_what_comes_after_what_waits_for_its_instant_waits_too_and_questions_are_answered() -> None:
    bench = RigBench("EXPSTART", "EXPCLEANUP").enter("INITIALIZED")
    bench.request("EXPSTART", delay=5.0)
    bench.request("EXPCLEANUP")
    assert bench.events(HandlerDue) == []
    bench.sent()
    assert bench.do("EXPSTATUS").args == [10]


def test_a_no_op_for_an_instant_is_answered_at_once() -> None:
    bench = RigBench("EXPSTART").enter("RUNNING")
    bench.request("EXPSTART", delay=5.0)
    assert isinstance(bench.answer(), Reply)


def test_a_refusal_does_not_wait_for_the_instant() -> None:
    bench = RigBench("EXPSTART")
    bench.request("EXPSTART", delay=5.0)
    assert bench.answer().error == "StateError"


def test_an_interrupt_acts_at_once_whatever_instant_it_names() -> None:
    bench = RigBench("EXPINTERRUPT").enter("RUNNING")
    bench.request("EXPINTERRUPT", delay=5.0)
    due = bench.due()
    assert due.schedule is None
    bench.respond(due.task)
    assert bench.agenda.status is STOPPED


def test_an_end_calls_off_what_waits_for_its_instant() -> None:
    bench = RigBench("EXPSTART", "EXPEND").enter("INITIALIZED")
    n = bench.request("EXPSTART", delay=5.0)
    bench.sent()
    bench.request("EXPEND")
    text = "EXPSTART was not run: EXPEND came before its instant"
    assert bench.answer() == Failure(RIG, n, "Cancelled", text, "")
    bench.respond(bench.due().task)
    assert bench.agenda.status is STOPPED
    bench.run(10)
    assert bench.events(HandlerDue) == []
    bench.sent()
    bench.request("EXPSTART", n=n)
    assert bench.answer().error == "Cancelled"  # a repeat gets the stored answer


def test_an_end_calls_off_questions_that_wait_for_their_instant_too() -> None:
    bench = RigBench("EXPINFO").enter("RUNNING")
    n = bench.request("EXPINFO", delay=5.0)
    bench.sent()
    bench.do("EXPEND")
    bench.request("EXPINFO", n=n)
    bench.run(10)
    assert bench.events(HandlerDue) == []


def test_an_interrupt_calls_off_what_waits_for_its_instant() -> None:
    bench = RigBench("EXPSTART", "EXPINTERRUPT").enter("INITIALIZED")
    bench.request("EXPSTART", delay=5.0)
    bench.sent()
    bench.request("EXPINTERRUPT")
    frame = bench.answer()
    assert (frame.error, frame.message) == (
        "Cancelled",
        "EXPSTART was not run: EXPINTERRUPT came before its instant",
    )
    assert bench.events(HandlerOvertaken) == []
    bench.respond(bench.due().task)
    assert bench.agenda.status is STOPPED
    bench.run(10)
    assert bench.events(HandlerDue) == []


def test_a_goodbye_calls_off_what_its_own_coordinator_wanted_and_no_other_s() -> None:
    bench = RigBench("EXPINFO").enter("INITIALIZED")
    n = bench.request("EXPINFO", delay=5.0)
    bench.request("EXPINFO", n=1, boot=ANOTHER, source=OTHER_HOST)
    bench.request("EXPINFO", n=2, boot="d" * 16)  # on the same host
    bench.sent()
    bench.receive(messages.bye(COORDINATOR, 99, "closing"), OTHER_HOST)  # in another's name
    assert bench.outbox == []
    bench.receive(messages.bye(COORDINATOR, 99, "closing"))
    frame = bench.answer()
    assert (frame.n, frame.error) == (n, "Cancelled")
    assert frame.message == "EXPINFO was not run: the coordinator that asked for it has closed"
    for due in bench.events(HandlerDue):
        bench.respond(due.task)
    assert [(type(frame), frame.n) for frame in bench.answers()] == [(Reply, 1), (Reply, 2)]  # type: ignore[union-attr]
    bench.run(10)
    assert bench.events(HandlerDue) == []


@pytest.mark.parametrize("event", ["EXPINFO", "EXPSTATUS"])
def test_only_who_is_in_charge_may_name_an_instant_for_a_question(event: str) -> None:
    bench = RigBench(event)
    n = bench.request(event, delay=3600.0)
    frame = bench.answer()
    assert (frame.n, frame.error) == (n, "StateError")
    assert "nobody is in charge of this rig" in frame.message
    bench.enter("RUNNING")
    bench.request(event, n=1, boot=ANOTHER, source=OTHER_HOST, delay=3600.0)
    frame = bench.answer()
    assert (frame.n, frame.error) == (1, "BusyError")
    assert "the coordinator on 10.0.0.1 is in charge" in frame.message
    assert "ask without one" in frame.message
    bench.request(event, n=2, boot=ANOTHER, source=OTHER_HOST)
    bench.respond(bench.due().task)
    assert isinstance(bench.answer(), Reply)
    n = bench.request(event, delay=3600.0)
    assert bench.answer() == Ack(RIG, n)


def test_what_waits_for_its_instant_takes_no_place() -> None:
    bench = RigBench("EXPINFO", commands=["focus"]).enter("RUNNING")
    for _ in range(QUERIES):
        bench.request("EXPINFO", delay=5.0)
    bench.call("focus")
    focus = bench.due()
    assert focus.event == Command("focus")
    bench.run(5.0)
    begun = bench.events(HandlerDue)
    assert len(begun) == QUERIES - 1
    bench.respond(focus.task)
    assert bench.due().schedule is not None  # the last of them has waited for its turn then


def test_what_waits_for_its_instant_is_bounded_in_number_and_bytes_whoever_sends_it() -> None:
    bench = RigBench("EXPINFO").enter("RUNNING")
    for _ in range(WAITING):
        bench.request("EXPINFO", delay=5.0)
    bench.sent()
    bench.request("EXPINFO", delay=5.0)
    assert bench.answer().error == "Busy"
    assert bench.do("EXPEND")
    large = "x" * 60_000
    for _ in range(WAITING_BYTES // len(large) + 2):
        bench.request("EXPINFO", None, large, delay=5.0)
    assert [getattr(frame, "error", None) for frame in bench.answers()][-1] == "Busy"
    assert sum(task.size for task in bench.agenda.tasks.values()) <= WAITING_BYTES
    assert bench.request("EXPSTATUS") == bench.answer().n  # what need not wait is answered


def test_what_waits_is_counted_with_the_room_that_its_values_take() -> None:
    bench = RigBench("EXPINFO").enter("RUNNING")
    for _ in range(20):
        bench.request("EXPINFO", None, [[]] * 15_000, delay=5.0)
    assert 1 <= len(bench.agenda.tasks) <= 2
    assert isinstance(bench.answers()[-1], Failure)


def test_a_message_larger_than_all_that_may_wait_waits_alone() -> None:
    bench = RigBench("EXPINFO", room=Room(MAX_MESSAGE, scheme="tcp")).enter("RUNNING")
    at = bench.stamps.stamp(bench.now + 5.0)
    large = compose("EXPINFO", None, "x" * (WAITING_BYTES + 1), room=Room(MAX_MESSAGE))
    for n in (50, 51):
        bench.receive(messages.request(COORDINATOR, n, large, RIG, at))
    waiting, refused = bench.answers()
    assert waiting == Ack(RIG, 50)
    assert isinstance(refused, Failure)
    assert (refused.error, refused.message) == (
        "Busy",
        "messages of 8.39 MB wait already, or are worked on; look at the rig",
    )


def test_what_handlers_work_on_for_strangers_is_bounded_and_leaves_room_for_who_is_in_charge() -> None:
    bench = RigBench("EXPINFO", room=Room(MAX_MESSAGE, scheme="tcp")).enter("RUNNING")
    large = compose("EXPINFO", None, "x" * WAITING_BYTES, room=Room(MAX_MESSAGE))
    others = (ANOTHER, "1" * 16, "2" * 16)
    for boot in others:
        bench.receive(messages.request(boot, 1, large), OTHER_HOST)
    first = bench.due()
    refused = [frame for frame in bench.answers() if isinstance(frame, Failure)]
    assert [(frame.error, frame.message) for frame in refused] == [
        ("Busy", "messages of 8.39 MB wait already, or are worked on; look at the rig")
    ] * 2
    bench.receive(messages.request(COORDINATOR, 50, large, RIG))
    own = bench.due()  # whatever strangers have here
    bench.respond(first.task)
    bench.receive(messages.request(others[1], 2, large), OTHER_HOST)
    assert bench.due().task not in (first.task, own.task)


@pytest.mark.parametrize(
    ("boot", "host", "standing"),
    [
        (COORDINATOR, "own", Standing.IN_CHARGE),
        (COORDINATOR, "other", Standing.STRANGER),  # forged
        (ANOTHER, "other", Standing.WATCHES),
        (ANOTHER, "own", Standing.STRANGER),
        ("1" * 16, "own", Standing.STRANGER),
        (None, "own", Standing.STRANGER),
    ],
)
def test_how_a_message_begins_tells_how_much_its_sender_has_to_do_with_the_rig(
    boot: str | None, host: str, standing: Standing
) -> None:
    bench = RigBench("EXPINFO").enter("RUNNING")
    bench.receive(messages.probe(ANOTHER, 1, 0), OTHER_HOST)
    head = b"[64,0,null]" if boot is None else messages.request(boot, 60, compose("EXPINFO"))[:64]
    source = OTHER_HOST if host == "other" else HERE
    assert bench.rig.standing(head, source) is standing


def test_a_host_whose_iblutil_coordinator_is_in_charge_is_so_in_that_dialect() -> None:
    bench = RigBench("EXPINFO")
    bench.receive(b'[1,"2026-11-20_1_mouse"]', OTHER_HOST)
    assert bench.rig.standing(b"[64,0,null]", OTHER_HOST) is Standing.IN_CHARGE
    assert bench.rig.standing(messages.probe(ANOTHER, 1, 0), OTHER_HOST) is Standing.STRANGER
    assert bench.rig.standing(b"[64,0,null]", HERE) is Standing.STRANGER


def test_strangers_take_half_of_the_places_and_wait_behind_who_is_in_charge() -> None:
    bench = RigBench("EXPINFO", commands=["focus"]).enter("RUNNING")
    for n in range(WAITING):
        bench.request("EXPINFO", n=n + 1, boot=ANOTHER, source=OTHER_HOST)
    strangers = bench.events(HandlerDue)
    assert len(strangers) == QUERIES // 2
    assert [frame.error for frame in bench.answers()] == ["Busy"] * (WAITING - WAITING // 2 - QUERIES // 2)  # type: ignore[union-attr]
    for _ in range(QUERIES // 2 + 1):
        bench.call("focus")
    commands = bench.events(HandlerDue)
    assert [due.event for due in commands] == [Command("focus")] * (QUERIES // 2)
    bench.respond(strangers[0].task)
    assert bench.due().event == Command("focus")
    bench.respond(strangers[1].task)
    assert bench.due().event is ExpMessage.EXPINFO


def test_who_comes_to_be_in_charge_finds_no_place_taken_by_one_that_was() -> None:
    bench = RigBench("EXPINFO").enter("STOPPED")
    n = bench.request("EXPINFO", delay=3000.0)
    bench.run(10)  # silent for two lost_after: anybody may command
    bench.sent()
    bench.request("EXPINIT", n=1, boot=ANOTHER, source=OTHER_HOST)
    assert [(type(frame), frame.n) for frame in bench.answers()] == [(Failure, n), (Reply, 1)]  # type: ignore[union-attr]


@pytest.mark.parametrize("calling", ["EXPEND", "EXPINTERRUPT", "bye"])
def test_what_was_handed_over_is_called_off_exactly_where_its_handlers_were_not_entered(calling: str) -> None:
    for entered in (False, True):
        bench = RigBench("EXPSTART", "EXPINTERRUPT").enter("INITIALIZED")
        n = bench.request("EXPSTART", delay=5.0)
        bench.run(5.0)
        due = bench.due()
        assert due.schedule is not None
        if entered:
            assert due.schedule.take()
        bench.sent()
        if calling == "bye":
            bench.receive(messages.bye(COORDINATOR, 99, "closing"))
        else:
            bench.request(calling)
        failed = [frame.error for frame in bench.answers() if isinstance(frame, Failure) and frame.n == n]
        assert failed == (["Interrupted"] if calling == "EXPINTERRUPT" and entered else ["Cancelled"] * (not entered))
        assert not due.schedule.take()  # nobody enters them any more
        assert bench.agenda.is_open(due.task) is (entered and calling != "EXPINTERRUPT")


def test_an_end_of_another_coordinator_calls_nothing_off() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.request("EXPSTART", delay=5.0)
    assert foreign(bench, "EXPEND").error == "BusyError"
    bench.run(5.0)
    due = bench.due()
    assert due.schedule is not None
    assert due.schedule.take()
    bench.sent()
    bench.respond(due.task)
    assert [type(frame) for frame in bench.answers()] == [Reply]
    assert bench.agenda.status is RUNNING


def test_what_is_called_off_while_it_waits_for_its_turn_never_comes_to_it() -> None:
    """If it took the lane all the same, nothing would ever free it again."""
    bench = RigBench("EXPINIT", "EXPSTART")
    bench.request("EXPINIT", {"exp_ref": REF})
    init = bench.due()
    start = bench.request("EXPSTART", delay=5.0)
    end = bench.request("EXPEND")
    bench.respond(init.task)
    bench.run(20)
    assert bench.events(HandlerDue) == []
    frames = {frame.n: frame for frame in bench.answers() if isinstance(frame, (Reply, Failure))}
    assert frames[start].error == "Cancelled"
    assert isinstance(frames[end], Reply)
    assert bench.agenda.status is STOPPED


def test_what_was_called_off_while_it_waited_its_turn_and_would_be_refused_then_raises_nothing() -> None:
    """If it were settled twice, what waits behind it would never begin."""
    bench = RigBench("EXPINIT")
    bench.array(ExpMessage.EXPINIT, {"exp_ref": REF})
    init = bench.due()
    bench.request("EXPSTART", delay=5.0)
    bench.receive(messages.bye(COORDINATOR, 99, "closing"))
    bench.sent()
    bench.respond(init.task)  # now the iblutil coordinator is the owner
    assert isinstance(bench.do_array(ExpMessage.EXPEND, None), Array)
    assert bench.agenda.status is STOPPED


def test_a_question_that_is_called_off_while_it_waits_for_its_turn_takes_no_place() -> None:
    """If it took one of the eight places, that would be for ever."""
    bench = RigBench("EXPINFO").enter("INITIALIZED")
    for _ in range(QUERIES):
        bench.request("EXPINFO")
    running = bench.events(HandlerDue)
    bench.request("EXPINFO", delay=5.0)
    bench.run(5.0)
    bench.receive(messages.bye(COORDINATOR, 99, "closing"))
    for due in running:
        bench.respond(due.task)
    bench.run(20)
    assert bench.events(HandlerDue) == []
    assert bench.agenda._queries.running == []


def test_an_interrupt_calls_off_questions_that_wait_for_their_instant_too() -> None:
    """As EXPEND and bye do: docs/protocol.md section 4 says of all three that they cancel what is still waiting."""
    bench = RigBench("EXPINFO").enter("RUNNING")
    bench.request("EXPINFO", delay=5.0)
    bench.do("EXPINTERRUPT")
    bench.run(10)
    assert bench.events(HandlerDue) == []


# ------------------------------------------------------------------------------------------------------- ownership


def owner_of(bench: RigBench) -> str | None:
    """Return the host that the rig names as the owner."""
    bench.sent()
    bench.probe("e" * 16, THIRD_HOST)
    frame = next(frame for frame in bench.answers() if isinstance(frame, Alive))
    return frame.owner


@pytest.mark.parametrize("event", ["EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP", "ALYX"])
@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING", "STOPPED"])
def test_another_coordinator_is_refused_with_the_owner_s_host_and_the_reference(status: str, event: str) -> None:
    bench = RigBench(*LIFECYCLE, "ALYX").enter(status)
    frame = foreign(bench, event, *([{"exp_ref": REF}] if event == "EXPINIT" else []))
    assert frame.error == "BusyError"
    over = "; it is over, and anyone may go on when that one has been silent for 5 s"
    assert frame.message == (
        f"{event} refused: the coordinator on 10.0.0.1 is in charge of {REF} ({status}); close it there, or take the "
        f"experiment over with EXPINIT, its exp_ref and takeover: true (rigsync push EXPINIT {REF} --takeover)"
        + (over if status == "STOPPED" else ", or stop it with EXPINTERRUPT")
    )
    assert bench.agenda.status is ExpStatus[status]
    assert owner_of(bench) == "10.0.0.1"


@pytest.mark.parametrize("event", ["EXPINIT", "EXPCLEANUP"])
def test_a_stopped_rig_whose_owner_is_gone_lets_anyone_go_on(event: str) -> None:
    bench = RigBench(*LIFECYCLE).enter("STOPPED")
    bench.run(4.9)
    refused = foreign(bench, event, *([{"exp_ref": OTHER}] if event == "EXPINIT" else []))
    assert isinstance(refused, Failure)
    assert "it is over, and anyone may go on when that one has been silent for 5 s" in refused.message
    bench.run(0.2)
    assert isinstance(foreign(bench, event, *([{"exp_ref": OTHER}] if event == "EXPINIT" else [])), Reply)


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING"])
def test_an_owner_that_is_silent_keeps_what_has_not_stopped(status: str) -> None:
    bench = RigBench(*LIFECYCLE).enter(status)
    bench.run(6)
    assert "was last heard 6 s ago" in foreign(bench, "EXPEND").message
    assert isinstance(foreign(bench, "EXPINTERRUPT"), Reply)
    assert isinstance(foreign(bench, "EXPCLEANUP"), Reply)


def test_an_owner_that_is_there_keeps_what_has_stopped() -> None:
    bench = RigBench(*LIFECYCLE).enter("STOPPED")
    for _ in range(20):
        bench.run(1)
        bench.probe()
    bench.sent()
    assert foreign(bench, "EXPCLEANUP").error == "BusyError"


def test_a_refusal_of_an_experiment_without_a_reference_says_so() -> None:
    bench = RigBench().enter("RUNNING", reference=None)
    assert "in charge of an experiment without a reference (RUNNING)" in foreign(bench, "EXPEND").message


@pytest.mark.parametrize("event", ["EXPINFO", "EXPSTATUS"])
@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING", "STOPPED"])
def test_another_coordinator_may_ask(status: str, event: str) -> None:
    assert isinstance(foreign(RigBench("EXPINFO").enter(status), event), Reply)


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING"])
def test_another_coordinator_may_interrupt_and_does_not_become_the_owner(status: str) -> None:
    bench = RigBench("EXPINTERRUPT").enter(status)
    assert isinstance(foreign(bench, "EXPINTERRUPT"), Reply)
    assert bench.agenda.status is STOPPED
    assert owner_of(bench) == "10.0.0.1"


def test_two_coordinators_on_one_host_are_not_the_same_owner() -> None:
    bench = RigBench().enter("RUNNING")
    bench.request("EXPEND", n=1, boot=ANOTHER)
    assert bench.answer().error == "BusyError"


@pytest.mark.parametrize("event", ["EXPEND", "EXPINTERRUPT", "EXPCLEANUP", "EXPINFO", "EXPSTATUS", "ALYX"])
def test_only_expinit_and_expstart_make_an_owner(event: str) -> None:
    bench = RigBench()
    bench.do(event)
    assert owner_of(bench) is None


def test_a_rig_belongs_to_the_one_whose_expinit_it_is_working_on() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", {"exp_ref": REF})
    init = bench.due()
    assert owner_of(bench) == "10.0.0.1"
    assert foreign(bench, "ALYX").error == "BusyError"
    bench.respond(init.task)
    assert owner_of(bench) == "10.0.0.1"


def test_of_two_expinits_at_the_same_time_one_is_refused() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", {"exp_ref": REF})
    init = bench.due()
    assert foreign(bench, "EXPINIT", {"exp_ref": OTHER}).error == "BusyError"
    bench.sent()
    bench.respond(init.task)
    assert isinstance(bench.answer(), Reply)
    assert bench.agenda.exp_ref == REF


def test_where_the_first_expinit_fails_the_next_coordinator_s_is_run() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", {"exp_ref": REF})
    init = bench.due()
    bench.fail(init.task, "OSError", "disk full")
    assert isinstance(foreign(bench, "EXPINIT", {"exp_ref": OTHER}), Reply)
    assert bench.agenda.exp_ref == OTHER
    assert owner_of(bench) == "10.0.0.9"


@pytest.mark.parametrize("failing", ["error", "result that cannot be sent"])
def test_the_owner_is_as_before_where_expinit_fails(failing: str) -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", {"exp_ref": REF})
    task = bench.due().task
    bench.fail(task, "OSError") if failing == "error" else bench.respond(task, {"a": object()})
    assert owner_of(bench) is None
    assert isinstance(foreign(bench, "EXPINIT", {"exp_ref": OTHER}), Reply)
    bench.request("EXPINIT", {"exp_ref": REF})
    assert owner_of(bench) == "10.0.0.9"


def test_an_expinit_that_is_refused_makes_nobody_the_owner() -> None:
    bench = RigBench()
    bench.do("EXPSTART")
    assert owner_of(bench) is None
    bench.do("EXPINIT", {"exp_ref": 5})
    assert owner_of(bench) is None


def test_a_failing_expinit_of_the_owner_does_not_cost_it_its_lease() -> None:
    """The ownership of before is put back, but not the sign of life of before."""
    bench = RigBench("EXPINIT", lease=10.0).enter("INITIALIZED")
    bench.request("EXPINIT", {"exp_ref": OTHER})
    task = bench.due().task
    for _ in range(20):
        bench.run(1.0)
        bench.probe()
    bench.fail(task, "OSError")
    bench.rig.handle_timer(bench.now)  # as it may be called at any time
    bench._collect()
    assert bench.events(LeaseExpired) == []
    assert bench.agenda.status is INITIALIZED


def test_an_end_that_calls_a_start_off_does_not_cost_the_owner_its_lease() -> None:
    """The interrupt of the lease would overtake the EXPEND that is being worked on."""
    bench = RigBench("EXPSTART", "EXPEND", lease=10.0).enter("INITIALIZED")
    bench.request("EXPSTART", delay=100.0)
    for _ in range(20):
        bench.run(1.0)
        bench.probe()
    bench.request("EXPEND")
    bench.run(5.0)
    assert bench.events(LeaseExpired) == []


def test_a_goodbye_that_calls_a_start_off_lets_the_next_one_in() -> None:
    """The ownership of before is put back, but its owner has said goodbye since."""
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.request("EXPSTART", delay=100.0)
    bench.receive(messages.bye(COORDINATOR, 99, "closing"))
    assert owner_of(bench) is None
    assert isinstance(foreign(bench, "EXPEND"), Reply)


def test_a_request_that_arrives_after_its_coordinator_s_goodbye_is_not_run() -> None:
    """The two leave from different sockets. A recording would be begun for one who has gone, and who would then block
    the others for a lease.
    """
    bench = RigBench("EXPINIT")
    bench.probe()
    bench.receive(messages.bye(COORDINATOR, 2, "closing"))
    bench.request("EXPINIT", {"exp_ref": REF})
    assert bench.events(HandlerDue) == []
    assert owner_of(bench) is None


def test_cleaning_up_releases_the_rig() -> None:
    bench = RigBench().enter("STOPPED")
    bench.do("EXPCLEANUP")
    assert owner_of(bench) is None
    assert isinstance(foreign(bench, "EXPINIT", {"exp_ref": OTHER}), Reply)
    assert owner_of(bench) == "10.0.0.9"
    assert bench.do("EXPEND").error == "BusyError"


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING", "STOPPED"])
def test_a_goodbye_of_the_owner_lets_the_next_one_in(status: str) -> None:
    bench = RigBench().enter(status)
    bench.receive(messages.bye(ANOTHER, 99, "closing"), OTHER_HOST)
    bench.receive(messages.bye(COORDINATOR, 99, "closing"), OTHER_HOST)
    assert owner_of(bench) == "10.0.0.1"
    bench.receive(messages.bye(COORDINATOR, 99, "closing"))
    assert owner_of(bench) is None
    assert bench.agenda.status is ExpStatus[status]
    assert isinstance(foreign(bench, "EXPEND"), Reply)
    bench.probe()  # a late one
    assert owner_of(bench) is None


def test_what_was_left_in_running_is_owned_by_the_one_who_goes_on_with_it() -> None:
    bench = RigBench().enter("RUNNING")
    bench.receive(messages.bye(COORDINATOR, 99, "closing"))
    assert isinstance(foreign(bench, "EXPSTART", REF), Reply)
    assert owner_of(bench) == "10.0.0.9"


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING", "STOPPED"])
def test_a_takeover_moves_the_ownership_and_runs_nothing(status: str) -> None:
    bench = RigBench().enter(status)
    bench.handled.add(ExpMessage.EXPINIT)
    bench.n += 1
    bench.request("EXPINIT", TAKEOVER, boot=ANOTHER, source=OTHER_HOST)
    assert bench.events(HandlerDue) == []
    assert isinstance(bench.answer(), Reply)
    assert (bench.agenda.status, bench.agenda.exp_ref) == (ExpStatus[status], REF)
    assert bench.events(StatusChanged) == []
    assert owner_of(bench) == "10.0.0.9"
    assert isinstance(foreign(bench, "EXPEND"), Reply)
    assert bench.do("EXPEND").error == "BusyError"
    assert isinstance(bench.do("EXPINIT", TAKEOVER), Reply)  # and back
    assert owner_of(bench) == "10.0.0.1"


def test_a_takeover_is_told_what_has_become_of_the_experiment() -> None:
    bench = RigBench("EXPINIT").enter("RUNNING")
    (info,) = foreign(bench, "EXPINIT", TAKEOVER).args
    assert (info["status"], info["exp_ref"]) == (20, REF)
    (repeated,) = foreign(bench, "EXPINIT", {"exp_ref": REF}).args  # of the owner, as it is now
    assert repeated["status"] == 10


def test_a_takeover_by_the_same_program_started_anew_on_the_owner_s_host() -> None:
    bench = RigBench().enter("RUNNING")
    bench.request("EXPINIT", {"exp_ref": "2024-01-02_001_mouse", "takeover": True}, n=1, boot=ANOTHER)
    assert isinstance(bench.answer(), Reply)
    bench.request("EXPEND", n=2, boot=ANOTHER)
    assert isinstance(bench.answer(), Reply)


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING", "STOPPED"])
def test_a_takeover_of_another_experiment_is_refused_and_moves_nothing(status: str) -> None:
    bench = RigBench("EXPINIT").enter("CONNECTED")
    bench = RigBench().enter(status)
    bench.handled.add(ExpMessage.EXPINIT)
    frame = foreign(bench, "EXPINIT", {"exp_ref": OTHER, "takeover": True})
    assert (frame.error, frame.message) == (
        "StateError",
        f"takeover of {OTHER} refused: the rig's experiment is {REF} ({status}), and a takeover names the one that "
        f"goes on; to begin {OTHER} in its place, type rigsync push EXPINTERRUPT, then rigsync push EXPINIT {OTHER}",
    )
    assert owner_of(bench) == "10.0.0.1"


@pytest.mark.parametrize(
    "data",
    [
        {"takeover": True},
        {"exp_ref": None, "takeover": True},
        {"exp_ref": "", "takeover": True},
        *({"exp_ref": REF, "takeover": value} for value in (1, "true", None, [], {}, 0)),
        {"takeover": "yes"},
    ],
    ids=str,
)
def test_a_malformed_takeover_is_refused_and_moves_nothing(data: dict[str, Any]) -> None:
    for status in ("CONNECTED", "RUNNING"):
        bench = RigBench().enter(status)
        frame = foreign(bench, "EXPINIT", data)
        assert frame.error == "ValueError"
        assert "takeover" in frame.message
        assert owner_of(bench) == ("10.0.0.1" if status == "RUNNING" else None)


def test_a_takeover_that_is_not_meant_is_an_ordinary_expinit() -> None:
    bench = RigBench().enter("RUNNING")
    assert foreign(bench, "EXPINIT", {"exp_ref": REF, "takeover": False}).error == "BusyError"


def test_a_takeover_of_a_rig_that_has_nothing_is_an_ordinary_expinit() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", TAKEOVER, boot=ANOTHER, source=OTHER_HOST)
    bench.respond(bench.due().task)
    assert (bench.agenda.status, bench.agenda.exp_ref) == (INITIALIZED, REF)
    assert owner_of(bench) == "10.0.0.9"


def test_a_takeover_waits_for_the_expinit_that_is_being_worked_on() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", {"exp_ref": REF})
    init = bench.due()
    bench.request("EXPINIT", TAKEOVER, n=1, boot=ANOTHER, source=OTHER_HOST)
    bench.respond(init.task)
    assert [type(frame) for frame in bench.answers()] == [Reply, Reply]
    assert owner_of(bench) == "10.0.0.9"


def test_an_iblutil_coordinator_owns_until_its_recording_has_ended() -> None:
    bench = RigBench().enter("RUNNING", dialect="iblutil")
    assert owner_of(bench) == "10.0.0.1"
    refused = bench.do_array(ExpMessage.EXPEND, None, source=OTHER_HOST)
    assert refused.args[0].startswith("BusyError: EXPEND refused: the coordinator on 10.0.0.1 is in charge")
    assert bench.do("EXPEND").error == "BusyError"  # of the same host, in the other dialect
    bench.do_array(ExpMessage.EXPEND, None, source=OTHER_PORT)  # known by its host
    assert bench.agenda.status is STOPPED
    assert owner_of(bench) is None
    assert isinstance(foreign(bench, "EXPCLEANUP"), Reply)


@pytest.mark.parametrize("by", ["EXPEND", "EXPINTERRUPT"])
def test_however_the_recording_of_an_iblutil_coordinator_ends_it_owns_it_no_longer(by: str) -> None:
    bench = RigBench().enter("RUNNING", dialect="iblutil")
    if by == "EXPEND":
        bench.do_array(ExpMessage.EXPEND, None)
    else:
        assert isinstance(foreign(bench, by), Reply)
    assert owner_of(bench) is None


def test_a_rigsync_coordinator_may_take_an_iblutil_one_s_experiment_over() -> None:
    bench = RigBench().enter("RUNNING", dialect="iblutil")
    assert isinstance(foreign(bench, "EXPINIT", TAKEOVER), Reply)
    assert owner_of(bench) == "10.0.0.9"


# ----------------------------------------------------------------------------------------- of the rig's own accord


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING"])
def test_a_rig_interrupts_of_its_own_accord_with_the_reason(status: str) -> None:
    bench = RigBench("EXPINTERRUPT").enter(status)
    bench.interrupt("ffmpeg has ended")
    due = bench.due()
    assert (due.event, due.args) == (ExpMessage.EXPINTERRUPT, [{"reason": "ffmpeg has ended"}])
    bench.respond(due.task)
    assert bench.events(StatusChanged) == [StatusChanged(ExpStatus[status], STOPPED, REF, "ffmpeg has ended")]
    for _ in range(2):
        assert ended_badly(bench) == "ffmpeg has ended"
    assert isinstance(bench.do("EXPINTERRUPT"), Reply)
    assert bench.do("EXPINFO").args[1]["interrupted"] == "ffmpeg has ended"
    assert ended_badly(bench) == "ffmpeg has ended"
    bench.do("EXPCLEANUP")
    assert isinstance(bench.do("EXPEND"), Reply)


def ended_badly(bench: RigBench) -> str:
    """Return why EXPEND fails: what it is to end has ended by itself, and badly."""
    answer = bench.do("EXPEND")
    assert isinstance(answer, Failure)
    assert (answer.error, answer.traceback) == ("EndedBadly", "")
    return answer.message


def test_an_iblutil_coordinator_s_end_of_what_has_ended_by_itself_fails_too() -> None:
    bench = RigBench().enter("RUNNING", dialect="iblutil")
    bench.interrupt("ffmpeg has ended")
    answer = bench.do_array(ExpMessage.EXPEND, None)
    assert (answer.event, answer.args) == (legacy.NULL_MESSAGE, ["EndedBadly: ffmpeg has ended", ExpMessage.EXPEND])


def test_an_end_after_an_interrupt_of_the_one_in_charge_is_no_failure() -> None:
    bench = RigBench().enter("RUNNING")
    bench.do("EXPINTERRUPT")
    assert isinstance(bench.do("EXPEND"), Reply)


@pytest.mark.parametrize("event", ["EXPINIT", "EXPCLEANUP"])
def test_an_end_after_the_interrupt_of_another_fails_until_the_experiment_is_cleaned_up(event: str) -> None:
    bench = RigBench().enter("RUNNING")
    bench.request("EXPINTERRUPT", n=1, boot="9" * 16, source=OTHER_HOST)
    bench.sent()
    for _ in range(2):
        assert ended_badly(bench) == f"EXPINTERRUPT came from {OTHER_HOST[0]}"
    bench.do(event, *([{"exp_ref": OTHER}] if event == "EXPINIT" else []))
    assert isinstance(bench.do("EXPEND"), Reply)


def test_an_end_after_the_interrupt_of_another_is_no_failure_where_nobody_is_in_charge() -> None:
    bench = RigBench().enter("RUNNING")
    bench.receive(messages.bye(COORDINATOR, 1, "closing"))
    for event in ("EXPINTERRUPT", "EXPEND"):
        bench.request(event, n=bench.n + 1, boot="9" * 16, source=OTHER_HOST)
        bench.n += 1
        assert isinstance(bench.answer(), Reply)


def test_a_rig_s_own_interrupt_that_hangs_leaves_its_reason_to_the_one_that_overtakes_it() -> None:
    bench = RigBench("EXPINTERRUPT").enter("RUNNING")
    bench.interrupt("ffmpeg has ended")
    bench.due()
    bench.run(5.0)
    bench.do("EXPINTERRUPT")
    assert bench.agenda.status is STOPPED
    assert ended_badly(bench) == "ffmpeg has ended"


@pytest.mark.parametrize("status", ["CONNECTED", "STOPPED"])
def test_where_nothing_is_under_way_a_rig_interrupts_nothing(status: str) -> None:
    bench = RigBench("EXPINTERRUPT").enter(status)
    bench.interrupt("ffmpeg has ended")
    assert bench.events(HandlerDue) == []
    assert bench.agenda.status is ExpStatus[status]


def test_what_cleans_up_after_an_experiment_is_not_interrupted_by_the_rig_itself() -> None:
    bench = RigBench("EXPCLEANUP", "EXPINTERRUPT").enter("STOPPED")
    n = bench.request("EXPCLEANUP")
    bench.interrupt("ffmpeg has ended")
    bench.respond(bench.due().task)
    (answer,) = bench.answers()
    assert isinstance(answer, Reply)
    assert answer.n == n
    assert bench.agenda.status is ExpStatus.CONNECTED


def test_what_stops_because_of_an_end_is_no_reason_to_interrupt() -> None:
    bench = RigBench("EXPEND", "EXPINTERRUPT").enter("RUNNING")
    bench.request("EXPEND")
    due = bench.due()
    bench.interrupt("ffmpeg has ended")
    assert bench.events(HandlerDue) == []
    bench.respond(due.task)
    assert "interrupted" not in bench.answer().args[0]
    assert bench.agenda.status is STOPPED


def test_an_end_that_waits_for_its_instant_does_not_keep_a_rig_from_interrupting() -> None:
    bench = RigBench("EXPEND", "EXPINTERRUPT").enter("RUNNING")
    bench.request("EXPEND", delay=60.0)
    bench.interrupt("ffmpeg has ended")
    assert bench.due().event is ExpMessage.EXPINTERRUPT


def test_a_rig_that_interrupts_overtakes_what_it_is_doing() -> None:
    bench = RigBench("EXPINIT", "EXPINTERRUPT")
    bench.request("EXPINIT", {"exp_ref": REF})
    bench.due()
    bench.interrupt("the camera is on fire")
    assert bench.answer().error == "Interrupted"
    bench.respond(bench.due().task)
    assert bench.agenda.status is STOPPED


def test_a_rig_that_interrupts_again_and_again_while_it_does_so_interrupts_once() -> None:
    bench = RigBench("EXPINTERRUPT").enter("RUNNING")
    for _ in range(1000):
        bench.interrupt("ffmpeg has ended")
    assert len(bench.agenda.tasks) == 1
    bench.respond(bench.due().task)
    assert (bench.agenda.status, len(bench.agenda.tasks)) == (STOPPED, 0)


def test_a_rig_that_interrupts_overtakes_its_own_interrupt_that_hangs() -> None:
    bench = RigBench("EXPINTERRUPT").enter("RUNNING")
    bench.interrupt("ffmpeg has ended")
    bench.due()
    bench.run(INTERRUPT_PATIENCE + 1)
    bench.interrupt("and does not go away")
    assert bench.due().args == [{"reason": "and does not go away"}]


# ----------------------------------------------------------------------------------------------------------- lease


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING"])
def test_after_the_lease_of_silence_the_rig_interrupts_with_the_reason(status: str) -> None:
    bench = RigBench("EXPINTERRUPT", lease=30.0).enter(status)
    bench.run(29.999)
    assert bench.told == []
    bench.run(0.001)
    reason = (
        f"the coordinator on 10.0.0.1, which was in charge of {REF}, has been silent for the lease of 30 s; "
        "see whether its program still runs, and close it; then tidy up with rigsync stop, or begin anew"
    )
    assert bench.events(LeaseExpired) == [LeaseExpired("10.0.0.1", REF, reason)]
    due = bench.due()
    assert (due.event, due.args, due.schedule) == (ExpMessage.EXPINTERRUPT, [{"reason": reason}], None)
    bench.respond(due.task)
    assert bench.events(StatusChanged) == [StatusChanged(ExpStatus[status], STOPPED, REF, reason)]
    assert bench.outbox == []  # nobody asked for it
    assert owner_of(bench) is None
    assert isinstance(foreign(bench, "EXPCLEANUP"), Reply)


@pytest.mark.parametrize(("stood_still", "after"), [(3600.0, "RUNNING"), (0.5, "STOPPED")])
def test_what_the_rig_did_not_hear_while_it_stood_still_is_no_silence_of_the_owner(
    stood_still: float, after: str
) -> None:
    bench = RigBench(lease=30.0).enter("RUNNING")
    bench.now += 29.8 + stood_still
    bench.rig.note_standstill(stood_still, bench.now)
    bench.run(0.0)
    assert bench.agenda.status.name == after
    bench.run(31)
    assert bench.agenda.status.name == "STOPPED"


def test_an_owner_whose_frames_are_still_to_be_read_after_a_standstill_keeps_the_lease() -> None:
    """The timer of the lease alone was due: it is late by all that is beyond the lease."""
    bench = RigBench(lease=30.0).enter("RUNNING")
    bench.now += 60.0
    bench.rig.note_standstill(30.0, bench.now)
    bench.run(1.0)
    assert bench.agenda.status.name == "RUNNING"
    bench.probe()
    for _ in range(12):  # a rig that stands still again and again gives up an owner that is gone
        bench.now += 7.0
        bench.rig.note_standstill(2.0, bench.now)
        bench.run(0.0)
    assert bench.agenda.status.name == "STOPPED"


def test_a_lease_that_is_over_interrupts_where_there_is_no_handler_as_well() -> None:
    bench = RigBench(lease=30.0).enter("RUNNING")
    bench.run(30.0)
    assert bench.agenda.status is STOPPED
    assert [event.source for event in bench.events(MessageHandled)] == ["the rig itself"]


def test_an_interrupt_of_the_lease_whose_handler_fails_still_ends_stopped() -> None:
    bench = RigBench("EXPINTERRUPT", lease=30.0).enter("RUNNING")
    bench.run(30.0)
    bench.fail(bench.due().task, "OSError", "motor stuck")
    (changed,) = bench.events(StatusChanged)
    assert (changed.after, changed.reason) == (STOPPED, bench.events(LeaseExpired)[0].reason)


@pytest.mark.parametrize("sign", ["probe", "request", "repeat", "ack"])
def test_a_sign_of_life_of_the_owner_renews_the_lease(sign: str) -> None:
    bench = RigBench("EXPINFO", lease=30.0).enter("RUNNING")
    n = bench.request("EXPINFO")
    for _ in range(5):
        bench.run(29.0)
        if sign == "probe":
            bench.probe()
        elif sign == "ack":
            bench.receive(messages.ack(COORDINATOR, 12345))
        else:
            bench.request("EXPINFO", n=n if sign == "repeat" else None)
    bench.run(29.9)
    assert bench.events(LeaseExpired) == []
    bench.run(0.1)
    assert len(bench.events(LeaseExpired)) == 1


def test_the_signs_of_life_of_others_do_not_renew_the_lease() -> None:
    bench = RigBench(lease=30.0).enter("RUNNING")
    for second in range(30):
        bench.probe(ANOTHER, OTHER_HOST)
        if second < 5:  # forged; after that it could be the owner's computer, with another address
            bench.probe(COORDINATOR, OTHER_HOST)
        bench.request("EXPINFO", n=second + 1, boot="d" * 16)  # of the same host
        bench.array(ExpMessage.EXPSTATUS, second)
        assert bench.agenda.status is RUNNING
        bench.run(1.0)
    assert bench.agenda.status is STOPPED


def test_a_lease_of_0_is_for_ever() -> None:
    bench = RigBench(lease=0).enter("RUNNING")
    bench.run(1e6)
    assert bench.agenda.status is RUNNING


def test_after_the_recording_the_lease_only_releases_the_rig() -> None:
    bench = RigBench("EXPINTERRUPT", lease=30.0).enter("STOPPED")
    bench.run(30.0)
    assert bench.told == []
    assert owner_of(bench) is None
    assert bench.agenda.status is STOPPED


def test_an_owner_of_the_iblutil_dialect_is_silent_by_nature() -> None:
    bench = RigBench(lease=30.0).enter("RUNNING", dialect="iblutil")
    bench.run(1e5)
    assert bench.agenda.status is RUNNING
    assert owner_of(bench) == "10.0.0.1"


def test_the_lease_goes_on_after_a_goodbye() -> None:
    bench = RigBench(lease=30.0).enter("RUNNING")
    bench.run(10.0)
    bench.receive(messages.bye(COORDINATOR, 99, "closing"))
    bench.run(29.9)
    assert bench.agenda.status is RUNNING
    bench.run(0.1)
    assert bench.agenda.status is STOPPED


def test_one_that_goes_on_with_what_was_left_has_a_lease_of_its_own() -> None:
    bench = RigBench(lease=30.0).enter("RUNNING")
    bench.receive(messages.bye(COORDINATOR, 99, "closing"))
    bench.run(20.0)
    foreign(bench, "EXPINIT", TAKEOVER)
    bench.run(29.9)
    assert bench.agenda.status is RUNNING
    bench.run(0.1)
    assert bench.events(LeaseExpired)[0].host == "10.0.0.9"


def test_the_lease_calls_off_what_waits_for_its_instant() -> None:
    bench = RigBench("EXPSTART", lease=30.0).enter("INITIALIZED")
    n = bench.request("EXPSTART", delay=3000.0)
    bench.sent()
    bench.run(30.0)
    assert [(frame.n, frame.error) for frame in bench.answers()] == [(n, "Cancelled")]  # type: ignore[union-attr]
    assert bench.agenda.status is STOPPED
    bench.run(4000)
    assert bench.events(HandlerDue) == []


def test_the_lease_overtakes_a_handler_that_runs() -> None:
    bench = RigBench("EXPINIT", lease=30.0)
    bench.request("EXPINIT", {"exp_ref": REF})
    init = bench.due()
    bench.run(30.0)
    assert bench.events(HandlerOvertaken) == [HandlerOvertaken(init.task, ExpMessage.EXPINIT)]
    assert bench.agenda.status is STOPPED
    assert owner_of(bench) is None


def test_a_rig_that_belongs_to_nobody_never_interrupts() -> None:
    bench = RigBench("EXPINTERRUPT", lease=30.0)
    bench.probe()
    bench.run(1e4)
    assert bench.told == []


# --------------------------------------------------------------------------------------------------------- notices


def ack_notices(bench: RigBench, boot: str = COORDINATOR, source: Any = HERE) -> list[Any]:
    """Acknowledge confirmed notices until none comes any more; return their bodies."""
    bodies = []
    while pending := [frame for to, frame in bench.notices() if to == source and frame.confirm]:
        for frame in pending:
            bodies.append(frame.body)
            bench.receive(messages.ack(boot, frame.n), source)
        bench.sent()
    return bodies


def notify(
    bench: RigBench, body: Any, *, topic: str = "progress", key: str | None = None, confirm: bool = True
) -> None:
    bench.rig.notify(topic, key, body, confirm, bench.now)
    bench._collect()


def test_each_change_of_status_is_told_and_confirmed() -> None:
    bench = RigBench()
    bench.probe()
    bench.sent()
    bodies = []
    for event, args in (("EXPINIT", [{"exp_ref": REF}]), ("EXPSTART", []), ("EXPSTART", []), ("EXPEND", [])):
        bench.do(event, *args)
        bodies += ack_notices(bench)
    assert bodies == [
        {"status": name, "exp_ref": REF, "reason": None} for name in ("INITIALIZED", "RUNNING", "STOPPED")
    ]
    bench.do("EXPINIT", {"exp_ref": OTHER})
    bench.do("EXPCLEANUP")
    assert ack_notices(bench) == [
        {"status": "INITIALIZED", "exp_ref": OTHER, "reason": None},
        {"status": "CONNECTED", "exp_ref": None, "reason": None},
    ]


def test_a_status_that_the_lease_brought_about_is_told_with_its_reason() -> None:
    bench = RigBench(lease=4.0).enter("RUNNING")
    bench.probe()
    bench.run(2.0)
    ack_notices(bench)  # of what brought it here
    bench.run(4.0)
    ((to, frame), *_) = bench.notices("status")
    assert to == HERE
    assert frame.body["status"] == "STOPPED"
    assert "silent for the lease of 4 s" in frame.body["reason"]


def test_a_confirmed_notice_is_written_as_the_protocol_says() -> None:
    bench = RigBench()
    bench.probe()
    notify(bench, {"trial": 7}, topic="progress", key="k")
    assert bench.notices() == [(HERE, Notice(RIG, 2 * CHALLENGES + 1, "progress", "k", {"trial": 7}, True))]


def test_each_coordinator_gets_its_notices_one_at_a_time_and_in_order() -> None:
    bench = RigBench()
    bench.probe()
    bench.probe(ANOTHER, OTHER_HOST)
    for number in range(5):
        notify(bench, number)
    sent = bench.notices()
    assert [(to, frame.body) for to, frame in sent] == [(HERE, 0), (OTHER_HOST, 0)]
    bench.receive(messages.ack(ANOTHER, sent[0][1].n), OTHER_HOST)
    ((to, frame),) = bench.notices()
    assert (to, frame.body) == (OTHER_HOST, 1)
    bench.noticed.append((to, frame))
    assert ack_notices(bench, ANOTHER, OTHER_HOST) == [1, 2, 3, 4]
    bench.noticed.append(sent[0])
    assert ack_notices(bench) == [0, 1, 2, 3, 4]
    bench.run(4.0)
    assert bench.notices() == []


def test_an_acknowledgement_in_another_s_name_means_nothing() -> None:
    bench = RigBench()
    bench.probe()
    notify(bench, 0)
    notify(bench, 1)
    ((_, frame),) = bench.notices()
    bench.receive(messages.ack(COORDINATOR, frame.n), OTHER_HOST)
    bench.receive(messages.ack(ANOTHER, frame.n))
    assert bench.notices() == []


def test_a_notice_is_sent_again_with_back_off_until_it_is_acknowledged() -> None:
    bench = RigBench()
    bench.probe()
    notify(bench, 0)
    times = []
    begun = bench.now
    while bench.now < begun + 4.0:
        bench.run(0.01)
        times += [bench.now - begun for _ in bench.notices()]
    gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    assert len(times) > 4
    assert all(after >= before - 0.02 or before >= 1.0 - 0.02 for before, after in itertools.pairwise(gaps))


def test_notices_pause_while_the_coordinator_is_silent_and_go_on_when_it_is_heard() -> None:
    bench = RigBench()
    bench.probe()
    for number in range(3):
        notify(bench, number)
    bench.run(5.1)
    bench.notices()
    bench.run(60.0)
    assert bench.notices() == []
    notify(bench, 3)
    assert bench.notices() == []
    bench.run(50.0)
    bench.sent()
    bench.probe()
    assert ack_notices(bench) == [0, 1, 2, 3]


def test_a_coordinator_that_is_silent_for_longer_than_two_minutes_is_not_waited_for() -> None:
    bench = RigBench()
    bench.probe()
    bench.run(121.0)
    notify(bench, "lost")
    bench.probe()
    assert ack_notices(bench) == []
    notify(bench, "again")
    assert ack_notices(bench) == ["again"]


def test_who_has_ended_without_a_goodbye_is_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    bench = RigBench()
    bench.probe()
    notify(bench, "not heard")
    bench.run(121.0)
    notify(bench, "lost")
    (dropped,) = bench.events(NoticesDropped)
    assert dropped == NoticesDropped("10.0.0.1:50000", GONE, is_gone=True)
    told = dict(log_rules("cameras"))[NoticesDropped]
    with caplog.at_level("INFO", "rigsync.rig"):
        told(dropped)
        told(NoticesDropped("10.0.0.1:50000", BEHIND))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"cameras: 10.0.0.1:50000 misses notices: {GONE}"),
        ("WARNING", f"cameras: 10.0.0.1:50000 does not get every notice: {BEHIND}"),
    ]


def test_who_was_gone_and_is_back_is_warned_of_if_it_misses_notices_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigsync.core.notices.WAITING", 20)
    bench = RigBench()
    bench.probe()
    notify(bench, "not heard")
    bench.run(121.0)
    notify(bench, "lost")
    bench.probe()
    for number in range(30):
        notify(bench, number)
    assert [event.reason for event in bench.events(NoticesDropped)] == [GONE, BEHIND]


def test_after_a_goodbye_nothing_more_is_sent() -> None:
    bench = RigBench()
    bench.probe()
    for number in range(3):
        notify(bench, number)
    bench.notices()
    bench.receive(messages.bye(COORDINATOR, 9, "closing"))
    notify(bench, 3)
    notify(bench, 4, confirm=False)
    bench.run(60.0)
    assert bench.notices() == []


def test_that_too_many_notices_wait_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigsync.core.notices.WAITING", 256)
    bench = RigBench()
    bench.probe()
    for number in range(300):
        notify(bench, number)
    bench.run(2.0)
    (dropped,) = bench.events(NoticesDropped)
    assert dropped == NoticesDropped("10.0.0.1:50000", BEHIND, is_gone=False)
    bench.probe()
    last = bench.notices()[-1]
    bench.noticed.append(last)
    assert ack_notices(bench) == [0, *range(45, 300)]
    for number in range(300):
        notify(bench, number)
    bench.run(2.0)
    assert bench.events(NoticesDropped) == []


def test_the_owner_is_told_why_its_experiment_ended_however_long_it_was_away() -> None:
    bench = RigBench(lease=300.0).enter("RUNNING")
    bench.probe()
    ack_notices(bench)
    bench.run(400.0)
    assert bench.agenda.status is STOPPED
    bench.noticed.clear()
    bench.probe()
    assert any("silent for the lease" in str(body) for body in ack_notices(bench))
    assert "silent for the lease of 300 s" in ended_badly(bench)


def test_a_repeat_moves_the_instant_of_what_still_waits() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    n = bench.request("EXPSTART", delay=5.0)
    bench.run(1.0)
    bench.request("EXPSTART", n=n, delay=4.1)
    bench.run(4.05)
    assert bench.events(HandlerDue) == []
    bench.run(0.1)
    due = bench.due()
    assert due.schedule is not None
    assert due.schedule.instant == pytest.approx(105.1, abs=1e-6)


def test_a_repeat_moves_no_instant_further_than_one_may_be() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    n = bench.request("EXPSTART", delay=5.0)
    bench.request("EXPSTART", n=n, delay=1e9)
    bench.run(5.0)
    assert bench.due().schedule is not None


@pytest.mark.parametrize("size", [1000, ONE_PACKET, ONE_PACKET + 1, 31_000])
def test_beside_a_large_answer_that_is_asked_for_again_goes_a_small_word_that_it_is_done(size: int) -> None:
    bench = RigBench("EXPINFO")
    answer = b""
    for _ in range(2):  # the first shows how long one is without the text
        n = bench.request("EXPINFO")
        bench.respond(bench.due().task, {"text": "x" * (size - len(answer) if answer else 0)})
        (answer,) = bench.sent()
    assert len(answer) == size
    bench.request("EXPINFO", n=n)
    *acks, again = bench.sent()
    assert again == answer
    assert [decode(data) for data in acks] == ([Ack(RIG, n, len(answer), to=COORDINATOR)] if size > ONE_PACKET else [])


def test_what_was_not_confirmed_goes_once_more_before_the_goodbye() -> None:
    bench = RigBench()
    bench.probe()
    for number in range(3):
        notify(bench, number)
    bench.noticed.clear()
    bench.rig.farewell(bench.now)
    bench._collect()
    assert [frame.body for _, frame in bench.notices()] == [0, 1, 2]
    assert isinstance(bench.answers()[-1], messages.Bye)


def test_unconfirmed_notices_go_once_to_whoever_watches() -> None:
    bench = RigBench()
    bench.probe()
    bench.run(3.0)
    bench.probe(ANOTHER, OTHER_HOST)
    bench.run(2.5)
    notify(bench, "x", confirm=False)
    assert [(to, frame.body, frame.confirm) for to, frame in bench.notices()] == [(OTHER_HOST, "x", False)]
    bench.run(2.0)
    bench.probe()
    assert bench.notices() == []


def test_who_begins_to_watch_is_told_at_once_what_is_wrong() -> None:
    bench = RigBench()
    bench.rig.notify("failure", "left.mp4", {"problem": "stopped growing"}, True, bench.now)
    bench.probe()
    ((_, notice),) = bench.notices()
    assert (notice.topic, notice.key) == ("failure", "left.mp4")


def test_only_who_probes_gets_notices() -> None:
    bench = RigBench()
    bench.do("EXPSTATUS")
    bench.array(ExpMessage.EXPSTATUS, 0, source=OTHER_PORT)
    for confirm in (True, False):
        notify(bench, "x", confirm=confirm)
    assert bench.notices() == []
    bench.probe()
    bench.do("EXPSTATUS")
    notify(bench, "y", confirm=False)
    assert [(to, frame.body) for to, frame in bench.notices("progress")] == [(HERE, "y")]


def test_forged_coordinators_do_not_make_a_rig_send_to_a_thousand() -> None:
    bench = RigBench()
    bench.probe()
    for number in range(1000):
        bench.probe(f"{number:016x}", (f"10.1.{number >> 8}.{number & 255}", 1000))
    bench.sent()
    for confirm in (True, False):
        notify(bench, "x", confirm=confirm)
        sent = bench.notices()
        assert len(sent) == WATCHERS
        assert HERE in [to for to, _ in sent]


def test_who_was_silent_for_long_makes_room_for_others() -> None:
    bench = RigBench()
    for number in range(WATCHERS):
        bench.probe(f"{number:016x}", ("10.1.0.1", number + 1))
    bench.now += 130.0
    bench.probe()
    notify(bench, "x")
    assert [to for to, _ in bench.notices()] == [HERE]


def test_the_owner_gets_notices_whoever_probed_before() -> None:
    """64 forged coordinators that keep probing must not keep the owner from them."""
    bench = RigBench()
    for number in range(WATCHERS):
        bench.probe(f"{number:016x}", ("10.1.0.1", number + 1))
    bench.probe()
    bench.sent()
    bench.enter("RUNNING")
    notify(bench, "x")
    bench.run(1.0)
    assert HERE in [to for to, _ in bench.notices()]


def test_with_nobody_there_a_notice_is_nobody_s() -> None:
    bench = RigBench()
    notify(bench, "x")
    bench.probe()
    bench.run(4.0)
    assert bench.notices() == []


def test_a_message_that_was_handled_is_told_to_the_others_than_the_asking_one() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.probe()
    bench.probe(ANOTHER, OTHER_HOST)
    bench.sent()
    bench.request("EXPSTART")
    bench.fail(bench.due().task, "OSError", "disk\nfull")
    assert [(to, frame.topic, frame.key, frame.confirm) for to, frame in bench.notices()] == [
        (OTHER_HOST, "log", "message", False)
    ]
    bench.do("EXPINFO")
    (body,) = [frame.body for to, frame in bench.notices("log") if to == OTHER_HOST]
    assert body == {"message": "EXPINFO", "from": "10.0.0.1:50000", "error": None}


def test_what_failed_is_told_on_one_line() -> None:
    bench = RigBench("EXPINFO")
    bench.probe(ANOTHER, OTHER_HOST)
    bench.request("EXPINFO")
    bench.fail(bench.due().task, "OSError", "disk\nfull" + "x" * 5000)
    ((_, frame),) = bench.notices("log")
    assert frame.body["error"] == "OSError: disk\\nfull" + "x" * 982 + "..."


@pytest.mark.parametrize("character", ["x", "é", "🐭", "\0", "\ud800", "\U000e0001"])
def test_no_failure_is_too_long_to_be_told(character: str) -> None:
    bench = RigBench("EXPINFO")
    bench.probe(ANOTHER, OTHER_HOST)
    bench.sent()
    bench.request("EXPINFO")
    bench.fail(bench.due().task, character * 70_000, character * 70_000, character * 70_000)
    assert len(bench.notices("log")) == 1
    assert isinstance(bench.answer(), Failure)


def test_what_the_rig_does_by_itself_is_told_to_all() -> None:
    bench = RigBench(lease=3.0).enter("RUNNING")
    bench.probe()
    bench.probe(ANOTHER, OTHER_HOST)
    bench.run(3.0)
    assert [to for to, frame in bench.notices("log") if frame.body["from"] == "the rig itself"] == [HERE, OTHER_HOST]


def test_no_notice_shows_arguments_or_tokens() -> None:
    bench = RigBench("ALYX", "EXPINIT")
    bench.probe(ANOTHER, OTHER_HOST)
    bench.receive(messages.request(COORDINATOR, 1, Message.of(ExpMessage.ALYX, ["https://a", {"ana": "SECRET"}]), RIG))
    bench.respond(bench.due().task, ("https://a", {"ana": "SECRET"}))
    bench.n = 1
    bench.do("EXPINIT", {"exp_ref": REF, "password": "SECRET"}, returned={"password": "SECRET"})
    told = bench.notices()
    assert len(told) > 2
    assert all("SECRET" not in repr(frame.body) for _, frame in told)


def test_a_notice_over_the_size_limit_is_refused_and_nothing_is_sent() -> None:
    bench = RigBench()
    bench.probe()
    for confirm in (True, False):
        with pytest.raises(PayloadTooLarge, match=r"at most 65,507"):
            notify(bench, "x" * MAX_DATAGRAM, confirm=confirm)
    bench.run(4.0)
    assert bench.notices() == []
    notify(bench, "small")
    assert ack_notices(bench) == ["small"]


def test_acknowledgements_of_nothing_do_no_harm() -> None:
    bench = RigBench()
    bench.probe()
    for n in (0, 1, 2**63 - 1):
        bench.receive(messages.ack(COORDINATOR, n))
    notify(bench, "x")
    assert ack_notices(bench) == ["x"]
    assert bench.rig.violations == {}


@given(
    st.lists(
        st.sampled_from(["notify", "notify", "probe", "ack", "ack", "old ack", "lose", "pass", "wait"]), max_size=60
    )
)
@settings(deadline=None)
def test_over_any_network_confirmed_notices_come_once_and_in_order(steps: list[str]) -> None:
    bench, told, heard = RigBench(), NoticeFilter(), []
    bench.probe()
    number, acks = 0, []
    for step in steps:
        if step == "notify":
            number += 1
            notify(bench, number)
        elif step == "probe":
            bench.probe()
        elif step in ("ack", "old ack") and acks:
            bench.receive(messages.ack(COORDINATOR, acks[-1 if step == "ack" else 0]))
        elif step == "pass":
            bench.run(0.3)
        elif step == "wait":
            bench.run(20.0)
            bench.probe()
        for _, frame in bench.notices():
            if step != "lose":
                acks.append(frame.n)
                heard += [frame.body] * told.is_new(frame)
    bench.probe()
    bench.run(2.0)
    while sent := bench.notices():
        for _, frame in sent:
            heard += [frame.body] * told.is_new(frame)
            bench.receive(messages.ack(COORDINATOR, frame.n))
        bench.probe()
        bench.run(2.0)
    assert heard == list(range(1, number + 1))


# ----------------------------------------------------------------------------------------------------- transports


def test_how_large_an_answer_may_be_depends_on_the_transport() -> None:
    bench = RigBench("EXPINFO", room=Room(100_000, None, "tcp"))
    bench.request("EXPINFO")
    bench.respond(bench.due().task, {"a": "x" * 90_000})
    assert len(bench.sent()[-1]) > 90_000
    bench.request("EXPINFO")
    bench.respond(bench.due().task, {"a": "x" * 100_000})
    failure = bench.answer()
    assert isinstance(failure, Failure)
    assert failure.error == "PayloadTooLarge"
    assert "max_message" in failure.message


def test_what_a_transport_rejects_is_reported_and_counted() -> None:
    bench = RigBench()
    for _ in range(2):
        bench.rig.report_violation(HERE, RemoteProtocolError("cut message", "why"))
    bench.receive(messages.bye(COORDINATOR, 1, ""))
    (seen,) = bench.events(ViolationSeen)
    assert (seen.kind, seen.problem) == ("cut message", "cut message: why")
    assert bench.rig.violations == {"cut message": 2}


# -------------------------------------------------------------------------------------------------- commands


def test_a_command_is_handed_to_its_handler_and_its_value_is_the_answer() -> None:
    bench = RigBench(commands=["focus"])
    n = bench.call("focus", 1, z=2.5)
    due = bench.due()
    assert (due.event, due.args, due.schedule) == (Command("focus"), [[1], {"z": 2.5}], None)
    bench.respond(due.task, [1, {"at": 2.5}])
    answer = bench.answer()
    assert isinstance(answer, Reply)
    assert (answer.n, answer.args) == (n, [[1, {"at": 2.5}]])
    (handled,) = bench.events(MessageHandled)
    assert (handled.event.name, handled.error) == ("focus", None)


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, "text", [[]]])
def test_any_value_is_the_answer_to_a_command(value: Any) -> None:
    bench = RigBench(commands=["focus"])
    bench.call("focus")
    bench.respond(bench.due().task, value)
    assert bench.answer().args == [value]


def test_a_repeated_command_is_never_run_twice() -> None:
    bench = RigBench(commands=["focus"])
    n = bench.call("focus")
    due = bench.due()
    bench.call("focus", n=n)
    assert bench.answer() == Ack(RIG, n)
    bench.respond(due.task, 7)
    first = bench.sent()
    bench.call("focus", n=n)
    assert bench.sent() == first
    bench.call("focus")
    bench.call("focus", n=n - 1)
    assert len(bench.events(HandlerDue)) == 1


@pytest.mark.parametrize("status", ["CONNECTED", "INITIALIZED", "RUNNING", "STOPPED"])
def test_a_command_changes_no_status(status: str) -> None:
    bench = RigBench(commands=["focus"]).enter(status)
    reference = bench.agenda.exp_ref
    bench.call("focus")
    bench.respond(bench.due().task, {"status": 0, "exp_ref": "other"})
    assert (bench.agenda.status.name, bench.agenda.exp_ref) == (status, reference)
    assert bench.answer().args == [{"status": 0, "exp_ref": "other"}]
    assert bench.events(StatusChanged) == []


def test_commands_run_beside_each_other_and_beside_a_lifecycle_handler() -> None:
    bench = RigBench("EXPINIT", commands=["focus"])
    bench.request("EXPINIT")
    bench.due()
    for _ in range(QUERIES):
        bench.call("focus")
    running = bench.events(HandlerDue)
    assert len(running) == QUERIES
    bench.call("focus")
    assert bench.events(HandlerDue) == []
    bench.respond(running[0].task)
    assert len(bench.events(HandlerDue)) == 1


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING", "STOPPED"])
def test_a_command_of_another_coordinator_than_the_owner_is_refused(status: str) -> None:
    bench = RigBench(commands=["focus"]).enter(status)
    bench.call("focus", boot="9" * 16, n=1, source=OTHER_HOST)
    assert bench.events(HandlerDue) == []
    answer = bench.answer()
    assert isinstance(answer, Failure)
    assert answer.error == "BusyError"
    assert "focus refused" in answer.message
    bench.call("focus")
    assert bench.due().event == Command("focus")


@pytest.mark.parametrize("status", ["CONNECTED", "INITIALIZED", "RUNNING", "STOPPED"])
def test_what_a_rig_lacks_may_be_asked_by_anybody_at_any_time_and_changes_nothing(status: str) -> None:
    bench = RigBench(commands=[CHECK.name]).enter(status)
    owner = owner_of(bench)
    bench.call(CHECK.name, boot="9" * 16, n=1, source=OTHER_HOST)
    bench.respond(bench.due().task, {"problems": []})
    assert bench.answer().args == [{"problems": []}]
    assert (bench.agenda.status.name, owner_of(bench)) == (status, owner)


def test_a_rig_that_cannot_say_what_it_lacks_says_so_to_anybody() -> None:
    bench = RigBench().enter("RUNNING")
    bench.call(CHECK.name, boot="9" * 16, n=1, source=OTHER_HOST)
    assert bench.answer().error == "UnknownCommand"


def test_an_unknown_command_is_refused_with_those_there_are_the_closest_first() -> None:
    bench = RigBench("EXPINIT", commands=["shutter", "focus"])
    bench.call("fokus")
    answer = bench.answer()
    assert (answer.error, answer.message.partition("; ")[2]) == ("UnknownCommand", "it has: focus, shutter")
    assert "'fokus'" in answer.message
    assert bench.events(HandlerDue) == []


def test_a_rig_without_commands_says_so() -> None:
    bench = RigBench()
    bench.call("focus")
    assert bench.answer().message == "the rig has no command 'focus'; it has: (none)"


def test_a_command_may_be_added_while_the_rig_serves() -> None:
    bench = RigBench()
    bench.handled.add(Command("focus"))
    bench.call("focus")
    assert bench.due().event == Command("focus")


def test_a_failed_command_tells_type_text_and_traceback() -> None:
    bench = RigBench(commands=["focus"])
    n = bench.call("focus")
    bench.fail(bench.due().task, "OSError", "stuck", "Traceback ...")
    assert bench.answer() == Failure(RIG, n, "OSError", "stuck", "Traceback ...")


@pytest.mark.parametrize(("value", "error"), [("x" * 70_000, "PayloadTooLarge"), (object(), "PayloadError")])
def test_a_value_that_cannot_be_sent_is_a_failure(value: object, error: str) -> None:
    bench = RigBench(commands=["focus"])
    bench.call("focus")
    bench.respond(bench.due().task, value)
    answer = bench.answer()
    assert (answer.error, "the handlers' result cannot be sent" in answer.message) == (error, True)


def test_a_command_for_another_boot_of_the_rig_is_not_run() -> None:
    bench = RigBench(commands=["focus"])
    bench.receive(messages.request(COORDINATOR, 1, compose_command("focus", (), {}), "d" * 16))
    assert bench.answer().error == "RigRestarted"
    assert bench.events(HandlerDue) == []


def test_an_interrupt_lets_a_command_that_runs_go_on() -> None:
    bench = RigBench("EXPINTERRUPT", commands=["focus"]).enter("RUNNING")
    bench.call("focus")
    due = bench.due()
    bench.request("EXPINTERRUPT")
    bench.respond(bench.due().task)
    assert bench.agenda.is_open(due.task)
    bench.respond(due.task, 1)
    assert not bench.agenda.is_open(due.task)


@pytest.mark.parametrize(
    "changes",
    [
        {"event": "EXPINFO"},
        {"command": None},
        {"args": []},
        {"args": [{}, []]},
        {"command": "EXPINIT"},
        {"command": "x" * 101},
    ],
)
def test_a_malformed_command_is_counted_and_told_once(changes: dict[str, Any]) -> None:
    bench = RigBench(commands=["focus"])
    content = json.loads(messages.request(COORDINATOR, 1, compose_command("focus", (), {}), RIG)) | changes
    for _ in range(2):
        bench.receive(json.dumps(content).encode())
    assert bench.sent() == []
    assert len(bench.events(ViolationSeen)) == 1
    assert bench.rig.violations == {"malformed frame": 2}
    bench.call("focus")
    assert bench.due().event == Command("focus")


def test_others_that_watch_are_told_the_command_s_name() -> None:
    bench = RigBench(commands=["focus"])
    bench.probe(boot="9" * 16, source=OTHER_HOST)
    bench.sent()
    bench.call("focus", "SECRET")
    bench.respond(bench.due().task, "SECRET")
    ((_, notice),) = bench.notices("log")
    assert notice.body == {"message": "focus", "from": "10.0.0.1:50000", "error": None}


# ------------------------------------------------------------------------------------------ which program it is


PROGRAM = "task.py, pid 4711, started 14:03:11"


def with_program(bench: RigBench, boot: str, source: tuple[str, int], program: str | None) -> None:
    bench.receive(messages.probe(boot, 77, 123, program=program), source)
    bench.sent()


def test_a_refusal_names_the_program_that_is_in_charge() -> None:
    bench = RigBench(*LIFECYCLE)
    with_program(bench, COORDINATOR, ("10.0.0.1", 60_000), PROGRAM)
    bench.enter("RUNNING")
    assert f"refused: the coordinator on 10.0.0.1 ({PROGRAM}) is in charge of {REF}" in foreign(bench, "EXPEND").message
    with_program(bench, ANOTHER, OTHER_HOST, PROGRAM)  # of the same name, on another computer
    assert f"refused: the coordinator on 10.0.0.1 ({PROGRAM})" in foreign(bench, "EXPEND").message


@pytest.mark.parametrize("program", [None, ""])
def test_a_coordinator_of_the_version_before_is_named_by_its_computer(program: str | None) -> None:
    bench = RigBench(*LIFECYCLE)
    with_program(bench, COORDINATOR, ("10.0.0.1", 60_000), program)
    with_program(bench, ANOTHER, OTHER_HOST, program)
    bench.enter("RUNNING")
    assert "refused: the coordinator on 10.0.0.1 is in charge of" in foreign(bench, "EXPEND").message


def test_what_a_stranger_says_of_its_program_is_one_short_line() -> None:
    bench = RigBench(*LIFECYCLE)
    with_program(bench, COORDINATOR, ("10.0.0.1", 60_000), "\x1b[2J\nall is well\n" + 5_000 * "x")
    bench.enter("RUNNING")
    text = foreign(bench, "EXPEND").message
    assert text.isprintable()
    assert "(\\x1b[2J\\nall is well" in text
    assert len(text) < 600


# ------------------------------------------------------------------------------------------------ a rig that closes


CLOSING = "the rig's program is being closed"


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING"])
def test_closing_interrupts_what_is_under_way_and_tells_why(status: str) -> None:
    bench = RigBench(*LIFECYCLE).enter(status)
    bench.probe()
    bench.run(1.0)
    while found := bench.notices("status"):  # each is sent when the one before is confirmed
        bench.receive(messages.ack(COORDINATOR, found[-1][1].n))
    bench.close(CLOSING)
    due = bench.due()
    assert (due.event, due.args) == (ExpMessage.EXPINTERRUPT, [{"reason": CLOSING}])
    assert bench.agenda.is_under_way
    bench.respond(due.task)
    assert not bench.agenda.is_under_way
    assert bench.agenda.status is STOPPED
    (_, notice), *_ = bench.notices("status")[-1:]
    assert notice.body == {"status": "STOPPED", "exp_ref": REF, "reason": CLOSING}


@pytest.mark.parametrize("status", ["CONNECTED", "STOPPED"])
def test_closing_interrupts_nothing_where_nothing_is_under_way(status: str) -> None:
    bench = RigBench(*LIFECYCLE).enter(status)
    bench.close(CLOSING)
    assert bench.events(HandlerDue) == []
    assert not bench.agenda.is_under_way


@pytest.mark.parametrize("event", ["EXPINIT", "EXPSTART"])
def test_nothing_begins_at_a_rig_that_closes(event: str) -> None:
    bench = RigBench(*LIFECYCLE).enter("RUNNING")
    bench.close(CLOSING)
    due = bench.due()
    n = bench.request(event, {"exp_ref": REF} if event == "EXPINIT" else REF)  # which waits for the interrupt
    bench.respond(due.task)
    (refused,) = [frame for frame in bench.answers() if isinstance(frame, Failure) and frame.n == n]
    assert (refused.error, refused.message) == ("NotRunning", f"{CLOSING}; start it again")
    assert bench.events(HandlerDue) == []
    assert ended_badly(bench) == CLOSING
