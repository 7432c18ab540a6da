"""The journals of rigs, put into this one: what they tell is checked; a page is in the file whole, or not at all."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rigsync._text import shortened
from rigsync.hub.documents import json_of
from rigsync.journal.pages import PAGE_RECORDS, unpacked
from rigsync.journal.reading import SEVERAL
from rigsync.journal.rows import COMPLETE, SPOILT
from rigsync.journal.store import open_to_write, transaction
from rigsync.journal.troubles import told_as_journal_error

LARGEST_PAGE = 16 << 20
"""Bytes of a page when it is unpacked."""
MOST_PAGES = 20_000
"""Pages that are taken from one rig at once: some ten million records."""
_UUID = re.compile(r"[0-9A-Za-z-]{8,64}")
_MOST = 2**62
_OUTCOMES = (COMPLETE, *SPOILT)
_FIND_RUN = "SELECT id, collected FROM run WHERE uuid = ?"
_ADD_RUN = (
    "INSERT INTO run (uuid, kind, name, host, program, opened, closed, about, collected) "
    "VALUES (?, 'rig', ?, ?, ?, ?, ?, ?, ?)"
)
_CHANGE_RUN = "UPDATE run SET closed = ?, about = ?, collected = ? WHERE id = ?"
_FIND_SESSION = "SELECT id FROM session WHERE run = ? AND began = ?"
_ADD_SESSION = (
    "INSERT INTO session (ref, subject, ended, outcome, rigs, files, bytes, failures, run, began) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_CHANGE_SESSION = (
    "UPDATE session SET ref = ?, subject = ?, ended = ?, outcome = ?, rigs = ?, files = ?, bytes = ?, failures = ? "
    "WHERE id = ?"
)
_ADD_RECORD = (
    "INSERT INTO record (run, session, time, mono, kind, rig, number, cause, failure, data) "
    "VALUES (?, ?, ?, ?, ?, NULL, ?, ?, ?, ?)"
)


class WrongPage(ValueError):
    """What a rig tells of its journal is not what it should be."""


class Collection:
    """The journal of this computer, open for what rigs tell of theirs. A context manager; for one thread.

    Raises
    ------
    JournalError
        By every method: the journal cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._connection = open_to_write(path)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def fetch(self, rig: str, ask: Callable[..., Any]) -> int:
        """Fetch all that is new of a rig; return how many records that were.

        Parameters
        ----------
        rig : str
            Its name here.
        ask : callable
            Asks the rig, with the keywords ``run`` and ``after`` or without any.

        Raises
        ------
        WrongPage
            The rig tells something else. What it told before is in the journal.
        """
        told = ask()
        runs = told.get("runs") if isinstance(told, dict) else None
        if not isinstance(runs, list):
            raise WrongPage(f"it answers {shortened(told)}, and not with its runs")
        count = pages = 0
        for found in reversed(runs):
            if not isinstance(found, list) or len(found) < 4 or not isinstance(found[0], str):
                raise WrongPage(f"{shortened(found)} is no run")
            uuid, newest, closed = found[0], _whole(found[3], "a record's number"), found[2]
            known = self._cursor(uuid, rig)
            if known is None or (known.after >= newest and (known.is_closed or closed is None) and known.id):
                continue
            after, is_last = known.after, False
            while not is_last:
                pages += 1
                if pages > MOST_PAGES:
                    raise WrongPage(f"it has more than {MOST_PAGES:,} pages; ask again for the rest")
                page = ask(run=uuid, after=after)
                is_last = not isinstance(page, dict) or page.get("is_last") is not False
                before = after
                added, after = self._take(rig, uuid, page, after)
                count += added
                if not is_last and after <= before:
                    raise WrongPage("its pages do not go on")
        return count

    def _cursor(self, uuid: str, rig: str) -> _Cursor | None:
        """Return how far a run was fetched; None for one that is this computer's own."""
        with told_as_journal_error(self.path, "it cannot be written"):
            row = self._connection.execute("SELECT id, collected, closed FROM run WHERE uuid = ?", [uuid]).fetchone()
        return _Cursor(0, 0, False) if row is None else _cursor_of(row[0], row[1], rig, row[2] is not None)

    def _take(self, rig: str, uuid: str, page: Any, after: int) -> tuple[int, int]:
        """Write a page; return how many records were new, and the number of the last."""
        checked = _Page(uuid, page, after)
        execute = self._connection.execute
        with told_as_journal_error(self.path, "it cannot be written"), transaction(self._connection):
            row = execute(_FIND_RUN, [uuid]).fetchone()  # somebody else may have collected meanwhile
            known = _Cursor(0, 0, False) if row is None else _cursor_of(row[0], row[1], rig, False)
            if known is None:
                raise WrongPage(f"its run {uuid} is of this computer")
            origin = json.dumps({"rig": rig, "at": time.time(), "after": max(known.after, checked.after)})
            run = known.id or execute(_ADD_RUN, [uuid, rig, *checked.run, origin]).lastrowid
            if known.id:
                execute(_CHANGE_RUN, [checked.run[3], checked.run[4], origin, run])
            ids = {id: self._put_session(run, row) for id, row in checked.sessions.items()}
            new = [record for record in checked.records if record[0] > known.after]
            rows = [(run, ids.get(session), *rest) for _, session, *rest in new]
            self._connection.executemany(_ADD_RECORD, rows)
        return len(new), checked.after

    def _put_session(self, run: int | None, row: list[Any]) -> int | None:
        began, values = row[2], [*row[:2], *row[3:]]
        found = self._connection.execute(_FIND_SESSION, [run, began]).fetchone()
        if found is None:
            return self._connection.execute(_ADD_SESSION, [*values, run, began]).lastrowid
        self._connection.execute(_CHANGE_SESSION, [*values, found[0]])
        id: int = found[0]
        return id


class _Cursor:
    """How far a run was fetched."""

    def __init__(self, id: int, after: int, is_closed: bool):
        self.id, self.after, self.is_closed = id, after, is_closed


def _cursor_of(id: int, collected: str | None, rig: str, is_closed: bool) -> _Cursor | None:
    if collected is None:
        return None
    origin = json.loads(collected)
    if origin.get("rig") != rig:
        raise WrongPage(f"it tells a run that was fetched from {shortened(origin.get('rig'))} before")
    return _Cursor(id, int(origin.get("after") or 0), is_closed)


class _Page:
    """A page of a rig, checked: it comes from another computer."""

    def __init__(self, uuid: str, page: Any, after: int):
        try:
            document = unpacked(page["page"], LARGEST_PAGE)
            run, sessions, records = (document[name] for name in ("run", "sessions", "records"))
            if run["uuid"] != uuid or not _UUID.fullmatch(uuid):
                raise WrongPage(f"it tells another run than {shortened(uuid)}")
            if not isinstance(run["about"], dict) or len(records) > PAGE_RECORDS:
                raise WrongPage("its page is of another form")
            opened, closed = _time(run["opened"]), None if run["closed"] is None else _time(run["closed"])
            about = json_of(run["about"])
            self.run = [_text(run["host"], 300), _text(run["program"], 2000), opened, closed, about]
            self.sessions = {_whole(row[0], "a session's number"): _session(*row[1:]) for row in sessions}
            self.records = [_record(*row) for row in records]
        except (TypeError, LookupError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            if isinstance(error, WrongPage):
                raise
            raise WrongPage(f"its page cannot be read: {error}") from error
        numbers = [after, *(record[0] for record in self.records)]
        if any(first >= second for first, second in itertools.pairwise(numbers)):
            raise WrongPage("its records are out of order")
        self.records = [record for record in self.records if record[4] not in SEVERAL]  # of a coordinator alone
        self.after = numbers[-1]


def _session(
    ref: Any, subject: Any, began: Any, ended: Any, outcome: Any, rigs: Any, files: Any, size: Any, failures: Any
) -> list[Any]:
    told = json.loads(_text(rigs, 1 << 20))
    if not isinstance(told, dict) or not (outcome is None or outcome in _OUTCOMES):
        raise WrongPage(f"{shortened(outcome)} is no outcome of a session")
    return [
        _text(ref, 1000),
        None if subject is None else _text(subject, 1000),
        _time(began),
        None if ended is None else _time(ended),
        outcome,
        json_of({str(rig): str(what) for rig, what in told.items()}),
        *(_whole(number, "a count") for number in (files, size, failures)),
    ]


def _record(
    id: Any, session: Any, when: Any, mono: Any, kind: Any, rig: Any, number: Any, cause: Any, failure: Any, data: Any
) -> list[Any]:
    fields = json.loads(_text(data, 1 << 20))
    if not isinstance(fields, dict) or not _text(kind, 200).isidentifier():
        raise WrongPage(f"a record of the kind {shortened(kind)} is of another form")
    return [
        _whole(id, "a record's number"),
        session,
        _time(when),
        _time(mono),
        kind,
        _number(number),
        None if cause is None else _number(cause),
        int(bool(failure)),
        json_of(fields),
    ]


def _text(value: Any, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise WrongPage(f"{shortened(value)} is no text of up to {most:,} characters")
    return value.encode("utf-8", "backslashreplace").decode()


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise WrongPage(f"{shortened(value)} is no time")
    return float(value)


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise WrongPage(f"{shortened(value)} is not {what}")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -_MOST <= value <= _MOST:
        raise WrongPage(f"{shortened(value)} is no number of an event")
    return value
