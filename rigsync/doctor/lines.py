"""The sockets of the doctor. Each keeps messages and errors of the network until the doctor asks for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

from rigsync.core.stream import StreamDecoder
from rigsync.doctor.evidence import SocketAddress
from rigsync.errors import RemoteProtocolError
from rigsync.net import udp
from rigsync.net.stream import open_stream

_HEARS_ALL_ERRORS = sys.platform == "linux"
"""Linux tells a UDP socket that a host cannot be reached only if the socket asks for it (ip(7), IP_RECVERR)."""
_RECEIVE_ERRORS = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}


@dataclass(frozen=True, slots=True)
class News:
    """Something that came to a socket."""

    time: float
    """When, in monotonic seconds."""
    content: bytes | OSError | RemoteProtocolError = field(repr=False)
    """A message, an error of the network, or the reason why bytes are no message."""


class Line:
    """One socket, and all that came to it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[News] = asyncio.Queue()

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    async def next(self, until: float) -> News | None:
        """Return the next news; None if nothing has come by monotonic `until` (s)."""
        with contextlib.suppress(asyncio.QueueEmpty):
            return self._news.get_nowait()
        try:
            return await asyncio.wait_for(self._news.get(), max(0.0, until - self._loop.time()))
        except (asyncio.TimeoutError, TimeoutError):
            return None

    def _keep(self, content: bytes | OSError | RemoteProtocolError) -> None:
        self._news.put_nowait(News(self._loop.time(), content))


class DatagramLine(Line, asyncio.DatagramProtocol):
    """A UDP socket, which sends to `destination`, or to where it is connected."""

    transport: asyncio.DatagramTransport

    def __init__(self, sock: socket.socket, destination: SocketAddress | None):
        super().__init__()
        self.socket, self._destination = sock, destination
        self.source: SocketAddress | None = None
        """Where the last datagram came from."""

    @property
    def local(self) -> str:
        """The address of this computer that the system has chosen."""
        return str(self.socket.getsockname()[0])

    def send(self, data: bytes) -> None:
        self.transport.sendto(data, self._destination)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: SocketAddress) -> None:
        self.source = addr
        self._keep(data)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            self._keep(exc)
        if _HEARS_ALL_ERRORS:
            with contextlib.suppress(OSError):  # until there are no more: left in the queue they would wake the loop
                while True:
                    self.socket.recvmsg(0, 0, socket.MSG_ERRQUEUE)


class StreamLine(Line, asyncio.Protocol):
    """A TCP connection, for messages of `limit` bytes at most."""

    transport: asyncio.Transport

    def __init__(self, limit: int):
        super().__init__()
        self._decoder = StreamDecoder(limit)

    def send(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._keep(message)
        except RemoteProtocolError as error:
            self._keep(error)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        # Not an error of the network, which would mean that nothing listens: somebody took the connection.
        how = f"the connection is closed without an answer ({exc or 'in good order'})"
        self._keep(RemoteProtocolError("closed connection", how))


@contextlib.asynccontextmanager
async def datagram_line(address: SocketAddress, *, hears_everybody: bool = False) -> AsyncIterator[DatagramLine]:
    """Open a UDP socket towards an address, as `connected_socket` does. It hears others too if it `hears_everybody`."""
    family = _family_of(address)
    sock = udp.udp_socket(family) if hears_everybody else udp.connected_socket(family, address)
    try:
        if _HEARS_ALL_ERRORS:
            sock.setsockopt(*_RECEIVE_ERRORS[sock.family], 1)
        if hears_everybody:
            sock.bind(("", 0))
        create = asyncio.get_running_loop().create_datagram_endpoint
        transport, line = await create(lambda: DatagramLine(sock, address if hears_everybody else None), sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        yield line
    finally:
        transport.close()


def _family_of(address: SocketAddress) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


@contextlib.asynccontextmanager
async def stream_line(address: SocketAddress, limit: int, patience: float) -> AsyncIterator[StreamLine]:
    """Open a TCP connection to an address, for messages of `limit` bytes at most; the errors are `open_stream`'s."""
    line = await open_stream(lambda: StreamLine(limit), _family_of(address), address, patience)
    try:
        yield line
    finally:
        line.transport.close()
