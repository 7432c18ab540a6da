"""TCP towards a rig: one connection, which is opened again when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from rigsync.core import legacy
from rigsync.core.stream import StreamDecoder
from rigsync.errors import RemoteProtocolError
from rigsync.net.lines import Address, Line, Pump, label
from rigsync.net.stream import BACKLOG, Framing, Owner, Stream, open_stream

logger = logging.getLogger("rigsync.endpoint")

CONNECT_TIMEOUT = 3.0
"""Seconds that connecting may take: one repeat of the first packet (RFC 6298 section 2), and the 2 s for which Windows
asks a refusing port again and again."""
FIRST_RETRY = 0.05
LAST_RETRY = 0.5
"""Seconds between two attempts to connect: the first wait and the longest, doubled each time. A rig that restarts is
back within two beats."""
_MOST_SAID = 8
"""Most problems of one line that are logged before a message comes."""


class TcpLine(Line, Owner):
    """A connection towards a rig, which is opened again whenever it ends.

    Several of the core's lines share one connection, since some servers answer on the connection that was opened last.
    The first of `lines`, the core's names of these, gets all that arrives.
    """

    def __init__(
        self,
        pump: Pump,
        lines: Sequence[Any],
        family: int,
        address: Address,
        limit: int,
        framing: Framing = StreamDecoder,
    ):
        self._pump, self.name = pump, lines[0]
        self._family, self._address, self._limit, self._framing = family, address, limit, framing
        self._stream: Stream | None = None
        self._unsent = 0  # bytes that waited there at the last look
        self._early: list[tuple[Any, bytes]] = []
        self._connecting = True  # at once, although the task has yet to begin
        # What was sent last on each line. The timers send it again, but a connection loses nothing, so it does not
        # leave again. Of a large frame only the hash is kept. Frames are numbered, so no two are equal.
        self._sent: dict[Any, bytes | int] = {}
        self._retry = FIRST_RETRY
        self._closed = False
        self._said: set[str] = set()
        self._ended = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(
            self._keep_connected(), name=f"rigsync line {label(self.name)}"
        )

    async def _keep_connected(self) -> None:
        def make() -> Stream:
            return Stream(self, self._limit, legacy.ProbePacing(), self._framing)

        while True:
            self._connecting = True
            try:
                self._ended.clear()
                stream = await open_stream(make, self._family, self._address, CONNECT_TIMEOUT)
            except (ConnectionRefusedError, ConnectionResetError):
                self._give_up_early()
                self._pump.refuse(self.name)
            except OSError as error:
                self._give_up_early()
                self._say(f"no connection: {error}")
            else:
                self._connecting = False
                if self._closed:  # `wait_for` swallows a cancellation that meets its result, until Python 3.12
                    stream.end()
                    return
                self._stream, self._unsent = stream, 0
                early, self._early = self._early, []
                for line, data in early:
                    self.send(line, data)
                await self._ended.wait()
                self._stream = None
                self._sent.clear()
                self._say(f"the connection has ended ({stream.reason}); connecting again")
            await asyncio.sleep(self._retry)
            self._retry = min(2 * self._retry, LAST_RETRY)

    def _give_up_early(self) -> None:
        # Lost, like refused datagrams: the timers send again.
        self._connecting = False
        self._early.clear()

    def _say(self, problem: str) -> None:
        if problem not in self._said and len(self._said) < _MOST_SAID:  # for the attempts go on
            self._said.add(problem)
            logger.warning("%s: %s", label(self.name), problem)

    def heard(self, stream: Stream, message: bytes) -> None:
        if self._said:
            self._said.clear()
        self._retry = FIRST_RETRY
        self._pump.receive(message, self.name)

    def heard_part(self, stream: Stream) -> None:
        self._pump.show_life(self.name)

    def rejected(self, stream: Stream, error: RemoteProtocolError) -> None:
        self._pump.reject(self.name, error)

    def closed(self, stream: Stream) -> None:
        self._ended.set()

    def send(self, line: Any, data: bytes) -> None:
        if self._stream is None:
            if self._connecting and sum(len(early) for _, early in self._early) <= BACKLOG:
                self._early.append((line, data))
            return
        before, self._unsent = self._unsent, self._stream.transport.get_write_buffer_size()
        if before > self._unsent:  # the rig reads
            self._pump.show_life(self.name)
        known = data if len(data) <= BACKLOG or legacy.is_array(data) else hash(data)
        last = self._sent.get(line)
        if last is not known and not (isinstance(known, int) and last == known):
            self._sent[line] = known
            self._stream.write(data)

    def reconnect(self, reason: str) -> None:
        if self._stream:
            self._stream.stop(f"its rig is lost: {reason}")

    def close(self) -> None:
        self._closed = True
        self._task.cancel()
        if self._stream:
            self._stream.end()
