"""What keeps a journal from being written: it is told once, the experiment goes on, and what waits comes later."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from processes import LONG, ROOT, until

from rigsync import Rig
from rigsync.core.timing import Timing
from rigsync.hub.events import JournalFailed, JournalRecovered, define
from rigsync.journal import file as journal_file
from rigsync.journal import recorder, scribe, store, writer

from .recorded import pushed, records, rows, sessions

Marker = define("Marker")
REF = "2026-03-01_2_mouse"
posix = pytest.mark.skipif(
    sys.platform == "win32", reason="files that are open cannot be moved there, or grow too large"
)


class Told:
    """A rig that is recorded, and what its hub tells of the journal."""

    def __init__(self, path: Path):
        self.path, self.failed, self.recovered = path, [], []  # type: Path, list[JournalFailed], list[JournalRecovered]
        self.rig = Rig("cameras", "udp://127.0.0.1:0", journal=path)
        self.rig.hub.subscribe(JournalFailed, self.failed.append)
        self.rig.hub.subscribe(JournalRecovered, self.recovered.append)

    def tell(self, *payloads: Any) -> None:
        for payload in payloads:
            self.rig.hub.ingest(Marker(payload))

    @property
    def kept(self) -> list[Any]:
        return [record["data"]["payload"] for record in records(self.path, "Marker")]

    def check(self, problem: str) -> None:
        """Wait for the failure, and check that it is told once, with its remedy."""
        until(lambda: self.failed)
        assert problem in self.failed[0].problem
        assert self.failed[0].path == str(self.path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RIGSYNC_JOURNAL")
    monkeypatch.setattr(writer, "_RETRIES", Timing(resend_first=0.05, resend_min=0.05, resend_max=0.2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "journal.sqlite"


@pytest.fixture
def told(path: Path) -> Iterator[Told]:
    told = Told(path)
    with told.rig:
        yield told


def begun(told: Told) -> None:
    told.tell("before")
    until(lambda: told.kept == ["before"])


@posix
def test_a_full_disk(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    import resource

    begun(told)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = told.path.with_name("journal.sqlite-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 20_000, before[1]))
    try:
        told.tell(*(f"{number} {'x' * 1000}" for number in range(100)))
        told.check("disk")
        time.sleep(0.3)  # which is several attempts
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    until(lambda: told.recovered)
    assert len(told.kept) == 101
    assert (len(told.failed), told.recovered[0].missing) == (1, 0)
    assert [record.levelname for record in caplog.records if record.name == "rigsync.journal"] == ["ERROR", "WARNING"]
    until(lambda: records(told.path, "JournalRecovered"))
    assert [record["failure"] for record in records(told.path, "JournalFailed")] == [1]


def test_a_file_that_another_program_holds(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PATIENCE", 0.05)
    told.path.parent.mkdir(exist_ok=True)
    begun(told)
    told.rig.close()  # so that it is opened with less patience
    with contextlib.closing(sqlite3.connect(told.path, isolation_level=None)) as other, told.rig:
        other.execute("BEGIN IMMEDIATE")
        told.tell("after")
        told.check("another program holds it")
        other.execute("COMMIT")
        until(lambda: told.recovered)
    assert told.kept == ["before", "after"]


@posix
def test_a_folder_that_is_gone(told: Told) -> None:
    begun(told)
    shutil.rmtree(told.path.parent)
    told.tell("after")
    until(lambda: told.recovered)
    assert "moved or deleted" in told.failed[0].problem
    assert told.kept == ["after"]
    told.rig.close()
    assert [row["closed"] is not None for row in rows(told.path, "SELECT closed FROM run")] == [True]


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that takes no other")
def test_a_folder_that_never_was_and_cannot_be_made() -> None:
    told = Told(Path("/proc/nobody/journal.sqlite"))
    with told.rig:
        told.check("it cannot be opened: its folder is not there, and cannot be made: [Errno 2] No such file")
        assert told.failed[0].problem.endswith("; look at the path, or name another file")


def test_who_has_given_up_opens_no_file_again(
    told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the drive takes records again just then. What was refused last had the end of the rig in it."""
    begun(told)
    is_gone, opened = [True], []
    write, given_up = journal_file.JournalFile.write, writer._end_where_unneeded

    def refuse(file: journal_file.JournalFile, *rows: Any) -> None:
        opened.append(file)
        if is_gone[0]:
            raise journal_file.JournalError(file.path, "the drive is gone")
        write(file, *rows)

    def give_up(who: writer.Writer) -> None:
        is_gone[0] = False
        opened.clear()
        given_up(who)

    monkeypatch.setattr(journal_file.JournalFile, "write", refuse)
    monkeypatch.setattr(writer, "_end_where_unneeded", give_up)
    told.rig.close()
    until(lambda: told.path not in writer._writers)
    until(lambda: not [each for each in threading.enumerate() if each.name.startswith("rigsync-journal")])
    assert opened == []
    assert "KeyError" not in caplog.text


@posix
def test_a_file_that_is_replaced_in_the_middle_of_a_session(told: Told, connect: Callable[..., Any]) -> None:
    aux = connect(told.rig)
    aux.request("EXPINIT", {"exp_ref": REF})
    aux.request("EXPSTART", REF)
    until(lambda: sessions(told.path, "rig"))
    told.path.rename(told.path.with_name("old.sqlite"))
    for end in ("-wal", "-shm"):
        told.path.with_name(told.path.name + end).unlink()
    aux.request("EXPEND")
    told.rig.close()
    assert [found["outcome"] for found in sessions(told.path, "rig")] == ["complete"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"no journal " * 1000, "this is no journal, or it is damaged"), (b"SQLite format 3\0" + b"\1" * 9000, "")],
)
def test_a_file_that_is_damaged(told: Told, path: Path, content: bytes, problem: str) -> None:
    told.rig.close()
    for part in path.parent.glob("journal.sqlite*"):
        part.unlink()
    path.write_bytes(content)
    with told.rig:
        told.check(problem)
        path.unlink()
        until(lambda: told.recovered)
    assert len(told.failed) == 1


def test_a_file_that_is_damaged_inside(told: Told, path: Path) -> None:
    told.tell(*range(500))
    until(lambda: len(told.kept) == 500)
    told.rig.close()
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 8192))
    with told.rig:
        told.check("damaged")


def test_the_database_of_another_program(told: Told, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told.rig.close()
    for part in path.parent.glob("journal.sqlite*"):
        part.unlink()
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE mice (name TEXT)")
    before = path.read_bytes()
    with told.rig:
        told.check("this is a database of another program; name another file")
    until(lambda: "are lost" in caplog.text)
    assert "some 0 events" not in caplog.text
    assert path.read_bytes() == before


def test_a_journal_of_a_newer_rigsync(told: Told, path: Path) -> None:
    begun(told)
    told.rig.close()
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("PRAGMA user_version = 99")
    with told.rig:
        told.check("a newer rigsync has written it (version 99 of its tables, 1 here); install that rigsync here")


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that not even root may write to")
def test_a_folder_that_may_not_be_written() -> None:
    told = Told(Path("/sys/kernel/journal.sqlite"))
    with told.rig:
        told.check("look at the path and the permissions, or name another file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written(told: Told, path: Path) -> None:
    begun(told)
    told.rig.close()
    path.chmod(0o444)
    with told.rig:
        told.check("let this user write it")


def test_a_network_drive_is_refused_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "network_of", lambda _: "/lab (nfs4)")
    told = Told(path)
    with told.rig:
        told.check("it lies on the network drive /lab (nfs4)")
    assert not path.exists()


def test_a_disk_that_hangs_holds_up_a_push_for_a_second_and_no_more(
    told: Told, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MOST_WAITING", 40)
    aux = connect(told.rig, journal=told.path)
    failed, recovered = [], []  # type: list[JournalFailed], list[JournalRecovered]
    aux.hub.subscribe(JournalFailed, failed.append)
    aux.hub.subscribe(JournalRecovered, recovered.append)
    heard: list[Marker] = []
    aux.hub.subscribe(Marker, heard.append)
    aux.request("EXPINIT", {"exp_ref": REF})
    hangs, write = threading.Event(), journal_file.JournalFile.write
    monkeypatch.setattr(journal_file.JournalFile, "write", lambda *args: (hangs.wait(LONG), write(*args)))
    try:
        begun = time.monotonic()
        aux.request("EXPSTART", REF)
        assert 0.9 < time.monotonic() - begun < LONG / 2
        until(lambda: failed)
        for number in range(100):
            aux.hub.ingest(Marker(number))
        until(lambda: len(heard) == 100)
    finally:
        hangs.set()
    until(lambda: recovered)
    assert aux.request("EXPEND")
    missing = 100 - len(told.kept)
    assert (len(failed), missing > 50, recovered[0].missing >= missing) == (1, True, True)
    assert pushed(told.path) == ["EXPINIT", "EXPSTART", "EXPEND"]


def test_where_nothing_can_be_written_nobody_waits(
    connect: Callable[..., Any], serve: Callable[..., Any], path: Path
) -> None:
    path.parent.mkdir()
    path.write_text("no journal")
    aux = connect(serve("cameras"), journal=path)
    until(lambda: aux._lab._recorder._present.writer.is_failed)
    begun = time.monotonic()
    aux.request("EXPINIT", {"exp_ref": REF})
    assert time.monotonic() - begun < 0.9


def test_without_a_thread_nothing_is_recorded_and_that_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0", journal=path)
    monkeypatch.setattr(writer.DiskWriter, "start", lambda _: False)
    with rig:
        assert rig.is_running
    assert "the system gives no more threads" in caplog.text
    assert not path.exists()


def test_two_programs_that_write_one_journal(told: Told, path: Path) -> None:
    program = """
    import sys
    from rigsync import Rig
    from rigsync.hub.events import define
    Marker = define("Marker")
    with Rig("other", "udp://127.0.0.1:0", journal=sys.argv[1]) as rig:
        for number in range(2000):
            rig.hub.ingest(Marker(number))
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    with subprocess.Popen(command, env=environment) as other:
        number = 0
        while other.poll() is None:
            told.tell(number)
            number += 1
            time.sleep(0.0005)
        assert other.returncode == 0
    until(lambda: len(told.kept) == 2000 + number)
    assert not told.failed
    counts = rows(
        path,
        "SELECT run.name, count(*) AS n FROM record JOIN run ON run.id = run WHERE record.kind = 'Marker' GROUP BY 1",
    )
    assert {row["name"]: row["n"] for row in counts} == {"cameras": number, "other": 2000}


def test_whatever_an_event_holds(told: Told) -> None:
    circle: list[Any] = []
    circle.append(circle)
    texts = ["\ud800 lone", "nul \0", "'; DROP TABLE record; --", "\x1b[31m red", "<script>"]
    hostile = [*texts, circle, {1: {2: float("nan")}}, object(), {"x": "y" * 300_000}, 2**70, b"bytes", {"set": {1}}]
    told.tell(*hostile)
    told.rig.hub.ingest(Marker("far", rig="\udfff rig"), id=2**80, cause=-(2**80))
    found = until(lambda: (found := records(told.path, "Marker")) and len(found) == len(hostile) + 1 and found)
    assert [record["data"]["payload"] for record in found[:5]] == texts
    assert "left_out" in found[8]["data"]
    assert (found[-1]["number"], found[-1]["cause"], found[-1]["rig"]) == (0, 0, "\\udfff rig")
    assert not told.failed


def test_what_cannot_be_recorded_costs_nothing_else(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of the journal's own."""
    before = scribe.Scribe.take

    def take(self: Any, event: Any, mono: float) -> Any:
        if isinstance(event, Marker) and event.payload == "bad":
            raise LookupError
        return before(self, event, mono)

    monkeypatch.setattr(scribe.Scribe, "take", take)
    told.tell("first", "bad", "last")
    until(lambda: told.kept == ["first", "last"])
    until(lambda: told.recovered)
    assert told.recovered[0].missing == 1


def test_a_recorder_of_a_fork_waits_for_nobody(told: Told) -> None:
    opening = told.rig._recorder._present  # type: ignore[union-attr]
    assert opening
    opening.writer.thread.end()
    assert opening.writer.thread.join(LONG)
    called: list[bool] = []
    told.rig._recorder.when_safe(lambda: called.append(True))  # type: ignore[union-attr]
    assert called


def test_many_that_make_one_journal_at_once(tmp_path: Path) -> None:
    """As agents do that are started together on a new computer: none takes it for another program's."""

    def use(path: Path) -> None:
        store.open_to_write(path).close()

    with ThreadPoolExecutor(8) as pool:
        for number in range(15):
            list(pool.map(use, [tmp_path / f"{number}.sqlite"] * 8))
