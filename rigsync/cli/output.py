"""Results on stdout: tables by rich on a terminal, plain aligned text in a pipe, or JSON."""

from __future__ import annotations

import errno
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from rigsync.core.clock import ClockEstimate

STYLES = {"ok": "green", "failed": "bold red", "refused": "bold red", "no answer": "bold red"}
"""Rich's styles for cells with exactly this text."""

Row = Sequence[str]


def on_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return is_terminal(sys.stdout)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal. A stream that was closed when the program began is None."""
    return stream is not None and stream.isatty()


def write_line(text: str = "") -> None:
    """Print a line on stdout at once, whatever characters it has; for errors see `write_lines`."""
    write_lines(printable(text))


def write_lines(text: str) -> None:
    """Print trusted text on stdout at once; without a stdout, do nothing.

    Raises
    ------
    BrokenPipeError
        Nobody reads any more.
    ClickException
        The text cannot be written, for instance because the disk is full.
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

    JSON has neither NaN nor infinities (RFC 8259, section 6). They become the texts "NaN", "Infinity" and "-Infinity",
    which say more than null.
    """
    import json

    # The encoder writes them against the standard; the decoder hands them over by these names.
    standard = json.loads(json.dumps(document), parse_constant=str)
    write_lines(json.dumps(standard, indent=indent, allow_nan=False))


def compact(value: Any) -> str:
    """Return JSON in one line for people."""
    import json

    return json.dumps(value, ensure_ascii=False)


def printable(text: str) -> str:
    """Return text from the network with its control characters and line ends escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return text with its control characters escaped, but not its line ends."""
    return "\n".join(map(printable, text.split("\n")))


def end_interrupted_line() -> None:
    """End the line in which a terminal shows ^C."""
    if is_terminal(sys.stderr):
        click.echo(err=True)


def milliseconds(seconds: float | None) -> str:
    """Return a duration in milliseconds to three decimals, ``-`` for None."""
    return "-" if seconds is None else f"{1000 * seconds:.3f}"


def offset(clock: ClockEstimate) -> str:
    """Return the offset of a rig's clock with its bound: ``+1.2 ms ± 0.1``; in seconds from 1 s on."""
    from math import ceil

    unit, factor = ("ms", 1e3) if abs(clock.offset) < 1 else ("s", 1.0)
    # Rounded up, plus the rounding of the offset: so the true offset is within.
    rounded = round(factor * clock.offset, 1) + 0.0  # makes -0.0 positive
    return f"{rounded:+.1f} {unit} ± {ceil(10 * factor * clock.bound + 0.5) / 10:.1f}"


def write_text(text: str, indent: str = "") -> None:
    """Print a sentence on stdout, indented; on a terminal its lines break between words."""
    text = indent + printable(text)
    if on_terminal():
        import shutil
        import textwrap

        width = shutil.get_terminal_size().columns
        further = indent + "  "
        text = textwrap.fill(text, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
    write_lines(text)


def print_table(
    columns: Row, rows: Iterable[Row], right: Collection[str] = (), stacks: Sequence[Sequence[int]] = ()
) -> None:
    """Print a table.

    Parameters
    ----------
    columns : sequence of str
        The headings.
    rows : iterable of sequence of str
        The cells.
    right : collection of str
        The headings of columns that are aligned to the right.
    stacks : sequence of sequence of int
        Positions of the columns that are put above each other if the terminal is too narrow, from left to right.
    """
    rows = [list(map(printable, row)) for row in rows]
    if not on_terminal():
        write_lines("\n".join(plain_lines(columns, rows, right)))
        return
    terminal = console()
    table = rich_table(columns, rows, right)
    if stacks and _natural_width(table, terminal) > terminal.width:
        headings, *cells = [["\n".join(row[i] for i in stack) for stack in stacks] for row in (columns, *rows)]
        table = rich_table(headings, cells, [heading for heading in headings if heading.partition("\n")[0] in right])
    terminal.print(table)


def _natural_width(table: Table, terminal: Console) -> int:
    from rich.measure import Measurement

    boundless = terminal.options.update(max_width=10_000)
    return Measurement.get(terminal, boundless, table).maximum


def plain_lines(columns: Row, rows: Sequence[Row], right: Collection[str] = ()) -> list[str]:
    """Return a table as aligned lines of text, one for each row."""
    table = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    aligned = (
        "  ".join(
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, columns, strict=True)
        )
        for row in table
    )
    return [line.rstrip() for line in aligned]


def rich_table(columns: Row, rows: Iterable[Row], right: Collection[str] = ()) -> Table:
    """Return a table for a terminal; the arguments are those of `print_table`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in columns:
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading in right)
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def console() -> Console:
    """Return rich's console on stdout."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)
