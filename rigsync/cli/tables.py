"""Tables on stdout: by rich on a terminal, as plain aligned text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rigsync._text import printable
from rigsync.cli.output import on_terminal, write_lines

STYLES = {"ok": "green", "failed": "bold red", "refused": "bold red", "no answer": "bold red"}
"""Rich's styles for cells with exactly this text."""

Row = Sequence[str]


def print_table(
    columns: Row, rows: Iterable[Row], right: Collection[str] = (), stacks: Sequence[Sequence[int]] = ()
) -> None:
    """Print a table; the columns that `right` names are aligned to the right.

    If the terminal is too narrow, the columns of each of `stacks`, by their positions, are put above each other.
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
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in columns:
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading in right)
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def console() -> Console:
    return Console(file=sys.stdout, highlight=False)
