"""What the journal keeps of an event, and whether that is a failure."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    ProgressChanged,
    PushCompleted,
    PushDecided,
    RemoteComplaint,
    StatusChanged,
    StoodStill,
    StreamUpdated,
    ViolationSeen,
)
from rigsync.core.lifecycle import ENDS
from rigsync.core.notices import FAILURE
from rigsync.errors import BusyError
from rigsync.hub.documents import fields_as_json, fields_of, json_of, small
from rigsync.hub.events import AlertFailed
from rigsync.journal.secrets import may_hold_secrets, without_secrets
from rigsync.journal.sessions import reason_in

THINNED: frozenset[type[Event]] = frozenset({ProgressChanged, StreamUpdated})
"""Kinds of which it keeps one each `THIN` seconds, and the last."""
LARGEST = 256 << 10
"""Characters of an event's fields as JSON; of larger ones, only the small fields are kept."""
_REFUSALS = frozenset({"Busy", "BusyError", "StateError"})
"""Failures of messages that a rig has not acted on, be they of its own task or of another program."""


def _is_told_as_failure(notice: Notice) -> bool:
    body = notice.body
    if notice.topic == "log":
        return isinstance(body, dict) and bool(body.get("error"))
    return notice.topic == FAILURE or (notice.topic == "status" and reason_in(body) is not None)


_ALWAYS = (
    AlertFailed,
    EchoMissing,
    JournalFailed,
    LeaseExpired,
    LinkLost,
    PushDecided,
    RemoteComplaint,
    StoodStill,
    ViolationSeen,
)
_FAILURES: dict[type[Event], Callable[[Any], bool]] = {
    **dict.fromkeys(_ALWAYS, lambda _: True),
    PushCompleted: lambda event: bool(event.failures),
    MessageHandled: lambda event: event.error is not None,
    StatusChanged: lambda event: event.reason is not None,
    NoticesDropped: lambda event: not event.is_gone,
    Notice: _is_told_as_failure,
}
"""Whether something has gone wrong, for each kind that may tell so."""


def is_failure(event: Event) -> bool:
    """Return whether an event tells that something has gone wrong."""
    tells = _FAILURES.get(event.__class__)
    return tells is not None and tells(event)


def spoils(event: Event) -> bool:
    """Return whether the session is the worse for a failure: not for an alert's, or a message that was refused."""
    error: Any = None
    if isinstance(event, MessageHandled):
        error = event.error
    elif isinstance(event, PushCompleted) and event.event in ENDS:
        return not all(isinstance(failure, BusyError) for failure in event.failures.values())
    elif isinstance(event, Notice) and event.topic == "log":  # what a rig tells of others' messages
        error = event.body["error"]
    is_refusal = isinstance(error, str) and error.partition(":")[0] in _REFUSALS
    return not is_refusal and not isinstance(event, AlertFailed)


def data_of(event: Event) -> str:
    """Return the fields of an event as JSON, in ASCII, without secrets."""
    if isinstance(event, MessageReceived) and event.request_time is not None:
        return encoded({**fields_of(event), "args": None})  # the push has them
    try:
        text = fields_as_json(event)
    except RuntimeError:  # who has the answer as well changes it at this moment
        return encoded({"left_out": ["all: it was changed at that moment"]})
    if may_hold_secrets(text) or len(text) > LARGEST:
        return encoded(json.loads(text))
    return text


def encoded(fields: dict[str, Any]) -> str:
    """Return plain data as JSON, in ASCII, without secrets and not too large."""
    text = json_of(fields)
    if may_hold_secrets(text):
        fields = without_secrets(fields)
        text = json_of(fields)
    return text if len(text) <= LARGEST else json_of(small(fields))
