"""The rig's view of its coordinators: each request is run once, whatever the network does (PROTOCOL.md 1 to 4)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from rigsync.config import DATAGRAM_ROOM, Room, Timing
from rigsync.errors import PayloadError, PayloadTooLarge, RemoteProtocolError
from rigsync.protocol import messages
from rigsync.protocol.answers import Identity, answer_arguments, experiment_information
from rigsync.protocol.arguments import encode, to_plain, token_arguments
from rigsync.protocol.clock import StampClock
from rigsync.protocol.coordinators import Address, Coordinators, EchoLane, Record
from rigsync.protocol.events import (
    EchoMissing,
    HandlerDue,
    HandlerOvertaken,
    MessageHandled,
    StatusChanged,
    ViolationSeen,
)
from rigsync.protocol.lifecycle import LIFECYCLE_MESSAGES, decide, named_reference
from rigsync.protocol.messages import Alive, Array, Bye, ExpMessage, ExpStatus, Probe, Request
from rigsync.protocol.outputs import Outputs

_SOURCES_REPORTED = 256
"""Hosts whose violations are reported one by one; under a flood of forged addresses the rest are counted only."""
QUERIES = 8
"""Messages outside the lifecycle whose handlers run at the same time: each coordinator has one outstanding at most."""
WAITING = 256
"""Messages that may wait for their turn; more are refused, so that a flood takes neither memory nor threads."""
INTERRUPT_PATIENCE = 5.0
"""Seconds after which a handler of EXPINTERRUPT counts as hanging, and another EXPINTERRUPT overtakes it."""


@dataclass(slots=True, eq=False)
class Task:
    """One message on its way through the rig."""

    number: int
    event: ExpMessage
    args: list[Any]
    source: Address
    record: Record | None
    """Where the answer is kept for repeats; None in the iblutil dialect, which has none."""
    silent: bool = False
    """An iblutil coordinator that hands over a token takes an answer for a wrong echo."""
    leads_to: ExpStatus | None = None
    names: str | None = None
    ack_due: float = math.inf
    started: float = 0.0


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
        room: Room = DATAGRAM_ROOM,
    ):
        super().__init__()
        self.identity, self._handled, self._timing = identity, handled, timing
        self._boot, self._stamps, self._room = boot, stamps, room
        self._coordinators = Coordinators(timing)
        self._tasks: dict[int, Task] = {}
        self._lane = Lane()
        self._querying: set[int] = set()
        self._queries: deque[Task] = deque()
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
                self._coordinators.seen(frame.boot, source, now)
                self._send(source, self._alive(frame, now))
            elif isinstance(frame, Request):
                self._receive_request(frame, source, now)
            elif isinstance(frame, Bye):
                self._coordinators.leave(frame.boot, source)
            elif not isinstance(frame, messages.Ack):
                raise RemoteProtocolError("stray frame", f"a {type(frame).__name__.lower()} came to a rig")
        except RemoteProtocolError as error:
            self._report(source, error)

    def report_violation(self, source: Address, error: RemoteProtocolError) -> None:
        """Take note that what came from `source` cannot be a message."""
        self._report(source, error)

    def respond(self, number: int, returned: Any, now: float) -> None:
        """Settle a task whose handlers have succeeded and returned `returned`."""
        if task := self._tasks.get(number):
            self._succeed(task, returned, now)

    def fail(self, number: int, error: str, message: str, traceback: str, now: float) -> None:
        """Settle a task whose handlers have failed with an exception of type `error`."""
        if task := self._tasks.get(number):
            if task.event is ExpMessage.EXPINTERRUPT and task.leads_to is not None:
                self._enter(task.leads_to, self.exp_ref)
            self._finish_failure(task, error, message, traceback, now)

    def is_open(self, number: int) -> bool:
        """Whether the outcome of a task's handlers still matters. Safe to call from any thread."""
        return number in self._tasks

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`: acknowledge what takes long, give up missing echoes."""
        for task in self._tasks.values():
            if now >= task.ack_due:
                task.ack_due = math.inf
                self._acknowledge(task)
        for source, lane, answer in self._coordinators.expire_echoes(now):
            self._events.append(EchoMissing(text_of(source), answer))
            self._send_next(source, lane, now)
        self._timer = min(
            self._coordinators.next_timer(),
            min((task.ack_due for task in self._tasks.values()), default=math.inf),
        )

    def next_timer(self) -> float:
        """Return when, in monotonic seconds, `handle_timer` is due; it may be called too early without harm."""
        return self._timer

    def farewell(self, now: float) -> None:
        """Tell the coordinators that probe this rig that it is closing."""
        for address in self._coordinators.watching(now):
            self._send(address, messages.bye(self._boot, 0, "the rig is closing"))

    # --------------------------------------------------------------------------------------- rigsync dialect

    def _alive(self, probe: Probe, now: float) -> bytes:
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
            )
        )

    def _receive_request(self, frame: Request, source: Address, now: float) -> None:
        coordinator = self._coordinators.seen(frame.boot, source, now)
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
        record = coordinator.open_record(frame.n, source)
        task = self._new_task(frame.event, frame.args, source, record)
        task.ack_due = now + self._timing.ack_delay
        if frame.at is not None:
            self._finish_failure(
                task, "NotSupported", "this rig cannot act at a given instant; update rigsync on it", "", now
            )
        else:
            self._accept(task, now)
        if task.number in self._tasks:
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
        task = self._new_task(message.event, message.args, source, None)
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

    def _new_task(self, event: ExpMessage, args: list[Any], source: Address, record: Record | None) -> Task:
        self._numbers += 1
        task = Task(self._numbers, event, args, source, record)
        self._tasks[task.number] = task
        return task

    def _accept(self, task: Task, now: float) -> None:
        if task.event not in LIFECYCLE_MESSAGES:
            self._query(task, now)
        elif task.event is ExpMessage.EXPINTERRUPT and self._lane.running:
            self._interrupt(task, self._lane.running, now)
        elif self._lane.running:
            self._enqueue(self._lane.waiting, task, now)
        else:
            self._begin(task, now)

    def _query(self, task: Task, now: float) -> None:
        if task.event not in self._handled or len(self._querying) < QUERIES:
            self._querying.add(task.number)
            self._run(task, now)
        else:
            self._enqueue(self._queries, task, now)

    def _enqueue(self, waiting: deque[Task], task: Task, now: float) -> None:
        if len(waiting) < WAITING:
            waiting.append(task)
        else:
            self._finish_failure(task, "Busy", f"{WAITING} messages are waiting already; look at the rig", "", now)

    def _interrupt(self, task: Task, running: Task, now: float) -> None:
        waiting, self._lane.waiting = self._lane.waiting, deque()
        hangs = now - running.started >= INTERRUPT_PATIENCE
        if running.event is ExpMessage.EXPINTERRUPT and not hangs:
            self._lane.waiting = deque(other for other in waiting if other.event is ExpMessage.EXPINTERRUPT)
            self._lane.waiting.append(task)
        else:
            task.leads_to = ExpStatus.STOPPED  # whatever the table says: something was under way
            self._lane.running = task
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
        except ValueError as error:
            self._finish_failure(task, "ValueError", str(error), "", now)
            return
        decision = decide(self.status, task.event, self.exp_ref, task.names)
        if decision.refusal:
            self._finish_failure(task, "StateError", decision.refusal, "", now)
        elif decision.no_op:
            self._succeed(task, None, now)
        else:
            task.leads_to = decision.status
            self._occupy(task, now)

    def _occupy(self, task: Task, now: float) -> None:
        self._lane.running = task
        self._run(task, now)

    def _run(self, task: Task, now: float) -> None:
        task.started = now
        if task.event in self._handled:
            self._events.append(HandlerDue(task.number, task.event, task.args))
        else:
            self._succeed(task, None, now)

    def _succeed(self, task: Task, returned: Any, now: float) -> None:
        status, exp_ref = self.status, self.exp_ref
        if task.leads_to is not None:
            status, exp_ref = task.leads_to, self._reference_after(task)
        repeated = self._answers.get(task.event) if task.event in LIFECYCLE_MESSAGES and task.leads_to is None else None
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
            self._enter(status, exp_ref)
        if task.record:
            started, finished = self._stamps.stamp(task.started or now), self._stamps.stamp(now)
            self._store(task.record, messages.reply(self._boot, task.record.n, message, started, finished))
        elif not task.silent:
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
        if task.record:
            self._store(task.record, messages.failure(self._boot, task.record.n, error, message, traceback))
        else:
            self._send(task.source, messages.error_array(error, message, task.event))
        self._finish(task, f"{error}: {message}", now)

    def _store(self, record: Record, frame: bytes) -> None:
        record.keep(frame)
        self._send(record.source, frame)

    def _finish(self, task: Task, error: str | None, now: float) -> None:
        del self._tasks[task.number]
        self._events.append(MessageHandled(text_of(task.source), task.event, error))
        self._querying.discard(task.number)
        if self._lane.running is task:
            self._lane.running = None
        self._begin_waiting(now)

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

    def _enter(self, status: ExpStatus, exp_ref: str | None) -> None:
        if (status, exp_ref) != (self.status, self.exp_ref):
            self._events.append(StatusChanged(self.status, status, exp_ref))
            self.status, self.exp_ref = status, exp_ref

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


def text_of(address: Address) -> str:
    """Return a socket address as host and port."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
