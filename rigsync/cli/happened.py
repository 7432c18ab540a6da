"""A record of the journal in words: a line for each rig that it is about."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rigsync._text import one_line, since_text, span_text
from rigsync.cli.answers import CONSTANT_FIELDS, in_words, words_of
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.health import age_in
from rigsync.core.notices import FINISH, finish_text
from rigsync.journal.rows import OK, Record, Session

OFTEN = frozenset(
    {
        *("Sample", "ProgressChanged", "RequestReceived", "MessageReceived", "ProbeAnswered", "RigSettled"),
        *("PushDecided", "DialectDetected", "StreamUpdated", "HandlerDue", "Tick"),
    }
)
"""Kinds that people see only if they ask for all: they come often, or another one says the same."""
ANSWER = "MessageReceived"
"""The kind that tells when a rig has answered, which is shown with the outcome of its push."""
EARLIER = 0.01
"""Seconds by which a rig has answered before the last one, where that is told."""
LONGEST_ARGUMENTS = 120
"""Characters of what a message holds."""

Told = tuple[str, str, bool]
"""The rig, or nothing; what happened; and whether that is a failure."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened at one rig, for people."""

    time: str
    """Local time of day."""
    day: str
    """Local date."""
    rig: str
    text: str
    is_failure: bool


def lines_of(record: Record, answered: Mapping[str, float] | None = None) -> list[Line]:
    """Return a record for people; whatever its data are, there is at least one line.

    `answered` has when each rig has answered a push that is completed, as Unix time in seconds, as far as that is
    known.
    """
    time, day = _clock(record.time), f"{local(record.time):%Y-%m-%d}"
    data = {**record.data, "answered": answered} if answered else record.data
    try:
        told = _WORDS.get(record.kind, _others)(record, data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        told = _others(record, record.data)  # another version's, or no event of rigsync
    sure = _how_sure(record.bound)
    return [Line(time, day, one_line(rig), one_line(text) + sure, is_failure) for rig, text, is_failure in told]


def local(time: float) -> datetime:
    """Return a Unix time (s) in local time, without a zone; the earliest or the latest where there is no such time."""
    try:
        return datetime.fromtimestamp(time)
    except (OverflowError, OSError, ValueError):
        return datetime.max if time > 0 else datetime.min


def _clock(time: float) -> str:
    """Return the local time of day of a Unix time (s), to the millisecond."""
    moment = local(time)
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"


def iso(time: float) -> str:
    """Return a Unix time (s) in local time with its zone, for programs."""
    try:
        return local(time).astimezone().isoformat()
    except (OverflowError, OSError, ValueError):
        return local(time).isoformat()


def session_line(session: Session, state: str) -> str:
    """Return what became of a session, in a line."""
    ended = "" if session.ended is None else f", {span_text(session.ended - session.began)}"
    rigs = [f"{', '.join(names)}: {told}" for told, names in failures_of(session).items()]
    well = [rig for rig, told in session.rigs.items() if told == OK]
    rigs += [f"ok: {', '.join(well)}"] if well else []
    what = f"{session.ref}, began {local(session.began):%Y-%m-%d %H:%M:%S}{ended}, on {session.host}: {state}"
    return f"{what} ({'; '.join(rigs)})" if rigs else what


def failures_of(session: Session) -> dict[str, list[str]]:
    """Return what has failed, and at which rigs: what a switch or a wrong reference does to all is told once."""
    failed: dict[str, list[str]] = {}
    for rig, told in session.rigs.items():
        if told != OK:
            failed.setdefault(told, []).append(rig)
    return failed


def cut(text: str) -> str:
    return text if len(text) <= LONGEST_ARGUMENTS else f"{text[: LONGEST_ARGUMENTS - 3]}..."


def _how_sure(bound: float | None) -> str:
    if bound is None:
        return " (by its own clock)"
    return f" (± {seconds_text(bound)})" if bound >= 0.5e-3 else ""


def seconds_text(seconds: float) -> str:
    """Return a short time for people: ``0.3 ms``, ``25 ms``, ``1.25 s``."""
    size = abs(seconds)
    if not math.isfinite(size):
        return str(seconds)
    return f"{seconds * 1e3:.2g} ms" if size < 0.01 else f"{seconds * 1e3:.0f} ms" if size < 1 else f"{seconds:.3g} s"


# ---------------------------------------------------------------------------------------------- pushes


def _begun(record: Record, data: dict[str, Any]) -> list[Told]:
    at = "" if data.get("at") is None else f" at {local(data['at']):%H:%M:%S.%f}"
    parts = _arguments(str(data["event"]), data.get("args"))
    shown = f": {cut(', '.join(parts))}" if parts else ""
    return [("", f"{data['event']} to {', '.join(map(str, data['rigs']))}{at}{shown}", False)]


def _arguments(event: str, args: Any) -> list[str]:
    """Return what a message, or a command, is given, without what is the same in all."""
    given = [arg for arg in args if arg not in (None, {}, [])] if isinstance(args, list) else []
    left_out = CONSTANT_FIELDS
    if event in ("EXPINFO", "EXPSTATUS") and given and given[0] in list(ExpStatus):
        given[0] = ExpStatus(given[0]).name
        left_out = CONSTANT_FIELDS | {"status"}
    if event not in ExpMessage.__members__:
        return [in_words(arg) for arg in given]  # the arguments of a command, and its keywords
    own = [
        {name: part for name, part in arg.items() if name not in left_out} if isinstance(arg, dict) else arg
        for arg in given
    ]
    return [in_words(arg) for arg in own if arg != {}]


def _completed(record: Record, data: dict[str, Any]) -> list[Told]:
    event, answers, failures = str(data["event"]), data["answers"], data["failures"]
    told: list[Told] = []
    if isinstance(answers, dict):
        for rig, answer in answers.items():
            began = _began(data, rig)
            words = words_of(event, answer, in_words) if isinstance(answer, list) else in_words(answer)
            own = data.get("answered", {}).get(rig, record.time)
            began += f", answered at {_clock(own)}" if record.time - own >= EARLIER else ""
            told.append((rig, f"{event} ok{began}: {words}" if answer else f"{event} ok{began}", False))
    for rig, failure in failures.items():
        told.append((rig, f"{event} failed: {_problem(failure)}", True))
    return told or [("", f"{event}: {in_words(answers)}", False)]


def _began(data: dict[str, Any], rig: str) -> str:
    """Return how late a rig began."""
    start = (data.get("starts") or {}).get(rig)
    if not start:
        return ""
    at = data.get("at")
    late = start["time"] - (data["request_time"] if at is None else at)
    what = "reached it" if start.get("is_estimate") else "began"
    pushed = "the push" if start.get("is_estimate") else "it was sent"  # an iblutil rig is sent it after a pause
    since = pushed if at is None else "its instant"
    when = "after" if late >= 0 else "before"
    return f", {what} {seconds_text(abs(late))} {when} {since} (± {seconds_text(start['bound'])})"


def _problem(failure: Any) -> str:
    if not isinstance(failure, dict):
        return str(failure)
    error, problem = str(failure.get("error") or ""), str(failure.get("problem") or "")
    # What a rig has answered names its own error.
    return problem if error in ("", "RemoteError") or problem.startswith(error) else f"{error}: {problem}"


# ------------------------------------------------------------------------------------------- the other kinds


def _notice(record: Record, data: dict[str, Any]) -> list[Told]:
    topic, key, body = data["topic"], data.get("key"), data.get("body")
    about = f"{topic} {key}" if key else str(topic)
    fields = body if isinstance(body, dict) else {}
    since = since_text(age_in(body), record.time)
    if topic == "failure":
        problem = fields.get("problem") or in_words(body)
        return [_of(record, f"failure{f' of {key}' if key else ''}: {problem}{since}", True)]
    if topic == "recovered":
        return [_of(record, f"this is over: {key}" if key else "this is over")]
    if topic == "status" and "status" in fields:
        reason = fields.get("reason")
        told = f"{fields['status']} {fields.get('exp_ref') or ''}".rstrip()
        return [_of(record, f"{told}: {reason}{since}" if reason else told, bool(reason))]
    if topic == FINISH and "attempts" in fields:
        return [_of(record, finish_text(key, fields))]
    if topic == "log" and "message" in fields:
        error = fields.get("error")
        told = f"{fields['message']} from {fields.get('from')}"
        return [_of(record, f"{told} failed: {error}" if error else told, bool(error))]
    return [_of(record, f"{about}: {in_words(body)}")]


def _status(record: Record, data: dict[str, Any]) -> list[Told]:
    reason = data.get("reason")
    told = f"{data['before']} to {data['after']}" + (f", {data['exp_ref']}" if data.get("exp_ref") else "")
    return [_of(record, f"{told}: {reason}" if reason else told, bool(reason))]


def _handled(record: Record, data: dict[str, Any]) -> list[Told]:
    told, error = f"{data['event']} from {data['source']}", data.get("error")
    return [_of(record, f"{told} failed: {error}" if error else f"{told} done", bool(error))]


def _progress(record: Record, data: dict[str, Any]) -> list[Told]:
    total = "" if data.get("total") is None else f" of {data['total']}"
    return [_of(record, f"{data['item']}: {data['value']}{total} {data.get('unit') or ''}".rstrip())]


def _sample(record: Record, data: dict[str, Any]) -> list[Told]:
    parts = [str(data["link"]), str(data.get("status") or "")]
    if data.get("round_trip") is not None:
        parts.append(f"round trip {seconds_text(data['round_trip'])}")
    if data.get("loss"):
        parts.append(f"{data['loss']:.0%} lost")
    if clock := data.get("clock"):
        offset = clock["offset"]
        way = "ahead" if offset >= 0 else "behind"
        parts.append(f"clock {seconds_text(abs(offset))} {way} (± {seconds_text(clock['bound'])})")
    return [_of(record, ", ".join(filter(None, parts)))]


def _link(text: str) -> Callable[[Record, dict[str, Any]], list[Told]]:
    def told(record: Record, data: dict[str, Any]) -> list[Told]:
        reason = data.get("reason")
        return [_of(record, f"{text}: {reason}" if reason else text)]

    return told


def _others(record: Record, data: dict[str, Any]) -> list[Told]:
    return [_of(record, f"{record.kind} {in_words(data)}" if data else record.kind)]


def _of(record: Record, text: str, is_failure: bool = False) -> Told:
    return record.rig or "", text, is_failure or record.failure


def _saying(form: str) -> Callable[[Record, dict[str, Any]], list[Told]]:
    return lambda record, data: [_of(record, form.format_map(data))]


def _dropped(record: Record, data: dict[str, Any]) -> list[Told]:
    misses = "misses notices" if data.get("is_gone") else "does not get every notice"
    reason = data.get("reason")  # journals of before have none
    return [_of(record, f"{data['source']} {misses}{f': {reason}' if reason else ''}")]


def _opened(record: Record, data: dict[str, Any]) -> list[Told]:
    return [("", f"the coordinator begins, with {', '.join(map(str, data['rigs'])) or 'no rigs'}", False)]


_WORDS: dict[str, Callable[[Record, dict[str, Any]], Iterable[Told]]] = {
    "PushBegun": _begun,
    "PushCompleted": _completed,
    "PushDecided": _completed,
    "Notice": _notice,
    "StatusChanged": _status,
    "MessageHandled": _handled,
    "ProgressChanged": _progress,
    "Sample": _sample,
    "LinkAlive": _link("answers"),
    "LinkSuspect": _link("is silent"),
    "LinkLost": _link("is lost"),
    "CoordinatorOpened": _opened,
    "CoordinatorClosed": _saying("the coordinator ends"),
    "RestartSeen": _saying("its program was started anew"),
    "StoodStill": _saying("the program stood still for {seconds:.1f} s"),
    "RemoteComplaint": _saying("its callback for {event} failed: {text}"),
    "ViolationSeen": _saying("invalid, from {source}: {problem}"),
    "LeaseExpired": _saying("interrupts: {reason}"),
    "HandlerOvertaken": _saying("EXPINTERRUPT overtakes the handler of {event}"),
    "NoticesDropped": _dropped,
    "EchoMissing": _saying("{source} did not confirm the answer to {event}"),
    "StreamAdded": _saying("has the stream {id}"),
    "StreamRemoved": _saying("stream {id} is gone"),
    "AlertSent": _saying("{alert} has told {on}: {what}"),
    "AlertFailed": _saying("{alert} has told nobody of {on}: {problem}: {what}"),
    "JournalFailed": _saying("the journal cannot be written: {problem}"),
    "JournalRecovered": _saying("the journal is written again; {missing} records are missing"),
}
"""What people are told of each kind; of any other, its fields."""
