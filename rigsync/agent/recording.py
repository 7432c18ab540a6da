"""Watches the files of a recording while they grow, and judges them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from rigsync._text import size_text
from rigsync.agent.aside import Aside
from rigsync.agent.file import Verify
from rigsync.agent.growth import Growth, Kept, Seen, Segments, Whole, matching_files
from rigsync.core.board import LONGEST
from rigsync.core.notices import FAILURE, RECOVERED

LOOKS = 20
"""Looks at the files within the time in which each has to grow."""
LONGEST_LOOK = 1.0
"""Most seconds between two looks. Each look reports the sizes."""
LAST_LOOK = 2.0
"""Seconds for each look at the end. A drive that takes longer is reported as one that hangs."""
MOST_NAMED = 4
"""Files that are named in what was recorded; of further ones their number is told."""
SETTLING_LOOKS = 5
"""Looks during the time in which files must not grow after the end."""


class Verdict(NamedTuple):
    """What is wrong with a recording at the end."""

    problem: str
    is_over: bool
    """Whether nothing is being recorded any more. If something is, EXPINTERRUPT may end it, and another look can
    tell."""


class Recording:
    """Watches the files of a recording: reports their sizes and those that do not grow, and judges the end.

    `tell` reports something: topic, key and text. `cause` returns why nothing can grow any more, as the end of a
    sentence. `shared` returns which of some files another recording has too, each with the problem; it may block.
    """

    def __init__(
        self,
        aside: Aside,
        pattern: str,
        verify: Verify,
        overwrites: bool,
        tell: Callable[[str, str, str], None],
        progress: Callable[..., None],
        cause: Callable[[], str],
        shared: Callable[[Iterable[str]], dict[str, str]],
    ):
        self._aside, self._pattern, self._overwrites = aside, pattern, overwrites
        self._within, self._settled = verify.growing_within, verify.settled_within
        self._tell_of, self._progress, self._cause, self._shared_of = tell, progress, cause, shared
        self._interval = min(LONGEST_LOOK, self._within / LOOKS)
        # Two looks less, so that the notice comes within the time even if both its ends fall between looks.
        self._patience = self._within - 2 * self._interval
        self._growth = Growth(self._patience, pattern)
        self._segments = Segments(self._patience, self._settled, pattern) if verify.segments else None
        self._whole = Whole(verify.segments)
        self._before: dict[str, Seen] = {}
        """Files that were there before and have not changed."""
        self._kept = Kept({})
        self._shared: dict[str, str] = {}
        """By path, problems of files that another recording has too. The thread of the looks adds to both."""
        self._own: dict[str, Seen] = {}
        """The files of this recording, as they were last seen."""
        self._problems: dict[str, str] = {}
        """By path, faults that no later change mends."""
        self._last: asyncio.Future[dict[str, Seen]] | None = None
        """The last look, which may hang."""
        self._left: dict[str, Seen] | None = None
        """The files when the commands had ended; None if the drive did not answer."""
        self.finished: dict[str, bool] = {}
        """After a `verdict`: the recorded files that are not empty, and whether each is there, moved by no `run`."""
        self._sizes: dict[str, int] = {}
        """Their bytes."""

    async def prepare(self) -> None:
        """Look at the files before anything is recorded. Those that never change are not of this recording."""
        drive = f"the drive of {_shown(self._pattern)}"
        self._before = await self._aside.ask(drive, matching_files, self._pattern)
        if not self._overwrites:
            self._kept = await self._aside.ask(drive, Kept, self._before)

    async def watch(self) -> None:
        """Expect growth, until cancelled."""
        try:
            await self._look_on()
        except Exception as error:  # the system gives no more threads
            self._tell(FAILURE, self._pattern, f"{_shown(self._pattern)} is not watched any more: {error}")

    async def finish(self) -> None:
        """Look at the files now that the commands have ended, if the drive answers soon."""
        self._left = await self._look_soon()
        if self._left is not None:
            self._note_losses()
            self._measured(self._left)

    def described(self) -> str:
        """Return which files it has recorded, as they were last seen, with their sizes; call it after `finish`."""
        found = self._own if self._left is None else self._files_of_this(self._left)
        return files_text({_name_of(path): seen.size for path, seen in found.items()})

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file that it has recorded, as they were last seen; call it after `finish`."""
        found = self._own if self._left is None else self._files_of_this(self._left)
        return self._sizes or {path: seen.size for path, seen in found.items()}

    async def verdict(self) -> Verdict | None:
        """Return what is wrong with the recording, None if nothing; call it after `finish` and after `run`.

        The command of `run` may have moved files away. It may also have told the recorder to stop.
        """
        if self._left is None or (now := await self._look_soon()) is None:
            return Verdict(self._does_not_answer(), is_over=False)
        problems = dict(self._problems)
        present = self._files_of_this(now)
        identities, found = {seen.identity for seen in present.values()}, dict(present)
        for path, seen in self._files_of_this(self._left).items():
            if path not in found or found[path].size < seen.size:
                found[path] = seen
        if not found and not self._own:
            problems[self._pattern] = self._nothing()
        there = {seen.identity for seen in found.values()}  # perhaps under another name, once it was whole
        for path in self._own.keys() - found.keys() - problems.keys():
            if self._own[path].identity not in there:
                problems[path] = f"{_shown(path)} is gone; look for what has moved or removed it"
        self.finished = {
            path: path in present
            for path, seen in sorted(found.items())
            if seen.size and (path in present or seen.identity not in identities)  # else it has another name now
        }
        self._sizes = {path: found[path].size for path in self.finished}
        has_any = any(seen.size for seen in found.values())
        newest = max(found, key=lambda path: found[path].changed, default=None)
        for path, seen in found.items():
            is_begun = self._segments and has_any and path == newest  # it began just when the recorder was told to stop
            if not seen.size and not is_begun:
                problems.setdefault(
                    path, f"{_shown(path)} is empty{self._cause()}; look at the recorder's output and settings"
                )
        going_on = await self._still_growing(now)
        told = [*problems.values(), *([going_on] if going_on else [])]
        return Verdict("; ".join(told), is_over=not going_on) if told else None

    # ------------------------------------------------------------------------------------------ while it records

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            found = await self._found()
            self._note_losses()
            own = self._measured(found)
            self._note_lost(self._whole.update(own, time.strftime("%H:%M:%S")))
            if self._segments:
                stopped, resumed = self._segments.update(own, loop.time())
                self._note_segments(self._segments, own)
            else:
                stopped, resumed = self._growth.update({path: seen.size for path, seen in own.items()}, loop.time())
            for path in stopped:
                self._tell(FAILURE, path, self._complaint(path))
            for path in resumed:
                self._tell(RECOVERED, path, f"{_shown(path)} grows again")
            await asyncio.sleep(self._interval)

    def _files(self) -> dict[str, Seen]:
        """Return all matching files; blocks."""
        found = matching_files(self._pattern)
        self._kept.update(found)
        if new := self._files_of_this(found).keys() - self._own.keys():
            self._shared.update(self._shared_of(new))
        return found

    async def _found(self) -> dict[str, Seen]:
        """Return all matching files; report a drive that does not answer, and wait until it does."""
        look = self._last = self._aside.begin(self._files)
        await asyncio.wait([look], timeout=self._patience)
        if not look.done():
            shown, within = _shown(self._pattern), self._within
            self._tell(FAILURE, self._pattern, f"the drive of {shown} does not answer within {within:g} s; look at it")
            await asyncio.wait([look])
            self._tell(RECOVERED, self._pattern, f"the drive of {shown} answers again")
        return look.result()

    def _files_of_this(self, found: Mapping[str, Seen]) -> dict[str, Seen]:
        return {path: seen for path, seen in found.items() if not self._is_as_before(path, seen)}

    def _is_as_before(self, path: str, seen: Seen) -> bool:
        before = self._before.get(path)
        if before is None:
            return False
        # An overwritten file may become as large as it was. Otherwise a new time alone means nothing: backups set it.
        return before == seen if self._overwrites else before.size == seen.size and before.identity == seen.identity

    def _measured(self, found: Mapping[str, Seen]) -> dict[str, Seen]:
        """Return the files of this recording, and report their sizes as progress."""
        own = self._files_of_this(found)
        self._own.update(own)
        for path, seen in own.items():
            self._before.pop(path, None)
            with contextlib.suppress(ValueError):  # more files than a rig can have items
                self._progress(_name_of(path), seen.size, unit="B")
        return own

    def _note_losses(self) -> None:
        self._note_lost(self._kept.lost)
        for path, problem in tuple(self._shared.items()):
            self._note_problem(path, problem)

    def _note_lost(self, lost: Mapping[str, str]) -> None:
        for path, what in lost.items():
            self._note_problem(path, f"{_shown(path)} {what}; find out whether start does that, or another program")

    def _note_segments(self, segments: Segments, own: Mapping[str, Seen]) -> None:
        for path in segments.finished & own.keys():
            self._kept.keep(path, own[path])
        for path in segments.unfinished:
            self._note_problem(
                path,
                f"{_shown(path)} still grows, though a newer one has begun: a second recorder may be writing; "
                "give each recorder a pattern of its own, or more time by settled_within",
            )

    def _note_problem(self, path: str, problem: str) -> None:
        if path not in self._problems:
            self._problems[path] = problem
            self._tell(FAILURE, path, problem)

    def _complaint(self, path: str) -> str:
        within = f"{self._within:g} s"
        if (self._segments or self._growth).is_empty:
            return self._nothing(f" after {within}")
        if self._segments:
            newest = _name_of(self._segments.newest or path)
            since = f"no new file, and not a byte in {newest}, within {within}"
            return f"{_shown(path)} has stopped growing: {since}{self._cause()}"
        return f"{_shown(path)} has stopped growing: not a byte within {within}{self._cause()}"

    def _nothing(self, when: str = "") -> str:
        shown = _shown(self._pattern)
        what = f"no file {shown} has changed since EXPSTART" if self._before else f"there is no file {shown}"
        return f"{what}{when}; compare verify with what start writes{self._cause()}"

    # --------------------------------------------------------------------------------------------- in the end

    async def _look_soon(self) -> dict[str, Seen] | None:
        """Return all matching files; None if the drive does not answer soon, or nobody can look."""
        if self._last and not (await asyncio.wait([self._last], timeout=LAST_LOOK))[0]:
            return None  # another look would hang as well, and cost a thread
        try:
            look = self._last = self._aside.begin(self._files)
            await asyncio.wait([look], timeout=LAST_LOOK)
            return look.result() if look.done() else None
        except RuntimeError:  # the system gives no more threads
            return None

    async def _still_growing(self, found: Mapping[str, Seen]) -> str | None:
        """Return a file that grows for too long after the end; None as soon as none has grown for that long."""
        loop = asyncio.get_running_loop()
        sizes = {path: seen.size for path, seen in found.items()}
        began = grew = loop.time()
        while loop.time() - grew < self._settled:
            await asyncio.sleep(min(LONGEST_LOOK, self._settled / SETTLING_LOOKS))
            if (again := await self._look_soon()) is None:
                return self._does_not_answer()
            for path, seen in self._measured(again).items():
                if seen.size > (before := sizes.get(path, -1)):
                    sizes[path], grew = seen.size, loop.time()
                    if grew - began > self._settled:
                        return (
                            f"{_shown(path)} still grows {self._settled:g} s after the end, by "
                            f"{size_text(seen.size - max(before, 0))} just now: what writes it was not told to stop; "
                            "see stop and run of EXPEND, or settled_within"
                        )
        return None

    def _does_not_answer(self) -> str:
        return (
            f"the drive of {_shown(self._pattern)} does not answer within {LAST_LOOK:g} s, so that nobody knows what "
            "was recorded; look at that drive"
        )

    def _tell(self, topic: str, path: str, problem: str) -> None:
        self._tell_of(topic, _name_of(path), problem)


def files_text(sizes: Mapping[str, int]) -> str:
    """Return files by name with their sizes in bytes: ``left.mp4 12.3 MB, right.mp4 11 MB``; ``no file`` for none."""
    named = [f"{name} {size_text(size)}" for name, size in sorted(sizes.items())[:MOST_NAMED]]
    if len(sizes) > MOST_NAMED:
        named.append(f"{len(sizes) - MOST_NAMED} more, {size_text(sum(sizes.values()))} in all")
    return ", ".join(named) or "no file"


def _shown(path: str) -> str:
    """Return a path as text that can be sent: file names may hold anything."""
    return os.fsencode(path).decode("utf-8", "replace")


def _name_of(path: str) -> str:
    """Return a file's name in reports; of a long name the end, which says most."""
    return _shown(os.path.basename(path))[-LONGEST:]
