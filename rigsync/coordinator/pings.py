"""Single probes whose answer somebody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rigsync.coordinator.results import PingReply
from rigsync.coordinator.view import RigView
from rigsync.core.events import ProbeAnswered, ProbeRefused
from rigsync.core.peer import Peer
from rigsync.core.rigs import Address
from rigsync.errors import RigError, RigRefused, RigTimeout
from rigsync.runtime.callbacks import guarded
from rigsync.runtime.hub import Hub


@dataclass(slots=True, eq=False)
class _Ping:
    """A probe whose answer somebody waits for."""

    rig: str
    n: int
    done: Callable[[PingReply | RigError], object]
    timer: asyncio.TimerHandle | None = None


class Looks(Protocol):
    """The links of which it looks how a rig is."""

    hub: Hub

    def peer(self, name: str) -> Peer | None:
        """Return the core's view of a rig, where there is one."""

    def view(self, name: str) -> RigView:
        """Return how a rig is now."""

    def address(self, name: str) -> tuple[Any, ...]:
        """Return host and port of a rig."""


class Pings:
    """The probes of one coordinator that somebody waits for; `address` gives a rig's URI."""

    def __init__(self, links: Looks, address: Callable[[str], str]):
        self._links, self._address = links, address
        self._waiting: list[_Ping] = []
        links.hub.rule(ProbeAnswered, self._note_answer)
        links.hub.rule(ProbeRefused, self._note_refusal)

    def wait(self, rig: str, n: int, timeout: float, done: Callable[[PingReply | RigError], object]) -> None:
        """Have `done` called, once, with what becomes of a probe by its number, within so many seconds."""
        late = RigTimeout(rig, f"no answer from {self._address(rig)} within {timeout:g} s")
        ping = _Ping(rig, n, done)
        ping.timer = asyncio.get_running_loop().call_later(timeout, self._finish, [ping], late)
        self._waiting.append(ping)

    def close(self) -> None:
        """Tell all who wait that no answer will come."""
        for ping in list(self._waiting):
            self._finish([ping], RigTimeout(ping.rig, "closed before the probe was answered"))

    def _note_answer(self, event: ProbeAnswered) -> None:
        if answered := [ping for ping in self._waiting if (ping.rig, ping.n) == (event.rig, event.n)]:
            self._finish(answered, self._reply(event))

    def _reply(self, event: ProbeAnswered) -> PingReply | RigError:
        peer = self._links.peer(event.rig)
        if peer and (other := peer.mistaken_for(asyncio.get_running_loop().time())):
            return other
        view = self._links.view(event.rig)
        if not event.stamps:  # an iblutil rig's echo says nothing of it
            view = RigView(view.rig, view.link, dialect=view.dialect)
        return PingReply(
            view.rig,
            str(Address("udp", *self._links.address(event.rig))).partition("://")[2],
            event.round_trip,
            view.dialect,
            None if view.status is None else view.status.name,
            *(view.exp_ref, view.version, view.owner, view.clock),
            (peer.process.troubles or 0) if peer and event.stamps else 0,
        )

    def _note_refusal(self, event: ProbeRefused) -> None:
        address = self._address(event.rig).partition("://")[2]
        refused = RigRefused(
            event.rig, f"the host of {address} is up and nothing listens at that port; start the rig's program there"
        )
        self._finish([ping for ping in self._waiting if ping.rig == event.rig], refused)

    def _finish(self, pings: list[_Ping], outcome: PingReply | RigError) -> None:
        for ping in pings:
            self._waiting.remove(ping)
            if ping.timer:
                ping.timer.cancel()
            guarded("waiter for a ping", ping.done, outcome)
