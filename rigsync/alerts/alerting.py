"""The alerts of one hub: from the events that it tells to the threads that tell people."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from importlib import import_module
from typing import Any

from rigsync.alerts.watch import Watch
from rigsync.config.alerts import Alert, Webhook
from rigsync.core.events import Event
from rigsync.runtime.exits import ALERTS, at_exit
from rigsync.runtime.hub import Hub

logger = logging.getLogger("rigsync.alerts")

LAST_TRY = 1.5
"""Seconds that what waits has when the program closes what it has opened."""
CUT_TIME = 0.5
"""Seconds for what is cut then."""


class Alerts:
    """Tells people of what happens at a hub, in a way that never holds up the hub.

    It ends with the hub at the latest. What waits is tried once more then.

    Parameters
    ----------
    hub : Hub
        The hub of a coordinator or a rig.
    alerts : sequence of Alert
        Who is told of what.
    watch : Watch
        Finds in the events what people are told of.
    """

    def __init__(self, hub: Hub, alerts: Sequence[Alert], watch: Watch):
        self._hub, self._alerts, self._watch = hub, alerts, watch
        self._senders: list[Any] = []
        self._ends: list[Callable[[], object]] = []

    @property
    def longest_end(self) -> float:
        """Seconds that `finish` takes at most."""
        return LAST_TRY + CUT_TIME if self._senders else 0.0

    def open(self) -> None:
        """Begin to tell."""
        if not self._alerts:
            return
        sender = import_module("rigsync.alerts.sender")  # HTTP and the like, for those who have alerts
        self._senders = [sender.Sender(alert, self._hub.ingest) for alert in self._alerts]
        for alert in self._alerts:
            if isinstance(alert.way, Webhook) and (problem := sender.problem_with(alert)):
                logger.warning("%s: nobody can be told: %s", alert.name, problem)
        # Rules: no filter of the program keeps a failure from people, and those of another lab are its affair.
        for each in self._senders:
            each.begin()
        self._ends = [self._hub.rule(kind, self._take, last=True) for kind in self._watch.kinds]
        self._ends.append(self._hub.add(self))
        _open.add(self)

    def _take(self, event: Event) -> None:
        for happening in self._watch.take(event, time.monotonic()):
            for sender in self._senders:
                sender.offer(happening)

    def start(self, _: Callable[[Event], None]) -> None:
        """Do nothing; for the hub, which closes its sources."""

    def close(self) -> None:
        """End, without waiting; for the hub."""
        _open.discard(self)
        for end in self._ends[:-1]:  # the last would have the hub close this once more
            end()
        for sender in self._senders:
            sender.end(LAST_TRY)

    async def finish(self) -> None:
        """Try what waits once more, and end, within some seconds; on an event loop."""
        self.close()
        if ended := {asyncio.wrap_future(sender.ended) for sender in self._senders}:
            _, late = await asyncio.wait(ended, timeout=LAST_TRY)
            if late:
                self._cut()
                await asyncio.wait(late, timeout=CUT_TIME)
        self._let_go()

    def finish_here(self) -> None:
        """Do as `finish` does, on a thread that may wait."""
        self.close()
        if wait(ended := [sender.ended for sender in self._senders], LAST_TRY).not_done:
            self._cut()
            wait(ended, CUT_TIME)
        self._let_go()

    def _cut(self) -> None:
        for sender in self._senders:
            sender.cut()

    def _let_go(self) -> None:
        while self._ends:
            self._ends.pop()()
        self._senders = []


_open: weakref.WeakSet[Alerts] = weakref.WeakSet()


@at_exit(ALERTS)
def _tell_the_last() -> None:
    """Tell what waits in a program that ends without closing what it has opened: the interrupt, for instance."""
    for alerts in list(_open):
        alerts.finish_here()
