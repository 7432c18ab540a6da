"""The log files of sessions: what the agent's commands write, with the time of each line."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from datetime import datetime
from pathlib import Path
from typing import IO

# The parent of this logger gets its NullHandler there.
import rigsync.errors  # noqa: F401

_logger = logging.getLogger("rigsync.agent")

_NEWEST = 2
"""Files that stay of a session beside its first one. The older of the two is whole."""

_OURS = re.compile(r"(?P<name>.+)\.rigsync(\.(?P<number>[1-9]\d{0,8}))?\.log", re.DOTALL)
"""By this name a file is known to be one of these, and may be deleted."""


class SessionLog:
    """The log of one session: ``NAME.rigsync.log``, and ``NAME.rigsync.1.log`` and so on as it grows.

    The first file stays, since how a recording began tells most about why it went wrong; of the later ones the newest
    two stay. Made when the first line is written, and the folder with it. What goes wrong is told once, through
    `logging`, and never disturbs the caller: an experiment goes on without its log. Works from any thread.

    Parameters
    ----------
    folder : path
        Where the log files are; one for each agent.
    name : str
        The name of the session, which has to be fit for a file name. The log of an earlier session of this name is
        continued.
    keep : int
        For how many sessions logs are kept, this one included; those that have been written to last.
    max_size : int
        Bytes of one file at most, if no single line is longer.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str, keep: int, max_size: int):
        self._folder, self._name, self._keep, self._max_size = Path(folder), name, keep, max_size
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._size = 0
        self._number = 0
        self._has_failed = False
        self._is_closed = False

    @property
    def path(self) -> Path:
        """The file that is written to now, or will be."""
        number = f".{self._number}" if self._number else ""
        return self._folder / f"{self._name}.rigsync{number}.log"

    def write(self, line: str) -> None:
        """Add a line, with the local time before it. Returns without an error, whatever happens to the file.

        Parameters
        ----------
        line : str
            Without its end; what ends a line within it is escaped, so that nobody can make up further ones.
        """
        stamp = datetime.now().astimezone().isoformat(" ", "milliseconds")
        text = line.replace("\r", "\\r").replace("\n", "\\n")
        data = f"{stamp}  {text}\n".encode("utf-8", "backslashreplace")
        with self._lock:
            if self._is_closed:
                return
            try:
                self._add(data)
            except OSError as error:
                self._shut()
                if not self._has_failed:
                    self._has_failed = True
                    text = "the log %s cannot be written: %s; lines are lost until it can be, the experiment goes on"
                    _logger.log(logging.ERROR, text, self.path, error.strerror or error)

    def close(self) -> None:
        """Close the file; what is written later is ignored. May be called again."""
        with self._lock:
            self._is_closed = True
            self._shut()

    def _add(self, data: bytes) -> None:
        if self._file and not self.path.exists():  # somebody has moved or deleted it, perhaps with its whole folder
            self._shut()
        file = self._file or self._open()
        if self._size and self._size + len(data) > self._max_size:
            self._shut()
            self._number += 1
            file = self._open()
        self._size += file.write(data)

    def _open(self) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        logs = self._logs()
        self._number = max([self._number, *logs.pop(self._name, {})])
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  # so that a full disk is noticed here
        self._size = self._file.tell()
        self._delete(logs)
        return self._file

    def _shut(self) -> None:
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None

    def _logs(self) -> dict[str, dict[int, Path]]:
        """Return the files of each session in the folder, by their numbers."""
        found: dict[str, dict[int, Path]] = {}
        for path in self._folder.iterdir():
            if (match := _OURS.fullmatch(path.name)) and path.is_file():
                found.setdefault(match["name"], {})[int(match["number"] or 0)] = path
        return found

    def _delete(self, others: dict[str, dict[int, Path]]) -> None:
        """Delete what is too much of this session, and of the others."""
        outdated = [
            path for number, path in self._logs().get(self._name, {}).items() if 0 < number <= self._number - _NEWEST
        ]
        recent = sorted(others.values(), key=lambda paths: max(map(_last_write, paths.values())), reverse=True)
        for paths in recent[max(0, self._keep - 1) :]:
            outdated += paths.values()
        for path in outdated:
            with contextlib.suppress(OSError):  # it is open elsewhere, or gone
                path.unlink()


def _last_write(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
