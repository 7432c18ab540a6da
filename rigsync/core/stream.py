"""A byte stream cut into messages: JSON arrays and objects, one after another, no separators (docs/protocol.md 1)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rigsync.core.rigs import MAX_VALUES, counted, width_of
from rigsync.errors import RemoteProtocolError

DEEPEST = 1000
"""Levels of nesting. Python's own reader of JSON gives up near there."""

VALUE_BYTES = 128
"""Most bytes that a value takes in memory beyond its text. An empty list takes 64, a map of one entry twice as many for
each of its two values."""

_SPACE = re.compile(rb"[ \t\r\n]*")
# Passes over a string in one go. A string that goes on in the next piece, or has more escapes (the expression
# remembers each), only begins here.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*){0,1000}"|["\[\]{}]', re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)  # or its beginning, at the end of a piece
# A further part of such a string.
_IN_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*){0,1000}', re.DOTALL)
_ESCAPE = 5
"""Bytes of a piece that may belong to an escape which ends in the next one."""
_HEAD = 200
"""Bytes of a refused message that are kept, to tell its sender."""
_PIECE = 1 << 18
_CLOSING = {b"[": 0x5D, b"{": 0x7D}
_QUOTE = 0x22
_OPENING_CODES = (0x5B, 0x7B)


class StreamDecoder:
    """Cuts a stream into messages, in time proportional to its length, however it is cut into pieces.

    It follows brackets and strings, and counts values. `messages.decode` finds out whether a message is good JSON; a
    bad one leaves the stream intact.
    """

    def __init__(self, limit: int, most: int | None = None):
        self._limit, self._most = limit, MAX_VALUES if most is None else most
        # The unfinished message. A copy, since each piece takes a page of memory or more, even one of 2 bytes.
        self._begun = bytearray()
        self._stack = bytearray()  # closing brackets to come, the next one last
        self._in_string = self._escaped = False
        self._width = 1
        self.values = 0
        """Values of the current or last message, told by its commas, colons and opening brackets."""

    @property
    def held(self) -> int:
        """Bytes kept of a message that is not complete."""
        return len(self._begun)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add what has arrived, and yield each message that it completes.

        A `RemoteProtocolError` for something else than white space between messages, for brackets that do not match,
        and for a message over the limit, or with too many values. After it nothing more can be added: nobody knows
        where the next begins.
        """
        position = 0
        while True:
            if not self._stack:
                begin = _SPACE.match(piece, position).end()  # type: ignore[union-attr]  # which matches anything
                if begin == len(piece):
                    return
                if piece[begin] not in _OPENING_CODES:
                    found = piece[begin : begin + 20]
                    raise RemoteProtocolError("junk in the stream", f"{found!r} where a message should begin")
                position = begin
                self.values, self._width = 0, 1
            else:
                begin = 0
            if self._in_string:
                after = self._after_string(piece, position)
                position = len(piece) if after is None else after
            end = None if self._in_string else self._find_end(piece, position)
            self.values += _values_in(piece[position:end])
            if self.values > self._most:
                raise RemoteProtocolError(
                    "too many values",
                    f"a message of more than {self._most:,} values, which is the most that one may hold",
                    self._give_up(piece[begin:]),
                )
            size = self.held + (len(piece) if end is None else end) - begin
            if self._width < 4:
                self._width = max(self._width, width_of(bytes(self._begun[-_ESCAPE:]) + piece[begin:end]))
            if counted(size, self._width) > self._limit:
                wide = ", which count for more with characters beyond U+00FF" if size <= self._limit else ""
                raise RemoteProtocolError(
                    "message over the limit",
                    f"a message of {size:,} bytes or more{wide}, and this side takes {self._limit:,} (max_message)",
                    self._give_up(piece[begin:]),
                )
            if end is None:
                self._begun += piece[begin:]
                return
            position = end
            message = piece[begin:end]
            if self._begun:
                self._begun += message
                message = bytes(self._begun)
                self._begun.clear()
            yield message

    def _give_up(self, rest: bytes) -> bytes:
        """Give up the unfinished message; return how it began. `rest` is the part that was not added."""
        head = bytes(self._begun[:_HEAD] + rest[:_HEAD])[:_HEAD]
        self._begun.clear()
        return head

    def _find_end(self, piece: bytes, position: int) -> int | None:
        while True:
            if self._in_string:
                after = self._after_string(piece, position)
                if after is None:
                    return None
                position = after
            for token in _TOKEN.finditer(piece, position):
                first = token[0]
                if len(first) > 1:
                    continue
                if first in _CLOSING:
                    if len(self._stack) >= DEEPEST:
                        raise RemoteProtocolError("nested too deeply", f"a message nested more than {DEEPEST} deep")
                    self._stack.append(_CLOSING[first])
                elif first == b'"':
                    self._in_string, position = True, token.end()
                    break
                else:
                    if self._stack.pop() != first[0]:
                        raise RemoteProtocolError("mismatched brackets", f"a {first.decode()!r} that closes nothing")
                    if not self._stack:
                        return token.end()
            else:
                return None

    def _after_string(self, piece: bytes, position: int) -> int | None:
        """Return where the unfinished string ends in this piece; None if it goes on."""
        if self._escaped and position < len(piece):
            self._escaped = False
            position += 1
        quote = piece.find(b'"', position)
        if piece.find(b"\\", position, len(piece) if quote < 0 else quote) < 0:  # the fastest way through text
            self._in_string = quote < 0
            return None if quote < 0 else quote + 1
        while True:
            position = _IN_STRING.match(piece, position).end()  # type: ignore[union-attr]  # which matches anything
            if position == len(piece):
                return None
            if piece[position] == _QUOTE:
                self._in_string = False
                return position + 1
            if position + 1 == len(piece):  # a backslash whose escaped character is still to come
                self._escaped = True
                return None


def values_in(message: bytes, limit: int) -> int:
    """Return how many values a message holds, as a `StreamDecoder` counts them, or too high a number up to a limit."""
    if (found := _marks_in(message)) <= limit:
        return found  # with those in strings
    decoder = StreamDecoder(len(message), len(message))
    for begin in range(0, len(message), _PIECE):
        for _ in decoder.feed(message[begin : begin + _PIECE]):
            pass
    return decoder.values


def room_of(message: bytes, limit: int) -> int:
    """Return how many bytes a message takes once it is read, at most: one of empty lists takes 20 times its own.

    Of a message beyond the limit that is its length: it is over in any case, and to count takes a tenth of a second.
    """
    if len(message) > limit:
        return len(message)
    return len(message) * width_of(message) + VALUE_BYTES * _marks_in(message)


def _values_in(piece: bytes) -> int:
    # In pieces, since the expression remembers each escape of a string.
    return _marks_in(piece) and _marks_in(_STRING.sub(b"", piece))


def _marks_in(piece: bytes) -> int:
    return len(piece) - len(piece.translate(None, b",:[{"))
