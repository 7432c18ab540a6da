"""Tables on a terminal, by rich: what only a terminal needs is loaded there alone."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

STYLES = {"ok": "green", "failed": "bold red", "refused": "bold red", "no answer": "bold red"}
"""Rich's styles for cells with exactly this text."""

Row = Sequence[str]


def print_rich_table(
    columns: Row, rows: Sequence[Row], right: Collection[str], stacks: Sequence[Sequence[int]]
) -> None:
    """Print a table; the arguments are those of `tables.print_table`."""
    terminal = console()
    table = rich_table(columns, rows, right)
    if stacks and _natural_width(table, terminal) > terminal.width:
        headings, *cells = [["\n".join(row[i] for i in stack) for stack in stacks] for row in (columns, *rows)]
        table = rich_table(headings, cells, [heading for heading in headings if heading.partition("\n")[0] in right])
    terminal.print(table)


def _natural_width(table: Table, terminal: Console) -> int:
    boundless = terminal.options.update(max_width=10_000)
    return Measurement.get(terminal, boundless, table).maximum


def rich_table(columns: Row, rows: Iterable[Row], right: Collection[str] = ()) -> Table:
    """Return a table for a terminal; the arguments are those of `tables.print_table`."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in columns:
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading in right)
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def print_styled(text: str, style: str) -> None:
    """Print a line in a style of rich; the terminal itself breaks it where it is too long."""
    console().print(Text(text, style), soft_wrap=True)


def console() -> Console:
    return Console(file=sys.stdout, highlight=False)
