"""Starts the small programs that stand beside an agent, on Linux and macOS: its keepers and its watcher.

They clean up. So they must survive whoever ends rigsync by name (``pkill -f rigsync``) or a recorder (``pkill -f
ffmpeg``). Their command lines show neither the path of their source, which they get as an open file, nor what they are
to run. On Linux they also give themselves a name, ``rig-keeper`` and ``rig-watcher``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rigsync.agent import orphans

_logger = logging.getLogger("rigsync.agent")

Step = Literal["interrupt", "terminate", "kill"]
"""How a command is told to end."""

KEEPER, WATCHER = "rig-keeper", "rig-watcher"
"""Their names in the list of processes."""

_WATCHER = Path(orphans.__file__)
_WATCHER_LIMIT = 10.0
"""Seconds for the watcher to begin; some milliseconds are usual."""

_BEGIN = """
import sys
name = sys.argv.pop(1)
if sys.platform == "linux":
    try:
        import ctypes
        title = name.encode()
        ctypes.CDLL(None).prctl(15, title, 0, 0, 0)  # PR_SET_NAME
        with open("/proc/self/stat", "rb") as file:
            first, last = map(int, file.read().rpartition(b")")[2].split()[45:47])  # arg_start, arg_end
        if last - first > len(title):
            ctypes.memset(first, 0, last - first)
            ctypes.memmove(first, title, len(title))
    except Exception:
        pass  # it works under any name
with open(int(sys.argv.pop(1)), encoding="utf-8") as file:
    source = compile(file.read(), name, "exec")
exec(source)
"""


class RefusedStart(Exception):
    """The system has refused to start a command: its ``folder`` or ``program``, with this error number."""

    def __init__(self, what: str, number: int):
        super().__init__(what, number)
        self.what, self.number = what, number


def begin(
    source: Path,
    name: str,
    arguments: Sequence[object],
    *,
    environment: Mapping[str, str],
    mark: orphans.Mark | None = None,
    pass_fds: Sequence[int],
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start one of the programs from its source, for this Python without any package.

    It gets a name in the list of processes, its arguments, and descriptors (`pass_fds`). `environment` is added to that
    of this process; but it does not inherit this process's own mark. `options` are those of `subprocess.Popen`.
    """
    inherited = {key: value for key, value in os.environ.items() if key != orphans.MARK}
    # Not the path in a virtual environment, whose folder is often named after rigsync.
    python = os.path.realpath(sys.executable)
    with source.open("rb") as file:
        number = file.fileno()
        return subprocess.Popen(  # noqa: S603  # our own program
            [python, "-I", "-S", "-c", _BEGIN, name, str(number), *map(str, arguments)],
            env={**inherited, **environment, **({orphans.MARK: mark.text()} if mark else {})},
            pass_fds=[number, *pass_fds],
            **options,
        )


class Watcher:
    """The program that ends what this one has run if this one is killed together with its keepers. Linux only.

    It outlives this program until nothing of that is left.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._pipe: int | None = None
        if sys.platform == "linux":
            try:
                self._begin()
            except (OSError, subprocess.SubprocessError) as error:
                _logger.warning(
                    "what is run has no watcher, and is left if this program and its keepers are killed: %s", error
                )

    def _begin(self) -> None:
        read, self._pipe = os.pipe()
        try:
            program = begin(
                _WATCHER,
                WATCHER,
                [read, orphans.identity(self.pid)],
                environment={},
                pass_fds=[read],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(read)
        try:
            program.wait(_WATCHER_LIMIT)  # it leaves the watcher behind
        finally:
            program.kill()
            program.wait()
        if program.returncode:
            raise OSError(f"it ended with exit status {program.returncode}")

    @property
    def is_there(self) -> bool:
        """Whether it watches this program."""
        if sys.platform != "linux":
            return True
        if self._pipe is None:
            return False
        poll = select.poll()
        poll.register(self._pipe, 0)
        return self.pid == os.getpid() and not poll.poll(0)

    def release(self) -> None:
        """Let it end without looking."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # it was killed
                os.write(self._pipe, b".")
            self.close()

    def close(self) -> None:
        """Let go of it: it looks as soon as no process of this program holds it, not even a fork."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


_watcher: Watcher | None = None
_watching = threading.Lock()


def ensure_watcher() -> None:
    """Start a watcher for this program, if there is none."""
    global _watcher
    with _watching:
        if _watcher is None or not _watcher.is_there:
            if _watcher:
                _watcher.close()
            _watcher = Watcher()
