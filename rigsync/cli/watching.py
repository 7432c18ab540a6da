"""What `rigsync watch` knows of each rig, and how it is shown."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rigsync import Auxiliaries, Progress, RemoteRig
from rigsync.cli.output import clock_document, offset, printable
from rigsync.cli.progress_text import work_text
from rigsync.core.clock import ClockEstimate
from rigsync.core.events import (
    LinkChanged,
    LinkState,
    MessageReceived,
    Notice,
    RemoteComplaint,
    RestartSeen,
    ViolationSeen,
)
from rigsync.core.notices import FAILURE

COLUMNS = [
    *("rig", "state", "reference", "in charge", "rtt ms", "offset", "loss", "last message", "progress", "last error"),
]
"""The headings of all columns that there can be."""
COLUMNS_ONCE = [heading for heading in COLUMNS if heading != "last message"]
"""Those of a table that is made once: nobody has sent a message since."""
NUMBERS = ("rtt ms", "offset", "loss")
"""Those of columns that are aligned to the right."""
STYLES = {LinkState.ALIVE: "green", LinkState.SUSPECT: "yellow", LinkState.LOST: "bold red", LinkState.UNKNOWN: "dim"}
"""How the state of a link is shown."""

_WIDTHS = {"state": 11, "rtt ms": 6, "offset": 8, "loss": 4, "last message": 16}
_NAME, _WIDE_NAME = 11, 16
"""Most characters of a rig's name: at 80 columns they leave room for a reference of 18."""
_MIDDLE = 100
"""Characters of a terminal from which who is in charge has a column, instead of a line below the table."""
_MIDDLE_ONCE = 80
"""The same where there are no last messages."""
_WIDE = 140
"""Characters of a terminal from which the last errors have a column, instead of lines below the table."""
_WIDEST = 180
"""Characters of a terminal from which progress has a column, instead of lines below the table."""
_WIDE_REFERENCE = 24
_PROGRESS = 36
"""Characters of that column."""
_HOST = 15
"""Most characters of who is in charge: those of an IPv4 address."""
_ERROR_LINES = 3
"""Most lines of one error below the table."""
_NOT_RUN = {
    "BusyError": "refused",
    "Busy": "refused",
    "StateError": "refused",
    "Cancelled": "called off",
    "Interrupted": "interrupted",
}
"""What became of a message that was not run, by the type of the error; any other has failed."""
_BACK, _INDENT = "is back", "  "
_ANEW = "the rig's program was started anew"
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
    owner: str | None
    round_trip: float | None
    clock: ClockEstimate | None
    loss: float | None
    message: Told | None
    error: Told | None
    progress: Mapping[str, Progress] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def facts(self) -> tuple[Any, ...]:
        """What is worth showing at once when it changes; the rest always does."""
        return self.rig, self.link, self.status, self.exp_ref, self.owner, self.message, self.error

    @property
    def board(self) -> tuple[Any, ...]:
        """What changes all the time while the rig works."""
        return self.progress, self.streams

    @property
    def state(self) -> str:
        """The rig's status while it answers, else the state of the link."""
        return (self.status if self.link is LinkState.ALIVE else None) or self.link.value

    def cells(self, columns: Sequence[str], now: float) -> list[str]:
        """Return what stands under some of `COLUMNS` at Unix time `now`."""
        cells = {
            "rig": self.rig,
            "state": self.state,
            "reference": self.exp_ref,
            "in charge": self.owner,
            "rtt ms": None if self.round_trip is None else f"{1000 * self.round_trip:.1f}",
            "offset": None if self.clock is None else offset(self.clock).partition(" ±")[0],
            "loss": None if self.loss is None else f"{100 * self.loss:.0f}%",
            "progress": self.work,
            "last message": f"{self.message.text} {_age(now - self.message.time)}" if self.message else None,
            "last error": self.last_error,
        }
        return [cells[column] or "-" for column in columns]

    @property
    def work(self) -> str:
        """How far the rig is with what, and its streams, in few words."""
        return work_text(self.progress, self.streams)

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
            "owner": self.owner,
            "round_trip_ms": None if self.round_trip is None else 1000 * self.round_trip,
            "clock": clock_document(self.clock),
            "loss": self.loss,
            "last_message": self.message and {"message": self.message.text, "time": self.message.time},
            "last_error": self.error and {"error": self.error.text, "time": self.error.time},
            "progress": {
                item: {"value": shown.value, "total": shown.total, "unit": shown.unit}
                for item, shown in self.progress.items()
            },
            "streams": dict(self.streams),
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
        self._away: dict[str, float] = {}  # monotonic seconds at which a rig was found silent, or gone
        self._subscriptions = ExitStack()

    def __enter__(self) -> Watch:
        subscribers = {
            LinkChanged: self._note_link,
            RestartSeen: lambda event: self._note_restart(event.rig),
            RemoteComplaint: lambda event: self._note_error(event.rig, f"{event.event.name}: {event.text}"),
            ViolationSeen: lambda event: self._note_error(event.source, event.problem),
            MessageReceived: lambda event: self._note_message(event.rig, event.event.name),
            Notice: self._note_notice,
        }
        for kind, subscriber in subscribers.items():
            self._subscriptions.callback(self._auxiliaries.on(kind, subscriber))
        for name, rig in self._rigs.items():
            if rig.state is LinkState.LOST:  # since before the subscription
                self._note_error(name, f"{rig.state.value}: {rig.reason}")
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
                rig.owner,
                rig.round_trip,
                rig.clock,
                rig.loss,
                self._messages.get(name),
                self._errors.get(name),
                rig.progress,
                rig.streams,
            )
            for name, rig in self._rigs.items()
        ]

    def _note_link(self, event: LinkChanged) -> None:
        if event.after is not LinkState.ALIVE:
            self._away.setdefault(event.rig, time.monotonic())
            self._note_error(event.rig, f"{event.after.value}: {event.reason}")
        elif event.before is not LinkState.UNKNOWN:
            since = self._away.pop(event.rig, None)  # None of one that was lost before the subscription
            after = "" if since is None else f", after {_age(time.monotonic() - since)}"
            last = self._errors.get(event.rig)
            why = f": {_ANEW}" if last and last.text == _ANEW else ""  # which is told just before
            self._note_error(event.rig, f"{_BACK}{after}{why}")

    def _note_restart(self, rig: str) -> None:
        self._messages.pop(rig, None)  # the new program has had none
        self._note_error(rig, _ANEW)

    def _note_notice(self, event: Notice) -> None:
        body = event.body if isinstance(event.body, dict) else {}
        if (event.topic, event.key) == ("log", "message"):
            message, error = body.get("message"), body.get("error")
            if isinstance(message, str) and isinstance(error, str):
                self._note_message(event.rig, f"{message} {_NOT_RUN.get(error.partition(':')[0], 'failed')}")
                self._note_error(event.rig, f"{message}: {error}")
            elif isinstance(message, str):
                self._note_message(event.rig, message)
        elif event.topic == "status" and isinstance(reason := body.get("reason"), str):
            self._note_error(event.rig, reason)
        elif event.topic == FAILURE:
            self._note_error(event.rig, str(body.get("problem") or event.body))

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
    else:
        parts += _below(rows, width, room - len(rows), unicode, has_owners=width < _MIDDLE)
    return Group(*parts)


def once(rows: Sequence[Row], width: int, unicode: bool = True) -> RenderableType:
    """Return a table that is made once, and what stands below it; the arguments are those of `screen`."""
    most = 2 + _ERROR_LINES * len(rows)
    columns = [column for column in COLUMNS_ONCE if column != "in charge" or width >= _MIDDLE_ONCE]
    below = _below(rows, width, most, unicode, has_owners="in charge" not in columns)
    return Group(table(rows, width, unicode, time.time(), columns), *below)


def table(rows: Sequence[Row], width: int, unicode: bool, now: float, columns: Sequence[str] = ()) -> Table:
    """Return the table, a line for each rig, with those of some columns (by default all) for which there is room."""
    is_wide = width >= _WIDE
    columns = columns or [column for column in COLUMNS if column != "in charge" or width >= _MIDDLE]
    columns = [column for column in columns if column != "last error" or is_wide]
    columns = [column for column in columns if column != "progress" or width >= _WIDEST]
    longest = {
        "rig": max((len(printable(row.rig)) for row in rows), default=0),
        "in charge": max((len(printable(row.owner or "")) for row in rows), default=0),
    }
    widths = {
        "rig": max(3, min(longest["rig"], _WIDE_NAME if is_wide else _NAME)),
        "in charge": max(9, min(longest["in charge"], _HOST)),
        "progress": _PROGRESS,
        **_WIDTHS,
    }
    fixed = [widths[column] for column in columns if column in widths]
    rest = width - sum(fixed) - len(columns) + 1
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
        cells = [Text(printable(cell)) for cell in row.cells(columns, now)]
        cells[1].stylize(STYLES[row.link])
        made.add_row(*cells)
    return made


def _below(rows: Sequence[Row], width: int, room: int, unicode: bool, has_owners: bool) -> list[RenderableType]:
    """Return the lines below the table: who is in charge, progress, and the last errors, the newest first."""
    lines: list[Text] = []
    owners = sorted({row.owner for row in rows if row.owner})
    if has_owners and owners and room > 1:
        led = {owner: ", ".join(row.rig for row in rows if row.owner == owner) for owner in owners}
        text = "; ".join(f"{owner} ({rigs})" for owner, rigs in led.items())
        lines.append(Text(printable(f"in charge: {text}")))
    if width < _WIDEST:
        at_work = [f"{row.rig}: {row.work}" for row in rows if row.work]
        lines += [Text(printable(text)) for text in at_work[: max(0, room - 1 - len(lines))]]
    if width < _WIDE:
        unwell = sorted((row for row in rows if row.error), key=lambda row: -(row.error.time if row.error else 0))
        room -= 1 + len(lines)  # one line stays empty, between table and errors
        unwell = unwell[: max(0, room)]
        spare = room - len(unwell)
        for row in unwell:
            broken = _broken(
                f"{row.last_error[:8]} {row.rig}: {row.last_error[9:]}", width, min(_ERROR_LINES, 1 + spare)
            )
            spare -= len(broken) - 1
            lines += broken
    return [Text(), *(_one_line(line, unicode) for line in lines)] if lines else []


def _broken(text: str, width: int, most: int) -> list[Text]:
    """Return text in so many lines at most, the further ones indented; the last has the rest, however long."""
    whole = Text(printable(text))
    lines = list(whole.wrap(Console(width=width), max(1, width - len(_INDENT))))
    if len(lines) > most:
        lines, end = lines[: most - 1], 0
        for line in lines:  # which have lost the blanks between them
            shown = line.plain.rstrip()
            end = whole.plain.index(shown, end) + len(shown)
        lines.append(Text(whole.plain[end:].lstrip()))
    return [lines[0], *(Text(_INDENT) + line for line in lines[1:])]


def _one_line(text: Text, unicode: bool) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis" if unicode else "crop"
    return text


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
