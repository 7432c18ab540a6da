"""The page: a session's report as one file of HTML, which asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rigsync._text import size_text, span_text
from rigsync.journal.query import Run
from rigsync.journal.report.axis import Axis
from rigsync.journal.report.charts import links, starts
from rigsync.journal.report.facts import Facts, Recorded
from rigsync.journal.report.lanes import defs, lanes
from rigsync.journal.report.markup import Markup, element, joined, lines, markup, table
from rigsync.journal.report.style import STYLE
from rigsync.journal.report.verdict import Verdict, verdict_of
from rigsync.journal.rows import OK

MARK = '<meta name="rigsync" content="report of '
"""By this, near its beginning, a file is known to be a report."""
FILES = "files"
"""Where a run has its configuration files, as they were: text by path."""
LONGEST_FILE = 24_000
"""Most characters of a configuration file on the page."""
ROOM_FOR_FILES = 200_000
"""Most characters of all of them."""
_FINE = 3.0
"""Seconds below which a duration is told in milliseconds."""


def page_of(facts: Facts, source: str, version: str, now: float) -> str:
    """Return the report.

    Parameters
    ----------
    facts : Facts
        What it tells.
    source : str
        The journal that it was made from.
    version : str
        Of rigsync.
    now : float
        Unix time at which it is made.
    """
    verdict, session = verdict_of(facts), facts.session
    well = "complete" if session.ended is not None else "no end yet"
    outcomes = {rig: well if told == OK else told for rig, told in session.rigs.items()}
    axis = Axis(facts)
    parts = [
        _section("What was recorded", "recorded", _recorded(facts)),
        _section("Over time", "lanes", _stretched(axis), lanes(facts, axis, outcomes)),
        _section("How exactly the rigs began", "starts", starts(facts)),
        _section("What happened", "events", _happenings(facts)),
        _section("Messages", "messages", _messages(facts)),
        _section("Clocks and links", "links", links(facts)),
        _section("Who commanded", "who", _who(facts)),
        _section("Programs and versions", "versions", _versions(facts)),
        _section("Configuration files, as they were", "files", _files(facts)),
    ]
    body = joined(
        defs(),
        element("header", _head(facts, verdict)),
        element("main", *parts),
        element(
            "footer",
            f"Made by rigsync {version} at {_moment(now)} from {source}. Times of day are those of the computer that "
            f"made it ({_local('UTC%z', session.began)}).",
        ),
    )
    return _document(session.ref, mark_line(facts), body)


def mark_line(facts: Facts) -> str:
    """Return the line of a report by which it is known which session it is of."""
    run = facts.runs[facts.session.run]
    return f'{MARK}{markup(run.uuid)}/{facts.session.began:.6f}">'


def _document(title: str, mark: str, body: Markup) -> str:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            mark,
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{markup(title)} - rigsync</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            f"<body>{body}</body>",
            "</html>",
            "",
        ]
    )


def _section(title: str, name: str, *content: object) -> Markup:
    return element("section", element("h2", title, id=name), *content, aria_labelledby=name)


# ------------------------------------------------------------------------------------------------------- the head


def _head(facts: Facts, verdict: Verdict) -> Markup:
    session, run = facts.session, facts.runs[facts.session.run]
    missing = [element("li", f"{rig}: {text}" if rig else text) for rig, text in verdict.missing]
    remarks = [element("li", text) for text in verdict.remarks]
    ended = session.ended
    facts_told: list[tuple[str, object]] = [
        ("Subject", session.subject or "-"),
        ("Began", _moment(session.began)),
        ("Ended", "-" if ended is None else _moment(ended)),
        ("Lasted", "-" if ended is None else span_text(ended - session.began)),
        ("Task PC" if run.kind == "coordinator" else "Rig", run.host if run.kind == "coordinator" else run.name),
        ("Program", run.program),
        ("Rigs", ", ".join(session.rigs) or "-"),
    ]
    listed = [joined(element("dt", name), element("dd", value)) for name, value in facts_told]
    return joined(
        element("p", "Report of a session", class_="kind"),
        element("h1", session.ref),
        element(
            "div",
            element("p", verdict.line),
            element("ul", *missing) if missing else None,
            class_="verdict" if verdict.is_complete else "verdict bad",
            role="status",
        ),
        element("ul", *remarks, class_="remarks") if remarks else None,
        element("dl", *listed),
    )


# --------------------------------------------------------------------------------------------------- the sections


def _recorded(facts: Facts) -> Markup:
    rows: list[list[object]] = []
    for rig in dict.fromkeys([*facts.session.rigs, *facts.recorded]):
        rows += _recorded_rows(facts, rig, facts.recorded.get(rig))
    head: list[object] = ["rig", "file", "bytes", "frames", "duration", "verified by"]
    left_out = sum(one.more for one in facts.recorded.values())
    note = f"{left_out:,} more files are not listed: the rigs told only their number, or they are too many."
    return joined(
        table(head, rows, "Files as the rigs told them at the end, each on its own computer", frozenset({2, 3, 4})),
        element("p", note, class_="left-out") if left_out else None,
    )


def _recorded_rows(facts: Facts, rig: str, recorded: Recorded | None) -> list[list[object]]:
    last = "; ".join(f"{item}: {value}" for item, value in list(facts.progress.get(rig, {}).items())[:4])
    if recorded is None or not recorded.files:
        told = "told nothing of files" + (f"; last progress: {last}" if last else "")
        seconds = recorded.seconds if recorded else None
        return [[rig, told, "-", "-", _duration(seconds), "-"]]
    rows: list[list[object]] = []
    for file in recorded.files:
        rows.append(
            [
                rig,
                element("span", file.path, class_="path"),
                element("span", size_text(file.bytes), title=f"{file.bytes:,} bytes")
                if file.bytes is not None
                else "-",
                "-" if file.frames is None else f"{file.frames:,}",
                _duration(recorded.seconds),
                file.verified or "nobody",
            ]
        )
    return rows


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s" if seconds < 600 else span_text(seconds)


def _stretched(axis: Axis) -> Markup | None:
    if not axis.is_stretched:
        return None
    text = "Each part of the axis has a scale of its own: the beginning and the end, where most happens, are stretched."
    return element("p", f"Time since the session's beginning. {text}", class_="note")


def _happenings(facts: Facts) -> Markup:
    if not facts.happenings:
        return element("p", "Nothing but the messages below: no failure, no notice, no lost link.")
    rows: list[list[object]] = []
    for each in facts.happenings:
        text = element("span", each.text, class_="long fail" if each.number else "long")
        rows.append([each.number or "", _time(facts, each.time), each.rig or "-", text])
    head: list[object] = ["failure", "time", "rig", "what"]
    rest = facts.happenings_left_out
    return joined(
        table(head, rows, "Failures, notices and changes of links", frozenset({0})),
        _left_out(facts, rest, "more are not listed") if rest else None,
    )


def _messages(facts: Facts) -> Markup:
    rows: list[list[object]] = []
    for push in facts.pushes:
        if push.failed:
            outcome: object = element("span", f"failed: {', '.join(push.failed)}", class_="fail")
        else:
            outcome = "not answered" if push.seconds is None else "all answered"
        took = "-" if push.seconds is None else _milliseconds(push.seconds)
        to = ", ".join(push.rigs) if len(push.rigs) < len(facts.lanes) else f"all {len(push.rigs)} rigs"
        at = "-" if push.at is None else f"{push.at - push.time:+.3f} s"
        rows.append([_time(facts, push.time), push.event, to, at, took, push.slowest or "-", outcome])
    head: list[object] = ["time", "message", "to", "agreed instant", "took", "slowest", "outcome"]
    rest = facts.pushes_left_out
    return joined(
        table(head, rows, "Messages to the rigs, and how long the slowest took to answer", frozenset({3, 4})),
        _left_out(facts, rest, "more messages are not listed") if rest else None,
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < _FINE else f"{seconds:.2f} s"


def _who(facts: Facts) -> Markup:
    rows: list[list[object]] = []
    for command in sorted(facts.commands.values(), key=lambda command: not command.messages.total()):
        sent = ", ".join(f"{event} \u00d7 {count}" if count else event for event, count in command.messages.items())
        sent = "; ".join(part for part in ("in charge" if command.is_in_charge else "", sent) if part)
        rows.append([command.who, _time(facts, command.first), _time(facts, command.last), sent or "-"])
    if not rows:
        return element("p", "The journal does not say.")
    head: list[object] = ["who", "first", "last", "messages"]
    return table(head, rows, "Programs that sent messages, or were in charge at the rigs")


def _versions(facts: Facts) -> Markup:
    rows: list[list[object]] = []
    for run in facts.runs.values():
        told = "; ".join(f"{key}: {value}" for key, value in _scalars(run.about))
        rows.append([_name_of(run), run.host, run.program, told or "-"])
    made: list[object] = [table(["who", "computer", "program", "versions"], rows, "Programs that wrote this journal")]
    watched = [one for one in facts.watched.values() if one.version or one.dialect]
    if watched:
        addresses = facts.runs[facts.session.run].about.get("rigs")
        places = addresses if isinstance(addresses, dict) else {}
        listed: list[list[object]] = [
            [one.rig, places.get(one.rig, "-"), one.version or "-", one.dialect or "-"] for one in watched
        ]
        made.append(table(["rig", "address", "rigsync", "dialect"], listed, "Rigs, as they say"))
    return joined(*made)


def _name_of(run: Run) -> str:
    return run.name if run.kind == "rig" else "coordinator"


def _scalars(about: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    """Yield the simple values of what is known of a run, but for what stands elsewhere or is for programs alone."""
    for key, value in about.items():
        if isinstance(value, dict) and key not in (FILES, "rigs", "clock"):
            yield from _scalars(value, f"{prefix}{key} ")
        elif isinstance(value, (str, int, float)):
            yield f"{prefix}{key}", value


def _files(facts: Facts) -> Markup:
    made: list[object] = []
    room = ROOM_FOR_FILES
    for run in facts.runs.values():
        files = run.about.get(FILES)
        for name, text in files.items() if isinstance(files, dict) else ():
            if not isinstance(text, str):
                made.append(element("p", f"{name} could not be read when the program began."))
                continue
            shown = min(LONGEST_FILE, max(room, 0))
            room -= min(len(text), shown)
            made.append(element("h3", name, element("small", f"{_name_of(run)} on {run.host}")))
            made.append(element("pre", lines(text, shown), tabindex="0"))
    return joined(*made) if made else element("p", "The journal has none.")


# ------------------------------------------------------------------------------------------------------- in words


def _left_out(facts: Facts, rest: int, what: str) -> Markup:
    return element("p", f"{rest:,} {what}: rigsync log {facts.session.ref} shows all.", class_="left-out")


def _moment(instant: float) -> str:
    return _local("%Y-%m-%d %H:%M:%S", instant)


def _local(form: str, instant: float) -> str:
    try:
        return time.strftime(form, time.localtime(instant))
    except (OverflowError, OSError, ValueError):  # a time that no calendar has
        return f"{instant:g}"


def _time(facts: Facts, instant: float) -> Markup:
    """Return a moment as the time of day, and since the session's beginning."""
    of_day = f"{_local('%H:%M:%S', instant)}.{int(instant * 1000) % 1000:03}"
    return element("span", of_day, class_="time", title=f"{instant - facts.session.began:+.3f} s")
