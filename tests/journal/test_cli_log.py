"""`rigsync log` and `rigsync sessions`: what they show, of which sessions, in which form."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Command, Outcome, environment, run_here
from platforms import needs_terminal, posix
from processes import until

from journal.filling import REF, T0, Filler, filling
from rigsync.cli import log as cli_log
from rigsync.cli.answers import in_words
from rigsync.cli.asked import csv_line
from rigsync.cli.happened import lines_of
from rigsync.journal.query import Journal, Record

Log = Callable[..., Outcome]
OTHER = "2026-11-29_3_rat"
LATE = "RigTimeout: no answer within 5 s"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def filler(file: Path) -> Iterator[Filler]:
    with filling(file) as filler:
        yield filler


@pytest.fixture
def ask(tmp_path: Path, file: Path) -> Log:
    def run(*arguments: str, **more: str) -> Outcome:
        return run_here(arguments, tmp_path, environment(tmp_path, **{"RIGSYNC_JOURNAL": str(file), **more}))

    return run


@pytest.fixture
def story(filler: Filler) -> Filler:
    """A session of the day before, and one with a rig that fails."""
    run = filler.run(closed=T0 + 100)
    other = filler.session(run, OTHER, began=T0 - 86_400, ended=T0 - 86_340, rigs={"cameras:left": "ok"})
    filler.push(run, other, "EXPSTART", -86_399, "cameras:left")
    rigs = {"cameras:left": "ok", "ephys": LATE}
    session = filler.session(run, rigs=rigs, outcome="failed", failures=1, files=3, bytes=12_345_678)
    begun = {"event": "EXPSTART", "args": [REF, None], "rigs": ["cameras:left", "ephys"], "at": T0 + 1.5}
    filler.record(run, session, "PushBegun", {"request_time": T0 + 1, **begun}, 1)
    starts = {"cameras:left": {"time": T0 + 1.5003, "bound": 0.0002, "is_estimate": False}}
    failures = {"ephys": {"error": "RigTimeout", "problem": "no answer within 5 s"}}
    more = {"starts": starts, "at": T0 + 1.5, "failures": failures}
    filler.push(run, session, "EXPSTART", 6, "cameras:left", **more)
    filler.record(run, session, "ProgressChanged", {"item": "frames", "value": 7, "total": 9}, 7, rig="cameras:left")
    filler.sample(run, session, "cameras:left", 8, -300)
    body = {"topic": "log", "key": None, "body": "=1+1 \x1b[31m", "confirmed": True}
    filler.record(run, session, "Notice", body, 9, rig="cameras:left")
    filler.record(run, None, "LinkLost", {"before": "suspect", "after": "lost", "reason": "silent"}, 99, rig="ephys")
    return filler


def lines(outcome: Outcome) -> list[str]:
    assert (outcome.status, outcome.err) == (0, "")
    return [line.rstrip() for line in outcome.out.splitlines()]


def clock(at: float) -> str:
    return f"{datetime.fromtimestamp(T0 + at):%H:%M:%S.%f}"[:-3]


HEAD = (
    f"{REF}, began {datetime.fromtimestamp(T0):%Y-%m-%d %H:%M:%S}, 1 min, on task-pc: failed "
    "(ephys: RigTimeout: no answer within 5 s; ok: cameras:left)"
)
BEGUN = f"{clock(1)}                EXPSTART to cameras:left, ephys at {clock(1.5)}000: {REF}"
LEFT = f"{clock(6)}  cameras:left  EXPSTART ok, began 0.3 ms after its instant (± 0.2 ms): RUNNING"
EPHYS = f"{clock(6)}  ephys         EXPSTART failed: RigTimeout: no answer within 5 s"
TOLD = f"{clock(9)}  cameras:left  log: =1+1 \\x1b[31m"


def test_the_last_session(ask: Log, story: Filler) -> None:
    assert lines(ask("log")) == [HEAD, BEGUN, LEFT, EPHYS, TOLD]
    assert ask("log", REF).out == ask("log", "2026-11-30_001_mouse").out == ask("log", "--last", "1").out


def test_the_journal_that_rigs_yaml_names(ask: Log, story: Filler, tmp_path: Path) -> None:
    """What the commands of that folder write, its questions ask; a mistake in the file keeps nobody from the usual."""
    whole = lines(ask("log"))
    (tmp_path / "rigs.yaml").write_text("rigs: {cameras: 127.0.0.1}\njournal: journal.sqlite\n")
    assert lines(ask("log", RIGSYNC_JOURNAL="")) == whole
    assert lines(ask("sessions", RIGSYNC_JOURNAL="")) == lines(ask("sessions"))
    (tmp_path / "rigs.yaml").write_text("rigs: {cameras: 127.0.0.1}\njournal: [journal.sqlite\n")
    assert "there is no such journal" in ask("log", RIGSYNC_JOURNAL="").err
    assert lines(ask("log", "--journal", "journal.sqlite", RIGSYNC_JOURNAL="")) == whole


@pytest.mark.parametrize("word", ["Off", "no", "false"])
def test_off_is_off_for_who_asks_too(ask: Log, story: Filler, word: str) -> None:
    outcome = ask("log", RIGSYNC_JOURNAL=word)
    assert (outcome.status, "RIGSYNC_JOURNAL is off" in outcome.err) == (1, True)


def test_all_of_it(ask: Log, story: Filler) -> None:
    assert lines(ask("log", "--all"))[4:6] == [
        f"{clock(7)}  cameras:left  frames: 7 of 9",
        f"{clock(8)}  cameras:left  alive, RUNNING, round trip 2 ms, clock 300 s behind (± 1 ms)",
    ]


def test_several_sessions(ask: Log, story: Filler) -> None:
    told = lines(ask("log", "--last", "5"))
    assert [line.partition(",")[0] for line in told if ", began " in line and " on " in line] == [OTHER, REF]
    assert len(lines(ask("log", OTHER))) == 2


def test_since_and_until(ask: Log, story: Filler) -> None:
    day = f"{datetime.fromtimestamp(T0):%Y-%m-%d}"
    begin = f"{day} {clock(8)}"
    assert lines(ask("log", "--since", begin)) == [day, TOLD, f"{clock(99)}  ephys         is lost: silent"]
    assert lines(ask("log", "--since", begin, "--until", f"{day} {clock(10)}")) == [day, TOLD]
    assert lines(ask("log", REF, "--since", begin)) == [HEAD, TOLD]
    assert lines(ask("log", "--until", "2020-01-01")) == []


@pytest.mark.parametrize("command", ["log", "sessions"])
def test_a_time_that_is_none(ask: Log, story: Filler, command: str) -> None:
    outcome = ask(command, "--since", "yesterdayish")
    assert outcome.status == 2
    assert "'yesterdayish' is no time in the past; write for instance 2h, 3d, 14:30, yesterday" in outcome.err


def test_of_some_rigs(ask: Log, story: Filler) -> None:
    assert lines(ask("log", "--rig", "cameras:*")) == [HEAD, BEGUN, LEFT, TOLD]
    assert lines(ask("log", "--rig", "ephys")) == [HEAD, BEGUN, EPHYS]
    assert lines(ask("log", "--rig", "ephys", "--rig", "cameras:left")) == [HEAD, BEGUN, LEFT, EPHYS, TOLD]


def test_a_rig_that_is_not_in_it_is_an_answer_of_its_own(ask: Log, story: Filler) -> None:
    outcome = ask("log", "--rig", "camera", "--rig", "x\n")
    nothing = "there is nothing of camera or x\\n to show; the rigs are cameras:left, ephys\n"
    assert (outcome.status, outcome.out.strip(), outcome.err) == (0, HEAD, nothing)
    well = ask("log", "--rig", "cameras:left", "--failures")
    assert (well.out.strip(), well.err) == (HEAD, "there is nothing of cameras:left to show\n")
    assert ask("log", "--since", "2020-01-01", "--json", "--rig", "x").err == "there is nothing of x to show\n"


def test_failures_alone(ask: Log, story: Filler) -> None:
    assert lines(ask("log", "--failures")) == [HEAD, EPHYS]


def test_json(ask: Log, story: Filler) -> None:
    told = [json.loads(line) for line in lines(ask("log", "--json"))]
    kinds = ["PushBegun", "PushCompleted", "ProgressChanged", "Sample", "Notice"]
    assert [record["kind"] for record in told] == kinds
    assert {record["ref"] for record in told} == {REF}
    assert told[-1]["data"]["body"] == "=1+1 \x1b[31m"
    assert told[-1]["time"] == T0 + 9
    assert "\x1b" not in ask("log", "--json").out


def test_csv(ask: Log, story: Filler) -> None:
    heading, *rows = csv.reader(io.StringIO(ask("log", "--csv", "--failures").out))
    assert heading == ["time", "bound", "session", "rig", "failure", "kind", "text", "data"]
    ((when, *others),) = rows
    assert datetime.fromisoformat(when).timestamp() == T0 + 6
    assert others[:6] == [
        "0.0",
        REF,
        "ephys",
        "1",
        "PushCompleted",
        "EXPSTART failed: RigTimeout: no answer within 5 s",
    ]
    assert json.loads(others[6])["event"] == "EXPSTART"


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=HYPERLINK()", "'=HYPERLINK()"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "\\t=1"),
        (" =1", "' =1"),
        ("a\r\n=1", "a\\r\\n=1"),
        ('say "x", y', '"say ""x"", y"'),
        (-1.5, "-1.5"),
        (None, ""),
    ],
)
def test_cells_are_no_formulas(cell: Any, written: str) -> None:
    assert csv_line([1, cell]) == f"1,{written}"


def test_what_cannot_be_asked_together(ask: Log, story: Filler) -> None:
    for arguments, told in (
        (["--json", "--csv"], "give either --json or --csv"),
        ([REF, "--last", "2"], "give either REF or --last"),
        (["--rigs", "x"], "--rigs is for --collect"),
        (["--follow", "--until", "now"], "--follow has no end"),
    ):
        outcome = ask("log", *arguments)
        assert outcome.status == 2
        assert told in outcome.err


def test_a_reference_that_nobody_knows(ask: Log, story: Filler) -> None:
    outcome = ask("log", "2026-11-30_1_mose")
    assert (outcome.status, outcome.out) == (1, "")
    assert f"there is no session '2026-11-30_1_mose'; did you mean '{REF}'?" in outcome.err


def test_no_journal(ask: Log, file: Path) -> None:
    for command in ("log", "sessions"):
        outcome = ask(command)
        assert (outcome.status, outcome.out) == (1, "")
        assert outcome.err == f"Error: journal {file}: there is no such journal; it begins with the first session\n"
    assert not file.exists()
    outcome = run_here(["log"], file.parent, environment(file.parent, RIGSYNC_JOURNAL="off"))
    assert "RIGSYNC_JOURNAL is off" in outcome.err


def test_another_file(ask: Log, file: Path, story: Filler, tmp_path: Path) -> None:
    assert ask("log", "--journal", str(file), RIGSYNC_JOURNAL="off").out == ask("log").out
    assert "this is a folder; name a file in it" in ask("log", "--journal", str(tmp_path)).err
    (tmp_path / "notes.txt").write_text("no database, but some text that is long enough to be read as one" * 10)
    outcome = ask("sessions", "--journal", "notes.txt")
    assert outcome.status == 1
    assert "file is not a database" in outcome.err


def test_an_empty_journal(ask: Log, filler: Filler) -> None:
    assert "there is no session in it yet" in ask("log").err
    outcome = ask("sessions")
    assert (outcome.status, outcome.out) == (0, "")
    assert re.fullmatch(r"there is no session yet in \S+journal\.sqlite\n", outcome.err)


def test_no_session_of_those_that_were_asked_for(ask: Log, story: Filler) -> None:
    outcome = ask("sessions", "--subject", "dog")
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "there is no such session; leave out an option\n")


# --------------------------------------------------------------------------------------------------- sessions


def test_sessions(ask: Log, story: Filler) -> None:
    day, before = (f"{datetime.fromtimestamp(T0 - days * 86_400):%Y-%m-%d %H:%M}" for days in (0, 1))
    assert [re.split(r"  +", line) for line in lines(ask("sessions"))] == [
        ["session", "began", "duration", "PC", "outcome", "rigs", "files", "size"],
        [OTHER, before, "1:00", "task-pc", "complete", "cameras:left", "1", "1 kB"],
        [REF, day, "1:00", "task-pc", "failed", f"cameras:left, ephys ({LATE})", "3", "12.3 MB"],
    ]
    assert len(lines(ask("sessions", "--failed"))) == len(lines(ask("sessions", "--subject", "rat"))) == 2
    assert len(lines(ask("sessions", "--last", "1"))) == len(lines(ask("sessions", "--since", day))) == 2


def test_sessions_in_other_forms(ask: Log, story: Filler) -> None:
    story.session(1, "=cmd|' /C calc'!A0", began=T0 + 9, ended=None, outcome=None, rigs={"r": "-x"}, files=0)
    first, second, third = json.loads(ask("sessions", "--json").out)
    assert (first["ref"], second["outcome"], third["state"]) == (OTHER, "failed", "not ended")
    heading, *rows = csv.reader(io.StringIO(ask("sessions", "--csv").out))
    assert heading == ["session", "subject", "began", "ended", "PC", "outcome", "rigs", "files", "bytes", "failures"]
    assert [row[0] for row in rows] == [OTHER, REF, "'=cmd|' /C calc'!A0"]
    assert rows[1][5:] == ["failed", "cameras:left: ok; ephys: RigTimeout: no answer within 5 s", "3", "12345678", "1"]


def test_many_rigs_are_counted(ask: Log, filler: Filler) -> None:
    filler.session(filler.run(), rigs={**{f"rig {number}": "ok" for number in range(8)}, "last": "lost"})
    assert "  9 rigs, last (lost)  " in ask("sessions").out


def test_what_has_failed_at_several_rigs_is_told_once_and_cut_in_a_table(ask: Log, filler: Filler) -> None:
    refused = "StateError: " + 20 * "EXPINIT refused; "
    filler.session(filler.run(), rigs={"left": refused, "right": refused, "ephys": "ok", "nidaq": "lost"})
    row = lines(ask("sessions"))[1]
    assert f"  ephys, left, right ({refused[:117]}...), nidaq (lost)  " in row
    assert f"(left, right: {refused}; nidaq: lost; ok: ephys)" in ask("log").out


@pytest.mark.parametrize(
    ("kind", "ago", "closed", "state"),
    [
        ("coordinator", 10, None, "goes on"),
        ("coordinator", 10, 1.0, "not ended"),
        ("coordinator", 900, None, "not ended"),
        ("rig", 10, None, "goes on"),
        ("rig", 900, None, "no end yet"),
        ("rig", 900, 1.0, "not ended"),
    ],
)
def test_a_session_without_an_end(
    ask: Log, filler: Filler, kind: str, ago: float, closed: float | None, state: str
) -> None:
    run = filler.run(kind, closed=closed)
    session = filler.session(run, ended=None, outcome=None, files=0)
    filler.record(run, session, "Notice", {}, time.time() - T0 - ago)
    assert f"  {state}  " in ask("sessions").out
    assert f", on task-pc: {state} (ok: cameras)" in ask("log").out


# ------------------------------------------------------------------------------------------------- all else


@pytest.mark.parametrize("command", ["log", "sessions"])
def test_a_span_that_is_none(ask: Log, story: Filler, command: str) -> None:
    outcome = ask(command, "--since", "2m", "--until", "1h")
    assert (outcome.status, "--since is later than --until" in outcome.err) == (2, True)


def test_a_name_that_no_file_holds_is_asked_for(ask: Log, story: Filler) -> None:
    assert ask("sessions", "--subject", "M\udce4uschen").err == "there is no such session; leave out an option\n"
    assert "there is no session" in ask("log", "\udce4").err


def test_an_attempt_that_has_not_begun_hides_no_session_of_its_reference(file: Path, story: Filler) -> None:
    good = story.session(story.run(), OTHER, began=T0 - 80_000)
    story.session(story.run(), OTHER, began=T0 + 50, outcome="failed")
    with Journal(file) as journal:
        assert journal.session(OTHER).id == good
        assert [one.outcome for one in journal.sessions(OTHER)][-1] == "failed"
        assert journal.session(REF).outcome == "failed"  # there is no other


@pytest.mark.parametrize(
    ("starts", "at", "told"),
    [
        ({"time": T0 + 1.0014, "bound": 0.002}, None, "began 1.4 ms after it was sent (± 2 ms)"),
        ({"time": T0 + 0.9986, "bound": 0.002}, None, "began 1.4 ms before it was sent (± 2 ms)"),
        ({"time": T0 + 1.9986, "bound": 0.002}, T0 + 2, "began 1.4 ms before its instant (± 2 ms)"),
        ({"time": T0 + 1.0014, "bound": 0.002, "is_estimate": True}, None, "reached it 1.4 ms after the push (± 2"),
    ],
)
def test_when_a_rig_began(ask: Log, filler: Filler, starts: dict[str, Any], at: float | None, told: str) -> None:
    more = {"starts": {"cameras": starts}, "at": at, "request_time": T0 + 1}
    run = filler.run()
    filler.push(run, filler.session(run), "EXPSTART", 3, "cameras", **more)
    assert f"EXPSTART ok, {told}" in ask("log").out


def test_values_are_told_in_words_and_not_as_json(ask: Log, filler: Filler) -> None:
    run = filler.run()
    session = filler.session(run)

    def begun(event: str, *args: Any) -> None:
        data = {"request_time": T0, "event": event, "args": args, "rigs": ["box"], "at": None}
        filler.record(run, session, "PushBegun", data, 1)

    begun("EXPINFO", 0, {"exp_ref": REF, "main_sync": False, "status": 0})
    begun("lights", [], {"level": 5, "on": True})
    begun("EXPEND", None, {})
    filler.push(run, session, "lights", 1, answers={"box": [{"level": 5, "fades": {"in": 1.5, "out": None}}]})
    filler.push(run, session, "EXPEND", 1, answers={"box": [{"status": 30, "frames": 12, "lost": [1, 2]}]})
    body = {"topic": "air", "key": None, "body": {"celsius": 30.5, "where": ["box", "room"]}, "confirmed": True}
    filler.record(run, session, "Notice", body, 1, rig="box")
    assert [" ".join(line.split()[1:]) for line in lines(ask("log"))[1:]] == [
        f"EXPINFO to box: CONNECTED, exp_ref: {REF}",
        "lights to box: level: 5, on: yes",
        "EXPEND to box",
        "box lights ok: level: 5, fades: (in: 1.5, out: nothing)",
        "box EXPEND ok: STOPPED frames: 12, lost: [1, 2]",
        "box air: celsius: 30.5, where: [box, room]",
    ]


def test_a_value_that_is_nested_deeply_is_told_in_words() -> None:
    value: Any = "x"
    for _ in range(5000):
        value = [value]
    assert in_words(value) == "x"
    assert in_words([value, 1]) == "[[[[...]]]], 1"


def test_when_a_rig_answered_that_was_not_the_last(ask: Log, filler: Filler) -> None:
    """Where the journal has that: of messages of the life cycle."""
    run = filler.run()
    session = filler.session(run)
    for rig, at in (("left", 1.25), ("right", 40.0)):
        answer = {"event": "EXPEND", "args": None, "request_time": T0 + 1}
        filler.record(run, session, "MessageReceived", answer, at, rig=rig)
    answers = {rig: [{"status": 30}] for rig in ("left", "right")}
    filler.push(run, session, "EXPEND", 40.001, answers=answers, request_time=T0 + 1)
    assert lines(ask("log"))[1:] == [
        f"{clock(40.001)}  left     EXPEND ok, answered at {clock(1.25)}: STOPPED",
        f"{clock(40.001)}  right    EXPEND ok: STOPPED",
    ]


def test_the_error_of_a_rig_is_named_once(ask: Log, filler: Filler) -> None:
    failures = {"cameras": {"error": "RemoteError", "problem": "StateError: EXPSTART refused"}}
    run = filler.run()
    filler.push(run, filler.session(run), "EXPSTART", 3, failures=failures)
    assert "  EXPSTART failed: StateError: EXPSTART refused\n" in ask("log").out


def test_a_program_that_has_ended_misses_notices_and_one_that_reads_too_slowly_does_not_get_them(
    ask: Log, filler: Filler
) -> None:
    run = filler.run("rig", "cameras")
    for number, data in enumerate([{}, {"reason": "it is behind"}, {"reason": "it has ended", "is_gone": True}]):
        filler.record(run, filler.session(run), "NoticesDropped", {"source": "10.0.0.9:5", **data}, number)
    told = ask("log", "--last", "3").out
    assert "10.0.0.9:5 does not get every notice\n" in told  # as a version before told it
    assert "10.0.0.9:5 does not get every notice: it is behind\n" in told
    assert "10.0.0.9:5 misses notices: it has ended\n" in told


def test_a_new_record_waits_for_the_other_side_s(file: Path, story: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rig's is written first, and its coordinator's, which says more, half a second later."""
    now = [100.0]
    monkeypatch.setattr(cli_log.time, "monotonic", lambda: now[0])
    notice = {"topic": "failure", "key": "lamp", "body": {"problem": "dark"}, "confirmed": True}
    with Journal(file) as journal:
        held = cli_log._Held(journal, cli_log._Chosen(journal, None, (), False, False))
        newest = journal.newest
        rig = story.run("rig", "cameras:left")
        story.record(rig, None, "Notice", notice, 20.2)
        held.add(journal.changes(newest))
        now[0] += 0.5
        assert list(held.take()) == []
        newest = journal.newest
        story.record(1, None, "Notice", notice, 20.2, rig="cameras:left")
        held.add(journal.changes(newest))
        now[0] += 1.0
        assert [record.run for record in held.take()] == [1]
        assert not held


def test_hostile_text_stays_in_its_line(ask: Log, filler: Filler) -> None:
    hostile = "\x1b[2J\r\n\u202e[bold]x[/bold]"
    run = filler.run(host=hostile)
    session = filler.session(run, hostile, subject=hostile, rigs={hostile: hostile}, outcome=hostile)
    for kind in ("Notice", "Odd", "PushCompleted", "LinkLost", "MessageHandled"):
        data = {"topic": hostile, "body": hostile, "event": hostile, "answers": {hostile: [hostile]}, "source": hostile}
        data |= {"failures": {hostile: hostile}, "reason": hostile, "error": hostile}
        filler.record(run, session, kind, data, 1, rig=hostile)
    for arguments in (["log"], ["log", "--csv"], ["log", "--json"], ["sessions"], ["sessions", "--csv"]):
        outcome = ask(*arguments)
        assert outcome.status == 0
        assert not set("\x1b\r\u202e") & set(outcome.out)
    assert len(lines(ask("log"))) == 7


@pytest.mark.parametrize(
    "kind", ["PushBegun", "PushCompleted", "Notice", "StatusChanged", "Sample", "StoodStill", "Odd"]
)
@pytest.mark.parametrize("data", [{}, {"answers": 7, "failures": 7, "event": 7, "topic": 7, "link": 7, "seconds": "x"}])
def test_a_record_of_any_form_has_a_line(kind: str, data: dict[str, Any]) -> None:
    for when in (T0, 1e300, -1e300, float("nan")):
        assert lines_of(Record(1, 1, None, when, 1.0, kind, None, 1, None, False, data, None))


def test_references_are_completed(file: Path, story: Filler, tmp_path: Path) -> None:
    story.session(1, "a\x1bb")
    env = environment(tmp_path, RIGSYNC_JOURNAL=str(file), _RIGSYNC_COMPLETE="fish_complete")
    for word, found in (("", [REF, OTHER]), ("2026-11-29", [OTHER]), ("x", [])):
        told = run_here([], tmp_path, {**env, "COMP_WORDS": f"rigsync log {word}", "COMP_CWORD": word}).out
        assert [line.partition(",")[2].split("\t")[0] for line in told.split()] == found
    env["RIGSYNC_JOURNAL"] = str(tmp_path / "gone")
    assert run_here([], tmp_path, {**env, "COMP_WORDS": "rigsync log ", "COMP_CWORD": ""}).out.strip() == ""


def test_following(file: Path, story: Filler, tmp_path: Path) -> None:
    """What is committed by whichever program is shown, until Ctrl-C."""
    env = environment(tmp_path, RIGSYNC_JOURNAL=str(file))
    with Command(["log", "--follow", "--rig", "cameras:*"], tmp_path, env) as command:
        assert command.line().startswith(REF)
        assert command.line(clock(9)).endswith("\\x1b[31m")
        run = story.run("rig", "cameras:left")
        session = story.session(run, "2026-12-01_1_mouse")
        story.record(run, session, "Notice", {"topic": "log", "body": "other"}, 20, rig="ephys")
        story.record(run, session, "Notice", {"topic": "log", "body": "new"}, 21)
        assert command.line() == f"{clock(21)}  cameras:left  log: new"
        story.connection.execute("BEGIN IMMEDIATE")
        for number in range(3):
            story.record(run, session, "Notice", {"topic": "log", "body": number}, 22 + number)
        story.connection.execute("COMMIT")
        assert [command.line()[-1] for _ in range(3)] == ["0", "1", "2"]
        command.interrupt()
        assert command.outcome().status == 0


@posix
def test_following_tells_once_what_a_rig_and_its_coordinator_say(file: Path, story: Filler, tmp_path: Path) -> None:
    """Whichever writes first. The other rig takes longer to answer."""
    with Command(["log", "--follow"], tmp_path, environment(tmp_path, RIGSYNC_JOURNAL=str(file))) as command:
        command.line(clock(9))
        rig = story.run("rig", "cameras:left")
        handled = {"source": "127.0.0.1:5", "event": "EXPEND", "error": None}
        answered = {"event": "EXPEND", "args": None, "request_time": T0 + 20}
        notice = {"topic": "failure", "key": "lamp", "body": {"problem": "dark"}, "confirmed": True}
        story.connection.execute("BEGIN IMMEDIATE")
        story.record(rig, None, "MessageHandled", handled, 20.1)
        story.record(1, None, "MessageReceived", answered, 20.1, rig="cameras:left")
        story.record(rig, None, "Notice", notice, 20.2)
        story.record(1, None, "Notice", notice, 20.2, rig="cameras:left")
        story.record(rig, None, "MessageHandled", {**handled, "event": "EXPCLEANUP"}, 20.3)
        story.connection.execute("COMMIT")
        assert [command.line() for _ in range(2)] == [
            f"{clock(20.2)}  cameras:left  failure of lamp: dark",
            f"{clock(20.3)}  cameras:left  EXPCLEANUP from 127.0.0.1:5 done",
        ]
        command.interrupt()
        assert command.outcome().status == 0


@posix
def test_following_one_session_as_json(file: Path, story: Filler, tmp_path: Path) -> None:
    env = environment(tmp_path, RIGSYNC_JOURNAL=str(file))
    with Command(["log", "2026-12-01_1_mouse", "--follow", "--json"], tmp_path, env) as command:
        # It is there once it has opened the journal, which it keeps open.
        until(lambda: any("journal.sqlite" in held for held in _held(command.process.pid)), "the journal is open")
        story.record(1, None, "Notice", {"body": "of none"}, 1)
        session = story.session(1, "2026-12-01_1_mouse")
        story.record(1, session, "Notice", {"body": "of it"}, 2)
        assert json.loads(command.line())["data"] == {"body": "of it"}
        os.replace(file, tmp_path / "moved")
        outcome = command.outcome()
        assert outcome.status == 1
        assert "it has gone: somebody has moved, removed or replaced it" in outcome.err


def _held(pid: int) -> list[str]:
    import psutil

    return [opened.path for opened in psutil.Process(pid).open_files()]


@needs_terminal
def test_failures_are_red_on_a_terminal(file: Path, story: Filler, tmp_path: Path) -> None:
    master, slave = os.openpty()
    env = environment(tmp_path, RIGSYNC_JOURNAL=str(file), TERM="xterm")
    with Command(["log"], tmp_path, env, stdout=slave) as command:
        assert command.outcome().status == 0
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    red = {line for line in shown.splitlines() if line.startswith("\x1b[1;31m")}
    assert {HEAD in line or EPHYS in line for line in red} == {True}
    assert len(red) == 2
    assert "\x1b[31m" not in shown.replace("\\x1b[31m", "")


def test_a_reader_that_goes_is_no_error(file: Path, story: Filler, tmp_path: Path) -> None:
    for number in range(3000):
        story.record(1, 2, "Notice", {"topic": "log", "body": "x" * 100}, 10 + number / 1000)
    env = environment(tmp_path, RIGSYNC_JOURNAL=str(file))
    with Command(["log"], tmp_path, env) as command:
        command.line()
        assert command.process.stdout
        command.process.stdout.close()
        command.process.stdout = None
        assert command.outcome() == Outcome(command.process.wait(), "", "")
        assert command.process.returncode in (0, 1, -signal.SIGPIPE)
