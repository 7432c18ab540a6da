"""The iblutil dialect: its messages, its echoes, and how close they may follow one another (docs/protocol.md 1)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from rigsync._text import shortened
from rigsync.core.enums import ExpMessage
from rigsync.errors import RemoteProtocolError

# -------------------------------------------------------------------------------------------------- messages

COORDINATOR_MARK = b" "
RIG_MARK = b"\t"
"""White space before the last bracket of what each side sends in the iblutil dialect. No encoder writes it, and the
echo copies it: so an echo, even one that comes late or twice, is told from the other side's own message of the same
content. After the bracket it would belong to no message of a stream."""

NULL_MESSAGE = ExpMessage(0)
"""The event of iblutil's error messages."""

_EVENTS = {int(event): event for event in ExpMessage.__members__.values()}


@dataclass(frozen=True, slots=True)
class Array:
    """A message of the iblutil dialect; `event` is the null message for a remote error."""

    event: ExpMessage
    args: list[Any] = field(repr=False)


class Named(Protocol):
    """An `ExpMessage`, or a command."""

    @property
    def name(self) -> str: ...


class Encoded(Protocol):
    """What is sent: a `messages.Message`."""

    @property
    def event(self) -> Named: ...

    @property
    def args(self) -> list[Any]: ...

    @property
    def body(self) -> str: ...


def read_array(content: list[Any]) -> Array:
    """Return a JSON array as a message; a `RemoteProtocolError` where it is none."""
    if not content:
        raise RemoteProtocolError("empty array", "an array without an event")
    number, *args = content
    if isinstance(number, bool) or not isinstance(number, int):
        raise RemoteProtocolError("unknown event", f"the event is {shortened(number)}, not the number of an ExpMessage")
    if number == 0:
        if len(args) != 2 or not isinstance(args[0], str) or type(args[1]) is not int or args[1] not in _EVENTS:
            raise RemoteProtocolError("malformed error", "an error message is [0, text, event]")
        return Array(NULL_MESSAGE, [args[0], _EVENTS[args[1]]])
    if number not in _EVENTS:
        raise RemoteProtocolError("unknown event", f"{shortened(number)} is not the number of one ExpMessage")
    return Array(_EVENTS[number], args)


def is_array(data: bytes) -> bool:
    """Tell whether bytes are of this dialect: an array, where the rigsync dialect has objects."""
    return data[:1] == b"["


def array(message: Encoded, mark: bytes) -> bytes:
    """Return a message with the mark of the side that sends it; a command is a TypeError."""
    separator = "," if message.args else ""
    return f"[{_number(message.event)}{separator}{message.body[1:-1]}".encode("ascii") + mark + b"]"


def error_array(error: str, message: str, event: Named) -> bytes:
    """Return iblutil's report of a failed callback, which is none of a command."""
    # iblutil recognises it by its second byte, hence no blank after the bracket. Cut to fit, at 12 bytes a character.
    content = [0, f"{error}: {message}"[:5000], _number(event)]
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def _number(event: Named) -> int:
    if not isinstance(event, ExpMessage):
        raise TypeError(f"{event.name} is a command, and the iblutil dialect knows none")
    return int(event)


def has_mark(data: bytes, mark: bytes) -> bool:
    return data[-2:-1] == mark


# ---------------------------------------------------------------------------------------------------- echoes

WINDOW = 1.0
"""Seconds over which repeats are counted."""
MOST = 2000
"""Echoes of the same bytes that may leave within the window. A coordinator that polls as fast as it can causes fewer,
an exchange of echoes on a local network more."""


class EchoGuard:
    """Tells whether one more echo of the same bytes to the same address may leave.

    iblutil echoes whatever it did not expect, so that a duplicated datagram, or a forged one, can start an exchange
    at full speed that goes on for ever: two iblutil sides that confirm each other's confirmations would never stop. One
    echo that is held back ends it.
    """

    __slots__ = ("_count", "_last", "_since")

    def __init__(self) -> None:
        self._last: int | None = None  # its hash: the bytes themselves may be many
        self._count = 0
        self._since = -math.inf

    def allows(self, data: bytes, now: float) -> bool:
        """Count an echo of `data` at monotonic `now`, in seconds, and return whether it may be sent."""
        if (known := hash(data)) != self._last or now - self._since >= WINDOW:
            self._last, self._count, self._since = known, 0, now
        self._count += 1
        return self._count <= MOST


# ------------------------------------------------------------------------------------------- pacing a stream

ARRAY_GAP = 0.05
"""Seconds between two messages of the iblutil dialect on one connection, unless the first was echoed: iblutil takes
what one read gives it for one message, so that two which arrive together would be a wrong echo, at which it closes."""
PROBE_GAP = 0.5
"""Seconds that a message of the iblutil dialect waits for the answers to the probes before it, which show that these
have been read: a rig that is busy does not read for longer than `ARRAY_GAP`. Half of what the rig has to confirm it."""
TOO_FAST = "it sends faster than messages of the iblutil dialect can be told apart"
"""Why a connection ends on which too much has to wait."""


class Pacing:
    """Tells when the next message may leave on a connection."""

    def __init__(self) -> None:
        self._sent_at = -math.inf
        self._sent_array: int | None = None  # its hash: the bytes themselves may be many

    def must_wait(self, data: bytes, now: float) -> bool:
        """Tell whether `data` may not leave yet, at monotonic `now` in seconds."""
        return now < self.earliest() and (self._sent_array is not None or is_array(data))

    def earliest(self) -> float:
        """Return when what has to wait may leave, in monotonic seconds, if nothing comes before."""
        return self._sent_at + self.gap

    @property
    def gap(self) -> float:
        """Seconds between what was sent last and a message of the iblutil dialect."""
        return ARRAY_GAP

    def note_sent(self, data: bytes, now: float) -> None:
        """Take note that `data` has left."""
        self._sent_at = now
        self._sent_array = hash(data) if is_array(data) else None

    def note_received(self, data: bytes) -> bool:
        """Take note of what has come; return whether what waits may leave sooner for it."""
        # Its echo has been read, and can meet nothing any more.
        if is_array(data) and hash(data) == self._sent_array:
            self._sent_at = -math.inf
        return False


class ProbePacing(Pacing):
    """Tells it on a connection towards a rig that may be iblutil's, which sends probes back when it has read them."""

    def __init__(self) -> None:
        super().__init__()
        self._unanswered = 0

    @property
    def gap(self) -> float:
        return PROBE_GAP if self._unanswered else ARRAY_GAP

    def note_sent(self, data: bytes, now: float) -> None:
        if not is_array(data):
            self._unanswered += 1
        super().note_sent(data, now)

    def note_received(self, data: bytes) -> bool:
        super().note_received(data)
        if is_array(data) or not self._unanswered:
            return False
        self._unanswered -= 1
        return not self._unanswered
