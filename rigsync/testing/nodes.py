"""What speaks on a simulated network: a coordinator's core, a rig's core, and a model of an iblutil rig."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rigsync.core import legacy, messages
from rigsync.core.answers import Identity
from rigsync.core.arguments import compose, compose_command
from rigsync.core.board import Board
from rigsync.core.enums import ExpMessage
from rigsync.core.events import Event, HandlerDue, PushCompleted
from rigsync.core.fanout import Fanout
from rigsync.core.messages import Command, Message, Verb
from rigsync.core.orders import Order
from rigsync.core.outputs import Line
from rigsync.core.responder import Responder
from rigsync.core.rigs import Address as Uri
from rigsync.core.rigs import RigConfig
from rigsync.core.schedule import Schedule
from rigsync.core.timing import Timing
from rigsync.testing.network import DriftingClock, Network, Node, SimAddress

Handler = Callable[..., Any]


class _CoreNode(Node):
    """A participant with a core of rigsync."""

    _network: Network
    _core: Fanout | Responder

    def handle_timer(self) -> None:
        """Do what is due."""
        self._core.handle_timer(self._network.now)
        self.pump()

    def next_timer(self) -> float:
        """Return when something is due."""
        return self._core.next_timer()

    def pump(self) -> None:
        """Send what the core wants sent, and see to what it tells."""
        raise NotImplementedError


class Coordinator(_CoreNode):
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
        self, network: Network, host: str, rigs: Mapping[str, SimAddress], timing: Timing, config: Mapping[str, Any]
    ):
        self._network = network
        configs = {name: RigConfig(name, Uri("udp", *address), **config) for name, address in rigs.items()}
        program = "task.py, pid 4711, started 14:03:11"  # as real ones say; without it a rig has less to answer with
        self.fanout = Fanout(configs, timing, network.draw_boot(), network.stamps(), network.random, program)
        self._core = self.fanout
        self.events: list[Event] = []
        self.results: dict[float, PushCompleted] = {}
        self._pushed = 0
        self._rigs = dict(rigs)
        lines = [(name, line) for name in rigs for line in Line]
        self.lines: dict[SimAddress, tuple[str, Line]] = {(host, 50_000 + n): line for n, line in enumerate(lines)}
        self._sources = {line: address for address, line in self.lines.items()}

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

    def call_nowait(
        self, rig: str, command: str, /, *args: Any, timeout: float | None = None, **keywords: Any
    ) -> float:
        """Ask a command of a rig beside what it does already, as `Auxiliaries.call_nowait` does; else as `call`."""
        return self._push(compose_command(command, args, keywords), [rig], timeout, None, beside=True)

    def _push(
        self,
        message: Message,
        rigs: Iterable[str] | None,
        timeout: float | None,
        delay: float | None,
        beside: bool = False,
    ) -> float:
        self._pushed += 1
        request_time, now = float(self._pushed), self._network.now
        act_at = None if delay is None else now + delay
        names = None if rigs is None else list(rigs)
        self.fanout.push(Order(message, request_time, names, timeout, act_at, beside=beside), now)
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

    def pump(self) -> None:
        """Send what the core wants sent, and keep what it tells."""
        self._network.touch(self)
        for line, data in self.fanout.take_datagrams():
            self._network.send(data, self._sources[line], self._rigs[line[0]])
        for event in self.fanout.take_events():
            self.events.append(event)
            if isinstance(event, PushCompleted):
                self.results[event.request_time] = event


class FakeRig(_CoreNode):
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
        network: Network,
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
        self.responder = self._core = Responder(
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

    def pump(self) -> None:
        """Send what the core wants sent, and run handlers."""
        self._network.touch(self)
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


class EchoRig(Node):
    """A model of `iblutil.io.net.app.EchoProtocol` as a server, its intolerance included: see `add_echo_rig`.

    Attributes
    ----------
    calls : list of (ExpMessage, list)
        Every run of its callbacks.
    closed : str
        Why it has closed its socket for good, or an empty string.
    """

    address: SimAddress

    def __init__(self, network: Network, name: str, latency: float):
        self._network, self.name, self._latency = network, name, latency
        self._awaited: dict[SimAddress, bytes] = {}
        self.calls: list[tuple[ExpMessage, list[Any]]] = []
        self.closed = ""
        self.host_up = True

    @property
    def listening(self) -> bool:  # type: ignore[override]
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

    def _answer(self, data: bytes, destination: SimAddress) -> None:
        if self.closed:
            return
        self._awaited[destination] = data
        self._network.send(data, self.address, destination)
        self._network.after(1.0, lambda: self._expire(data, destination))

    def _expire(self, data: bytes, destination: SimAddress) -> None:
        if not self.closed and self._awaited.get(destination) is data:
            self.closed = "no echo within 1 s"
