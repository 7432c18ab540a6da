"""`rigsync watch`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import inf
from time import monotonic, sleep

import click
from rich.live import Live

from rigsync import Auxiliaries, NotRunning
from rigsync.cli import completion
from rigsync.cli.children import signals_noted
from rigsync.cli.history import History
from rigsync.cli.keys import keys
from rigsync.cli.logs import NOTICES, held_back_logging, start_logging
from rigsync.cli.options import json_option, rigs_option, verbose_option
from rigsync.cli.output import end_interrupted_line, on_terminal
from rigsync.cli.rigs import chosen, connect, rigs_of_file
from rigsync.cli.showing import show, show_once, status_of
from rigsync.cli.terminal import console
from rigsync.cli.watching import Position, board_of, facts_of, rows_in_view, screen, table
from rigsync.coordinator.view import RigView

CONNECT_TIMEOUT = 0.2
"""Seconds to wait for the rigs before the first view. The view shows whether they answer."""
INTERVAL = 0.25
"""Seconds between looks at the rigs."""
REFRESH = 1.0
"""Seconds after which the view is drawn again without news: ages and round trips change."""


@click.command(short_help="Show the state of the rigs while it changes.")
@click.argument("patterns", metavar="[RIG]...", nargs=-1, shell_complete=completion.rigs)
@click.option("--once", is_flag=True, help="Print one table and leave.")
@rigs_option
@json_option
@verbose_option
def command(patterns: tuple[str, ...], once: bool, rigs_file: str | None, as_json: bool) -> int:
    """Show the state of each RIG, a name or a pattern such as 'cameras:*', until q or Ctrl-C; all rigs by default.

    The state is the rig's status while it answers. Otherwise it is the link's: suspect after three seconds of silence,
    lost after five, or at once if the host refuses or the rig says goodbye. (A rig that speaks iblutil is probed every
    15 s: it is suspect after two and lost after three probes without an answer.)

    The loss is the share of the last 64 probes, about a minute's, that had no answer within a second. The computer in
    charge is the one whose program began the experiment. If it falls silent, the rig interrupts when its lease is over.

    The last message is the last one, from any program, that a rigsync rig has finished since watch began. The last
    error is what is wrong with a rig now, until that is settled, else one since then, or the reason why a rig was lost;
    of one of several lines, the last line is first. Only rigsync rigs report progress and streams.

    On a terminal, rigs in trouble come first, arrow and page keys scroll, and ? explains the columns.

    If the output is no terminal, watch prints a table at each change except progress. With --json it prints a line at
    each change, at most four a second. The exit status is 1 if a rig does not answer at the end.
    """
    rigs = chosen(rigs_of_file(rigs_file), patterns)
    if once:
        start_logging(printed=NOTICES)
        return show_once(rigs, as_json)
    is_live = not as_json and on_terminal() and not console().is_dumb_terminal
    with ExitStack() as stack:
        if is_live:
            stack.enter_context(held_back_logging())
        else:
            start_logging(printed=NOTICES)
        auxiliaries = stack.enter_context(connect(rigs, CONNECT_TIMEOUT))
        try:
            if is_live:
                _show_live(auxiliaries)
            else:
                _print_changes(auxiliaries, as_json)
        except KeyboardInterrupt:
            if not is_live:
                end_interrupted_line()
        return status_of([*auxiliaries.views.values()])


def _changes(
    auxiliaries: Auxiliaries, wait: Callable[[], bool], refresh: float, with_board: bool = True
) -> Iterator[list[RigView]]:
    """Yield how the rigs are: at once, at each change, and every `refresh` seconds, as long as `wait` returns true.

    Without the board, progress and streams are no changes.
    """
    facts: object = None
    due = 0.0
    while auxiliaries.is_running:
        rows = [*auxiliaries.views.values()]
        now = [(facts_of(row), board_of(row) if with_board else None) for row in rows]
        if now != facts or monotonic() >= due:
            facts, due = now, monotonic() + refresh
            yield rows
        if not wait():
            return
    raise NotRunning("the service thread has ended; see the log (-v)")


def _show_live(auxiliaries: Auxiliaries) -> None:
    terminal = console()
    unicode = terminal.encoding.startswith("utf")
    live = Live(console=terminal, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    history, position = History(), Position()
    shown: list[RigView] = []

    def draw() -> None:
        live.update(screen(shown, terminal.width, terminal.height, unicode, history, position), refresh=True)

    with signals_noted() as came, keys() as typed:

        def wait() -> bool:
            try:
                pressed = typed(INTERVAL)
            except EOFError:
                return False
            rows = rows_in_view(shown, terminal.width, terminal.height, history)
            if any(position.press(key, rows, len(shown)) for key in pressed) or came:
                return False
            if pressed:
                draw()
            return True

        try:
            live.start()
            for shown in _changes(auxiliaries, wait, REFRESH):
                history.note(shown, monotonic())
                draw()
        finally:
            live.stop()
    terminal.print(table([*auxiliaries.views.values()], terminal.width, unicode, history))
    if came and came[0] != signal.SIGINT:
        raise SystemExit(128 + came[0])  # by convention


def _print_changes(auxiliaries: Auxiliaries, as_json: bool) -> None:
    def wait() -> bool:
        sleep(INTERVAL)
        return True

    for rows in _changes(auxiliaries, wait, inf, with_board=as_json):
        show(rows, as_json)
