"""Where a moment stands in a drawing, in percent of its width, so that a page of any width needs no script."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rigsync.journal.report.facts import Facts
from rigsync.journal.report.markup import Markup, element, joined

HEAD = ("EXPINFO", "EXPINIT", "EXPSTART")
TAIL = ("EXPEND", "EXPINTERRUPT", "EXPCLEANUP")
STRETCHED = 0.28
"""Share of the width for the beginning, and for the end, where these are short beside the whole."""
SHORT = 0.12
"""Share of the time below which they are short."""
GAP = 1.5
"""Percent of the width between two parts of an axis."""
_STEPS = (1, 2, 5)
_OF_CLOCKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


def step_for(span: float, most: int) -> float:
    """Return the distance of round numbers of which at most so many lie within a span."""
    least = span / max(1, most)
    if least <= 0 or not math.isfinite(least):
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next((step * power for step in _STEPS if step * power >= least), 10 * power)


def _clock_step(span: float, most: int) -> float:
    if span / most <= 1:
        return step_for(span, most)
    return next((step for step in _OF_CLOCKS if step >= span / most), 86400.0 * math.ceil(span / most / 86400))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an axis, all of which has one scale."""

    begin: float
    end: float
    """Unix time in seconds."""
    left: float
    right: float
    """Percent."""


class Axis:
    """The time of a session. Its beginning and its end, where most happens, are stretched if they are short."""

    def __init__(self, facts: Facts):
        begin, end = facts.begin, max(facts.end, facts.begin + 0.001)
        self.zero = facts.session.began
        self.parts = _parts(begin, end, *_marks(facts, begin, end))

    @property
    def is_stretched(self) -> bool:
        """Whether it has several parts, each with a scale of its own."""
        return len(self.parts) > 1

    def place(self, time: float) -> float:
        """Return where a moment stands, in percent."""
        for part in self.parts:
            if time <= part.end or part is self.parts[-1]:
                share = (time - part.begin) / (part.end - part.begin)
                return part.left + min(max(share, 0.0), 1.0) * (part.right - part.left)
        raise AssertionError("an axis has a last part")

    def ticks(self) -> list[tuple[float, str]]:
        """Return where ticks stand, in percent, and what is written there."""
        made = []
        for part in self.parts:
            wide = part.right - part.left
            step = _clock_step(part.end - part.begin, 6 if wide > 60 else 3 if wide > 35 else 2)
            number = math.ceil((part.begin - self.zero) / step - 1e-6)
            while (time := self.zero + number * step) <= part.end + 1e-6 * step:
                made.append((self.place(time), time_label(number * step, step)))
                number += 1
        return made

    def drawn(self, is_first: bool) -> Markup:
        """Return the axis by itself, above the lanes or below them."""
        base, text = (19, 12) if is_first else (1, 17)
        made = [_line(part.left, part.right, base) for part in self.parts]
        for at, label in self.ticks():
            x, anchor = f"{at:.2f}%", "start" if at < 6 else "end" if at > 94 else "middle"
            made.append(element("line", x1=x, x2=x, y1=base - 3, y2=base + 3, class_="axis"))
            made.append(element("text", label, x=x, y=text, text_anchor=anchor, class_="tick"))
        return element("svg", *made, width="100%", height=22, aria_hidden="true", class_="draw")

    def grid(self, height: int) -> Markup:
        """Return the lines behind a lane."""
        made = []
        for at, _ in self.ticks():
            made.append(element("line", x1=f"{at:.2f}%", x2=f"{at:.2f}%", y1=0, y2=height, class_="grid"))
        for part in self.parts[1:]:
            x = f"{part.left - GAP:.2f}%"
            made.append(element("rect", x=x, y=0, width=f"{GAP}%", height=height, class_="gap"))
        return joined(*made)


def _line(left: float, right: float, y: int) -> Markup:
    return element("line", x1=f"{left:.2f}%", x2=f"{right:.2f}%", y1=y, y2=y, class_="axis")


def _marks(facts: Facts, begin: float, end: float) -> tuple[float, float]:
    """Return until when a session begins, and from when it ends."""
    head, tail = begin, end
    for push in facts.pushes:
        if push.event in HEAD and tail == end:
            head = max(head, (push.at or push.time) + (push.seconds or 0.0))
        elif push.event in TAIL and tail == end:
            tail = push.time
    pad = 0.06 * max(head - begin, 0.1), 0.06 * max(end - tail, 0.1)
    return min(head + pad[0], end), max(tail - pad[1], begin)


def _parts(begin: float, end: float, head: float, tail: float) -> list[Part]:
    whole = end - begin
    first = STRETCHED if begin < head and head - begin < SHORT * whole else 0.0
    last = STRETCHED if tail < end and end - tail < SHORT * whole else 0.0
    cuts, edges = [begin], [0.0]
    if first:
        cuts, edges = [*cuts, head], [*edges, 100 * first]
    if last:
        cuts, edges = [*cuts, tail], [*edges, 100 * (1 - last)]
    cuts, edges = [*cuts, end], [*edges, 100.0]
    made = []
    for place in range(len(cuts) - 1):
        left = edges[place] + (GAP / 2 if place else 0.0)
        right = edges[place + 1] - (GAP / 2 if place < len(cuts) - 2 else 0.0)
        made.append(Part(cuts[place], cuts[place + 1], left, right))
    return made


def time_label(seconds: float, step: float) -> str:
    """Return a time since the session's beginning: ``1.5 s``, ``2:05``, ``1:02:05``; for a step, in seconds."""
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    sign, seconds = ("\u2212" if seconds < -1e-9 else ""), abs(seconds)
    if seconds < 60:
        return f"{sign}{seconds:.{places}f} s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    shown = f"{rest:0{places + 3 if places else 2}.{places}f}"
    return f"{sign}{hours}:{minutes:02}:{shown}" if hours else f"{sign}{minutes}:{shown}"
