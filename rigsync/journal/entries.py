"""What the journal keeps of an event, and whether that is a failure."""

from __future__ import annotations

from typing import Any

from rigsync.core.events import (
    EchoMissing,
    Event,
    JournalFailed,
    LeaseExpired,
    LinkLost,
    MessageHandled,
    MessageReceived,
    Notice,
    NoticesDropped,
    ProbeAnswered,
    ProbeRefused,
    ProgressChanged,
    PushCompleted,
    PushDecided,
    RemoteComplaint,
    RequestReceived,
    RigSettled,
    StatusChanged,
    StoodStill,
    StreamUpdated,
    ViolationSeen,
)
from rigsync.core.messages import Command
from rigsync.core.notices import FAILURE
from rigsync.core.queries import JOURNAL
from rigsync.hub.documents import fields_of, json_of, small
from rigsync.hub.events import Tick
from rigsync.journal.secrets import may_hold_secrets, without_secrets
from rigsync.journal.sessions import reason_in

LEFT_OUT: frozenset[type[Event]] = frozenset({ProbeAnswered, ProbeRefused, RequestReceived, RigSettled, Tick})
"""Kinds that the journal does not keep: `Sample` and the other kinds tell what came of them."""
THINNED: frozenset[type[Event]] = frozenset({ProgressChanged, StreamUpdated})
"""Kinds of which it keeps one each `THIN` seconds, and the last."""
LARGEST = 256 << 10
"""Characters of an event's fields as JSON; of larger ones, only the small fields are kept."""
_ALWAYS = (
    EchoMissing,
    JournalFailed,
    LeaseExpired,
    LinkLost,
    NoticesDropped,
    PushDecided,
    RemoteComplaint,
    StoodStill,
    ViolationSeen,
)


def is_failure(event: Event) -> bool:
    """Return whether an event tells that something has gone wrong."""
    if isinstance(event, PushCompleted):
        return bool(event.failures)
    if isinstance(event, MessageHandled):
        return event.error is not None
    if isinstance(event, StatusChanged):
        return event.reason is not None
    if isinstance(event, Notice):
        if event.topic == "log":
            return isinstance(event.body, dict) and bool(event.body.get("error"))
        return event.topic == FAILURE or (event.topic == "status" and reason_in(event.body) is not None)
    return isinstance(event, _ALWAYS)


def is_kept(event: Event) -> bool:
    """Return whether the journal keeps an event of a kind that it keeps.

    It keeps no answer to a call, since its push tells it, and nothing of those that fetch a journal.
    """
    message = getattr(event, "event", None)
    if not isinstance(message, Command):
        return True
    return message != JOURNAL and not (isinstance(event, MessageReceived) and event.request_time is not None)


def data_of(event: Event) -> str:
    """Return the fields of an event as JSON, in ASCII, without secrets."""
    try:
        fields = _fields(event)
    except RuntimeError:  # who has the answer as well changes it at this moment
        try:
            fields = _fields(event)
        except RuntimeError:
            fields = {"left_out": ["all: they were changed at that moment"]}
    return encoded(fields)


def _fields(event: Event) -> dict[str, Any]:
    fields = fields_of(event)
    if isinstance(event, MessageReceived) and event.request_time is not None:
        fields["args"] = None  # the push has them
    return fields


def encoded(fields: dict[str, Any]) -> str:
    """Return plain data as JSON, in ASCII, without secrets and not too large."""
    text = json_of(fields)
    if may_hold_secrets(text):
        text = json_of(without_secrets(fields))
    return text if len(text) <= LARGEST else json_of(without_secrets(small(fields)))


def storable(text: str) -> str:
    """Return text that SQLite can take: lone surrogates are escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
