"""What becomes of a hub's events in the journal: records, thinned, each with its session. For the writer's thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rigsync.core.events import (
    CoordinatorClosed,
    Event,
    ProgressChanged,
    PushCompleted,
    StatusChanged,
    StreamUpdated,
)
from rigsync.core.lifecycle import LIFECYCLE_MESSAGES
from rigsync.journal.about import LOOK, Repository
from rigsync.journal.drafts import RecordRow, RunRow, SessionRow
from rigsync.journal.entries import THINNED, data_of, encoded, is_failure, spoils
from rigsync.journal.rows import storable
from rigsync.journal.sessions import CoordinatorSessions, RigSessions, named_by, was_before

THIN, THIN_LATER, THINNER = 5.0, 60.0, 0.1
"""Seconds between two records of the progress of one item: at first, and at most; between these, that share of the time
since its first. A year of sessions of an hour would fill gigabytes otherwise."""
SAMPLED, SAMPLED_IDLE = 30.0, 300.0
"""Seconds between two records of how each link is, while an experiment goes on and while none does."""
MOST_ITEMS = 10_000
"""Things whose progress is thinned at once."""
FIRST_SAMPLE = 2.0
"""Seconds from the opening, or a step of an experiment, to the next of them."""
SAMPLE = "Sample"
"""The kind of these records."""
_LARGEST_NUMBER = 2**63 - 1


class Scribe:
    """Turns events into rows of one run.

    Parameters
    ----------
    run : RunRow
        The run.
    sessions : CoordinatorSessions or RigSessions
        Finds the session of each event.
    samples : callable
        Returns how the link to each rig is, by its name; None at a rig.
    repository : Repository, optional
        Tells in which state the task's repository is, some time after it was asked.
    mono : float
        Monotonic seconds at which it begins.
    """

    def __init__(
        self,
        run: RunRow,
        sessions: CoordinatorSessions | RigSessions,
        samples: Callable[[], Mapping[str, dict[str, Any]]] | None,
        repository: Repository | None,
        mono: float,
    ):
        self.run, self._sessions, self._samples, self._repository = run, sessions, samples, repository
        self._look = mono + LOOK
        self._next_of: dict[tuple[Any, ...], tuple[float, float]] = {}
        """Of each thing whose progress is thinned: when it was written first, and when it may be again; monotonic."""
        self._held: dict[tuple[Any, ...], tuple[Event, float]] = {}
        self._sample_at = mono + FIRST_SAMPLE

    @property
    def goes_on(self) -> bool:
        """Whether an experiment goes on."""
        return self._sessions.goes_on

    def rows(self) -> Iterator[SessionRow]:
        """Yield the sessions that have changed since the last time."""
        changed, self._sessions.changed = self._sessions.changed, {}
        for row in changed:
            row.is_changed = True
            yield row

    def take(self, event: Event, mono: float) -> Iterator[RecordRow]:
        """Yield the records that follow from an event."""
        stamp = event._stamp
        if event.__class__ in THINNED:
            yield from self._thin(event, mono)
            return
        is_step = isinstance(event, PushCompleted) and event.event in LIFECYCLE_MESSAGES
        if self._held and (is_step or isinstance(event, (StatusChanged, CoordinatorClosed))):
            yield from self._release()
        reference = named_by(event)
        session = self._sessions.named(reference) if reference else self._sessions.take(event, stamp[2])
        has_failed = is_failure(event)
        if has_failed and spoils(event) and not was_before(event, session, stamp[2]):
            self._sessions.fail(session)
        yield self._record(event, mono, session, has_failed)
        if is_step:
            # After the next beat, by which the rigs tell how they are.
            self._sample_at = min(self._sample_at, mono + FIRST_SAMPLE)

    def due(self, mono: float, wall: float) -> Iterator[RecordRow]:
        """Yield the records that are due at a time: of links, and of progress that was held back."""
        if self._samples and mono >= self._sample_at:
            yield from self._sample(mono, wall)
        if self._repository and (found := self._repository.look()):
            self.run.about["repository"], self.run.is_changed = found, True
        self._look = mono + LOOK if self._repository and self._repository.is_asked else math.inf
        for key, (event, told) in list(self._held.items()):
            if mono >= self._next_of[key][1]:
                del self._held[key]
                self._note_written(key, mono)
                yield self._record(event, told, self._sessions.take(event, event._stamp[2]), False)

    def next(self) -> float:
        """Return the monotonic time in seconds at which something is due next."""
        held = min((self._next_of[key][1] for key in self._held), default=math.inf)
        return min(held, self._look, self._sample_at if self._samples else math.inf)

    def release(self) -> Iterator[RecordRow]:
        """Yield what was held back; the run ends."""
        if self._repository:
            self._repository.close()
        yield from self._release()

    def _thin(self, event: Event, mono: float) -> Iterator[RecordRow]:
        item = (
            event.item if isinstance(event, ProgressChanged) else event.id if isinstance(event, StreamUpdated) else ""
        )
        key = event.__class__, getattr(event, "rig", None), item
        if key in self._next_of and mono < self._next_of[key][1]:
            self._held[key] = event, mono
            return
        if len(self._next_of) > MOST_ITEMS:  # a rig may name things as it likes
            yield from self._release()
            self._next_of.clear()
        self._held.pop(key, None)
        self._note_written(key, mono)
        yield self._record(event, mono, self._sessions.take(event, event._stamp[2]), False)

    def _note_written(self, key: tuple[Any, ...], mono: float) -> None:
        first = self._next_of[key][0] if key in self._next_of else mono
        self._next_of[key] = first, mono + min(THIN_LATER, max(THIN, THINNER * (mono - first)))

    def _release(self) -> Iterator[RecordRow]:
        held, self._held = self._held, {}
        for event, mono in held.values():
            yield self._record(event, mono, self._sessions.take(event, event._stamp[2]), False)

    def _record(self, event: Event, mono: float, session: SessionRow | None, has_failed: bool) -> RecordRow:
        number, _, time, cause = event._stamp
        rig = getattr(event, "rig", None)
        return RecordRow(
            self.run,
            session,
            time,
            mono,
            type(event).__name__,
            storable(rig) if isinstance(rig, str) else None,
            _number(number),
            None if cause is None else _number(cause),
            has_failed,
            data_of(event),
        )

    def _sample(self, mono: float, wall: float) -> Iterator[RecordRow]:
        self._sample_at = mono + (SAMPLED if self._sessions.goes_on else SAMPLED_IDLE)
        for rig, told in (self._samples() if self._samples else {}).items():
            session = self._sessions.session_of(rig)
            yield RecordRow(self.run, session, wall, mono, SAMPLE, storable(rig), 0, None, False, encoded(told))


def _number(number: int) -> int:
    """Return the id of an event, 0 for one that was given with it and that no file takes."""
    return number if -_LARGEST_NUMBER <= number <= _LARGEST_NUMBER else 0
