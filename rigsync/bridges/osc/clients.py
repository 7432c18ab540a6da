"""Who has subscribed to which events, and until when: pure, the time is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from rigsync.bridges.osc.address_space import matcher

KEPT = 60.0
"""Seconds for which a subscription holds, unless it is renewed."""
MOST_CLIENTS = 64
"""Most subscribers at a time."""

Client = TypeVar("Client", bound=Hashable)


class Clients(Generic[Client]):
    """Subscribers, each with a pattern of types of events."""

    def __init__(self) -> None:
        self._clients: dict[Client, tuple[Callable[[str], bool], float]] = {}
        self._next_end = math.inf

    def subscribe(self, client: Client, pattern: str, now: float) -> bool | None:
        """Note, or renew, a subscription at monotonic `now` (s).

        Returns
        -------
        bool or None
            Whether it is a new one; None where there is no room for it.

        Raises
        ------
        BadPattern
            The pattern is none.
        """
        fits = matcher(pattern)
        self._forget(now)
        is_new = client not in self._clients
        if is_new and len(self._clients) >= MOST_CLIENTS:
            return None
        self._clients[client] = fits, now + KEPT
        self._next_end = min(self._next_end, now + KEPT)
        return is_new

    def unsubscribe(self, client: Client) -> bool:
        """Forget a subscriber; return whether it was one."""
        return self._clients.pop(client, None) is not None

    def wanting(self, kind: str, now: float) -> list[Client]:
        """Return who is to be told of a type of events at monotonic `now` (s)."""
        self._forget(now)
        return [client for client, (fits, _) in self._clients.items() if fits(kind)]

    def _forget(self, now: float) -> None:
        if now >= self._next_end:
            self._clients = {client: entry for client, entry in self._clients.items() if entry[1] > now}
            self._next_end = min((end for _, end in self._clients.values()), default=math.inf)
