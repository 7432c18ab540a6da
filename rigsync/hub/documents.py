"""Events as plain data for JSON: what bridges tell, and what the journal keeps."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Set
from enum import Enum
from functools import lru_cache
from typing import Any

from rigsync.core.arguments import DEEPEST, to_plain
from rigsync.core.enums import ExpMessage
from rigsync.core.events import Event
from rigsync.core.messages import Command
from rigsync.core.rigs import Room
from rigsync.errors import PayloadError, PayloadTooLarge, RigError

CONTENT = frozenset({"args", "answers", "outcome"})
"""Fields with the content of a message or of its answer. In ALYX these hold tokens."""
LONGEST_TEXT = 200
"""Most characters of a text, where large parts are left out."""
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def document_of(event: Event) -> dict[str, Any]:
    """Return all of an event that a hub has told, for JSON: its stamp, and its other ``fields``, but no ALYX token."""
    stamp = event.stamp
    document: dict[str, Any] = {} if stamp is None else plain(stamp._asdict())
    return {**document, "fields": fields_of(event)}


def fields_of(event: Event) -> dict[str, Any]:
    """Return the fields of an event for JSON, without ``rig``, and but for an ALYX token."""
    is_secret = getattr(event, "event", None) is ExpMessage.ALYX
    kind: Any = type(event)
    return {name: "***" if is_secret and name in CONTENT else plain(getattr(event, name)) for name in _names(kind)}


def fields_as_json(event: Event) -> str:
    """Return what `fields_of` does as JSON in one line, in ASCII; several times as fast.

    It differs in whole numbers with a name of a program's own, deep in a field: of these there is the number.
    """
    is_secret = getattr(event, "event", None) is ExpMessage.ALYX
    kind: Any = type(event)
    fields: dict[str, Any] = {}
    for name in _names(kind):
        value = "***" if is_secret and name in CONTENT else getattr(event, name)
        fields[name] = value if type(value) in _OF_JSON else plain(value)
    try:
        return "".join(_encoded(fields, 0))
    except (TypeError, ValueError, RecursionError):  # a key that is no text, a number that is none, or a circle
        return json_of(fields_of(event))


@lru_cache(256)
def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.name != "rig"]  # the stamp has the rig


@lru_cache(256)
def _all_names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def small(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with simple values, their texts cut, and the names of the others as ``left_out``."""
    kept = {
        name: value[:LONGEST_TEXT] if isinstance(value, str) else value
        for name, value in fields.items()
        if value is None or isinstance(value, (str, int, float))
    }
    return {**kept, "left_out": sorted(fields.keys() - kept)}


def json_of(document: Any) -> str:
    """Return plain data as JSON in one line, in ASCII."""
    return _ENCODER.encode(document)


def json_within(most: int, document: Mapping[str, Any]) -> str:
    """Return an event, or a picture, as JSON; leave its large parts out if that has more than `most` bytes."""
    text = json_of(document)
    if len(text) <= most:
        return text
    fields = document.get("fields")
    return json_of(small(document) if fields is None else {**document, "fields": small(fields)})


def plain(value: Any, depth: int = 0) -> Any:
    """Return any value of an event as data that JSON knows, or else the name of its type."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Enum):
        return value.value if isinstance(value, str) else value.name
    if isinstance(value, Command):
        return value.name
    if isinstance(value, RigError):
        return {"error": type(value).__name__, "problem": value.problem}
    if depth > DEEPEST:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {str(plain(key, depth + 1)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, Set)):
        return [plain(item, depth + 1) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name), depth + 1) for name in _all_names(type(value))}
    try:
        return plain(to_plain(value, "value", Room()), depth + 1)
    except (PayloadError, PayloadTooLarge):
        return f"<{type(value).__name__}>"


_OF_JSON = frozenset({type(None), str, int, bool, float, dict, list})


def _encoder() -> Callable[[Any, int], Iterable[str]]:
    """Return what a `JSONEncoder` makes anew for each value, which takes longer than most values."""
    make: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    if make is None:  # a Python that is not written in C
        slow = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=plain)
        return lambda value, _: [slow.encode(value)]
    made: Callable[[Any, int], Iterable[str]]
    made = make(None, plain, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False)
    return made


_encoded = _encoder()
