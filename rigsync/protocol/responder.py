"""The rig's view of its coordinators: each request is run once, whatever the network does (PROTOCOL.md 1 to 4)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rigsync.config import DATAGRAM_ROOM, Room, Timing
from rigsync.errors import PayloadError, PayloadTooLarge, RemoteProtocolError
from rigsync.protocol import messages
from rigsync.protocol.answers import Identity, answer_arguments, experiment_information
from rigsync.protocol.arguments import encode, to_plain, token_arguments
from rigsync.protocol.clock import MOST_AHEAD, StampClock
from rigsync.protocol.coordinators import Address, Coordinator, Coordinators, EchoLane, Record
from rigsync.protocol.events import (
    EchoMissing,
    HandlerDue,
    HandlerOvertaken,
    LeaseExpired,
    MessageHandled,
    NoticesDropped,
    Schedule,
    StatusChanged,
    ViolationSeen,
)
from rigsync.protocol.lifecycle import LIFECYCLE_MESSAGES, decide, named_reference, takes_over
from rigsync.protocol.messages import Ack, Alive, Array, Bye, ExpMessage, ExpStatus, Notice, Probe, Request
from rigsync.protocol.outputs import Outputs
from rigsync.protocol.ownership import Ownership, Sender

_SOURCES_REPORTED = 256
"""Hosts whose violations are reported one by one; under a flood of forged addresses the rest are counted only."""
QUERIES = 8
"""Messages outside the lifecycle whose handlers run at the same time: each coordinator has one outstanding at most."""
WAITING = 256
"""Messages that may wait for their turn; more are refused, so that a flood takes neither memory nor threads."""
INTERRUPT_PATIENCE = 5.0
"""Seconds after which a handler of EXPINTERRUPT counts as hanging, and another EXPINTERRUPT overtakes it."""
LEASE = 300.0
"""Seconds of an owner's silence after which a rig interrupts: longer than a computer takes to start again."""
LEAD = 0.02
"""Seconds before an instant at which its handlers are handed over, so that a fine timer can wait for the rest."""
_SLACK = 60.0
"""Seconds beyond, at the rig, for a message that is long under way and a clock that is not known well."""


@dataclass(slots=True, eq=False)
class Task:
    """One message on its way through the rig."""

    number: int
    event: ExpMessage
    args: list[Any]
    source: Address | None
    """Where it came from; None for the rig's own EXPINTERRUPT."""
    sender: Sender | None
    record: Record | None
    """Where the answer is kept for repeats; None in the iblutil dialect, which has none."""
    silent: bool = False
    """An iblutil coordinator that hands over a token takes an answer for a wrong echo."""
    leads_to: ExpStatus | None = None
    names: str | None = None
    ack_due: float = math.inf
    started: float = 0.0
    schedule: Schedule | None = None
    """The instant at which to act; None for at once, or once that has come."""
    takes_over: bool = False
    """Whether it asks for an experiment that goes on: it is told what became of that one."""
    claimed_from: Ownership | None = None
    """Where it makes its sender the owner: how it was before."""
    reason: str | None = None
    """Why the rig itself acts."""


@dataclass(slots=True)
class Lane:
    """Lifecycle messages are handled one after the other; EXPINTERRUPT clears the lane."""

    running: Task | None = None
    waiting: deque[Task] = field(default_factory=deque)


class Responder(Outputs[Address]):
    """The rig's core.

    Datagrams, time and the outcomes of handlers go in; `take_datagrams` and `take_events` give what comes out;
    `next_timer` says when `handle_timer` is due.

    Parameters
    ----------
    identity : Identity
        What the rig says of itself.
    handled : collection of ExpMessage
        The messages that have handlers; may change later. The others are answered at once.
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
    """

    def __init__(
        self,
        identity: Identity,
        handled: Collection[ExpMessage],
        timing: Timing,
        boot: str,
        stamps: StampClock,
        lease: float = LEASE,
        room: Room = DATAGRAM_ROOM,
    ):
        super().__init__()
        self.identity, self._handled, self._timing = identity, handled, timing
        self._boot, self._stamps, self._room = boot, stamps, room
        self._coordinators = Coordinators(timing, Random(int(boot, 16)))
        self._ownership = Ownership(lease)
        self._notices = 0
        self._tasks: dict[int, Task] = {}
        self._lane = Lane()
        self._querying: set[int] = set()
        self._queries: deque[Task] = deque()
        self._timed: list[Task] = []  # that wait for their instant, and are not handed over yet
        self._beginning = False
        self._numbers = 0
        self._answers: dict[ExpMessage, list[Any]] = {}
        self._reported: set[tuple[str, str]] = set()
        self._timer = math.inf
        self.status = ExpStatus.CONNECTED
        self.exp_ref: str | None = None
        self.violations: dict[str, int] = {}

    # ------------------------------------------------------------------------------------------------ outside

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        """Take in a datagram from a coordinator at monotonic `now` (s)."""
        try:
            frame = messages.decode(data)
            if isinstance(frame, Array):
                self._receive_array(frame, data, source, now)
            elif isinstance(frame, Probe):
                self._see(frame, source, now)
                owner = self._ownership.owner
                self._coordinators.watch(frame.boot, now, certainly=owner is not None and owner.boot == frame.boot)
                # As long as a padded probe, and never longer: no forged sender can have more sent than it has sent.
                self._send(source, self._alive(frame, now, 0 if frame.pad is None else len(data)))
            elif isinstance(frame, Request):
                self._receive_request(frame, source, now)
            elif isinstance(frame, Ack):
                if self._coordinators.acknowledge(frame.boot, frame.n, source, now):
                    self._see(frame, source, now)
            elif isinstance(frame, Bye):
                self._receive_bye(frame, source, now)
            else:
                raise RemoteProtocolError("stray frame", f"a {type(frame).__name__.lower()} came to a rig")
        except RemoteProtocolError as error:
            self._report(source, error)

    def report_violation(self, source: Address, error: RemoteProtocolError) -> None:
        """Take note that what came from `source` cannot be a message."""
        self._report(source, error)

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
        if task := self._tasks.get(number):
            task.started = task.started if started is None else started
            self._succeed(task, returned, now)

    def fail(self, number: int, error: str, message: str, traceback: str, now: float) -> None:
        """Settle a task whose handlers have failed with an exception of type `error`."""
        if task := self._tasks.get(number):
            if task.event is ExpMessage.EXPINTERRUPT and task.leads_to is not None:
                self._enter(task.leads_to, self.exp_ref, task.reason, now)
            self._finish_failure(task, error, message, traceback, now)

    def is_open(self, number: int) -> bool:
        """Whether the outcome of a task's handlers still matters. Safe to call from any thread."""
        return number in self._tasks

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`: acknowledge, act, tell again, give up missing echoes, and owners that are gone."""
        for task in self._tasks.values():
            if now >= task.ack_due:
                task.ack_due = math.inf
                self._acknowledge(task)
        for source, lane, answer in self._coordinators.expire_echoes(now):
            self._events.append(EchoMissing(text_of(source), answer))
            self._send_next(source, lane, now)
        for coordinator in self._coordinators.due(now):
            self._send_notices(coordinator, now)
        if now >= self._ownership.expires():
            self._expire_lease(now)
        for task in [task for task in self._timed if now >= _hand_over_at(task)]:
            self._hand_over(task)
        self._timer = min(
            self._coordinators.next_timer(),
            self._ownership.expires(),
            min((_hand_over_at(task) for task in self._timed), default=math.inf),
            min((task.ack_due for task in self._tasks.values()), default=math.inf),
        )

    def next_timer(self) -> float:
        """Return when, in monotonic seconds, `handle_timer` is due; it may be called too early without harm."""
        return self._timer

    def notify(self, topic: str, key: str | None, body: Any, confirm: bool, now: float) -> None:
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

        Raises
        ------
        PayloadTooLarge
            No datagram can carry it.
        """
        self._notices += 1
        frame = messages.notice(Notice(self._boot, self._notices, topic, key, body, confirm), self._room)
        if not confirm:
            for address in self._coordinators.watching(now):
                self._send(address, frame)
            return
        for coordinator in self._coordinators.file_notice(self._notices, frame, now):
            self._send_notices(coordinator, now)

    def farewell(self, now: float) -> None:
        """Tell the coordinators that probe this rig that it is closing."""
        for address in self._coordinators.watching(now):
            self._send(address, messages.bye(self._boot, 0, "the rig is closing"))

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
                self.identity.name,
                self.status,
                self.exp_ref,
                self.identity.version,
                self._ownership.host,
            ),
            size,
        )

    def _see(self, frame: messages.Frame, source: Address, now: float) -> Coordinator:
        coordinator = self._coordinators.seen(frame.boot, source, now)
        self._ownership.heard(frame.boot, now)
        self._send_notices(coordinator, now)
        return coordinator

    def _send_notices(self, coordinator: Coordinator, now: float) -> None:
        if coordinator.address is None or now < coordinator.notices.due:
            return
        self._send(coordinator.address, coordinator.notices.send(now))
        self._timer = min(self._timer, coordinator.notices.due)
        if coordinator.notices.overflowed and not coordinator.told_overflow:
            coordinator.told_overflow = True
            self._events.append(NoticesDropped(text_of(coordinator.address)))

    def _receive_bye(self, frame: Bye, source: Address, now: float) -> None:
        if not self._coordinators.leave(frame.boot, source):
            return
        self._ownership.heard(frame.boot, now)
        self._ownership.leave(frame.boot)
        for task in list(self._tasks.values()):
            if task.sender and task.sender.boot == frame.boot:
                self._call_off(task, "the coordinator that asked for it has closed", now)

    def _receive_request(self, frame: Request, source: Address, now: float) -> None:
        coordinator = self._see(frame, source, now)
        if coordinator.has_left:
            self._count("request after its coordinator's goodbye")  # from another socket, and so by another way
            return
        record = coordinator.records.get(frame.n)
        if record:  # a repeat: never run twice
            record.source = source
            self._send(source, record.frame or messages.ack(self._boot, frame.n))
            return
        if frame.n <= coordinator.highest:
            # The coordinator has finished with it, or it would not have sent a later one; to run it now, after what
            # was asked since, would be worse than to lose it.
            self._count("overtaken request")
            return
        if frame.to not in (None, self._boot):
            # Meant for the process before this one, which may have run it. Nothing is filed: it was never accepted.
            problem = "the rig's program was started anew since; this one does not run it"
            self._send(source, messages.failure(self._boot, frame.n, "RigRestarted", problem, ""))
            return
        record = coordinator.open_record(frame.n, source)
        task = self._new_task(frame.event, frame.args, source, Sender(source[0], frame.boot), record)
        task.ack_due = now + self._timing.ack_delay
        if frame.at is not None and task.event is not ExpMessage.EXPINTERRUPT:
            instant = self._stamps.instant(frame.at)
            if instant - now > MOST_AHEAD + _SLACK:
                problem = f"{task.event.name} was to act {instant - now:.0f} s from now; at most {MOST_AHEAD:.0f} s"
                self._finish_failure(task, "ValueError", problem, "", now)
                return
            task.schedule = Schedule(instant)
        self._accept(task, now)
        if task.number in self._tasks:
            if task.schedule and now < task.schedule.instant:
                task.ack_due = math.inf
                self._acknowledge(task)
            self._timer = min(self._timer, task.ack_due)

    def _acknowledge(self, task: Task) -> None:
        if task.record:
            self._send(task.record.source, messages.ack(self._boot, task.record.n))

    # --------------------------------------------------------------------------------------- iblutil dialect

    def _receive_array(self, message: Array, data: bytes, source: Address, now: float) -> None:
        lane = self._coordinators.lane(source)
        if messages.has_mark(data, messages.RIG_MARK):
            if lane.awaited and lane.awaited[1] == data:
                lane.awaited = None
                self._send_next(source, lane, now)
            return
        if message.event == messages.NULL_MESSAGE:
            text, event = message.args
            raise RemoteProtocolError("remote error", f"the coordinator's callback for {event.name} failed: {text}")
        hands_over_token = message.event is ExpMessage.ALYX and len(message.args) > 1 and all(message.args)
        if lane.repeats(data, now) and (hands_over_token or self._is_busy_with(source, lane)):
            self._count("repeated message")
            return
        if not lane.guard.allows(data, now):
            raise RemoteProtocolError("echo loop", "the same message comes over and over")
        self._send(source, data)
        task = self._new_task(message.event, message.args, source, Sender(source[0], None), None)
        task.silent = hands_over_token
        self._accept(task, now)

    def _is_busy_with(self, source: Address, lane: EchoLane) -> bool:
        """Tell whether an iblutil coordinator still waits for an answer, or has yet to confirm one."""
        if lane.awaited or lane.answers:
            return True
        return any(task.record is None and task.source == source for task in self._tasks.values())

    def _send_next(self, source: Address, lane: EchoLane, now: float) -> None:
        if lane.awaited is None and lane.answers:
            lane.awaited = lane.answers.popleft()
            lane.until = now + self._timing.echo_timeout
            self._timer = min(self._timer, lane.until)
            self._send(source, lane.awaited[1])

    # ------------------------------------------------------------------------------------------------ acting

    def _new_task(
        self, event: ExpMessage, args: list[Any], source: Address | None, sender: Sender | None, record: Record | None
    ) -> Task:
        self._numbers += 1
        task = Task(self._numbers, event, args, source, sender, record)
        self._tasks[task.number] = task
        return task

    def _accept(self, task: Task, now: float) -> None:
        if task.event in (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT) and self._may_command(task):
            self._call_off_later(task, now)
        if task.event not in LIFECYCLE_MESSAGES:
            self._query(task, now)
        elif task.event is ExpMessage.EXPINTERRUPT and (self._lane.running or self._lane.waiting):
            self._interrupt(task, now)
        elif self._lane.running:
            self._enqueue(self._lane.waiting, task, now)
        else:
            self._begin(task, now)

    def _may_command(self, task: Task) -> bool:
        if task.event is ExpMessage.EXPINTERRUPT or task.sender is None:
            return True
        return self._ownership.allows(task.sender)

    def _call_off_later(self, task: Task, now: float) -> None:
        """Call off what waits for an instant after that of an EXPEND or EXPINTERRUPT."""
        # What waits behind it must not begin in between: EXPINTERRUPT overtakes that, too.
        held, self._beginning = self._beginning, True
        for other in list(self._tasks.values()):
            is_before = task.schedule and other.schedule and other.schedule.instant < task.schedule.instant
            if other is not task and not is_before:
                self._call_off(other, f"{task.event.name} came before its instant", now)
        self._beginning = held

    def _call_off(self, task: Task, why: str, now: float) -> None:
        """End a task that waits for its instant; nothing, if that has come."""
        if task.number in self._tasks and task.schedule and task.schedule.take():
            self._finish_failure(task, "Cancelled", f"{task.event.name} was not run: {why}", "", now)

    def _query(self, task: Task, now: float) -> None:
        if task.event is ExpMessage.ALYX and not self._may_command(task):
            self._finish_failure(task, "BusyError", self._busy(task), "", now)
        elif task.event not in self._handled or len(self._querying) < QUERIES:
            self._querying.add(task.number)
            self._run(task, now)
        else:
            self._enqueue(self._queries, task, now)

    def _enqueue(self, waiting: deque[Task], task: Task, now: float) -> None:
        if len(waiting) < WAITING:
            waiting.append(task)
        else:
            self._finish_failure(task, "Busy", f"{WAITING} messages are waiting already; look at the rig", "", now)

    def _interrupt(self, task: Task, now: float) -> None:
        running, waiting, self._lane.waiting = self._lane.running, self._lane.waiting, deque()
        hangs = running is not None and now - running.started >= INTERRUPT_PATIENCE
        if running and running.event is ExpMessage.EXPINTERRUPT and not hangs:
            self._lane.waiting = deque(other for other in waiting if other.event is ExpMessage.EXPINTERRUPT)
            self._lane.waiting.append(task)
        else:
            task.leads_to = ExpStatus.STOPPED  # whatever the table says: something was under way
            self._lane.running = task
            if running:
                self._events.append(HandlerOvertaken(running.number, running.event))
                waiting.appendleft(running)
        for other in waiting:
            if other not in self._lane.waiting:
                self._finish_failure(other, "Interrupted", f"EXPINTERRUPT overtook {other.event.name}", "", now)
        if self._lane.running is task:
            self._run(task, now)

    def _begin(self, task: Task, now: float) -> None:
        try:
            task.names = named_reference(task.event, task.args)
            # Where the rig has no reference there is nothing to take over: an EXPINIT like any other.
            task.takes_over = takes_over(task.event, task.args) and self.exp_ref is not None
        except ValueError as error:
            self._finish_failure(task, "ValueError", str(error), "", now)
            return
        if not task.takes_over and not self._may_command(task):
            self._finish_failure(task, "BusyError", self._busy(task), "", now)
            return
        decision = decide(self.status, task.event, self.exp_ref, task.names, task.takes_over)
        if decision.refusal:
            self._finish_failure(task, "StateError", decision.refusal, "", now)
            return
        if task.event in (ExpMessage.EXPINIT, ExpMessage.EXPSTART) and task.sender:
            self._claim(task, task.sender, now)
        if decision.no_op:
            self._succeed(task, None, now)
        else:
            task.leads_to = decision.status
            self._occupy(task, now)

    def _claim(self, task: Task, sender: Sender, now: float) -> None:
        if not self._ownership.is_led_by(sender):
            task.claimed_from = copy(self._ownership)
            self._ownership.claim(sender, now)
            self._timer = min(self._timer, self._ownership.expires())
            if sender.boot:
                self._coordinators.watch(sender.boot, now, certainly=True)

    def _busy(self, task: Task) -> str:
        experiment = self.exp_ref or "an experiment without a reference"
        return (
            f"{task.event.name} refused: the coordinator on {self._ownership.host} is in charge of {experiment} "
            f"({self.status.name}); close it there, or take the experiment over with EXPINIT, exp_ref and takeover: "
            "true, or stop it with EXPINTERRUPT"
        )

    def _expire_lease(self, now: float) -> None:
        owner = self._ownership.owner
        self._ownership.release()
        if owner is None or (self.status not in (ExpStatus.INITIALIZED, ExpStatus.RUNNING) and not self._lane.running):
            return
        reason = (
            f"the coordinator on {owner.host}, which was in charge of {self.exp_ref or 'the experiment'}, has been "
            f"silent for the lease of {self._ownership.lease:g} s"
        )
        self._events.append(LeaseExpired(owner.host, self.exp_ref, reason))
        task = self._new_task(ExpMessage.EXPINTERRUPT, [{"reason": reason}], None, None, None)
        task.reason, task.silent = reason, True
        self._accept(task, now)

    def _occupy(self, task: Task, now: float) -> None:
        self._lane.running = task
        self._run(task, now)

    def _run(self, task: Task, now: float) -> None:
        task.started = now
        if task.schedule:
            self._timed.append(task)
            if now >= _hand_over_at(task):
                self._hand_over(task)
            else:
                self._timer = min(self._timer, _hand_over_at(task))
        elif task.event in self._handled:
            self._events.append(HandlerDue(task.number, task.event, task.args))
        else:
            self._succeed(task, None, now)

    def _hand_over(self, task: Task) -> None:
        # Also where there is no handler: the instant is waited for, and told, in one place.
        self._timed.remove(task)
        self._events.append(HandlerDue(task.number, task.event, task.args, task.schedule))

    def _succeed(self, task: Task, returned: Any, now: float) -> None:
        status, exp_ref = self.status, self.exp_ref
        if task.leads_to is not None:
            status, exp_ref = task.leads_to, self._reference_after(task)
        is_repeat = task.event in LIFECYCLE_MESSAGES and task.leads_to is None and not task.takes_over
        repeated = self._answers.get(task.event) if is_repeat else None
        try:
            args = repeated if repeated is not None else self._answer(task.event, status, exp_ref, returned)
            message = encode(task.event, args, self._room)
        except (PayloadError, PayloadTooLarge, TypeError) as error:
            problem = f"the handlers' result cannot be sent: {error}"
            self.fail(task.number, type(error).__name__, problem, "", now)
            return
        if task.leads_to is not None:
            if task.event is ExpMessage.EXPINIT or status is ExpStatus.CONNECTED:
                self._answers.clear()  # another experiment, or none
            self._answers[task.event] = args
            self._enter(status, exp_ref, task.reason, now)
        if task.record:
            started, finished = self._stamps.stamp(task.started or now), self._stamps.stamp(now)
            self._store(task.record, messages.reply(self._boot, task.record.n, message, started, finished))
        elif task.source and not task.silent:
            lane = self._coordinators.lane(task.source)
            lane.answers.append((task.event, messages.array(message, messages.RIG_MARK)))
            self._send_next(task.source, lane, now)
        self._finish(task, None, now)

    def _reference_after(self, task: Task) -> str | None:
        if task.event is ExpMessage.EXPINIT:
            return task.names
        if task.event is ExpMessage.EXPSTART:
            return self.exp_ref or task.names
        return None if task.leads_to is ExpStatus.CONNECTED else self.exp_ref

    def _answer(self, event: ExpMessage, status: ExpStatus, exp_ref: str | None, returned: Any) -> list[Any]:
        if event is ExpMessage.ALYX:
            if isinstance(returned, (list, tuple)) and len(returned) == 2:
                return [to_plain(part, "the result", self._room) for part in returned]
            return [to_plain(part, "the result", self._room) for part in token_arguments(returned)]
        if returned is not None and not isinstance(returned, Mapping):
            raise TypeError(f"a handler returns a dict or None, not {type(returned).__name__}")
        plain = to_plain(dict(returned or {}), "the result", self._room)
        return answer_arguments(event, status, exp_ref, experiment_information(self.identity, status, exp_ref, plain))

    def _finish_failure(self, task: Task, error: str, message: str, traceback: str, now: float) -> None:
        if task.claimed_from and task.sender and self._ownership.is_led_by(task.sender):
            self._ownership = task.claimed_from
        if task.record:
            self._store(task.record, messages.failure(self._boot, task.record.n, error, message, traceback))
        elif task.source:
            self._send(task.source, messages.error_array(error, message, task.event))
        self._finish(task, f"{error}: {message}", now)

    def _store(self, record: Record, frame: bytes) -> None:
        record.keep(frame)
        self._send(record.source, frame)

    def _finish(self, task: Task, error: str | None, now: float) -> None:
        del self._tasks[task.number]
        for waiting in (self._timed, self._lane.waiting, self._queries):
            if task in waiting:
                waiting.remove(task)
        source = text_of(task.source) if task.source else "the rig itself"
        self._events.append(MessageHandled(source, task.event, error))
        self._tell_others(task, source, error, now)
        self._querying.discard(task.number)
        if self._lane.running is task:
            self._lane.running = None
        self._begin_waiting(now)

    def _tell_others(self, task: Task, source: str, error: str | None, now: float) -> None:
        others = self._coordinators.watching(now, except_for=task.sender.boot if task.sender else None)
        if others:
            body = {"message": task.event.name, "from": source, "error": error and messages.one_line(error)}
            self._notices += 1
            frame = messages.notice(Notice(self._boot, self._notices, "log", "message", body, confirm=False))
            for address in others:
                self._send(address, frame)

    def _begin_waiting(self, now: float) -> None:
        # What has no handler is finished in here and comes back in: a loop, for a full queue is deeper than the stack.
        if self._beginning:
            return
        self._beginning = True
        try:
            while self._queries and len(self._querying) < QUERIES:
                self._query(self._queries.popleft(), now)
            while self._lane.waiting and not self._lane.running:
                self._begin(self._lane.waiting.popleft(), now)
        finally:
            self._beginning = False

    def _enter(self, status: ExpStatus, exp_ref: str | None, reason: str | None, now: float) -> None:
        if status is ExpStatus.CONNECTED:
            self._ownership.release()
        elif status is ExpStatus.STOPPED:
            self._ownership.ended()
        if (status, exp_ref) != (self.status, self.exp_ref):
            self._events.append(StatusChanged(self.status, status, exp_ref, reason))
            self.status, self.exp_ref = status, exp_ref
            self.notify("status", None, {"status": status.name, "exp_ref": exp_ref, "reason": reason}, True, now)

    # ---------------------------------------------------------------------------------------------- counting

    def _count(self, kind: str) -> int:
        self.violations[kind] = self.violations.get(kind, 0) + 1
        return self.violations[kind]

    def _report(self, source: Address, error: RemoteProtocolError) -> None:
        self._count(error.kind)
        key = (source[0], error.kind)
        if key not in self._reported and len(self._reported) < _SOURCES_REPORTED:
            self._reported.add(key)
            self._events.append(ViolationSeen(text_of(source), error.kind, str(error)))

    def _send(self, destination: Address, data: bytes) -> None:
        self._outbox.append((destination, data))


def _hand_over_at(task: Task) -> float:
    return task.schedule.instant - LEAD if task.schedule else math.inf


def text_of(address: Address) -> str:
    """Return a socket address as host and port."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
