"""A rehearsal: an experiment of some seconds on the rigs that can rehearse, and what each has proven by it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rigsync._text import size_text
from rigsync.coordinator.course import Course, Steps
from rigsync.coordinator.experiment import AsyncExperiment, Experiment
from rigsync.coordinator.failures import FailureWatch, may_have_begun, weakly
from rigsync.coordinator.introductions import information, information_in
from rigsync.coordinator.results import PushResult
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import (
    Dialect,
    LinkChanged,
    MessageReceived,
    Notice,
    ProbeAnswered,
    PushBegun,
    RestartSeen,
    RigSettled,
)
from rigsync.core.lifecycle import rehearses
from rigsync.core.messages import Verb
from rigsync.errors import RigError
from rigsync.runtime.waiters import comes_true

DELAY = 0.5
"""Seconds after which all rigs begin at one instant."""
_BEYOND = 1e24
"""More than any rig has bytes."""
_SLICE = 0.1
"""Seconds of a wait at a time: rigs may fail meanwhile, and Python misses a signal that comes just before one."""


@dataclass(slots=True)
class Proof:
    """What one rig has proven in a rehearsal; None stands for what it has not.

    Parameters
    ----------
    problem : str
        What has failed, or why the rig was left out; empty where all is well.
    left_out : bool
        Whether it was not asked, since it cannot rehearse.
    started_in, ended_in : float or None
        Seconds from the instant, or from EXPEND, until it answered.
    grew : int or None
        Bytes that it has recorded.
    seconds : float or None
        For how long.
    free : int or None
        Bytes on the disk that takes its recordings.
    expected : int or None
        Bytes that a session will take, at the same rate.
    late, bound : float or None
        Seconds from the instant until it began, and how well that is known.
    """

    problem: str = ""
    left_out: bool = False
    started_in: float | None = None
    ended_in: float | None = None
    grew: int | None = None
    seconds: float | None = None
    free: int | None = None
    expected: int | None = None
    late: float | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Rehearsal(Mapping[str, Proof]):
    """What became of a rehearsal: a mapping of rig to `Proof`.

    Parameters
    ----------
    exp_ref : str
        Its reference.
    minutes : float
        Length of the session whose size is expected.
    skew : float or None
        Seconds between the first and the last rig that began.
    """

    exp_ref: str
    minutes: float
    proofs: dict[str, Proof] = field(default_factory=dict)
    skew: float | None = None

    @property
    def succeeded(self) -> bool:
        """Whether any rig took part, and each of these has proven all."""
        asked = [proof for proof in self.proofs.values() if not proof.left_out]
        return bool(asked) and not any(proof.problem for proof in asked)

    def document(self) -> dict[str, Any]:
        """Return all of it for JSON, times in seconds."""
        proofs = {rig: asdict(proof) for rig, proof in self.proofs.items()}
        return {
            "exp_ref": self.exp_ref,
            "minutes": self.minutes,
            "succeeded": self.succeeded,
            "skew": self.skew,
            "rigs": proofs,
        }

    def __getitem__(self, rig: str) -> Proof:
        return self.proofs[rig]

    def __iter__(self) -> Iterator[str]:
        return iter(self.proofs)

    def __len__(self) -> int:
        return len(self.proofs)


class RehearsalCourse(Course[Any, Any]):
    """The course of a rehearsal: a rig that fails stands in the outcome, and the others go on to their end."""

    def __init__(self, *course: Any, seconds: float, minutes: float, **options: Any):
        for name, value in (("seconds", seconds), ("minutes", minutes)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"{name} of a rehearsal is a number above 0, not {value!r}")
        super().__init__(*course, delay=DELAY, **options)
        self._seconds, self._minutes = seconds, minutes
        self._proofs = {rig: Proof() for rig in self._rigs}
        self._started: list[str] = []
        self._skew: float | None = None
        self._answered: dict[tuple[str, Verb], float] = {}  # when each rig did, in monotonic seconds
        self._initialising: float | None = None  # the push of EXPINIT
        self._rules: list[Callable[[], None]] = []

    @property
    def outcome(self) -> Rehearsal:
        """What became of it."""
        return Rehearsal(self.exp_ref or "", self._minutes, self._proofs, self._skew)

    @property
    def _records(self) -> bool:
        """Whether any rig does."""
        return not self.failures.keys() >= set(self._started)

    def _beginning(self) -> Steps:
        rule = self._services.hub.rule
        self._rules.append(rule(MessageReceived, self._note_answer))
        self._rules += [rule(PushBegun, self._note_push), rule(RigSettled, self._note_refusal)]
        # No rig is asked for an experiment of that name: nobody records it.
        answers = yield from self._tell("EXPINFO", self._rigs, ExpStatus.CONNECTED, information(None))
        told = information_in(answers)
        able = [rig for rig in answers if told.get(rig, {}).get("rehearses") is True]
        for rig in answers.keys() - able:
            self._proofs[rig] = Proof(problem=self._why_left_out(rig), left_out=True)
        # Noted before it is sent, since Ctrl-C may come meanwhile. Where something goes on, EXPINIT is refused.
        self._in_charge_of = [rig for rig in able if told[rig].get("status") == int(ExpStatus.CONNECTED)]
        ready = yield from self._tell("EXPINIT", able, {**self._init, "exp_ref": self.exp_ref, "rehearsal": True})
        self._in_charge_of = [
            rig
            for rig in able
            if rig in ready or (rig in self._in_charge_of and may_have_begun("EXPINIT", ready.failed.get(rig)))
        ]
        services, tell = self._services, weakly(self._note_failure)
        self._watch = FailureWatch(services, services.hub, list(ready), self.exp_ref, tell, self.ready)
        self._watch.initialised()
        instant = time.monotonic() + DELAY
        started = yield from self._tell("EXPSTART", list(ready), self.exp_ref, self._start, delay=DELAY)
        self._in_charge_of = [r for r in self._in_charge_of if may_have_begun("EXPSTART", started.failed.get(r))]
        self._started, self._skew = list(started), started.skew
        for rig, start in started.starts.items():
            proof = self._proofs[rig]
            proof.started_in = self._took(rig, ExpMessage.EXPSTART, instant)
            proof.late, proof.bound = start.time - (started.at or start.time), start.bound
        self._watch.begin()

    def _ending(self) -> Steps:
        self._begin_ending()
        failures = self._watch.end() if self._watch else {}
        asked = time.monotonic()
        ended = yield from self._tell("EXPEND", self._started)
        for rig in self._started:
            problem = self._proofs[rig].problem
            if rig in failures and failures[rig] not in problem:
                self._note(rig, failures[rig])
        self._in_charge_of = [
            rig for rig in self._in_charge_of if rig not in ended and may_have_begun("EXPEND", ended.failed.get(rig))
        ]
        for rig, text in (yield from self._stop_and_clean_up({"reason": "the rehearsal is over"}, {})).items():
            self._note(rig, text)
        for rig, answer in information_in(ended).items():
            self._proofs[rig].ended_in = self._took(rig, ExpMessage.EXPEND, asked)
            if lack := prove(self._proofs[rig], answer.get("rehearsal"), self._minutes):
                self._note(rig, lack)
        yield from self._tell("EXPCLEANUP", list(ended))

    def _leave(self, error: BaseException | None) -> Steps:
        try:
            yield from super()._leave(error)
        finally:
            while self._rules:
                self._rules.pop()()

    def _tell(self, message: str, rigs: Sequence[str], *args: Any, **options: Any) -> Steps:
        """Tell some rigs, note which fail, and return the result."""
        yield from super()._tell(message, list(rigs), *args, **options)
        result: PushResult = self.results[message]
        for rig, error in result.failed.items():
            self._note(rig, f"{message} failed: {error.problem}")
        return result

    def _note(self, rig: str, problem: str) -> None:
        proof = self._proofs[rig]
        proof.problem = f"{proof.problem}; then {problem}" if proof.problem else problem

    def _note_answer(self, answer: MessageReceived) -> None:
        self._answered[answer.rig, answer.event] = time.monotonic()

    def _note_push(self, push: PushBegun) -> None:
        if self._initialising is None and rehearses(push.event, push.args):
            self._initialising = push.request_time
            self._services.tell_each(push.request_time)

    def _note_refusal(self, settled: RigSettled) -> None:
        """Leave a rig to its experiment that has begun since EXPINFO, even if Ctrl-C comes before all have answered."""
        error = settled.outcome
        if settled.request_time == self._initialising and isinstance(error, RigError):
            self._in_charge_of = [
                rig for rig in self._in_charge_of if rig != settled.rig or may_have_begun("EXPINIT", error)
            ]

    def _took(self, rig: str, message: ExpMessage, since: float) -> float | None:
        answered = self._answered.get((rig, message))
        return None if answered is None else max(0.0, answered - since)

    def _why_left_out(self, rig: str) -> str:
        if self._services[rig].dialect == Dialect.IBLUTIL.value:
            return "it runs iblutil, which cannot rehearse: try it by hand"
        if not self._services[rig].config.tells_start:
            return "it is another program, which cannot rehearse: try it by hand"
        return (
            "it cannot rehearse: write rehearsal into its agent's file, or @rig.rehearsal into its program, with this "
            "version of rigsync there"
        )


def prove(proof: Proof, told: Any, minutes: float) -> str | None:
    """Take into a proof what a rig has told of its recording; return what is wrong with that, if anything."""
    told = told if isinstance(told, dict) else {}
    grew, seconds, free = (_number(told.get(name)) for name in ("grew", "seconds", "free"))
    proof.grew, proof.seconds = None if grew is None else int(grew), seconds
    proof.free = None if free is None else int(free)
    if grew is None or seconds is None or seconds <= 0:
        return "its answer to EXPEND does not say what it has recorded"
    if grew <= 0:
        return f"it has recorded nothing in {seconds:.1f} s: its files have not grown since EXPSTART; look at them"
    proof.expected = int(min(grew / seconds * 60 * minutes, _BEYOND))
    if free is None:
        return "the free space of its disk cannot be found out; look at that disk"
    if free < proof.expected:
        return (
            f"its disk is too small: {minutes:g} min take some {size_text(proof.expected)}, and {size_text(free)} are "
            "free; move data away, or record elsewhere"
        )
    return None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) < _BEYOND else None  # nor is it NaN


class PlainRehearsal(RehearsalCourse, Experiment):
    """A rehearsal that the calling thread waits for."""

    def run(self) -> Rehearsal:
        """Rehearse, and return what became of it."""
        with self:
            end = time.monotonic() + self._seconds
            while (left := end - time.monotonic()) > 0 and self._records:
                time.sleep(min(left, _SLICE))
        return self.outcome


class AsyncRehearsal(RehearsalCourse, AsyncExperiment):
    """A rehearsal that is awaited on an event loop."""

    async def run(self) -> Rehearsal:
        """Rehearse, and return what became of it."""
        async with self:
            news = Notice, ProbeAnswered, LinkChanged, RestartSeen  # by which it is known that a rig has failed
            await comes_true(lambda: not self._records, self._services.hub, news, self._seconds)
        return self.outcome
