"""A session by hand: what `rigsync start`, `stop` and `interrupt` have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any

import click

import rigsync
from rigsync.cli.following import Following
from rigsync.cli.outcomes import document_of, failure_document
from rigsync.cli.output import write_json
from rigsync.cli.push import NOBODY_CONFIRMS, print_tracebacks
from rigsync.cli.rigs import connect
from rigsync.cli.tables import print_table
from rigsync.config.journal import chosen_journal
from rigsync.config.programs import ProgramRig
from rigsync.config.rigs import Rigs
from rigsync.errors import JournalError, RigError
from rigsync.journal.query import Journal
from rigsync.journal.rows import OK

if TYPE_CHECKING:  # `--help` does not wait for the coordinator
    from rigsync.coordinator.experiment import Experiment
    from rigsync.coordinator.view import RigView

LONGEST_LOOK = 1.0
"""Seconds in which rigs say that the program which has begun is gone, and when they interrupt."""
DAY = 86_400.0
"""Seconds for which it is known that rigs have begun a session which nobody has ended."""
_SOON = 0.05
"""Seconds between looks at that."""


class Outcome:
    """What became of each rig, and of each message."""

    def __init__(self, rigs: Iterable[str]):
        self.outcomes = dict.fromkeys(rigs, "")
        """What became of each rig, in words."""
        self.failed: dict[str, RigError] = {}
        self.results: dict[str, rigsync.PushResult] = {}
        self.unconfirmed: dict[str, str] = {}
        """What is known of rigs of which nobody confirms anything."""

    def note(self, experiment: Experiment, message: str, done: str) -> None:
        """Note of rigs without an outcome what is `done` where they have answered a message."""
        self.results = dict(experiment.results)
        result = experiment.results.get(message)
        for rig in result or ():
            if not self.outcomes[rig]:
                unsure = result.unconfirmed.get(rig) if result else None
                self.outcomes[rig] = done if unsure is None else f"sent {message}; {unsure}"
                if unsure is not None:
                    self.unconfirmed[rig] = unsure

    def status(self) -> int:
        """Return the exit status."""
        return 1 if self.failed else NOBODY_CONFIRMS if self.unconfirmed else 0

    def document(self, following: Following | None, **more: Any) -> dict[str, Any]:
        """Return all of it for JSON."""
        seconds = following.seconds if following else {}
        rigs = {
            rig: {
                "outcome": outcome,
                "failure": failure_document(self.failed[rig]) if rig in self.failed else None,
                "unconfirmed": self.unconfirmed.get(rig),
            }
            for rig, outcome in self.outcomes.items()
        }
        messages = {name: document_of(result, seconds.get(name, {})) for name, result in self.results.items()}
        return {**more, "rigs": rigs, "messages": messages}

    def show(self, following: Following | None, as_json: bool, **more: Any) -> None:
        """Print it, as JSON or as a table; `more` is for JSON."""
        if as_json:
            write_json(self.document(following, **more))
            return
        words = [
            [rig, "failed" if rig in self.failed else "sent" if rig in self.unconfirmed else "ok", outcome]
            for rig, outcome in self.outcomes.items()
        ]
        print_table(["rig", "outcome", "what became of it"], words)
        if click.get_current_context().obj:
            print_tracebacks(self.failed.values())


def begun_before(rigs: Rigs, exp_ref: str | None) -> tuple[str, set[str]]:
    """Return the last session that the journal has, if nobody has ended it, and the rigs that have begun it.

    `exp_ref` is the one that goes on, if any does. Without a journal, or such a session, there is none.
    """
    settings = chosen_journal(None, rigs.journal)
    if settings is not None:
        with contextlib.suppress(JournalError), Journal(settings.file) as journal:
            for session in journal.sessions(exp_ref, since=time() - DAY, last=1):
                if session.ended is None:
                    return session.ref, {rig for rig, told in session.rigs.items() if told == OK}
    return "", set()


def programs_of(rigs: Rigs) -> list[str]:
    """Return the rigs that are programs of another protocol. What stands for them ends with the command."""
    return [name for name, rig in rigs.rigs.items() if isinstance(rig, ProgramRig)]


def references(views: Mapping[str, RigView]) -> str | None:
    """Return the reference of the experiment that goes on at rigs, or all of them where there are several."""
    return ", ".join(dict.fromkeys(view.exp_ref for view in views.values() if view.exp_ref)) or None


def look_again(rigs: Rigs) -> dict[str, RigView]:
    """Return how rigs are that a program of this computer has just left; it has said goodbye."""
    with connect(rigs) as auxiliaries:
        end = monotonic() + LONGEST_LOOK
        while monotonic() < end and any(view.owner for view in auxiliaries.views.values()):
            sleep(_SOON)
        return auxiliaries.views
