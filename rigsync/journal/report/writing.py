"""Writes a session's report into a file, whole or not at all."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from rigsync import __version__
from rigsync._text import printable
from rigsync.journal.query import Journal, Session
from rigsync.journal.report.page import MARK, mark_line, page_of
from rigsync.journal.report.reading import facts_of
from rigsync.journal.whole import write_whole

_HEAD = 2000
"""Bytes of a file in which a report has its mark."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_LONGEST_NAME = 120
"""Characters of a name of a file that is made of a reference."""
_MOST_OF_ONE_NAME = 1000
"""Sessions of one reference for which a folder has reports."""


def file_name(ref: str, number: int = 1) -> str:
    """Return a name of a file for a reference, on every system: what it may not have becomes ``_``."""
    kept = re.sub(r"[^\w .,=@+-]|[\s]", "_", printable(ref))[:_LONGEST_NAME].strip(" .") or "session"
    kept = f"_{kept}" if _RESERVED.match(kept) else kept
    return f"{kept}.html" if number == 1 else f"{kept} ({number}).html"


def page(journal: Journal, session: Session) -> tuple[str, str]:
    """Return a session's report, and the mark by which its file is known.

    Raises
    ------
    JournalError
        The journal cannot be read.
    """
    facts = facts_of(session, journal.events(session), journal.run)
    return page_of(facts, str(journal.path), __version__, time.time()), mark_line(facts)


def write_into(folder: Path, ref: str, text: str, mark: str) -> Path:
    """Write a report into a folder, which is made where it is missing, and return its path.

    An earlier report of the same session is replaced, and no other file.

    Raises
    ------
    OSError
        It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, _MOST_OF_ONE_NAME):
        path = folder / file_name(ref, number)
        if not os.path.lexists(path) or _begins_with(path, mark):
            write_file(path, text)
            return path
    raise FileExistsError(f"{folder} has {_MOST_OF_ONE_NAME:,} files of that name; move some away")


def write_file(path: Path, text: str) -> None:
    """Write a report. A file that is there and is no report is left as it is.

    Raises
    ------
    OSError
        It cannot be written, or another file is there.
    """
    if os.path.lexists(path) and not _begins_with(path, MARK):
        raise FileExistsError(f"{path} is there, and is no report; name another file")
    write_whole(path, text)


def _begins_with(path: Path, mark: str) -> bool:
    try:
        with open(path, "rb") as file:
            return mark.encode() in file.read(_HEAD)
    except OSError:
        return False
