"""What both sides say of themselves at EXPINFO, as iblrig's task code does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rigsync import __version__
from rigsync._text import one_line
from rigsync.coordinator.results import PushResult
from rigsync.core.enums import PROTOCOL_VERSION, ExpStatus
from rigsync.core.lifecycle import reference_text, same_reference

logger = logging.getLogger("rigsync.experiment")

Told = Mapping[str, Mapping[str, Any]]
"""What each rig says of itself."""


class Unfit(Exception):
    """What some rigs have told of themselves does not allow the experiment to begin."""

    def __init__(self, rigs: list[str], problem: str):
        super().__init__(problem)
        self.rigs, self.problem = rigs, problem


def information(exp_ref: str | None) -> dict[str, Any]:
    """Return what the rigs are told of this side."""
    return {
        "exp_ref": exp_ref,
        "main_sync": False,
        "master": True,
        "experiment_description": {},
        "rig_version": __version__,
        "spec_version": PROTOCOL_VERSION,
        "status": int(ExpStatus.CONNECTED),
    }


def information_in(answers: PushResult) -> dict[str, dict[str, Any]]:
    """Return what rigs say of themselves, by name."""
    return {rig: answer[-1] for rig, answer in answers.items() if answer and isinstance(answer[-1], dict)}


def check_not_running(told: Told, exp_ref: str | None) -> None:
    """Refuse to join a running experiment of this reference, by `Unfit`: its recording began before."""
    running = [
        rig
        for rig, info in told.items()
        if info.get("status") == int(ExpStatus.RUNNING) and info.get("exp_ref") and not is_strangers(info, exp_ref)
    ]
    if running:
        problem = (
            f"it records {exp_ref} already; stop that by rigsync stop, go on with it by init={{'takeover': True}}, or "
            "give this experiment another number"
        )
        raise Unfit(running, problem)


def is_strangers(info: Mapping[str, Any], exp_ref: str | None) -> bool:
    """Whether a rig records another experiment."""
    reference = info.get("exp_ref")
    is_same = isinstance(reference, str) and same_reference(reference, exp_ref)
    return info.get("status") == int(ExpStatus.RUNNING) and reference is not None and not is_same


def main_reference(told: Told, exp_ref: str | None, adopts: bool = True) -> str | None:
    """Return the main sync's reference if it has told one, as iblrig's task code does; there may be one main sync.

    By `Unfit` it may not be another one than `exp_ref` unless the experiment `adopts` that.
    """
    main = [rig for rig, info in told.items() if info.get("main_sync")]
    if len(main) > 1:
        problem = f"{' and '.join(main)} claim to be the main sync, which one rig is; see how they are configured"
        raise Unfit(main, problem)
    for rig in main:
        # A rig that is STOPPED tells the experiment before this one.
        if (reference := told[rig].get("exp_ref")) and told[rig].get("status") != int(ExpStatus.STOPPED):
            try:
                found = reference_text(reference)
            except ValueError as error:
                problem = f"it is the main sync, and what it tells is no reference: {error}"
                raise Unfit([rig], problem) from None
            is_another = exp_ref is not None and not same_reference(exp_ref, found)
            if is_another and not adopts:
                problem = (
                    f"{found} has begun there, and it is the main sync, whose reference counts; rigsync stop ends "
                    "that, and rigsync interrupt breaks it off"
                )
                raise Unfit([rig], problem)
            if is_another:
                logger.warning("%s is the main sync: %s", rig, one_line(f"its reference {found} counts, not {exp_ref}"))
            return found
    return exp_ref
