"""The journal's file: its tables, and how it is opened to write and to read (docs/decisions/0042)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from rigsync.errors import JournalError
from rigsync.journal.troubles import problem_of, told_as_journal_error

APPLICATION = 0x72677379
"""The mark of a journal in an SQLite file: "rgsy" (https://www.sqlite.org/pragma.html#pragma_application_id)."""
VERSION = 1
"""Version of the tables, which an SQLite file has as its ``user_version``."""
AGAIN = 0.01
"""Seconds between two attempts where SQLite itself does not wait."""
PATIENCE = 5.0
"""Seconds to wait for another program that writes the same journal."""
TABLES = """
-- One opening of a coordinator, or of a rig.
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,                     -- coordinator or rig
    name TEXT NOT NULL,                     -- of the rig; empty for a coordinator
    host TEXT NOT NULL,
    program TEXT NOT NULL,                  -- script, process id, when it began
    opened REAL NOT NULL,                   -- Unix time in seconds, as all times here but mono
    closed REAL,                            -- NULL while it runs, and for good if it was killed
    about TEXT NOT NULL,                    -- JSON: versions, platform, configuration files as they were, git commit
    collected TEXT                          -- JSON, where it was fetched from a rig: the rig's name, and when
);
-- One experiment, as one run has seen it.
CREATE TABLE session (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    ref TEXT NOT NULL,
    subject TEXT,
    began REAL NOT NULL,
    ended REAL,                             -- NULL while it goes on
    outcome TEXT,                           -- complete, incomplete, interrupted or failed; NULL while it goes on
    rigs TEXT NOT NULL,                     -- JSON: by rig, ok, or what failed
    files INTEGER NOT NULL DEFAULT 0,       -- as the rigs told
    bytes INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0
);
-- One thing that happened.
CREATE TABLE record (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    session INTEGER REFERENCES session(id) ON DELETE CASCADE,
    time REAL NOT NULL,
    mono REAL NOT NULL,                     -- monotonic seconds of that run's computer
    kind TEXT NOT NULL,                     -- class of the event, or Sample
    rig TEXT,
    number INTEGER NOT NULL,                -- id of the event in its run's hub; 0 for a Sample
    cause INTEGER,                          -- number of the event that led to it
    failure INTEGER NOT NULL DEFAULT 0,     -- 1 where something has gone wrong
    data TEXT NOT NULL                      -- JSON: the event's fields
);
CREATE INDEX session_began ON session(began);
CREATE INDEX session_ref ON session(ref);
CREATE INDEX session_run ON session(run);
CREATE INDEX record_run ON record(run);
CREATE INDEX record_session ON record(session) WHERE session IS NOT NULL;
CREATE INDEX record_time ON record(time);
CREATE INDEX record_failure ON record(time) WHERE failure;
"""
MIGRATIONS: dict[int, str] = {}
"""For each older version of the tables, what makes them those of the next one."""
LARGEST_LOG = 16 << 20
"""Bytes of the log beside the file that stay on the disk when nobody writes."""
NO_JOURNAL = "there is no such journal; it begins with the first session"
_UNFIT = (sqlite3.DatabaseError, OSError)
_OPENED = "it cannot be opened"


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open a journal, and make it where there is none. For one thread.

    Raises
    ------
    JournalError
        It is no journal, one of a newer version, or cannot be written; says what to do.
    """
    with told_as_journal_error(path, _OPENED):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # what happened in a lab is not for everybody
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, cached_statements=64)
        try:
            _check(connection, path)
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; before anything is written
            _log_ahead(connection)
            connection.execute(f"PRAGMA journal_size_limit = {LARGEST_LOG}")
            connection.execute("PRAGMA synchronous = FULL")  # what is told to be safe outlives a power cut
            connection.execute("PRAGMA foreign_keys = ON")
            with transaction(connection):
                if _number(connection, "application_id") == 0:  # no other program has made it meanwhile
                    for statement in TABLES.split(";\n"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION}")
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Have the file a log of its own, once for all who open it."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite waits for nobody here: another program may be doing the same.
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(AGAIN)
        else:
            return


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Turn tables of an older version into those of this one; in a transaction."""
    while (version := _number(connection, "user_version")) < VERSION:
        if version not in MIGRATIONS:
            problem = f"nobody knows version {version} of its tables, which a rigsync under development has made"
            raise JournalError(path, f"{problem}; move it away, and rigsync begins a new one")
        for statement in MIGRATIONS[version].split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version + 1}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Have what is written in the context in the file whole, or not at all; others who write wait meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a journal that there is, to read it while others write. For one thread.

    Raises
    ------
    JournalError
        There is none, or it is none, or one of a newer version; says what to do.
    """
    try:
        if path.is_dir():
            raise JournalError(path, "this is a folder; name a file in it")
        path.stat()
        return _reader(path, "mode=ro")
    except FileNotFoundError:
        raise JournalError(path, NO_JOURNAL) from None
    except _UNFIT as error:
        # A reader, too, makes files beside a journal with a log. Where it may not, and there is no log, nobody writes.
        # SQLite then takes the file as it is.
        log = path.with_name(f"{path.name}-wal")
        try:
            if os.access(path, os.R_OK) and log.exists() and log.stat().st_size:
                problem = (
                    f"it was not closed, and no file may be made beside it; copy it and {log.name}, and ask the copy"
                )
                raise JournalError(path, problem)
            return _reader(path, "mode=ro&immutable=1")
        except _UNFIT:
            raise JournalError(path, f"{_OPENED}: {problem_of(error)}") from error


def _reader(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", timeout=PATIENCE, uri=True)
    try:
        _check(connection, path)
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise JournalError(path, NO_JOURNAL)
        if _number(connection, "user_version") < VERSION:
            connection.close()
            open_to_write(path).close()  # which turns it into one of this version
            return _reader(path, how)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise a JournalError unless it is a journal of this version or an older one, or empty."""
    connection.execute("BEGIN")  # all at one moment: another program may be making it
    application, version = _number(connection, "application_id"), _number(connection, "user_version")
    is_empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    connection.execute("COMMIT")
    if application != APPLICATION and not (is_empty and application == 0):
        raise JournalError(path, "this is a database of another program; name another file")
    if version > VERSION:
        problem = f"a newer rigsync has written it (version {version} of its tables, {VERSION} here)"
        raise JournalError(path, f"{problem}; install that rigsync here, or name another file")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    found: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return found
