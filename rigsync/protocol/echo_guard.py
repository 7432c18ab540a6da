"""Against echoes of echoes: two iblutil sides that confirm each other's confirmations would never stop."""

from __future__ import annotations

from collections import deque

WINDOW = 1.0
"""Seconds over which repeats are counted."""
MOST = 16
"""Echoes of the same bytes within the window that are still taken for messages of their own."""


class EchoGuard:
    """Tells whether one more echo of the same bytes to the same address may leave.

    iblutil echoes whatever it did not expect, so that a duplicated datagram, or a forged one, can start an exchange
    at full speed that goes on for ever. No rig repeats one message as often as this allows.
    """

    __slots__ = ("_bytes", "_times")

    def __init__(self) -> None:
        self._bytes = b""
        self._times: deque[float] = deque(maxlen=MOST)

    def allows(self, data: bytes, now: float) -> bool:
        """Count an echo of `data` at monotonic `now`, in seconds, and return whether it may be sent."""
        if data != self._bytes:
            self._bytes = data
            self._times.clear()
        elif len(self._times) == MOST and now - self._times[0] < WINDOW:
            return False
        self._times.append(now)
        return True
