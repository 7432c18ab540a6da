from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from platforms import posix
from processes import until

from rigsync.agent import session_log
from rigsync.agent.session_log import SessionLog
from rigsync.runtime import disk_writer

NAME = "2026-01-31_1_mouse.1"
PLENTY = 1_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "cameras"


@pytest.fixture
def log(folder: Path) -> Iterator[SessionLog]:
    log = SessionLog(folder, NAME, 10, PLENTY)
    yield log
    log.close()


def lines(path: Path) -> list[str]:
    """Return the lines of a log without their times."""
    return [line.split("  ", 1)[1] for line in path.read_text("utf-8").splitlines()]


def has_lines(path: Path, *expected: str) -> bool:
    """Tell whether these are the lines, which are written by a thread of its own."""
    return path.exists() and path.read_text("utf-8").endswith("\n") and lines(path) == list(expected)


def fill(folder: Path, count: int, keep: int = 10, name: str = NAME, size: int = 100) -> SessionLog:
    """Write `count` lines of 50 bytes each."""
    log = SessionLog(folder, name, keep, size)
    for number in range(count):
        log.write(f"{number:018d}")  # behind 29 bytes of time, before the end
    log.close()
    return log


def numbers(path: Path) -> list[int]:
    return [int(line) for line in lines(path)]


def test_nothing_is_made_before_the_first_line(folder: Path, log: SessionLog) -> None:
    assert not folder.exists()
    log.write("hello")
    until(lambda: has_lines(log.path, "hello"))
    assert list(folder.iterdir()) == [log.path]


def test_each_line_has_its_local_time(log: SessionLog) -> None:
    before = datetime.now().astimezone()
    log.write("hello")
    log.close()
    match = re.fullmatch(r"(\S+ \S+)  hello\n", log.path.read_text("utf-8"))
    assert match
    stamp = datetime.fromisoformat(match[1])
    assert -0.001 < (stamp - before).total_seconds() < 20
    assert stamp.utcoffset() == before.utcoffset()


def test_lines_stay_lines(log: SessionLog) -> None:
    log.write("é \ud800 one\n2026-01-31 two\rthree")
    log.close()
    assert lines(log.path) == ["é \\ud800 one\\n2026-01-31 two\\rthree"]


def test_a_session_is_continued(folder: Path) -> None:
    for text in ("first", "second"):
        log = SessionLog(folder, NAME, 10, PLENTY)
        log.write(text)
        log.close()
    assert lines(log.path) == ["first", "second"]


def test_nothing_is_written_after_the_end(log: SessionLog) -> None:
    log.write("hello")
    log.close()
    log.write("late")
    log.close()
    assert lines(log.path) == ["hello"]


def test_the_first_file_and_the_newest_two_stay(folder: Path) -> None:
    log = fill(folder, 15)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{NAME}.rigsync.6.log",
        f"{NAME}.rigsync.7.log",
        f"{NAME}.rigsync.log",
    ]
    assert log.path.name == f"{NAME}.rigsync.7.log"
    assert numbers(folder / f"{NAME}.rigsync.log") == [0, 1]
    assert numbers(folder / f"{NAME}.rigsync.6.log") == [12, 13]
    assert numbers(log.path) == [14]
    assert all(path.stat().st_size <= 100 for path in folder.iterdir())


def test_a_session_is_continued_in_its_newest_file(folder: Path) -> None:
    fill(folder, 15)
    again = fill(folder, 4)
    assert again.path.name == f"{NAME}.rigsync.9.log"
    assert len(list(folder.iterdir())) == 3


def test_a_line_over_the_limit_is_written_all_the_same(folder: Path) -> None:
    log = SessionLog(folder, NAME, 10, 100)
    log.write("x" * 500)
    log.write("short")
    log.close()
    assert lines(folder / f"{NAME}.rigsync.log") == ["x" * 500]
    assert lines(log.path) == ["short"]


def test_old_sessions_are_deleted_whole_and_nothing_else_is(folder: Path) -> None:
    for number in range(4):
        fill(folder, 15, name=f"session{number}")
        for path in folder.glob(f"session{number}.*"):
            os.utime(path, (1000 + number, 1000 + number))
    others = ["session0.log", "notes.txt", "session0.rigsync.x.log", ".rigsync.log", "session0.rigsync.01.log"]
    for name in others:
        (folder / name).write_text("mine")
        os.utime(folder / name, (1, 1))
    (folder / "folder.rigsync.log").mkdir()
    log = SessionLog(folder, "session4", 3, PLENTY)
    log.write("hello")
    log.close()
    (folder / "folder.rigsync.log").rmdir()
    left = {path.name for path in folder.iterdir()}
    assert left - set(others) == {
        "session4.rigsync.log",
        *(f"session{n}.rigsync{file}.log" for n in (2, 3) for file in ("", ".6", ".7")),
    }
    assert set(others) <= left


def test_the_session_itself_is_never_deleted(folder: Path) -> None:
    fill(folder, 1, keep=1, name="other")
    log = fill(folder, 1, keep=0)
    assert [path.name for path in folder.iterdir()] == [log.path.name]


def test_many_threads_write_whole_lines(folder: Path) -> None:
    log = SessionLog(folder, NAME, 10, PLENTY)
    texts = [letter * 200 for letter in "abcdefgh"]

    def write(text: str) -> None:
        for _ in range(100):
            log.write(text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(lines(log.path)) == sorted(texts * 100)


# -------------------------------------------------------------------------------------------------- what goes wrong


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    log = SessionLog(tmp_path / "file" / "logs", NAME, 10, PLENTY)
    with caplog.at_level(logging.DEBUG):
        for number in range(5):
            log.write("hello")
            until(lambda n=number: log._missing > n)
    (record,) = caplog.records
    assert record.name == "rigsync.agent"
    assert str(log.path) in record.getMessage()
    assert "the experiment goes on" in record.getMessage()
    (tmp_path / "file").unlink()
    log.write("back again")
    log.close()
    assert lines(log.path) == ["[rigsync] lines that are missing before this one: 5", "back again"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_told_once(folder: Path, log: SessionLog, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir(parents=True)
    log.path.symlink_to("/dev/full")
    for _ in range(5):
        log.write("hello")
    log.close()
    (record,) = caplog.records
    assert "No space left" in record.getMessage()


@posix
def test_a_folder_that_vanishes_is_made_again(folder: Path, log: SessionLog) -> None:
    log.write("before")
    until(lambda: has_lines(log.path, "before"))
    shutil.rmtree(folder)
    log.write("after")
    until(lambda: has_lines(log.path, "after"))


@posix
def test_a_drive_that_hangs_holds_up_nobody_and_is_told_once(
    folder: Path, log: SessionLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody reads hangs whoever opens it, as a network drive whose server is gone does."""
    monkeypatch.setattr(disk_writer, "SLOW", 0.05)
    monkeypatch.setattr(session_log, "CLOSE_LIMIT", 0.05)
    monkeypatch.setattr(log._waiting, "_most_bytes", 1000)
    folder.mkdir(parents=True)
    os.mkfifo(log.path)
    texts = [f"line {number}" for number in range(100)]
    log.write(texts[0])
    until(lambda: (since := log._thread._busy_since) is not None and time.monotonic() - since > 0.05)
    for text in texts[1:]:
        log.write(text)  # which returns
    assert len(caplog.records) == 1  # while it still writes
    log.close()
    assert len(caplog.records) == 1
    assert "its drive does not answer" in caplog.text
    assert str(log.path) in caplog.text
    pipe = log.path.rename(folder / "pipe")
    hung = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # which lets go of it; to a pipe nothing can be appended
    until(lambda: not log._thread.is_alive)
    os.close(hung)
    missing, *found = lines(log.path)
    assert missing == "[rigsync] lines that are missing before this one: 1"
    count = len(found)
    assert 5 < count < 100
    assert found == [*texts[1:count], f"[rigsync] lines that are missing before this one: {100 - count}"]


@posix
def test_a_line_that_a_full_disk_has_cut_stays_a_line_of_its_own(
    folder: Path, log: SessionLog, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    log.write("first")
    until(lambda: has_lines(log.path, "first"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 40, before[1]))
    try:
        log.write("cut " * 10)
        log.write("lost")
        until(lambda: log._missing == 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.write("last")
    log.close()
    first, cut, missing, last = log.path.read_text("utf-8").splitlines()
    assert first.endswith("  first")
    assert cut.endswith("  cut cut c")
    assert missing.endswith("  [rigsync] lines that are missing before this one: 2")
    assert last.endswith("  last")
    assert len(caplog.records) == 1
