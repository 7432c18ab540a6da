"""Results on stdout: lines of text, or JSON."""

from __future__ import annotations

import errno
import json
import shutil
import sys
import textwrap
from math import ceil
from typing import Any, TextIO

import click

from rigsync._text import printable
from rigsync.core.clock import ClockEstimate


def on_terminal() -> bool:
    return is_terminal(sys.stdout)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal. A stream that was closed when the program began is None."""
    return stream is not None and stream.isatty()


def write_line(text: str = "") -> None:
    """Print a line on stdout at once, whatever characters it has; for errors see `write_lines`."""
    write_lines(printable(text))


def write_lines(text: str) -> None:
    """Print trusted text on stdout at once; without a stdout, do nothing.

    It raises a BrokenPipeError where nobody reads any more, and a ClickException where for instance the disk is full.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EINVAL):  # on Linux and macOS, and on Windows
            raise BrokenPipeError(errno.EPIPE, "nobody reads the output any more") from error
        raise click.ClickException(f"cannot write the output: {error.strerror}") from error


def write_json(document: Any, *, indent: int | None = 2) -> None:
    """Print a JSON document on stdout; without `indent` in one line.

    JSON has no NaN and no infinities (RFC 8259, section 6). They become the texts "NaN", "Infinity" and "-Infinity",
    which say more than null.
    """
    # The encoder writes them against the standard. The decoder hands them over by these names.
    standard = json.loads(json.dumps(document), parse_constant=str)
    write_lines(json.dumps(standard, indent=indent, allow_nan=False))


def compact(value: Any) -> str:
    """Return JSON in one line for people."""
    return json.dumps(value, ensure_ascii=False)


def end_interrupted_line() -> None:
    """End the line in which a terminal shows ^C."""
    if is_terminal(sys.stderr):
        click.echo(err=True)


def milliseconds(seconds: float | None) -> str:
    """Return a duration in milliseconds to three decimals, ``-`` for None."""
    return "-" if seconds is None else f"{1000 * seconds:.3f}"


def offset(clock: ClockEstimate) -> str:
    """Return the offset of a rig's clock with its bound: ``+1.2 ms ± 0.1``; in seconds from 1 s on."""
    unit, factor = ("ms", 1e3) if abs(clock.offset) < 1 else ("s", 1.0)
    # The bound is rounded up, and takes in the rounding of the offset. So the true offset lies within it.
    rounded = round(factor * clock.offset, 1) + 0.0  # makes -0.0 positive
    return f"{rounded:+.1f} {unit} ± {ceil(10 * factor * clock.bound + 0.5) / 10:.1f}"


def write_text(text: str, indent: str = "") -> None:
    """Print a sentence on stdout, indented; on a terminal its lines break between words."""
    text = indent + printable(text)
    if on_terminal():
        width = shutil.get_terminal_size().columns
        further = indent + "  "
        text = textwrap.fill(text, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
    write_lines(text)
