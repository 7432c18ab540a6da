"""Parts of the journal by themselves: settings, tables, drives, secrets, the thread, and which session is which."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import LONG, until

from rigsync import Auxiliaries, ConfigError, JournalError, Rig, load_rigs
from rigsync.config.journal import JournalSettings, chosen_journal, user_journal_file
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import (
    Event,
    MessageHandled,
    Notice,
    NoticesDropped,
    ProgressChanged,
    PushBegun,
    PushCompleted,
    StatusChanged,
    put_stamp,
)
from rigsync.errors import RemoteError, RigError, RigTimeout
from rigsync.hub.events import AlertFailed, AlertSent
from rigsync.journal import store
from rigsync.journal.about import Repository
from rigsync.journal.drafts import RecordRow, RunRow, SessionRow
from rigsync.journal.drives import mounts_in, network_among, network_of
from rigsync.journal.entries import is_failure
from rigsync.journal.file import JournalFile
from rigsync.journal.scribe import Scribe
from rigsync.journal.secrets import file_without_secrets, without_secrets
from rigsync.journal.sessions import CoordinatorSessions, RigSessions
from rigsync.runtime.disk_writer import DiskWriter, WaitingRoom

from .recorded import rows

DAY = 86_400.0
NOW = 1_796_000_000.0
REF = "2026-03-01_2_mouse"


# -------------------------------------------------------------------------------------------------------- settings


def journal_in(folder: Path, text: str) -> JournalSettings | None:
    (folder / "rigs.yaml").write_text(f"rigs:\n  cameras: 127.0.0.1\n{text}\n")
    return load_rigs(folder / "rigs.yaml").journal


def test_what_a_file_may_say(tmp_path: Path) -> None:
    usual = JournalSettings()
    assert (usual.keep, usual.max_size) == (365.25 * DAY, 2_000_000_000)
    assert (
        journal_in(tmp_path, "") == journal_in(tmp_path, "journal: on") == journal_in(tmp_path, "journal: {}") == usual
    )
    assert journal_in(tmp_path, "journal: off") is None
    assert journal_in(tmp_path, "journal: own.sqlite") == JournalSettings(str(tmp_path / "own.sqlite"))
    assert journal_in(tmp_path, "journal: {keep: 3 weeks, max_size: 5 GB}") == JournalSettings(
        None, 21 * DAY, 5 * 10**9
    )
    assert journal_in(tmp_path, "journal: {keep: 1 month, path: /j}") == JournalSettings("/j", 30.5 * DAY)


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ("journal: [a]", "journal", "expected off, a path, or a map"),
        ("journal: {keep: forever}", "journal.keep", "a time with its unit, such as 1 year"),
        ("journal: {keep: 0 days}", "journal.keep", "a time with its unit"),
        ("journal: {max_size: 1 kB}", "journal.max_size", "10,000,000 bytes or more"),
        ("journal: {where: here}", "journal.where", "unknown key"),
    ],
)
def test_what_it_may_not_say(tmp_path: Path, text: str, key: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        journal_in(tmp_path, text)
    assert caught.value.key == key


def test_what_a_constructor_may_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RIGSYNC_JOURNAL", str(tmp_path / "env"))
    of_file = JournalSettings("/file", 5.0)
    assert chosen_journal(None) is chosen_journal(False, of_file) is chosen_journal("off", of_file) is None
    assert chosen_journal(None, of_file) == chosen_journal(True, of_file) == of_file
    assert chosen_journal(tmp_path / "own", of_file) == JournalSettings(str(tmp_path / "own"), 5.0)
    assert of_file.file == tmp_path / "env"
    monkeypatch.setenv("RIGSYNC_JOURNAL", "off")
    assert chosen_journal(True, of_file) is None
    for make in (Auxiliaries, lambda **options: Rig("cameras", **options)):
        with pytest.raises(TypeError, match="journal is a path, True, False or 'off', not int"):
            make(journal=3)


def test_where_the_usual_file_is() -> None:
    home = {"HOME": "/home/me"}
    assert user_journal_file(home, "linux") == Path("/home/me/.local/share/rigsync/journal.sqlite")
    assert user_journal_file({**home, "XDG_DATA_HOME": "/data"}, "linux") == Path("/data/rigsync/journal.sqlite")
    assert user_journal_file(home, "darwin") == Path("/home/me/Library/Application Support/rigsync/journal.sqlite")
    assert user_journal_file({"LOCALAPPDATA": "/local"}, "win32") == Path("/local/rigsync/journal.sqlite")


# ------------------------------------------------------------------------------------------------- tables, and size


@pytest.fixture
def run() -> RunRow:
    return RunRow("uuid", "coordinator", "", "pc", "task.py", NOW - 400 * DAY, {}, closed=NOW)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalFile]:
    file = JournalFile(tmp_path / "journal.sqlite")
    yield file
    file.close()


def fill(journal: JournalFile, run: RunRow, days: int, each: int = 50) -> None:
    """Write a session each day, and something beside it."""
    for day in range(days):
        began = NOW - (day + 0.5) * DAY
        row = SessionRow(run, f"2026-03-01_{day}_mouse", "mouse", began, began + 60, "complete", {"cameras": "ok"})
        beside = RecordRow(run, None, began - 60, 0.0, "LinkAlive", "cameras", 0, None, False, "{}")
        of_it = [
            RecordRow(run, row, began + number, 0.0, "Notice", "cameras", number, None, False, "x" * 500)
            for number in range(each)
        ]
        journal.write([run], [row], [beside, *of_it])


def test_what_is_older_than_it_is_to_be_kept_goes_whole(journal: JournalFile, run: RunRow) -> None:
    fill(journal, run, 20)
    old = RunRow("old", "coordinator", "", "pc", "task.py", NOW - 30 * DAY, {}, closed=NOW - 29 * DAY)
    journal.write([old], [], [])
    while journal.trim(7 * DAY, 10**9, NOW):
        pass
    assert rows(journal.path, "SELECT count(*) AS n FROM session") == [{"n": 7}]
    assert rows(journal.path, "SELECT count(*) AS n, count(session) AS own FROM record") == [{"n": 357, "own": 350}]
    assert rows(journal.path, "SELECT uuid FROM run") == [{"uuid": "uuid"}]


def test_a_session_that_goes_on_stays_and_one_of_a_killed_program_goes(journal: JournalFile, run: RunRow) -> None:
    goes_on, killed = (SessionRow(run, REF, "mouse", NOW - days * DAY) for days in (2, 20))
    journal.write([run], [goes_on, killed], [])
    fill(journal, run, 1)
    while journal.trim(DAY, 10**9, NOW):
        pass
    kept = [row["began"] for row in rows(journal.path, "SELECT began FROM session")]
    assert kept == [goes_on.began, NOW - 0.5 * DAY]


def test_what_is_too_much_goes_and_the_file_becomes_smaller(journal: JournalFile, run: RunRow) -> None:
    fill(journal, run, 30, each=100)
    before = journal._pragma("page_count")
    while journal.trim(10_000 * DAY, 500_000, NOW):
        pass
    left = [row["began"] for row in rows(journal.path, "SELECT began FROM session ORDER BY began DESC")]
    assert left == [NOW - (day + 0.5) * DAY for day in range(len(left))]  # the newest
    assert 0 < len(left) < 10
    journal.close()
    assert journal.path.stat().st_size < before * 4096 / 2


def test_a_journal_of_an_older_version_becomes_one_of_this(
    tmp_path: Path, journal: JournalFile, run: RunRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next version, in which sessions have one more column."""
    fill(journal, run, 2)
    journal.close()
    monkeypatch.setattr(store, "VERSION", 2)
    with pytest.raises(JournalError, match="nobody knows version 1 of its tables"):
        store.open_to_write(journal.path)
    monkeypatch.setattr(
        store, "MIGRATIONS", {1: "ALTER TABLE session ADD COLUMN mood TEXT;\nUPDATE session SET mood = 'calm'"}
    )
    for opened in (store.open_to_read, store.open_to_write):
        with contextlib.closing(opened(journal.path)) as connection:
            assert connection.execute("SELECT mood FROM session").fetchall() == [("calm",)] * 2
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_migration_that_fails_leaves_it_as_it_was(
    journal: JournalFile, run: RunRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(journal, run, 1)
    journal.close()
    monkeypatch.setattr(store, "VERSION", 2)
    monkeypatch.setattr(store, "MIGRATIONS", {1: "ALTER TABLE session ADD COLUMN mood TEXT;\nUPDATE nothing SET x = 1"})
    with pytest.raises(JournalError):
        store.open_to_write(journal.path)
    with contextlib.closing(sqlite3.connect(journal.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert "mood" not in [column[1] for column in connection.execute("PRAGMA table_info(session)")]


# ---------------------------------------------------------------------------------------------------------- drives

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /home/me/Lab\040data rw - nfs4 server:/lab rw
31 30 254:1 / /home/me/Lab\040data/local rw - ext4 /dev/vdb rw
32 22 0:41 / /mnt/share rw - cifs //server/share rw
33 22 0:42 / /mnt/sharp rw - ext4 /dev/vdc rw
34 22 0:43 / /mnt/ssh rw - fuse.sshfs me@host: rw
junk
"""


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("/home/me", None),
        ("/home/me/Lab data/rigsync", "/home/me/Lab data (nfs4)"),
        ("/home/me/Lab data/local/rigsync", None),
        ("/mnt/share", "/mnt/share (cifs)"),
        ("/mnt/sharp/x", None),
        ("/mnt/ssh/x", "/mnt/ssh (fuse.sshfs)"),
    ],
)
def test_network_drives(folder: str, told: str | None) -> None:
    assert network_among(Path(folder), mounts_in(MOUNTS.splitlines())) == told


def test_this_drive_is_none(tmp_path: Path) -> None:
    assert network_of(tmp_path) is None


# --------------------------------------------------------------------------------------------------------- secrets


def test_secrets_in_data() -> None:
    told = {
        "Token": {"a": 1},
        "api-key": "x",
        "tokens": [1],
        "password": None,
        "x": [{"my_secret": "y"}],
        "key": "kept",
    }
    assert without_secrets(told) == {
        "Token": "***",
        "api-key": "***",
        "tokens": "***",
        "password": None,
        "x": [{"my_secret": "***"}],
        "key": "kept",
    }
    assert (
        without_secrets("see mqtt://me:pass@host/x and http://host/a@b") == "see mqtt://***@host/x and http://host/a@b"
    )


def test_secrets_in_files() -> None:
    told = """
    uri: mqtt://me:word@broker/room
    password: "my word"
    run: [curl, --token, word, --user-password=word]
    secret_key: word
    rigs: {api_key: word, uri: 127.0.0.1}
    note: nothing
    """
    found = file_without_secrets(told)
    assert "word" not in found.replace("password", "")
    assert "note: nothing" in found
    assert "127.0.0.1" in found


# ------------------------------------------------------------------------------------------------------ the thread


def test_a_waiting_room() -> None:
    room: WaitingRoom[str] = WaitingRoom(3, 100)
    assert [room.put(name, size) for name, size in (("a", 60), ("b", 50), ("c", 40), ("d", 0), ("e", 0))] == [
        *(True, False, True, True, False)
    ]
    room.put_anyway("f")
    assert (room.take_lost(), room.take_lost(), len(room), room.is_crowded) == (2, 0, 4, True)
    assert (room.take(2), room.take(9)) == (["a", "c"], ["d", "f"])
    assert (room.put("g", 100), room.put("h", 1), room.is_crowded) == (True, False, True)


def test_a_thread_that_gathers_unless_it_is_urgent() -> None:
    worked: list[bool] = []
    thread = DiskWriter("test", lambda is_last: worked.append(is_last), lambda: None, gather=LONG)
    assert thread.start()
    thread.knock()
    thread.knock(urgent=True)
    until(lambda: worked == [False])
    thread.knock()
    thread.end()
    assert thread.join(LONG)
    assert worked == [False, True]


def test_a_mistake_in_the_work_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    worked = threading.Event()

    def work(is_last: bool) -> float | None:
        if not worked.is_set():
            worked.set()
            raise LookupError
        return None

    thread = DiskWriter("test", work, lambda: None)
    thread.start()
    thread.knock()
    assert worked.wait(LONG)
    thread.knock()
    thread.end()
    assert thread.join(LONG)
    assert "thread test raised an exception, LookupError; it goes on" in caplog.text


# -------------------------------------------------------------------------------------------- which session is which


class Lab:
    """A coordinator's sessions, and pushes without rigs."""

    def __init__(self, run: RunRow):
        self.sessions, self.time = CoordinatorSessions(run, lambda _: None), 0.0

    def push(self, message: str, *args: Any, rigs: str = "a b", failed: str = "", answer: Any = None) -> Any:
        event, names = ExpMessage[message], rigs.split()
        self.time += 1.0
        self.sessions.take(PushBegun(self.time, event, list(args), names, None), self.time)
        answers = {rig: [answer or {}] for rig in names if rig not in failed.split()}
        failures = {rig: RigError(rig, "no") for rig in failed.split()}
        return self.sessions.take(PushCompleted(self.time, event, answers, failures), self.time)


@pytest.fixture
def lab(run: RunRow) -> Lab:
    return Lab(run)


def test_two_experiments_at_once_on_other_rigs(lab: Lab) -> None:
    first = lab.push("EXPINIT", {"exp_ref": REF}, rigs="a")
    second = lab.push("EXPINIT", {"exp_ref": "2026-03-01_3_rat"}, rigs="b")
    assert [lab.push("EXPSTART", rigs=rig) for rig in "ab"] == [first, second]
    assert lab.push("EXPEND", rigs="a") is first
    assert (first.outcome, second.outcome, lab.sessions.goes_on) == ("complete", None, True)
    lab.push("EXPINTERRUPT", rigs="b")
    assert (second.outcome, lab.sessions.goes_on) == ("interrupted", False)
    lab.push("EXPCLEANUP")
    assert lab.push("EXPSTATUS", 0) is None


def test_what_was_broken_off_was_recorded_too(lab: Lab) -> None:
    recorded = {"recorded": {"seconds": 3.0, "files": [{"path": "/a", "bytes": 7}]}}
    row = lab.push("EXPINIT", {"exp_ref": REF})
    lab.push("EXPSTART", REF)
    lab.push("EXPEND", failed="b", answer=recorded)
    lab.push("EXPINTERRUPT", rigs="a")  # which has nothing more to tell
    lab.push("EXPINTERRUPT", rigs="b", answer=recorded)
    assert (row.outcome, row.files, row.bytes) == ("incomplete", 2, 14)


def test_a_session_that_no_rig_begins_has_failed(lab: Lab) -> None:
    """As one that is begun while another records: nobody is told of an end who has not begun."""
    refused = {rig: RemoteError(rig, "StateError", "status is RUNNING", "") for rig in "ab"}
    lab.sessions.take(PushBegun(1.0, ExpMessage.EXPINIT, [{"exp_ref": REF}], ["a", "b"], None), 1.0)
    row = lab.sessions.take(PushCompleted(1.0, ExpMessage.EXPINIT, {}, dict(refused)), 2.0)
    assert row
    assert (row.outcome, row.ended, lab.sessions.goes_on) == ("failed", 2.0, False)
    again = lab.push("EXPINIT", {"exp_ref": REF})
    assert (again is row, again.outcome) == (False, None)


def test_a_session_that_a_rig_may_have_begun_goes_on(lab: Lab) -> None:
    failures = {"a": RemoteError("a", "StateError", "no", ""), "b": RigTimeout("b", "no answer within 5 s")}
    lab.sessions.take(PushBegun(1.0, ExpMessage.EXPINIT, [{"exp_ref": REF}], ["a", "b"], None), 1.0)
    row = lab.sessions.take(PushCompleted(1.0, ExpMessage.EXPINIT, {}, dict(failures)), 2.0)
    assert row
    assert row.outcome is None
    lab.push("EXPINTERRUPT", rigs="b", failed="b")
    lab.push("EXPCLEANUP", rigs="b", failed="b")
    assert row.outcome == "failed"


def test_alerts_belong_to_the_session_that_they_tell_of(lab: Lab, run: RunRow) -> None:
    """They come when it is over; and that nobody is told makes no session worse."""
    row = lab.push("EXPINIT", {"exp_ref": REF})
    for message in ("EXPSTART", "EXPEND", "EXPCLEANUP"):
        lab.push(message)
    scribe = Scribe(run, lab.sessions, None, None, 0.0)
    about = ("alerts[0].webhook (webhook)", "session end", ["a", "b"])
    events = [
        AlertSent(*about, REF, "it has ended", 0, 1),
        AlertFailed(*about, REF, "it has ended", 0, 8, "no answer within 10 s"),
        AlertFailed(*about, "2026-03-01_9_rat", "it has ended", 0, 8, "no answer within 10 s"),
    ]
    for number, event in enumerate(events):
        put_stamp(event, (number, 0, 1.0, None))
    found = [record for event in events for record in scribe.take(event, 1.0)]
    assert [(record.session, record.failure) for record in found] == [(row, False), (row, True), (None, True)]
    assert (row.failures, row.outcome) == (0, "complete")


def test_what_is_done_after_a_session_belongs_to_it_and_to_no_other(lab: Lab, run: RunRow) -> None:
    row = lab.push("EXPINIT", {"exp_ref": REF})
    for message in ("EXPSTART", "EXPEND", "EXPCLEANUP"):
        lab.push(message)
    other = lab.push("EXPINIT", {"exp_ref": "2026-03-01_3_rat"})
    notices = [
        Notice("a", "failure", f"finish {ref}", {"problem": "no route to host", "exp_ref": ref}, True)
        for ref in (REF, "2026-02-01_1_rat")  # which another program has commanded
    ]
    scribe = Scribe(run, lab.sessions, None, None, 0.0)
    for number, event in enumerate(notices):
        put_stamp(event, (number, 0, 1.0, None))
    assert [record.session for event in notices for record in scribe.take(event, 1.0)] == [row, None]
    assert (row.failures, row.outcome, other.failures) == (1, "complete", 0)
    lab.push("EXPSTART")
    lab.push("EXPEND")
    assert (other.outcome, other.rigs) == ("complete", {"a": "ok", "b": "ok"})


@pytest.mark.parametrize(
    ("event", "is_its_own", "failures"),
    [
        (MessageHandled("10.0.0.9:5", ExpMessage.EXPINIT, "StateError: status is RUNNING"), True, 0),
        (MessageHandled("10.0.0.9:5", ExpMessage.EXPEND, "BusyError: task.py is in charge"), True, 0),
        (MessageHandled("10.0.0.9:5", ExpMessage.EXPINFO, "OSError: no camera"), True, 1),
        (Notice("cameras", "log", "message", {"message": "EXPINIT", "error": "BusyError: no"}, True), True, 0),
        (NoticesDropped("10.0.0.9:5"), False, 0),
    ],
)
def test_what_others_were_refused_or_missed_makes_no_session_worse(
    run: RunRow, event: Event, is_its_own: bool, failures: int
) -> None:
    scribe = Scribe(run, RigSessions(run), None, None, 0.0)
    steps = [ExpStatus.CONNECTED, ExpStatus.INITIALIZED, ExpStatus.RUNNING]
    told = [StatusChanged(before, after, REF) for before, after in itertools.pairwise(steps)]
    for number, each in enumerate([*told, event]):
        put_stamp(each, (number, 0, 1.0, None))
        (record,) = scribe.take(each, 1.0)
    session = next(iter(scribe.rows()))
    assert (record.failure, record.session) == (True, session if is_its_own else None)
    assert session.failures == failures


def test_an_end_that_comes_rig_by_rig(lab: Lab) -> None:
    row = lab.push("EXPINIT", {"exp_ref": REF})
    lab.push("EXPSTART", REF)
    lab.push("EXPEND", rigs="a")
    assert row.ended is None
    lab.push("EXPEND", rigs="b", failed="b")
    assert (row.outcome, row.rigs) == ("incomplete", {"a": "ok", "b": "no"})


def test_what_nobody_confirms_is_not_complete(lab: Lab) -> None:
    row = lab.push("EXPINIT", {"exp_ref": REF})
    lab.push("EXPSTART", REF)
    lab.push("EXPEND", answer={"unconfirmed": "sent; nobody confirms it"})
    assert (row.outcome, row.rigs["a"]) == ("incomplete", "sent; nobody confirms it")


@pytest.mark.parametrize(
    "recorded", [None, 3, {}, {"files": 3}, {"files": [3, {"bytes": "x"}, {"bytes": -1}, {"bytes": 10**30}]}]
)
def test_a_rig_may_tell_nonsense_of_its_files(lab: Lab, recorded: Any) -> None:
    row = lab.push("EXPINIT", {"exp_ref": REF})
    lab.push("EXPSTART", REF)
    lab.push("EXPEND", answer={"recorded": recorded})
    assert row.bytes == 0


def test_references_of_other_forms(lab: Lab) -> None:
    row = lab.push("EXPINIT", {"exp_ref": "whatever"})
    assert (row.ref, row.subject) == ("whatever", None)
    assert lab.push("EXPINIT", {"exp_ref": "2026-03-01_002_mouse"}).ref == REF
    assert lab.push("EXPINIT", {"exp_ref": 3, "rehearsal": "x"}).ref == REF  # which the rigs refuse
    assert lab.push("EXPSTART", rigs="c").ref == ""


def test_a_rig_that_stops_by_itself(run: RunRow) -> None:
    run.name = "cameras"
    sessions = RigSessions(run)
    steps = [ExpStatus.CONNECTED, ExpStatus.INITIALIZED, ExpStatus.RUNNING]
    for before, after in itertools.pairwise(steps):
        row = sessions.take(StatusChanged(before, after, REF), 1.0)
    assert row
    sessions.take(StatusChanged(ExpStatus.RUNNING, ExpStatus.STOPPED, REF, "ffmpeg has died"), 2.0)
    sessions.take(MessageHandled("here", ExpMessage.EXPEND, "EndedBadly: ffmpeg has died"), 3.0)
    assert (row.ended, row.rigs["cameras"]) == (2.0, "EndedBadly: ffmpeg has died")
    assert json.loads(json.dumps(row.rigs))


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for git")
def test_git_is_asked_without_a_lock_and_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git that is killed while it holds a lock leaves it, and whoever commits is told that another git is at work."""
    said = tmp_path / "said"
    script = f"""#!/bin/sh
trap 'kill $child; echo ended >> {said}; exit' TERM
sleep 60 & child=$!
echo $GIT_OPTIONAL_LOCKS $6 > {said}
wait
"""
    (tmp_path / "git").write_text(script)
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    repository = Repository(str(tmp_path))
    until(lambda: said.exists() and said.read_text())
    assert repository.look() is None
    repository.close()
    assert said.read_text() == "0 --porcelain=v2\nended\n"
    assert not repository.is_asked


def test_progress_is_thinned_the_more_the_longer_it_lasts(run: RunRow) -> None:
    scribe = Scribe(run, RigSessions(run), None, None, 0.0)
    kept: list[tuple[float, int]] = []
    for second in range(3600):
        event = ProgressChanged("cameras", "frames", second, None, None)
        put_stamp(event, (second, 10, NOW + second, None))
        found = [*scribe.take(event, float(second)), *scribe.due(float(second), NOW + second)]
        kept += [(record.mono, json.loads(record.data)["value"]) for record in found]
    times = [mono for mono, _ in kept]
    assert times[:4] == [0.0, 5.0, 10.0, 15.0]
    assert times[-1] - times[-2] == 60.0
    assert 70 < len(kept) < 100
    assert all(mono == value for mono, value in kept)
    assert [record.mono for record in scribe.release()] == [3599.0]
    assert scribe.next() == float("inf")


def test_a_program_that_has_merely_ended_is_no_failure() -> None:
    assert is_failure(NoticesDropped("10.0.0.9:5", "it is 10,000 notices behind"))
    assert not is_failure(NoticesDropped("10.0.0.9:5", "it has ended", is_gone=True))
