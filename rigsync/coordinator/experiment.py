"""An experiment as a context: begun on all rigs or on none, and never left running."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from rigsync import __version__
from rigsync._text import one_line
from rigsync.coordinator.failures import FailureWatch, RigFailure
from rigsync.coordinator.results import PushResult
from rigsync.core.enums import PROTOCOL_VERSION, ExpStatus
from rigsync.core.lifecycle import reference_text, same_reference
from rigsync.errors import (
    BusyError,
    ExperimentError,
    PushError,
    RemoteError,
    RigError,
    RigLost,
    RigRefused,
    RigsyncError,
    RigTimeout,
)
from rigsync.runtime.callbacks import guarded
from rigsync.runtime.conditions import Latch
from rigsync.runtime.console_window import ending_signals, watch_console_window

if TYPE_CHECKING:
    from rigsync.coordinator.auxiliaries import Auxiliaries

logger = logging.getLogger("rigsync.experiment")

PATIENCE, IMPATIENCE = 600.0, 20.0
"""Seconds beyond each rig's own while it confirms that it is working on a message: in general, and at an interrupt,
when somebody waits for the program to end."""
LAST_WORDS = 2.0
"""Seconds for which a program that ends in the middle of an experiment waits for rigs to confirm the interrupt."""
LONGEST_TRACEBACK = 16_000
"""Characters of a traceback that are sent: its end, with the error."""
LONGEST_TEXT = 2_000
"""Characters of an exception's text that is sent."""
RECORDING = "recording"
"""The stage of an experiment between EXPSTART and EXPEND."""
_OUT_OF_REACH = (RigLost, RigRefused, RigTimeout)
_DONE = {"EXPINFO": "not begun", "EXPINIT": "initialised", "EXPSTART": "started"}


class Terminated(SystemExit):
    """A signal ends the program in the middle of an experiment; the exit status is 128 plus its number."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name

    def __str__(self) -> str:
        return f"{self.name} ended the program"


class Experiment:
    """One experiment on all rigs; see `Auxiliaries.experiment`, which makes it."""

    def __init__(
        self,
        aux: Auxiliaries,
        rigs: Sequence[str],
        ref: Any,
        *,
        init: Mapping[str, Any] | None,
        start: Any,
        delay: float | None,
        timeout: float | None,
        on_failure: Callable[[RigFailure], object] | None,
        begin: Callable[..., PushResult | PushError],
        watch: Callable[..., FailureWatch],
        stop_later: Callable[..., list[str]],
    ):
        if init is not None and not isinstance(init, Mapping):
            raise TypeError(f"init is a mapping, the data of EXPINIT, not {type(init).__name__}")
        if init is not None and "exp_ref" in init:
            raise ValueError("the reference is the first argument; leave exp_ref out of init")
        if on_failure is not None and not callable(on_failure):
            raise TypeError(f"on_failure is a function, not {type(on_failure).__name__}")
        self._aux, self._rigs, self._make_watch, self._stop_later = aux, list(rigs), watch, stop_later
        self._push_to_all = begin
        self._init, self._start, self._delay, self._timeout = dict(init or {}), start, delay, timeout
        self._on_failure = on_failure
        self.exp_ref = reference_text({**ref, "date": str(ref.get("date"))} if isinstance(ref, Mapping) else ref)
        """Reference of the experiment; the main sync's, once that has told one."""
        self.results: dict[str, PushResult] = {}
        """What became of each message, by its name."""
        self.ready = Latch()
        """Set while every rig records; serves as a thread event and as a condition."""
        self._watch: FailureWatch | None = None
        self._in_charge_of: list[str] = []
        """Rigs that may have begun and are not known to have stopped."""
        self._signals = _EndingSignals()
        self._state = "new"

    def __repr__(self) -> str:
        return f"<Experiment {self.exp_ref}, {self._state}, {len(self._rigs)} rigs>"

    # ------------------------------------------------------------------------------------------------- looking

    @property
    def goes_on(self) -> bool:
        """Whether it has begun, or is beginning or ending, and is not over."""
        return self._state not in ("new", "over")

    @property
    def failures(self) -> dict[str, str]:
        """What has gone wrong since the start of the recording, by rig. A lost rig is in it until it is back."""
        return self._watch.failures() if self._watch else {}

    def check(self) -> None:
        """Raise if a rig has failed since it began to record, or is lost; cheap, and without waiting.

        Raises
        ------
        ExperimentError
            Names each such rig with what has happened to it.
        RuntimeError
            The experiment was never begun: nothing is recorded.
        """
        self._check_begun("check()")
        if self._watch and (failures := self._watch.take()):
            outcomes = {rig: failures.get(rig, "records") for rig in self._rigs}
            failed = {rig: RigError(rig, reason) for rig, reason in failures.items()}
            raise ExperimentError(self.exp_ref, RECORDING, outcomes, failed)

    # --------------------------------------------------------------------------------------------- life cycle

    def begin(self) -> Experiment:
        """Begin on all rigs or on none, as entering by ``with`` does; for a program that cannot hold a ``with`` open.

        Then `end` or `interrupt` has to follow. Where neither does, the end of the program interrupts the rigs.

        Returns
        -------
        Experiment
            This one.

        Raises
        ------
        ExperimentError
            A rig has not begun; those that had are interrupted and cleaned up.
        RuntimeError
            It was begun before.
        """
        if self._state != "new":
            raise RuntimeError("an experiment is begun once; make a new one with aux.experiment(...)")
        self._state = "beginning"
        self._signals.take_over()
        self._aux.unfinished.add(self)
        try:
            self._begin()
        except BaseException as error:
            self._leave(error)
            raise
        self._state = "running"
        return self

    def end(self) -> None:
        """End on all rigs and have them clean up, as leaving a ``with`` does.

        Raises
        ------
        ExperimentError
            A rig has failed, now or before.
        RuntimeError
            It was never begun, or is over.
        """
        self._check_goes_on("end()")
        try:
            self._end()
        except BaseException as problem:
            self._leave(problem)
            raise
        self._leave(None)

    def interrupt(self, reason: BaseException | str = "interrupted by the program") -> None:
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
        self._check_goes_on("interrupt()")
        self._leave(reason if isinstance(reason, BaseException) else RuntimeError(reason))

    def __enter__(self) -> Experiment:
        return self.begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._leave(error)
        elif self._state == "running":  # else the body has ended or interrupted it
            self.end()

    def _check_begun(self, call: str) -> None:
        if self._state == "new":
            raise RuntimeError(
                f"{call} on an experiment that was never begun, and nothing is recorded: "
                "begin it by `with aux.experiment(...) as session:` or by aux.begin(...)"
            )

    def _check_goes_on(self, call: str) -> None:
        self._check_begun(call)
        if self._state != "running":
            raise RuntimeError(f"{call}: the experiment {self.exp_ref} is over; begin another by aux.begin(...)")

    def _leave(self, error: BaseException | None) -> None:
        """Interrupt what `error` leaves running; remove the guards in any case."""
        self._begin_ending()
        try:
            if error is not None:
                self._signals.hold(ctrl_c=True)
                if self._in_charge_of:
                    logger.warning("stopping %s: EXPINTERRUPT", ", ".join(self._in_charge_of))
                self._stop_and_clean_up(report_of(error))
        finally:
            self._state = "over"
            self._aux.unfinished.discard(self)
            if self._watch:
                self._watch.close()
            self._signals.give_back()
        self._signals.act(error)

    def _begin_ending(self) -> None:
        # What follows takes a bounded time. A signal that asks for the end is obeyed after it.
        # Not Ctrl-C: it turns an end that takes long into an interrupt.
        self._state = "ending"
        self._signals.hold(ctrl_c=False)

    # ------------------------------------------------------------------------------------------------ beginning

    def _begin(self) -> None:
        told = _information_in(self._tell_all("EXPINFO", ExpStatus.CONNECTED, self._information()))
        self._find_reference(told)
        self._check_not_running(told)
        # Noted before it is sent, since Ctrl-C may come meanwhile. Rigs that record for somebody else are left out.
        self._in_charge_of = [rig for rig in self._rigs if not self._is_strangers(told.get(rig, {}))]
        self._tell_all("EXPINIT", {**self._init, "exp_ref": self.exp_ref})
        self._in_charge_of = list(self._rigs)
        note = weakref.WeakMethod(self._note_failure)  # or the service thread would keep all this, with `aux`

        def note_failure(failure: RigFailure) -> None:
            if known := note():
                known(failure)

        self._watch = self._make_watch(self._rigs, self.exp_ref, note_failure, self.ready)
        self._tell_all("EXPSTART", self.exp_ref, self._start, delay=self._delay)
        self._watch.begin()

    def _information(self) -> dict[str, Any]:
        return {
            "exp_ref": self.exp_ref,
            "main_sync": False,
            "master": True,
            "experiment_description": {},
            "rig_version": __version__,
            "spec_version": PROTOCOL_VERSION,
            "status": int(ExpStatus.CONNECTED),
        }

    def _check_not_running(self, told: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse to join a running experiment of this reference: its recording began before."""
        running = [
            rig
            for rig, info in told.items()
            if info.get("status") == int(ExpStatus.RUNNING) and info.get("exp_ref") and not self._is_strangers(info)
        ]
        if running and not self._init.get("takeover"):
            problem = (
                f"it records {self.exp_ref} already; go on with that by init={{'takeover': True}}, or stop it by "
                "EXPEND or EXPINTERRUPT, or give this experiment another number"
            )
            outcomes = {rig: problem if rig in running else _DONE["EXPINFO"] for rig in self._rigs}
            raise ExperimentError(self.exp_ref, "EXPINFO", outcomes, {rig: RigError(rig, problem) for rig in running})

    def _is_strangers(self, info: Mapping[str, Any]) -> bool:
        reference = info.get("exp_ref")
        is_same = isinstance(reference, str) and same_reference(reference, self.exp_ref)
        return info.get("status") == int(ExpStatus.RUNNING) and reference is not None and not is_same

    def _find_reference(self, told: Mapping[str, Mapping[str, Any]]) -> None:
        """Use the main sync's reference, as iblrig's task code does; there may be one main sync."""
        main = [rig for rig, info in told.items() if info.get("main_sync")]
        if len(main) > 1:
            problem = f"{' and '.join(main)} claim to be the main sync, which one rig is; see how they are configured"
            outcomes = {rig: problem if rig in main else _DONE["EXPINFO"] for rig in self._rigs}
            raise ExperimentError(self.exp_ref, "EXPINFO", outcomes, {rig: RigError(rig, problem) for rig in main})
        for rig in main:
            # A rig that is STOPPED tells the experiment before this one.
            if (reference := told[rig].get("exp_ref")) and told[rig].get("status") != int(ExpStatus.STOPPED):
                try:
                    found = reference_text(reference)
                except ValueError as error:
                    problem = f"it is the main sync, and what it tells is no reference: {error}"
                    outcomes = {**dict.fromkeys(self._rigs, _DONE["EXPINFO"]), rig: problem}
                    raise ExperimentError(self.exp_ref, "EXPINFO", outcomes, {rig: RigError(rig, problem)}) from error
                if self.exp_ref is not None and not same_reference(self.exp_ref, found):
                    logger.warning("%s is the main sync: its reference %s counts, not %s", rig, found, self.exp_ref)
                self.exp_ref = found

    def _tell_all(self, message: str, *args: Any, delay: float | None = None) -> PushResult:
        patience = PATIENCE if self._timeout is None else 0.0
        outcome = self._push_to_all(message, args, self._rigs, delay, patience)
        if isinstance(outcome, PushError):
            raise self._undone(message, outcome)
        self.results[message] = outcome
        return outcome

    def _push(self, message: str, *args: Any, rigs: list[str], patience: float = PATIENCE) -> PushResult | PushError:
        if self._timeout is not None:
            patience = 0.0
        return self._aux.push(message, *args, wait=True, rigs=rigs, timeout=self._timeout, patience=patience)

    def _undone(self, message: str, error: PushError) -> ExperimentError:
        """Interrupt and clean up what has begun, since `message` failed; return what became of each rig.

        A rig that has not answered yet is called off.
        """
        self._begin_ending()
        self._in_charge_of = [r for r in self._in_charge_of if _may_have_begun(message, error.failed.get(r))]
        stopped = self._stop_and_clean_up({"error": type(error).__name__, "message": str(error)[:LONGEST_TEXT]})
        outcomes = {}
        for rig in self._rigs:
            problem = error.failed.get(rig)
            has_answered = rig in error.result or message == "EXPINFO"  # which calls nothing off
            done = _DONE[message] if has_answered else f"{message} called off"
            outcome = f"{message} failed: {problem.problem}" if problem else done
            outcomes[rig] = f"{outcome}; then {stopped[rig]}" if rig in stopped else outcome
        return ExperimentError(self.exp_ref, message, outcomes, error.failed)

    # --------------------------------------------------------------------------------------------------- ending

    def _end(self) -> None:
        self._begin_ending()
        failures = self._watch.end() if self._watch else {}
        ended = self._push("EXPEND", rigs=self._rigs)
        if isinstance(ended, PushResult):
            self.results["EXPEND"] = ended
        told = {rig: [f"EXPEND failed: {error.problem}"] for rig, error in ended.failed.items()}
        self._in_charge_of = [rig for rig, error in ended.failed.items() if _may_have_begun("EXPEND", error)]
        for rig, text in self._stop_and_clean_up(
            {"error": type(ended).__name__, "message": str(ended)[:LONGEST_TEXT]}
        ).items():
            told[rig].append(text)
        stopped = [rig for rig in self._rigs if rig not in ended.failed]
        cleaned_up = self._push("EXPCLEANUP", rigs=stopped)
        self.results["EXPCLEANUP"] = cleaned_up.result if isinstance(cleaned_up, PushError) else cleaned_up
        for rig, error in cleaned_up.failed.items():
            told.setdefault(rig, ["ended"]).append(f"EXPCLEANUP failed: {error.problem}")
        for rig, reason in failures.items():
            if reason not in (ended.failed[rig].problem if rig in ended.failed else ""):  # which says it again
                told.setdefault(rig, ["ended and cleaned up"]).insert(0, reason)
        if told:
            failed = {rig: RigError(rig, reason) for rig, reason in failures.items()}
            failed.update({**cleaned_up.failed, **ended.failed})
            outcomes = {rig: "; then ".join(told.get(rig, ["ended and cleaned up"])) for rig in self._rigs}
            stage = "EXPEND" if ended.failed else "EXPCLEANUP" if cleaned_up.failed else RECORDING
            raise ExperimentError(self.exp_ref, stage, outcomes, failed)

    def _stop_and_clean_up(self, report: dict[str, Any]) -> dict[str, str]:
        """Interrupt and clean up rigs that may be running; return what became of each, in words.

        Failures are only logged: they must not hide the reason for the interrupt.
        """
        rigs = self._in_charge_of
        if not rigs:
            return {}
        self._signals.hold(ctrl_c=True)
        if self._watch:
            self._watch.end()
        outcomes: dict[str, str] = {}
        try:
            if self._aux.thread.on_loop_thread:
                return self._tell_to_stop(rigs, report)
            stopped = self._push("EXPINTERRUPT", report, rigs=rigs, patience=IMPATIENCE)
            self._in_charge_of = []
            self._signals.hold(ctrl_c=False)  # nothing records any more; cleaning up may take long
            out_of_reach = [rig for rig, error in stopped.failed.items() if isinstance(error, _OUT_OF_REACH)]
            told_again: list[str] = []
            try:
                cleaned_up = self._push("EXPCLEANUP", rigs=rigs)
            finally:  # even if Ctrl-C ends that
                if out_of_reach:
                    told_again = self._stop_later(out_of_reach, self.exp_ref, report, IMPATIENCE)
        except RigsyncError as error:  # closed, for instance
            logger.error("%s may go on recording: %s", ", ".join(rigs), error)  # noqa: TRY400 - the text says all
            return dict.fromkeys(rigs, f"not reached: {error}")
        for rig in rigs:
            interrupted, tidied = stopped.failed.get(rig), cleaned_up.failed.get(rig)
            outcomes[rig] = f"EXPINTERRUPT failed: {interrupted.problem}" if interrupted else "interrupted"
            outcomes[rig] += f" and EXPCLEANUP failed: {tidied.problem}" if tidied else " and cleaned up"
            if interrupted:
                logger.error("%s may go on recording: %s", rig, one_line(interrupted.problem))
        outcomes.update({rig: f"{outcomes[rig]}; it is told again once it answers" for rig in told_again})
        return outcomes

    def _tell_to_stop(self, rigs: list[str], report: dict[str, Any]) -> dict[str, str]:
        """Interrupt rigs without waiting: a generator was collected on the service thread, which cannot wait."""
        self._in_charge_of = []
        self._aux.push("EXPINTERRUPT", report, rigs=rigs)
        self._aux.push("EXPCLEANUP", rigs=rigs)
        return dict.fromkeys(rigs, "told to stop")

    def say_last_words(self) -> None:
        """Interrupt what is still running, for the interpreter is ending."""
        if rigs := self._in_charge_of:
            report = {"error": "SystemExit", "message": "the program ended in the middle of the experiment"}
            with contextlib.suppress(RigsyncError):
                self._aux.push("EXPINTERRUPT", report, wait=True, rigs=rigs, timeout=LAST_WORDS)

    def _note_failure(self, failure: RigFailure) -> None:
        if self._on_failure:
            guarded("on_failure", self._on_failure, failure)


def _information_in(answers: PushResult) -> dict[str, dict[str, Any]]:
    return {rig: answer[-1] for rig, answer in answers.items() if answer and isinstance(answer[-1], dict)}


def report_of(error: BaseException) -> dict[str, Any]:
    """Return an exception as the data of EXPINTERRUPT, with the keys of iblrig's task code."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    told = "".join(traceback.TracebackException.from_exception(error).format())
    return {
        "error": type(error).__name__,
        "message": str(error)[:LONGEST_TEXT],
        "traceback": told[-LONGEST_TRACEBACK:],
        "file": last[0].filename if last else None,
        "line_no": last[0].lineno if last else None,
    }


def _may_have_begun(message: str, error: RigError | None) -> bool:
    """Whether a rig has to be interrupted after `message` failed there or elsewhere."""
    if isinstance(error, (BusyError, RigRefused)):
        return False  # it is another coordinator's, or it is not there
    # A rig that has refused EXPINIT has not begun; a silent one may have.
    return message != "EXPINIT" or not isinstance(error, RemoteError)


class _EndingSignals:
    """Makes signals that end a program raise `Terminated`, so that it leaves its `with`; on the main thread only.

    These signals, and Ctrl-C, wait while rigs are being stopped. Nested experiments wait for each other.
    """

    _holding: ClassVar[dict[_EndingSignals, bool]] = {}
    """Those that hold signals back; whether Ctrl-C is held back too."""
    _held: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._due: list[int] = []
        self._process = os.getpid()

    def take_over(self) -> None:
        """Handle Ctrl-C if it is Python's, and those signals that the program leaves to the system."""
        if threading.current_thread() is threading.main_thread():
            for other in [other for other in self._holding if other._process != self._process]:
                del self._holding[other]  # it was left to the process of which this is a fork
            for number in (signal.SIGINT, *ending_signals()):
                usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                handler = signal.getsignal(number)
                owner = getattr(handler, "__self__", None)
                if handler is usual or (isinstance(owner, _EndingSignals) and owner._process != self._process):
                    self._before[number] = usual
                    signal.signal(number, self._handle)
            watch_console_window()

    def hold(self, *, ctrl_c: bool) -> None:
        """Hold back signals from now on."""
        if threading.current_thread() is threading.main_thread():
            self._holding[self] = ctrl_c

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process and number != signal.SIGINT:  # a fork, which has no rigs to stop
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif any(self._holding.values()) if number == signal.SIGINT else self._holding:
            self._held.append(number)
        elif number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        else:
            raise Terminated(number)

    def give_back(self) -> None:
        """Leave signals to the system again, except those that the program has taken meanwhile; hold none back."""
        # Another thread cannot do that: the experiment was entered on the main thread and left on another.
        is_main = threading.current_thread() is threading.main_thread()
        for number, handler in self._before.items() if is_main else ():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        self._before.clear()
        if self._holding.pop(self, None) is not None and not self._holding:
            self._due = self._held.copy()
            self._held.clear()

    def act(self, error: BaseException | None) -> None:
        """Obey the signals that were held back, unless the program is ending anyway."""
        if isinstance(error, Terminated):
            return
        for number in self._due:
            if number != signal.SIGINT:
                raise Terminated(number)
        if self._due and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt
