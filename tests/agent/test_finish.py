"""What is done after a session, in the background: real agents, real commands, and files that outlive both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cli_programs import Command, environment, run_here
from hypothesis import given, settings
from hypothesis import strategies as st
from platforms import posix
from processes import LONG, until

from agent.test_agent import RECORDER, STOP, WAITS, Lab, failure, init, lab, noted
from rigsync import Auxiliaries, ExpMessage, ExpStatus, PushError
from rigsync.agent import finish_work, kept_command
from rigsync.agent import finishing as finishing_module
from rigsync.agent.agent import Agent
from rigsync.agent.finish_queue import LONGEST_FILE, FilledStep, Job, Listing, Queue, parsed
from rigsync.agent.finish_work import FinishWork
from rigsync.core.queries import TRANSFERS

__all__ = ["lab"]  # a fixture

REFERENCE = "2026-03-01_2_mouse"
NEXT = "2026-03-01_3_mouse"

COPY = """
import pathlib, sys, time
go, to, line = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
print("begun", flush=True)
while not go.exists(): time.sleep(0.01)
open(to, "a").write(line + chr(10))
"""


def recorder(lab: Lab, name: str = "{exp_ref}") -> dict[str, Any]:
    film = str(lab.folder / "data" / name)
    return {"start": [*lab.program(RECORDER, "recorder.py"), film], "ready": {"file": film, "within": LONG}}


def finishing(lab: Lab, *steps: Any, name: str = "cameras", more: dict[str, Any] | None = None, **keys: Any) -> Agent:
    finish = {"steps": [{"run": step} if isinstance(step, list) else step for step in steps], **(more or {})}
    return lab.agent({"EXPSTART": recorder(lab), "EXPEND": STOP}, name, finish=finish, **keys)


def copy(lab: Lab, line: str = "{exp_ref}", go: str = "go") -> list[str]:
    """Return a command that writes a line into the file `copied` once the file `go` is there."""
    return [*lab.program(COPY, "copies.py"), str(lab.folder / go), str(lab.folder / "copied"), line]


def copied(lab: Lab) -> list[str]:
    path = lab.folder / "copied"
    return path.read_text().splitlines() if path.exists() else []


def session(aux: Auxiliaries, exp_ref: str = REFERENCE, **data: Any) -> dict[str, Any]:
    init(aux, exp_ref, **data)
    aux.request("EXPSTART", exp_ref, timeout=LONG)
    aux.request("EXPEND", timeout=LONG)
    return next(iter(aux.request("EXPCLEANUP", timeout=LONG).values()))[-1]


def asked(aux: Auxiliaries) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = aux.call("cameras", TRANSFERS.name, timeout=LONG)["jobs"]
    return found


def jobs(lab: Lab, name: str = "cameras") -> list[dict[str, Any]]:
    found = []
    for path in sorted((lab.folder / "finish" / name).glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # it has just been done
            found.append(json.loads(path.read_bytes()))
    return found


def test_it_is_done_after_the_cleanup_in_the_background(lab: Lab) -> None:
    finishing(lab, copy(lab))
    aux = lab.connect()
    assert session(aux)["finish"] == {"queued": 1, "unfinished": 1}
    lab.logged("] begun")
    assert not copied(lab)
    (lab.folder / "go").touch()
    until(lambda: copied(lab) == [REFERENCE])
    until(lambda: not jobs(lab))
    lab.logged("finish: all is done")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and try again soon; and give way to nobody, since other tests may take all there is."""
    if sys.platform != "win32":
        monkeypatch.setattr(kept_command, "NICE", 0)
    monkeypatch.setattr(finish_work, "LOOK", 0.05)
    monkeypatch.setattr(finish_work, "RETRIES", (0.05, 0.05))


def let_go(lab: Lab, go: str = "go") -> None:
    (lab.folder / go).touch()


def done(lab: Lab, *lines: str, name: str = "cameras") -> None:
    """Wait until these are copied, and nothing is left to do."""
    until(lambda: len(copied(lab)) >= len(lines) and not jobs(lab, name))
    assert copied(lab) == [*lines]


def view(lab: Lab, aux: Auxiliaries) -> Any:
    return aux.view("cameras")


# -------------------------------------------------------------------------------------------- beside the next session


def test_the_next_session_records_while_it_goes_on(lab: Lab) -> None:
    finishing(lab, copy(lab), more={"while_recording": "go on"})
    aux = lab.connect()
    session(aux)
    lab.logged("] begun")
    session(aux, NEXT)
    assert not copied(lab)
    let_go(lab)
    done(lab, REFERENCE, NEXT)
    assert lab.log().count("] begun") == 1  # it was not begun anew


def test_it_waits_while_the_next_session_records_and_is_begun_anew_then(lab: Lab) -> None:
    finishing(lab, copy(lab))
    aux = lab.connect()
    session(aux)
    lab.logged("] begun")
    init(aux, NEXT)
    until(lambda: [job["running"] for job in asked(aux)] == [False])
    aux.request("EXPSTART", NEXT, timeout=LONG)
    let_go(lab)
    assert [job["exp_ref"] for job in asked(aux)] == [REFERENCE, NEXT]
    assert not copied(lab)
    aux.request("EXPEND", timeout=LONG)
    until(lambda: copied(lab) == [REFERENCE])  # before EXPCLEANUP of the next one
    aux.request("EXPCLEANUP", timeout=LONG)
    done(lab, REFERENCE, NEXT)
    assert [job["attempts"] for job in asked(aux)] == []
    until(lambda: lab.log().count("] begun") == 2)


def test_an_initialised_session_that_is_given_up_lets_it_go_on(lab: Lab) -> None:
    finishing(lab, copy(lab))
    aux = lab.connect()
    session(aux)
    lab.logged("] begun")
    init(aux, NEXT)
    let_go(lab)
    aux.request("EXPINTERRUPT", timeout=LONG)
    done(lab, REFERENCE)


def test_a_refused_session_does_not_hold_it_up(lab: Lab) -> None:
    finishing(lab, copy(lab), require={"files": [str(lab.folder / "camera")]})
    (lab.folder / "camera").touch()
    aux = lab.connect()
    session(aux)
    lab.logged("] begun")
    (lab.folder / "camera").unlink()
    assert failure(aux, "EXPINIT", {"exp_ref": NEXT}).error == "RequirementMissing"
    let_go(lab)
    done(lab, REFERENCE)


def test_it_gives_way_to_what_records(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "win32":
        monkeypatch.setattr(kept_command, "NICE", 10)
    finishing(lab, copy(lab))
    session(lab.connect())
    lab.logged("] begun")
    (program,) = [
        child
        for child in psutil.Process().children(recursive=True)
        if child.is_running() and "copies.py" in " ".join(child.cmdline())
    ]
    lowest = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 10)
    until(lambda: program.nice() == lowest)
    let_go(lab)
    done(lab, REFERENCE)


def test_a_session_of_the_same_files_waits_for_it_or_is_refused(lab: Lab) -> None:
    agent = lab.agent(
        {"EXPSTART": recorder(lab), "EXPEND": STOP},
        existing="overwrite",
        finish={"steps": [{"run": copy(lab)}], "while_recording": "go on"},
    )
    aux = lab.connect(agent)
    session(aux)
    lab.logged("] begun")
    error = failure(aux, "EXPINIT", {"exp_ref": REFERENCE})
    assert f"in use by the rig cameras (finish of {REFERENCE})" in error.message
    let_go(lab)
    done(lab, REFERENCE)
    # The files are let go a moment after the job is gone: sooner, another agent might take it up once more.
    until(lambda: not isinstance(aux.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True), PushError))


def test_a_session_of_the_same_files_ends_it_first_where_it_is_to_wait(lab: Lab) -> None:
    lab.agent({"EXPSTART": recorder(lab), "EXPEND": STOP}, existing="overwrite", finish={"steps": [{"run": copy(lab)}]})
    aux = lab.connect()
    session(aux)
    lab.logged("] begun")
    init(aux)
    assert [job["running"] for job in asked(aux)] == [False]
    let_go(lab)
    aux.request("EXPINTERRUPT", timeout=LONG)
    done(lab, REFERENCE)


def test_it_waits_for_a_recording_of_the_same_files(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    release = finishing_module.Finishing._release_after_cleanup

    async def late(finishing: Any, data: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(10 * finish_work.LOOK)  # the files are free: the job of the one before does not begin yet
        return await release(finishing, data)

    monkeypatch.setattr(finishing_module.Finishing, "_release_after_cleanup", late)
    how = {"steps": [{"run": copy(lab)}], "while_recording": "go on"}
    lab.agent({"EXPSTART": recorder(lab), "EXPEND": STOP}, existing="overwrite", finish=how)
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    aux.request("EXPEND", timeout=LONG)
    init(aux)  # which lets the job of the one before begin
    until(lambda: [job["state"] for job in asked(aux)] == ["waiting"])
    let_go(lab)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    assert not copied(lab)
    aux.request("EXPEND", timeout=LONG)
    aux.request("EXPCLEANUP", timeout=LONG)
    done(lab, REFERENCE)  # once: both mean the same


def test_a_job_that_begins_just_as_the_agent_ends_leaves_nothing_behind(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, ended, begun = threading.Event(), threading.Event(), threading.Event()
    keys_of, do_steps, end = FinishWork._keys_of, FinishWork._do_steps, FinishWork.end

    async def late(work: FinishWork, job: Job) -> dict[str, str]:
        begins.set()
        await asyncio.to_thread(ended.wait, LONG)
        return await keys_of(work, job)

    async def noted_steps(work: FinishWork, *args: Any) -> None:
        try:
            await do_steps(work, *args)
        finally:
            begun.set()

    def end_first(work: FinishWork) -> None:
        end(work)
        ended.set()
        begun.wait(LONG)

    monkeypatch.setattr(FinishWork, "_keys_of", late)
    monkeypatch.setattr(FinishWork, "_do_steps", noted_steps)
    monkeypatch.setattr(FinishWork, "end", end_first)
    finishing(lab, copy(lab))
    session(lab.connect())
    assert begins.wait(LONG)
    lab.close()
    assert begun.is_set()


# ------------------------------------------------------------------------------------------------ in their order


def test_sessions_and_commands_are_done_in_their_order(lab: Lab) -> None:
    finishing(lab, copy(lab, "1 {exp_ref}"), copy(lab, "2 {exp_ref}", "again"))
    aux = lab.connect()
    session(aux)
    session(aux, NEXT)
    let_go(lab)
    until(lambda: copied(lab) == [f"1 {REFERENCE}"])
    let_go(lab, "again")
    done(lab, f"1 {REFERENCE}", f"2 {REFERENCE}", f"1 {NEXT}", f"2 {NEXT}")


def test_as_many_at_once_as_the_file_says(lab: Lab) -> None:
    finishing(lab, copy(lab), more={"at_once": 2})
    aux = lab.connect()
    for number in (2, 3, 4):
        session(aux, f"2026-03-01_{number}_mouse")
    until(lambda: [job["running"] for job in asked(aux)] == [True, True, False])
    let_go(lab)
    until(lambda: len(copied(lab)) == 3 and not jobs(lab))


def test_commands_have_the_values_of_their_session(lab: Lab) -> None:
    says = """
    import json, os, sys
    print(json.dumps([sys.argv[1:], os.getcwd(), {k: v for k, v in os.environ.items() if k.startswith("RIGSYNC_")}]))
    """
    words = [*lab.program(says), "{exp_ref}", "{message.box}", "{message.take}", "{message.note}", "{message.by}"]
    finishing(lab, {"run": words, "folder": "data"})
    aux = lab.connect()
    init(aux, box=4)
    aux.request("EXPSTART", REFERENCE, {"take": "a"}, timeout=LONG)
    aux.request("EXPEND", {"note": "it's; $(rm)"}, timeout=LONG)
    aux.request("EXPCLEANUP", {"by": "me"}, timeout=LONG)
    lab.logged("finish: all is done")
    (line,) = [line for line in lab.log().splitlines() if '"RIGSYNC_EVENT"' in line]
    arguments, folder, variables = json.loads(line.split("] ", 1)[1])
    assert arguments == [REFERENCE, "4", "a", "it's; $(rm)", "me"]
    assert folder == str(lab.folder / "data")
    assert (variables["RIGSYNC_EVENT"], variables["RIGSYNC_RIG"]) == ("FINISH", "cameras")
    assert (variables["RIGSYNC_EXP_REF"], variables["RIGSYNC_NOTE"]) == (REFERENCE, "it's; $(rm)")


def test_progress_is_on_the_board_and_in_the_queue(lab: Lab) -> None:
    source = COPY.replace(
        'print("begun", flush=True)', 'print("  12,345  40% of it", end=chr(13) + chr(46), flush=True)'
    )
    words = [*lab.program(source, "shows.py"), str(lab.folder / "go"), str(lab.folder / "copied"), "{exp_ref}"]
    finishing(lab, {"run": words, "percent": r"(\d+)%"}, copy(lab))
    aux = lab.connect()
    session(aux)
    item = f"finish {REFERENCE}"
    until(lambda: item in view(lab, aux).progress and view(lab, aux).progress[item].value == 20)
    assert view(lab, aux).progress[item].unit == "%"
    until(lambda: [job["percent"] for job in jobs(lab)] == [40])
    assert [job["percent"] for job in asked(aux)] == [40]
    let_go(lab)
    until(lambda: view(lab, aux).progress[item].value == 100)
    done(lab, REFERENCE, REFERENCE)


def test_without_percentages_the_board_counts_commands(lab: Lab) -> None:
    finishing(lab, copy(lab), copy(lab, go="again"))
    aux = lab.connect()
    session(aux)
    let_go(lab)
    shown = lambda: view(lab, aux).progress.get(f"finish {REFERENCE}")  # noqa: E731
    until(lambda: shown() and (shown().value, shown().total, shown().unit) == (1, 2, "commands"))
    let_go(lab, "again")
    done(lab, REFERENCE, REFERENCE)


# -------------------------------------------------------------------------------------------------- what fails


def fails_until(lab: Lab, name: str = "server") -> list[str]:
    source = """
    import pathlib, sys
    if not pathlib.Path(sys.argv[1]).exists(): sys.exit("no server")
    open(sys.argv[2], "a").write(sys.argv[3] + chr(10))
    """
    return [*lab.program(source, "fails.py"), str(lab.folder / name), str(lab.folder / "copied"), "{exp_ref}"]


def test_what_fails_is_tried_again_and_holds_up_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish_work, "RETRIES", (0.5, 0.05))
    finishing(lab, fails_until(lab, "{subject}"))
    let_go(lab, "cat")
    aux = lab.connect()
    session(aux)
    session(aux, "2026-03-01_3_cat")
    until(lambda: copied(lab) == ["2026-03-01_3_cat"])
    until(lambda: [job["attempts"] > 0 for job in asked(aux)] == [True])
    (job,) = asked(aux)
    assert "exit status 1; its last lines: no server" in job["problem"]
    let_go(lab, "mouse")
    done(lab, "2026-03-01_3_cat", REFERENCE)
    assert not aux.view("cameras").failures


def test_each_attempt_and_the_end_are_told_and_in_the_journal(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish_work, "RETRIES", (0.2, 0.2))
    monkeypatch.setenv("RIGSYNC_JOURNAL", str(tmp_path / "journal.sqlite"))
    agent = finishing(lab, fails_until(lab))
    aux = lab.connect()
    told = noted(aux, "finish")
    session(aux)
    until(lambda: told)
    assert (told[0].key, told[0].body["exp_ref"], told[0].body["attempts"]) == (f"finish {REFERENCE}", REFERENCE, 1)
    assert "no server" in told[0].body["problem"]
    let_go(lab, "server")
    done(lab, REFERENCE)
    until(lambda: told[-1].body["problem"] is None)
    aux.close()
    agent.close()
    shown = run_here(["log", REFERENCE], tmp_path, environment(tmp_path, RIGSYNC_JOURNAL=os.environ["RIGSYNC_JOURNAL"]))
    lines = [line.partition("cameras  ")[2] for line in shown.out.splitlines() if f"finish {REFERENCE}" in line]
    assert lines[0].startswith(f"finish {REFERENCE}: attempt 1 has failed, and it is tried again: ")
    assert lines[-1] == f"finish {REFERENCE}: done, after {told[-1].body['attempts']} attempts"


def test_what_fails_for_good_is_told_with_the_remedy(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    agent = finishing(lab, fails_until(lab))
    aux = lab.connect()
    told = noted(aux, "failure")
    session(aux)
    until(lambda: told)
    assert told[0].body["exp_ref"] == REFERENCE
    problem = told[0].body["problem"]
    assert problem.startswith(f"what was to be done after {REFERENCE} has failed for good after 3 attempts")
    assert problem.endswith(f"rigsync transfers {agent._own.source} --retry {REFERENCE}")
    assert "no server" in problem
    assert problem in caplog.text
    until(lambda: [(job["state"], job["attempts"], job["running"]) for job in jobs(lab)] == [("failed", 3, False)])
    session(aux, NEXT)  # it is no failure of the next one
    assert len(told) == 1 or told[1].body["exp_ref"] == NEXT


def test_an_agent_that_is_started_anew_tells_since_when_it_has_failed(lab: Lab) -> None:
    agent = finishing(lab, fails_until(lab))
    aux = lab.connect()
    told = noted(aux, "failure")
    session(aux)
    until(lambda: told)
    assert "age" not in told[0].body
    agent.close()
    (path,) = (lab.folder / "finish" / "cameras").glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "failed": time.time() - 5000}))
    finishing(lab, fails_until(lab))
    told = noted(lab.connect(), "failure")
    until(lambda: told)
    assert 5000 <= told[0].body["age"] < 5000 + LONG


def test_what_has_failed_for_good_and_was_not_told_is_news_of_the_agent_that_is_started_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before was ended while another session went on, in which it does not tell it."""
    monkeypatch.setattr(finish_work, "RETRIES", ())
    monkeypatch.setattr(finish_work, "LOOK", 0.05)
    agent = finishing(lab, fails_until(lab), more={"while_recording": "go on"})
    with monkeypatch.context() as busy:
        busy.setattr(agent._finish._work, "_is_under_way", lambda: True)
        session(lab.connect())
        until(lambda: [job["state"] for job in jobs(lab)] == ["failed"])
        failed_at = time.time()
        until(lambda: time.time() > failed_at + 0.5)
        agent.close()
    again = finishing(lab, fails_until(lab))
    told = noted(lab.connect(), "failure")
    until(lambda: told)
    assert "age" not in told[0].body  # by which the agent's alerts, and people, would take it for known
    until(lambda: jobs(lab)[0]["failed"])
    again.close()
    until(lambda: time.time() > failed_at + 0.5)
    finishing(lab, fails_until(lab))
    told = noted(lab.connect(), "failure")
    until(lambda: told)
    assert told[0].body["age"] > 0


def test_what_goes_on_failing_is_told_before_it_has_failed_for_good(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong path would be known the next day else."""
    monkeypatch.setattr(finish_work, "RETRIES", (0.05,) * 1000)
    agent = finishing(lab, fails_until(lab))
    aux = lab.connect()
    told, over = noted(aux, "failure"), noted(aux, "recovered")
    session(aux)
    until(lambda: told)
    problem = told[0].body["problem"]
    assert problem.startswith(f"what was to be done after {REFERENCE} has failed 3 times, and is tried again in ")
    assert problem.endswith(f"rigsync transfers {agent._own.source} --retry {REFERENCE}")
    assert [job["state"] for job in asked(aux)] == ["waiting"]
    let_go(lab, "server")
    done(lab, REFERENCE)
    until(lambda: over)
    assert over[0].key == told[0].key


def test_a_failure_is_none_of_the_session_that_goes_on(lab: Lab) -> None:
    """It is told once that is over."""
    how = {"steps": [{"run": [*fails_until(lab)[:-1], "x"]}], "while_recording": "go on"}
    start = {"start": lab.program(WAITS), "good_exit": [0, 1, 130]}  # it may be interrupted while it begins
    lab.agent({"EXPSTART": start, "EXPEND": STOP}, finish=how)
    aux = lab.connect()
    told = noted(aux, "failure")
    session(aux, "any name")  # from which nobody can tell that it is another one
    with aux.experiment(NEXT) as experiment:
        until(lambda: [job["state"] for job in asked(aux)][:1] == ["failed"])
        experiment.check()
        assert not told
    assert until(lambda: told)[0].body["exp_ref"] == "any name"


def test_a_command_that_takes_too_long_has_failed(lab: Lab) -> None:
    finishing(lab, {"run": copy(lab), "timeout": 0.3})
    aux = lab.connect()
    told = noted(aux, "failure")
    session(aux)
    assert "took more than 0.3 s and was interrupted" in until(lambda: told)[0].body["problem"]


def test_a_program_that_is_not_there_refuses_the_session_before(lab: Lab) -> None:
    finishing(lab, ["rigsync-no-such-program"])
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": REFERENCE})
    assert "rigsync-no-such-program" in error.message


def test_a_value_that_no_message_had_is_told(lab: Lab) -> None:
    finishing(lab, copy(lab, "{message.note}"))
    aux = lab.connect()
    told = noted(aux, "failure")
    session(aux)
    assert "FINISH has no 'note' in its data" in until(lambda: told)[0].body["problem"]
    assert [job["state"] for job in jobs(lab)] == ["failed"]


@pytest.mark.parametrize("reference", ["../../../etc/x", "a\nb\x1b[31m", "x" * 200])
def test_a_hostile_reference_is_text(lab: Lab, reference: str) -> None:
    start = recorder(lab, "film")
    lab.agent({"EXPSTART": start, "EXPEND": STOP}, finish={"steps": [{"run": copy(lab, "x")}]})
    aux = lab.connect()
    session(aux, reference)
    let_go(lab)
    done(lab, "x")
    assert {path.name for path in lab.folder.iterdir()} <= {
        *("cameras.yaml", "copies.py", "copied", "data", "finish", "go", "logs", "recorder.py"),
    }
    assert all("\x1b" not in name for name in view(lab, aux).progress)


# ---------------------------------------------------------------------------------------------- how sessions end


def test_an_interrupted_session_has_data_too(lab: Lab) -> None:
    finishing(lab, copy(lab))
    let_go(lab)
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    aux.request("EXPINTERRUPT", timeout=LONG)
    assert aux.request("EXPCLEANUP", timeout=LONG)["cameras"][-1]["finish"]["queued"] == 1
    done(lab, REFERENCE)


def test_only_after_the_ends_that_the_file_says(lab: Lab) -> None:
    finishing(lab, copy(lab), more={"after": ["end"]})
    let_go(lab)
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: jobs(lab))
    aux.request("EXPINTERRUPT", timeout=LONG)
    assert "finish" not in aux.request("EXPCLEANUP", timeout=LONG)["cameras"][-1]
    until(lambda: not jobs(lab))
    session(aux, NEXT)
    done(lab, NEXT)


@pytest.mark.parametrize("end", ["EXPEND", "EXPINTERRUPT"])
def test_where_no_cleanup_comes_it_begins_after_a_while(lab: Lab, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setitem(finishing_module.UNCLEANED, ExpMessage[end], 0.3)
    finishing(lab, copy(lab))
    let_go(lab)
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    aux.request(end, timeout=LONG)
    assert not copied(lab)
    done(lab, REFERENCE)


def test_a_session_that_ended_badly_has_data_too(lab: Lab) -> None:
    lab.agent(
        {"EXPSTART": {"start": lab.program("import sys, time; time.sleep(0.3); sys.exit(3)")}, "EXPEND": STOP},
        finish={"steps": [{"run": copy(lab)}]},
    )
    let_go(lab)
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: view(lab, aux).status is ExpStatus.STOPPED)
    failure(aux, "EXPEND")
    aux.request("EXPCLEANUP", timeout=LONG)
    done(lab, REFERENCE)


def test_what_was_never_started_has_nothing_to_copy(lab: Lab) -> None:
    finishing(lab, copy(lab))
    aux = lab.connect()
    init(aux)
    assert "finish" not in aux.request("EXPCLEANUP", timeout=LONG)["cameras"][-1]
    assert not jobs(lab)


def test_a_rehearsal_has_none(lab: Lab) -> None:
    film = "{data}/{exp_ref}.avi"
    start = {"start": [*lab.program(RECORDER, "recorder.py"), film], "ready": {"file": film, "within": LONG}}
    agent = lab.agent(
        {"EXPSTART": start, "EXPEND": STOP},
        variables={"data": str(lab.folder / "data")},
        rehearsal={"data": str(lab.folder / "scratch")},
        verify={"files": film, "growing_within": 5},
        finish={"steps": [{"run": copy(lab)}]},
    )
    aux = lab.connect(agent)
    init(aux, rehearsal=True)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    aux.request("EXPEND", timeout=LONG)
    assert "finish" not in aux.request("EXPCLEANUP", timeout=LONG)["cameras"][-1]
    assert not jobs(lab)


# ----------------------------------------------------------------------------------------------- what survives what


def test_an_agent_that_ends_leaves_it_to_the_next(lab: Lab) -> None:
    agent = finishing(lab, copy(lab))
    session(lab.connect())
    lab.logged("] begun")
    agent.close()
    assert not psutil.Process().children(recursive=True)
    assert [(job["state"], job["done"]) for job in jobs(lab)] == [("waiting", 0)]
    let_go(lab)
    agent.start()
    done(lab, REFERENCE)


def test_an_agent_that_is_closed_in_a_session_leaves_it_to_the_next(lab: Lab) -> None:
    agent = finishing(lab, copy(lab))
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: jobs(lab))
    agent.close()
    let_go(lab)
    agent.start()
    done(lab, REFERENCE)


def test_of_two_agents_of_one_name_one_does_it(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rigsync.agent")
    first = finishing(lab, copy(lab))
    second = Agent(first._own)
    second.start()
    lab.agents.append(second)
    until(lambda: "another agent does what is to be done after sessions" in caplog.text)
    session(lab.connect(second))
    lab.logged("] begun")
    first.close()  # which had it
    let_go(lab)
    done(lab, REFERENCE)


def test_the_session_of_another_living_agent_is_left_alone(lab: Lab) -> None:
    first = finishing(lab, copy(lab, "{message.note}"))
    second = Agent(first._own)
    second.start()
    lab.agents.append(second)
    aux = lab.connect(second)
    let_go(lab)
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: jobs(lab))
    other = lab.connect(first)
    until(lambda: [job["state"] for job in asked(other)] == ["recording"])
    session(other, NEXT, note=NEXT)  # the other agent has had time to look at it
    until(lambda: copied(lab) == [NEXT])
    until(lambda: [job["state"] for job in asked(other)] == ["recording"])
    aux.request("EXPEND", {"note": REFERENCE}, timeout=LONG)
    aux.request("EXPCLEANUP", timeout=LONG)
    done(lab, NEXT, REFERENCE)


def test_what_is_left_is_done_though_the_file_says_no_more_of_it(lab: Lab) -> None:
    agent = finishing(lab, copy(lab))
    session(lab.connect())
    lab.logged("] begun")
    agent.close()
    let_go(lab)
    lab.agent({"EXPSTART": recorder(lab), "EXPEND": STOP})
    done(lab, REFERENCE)


def test_a_queue_that_cannot_be_written_is_told_and_it_is_done_all_the_same(lab: Lab) -> None:
    (lab.folder / "finish").write_text("a file in its place")
    finishing(lab, copy(lab))
    aux = lab.connect()
    failed, recovered = noted(aux, "failure"), noted(aux, "recovered")
    assert session(aux)["finish"]["queued"] == 1
    problem = until(lambda: failed)[0].body["problem"]
    assert f"cannot be written into {lab.folder / 'finish' / 'cameras'}: " in problem
    assert "[Errno" not in problem  # nor a file that is never seen
    assert "lost if this program ends before" in problem
    lab.logged("] begun")
    (lab.folder / "finish").unlink()
    until(lambda: jobs(lab))
    until(lambda: recovered)
    let_go(lab)
    done(lab, REFERENCE)


def test_a_queue_that_stays_away_does_not_keep_it_from_being_done(lab: Lab) -> None:
    (lab.folder / "finish").write_text("a file in its place")
    finishing(lab, copy(lab))
    let_go(lab)
    session(lab.connect())
    until(lambda: copied(lab) == [REFERENCE])


def test_junk_in_the_queue_is_named_and_left_alone(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    folder = lab.folder / "finish" / "cameras"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    (folder / "20260101-a.json").write_text('{"rigsync": 1, "id": "20260101-a"}')
    (folder / "20260101-b.json").write_text('{"rigsync": 7}')
    finishing(lab, copy(lab))
    let_go(lab)
    session(lab.connect())
    done_there = lambda: copied(lab) == [REFERENCE]  # noqa: E731
    until(done_there)
    until(lambda: len(list(folder.iterdir())) == 3)
    for name, why in (
        ("notes.txt", "is no file of rigsync"),
        ("20260101-a.json", "is damaged, or no file of rigsync"),
        ("20260101-b.json", "a newer rigsync has written it"),
    ):
        assert f"{folder / name} {why}" in caplog.text
    assert caplog.text.count("left alone") == 3  # each once


def test_a_wish_is_fulfilled_within_a_moment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish_work, "RETRIES", ())
    finishing(lab, fails_until(lab))
    aux = lab.connect()
    failed, recovered = noted(aux, "failure"), noted(aux, "recovered")
    session(aux)
    until(lambda: failed)
    queue = Queue(lab.folder / "finish" / "cameras")
    (job,) = queue.look().jobs
    job.begin_anew()
    let_go(lab, "server")
    queue.save(job.id, job.text(), "retry")
    until(lambda: not list(queue.folder.iterdir()))
    done(lab, REFERENCE)
    assert until(lambda: recovered)[0].key == failed[0].key


def test_what_runs_is_ended_and_forgotten_as_somebody_wishes(lab: Lab) -> None:
    finishing(lab, copy(lab))
    session(lab.connect())
    lab.logged("] begun")
    queue = Queue(lab.folder / "finish" / "cameras")
    (job,) = queue.look().jobs
    queue.save(job.id, b"", "forget")
    until(lambda: not list(queue.folder.iterdir()))
    until(lambda: not psutil.Process().children(recursive=True))
    assert not copied(lab)


# --------------------------------------------------------------------------------------------------- agents killed


class Served:
    """`rigsync serve` of the agent of a lab, in a process of its own."""

    def __init__(self, lab: Lab):
        self.command = Command(["serve", "cameras.yaml", "--json"], lab.folder, environment(lab.folder))
        self.uri = json.loads(self.command.line('{"rig"'))["listening"]

    def kill(self) -> None:
        self.command.process.kill()
        self.command.process.wait()


def written(lab: Lab) -> None:
    on = {"EXPSTART": recorder(lab), "EXPEND": STOP}
    document = {"name": "cameras", "listen": "udp://127.0.0.1:0", "on": on, "finish": {"steps": [{"run": copy(lab)}]}}
    (lab.folder / "cameras.yaml").write_text(yaml.safe_dump(document))


@posix
def test_an_agent_that_is_killed_leaves_it_to_the_next_which_does_it_once(lab: Lab) -> None:
    written(lab)
    served = Served(lab)
    with served.command:
        with Auxiliaries({"cameras": served.uri}) as aux:
            session(aux)
        lab.logged("] begun")
        served.kill()
        again = Served(lab)
        with again.command:
            until(lambda: lab.log().count("] begun") == 2)
            let_go(lab)
            done(lab, REFERENCE)


@posix
def test_an_agent_that_is_killed_while_it_records_has_the_next_one_copy_what_there_is(lab: Lab) -> None:
    written(lab)
    let_go(lab)
    served = Served(lab)
    with served.command:
        with Auxiliaries({"cameras": served.uri}) as aux:
            init(aux)
            aux.request("EXPSTART", REFERENCE, timeout=LONG)
            until(lambda: jobs(lab))
            served.kill()
        with Served(lab).command:
            done(lab, REFERENCE)


# --------------------------------------------------------------------------------------------------------- the folder


def a_job(name: str = "20260301-a", **more: Any) -> Job:
    step = FilledStep(("true",), False, False, "/", 5.0, None)
    return Job(name, "cameras", REFERENCE, 1.0, state="waiting", steps=(step,), **more)


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = a_job(data={"note": "\ud800 \u00e9", "n": [1, 2.5, None]}, outputs=(("/data/\udcff", False), ("/d/*", True)))
    queue = Queue(tmp_path / "deep" / "queue")
    queue.save(job.id, job.text())
    assert queue.look().jobs == [job]
    job.done, job.state = 1, "failed"
    queue.save(job.id, job.text())
    assert queue.look().jobs == [job]
    queue.remove(job.id)
    queue.remove(job.id)
    assert queue.look().jobs == []
    assert list(queue.folder.iterdir()) == []


@posix
def test_nobody_else_reads_what_is_in_it(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue")
    queue.save("a", a_job("a").text())
    assert (queue.folder.stat().st_mode & 0o077, (queue.folder / "a.json").stat().st_mode & 0o077) == (0, 0)


def test_one_that_cannot_be_put_in_its_place_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, job = Queue(tmp_path), a_job()
    queue.save(job.id, job.text())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        queue.save(job.id, b"{}")
    assert queue.look().jobs == [job]
    assert [path.name for path in tmp_path.iterdir()] == [f"{job.id}.json"]


def test_what_was_never_put_in_its_place_is_removed_after_an_hour(tmp_path: Path) -> None:
    (tmp_path / ".a.0000.tmp").write_text("half of it")
    assert Queue(tmp_path).look() == Listing([], [], {})
    assert list(tmp_path.iterdir())
    os.utime(tmp_path / ".a.0000.tmp", (1, 1))
    Queue(tmp_path).look()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"id": "b"},
        {"state": "lost"},
        {"steps": None},
        {"steps": [{}]},
        {"steps": [{"words": ["a"]}]},
        {"done": 2},
        {"done": -1},
        {"done": "1"},
        {"due": float("nan")},
        {"due": float("inf")},
        {"due": "soon"},
        {"rig": 5},
        {"exp_ref": ["a"]},
        {"data": []},
        {"outputs": [["a"]]},
        {"outputs": [[5, True]]},
        {"problem": 5},
        {"running": 1},
        {"percent": "a"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_damaged_job_is_none(change: dict[str, Any]) -> None:
    found = {**json.loads(a_job("a").text()), **change}
    with pytest.raises(ValueError, match="damaged, or no file of rigsync"):
        parsed("a", json.dumps(found).encode())


@pytest.mark.parametrize("step", [{"words": []}, {"words": [""]}, {"words": "true"}, {"timeout": -1}, {"shell": 5}])
@pytest.mark.parametrize("percent", [None, "(a+)+(b)"])
def test_a_damaged_command_is_none(step: dict[str, Any], percent: str | None) -> None:
    found = json.loads(a_job("a").text())
    found["steps"][0] |= {"percent": percent} if percent else step
    with pytest.raises(ValueError, match="damaged, or no file of rigsync"):
        parsed("a", json.dumps(found).encode())


@settings(max_examples=50)
@given(
    text=st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_any_bytes_are_a_job_or_damaged(text: bytes) -> None:
    with pytest.raises(ValueError, match="rigsync"):
        parsed("a", text)


def test_what_is_no_plain_file_or_too_large_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "big.json").write_bytes(b" " * (LONGEST_FILE + 1))
    (tmp_path / "folder.json").mkdir()
    junk = {"big.json": "is too large for a file of rigsync", "folder.json": "is no file of rigsync"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        (tmp_path / "link.json").symlink_to("/etc/passwd")
        junk |= dict.fromkeys(("pipe.json", "link.json"), "is no file of rigsync")
    assert Queue(tmp_path).look() == Listing([], [], junk)


def test_data_are_kept_as_far_as_commands_can_get_them() -> None:
    job = a_job()
    job.add_data({"large": "x" * 40_000, "box": 4, "": 1, **{f"k{n}": "y" * 30_000 for n in range(20)}})
    assert "large" not in job.data
    assert job.data["box"] == 4
    assert len(job.text()) < 300_000
