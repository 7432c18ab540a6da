"""Whole events as JSON, and back, by the names of types that both sides know; JSON never becomes code. Pure."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from rigsync._text import close_match, shortened
from rigsync.bridges.asking import no_number
from rigsync.bridges.requests import LARGEST
from rigsync.core.arguments import DEEPEST, to_plain
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import Dialect, Event, LinkState, Start
from rigsync.core.messages import Command
from rigsync.core.rigs import Room
from rigsync.core.schedule import Schedule
from rigsync.errors import PayloadError, PayloadTooLarge, RemoteError, RigError
from rigsync.hub.documents import CONTENT, json_of
from rigsync.hub.events import kinds_below

FARTHEST = 64
"""Most hubs that an event may have gone through: more are a circle, or forged."""
LONGEST_NAME = 64
"""Most characters of the name of a hub."""
_MARK = "="
"""The one key of a map that stands for a value that JSON lacks. Under it is a list: the name of its type, its parts."""
_MADE: dict[str, Callable[..., Any]] = {"float": float, "Command": Command, "Start": Start}
_ENUMS: dict[str, type[Enum]] = {kind.__name__: kind for kind in (ExpMessage, ExpStatus, LinkState, Dialect)}
_DECODER = json.JSONDecoder(parse_constant=no_number)  # made once: to make it takes as long as to use it


class NotWhole(Exception):
    """An event cannot be written, or read, whole; the text says why."""


class NotKnown(Exception):
    """The type of an event is unknown in this program."""


class Carried(NamedTuple):
    """An event that has come from another hub."""

    event: Event
    stamp: tuple[int, int, float, int | None]
    """Id, priority, time and cause, from the hub that told the event first."""
    number: int
    """Its number at that hub. With the first of `via`, it names the event."""
    via: tuple[str, ...]
    """The hubs that it has gone through."""


def write_event(event: Event, number: int, via: tuple[str, ...]) -> bytes:
    """Return an event that a hub has told as JSON for another hub; raise a `NotWhole` if JSON cannot hold it."""
    kind: Any = type(event)
    is_secret = getattr(event, "event", None) is ExpMessage.ALYX
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(kind) if field.init}
    try:
        written = {
            name: _written(_emptied(value) if is_secret and name in CONTENT else value, name)
            for name, value in fields.items()
        }
        stamp = dict(zip(("id", "priority", "time", "cause"), event._stamp, strict=True))
        data = json_of({"number": number, "via": via, "type": kind.__name__, **stamp, "fields": written}).encode()
    except (PayloadError, PayloadTooLarge, ValueError, RecursionError) as error:
        raise NotWhole(f"{kind.__name__} cannot be told to another hub: {error}") from None
    if len(data) > LARGEST:
        raise NotWhole(f"{kind.__name__} takes {len(data):,} bytes; another hub is told {LARGEST:,} at most")
    return data


def read_event(data: bytes) -> Carried:
    """Return an event as another hub has written it; raise a `NotWhole`, or a `NotKnown` for an unknown type."""
    try:
        if len(data) > LARGEST:
            raise ValueError(f"an event has at most {LARGEST:,} bytes, not {len(data):,}")
        found = _DECODER.decode(data.decode())
        number, via, name, *stamp, fields = (
            found[key] for key in ("number", "via", "type", "id", "priority", "time", "cause", "fields")
        )
        _check(number, int, "number")
        _check(via, list[str], "via")
        if not 0 < len(via) <= FARTHEST:
            raise ValueError(f"it has gone through {len(via)} hubs")
        if any(len(hub) > LONGEST_NAME for hub in via) or not 0 < number < 1 << 63:  # many of both are kept
            raise ValueError(f"a hub has {LONGEST_NAME} characters, and an event a number from 1 to 2**63, at most")
        for value, key, hint in zip(stamp, ("id", "priority", "time"), (int, int, float), strict=False):
            _check(value, hint, key)
        _check(stamp[3], int | None, "cause")
        _check(fields, dict, "fields")
        kind, hints = _kind(_check(name, str, "type"))
        values = {key: _check(_read(value), hints.get(key, Any), key) for key, value in fields.items() if key in hints}
        return Carried(kind(**values), tuple(stamp), number, tuple(via))
    except (NotWhole, NotKnown):
        raise
    except Exception as error:  # a class of the program may raise anything when it is made
        raise NotWhole(f"{shortened(data, 80)} is no event: {type(error).__name__}: {error}") from None


@lru_cache(1024)  # errors are not cached: the type may be defined later
def _kind(name: str) -> tuple[Any, Mapping[str, Any]]:
    """Return a class of events, and the types of its fields."""
    known = {kind.__name__: kind for kind in kinds_below(Event)}
    if name not in known:
        hint = close_match(name, known) or "; rigsync.events.define(name) makes it known"
        raise NotKnown(f"this program has no event {shortened(name)}{hint}")
    kind: Any = known[name]
    try:
        hints = get_type_hints(kind)
    except Exception:  # hints with names that only a type checker knows
        hints = {}
    return kind, {field.name: hints.get(field.name, Any) for field in dataclasses.fields(kind) if field.init}


def _emptied(value: Any) -> Any:
    """Return the content of an ALYX message without its token; keep why there is no answer."""
    if isinstance(value, Mapping):
        return {key: _emptied(item) for key, item in value.items()}
    return [] if isinstance(value, list) else value


def _written(value: Any, path: str, depth: int = 0) -> Any:
    kind = type(value)
    if value is None or kind in (str, bool, int):
        return value
    if depth > DEEPEST:
        raise ValueError(f"{path} is nested more than {DEEPEST} deep, or refers to itself")
    if kind is float:
        return value if math.isfinite(value) else {_MARK: ["float", str(value)]}
    if kind is list:
        return [_written(item, path, depth + 1) for item in value]
    if kind is dict and all(type(key) is str for key in value):
        items = {key: _written(item, path, depth + 1) for key, item in value.items()}
        return {_MARK: ["dict", *items.items()]} if _MARK in items else items
    if kind is tuple:
        return {_MARK: ["tuple", *(_written(item, path, depth + 1) for item in value)]}
    if kind in _ENUMS.values():
        return {_MARK: [kind.__name__, value.name]}
    if kind is Command:
        return {_MARK: ["Command", value.name]}
    if kind is Start:
        return {_MARK: ["Start", value.time, value.bound, value.is_estimate]}
    if kind is Schedule:  # an instant by that rig's own clock, useless elsewhere
        return None
    if isinstance(value, RemoteError):
        return {_MARK: [kind.__name__, value.rig, value.error, value.message, value.traceback]}
    if isinstance(value, RigError):
        return {_MARK: [kind.__name__, value.rig, value.problem]}
    return _written(to_plain(value, path, Room(LARGEST)), path, depth + 1)  # as in a message to a rig


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {_MARK}:
        return {key: _read(item) for key, item in value.items()}
    name, *parts = value[_MARK]
    if name in _ENUMS:
        return _ENUMS[name][parts[0]]
    if name == "tuple":
        return tuple(map(_read, parts))
    if name == "dict":
        return {key: _read(item) for key, item in parts}
    return (_MADE.get(name) or _error(name))(*parts)


def _error(name: str) -> type[RigError]:
    kinds: list[type[RigError]] = [RigError, *RigError.__subclasses__(), *RemoteError.__subclasses__()]
    for kind in kinds:
        if kind.__name__ == name:
            return kind
    raise TypeError(f"there is no {shortened(name)}")


def _check(value: Any, hint: Any, name: str) -> Any:
    if not _fits(value, hint):
        shown = getattr(hint, "__name__", None) or hint
        raise TypeError(f"{name} is {shortened(value, 80)}, not {shown}")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type, as far as this can be checked."""
    if hint is Any:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in args)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(key, args[0]) and _fits(value[key], args[1]) for key in value)
    kind = origin or hint
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, kind)
