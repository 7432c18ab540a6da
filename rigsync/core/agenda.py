"""What a rig does with the messages that it has accepted: whether, when, in what order (docs/protocol.md section 4)."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Collection
from copy import copy
from dataclasses import dataclass
from typing import Any

from rigsync.core.answers import Identity, answer_to, encoded_answer
from rigsync.core.calls import OWN
from rigsync.core.clock import MOST_AHEAD
from rigsync.core.coordinators import Record
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import Event, HandlerDue, HandlerOvertaken, LeaseExpired, StatusChanged
from rigsync.core.health import Health
from rigsync.core.lifecycle import (
    LIFECYCLE_MESSAGES,
    Rehearsing,
    canonical_reference,
    decide,
    fingerprint,
    named_reference,
    nothing_of,
    rehearses,
    takes_over,
)
from rigsync.core.messages import Command, Message, Verb
from rigsync.core.ownership import Ownership, Sender
from rigsync.core.queries import FOR_ANYBODY, Queries, Task
from rigsync.core.rigs import Room
from rigsync.core.schedule import Schedule
from rigsync.errors import ENDED_BADLY, PayloadError, PayloadTooLarge, closest_first

INTERRUPT_PATIENCE = 5.0
"""Seconds after which a handler of EXPINTERRUPT counts as hanging, and another EXPINTERRUPT overtakes it."""
REMEMBERED = 64
"""Experiments that a rig remembers. An EXPEND for one of them is no mistake, though it is over. An EXPEND for any other
was meant for the program before."""
_ALYX, _CALL_OFF = ExpMessage.ALYX, (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT)  # looked up slowly until Python 3.12
_SLACK = 60.0
"""Seconds that a rig allows beyond `MOST_AHEAD`, for a message that was slow and a clock that is not known well."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a message was refused, or failed."""

    error: str
    """The type's name."""
    message: str
    traceback: str = ""


class Agenda:
    """What is to be done on a rig: its status, whose experiment it is, and each message until it is settled.

    How messages come and are answered is for the `Responder`. It is told by `settled` the answer or the problem of each
    message, by `entered` each change of the status or the reference, with the reason where there is one, and of what is
    wrong where nothing else has told that, by `claimed` the boot number of a new owner, and by `anew` that EXPINIT
    begins an experiment, or EXPCLEANUP ends it.
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
        anew: Callable[[], object],
    ):
        self._identity, self._handled, self._room = identity, handled, room
        self._events, self._settled, self._entered, self._claimed = told, settled, entered, claimed
        self._anew = anew
        self.ownership = Ownership(lease)
        self.tasks: dict[int, Task] = {}
        """The messages that are not settled yet."""
        self.running: Task | None = None
        """The message of the lifecycle that is worked on. The others wait for it. EXPINTERRUPT clears them."""
        self._waiting: deque[Task] = deque()
        self._queries = Queries(self.ownership)
        self._timed: list[Task] = []  # waiting for their instant, not handed over yet
        self._beginning = False
        self._numbers = 0
        self._answers: dict[Verb, list[Any]] = {}
        self._begun_here: deque[str] = deque(maxlen=REMEMBERED)  # experiments, empty for one without a reference
        self._initialised_with: bytes | None = None
        self._rehearses = False  # whether the present experiment is a rehearsal
        self._bad_end: Problem | None = None  # how each EXPEND fails now that the recording is over
        self._timer = math.inf
        self.status = ExpStatus.CONNECTED
        self.exp_ref: str | None = None
        self._reason: str | None = None  # the rig's own reason for its status
        self.health = Health()
        self._closing: str | None = None  # why no experiment begins here any more

    # ------------------------------------------------------------------------------------------------ outside

    def accept(self, task: Task, now: float, instant: float | None = None) -> None:
        """Act on a message, or have it wait for its turn, and for an instant in monotonic seconds.

        EXPINTERRUPT waits for none.
        """
        self._numbers += 1
        task.number = self._numbers
        self.tasks[task.number] = task
        if instant is not None and task.event is not ExpMessage.EXPINTERRUPT:
            if instant - now > MOST_AHEAD + _SLACK:
                problem = f"{task.event.name} was to act {instant - now:.0f} s from now; at most {MOST_AHEAD:.0f} s"
                self._refuse(task, "ValueError", problem, now)
                return
            task.schedule = Schedule(instant)
            # One of the lifecycle is refused like one without an instant, and at most one of them is beyond its turn.
            asker = None if task.event in LIFECYCLE_MESSAGES else task.sender
            if asker and (refusal := self.ownership.instant_refusal(task.event.name, asker, self.exp_ref)):
                self._refuse(task, *refusal, now)
                return
        if task.event in _CALL_OFF and self._may_command(task, now):
            self._call_off_later(task, now)
        if task.event not in LIFECYCLE_MESSAGES:
            self._query(task, now)
        elif task.event is ExpMessage.EXPINTERRUPT and (self.running or self._waiting):
            self._interrupt(task, now)
        elif self.running and (self._may_command(task, now) or (self.exp_ref is None and _may_take_over(task))):
            self._wait(self._waiting, task, now)
        else:  # a refusal or takeover runs nothing either, so nobody has to wait for it
            self._begin(task, now)

    def reschedule(self, record: Record, instant: float, now: float) -> None:
        """Move the instant of a message that waits for it: its coordinator knows this rig's clock better by now."""
        for task in self._timed:
            if task.record is record and task.schedule and instant - now <= MOST_AHEAD + _SLACK:
                task.schedule.instant = instant
                self._timer = min(self._timer, task.hand_over_at)

    def respond(self, number: int, returned: Any, now: float, started: float | None = None) -> None:
        """Settle a task whose handlers have succeeded.

        They have returned a mapping or None; for ALYX also an Alyx client, or its address and token. The first was
        entered at `started` (monotonic s), by default when it was due.
        """
        if task := self.tasks.get(number):
            task.started = task.started if started is None else started
            self._succeed(task, returned, now)

    def fail(self, number: int, error: str, message: str, traceback: str, now: float, is_over: bool = False) -> None:
        """Settle a task whose handlers have failed with an exception of type `error`.

        With `is_over`, the recording that an EXPEND was to end is over all the same, and the rig is STOPPED.
        """
        if task := self.tasks.get(number):
            has_ended, problem = is_over and task.event is ExpMessage.EXPEND, Problem(error, message, traceback)
            if task.event is ExpMessage.EXPEND:
                self.health.note_bad_end(error, message, self.exp_ref, now)
            if (has_ended or task.event is ExpMessage.EXPINTERRUPT) and task.leads_to is not None:
                self._enter(task, task.leads_to, self.exp_ref, now)
                if has_ended:
                    self._bad_end = problem
            self._fail(task, problem, now)

    def is_open(self, number: int) -> bool:
        """Whether the outcome of a task's handlers still matters. Safe to call from any thread."""
        return number in self.tasks

    def leave(self, boot: str, now: float) -> None:
        """Call off what a coordinator has asked for later, for it has said goodbye."""
        self.ownership.heard(boot, now)
        self.ownership.leave(boot)
        for task in list(self.tasks.values()):
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
        # EXPINIT, or EXPCLEANUP after an experiment.
        return self.running is not None and self.running.event is not ExpMessage.EXPCLEANUP

    def interrupt(self, reason: str, now: float) -> None:
        """Interrupt of the rig's own accord; do nothing where no experiment is under way, or it ends already."""
        if self.is_under_way and not self._is_ending(now):
            task = Task(ExpMessage.EXPINTERRUPT, [{"reason": reason}], None, None, None, silent=True, reason=reason)
            self.accept(task, now)

    def handle_timer(self, now: float) -> None:
        if now >= self.ownership.expires():
            self._expire_lease(now)
        for task in [task for task in self._timed if now >= task.hand_over_at]:
            if task.event in LIFECYCLE_MESSAGES:
                self._hand_over(task)
            else:
                self._timed.remove(task)
                self._query(task, now)
        self._timer = min([self.ownership.expires(), *(task.hand_over_at for task in self._timed)])

    def next_timer(self) -> float:
        return self._timer

    # ------------------------------------------------------------------------------------------------ acting

    def _may_command(self, task: Task, now: float) -> bool:
        if task.event is ExpMessage.EXPINTERRUPT or task.sender is None:
            return True
        # Nothing runs, and whoever was in charge is not there: the next experiment need not wait for the lease.
        is_over = self.status is ExpStatus.STOPPED and self.ownership.is_gone(now)
        return is_over or self.ownership.allows(task.sender)

    def _call_off_later(self, task: Task, now: float) -> None:
        """Call off what waits for a later instant than an EXPEND or EXPINTERRUPT."""
        # EXPINTERRUPT overtakes what waits behind it, too, which must not begin in between.
        held, self._beginning = self._beginning, True
        for other in list(self.tasks.values()):
            is_before = task.schedule and other.schedule and other.schedule.instant < task.schedule.instant
            is_meant = task.event is ExpMessage.EXPINTERRUPT or other.event in LIFECYCLE_MESSAGES
            is_meant = is_meant or other.sender == task.sender
            if other is not task and is_meant and not is_before:
                self._call_off(other, f"{task.event.name} came before its instant", now)
        self._beginning = held

    def _call_off(self, task: Task, why: str, now: float) -> None:
        """End a task that waits for its instant, unless that has come."""
        if task.number in self.tasks and task.schedule and task.schedule.take():
            self._refuse(task, "Cancelled", f"{task.event.name} was not run: {why}", now)

    def _query(self, task: Task, now: float) -> None:
        is_command = isinstance(task.event, Command)
        is_restricted = task.event is _ALYX or (is_command and task.event not in FOR_ANYBODY)
        if is_restricted and not self._may_command(task, now):
            self._refuse(task, "BusyError", self._busy(task, now), now)
        elif is_command and task.event not in self._handled:
            self._refuse(task, "UnknownCommand", _unknown(task.event.name, self._handled), now)
        elif task.schedule and now < task.hand_over_at:
            self._wait(self._timed, task, now)
        elif task.event not in self._handled or self._queries.has_place(task):
            self._queries.running.append(task)
            self._run(task, now)
        else:
            self._wait(self._queries.waiting, task, now)

    def _wait(self, queue: deque[Task] | list[Task], task: Task, now: float) -> None:
        waiting = {*self._waiting, *self._queries.waiting, *self._timed} - {self.running}
        if problem := self._queries.no_room(queue, waiting, task):
            self._refuse(task, "Busy", problem, now)
        else:
            queue.append(task)
            self._timer = min(self._timer, task.hand_over_at)

    def _interrupt(self, task: Task, now: float) -> None:
        running, overtaken, self._waiting = self.running, self._waiting, deque()
        waits = self._is_interrupting(now)
        if waits:
            self._waiting = deque(other for other in overtaken if other.event is ExpMessage.EXPINTERRUPT)
            overtaken = deque(other for other in overtaken if other.event is not ExpMessage.EXPINTERRUPT)
        else:
            task.leads_to = ExpStatus.STOPPED  # whatever the table says: something was under way
            self.running = task
            if running:
                task.reason = task.reason or running.reason  # the rig's own interrupt hangs: its reason stands
                self._events.append(HandlerOvertaken(running.number, running.event))
                overtaken.appendleft(running)
        for other in overtaken:
            self._refuse(other, "Interrupted", f"EXPINTERRUPT overtook {other.event.name}", now)
        if waits:
            self._wait(self._waiting, task, now)
        else:
            self._run(task, now)

    def _is_interrupting(self, now: float) -> bool:
        """Whether an EXPINTERRUPT is worked on, and does not hang."""
        running = self.running
        if running is None or running.event is not ExpMessage.EXPINTERRUPT:
            return False
        return now - running.started < INTERRUPT_PATIENCE

    def _is_ending(self, now: float) -> bool:
        """Whether what is under way is being ended already. A recorder that stops now was told to."""
        running = self.running
        is_ending = running is not None and running.event is ExpMessage.EXPEND and running not in self._timed
        return is_ending or self._is_interrupting(now)

    def _begin(self, task: Task, now: float) -> None:
        if self._closing and task.event in (ExpMessage.EXPINIT, ExpMessage.EXPSTART):
            self._refuse(task, "NotRunning", f"{self._closing}; start it again", now)
            return
        try:
            task.names = named_reference(task.event, task.args)
            # A rig without a reference has nothing to take over: this is an EXPINIT like any other.
            task.takes_over = takes_over(task.event, task.args) and self.exp_ref is not None
            rehearsal = Rehearsing(rehearses(task.event, task.args), self._identity.rehearses, self._rehearses)
        except ValueError as error:
            self._refuse(task, "ValueError", str(error), now)
            return
        if not task.takes_over and not self._may_command(task, now):
            self._refuse(task, "BusyError", self._busy(task, now), now)
            return
        is_new = fingerprint(task.event, task.args) not in (None, self._initialised_with)
        decision = decide(self.status, task.event, self.exp_ref, task.names, task.takes_over, is_new, rehearsal)
        if decision.refusal:
            self._refuse(task, "StateError", decision.refusal, now)
            return
        if task.event in (ExpMessage.EXPINIT, ExpMessage.EXPSTART) and task.sender:
            self._claim(task, task.sender, now)
        if decision.no_op and task.of is not None and canonical_reference(task.of) not in self._begun_here:
            self._refuse(task, "StateError", nothing_of(task.of, self.status, self.exp_ref), now)
        elif decision.no_op and task.event is ExpMessage.EXPEND and self._bad_end:
            self._finish(task, self._bad_end, now)
        elif decision.no_op:
            self._succeed(task, None, now)
        else:
            task.leads_to = decision.status
            self.health.begin(task.event)
            if task.event in (ExpMessage.EXPINIT, ExpMessage.EXPCLEANUP):
                self._anew()
            if task.event is ExpMessage.EXPINIT:
                self._initialised_with = None  # if this fails, who knows what the handlers have done by then
            self.running = task
            self._run(task, now)

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
        name, asker = task.event.name, task.sender
        return self.ownership.refusal(name, asker, self.status, self.exp_ref, now, self._rehearses)

    def _expire_lease(self, now: float) -> None:
        owner = self.ownership.owner
        self.ownership.release()
        if owner is None or not self.is_under_way:
            return
        reason = (
            f"the coordinator on {owner.host}, which was in charge of {self.exp_ref or 'the experiment'}, has been "
            f"silent for the lease of {self.ownership.lease:g} s; see whether its program still runs, and close it; "
            "then tidy up with rigsync stop, or begin anew"
        )
        self._events.append(LeaseExpired(owner.host, self.exp_ref, reason))
        self.interrupt(reason, now)

    def _run(self, task: Task, now: float) -> None:
        task.started = now
        if task.schedule:
            self._timed.append(task)
            if now >= task.hand_over_at:
                self._hand_over(task)
            else:
                self._timer = min(self._timer, task.hand_over_at)
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
            status, exp_ref = task.leads_to, _reference_after(task, self.exp_ref)
        is_repeat = task.event in LIFECYCLE_MESSAGES and task.leads_to is None and not task.takes_over
        repeated = self._answers.get(task.event) if is_repeat else None
        try:
            # The reason holds until the status changes: a coordinator that was away must not think that its EXPEND has
            # ended the recording.
            reason = self._reason if (status, exp_ref) == (self.status, self.exp_ref) else None
            args = repeated or answer_to(task.event, self._identity, status, exp_ref, reason, returned, self._room)
            message = encoded_answer(task.event, args, self.health, self._room)
        except (PayloadError, PayloadTooLarge, TypeError) as error:
            problem = f"the handlers' result cannot be sent: {error}"
            self.fail(task.number, type(error).__name__, problem, "", now)
            return
        if task.leads_to is not None:
            if task.event is ExpMessage.EXPINIT or status is ExpStatus.CONNECTED:
                self._answers.clear()  # another experiment, or none
                self._initialised_with = fingerprint(task.event, task.args)
                self._rehearses = rehearses(task.event, task.args)
                self._bad_end = None
            self.health.settle(task.event, exp_ref)
            self._answers[task.event] = args
            self._enter(task, status, exp_ref, now)
        self._finish(task, message, now)

    def _refuse(self, task: Task, error: str, message: str, now: float) -> None:
        self._fail(task, Problem(error, message), now)

    def _fail(self, task: Task, problem: Problem, now: float) -> None:
        if task.claimed_from and task.sender and self.ownership.is_led_by(task.sender):
            self.ownership.restore(task.claimed_from)
        self._finish(task, problem, now)

    def _finish(self, task: Task, outcome: Message | Problem, now: float) -> None:
        del self.tasks[task.number]
        for tasks in (self._timed, self._waiting, self._queries.waiting, self._queries.running):
            if task in tasks:
                tasks.remove(task)
        if self.health.is_untold:
            self._entered(self._reason, now)
        self._settled(task, outcome, now)
        if self.running is task:
            self.running = None
        self._begin_waiting(now)

    def _begin_waiting(self, now: float) -> None:
        # A message without a handler is finished here, and the next one begins: a loop, since a full queue is deeper
        # than the stack.
        if self._beginning or not (self._queries.waiting or self._waiting):
            return
        self._beginning = True
        try:
            while task := self._queries.next():
                self._queries.waiting.remove(task)
                self._query(task, now)
            while self._waiting and not self.running:
                self._begin(self._waiting.popleft(), now)
        finally:
            self._beginning = False

    def _enter(self, task: Task, status: ExpStatus, exp_ref: str | None, now: float) -> None:
        reason, why_cut = task.reason, _why_cut(task, self._queries)
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


def _unknown(name: str, handled: Collection[Verb]) -> str:
    # Copied in one step: other threads may add handlers.
    known = [verb.name for verb in list(handled) if isinstance(verb, Command) and not verb.name.startswith(OWN)]
    return f"the rig has no command {name!r}; it has: {', '.join(closest_first(name, known)) or '(none)'}"


def _why_cut(task: Task, queries: Queries) -> str | None:
    """Return why the experiment is over, where not whoever is in charge has ended it; an EXPEND is told that."""
    if task.sender and task.event is ExpMessage.EXPINTERRUPT and queries.is_strangers(task):
        return task.reason or f"EXPINTERRUPT came from {task.sender.host}"
    return task.reason


def _reference_after(task: Task, exp_ref: str | None) -> str | None:
    if task.event is ExpMessage.EXPINIT:
        return task.names
    if task.event is ExpMessage.EXPSTART:
        return exp_ref or task.names
    return None if task.leads_to is ExpStatus.CONNECTED else exp_ref


def _may_take_over(task: Task) -> bool:
    """Whether a message takes over an experiment, perhaps one whose EXPINIT still runs."""
    with contextlib.suppress(ValueError):
        return takes_over(task.event, task.args)
    return False
