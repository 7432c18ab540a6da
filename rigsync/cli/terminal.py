"""Tables on a terminal, by rich: what only a terminal needs is loaded there alone."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

STYLES = {"ok": "green", "failed": "bold red", "refused": "bold red", "no answer": "bold red"}
"""Rich's styles for cells with exactly this text."""

_LONGEST_WORD = 24
"""Columns of a terminal; a longer word, such as a path, may be broken."""
_GAP, _INDENT = 2, "  "

Row = Sequence[str]


def print_rich_table(
    columns: Row, rows: Sequence[Row], right: Collection[str], stacks: Sequence[Sequence[int]]
) -> None:
    """Print a table; the arguments are those of `tables.print_table`."""
    terminal = console()
    terminal.print(fitted(columns, rows, right, terminal.width, stacks))


def fitted(
    columns: Row, rows: Sequence[Row], right: Collection[str], width: int, stacks: Sequence[Sequence[int]] = ()
) -> RenderableType:
    """Return a table in so many columns of a terminal; the other arguments are those of `tables.print_table`.

    No word is broken that is not longer than `_LONGEST_WORD`: where there is no room for that, each row has lines.
    """
    if widths := _widths(columns, rows, right, width, is_broken=False):
        return _table(columns, rows, right, widths)
    headings, cells = columns, rows
    if stacks:
        headings, *cells = [["\n".join(row[i] for i in stack) for stack in stacks] for row in (columns, *rows)]
        right = [heading for heading in headings if heading.partition("\n")[0] in right]
    if widths := _widths(headings, cells, right, width, is_broken=True):
        return _table(headings, cells, right, widths)
    return Group(*_lines(columns, rows, max(width, 2 * len(_INDENT) + 1)))


def _widths(columns: Row, rows: Sequence[Row], right: Collection[str], width: int, is_broken: bool) -> list[int] | None:
    """Return the width of each column, where `is_broken` allows lines to be broken; None where there is no room."""
    cells = [*zip(columns, *rows, strict=True)]
    widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in cells]
    least = [
        min(whole, max((cell_len(word) for cell in column for word in cell.split()), default=0), _LONGEST_WORD)
        if is_broken and column[0] not in right
        else whole
        for column, whole in zip(cells, widths, strict=True)
    ]
    room = width - _GAP * (len(columns) - 1)
    if sum(least) > room:
        return None
    while sum(widths) > room:  # the widest first
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _table(columns: Row, rows: Iterable[Row], right: Collection[str], widths: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading, width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading in right, width=width)
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def _lines(columns: Row, rows: Iterable[Row], width: int) -> Iterator[Text]:
    """Return for each row a line with its first cell, and below it each of the others that says something."""
    fill = partial(textwrap.fill, width=width, break_on_hyphens=False)
    for first, *others in rows:
        yield Text(fill(first, subsequent_indent=_INDENT), "bold")
        for heading, cell in zip(columns[1:], others, strict=True):
            if cell not in ("", "-"):
                told = fill(f"{heading}: {cell}", initial_indent=_INDENT, subsequent_indent=2 * _INDENT)
                yield Text(told, STYLES.get(cell, ""))


def print_styled(text: str, style: str) -> None:
    """Print a line in a style of rich; the terminal itself breaks it where it is too long."""
    console().print(Text(text, style), soft_wrap=True)


def console() -> Console:
    return Console(file=sys.stdout, highlight=False)
