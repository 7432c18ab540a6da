"""What has gone wrong with a journal's file, in words, with what to do."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from rigsync.errors import JournalError

_ROOM = "make room on that disk, or name a file on another"
_DAMAGED = "this is no journal, or it is damaged; move it away, and rigsync begins a new one"
_REMEDIES = {
    "full": _ROOM,
    "no space": _ROOM,
    "too large": _ROOM,
    "locked": "another program holds it; close that, or name another file",
    "readonly": "let this user write it and its folder, or name another file",
    "malformed": _DAMAGED,
    "not a database": _DAMAGED,
    "unable to open": "look at the path and the permissions, or name another file",
    "i/o error": "look at that disk, whether it is full or damaged, or name a file on another",
}
"""For words in SQLite's text of an error, or the system's: what to do."""


def problem_of(error: Exception) -> str:
    """Return what an error of SQLite or of the system says of a journal's file, and what to do."""
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return f"its folder is not there, and cannot be made: {text}; look at the path, or name another file"
    found = (remedy for words, remedy in _REMEDIES.items() if words in text.lower())
    return f"{text}; {next(found, 'look at the path, the permissions and the disk')}"


class told_as_journal_error(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a statement
    """Turns what SQLite or the system finds wrong with a journal into a JournalError that says what to do.

    Parameters
    ----------
    path : Path
        The journal.
    what : str
        What cannot be done, such as ``it cannot be read``; by default the error alone is told.
    """

    def __init__(self, path: Path, what: str = ""):
        self._path, self._what = path, f"{what}: " if what else ""

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (sqlite3.Error, OSError)):
            raise JournalError(self._path, f"{self._what}{problem_of(error)}") from error
