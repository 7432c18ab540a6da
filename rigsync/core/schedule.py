"""The instant at which handlers are entered, which either side may take."""

from __future__ import annotations


class Schedule:
    """An instant at which to enter handlers, unless they are called off before.

    One side enters the handlers, on whatever thread; the other may call them off. Only one of the two gets to `take`
    it. So no handlers are entered after the rig has said that they were not.

    Parameters
    ----------
    instant : float
        Monotonic seconds.
    """

    __slots__ = ("_token", "instant")

    def __init__(self, instant: float):
        self.instant = instant
        self._token = [True]

    def take(self) -> bool:
        """Return whether the caller is the first to take it."""
        try:
            return self._token.pop()  # atomic, also between threads
        except IndexError:
            return False
