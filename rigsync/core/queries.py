"""What is asked of a rig beside its lifecycle, and how much may wait there (docs/protocol.md section 4)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from rigsync._text import size_text
from rigsync.core.coordinators import Address, Record
from rigsync.core.enums import ExpStatus
from rigsync.core.messages import Command, Verb
from rigsync.core.ownership import Ownership, Sender
from rigsync.core.schedule import Schedule

QUERIES = 8
"""Messages outside the lifecycle whose handlers run at the same time."""
WAITING = 256
"""Messages that may wait for their turn, and as many for their instant. More are refused, so that a flood takes neither
memory nor threads. While a coordinator is in charge, all others together get half of each at most."""
WAITING_BYTES = 8 << 20
"""Bytes of all messages that wait, and that handlers work on for others than the one in charge. A larger one is there
alone."""
LEAD = 0.02
"""Seconds before an instant at which its handlers are handed over, so that a fine timer can wait for the rest."""

CHECK = Command("rigsync.check")
"""The command that asks what a rig lacks for a session."""
TRANSFERS = Command("rigsync.transfers")
"""The command that asks what is still to be done after sessions."""
FOR_ANYBODY = frozenset({CHECK, TRANSFERS})
"""These change nothing, so that anybody may ask, at any time."""
JOURNAL = Command("rigsync.journal")
"""The command that asks for a rig's own journal, in pages. While an experiment goes on, only who is in charge may."""


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

    @property
    def hand_over_at(self) -> float:
        """When, in monotonic seconds, its handlers are handed over to wait for its instant; inf without one."""
        return self.schedule.instant - LEAD if self.schedule else math.inf


class Queries:
    """The messages outside the lifecycle: those whose handlers run, and those that wait for a place."""

    def __init__(self, ownership: Ownership):
        self._ownership = ownership
        self.running: list[Task] = []
        self.waiting: deque[Task] = deque()

    def next(self) -> Task | None:
        """Return what may run next; messages of whoever may command go first."""
        return next(filter(self.has_place, sorted(self.waiting, key=self.is_strangers)), None)

    def has_place(self, task: Task) -> bool:
        if len(self.running) >= QUERIES:
            return False
        if self._is_in_charge(task):
            return True
        running = self._of_others()
        if running and sum(other.size for other in running) + task.size > WAITING_BYTES:
            return False
        return not self.is_strangers(task) or sum(map(self.is_strangers, running)) < QUERIES // 2

    def no_room(self, queue: Collection[Task], waiting: Iterable[Task], task: Task) -> str:
        """Return why one more may not wait in a queue, with all that waits anywhere; empty where it may."""
        others = list(waiting)
        if not self._is_in_charge(task):  # what a handler works on takes as much room as what waits
            others += self._of_others()
        share = 1
        if self.is_strangers(task):
            share = 2
            queue, others = (list(filter(self.is_strangers, tasks)) for tasks in (queue, others))
        if len(queue) >= WAITING // share:
            return f"{len(queue)} messages are waiting already; look at the rig"
        held = sum(other.size for other in others)
        if held and held + task.size > WAITING_BYTES // share:
            return f"messages of {size_text(held)} wait already, or are worked on; look at the rig"
        return ""

    def is_strangers(self, task: Task) -> bool:
        """Whether another coordinator than the sender is in charge."""
        return task.sender is not None and not self._ownership.allows(task.sender)

    def _is_in_charge(self, task: Task) -> bool:
        return task.sender is None or self._ownership.is_led_by(task.sender)

    def _of_others(self) -> list[Task]:
        return [task for task in self.running if not self._is_in_charge(task)]
