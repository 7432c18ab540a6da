"""Journals that tests write by hand: what a coordinator and rigs would have written, at times of the test's choice."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rigsync.journal.store import open_to_write

T0 = 1_796_000_000.0
"""Unix time of the first thing that happens, in seconds."""
REF = "2026-11-30_1_mouse"
RUN_COLUMNS = ("uuid", "kind", "name", "host", "program", "opened", "closed", "about", "collected")


class Filler:
    """Writes rows into a journal, and commits each."""

    def __init__(self, path: Path):
        self.connection: sqlite3.Connection = open_to_write(path)
        self.number = 0

    def close(self) -> None:
        self.connection.close()

    def run(self, kind: str = "coordinator", name: str = "", **columns: Any) -> int:
        """Add a run."""
        count = self.connection.execute("SELECT count(*) FROM run").fetchone()[0]
        row = {"uuid": f"{kind}-{name}-{count}", "kind": kind, "name": name, "host": "task-pc", "program": "task.py"}
        row |= {"opened": T0, "closed": None, "about": "{}", "collected": None}
        return self._insert("run", {**row, **columns})

    def session(self, run: int, ref: str = REF, **columns: Any) -> int:
        """Add a session."""
        row = {"run": run, "ref": ref, "subject": ref.split("_")[-1], "began": T0, "ended": T0 + 60}
        row |= {"outcome": "complete", "rigs": {"cameras": "ok"}, "files": 1, "bytes": 1000, "failures": 0}
        row.update(columns)
        row["rigs"] = json.dumps(row["rigs"]) if isinstance(row["rigs"], dict) else row["rigs"]
        return self._insert("session", row)

    def record(
        self,
        run: int,
        session: int | None,
        kind: str,
        data: dict[str, Any] | str,
        at: float,
        *,
        shift: float = 0.0,
        **columns: Any,
    ) -> int:
        """Add a record of what happened `at` seconds after the first; the run's clock is ahead by `shift` seconds."""
        self.number += 1
        row = {"run": run, "session": session, "time": T0 + at + shift, "mono": 1000.0 + at, "kind": kind}
        row |= {"rig": None, "number": self.number, "cause": None, "failure": 0}
        row |= {"data": data if isinstance(data, str) else json.dumps(data)}
        return self._insert("record", {**row, **columns})

    def push(self, run: int, session: int | None, message: str, when: float, /, *rigs: str, **more: Any) -> int:
        """Add a push that all rigs have answered, or as `more` says."""
        data: dict[str, Any] = {"request_time": T0 + when - 0.01, "event": message, "at": None, "starts": {}}
        data |= {"answers": {rig: [{"status": 20}] for rig in rigs}, "failures": {}}
        data.update(more)
        return self.record(run, session, "PushCompleted", data, when, failure=int(bool(data["failures"])))

    def sample(self, run: int, session: int | None, rig: str, at: float, offset: float, bound: float = 1e-3) -> int:
        """Add a sample of a link to a rig whose clock is ahead by `offset` seconds."""
        clock = {"offset": offset, "bound": bound, "drift": 0.0, "delay": 2 * bound}
        data = {"link": "alive", "dialect": "rigsync", "status": "RUNNING", "exp_ref": REF, "owner": "task-pc"}
        data |= {"round_trip": 2 * bound, "loss": 0.0, "clock": clock, "failures": {}, "version": "0.1.0"}
        return self.record(run, session, "Sample", data, at, rig=rig, number=0)

    def _insert(self, table: str, row: dict[str, Any]) -> int:
        marks = ", ".join("?" * len(row))
        sql = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})"
        found = self.connection.execute(sql, list(row.values())).lastrowid
        assert found
        return found


@contextlib.contextmanager
def filling(path: Path) -> Iterator[Filler]:
    """Open a journal to fill it."""
    filler = Filler(path)
    try:
        yield filler
    finally:
        filler.close()
