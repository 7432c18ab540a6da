"""What was seen of a rig."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rigsync._text import error_text, one_line
from rigsync.coordinator.view import clock_text
from rigsync.core.clock import ClockEstimate
from rigsync.core.events import Dialect
from rigsync.core.health import STATUS, HealthView, age_in
from rigsync.core.messages import Alive, Notice
from rigsync.core.notices import FAILURE, NoticeFilter
from rigsync.core.rigs import Address, RigConfig
from rigsync.errors import RemoteProtocolError

SocketAddress = tuple[Any, ...]


@dataclass(slots=True)
class Told:
    """What a rig tells of its health to whoever begins to watch it (docs/decisions/0030), and since when that is so."""

    health: HealthView = field(default_factory=HealthView)
    _new: NoticeFilter = field(default_factory=NoticeFilter)
    _since: dict[tuple[str, str], float] = field(default_factory=dict)

    def receive(self, notice: Notice, now: float) -> None:
        """Take a notice that came at Unix time `now`."""
        if self._new.is_new(notice):
            self.health.receive(notice)
            self._since[notice.topic, notice.key or ""] = now - age_in(notice.body)

    @property
    def problems(self) -> list[str]:
        """What is wrong, each with the time since when, where that was told."""
        found = {(FAILURE, key): text for key, text in self.health.failures.items()}
        if reason := self.health.reason:
            is_said = reason in found.values()
            found[STATUS, ""] = f"it has stopped by itself{' for that' if is_said else f': {reason}'}"
        since = {topic: f"since {clock_text(at)}: " for topic, at in self._since.items()}
        return [since.get(topic, "") + one_line(error_text(text)) for topic, text in found.items()]


@dataclass(slots=True)
class Evidence:
    """All that was seen of one rig."""

    rig: RigConfig
    unresolved: str | None = None
    """Why its name does not resolve."""
    asked: SocketAddress | None = None
    """The socket address that was asked."""
    local: str | None = None
    """The address of this computer from which probes leave."""
    probes: int = 0
    """Probes that were sent."""
    answers: int = 0
    """Probes that were answered."""
    dialect: Dialect = Dialect.UNKNOWN
    """Dialect of the rig."""
    alive: Alive | None = None
    """The last answer of a rig of the rigsync dialect."""
    told: Told = field(default_factory=Told)
    """What it has told of its health."""
    round_trip: float | None = None
    """Round trip of the quickest probe, in seconds."""
    clock: ClockEstimate | None = None
    """The rig's clock against this computer's."""
    spared: bool = False
    """Whether the doctor did not connect, since that would take the rig from its task."""
    connected: bool = False
    """Whether its host has taken a TCP connection."""
    refused: bool = False
    """Whether its host says that nothing listens at the port."""
    unreachable: str | None = None
    """The network's error, if it cannot carry anything there."""
    broker: str | None = None
    """Why a rig cannot be reached at its broker."""
    junk: RemoteProtocolError | None = None
    """A received message that is no valid frame."""
    answered_from: SocketAddress | None = None
    """The address from which the answer came, if not the one asked."""
    reached_at: SocketAddress | None = None
    """Another address of the same name, where the rig answers."""
    other_scheme: str | None = None
    """``tcp`` or ``udp``, where the rig answers by that and not by the scheme of its address."""
    host_is_up: bool = False
    """Whether a silent rig's host refuses at other ports."""
    largest: int | None = None
    """Bytes of the largest padded probe that was answered."""
    lost_size: int | None = None
    """Bytes of the smallest padded probe that was not."""

    @property
    def has_answered(self) -> bool:
        return self.answers > 0

    @property
    def scheme(self) -> str:
        return self.rig.address.scheme

    @property
    def where(self) -> str:
        """The address that was asked, as host and port."""
        return text_of(self.asked or ())

    @property
    def owner(self) -> str | None:
        """Host of the coordinator that is in charge of the rig's experiment."""
        return self.alive.owner if self.alive else None


def text_of(address: SocketAddress) -> str:
    """Return a socket address as host and port."""
    return str(Address("", *address[:2])).partition("://")[2] if address else "-"
