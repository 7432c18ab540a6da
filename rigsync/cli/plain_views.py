"""Views of `rigsync demo`, `start`, `stop` and `interrupt` on what they do: none, and one in lines."""

from __future__ import annotations

from typing import Any

import rigsync
from rigsync.cli.output import write_line


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

    def settled(self, result: rigsync.PushResult, seconds: dict[str, float]) -> None:
        """Show what became of the message."""

    def pause(self, seconds: float) -> None:
        """Show that the rigs record for that long."""


class PlainView(View):
    """A line for each message."""

    def begin(self, rigs: list[str], messages: list[str]) -> None:
        self._rigs = rigs
        self._width = max(map(len, messages))

    def settled(self, result: rigsync.PushResult, seconds: dict[str, float]) -> None:
        told = [rig for rig in self._rigs if rig in result.failed or rig in result]
        outcomes = (f"{rig} {'failed' if rig in result.failed else _milliseconds(seconds.get(rig))}" for rig in told)
        if told:  # a push to no rigs is over at once: after a stop, all may be cleaned up already
            write_line(f"{result.message:{self._width}}  {'  '.join(outcomes)}")

    def pause(self, seconds: float) -> None:
        write_line(f"recording for {seconds:g} s")


def _milliseconds(seconds: float | None) -> str:
    return "sent" if seconds is None else f"{1000 * seconds:.1f} ms"  # nothing comes of a rig that confirms nothing
