"""Whether what is recorded grows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rigsync.agent.aside import Aside
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
LAST_LOOK = 2.0
"""Seconds for the look in the end: how large the files have become is not worth more to anybody who waits."""


class Recording:
    """Looks at the files of a recording, and tells how large they are, and which one does not grow.

    Parameters
    ----------
    rig : Rig
        Who tells.
    aside : Aside
        On which it looks.
    pattern : str
        The files, as `glob.glob` has it.
    within : float
        Seconds within which each has to grow.
    exp_ref : str or None
        The experiment.
    say : callable
        Puts a line into the log of the session.
    """

    def __init__(
        self, rig: Rig, aside: Aside, pattern: str, within: float, exp_ref: str | None, say: Callable[[str], None]
    ):
        self._rig, self._aside, self._pattern, self._within, self._exp_ref = rig, aside, pattern, within, exp_ref
        self._say = say
        self._interval = min(LONGEST_LOOK, within / LOOKS)
        # Two looks earlier, so that the notice comes within the time though both its ends fall between looks.
        self._patience = within - 2 * self._interval
        self._growth = Growth(self._patience, pattern)
        self._task: asyncio.Task[None] | None = None
        self._before: dict[str, int] = {}
        self._last: asyncio.Future[dict[str, int]] | None = None
        """The last look, which may hang."""

    async def prepare(self) -> None:
        """Look what is there before anything is recorded: what does not change afterwards is none of this recording.

        Raises
        ------
        DriveHangs
            The drive of the files does not answer.
        """
        self._before = await self._aside.ask(f"the drive of {_shown(self._pattern)}", matching_sizes, self._pattern)

    def begin(self) -> None:
        """Look from now on; on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._look(), name="rigsync files that grow")

    def end(self) -> None:
        """Expect nothing to grow any more."""
        if self._task:
            self._task.cancel()

    async def finish(self) -> None:
        """Tell how large the files have become in the end, if that can be found out soon."""
        if self._last and not (await asyncio.wait([self._last], timeout=LAST_LOOK))[0]:
            return  # another one would hang as well, and cost a thread
        look = self._aside.begin(matching_sizes, self._pattern)
        await asyncio.wait([look], timeout=LAST_LOOK)
        if not look.cancel():
            self._measured(look.result())

    async def _look(self) -> None:
        try:
            await self._look_on()
        except Exception as error:  # the system gives no more threads
            self._tell(FAILURE, self._pattern, f"nobody looks any more whether {_shown(self._pattern)} grows: {error}")

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sizes = self._measured(await self._sizes())
            stopped, resumed = self._growth.update(sizes, loop.time())
            for path in stopped:
                self._tell(FAILURE, path, self._complaint(path))
            for path in resumed:
                self._tell(RECOVERED, path, f"{_shown(path)} grows again")
            await asyncio.sleep(self._interval)

    async def _sizes(self) -> dict[str, int]:
        """Return the sizes of all files that match; tell where the drive does not answer, and wait until it does."""
        look = self._last = self._aside.begin(matching_sizes, self._pattern)
        await asyncio.wait([look], timeout=self._patience)
        if not look.done():
            shown, within = _shown(self._pattern), self._within
            self._tell(FAILURE, self._pattern, f"the drive of {shown} does not answer within {within:g} s; look at it")
            await asyncio.wait([look])
            self._tell(RECOVERED, self._pattern, f"the drive of {shown} answers again")
        return look.result()

    def _measured(self, found: dict[str, int]) -> dict[str, int]:
        """Return the sizes of the files of this recording, after telling them as progress."""
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
