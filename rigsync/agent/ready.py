"""The file of `ready`: what shows that a command records."""

from __future__ import annotations

import asyncio
import glob
import os
from collections.abc import Iterable
from typing import Any

from rigsync.agent.aside import Aside, DriveHangs
from rigsync.agent.commands import Child, CommandFailed, Commands, by_itself, output_of
from rigsync.agent.growth import Kept, matching_files

LOOK = 0.05
"""Seconds between looks for the file of `ready`."""
LAST_LOOK = 0.5
"""Seconds for the last look for that file, when the command's time is over, and for the news that a command has
ended."""


class ReadyFile:
    """The file of `ready`. If it was there before, it counts only when it changes."""

    def __init__(self, path: str, within: float):
        self.path, self.within = path, within
        self._before: tuple[int, int, int] | None = None
        self._kept = Kept({})

    def look(self) -> None:
        self._before = self._found()

    def keep(self, watched: str | None) -> None:
        """Expect the earlier file to stay, unless it matches a pattern whose files are watched anyhow."""
        others = {seen.identity for seen in matching_files(watched).values()} if watched else set()
        before = matching_files(glob.escape(self.path))
        self._kept = Kept({path: seen for path, seen in before.items() if seen.identity not in others})

    @property
    def lost(self) -> str | None:
        """What the earlier file is known to have lost of its content."""
        for what in tuple(self._kept.lost.values()):  # a look may be under way
            return f"{self.path} {what}; find out whether start does that, or another program"
        return None

    def loss(self) -> str | None:
        """Look at the earlier file again; return what it has lost."""
        self._kept.update(matching_files(glob.escape(self.path)))
        return self.lost

    async def awaited(self, child: Child, commands: Commands, aside: Aside) -> None:
        """Wait until the file shows that a command records, or raise `CommandFailed`: it has ended, or was too slow."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.within
        while True:
            look = aside.begin(self.is_there)
            either: list[asyncio.Future[Any]] = [look, child.ended]
            try:
                left = max(LAST_LOOK, end - loop.time())
                await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                hangs = look.cancel()
            if not hangs and look.result():
                return
            if child.ended.done():
                raise CommandFailed(by_itself(child, child.ended.result()))
            if loop.time() >= end:
                ended = await commands.end(child)
                looked = "its drive does not answer" if hangs else "it is not there, or is as before"
                raise CommandFailed(
                    f"{child.label} has not begun to write {self.path} within {self.within:g} s ({looked}), and "
                    f"{ended.described()}{output_of(ended)}"
                )
            await asyncio.wait([child.ended], timeout=min(LOOK, end - loop.time()))

    def is_there(self) -> bool:
        self.loss()
        return self._found() not in (None, self._before)

    def _found(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


async def losses_of(files: Iterable[ReadyFile], aside: Aside) -> dict[str, str]:
    """Return what earlier files have lost, by path."""
    losses: dict[str, str | None] = {}
    for ready in files:
        try:
            losses[ready.path] = await aside.ask(f"the file {ready.path!r}", ready.loss)
        except DriveHangs as error:
            losses[ready.path] = str(error)
    return {path: loss for path, loss in losses.items() if loss}
