"""The command of `validate`: it looks at each finished file of a recording, or once at all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from rigsync._text import one_line
from rigsync.agent.commands import CommandFailed, fitting
from rigsync.agent.file import Run
from rigsync.agent.recording import MOST_NAMED
from rigsync.agent.template import FILE
from rigsync.agent.values import Values

LONGEST_FAULTS = 1800
"""Characters of all reasons: they have to fit into the text of a failure, with how many more there are."""
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
"""A place in memory, as ffprobe prints it: another one at each run, so that it makes no other reason."""


async def faults(
    validate: Run,
    finished: Mapping[str, bool],
    values: Values,
    run: Callable[[Run, Values], Awaitable[object]],
    note: Callable[[str, Any], None],
) -> dict[str, str]:
    """Return by a label what the command finds wrong with the finished files, equal reasons once; else nothing.

    `finished` has the path of each file, and whether it is still there. `run` runs a command, or raises. `note` is
    called with each path, or an empty one for all, and what `run` returns.
    """
    names_files = any(FILE in word.variables for word in validate.command.words)
    reasons: dict[str, tuple[str, list[str]]] = {}
    for path, is_there in finished.items() if names_files else [("", True)]:
        try:
            if not is_there:
                raise CommandFailed("run of EXPEND has moved it away before; move it at EXPCLEANUP")
            note(path, await run(validate, replace(values, file=path or None)))
        except Exception as error:
            alike = _ADDRESS.sub("", str(error).replace(path, ""))
            reasons.setdefault(alike, (str(error), []))[1].append(one_line(os.path.basename(path)))
    told = [f"{_listed(names)}: {reason}" for reason, names in reasons.values()]
    fit = fitting(told[::-1], LONGEST_FAULTS)[::-1]
    if untold := sum(len(names) for _, names in list(reasons.values())[len(fit) :]):
        fit.append(f"so did {untold} more, see the log of the session")
    return {"validate": "; ".join(fit)} if fit else {}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more} failed validate".strip()
