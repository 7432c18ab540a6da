"""What a report tells of a session, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from rigsync.journal.query import Run, Session
from rigsync.journal.report.series import Series


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in a lane. Times are Unix times in seconds."""

    begin: float
    end: float
    what: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in a lane."""

    time: float
    what: str
    text: str
    number: int | None = None
    """Of the failure, in the list of what happened."""


@dataclass(slots=True)
class Lane:
    """What happened at one rig, for the eye."""

    rig: str
    states: list[Span] = field(default_factory=list)
    silences: list[Span] = field(default_factory=list)
    handlers: list[Span] = field(default_factory=list)
    messages: list[Mark] = field(default_factory=list)
    failures: list[Mark] = field(default_factory=list)
    notices: list[Mark] = field(default_factory=list)
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of what happened."""

    time: float
    rig: str | None
    text: str
    number: int | None = None
    """Counts the failures from 1; None for what is none."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """One message to rigs."""

    time: float
    event: str
    run: int
    rigs: tuple[str, ...]
    at: float | None
    seconds: float | None
    """Until the last rig had answered or failed; None where that is not known."""
    slowest: str | None
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartOf:
    """When one rig began to act."""

    rig: str
    time: float
    bound: float
    is_estimate: bool


@dataclass(frozen=True, slots=True)
class Starts:
    """When the rigs began to act on one message."""

    event: str
    at: float | None
    rigs: tuple[StartOf, ...]

    @property
    def zero(self) -> float:
        """The instant at which they were to begin, else when the first did."""
        return self.at if self.at is not None else min(start.time for start in self.rigs)


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A file, as its rig has told."""

    rig: str
    path: str
    bytes: int | None
    frames: int | None
    verified: str | None


@dataclass(slots=True)
class Recorded:
    """What one rig says that it has recorded."""

    rig: str
    seconds: float | None = None
    files: list[RecordedFile] = field(default_factory=list)
    more: int = 0
    """Files that are not listed."""


@dataclass(slots=True)
class Watched:
    """How the link to one rig was."""

    rig: str
    offset: Series = field(default_factory=Series)
    bound: float = 0.0
    """The largest bound of the offset, in seconds."""
    drift: float | None = None
    round_trip: Series = field(default_factory=Series)
    loss: Series = field(default_factory=Series)
    version: str | None = None
    dialect: str | None = None


@dataclass(slots=True)
class Command:
    """Who commanded: a program whose journal this is, or a computer that rigs tell of."""

    who: str
    first: float
    last: float
    messages: Counter[str] = field(default_factory=Counter)
    """How often it has sent each message; not at all where only rigs tell of it: each of them counts for itself."""
    is_in_charge: bool = False
    """Whether rigs said that it was in charge."""


@dataclass(slots=True)
class Facts:
    """All that a report tells of a session."""

    session: Session
    runs: dict[int, Run]
    begin: float = math.inf
    end: float = -math.inf
    lanes: dict[str, Lane] = field(default_factory=dict)
    recorded: dict[str, Recorded] = field(default_factory=dict)
    watched: dict[str, Watched] = field(default_factory=dict)
    pushes: list[Pushed] = field(default_factory=list)
    pushes_left_out: int = 0
    starts: list[Starts] = field(default_factory=list)
    commands: dict[str, Command] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)
    happenings_left_out: int = 0
    failures: int = 0
    unconfirmed: dict[str, str] = field(default_factory=dict)
    """By rig, what nobody confirms of the recording."""
    progress: dict[str, dict[str, str]] = field(default_factory=dict)
    """By rig, where each item stood last."""
    broken_off: str | None = None
    """Why EXPINTERRUPT was sent, as who sent it says; None where it was not."""
    unplaced: int = 0
    """Records of rigs whose clocks are not known: nothing of them is told."""
    gaps: list[tuple[float, int]] = field(default_factory=list)
    """Until when the journal could not be written, and how many records it misses."""

    def lane(self, rig: str) -> Lane:
        """Return the lane of a rig, which has one from now on."""
        return self.lanes.setdefault(rig, Lane(rig))
