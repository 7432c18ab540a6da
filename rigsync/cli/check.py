"""`rigsync check`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import click

from rigsync import ConfigError, RigConfig, Rigs
from rigsync._text import printable
from rigsync.agent.keys import is_agent_file
from rigsync.cli.agent_file import check_agent_file, mistake_document
from rigsync.cli.alert_problems import document_of, tell_problems
from rigsync.cli.live import check_live
from rigsync.cli.logs import start_logging
from rigsync.cli.options import json_option, rigs_option, verbose_option
from rigsync.cli.output import write_json
from rigsync.cli.rigs import located, read, rigs_of_file
from rigsync.cli.tables import print_table
from rigsync.config.alerts import Alert
from rigsync.core.rigs import Address
from rigsync.net.resolve import resolve


@click.command(short_help="Check a configuration, and look up every rig's address.")
@click.argument("file", metavar="[FILE]", required=False, type=click.Path())
@click.option("--live", is_flag=True, help="Have every rig of the file check now what EXPINIT requires.")
@click.option("--ref", "reference", metavar="REF", help="With --live: the reference of the session to come.")
@rigs_option
@json_option
@verbose_option
def command(file: str | None, live: bool, reference: str | None, rigs_file: str | None, as_json: bool) -> int:
    """Read the FILE of rigs, look up every rig's address, and show what the file means.

    Without FILE, it reads the file that the other commands take. It sends nothing to any rig. FILE may also be an
    agent's: then it shows what the agent would do at each message, and runs nothing. If one of its programs is not on
    this computer, or an alert cannot be told from here, the exit status is 1. Every mistake is shown with file, line
    and key, and the exit status is 2.

    With --live, it asks every rig whether all is there that its EXPINIT requires: room on the disk, files, folders and
    programs. That changes nothing, and may be done during a session. It prints a line for each rig. The exit status is
    1 if something is missing, or a rig does not answer.
    """
    if file and rigs_file:
        raise click.UsageError("give either FILE or --rigs FILE")
    if reference and not live:
        raise click.UsageError("--ref is for --live")
    start_logging()
    if file and _is_agent_file(file):
        if live:
            raise click.UsageError(
                f"{file} is the file of an agent, and --live asks the rigs of a file of rigs: name one that has this "
                "rig in it, or leave out --live to look at the programs on this computer"
            )
        return check_agent_file(file, as_json)
    try:
        rigs = read(file) if file else rigs_of_file(rigs_file)
    except ConfigError as fault:
        if as_json:
            _print_json(fault.file, {}, {}, fault.errors, ())
        raise
    addresses, errors = _look_up(rigs)
    status = 0
    if live:
        there = replace(rigs, rigs={name: rigs.rigs[name] for name in addresses})
        status = check_live(there, reference, list(map(mistake_document, errors)) if as_json else None)
    elif as_json:
        _print_json(rigs.source, rigs.rigs, addresses, errors, rigs.alerts)
    else:
        _print_table(rigs, addresses)
    status = max(status, tell_problems(rigs.alerts))
    for error in errors:
        click.echo(f"Error: {printable(str(error))}", err=True)
    return 2 if errors else status


def _is_agent_file(file: str) -> bool:
    try:
        return is_agent_file(file)
    except ConfigError:  # it cannot be read at all, as reading it as a file of rigs will report
        return False


def _look_up(rigs: Rigs) -> tuple[dict[str, str], list[ConfigError]]:
    """Return host and port of each rig, and the errors of rigs that have none."""

    def outcome(name: str) -> tuple[Any, ...] | ConfigError:
        try:
            _, sockaddr = resolve(rigs.rigs[name])
        except ConfigError as error:
            return error
        return sockaddr

    # At the same time: a name server that does not answer takes seconds for each name.
    with ThreadPoolExecutor(max_workers=len(rigs.rigs)) as executor:
        outcomes = dict(zip(rigs.rigs, executor.map(outcome, rigs.rigs), strict=True))
    errors = [error for error in outcomes.values() if isinstance(error, ConfigError)]
    found = {name: sockaddr for name, sockaddr in outcomes.items() if not isinstance(sockaddr, ConfigError)}
    try:
        rigs.check_distinct(found)
    except ConfigError as error:
        errors += error.errors
    addresses = {name: str(Address("udp", *sockaddr[:2])).partition("://")[2] for name, sockaddr in found.items()}
    return addresses, [located(error, rigs) for error in errors]


def _print_table(rigs: Rigs, addresses: dict[str, str]) -> None:
    rows = [
        [
            name,
            str(rig.address),
            addresses.get(name, "not found"),
            rig.dialect,
            f"{rig.timeout:g} s",
            "yes" if rig.resend else "no",
        ]
        for name, rig in rigs.rigs.items()
    ]
    click.echo(f"{rigs.source}: {len(rows)} rigs" if len(rows) > 1 else f"{rigs.source}: one rig", err=True)
    columns = ["rig", "uri", "address", "dialect", "timeout", "resend"]
    print_table(columns, rows, right=["timeout"], stacks=[(0,), (1, 2), (3,), (4,), (5,)])


def _print_json(
    file: str | None,
    rigs: Mapping[str, RigConfig],
    addresses: dict[str, str],
    errors: Iterable[ConfigError],
    alerts: Iterable[Alert],
) -> None:
    documents = {
        name: {
            "uri": str(rig.address),
            "address": addresses.get(name),
            "dialect": rig.dialect,
            "timeout": rig.timeout,
            "resend": rig.resend,
        }
        for name, rig in rigs.items()
    }
    told = {"alerts": list(map(document_of, alerts)), "errors": list(map(mistake_document, errors))}
    write_json({"file": file, "rigs": documents, **told})
