"""A journal that is read: its rows, and one time for what several computers have written."""

from __future__ import annotations

import bisect
import contextlib
import heapq
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rigsync.config.journal import ENVIRONMENT, chosen_journal, user_journal_file
from rigsync.core.rigs import is_called
from rigsync.errors import JournalError
from rigsync.journal.clocks import Anchor, Estimate, Timeline, anchor_of
from rigsync.journal.rows import RECORD, RUN, Record, Run, Session, json_of, run_of
from rigsync.journal.store import open_to_read

AROUND = 120.0
"""Seconds before and after a session in which estimates of clocks count."""
LONGEST = 7 * 86_400.0
"""Seconds that a session lasts at most, of which nobody has seen the end."""
FIRST = 20
"""Records of a run by which its clock is anchored."""
PAGE = 2000
"""Rows that are read at once. A reader that takes long holds up nobody who tidies the file."""
DISORDER = 64
"""Records of one run among which one may be out of order."""
SEVERAL = frozenset({"PushBegun", "PushDecided", "PushCompleted", "CoordinatorOpened"})
"""Kinds about several rigs."""
HERE = "run NOT IN (SELECT id FROM run WHERE collected IS NOT NULL)"
"""What programs of this computer have written."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What records are asked for."""

    where: str
    values: list[Any]
    since: float | None
    until: float | None


class Reader:
    """A journal that is open, to be read by one thread."""

    def __init__(self, path: Path):
        self.path = path
        self._connection = open_to_read(path)
        self._identity = _identity_of(path)
        self._runs: dict[int, Run] = {}
        self._anchors: dict[int, Anchor | None] = {}

    def close(self) -> None:
        """Let go of the file. May be called repeatedly."""
        self._connection.close()

    def run(self, id: int) -> Run:
        """Return a run; LookupError where there is none of that id."""
        if id not in self._runs:
            rows = self._all(f"SELECT {RUN} FROM run WHERE id = ?", [id])
            if not rows:
                raise LookupError(f"there is no run {id} in the journal {self.path}")
            self._runs[id] = run_of(rows[0])
        return self._runs[id]

    def check(self) -> None:
        """Raise a JournalError if the file has gone since it was opened."""
        if _identity_of(self.path) != self._identity:
            raise JournalError(self.path, "it has gone: somebody has moved, removed or replaced it")

    # ---------------------------------------------------------------------------------------- one time for all

    def _of_all(self, asked: Asked) -> Iterator[Record]:
        """Yield the records of all sessions and of none."""
        collected = [run_of(row) for row in self._all(f"SELECT {RUN} FROM run WHERE collected IS NOT NULL", [])]
        streams = [self._by_time(asked)]
        for run in collected:
            line = self._timeline(run, None, asked.since, asked.until)
            streams.append(self._placed(self._by_id("run", run.id, asked), run, line))
        ordered = [_in_order((record.time, record) for record in stream) for stream in streams]
        return (record for _, _, record in heapq.merge(*ordered))

    def _placed(self, records: Iterable[Record], run: Run, line: Timeline) -> Iterator[Record]:
        for record in records:
            placed = self._place(record, run, line)
            yield record if placed is None else replace(record, time=placed[0], bound=placed[1])

    def _place(self, record: Record, run: Run, line: Timeline) -> tuple[float, float] | None:
        anchor = self._anchor(run.id)
        return None if anchor is None else line.place(anchor.stamp(record.mono))

    def _of_session(self, parts: Sequence[Session], asked: Asked) -> Iterator[Record]:
        """Yield the records of a session, of all runs that have seen it.

        They are in the order of the monotonic clock of its own run. So nothing changes places if the clock of this
        computer is set in the middle.
        """
        own, *others = parts
        if (run := self.run(own.run)).collected is not None:  # no coordinator of this computer has seen it
            line = self._timeline(run, None, None, None)
            placed = self._placed(self._by_id("session", own.id, asked), run, line)
            return (record for _, _, record in _in_order((record.time, record) for record in placed))
        streams: list[Iterator[tuple[float, Record]]] = [_by_one_clock(self._by_id("session", own.id, asked))]
        walls: list[tuple[float, float]] | None = None
        for part in others:
            run = self.run(part.run)
            records = self._as_called(self._by_id("session", part.id, asked), run, own)
            if run.collected is None:
                streams.append((record.mono, record) for record in records)
                continue
            if walls is None:
                rows = self._all("SELECT mono, time FROM record WHERE session = ? ORDER BY mono", [own.id])
                walls = [(mono, time) for mono, time in rows]
            line = self._timeline(run, own, own.began - AROUND, (own.ended or own.began + LONGEST) + AROUND)
            streams.append(self._in_its_time(records, run, line, walls))
        return (record for _, _, record in heapq.merge(*map(_in_order, streams)))

    def _as_called(self, records: Iterable[Record], run: Run, session: Session) -> Iterator[Record]:
        """Yield a rig's records with the name that the session's coordinator has for it."""
        called = next((rig for rig in session.rigs if is_called(rig, run.name)), run.name)
        return (replace(record, rig=called) if record.rig == run.name else record for record in records)

    def _in_its_time(
        self, records: Iterable[Record], run: Run, line: Timeline, walls: Sequence[tuple[float, float]]
    ) -> Iterator[tuple[float, Record]]:
        """Yield records of a collected run, with their monotonic time by the clock of another run."""
        for record in records:
            placed = self._place(record, run, line)
            if placed is None:
                yield record.time - walls[0][1] + walls[0][0] if walls else 0.0, record
            else:
                mono, bound = placed
                yield mono, replace(record, time=_wall_of(mono, walls), bound=bound)

    def _anchor(self, run: int) -> Anchor | None:
        """Return how a run's stamps follow its monotonic clock; None where nobody knows.

        They have done so since it was opened. What is first in the journal may be much later, and the system clock have
        been set meanwhile.
        """
        if run not in self._anchors:
            told: Any = self.run(run).about.get("clock")
            try:
                self._anchors[run] = Anchor(float(told["time"]), float(told["mono"]))
            except (TypeError, KeyError, ValueError):
                rows = self._all("SELECT time, mono FROM record WHERE run = ? ORDER BY id LIMIT ?", [run, FIRST])
                self._anchors[run] = anchor_of(rows, self.run(run).opened)
        return self._anchors[run]

    def _stamps_of(self, session: Session) -> tuple[float, float]:
        """Return the stamps of the first and the last record of a run's session; whoever set its clock meanwhile."""
        anchor = self._anchor(session.run)
        ((first, last),) = self._all("SELECT min(mono), max(mono) FROM record WHERE session = ?", [session.id])
        if anchor is None or first is None:
            return session.began, session.ended or session.began
        return anchor.stamp(first), anchor.stamp(last)

    def _share_a_clock(self, one: int, other: int) -> bool:
        """Whether two runs of this computer have one monotonic clock: it was not started anew between them."""
        first, second = self._anchor(one), self._anchor(other)
        if first is None or second is None:
            return one == other
        return abs(first.time - first.mono - (second.time - second.mono)) < 1

    def _timeline(self, run: Run, own: Session | None, since: float | None, until: float | None) -> Timeline:
        """Return what turns the stamps of a collected run into Unix time here.

        With a session of this computer it is the monotonic time of that session's run.
        """
        wheres: list[str] = ["kind = 'Sample'", HERE]
        values: list[Any] = []
        for where, value in (
            ("rig = ?", run.name),
            ("run IN (SELECT run FROM record WHERE session = ?)", None if own is None else own.id),
            ("time >= ?", None if since is None else since - AROUND),
            ("time <= ?", None if until is None else until + AROUND),
        ):
            if value is not None:
                wheres.append(where)
                values.append(value)
        sql = f"SELECT run, time, mono, data FROM record WHERE {' AND '.join(wheres)}"
        estimates: list[Estimate] = []
        for coordinator, time, mono, data in self._all(sql, values):
            clock: Any = json_of(data).get("clock")
            anchor = self._anchor(coordinator)
            if own is not None and not self._share_a_clock(own.run, coordinator):
                continue
            with contextlib.suppress(TypeError, KeyError, ValueError):
                offset, bound, drift = (float(clock[name]) for name in ("offset", "bound", "drift"))
                stamp = (anchor.stamp(mono) if anchor else time) + offset
                if run.opened - AROUND <= stamp <= (run.closed or math.inf) + AROUND:  # else of an earlier program
                    estimates.append(Estimate(stamp, (time if own is None else mono) - stamp, bound, drift))
        return Timeline(estimates)

    # ---------------------------------------------------------------------------------------------------- rows

    def _by_time(self, asked: Asked) -> Iterator[Record]:
        """Yield what programs of this computer have written, by its time, some thousands at once."""
        time, last = -1e30 if asked.since is None else asked.since, -1
        until = 1e30 if asked.until is None else asked.until
        sql = (
            f"SELECT {RECORD} FROM record WHERE (time, id) > (?, ?) AND time <= ? AND {HERE} AND {asked.where} "
            "ORDER BY time, id LIMIT ?"
        )
        while rows := self._all(sql, [time, last, until, *asked.values, PAGE]):
            records = [self._record_of(row) for row in rows]
            time, last = records[-1].time, records[-1].id
            yield from records
            if len(records) < PAGE:
                return

    def _by_id(self, column: str, of: int, asked: Asked) -> Iterator[Record]:
        """Yield the records of one run, or of its session, as they were written."""
        last = 0
        sql = f"SELECT {RECORD} FROM record WHERE {column} = ? AND id > ? AND {asked.where} ORDER BY id LIMIT ?"
        while rows := self._all(sql, [of, last, *asked.values, PAGE]):
            last = rows[-1][0]
            yield from map(self._record_of, rows)
            if len(rows) < PAGE:
                return

    def _record_of(self, row: tuple[Any, ...]) -> Record:
        id, run, session, time, mono, kind, rig, number, cause, failure, data = row
        own = self.run(run)
        if rig is None and kind not in SEVERAL and own.kind == "rig":
            rig = own.name
        bound = None if own.collected else 0.0
        return Record(id, run, session, time, mono, kind, rig, number, cause, bool(failure), json_of(data), bound)

    def _all(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.ProgrammingError as error:  # closed, or asked from another thread
            raise JournalError(self.path, f"it cannot be asked: {error}") from error
        except sqlite3.Error as error:
            problem = f"it cannot be read: {error}; look at the disk, or ask a copy of the file"
            raise JournalError(self.path, problem) from error


def _identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of the same name; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def usual_journal_file() -> Path:
    """Return the journal that is asked where none is named.

    Raises
    ------
    JournalError
        ``RIGSYNC_JOURNAL`` says that there is none.
    """
    settings = chosen_journal(True, None)
    if settings is None:
        raise JournalError(user_journal_file(), f"{ENVIRONMENT} is off, so that there is none; name a file")
    return settings.file


def _by_one_clock(records: Iterable[Record]) -> Iterator[tuple[float, Record]]:
    """Yield the records of a coordinator's session with their monotonic times.

    Another program may have gone on with the session after the computer was started anew, which starts that clock anew.
    """
    shift, before = 0.0, None
    for record in records:
        if before is not None and record.mono < before.mono - 1:
            shift += before.mono - record.mono + max(0.0, record.time - before.time)
        before = record
        yield record.mono + shift, record


def _in_order(placed: Iterable[tuple[float, Record]]) -> Iterator[tuple[float, int, Record]]:
    """Yield records by their time, then by their id. What waits in a hub may be written a little out of order."""
    waiting: list[tuple[float, int, Record]] = []
    for time, record in placed:
        heapq.heappush(waiting, (time, record.id, record))
        if len(waiting) > DISORDER:
            yield heapq.heappop(waiting)
    while waiting:
        yield heapq.heappop(waiting)


def _wall_of(mono: float, walls: Sequence[tuple[float, float]]) -> float:
    """Return the Unix time of a monotonic instant, by pairs of both."""
    if not walls:
        return mono
    at, time = walls[max(0, bisect.bisect(walls, (mono, math.inf)) - 1)]
    return time + (mono - at)
