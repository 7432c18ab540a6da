"""How OSC packets come and go: UDP, and TCP with either framing, by the sockets of `rigsync.net`."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rigsync.bridges.osc.codec import LARGEST
from rigsync.bridges.osc.framing import LengthPrefixed, Slip
from rigsync.config.address import parse_uri
from rigsync.core.coordinators import Standing
from rigsync.core.rigs import Address, is_literal
from rigsync.errors import ConfigError, RemoteProtocolError
from rigsync.net.lines import Line, Listener, Pump
from rigsync.net.ports import explained
from rigsync.net.resolve import addresses_of
from rigsync.net.stream import Stream
from rigsync.net.tcp import TcpLine
from rigsync.net.tcp_listener import open_tcp_listener
from rigsync.net.udp import open_udp_line, open_udp_listener
from rigsync.runtime.workers import Workers

FRAMINGS: dict[str, type[Slip] | type[LengthPrefixed]] = {"tcp": Slip, "tcp+length": LengthPrefixed}
"""By scheme: OSC 1.1, and OSC 1.0."""
EXPECTED = "udp://, tcp:// (SLIP) or tcp+length://, a host and a port, such as udp://127.0.0.1:9000"
"""How an address is written."""


@dataclass(frozen=True, slots=True)
class OscAddress:
    """Where an OSC program listens: ``udp``, ``tcp`` or ``tcp+length``, and its host and port."""

    scheme: str
    address: Address

    def __str__(self) -> str:
        return f"{self.scheme}://{str(self.address).partition('://')[2]}"

    def frame(self, packet: bytes) -> bytes:
        """Return a packet as it is sent there."""
        return FRAMINGS[self.scheme].frame(packet) if self.scheme in FRAMINGS else packet


def osc_address(text: str, *, allow_port_zero: bool = False) -> OscAddress:
    """Read the address of an OSC program; raise a `ConfigError` that says how one is written."""
    what = "the address of an OSC program"
    scheme = "tcp+length" if isinstance(text, str) and text.startswith("tcp+length://") else ""
    plain = text.replace("tcp+length", "tcp", 1) if scheme else text
    address = parse_uri(plain, allow_port_zero=allow_port_zero, what=what, expected=EXPECTED, brokers=False)
    if not re.search(r":\d+$", plain):
        raise ConfigError(f"{text!r} is not {what}: it has no port; expected {EXPECTED}")
    return OscAddress(scheme or address.scheme, address)


def at_port(source: Any, port: int) -> Any:
    """Return another UDP port of the computer that a datagram came from."""
    host, _, *rest = source
    if not rest:
        return host, port
    (remote, _, *scope), asked = rest
    return host, port, (remote, port, *scope), asked


class Wire:
    """The place where a bridge listens, and its lines to the programs that it was told of.

    What comes on such a line is ignored: those programs are told, and command nothing.

    Parameters
    ----------
    received : callable
        Called with each packet and its source.
    rejected : callable
        Called with the source of what is no packet, and why.
    joined : callable
        Called with the name of a line, its address as text, when that program is there, or there again.
    """

    def __init__(
        self,
        received: Callable[[bytes, Any], object],
        rejected: Callable[[Any, str], object],
        joined: Callable[[str], object],
    ):
        self._received, self._rejected, self.joined = received, rejected, joined
        self._at: OscAddress | None = None
        self._listener: Listener | None = None
        self._lines: dict[str, tuple[OscAddress, Line]] = {}
        self.away: set[str] = set()
        """Lines over UDP towards ports that refuse."""

    async def open(self, listen: OscAddress, to: Sequence[OscAddress]) -> OscAddress:
        """Open all, and return where it listens; raise a `ListenError` or `ConfigError` where that cannot be."""
        family, address = await _resolved(listen)
        try:
            if listen.scheme == "udp":
                self._listener = await open_udp_listener(self, family, address)
            else:
                framing = FRAMINGS[listen.scheme]
                self._listener = await open_tcp_listener(self, family, address, LARGEST, framing)
        except OSError as error:
            explain = asyncio.get_running_loop().run_in_executor(
                None, explained, error, "the OSC bridge", str(listen), listen.address
            )
            raise await explain from None  # its text says all
        host, port, *_ = self._listener.address
        self._at = OscAddress(listen.scheme, Address(listen.address.scheme, host, port))
        for each in to:
            name = str(each)
            family, address = await _resolved(each)
            if each.scheme == "udp":
                self._lines[name] = each, await open_udp_line(self, name, family, address)
                self.joined(name)
            else:
                self._lines[name] = each, Connection(self, name, family, address, each.scheme)
        return self._at

    @property
    def lines(self) -> list[str]:
        """The names of the lines."""
        return list(self._lines)

    @property
    def is_local(self) -> bool:
        """Whether it listens to this computer alone."""
        return self._at is not None and ipaddress.ip_address(self._at.address.host).is_loopback

    def send(self, destination: Any, packet: bytes) -> None:
        """Send a packet to a line, by its name, or to a source."""
        if isinstance(destination, str):
            address, line = self._lines[destination]
            line.send(destination, address.frame(packet))
        elif self._listener and self._at:
            self._listener.send(destination, self._at.frame(packet))

    def close(self) -> None:
        """Close all."""
        if self._listener:
            self._listener.close()
        for _, line in self._lines.values():
            line.close()

    # ----------------------------------------------------------------------------------- the pump of the transports

    def receive(self, data: bytes, source: Any) -> None:
        if not isinstance(source, str):
            self._received(data, source)

    def refuse(self, line: str) -> None:
        if self._lines[line][0].scheme == "udp":  # a connection tells when it opens
            self.away.add(line)

    def parted(self, name: str) -> None:
        """Take note that a connection has ended: it opens again by itself."""

    def show_life(self, line: Any) -> None:
        """Take note that part of a packet has come or gone, of which nothing follows."""

    def reject(self, source: Any, error: RemoteProtocolError) -> None:
        self._rejected(source, error.problem)

    def standing(self, head: bytes, source: Any) -> Standing:
        return Standing.WATCHES  # all are alike; those of strangers would be read ahead, and be lost where many come


class Dialling(Pump, Protocol):
    """Hears what comes on a `Connection`, and each time that it opens or ends."""

    def joined(self, name: str) -> object: ...

    def parted(self, name: str) -> object: ...


class Connection(TcpLine):
    """A connection to a program, which is opened again whenever it ends.

    Parameters
    ----------
    pump : Dialling
        Who hears of it.
    name : str
        What it calls it.
    family, address
        Of the program.
    scheme : str
        A key of `FRAMINGS`.
    """

    def __init__(self, pump: Dialling, name: str, family: int, address: Any, scheme: str):
        self._owner, self.is_open = pump, False
        super().__init__(pump, [name], family, address, LARGEST, FRAMINGS[scheme])

    @property
    def unsent(self) -> int:
        """Bytes that wait for the program to read."""
        return self._stream.unsent if self._stream else 0

    def opened(self, stream: Stream) -> None:
        self.is_open = True
        self._owner.joined(str(self.name))

    def closed(self, stream: Stream) -> None:
        self.is_open = False
        super().closed(stream)
        self._owner.parted(str(self.name))

    def send(self, line: str, data: bytes) -> None:
        if self.is_open:  # else it would come before what those who join hear first
            super().send(line, data)


async def _resolved(at: OscAddress) -> tuple[int, tuple[Any, ...]]:
    """Find the first socket address, on a thread of its own: a name server that is down takes half a minute."""
    workers = Workers("look-up")
    try:
        found = addresses_of(at.address) if is_literal(at.address) else await workers.begin(addresses_of, at.address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        problem = f"the host of {at} cannot be resolved ({reason}); check its spelling, or give its IP address"
        raise ConfigError(problem) from error
    finally:
        workers.close(0.0)
    return found[0]
