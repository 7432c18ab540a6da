"""Which experiment an event belongs to, and what became of each: as a coordinator sees it, and as a rig does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rigsync.core import health
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import (
    CoordinatorClosed,
    Event,
    HandlerDue,
    LinkAlive,
    LinkLost,
    MessageHandled,
    Notice,
    NoticesDropped,
    PushBegun,
    PushCompleted,
    StatusChanged,
)
from rigsync.core.health import LONGEST, MOST, problem_of
from rigsync.core.lifecycle import (
    ENDS,
    LIFECYCLE_MESSAGES,
    STILL_RUNNING,
    canonical_reference,
    named_reference,
    reference_parts,
    rehearses,
    says_running,
    takes_over,
)
from rigsync.core.messages import Verb
from rigsync.core.notices import FAILURE, FINISH, RECOVERED
from rigsync.core.recorded import totals_of
from rigsync.errors import BusyError, RemoteError, RigError
from rigsync.hub.events import AlertEvent
from rigsync.journal.drafts import RunRow, SessionRow
from rigsync.journal.rows import COMPLETE, FAILED, INCOMPLETE, INTERRUPTED, OK

INIT, START, END = ExpMessage.EXPINIT, ExpMessage.EXPSTART, ExpMessage.EXPEND
INTERRUPT, CLEANUP, INFO = ExpMessage.EXPINTERRUPT, ExpMessage.EXPCLEANUP, ExpMessage.EXPINFO
_OF_ANY_TIME = (FAILURE, RECOVERED, FINISH)
"""Topics of notices that name the session that they are about."""
REMEMBERED = 16
"""Sessions whose alerts still find them when they are over: an alert is tried for minutes."""


class _Course:
    """A session of a coordinator that goes on, or waits for its clean-up."""

    def __init__(self, row: SessionRow, rigs: Iterable[str]):
        self.row, self.rigs = row, dict.fromkeys(rigs)
        self.begun: set[str] = set()
        self.over: set[str] = set()
        """Rigs that have been told to end, and of which it is known what became of that."""
        self.troubles: dict[str, dict[str, str]] = {}
        """What is wrong at each rig, by what has failed."""
        self.recorded: dict[str, tuple[int, int]] = {}
        self.has_failed = False
        """Whether a rig has refused to begin."""

    def trouble_of(self, rig: str) -> str | None:
        return "; ".join(self.troubles.get(rig, {}).values())[:LONGEST] or None


class _Sessions:
    """What the sessions of a coordinator and those of a rig have in common."""

    def __init__(self) -> None:
        self.changed: dict[SessionRow, None] = {}
        self._latest: deque[SessionRow] = deque(maxlen=REMEMBERED)

    def named(self, reference: str) -> SessionRow | None:
        """Return the last session of a reference, which may be over; None where it is none of the latest."""
        key = canonical_reference(reference)
        return next((row for row in reversed(self._latest) if row.ref == key), None)

    def fail(self, row: SessionRow | None) -> None:
        """Count a failure of a session."""
        if row:
            row.failures += 1
            self.changed[row] = None


class CoordinatorSessions(_Sessions):
    """The sessions of a coordinator: of the experiments that it begins, joins or ends.

    Parameters
    ----------
    run : RunRow
        The coordinator's.
    reference : callable
        Returns which experiment goes on at some rigs, as they say; None for none.
    """

    def __init__(self, run: RunRow, reference: Callable[[Iterable[str]], str | None]):
        super().__init__()
        self._run, self._reference = run, reference
        self._going: dict[str, _Course] = {}
        """By reference in its canonical form."""
        self._pushes: dict[float, _Course | None] = {}
        self._asked: dict[float, str] = {}
        """The experiments that the EXPINFOs name which are under way."""
        self._rehearsing: set[str] = set()
        self._standing: dict[str, health.HealthView] = {}
        """How rigs of no session here are: that counts if they are in one that another program has begun."""

    @property
    def goes_on(self) -> bool:
        """Whether an experiment goes on."""
        return any(course.row.ended is None for course in self._going.values())

    def take(self, event: Event, time: float) -> SessionRow | None:
        """Return the session that an event of a Unix time belongs to; take the events in their order."""
        if isinstance(event, PushBegun):
            course = self._pushes[event.request_time] = self._begin(event, time)
        elif isinstance(event, PushCompleted):
            known = self._pushes.pop(event.request_time, None)
            course = known or self._of(event.answers.keys() | event.failures.keys())
            if (reference := self._asked.pop(event.request_time, None)) and event.failures:
                course = self._never_begun(reference, event, time)
            if course:
                self._complete(course, event, time)
        else:
            if isinstance(event, CoordinatorClosed):
                self._close(time)
            request_time = getattr(event, "request_time", None)
            rig = getattr(event, "rig", None)
            course = self._pushes.get(request_time) if isinstance(request_time, float) else None
            course = course or self._of([rig] if isinstance(rig, str) else None)
            if course and isinstance(rig, str) and not was_before(event, course.row, time):
                self._note_trouble(course, rig, event)
            elif course is None and isinstance(event, Notice):
                self._standing.setdefault(event.rig, health.HealthView()).receive(event)
        return course.row if course else None

    def session_of(self, rig: str) -> SessionRow | None:
        """Return the session of a rig."""
        course = self._of([rig])
        return course.row if course else None

    def _close(self, time: float) -> None:
        """End the sessions that a rig has refused, and of which no rig has begun: nobody goes on with them."""
        for course in self._going.values():
            if course.row.ended is None and course.has_failed and not course.begun:
                self._conclude(course, FAILED, time)
                self.changed[course.row] = None

    def _goes_on_at(self, rigs: list[str]) -> bool:
        course = self._of(rigs)
        return course is not None and course.row.ended is None

    def _of(self, rigs: Iterable[str] | None) -> _Course | None:
        """Return the newest session with one of these rigs, or of any."""
        asked = None if rigs is None else set(rigs)
        for course in reversed(self._going.values()):
            if asked is None or not asked.isdisjoint(course.rigs):
                return course
        return None

    def _never_begun(self, reference: str, event: PushCompleted, time: float) -> _Course:
        """Return a session that comes to nothing, since not all rigs are there."""
        course = self._open(reference, [*event.answers, *event.failures], time)
        course.row.rigs.update(dict.fromkeys(event.answers, OK))
        course.row.rigs.update((rig, error.problem) for rig, error in event.failures.items())
        self._conclude(course, FAILED, time)
        return course

    def _begin(self, event: PushBegun, time: float) -> _Course | None:
        if event.event is INFO and (reference := introduced(event.args)) and not self._goes_on_at(event.rigs):
            self._asked[event.request_time] = reference
        if event.event not in (INIT, START):
            course = self._of(event.rigs)
            if course is None and event.event in (END, INTERRUPT):
                reference = self._reference(event.rigs)  # another program has begun it
                if reference is not None and self._rehearsing.isdisjoint(event.rigs):
                    course = self._open(reference, event.rigs, time, adopts=True)
                    course.row.is_only_ended = True
            return course
        reference, is_joined, is_rehearsal = _named(event.event, event.args)
        if event.event is INIT:
            self._rehearsing.difference_update(event.rigs)
            if is_rehearsal:
                self._rehearsing.update(event.rigs)
        if not self._rehearsing.isdisjoint(event.rigs):
            return None
        course = self._of(event.rigs)
        if reference is None:
            if course and course.row.ended is None:
                return course
            return self._open("", event.rigs, time) if event.event is START else None
        known = self._going.get(canonical_reference(reference))
        if known and known.row.ended is None:
            known.rigs.update(dict.fromkeys(event.rigs))
            return known
        adopts = is_joined or event.event is START
        return self._open(reference, event.rigs, time, adopts=adopts)

    def _open(self, reference: str, rigs: list[str], time: float, adopts: bool = False) -> _Course:
        self._leave(rigs)
        key = canonical_reference(reference)
        parts = reference_parts(reference)
        adopted = frozenset(rigs if adopts else ())
        row = SessionRow(self._run, key, parts[2] if parts else None, time, adopts=adopted, is_joined=adopts)
        course = self._going[key] = _Course(row, rigs)
        for rig in rigs:
            if (found := self._standing.pop(rig, None)) and adopts:  # its EXPINIT has settled what was before
                told = {f"failure {name or None}": problem for name, problem in found.failures.items()}
                course.troubles[rig] = {**told, "status": found.reason} if found.reason else told
        self._latest.append(row)
        self.changed[row] = None
        return course

    def _leave(self, rigs: Iterable[str]) -> None:
        """Take rigs out of the sessions that they were in."""
        for key, course in list(self._going.items()):
            for rig in rigs:
                course.rigs.pop(rig, None)
            if not course.rigs:
                del self._going[key]

    def _complete(self, course: _Course, event: PushCompleted, time: float) -> None:
        message, row = event.event, course.row
        if message not in LIFECYCLE_MESSAGES:
            return
        self.changed[row] = None
        # Who is not in charge is refused, and ends nothing.
        is_end = message in ENDS
        failures = {r: e.problem for r, e in event.failures.items() if not (is_end and isinstance(e, BusyError))}
        if is_end and not (failures or event.answers):
            return
        if message in (INIT, START):
            row.rigs.update({**dict.fromkeys(event.answers, OK), **failures})
            course.has_failed = course.has_failed or bool(failures)
            if message is START:
                course.begun.update(event.answers)
            elif event.failures.keys() >= course.rigs.keys() and all(map(_is_refusal, event.failures.values())):
                self._conclude(course, FAILED, time)  # nobody is told of an end who has not begun
        elif message in (END, INTERRUPT):
            self._end(course, event, failures, time)
        else:
            if row.ended is None:
                self._conclude(course, INTERRUPTED, time)
            self._leave(event.answers)
            self._rehearsing.difference_update(event.answers)

    def _end(self, course: _Course, event: PushCompleted, failures: Mapping[str, str], time: float) -> None:
        row, was_over = course.row, course.row.ended is not None
        self._note_recorded(course, event)
        if was_over and event.event is INTERRUPT:
            return
        course.over.update(event.answers, failures)
        for rig, answer in event.answers.items():
            information = answer[-1] if answer and isinstance(answer[-1], dict) else {}
            unsure = STILL_RUNNING if says_running(answer) else information.get("unconfirmed")
            told = OK if event.event is END or rig not in course.rigs else row.rigs.get(rig, OK)
            row.rigs[rig] = course.trouble_of(rig) or (unsure if isinstance(unsure, str) else told)
        row.rigs.update(failures)
        if course.over >= course.rigs.keys():
            is_complete = all(told == OK for told in row.rigs.values())
            ended = COMPLETE if is_complete else INCOMPLETE
            self._conclude(course, INTERRUPTED if event.event is INTERRUPT else ended, time)

    def _note_recorded(self, course: _Course, event: PushCompleted) -> None:
        for rig, answer in event.answers.items():
            if event.event is END or rig not in course.recorded:  # what was broken off is data, too
                course.recorded[rig] = recorded_in(answer[-1] if answer and isinstance(answer[-1], dict) else {})
        course.row.files = sum(files for files, _ in course.recorded.values())
        course.row.bytes = sum(size for _, size in course.recorded.values())

    def _conclude(self, course: _Course, outcome: str, time: float) -> None:
        if outcome == INTERRUPTED and course.has_failed and not course.begun >= course.rigs.keys():
            outcome = FAILED
        course.row.ended, course.row.outcome = course.row.ended or time, outcome

    def _note_trouble(self, course: _Course, rig: str, event: Event) -> None:
        troubles = course.troubles.setdefault(rig, {})
        if isinstance(event, LinkLost):
            troubles["link"] = f"lost: {event.reason}"
        elif isinstance(event, LinkAlive):
            troubles.pop("link", None)
        elif isinstance(event, Notice):
            key = f"failure {event.key}"
            if event.topic == FAILURE and len(troubles) < MOST:
                troubles[key] = problem_of(event.body)
            elif event.topic == RECOVERED:
                troubles.pop(key, None)
            elif event.topic == "status" and (reason := reason_in(event.body)):
                troubles["status"] = reason


def _is_refusal(error: RigError) -> bool:
    """Whether a rig has said that it does not begin; one that is silent may have begun, and is interrupted."""
    return isinstance(error, RemoteError)


class RigSessions(_Sessions):
    """The sessions of a rig, by its status."""

    def __init__(self, run: RunRow):
        super().__init__()
        self._run = run
        self._row: SessionRow | None = None
        self._troubles: dict[str, str] = {}
        self._is_rehearsal = False
        self._is_begun = self._was_running = False
        """Whether the status has shown the present session, and whether it was RUNNING."""
        self._has_failed = self._is_settling = self._is_left = False
        """Whether a message that begins has failed; whether the message that has ended the session, and the one that
        cleans up after it, is yet to be told."""

    @property
    def goes_on(self) -> bool:
        """Whether an experiment goes on."""
        return self._row is not None and self._row.ended is None

    def take(self, event: Event, time: float) -> SessionRow | None:
        """Return the session that an event of a Unix time belongs to; take the events in their order."""
        if isinstance(event, HandlerDue) and event.event is INIT:
            reference, _, self._is_rehearsal = _named(event.event, event.args)
            if reference is not None and not self._is_rehearsal and not self.goes_on:
                self._begin(reference, time)
        elif isinstance(event, StatusChanged):
            self._change(event, time)
        elif isinstance(event, Notice) and event.topic in (FAILURE, RECOVERED):
            self._troubles.pop(event.key or "", None)
            if event.topic == FAILURE and len(self._troubles) < MOST:
                self._troubles[event.key or ""] = problem_of(event.body)
        elif isinstance(event, NoticesDropped):
            return None  # by a task that is long gone: another session's, if any
        row = self._row
        if isinstance(event, MessageHandled) and row and event.event in LIFECYCLE_MESSAGES:
            self._settle(event, row, time)
        return row

    def session_of(self, _: str) -> SessionRow | None:
        """Return the session of the rig."""
        return self._row

    def _begin(self, reference: str, time: float) -> SessionRow:
        key = canonical_reference(reference)
        parts = reference_parts(reference)
        row = self._row = SessionRow(self._run, key, parts[2] if parts else None, time)
        self._latest.append(row)
        self._troubles = {}
        self._is_begun = self._was_running = self._has_failed = self._is_settling = self._is_left = False
        self.changed[row] = None
        return row

    def _change(self, event: StatusChanged, time: float) -> None:
        """Begin or end a session."""
        row, reference = self._row, canonical_reference(event.exp_ref or "")
        if event.after in (ExpStatus.INITIALIZED, ExpStatus.RUNNING):
            if self._is_rehearsal:
                self._row = None
                return
            if row is None or row.ended is not None or row.ref not in ("", reference):
                row = self._begin(reference, time)
            row.ref = row.ref or reference
            self._is_begun = True
            self._was_running = self._was_running or event.after is ExpStatus.RUNNING
            self.changed[row] = None
        elif row:
            if row.ended is None:
                trouble = event.reason or "; ".join(self._troubles.values())[:LONGEST]
                is_whole = self._was_running and event.reason is None
                outcome = (INCOMPLETE if trouble else COMPLETE) if is_whole else INTERRUPTED
                row.outcome = FAILED if self._has_failed and not self._was_running else outcome
                row.ended, self._is_settling = time, True
                row.rigs[self._run.name] = trouble or OK
                self.changed[row] = None
            self._is_left = event.after is ExpStatus.CONNECTED

    def _settle(self, event: MessageHandled, row: SessionRow, time: float) -> None:
        """Take note of what became of a message, which the rig tells after the change that it led to."""
        self.changed[row] = None
        if self._is_left:
            self._row = None
        elif event.error and event.event in (INIT, START):
            self._has_failed = row.ended is None or self._has_failed
            if not self._is_begun:
                row.ended, row.outcome, self._row = time, FAILED, None
            if self._has_failed:
                row.rigs[self._run.name] = event.error
        elif self._is_settling and event.event in (END, INTERRUPT):
            if event.error:
                row.outcome, row.rigs[self._run.name] = INCOMPLETE, event.error
            if event.event is INTERRUPT and row.outcome != FAILED:
                row.outcome = INTERRUPTED
        self._is_settling = False


def introduced(args: list[Any]) -> str | None:
    """Return the experiment that an EXPINFO names."""
    information = args[-1] if args else None
    reference = information.get("exp_ref") if isinstance(information, dict) else None
    return reference if isinstance(reference, str) and reference else None


def recorded_in(information: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number and the bytes of the files that a rig says it has recorded."""
    totals = totals_of(information.get("recorded"))
    return (totals.files, totals.bytes) if totals else (0, 0)


def named_by(event: Event) -> str | None:
    """Return the reference that an event is about which comes at any time: an alert, or the end of a copy."""
    if isinstance(event, AlertEvent):
        return event.exp_ref
    if isinstance(event, Notice) and event.topic in _OF_ANY_TIME and isinstance(event.body, dict):
        reference = event.body.get("exp_ref")
        return reference if isinstance(reference, str) else None
    return None


def was_before(event: Event, row: SessionRow | None, time: float) -> bool:
    """Whether a notice of a Unix time tells anew what was so before a session began, and is settled by that."""
    if row is None or row.is_joined:  # nobody here knows when it began
        return False
    return isinstance(event, Notice) and health.was_before(event.body, time, row.began)


def reason_in(body: Any) -> str | None:
    """Return why a rig has changed its status by itself, as its notice says."""
    reason = body.get("reason") if isinstance(body, dict) else None
    return reason if isinstance(reason, str) and reason else None


def _named(event: Verb, args: list[Any]) -> tuple[str | None, bool, bool]:
    """Return the reference that a message names, whether it joins an experiment, and whether it is for a rehearsal."""
    try:
        return named_reference(event, args), takes_over(event, args), rehearses(event, args)
    except ValueError:  # which the rigs refuse
        return None, False, False
