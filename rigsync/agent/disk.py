"""Whether the disk lasts while something is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from rigsync.agent.aside import Aside, DriveHangs
from rigsync.agent.checks import FreeSpace, free_bytes
from rigsync.agent.recording import RECOVERED, tell
from rigsync.core.notices import FAILURE

if TYPE_CHECKING:
    from rigsync.rig.rig import Rig

INTERVAL = 1.0
"""Seconds between two looks."""
KEY = "free_disk"
"""Key of the notices about it."""


class Disk:
    """Watches the free space of a disk, and reports when it is about to be full.

    Parameters
    ----------
    rig : Rig
        The rig that reports.
    aside : Aside
        Runs the looks.
    path : str
        A file or folder on the disk.
    exp_ref : str or None
        The experiment.
    say : callable
        Writes a line into the log of the session.
    last_lines : callable
        Returns the recorders' last lines, as the end of a sentence.
    """

    def __init__(
        self,
        rig: Rig,
        aside: Aside,
        path: str,
        exp_ref: str | None,
        say: Callable[[str], None],
        last_lines: Callable[[], str],
    ):
        self._rig, self._aside, self._path, self._exp_ref = rig, aside, path, exp_ref
        self._say, self._last_lines = say, last_lines
        self._space = FreeSpace()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin to watch; on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._look(), name="rigsync free space")

    def end(self) -> None:
        """Stop watching."""
        if self._task:
            self._task.cancel()

    def cause(self) -> str:
        """Return that the disk is full, as the end of a sentence; nothing if it was not at the last look."""
        return f"; {self._is_full()}{self._last_lines()}" if self._space.is_full else ""

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                free = await self._aside.ask(f"the disk of {self._path!r}", free_bytes, self._path)
            except (OSError, DriveHangs, RuntimeError):  # the looks at the recording report this drive
                await asyncio.sleep(INTERVAL)
                continue
            news = self._space.update(free, loop.time())
            if news is not None:
                self._tell(news)
            await asyncio.sleep(INTERVAL)

    def _tell(self, is_short: bool) -> None:
        if not is_short:
            problem = f"the disk of {self._path!r} lasts again: {self._space.described()}"
        elif self._space.is_full:
            problem = f"{self._is_full()}; move data away{self._last_lines()}"
        else:
            problem = (
                f"the disk of {self._path!r} is nearly full: {self._space.described()}; move data away, or end the"
            )
            problem += f" experiment{self._last_lines()}"
        tell(self._rig, self._say, FAILURE if is_short else RECOVERED, KEY, problem, self._exp_ref)

    def _is_full(self) -> str:
        return f"the disk of {self._path!r} is full: {self._space.described()}"
