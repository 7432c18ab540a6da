"""What a coordinator knows of a rig's work: the other end of `rigsync.core.board`."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from rigsync._text import shortened
from rigsync.core.arguments import to_plain
from rigsync.core.board import LARGEST, LONGEST, MOST, MOST_BYTES, PROGRESS, STREAM, Key, Post, Progress
from rigsync.core.events import Event, ProgressChanged, StreamAdded, StreamRemoved, StreamUpdated
from rigsync.core.messages import Notice, to_json
from rigsync.core.rigs import Room
from rigsync.core.throttle import Throttle
from rigsync.errors import PayloadError, PayloadTooLarge, RemoteProtocolError

INTERVAL = 0.25
"""Seconds between two values of one thing that subscribers are told."""
SPARE = 2
"""A coordinator takes so many times what a rig may have. Values leave later than what adds and removes, and not in
order with it, so something new may come before what has made room for it."""

_ROOM = Room(MOST_BYTES)
_STREAM_EVENTS = {"add": StreamAdded, "update": StreamUpdated, "remove": StreamRemoved}


@dataclass(frozen=True, slots=True)
class _Item:
    n: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class _Stream:
    n: int
    number: int
    info: dict[str, Any]
    size: int


class BoardView:
    """The board of one boot of a rig, as far as its notices have come.

    Of each thing it takes only what is newer than all that has come, by the number of the notice. Confirmed notices
    come in order. Others may overtake them. Their number, and the stream's own, show whether they are about
    something that has been forgotten since. Events are put into `told`.
    """

    def __init__(self, rig: str, told: list[Event]):
        self._rig, self._events = rig, told
        self._items: dict[str, _Item] = {}
        self._streams: dict[str, _Stream] = {}
        self._bytes = 0
        self._cleared = -1
        """Number of the notice that has last cleared the progress."""
        self._throttle: Throttle[Key] = Throttle(INTERVAL)

    @property
    def progress(self) -> dict[str, Progress]:
        """A copy. Safe to call from any thread."""
        return {name: item.progress for name, item in self._items.copy().items()}

    @property
    def streams(self) -> dict[str, dict[str, Any]]:
        """A copy. Safe to call from any thread."""
        return {name: deepcopy(stream.info) for name, stream in self._streams.copy().items()}

    def receive(self, notice: Notice, now: float) -> bool:
        """Take a notice about the board at monotonic `now` (s); return whether it told something new."""
        if notice.key is None:
            if notice.body is not None or not notice.confirm:
                raise RemoteProtocolError("malformed notice", f"{notice.topic} without a key, and not to clear all")
            return self._clear(notice)
        if not 0 < len(notice.key) <= LONGEST:
            raise RemoteProtocolError("malformed notice", f"the key of {notice.topic} has {len(notice.key)} characters")
        if notice.topic == PROGRESS:
            return self._receive_progress(notice.key, notice, now)
        return self._receive_stream(notice.key, notice, now)

    def empty(self) -> None:
        """Forget everything: the rig's program is gone."""
        for name in list(self._streams):
            self._remove(name)
        self._items.clear()
        self._cleared = -1
        self._throttle.clear()

    def handle_timer(self, now: float) -> None:
        for topic, name in self._throttle.take(now):
            if topic == PROGRESS:
                self._tell_progress(name)
            else:
                self._tell_stream(StreamUpdated, name)

    def next_timer(self) -> float:
        return self._throttle.next_timer()

    # ----------------------------------------------------------------------------------------------- progress

    def _clear(self, notice: Notice) -> bool:
        if notice.topic == STREAM:  # the board is told anew, whole
            for name in [name for name, stream in self._streams.items() if stream.n < notice.n]:
                self._remove(name)
        for name in [name for name, item in self._items.items() if item.n < notice.n]:
            if self._throttle.drop((PROGRESS, name)) and notice.topic == PROGRESS:
                self._tell_progress(name)  # the last is always told
            del self._items[name]
        self._cleared = max(self._cleared, notice.n)
        return True

    def _receive_progress(self, item: str, notice: Notice, now: float) -> bool:
        body = _mapping(notice.body, PROGRESS)
        progress = Progress(_number(body.get("value")), _optional_number(body.get("total")), _unit(body.get("unit")))
        before = self._items.get(item)
        if notice.n <= (before.n if before else self._cleared):
            return False
        if before is None and len(self._items) >= SPARE * MOST:
            raise RemoteProtocolError("too many items of progress", f"{shortened(item)} on top of {SPARE * MOST:,}")
        self._items[item] = _Item(notice.n, progress)
        if (before is None or before.progress != progress) and self._throttle.note((PROGRESS, item), now):
            self._tell_progress(item)
        return True

    def _tell_progress(self, item: str) -> None:
        progress = self._items[item].progress
        self._events.append(ProgressChanged(self._rig, item, progress.value, progress.total, progress.unit))

    # ------------------------------------------------------------------------------------------------ streams

    def _receive_stream(self, name: str, notice: Notice, now: float) -> bool:
        body = _mapping(notice.body, STREAM)
        info = _checked_info(body.get("info"))
        action, number = body.get("action"), body.get("number")
        if type(number) is not int:
            raise RemoteProtocolError("malformed notice", f"the number of a stream is {shortened(number)}")
        if action not in ("add", "remove", "update") or (action != "update" and not notice.confirm):
            raise RemoteProtocolError("malformed notice", f"action {shortened(action)} on a stream")
        stream, found = _Stream(notice.n, number, info, len(to_json(info))), self._streams.get(name)
        if found is None or found.number != number:
            # An update has overtaken the notice that adds its stream; or it, or a removal, comes after a removal.
            return action == "add" and self._add(name, stream, found, now)
        if action == "remove":
            self._remove(name, info)
            return True
        return self._update(name, stream, found, now)

    def _add(self, name: str, stream: _Stream, found: _Stream | None, now: float) -> bool:
        if found and found.number > stream.number:
            return False
        if found:  # the notice that it was removed waited too long and was given up
            self._remove(name)
        if len(self._streams) >= MOST:
            raise RemoteProtocolError("too many streams", f"{shortened(name)} on top of {MOST:,}")
        self._keep(name, stream, None)
        self._throttle.tell((STREAM, name), now)
        self._tell_stream(StreamAdded, name)
        return True

    def _update(self, name: str, stream: _Stream, found: _Stream, now: float) -> bool:
        if stream.n <= found.n:
            return False
        self._keep(name, stream, found)
        if stream.info != found.info and self._throttle.note((STREAM, name), now):
            self._tell_stream(StreamUpdated, name)
        return True

    def _keep(self, name: str, stream: _Stream, found: _Stream | None) -> None:
        size = self._bytes + stream.size - (found.size if found else 0)
        if size > SPARE * MOST_BYTES:
            raise RemoteProtocolError("too large streams", f"{shortened(name)} makes it {size:,} bytes in all")
        self._bytes = size
        self._streams[name] = stream

    def _remove(self, name: str, info: dict[str, Any] | None = None) -> None:
        stream = self._streams.pop(name)
        self._bytes -= stream.size
        self._throttle.drop((STREAM, name))
        self._events.append(StreamRemoved(self._rig, name, deepcopy(stream.info) if info is None else info))

    def _tell_stream(self, event: type[StreamAdded | StreamUpdated], name: str) -> None:
        self._events.append(event(self._rig, name, deepcopy(self._streams[name].info)))


def events_of(rig: str, post: Post) -> list[Event]:
    """Return the events that tell a rig's own hub a change of its board; none if an entry is cleared."""
    if post.key is None:
        return []
    if post.topic == PROGRESS:
        return [ProgressChanged(rig, post.key, **post.body)]
    return [_STREAM_EVENTS[post.body["action"]](rig, post.key, deepcopy(post.body["info"]))]


def _mapping(value: Any, topic: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RemoteProtocolError("malformed notice", f"{topic} is {shortened(value)}, not a mapping")
    return value


def _checked_info(value: Any) -> dict[str, Any]:
    info = _mapping(value, "the info of a stream")
    try:
        to_plain(info, "info", _ROOM)  # a value that is nested too deeply to be copied
    except (PayloadError, PayloadTooLarge) as error:
        raise RemoteProtocolError("malformed notice", str(error)) from None
    return info


def _number(value: Any) -> int | float:
    if type(value) not in (int, float) or not -LARGEST <= value <= LARGEST:
        raise RemoteProtocolError("malformed notice", f"progress is {shortened(value)}, not a finite number")
    number: int | float = value
    return number


def _optional_number(value: Any) -> int | float | None:
    return None if value is None else _number(value)


def _unit(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= LONGEST):
        raise RemoteProtocolError("malformed notice", f"the unit of progress is {shortened(value)}")
    return value
