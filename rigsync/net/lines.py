"""How bytes get in and out: UDP and TCP, towards one rig and from many coordinators.

A *line* leads to one rig, a *listener* hears whoever comes. Both hand what arrives to the pump of
`rigsync.net.endpoint`, a whole message at a time, and send whole messages; that is all that the pump knows of them.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any, Protocol

from rigsync.errors import RemoteProtocolError

Address = tuple[Any, ...]
"""Host and port, and what else the transport needs to answer."""


_NO_WAY = {
    getattr(errno, prefix + name)
    for name in ("ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "EHOSTDOWN", "EADDRNOTAVAIL", "ENONET")
    for prefix in ("", "WSA")
    if hasattr(errno, prefix + name)
}


class Pump(Protocol):
    """What a transport reports to; `rigsync.net.endpoint.Endpoint` is one."""

    def receive(self, data: bytes, source: Any) -> None:
        """Hand over a message."""

    def refuse(self, line: Any) -> None:
        """Tell that nothing listens where a line leads."""

    def show_life(self, line: Any) -> None:
        """Tell that part of a message has come or gone."""

    def reject(self, source: Any, error: RemoteProtocolError) -> None:
        """Tell that what came cannot be a message."""


class Line(Protocol):
    """The way to one rig."""

    def send(self, line: Any, data: bytes) -> None:
        """Send a message; `line` tells what it is for."""

    def reconnect(self, reason: str) -> None:
        """Begin anew, since the rig is lost."""

    def is_stranded(self) -> bool:
        """Whether it leaves from an address from which this computer does not reach the rig any more, or has none."""

    def read_waiting(self) -> None:
        """Hand over what has come and was not read yet, where that is possible."""

    def close(self) -> None:
        """Send no more."""


class Listener(Protocol):
    """Where coordinators are heard."""

    address: Address

    def send(self, destination: Address, data: bytes) -> None:
        """Send a message to where one came from."""

    def close(self) -> None:
        """Hear nobody any more."""


def dual_stack(sock: socket.socket, address: Address) -> None:
    """Have an IPv6 socket for every address hear IPv4 as well: the default differs between operating systems."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_wildcard(address) else 1)


def is_its_own_peer(sock: socket.socket) -> bool:
    """Tell whether a socket is connected with itself.

    Towards a port of this machine at which nothing listens, the system may choose that very port for the socket. It
    would hear itself, which looks like an iblutil rig's echo, and keep the rig from its port.
    """
    return bool(sock.getsockname() == sock.getpeername())


def shown_host(host: str) -> str:
    """Return a host as people know it: an IPv4 one that came to an IPv6 socket without its disguise."""
    return host.removeprefix("::ffff:") if host.startswith("::ffff:") and "." in host else host


def label(line: Any) -> str:
    """Return what the log calls a line: where the core's name of it has several parts, the first is the rig's."""
    return str(line[0]) if isinstance(line, tuple) else str(line)


def has_no_way(error: OSError) -> bool:
    """Tell whether an address cannot be reached as things are: it may be when the network is up."""
    return error.errno in _NO_WAY


def is_wildcard(address: Address) -> bool:
    """Tell whether an address stands for all of this machine's."""
    return ipaddress.ip_address(address[0]).is_unspecified
