"""What asks a program to end: signals, and the closing of its console window, which Windows leaves five seconds."""

from __future__ import annotations

import signal
import sys

if sys.platform == "win32":
    import ctypes
    import functools
    import time
    from ctypes import wintypes

    # Of wincon.h: the window is closed, the user logs off, the computer is shut down.
    _CLOSING = (2, 5, 6)
    _LONGEST = 30.0
    """Seconds: longer than Windows waits (5 s as a rule, at a shutdown up to 20 s) before it ends the program."""

    @ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)
    def _hold(event: int) -> bool:
        if event not in _CLOSING:
            return False  # left to the next handler, Python's
        signal.raise_signal(signal.SIGBREAK)
        time.sleep(_LONGEST)  # Windows ends the program as soon as this returns
        return True

    @functools.cache
    def watch_console_window() -> None:
        """Have the closing of the window come as SIGBREAK, and leave the main thread the time to end the program.

        Python has it as SIGBREAK by itself, but then Windows ends the program before the main thread comes to it.
        """
        ctypes.WinDLL("kernel32").SetConsoleCtrlHandler(_hold, True)

else:

    def watch_console_window() -> None:
        """Do nothing: elsewhere, a terminal that is closed sends SIGHUP."""


def ending_signals() -> list[int]:
    """Return the numbers of those that end a program which does not handle them, beside Ctrl-C.

    SIGHUP says that the terminal is gone; SIGBREAK is what Windows has in place of SIGTERM.
    """
    return [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
