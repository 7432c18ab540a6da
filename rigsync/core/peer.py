"""The coordinator's view of one rig: its link, and who answers at the other end (docs/protocol.md 1 to 4)."""

from __future__ import annotations

from rigsync.core import events, messages
from rigsync.core.board import TOPICS
from rigsync.core.board_view import BoardView
from rigsync.core.calls import CALL
from rigsync.core.clock import ClockEstimate, ClockFilter
from rigsync.core.events import (
    Dialect,
    DialectDetected,
    LinkState,
    ProbeRefused,
    ViolationSeen,
)
from rigsync.core.health import HealthView
from rigsync.core.legacy import Array
from rigsync.core.legacy_link import EchoLink
from rigsync.core.link import Link
from rigsync.core.messages import Addressed, Alive, Bye, Frame, Probe, Reply
from rigsync.core.notices import NoticeFilter
from rigsync.core.outputs import Line
from rigsync.core.probes import Prober
from rigsync.core.process import Process
from rigsync.core.requests import Requests, Settled
from rigsync.errors import RemoteProtocolError, WrongRig

_RIGSYNC = Dialect.RIGSYNC  # which is slow to look up until Python 3.12
FAREWELLS = (Line.PROBES, Line.REQUESTS) * 2
"""Lines on which a goodbye leaves: several, since nobody is left to send it again. Until its lease is over, a rig that
misses it belongs to a program that is gone."""


class Peer:
    """One rig as the coordinator sees it.

    It puts datagrams and events where its `link` says. `settled` is called once for each
    request, with the rig's name, its outcome and when it began to act. The outcome is the answer, the error, or None
    where only a confirmation was asked for.
    """

    def __init__(self, link: Link, settled: Settled):
        self.link, self.config, self.name = link, link.config, link.name
        self._outbox, self._events, self._liveness = link.outbox, link.events, link.liveness
        self._told_state = self._liveness.state
        self.violations = link.violations
        self.process = Process(link)
        self.prober = Prober(link)
        self.echoes = EchoLink(link)
        self.requests = Requests(link, self.process, self.prober, self.echoes, settled)
        self._notices = NoticeFilter()
        self.board = BoardView(link.name, link.events)
        self.health = HealthView()

    # ------------------------------------------------------------------------------------------------ outside

    @property
    def state(self) -> LinkState:
        return self._liveness.state

    @property
    def reason(self) -> str:
        return self._liveness.reason

    @property
    def heard_at(self) -> float | None:
        """When the last sign of life came, in monotonic seconds; None before the first."""
        return self._liveness.heard_at

    @property
    def dialect(self) -> Dialect:
        return self.process.dialect

    @property
    def has_ended(self) -> bool:
        """Whether the rig has said that it records nothing, and then goodbye."""
        return self.process.left_at >= 0 and self.health.has_stopped

    @property
    def why_ended(self) -> str | None:
        """Why the rig has stopped that has then said goodbye, if it has said that, too."""
        return self.health.reason if self.has_ended else None

    def mistaken_for(self, now: float) -> WrongRig | None:
        return self.process.wrong(now)

    @property
    def clock(self) -> ClockEstimate | None:
        """The rig's clock against this one's; None before a rigsync rig has answered its first probe."""
        return self.prober.clock.estimate

    @property
    def round_trip(self) -> float | None:
        """Smoothed round trip in seconds; None before the first."""
        return self.link.backoff.smoothed

    def loss(self, now: float) -> float | None:
        """Return the share of the newest probes that were lost; None before it can be told."""
        return self.prober.log.loss(now)

    def connect(self, now: float) -> None:
        """Begin to probe; a configured dialect needs no detection."""
        self._liveness.connect(now)
        if self.config.dialect != "auto":
            self._adopt(Dialect(self.config.dialect), now)
        self.handle_timer(now)

    def probe(self, now: float) -> int:
        """Send a probe now, beside the regular ones; return its number, 0 for a rig known to be iblutil's."""
        if self.dialect is not Dialect.IBLUTIL:
            return self.prober.send(now)
        current = self.requests.errands.current
        if self.link.is_stream and current and current.tries:
            # There is one connection. To the rig, a probe that meets its answer is a wrong echo.
            self._liveness.excuse()
        else:
            self.prober.send_plain(now)
        return 0

    def farewell(self) -> None:
        """Tell a rigsync rig that this coordinator is closing."""
        if self.dialect is Dialect.RIGSYNC and self.state is not LinkState.LOST:
            data = messages.bye(self.link.boot, self.prober.n + 1, "the coordinator is closing")
            self._outbox += [((self.name, line), data) for line in FAREWELLS]

    def receive_datagram(self, line: Line, data: bytes, now: float) -> bool:
        """Process a datagram; return whether `next_timer` may be earlier than before."""
        state, dialect = self._liveness.state, self.process.dialect
        try:
            frame = messages.decode(data)
            if isinstance(frame, Array):
                self._receive_array(frame, line, data, now)
            else:
                self._receive_frame(frame, len(data), now)
        except RemoteProtocolError as error:
            self.report_violation(error)
            return True
        # What settles the last errand, or shows that the rig is there still, puts nothing forward.
        is_later = isinstance(frame, (Alive, Reply)) and self.requests.errands.is_idle
        return not is_later or self._liveness.state is not state or self.process.dialect is not dialect

    def report_violation(self, error: RemoteProtocolError) -> None:
        """Report, once for each kind, that what came from the rig is no message or makes no sense."""
        if (told := messages.told_frame(error.head, "reply")) and told[0] == self.process.boot:
            self.requests.refuse_answer(told[1], error)
        self.violations[error.kind] += 1
        if self.violations[error.kind] == 1:
            self._events.append(ViolationSeen(self.name, error.kind, str(error)))

    def report_life(self, now: float) -> None:
        """Count part of a message as a sign of life: a link that carries a large one is not silent."""
        if self.state in (LinkState.ALIVE, LinkState.SUSPECT):
            self._liveness.heard(now)
            self._note_change()

    def report_refusal(self, now: float) -> None:
        self._events.append(ProbeRefused(self.name))
        self.echoes.forgive()
        self.process.mistaken = None
        self._liveness.refuse(now)
        self._note_change()

    def report_loss(self, reason: str, now: float) -> None:
        """Count the link as lost, because its broker or connection says so, and why. The rig may run on."""
        if self.state is not LinkState.LOST:
            self._liveness.lose(reason, now)
            self._note_change()

    def note_standstill(self, seconds: float, now: float) -> None:
        """Do not count seconds in which nobody here has listened as the rig's silence."""
        self._liveness.pass_over(seconds)
        self.requests.errands.note_standstill(now)

    def handle_timer(self, now: float) -> None:
        if self._liveness.probe_due(now):
            if self._probe_would_meet_another(now):
                self._liveness.excuse()
            else:
                self.probe(now)
        self._liveness.handle_timer(now)
        self._note_change()
        self.board.handle_timer(now)
        if now >= self.echoes.echo_due:
            self.echoes.stop_waiting()
        self.requests.handle_timer(now)

    def next_timer(self) -> float:
        timers = self._liveness.next_timer(), self.requests.next_timer(), self.board.next_timer()
        return min(*timers, self.echoes.echo_due)

    # ----------------------------------------------------------------------------------------------- receiving

    def _receive_array(self, message: Array, line: Line, data: bytes, now: float) -> None:
        if line is Line.PROBES:
            raise RemoteProtocolError("stray message", "an iblutil message on the line for probes")
        if self.dialect is Dialect.RIGSYNC:
            # Anybody can forge an array. An iblutil program in the rig's place sends the next probe back, which no
            # forger can.
            self.violations["message of the other dialect"] += 1
            self._liveness.hurry(now)
            return
        self._heard(Dialect.IBLUTIL, now)
        current = self.requests.errands.current
        errand = current if current and current.tries else None
        answer = self.echoes.receive(message, data, errand, now)
        if errand is None or answer is None:
            self.requests.advance(now)
            return
        if answer.event and answer.event is not errand.request.event:
            kind = f"{errand.name} was answered by {answer.event.name}"
            self.report_violation(RemoteProtocolError(kind, "taken for its answer, since it ends a recording"))
        self.requests.finish(errand, answer.outcome, len(data), now, answer.start, answer.event)

    def _receive_frame(self, frame: Frame, size: int, now: float) -> None:
        if isinstance(frame, Probe):
            if frame.boot != self.link.boot:
                raise RemoteProtocolError("stray frame", "a probe from another coordinator")
            if self.dialect is Dialect.RIGSYNC and not self.prober.log.outstanding(frame.n):
                self.violations["late answer"] += 1
                return
            self._heard(Dialect.IBLUTIL, now)
            self.prober.take(frame.n, now)
        elif not isinstance(frame, Addressed):
            raise RemoteProtocolError("stray frame", "a request came from a rig")
        elif frame.to != self.link.boot and not self.process.may_have_left_out(frame.to, now):
            self.violations["not for this program"] += 1
        elif isinstance(frame, Alive):
            self._receive_alive(frame, now)
        elif frame.boot != self.process.boot:
            # From another process than the one that answers our probes: one before a restart, or a forger. A rig that
            # has just restarted sends its frame again, once its first answer to a probe has made it known.
            self.violations["unknown boot"] += 1
            if self.requests.errands.current and self.requests.errands.current.tries:
                self._liveness.hurry(now)
        elif isinstance(frame, Bye):
            self.process.left_at = self.prober.n
            self._liveness.farewell(frame.reason, now)
            self._note_change()
        elif isinstance(frame, messages.Notice):
            self._heard(_RIGSYNC, now)
            self._receive_notice(frame, size, now)
        elif self.process.dialect is _RIGSYNC:
            self._heard(_RIGSYNC, now)
            if not self.requests.receive(frame, size, now):
                self.violations["late answer"] += 1  # ordinary where datagrams are doubled: no violation
        else:
            self.violations["message of the other dialect"] += 1

    def _receive_alive(self, frame: Alive, now: float) -> None:
        process, restarted = self.process, False
        if frame.boot != process.boot:
            probe = self.prober.log.outstanding(frame.n)
            if probe is None or not process.may_follow(frame, probe):
                self.violations["unknown boot"] += 1
                return
            is_forgeable = frame.to is None and not probe.stamp and not self.link.is_stream
            if is_forgeable and self.config.dialect == "auto":
                # Anybody knows the probe of iblutil rigs and can forge its answer. A rigsync probe shows who is there.
                self.violations["unknown boot"] += 1
                self.prober.challenge(now)
                return
            if not process.is_rig(frame.name):
                self.prober.take(frame.n, now)
                self._note_mistake(frame.name, now)
                return
            restarted = process.boot is not None
            self._meet(frame.boot)
            if restarted:  # before anything that the new process says
                self._events.append(events.RestartSeen(self.name))
        elif frame.n <= process.left_at:
            self.violations["late answer"] += 1  # the answer left before the goodbye
            return
        process.take(frame, now)
        self.health.status = process.status
        self.prober.take(frame.n, now, (frame.t0, frame.t1, frame.t2))
        self._heard(_RIGSYNC, now)
        if restarted:
            self.requests.settle_restarted()
        self.requests.advance(now)

    def _note_mistake(self, told: str, now: float) -> None:
        self.process.mistaken = told, now
        if wrong := self.process.wrong(now):
            self._liveness.lose(wrong.problem, now)
            self._note_change()
        self.requests.advance(now)

    def _meet(self, boot: str) -> None:
        """Begin anew with another process of the rig."""
        self.process.meet(boot, self.prober.n)
        self.prober.clock, self._notices = ClockFilter(), NoticeFilter()
        self.board.empty()
        self.health.clear()

    def _receive_notice(self, frame: messages.Notice, size: int, now: float) -> None:
        if frame.confirm:
            takes = 0 if frame.topic == CALL else None  # older ones say nothing, and would let the rig wait
            self._outbox.append(((self.name, Line.PROBES), messages.ack(self.link.boot, frame.n, done=takes)))
        if frame.topic in TOPICS:
            # The board itself knows which unconfirmed notices are new.
            is_new = (not frame.confirm or self._notices.is_new(frame)) and self.board.receive(frame, now)
        elif is_new := self._notices.is_new(frame):
            self.health.receive(frame)
            notice = events.Notice(self.name, frame.topic, frame.key, frame.body, frame.confirm, size)
            self._events.append(notice)
        if not is_new:
            self.violations["late notice"] += 1

    # ---------------------------------------------------------------------------------------------------- link

    def _probe_would_meet_another(self, now: float) -> bool:
        # On a connection nothing is lost, but two probes that a busy iblutil rig reads at once are junk: it closes.
        on_stream = self.link.is_stream and self.dialect is not Dialect.RIGSYNC
        return on_stream and self.state is not LinkState.LOST and self.prober.log.awaits_answer(now)

    def _heard(self, dialect: Dialect, now: float) -> None:
        if self.process.dialect is not dialect and self.config.dialect == "auto":
            self._adopt(dialect, now)
        self._liveness.heard(now)
        self._note_change()

    def _adopt(self, dialect: Dialect, now: float) -> None:
        self.process.dialect = dialect
        self._liveness.adopt(dialect)
        self.echoes.begin_anew()
        self.board.empty()
        self.health.clear()
        if dialect is Dialect.IBLUTIL:
            self.process.forget()
        self._events.append(DialectDetected(self.name, dialect))
        self.requests.begin_dialect(now)

    def _note_change(self) -> None:
        before, state = self._told_state, self._liveness.state
        if state is not before:
            self._told_state = state
            self._events.append(events.LINK_EVENTS[state](self.name, before, state, self.reason))
            self.requests.errands.set_timer()
