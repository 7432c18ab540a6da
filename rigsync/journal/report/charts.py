"""How exactly the rigs began together, and how their clocks and links were."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from rigsync._text import span_text
from rigsync.journal.report.axis import step_for
from rigsync.journal.report.facts import Facts, StartOf, Starts, Watched
from rigsync.journal.report.markup import Markup, element, joined, table
from rigsync.journal.report.series import Series, Step

ROW = 30
"""Pixels for each rig, where the starts are drawn."""
STEPS = 120
"""Steps that a chart shows; there is no room for more beside each other."""
_WIDE, _HIGH = 1000, 100
"""Units of a chart that is stretched to the page's width."""


def starts(facts: Facts) -> Markup:
    """Return when the rigs began to act: a drawing and a table for each EXPSTART."""
    if not facts.starts:
        return element("p", "No rig has said when it began.")
    return joined(*(_start(each, number) for number, each in enumerate(facts.starts, 1)))


def _start(starts: Starts, number: int) -> Markup:
    rigs = sorted(starts.rigs, key=lambda start: start.time)
    told = _skew(starts)
    against = "the instant that was agreed" if starts.at is not None else "the first start"
    rows: list[list[object]] = [
        [
            start.rig,
            f"{1000 * (start.time - starts.zero):+.3f}",
            f"\u00b1 {1000 * start.bound:.3f}",
            "arrival of the message" if start.is_estimate else "the rig's own stamp",
        ]
        for start in rigs
    ]
    head: list[object] = ["rig", "began, ms", "bound, ms", "by"]
    return joined(
        element("p", told, class_="lead"),
        _starts_drawn(starts, rigs, number, told),
        element(
            "p",
            f"Zero is {against}. A bar is where the start surely lies. A hollow mark says when the message came to a "
            "rig that does not tell when it began.",
            class_="note",
        ),
        table(head, rows, f"{starts.event}: when each rig began, after {against}", frozenset({1, 2})),
    )


def _skew(starts: Starts) -> str:
    times = [start.time for start in starts.rigs]
    if len(times) < 2:
        return f"{starts.event}: one rig, {starts.rigs[0].rig}."
    bounds = sorted(start.bound for start in starts.rigs)
    skew, doubt = 1000 * (max(times) - min(times)), 1000 * (bounds[-1] + bounds[-2])
    return f"{starts.event}: {len(times)} rigs began within {skew:.3f} ms of each other (\u00b1 {doubt:.3f} ms)."


def _starts_drawn(starts: Starts, rigs: list[StartOf], number: int, told: str) -> Markup:
    low = min(0.0, *(start.time - start.bound - starts.zero for start in rigs))
    high = max(0.0, *(start.time + start.bound - starts.zero for start in rigs))
    span = max(high - low, 1e-4)
    low, high = low - 0.04 * span, high + 0.04 * span
    step = step_for(high - low, 5)

    def place(seconds: float) -> float:
        return 100 * (seconds - low) / (high - low)

    height = ROW * len(rigs)
    made: list[Markup] = []
    for each in range(math.ceil(low / step), math.floor(high / step) + 1):
        x, kind = f"{place(each * step):.2f}%", "zero" if each == 0 else "grid"
        at = place(each * step)
        anchor = "start" if at < 6 else "end" if at > 94 else "middle"
        made.append(element("line", x1=x, x2=x, y1=0, y2=height, class_=kind))
        shown = f"{1000 * each * step:.6g} ms".replace("-", "\u2212")
        made.append(element("text", shown, x=x, y=height + 16, text_anchor=anchor, class_="tick"))
    for row, start in enumerate(rigs):
        y, offset = row * ROW, start.time - starts.zero
        left, right = place(offset - start.bound), place(offset + start.bound)
        made.append(element("text", start.rig, x=0, y=y + 12, class_="row"))
        made.append(
            element(
                "rect", x=f"{left:.2f}%", width=f"{max(right - left, 0.1):.2f}%", y=y + 17, height=6, class_="bound"
            )
        )
        told_of = f"{start.rig}: {1000 * offset:+.3f} ms \u00b1 {1000 * start.bound:.3f} ms"
        kind = "point guess" if start.is_estimate else "point"
        made.append(
            element("circle", element("title", told_of), cx=f"{place(offset):.2f}%", cy=y + 20, r=4.5, class_=kind)
        )
    desc = element("desc", told, id=f"starts-{number}")
    labelled = {"aria-labelledby": f"starts-{number}"}
    return element("svg", desc, *made, width="100%", height=height + 22, role="img", class_="draw starts", **labelled)


def links(facts: Facts) -> Markup:
    """Return how the clock and the link of each rig were over time."""
    watched = [one for one in facts.watched.values() if one.offset.steps or one.round_trip.steps or one.loss.steps]
    if not watched:
        return element("p", "The journal has no measurements of the links in this session.")
    made = [_link(facts, one, number) for number, one in enumerate(watched, 1)]
    note = (
        f"Each drawing is as wide as the session: {span_text(facts.end - facts.begin)}. The line is the value; the "
        "grey band is what it varied by, or, at the clock, the bound of its error. Clock: the rig's less the task's, "
        "and how it differed from that in the middle."
    )
    if any(len(one.round_trip.steps) > STEPS or one.round_trip.is_thinned for one in watched):
        note += " Neighbouring values are drawn as one; the journal has all that were kept."
    return joined(element("div", *made, class_="links"), element("p", note, class_="note"), _link_table(watched))


def _link(facts: Facts, one: Watched, number: int) -> Markup:
    drawn = []
    if one.offset.steps:
        middle = one.offset.middle
        drawn.append(
            _chart(facts, one.offset, f"clock about {_clock(middle)}", middle, lambda value: f"{1000 * value:+.3g} ms")
        )
    if one.round_trip.steps:
        drawn.append(_chart(facts, one.round_trip, "round trip", None, lambda value: f"{1000 * value:.3g} ms"))
    if one.loss.steps:
        drawn.append(_chart(facts, one.loss, "lost probes", None, lambda value: f"{100 * value:.3g} %", least=0.05))
    head = f"link-{number}"
    return element("section", element("h3", one.rig, id=head), *drawn, class_="link", aria_labelledby=head)


def _chart(
    facts: Facts,
    series: Series,
    name: str,
    middle: float | None,
    shown: Callable[[float], str],
    least: float = 1e-4,
) -> Markup:
    """Return one value over time; about `middle` where that is given, else from 0."""
    low, high = (0.0, series.high) if middle is None else (series.low - middle, series.high - middle)
    if middle is not None:
        low, high = min(low, -least / 2), max(high, least / 2)
    high = max(high, least)
    base = middle or 0.0
    begin, span = facts.begin, max(facts.end - facts.begin, 1e-3)

    def point(time: float, value: float) -> str:
        x = _WIDE * min(max((time - begin) / span, 0.0), 1.0)
        y = _HIGH * (1 - (value - base - low) / (high - low))
        return f"{x:.0f},{y:.1f}"

    steps = series.thinned(STEPS)
    if len(steps) == 1:  # a line as long as the session is short
        steps = [replace(steps[0], begin=begin, end=begin), replace(steps[0], begin=facts.end, end=facts.end)]
    band = _band(steps, point)
    line = " ".join(point((step.begin + step.end) / 2, step.last) for step in steps)
    inner = [element("polygon", points=band, class_="band"), element("polyline", points=line, class_="value")]
    stretched = element(
        "svg",
        *inner,
        x=0,
        y=0,
        width="100%",
        height=56,
        viewBox=f"0 0 {_WIDE} {_HIGH}",
        preserveAspectRatio="none",
    )
    told = f"{name}, from {shown(low)} to {shown(high)}"
    frame = [
        element("line", x1=0, x2="100%", y1=0.5, y2=0.5, class_="grid"),
        element("line", x1=0, x2="100%", y1=55.5, y2=55.5, class_="axis"),
    ]
    drawing = element("svg", *frame, stretched, width="100%", height=56, role="img", aria_label=told, class_="draw")
    return element("figure", element("figcaption", told), drawing)


def _band(steps: list[Step], point: Callable[[float, float], str]) -> str:
    upper = [point((step.begin + step.end) / 2, step.high) for step in steps]
    lower = [point((step.begin + step.end) / 2, step.low) for step in reversed(steps)]
    return " ".join([*upper, *lower])


def _clock(offset: float) -> str:
    return f"{offset:+.3f} s" if abs(offset) >= 1 else f"{1000 * offset:+.3f} ms"


def _link_table(watched: list[Watched]) -> Markup:
    rows: list[list[object]] = []
    for one in watched:
        has_clock, has_trip = bool(one.offset.steps), bool(one.round_trip.steps)
        rows.append(
            [
                one.rig,
                _clock(one.offset.middle) if has_clock else "-",
                f"\u00b1 {1000 * one.bound:.3f} ms" if has_clock else "-",
                f"{1e6 * one.drift:+.2f} ppm" if one.drift is not None else "-",
                f"{1000 * one.round_trip.middle:.2f} ms" if has_trip else "-",
                f"{1000 * one.round_trip.high:.2f} ms" if has_trip else "-",
                f"{100 * one.loss.high:.1f} %" if one.loss.steps else "-",
                f"{max(one.offset.count, one.round_trip.count):,}",
            ]
        )
    head: list[object] = [
        "rig",
        "clock",
        "largest bound",
        "drift, last",
        "round trip, median",
        "largest",
        "most lost",
        "values",
    ]
    return table(head, rows, "Clocks and links in numbers", frozenset(range(1, 8)))
