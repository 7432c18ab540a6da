"""A byte stream cut into messages: JSON arrays and objects, one after another, no separators (docs/protocol.md 1)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rigsync.errors import RemoteProtocolError

DEEPEST = 1000
"""Levels of nesting; Python's own reader of JSON gives up near there."""

_SPACE = re.compile(rb"[ \t\r\n]*")
# A string without a backslash is passed over in one go; any other only begins here.
_TOKEN = re.compile(rb'"[^"\\]*"|["\[\]{}]')
_CLOSING = {b"[": 0x5D, b"{": 0x7D}
_OPENING_CODES = (0x5B, 0x7B)


class StreamDecoder:
    """Cuts a stream into messages, in time proportional to its length, however it is cut into pieces.

    It follows brackets and strings and no more: whether a message is good JSON is for `messages.decode` to find, and
    one that is not leaves the stream intact.

    Parameters
    ----------
    limit : int
        Bytes of the largest message that is let through.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._pieces: list[bytes] = []  # of the message that is not complete
        self._stack = bytearray()  # the brackets that have yet to come, the next one last
        self._in_string = self._escaped = False
        self.held = 0
        """Bytes kept of a message that is not complete."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take in what has arrived, and yield each message that it completes.

        Once it has raised, it can take in nothing more: where the next message begins is not known.

        Raises
        ------
        RemoteProtocolError
            What stands between messages is no white space; brackets do not match; a message is over the limit. What
            was complete before that has been yielded.
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
            else:
                begin = 0
            end = self._find_end(piece, position)
            size = self.held + (len(piece) if end is None else end) - begin
            if size > self._limit:
                raise RemoteProtocolError(
                    "message over the limit",
                    f"a message of {size:,} bytes or more, and this side takes {self._limit:,} (max_message)",
                )
            if end is None:
                self._pieces.append(piece[begin:])
                self.held = size
                return
            position = end
            message = b"".join([*self._pieces, piece[begin:end]])
            self._pieces.clear()
            self.held = 0
            yield message

    def _find_end(self, piece: bytes, position: int) -> int | None:
        """Return where the message that is under way ends in this piece, None where it does not."""
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
        """Return where the string that is under way ends in this piece, None where it does not."""
        if self._escaped and position < len(piece):
            self._escaped = False
            position += 1
        while True:
            quote = piece.find(b'"', position)
            end = len(piece) if quote < 0 else quote
            backslashes = end - len(piece[position:end].rstrip(b"\\")) - position
            escapes = backslashes % 2 == 1
            if quote < 0:
                self._escaped = self._escaped or escapes
                return None
            position = quote + 1
            if not escapes:
                self._in_string = False
                return position
