"""The coordinator's view of one rig: its link, and the one request that is outstanding (docs/protocol.md 1 to 4)."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any

from rigsync._text import one_line
from rigsync.core import events, legacy, messages
from rigsync.core.backoff import Backoff
from rigsync.core.board import TOPICS
from rigsync.core.board_view import BoardView
from rigsync.core.clock import NANOSECONDS, ClockEstimate, ClockFilter, StampClock
from rigsync.core.coordinators import ONE_PACKET
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.errands import Errand, Errands, Request, unanswered
from rigsync.core.events import (
    Dialect,
    DialectDetected,
    Event,
    LinkState,
    MessageReceived,
    ProbeAnswered,
    ProbeRefused,
    RemoteComplaint,
    RequestReceived,
    Start,
    ViolationSeen,
)
from rigsync.core.legacy import Array, EchoGuard
from rigsync.core.lifecycle import ENDS, name_different, named_reference, reference_text
from rigsync.core.liveness import Liveness
from rigsync.core.messages import Ack, Alive, Bye, Command, Failure, Frame, Probe, Reply, Verb
from rigsync.core.notices import NoticeFilter
from rigsync.core.probes import PATIENCE, ProbeLog
from rigsync.core.rigs import RigConfig, is_called
from rigsync.core.timing import Timing
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
"""Seconds before an instant in which the clocks of the rigs that wait for it are measured more often, every 20 ms."""
QUIET = 0.05
"""Seconds before an instant in which they are not: what is measured so late corrects nothing any more, and rigs that
share a computer are to have it to themselves when they begin."""
PAST_BOOTS = 16
"""Earlier boot numbers of a rig that are remembered. Their late answers are not taken for another restart."""


class Line(Enum):
    """The two sockets towards a rig; probes have their own, so that they disturb no iblutil rig (section 1)."""

    REQUESTS = "requests"
    PROBES = "probes"


@dataclass(slots=True)
class AwaitedEcho:
    """Bytes that an iblutil rig has yet to send back. Until then nothing else may leave (section 1)."""

    data: bytes
    until: float


VERB_GAP = 0.05
"""Seconds between the confirmation of one of iblutil's verbs and the next message. The answer, if any, comes meanwhile.
A rig that sends it takes any other message for a wrong echo, and closes."""
FAREWELLS = (Line.PROBES, Line.REQUESTS) * 2
"""Lines on which a goodbye leaves: several, since nobody is left to send it again. Until its lease is over, a rig that
misses it belongs to a program that is gone."""


class Peer:
    """One rig as the coordinator sees it.

    Parameters
    ----------
    config : RigConfig
        The rig.
    timing : Timing
        Waits, in seconds.
    boot : str
        The coordinator's boot number.
    stamps : StampClock
        The coordinator's wall clock.
    random : random.Random
        For back-off.
    outbox : list of ((str, Line), bytes)
        Where datagrams to be sent are put, each with the rig and the line.
    told : list of Event
        Where events are put.
    settled : callable
        Called once for each request with the rig's name, its outcome and when it began to act. The outcome is the
        answer, the error, or None where only a confirmation was asked for.
    program : str, optional
        Which program the coordinator is, for people.
    links : int
        How many rigs the coordinator has.
    """

    def __init__(
        self,
        config: RigConfig,
        timing: Timing,
        boot: str,
        stamps: StampClock,
        random: Random,
        outbox: list[tuple[tuple[str, Line], bytes]],
        told: list[Event],
        settled: Callable[[str, Request, list[Any] | RigError | None, Start | None], None],
        program: str | None = None,
        links: int = 1,
    ):
        self.config, self.name = config, config.name
        self._timing, self._boot, self._stamps = timing, boot, stamps
        self._program = program
        self._outbox, self._events, self._settled = outbox, told, settled
        self._backoff = Backoff(timing, random)
        self._liveness = Liveness(timing, random, links)
        self._echo_guard = EchoGuard()
        self._probe_n = 0
        self._probes = ProbeLog()
        self._newest_alive = self._left_at = self._met_at = -1
        """Numbers of the newest answered probe, of the last one before the rig's goodbye, and of the last one before
        this process of it was met."""
        self._clock = ClockFilter()
        self._notices = NoticeFilter()
        self.board = BoardView(config.name, told)
        self._errands = Errands(self._liveness, timing.lost_grace)
        self._awaited_echo: AwaitedEcho | None = None
        self._spoke_at = -math.inf
        """When an iblutil rig last sent a message that was no echo, in monotonic seconds."""
        self._held_until = -math.inf
        """Monotonic seconds before which nothing leaves to an iblutil rig that has just confirmed a verb."""
        self._owed: set[Verb] = set()
        """Messages that are no longer outstanding, and that an iblutil rig may still answer."""
        self._remote_boot: str | None = None
        self._past_boots: deque[str] = deque(maxlen=PAST_BOOTS)
        self._begun: str | None = None
        """The experiment that the rig does for this coordinator, empty for one without a reference; None for none."""
        self._begun_by: str | None = None
        """Boot number of the rig's process that has begun it."""
        self._names_me = False
        """Whether the rig puts this coordinator's boot number, which no forger knows, into all that it sends. Older
        rigs do not."""
        self.dialect = Dialect.UNKNOWN
        self.status: ExpStatus | None = None
        self.exp_ref: str | None = None
        self.version: str | None = None
        self.owner: str | None = None
        self._challenged_at = -math.inf
        self.is_shared = False
        """Whether another rig of the configuration has the same address. Then one answers for both."""
        self._mistaken_for: tuple[str, float] | None = None
        """Name of another rig that answers in this one's place, and when it last did, in monotonic seconds."""
        self.violations: dict[str, int] = {}
        self._size = 0
        """Bytes of the datagram that is being processed."""

    # ------------------------------------------------------------------------------------------------ outside

    @property
    def state(self) -> LinkState:
        """State of the link."""
        return self._liveness.state

    @property
    def reason(self) -> str:
        """Why the link is in its state, in words."""
        return self._liveness.reason

    @property
    def refused(self) -> bool:
        """Whether the rig's host says that nothing listens at the rig's port."""
        return self._liveness.refused

    def mistaken_for(self, now: float) -> WrongRig | None:
        """Return the error where another rig answers at this one's address."""
        if self._mistaken_for is None or now >= self._mistaken_for[1] + self._timing.lost_after:
            return None
        told = one_line(self._mistaken_for[0])
        return WrongRig(
            self.name,
            f"the rig at {self.config.address} says that it is {told}; correct the address of {self.name} in the "
            f"configuration, or the name {told} where that rig's program is started",
        )

    @property
    def clock(self) -> ClockEstimate | None:
        """The rig's clock against this one's; None before a rigsync rig has answered its first probe."""
        return self._clock.estimate

    @property
    def round_trip(self) -> float | None:
        """Smoothed round trip in seconds; None before the first."""
        return self._backoff.smoothed

    def loss(self, now: float) -> float | None:
        """Return the share of the newest probes that were lost; None before it can be told."""
        return self._probes.loss(now)

    def connect(self, now: float) -> None:
        """Begin to probe; a configured dialect needs no detection."""
        self._liveness.connect(now)
        if self.config.dialect != "auto":
            self._adopt(Dialect(self.config.dialect), now)
        self.handle_timer(now)

    def ready_at(self, pause: float) -> float:
        """Return when, in monotonic seconds, an iblutil rig gets its next message; -inf for rigs of rigsync.

        Its program may await each message by `on_event`, and drops messages that come too early (section 1).

        Parameters
        ----------
        pause : float
            Seconds after its last word, unless its configuration says otherwise.
        """
        if self.dialect is not Dialect.IBLUTIL:
            return -math.inf
        return self._spoke_at + self._pause(pause)

    def submit(self, request: Request, deadline: float, now: float) -> None:
        """Queue a request; it leaves at once if nothing is outstanding.

        EXPINTERRUPT overtakes the others. EXPEND calls off what waits for its instant (section 4).
        """
        errand = Errand(request, now, deadline)
        if self.dialect is Dialect.IBLUTIL and isinstance(request.event, Command):
            self._refuse(errand)
            return
        if request.event is ExpMessage.EXPINTERRUPT:
            self._overtake()
        elif request.event is ExpMessage.EXPEND:
            self._call_off(request.act_at, now)
        if self.dialect is Dialect.IBLUTIL and request.act_at is None:
            errand.time_left = deadline - now
            errand.deadline += self._errands.waiting * self._pause(request.pause)  # of those before it
        self._errands.add(errand)
        self._advance(now)

    def is_known_to_work_on(self, request: Request) -> bool:
        """Whether the rig has accepted an outstanding request, or cannot say so, or was not sent it.

        A rig of rigsync that has acknowledged it is no other coordinator's. It would have refused it instead.
        """
        sent = [errand for errand in self._errands.under_way() if errand.request is request and errand.tries]
        return self.dialect is Dialect.IBLUTIL or all(errand.in_hand for errand in sent)

    def withdraw_queued(
        self, request_time: float | None = None, told: str = "{} was taken out of the queue unsent"
    ) -> list[float]:
        """Take out what has not been sent, of one push or of all; return the request times."""
        unsent = self._errands.take_unsent(request_time)
        for errand in unsent:
            self._fail(errand, Aborted(self.name, told.format(errand.request.event.name)))
        return [errand.request.request_time for errand in unsent]

    def abandon(self) -> None:
        """Settle everything: this coordinator is closing."""
        self.withdraw_queued(told="this program closed before {} was sent")
        for errand in list(self._errands.under_way()):
            self._errands.remove(errand)
            name = errand.request.event.name
            self._fail(errand, Aborted(self.name, f"this program closed before {name} was answered"))

    def probe(self, now: float) -> int:
        """Send a probe now, beside the regular ones; return its number, 0 for a rig known to be iblutil's."""
        return self._send_probe(now)

    def farewell(self) -> None:
        """Tell a rigsync rig that this coordinator is closing."""
        if self.dialect is Dialect.RIGSYNC and self.state is not LinkState.LOST:
            self._probe_n += 1
            data = messages.bye(self._boot, self._probe_n, "the coordinator is closing")
            for line in FAREWELLS:
                self._send(line, data)

    def receive_datagram(self, line: Line, data: bytes, now: float) -> bool:
        """Process a datagram that came from the rig on `line` at monotonic `now` (s).

        Returns
        -------
        bool
            Whether `next_timer` may be earlier than before.
        """
        self._size = len(data)
        state, dialect = self.state, self.dialect
        try:
            frame = messages.decode(data)
            if isinstance(frame, Array):
                if line is Line.PROBES:
                    raise RemoteProtocolError("stray message", "an iblutil message on the line for probes")
                self._receive_array(frame, data, now)
            else:
                self._receive_frame(frame, now)
        except RemoteProtocolError as error:
            self.report_violation(error)
            return True
        # What settles the last errand, or shows that the rig is there still, puts nothing forward.
        is_later = isinstance(frame, (Alive, Reply)) and self._errands.is_idle
        return not is_later or self.state is not state or self.dialect is not dialect

    def report_violation(self, error: RemoteProtocolError) -> None:
        """Report, once for each kind, that what came from the rig is no message or makes no sense."""
        if (told := messages.told_frame(error.head, "reply")) and told[0] == self._remote_boot:
            self._refuse_answer(told[1], error)
        if self._count(error.kind) == 1:
            self._events.append(ViolationSeen(self.name, error.kind, str(error)))

    def report_life(self, now: float) -> None:
        """Count part of a message as a sign of life: a link that carries a large one is not silent."""
        if self.state in (LinkState.ALIVE, LinkState.SUSPECT):
            before = self.state
            self._liveness.heard(now)
            self._note_change(before)

    def report_refusal(self, now: float) -> None:
        """Process an ICMP refusal."""
        self._events.append(ProbeRefused(self.name))
        self._owed.clear()  # its program has ended
        self._mistaken_for = None
        before = self.state
        self._liveness.refuse(now)
        self._note_change(before)

    def note_standstill(self, seconds: float, now: float) -> None:
        """Do not count seconds in which nobody here has listened as the rig's silence."""
        self._liveness.pass_over(seconds)
        self._errands.note_standstill(now)

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`: probe, change the link's state, send again, give up."""
        before = self.state
        if self._liveness.probe_due(now):
            if self._probe_would_meet_another(now):
                self._liveness.excuse()
            else:
                self._send_probe(now)
        self._liveness.handle_timer(now)
        self._note_change(before)
        self.board.handle_timer(now)
        if self._awaited_echo and now >= self._awaited_echo.until:
            self._awaited_echo = None
        for errand in [errand for errand in self._errands.under_way() if now >= self._errands.limit(errand)]:
            self._give_up(errand, now)
        if now >= self._errands.next_timer():
            for errand in self._errands.take_expired(now):
                self._give_up(errand, now)
        self._advance(now)
        for errand in self._errands.under_way():
            if now >= errand.next_probe:
                self._measure_clock(errand, now)
            if now >= errand.next_send:
                self._transmit(errand, now)

    def next_timer(self) -> float:
        """Return when, in monotonic seconds, `handle_timer` has something to do next."""
        errands = self._errands
        timer = min(self._liveness.next_timer(), errands.next_timer(), self.board.next_timer())
        for errand in errands.under_way():
            timer = min(timer, errand.next_send, errand.next_probe, errands.limit(errand))
        if self._awaited_echo and self._awaited_echo.until < timer:
            timer = self._awaited_echo.until
        return timer

    # ------------------------------------------------------------------------------------------------ requests

    def _advance(self, now: float) -> None:
        if self._mistaken_for and (wrong := self.mistaken_for(now)):
            self._settle_mistaken(wrong)
            return
        errand = self._errands.next()
        if errand is None or errand.tries or self.dialect is Dialect.UNKNOWN:
            return
        if self.dialect is Dialect.RIGSYNC:
            if self._remote_boot is None or self._liveness.is_gone:
                # A rig whose dialect is configured has not answered yet; or the process that was known is gone.
                # A request sent now would be meant for that process, and refused by the one in its place.
                self._liveness.want(now)
                return
            if errand.request.act_at is not None and self.clock is None:
                self._liveness.want(now)
                return
        elif self._awaited_echo:
            errand.next_send = math.inf
            return
        else:
            if errand.turn_at == math.inf:
                errand.turn_at, errand.time_left = now, min(errand.time_left, errand.deadline - now)
            errand.next_send = self._leaves_at(errand)
            if now < errand.next_send:
                if errand.request.act_at is None:
                    errand.deadline = max(errand.deadline, errand.next_send + errand.time_left)
                return
        self._transmit(errand, now)

    def _pause(self, usual: float) -> float:
        return usual if self.config.pause is None else self.config.pause

    def _leaves_at(self, errand: Errand) -> float:
        """Return when a message leaves to an iblutil rig: once that awaits it, half a round trip before its instant."""
        request, pause = errand.request, self._pause(errand.request.pause)
        # A rig that goes on talking does not put it off for ever.
        ready_at = min(self._spoke_at + pause, errand.turn_at + 2 * pause)
        leaves_at = max(request.leave_at, ready_at, self._held_until)
        if request.act_at is not None:
            leaves_at = max(leaves_at, request.act_at - (self.round_trip or 0.0) / 2)
        return leaves_at

    def _transmit(self, errand: Errand, now: float) -> None:
        errand.tries += 1
        if errand.tries == 1:
            errand.sent_at = now
            if errand.request.act_at is not None and self.dialect is Dialect.RIGSYNC:
                errand.next_probe = max(now, errand.request.act_at - MEASURED)
        if self.dialect is Dialect.RIGSYNC:
            if not errand.frame or (errand.received and errand.request.act_at is not None):
                errand.frame = self._encode(errand.request)  # anew: the rig's clock is known better now
            for _ in range(2 if errand.tries > SINGLE_TRIES and not errand.received else 1):
                self._send(Line.REQUESTS, errand.frame)
            if errand.received and errand.done is None:  # it is worked on
                errand.next_send = self._ask_again_at(errand, now)
            else:
                errand.next_send = now + max(errand.request.interval, self._backoff.wait(errand.tries))
        else:
            self._send(Line.REQUESTS, errand.request.array)
            self._awaited_echo = AwaitedEcho(errand.request.array, now + self._timing.echo_timeout)
            errand.next_send = now + self._backoff.wait(errand.tries) if self.config.resend else math.inf

    def _ask_again_at(self, errand: Errand, now: float) -> float:
        """Return when to send a request again that the rig has: sooner where that corrects its instant."""
        again, interval = self._timing.ask_again, self._timing.burst_interval
        if errand.request.act_at is not None and len(errand.frame) <= ONE_PACKET:
            left = errand.request.act_at - now
            if left >= 2 * interval:  # each time half of what is left; afterwards it would come too late
                again = min(again, max(interval, left / 2))
        return now + again

    def _measure_clock(self, errand: Errand, now: float) -> None:
        """Probe a rig that waits for an instant, which is worked out anew until shortly before it comes."""
        errand.next_probe = math.inf
        if errand.request.act_at is not None and now < errand.request.act_at - QUIET:
            errand.next_probe = now + self._liveness.stagger(max(self._timing.burst_interval, errand.request.interval))
            if self.state is LinkState.ALIVE:
                self._send_stamped_probe(now)

    def _encode(self, request: Request) -> bytes:
        at = None
        if request.act_at is not None and (offset := self._clock.offset_at(request.act_at)) is not None:
            at = self._stamps.stamp(request.act_at) + round(offset * NANOSECONDS)
        # Only a process that has not begun the experiment has to be told which one is meant.
        of = self._begun if request.event is ExpMessage.EXPEND and self._begun_by != self._remote_boot else None
        frame = messages.request(self._boot, request.n, request.message, self._remote_boot, at, of)
        if of is not None and len(frame) > self.config.room.limit:  # there is always room for the rest
            frame = messages.request(self._boot, request.n, request.message, self._remote_boot, at)
        return frame

    def _call_off(self, end_at: float | None, now: float) -> None:
        for errand in self._errands.take_called_off(end_at, now, self.dialect is Dialect.RIGSYNC):
            name = errand.request.event.name
            self._fail(errand, Cancelled(self.name, f"{name} was called off by EXPEND before its instant"))

    def _overtake(self) -> None:
        for errand in self._errands.take_overtaken():
            name = errand.request.event.name
            self._note_owed(errand)
            self._fail(errand, Interrupted(self.name, f"{name} was overtaken by EXPINTERRUPT before it was answered"))

    def _refuse(self, errand: Errand) -> None:
        problem = (
            f"{errand.request.event.name} was not sent: the rig speaks the iblutil dialect, which knows no commands; "
            "run rigsync on that computer (rigsync serve)"
        )
        self._fail(errand, NotSupported(self.name, problem))

    def _confirm_receipt(self, errand: Errand) -> None:
        if not errand.received:
            errand.received = True
            if errand.request.confirm:
                self._events.append(RequestReceived(self.name, errand.request.request_time))

    def _finish(
        self,
        errand: Errand,
        outcome: list[Any] | RigError,
        now: float,
        start: Start | None = None,
        answer: Verb | None = None,
    ) -> None:
        self._confirm_receipt(errand)
        self._errands.remove(errand)
        request = errand.request
        if request.event is ExpMessage.EXPEND:
            self._errands.note_end(not isinstance(outcome, RigError), now)
        if not isinstance(outcome, RigError):
            event = answer or request.event
            self._note_experiment(request, outcome)
            self._events.append(MessageReceived(self.name, event, outcome, request.request_time, self._size))
        self._settled(self.name, request, outcome, start)
        self._advance(now)

    def _note_experiment(self, request: Request, answer: list[Any]) -> None:
        """Remember what a rig of rigsync has begun or ended, so that EXPEND can say what it is to end."""
        if request.event in ENDS:
            if self._begun_by == self._remote_boot:  # another process has ended nothing of it
                self._begun = None
        elif self.dialect is Dialect.RIGSYNC and request.event in (ExpMessage.EXPINIT, ExpMessage.EXPSTART):
            # A rig of rigsync refuses anything that is no reference. Another implementation may not.
            named = None
            with contextlib.suppress(ValueError):
                named = named_reference(request.event, request.message.args)
                if request.event is ExpMessage.EXPSTART and answer:
                    named = reference_text(answer[0]) or named
            self._begun, self._begun_by = named or "", self._remote_boot

    def _note_owed(self, errand: Errand) -> None:
        """Remember that the answer to a message may come while another one is outstanding."""
        if self.dialect is Dialect.IBLUTIL and errand.tries:
            self._owed.add(errand.request.event)

    def _fail(self, errand: Errand, error: RigError) -> None:
        self._settled(self.name, errand.request, error, None)

    def _give_up(self, errand: Errand, now: float) -> None:
        if is_under_way := errand in self._errands.under_way():
            self._errands.remove(errand)
            self._note_owed(errand)
        self._fail(errand, unanswered(errand, self.config, self._liveness, self.dialect, self.version, is_under_way))
        if errand.request.event is ExpMessage.EXPEND:
            self._errands.note_end(False, now)

    # ----------------------------------------------------------------------------------------- iblutil dialect

    def _receive_array(self, message: Array, data: bytes, now: float) -> None:
        if self.dialect is Dialect.RIGSYNC:
            # Anybody can forge an array. An iblutil program in the rig's place sends the next probe back, which no
            # forger can.
            self._count("message of the other dialect")
            self._liveness.hurry(now)
            return
        self._heard(Dialect.IBLUTIL, now)
        errand = self._errands.current if self._errands.current and self._errands.current.tries else None
        if legacy.has_mark(data, legacy.COORDINATOR_MARK):
            self._receive_echo(data, errand, now)
        elif message.event == legacy.NULL_MESSAGE:
            self._spoke_at = now
            text, event = message.args
            if errand and errand.received and errand.request.event is event:
                error, _, problem = text.partition(": ")
                self._finish(errand, RemoteError(self.name, error, problem), now)
            else:
                self._events.append(RemoteComplaint(self.name, event, text))
        else:
            awaited = errand if errand and self._answers(message, errand) else None
            if not awaited and not self._echo_guard.allows(data, now):
                raise RemoteProtocolError("echo loop", "the rig sends the same message over and over")
            self._send(Line.REQUESTS, data)
            self._spoke_at = now
            self._held_until = -math.inf
            if awaited:
                self._awaited_echo = None
                self._note_other_answer(awaited, message)
                if awaited.tries > 1:
                    self._note_owed(awaited)  # the rig may have received several copies, and answer each
                self._finish(awaited, message.args, now, self._estimated_start(awaited), message.event)
            else:
                self._owed.discard(message.event)
                self._events.append(MessageReceived(self.name, message.event, message.args, None, self._size))

    def _note_other_answer(self, errand: Errand, message: Array) -> None:
        if message.event is not errand.request.event:
            kind = f"{errand.request.event.name} was answered by {message.event.name}"
            self.report_violation(RemoteProtocolError(kind, "taken for its answer, since it ends a recording"))

    def _answers(self, message: Array, errand: Errand) -> bool:
        """Whether a message answers the outstanding request, and not one that was given up.

        iblutil echoes a message before it answers, and its answer to EXPSTART names the experiment. A late answer that
        was taken for the next request's would report a success where the rig did nothing.
        """
        if not errand.received:
            return False
        if message.event is not errand.request.event:
            both_end = {message.event, errand.request.event} <= ENDS
            return both_end and message.event not in self._owed
        if message.event is not ExpMessage.EXPSTART or not message.args:
            return True
        return not name_different(errand.request.message.args[0], message.args[0])

    def _receive_echo(self, data: bytes, errand: Errand | None, now: float) -> None:
        if self._awaited_echo and data == self._awaited_echo.data:
            self._awaited_echo = None
        else:
            self._count("late echo")  # of a request that was given up, or a second copy
        if errand and data == errand.request.array:  # a late echo shows as well that the rig has the request
            errand.next_send = math.inf
            errand.echoed_at = errand.echoed_at or now
            self._confirm_receipt(errand)
            if errand.request.hands_over_token:
                self._spoke_at = now
                self._finish(errand, [], now, self._estimated_start(errand))
            elif errand.request.confirm:  # one of iblutil's verbs, which end with the echo
                self._note_owed(errand)
                self._held_until = now + VERB_GAP
                self._errands.remove(errand)
                self._settled(self.name, errand.request, None, None)
        self._advance(now)

    def _estimated_start(self, errand: Errand) -> Start | None:
        # The rig got it between sending and echo, and then runs its callbacks. It says no more about when.
        if errand.echoed_at is None:
            return None
        middle = self._stamps.stamp((errand.sent_at + errand.echoed_at) / 2)
        return Start(middle / NANOSECONDS, (errand.echoed_at - errand.sent_at) / 2, is_estimate=True)

    # ----------------------------------------------------------------------------------------- rigsync dialect

    def _receive_frame(self, frame: Frame, now: float) -> None:
        if isinstance(frame, Probe):
            if frame.boot != self._boot:
                raise RemoteProtocolError("stray frame", "a probe from another coordinator")
            if self.dialect is Dialect.RIGSYNC and not self._probes.outstanding(frame.n):
                self._count("late answer")
                return
            self._heard(Dialect.IBLUTIL, now)
            self._probe_returned(frame.n, now, None, 0)
            return
        if isinstance(frame, messages.Request):
            raise RemoteProtocolError("stray frame", "a request came from a rig")
        if isinstance(frame, messages.Addressed) and not self._is_meant(frame.to, now):
            self._count("not for this program")
            return
        if isinstance(frame, Alive):
            self._receive_alive(frame, now)
        elif frame.boot != self._remote_boot:
            # From another process than the one that answers our probes: one before a restart, or a forger. A rig that
            # has just restarted sends its frame again, once its first answer to a probe has made it known.
            self._count("unknown boot")
            if self._errands.current and self._errands.current.tries:
                self._liveness.hurry(now)
        elif isinstance(frame, Bye):
            before = self.state
            self._left_at = self._probe_n
            self._liveness.farewell(frame.reason, now)
            self._note_change(before)
        elif isinstance(frame, messages.Notice):
            self._heard(Dialect.RIGSYNC, now)
            self._receive_notice(frame, now)
        elif self.dialect is Dialect.RIGSYNC:
            self._heard(Dialect.RIGSYNC, now)
            self._receive_outcome(frame, now)
        else:
            self._count("message of the other dialect")

    def _is_meant(self, to: str | None, now: float) -> bool:
        """Whether a frame is for this coordinator, as far as its rig says.

        A rig that has said so once has to go on. An older program in its place is believed once the link was lost.
        """
        if to is not None:
            return to == self._boot
        lost_for = now - self._liveness.lost_since if self.state is LinkState.LOST else 0.0
        return not self._names_me or lost_for >= self._timing.lost_after

    def _receive_alive(self, frame: Alive, now: float) -> None:
        restarted = False
        if frame.boot != self._remote_boot:
            probe = self._probes.outstanding(frame.n)
            # Two processes may have answered one burst of probes, and the later one may have been met first. A probe
            # sent from now on shows which of them is there.
            is_old = frame.boot in self._past_boots and frame.n <= self._met_at
            if probe is None or frame.t0 != probe.stamp or is_old:
                self._count("unknown boot")
                return
            is_forgeable = frame.to is None and not probe.stamp and self.config.address.scheme == "udp"
            if is_forgeable and self.config.dialect == "auto":
                # Anybody knows the probe of iblutil rigs and can forge its answer. A rigsync probe shows who is there.
                self._challenge(now)
                return
            if not (self.is_shared or is_called(self.name, frame.name)):
                self._probe_returned(frame.n, now, None, 0)
                self._note_mistake(frame.name, now)
                return
            restarted = self._remote_boot is not None
            self._meet(frame.boot)
            if restarted:  # before anything that the new process says
                self._events.append(events.RestartSeen(self.name))
        elif frame.n <= self._left_at:
            self._count("late answer")  # the answer left before the goodbye
            return
        self._names_me, self._mistaken_for = frame.to is not None, None
        if frame.n >= self._newest_alive:  # a later probe's answer may have overtaken this one
            self._newest_alive = frame.n
            self.status, self.exp_ref = frame.status, frame.exp_ref
            self.version, self.owner = frame.version, frame.owner
        self._probe_returned(frame.n, now, (frame.t0, frame.t1, frame.t2), frame.t2 - frame.t1)
        self._heard(Dialect.RIGSYNC, now)
        if restarted:
            self._settle_restarted()
        self._advance(now)

    def _note_mistake(self, told: str, now: float) -> None:
        before, self._mistaken_for = self.state, (told, now)
        if wrong := self.mistaken_for(now):
            self._liveness.mistake(wrong.problem, now)
            self._note_change(before)
        self._advance(now)

    def _settle_mistaken(self, wrong: WrongRig) -> None:
        """Settle all that was asked of this rig: another one answers in its place."""
        for errand in list(self._errands.under_way()):
            self._errands.remove(errand)
            name = errand.request.event.name
            became = f"look at {self.name} for what became of {name}" if errand.tries else f"{name} was not sent"
            self._fail(errand, WrongRig(self.name, f"{wrong.problem}; {became}"))
        for errand in self._errands.take_unsent():
            self._fail(errand, WrongRig(self.name, f"{wrong.problem}; {errand.request.event.name} was not sent"))

    def _meet(self, boot: str) -> None:
        """Begin anew with another process of the rig."""
        if self._remote_boot:
            self._past_boots.append(self._remote_boot)
        self._remote_boot, self._met_at = boot, self._probe_n
        self._clock, self._notices = ClockFilter(), NoticeFilter()
        self.board.empty()
        self._newest_alive = self._left_at = -1

    def _settle_restarted(self) -> None:
        for errand in [errand for errand in self._errands.under_way() if errand.tries]:
            self._errands.remove(errand)
            name = errand.request.event.name
            problem = (
                f"the rig's program was started anew while {name} was outstanding, and the new one does not run it; "
                "look at the rig for what became of its recording, and begin again with EXPINIT"
            )
            self._fail(errand, RigRestarted(self.name, problem))

    def _receive_notice(self, frame: messages.Notice, now: float) -> None:
        if frame.confirm:
            self._send(Line.PROBES, messages.ack(self._boot, frame.n))
        if frame.topic in TOPICS:
            # The board itself knows which unconfirmed notices are new.
            is_new = (not frame.confirm or self._notices.is_new(frame)) and self.board.receive(frame, now)
        elif is_new := self._notices.is_new(frame):
            notice = events.Notice(self.name, frame.topic, frame.key, frame.body, frame.confirm, self._size)
            self._events.append(notice)
        if not is_new:
            self._count("late notice")

    def _receive_outcome(self, frame: Frame, now: float) -> None:
        errand = self._errands.sent(frame.n)
        if errand is None:
            self._count("late answer")  # ordinary where datagrams are doubled: no violation
            return
        if errand.tries == 1 and not errand.received:
            self._backoff.add_sample(now - errand.sent_at)
        if isinstance(frame, Ack):
            self._confirm_receipt(errand)
            errand.done = frame.done
            if frame.done is None:
                errand.in_hand = True
                errand.next_send = self._ask_again_at(errand, now)
        elif isinstance(frame, Reply):
            if isinstance(errand.request.event, Command) and len(frame.args) != 1:
                raise RemoteProtocolError("malformed frame", f"{len(frame.args)} values in the answer to a command")
            self._finish(errand, self._outcome_in(frame, errand), now, self._told_start(frame))
        elif isinstance(frame, Failure):
            if errand in self._errands.doubtful and frame.error == "Overtaken" and not frame.traceback:
                problem = f"EXPEND came before {errand.request.event.name}, which was not run"
                self._finish(errand, Cancelled(self.name, problem), now)
                return
            self._finish(errand, remote_error(self.name, frame.error, frame.message, frame.traceback), now)

    def _outcome_in(self, frame: Reply, errand: Errand) -> list[Any] | RigError:
        """Return a rig's answer, or the failure that an older rig tells in its answer to EXPEND."""
        information = frame.args[0] if errand.request.event is ExpMessage.EXPEND and frame.args else None
        reason = information.get("interrupted") if isinstance(information, dict) else None
        return RemoteError(self.name, ENDED_BADLY, reason) if reason and isinstance(reason, str) else frame.args

    def _refuse_answer(self, n: int, problem: RemoteProtocolError) -> None:
        """Settle a request whose answer this side refuses, or it would be sent again and again."""
        if errand := self._errands.sent(n):
            name = errand.request.event.name
            text = f"the rig has run {name}, but this side refuses its answer: {problem}; have it answer with less"
            self._confirm_receipt(errand)
            self._errands.remove(errand)
            self._fail(errand, RemoteError(self.name, "PayloadTooLarge", text))

    def _told_start(self, frame: Reply) -> Start | None:
        clock = self.clock
        if clock is None:
            return None
        here = frame.started - round(clock.offset * NANOSECONDS)
        return Start(here / NANOSECONDS, clock.bound)

    # ---------------------------------------------------------------------------------------------------- link

    def _probe_would_meet_another(self, now: float) -> bool:
        # On a connection nothing is lost, but two probes that a busy iblutil rig reads at once are junk: it closes.
        on_stream = self.config.address.scheme == "tcp" and self.dialect is not Dialect.RIGSYNC
        return on_stream and self.state is not LinkState.LOST and self._probes.awaits_answer(now)

    def _send_probe(self, now: float) -> int:
        if self.dialect is Dialect.IBLUTIL:
            if self.config.address.scheme == "tcp" and self._errands.current and self._errands.current.tries:
                # There is one connection. To the rig, a probe that meets its answer is a wrong echo.
                self._liveness.excuse()
                return 0
            # Always the same bytes: an iblutil rig shows each datagram that it does not know once.
            self._probes.add(0, now, 0)
            self._send(Line.PROBES, messages.probe(self._boot, 0, 0))
            return 0
        return self._send_stamped_probe(now)

    def _send_stamped_probe(self, now: float) -> int:
        self._probe_n += 1
        n, stamp = self._probe_n, self._stamps.stamp(now)
        self._probes.add(n, now, stamp)
        self._send(Line.PROBES, messages.probe(self._boot, n, stamp, program=self._program, beat=self._timing.beat))
        return n

    def _challenge(self, now: float) -> None:
        """Probe a rig known as iblutil's in the rigsync dialect, once a beat at most."""
        self._count("unknown boot")
        if now >= self._challenged_at + self._timing.beat:
            self._challenged_at = now
            self._send_stamped_probe(now)

    def _probe_returned(self, n: int, now: float, stamps: tuple[int, int, int] | None, held: int) -> None:
        probe = self._probes.outstanding(n)
        if probe is None:
            return  # a second copy, or a very late answer: only a sign of life
        probe.answered = True
        round_trip = max(0.0, now - probe.sent - max(0, held) / NANOSECONDS)
        if round_trip < PATIENCE:  # otherwise one side has stood still, which says nothing about the network
            self._backoff.add_sample(round_trip)
        four = (*stamps, self._stamps.stamp(now)) if stamps else None
        if four and four[0] == probe.stamp != 0:  # a rig in the place of an iblutil one answers a probe without stamp
            self._clock.add(four, now)
            self._liveness.is_coarse = self._clock.bound > self._timing.clock_bound
        self._events.append(ProbeAnswered(self.name, n, round_trip, four))

    def _heard(self, dialect: Dialect, now: float) -> None:
        if self.config.dialect == "auto" and self.dialect is not dialect:
            self._adopt(dialect, now)
        before = self.state
        self._liveness.heard(now)
        self._note_change(before)

    def _adopt(self, dialect: Dialect, now: float) -> None:
        self.dialect = dialect
        self._liveness.adopt(dialect)
        self._awaited_echo = None
        self._owed.clear()
        self.board.empty()
        if dialect is Dialect.IBLUTIL and self._remote_boot:
            self._past_boots.append(self._remote_boot)
            self._remote_boot, self._names_me = None, False
        self._events.append(DialectDetected(self.name, dialect))
        self._settle_restarted()  # another dialect means another program
        if dialect is Dialect.IBLUTIL:
            for errand in self._errands.take_commands():
                self._refuse(errand)
        self._advance(now)

    def _note_change(self, before: LinkState) -> None:
        if self.state is not before:
            self._events.append(events.LINK_EVENTS[self.state](self.name, before, self.state, self.reason))
            self._errands.set_timer()

    def _count(self, kind: str) -> int:
        self.violations[kind] = self.violations.get(kind, 0) + 1
        return self.violations[kind]

    def _send(self, line: Line, data: bytes) -> None:
        self._outbox.append(((self.name, line), data))
