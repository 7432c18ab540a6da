"""What a rig has answered, in words."""

from __future__ import annotations

from typing import Any

from rigsync.cli.output import compact
from rigsync.core.enums import ExpStatus
from rigsync.core.recorded import totals_of

CONSTANT_FIELDS = {"main_sync", "experiment_description", "master", "rig_version", "spec_version"}
"""Keys that iblrig's task code expects in every answer. Their values never change."""


def words_of(message: str, answer: list[Any]) -> str:
    """Return an answer for people: status, reference, and what the rig's handlers have added.

    An answer of another shape, which rigs of the iblutil dialect may give, is returned as JSON.
    """
    information = answer[-1] if answer else None
    if message == "EXPSTATUS" and len(answer) == 1:
        information = {"status": information}
    if not isinstance(information, dict):
        return compact(answer)
    try:
        status = ExpStatus(information["status"]).name
    except (KeyError, TypeError, ValueError):
        return compact(answer)
    reference = information.get("exp_ref")
    shown = {*CONSTANT_FIELDS, "status", "exp_ref", "unconfirmed"}
    added = {name: value for name, value in information.items() if name not in shown}
    if recorded := totals_of(added.get("recorded")):
        del added["recorded"]
    told = [reference if isinstance(reference, str) else compact(reference)] if reference else []
    return " ".join(
        [status, *told, *([f"recorded {recorded}"] if recorded else []), *([compact(added)] if added else [])]
    )
