"""Which events somebody is told of. Pure: events and times go in, what has happened comes out."""

from __future__ import annotations

import builtins
import contextlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from rigsync import errors
from rigsync._text import duration_text, error_text, one_line, size_text
from rigsync.config.alerts import DISK_LOW, FAILURE, INTERRUPTED, LOST, SESSION_END
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import (
    Event,
    HandlerDue,
    LinkLost,
    MessageHandled,
    Notice,
    PushBegun,
    PushCompleted,
    StatusChanged,
)
from rigsync.core.health import STATUS, problem_of, was_before
from rigsync.core.lifecycle import ENDS, LIFECYCLE_MESSAGES, named_reference, rehearses
from rigsync.core.notices import FAILURE as TROUBLE
from rigsync.core.notices import FREE_DISK
from rigsync.errors import Aborted, BusyError, Cancelled, Interrupted, RemoteError, RigError

_INIT, _START, _END = ExpMessage.EXPINIT, ExpMessage.EXPSTART, ExpMessage.EXPEND
_INTERRUPT, _CLEANUP = ExpMessage.EXPINTERRUPT, ExpMessage.EXPCLEANUP
_CALLED_OFF = (Aborted, Cancelled, Interrupted)
"""What follows from the failure of another rig, or from an interrupt: that is told."""
_REFUSALS = ("BusyError", "StateError", "Interrupted", "Cancelled")
"""Of what a rig says of a message, what is no failure of the rig."""
_OF_AGENTS = (
    "CommandFailed",
    "DriveHangs",
    "EndedBadly",
    "PathTaken",
    "ProgramError",
    "RecordingGoesOn",
    "RequirementMissing",
    "SubstitutionError",
)
"""Errors of agents, which a coordinator knows by their names alone."""
_KNOWN = frozenset(_OF_AGENTS).union(
    name
    for module in (builtins, errors)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and kind is not KeyError
)
"""Names of classes of errors that a text of two words and more does without. Not `KeyError`, whose text is the key
alone, nor a lab's own, which may say what the text does not."""
_NAME = re.compile(rf"(?:^|(?<=[:;|] ))(?:rigsync\.errors\.)?(?:{'|'.join(sorted(_KNOWN))}): (?=\S+ \S)")
"""Such a name before its text."""


class Happening(NamedTuple):
    """Something that somebody may be told of."""

    on: str
    """One of `CAUSES`."""
    rigs: tuple[str, ...]
    """Names of the rigs."""
    text: str
    """What has happened to them, in one line."""
    exp_ref: str | None
    """Reference of the experiment."""


class Watch(Protocol):
    """Finds what somebody is told of in the events of a hub."""

    @property
    def kinds(self) -> tuple[type[Event], ...]:
        """The kinds of events in which it looks."""

    def take(self, event: Any, now: float) -> Iterable[Happening]:
        """Return what has happened by an event, at monotonic `now` (s)."""


class CoordinatorWatch:
    """What happens to the rigs of a program while it commands an experiment on them, and not a rehearsal.

    So of several programs that see the same rigs only the one in charge tells.

    Parameters
    ----------
    elsewhere : callable
        Returns which experiment goes on at some rigs, as they say, where another program has begun it.
    """

    kinds = (PushBegun, PushCompleted, LinkLost, Notice)

    def __init__(self, elsewhere: Callable[[Iterable[str]], str | None] = lambda _: None) -> None:
        self._elsewhere = elsewhere
        self._mine: dict[str, str | None] = {}
        """The reference of each rig, from EXPINIT to EXPCLEANUP."""
        self._since: dict[str, float] = {}
        """When each of these was commanded first, in monotonic seconds: what was wrong before is no news."""
        self._others: dict[str, str] = {}
        """Of rigs that another program has begun, and this one tells to end: the reference."""
        self._lost: set[str] = set()
        """Rigs that were told of as lost."""
        self._rehearsing: set[str] = set()
        self._running: set[str] = set()
        self._session: _Session | None = None

    def take(self, event: Any, now: float) -> Iterable[Happening]:
        """Return what has happened by an event, at monotonic `now` (s)."""
        if isinstance(event, Notice):
            return self._notice(event, now)
        if isinstance(event, LinkLost):
            self._lost.add(event.rig)
            return self._of(event.rig, LOST, event.reason)
        if event.event not in LIFECYCLE_MESSAGES:
            return ()
        return self._begun(event, now) if isinstance(event, PushBegun) else list(self._completed(event, now))

    def _of(self, rig: str, on: str, text: str) -> Iterator[Happening]:
        if rig in self._mine and rig not in self._rehearsing:
            yield Happening(on, (rig,), _line(text), self._mine[rig])

    def _notice(self, event: Notice, now: float) -> Iterator[Happening]:
        if was_before(event.body, now, self._since.get(event.rig, -math.inf)):
            return
        if event.topic == TROUBLE:
            yield from self._of(event.rig, cause_of(event), problem_of(event.body))
        elif event.topic == STATUS and isinstance(event.body, dict) and event.body.get("reason"):
            self._running.discard(event.rig)  # an interrupt that follows ends nothing more there
            yield from self._of(event.rig, INTERRUPTED, str(event.body["reason"]))

    def _begun(self, event: PushBegun, now: float) -> Iterable[Happening]:
        if event.event is _INIT:
            is_rehearsal = _rehearses(event.args)
            for rig in event.rigs:
                self._mine[rig], self._since[rig] = _reference(_INIT, event.args), now
                self._running.discard(rig)
                self._lost.discard(rig)
                (self._rehearsing.add if is_rehearsal else self._rehearsing.discard)(rig)
        elif event.event is _START:
            for rig in event.rigs:
                if rig not in self._mine:
                    self._mine[rig], self._since[rig] = _reference(_START, event.args), now
            self._start(event.rigs, now)
        else:
            for rig in event.rigs:
                if rig not in self._mine and (reference := self._elsewhere([rig])) is not None:
                    self._others[rig] = reference
        if event.event is _INTERRUPT:
            told = self._running | self._others.keys()
            rigs = tuple(rig for rig in event.rigs if rig in told and rig not in self._rehearsing)
            if rigs:
                return [Happening(INTERRUPTED, rigs, _why(event.args), self._reference(rigs))]
        return ()

    def _completed(self, event: PushCompleted, now: float) -> Iterator[Happening]:
        failures = {rig: error for rig, error in event.failures.items() if rig not in self._rehearsing}
        for rig, error in failures.items():
            if self._is_told(event, rig, error):
                text = f"{event.event.name}: {_line(_words_of(error))}"
                yield Happening(FAILURE, (rig,), text, self._reference([rig]))
        if event.event is _INIT:
            for rig in event.failures:
                self._forget(rig)
            # An experiment may have been taken over.
            self._start([rig for rig, args in event.answers.items() if _status(args) == ExpStatus.RUNNING], now)
        elif event.event is _START:
            self._running.difference_update(event.failures)
        elif event.event in (_END, _INTERRUPT):
            yield from self._ended(event, failures, now)
        elif event.event is _CLEANUP:
            for rig in [*event.answers, *event.failures]:
                self._forget(rig)

    def _is_told(self, event: PushCompleted, rig: str, error: RigError) -> bool:
        """Whether anybody is told that a message has failed on a rig."""
        if isinstance(error, _CALLED_OFF):
            return False
        if event.event not in ENDS:
            return True
        # Of a rig that is lost everybody knows; and the end of what does not go on, or is another's, is no failure.
        is_known = event.event is not _END and rig in self._lost
        return (rig in self._mine or rig in self._others) and not is_known and not isinstance(error, BusyError)

    def _ended(self, event: PushCompleted, failures: Mapping[str, RigError], now: float) -> Iterator[Happening]:
        answers = {rig: args for rig, args in event.answers.items() if rig not in self._rehearsing}
        session = self._session
        if session is None:  # another program has begun it
            if event.event is not _END or self._others.keys().isdisjoint(answers):
                return
            session = _Session(None)
        session.end(event.event, answers, failures)
        self._running.difference_update(event.answers, event.failures)
        if not self._running:
            self._session = None
            rigs = tuple(session.rigs)
            yield Happening(SESSION_END, rigs, session.told(now), self._reference(rigs) or session.exp_ref)

    def _start(self, rigs: Iterable[str], now: float) -> None:
        started = [rig for rig in rigs if rig not in self._rehearsing]
        self._running.update(started)
        if started and self._session is None:
            self._session = _Session(now)

    def _forget(self, rig: str) -> None:
        self._mine.pop(rig, None)
        self._others.pop(rig, None)
        self._running.discard(rig)
        self._rehearsing.discard(rig)

    def _reference(self, rigs: Collection[str]) -> str | None:
        # Those that are told to end are of one experiment, though not all of them say so.
        known = (self._mine.get(rig) or self._others.get(rig) for rig in rigs)
        return next(filter(None, known), None) or next(iter(self._others.values()), None)


class _Session:
    """What is known of an experiment at its end; `began` in monotonic seconds, None where it began elsewhere."""

    def __init__(self, began: float | None):
        self._began = began
        self.exp_ref: str | None = None
        self.rigs: list[str] = []
        self._failures: dict[str, str] = {}
        self._is_interrupted = False
        self._files = self._bytes = 0

    def end(self, event: Any, answers: Mapping[str, list[Any]], failures: Mapping[str, RigError]) -> None:
        """Take note of what the rigs say at their end."""
        self._is_interrupted = self._is_interrupted or event is _INTERRUPT
        self.rigs += [rig for rig in [*answers, *failures] if rig not in self.rigs]
        self._failures |= {rig: _line(_words_of(error)) for rig, error in failures.items()}
        for args in answers.values():
            info = args[-1] if args and isinstance(args[-1], dict) else {}
            if isinstance(ref := info.get("exp_ref"), str):
                self.exp_ref = self.exp_ref or ref
            recorded = info.get("recorded")
            files = recorded.get("files") if isinstance(recorded, dict) else None
            for file in files if isinstance(files, list) else ():
                size = file.get("bytes") if isinstance(file, dict) else None
                self._files += 1
                self._bytes += size if isinstance(size, int) and size > 0 else 0

    def told(self, now: float) -> str:
        """Return how it has ended, at monotonic `now` (s)."""
        after = "" if self._began is None else f" after {duration_text(now - self._began)}"
        how = "was interrupted" if self._is_interrupted else "has ended"
        wrong = "; ".join(f"{rig}: {problem}" for rig, problem in self._failures.items())
        outcome = f"incomplete: {wrong}" if wrong else "" if self._is_interrupted else "complete"
        files = f", {self._files} file{'s' * (self._files != 1)}, {size_text(self._bytes)}" if self._files else ""
        return f"the session {how}{after}{f', {outcome}' if outcome else ''}{files}"


class RigWatch:
    """What happens at one rig, in an experiment or not, but not in a rehearsal.

    What it tells of the time before `began`, in monotonic seconds, an earlier program of it has told.
    """

    kinds = (Notice, HandlerDue, MessageHandled, StatusChanged)

    def __init__(self, name: str, began: float = -math.inf):
        self._name, self._since = name, began
        self._exp_ref: str | None = None
        self._began: float | None = None
        self._has_stopped = self._is_rehearsal = self._is_interrupted = False

    def take(self, event: Any, now: float) -> Iterable[Happening]:
        """Return what has happened by an event, at monotonic `now` (s)."""
        if isinstance(event, StatusChanged):
            self._exp_ref = event.exp_ref or self._exp_ref
            self._has_stopped = event.after is not ExpStatus.RUNNING
            if not self._has_stopped:
                self._began, self._is_interrupted = now, False
        elif isinstance(event, MessageHandled):
            return list(self._handled(event, now))
        elif isinstance(event, Notice):
            is_news = event.topic == TROUBLE and not was_before(event.body, now, self._since)
            return self._told(cause_of(event), problem_of(event.body)) if is_news else ()
        elif event.event is _INIT:
            self._is_rehearsal = _rehearses(event.args)
        elif event.event is _INTERRUPT and self._began is not None:
            self._is_interrupted = True
            return self._told(INTERRUPTED, _why(event.args))
        return ()

    def _handled(self, event: MessageHandled, now: float) -> Iterator[Happening]:
        error = event.error if event.is_told and event.event in LIFECYCLE_MESSAGES else None
        name, _, text = (error or "").partition(": ")
        if error and name not in _REFUSALS:
            yield from self._told(FAILURE, f"{event.event.name}: {_words(name, text)}")
        if self._began is not None and self._has_stopped and event.event in ENDS:
            how = "was interrupted" if self._is_interrupted else "has ended"
            after, outcome = duration_text(now - self._began), f", badly: {_words(name, text)}" if error else ""
            self._began = None
            yield from self._told(SESSION_END, f"the recording {how} after {after}{outcome}")

    def _told(self, on: str, text: str) -> list[Happening]:
        return [] if self._is_rehearsal else [Happening(on, (self._name,), _line(text), self._exp_ref)]


def cause_of(event: Notice) -> str:
    """Return what a notice of a failure tells of."""
    return DISK_LOW if event.key == FREE_DISK else FAILURE


def _line(text: str) -> str:
    return one_line(_NAME.sub("", error_text(text) or text))


def _words_of(error: RigError) -> str:
    return _words(error.error, error.message) if isinstance(error, RemoteError) else error.problem


def _words(error: str, message: str) -> str:
    """Return what an error says, with the name of its class where that says more."""
    if not message.strip():
        return f"no reason was given ({error})"
    return message if (error in _KNOWN and " " in message.strip()) or not error else f"{message} ({error})"


def _why(args: list[Any]) -> str:
    """Return the reason in the data of an interrupt, from the rig itself or from a task that has failed."""
    data = args[0] if args else None
    if isinstance(data, dict) and data.get("error") == KeyboardInterrupt.__name__:
        return "EXPINTERRUPT: somebody pressed Ctrl-C at the task"
    if not isinstance(data, dict):
        return "EXPINTERRUPT"
    reason, error, message = (str(data.get(key) or "") for key in ("reason", "error", "message"))
    found = [reason, _words(error, message) if error and (message or not reason) else message]
    return ": ".join(["EXPINTERRUPT", *(_line(text) for text in found if text)])


def _status(args: list[Any]) -> Any:
    return args[-1].get("status") if args and isinstance(args[-1], dict) else None


def _reference(event: ExpMessage, args: list[Any]) -> str | None:
    with contextlib.suppress(ValueError):
        return named_reference(event, args)
    return None


def _rehearses(args: list[Any]) -> bool:
    with contextlib.suppress(ValueError):
        return rehearses(_INIT, args)
    return False
