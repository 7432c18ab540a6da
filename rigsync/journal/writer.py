"""The thread that writes a journal for all coordinators and rigs of this program (docs/decisions/0042)."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rigsync._text import one_line
from rigsync.config.journal import JournalSettings
from rigsync.core.backoff import Backoff
from rigsync.core.events import Event, JournalFailed, JournalRecovered
from rigsync.core.timing import Timing
from rigsync.errors import JournalError
from rigsync.runtime.callbacks import guarded, report
from rigsync.runtime.disk_writer import DiskWriter, WaitingRoom, at_ease
from rigsync.runtime.exits import JOURNALS, at_exit

if TYPE_CHECKING:
    from rigsync.journal.drafts import RecordRow, RunRow, SessionRow
    from rigsync.journal.file import JournalFile
    from rigsync.journal.scribe import Scribe

logger = logging.getLogger("rigsync.journal")

MOST_WAITING, MOST_BYTES = 100_000, 64 << 20
"""Events that wait for the disk, and bytes of those that came over the network. Later ones are lost, and counted."""
GATHER, MANY = 0.07, 500
"""Seconds for which events are gathered before they are written, and how many of one room end that. They are safe
0.2 s after they happened."""
BATCH = 2_000
"""Events that are written at once."""
LONGEST_WAIT = 1.0
"""Seconds that a push waits at most until its record is safe, and the end of a program for what was told."""
TRIM_FIRST, TRIM_AGAIN = 10.0, 3600.0
"""Seconds from the opening to the first look for what is too old, and between two of them."""
TRIM, TRIM_IDLE = 2.0, 0.1
"""Seconds between two deletions while an experiment goes on, and while none does."""
_RETRIES = Timing(resend_first=1.0, resend_max=60.0)
"""When a journal that could not be written is tried again: after some 1, 2, 4 seconds, up to a minute and a half."""


class Source(Protocol):
    """Whose events are written: a recorder."""

    room: WaitingRoom[tuple[Event | Callable[[], object] | None, float]]
    """Events with the monotonic time at which they were told; functions that are called when all before them is safe;
    and None at the end."""

    is_over: bool
    """Whether nothing comes any more, beyond what waits."""

    def begin(self) -> Scribe:
        """Return a scribe for it; on the writer's thread."""

    def tell(self, event: Event) -> None:
        """Tell an event of the journal itself; from any thread."""

    def ended(self) -> None:
        """Take note that all of it is in the file."""


class Writer:
    """Writes one file for this program. What it cannot write it keeps, up to a bound, and tries again."""

    def __init__(self, settings: JournalSettings, path: Path):
        self.path, self._settings = path, settings
        self.thread = DiskWriter("rigsync-journal", self._work, self._tell_slow, GATHER)
        self._sources: dict[Source, Scribe | None] = {}
        self._is_failed = False
        """Whether the last attempt has failed. Then nobody waits for it."""
        # For the thread alone:
        self._file: JournalFile | None = None
        self._backoff = Backoff(_RETRIES, random.Random())
        self._tries = 0
        self._again = 0.0
        self._trim_at = time.monotonic() + TRIM_FIRST
        self._is_told = False
        self._missing = 0
        self._known: dict[SessionRow, None] = {}
        """Sessions that go on, which a new file would need again."""
        self._runs: dict[RunRow, None] = {}
        self._records: list[RecordRow] = []
        self._sessions: dict[SessionRow, None] = {}
        self._callbacks: list[Callable[[], object]] = []
        """What has been taken out of the rooms, and is not safe yet."""
        self._ended: list[Source] = []

    # --------------------------------------------------------------------------------------------- any thread

    def attach(self, source: Source) -> None:
        """Write the events of a source from now on, until its end comes out of its room."""
        self._sources = {**self._sources, source: None}
        self.thread.knock()

    @property
    def is_needed(self) -> bool:
        """Whether there is anybody whose events it writes."""
        return bool(self._sources)

    @property
    def is_failed(self) -> bool:
        """Whether it cannot write at present."""
        return self._is_failed

    def tell_full(self) -> None:
        """Tell that something is lost, for which there was no room."""
        self._tell("more has been told than its drive takes; look at that drive, and what else writes to it")

    def _tell_slow(self) -> None:
        self._tell(f"its drive has not taken a record for {LONGEST_WAIT:g} s and more; look at that drive")

    def _tell(self, problem: str) -> None:
        """Tell that the journal cannot be written, once until it can be."""
        if self._is_told:
            return
        self._is_told = True
        text = "journal %s: %s. The experiment goes on; its records wait, %s events at most"
        logger.error(text, self.path, one_line(problem), f"{MOST_WAITING:,}")
        for source in self._sources:
            source.tell(JournalFailed(problem, str(self.path)))

    # ------------------------------------------------------------------------------------------ on its thread

    def _work(self, is_last: bool) -> float | None:
        is_end = all(source.is_over for source in self._sources)
        if time.monotonic() >= self._again or is_last or is_end:
            self._write_all()
        if self._is_failed and is_end:
            self._write_all()  # where the file was moved away, there may be a new one
        if self._is_failed and is_end:
            self._give_up()
        elif not (is_last or self._is_failed):
            self._trim()
        if is_last:
            for source, scribe in list(self._sources.items()):  # of a program that has not closed them
                if scribe:
                    self._end(source, scribe, time.monotonic())
            self._write_all()
            if self._file:
                self._file.close()
        return self._next(time.monotonic())

    def _write_all(self) -> None:
        # What comes meanwhile is gathered again: a commit for each event would take all the time that there is.
        goes_on = True
        while goes_on:
            goes_on = self._take(BATCH)
            if self._has_news():
                goes_on = goes_on or self._is_failed  # what waits beyond that comes next
                if not self._write():
                    return

    def _give_up(self) -> None:
        """Write no more: all that it wrote for has ended, and the last attempt has failed."""
        lost = len(self._records) + sum(len(source.room) for source in self._sources)
        if lost:
            logger.error("journal %s: some %s events are lost, since it could not be written", self.path, f"{lost:,}")
        self._records, self._sessions, self._known, self._ended = [], {}, {}, []
        for source, scribe in self._sources.items():
            if scribe:
                deque(scribe.release(), 0)
            source.ended()
        self._sources, self._runs = {}, {}
        _end_where_unneeded(self)

    def _next(self, mono: float) -> float | None:
        """Return the seconds until something is due."""
        due = min((scribe.next() for scribe in self._sources.values() if scribe), default=math.inf)
        due = self._again if self._is_failed else min(due, self._trim_at)
        return None if due == math.inf else max(0.0, due - mono)

    def _trim(self) -> None:
        """Delete a little of what is too old or too much, now and then."""
        mono = time.monotonic()
        if self._file and mono >= self._trim_at:
            try:
                has_more = self._file.trim(self._settings.keep, self._settings.max_size, time.time())
            except JournalError as error:
                self._fail(error.problem)
                return
            is_idle = not any(scribe.goes_on for scribe in self._sources.values() if scribe)
            self._trim_at = mono + (TRIM_AGAIN if not has_more else TRIM_IDLE if is_idle else TRIM)

    def _take(self, most: int) -> bool:
        """Take events out of the rooms; return whether there are more."""
        is_full = False
        if not (self._is_failed and self._has_news()):  # what is taken is kept until it is written
            for source, scribe in list(self._sources.items()):
                writing = scribe or self._begin(source)
                taken = source.room.take(most)
                is_full = is_full or len(taken) == most
                for told, mono in at_ease(taken):
                    if isinstance(told, Event):
                        self._add_event(writing, told, mono)
                    elif told is None:
                        self._end(source, writing, mono)
                    else:
                        self._callbacks.append(told)
                self._add(writing.due(time.monotonic(), time.time()))
                self._sessions.update(dict.fromkeys(writing.rows()))
        return is_full

    def _has_news(self) -> bool:
        """Whether there is anything to write, or to tell."""
        waiting = self._records or self._sessions or self._callbacks or self._ended
        return bool(waiting) or any(run.is_changed for run in self._runs)

    def _begin(self, source: Source) -> Scribe:
        scribe = source.begin()
        self._runs[scribe.run] = None
        self._sources = {**self._sources, source: scribe}
        return scribe

    def _end(self, source: Source, scribe: Scribe, mono: float) -> None:
        self._add(scribe.release())
        scribe.run.closed, scribe.run.is_changed = time.time() - time.monotonic() + mono, True
        self._ended.append(source)

    def _add_event(self, scribe: Scribe, event: Event, mono: float) -> None:
        try:
            self._add(scribe.take(event, mono))
        except Exception as error:  # a mistake of this program, or an event that no longer is what it was
            self._missing += 1
            report("journal's scribe at", type(event).__name__, error, then="the others are recorded")

    def _add(self, records: Iterator[RecordRow]) -> None:
        for record in records:
            self._records.append(record)
            if record.session and record.session.id is None:
                self._sessions[record.session] = None

    def _write(self) -> bool:
        """Write what was taken; return whether that is safe now."""
        try:
            if self._file is None:
                self._open()
            assert self._file  # noqa: S101 - for types
            self._file.write(list(self._runs), list(self._sessions), self._records)
        except JournalError as error:
            self._fail(error.problem)
            return False
        self._known.update(self._sessions)
        for row in [row for row in self._known if row.ended is not None]:
            del self._known[row]
        self._records, self._sessions = [], {}
        self._missing += sum(source.room.take_lost() for source in self._sources)
        if (self._is_told or self._missing) and not any(source.room.is_crowded for source in self._sources):
            self._recover()
        self._is_failed, self._tries, self._again = False, 0, 0.0
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            guarded("waiter for the journal", callback)
        if self._ended:
            for source in self._ended:
                scribe = self._sources[source]
                self._sources = {each: its for each, its in self._sources.items() if each is not source}
                if scribe:
                    self._runs.pop(scribe.run, None)
                source.ended()
            self._ended = []
            _end_where_unneeded(self)
        return True

    def _open(self) -> None:
        # SQLite is loaded here: a program that has no journal, and a terminal that shows help, do without.
        self._file = import_module("rigsync.journal.file").JournalFile(self.path)
        rows = {**self._known, **self._sessions}
        self._file.find(self._runs, rows)
        self._sessions = {row: None for row in rows if row.id is None or row in self._sessions}

    def _fail(self, problem: str) -> None:
        if self._file:
            self._file.close()
            self._file = None
        self._is_failed, self._tries = True, self._tries + 1
        self._again = time.monotonic() + self._backoff.wait(self._tries)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:  # nobody waits for what will take long
            guarded("waiter for the journal", callback)
        self._tell(problem)

    def _recover(self) -> None:
        self._is_told, missing, self._missing = False, self._missing, 0
        lost = f"{missing:,} events are missing in it" if missing else "nothing is missing in it"
        logger.warning("journal %s: it is written again, and %s", self.path, lost)
        for source in self._sources:
            source.tell(JournalRecovered(str(self.path), missing))


_writers: dict[Path, Writer] = {}
_making = threading.Lock()
"""Held by who attaches a source, or by a writer that ends: never by a subscriber, or while something is told."""


def attached(source: Source, settings: JournalSettings) -> Writer | None:
    """Have the writer of a journal write the events of a source; return it, None where there is no thread to be had."""
    path = settings.file
    with _making:
        writer = _writers.get(path)
        if writer is None or not writer.thread.is_alive:  # a fork has no thread
            writer = Writer(settings, path)
            if not writer.thread.start():
                return None
            _writers[path] = writer
        writer.attach(source)
        return writer


def _end_where_unneeded(writer: Writer) -> None:
    with _making:
        if not writer.is_needed:
            writer.thread.end()
            if _writers.get(writer.path) is writer:
                del _writers[writer.path]


@at_exit(JOURNALS)
def _write_the_rest() -> None:
    """Write what was told before the program ends, as far as the disk takes it in time."""
    end = time.monotonic() + LONGEST_WAIT
    writers = list(_writers.values())
    for writer in writers:
        writer.thread.end()
    for writer in writers:
        writer.thread.join(max(0.0, end - time.monotonic()))
