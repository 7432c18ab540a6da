"""What asks a program to end: signals, and the closing of its console window. Windows gives it five seconds then."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

if sys.platform == "win32":
    import ctypes
    import functools
    import time
    from ctypes import wintypes

    # Of wincon.h: the window is closed, the user logs off, the computer is shut down.
    _CLOSING = (2, 5, 6)
    _LONGEST = 30.0
    """Seconds for which the handler waits: longer than Windows does before it ends the program (5 s as a rule, at a
    shutdown up to 20 s)."""

    @ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)
    def _hold(event: int) -> bool:
        if event not in _CLOSING:
            return False  # left to Python's handler, the next one
        signal.raise_signal(signal.SIGBREAK)
        time.sleep(_LONGEST)  # Windows ends the program as soon as this returns
        return True

    @functools.cache
    def watch_console_window() -> None:
        """Turn the closing of the window into SIGBREAK, and give the main thread time to end the program.

        Python does so by itself, but then Windows ends the program before the main thread can handle the signal.
        """
        ctypes.WinDLL("kernel32").SetConsoleCtrlHandler(_hold, True)

else:

    def watch_console_window() -> None:
        """Do nothing: elsewhere, a terminal that is closed sends SIGHUP."""


def ending_signals() -> list[int]:
    """Return the signals, beside Ctrl-C, that end a program which does not handle them.

    SIGHUP says that the terminal is gone; SIGBREAK is what Windows has in place of SIGTERM.
    """
    return [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


@contextlib.contextmanager
def signals_held_back() -> Iterator[list[int]]:
    """Hold back Ctrl-C and requests to end until the context is left, for what takes a bounded time.

    Gives the list of those that have come; those that are in it at the end are obeyed. On another thread than the main
    one, which no signal interrupts, it does nothing.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    try:
        with signals_handled(lambda number, _: came.append(number), signal.SIGINT, *ending_signals()):
            yield came
    finally:
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def signals_handled(handler: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    """Let a function handle signals until the context is left. Ignored ones stay ignored, as after `nohup`."""
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    watch_console_window()
    try:
        yield
    finally:
        for number, former in before.items():
            # None is a handler that Python has not installed and cannot put back.
            signal.signal(number, signal.SIG_DFL if former is None else former)
