"""The log files of sessions: the output of the agent's commands, with the time of each line."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import IO

# The parent of this logger gets its last resort there.
import rigsync.runtime  # noqa: F401
from rigsync.agent.file import AgentFile
from rigsync.agent.template import OF_THE_SESSION, SubstitutionError, Template
from rigsync.agent.values import Values
from rigsync.runtime.disk_writer import DiskWriter, WaitingRoom

_logger = logging.getLogger("rigsync.agent")

_NEWEST = 2
"""Files of a session that are kept beside its first one. The older of the two is whole."""

MOST_WAITING = 4 << 20
"""Most bytes of lines that wait for the disk. Lines beyond that are lost, and counted."""
CLOSE_LIMIT = 2.0
"""Seconds for the disk to take the last lines."""

REHEARSAL = "rehearsal"
"""Name of the log that all rehearsals share: none counts as a session."""
_OURS = re.compile(r"(?P<name>.+)\.rigsync(\.(?P<number>[1-9]\d{0,8}))?\.log", re.DOTALL)
"""A file with such a name is one of these, and may be deleted."""


def log_of(file: AgentFile, values: Values) -> SessionLog:
    """Return the log of the experiment that EXPINIT begins."""
    name = REHEARSAL if values.rehearsal else time.strftime("%Y-%m-%d_%H-%M-%S")
    if not values.rehearsal:
        with contextlib.suppress(SubstitutionError):  # this reference is no file name, and none is needed
            name = Template.parse("{exp_ref}", OF_THE_SESSION).fill(values)
    return SessionLog(file.logs_folder, name, file.logs.keep, file.logs.max_size)


class SessionLog:
    """The log of one session: ``NAME.rigsync.log``, and ``NAME.rigsync.1.log`` and so on as it grows.

    The first file stays: how a recording began says most about why it went wrong. Of the later files the newest two
    stay, and of sessions those `keep` that were written to last. File and folder are made with the first line. A fault
    is told once, through `logging`, and never disturbs the caller: an experiment goes on without its log. Works from
    any thread.

    A thread of its own writes the lines in their order, since a disk may be slow, and a network drive may hang for
    good. Callers wait for neither.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str, keep: int, max_size: int):
        self._folder, self._name, self._keep, self._max_size = Path(folder), name, keep, max_size
        self._putting = threading.Lock()
        self._waiting: WaitingRoom[bytes] = WaitingRoom(sys.maxsize, MOST_WAITING)
        self._thread = DiskWriter("rigsync-session-log", self._work, self._tell_slow)
        self._is_told_slow = self._is_closed = False
        # For the thread alone:
        self._file: IO[bytes] | None = None
        self._size = 0
        self._number = 0
        self._missing = 0
        self._is_torn = False
        """Whether a full disk has cut the last line."""
        self._has_failed = False

    @property
    def path(self) -> Path:
        number = f".{self._number}" if self._number else ""
        return self._folder / f"{self._name}.rigsync{number}.log"

    def write(self, line: str) -> None:
        """Add a line, with the local time before it. Returns at once, without an error, whatever the disk does.

        Line ends in it are escaped, so that nobody can forge further lines.
        """
        with self._putting:
            if self._is_closed:
                return
            data = _stamped(line)
            if not self._thread.start():
                self._waiting.lost += 1
            elif self._waiting.put(data, len(data)) and not self._thread.is_knocked:
                self._thread.knock()
        self._thread.look()

    def end(self) -> None:
        """Ignore later lines; those before are written while nobody waits."""
        with self._putting:
            self._is_closed = True
        self._thread.end()

    def close(self) -> None:
        """Wait until all is written, 2 s at most; ignore later lines. May be called again."""
        self.end()
        if not self._thread.join(CLOSE_LIMIT):
            self._tell_slow()

    def _tell_slow(self) -> None:
        with self._putting:
            is_told, self._is_told_slow = self._is_told_slow, True
        if not is_told:
            text = "the log %s cannot be written: its drive does not answer; lines may be lost, the experiment goes on"
            _logger.error(text, self.path)

    # ----------------------------------------------------------------------------------------- on the log's thread

    def _work(self, is_last: bool) -> None:
        lost = self._waiting.take_lost()  # while there was no room: after all that waits
        if lines := deque(self._waiting.take(sys.maxsize)):
            self._put(lines)
        self._missing += lost
        if is_last:
            if self._missing:
                self._put(lines)
            self._shut()

    def _put(self, lines: deque[bytes]) -> None:
        try:
            if self._file and not self.path.exists():  # it was moved or deleted, perhaps with its whole folder
                self._shut()
            if self._missing:
                self._add(_stamped(f"[rigsync] lines that are missing before this one: {self._missing:,}"))
                self._missing = 0
            while lines:
                self._add(lines[0])
                lines.popleft()
        except OSError as error:
            self._missing += len(lines)
            self._shut()
            if not self._has_failed:
                self._has_failed = True
                text = "the log %s cannot be written: %s; lines are lost until it can be, the experiment goes on"
                _logger.log(logging.ERROR, text, self.path, error.strerror or error)

    def _add(self, data: bytes) -> None:
        file = self._file or self._open()
        if self._size and self._size + len(data) > self._max_size:
            self._shut()
            self._number += 1
            file = self._open()
        if self._is_torn and self._size:
            data = b"\n" + data
        written = file.write(data)
        self._size += written
        if written:
            self._is_torn = written < len(data)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as the next attempt would

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
        """Delete surplus files of this session, and surplus sessions."""
        outdated = [
            path for number, path in self._logs().get(self._name, {}).items() if 0 < number <= self._number - _NEWEST
        ]
        recent = sorted(others.values(), key=lambda paths: max(map(_last_write, paths.values())), reverse=True)
        for paths in recent[max(0, self._keep - 1) :]:
            outdated += paths.values()
        for path in outdated:
            with contextlib.suppress(OSError):  # it is open elsewhere, or gone
                path.unlink()


def _stamped(line: str) -> bytes:
    stamp = datetime.now().astimezone().isoformat(" ", "milliseconds")
    text = line.replace("\r", "\\r").replace("\n", "\\n")
    return f"{stamp}  {text}\n".encode("utf-8", "backslashreplace")


def _last_write(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
