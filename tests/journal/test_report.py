"""The report: what it says of a session, the command, and the reports that a coordinator writes at the end of each."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cli_programs import Outcome, environment, run_here
from processes import LONG, ROOT, until

from journal.filling import REF, T0, Filler
from journal.made_up import BEGAN, MadeUp, unlucky
from rigsync import Auxiliaries, Coordinator, Rig, load_rigs
from rigsync.journal.query import Journal
from rigsync.journal.report import background
from rigsync.journal.report.axis import Axis, time_label
from rigsync.journal.report.facts import Facts
from rigsync.journal.report.markup import element, lines, markup
from rigsync.journal.report.reading import facts_of, recorded_of
from rigsync.journal.report.series import MOST, Series
from rigsync.journal.report.verdict import verdict_of
from rigsync.journal.report.writing import file_name, page, write_file, write_into
from rigsync.journal.whole import write_whole

RIGS = ("cameras", "ephys")


class _Text(HTMLParser):
    """The text of a page, each piece in a line, and its elements."""

    def __init__(self, text: str):
        super().__init__()
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open and self.open[-1] != "style":
            self.pieces.append(data.strip())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def facts_from(path: Path, ref: str | None = None) -> Facts:
    with Journal(path) as journal:
        session = journal.session(ref)
        return facts_of(session, journal.events(session), journal.run)


def made(path: Path, session: MadeUp) -> Facts:
    session.write(path)
    return facts_from(path, session.ref)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def filler(path: Path) -> Iterator[Filler]:
    filler = Filler(path)
    yield filler
    filler.close()


# ------------------------------------------------------------------------------------------------------ first line


def test_a_complete_session_says_so_and_what_it_has(path: Path) -> None:
    verdict = verdict_of(made(path, MadeUp()))
    assert verdict.is_complete
    assert verdict.line == "Complete: 4 rigs, 8 files, 303 MB"
    assert verdict.missing == ()
    assert verdict.remarks == ()


@pytest.mark.parametrize(
    ("session", "line", "missing"),
    [
        (
            MadeUp(outcome="incomplete", troubles={"ephys": "lost: silent for 5 beats"}),
            "Not complete: 1 of 4 rigs lacks something (ephys)",
            [("ephys", "lost: silent for 5 beats")],
        ),
        (
            MadeUp(outcome="interrupted", troubles={"ephys": "a", "scanner": "b"}),
            "Interrupted: 2 of 4 rigs lack something (ephys, scanner)",
            [("ephys", "a"), ("scanner", "b")],
        ),
        (
            MadeUp(outcome="interrupted"),
            "Interrupted: the session has the outcome 'interrupted'",
            [],
        ),
        (
            MadeUp(outcome=None),
            "Not ended: the journal knows no end of it: its program has closed without ending it",
            [("", "the journal knows no end of it: its program has closed without ending it")],
        ),
        (
            MadeUp(recorded={"ephys": {"files": [{"path": "probe.bin", "bytes": 0}]}}),
            "Not complete: 1 of 4 rigs lacks something (ephys)",
            [("ephys", "probe.bin is empty")],
        ),
        (
            MadeUp(rigs=[f"r{number}" for number in range(9)], troubles={f"r{number}": "x" for number in range(6)}),
            "Not complete: 6 of 9 rigs lack something (r0, r1, r2, r3 and 2 more)",
            [(f"r{number}", "x") for number in range(6)],
        ),
    ],
)
def test_the_first_line_says_what_is_missing(
    path: Path, session: MadeUp, line: str, missing: list[tuple[str, str]]
) -> None:
    verdict = verdict_of(made(path, session))
    assert not verdict.is_complete
    assert (verdict.line, list(verdict.missing)) == (line, missing)


def test_what_was_wrong_before_is_told_and_counted_among_no_failures(path: Path) -> None:
    dark, reason = {"problem": "dark", "age": 5000.0}, {"status": "RUNNING", "reason": "fell", "age": 5000.0}
    notices = [("ephys", 0.2, "failure", dark), ("ephys", 0.4, "status", reason)]
    facts = made(path, MadeUp(notices=[*notices, ("ephys", 0.6, "failure", {"problem": "full", "age": 3.0})]))
    told = [(happening.text.partition(" (since ")[0], happening.number) for happening in facts.happenings]
    assert [each for each in told if each[0] in ("dark", "stopped by itself: fell", "full")] == [
        ("dark", None),
        ("stopped by itself: fell", None),
        ("full", 1),
    ]


def test_a_failure_after_the_clock_was_set_back_is_one_of_the_session(path: Path) -> None:
    facts = made(path, MadeUp(notices=[("ephys", -60.0, "failure", {"problem": "full"})]))
    assert [each.number for each in facts.happenings if each.text == "full"] == [1]


def test_a_notice_of_a_labs_own_that_is_called_finish_is_told_as_it_is(path: Path) -> None:
    facts = made(path, MadeUp(notices=[("ephys", 0.2, "finish", {"trial": 3})]))
    assert [each.text for each in facts.happenings if "finish" in each.text or "done" in each.text] == ["finish: 3"]


def test_what_one_has_to_know_besides_is_said(path: Path) -> None:
    verdict = verdict_of(made(path, unlucky()))
    assert list(verdict.remarks) == [
        "Silent for a while: cameras:right (1 min 12 s).",
        "3 failures on the way, numbered below.",
        "Told nothing of their files: ephys.",
    ]


def test_a_rig_that_has_recorded_only_for_a_part_is_named(path: Path) -> None:
    told = {"seconds": 743.1, "files": [{"path": "probe.bin", "bytes": 5, "frames": None, "verified": "size"}]}
    verdict = verdict_of(made(path, MadeUp(seconds=1440.0, recorded={"ephys": told})))
    assert verdict.is_complete
    assert list(verdict.remarks) == ["ephys has recorded 12 min 23 s of 24 min."]


def test_what_nobody_has_confirmed_or_looked_at_is_not_called_complete(path: Path, filler: Filler) -> None:
    run = filler.run(closed=T0 + 99)
    session = filler.session(run, rigs={"osc": "ok", "cameras": "ok"}, outcome="complete")
    told = {"recorded": {"seconds": 3, "files": [{"path": "a", "bytes": 5, "verified": None}]}}
    answers = {"osc": [None, {"unconfirmed": "sent"}], "cameras": [None, told]}
    data = {"request_time": 1.0, "event": "EXPEND", "answers": answers, "failures": {}, "starts": {}, "at": None}
    filler.record(run, session, "PushCompleted", data, 9)
    verdict = verdict_of(facts_from(path))
    assert verdict.line == "Not complete: 1 of 2 rigs lacks something (osc)"
    assert verdict.missing == (("osc", "nobody has confirmed it (EXPEND: sent); look there"),)
    assert verdict.remarks[-1] == "Not all files were looked at after the recording: cameras."


def test_a_killed_program_is_told_apart_from_one_that_closed(path: Path, filler: Filler) -> None:
    filler.session(filler.run(), ended=None, outcome=None)
    assert verdict_of(facts_from(path)).line == (
        "Not ended: the journal knows no end of it: it goes on, or its program was killed"
    )


def test_a_journal_that_misses_records_says_so(path: Path, filler: Filler) -> None:
    run = filler.run()
    filler.record(run, filler.session(run), "JournalRecovered", {"path": "x", "missing": 1234}, 5)
    remarks = verdict_of(facts_from(path)).remarks
    assert "The journal could not be written for a while; it lacks 1,234 records." in remarks


# ----------------------------------------------------------------------------------------------------------- facts


def test_the_lanes_have_states_silences_handlers_and_numbered_failures(path: Path) -> None:
    facts = made(path, unlucky())
    lane = facts.lanes["cameras:right"]
    assert [span.what for span in lane.states] == ["CONNECTED", "INITIALIZED", "RUNNING", "STOPPED", "CONNECTED"]
    assert all(before.end == after.begin for before, after in itertools.pairwise(lane.states))
    assert [(span.what, round(span.end - span.begin)) for span in lane.silences] == [("lost", 72)]
    assert [span.what for span in lane.handlers] == ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]
    assert [mark.number for mark in facts.lanes["ephys"].failures] == [2, 3]
    assert [each.number for each in facts.happenings if each.number] == [1, 2, 3]


def test_streams_that_come_and_go_are_told_in_words(path: Path, filler: Filler) -> None:
    run = filler.run()
    session = filler.session(run)
    for when, kind in enumerate(("StreamAdded", "StreamRemoved")):
        filler.record(run, session, kind, {"id": "preview", "info": {"uri": "rtsp://a"}}, when, rig="cameras")
    assert [(each.rig, each.text) for each in facts_from(path).happenings] == [
        ("cameras", "new stream preview"),
        ("cameras", "stream preview is gone"),
    ]


def test_a_handler_begins_when_the_rig_says_and_ends_with_its_answer(path: Path, filler: Filler) -> None:
    run = filler.run()
    session = filler.session(run)
    begun = {"request_time": 7.5, "event": "EXPSTART", "args": [REF, None], "rigs": ["cameras"], "at": T0 + 2}
    filler.record(run, session, "PushBegun", begun, 1)
    filler.record(run, session, "MessageReceived", {"event": "EXPSTART", "request_time": 7.5}, 2.75, rig="cameras")
    starts = {"cameras": {"time": T0 + 2.25, "bound": 0.001, "is_estimate": False}}
    data = {"request_time": 7.5, "event": "EXPSTART", "answers": {"cameras": [REF, {}]}, "failures": {}}
    filler.record(run, session, "PushCompleted", {**data, "starts": starts, "at": T0 + 2}, 2.8)
    facts = facts_from(path)
    (handler,) = facts.lanes["cameras"].handlers
    assert handler.text == "EXPSTART took 0.500 s"
    (push,) = facts.pushes
    assert push.seconds == pytest.approx(0.75)  # from the instant
    (starts_of,) = facts.starts
    assert starts_of.zero == T0 + 2
    assert starts_of.rigs[0].time - starts_of.zero == pytest.approx(0.25)


def test_a_push_that_nobody_saw_completed_is_told_as_not_answered(path: Path, filler: Filler) -> None:
    run = filler.run()
    begun = {"request_time": 7.5, "event": "EXPEND", "args": [], "rigs": ["cameras"], "at": None}
    filler.record(run, filler.session(run, ended=None, outcome=None), "PushBegun", begun, 1)
    (push,) = facts_from(path).pushes
    assert (push.event, push.seconds, push.failed) == ("EXPEND", None, ())


def test_what_a_rig_and_its_coordinator_both_tell_is_told_once(path: Path, filler: Filler) -> None:
    run, own = filler.run(closed=T0 + 99), filler.run("rig", "cameras", closed=T0 + 99)
    session, seen = filler.session(run), filler.session(own)
    body = {"topic": "failure", "key": "left.mp4", "body": {"problem": "the disk is full"}}
    filler.record(own, seen, "Notice", body, 5.0, rig="cameras", failure=1)
    filler.record(run, session, "Notice", body, 5.1, rig="cameras", failure=1)
    filler.record(own, seen, "HandlerDue", {"event": "EXPEND", "task": 1}, 6.0)
    filler.record(own, seen, "MessageHandled", {"event": "EXPEND", "source": "192.168.1.10:5", "error": None}, 6.4)
    facts = facts_from(path)
    assert [each.text for each in facts.happenings] == ["left.mp4: the disk is full"]
    assert [span.text for span in facts.lanes["cameras"].handlers] == ["EXPEND took 0.400 s"]
    assert list(facts.commands["192.168.1.10, as the rigs tell"].messages) == ["EXPEND"]


def test_states_are_in_the_order_of_their_times(path: Path, filler: Filler) -> None:
    """A slow rig's answer completes the push; what the others have done since is told before."""
    run = filler.run()
    session = filler.session(run)
    for at, state in ((1, "RUNNING"), (3, "STOPPED"), (4, "CONNECTED")):
        body = {"topic": "status", "key": None, "body": {"status": state, "reason": None}}
        filler.record(run, session, "Notice", body, at, rig="cameras")
    filler.record(run, session, "MessageReceived", {"event": "EXPEND", "request_time": 7.5}, 3.1, rig="cameras")
    data = {"request_time": 7.5, "event": "EXPEND", "answers": {"cameras": [{}]}, "failures": {}, "starts": {}}
    filler.record(run, session, "PushCompleted", data, 9)
    states = [(span.what, round(span.begin - T0)) for span in facts_from(path).lanes["cameras"].states]
    assert states == [("RUNNING", 1), ("STOPPED", 3), ("CONNECTED", 4)]


def test_what_a_rig_has_noted_by_a_clock_that_nobody_knows_is_not_placed(path: Path, filler: Filler) -> None:
    run, own = filler.run(), filler.run("rig", "cameras", collected=json.dumps({"rig": "cameras", "time": T0}))
    filler.session(run)
    seen = filler.session(own)
    filler.record(own, seen, "StatusChanged", {"before": "CONNECTED", "after": "RUNNING", "reason": None}, 5)
    facts = facts_from(path)
    assert facts.lanes["cameras"].states == []
    assert "1 record of rigs whose clocks are not known: left out." in verdict_of(facts).remarks


def test_a_time_that_no_calendar_has_stops_no_report(path: Path, filler: Filler) -> None:
    run = filler.run()
    session = filler.session(run, began=1e17, ended=2e17)
    for at in (1e18, -1e18, 0.0):
        filler.record(run, session, "LinkLost", {"reason": "silent"}, at, rig="cameras")
    with Journal(path) as journal:
        pieces = _Text(page(journal, journal.session())[0]).pieces
    assert any("of rigs whose clocks are not known: left out." in piece for piece in pieces)


def test_a_rig_has_reports_of_its_own(path: Path, filler: Filler) -> None:
    run = filler.run("rig", "cameras", closed=T0 + 99)
    session = filler.session(run, rigs={"cameras": "ok"}, files=0, bytes=0)
    for at, before, after in (
        (1, "CONNECTED", "INITIALIZED"),
        (2, "INITIALIZED", "RUNNING"),
        (8, "RUNNING", "STOPPED"),
    ):
        filler.record(run, session, "StatusChanged", {"before": before, "after": after, "reason": None}, at)
    filler.record(run, session, "HandlerDue", {"event": "EXPEND"}, 7.5)
    filler.record(run, session, "MessageHandled", {"event": "EXPEND", "source": "10.0.0.1:5", "error": None}, 8)
    facts = facts_from(path)
    assert [span.what for span in facts.lanes["cameras"].states] == ["INITIALIZED", "RUNNING", "STOPPED"]
    assert [span.text for span in facts.lanes["cameras"].handlers] == ["EXPEND took 0.500 s"]
    verdict = verdict_of(facts)
    assert (verdict.line, verdict.remarks) == ("Complete: 1 rig", ("No rig told which files it has recorded.",))


def test_who_commanded_is_told_once_however_many_rigs_tell_of_it(path: Path, filler: Filler) -> None:
    run = filler.run(program="task.py, pid 7", host="behaviour-3")
    session = filler.session(run)
    for number, event in enumerate(["EXPSTART", "EXPSTATUS", "EXPSTATUS"]):
        begun = {"request_time": 7.0 + number, "event": event, "args": [], "rigs": list(RIGS), "at": None}
        filler.record(run, session, "PushBegun", begun, number)
    for number, rig in enumerate(RIGS):
        filler.record(run, session, "Sample", {"owner": "192.168.1.10"}, 4 + number, rig=rig)
        told = {"topic": "log", "key": "message", "body": {"message": "EXPEND", "from": f"192.168.1.99:{number}"}}
        filler.record(run, session, "Notice", told, 6 + number, rig=rig)
    shown = [
        (one.who, dict(one.messages), one.is_in_charge, round(one.last - T0))
        for one in facts_from(path).commands.values()
    ]
    assert shown == [
        ("task.py, pid 7 on behaviour-3", {"EXPSTART": 1, "EXPSTATUS": 2}, False, 2),
        ("192.168.1.10, as the rigs tell", {}, True, 5),
        ("192.168.1.99, as the rigs tell", {"EXPEND": 0}, False, 7),
    ]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([{"error": "ZeroDivisionError", "message": "division by zero"}], "ZeroDivisionError: division by zero"),
        ([{"reason": "the animal is tired"}], "the animal is tired"),
        (["Ctrl-C"], "Ctrl-C"),
        ([None], "no reason was given"),
        ([], "no reason was given"),
        (None, "no reason was given"),
        ([{"a": 1, "b": 2}], '{"a": 1, "b": 2}'),
    ],
)
def test_an_interrupted_session_says_why(path: Path, filler: Filler, args: Any, reason: str) -> None:
    run = filler.run()
    session = filler.session(run, outcome="interrupted")
    begun = {"request_time": 7.5, "event": "EXPINTERRUPT", "args": args, "rigs": ["cameras"], "at": None}
    filler.record(run, session, "PushBegun", begun, 1)
    facts = facts_from(path)
    assert verdict_of(facts).line == f"Interrupted: broken off by EXPINTERRUPT: {reason}"
    assert [each.text for each in facts.happenings] == [f"EXPINTERRUPT: {reason}"]


def test_a_page_has_bounds_whatever_rigs_send(path: Path, filler: Filler) -> None:
    """Thousands of long texts, each of a topic of its own: what the page has no room for is counted."""
    run = filler.run(about=json.dumps({"files": {f"{n}.yaml": "<&>\n" * 20_000 for n in range(12)}}))
    session = filler.session(run, rigs={"cameras": "ok"})
    told = "<" * 4_000
    filler.connection.execute("BEGIN")
    for number in range(1000):
        notice = {"topic": f"{number}{told[:50]}", "key": None, "body": {"text": told}}
        filler.record(run, session, "Notice", notice, number / 100, rig="cameras", failure=number % 2)
        begun = {"request_time": 7.0 + number, "event": f"{number}", "args": [told], "rigs": ["cameras"], "at": None}
        filler.record(run, session, "PushBegun", begun, number / 100)
    filler.connection.execute("COMMIT")
    with Journal(path) as journal:
        text, _ = page(journal, journal.session())
    assert len(text) < 5_000_000
    pieces = _Text(text).pieces
    assert f"300 more are not listed: rigsync log {REF} shows all." in pieces
    assert f"600 more messages are not listed: rigsync log {REF} shows all." in pieces
    assert any(piece.endswith("more characters]") for piece in pieces)


@pytest.mark.parametrize(
    "told",
    [
        None,
        7,
        {"seconds": "x", "files": 3},
        {"seconds": math.inf, "files": [3, {"path": 4, "bytes": -1, "frames": True, "verified": []}], "more": "many"},
    ],
)
def test_what_a_rig_says_it_has_recorded_may_be_anything(told: Any) -> None:
    found = recorded_of("cameras", told)
    if found is not None:
        assert (found.seconds, found.more) == (None, 0)
        assert all((file.bytes, file.frames, file.verified) == (None, None, None) for file in found.files)


def test_records_may_hold_anything(path: Path, filler: Filler) -> None:
    """A journal may have come from elsewhere, and rigs send what they like."""
    run = filler.run(about='{"files": {"rigs.yaml": null, "x": 7}, "rigsync": ["?"]}')
    session = filler.session(run, rigs={"cameras": "ok"})
    kinds = ("PushBegun", "PushCompleted", "MessageReceived", "LinkLost", "LinkAlive", "Notice", "Sample", "Strange")
    kinds += ("ProgressChanged", "StatusChanged", "HandlerDue", "MessageHandled", "JournalRecovered", "LeaseExpired")
    odd: list[dict[str, Any]] = [
        {},
        {"event": 3, "rigs": "cameras", "args": 1, "request_time": "now", "answers": [1], "failures": {"cameras": 1}},
        {
            "event": "EXPEND",
            "rigs": [3, None],
            "request_time": 1.0,
            "answers": {"cameras": 5},
            "starts": {"x": [], "cameras": {"time": "?"}},
        },
        {"topic": ["x"], "key": {}, "body": [None], "reason": 4, "value": 1e400, "missing": "all", "source": 4},
        {"clock": [1], "round_trip": "fast", "loss": None, "status": 4, "owner": {}, "error": {"a": 1}},
    ]
    for number, kind in enumerate(kinds):
        for data in odd:
            filler.record(
                run, session, kind, data, number, rig=None if number % 2 else "cameras", failure=number % 3 == 0
            )
    with Journal(path) as journal:
        text, _ = page(journal, journal.session())
    assert _Text(text).open == []


def test_a_session_of_which_nothing_is_recorded_has_a_report(path: Path, filler: Filler) -> None:
    filler.session(filler.run(), rigs={}, ended=None, outcome=None)
    with Journal(path) as journal:
        pieces = _Text(page(journal, journal.session())[0]).pieces
    for text in (
        "No rig has said when it began.",
        "The journal has no measurements of the links in this session.",
        "The journal has none.",
        "Nothing but the messages below: no failure, no notice, no lost link.",
    ):
        assert text in pieces


# --------------------------------------------------------------------------------------------- series and axis


def test_a_series_keeps_its_extremes_however_long_it_is() -> None:
    series = Series()
    for number in range(100_000):
        series.add(float(number), 1e6 if number == 77_777 else -5.0 if number == 3 else float(number % 7))
    assert len(series.steps) <= MOST
    assert (series.low, series.high, series.count) == (-5.0, 1e6, 100_000)
    thin = series.thinned(120)
    assert len(thin) <= 120
    assert (min(step.low for step in thin), max(step.high for step in thin)) == (-5.0, 1e6)
    assert (thin[0].begin, thin[-1].end) == (0.0, 99_999.0)
    assert all(before.end < after.begin for before, after in itertools.pairwise(thin))
    assert sum(step.count for step in thin) == 100_000


def test_the_beginning_and_the_end_of_a_long_session_are_stretched(path: Path) -> None:
    axis = Axis(made(path, MadeUp(seconds=7200.0)))
    assert [round(part.left) for part in axis.parts] == [0, 29, 73]
    assert axis.place(BEGAN + 2.4) > 20  # where it began to record
    assert axis.place(BEGAN - 100) == 0
    assert axis.place(BEGAN + 1e6) == 100
    places = [axis.place(BEGAN + second) for second in range(-1, 7210)]
    assert places == sorted(places)
    assert [label for _, label in axis.ticks()] == ["0 s", "2 s", "1:00:00", "2:00:00", "2:00:02.5", "2:00:03.0"]


def test_a_short_session_has_one_scale(path: Path) -> None:
    axis = Axis(made(path, MadeUp(seconds=2.0)))
    assert not axis.is_stretched
    assert [label for _, label in axis.ticks()] == ["0 s", "2 s", "4 s"]


@pytest.mark.parametrize(
    ("seconds", "step", "label"),
    [
        (0, 1, "0 s"),
        (0.25, 0.05, "0.25 s"),
        (-0.5, 0.5, "\u22120.5 s"),
        (59.5, 0.5, "59.5 s"),
        (65, 5, "1:05"),
        (65.5, 0.5, "1:05.5"),
        (3725, 60, "1:02:05"),
        (200_000, 3600, "55:33:20"),
    ],
)
def test_times_are_written_as_people_do(seconds: float, step: float, label: str) -> None:
    assert time_label(seconds, step) == label


# ---------------------------------------------------------------------------------------------------- text and files


def test_text_is_escaped_wherever_it_stands() -> None:
    hostile = "<b onclick='x'>\"&\x1b\u202e\ud800"
    shown = "&lt;b onclick=&#x27;x&#x27;&gt;&quot;&amp;\\x1b\\u202e\\ud800"
    assert markup(hostile) == shown
    assert element("p", hostile, title=hostile) == f'<p title="{shown}">{shown}</p>'
    assert element("p", element("b", "x"), None, class_=None) == "<p><b>x</b></p>"
    assert lines("a<\n\tb\x1b", 99) == "a&lt;\n    b\\x1b"
    assert lines("abcdef", 3) == "abc\n[3 more characters]"
    assert markup("x" * 2005).endswith("x [5 more characters]")


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("2026-11-25_1_mouse7", "2026-11-25_1_mouse7.html"),
        ("a/b\\c:d*e?f", "a_b_c_d_e_f.html"),
        ("../../etc/passwd", "_.._etc_passwd.html"),
        ("con", "_con.html"),
        ("COM1.x", "_COM1.x.html"),
        ("", "session.html"),
        (". .", "_.html"),
        ("a\n\x00b\u202ec", "a_n_x00b_u202ec.html"),
        ("M\u00e4use", "M\u00e4use.html"),
        ("x" * 300, "x" * 120 + ".html"),
    ],
)
def test_a_reference_makes_a_name_that_every_system_takes(ref: str, name: str) -> None:
    assert file_name(ref) == name


def test_a_report_replaces_one_of_the_same_session_alone(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "new"
    mark, other = ('<meta name="rigsync" content="report of ' + run for run in ("a/1", "b/2"))
    first = write_into(folder, "ref", f"{mark} 1", mark)
    assert first.name == "ref.html"
    assert write_into(folder, "ref", f"{mark} 2", mark) == first
    second = write_into(folder, "ref", other, other)
    assert second.name == "ref (2).html"
    assert write_into(folder, "ref", other, other) == second
    assert first.read_text(encoding="utf-8") == f"{mark} 2"
    assert sorted(file.name for file in folder.iterdir()) == ["ref (2).html", "ref.html"]


def test_what_is_no_report_is_left_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "thesis.html"
    target.write_text("years of work", encoding="utf-8")
    with pytest.raises(OSError, match="is there, and is no report; name another file"):
        write_file(target, "<html>")
    assert target.read_text(encoding="utf-8") == "years of work"
    assert list(tmp_path.iterdir()) == [target]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="the disk is full"):
        write_file(tmp_path / "a.html", "<html>")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ the command


def command(tmp_path: Path, *arguments: str) -> Outcome:
    return run_here(["report", *arguments], tmp_path, environment(tmp_path))


def test_the_last_session_is_reported_in_this_folder(path: Path, tmp_path: Path) -> None:
    MadeUp(ref="2026-11-24_1_old", began=BEGAN - 86400).write(path)
    MadeUp().write(path)
    outcome = command(tmp_path, "--journal", str(path))
    assert (outcome.status, outcome.out, outcome.err) == (0, "2026-11-25_1_mouse7.html\n", "")
    pieces = _Text((tmp_path / "2026-11-25_1_mouse7.html").read_text(encoding="utf-8")).pieces
    assert pieces[1:4] == ["Report of a session", "2026-11-25_1_mouse7", "Complete: 4 rigs, 8 files, 303 MB"]
    for shown in ("D:/data/2026-11-25_1_mouse7/ephys.mp4", "ffprobe", "3,600", "task.py, process 4711"):
        assert shown in pieces
    assert any("repository" in piece or "commit: 4be1c0d" in piece for piece in pieces)
    assert any(piece.startswith("# The rigs of room 3") for piece in pieces)


def test_a_session_is_named_and_a_file_too(path: Path, tmp_path: Path) -> None:
    MadeUp(ref="2026-11-24_1_old", began=BEGAN - 86400).write(path)
    MadeUp().write(path)
    outcome = command(tmp_path, "2026-11-24_1_old", "-o", "my report.html", "--journal", str(path))
    assert (outcome.status, outcome.out) == (0, "my report.html\n")
    assert "2026-11-24_1_old" in (tmp_path / "my report.html").read_text(encoding="utf-8")
    again = command(tmp_path, "2026-11-24_1_old", "-o", "-", "--journal", str(path))
    assert again.status == 0
    assert again.out.startswith("<!DOCTYPE html>\n")
    assert again.out.isascii()
    assert "&#177; 0.150" in again.out  # in any encoding of the terminal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["2026-11-25_1_mouse"], r"there is no session '2026-11-25_1_mouse'; did you mean '2026-11-25_1_mouse7'\?"),
        (
            ["-o", "{folder}/gone/x.html"],
            r"cannot be written: .*No such file or directory: '.*gone.+x\.html'",
        ),
        (["-o", "{folder}/taken.html/x.html"], r"the report cannot be written: .*: '.*taken\.html.+x\.html'"),
        (["-o", "{folder}/taken.html"], r"the report cannot be written: .*taken\.html is there, and is no report"),
        (
            ["--journal", "{folder}/taken.html"],
            "taken.html: it cannot be opened: file is not a database; this is no journal",
        ),
        (["--journal", "{folder}/nowhere.sqlite"], "there is no such journal"),
    ],
)
def test_what_cannot_be_reported_is_said_in_a_line(
    path: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    MadeUp().write(path)
    (tmp_path / "taken.html").write_text("no report " * 200, encoding="utf-8")
    given = [argument.format(folder=tmp_path) for argument in arguments]
    outcome = command(tmp_path, "--journal", str(path), *given)
    assert outcome.status == 1
    assert outcome.out == ""
    assert re.search(message, outcome.err)
    assert outcome.err.count("\n") == 1


def test_a_file_that_cannot_be_replaced_is_named_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError) as caught:
        write_whole(tmp_path / "file", "text")
    assert caught.value.filename == str(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


# ------------------------------------------------------------------------------------------- at each session's end


@pytest.fixture
def lab(tmp_path: Path, serve: Callable[..., Rig]) -> Iterator[Callable[..., Path]]:
    """Rigs, and their file with a journal and a folder for reports; what stands besides in it is an argument."""

    def end(data: Any = None) -> dict[str, Any]:
        return {
            "recorded": {
                "seconds": 1.5,
                "files": [{"path": "/data/a.mp4", "bytes": 10, "frames": 3, "verified": "size"}],
            }
        }

    rigs = [serve(name, {"EXPINIT": lambda data=None: None, "EXPEND": end, "EXPSTART": _start}) for name in RIGS]

    def write(report: str = "reports", journal: str = "journal.sqlite") -> Path:
        text = [f"journal: {journal}", f"report: {report}", "rigs:", *(f"  {rig.name}: {rig.uri}" for rig in rigs)]
        file = tmp_path / "rigs.yaml"
        file.write_text("\n".join(text) + "\n", encoding="utf-8")
        return file

    os.environ.pop("RIGSYNC_JOURNAL")
    try:
        yield write
    finally:
        os.environ["RIGSYNC_JOURNAL"] = "off"


def _start(exp_ref: str, data: Any = None) -> None:
    pass


def test_each_session_leaves_a_report(lab: Callable[..., Path], tmp_path: Path) -> None:
    with Auxiliaries.from_file(lab()) as aux:
        with aux.experiment("2026-11-30_1_a"):
            pass
        until((tmp_path / "reports" / "2026-11-30_1_a.html").exists, "the first report")
        with pytest.raises(ZeroDivisionError), aux.experiment("2026-11-30_2_b"):
            _ = 1 / 0
    names = sorted(file.name for file in (tmp_path / "reports").iterdir())
    assert names == ["2026-11-30_1_a.html", "2026-11-30_2_b.html"]
    first, second = (_Text((tmp_path / "reports" / name).read_text(encoding="utf-8")).pieces for name in names)
    assert first[3] == "Complete: 2 rigs, 2 files, 20 B"
    assert first.count("/data/a.mp4") == 2
    assert {"EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"} <= set(first)  # the clean-up follows the end, and is there
    assert second[3] == "Interrupted: broken off by EXPINTERRUPT: ZeroDivisionError: division by zero"
    assert not [thread for thread in threading.enumerate() if thread.name == "rigsync report"]


def test_a_program_that_closes_writes_what_is_due_at_once(
    lab: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "DELAY", 60.0)
    with Auxiliaries.from_file(lab()) as aux, aux.experiment("2026-11-30_1_a"):
        pass
    assert (tmp_path / "reports" / "2026-11-30_1_a.html").exists()


JUST_ENDS = """
import sys
from rigsync import Auxiliaries
aux = Auxiliaries.from_file(sys.argv[1])
aux.begin("2026-11-30_1_a")
"""


def test_a_program_that_just_ends_leaves_one_too(lab: Callable[..., Path], tmp_path: Path) -> None:
    """Its threads are cut off then, and from Python 3.12 on it can begin none."""
    command = [sys.executable, "-c", JUST_ENDS, str(lab())]
    done = subprocess.run(
        command, env=environment(tmp_path, RIGSYNC_JOURNAL=""), capture_output=True, text=True, timeout=LONG
    )
    assert (done.returncode, "report" in done.stderr) == (0, False), done.stderr
    assert "<title>" in (tmp_path / "reports" / "2026-11-30_1_a.html").read_text(encoding="utf-8")


def test_a_session_whose_program_closes_without_an_end_leaves_one(lab: Callable[..., Path], tmp_path: Path) -> None:
    aux = Auxiliaries.from_file(lab())
    for message, *args in (("EXPINIT", {"exp_ref": "2026-11-30_1_a"}), ("EXPSTART", "2026-11-30_1_a")):
        aux.push(message, *args, wait=True)
    aux.close()  # which interrupts what it began
    text = (tmp_path / "reports" / "2026-11-30_1_a.html").read_text(encoding="utf-8")
    assert _Text(text).pieces[3].startswith("Interrupted")


def test_a_report_that_cannot_be_written_is_one_line_and_disturbs_nobody(
    lab: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "reports").write_text("a file", encoding="utf-8")
    caplog.set_level(logging.WARNING, "rigsync")
    with Auxiliaries.from_file(lab()) as aux, aux.experiment("2026-11-30_1_a") as session:
        pass
    assert set(session.results["EXPEND"]) == set(RIGS)
    (line,) = [record for record in caplog.records if record.name == "rigsync.report"]
    assert f"{tmp_path / 'reports'}: no report is written: " in line.getMessage()
    assert line.exc_info is None


def test_pushes_do_not_wait_for_a_report(
    lab: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder on a drive that hangs holds up the report, and not the next session."""
    begun, hang = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> None:
        begun.set()
        hang.wait(60)

    monkeypatch.setattr(background, "write_into", slow)
    with Auxiliaries.from_file(lab()) as aux:
        try:
            with aux.experiment("2026-11-30_1_a"):
                pass
            assert begun.wait(20)
            before = time.monotonic()
            with aux.experiment("2026-11-30_2_b") as session:
                pass
            assert set(session.results["EXPEND"]) == set(RIGS)
            assert time.monotonic() - before < 5  # far below the minute of the hang
        finally:
            hang.set()


def test_a_journal_is_read_beside_others_a_moment_at_a_time(
    lab: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python lets a busy thread go on for 5 ms while the event loop waits, which a push would feel."""
    paused: list[str] = []

    def pause(seconds: float) -> None:
        assert seconds == background.PAUSE
        paused.append(threading.current_thread().name)

    monkeypatch.setattr(background, "MOMENT", 0.0)
    monkeypatch.setattr(background, "time", mock.Mock(wraps=time, sleep=pause))
    with Auxiliaries.from_file(lab()) as aux, aux.experiment("2026-11-30_1_a"):
        pass
    assert set(paused) == {"rigsync report"}
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert len(paused) >= len(list(journal.events(journal.session()))) > 10


def test_without_a_journal_there_is_no_report_and_a_line_says_why(
    lab: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "rigsync")
    with Auxiliaries.from_file(lab(journal="off")) as aux, aux.experiment("2026-11-30_1_a"):
        pass
    assert not (tmp_path / "reports").exists()
    assert "no report is written, since there is no journal; leave out journal: off" in caplog.text


async def _one_session(file: Path) -> None:
    async with Coordinator.from_file(file) as coordinator, coordinator.experiment("2026-11-30_1_a"):
        pass


def test_a_coordinator_on_an_event_loop_leaves_one_too(lab: Callable[..., Path], tmp_path: Path) -> None:
    asyncio.run(_one_session(lab()))
    assert (tmp_path / "reports" / "2026-11-30_1_a.html").exists()


def test_the_folder_begins_at_the_file_of_rigs(
    lab: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lab()
    monkeypatch.chdir(tmp_path.parent)
    assert load_rigs(file.relative_to(tmp_path.parent)).report == tmp_path / "reports"
    assert load_rigs(lab(report=str(tmp_path / "elsewhere"))).report == tmp_path / "elsewhere"


def test_what_the_page_of_the_documents_shows_is_so(path: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    (shell,), (yaml,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("sh", "yaml"))
    MadeUp().write(path)
    _, *arguments = shell.split()
    outcome = run_here(arguments, tmp_path, environment(tmp_path, RIGSYNC_JOURNAL=str(path)))
    assert outcome.out == "2026-11-25_1_mouse7.html\n"
    page_of_it = (tmp_path / "2026-11-25_1_mouse7.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page_of_it)
    assert headings == re.findall(r"^\| ([A-Z][^|]*?) \|", text, re.MULTILINE)
    (tmp_path / "rigs.yaml").write_text(yaml, encoding="utf-8")
    assert load_rigs(tmp_path / "rigs.yaml").report == tmp_path / "reports"
