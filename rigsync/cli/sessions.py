"""`rigsync sessions`."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from rigsync._text import duration_text, size_text
from rigsync.cli.asked import (
    check_forms,
    check_span,
    csv_option,
    journal_option,
    open_journal,
    since_option,
    state_of,
    until_option,
    write_csv,
)
from rigsync.cli.happened import cut, failures_of, iso, local
from rigsync.cli.options import json_option, verbose_option
from rigsync.cli.output import write_json
from rigsync.cli.tables import print_table
from rigsync.journal.query import Session
from rigsync.journal.rows import OK

COLUMNS = ["session", "began", "duration", "PC", "outcome", "rigs", "files", "size"]
MOST_RIGS = 4
"""Rigs whose names are shown; of more, their number and those that have failed."""


@click.command(short_help="List the sessions, a line for each.")
@click.option("--subject", metavar="NAME", help="Only those of a subject.")
@since_option
@until_option
@click.option("--failed", is_flag=True, help="Only those in which something has gone wrong.")
@click.option("--last", metavar="N", type=click.IntRange(min=1), help="Only the last N.")
@json_option
@csv_option
@journal_option
@verbose_option
def command(
    subject: str | None,
    since: float | None,
    until: float | None,
    failed: bool,
    last: int | None,
    as_json: bool,
    as_csv: bool,
    file: str | None,
) -> int:
    """List the sessions: reference, when, how long, PC of the task, outcome, rigs, and what they have recorded.

    Files and their sizes are those that the rigs told at the end. A session without an end is one whose program was
    killed, or goes on.
    """
    check_forms(as_json, as_csv)
    check_span(since, until)
    now = time.time()
    with open_journal(file) as journal:
        found = journal.sessions(subject=subject, since=since, until=until, failed=failed, last=last)
        states = [state_of(session, journal, now) for session in found]
        is_empty = not found and not journal.sessions(last=1)
    if as_json:
        write_json([{**asdict(one), "state": state} for one, state in zip(found, states, strict=True)])
    elif as_csv:
        write_csv(["session", "subject", "began", "ended", "PC", "outcome", "rigs", "files", "bytes", "failures"])
        for one, state in zip(found, states, strict=True):
            ended = None if one.ended is None else iso(one.ended)
            rigs = "; ".join(f"{rig}: {told}" for rig, told in one.rigs.items())
            when = [iso(one.began), ended]
            write_csv([one.ref, one.subject, *when, one.host, state, rigs, one.files, one.bytes, one.failures])
    elif found:
        rows = [_row(session, state) for session, state in zip(found, states, strict=True)]
        print_table(COLUMNS, rows, right=["duration", "files", "size"], stacks=[(0, 1), (3,), (4, 2), (5,), (6, 7)])
    elif is_empty:
        click.echo(f"there is no session yet in {journal.path}", err=True)
    else:
        click.echo("there is no such session; leave out an option", err=True)
    return 0


def _row(session: Session, state: str) -> list[str]:
    duration = "" if session.ended is None else duration_text(session.ended - session.began)
    began = f"{local(session.began):%Y-%m-%d %H:%M}"
    recorded = [str(session.files), size_text(session.bytes)] if session.files else ["", ""]
    return [session.ref, began, duration, session.host, state, _rigs(session), *recorded]


def _rigs(session: Session) -> str:
    failed = [f"{', '.join(names)} ({cut(told)})" for told, names in failures_of(session).items()]
    if len(session.rigs) <= MOST_RIGS:
        return ", ".join([*(rig for rig, told in session.rigs.items() if told == OK), *failed])
    return ", ".join([f"{len(session.rigs)} rigs", *failed])
