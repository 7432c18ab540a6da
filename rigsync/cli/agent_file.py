"""`rigsync check` for the file of an agent."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import dirname, isabs
from typing import Any

import click

from rigsync import ConfigError
from rigsync._text import printable, size_text
from rigsync.agent.checks import missing_programs
from rigsync.agent.file import Action, AgentFile, Command, read_agent_file
from rigsync.agent.keys import REFUSE
from rigsync.cli.output import write_json
from rigsync.cli.tables import print_table


def check_agent_file(path: str, as_json: bool) -> int:
    """Read an agent's file, show what it means, and return the exit status: 1 where a program is missing.

    Raises
    ------
    ConfigError
        It has a mistake. With `as_json`, the mistake has been printed.
    """
    try:
        file = read_agent_file(path)
    except ConfigError as error:
        if as_json:
            problem = {"file": error.file, "line": error.line, "key": error.key, "problem": error.problem}
            write_json({"file": path, "agent": None, "errors": [problem]})
        raise
    missing = missing_programs(_programs(file))
    if as_json:
        write_json({"file": path, "agent": _document(file), "missing_programs": missing, "errors": []})
        return int(bool(missing))
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
    return int(bool(missing))


def _programs(file: AgentFile) -> Iterator[str]:
    """Yield the programs that can be looked for before any message: those in PATH, and those with an absolute path."""
    for action in file.on.values():
        for step in (action.run, action.start):
            if step and (program := step.command.program) and (isabs(program) or not dirname(program)):
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
    yield ["always", "log", str(file.logs_folder), ""]


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


def _document(file: AgentFile) -> dict[str, Any]:
    require = file.require and {
        "free_disk": file.require.free_disk
        and {"path": str(file.require.free_disk.path), "at_least": file.require.free_disk.at_least},
        "files": [str(path) for path in file.require.files],
        "programs": list(file.require.programs),
    }
    return {
        "name": file.name,
        "listen": file.listen,
        "main_sync": file.main_sync,
        "lease": file.lease,
        "max_message": file.max_message,
        "experiment_description": file.description,
        "variables": file.variables,
        "folders": [str(folder) for folder in file.folders],
        "existing": file.existing,
        "on": {event.name: _action_document(action) for event, action in file.on.items()},
        "require": require,
        "verify": file.verify
        and {
            "files": str(file.verify.files),
            "growing_within": file.verify.growing_within,
            "settled_within": file.verify.settled_within,
            "segments": file.verify.segments,
        },
        "logs": {
            "folder": str(file.logs_folder),
            "keep": file.logs.keep,
            "max_size": file.logs.max_size,
        },
    }


def _action_document(action: Action) -> dict[str, Any]:
    start = action.start and {
        **_command_document(action.start.command),
        "ready": action.start.ready and {"file": str(action.start.ready.file), "within": action.start.ready.within},
        "frames": action.start.frames and action.start.frames.pattern,
        "good_exit": action.start.good_exit and list(action.start.good_exit),
    }
    return {
        "stop": action.stop and {"signal": action.stop.signal, "grace": action.stop.grace},
        "run": action.run and {**_command_document(action.run.command), "timeout": action.run.timeout},
        "start": start,
    }


def _command_document(command: Command) -> dict[str, Any]:
    return {
        "words": [str(word) for word in command.words],
        "shell": command.shell,
        "folder": str(command.folder) if command.folder else None,
    }
