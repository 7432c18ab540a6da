"""Views of `rigsync demo` on an experiment while it runs."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from rigsync import PushResult
from rigsync.cli.output import is_terminal, write_line
from rigsync.cli.terminal import console, rich_table


class View:
    """Base of the views: shows nothing. A context manager around all other calls."""

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: Any) -> None:
        """End the view, and leave on the terminal what it has shown."""

    def begin(self, rigs: list[str], messages: list[str]) -> None: ...

    def pushed(self, message: str) -> None:
        """Show that a message goes out."""

    def answered(self, rig: str, seconds: float) -> None:
        """Show that a rig has answered. Called on another thread."""

    def settled(self, result: PushResult, seconds: dict[str, float]) -> None:
        """Show what became of the message."""

    def pause(self, seconds: float) -> None:
        """Show that the rigs record for that long."""


class PlainView(View):
    """A line for each message."""

    def begin(self, rigs: list[str], messages: list[str]) -> None:
        self._rigs = rigs
        self._width = max(map(len, messages))

    def settled(self, result: PushResult, seconds: dict[str, float]) -> None:
        outcomes = (
            f"{rig} {'failed' if rig in result.failed else f'{1000 * seconds[rig]:.1f} ms'}" for rig in self._rigs
        )
        write_line(f"{result.message:{self._width}}  {'  '.join(outcomes)}")

    def pause(self, seconds: float) -> None:
        write_line(f"recording for {seconds:g} s")


class LiveView(View):
    """A table of rigs and messages on the terminal, which fills while the answers come."""

    def __init__(self) -> None:
        self._console = console()
        self._tick = "✓ " if self._console.encoding.startswith("utf") else ""
        self._rigs: list[str] = []
        self._messages: list[str] = []
        self._cells: dict[tuple[str, str], str] = {}
        self._present = self._activity = ""
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=20,
            redirect_stderr=is_terminal(sys.stderr),
        )

    def __enter__(self) -> View:
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._activity = ""
        self._live.__exit__(*error)

    def begin(self, rigs: list[str], messages: list[str]) -> None:
        self._rigs, self._messages = rigs, messages

    def pushed(self, message: str) -> None:
        self._present = message
        self._activity = f"{message} ..."

    def answered(self, rig: str, seconds: float) -> None:
        self._cells[rig, self._present] = f"{self._tick}{1000 * seconds:.1f} ms"

    def settled(self, result: PushResult, seconds: dict[str, float]) -> None:
        for rig in result.failed:
            self._cells[rig, result.message] = "failed"

    def pause(self, seconds: float) -> None:
        self._activity = f"recording for {seconds:g} s ..."

    def _render(self) -> RenderableType:
        rows = [[rig, *(self._cells.get((rig, message), "") for message in self._messages)] for rig in self._rigs]
        table = rich_table(["rig", *self._messages], rows, right=self._messages)
        return Group(table, Text(self._activity, "dim")) if self._activity else table
