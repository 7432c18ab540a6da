"""rigsync's log on stderr: warnings as plain lines, more with --verbose."""

from __future__ import annotations

import contextlib
import logging

import click

from rigsync.cli.output import printable

_TOLD_ANYWAY = ("_complete", "_note_link")
"""The functions of `rigsync.service` that log what became of a push and of a link, which commands print themselves."""


def start_logging(usual: int = logging.WARNING) -> None:
    """Send rigsync's log to stderr.

    Parameters
    ----------
    usual : int
        The level without --verbose.
    """
    verbosity: int = click.get_current_context().obj or 0
    handler = _StderrHandler()
    if verbosity:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    else:
        handler.setFormatter(_PlainFormatter())
        handler.addFilter(lambda record: record.funcName not in _TOLD_ANYWAY)
    logger = logging.getLogger("rigsync")
    logger.addHandler(handler)
    logger.setLevel((usual, logging.INFO, logging.DEBUG)[min(verbosity, 2)])


class _StderrHandler(logging.Handler):
    """Looks `sys.stderr` up each time, since a live view on the terminal replaces it for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # nobody reads stderr, and there is nowhere else to say so
            click.echo(printable(self.format(record)), err=True)


class _PlainFormatter(logging.Formatter):
    """The text, without tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        mark = f"{record.levelname.capitalize()}: " if record.levelno >= logging.WARNING else ""
        return mark + record.getMessage()
