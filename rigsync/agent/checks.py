"""Checks that a rig records: programs, disks and folders before a session, growing files while it runs."""

from __future__ import annotations

import contextlib
import glob
import operator
import os
import secrets
import shutil
import stat
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from rigsync._text import one_line, size_text

SHORT = 120.0
"""Seconds for which a disk has to last at its rate. Less is a failure, at which tasks end their experiment. So it comes
while there is time to end well, but not when the session may well end before the disk is full."""
RATE_OVER, RATE_FROM = 30.0, 4.0
"""Seconds over which the rate is measured, and before it is first known: recorders write in bursts."""
FULL = 65_536
"""Free bytes below which a disk is full. Some systems keep a remainder that nobody can use."""

# -------------------------------------------------------------------------------------------------- before a session


def missing_programs(names: Iterable[str]) -> list[str]:
    """Return the programs that are missing: in no folder of PATH or, given by a path, not executable there.

    Parameters
    ----------
    names : iterable of str
        Names or paths of programs.
    """
    return [name for name in dict.fromkeys(names) if shutil.which(name) is None]


def free_bytes_problem(path: str, at_least: int) -> str | None:
    """Return why a disk cannot take a session; None if it can.

    Parameters
    ----------
    path : str
        A folder on it. If it does not exist yet, the nearest existing folder above counts.
    at_least : int
        Bytes that have to be free.
    """
    try:
        free = free_bytes(path)
    except OSError as error:
        return f"the free space at {_shown(path)} cannot be found out: {_reason(error)}; is its drive connected?"
    if free >= at_least:
        return None
    return (
        f"only {size_text(free)} are free at {_shown(path)}, and {size_text(at_least)} are required; "
        "move data away, or record elsewhere"
    )


def free_bytes(path: str) -> int:
    """Return the free bytes on the disk of a path, which need not exist yet.

    Raises
    ------
    OSError
        The system does not tell.
    """
    there = os.path.abspath(path)
    while not os.path.exists(there) and os.path.dirname(there) != there:
        there = os.path.dirname(there)
    return shutil.disk_usage(there).free


def files_problem(path: str) -> str | None:
    """Return why a folder cannot be written to or a file cannot be read; None if it can.

    It tries. Permissions alone say nothing of a full, read-only or vanished network drive, and nothing to an
    administrator.

    Parameters
    ----------
    path : str
        A folder, or a file.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return f"{_shown(path)} does not exist; create it, connect its drive, or correct the path"
    except (OSError, ValueError) as error:
        return f"{_shown(path)} cannot be reached: {_reason(error)}; correct the path, or its permissions"
    try:
        if stat.S_ISDIR(mode):
            _try_to_write(path)
        elif stat.S_ISREG(mode):
            with open(path, "rb") as file:
                file.read(1)
        elif not os.access(path, os.R_OK):  # opening a device may start something, opening a pipe may take for ever
            return f"{_shown(path)} may not be read; change its permissions"
    except OSError as error:
        what, done = ("folder", "written to") if stat.S_ISDIR(mode) else ("file", "read")
        return f"the {what} {_shown(path)} cannot be {done}: {_reason(error)}; look at its permissions and its disk"
    return None


def in_the_way(path: str) -> str | None:
    """Return what is already at a path that is to be recorded; None if nothing is."""
    try:
        found = os.lstat(path)
    except OSError:  # nothing is there, or nothing can be; then whoever writes there gets an error
        return None
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.st_mtime))
    return f"{_shown(path)} is there already ({found.st_size:,} B, of {when})"


def _try_to_write(folder: str) -> None:
    # Not by `tempfile`: on Windows it takes a refusal for a name in use, and tries thousands of others.
    path = os.path.join(folder, f".rigsync-{os.getpid()}-{secrets.token_hex(4)}.test")
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, b"rigsync tries whether it can write here\n")
    finally:
        os.close(descriptor)
        os.unlink(path)


# ------------------------------------------------------------------------------------------------ while it records


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
    """Return the properties of each file that matches a pattern as in `glob`; ``**`` stands for any folders.

    Parameters
    ----------
    pattern : str
        The pattern; parts to be taken literally are escaped (`glob.escape`).
    """
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

    Parameters
    ----------
    within : float
        Seconds after which a file that has not grown counts as stopped.
    pattern : str
        Named where there is no file.
    """

    def __init__(self, within: float, pattern: str):
        self.within, self.pattern = within, pattern
        self._sizes: dict[str, int] = {}
        self._grew: dict[str, float] = {}
        """When each was last seen to grow."""
        self._stopped: set[str] = set()
        self._empty_since: float | None = None
        """The start, until there is a file."""
        self._began = self._told_empty = False

    def update(self, sizes: Mapping[str, int], now: float) -> tuple[list[str], list[str]]:
        """Process the sizes of all files that match now.

        Parameters
        ----------
        sizes : mapping of str to int
            Bytes, by path.
        now : float
            Monotonic seconds. The first call is the start.

        Returns
        -------
        stopped, resumed : list of str
            Paths that have newly stopped, or go on again; each is returned once.
        """
        stopped, resumed = [], []
        if not self._began:
            self._began, self._empty_since = True, now
        if sizes:
            self._empty_since = None
            if self._told_empty:
                self._told_empty = False
                resumed.append(self.pattern)
        elif self._empty_since is not None and now - self._empty_since >= self.within and not self._told_empty:
            self._told_empty = True
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

    @property
    def is_empty(self) -> bool:
        """Whether it has reported that there is no file at all."""
        return self._told_empty


class Segments:
    """Watches a recording that goes on in new files: whether it grows, and which files are not finished. Pure.

    The newest file is the last one that is not empty. It has to grow; a new file counts as growth. Older ones are
    finished.

    Parameters
    ----------
    within : float
        Seconds within which the newest has to grow.
    settled : float
        Seconds that a file may take to be finished after another one has begun.
    pattern : str
        Named where nothing grows.
    """

    def __init__(self, within: float, settled: float, pattern: str):
        self._growth, self._settled, self.pattern = Growth(within, pattern), settled, pattern
        self._largest: dict[str, int] = {}
        """In the order in which they came."""
        self._since: dict[str, float] = {}
        """When the next one began."""
        self._finished: set[str] = set()
        self._unfinished: list[str] = []

    def update(self, seen: Mapping[str, Seen], now: float) -> tuple[list[str], list[str]]:
        """Process the properties of all files now; return the pattern if growth stops or goes on.

        Parameters
        ----------
        seen : mapping of str to Seen
            Properties by path.
        now : float
            Monotonic seconds. The first call is the start.

        Returns
        -------
        stopped, resumed : list of str
            As `Growth.update` has them.
        """
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
                if path not in self._unfinished:
                    self._unfinished.append(path)
            elif now - began >= self._settled:
                self._finished.add(path)
        # A new file is growth, though it is empty.
        total = {self.pattern: sum(self._largest.values()) + len(self._largest)} if self._largest else {}
        return self._growth.update(total, now)

    @property
    def newest(self) -> str | None:
        """The file that has to grow; None if all are empty."""
        return next((path for path, size in reversed(self._largest.items()) if size), None)

    @property
    def finished(self) -> frozenset[str]:
        """Files that have settled, and have to stay as they are."""
        return frozenset(self._finished)

    @property
    def unfinished(self) -> list[str]:
        """Files that grow although another one has begun: there is more than one recorder."""
        return self._unfinished.copy()

    @property
    def is_empty(self) -> bool:
        """Whether it has reported that there is no file at all."""
        return self._growth.is_empty


class Samples:
    """Samples of earlier files, which show that a file was recorded over even if it is larger again.

    Parameters
    ----------
    seen : mapping of str to Seen
        The files. If there are more than `SAMPLED`, only the newest are read. Blocks.
    """

    def __init__(self, seen: Mapping[str, Seen]):
        newest = sorted(seen, key=lambda path: seen[path].changed)[-SAMPLED:]
        self._taken = {path: (seen[path], _sample(path, seen[path].size)) for path in newest}

    def recorded_over(self, found: Mapping[str, Seen]) -> set[str]:
        """Return the files of which every sample has changed, once each; blocks.

        A recorder that appends changes no sample. One that keeps an index in its file changes some, not all.
        """
        over = set()
        for path, (before, content) in tuple(self._taken.items()):
            now = found.get(path)
            if now is None or now.changed == before.changed or now.size < before.size:
                continue
            if (read := _sample(path, before.size)) and all(map(operator.ne, content, read)):
                over.add(path)
                del self._taken[path]
        return over


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


class Kept:
    """Finds out which files lose content. Pure: their properties are an argument.

    Parameters
    ----------
    seen : mapping of str to Seen
        Their earlier properties. They may grow, and they may be moved away.
    """

    def __init__(self, seen: Mapping[str, Seen]):
        self._seen = dict(seen)
        self._must_stay: set[str] = set()

    def keep(self, path: str, seen: Seen) -> None:
        """From now on expect this file, too, to keep its content, and to stay."""
        if path not in self._seen:
            self._seen[path] = seen
            self._must_stay.add(path)

    def update(self, seen: Mapping[str, Seen]) -> dict[str, str]:
        """Process the properties of all files now; return, once each, what files have lost."""
        lost = {}
        for path, before in self._seen.items():
            found = seen.get(path)
            if found is None:
                if path in self._must_stay:
                    lost[path] = "is gone, though it was finished; look for what has moved or removed it"
            elif found.identity != before.identity:
                lost[path] = f"was replaced: another file of {found.size:,} B has its name"
            elif found.size < before.size:
                lost[path] = f"had {before.size:,} B before, and now has {found.size:,} B"
        for path in lost:
            del self._seen[path]
        return lost


class Whole:
    """Finds out which files lose content while they are recorded. Pure: properties and the time are arguments.

    A file that was given another name, which matches too, has lost nothing. Neither has an empty one.

    Parameters
    ----------
    segments : bool
        Whether the recorder goes on in new files. It may cut one that it finishes, so that only one that grows again
        was cut while it was recorded.
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


class FreeSpace:
    """Finds out when a disk is about to be full. Pure: free bytes and times are arguments.

    The rate is that of the last 30 s; there is none before 4 s.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()
        self._is_short = False

    def update(self, free: int, now: float) -> bool | None:
        """Process the free bytes now.

        Returns
        -------
        bool or None
            True if the disk has newly become short of space: it is full, or will be within 2 minutes at its rate. False
            if it has recovered, and would last for twice as long. None if nothing is new.
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
        """Whether hardly anything can be written any more."""
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
        """Return in words how much is free, how fast that becomes less, and how long it lasts."""
        text = f"{size_text(self._looks[-1][1] if self._looks else 0)} free"
        if self.rate and self.left is not None:
            rate = f"{size_text(self.rate)} less each second"
            text += f", after {rate}" if self.is_full else f", {rate}, which is enough for {self.left:.0f} s"
        return text


def _shown(path: str) -> str:
    return one_line(repr(path))


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
