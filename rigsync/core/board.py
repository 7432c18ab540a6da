"""What a rig shows of its work: how far things are, and which streams it has (docs/decisions/0014).

Values change much more often than anybody can look. So a call only notes them, and they leave with the next tick. Once
nothing has changed for a while, the last value is sent confirmed.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from rigsync.core import messages
from rigsync.core.arguments import to_plain
from rigsync.core.rigs import DATAGRAM_ROOM, Room
from rigsync.core.throttle import Throttle
from rigsync.errors import UnknownStream

PROGRESS, STREAM = TOPICS = ("progress", "stream")
"""Topics of the notices that make up a board."""
INTERVAL = 0.1
"""Seconds between two values of one thing on the wire: ten a second are more than anybody can read."""
QUIET = 0.5
"""Seconds without a change after which the last value is sent confirmed."""
MOST = 1024
"""Items of progress that a rig may have, and streams: a program that makes up names must not take all memory."""
MOST_BYTES = 1 << 20
"""Bytes of all streams' information as JSON. The whole board has to fit into what may wait for one coordinator."""
MOST_STEPS = 10_000
"""Streams added and removed that may wait to be told one by one. Beyond that the whole board is told anew."""
LONGEST = 100
"""Characters of a name, and of a unit."""
LARGEST = sys.float_info.max

_NUMBERS = (int, float)
_MOST_NUMBER = 2**63 - 1

Key = tuple[str, str]
"""Topic and name."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something is."""

    value: int | float
    """Where it stands."""
    total: int | float | None = None
    """Where it will end; None if unknown."""
    unit: str | None = None
    """What it is counted in; None where that goes without saying."""


@dataclass(frozen=True, slots=True)
class Post:
    """A notice to be sent."""

    topic: str
    key: str | None
    body: Any
    confirm: bool
    is_value: bool = False
    """Whether a later one makes it needless."""


class _Item:
    """An item of progress."""

    __slots__ = ("is_dirty", "key", "state")

    def __init__(self, name: str, state: tuple[Any, Any, Any]):
        self.key = (PROGRESS, name)
        self.state = state  # value, total and unit; replaced together, so that no other thread sees a mixture
        self.is_dirty = False

    def post(self, confirm: bool) -> Post:
        value, total, unit = self.state
        body = {"value": value, "total": total, "unit": unit}
        return Post(*self.key, body, confirm, is_value=True)


@dataclass(slots=True, eq=False)
class _Stream:
    """A stream."""

    key: Key
    number: int
    """Counts all streams ever added: a later one of the same name has another number."""
    info: dict[str, Any]
    size: int
    is_dirty: bool = field(default=False)

    def post(self, confirm: bool, action: str = "update") -> Post:
        return Post(*self.key, stream_body(action, self.number, self.info), confirm, is_value=action == "update")


def stream_body(action: str, number: int, info: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a notice of the topic ``stream``."""
    return {"action": action, "number": number, "info": info}


class Board:
    """What one rig shows of its work.

    The rig's program may call its methods from any thread, where `lock` keeps these apart. They return whether to wake
    the sender, which then calls `take`. All other methods are the sender's.
    """

    def __init__(self, room: Room = DATAGRAM_ROOM, lock: AbstractContextManager[Any] | None = None):
        self._room = room
        self._lock: AbstractContextManager[Any] = nullcontext() if lock is None else lock
        self._items: dict[str, _Item] = {}
        self._streams: dict[str, _Stream] = {}
        self._numbers = self._bytes = 0
        self._steps: list[Post] = []
        self._is_behind = False  # more added and removed than is told one by one
        # Filled without the lock, which has to be quick; emptied with it, one by one.
        # By identity, not by name: another thread may still change a forgotten one of that name.
        self._dirty: dict[_Item | _Stream, None] = {}
        self._throttle: Throttle[Key] = Throttle(INTERVAL)
        # When each was last seen to have changed, oldest first.
        self._unsettled: OrderedDict[Key, tuple[float, _Item | _Stream]] = OrderedDict()
        self._is_awake = False
        self._tick = math.inf  # when the sender, if awake, looks for changes; infinity for at once
        self._has_told = False

    # -------------------------------------------------------------------------------------- the rig's program

    def progress(self, item: str, value: Any, total: Any = None, unit: str | None = None) -> bool:
        """Note how far an item is, and where it will end; see `Rig.progress`."""
        # Called some ten thousand times a second: where only the value has changed, nothing else is checked.
        kind = type(value)
        if (kind is int or kind is float) and -LARGEST <= value <= LARGEST and type(item) is str:
            found = self._items.get(item)
            if found is not None:
                state = found.state
                if (total is state[1] or (type(total) in _NUMBERS and total == state[1])) and (
                    unit is state[2] or (type(unit) is str and unit == state[2])
                ):
                    if value == state[0]:
                        return False
                    found.state = (value, state[1], state[2])
                    return False if found.is_dirty else self._mark(found)
        return self._progress_anew(item, value, total, unit)

    def _progress_anew(self, item: Any, value: Any, total: Any, unit: Any) -> bool:
        item = _checked_text(item, "item")
        state = (
            _checked_number(value, "value"),
            None if total is None else _checked_number(total, "total"),
            None if unit is None else _checked_text(unit, "unit"),
        )
        with self._lock:
            found = self._items.get(item)
            if found is None:
                if len(self._items) >= MOST:
                    raise ValueError(f"a rig has at most {MOST:,} items of progress; use the same names again")
                found = self._items[item] = _Item(item, state)
            elif found.state == state:
                return False
            found.state = state
            return False if found.is_dirty else self._mark(found)

    def clear_progress(self) -> bool:
        """Forget all items of progress: an experiment begins, or is over. What was not told of them is told before."""
        with self._lock:
            if not self._items:
                return False
            for item in self._items.values():
                if item.is_dirty or item.key in self._unsettled:
                    self._add_step(item.post(confirm=True))
                self._forget(item)
            self._items.clear()
            return self._add_step(Post(PROGRESS, None, None, confirm=True))

    def add_stream(self, name: str, info: dict[str, Any]) -> bool:
        """Show a stream, with what there is to know of it; see `Rig.add_stream`."""
        name = _checked_text(name, "id of a stream")
        plain = to_plain(info, "info", self._room)
        size = self._size(name, plain)
        with self._lock:
            if name in self._streams:
                raise ValueError(f"there is a stream {name!r} already; update it, or remove it before")
            if len(self._streams) >= MOST:
                raise ValueError(f"a rig has at most {MOST:,} streams; remove those that have ended")
            self._make_room(size)
            self._numbers += 1
            stream = self._streams[name] = _Stream((STREAM, name), self._numbers, plain, size)
            return self._add_step(stream.post(confirm=True, action="add"))

    def update_stream(self, name: str, info: dict[str, Any]) -> bool:
        """Show what has changed of a stream; the rest stays. See `Rig.update_stream`."""
        plain = to_plain(info, "info", self._room)
        with self._lock:
            stream = self._stream(name)
            merged = {**stream.info, **plain}
            if merged == stream.info:
                return False
            size = self._size(name, merged)
            self._make_room(size - stream.size)
            stream.info, stream.size = merged, size
            return False if stream.is_dirty else self._mark(stream)

    def remove_stream(self, name: str) -> bool:
        """Show a stream no longer; see `Rig.remove_stream`."""
        with self._lock:
            stream = self._stream(name)
            del self._streams[name]
            self._bytes -= stream.size
            self._forget(stream)
            return self._add_step(stream.post(confirm=True, action="remove"))

    # ------------------------------------------------------------------------------------------------- sending

    def open(self) -> None:
        """Begin anew: no coordinator has been told anything yet."""
        with self._lock:
            self._steps.clear()
            self._is_behind = self._has_told = False
            for item in self._items.values():
                self._forget(item)
            for stream in self._streams.values():
                self._forget(stream)
            self._rest()

    def take(self, now: float) -> list[Post]:
        """Return what is to be sent at monotonic `now` (s), in this order."""
        with self._lock:
            posts = self._take_steps()
            if self._is_awake and (self._tick == math.inf or now >= self._tick):
                posts += self._take_values(now)
            while self._next_settling() <= now:
                posts.append(self._settle(now))
            self._has_told = self._has_told or bool(posts)
        return posts

    def take_last(self, now: float) -> list[Post]:
        """Return all that was never sent, or never confirmed, for there will be no later."""
        with self._lock:
            posts = self._take_steps()
            self._collect(now)
            while self._unsettled:
                posts.append(self._settle(now))
        return posts

    def next_timer(self) -> float:
        if self._steps or self._is_behind:
            return 0.0
        timer = math.inf
        if self._is_awake:
            timer = 0.0 if self._tick == math.inf else self._tick
        return min(timer, self._next_settling())

    @property
    def contents(self) -> dict[str, dict[str, Any]]:
        """Copies of ``progress`` by item, and of ``streams`` with all that is known of each; from any thread."""
        with self._lock:
            progress = {item.key[1]: Progress(*item.state) for item in self._items.values()}
            return {
                "progress": progress,
                "streams": {stream.key[1]: dict(stream.info) for stream in self._streams.values()},
            }

    def snapshot(self) -> list[Post]:
        """Return the whole state, for a coordinator that may know any part of it."""
        with self._lock:
            # Where nobody has been told anything, there is nothing to forget.
            posts = [Post(STREAM, None, None, confirm=True)] if self._has_told else []
            posts += [stream.post(confirm=True, action="add") for stream in self._streams.values()]
            posts += [item.post(confirm=True) for item in self._items.values()]
            self._has_told = self._has_told or bool(posts)
        return posts

    # -------------------------------------------------------------------------------------------------- inside

    def _mark(self, entry: _Item | _Stream) -> bool:
        """Mark an entry to be sent; return whether to wake the sender. Needs no lock."""
        entry.is_dirty = True
        self._dirty[entry] = None
        if self._is_awake:
            return False
        self._is_awake = True
        return True

    def _rest(self) -> None:
        """Sleep until something changes."""
        self._is_awake, self._tick = False, math.inf
        if self._dirty:  # another thread has marked one meanwhile, and may not have woken the sender
            self._is_awake = True

    def _collect(self, now: float) -> list[_Item | _Stream]:
        """Return what has changed, and note when."""
        taken = []
        for _ in range(4 * MOST):  # while others add to it
            try:
                taken.append(self._dirty.popitem()[0])
            except KeyError:
                break
        changed = []
        for entry in reversed(taken):  # in the order in which they changed
            entry.is_dirty = False
            if self._find(entry.key) is entry:
                self._unsettled[entry.key] = now, entry
                self._unsettled.move_to_end(entry.key)
                changed.append(entry)
        return changed

    def _take_values(self, now: float) -> list[Post]:
        changed = self._collect(now)
        told = [entry for entry in changed if self._throttle.note(entry.key, now)]
        told += [entry for key in self._throttle.take(now) if (entry := self._find(key))]
        if changed or self._throttle.is_waiting:
            self._tick = now + INTERVAL  # everything leaves at the ticks, so that the sender wakes no oftener
        else:
            self._rest()
        return [entry.post(confirm=False) for entry in told]

    def _next_settling(self) -> float:
        return next(iter(self._unsettled.values()))[0] + QUIET if self._unsettled else math.inf

    def _settle(self, now: float) -> Post:
        entry = self._unsettled.pop(next(iter(self._unsettled)))[1]
        self._throttle.tell(entry.key, now)
        return entry.post(confirm=True)

    def _take_steps(self) -> list[Post]:
        if self._is_behind:
            self._is_behind = False
            return self.snapshot()
        posts, self._steps = self._steps, []
        return posts

    def _add_step(self, post: Post) -> bool:
        if not self._is_behind:
            self._steps.append(post)
        if len(self._steps) > MOST_STEPS:
            self._steps.clear()
            self._is_behind = self._has_told = True
        return True

    def _forget(self, entry: _Item | _Stream) -> None:
        """Take an entry out of what waits to be sent."""
        entry.is_dirty = False
        self._dirty.pop(entry, None)
        self._unsettled.pop(entry.key, None)
        self._throttle.drop(entry.key)

    def _find(self, key: Key) -> _Item | _Stream | None:
        topic, name = key
        return self._items.get(name) if topic == PROGRESS else self._streams.get(name)

    def _stream(self, name: Any) -> _Stream:
        found = self._streams.get(name) if isinstance(name, str) else None
        if found is None:
            raise UnknownStream(str(name), self._streams)
        return found

    def _size(self, name: str, info: dict[str, Any]) -> int:
        """Return the bytes of a stream's information as JSON, for which there has to be room."""
        body = stream_body("update", _MOST_NUMBER, info)
        messages.notice(messages.Notice("0" * 16, _MOST_NUMBER, STREAM, name, body, False), self._room)
        return len(messages.to_json(info))

    def _make_room(self, size: int) -> None:
        if self._bytes + size > MOST_BYTES:
            raise ValueError(
                f"the information of all streams together takes over {MOST_BYTES:,} bytes; say less of each"
            )
        self._bytes += size


def _checked_text(text: Any, what: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"the {what} is text, not {type(text).__name__}")
    if not 0 < len(text) <= LONGEST:
        raise ValueError(f"the {what} has 1 to {LONGEST} characters, not {len(text)}")
    return str(text)


def _checked_number(number: Any, what: str) -> int | float:
    plain = to_plain(number, what)
    if isinstance(plain, bool) or not isinstance(plain, _NUMBERS):
        raise TypeError(f"the {what} of progress is a number, not {type(number).__name__}")
    if not -LARGEST <= plain <= LARGEST:
        shown = plain if isinstance(plain, float) else "one of so many digits"
        raise ValueError(f"the {what} of progress is a finite number, not {shown}")
    return plain
