"""Bytes to frames and back: reader of both dialects, writer of the rigsync one (docs/protocol.md 1, 2).

The contract of `decode`: any bytes give a frame or a `RemoteProtocolError`; everything else is a bug.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from rigsync._text import one_line, shortened
from rigsync.core import legacy
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.rigs import DATAGRAM_ROOM, MAX_DATAGRAM, MAX_VALUES, Room
from rigsync.core.stream import values_in
from rigsync.errors import PayloadTooLarge, RemoteProtocolError

VERSION = 1
"""Version of the rigsync dialect."""
LONGEST_COMMAND = 100
"""Characters of a command's name."""

_BOOT = re.compile(r"[0-9a-f]{16}")
_Named = TypeVar("_Named")
LONGEST_PROGRAM = 80
"""Characters of what a coordinator says of its program."""
_LARGEST = 2**63
LONGEST_PROBLEM = 2000
"""Characters of the text of a failure."""
MOST_DIGITS = 640
"""Digits of a number that Python reads and writes in every setting (`sys.set_int_max_str_digits`)."""
_LARGE = 1 << 20
"""In messages of more bytes, numbers of more digits are refused: thousands of them take seconds to read."""
_FRAME_VALUES = 40
"""Values allowed for a frame around its arguments; it has fewer."""
_SENDER = re.compile(rb'\{"rigsync":1,"kind":"[a-z]+","boot":"([0-9a-f]{16})"')
_TOLD = re.compile(rb'\{"rigsync":1,"kind":"(request|reply)","boot":"([0-9a-f]{16})","n":(\d{1,19})[,}]')


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a rig's own, beyond the experiment's messages. It may stand wherever an ExpMessage may.

    Its name has 1 to 100 printable characters, and is not that of an ExpMessage; else it is a TypeError or ValueError.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"the name of a command is text, not {type(self.name).__name__}")
        if not 0 < len(self.name) <= LONGEST_COMMAND or not self.name.isprintable():
            raise ValueError(
                f"the name of a command has 1 to {LONGEST_COMMAND} printable characters: {shortened(self.name)}"
            )
        if self.name.strip().upper() in ExpMessage.__members__:
            raise ValueError(f"{self.name} is a message of the experiment, and no command: push it")


Verb: TypeAlias = ExpMessage | Command
"""What a request asks of a rig."""


# ---------------------------------------------------------------------------------------------------- frames
# Nobody changes them. They are not frozen, since that makes each take five times as long to make.


@dataclass(slots=True)
class Frame:
    """Base of all frames of the rigsync dialect."""

    boot: str
    """16 hexadecimal digits, drawn when the sender's endpoint opened."""
    n: int
    """The sender's counter, or the number of the frame that this one answers."""


@dataclass(slots=True)
class Addressed(Frame):
    """A frame from a rig to one coordinator. Coordinators send some of these too, without `to`."""

    to: str | None = field(default=None, kw_only=True)
    """Boot number of the coordinator that is meant, which no forger knows. None from older rigs, and in frames to
    rigs."""


@dataclass(slots=True)
class Probe(Frame):
    """A question whether the rig is there."""

    t0: int
    """Stamp of sending, nanoseconds."""
    pad: str | None = field(default=None, repr=False)
    """Makes the probe long, to see whether the network carries it; the answer is made about as long."""
    program: str | None = None
    """Which program the coordinator is, for people."""
    beat: int | None = None
    """Milliseconds between two of its probes; None from older coordinators, whose beat is 1 s."""


@dataclass(slots=True)
class Alive(Addressed):
    """The answer to a probe."""

    t0: int
    """Copied from the probe."""
    t1: int
    """When the probe came, in the rig's clock, nanoseconds."""
    t2: int
    """When this left, in the rig's clock, nanoseconds."""
    name: str
    status: ExpStatus
    exp_ref: str | None
    version: str
    """Version of rigsync on the rig."""
    owner: str | None = None
    """Host of the coordinator whose experiment it is, None where it is nobody's."""
    troubles: int | None = None
    """How many things are wrong with the rig now; None where nothing is, and from older rigs."""
    silence: int | None = None
    """Milliseconds for which the owner has been silent; None while it counts as there."""
    lease: int | None = None
    """Milliseconds until the rig interrupts for want of an owner; None while that counts as there."""


@dataclass(slots=True)
class Request(Frame):
    """Act on a message, or do a command."""

    event: Verb
    args: list[Any] = field(repr=False)
    at: int | None
    """Rig-clock nanoseconds at which to act, or None for at once."""
    to: str | None = None
    """Boot number of the rig that is meant, so that one that has restarted since does not act; None for any."""
    of: str | None = None
    """Of an EXPEND: the experiment that it is to end, empty for one without a reference; None for any."""


@dataclass(slots=True)
class Ack(Addressed):
    """The request has arrived and the rig works on it; or it is done, and its answer is sent beside this frame."""

    done: int | None = None
    """Bytes of that answer, which may be too large for the way back; None while the rig works on it."""


@dataclass(slots=True)
class Reply(Addressed):
    """The request was done."""

    args: list[Any] = field(repr=False)
    """What the iblutil dialect's answer would hold after its event."""
    started: int
    finished: int
    """Rig-clock nanoseconds between which the handler ran."""


@dataclass(slots=True)
class Failure(Addressed):
    """The request failed or was refused."""

    error: str
    message: str
    traceback: str


@dataclass(slots=True)
class Notice(Addressed):
    """Something that a rig tells of its own accord."""

    topic: str
    key: str | None
    """An unconfirmed notice is replaced by a newer one of the same topic and key."""
    body: Any = field(repr=False)
    confirm: bool
    """Whether it is sent again until it is acknowledged."""


@dataclass(slots=True)
class Bye(Addressed):
    """The sender's endpoint is closing."""

    reason: str


# --------------------------------------------------------------------------------------------------- reading


def decode(data: bytes) -> Frame | legacy.Array:
    """Read one datagram of either dialect; anything else is a `RemoteProtocolError`."""
    if not data.startswith((b"[", b"{")):
        raise RemoteProtocolError("junk", f"{len(data)} bytes that begin with {data[:1]!r}, neither '[' nor '{{'")
    try:
        content = _read_json(data)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("not JSON", f"{len(data)} bytes: {str(error)[:120]}") from None
    return _read_frame(content) if type(content) is dict else legacy.read_array(content)


def _read_json(data: bytes) -> Any:
    text = data.decode("utf-8")
    content, end = (_DECODER_OF_LARGE if len(data) > _LARGE else _DECODER).raw_decode(text)
    if end < len(text) and (rest := text[end:].lstrip(_SPACE)):
        raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
    return content


def _read_whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS + 1:  # and a sign
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


_DECODER = json.JSONDecoder()
_DECODER_OF_LARGE = json.JSONDecoder(parse_int=_read_whole)
_SPACE = " \t\n\r"


def told_frame(head: bytes, kind: str) -> tuple[str, int] | None:
    """Return boot and number of a frame of this kind, of which only the beginning is known; None for another kind."""
    found = _TOLD.match(head)
    return (found[2].decode(), int(found[3])) if found and found[1].decode() == kind else None


def sender_of(head: bytes) -> str | None:
    """Return the boot number in the beginning of a frame as rigsync writes it; None for anything else."""
    found = _SENDER.match(head)
    return found[1].decode() if found else None


def _read_frame(content: dict[str, Any]) -> Frame:
    version = content.get("rigsync")
    if version != VERSION or version is True:
        raise RemoteProtocolError(
            "foreign version",
            f"version {shortened(version)} of the dialect, this side speaks {VERSION}; update the older",
        )
    kind = content.get("kind")
    known = _KINDS.get(kind) if type(kind) is str else None
    if known is None:
        raise RemoteProtocolError("unknown kind", f"a frame of kind {shortened(kind)}")
    boot = content.get("boot")
    if type(boot) is not str or not _BOOT.fullmatch(boot):
        raise RemoteProtocolError("malformed frame", f"boot is {shortened(boot)}, not 16 hexadecimal digits")
    make, fields = known
    frame = make(boot, _whole(content, "n"), *[read(content, key) for key, read in fields])
    if isinstance(frame, Addressed):
        frame.to = _optional(content, "to")
    return frame


def _verb(content: dict[str, Any], key: str) -> Verb:
    if content.get("command") is None:
        return _member(content, key, _EVENTS)
    if content.get(key) is not None:
        raise RemoteProtocolError("malformed frame", "a request has an event or a command, not both")
    try:
        return Command(_text(content, "command"))
    except ValueError as error:
        raise RemoteProtocolError("malformed frame", str(error)) from None


def _asked(content: dict[str, Any], key: str) -> list[Any]:
    args = _list(content, key)
    if content.get("command") is not None and [type(part) for part in args] != [list, dict]:
        raise RemoteProtocolError("malformed frame", "args of a command are not [[positional...], {keyword: value}]")
    return args


# What JSON's reader makes is of these very types: a bool is no whole number.


def _whole(content: dict[str, Any], key: str) -> int:
    value = content.get(key)
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise RemoteProtocolError("malformed frame", f"{key} is {shortened(value)}, not a whole number")
    return value


def _stamp(content: dict[str, Any], key: str) -> int:
    value = content.get(key)
    if type(value) is not int or not -_LARGEST < value < _LARGEST:
        raise RemoteProtocolError("malformed frame", f"{key} is {shortened(value)}, not a stamp in nanoseconds")
    return value


def _optional_stamp(content: dict[str, Any], key: str) -> int | None:
    return None if content.get(key) is None else _stamp(content, key)


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    if type(value) is not str:
        raise RemoteProtocolError("malformed frame", f"{key} is {shortened(value)}, not text")
    return value


def _optional(content: dict[str, Any], key: str) -> str | None:
    value = content.get(key)
    return value if value is None or type(value) is str else _text(content, key)


def _optional_whole(content: dict[str, Any], key: str) -> int | None:
    return None if content.get(key) is None else _whole(content, key)


def _program(content: dict[str, Any], key: str) -> str | None:
    """Return a coordinator's description of its program as one short line."""
    told = _optional(content, key)
    return one_line(told[:LONGEST_PROGRAM])[:LONGEST_PROGRAM] if told else None


def _anything(content: dict[str, Any], key: str) -> Any:
    return content.get(key)


def _flag(content: dict[str, Any], key: str) -> bool:
    value = content.get(key)
    if not isinstance(value, bool):
        raise RemoteProtocolError("malformed frame", f"{key} is {shortened(value)}, neither true nor false")
    return value


def _status(content: dict[str, Any], key: str) -> ExpStatus:
    return _member(content, key, _STATUSES)


def _list(content: dict[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    if type(value) is not list:
        raise RemoteProtocolError("malformed frame", f"{key} is {shortened(value)}, not a list")
    return value


def _member(content: dict[str, Any], key: str, members: dict[str, _Named]) -> _Named:
    value = content.get(key)
    if type(value) is not str or value not in members:
        raise RemoteProtocolError("malformed frame", f"{key} is {shortened(value)}, not one of {', '.join(members)}")
    return members[value]


_Read = Callable[[dict[str, Any], str], Any]
_MEANT = (("to", _optional), ("of", _optional))
_EVENTS, _STATUSES = dict(ExpMessage.__members__), dict(ExpStatus.__members__)
_KINDS: dict[str, tuple[Callable[..., Frame], tuple[tuple[str, _Read], ...]]] = {
    "probe": (Probe, (("t0", _stamp), ("pad", _optional), ("program", _program), ("beat", _optional_whole))),
    "alive": (
        Alive,
        (
            *(("t0", _stamp), ("t1", _stamp), ("t2", _stamp), ("name", _text), ("status", _status)),
            *(("exp_ref", _optional), ("version", _text), ("owner", _optional), ("troubles", _optional_whole)),
            *(("silence", _optional_whole), ("lease", _optional_whole)),
        ),
    ),
    "request": (Request, (("event", _verb), ("args", _asked), ("at", _optional_stamp), *_MEANT)),
    "ack": (Ack, (("done", _optional_whole),)),
    "reply": (Reply, (("args", _list), ("started", _stamp), ("finished", _stamp))),
    "failure": (Failure, (("error", _text), ("message", _text), ("traceback", _text))),
    "notice": (Notice, (("topic", _text), ("key", _optional), ("body", _anything), ("confirm", _flag))),
    "bye": (Bye, (("reason", _text),)),
}
"""The fields of each kind of frame, in their order, and how each is read; those that are `Addressed` have `to`, too."""


# --------------------------------------------------------------------------------------------------- writing


@dataclass(slots=True)
class Message:
    """An ExpMessage with its arguments, ready to be sent in either dialect; or a command, for the rigsync dialect.

    The arguments are encoded once, for all rigs. It is not frozen, as frames are not.
    """

    event: Verb
    args: list[Any] = field(repr=False)
    """Plain JSON values: what follows the event; of a command, positional arguments and keywords, or its value."""
    body: str = field(repr=False)
    """The JSON text of `args`, in ASCII. Never logged: it may hold a token."""

    @classmethod
    def of(cls, event: Verb, args: list[Any], room: Room = DATAGRAM_ROOM) -> Message:
        """Encode plain JSON values; `PayloadTooLarge` where there is no room, that of a datagram by default."""
        message = cls(event, args, to_json(args))
        room.check(message.size, message.body)
        _check_values(message.body)
        return message

    @property
    def size(self) -> int:
        """Most bytes that it takes, as request or reply in either dialect."""
        name = len(to_json(self.event.name)) if isinstance(self.event, Command) else 0
        return _REQUEST_OVERHEAD + name + len(self.body)

    @property
    def asks_token(self) -> bool:
        """Whether it is an ALYX message without a token: a request for one, answered by more than the echo."""
        return self.event is ExpMessage.ALYX and not all(self.args)


def _check_values(text: str) -> None:
    """Raise `PayloadTooLarge` if a JSON text holds more values than the other side reads."""
    limit = MAX_VALUES - _FRAME_VALUES
    if len(text) > limit and (count := values_in(text.encode("ascii"), limit)) > limit:
        raise PayloadTooLarge(count, limit, unit="values")


to_json = json.JSONEncoder(separators=(",", ":")).encode


def request(
    boot: str, n: int, message: Message, to: str | None = None, at: int | None = None, of: str | None = None
) -> bytes:
    """Return a message as a request of the rigsync dialect; for the fields see `Request`."""
    meant = "" if to is None else f',"to":"{to}"'
    if of is not None:
        meant += f',"of":{to_json(of)}'
    when = "null" if at is None else at
    name = message.event.name
    what = f'"command":{to_json(name)}' if isinstance(message.event, Command) else f'"event":"{name}"'
    return _encode("request", boot, n, f'{what},"args":{message.body},"at":{when}{meant}')


def probe(boot: str, n: int, t0: int, size: int = 0, program: str | None = None, beat: float | None = None) -> bytes:
    """Return a probe, padded to `size` bytes where it is shorter; `beat` are the seconds between two probes."""
    rest = "" if program is None else f',"program":{to_json(program)}'
    if beat is not None:
        rest += f',"beat":{round(1000 * beat)}'
    return _padded(_encode("probe", boot, n, f'"t0":{t0}{rest}'), size)


def alive(frame: Alive, size: int = 0) -> bytes:
    told = {key: getattr(frame, key) for key in ("t0", "t1", "t2", "name", "status", "exp_ref", "version", "owner")}
    told["status"] = frame.status.name
    news = {"troubles": frame.troubles, "silence": frame.silence, "lease": frame.lease}
    rest = to_json({**told, **{key: value for key, value in news.items() if value is not None}})
    return _padded(addressed(_encode("alive", frame.boot, frame.n, rest[1:-1]), frame.to), size)


def ack(boot: str, n: int, to: str | None = None, done: int | None = None) -> bytes:
    return addressed(_encode("ack", boot, n, "" if done is None else f'"done":{done}'), to)


def reply(boot: str, n: int, message: Message, started: int, finished: int, to: str | None = None) -> bytes:
    rest = f'"args":{message.body},"started":{started},"finished":{finished}'
    return _encode("reply", boot, n, rest if to is None else f'{rest},"to":"{to}"')


def failure(boot: str, n: int, error: str, message: str, traceback: str, to: str | None = None) -> bytes:
    """Return the failure of request `n` of `to`, its texts cut so that it fits into a datagram."""
    # A character takes at most 12 bytes in ASCII, so that these two always leave room for the end of the traceback,
    # which tells most.
    texts = {"error": error[:200], "message": message[:LONGEST_PROBLEM], "traceback": traceback}
    while len(data := addressed(_encode("failure", boot, n, to_json(texts)[1:-1]), to)) > MAX_DATAGRAM:
        texts["traceback"] = texts["traceback"][len(texts["traceback"]) // 2 + 1 :]
    return data


def notice(frame: Notice, room: Room = DATAGRAM_ROOM) -> bytes:
    """Return a notice, the same for all coordinators; `addressed` adds the one that it is sent to.

    `PayloadTooLarge` where there is no room for it; for a datagram's by default.
    """
    rest = to_json({"topic": frame.topic, "key": frame.key, "body": frame.body, "confirm": frame.confirm})
    data = _encode("notice", frame.boot, frame.n, rest[1:-1])
    room.check(len(addressed(data, "0" * 16)), rest)
    _check_values(rest)
    return addressed(data, frame.to)


def bye(boot: str, n: int, reason: str, to: str | None = None) -> bytes:
    return addressed(_encode("bye", boot, n, to_json({"reason": reason})[1:-1]), to)


def addressed(frame: bytes, to: str | None) -> bytes:
    """Return a frame with the boot number of the one that it is for."""
    return frame if to is None else b'%s,"to":"%s"}' % (frame[:-1], to.encode("ascii"))


def _padded(frame: bytes, size: int) -> bytes:
    """Return a frame, made `size` bytes long by a further field if it is shorter."""
    room = min(size, MAX_DATAGRAM) - len(frame) - len(b',"pad":""')
    return frame if room < 0 else b'%s,"pad":"%s"}' % (frame[:-1], b"." * room)


def _encode(kind: str, boot: str, n: int, rest: str = "") -> bytes:
    comma = "," if rest else ""
    return f'{{"rigsync":{VERSION},"kind":"{kind}","boot":"{boot}","n":{n}{comma}{rest}}}'.encode("ascii")


_EMPTY = Message(max(_EVENTS.values(), key=lambda event: len(event.name)), [], "")
_REQUEST_OVERHEAD = max(
    len(request("0" * 16, _LARGEST, _EMPTY, "0" * 16, -_LARGEST)),
    len(reply("0" * 16, _LARGEST, _EMPTY, -_LARGEST, -_LARGEST, "0" * 16)),
)
