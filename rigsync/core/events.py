"""What the core tells the outside: frozen dataclasses, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.messages import Verb
from rigsync.core.schedule import Schedule
from rigsync.errors import RigError


class LinkState(str, Enum):
    """State of the link to one rig (docs/protocol.md section 3)."""

    UNKNOWN = "unknown"
    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"


class Dialect(str, Enum):
    """What a rig speaks; UNKNOWN until its first sign of life."""

    UNKNOWN = "unknown"
    IBLUTIL = "iblutil"
    RIGSYNC = "rigsync"


class Stamp(NamedTuple):
    """What a hub notes of an event when it first hears of it."""

    id: int
    """Counts the events of that hub, from 1; or as whoever told the event gave it."""
    type: str
    """Name of the event's class."""
    priority: int
    """The lower, the sooner it is told where several wait."""
    time: float
    """Unix time in seconds, by the wall clock of this computer."""
    rig: str | None
    """The rig that it is about; None where it is about several, or none."""
    cause: int | None
    """The id of the event whose subscriber told this one; None where no event led to it."""


class _Stamped:
    """Has room for a stamp: frozen dataclasses are told without being copied."""

    __slots__ = ("_stamp",)
    _stamp: tuple[int, int, float, int | None]


put_stamp = vars(_Stamped)["_stamp"].__set__
"""Write the stamp of an event, of which nothing else can be changed: id, priority, time, cause. For hubs alone."""


@dataclass(frozen=True, slots=True)
class Event(_Stamped):
    """Base of all events. Derive your own from it, as frozen dataclasses with slots."""

    PRIORITY: ClassVar[int] = 0
    """How soon a hub tells it where several wait: the lower, the sooner."""
    SUPERSEDED_BY: ClassVar[tuple[str, ...]] = ()
    """Where a newer one may take the place of one that waits: the fields that have to be equal for that."""

    @property
    def stamp(self) -> Stamp | None:
        """Id, type, priority, time, rig and cause; None before a hub has heard of the event."""
        if not hasattr(self, "_stamp"):
            return None
        number, priority, time, cause = self._stamp
        return Stamp(number, type(self).__name__, priority, time, getattr(self, "rig", None), cause)


class CoordinatorEvent(Event):
    """What a coordinator tells; `Auxiliaries.on` subscribes to these."""

    __slots__ = ()


class RigEvent(Event):
    """What a rig tells."""

    __slots__ = ()


# ----------------------------------------------------------------------------------------- from a coordinator


@dataclass(frozen=True, slots=True)
class CoordinatorOpened(CoordinatorEvent):
    """A coordinator has its sockets, and begins to look for its rigs."""

    rigs: list[str]
    """Their names."""


class CoordinatorClosed(CoordinatorEvent):
    """A coordinator has said goodbye to its rigs and closed its sockets: the last that it tells."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RequestReceived(CoordinatorEvent):
    """A rig has confirmed that it has a message, whose sender asked to be told."""

    rig: str
    """Name of the rig."""
    request_time: float
    """The push that it belongs to."""


@dataclass(frozen=True, slots=True)
class MessageReceived(CoordinatorEvent):
    """A rig sent a message: the answer to a request, or one of its own accord."""

    rig: str
    """Name of the rig."""
    event: Verb
    """The message, or the command that was answered."""
    args: list[Any] = field(repr=False)
    """What follows the event in the message; the one value of a command."""
    request_time: float | None
    """The push that it answers, None for a message of the rig's own accord."""
    size: int = field(default=0, repr=False, compare=False)
    """Bytes that it took on the network."""


@dataclass(frozen=True, slots=True)
class RemoteComplaint(CoordinatorEvent):
    """An iblutil rig says that its callback failed for a message that is not outstanding."""

    rig: str
    """Name of the rig."""
    event: ExpMessage
    """The message whose callback failed."""
    text: str
    """Type and text of the remote exception."""


@dataclass(frozen=True, slots=True)
class Start:
    """When a rig began to act on a push."""

    time: float
    """Unix time in seconds, by the coordinator's clock."""
    bound: float
    """Seconds; the error of `time` is not larger."""
    is_estimate: bool = False
    """Whether it is only the time when the message reached the rig. Rigs of the iblutil dialect do not say when they
    began."""


@dataclass(frozen=True, slots=True)
class PushBegun(CoordinatorEvent):
    """A message is on its way to rigs, or waits for its turn there."""

    request_time: float
    """The push, by its unique Unix time in seconds."""
    event: Verb
    """What is pushed."""
    args: list[Any] = field(repr=False)
    """What follows it."""
    rigs: list[str]
    """Names of the rigs."""
    at: float | None
    """The instant at which they are to act, as Unix time in seconds; None for at once."""


@dataclass(frozen=True, slots=True)
class PushCompleted(CoordinatorEvent):
    """Every rig that a push went to has answered or failed."""

    request_time: float
    """The push, by its unique Unix time in seconds."""
    event: Verb
    """What was pushed."""
    answers: dict[str, list[Any]] = field(repr=False)
    """Answers by name of rig: what follows the event. An iblutil rig that was only to confirm it has none."""
    failures: dict[str, RigError]
    """Failures by name of rig."""
    starts: dict[str, Start] = field(default_factory=dict)
    """When each rig that answered began to act, by name of rig."""
    at: float | None = None
    """The instant at which the rigs were to act, as Unix time in seconds; None for at once."""


@dataclass(frozen=True, slots=True)
class RigSettled(CoordinatorEvent):
    """One rig has answered a push, or failed; told where somebody goes through the outcomes as they come."""

    rig: str
    """Name of the rig."""
    request_time: float
    """Of the push."""
    event: Verb
    """The message."""
    outcome: list[Any] | RigError = field(repr=False)
    """What follows the event in the answer, or why there is none."""


@dataclass(frozen=True, slots=True)
class PushDecided(CoordinatorEvent):
    """A push for all rigs or none has failed on one; each of the others has answered, or works on it.

    Told once for such a push, before it is completed.
    """

    request_time: float
    """The push, by its unique Unix time in seconds."""
    event: Verb
    """What was pushed."""
    answers: dict[str, list[Any]] = field(repr=False)
    """Answers so far by name of rig: what follows the event."""
    failures: dict[str, RigError]
    """Failures so far by name of rig."""


@dataclass(frozen=True, slots=True)
class LinkChanged(CoordinatorEvent):
    """The link to a rig changed its state; the subclass tells the new state."""

    rig: str
    """Name of the rig."""
    before: LinkState
    """State that it left."""
    after: LinkState
    """State that it entered."""
    reason: str
    """Why, in words."""


class LinkAlive(LinkChanged):
    """A rig answers, for the first time or again."""

    __slots__ = ()


class LinkSuspect(LinkChanged):
    """A rig has been silent for three beats."""

    __slots__ = ()


class LinkLost(LinkChanged):
    """A rig has been silent for five beats, its host refuses, or it has said goodbye."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StoodStill(CoordinatorEvent):
    """The program stood still. It heard no rig meanwhile, and takes none for silent."""

    seconds: float
    """Least seconds for which it stood still."""


LINK_EVENTS: dict[LinkState, type[LinkChanged]] = {
    LinkState.ALIVE: LinkAlive,
    LinkState.SUSPECT: LinkSuspect,
    LinkState.LOST: LinkLost,
}


@dataclass(frozen=True, slots=True)
class Notice(CoordinatorEvent):
    """A rig tells something of its own accord (docs/protocol.md section 2). Told at the rig, too."""

    rig: str
    """Name of the rig."""
    topic: str
    """``status``, ``log``, or the rig's own. (What the rig tells of progress and streams are events of their own.)"""
    key: str | None
    """What it is about, within its topic."""
    body: Any = field(repr=False)
    """Plain JSON values."""
    confirmed: bool
    """Whether every such notice comes, once and in order; else a newer one of its topic and key may replace it."""
    size: int = field(default=0, repr=False, compare=False)
    """Bytes that it took on the network."""


@dataclass(frozen=True, slots=True)
class ProgressChanged(CoordinatorEvent):
    """Progress of something on a rig: four times a second for each item at most (at the rig ten), the last always."""

    PRIORITY: ClassVar[int] = 10
    SUPERSEDED_BY: ClassVar[tuple[str, ...]] = ("rig", "item")

    rig: str
    """Name of the rig."""
    item: str
    """What it is."""
    value: int | float
    """Where it stands."""
    total: int | float | None
    """Where it will end; None if unknown."""
    unit: str | None
    """What it is counted in; None where that goes without saying."""


@dataclass(frozen=True, slots=True)
class StreamEvent(CoordinatorEvent):
    """A stream of a rig has changed; the subclass tells how. Told at the rig, too."""

    rig: str
    """Name of the rig."""
    id: str
    """The stream, by the name that the rig gave it."""
    info: dict[str, Any] = field(repr=False)
    """All that the rig says of it."""


class StreamAdded(StreamEvent):
    """A rig has a new stream, or this coordinator hears of it for the first time."""

    __slots__ = ()


class StreamUpdated(StreamEvent):
    """A rig says something new of a stream: told at most four times a second, the last change always."""

    __slots__ = ()


class StreamRemoved(StreamEvent):
    """A stream is gone: its rig has removed it, or was started anew."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class DialectDetected(CoordinatorEvent):
    """It is now known what a rig speaks."""

    rig: str
    """Name of the rig."""
    dialect: Dialect
    """The dialect."""


@dataclass(frozen=True, slots=True)
class RestartSeen(CoordinatorEvent):
    """A rig's process is a new one: its boot number has changed."""

    rig: str
    """Name of the rig."""


@dataclass(frozen=True, slots=True)
class ProbeAnswered(CoordinatorEvent):
    """A probe came back."""

    rig: str
    """Name of the rig."""
    n: int
    """Number of the probe."""
    round_trip: float
    """Seconds between sending and receiving, without the time spent in the rig."""
    stamps: tuple[int, int, int, int] | None
    """t0 to t3 of RFC 5905 section 8 in nanoseconds; None from an iblutil rig, which has no stamps."""


@dataclass(frozen=True, slots=True)
class ProbeRefused(CoordinatorEvent):
    """The rig's host said that nothing listens at the rig's port."""

    rig: str
    """Name of the rig."""


@dataclass(frozen=True, slots=True)
class ViolationSeen(CoordinatorEvent):
    """The first invalid datagram of its kind from this source; the rest are only counted.

    Told by rigs, too.
    """

    source: str
    """Name of the rig, or host of the coordinator."""
    kind: str
    """Kind of violation."""
    problem: str
    """What exactly is wrong."""


@dataclass(frozen=True, slots=True)
class JournalFailed(CoordinatorEvent):
    """The journal cannot be written; told once, until it can be again. Told by rigs, too."""

    problem: str
    """What happened, and what to do."""
    path: str
    """The file."""


@dataclass(frozen=True, slots=True)
class JournalRecovered(CoordinatorEvent):
    """The journal is written again. Told by rigs, too."""

    path: str
    """The file."""
    missing: int
    """How many events are missing in it, for which there was no room while it could not be written."""


# ------------------------------------------------------------------------------------------------ from a rig


@dataclass(frozen=True, slots=True)
class HandlerDue(RigEvent):
    """Handlers are to be run for a message; their outcome goes to `Agenda.respond` or `Agenda.fail`."""

    task: int
    """Number by which the outcome is filed."""
    event: Verb
    """The message, or the command."""
    args: list[Any] = field(repr=False)
    """What follows the event in the message; of a command, a list of arguments and a dict of keywords."""
    schedule: Schedule | None = None
    """The instant at which they are to be entered; None for at once."""


@dataclass(frozen=True, slots=True)
class LeaseExpired(RigEvent):
    """The coordinator whose experiment it is has been silent for too long."""

    host: str
    """Host of the coordinator."""
    exp_ref: str | None
    """Reference of the experiment."""
    reason: str
    """What the handlers of EXPINTERRUPT are told."""


@dataclass(frozen=True, slots=True)
class NoticesDropped(RigEvent):
    """A coordinator misses confirmed notices; told once for each."""

    source: str
    """Address of the coordinator."""
    reason: str = ""
    """Why, and what to do."""
    is_gone: bool = False
    """Whether it is silent: as a rule its program has merely ended."""


@dataclass(frozen=True, slots=True)
class HandlerOvertaken(RigEvent):
    """EXPINTERRUPT has overtaken a handler that is running; its outcome no longer matters."""

    task: int
    """The task of its `HandlerDue`."""
    event: Verb
    """The message whose handler it is."""


@dataclass(frozen=True, slots=True)
class MessageHandled(RigEvent):
    """The rig has settled a message: answered, refused, or failed."""

    source: str
    """Address of the coordinator, or ``the rig itself``."""
    event: Verb
    """The message, or the command."""
    error: str | None
    """Type and text of the failure, or None."""
    is_told: bool = True
    """Whether people are told; False for refusals of strangers beyond the first few, which are counted."""


@dataclass(frozen=True, slots=True)
class StatusChanged(RigEvent):
    """The rig's status changed."""

    before: ExpStatus
    """Status that it left."""
    after: ExpStatus
    """Status that it entered."""
    exp_ref: str | None
    """Reference of the experiment."""
    reason: str | None = None
    """Why, where the rig itself brought it about."""


@dataclass(frozen=True, slots=True)
class EchoMissing(RigEvent):
    """An iblutil coordinator did not confirm an answer."""

    source: str
    """Address of the coordinator."""
    event: Verb
    """What the answer was to."""
