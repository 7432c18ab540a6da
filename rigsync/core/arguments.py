"""From the arguments of a push, or the outcome of a handler, to plain JSON values."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import math
import pathlib
import sys
from collections import deque
from collections.abc import Mapping, Sequence, Set
from typing import Any

from rigsync._text import close_match
from rigsync.core.clock import MOST_AHEAD
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.lifecycle import reference_text
from rigsync.core.messages import MOST_DIGITS, Command, Message, Verb, to_json
from rigsync.core.rigs import DATAGRAM_ROOM, Room
from rigsync.errors import PayloadError, PayloadTooLarge

DEEPEST = 64
"""Levels of nesting allowed. More means a value that refers to itself, or too much for the other side's decoder."""
LONGEST_TOPIC = 100
"""Characters of a topic, and of a key within one."""
_WHOLES_END = 10**MOST_DIGITS

# What follows the event in each message (docs/protocol.md section 1); all of it may be left out.
_SIGNATURES: dict[ExpMessage, tuple[str, ...]] = {
    ExpMessage.EXPINIT: ("data",),
    ExpMessage.EXPSTART: ("exp_ref", "data"),
    ExpMessage.EXPEND: ("data",),
    ExpMessage.EXPINTERRUPT: ("data",),
    ExpMessage.EXPCLEANUP: ("data",),
    ExpMessage.EXPSTATUS: ("status",),
    ExpMessage.EXPINFO: ("status", "data"),
    ExpMessage.ALYX: ("alyx",),
}
_SINGLE: dict[Any, ExpMessage] = {**ExpMessage.__members__, **{event: event for event in _SIGNATURES}}
"""Each message by its name and by itself: those that need no second look."""


def validate_event(event: Any) -> ExpMessage:
    """Return the one ExpMessage that `event` names; a TypeError or ValueError lists the choices."""
    if type(event) in (str, ExpMessage) and (single := _SINGLE.get(event)) is not None:
        return single
    if isinstance(event, bool):
        raise TypeError(f"unknown event type {type(event)}; choices: {_choices()}")
    if isinstance(event, int) and event == 0:
        raise ValueError(f"the null message cannot be sent; choices: {_choices()}")
    try:
        known: ExpMessage = ExpMessage.validate(event, allow_bitwise=False)
    except TypeError as error:
        raise TypeError(f"{error}; choices: {_choices()}") from None
    except ValueError:
        meant = close_match(event, ExpMessage.__members__) if isinstance(event, str) else ""
        raise ValueError(f"there is no message {event!r}{meant}; choices: {_choices()}") from None
    return known


def _choices() -> str:
    return ", ".join(ExpMessage.__members__)


def parts_of(event: ExpMessage) -> tuple[str, ...]:
    """Return the names of what may follow a message."""
    return _SIGNATURES[event]


def compose(event: Any, *args: Any, room: Room = DATAGRAM_ROOM) -> Message:
    """Validate a message and encode its arguments: what follows the event, as in `_SIGNATURES`.

    `TypeError` for the wrong type of message, or too many arguments; `ValueError` for an unknown message, status or
    reference; `PayloadError` for an argument that cannot be encoded; `PayloadTooLarge` where there is no room for it.
    """
    event = validate_event(event)
    names = _SIGNATURES[event]
    if len(args) > len(names):
        raise TypeError(f"{event.name} takes at most {len(names)} arguments ({', '.join(names)}), got {len(args)}")
    values = [*args, *[None] * (len(names) - len(args))]
    if event is ExpMessage.ALYX:
        values = token_arguments(values[0])
    elif names[0] == "status":
        values[0] = int(_status(values[0]))
    elif event is ExpMessage.EXPSTART:
        values[0] = _reference(values[0])
    if isinstance(values[-1], Mapping) and isinstance(values[-1].get("exp_ref"), Mapping):
        values[-1] = {**values[-1], "exp_ref": _reference(values[-1]["exp_ref"])}
    plain = [to_plain(value, name, room) for value, name in zip(values, names + names, strict=False)]
    return encode(event, plain, room)


def compose_command(name: str, args: Sequence[Any], keywords: Mapping[str, Any], room: Room = DATAGRAM_ROOM) -> Message:
    """Validate a command and encode its arguments; for the errors see `compose`."""
    command = Command(name)
    positional = [to_plain(value, f"args[{i}]", room) for i, value in enumerate(args)]
    return encode(command, [positional, {key: to_plain(value, key, room) for key, value in keywords.items()}], room)


def check_topic(topic: object, what: str = "topic") -> None:
    """Raise a `TypeError` or a `ValueError` where this is no name of a topic, or of a key within one."""
    if not isinstance(topic, str):
        raise TypeError(f"the {what} is text, not {type(topic).__name__}")
    if not 0 < len(topic) <= LONGEST_TOPIC:
        raise ValueError(f"the {what} has 1 to {LONGEST_TOPIC} characters, not {len(topic)}")


def checked_delay(event: Verb, at: object, delay: object, wall: float) -> float | None:
    """Return after how many seconds a message is to be acted on, None for at once.

    It may say so as `at`, in seconds of Unix time, which is `wall` now, or as `delay`, in seconds. `TypeError` for what
    is no number; `ValueError` for one that is past or over an hour ahead, for two, or for one of EXPINTERRUPT.
    """
    if at is None and delay is None:
        return None
    if at is not None and delay is not None:
        raise ValueError("give an instant as at or as delay, not as both")
    if event is ExpMessage.EXPINTERRUPT:
        raise ValueError("EXPINTERRUPT acts at once; leave out at and delay")
    name, value = ("delay", delay) if at is None else ("at", at)
    unit = "seconds from now" if at is None else "seconds of Unix time, as time.time() gives"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number of {unit}, not {type(value).__name__}")
    try:
        seconds = float(value) - (0.0 if at is None else wall)
    except OverflowError:
        seconds = math.inf
    if not 0 < seconds <= MOST_AHEAD:  # nor is NaN
        raise ValueError(
            f"{name}={value:g} is not an instant within the hour ahead, but {seconds:g} s from now; it is in {unit}"
            if abs(seconds) < math.inf
            else f"{name} is not an instant within the hour ahead; it is in {unit}"
        )
    return seconds


def encode(event: Verb, plain: list[Any], room: Room = DATAGRAM_ROOM) -> Message:
    """Return plain values as a message; those that turn out not to be plain are a `PayloadError`."""
    try:
        return Message.of(event, plain, room)
    except PayloadTooLarge:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # json.dumps does not say where it stands
        raise PayloadError(f"an argument of {event.name} cannot be sent: {error}") from None


def token_arguments(alyx: Any) -> list[Any]:
    """Return an Alyx client's address and token as iblutil sends them, ``[None, {}]`` for None."""
    if alyx is None:
        return [None, {}]
    try:
        token = {alyx.user: alyx._token} if alyx.is_logged_in else {}
        return [alyx.base_url, token]
    except AttributeError as error:
        raise TypeError(
            f"ALYX takes an object with base_url, user, _token and is_logged_in, not {type(alyx).__name__}: {error}"
        ) from None


def _status(value: Any) -> ExpStatus:
    if value is None:
        return ExpStatus.CONNECTED
    try:
        if isinstance(value, str):
            return ExpStatus[value.strip().upper()]
        if isinstance(value, int) and not isinstance(value, bool):
            return ExpStatus(value)
    except (KeyError, ValueError):
        raise ValueError(f"unknown status {value!r}; choices: {', '.join(ExpStatus.__members__)}") from None
    raise TypeError(f"a status is one of {', '.join(ExpStatus.__members__)}, not {type(value).__name__}")


def _reference(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = {key: str(part) if key == "date" else part for key, part in value.items()}
    return reference_text(value)


def _is_uuid(value: Any) -> bool:
    # Without importing the module, which on Python 3.10 loads threads and processes: who has a UUID has imported it.
    module = sys.modules.get("uuid")
    return module is not None and isinstance(value, module.UUID)


def to_plain(value: Any, path: str, room: Room = DATAGRAM_ROOM) -> Any:
    """Return `value` as what JSON knows.

    Beside JSON's own types: dates and times (ISO 8601), durations (seconds), paths and UUIDs (text), enums (their
    value), dataclasses, mappings, sets (sorted), sequences, and NumPy scalars and arrays. The `PayloadError` for
    another names it by its `path`, as the caller would write it. What is far too large is found before time is spent on
    all of it (`PayloadTooLarge`).
    """
    return _to_plain(value, path, 0, _Tally(room))


class _Tally:
    """Counts what a message takes. A value takes two bytes at least, and a structure may hold one value many times."""

    def __init__(self, room: Room) -> None:
        self._room, self._values = room, 0

    def take(self, values: int) -> None:
        self._values += values
        self._room.check(2 * self._values)


def _to_plain(value: Any, path: str, depth: int, tally: _Tally) -> Any:
    if depth > DEEPEST:
        raise PayloadError(f"{path[:80]} is nested more than {DEEPEST} deep, or refers to itself")
    tally.take(1)
    if value is None or isinstance(value, bool) or type(value) in (float, str):
        return value
    if type(value) is int:
        return _plain_whole(value, path)
    if isinstance(value, enum.Enum):
        return _to_plain(value.value, f"{path}.value", depth + 1, tally)
    if isinstance(value, Mapping):
        return _plain_mapping(value, path, depth, tally)
    if isinstance(value, (list, tuple, deque)):
        return [_to_plain(item, f"{path}[{i}]", depth + 1, tally) for i, item in enumerate(value)]
    if isinstance(value, Set):
        items = [_to_plain(item, f"{path}{{}}", depth + 1, tally) for item in value]
        return sorted(items, key=lambda item: (type(item).__name__, to_json(item) if _nested(item) else item))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _to_plain(getattr(value, name), f"{path}.{name}", depth + 1, tally) for name in names}
    return _plain_scalar(value, path, depth, tally)


def _plain_whole(value: int, path: str) -> int:
    if not -_WHOLES_END < value < _WHOLES_END:
        raise PayloadError(f"{path} is a whole number of more than {MOST_DIGITS} digits, which cannot be sent")
    return value


def _nested(item: Any) -> bool:
    return item is None or isinstance(item, (list, dict))


def _plain_mapping(value: Mapping[Any, Any], path: str, depth: int, tally: _Tally) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        name = key if type(key) is str else _plain_key(key, path, depth, tally)
        if name in plain:
            raise PayloadError(f"{path} has two keys that are both sent as {name!r}")
        plain[name] = _to_plain(item, f"{path}[{key!r}]", depth + 1, tally)
    return plain


def _plain_key(key: Any, path: str, depth: int, tally: _Tally) -> str:
    plain = _to_plain(key, f"a key of {path}", depth + 1, tally)
    if isinstance(plain, str):
        return plain
    if plain is None or isinstance(plain, (bool, int, float)):
        return to_json(plain)
    raise PayloadError(f"{path} has a key of type {_type_name(key)}, which cannot be sent")


def _plain_scalar(value: Any, path: str, depth: int, tally: _Tally) -> Any:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, pathlib.PurePath) or _is_uuid(value):
        return str(value)
    if isinstance(value, int):  # a subclass, as those below, among them numpy.str_ and numpy.float64
        return _plain_whole(int(value), path)
    for plain_type in (str, float):
        if isinstance(value, plain_type):
            return plain_type(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # NumPy, without importing it
        return _plain_array(value, path, depth, tally)
    raise PayloadError(f"{path} is of type {_type_name(value)}, which cannot be sent")


def _plain_array(value: Any, path: str, depth: int, tally: _Tally) -> Any:
    kind = getattr(value.dtype, "kind", "")
    size = getattr(value, "size", 1)
    tally.take(size if isinstance(size, int) else 1)
    if kind == "M":  # as ISO 8601, since tolist() gives whole numbers without their unit, here and below
        return value.astype(str).tolist()
    if kind == "m":
        with contextlib.suppress(TypeError):  # years and months have no fixed number of seconds
            return (value / value.dtype.type(1, "s")).tolist()
    if kind == "f":
        return value.astype(float).tolist()  # a long double would stay what it is
    if kind in ("b", "i", "u", "U"):
        return value.tolist()
    if kind in ("O", "T"):  # objects, among them the missing texts of NumPy's StringDType
        return _to_plain(value.tolist(), path, depth + 1, tally)
    raise PayloadError(f"{path} is of type {_type_name(value)} of {value.dtype}, which cannot be sent")


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
