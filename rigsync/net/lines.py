"""How bytes get in and out: UDP, TCP and MQTT, towards one rig and from many coordinators.

A *line* leads to one rig. A *listener* hears whoever comes. Both hand whole messages to the pump of
`rigsync.net.endpoint`, and send whole messages. The pump knows nothing else about them.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any, Protocol

from rigsync.core.coordinators import Standing
from rigsync.errors import RemoteProtocolError

Address = tuple[Any, ...]
"""Host and port, and whatever else the transport needs to answer."""

_NO_WAY = {
    getattr(errno, prefix + name)
    for name in ("ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "EHOSTDOWN", "EADDRNOTAVAIL", "ENONET")
    for prefix in ("", "WSA")
    if hasattr(errno, prefix + name)
}


class Pump(Protocol):
    """The receiver of a transport's reports; `rigsync.net.endpoint.Endpoint` is one."""

    def receive(self, data: bytes, source: Any) -> None: ...

    def refuse(self, line: Any) -> None:
        """Report that nothing listens where a line leads."""

    def show_life(self, line: Any) -> None:
        """Report that part of a message has come or gone."""

    def reject(self, source: Any, error: RemoteProtocolError) -> None:
        """Report that what came cannot be a message."""

    def standing(self, head: bytes, source: Any) -> Standing:
        """Return how much the sender of a message that begins so has to do with this side."""


class Line:
    """The way to one rig."""

    problem: OSError | None = None
    """Why the message that was sent last has not left this computer, as far as this is known."""

    def send(self, line: Any, data: bytes) -> None:
        """Send a message; `line` says whether it is a request or a probe."""

    def reconnect(self, reason: str) -> None:
        """Connect anew, where there is a connection: the rig is lost."""

    def is_stranded(self) -> bool:
        """Whether its own address no longer reaches the rig, or it has none."""
        return False

    def read_waiting(self) -> None:
        """Hand over all that waits to be read, if possible."""

    def close(self) -> None: ...


class Listener(Protocol):
    """The place where a rig hears coordinators."""

    address: Address

    def send(self, destination: Address, data: bytes) -> None: ...

    def close(self) -> None: ...


def dual_stack(sock: socket.socket, address: Address) -> None:
    """Make an IPv6 socket for every address hear IPv4 as well, which is not the default of every system."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_wildcard(address) else 1)


def is_its_own_peer(sock: socket.socket) -> bool:
    """Whether a socket is connected with itself.

    If nothing listens at a port of this machine, the system may give the socket that very port. It would hear itself,
    which looks like an iblutil rig's echo, and keep the rig from its port.
    """
    return bool(sock.getsockname() == sock.getpeername())


def shown_host(host: str) -> str:
    """Return a host as people know it: IPv4 as such, even if it came to an IPv6 socket."""
    return host.removeprefix("::ffff:") if host.startswith("::ffff:") and "." in host else host


def label(line: Any) -> str:
    """Return a line's name in the log: the rig's, the first part of the core's name for the line."""
    return str(line[0]) if isinstance(line, tuple) else str(line)


def has_no_way(error: OSError) -> bool:
    """Whether an error says that nobody can reach an address now, before the network is up."""
    return error.errno in _NO_WAY


def is_wildcard(address: Address) -> bool:
    """Whether an address means all addresses of this machine."""
    return ipaddress.ip_address(address[0]).is_unspecified
