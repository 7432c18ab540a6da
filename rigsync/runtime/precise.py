"""Waiting for an instant more exactly than the system's timers."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable

if sys.platform == "linux":
    FINE = 0.00003
elif sys.platform == "win32" and sys.version_info < (3, 11):
    FINE = 0.016
else:
    FINE = 0.002
"""Seconds before the instant at which watching the clock begins. They depend on how late `time.sleep` ends on an idle
machine. On Linux that is some 30 us for a thread that is woken exactly. It is up to 1 ms on macOS, which wakes programs
together, and with Windows' high-resolution timers. Python 3.10 does not use these, and sleeps by ticks of 15.6 ms."""
COARSE = FINE + 0.003
"""Seconds before the instant at which an event loop's own timer hands over: it may wake a millisecond late."""


def wait_until(instant: float, now: Callable[[], float], given_up: Callable[[], bool]) -> None:
    """Return at an instant on the clock that `now` reads, to within some tens of microseconds on an idle machine.

    `given_up` is called now and then; a true value ends the waiting early.
    """
    if instant - now() > FINE:
        wake_exactly()
    while not given_up():
        left = instant - now()
        if left <= 0:
            return
        if left > FINE:
            time.sleep(left - FINE)
        # otherwise watch the clock: even sleep(0) would hand the processor to a program that keeps it longer


def wake_exactly() -> None:
    """Have Linux wake the calling thread exactly when it asks for it.

    Else it may do so up to 50 us later, together with others (prctl(2), PR_SET_TIMERSLACK). That is most of what
    handlers would be late by. Programs that the thread starts inherit it.
    """
    if sys.platform == "linux":
        path = f"/proc/{threading.get_native_id()}/timerslack_ns"
        with contextlib.suppress(OSError), open(path, "w") as slack:  # no /proc, or an older kernel
            slack.write("1")
