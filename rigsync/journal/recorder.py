"""Hands what a hub tells over to the journal's writer: the hub's own event loop gives it a moment, and no more."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rigsync.config.journal import JournalSettings
from rigsync.core.clock import StampClock
from rigsync.core.events import (
    Event,
    MessageReceived,
    Notice,
    ProbeAnswered,
    ProbeRefused,
    RequestReceived,
    RigSettled,
)
from rigsync.core.lifecycle import LIFECYCLE_MESSAGES
from rigsync.core.queries import JOURNAL
from rigsync.errors import NotRunning
from rigsync.hub.events import Tick
from rigsync.journal.writer import LONGEST_WAIT, MANY, MOST_BYTES, MOST_WAITING, Writer, attached
from rigsync.runtime.conditions import Awaited
from rigsync.runtime.disk_writer import WaitingRoom
from rigsync.runtime.hub import Hub

if TYPE_CHECKING:
    from rigsync.journal.scribe import Scribe

logger = logging.getLogger("rigsync.journal")

COORDINATOR, RIG = "coordinator", "rig"
MOST_AGE = 1.0
"""Seconds that an event waits in its hub at most, as a rule. If it seems older, the system clock was set meanwhile."""
_LEFT_OUT: frozenset[type[Event]] = frozenset({ProbeAnswered, ProbeRefused, RequestReceived, RigSettled, Tick})
"""Kinds that the journal does not keep: a `Sample` and the other kinds tell what came of them."""
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


class _Opening:
    """One opening of a subject: what it tells waits in a room of its own."""

    def __init__(self, hub: Hub, subject: Subject):
        self._hub, self._subject = hub, subject
        self._opened, self._uuid = time.time(), str(uuid.uuid4())
        self.room: WaitingRoom[tuple[Event | Callable[[], object] | None, float]]
        self.room = WaitingRoom(MOST_WAITING, MOST_BYTES)
        self.is_over = False
        self.writer: Writer
        self.written = Awaited()
        """There once all of it is in the file, or will not be any more."""

    def begin(self) -> Scribe:
        # Loaded on the writer's thread: a program that has no journal does without.
        scribe: Scribe = import_module("rigsync.journal.opening").scribe_of(self._subject, self._uuid, self._opened)
        return scribe

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
            opening.is_over = True
            opening.writer.thread.knock(urgent=True)

    def await_written(self, limit: float = LONGEST_WAIT) -> None:
        """Wait some seconds, after the end, until all that was told is in the file; not on the event loop.

        If it was the last that the file was open for, it is closed then, and may be moved on Windows too.
        """
        opening, end = self._last, time.monotonic() + limit
        if opening and opening.writer.thread.is_alive:
            opening.written.wait(limit)
            if not opening.writer.is_needed:
                opening.writer.thread.join(max(0.0, end - time.monotonic()))

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
        if opening is None or kind in _LEFT_OUT or not _is_kept(event):
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


def _is_kept(event: Event) -> bool:
    """Return whether the journal keeps this event, where it keeps its kind.

    Of answers it keeps when each has come in an experiment's life cycle; of others, the push tells all. Of what fetches
    a journal it keeps nothing.
    """
    message = getattr(event, "event", None)
    is_answer = event.__class__ is MessageReceived and event.request_time is not None
    return (not is_answer or message in LIFECYCLE_MESSAGES) and message != JOURNAL
