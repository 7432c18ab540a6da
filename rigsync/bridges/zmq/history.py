"""What has been published of late, for those who missed some of it: pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from itertools import takewhile

MOST_KEPT = 50_000
"""Most events that are kept: some minutes of a large lab."""
MOST_KEPT_BYTES = 32 << 20
"""Most bytes of them."""
MOST_AT_ONCE = 1 << 20
"""Bytes of events after which an answer ends. Who asks again gets the rest, and others have their turn between."""


class History:
    """The newest events, by consecutive sequence numbers from 1.

    An event that supersedes another takes that one out. Beyond the bounds the oldest go.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[bytes, Hashable | None]] = OrderedDict()
        self._by_key: dict[Hashable, int] = {}
        self._size = 0
        self.sequence = 0
        """The number of the newest event."""
        self.gone = 0
        """The number of the newest event that went for want of room."""

    def put(self, data: bytes, key: Hashable | None = None) -> None:
        """Keep the next event, in place of the one with the same key, if there is one."""
        self.sequence += 1
        if key is not None:
            if key in self._by_key:
                self._take(self._by_key[key])
            self._by_key[key] = self.sequence
        self._kept[self.sequence] = data, key
        self._size += len(data)
        while len(self._kept) > MOST_KEPT or self._size > MOST_KEPT_BYTES:
            self.gone = next(iter(self._kept))
            self._take(self.gone)

    def _take(self, sequence: int) -> None:
        data, key = self._kept.pop(sequence)
        self._size -= len(data)
        if key is not None:
            del self._by_key[key]

    def after(self, sequence: int) -> tuple[list[bytes], int] | None:
        """Return the events after one, as many as are told at once, and the number up to which that is all.

        None where some of them went for want of room, or where that number has not been given yet.
        """
        if not self.gone <= sequence <= self.sequence:
            return None
        wanted = list(takewhile(lambda item: item[0] > sequence, reversed(self._kept.items())))
        told: list[bytes] = []
        size = 0
        for number, (data, _) in reversed(wanted):
            size += len(data)
            if told and size > MOST_AT_ONCE:
                return told, sequence
            told.append(data)
            sequence = number
        return told, self.sequence
