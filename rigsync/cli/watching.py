"""How `rigsync watch` shows rigs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rigsync._text import one_line, printable
from rigsync.cli.output import offset
from rigsync.cli.progress_text import work_text
from rigsync.coordinator.view import RigView, age_text
from rigsync.core.events import LinkState

COLUMNS = [
    *("rig", "state", "reference", "in charge", "rtt ms", "offset", "loss", "last message", "progress", "last error"),
]
"""Headings of all possible columns."""
COLUMNS_ONCE = [heading for heading in COLUMNS if heading != "last message"]
"""Headings of a table that is made once. It has no last messages: none has come since the program began."""
NUMBERS = ("rtt ms", "offset", "loss")
"""Headings of columns that are aligned to the right."""
STYLES = {LinkState.ALIVE: "green", LinkState.SUSPECT: "yellow", LinkState.LOST: "bold red", LinkState.UNKNOWN: "dim"}
"""Names of a link's states."""

_WIDTHS = {"state": 11, "rtt ms": 6, "offset": 8, "loss": 4, "last message": 16}
_NAME, _WIDE_NAME = 11, 16
"""Most characters of a rig's name. In 80 columns they leave room for a reference of 18 characters."""
_MIDDLE = 100
"""Width of a terminal, in characters, from which "in charge" is a column, and not a line below the table."""
_MIDDLE_ONCE = 80
"""The same where there are no last messages."""
_WIDE = 140
"""Width from which the last errors are a column, and not lines below the table."""
_WIDEST = 180
"""Width from which progress is a column, and not lines below the table."""
_WIDE_REFERENCE = 24
_PROGRESS = 36
"""Width of that column."""
_HOST = 15
"""Most characters of the computer in charge: those of an IPv4 address."""
_ERROR_LINES = 3
"""Most lines of one error below the table."""
_INDENT = "  "


def facts_of(view: RigView) -> tuple[Any, ...]:
    """Return the part of a view whose changes are shown at once."""
    told = view.last_message, view.last_failure, view.trouble
    return view.rig, view.link, view.status, view.exp_ref, view.owner, *told


def board_of(view: RigView) -> tuple[Any, ...]:
    """Return the part of a view that changes all the time while the rig works."""
    return view.progress, view.streams


def cells_of(view: RigView, columns: Sequence[str], now: float) -> list[str]:
    """Return the cells of a view for some of `COLUMNS` at Unix time `now`."""
    message = view.last_message
    cells = {
        "rig": view.rig,
        "state": view.state,
        "reference": view.exp_ref,
        "in charge": view.owner,
        "rtt ms": None if view.round_trip is None else f"{1000 * view.round_trip:.1f}",
        "offset": None if view.clock is None else offset(view.clock).partition(" ±")[0],
        "loss": None if view.loss is None else f"{100 * view.loss:.0f}%",
        "progress": work_text(view.progress, view.streams),
        "last message": f"{message.text} {age_text(now - message.time)}" if message else None,
        "last error": _last_failure(view),
    }
    return [cells[column] or "-" for column in columns]


def _last_failure(view: RigView) -> str:
    """Return what is wrong now, else what has gone wrong last, with its time."""
    failure, trouble = view.last_failure, view.trouble if view.link is LinkState.ALIVE else ""
    if trouble and not (failure and one_line(failure.text) in one_line(trouble)):
        return f"{'now':8} {trouble}"
    return f"{time.strftime('%H:%M:%S', time.localtime(failure.time))} {trouble or failure.text}" if failure else ""


def screen(views: Sequence[RigView], width: int, height: int, unicode: bool = True) -> RenderableType:
    """Return the whole view, in so many columns and lines of a terminal, which may show no more than ASCII."""
    now = time.time()
    alive = sum(view.link is LinkState.ALIVE for view in views)
    room = max(1, height - 3)  # without title, headings and a line at the end
    shown = views
    if len(views) > room:
        # Rigs that need a look stay in view.
        unwell_first = sorted(views, key=lambda view: view.link is LinkState.ALIVE)
        names = {view.rig for view in unwell_first[: room - 1]}
        shown = [view for view in views if view.rig in names]
    title = Text(f"{time.strftime('%H:%M:%S', time.localtime(now))}  {alive} of {len(views)} rigs alive  (q to leave)")
    parts: list[RenderableType] = [_one_line(title, unicode), table(shown, width, unicode, now)]
    if hidden := len(views) - len(shown):
        parts.append(_one_line(Text(f"and {hidden} more rigs: make the window taller", "dim"), unicode))
    else:
        parts += _below(views, width, room - len(views), unicode, has_owners=width < _MIDDLE)
    return Group(*parts)


def once(views: Sequence[RigView], width: int, unicode: bool = True) -> RenderableType:
    """Return a table that is made once, and the lines below it; the arguments are those of `screen`."""
    most = 2 + _ERROR_LINES * len(views)
    columns = [column for column in COLUMNS_ONCE if column != "in charge" or width >= _MIDDLE_ONCE]
    below = _below(views, width, most, unicode, has_owners="in charge" not in columns)
    return Group(table(views, width, unicode, time.time(), columns), *below)


def table(views: Sequence[RigView], width: int, unicode: bool, now: float, columns: Sequence[str] = ()) -> Table:
    """Return the table, a line for each rig, with as many of the columns (by default all) as there is room for."""
    is_wide = width >= _WIDE
    columns = columns or [column for column in COLUMNS if column != "in charge" or width >= _MIDDLE]
    columns = [column for column in columns if column != "last error" or is_wide]
    columns = [column for column in columns if column != "progress" or width >= _WIDEST]
    longest = {
        "rig": max((len(printable(view.rig)) for view in views), default=0),
        "in charge": max((len(printable(view.owner or "")) for view in views), default=0),
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
    for view in views:
        cells = [Text(printable(cell)) for cell in cells_of(view, columns, now)]
        cells[1].stylize(STYLES[LinkState.LOST if view.trouble and view.link is LinkState.ALIVE else view.link])
        made.add_row(*cells)
    return made


def _below(views: Sequence[RigView], width: int, room: int, unicode: bool, has_owners: bool) -> list[RenderableType]:
    """Return the lines below the table: who is in charge, progress, and the last errors, the newest first."""
    lines: list[Text] = []
    owners = sorted({view.owner for view in views if view.owner})
    if has_owners and owners and room > 1:
        led = {owner: ", ".join(view.rig for view in views if view.owner == owner) for owner in owners}
        text = "; ".join(f"{owner} ({rigs})" for owner, rigs in led.items())
        lines.append(Text(printable(f"in charge: {text}")))
    if width < _WIDEST:
        work = {view.rig: work_text(view.progress, view.streams) for view in views}
        at_work = [f"{rig}: {text}" for rig, text in work.items() if text]
        lines += [Text(printable(text)) for text in at_work[: max(0, room - 1 - len(lines))]]
    if width < _WIDE:
        unwell = sorted(
            (view for view in views if view.trouble or view.last_failure),
            key=lambda view: (not view.trouble, -(view.last_failure.time if view.last_failure else 0)),
        )
        room -= 1 + len(lines)  # one line stays empty, between table and errors
        unwell = unwell[: max(0, room)]
        spare = room - len(unwell)
        for view in unwell:
            broken = _broken(
                f"{_last_failure(view)[:8]} {view.rig}: {_last_failure(view)[9:]}", width, min(_ERROR_LINES, 1 + spare)
            )
            spare -= len(broken) - 1
            lines += broken
    return [Text(), *(_one_line(line, unicode) for line in lines)] if lines else []


def _broken(text: str, width: int, most: int) -> list[Text]:
    """Return text in at most `most` lines. All but the first are indented, and the last one has the rest."""
    whole = Text(printable(text))
    lines = list(whole.wrap(Console(width=width), max(1, width - len(_INDENT))))
    if len(lines) > most:
        lines, end = lines[: most - 1], 0
        for line in lines:  # they have lost the blanks between them
            shown = line.plain.rstrip()
            end = whole.plain.index(shown, end) + len(shown)
        lines.append(Text(whole.plain[end:].lstrip()))
    return [lines[0], *(Text(_INDENT) + line for line in lines[1:])]


def _one_line(text: Text, unicode: bool) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis" if unicode else "crop"
    return text
