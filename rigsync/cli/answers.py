"""What a rig has answered, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rigsync.cli.output import compact
from rigsync.core.enums import ExpStatus
from rigsync.core.recorded import totals_of

CONSTANT_FIELDS = {"main_sync", "experiment_description", "master", "rig_version", "spec_version"}
"""Keys that iblrig's task code expects in every answer. Their values never change."""


DEEPEST = 5
"""Levels of a value that are told in words."""


def in_words(value: Any, depth: int = 0) -> str:
    """Return a value of JSON in words: ``level: 5, on: yes``; for people, who know what it is."""
    while not depth and isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, (dict, list)) and value:
        if depth >= DEEPEST:
            return "..."
        if isinstance(value, list):
            told = ", ".join(in_words(part, depth + 1) for part in value)
            return f"[{told}]" if depth else told
        told = ", ".join(f"{name}: {in_words(part, depth + 1)}" for name, part in value.items())
        return f"({told})" if depth else told
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "nothing" if value is None or value in ("", {}, []) else str(value)


def words_of(message: str, answer: list[Any], form: Callable[[Any], str] = compact) -> str:
    """Return an answer for people: status, reference, and what the rig's handlers have added.

    An answer of another shape, which commands and rigs of the iblutil dialect may give, is returned by `form`, and so
    is what was added.
    """
    information = answer[-1] if answer else None
    if message == "EXPSTATUS" and len(answer) == 1:
        information = {"status": information}
    if not isinstance(information, dict):
        return form(answer)
    try:
        status = ExpStatus(information["status"]).name
    except (KeyError, TypeError, ValueError):
        return form(answer)
    reference = information.get("exp_ref")
    shown = {*CONSTANT_FIELDS, "status", "exp_ref", "unconfirmed"}
    added = {name: value for name, value in information.items() if name not in shown}
    if recorded := totals_of(added.get("recorded")):
        del added["recorded"]
    told = [reference if isinstance(reference, str) else compact(reference)] if reference else []
    return " ".join([status, *told, *([f"recorded {recorded}"] if recorded else []), *([form(added)] if added else [])])
