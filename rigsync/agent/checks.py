"""What a lab means by "it records": programs, disks and folders before a session, growing files while it runs."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping

from rigsync.protocol.messages import one_line, size_text

# -------------------------------------------------------------------------------------------------- before a session


def missing_programs(names: Iterable[str]) -> list[str]:
    """Return those programs that are in no folder of PATH, or not executable where a path is given.

    Parameters
    ----------
    names : iterable of str
        Names or paths of programs.
    """
    return [name for name in dict.fromkeys(names) if shutil.which(name) is None]


def free_bytes_problem(path: str, at_least: int) -> str | None:
    """Return why a disk cannot take a session, None if it can.

    Parameters
    ----------
    path : str
        A folder on it. Where it does not exist yet, the nearest folder above that does.
    at_least : int
        Bytes that have to be free.
    """
    there = os.path.abspath(path)
    while not os.path.exists(there) and os.path.dirname(there) != there:
        there = os.path.dirname(there)
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return f"the free space at {_shown(path)} cannot be found out: {_reason(error)}; is its drive connected?"
    if free >= at_least:
        return None
    return (
        f"only {size_text(free)} are free at {_shown(path)}, and {size_text(at_least)} are required; "
        "move data away, or record elsewhere"
    )


def files_problem(path: str) -> str | None:
    """Return why a folder cannot be written to, or a file not be read; None if it can.

    This is tried, since permissions alone do not tell: of a full, a read-only or a vanished network drive, or to an
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
        elif not os.access(path, os.R_OK):  # to open a device may start something, to open a pipe may take for ever
            return f"{_shown(path)} may not be read; change its permissions"
    except OSError as error:
        what, done = ("folder", "written to") if stat.S_ISDIR(mode) else ("file", "read")
        return f"the {what} {_shown(path)} cannot be {done}: {_reason(error)}; look at its permissions and its disk"
    return None


def _try_to_write(folder: str) -> None:
    # Not by `tempfile`, which takes a refusal on Windows for a name that is in use, and tries thousands of others.
    path = os.path.join(folder, f".rigsync-{os.getpid()}-{secrets.token_hex(4)}.test")
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, b"rigsync tries whether it can write here\n")
    finally:
        os.close(descriptor)
        os.unlink(path)


# ------------------------------------------------------------------------------------------------ while it records


def matching_sizes(pattern: str) -> dict[str, int]:
    """Return the size in bytes of each file that matches a pattern as in `glob`; ``**`` stands for any folders.

    Parameters
    ----------
    pattern : str
        With those parts escaped (`glob.escape`) that are no pattern.
    """
    sizes: dict[str, int] = {}
    for path in glob.iglob(pattern, recursive=True):
        try:
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode):
                sizes[path] = found.st_size
                if sys.platform == "win32":
                    with contextlib.suppress(PermissionError), open(path, "rb") as file:
                        # What Windows tells by path lags behind while a file is being written.
                        sizes[path] = os.fstat(file.fileno()).st_size
        except OSError:  # gone since
            sizes.pop(path, None)
    return sizes


class Growth:
    """Tells when files stop growing, and when they go on. Pure: sizes and times come in as arguments.

    A file does not grow while its size is the same, while it is gone, and by becoming smaller. Where no file has
    matched the pattern at all, the pattern is told in place of a file.

    Parameters
    ----------
    within : float
        Seconds after which a file that has not grown is told as stopped.
    pattern : str
        What to name where there is no file.
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
        """Take the sizes of all files that match now.

        Parameters
        ----------
        sizes : mapping of str to int
            Bytes, by path.
        now : float
            Monotonic seconds. The first call is the start.

        Returns
        -------
        stopped, resumed : list of str
            The paths that are found to have stopped or to go on by this call; each is told once.
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
        """Whether it has been told that there is no file at all."""
        return self._told_empty


def _shown(path: str) -> str:
    return one_line(repr(path))


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
