"""Checks before a session: programs, disks, files and folders."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable

from rigsync._text import one_line, size_text


def missing_programs(names: Iterable[str]) -> list[str]:
    """Return the programs that are in no folder of PATH or, given by a path, not executable there."""
    return [name for name in dict.fromkeys(names) if shutil.which(name) is None]


def free_bytes_problem(path: str, at_least: int) -> str | None:
    """Return why a disk cannot take a session; None if it can."""
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
    """Return the free bytes on the disk of a path, or of the nearest existing folder above it."""
    there = os.path.abspath(path)
    while not os.path.exists(there) and os.path.dirname(there) != there:
        there = os.path.dirname(there)
    return shutil.disk_usage(there).free


def files_problem(path: str) -> str | None:
    """Return why a folder cannot be written to or a file cannot be read; None if it can.

    It tries. Permissions alone say nothing of a full, read-only or vanished network drive, and nothing to an
    administrator.
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


def _shown(path: str) -> str:
    return one_line(repr(path))


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
