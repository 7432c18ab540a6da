"""What goes wrong with rigs after they have begun to record, and with stopping them."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rigsync._text import error_text, line_for_each, one_line
from rigsync.coordinator.remote_rig import RemoteRig
from rigsync.coordinator.results import PushResult
from rigsync.coordinator.service import RigServices
from rigsync.core.clock import NANOSECONDS
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import (
    Dialect,
    LinkChanged,
    LinkState,
    MessageReceived,
    Notice,
    ProbeAnswered,
    PushBegun,
    PushCompleted,
    RestartSeen,
)
from rigsync.core.health import was_before
from rigsync.core.lifecycle import ENDS, LIFECYCLE_MESSAGES, name_different, same_reference
from rigsync.core.messages import Message, to_json
from rigsync.core.notices import FAILURE
from rigsync.errors import (
    ENDED_BADLY,
    Aborted,
    BusyError,
    NotRunning,
    PushError,
    RemoteError,
    RigError,
    RigLost,
    RigRefused,
    RigTimeout,
)
from rigsync.runtime.callbacks import described
from rigsync.runtime.conditions import Latch
from rigsync.runtime.hub import Hub

logger = logging.getLogger("rigsync.experiment")

_BEGINNINGS = frozenset({ExpMessage.EXPINIT, ExpMessage.EXPSTART})
ABOUT_TO_BEGIN = 1.0
"""Seconds before its instant at which a start counts as begun: the rig's clock is known to some milliseconds only, and
a goodbye, which calls off what waits, may come too late or never. An interrupt does no harm to what has not begun."""
PROBE_TIMEOUT = 1.0
"""Seconds for the probe that confirms a rig's word that it has stopped; the next beat brings another one."""


LONGEST_TRACEBACK = 16_000
"""Characters of a traceback that are sent: its end, with the error."""
LONGEST_TEXT = 2_000
"""Characters of an exception's text that is sent."""
OUT_OF_REACH = (RigLost, RigRefused, RigTimeout)
MOST_TRIES = 5
"""Most times that a rig which answers is told to stop. One that hangs is not told for ever."""


@dataclass(frozen=True, slots=True)
class RigFailure:
    """What has gone wrong with a rig after it began to record."""

    rig: str
    """Name of the rig."""
    reason: str
    """What has happened."""


def weakly(method: Callable[[RigFailure], None]) -> Callable[[RigFailure], None]:
    """Return a function that calls a method, or else the hub would keep its object, and whoever holds the rigs."""
    note = weakref.WeakMethod(method)

    def tell(failure: RigFailure) -> None:
        if known := note():
            known(failure)

    return tell


def may_have_begun(message: str, error: RigError | None) -> bool:
    """Whether a rig has to be interrupted after `message` failed there or elsewhere."""
    if isinstance(error, (BusyError, RigRefused)):
        return False  # it is another coordinator's, or it is not there
    # A rig that has refused EXPINIT has not begun; a silent one may have.
    return message != "EXPINIT" or not isinstance(error, RemoteError)


def in_words(message: str, error: RigError, before: RigError | None = None) -> str:
    """Return that a message has failed, and why, unless that is as before."""
    is_out_of_reach = isinstance(error, OUT_OF_REACH) and isinstance(before, OUT_OF_REACH)
    is_same = before is not None and (is_out_of_reach or error.problem == before.problem)
    reason = error_text(error.problem.removeprefix(f"{message} was refused: "))  # by its host
    return f"{message} failed likewise" if is_same else f"{message} failed: {reason}"


def log_failures(message: str, failed: Mapping[str, RigError], joint: str = ": ") -> None:
    """Log what has failed, in a line for all rigs with the same reason."""
    for line in line_for_each({rig: in_words(message, error) for rig, error in failed.items()}, joint):
        logger.error("%s", one_line(line))


@contextlib.contextmanager
def logged_unless_raised(message: str, failed: Mapping[str, RigError]) -> Iterator[None]:
    """Log what has failed if something else, such as Ctrl-C, keeps the error of it from being raised."""
    try:
        yield
    except BaseException:
        log_failures(message, failed)
        raise


def brief_report(error: object) -> dict[str, Any]:
    """Return what an EXPINTERRUPT says of an error, in short."""
    return {"error": type(error).__name__, "message": str(error)[:LONGEST_TEXT]}


def report_of(error: BaseException) -> dict[str, Any]:
    """Return an exception as the data of EXPINTERRUPT, with the keys of iblrig's task code."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    kind, text, told = described(error)
    told = told[-LONGEST_TRACEBACK:]
    while len(to_json(told)) > 2 * LONGEST_TRACEBACK:  # what is not ASCII takes up to 12 bytes, and has to fit too
        told = told[len(told) // 2 :]
    return {
        "error": kind,
        "message": text[:LONGEST_TEXT],
        "traceback": told,
        "file": last[0].filename if last else None,
        "line_no": last[0].lineno if last else None,
    }


class FailureWatch:
    """Watches rigs that record, for any that stops by itself, restarts, is lost, or reports a failure.

    It is made before EXPINIT, which settles what was wrong with the rigs: what they tell from then on counts. Where it
    joins an experiment that goes on, by a takeover, what is wrong with the rigs already counts too. `tell` is called
    with each `RigFailure`, on the service thread. `ready` is set while all of them record.
    """

    def __init__(
        self,
        services: RigServices,
        hub: Hub,
        rigs: Sequence[str],
        exp_ref: str | None,
        tell: Callable[[RigFailure], None],
        ready: Latch,
        *,
        joins: bool = False,
    ):
        self._services, self._rigs, self._exp_ref = services, frozenset(rigs), exp_ref
        self._tell, self._ready = tell, ready
        # No lock: a signal handler may interrupt the thread that begins or ends, and wait for the service thread.
        self._since: float | None = None  # when all had begun, in monotonic seconds; None before, and at the end
        self._reasons: dict[str, str] = {}  # each rig's reason for having stopped
        self._logged: set[str] = set()  # rigs whose notice has put the reason into the log
        self._unexplained: set[str] = set()  # rigs that were found stopped, once, without a reason
        self._failed: dict[str, str] = {}
        self._lost: dict[str, str] = {}  # which may be back and have recorded all the while
        self._told: set[tuple[str, str]] = set()  # each rig with what the program knows of it
        self._untold: deque[RigFailure] = deque()  # for `tell`, by whoever takes it out
        self._is_over = False
        self._hub, self._joins = hub, joins
        self._counts_from = -math.inf if joins else time.monotonic()
        self._early: set[tuple[str, str]] | None = set()
        """Rigs and keys of the failures that were told before all rigs had acted on EXPINIT; None after that."""
        self._subscriptions = [hub.rule(Notice, self._note_notice)]

    def initialised(self) -> None:
        """Watch for all that may go wrong: every rig has acted on EXPINIT."""
        early, self._early = self._early or set(), None
        self._subscriptions += [
            self._hub.rule(ProbeAnswered, self._note_status),
            self._hub.rule(LinkChanged, self._note_link),
            self._hub.rule(RestartSeen, self._note_restart),
            self._hub.rule(MessageReceived, self._note_answer),
        ]
        for rig in self._rigs:
            for key, problem in self._services.view(rig).failures.items():
                if self._joins or (rig, key) in early:
                    self._fail(rig, problem)

    def begin(self) -> None:
        """Watch from now on: every rig has said that it records."""
        self._since = time.monotonic()
        self._show_ready()
        self._tell_untold()  # what has failed while others were still beginning

    def failures(self) -> dict[str, str]:
        """Return what has gone wrong, by name of rig."""
        # Each copied in one step.
        return {**self._lost, **self._failed}

    def take(self) -> dict[str, str]:
        """Return what has gone wrong, and remember that the program has been told."""
        failures = self.failures()
        self._told.update(failures.items())
        return failures

    def end(self) -> dict[str, str]:
        """Stop watching, for the rigs are told to stop; return what the program has not been told.

        Lost rigs are not in it: the next message shows what becomes of them.
        """
        self._since, self._is_over = None, True
        self._show_ready()
        untold = self._failed.copy().items() - self._told
        self._told.update(untold)
        return dict(untold)

    def has_told(self, rig: str, reason: str) -> bool:
        """Whether the program knows that a rig has failed for this reason: by `take`, or by `end`."""
        return any(reason in told for name, told in self._told.copy() if name == rig)

    def close(self) -> None:
        """End the subscriptions."""
        self.end()
        for unsubscribe in self._subscriptions:
            unsubscribe()

    # ------------------------------------------------------------------------------------- on the service thread

    def _note_notice(self, notice: Notice) -> None:
        body = notice.body if isinstance(notice.body, dict) else {}
        if notice.rig not in self._rigs or name_different(body.get("exp_ref"), self._exp_ref):
            return
        if notice.topic == FAILURE and not was_before(notice.body, time.monotonic(), self._counts_from):
            if (early := self._early) is not None:
                early.add((notice.rig, notice.key or ""))
            if self._early is None:
                self._fail(notice.rig, str(body.get("problem") or notice.body))  # the notice has put it into the log
        elif notice.topic == "log" and body.get("message") in ("EXPEND", "EXPINTERRUPT") and not body.get("error"):
            self._reasons.setdefault(notice.rig, f"{body['message']} came from {body.get('from')}")
        elif notice.topic == "status" and body.get("status") == ExpStatus.STOPPED.name:
            if body.get("reason"):
                self._reasons[notice.rig] = str(body["reason"])
                self._logged.add(notice.rig)
            if self._since is not None:
                # The notice may be late, of an earlier experiment of the same name. A probe that leaves now is not.
                with contextlib.suppress(NotRunning):
                    self._services.ping(notice.rig, PROBE_TIMEOUT, _ignore)

    def _note_status(self, probe: ProbeAnswered) -> None:
        since, stamps = self._since, probe.stamps
        if probe.rig not in self._rigs or since is None or stamps is None:
            return
        sent = time.monotonic() - (stamps[3] - stamps[0]) / NANOSECONDS
        if sent <= since:
            return  # it may show the rig before it began
        rig = self._services[probe.rig]
        status = rig.rig_status
        if status is None:  # closed meanwhile, or no longer a rig that says so
            return
        has_stopped = status in (ExpStatus.CONNECTED, ExpStatus.STOPPED)
        if has_stopped or name_different(rig.exp_ref, self._exp_ref):
            if probe.rig not in self._reasons and probe.rig not in self._unexplained:
                self._unexplained.add(probe.rig)  # the notice with the reason may be under way
                return
            reason = self._reasons.get(probe.rig, f"it is {status.name}, and nobody here told it to stop")
            self._fail(probe.rig, self._stopped(reason), is_news=probe.rig not in self._logged)

    def _stopped(self, reason: str) -> str:
        return f"it does not record {self._exp_ref or 'the experiment'} any more: {reason}"

    def _note_answer(self, answer: MessageReceived) -> None:
        ends = answer.event in (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT) and answer.request_time is not None
        if ends and answer.rig in self._rigs and self._since is not None:  # a button that says stop, for instance
            self._reasons.setdefault(answer.rig, f"this program sent {answer.event.name} while the experiment went on")

    def _note_restart(self, event: RestartSeen) -> None:
        if event.rig in self._rigs:
            self._fail(event.rig, "its program was started anew, which has ended what it recorded", is_news=True)

    def _note_link(self, event: LinkChanged) -> None:
        if event.rig not in self._rigs:
            return
        if event.after is LinkState.ALIVE:
            self._lost.pop(event.rig, None)
            self._show_ready()
        elif event.after is LinkState.LOST and (peer := self._services.peer(event.rig)) and (end := peer.why_ended):
            self._fail(event.rig, self._stopped(end))  # the notice has put it into the log
        elif event.after is LinkState.LOST:
            self._fail(event.rig, f"the rig is lost: {event.reason}", self._lost)

    def _fail(self, rig: str, reason: str, where: dict[str, str] | None = None, is_news: bool = False) -> None:
        """File a failure; log it unless a notice or a change of the link has told it."""
        failed = self._failed if where is None else where
        if is_news and not self._is_over and rig not in failed:
            logger.error("%s: %s", rig, one_line(reason))
        if self._is_over or rig in failed:
            return
        failed[rig] = one_line(reason)
        self._untold.append(RigFailure(rig, failed[rig]))
        self._show_ready()
        if self._since is not None:  # else `begin` tells it
            self._tell_untold()

    # ------------------------------------------------------------------------------------------- on either thread

    def _show_ready(self) -> None:
        """Say whether all record. Whoever changes that calls this after it, and looks again after it has said so."""
        while self._ready.is_set() != (all_record := self._since is not None and not self.failures()):
            if all_record:
                self._ready.set()
            else:
                self._ready.unset()

    def _tell_untold(self) -> None:
        while self._untold and not self._is_over:
            try:
                failure = self._untold.popleft()
            except IndexError:  # the other thread was quicker
                return
            if failure.reason in (self._failed.get(failure.rig), self._lost.get(failure.rig)):  # else it is back
                self._tell(failure)


class Started:
    """Rigs that this program has started by EXPSTART and not told to end.

    If a program closes while they record, they go on until their lease is over; an iblutil rig has none, and goes on
    for ever. A rig that was lost meanwhile is left to its lease: another program may have taken it over.
    """

    def __init__(self, hub: Hub):
        self._references: dict[str, str] = {}
        """The last experiment that each rig was told of."""
        self._prepared: set[str] = set()
        """Rigs that have accepted this program's EXPINIT: it is in charge of them."""
        self._told: dict[str, float] = {}
        """Rigs that were sent EXPSTART, with the Unix time from which they may act on it."""
        self._surely: set[str] = set()
        """Rigs that have answered it."""
        self._ending: dict[str, float] = {}
        """Of rigs that are told to end: what `_told` has said."""
        hub.rule(PushBegun, self._note_push)
        hub.rule(MessageReceived, self._note_answer)
        hub.rule(PushCompleted, self._note_outcome)
        hub.rule(Notice, self._note_notice)
        hub.rule(RestartSeen, lambda event: self._forget([event.rig]))
        hub.rule(LinkChanged, self._note_link)

    def take(self, services: RigServices) -> list[str]:
        """Return the rigs and forget them."""
        soon = time.time() + ABOUT_TO_BEGIN
        begun = [rig for rig in services if soon >= self._told.get(rig, math.inf)]
        rigs = [rig for rig in begun if rig in self._surely or self._may_be_own(services[rig])]
        self._forget(list(services))
        return rigs

    def _may_be_own(self, rig: RemoteRig) -> bool:
        """Whether a rig's recording, if any, may be this program's. An iblutil rig does not say."""
        if rig.name in self._prepared or rig.dialect == Dialect.IBLUTIL.value:
            return True
        return same_reference(rig.exp_ref, self._references.get(rig.name))

    def _forget(self, rigs: Iterable[str]) -> None:
        for rig in rigs:
            self._told.pop(rig, None)
            self._surely.discard(rig)
            self._prepared.discard(rig)

    def _note_push(self, push: PushBegun) -> None:
        if push.event in ENDS:
            if push.event is ExpMessage.EXPEND:
                self._ending.update((rig, self._told[rig]) for rig in push.rigs if rig in self._told)
            self._forget(push.rigs)  # it may be working on that, which an interrupt must not overtake
        elif push.event in _BEGINNINGS and push.args:
            named = push.args[0].get("exp_ref") if isinstance(push.args[0], dict) else push.args[0]
            if isinstance(named, str):
                self._references.update(dict.fromkeys(push.rigs, named))
        if push.event is ExpMessage.EXPSTART:
            self._told.update(dict.fromkeys(push.rigs, push.at or 0.0))

    def _note_answer(self, answer: MessageReceived) -> None:
        if answer.event in _BEGINNINGS and answer.request_time is not None:
            (self._prepared if answer.event is ExpMessage.EXPINIT else self._surely).add(answer.rig)

    def _note_outcome(self, push: PushCompleted) -> None:
        if push.event is ExpMessage.EXPSTART:
            self._forget([rig for rig, error in push.failures.items() if self._has_not_begun(rig, error)])
        elif push.event is ExpMessage.EXPEND:
            for rig in push.answers:
                self._ending.pop(rig, None)
            for rig, error in push.failures.items():
                told = self._ending.pop(rig, None)
                if told is not None and _goes_on_after(error):
                    self._told[rig] = told
                    self._surely.add(rig)

    def _has_not_begun(self, rig: str, error: RigError) -> bool:
        """Whether an EXPSTART that failed has begun nothing. A rig that was only silent may have begun."""
        if isinstance(error, RemoteError) and error.error == "StateError":
            return rig not in self._surely  # else it is about another start than the one that it has answered
        return isinstance(error, (BusyError, RigRefused, Aborted))  # another's, nobody there, or never sent

    def _note_link(self, event: LinkChanged) -> None:
        if event.after is LinkState.LOST:
            self._forget([event.rig])

    def _note_notice(self, notice: Notice) -> None:
        body = notice.body if isinstance(notice.body, dict) else {}
        if notice.topic == "log" and body.get("message") == "EXPINIT" and not body.get("error"):
            self._forget([notice.rig])  # another program has begun with it


def _goes_on_after(error: RigError) -> bool:
    """Whether a rig that has failed to end goes on: it says so, or its handler has failed."""
    is_over_or_refused = isinstance(error, RemoteError) and error.error in ("BusyError", "StateError", ENDED_BADLY)
    return isinstance(error, RemoteError) and not is_over_or_refused


class LateStop:
    """Stops rigs that were out of reach when their experiment ended, as soon as they answer again.

    Their coordinator is still there, so their lease does not end, and they would record for ever. Iblutil rigs do not
    say what they record, and are left alone. So is a rig that does another experiment by then.
    """

    def __init__(
        self,
        services: RigServices,
        hub: Hub,
        rigs: Iterable[str],
        exp_ref: str | None,
        interrupt: Message,
        clean_up: Message,
        patience: float,
    ):
        self._services, self._exp_ref = services, exp_ref
        self._interrupt, self._clean_up, self._patience = interrupt, clean_up, patience
        self._tries = dict.fromkeys(rigs, MOST_TRIES)  # from here on only the service thread touches it, as all below
        self._asked: set[str] = set()
        self._subscriptions: list[Callable[[], None]] = []
        self._subscriptions.append(hub.rule(MessageReceived, self._note_answer))
        self._subscriptions.append(hub.rule(ProbeAnswered, self._note_status))

    def _note_status(self, probe: ProbeAnswered) -> None:
        if probe.rig not in self._tries or probe.rig in self._asked or probe.stamps is None:
            return
        rig, experiment = self._services[probe.rig], one_line(self._exp_ref or "the experiment")
        is_here = rig.exp_ref == self._exp_ref or same_reference(rig.exp_ref, self._exp_ref)
        if rig.rig_status is ExpStatus.CONNECTED or not is_here:
            self._forget(probe.rig)
        elif not self._tries[probe.rig]:
            logger.error("%s answers, but does not stop, though %s is over; look at the rig", probe.rig, experiment)
            self._forget(probe.rig)
        else:
            logger.warning("%s answers again, and is told to stop: %s is over", probe.rig, experiment)
            self._tries[probe.rig] -= 1
            self._asked.add(probe.rig)
            self._tell(self._interrupt, probe.rig, lambda outcome: self._note_outcome(probe.rig, outcome))

    def _note_outcome(self, rig: str, outcome: PushResult | PushError | NotRunning) -> None:
        self._asked.discard(rig)
        is_lost = isinstance(outcome, PushError) and isinstance(outcome.failed.get(rig), (RigLost, RigRefused))
        if is_lost and rig in self._tries:
            self._tries[rig] += 1  # it was lost again before it could answer

    def _note_answer(self, answer: MessageReceived) -> None:
        if answer.rig not in self._tries or answer.event not in LIFECYCLE_MESSAGES or answer.request_time is None:
            return
        self._forget(answer.rig)  # stopped by this, or by the program itself, which knows the outcome
        if answer.rig in self._asked and answer.event is ExpMessage.EXPINTERRUPT:
            self._tell(self._clean_up, answer.rig, _ignore)

    def _tell(self, message: Message, rig: str, done: Callable[[Any], object]) -> None:
        with contextlib.suppress(NotRunning):
            self._services.push(self._services.order(message, [rig], patience=self._patience), done)

    def _forget(self, rig: str) -> None:
        self._tries.pop(rig, None)
        if not self._tries:
            for unsubscribe in self._subscriptions:
                unsubscribe()


def _ignore(_: Any) -> None:
    """Ignore the outcome: the event of the probe counts."""
