"""Reads a session's records once, in order, and says what a report tells of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from rigsync._text import since_text
from rigsync.core.health import age_in, was_before
from rigsync.core.lifecycle import says_running
from rigsync.core.notices import FINISH, finish_text
from rigsync.journal.query import Record, Run, Session
from rigsync.journal.report.facts import (
    Command,
    Facts,
    Happening,
    Mark,
    Pushed,
    Recorded,
    RecordedFile,
    Span,
    StartOf,
    Starts,
    Watched,
)

LEADS_TO = {
    "EXPINIT": "INITIALIZED",
    "EXPSTART": "RUNNING",
    "EXPEND": "STOPPED",
    "EXPINTERRUPT": "STOPPED",
    "EXPCLEANUP": "CONNECTED",
}
"""The status of a rig that has answered a message, where the rig does not say it itself."""
SHAPED = frozenset({*LEADS_TO, "EXPINFO"})
"""Messages with a mark of their own in a lane."""
MOST_MARKS = 2000
"""Marks that a lane keeps of each sort; further ones are counted."""
MOST_TOLD = 400
"""Things that happened which are listed, failures apart; further ones are counted."""
MOST_FILES = 500
"""Files that are listed."""
MOST_PROGRAMS, MOST_MESSAGES = 50, 20
"""Programs that commanded, and messages of each, which are listed."""
LONGEST_SESSION = 1e8
"""Seconds from a session's beginning, some three years, beyond which nothing belongs to it."""
ALIKE = 5.0
"""Seconds within which a rig and its coordinator tell of the same failure."""


LONGEST = 500
"""Most characters of a value in one line."""
LARGEST = 1e18
"""No size, number or time is as large."""
_SILENT = frozenset({"CoordinatorOpened", "CoordinatorClosed", "DialectDetected", "RequestReceived", "PushDecided"})
"""Kinds of which a report tells nothing unless they are failures: other records say the same."""


def facts_of(session: Session, records: Iterable[Record], run_of: Callable[[int], Run]) -> Facts:
    """Return what a report tells.

    Parameters
    ----------
    session : Session
        The session.
    records : iterable of Record
        All that is recorded of it, in order.
    run_of : callable
        Returns the run of a number.
    """
    facts = Facts(session, {session.run: run_of(session.run)})
    for rig in session.rigs:
        facts.lane(rig)
    reader = _Reader(facts)
    for record in records:
        if record.run not in facts.runs:
            facts.runs[record.run] = run_of(record.run)
        reader.read(record)
    reader.finish()
    return facts


class _Reader:
    """Goes through the records, and keeps what is under way."""

    def __init__(self, facts: Facts):
        self._facts = facts
        self._states: dict[str, tuple[float, str, str]] = {}
        self._silent: dict[str, tuple[float, str, str]] = {}
        self._begun: dict[float, Record] = {}
        self._answered: dict[tuple[float, str], float] = {}
        self._due: dict[tuple[int, Any], float] = {}
        self._told: dict[str, tuple[float, str]] = {}
        self._kinds: Mapping[str, Callable[[Record], None]] = {
            "PushBegun": self._push_begun,
            "PushCompleted": self._push_completed,
            "MessageReceived": self._message_received,
            "LinkAlive": self._link_changed,
            "LinkSuspect": self._link_changed,
            "LinkLost": self._link_changed,
            "Notice": self._notice,
            "Sample": self._sample,
            "ProgressChanged": self._progress,
            "StatusChanged": self._status_changed,
            "HandlerDue": self._handler_due,
            "MessageHandled": self._message_handled,
            "JournalRecovered": self._gap,
            "StreamAdded": self._stream,
            "StreamRemoved": self._stream,
        }

    def read(self, record: Record) -> None:
        facts = self._facts
        # By a clock of which nobody knows how it stands to this computer's, or by one that was far from the truth.
        if record.bound is None or not abs(record.time - facts.session.began) < LONGEST_SESSION:
            facts.unplaced += 1
            return
        facts.begin, facts.end = min(facts.begin, record.time), max(facts.end, record.time)
        known = self._kinds.get(record.kind)
        if known is not None:
            known(record)
        elif record.failure or record.kind not in _SILENT:
            self._tell(record, self._rig_of(record), _words(record))

    def finish(self) -> None:
        facts, session = self._facts, self._facts.session
        facts.begin = min(facts.begin, session.began)
        facts.end = max(facts.end, session.ended if session.ended is not None else session.began)
        for rig, (begin, state, why) in self._states.items():
            facts.lane(rig).states.append(Span(begin, facts.end, state, why))
        for rig, (begin, link, why) in self._silent.items():
            facts.lane(rig).silences.append(Span(begin, facts.end, link, why))
        for record in self._begun.values():  # which nobody has seen completed
            data = record.data
            rigs = tuple(_names(data.get("rigs")))
            self._file(Pushed(record.time, _text(data.get("event")), record.run, rigs, None, None, None, ()))
        facts.pushes.sort(key=lambda push: push.time)

    # ----------------------------------------------------------------------------------------- from a coordinator

    def _push_begun(self, record: Record) -> None:
        data, event = record.data, _text(record.data.get("event"))
        if (key := _number(data.get("request_time"))) is not None:
            self._begun[key] = record
        for rig in _names(data.get("rigs")):
            self._mark(
                self._facts.lane(rig).messages,
                rig,
                Mark(record.time, event if event in SHAPED else "other", _short(f"{event} sent")),
            )
        run = self._facts.runs[record.run]
        self._note_command(f"run {run.id}", f"{run.program} on {run.host}", record.time, event, counts=True)
        if event == "EXPINTERRUPT" and self._facts.broken_off is None:
            self._facts.broken_off = _reason(data.get("args"))
            self._tell(record, None, f"EXPINTERRUPT: {self._facts.broken_off}")

    def _push_completed(self, record: Record) -> None:
        data, event = record.data, _text(record.data.get("event"))
        key = _number(data.get("request_time"))
        begun = self._begun.pop(key, None) if key is not None else None
        answers, failures = _map(data.get("answers")), _map(data.get("failures"))
        starts = [start for rig, told in _map(data.get("starts")).items() if (start := _start_of(rig, told))]
        at = _number(data.get("at"))
        for rig, told in failures.items():
            self._tell(record, rig, f"{event}: {_problem(told)}", is_failure=True)
        ends = {rig: self._answered.pop((key, rig), record.time) for rig in [*answers, *failures]} if key else {}
        for rig, answer in answers.items():
            self._take_answer(rig, event, answer, ends.get(rig, record.time))
        for start in starts:
            end = ends.get(start.rig, record.time)
            self._handled(start.rig, event, start.time, max(end, start.time))
        if event == "EXPSTART" and starts and len(self._facts.starts) < 4:
            self._facts.starts.append(Starts(event, at, tuple(starts)))
        time = begun.time if begun else record.time
        slowest = max(ends, key=lambda rig: ends[rig], default=None)
        seconds = max(ends.values(), default=record.time) - (at or time) if begun else None
        rigs = tuple(_names(begun.data.get("rigs"))) if begun else (*answers, *failures)
        self._file(Pushed(time, event, record.run, rigs, at, seconds, slowest, tuple(failures)))

    def _take_answer(self, rig: str, event: str, answer: Any, time: float) -> None:
        if event not in LEADS_TO:
            return
        information = answer[-1] if isinstance(answer, list) and answer and isinstance(answer[-1], dict) else {}
        if isinstance(unsure := information.get("unconfirmed"), str):
            self._facts.unconfirmed[rig] = f"{event}: {unsure}"
            return
        is_still_running = event in ("EXPEND", "EXPINTERRUPT") and says_running(answer)
        self._enter(rig, "RUNNING" if is_still_running else LEADS_TO[event], time)
        if event in ("EXPEND", "EXPINTERRUPT") and (recorded := recorded_of(rig, information.get("recorded"))):
            self._facts.recorded[rig] = recorded

    def _message_received(self, record: Record) -> None:
        if record.rig is not None and (key := _number(record.data.get("request_time"))) is not None:
            self._answered[key, record.rig] = record.time

    def _link_changed(self, record: Record) -> None:
        if (rig := record.rig) is None:
            return
        reason, silent = _text(record.data.get("reason")), self._silent.get(rig)
        if record.kind == "LinkAlive":
            if silent is not None:
                del self._silent[rig]
                self._facts.lane(rig).silences.append(Span(silent[0], record.time, silent[1], silent[2]))
                self._tell(record, rig, f"answers again, after {record.time - silent[0]:.1f} s")
            return
        link = "lost" if record.kind == "LinkLost" else "silent"
        self._silent[rig] = (silent[0] if silent else record.time, link, reason)
        self._tell(record, rig, f"{link}: {reason}", is_failure=link == "lost")

    def _notice(self, record: Record) -> None:
        data, rig = record.data, self._rig_of(record)
        topic, key, body = _text(data.get("topic")), data.get("key"), data.get("body")
        fields, since = body if isinstance(body, dict) else {}, since_text(age_in(body), record.time)
        if rig is None:
            return
        is_new = not was_before(body, record.time, self._facts.session.began)
        record = record if is_new else replace(record, failure=False)
        if topic == "status":
            if isinstance(state := fields.get("status"), str):
                self._enter(rig, state, record.time, _text(fields.get("reason")))
            if reason := fields.get("reason"):
                self._tell(record, rig, f"stopped by itself: {reason}{since}", is_failure=is_new)
        elif topic == "failure":
            told = (_text(fields.get("problem")) or _plain(body)) + since
            self._tell(record, rig, f"{key}: {told}" if key else told, is_failure=is_new)
        elif topic == "recovered":
            self._tell(record, rig, f"{key or 'all'}: well again")
        elif topic == "log":
            self._log(record, rig, fields)
        else:
            is_job = topic == FINISH and "attempts" in fields
            text = finish_text(key, fields) if is_job else f"{topic}{f' {key}' if key else ''}: {_plain(body)}"
            self._mark(self._facts.lane(rig).notices, rig, Mark(record.time, "notice", _short(text)))
            self._tell(record, rig, text)

    def _log(self, record: Record, rig: str, fields: Mapping[str, Any]) -> None:
        message, source = _text(fields.get("message")), _text(fields.get("from"))
        self._heard_from(source, rig, message, record.time)
        if error := fields.get("error"):
            self._tell(record, rig, f"{message} from {source}: {error}")
        elif message in LEADS_TO:
            self._tell(record, rig, f"{message} from {source}")

    def _sample(self, record: Record) -> None:
        if (rig := record.rig) is None:
            return
        data, one = record.data, self._facts.watched.setdefault(rig, Watched(rig))
        if (clock := _map(data.get("clock"))) and (offset := _number(clock.get("offset"))) is not None:
            bound = _number(clock.get("bound")) or 0.0
            one.offset.add(record.time, offset, offset - bound, offset + bound)
            one.bound = max(one.bound, bound)
            one.drift = _number(clock.get("drift"))
        if (round_trip := _number(data.get("round_trip"))) is not None:
            one.round_trip.add(record.time, round_trip)
        if (loss := _number(data.get("loss"))) is not None:
            one.loss.add(record.time, loss)
        one.version = _text(data.get("version")) or one.version
        one.dialect = _text(data.get("dialect")) or one.dialect
        if rig not in self._states and isinstance(state := data.get("status"), str):
            self._enter(rig, state, record.time)
        if isinstance(owner := data.get("owner"), str):
            self._heard_from(owner, rig, "", record.time)

    def _progress(self, record: Record) -> None:
        data = record.data
        if (rig := self._rig_of(record)) is None or (value := _number(data.get("value"))) is None:
            return
        total, unit = _number(data.get("total")), _text(data.get("unit"))
        shown = f"{value:,.10g}{f' of {total:,.10g}' if total is not None else ''}{f' {unit}' if unit else ''}"
        items = self._facts.progress.setdefault(rig, {})
        if len(items) < MOST_FILES:
            items[_text(data.get("item"))] = shown

    # ------------------------------------------------------------------------------------------------ from a rig

    def _status_changed(self, record: Record) -> None:
        rig, data = self._facts.runs[record.run].name, record.data
        self._enter(rig, _text(data.get("after")), record.time, _text(data.get("reason")))
        if reason := data.get("reason"):
            self._tell(record, rig, f"stopped by itself: {reason}", is_failure=True)

    def _handler_due(self, record: Record) -> None:
        self._due[record.run, record.data.get("event")] = record.time

    def _message_handled(self, record: Record) -> None:
        rig, event = self._facts.runs[record.run].name, _text(record.data.get("event"))
        begun = self._due.pop((record.run, record.data.get("event")), None)
        if begun is not None:
            self._handled(rig, event, begun, record.time)
        self._heard_from(_text(record.data.get("source")), rig, event, record.time)
        if error := record.data.get("error"):
            self._tell(record, rig, f"{event}: {error}", is_failure=bool(record.failure))

    def _gap(self, record: Record) -> None:
        missing = record.data.get("missing")
        self._facts.gaps.append((record.time, missing if isinstance(missing, int) else 0))
        self._tell(record, None, _words(record))

    def _stream(self, record: Record) -> None:
        stream = _text(record.data.get("id"))
        told = f"new stream {stream}" if record.kind == "StreamAdded" else f"stream {stream} is gone"
        self._tell(record, self._rig_of(record), told)

    # --------------------------------------------------------------------------------------------------- helpers

    def _rig_of(self, record: Record) -> str | None:
        run = self._facts.runs[record.run]
        return record.rig or (run.name if run.kind == "rig" else None)

    def _enter(self, rig: str, state: str, time: float, why: str = "") -> None:
        before = self._states.get(rig)
        if before is not None:
            if before[1] == state or time < before[0]:  # the answer to a push is told after all that led to it
                return
            self._facts.lane(rig).states.append(Span(before[0], time, before[1], before[2]))
        self._states[rig] = (time, state, why)

    def _handled(self, rig: str, event: str, begin: float, end: float) -> None:
        lane = self._facts.lane(rig)
        if any(abs(span.begin - begin) < 0.5 and span.what == event for span in lane.handlers[-4:]):
            return  # its coordinator has told so, too
        if len(lane.handlers) < MOST_MARKS:
            lane.handlers.append(Span(begin, end, event, f"{event} took {end - begin:.3f} s"))
        else:
            lane.left_out += 1

    def _mark(self, marks: list[Mark], rig: str, mark: Mark) -> None:
        if len(marks) < MOST_MARKS:
            marks.append(mark)
        else:
            self._facts.lane(rig).left_out += 1

    def _file(self, push: Pushed) -> None:
        facts = self._facts
        room = 2 * MOST_TOLD if push.event in LEADS_TO or push.failed else MOST_TOLD
        if len(facts.pushes) < room:
            facts.pushes.append(push)
        else:
            facts.pushes_left_out += 1

    def _tell(self, record: Record, rig: str | None, text: str, is_failure: bool = False) -> None:
        facts, text, is_failure = self._facts, _short(text), is_failure or bool(record.failure)
        if rig is not None:
            before = self._told.get(rig)
            if before is not None and record.time - before[0] < ALIKE and (text in before[1] or before[1] in text):
                return
            self._told[rig] = (record.time, text)
        number = None
        if is_failure:
            facts.failures += 1
            number = facts.failures
            if rig is not None:
                self._mark(facts.lane(rig).failures, rig, Mark(record.time, "failure", text, number))
        room = 2 * MOST_TOLD if is_failure else MOST_TOLD
        if len(facts.happenings) < room:
            facts.happenings.append(Happening(record.time, rig, text, number))
        else:
            facts.happenings_left_out += 1

    def _heard_from(self, source: str, rig: str, event: str, time: float) -> None:
        """Take note of who commands a rig, as that tells: an address, a computer that is in charge, or itself."""
        host = source.rpartition(":")[0] if event else source
        who = f"{host}, as the rigs tell" if host else f"{rig} itself"
        command = self._note_command(who, who, time, event)
        if command and not event:
            command.is_in_charge = True

    def _note_command(self, key: str, who: str, time: float, event: str, counts: bool = False) -> Command | None:
        commands = self._facts.commands
        found = commands.get(key)
        if found is None:
            if len(commands) >= MOST_PROGRAMS:
                return None
            found = commands[key] = Command(who, time, time)
        found.last = time
        if event and (event in found.messages or len(found.messages) < MOST_MESSAGES):
            found.messages[event] += counts
        return found


def recorded_of(rig: str, told: Any) -> Recorded | None:
    """Return what a rig says in its answer to EXPEND that it has recorded; None where it says nothing of it."""
    if not isinstance(told, dict):
        return None
    found = Recorded(rig, _number(told.get("seconds")), more=_whole(told.get("more")) or 0)
    files = told.get("files")
    for each in files if isinstance(files, list) else []:
        if not isinstance(each, dict):
            continue
        if len(found.files) == MOST_FILES:
            found.more += 1
            continue
        path, verified = _text(each.get("path")), _text(each.get("verified"))
        found.files.append(
            RecordedFile(rig, path, _whole(each.get("bytes")), _whole(each.get("frames")), verified or None)
        )
    return found


def _start_of(rig: str, told: Any) -> StartOf | None:
    fields = _map(told)
    if (time := _number(fields.get("time"))) is None:
        return None
    return StartOf(rig, time, _number(fields.get("bound")) or 0.0, bool(fields.get("is_estimate")))


def _reason(args: Any) -> str:
    """Return why an experiment is broken off, as the message says."""
    told = args[0] if isinstance(args, list) and args else None
    if isinstance(told, dict):
        error, message = _text(told.get("error")), _text(told.get("message") or told.get("reason"))
        if error or message:
            return _short(": ".join(part for part in (error, message) if part))
    return "no reason was given" if told is None else _plain(told)


def _words(record: Record) -> str:
    """Return an event that has no words of its own: its name, as words, and its fields."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", record.kind).lower()
    told = ", ".join(f"{key}: {_plain(value)}" for key, value in record.data.items() if value not in (None, "", [], {}))
    return f"{name}: {told}" if told else name


def _problem(told: Any) -> str:
    fields = _map(told)
    return _text(fields.get("problem")) or _text(fields.get("error")) or _plain(told)


def _plain(value: Any) -> str:
    """Return a value of JSON for people, shortened."""
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    return _short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if is_number else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST else None


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
