"""The journal's file, as its writer has it open: rows go in, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rigsync.errors import JournalError
from rigsync.hub.documents import json_of
from rigsync.journal.drafts import RecordRow, RunRow, SessionRow
from rigsync.journal.drives import network_of
from rigsync.journal.rows import COMPLETE, INCOMPLETE, OK, storable
from rigsync.journal.store import open_to_write, transaction
from rigsync.journal.troubles import told_as_journal_error
from rigsync.runtime.disk_writer import at_ease

ADD_RUN = "INSERT INTO run (uuid, kind, name, host, program, opened, closed, about) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
ADD_SESSION = (
    "INSERT INTO session (run, ref, subject, began, ended, outcome, rigs, files, bytes, failures) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
ADD_RECORD = (
    "INSERT INTO record (run, session, time, mono, kind, rig, number, cause, failure, data) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UNFINISHED = (
    "SELECT session.id, began, rigs, files, bytes, failures FROM session JOIN run ON run.id = session.run "
    "WHERE ref = ? AND ended IS NULL AND kind = 'coordinator' AND collected IS NULL AND session.run != ? "
    "ORDER BY began DESC LIMIT 1"
)
_JUST_ENDED = (
    "SELECT session.id, began FROM session JOIN run ON run.id = session.run "
    "WHERE ref = ? AND ended > ? AND kind = 'coordinator' AND collected IS NULL ORDER BY began DESC LIMIT 1"
)
_AFTERMATH = 3600.0
"""Seconds after its end in which a session may be ended once more, as by who cleans up after a task that crashed."""

LEFT = "it had begun, and was not ended with the others"
"""What became of a rig whose session another program has ended elsewhere."""
_STEP = 5000
"""Records, or pages of the file, that are deleted at once: others who write wait for some milliseconds."""
_NEVER_ENDED = 7 * 86_400.0
"""Seconds after which a session that has not ended may be deleted: its program was killed."""
_OLDEST = (
    "SELECT id, began FROM session WHERE began < ? AND (ended IS NOT NULL OR began < ?) "
    "AND id != (SELECT id FROM session ORDER BY began DESC LIMIT 1) ORDER BY began LIMIT 1"
)
_DELETE_BESIDE = (
    "DELETE FROM record WHERE id IN (SELECT id FROM record WHERE time < ? AND session IS NULL ORDER BY time LIMIT ?)"
)
_DELETE_OF = "DELETE FROM record WHERE id IN (SELECT id FROM record WHERE session = ? LIMIT ?)"
_DELETE_RUNS = (
    "DELETE FROM run WHERE opened < ? AND closed IS NOT NULL "
    "AND NOT EXISTS (SELECT 1 FROM record WHERE record.run = run.id) "
    "AND NOT EXISTS (SELECT 1 FROM session WHERE session.run = run.id)"
)


class JournalFile:
    """A journal that is open to be written, on one thread.

    Raises
    ------
    JournalError
        By every method: it cannot be used; says why, and what to do.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            network = network_of(path.parent)
        except OSError as error:
            raise JournalError(path, f"nobody can tell where it lies: {error}; name a file on this computer") from error
        if network:
            problem = f"it lies on the network drive {network}, where two programs that write it could spoil it"
            raise JournalError(path, f"{problem}; name a file on a drive of this computer")
        self._connection = open_to_write(path)
        self._identity = self._look()

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def find(self, runs: Iterable[RunRow], sessions: Iterable[SessionRow]) -> None:
        """Find the ids of rows that a file had which was opened before. This may be another."""
        with told_as_journal_error(self.path):
            for run in runs:
                found = self._connection.execute("SELECT id FROM run WHERE uuid = ?", [run.uuid]).fetchone()
                run.id, run.is_changed = (found[0] if found else None), True
            for row in sessions:
                known = (row.id, row.began)
                if not self._connection.execute("SELECT 1 FROM session WHERE id = ? AND began = ?", known).fetchone():
                    row.id, row.is_changed = None, True

    def write(self, runs: Sequence[RunRow], sessions: Sequence[SessionRow], records: Sequence[RecordRow]) -> None:
        """Write rows, and wait until they are safe; none of them where it fails."""
        made: list[RunRow | SessionRow] = []
        with told_as_journal_error(self.path):
            self._check_is_there()
            try:
                with transaction(self._connection):
                    for run in runs:
                        self._put_run(run, made)
                    for row in sessions:
                        self._put_session(row, made)
                    self._connection.executemany(ADD_RECORD, map(_values, at_ease(records)))
            except BaseException:
                for one in made:
                    one.id = None
                raise
        for run in runs:
            run.is_changed = False
        for row in sessions:
            row.is_changed = False

    def trim(self, keep: float, max_size: int, now: float) -> bool:
        """Delete a little of what is older than `keep` seconds, or of the oldest where it is larger than `max_size`.

        Sessions go whole. Return whether there is more to do.
        """
        execute = self._connection.execute
        with told_as_journal_error(self.path):
            free = self._pragma("freelist_count")
            is_large = (self._pragma("page_count") - free) * self._pragma("page_size") > max_size
            oldest = now if is_large else now - keep
            session = execute(_OLDEST, (oldest, oldest - _NEVER_ENDED)).fetchone()
            until = session[1] if session and is_large else oldest
            if (not session or is_large) and execute(_DELETE_BESIDE, (until, _STEP)).rowcount:
                return True
            if session:
                with transaction(self._connection):  # a session of usual size goes whole
                    if execute(_DELETE_OF, (session[0], _STEP)).rowcount < _STEP:
                        execute("DELETE FROM session WHERE id = ?", session[:1])
                return True
            execute(_DELETE_RUNS, (until,))
            if free:
                # Not by execute, which steps once, and a step frees one page.
                self._connection.executescript(f"PRAGMA incremental_vacuum({_STEP})")
            return free > _STEP

    def _pragma(self, name: str) -> int:
        found: int = self._connection.execute(f"PRAGMA {name}").fetchone()[0]
        return found

    def _put_run(self, run: RunRow, made: list[RunRow | SessionRow]) -> None:
        about = json_of(run.about)
        if run.id is None:
            values = run.uuid, run.kind, storable(run.name), storable(run.host), storable(run.program), run.opened
            run.id = self._connection.execute(ADD_RUN, (*values, run.closed, about)).lastrowid
            made.append(run)
        elif run.is_changed:
            self._connection.execute("UPDATE run SET closed = ?, about = ? WHERE id = ?", (run.closed, about, run.id))

    def _put_session(self, row: SessionRow, made: list[RunRow | SessionRow]) -> None:
        if row.id is None and row.adopts:
            self._adopt(row)
        if row.id is None and row.is_only_ended and row.outcome is None:
            return  # nobody knows yet whether the rigs obey
        subject = None if row.subject is None else storable(row.subject)
        values = storable(row.ref), subject, row.began, row.ended, row.outcome, json_of(row.rigs)
        numbers = row.files, row.bytes, row.failures
        if row.id is None:
            row.id = self._connection.execute(ADD_SESSION, (row.run.id, *values, *numbers)).lastrowid
            made.append(row)
        elif row.is_changed and not row.is_settled:
            columns = ("ref", "subject", "began", "ended", "outcome", "rigs", "files", "bytes", "failures")
            changes = ", ".join(f"{column} = ?" for column in columns)
            self._connection.execute(f"UPDATE session SET {changes} WHERE id = ?", (*values, *numbers, row.id))  # noqa: S608

    def _adopt(self, row: SessionRow) -> None:
        """Go on with the session that another coordinator has begun and not ended, if there is one."""
        found = self._connection.execute(_UNFINISHED, (storable(row.ref), row.run.id)).fetchone()
        if not found and row.is_only_ended:
            found = self._connection.execute(_JUST_ENDED, (storable(row.ref), row.began - _AFTERMATH)).fetchone()
            row.is_settled = found is not None
        rigs, row.adopts = row.adopts, frozenset()
        if row.is_settled:
            row.id, row.began = found[:2]
        elif found:
            row.id, row.began, row.is_changed = found[0], found[1], True
            before = _plain_map(found[2])
            before.update((rig, LEFT) for rig, told in before.items() if told == OK and rig not in rigs)
            row.rigs = {**before, **row.rigs}
            if row.outcome == COMPLETE and LEFT in row.rigs.values():
                row.outcome = INCOMPLETE
            row.files, row.bytes = row.files or found[3], row.bytes or found[4]
            row.failures += found[5]

    def _look(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_dev, found.st_ino

    def _check_is_there(self) -> None:
        """Raise a JournalError where the file is another, or none: it could be written on, and nobody would find it."""
        try:
            found = self._look()
        except FileNotFoundError:
            problem = "it, or its folder, was moved or deleted; rigsync begins a new one"
            raise JournalError(self.path, problem) from None
        if found != self._identity:
            raise JournalError(self.path, "another file has taken its place; rigsync goes on in that")


def _values(record: RecordRow) -> tuple[Any, ...]:
    run, session, *rest = record
    return run.id, session.id if session else None, *rest


def _plain_map(text: str) -> dict[str, str]:
    return {str(rig): str(told) for rig, told in json.loads(text).items()}
