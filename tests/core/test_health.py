"""What is wrong with a rig now, and why it has stopped: what it keeps, and what a coordinator has that comes late."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from rigsync.core import messages
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import LinkState
from rigsync.core.events import Notice as TheNotice
from rigsync.core.health import LONGEST, MOST, MOST_BYTES, Health, HealthView
from rigsync.core.messages import Alive, Notice, to_json
from rigsync.core.notices import KEPT, WAITING
from rigsync.core.outputs import Line

from .support import COORDINATOR, HERE, RIG, PeerBench, RigBench

REFERENCE, NEXT = "2024-01-02_1_mouse", "2024-01-02_2_mouse"
LATE, THERE = "d" * 16, ("10.0.0.2", 50_000)
"""A coordinator that comes late, and where it is."""
BOOTS = {HERE: COORDINATOR, THERE: LATE}
STOPPED = "left.mp4 has stopped growing"


def failure(problem: str = STOPPED, exp_ref: str | None = REFERENCE) -> dict[str, Any]:
    return {"problem": problem, "exp_ref": exp_ref}


class Bench(RigBench):
    """A rig, and coordinators that acknowledge what it tells them."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.acknowledging = {HERE, THERE}
        self.acknowledged: dict[Any, set[int]] = {HERE: set(), THERE: set()}
        self.received: list[tuple[Any, Notice]] = []

    def notify(self, topic: str, body: Any = None, key: str | None = None) -> None:
        self.rig.notify(topic, key, body, True, self.now)
        self._collect()

    def fail_with(self, problem: str = STOPPED, key: str | None = "left.mp4", exp_ref: str | None = REFERENCE) -> None:
        self.notify("failure", failure(problem, exp_ref), key)

    def _collect(self) -> None:
        super()._collect()
        while untold := [entry for entry in self.noticed if self._is_new(*entry)]:
            for where, frame in untold:
                self.acknowledged[where].add(frame.n)
                self.received.append((where, frame))
                self.rig.receive_datagram(messages.ack(BOOTS[where], frame.n), where, self.now)
            self.noticed.clear()
            super()._collect()

    def _is_new(self, where: Any, frame: Notice) -> bool:
        return frame.confirm and where in self.acknowledging and frame.n not in self.acknowledged[where]

    def heard(self, source: Any = HERE) -> list[Notice]:
        """Return what one coordinator was told since the last look, each notice once for each time that it waited."""
        found = [frame for where, frame in self.received if where == source]
        self.received = [entry for entry in self.received if entry[0] != source]
        return found

    def late(self) -> list[Notice]:
        """Have a coordinator come late; return what it is told."""
        self.acknowledged[THERE].clear()
        self.probe(LATE, THERE)
        return self.heard(THERE)

    @property
    def failures(self) -> dict[str, str]:
        return self.agenda.health.failures


@pytest.fixture
def bench() -> Bench:
    return Bench("EXPINIT", "EXPEND")


def bodies(told: list[Notice], topic: str) -> list[tuple[str | None, Any]]:
    found = [(notice.key, dict(notice.body)) for notice in told if notice.topic == topic]
    for _, body in found:
        body.pop("age", None)
    return found


# ------------------------------------------------------------------------------------------------- what is kept


def test_a_failure_stands_until_it_is_told_to_be_over(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.fail_with()
    bench.fail_with("the disk is full", "disk")
    assert bench.failures == {"left.mp4": STOPPED, "disk": "the disk is full"}
    bench.notify("recovered", {"problem": "left.mp4 grows again"}, "left.mp4")
    assert bench.failures == {"disk": "the disk is full"}
    bench.notify("recovered", None, "another")
    assert bench.failures == {"disk": "the disk is full"}


def test_one_without_a_key_is_one_thing_of_its_own(bench: Bench) -> None:
    bench.notify("failure", "something is odd")
    bench.fail_with()
    bench.notify("recovered")
    assert bench.failures == {"left.mp4": STOPPED}


def test_of_one_key_the_newest_stands(bench: Bench) -> None:
    bench.fail_with("one")
    bench.fail_with("two")
    assert bench.failures == {"left.mp4": "two"}


def test_other_topics_are_no_failures(bench: Bench) -> None:
    bench.notify("focus", failure(), "left")
    assert bench.failures == {}


def test_an_init_that_succeeds_settles_what_was_before_it(bench: Bench) -> None:
    bench.enter("STOPPED")
    bench.fail_with()
    bench.request("EXPINIT", {"exp_ref": NEXT})
    due = bench.due()
    assert bench.failures == {"left.mp4": STOPPED}  # it may be refused yet
    bench.fail_with("a loss of the experiment before", "loss")
    bench.fail_with("the new one is in doubt", "doubt", NEXT)
    bench.respond(due.task)
    assert bench.failures == {"doubt": "the new one is in doubt"}


def test_an_init_that_fails_settles_nothing(bench: Bench) -> None:
    bench.enter("STOPPED")
    bench.fail_with()
    bench.request("EXPINIT", {"exp_ref": NEXT})
    bench.fail(bench.due().task, "OSError", "disk full")
    assert bench.failures == {"left.mp4": STOPPED}


def test_a_cleanup_settles_everything_but_what_it_has_told_itself() -> None:
    bench = Bench("EXPCLEANUP").enter("STOPPED")
    assert isinstance(bench, Bench)
    bench.fail_with()
    bench.request("EXPCLEANUP")
    due = bench.due()
    bench.fail_with("camera did not end well", "camera")
    bench.respond(due.task)
    assert bench.failures == {"camera": "camera did not end well"}


@pytest.mark.parametrize("message", ["EXPSTART", "EXPINFO", "EXPSTATUS"])
def test_other_messages_settle_nothing(bench: Bench, message: str) -> None:
    bench.enter("INITIALIZED")
    bench.fail_with()
    bench.do(message)
    assert bench.failures == {"left.mp4": STOPPED}


def test_a_takeover_settles_nothing_and_is_told_what_is_wrong(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.fail_with()
    bench.receive(messages.bye(COORDINATOR, 0, "closing"))
    bench.request("EXPINIT", {"exp_ref": REFERENCE, "takeover": True}, boot=LATE, source=THERE, n=1)
    assert bodies(bench.heard(THERE), "failure") == [("left.mp4", failure())]
    assert bench.failures == {"left.mp4": STOPPED}


def test_an_end_that_has_failed_stands(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.request("EXPEND")
    bench.agenda.fail(bench.due().task, "EndedBadly", "left.mp4 is empty", "", bench.now, is_over=True)
    assert bench.failures == {"EXPEND": "EXPEND: EndedBadly: left.mp4 is empty"}
    assert bench.agenda.status is ExpStatus.STOPPED


def test_an_end_that_fails_and_then_succeeds_has_settled_that(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.request("EXPEND")
    bench.fail(bench.due().task, "OSError", "no camera")
    assert bench.failures == {"EXPEND": "EXPEND: OSError: no camera"}
    assert bench.agenda.status is ExpStatus.RUNNING
    bench.do("EXPEND")
    assert bench.failures == {}


@pytest.mark.parametrize("more", [0, 1])
def test_sixteen_kibibytes_of_failures_are_kept_and_no_byte_more(more: int) -> None:
    problems = {str(i): "x" * LONGEST for i in range(8)}
    problems["8"] = "x" * (MOST_BYTES - len(to_json({**problems, "8": ""})) + more)
    health, view = Health(), HealthView()
    for i, (key, problem) in enumerate(problems.items()):
        health.note("failure", key, {"problem": problem}, 0.0, i)
    view.receive(Notice("a" * 16, 1, "status", None, {"status": "RUNNING", "failures": problems}, True))
    assert [*health.failures] == [*view.failures] == [*problems][more:]


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    health = Health()
    for i in range(MOST + 3):
        health.note("failure", f"{i}", failure(), float(i), i)
    assert [*health.failures] == [f"{i}" for i in range(3, MOST + 3)]
    for i in range(20):
        health.note("failure", f"long {i}", failure("\u4f60" * 10_000), 0.0, 1000 + i)
    assert len(json.dumps(health.failures)) <= MOST_BYTES + 100
    assert [*health.failures] == ["long 19"]
    assert len(health.failures["long 19"]) == LONGEST


# -------------------------------------------------------------------------------- who begins to watch is told


def test_who_comes_late_is_told_what_is_wrong_and_since_when(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.fail_with()
    bench.run(30.0)
    (told,) = bench.late()
    assert (told.topic, told.key) == ("failure", "left.mp4")
    assert told.body == {**failure(), "age": 30.0}


def test_who_comes_late_is_told_why_the_rig_has_stopped(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.fail_with()
    bench.interrupt("the recorder has died")
    told = bench.late()
    assert [notice.topic for notice in told] == ["failure", "status"]
    assert bodies(told, "status") == [
        (
            None,
            {
                "status": "STOPPED",
                "exp_ref": REFERENCE,
                "reason": "the recorder has died",
                "failures": {"left.mp4": STOPPED},
            },
        )
    ]


def test_who_comes_late_is_told_of_a_bad_end(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.request("EXPEND")
    bench.agenda.fail(bench.due().task, "EndedBadly", "left.mp4 is empty", "", bench.now, is_over=True)
    assert bodies(bench.late(), "failure") == [("EXPEND", failure("EXPEND: EndedBadly: left.mp4 is empty"))]


def test_who_comes_late_is_told_nothing_where_nothing_is_wrong(bench: Bench) -> None:
    bench.enter("STOPPED")
    bench.fail_with()
    bench.notify("recovered", None, "left.mp4")
    assert bench.late() == []


def test_a_reason_is_settled_by_the_next_change_of_the_status(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.interrupt("the recorder has died")
    bench.do("EXPCLEANUP")
    assert bench.late() == []


def test_those_that_watch_are_told_the_state_when_no_notice_of_a_failure_tells_it(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.heard()
    bench.request("EXPEND")
    bench.fail(bench.due().task, "OSError", "no camera")
    wrong = {"failures": {"EXPEND": "EXPEND: OSError: no camera"}}
    assert bodies(bench.heard(), "status") == [
        (None, {"status": "RUNNING", "exp_ref": REFERENCE, "reason": None, **wrong})
    ]


def test_those_that_watch_are_told_where_a_second_init_settles_what_was_wrong(bench: Bench) -> None:
    bench.enter("INITIALIZED")
    bench.fail_with()
    bench.heard()
    bench.do("EXPINIT", {"exp_ref": REFERENCE, "box": 5})
    assert bodies(bench.heard(), "status") == [(None, {"status": "INITIALIZED", "exp_ref": REFERENCE, "reason": None})]
    bench.do("EXPINIT", {"exp_ref": REFERENCE, "box": 6})
    assert bench.heard() == []  # nothing is new


# --------------------------------------------------------------------------------------- nothing is told twice


def numbers(told: list[Notice]) -> list[int]:
    return [notice.n for notice in told]


def test_one_that_was_away_is_told_under_the_numbers_that_it_knows(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.late()
    bench.fail_with()
    (first,) = bench.heard(THERE)
    bench.run(KEPT + 1)
    bench.fail_with("the disk is full", "disk")
    assert bench.heard(THERE) == []  # it watches no longer
    told = bench.late()
    assert [notice.key for notice in told] == ["left.mp4", "disk"]
    assert numbers(told)[0] == first.n < numbers(told)[1]


def test_a_coordinator_takes_what_it_has_heard_for_a_repeat() -> None:
    bench = PeerBench().connected()
    bench.notice(5, failure(), topic="failure", key="left.mp4")
    bench.notice(7, None, topic="focus")
    bench.notice(5, {**failure(), "age": 130.0}, topic="failure", key="left.mp4")
    assert [event.topic for event in bench.events(TheNotice)] == ["failure", "focus"]
    assert len(bench.sent(Line.PROBES)) == 3  # acknowledged all the same


def test_one_for_which_too_many_waited_is_told_what_may_have_been_given_up(bench: Bench) -> None:
    bench.probe()
    bench.acknowledging.clear()
    bench.notify("focus", -1)
    bench.fail_with()
    for i in range(WAITING + 10):
        bench.notify("focus", i)
    bench.acknowledging.add(HERE)
    bench.run(0.2)
    told = bench.heard()
    assert [notice.key for notice in told if notice.topic == "failure"] == ["left.mp4"]
    assert numbers(told) == sorted(numbers(told))


def test_what_needs_a_new_number_comes_after_what_has_one() -> None:
    health = Health()
    for n in (4, None, 9, 7):
        health.note("failure", f"{n}", failure(), 0.0, n)
    assert [entry.n for entry in health.lasting(lost=-1)] == [4, 7, 9, None]
    assert [entry.n for entry in health.lasting(lost=7)] == [9, None, 4, 7]


# ----------------------------------------------------------------------------------------------------- EXPINFO


def test_the_information_has_what_is_wrong(bench: Bench) -> None:
    bench.enter("RUNNING")
    assert "failures" not in bench.do("EXPINFO").args[-1]
    bench.fail_with()
    assert bench.do("EXPINFO").args[-1]["failures"] == {"left.mp4": STOPPED}
    bench.interrupt("the recorder has died")
    info = bench.do("EXPINFO").args[-1]
    assert (info["failures"], info["interrupted"]) == ({"left.mp4": STOPPED}, "the recorder has died")
    assert "failures" not in bench.do("EXPINIT", {"exp_ref": NEXT}).args[-1]
    assert "failures" not in bench.do("EXPINFO").args[-1]


def test_a_coordinator_of_iblutil_is_told_it_too(bench: Bench) -> None:
    bench.enter("RUNNING", dialect="iblutil")
    bench.fail_with()
    assert bench.do_array(ExpMessage.EXPINFO, 20, None).args[-1]["failures"] == {"left.mp4": STOPPED}


def test_information_that_leaves_no_room_for_what_is_wrong_is_answered_without() -> None:
    bench = Bench("EXPINFO").enter("RUNNING")
    assert isinstance(bench, Bench)
    for i in range(10):
        bench.fail_with("x" * 1500, f"{i}")
    info = bench.do("EXPINFO", returned={"long": "y" * 60_000}).args[-1]
    assert len(info["long"]) == 60_000
    assert "failures" not in info


# ---------------------------------------------------------------------------------------- what a coordinator has


@pytest.fixture
def peer() -> PeerBench:
    return PeerBench().connected()


def status(
    peer: PeerBench, n: int, name: str, reason: str | None = None, failures: dict[str, str] | None = None
) -> None:
    more = {} if failures is None else {"failures": failures}
    peer.notice(n, {"status": name, "exp_ref": REFERENCE, "reason": reason, **more}, topic="status")


def test_a_coordinator_knows_what_is_wrong_until_it_is_over(peer: PeerBench) -> None:
    peer.notice(1, failure(), topic="failure", key="left.mp4")
    peer.notice(2, "odd", topic="failure")
    assert peer.peer.health.failures == {"left.mp4": STOPPED, "": "odd"}
    peer.notice(3, None, topic="recovered", key="left.mp4")
    assert peer.peer.health.failures == {"": "odd"}
    status(peer, 4, "STOPPED", "the recorder has died")
    assert (peer.peer.health.failures, peer.peer.health.reason) == ({"": "odd"}, "the recorder has died")


@pytest.mark.parametrize("name", ["INITIALIZED", "CONNECTED"])
def test_a_new_beginning_settles_it_but_for_what_it_names(peer: PeerBench, name: str) -> None:
    peer.notice(1, failure(), topic="failure", key="left.mp4")
    status(peer, 2, name, failures={"doubt": "in doubt"})
    assert peer.peer.health.failures == {"doubt": "in doubt"}
    status(peer, 3, name)
    assert peer.peer.health.failures == {}


def test_a_rig_of_the_version_before_names_nothing_and_what_it_has_told_stands(peer: PeerBench) -> None:
    peer.notice(1, failure(), topic="failure", key="left.mp4")
    status(peer, 2, "STOPPED", "the recorder has died")
    assert peer.peer.health.failures == {"left.mp4": STOPPED}
    status(peer, 3, "CONNECTED")
    assert (peer.peer.health.failures, peer.peer.health.reason) == ({}, None)


def test_a_program_that_is_started_anew_is_in_good_health(peer: PeerBench) -> None:
    peer.notice(1, failure(), topic="failure", key="left.mp4")
    peer.run(1.0)
    peer.alive(boot="b" * 16)
    assert peer.peer.health.failures == {}


@pytest.mark.parametrize(
    "body", [None, [], {"status": 3}, {"status": "MOVED"}, {"status": "STOPPED", "reason": 5, "failures": [1]}]
)
def test_malformed_ones_do_no_harm(peer: PeerBench, body: Any) -> None:
    peer.notice(1, body, topic="status")
    assert (peer.peer.health.failures, peer.peer.health.reason) == ({}, None)


def test_what_a_coordinator_keeps_of_a_rig_is_bounded() -> None:
    view = HealthView()
    for i in range(3 * MOST):
        view.receive(Notice(RIG, i, "failure", f"{i}", failure(), True))
    assert len(view.failures) == MOST
    view.receive(Notice(RIG, 999, "status", None, {"status": "RUNNING", "failures": {"a": "x" * 100_000}}, True))
    assert len(view.failures["a"]) == LONGEST


def test_a_rig_that_has_told_that_it_is_stopped_and_then_goodbye_has_ended(peer: PeerBench) -> None:
    def bye() -> None:
        peer.receive(messages.bye(RIG, 0, "the rig is closing"))

    status(peer, 1, "RUNNING")
    assert not peer.peer.has_ended
    status(peer, 2, "STOPPED", "the program is closed")
    assert not peer.peer.has_ended
    bye()
    assert peer.peer.has_ended


def test_a_rig_that_was_seen_to_run_since_may_go_on(peer: PeerBench) -> None:
    status(peer, 1, "STOPPED")
    peer.run(1.0)
    peer.alive(status=ExpStatus.RUNNING)
    peer.receive(messages.bye(RIG, 0, "the rig is closing"))
    assert not peer.peer.has_ended


# -------------------------------------------------------------------------------------- in the answer to a probe


def alive_of(bench: RigBench) -> Alive:
    """Return what a stranger is answered by a probe."""
    bench.outbox.clear()
    bench.probe(LATE, THERE)
    (alive,) = [frame for frame in bench.answers() if isinstance(frame, Alive)]
    return alive


def test_an_answer_to_a_probe_tells_how_many_things_are_wrong(bench: Bench) -> None:
    bench.enter("RUNNING")
    assert alive_of(bench).troubles is None
    bench.fail_with()
    bench.fail_with("the disk is full", "disk")
    assert alive_of(bench).troubles == 2
    bench.interrupt("the recorder has died")
    assert alive_of(bench).troubles == 3
    bench.notify("recovered", None, "disk")
    assert alive_of(bench).troubles == 2
    bench.do("EXPINIT", {"exp_ref": NEXT})
    assert alive_of(bench).troubles is None


def test_an_answer_to_a_probe_is_as_long_as_before_where_nothing_is_wrong(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.outbox.clear()
    bench.probe(LATE, THERE)
    (answer,) = [data for data in bench.sent() if b'"alive"' in data]
    assert not {"troubles", "silence", "lease"} & set(json.loads(answer))


def test_an_answer_to_a_probe_tells_how_long_the_owner_is_silent_and_when_the_rig_interrupts(bench: Bench) -> None:
    bench.enter("RUNNING")
    bench.run(4.9)
    alive = alive_of(bench)
    assert (alive.silence, alive.lease) == (None, None)
    bench.run(165.1)
    alive = alive_of(bench)
    assert (alive.owner, alive.silence, alive.lease) == (HERE[0], 170_000, 130_000)
    bench.probe()
    alive = alive_of(bench)
    assert (alive.owner, alive.silence, alive.lease) == (HERE[0], None, None)
    bench.receive(messages.bye(COORDINATOR, 9, "gone"))
    bench.run(1.0)
    alive = alive_of(bench)
    assert (alive.owner, alive.silence, alive.lease) == (None, None, 299_000)
    bench.run(300.0)
    alive = alive_of(bench)
    assert (alive.status, alive.silence, alive.lease, alive.troubles) == (ExpStatus.STOPPED, None, None, 1)


def test_a_rig_that_will_not_interrupt_tells_no_end_of_its_lease() -> None:
    bench = RigBench("EXPEND").enter("RUNNING")
    bench.do("EXPEND")
    bench.run(20.0)
    alive = alive_of(bench)
    assert (alive.status, alive.silence, alive.lease) == (ExpStatus.STOPPED, 20_000, None)


@pytest.mark.parametrize(("lease", "told"), [(0.0, None), (sys.float_info.max, 10**12)])
def test_a_lease_without_end_is_not_told_and_an_endless_one_can_be_read(lease: float, told: int | None) -> None:
    bench = RigBench(lease=lease).enter("RUNNING")
    bench.run(20.0)
    alive = alive_of(bench)
    assert (alive.silence, alive.lease) == (20_000, told)


def test_a_coordinator_knows_when_a_silent_owner_was_heard(peer: PeerBench) -> None:
    process = peer.peer.process
    peer.run(1.0)
    peer.alive(troubles=2, silence=170_000, lease=130_000)
    assert process.troubles == 2
    assert process.owner_heard == pytest.approx(peer.now - 170.0)
    assert process.interrupts_at == pytest.approx(peer.now + 130.0)
    peer.run(1.0)
    peer.alive()  # as a rig of the version before tells it, too
    assert (process.troubles, process.owner_heard, process.interrupts_at) == (None, None, None)


def test_a_coordinator_knows_when_it_has_last_heard_a_rig(peer: PeerBench) -> None:
    heard = peer.now
    assert PeerBench().peer.heard_at is None
    assert peer.peer.heard_at == heard
    peer.run(20.0)
    assert (peer.peer.state, peer.peer.heard_at) == (LinkState.LOST, heard)
