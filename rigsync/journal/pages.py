"""A rig's own journal, told to whoever collects journals, in pages that fit into a datagram (docs/protocol.md)."""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

from rigsync.hub.documents import json_of, small
from rigsync.journal.store import open_to_read
from rigsync.journal.troubles import told_as_journal_error

PAGE_BYTES = 40_000
"""Bytes of a page as text, which leave room for the rest of a datagram."""
PAGE_RECORDS = 500
"""Most records of a page."""
MOST_RUNS = 200
"""Runs that a rig tells of at once, the newest."""
LAST_SESSIONS = 20
"""Sessions of a run that every page has: they may have changed without a record."""
_RUNS = (
    "SELECT uuid, opened, closed, (SELECT max(id) FROM record WHERE run = run.id) FROM run "
    "WHERE kind = 'rig' AND name = ? AND collected IS NULL ORDER BY opened DESC LIMIT ?"
)
_RUN = (
    "SELECT id, uuid, host, program, opened, closed, about FROM run "
    "WHERE uuid = ? AND kind = 'rig' AND name = ? AND collected IS NULL"
)
_RECORDS = (
    "SELECT id, session, time, mono, kind, rig, number, cause, failure, data FROM record "
    "WHERE run = ? AND id > ? ORDER BY id LIMIT ?"
)
_SESSIONS = (
    "SELECT id, ref, subject, began, ended, outcome, rigs, files, bytes, failures FROM session "
    "WHERE run = ? AND id IN (SELECT value FROM json_each(?))"
)
_LAST_SESSIONS = "SELECT id FROM session WHERE run = ? ORDER BY id DESC LIMIT ?"


def runs_of(path: Path, rig: str) -> dict[str, Any]:
    """Return the runs of a rig, the newest first: uuid, when it was opened and closed, and its newest record."""
    with contextlib.closing(open_to_read(path)) as connection, told_as_journal_error(path, "it cannot be read"):
        rows = connection.execute(_RUNS, [rig, MOST_RUNS]).fetchall()
    return {"runs": [[uuid, opened, closed, newest or 0] for uuid, opened, closed, newest in rows]}


def page_of(path: Path, rig: str, run: str, after: int) -> dict[str, Any]:
    """Return a page of one run: what it is, the next records after one, and the sessions of these.

    Raises
    ------
    LookupError
        The rig has no such run.
    """
    with contextlib.closing(open_to_read(path)) as connection, told_as_journal_error(path, "it cannot be read"):
        found = connection.execute(_RUN, [run, rig]).fetchone()
        if found is None:
            raise LookupError(f"this rig has no run {run!r} in its journal")
        id, uuid, host, program, opened, closed, about = found
        rows = connection.execute(_RECORDS, [id, after, PAGE_RECORDS + 1]).fetchall()
        last = [row for (row,) in connection.execute(_LAST_SESSIONS, [id, LAST_SESSIONS])]
        described = {"uuid": uuid, "host": host, "program": program, "opened": opened, "closed": closed}
        described["about"] = _about_within(PAGE_BYTES // 4, _loaded(about))
        count, is_small = min(len(rows), PAGE_RECORDS), False
        while True:
            records = [_small(row) if is_small else list(row) for row in rows[:count]]
            wanted = sorted({record[1] for record in records if record[1] is not None} | set(last))
            sessions = connection.execute(_SESSIONS, [id, json.dumps(wanted)]).fetchall()
            page = packed({"run": described, "sessions": [list(row) for row in sessions], "records": records})
            if len(page) <= PAGE_BYTES or is_small:
                break
            is_small = count <= 1  # one record alone takes more than a page
            count = max(1, count // 2) if rows else 0
    newest = records[-1][0] if records else after
    return {"page": page, "after": newest, "is_last": count == len(rows)}


def packed(document: dict[str, Any]) -> str:
    """Return a page as text."""
    return base64.b64encode(zlib.compress(json_of(document).encode())).decode()


def unpacked(text: str, most: int) -> Any:
    """Return what a page holds; a `ValueError` where it is none, or takes more than so many bytes."""
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(base64.b64decode(text, validate=True), most)
        if not decompressor.eof:
            raise ValueError(f"the page has more than {most:,} bytes, or less than all of them")
        return json.loads(data, parse_constant=_no_constant)
    except (zlib.error, RecursionError) as error:
        raise ValueError(f"the page cannot be read: {error}") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _about_within(most: int, about: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a run; without its files, or even less, where that takes more than so many bytes."""
    for kept in (about, {**about, "files": None}):
        if len(packed(kept)) <= most:
            return kept
    return small(about)


def _small(record: tuple[Any, ...]) -> list[Any]:
    """Return a record with the small fields of its event alone."""
    return [*record[:-1], json_of(small(_loaded(record[-1])))]


def _loaded(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"unreadable": text[:200]}


def answer(path: Path, rig: str, run: str | None = None, after: int = 0) -> dict[str, Any]:
    """Return what a rig answers to the command ``rigsync.journal``: its runs, or a page of one of them.

    Raises
    ------
    TypeError, ValueError
        The arguments are of another kind.
    LookupError
        The rig has no such run.
    JournalError
        Its journal cannot be read.
    """
    if run is None:
        return runs_of(path, rig)
    if not isinstance(run, str) or not isinstance(after, int) or isinstance(after, bool):
        raise TypeError("a page is asked for by the uuid of a run, and the number of a record")
    if not 0 <= after <= 2**62:
        raise ValueError(f"{after} is no number of a record")
    return page_of(path, rig, run, after)
