"""The rig's view of its coordinators, datagram by datagram (PROTOCOL.md sections 1 to 4)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync.config import Room
from rigsync.errors import RemoteProtocolError
from rigsync.protocol import messages
from rigsync.protocol.arguments import compose
from rigsync.protocol.coordinators import COORDINATORS, RECORDS, REPEAT_WINDOW
from rigsync.protocol.echo_guard import MOST
from rigsync.protocol.events import (
    EchoMissing,
    HandlerDue,
    HandlerOvertaken,
    MessageHandled,
    StatusChanged,
    ViolationSeen,
)
from rigsync.protocol.messages import (
    COORDINATOR_MARK,
    NULL_MESSAGE,
    PROTOCOL_VERSION,
    RIG_MARK,
    Ack,
    Alive,
    Array,
    Bye,
    ExpMessage,
    ExpStatus,
    Failure,
    Message,
    Reply,
    decode,
)
from rigsync.protocol.responder import INTERRUPT_PATIENCE, QUERIES, WAITING, text_of

from .support import COORDINATOR, HERE, NAME, RIG, WALL, RigBench

REF = "2024-01-02_1_mouse"
OTHER = "2024-01-02_2_mouse"
OTHER_PORT = ("10.0.0.1", 50_777)
OTHER_HOST = ("10.0.0.9", 50_000)
CONNECTED, INITIALIZED, RUNNING, STOPPED = ExpStatus.__members__.values()
LIFECYCLE = ("EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP")


# -------------------------------------------------------------------------------------------------- probes


def test_a_probe_is_answered_with_the_state_of_the_rig() -> None:
    bench = RigBench(version="0.1.0").enter("RUNNING")
    bench.now += 2.0
    bench.receive(messages.probe(COORDINATOR, 7, 123), ("10.0.0.1", 60_000))
    ((destination, data),) = bench.outbox
    assert destination == ("10.0.0.1", 60_000)
    stamp = WALL + 2_000_000_000
    assert decode(data) == Alive(RIG, 7, 123, stamp, stamp, NAME, RUNNING, REF, "0.1.0")


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
    assert decode(data) == Bye(RIG, 0, "the rig is closing")


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
    assert bench.rig.status is INITIALIZED
    assert bench.run(1) is None
    assert bench.outbox == []


def test_a_handler_is_due_once_with_the_arguments() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT", {"exp_ref": REF, "more": [1]})
    due = bench.due()
    assert (due.event, due.args) == (ExpMessage.EXPINIT, [{"exp_ref": REF, "more": [1]}])
    assert bench.outbox == []
    assert bench.rig.status is CONNECTED  # it changes when the handler has succeeded
    bench.respond(due.task, {"frames": 3})
    frame = bench.answer()
    assert isinstance(frame, Reply)
    assert frame.args[0]["frames"] == 3
    assert bench.rig.status is INITIALIZED


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
    assert bench.outbox == []
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


def test_an_instant_to_act_at_is_refused_by_a_rig_that_does_not_know_it_yet() -> None:
    bench = RigBench("EXPINIT")
    data = messages.request(COORDINATOR, 1, compose("EXPINIT")).replace(b'"at":null', b'"at":1700000000000000000')
    bench.receive(data)
    frame = bench.answer()
    assert isinstance(frame, Failure)
    assert frame.error == "NotSupported"
    assert bench.events(HandlerDue) == []
    bench.n = 1
    assert isinstance(bench.do("EXPINIT"), Reply)


# ------------------------------------------------------------------------------------------ outcomes of handlers


def test_a_handler_that_fails_is_told_with_type_text_and_traceback_and_leaves_the_status() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    n = bench.request("EXPSTART")
    bench.fail(bench.due().task, "FileNotFoundError", "no disk D:", "Traceback ...")
    assert bench.answer() == Failure(RIG, n, "FileNotFoundError", "no disk D:", "Traceback ...")
    assert bench.rig.status is INITIALIZED
    assert bench.events(StatusChanged) == []
    (handled,) = bench.events(MessageHandled)
    assert (handled.source, handled.event) == ("10.0.0.1:50000", ExpMessage.EXPSTART)
    assert handled.error == "FileNotFoundError: no disk D:"


def test_a_handler_that_failed_may_be_tried_again() -> None:
    bench = RigBench("EXPSTART").enter("INITIALIZED")
    bench.request("EXPSTART")
    bench.fail(bench.due().task, "OSError")
    assert isinstance(bench.do("EXPSTART"), Reply)
    assert bench.rig.status is RUNNING


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
    assert bench.rig.status is INITIALIZED
    assert isinstance(bench.do("EXPEND"), Reply)  # nothing is stuck


def test_an_identity_that_cannot_be_sent_is_a_failure_and_no_crash() -> None:
    for description in (cyclic(), {"a": object()}, {"a": 10**5000}):
        bench = RigBench(experiment_description=description)
        frame = bench.do("EXPINIT")
        assert isinstance(frame, Failure)
        assert frame.error == "PayloadError"
        assert bench.rig.status is CONNECTED


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
    assert bench.rig.status is ExpStatus[status]
    bench.respond(bench.due().task)
    assert isinstance(bench.answer(), Reply)
    assert bench.rig.status is ExpStatus[after]


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
    assert bench.rig.status is ExpStatus[status]


@pytest.mark.parametrize(
    ("status", "event", "args", "text"),
    [
        (
            "CONNECTED",
            "EXPSTART",
            [REF],
            f"EXPSTART for {REF} refused: status is CONNECTED; allowed now: EXPINIT, EXPEND, EXPINTERRUPT, EXPCLEANUP",
        ),
        (
            "RUNNING",
            "EXPCLEANUP",
            [],
            f"EXPCLEANUP refused: status is RUNNING of {REF}; "
            "allowed now: EXPINIT (same reference), EXPSTART (same reference), EXPEND, EXPINTERRUPT",
        ),
        (
            "RUNNING",
            "EXPINIT",
            [{"exp_ref": OTHER}],
            f"EXPINIT for {OTHER} refused: status is RUNNING of {REF}; "
            "allowed now: EXPINIT (same reference), EXPSTART (same reference), EXPEND, EXPINTERRUPT",
        ),
    ],
)
def test_a_refusal_is_a_state_error_and_runs_no_handler(status: str, event: str, args: list[Any], text: str) -> None:
    bench = RigBench().enter(status)
    bench.handled.update(ExpMessage[name] for name in LIFECYCLE)
    n = bench.request(event, *args)
    assert bench.events(HandlerDue) == []
    assert bench.answer() == Failure(RIG, n, "StateError", text, "")
    assert bench.rig.status is ExpStatus[status]
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


def test_an_expinit_without_a_reference_is_never_a_no_op() -> None:
    bench = RigBench("EXPINIT").enter("INITIALIZED", reference=None)
    bench.request("EXPINIT", {"other": "data"})
    assert bench.due().args == [{"other": "data"}]


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
    assert bench.rig.exp_ref is None
    bench.do("EXPSTART", REF)
    assert bench.rig.exp_ref == REF
    assert isinstance(bench.do("EXPSTART", OTHER), Failure)


def test_another_experiment_s_expinit_changes_the_reference() -> None:
    bench = RigBench().enter("INITIALIZED")
    bench.do("EXPINIT", {"exp_ref": OTHER})
    assert bench.rig.exp_ref == OTHER


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
    assert bench.rig.status is STOPPED


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
    assert bench.rig.status is ExpStatus[status]
    assert bench.events(StatusChanged) == []


# ------------------------------------------------------------------------------------------------ EXPINTERRUPT


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING"])
def test_an_interrupt_whose_handler_fails_still_ends_stopped(status: str) -> None:
    bench = RigBench("EXPINTERRUPT").enter(status)
    n = bench.request("EXPINTERRUPT")
    bench.fail(bench.due().task, "OSError", "motor stuck")
    assert bench.answer() == Failure(RIG, n, "OSError", "motor stuck", "")
    assert (bench.rig.status, bench.rig.exp_ref) == (STOPPED, REF)


@pytest.mark.parametrize("returned", [{"a": object()}, [1], {"a": "x" * 70_000}], ids=str)
def test_an_interrupt_whose_result_cannot_be_sent_still_ends_stopped(returned: Any) -> None:
    bench = RigBench("EXPINTERRUPT").enter("RUNNING")
    bench.request("EXPINTERRUPT")
    bench.respond(bench.due().task, returned)
    assert isinstance(bench.answer(), Failure)
    assert bench.rig.status is STOPPED


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
    assert bench.rig.status is STOPPED
    bench.events()
    # What the overtaken handler says in the end is dropped.
    bench.respond(overtaken.task, {"late": True})
    assert (bench.outbox, bench.told) == ([], [])
    assert bench.rig.status is STOPPED
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
    assert bench.rig.status is INITIALIZED
    bench.respond(interrupt.task)
    assert isinstance(bench.answer(), Reply)
    assert bench.rig.status is STOPPED


def test_an_interrupt_without_a_handler_overtakes_as_well() -> None:
    bench = RigBench("EXPINIT")
    bench.request("EXPINIT")
    bench.request("EXPINTERRUPT")
    assert [type(frame) for frame in bench.answers()] == [Failure, Reply]
    assert bench.rig.status is STOPPED


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
        "exp_ref": bench.rig.exp_ref,
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
    bench = rig_with_identity(event).enter(status)
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
    assert messages.has_mark(answer, RIG_MARK)
    assert answer.startswith(b"[64,0,{")


def test_an_array_without_a_handler_is_echoed_and_answered_at_once() -> None:
    bench = RigBench()
    data = bench.array(ExpMessage.EXPSTATUS, 0)
    assert bench.sent() == [data, b"[32,0\t]"]


def test_the_echo_of_a_rigsync_coordinator_s_array_keeps_its_mark() -> None:
    bench = RigBench()
    data = messages.array(compose("EXPSTATUS"), COORDINATOR_MARK)
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
    answers = [destination for destination, data in bench.outbox if messages.has_mark(data, RIG_MARK)]
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
    bench = RigBench("EXPSTART", "EXPINTERRUPT").enter("INITIALIZED")
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
    assert bench.rig.status is STOPPED


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


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda event, n, boot: messages.request(boot * 16, n, compose(event)),
                st.sampled_from(list(ExpMessage.__members__)),
                st.integers(0, 9),
                st.sampled_from("12"),
            ),
            st.builds(lambda event: b"[%d,null]" % event, st.sampled_from(list(ExpMessage.__members__.values()))),
            st.sampled_from([b"[32,0\t]", messages.probe("1" * 16, 1, 0), messages.bye("1" * 16, 1, "")]),
            st.tuples(st.sampled_from(["respond", "fail", "run"]), st.integers(0, 30)),
        ),
        max_size=40,
    ),
    st.sets(st.sampled_from(list(ExpMessage.__members__))),
)
@settings(deadline=None, max_examples=200)
def test_whatever_comes_each_request_runs_at_most_once_and_nothing_spins(steps: list[Any], handled: set[str]) -> None:
    bench = RigBench(*handled)
    requests: set[tuple[str, int]] = set()
    arrays = 0
    for step in steps:
        if isinstance(step, bytes):
            bench.receive(step)
            if step.startswith(b'{"rigsync":1,"kind":"request"'):
                frame = decode(step)
                requests.add((frame.boot, frame.n))  # type: ignore[union-attr]
            arrays += step.startswith(b"[") and not step.endswith(b"\t]")
        elif step[0] == "run":
            bench.run(step[1] / 10)  # asserts that each timer is later than the last
        elif step[0] == "respond":
            bench.respond(step[1], {"a": 1})
        else:
            bench.fail(step[1], "OSError")
    assert len(bench.events(HandlerDue)) <= len(requests) + arrays


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
    assert bench.outbox == []
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
    assert bench.rig.status is STOPPED  # STOP comes through whatever waits


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
    assert bench.rig.exp_ref == f"2024-01-02_{WAITING - 1}_mouse"


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
        bench.request("EXPSTATUS", n=1, boot=f"{i:016x}", source=source)
        bench.receive(messages.probe(f"{i + 10**9:016x}", 1, 0), source)
        bench.array(ExpMessage.EXPSTATUS, 0, source=source)
        bench.receive(b"junk", source)
        bench.sent()
    coordinators = bench.rig._coordinators
    assert len(coordinators._known) == len(coordinators._lanes) == COORDINATORS
    assert len(bench.rig._tasks) == 0
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
    bench.request("EXPINIT", {"exp_ref": "2024-01-02_9_m"}, n=1, boot=other, source=("10.0.0.2", 1))
    bench.sent()
    bench.request("EXPINTERRUPT", n=2, boot=other, source=("10.0.0.2", 1))
    (overtaken,) = bench.answers()
    assert (overtaken.boot, overtaken.n, overtaken.error) == (RIG, 1, "Interrupted")
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
    assert bench.rig.status is STOPPED


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
    assert bench.rig.is_open(task)
    interrupt = messages.request(COORDINATOR, 9, compose("EXPINTERRUPT"))
    bench.rig.receive_datagram(interrupt, HERE, bench.now)
    assert not bench.rig.is_open(task)
    assert len(bench.rig.take_datagrams()) == 2


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
