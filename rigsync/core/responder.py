"""The rig's view of its coordinators: each request is accepted once, whatever the network does (docs/protocol.md)."""

from __future__ import annotations

import math
from collections.abc import Collection
from random import Random
from typing import Any

from rigsync._text import one_line
from rigsync.core import legacy, messages
from rigsync.core.agenda import WAITING_BYTES, Agenda, Problem, Task
from rigsync.core.answers import Identity
from rigsync.core.board import STREAM, Board, Post
from rigsync.core.clock import StampClock
from rigsync.core.coordinators import JUMP, ONE_PACKET, Address, Coordinator, Coordinators, Record, Standing
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import EchoMissing, MessageHandled, NoticesDropped, ViolationSeen
from rigsync.core.legacy import Array, EchoLane
from rigsync.core.messages import Ack, Alive, Bye, Notice, Probe, Request, Verb
from rigsync.core.outputs import Outputs
from rigsync.core.ownership import LEASE, Sender
from rigsync.core.reach import CHALLENGES, Allowance, Reach
from rigsync.core.rigs import DATAGRAM_ROOM, Room
from rigsync.core.stream import room_of
from rigsync.core.throttle import ALL_TOLD_EACH_MINUTE, TOLD_EACH_MINUTE, Ration
from rigsync.core.timing import Timing
from rigsync.errors import RemoteProtocolError

_SOURCES_REPORTED = 256
"""Hosts whose violations are reported one by one. In a flood of forged addresses the rest are only counted."""


class Responder(Outputs[Address]):
    """The rig's core.

    Datagrams, time and the outcomes of handlers go in; `take_datagrams` and `take_events` give what comes out;
    `next_timer` says when `handle_timer` is due.

    Parameters
    ----------
    identity : Identity
        What the rig says of itself.
    handled : collection of ExpMessage and Command
        What has handlers; may change later. The other messages are answered at once, other commands are refused.
    timing : Timing
        Waits, in seconds.
    boot : str
        16 hexadecimal digits, drawn at random when the rig starts.
    stamps : StampClock
        The rig's wall clock.
    lease : float
        Seconds of the owner's silence after which the rig interrupts; 0 for never.
    room : Room
        How large an answer may be; as large as a datagram by default.
    board : Board, optional
        What the rig shows of its work; an empty one by default.
    secret : bytes, optional
        Key of what hosts have to send back; drawn at random by default.
    """

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
        self._agenda = Agenda(
            *(identity, handled, lease, room, self._events),
            *(self._settled, self._entered, self._claimed, self._board.clear_progress),
        )
        self._reach = Reach(room.scheme == "tcp", secret)
        self._challenge_size = len(self._challenge_frame(CHALLENGES, boot))  # of each; its numbers have 10 digits
        self._notices = 2 * CHALLENGES
        self._reported: set[tuple[str, str]] = set()
        self._told: Ration[tuple[str, str]] = Ration(60.0, TOLD_EACH_MINUTE, ALL_TOLD_EACH_MINUTE)
        self._timer = self._retry = math.inf
        self.violations: dict[str, int] = {}

    # ------------------------------------------------------------------------------------------------ outside

    @property
    def status(self) -> ExpStatus:
        """The rig's status."""
        return self._agenda.status

    @property
    def exp_ref(self) -> str | None:
        """Reference of the experiment; None where there is none, or it has no reference."""
        return self._agenda.exp_ref

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        """Process a datagram from a coordinator at monotonic `now` (s)."""
        self._reach.heard(source[0], len(data))
        try:
            frame = messages.decode(data)
            if isinstance(frame, Array):
                self._receive_array(frame, data, source, now)
            elif isinstance(frame, Probe):
                if (coordinator := self._see(frame, source, now, frame.beat)) and frame.program:
                    coordinator.program = frame.program
                # Each may use up all that may leave to a host that has shown nothing. So they take turns.
                if asks_first := frame.n % 2 == 0:
                    self._challenge(source, frame.boot)
                # Made as long as a padded probe, to see whether the network carries that.
                self._send(source, self._alive(frame, now, 0 if frame.pad is None else len(data)), frame.boot)
                if not asks_first:
                    self._challenge(source, frame.boot)
                owner = self._agenda.ownership.owner  # the answer goes first: it has this rig's boot number
                self._watch(frame.boot, now, certainly=owner is not None and owner.boot == frame.boot)
            elif isinstance(frame, Request):
                self._receive_request(frame, source, now, room_of(data, WAITING_BYTES))
            elif isinstance(frame, Ack):
                if not self._reach.has_shown(source[0]) and frame.n == self._reach.challenge(source[0]):
                    self._reach.show(source[0])
                    self._send_withheld(source[0])
                elif self._coordinators.acknowledge(frame.boot, frame.n, source, now):
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
        ownership, boot = self._agenda.ownership, messages.sender_of(head)
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
        self._count(kind)
        key = (source[0], kind)
        if key not in self._reported and len(self._reported) < _SOURCES_REPORTED:
            self._reported.add(key)
            self._events.append(ViolationSeen(text_of(source), kind, problem))

    def _is_told(self, source: Address, sender: Sender, kind: str, now: float) -> bool:
        """Whether to tell people of a refusal: always for the coordinator in charge, else the first few."""
        if self._agenda.ownership.is_led_by(sender) or self._told.allows((source[0], kind), now):
            return True
        self._report(source, "more in vain than is told", f"more in vain than is told, the last: {kind}")
        return False

    def respond(self, number: int, returned: Any, now: float, started: float | None = None) -> None:
        """Settle a task whose handlers have succeeded and returned `returned`.

        Parameters
        ----------
        number : int
            The task of the `HandlerDue`.
        returned : object
            A mapping or None; for ALYX also an Alyx client, or its address and token.
        now : float
            Monotonic seconds.
        started : float, optional
            When the first handler was entered, in monotonic seconds; by default when it was due.
        """
        self._agenda.respond(number, returned, now, started)

    def fail(self, number: int, error: str, message: str, traceback: str, now: float, is_over: bool = False) -> None:
        """Settle a task whose handlers have failed with an exception of type `error`.

        With `is_over`, the recording that an EXPEND was to end is over all the same, and the rig is STOPPED.
        """
        self._agenda.fail(number, error, message, traceback, now, is_over)

    def interrupt(self, reason: str, now: float) -> None:
        """Interrupt of the rig's own accord; do nothing where no experiment is under way, or it ends already."""
        self._agenda.interrupt(reason, now)

    def close(self, reason: str, now: float) -> None:
        """Refuse experiments from now on, and interrupt the one that is under way; call `farewell` after that."""
        self._agenda.close(reason, now)

    @property
    def is_under_way(self) -> bool:
        """Whether an experiment runs, begins, or is being stopped."""
        return self._agenda.is_under_way

    @property
    def running(self) -> Verb | None:
        """The message of the lifecycle whose handlers run, None where none does."""
        return self._agenda.running

    def is_open(self, number: int) -> bool:
        """Whether the outcome of a task's handlers still matters. Safe to call from any thread."""
        return self._agenda.is_open(number)

    def note_standstill(self, seconds: float, now: float) -> None:
        """Do not count seconds up to `now`, in which this program stood still, as silence of coordinators."""
        if seconds >= self._timing.beat:  # less ends no lease
            self._agenda.note_standstill(seconds, now)

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`: acknowledge, act, send notices again, give up missing echoes and lost owners."""
        for task in self._agenda.open_tasks():
            if now >= task.ack_due:
                task.ack_due = math.inf
                self._acknowledge(task)
        for source, lane, answer in self._coordinators.expire_echoes(now):
            if self._is_told(source, Sender(source[0], None), "EchoMissing", now):
                self._events.append(EchoMissing(text_of(source), answer))
            self._send_next(source, lane, now)
        if now >= self._retry:
            self._send_withheld_arrays(now)
        self._post(self._board.take(now), now)
        for coordinator in self._coordinators.due(now):
            self._send_notices(coordinator, now)
        self._agenda.handle_timer(now)
        self._timer = min(
            self._coordinators.next_timer(),
            min((task.ack_due for task in self._agenda.open_tasks()), default=math.inf),
        )

    def next_timer(self) -> float:
        """Return when, in monotonic seconds, `handle_timer` is due; it may be called too early without harm."""
        return min(self._timer, self._retry, self._agenda.next_timer(), self._board.next_timer())

    def notify(
        self, topic: str, key: str | None, body: Any, confirm: bool, now: float, is_newest: bool = False
    ) -> None:
        """Tell the coordinators that watch this rig something.

        Parameters
        ----------
        topic : str
            What sort of thing it is.
        key : str or None
            What it is about, within the topic.
        body : object
            Plain JSON values.
        confirm : bool
            Whether to send it again until it is confirmed.
        now : float
            Monotonic seconds.
        is_newest : bool
            Whether it replaces an unconfirmed one of the same topic and key that still waits.

        Raises
        ------
        PayloadTooLarge
            No datagram can carry it.
        """
        frame = self._notice(topic, key, body, confirm)
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
            self.notify(post.topic, post.key, post.body, post.confirm, now, post.is_value)

    def _watch(self, boot: str, now: float, certainly: bool = False) -> None:
        self._coordinators.watch(boot, now, certainly)
        self._welcome(now)

    def _welcome(self, now: float) -> None:
        """Send the whole board to those that may not know it."""
        newcomers = self._coordinators.newcomers.copy()
        self._coordinators.newcomers.clear()
        for coordinator in newcomers:
            for post in self._board.snapshot():
                frame = self._notice(post.topic, post.key, post.body, post.confirm)
                instead = (post.topic, post.key) if post.is_value else None
                coordinator.notices.add(self._notices, frame, now, instead)
            coordinator.notices.overflowed = False  # or it would be sent again, without end
            self._coordinators.bound_notices()
            self._send_notices(coordinator, now)

    def _tell_short_changed(self) -> None:
        self._events += [NoticesDropped(text_of(address)) for address in self._coordinators.short_changed]
        self._coordinators.short_changed.clear()

    def farewell(self, now: float) -> None:
        """Tell the coordinators what they have not confirmed yet, and then that this rig is closing."""
        self._post(self._board.take_last(now), now)
        for address, boot, notices in self._coordinators.last_words(now):
            for frame in notices:
                self._send(address, messages.addressed(frame, boot), boot)
            self._send(address, messages.bye(self._boot, 0, "the rig is closing", boot), boot)

    # --------------------------------------------------------------------------------------- rigsync dialect

    def _alive(self, probe: Probe, now: float, size: int) -> bytes:
        stamp = self._stamps.stamp(now)
        return messages.alive(
            Alive(
                self._boot,
                probe.n,
                probe.t0,
                stamp,
                stamp,
                self._identity.name,
                self.status,
                self.exp_ref,
                self._identity.version,
                self._agenda.ownership.host,
                to=probe.boot,
            ),
            size,
        )

    def _see(self, frame: messages.Frame, source: Address, now: float, beat: int | None = None) -> Coordinator | None:
        coordinator = self._coordinators.seen(frame.boot, source, now, None if beat is None else beat / 1000)
        if coordinator:
            self._agenda.ownership.heard(frame.boot, now, source[0], coordinator.patience)
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
            self._agenda.leave(frame.boot, now)

    def _receive_request(self, frame: Request, source: Address, now: float, size: int) -> None:
        coordinator = self._see(frame, source, now)
        if coordinator is None or coordinator.is_spent:
            self._count("request of one coordinator too many")
            problem = (
                "this rig has heard so many coordinators that it would not know a repeat of this one's requests; "
                "nothing was run; start the task's program again, and where that does not help, the rig's"
            )
            self._refuse(frame, source, "Busy", problem)
            return
        if coordinator.has_left:
            self._count("request after its coordinator's goodbye")  # the goodbye came first by another socket
            problem = "this coordinator has said goodbye, and nothing more of it is run; start the task's program again"
            self._refuse(frame, source, "SaidGoodbye", problem)
            return
        record = coordinator.records.get(frame.n)
        if record:  # a repeat is never run twice
            record.source = source
            if record.frame is None and frame.at is not None:
                self._agenda.reschedule(record, self._stamps.instant(frame.at), now)
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
            self._count("overtaken request")
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
            self._count("request with a number far ahead")
            problem = (
                f"not run: its number, {frame.n}, is more than {JUMP:,} above {coordinator.highest}, the last of this "
                "coordinator; start the task's program again"
            )
            self._refuse(frame, source, "ValueError", problem)
            return
        record = coordinator.open_record(frame.n, source)
        sender = Sender(source[0], frame.boot, coordinator.program, coordinator.patience)
        task = Task(frame.event, frame.args, source, sender, record, size, of=frame.of)
        task.ack_due = now + self._timing.ack_delay
        instant = None if frame.at is None else self._stamps.instant(frame.at)
        self._agenda.accept(task, now, instant)
        if self.is_open(task.number):
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

    # --------------------------------------------------------------------------------------- iblutil dialect

    def _receive_array(self, message: Array, data: bytes, source: Address, now: float) -> None:
        lane = self._coordinators.lane(source)
        if legacy.has_mark(data, legacy.RIG_MARK):
            if not self._reach.has_shown(source[0]) and data[:-2].endswith(self._reach.blanks(source[0])):
                self._reach.show(source[0])
                self._send_withheld_arrays(now)
            if lane.awaited and lane.awaited[1] == data:
                lane.finish()
                self._send_next(source, lane, now)
            return
        if message.event == legacy.NULL_MESSAGE:
            text, event = message.args
            raise RemoteProtocolError("remote error", f"the coordinator's callback for {event.name} failed: {text}")
        hands_over_token = message.event is ExpMessage.ALYX and len(message.args) > 1 and all(message.args)
        if lane.repeats(data, now) and (hands_over_token or self._is_busy_with(source, lane)):
            self._count("repeated message")
            return
        if not lane.guard.allows(data, now):
            raise RemoteProtocolError("echo loop", "the same message comes over and over")
        self._send_array(source, data, now)
        args = _unwrapped(message, data)
        size = room_of(data, WAITING_BYTES)
        task = Task(message.event, args, source, Sender(source[0], None), None, size, silent=hands_over_token)
        self._agenda.accept(task, now)

    def _is_busy_with(self, source: Address, lane: EchoLane[Verb]) -> bool:
        """Whether an iblutil coordinator still waits for an answer, or has yet to confirm one."""
        if lane.awaited or lane.answers:
            return True
        return any(task.record is None and task.source == source for task in self._agenda.open_tasks())

    def _send_next(self, source: Address, lane: EchoLane[Verb], now: float) -> None:
        while lane.awaited is None and lane.answers:
            answer = lane.answers[0][1]
            if not self._send_array(source, answer, now):
                for _ in range(self._coordinators.withhold(source)):
                    self._count("answer given up, as it could not leave")
                self._retry = min(self._retry, self._allowance(source).when(len(answer)))
                return
            lane.awaited = lane.answers.popleft()
            if legacy.has_mark(answer, legacy.RIG_MARK):
                lane.until = now + self._timing.echo_timeout
                self._timer = min(self._timer, lane.until)
            else:  # nobody echoes the reason of a refusal
                lane.finish()
        self._coordinators.release(source)

    def _send_withheld_arrays(self, now: float) -> None:
        """Send withheld answers that may leave now, newest first; a smaller one does not overtake."""
        self._retry, is_spent = math.inf, False
        for source, lane in self._coordinators.withheld_lanes():
            allowance = self._allowance(source)
            if not is_spent or allowance is self._reach.own or self._reach.has_shown(source[0]):
                self._send_next(source, lane, now)
                is_spent = is_spent or (allowance is self._reach.common and lane.awaited is None and bool(lane.answers))

    def _allowance(self, source: Address) -> Allowance:
        is_in_charge = self._agenda.ownership.is_led_by(Sender(source[0], None))
        return self._reach.own if is_in_charge else self._reach.common

    # ---------------------------------------------------------------------------------------------- answering

    def _settled(self, task: Task, outcome: messages.Message | Problem, now: float) -> None:
        error, is_told = None, True
        if isinstance(outcome, Problem):
            if task.source and task.sender and not outcome.traceback:  # a refusal: no handler has failed
                is_told = self._is_told(task.source, task.sender, outcome.error, now)
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
            started, finished = self._stamps.stamp(task.started or now), self._stamps.stamp(now)
            self._store(task.record, messages.reply(self._boot, n, message, started, finished, to))
        elif task.source and not task.silent:
            lane = self._coordinators.lane(task.source)
            shown = b"" if self._reach.has_shown(task.source[0]) else self._reach.blanks(task.source[0])
            answer = legacy.array(message, shown + legacy.RIG_MARK)
            in_charge = task.sender is not None and self._agenda.ownership.is_led_by(task.sender)
            if not self._coordinators.has_room(len(answer), in_charge):
                self._count("answer without room to wait in")
                problem = f"{task.event.name} was done, but too many answers of this rig wait for their echoes"
                self._send_array(task.source, legacy.error_array("Busy", problem, task.event), now)
                return
            lane.add(task.event, answer)
            self._send_next(task.source, lane, now)

    def _answer_problem(self, task: Task, problem: Problem, now: float) -> None:
        if task.record:
            n, error, message = task.record.n, problem.error, problem.message
            to = task.record.coordinator.boot
            self._store(task.record, messages.failure(self._boot, n, error, message, problem.traceback, to))
        elif task.source:
            lane = self._coordinators.lane(task.source)
            frame = legacy.error_array(problem.error, problem.message, task.event)
            if not self._send_array(task.source, frame, now) and self._coordinators.has_room(len(frame), False):
                lane.add(task.event, frame)
                self._send_next(task.source, lane, now)

    def _store(self, record: Record, frame: bytes) -> None:
        self._coordinators.keep(record, frame)
        record.is_withheld = not self._send(record.source, frame, record.coordinator.boot)

    def _entered(self, reason: str | None, now: float) -> None:
        body = {"status": self.status.name, "exp_ref": self.exp_ref, "reason": reason}
        self.notify("status", None, body, True, now)

    def _claimed(self, boot: str, now: float) -> None:
        self._watch(boot, now, certainly=True)

    def _tell_others(self, task: Task, source: str, error: str | None, now: float) -> None:
        others = self._shown(self._coordinators.watching(now, except_for=task.sender.boot if task.sender else None))
        if others:
            body = {"message": task.event.name, "from": source, "error": error and one_line(error)}
            frame = self._notice("log", "message", body, confirm=False)
            for address, boot in others:
                self._send(address, messages.addressed(frame, boot), boot)

    # ---------------------------------------------------------------------------------------------- counting

    def _count(self, kind: str) -> int:
        self.violations[kind] = self.violations.get(kind, 0) + 1
        return self.violations[kind]

    def _send(self, destination: Address, data: bytes, boot: str) -> bool:
        """Send a frame unless it is too large for a host that may be forged; return whether it was sent."""
        if is_sent := self._reach.spend(destination[0], len(data)):
            self._outbox.append((destination, data))
        else:
            self._count("more than a forged sender may have sent")
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

    def _send_array(self, destination: Address, data: bytes, now: float) -> bool:
        """Send a message of the iblutil dialect. Its echo shows that the host receives."""
        size = len(data)
        if is_sent := self._reach.spend(destination[0], size) or self._allowance(destination).take(size, now):
            self._outbox.append((destination, data))
        else:
            self._count("more than forged senders may have sent")
        return is_sent


def _unwrapped(message: Array, data: bytes) -> list[Any]:
    """Return a message's arguments in the one form that handlers know.

    iblrig's coordinator puts the data of EXPEND and EXPINTERRUPT into a list of one, or sends an empty list.
    """
    is_wrapped = message.event in (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT) and len(message.args) == 1
    if is_wrapped and isinstance(message.args[0], list) and not legacy.has_mark(data, legacy.COORDINATOR_MARK):
        (inner,) = message.args
        return [None] if not inner else inner if len(inner) == 1 else message.args
    return message.args


def text_of(address: Address) -> str:
    """Return a socket address as host and port."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
