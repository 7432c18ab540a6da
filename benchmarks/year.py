"""A year of a lab in one journal, and how long it takes to ask it: 2,000 sessions of an hour with 5 rigs.

`python -m benchmarks year` fills the file as a coordinator's journal would, which takes some minutes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rigsync.journal.file import ADD_RECORD, ADD_RUN, ADD_SESSION
from rigsync.journal.scribe import SAMPLED, SAMPLED_IDLE, THIN, THIN_LATER, THINNER
from rigsync.journal.store import open_to_write

SESSIONS, RIGS, LASTS = 2_000, ("cameras:left", "cameras:right", "cameras:body", "ephys", "mesoscope"), 3600.0
BEGAN = 1_764_000_000.0
"""Unix time of the first session, in seconds."""
EVERY = 365 * 86_400 / SESSIONS
TRIES = 5
ABOUT = {"rigsync": "0.1.0", "python": "3.11.7", "platform": "Linux-6.1.0-x86_64", "user": "experimenter"}
ABOUT_FILES = {"files": {"C:/task/rigs.yaml": "\n".join(f"{rig}: 192.168.1.{i}" for i, rig in enumerate(RIGS, 20))}}


def reference(number: int) -> str:
    day = time.strftime("%Y-%m-%d", time.gmtime(BEGAN + number * EVERY))
    return f"{day}_{1 + number % 6}_KS{number % 40:03}"


def fill(path: Path) -> int:
    """Write a year into a journal; return how many records it has."""
    random.seed(1)
    connection = open_to_write(path)
    connection.execute("PRAGMA synchronous = OFF")  # what is measured is reading
    count = 0
    for number in range(SESSIONS):
        began, ref = BEGAN + number * EVERY, reference(number)
        connection.execute("BEGIN")
        program = f"C:/iblrig/tasks/choice_world.py, process {number}"
        about = json.dumps({**ABOUT, **ABOUT_FILES, "clock": {"time": began - 60, "mono": 1e5 + began - BEGAN}})
        values = f"run-{number}", "coordinator", "", "behaviour-pc", program, began - 60, began + LASTS + 60, about
        run = connection.execute(ADD_RUN, values).lastrowid
        has_failed = number % 25 == 0
        rigs = json.dumps({rig: "lost: silent for 5 beats" if has_failed and rig == "ephys" else "ok" for rig in RIGS})
        outcome = "incomplete" if has_failed else "complete"
        numbers = 7, 45_000_000_000, int(has_failed)
        row = run, ref, ref.rpartition("_")[2], began, began + LASTS, outcome, rigs, *numbers
        session = connection.execute(ADD_SESSION, row).lastrowid
        records = [(run, *record) for record in _records(session or 0, began, ref, has_failed)]
        count += len(records)
        connection.executemany(ADD_RECORD, records)
        connection.execute("COMMIT")
    connection.close()
    return count


def _records(session: int, began: float, ref: str, has_failed: bool) -> Iterator[tuple[Any, ...]]:
    """Yield what happens in one run, in order: session, time, mono, kind, rig, number, cause, failure, data."""
    happened: list[tuple[float, int | None, str, str | None, bool, Any]] = []
    for rig in RIGS:
        change = {"before": "unknown", "after": "alive", "reason": "it has answered a probe"}
        happened.append((-50, None, "LinkAlive", rig, False, change))
        happened.append((-50, None, "DialectDetected", rig, False, {"dialect": "rigsync"}))
        for at in _every(-58, 0, SAMPLED_IDLE):
            happened.append((at, None, "Sample", rig, False, _sample(None)))
        for at in _every(2, LASTS, SAMPLED):
            happened.append((at, session, "Sample", rig, False, _sample(ref)))
        for at in _progress():
            progress = {"item": "left.avi", "value": int(150 * at), "total": None, "unit": "frames"}
            happened.append((at, session, "ProgressChanged", rig, False, progress))
        for message, at in (("EXPINIT", -1), ("EXPSTART", 0), ("EXPEND", LASTS), ("EXPCLEANUP", LASTS + 2)):
            status = {"status": "RUNNING", "exp_ref": ref, "reason": None}
            notice = {"topic": "status", "key": None, "body": status, "confirmed": True, "size": 212}
            received = {"event": message, "args": None, "request_time": began + at, "size": 330}
            happened.append((at + 0.01, session, "Notice", rig, False, notice))
            happened.append((at + 0.02, session, "MessageReceived", rig, False, received))
    if has_failed:
        lost = {"before": "suspect", "after": "lost", "reason": "it has been silent for 5 beats"}
        happened.append((LASTS / 2, session, "LinkLost", "ephys", True, lost))
    for message, at in (
        ("EXPINFO", -2),
        ("EXPINIT", -1),
        ("EXPSTART", 0),
        ("EXPEND", LASTS),
        ("EXPCLEANUP", LASTS + 2),
    ):
        order = {"request_time": began + at, "event": message, "args": [{"exp_ref": ref}], "rigs": RIGS, "at": None}
        happened.append((at, session, "PushBegun", None, False, order))
        happened.append((at + 0.03, session, "PushCompleted", None, False, _completed(message, ref, began + at)))
    for number, (at, its, kind, rig, failure, data) in enumerate(sorted(happened, key=lambda one: one[0])):
        own = 0 if kind == "Sample" else number
        encoded = json.dumps(data, separators=(",", ":"))
        yield its, began + at, 1e5 + began - BEGAN + at, kind, rig, own, None, failure, encoded


def _every(begin: float, end: float, step: float) -> Iterator[float]:
    while begin < end:
        yield begin
        begin += step


def _progress() -> Iterator[float]:
    """Yield when the progress of an item is noted."""
    at = begun = 1.0
    while at < LASTS:
        yield at
        at += min(max(THIN, THINNER * (at - begun)), THIN_LATER)


def _sample(ref: str | None) -> dict[str, Any]:
    clock = {"offset": random.uniform(-1, 1), "bound": random.random() / 1e3, "delay": random.random() / 1e3}
    return {
        "link": "alive",
        "dialect": "rigsync",
        "status": "RUNNING" if ref else "CONNECTED",
        "exp_ref": ref,
        "owner": "192.168.1.10" if ref else None,
        "round_trip": random.random() / 1e3,
        "loss": 0.0,
        "clock": {**clock, "drift": random.uniform(-1e-5, 1e-5)},
        "failures": {},
        "version": "0.1.0",
    }


def _completed(message: str, ref: str, at: float) -> dict[str, Any]:
    information = {"exp_ref": ref, "main_sync": False, "experiment_description": {}, "master": False}
    information |= {"rig_version": "0.1.0", "spec_version": "1.0.0", "status": 20}
    if message == "EXPEND":
        file = {"path": f"D:/data/{ref}/raw_video_data/left.avi", "bytes": 6_400_000_000, "frames": 540_000}
        information["recorded"] = {"seconds": LASTS, "files": [{**file, "verified": "ffprobe"}]}
    starts = {rig: {"time": at + random.random() / 1e3, "bound": random.random() / 1e3} for rig in RIGS}
    answers = {rig: [information] for rig in RIGS}
    return {"request_time": at, "event": message, "answers": answers, "failures": {}, "starts": starts, "at": None}


def questions() -> tuple[int, int, dict[str, float]]:
    """Return how many records a year has, the bytes of the file, and by command how long it takes longer (s).

    Longer, that is, than a Python that loads sqlite3; both by turns.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        count = fill(path)
        env = {**os.environ, "RIGSYNC_JOURNAL": str(path)}
        asked = {
            "log REF": ["log", reference(SESSIONS // 2)],
            "log": ["log"],
            "sessions": ["sessions"],
            "sessions --failed": ["sessions", "--failed"],
            "log --since 3d": ["log", "--since", time.strftime("%Y-%m-%d", time.gmtime(BEGAN + 362 * 86_400))],
        }
        took: dict[str, list[float]] = {what: [] for what in ("bare", *asked)}
        for _ in range(TRIES):
            took["bare"].append(_seconds([sys.executable, "-c", "import sqlite3"], env))
            for what, arguments in asked.items():
                took[what].append(_seconds([sys.executable, "-m", "rigsync", *arguments], env))
        bare = median(took.pop("bare"))
        return count, path.stat().st_size, {what: median(seconds) - bare for what, seconds in took.items()}


def _seconds(command: list[str], env: dict[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun
