"""Which program this is, for rigs and for the journal."""

from __future__ import annotations

import os
import sys
import time

from rigsync._text import one_line

LONGEST_SCRIPT = 40
"""Characters of a script's name that rigs are told."""

_STARTED = time.strftime("%H:%M:%S")
"""When this program began with rigsync."""


def this_program() -> str:
    """Return which program this is: the name of its script, and never its arguments, which may hold secrets."""
    path = next(iter(getattr(sys, "argv", ())), "")
    if os.path.basename(path) == "__main__.py":  # of a package
        path = os.path.dirname(path)
    name = os.path.basename(path)
    shown = "python" if name in ("", "-c") else one_line(name)[:LONGEST_SCRIPT]
    return f"{shown}, pid {os.getpid()}, started {_STARTED}"
