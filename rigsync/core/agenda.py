"""What a rig does with the messages that it has accepted: whether, when, in what order (docs/protocol.md section 4)."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from rigsync._text import size_text
from rigsync.core.answers import Identity, answer_arguments, experiment_information
from rigsync.core.arguments import encode, to_plain, token_arguments
from rigsync.core.clock import MOST_AHEAD
from rigsync.core.coordinators import Address, Record
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import Event, HandlerDue, HandlerOvertaken, LeaseExpired, Schedule, StatusChanged
from rigsync.core.lifecycle import LIFECYCLE_MESSAGES, canonical_reference, decide, named_reference, takes_over
from rigsync.core.messages import Command, Message, Verb
from rigsync.core.ownership import Ownership, Sender
from rigsync.core.rigs import Room
from rigsync.errors import ENDED_BADLY, PayloadError, PayloadTooLarge, closest_first

QUERIES = 8
"""Messages outside the lifecycle whose handlers run at the same time: each coordinator has one outstanding at most."""
WAITING = 256
"""Messages that may wait for their turn, and as many for their instant. More are refused, so that a flood takes neither
memory nor threads. While a coordinator is in charge, all others together get half of each at most."""
WAITING_BYTES = 8 << 20
"""Bytes of all messages that wait, and that handlers work on for others than the one in charge. A larger one is there
alone."""
INTERRUPT_PATIENCE = 5.0
"""Seconds after which a handler of EXPINTERRUPT counts as hanging, and another EXPINTERRUPT overtakes it."""
REMEMBERED = 64
"""Experiments that a rig remembers. An EXPEND for one of them is no mistake, though it is over. An EXPEND for any other
was meant for the program before."""
LEAD = 0.02
"""Seconds before an instant at which its handlers are handed over, so that a fine timer can wait for the rest."""
_SLACK = 60.0
"""Seconds that a rig allows beyond that, for a message that was slow and a clock that is not known well."""


@dataclass(slots=True, eq=False)
class Task:
    """One message on its way through the rig."""

    event: Verb
    args: list[Any]
    source: Address | None
    """Where it came from; None for the rig's own EXPINTERRUPT."""
    sender: Sender | None
    record: Record | None
    """Where the answer is kept for repeats; None in the iblutil dialect, which has none."""
    size: int = 0
    """Most bytes that the message takes while it waits."""
    number: int = 0
    """Number by which whoever runs its handlers knows it; given when it is accepted."""
    silent: bool = False
    """Whether it gets no answer: an iblutil coordinator that hands over a token would take one for a wrong echo."""
    leads_to: ExpStatus | None = None
    names: str | None = None
    ack_due: float = math.inf
    """When to tell its sender that it has arrived, unless it is answered by then."""
    started: float = 0.0
    schedule: Schedule | None = None
    """The instant at which to act; None for at once."""
    takes_over: bool = False
    """Whether it asks for the experiment that goes on. Then its answer is what became of that one."""
    claimed_from: Ownership | None = None
    """The ownership before, where it makes its sender the owner."""
    reason: str | None = None
    """Why the rig itself acts."""
    of: str | None = None
    """Of an EXPEND, the experiment that it is to end, empty for one without a reference."""


@dataclass(slots=True)
class Lane:
    """Lifecycle messages, handled one after the other. EXPINTERRUPT clears the lane."""

    running: Task | None = None
    waiting: deque[Task] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a message was refused, or failed."""

    error: str
    """The type's name."""
    message: str
    traceback: str


class Agenda:
    """What is to be done on a rig: its status, whose experiment it is, and each message until it is settled.

    How messages come and are answered is for the `Responder`.

    Parameters
    ----------
    identity : Identity
        What the rig says of itself.
    handled : collection of ExpMessage and Command
        What has handlers; may change later. The other messages are settled at once, other commands are refused.
    lease : float
        Seconds of the owner's silence after which the rig interrupts; 0 for never.
    room : Room
        How large an answer may be.
    told : list of Event
        Where events are put.
    settled : callable
        Called once for each message with its task, its answer or its problem, and monotonic seconds.
    entered : callable
        Called with the reason, where there is one, and monotonic seconds when the status or the reference has changed.
    claimed : callable
        Called with the boot number of a coordinator that has become the owner, and monotonic seconds.
    begun : callable
        Called when EXPINIT begins an experiment, before its handlers run.
    """

    def __init__(
        self,
        identity: Identity,
        handled: Collection[Verb],
        lease: float,
        room: Room,
        told: list[Event],
        settled: Callable[[Task, Message | Problem, float], None],
        entered: Callable[[str | None, float], None],
        claimed: Callable[[str, float], None],
        begun: Callable[[], object],
    ):
        self._identity, self._handled, self._room = identity, handled, room
        self._events, self._settled, self._entered, self._claimed = told, settled, entered, claimed
        self._begun = begun
        self.ownership = Ownership(lease)
        self._tasks: dict[int, Task] = {}
        self._lane = Lane()
        self._querying: set[int] = set()
        self._queries: deque[Task] = deque()
        self._timed: list[Task] = []  # waiting for their instant, not handed over yet
        self._beginning = False
        self._numbers = 0
        self._answers: dict[Verb, list[Any]] = {}
        self._begun_here: deque[str] = deque(maxlen=REMEMBERED)  # experiments, empty for one without a reference
        self._bad_end: Problem | None = None  # how each EXPEND fails now that the recording is over
        self._timer = math.inf
        self.status = ExpStatus.CONNECTED
        self.exp_ref: str | None = None
        self._reason: str | None = None  # the rig's own reason for its status
        self._closing: str | None = None  # why no experiment begins here any more

    # ------------------------------------------------------------------------------------------------ outside

    def accept(self, task: Task, now: float, instant: float | None = None) -> None:
        """Act on a message, or have it wait for its turn.

        Parameters
        ----------
        task : Task
            The message.
        now : float
            Monotonic seconds.
        instant : float, optional
            Monotonic seconds at which to act, None for at once; EXPINTERRUPT waits for none.
        """
        self._numbers += 1
        task.number = self._numbers
        self._tasks[task.number] = task
        if instant is not None and task.event is not ExpMessage.EXPINTERRUPT:
            if instant - now > MOST_AHEAD + _SLACK:
                problem = f"{task.event.name} was to act {instant - now:.0f} s from now; at most {MOST_AHEAD:.0f} s"
                self._finish_failure(task, "ValueError", problem, "", now)
                return
            task.schedule = Schedule(instant)
            if refusal := self._refuse_instant(task):
                self._finish_failure(task, *refusal, "", now)
                return
        if task.event in (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT) and self._may_command(task, now):
            self._call_off_later(task, now)
        if task.event not in LIFECYCLE_MESSAGES:
            self._query(task, now)
        elif task.event is ExpMessage.EXPINTERRUPT and (self._lane.running or self._lane.waiting):
            self._interrupt(task, now)
        elif self._lane.running and (self._may_command(task, now) or (self.exp_ref is None and _may_take_over(task))):
            self._enqueue(self._lane.waiting, task, now)
        else:  # a refusal or takeover runs nothing either, so nobody has to wait for it
            self._begin(task, now)

    def reschedule(self, record: Record, instant: float, now: float) -> None:
        """Move the instant of a message that waits for it: its coordinator knows this rig's clock better by now."""
        for task in self._timed:
            if task.record is record and task.schedule and instant - now <= MOST_AHEAD + _SLACK:
                task.schedule.instant = instant
                self._timer = min(self._timer, _hand_over_at(task))

    def respond(self, number: int, returned: Any, now: float, started: float | None = None) -> None:
        """Settle a task whose handlers have succeeded; see `Responder.respond`."""
        if task := self._tasks.get(number):
            task.started = task.started if started is None else started
            self._succeed(task, returned, now)

    def fail(self, number: int, error: str, message: str, traceback: str, now: float, is_over: bool = False) -> None:
        """Settle a task whose handlers have failed; see `Responder.fail`."""
        if task := self._tasks.get(number):
            has_ended = is_over and task.event is ExpMessage.EXPEND
            if (has_ended or task.event is ExpMessage.EXPINTERRUPT) and task.leads_to is not None:
                self._enter(task, task.leads_to, self.exp_ref, now)
                if has_ended:
                    self._bad_end = Problem(error, message, traceback)
            self._finish_failure(task, error, message, traceback, now)

    def is_open(self, number: int) -> bool:
        """Whether the outcome of a task's handlers still matters. Safe to call from any thread."""
        return number in self._tasks

    def open_tasks(self) -> Collection[Task]:
        """Return the messages that are not settled yet."""
        return self._tasks.values()

    def leave(self, boot: str, now: float) -> None:
        """Call off what a coordinator has asked for later, for it has said goodbye."""
        self.ownership.heard(boot, now)
        self.ownership.leave(boot)
        for task in list(self._tasks.values()):
            if task.sender and task.sender.boot == boot:
                self._call_off(task, "the coordinator that asked for it has closed", now)

    def close(self, reason: str, now: float) -> None:
        """Refuse experiments from now on, and interrupt the one that is under way, for a reason."""
        self._closing = reason
        self.interrupt(reason, now)

    @property
    def is_under_way(self) -> bool:
        """Whether an experiment runs, begins, or is being stopped."""
        if self.status in (ExpStatus.INITIALIZED, ExpStatus.RUNNING):
            return True
        running = self._lane.running  # EXPINIT, or EXPCLEANUP after an experiment
        return running is not None and running.event is not ExpMessage.EXPCLEANUP

    @property
    def running(self) -> Verb | None:
        """The message of the lifecycle whose handlers run, None where none does."""
        return self._lane.running.event if self._lane.running else None

    def interrupt(self, reason: str, now: float) -> None:
        """Interrupt of the rig's own accord; do nothing where no experiment is under way, or it ends already."""
        if self.is_under_way and not self._is_ending(now):
            task = Task(ExpMessage.EXPINTERRUPT, [{"reason": reason}], None, None, None, silent=True, reason=reason)
            self.accept(task, now)

    def note_standstill(self, seconds: float, now: float) -> None:
        """Take note that for so many seconds nobody here has listened: the owner has not been silent for that."""
        self.ownership.pass_over(seconds, now)

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`: act, and give up an owner that is gone."""
        if now >= self.ownership.expires():
            self._expire_lease(now)
        for task in [task for task in self._timed if now >= _hand_over_at(task)]:
            if task.event in LIFECYCLE_MESSAGES:
                self._hand_over(task)
            else:
                self._timed.remove(task)
                self._query(task, now)
        instants = (_hand_over_at(task) for task in self._timed)
        self._timer = min(self.ownership.expires(), min(instants, default=math.inf))

    def next_timer(self) -> float:
        """Return when, in monotonic seconds, `handle_timer` is due; it may be called too early without harm."""
        return self._timer

    # ------------------------------------------------------------------------------------------------ acting

    def _may_command(self, task: Task, now: float) -> bool:
        if task.event is ExpMessage.EXPINTERRUPT or task.sender is None:
            return True
        # Nothing runs, and whoever was in charge is not there: the next experiment need not wait for the lease.
        is_over = self.status is ExpStatus.STOPPED and self.ownership.is_gone(now)
        return is_over or self.ownership.allows(task.sender)

    def _refuse_instant(self, task: Task) -> tuple[str, str] | None:
        """Return why a message may not name an instant, if so: what waits takes room for up to an hour."""
        name = task.event.name
        if task.event in LIFECYCLE_MESSAGES:
            return None  # refused like one without an instant, and at most one of them is beyond its turn
        if task.sender and self.ownership.is_led_by(task.sender):
            return None
        if self.ownership.host is None:
            return "StateError", (
                f"{name} refused: nobody is in charge of this rig, and only the coordinator in charge may name an "
                f"instant (at) for {name}; begin with EXPINIT, or ask without one"
            )
        return "BusyError", (
            f"{name} refused: the coordinator on {self.ownership.host} is in charge of "
            f"{self.exp_ref or 'an experiment without a reference'}, and only that one may name an instant (at); "
            "ask without one"
        )

    def _call_off_later(self, task: Task, now: float) -> None:
        """Call off what waits for a later instant than an EXPEND or EXPINTERRUPT."""
        # EXPINTERRUPT overtakes what waits behind it, too, which must not begin in between.
        held, self._beginning = self._beginning, True
        for other in list(self._tasks.values()):
            is_before = task.schedule and other.schedule and other.schedule.instant < task.schedule.instant
            is_meant = task.event is ExpMessage.EXPINTERRUPT or other.event in LIFECYCLE_MESSAGES
            is_meant = is_meant or other.sender == task.sender
            if other is not task and is_meant and not is_before:
                self._call_off(other, f"{task.event.name} came before its instant", now)
        self._beginning = held

    def _call_off(self, task: Task, why: str, now: float) -> None:
        """End a task that waits for its instant, unless that has come."""
        if task.number in self._tasks and task.schedule and task.schedule.take():
            self._finish_failure(task, "Cancelled", f"{task.event.name} was not run: {why}", "", now)

    def _query(self, task: Task, now: float) -> None:
        is_command = isinstance(task.event, Command)
        if (is_command or task.event is ExpMessage.ALYX) and not self._may_command(task, now):
            self._finish_failure(task, "BusyError", self._busy(task, now), "", now)
        elif is_command and task.event not in self._handled:
            self._finish_failure(task, "UnknownCommand", self._unknown(task.event.name), "", now)
        elif task.schedule and now < _hand_over_at(task):
            self._wait_for_instant(task, now)
        elif task.event not in self._handled or self._has_place(task):
            self._querying.add(task.number)
            self._run(task, now)
        else:
            self._enqueue(self._queries, task, now)

    def _has_place(self, task: Task) -> bool:
        """Whether the handlers of a message outside the lifecycle may begin."""
        if len(self._querying) >= QUERIES:
            return False
        if self._is_in_charge(task):
            return True
        running = self._running_queries()
        if running and sum(other.size for other in running) + task.size > WAITING_BYTES:
            return False
        return not self._is_strangers(task) or sum(map(self._is_strangers, running)) < QUERIES // 2

    def _running_queries(self) -> list[Task]:
        """Return the messages outside the lifecycle whose handlers run for others than the one in charge."""
        found = [self._tasks[number] for number in self._querying if number in self._tasks]
        return [task for task in found if not self._is_in_charge(task)]

    def _is_in_charge(self, task: Task) -> bool:
        return task.sender is None or self.ownership.is_led_by(task.sender)

    def _is_strangers(self, task: Task) -> bool:
        """Whether another coordinator than the sender is in charge."""
        return task.sender is not None and not self.ownership.allows(task.sender)

    def _unknown(self, name: str) -> str:
        # Copied in one step: other threads may add handlers.
        known = [verb.name for verb in list(self._handled) if isinstance(verb, Command)]
        return f"the rig has no command {name!r}; it has: {', '.join(closest_first(name, known)) or '(none)'}"

    def _enqueue(self, waiting: deque[Task], task: Task, now: float) -> None:
        if self._has_room(waiting, task, now):
            waiting.append(task)

    def _wait_for_instant(self, task: Task, now: float) -> None:
        if self._has_room(self._timed, task, now):
            self._timed.append(task)
            self._timer = min(self._timer, _hand_over_at(task))

    def _has_room(self, waiting: Collection[Task], task: Task, now: float) -> bool:
        """Whether there is room for a message to wait; settle it where there is none."""
        others = [*self._lane.waiting, *self._queries, *self._timed]
        others = [other for other in others if other is not self._lane.running]
        if not self._is_in_charge(task):  # what a handler works on takes as much room as what waits
            others += self._running_queries()
        share = 1
        if self._is_strangers(task):
            share = 2
            waiting, others = (list(filter(self._is_strangers, tasks)) for tasks in (waiting, others))
        held = sum(other.size for other in others)
        problem = ""
        if len(waiting) >= WAITING // share:
            problem = f"{len(waiting)} messages are waiting already; look at the rig"
        elif held and held + task.size > WAITING_BYTES // share:
            problem = f"messages of {size_text(held)} wait already, or are worked on; look at the rig"
        if problem:
            self._finish_failure(task, "Busy", problem, "", now)
        return not problem

    def _interrupt(self, task: Task, now: float) -> None:
        running, overtaken, self._lane.waiting = self._lane.running, self._lane.waiting, deque()
        waits = self._is_interrupting(now)
        if waits:
            self._lane.waiting = deque(other for other in overtaken if other.event is ExpMessage.EXPINTERRUPT)
            overtaken = deque(other for other in overtaken if other.event is not ExpMessage.EXPINTERRUPT)
        else:
            task.leads_to = ExpStatus.STOPPED  # whatever the table says: something was under way
            self._lane.running = task
            if running:
                task.reason = task.reason or running.reason  # the rig's own interrupt hangs: its reason stands
                self._events.append(HandlerOvertaken(running.number, running.event))
                overtaken.appendleft(running)
        for other in overtaken:
            self._finish_failure(other, "Interrupted", f"EXPINTERRUPT overtook {other.event.name}", "", now)
        if waits:
            self._enqueue(self._lane.waiting, task, now)
        else:
            self._run(task, now)

    def _is_interrupting(self, now: float) -> bool:
        """Whether an EXPINTERRUPT is worked on, and does not hang."""
        running = self._lane.running
        if running is None or running.event is not ExpMessage.EXPINTERRUPT:
            return False
        return now - running.started < INTERRUPT_PATIENCE

    def _is_ending(self, now: float) -> bool:
        """Whether what is under way is being ended already. A recorder that stops now was told to."""
        running = self._lane.running
        is_ending = running is not None and running.event is ExpMessage.EXPEND and running not in self._timed
        return is_ending or self._is_interrupting(now)

    def _begin(self, task: Task, now: float) -> None:
        if self._closing and task.event in (ExpMessage.EXPINIT, ExpMessage.EXPSTART):
            self._finish_failure(task, "NotRunning", f"{self._closing}; start it again", "", now)
            return
        try:
            task.names = named_reference(task.event, task.args)
            # A rig without a reference has nothing to take over: this is an EXPINIT like any other.
            task.takes_over = takes_over(task.event, task.args) and self.exp_ref is not None
        except ValueError as error:
            self._finish_failure(task, "ValueError", str(error), "", now)
            return
        if not task.takes_over and not self._may_command(task, now):
            self._finish_failure(task, "BusyError", self._busy(task, now), "", now)
            return
        decision = decide(self.status, task.event, self.exp_ref, task.names, task.takes_over)
        if decision.refusal:
            self._finish_failure(task, "StateError", decision.refusal, "", now)
            return
        if task.event in (ExpMessage.EXPINIT, ExpMessage.EXPSTART) and task.sender:
            self._claim(task, task.sender, now)
        if decision.no_op and task.of is not None and canonical_reference(task.of) not in self._begun_here:
            self._finish_failure(task, "StateError", self._nothing_of(task.of), "", now)
        elif decision.no_op and task.event is ExpMessage.EXPEND and self._bad_end:
            self._finish(task, self._bad_end, now)
        elif decision.no_op:
            self._succeed(task, None, now)
        else:
            task.leads_to = decision.status
            if task.event is ExpMessage.EXPINIT:
                self._begun()
            self._occupy(task, now)

    def _nothing_of(self, reference: str) -> str:
        here = f" of {self.exp_ref}" if self.exp_ref else ""
        return (
            f"this program has recorded nothing of {reference or 'that experiment'}: it was started anew since that "
            f"began, and its status is {self.status.name}{here}; look at the rig for what the program before has left"
        )

    def _claim(self, task: Task, sender: Sender, now: float) -> None:
        if not self.ownership.is_led_by(sender):
            task.claimed_from = copy(self.ownership)
            self.ownership.claim(sender, now)
            self._timer = min(self._timer, self.ownership.expires())
            for other in [other for other in self._timed if other.event not in LIFECYCLE_MESSAGES]:
                self._call_off(other, "another coordinator is in charge now", now)
            if sender.boot:
                self._claimed(sender.boot, now)

    def _busy(self, task: Task, now: float) -> str:
        experiment = self.exp_ref or "an experiment without a reference"
        heard = f", and was last heard {self.ownership.silence(now):.0f} s ago" if self.ownership.is_gone(now) else ""
        stop = ", or stop it with EXPINTERRUPT"
        if self.status is ExpStatus.STOPPED and self.ownership.owner:
            patience = self.ownership.owner.patience
            stop = f"; it is over, and anyone may go on when that one has been silent for {patience:g} s"
        owner, where = self._owner_for(task.sender)
        return (
            f"{task.event.name} refused: {owner} is in charge of {experiment} "
            f"({self.status.name}){heard}; close {where}, or take the experiment over with EXPINIT, its exp_ref and "
            f"takeover: true (rigsync push EXPINIT {self.exp_ref or 'REF'} --takeover){stop}"
        )

    def _owner_for(self, asker: Sender | None) -> tuple[str, str]:
        """Return who is in charge and where to close that program, in words for another coordinator."""
        owner = self.ownership.owner
        program = owner and owner.program
        if asker and owner and program and (asker.host, asker.program) == (owner.host, program):
            return f"this very program ({program}) on {owner.host}, by another connection,", "that one"
        return f"the coordinator on {self.ownership.host}" + (f" ({program})" if program else ""), "it there"

    def _expire_lease(self, now: float) -> None:
        owner = self.ownership.owner
        self.ownership.release()
        if owner is None or not self.is_under_way:
            return
        reason = (
            f"the coordinator on {owner.host}, which was in charge of {self.exp_ref or 'the experiment'}, has been "
            f"silent for the lease of {self.ownership.lease:g} s"
        )
        self._events.append(LeaseExpired(owner.host, self.exp_ref, reason))
        self.interrupt(reason, now)

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
        # Without a handler too: one place waits for the instant and tells it.
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
                self._bad_end = None
            self._answers[task.event] = args
            self._enter(task, status, exp_ref, now)
        self._finish(task, message, now)

    def _reference_after(self, task: Task) -> str | None:
        if task.event is ExpMessage.EXPINIT:
            return task.names
        if task.event is ExpMessage.EXPSTART:
            return self.exp_ref or task.names
        return None if task.leads_to is ExpStatus.CONNECTED else self.exp_ref

    def _answer(self, event: Verb, status: ExpStatus, exp_ref: str | None, returned: Any) -> list[Any]:
        if isinstance(event, Command):
            return [to_plain(returned, "the result", self._room)]
        if event is ExpMessage.ALYX:
            if isinstance(returned, (list, tuple)) and len(returned) == 2:
                return [to_plain(part, "the result", self._room) for part in returned]
            return [to_plain(part, "the result", self._room) for part in token_arguments(returned)]
        if returned is None and event is ExpMessage.EXPSTATUS:
            return [int(status)]
        if returned is not None and not isinstance(returned, Mapping):
            raise TypeError(f"a handler returns a dict or None, not {type(returned).__name__}")
        plain = to_plain(dict(returned or {}), "the result", self._room)
        if self._reason and (status, exp_ref) == (self.status, self.exp_ref):
            # Otherwise a coordinator that was away would think that its EXPEND has ended the recording.
            plain = {"interrupted": self._reason, **plain}
        return answer_arguments(event, status, exp_ref, experiment_information(self._identity, status, exp_ref, plain))

    def _finish_failure(self, task: Task, error: str, message: str, traceback: str, now: float) -> None:
        if task.claimed_from and task.sender and self.ownership.is_led_by(task.sender):
            self.ownership = task.claimed_from
        self._finish(task, Problem(error, message, traceback), now)

    def _finish(self, task: Task, outcome: Message | Problem, now: float) -> None:
        del self._tasks[task.number]
        for waiting in (self._timed, self._lane.waiting, self._queries):
            if task in waiting:
                waiting.remove(task)
        self._settled(task, outcome, now)
        self._querying.discard(task.number)
        if self._lane.running is task:
            self._lane.running = None
        self._begin_waiting(now)

    def _begin_waiting(self, now: float) -> None:
        # A message without a handler is finished here, and the next one begins: a loop, since a full queue is deeper
        # than the stack.
        if self._beginning or not (self._queries or self._lane.waiting):
            return
        self._beginning = True
        try:
            while task := self._next_query():
                self._queries.remove(task)
                self._query(task, now)
            while self._lane.waiting and not self._lane.running:
                self._begin(self._lane.waiting.popleft(), now)
        finally:
            self._beginning = False

    def _next_query(self) -> Task | None:
        """Return what may run next; messages of whoever may command go first."""
        return next(filter(self._has_place, sorted(self._queries, key=self._is_strangers)), None)

    def _enter(self, task: Task, status: ExpStatus, exp_ref: str | None, now: float) -> None:
        reason, why_cut = task.reason, self._why_cut(task)
        if status is ExpStatus.CONNECTED:
            self.ownership.release()
        elif status is ExpStatus.STOPPED:
            self.ownership.ended()
        if (status, exp_ref) != (self.status, self.exp_ref):
            self._events.append(StatusChanged(self.status, status, exp_ref, reason))
            self.status, self.exp_ref, self._reason = status, exp_ref, reason
            if why_cut:
                self._bad_end = Problem(ENDED_BADLY, why_cut, "")
            if status in (ExpStatus.INITIALIZED, ExpStatus.RUNNING):
                self._begun_here.append(canonical_reference(exp_ref or ""))
            self._entered(reason, now)

    def _why_cut(self, task: Task) -> str | None:
        """Return why the experiment is over, where not whoever is in charge has ended it; an EXPEND is told that."""
        if task.sender and task.event is ExpMessage.EXPINTERRUPT and self._is_strangers(task):
            return task.reason or f"EXPINTERRUPT came from {task.sender.host}"
        return task.reason


def _may_take_over(task: Task) -> bool:
    """Whether a message takes over an experiment, perhaps one whose EXPINIT still runs."""
    with contextlib.suppress(ValueError):
        return takes_over(task.event, task.args)
    return False


def _hand_over_at(task: Task) -> float:
    return task.schedule.instant - LEAD if task.schedule else math.inf
