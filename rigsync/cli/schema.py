"""`rigsync schema`."""

from __future__ import annotations

import click

from rigsync.cli.options import verbose_option


@click.command(short_help="Print the JSON Schema of an agent's file, for editors.")
@verbose_option
def command() -> None:
    """Print the JSON Schema of an agent's file.

    With it an editor completes and explains the keys, and marks mistakes. For Visual Studio Code with its YAML
    extension, write it into a file beside the agent's, and begin the agent's file with the second of these lines:

    \b
    rigsync schema > agent.schema.json
    # yaml-language-server: $schema=agent.schema.json
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    from rigsync.agent.schema import agent_schema
    from rigsync.cli.output import write_json

    write_json(agent_schema())
