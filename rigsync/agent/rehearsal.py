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
from rigsync.agent.in_use import PathTaken, single_path, split_pattern
from rigsync.agent.template import SubstitutionError, Template, Use
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
        """Look at what is there, as far as the values of a message tell where; call it before anything is run.

        Raises
        ------
        PathTaken
            It would record where the rig records in earnest, by links for instance.
        """
        if not self.is_rehearsal:
            return
        for own, other in zip(self._own.outputs(), self.file.outputs(), strict=True):
            with contextlib.suppress(SubstitutionError):  # EXPSTART has what EXPINIT lacks, or is refused
                earnest, pattern = _pattern(self._own, own, values), _pattern(self.file, other, values)
                if pattern not in self._before:
                    found = await self._aside.ask(f"the drive of {pattern!r}", _there, pattern, earnest)
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
        folder, _ = split_pattern(filled(self._own, verify.files, values))
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
        return (
            f"what a rehearsal has recorded cannot be removed: {', '.join(left)}; look whose it is, and delete it"
            if left
            else None
        )

    async def _size(self) -> int:
        """Return the bytes of all files of `verify` that were not there before."""
        there = self._before.get(self._verified, frozenset())
        with contextlib.suppress(DriveHangs, RuntimeError):  # what looks at the recording tells of this drive
            found = await self._aside.ask(f"the drive of {self._verified!r}", matching_files, self._verified)
            return sum(seen.size for path, seen in found.items() if path not in there)
        return 0


def _pattern(file: AgentFile, template: Template, values: Values) -> str:
    path = filled(file, template, values)
    return path if template.use is Use.GLOB else glob.escape(path)


def _there(pattern: str, earnest: str) -> Iterable[str]:
    """Return what matches a pattern; raise `PathTaken` if what matches could be what is recorded in earnest."""
    path, real = _place(pattern), _place(earnest)
    above = [real]
    while (parent := os.path.dirname(above[-1])) != above[-1]:
        above.append(parent)
    if _identity(path) in map(_identity, above):
        what = f"a rehearsal would record into {path!r}, and in earnest the rig records into {real!r}"
        raise PathTaken(f"{what}; under rehearsal, name a folder that is neither this one nor above it")
    return matching_files(pattern)


def _place(pattern: str) -> str:
    """Return, without links, the one path that a pattern stands for, or the folder of all that match."""
    return os.path.realpath(single_path(pattern) or split_pattern(pattern)[0])


def _identity(path: str) -> tuple[object, ...]:
    """Return what tells a path from others, by whatever name, case or mount; it need not exist."""
    rest: list[object] = []
    while True:
        with contextlib.suppress(OSError):
            found = os.stat(path)
            return (found.st_dev, found.st_ino or os.path.normcase(path), *rest)
        above, name = os.path.split(path)
        if above == path:
            return (path, *rest)
        path = above
        rest.append(name.casefold())


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
        below = None if single_path(pattern) else os.path.join(_place(pattern), "")
        for path in matching_files(pattern).keys() - there:
            folder = os.path.realpath(os.path.dirname(path))
            if below and not os.path.join(folder, "").startswith(below):  # a pattern follows links
                left.append(f"{path!r} (a link leads to {folder!r})")
                continue
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
