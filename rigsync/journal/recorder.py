"""Hands what a hub tells over to the journal's writer: the hub's own event loop gives it a moment, and no more."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rigsync.config.journal import JournalSettings
from rigsync.core.clock import StampClock
from rigsync.core.events import Event, MessageReceived, Notice
from rigsync.errors import NotRunning
from rigsync.journal.about import Repository, about_run, folder_of_task
from rigsync.journal.drafts import RunRow
from rigsync.journal.entries import LEFT_OUT
from rigsync.journal.scribe import Scribe
from rigsync.journal.sessions import CoordinatorSessions, RigSessions
from rigsync.journal.writer import LONGEST_WAIT, MANY, MOST_BYTES, MOST_WAITING, Writer, attached
from rigsync.runtime.conditions import Awaited
from rigsync.runtime.disk_writer import WaitingRoom
from rigsync.runtime.hub import Hub
from rigsync.runtime.program import this_program

logger = logging.getLogger("rigsync.journal")

COORDINATOR, RIG = "coordinator", "rig"
MOST_AGE = 1.0
"""Seconds that an event waits in its hub at most, as a rule. If it seems older, the system clock was set meanwhile."""
_SIZED = frozenset({MessageReceived, Notice})
"""Kinds that know how many bytes they took on the network."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Of whom a journal tells: a coordinator, or a rig."""

    kind: str
    """`COORDINATOR` or `RIG`."""
    name: str = ""
    """Name of the rig."""
    files: Iterable[str | os.PathLike[str]] = ()
    """Its configuration files."""
    clock: Callable[[], StampClock | None] = lambda: None
    """Returns the clock of its stamps; called on the writer's thread, as those below."""
    about: Callable[[], dict[str, Any]] = dict
    """Returns what else is known of it."""
    samples: Callable[[], Mapping[str, dict[str, Any]]] | None = None
    """Returns how the link to each rig is."""
    reference: Callable[[Iterable[str]], str | None] = lambda _: None
    """Returns which experiment goes on at some rigs, as they say."""


def _anchor(clock: StampClock | None) -> dict[str, float] | None:
    """Return a moment by the wall clock that stamps follow, and by the monotonic one; both in seconds."""
    now = time.monotonic()
    return None if clock is None else {"time": clock.stamp(now) / 1e9, "mono": now}


class _Opening:
    """One opening of a subject: what it tells waits in a room of its own."""

    def __init__(self, hub: Hub, subject: Subject):
        self._hub, self._subject = hub, subject
        self._opened, self._uuid = time.time(), str(uuid.uuid4())
        self.room: WaitingRoom[tuple[Event | Callable[[], object] | None, float]]
        self.room = WaitingRoom(MOST_WAITING, MOST_BYTES)
        self.writer: Writer
        self.written = Awaited()
        """There once all of it is in the file, or will not be any more."""

    def begin(self) -> Scribe:
        subject = self._subject
        files = [os.path.abspath(path) for path in subject.files]
        about = about_run(files, {"clock": _anchor(subject.clock()), **subject.about()})
        run = RunRow(self._uuid, subject.kind, subject.name, socket.gethostname(), this_program(), self._opened, about)
        is_rig = subject.kind == RIG
        sessions = RigSessions(run) if is_rig else CoordinatorSessions(run, subject.reference)
        folder = os.path.dirname(files[0]) if files else None
        where = (folder or folder_of_task()) if is_rig else (folder_of_task() or folder)
        return Scribe(run, sessions, subject.samples, Repository(where) if where else None, time.monotonic())

    def tell(self, event: Event) -> None:
        with contextlib.suppress(NotRunning):
            self._hub.ingest(event)

    def ended(self) -> None:
        self.written.bring(True)


class Recorder:
    """Records what a hub tells, from `begin` to `end`, as one run of the journal."""

    def __init__(self, hub: Hub, settings: JournalSettings, subject: Subject):
        self._hub, self._settings, self._subject = hub, settings, subject
        self._present: _Opening | None = None
        self._last: _Opening | None = None
        hub.rule(Event, self._note, last=True)

    @property
    def path(self) -> Path:
        """The file that is written, or will be."""
        opening = self._last
        return opening.writer.path if opening else self._settings.file

    @property
    def uuid(self) -> str | None:
        """The run that it records, or has recorded last; None before the first."""
        return self._last._uuid if self._last else None

    def begin(self) -> None:
        """Record from now on; on the hub's event loop."""
        if self._present is None:
            opening = _Opening(self._hub, self._subject)
            writer = attached(opening, self._settings)
            if writer is None:
                logger.error("nothing is recorded in the journal: the system gives no more threads")
                return
            opening.writer = writer
            self._present = self._last = opening

    def end(self) -> None:
        """Record no more; the writer goes on with what was told."""
        opening, self._present = self._present, None
        if opening:
            opening.room.put_anyway((None, time.monotonic()))
            opening.writer.thread.knock(urgent=True)

    def await_written(self, limit: float = LONGEST_WAIT) -> None:
        """Wait some seconds, after the end, until all that was told is in the file; not on the event loop."""
        opening = self._last
        if opening and not opening.writer.is_failed and opening.writer.thread.is_alive:
            opening.written.wait(limit)

    def when_safe(self, callback: Callable[[], object]) -> None:
        """Call a function once all that was told so far is safe; at once where nothing is written at present.

        It is called on the writer's thread, or on this one. A disk that hangs may let it wait without end.
        """
        opening = self._present
        if opening is None or opening.writer.is_failed or not opening.writer.thread.is_alive:
            callback()
            return
        opening.room.put_anyway((callback, time.monotonic()))
        opening.writer.thread.knock(urgent=True)

    def note_slow(self) -> None:
        """Tell that a record was not safe in time."""
        if opening := self._present:
            opening.writer.thread.tell_slow()

    def _note(self, event: Event) -> None:
        opening = self._present
        kind = event.__class__
        if opening is None or kind in LEFT_OUT:
            return
        # When it happened, not when this is told of it: by that a journal is merged with those of other computers.
        mono, age = time.monotonic(), time.time() - event._stamp[2]
        if 0 < age < MOST_AGE:
            mono -= age
        if not opening.room.put((event, mono), event.size if kind in _SIZED else 0):  # type: ignore[attr-defined]
            opening.writer.tell_full()
        thread = opening.writer.thread
        if not thread.is_knocked:
            thread.knock()
        elif len(opening.room) == MANY:
            thread.knock(urgent=True)
