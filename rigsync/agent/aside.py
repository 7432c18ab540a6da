"""Threads for functions that may hang, such as a look at a network drive: the rig goes on answering."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from rigsync.errors import RigsyncError
from rigsync.runtime.workers import Workers

_Result = TypeVar("_Result")

PATIENCE = 10.0
"""Seconds for a drive to answer. One that was asleep needs some of them to spin up."""
_CLOSE_LIMIT = 0.5
"""Seconds for functions that still run at the end. One that hangs longer is left behind, and keeps no program from
ending."""


class DriveHangs(RigsyncError, TimeoutError):
    """A file, a folder or a program is on a drive that does not answer."""


class Aside(Workers):
    """Runs functions that may hang, off the event loop, even if any number of others hangs."""

    def __init__(self, name: str):
        super().__init__(name)
        self._open: dict[str, asyncio.Future[Any]] = {}

    async def ask(self, what: str, function: Callable[..., _Result], *args: Any) -> _Result:
        """Run a function that touches a drive, and return its result.

        While one question about `what` is open, no other is asked: each one that hangs costs a thread.

        Raises
        ------
        DriveHangs
            It has not returned within 10 s, or an earlier one has still not returned.
        """
        earlier = self._open.get(what)
        if earlier and not (await asyncio.wait([earlier], timeout=PATIENCE))[0]:
            raise _hangs(what)
        answer = self.begin(function, *args)
        self._open[what] = answer
        answer.add_done_callback(lambda done: self._open.pop(what) if self._open.get(what) is done else None)
        if not (await asyncio.wait([answer], timeout=PATIENCE))[0]:
            raise _hangs(what)
        return answer.result()

    def close(self, timeout: float = _CLOSE_LIMIT) -> list[str]:
        return super().close(timeout)


def _hangs(what: str) -> DriveHangs:
    return DriveHangs(f"{what} does not answer within {PATIENCE:g} s; is its drive connected, and its server up?")
