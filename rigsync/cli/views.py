"""The view on an experiment, while it runs, on a terminal."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from rigsync import PushResult
from rigsync.cli.output import is_terminal
from rigsync.cli.plain_views import View
from rigsync.cli.terminal import console, fitted


class LiveView(View):
    """A table of rigs and messages on the terminal, which fills while the answers come."""

    def __init__(self) -> None:
        self._console = console()
        self._tick = "✓ " if self._console.encoding.startswith("utf") else ""
        self._rigs: list[str] = []
        self._messages: list[str] = []
        self._cells: dict[tuple[str, str], str] = {}
        self._present, self._activity = "", "connecting ..."
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
        self._rigs, self._messages, self._activity = rigs, messages, ""

    def pushed(self, message: str) -> None:
        if message not in self._messages:
            self._messages = [*self._messages, message]
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
        if not self._rigs:
            return Text(self._activity, "dim")
        rows = [[rig, *(self._cells.get((rig, message), "") for message in self._messages)] for rig in self._rigs]
        table = fitted(["rig", *self._messages], rows, self._messages, self._console.width)
        return Group(table, Text(self._activity, "dim")) if self._activity else table
