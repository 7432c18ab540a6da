"""Every event, public as `rigsync.events`: the kinds, how they are named and numbered, and how to make your own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rigsync._text import close_match
from rigsync.core.events import (
    CoordinatorClosed,
    CoordinatorEvent,
    CoordinatorOpened,
    DialectDetected,
    EchoMissing,
    Event,
    HandlerDue,
    HandlerOvertaken,
    JournalFailed,
    JournalRecovered,
    LeaseExpired,
    LinkAlive,
    LinkChanged,
    LinkLost,
    LinkState,
    LinkSuspect,
    MessageHandled,
    MessageReceived,
    Notice,
    NoticesDropped,
    ProbeAnswered,
    ProbeRefused,
    ProgressChanged,
    PushBegun,
    PushCompleted,
    PushDecided,
    RemoteComplaint,
    RequestReceived,
    RestartSeen,
    RigEvent,
    RigSettled,
    Stamp,
    Start,
    StatusChanged,
    StoodStill,
    StreamAdded,
    StreamEvent,
    StreamRemoved,
    StreamUpdated,
    ViolationSeen,
)
from rigsync.errors import UnknownEvent

__all__ = [
    "FIRST_OWN_NUMBER",
    "KINDS",
    "AlertEvent",
    "AlertFailed",
    "AlertSent",
    "CoordinatorClosed",
    "CoordinatorEvent",
    "CoordinatorOpened",
    "DialectDetected",
    "EchoMissing",
    "Event",
    "HandlerDue",
    "HandlerOvertaken",
    "JournalFailed",
    "JournalRecovered",
    "LeaseExpired",
    "LinkAlive",
    "LinkChanged",
    "LinkLost",
    "LinkState",
    "LinkSuspect",
    "MessageHandled",
    "MessageReceived",
    "Notice",
    "NoticesDropped",
    "ProbeAnswered",
    "ProbeRefused",
    "ProgressChanged",
    "PushBegun",
    "PushCompleted",
    "PushDecided",
    "RemoteComplaint",
    "RequestReceived",
    "RestartSeen",
    "RigEvent",
    "RigSettled",
    "Stamp",
    "Start",
    "StatusChanged",
    "StoodStill",
    "StreamAdded",
    "StreamEvent",
    "StreamRemoved",
    "StreamUpdated",
    "Tick",
    "ViolationSeen",
    "define",
    "kind_of",
    "kinds_below",
    "number_of",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Tick(Event):
    """A timer has fired."""

    timer: str
    """Name of the timer."""
    value: int
    """How often its interval has passed; of one that counts down, how often it still will."""
    missed: int
    """Ticks just before this one that were not told, because the event loop was late."""
    is_last: bool
    """Whether the timer is over."""


@dataclasses.dataclass(frozen=True, slots=True)
class AlertEvent(Event):
    """What has become of an alert (docs/alerts.md)."""

    alert: str
    """Where it stands in its file, and how it tells: ``alerts[0].webhook (webhook slack)``."""
    on: str
    """What it tells of: ``failure``, ``lost``, ``interrupted``, ``session end`` or ``disk low``."""
    rigs: list[str]
    """Names of the rigs that it is about."""
    exp_ref: str | None
    """Reference of the experiment."""
    what: str
    """What has happened, in one line."""
    held_back: int
    """How many more there were of these causes since the one before."""
    tries: int
    """How often it was tried."""


class AlertSent(AlertEvent):
    """Somebody was told."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True)
class AlertFailed(AlertEvent):
    """Nobody was told, and it was given up."""

    problem: str
    """Why, and what to do."""


KINDS: tuple[type[Event], ...] = (
    PushBegun,
    PushDecided,
    PushCompleted,
    RequestReceived,
    MessageReceived,
    RemoteComplaint,
    LinkAlive,
    LinkSuspect,
    LinkLost,
    StoodStill,
    Notice,
    ProgressChanged,
    StreamAdded,
    StreamUpdated,
    StreamRemoved,
    DialectDetected,
    RestartSeen,
    ProbeAnswered,
    ProbeRefused,
    ViolationSeen,
    HandlerDue,
    HandlerOvertaken,
    LeaseExpired,
    NoticesDropped,
    MessageHandled,
    StatusChanged,
    EchoMissing,
    Tick,
    CoordinatorOpened,
    CoordinatorClosed,
    RigSettled,
    JournalFailed,
    JournalRecovered,
    AlertSent,
    AlertFailed,
)
"""rigsync's own events. The number of each is its place here, from 1: new ones come at the end."""

FIRST_OWN_NUMBER = 1000
"""Numbers below are rigsync's."""

_defined: dict[str, type[Event]] = {}
_numbers: dict[int, type[Event]] = dict(enumerate(KINDS, 1))


def define(name: str, number: int | None = None) -> type[Any]:
    """Make a kind of event with two fields, ``payload`` and ``rig``; both are None unless given.

    Parameters
    ----------
    name : str
        Its name, a Python identifier. A name that was defined before, with the same number, gives the same class.
    number : int, optional
        A number by which it can be subscribed to, from 1000 on; a member of an `enum.IntEnum` is one.

    Returns
    -------
    type
        A frozen dataclass, derived from `Event`.

    Raises
    ------
    ValueError
        The name is no identifier, or is that of another event, or the number is.

    Examples
    --------
    >>> Shutter = define('Shutter', 1001)
    >>> Shutter({'open': True}, rig='cameras').payload
    {'open': True}
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"the name of an event is a Python identifier, not {name!r}")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < FIRST_OWN_NUMBER):
        raise ValueError(f"the number of an event of your own is a whole number from {FIRST_OWN_NUMBER} on: {number!r}")
    known = _defined.get(name)
    if known is not None and number_of(known) == number:
        return known
    if name.lower() in _by_name():
        raise ValueError(f"there is an event {name!r} already, with number {number_of(_by_name()[name.lower()])}")
    if number in _numbers:
        raise ValueError(f"the number {number} is that of {_numbers[number].__name__}")
    fields = [("payload", Any, dataclasses.field(default=None)), ("rig", Any, dataclasses.field(default=None))]
    made = dataclasses.make_dataclass(name, fields, bases=(Event,), frozen=True, slots=True)
    made.__doc__ = f"An event of this program's own, {name}."
    _defined[name] = made
    if number is not None:
        _numbers[int(number)] = made
    return made


def number_of(kind: type[Event]) -> int | None:
    """Return the number of a kind of event; None where it has none."""
    return next((number for number, other in _numbers.items() if other is kind), None)


def kind_of(kind: type[Event] | str | int) -> type[Event]:
    """Return the class of events that is meant by a class, a name in any case, or a number.

    Raises
    ------
    UnknownEvent
        There is none; the text names close matches.
    """
    if isinstance(kind, type):
        if issubclass(kind, Event):
            return kind
        raise UnknownEvent(f"{kind.__name__} is no event: those are derived from rigsync.events.Event")
    if isinstance(kind, int) and not isinstance(kind, bool):
        if found := _numbers.get(kind):
            return found
        raise UnknownEvent(f"no event has the number {int(kind)}; make one by rigsync.events.define(name, {int(kind)})")
    if not isinstance(kind, str):
        raise UnknownEvent(f"an event is named by its class, name or number, not by {kind!r}")
    kinds = _by_name()
    if kind.lower() not in kinds:
        close = close_match(kind, [known.__name__ for known in kinds.values()])
        raise UnknownEvent(f"no event {kind!r}{close or '; rigsync.events lists them'}")
    return kinds[kind.lower()]


def _by_name() -> dict[str, type[Event]]:
    kinds: list[type[Event]] = [Event, *kinds_below(Event)]
    return {kind.__name__.lower(): kind for kind in kinds}


def kinds_below(kind: type[Event]) -> Iterator[type[Event]]:
    """Yield the classes of events that are derived from one."""
    for below in kind.__subclasses__():
        yield below
        yield from kinds_below(below)
