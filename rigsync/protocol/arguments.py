"""From the arguments of a push, or the outcome of a handler, to plain JSON values."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import pathlib
import uuid
from collections import deque
from collections.abc import Mapping, Set
from typing import Any

from rigsync.errors import PayloadError
from rigsync.protocol.lifecycle import reference_text
from rigsync.protocol.messages import ExpMessage, ExpStatus, Message, to_json

DEEPEST = 64
"""Levels of nesting allowed: what refers to itself is found out, and the other side's decoder is spared."""

# What follows the event in each message (PROTOCOL.md section 1); all of it may be left out.
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


def validate_event(event: Any) -> ExpMessage:
    """Return the one ExpMessage that `event` names.

    Raises
    ------
    TypeError
        Neither text, nor a whole number, nor an ExpMessage.
    ValueError
        No such message, or several at once; the text lists the choices.
    """
    if isinstance(event, bool):
        raise TypeError(f"unknown event type {type(event)}; choices: {_choices()}")
    try:
        known: ExpMessage = ExpMessage.validate(event, allow_bitwise=False)
    except TypeError as error:
        raise TypeError(f"{error}; choices: {_choices()}") from None
    if not known:
        raise ValueError(f"the null message cannot be sent; choices: {_choices()}")
    return known


def _choices() -> str:
    return ", ".join(ExpMessage.__members__)


def compose(event: Any, *args: Any) -> Message:
    """Validate a message and encode its arguments.

    Parameters
    ----------
    event : str, int or ExpMessage
        The message.
    *args
        What follows the event: ``data`` for EXPINIT, EXPEND, EXPINTERRUPT and EXPCLEANUP; ``exp_ref, data`` for
        EXPSTART; ``status`` for EXPSTATUS; ``status, data`` for EXPINFO; an Alyx client, or nothing, for ALYX.

    Raises
    ------
    TypeError
        The wrong type of message, or too many arguments.
    ValueError
        An unknown message, status or reference.
    PayloadError
        An argument that cannot be encoded.
    PayloadTooLarge
        No datagram can carry it.
    """
    event = validate_event(event)
    names = _SIGNATURES[event]
    if len(args) > len(names):
        raise TypeError(f"{event.name} takes at most {len(names)} arguments ({', '.join(names)}), got {len(args)}")
    values = [*args, *[None] * (len(names) - len(args))]
    if event is ExpMessage.ALYX:
        values = token_arguments(values[0])
    elif names[0] == "status":
        values[0] = _status(values[0])
    elif event is ExpMessage.EXPSTART:
        values[0] = _reference(values[0])
    if isinstance(values[-1], Mapping) and isinstance(values[-1].get("exp_ref"), Mapping):
        values[-1] = {**values[-1], "exp_ref": _reference(values[-1]["exp_ref"])}
    return encode(event, [to_plain(value, name) for value, name in zip(values, names + names, strict=False)])


def encode(event: ExpMessage, plain: list[Any]) -> Message:
    """Return plain values as a message; a whole number beyond what Python prints is a `PayloadError`."""
    try:
        return Message.of(event, plain)
    except ValueError as error:
        if "digits" in str(error):
            raise PayloadError(f"an argument of {event.name} holds a whole number that is too long: {error}") from None
        raise


def token_arguments(alyx: Any) -> list[Any]:
    """Return an Alyx client's address and token as iblutil sends them, ``[None, {}]`` for None.

    Parameters
    ----------
    alyx : object or None
        Anything with ``base_url``, ``user``, ``_token`` and ``is_logged_in``.

    Raises
    ------
    TypeError
        It lacks one of these.
    """
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


def to_plain(value: Any, path: str, depth: int = 0) -> Any:
    """Return `value` as what JSON knows.

    Beside JSON's own types: dates and times (ISO 8601), durations (seconds), paths and UUIDs (text), enums (their
    value), dataclasses, mappings, sets (sorted), sequences, and NumPy scalars and arrays.

    Parameters
    ----------
    value : object
        What is to be sent.
    path : str
        How the caller would write it, for the error.
    depth : int
        Levels of nesting above it.

    Raises
    ------
    PayloadError
        It cannot be encoded; the text names its path and type.
    """
    if depth > DEEPEST:
        raise PayloadError(f"{path[:80]} is nested more than {DEEPEST} deep, or refers to itself")
    if value is None or isinstance(value, bool) or type(value) in (int, float, str):
        return value
    if isinstance(value, enum.Enum):
        return to_plain(value.value, f"{path}.value", depth + 1)
    if isinstance(value, Mapping):
        return _plain_mapping(value, path, depth)
    if isinstance(value, (list, tuple, deque)):
        return [to_plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Set):
        items = [to_plain(item, f"{path}{{}}", depth + 1) for item in value]
        return sorted(items, key=lambda item: (type(item).__name__, to_json(item) if _nested(item) else item))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: to_plain(getattr(value, name), f"{path}.{name}", depth + 1) for name in names}
    return _plain_scalar(value, path, depth)


def _nested(item: Any) -> bool:
    return item is None or isinstance(item, (list, dict))


def _plain_mapping(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        name = key if type(key) is str else _plain_key(key, path)
        if name in plain:
            raise PayloadError(f"{path} has two keys that are both sent as {name!r}")
        plain[name] = to_plain(item, f"{path}[{key!r}]", depth + 1)
    return plain


def _plain_key(key: Any, path: str) -> str:
    plain = to_plain(key, f"a key of {path}")
    if isinstance(plain, str):
        return plain
    if plain is None or isinstance(plain, (bool, int, float)):
        return to_json(plain)
    raise PayloadError(f"{path} has a key of type {_type_name(key)}, which cannot be sent")


def _plain_scalar(value: Any, path: str, depth: int) -> Any:
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (pathlib.PurePath, uuid.UUID)):
        return str(value)
    for plain_type in (str, int, float):  # a subclass, among them numpy.str_ and numpy.float64
        if isinstance(value, plain_type):
            return plain_type(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # NumPy, without importing it
        return _plain_array(value, path, depth)
    raise PayloadError(f"{path} is of type {_type_name(value)}, which cannot be sent")


def _plain_array(value: Any, path: str, depth: int) -> Any:
    kind = getattr(value.dtype, "kind", "?")
    if kind in "mM":  # to ISO 8601, for tolist() would give whole numbers of an unnamed unit
        value = value.astype(str)
    if kind in "biufUmM":
        return value.tolist()
    if kind == "O":
        return to_plain(value.tolist(), path, depth + 1)
    raise PayloadError(f"{path} is of type {_type_name(value)} of {value.dtype}, which cannot be sent")


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
