"""The program in which liblsl runs, as its starter sees it. Most of these calls block."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rigsync.bridges.lsl.program import Options

PROGRAM = Path(__file__).with_name("program.py")
CHUNK = 1 << 16


class Child:
    """`rigsync.bridges.lsl.program` in a process of its own; raises an OSError if that does not start.

    The process ends when its input ends, so it also ends if this program is killed.
    """

    def __init__(self, options: Options):
        self._process = subprocess.Popen(  # noqa: S603 - this package's own program
            [sys.executable, PROGRAM, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # no lock of Python's is held while a thread waits
            start_new_session=True,  # Ctrl-C on the terminal is for this program alone
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert self._process.stdin  # noqa: S101 - for mypy, as is the next
        assert self._process.stdout  # noqa: S101
        self._input, self._output = self._process.stdin, self._process.stdout
        self._rest = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self) -> list[list[Any]]:
        """Wait for lines of the process, and return them; return an empty list when the process has ended."""
        parts = [self._rest]
        while not self._output.closed and (data := self._output.read(CHUNK)):
            parts.append(data)
            if b"\n" in data:
                *lines, self._rest = b"".join(parts).split(b"\n")
                return [json.loads(line) for line in lines]
        self._output.close()
        return []

    def send(self, text: str, stamp: float) -> None:
        """Hand a marker over; raise an OSError if the process has ended."""
        left = memoryview(json.dumps([text, stamp]).encode() + b"\n")
        while left:
            left = left[self._input.write(left) :]

    def close(self) -> None:
        """End the input: the process then sends what it has, and ends."""
        with contextlib.suppress(OSError):
            self._input.close()

    def kill(self) -> None:
        """Kill the process at once; this does not block."""
        self._process.kill()

    def wait(self) -> str:
        """Wait until the process has ended, and return how it has ended."""
        status = self._process.wait()
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name
