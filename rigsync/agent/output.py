"""The output of a command, in lines."""

from __future__ import annotations

import re
from collections import deque

from rigsync._text import one_line

LONGEST_LINE = 4096
"""Bytes of a line that are kept. Output without line ends is perhaps a video on the wrong output."""
LAST_LINES = 20
_FIGURES = re.compile(r"[\d.,:\s]*\d[\d.,:\s]*")
_SKIPPED = 8192
"""Most bytes of skipped output in which the last lines are looked for."""


class Output:
    """Makes lines of a command's output, and keeps the last ones."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._is_cut = False
        self._has_returned = False
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._overwrites = False  # the next line is the last of those kept

    @property
    def last(self) -> tuple[str, ...]:
        """The last lines as a terminal would show them: overwritten ones are left out.

        Of lines that count, such as those of a recorder's progress, there are the first and the last.
        """
        return tuple(self._last)

    def feed(self, data: bytes) -> list[str]:
        """Add output; return the lines that it completes, without their ends."""
        if not data:
            return []
        is_rest = self._has_returned and data.startswith(b"\n")  # Windows' line end came in two pieces
        self._has_returned = data.endswith(b"\r")
        if is_rest:
            data = data[1:]
            self._overwrites = False
        lines: list[str] = []
        for part in data.splitlines(keepends=True):
            text = part.rstrip(b"\r\n")
            room = LONGEST_LINE + 1 - len(self._line)
            if room > 0:
                self._line += text[:room]
            if len(self._line) > LONGEST_LINE and not self._is_cut:
                self._is_cut = True
                lines.append(self._take(self._line[:LONGEST_LINE], "..."))
            if len(text) < len(part):
                if not self._is_cut:
                    lines.append(self._take(self._line))
                self._overwrites = part.endswith(b"\r")
                self._line.clear()
                self._is_cut = False
        return lines

    def skip(self, data: bytes) -> None:
        """Add output of which only the last lines are kept."""
        tail = data[-_SKIPPED:].splitlines(keepends=True)[-LAST_LINES - 1 :]
        if sum(map(len, tail)) < len(data):  # the first line lacks its beginning
            self._line.clear()
            self._is_cut = self._has_returned = False
            tail = tail[1:] or tail
        self.feed(b"".join(tail))

    def end(self) -> list[str]:
        """Return the unfinished last line, if there is one."""
        rest, self._line = self._line, bytearray()
        return [self._take(rest)] if rest and not self._is_cut else []

    def _take(self, data: bytearray, more: str = "") -> str:
        text = data.decode("utf-8", "replace") + more
        if self._overwrites and self._last:
            self._last.pop()
        self._overwrites = False
        line = one_line(text)
        if _counts_on([*self._last][-2:], line):
            self._last.pop()
        self._last.append(line)
        return text


def _counts_on(before: list[str], line: str) -> bool:
    """Whether a line only goes on with the two before it, as in ``frame 7``, ``frame 8``, ``frame 9``."""
    form = _FIGURES.sub("0", line)
    return form != line and len(before) == 2 and all(_FIGURES.sub("0", each) == form for each in before)
