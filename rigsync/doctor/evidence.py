"""What was seen of a rig."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rigsync.core.clock import ClockEstimate
from rigsync.core.events import Dialect
from rigsync.core.messages import Alive
from rigsync.core.rigs import Address, RigConfig
from rigsync.errors import RemoteProtocolError

SocketAddress = tuple[Any, ...]


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
