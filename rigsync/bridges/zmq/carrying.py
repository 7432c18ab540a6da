"""How events get from one hub to another, each once and in order: pure, the time is an argument.

The sender numbers its messages, and keeps each until the receiver acknowledges it. Without an acknowledgement the
sender goes back to the oldest, and sends again (go-back-N). The receiver takes only the next number.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict, deque
from typing import Any

from rigsync._text import shortened
from rigsync.bridges.asking import Refused, no_number

VERSION = 1
"""Version of this format. Both sides ignore unknown keys; a new number marks a change that no older side can ignore."""
MOST_WAITING = 10_000
"""Most events that wait for a receiver. Beyond that the oldest are dropped, and counted."""
MOST_WAITING_BYTES = 32 << 20
"""Most bytes of these events."""
WINDOW = 256
"""Most messages under way: few enough that ZeroMQ drops none, and enough to need few acknowledgements."""
RESEND = 1.0
"""Seconds without an acknowledgement after which the sender goes back. ZeroMQ loses messages only with a connection."""
PATIENCE = 5.0
"""Seconds without an acknowledgement after which the log tells it."""
MOST_SENDERS = 64
"""Most senders whose place is kept. Beyond that, the one that was heard longest ago is forgotten."""
MOST_SEEN = 50_000
"""Most names of events that are kept, so that an event that comes by several ways is told once."""


_DECODER = json.JSONDecoder(parse_constant=no_number)  # made once: to make it takes as long as to use it


class Outgoing:
    """The events for one receiver: those that wait, and those that are sent and not acknowledged."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(8)
        self._kept: deque[tuple[bytes, tuple[str, ...]]] = deque()  # with the hubs that each has gone through
        self._size = 0
        self._first = 1  # number of the oldest that is kept
        self._next = 1  # number of the one to be sent next
        self._newest = 0  # number of the newest that was ever sent
        self._window = WINDOW
        self._since = self._moved = 0.0  # when it began to wait for an acknowledgement: to go back, and to tell
        self.dropped = 0
        """How many were dropped for want of room."""

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, data: bytes, now: float, via: tuple[str, ...] = ()) -> None:
        """Keep the next event until the receiver takes it."""
        if not self._kept:
            self._moved = now
        self._kept.append((data, via))
        self._size += len(data)
        while len(self._kept) > MOST_WAITING or self._size > MOST_WAITING_BYTES:
            self._forget()
            self.dropped += 1

    def leave_out(self, hub: str) -> None:
        """Forget unsent events that have gone through a hub: the receiver has turned out to be that hub."""
        sent = max(0, self._newest + 1 - self._first)
        self._kept = deque(entry for at, entry in enumerate(self._kept) if at < sent or hub not in entry[1])
        self._size = sum(len(data) for data, _ in self._kept)

    def _forget(self) -> None:
        self._size -= len(self._kept.popleft()[0])
        self._first += 1
        self._next = max(self._next, self._first)

    def due(self) -> tuple[bytes, bytes] | None:
        """Return the head and the event of the next message; None if nothing may be sent now."""
        if self._next >= self._first + min(self._window, len(self._kept)):
            return None
        return self._head(self._next), self._kept[self._next - self._first][0]

    def greeting(self) -> tuple[bytes, bytes]:
        """Return a message without an event. The receiver answers it with its name, and how far it has heard."""
        return self._head(self._first - 1), b""

    def _head(self, sequence: int) -> bytes:
        head = {"rigsync": VERSION, "run": self._run, "first": self._first, "sequence": sequence}
        return json.dumps(head).encode()

    def note_sent(self, now: float) -> None:
        """Take note that the message of `due` has left."""
        if self._next == self._first:
            self._since = now
        self._newest = max(self._newest, self._next)
        self._next += 1

    def acknowledge(self, run: Any, taken: Any, now: float) -> None:
        """Forget the events that the receiver says that it has, if they were sent."""
        if run != self._run or type(taken) is not int or not self._first <= taken <= self._newest:
            return
        while self._first <= taken:
            self._forget()
        self._since = self._moved = now
        self._window = WINDOW

    def handle_timer(self, now: float) -> None:
        """Go back to the oldest event, and send only that until it is taken, if no acknowledgement comes."""
        if self._next > self._first and now >= self._since + RESEND:
            self._next, self._window = self._first, 1

    def is_stuck(self, now: float) -> bool:
        """Return whether the receiver has taken nothing for long."""
        return bool(self._kept) and now >= self._moved + PATIENCE


class Incoming:
    """How far each sender has been heard, and which events have come."""

    def __init__(self) -> None:
        self._taken: OrderedDict[str, int] = OrderedDict()
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()
        self.missed = 0
        """How many events the senders have dropped for want of room."""

    def take(self, run: str, first: int, sequence: int) -> bool:
        """Return whether a message is the next of its sender; `first` is the oldest that the sender has."""
        taken = self._taken.pop(run, first - 1)  # an unknown sender has told a program before this one the rest
        self.missed += max(0, first - 1 - taken)
        taken = max(taken, first - 1)
        is_next = sequence == taken + 1
        self._taken[run] = taken + is_next
        if len(self._taken) > MOST_SENDERS:
            self._taken.popitem(last=False)
        return is_next

    def taken(self, run: str) -> int:
        """Return the number up to which all events of a sender have come."""
        return self._taken.get(run, 0)

    def is_new(self, origin: str, number: int) -> bool:
        """Return whether an event comes for the first time."""
        name = origin, number
        if name in self._seen:
            return False
        self._seen[name] = None
        if len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)
        return True


def read_head(data: bytes) -> tuple[str, int, int]:
    """Return run, oldest and own number of a message; raise a `Refused`, whose text its sender is told."""
    found = read_object(data)
    run, first, sequence = (found.get(key) for key in ("run", "first", "sequence"))
    if type(run) is not str or len(run) > 64 or type(first) is not int or type(sequence) is not int:
        raise Refused(f"{shortened(data, 80)} is not the head of an event: it lacks run, first and sequence")
    if not 0 < first <= sequence + 1:
        raise Refused(f"the number {sequence} does not follow {first}")
    return run, first, sequence


def read_object(data: bytes) -> dict[str, Any]:
    """Read what one side tells the other; raise a `Refused` if it is malformed."""
    try:
        found = _DECODER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise Refused(f"{shortened(data, 80)} is not JSON: {error}") from None
    if not isinstance(found, dict) or type(found.get("rigsync")) is not int:
        raise Refused(f"{shortened(data, 80)} is nothing that one hub tells another")
    if found["rigsync"] != VERSION:
        problem = f"the other hub writes version {found['rigsync']}, and this one {VERSION}: update the older rigsync"
        raise Refused(problem)
    return found
