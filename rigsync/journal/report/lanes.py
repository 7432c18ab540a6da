"""A lane for each rig: its messages, handlers, states, silences and failures over time."""

from __future__ import annotations

from collections.abc import Iterable

from rigsync.journal.report.axis import Axis
from rigsync.journal.report.facts import Facts, Lane, Mark, Span
from rigsync.journal.report.markup import Markup, element, joined, table

HEIGHT = 66
"""Pixels of a lane."""
SHAPES = {
    "EXPINFO": "m-info",
    "EXPINIT": "m-init",
    "EXPSTART": "m-start",
    "EXPEND": "m-end",
    "EXPINTERRUPT": "m-interrupt",
    "EXPCLEANUP": "m-cleanup",
}
STATES = ("CONNECTED", "INITIALIZED", "RUNNING", "STOPPED")
_WORDS = {"CONNECTED": "connected", "INITIALIZED": "ready", "RUNNING": "records", "STOPPED": "stopped"}
_MESSAGES, _STATES, _HANDLERS, _TOLD = 10, 20, 42, 58
"""Where the rows of a lane stand, in pixels from its top."""
SLOTS = 150
"""Marks of one kind that have room beside each other."""
SAID = 200
"""Characters of a text that a mark says on demand."""
NAMED = 18
"""Percent that a state has to be wide to have its name in it."""
_DOT, _DIAMOND = "M0-3A3 3 0 1 0 .1-3Z", "M0-5L5 0 0 5-5 0Z"
_SYMBOLS = (
    ("m-info", _DOT, "solid"),
    ("m-init", "M0-5A5 5 0 1 0 .1-5ZM0-2A2 2 0 1 0 .1-2Z", "open"),
    ("m-start", "M-4-5L5 0-4 5Z", "solid"),
    ("m-end", "M-4-4H4V4H-4Z", "solid"),
    ("m-interrupt", "M-5-3L-3-5 0-2 3-5 5-3 2 0 5 3 3 5 0 2-3 5-5 3-2 0Z", "solid"),
    ("m-cleanup", "M-4-4H4V4H-4Z", "open"),
    ("m-other", "M0-5V5", "open"),
    ("m-failure", "M0-6L6 5H-6ZM-.7-2H.7V2H-.7ZM-.7 3H.7V4H-.7Z", "bad"),
    ("m-notice", _DIAMOND, "open"),
)


def defs() -> Markup:
    """Return the patterns and shapes that all drawings of a page use."""

    def pattern(name: str, size: int, path: str) -> Markup:
        ground = element("rect", width=size, height=size, class_="ground")
        units = {"patternUnits": "userSpaceOnUse"}
        return element("pattern", ground, element("path", d=path), id=name, width=size, height=size, **units)

    made = [
        pattern("p-ready", 6, "M1.5 1.5h1.6v1.6h-1.6z"),
        pattern("p-stopped", 8, "M-2 2l4-4M0 8l8-8M6 10l4-4"),
        pattern("p-silent", 6, "M0 0l6 6M6 0l-6 6"),
        *(element("path", id=name, d=path, class_=kind, fill_rule="evenodd") for name, path, kind in _SYMBOLS),
    ]
    return element("svg", element("defs", *made), width=0, height=0, aria_hidden="true", class_="defs")


def legend() -> Markup:
    """Return what the shapes and patterns stand for."""

    def shape(name: str, text: str) -> Markup:
        drawn = element("svg", element("use", href=f"#{name}", x=8, y=8), width=16, height=16, aria_hidden="true")
        return element("span", drawn, text)

    def fill(kind: str, text: str) -> Markup:
        box = element("rect", x=1, y=2, width=26, height=12, class_=kind)
        return element("span", element("svg", box, width=28, height=16, aria_hidden="true"), text)

    return element(
        "p",
        shape("m-info", "EXPINFO"),
        shape("m-init", "EXPINIT"),
        shape("m-start", "EXPSTART"),
        shape("m-end", "EXPEND"),
        shape("m-interrupt", "EXPINTERRUPT"),
        shape("m-cleanup", "EXPCLEANUP"),
        shape("m-other", "another message"),
        *(fill(f"s-{state}", f"{_WORDS[state]} ({state})") for state in STATES),
        fill("s-silent", "silent or lost"),
        fill("s-handler", "a handler at work"),
        shape("m-failure", "a failure, by its number below"),
        shape("m-notice", "a notice"),
        class_="legend",
    )


def lanes(facts: Facts, axis: Axis, outcomes: dict[str, str]) -> Markup:
    """Return all lanes between two axes, and the same as a table."""
    made = [
        _lane(lane, axis, number, outcomes.get(lane.rig, "")) for number, lane in enumerate(facts.lanes.values(), 1)
    ]
    return joined(legend(), axis.drawn(True), *made, axis.drawn(False), _as_table(facts))


def _lane(lane: Lane, axis: Axis, number: int, outcome: str) -> Markup:
    drawn = [
        axis.grid(HEIGHT),
        *(_bar(span, axis) for span in lane.states),
        *(_silence(span, axis) for span in lane.silences),
        *(_handler(span, axis) for span in lane.handlers),
        *_messages(lane.messages, axis),
        *_notices(lane.notices, axis),
        *_failures(lane.failures, axis),
    ]
    described = element("desc", "; ".join(_summary(lane, axis)), id=f"lane-{number}-d")
    head, told = f"lane-{number}", f"lane-{number} lane-{number}-d"
    named = {"aria-labelledby": told}
    return element(
        "section",
        element("h3", lane.rig, element("small", outcome), id=head),
        element("svg", described, *drawn, width="100%", height=HEIGHT, role="img", class_="draw lane", **named),
        class_="rig",
        data_rig=lane.rig,
    )


def _box(axis: Axis, span: Span) -> tuple[float, float]:
    left = axis.place(span.begin)
    return left, max(axis.place(span.end) - left, 0.0)


def _bar(span: Span, axis: Axis) -> Markup:
    left, wide = _box(axis, span)
    kind = span.what if span.what in STATES else "other"
    told = element("title", f"{span.what}{f': {span.text}' if span.text else ''}")
    name = None
    if wide > NAMED:
        shown = element("text", _WORDS.get(span.what, span.what), x=6, y=13, class_=f"name n-{kind}")
        name = element("svg", shown, x=f"{left:.2f}%", y=_STATES, width=f"{wide:.2f}%", height=18)
    box = {"x": f"{left:.2f}%", "width": f"{wide:.2f}%", "y": _STATES, "height": 18}
    return joined(element("rect", told, **box, class_=f"s-{kind}"), name)


def _silence(span: Span, axis: Axis) -> Markup:
    left, wide = _box(axis, span)
    told = element("title", f"{span.what} for {span.end - span.begin:.1f} s: {span.text}")
    box = {"x": f"{left:.2f}%", "width": f"{max(wide, 0.3):.2f}%", "y": _STATES - 2, "height": 22}
    return element("rect", told, **box, class_="s-silent")


def _handler(span: Span, axis: Axis) -> Markup:
    left, wide = _box(axis, span)
    box = {"x": f"{left:.2f}%", "width": f"{max(wide, 0.25):.2f}%", "y": _HANDLERS, "height": 6}
    return element("rect", element("title", span.text), **box, class_="s-handler")


def _slots(marks: Iterable[Mark], axis: Axis, slots: int) -> list[tuple[float, list[Mark]]]:
    """Return the marks that share a place together: where each group stands, and who is in it."""
    found: dict[tuple[int, str], list[Mark]] = {}
    for mark in marks:
        found.setdefault((int(axis.place(mark.time) / 100 * slots), mark.what), []).append(mark)
    return [(axis.place(group[0].time), group) for group in found.values()]


def _messages(marks: list[Mark], axis: Axis) -> list[Markup]:
    made = []
    for at, group in _slots(marks, axis, SLOTS):
        many = f" ({len(group)} of them)" if len(group) > 1 else ""
        shape = SHAPES.get(group[0].what, "m-other")
        told = element("title", f"{group[0].text}{many}")
        made.append(element("use", told, href=f"#{shape}", x=f"{at:.2f}%", y=_MESSAGES))
    return made


def _notices(marks: list[Mark], axis: Axis) -> list[Markup]:
    made = []
    for at, group in _slots(marks, axis, SLOTS):
        told = element("title", _together([mark.text for mark in group]))
        made.append(element("use", told, href="#m-notice", x=f"{at:.2f}%", y=_TOLD))
    return made


def _failures(marks: list[Mark], axis: Axis) -> list[Markup]:
    made = []
    for at, group in _slots(marks, axis, 16):
        told = element("title", _together([f"{mark.number}: {mark.text}" for mark in group]))
        numbers = f"{group[0].number}" + (f"\u2013{group[-1].number}" if len(group) > 1 else "")
        anchor, shift = ("end", -9) if at > 85 else ("start", 9)
        made.append(element("use", told, href="#m-failure", x=f"{at:.2f}%", y=_TOLD))
        made.append(
            element("text", numbers, x=f"{at:.2f}%", dx=shift, y=_TOLD + 4, text_anchor=anchor, class_="number")
        )
    return made


def _together(texts: list[str]) -> str:
    """Return what a mark says on demand: the beginning of what happened there."""
    shown = "; ".join(text[:SAID] for text in texts[:3])
    return f"{shown}; and {len(texts) - 3} more" if len(texts) > 3 else shown


def _since(axis: Axis, time: float) -> str:
    return f"{time - axis.zero:+.1f} s"


def _summary(lane: Lane, axis: Axis) -> list[str]:
    """Return a lane in words."""
    told = [f"{span.what} from {_since(axis, span.begin)} to {_since(axis, span.end)}" for span in lane.states]
    told += [f"{span.what} for {span.end - span.begin:.1f} s from {_since(axis, span.begin)}" for span in lane.silences]
    for mark in lane.failures[:20]:
        told.append(f"failure {mark.number} at {_since(axis, mark.time)}: {mark.text[:SAID]}")
    kept = told[:20]
    return [*kept, f"and {len(told) - 20} more"] if len(told) > 20 else kept or ["nothing is recorded of it"]


def _as_table(facts: Facts) -> Markup:
    rows: list[list[object]] = []
    for lane in facts.lanes.values():
        states = ", ".join(f"{span.what} {span.begin - facts.session.began:+.3f} s" for span in lane.states[:20])
        shown = [span for span in lane.handlers if span.what in SHAPES][:20]
        handlers = ", ".join(f"{span.what} {span.end - span.begin:.3f} s" for span in shown)
        silent = ", ".join(f"{span.what} {span.end - span.begin:.1f} s" for span in lane.silences[:20])
        failed = ", ".join(str(mark.number) for mark in lane.failures[:20])
        told = [element("span", text or "-", class_="long") for text in (states, handlers)]
        rows.append([lane.rig, *told, silent or "-", failed or "-"])
    head: list[object] = ["rig", "states, from", "time in handlers", "silent", "failures"]
    return table(head, rows, "The lanes in words; times since the session's beginning")
