"""Single keys from the terminal, without Enter."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator

Keys = Callable[[float], list[str]]
"""Waits for so many seconds at most, and returns the typed keys: characters, and the names of those of `_NAMES`. Raises
EOFError if the terminal is gone."""

_POLL = 0.05
"""Seconds between looks at the keyboard on Windows, which cannot wait for it."""
_SPECIAL_KEY = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|[^\[O])?", re.DOTALL)
"""What arrows, function keys and Alt send, letters among it (ECMA-48, section 5.4)."""
_NAMES = {
    "A": "up",
    "B": "down",
    "H": "home",
    "F": "end",
    "1~": "home",
    "4~": "end",
    "5~": "page up",
    "6~": "page down",
    "7~": "home",
    "8~": "end",
}
"""Names of the keys that scroll, by what terminals send behind ``ESC [`` or ``ESC O``."""
_WINDOWS_NAMES = {"H": "up", "P": "down", "I": "page up", "Q": "page down", "G": "home", "O": "end"}
"""The same by the codes of Windows."""


@contextlib.contextmanager
def keys() -> Iterator[Keys]:
    """Read single keys from the terminal until the context is left; restore it whatever happens.

    Ctrl-C works as usual. Ctrl-Z does nothing: a suspended program would leave a changed terminal to the shell. No keys
    come if standard input is no terminal, or the terminal of another program.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        yield _none_typed
    elif sys.platform == "win32":
        yield _typed_on_windows
    else:
        with _typed_on_posix(sys.stdin.fileno()) as typed:
            yield typed


def keys_of(data: bytes) -> list[str]:
    """Return the keys for which a terminal has sent some bytes; special keys without a name are left out."""
    found: list[str] = []
    end = 0
    for special in _SPECIAL_KEY.finditer(data):
        found += data[end : special.start()].decode("utf-8", "replace")
        if name := _NAMES.get(special[0][2:].decode("latin-1")):
            found.append(name)
        end = special.end()
    return [*found, *data[end:].decode("utf-8", "replace")]


def _none_typed(seconds: float) -> list[str]:
    time.sleep(seconds)
    return []


def _typed_on_windows(seconds: float) -> list[str]:
    import msvcrt

    kbhit, getwch = getattr(msvcrt, "kbhit"), getattr(msvcrt, "getwch")  # noqa: B009 - unknown on other systems
    end = time.monotonic() + seconds
    while not kbhit():
        left = end - time.monotonic()
        if left <= 0:
            return []
        time.sleep(min(left, _POLL))
    key: str = getwch()
    if key in "\x00\xe0":  # an arrow or a function key, whose code comes next
        name = _WINDOWS_NAMES.get(getwch())
        return [name] if name else []
    return [key]


@contextlib.contextmanager
def _typed_on_posix(terminal: int) -> Iterator[Keys]:
    import termios
    import tty

    if _in_background(terminal):  # in the background, touching the terminal would stop this program
        yield _none_typed
        return

    def typed(seconds: float) -> list[str]:
        ready, _, _ = select.select([terminal], [], [], seconds)
        if not ready:
            return []
        try:
            data = os.read(terminal, 1024)
        except OSError:  # on Linux, the terminal is gone
            data = b""
        if not data:
            raise EOFError("the terminal is gone")
        return keys_of(data)

    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal, termios.TCSANOW)
        attributes = termios.tcgetattr(terminal)
        attributes[6][termios.VSUSP] = b"\x00"
        termios.tcsetattr(terminal, termios.TCSANOW, attributes)
        yield typed
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(terminal, termios.TCSANOW, before)


def _in_background(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) != os.getpgrp()
    except OSError:  # a terminal, but not the one that controls this program
        return False
