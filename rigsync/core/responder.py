"""The rig's view of its coordinators: each request is accepted once, whatever the network does (docs/protocol.md)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from random import Random
from typing import Any, ClassVar

from rigsync._text import one_line
from rigsync.core import events, messages
from rigsync.core.agenda import Agenda, Problem
from rigsync.core.answers import Identity
from rigsync.core.board import STREAM, TOPICS, Board, Post
from rigsync.core.board_view import events_of
from rigsync.core.calls import ANSWER, Calls
from rigsync.core.clock import StampClock
from rigsync.core.coordinators import GONE, JUMP, ONE_PACKET, Address, Coordinator, Coordinators, Record, Standing
from rigsync.core.events import EchoMissing, MessageHandled, NoticesDropped, ViolationSeen
from rigsync.core.health import STATUS, told
from rigsync.core.legacy import Array
from rigsync.core.legacy_answers import ArrayAnswers
from rigsync.core.messages import Ack, Alive, Bye, Command, Notice, Probe, Request, Verb
from rigsync.core.outputs import Outputs
from rigsync.core.ownership import LEASE, Sender
from rigsync.core.queries import FOR_ANYBODY, JOURNAL, WAITING_BYTES, Task
from rigsync.core.reach import CHALLENGES, Reach
from rigsync.core.rigs import DATAGRAM_ROOM, Room
from rigsync.core.stream import room_of
from rigsync.core.throttle import ALL_TOLD_EACH_MINUTE, TOLD_EACH_MINUTE, Ration
from rigsync.core.timing import Timing
from rigsync.errors import RemoteProtocolError

_TOLD_OTHERWISE = frozenset({*TOPICS, STATUS})
"""Topics of notices that the rig's own hub is told of by events of their own."""
_LONGEST_TOLD = 1e9
"""Seconds of a lease that are told of a longer one: some thirty years."""
_SOURCES_REPORTED = 256
"""Hosts whose violations are reported one by one. In a flood of forged addresses the rest are only counted."""


class Responder(Outputs[Address]):
    """The rig's core.

    Datagrams and time go in; `take_datagrams` and `take_events` give what comes out; `next_timer` says when
    `handle_timer` is due. The outcomes of handlers go to `agenda`.
    Handlers may be added to `handled` later: the other messages are answered at once, other commands refused. `boot` is
    16 hexadecimal digits, drawn at random when the rig starts; `secret` is the key of what hosts have to send back.
    """

    kind_of_agenda: ClassVar[type[Agenda]] = Agenda

    def __init__(
        self,
        identity: Identity,
        handled: Collection[Verb],
        timing: Timing,
        boot: str,
        stamps: StampClock,
        lease: float = LEASE,
        room: Room = DATAGRAM_ROOM,
        board: Board | None = None,
        secret: bytes | None = None,
    ):
        super().__init__()
        self._identity, self._timing = identity, timing
        self._boot, self._stamps, self._room = boot, stamps, room
        self._coordinators = Coordinators(timing, Random(int(boot, 16)))
        self._board = Board(room) if board is None else board
        self._board.open()
        hear = self._settled, self._entered, self._claimed, self._board.clear_progress
        self.agenda = self.kind_of_agenda(identity, handled, lease, room, self._events, *hear)
        self._reach = Reach(room.scheme != "udp", secret)
        self._challenge_size = len(self._challenge_frame(CHALLENGES, boot))  # of each; its numbers have 10 digits
        self._notices = 2 * CHALLENGES
        notices = (self._notice, lambda: self._notices + 1, self._send_notices)
        self.calls = Calls(lambda: self.agenda.ownership, self._coordinators, *notices)
        self._reported: set[tuple[str, str]] = set()
        self._told: Ration[tuple[str, str]] = Ration(60.0, TOLD_EACH_MINUTE, ALL_TOLD_EACH_MINUTE)
        self._timer = math.inf
        self.violations: Counter[str] = Counter()
        self._arrays = ArrayAnswers(self.agenda, self._reach, timing.echo_timeout, self._outbox, self.violations)

    # ------------------------------------------------------------------------------------------------ outside

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        self._reach.heard(source[0], len(data))
        try:
            frame = messages.decode(data)
            if isinstance(frame, Array):
                self._arrays.receive(frame, data, source, now)
            elif isinstance(frame, Probe):
                if (coordinator := self._see(frame, source, now, frame.beat)) and frame.program:
                    coordinator.program = frame.program
                # Each may use up all that may leave to a host that has shown nothing. So they take turns.
                if asks_first := frame.n % 2 == 0:
                    self._challenge(source, frame.boot)
                # Made as long as a padded probe, to see whether the network carries that.
                self._send(source, self._alive(frame, source, now, 0 if frame.pad is None else len(data)), frame.boot)
                if not asks_first:
                    self._challenge(source, frame.boot)
                owner = self.agenda.ownership.owner  # the answer goes first: it has this rig's boot number
                self._watch(frame.boot, now, certainly=owner is not None and owner.boot == frame.boot)
            elif isinstance(frame, Request):
                self._receive_request(frame, source, now, room_of(data, WAITING_BYTES))
            elif isinstance(frame, Ack):
                if not self._reach.has_shown(source[0]) and frame.n == self._reach.challenge(source[0]):
                    self._reach.show(source[0])
                    self._send_withheld(source[0])
                elif self._coordinators.acknowledge(frame.boot, frame.n, source, now):
                    self.calls.acknowledge(frame.boot, frame.n, frame.done is not None)
                    self._see(frame, source, now)
                    self._welcome(now)
            elif isinstance(frame, Bye):
                self._receive_bye(frame, source, now)
            else:
                raise RemoteProtocolError("stray frame", f"a {type(frame).__name__.lower()} came to a rig")
        except RemoteProtocolError as error:
            self.report_violation(source, error)

    def standing(self, head: bytes, source: Address) -> Standing:
        """Return how much the sender of a message has to do with this rig, told by how the message begins."""
        ownership, boot = self.agenda.ownership, messages.sender_of(head)
        if source[0] == ownership.host and ownership.is_led_by(Sender(source[0], boot)):
            return Standing.IN_CHARGE
        return Standing.WATCHES if boot and self._coordinators.watches(boot, source[0]) else Standing.STRANGER

    def report_violation(self, source: Address, error: RemoteProtocolError) -> None:
        """Report that what came from `source` cannot be a message, once for each kind and host."""
        if asked := messages.told_frame(error.head, "request"):
            boot, n = asked
            self._send(source, messages.failure(self._boot, n, "PayloadTooLarge", f"not run: {error}", "", boot), boot)
        self._report(source, error.kind, str(error))

    def _report(self, source: Address, kind: str, problem: str) -> None:
        self.violations[kind] += 1
        key = (source[0], kind)
        if key not in self._reported and len(self._reported) < _SOURCES_REPORTED:
            self._reported.add(key)
            self._events.append(ViolationSeen(text_of(source), kind, problem))

    def _is_told(self, source: Address, sender: Sender, kind: str, now: float) -> bool:
        """Whether to tell people of a refusal: always for the coordinator in charge, else the first few."""
        if self.agenda.ownership.is_led_by(sender) or self._told.allows((source[0], kind), now):
            return True
        self._report(source, "more in vain than is told", f"more in vain than is told, the last: {kind}")
        return False

    def note_standstill(self, seconds: float, now: float) -> None:
        """Do not count seconds up to `now`, in which this program stood still, as silence of coordinators."""
        if seconds >= self._timing.beat:  # less ends no lease
            self.agenda.ownership.pass_over(seconds, now)

    def handle_timer(self, now: float) -> None:
        for task in self.agenda.tasks.values():
            if now >= task.ack_due:
                task.ack_due = math.inf
                self._acknowledge(task)
        for source, event in self._arrays.handle_timer(now):
            if self._is_told(source, Sender(source[0], None), "EchoMissing", now):
                self._events.append(EchoMissing(text_of(source), event))
        self._post(self._board.take(now), now)
        for coordinator in self._coordinators.due(now):
            self._send_notices(coordinator, now)
        self.agenda.handle_timer(now)
        self.calls.handle_timer(now)
        acks = (task.ack_due for task in self.agenda.tasks.values())
        self._timer = min([self._coordinators.next_timer(), *acks])

    def next_timer(self) -> float:
        parts = self._arrays.next_timer(), self.agenda.next_timer(), self._board.next_timer()
        return min(self._timer, self.calls.next_timer(), *parts)

    def notify(
        self, topic: str, key: str | None, body: Any, confirm: bool, now: float, is_newest: bool = False
    ) -> None:
        """Tell the coordinators that watch this rig something about a topic, and a key within it.

        A confirmed notice is sent again until it is confirmed. One that is the newest takes the place of an unconfirmed
        one of the same topic and key that still waits. `PayloadTooLarge` where no datagram can carry it.
        """
        frame = self._notice(topic, key, body, confirm)
        self.agenda.health.note(topic, key, body, now, self._notices)
        if topic not in _TOLD_OTHERWISE:
            self._events.append(events.Notice(self._identity.name, topic, key, body, confirm))
        instead = (topic, key) if is_newest else None
        if not confirm:
            if instead:
                self._coordinators.take_back(instead)
            for address, boot in self._shown(self._coordinators.watching(now)):
                self._send(address, messages.addressed(frame, boot), boot)
            return
        for coordinator in self._coordinators.file_notice(self._notices, frame, now, instead):
            self._send_notices(coordinator, now)
        self._tell_short_changed()

    def _notice(self, topic: str, key: str | None, body: Any, confirm: bool) -> bytes:
        self._notices += 1
        return messages.notice(Notice(self._boot, self._notices, topic, key, body, confirm), self._room)

    def _shown(self, watching: list[tuple[Address, str]]) -> list[tuple[Address, str]]:
        """Return those to which unconfirmed notices are sent. Others may be forged, and are asked at each probe."""
        return [(address, boot) for address, boot in watching if self._reach.has_shown(address[0])]

    def _post(self, posts: list[Post], now: float) -> None:
        for post in posts:
            self._events += events_of(self._identity.name, post)
            self.notify(post.topic, post.key, post.body, post.confirm, now, post.is_value)

    def _watch(self, boot: str, now: float, certainly: bool = False) -> None:
        self._coordinators.watch(boot, now, certainly)
        self._welcome(now)

    def _welcome(self, now: float) -> None:
        """Send what is wrong, and the whole board, to those that may not know it."""
        newcomers = self._coordinators.newcomers.copy()
        self._coordinators.newcomers.clear()
        for coordinator in newcomers:
            self._add_lasting(coordinator, now)
            for post in self._board.snapshot():
                frame = self._notice(post.topic, post.key, post.body, post.confirm)
                instead = (post.topic, post.key) if post.is_value else None
                coordinator.notices.add(self._notices, frame, now, instead)
            coordinator.notices.overflowed = False  # or it would be sent again, without end
            self._coordinators.bound_notices()
            self._send_notices(coordinator, now)

    def _add_lasting(self, coordinator: Coordinator, now: float) -> None:
        # Under its own number a notice is told once, be it that this one was away for a while, and has heard it before.
        for entry in self.agenda.health.lasting(coordinator.notices.lost):
            if (n := entry.n) is None or n <= coordinator.notices.lost:
                self._notices += 1
                n, entry.n = self._notices, entry.n or self._notices
            body = {**entry.body, "age": round(now - entry.at, 3)}
            frame = messages.notice(Notice(self._boot, n, entry.topic, entry.key, body, True), self._room)
            coordinator.notices.add(n, frame, now)

    def _tell_short_changed(self) -> None:
        told = self._coordinators.short_changed
        self._events += [NoticesDropped(text_of(address), why, why == GONE) for address, why in told]
        self._coordinators.short_changed.clear()

    def farewell(self, now: float) -> None:
        self._post(self._board.take_last(now), now)
        for address, boot, notices in self._coordinators.last_words(now):
            for frame in notices:
                self._send(address, messages.addressed(frame, boot), boot)
            self._send(address, messages.bye(self._boot, 0, "the rig is closing", boot), boot)

    # --------------------------------------------------------------------------------------- rigsync dialect

    def _alive(self, probe: Probe, source: Address, now: float, size: int) -> bytes:
        stamp = self._stamps.stamp(now)
        silence, lease = self.agenda.ownership.absence(now)
        troubles = self.agenda.health.troubles or None
        if not self._reach.has_shown(source[0]):  # what may be sent to such a host has to do for the rest
            silence = lease = troubles = None
        answer = Alive(
            *(self._boot, probe.n, probe.t0, stamp, stamp, self._identity.name, self.agenda.status),
            *(self.agenda.exp_ref, self._identity.version, self.agenda.ownership.host, troubles),
            *(_milliseconds(silence), _milliseconds(lease if self.agenda.is_under_way else None)),
            to=probe.boot,
        )
        return messages.alive(answer, size)

    def _see(self, frame: messages.Frame, source: Address, now: float, beat: int | None = None) -> Coordinator | None:
        coordinator = self._coordinators.seen(frame.boot, source, now, None if beat is None else beat / 1000)
        if coordinator:
            self.agenda.ownership.heard(frame.boot, now, source[0], coordinator.patience)
            if now >= coordinator.notices.due:
                self._send_notices(coordinator, now)
        return coordinator

    def _send_notices(self, coordinator: Coordinator, now: float) -> None:
        if coordinator.address is None or now < coordinator.notices.due:
            return
        boot = coordinator.boot
        self._send(coordinator.address, messages.addressed(coordinator.notices.send(now), boot), boot)
        self._timer = min(self._timer, coordinator.notices.due)

    def _receive_bye(self, frame: Bye, source: Address, now: float) -> None:
        if self._coordinators.leave(frame.boot, source):
            self.agenda.leave(frame.boot, now)
            self.calls.leave(frame.boot)

    def _receive_request(self, frame: Request, source: Address, now: float, size: int) -> None:
        coordinator = self._see(frame, source, now)
        if coordinator is None or coordinator.is_spent:
            self.violations["request of one coordinator too many"] += 1
            problem = (
                "this rig has heard so many coordinators that it would not know a repeat of this one's requests; "
                "nothing was run; start the task's program again, and where that does not help, the rig's"
            )
            self._refuse(frame, source, "Busy", problem)
            return
        if coordinator.has_left:
            self.violations["request after its coordinator's goodbye"] += 1  # the goodbye came first by another socket
            problem = "this coordinator has said goodbye, and nothing more of it is run; start the task's program again"
            self._refuse(frame, source, "SaidGoodbye", problem)
            return
        record = coordinator.records.get(frame.n)
        if record:  # a repeat is never run twice
            record.source = source
            if record.frame is None and frame.at is not None:
                self.agenda.reschedule(record, self._stamps.instant(frame.at), now)
            if record.frame is None:
                self._send(source, messages.ack(self._boot, frame.n, frame.boot), frame.boot)
                return
            if len(record.frame) > ONE_PACKET:  # this gets through where the answer does not
                self._send(source, messages.ack(self._boot, frame.n, frame.boot, len(record.frame)), frame.boot)
            record.is_withheld = not self._send(source, record.frame, frame.boot)
            return
        if frame.n <= coordinator.highest:
            # The coordinator has sent a later one, so it has finished with this one. To run it now, after what was
            # asked since, would be worse than to lose it.
            self.violations["overtaken request"] += 1
            problem = (
                f"not run now: the rig has had request {coordinator.highest} of this coordinator already, and this is "
                f"{frame.n}; look at the rig, and start the task's program again if others end like this"
            )
            self._refuse(frame, source, "Overtaken", problem)
            return
        if frame.to not in (None, self._boot):
            # The process before this one was meant, and may have run it. It was not accepted here, so nothing is filed.
            problem = "the rig's program was started anew since; this one does not run it"
            self._refuse(frame, source, "RigRestarted", problem)
            return
        if coordinator.highest and frame.n > coordinator.highest + JUMP:
            self.violations["request with a number far ahead"] += 1
            last = f"{coordinator.highest}, the last of this coordinator; start the task's program again"
            problem = f"not run: its number, {frame.n}, is more than {JUMP:,} above {last}"
            self._refuse(frame, source, "ValueError", problem)
            return
        record = coordinator.open_record(frame.n, source)
        if isinstance(frame.event, Command) and frame.event == ANSWER:  # at once: what runs and waits may await it
            answer = messages.Message.of(ANSWER, [self.calls.answer(frame.boot, frame.args)])
            stamp = self._stamps.stamp(now)
            self._store(record, messages.reply(self._boot, frame.n, answer, stamp, stamp, frame.boot))
            return
        sender = Sender(source[0], frame.boot, coordinator.program, coordinator.patience)
        task = Task(frame.event, frame.args, source, sender, record, size, of=frame.of)
        task.ack_due = now + self._timing.ack_delay
        instant = None if frame.at is None else self._stamps.instant(frame.at)
        self.agenda.accept(task, now, instant)
        if self.agenda.is_open(task.number):
            if task.schedule and now < task.schedule.instant:
                task.ack_due = math.inf
                self._acknowledge(task)
            self._timer = min(self._timer, task.ack_due)

    def _refuse(self, frame: Request, source: Address, error: str, problem: str) -> None:
        """Refuse a request, and file nothing of it."""
        self._send(source, messages.failure(self._boot, frame.n, error, problem, "", frame.boot), frame.boot)

    def _acknowledge(self, task: Task) -> None:
        if task.record:
            record = task.record
            boot = record.coordinator.boot
            self._send(record.source, messages.ack(self._boot, record.n, boot), boot)

    # ---------------------------------------------------------------------------------------------- answering

    def _settled(self, task: Task, outcome: messages.Message | Problem, now: float) -> None:
        error, is_told = None, True
        if isinstance(outcome, Problem):
            if task.source and task.sender and not outcome.traceback:  # a refusal: no handler has failed
                is_told = self._is_told(task.source, task.sender, outcome.error, now)
                is_told = is_told and task.event not in (*FOR_ANYBODY, JOURNAL)  # asked of each rig, and few have them
            error = f"{outcome.error}: {outcome.message}"
            self._answer_problem(task, outcome, now)
        else:
            self._answer(task, outcome, now)
        source = text_of(task.source) if task.source else "the rig itself"
        self._events.append(MessageHandled(source, task.event, error, is_told))
        if is_told:
            self._tell_others(task, source, error, now)

    def _answer(self, task: Task, message: messages.Message, now: float) -> None:
        if task.record:
            n, to = task.record.n, task.record.coordinator.boot
            finished = self._stamps.stamp(now)
            started = finished if task.started in (0.0, now) else self._stamps.stamp(task.started)
            self._store(task.record, messages.reply(self._boot, n, message, started, finished, to))
        elif task.source and not task.silent:
            self._arrays.answer(task, task.source, message, now)

    def _answer_problem(self, task: Task, problem: Problem, now: float) -> None:
        if task.record:
            n, error, message = task.record.n, problem.error, problem.message
            to = task.record.coordinator.boot
            self._store(task.record, messages.failure(self._boot, n, error, message, problem.traceback, to))
        elif task.source:
            self._arrays.answer_problem(task, task.source, problem, now)

    def _store(self, record: Record, frame: bytes) -> None:
        self._coordinators.keep(record, frame)
        record.is_withheld = not self._send(record.source, frame, record.coordinator.boot)

    def _entered(self, reason: str | None, now: float) -> None:
        body = {"status": self.agenda.status.name, "exp_ref": self.agenda.exp_ref, "reason": reason}
        self.notify(STATUS, None, {**body, **told(self.agenda.health.failures)}, True, now)
        self.agenda.health.note_status(body, now, self._notices)

    def _claimed(self, boot: str, now: float) -> None:
        self._watch(boot, now, certainly=True)

    def _tell_others(self, task: Task, source: str, error: str | None, now: float) -> None:
        others = self._shown(self._coordinators.watching(now, except_for=task.sender.boot if task.sender else None))
        if others:
            body = {"message": task.event.name, "from": source, "error": error and one_line(error)}
            frame = self._notice("log", "message", body, confirm=False)
            for address, boot in others:
                self._send(address, messages.addressed(frame, boot), boot)

    # ---------------------------------------------------------------------------------------------- sending

    def _send(self, destination: Address, data: bytes, boot: str) -> bool:
        """Send a frame unless it is too large for a host that may be forged; return whether it was sent."""
        if is_sent := self._reach.spend(destination[0], len(data)):
            self._outbox.append((destination, data))
        else:
            self.violations["more than a forged sender may have sent"] += 1
            self._challenge(destination, boot)
        return is_sent

    def _challenge(self, destination: Address, boot: str) -> None:
        """Ask a host to show that it receives, by an empty notice that it acknowledges like any other."""
        host = destination[0]
        # The budget is asked first: a forger can cause any number of refusals, so each has to cost next to nothing.
        if not self._reach.has_shown(host) and self._reach.spend(host, self._challenge_size):
            self._outbox.append((destination, self._challenge_frame(self._reach.challenge(host), boot)))

    def _challenge_frame(self, n: int, boot: str) -> bytes:
        body = {"action": "remove", "number": 0, "info": {}}
        return messages.notice(Notice(self._boot, n, STREAM, "?", body, True, to=boot))

    def _send_withheld(self, host: str) -> None:
        for record in self._coordinators.withheld(host):
            record.is_withheld = False
            if record.frame is not None:
                self._send(record.source, record.frame, record.coordinator.boot)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(1000 * min(seconds, _LONGEST_TOLD))


def text_of(address: Address) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
