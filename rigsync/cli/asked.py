"""What the commands that ask the journal have in common: which, since when, and tables that a spreadsheet reads."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from rigsync._text import printable, spreadsheet_cell
from rigsync.cli.moments import moment
from rigsync.cli.output import write_lines
from rigsync.config.finding import find_rigs_file
from rigsync.config.journal import chosen_journal
from rigsync.errors import ConfigError, JournalError
from rigsync.journal.query import Journal, Session

RECENT = 150.0
"""Seconds within which a coordinator has written something in a session: it notes all 30 s how its links are."""


def _moment(is_end: bool) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    """Return what reads a moment in the past, as people name it, for an option: its Unix time."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
        try:
            return None if value is None else moment(value, datetime.now(), is_end=is_end)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return read


since_option = click.option(
    "--since",
    metavar="TIME",
    callback=_moment(False),
    help="Not before: 2h, 3d, yesterday, tuesday, 14:30, 2026-11-30.",
)
until_option = click.option(
    "--until", metavar="TIME", callback=_moment(True), help="Not after; a day is meant to its end."
)
csv_option = click.option("--csv", "as_csv", is_flag=True, help="Print a table for a spreadsheet.")
journal_option = click.option(
    "--journal",
    "file",
    metavar="FILE",
    type=click.Path(),
    help="The journal. Else the one that RIGSYNC_JOURNAL or rigs.yaml names, or this user's.",
)


def check_span(since: float | None, until: float | None) -> None:
    """Refuse a span that is none."""
    if since is not None and until is not None and since > until:
        raise click.UsageError("--since is later than --until, so that nothing lies between them")


def open_journal(file: str | None, rigs_file: str | None = None) -> Journal:
    return Journal(journal_file(file, rigs_file))


def journal_file(file: str | None, rigs_file: str | None = None) -> Path | None:
    """Return the journal that an option names, or else a file of rigs, where it has the key; None for the usual one."""
    if file is not None:
        return Path(os.path.expanduser(file))
    with contextlib.suppress(ConfigError, OSError):  # a mistake in a file of rigs keeps nobody from what happened
        path = find_rigs_file(rigs_file)
        if path is not None and b"journal" in path.read_bytes():  # most have none, and need not be read
            rigs = import_module("rigsync.config.files").load_rigs(path)  # which takes long to load
            settings = chosen_journal(None, rigs.journal)
            return None if settings is None else settings.file
    return None


def metadata_folder() -> str:
    """Return where the metadata of a session go: where the file of rigs says, as at a session's end."""
    with contextlib.suppress(ConfigError, OSError):
        if (path := find_rigs_file(None)) is not None:
            rigs = import_module("rigsync.config.files").load_rigs(path)
            if rigs.metadata is not None:
                return str(rigs.metadata)
    return "{session_path}"


def references(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the reference of a session, the latest first."""
    try:
        with open_journal(ctx.params.get("file")) as journal:
            names = journal.references(500)
    except (JournalError, OSError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete) and printable(name) == name]


def check_forms(as_json: bool, as_csv: bool) -> None:
    if as_json and as_csv:
        raise click.UsageError("give either --json or --csv")


def state_of(session: Session, journal: Journal, now: float) -> str:
    """Return how a session ended, or whether it goes on as far as the journal knows."""
    if session.outcome is not None:
        return session.outcome
    run = journal.run(session.run)
    if run.closed is not None:
        return "not ended"
    last = journal.last_of(session)
    if last is not None and now - last < RECENT:
        return "goes on"
    return "not ended" if run.kind == "coordinator" else "no end yet"  # a rig may have nothing to tell for hours


def csv_line(cells: Iterable[Any]) -> str:
    """Return a line of a table for a spreadsheet.

    Text from outside stays text there: a spreadsheet would take what begins with = for a formula, and do it.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([spreadsheet_cell(cell) for cell in cells])
    return line.getvalue()


def write_csv(cells: Iterable[Any]) -> None:
    write_lines(csv_line(cells))
