"""TCP: a connection towards each rig, which is opened again when it ends, and a listener for many connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Any, cast

from rigsync.core import legacy
from rigsync.core.coordinators import Standing
from rigsync.core.stream import StreamDecoder
from rigsync.errors import RemoteProtocolError
from rigsync.net.lines import Address, Listener, Pump, dual_stack, is_its_own_peer, label, shown_host

logger = logging.getLogger("rigsync.endpoint")

CONNECTIONS = 128
"""Most connections of a listener. Beyond that it closes the one that was silent for longest. A rig has a handful of
coordinators; macOS gives a program 256 descriptors, and Windows' select watches 512."""
BACKLOG = 1 << 20
"""Most bytes that wait for a slow reader, beside the largest message on its way there."""
CONNECT_TIMEOUT = 3.0
"""Seconds that connecting may take: one repeat of the first packet (RFC 6298 section 2), and the 2 s for which Windows
asks a refusing port again and again."""
FIRST_RETRY = 0.05
LAST_RETRY = 0.5
"""Seconds between two attempts to connect: the first wait and the longest, doubled each time. A rig that restarts is
back within two beats."""
KEEPALIVE = 5
"""Seconds of silence after which the kernel asks whether the other computer is still there."""
KEPT = 1 << 24
"""Bytes that a listener keeps for all connections together, beside the largest: of messages that have begun to come,
and of messages that have not left. As much again is there for the one in charge."""
MESSAGE_BYTES = 300
"""Bytes that a message takes beside its own while it waits to leave."""
HEAD = 64
"""Bytes of the last message of a connection that are kept, to tell who sends on it."""
LINGER = 0.5
"""Seconds between the refusal of a message, which leaves while the message still comes, and the end of the
connection."""
LARGE = 1 << 18
"""Bytes of a message up to which messages of all connections come side by side. A listener takes larger messages one at
a time, and does not read the others meanwhile."""
STALLED = 2.0
"""Seconds between checks of the connection whose turn it is, while others wait."""
SLOWEST = 1 << 17
"""Bytes that have to come or go on it between two checks, or it is closed."""
LONGEST_TURN = 3.0
"""Most seconds that a connection waits for its turn. Those before it share this time equally, and one that takes more
is closed. A coordinator that waits for longer than 5 s loses the rig."""
SHORTEST_TURN = 0.25
"""The least seconds of a share: enough for some megabytes in any laboratory."""
READ = 1 << 14
"""Bytes to read of one connection before the others have their turn. Text takes 0.1 ms, mere brackets some 10 ms. With
as much as asyncio reads by itself, 126 connections kept the coordinator in charge waiting for seconds."""
AT_ONCE = 8
"""Messages of one connection to handle before the others have their turn."""
_MOST_SAID = 8
"""Most problems of one line that are logged before a message comes."""


class _Stream(asyncio.BufferedProtocol):
    """One TCP connection: messages out of bytes, and bytes out of messages."""

    transport: asyncio.Transport

    def __init__(self, limit: int, pacing: legacy.Pacing):
        self._decoder = StreamDecoder(limit)
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            _keep_alive(sock)

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
        self.part_sent()

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
                self.message_received(message)
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
                self.rejected(closed)
            else:
                self.stop(str(error))
                self.rejected(closed)
            return
        self.transport.resume_reading()
        if self.held:
            self.part_received()

    def _take_in_rest(self) -> None:
        self._rest = None
        if not self.reason:
            self._take_in()
        if self._lost and not self._rest:
            self.end_received(*self._lost)

    def message_received(self, message: bytes) -> None:
        """Handle a message."""

    def part_received(self) -> None:
        """Handle news that part of a message has come."""

    def part_sent(self) -> None:
        """Handle news that messages which waited have left."""

    def rejected(self, error: RemoteProtocolError) -> None:
        """Report that the stream was closed, since its bytes are no message."""

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
        self.part_sent()

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
            self.end_received(exc)

    def end_received(self, exc: Exception | None) -> None:
        """Process the end of the connection, after all that came on it."""
        if not self.reason:
            self.reason = str(exc) if exc else "closed by the other side"
            if self.held:
                cut = f"a stream that ends {self.held:,} bytes into a message ({self.reason})"
                self.rejected(RemoteProtocolError("cut message", cut))


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    names = {"TCP_KEEPIDLE": KEEPALIVE, "TCP_KEEPALIVE": KEEPALIVE, "TCP_KEEPINTVL": KEEPALIVE, "TCP_KEEPCNT": 3}
    for name, value in names.items():  # macOS has the second in place of the first
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class TcpLine:
    """A connection towards a rig, which is opened again whenever it ends.

    Several of the core's lines share one connection, since some servers answer on the connection that was opened last.

    Parameters
    ----------
    pump : Pump
        The pump.
    lines : sequence
        The core's names of these lines. The first one gets all that arrives.
    family : int
        Of the address.
    address : tuple
        Where the rig listens.
    limit : int
        Bytes of the largest incoming message.
    """

    def __init__(self, pump: Pump, lines: Sequence[Any], family: int, address: Address, limit: int):
        self._pump, self.name = pump, lines[0]
        self._family, self._address, self._limit = family, address, limit
        self._stream: _LineStream | None = None
        self._early: list[tuple[Any, bytes]] = []
        self._connecting = True  # at once, although the task has yet to begin
        # What was sent last on each line. The timers send it again, but a connection loses nothing, so it does not
        # leave again. Of a large frame only the hash is kept. Frames are numbered, so no two are equal.
        self._sent: dict[Any, bytes | int] = {}
        self._retry = FIRST_RETRY
        self._closed = False
        self._said: set[str] = set()
        self._task = asyncio.get_running_loop().create_task(
            self._keep_connected(), name=f"rigsync line {label(self.name)}"
        )

    async def _keep_connected(self) -> None:
        while True:
            self._connecting = True
            try:
                stream = await self._connect()
            except (ConnectionRefusedError, ConnectionResetError):
                self._give_up_early()
                self._pump.refuse(self.name)
            except (OSError, asyncio.TimeoutError) as error:  # from Python 3.11 on, the latter is an OSError
                self._give_up_early()
                self._say(f"no connection: {error or 'no answer'}")
            else:
                self._connecting = False
                self._stream = stream
                early, self._early = self._early, []
                for line, data in early:
                    self.send(line, data)
                reason = await stream.ended
                self._stream = None
                self._sent.clear()
                self._say(f"the connection has ended ({reason}); connecting again")
            await asyncio.sleep(self._retry)
            self._retry = min(2 * self._retry, LAST_RETRY)

    async def _connect(self) -> _LineStream:
        loop = asyncio.get_running_loop()
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.wait_for(loop.sock_connect(sock, self._address), CONNECT_TIMEOUT)
            if self._closed:  # wait_for() swallows a cancellation that meets its result, until Python 3.12
                raise asyncio.CancelledError
            if is_its_own_peer(sock):
                raise ConnectionRefusedError("nothing listens there")
            _, stream = await loop.create_connection(lambda: _LineStream(self, self._limit), sock=sock)
        except BaseException:
            sock.close()
            raise
        return stream

    def _give_up_early(self) -> None:
        # Lost, like refused datagrams: the timers send again.
        self._connecting = False
        self._early.clear()

    def _say(self, problem: str) -> None:
        if problem not in self._said and len(self._said) < _MOST_SAID:  # for the attempts go on
            self._said.add(problem)
            logger.warning("%s: %s", label(self.name), problem)

    def heard(self, data: bytes) -> None:
        """Handle a message."""
        if self._said:
            self._said.clear()
        self._retry = FIRST_RETRY
        self._pump.receive(data, self.name)

    def heard_part(self) -> None:
        """Handle news that part of a message has come."""
        self._pump.show_life(self.name)

    def rejected(self, error: RemoteProtocolError) -> None:
        """Report that what came cannot be a message."""
        self._pump.reject(self.name, error)

    def send(self, line: Any, data: bytes) -> None:
        """Send a message if there is, or soon will be, a connection."""
        if self._stream is None:
            if self._connecting and sum(len(early) for _, early in self._early) <= BACKLOG:
                self._early.append((line, data))
            return
        if self._stream.is_draining():
            self._pump.show_life(self.name)
        known = data if len(data) <= BACKLOG or legacy.is_array(data) else hash(data)
        before = self._sent.get(line)
        if before is not known and not (isinstance(known, int) and before == known):
            self._sent[line] = known
            self._stream.write(data)

    def reconnect(self, reason: str) -> None:
        """Connect anew: the rig is lost."""
        if self._stream:
            self._stream.stop(f"its rig is lost: {reason}")

    def is_stranded(self) -> bool:
        """Return False: each new connection uses this computer's present address."""
        return False

    def read_waiting(self) -> None:
        """Do nothing: the end of a stream comes after all its messages."""

    def close(self) -> None:
        """Send no more."""
        self._closed = True
        self._task.cancel()
        if self._stream:
            self._stream.end()


class _LineStream(_Stream):
    """The present connection of a `TcpLine`."""

    def __init__(self, line: TcpLine, limit: int):
        super().__init__(limit, legacy.ProbePacing())
        self._line = line
        self._waiting = 0
        self.ended: asyncio.Future[str] = self._loop.create_future()

    def message_received(self, message: bytes) -> None:
        self._line.heard(message)

    def part_received(self) -> None:
        self._line.heard_part()

    def rejected(self, error: RemoteProtocolError) -> None:
        self._line.rejected(error)

    def is_draining(self) -> bool:
        """Whether waiting bytes have left since the last call."""
        before, self._waiting = self._waiting, self.transport.get_write_buffer_size()
        return before > self._waiting

    def end_received(self, exc: Exception | None) -> None:
        super().end_received(exc)
        if not self.ended.done():
            self.ended.set_result(self.reason)


async def open_tcp_listener(pump: Pump, family: int, address: Address, limit: int) -> Listener:
    """Open a socket that listens for connections.

    Raises
    ------
    OSError
        The address is in use or is not one of this machine's.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        dual_stack(sock, address)
        if os.name == "posix":  # otherwise the port of a rig that restarts would be taken for a minute
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:  # there, that option would let any other program use the port as well
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", -5), 1)
        sock.bind(address)
        listener = _TcpListener(pump, sock.getsockname(), limit)
        await listener.open(sock)
    except BaseException:
        sock.close()
        raise
    return listener


class _TcpListener:
    """All connections of coordinators."""

    def __init__(self, pump: Pump, address: Address, limit: int):
        self._pump, self.address, self._limit = pump, address, limit
        self._server: asyncio.Server | None = None
        self._streams: OrderedDict[Address, _CoordinatorStream] = OrderedDict()  # the longest silent first
        self._turn: _CoordinatorStream | None = None  # of which a large message comes
        self._turn_bounded, self._turn_ends = (
            0.0,
            math.inf,
        )  # from and until when, as others wait, in seconds of the loop
        self._waiting: dict[_CoordinatorStream, float] = {}  # of which one has begun, and is not read on since when
        self._look: asyncio.TimerHandle | None = None

    async def open(self, sock: socket.socket) -> None:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _CoordinatorStream(self, self._limit), sock=sock)

    def opened(self, stream: _CoordinatorStream) -> None:
        """Add a connection."""
        self._streams[stream.source] = stream
        if len(self._streams) > CONNECTIONS:
            silent = min(self._streams.values(), key=self._standing)  # the first of the lowest
            self._drop(silent.source, f"more than {CONNECTIONS} connections, of which it was silent longest")

    def heard(self, stream: _CoordinatorStream, message: bytes) -> None:
        """Handle a message."""
        self._streams.move_to_end(stream.source)
        stream.head = message[:HEAD]
        self._pump.receive(message, stream.source)
        self.note_sent(stream)

    def _standing(self, stream: _CoordinatorStream) -> Standing:
        return self._pump.standing(stream.head, stream.source)

    def note_sent(self, stream: _CoordinatorStream) -> None:
        """Have the next one come where a large message and its echo are through."""
        # Who is in charge may read as slowly as it likes, and nobody waits for that.
        if stream is self._turn and (stream.unsent <= LARGE or self._standing(stream) is Standing.IN_CHARGE):
            self._end_turn(stream)

    def heard_part(self, stream: _CoordinatorStream) -> None:
        """Have large messages come one by one."""
        self._streams.move_to_end(stream.source)
        if stream.held > LARGE and stream is not self._turn:
            if self._turn is None:
                self._turn = stream
            elif stream not in self._waiting:
                stream.transport.pause_reading()
                self._waiting[stream] = asyncio.get_running_loop().time()
                self._bound_turn()
        self._bound_kept()

    def _end_turn(self, stream: _CoordinatorStream) -> None:
        if stream is self._turn:
            if self._look:
                self._look.cancel()
                self._look = None
            self._turn, self._turn_ends = next(iter(self._waiting), None), math.inf
            if self._turn:
                del self._waiting[self._turn]
                self._turn.transport.resume_reading()
                self._bound_turn()

    def _bound_turn(self) -> None:
        """Bound the turn of the present connection by its share of the time that the others wait."""
        now = asyncio.get_running_loop().time()
        if self._turn_ends == math.inf:
            self._turn_bounded = now
        if self._turn and self._standing(self._turn) is not Standing.IN_CHARGE:
            for turns, since in enumerate(self._waiting.values(), 1):
                share = (since + LONGEST_TURN - now) / turns
                self._turn_ends = min(self._turn_ends, now + max(SHORTEST_TURN, share))
        self._watch_turn()

    def _watch_turn(self) -> None:
        """Check soon whether the present connection goes on, and whether its share is over."""
        if not (self._turn and self._waiting):
            return
        loop = asyncio.get_running_loop()
        stalled = loop.time() + STALLED
        when = min(self._turn_ends, stalled)
        if self._look:
            if self._look.when() <= when:
                return
            self._look.cancel()
        self._look = loop.call_at(when, self._look_at_turn, self._turn, self._turn.moved, when < stalled)

    def _look_at_turn(self, turn: _CoordinatorStream, moved: int, is_over: bool) -> None:
        self._look = None
        if not self._waiting:
            self._turn_ends = math.inf
        elif is_over:
            share = self._turn_ends - self._turn_bounded
            self._drop(turn.source, f"a large message takes more than {share:.2g} s, while others wait for it")
        elif turn.moved < moved + SLOWEST:
            self._drop(turn.source, "a large message, or its echo, does not go on, while others wait for it")
        else:
            self._watch_turn()

    def rejected(self, stream: _CoordinatorStream, error: RemoteProtocolError) -> None:
        """Report that what came cannot be a message."""
        self._end_turn(stream)
        self._pump.reject(stream.source, error)

    def closed(self, stream: _CoordinatorStream) -> None:
        """Remove a connection that has ended."""
        if self._streams.get(stream.source) is stream:
            del self._streams[stream.source]
        self._waiting.pop(stream, None)
        self._end_turn(stream)
        logger.debug("%s port %s: the connection has ended (%s)", *stream.source[:2], stream.reason)

    def _drop(self, source: Address, reason: str) -> None:
        self._streams.pop(source).stop(reason)

    def send(self, destination: Address, data: bytes) -> None:
        if stream := self._streams.get(destination):  # otherwise it has gone: its coordinator will ask again
            stream.write(data)
            if stream.unsent > LARGE and not self._turn and self._standing(stream) is not Standing.IN_CHARGE:
                self._turn = stream  # no large message comes until this one has left
            if stream.unsent > MESSAGE_BYTES:
                self._bound_kept()

    def _bound_kept(self) -> None:
        """Close connections, those of strangers first, where too much is kept for all together."""
        kept = {stream: stream.kept for stream in self._streams.values()}
        if sum(kept.values()) - max(kept.values(), default=0) <= KEPT:
            return
        standing = {stream: self._standing(stream) for stream in kept}
        in_charge = {stream for stream in kept if standing[stream] is Standing.IN_CHARGE}
        for group in (in_charge, kept.keys() - in_charge):
            first = sorted(group, key=lambda stream: (standing[stream], stream is self._turn, -kept[stream]))
            while sum(map(kept.__getitem__, first)) - max(map(kept.__getitem__, first), default=0) > KEPT:
                self._drop_one_of_many(first.pop(0))

    def _drop_one_of_many(self, stream: _CoordinatorStream) -> None:
        problem = f"{stream.held:,} bytes of a message have come"
        if stream.unsent > stream.held:
            problem = f"it does not read {stream.unsent:,} bytes"
        self._drop(stream.source, f"{problem}, and too much is kept for all connections together")

    def close(self) -> None:
        if self._server:
            self._server.close()
        if self._look:
            self._look.cancel()
        for stream in list(self._streams.values()):
            stream.end()


class _CoordinatorStream(_Stream):
    """The connection of one coordinator."""

    source: Address
    head = b""
    """How the last message began."""

    def __init__(self, listener: _TcpListener, limit: int):
        super().__init__(limit, legacy.Pacing())
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        host, *rest = transport.get_extra_info("peername")
        self.source = (shown_host(host), *rest)
        self._listener.opened(self)

    def message_received(self, message: bytes) -> None:
        self._listener.heard(self, message)

    def part_received(self) -> None:
        self._listener.heard_part(self)

    def part_sent(self) -> None:
        self._listener.note_sent(self)

    def rejected(self, error: RemoteProtocolError) -> None:
        self._listener.rejected(self, error)

    def end_received(self, exc: Exception | None) -> None:
        super().end_received(exc)
        self._listener.closed(self)
