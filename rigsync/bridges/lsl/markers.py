"""Markers: which events of a coordinator become markers, when each happened, and the markers of other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rigsync.core.events import (
    Event,
    HandlerDue,
    LeaseExpired,
    LinkChanged,
    MessageHandled,
    Notice,
    PushBegun,
    PushCompleted,
    RestartSeen,
    RigSettled,
    StatusChanged,
)
from rigsync.core.notices import FAILURE
from rigsync.hub.documents import document_of, json_of, plain

MOST_TOLD = 16_384
"""Most characters of a marker. Beyond that, large fields are left out."""
_LARGE = 1024
"""A field with more characters of JSON is large."""


@dataclass(frozen=True, slots=True)
class LslMarker(Event):
    """A marker of another program has come by LSL."""

    stream: str
    """Name of its stream."""
    value: Any
    """Its text or number; a list where the stream has several channels."""
    time: float | None
    """When it happened: Unix time in seconds, by the coordinator's clock. None while LSL cannot compare the clocks."""
    lsl_time: float
    """Its stamp in seconds, as the other program gave it."""


class Marker(NamedTuple):
    """One marker of the bridge's own stream."""

    time: float
    """When it happened: Unix time in seconds."""
    is_start: bool
    """Whether `time` is by the coordinator's clock, as for the starts of rigs; otherwise it is by the computer's."""
    text: str


class Markers:
    """Makes markers of events: each push, answer, failure and start, and each change of a link.

    Parameters
    ----------
    tell_each : callable
        Asks for a `RigSettled` for each further outcome of a push; returns the outcomes so far, None after its end.
    """

    def __init__(self, tell_each: Callable[[float], Mapping[str, Any] | None]):
        self._tell_each = tell_each
        self._told: dict[float, set[str]] = {}
        """The rigs whose outcome was told, for each push under way."""

    def of(self, event: Event) -> Iterator[Marker]:
        """Yield the markers of an event that the hub has told."""
        if isinstance(event, (PushBegun, LinkChanged, RestartSeen)):
            yield _marker(event, event)
        if isinstance(event, PushBegun):
            if (outcomes := self._tell_each(event.request_time)) is not None:  # else over, or another lab's
                self._told[event.request_time] = set()
                yield from self._settled(event, outcomes)
        elif isinstance(event, RigSettled) and event.request_time in self._told:
            yield from self._settled(event, {event.rig: event.outcome})
        elif isinstance(event, PushCompleted):
            yield from self._settled(event, {**event.answers, **event.failures})
            self._told.pop(event.request_time, None)
            for rig, start in event.starts.items():
                fields = {"request_time": event.request_time, "event": plain(event.event)}
                fields.update(bound=start.bound, is_estimate=start.is_estimate)
                yield Marker(start.time, True, _text("RigStarted", rig, start.time, fields))

    def _settled(self, event: PushBegun | RigSettled | PushCompleted, outcomes: Mapping[str, Any]) -> Iterator[Marker]:
        told = self._told.get(event.request_time, set())
        for rig in outcomes.keys() - told:
            told.add(rig)
            yield _marker(RigSettled(rig, event.request_time, event.event, outcomes[rig]), event)


class RigMarkers:
    """Makes markers of what happens at one rig: each message, its outcome, each status, and what is wrong.

    Parameters
    ----------
    rig : str
        Its name.
    now : callable
        Returns monotonic seconds.
    """

    def __init__(self, rig: str, now: Callable[[], float]):
        self._rig, self._now = rig, now

    def of(self, event: Event) -> Iterator[Marker]:
        """Yield the marker of an event that the hub has told, if it is worth one."""
        is_wrong = isinstance(event, Notice) and event.topic == FAILURE
        if isinstance(event, HandlerDue):
            time = event.stamp.time if event.stamp else 0.0
            fields = document_of(event)["fields"]
            del fields["schedule"]  # by a clock of this process
            fields["at"] = time + event.schedule.instant - self._now() if event.schedule else None
            yield Marker(time, False, _text("HandlerDue", self._rig, time, fields))
        elif is_wrong or isinstance(event, (MessageHandled, StatusChanged, LeaseExpired)):
            yield _marker(event, event, self._rig)


def _marker(told: Event, event: Event, rig: str | None = None) -> Marker:
    """Return a marker with the content of `told`, and the time of `event`."""
    time = event.stamp.time if event.stamp else 0.0
    text = _text(type(told).__name__, getattr(told, "rig", rig), time, document_of(told)["fields"])
    return Marker(time, False, text)


def _text(kind: str, rig: str | None, time: float, fields: Mapping[str, Any]) -> str:
    document = {"type": kind, "rig": rig, "time": time, "fields": fields}
    text = json_of(document)
    if len(text) > MOST_TOLD:
        large = sorted(name for name, value in fields.items() if len(json_of(value)) > _LARGE)
        kept = {name: value for name, value in fields.items() if name not in large}
        text = json_of({**document, "fields": {**kept, "left_out": large}})
    return text
