"""The rows of a journal, as they are asked for."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

SESSION = "s.id, s.run, s.ref, s.subject, s.began, s.ended, s.outcome, s.rigs, s.files, s.bytes, s.failures, r.host"
RUN = "id, uuid, kind, name, host, program, opened, closed, about, collected"
RECORD = "id, run, session, time, mono, kind, rig, number, cause, failure, data"
COMPLETE, INCOMPLETE, INTERRUPTED, FAILED = "complete", "incomplete", "interrupted", "failed"
"""Outcomes: every rig has ended well; some have not; it was broken off; it has not begun on all rigs."""
OK = "ok"
"""What `Session.rigs` has of a rig that did well."""
SPOILT = (INCOMPLETE, INTERRUPTED, FAILED)
"""Outcomes of a session that did not go well."""


@dataclass(frozen=True, slots=True)
class Run:
    """One opening of a coordinator or a rig."""

    id: int
    """In this journal."""
    uuid: str
    """The same in every journal."""
    kind: str
    """``coordinator`` or ``rig``."""
    name: str
    """Of the rig; empty for a coordinator. Of a rig whose journal was fetched, what the coordinator calls it."""
    host: str
    """Name of the computer."""
    program: str
    """What ran."""
    opened: float
    """Unix time in seconds, by the clock of that computer."""
    closed: float | None
    """The same; None while it runs, and for good if it was killed."""
    about: dict[str, Any] = field(repr=False)
    """Versions, platform, configuration files as they were, git commit."""
    collected: dict[str, Any] | None
    """Where it was fetched from, by ``rigsync log --collect``; None for a program of this computer."""


@dataclass(frozen=True, slots=True)
class Session:
    """One experiment, as one run has seen it."""

    id: int
    """In this journal."""
    run: int
    """The run, by its id: `Journal.run` returns it."""
    ref: str
    """Its reference."""
    subject: str | None
    """Its subject."""
    began: float
    """Unix time in seconds."""
    ended: float | None
    """The same; None while it goes on, and for good if the program was killed."""
    outcome: str | None
    """``complete``, ``incomplete``, ``interrupted`` or ``failed``; None while it goes on."""
    rigs: dict[str, str]
    """By name of rig: ``ok``, or what failed."""
    files: int
    """How many files the rigs have recorded, as far as they told."""
    bytes: int
    """How large these are together."""
    failures: int
    """How many failures the journal has of it."""
    host: str
    """Name of the computer whose program has seen it; for a coordinator the task's."""

    @property
    def has_failed(self) -> bool:
        """Whether anything has gone wrong in it."""
        return bool(self.failures) or self.outcome in SPOILT


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened."""

    id: int
    """In this journal; a later one has been written later."""
    run: int
    """The run that has written it, by its id."""
    session: int | None
    """The session of that run, by its id."""
    time: float
    """Unix time in seconds, by the clock of the computer that has the journal; where `bound` is None by the rig's."""
    mono: float
    """Monotonic seconds of the computer where it happened."""
    kind: str
    """Name of the event's class in `rigsync.events`, or ``Sample``: how a link is."""
    rig: str | None
    """The rig that it is about; None where it is about several, or none."""
    number: int
    """Number of the event in its run; 0 for a Sample."""
    cause: int | None
    """Number of the event that led to it."""
    failure: bool
    """Whether something has gone wrong."""
    data: dict[str, Any] = field(repr=False)
    """The event's fields."""
    bound: float | None = 0.0
    """Seconds by which `time` may be wrong, of what a rig's own journal tells; None if nobody knows."""


def rigs_of(record: Record) -> Collection[str]:
    """Return the names of the rigs that a record is about."""
    if record.rig is not None:
        return (record.rig,)
    parts = (record.data.get(name) for name in ("rigs", "answers", "failures"))
    return dict.fromkeys(str(rig) for part in parts if isinstance(part, (dict, list)) for rig in part)


def matches(rig: str, patterns: Iterable[str]) -> bool:
    """Whether a rig has one of these names, or matches one of these patterns."""
    return any(rig == pattern or fnmatch.fnmatchcase(rig, pattern) for pattern in patterns)


def json_of(text: Any) -> dict[str, Any]:
    """Return a map that was written as JSON; what is none is shown as it is."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"unreadable": str(text)[:200]}


def session_of(row: tuple[Any, ...]) -> Session:
    """Return the session of a row of `SESSION`."""
    id, run, ref, subject, began, ended, outcome, rigs, files, size, failures, host = row
    return Session(id, run, ref, subject, began, ended, outcome, dict(_rigs_in(rigs)), files, size, failures, host)


@lru_cache(256)
def _rigs_in(text: str) -> dict[str, str]:
    """Return what became of each rig; the same rigs come again and again."""
    return {name: str(what) for name, what in json_of(text).items()}


def run_of(row: tuple[Any, ...]) -> Run:
    """Return the run of a row of `RUN`."""
    id, uuid, kind, name, host, program, opened, closed, about, collected = row
    origin = None if collected is None else json_of(collected)
    called = name if origin is None else str(origin.get("rig") or name)
    return Run(id, uuid, kind, called, host, program, opened, closed, json_of(about), origin)


def storable(text: str) -> str:
    """Return text that SQLite can take: lone surrogates are escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
