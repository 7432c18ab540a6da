"""Writes the report of each session that a coordinator ends, on a thread of its own, after the session."""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rigsync._text import one_line
from rigsync.core.enums import ExpMessage
from rigsync.core.events import CoordinatorClosed, CoordinatorOpened, PushCompleted
from rigsync.core.session_paths import place
from rigsync.journal.metadata.writing import write
from rigsync.journal.query import Journal, Session
from rigsync.journal.recorder import Recorder
from rigsync.journal.report.writing import page, write_into
from rigsync.journal.rows import FAILED, Record
from rigsync.runtime.exits import REPORTS, at_exit
from rigsync.runtime.hub import Hub

logger = logging.getLogger("rigsync.report")

ENDS = (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT, ExpMessage.EXPCLEANUP)
"""Messages after which a session has ended, if it has not before, or has more to tell."""
DELAY = 1.0
"""Seconds after such a message: the next usually follows at once, and then both are in one report."""
LONGEST_WAIT = 5.0
"""Seconds for which a program that closes waits for a report."""
MOMENT, PAUSE = 0.0005, 0.001
"""Seconds for which the journal is read at a time, and between. Python would let it go on for 5 ms, and others wait."""
_MARGIN = 1.0
"""Seconds by which the wall clock may have been set back meanwhile."""
_MOST = 1000
"""Newest sessions among which those that have ended are found."""


class _Unhurried(Journal):
    """A journal that is read beside threads which have to be quick: no more than a moment at a time."""

    def events(self, *args: Any, **options: Any) -> Iterator[Record]:
        """Yield what happened, as `Journal.events` does."""
        rest = time.perf_counter() + MOMENT
        for record in super().events(*args, **options):
            yield record
            if time.perf_counter() >= rest:
                time.sleep(PAUSE)
                rest = time.perf_counter() + MOMENT


class SessionReports:
    """Writes the reports of a coordinator's sessions into a folder; what goes wrong is a line of the log.

    Parameters
    ----------
    hub : Hub
        The coordinator's.
    recorder : Recorder
        What writes the journal.
    folder : Path or None
        Where the reports go; None for no report.
    metadata : str, optional
        The folder of each session for its metadata, with variables as for `place`.
    """

    def __init__(self, hub: Hub, recorder: Recorder, folder: Path | None, metadata: str | None = None):
        self._recorder, self._folder, self._metadata = recorder, folder, metadata
        self._changed = threading.Condition()
        self._since = self._due = math.inf  # Unix time of the first end that is not told; when to tell, monotonic
        self._is_closed = False
        self._thread: threading.Thread | None = None
        hub.rule(CoordinatorOpened, self._open)
        hub.rule(PushCompleted, self._note, last=True)
        hub.rule(CoordinatorClosed, lambda _: self.close(), last=True)
        _all.add(self)

    def close(self) -> None:
        """Have what is to be written written now, and the thread end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def await_written(self, limit: float = LONGEST_WAIT) -> None:
        """Wait some seconds, once it is closed, for the last report; not on the coordinator's event loop."""
        if thread := self._thread:
            thread.join(limit)
            if thread.is_alive():
                logger.warning("the report takes long; the program goes on: rigsync report writes it later")

    def _open(self, _: CoordinatorOpened) -> None:
        with self._changed:
            self._is_closed = False
            self._begin()

    def _begin(self) -> None:
        """Have the thread run. It begins with the coordinator: a program that ends can begin none any more."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="rigsync report", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                text = "no report is written for now: %s; rigsync report writes it"
                logger.error(text, one_line(str(error)))  # noqa: TRY400 - the text says all
                return
            self._thread = thread

    def _note(self, event: PushCompleted) -> None:
        if event.event in ENDS and event.answers:
            with self._changed:
                self._since = min(self._since, time.time() - _MARGIN)
                self._due = time.monotonic() + DELAY
                self._begin()
                self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and (wait := self._wait()) != 0:
                    self._changed.wait(wait)
                since, self._since = self._since, math.inf
                if since == math.inf:  # it is closed, and all is told
                    self._thread = None
                    return
            try:
                self._tell(since)
            except Exception as error:
                logger.error("%s: no report is written: %s", self._folder, one_line(str(error)))  # noqa: TRY400

    def _wait(self) -> float | None:
        """Return the seconds until something is to be told; None while there is nothing."""
        return None if self._since == math.inf else max(0.0, self._due - time.monotonic())

    def _tell(self, since: float) -> None:
        if self._is_closed:
            self._recorder.await_written()
        with _Unhurried(self._recorder.path) as journal:
            for session in self._ended(journal, since):
                try:
                    self._write_metadata(journal, session)
                except Exception as error:
                    text = "%s: its metadata is not written: %s; rigsync metadata writes it later"
                    logger.error(text, one_line(session.ref), one_line(str(error)))  # noqa: TRY400
                if self._folder is not None:
                    text, mark = page(journal, session)
                    path = write_into(self._folder, session.ref, text, mark)
                    logger.info("the report of %s is %s", one_line(session.ref), path)

    def _write_metadata(self, journal: Journal, session: Session) -> None:
        if self._metadata is None or session.outcome == FAILED:  # whose folder may be that of one that has begun
            return
        folder = place(self._metadata, session.ref)
        written = write(journal, session, folder)
        logger.info("the metadata of %s is in %s", one_line(session.ref), one_line(folder))
        for problem in (*written.problems, *(f"the descriptions differ: {text}" for text in written.conflicts)):
            logger.warning("%s: %s", one_line(session.ref), one_line(problem))

    def _ended(self, journal: Journal, since: float) -> list[Session]:
        """Return the sessions to which messages of this coordinator have put an end since then."""
        names = {message.name for message in ENDS}
        told = {
            record.session
            for record in journal.events(since=since, kinds=PushCompleted.__name__)
            if record.data.get("event") in names and journal.run(record.run).uuid == self._recorder.uuid
        }
        found = journal.sessions(last=_MOST) if told - {None} else []
        return [session for session in found if session.id in told and session.ended is not None]


_all: weakref.WeakSet[SessionReports] = weakref.WeakSet()


@at_exit(REPORTS)
def _write_the_rest() -> None:
    """Write the reports of a program that ends without closing its coordinators."""
    for reports in list(_all):
        reports.close()
        reports.await_written()
