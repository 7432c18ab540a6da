"""Events and pictures of rigs as OSC messages: a few plain arguments, then all of it as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

from rigsync.bridges.osc.codec import encode
from rigsync.bridges.telling import document_of, json_of, plain
from rigsync.core.events import Event
from rigsync.core.messages import Command

MOST_TOLD = 3000
"""Bytes of JSON in a message. Beyond it large parts are left out: many programs read 4,096 bytes of a datagram."""
LONGEST_ARGUMENT = 200
"""Characters of a text beside that."""
_LEFT_OUT = frozenset({"rig", "request_time", "at", "size"})
"""Fields that stand first, or that the 32 bits of an OSC number cannot hold; JSON has them."""
_STAMP = ("id", "type", "priority", "time", "rig", "cause")


def event_message(event: Event) -> bytes:
    """Return ``/rigsync/event/TYPE rig ...``: the rig, or nothing, the event's texts and numbers in order, JSON."""
    document = document_of(event)
    rig = document.get("rig")
    args = [_argument(value) for name, value in _scalars(event)]
    return encode(f"/rigsync/event/{type(event).__name__}", [_text(rig), *args, _json(document, _STAMP)])


def view_message(rig: str, document: Mapping[str, Any]) -> bytes:
    """Return ``/rigsync/view rig link status reference trouble JSON``."""
    trouble = "; ".join(map(str, document["failures"].values())) or document["status_reason"]
    known = [document[name] for name in ("link", "status", "exp_ref")]
    shown = [_text(value) for value in (rig, *known, trouble)]
    kept = ("link", "reason", "dialect", "version", "status", "exp_ref", "owner", "round_trip_ms", "loss")
    return encode("/rigsync/view", [*shown, _json({"rig": rig, **document}, ("rig", *kept))])


def _scalars(event: Event) -> list[tuple[str, Any]]:
    fields = [(field.name, getattr(event, field.name)) for field in dataclasses.fields(event)]
    scalar = (str, int, float, Enum, Command, type(None))
    return [(name, value) for name, value in fields if name not in _LEFT_OUT and isinstance(value, scalar)]


def _argument(value: Any) -> str | float:
    shown = plain(value)
    return shown if isinstance(shown, (int, float)) else _text(shown)


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:LONGEST_ARGUMENT]


def _json(document: Mapping[str, Any], kept: tuple[str, ...]) -> str:
    text = json_of(document)
    if len(text) <= MOST_TOLD:
        return text
    small = {name: _short(document[name]) for name in kept if name in document}
    return json_of({**small, "left_out": sorted(document.keys() - small.keys())})


def _short(value: Any) -> Any:
    return value[:LONGEST_ARGUMENT] if isinstance(value, str) else value
