"""Whether the disk lasts while something is recorded."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from itertools import pairwise

from rigsync._text import size_text
from rigsync.agent.aside import Aside, DriveHangs
from rigsync.agent.checks import free_bytes
from rigsync.core.notices import FAILURE, FREE_DISK, RECOVERED

INTERVAL = 1.0
"""Seconds between two looks."""
ITEM = "free disk"
"""Its item of progress."""
SHORT = 120.0
"""Seconds for which a disk has to last at its rate. Less is a failure, at which tasks end their experiment. So it comes
while there is time to end well, but not when the session may well end before the disk is full."""
RATE_OVER, RATE_FROM = 30.0, 4.0
"""Seconds over which the rate is measured, and before it is first known: recorders write in bursts."""
FULL = 65_536
"""Free bytes below which a disk is full. Some systems keep a remainder that nobody can use."""


class FreeSpace:
    """Finds out when a disk is about to be full. Pure: free bytes and times are arguments."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()
        self._is_short = False

    def update(self, free: int, now: float) -> bool | None:
        """Process the free bytes now; return whether the disk is newly short of space, None if nothing is new.

        It is short if it is full, or will be within 2 minutes at its rate. It has recovered if it would last for twice
        as long.
        """
        self._looks.append((now, free))
        while now - self._looks[0][0] > RATE_OVER:
            self._looks.popleft()
        left = self.left
        lasts = 2 * SHORT if self._is_short else SHORT
        is_short = self.is_full or (left is not None and left < lasts)
        if is_short == self._is_short:
            return None
        self._is_short = is_short
        return is_short

    @property
    def is_full(self) -> bool:
        return bool(self._looks) and self._looks[-1][1] < FULL

    @property
    def rate(self) -> float | None:
        """Bytes that it loses a second; None while unknown.

        Of the two halves of the time, the one with the smaller loss counts: space that a recorder sets aside at once is
        no rate.
        """
        looks = self._looks
        if len(looks) < 3 or looks[-1][0] - looks[0][0] < RATE_FROM:
            return None
        halves = pairwise((looks[0], looks[len(looks) // 2], looks[-1]))
        return min((before[1] - after[1]) / (after[0] - before[0]) for before, after in halves)

    @property
    def left(self) -> float | None:
        """Seconds until it is full; None if unknown, or if it does not become fuller."""
        return self._looks[-1][1] / self.rate if self.rate and self.rate > 0 else None

    def described(self) -> str:
        text = f"{size_text(self._looks[-1][1] if self._looks else 0)} free"
        if self.rate and self.left is not None:
            rate = f"{size_text(self.rate)} less each second"
            text += f", after {rate}" if self.is_full else f", {rate}, which is enough for {self.left:.0f} s"
        return text


class Disk:
    """Watches the free space of a disk, shows it as progress, and reports when it is about to be full.

    `tell` reports something: topic, key and text. `last_lines` returns the recorders' last lines, as the end of a
    sentence.
    """

    def __init__(
        self,
        aside: Aside,
        path: str,
        tell: Callable[[str, str, str], None],
        progress: Callable[..., None],
        last_lines: Callable[[], str],
    ):
        self._aside, self._path, self._tell_of, self._last_lines = aside, path, tell, last_lines
        self._progress = progress
        self._space = FreeSpace()

    def cause(self) -> str:
        """Return that the disk is full, as the end of a sentence; nothing if it was not at the last look."""
        return f"; {self._is_full()}{self._last_lines()}" if self._space.is_full else ""

    async def watch(self) -> None:
        """Look at it each second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                free = await self._aside.ask(f"the disk of {self._path!r}", free_bytes, self._path)
            except (OSError, DriveHangs, RuntimeError):  # the looks at the recording report this drive
                await asyncio.sleep(INTERVAL)
                continue
            with contextlib.suppress(ValueError):  # more files are recorded than a rig can have items
                self._progress(ITEM, free, unit="B")
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
                f"the disk of {self._path!r} is nearly full: {self._space.described()}; move data away, or end the "
                f"experiment{self._last_lines()}"
            )
        self._tell_of(FAILURE if is_short else RECOVERED, FREE_DISK, problem)

    def _is_full(self) -> str:
        return f"the disk of {self._path!r} is full: {self._space.described()}"
