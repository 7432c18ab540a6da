"""One core on a bench: datagrams by hand, time by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Any

from rigsync.core import legacy, messages
from rigsync.core.agenda import Agenda
from rigsync.core.answers import Identity
from rigsync.core.arguments import compose, compose_command
from rigsync.core.clock import StampClock
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.errands import Request
from rigsync.core.events import Dialect, Event, HandlerDue, Start
from rigsync.core.legacy import Array
from rigsync.core.link import Link
from rigsync.core.messages import (
    Alive,
    Command,
    Frame,
    Message,
    Notice,
    Verb,
)
from rigsync.core.orders import Order
from rigsync.core.outputs import Line
from rigsync.core.peer import Peer
from rigsync.core.responder import Responder
from rigsync.core.rigs import DATAGRAM_ROOM, Address, RigConfig, Room
from rigsync.core.timing import Timing
from rigsync.errors import RigError

COORDINATOR = "c" * 16
RIG = "a" * 16
"""Boot numbers."""
WALL = 1_700_000_000_000_000_000
NAME = "cameras"
HERE = ("10.0.0.1", 50_000)
"""Where the coordinator's datagrams come from, as a rig sees it."""


class Fixed(Random):
    """Draws the lower bound, so that each wait is what the RFC's formula gives."""

    def uniform(self, a: float, b: float) -> float:
        return a


class PeerBench:
    """A `Peer`, what it has sent and told, and a clock that stops at each of its timers."""

    def __init__(self, *, boot: str = COORDINATOR, timing: Timing | None = None, scheme: str = "udp", **config: Any):
        self.now = 0.0
        self.outbox: list[tuple[tuple[str, Line], bytes]] = []
        self.told: list[Event] = []
        self.outcomes: list[tuple[float, list[Any] | RigError | None]] = []
        self.start: Start | None = None
        self.n = 0
        self.steps = 0
        self.boot = boot
        rig = RigConfig(NAME, Address(scheme, "10.0.1.1", 11001), **config)
        stamps = StampClock(WALL, 0.0)
        link = Link(rig, timing or Timing(), boot, stamps, Fixed(), self.outbox, self.told)
        self.peer = Peer(link, self._settled)

    def _settled(self, _: str, request: Request, outcome: list[Any] | RigError | None, start: Start | None) -> None:
        self.outcomes.append((request.request_time, outcome))
        self.start = start

    def frame(self, request: Request, to: str = RIG, at: int | None = None) -> bytes:
        """Return a request as it is written to a rig of the rigsync dialect."""
        return messages.request(self.boot, request.n, request.message, to, at)

    # ---------------------------------------------------------------------------------------------- in

    def connect(self) -> PeerBench:
        self.peer.connect(self.now)
        return self

    def connected(self, dialect: str = "rigsync") -> PeerBench:
        """Connect, detect the dialect, and forget what that took."""
        self.connect()
        if dialect == "rigsync":
            self.alive()
        else:
            self.receive(self.sent(Line.PROBES)[-1], Line.PROBES)
        self.outbox.clear()
        self.told.clear()
        return self

    def submit(
        self,
        event: str,
        *args: Any,
        timeout: float = 10.0,
        confirm: bool = False,
        delay: float | None = None,
        **options: float,
    ) -> Request:
        return self._submit(compose(event, *args), timeout, confirm, delay, **options)

    def call(self, command: str, *args: Any, timeout: float = 10.0, **keywords: Any) -> Request:
        return self._submit(compose_command(command, args, keywords), timeout)

    def _submit(
        self, message: Message, timeout: float, confirm: bool = False, delay: float | None = None, **options: float
    ) -> Request:
        self.n = next(self.peer.link.numbers)
        act_at = None if delay is None else self.now + delay
        request = Request(Order(message, float(self.n), act_at=act_at, confirm=confirm, **options), self.n)
        self.peer.requests.submit(request, (act_at or self.now) + timeout, self.now)
        return request

    def receive(self, data: bytes, line: Line = Line.REQUESTS) -> None:
        self.peer.receive_datagram(line, data, self.now)

    def alive(
        self,
        n: int | None = None,
        boot: str = RIG,
        status: ExpStatus = ExpStatus.CONNECTED,
        held: int = 0,
        offset: float = 0.0,
        **told: int,
    ) -> None:
        """Answer a probe as a rig does, by default the first that is outstanding; `told` are further fields."""
        outstanding = {probe.n: probe for probe in self.peer.prober.log._newest if not probe.answered}
        if boot != self.peer.process.boot and n not in outstanding and (n or not outstanding):
            n = self.peer.probe(self.now)
            self.sent(Line.PROBES)
            outstanding[n] = self.peer.prober.log._newest[-1]
        n = next(iter(outstanding), 1) if n is None else n
        t0 = outstanding[n].stamp if n in outstanding else 0
        stamp = WALL + round((self.now + offset) * 1e9)
        frame = Alive(boot, n, t0, stamp, stamp + held, NAME, status, None, "0.1.0", **told)
        newest = self.peer.prober.n
        self.receive(messages.alive(frame), Line.PROBES)
        if self.peer.prober.n > newest and self.peer.dialect is Dialect.IBLUTIL:  # it is asked whether it is that
            self.alive(self.peer.prober.n, boot, status, held, offset)

    def ack(self, n: int | None = None, boot: str = RIG) -> None:
        self.receive(messages.ack(boot, self.n if n is None else n))

    def reply(self, *args: Any, n: int | None = None, boot: str = RIG, started: int = 0) -> None:
        message = Message.of(ExpMessage.EXPINFO, list(args))
        self.receive(messages.reply(boot, self.n if n is None else n, message, started, started))

    def notice(
        self, n: int, body: Any = None, *, topic: str = "log", key: str | None = None, confirm: bool = True
    ) -> None:
        self.receive(messages.notice(messages.Notice(RIG, n, topic, key, body, confirm)), Line.PROBES)

    def failure(self, error: str, text: str = "", traceback: str = "", n: int | None = None) -> None:
        self.receive(messages.failure(RIG, self.n if n is None else n, error, text, traceback))

    def array(self, event: ExpMessage, *args: Any) -> bytes:
        """Receive an array as an iblutil rig writes it; return its bytes."""
        data = json.dumps([int(event), *args]).encode()
        self.receive(data)
        return data

    def run(self, seconds: float) -> list[float]:
        """Let time pass, stopping at each timer; return after how many seconds requests were sent."""
        start, end, times = self.now, self.now + seconds, []
        while (when := self.peer.next_timer()) <= end:
            self.now = max(self.now, when)
            before = len(self.outbox)
            self.peer.handle_timer(self.now)
            times += [round(self.now - start, 6) for (_, line), _ in self.outbox[before:] if line is Line.REQUESTS]
            self.steps += 1
            assert self.peer.next_timer() > self.now, "a timer that is due again at once would never sleep"
        self.now = end
        return times

    # --------------------------------------------------------------------------------------------- out

    def sent(self, line: Line = Line.REQUESTS) -> list[bytes]:
        """Return what was sent on a line since the last look at it."""
        found = [data for (_, used), data in self.outbox if used is line]
        self.outbox[:] = [entry for entry in self.outbox if entry[0][1] is not line]
        return found

    def events(self, kind: type[Event] = Event) -> list[Any]:
        """Return the events of a kind since the last look at it."""
        found = [event for event in self.told if isinstance(event, kind)]
        self.told[:] = [event for event in self.told if not isinstance(event, kind)]
        return found

    def outcome(self) -> Any:
        """Return the one outcome since the last look."""
        ((_, outcome),) = self.outcomes
        self.outcomes.clear()
        return outcome


def unaddressed(frame: Frame | Array) -> Frame | Array:
    """Return what a rig has sent, which names its coordinator, without that name."""
    if isinstance(frame, Array):
        return frame
    assert isinstance(frame, messages.Addressed)
    assert frame.to
    return replace(frame, to=None)


class RigBench:
    """A `Responder`, what it has sent and told, and a clock that stops at each of its timers."""

    def __init__(
        self,
        *handled: str,
        commands: Iterable[str] = (),
        lease: float = 300.0,
        room: Room = DATAGRAM_ROOM,
        strangers: bool = False,
        name: str = NAME,
        **identity: Any,
    ):
        self.now = 100.0
        self.handled: set[Verb] = {ExpMessage[name] for name in handled} | {Command(name) for name in commands}
        self.stamps = StampClock(WALL, self.now)
        self.rig = Responder(Identity(name, **identity), self.handled, Timing(), RIG, self.stamps, lease, room)
        self.rig._reach.is_open = not strangers
        self.n = 0
        self.noticed: list[tuple[Any, Notice]] = []
        self.outbox: list[tuple[Any, bytes]] = []
        self.told: list[Event] = []

    @property
    def agenda(self) -> Agenda:
        """What the rig has to do, for a look at its inside."""
        return self.rig.agenda

    # ---------------------------------------------------------------------------------------------- in

    def receive(self, data: bytes, source: Any = HERE) -> None:
        self.rig.receive_datagram(data, source, self.now)
        self._collect()

    def request(
        self,
        event: str,
        *args: Any,
        n: int | None = None,
        boot: str = COORDINATOR,
        source: Any = HERE,
        to: str | None = RIG,
        delay: float | None = None,
        of: str | None = None,
    ) -> int:
        """Receive a request, by default with the next number; return its number."""
        if n is None:
            n = self.n = self.n + 1
        at = None if delay is None else self.stamps.stamp(self.now + delay)
        self.receive(messages.request(boot, n, compose(event, *args), to, at, of), source)
        return n

    def call(
        self,
        command: str,
        *args: Any,
        n: int | None = None,
        boot: str = COORDINATOR,
        source: Any = HERE,
        **keywords: Any,
    ) -> int:
        """Receive a request for a command, by default with the next number; return its number."""
        if n is None:
            n = self.n = self.n + 1
        self.receive(messages.request(boot, n, compose_command(command, args, keywords), RIG), source)
        return n

    def probe(self, boot: str = COORDINATOR, source: Any = HERE) -> None:
        self.receive(messages.probe(boot, 1, 0), source)

    def array(self, event: ExpMessage, *args: Any, source: Any = HERE) -> bytes:
        """Receive a message as an iblutil coordinator writes it; return its bytes."""
        data = json.dumps([int(event), *args]).encode()
        self.receive(data, source)
        return data

    def respond(self, task: int, returned: Any = None) -> None:
        self.agenda.respond(task, returned, self.now)
        self._collect()

    def fail(self, task: int, error: str, text: str = "", traceback: str = "") -> None:
        self.agenda.fail(task, error, text, traceback, self.now)
        self._collect()

    def interrupt(self, reason: str) -> None:
        self.agenda.interrupt(reason, self.now)
        self._collect()

    def close(self, reason: str) -> None:
        self.agenda.close(reason, self.now)
        self._collect()

    def run(self, seconds: float) -> None:
        """Let time pass, stopping at each timer."""
        end = self.now + seconds
        while (when := self.rig.next_timer()) <= end:
            self.now = max(self.now, when)
            self.rig.handle_timer(self.now)
            self._collect()
            assert self.rig.next_timer() > self.now, "a timer that is due again at once would never sleep"
        self.now = end

    def _collect(self) -> None:
        for destination, data in self.rig.take_datagrams():
            if data[:1] == b"{" and isinstance(frame := messages.decode(data), Notice):
                assert frame.to
                self.noticed.append((destination, replace(frame, to=None)))
            else:
                self.outbox.append((destination, data))
        self.told += self.rig.take_events()

    # --------------------------------------------------------------------------------------------- out

    def sent(self) -> list[bytes]:
        """Return what was sent, to whomever, since the last look."""
        found = [data for _, data in self.outbox]
        self.outbox.clear()
        return found

    def notices(self, topic: str | None = None) -> list[tuple[Any, Notice]]:
        """Return the notices sent since the last look, each with where it went; by default of all topics."""
        found = [entry for entry in self.noticed if topic in (None, entry[1].topic)]
        self.noticed.clear()
        return found

    def answers(self) -> list[Frame | Array]:
        """Return what was sent since the last look, decoded, without whom it names; that it does is looked at."""
        return [unaddressed(messages.decode(data)) for data in self.sent()]

    def answer(self) -> Any:
        """Return the one datagram that was sent since the last look, decoded."""
        (frame,) = self.answers()
        return frame

    def events(self, kind: type[Event] = Event) -> list[Any]:
        """Return the events of a kind since the last look at it."""
        found = [event for event in self.told if isinstance(event, kind)]
        self.told[:] = [event for event in self.told if not isinstance(event, kind)]
        return found

    def due(self) -> HandlerDue:
        """Return the one handler that was to be run since the last look."""
        (event,) = self.events(HandlerDue)
        return event  # type: ignore[no-any-return]

    def do(self, event: str, *args: Any, returned: Any = None) -> Any:
        """Have a request handled at once, by its handler if it has one; return its decoded answer."""
        n = self.request(event, *args)
        for due in self.events(HandlerDue):
            if due.event is ExpMessage[event]:
                self.respond(due.task, returned)
        (answer,) = [frame for frame in self.answers() if isinstance(frame, Frame) and frame.n == n]
        return answer

    def do_array(self, event: ExpMessage, *args: Any, source: Any = HERE) -> Array:
        """Have a message of the iblutil dialect handled at once; return its decoded answer, which is confirmed."""
        self.array(event, *args, source=source)
        for due in self.events(HandlerDue):
            self.respond(due.task)
        answer = self.sent()[-1]
        if legacy.has_mark(answer, legacy.RIG_MARK):
            self.receive(answer, source)
        frame = messages.decode(answer)
        assert isinstance(frame, Array)
        return frame

    def enter(self, status: str, reference: str | None = "2024-01-02_1_mouse", *, dialect: str = "rigsync") -> RigBench:
        """Bring the rig into a status by the messages that lead there, which makes their sender the owner."""
        way = {"CONNECTED": [], "INITIALIZED": ["EXPINIT"], "RUNNING": ["EXPINIT", "EXPSTART"]}
        way["STOPPED"] = ["EXPINIT", "EXPSTART", "EXPEND"]
        for event in way[status]:
            args = [{"exp_ref": reference}] if event == "EXPINIT" else []
            if dialect == "rigsync":
                self.do(event, *args)
            else:
                self.do_array(ExpMessage[event], *args)
        assert self.agenda.status is ExpStatus[status]
        self.outbox.clear()
        self.told.clear()
        self.noticed.clear()
        return self
