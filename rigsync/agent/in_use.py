"""The paths that are being recorded on this computer: each by one recording at a time, in all programs.

Each path in use has a lock file in a folder that all programs of this computer share. The system holds the lock, so an
agent that is killed leaves nothing locked.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import hashlib
import json
import logging
import os
import re
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rigsync._text import one_line
from rigsync.agent.checks import in_the_way
from rigsync.agent.growth import matching_files
from rigsync.errors import RigsyncError

if sys.platform == "win32":
    import msvcrt

    _SAFELY = os.O_BINARY
else:
    import fcntl

    _SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK
    """Flags for opening a lock file. In a folder that all users share, a stranger may have put a link, or a pipe, whose
opening waits for ever."""

logger = logging.getLogger("rigsync.agent")

_LOCKED_BYTE = 1 << 30
"""The locked byte on Windows, far behind the text: nobody else can read locked bytes there."""
_MOST_TRIES = 100
"""Attempts to open a lock file, since others make and remove it meanwhile. After these it cannot be opened at all."""
_LONGEST_HOLDER = 32_768
"""Bytes of a lock's text: a path may have 4,096, each written as up to six."""
_NO_FILE = {errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EOPNOTSUPP}
"""Errors of systems that refuse to open a link, a socket or a folder as a file."""
_ESCAPED = re.compile(r"\[([*?[])\]")


class PathTaken(RigsyncError):
    """A file to be recorded is there already, or another recording writes it."""


def single_path(pattern: str) -> str | None:
    """Return the only path that a pattern as in `glob` stands for; None if it stands for several."""
    return None if re.search(r"[*?[]", _ESCAPED.sub("", pattern)) else _ESCAPED.sub(r"\1", pattern)


def split_pattern(pattern: str) -> tuple[str, str]:
    """Return the folder below which all files lie that match, and the rest of the pattern."""
    folder, rest = os.path.split(pattern)
    while (single := single_path(folder)) is None:
        folder, name = os.path.split(folder)
        rest = os.path.join(name, rest)
    return single, rest


def _canonical(path: str) -> str:
    return _of_this_system(os.path.realpath(path))


def _of_this_system(path: str) -> str:
    """Return a path as the system compares it: Windows and macOS ignore case."""
    path = os.path.normcase(path)
    return unicodedata.normalize("NFC", path).casefold() if sys.platform == "darwin" else path


@dataclass(frozen=True, slots=True)
class Output:
    """Something that will be recorded: a file, or those that match a pattern."""

    path: str
    """Its path, or the pattern."""
    keys: tuple[str, ...]
    """What identifies it, whatever links or relative names lead to it."""
    existing: str | None
    """What is already there, as the beginning of a sentence."""
    files: tuple[str, ...] = ()
    """Files that match the pattern already."""

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
        folder, rest = split_pattern(pattern)
        whole = os.path.join(glob.escape(_canonical(folder)), _of_this_system(rest))
        return cls(pattern, (f"pattern {whole}",), None, tuple(matching_files(pattern)))


def keys_of_outputs(outputs: Iterable[Output]) -> dict[str, str]:
    return {key: output.path for output in outputs for key in output.keys}


class InUse:
    """The paths to which one rig records, locked meanwhile.

    The name of the rig is for errors of other rigs. The locks are in one folder for all users of this computer.
    """

    def __init__(self, rig: str, folder: Path | None = None):
        self._rig, self._folder = rig, folder or _shared_folder()
        self._locks: dict[str, int | None] = {}
        """The open lock file by key; None if this computer gives no lock."""

    @contextlib.contextmanager
    def taking(self, wanted: Mapping[str, str]) -> Iterator[None]:
        """Lock further paths, each given by its key; unlock these if the body of the ``with`` fails.

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
            # After the own locks, so that of two that come at once at least one sees the other.
            for problem in self._overlaps({key: wanted[key] for key in new if self._locks[key] is not None}).values():
                raise PathTaken(problem)
            yield
        except BaseException:
            self._unlock(new)
            raise

    def shared(self, files: Iterable[str]) -> dict[str, str]:
        """Return which files of this recording another one has too, each with the problem; blocks."""
        return self._overlaps({f"path {_canonical(path)}": path for path in files})

    def keep_only(self, keys: Iterable[str] = ()) -> None:
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
            logger.warning("%s: another rig can record to %s too, since no lock can be had: %s", self._rig, path, error)
            return None
        if descriptor is None:
            raise PathTaken(f"{path!r} is in use by {_told(_holder_in(file))}; {_REMEDY}")
        with contextlib.suppress(OSError):
            _write(descriptor, json.dumps({"rig": self._rig, "pid": os.getpid(), "key": key}).encode())
        return descriptor

    def _overlaps(self, new: Mapping[str, str]) -> dict[str, str]:
        """Return which paths a pattern in use matches, and which patterns match a path in use."""
        found: dict[str, str] = {}
        if not any(key.startswith(("path ", "pattern ")) for key in new):
            return found
        ours = set(map(self._file_of, tuple(self._locks)))
        for file in set(self._folder.glob("rigsync-*.in-use")) - ours:
            holder = _holder_in(file)
            if not holder or self._file_of(holder.key) != file:
                continue
            overlaps = {path: how for key, path in new.items() if (how := _overlap(key, holder.key))}
            if overlaps and _is_locked(file):
                other = one_line(repr(holder.key.partition(" ")[2]))
                for path, how in overlaps.items():
                    found[path] = f"{path!r} {how} {other}, which is in use by {_told(holder)}; {_REMEDY}"
        return found


_REMEDY = "end that recording, or give each rig files of its own"


def take_queue(lock: InUse, folder: Path) -> None:
    """Lock a folder of jobs, so that one program does them; raise `PathTaken` where another one has it. Blocks."""
    with lock.taking({f"queue {_canonical(str(folder))}": str(folder)}):
        pass


class _Holder(NamedTuple):
    rig: str
    pid: int
    key: str


def _holder_in(file: Path) -> _Holder | None:
    """Return what a lock file says; None if it is just being written, or is no such text."""
    try:
        descriptor = os.open(file, os.O_RDONLY | _SAFELY)
    except OSError:
        return None
    try:
        return _parsed(os.read(descriptor, _LONGEST_HOLDER)) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _parsed(text: bytes) -> _Holder | None:
    try:
        found: Any = json.loads(text)
        holder = _Holder(found["rig"], found["pid"], found["key"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    is_ours = isinstance(holder.rig, str) and isinstance(holder.key, str) and type(holder.pid) is int
    return holder if is_ours and 0 < holder.pid < 1 << 32 else None


def _told(holder: _Holder | None) -> str:
    if not holder or not _may_live(holder.pid):  # an earlier holder has left the text, in a file of another user
        return "another recording"
    return f"the rig {one_line(holder.rig)} (process {holder.pid})"


def _may_live(pid: int) -> bool:
    if sys.platform != "win32":
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:  # another user's
            return True
    return True


def _write(descriptor: int, text: bytes) -> None:
    """Write who has the lock, unless the file may be something else: another user's, or with another text."""
    if sys.platform != "win32" and os.fstat(descriptor).st_uid != os.geteuid():
        return
    before = os.read(descriptor, _LONGEST_HOLDER)
    if not before or _parsed(before):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text)


def _overlap(one: str, other: str) -> str | None:
    """Return how a path and a pattern overlap; None if they do not."""
    (kind, _, name), (kind_of_other, _, other_name) = one.partition(" "), other.partition(" ")
    if (kind, kind_of_other) == ("path", "pattern"):
        return "is matched by" if _matches(name.split(os.sep), other_name.split(os.sep)) else None
    if (kind, kind_of_other) == ("pattern", "path"):
        return "matches" if _matches(other_name.split(os.sep), name.split(os.sep)) else None
    return None


def _matches(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the parts of a pattern match those of a path, as in `glob`."""
    if not names or not wanted:
        return not names and not wanted
    if wanted[0] == "**":
        if len(wanted) > 1 and _matches(names, wanted[1:]):
            return True
        return not names[0].startswith(".") and (len(names) == len(wanted) == 1 or _matches(names[1:], wanted))
    if names[0].startswith(".") and not wanted[0].startswith("."):
        return False
    try:
        return fnmatch.fnmatchcase(names[0], wanted[0]) and _matches(names[1:], wanted[1:])
    except re.error:
        return False


def _is_locked(file: Path) -> bool:
    try:
        descriptor = os.open(file, (os.O_RDWR if sys.platform == "win32" else os.O_RDONLY) | _SAFELY)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and not _lock_at_once(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _shared_folder() -> Path:
    """Return a folder that all users of this computer share; temporary folders may be each user's own."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA") or tempfile.gettempdir())
    return Path("/tmp")  # noqa: S108 - no link is followed, and what is read there decides nothing


def _locked(file: Path) -> int | None:
    """Return the locked file, open; None if somebody else has locked it. `PathTaken` if it is something else."""
    for _ in range(_MOST_TRIES):
        descriptor = _opened(file)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # a hard link is somebody's file
                raise _in_its_place(file)
            if not _lock_at_once(descriptor):
                os.close(descriptor)
                return None
            if _is_still(descriptor, file):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was released meanwhile, and is another file now, or gone
    raise _in_its_place(file)


def _in_its_place(file: Path) -> PathTaken:
    return PathTaken(
        f"{str(file)!r}, by which rigs of this computer take turns, is no such file of rigsync, or may not be opened; "
        "look whose it is, and delete it"
    )


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
        return os.path.samestat(os.fstat(descriptor), os.lstat(file))
    return False


def _opened(file: Path) -> int:
    if sys.platform == "win32":
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(file).st_mode):
                raise _in_its_place(file)
        return os.open(file, os.O_RDWR | os.O_CREAT | _SAFELY)
    for _ in range(_MOST_TRIES):
        # In a shared folder, O_CREAT is refused if the file is another user's (fs.protected_regular).
        for flags in (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_EXCL):
            try:
                descriptor = os.open(file, flags | _SAFELY, 0o666)
            except (FileNotFoundError, FileExistsError, PermissionError):
                continue
            except OSError as error:
                if error.errno in _NO_FILE:
                    raise _in_its_place(file) from error
                raise
            if flags & os.O_CREAT:
                os.fchmod(descriptor, 0o666)  # other users have to be able to lock it, whatever the umask
            return descriptor
    if os.path.lexists(file):
        raise _in_its_place(file)
    raise PermissionError(f"{file} can be neither opened nor made")


def _let_go(descriptor: int, file: Path) -> None:
    if sys.platform == "win32":
        os.close(descriptor)  # first, since nobody can remove an open file
    with contextlib.suppress(OSError):  # another user's, or open elsewhere on Windows
        os.unlink(file)
    if sys.platform != "win32":
        os.close(descriptor)  # last: whoever locks it then finds that it is gone
