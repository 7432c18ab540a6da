"""`rigsync.Journal`: what it returns, from files of all sorts, also while they are written."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from processes import ROOT

from journal.filling import REF, T0, Filler, filling
from rigsync import Journal, JournalError
from rigsync.journal.query import Record

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="another user can only be by root"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def filler(file: Path) -> Iterator[Filler]:
    with filling(file) as filler:
        yield filler


def kinds(journal: Journal, **asked: object) -> list[str]:
    return [record.kind for record in journal.events(**asked)]  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- sessions


def test_sessions_by_reference_subject_time_and_outcome(file: Path, filler: Filler) -> None:
    run = filler.run()
    for day, (subject, outcome) in enumerate([("a", "complete"), ("b", "failed"), ("a", "interrupted"), ("a", None)]):
        began = T0 + 86_400 * day
        ended = None if outcome is None else began + 60
        filler.session(run, f"day{day}_1_{subject}", subject=subject, began=began, ended=ended, outcome=outcome)
    filler.session(run, "day4_1_a", subject="a", began=T0 + 4 * 86_400, failures=2)
    with Journal(file) as journal:
        assert [session.ref for session in journal.sessions()] == [f"day{n}_1_{s}" for n, s in enumerate("abaaa")]
        assert [session.ref for session in journal.sessions(subject="a", last=2)] == ["day3_1_a", "day4_1_a"]
        assert [session.ref for session in journal.sessions(failed=True)] == ["day1_1_b", "day2_1_a", "day4_1_a"]
        assert [session.has_failed for session in journal.sessions()] == [False, True, True, False, True]
        begin = datetime.fromtimestamp(T0 + 86_400, timezone.utc)
        assert [session.ref for session in journal.sessions(since=begin, until=T0 + 2 * 86_400)] == [
            "day1_1_b",
            "day2_1_a",
        ]
        for ask in (journal.sessions, journal.events):
            with pytest.raises(TypeError, match="'yesterday' is text; give Unix time in seconds, or a datetime"):
                list(ask(since="yesterday"))  # type: ignore[operator]
        (session,) = journal.sessions("day1_1_b")
        assert session == journal.session("day1_1_b")
        assert (session.host, session.rigs, session.files, session.bytes) == ("task-pc", {"cameras": "ok"}, 1, 1000)
        assert journal.session().ref == "day4_1_a"
        assert journal.run(session.run).program == "task.py"
        with pytest.raises(LookupError, match="there is no run 77"):
            journal.run(77)


def test_a_reference_that_nobody_knows(file: Path, filler: Filler) -> None:
    with Journal(file) as journal:
        with pytest.raises(JournalError, match="there is no session in it yet"):
            journal.session()
        filler.session(filler.run())
        with pytest.raises(JournalError, match=f"no session '2026-11-30_1_mose'; did you mean '{REF}'"):
            journal.session("2026-11-30_1_mose")
        with pytest.raises(JournalError, match="no session 'x'; rigsync sessions lists"):
            journal.session("x")
        assert journal.sessions("x") == []


def test_a_session_that_rigs_have_noted_too_is_one(file: Path, filler: Filler) -> None:
    coordinator, rig = filler.run(), filler.run("rig", "cameras")
    far = filler.run("rig", "ephys", collected='{"rig": "ephys"}')
    filler.session(coordinator)
    filler.session(rig, began=T0 + 0.1, ended=None, outcome=None)
    filler.session(far, began=T0 - 300, ended=T0 - 240)  # by a clock that is minutes behind
    filler.session(rig, "2026-11-30_2_mouse", began=T0 + 100, ended=T0 + 200)  # commanded from elsewhere
    filler.session(rig, began=T0 + 86_400, ended=T0 + 86_460)  # the same reference a day later
    with Journal(file) as journal:
        assert [(one.ref, one.run) for one in journal.sessions()] == [
            (REF, coordinator),
            ("2026-11-30_2_mouse", rig),
            (REF, rig),
        ]
        assert len(journal.sessions(every=True)) == 5
        assert [run.id for run in journal.runs()] == [coordinator, rig, far]


# --------------------------------------------------------------------------------------------------------- events


@pytest.fixture
def story(filler: Filler) -> Filler:
    """A session with two rigs, one of which fails, and what is of none."""
    run = filler.run()
    session = filler.session(run, rigs={"cameras:left": "ok", "ephys": "RigTimeout"})
    filler.record(run, None, "LinkAlive", {"before": "unknown", "after": "alive", "reason": ""}, -1, rig="ephys")
    filler.push(run, session, "EXPSTART", 1, "cameras:left")
    filler.record(run, session, "Notice", {"topic": "log"}, 2, rig="cameras:left")
    failures = {"ephys": {"error": "RigTimeout", "problem": "no answer"}}
    filler.push(run, session, "EXPEND", 3, "cameras:left", failures=failures)
    return filler


def test_events_are_chosen(file: Path, story: Filler) -> None:
    with Journal(file) as journal:
        session = journal.session()
        assert kinds(journal) == ["LinkAlive", "PushCompleted", "Notice", "PushCompleted"]
        assert kinds(journal, session=session) == ["PushCompleted", "Notice", "PushCompleted"]
        assert kinds(journal, kinds="Notice") == kinds(journal, kinds=["Notice", "other"]) == ["Notice"]
        assert kinds(journal, without=["Notice", "LinkAlive"]) == ["PushCompleted"] * 2
        assert kinds(journal, rigs="ephys") == ["LinkAlive", "PushCompleted"]
        assert kinds(journal, rigs=["cameras:*"], session=session) == ["PushCompleted", "Notice", "PushCompleted"]
        assert kinds(journal, rigs="cameras") == []
        assert [record.time - T0 for record in journal.events(failures=True)] == [3]
        assert kinds(journal, since=T0 + 2, until=datetime.fromtimestamp(T0 + 2, timezone.utc)) == ["Notice"]
        assert kinds(journal, limit=1) == ["LinkAlive"]
        first, *others = journal.events()
        assert [record.id for record in journal.events(after=first.id)] == [record.id for record in others]
        assert journal.changes(first.id) == others
        assert journal.newest == others[-1].id
        assert first == Record(1, 1, None, T0 - 1, 999.0, "LinkAlive", "ephys", 1, None, False, first.data, 0.0)


def test_many_records_are_read_in_portions(file: Path, filler: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigsync.journal.reading.PAGE", 3)
    run = filler.run()
    session = filler.session(run)
    for number in range(10):  # several at one time
        filler.record(run, session, "Notice", {"number": number}, number // 4)
    with Journal(file) as journal:
        for found in (journal.events(), journal.events(journal.session())):
            assert [record.data["number"] for record in found] == list(range(10))


def test_what_is_no_json_is_shown_as_it_is(file: Path, filler: Filler) -> None:
    run = filler.run(about="[1]")
    session = filler.session(run, rigs="{")
    for data in ("{", "[" * 100_000, "7"):
        filler.record(run, session, "Notice", data, 0)
    with Journal(file) as journal:
        assert [record.data["unreadable"][:1] for record in journal.events()] == ["{", "[", "7"]
        assert journal.session().rigs == {"unreadable": "{"}
        assert journal.run(run).about == {"unreadable": "[1]"}


def test_a_frame_of_pandas(file: Path, story: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    story.session(1, "2026-11-30_2_mouse", ended=None, outcome=None)
    with Journal(file) as journal:
        table = journal.frame()
        assert list(table["ref"]) == [REF, "2026-11-30_2_mouse"]
        assert table["began"][0] == pandas.Timestamp(T0, unit="s", tz="UTC")
        assert table["ended"][1] is pandas.NaT
        events = journal.frame(journal.events(journal.session(REF)))
        assert list(events["kind"]) == ["PushCompleted", "Notice", "PushCompleted"]
        assert list(journal.frame([]).columns)[:3] == ["id", "run", "ref"]


def test_a_frame_without_pandas(file: Path, story: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with Journal(file) as journal, pytest.raises(ImportError, match="a frame needs pandas: pip install pandas"):
        journal.frame()


# ---------------------------------------------------------------------------------------- journals that are merged


def merged(filler: Filler, *, step: float = 0.0) -> tuple[int, int]:
    """A coordinator's session, and that of a rig whose clock is 300 s behind, and is set by `step` in the middle."""
    run = filler.run(about=f'{{"clock": {{"time": {T0 - 10}, "mono": 990}}}}')
    about = f'{{"clock": {{"time": {T0 - 305}, "mono": 4995}}}}'
    rig = filler.run("rig", "left", collected='{"rig": "cameras:left"}', about=about, opened=T0 - 305)
    session = filler.session(run, rigs={"cameras:left": "ok"})
    theirs = filler.session(rig, began=T0 - 299, ended=T0 - 285 + step, outcome="complete")
    filler.sample(run, session, "cameras:left", 0.5, -300)
    filler.record(run, session, "PushBegun", {"rigs": ["cameras:left"]}, 1)
    filler.record(rig, theirs, "StatusChanged", {}, 2, shift=-300, mono=5002)
    filler.record(run, session, "PushCompleted", {}, 3)
    filler.record(rig, theirs, "Notice", {}, 14, shift=-300 + step, mono=5014)
    filler.record(run, session, "PushCompleted", {}, 15)
    filler.sample(run, session, "cameras:left", 20.5, -300)
    return session, theirs


@pytest.mark.parametrize("step", [0.0, 1000.0, -1000.0])
def test_what_a_rig_has_written_is_put_in_its_place(file: Path, filler: Filler, step: float) -> None:
    """However its clock stands, and even if it is set in the middle."""
    merged(filler, step=step)
    with Journal(file) as journal:
        session = journal.session()
        records = list(journal.events(session, kinds=["PushBegun", "PushCompleted", "StatusChanged", "Notice"]))
        assert [record.kind for record in records] == [
            *("PushBegun", "StatusChanged", "PushCompleted", "Notice", "PushCompleted")
        ]
        for record, true in zip(records, [1, 2, 3, 14, 15], strict=True):
            assert record.bound is not None
            assert abs(record.time - T0 - true) <= record.bound < 0.01
        assert [record.rig for record in records if record.bound] == ["cameras:left"] * 2
        assert [run.name for run in journal.runs(session)] == ["", "cameras:left"]
        everything = [record for record in journal.events() if record.kind != "Sample"]
        assert [record.id for record in everything] == [record.id for record in records]
        assert [record.kind for record in journal.events(since=T0 + 1.5, until=T0 + 2.5)] == ["StatusChanged"]


def test_the_clock_of_this_computer_is_set_in_the_middle(file: Path, filler: Filler) -> None:
    session, _ = merged(filler)
    filler.connection.execute("UPDATE record SET time = time - 100 WHERE session = ? AND mono > 1002.5", [session])
    with Journal(file) as journal:
        found = journal.events(journal.session(), kinds=["PushBegun", "PushCompleted", "StatusChanged", "Notice"])
        assert [round(record.time - T0, 1) for record in found] == [1, 2, -97, -86, -85]


def test_a_rig_whose_clock_nobody_knows(file: Path, filler: Filler) -> None:
    merged(filler)
    filler.connection.execute("DELETE FROM record WHERE kind = 'Sample'")
    with Journal(file) as journal:
        for found in (journal.events(), journal.events(journal.session())):
            assert {record.bound for record in found if record.run == 2} == {None}


def test_what_only_a_rig_has_noted_is_put_in_its_place_too(file: Path, filler: Filler) -> None:
    """Its session was commanded from elsewhere, and this computer has watched the rig."""
    session, _ = merged(filler)
    filler.connection.execute("UPDATE record SET session = NULL WHERE session = ?", [session])
    filler.connection.execute("DELETE FROM session WHERE id = ?", [session])
    with Journal(file) as journal:
        found = list(journal.events(journal.session()))
        assert [round(record.time - T0) for record in found] == [2, 14]
        assert all(record.bound for record in found)
        assert {record.bound for record in journal.changes(0) if record.run == 2} == {None}  # as it was written
    filler.connection.execute("DELETE FROM record WHERE kind = 'Sample'")
    with Journal(file) as journal:
        assert [record.bound for record in journal.events(journal.session())] == [None, None]


def test_bounds_grow_away_from_estimates(file: Path, filler: Filler) -> None:
    merged(filler)
    filler.connection.execute("DELETE FROM record WHERE kind = 'Sample' AND mono > 1010")
    with Journal(file) as journal:
        near, far = (record.bound for record in journal.events() if record.run == 2)
        assert near is not None
        assert far is not None
        assert far - near == pytest.approx(12 * 500e-6)


def test_estimates_that_contradict_each_other_are_both_within_the_bound(file: Path, filler: Filler) -> None:
    """The computer of the task has slept for 100 s, and its monotonic clock has stood still; the rig's has not."""
    session, theirs = merged(filler)
    filler.connection.execute("DELETE FROM record WHERE mono = 1020.5")
    filler.record(2, theirs, "Notice", {}, 0, mono=5050)
    filler.sample(1, session, "cameras:left", 15.5, -200)
    with Journal(file) as journal:
        last = [record for record in journal.events(journal.session()) if record.mono == 5050][-1]
        assert last.bound is not None
        assert last.bound > 10
        assert abs(last.time - T0 - 15) <= last.bound


def test_a_rig_of_this_computer_has_the_same_clock(file: Path, filler: Filler) -> None:
    run, rig = filler.run(), filler.run("rig", "cameras")
    session, theirs = filler.session(run), filler.session(rig, began=T0 + 1)
    other = filler.session(filler.run("rig", "ephys"), began=T0 + 1)  # which does not belong to it
    filler.record(run, session, "PushBegun", {"rigs": ["cameras"]}, 1)
    filler.record(rig, theirs, "StatusChanged", {}, 2, shift=-50)  # the clock was set in between
    filler.record(run, session, "PushCompleted", {}, 3)
    filler.record(3, other, "StatusChanged", {}, 2.5)
    with Journal(file) as journal:
        found = list(journal.events(journal.session()))
        assert [record.kind for record in found] == ["PushBegun", "StatusChanged", "PushCompleted"]
        assert [record.rig for record in found] == [None, "cameras", None]
        assert {record.bound for record in found} == {0.0}


def test_a_session_goes_on_after_the_computer_was_started_anew(file: Path, filler: Filler) -> None:
    """Another run goes on with it, and its monotonic clock begins anew. A rig has gone on all the while."""
    session, theirs = merged(filler)
    filler.connection.execute("DELETE FROM record WHERE kind != 'Sample' AND mono > 1003")
    again = filler.run(about=f'{{"clock": {{"time": {T0 + 50}, "mono": 5}}}}', opened=T0 + 50)
    for at in (31, 62):
        filler.record(2, theirs, "Notice", {"at": at}, at, shift=-300, mono=5000 + at)
    filler.record(again, session, "PushBegun", {"at": 60}, 60, mono=15)
    filler.record(again, session, "PushCompleted", {"at": 61}, 61, mono=16)
    filler.sample(again, session, "cameras:left", 61.5, -300)
    filler.connection.execute("UPDATE record SET mono = 16.5 WHERE mono = 1061.5")
    filler.connection.execute("UPDATE session SET ended = ? WHERE id = ?", [T0 + 70, session])
    with Journal(file) as journal:
        found = [record for record in journal.events(journal.session()) if "at" in record.data]
        assert [record.data["at"] for record in found] == [31, 60, 61, 62]
        for record in found:
            assert abs(record.time - T0 - record.data["at"]) <= (record.bound or 1e-3)


def test_what_was_written_a_little_out_of_order_is_put_in_order(file: Path, filler: Filler) -> None:
    run, rig = filler.run(), filler.run("rig", "cameras")
    session, theirs = filler.session(run), filler.session(rig)
    for at in (1, 3, 2, 6):
        filler.record(run, session, "Notice", {}, at)
    for at in (5, 4):
        filler.record(rig, theirs, "Notice", {}, at)
    with Journal(file) as journal:
        for found in (journal.events(journal.session()), journal.events()):
            assert [record.time - T0 for record in found] == [1, 2, 3, 4, 5, 6]


# ---------------------------------------------------------------------------------------- files of all sorts


def test_it_is_asked_while_it_is_written(file: Path, filler: Filler) -> None:
    with Journal(file) as journal:
        assert journal.sessions() == []
        session = filler.session(filler.run())
        filler.record(1, session, "Notice", {}, 0)
        assert kinds(journal) == ["Notice"]
        filler.connection.execute("BEGIN IMMEDIATE")
        filler.record(1, session, "Notice", {}, 1)
        assert kinds(journal) == ["Notice"]  # and it does not wait
        filler.connection.execute("COMMIT")
        assert kinds(journal) == ["Notice", "Notice"]


def test_nothing_is_changed_by_asking(file: Path, story: Filler) -> None:
    with Journal(file) as journal, pytest.raises(sqlite3.OperationalError, match="readonly"):
        journal._connection.execute("DELETE FROM record")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no such journal; it begins with the first session"),
        (b"", "there is no such journal; it begins with the first session"),
        (b"not a database at all, but some text of sufficient length" * 20, "file is not a database"),
    ],
)
def test_no_journal(file: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(JournalError, match=problem) as raised:
        Journal(file)
    assert raised.value.path == str(file)


def test_the_database_of_another_program(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE session (id)")
    with pytest.raises(JournalError, match="this is a database of another program"):
        Journal(file)


def test_a_newer_version(file: Path, filler: Filler) -> None:
    filler.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match=r"a newer rigsync has written it.*install that rigsync here"):
        Journal(file)


def test_a_folder_in_place_of_a_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="this is a folder; name a file in it"):
        Journal(tmp_path)


def test_a_part_of_the_file_is_broken(file: Path) -> None:
    with filling(file) as filler:
        run = filler.run()
        for number in range(500):
            filler.record(run, None, "Notice", {"text": "x" * 200}, number)
    with file.open("r+b") as opened:
        opened.seek(8192)
        opened.write(os.urandom(file.stat().st_size - 8192))
    with Journal(file) as journal, pytest.raises(JournalError, match="it cannot be read"):
        list(journal.events())


def test_a_closed_journal_says_so(file: Path, story: Filler) -> None:
    journal = Journal(file)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="it cannot be asked"):
        journal.sessions()


def test_which_file_is_asked_without_one(file: Path, story: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JournalError, match="RIGSYNC_JOURNAL is off"):
        Journal()
    monkeypatch.setenv("RIGSYNC_JOURNAL", str(file))
    with Journal() as journal:
        assert journal.path == file
    monkeypatch.setenv("RIGSYNC_JOURNAL", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(file.parent))
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.setenv("LOCALAPPDATA", str(file.parent))
    with pytest.raises(JournalError, match=r"rigsync.journal\.sqlite: there is no such journal"):
        Journal()


ASK = """
import os, sys
import urllib.parse  # which pathlib loads when it is needed: nobody may look into the folder of Python, perhaps
from rigsync import Journal, JournalError
os.setgid(65534), os.setuid(65534)
try:
    with Journal(sys.argv[1]) as journal:
        print(len(list(journal.events())))
except JournalError as error:
    print(error)
"""


def as_nobody(file: Path) -> str:
    """Ask a journal as a user who may read it and no more."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(file)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@needs_root
def test_one_who_may_only_read(stack: contextlib.ExitStack) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))  # where others may look into it
    folder.chmod(0o755)
    file = folder / "journal.sqlite"
    with filling(file) as filler:
        run = filler.run()
        filler.record(run, None, "Notice", {}, 0)
        assert as_nobody(file) == "1"  # while it is written
        filler.record(run, None, "Notice", {}, 1)
        log = file.with_name("journal.sqlite-wal").read_bytes()
    assert as_nobody(file) == "2"  # after it was closed
    assert sorted(path.name for path in file.parent.iterdir()) == ["journal.sqlite"]
    file.with_name("journal.sqlite-wal").write_bytes(log)  # as whoever was killed has left it
    assert "it was not closed, and no file may be made beside it; copy it and journal.sqlite-wal" in as_nobody(file)
    file.chmod(0o600)
    assert "it cannot be opened" in as_nobody(file)


def test_moments(file: Path, story: Filler) -> None:
    with Journal(file) as journal:
        assert kinds(journal, since=-math.inf, until=math.inf) == kinds(journal)
        local = datetime.fromtimestamp(T0 + 2)
        assert kinds(journal, since=local, until=local) == ["Notice"]
