"""The output of a core: datagrams and events, collected as they arise and taken by the pump."""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

from rigsync.core.events import Event

Destination = TypeVar("Destination")


class Line(str, Enum):
    """A coordinator's two sockets towards a rig; probes have their own, so that they disturb no iblutil rig."""

    REQUESTS = "requests"
    PROBES = "probes"


class Outputs(Generic[Destination]):
    """Base of both cores."""

    def __init__(self) -> None:
        self._outbox: list[tuple[Destination, bytes]] = []
        self._events: list[Event] = []

    def take_datagrams(self) -> list[tuple[Destination, bytes]]:
        if not self._outbox:
            return []
        taken = self._outbox.copy()
        self._outbox.clear()
        return taken

    def take_events(self) -> list[Event]:
        if not self._events:
            return []
        taken = self._events.copy()
        self._events.clear()
        return taken
