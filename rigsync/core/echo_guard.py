"""Against echoes of echoes: two iblutil sides that confirm each other's confirmations would never stop."""

from __future__ import annotations

import math

WINDOW = 1.0
"""Seconds over which repeats are counted."""
MOST = 2000
"""Echoes of the same bytes that may leave within the window. A coordinator that polls as fast as it can causes fewer,
an exchange of echoes on a local network more."""


class EchoGuard:
    """Tells whether one more echo of the same bytes to the same address may leave.

    iblutil echoes whatever it did not expect, so that a duplicated datagram, or a forged one, can start an exchange
    at full speed that goes on for ever. One echo that is held back ends it.
    """

    __slots__ = ("_count", "_last", "_since")

    def __init__(self) -> None:
        self._last: int | None = None  # its hash: the bytes themselves may be many
        self._count = 0
        self._since = -math.inf

    def allows(self, data: bytes, now: float) -> bool:
        """Count an echo of `data` at monotonic `now`, in seconds, and return whether it may be sent."""
        if (known := hash(data)) != self._last or now - self._since >= WINDOW:
            self._last, self._count, self._since = known, 0, now
        self._count += 1
        return self._count <= MOST
