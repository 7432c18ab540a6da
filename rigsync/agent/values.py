"""The values that a message gives to commands, in the places of their words and in their environment."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rigsync.agent.file import AgentFile, Command
from rigsync.agent.template import (
    FILE,
    MESSAGE,
    OF_THE_SESSION,
    PARTS,
    SubstitutionError,
    Template,
    Use,
    is_shell_safe,
    refused,
)
from rigsync.core.enums import ExpMessage
from rigsync.core.lifecycle import reference_parts, reference_text
from rigsync.core.references import is_date
from rigsync.core.session_paths import BIDS, SESSION_PATH, bids, session_path

PREFIX = "RIGSYNC_"
"""Beginning of the names in the environment."""
OWN_NAMES = frozenset(
    {*(name.upper() for name in OF_THE_SESSION), "RIG", "EVENT", "RIGS", "JOURNAL", "REHEARSAL"},
)
"""Names that no key of a message's data can set. RIGS and JOURNAL name the file of rigs and the journal to rigsync
itself (`find_rigs_file`, docs/journal.md)."""
LONGEST_IN_ENVIRONMENT = 32_000
"""Bytes of one value: Windows allows 32,767 characters (`SetEnvironmentVariable`), Linux 128 KiB (`execve`)."""
ROOM_IN_ENVIRONMENT = 256 * 1024
"""Bytes of all values. With the command's words they share 2 MB on Linux, and 1 MB on macOS (`ARG_MAX`)."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FOLDERS: Mapping[str, Callable[[str], str]] = {SESSION_PATH: session_path, BIDS: bids}


@dataclass(frozen=True, slots=True)
class Values:
    """The values of a message. An impossible value is an error when it is asked for."""

    event: str
    rig: str
    exp_ref: Any = None
    data: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    """In ``validate``, the path of a finished file."""
    rehearsal: bool = False

    def __getitem__(self, name: str) -> str:
        """Return the value of a variable as text.

        Raises
        ------
        KeyError
            There is no variable of that name.
        SubstitutionError
            The message has no such value, or one that has no text.
        """
        if name in PARTS:
            return self._parts(name)[name]
        if name in _FOLDERS:
            reference = self._parts(name)["exp_ref"]
            try:
                return _FOLDERS[name](reference)
            except ValueError as error:
                raise refused(name, reference, f"does not say which folder: {error}") from error
        if name == FILE and self.file is not None:
            return self.file
        prefix, _, key = name.partition(".")
        if prefix != MESSAGE or not key:
            raise KeyError(name)
        if key not in self.data:
            if self.event == ExpMessage.EXPINIT.name:
                raise SubstitutionError(f"EXPINIT has no {key!r} in its data, which {{{name}}} stands for")
            raise SubstitutionError(
                f"{self.event} has no {key!r} in its data, nor had EXPINIT, and {{{name}}} stands for it; send {key!r} "
                "with either"
            )
        value = self.data[key]
        if isinstance(value, str):
            return value
        if isinstance(value, (bool, int, float)):
            text = _as_json(value)
            if text is not None:
                return text
        raise refused(name, value, "is neither text, nor true or false, nor a number that can be written out")

    def parts(self) -> dict[str, str] | None:
        """Return what comes of the reference by name of variable; None if there is no well-formed reference.

        It lacks a form of the session's folder that the subject's name does not allow.
        """
        try:
            found = self._parts("exp_ref")
        except SubstitutionError:
            return None
        for name in _FOLDERS:
            with contextlib.suppress(SubstitutionError):
                found[name] = self[name]
        return found

    def _parts(self, variable: str) -> dict[str, str]:
        try:
            reference = reference_text(self.exp_ref)
        except ValueError as error:
            raise refused(variable, self.exp_ref, f"is no reference: {error}") from error
        if reference is None:
            raise SubstitutionError(f"{self.event} names no exp_ref, which {{{variable}}} needs; send one with EXPINIT")
        # Leading zeros of the number make no other experiment, so they must not make another folder.
        parts = reference_parts(reference)
        if not parts or not is_date(parts[0]):
            raise refused(variable, reference, "is not a reference yyyy-mm-dd_n_subject")
        return dict(zip(PARTS, ("_".join(parts), *parts), strict=True))


def environment(values: Values, *, shell: bool = False) -> dict[str, str]:
    """Return the variables that a message adds to a command's environment.

    Values that are no text are JSON. Left out are those that an environment cannot hold and, where a shell reads the
    command, those that it could read as more than a word: cmd puts ``%NAME%`` into a line before it reads the line.
    """
    found: dict[str, str | None] = {"EVENT": values.event, "RIG": values.rig}
    if values.rehearsal:
        found["REHEARSAL"] = "1"
    parts = values.parts()
    if parts:
        found.update({name.upper(): value for name, value in parts.items()})
    elif isinstance(values.exp_ref, str) and values.exp_ref:
        found["EXP_REF"] = values.exp_ref
    for key, value in values.data.items():
        if isinstance(key, str) and _NAME.fullmatch(key) and key.upper() not in OWN_NAMES:
            found.setdefault(key.upper(), value if isinstance(value, str) else _as_json(value))
    room: float = ROOM_IN_ENVIRONMENT
    fitting = {}
    for name, text in found.items():
        size = len(name) + _size(text)
        fits = size <= min(room, LONGEST_IN_ENVIRONMENT)
        is_safe = name == "RIG" or not shell or (text is not None and is_shell_safe(text, name.lower()))
        if text is not None and fits and is_safe:
            room -= size
            fitting[PREFIX + name] = text
    return fitting


def filled(file: AgentFile, template: Template, values: Values) -> str:
    """Return a path of an agent's file, or a pattern as in `glob`, with every value in its place."""
    folder = glob.escape(str(file.folder)) if template.use is Use.GLOB else file.folder
    return os.path.join(folder, template.fill(values))


def folder_of(file: AgentFile, command: Command, values: Values) -> str:
    return filled(file, command.folder, values) if command.folder else str(file.folder)


def _as_json(value: Any) -> str | None:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # a number longer than Python writes, or no message's value at all
        return None


def _size(text: str | None) -> float:
    """Return the bytes that a text takes in an environment; infinite if it cannot be in one."""
    try:
        return len(text.encode()) if text is not None and "\0" not in text else math.inf
    except UnicodeEncodeError:  # half of a pair of surrogates
        return math.inf
