"""`rigsync demo`."""

from __future__ import annotations

import click

from rigsync.cli.experiment import Experiment, run_experiment
from rigsync.cli.logs import start_logging
from rigsync.cli.options import SHARE, json_option, verbose_option
from rigsync.cli.outcomes import answer_in_words, failure_in_words
from rigsync.cli.output import milliseconds, on_terminal, write_json, write_line
from rigsync.cli.plain_views import PlainView, View
from rigsync.cli.tables import print_table
from rigsync.cli.views import LiveView


@click.command(short_help="Run a whole experiment with rigs on this computer.")
@click.option(
    "--rigs", "number", type=click.IntRange(2, 50), default=3, show_default=True, metavar="N", help="How many rigs."
)
@click.option(
    "--loss", type=SHARE, default=0.0, metavar="P", help="Lose this share of all datagrams on the way, from 0 to 1."
)
@click.option("--seed", type=int, hidden=True)  # for tests: the same datagrams are lost every time
@json_option
@verbose_option
def command(number: int, loss: float, seed: int | None, as_json: bool) -> int:
    """Start N rigs as programs of their own on this computer, and run a whole experiment with them.

    The last of the rigs is a plain iblutil server, such as labs have now, where iblutil is installed. Nothing leaves
    this computer, and nothing is left behind on it.
    """
    start_logging()
    view = View() if as_json else LiveView() if on_terminal() else PlainView()
    experiment = run_experiment(number, loss, view, seed)
    if as_json:
        write_json(experiment.document())
    else:
        _print_answers(experiment)
    return 1 if any(result.failed for result, _ in experiment.pushes) else 0


def _print_answers(experiment: Experiment) -> None:
    rows = []
    for name, dialect in experiment.dialects.items():
        for result, seconds in experiment.pushes:
            answer = answer_in_words(result, name) if name in result else failure_in_words(result.failed[name])
            rows.append([name, dialect, result.message, milliseconds(seconds.get(name)), answer])
    write_line()
    print_table(["rig", "dialect", "message", "ms", "answer"], rows, right=["ms"])
    if experiment.datagrams:
        dropped, total = experiment.datagrams["dropped"], sum(experiment.datagrams.values())
        write_line(f"{dropped} of {total} datagrams were lost on purpose.")
