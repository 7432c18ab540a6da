"""One TCP connection, in asyncio's care: whole messages in and out, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar, cast

from rigsync.core import legacy
from rigsync.core.stream import StreamDecoder
from rigsync.errors import RemoteProtocolError
from rigsync.net.lines import Address, is_its_own_peer

_Made = TypeVar("_Made", bound=asyncio.BaseProtocol)

BACKLOG = 1 << 20
"""Most bytes that wait for a slow reader, beside the largest message on its way there."""
KEEPALIVE = 5
"""Seconds of silence after which the kernel asks whether the other computer is still there."""
MESSAGE_BYTES = 300
"""Bytes that a message takes beside its own while it waits to leave."""
LINGER = 0.5
"""Seconds between the refusal of a message, which leaves while the message still comes, and the end of the
connection."""
READ = 1 << 14
"""Bytes to read of one connection before the others have their turn. Text takes 0.1 ms, mere brackets some 10 ms. With
as much as asyncio reads by itself, 126 connections kept the coordinator in charge waiting for seconds."""
AT_ONCE = 8
"""Messages of one connection to handle before the others have their turn."""


class Decoder(Protocol):
    """Cuts a stream into messages."""

    @property
    def held(self) -> int:
        """Bytes kept of a message that is not complete."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add what has arrived, and yield each message that it completes; a `RemoteProtocolError` ends the stream."""


Framing = Callable[[int], Decoder]
"""Makes what cuts a stream into messages of so many bytes at most; by default JSON texts."""


class Owner:
    """The line or the listener that a connection belongs to."""

    def opened(self, stream: Stream) -> None: ...

    def heard(self, stream: Stream, message: bytes) -> None: ...

    def heard_part(self, stream: Stream) -> None:
        """Take note that part of a message has come."""

    def sent_part(self, stream: Stream) -> None:
        """Take note that messages which waited have left."""

    def rejected(self, stream: Stream, error: RemoteProtocolError) -> None:
        """Take note that the connection ends, since its bytes are no message."""

    def closed(self, stream: Stream) -> None:
        """Take note that the connection has ended, after all that came on it."""


class Stream(asyncio.BufferedProtocol):
    """One TCP connection: messages out of bytes, and bytes out of messages."""

    transport: asyncio.Transport
    source: Address
    """Where the other side is; set by the owner."""

    def __init__(self, owner: Owner, limit: int, pacing: legacy.Pacing, framing: Framing = StreamDecoder):
        self._owner = owner
        self._decoder = framing(limit)
        self._buffer = memoryview(bytearray(READ))
        self._loop = asyncio.get_running_loop()
        self._largest_waiting = 0
        self._given = 0  # messages that the transport has been given since nothing waited there
        self._passed = 0  # bytes that have come, and those that were given to the transport
        self._pacing = pacing
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._release: asyncio.TimerHandle | None = None
        self._coming: Iterator[bytes] = iter(())  # what has come and is not handled yet
        self._rest: asyncio.Handle | None = None  # handles it
        self._lost: tuple[Exception | None] | None = None  # how the connection has ended
        self.reason = ""
        """Why it was closed, if known."""
        self.head = b""
        """How the last message began."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            _keep_alive(sock)
        self._owner.opened(self)

    @property
    def held(self) -> int:
        """Bytes of a message that has begun to arrive."""
        return self._decoder.held

    @property
    def unsent(self) -> int:
        """Bytes of messages that have yet to leave."""
        return self.transport.get_write_buffer_size() + self._held_bytes

    @property
    def kept(self) -> int:
        """Bytes that all this takes."""
        return self.held + self.unsent + MESSAGE_BYTES * (len(self._held) + self._given)

    @property
    def moved(self) -> int:
        """Bytes that have come and gone so far."""
        return self._passed - self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        self._given = 0
        self._owner.sent_part(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._passed += nbytes
        self._coming = self._decoder.feed(bytes(self._buffer[:nbytes]))
        self._take_in()

    def _take_in(self) -> None:
        """Handle a few messages, then let other connections have their turn."""
        try:
            for count, message in enumerate(self._coming, 1):
                if self._pacing.note_received(message) and self._release:
                    self._release.cancel()
                    self._write_held()
                self._owner.heard(self, message)
                if self.reason:
                    return
                if count == AT_ONCE:
                    self.transport.pause_reading()
                    self._rest = self._loop.call_soon(self._take_in_rest)
                    return
        except RemoteProtocolError as error:
            closed = RemoteProtocolError(error.kind, f"{error.problem}; the connection is closed", error.head)
            if error.head:  # its sender is told, and needs a moment to read it: closing at once would discard it
                self.reason = self.reason or str(error)
                self.transport.pause_reading()
                self._loop.call_later(LINGER, self.stop, str(error))
            else:
                self.stop(str(error))
            self._owner.rejected(self, closed)
            return
        self.transport.resume_reading()
        if self.held:
            self._owner.heard_part(self)

    def _take_in_rest(self) -> None:
        self._rest = None
        if not self.reason:
            self._take_in()
        if self._lost and not self._rest:
            self._end(*self._lost)

    def write(self, data: bytes) -> None:
        """Send a whole message, or end the connection: a stream must not hide a lost message."""
        if self.transport.is_closing():
            return
        if self._held or self._pacing.must_wait(data, self._loop.time()):
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes - len(data) > BACKLOG:
                self.stop(legacy.TOO_FAST)
            elif self._release is None:
                self._release = self._loop.call_at(self._pacing.earliest(), self._write_held)
        else:
            self._write(data)

    def _write_held(self) -> None:
        self._release = None
        while self._held and not self._pacing.must_wait(self._held[0], self._loop.time()):
            self._held_bytes -= len(self._held[0])
            self._write(self._held.popleft())
        if self._held:
            self._release = self._loop.call_at(self._pacing.earliest(), self._write_held)
        self._owner.sent_part(self)

    def _write(self, data: bytes) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._largest_waiting = max(len(data), self._largest_waiting if waiting else 0)
        if waiting + len(data) > self._largest_waiting + BACKLOG:
            self.stop(f"the other side does not read: {waiting:,} bytes wait for it")
            return
        self._pacing.note_sent(data, self._loop.time())
        self._given = self._given + 1 if waiting else 1
        self._passed += len(data)
        self.transport.write(memoryview(data))  # of which no part is copied, save into the transport's buffer

    def stop(self, reason: str) -> None:
        """Close at once, and log the reason."""
        self.reason = self.reason or reason
        self._forget_held()
        self.transport.abort()

    def end(self) -> None:
        """Close after the rest is sent, but do not wait for a peer that does not read."""
        self.reason = self.reason or "closed by this side"
        if self.transport.is_closing():
            return
        while self._held:
            self._write(self._held.popleft())
        self._forget_held()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _forget_held(self) -> None:
        self._held.clear()
        self._held_bytes = 0
        if self._release:
            self._release.cancel()
            self._release = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_held()
        self._lost = (exc,)
        if not self._rest:  # else that comes before
            self._end(exc)

    def _end(self, exc: Exception | None) -> None:
        if not self.reason:
            self.reason = str(exc) if exc else "closed by the other side"
            if self.held:
                cut = f"a stream that ends {self.held:,} bytes into a message ({self.reason})"
                self._owner.rejected(self, RemoteProtocolError("cut message", cut))
        self._owner.closed(self)


async def open_stream(make: Callable[[], _Made], family: int, address: Address, patience: float) -> _Made:
    """Open a TCP connection, and return the protocol that `make` has made for it.

    Raises
    ------
    TimeoutError
        Nothing has come back within `patience`, in seconds.
    OSError
        Nothing listens there, or the network cannot carry anything there.
    """
    loop = asyncio.get_running_loop()
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.wait_for(loop.sock_connect(sock, address), patience)
        if is_its_own_peer(sock):
            raise ConnectionRefusedError("nothing listens there")
        _, protocol = await loop.create_connection(make, sock=sock)
    except BaseException as error:
        sock.close()
        if isinstance(error, asyncio.TimeoutError) and not str(error):  # the built-in one from Python 3.11 on
            raise TimeoutError(f"no answer within {patience:g} s") from None
        raise
    return protocol


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    names = {"TCP_KEEPIDLE": KEEPALIVE, "TCP_KEEPALIVE": KEEPALIVE, "TCP_KEEPINTVL": KEEPALIVE, "TCP_KEEPCNT": 3}
    for name, value in names.items():  # macOS has the second in place of the first
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
