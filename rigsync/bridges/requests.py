"""Requests in JSON: what they may ask for, and what is wrong with a bad one. Pure."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from rigsync._text import close_match, shortened
from rigsync.bridges.asking import UNCONFIRMED, Asking, Refused, no_number
from rigsync.coordinator.results import unconfirmed_in
from rigsync.core.enums import ExpMessage
from rigsync.errors import RigError
from rigsync.hub.documents import plain

LARGEST = 1 << 20
"""Bytes of the largest request."""
_KEYS = {
    "push": ("args", "rigs", "timeout"),
    "call": ("args", "rigs", "timeout"),
    "views": (),
    "snapshot": (),
}
"""The keys that each verb allows."""
_EXAMPLE = '{"push": "EXPSTART", "args": ["2026-01-31_1_mouse"], "rigs": "cameras*", "timeout": 5}'


@dataclass(frozen=True, slots=True)
class Request:
    """A request, checked."""

    verb: str
    """``push``, ``call``, ``views`` or ``snapshot``."""
    what: Any
    """The `ExpMessage`, the name of a command, or where a subscriber stands: run and sequence number."""
    args: list[Any]
    rigs: list[str] | None
    """Names or patterns; None for all."""
    timeout: float | None

    def done_by(self, asking: Asking) -> Coroutine[Any, Any, dict[str, Any]]:
        """Ask the rigs: push or call."""
        if self.verb == "push":
            return asking.push(self.what, self.args, self.rigs, self.timeout)
        return asking.call(self.rigs or (), self.what, self.args, self.timeout)

    def answer(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer, made of the outcome at each rig."""
        return {"outcomes": {rig: self._outcome(value) for rig, value in found.items()}}

    def _outcome(self, value: Any) -> dict[str, Any]:
        if isinstance(value, RigError):
            return {"ok": False, **plain(value)}
        if self.verb == "push" and (told := unconfirmed_in(value)) is not None:
            return {"ok": False, "error": UNCONFIRMED, "problem": told, "answer": plain(value)}
        return {"ok": True, "answer": None if self.what is ExpMessage.ALYX else plain(value)}  # which has a token


def read_request(data: bytes) -> Request:
    """Read a request; raise a `Refused` that says what is wrong."""
    return request_of(json_object(data))


def json_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object; raise a `Refused` that says what is wrong."""
    if len(data) > LARGEST:
        raise Refused(f"a request has at most {LARGEST:,} bytes, not {len(data):,}")
    try:
        found = json.loads(data, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{shortened(data, 80)} is not JSON: {error}; a request is for instance {_EXAMPLE}") from None
    if not isinstance(found, dict):
        raise Refused(f"a request is a JSON object, for instance {_EXAMPLE}, not {shortened(found, 80)}")
    return found


def request_of(found: Mapping[str, Any]) -> Request:
    """Check a request; raise a `Refused` that says what is wrong."""
    verbs = [verb for verb in _KEYS if verb in found]
    if len(verbs) != 1:
        close = "" if verbs else next(filter(None, (close_match(name, _KEYS) for name in found)), "")
        raise Refused(f"a request has one of {', '.join(_KEYS)}, not {', '.join(verbs) or shortened([*found])}{close}")
    (verb,) = verbs
    for name in found:
        if name != verb and name not in _KEYS[verb]:
            known = ", ".join(_KEYS[verb]) or "nothing"
            raise Refused(f"unknown key {shortened(name)}; {known} may go with {verb}{close_match(name, _KEYS[verb])}")
    args = found.get("args", [])
    if not isinstance(args, list):
        raise Refused(f"args is a list, not {shortened(args)}")
    rigs, timeout = _rigs(found.get("rigs")), found.get("timeout")  # which is checked where it is known what it may be
    if verb == "call" and rigs is None:
        raise Refused('a call names its rigs, as in {"call": "focus", "rigs": "cameras"}')
    return Request(verb, _what(verb, found[verb]), args, rigs, timeout)


def _rigs(value: Any) -> list[str] | None:
    if value is None or isinstance(value, str):
        return value if value is None else [value]
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise Refused(f"rigs is a name or a pattern, or a list of these, not {shortened(value)}")
    return value


def _what(verb: str, value: Any) -> Any:
    if verb == "push":
        known = ExpMessage.__members__
        if not isinstance(value, str) or value not in known:
            close = close_match(value, known) or f"; the messages are {', '.join(known)}"
            raise Refused(f"there is no message {shortened(value)}{close}")
        return ExpMessage[value]
    if verb == "call":
        if not isinstance(value, str):
            raise Refused(f"a command is named by text, not {shortened(value)}")
        return value
    if value is True:
        return None
    if verb == "views":
        raise Refused(f'write {{"views": true}}, not {shortened(value)}')
    place = value if isinstance(value, dict) and value.keys() == {"run", "sequence"} else {}
    if type(place.get("sequence")) is not int:
        example = '{"snapshot": {"run": "5e1f", "sequence": 17}}'
        raise Refused(f'write {{"snapshot": true}}, or where you stand, {example}, not {shortened(value)}')
    return place["run"], place["sequence"]
