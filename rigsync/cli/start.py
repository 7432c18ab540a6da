"""`rigsync start`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from rigsync._text import printable, span_text
from rigsync.cli.by_hand import Outcome, look_again, programs_of
from rigsync.cli.following import Following, view_of
from rigsync.cli.logs import start_logging
from rigsync.cli.options import json_option, rigs_option, usage_errors, verbose_option
from rigsync.cli.output import write_line
from rigsync.cli.push import (
    any_ref_option,
    data_of,
    delay_option,
    init_option,
    print_starts,
    start_option,
    timeout_option,
    to_option,
)
from rigsync.cli.rigs import chosen, connect, rigs_of_file
from rigsync.core.doubts import doubt_of_reference
from rigsync.errors import ExperimentError

if TYPE_CHECKING:  # `--help` does not wait for the coordinator
    from rigsync.coordinator.view import RigView

MESSAGES = ["EXPINFO", "EXPINIT", "EXPSTART"]


@click.command(short_help="Begin a session by hand: all rigs record, or none.")
@click.argument("ref")
@any_ref_option
@init_option
@start_option
@delay_option
@to_option
@timeout_option
@rigs_option
@json_option
@verbose_option
def command(
    ref: str,
    any_ref: bool,
    init: str | None,
    start: str | None,
    delay: float | None,
    patterns: tuple[str, ...],
    timeout: float | None,
    rigs_file: str | None,
    as_json: bool,
) -> int:
    """Have all rigs record the session REF, yyyy-mm-dd_n_subject, until rigsync stop.

    The rigs get EXPINFO, EXPINIT and EXPSTART, as by a task. If one fails, or you press Ctrl-C, those that have begun
    are interrupted and cleaned up, and none records.

    When the command has ended, nobody is in charge of the session. The table says until when each rig records: it
    interrupts by itself when its lease is over, after 300 s unless the rig says otherwise. A session that is longer
    needs rigs with another lease, or a program that stays, such as rigsync run. Any program may end it.

    The exit status is 1 if a rig has failed. A program by OSC or ZeroMQ cannot take part.

    \b
    rigsync start 2026-01-31_1_mouse
    rigsync start 2026-01-31_1_mouse --delay 0.5 --init '{"box": 4}'
    rigsync stop
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    if not ref.strip():  # as of a variable of the shell that is not set
        raise click.UsageError("the reference is empty; name the session, as in 2026-11-20_1_mouse")
    if not any_ref and (doubt := doubt_of_reference(ref)):
        raise click.UsageError(f"{doubt}; if it is meant, add --any-ref")
    begin, data = data_of(init, start)
    start_logging()
    rigs = chosen(rigs_of_file(rigs_file), patterns)
    if programs := programs_of(rigs):
        text = "what records only while the program that began it runs, such as rigsync run; leave it out by --to"
        raise click.UsageError(f"{', '.join(programs)}: a program by OSC or ZeroMQ is a rig of rigsync's own, {text}")
    outcome, following, is_late = Outcome(rigs.rigs), None, False
    views: dict[str, RigView] = {}
    try:
        with view_of(as_json) as view, connect(rigs, leave_running=True) as auxiliaries:
            with usage_errors():
                experiment = auxiliaries.experiment(ref, init=begin, start=data, delay=delay, timeout=timeout)
            experiment.stays = experiment.adopts = False
            following = Following(auxiliaries, view, list(rigs.rigs), MESSAGES)
            try:
                with following, experiment:
                    experiment.check()
                    experiment.leave_running()
                    outcome.note(experiment, "EXPSTART", "records")
            except ExperimentError as error:
                outcome.outcomes, outcome.failed, outcome.results = error.outcomes, error.failed, experiment.results
        if not outcome.failed:
            views = look_again(rigs)
    except KeyboardInterrupt:
        if outcome.failed or not outcome.results:
            raise
        is_late = True
    for rig in outcome.outcomes if not outcome.failed else ():
        outcome.outcomes[rig] += _until(views.get(rig))
    until = {rig: view.interrupts_at for rig, view in views.items()}
    outcome.show(following, as_json, exp_ref=experiment.exp_ref, recording=not outcome.failed, until=until)
    if not as_json:
        _say(outcome, experiment.exp_ref)
    if is_late:
        click.echo("Ctrl-C came when all rigs had begun: they record. rigsync stop ends them", err=True)
    return outcome.status()


def _until(view: RigView | None) -> str:
    """Return until when a rig records by itself, as the end of a sentence."""
    if view is not None and view.interrupts_at is not None:
        left = span_text(view.interrupts_at - time.time())
        return f" until {time.strftime('%H:%M:%S', time.localtime(view.interrupts_at))}, for {left}"
    if view is not None and view.heard is not None and view.owner is None:
        return " until it is told to stop: it has no lease"
    return " until its lease is over, or it is told to stop: it does not say when"


def _say(outcome: Outcome, exp_ref: str | None) -> None:
    session = printable(exp_ref or "the session")
    if outcome.failed:
        click.echo(f"Error: {session} has not begun on any rig", err=True)
        return
    print_starts(outcome.results["EXPSTART"])
    write_line(f"{session} has begun, and nobody is in charge of it: rigsync stop ends it")
