"""One table of how rigs are: `rigsync status`, `rigsync watch --once`, and the tables of `rigsync watch` in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from time import localtime, strftime, time

from rigsync.cli.output import end_interrupted_line, on_terminal, write_json, write_line
from rigsync.cli.rigs import connect, let_tell
from rigsync.cli.tables import print_table
from rigsync.cli.terminal import console
from rigsync.cli.watching import COLUMNS, COLUMNS_ONCE, NUMBERS, board_of, cells_of, once
from rigsync.config.rigs import Rigs
from rigsync.coordinator.view import RigView
from rigsync.core.events import LinkState


def show_once(rigs: Rigs, as_json: bool) -> int:
    """Show how the rigs are; return the exit status: 1 where one does not answer."""
    with connect(rigs) as auxiliaries:
        try:
            let_tell(lambda: [(board_of(row), row.trouble) for row in auxiliaries.views.values()])
            show([*auxiliaries.views.values()], as_json, is_whole=True)
        except KeyboardInterrupt:
            end_interrupted_line()
        return status_of([*auxiliaries.views.values()])


def status_of(rows: Sequence[RigView]) -> int:
    """Return the exit status of a command that has looked at rigs."""
    return 0 if all(row.link is LinkState.ALIVE for row in rows) else 1


def show(rows: Sequence[RigView], as_json: bool, is_whole: bool = False) -> None:
    """Print how the rigs are. JSON takes one line, unless it is the whole output."""
    if as_json:
        write_json({"time": time(), "rigs": {row.rig: row.document() for row in rows}}, indent=2 if is_whole else None)
        return
    if is_whole and on_terminal():
        terminal = console()
        terminal.print(once(rows, terminal.width, terminal.encoding.startswith("utf")))
        return
    if not is_whole:
        write_line(strftime("%H:%M:%S", localtime()))
    columns = COLUMNS_ONCE if is_whole else COLUMNS
    stacks = [(0, 1), (2, 3), (4, 5, 6), (7, 8, 9) if len(columns) > 9 else (7, 8)]
    print_table(columns, [cells_of(row, columns, time()) for row in rows], NUMBERS, stacks)
    if not is_whole:
        write_line()
