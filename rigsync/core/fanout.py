"""Many peers: one push out, its outcomes collated."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from rigsync.core.clock import NANOSECONDS, StampClock
from rigsync.core.enums import ExpMessage
from rigsync.core.errands import Request
from rigsync.core.events import LinkState, PushBegun, PushCompleted, PushDecided, RigSettled, Start, StoodStill
from rigsync.core.lifecycle import ENDS
from rigsync.core.link import Link
from rigsync.core.messages import Verb
from rigsync.core.orders import Order
from rigsync.core.outputs import Line, Outputs
from rigsync.core.peer import Peer
from rigsync.core.rigs import RigConfig
from rigsync.core.timing import Timing
from rigsync.errors import RemoteProtocolError, RigError


@dataclass(slots=True)
class _Push:
    event: Verb
    rigs: list[str]
    waiting: int
    at: float | None
    request: Request
    all_or_none: bool
    tells_each: bool = False
    """Whether somebody wants to hear of each rig as it answers."""
    answers: dict[str, list[Any]] = field(default_factory=dict)
    failures: dict[str, RigError] = field(default_factory=dict)
    starts: dict[str, Start] = field(default_factory=dict)


class Fanout(Outputs[tuple[str, Line]]):
    """The coordinator's core.

    Datagrams and time go in; `take_datagrams` and `take_events` give what comes out; `next_timer` says when
    `handle_timer` is due.

    Parameters
    ----------
    rigs : mapping of str to RigConfig
        The rigs in their order.
    timing : Timing
        Waits, in seconds.
    boot : str
        16 hexadecimal digits, drawn at random for each coordinator.
    stamps : StampClock
        The coordinator's wall clock.
    random : random.Random
        For back-off.
    program : str, optional
        Which program this is. A rig that refuses others names it to them.
    """

    def __init__(
        self,
        rigs: Mapping[str, RigConfig],
        timing: Timing,
        boot: str,
        stamps: StampClock,
        random: Random,
        program: str | None = None,
    ):
        super().__init__()
        self._stamps, self._timing = stamps, timing
        self._pushes: dict[float, _Push] = {}
        self._undecided: set[float] = set()
        """Those for all or none that have failed on a rig, and of which that was not told."""
        self._has_left = False
        self._timers: list[tuple[float, int]] = []
        """When each peer has something to do next, and its number: a heap. A deadline that has gone stays in it until
        it comes: that costs one idle wake-up, to take it out would cost each datagram."""
        self._requests = count(1)
        shared = timing, boot, stamps, random, self._outbox, self._events, program, len(rigs), self._requests
        self.peers = {name: Peer(Link(config, *shared), self._settled) for name, config in rigs.items()}
        self._by_number = list(self.peers.values())
        self._numbers = {name: number for number, name in enumerate(rigs)}
        self._armed = [math.inf] * len(rigs)
        """The earliest entry of each peer in the heap."""
        self._asked: list[Peer] = []
        """Rigs that were just asked something; their timers are noted once that has left."""

    @property
    def all_alive(self) -> bool:
        """Whether there are rigs and every one is alive or suspect."""
        return bool(self.peers) and all(
            peer.state in (LinkState.ALIVE, LinkState.SUSPECT) for peer in self.peers.values()
        )

    def connect(self, now: float) -> None:
        """Begin to probe all rigs."""
        for peer in self.peers.values():
            peer.connect(now)
            self._note_timer(peer)

    def push(self, order: Order, now: float) -> None:
        """Send a message to rigs; `now` in monotonic seconds.

        Raises
        ------
        ValueError
            The request time is that of a push that is not completed.
        """
        message, request_time, act_at = order.message, order.request_time, order.act_at
        if request_time in self._pushes:
            raise ValueError(f"a push is already filed under the request time {request_time!r}")
        chosen = [self.peers[name] for name in (self.peers if order.rigs is None else order.rigs)]
        # With an EXPINTERRUPT no rig waits for another's pause.
        waits = message.event is not ExpMessage.EXPINTERRUPT
        leave_at = max((peer.echoes.ready_at(order.pause) for peer in chosen if waits), default=-math.inf)
        most = min((peer.link.most_a_second for peer in chosen), default=1)
        request = Request(order, next(self._requests), leave_at, len(chosen) / most)
        at = None if act_at is None else self._stamps.stamp(act_at) / NANOSECONDS
        names = [peer.name for peer in chosen]
        self._pushes[request_time] = _Push(message.event, names, len(chosen), at, request, order.all_or_none)
        self._events.append(PushBegun(request_time, message.event, message.args, names, at))
        begin = now if act_at is None else max(now, act_at)
        if not chosen:
            self._complete(request_time)
        # What began first ends last, as in iblutil.
        for peer in reversed(chosen) if message.event in ENDS else chosen:
            peer.requests.submit(
                request, begin + (peer.config.timeout if order.timeout is None else order.timeout), now
            )
        self._asked += chosen

    def withdraw_queued(self, request_time: float | None = None) -> int:
        """Take out what has not been sent to its rig, of one push or of all; return how many pushes that concerns."""
        touched = {taken for peer in self.peers.values() for taken in peer.requests.withdraw_queued(request_time)}
        return len(touched)

    def outstanding(self, request_time: float) -> list[str]:
        """Return the rigs that have not answered a push yet. Safe to call from any thread."""
        push = self._pushes.get(request_time)
        return [rig for rig in push.rigs if rig not in push.answers and rig not in push.failures] if push else []

    def tell_each(self, request_time: float) -> dict[str, list[Any] | RigError] | None:
        """Tell, by `RigSettled`, of each rig that answers a push or fails from now on; return what is known already.

        None where the push is completed, or was never made here.
        """
        push = self._pushes.get(request_time)
        if push is None:
            return None
        push.tells_each = True
        return {**push.answers, **push.failures}

    def probe(self, rig: str, now: float) -> int:
        """Probe one rig now; return the number of the probe."""
        return self.peers[rig].probe(now)

    def say_goodbye(self) -> None:
        """Tell the rigs that this coordinator is closing; what is outstanding is neither sent again nor answered."""
        self._has_left = True  # to what came behind the goodbye, a rig would answer that it is refused
        for peer in self.peers.values():
            peer.farewell()

    def abandon(self) -> None:
        """Settle everything outstanding: this coordinator is closing."""
        for peer in self.peers.values():
            peer.requests.abandon()

    def receive_datagram(self, data: bytes, source: tuple[str, Line], now: float) -> None:
        """Process a datagram that came from a rig on one of its lines."""
        if self._has_left:
            return
        peer = self.peers[source[0]]
        if peer.receive_datagram(source[1], data, now):
            self._note_timer(peer)
        if self._undecided:
            self._decide()

    def report_refusal(self, source: tuple[str, Line], now: float) -> None:
        """Process that a rig's host refused a datagram."""
        peer = self.peers[source[0]]
        peer.report_refusal(now)
        self._note_timer(peer)

    def report_loss(self, source: tuple[str, Line], reason: str, now: float) -> None:
        """Process that the way to a rig has ended."""
        peer = self.peers[source[0]]
        peer.report_loss(reason, now)
        self._note_timer(peer)

    def report_life(self, source: tuple[str, Line], now: float) -> None:
        """Count part of a message from or to a rig as a sign of life."""
        peer = self.peers[source[0]]
        peer.report_life(now)
        self._note_timer(peer)

    def report_violation(self, source: tuple[str, Line], error: RemoteProtocolError) -> None:
        """Report that what came from a rig cannot be a message."""
        peer = self.peers[source[0]]
        peer.report_violation(error)
        self._note_timer(peer)

    def note_standstill(self, seconds: float, now: float) -> None:
        """Do not count seconds up to `now`, in which this program stood still, as silence of the rigs."""
        if seconds >= self._timing.beat:  # less makes no link lost
            self._events.append(StoodStill(seconds))
            for peer in self.peers.values():
                peer.note_standstill(seconds, now)

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`."""
        if self._has_left:
            return
        self._note_asked()
        due = set()
        while self._timers and self._timers[0][0] <= now:
            at, number = heapq.heappop(self._timers)
            if at == self._armed[number]:
                self._armed[number] = math.inf
                due.add(number)
        for number in sorted(due):
            peer = self._by_number[number]
            if now >= (timer := peer.next_timer()):
                peer.handle_timer(now)
                timer = peer.next_timer()
            self._arm(number, timer)
        self._decide()

    def next_timer(self) -> float:
        """Return when, in monotonic seconds, `handle_timer` is due; it may be called too early without harm."""
        self._note_asked()
        return self._timers[0][0] if self._timers and not self._has_left else math.inf

    def _note_asked(self) -> None:
        while self._asked:
            self._note_timer(self._asked.pop())

    def _note_timer(self, peer: Peer) -> None:
        self._arm(self._numbers[peer.name], peer.next_timer())

    def _arm(self, number: int, timer: float) -> None:
        if timer < self._armed[number]:
            self._armed[number] = timer
            heapq.heappush(self._timers, (timer, number))

    def _settled(self, rig: str, request: Request, outcome: list[Any] | RigError | None, start: Start | None) -> None:
        push = self._pushes[request.request_time]
        push.waiting -= 1
        if isinstance(outcome, RigError):
            push.failures[rig] = outcome
            if push.all_or_none:
                self._undecided.add(request.request_time)
        elif outcome is not None:
            push.answers[rig] = outcome
            if start:
                push.starts[rig] = start
        if push.tells_each and outcome is not None:
            self._events.append(RigSettled(rig, request.request_time, push.event, outcome))
        if not push.waiting:
            self._complete(request.request_time)

    def _decide(self) -> None:
        """Report each push that has certainly failed on some rig, once the others have answered or work on it."""
        for request_time in tuple(self._undecided):
            push = self._pushes[request_time]
            others = [self.peers[rig] for rig in self.outstanding(request_time)]
            if all(peer.requests.is_known_to_work_on(push.request) for peer in others):
                push.all_or_none = False
                self._undecided.remove(request_time)
                answers, failures = push.answers.copy(), push.failures.copy()
                self._events.append(PushDecided(request_time, push.event, answers, failures))

    def _complete(self, request_time: float) -> None:
        push = self._pushes.pop(request_time)
        self._undecided.discard(request_time)
        answers = {rig: push.answers[rig] for rig in push.rigs if rig in push.answers}
        failures = {rig: push.failures[rig] for rig in push.rigs if rig in push.failures}
        starts = {rig: push.starts[rig] for rig in push.rigs if rig in push.starts}
        self._events.append(PushCompleted(request_time, push.event, answers, failures, starts, push.at))
