"""`rigsync serve`."""

from __future__ import annotations

import logging
from _thread import interrupt_main
from contextlib import ExitStack
from datetime import datetime
from logging import INFO, WARNING
from pathlib import Path
from time import time
from typing import Any

import click

from rigsync import ConfigError, Rig, load_rigs
from rigsync.agent.agent import Agent
from rigsync.agent.distinct import check_distinct_agents
from rigsync.agent.file import AgentFile, read_agent_file
from rigsync.cli import completion
from rigsync.cli.bridge_classes import classes_of, made
from rigsync.cli.logs import background_logging
from rigsync.cli.options import SECONDS, SECONDS_OR_NONE, SHARE, json_option, usage_errors, verbose_option
from rigsync.cli.output import compact, end_interrupted_line, write_json, write_line
from rigsync.cli.practice_rig import PracticeRig
from rigsync.cli.stdin import at_end_of_stdin
from rigsync.config.schema import Mistakes
from rigsync.core.enums import ExpMessage
from rigsync.core.ownership import LEASE
from rigsync.core.rigs import MAX_MESSAGE
from rigsync.rig.rig import run_rigs

FILES = (".yaml", ".yml")
"""Endings of files; an argument without them is the name of a rig."""


@click.command(short_help="Serve as the rig of a file, or as one that answers everything.")
@click.argument("names", metavar="FILE.yaml... | NAME", nargs=-1, required=True, type=click.Path())
@click.option(
    "--uri",
    default="udp://0.0.0.0:11001",
    show_default=True,
    help="Where to listen, on udp:// or tcp://. With port 0 the system chooses a port.",
)
@click.option("--main-sync", is_flag=True, help="Say that this rig records the signal to which all are aligned.")
@click.option("--latency", type=SECONDS, metavar="S", help="Wait so many seconds before each answer.")
@click.option(
    "--fail",
    "failing",
    multiple=True,
    metavar="MESSAGE",
    shell_complete=completion.one_of(ExpMessage.__members__),
    help="Fail at this message; may be repeated.",
)
@click.option(
    "--lease",
    type=SECONDS_OR_NONE,
    default=LEASE,
    show_default=True,
    metavar="S",
    help="Interrupt when the coordinator in charge has been silent for so many seconds; 0 for never.",
)
@click.option(
    "--max-message",
    type=int,
    default=MAX_MESSAGE,
    show_default=True,
    metavar="BYTES",
    help="The largest message on tcp://. Write the same max_message for this rig into rigs.yaml.",
)
@click.option("--drop", type=SHARE, default=0.0, metavar="P", help="Lose this share of what comes in, from 0 to 1.")
@click.option("--until-eof", is_flag=True, hidden=True)
@json_option
@verbose_option
def command(names: tuple[str, ...], uri: str, until_eof: bool, as_json: bool, **options: Any) -> None:
    """Serve as the rig that FILE.yaml describes, and run its commands at each message, until Ctrl-C.

    Several files make several rigs. `rigsync check FILE.yaml` shows what a file means; `rigsync schema` is for editors.

    Or serve as the rig NAME, which has no commands: it answers every message, and prints it. With --json each message
    is a line, and the first line tells where the rig listens. Try with --latency, --fail and --drop what a slow rig, a
    faulty rig or a bad network does to an experiment.
    """
    if any(name.lower().endswith(FILES) for name in names):
        _serve_files(names, as_json)
        return
    if len(names) > 1:
        raise click.UsageError("give one NAME, or files that end in .yaml")
    (name,) = names
    _check_is_no_file(name)

    def announce(rig: Rig) -> None:
        if as_json:
            write_json({"listening": rig.uri}, indent=None)
        else:
            logging.getLogger("rigsync.rig").info("%s has no commands: it answers everything, records nothing", name)
        if until_eof:
            at_end_of_stdin(interrupt_main)

    # People want to see what becomes of each message. With --json a program reads.
    level = logging.WARNING if as_json else logging.INFO
    show = _print_as_json if as_json else _print
    with usage_errors():
        rig = PracticeRig(name, uri, show, journal=True, **options)
    with background_logging(level):
        run_rigs([rig], announce)
    end_interrupted_line()


def _serve_files(names: tuple[str, ...], as_json: bool) -> None:
    """Serve as the rigs of some files until Ctrl-C or SIGTERM. Read all files before the first rig listens."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and parameter.name != "as_json"
        and parameter.expose_value
        and context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{given[0]} is for a NAME; a rig with a file takes it from there")
    files = []
    mistakes = Mistakes()
    for name in names:
        with mistakes:
            files.append(_read(name))
    with mistakes:
        check_distinct_agents(files)
    if mistakes:
        raise ConfigError.of(mistakes)

    bridges = {file.name: file.bridges for file in files}
    classes = classes_of({name for options in bridges.values() for name in options})

    def announce(rig: Rig) -> None:
        for bridge in made(classes, bridges[rig.name], rig):
            stack.enter_context(bridge)
        if as_json:
            write_json({"rig": rig.name, "listening": rig.uri}, indent=None)

    # A bridge ends with its rig's hub, which tells it the end of the rig first.
    with background_logging(WARNING if as_json else INFO), ExitStack() as stack:
        run_rigs([Agent(file) for file in files], announce)
    end_interrupted_line()


def _read(name: str) -> AgentFile:
    try:
        return read_agent_file(name)
    except ConfigError as error:
        if _is_of_rigs(name):
            problem = "this is a file of rigs, for tasks; rigsync serve takes the file of an agent (docs/agent.md)"
            raise ConfigError(problem, file=name) from error
        raise


def _is_of_rigs(name: str) -> bool:
    try:
        load_rigs(name)
    except ConfigError:
        return False
    return True


def _check_is_no_file(name: str) -> None:
    """Refuse a name that means a file: a rig that records nothing would say that all is well."""
    meant = next((name + ending for ending in FILES if Path(name + ending).is_file()), None)
    if meant:
        raise click.UsageError(f"there is a file {meant}; write that, or give the rig without commands another name")
    if Path(name).exists():
        raise click.UsageError(f"{name} is a file or folder; the file of an agent ends in .yaml")


def _print(message: str, args: list[Any]) -> None:
    while args and args[-1] is None:
        args = args[:-1]
    time = datetime.now().strftime("%H:%M:%S.%f")[:-3]
    write_line(" ".join([time, message, *map(compact, args)]))


def _print_as_json(message: str, args: list[Any]) -> None:
    write_json({"time": time(), "message": message, "args": args}, indent=None)
