"""Tables on stdout: by rich on a terminal, as plain aligned text in a pipe."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from importlib import import_module

from rigsync._text import printable
from rigsync.cli.output import on_terminal, write_lines

Row = Sequence[str]


def print_table(
    columns: Row, rows: Iterable[Row], right: Collection[str] = (), stacks: Sequence[Sequence[int]] = ()
) -> None:
    """Print a table; the columns that `right` names are aligned to the right.

    If the terminal is too narrow, the columns of each of `stacks`, by their positions, are put above each other. If
    there is still no room for the words, each row has lines of its own in place of columns.
    """
    rows = [list(map(printable, row)) for row in rows]
    if on_terminal():
        import_module("rigsync.cli.terminal").print_rich_table(columns, rows, right, stacks)
    else:
        write_lines("\n".join(plain_lines(columns, rows, right)))


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


def write_marked(line: str, style: str) -> None:
    """Print a line, whatever characters it has; on a terminal in one of rich's styles, or none for an empty one."""
    text = printable(line)
    if style and on_terminal():
        import_module("rigsync.cli.terminal").print_styled(text, style)
    else:
        write_lines(text)
