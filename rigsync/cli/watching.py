"""How `rigsync watch` shows rigs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rigsync._text import duration_text, error_text, one_line, printable, span_text
from rigsync.cli.history import History
from rigsync.cli.output import offset
from rigsync.cli.progress_text import work_text
from rigsync.coordinator.view import RigView, age_text, clock_text
from rigsync.core.events import LinkState

COLUMNS = [
    *("rig", "state", "reference", "in charge", "rtt ms", "offset", "loss", "last message", "progress", "last error"),
]
"""Headings of all possible columns."""
COLUMNS_LIVE = [*COLUMNS[:2], "for", *COLUMNS[2:]]
"""Headings of all possible columns of the live view. It has seen since when rigs are RUNNING."""
COLUMNS_ONCE = [heading for heading in COLUMNS if heading != "last message"]
"""Headings of a table that is made once. It has no last messages: none has come since the program began."""
NUMBERS = ("rtt ms", "offset", "loss")
"""Headings of columns that are aligned to the right."""
STYLES = {LinkState.ALIVE: "green", LinkState.SUSPECT: "yellow", LinkState.LOST: "bold red", LinkState.UNKNOWN: "dim"}
"""Names of a link's states."""
HELP = (
    "up, down, page up, page down, home, end: scroll, where rigs are hidden",
    "?: this help; any key leaves it        q or Ctrl-C: leave",
    "",
    "Rigs in trouble come first: lost, suspect (silent for 3 s), then, in yellow,",
    "those that have told an error in their experiment.",
    "",
    "state         the rig's status while it answers, else that of the link",
    "for           how long it has been RUNNING; > if it was so before watch began",
    "in charge     the computer whose program began the experiment; if that is silent",
    "              or gone, since when, and when the rig interrupts by itself",
    "rtt ms        round trip, in milliseconds",
    "offset        how far its clock is ahead of this computer's",
    "loss          probes without an answer, of those of the last minute",
    "last message  the last one that it has finished, from any program, and its age",
    "progress      how far it is, and what that grows by in a second",
    "last error    the last one since watch began; of several lines, the last first",
    "",
    "Where there is no room for a column, it stands below the table, or is left out.",
)
"""What `?` shows, in lines of 80 columns."""

_WIDTHS = {"state": 11, "for": 8, "rtt ms": 6, "offset": 8, "loss": 4, "last message": 16}
_RANK = (
    *("rig", "state", "reference", "for", "progress", "last error", "last message", "loss", "rtt ms", "offset"),
    "in charge",
)
"""Columns by their weight: where the terminal is too narrow, the last ones go first."""
_MIDDLE = 100
"""Width of a terminal, in characters, from which "in charge" may be a column, and not a line below the table."""
_MIDDLE_ONCE = 80
"""The same where there are no last messages."""
_WIDE = 140
"""Width from which the last errors may be a column, and not lines below the table."""
_WIDEST = 180
"""Width from which progress may be a column, and not lines below the table."""
_REFERENCE, _WIDEST_REFERENCE = 18, 40
"""Characters of a reference that other columns leave room for, and most of them."""
_PROGRESS, _CROWDED_PROGRESS = 36, 16
"""Width of that column, and its least width where there is no room below the table."""
_ERROR = 24
"""Least width of the column of the last errors."""
_HOST = 15
"""Most characters of the computer in charge: those of an IPv4 address."""
_LINES_ONCE = 3
"""Most lines of one error, or of one rig's progress, below a table that is made once."""
_SHARE_BELOW = 3
"""One in so many lines is kept for errors where the rigs would take them all."""
_INDENT = "  "
_NEVER = History()


@dataclass
class Position:
    """Which rigs are in view, and whether the help is."""

    top: int = 0
    """How many rigs are above those in view."""
    is_help: bool = False

    def press(self, key: str, rows: int, rigs: int) -> bool:
        """Do what a key says where so many rows show so many rigs; return whether that is to leave."""
        if key in ("q", "Q"):
            return True
        if self.is_help or key == "?":
            self.is_help = not self.is_help
        steps = {"up": -1, "down": 1, "page up": -rows, "page down": rows, "home": -rigs, "end": rigs}
        self.top = max(0, min(self.top + steps.get(key, 0), rigs - rows))
        return False


def facts_of(view: RigView) -> tuple[Any, ...]:
    """Return the part of a view whose changes are shown at once."""
    told = view.last_message, view.last_failure, view.trouble, _is_left(view)
    return view.rig, view.link, view.status, view.exp_ref, view.owner, *told


def board_of(view: RigView) -> tuple[Any, ...]:
    """Return the part of a view that changes all the time while the rig works."""
    return view.progress, view.streams


def cells_of(view: RigView, columns: Sequence[str], now: float, history: History = _NEVER) -> list[str]:
    """Return the cells of a view for some of `COLUMNS_LIVE` at Unix time `now`."""
    message = view.last_message
    cells = {
        "rig": view.rig,
        "state": view.state,
        "for": _running_text(history.running_for(view.rig)),
        "reference": view.exp_ref,
        "in charge": in_charge(view, now),
        "rtt ms": None if view.round_trip is None else f"{1000 * view.round_trip:.1f}",
        "offset": None if view.clock is None else offset(view.clock).partition(" ±")[0],
        "loss": None if view.loss is None else f"{100 * view.loss:.0f}%",
        "progress": _work(view, history),
        "last message": f"{message.text} {age_text(now - message.time)}" if message else None,
        "last error": _last_failure(view),
    }
    return [cells[column] or "-" for column in columns]


def _is_left(view: RigView) -> bool:
    """Return whether a rig says that whoever was in charge is not there any more."""
    return view.link is LinkState.ALIVE and (view.owner_heard, view.interrupts_at) != (None, None)


def in_charge(view: RigView, now: float) -> str:
    """Return who is in charge of a rig; if nobody is there any more, also since when, and what the rig does then."""
    if not _is_left(view):
        return view.owner or ""
    parts = [view.owner or "nobody"]
    if view.owner_heard is not None:
        parts.append(f"silent for {span_text(now - view.owner_heard)}")
    if view.interrupts_at is not None:
        parts.append(f"interrupts in {span_text(view.interrupts_at - now)}")
    return ", ".join(parts)


def in_trouble_first(views: Sequence[RigView], history: History) -> list[RigView]:
    """Return the rigs in trouble, the worst first, then the others, each in their order."""

    def weight(view: RigView) -> int:
        by_link = {LinkState.LOST: 0, LinkState.SUSPECT: 1, LinkState.UNKNOWN: 3}
        return by_link.get(view.link, 2 if history.has_failed(view) else 4)

    return sorted(views, key=weight)


def rows_in_view(views: Sequence[RigView], width: int, height: int, history: History = _NEVER) -> int:
    """Return how many rigs a terminal of so many columns and lines shows at a time."""
    room = max(1, height - 3)  # without title, headings and a line at the end
    told = sum(history.has_failed(view) for view in views) if width < _WIDE else 0
    told += any(map(_is_left, views))
    return min(len(views), room - min(told, room // _SHARE_BELOW))


def screen(
    views: Sequence[RigView],
    width: int,
    height: int,
    unicode: bool = True,
    history: History = _NEVER,
    position: Position | None = None,
) -> RenderableType:
    """Return the whole view, in so many columns and lines of a terminal, which may show no more than ASCII."""
    position = position or Position()
    now = time.time()
    if position.is_help:
        return Group(*(_one_line(Text(line), unicode) for line in HELP[: max(1, height - 1)]))
    rows = rows_in_view(views, width, height, history)
    top = max(0, min(position.top, len(views) - rows))
    ordered = in_trouble_first(views, history)
    alive = sum(view.link is LinkState.ALIVE for view in views)
    below = max(1, height - 3) - rows
    wanted = sum((view.last_failure is not None) + bool(view.progress or view.streams) for view in views)
    columns = _fitting(
        views,
        COLUMNS_LIVE if any(history.running_for(view.rig) for view in views) else COLUMNS,
        width,
        _MIDDLE,
        is_crowded=wanted >= below and any(view.progress or view.streams for view in views),
    )
    shown, scroll = (f", {top + 1} to {top + rows} shown", "arrows, ") if rows < len(views) else ("", "")
    title = f"{clock_text(now)}  {alive} of {len(views)} rigs alive{shown}  ({scroll}? for help, q to leave)"
    return Group(
        _one_line(Text(title), unicode),
        _table(ordered[top : top + rows], columns, unicode, now, history),
        *_below(ordered, columns, width, below, unicode, now, history),
    )


def once(views: Sequence[RigView], width: int, unicode: bool = True) -> RenderableType:
    """Return a table that is made once, and the lines below it; the arguments are those of `screen`."""
    now = time.time()
    columns = _fitting(views, COLUMNS_ONCE, width, _MIDDLE_ONCE)
    most = 2 + 2 * _LINES_ONCE * len(views)
    return Group(
        _table(views, columns, unicode, now),
        *_below(views, columns, width, most, unicode, now, most_of_one=_LINES_ONCE),
    )


def table(views: Sequence[RigView], width: int, unicode: bool, history: History = _NEVER) -> RenderableType:
    """Return the table of the live view alone, with all rigs; the arguments are those of `screen`."""
    columns = _fitting(views, COLUMNS, width, _MIDDLE)
    return _table(in_trouble_first(views, history), columns, unicode, time.time(), history)


def _fitting(
    views: Sequence[RigView], columns: Sequence[str], width: int, middle: int, is_crowded: bool = False
) -> dict[str, int]:
    """Return those of the columns for which there is room, in their order, each with its width.

    Names are the last to be cut.
    """
    least_wide = {"in charge": middle, "last error": _WIDE, "progress": 0 if is_crowded else _WIDEST}
    longest = {
        "rig": max((cell_len(printable(view.rig)) for view in views), default=0),
        "reference": max((cell_len(printable(view.exp_ref or "")) for view in views), default=0),
        # With room for the sign that more than the name was cut, which then stands below.
        "in charge": max((cell_len(printable(view.owner or "")) + _is_left(view) for view in views), default=0),
    }
    name = max(3, min(longest["rig"], width - 1 - _WIDTHS["state"]))
    least = {
        "rig": name,
        "reference": max(9, min(_REFERENCE, width - name - _WIDTHS["state"] - 2)),
        "in charge": max(9, min(longest["in charge"], _HOST)),
        "progress": _CROWDED_PROGRESS if is_crowded else _PROGRESS,
        "last error": _ERROR,
        **_WIDTHS,
    }
    chosen: dict[str, int] = {}
    left = width + 1
    for column in _RANK:
        if column in columns and width >= least_wide.get(column, 0) and left >= least[column] + 1:
            chosen[column] = least[column]
            left -= least[column] + 1
    if "reference" in chosen:
        wider = max(0, min(left, min(longest["reference"], _WIDEST_REFERENCE) - chosen["reference"]))
        chosen["reference"] += wider
        left -= wider
    if flexible := next((column for column in ("last error", "progress") if column in chosen), None):
        chosen[flexible] += left
    return {column: chosen[column] for column in columns if column in chosen}


def _table(
    views: Sequence[RigView],
    columns: Mapping[str, int],
    unicode: bool,
    now: float,
    history: History = _NEVER,
) -> Table:
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for column, width in columns.items():
        made.add_column(
            column,
            width=width,
            no_wrap=True,
            overflow="ellipsis" if unicode else "crop",
            justify="right" if column in NUMBERS else "left",
        )
    for view in views:
        texts = map(printable, cells_of(view, [*columns], now, history))
        cells = {column: Text(text) for column, text in zip(columns, texts, strict=True)}
        if "rig" in cells:  # a terminal may have room for no column at all
            is_bad = view.link is LinkState.ALIVE and history.has_failed(view)
            cells["rig"] = Text(cut_name(cells["rig"].plain, columns["rig"], unicode), "yellow" if is_bad else "")
        if "state" in cells:
            is_ill = view.trouble and view.link is LinkState.ALIVE
            cells["state"].stylize(STYLES[LinkState.LOST if is_ill else view.link])
        made.add_row(*cells.values())
    return made


def cut_name(name: str, width: int, unicode: bool = True) -> str:
    """Return a name, cut to so many columns of a terminal where it is longer; what differs stands at its end."""
    if cell_len(name) <= width:
        return name
    end = name
    while cell_len(end) > (width - 1) // 2:
        end = end[1:]
    return set_cell_size(name, width - 1 - cell_len(end)) + ("…" if unicode else "~") + end


def _below(
    views: Sequence[RigView],
    columns: Mapping[str, int],
    width: int,
    room: int,
    unicode: bool,
    now: float,
    history: History = _NEVER,
    most_of_one: int = 1000,
) -> list[RenderableType]:
    """Return the lines below the table: who was in charge and is gone, errors, who is in charge, and progress.

    Errors of the present experiment come first, the newest before older ones. Each text that there is room for has a
    line. Then those that the table does not show whole have more, as long as there is room.
    """
    failed = sorted(
        (view for view in views if cell_len(printable(_last_failure(view))) > columns.get("last error", 0)),
        key=lambda view: (not history.has_failed(view), -_failed_at(view)),
    )
    parts = [f"{_last_failure(view)[:8]} {view.rig}: {_last_failure(view)[9:]}" for view in failed]
    led: dict[str, list[str]] = {}
    for view in views:
        if (leader := in_charge(view, now)) and cell_len(printable(leader)) > columns.get("in charge", 0):
            led.setdefault(leader, []).append(view.rig)
    if led:
        leaders = "in charge: " + "; ".join(f"{leader} ({', '.join(led[leader])})" for leader in sorted(led))
        parts.insert(0 if any(map(_is_left, views)) else len(parts), leaders)
    for view in views:
        work = _work(view, history)
        if work and cell_len(printable(work)) > columns.get("progress", 0):
            parts.append(f"{view.rig}: {work}")
    is_apart = room > len(parts) > 0  # one line stays empty, between table and text
    parts = parts[: room - is_apart]
    spare = room - is_apart - len(parts)
    lines: list[Text] = []
    for text in parts:
        broken = _broken(text, width, min(most_of_one, 1 + spare))
        spare -= len(broken) - 1
        lines += broken
    gap: list[RenderableType] = [Text()] if is_apart else []
    return [*gap, *(_one_line(line, unicode) for line in lines)]


def _work(view: RigView, history: History) -> str:
    text = work_text(view.progress, view.streams, history.rates(view.rig))
    if not text or view.link is LinkState.ALIVE:
        return text
    return f"last heard: {text}" if view.heard is None else f"last heard {clock_text(view.heard)}: {text}"


def _last_failure(view: RigView) -> str:
    """Return what is wrong now, else what has gone wrong last, with its time."""
    failure, trouble = view.last_failure, view.trouble if view.link is LinkState.ALIVE else ""
    known = [one_line(text) for text in (*view.failures.values(), view.status_reason or "")]
    if trouble and not (failure and any(one_line(failure.text) in text for text in known)):
        return f"{'now':8} {trouble}"
    return f"{clock_text(failure.time)} {trouble or error_text(failure.text)}" if failure else ""


def _failed_at(view: RigView) -> float:
    return view.last_failure.time if view.last_failure else 0.0


def _running_text(running: tuple[float, bool] | None) -> str:
    return (">" if running[1] else "") + duration_text(running[0]) if running else ""


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
