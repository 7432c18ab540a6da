"""What the journal has of real experiments, and when it has it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_programs import environment, run_here
from live_helpers import EchoServer
from processes import LONG, ROOT, until

from rigsync import Auxiliaries, Coordinator, ExperimentError, ExpStatus, PushError, Rig
from rigsync.events import Notice
from rigsync.hub.events import define
from rigsync.journal.query import Journal
from rigsync.journal.report.reading import facts_of
from rigsync.journal.store import open_to_read

from .recorded import pushed, records, rows, sessions

REF = "2026-03-01_2_mouse"
FILES = [{"path": "/data/left.mp4", "bytes": 1000, "frames": 360, "verified": "ffprobe"}, {"path": "/b", "bytes": 24}]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RIGSYNC_JOURNAL")
    return tmp_path / "journal.sqlite"


@pytest.fixture
def rig(serve: Callable[..., Any], path: Path) -> Rig:
    return serve("cameras", {"EXPEND": lambda *_: {"recorded": {"seconds": 1.0, "files": FILES}}}, journal=path)


@pytest.fixture
def aux(connect: Callable[..., Any], rig: Rig, path: Path) -> Auxiliaries:
    return connect(rig, journal=path)


def test_a_whole_experiment(rig: Rig, aux: Auxiliaries, path: Path) -> None:
    with aux.experiment(REF):
        pass
    aux.close()
    rig.close()
    (ours,), (theirs,) = sessions(path), sessions(path, "rig")
    assert (ours["ref"], ours["subject"], ours["outcome"]) == (REF, "mouse", "complete")
    stalls = rows(path, "SELECT * FROM record WHERE kind = 'JournalFailed' AND session = ?", ours["id"])
    assert (ours["rigs"], ours["files"], ours["bytes"]) == ({"cameras": "ok"}, 2, 1024)
    assert ours["failures"] == len(stalls)  # of a drive that was busy just then
    assert (theirs["ref"], theirs["outcome"], theirs["rigs"]) == (REF, "complete", {"cameras": "ok"})
    assert pushed(path) == ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]
    runs = {run["kind"]: run for run in rows(path, "SELECT * FROM run")}
    assert all(run["opened"] < run["closed"] for run in runs.values())
    assert runs["rig"]["name"] == "cameras"
    start, end = (
        record for record in records(path, "PushCompleted") if record["data"]["event"] in ("EXPSTART", "EXPEND")
    )
    assert start["session"] == end["session"] == ours["id"]
    assert start["data"]["starts"]["cameras"]["bound"] >= 0
    assert end["data"]["answers"]["cameras"][-1]["recorded"]["files"] == FILES
    assert ours["began"] <= start["time"] <= end["time"] <= ours["ended"]
    handled = [record for record in records(path, "MessageHandled") if record["data"]["event"] != "EXPINFO"]
    assert {record["session"] for record in handled} == {theirs["id"]}


@pytest.mark.parametrize("message", ["EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP"])
def test_a_step_of_an_experiment_is_in_the_file_when_its_push_returns(
    aux: Auxiliaries, path: Path, message: str
) -> None:
    for step in ("EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP"):
        args = {"EXPINIT": [{"exp_ref": REF}], "EXPSTART": [REF]}.get(step, [])
        aux.push(step, *args, wait=True)
        if step == message:
            assert pushed(path)[-1] == step
            break


def test_what_has_failed_is_in_the_file_when_its_push_returns(
    serve: Callable[..., Any], connect: Callable[..., Any], path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no disk")

    aux = connect(serve("cameras", {"EXPINFO": fail}), journal=path)
    outcome = aux.push("EXPINFO", wait=True)
    assert isinstance(outcome, PushError)
    (found,) = records(path, "PushCompleted")
    assert found["failure"] == 1
    assert found["data"]["failures"]["cameras"] == {
        "error": "RemoteError",
        "problem": outcome.failed["cameras"].problem,
    }


def test_on_an_event_loop_too(rig: Rig, path: Path) -> None:
    async def main() -> None:
        async with Coordinator({"cameras": rig.uri}, journal=path) as lab:
            await lab.push("EXPINIT", {"exp_ref": REF})
            assert pushed(path) == ["EXPINIT"]
            with pytest.raises(PushError):
                await lab.push("EXPSTART", "2026-03-01_3_mouse")
            assert pushed(path) == ["EXPINIT", "EXPSTART"]

    asyncio.run(main())
    (run,) = rows(path, "SELECT * FROM run WHERE kind = 'coordinator'")
    assert run["closed"]
    assert records(path, "CoordinatorClosed")


def test_an_event_is_in_the_file_soon_though_nobody_waits(aux: Auxiliaries, path: Path) -> None:
    marker = define("Marker")
    aux.hub.ingest(marker({"name": "stimulus"}, rig="cameras"))
    (found,) = until(lambda: records(path, "Marker"))
    assert found["rig"] == "cameras"
    assert found["data"] == {"payload": {"name": "stimulus"}}


# ------------------------------------------------------------------------------------------------------- outcomes


def test_an_experiment_with_a_failure_is_incomplete(rig: Rig, aux: Auxiliaries, path: Path) -> None:
    session = aux.begin(REF)
    rig.notify("failure", {"problem": "the lamp is dark"}, key="lamp")
    until(lambda: session.failures)
    with pytest.raises(ExperimentError):
        aux.end()
    (ours,) = sessions(path)
    assert (ours["outcome"], ours["rigs"], ours["failures"]) == ("incomplete", {"cameras": "the lamp is dark"}, 1)
    rig.close()
    (theirs,) = sessions(path, "rig")
    assert (theirs["outcome"], theirs["rigs"]) == ("incomplete", {"cameras": "the lamp is dark"})


def test_what_was_wrong_before_is_standing_and_counts_in_no_session(
    rig: Rig, connect: Callable[..., Any], path: Path, tmp_path: Path
) -> None:
    rig.notify("failure", {"problem": "the lamp is dark"}, key="lamp")
    told_at = time.time()
    until(lambda: time.time() > told_at + 1.2)  # else it is as good as new
    aux = connect(rig, journal=path)
    until(lambda: records(path, "Notice", "data LIKE '%lamp%' AND data LIKE '%age%'"))
    with aux.experiment(REF):  # it may also come while that begins
        aux.hub.ingest(Notice("cameras", "failure", "lamp", {"problem": "the lamp is dark", "age": 60.0}, True))
    (ours,) = sessions(path)
    assert (ours["outcome"], ours["rigs"], ours["failures"]) == ("complete", {"cameras": "ok"}, 0)
    shown = run_here(["log", "--since", "1h"], tmp_path, environment(tmp_path, RIGSYNC_JOURNAL=str(path)))
    dark = [line for line in shown.out.splitlines() if "failure of lamp" in line]
    assert len(dark) == 1  # the rig's own
    assert "since" not in dark[0]
    shown = run_here(["log", "--since", "1h", "--all"], tmp_path, environment(tmp_path, RIGSYNC_JOURNAL=str(path)))
    assert re.search(r"the lamp is dark \(since \d\d:\d\d:\d\d\)", shown.out)


def test_a_failure_counts_also_where_the_clock_was_set_back_in_the_session(
    rig: Rig, aux: Auxiliaries, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = aux.begin(REF)
    for hub in (aux.hub, rig.hub):
        monkeypatch.setattr(hub._core, "_wall", lambda: time.time() - 3600)
    rig.notify("failure", {"problem": "the lamp is dark"}, key="lamp")
    until(lambda: session.failures)
    with pytest.raises(ExperimentError):
        aux.end()
    rig.close()
    for found in (*sessions(path), *sessions(path, "rig")):
        assert (found["outcome"], found["failures"]) == ("incomplete", 1)


@pytest.mark.parametrize("how", ["takeover", "end"])
def test_a_failure_before_another_program_goes_on_with_the_session_leaves_it_incomplete(
    rig: Rig, connect: Callable[..., Any], path: Path, how: str
) -> None:
    first = connect(rig, journal=path, leave_running=True)
    rig.notify("failure", {"problem": "of the session before"}, key="door")
    for message, *args in (("EXPINIT", {"exp_ref": REF}), ("EXPSTART", REF)):
        first.request(message, *args)
    rig.notify("failure", {"problem": "the lamp is dark"}, key="lamp")
    other = connect(rig, journal=path)
    until(lambda: other.view("cameras").failures.get("lamp"))
    if how == "takeover":
        with pytest.raises(ExperimentError), other.experiment(REF, init={"takeover": True}):
            pass
    else:
        first.close()
        until(lambda: other.view("cameras").exp_ref == REF)
        other.request("EXPEND", timeout=LONG)
    other.close()
    found = [each for each in sessions(path) if each["outcome"] not in (None, "interrupted")]
    assert [(each["outcome"], each["rigs"]) for each in found] == [("incomplete", {"cameras": "the lamp is dark"})]


def test_a_failure_that_is_over_leaves_it_complete(rig: Rig, aux: Auxiliaries, path: Path) -> None:
    for message, *args in (("EXPINIT", {"exp_ref": REF}), ("EXPSTART", REF)):
        aux.request(message, *args)
    rig.notify("failure", {"problem": "the lamp is dark"}, key="lamp")
    rig.notify("recovered", {"problem": "it shines"}, key="lamp")
    until(lambda: len(records(path, "Notice", "rig = 'cameras' AND data LIKE '%lamp%' AND run = 2")) == 2)
    aux.request("EXPEND")
    (ours,) = sessions(path)
    assert (ours["outcome"], ours["failures"]) == ("complete", 1)


def test_an_experiment_that_is_broken_off_is_interrupted(rig: Rig, aux: Auxiliaries, path: Path) -> None:
    with pytest.raises(ZeroDivisionError), aux.experiment(REF):
        raise ZeroDivisionError
    rig.close()
    assert [found["outcome"] for found in (*sessions(path), *sessions(path, "rig"))] == ["interrupted"] * 2


@pytest.mark.parametrize("message", ["EXPINIT", "EXPSTART"])
def test_an_experiment_that_does_not_begin_has_failed(
    serve: Callable[..., Any], connect: Callable[..., Any], path: Path, message: str
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no camera")

    bad = serve("bad", {message: fail}, journal=path)
    aux = connect(bad, serve("good"), journal=path)
    with pytest.raises(ExperimentError), aux.experiment(REF):
        pass
    bad.close()
    (ours,), (theirs,) = sessions(path), sessions(path, "rig")
    assert (ours["outcome"], theirs["outcome"]) == ("failed", "failed")
    assert "no camera" in ours["rigs"]["bad"]
    assert ours["ended"]
    assert theirs["ended"]


def test_one_that_a_rig_refuses_and_nobody_goes_on_with_has_failed(
    serve: Callable[..., Any], connect: Callable[..., Any], path: Path
) -> None:
    """As in iblrig's task code, which closes at the first error."""

    def fail(*_: Any) -> None:
        raise ValueError("no camera")

    aux = connect(serve("bad", {"EXPINIT": fail}), serve("good"), journal=path)
    aux.push("EXPINIT", {"exp_ref": REF}, wait=True)
    (ours,) = sessions(path)
    assert ours["outcome"] is None  # it may be tried again
    assert (ours["rigs"]["good"], "no camera" in ours["rigs"]["bad"]) == ("ok", True)
    aux.close()
    until(lambda: [(one["outcome"], one["ended"] is None) for one in sessions(path)] == [("failed", False)])


def test_an_experiment_whose_rigs_are_not_all_there_has_failed(
    serve: Callable[..., Any], connect: Callable[..., Any], path: Path
) -> None:
    calls: list[None] = []

    def fail_once(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 1:
            raise ValueError("no camera")

    aux = connect(serve("bad", {"EXPINFO": fail_once}), serve("good"), journal=path)
    with pytest.raises(ExperimentError), aux.experiment(REF):
        pass
    (ours,) = sessions(path)
    assert (ours["ref"], ours["outcome"], ours["failures"], ours["ended"] is None) == (REF, "failed", 1, False)
    assert (ours["rigs"]["good"], "no camera" in ours["rigs"]["bad"]) == ("ok", True)
    assert [record["session"] for record in records(path, "PushCompleted")] == [ours["id"]]
    with aux.experiment(REF):
        pass
    assert [found["outcome"] for found in sessions(path)] == ["failed", "complete"]


def test_an_introduction_of_no_experiment_or_in_one_is_no_session(
    serve: Callable[..., Any], connect: Callable[..., Any], path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no camera")

    aux = connect(serve("cameras", {"EXPINFO": fail}), journal=path)
    for information in (None, {"exp_ref": None}, {"exp_ref": 7}, [REF]):
        aux.push("EXPINFO", "CONNECTED", information, wait=True)
    aux.request("EXPINIT", {"exp_ref": REF})
    aux.request("EXPSTART", REF)
    aux.push("EXPINFO", "CONNECTED", {"exp_ref": "2026-03-01_9_mouse"}, wait=True)
    (ours,) = sessions(path)
    assert (ours["ref"], ours["outcome"]) == (REF, None)


def test_one_that_is_retried_and_ends_is_complete(
    serve: Callable[..., Any], connect: Callable[..., Any], path: Path
) -> None:
    calls: list[None] = []

    def end(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 1:
            raise OSError("still copying")

    aux = connect(serve("cameras", {"EXPEND": end}), journal=path)
    for message, *args in (("EXPINIT", {"exp_ref": REF}), ("EXPSTART", REF)):
        aux.request(message, *args)
    aux.push("EXPEND", wait=True)
    (ours,) = sessions(path)
    assert (ours["outcome"], ours["failures"]) == ("incomplete", 1)
    assert "still copying" in ours["rigs"]["cameras"]
    aux.request("EXPEND")
    assert [(found["outcome"], found["rigs"]) for found in sessions(path)] == [("complete", {"cameras": "ok"})]


def test_one_that_another_program_ends_is_one_session(rig: Rig, connect: Callable[..., Any], path: Path) -> None:
    """As `rigsync push EXPINIT`, `push EXPSTART` and `push EXPEND` are programs of their own."""
    for message, *args in (("EXPINIT", {"exp_ref": REF}), ("EXPSTART", REF), ("EXPEND",)):
        aux = connect(rig, journal=path, leave_running=True)
        until(lambda aux=aux, message=message: message != "EXPEND" or aux.view("cameras").exp_ref == REF)
        aux.request(message, *args)
        aux.close()
    (ours,) = sessions(path)
    assert (ours["outcome"], ours["rigs"], ours["bytes"]) == ("complete", {"cameras": "ok"}, 1024)
    assert len({record["run"] for record in records(path, "PushCompleted", f"session = {ours['id']}")}) == 3


def test_who_cleans_up_after_the_end_begins_no_other_session(rig: Rig, connect: Callable[..., Any], path: Path) -> None:
    """As after a task that was killed: `push EXPINIT --takeover`, `push EXPEND`, and then `rigsync stop`."""
    for message, *args in (("EXPINIT", {"exp_ref": REF}), ("EXPSTART", REF), ("EXPEND",), ("EXPEND",), ("EXPCLEANUP",)):
        aux = connect(rig, journal=path, leave_running=True)
        until(lambda aux=aux, message=message: message in ("EXPINIT", "EXPSTART") or aux.view("cameras").exp_ref == REF)
        aux.request(message, *args)
        aux.close()
        found = sessions(path)
    (ours,) = found
    assert (ours["outcome"], ours["rigs"], ours["files"]) == ("complete", {"cameras": "ok"}, 2)
    assert len(records(path, "PushCompleted", f"session = {ours['id']} AND data LIKE '%EXPEND%'")) == 2


def test_an_end_that_is_refused_ends_nothing_in_the_journal(
    rig: Rig, aux: Auxiliaries, connect: Callable[..., Any], path: Path, tmp_path: Path
) -> None:
    aux.request("EXPINIT", {"exp_ref": REF})
    aux.request("EXPSTART", REF)
    (before,) = sessions(path)
    other = tmp_path / "other.sqlite"
    for journal in (path, other):
        with Auxiliaries({"cameras": rig.uri}, journal=journal, leave_running=True) as stranger:
            until(lambda stranger=stranger: stranger.view("cameras").exp_ref == REF)
            assert isinstance(stranger.push("EXPEND", wait=True), PushError)
    assert sessions(path) == [before]
    assert rows(other, "SELECT * FROM session") == []
    aux.request("EXPEND")
    assert [(one["outcome"], one["failures"]) for one in sessions(path)] == [("complete", 0)]


def test_a_rig_that_says_it_still_records_makes_no_complete_session(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a camera of iblrig's whose callback of EXPEND stops nothing, and tells its status."""
    told = "it has answered, and says that it is still RUNNING"
    with (
        EchoServer("cameras", lambda *_: [{"status": int(ExpStatus.RUNNING)}]) as echo,
        Auxiliaries({"cameras": echo.uri}, journal=path) as aux,
    ):
        with pytest.raises(ExperimentError, match=told), aux.experiment(REF):
            pass
        assert f"EXPEND: cameras: {told}" in caplog.text
    (ours,) = sessions(path)
    assert (ours["outcome"], ours["rigs"]["cameras"][: len(told)]) == ("incomplete", told)
    with Journal(path) as journal:
        session = journal.session()
        facts = facts_of(session, journal.events(session), journal.run)
    assert [span.what for span in facts.lanes["cameras"].states] == ["INITIALIZED", "RUNNING", "CONNECTED"]


def test_a_rehearsal_is_no_session(serve: Callable[..., Any], connect: Callable[..., Any], path: Path) -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0", journal=path)
    rig.rehearsal(lambda *_: {})
    with rig, Auxiliaries({"cameras": rig.uri, "gone": "udp://127.0.0.1:9"}, journal=path) as aux:
        aux.rehearse(seconds=0.1)
        assert "EXPSTART" in pushed(path)
    assert rows(path, "SELECT * FROM session") == []


# ----------------------------------------------------------------------------------------------- where, and what of


def test_the_file_of_rigs_says_where(rig: Rig, tmp_path: Path, path: Path) -> None:
    file = tmp_path / "rigs.yaml"
    file.write_text(f"rigs:\n  cameras: {rig.uri}\njournal: own.sqlite\n")
    with Auxiliaries.from_file(file) as aux:
        aux.request("EXPSTATUS")
    (run,) = rows(tmp_path / "own.sqlite", "SELECT * FROM run")
    about = json.loads(run["about"])
    assert about["files"] == {str(file): file.read_text()}
    assert about["rigs"] == {"cameras": rig.uri}
    assert abs(about["clock"]["time"] - run["opened"]) < LONG
    assert open_to_read(tmp_path / "own.sqlite").close() is None


def test_it_is_on_for_a_file_and_off_for_a_mapping(
    rig: Rig, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIGSYNC_JOURNAL", str(tmp_path / "env.sqlite"))
    file = tmp_path / "rigs.yaml"
    for text, options, is_on in (
        (f"cameras: {rig.uri}", {}, True),
        (f"cameras: {rig.uri}", {"journal": False}, False),
        (f"rigs:\n  cameras: {rig.uri}\njournal: off", {}, False),
        (f"rigs:\n  cameras: {rig.uri}\njournal: off", {"journal": True}, True),
    ):
        file.write_text(text)
        Auxiliaries.from_file(file, **options).close()
        assert (tmp_path / "env.sqlite").exists() is is_on
        (tmp_path / "env.sqlite").unlink(missing_ok=True)
    Auxiliaries({"cameras": rig.uri}).close()
    monkeypatch.setenv("RIGSYNC_JOURNAL", "off")
    Auxiliaries({"cameras": rig.uri}, journal=tmp_path / "env.sqlite").close()
    assert not (tmp_path / "env.sqlite").exists()


def test_secrets_are_in_no_byte_of_it(serve: Callable[..., Any], tmp_path: Path, path: Path) -> None:
    class Client:
        base_url, user, _token, is_logged_in = "https://alyx.example", "me", {"token": "TOP-alyx"}, True

    rig = serve("cameras", {"EXPINIT": lambda *_: {"api_key": "TOP-answer"}}, journal=path)
    file = tmp_path / "rigs.yaml"
    broker = "bridges:\n  mqtt:\n    broker: mqtt://me:TOP-url@broker.lab/room"
    alerts = "alerts:\n- {on: [lost], webhook: {url: 'https://hooks.lab/a/TOP-hook?TOP-query'}}"
    alerts += "\n- on: [failure]\n  webhook: https://chat.lab/TOP-hook"
    file.write_text(f"rigs:\n  cameras: {rig.uri}  # password: TOP-comment\n{broker}\n{alerts}\n")
    with Auxiliaries.from_file(file, journal=path) as aux:
        aux.push("ALYX", Client(), wait=True)
        aux.request(
            "EXPINIT",
            {"exp_ref": REF, "Password": "TOP-data", "from": "ftp://me:TOP-ftp@host/x", "tokens": ["TOP-list"]},
        )
        rig.notify("note", {"authorization": "TOP-notice"})
        until(lambda: records(path, "Notice", "data LIKE '%note%' AND run = 2"))
    rig.close()
    for part in path.parent.glob("journal.sqlite*"):
        assert b"TOP-" not in part.read_bytes(), part


def test_the_commit_of_the_task_is_kept(rig: Rig, tmp_path: Path, path: Path) -> None:
    task = tmp_path / "lab" / "task.py"
    task.parent.mkdir()
    task.write_text(
        textwrap.dedent(
            """
            import sys, time
            from rigsync import Auxiliaries
            import sqlite3
            with Auxiliaries({"cameras": sys.argv[1]}, journal=sys.argv[2]) as aux:
                aux.push("EXPINIT", wait=True)
                asked = "SELECT 1 FROM run WHERE about LIKE '%commit%'"
                while not sqlite3.connect(sys.argv[2]).execute(asked).fetchone():
                    time.sleep(0.01)
            """
        )
    )
    git = ["git", "-C", str(task.parent), "-c", "user.name=a", "-c", "user.email=a@b"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-qm", "task"]):
        subprocess.run([*git, *step], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for is_dirty in (False, True):
        command = [sys.executable, str(task), rig.uri, str(tmp_path / f"{is_dirty}.sqlite")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, timeout=LONG, env=environment)
        (run,) = rows(tmp_path / f"{is_dirty}.sqlite", "SELECT about FROM run")
        told = json.loads(run["about"])["repository"]
        assert told == {"folder": str(task.parent), "commit": commit, "dirty": is_dirty}
        task.write_text(task.read_text() + "# changed\n")


def test_progress_is_thinned_and_the_last_before_a_step_is_kept(rig: Rig, aux: Auxiliaries, path: Path) -> None:
    for message, *args in (("EXPINIT", {"exp_ref": REF}), ("EXPSTART", REF)):
        aux.request(message, *args)
    seen: list[float] = []
    aux.on("ProgressChanged", lambda event: seen.append(event.value))
    for value in range(4):
        rig.progress("frames", value)
        until(lambda value=value: seen and seen[-1] == value)
    aux.request("EXPEND")
    found = [record["data"]["value"] for record in records(path, "ProgressChanged", "run = 2")]
    assert found == [0, 3]


def test_how_the_links_are_is_sampled(aux: Auxiliaries, path: Path) -> None:
    found = until(lambda: records(path, "Sample"))[0]
    assert found["rig"] == "cameras"
    assert {*found["data"]} == {
        *("link", "dialect", "status", "exp_ref", "owner", "round_trip", "loss", "clock", "failures", "version"),
    }
    assert found["data"]["clock"].keys() == {"offset", "bound", "drift", "delay"}


def test_a_filter_keeps_nothing_from_the_journal(aux: Auxiliaries, path: Path) -> None:
    aux.hub.filter(lambda _: True)
    aux.request("EXPINIT", {"exp_ref": REF})
    assert pushed(path) == ["EXPINIT"]


def test_an_agent_is_recorded_as_its_file_says(tmp_path: Path, path: Path) -> None:
    from rigsync.agent.agent import Agent
    from rigsync.agent.file import read_agent_file

    file = tmp_path / "left.yaml"
    file.write_text(
        "name: left\nlisten: udp://127.0.0.1:0\non:\n  EXPINIT: {run: [python3, --version]}\n"
        "journal: {path: j.sqlite, keep: 2 weeks}\n"
    )
    agent = Agent(read_agent_file(file))
    with agent, Auxiliaries({"left": agent.uri}) as aux:
        aux.request("EXPINIT", {"exp_ref": REF})
    (run,) = rows(tmp_path / "j.sqlite", "SELECT * FROM run")
    assert (run["kind"], run["name"]) == ("rig", "left")
    assert json.loads(run["about"])["files"] == {str(file): file.read_text()}
    assert [found["ref"] for found in sessions(tmp_path / "j.sqlite", "rig")] == [REF]


def test_a_program_that_does_not_close_loses_nothing(rig: Rig, path: Path) -> None:
    program = """
    import sys
    from rigsync import Auxiliaries
    aux = Auxiliaries({"cameras": sys.argv[1]}, journal=sys.argv[2])
    aux.push("EXPSTATUS", wait=True)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(program), rig.uri, str(path)]
    subprocess.run(command, check=True, timeout=LONG, env=environment)
    (run,) = rows(path, "SELECT * FROM run WHERE kind = 'coordinator'")
    assert run["closed"]
    assert "EXPSTATUS" in pushed(path)
