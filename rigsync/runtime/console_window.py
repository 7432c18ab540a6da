"""The closing of a console window, which asks its program to end. Windows gives it five seconds then."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import ctypes
    import functools
    import signal
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
