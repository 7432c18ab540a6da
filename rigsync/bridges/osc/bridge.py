"""The OSC bridge: what OSC programs send is pushed, and what happens is told to them."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rigsync._text import one_line, shortened
from rigsync.bridges.asking import OK, AskedBridge, Refused, in_words, no_number, power_over
from rigsync.bridges.osc import codec
from rigsync.bridges.osc.address_space import SPECIAL, AddressSpace
from rigsync.bridges.osc.bundles import Bundles
from rigsync.bridges.osc.clients import MOST_CLIENTS, Clients
from rigsync.bridges.osc.telling import MOST_TOLD, event_message, view_message
from rigsync.bridges.osc.wire import Wire, at_port, osc_address
from rigsync.bridges.telling import pictures
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.coordinator.coordinator import Coordinator
from rigsync.core.enums import ExpMessage
from rigsync.core.events import Event
from rigsync.rig.rig import Rig
from rigsync.runtime.loop_thread import is_coroutine_function
from rigsync.runtime.precise import FINE

logger = logging.getLogger("rigsync.bridge")

LISTEN = "udp://127.0.0.1:9000"
"""Where a bridge listens unless told otherwise: nobody from elsewhere reaches it."""
LATE = 0.1
"""Seconds after its instant from which a bundle is called late: most programs stamp what is to be done at once, too."""
EARLY = max(FINE, 0.002)
"""Seconds before an instant at which the event loop begins to watch the clock: its own timer wakes as much too late."""
MOST_SHOWN = 30
"""Most rigs in a reply."""
AGAIN = 1.0
"""Seconds between two attempts to tell the present picture to a port that refuses."""
_CALL = "/rigsync/call/"
_OWN = ("/rigsync/reply", "/rigsync/event/", "/rigsync/view")
"""What a bridge sends. Two that are led to each other would answer each other for ever."""
_VERBS = frozenset({"push", "call", "subscribe", "unsubscribe", "reply", "event", "view"})


@dataclass(frozen=True, slots=True)
class _Push:
    """The address of a message to a rig; to all where it names none."""

    message: ExpMessage
    rig: str | None


@dataclass(frozen=True, slots=True)
class _Call:
    """The address of a rig whose commands are called."""

    rig: str


_Method = Callable[[Any, Sequence[Any]], object]
"""Takes source and arguments of a message; what it returns, if not None, the sender is told."""


class OscBridge(AskedBridge[tuple[Any, str]]):
    """Lets OSC programs command rigs, and tells them what happens; docs/bridges.md has the addresses.

    A context manager: ``with`` for an `Auxiliaries` or a `Rig`, ``async with`` on its event loop.

    Parameters
    ----------
    lab : Auxiliaries, Coordinator or Rig
        Who commands the rigs; or a rig, for which the bridge only tells what happens. It has to be open.
    listen : str
        ``udp://host:port``, ``tcp://host:port`` (SLIP, OSC 1.1) or ``tcp+length://host:port`` (OSC 1.0). OSC has no
        password: whoever reaches that port commands the rigs. With port 0 the system chooses one.
    to : str or iterable of str
        Addresses of programs that are told all that happens, without having subscribed.

    Raises
    ------
    ConfigError
        An address is malformed.

    Examples
    --------
    >>> with Auxiliaries({"cameras": "udp://192.168.1.20:11001"}) as aux, OscBridge(aux) as bridge:
    ...     bridge.add("/valve/open", lambda seconds: print("open for", seconds))
    """

    name = "OSC bridge"

    def __init__(self, lab: Auxiliaries | Coordinator | Rig, listen: str = LISTEN, to: str | Iterable[str] = ()):
        super().__init__(lab)
        self._listen = osc_address(listen, allow_port_zero=True)
        self._to = [osc_address(each) for each in ([to] if isinstance(to, str) else to)]
        self._space: AddressSpace[_Push | _Call | _Method] = AddressSpace()
        self._rigs = [] if isinstance(lab, Rig) else list(lab.views)
        self._add_addresses()

    def _add_addresses(self) -> None:
        add = self._space.add
        for message in ExpMessage.__members__.values():
            add(f"/rigsync/push/{message.name}", _Push(message, None))
            for rig in self._rigs:
                add(f"/rigsync/{part_of(rig)}/{message.name}", _Push(message, rig))
        for rig in self._rigs:
            add(f"{_CALL}{part_of(rig)}", _Call(rig))
        add("/rigsync/subscribe", self._subscribe)
        add("/rigsync/unsubscribe", self._unsubscribe)

    @property
    def uri(self) -> str:
        """Where it listens, with the port that the system chose."""
        return str(self._listen)

    def add(self, address: str, function: Callable[..., object]) -> Callable[[], None]:
        """Have a function called with the arguments of each message to an address; from any thread.

        Parameters
        ----------
        address : str
            For instance ``/valve/open``. A message may name several by a pattern.
        function : callable
            A plain function, called on the event loop of the rigs, where it has to be quick. The sender is told what it
            returns, if that is not None, and what it raises.

        Returns
        -------
        callable
            Call it to take the function away.

        Raises
        ------
        ValueError
            The address is malformed.
        TypeError
            The function cannot be called, or is a coroutine function.
        """
        if not callable(function) or is_coroutine_function(function):
            raise TypeError(f"an OSC method is a plain function, not {shortened(function, 80)}")
        return self._space.add(address, lambda _, args: function(*args))

    # --------------------------------------------------------------------------------------------------- life cycle

    async def _open(self) -> None:
        self._await_requests()
        self._clients: Clients[Any] = Clients()
        self._bundles: Bundles[tuple[bytes, Any]] = Bundles()
        self._alarm: asyncio.Handle | None = None
        self._told_again = -math.inf
        self._wire = Wire(
            self._receive, lambda source, problem: self._note("malformed", _from(source, problem)), self._join
        )
        self._ends.append(self._stop)
        self._listen = await self._wire.open(self._listen, self._to)
        logger.info("%s listens on %s", self.name, self.uri)
        if not self._wire.is_local:
            logger.warning(
                "%s listens on %s, beyond this computer: OSC has no password, and whoever reaches that port %s; listen "
                "on 127.0.0.1 where only this computer's programs are to",
                self.name,
                self.uri,
                power_over(self.lab),
            )

    def _stop(self) -> None:
        if cancelled := self._bundles.clear():
            logger.warning("%s closes: %d messages that waited for their instant are cancelled", self.name, cancelled)
        if self._alarm:
            self._alarm.cancel()
        self._wire.close()

    # ------------------------------------------------------------------------------------------------------ coming in

    def _receive(self, packet: bytes, source: Any) -> None:
        try:
            elements = codec.unpack(packet)
        except codec.BadPacket as error:
            self._note("malformed", _from(source, error))
            return
        now, before = time.time(), len(self._bundles)
        for tag, data in elements:
            due = now if tag == codec.IMMEDIATELY else codec.seconds_of(tag)
            ahead = due - now
            if ahead <= 0:
                if ahead < -LATE:
                    self._note("late", _from(source, f"a bundle came {-ahead:,.1f} s after its instant; done at once"))
                self._act(data, source)
            elif problem := self._bundles.problem(ahead, len(data)):
                self._note("refused", _from(source, problem))
                self._reply(source, codec.address_of(data), [f"error: {problem}"])
            else:
                self._bundles.put(due, (data, source), len(data))
        if len(self._bundles) > before:
            self._arm()

    def _arm(self) -> None:
        due = self._bundles.next_due()
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if due < math.inf:
            self._alarm = self._loop.call_later(max(0.0, due - EARLY - time.time()), self._ring)

    def _ring(self) -> None:
        for data, source in self._bundles.take_due(time.time()):
            self._act(data, source)
        self._arm()  # at once, if that was early: so the last milliseconds are spent, and all else has its turn

    def _act(self, data: bytes, source: Any) -> None:
        """Do what a message asks for."""
        address = codec.address_of(data)
        if address.startswith(_OWN):
            self._note("misled", _from(source, f"{shortened(address)} is what a bridge sends; another one is led here"))
            return
        with self._answered((source, address)):
            self._dispatch(*codec.decode(data), source)

    def _dispatch(self, address: str, args: list[Any], source: Any) -> None:
        where, command = address, ""
        if address.startswith(_CALL) and address.count("/") > _CALL.count("/"):
            where, _, command = address.rpartition("/")
        targets = self._space.find(where)
        if not targets:
            raise Refused(f"there is no address {shortened(address, 80)}{self._space.close_to(where)}")
        pushes = {target.message: None for target in targets if isinstance(target, _Push)}
        if len(pushes) > 1:
            raise Refused(f"this names several messages, {', '.join(message.name for message in pushes)}: name one")
        for message in pushes:
            rigs = {target.rig for target in targets if isinstance(target, _Push)}
            chosen = self._rigs if None in rigs else [rig for rig in self._rigs if rig in rigs]
            self._ask(source, address, self._asking.push(message, list(map(value_of, args)), chosen), False)
        if called := [target.rig for target in targets if isinstance(target, _Call)]:
            if not command or SPECIAL & set(command):
                raise Refused(f"a command of a rig has one name, as in {_CALL}{part_of(called[0])}/focus")
            self._ask(source, address, self._asking.call(called, command, list(map(value_of, args))), True)
        for target in targets:
            if not isinstance(target, (_Push, _Call)) and (told := target(source, args)) is not None:
                self._reply(source, address, [str(told)])

    def _ask(self, source: Any, address: str, asking: Coroutine[Any, Any, dict[str, Any]], has_value: bool) -> None:
        """Have something done by rigs, and tell the sender what became of it."""

        def answer(found: dict[str, Any]) -> None:
            told = [f"{rig}: {in_words(outcome, has_value)}" for rig, outcome in found.items()]
            self._reply(source, address, told)

        self._do((source, address), asking, answer)

    def _refuse(self, where: tuple[Any, str], problem: str) -> None:
        self._reply(*where, [f"error: {problem}"])

    def _described(self, where: tuple[Any, str], problem: object) -> str:
        return _from(where[0], problem)

    def _reply(self, source: Any, address: str, texts: list[str]) -> None:
        """Tell a sender what became of what it sent; of many rigs, those that have failed, and how many others."""
        if len(texts) > MOST_SHOWN:
            texts = sorted(texts, key=lambda text: text.endswith(f": {OK}"))
            texts[MOST_SHOWN:] = [f"and {len(texts) - MOST_SHOWN} more"]
        room = MOST_TOLD // (len(texts) + 1)
        shown = [one_line(text)[:room] for text in (address, *texts)]
        self._wire.send(source, codec.encode("/rigsync/reply", shown))

    # ---------------------------------------------------------------------------------------------------- going out

    def _subscribe(self, source: Any, args: Sequence[Any]) -> str:
        """Tell a sender, or another port of its computer, of events from now on; first, how each rig is."""
        client, pattern = self._client(source, args)
        is_new = self._clients.subscribe(client, pattern, self._loop.time())
        if is_new is None:
            raise Refused(f"{MOST_CLIENTS} programs have subscribed, and there is room for no more")
        if is_new:
            self._join(client)
        return OK

    def _unsubscribe(self, source: Any, args: Sequence[Any]) -> str:
        is_known = self._clients.unsubscribe(self._client(source, args)[0])
        return OK if is_known else "error: there is no such subscription"

    def _client(self, source: Any, args: Sequence[Any]) -> tuple[Any, str]:
        """Return whom a sender means, and the pattern of types of events."""
        pattern, port = "*", None
        for arg in args:
            if isinstance(arg, str):
                pattern = arg
            elif type(arg) is int and self._listen.scheme == "udp" and 0 < arg < 1 << 16:
                port = arg
            else:
                raise Refused("a subscription takes a pattern of types of events, such as Link*, and over UDP a port")
        return (source if port is None else at_port(source, port)), pattern

    def _join(self, client: Any) -> None:
        """Tell somebody who is new how each rig is."""
        for rig, document in pictures(self.lab).items():
            self._wire.send(client, view_message(rig, document))

    def _tell(self, event: Event) -> None:
        now = self._loop.time()
        if self._wire.away and now >= self._told_again + AGAIN:
            away, self._wire.away, self._told_again = self._wire.away, set(), now
            for line in away:
                self._join(line)
        lines = [line for line in self._wire.lines if line not in self._wire.away]
        if clients := [*self._clients.wanting(type(event).__name__, now), *lines]:
            message = event_message(event)
            for client in clients:
                self._wire.send(client, message)


def part_of(rig: str) -> str:
    """Return the name of a rig as part of an address: what cannot stand there as ``%`` and its number."""
    if rig in _VERBS:
        return f"%{ord(rig[0]):02X}{rig[1:]}"
    return "".join(f"%{ord(one):02X}" if one in SPECIAL or one == "%" else one for one in rig)


def value_of(arg: Any) -> Any:
    """Return an argument as a rig gets it: text that begins like a JSON map or list is one. OSC has no maps."""
    if not isinstance(arg, str) or not arg.startswith(("{", "[")):
        return arg
    try:
        return json.loads(arg, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{shortened(arg, 80)} looks like JSON and is not: {error}") from None


def _from(source: Any, text: object) -> str:
    return f"{source[0]} port {source[1]}: {text}" if isinstance(source, tuple) else f"{source}: {text}"
