"""What the journal is told of a rig, beside what its hub tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from rigsync.config.journal import Journal, chosen_journal
from rigsync.core.clock import StampClock
from rigsync.journal.recorder import RIG, Recorder, Subject
from rigsync.rig.session import Session
from rigsync.runtime.hub import Hub


def recorder_of(
    hub: Hub, name: str, journal: Journal, files: Sequence[str], session: Callable[[], Session | None]
) -> Recorder | None:
    """Return the recorder of a rig's hub, if it is to have one."""
    settings = chosen_journal(journal)
    if settings is None:
        return None

    def clock() -> StampClock | None:
        present = session()
        return present.clock if present else None

    return Recorder(hub, settings, Subject(RIG, name, files, clock))


def journal_command(recorder: Recorder, rig: str) -> Callable[..., dict[str, Any]]:
    """Return what does the command ``rigsync.journal``: it tells the rig's runs, or a page of one."""

    def tell(run: str | None = None, after: int = 0) -> dict[str, Any]:
        # A rig of which nobody asks it does without SQLite.
        found: dict[str, Any] = import_module("rigsync.journal.pages").answer(recorder.path, rig, run, after)
        return found

    return tell
