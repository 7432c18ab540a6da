"""What a coordinator and a rig have both written is shown once, and what they say differently twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journal.filling import T0, Filler, filling
from rigsync import Journal
from rigsync.journal.doubles import WINDOW, without_doubles


class Both:
    """A coordinator's session and its rig's."""

    def __init__(self, filler: Filler):
        self.filler = filler
        self.run, self.rig = filler.run(), filler.run("rig", "cameras")
        self.session, self.theirs = filler.session(self.run), filler.session(self.rig)

    def pushed(self, message: str, at: float, lasts: float, **more: Any) -> None:
        more.setdefault("answers", {"cameras": [{"status": 20}]})
        self.filler.push(self.run, self.session, message, at + lasts, request_time=T0 + at, **more)

    def heard(self, at: float, **body: Any) -> None:
        self.filler.record(self.run, self.session, "Notice", _notice(**body), at, rig="cameras")

    def told(self, kind: str, at: float, **data: Any) -> None:
        self.filler.record(self.rig, self.theirs, kind, data, at, rig="cameras")

    def notified(self, at: float, **body: Any) -> None:
        self.filler.record(self.rig, self.theirs, "Notice", _notice(**body), at, rig="cameras")


def _notice(topic: str = "log", key: str | None = None, **body: Any) -> dict[str, Any]:
    return {"topic": topic, "key": key, "body": body, "confirmed": True}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def both(file: Path) -> Iterator[Both]:
    with filling(file) as filler:
        yield Both(filler)


def shown(file: Path) -> list[tuple[str, str]]:
    """Return kind and writer of what is shown."""
    with Journal(file) as journal:
        records = without_doubles(journal.events(journal.session()), journal.run)
        return [(record.kind, journal.run(record.run).kind) for record in records]


RIG, TASK = "rig", "coordinator"


def test_an_order_that_was_answered_is_told_once(file: Path, both: Both) -> None:
    both.told("MessageHandled", 1.2, event="EXPSTART", error=None, source="10.0.0.1:5")
    both.told("StatusChanged", 1.2, before="INITIALIZED", after="RUNNING", exp_ref="x", reason=None)
    both.pushed("EXPSTART", 1, 40)  # another rig took that long
    assert shown(file) == [("PushCompleted", TASK)]


def test_an_order_whose_answer_never_came_is_told_by_both(file: Path, both: Both) -> None:
    both.told("MessageHandled", 1.2, event="EXPSTART", error=None, source="10.0.0.1:5")
    both.told("StatusChanged", 1.2, before="INITIALIZED", after="RUNNING", exp_ref="x", reason=None)
    lost = {"cameras": {"error": "RigTimeout", "problem": "no answer within 5 s"}}
    both.pushed("EXPSTART", 1, 5, answers={}, failures=lost)
    assert shown(file) == [("MessageHandled", RIG), ("StatusChanged", RIG), ("PushCompleted", TASK)]


def test_a_failure_is_told_once_where_both_give_the_same_reason(file: Path, both: Both) -> None:
    problem = "FileNotFoundError: " + "x" * 300
    both.told("MessageHandled", 1.2, event="EXPSTART", error=problem, source="10.0.0.1:5")
    both.pushed("EXPSTART", 1, 1, answers={}, failures={"cameras": {"error": "RemoteError", "problem": problem}})
    both.told("MessageHandled", 5.2, event="EXPEND", error="EndedBadly: no file", source="10.0.0.1:5")
    both.pushed("EXPEND", 5, 1, answers={}, failures={"cameras": {"error": "RigLost", "problem": "silent"}})
    assert shown(file) == [("PushCompleted", TASK), ("MessageHandled", RIG), ("PushCompleted", TASK)]


def test_the_order_of_another_program_is_told_by_the_rig(file: Path, both: Both) -> None:
    both.pushed("EXPSTART", 1, 1)
    both.told("MessageHandled", 30, event="EXPSTART", error=None, source="10.0.0.9:5")
    assert shown(file) == [("PushCompleted", TASK), ("MessageHandled", RIG)]


def test_notices_that_were_heard_are_told_once_each(file: Path, both: Both) -> None:
    for at in (1, 1.5, 2):
        both.notified(at, text="lick")
    for at in (1.01, 1.51):
        both.heard(at, text="lick")
    both.notified(3, text="another")
    assert shown(file) == [("Notice", TASK), ("Notice", TASK), ("Notice", RIG), ("Notice", RIG)]


@pytest.mark.parametrize(
    ("body", "other"),
    [
        ({"topic": "failure", "key": "disk", "problem": "full"}, {"problem": "full again"}),
        ({"topic": "status", "status": "STOPPED", "exp_ref": "x", "reason": "died"}, {"reason": "died again"}),
    ],
)
def test_what_is_still_wrong_is_told_once_and_what_is_wrong_again_once_more(
    file: Path, both: Both, body: dict[str, Any], other: dict[str, Any]
) -> None:
    both.heard(10, **body)
    for at in (30, 5000):  # programs that connect
        both.heard(at, **body, age=at - 10.01, failures={"lamp": "dark"})
    assert shown(file) == [("Notice", TASK)]
    both.heard(6000, **{**body, **other}, age=500.0)
    both.heard(6001, **body)
    both.heard(7000, **body, age=998.0)
    assert shown(file) == [("Notice", TASK)] * 3


def test_a_stream_is_told_once(file: Path, both: Both) -> None:
    for at, kind in enumerate(("StreamAdded", "StreamRemoved"), 1):
        both.told(kind, at, id="ffmpeg", info={"pid": 5})
        both.filler.record(both.run, both.session, kind, {"id": "ffmpeg", "info": {"pid": 5}}, at + 0.1, rig="cameras")
    both.told("StreamAdded", 5, id="ffmpeg", info={"pid": 6})
    assert shown(file) == [("StreamAdded", TASK), ("StreamRemoved", TASK), ("StreamAdded", RIG)]


def test_a_stream_is_told_once_though_each_program_that_connects_hears_of_it(file: Path, both: Both) -> None:
    def heard(kind: str, at: float, **data: Any) -> None:
        both.filler.record(both.run, both.session, kind, data, at, rig="cameras")

    heard("StreamAdded", 1, id="video", info={})
    heard("StreamAdded", 500, id="video", info={"fps": 30})
    heard("StreamAdded", 501, id="audio", info={})
    heard("StreamRemoved", 600, id="video", info={})
    heard("StreamAdded", 700, id="video", info={})
    heard("RestartSeen", 800)
    heard("StreamAdded", 801, id="audio", info={})
    kinds = ["StreamAdded", "StreamAdded", "StreamRemoved", "StreamAdded", "RestartSeen", "StreamAdded"]
    assert shown(file) == [(kind, TASK) for kind in kinds]


def test_whatever_a_fetched_journal_holds_is_shown(file: Path, both: Both) -> None:
    """It is another computer's, and may be another program's."""
    odd: list[dict[str, Any]] = [{"key": ["x"]}, {"key": {"y": []}}, {"reason": ["z"]}, {"problem": {"a": 1}}]
    for at, body in enumerate(odd):
        both.notified(at, **{"topic": "failure", **body})
    both.told("StreamAdded", 10, id=["video"])
    assert len(shown(file)) == 5


def test_an_order_whose_push_was_never_completed_is_told_by_the_rig(file: Path, both: Both) -> None:
    """The program was killed while it waited for another rig: nobody is shown an answer alone."""
    begun = {"request_time": T0 + 1, "event": "EXPSTART", "args": [], "rigs": ["cameras", "ephys"], "at": None}
    both.filler.record(both.run, both.session, "PushBegun", begun, 1)
    both.told("MessageHandled", 1.2, event="EXPSTART", error=None, source="10.0.0.1:5")
    answer = {"event": "EXPSTART", "args": None, "request_time": T0 + 1}
    both.filler.record(both.run, both.session, "MessageReceived", answer, 1.3, rig="cameras")
    assert ("MessageHandled", RIG) in shown(file)


def test_a_notice_that_was_heard_minutes_later_is_told_by_both(file: Path, both: Both) -> None:
    both.notified(1, topic="failure", problem="no frames")
    both.heard(100, topic="failure", problem="no frames")
    assert shown(file) == [("Notice", RIG), ("Notice", TASK)]


def test_why_a_rig_has_stopped_is_told_once(file: Path, both: Both) -> None:
    body = {"status": "STOPPED", "exp_ref": "x", "reason": "the lamp is broken"}
    both.told("StatusChanged", 1, before="RUNNING", after="STOPPED", exp_ref="x", reason="the lamp is broken")
    both.notified(1, topic="status", **body)
    both.heard(1.01, topic="status", **body)
    assert shown(file) == [("Notice", TASK)]
    both.told("StatusChanged", 50, before="RUNNING", after="STOPPED", exp_ref="x", reason="nobody is in charge")
    assert shown(file) == [("Notice", TASK), ("StatusChanged", RIG)]


def test_what_a_rig_tells_of_its_own_status_is_told_once(file: Path, both: Both) -> None:
    both.told("StatusChanged", 1, before="CONNECTED", after="INITIALIZED", exp_ref="x", reason=None)
    both.notified(1, topic="status", status="INITIALIZED", exp_ref="x", reason=None)
    assert shown(file) == [("StatusChanged", RIG)]


def test_a_status_that_an_answer_tells_is_told_once(file: Path, both: Both) -> None:
    both.heard(1.4, topic="status", status="RUNNING", exp_ref="x", reason=None)
    both.pushed("EXPSTART", 1, 1)
    both.heard(30, topic="status", status="RUNNING", exp_ref="x", reason=None)  # another program's doing
    both.heard(31, topic="status", status="STOPPED", exp_ref="x", reason="the lamp is broken")
    assert shown(file) == [("PushCompleted", TASK), ("Notice", TASK), ("Notice", TASK)]


def test_clocks_that_are_known_badly_are_allowed_for(file: Path, both: Both) -> None:
    """What a rig tells may lie as far from what was heard of it as the bound says."""
    about = f'{{"clock": {{"time": {T0 - 10}, "mono": 990}}}}'
    run = both.filler.run("rig", "cameras", collected='{"rig": "cameras"}', opened=T0 - 20, about=about)
    far = both.filler.session(run, began=T0 - 7)
    both.filler.sample(both.run, both.session, "cameras", 0.5, 0, bound=20)
    both.filler.record(run, far, "Notice", _notice(text="lick"), 3, shift=-10, mono=993)
    both.heard(3.01, text="lick")
    assert shown(file) == [("Sample", TASK), ("Notice", TASK)]


def test_a_long_history_is_gone_through_in_pieces(file: Path, both: Both) -> None:
    for number in range(40):
        both.told("MessageHandled", number * WINDOW / 8, event="EXPINFO", error=None, source="")
        both.pushed("EXPINFO", number * WINDOW / 8, 0.1)
    assert shown(file) == [("PushCompleted", TASK)] * 40


@pytest.mark.parametrize("data", [{}, {"answers": 7, "failures": [1]}, {"answers": {"cameras": "***"}}])
def test_records_of_another_form_are_told(file: Path, both: Both, data: dict[str, Any]) -> None:
    both.filler.record(both.run, both.session, "PushCompleted", data, 1)
    both.told("MessageHandled", 1)
    both.told("StatusChanged", 1)
    both.told("Notice", 1, topic="status", body=7)
    assert len(shown(file)) == 4
