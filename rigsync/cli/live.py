"""`rigsync check --live`: what each rig lacks for a session, without EXPINIT."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import rigsync
from rigsync._text import shortened
from rigsync.cli.outcomes import failure_in_words
from rigsync.cli.output import write_json, write_line
from rigsync.cli.rigs import chosen, connect, may_be_asked
from rigsync.config.rigs import Rigs
from rigsync.core.queries import CHECK
from rigsync.errors import NotSupported, RemoteError, RigError

WAIT = 15.0
"""Seconds for an answer: an agent gives each drive 10 of them (`rigsync.agent.aside`), and names the one that hangs."""

LONGEST_LINE = 5000
"""Characters that are shown of an answer. What an agent tells is shorter."""

_IBLUTIL = "it runs iblutil, which has no commands"
UNKNOWN_ON_TCP = (
    "it may run iblutil, and a connection would take it from its task; if it runs rigsync, write so in its entry, "
    "dialect: rigsync"
)
_WHY_NOT = {
    "UnknownCommand": f"its program has no command {CHECK.name}",
    "BusyError": "its rigsync, from before this command, answers nobody but the one in charge; update it",
}
"""Why a rig cannot be asked that answers so."""


@dataclass(frozen=True)
class Found:
    """What a rig has answered."""

    outcome: str
    """``ready``, ``missing``, ``failed``, ``no answer`` or ``not asked``."""
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What cannot be checked without a session."""
    why: str = ""
    """Why it is not asked."""

    def __str__(self) -> str:
        if self.outcome == "not asked":
            return f"cannot be asked: {self.why}"
        told = f"{self.outcome}: {'; '.join(self.problems)}" if self.problems else "all there"
        told += f" (not checked without a session: {', '.join(self.left_out)})" if self.left_out else ""
        return told if len(told) <= LONGEST_LINE else f"{told[:LONGEST_LINE]}... (--json has the rest)"


def check_live(rigs: Rigs, reference: str | None, errors: list[dict[str, Any]] | None) -> int:
    """Ask the rigs, and print a line for each, or JSON where there are `errors` for it.

    It returns the exit status: 1 where anything is missing, or cannot be found out.
    """
    found = _ask_all(rigs, reference)
    if errors is not None:
        write_json(
            {"file": rigs.source, "rigs": {name: asdict(told) for name, told in found.items()}, "errors": errors}
        )
    else:
        for name, told in found.items():
            write_line(f"{name}: {told}")
    return int(any(told.problems for told in found.values()))


def _ask_all(rigs: Rigs, reference: str | None) -> dict[str, Found]:
    """Ask all rigs at the same time, but for those that a connection may take from their task."""
    names = [name for name, rig in rigs.rigs.items() if may_be_asked(rig)]
    found = {
        name: Found("not asked", why=UNKNOWN_ON_TCP if rig.dialect == "auto" else _IBLUTIL)
        for name, rig in rigs.rigs.items()
    }
    if names:
        # The pool outlives the connection, whose end, at Ctrl-C too, ends what is asked.
        with ThreadPoolExecutor(len(names)) as pool, connect(chosen(rigs, names)) as auxiliaries:
            found |= zip(names, pool.map(lambda name: _ask(auxiliaries, name, reference), names), strict=True)
    return found


def _ask(auxiliaries: rigsync.Auxiliaries, rig: str, reference: str | None) -> Found:
    keywords = {"exp_ref": reference} if reference else {}
    try:
        answer = auxiliaries.call(rig, CHECK.name, timeout=WAIT, **keywords)
    except NotSupported:
        return Found("not asked", why=_IBLUTIL)
    except RigError as error:
        if isinstance(error, RemoteError) and error.error in _WHY_NOT:
            return Found("not asked", why=_WHY_NOT[error.error])
        return Found("failed" if isinstance(error, RemoteError) else "no answer", [failure_in_words(error)])
    told = answer if isinstance(answer, dict) else {}
    problems, left_out = told.get("problems"), told.get("left_out", [])
    if not isinstance(problems, list) or not isinstance(left_out, list):
        return Found("failed", [f"its {CHECK.name} returns {shortened(answer)}, and not problems as a list"])
    return Found("missing" if problems else "ready", list(map(str, problems)), list(map(str, left_out)))
