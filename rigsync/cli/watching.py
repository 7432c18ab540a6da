"""What `rigsync watch` knows of each rig, and how it is shown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rigsync import Auxiliaries, RemoteRig
from rigsync.cli.output import clock_document, offset, printable
from rigsync.protocol.clock import ClockEstimate
from rigsync.protocol.events import (
    LinkChanged,
    LinkState,
    MessageReceived,
    Notice,
    RemoteComplaint,
    RigRestarted,
    ViolationSeen,
)

COLUMNS = ["rig", "state", "reference", "rtt ms", "offset", "loss", "last message", "last error"]
"""The headings."""
NUMBERS = ("rtt ms", "offset", "loss")
"""Those of columns that are aligned to the right."""
STYLES = {LinkState.ALIVE: "green", LinkState.SUSPECT: "yellow", LinkState.LOST: "bold red", LinkState.UNKNOWN: "dim"}
"""How the state of a link is shown."""

_WIDTHS = {"state": 11, "rtt ms": 6, "offset": 8, "loss": 4, "last message": 16}
_NAME, _WIDE_NAME = 11, 16
"""Most characters of a rig's name: at 80 columns they leave room for a reference of 18."""
_WIDE = 120
"""Characters of a terminal from which the last errors have a column, instead of lines below the table."""
_WIDE_REFERENCE = 24
_LONGEST_TEXT = 1000


@dataclass(frozen=True, slots=True)
class Told:
    """Something that was told, and when."""

    text: str
    time: float
    """Unix time in seconds."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one rig is."""

    rig: str
    link: LinkState
    status: str | None
    exp_ref: str | None
    round_trip: float | None
    clock: ClockEstimate | None
    loss: float | None
    message: Told | None
    error: Told | None

    @property
    def facts(self) -> tuple[Any, ...]:
        """What is worth showing at once when it changes; the rest always does."""
        return self.rig, self.link, self.status, self.exp_ref, self.message, self.error

    @property
    def state(self) -> str:
        """The rig's status while it answers, else the state of the link."""
        return (self.status if self.link is LinkState.ALIVE else None) or self.link.value

    def cells(self, now: float) -> list[str]:
        """Return what stands under each of `COLUMNS` at Unix time `now`."""
        return [
            self.rig,
            self.state,
            self.exp_ref or "-",
            "-" if self.round_trip is None else f"{1000 * self.round_trip:.1f}",
            "-" if self.clock is None else offset(self.clock).partition(" ±")[0],
            "-" if self.loss is None else f"{100 * self.loss:.0f}%",
            f"{self.message.text} {_age(now - self.message.time)}" if self.message else "-",
            self.last_error or "-",
        ]

    @property
    def last_error(self) -> str:
        """The last error with its time of day."""
        return f"{time.strftime('%H:%M:%S', time.localtime(self.error.time))} {self.error.text}" if self.error else ""

    def document(self) -> dict[str, Any]:
        """Return all of it for JSON, times in milliseconds, instants as Unix time in seconds."""
        return {
            "link": self.link.value,
            "status": self.status,
            "exp_ref": self.exp_ref,
            "round_trip_ms": None if self.round_trip is None else 1000 * self.round_trip,
            "clock": clock_document(self.clock),
            "loss": self.loss,
            "last_message": self.message and {"message": self.message.text, "time": self.message.time},
            "last_error": self.error and {"error": self.error.text, "time": self.error.time},
        }


class Watch:
    """Follows rigs, as a context manager.

    Parameters
    ----------
    auxiliaries : Auxiliaries
        The connection to them.
    """

    def __init__(self, auxiliaries: Auxiliaries):
        self._auxiliaries = auxiliaries
        self._rigs: dict[str, RemoteRig] = dict(auxiliaries.services or {})
        self._messages: dict[str, Told] = {}
        self._errors: dict[str, Told] = {}
        self._subscriptions = ExitStack()

    def __enter__(self) -> Watch:
        subscribers = {
            LinkChanged: self._note_link,
            RigRestarted: lambda event: self._note_error(event.rig, "the rig's program was started anew"),
            RemoteComplaint: lambda event: self._note_error(event.rig, f"{event.event.name}: {event.text}"),
            ViolationSeen: lambda event: self._note_error(event.source, event.problem),
            MessageReceived: lambda event: self._note_message(event.rig, event.event.name),
            Notice: self._note_notice,
        }
        for kind, subscriber in subscribers.items():
            self._subscriptions.callback(self._auxiliaries.on(kind, subscriber))
        for name, rig in self._rigs.items():
            if rig.state is LinkState.LOST:  # since before the subscription
                self._note_error(name, rig.reason)
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriptions.close()

    def rows(self) -> list[Row]:
        """Return how the rigs are now."""
        return [
            Row(
                name,
                rig.state,
                rig.rig_status.name if rig.rig_status is not None else None,
                rig.exp_ref,
                rig.round_trip,
                rig.clock,
                rig.loss,
                self._messages.get(name),
                self._errors.get(name),
            )
            for name, rig in self._rigs.items()
        ]

    def _note_link(self, event: LinkChanged) -> None:
        if event.after is not LinkState.ALIVE:
            self._note_error(event.rig, f"{event.after.value}: {event.reason}")

    def _note_notice(self, event: Notice) -> None:
        body = event.body if isinstance(event.body, dict) else {}
        if (event.topic, event.key) == ("log", "message"):
            message, error = body.get("message"), body.get("error")
            if isinstance(message, str):
                self._note_message(event.rig, message)
                if isinstance(error, str):
                    self._note_error(event.rig, f"{message}: {error}")
        elif event.topic == "status" and isinstance(reason := body.get("reason"), str):
            self._note_error(event.rig, reason)

    def _note_message(self, rig: str, message: str) -> None:
        self._messages[rig] = Told(message[:_LONGEST_TEXT], time.time())

    def _note_error(self, rig: str, text: str) -> None:
        self._errors[rig] = Told(text[:_LONGEST_TEXT], time.time())


def screen(rows: Sequence[Row], width: int, height: int, unicode: bool = True) -> RenderableType:
    """Return the whole view, in so many columns and lines of the terminal.

    Parameters
    ----------
    rows : sequence of Row
        How the rigs are.
    width, height : int
        Size of the terminal, in characters.
    unicode : bool
        Whether it can show more than ASCII.
    """
    now = time.time()
    alive = sum(row.link is LinkState.ALIVE for row in rows)
    room = max(1, height - 3)  # without title, headings and a line at the end
    shown = rows
    if len(rows) > room:
        # What needs looking at stays in view.
        unwell_first = sorted(rows, key=lambda row: row.link is LinkState.ALIVE)
        names = {row.rig for row in unwell_first[: room - 1]}
        shown = [row for row in rows if row.rig in names]
    title = Text(f"{time.strftime('%H:%M:%S', time.localtime(now))}  {alive} of {len(rows)} rigs alive  (q to leave)")
    parts: list[RenderableType] = [_one_line(title, unicode), table(shown, width, unicode, now)]
    if hidden := len(rows) - len(shown):
        parts.append(_one_line(Text(f"and {hidden} more rigs: make the window taller", "dim"), unicode))
    elif width < _WIDE:
        errors = sorted((row for row in rows if row.error), key=lambda row: -(row.error.time if row.error else 0))
        # One line stays empty, between table and errors.
        for row in errors[: max(0, room - len(rows) - 1)]:
            if len(parts) == 2:
                parts.append(Text())
            parts.append(_one_line(Text(printable(f"{row.last_error[:8]} {row.rig}: {row.last_error[9:]}")), unicode))
    return Group(*parts)


def table(rows: Sequence[Row], width: int, unicode: bool, now: float) -> Table:
    """Return the table, a line for each rig."""
    is_wide = width >= _WIDE
    columns = COLUMNS if is_wide else COLUMNS[:-1]
    longest = max((len(printable(row.rig)) for row in rows), default=3)
    widths = {"rig": max(3, min(longest, _WIDE_NAME if is_wide else _NAME)), **_WIDTHS}
    rest = width - sum(widths.values()) - len(columns) + 1
    widths["reference"] = _WIDE_REFERENCE if is_wide else max(9, rest)
    widths["last error"] = max(9, rest - widths["reference"])
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", width=width)
    for column in columns:
        made.add_column(
            column,
            width=widths[column],
            no_wrap=True,
            overflow="ellipsis" if unicode else "crop",
            justify="right" if column in NUMBERS else "left",
        )
    for row in rows:
        cells = [Text(printable(cell)) for cell in row.cells(now)[: len(columns)]]
        cells[1].stylize(STYLES[row.link])
        made.add_row(*cells)
    return made


def _one_line(text: Text, unicode: bool) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis" if unicode else "crop"
    return text


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
