"""What has to be there before an experiment begins."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from rigsync.agent.aside import Aside, DriveHangs
from rigsync.agent.checks import files_problem, free_bytes_problem, missing_programs
from rigsync.agent.commands import fitting
from rigsync.agent.file import AgentFile, Command
from rigsync.agent.template import OF_THE_SESSION, SubstitutionError, Template
from rigsync.agent.values import Values, filled, folder_of
from rigsync.core.messages import LONGEST_PROBLEM
from rigsync.errors import RigsyncError

Look = tuple[str, Callable[..., str | None], tuple[Any, ...]]
"""What is looked at, and what returns the problem."""


class RequirementMissing(RigsyncError):
    """No experiment can begin on this rig, since something that its file requires is missing."""


async def check_requirements(file: AgentFile, aside: Aside, values: Values, *looks: Look) -> None:
    """Check everything that can be checked before anything begins, and look at what `looks` say.

    Raises
    ------
    SubstitutionError
        The file cannot use this reference.
    RequirementMissing
        A program, a folder, a file or room on the disk is missing.
    """
    _check_reference(file, values)
    if problems := await _problems(aside, *looks, *_requirements(file, values)):
        raise RequirementMissing("; ".join(problems))


async def missing(file: AgentFile, aside: Aside, values: Values, *looks: Look) -> dict[str, list[str]]:
    """Return what `check_requirements` would raise for, and which checks need what only a session has.

    That is the reference, where `values` have none, and the data of a message.
    """
    problems: list[str] = []
    left_out: list[str] = []
    if values.exp_ref is not None:
        try:
            _check_reference(file, values)
        except SubstitutionError as error:
            problems.append(str(error))
            values = replace(values, exp_ref=None)
    problems += await _problems(aside, *looks, *_requirements(file, values, left_out))
    return {"problems": _fitting(problems), "left_out": _fitting(left_out)}


def _check_reference(file: AgentFile, values: Values) -> None:
    for template in _templates(file):
        if template.variables and template.variables <= set(OF_THE_SESSION):
            template.fill(values)


async def _problems(aside: Aside, *looks: Look) -> list[str]:
    asked = (aside.ask(what, look, *args) for what, look, args in looks)
    return [str(outcome) for outcome in await asyncio.gather(*asked, return_exceptions=True) if outcome]


async def make_folders(file: AgentFile, aside: Aside, values: Values) -> None:
    """Make the folders of EXPINIT; raise `RequirementMissing` if one cannot be made."""
    for template in file.folders:
        path = filled(file, template, values)
        try:
            await aside.ask(f"the folder {path!r}", functools.partial(os.makedirs, path, exist_ok=True))
        except DriveHangs as error:
            raise RequirementMissing(str(error)) from error
        except OSError as error:
            problem = f"the folder {path!r} cannot be made: {error.strerror or error}; look at its path and its disk"
            raise RequirementMissing(problem) from error


def _templates(file: AgentFile) -> Iterator[Template]:
    for command in file.commands():
        yield from command.words
        if command.folder:
            yield command.folder
    for action in file.on.values():
        if action.start and action.start.ready:
            yield action.start.ready.file
    yield from file.folders
    if file.verify:
        yield file.verify.files
    if require := file.require:
        yield from require.files
        if require.free_disk:
            yield require.free_disk.path


def _requirements(file: AgentFile, values: Values, left_out: list[str] | None = None) -> Iterator[Look]:
    """Yield what to look at; with `left_out`, which takes what the values do not tell, instead of raising for it."""
    known = set(OF_THE_SESSION) if values.exp_ref is not None else set()

    def is_told(what: str, template: Template | None) -> bool:
        if left_out is None or template is None or template.variables <= known:
            return True
        left_out.append(what)
        return False

    def look(template: Template, what: str, function: Callable[..., str | None], *args: Any) -> Look:
        path = filled(file, template, values)
        # Anybody may ask with any reference: all these looks have one name, so that only one of them can hang.
        name = path if left_out is None else str(template)
        return what.format(repr(name)), function, (path, *args)

    require = file.require
    programs: dict[str, str] = {}
    for command in file.commands():
        if program := command.program:
            folder = command.folder if _is_in_folder(program) else None
            what = f"the program {program} in {folder}" if folder else f"the program {program}"
            if is_told(what, folder):
                programs.setdefault(what, _program(file, command, values))
    programs |= {f"the program {name!r}": name for name in (require.programs if require else ())}
    for what, name in programs.items():
        yield what, _program_problem, (name, file.source)
    if require and (disk := require.free_disk) and is_told(f"the disk of {disk.path}", disk.path):
        yield look(disk.path, "the disk of {}", free_bytes_problem, disk.at_least)
    for template in require.files if require else ():
        if is_told(str(template), template):
            yield look(template, "{}", files_problem)


def _fitting(texts: list[str]) -> list[str]:
    """Return as many of the texts as fit into an answer, and how many more there are."""
    texts = list(dict.fromkeys(texts))
    fit = fitting(texts[::-1], LONGEST_PROBLEM)[::-1]
    return [*fit, *([f"{len(texts) - len(fit)} more"] if len(fit) < len(texts) else [])]


def _program(file: AgentFile, command: Command, values: Values) -> str:
    """Return the program of a command as the system finds it: by PATH, or from the command's folder."""
    program = str(command.words[0])
    return os.path.join(folder_of(file, command, values), program) if _is_in_folder(program) else program


def _is_in_folder(program: str) -> bool:
    """Whether a program is looked for from the command's folder."""
    return bool(os.path.dirname(program)) and not os.path.isabs(program)


def _program_problem(name: str, source: str) -> str | None:
    if not missing_programs([name]):
        return None
    return f"the program {name!r} is not there; install it, or correct its path in {source}"
