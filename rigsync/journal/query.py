"""What a journal holds: sessions, and what happened in them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from rigsync._text import close_match, shortened
from rigsync.core.references import canonical_reference
from rigsync.core.rigs import is_called
from rigsync.errors import JournalError
from rigsync.journal.reading import AROUND, LONGEST, PAGE, Asked, Reader, usual_journal_file
from rigsync.journal.rows import FAILED, RECORD, RUN, SESSION, SPOILT, rigs_of, run_of, session_of, storable
from rigsync.journal.rows import Record as Record
from rigsync.journal.rows import Run as Run
from rigsync.journal.rows import Session as Session
from rigsync.journal.rows import matches as matches

MARGIN = 5.0
"""Seconds by which what two programs of one computer call the same session may lie apart."""
UNKNOWN_CLOCK = 3600.0
"""The same for programs of two computers, whose clocks may differ."""
_OVERLAP = (
    f"o.began <= max(s.began, coalesce(s.ended, s.began + {LONGEST})) + {{margin}} AND "
    f"max(o.began, coalesce(o.ended, o.began + {LONGEST})) >= s.began - {{margin}}"
)
"""Whether a session o may be the session s, seen by another."""

Moment = float | datetime
"""Unix time in seconds, or a datetime; one without a zone is in local time."""


class Journal(Reader):
    """A journal, to ask what happened. It may be asked while programs write it; nothing here changes it.

    Close it, or use it as a context manager. It is for one thread.

    Parameters
    ----------
    path : str or os.PathLike, optional
        The file. Without it, the one that ``RIGSYNC_JOURNAL`` names, or else this user's.

    Raises
    ------
    JournalError
        There is no such journal, or it cannot be read. The text says what to do.

    Examples
    --------
    >>> from rigsync import Journal
    >>> with Journal('old.sqlite') as journal:  # doctest: +SKIP
    ...     for session in journal.sessions(subject='mouse', failed=True):
    ...         print(session.ref, session.outcome, session.rigs)
    """

    def __init__(self, path: str | os.PathLike[str] | None = None):
        super().__init__(Path(path) if path is not None else usual_journal_file())
        self._references: dict[int, str | None] = {}

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ sessions

    def sessions(
        self,
        ref: str | None = None,
        *,
        subject: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        failed: bool = False,
        last: int | None = None,
        every: bool = False,
    ) -> list[Session]:
        """Return sessions, the earliest first.

        Parameters
        ----------
        ref, subject : str, optional
            Only those with this reference, or of this subject. Zeros before the number make no difference.
        since, until : float or datetime, optional
            Only those that began not before, or not after. Unix time in seconds, or a datetime, which without a zone
            is in local time.
        failed : bool
            Only those in which something has gone wrong.
        last : int, optional
            Only so many, the latest.
        every : bool
            A session that a coordinator has seen is one, however many rigs have noted it too. True returns what the
            rigs have noted besides.
        """
        wheres: list[str] = []
        values: list[Any] = []
        for where, value in (
            ("s.ref = ?", ref and canonical_reference(ref)),
            ("s.subject = ?", subject),
            ("s.began >= ?", _seconds(since)),
            ("s.began <= ?", _seconds(until)),
        ):
            if value is not None:
                wheres.append(where)
                values.append(storable(value) if isinstance(value, str) else value)
        if failed:
            wheres.append(f"(s.failures OR s.outcome IN {SPOILT})")
        if not every:
            wheres.append(
                "(r.kind = 'coordinator' OR NOT EXISTS (SELECT 1 FROM session o JOIN run p ON p.id = o.run "
                "WHERE o.ref = s.ref AND p.kind = 'coordinator' AND p.collected IS NULL AND "
                f"{_OVERLAP.format(margin=f'iif(r.collected IS NULL, {MARGIN}, {UNKNOWN_CLOCK})')}))"
            )
        order = "ORDER BY s.began DESC, s.id DESC" + (" LIMIT ?" if last is not None else "")
        values += [last] if last is not None else []
        where = f"WHERE {' AND '.join(wheres)}" if wheres else ""
        rows = self._all(f"SELECT {SESSION} FROM session s JOIN run r ON r.id = s.run {where} {order}", values)
        return [session_of(row) for row in reversed(rows)]

    def session(self, ref: str | None = None) -> Session:
        """Return the latest session, or with a reference the latest that has begun; else one that has not.

        Raises
        ------
        JournalError
            There is none; the text names references that are close.
        """
        if found := self.sessions(ref, last=1 if ref is None else None):
            begun = [session for session in found if session.outcome != FAILED]
            return (begun or found)[-1]
        if ref is None:
            raise JournalError(self.path, "there is no session in it yet")
        advice = close_match(ref, self.references()) or "; rigsync sessions lists those that there are"
        raise JournalError(self.path, f"there is no session {shortened(ref, 80)}{advice}")

    def references(self, most: int = 5000) -> list[str]:
        """Return the references of sessions, the latest first, `most` at most."""
        rows = self._all("SELECT ref FROM session ORDER BY began DESC LIMIT ?", [most])
        return list(dict.fromkeys(str(ref) for (ref,) in rows))

    # ---------------------------------------------------------------------------------------------------- runs

    def runs(self, session: Session | None = None) -> list[Run]:
        """Return all runs, the first that began first; or those that have seen a session, its own first."""
        if session is not None:
            return [self.run(part.run) for part in self._parts(session)]
        return [run_of(row) for row in self._all(f"SELECT {RUN} FROM run ORDER BY opened, id", [])]

    # -------------------------------------------------------------------------------------------------- events

    def events(
        self,
        session: Session | None = None,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        rigs: str | Iterable[str] | None = None,
        kinds: str | Iterable[str] | None = None,
        without: Iterable[str] = (),
        failures: bool = False,
        after: int = 0,
        limit: int | None = None,
    ) -> Iterator[Record]:
        """Yield what happened, in order.

        A session's records are those of its coordinator and of all rigs whose journals are in this file, too: rigs of
        this computer, and those that ``rigsync log --collect`` has fetched. What both have written is there twice.
        Times of another computer are given by the clock of this one, as the coordinator's estimates have it; `Record`
        has the bound.

        Parameters
        ----------
        session : Session, optional
            Only what belongs to it.
        since, until : float or datetime, optional
            Only what happened not before, or not after.
        rigs : str or iterable of str, optional
            Only what is about these rigs, or also about these: names, or patterns such as ``cameras:*``.
        kinds : str or iterable of str, optional
            Only events of these classes, by their names.
        without : iterable of str
            No events of these classes.
        failures : bool
            Only failures, and what tells of one.
        after : int
            Only records with a higher id: those that were written since.
        limit : int, optional
            The first so many.
        """
        wheres: list[str] = ["id > ?"]
        values: list[Any] = [after]
        if kinds is not None:
            names = [kinds] if isinstance(kinds, str) else list(kinds)
            wheres.append(f"kind IN ({', '.join('?' * len(names))})")
            values += names
        if left_out := list(without):
            wheres.append(f"kind NOT IN ({', '.join('?' * len(left_out))})")
            values += left_out
        if failures:
            wheres.append("failure")
        begin, end = _seconds(since), _seconds(until)
        asked = Asked(" AND ".join(wheres), values, begin, end)
        found = self._of_session(self._parts(session), asked) if session is not None else self._of_all(asked)
        patterns = [rigs] if isinstance(rigs, str) else list(rigs or ())
        chosen = (
            record
            for record in found
            if (begin is None or record.time >= begin)
            and (end is None or record.time <= end)
            and self.is_about(record, patterns)
        )
        return itertools.islice(chosen, limit)

    def changes(self, after: int) -> list[Record]:
        """Return the records with a higher id in the order in which they were written, some thousands at most."""
        rows = self._all(f"SELECT {RECORD} FROM record WHERE id > ? ORDER BY id LIMIT ?", [after, PAGE])
        return [self._record_of(row) for row in rows]

    @property
    def newest(self) -> int:
        """int: Id of the record that was written last; 0 where there is none."""
        (row,) = self._all("SELECT max(id) FROM record", [])
        return row[0] or 0

    def is_about(self, record: Record, patterns: Iterable[str]) -> bool:
        """Whether a record is about a rig of one of these names or patterns; without any, always."""
        wanted = list(patterns)
        return not wanted or any(matches(rig, wanted) for rig in rigs_of(record))

    def reference_of(self, record: Record) -> str | None:
        """Return the reference of the session that a record belongs to; None where it belongs to none."""
        if record.session is None:
            return None
        if record.session not in self._references:
            rows = self._all("SELECT ref FROM session WHERE id = ?", [record.session])
            self._references[record.session] = rows[0][0] if rows else None
        return self._references[record.session]

    def last_of(self, session: Session) -> float | None:
        """Return when the run of a session has last written something, as Unix time in seconds; None if never."""
        (row,) = self._all("SELECT max(id) FROM record WHERE run = ?", [session.run])
        rows = self._all("SELECT time FROM record WHERE id = ?", [row[0]])
        return rows[0][0] if rows else None

    def frame(self, rows: Iterable[Session | Record] | None = None) -> Any:
        """Return sessions or records as a table of pandas, a `DataFrame`; times are UTC.

        Parameters
        ----------
        rows : iterable of Session or Record, optional
            What `sessions` or `events` has returned; without it all sessions.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            pandas: Any = import_module("pandas")
        except ImportError as error:
            raise ImportError("a frame needs pandas: pip install pandas") from error
        found = list(self.sessions() if rows is None else rows)
        columns = list((type(found[0]) if found else Session).__dataclass_fields__)
        table = pandas.DataFrame([[getattr(row, name) for name in columns] for row in found], columns=columns)
        for name in ("time", "began", "ended"):
            if name in table:
                table[name] = pandas.to_datetime(table[name].astype("float64"), unit="s", utc=True)
        return table

    def _parts(self, session: Session) -> list[Session]:
        """Return a session as all runs have seen it, that one first."""
        others = [other for other in self.sessions(session.ref, every=True) if other.id != session.id]
        if self.run(session.run).kind != "coordinator":
            return [session]
        return [session, *(other for other in others if self._is_the_same(session, other))]

    def _is_the_same(self, session: Session, other: Session) -> bool:
        """Whether a rig has noted the session of a coordinator."""
        run = self.run(other.run)
        if run.kind != "rig" or not any(is_called(rig, run.name) for rig in session.rigs or [run.name]):
            return False
        began, ended, margin = other.began, other.ended, MARGIN
        if run.collected is not None:
            stamps = self._stamps_of(other)
            line = self._timeline(run, None, session.began - AROUND, (session.ended or session.began) + AROUND)
            first, last = line.place(stamps[0]), line.place(stamps[1])
            if first is None or last is None:
                margin = UNKNOWN_CLOCK
            else:
                began, margin = first[0], margin + max(first[1], last[1])
                ended = None if ended is None else last[0]
        is_after = max(session.began, session.ended or session.began + LONGEST) + margin < began
        is_before = max(began, ended or began + LONGEST) < session.began - margin
        return not is_after and not is_before


def _seconds(moment: Moment | None) -> float | None:
    if isinstance(moment, datetime):
        return moment.timestamp()
    if isinstance(moment, str):  # SQLite takes any text for later than all numbers, so that nothing would be found
        raise TypeError(f"{moment!r} is text; give Unix time in seconds, or a datetime")
    return moment
