"""Which paths are recorded to on this computer: each by one recording at a time, in whatever program.

Each path in use is a file in a folder that all programs of this computer share, locked by the system, so that an
agent that is killed leaves nothing locked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rigsync.agent.checks import in_the_way
from rigsync.errors import RigsyncError
from rigsync.protocol.messages import one_line

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger("rigsync.agent")

_LOCKED_BYTE = 1 << 30
"""Which byte is locked on Windows, where nobody else can read what is locked: far behind the text."""
_MOST_TRIES = 100
"""Attempts to open a lock's file, which others make and remove meanwhile; after so many it cannot be opened at all."""
_LONGEST_HOLDER = 4096
_ESCAPED = re.compile(r"\[([*?[])\]")


class PathTaken(RigsyncError):
    """What is to be recorded is there already, or another recording writes it."""


def single_path(pattern: str) -> str | None:
    """Return the one path for which a pattern as in `glob` stands; None where it stands for several."""
    return None if re.search(r"[*?[]", _ESCAPED.sub("", pattern)) else _ESCAPED.sub(r"\1", pattern)


def _canonical(path: str) -> str:
    return _of_this_system(os.path.realpath(path))


def _of_this_system(path: str) -> str:
    """Return a path as the system compares it: Windows and macOS take capitals and small letters for one."""
    path = os.path.normcase(path)
    return unicodedata.normalize("NFC", path).casefold() if sys.platform == "darwin" else path


@dataclass(frozen=True, slots=True)
class Output:
    """What will be recorded: a file, or those that match a pattern."""

    path: str
    """Its path, or the pattern."""
    keys: tuple[str, ...]
    """By what it is known, whatever links or relative names lead to it."""
    existing: str | None
    """What is there already, as the beginning of a sentence."""

    @classmethod
    def at(cls, path: str) -> Output:
        """Look at a path; its drive may hang."""
        keys = [f"path {_canonical(path)}"]
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode) and found.st_ino:  # a file may have several names
                keys.append(f"file {found.st_dev} {found.st_ino}")
        return cls(path, tuple(keys), in_the_way(path))

    @classmethod
    def of(cls, pattern: str) -> Output:
        """Look at a pattern of several files; its drive may hang."""
        folder, rest = os.path.split(pattern)
        while single_path(folder) is None:
            folder, name = os.path.split(folder)
            rest = os.path.join(name, rest)
        return cls(pattern, (f"pattern {_canonical(single_path(folder) or '')} {_of_this_system(rest)}",), None)


def keys_of_outputs(outputs: Iterable[Output]) -> dict[str, str]:
    """Return the path of each by each of its keys."""
    return {key: output.path for output in outputs for key in output.keys}


class InUse:
    """What one rig records to, locked for as long as it does.

    Parameters
    ----------
    rig : str
        The name of the rig, which other ones are told.
    folder : Path, optional
        Where the locks are; by default one for all users of this computer.
    """

    def __init__(self, rig: str, folder: Path | None = None):
        self._rig, self._folder = rig, folder or _shared_folder()
        self._locks: dict[str, int | None] = {}
        """The open file of each lock by its key; None where this computer gives none."""

    @contextlib.contextmanager
    def taking(self, wanted: Mapping[str, str]) -> Iterator[None]:
        """Lock some more, and unlock these where what follows fails.

        Parameters
        ----------
        wanted : mapping of str to str
            The path to name in an error, by its key.

        Raises
        ------
        PathTaken
            Another recording has one of them; the text names it.
        """
        new: list[str] = []
        try:
            for key, path in wanted.items():
                if key not in self._locks:
                    self._locks[key] = self._lock(key, path)
                    new.append(key)
            yield
        except BaseException:
            self._unlock(new)
            raise

    def keep_only(self, keys: Iterable[str] = ()) -> None:
        """Unlock all others."""
        self._unlock(set(self._locks) - set(keys))

    def _unlock(self, keys: Iterable[str]) -> None:
        for key in keys:
            descriptor = self._locks.pop(key, None)
            if descriptor is not None:
                _let_go(descriptor, self._file_of(key))

    def _file_of(self, key: str) -> Path:
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self._folder / f"rigsync-{name}.in-use"

    def _lock(self, key: str, path: str) -> int | None:
        file = self._file_of(key)
        try:
            descriptor = _locked(file)
        except OSError as error:
            logger.warning("%s: nobody sees to it that one rig alone records to %s: %s", self._rig, path, error)
            return None
        if descriptor is None:
            raise PathTaken(
                f"{path!r} is in use by {_holder_in(file)}; end that recording, or give each rig files of its own"
            )
        with contextlib.suppress(OSError):  # another user's, which may be read only
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"rig": self._rig, "pid": os.getpid()}).encode())
        return descriptor


def _holder_in(file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            found: Any = json.loads(opened.read(_LONGEST_HOLDER))
        return f"the rig {one_line(str(found['rig']))} (process {int(found['pid'])})"
    except (OSError, ValueError, LookupError, TypeError):  # it is just being written, or somebody else's
        return "another recording"


def _shared_folder() -> Path:
    """Return a folder that all users of this computer have, unlike their own temporary ones."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA") or tempfile.gettempdir())
    return Path("/tmp")  # noqa: S108 - no link is followed, and what is read there decides nothing


def _locked(file: Path) -> int | None:
    """Return the locked file, open; None if it is locked by somebody else."""
    while True:
        descriptor = _opened(file)
        try:
            if not _lock_at_once(descriptor):
                os.close(descriptor)
                return None
            if _is_still(descriptor, file):
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was let go meanwhile, and is another file now, or none


def _lock_at_once(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter on Windows
        return False
    return True


def _is_still(descriptor: int, file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    return False


def _opened(file: Path) -> int:
    if sys.platform == "win32":
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_BINARY)
    for _ in range(_MOST_TRIES):
        # O_CREAT by itself is refused in a shared folder where the file is another user's (fs.protected_regular).
        for flags in (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_EXCL):
            with contextlib.suppress(FileNotFoundError, FileExistsError, PermissionError):
                descriptor = os.open(file, flags | os.O_NOFOLLOW, 0o666)
                if flags & os.O_CREAT:
                    os.fchmod(descriptor, 0o666)  # whatever the umask: other users have to be able to lock it
                return descriptor
    raise PermissionError(f"{file} can be neither opened nor made")


def _let_go(descriptor: int, file: Path) -> None:
    if sys.platform == "win32":
        os.close(descriptor)  # before: nobody can remove a file that is open
    with contextlib.suppress(OSError):  # another user's; or somebody has it open, on Windows
        os.unlink(file)
    if sys.platform != "win32":
        os.close(descriptor)  # after: whoever has locked it then finds that it is gone
