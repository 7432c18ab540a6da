"""`rigsync stop`."""

from __future__ import annotations

import click

from rigsync.cli.by_hand import Outcome, begun_before, programs_of, references
from rigsync.cli.following import Following, view_of
from rigsync.cli.logs import start_logging
from rigsync.cli.options import json_option, rigs_option, verbose_option
from rigsync.cli.push import timeout_option, to_option
from rigsync.cli.rigs import chosen, connect, rigs_of_file
from rigsync.core.enums import ExpStatus
from rigsync.core.recorded import totals_of
from rigsync.errors import ExperimentError, Interrupted

IDLE = "nothing goes on there"
UNKNOWN = "not told: it is a program, and nobody here knows whether it records; rigsync interrupt stops it"


@click.command(short_help="End a session: all rigs stop, and clean up.")
@to_option
@timeout_option
@rigs_option
@json_option
@verbose_option
def command(patterns: tuple[str, ...], timeout: float | None, rigs_file: str | None, as_json: bool) -> int:
    """End the session that goes on at the rigs, such as one of rigsync start: EXPEND and EXPCLEANUP, as by a task.

    A rig where nothing goes on is told nothing. It has failed if it had begun the session, as the journal says. A rig
    that another program is in charge of refuses, and goes on; the table names that program. rigsync interrupt stops it
    all the same. A rig whose EXPEND fails is interrupted and cleaned up. Ctrl-C turns an end that takes long into an
    interrupt.

    The exit status is 1 if a rig has failed, and 3 if none has, and a rig is a program that confirms nothing.

    \b
    rigsync stop
    rigsync stop --to 'cameras:*'
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    start_logging()
    rigs = chosen(rigs_of_file(rigs_file), patterns)
    outcome, following = Outcome(rigs.rigs), None
    with view_of(as_json) as view, connect(rigs, leave_running=True) as auxiliaries:
        views = auxiliaries.views
        outcome.unconfirmed = dict.fromkeys(programs_of(rigs), UNKNOWN)
        going = {
            rig: one
            for rig, one in views.items()
            if one.state != ExpStatus.CONNECTED.name and rig not in outcome.unconfirmed
        }
        outcome.outcomes.update({rig: outcome.unconfirmed.get(rig, IDLE) for rig in views if rig not in going})
        exp_ref = references(going)
        reference, begun = begun_before(rigs, exp_ref)
        for rig in begun & views.keys() - going.keys() - outcome.unconfirmed.keys():
            problem = f"{reference} had begun there, and does not go on: look at its files, and at rigsync log"
            outcome.outcomes[rig], outcome.failed[rig] = problem, Interrupted(rig, problem)
        if going:
            experiment = auxiliaries.experiment(exp_ref, rigs=list(going), timeout=timeout)
            experiment.stays = False
            # Whoever is in charge of the others, and is there, goes on when this is broken off.
            experiment.join(rig for rig, one in going.items() if not one.owner or one.owner_heard is not None)
            following = Following(auxiliaries, view, list(going), ["EXPEND", "EXPCLEANUP"])
            try:
                with following:
                    experiment.end()
                outcome.note(experiment, "EXPEND", "ended and cleaned up")
            except ExperimentError as error:
                outcome.outcomes.update(error.outcomes)
                outcome.failed.update(error.failed)
                outcome.results = experiment.results
    for rig, answer in outcome.results.get("EXPEND", {}).items():
        information = answer[-1] if answer else None
        if isinstance(information, dict) and (recorded := totals_of(information.get("recorded"))):
            outcome.outcomes[rig] += f": {recorded}"
    outcome.show(following, as_json, exp_ref=exp_ref)
    return outcome.status()
