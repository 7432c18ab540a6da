"""What a rig answers, in the places where iblrig's task code looks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rigsync.core.arguments import encode, to_plain, token_arguments
from rigsync.core.enums import PROTOCOL_VERSION, ExpMessage, ExpStatus
from rigsync.core.health import Health, told
from rigsync.core.messages import Command, Message, Verb
from rigsync.core.rigs import Room
from rigsync.errors import PayloadTooLarge

_INFO, _STATUS = ExpMessage.EXPINFO, ExpMessage.EXPSTATUS


@dataclass(frozen=True, slots=True)
class Identity:
    """What a rig says of itself: the constant part of iblrig's ExpInfo structure."""

    name: str
    """Name of the rig."""
    main_sync: bool = False
    """Whether this rig records the signal to which all others are aligned."""
    experiment_description: dict[str, Any] = field(default_factory=dict)
    """Devices and their settings, as in an IBL experiment description file; plain JSON values."""
    version: str = ""
    """Version of rigsync."""
    rehearses: bool = False
    """Whether it can rehearse."""


def experiment_information(
    identity: Identity, status: ExpStatus, exp_ref: str | None, returned: Mapping[str, Any]
) -> dict[str, Any]:
    """Return iblrig's ExpInfo structure, updated with what the handlers returned and the rig's status."""
    return {
        "exp_ref": exp_ref,
        "main_sync": identity.main_sync,
        "experiment_description": identity.experiment_description,
        "master": False,  # the behaviour PC, which commands, is the master
        "rig_version": identity.version,
        "spec_version": PROTOCOL_VERSION,
        **returned,
        "status": int(status),
    }


def answer_arguments(event: ExpMessage, status: ExpStatus, exp_ref: str | None, info: dict[str, Any]) -> list[Any]:
    """Return what follows the event in the answer to `event`, for all messages but ALYX."""
    if event is _INFO:
        return [int(status), info]
    if event is _STATUS:
        return [int(status)]
    if event is ExpMessage.EXPSTART:
        return [exp_ref, info]
    return [info]


def answer_to(
    event: Verb,
    identity: Identity,
    status: ExpStatus,
    exp_ref: str | None,
    reason: str | None,
    returned: Any,
    room: Room,
) -> list[Any]:
    """Return what follows the event in the answer to `event`, whose handlers have returned something.

    `reason` says why the rig itself has ended the experiment, where it has.
    """
    if isinstance(event, Command):
        return [to_plain(returned, "the result", room)]
    if returned is None and event is _STATUS:
        return [int(status)]
    if event is ExpMessage.ALYX:
        is_pair = isinstance(returned, (list, tuple)) and len(returned) == 2
        return [to_plain(part, "the result", room) for part in (returned if is_pair else token_arguments(returned))]
    if returned is not None and not isinstance(returned, Mapping):
        raise TypeError(f"a handler returns a dict or None, not {type(returned).__name__}")
    plain = to_plain(dict(returned or {}), "the result", room)
    if identity.rehearses and event is _INFO:
        plain = {"rehearses": True, **plain}
    if reason:
        plain = {"interrupted": reason, **plain}
    return answer_arguments(event, status, exp_ref, experiment_information(identity, status, exp_ref, plain))


def encoded_answer(event: Verb, args: list[Any], health: Health, room: Room) -> Message:
    """Return an answer; where it is to EXPINFO, with what is wrong with the rig now, if there is room for that."""
    if event is _INFO and (failures := health.failures):
        with contextlib.suppress(PayloadTooLarge):
            return encode(event, [*args[:-1], {**told(failures), **args[-1]}], room)
    return encode(event, args, room)
