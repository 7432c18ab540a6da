"""Waiting for an instant more exactly than the system's timers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

if sys.platform == "linux":
    FINE = 0.00005
elif sys.platform == "win32" and sys.version_info < (3, 11):
    FINE = 0.016
else:
    FINE = 0.002
"""Seconds before the instant from which on the clock is watched, by how late `time.sleep` ends on an idle machine: some
60 to 100 us on Linux, half of which is enough and leaves the processor to other rigs on it; up to 1 ms on macOS, which
wakes programs together, and with Windows' high-resolution timers; a tick of 15.6 ms on Windows with Python 3.10, which
does not use them."""
COARSE = FINE + 0.003
"""Seconds before the instant until which an event loop's own timers serve: they wake up to a millisecond late."""


def wait_until(instant: float, now: Callable[[], float], given_up: Callable[[], bool]) -> None:
    """Return at an instant, to within some tens of microseconds on an idle machine.

    Parameters
    ----------
    instant : float
        In seconds, on the clock that `now` reads.
    now : callable
        Returns the time in seconds.
    given_up : callable
        Asked now and then; true ends the waiting early.
    """
    while not given_up():
        left = instant - now()
        if left <= 0:
            return
        if left > FINE:
            time.sleep(left - FINE)
        # else: watch the clock. To sleep, be it for 0 s, would hand the processor to whoever keeps it longer.
