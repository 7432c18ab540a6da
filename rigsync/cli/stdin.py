"""The end of stdin. The children of `rigsync demo` watch for it, so that they end with their parent."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from threading import Thread


def at_end_of_stdin(function: Callable[[], object]) -> None:
    """Call a function, on a thread of its own, when stdin ends: the parent has ended then, even if it was killed."""

    def wait() -> None:
        # Not sys.stdin: at exit the interpreter would wait for the lock that a reader holds.
        while os.read(sys.stdin.fileno(), 1024):
            pass
        function()

    Thread(target=wait, name="rigsync stdin", daemon=True).start()
