"""Writes a session's metadata into its folder: each file whole or not at all, and nobody else's."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rigsync import __version__
from rigsync._text import spreadsheet_cell
from rigsync.core.lifecycle import reference_parts
from rigsync.core.session_paths import BIDS, SESSION_PATH, folder_names
from rigsync.journal.metadata import description
from rigsync.journal.metadata.gathering import File, Gathered, Happened, gather
from rigsync.journal.query import Journal, Run, Session
from rigsync.journal.whole import write_whole

SESSION, FILES, EVENTS = "rigsync.session.json", "rigsync.files.csv", "rigsync.events.csv"
EVENT_TYPES = {
    "EXPINFO": "The rig was asked what it is.",
    "EXPINIT": "The rig began to prepare the session.",
    "EXPSTART": "The rig began to record.",
    "EXPEND": "The rig began to end its recording.",
    "EXPINTERRUPT": "The rig began to break its recording off.",
    "EXPCLEANUP": "The rig began to clean up.",
    "failure": "Something has gone wrong at the rig; the annotation says what.",
    "recovered": "It is in order again.",
    "link lost": "The rig did not answer any more.",
    "link alive": "The rig answers.",
    "rig restarted": "The rig's program was started anew.",
}
"""What the types of events mean: the values of a MeaningsTable of ndx-events. Others are notices and events of the
lab, by their names."""
COLUMNS = {
    "timestamp": "Seconds from session_start_time, by the clock of the task's PC.",
    "duration": "Seconds until the rig's answer had come; empty where there is none.",
    "event_type": "What happened.",
    "rig": "The rig; empty where it is about none.",
    "outcome": "ok or failed, of a message.",
    "annotation": "More of it, in words or as JSON.",
    "bound": "Seconds by which the timestamp may be wrong, where that is known.",
}
"""The columns of the table of events: those of ndx-events' EventsTable, and five more."""


@dataclass(slots=True)
class Written:
    """What was written, and what there is to say of it."""

    paths: list[Path] = field(default_factory=list)
    """The files."""
    conflicts: list[str] = field(default_factory=list)
    """Where the rigs' descriptions contradict each other."""
    problems: list[str] = field(default_factory=list)
    """What was not written, and why."""


def write(journal: Journal, session: Session, folder: str | os.PathLike[str]) -> Written:
    """Write a session's metadata into a folder, which is made where it is missing.

    Parameters
    ----------
    journal : Journal
        Where the session is.
    session : Session
        As ``journal.session(ref)`` returns it.
    folder : str or os.PathLike
        The session's folder on the task's PC.

    Returns
    -------
    Written
        The files, and what was found.

    Raises
    ------
    FileExistsError
        The folder has the metadata of another session.
    JournalError
        The journal cannot be read.
    OSError
        It cannot be written.
    """
    there, run, found, written = Path(folder), journal.run(session.run), gather(journal, session), Written()
    _check_same(there, run, session)
    there.mkdir(parents=True, exist_ok=True)
    whole, written.conflicts = description.merged(found.stubs)
    for rig in found.unfit:
        written.problems.append(f"what {rig} sends as its experiment description is no map; see its configuration")
    document = _document(session, run, found, written)
    for name, text in (
        (SESSION, json.dumps(document, indent=2, ensure_ascii=False) + "\n"),
        (FILES, _table(File, found.files)),
        (EVENTS, _events_table(found.events)),
    ):
        written.paths.append(_replace(there / name, text))
    target = there / description.FILE
    if not whole:
        pass  # no rig has sent one
    elif os.path.lexists(target) and not _begins_with(target, description.MARK):
        written.problems.append(f"{target} is there, and is not rigsync's: it is left as it is; move it, or merge both")
    else:
        written.paths.append(_replace(target, description.text_of(whole, written.conflicts)))
    return written


def _document(session: Session, run: Run, found: Gathered, written: Written) -> dict[str, Any]:
    parts = reference_parts(session.ref)
    date, number, subject = parts or (None, None, session.subject)
    about = run.about
    return {
        "written_by": f"rigsync {__version__}",
        "exp_ref": session.ref,
        "subject": subject,
        "date": date,
        "number": number,
        **{name: folder_names(session.ref).get(name) for name in (SESSION_PATH, BIDS)},
        "began": _iso(session.began),
        "session_start_time": _iso(found.start),
        "session_end_time": _iso(session.ended),
        "outcome": session.outcome,
        "rigs": session.rigs,
        "run": run.uuid,
        "host": run.host,
        "program": run.program,
        "provenance": {name: about.get(name) for name in ("rigsync", "python", "platform", "user", "repository")},
        "description_conflicts": written.conflicts,
        "events_without_a_time": found.left_out,
        "events_columns": COLUMNS,
        "event_types": EVENT_TYPES,
    }


def _check_same(folder: Path, run: Run, session: Session) -> None:
    """Raise a FileExistsError where the folder has the metadata of another session."""
    path = folder / SESSION
    try:
        present = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise FileExistsError(f"{path} is there, and cannot be read ({error}); move it away") from error
    wanted = (session.ref, run.uuid, _iso(session.began))
    keys = ("exp_ref", "run", "began")
    if not isinstance(present, dict) or tuple(present.get(key) for key in keys) != wanted:
        other = present.get("exp_ref") if isinstance(present, dict) else None
        text = f"{folder} has the metadata of another session, {other}: give each its folder, by {{session_path}}"
        raise FileExistsError(f"{text} for instance, or move that away")


def _iso(time: float | None) -> str | None:
    """Return a moment in ISO 8601, in this computer's zone: NWB needs one."""
    return None if time is None else datetime.fromtimestamp(time).astimezone().isoformat()


def _table(kind: type[File] | type[Happened], rows: Iterable[File | Happened]) -> str:
    names = [found.name for found in dataclasses.fields(kind)]
    return _csv(names, ([getattr(row, name) for name in names] for row in rows))


def _events_table(rows: Iterable[Happened]) -> str:
    def cell(row: Happened, name: str) -> Any:
        value = getattr(row, name)
        return f"{value:.6f}" if isinstance(value, float) else value

    return _csv(list(COLUMNS), ([cell(row, name) for name in COLUMNS] for row in rows), {"timestamp"})


def _csv(names: list[str], rows: Iterable[list[Any]], numbers: Iterable[str] = ()) -> str:
    text = io.StringIO()
    writer, plain = csv.writer(text, lineterminator="\n"), set(numbers)
    writer.writerow(names)
    for row in rows:
        cells = zip(names, row, strict=True)
        writer.writerow([value if name in plain else spreadsheet_cell(value) for name, value in cells])
    return text.getvalue()


def _begins_with(path: Path, mark: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(mark)) == mark.encode()
    except OSError:
        return False


def _replace(path: Path, text: str) -> Path:
    write_whole(path, text)
    return path
