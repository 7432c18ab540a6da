"""A waiting room: order, bounds in number and bytes, and what a newer one takes the place of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rigsync.core.enums import ExpMessage
from rigsync.core.events import Event, LinkLost, LinkState, MessageReceived, ProgressChanged
from rigsync.hub import events
from rigsync.hub.bounded import Bounded, superseding_key

LOST = LinkLost("cameras", LinkState.ALIVE, LinkState.LOST, "silent")


def test_a_waiting_room_drops_the_oldest_and_counts() -> None:
    room: Bounded[int] = Bounded()
    dropped = []
    for n in range(10):
        room.put(n, size=10)
        dropped += [n for n in [room.drop_excess(4, 1000)] if n is not None]
    assert (dropped, room.dropped, len(room)) == ([0, 1, 2, 3, 4, 5], 6, 4)
    assert [room.take() for _ in range(4)] == [6, 7, 8, 9]
    with pytest.raises(KeyError):
        room.take()


def test_a_waiting_room_is_bounded_in_bytes_and_keeps_one_however_large() -> None:
    room: Bounded[int] = Bounded()
    for n in range(3):
        room.put(n, size=60)
    assert [room.drop_excess(100, 100) for _ in range(3)] == [0, 1, None]
    room.put(3, size=1000)
    assert [room.drop_excess(100, 100) for _ in range(2)] == [2, None]
    room.clear()
    assert len(room) == 0
    room.put(4, size=90)
    assert room.drop_excess(100, 100) is None


def test_progress_is_superseded_where_it_stands_and_nothing_else_is() -> None:
    room: Bounded[Event] = Bounded()
    first, lost = ProgressChanged("cameras", "frames", 1, None, None), replace(LOST)
    other, second = (
        ProgressChanged("ephys", "frames", 5, None, None),
        ProgressChanged("cameras", "frames", 2, None, None),
    )
    for event in (first, lost, other, second, lost):
        room.put(event, superseding_key(event), size=10)
    assert [room.take() for _ in range(len(room))] == [second, lost, other, lost]
    room.put(lost, size=100)
    assert room.drop_excess(5, 100) is None  # nothing is left of the size of what was taken or superseded
    assert {kind.__name__ for kind in events.KINDS if kind.SUPERSEDED_BY} == {"ProgressChanged"}
    assert superseding_key(MessageReceived("cameras", ExpMessage.EXPEND, [], None)) is None
