"""`rigsync metadata`."""

from __future__ import annotations

import click

from rigsync._text import printable
from rigsync.cli.asked import journal_option, metadata_folder, open_journal, references
from rigsync.cli.options import usage_errors, verbose_option
from rigsync.cli.output import write_line
from rigsync.core.session_paths import check_place, place
from rigsync.journal.metadata.writing import write


@click.command(short_help="Write a session's description and tables into its folder.")
@click.argument("ref", required=False, shell_complete=references)
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    help="The session's folder; else that of rigs.yaml (metadata), or {session_path}. Variables: {exp_ref}, {date}, "
    "{number}, {subject}, {session_path}, {bids}.",
)
@journal_option
@verbose_option
def command(ref: str | None, output: str | None, file: str | None) -> int:
    """Write the metadata of the session REF, or of the last one, into its folder.

    \b
    _ibl_experiment.description.yaml  what the rigs have sent of themselves, merged; conflicts stand above it
    rigsync.files.csv                 the files that the rigs have recorded
    rigsync.events.csv                what happened, in seconds from the session's start, for NWB's ndx-events
    rigsync.session.json              session, provenance (versions, git commit), and what the columns mean

    The exit status is 1 if descriptions contradict each other, or a file is not rigsync's, and is left as it is.
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    output = output if output is not None else metadata_folder()
    with usage_errors("-o: "):
        check_place(output)
    with open_journal(file) as journal:
        session = journal.session(ref)
        with usage_errors(f"{session.ref}: "):
            folder = place(output, session.ref)
        try:
            written = write(journal, session, folder)
        except OSError as error:
            raise click.ClickException(f"the metadata cannot be written: {error}") from None
    for path in written.paths:
        write_line(str(path))
    for problem in (*written.problems, *(f"the descriptions differ: {text}" for text in written.conflicts)):
        click.echo(f"Warning: {printable(problem)}", err=True)
    return int(bool(written.problems or written.conflicts))
