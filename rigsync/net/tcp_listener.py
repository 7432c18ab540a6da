"""TCP at a rig: the place where many coordinators connect. Large messages come one by one, in bounded turns."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections import OrderedDict

from rigsync.core import legacy
from rigsync.core.coordinators import Standing
from rigsync.core.stream import StreamDecoder
from rigsync.errors import RemoteProtocolError
from rigsync.net.lines import Address, Listener, Pump, dual_stack, shown_host
from rigsync.net.stream import MESSAGE_BYTES, Framing, Owner, Stream

logger = logging.getLogger("rigsync.endpoint")

CONNECTIONS = 128
"""Most connections of a listener. Beyond that it closes the one that was silent for longest. A rig has a handful of
coordinators; macOS gives a program 256 descriptors, and Windows' select watches 512."""
KEPT = 1 << 24
"""Bytes that a listener keeps for all connections together, beside the largest: of messages that have begun to come,
and of messages that have not left. As much again is there for the one in charge."""
HEAD = 64
"""Bytes of the last message of a connection that are kept, to tell who sends on it."""
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


async def open_tcp_listener(
    pump: Pump, family: int, address: Address, limit: int, framing: Framing = StreamDecoder
) -> Listener:
    """Open a socket that listens; an OSError says that the address is in use, or is not one of this machine's."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        dual_stack(sock, address)
        if os.name == "posix":  # otherwise the port of a rig that restarts would be taken for a minute
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:  # there, that option would let any other program use the port as well
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", -5), 1)
        sock.bind(address)
        listener = TcpListener(pump, sock.getsockname(), limit, framing)
        await listener.open(sock)
    except BaseException:
        sock.close()
        raise
    return listener


class TcpListener(Owner):
    """All connections of coordinators."""

    def __init__(self, pump: Pump, address: Address, limit: int, framing: Framing = StreamDecoder):
        self._pump, self.address, self._limit, self._framing = pump, address, limit, framing
        self._server: asyncio.Server | None = None
        self._streams: OrderedDict[Address, Stream] = OrderedDict()  # the longest silent first
        self._turn: Stream | None = None  # of which a large message comes
        self._turn_bounded = 0.0  # since when others wait, in seconds of the loop
        self._turn_ends = math.inf  # until when it goes on then
        self._waiting: dict[Stream, float] = {}  # of which one has begun, and is not read on since when
        self._look: asyncio.TimerHandle | None = None

    async def open(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def make() -> Stream:
            return Stream(self, self._limit, legacy.Pacing(), self._framing)

        self._server = await loop.create_server(make, sock=sock)

    def opened(self, stream: Stream) -> None:
        host, *rest = stream.transport.get_extra_info("peername")
        stream.source = (shown_host(host), *rest)
        self._streams[stream.source] = stream
        if len(self._streams) > CONNECTIONS:
            silent = min(self._streams.values(), key=self._standing)  # the first of the lowest
            self._drop(silent.source, f"more than {CONNECTIONS} connections, of which it was silent longest")

    def heard(self, stream: Stream, message: bytes) -> None:
        self._streams.move_to_end(stream.source)
        stream.head = message[:HEAD]
        self._pump.receive(message, stream.source)
        self.sent_part(stream)

    def _standing(self, stream: Stream) -> Standing:
        return self._pump.standing(stream.head, stream.source)

    def sent_part(self, stream: Stream) -> None:
        """Have the next one come where a large message and its echo are through."""
        # Who is in charge may read as slowly as it likes, and nobody waits for that.
        if stream is self._turn and (stream.unsent <= LARGE or self._standing(stream) is Standing.IN_CHARGE):
            self._end_turn(stream)

    def heard_part(self, stream: Stream) -> None:
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

    def _end_turn(self, stream: Stream) -> None:
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

    def _look_at_turn(self, turn: Stream, moved: int, is_over: bool) -> None:
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

    def rejected(self, stream: Stream, error: RemoteProtocolError) -> None:
        self._end_turn(stream)
        self._pump.reject(stream.source, error)

    def closed(self, stream: Stream) -> None:
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

    def _drop_one_of_many(self, stream: Stream) -> None:
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
