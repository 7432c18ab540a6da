"""rigsync's log on stderr: plain lines for warnings, more with --verbose."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from queue import Full, Queue
from threading import Thread
from typing import TextIO

import click

from rigsync._text import printable, printable_lines
from rigsync.runtime.last_resort import LAST_RESORT

_TOLD_ANYWAY = frozenset({"rigsync.push", "rigsync.link"})
"""Loggers of pushes and links. Commands print their outcome themselves."""
_WAITS = "rigsync.wait"
"""Logger of what is waited for, which people at a terminal are told."""
NOTICES = "rigsync.notice"
"""Logger of notices."""
_BACKLOG = 10_000
"""Most lines that wait for a reader of stderr, some megabytes. Further lines are lost."""
_FLUSH_TIMEOUT = 0.5
"""Seconds that the end of a program waits for a reader of stderr."""


def start_logging(printed: str | None = None) -> None:
    """Send rigsync's log to stderr, but for a logger whose lines the command prints."""
    _attach(_StderrHandler(), logging.WARNING, printed)


@contextlib.contextmanager
def background_logging(usual: int) -> Iterator[None]:
    """Send rigsync's log to stderr until the context is left, without ever waiting for its reader.

    For rigs: their event loop logs too. It would be deaf while a pipe is full that nobody reads. They run for days, so
    each line has its time of day.
    """
    stream = _own_stderr()
    if stream is None:
        yield
        return
    handler = _BackgroundHandler(stream)
    _attach(handler, usual, with_time=True)
    try:
        yield
    finally:
        logging.getLogger("rigsync").removeHandler(handler)
        handler.finish(_FLUSH_TIMEOUT)


@contextlib.contextmanager
def held_back_logging() -> Iterator[None]:
    """Hold back rigsync's log while something else has the terminal; send it to stderr when the context is left."""
    handler = _HoldingHandler()
    _attach(handler, logging.WARNING, NOTICES)
    try:
        yield
    finally:
        logging.getLogger("rigsync").removeHandler(handler)
        for line in handler.lines:
            with contextlib.suppress(OSError):
                click.echo(line, err=True)


def _attach(handler: logging.Handler, usual: int, printed: str | None = None, with_time: bool = False) -> None:
    verbosity: int = click.get_current_context().obj or 0
    if verbosity:
        handler.setFormatter(_FullFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    else:
        handler.setFormatter(_PlainFormatter(with_time))
        handler.addFilter(lambda record: record.name not in _TOLD_ANYWAY | {printed})
    logger = logging.getLogger("rigsync")
    logger.removeHandler(LAST_RESORT)  # commands print warnings themselves
    logger.addHandler(handler)
    logger.setLevel((usual, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    logging.getLogger(_WAITS).setLevel(logging.NOTSET if verbosity else logging.INFO)


def _own_stderr() -> TextIO | None:
    """Return a separate stream on stderr; None if stderr is closed.

    A thread that hangs in a write holds the lock of its stream. Python aborts at exit if it cannot get the locks of
    `sys.stdout` and `sys.stderr`.
    """
    if sys.stderr is None:
        return None
    descriptor = os.dup(sys.stderr.fileno())
    return open(descriptor, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")


class _StderrHandler(logging.Handler):
    """Looks `sys.stderr` up for each line, since a live view on the terminal replaces it for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # nobody reads stderr, and there is nowhere else to say so
            click.echo(self.format(record), err=True)


class _HoldingHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=_BACKLOG)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class _BackgroundHandler(logging.Handler):
    """Writes on a thread of its own, and closes the stream at last. Lines are lost while too many wait."""

    def __init__(self, stream: TextIO):
        super().__init__()
        self._lines: Queue[str | None] = Queue(_BACKLOG)
        self._thread = Thread(target=self._write, args=(stream,), name="rigsync log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Full):
            self._lines.put_nowait(self.format(record) + "\n")

    def finish(self, timeout: float) -> None:
        """Wait until everything is written, but only for some seconds."""
        end = time.monotonic() + timeout
        with contextlib.suppress(Full):
            self._lines.put(None, timeout=timeout)
            self._thread.join(max(0.0, end - time.monotonic()))

    def _write(self, stream: TextIO) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError):  # nobody reads stderr, and there is nowhere else to say so
                stream.write(line)
        with contextlib.suppress(OSError):
            stream.close()


class _FullFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


class _PlainFormatter(logging.Formatter):
    """Formats a record as one line, without its traceback, and with the local time of day if that is asked for."""

    def __init__(self, with_time: bool = False):
        super().__init__(datefmt="%H:%M:%S")
        self._with_time = with_time

    def format(self, record: logging.LogRecord) -> str:
        begin = f"{self.formatTime(record, self.datefmt)} " if self._with_time else ""
        mark = f"{record.levelname.capitalize()}: " if record.levelno >= logging.WARNING else ""
        return printable(begin + mark + record.getMessage())
