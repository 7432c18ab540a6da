"""The rig of `rigsync serve NAME`: it shows its messages, and can be slow, fail or lose datagrams."""

from __future__ import annotations

import asyncio
from _thread import interrupt_main
from collections.abc import Callable, Collection
from functools import partial
from random import random
from typing import Any

from rigsync import ExpMessage, Rig
from rigsync.cli.outcomes import answer_of
from rigsync.core.arguments import validate_event
from rigsync.core.clock import StampClock
from rigsync.core.coordinators import Address
from rigsync.core.messages import Verb
from rigsync.core.responder import Responder
from rigsync.core.timing import Timing


class PracticeRig(Rig):
    """A rig that answers everything.

    It calls `show` with name and arguments of each handled message, without tokens. Each takes `latency` seconds, those
    of `failing` fail, and `drop` is the share of incoming datagrams that are lost, from 0 to 1. The other options are
    those of `Rig`.
    """

    def __init__(
        self,
        name: str,
        uri: str,
        show: Callable[[str, list[Any]], object],
        *,
        latency: float | None,
        failing: Collection[str],
        drop: float,
        **options: Any,
    ):
        super().__init__(name, uri, **options)
        if drop and self._config.address.scheme == "tcp":
            raise ValueError("--drop is for udp://; what a rig loses on tcp:// never comes again")
        self._show, self._latency, self._drop = show, latency, drop
        for message in ExpMessage.__members__.values():
            self.on(message)(partial(self._note, message.name))
            if latency:
                self.on(message)(self._take_time)
        for message in {validate_event(name) for name in failing}:
            self.on(message)(_fail)

    def _make_responder(self, handled: Collection[Verb], timing: Timing, boot: str, stamps: StampClock) -> Responder:
        identity, lease, room, board = self._identity, self._lease, self._room, self._board
        responder = _HardOfHearing(identity, handled, timing, boot, stamps, lease, room, board)
        responder.drop = self._drop
        return responder

    def _note(self, message: str, *args: Any) -> None:
        try:
            self._show(message, answer_of(message, list(args)))
        except BrokenPipeError:
            interrupt_main()  # nobody looks any more

    async def _take_time(self) -> None:
        await asyncio.sleep(self._latency or 0)


class _HardOfHearing(Responder):
    """Loses a share of the incoming datagrams."""

    drop = 0.0
    """The share, from 0 to 1."""

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        if random() >= self.drop:
            super().receive_datagram(data, source, now)


def _fail() -> None:
    raise RuntimeError("told to fail by --fail")
