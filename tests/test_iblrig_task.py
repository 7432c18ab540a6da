"""The calls that iblrig's task code makes of its coordinator, in their order, against rigs of both kinds."""

from __future__ import annotations

import datetime
import json
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from live_helpers import EchoServer
from processes import LONG, free_port

from rigsync.config.rigs import rigs_from
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.core.enums import PROTOCOL_VERSION, ExpMessage, ExpStatus
from rigsync.core.timing import Timing
from rigsync.errors import PushError, RigRefused
from rigsync.journal.query import Journal
from rigsync.rig.rig import Rig

REFERENCE = "2026-03-01_2_mouse"
DAY = {"date": datetime.date(2026, 3, 1), "sequence": 2, "subject": "mouse"}

Serve = Callable[..., Rig]

pytestmark = pytest.mark.filterwarnings("ignore:Expected list, got:RuntimeWarning")


class Session:
    """As much of a task as speaks to the rigs: who is there, which is the main sync, then through the experiment."""

    def __init__(self, clients: Any):
        self.exp_ref: str | None = None
        self.errors: list[Exception] = []
        self.remote_rigs = Auxiliaries(clients)
        assert not clients or self.remote_rigs.is_connected

    def _checked(self, outcome: Any) -> Any:
        if isinstance(outcome, Exception):
            self.errors.append(outcome)
            self.interrupt(outcome)
            raise outcome
        return outcome

    def communicate(self, message: Any, *args: Any) -> Any:
        return self._checked(self.remote_rigs.push(message, *args, wait=True))

    def connect(self) -> None:
        info = {
            "exp_ref": None,
            "main_sync": False,
            "master": True,
            "experiment_description": {
                "devices": {},
                "tasks": [{"choiceWorld": {"task_collection": "raw_task_data_00"}}],
            },
            "rig_version": "8.27.0",
            "spec_version": PROTOCOL_VERSION,
            "status": ExpStatus.CONNECTED,
        }
        answers = self.communicate("EXPINFO", "CONNECTED", info)
        assert isinstance(answers, dict)
        for answer in answers.values():
            status, told = answer
            assert ExpStatus(status) is ExpStatus.CONNECTED
            assert isinstance(told, dict)
        assert sum(answer[-1]["main_sync"] for answer in answers.values()) == 1
        main = next(answer[-1] for answer in answers.values() if answer[-1]["main_sync"])
        self.exp_ref = main["exp_ref"] or REFERENCE

    def init(self) -> Any:
        return self.communicate("EXPINIT", {"exp_ref": self.exp_ref})

    def start(self) -> Any:
        return self.communicate("EXPSTART", DAY)

    def stop(self) -> Any:
        return self.communicate("EXPEND")

    def interrupt(self, error: BaseException) -> Any:
        frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        report = {
            "error": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc(),
            "file": frame.filename if frame else None,
            "line_no": frame.lineno if frame else None,
        }
        return self.remote_rigs.push(ExpMessage.EXPINTERRUPT, report, wait=True)

    def close(self) -> None:
        self.remote_rigs.close()


def echo_answer(event: ExpMessage, data: list[Any]) -> list[Any]:
    """Answer as the iblrig side of another machine does."""
    info = {"exp_ref": None, "main_sync": False, "experiment_description": {}, "status": 0}
    if event is ExpMessage.EXPINFO:
        return [0, info]
    return [data[0], info] if event is ExpMessage.EXPSTART else [info]


class Lab:
    """A main sync and a camera PC that have rigsync, and an imaging PC that has iblutil."""

    def __init__(self, serve: Serve, echo: EchoServer, **handlers: Callable[..., Any]):
        self.told: list[tuple[str, str, tuple[Any, ...]]] = []
        self.ephys = serve("ephys", self._handlers("ephys"), main_sync=True)
        self.cameras = serve("cameras", {**self._handlers("cameras"), **handlers})
        self.echo = echo
        self.clients = {rig.name: rig.uri for rig in (self.ephys, self.cameras, echo)}

    def _handlers(self, name: str) -> dict[str, Callable[..., None]]:
        def handler(event: str) -> Callable[..., None]:
            return lambda *args: self.told.append((name, event, args))

        return {event: handler(event) for event in ExpMessage.__members__ if event not in ("ALYX", "EXPSTATUS")}

    def events_of(self, name: str) -> list[str]:
        if name == "imaging":
            return [event.name for event, _ in self.echo.calls]
        return [event for rig, event, _ in self.told if rig == name]


@pytest.fixture
def lab(serve: Serve) -> Any:
    with EchoServer("imaging", echo_answer) as echo:
        yield Lab(serve, echo)


def test_its_sessions_are_in_the_journal_as_the_documents_say(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "task.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(import functools\n.*?)```", page, re.DOTALL)
    package, net = ModuleType("iblrig"), ModuleType("iblrig.net")
    package.net = net  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "iblrig", package)
    monkeypatch.setitem(sys.modules, "iblrig.net", net)
    exec(program, {})
    monkeypatch.setenv("RIGSYNC_JOURNAL", str(tmp_path / "journal.sqlite"))
    monkeypatch.setattr(sys.modules[__name__], "Auxiliaries", net.Auxiliaries)  # as a task makes it
    session = Session(lab.clients)
    try:
        for step in (session.connect, session.init, session.start, session.stop):
            step()
    finally:
        session.close()
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert [(found.ref, found.outcome, sorted(found.rigs)) for found in journal.sessions()] == [
            (REFERENCE, "complete", ["cameras", "ephys", "imaging"])
        ]


def test_whole_session(lab: Lab) -> None:
    session = Session(lab.clients)
    try:
        session.connect()
        assert session.exp_ref == REFERENCE
        answers = session.init()
        assert sorted(answers) == ["cameras", "ephys", "imaging"]
        assert lab.ephys.exp_ref == lab.cameras.exp_ref == REFERENCE
        answers = session.start()
        assert [answer[0] for answer in answers.values()] == [REFERENCE] * 3
        assert {lab.ephys.status, lab.cameras.status} == {ExpStatus.RUNNING}
        answers = session.stop()
        assert {lab.ephys.status, lab.cameras.status} == {ExpStatus.STOPPED}
        assert answers["ephys"][0]["main_sync"] is True
    finally:
        session.close()
    assert session.errors == []
    assert not session.remote_rigs.is_running
    for name in ("ephys", "cameras", "imaging"):
        assert lab.events_of(name) == ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND"]
    # What the task tells of itself arrives whole, and as JSON has it.
    told = next(args for rig, event, args in lab.told if (rig, event) == ("cameras", "EXPINFO"))
    assert told[0] == 0
    assert told[1]["master"] is True
    assert json.loads(json.dumps(told[1])) == told[1]
    assert lab.echo.calls[0][1][1] == told[1]


def test_reference_of_the_main_sync_is_taken(serve: Serve) -> None:
    main = serve("ephys", {"EXPINFO": lambda *_: {"exp_ref": "2026-03-01_5_other"}}, main_sync=True)
    session = Session({"ephys": main.uri})
    try:
        session.connect()
        assert session.exp_ref == "2026-03-01_5_other"
        session.init()
        assert main.exp_ref == "2026-03-01_5_other"
    finally:
        session.close()


def test_failure_of_a_rig_interrupts_the_others(serve: Serve) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("camera 2 does not answer")

    with EchoServer("imaging", echo_answer) as echo:
        lab = Lab(serve, echo, EXPSTART=fail)
        session = Session(lab.clients)
        try:
            session.connect()
            session.init()
            with pytest.raises(PushError, match="camera 2 does not answer"):
                session.start()
            assert isinstance(session.errors[0], Exception)
            assert lab.ephys.status is lab.cameras.status is ExpStatus.STOPPED
            for name in ("ephys", "cameras", "imaging"):
                assert lab.events_of(name)[-1] == "EXPINTERRUPT"
            report = next(args[0] for rig, event, args in lab.told if (rig, event) == ("ephys", "EXPINTERRUPT"))
            assert report["error"] == "PushError"
            assert "camera 2 does not answer" in report["message"]
        finally:
            session.close()


def test_error_of_the_task_itself_interrupts(lab: Lab) -> None:
    session = Session(lab.clients)
    try:
        session.connect()
        session.init()
        session.start()
        try:
            raise ValueError("the valve is stuck")
        except ValueError as error:
            answers = session.interrupt(error)
        assert sorted(answers) == ["cameras", "ephys", "imaging"]
        report = next(args[0] for rig, event, args in lab.told if (rig, event) == ("cameras", "EXPINTERRUPT"))
        assert (report["error"], report["message"]) == ("ValueError", "the valve is stuck")
        assert report["file"] == __file__
        assert isinstance(report["line_no"], int)
        assert "the valve is stuck" in report["traceback"]
        assert {lab.ephys.status, lab.cameras.status} == {ExpStatus.STOPPED}
    finally:
        session.close()


def test_session_without_rigs() -> None:
    session = Session({})
    try:
        assert session.init() == session.start() == session.stop() == {}
    finally:
        session.close()


def test_session_refuses_to_begin_while_a_rig_is_missing(lab: Lab) -> None:
    clients = {**lab.clients, "missing": f"127.0.0.1:{free_port()}"}
    remote_rigs = Auxiliaries(rigs_from(clients, Timing(connect_timeout=0.3, lost_grace=0.1)))
    try:
        assert remote_rigs.is_connected
        assert not remote_rigs.all_alive
        outcome = remote_rigs.push("EXPINFO", "CONNECTED", {}, wait=True)
        assert isinstance(outcome, Exception)
        assert isinstance(outcome, PushError)
        assert isinstance(outcome.failed["missing"], RigRefused)
        assert sorted(outcome.result) == ["cameras", "ephys", "imaging"]
    finally:
        remote_rigs.close()


def test_session_that_polls_the_log(lab: Lab) -> None:
    """Other task code pushes without waiting, and looks the answers up under the request time."""
    remote_rigs = Auxiliaries(lab.clients)
    try:
        with remote_rigs.connected:
            assert remote_rigs.connected.wait(timeout=LONG)
        request_time = remote_rigs.push("EXPINIT", {"exp_ref": REFERENCE})
        with remote_rigs.response_received:
            assert remote_rigs.response_received.wait_for(lambda: request_time in remote_rigs.log, timeout=LONG)
        assert sorted(remote_rigs.log[request_time]) == ["cameras", "ephys", "imaging"]
    finally:
        remote_rigs.stop_event.set()
        remote_rigs.close()
