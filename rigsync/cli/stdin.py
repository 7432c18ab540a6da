"""Programs that end when their parent does: the children of `rigsync demo` watch their stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from threading import Thread


def at_end_of_stdin(function: Callable[[], object]) -> None:
    """Have a function called, on a thread of its own, once stdin ends: when the parent has ended, however it did."""

    def wait() -> None:
        # Not by sys.stdin: at exit the interpreter would wait for the lock that a reader holds.
        while os.read(sys.stdin.fileno(), 1024):
            pass
        function()

    Thread(target=wait, name="rigsync stdin", daemon=True).start()
