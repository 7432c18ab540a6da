"""A waiting room with a bound: what comes first leaves first, and what is dropped is counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from rigsync.core.events import Event

_Item = TypeVar("_Item")


class Bounded(Generic[_Item]):
    """A waiting room. The oldest goes where it is full; `dropped` counts those until somebody sets it to 0."""

    __slots__ = ("_size", "_waiting", "dropped")

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, tuple[_Item, int]] = OrderedDict()
        self._size = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: _Item, key: Hashable | None = None, size: int = 0) -> None:
        """Let an item wait, in the place of the one that waits under the same key, if there is one."""
        key = object() if key is None else key
        if key in self._waiting:
            self._size -= self._waiting[key][1]
        self._waiting[key] = item, size
        self._size += size

    def take(self) -> _Item:
        """Return the item that has waited longest; raise a KeyError where none waits."""
        _, (item, size) = self._waiting.popitem(last=False)
        self._size -= size
        return item

    def clear(self) -> None:
        """Let nothing wait any more."""
        self._waiting.clear()
        self._size = 0

    def drop_excess(self, most: int, most_bytes: float) -> _Item | None:
        """Return the oldest item where it has no room, and count it. One item is kept, however large it is."""
        if len(self._waiting) > most or (self._size > most_bytes and len(self._waiting) > 1):
            self.dropped += 1
            return self.take()
        return None


def superseding_key(event: Event, boundary: object = None) -> Hashable | None:
    """Return what a newer event has to share with this one to take its place; None where none may.

    An event that a `boundary` has brought is superseded by none: another lab may have a rig of that name, too.
    """
    if not (fields := event.SUPERSEDED_BY) or boundary is not None:
        return None
    key = (type(event), *(getattr(event, field) for field in fields))
    try:
        hash(key)
    except TypeError:  # a field may hold anything
        return None
    return key
