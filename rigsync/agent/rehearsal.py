"""What a rehearsal records: measured, and removed at its end."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rigsync.agent.aside import Aside, DriveHangs
from rigsync.agent.checks import free_bytes
from rigsync.agent.file import AgentFile
from rigsync.agent.growth import matching_files
from rigsync.agent.template import SubstitutionError, Use
from rigsync.agent.values import Values, filled


class Scratch:
    """The files and folders of one rehearsal. What was there before it is never touched.

    `own` is the agent's file as it is in earnest. Where the other one is the same, this is no rehearsal, and nothing is
    done here.
    """

    def __init__(self, own: AgentFile, file: AgentFile, aside: Aside):
        self._own, self.file, self._aside = own, file, aside
        self.is_rehearsal = own is not file
        self._before: dict[str, frozenset[str]] = {}
        """By pattern, the files that were there before."""
        self._made: list[str] = []
        """Folders that were not there before."""
        self._verified = ""
        self._began: float | None = None
        self._first = 0
        """Bytes when it began to record."""
        self._seconds = 0.0

    async def look(self, values: Values) -> None:
        """Look at what is there, as far as the values of a message tell where; call it before anything is run."""
        if not self.is_rehearsal:
            return
        for template in self.file.outputs():
            with contextlib.suppress(SubstitutionError):  # EXPSTART has what EXPINIT lacks, or is refused
                path = filled(self.file, template, values)
                pattern = path if template.use is Use.GLOB else glob.escape(path)
                if pattern not in self._before:
                    found = await self._aside.ask(f"the drive of {pattern!r}", matching_files, pattern)
                    self._before[pattern] = frozenset(found)
        for template in self.file.folders:
            with contextlib.suppress(SubstitutionError):
                path = filled(self.file, template, values)
                self._made += await self._aside.ask(f"the folder {path!r}", _missing, path)

    async def begin(self, values: Values) -> None:
        """Measure what is there now that it records."""
        if self.is_rehearsal and (verify := self.file.verify):
            self._verified = filled(self.file, verify.files, values)
            self._first, self._began = await self._size(), time.monotonic()

    def end(self) -> None:
        """Take the time, for the recorders are told to stop."""
        if self._began is not None:
            self._seconds = time.monotonic() - self._began

    async def measured(self, values: Values) -> dict[str, Any]:
        """Return, for the answer, what was recorded by the commands, which have ended, and what is free in earnest."""
        if self._began is None or not (verify := self._own.verify):
            return {}
        grew = await self._size() - self._first
        folder = os.path.dirname(filled(self._own, verify.files, values))
        free = None
        with contextlib.suppress(DriveHangs, OSError, RuntimeError):
            free = await self._aside.ask(f"the disk of {folder!r}", free_bytes, folder)
        return {"rehearsal": {"grew": grew, "seconds": self._seconds, "free": free}}

    async def remove(self) -> str | None:
        """Remove what it has made; return what stays there."""
        if not (self._before or self._made):
            return None
        remove = functools.partial(_remove, self._before, self._made)
        self._before, self._made, self._began = {}, [], None
        try:
            left = await self._aside.ask("the drive of the rehearsal", remove)
        except (DriveHangs, RuntimeError) as error:
            left = [str(error)]
        return f"what a rehearsal has recorded cannot be removed: {', '.join(left)}; delete it" if left else None

    async def _size(self) -> int:
        """Return the bytes of all files of `verify` that were not there before."""
        there = self._before.get(self._verified, frozenset())
        with contextlib.suppress(DriveHangs, RuntimeError):  # what looks at the recording tells of this drive
            found = await self._aside.ask(f"the drive of {self._verified!r}", matching_files, self._verified)
            return sum(seen.size for path, seen in found.items() if path not in there)
        return 0


def _missing(folder: str) -> list[str]:
    """Return the folders that making this one would make."""
    missing = []
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def _remove(before: Mapping[str, frozenset[str]], made: Iterable[str]) -> list[str]:
    """Remove files that match and were not there before, then folders that are empty; return what cannot be removed."""
    left = []
    for pattern, there in before.items():
        for path in matching_files(pattern).keys() - there:
            try:
                os.remove(path)
            except FileNotFoundError:  # it matches two patterns
                pass
            except OSError as error:
                left.append(f"{path!r} ({error.strerror})")
    for folder in sorted(made, key=len, reverse=True):
        with contextlib.suppress(OSError):  # something else is in it
            os.rmdir(folder)
    return left
