"""OSC packets on a TCP connection: SLIP (OSC 1.1, RFC 1055), or each after its length (OSC 1.0)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from rigsync.errors import RemoteProtocolError

_END, _ESCAPE = b"\xc0", b"\xdb"
_ESCAPES = {b"\xdb\xdc": _END, b"\xdb\xdd": _ESCAPE}
_ESCAPED = re.compile(rb"\xdb(.?)", re.DOTALL)
_LENGTH = struct.Struct(">I")
_OTHER = "a program that frames packets otherwise needs {}"


class _Framing:
    """Cuts a stream into packets of `limit` bytes at most."""

    def __init__(self, limit: int):
        self._limit = limit
        self._begun = bytearray()

    @property
    def held(self) -> int:
        """Bytes kept of a packet that is not complete."""
        return len(self._begun)

    def _check(self, size: int, other: str) -> None:
        if size > self._limit:
            self._begun.clear()
            problem = f"a packet of {size:,} bytes or more, and the most is {self._limit:,}; {_OTHER.format(other)}"
            raise RemoteProtocolError("packet over the limit", problem)


class Slip(_Framing):
    """Packets between END characters. What comes before the first is a packet, too."""

    def __init__(self, limit: int):
        super().__init__(limit)
        self._is_known = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add what has arrived, and yield each packet that it completes; a `RemoteProtocolError` ends the stream."""
        if not self._is_known and piece[:1] not in b"\xc0/#":  # a length, or what a page in a browser sends
            raise RemoteProtocolError("no SLIP", f"{piece[:8]!r} is not SLIP; {_OTHER.format('tcp+length://')}")
        self._is_known = True
        *whole, rest = piece.split(_END)
        for part in whole:
            self._begun += part
            packet = bytes(self._begun)
            self._check(len(packet) - packet.count(_ESCAPE), "tcp+length://")
            self._begun.clear()
            if packet:
                yield _ESCAPED.sub(_unescaped, packet) if _ESCAPE in packet else packet
        self._begun += rest
        self._check(len(self._begun) // 2, "tcp+length://")

    @staticmethod
    def frame(packet: bytes) -> bytes:
        """Return a packet as it is sent."""
        return _END + packet.replace(_ESCAPE, b"\xdb\xdd").replace(_END, b"\xdb\xdc") + _END


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[0] not in _ESCAPES:
        problem = f"{found[0]!r} is an escape that SLIP does not know"
        raise RemoteProtocolError("no SLIP", f"{problem}; {_OTHER.format('tcp+length://')}")
    return _ESCAPES[found[0]]


class LengthPrefixed(_Framing):
    """Packets, each after its length in four bytes."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add what has arrived, and yield each packet that it completes; a `RemoteProtocolError` ends the stream."""
        self._begun += piece
        begin = 0
        while len(self._begun) - begin >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._begun, begin)
            self._check(size, "tcp://")
            end = begin + _LENGTH.size + size
            if end > len(self._begun):
                break
            packet = bytes(self._begun[begin + _LENGTH.size : end])
            begin = end
            if packet:
                yield packet
        del self._begun[:begin]

    @staticmethod
    def frame(packet: bytes) -> bytes:
        """Return a packet as it is sent."""
        return _LENGTH.pack(len(packet)) + packet
