"""What one rig is asked: one errand under way, calls beside it, the others in order, each until its time is up."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from rigsync._text import size_text
from rigsync.core import legacy
from rigsync.core.calls import ANSWER
from rigsync.core.enums import ExpMessage
from rigsync.core.events import Dialect, LinkState, RequestReceived
from rigsync.core.link import Link
from rigsync.core.liveness import Liveness
from rigsync.core.messages import Command, Verb
from rigsync.core.orders import Order
from rigsync.core.queries import QUERIES, WAITING_BYTES
from rigsync.core.rigs import MAX_DATAGRAM, RigConfig
from rigsync.core.stream import room_of
from rigsync.errors import Cancelled, RigError, RigLost, RigRefused, RigTimeout

BESIDE = QUERIES
"""Calls that are under way beside what has its turn: as many as a rig handles at a time."""
BESIDE_BYTES = WAITING_BYTES // 4
"""Bytes that these take at the rig. It refuses what does not fit, and other coordinators call it, too."""

NOT_OVERTAKEN: tuple[Verb, ...] = (ExpMessage.EXPINTERRUPT, ANSWER)
"""What an EXPINTERRUPT does not call off. What it stops at the rig may have asked for the answer."""

_INTERRUPT, _LOST = ExpMessage.EXPINTERRUPT, LinkState.LOST  # which is slow to look up until Python 3.12


class Request:
    """One push, shared by all the rigs that it goes to.

    `n` is higher than that of every request before. It leaves to no iblutil rig before `leave_at` (monotonic s), so
    that all of these get it in one turn. Between two datagrams to one rig, sent again or probes, lies an `interval` (s)
    at least, so that many rigs share what may leave.
    """

    def __init__(self, order: Order, n: int, leave_at: float = -math.inf, interval: float = 0.0):
        self.n, self.leave_at, self.interval = n, leave_at, interval
        self.message, self.event, self.request_time = order.message, order.message.event, order.request_time
        self.act_at, self.confirm, self.patience, self.pause = order.act_at, order.confirm, order.patience, order.pause
        self.beside = order.beside

    @cached_property
    def room(self) -> int:
        """Bytes that it takes at the rig, at most."""
        return room_of(self.message.body.encode("ascii"), BESIDE_BYTES)

    @cached_property
    def array(self) -> bytes:
        return legacy.array(self.message, legacy.COORDINATOR_MARK)

    @property
    def hands_over_token(self) -> bool:
        """Whether an iblutil rig answers by its echo alone, as it does when it is handed a token."""
        return self.event is ExpMessage.ALYX and not self.message.asks_token


@dataclass(slots=True, eq=False)
class Errand:
    """A request's way to one rig."""

    request: Request
    submitted: float
    deadline: float
    n: int = 0
    """The number under which it is sent: higher than that of all that was sent to this rig before."""
    tries: int = 0
    sent_at: float = math.inf
    next_send: float = math.inf
    next_probe: float = math.inf
    """When the rig's clock is measured again, since the message waits for its instant."""
    received: bool = False
    """Whether it has reached the rig."""
    in_hand: bool = False
    """Whether the rig says that it is working on it. An echo does not say so."""
    done: int | None = None
    """Bytes of an answer that the rig says it has sent and that has not arrived; None if it says nothing of the
    kind."""
    turn_at: float = math.inf
    """When it became the first of those that wait, in monotonic seconds."""
    time_left: float = math.inf
    """Seconds that it had then for its answer."""
    frame: bytes = b""
    """The request in the rigsync dialect, to this rig, once it has been sent."""
    echoed_at: float | None = None
    end_reached_rig: bool = False
    """Whether the rig has answered the EXPEND that called this off. Then this will not be run any more."""
    excused_until: float = -math.inf
    """Monotonic seconds before which this is not given up, since its time was over while nobody here listened."""

    @property
    def name(self) -> str:
        return self.request.event.name

    def confirm_receipt(self, link: Link) -> None:
        """Note that the rig has it, and tell so once where that was asked for."""
        if not self.received:
            self.received = True
            if self.request.confirm:
                link.events.append(RequestReceived(link.name, self.request.request_time))


class Errands:
    """The errands to one rig. One that is lost is given less time: `lost_grace` (s) of further silence."""

    def __init__(self, liveness: Liveness, lost_grace: float):
        self._liveness, self._lost_grace = liveness, lost_grace
        self.current: Errand | None = None
        self.doubtful: list[Errand] = []
        """Sent, and then called off by an EXPEND. Only the rig knows which of the two came first."""
        self.beside: list[Errand] = []
        """Sent, and waiting for no turn."""
        self._queue: list[Errand] = []  # EXPINTERRUPTs before all others
        self._aside: deque[Errand] = deque()  # for which there is no room beside yet
        self._queue_timer = math.inf

    def add(self, errand: Errand) -> None:
        """Queue an errand; EXPINTERRUPTs go before all others."""
        if errand.request.event is _INTERRUPT:
            before = [other for other in self._queue if other.request.event is _INTERRUPT]
            self._queue.insert(len(before), errand)
        elif errand.request.beside:
            self._aside.append(errand)
        else:
            self._queue.append(errand)
        self._queue_timer = min(self._queue_timer, self.limit(errand))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and nothing waits."""
        return not (self.current or self.beside or self.doubtful or self._queue or self._aside)

    @property
    def waiting(self) -> int:
        """How many have to be sent or answered before one that is added now."""
        return len(self._queue) + (self.current is not None)

    def next(self) -> Errand | None:
        """Return the errand that is under way; where there was none, begin with the first that waits."""
        if self.current is None and self._queue:
            self.current = self._queue.pop(0)
        return self.current

    @property
    def may_send(self) -> bool:
        """Whether the rig has all that was sent to it. It never runs what comes after something newer."""
        if (current := self.current) and current.tries and not current.received:
            return False
        return not self.beside or all(errand.received or not errand.tries for errand in self.beside)

    @property
    def is_one_aside(self) -> bool:
        """Whether one waits that needs no turn."""
        return bool(self._aside)

    def next_beside(self) -> Errand | None:
        """Begin with the next one that waits for no turn, if there is room for it at the rig."""
        if not self._aside or len(self.beside) >= BESIDE or not self.may_send:
            return None
        taken = sum(errand.request.room for errand in self.under_way())
        if taken and taken + self._aside[0].request.room > BESIDE_BYTES:
            return None
        self.beside.append(self._aside.popleft())
        return self.beside[-1]

    def limit(self, errand: Errand) -> float:
        limit = errand.deadline + errand.request.patience if errand.in_hand else errand.deadline
        if self._liveness.state is _LOST:
            asked = max(self._liveness.lost_since, errand.submitted)
            if errand.received and errand.request.act_at is not None:
                asked = max(asked, errand.request.act_at)  # a rig that waits for the instant may be silent till then
            limit = min(limit, asked + self._lost_grace)
        return limit if limit > errand.excused_until else errand.excused_until

    def note_standstill(self, now: float) -> None:
        """Give errands more time, since nobody here has listened: an answer may lie in the socket unread.

        Each errand is given time once. A program that stands still again and again gets its outcomes, too.
        """
        until = now + self._lost_grace
        for errand in [*self._queue, *self._aside, *self.under_way()]:
            if self.limit(errand) < until and errand.excused_until == -math.inf:
                errand.excused_until = until
        self.set_timer()

    def next_timer(self) -> float:
        return self._queue_timer

    def set_timer(self) -> None:
        """Work out the timer anew, since the link's state has changed."""
        self._queue_timer = min(map(self.limit, (*self._queue, *self._aside)), default=math.inf)

    def _take(self, is_meant: Callable[[Errand], bool]) -> list[Errand]:
        """Take out such errands, of those that have not been sent."""
        taken: list[Errand] = []
        kept: list[Errand] = []
        for errand in (*self._queue, *self._aside):  # once, since it may be long
            (taken if is_meant(errand) else kept).append(errand)
        self._queue = [errand for errand in kept if not errand.request.beside]
        self._aside = deque(errand for errand in kept if errand.request.beside)
        if self.current and not self.current.tries and is_meant(self.current):
            taken.insert(0, self.current)
            self.current = None
        return taken

    def take_unsent(self, request_time: float | None = None) -> list[Errand]:
        """Take out what has not been sent, of one push or of all."""
        return self._take(lambda errand: request_time in (None, errand.request.request_time))

    def take_called_off(self, end_at: float | None, now: float, rig_waits: bool) -> list[Errand]:
        """Take out what waits for a later instant than an EXPEND; what was sent already goes to `doubtful`.

        The EXPEND is to act at `end_at` (monotonic s), None for at once. A rig of rigsync waits for the instant itself
        (`rig_waits`); an iblutil rig acts as soon as it hears.
        """

        def waits(errand: Errand) -> bool:
            act_at = errand.request.act_at
            if act_at is None or now >= act_at or (end_at is not None and act_at < end_at):
                return False
            return not errand.tries or rig_waits

        called_off = self._take(waits)
        if self.current and waits(self.current):
            self.doubtful.append(self.current)
            self.current = None
        return called_off

    def take_commands(self) -> list[Errand]:
        commands = self._take(lambda errand: isinstance(errand.request.event, Command))
        self.set_timer()
        return commands

    def under_way(self) -> list[Errand]:
        under_way = [*self.doubtful, *self.beside] if self.doubtful or self.beside else []
        if self.current:
            under_way.append(self.current)
        return under_way

    def sent(self, n: int) -> Errand | None:
        if (current := self.current) and current.n == n and current.tries:
            return current
        for errand in self.under_way():
            if errand.n == n and errand.tries:
                return errand
        return None

    def remove(self, errand: Errand) -> None:
        if errand is self.current:
            self.current = None
        elif errand in self.beside:
            self.beside.remove(errand)
        else:
            self.doubtful.remove(errand)

    def take_sent(self, but: tuple[Verb, ...] = ()) -> list[Errand]:
        sent = [errand for errand in self.under_way() if errand.tries and errand.request.event not in but]
        for errand in sent:
            self.remove(errand)
        return sent

    def note_end(self, reached_rig: bool, now: float) -> None:
        """Limit the wait for what an EXPEND has called off, once it is known what became of the EXPEND."""
        for errand in self.doubtful:
            errand.end_reached_rig |= reached_rig
            errand.deadline, errand.next_send = min(errand.deadline, now + self._lost_grace), now

    def take_overtaken(self) -> list[Errand]:
        overtaken = self.take_sent(but=NOT_OVERTAKEN)
        return overtaken + self._take(lambda errand: errand.request.event not in NOT_OVERTAKEN)

    def begin_anew(self, errand: Errand) -> None:
        """Have one that the rig has not run, since something newer came first, sent under another number."""
        self.remove(errand)
        errand.tries, errand.frame, errand.received, errand.next_send = 0, b"", False, math.inf
        self._aside.appendleft(errand)

    def take_expired(self, now: float) -> list[Errand]:
        expired = self._take(lambda errand: now >= self.limit(errand))
        self.set_timer()
        return expired


def unanswered(
    errand: Errand, config: RigConfig, liveness: Liveness, dialect: Dialect, version: str | None, is_current: bool
) -> RigError:
    """Return the error of an errand whose time is up, with the reason as far as it is known."""
    name, address = errand.name, config.address
    if errand.end_reached_rig:
        return Cancelled(
            config.name,
            f"EXPEND has called {name} off, and it runs no more; the rig has not said whether it had begun before",
        )
    if errand.received and liveness.is_gone:
        had = f"had {name}" if dialect is Dialect.IBLUTIL else f"had {name} and was working on it"
        return (RigRefused if liveness.refused else RigLost)(
            config.name,
            f"the rig {had} when its program ended; look at the rig for what became of its "
            "recording, start its program, and begin again with EXPINIT",
        )
    if liveness.refused:
        return RigRefused(
            config.name,
            f"{name} was refused: the host of {address} is up and nothing listens at that port; "
            "start the rig's program there, or correct the port",
        )
    if liveness.state is LinkState.LOST:
        remedy = f"check the power, the cable and the firewall of {address}"
        if address.is_brokered:
            remedy = f"check its program and its network, and the broker {address}"
        if liveness.left:
            remedy = "its program was closed: start it again"
        return RigLost(config.name, f"no answer to {name} and the rig is lost ({liveness.reason}); {remedy}")
    progress = _progress(errand, config, dialect, is_current)
    if isinstance(errand.request.event, Command) and errand.tries and not errand.received:
        progress += (
            f"; or update rigsync there: one from before there were commands drops them, and the rig's is {version}"
        )
    return RigTimeout(config.name, f"no answer to {name} in time: {progress}")


def _progress(errand: Errand, config: RigConfig, dialect: Dialect, is_current: bool) -> str:
    if dialect is Dialect.UNKNOWN:
        return f"nothing has ever come from {config.address}; is the rig's program running there?"
    if not is_current:
        return "it was still waiting behind earlier messages to this rig"
    if dialect is Dialect.IBLUTIL and errand.request.message.size > MAX_DATAGRAM:
        return "iblutil takes no more than it can read at once, some 64 KiB; send the rig a path to the data instead"
    if errand.received and dialect is Dialect.IBLUTIL:
        return (
            "the iblutil rig has received it, and says no more; its program may be at work on it, has ended, or has "
            "dropped it: look at the rig; if it has ended, start it and begin again with EXPINIT, otherwise allow a "
            "longer timeout or pause"
        )
    if errand.done is not None:
        return (
            f"the rig has run it, but its answer of {size_text(errand.done)} does not arrive, though small "
            "ones do; look for a smaller MTU on the way, as of a VPN or jumbo frames (rigsync doctor), or address the "
            "rig with tcp://"
        )
    if errand.received:
        return "the rig has it and is still working on it; look at the rig, or allow a longer timeout"
    if dialect is Dialect.IBLUTIL:
        return (
            "the iblutil rig did not confirm it. Such a rig drops what comes while it is busy and closes its "
            "socket for good when a confirmation is lost: if a ping is not answered either, restart its program"
        )
    return f"sent {errand.tries} times without a sign of it; look at the network between here and the rig"
