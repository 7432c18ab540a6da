"""What a coordinator and a rig have both written, once: what the coordinator heard of a rig, and what the rig did.

A rig's record is left out only where a coordinator's says the same. What a rig alone has noted stays, and so does what
the two say differently: an order that was done and never answered, or a notice that was heard minutes later.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rigsync.core import health
from rigsync.core.board import MOST
from rigsync.core.clock import TOLERANCE
from rigsync.core.enums import ExpStatus
from rigsync.core.health import STATUS, age_in, problem_of
from rigsync.core.notices import FAILURE
from rigsync.journal.rows import Record, Run

CLOSE = 2.0
"""Seconds within which a notice that was told and one that was heard are the same."""
WINDOW = 120.0
"""Seconds for which a record waits for the other side's: as long as an order takes as a rule."""
LONGEST = 200
"""Characters of a failure that are compared: what a rig tells is cut on its way."""
STANDING = 4096
"""Failures of which it is remembered since when they have been standing."""
_STREAMS = ("StreamAdded", "StreamRemoved")


@dataclass(slots=True)
class _Told:
    """What a coordinator has written that a rig may have written too."""

    begun: float
    time: float
    what: tuple[Any, ...]
    is_used: bool = False


@dataclass(slots=True)
class _Recent:
    """The newest of what coordinators have written, by rig."""

    by_rig: dict[str, deque[_Told]] = field(default_factory=dict)

    def add(self, rig: str, told: _Told) -> None:
        self.by_rig.setdefault(rig, deque()).append(told)

    def forget(self, before: float) -> None:
        for told in self.by_rig.values():
            while told and told[0].time < before:
                told.popleft()

    def has(self, record: Record, what: tuple[Any, ...], once: bool = False) -> bool:
        """Whether a coordinator has written the same of that rig; each such record counts `once`, or as often."""
        near = CLOSE + (record.bound or 0.0)
        for told in self.by_rig.get(record.rig or "", ()):
            if told.what == what and told.begun - near <= record.time <= told.time + near and not told.is_used:
                told.is_used = once
                return True
        return False


class Doubles:
    """Finds what has been told already, and failures that are only told anew, in records as they come.

    Parameters
    ----------
    run_of : callable
        `Journal.run`.
    as_it_happens : bool
        Whether an answer stands for its push, which is completed only when all rigs have answered. Otherwise the push
        counts alone: it may never have been completed.
    """

    def __init__(self, run_of: Callable[[int], Run], as_it_happens: bool = False):
        self._run_of, self._as_it_happens = run_of, as_it_happens
        self._recent = _Recent()
        self._standing: OrderedDict[tuple[Any, ...], float] = OrderedDict()
        """Since when something is wrong, as Unix time in seconds."""
        self._streams: dict[str | None, dict[str, None]] = {}
        """The streams that each rig has, as far as was told."""

    def note(self, record: Record) -> None:
        """Take note of a record: `is_told` of one before it goes by that, too."""
        if self._run_of(record.run).kind != "rig" and (self._as_it_happens or record.kind != "MessageReceived"):
            _note(record, self._recent)

    def is_told(self, record: Record) -> bool:
        """Whether a record is told; asked once for each, in their order."""
        is_rigs = self._run_of(record.run).kind == "rig"
        is_double = _is_double(record, self._recent) if is_rigs else _is_in_an_answer(record, self._recent)
        return not is_double and self._is_news(record)

    def forget(self, before: float) -> None:
        """Forget what coordinators have told before a Unix time (s)."""
        self._recent.forget(before)

    def _is_news(self, record: Record) -> bool:
        """Whether a record tells more than what a rig tells each program that connects: failures, and its streams."""
        data, body = record.data, record.data.get("body")
        if record.kind in _STREAMS:
            streams = self._streams.setdefault(record.rig, {})
            stream, is_there = str(data.get("id"))[: health.LONGEST], record.kind == "StreamAdded"
            was_there = stream in streams
            streams.pop(stream, None)
            if is_there and len(streams) < MOST:
                streams[stream] = None
            return not (is_there and was_there)
        if record.kind == "RestartSeen":
            self._streams.pop(record.rig, None)
        if record.kind != "Notice" or data.get("topic") not in (FAILURE, STATUS) or not isinstance(body, dict):
            return True
        texts = str(data.get("key")), str(body.get("reason", problem_of(body)))
        what = record.rig, data["topic"], *(text[: health.LONGEST] for text in texts)
        age = age_in(body)
        since, near = record.time - age, CLOSE + (record.bound or 0.0) + TOLERANCE * age
        if age and since <= self._standing.get(what, -math.inf) + near:
            return False
        self._standing[what] = since
        self._standing.move_to_end(what)
        if len(self._standing) > STANDING:
            self._standing.popitem(last=False)
        return True


def without_doubles(records: Iterable[Record], run_of: Callable[[int], Run]) -> Iterator[Record]:
    """Yield records in order, without those of rigs that say what a coordinator's say, and without old failures.

    Parameters
    ----------
    records : iterable of Record
        In the order of time.
    run_of : callable
        `Journal.run`.
    """
    doubles, waiting = Doubles(run_of), deque[Record]()
    for record in records:
        doubles.note(record)
        waiting.append(record)
        while waiting[0].time < record.time - WINDOW:
            yield from filter(doubles.is_told, [waiting.popleft()])
            doubles.forget(waiting[0].time - WINDOW)
    yield from filter(doubles.is_told, waiting)


def _is_in_an_answer(record: Record, recent: _Recent) -> bool:
    """Whether a coordinator heard from a rig what the rig's answer says, too: that it has another status."""
    body = record.data.get("body")
    if record.kind != "Notice" or record.data.get("topic") != "status" or not isinstance(body, dict):
        return False
    return not body.get("reason") and recent.has(record, ("led to", body.get("status")))


def _is_double(record: Record, recent: _Recent) -> bool:
    data = record.data
    if record.kind == "MessageHandled":
        return recent.has(record, ("order", str(data.get("event", record.id)), _start_of(data.get("error"))))
    if record.kind == "StatusChanged":
        reason = data.get("reason")
        if reason:
            return recent.has(record, ("status", data.get("after"), reason))
        return recent.has(record, ("led to", data.get("after")))
    if record.kind == "Notice":
        body = data.get("body")
        if data.get("topic") == "status" and isinstance(body, dict) and not body.get("reason"):
            return True  # the rig's own StatusChanged says it
        return recent.has(record, _notice(data), once=True)
    return record.kind in _STREAMS and recent.has(record, _stream(record), once=True)


def _note(record: Record, recent: _Recent) -> None:
    data = record.data
    if record.kind == "Notice" and record.rig is not None:
        recent.add(record.rig, _Told(record.time, record.time, _notice(data)))
        body = data.get("body")
        if data.get("topic") == "status" and isinstance(body, dict):
            recent.add(record.rig, _Told(record.time, record.time, ("status", body.get("status"), body.get("reason"))))
    elif record.kind in _STREAMS and record.rig is not None:
        recent.add(record.rig, _Told(record.time, record.time, _stream(record)))
    elif record.kind == "MessageReceived" and record.rig is not None:  # before its push is completed
        begun = data.get("request_time")
        begun = begun if isinstance(begun, float) and begun < record.time else record.time
        recent.add(record.rig, _Told(begun, record.time, ("order", str(data.get("event")), None)))
    elif record.kind == "PushCompleted":
        event, request_time = str(data.get("event")), data.get("request_time")
        # Not the request time itself, if the clock was set since.
        begun = request_time if isinstance(request_time, float) and request_time < record.time else record.time
        for rig, answer in _items(data.get("answers")):
            recent.add(rig, _Told(begun, record.time, ("order", event, None)))
            if status := _status_in(answer):
                recent.add(rig, _Told(begun, record.time, ("led to", status)))
        for rig, failure in _items(data.get("failures")):
            problem = failure.get("problem") if isinstance(failure, dict) else failure
            recent.add(rig, _Told(begun, record.time, ("order", event, _start_of(problem))))


def _status_in(answer: Any) -> str | None:
    """Return the status that an answer tells, by its name."""
    information = answer[-1] if isinstance(answer, list) and answer else None
    status = information.get("status") if isinstance(information, dict) else information
    return ExpStatus(status).name if isinstance(status, int) and status in set(ExpStatus) else None


def _notice(data: dict[str, Any]) -> tuple[Any, ...]:
    return "notice", data.get("topic"), data.get("key"), json.dumps(data.get("body"), sort_keys=True)


def _stream(record: Record) -> tuple[Any, ...]:
    return record.kind, json.dumps(record.data, sort_keys=True)


def _items(found: Any) -> Iterable[tuple[str, Any]]:
    return found.items() if isinstance(found, dict) else ()


def _start_of(problem: Any) -> str | None:
    return None if problem is None else str(problem)[:LONGEST]
