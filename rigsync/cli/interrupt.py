"""`rigsync interrupt`."""

from __future__ import annotations

import click

from rigsync.cli.by_hand import Outcome, references
from rigsync.cli.following import Following, view_of
from rigsync.cli.logs import start_logging
from rigsync.cli.options import json_option, rigs_option, verbose_option
from rigsync.cli.outcomes import failure_in_words
from rigsync.cli.push import NOBODY_CONFIRMS, timeout_option, to_option
from rigsync.cli.rigs import chosen, connect, rigs_of_file
from rigsync.errors import BusyError


class InterruptedByHand(Exception):
    """Somebody has typed it, and the rigs are told why."""


@click.command(short_help="Stop all rigs at once, whoever is in charge.")
@click.argument("reason", default="rigsync interrupt, by hand")
@to_option
@timeout_option
@rigs_option
@json_option
@verbose_option
def command(reason: str, patterns: tuple[str, ...], timeout: float | None, rigs_file: str | None, as_json: bool) -> int:
    """Stop what goes on at the rigs at once, whoever is in charge: EXPINTERRUPT and EXPCLEANUP.

    The rigs, and the program in charge, are told the REASON. Where that program is still there, it is left to it to
    clean up.

    The exit status is 1 if a rig has failed, and 3 if none has, and a rig is a program that confirms nothing.

    \b
    rigsync interrupt
    rigsync interrupt 'the animal has left the box' --to 'cameras:*'
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    start_logging(printed="rigsync.experiment")
    rigs = chosen(rigs_of_file(rigs_file), patterns)
    outcome = Outcome(rigs.rigs)
    with view_of(as_json) as view, connect(rigs, leave_running=True) as auxiliaries:
        exp_ref = references(auxiliaries.views)
        experiment = auxiliaries.experiment(exp_ref, timeout=timeout)
        experiment.stays = False
        experiment.join(rigs.rigs)
        following = Following(auxiliaries, view, list(rigs.rigs), ["EXPINTERRUPT", "EXPCLEANUP"])
        with following:
            experiment.interrupt(InterruptedByHand(reason))
        outcome.results = experiment.results
        _judge(outcome)
        outcome.note(experiment, "EXPINTERRUPT", "interrupted and cleaned up")
    for rig, words in outcome.outcomes.items():
        outcome.outcomes[rig] = words or "its program has ended, and records nothing"
    outcome.show(following, as_json, exp_ref=exp_ref)
    return outcome.status(NOBODY_CONFIRMS)


def _judge(outcome: Outcome) -> None:
    """Note what has failed. To clean up is left to a program that is in charge, and still there: it is no failure."""
    interrupted, cleaned_up = outcome.results.get("EXPINTERRUPT"), outcome.results.get("EXPCLEANUP")
    for rig, error in interrupted.failed.items() if interrupted is not None else ():
        outcome.failed[rig] = error
        outcome.outcomes[rig] = f"may go on recording: {failure_in_words(error)}"
    for rig, error in cleaned_up.failed.items() if cleaned_up is not None else ():
        if rig in outcome.failed:
            continue
        if isinstance(error, BusyError):
            outcome.outcomes[rig] = f"interrupted; to clean up is left to the one in charge: {error.problem}"
        else:
            outcome.failed[rig] = error
            outcome.outcomes[rig] = f"interrupted; {failure_in_words(error)}"
