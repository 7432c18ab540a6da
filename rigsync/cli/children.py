"""Programs that `rigsync demo` starts and ends."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import FrameType
from typing import NoReturn

from rigsync.errors import RigsyncError
from rigsync.runtime.signals import ending_signals, signals_handled, signals_held_back

START_TIMEOUT = 30.0
"""Seconds for a program to begin: a virus scanner on a slow disk delays its imports."""
GRACE = 2.0
"""Seconds for a program to end when asked to. After that it is killed."""
LONGEST_WAIT = 0.25
"""Longest single wait in seconds: Windows lets Ctrl-C through only after it."""


class Child:
    """A Python program in a process of its own. It first prints a JSON object with its address, then anything.

    Its stdin is a pipe. When the pipe ends, the program ends by itself, even if this program was killed.
    """

    def __init__(self, name: str, *arguments: str):
        self.name = name
        self._first_line: SimpleQueue[str] = SimpleQueue()
        self.process = subprocess.Popen(  # noqa: S603 - this package's own programs
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
            errors="replace",
            # Python looks for modules here first: for this rigsync, not for what is in the user's folder.
            cwd=Path(__file__).parents[2],
            # Ctrl-C on the terminal is only for the demo, which then ends its children.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._reader = Thread(target=self._read, name=f"rigsync {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self.process.stdout:
            self._first_line.put(self.process.stdout.readline())
            for _ in self.process.stdout:  # a full pipe would stop the child
                pass

    def address(self) -> tuple[str, int]:
        """Wait until the program listens, and return host and port."""
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end:
            with contextlib.suppress(Empty):
                line = self._first_line.get(timeout=LONGEST_WAIT)
                if not line:
                    raise RigsyncError(f"{self.name} has ended at once, with exit status {self.process.wait()}")
                host, _, port = str(json.loads(line)["listening"]).removeprefix("udp://").rpartition(":")
                return host, int(port)
        raise RigsyncError(f"{self.name} has not begun to listen within {START_TIMEOUT:g} s")

    def end(self, timeout: float) -> None:
        """Wait for the program to end; kill it after so many seconds."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(GRACE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


class Children:
    """Starts children, and ends all of them when the context is left."""

    def __init__(self) -> None:
        self._started: list[Child] = []

    def start(self, name: str, *arguments: str) -> Child:
        with signals_held_back():  # a signal before the note would leave the child running
            child = Child(name, *arguments)
            self._started.append(child)
        return child

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        with signals_held_back():
            for child in self._started:
                child.process.terminate()
            deadline = time.monotonic() + GRACE
            for child in self._started:
                child.end(max(0.0, deadline - time.monotonic()))


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a signal that ends a program leave this context first, as Ctrl-C does."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)  # by convention

    with signals_handled(leave, *ending_signals()):
        yield


@contextlib.contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Collect Ctrl-C and the signals that end a program until the context is left; a second one ends it.

    For work that must not be interrupted, such as drawing on the terminal.
    """
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:  # the program has not reacted to the first
            sys.exit(128 + number)

    with signals_handled(note, signal.SIGINT, *ending_signals()):
        yield came
