"""`rigsync log`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

import click

from rigsync._text import printable
from rigsync.cli import happened
from rigsync.cli.asked import (
    check_forms,
    check_span,
    csv_option,
    journal_option,
    open_journal,
    references,
    since_option,
    state_of,
    until_option,
    write_csv,
)
from rigsync.cli.options import verbose_option
from rigsync.cli.output import compact, end_interrupted_line, write_json, write_lines
from rigsync.cli.tables import write_marked
from rigsync.journal.doubles import WINDOW, Doubles, without_doubles
from rigsync.journal.query import Journal, Record, Session, matches

WAKE = 0.2
"""Seconds between two looks at what is new; a record is in the file 0.2 s after it happened."""
HELD = 1.0
"""Seconds for which a new record waits for the other side's, a rig's or its coordinator's, that may say the same."""
MOST_PUSHES = 1000
"""Pushes that are not completed of which it is remembered when rigs have answered."""
COLUMNS = ["time", "bound", "session", "rig", "failure", "kind", "text", "data"]


@click.command(short_help="Show what happened, in the last session or any other.")
@click.argument("reference", metavar="[REF]", required=False, shell_complete=references)
@click.option("--last", metavar="N", type=click.IntRange(min=1), help="The last N sessions.")
@since_option
@until_option
@click.option("--rig", "rigs", metavar="PATTERN", multiple=True, help="Only what is about this rig; 'cameras:*'.")
@click.option("--failures", is_flag=True, help="Only what has gone wrong.")
@click.option("--all", "everything", is_flag=True, help="Progress, and how the links were, too.")
@click.option("--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each record, of every kind.")
@csv_option
@click.option("--collect", is_flag=True, help="Fetch the rigs' own journals before, into this one.")
@click.option("--rigs", "rigs_file", metavar="FILE", type=click.Path(), help="With --collect: the file of rigs.")
@journal_option
@verbose_option
def command(
    reference: str | None,
    last: int | None,
    since: float | None,
    until: float | None,
    rigs: tuple[str, ...],
    failures: bool,
    everything: bool,
    follow: bool,
    as_json: bool,
    as_csv: bool,
    collect: bool,
    rigs_file: str | None,
    file: str | None,
) -> int:
    """Show what happened: in the last session, in that of REF, in the --last N, or --since a time.

    Each line has the time of day, the rig, and what happened there. What a rig's own journal tells is among it, where
    the rig is on this computer or --collect has fetched it. It is given in the time of this computer; ± says how
    exactly that is known, where it may be wrong by half a millisecond or more.

    With --since or --until alone, what belongs to no session is shown, too. A day or a weekday begins at midnight.
    --collect asks the rigs of the file of rigs. The exit status is 1 if one of them has not told all.

    \b
    rigsync log --last 5 --failures
    rigsync log --since tuesday --until tuesday --rig 'cameras:*'
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    check_forms(as_json, as_csv)
    check_span(since, until)
    if rigs_file and not collect:
        raise click.UsageError("--rigs is for --collect; to choose what is shown, write --rig")
    if last is not None and reference:
        raise click.UsageError("give either REF or --last")
    if follow and until is not None:
        raise click.UsageError("--follow has no end; leave out --until")
    status = 0
    if collect:
        # What only this needs takes longer to load than the rest to run.
        status = import_module("rigsync.cli.collecting").collect(file, rigs_file)
    with open_journal(file, rigs_file) as journal:
        kind = _CsvWriter if as_csv else _JsonWriter if as_json else _LineWriter
        everything = everything or as_json or as_csv
        writer = kind(journal, rigs, failures, everything)
        newest = journal.newest
        chosen = _Chosen(journal, reference, rigs, failures, everything)
        in_time = (since is not None or until is not None) and reference is None and last is None
        sessions = [] if in_time else _sessions(journal, reference, last, is_required=not follow)
        if in_time:
            writer.write(chosen.of(journal.events(since=since, until=until, **chosen.asked)), None)
        else:
            for session in sessions:
                records = journal.events(session, since=since, until=until, **chosen.asked)
                writer.write(chosen.of(records), session)
        if follow:
            _follow(journal, newest, chosen, writer)
        elif rigs and not writer.has_written:
            _say_nothing_found(rigs, sessions)
    return status


def _sessions(journal: Journal, reference: str | None, last: int | None, is_required: bool) -> list[Session]:
    found = journal.sessions(reference, last=last or (None if reference else 1))
    if not found and is_required:
        journal.session(reference)  # which says why not
    return found


def _say_nothing_found(patterns: Sequence[str], sessions: Iterable[Session]) -> None:
    known = dict.fromkeys(rig for session in sessions for rig in session.rigs)
    told = "" if any(matches(rig, patterns) for rig in known) or not known else f"; the rigs are {', '.join(known)}"
    click.echo(printable(f"there is nothing of {' or '.join(patterns)} to show{told}"), err=True)


class _Chosen:
    """What of a journal is shown."""

    def __init__(
        self, journal: Journal, reference: str | None, rigs: tuple[str, ...], failures: bool, everything: bool
    ):
        self._journal, self._reference, self.rigs = journal, reference, rigs
        self._everything = everything
        self._without = frozenset() if everything else happened.OFTEN - {happened.ANSWER}
        self.asked: dict[str, Any] = {"failures": failures, "rigs": rigs or None, "without": self._without}

    @property
    def is_folded(self) -> bool:
        """Whether what is told twice is shown once: to people it is, to programs not."""
        return not self._everything

    def of(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield what is shown."""
        return iter(records) if self._everything else without_doubles(records, self._journal.run)

    def is_shown(self, record: Record) -> bool:
        """Whether a record that has just been written is shown."""
        if record.kind in self._without:
            return False
        if self.asked["failures"] and not record.failure:
            return False
        if self._reference is not None and self._journal.reference_of(record) != self._reference:
            return False
        return self._journal.is_about(record, self.rigs)


class _Held:
    """New records, until it is known whether they say something new."""

    def __init__(self, journal: Journal, chosen: _Chosen):
        self._chosen, self._doubles = chosen, Doubles(journal.run, as_it_happens=True)
        self._waiting = deque[tuple[float, Record]]()

    def add(self, records: Iterable[Record]) -> None:
        until = time.monotonic() + (HELD if self._chosen.is_folded else 0.0)
        for record in records:
            self._doubles.note(record)
            self._doubles.forget(record.time - WINDOW)
            self._waiting.append((until, record))

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self, everything: bool = False) -> Iterator[Record]:
        """Yield what is to be shown now."""
        now = time.monotonic()
        while self._waiting and (everything or self._waiting[0][0] <= now):
            record = self._waiting.popleft()[1]
            if (not self._chosen.is_folded or self._doubles.is_told(record)) and self._chosen.is_shown(record):
                yield record


def _follow(journal: Journal, newest: int, chosen: _Chosen, writer: _Writer) -> None:
    held = _Held(journal, chosen)
    try:
        while True:
            if records := journal.changes(newest):
                newest = records[-1].id
                held.add(records)
            writer.write(held.take(), None)
            if not records:
                time.sleep(WAKE)
                if not held:
                    journal.check()
    except KeyboardInterrupt:
        end_interrupted_line()
        writer.write(held.take(everything=True), None)


class _Writer:
    """Prints records."""

    def __init__(self, journal: Journal, rigs: tuple[str, ...], failures: bool, everything: bool):
        self._journal, self._rigs, self._failures, self._everything = journal, rigs, failures, everything
        self._answered: dict[str, dict[str, float]] = {}
        """When each rig has answered, as Unix time in seconds, by the push that is not completed yet."""
        self.has_written = False
        """Whether there was a record to print."""

    def write(self, records: Iterable[Record], session: Session | None) -> None:
        raise NotImplementedError

    def lines(self, record: Record) -> Iterator[happened.Line]:
        """Yield of a record what is asked for: it may be about several rigs."""
        push, is_answer = str(record.data.get("request_time")), record.kind == happened.ANSWER
        if is_answer and record.rig is not None:
            if len(self._answered) > MOST_PUSHES:
                self._answered.clear()
            self._answered.setdefault(push, {})[record.rig] = record.time
        answered = self._answered.pop(push, None) if record.kind == "PushCompleted" else None
        if is_answer and not self._everything:
            return
        for line in happened.lines_of(record, answered):
            is_asked_for = not self._rigs or not line.rig or matches(line.rig, self._rigs)
            if is_asked_for and (line.is_failure or not self._failures):
                self.has_written = True
                yield line


class _JsonWriter(_Writer):
    def write(self, records: Iterable[Record], session: Session | None) -> None:
        for record in records:
            self.has_written = True
            write_json({**asdict(record), "ref": self._journal.reference_of(record)}, indent=None)


class _CsvWriter(_Writer):
    def __init__(self, journal: Journal, rigs: tuple[str, ...], failures: bool, everything: bool):
        super().__init__(journal, rigs, failures, everything)
        write_csv(COLUMNS)

    def write(self, records: Iterable[Record], session: Session | None) -> None:
        for record in records:
            reference, when = self._journal.reference_of(record), happened.iso(record.time)
            for line in self.lines(record):
                what = [line.rig, int(line.is_failure), record.kind, line.text, compact(record.data)]
                write_csv([when, record.bound, reference, *what])


class _LineWriter(_Writer):
    _day, _width = "", 0

    def write(self, records: Iterable[Record], session: Session | None) -> None:
        if session is not None:
            state = state_of(session, self._journal, time.time())
            write_marked(happened.session_line(session, state), "bold red" if session.has_failed else "bold")
            self._day = f"{happened.local(session.began):%Y-%m-%d}"
            self._width = max(map(len, session.rigs), default=0)
        for record in records:
            for line in self.lines(record):
                if line.day != self._day:
                    self._day = line.day
                    write_lines(line.day)
                self._width = max(self._width, min(len(line.rig), 30))
                style = "bold red" if line.is_failure else ""
                write_marked(f"{line.time}  {line.rig:{self._width}}  {line.text}", style)
