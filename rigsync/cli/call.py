"""`rigsync call`."""

from __future__ import annotations

import logging
import re
from threading import Thread
from typing import Any

import click
from click.shell_completion import CompletionItem

import rigsync
from rigsync._text import printable, printable_lines
from rigsync.cli import completion
from rigsync.cli.logs import start_logging
from rigsync.cli.options import SECONDS, json_option, rigs_option, usage_errors, verbose_option
from rigsync.cli.outcomes import failure_document, failure_in_words
from rigsync.cli.output import compact, write_json, write_line
from rigsync.cli.push import value_of
from rigsync.cli.rigs import chosen, connect, may_be_asked, rigs_of_file
from rigsync.core.arguments import compose_command
from rigsync.core.messages import LONGEST_PROBLEM
from rigsync.errors import RemoteError, RigError, RigsyncError

_NO_COMMAND = "?"
"""A command that no rig has: where it is asked for, a rig says which it has."""
_LONGEST_WAIT = 1.0
"""Seconds that a rig may take to say so when a shell completes: a person waits."""
_PLAIN = re.compile(r"[\w.:-]+")
"""A command that a shell takes for a plain word. It comes from another computer, so that no other is offered."""


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a command by asking the rig."""
    rigs = completion.rigs_for(ctx)
    try:
        rig = rigs.only(ctx.params.get("rig") or "")
    except (RigsyncError, ValueError):
        return []
    if not may_be_asked(rigs.rigs[rig]):
        return []
    logging.disable()
    connected = rigsync.Auxiliaries  # which takes as long to load as a rig may to answer
    found: list[str] = []

    def ask() -> None:
        try:
            with connected(chosen(rigs, [rig]), connect_timeout=_LONGEST_WAIT) as auxiliaries:
                auxiliaries.call(rig, _NO_COMMAND, timeout=_LONGEST_WAIT)
        except RigsyncError as error:
            found.extend(_commands_in(error) or ())

    # By a thread that may be left behind: a name server may take longer than a person waits.
    asking = Thread(target=ask, name="rigsync completion", daemon=True)
    asking.start()
    asking.join(_LONGEST_WAIT)
    return completion.beginning(incomplete, filter(_PLAIN.fullmatch, found))


@click.command(short_help="Call a command of one rig, and show the value that it returns.")
@click.argument("rig", shell_complete=completion.rigs)
@click.argument("name", metavar="[COMMAND]", required=False, shell_complete=_complete)
@click.argument("arguments", metavar="[ARG | KEY=VALUE]...", nargs=-1)
@click.option("--timeout", type=SECONDS, metavar="S", help="Seconds for the answer, instead of the rig's own.")
@rigs_option
@json_option
@verbose_option
def command(
    rig: str,
    name: str | None,
    arguments: tuple[str, ...],
    timeout: float | None,
    rigs_file: str | None,
    as_json: bool,
) -> int:
    """Call COMMAND of RIG, for instance focus, and show the value that it returns. The rig's program defines it.

    Without COMMAND, show which commands RIG has.

    ARG and VALUE are JSON, or else text. A word KEY=VALUE is a keyword argument. To pass such text by position, write
    JSON's quotes around it: '"a=b"'. Write -- before a negative number. -v shows the traceback of a command that
    failed. The exit status is 1 if the command failed.

    \b
    rigsync call cameras focus z=3
    rigsync call cameras move -- -2.5
    rigsync call laser shutter open=true --timeout 60
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    with usage_errors():
        args, keywords = _sorted_out(arguments)
        asked = _NO_COMMAND if name is None else name
        compose_command(asked, args, keywords)
    start_logging()
    rigs = rigs_of_file(rigs_file)
    with usage_errors():
        rig = rigs.only(rig)
    with connect(chosen(rigs, [rig])) as auxiliaries:
        try:
            value = auxiliaries.call(rig, asked, *args, timeout=timeout, **keywords)
        except RigError as error:
            if name is None and (names := _commands_in(error)) is not None:
                if _is_cut(error):
                    click.echo(f"{printable(rig)} has more commands than there is room for in its answer", err=True)
                _print_commands(names, rig, as_json)
                return 0
            _print_failure(error, rig, name, as_json)
            return 1
    if as_json:
        write_json({"rig": rig, "command": name, "value": value, "failed": None})
    else:
        write_line(value if isinstance(value, str) else compact(value))
    return 0


def _commands_in(error: RigsyncError) -> list[str] | None:
    """Return the commands of a rig, which it names where it is asked for one that it does not have."""
    if not isinstance(error, RemoteError) or error.error != "UnknownCommand":
        return None
    listed = error.message.partition("it has: ")[2]
    names = [] if listed == "(none)" else [printable(name) for name in listed.split(", ") if name]
    if _is_cut(error):
        del names[-1:]  # perhaps a part of a name
    return sorted(names)


def _is_cut(error: RigError) -> bool:
    return isinstance(error, RemoteError) and len(error.message) >= LONGEST_PROBLEM


def _print_commands(names: list[str], rig: str, as_json: bool) -> None:
    if as_json:
        write_json({"rig": rig, "commands": names})
        return
    for name in names:
        write_line(name)
    if not names:
        click.echo(f"{printable(rig)} has no commands: its program defines them by @rig.command", err=True)


def _sorted_out(arguments: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the keyword arguments; raise a ValueError for what a command cannot have."""
    args: list[Any] = []
    keywords: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.isidentifier():
            args.append(value_of(argument))
            continue
        if key in keywords:
            raise ValueError(f"{key} is given twice")
        if key == "timeout":
            raise ValueError("a command has no argument timeout; write --timeout for the time of the answer")
        keywords[key] = value_of(value)
    return args, keywords


def _print_failure(error: RigError, rig: str, name: str | None, as_json: bool) -> None:
    if as_json:
        write_json({"rig": rig, "command": name, "value": None, "failed": failure_document(error)})
    else:
        click.echo(f"Error: {printable(rig)}: {printable(failure_in_words(error))}", err=True)
    if click.get_current_context().obj and (traceback := getattr(error, "traceback", "")):
        click.echo(printable_lines(traceback), err=True)
