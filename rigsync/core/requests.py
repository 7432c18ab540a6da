"""What one rig is asked, from its turn to its outcome: sent, sent again, answered, given up (docs/protocol.md 2, 4)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any

from rigsync.core import messages
from rigsync.core.calls import ANSWER, PUBLISH
from rigsync.core.clock import NANOSECONDS
from rigsync.core.coordinators import ONE_PACKET
from rigsync.core.enums import ExpMessage
from rigsync.core.errands import Errand, Errands, Request, unanswered
from rigsync.core.events import Dialect, LinkState, MessageReceived, Start
from rigsync.core.legacy_link import EchoLink
from rigsync.core.lifecycle import ENDS, LIFECYCLE_MESSAGES, named_reference, reference_text
from rigsync.core.link import Link
from rigsync.core.messages import Ack, Command, Failure, Frame, Reply, Verb
from rigsync.core.probes import Prober
from rigsync.core.process import Process
from rigsync.errors import (
    ENDED_BADLY,
    Aborted,
    Cancelled,
    Interrupted,
    NotSupported,
    RemoteError,
    RemoteProtocolError,
    RigError,
    RigRestarted,
    WrongRig,
    remote_error,
)

SINGLE_TRIES = 2
"""After so many sendings of a request each further one is of two copies, as RFC 9002 section 6.2.4 allows. Where so
much is lost, waiting for the next turn costs more than a datagram."""
MEASURED = 2.0
"""Seconds before an instant in which the clocks of the rigs that wait for it are measured more often."""
MEASURED_EVERY = 0.01
"""Seconds between two of these probes: of fewer, the best each way would be too late by too much (decision 0008)."""
QUIET = 0.05
"""Seconds before an instant in which they are not: what is measured so late corrects nothing any more."""

# The look-up of a member is slow until Python 3.12.
_RIGSYNC, _IBLUTIL, _UNKNOWN = Dialect.RIGSYNC, Dialect.IBLUTIL, Dialect.UNKNOWN
_INTERRUPT, _END = ExpMessage.EXPINTERRUPT, ExpMessage.EXPEND

Settled = Callable[[str, Request, list[Any] | RigError | None, Start | None], None]


class Requests:
    """The requests to one rig."""

    def __init__(self, link: Link, process: Process, prober: Prober, echoes: EchoLink, settled: Settled):
        self._link, self._name, self._settled = link, link.name, settled
        self._process, self._prober, self._echoes = process, prober, echoes
        self.errands = Errands(link.liveness, link.timing.lost_grace)
        self._begun: str | None = None
        """The experiment that the rig does for this coordinator, empty for one without a reference; None for none."""
        self._begun_by: str | None = None
        """Boot number of the rig's process that has begun it."""
        self._highest = 0
        """The number of what was sent to the rig last."""

    # ------------------------------------------------------------------------------------------------- asking

    def submit(self, request: Request, deadline: float, now: float) -> None:
        """Queue a request; it leaves at once if nothing is outstanding.

        EXPINTERRUPT overtakes the others. EXPEND calls off what waits for its instant (section 4).
        """
        errand, is_iblutil = Errand(request, now, deadline), self._process.dialect is _IBLUTIL
        if is_iblutil and isinstance(request.event, Command):
            self._refuse([errand])
            return
        if request.event is _INTERRUPT:
            self._overtake()
        elif request.event is _END:
            self._call_off(request.act_at, now)
        if is_iblutil and request.act_at is None:
            self._echoes.give_time(errand, self.errands.waiting, now)
        self.errands.add(errand)
        self.advance(now)

    def is_known_to_work_on(self, request: Request) -> bool:
        """Whether the rig has accepted an outstanding request, or cannot say so, or was not sent it.

        A rig of rigsync that has acknowledged it is no other coordinator's. It would have refused it instead.
        """
        sent = [errand for errand in self.errands.under_way() if errand.request is request and errand.tries]
        return self._process.dialect is Dialect.IBLUTIL or all(errand.in_hand for errand in sent)

    def withdraw_queued(
        self, request_time: float | None = None, told: str = "{} was taken out of the queue unsent"
    ) -> list[float]:
        """Take out what has not been sent, of one push or of all; return the request times."""
        unsent = self.errands.take_unsent(request_time)
        self._fail(unsent, Aborted, told)
        return [errand.request.request_time for errand in unsent]

    def abandon(self) -> None:
        """Settle everything: this coordinator is closing."""
        self.withdraw_queued(told="this program closed before {} was sent")
        self._fail(self.errands.take_sent(), Aborted, "this program closed before {} was answered")

    def settle_restarted(self) -> None:
        """Settle all that was asked of a process that has ended."""
        problem = (
            "the rig's program was started anew while {} was outstanding, and the new one does not run it; "
            "look at the rig for what became of its recording, and begin again with EXPINIT"
        )
        self._fail(self.errands.take_sent(), RigRestarted, problem)

    def begin_dialect(self, now: float) -> None:
        """Begin anew: the rig is another program, which speaks another dialect."""
        self.settle_restarted()
        if self._process.dialect is Dialect.IBLUTIL:
            self._refuse(self.errands.take_commands())
        self.advance(now)

    def handle_timer(self, now: float) -> None:
        errands = self.errands
        for errand in [errand for errand in errands.under_way() if now >= errands.limit(errand)]:
            errands.remove(errand)
            self._echoes.owe(errand)
            self._give_up(errand, True, now)
        if now >= errands.next_timer():
            for errand in errands.take_expired(now):
                self._give_up(errand, False, now)
        self.advance(now)
        for errand in errands.under_way():
            if now >= errand.next_probe:
                self._measure_clock(errand, now)
            if now >= errand.next_send:
                self._transmit(errand, now)

    def next_timer(self) -> float:
        errands = self.errands
        timer = errands.next_timer()
        for errand in errands.under_way():
            timer = min(timer, errand.next_send, errand.next_probe, errands.limit(errand))
        return timer

    def advance(self, now: float) -> None:
        """Send what may be sent: what has its turn, then a call beside it."""
        process = self._process
        if process.mistaken and (wrong := process.wrong(now)):
            self._settle_mistaken(wrong)
            return
        self._begin_next(now)
        may_send = self.errands.is_one_aside and process.dialect is _RIGSYNC and self._is_there
        if may_send and (errand := self.errands.next_beside()):
            self._transmit(errand, now)

    @property
    def _is_there(self) -> bool:
        """Whether a rig of rigsync has answered, and is not gone."""
        # One whose dialect is configured has not answered yet; or the process that was known is gone. A request sent
        # now would be meant for that process, and refused by the one in its place.
        return self._process.boot is not None and not self._link.liveness.is_gone

    def _begin_next(self, now: float) -> None:
        process = self._process
        errand = self.errands.next()
        if errand is None or errand.tries or process.dialect is _UNKNOWN:
            return
        if process.dialect is _RIGSYNC:
            if not self._is_there or (errand.request.act_at is not None and self._prober.clock.estimate is None):
                self._link.liveness.want(now)
                return
            if not self.errands.may_send and errand.request.event is not _INTERRUPT:
                return
        elif not self._echoes.may_leave(errand, now):
            return
        self._transmit(errand, now)

    # ------------------------------------------------------------------------------------------------ sending

    def _transmit(self, errand: Errand, now: float) -> None:
        errand.tries += 1
        act_at = errand.request.act_at
        if errand.tries == 1:
            errand.sent_at = now
            n = errand.request.n  # unless a call, which waits for no turn, has been sent since that was drawn
            self._highest = errand.n = n if n > self._highest else next(self._link.numbers)
        if self._process.dialect is not _RIGSYNC:
            self._echoes.send(errand, now)
            return
        if errand.tries == 1 and act_at is not None:
            errand.next_probe = max(now, act_at - MEASURED)
        if not errand.frame or (errand.received and act_at is not None):
            errand.frame = self._encode(errand.n, errand.request)  # anew: the rig's clock is known better now
        sent = self._link.requests, errand.frame
        self._link.outbox += (sent, sent) if errand.tries > SINGLE_TRIES and not errand.received else (sent,)
        if errand.received and errand.done is None:  # it is worked on
            errand.next_send = self._ask_again_at(errand, now)
        else:
            errand.next_send = now + max(errand.request.interval, self._link.backoff.wait(errand.tries))

    def _ask_again_at(self, errand: Errand, now: float) -> float:
        """Return when to send a request again that the rig has: sooner where that corrects its instant."""
        again, interval = self._link.timing.ask_again, self._link.timing.burst_interval
        if errand.request.act_at is not None and len(errand.frame) <= ONE_PACKET:
            left = errand.request.act_at - now
            if left >= 2 * interval:  # each time half of what is left; afterwards it would come too late
                again = min(again, max(interval, left / 2))
        return now + again

    def _measure_clock(self, errand: Errand, now: float) -> None:
        """Probe a rig that waits for an instant, which is worked out anew until shortly before it comes."""
        errand.next_probe = math.inf
        interval = max(MEASURED_EVERY, errand.request.interval)
        if errand.request.act_at is not None and now < errand.request.act_at - QUIET:
            errand.next_probe = now + (self._link.liveness.stagger(interval) or math.inf)
            if self._link.liveness.state is LinkState.ALIVE:
                self._prober.send(now)

    def _encode(self, n: int, request: Request) -> bytes:
        at, boot = None, self._process.boot
        if request.act_at is not None and (offset := self._prober.clock.offset_at(request.act_at)) is not None:
            at = self._link.stamps.stamp(request.act_at) + round(offset * NANOSECONDS)
        # Only a process that has not begun the experiment has to be told which one is meant.
        of = self._begun if request.event is _END and self._begun_by != boot else None
        frame = messages.request(self._link.boot, n, request.message, boot, at, of)
        if of is not None and len(frame) > self._link.config.room.limit:  # there is always room for the rest
            frame = messages.request(self._link.boot, n, request.message, boot, at)
        return frame

    # ---------------------------------------------------------------------------------------------- receiving

    def receive(self, frame: Frame, size: int, now: float) -> bool:
        """Process an Ack, Reply or Failure of so many bytes; return whether it belongs to what is outstanding."""
        errand = self.errands.sent(frame.n)
        if errand is None:
            return False
        if errand.tries == 1 and not errand.received:
            self._link.backoff.add_sample(now - errand.sent_at)
        if isinstance(frame, Ack):
            errand.confirm_receipt(self._link)
            errand.done = frame.done
            if frame.done is None:
                errand.in_hand = True
                errand.next_send = self._ask_again_at(errand, now)
            self.advance(now)
        elif isinstance(frame, Reply):
            if isinstance(errand.request.event, Command) and len(frame.args) != 1:
                raise RemoteProtocolError("malformed frame", f"{len(frame.args)} values in the answer to a command")
            outcome = self._outcome_of_end(frame) if errand.request.event is _END else frame.args
            self.finish(errand, outcome, size, now, self._told_start(frame))
        elif isinstance(frame, Failure):
            if errand.request.event == ANSWER and frame.error == "Overtaken":  # by an EXPINTERRUPT
                self.errands.begin_anew(errand)
                self.advance(now)
                return True
            error: RigError = remote_error(self._name, frame.error, frame.message, frame.traceback)
            if errand in self.errands.doubtful and frame.error == "Overtaken" and not frame.traceback:
                error = Cancelled(self._name, f"EXPEND came before {errand.name}, which was not run")
            elif errand.name in (PUBLISH.name, ANSWER.name) and frame.error == "UnknownCommand" and not frame.traceback:
                version = self._process.version
                text = f"{errand.name} was not run: the rig's rigsync, {version}, is older than that; update it there"
                error = NotSupported(self._name, text)
            self.finish(errand, error, size, now)
        return True

    def refuse_answer(self, n: int, problem: RemoteProtocolError) -> None:
        """Settle a request whose answer this side refuses, or it would be sent again and again."""
        if errand := self.errands.sent(n):
            text = (
                f"the rig has run {errand.name}, but this side refuses its answer: {problem}; have it answer with less"
            )
            errand.confirm_receipt(self._link)
            self.errands.remove(errand)
            self._settled(self._name, errand.request, RemoteError(self._name, "PayloadTooLarge", text), None)

    def finish(
        self,
        errand: Errand,
        outcome: list[Any] | RigError | None,
        size: int,
        now: float,
        start: Start | None = None,
        event: Verb | None = None,
    ) -> None:
        """Settle what is under way, with its answer, its error, or None where only a confirmation was asked for.

        The answer took `size` bytes, and `event` is the message that it came in, if not that of the request.
        """
        errand.confirm_receipt(self._link)
        self.errands.remove(errand)
        request, is_answer = errand.request, isinstance(outcome, list)
        if request.event is _END:
            self.errands.note_end(is_answer, now)
        if isinstance(outcome, list):
            if request.event in LIFECYCLE_MESSAGES:
                self._note_experiment(request, outcome)
            told = MessageReceived(self._name, event or request.event, outcome, request.request_time, size)
            self._link.events.append(told)
        self._settled(self._name, request, outcome, start)
        if not self.errands.is_idle:
            self.advance(now)

    def _note_experiment(self, request: Request, answer: list[Any]) -> None:
        """Remember what a rig of rigsync has begun or ended, so that EXPEND can say what it is to end."""
        process = self._process
        if request.event in ENDS:
            if self._begun_by == process.boot:  # another process has ended nothing of it
                self._begun = None
        elif process.dialect is _RIGSYNC:
            # A rig of rigsync refuses anything that is no reference. Another implementation may not.
            named = None
            with contextlib.suppress(ValueError):
                named = named_reference(request.event, request.message.args)
                if request.event is ExpMessage.EXPSTART and answer:
                    named = reference_text(answer[0]) or named
            self._begun, self._begun_by = named or "", process.boot

    def _outcome_of_end(self, frame: Reply) -> list[Any] | RigError:
        """Return a rig's answer to EXPEND, or the failure that an older rig tells in it."""
        information = frame.args[0] if frame.args else None
        reason = information.get("interrupted") if isinstance(information, dict) else None
        return RemoteError(self._name, ENDED_BADLY, reason) if reason and isinstance(reason, str) else frame.args

    def _told_start(self, frame: Reply) -> Start | None:
        clock = self._prober.clock.estimate
        if clock is None or not self._link.config.tells_start:
            return None
        here = frame.started - round(clock.offset * NANOSECONDS)
        return Start(here / NANOSECONDS, clock.bound)

    # ---------------------------------------------------------------------------------------- without an answer

    def _fail(self, errands: Iterable[Errand], error: type[RigError], text: str) -> None:
        """Settle errands that have been taken out; ``{}`` in the text stands for the message."""
        for errand in errands:
            self._settled(self._name, errand.request, error(self._name, text.replace("{}", errand.name)), None)

    def _give_up(self, errand: Errand, is_under_way: bool, now: float) -> None:
        dialect, version = self._process.dialect, self._process.version
        error = unanswered(errand, self._link.config, self._link.liveness, dialect, version, is_under_way)
        self._settled(self._name, errand.request, error, None)
        if errand.request.event is ExpMessage.EXPEND:
            self.errands.note_end(False, now)

    def _overtake(self) -> None:
        overtaken = self.errands.take_overtaken()
        for errand in overtaken:
            self._echoes.owe(errand)
        self._fail(overtaken, Interrupted, "{} was overtaken by EXPINTERRUPT before it was answered")

    def _call_off(self, end_at: float | None, now: float) -> None:
        called_off = self.errands.take_called_off(end_at, now, self._process.dialect is Dialect.RIGSYNC)
        self._fail(called_off, Cancelled, "{} was called off by EXPEND before its instant")

    def _refuse(self, commands: list[Errand]) -> None:
        problem = (
            "{} was not sent: the rig speaks the iblutil dialect, which knows no commands; "
            "run rigsync on that computer (rigsync serve)"
        )
        self._fail(commands, NotSupported, problem)

    def _settle_mistaken(self, wrong: WrongRig) -> None:
        """Settle all that was asked of this rig: another one answers in its place."""
        self._fail(self.errands.take_sent(), WrongRig, f"{wrong.problem}; look at {self._name} for what became of {{}}")
        self._fail(self.errands.take_unsent(), WrongRig, f"{wrong.problem}; {{}} was not sent")
