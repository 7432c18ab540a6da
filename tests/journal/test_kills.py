"""A program that is killed while it writes, and a computer that loses its power.

`RIGSYNC_KILLS=100 pytest tests/journal/test_kills.py` kills a hundred times, and holds the journal to 0.2 s: for a
computer that does nothing else.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import LONG, ROOT, until

from .recorded import records, rows

KILLS = int(os.environ.get("RIGSYNC_KILLS", "0"))
LATE = 0.2 if KILLS else 2.0
"""Seconds after which an event has to be in the file. Tests share the computer with others, and may be held up."""

PROGRAM = """
import os, sys, threading, time
from rigsync import Auxiliaries, Rig
from rigsync.hub.events import define

Marker = define("Marker")
path, told, done = sys.argv[1:]
told, done = (os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for name in (told, done))

def tell():
    number = 0
    while True:
        now = time.monotonic()
        aux.hub.ingest(Marker(number))
        os.write(told, b"%d %.6f\\n" % (number, now))
        number += 1
        time.sleep(0.001)

with Rig("cameras", "udp://127.0.0.1:0", journal=path) as rig, Auxiliaries({"cameras": rig.uri}, journal=path) as aux:
    threading.Thread(target=tell, daemon=True).start()
    for number in range(1_000_000):
        ref = f"2026-03-01_{number}_mouse"
        for message, *args in (("EXPINIT", {"exp_ref": ref}), ("EXPSTART", ref), ("EXPEND",), ("EXPCLEANUP",)):
            result = aux.push(message, *args, wait=True)
            os.write(done, b"%s %r\\n" % (message.encode(), result.request_time))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def program(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that tells a thousand events a second, and runs one experiment after the other."""
    names = [str(folder / name) for name in ("journal.sqlite", "told", "done")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RIGSYNC_JOURNAL")
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(PROGRAM), *names], env=environment) as program:
        try:
            until(lambda: program.poll() is not None or ((folder / "done").exists() and (folder / "done").read_text()))
            yield program
        finally:
            program.kill()


def is_whole(path: Path) -> bool:
    with sqlite3.connect(path) as connection:
        checked = connection.execute("PRAGMA integrity_check").fetchall()
        torn = connection.execute("PRAGMA foreign_key_check").fetchall()
    connection.close()
    return (checked, torn) == ([("ok",)], [])


def check_nothing_is_missing(path: Path, folder: Path, at: float) -> None:
    """Check a journal of a program that ended at a monotonic time."""
    assert is_whole(path)
    told = [line.split() for line in (folder / "told").read_text().splitlines()]
    found = {record["data"]["payload"] for record in records(path, "Marker")}
    late = [number for number, mono in told if float(mono) < at - LATE and int(number) not in found]
    assert late == []
    returned = {tuple(line.split()) for line in (folder / "done").read_text().splitlines()}
    assert returned
    kept = {
        (record["data"]["event"], repr(record["data"]["request_time"])) for record in records(path, "PushCompleted")
    }
    assert returned <= kept


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("number", range(KILLS or 3))
def test_a_program_that_is_killed(folder: Path, program: subprocess.Popen[bytes], number: int) -> None:
    time.sleep(random.uniform(0.1, 1.5))  # any moment will do
    at = time.monotonic()
    program.kill()
    program.wait(LONG)
    check_nothing_is_missing(folder / "journal.sqlite", folder, at)
    assert rows(folder / "journal.sqlite", "SELECT 1 FROM run WHERE closed IS NOT NULL") == []


@pytest.mark.skipif(sys.platform == "win32", reason="no program can be stopped there")
@pytest.mark.parametrize("number", range(KILLS or 2))
def test_a_computer_that_loses_its_power(folder: Path, program: subprocess.Popen[bytes], number: int) -> None:
    """What is on the disk at a moment is a copy of the file and of its log, without the memory that they share."""
    for _ in range(3):
        time.sleep(random.uniform(0.05, 0.5))
        at = time.monotonic()
        program.send_signal(signal.SIGSTOP)
        copied = folder / "after"
        copied.mkdir()
        for name in ("told", "done", "journal.sqlite", "journal.sqlite-wal"):
            shutil.copy(folder / name, copied)
        program.send_signal(signal.SIGCONT)
        check_nothing_is_missing(copied / "journal.sqlite", copied, at)
        shutil.rmtree(copied)


def test_a_log_that_is_cut_in_the_middle_of_a_write(folder: Path, program: subprocess.Popen[bytes]) -> None:
    """The disk has only a part of what was written last."""
    time.sleep(0.3)
    program.kill()
    program.wait(LONG)
    log = folder / "journal.sqlite-wal"
    whole = log.read_bytes()
    for _ in range(5):
        copied = folder / "cut"
        copied.mkdir()
        shutil.copy(folder / "journal.sqlite", copied)
        (copied / log.name).write_bytes(whole[: random.randrange(len(whole))])
        assert is_whole(copied / "journal.sqlite")
        shutil.rmtree(copied)
