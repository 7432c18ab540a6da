"""A rig that is an OSC program."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Hashable
from typing import Any

from rigsync._text import shortened
from rigsync.bridges.osc import codec
from rigsync.bridges.osc.wire import FRAMINGS, Connection
from rigsync.bridges.stand_in import NotThere, Problem, ProgramFailed, StandIn
from rigsync.config.programs import OSC
from rigsync.core.coordinators import Standing
from rigsync.errors import RemoteProtocolError
from rigsync.hub.documents import json_of
from rigsync.net.endpoint import look_up
from rigsync.net.lines import Line, Listener, shown_host
from rigsync.net.ports import explained
from rigsync.net.resolve import addresses_of
from rigsync.net.udp import open_udp_line, open_udp_listener

OPENING = 1.0
"""Most seconds to wait at the start for a TCP connection. Then it goes on trying."""
_YES = ("ok", "OK", True)
"""The words of an answer for success; 1 equals True."""


class OscRig(StandIn):
    """Sends messages to an OSC program, and takes its answers; docs/bridges.md describes both."""

    sends_early = True

    @property
    def confirms(self) -> bool:
        return self.config.answer is not None

    @property
    def _framing(self) -> str:
        """How packets are framed on a TCP connection; empty for UDP."""
        return self.config.address.scheme.removeprefix(OSC).removeprefix("+")

    @property
    def shows_life(self) -> bool:
        return bool(self._framing) or super().shows_life  # a connection shows it, too

    @property
    def is_away(self) -> bool:
        if isinstance(self._line, Connection) and not self._line.is_open and not self.under_way:
            return True
        return super().is_away

    async def connect(self) -> None:
        self._awaited: dict[Hashable, asyncio.Future[dict[str, Any]]] = {}
        self._line: Line | None = None
        self._listener: Listener | None = None
        (self._family, self._address), *_ = await look_up(self.config)
        if self._framing:
            self._tried = asyncio.Event()
            self._line = Connection(self, self.name, self._family, self._address, self._framing)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._tried.wait(), OPENING)
            return
        self._line = await open_udp_line(self, self.name, self._family, self._address)
        if listen := self.config.listen:
            try:
                self._listener = await open_udp_listener(self, *addresses_of(listen)[0])
            except OSError as error:
                who = f"rig {self.name}, for the answers of {self.at},"
                raise await self.loop.run_in_executor(None, explained, error, who, str(listen), listen) from None

    def disconnect(self) -> None:
        for way in (self._line, self._listener):
            if way:
                way.close()

    async def ping(self) -> None:
        if (old := self._line) and old.is_stranded():  # the network has changed, or was not there before
            self._line = await open_udp_line(self, self.name, self._family, self._address)
            old.close()
        if self.config.ping:
            self._transmit(self._packet(self.config.ping, None))

    def send(self, message: Any, number: int, instant: float | None) -> asyncio.Future[dict[str, Any]]:
        packet = self._packet(message, instant)
        if isinstance(self._line, Connection):
            self._check(self._line)
        future: asyncio.Future[dict[str, Any]] = self.loop.create_future()
        # An answer names its message: by number if the message has one, else by address.
        key = future if not self.confirms else number if number in message[1:] else message[0]
        self._awaited[key] = future
        future.add_done_callback(lambda done: self._awaited.get(key) is done and self._awaited.pop(key))
        self._transmit(packet)
        if self._line and (error := self._line.problem) and not future.done():
            future.set_exception(Problem(f"nothing has left for {self.at}: {error}; look at this computer's network"))
        return future

    def _packet(self, message: Any, instant: float | None) -> bytes:
        address, *args = message
        packet = codec.encode(address, [arg if isinstance(arg, (str, int, float)) else json_of(arg) for arg in args])
        if instant is not None:
            packet = codec.bundle(time.time() + instant - self.loop.time(), packet)
        if len(packet) > codec.LARGEST:
            raise Problem(f"{address} has {len(packet):,} bytes, and a packet at most {codec.LARGEST:,}")
        return packet

    def _check(self, connection: Connection) -> None:
        """Raise a `Problem` if nothing can leave on a connection, or the program reads nothing from it."""
        if not connection.is_open:
            raise NotThere(f"there is no connection to {self.at}: start its program there")
        if waiting := connection.unsent:
            raise Problem(f"{self.at} does not read what it is sent: {waiting:,} bytes wait; look at its program")

    def _transmit(self, packet: bytes) -> None:
        if self._line:
            self._line.send(self.name, FRAMINGS[self._framing].frame(packet) if self._framing else packet)

    # ------------------------------------------------------------------------------------------ pump of the sockets

    def receive(self, data: bytes, source: Any) -> None:
        if not isinstance(source, str) and not self._is_the_program(source[0]):
            self.note("stranger", f"something came from {shown_host(source[0])}, which is not {self.at}")
            return
        try:
            found = [codec.decode(element.data) for element in codec.unpack(data)]
        except codec.BadPacket as error:
            self.note("malformed", f"{self.at} has sent {error}")
            return
        self.heard = self.loop.time()
        for address, args in found:
            if self.confirms and address == self.config.answer:
                self._settle(args)

    def _settle(self, args: list[Any]) -> None:
        if len(args) < 2 or not isinstance(args[0], (str, int)):
            self.note(
                "malformed", f"an answer names its message first, then ok or the failure, not {shortened(args, 80)}"
            )
        elif (future := self._awaited.get(args[0])) is None or future.done():
            self.note("unexpected", f"nobody waits for the answer to {shortened(args[0])}, which came late or twice")
        elif args[1] in _YES:
            future.set_result({"answer": args[2:]} if args[2:] else {})
        else:
            told = " ".join(str(arg) for arg in args[1:] if isinstance(arg, str) or arg)
            future.set_exception(ProgramFailed(told.strip() or f"{self.at} says that it has failed, and not why"))

    def _is_the_program(self, host: str) -> bool:
        return ipaddress.ip_address(shown_host(host)) == ipaddress.ip_address(shown_host(self._address[0]))

    def refuse(self, line: Any) -> None:
        self._fail_all(f"nothing listens at {self.at}: start its program there")
        self.note_refusal()
        self._note_tried()

    def joined(self, name: str) -> None:
        """Take note that the connection is open."""
        self.heard = self.loop.time()
        self._note_tried()

    def parted(self, name: str) -> None:
        """Take note that the connection has ended: what was sent last may be lost."""
        self._fail_all(f"the connection to {self.at} has ended; look there whether it is done")

    def _note_tried(self) -> None:
        if self._framing:
            self._tried.set()

    def _fail_all(self, problem: str) -> None:
        for future in list(self._awaited.values()):
            if not future.done():
                future.set_exception(NotThere(problem))

    def show_life(self, line: Any) -> None:
        """Take no notice: datagrams come whole."""

    def reject(self, source: Any, error: RemoteProtocolError) -> None:
        self.note("malformed", error.problem)

    def standing(self, head: bytes, source: Any) -> Standing:
        return Standing.WATCHES
