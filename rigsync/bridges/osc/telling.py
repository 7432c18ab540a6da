"""Events and pictures of rigs as OSC messages: a few plain arguments, then all of it as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rigsync.bridges.osc.codec import encode
from rigsync.core.events import Event
from rigsync.hub.documents import LONGEST_TEXT, document_of, json_within

MOST_TOLD = 3000
"""Bytes of JSON in a message. Beyond it large parts are left out: many programs read 4,096 bytes of a datagram."""
_INEXACT = frozenset({"request_time", "at", "size"})
"""Fields that the 32 bits of an OSC number cannot hold, or that nobody needs; JSON has them."""


def event_message(event: Event) -> bytes:
    """Return ``/rigsync/event/TYPE rig ...``: the rig, or nothing, the event's texts and numbers in order, JSON."""
    document = document_of(event)
    fields = document["fields"]
    args = [_argument(value) for name, value in fields.items() if name not in _INEXACT and _is_scalar(value)]
    text = json_within(MOST_TOLD, document)
    return encode(f"/rigsync/event/{type(event).__name__}", [_argument(document.get("rig")), *args, text])


def view_message(rig: str, document: Mapping[str, Any]) -> bytes:
    """Return ``/rigsync/view rig link status reference trouble JSON``."""
    trouble = "; ".join(map(str, document["failures"].values())) or document["status_reason"]
    shown = [rig, *(document[name] for name in ("link", "status", "exp_ref")), trouble]
    return encode("/rigsync/view", [*map(_argument, shown), json_within(MOST_TOLD, {"rig": rig, **document})])


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _argument(value: Any) -> str | float:
    return value if isinstance(value, (int, float)) else "" if value is None else str(value)[:LONGEST_TEXT]
