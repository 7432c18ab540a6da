"""`rigsync schema`."""

from __future__ import annotations

import click

from rigsync.agent.keys import AGENT
from rigsync.cli.options import verbose_option
from rigsync.cli.output import write_json
from rigsync.config.files import rigs_schema
from rigsync.config.schema import document


@click.command(short_help="Print the JSON Schema of rigs.yaml, or an agent's file.")
@click.argument("which", type=click.Choice(["rigs", "agent"]), default="agent")
@verbose_option
def command(which: str) -> None:
    """Print the JSON Schema of a file of rigs, or of an agent's file, which is the default.

    With it an editor completes and explains the keys, and marks mistakes. For Visual Studio Code with its YAML
    extension, write it into a file by the first of these lines, and begin your YAML file with the second:

    \b
    rigsync schema rigs > rigs.schema.json
    # yaml-language-server: $schema=rigs.schema.json
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    write_json(rigs_schema() if which == "rigs" else document("The file of a rigsync agent", AGENT.schema))
