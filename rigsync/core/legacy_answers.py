"""What a rig tells coordinators of the iblutil dialect: one answer at a time to each (docs/protocol.md 1)."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rigsync.core import legacy
from rigsync.core.agenda import Agenda, Problem
from rigsync.core.coordinators import COORDINATORS, LOOKED_AT, Address
from rigsync.core.enums import ExpMessage
from rigsync.core.legacy import Array, EchoGuard
from rigsync.core.messages import Message, Verb
from rigsync.core.ownership import Sender
from rigsync.core.queries import WAITING_BYTES, Task
from rigsync.core.reach import Allowance, Reach
from rigsync.core.stream import room_of
from rigsync.errors import RemoteProtocolError

REPEAT_WINDOW = 0.5
"""Seconds: copies and echoes of one datagram come within a round trip; iblutil awaits its echo for 1 s."""
WAITING_ANSWERS = 64
"""Answers that may wait for an iblutil coordinator's echoes; it has one request outstanding as a rule."""
ALL_WAITING_BYTES = 4 << 20
"""Bytes of answers that wait for echoes of all coordinators; twice as many for the one in charge."""
ALL_WITHHELD_BYTES = 1 << 18
"""Bytes of answers whose hosts have not shown that they receive, and that may not leave yet: what may leave in 16 s."""


@dataclass(slots=True)
class Lane:
    """The way to one coordinator: the next answer leaves when the echo of the last is back."""

    guard: EchoGuard = field(default_factory=EchoGuard)
    answers: deque[tuple[Verb, bytes]] = field(default_factory=deque)
    awaited: tuple[Verb, bytes] | None = None
    until: float = math.inf
    last: int | None = None
    """Hash of the last message: by Python, which knows it from then on; hashlib takes a tenth of a second for 59 MB."""
    last_at: float = -math.inf

    def repeats(self, data: bytes, now: float) -> bool:
        """Take note of a message, and tell whether it is the last one again, too soon to be meant.

        The network has doubled it; or the coordinator, which takes a second echo for a message, echoes that.
        """
        known = hash(data)
        again = known == self.last and now - self.last_at < REPEAT_WINDOW
        self.last, self.last_at = known, now
        return again

    @property
    def size(self) -> int:
        return sum(len(answer) for _, answer in self.answers)


class ArrayAnswers:
    """The messages of all such coordinators, and the answers that wait for an echo, or may not leave yet.

    A coordinator shows that it receives by the echo of a whole answer, which has to leave first. Until it has, its
    answers come out of an `Allowance`.
    """

    def __init__(
        self,
        agenda: Agenda,
        reach: Reach,
        echo_timeout: float,
        outbox: list[tuple[Address, bytes]],
        violations: Counter[str],
    ):
        self._agenda, self._reach, self._echo_timeout = agenda, reach, echo_timeout
        self._outbox, self._violations = outbox, violations
        self._lanes: OrderedDict[Address, Lane] = OrderedDict()
        self._withheld: OrderedDict[Address, Lane] = OrderedDict()
        self._common, self._own = Allowance(), Allowance()  # of the one in charge, which no flood can delay
        self._waiting = 0
        """Bytes of all answers that wait, or whose echo is awaited."""
        self._echo_due = self._retry_at = math.inf

    def receive(self, message: Array, data: bytes, source: Address, now: float) -> None:
        lane = self._lane(source)
        if legacy.has_mark(data, legacy.RIG_MARK):
            if not self._reach.has_shown(source[0]) and data[:-2].endswith(self._reach.blanks(source[0])):
                self._reach.show(source[0])
                self._retry(now)
            if lane.awaited and lane.awaited[1] == data:
                self._finish(lane)
                self._send_next(source, lane, now)
            return
        if message.event == legacy.NULL_MESSAGE:
            text, event = message.args
            raise RemoteProtocolError("remote error", f"the coordinator's callback for {event.name} failed: {text}")
        hands_over_token = message.event is ExpMessage.ALYX and len(message.args) > 1 and all(message.args)
        if lane.repeats(data, now) and (hands_over_token or self._is_busy_with(source, lane)):
            self._violations["repeated message"] += 1
            return
        if not lane.guard.allows(data, now):
            raise RemoteProtocolError("echo loop", "the same message comes over and over")
        self._send(source, data, now)
        args = _unwrapped(message, data)
        size = room_of(data, WAITING_BYTES)
        task = Task(message.event, args, source, Sender(source[0], None), None, size, silent=hands_over_token)
        self._agenda.accept(task, now)

    def answer(self, task: Task, source: Address, message: Message, now: float) -> None:
        shown = b"" if self._reach.has_shown(source[0]) else self._reach.blanks(source[0])
        answer = legacy.array(message, shown + legacy.RIG_MARK)
        in_charge = task.sender is not None and self._agenda.ownership.is_led_by(task.sender)
        if self._has_room(len(answer), 2 * ALL_WAITING_BYTES if in_charge else ALL_WAITING_BYTES):
            self._add(source, task.event, answer, now)
            return
        self._violations["answer without room to wait in"] += 1
        problem = f"{task.event.name} was done, but too many answers of this rig wait for their echoes"
        self._send(source, legacy.error_array("Busy", problem, task.event), now)

    def answer_problem(self, task: Task, source: Address, problem: Problem, now: float) -> None:
        frame = legacy.error_array(problem.error, problem.message, task.event)
        if not self._send(source, frame, now) and self._has_room(len(frame), ALL_WAITING_BYTES):
            self._add(source, task.event, frame, now)

    def handle_timer(self, now: float) -> list[tuple[Address, Verb]]:
        """Do what is due at `now`; return where an echo is overdue, and of the answer to which message."""
        overdue = []
        if now >= self._echo_due:
            for source, lane in list(self._lanes.items()):
                if lane.awaited is not None and now >= lane.until:
                    overdue.append((source, lane.awaited[0]))
                    self._finish(lane)
                    self._send_next(source, lane, now)
            awaited = (lane.until for lane in self._lanes.values() if lane.awaited is not None)
            self._echo_due = min(awaited, default=math.inf)
        if now >= self._retry_at:
            self._retry(now)
        return overdue

    def next_timer(self) -> float:
        return min(self._echo_due, self._retry_at)

    # ------------------------------------------------------------------------------------------------- waiting

    def _lane(self, source: Address) -> Lane:
        lane = self._lanes.get(source)
        if lane is None:
            if len(self._lanes) >= COORDINATORS:
                oldest = list(islice(self._lanes.items(), LOOKED_AT))
                idle = (where for where, other in oldest if other.awaited is None and not other.answers)
                given_up = next(idle, oldest[0][0])
                self._clear(self._lanes.pop(given_up))
                self._withheld.pop(given_up, None)
            lane = self._lanes[source] = Lane()
        self._lanes.move_to_end(source)
        return lane

    def _is_busy_with(self, source: Address, lane: Lane) -> bool:
        if lane.awaited or lane.answers:
            return True
        return any(task.record is None and task.source == source for task in self._agenda.tasks.values())

    def _has_room(self, size: int, most: int) -> bool:
        """Whether an answer of so many bytes may wait for its echo; a single one always may."""
        return not self._waiting or self._waiting + size <= most

    def _add(self, source: Address, event: Verb, answer: bytes, now: float) -> None:
        """Have an answer wait for its turn, and give up the oldest beyond those that may."""
        lane = self._lane(source)
        lane.answers.append((event, answer))
        self._waiting += len(answer)
        if len(lane.answers) > WAITING_ANSWERS:
            self._waiting -= len(lane.answers.popleft()[1])
        self._send_next(source, lane, now)

    def _finish(self, lane: Lane) -> None:
        if lane.awaited is not None:
            self._waiting -= len(lane.awaited[1])
            lane.awaited = None

    def _clear(self, lane: Lane) -> None:
        self._finish(lane)
        self._waiting -= lane.size
        lane.answers.clear()

    def _withhold(self, source: Address, lane: Lane) -> None:
        """Hold back a coordinator's answers until they may leave, and give up the oldest where there are too many."""
        self._withheld[source] = lane
        self._withheld.move_to_end(source)
        while len(self._withheld) > 1 and sum(lane.size for lane in self._withheld.values()) > ALL_WITHHELD_BYTES:
            _, oldest = self._withheld.popitem(last=False)
            self._violations["answer given up, as it could not leave"] += len(oldest.answers)
            self._clear(oldest)

    # ------------------------------------------------------------------------------------------------- sending

    def _send_next(self, source: Address, lane: Lane, now: float) -> None:
        while lane.awaited is None and lane.answers:
            answer = lane.answers[0][1]
            if not self._send(source, answer, now):
                self._withhold(source, lane)
                self._retry_at = min(self._retry_at, self._allowance(source).when(len(answer)))
                return
            lane.awaited = lane.answers.popleft()
            if legacy.has_mark(answer, legacy.RIG_MARK):
                lane.until = now + self._echo_timeout
                self._echo_due = min(self._echo_due, lane.until)
            else:  # nobody echoes the reason of a refusal
                self._finish(lane)
        self._withheld.pop(source, None)

    def _retry(self, now: float) -> None:
        """Send withheld answers that may leave now; a smaller one does not overtake.

        The newest go first: who sends a flood comes before.
        """
        self._retry_at, is_spent = math.inf, False
        for source, lane in list(reversed(self._withheld.items())):
            is_common = self._allowance(source) is self._common
            if not is_spent or not is_common or self._reach.has_shown(source[0]):
                self._send_next(source, lane, now)
                is_spent = is_spent or (is_common and lane.awaited is None and bool(lane.answers))

    def _send(self, destination: Address, data: bytes, now: float) -> bool:
        size = len(data)
        if is_sent := self._reach.spend(destination[0], size) or self._allowance(destination).take(size, now):
            self._outbox.append((destination, data))
        else:
            self._violations["more than forged senders may have sent"] += 1
        return is_sent

    def _allowance(self, source: Address) -> Allowance:
        is_in_charge = self._agenda.ownership.is_led_by(Sender(source[0], None))
        return self._own if is_in_charge else self._common


def _unwrapped(message: Array, data: bytes) -> list[Any]:
    """Return a message's arguments in the one form that handlers know.

    iblrig's coordinator puts the data of EXPEND and EXPINTERRUPT into a list of one, or sends an empty list.
    """
    is_wrapped = message.event in (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT) and len(message.args) == 1
    if is_wrapped and isinstance(message.args[0], list) and not legacy.has_mark(data, legacy.COORDINATOR_MARK):
        (inner,) = message.args
        return [None] if not inner else inner if len(inner) == 1 else message.args
    return message.args
