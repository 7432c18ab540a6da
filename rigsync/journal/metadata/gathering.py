"""What the journal has of a session for its folder: descriptions, files and events."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rigsync.core.events import (
    LinkAlive,
    LinkLost,
    MessageReceived,
    Notice,
    PushBegun,
    PushCompleted,
    RestartSeen,
)
from rigsync.core.notices import FAILURE, RECOVERED
from rigsync.hub.events import KINDS
from rigsync.journal.doubles import without_doubles
from rigsync.journal.query import Journal, Record, Session

TASK = "the task"
"""Who has sent a description that is no rig's."""
BEFORE = 600.0
"""Seconds before a session in which its EXPINFO is looked for: it belongs to none yet."""
LONGEST = 500
"""Characters of the annotation of an event."""
_SAMPLE = "Sample"
_BEGINNINGS = ("EXPINFO", "EXPINIT", "EXPSTART")
_ENDS = ("EXPEND", "EXPINTERRUPT")
_LINKS = {LinkLost.__name__: "link lost", LinkAlive.__name__: "link alive", RestartSeen.__name__: "rig restarted"}
_OWN = frozenset({_SAMPLE, *(kind.__name__ for kind in KINDS if kind.__module__.startswith("rigsync."))})
"""Kinds of rigsync itself. All others are events of the lab, and are in the table of events."""
_OF_THE_LAB = frozenset({"LslMarker"})
_NOT_NOTICES = frozenset({"log", "status", "progress", "stream"})


@dataclass(frozen=True, slots=True)
class File:
    """A file that a rig has told of; or, without a path, all that it has not named."""

    rig: str
    path: str
    bytes: int | None
    frames: int | None = None
    seconds: float | None = None
    verified: str | None = None
    files: int = 1


@dataclass(frozen=True, slots=True)
class Happened:
    """One row of the table of events."""

    timestamp: float
    """Seconds from the session's start."""
    event_type: str
    rig: str = ""
    duration: float | None = None
    outcome: str = ""
    annotation: str = ""
    bound: float | None = None
    """Seconds by which the timestamp may be wrong, as far as that is known."""


@dataclass(slots=True)
class Gathered:
    """All of it."""

    stubs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By rig, its description; that of the task first."""
    unfit: list[str] = field(default_factory=list)
    """Rigs whose description is none."""
    files: list[File] = field(default_factory=list)
    events: list[Happened] = field(default_factory=list)
    start: float = 0.0
    """Unix time in seconds from which the events count: the session's, or what was a little before it."""
    left_out: int = 0
    """Records of rigs whose clock nobody knows: when they happened is not known either."""


def gather(journal: Journal, session: Session) -> Gathered:
    """Return what the journal has of a session.

    Raises
    ------
    JournalError
        The journal cannot be read.
    """
    found = Gathered()
    records = [r for r in without_doubles(journal.events(session), journal.run) if r.kind != _SAMPLE]
    before = _last_info(journal, session)
    _find_stubs(found, [*before, *(record for record in records if record.run == session.run)], list(session.rigs))
    found.files = list(_files(records))
    placed = [record for record in records if record.bound is not None]
    found.left_out = len(records) - len(placed)
    happened = list(_events(placed, session.began))
    first = min([0.0, *(row.timestamp for row in happened)])  # a rig's start is known to some milliseconds only
    found.start = session.began + first
    counted = [replace(row, timestamp=row.timestamp - first) for row in happened]
    found.events = sorted(counted, key=lambda row: (row.timestamp, row.event_type, row.rig))
    return found


def _last_info(journal: Journal, session: Session) -> list[Record]:
    """Return the last EXPINFO before a session, its push and its answers."""
    kinds = (PushBegun.__name__, PushCompleted.__name__)
    near = journal.events(since=session.began - BEFORE, until=session.began, kinds=kinds)
    told = {r.kind: r for r in near if r.run == session.run and r.data.get("event") == "EXPINFO"}
    return [told[kind] for kind in kinds if kind in told]


def _find_stubs(found: Gathered, records: Iterable[Record], order: list[str]) -> None:
    stubs: dict[str, Any] = {}
    for record in records:
        if record.data.get("event") not in _BEGINNINGS:
            continue
        args = record.data.get("args")
        told = {TASK: args} if record.kind == PushBegun.__name__ else record.data.get("answers")
        for rig, answer in told.items() if isinstance(told, dict) else ():
            if (stub := _information(answer).get("experiment_description")) not in (None, {}):
                stubs[rig] = stub
    places = {rig: place for place, rig in enumerate([TASK, *order])}
    for rig in sorted(stubs, key=lambda rig: places.get(rig, len(places))):
        if isinstance(stubs[rig], dict):
            found.stubs[rig] = stubs[rig]
        else:
            found.unfit.append(rig)


def _information(answer: object) -> Mapping[str, Any]:
    """Return the information of an answer, its last item; anything may be in its place."""
    last = answer[-1] if isinstance(answer, list) and answer else None
    return last if isinstance(last, dict) else {}


def _files(records: Iterable[Record]) -> Iterator[File]:
    told: dict[str, Mapping[str, Any]] = {}
    for record in records:
        answers = record.data.get("answers") if record.kind == PushCompleted.__name__ else None
        if record.data.get("event") in _ENDS and isinstance(answers, dict):
            for rig, answer in answers.items():
                if isinstance(recorded := _information(answer).get("recorded"), dict):
                    told[rig] = recorded
    for rig, recorded in told.items():
        seconds = _number(recorded.get("seconds"))
        files = recorded.get("files")
        for file in files if isinstance(files, list) else ():
            if isinstance(file, dict) and isinstance(path := file.get("path"), str):
                verified = file.get("verified")
                size, frames = _count(file.get("bytes")), _count(file.get("frames"))
                yield File(rig, path, size, frames, seconds, verified if isinstance(verified, str) else None)
        if more := _count(recorded.get("more")):
            yield File(rig, "", _count(recorded.get("more_bytes")), seconds=seconds, files=more)


def _events(records: list[Record], zero: float) -> Iterator[Happened]:
    answered = {
        (record.data.get("request_time"), record.rig): record.time
        for record in records
        if record.kind == MessageReceived.__name__
    }
    for record in records:
        at = record.time - zero
        if record.kind == PushCompleted.__name__:
            yield from _of_push(record, zero, answered)
        elif record.kind == Notice.__name__:
            topic, body = record.data.get("topic"), record.data.get("body")
            if topic in (FAILURE, RECOVERED):
                problem = body.get("problem") if isinstance(body, dict) else None
                text = problem if isinstance(problem, str) else _text(body)
                yield Happened(at, str(topic), record.rig or "", annotation=text[:LONGEST], bound=record.bound)
            elif isinstance(topic, str) and topic not in _NOT_NOTICES:
                yield Happened(at, topic, record.rig or "", annotation=_text(body), bound=record.bound)
        elif record.kind in _LINKS:
            reason = str(record.data.get("reason") or "")[:LONGEST]
            yield Happened(at, _LINKS[record.kind], record.rig or "", annotation=reason, bound=record.bound)
        elif record.kind not in _OWN or record.kind in _OF_THE_LAB:
            yield _of_the_lab(record, zero)


def _of_push(record: Record, zero: float, answered: Mapping[tuple[Any, str | None], float]) -> Iterator[Happened]:
    """Yield what each rig did at a message: from when it began to act, as far as that is known."""
    data = record.data
    event, request_time = data.get("event"), _number(data.get("request_time")) or record.time
    answers, failures, starts = ({} if not isinstance(part := data.get(name), dict) else part for name in _PARTS)
    if not isinstance(event, str) or "." in event:  # rigsync's own questions
        return
    for rig in answers:
        start = starts.get(rig)
        began = _number(start.get("time")) if isinstance(start, dict) else None
        bound = _number(start.get("bound")) if isinstance(start, dict) else None
        time = request_time if began is None else began
        done = answered.get((data.get("request_time"), rig))
        duration = None if done is None or done < time else done - time
        yield Happened(time - zero, event, rig, duration, "ok", bound=bound)
    for rig, failure in failures.items():
        problem = failure.get("problem") if isinstance(failure, dict) else failure
        yield Happened(record.time - zero, event, rig, None, "failed", str(problem)[:LONGEST])


_PARTS = ("answers", "failures", "starts")


def _of_the_lab(record: Record, zero: float) -> Happened:
    data = record.data
    time = _number(data.get("time")) if record.kind in _OF_THE_LAB else None
    text = _text(data.get("value", data))
    return Happened((record.time if time is None else time) - zero, record.kind, record.rig or "", annotation=text)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e15 and math.isfinite(value) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None
