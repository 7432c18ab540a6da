"""Whether what is recorded grows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rigsync.agent.checks import Growth, matching_sizes
from rigsync.errors import RigsyncError
from rigsync.protocol.board import LONGEST
from rigsync.protocol.messages import one_line
from rigsync.protocol.notices import FAILURE

if TYPE_CHECKING:
    from rigsync.rig import Rig

logger = logging.getLogger("rigsync.agent")

RECOVERED = "recovered"
"""Topic of the notice that a file grows again."""
LOOKS = 20
"""Looks at the files in the time within which each has to grow."""
LONGEST_LOOK = 1.0
"""Seconds between two looks at most, which are also how often the size is told."""


class Recording:
    """Looks at the files of a recording, and tells how large they are, and which one does not grow.

    Parameters
    ----------
    rig : Rig
        Who tells.
    pattern : str
        The files, as `glob.glob` has it.
    within : float
        Seconds within which each has to grow.
    exp_ref : str or None
        The experiment.
    say : callable
        Puts a line into the log of the session.
    """

    def __init__(self, rig: Rig, pattern: str, within: float, exp_ref: str | None, say: Callable[[str], None]):
        self._rig, self._pattern, self._within, self._exp_ref, self._say = rig, pattern, within, exp_ref, say
        self._interval = min(LONGEST_LOOK, within / LOOKS)
        # Two looks earlier, so that the notice comes within the time though both its ends fall between looks.
        self._growth = Growth(within - 2 * self._interval, pattern)
        self._task: asyncio.Task[None] | None = None
        self._before: dict[str, int] = {}

    async def prepare(self) -> None:
        """Look what is there before anything is recorded: what does not change afterwards is none of this recording."""
        self._before = await asyncio.get_running_loop().run_in_executor(None, matching_sizes, self._pattern)

    def begin(self) -> None:
        """Look from now on; on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._look(), name="rigsync files that grow")

    def end(self) -> None:
        """Expect nothing to grow any more."""
        if self._task:
            self._task.cancel()

    async def finish(self) -> None:
        """Tell how large the files have become in the end."""
        await self._measure()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sizes = await self._measure()
            stopped, resumed = self._growth.update(sizes, loop.time())
            for path in stopped:
                self._tell(FAILURE, path, self._complaint(path))
            for path in resumed:
                self._tell(RECOVERED, path, f"{_shown(path)} grows again")
            await asyncio.sleep(self._interval)

    async def _measure(self) -> dict[str, int]:
        """Return the sizes of the files of this recording, after telling them as progress."""
        found = await asyncio.get_running_loop().run_in_executor(None, matching_sizes, self._pattern)
        sizes = {path: size for path, size in found.items() if self._before.get(path) != size}
        for path, size in sizes.items():
            self._before.pop(path, None)
            with contextlib.suppress(ValueError):  # more files than a rig can have items
                self._rig.progress(_name_of(path), size, unit="B")
        return sizes

    def _complaint(self, path: str) -> str:
        if self._growth.is_empty:
            return f"there is no file {_shown(path)} after {self._within:g} s; compare verify with what start writes"
        return f"{_shown(path)} has stopped growing: not a byte within {self._within:g} s"

    def _tell(self, topic: str, path: str, problem: str) -> None:
        self._say(problem)
        logger.log(logging.ERROR if topic == FAILURE else logging.INFO, "%s: %s", self._rig.name, one_line(problem))
        body: dict[str, Any] = {"problem": problem, "exp_ref": self._exp_ref}
        with contextlib.suppress(RigsyncError):
            self._rig.notify(topic, body, key=_name_of(path))


def _shown(path: str) -> str:
    """Return a path as text that can be sent, for file names may hold anything."""
    return os.fsencode(path).decode("utf-8", "replace")


def _name_of(path: str) -> str:
    """Return what the file is called in what is told of it: the end of its name, which says most, if that is long."""
    return _shown(os.path.basename(path))[-LONGEST:]
