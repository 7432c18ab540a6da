"""The simulated network, its time, and what takes part in it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from random import Random
from typing import Any

from rigsync.core.clock import NANOSECONDS, StampClock

SimAddress = tuple[str, int]

EPOCH = 1_700_000_000 * NANOSECONDS
"""Wall time, in nanoseconds, at virtual time 0."""


class DriftingClock(StampClock):
    """A clock that is off, and drifts further off.

    Parameters
    ----------
    offset : float
        Seconds by which it is ahead of the network's time at virtual time 0.
    drift : float
        Seconds a second by which it gains.
    """

    def __init__(self, offset: float = 0.0, drift: float = 0.0):
        super().__init__(EPOCH, 0.0)
        self._offset, self._drift = offset, drift

    def stamp(self, now: float) -> int:
        """Return the stamp of the virtual instant `now`."""
        return super().stamp(now + self._offset + self._drift * now)

    def instant(self, stamp: int) -> float:
        """Return the virtual instant of a stamp."""
        return (super().instant(stamp) - self._offset) / (1 + self._drift)


class Node:
    """A participant of a `SimNetwork`; by itself it does nothing."""

    listening = True
    """Whether its port is open."""
    host_up = True
    """Whether its computer refuses datagrams to a closed port."""

    def receive(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        """Process a datagram."""

    def refuse(self, source: SimAddress, destination: SimAddress) -> None:
        """React to a refusal by `destination` of a datagram from `source`."""

    def handle_timer(self) -> None:
        """Do what is due."""

    def next_timer(self) -> float:
        """Return when `handle_timer` is due, in virtual seconds."""
        return math.inf


class Network:
    """What `SimNetwork` is, but for the making of its participants."""

    def __init__(
        self,
        seed: int = 0,
        *,
        loss: float = 0.0,
        duplication: float = 0.0,
        reordering: float = 0.0,
        delay: tuple[float, float] = (0.0001, 0.001),
    ):
        self.random = Random(seed)
        self.loss, self.duplication, self.reordering, self.delay = loss, duplication, reordering, delay
        self.now = 0.0
        self.cut_off: set[str] = set()
        self.rigs: dict[str, Any] = {}
        self._nodes: list[Node] = []
        self._timers: dict[Node, float] = {}  # of those to which nothing has happened since
        self._at: dict[SimAddress, Node] = {}
        self._last: dict[tuple[SimAddress, SimAddress], float] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = self._coordinators = 0

    def send(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        """Carry a datagram, or not."""
        if not self._at[source].listening:
            return  # a program that has ended sends nothing more, whatever its handlers still do
        if source[0] in self.cut_off or destination[0] in self.cut_off:
            return
        if self.random.random() < self.loss:
            return
        copies = 2 if self.random.random() < self.duplication else 1
        for _ in range(copies):
            # As in a switched network, nothing overtakes on one way, except by being held back on purpose.
            arrival = max(self.now + self.random.uniform(*self.delay), self._last.get((source, destination), 0.0))
            if self.random.random() < self.reordering:
                arrival += self.random.uniform(0, 0.05)
            else:
                self._last[source, destination] = arrival
            self._schedule(arrival, lambda: self._deliver(data, source, destination))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Call `action` after `delay` virtual seconds."""

        def act() -> None:
            self._timers.clear()  # nobody knows which of the participants it concerns
            action()

        self._schedule(self.now + delay, act)

    def touch(self, node: Node) -> None:
        """Note that something has happened to a participant: `Node.next_timer` is asked again."""
        self._timers.pop(node, None)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let virtual time pass.

        Parameters
        ----------
        seconds : float
            Most seconds to pass.
        until : callable
            Called after each event; true ends the run. By default nothing does.

        Returns
        -------
        bool
            Whether `until` has become true.
        """
        end = self.now + seconds
        self._timers.clear()
        while not until():
            when = min([self._due[0][0] if self._due else math.inf, *map(self._next_timer, self._nodes)])
            if when > end:
                self.now = end
                return until()
            self.now = max(self.now, when)
            while self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()
            for node in self._nodes:
                if self._next_timer(node) <= self.now:
                    self.touch(node)
                    node.handle_timer()
        return True

    def stamps(self) -> StampClock:
        """Return a wall clock that starts now."""
        return StampClock(EPOCH + round(self.now * NANOSECONDS), self.now)

    def draw_boot(self) -> str:
        """Return 16 random hexadecimal digits."""
        return f"{self.random.getrandbits(64):016x}"

    def _next_timer(self, node: Node) -> float:
        when = self._timers.get(node)
        if when is None:
            when = self._timers[node] = node.next_timer()
        return when

    def _schedule(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, action))

    def _deliver(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        target = self._at[destination]
        if target.listening:
            self.touch(target)
            target.receive(data, source, destination)
        elif target.host_up:
            self.after(self.random.uniform(*self.delay), lambda: self._at[source].refuse(source, destination))
