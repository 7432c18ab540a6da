"""What tests read of a journal that real programs have written: plain rows, by SQL."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any


def rows(path: Path, sql: str, *values: Any) -> list[dict[str, Any]]:
    """Return what a journal answers to a question, each row by the names of its columns; none before it is made."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, values)]
    except sqlite3.OperationalError:
        return []


def records(path: Path, kind: str, where: str = "1") -> list[dict[str, Any]]:
    """Return the records of one kind with their fields in place of the JSON."""
    found = rows(path, f"SELECT * FROM record WHERE kind = ? AND {where} ORDER BY id", kind)
    return [{**row, "data": json.loads(row["data"])} for row in found]


def pushed(path: Path) -> list[str]:
    """Return the messages of the completed pushes."""
    return [record["data"]["event"] for record in records(path, "PushCompleted")]


def sessions(path: Path, kind: str = "coordinator") -> list[dict[str, Any]]:
    """Return the sessions that runs of one kind have seen, with what became of each rig."""
    sql = "SELECT session.* FROM session JOIN run ON run.id = session.run WHERE kind = ? ORDER BY session.id"
    return [{**row, "rigs": json.loads(row["rigs"])} for row in rows(path, sql, kind)]
