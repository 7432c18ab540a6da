"""`rigsync check` for the file of an agent."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from os.path import dirname, isabs
from typing import Any

import click

from rigsync._text import printable, size_text
from rigsync.agent.checks import missing_programs
from rigsync.agent.file import Action, AgentFile, Command, read_agent_file
from rigsync.agent.keys import REFUSE
from rigsync.agent.template import Template
from rigsync.cli.alert_problems import document_of, tell_problems
from rigsync.cli.bridge_classes import shown
from rigsync.cli.output import write_json
from rigsync.cli.tables import print_table
from rigsync.core.enums import ExpMessage
from rigsync.core.rigs import Address
from rigsync.errors import ConfigError


def check_agent_file(path: str, as_json: bool) -> int:
    """Read an agent's file, show what it means, and return the exit status: 1 where a program is missing.

    With `as_json`, mistakes are printed before they are raised.
    """
    try:
        file = read_agent_file(path)
    except ConfigError as error:
        if as_json:
            write_json({"file": path, "agent": None, "errors": list(map(mistake_document, error.errors))})
        raise
    missing = missing_programs(_programs(file))
    if as_json:
        write_json({"file": path, "agent": _document(file), "missing_programs": missing, "errors": []})
        return int(bool(missing) or bool(tell_problems(file.alerts)))
    lease = f"interrupts after a lease of {file.lease:g} s" if file.lease else "has no lease"
    main_sync = ", records the main sync signal" if file.main_sync else ""
    click.echo(printable(f"{path}: the rig {file.name} listens at {file.listen}, {lease}{main_sync}"), err=True)
    print_table(["at", "does", "what", "within"], list(_rows(file)), right=["within"], stacks=[(0, 1), (2,), (3,)])
    for program in missing:
        click.echo(
            f"Error: the program {printable(program)} is not on this computer, so EXPINIT would fail; install it, or "
            "correct its name or PATH",
            err=True,
        )
    return int(bool(missing) or bool(tell_problems(file.alerts)))


def mistake_document(error: ConfigError) -> dict[str, Any]:
    """Return a mistake in a file, for JSON."""
    return {"file": error.file, "line": error.line, "key": error.key, "problem": error.problem}


def _programs(file: AgentFile) -> Iterator[str]:
    """Yield the programs that can be looked for before any message: those in PATH, and those with an absolute path."""
    for command in file.commands():
        if (program := command.program) and (isabs(program) or not dirname(program)):
            yield program
    if file.require:
        yield from file.require.programs


def _rows(file: AgentFile) -> Iterator[list[str]]:
    if file.require:
        if disk := file.require.free_disk:
            yield ["EXPINIT", "require", f"{size_text(disk.at_least)} free at {disk.path}", ""]
        for path in file.require.files:
            yield ["EXPINIT", "require", str(path), ""]
        for program in file.require.programs:
            yield ["EXPINIT", "require", program, ""]
    for folder in file.folders:
        yield ["EXPINIT", "make", str(folder), ""]
    for event, action in file.on.items():
        for does, what, within in _steps(action):
            yield [event.name, does, what, within]
    if file.existing != REFUSE:
        yield ["EXPSTART", "existing", file.existing, ""]
    if file.verify:
        grows = "grows, in segments" if file.verify.segments else "grows"
        yield ["RUNNING", "verify", f"{file.verify.files} {grows}", f"{file.verify.growing_within:g} s"]
        yield ["EXPEND", "verify", f"{file.verify.files} has settled", f"{file.verify.settled_within:g} s"]
    if file.validate:
        yield ["EXPEND", "validate", _shown(file.validate.command), f"{file.validate.timeout:g} s"]
    if file.finish:
        for step in file.finish.steps:
            yield ["afterwards", "run", _shown(step.command), f"{step.timeout:g} s"]
        how = f"after {' or '.join(file.finish.after)}, {file.finish.at_once} at once"
        yield ["afterwards", "finish", f"{how}; while another session records: {file.finish.while_recording}", ""]
        yield ["afterwards", "queue", str(file.queue_folder), ""]
    for name, text in _differing(file).items():
        yield ["rehearsal", "stands for", f"{{{name}}} = {text}", ""]
    yield ["always", "log", str(file.logs_folder), ""]
    for name, options in shown(file.bridges).items():
        places = [options.get(key) for key in ("name", "from", "listen", "pub", "rep", "broker")]
        yield ["always", "tell", f"{name}: {', '.join([*filter(None, places), *options.get('to', ())])}", ""]

    for alert in file.alerts:
        yield ["always", "alert", f"{alert.way.what}: {', '.join(alert.on)}", ""]


def _steps(action: Action) -> Iterator[tuple[str, str, str]]:
    if action.stop:
        yield "stop", action.stop.signal, f"{action.stop.grace:g} s"
    if action.run:
        yield "run", _shown(action.run.command), f"{action.run.timeout:g} s"
    if action.start:
        yield "start", _shown(action.start.command), ""
        if action.start.ready:
            yield "ready", str(action.start.ready.file), f"{action.start.ready.within:g} s"
        if action.start.frames:
            yield "frames", action.start.frames.pattern, ""
        if action.start.good_exit:
            yield "good_exit", ", ".join(map(str, action.start.good_exit)), ""


def _shown(command: Command) -> str:
    shell = " (by a shell)" if command.shell else ""
    folder = f" (in {command.folder})" if command.folder else ""
    return f"{command}{shell}{folder}"


def _differing(file: AgentFile) -> dict[str, str]:
    """Return the variables that stand for something else in a rehearsal, and for what."""
    others = file.rehearsal.variables if file.rehearsal else {}
    return {name: text for name, text in others.items() if text != file.variables[name]}


def _document(file: AgentFile) -> dict[str, Any]:
    found = _plain(dataclasses.replace(file, rehearsal=None, alerts=()))
    found["rehearsal"] = _differing(file) or None
    found["logs"]["folder"] = str(file.logs_folder)
    found["alerts"] = list(map(document_of, file.alerts))
    found["bridges"] = _plain(shown(file.bridges))
    if file.finish:
        found["finish"]["queue"] = str(file.queue_folder)
    return {
        "experiment_description" if name == "description" else name: value
        for name, value in found.items()
        if name not in ("source", "lines")
    }


def _plain(value: Any) -> Any:
    """Return a part of an agent's file for JSON; the parts of a command stand beside those of its step."""
    if isinstance(value, Mapping):
        return {name.name if isinstance(name, ExpMessage) else name: _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, re.Pattern):
        return value.pattern
    if isinstance(value, (Address, Template)):
        return str(value)
    if not dataclasses.is_dataclass(value):
        return value
    found = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {**found.pop("command", {}), **found}
