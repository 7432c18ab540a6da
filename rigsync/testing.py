"""For tests, yours too: real coordinator and rig cores on a simulated, seeded, bad network. Nothing sleeps.

Example
-------
>>> network = SimNetwork(seed=7, loss=0.3)
>>> rig = network.add_rig("cameras", {"EXPSTART": 0.5})
>>> coordinator = network.coordinator()
>>> when = coordinator.push("EXPSTART")
>>> network.run(60, until=lambda: when in coordinator.results)
True
>>> coordinator.results[when].failures["cameras"].error
'StateError'
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, Protocol, TypeVar

from rigsync.core import legacy, messages
from rigsync.core.answers import Identity
from rigsync.core.arguments import compose, compose_command, validate_event
from rigsync.core.board import Board
from rigsync.core.clock import NANOSECONDS, StampClock
from rigsync.core.enums import ExpMessage
from rigsync.core.events import Event, HandlerDue, PushCompleted, Schedule
from rigsync.core.fanout import Fanout
from rigsync.core.messages import Command, Message, Verb
from rigsync.core.orders import Order
from rigsync.core.outputs import Line
from rigsync.core.ownership import LEASE
from rigsync.core.responder import Responder
from rigsync.core.rigs import Address as Uri
from rigsync.core.rigs import RigConfig
from rigsync.core.timing import Timing

SimAddress = tuple[str, int]
Handler = Callable[..., Any]
SimRig = TypeVar("SimRig", "FakeRig", "EchoRig")

EPOCH = 1_700_000_000 * NANOSECONDS
"""Wall time, in nanoseconds, at virtual time 0."""


class DriftingClock(StampClock):
    """A clock that is off, and drifts further off.

    Parameters
    ----------
    offset : float
        Seconds by which it is ahead of the network's time at virtual time 0.
    drift : float
        Seconds a second by which it gains.
    """

    def __init__(self, offset: float = 0.0, drift: float = 0.0):
        super().__init__(EPOCH, 0.0)
        self._offset, self._drift = offset, drift

    def stamp(self, now: float) -> int:
        """Return the stamp of the virtual instant `now`."""
        return super().stamp(now + self._offset + self._drift * now)

    def instant(self, stamp: int) -> float:
        """Return the virtual instant of a stamp."""
        return (super().instant(stamp) - self._offset) / (1 + self._drift)


class Node(Protocol):
    """A participant of a `SimNetwork`."""

    def receive(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        """Process a datagram."""

    def refuse(self, source: SimAddress, destination: SimAddress) -> None:
        """React to a refusal by `destination` of a datagram from `source`."""

    def handle_timer(self) -> None:
        """Do what is due."""

    def next_timer(self) -> float:
        """Return when `handle_timer` is due, in virtual seconds."""


class SimNetwork:
    """A network that loses, duplicates, reorders and delays, the same way for the same seed.

    Parameters
    ----------
    seed : int
        Seed of all that is random in it, also of the cores' back-off.
    loss, duplication, reordering : float
        Shares of datagrams, each way, from 0 to 1. A reordered one is held back for up to 50 ms.
    delay : (float, float)
        Bounds of the one-way delay in seconds.

    Attributes
    ----------
    now : float
        Virtual monotonic seconds.
    cut_off : set of str
        Hosts that are cut off: nothing is carried from or to them.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        loss: float = 0.0,
        duplication: float = 0.0,
        reordering: float = 0.0,
        delay: tuple[float, float] = (0.0001, 0.001),
    ):
        self.random = Random(seed)
        self.loss, self.duplication, self.reordering, self.delay = loss, duplication, reordering, delay
        self.now = 0.0
        self.cut_off: set[str] = set()
        self.rigs: dict[str, FakeRig | EchoRig] = {}
        self._nodes: list[Node] = []
        self._at: dict[SimAddress, Node] = {}
        self._last: dict[tuple[SimAddress, SimAddress], float] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = self._coordinators = 0

    def add_rig(
        self,
        name: str,
        handlers: Mapping[str, float | Handler] | None = None,
        *,
        commands: Mapping[str, float | Handler] | None = None,
        offset: float = 0.0,
        drift: float = 0.0,
        lease: float = LEASE,
        **identity: Any,
    ) -> FakeRig:
        """Plug in a rig that speaks the rigsync dialect.

        Parameters
        ----------
        name : str
            Its name.
        handlers : mapping, optional
            By message, the seconds that its handler takes, or a function that is called at once with the message's
            arguments.
        commands : mapping, optional
            The same by name of a command; the function returns the command's value.
        offset, drift : float
            Seconds that its clock is ahead, and that it gains a second.
        lease : float
            Seconds for which the coordinator in charge may be silent.
        **identity
            Further fields of `Identity`, such as ``main_sync``.

        Raises
        ------
        TypeError, ValueError
            An unknown message, or an impossible name of a command.
        """
        known: dict[Verb, float | Handler] = {validate_event(event): do for event, do in (handlers or {}).items()}
        known.update({Command(command): do for command, do in (commands or {}).items()})
        rig = FakeRig(self, name, known, Identity(name, **identity), offset, drift, lease)
        return self._plug_rig(name, rig)

    def add_echo_rig(self, name: str, latency: float = 0.001) -> EchoRig:
        """Plug in a model of an iblutil rig.

        Parameters
        ----------
        name : str
            Its name.
        latency : float
            Seconds between its echo of a message and its answer.
        """
        return self._plug_rig(name, EchoRig(self, name, latency))

    def coordinator(
        self, rigs: Iterable[str] | None = None, timing: Timing | None = None, **config: Any
    ) -> Coordinator:
        """Plug in a coordinator, and begin to probe.

        Parameters
        ----------
        rigs : iterable of str, optional
            Names of its rigs; by default all that are plugged in.
        timing : Timing, optional
            Other times than the usual ones.
        **config
            Further fields of `RigConfig`, the same for all rigs, such as ``timeout``.

        Raises
        ------
        KeyError
            There is no such rig.
        ConfigError
            A field has an impossible value.
        """
        self._coordinators += 1
        host = f"10.0.{self._coordinators // 250 + 100}.{1 + self._coordinators % 250}"
        names = list(self.rigs if rigs is None else rigs)
        addresses = {name: self.rigs[name].address for name in names}
        coordinator = Coordinator(self, host, addresses, timing or Timing(), config)
        self._nodes.append(coordinator)
        for address in coordinator.lines:
            self._at[address] = coordinator
        coordinator.fanout.connect(self.now)
        coordinator.pump()
        return coordinator

    def kill(self, coordinator: Coordinator) -> None:
        """End a coordinator as SIGKILL does: it says nothing more, and nothing listens where it was."""
        self._nodes.remove(coordinator)
        for address in coordinator.lines:
            self._at[address] = _Nothing()

    def send(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        """Carry a datagram, or not."""
        if not getattr(self._at[source], "listening", True):
            return  # a program that has ended sends nothing more, whatever its handlers still do
        if source[0] in self.cut_off or destination[0] in self.cut_off:
            return
        if self.random.random() < self.loss:
            return
        copies = 2 if self.random.random() < self.duplication else 1
        for _ in range(copies):
            # As in a switched network, nothing overtakes on one way, except by being held back on purpose.
            arrival = max(self.now + self.random.uniform(*self.delay), self._last.get((source, destination), 0.0))
            if self.random.random() < self.reordering:
                arrival += self.random.uniform(0, 0.05)
            else:
                self._last[source, destination] = arrival
            self._schedule(arrival, lambda: self._deliver(data, source, destination))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Call `action` after `delay` virtual seconds."""
        self._schedule(self.now + delay, action)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let virtual time pass.

        Parameters
        ----------
        seconds : float
            Most seconds to pass.
        until : callable
            Called after each event; true ends the run. By default nothing does.

        Returns
        -------
        bool
            Whether `until` has become true.
        """
        end = self.now + seconds
        while not until():
            timers = [node.next_timer() for node in self._nodes]
            when = min([self._due[0][0] if self._due else math.inf, *timers])
            if when > end:
                self.now = end
                return until()
            self.now = max(self.now, when)
            while self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()
            for node in self._nodes:
                if node.next_timer() <= self.now:
                    node.handle_timer()
        return True

    def stamps(self) -> StampClock:
        """Return a wall clock that starts now."""
        return StampClock(EPOCH + round(self.now * NANOSECONDS), self.now)

    def draw_boot(self) -> str:
        """Return 16 random hexadecimal digits."""
        return f"{self.random.getrandbits(64):016x}"

    def _plug_rig(self, name: str, rig: SimRig) -> SimRig:
        rig.address = (f"10.0.1.{len(self.rigs) + 1}", 11001)
        self.rigs[name] = rig
        self._nodes.append(rig)
        self._at[rig.address] = rig
        return rig

    def _schedule(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, action))

    def _deliver(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        target = self._at[destination]
        if getattr(target, "listening", True):
            target.receive(data, source, destination)
        elif getattr(target, "host_up", True):
            self.after(self.random.uniform(*self.delay), lambda: self._at[source].refuse(source, destination))


class Coordinator:
    """A real coordinator core on a `SimNetwork`, which makes it: see `SimNetwork.coordinator`.

    Attributes
    ----------
    fanout : Fanout
        The core.
    events : list of Event
        All events that it has told.
    results : dict of float to PushCompleted
        Completed pushes by request time.
    """

    def __init__(
        self, network: SimNetwork, host: str, rigs: Mapping[str, SimAddress], timing: Timing, config: Mapping[str, Any]
    ):
        self._network = network
        configs = {name: RigConfig(name, Uri("udp", *address), **config) for name, address in rigs.items()}
        program = "task.py, pid 4711, started 14:03:11"  # as real ones say; without it a rig has less to answer with
        self.fanout = Fanout(configs, timing, network.draw_boot(), network.stamps(), network.random, program)
        self.events: list[Event] = []
        self.results: dict[float, PushCompleted] = {}
        self._pushed = 0
        self._rigs = dict(rigs)
        self.lines: dict[SimAddress, tuple[str, Line]] = {}
        self._sources: dict[tuple[str, Line], SimAddress] = {}
        for name in rigs:
            for line in Line:
                address = (host, 50_000 + len(self.lines))
                self.lines[address] = (name, line)
                self._sources[name, line] = address

    def push(
        self,
        event: str,
        *args: Any,
        rigs: Iterable[str] | None = None,
        timeout: float | None = None,
        delay: float | None = None,
    ) -> float:
        """Push a message.

        Parameters
        ----------
        event : str
            The message.
        *args
            What follows it, as for `Auxiliaries.push`.
        rigs : iterable of str, optional
            Names; all of the coordinator's rigs by default.
        timeout : float, optional
            Seconds for the answers, instead of each rig's own.
        delay : float, optional
            Seconds after which all rigs are to act at one instant; at once by default.

        Returns
        -------
        float
            The key of what becomes of it, in `results`.

        Raises
        ------
        TypeError, ValueError
            The message or an argument is of the wrong type, unknown, cannot be encoded, or is too large.
        KeyError
            There is no such rig.
        """
        return self._push(compose(event, *args), rigs, timeout, delay)

    def call(self, rig: str, command: str, /, *args: Any, timeout: float | None = None, **keywords: Any) -> float:
        """Ask a command of a rig, as `Auxiliaries.call` does.

        Parameters
        ----------
        rig, command, *args, **keywords
            As for `Auxiliaries.call`, but the rig by its name.
        timeout : float, optional
            Seconds for the answer, instead of the rig's own.

        Returns
        -------
        float
            The key of what becomes of it, in `results`.

        Raises
        ------
        TypeError, ValueError
            The command's name is not allowed, or an argument cannot be encoded or is too large.
        KeyError
            There is no such rig.
        """
        return self._push(compose_command(command, args, keywords), [rig], timeout, None)

    def _push(self, message: Message, rigs: Iterable[str] | None, timeout: float | None, delay: float | None) -> float:
        self._pushed += 1
        request_time, now = float(self._pushed), self._network.now
        act_at = None if delay is None else now + delay
        names = None if rigs is None else list(rigs)
        self.fanout.push(Order(message, request_time, names, timeout, act_at), now)
        self.pump()
        return request_time

    def receive(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        """Process a datagram."""
        self.fanout.receive_datagram(data, self.lines[destination], self._network.now)
        self.pump()

    def refuse(self, source: SimAddress, destination: SimAddress) -> None:
        """Process a refusal."""
        self.fanout.report_refusal(self.lines[source], self._network.now)
        self.pump()

    def handle_timer(self) -> None:
        """Do what is due."""
        self.fanout.handle_timer(self._network.now)
        self.pump()

    def next_timer(self) -> float:
        """Return when something is due."""
        return self.fanout.next_timer()

    def pump(self) -> None:
        """Send what the core wants sent, and keep what it tells."""
        for line, data in self.fanout.take_datagrams():
            self._network.send(data, self._sources[line], self._rigs[line[0]])
        for event in self.fanout.take_events():
            self.events.append(event)
            if isinstance(event, PushCompleted):
                self.results[event.request_time] = event


class _Nothing:
    """The place of a program that was killed."""

    listening = False
    host_up = True

    def receive(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        """Never called."""

    def refuse(self, source: SimAddress, destination: SimAddress) -> None:
        """Do nothing."""

    def handle_timer(self) -> None:
        """Nothing is ever due here."""

    def next_timer(self) -> float:
        """Return that nothing is due."""
        return math.inf


class FakeRig:
    """A real rig core on a `SimNetwork`, with handlers that take virtual time: see `SimNetwork.add_rig`.

    Attributes
    ----------
    calls : list of (ExpMessage or Command, list)
        Every run of a handler, with the message's arguments; of a command, the positional ones and the keywords.
    entered : list of float
        When each of these began, in virtual seconds.
    clock : DriftingClock
        The rig's clock.
    board : Board
        What it shows of its work: ``rig.board.progress('frames', 12)``, ``rig.board.add_stream('left', {})``.
    listening, host_up : bool
        Set the first to False to close the port, both to take the host off the network.
    """

    address: SimAddress

    def __init__(
        self,
        network: SimNetwork,
        name: str,
        handlers: Mapping[Verb, float | Handler],
        identity: Identity,
        offset: float,
        drift: float,
        lease: float,
    ):
        self._network, self._identity = network, identity
        self._offset, self._drift, self._lease = offset, drift, lease
        self._handlers = handlers
        self.name = name
        self.calls: list[tuple[Verb, list[Any]]] = []
        self.entered: list[float] = []
        self.events: list[Event] = []
        self.listening = self.host_up = True
        self.restart()

    def restart(self) -> None:
        """Begin anew as another process would, without memory."""
        network = self._network
        self.clock = DriftingClock(self._offset, self._drift)
        self.board = Board()
        boot = network.draw_boot()
        self.responder = Responder(
            *(self._identity, self._handlers, Timing(), boot, self.clock, self._lease),
            board=self.board,
            secret=boot.encode(),  # no stranger is in this network, and the same seed gives the same bytes
        )

    def notify(self, topic: str, body: Any = None, key: str | None = None, confirm: bool = True) -> None:
        """Tell the coordinators that watch something.

        Parameters
        ----------
        topic, body, key, confirm
            As for `Rig.notify`; the body in plain JSON values.

        Raises
        ------
        PayloadTooLarge
            No datagram can carry it.
        """
        self.responder.notify(topic, key, body, confirm, self._network.now)
        self.pump()

    def receive(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        """Process a datagram."""
        self.responder.receive_datagram(data, source, self._network.now)
        self.pump()

    def refuse(self, source: SimAddress, destination: SimAddress) -> None:
        """Ignore a refusal, as a rig does."""

    def handle_timer(self) -> None:
        """Do what is due."""
        self.responder.handle_timer(self._network.now)
        self.pump()

    def next_timer(self) -> float:
        """Return when something is due."""
        return self.responder.next_timer()

    def pump(self) -> None:
        """Send what the core wants sent, and run handlers."""
        while True:
            for destination, data in self.responder.take_datagrams():
                self._network.send(data, self.address, (destination[0], destination[1]))
            events = self.responder.take_events()
            if not events:
                return
            self.events += events
            for event in events:
                if isinstance(event, HandlerDue):
                    self._handle(event)

    def _handle(self, due: HandlerDue) -> None:
        responder = self.responder
        if due.schedule:
            wait = max(0.0, due.schedule.instant - self._network.now)
            self._network.after(wait, lambda: self._enter_scheduled(responder, due, due.schedule))
        else:
            self._enter(responder, due)

    def _enter_scheduled(self, responder: Responder, due: HandlerDue, schedule: Schedule | None) -> None:
        if responder is self.responder and schedule and schedule.take():
            self._enter(responder, due)
            self.pump()

    def _enter(self, responder: Responder, due: HandlerDue) -> None:
        network, now = self._network, self._network.now
        handler = self._handlers.get(due.event, 0.0)
        self.calls.append((due.event, due.args))
        self.entered.append(now)
        if not callable(handler):
            network.after(handler, lambda: self._settle(responder, due.task, now))
            return
        try:
            args, keywords = due.args if isinstance(due.event, Command) else (due.args, {})
            responder.agenda.respond(due.task, handler(*args, **keywords), now, now)
        except Exception as error:  # whatever a test's handler raises goes to the coordinator
            responder.agenda.fail(due.task, type(error).__name__, str(error), "", now)

    def _settle(self, responder: Responder, task: int, started: float) -> None:
        responder.agenda.respond(task, None, self._network.now, started)
        self.pump()


class EchoRig:
    """A model of `iblutil.io.net.app.EchoProtocol` as a server, its intolerance included: see `add_echo_rig`.

    Attributes
    ----------
    calls : list of (ExpMessage, list)
        Every run of its callbacks.
    closed : str
        Why it has closed its socket for good, or an empty string.
    """

    address: SimAddress

    def __init__(self, network: SimNetwork, name: str, latency: float):
        self._network, self.name, self._latency = network, name, latency
        self._awaited: dict[SimAddress, bytes] = {}
        self.calls: list[tuple[ExpMessage, list[Any]]] = []
        self.closed = ""
        self.host_up = True

    @property
    def listening(self) -> bool:
        """Whether its socket is open."""
        return not self.closed and self.host_up

    def receive(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        """Process a datagram as EchoProtocol does."""
        awaited = self._awaited.get(source)
        if awaited is not None:
            if data == awaited:
                del self._awaited[source]
            else:
                self.closed = f"wrong echo {data!r}"
            return
        self._network.send(data, self.address, source)
        if data[:1] == b"[":
            frame = messages.decode(data)
            if isinstance(frame, legacy.Array):
                self.calls.append((frame.event, frame.args))
                answer = messages.to_json([int(frame.event), f"{self.name} did it"]).encode()
                self._network.after(self._latency, lambda: self._answer(answer, source))

    def refuse(self, source: SimAddress, destination: SimAddress) -> None:
        """Ignore a refusal."""

    def handle_timer(self) -> None:
        """Nothing is ever due here."""

    def next_timer(self) -> float:
        """Return that nothing is due."""
        return math.inf

    def _answer(self, data: bytes, destination: SimAddress) -> None:
        if self.closed:
            return
        self._awaited[destination] = data
        self._network.send(data, self.address, destination)
        self._network.after(1.0, lambda: self._expire(data, destination))

    def _expire(self, data: bytes, destination: SimAddress) -> None:
        if not self.closed and self._awaited.get(destination) is data:
            self.closed = "no echo within 1 s"
