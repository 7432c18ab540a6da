"""What holds for every way of telling: it takes a bounded time, and says why it has failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rigsync.errors import RigsyncError


class NotSent(RigsyncError):
    """Nobody was told; the text says why, and what to do. `for_good`: another try would end in the same way."""

    def __init__(self, problem: str, for_good: bool = False):
        self.for_good = for_good
        super().__init__(problem)


class Limit:
    """Some seconds, or less where somebody cuts them short, from any thread.

    What is waited for has ended where `done` was called.
    """

    def __init__(self, seconds: float):
        self.seconds = max(0.0, seconds)
        self._end = time.monotonic() + self.seconds
        self._event = threading.Event()
        self.is_cut = False

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return 0.0 if self.is_cut else max(0.0, self._end - time.monotonic())

    def cut(self) -> None:
        """End it now."""
        self.is_cut = True
        self._event.set()

    def done(self) -> None:
        """Say that what is waited for has ended."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Wait until it is done, or cut, or over, so many seconds at most."""
        self._event.wait(min(seconds, self.left))

    def wait_for(self, has_ended: Callable[[], bool], every: float) -> bool:
        """Look every so many seconds whether something has ended, until it has or the time is over."""
        while not (ended := has_ended()) and self.left:
            self.wait(every)
        return ended
