"""The course of an experiment: what is told to which rigs, and what follows from their answers.

It waits for nothing: each step yields what is to be told, and goes on with what became of it. `Experiment` runs the
steps on the calling thread, `AsyncExperiment` on an event loop.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from rigsync._text import one_line, printable
from rigsync.coordinator.failures import (
    OUT_OF_REACH,
    FailureWatch,
    LateStop,
    RigFailure,
    brief_report,
    in_words,
    log_failures,
    logged_unless_raised,
    may_have_begun,
    report_of,
    weakly,
)
from rigsync.coordinator.introductions import (
    Unfit,
    check_not_running,
    information,
    information_in,
    is_strangers,
    main_reference,
)
from rigsync.coordinator.results import PushResult, still_running
from rigsync.coordinator.service import RigServices
from rigsync.core.arguments import checked_delay, compose
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import Dialect
from rigsync.core.lifecycle import reference_text
from rigsync.core.orders import Asked
from rigsync.errors import (
    ENDED_BADLY,
    ExperimentError,
    PushError,
    RemoteError,
    RigError,
    RigsyncError,
)
from rigsync.runtime.callbacks import guarded
from rigsync.runtime.conditions import Latch
from rigsync.runtime.signals import EndingSignals

logger = logging.getLogger("rigsync.experiment")

PATIENCE, IMPATIENCE = 600.0, 20.0
"""Seconds beyond each rig's own while it confirms that it is working on a message: in general, and at an interrupt,
when somebody waits for the program to end."""
SHOWN = 500
"""Characters of a rig's reason by which it is known again. Where it was told it is cut, at more than that."""
LEFT_TO_LEASE = "if it records, it goes on until its lease is over"
RECORDING = "recording"
"""The stage of an experiment between EXPSTART and EXPEND."""
_DONE = {"EXPINFO": "not begun", "EXPINIT": "initialised", "EXPSTART": "started"}

Steps = Generator[Asked, Any, Any]
"""What is to be told goes out; the `PushResult` or `PushError` comes in, None where nobody can wait for it."""

_Begun = TypeVar("_Begun")
_Done = TypeVar("_Done")


class Course(Generic[_Begun, _Done]):
    """An experiment, apart from who waits for it: `_run` does, and `begin`, `end` and `interrupt` return what it gives.

    It is in the set `unfinished` while it has been entered and not left. For the rest see `Lab.experiment`.
    """

    HOW_TO_BEGIN: ClassVar[str]
    """In words, for who has not."""

    def __init__(
        self,
        services: RigServices,
        unfinished: set[Course[Any, Any]],
        rigs: Sequence[str],
        ref: Any,
        *,
        init: Mapping[str, Any] | None = None,
        start: Any = None,
        delay: float | None = None,
        timeout: float | None = None,
        on_failure: Callable[[RigFailure], object] | None = None,
    ):
        if init is not None and not isinstance(init, Mapping):
            raise TypeError(f"init is a mapping, the data of EXPINIT, not {type(init).__name__}")
        if init is not None and "exp_ref" in init:
            raise ValueError("the reference is the first argument; leave exp_ref out of init")
        checked_delay(ExpMessage.EXPSTART, None, delay, time.time())  # before any rig is told of anything
        if on_failure is not None and not callable(on_failure):
            raise TypeError(f"on_failure is a function, not {type(on_failure).__name__}")
        self._services, self._unfinished, self._rigs = services, unfinished, list(rigs)
        self._init, self._start, self._delay, self._timeout = dict(init or {}), start, delay, timeout
        self._on_failure = on_failure
        self.exp_ref = reference_text({**ref, "date": str(ref.get("date"))} if isinstance(ref, Mapping) else ref)
        """Reference of the experiment; the main sync's, once that has told one."""
        self.results: dict[str, PushResult] = {}
        """What became of each message, by its name."""
        self.ready = Latch()
        """Set while every rig records; serves as a thread event and as a condition."""
        self.adopts = True
        """Whether the reference of a main sync that has begun another experiment counts."""
        self.stays = True
        """Whether its program goes on after it. Then a rig that was out of reach is told to stop once it answers."""
        self._watch: FailureWatch | None = None
        self._in_charge_of: list[str] = []
        """Rigs that may have begun and are not known to have stopped."""
        self._signals = EndingSignals()
        self._state = "new"
        self._never_begun = weakref.finalize(self, _tell_never_begun, self.exp_ref, self._rigs, self.HOW_TO_BEGIN)
        """Tells it, once: when this is collected, its coordinator is closed, or the program ends."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.exp_ref}, {self._state}, {len(self._rigs)} rigs>"

    # ------------------------------------------------------------------------------------------------- looking

    @property
    def goes_on(self) -> bool:
        """Whether it has begun, or is beginning or ending, and is not over."""
        return self._state not in ("new", "over")

    @property
    def failures(self) -> dict[str, str]:
        """What has gone wrong since the start of the recording, by rig. A lost rig is in it until it is back.

        A `RuntimeError` where it was never begun: nothing is recorded.
        """
        self._check_begun("failures")
        return self._watch.failures() if self._watch else {}

    # --------------------------------------------------------------------------------------------- life cycle

    def begin(self) -> _Begun:
        """Begin on all rigs or on none, as entering by ``with`` does; for a program that cannot hold a ``with`` open.

        Then `end` or `interrupt` has to follow. Where neither does, the rigs are interrupted when the program ends, or
        closes its coordinator. On an event loop, this and the other two are awaited.

        Returns
        -------
        Experiment or AsyncExperiment
            This one.

        Raises
        ------
        ExperimentError
            A rig has not begun; those that had are interrupted and cleaned up.
        RuntimeError
            It was begun before.
        """
        begun: _Begun = self._run(self._begin())
        return begun

    def end(self) -> _Done:
        """End on all rigs and have them clean up, as leaving a ``with`` does.

        Raises
        ------
        ExperimentError
            A rig has failed, now or before.
        RuntimeError
            It was never begun, or is over.
        """
        done: _Done = self._run(self._end())
        return done

    def interrupt(self, reason: BaseException | str = "interrupted by the program") -> _Done:
        """Interrupt all rigs and have them clean up, as an exception in a ``with`` does.

        Parameters
        ----------
        reason : BaseException or str, optional
            Why; the rigs are told.

        Raises
        ------
        RuntimeError
            It was never begun, or is over.
        """
        done: _Done = self._run(self._interrupt(reason))
        return done

    def join(self, rigs: Iterable[str]) -> None:
        """Take up what another program has begun and left, to end or interrupt it here; sends nothing.

        Parameters
        ----------
        rigs : iterable of str
            Those that nobody else is in charge of. They are interrupted if this program fails, or they do not end.

        Raises
        ------
        RuntimeError
            It was begun before.
        """
        self._enter()
        self._in_charge_of = list(rigs)
        self._state = "running"

    def leave_running(self) -> None:
        """Let the rigs record without this program, until another one ends them, or their lease is over.

        Its coordinator has to be made with ``leave_running=True``: any other interrupts them when it closes.

        Raises
        ------
        RuntimeError
            It was never begun, or is over.
        """
        self._take_up("leave_running()")
        self._in_charge_of = []
        self._close()

    def _run(self, steps: Steps) -> Any:
        """Run steps, and return what they return; what is raised while they wait is raised in them."""
        raise NotImplementedError

    def _begin(self) -> Steps:
        self._enter()
        try:
            yield from self._beginning()
        except BaseException as error:
            yield from self._leave(error)
            raise
        self._state = "running"
        return self

    def _end(self) -> Steps:
        self._take_up("end()")
        try:
            yield from self._ending()
        except BaseException as error:
            yield from self._leave(error)
            raise
        yield from self._leave(None)

    def _interrupt(self, reason: BaseException | str) -> Steps:
        self._take_up("interrupt()")
        yield from self._leave(reason if isinstance(reason, BaseException) else RuntimeError(reason))

    def _exit(self, error: BaseException | None) -> Steps:
        """Return the steps that leaving the ``with`` takes."""
        if error is not None:
            return self._leave(error)
        # Where it does not go on, the body has ended or interrupted it.
        return self._end() if self._state == "running" else _nothing()

    def check(self) -> None:
        """Raise if a rig has failed since it began to record, or is lost; cheap, and without waiting.

        Raises
        ------
        ExperimentError
            Names each such rig with what has happened to it.
        RuntimeError
            The experiment was never begun, is over, or is being ended: nothing is recorded.
        """
        if self._watch and (failures := self._watch.take()):
            outcomes = {rig: failures.get(rig, "records") for rig in self._rigs}
            failed = {rig: RigError(rig, reason) for rig, reason in failures.items()}
            raise ExperimentError(self.exp_ref, RECORDING, outcomes, failed)
        self._take_up("check()")

    def _check_begun(self, call: str) -> None:
        if self._state == "new":
            problem = "on an experiment that was never begun, and nothing is recorded: begin it by"
            raise RuntimeError(f"{call} {problem} {self.HOW_TO_BEGIN}")

    def _take_up(self, call: str) -> None:
        """Raise unless it goes on."""
        self._check_begun(call)
        if self._state != "running":
            how = f"over; begin another by {self.HOW_TO_BEGIN}" if self._state == "over" else f"{self._state} just now"
            raise RuntimeError(f"{call}: the experiment {self.exp_ref} is {how}")

    def _enter(self) -> None:
        if self._state != "new":
            raise RuntimeError("an experiment is begun once; make a new one with experiment(...)")
        self._state = "beginning"
        self._never_begun.detach()
        self._signals.take_over()
        weakref.finalize(self, self._signals.give_back).atexit = False  # where it is never left
        self._unfinished.add(self)

    def _leave(self, error: BaseException | None) -> Steps:
        """Interrupt what `error` leaves running; remove the guards in any case."""
        self._begin_ending()
        try:
            if error is not None:
                self._signals.hold(ctrl_c=True)
                if self._in_charge_of:
                    logger.warning("stopping %s: EXPINTERRUPT", ", ".join(self._in_charge_of))
                yield from self._stop_and_clean_up(report_of(error))
        finally:
            self._close()
            self._signals.act(error)  # though another exception goes on

    def _close(self) -> None:
        self._state = "over"
        self._unfinished.discard(self)
        if self._watch:
            self._watch.close()
        self._signals.give_back()

    def note_closing(self) -> None:
        """Leave signals to the system again: its rigs are closed, and it was not left, or even never begun."""
        self._never_begun()
        if self._state == "running":
            self._signals.give_back()

    def leave_to_closing(self, rigs: Iterable[str]) -> None:
        """Leave rigs to who closes the coordinator, and interrupts them, and tells what becomes of that."""
        left = set(rigs)
        self._in_charge_of = [rig for rig in self._in_charge_of if rig not in left]

    def _begin_ending(self) -> None:
        # What follows takes a bounded time. A signal that asks for the end is obeyed after it.
        # Not Ctrl-C: it turns an end that takes long into an interrupt.
        self._state = "ending"
        self._signals.hold(ctrl_c=False)

    # ------------------------------------------------------------------------------------------------ beginning

    def _beginning(self) -> Steps:
        told = information_in((yield from self._tell_all("EXPINFO", ExpStatus.CONNECTED, information(self.exp_ref))))
        try:
            self.exp_ref = main_reference(told, self.exp_ref, self.adopts)
            if not self._init.get("takeover"):
                check_not_running(told, self.exp_ref)
        except Unfit as unfit:
            raise self._refused(unfit.rigs, unfit.problem) from None
        # Noted before it is sent, since Ctrl-C may come meanwhile. Rigs that record for somebody else are left out.
        self._in_charge_of = [rig for rig in self._rigs if not is_strangers(told.get(rig, {}), self.exp_ref)]
        services, tell, joins = self._services, weakly(self._note_failure), bool(self._init.get("takeover"))
        self._watch = FailureWatch(services, services.hub, self._rigs, self.exp_ref, tell, self.ready, joins=joins)
        yield from self._tell_all("EXPINIT", {**self._init, "exp_ref": self.exp_ref})
        self._in_charge_of = list(self._rigs)
        self._watch.initialised()
        yield from self._tell_all("EXPSTART", self.exp_ref, self._start, delay=self._delay)
        self._watch.begin()

    def _refused(self, rigs: Sequence[str], problem: str) -> ExperimentError:
        """Return the error of what some rigs have told, before anything has begun."""
        outcomes = {rig: problem if rig in rigs else _DONE["EXPINFO"] for rig in self._rigs}
        return ExperimentError(self.exp_ref, "EXPINFO", outcomes, {rig: RigError(rig, problem) for rig in rigs})

    def _tell_all(self, message: str, *args: Any, delay: float | None = None) -> Steps:
        outcome = yield from self._tell(message, self._rigs, *args, delay=delay, all_or_none=True)
        if isinstance(outcome, PushError):
            raise (yield from self._undone(message, outcome))
        return outcome

    def _tell(self, message: str, rigs: list[str], *args: Any, **options: Any) -> Steps:
        outcome = yield self._asked(message, rigs, *args, **options)
        if outcome is not None:
            self.results[message] = outcome.result if isinstance(outcome, PushError) else outcome
        return outcome

    def _undone(self, message: str, error: PushError) -> Steps:
        """Interrupt and clean up what has begun, since `message` failed; return what became of each rig.

        A rig that has not answered yet is called off.
        """
        self._begin_ending()
        self._in_charge_of = [r for r in self._in_charge_of if may_have_begun(message, error.failed.get(r))]
        with logged_unless_raised(message, error.failed):
            stopped = yield from self._stop_and_clean_up(brief_report(error), error.failed)
        outcomes = {}
        for rig in self._rigs:
            problem = error.failed.get(rig)
            has_answered = rig in error.result or message == "EXPINFO"  # which calls nothing off
            done = _DONE[message] if has_answered else f"{message} called off"
            outcome = in_words(message, problem) if problem else done
            outcomes[rig] = f"{outcome}; then {stopped[rig]}" if rig in stopped else outcome
        return ExperimentError(self.exp_ref, message, outcomes, error.failed)

    # --------------------------------------------------------------------------------------------------- ending

    def _ending(self) -> Steps:
        self._begin_ending()
        failures = self._watch.end() if self._watch else {}
        ended = yield from self._tell("EXPEND", self._rigs)
        failures = {**still_running(ended.result if isinstance(ended, PushError) else ended), **failures}
        failed_to_end = {rig: error for rig, error in ended.failed.items() if not self._is_known(rig, error)}
        gone = {rig: error for rig, error in failed_to_end.items() if rig in failures and self._services[rig].has_ended}
        told = {rig: [in_words("EXPEND", error, gone.get(rig))] for rig, error in failed_to_end.items()}
        self._in_charge_of = [rig for rig, error in failed_to_end.items() if may_have_begun("EXPEND", error)]
        with logged_unless_raised("EXPEND", failed_to_end):
            for rig, text in (yield from self._stop_and_clean_up(brief_report(ended), failed_to_end)).items():
                told[rig].append(text)
            cleaned_up = yield from self._tell("EXPCLEANUP", [rig for rig in self._rigs if rig not in failed_to_end])
        for rig, error in cleaned_up.failed.items():
            told.setdefault(rig, ["ended"]).append(in_words("EXPCLEANUP", error))
        for rig, reason in failures.items():
            if rig not in failed_to_end or reason[:SHOWN] not in printable(failed_to_end[rig].problem):
                told.setdefault(rig, ["ended and cleaned up"]).insert(0, reason)
        if told:
            failed = {rig: RigError(rig, reason) for rig, reason in failures.items()}
            failed.update({**cleaned_up.failed, **failed_to_end})
            outcomes = {rig: "; then ".join(told.get(rig, ["ended and cleaned up"])) for rig in self._rigs}
            stage = "EXPEND" if failed_to_end else "EXPCLEANUP" if cleaned_up.failed else RECORDING
            raise ExperimentError(self.exp_ref, stage, outcomes, failed)

    def _is_known(self, rig: str, error: RigError) -> bool:
        """Whether EXPEND has run nothing and failed, since the recording had ended badly, and that is no news."""
        if not isinstance(error, RemoteError) or error.error != ENDED_BADLY or error.traceback:
            return False
        return self._watch is not None and self._watch.has_told(rig, one_line(error.message[:SHOWN]))

    def _stop_and_clean_up(self, report: dict[str, Any], told: Mapping[str, RigError] | None = None) -> Steps:
        """Interrupt and clean up rigs that may be running; return what became of each, in words.

        `told` has the failures of an error that will say so, too. Where another exception goes on, which must not be
        hidden, the log says what fails here.
        """
        rigs = self._in_charge_of = [rig for rig in self._in_charge_of if not self._services[rig].has_ended]
        if not rigs:
            return {}
        self._signals.hold(ctrl_c=True)
        if self._watch:
            self._watch.end()
        try:
            stopped = yield from self._tell("EXPINTERRUPT", rigs, report, patience=IMPATIENCE)
            self._in_charge_of = []
            if stopped is None:
                yield from self._tell("EXPCLEANUP", rigs)
                return dict.fromkeys(rigs, "told to stop")
            unmoved = {rig: error for rig, error in stopped.failed.items() if not self._services[rig].has_ended}
            if told is None:
                log_failures("EXPINTERRUPT", unmoved, " may go on recording: ")
            elif unmoved:
                logger.error("%s may go on recording", ", ".join(unmoved))  # why, the error says
            self._signals.hold(ctrl_c=False)  # nothing records any more; cleaning up may take long
            out_of_reach = [rig for rig, error in stopped.failed.items() if isinstance(error, OUT_OF_REACH)]
            to_come: dict[str, str] = {}
            try:
                cleaned_up = yield from self._tell("EXPCLEANUP", rigs)
            finally:  # even if Ctrl-C ends that
                if out_of_reach:
                    to_come = _stop_later(self._services, out_of_reach, self.exp_ref, report, self.stays)
        except RigsyncError as error:  # closed, for instance
            logger.error("%s may go on recording: %s", ", ".join(rigs), error)  # noqa: TRY400 - the text says all
            return dict.fromkeys(rigs, f"not reached: {error}")
        outcomes = {}
        for rig in rigs:
            interrupted, tidied = stopped.failed.get(rig), cleaned_up.failed.get(rig)
            before = None if told is None else told.get(rig)
            outcomes[rig] = in_words("EXPINTERRUPT", interrupted, before) if interrupted else "interrupted"
            outcomes[rig] += f" and {in_words('EXPCLEANUP', tidied, interrupted or before) if tidied else 'cleaned up'}"
        outcomes.update({rig: f"{outcomes[rig]}; {what}" for rig, what in to_come.items()})
        if told is None:
            log_failures("EXPCLEANUP", {r: e for r, e in cleaned_up.failed.items() if r not in stopped.failed})
        return outcomes

    def _asked(self, message: str, rigs: list[str], *args: Any, patience: float = PATIENCE, **options: Any) -> Asked:
        patience = patience if self._timeout is None else 0.0
        return Asked(message, args, rigs, self._timeout, patience=patience, raises=True, **options)

    def _note_failure(self, failure: RigFailure) -> None:
        if self._on_failure:
            guarded("on_failure", self._on_failure, failure)


def _stop_later(
    services: RigServices, out_of_reach: list[str], exp_ref: str | None, report: dict[str, Any], stays: bool
) -> dict[str, str]:
    """Have rigs that are out of reach stopped as soon as they answer; return what those do that say what they do.

    Where the program does not stay, nobody tells them, and their lease stops them.
    """
    told = [rig for rig in out_of_reach if services[rig].dialect != Dialect.IBLUTIL.value]
    if told and stays:
        messages = compose("EXPINTERRUPT", report), compose("EXPCLEANUP")
        LateStop(services, services.hub, told, exp_ref, *messages, IMPATIENCE)
    return dict.fromkeys(told, "it is told again once it answers" if stays else LEFT_TO_LEASE)


def _nothing() -> Steps:
    yield from ()


def _tell_never_begun(exp_ref: str | None, rigs: Sequence[str], how: str) -> None:
    text = "nothing is recorded: the experiment %s on %s was never begun; begin it by %s"
    logger.error(text, exp_ref or "without a reference", ", ".join(rigs), how)
