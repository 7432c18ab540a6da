"""The command line.

Each command is a module of its own, which is imported when the command is called: `rigsync --help` needs click and
little else, and does not wait for asyncio, rich and PyYAML. What a command takes as `rigsync.Auxiliaries` is loaded
when it connects: its own help does not wait for the coordinator.
"""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper

import click
from click.shell_completion import CompletionItem

from rigsync import __version__
from rigsync._text import printable, printable_lines
from rigsync.cli.loading import loading
from rigsync.cli.options import verbose_option
from rigsync.errors import ConfigError, RigsyncError, UnknownRig

COMMANDS = {
    "alert": "Show who is told of what, and try it.",
    "bridge": "Let other programs command rigs, and tell them what happens.",
    "call": "Call a command of one rig, and show the value that it returns.",
    "check": "Check a configuration, and look up every rig's address.",
    "demo": "Run a whole experiment with rigs on this computer.",
    "doctor": "Find out what is wrong with rigs, and what to do.",
    "interrupt": "Stop all rigs at once, whoever is in charge.",
    "log": "Show what happened, in the last session or any other.",
    "metadata": "Write a session's description and tables into its folder.",
    "ping": "Probe rigs again and again, and show whether they answer.",
    "push": "Send one message to the rigs, and show their answers.",
    "rehearse": "Have all rigs record for some seconds, to try them.",
    "report": "Write the report of a session as a page of HTML.",
    "run": "Run a command as an experiment on all rigs.",
    "schema": "Print the JSON Schema of rigs.yaml, or an agent's file.",
    "serve": "Serve as the rig of a file, or as one that answers everything.",
    "sessions": "List the sessions, a line for each.",
    "start": "Begin a session by hand: all rigs record, or none.",
    "status": "Show how the rigs are now.",
    "stop": "End a session: all rigs stop, and clean up.",
    "transfers": "Show what agents still have to do after sessions.",
    "watch": "Show the state of the rigs while it changes.",
}
"""The commands with their short help. Each is the function `command` of the module of that name."""

COMPLETE = "_RIGSYNC_COMPLETE"
"""The variable by which a shell asks for completion, as click calls it."""
WRONG_USAGE = 2
"""Exit status after wrong usage or configuration, as in click."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, by convention: 128 plus the number of SIGINT."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"rigsync.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            close = get_close_matches(args[0], COMMANDS, n=1)
            advice = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
            ctx.fail(f"there is no command {args[0]!r}; {advice}")
        with loading():
            return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]  # click's own would load all commands

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 if all is well, 1 if some rig failed, 2 for wrong usage or configuration.\n\n"
    f'\b\nTab completes words after: eval "$({COMPLETE}=bash_source rigsync)" (zsh_source, fish_source)',
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@verbose_option
def cli() -> None:
    """Start, stop and watch every machine of a neuroscience rig together, and hear what became of each."""


def main() -> None:
    """Run the command line, and end the process with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        # On Windows the encoding of a pipe lacks most characters, and the name of a rig may have any.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if COMPLETE in os.environ:
        import_module("rigsync.cli.bash")
    sys.exit(_run())


def _run() -> int:
    try:
        # On Windows click would take a pattern of rigs for a pattern of files, and expand it.
        status = cli.main(prog_name="rigsync", standalone_mode=False, windows_expand_args=False)
        return int(status or 0)
    except click.ClickException as error:
        if sys.stderr is not None:
            error.show()
        return error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except Exception as error:
        known = _status_of(error)
        if known is None:
            raise
        # Advice about a file of rigs takes several lines. The text of any other error may come from a rig.
        shown = printable_lines if known == WRONG_USAGE else printable
        for part in error.errors if isinstance(error, ConfigError) else [error]:
            click.echo(f"Error: {shown(str(part))}", err=True)
        return known


def _status_of(error: Exception) -> int | None:
    """Return the exit status for an error that a user can mend; None for a bug."""
    if isinstance(error, (ConfigError, UnknownRig)):
        return WRONG_USAGE
    return 1 if isinstance(error, RigsyncError) else None
