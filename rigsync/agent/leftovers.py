"""What an agent that was killed has left running: the next one of its name ends it before anything begins."""

from __future__ import annotations

import asyncio
import logging

from rigsync.agent import orphans
from rigsync.agent.aside import Aside
from rigsync.agent.commands import LOOK_AT_DRIVE
from rigsync.agent.requirements import Look

_logger = logging.getLogger("rigsync.agent")


class Leftovers:
    """What earlier agents of one name have left running."""

    def __init__(self, rig: str):
        self._rig = rig
        self.looks: list[Look] = []
        """A look at it, if it did not end when that was last looked at."""

    async def end(self, aside: Aside) -> None:
        look = aside.begin(self._problem)
        if not (await asyncio.wait([look], timeout=orphans.LONGEST))[0]:
            _logger.error("%s: nobody can tell what an earlier agent may have left running: /proc hangs", self._rig)
        elif problem := look.result():
            _logger.error("%s: %s", self._rig, problem)

    def _problem(self) -> str | None:
        """End what is there; return what does not end. Blocks."""
        ended, left = orphans.end_of_dead_agents(self._rig)
        self.looks = [("/proc", self._problem, ())] if left else []
        if ended:
            _logger.warning(
                "%s: an earlier agent was killed; what it had left running was ended: %s", self._rig, ", ".join(ended)
            )
        problem = f"what an earlier agent has left running does not end, though it was killed: {', '.join(left)}"
        return f"{problem}; {LOOK_AT_DRIVE}" if left else None
