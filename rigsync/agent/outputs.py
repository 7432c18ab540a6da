"""What an agent will record: nothing else is there, and nobody else records there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator

from rigsync.agent.aside import Aside
from rigsync.agent.file import Action, AgentFile
from rigsync.agent.in_use import InUse, Output, PathTaken, keys_of_outputs, single_path
from rigsync.agent.keys import REFUSE
from rigsync.agent.template import OF_THE_SESSION, SubstitutionError, Template, Use
from rigsync.agent.values import Values, filled
from rigsync.core.enums import ExpMessage


class Outputs:
    """What one agent will record, locked meanwhile."""

    def __init__(self, file: AgentFile, aside: Aside):
        self._file, self._aside = file, aside
        self._in_use = InUse(file.name)
        self._absent: frozenset[str] = frozenset()
        """Outputs that were not there at EXPINIT, if EXPINIT has commands that may begin them."""
        self._left_behind: frozenset[str] = frozenset()
        """Outputs that were not there before an EXPSTART that has failed."""

    @contextlib.asynccontextmanager
    async def initialising(self, values: Values, file: AgentFile) -> AsyncIterator[None]:
        """Lock what EXPINIT makes known, in place of what was locked, unless the body of the ``async with`` fails.

        The file counts from then on.

        Raises
        ------
        DriveHangs
            A drive does not answer.
        PathTaken
            A file is there, or another recording has it.
        """
        before, self._file = self._file, file
        try:
            async with self._taking(values):
                yield
        except BaseException:
            self._file = before
            raise

    @contextlib.asynccontextmanager
    async def _taking(self, values: Values) -> AsyncIterator[None]:
        outputs = await self._outputs(ExpMessage.EXPINIT, values)
        keys, action = keys_of_outputs(outputs), self._file.action(ExpMessage.EXPINIT)
        with self._in_use.taking(keys):
            await self._refuse_shared(outputs)
            if not action.run:  # which may move them away; so not before it is known that nobody is writing them
                self._refuse_existing(outputs, values)
            yield
        self._in_use.keep_only(keys)
        begins = action.run or action.start
        self._absent = frozenset(output.path for output in outputs if begins and not output.existing)
        self._left_behind = frozenset()

    @contextlib.asynccontextmanager
    async def starting(self, values: Values) -> AsyncIterator[None]:
        """Lock what EXPSTART makes known as well, unless the body of the ``async with`` fails; raise likewise."""
        outputs = await self._outputs(ExpMessage.EXPSTART, values)
        begun = self._absent - self._left_behind  # by what EXPINIT has run or started
        with self._in_use.taking(keys_of_outputs(outputs)):
            await self._refuse_shared(outputs)
            self._refuse_existing((output for output in outputs if output.path not in begun), values)
            try:
                yield
            except Exception:
                self._left_behind |= {output.path for output in outputs if not output.existing}
                raise

    def release(self) -> None:
        self._in_use.keep_only()

    def shared(self, files: Iterable[str]) -> dict[str, str]:
        return self._in_use.shared(files)

    async def _outputs(self, event: ExpMessage, values: Values) -> list[Output]:
        """Return what will be recorded, as far as this message tells."""
        paths, patterns = [], []
        for template in self._templates(event):
            is_known = template.variables <= set(OF_THE_SESSION) or self._file.action(ExpMessage.EXPINIT) != Action()
            if event is ExpMessage.EXPINIT and not is_known:
                continue  # EXPSTART may have other data
            try:
                path = filled(self._file, template, values)
            except SubstitutionError:
                if event is ExpMessage.EXPSTART:
                    raise
                continue
            single = single_path(path) if template.use is Use.GLOB else path
            if single:
                paths.append(single)
            else:
                patterns.append(path)
        looks = [self._aside.ask(f"the file {path!r}", Output.at, path) for path in dict.fromkeys(paths)]
        looks += [self._aside.ask(f"the drive of {pattern!r}", Output.of, pattern) for pattern in patterns]
        return await asyncio.gather(*looks)

    def _templates(self, event: ExpMessage) -> Iterator[Template]:
        starts = [self._file.action(ExpMessage.EXPSTART).start]
        if event is ExpMessage.EXPINIT:
            starts.append(self._file.action(event).start)
        for start in starts:
            if start and start.ready:
                yield start.ready.file
        if self._file.verify:
            yield self._file.verify.files

    async def _refuse_shared(self, outputs: Iterable[Output]) -> None:
        """Refuse to record where a file is there that another recording's pattern matches too."""
        for output in outputs:
            if output.files:
                what = f"the drive of {output.path!r}"
                for problem in (await self._aside.ask(what, self._in_use.shared, output.files)).values():
                    raise PathTaken(problem)

    def _refuse_existing(self, outputs: Iterable[Output], values: Values) -> None:
        """Refuse to record over files, if the agent's file does not say what to do about them."""
        if self._file.existing != REFUSE:
            return
        for output in outputs:
            if output.existing:
                failed = ", left by an EXPSTART that has failed" if output.path in self._left_behind else ""
                remedy = (
                    "move it away, or rehearse with another reference"
                    if values.rehearsal
                    else "move it away, record under another name or number, or write existing: keep or "
                    f"existing: overwrite in {self._file.source}"
                )
                raise PathTaken(f"{output.existing}{failed}; {remedy}")
