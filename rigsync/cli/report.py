"""`rigsync report`: one session as a page to be read, printed and kept."""

from __future__ import annotations

from pathlib import Path

import click

from rigsync.cli.asked import journal_option, open_journal, references
from rigsync.cli.options import verbose_option
from rigsync.cli.output import write_line, write_lines
from rigsync.journal.report.writing import file_name, page, write_file


@click.command("report", short_help="Write the report of a session as a page of HTML.")
@click.argument("ref", required=False, shell_complete=references)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(),
    help="Write it there; - for stdout. Usual: REF.html in this folder.",
)
@journal_option
@verbose_option
def command(ref: str | None, output: str | None, file: str | None) -> None:
    """Write the report of the session REF, or of the last one, as one page of HTML, which needs no network.

    It says whether the session is complete, or what is missing; what was recorded where; what happened at each rig
    over time, and how exactly all began; clocks and links; who commanded; versions and configuration files.
    """
    with open_journal(file) as journal:
        session = journal.session(ref)
        text, _ = page(journal, session)
    if output == "-":
        write_lines(text.encode("ascii", "xmlcharrefreplace").decode())  # whatever the terminal's encoding is
        return
    path = Path(output or file_name(session.ref))
    try:
        write_file(path, text)
    except OSError as error:
        raise click.ClickException(f"the report cannot be written: {error}") from None
    write_line(str(path))
