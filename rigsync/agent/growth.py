"""What becomes of files while they are recorded: whether they grow, and whether they lose anything."""

from __future__ import annotations

import contextlib
import glob
import operator
import os
import stat
import sys
from collections.abc import Mapping
from typing import NamedTuple

SAMPLED = 1000
"""Most earlier files that are sampled."""
SAMPLED_AT = (0.25, 0.5, 0.75)
"""Places of the samples, as shares of the size. Not the ends: files of one kind begin alike, and appending may change
the end."""
SAMPLE = 1024
"""Bytes of a sample."""


class Seen(NamedTuple):
    """Properties of a file at one look."""

    size: int
    """Bytes."""
    changed: int
    """When it was last written to, in nanoseconds of Unix time."""
    identity: tuple[int, int]
    """Device and inode; another file of the same name has others."""


def matching_files(pattern: str) -> dict[str, Seen]:
    """Return the properties of each file that matches a pattern as in `glob`; ``**`` stands for any folders."""
    seen: dict[str, Seen] = {}
    for path in glob.iglob(pattern, recursive=True):
        try:
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode):
                size = found.st_size
                if sys.platform == "win32":
                    with contextlib.suppress(PermissionError), open(path, "rb") as file:
                        # By path, Windows tells old sizes while a file is being written.
                        size = os.fstat(file.fileno()).st_size
                seen[path] = Seen(size, found.st_mtime_ns, (found.st_dev, found.st_ino))
        except OSError:  # gone since
            seen.pop(path, None)
    return seen


class Growth:
    """Finds out when files stop growing and when they go on. Pure: sizes and times are arguments.

    A file does not grow while its size is the same, while it is gone, or by becoming smaller. If no file has matched at
    all, the pattern is named in place of a file.
    """

    def __init__(self, within: float, pattern: str):
        self.within, self.pattern = within, pattern
        self._sizes: dict[str, int] = {}
        self._grew: dict[str, float] = {}
        """When each was last seen to grow."""
        self._stopped: set[str] = set()
        self._empty_since: float | None = None
        """The start, until there is a file."""
        self._began = False
        self.is_empty = False
        """Whether it has reported that there is no file at all."""

    def update(self, sizes: Mapping[str, int], now: float) -> tuple[list[str], list[str]]:
        """Process the sizes of all files that match now; return those that newly have stopped, and that go on again.

        The first call is the start.
        """
        stopped, resumed = [], []
        if not self._began:
            self._began, self._empty_since = True, now
        if sizes:
            self._empty_since = None
            if self.is_empty:
                self.is_empty = False
                resumed.append(self.pattern)
        elif self._empty_since is not None and now - self._empty_since >= self.within and not self.is_empty:
            self.is_empty = True
            stopped.append(self.pattern)
        for path, size in sizes.items():
            if path not in self._grew or size > self._sizes[path]:
                self._grew[path] = now
                if path in self._stopped:
                    self._stopped.remove(path)
                    resumed.append(path)
            self._sizes[path] = size
        frozen = [path for path, grew in self._grew.items() if now - grew >= self.within and path not in self._stopped]
        self._stopped.update(frozen)
        return stopped + frozen, resumed


class Segments:
    """Watches a recording that goes on in new files: whether it grows, and which files are not finished. Pure.

    The newest file is the last one that is not empty. It has to grow; a new file counts as growth. Older ones are
    finished `settled` seconds after another one has begun.
    """

    def __init__(self, within: float, settled: float, pattern: str):
        self._growth, self._settled, self.pattern = Growth(within, pattern), settled, pattern
        self._largest: dict[str, int] = {}
        """In the order in which they came."""
        self._since: dict[str, float] = {}
        """When the next one began."""
        self.finished: set[str] = set()
        """Files that have settled, and have to stay as they are."""
        self.unfinished: list[str] = []
        """Files that grow although another one has begun: there is more than one recorder."""

    def update(self, seen: Mapping[str, Seen], now: float) -> tuple[list[str], list[str]]:
        """Process the properties of all files now; return, as `Growth` does, the pattern if growth stops or goes on."""
        grown = set()
        for path, found in sorted(seen.items(), key=lambda item: (item[1].changed, item[0])):
            if path not in self._largest or found.size > self._largest[path]:
                grown.add(path)
                self._largest[path] = found.size
        newest = self.newest
        for path in self._largest:
            if path == newest:
                break
            began = self._since.setdefault(path, now)
            if path in grown and now - began > self._settled:
                if path not in self.unfinished:
                    self.unfinished.append(path)
            elif now - began >= self._settled:
                self.finished.add(path)
        # A new file is growth, though it is empty.
        total = {self.pattern: sum(self._largest.values()) + len(self._largest)} if self._largest else {}
        return self._growth.update(total, now)

    @property
    def newest(self) -> str | None:
        """The file that has to grow; None if all are empty."""
        return next((path for path, size in reversed(self._largest.items()) if size), None)

    @property
    def is_empty(self) -> bool:
        """As `Growth` has it."""
        return self._growth.is_empty


class Kept:
    """Finds out which files lose content: earlier ones, which may grow, and may be moved away. Blocks.

    Samples show that a file was recorded over even if it is larger again. A recorder that appends changes none. One
    that keeps an index in its file changes some, not all. If there are more than `SAMPLED` files, only the newest are
    sampled.
    """

    def __init__(self, seen: Mapping[str, Seen]):
        self._seen = dict(seen)
        newest = sorted(seen, key=lambda path: seen[path].changed)[-SAMPLED:]
        self._samples = {path: _sample(path, seen[path].size) for path in newest}
        self._must_stay: set[str] = set()
        self.lost: dict[str, str] = {}
        """What each file has lost that has lost anything."""

    def keep(self, path: str, seen: Seen) -> None:
        """From now on expect this file, too, to keep its content, and to stay."""
        if path not in self._seen:
            self._seen[path] = seen
            self._must_stay.add(path)

    def update(self, found: Mapping[str, Seen]) -> None:
        """Process the properties of all files now."""
        for path, before in tuple(self._seen.items()):
            if lost := self._loss(path, before, found.get(path)):
                self.lost[path] = lost
                del self._seen[path]

    def _loss(self, path: str, before: Seen, now: Seen | None) -> str | None:
        if now is None:
            gone = "is gone, though it was finished; look for what has moved or removed it"
            return gone if path in self._must_stay else None
        if now.identity != before.identity:
            return f"was replaced: another file of {now.size:,} B has its name"
        if now.size < before.size:
            return f"had {before.size:,} B before, and now has {now.size:,} B"
        if now.changed != before.changed and (taken := self._samples.get(path)):
            read = _sample(path, before.size)
            if read and all(map(operator.ne, taken, read)):
                return "was recorded over: what it held before is not in it any more"
        return None


class Whole:
    """Finds out which files lose content while they are recorded. Pure: properties and the time are arguments.

    A file that was given another name, which matches too, has lost nothing. Neither has an empty one. A recorder that
    goes on in segments may cut one that it finishes, so that only one that grows again was cut while it was recorded.
    """

    def __init__(self, segments: bool):
        self._segments = segments
        self._seen: dict[str, tuple[Seen, str]] = {}
        """Each file as it was last whole, and when that was seen."""
        self._cut: dict[str, int] = {}
        """Sizes of segments that are finished, or were cut."""

    def update(self, seen: Mapping[str, Seen], clock: str) -> dict[str, str]:
        """Process the properties of all files now; return, once for each loss, what files have lost."""
        there = {found.identity for found in seen.values()}
        lost = {}
        for path, found in seen.items():
            before, then = self._seen.get(path, (found, clock))
            size = self._cut.get(path, found.size)
            what = None
            if found.identity != before.identity:
                if before.size and before.identity not in there:
                    what = ("replaced", f"another file of {found.size:,} B has its name")
            elif size < before.size and found.size <= size and self._segments:
                self._cut[path] = found.size
                continue
            elif size < before.size:
                what = ("cut", f"then it had only {size:,} B")
            if what:
                lost[path] = f"was {what[0]} while it was recorded: at {then} it had {before.size:,} B, {what[1]}"
            self._cut.pop(path, None)
            self._seen[path] = found, clock
        return lost


def _sample(path: str, size: int) -> list[bytes]:
    """Return samples of the first `size` bytes of a file; none if it is empty or cannot be read."""
    try:
        with open(path, "rb") as file:
            found = []
            for place in SAMPLED_AT:
                file.seek(int(size * place))
                found.append(file.read(min(SAMPLE, size - file.tell())))
            return found if size else []
    except OSError:
        return []
