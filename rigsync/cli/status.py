"""`rigsync status`."""

from __future__ import annotations

import click

from rigsync.cli import completion
from rigsync.cli.logs import NOTICES, start_logging
from rigsync.cli.options import json_option, rigs_option, verbose_option
from rigsync.cli.rigs import chosen, rigs_of_file
from rigsync.cli.showing import show_once


@click.command(short_help="Show how the rigs are now.")
@click.argument("patterns", metavar="[RIG]...", nargs=-1, shell_complete=completion.rigs)
@rigs_option
@json_option
@verbose_option
def command(patterns: tuple[str, ...], rigs_file: str | None, as_json: bool) -> int:
    """Show once how each RIG is, a name or a pattern such as 'cameras:*'; all rigs by default.

    It is the table of rigsync watch --once: status, experiment, who is in charge, and, where nobody is any more, when
    the rig interrupts; round trip, clock, loss, progress, and what is wrong.

    The exit status is 1 if a rig does not answer.
    """
    start_logging(printed=NOTICES)
    return show_once(chosen(rigs_of_file(rigs_file), patterns), as_json)
