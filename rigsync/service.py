"""The coordinator on an event loop: iblutil's `Services` and `Communicator`, over the rigsync core."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any
from urllib.parse import urlsplit

from iblutil.io.net import app, base

from rigsync.conditions import Arrivals, Latch
from rigsync.config import Address, RigConfig, Rigs, check_distinct
from rigsync.endpoint import Endpoint, look_up
from rigsync.errors import NotRunning, PushError, RigError, RigRefused, RigsyncError, RigTimeout
from rigsync.protocol.arguments import compose
from rigsync.protocol.clock import StampClock
from rigsync.protocol.events import (
    DialectDetected,
    Event,
    LinkChanged,
    LinkState,
    MessageReceived,
    ProbeAnswered,
    ProbeRefused,
    PushCompleted,
    RemoteComplaint,
    RequestReceived,
    RigRestarted,
    ViolationSeen,
)
from rigsync.protocol.fanout import Fanout
from rigsync.protocol.messages import NULL_MESSAGE, ExpMessage, Message
from rigsync.protocol.peer import Line, Peer
from rigsync.results import PingReply, PushResult, ResultLog

logger = logging.getLogger("rigsync.service")

Outcome = PushResult | PushError
Subscriber = Callable[[Any], object]

TOLD: tuple[type[Event], ...] = (
    DialectDetected,
    LinkChanged,
    MessageReceived,
    ProbeAnswered,
    ProbeRefused,
    PushCompleted,
    RemoteComplaint,
    RequestReceived,
    RigRestarted,
    ViolationSeen,
)
"""The events that a coordinator tells subscribers of."""

_clock_lock = threading.Lock()
_last_request_time = 0.0


def draw_request_time() -> float:
    """Return the Unix time in seconds, strictly increasing in this process even where the clock is set back."""
    global _last_request_time
    with _clock_lock:
        _last_request_time = max(time.time(), math.nextafter(_last_request_time, math.inf))
        return _last_request_time


class Subscribers:
    """Who wants to be told of which event; each in a guard of its own."""

    def __init__(self) -> None:
        self._by_event: dict[type[Event], list[Subscriber]] = {}

    def add(self, event: type[Event], callback: Subscriber) -> Callable[[], None]:
        """Call `callback` with each event of that class; return a function that ends it."""
        subscribers = self._by_event.setdefault(event, [])
        subscribers.append(callback)

        def remove() -> None:
            if callback in subscribers:
                subscribers.remove(callback)

        return remove

    def tell(self, event: Event) -> None:
        """Call each subscriber of the event."""
        for callback in tuple(self._by_event.get(type(event), ())):
            guarded(f"subscriber to {type(event).__name__}", callback, event)


def guarded(role: str, callback: Callable[..., object], *args: Any) -> None:
    """Call a user's function; an exception, be it SystemExit, is logged with the function's name and harms no other."""
    try:
        callback(*args)
    except BaseException:
        name = getattr(callback, "__qualname__", None) or repr(callback)
        logger.exception("%s %s raised an exception; the others run and the link stays", role, name)


class RemoteRig(base.Communicator):
    """One rig as iblutil's `Communicator`, over the rigsync core.

    The coroutines may be awaited on any event loop.

    Parameters
    ----------
    config : RigConfig
        The rig.
    services : RigServices
        Which it is one of.
    """

    def __init__(self, config: RigConfig, services: RigServices):
        # Not Communicator.__init__, which looks names up, blocking, and knows no IPv6.
        self.config, self._services = config, services
        self.name, self.server_uri = config.name, str(config.address)
        self.logger = logging.getLogger(f"rigsync.rig.{config.name}")
        events = (NULL_MESSAGE, *ExpMessage.__members__.values())
        self._callbacks: dict[ExpMessage, list[Any]] = {event: [] for event in events}
        self._unclaimed: dict[ExpMessage, tuple[list[Any], tuple[Any, ...]] | RigError] = {}
        self._lock = threading.RLock()  # for both of these: callers are on any thread

    def __repr__(self) -> str:
        return f"<RemoteRig {self.name} {self.server_uri} {self.state.value}>"

    @property
    def is_connected(self) -> bool:
        """Whether the rig is alive or suspect."""
        return self.state in (LinkState.ALIVE, LinkState.SUSPECT)

    @property
    def state(self) -> LinkState:
        """State of the link."""
        peer = self.peer
        return peer.state if peer else LinkState.UNKNOWN

    @property
    def dialect(self) -> str:
        """``rigsync``, ``iblutil`` or ``unknown``."""
        peer = self.peer
        return peer.dialect.value if peer else "unknown"

    @property
    def peer(self) -> Peer | None:
        """The core's view of this rig; None until the services are open. For reading only."""
        return self._services.peer(self.name)

    async def init(self, data: Any = None, addr: Any = None) -> None:
        """Send EXPINIT; return when the rig has confirmed that it has it."""
        await self.confirmed_send(base.Service.init(self, data), addr)

    async def start(self, exp_ref: Any, data: Any = None, addr: Any = None) -> None:
        """Send EXPSTART; return when the rig has confirmed that it has it."""
        await self.confirmed_send((ExpMessage.EXPSTART, exp_ref, data), addr)

    async def stop(self, data: Any = None, immediately: bool = False, addr: Any = None) -> None:
        """Send EXPEND, or EXPINTERRUPT; return when the rig has confirmed that it has it."""
        await self.confirmed_send(base.Service.stop(self, data, immediately=immediately), addr)

    async def status(self, status: Any, addr: Any = None) -> None:
        """Send EXPSTATUS; return when the rig has confirmed that it has it."""
        await self.confirmed_send(base.Service.status(self, status), addr)

    async def info(self, status: Any, data: Any = None, addr: Any = None) -> None:
        """Send EXPINFO; return when the rig has confirmed that it has it."""
        await self.confirmed_send(base.Service.info(self, status, data), addr)

    async def cleanup(self, data: Any = None, addr: Any = None) -> None:
        """Send EXPCLEANUP; return when the rig has confirmed that it has it."""
        await self.confirmed_send(base.Service.cleanup(self, data), addr)

    async def alyx(self, alyx: Any = None, addr: Any = None) -> Any:
        """Send an Alyx token, or ask for one.

        Returns
        -------
        list or None
            Address and token from the rig where `alyx` is None or not logged in.
        """
        message = compose(ExpMessage.ALYX, alyx)
        await self.confirmed_send((ExpMessage.ALYX, alyx), addr)
        if not message.asks_token:
            return None
        data, _ = await self.on_event(ExpMessage.ALYX)
        return data

    async def confirmed_send(self, data: Any, addr: Any = None, timeout: float | None = None) -> None:
        """Send a message, and return when the rig has confirmed that it has it.

        The answer comes by `on_event` or a callback.

        Parameters
        ----------
        data : sequence, str or bytes
            ``[event, *args]``, or its JSON text.
        addr : (str, int), optional
            The rig's address, if at all.
        timeout : float, optional
            Seconds; by default the rig's own timeout.

        Raises
        ------
        RigError
            The rig did not confirm it. (A failure after that is raised by `on_event`.)
        """
        self._check_address(addr)
        message = self._compose(data)
        with self._lock:
            self._unclaimed.pop(message.event, None)
        confirmed = asyncio.get_running_loop().create_future()
        self._services.send_confirmed(message, self.name, timeout, confirmed)
        await confirmed

    def send(self, data: Any, addr: Any = None) -> None:
        """Send a message without waiting for anything.

        Parameters
        ----------
        data : sequence, str or bytes
            ``[event, *args]``, or its JSON text.
        addr : (str, int), optional
            The rig's address, if at all.
        """
        self._check_address(addr)
        self._services.push(self._compose(data), draw_request_time(), lambda _: None, [self.name])

    async def on_event(self, event: Any) -> Any:
        """Wait for a message from the rig; the answer to the last `confirmed_send` of it is not missed by coming late.

        Returns
        -------
        (list, tuple)
            What follows the event, and the rig's address; for several events at once, also the event.

        Raises
        ------
        RigError
            The rig failed to answer the last `confirmed_send`.
        """
        event = ExpMessage.validate(event)
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            for single in _singles(event):
                if outcome := self._unclaimed.pop(single, None):
                    if isinstance(outcome, RigError):
                        raise outcome
                    return outcome if single is event else (*outcome, single)
            self.assign_callback(event, future)
        try:
            return await future
        finally:  # one that was given up must not take the next answer
            self.clear_callbacks(event, future, cancel_futures=False)

    def assign_callback(self, event: Any, callback: Any) -> None:
        """Have a function called, or a future resolved, when a message comes.

        Parameters
        ----------
        event : str, int or ExpMessage
            The message, or several joined by ``|``, or 0 for the errors that an iblutil rig reports.
        callback : callable or asyncio.Future
            Called on the services' thread with what follows the event and the rig's address; where there are several
            events, also with the event. A future, which may be of any event loop, has these as a tuple.
        """
        event = ExpMessage.validate(event)
        if not (callable(callback) or asyncio.isfuture(callback)):
            raise TypeError("a callback is a function or a future")
        singles = _singles(event)
        with self._lock:
            for single in singles:
                # Not as iblutil finds it out, which takes several events for one since Python 3.12.
                self._callbacks[single].append((callback, singles != [event]))

    def clear_callbacks(self, event: Any, callback: Any = None, cancel_futures: bool = True) -> int:
        """Remove the callbacks of a message, or one of them.

        Parameters
        ----------
        event : str, int or ExpMessage
            The message, or several joined by ``|``.
        callback : callable or asyncio.Future, optional
            The one to remove; all by default.
        cancel_futures : bool
            Whether to cancel the futures among them.

        Returns
        -------
        int
            How many were removed.
        """
        wanted = callback and _identity(callback)
        removed = []
        with self._lock:
            for single in _singles(ExpMessage.validate(event)):
                for entry in tuple(self._callbacks[single]):
                    if not callback or _identity(entry[0]) == wanted:
                        self._callbacks[single].remove(entry)
                        removed.append(entry[0])
        for future in removed:
            if cancel_futures and asyncio.isfuture(future):
                on_loop_of(future, future.cancel)
        return len(removed)

    def close(self) -> None:
        """Remove all callbacks and cancel futures; the socket closes with the services."""
        for event in self._callbacks:
            self.clear_callbacks(event)

    def deliver(self, event: ExpMessage, args: list[Any], addr: tuple[Any, ...], answers: bool) -> None:
        """Give a message to callbacks and futures, as iblutil does; for `RigServices`.

        Unlike there, a callback that raises keeps neither the others nor the link from going on.
        """
        with self._lock:
            callbacks = self._claim(event, (args, addr) if answers else None)
        for callback, return_event in callbacks:
            content = (args, addr, event) if return_event else (args, addr)
            if asyncio.isfuture(callback):
                resolve_future(callback, content)
            else:
                guarded(f"callback for {event.name or 'errors'} from {self.name}", callback, *content)

    def deliver_failure(self, event: ExpMessage, error: RigError) -> None:
        """Tell who waits for the answer that there will be none; for `RigServices`."""
        with self._lock:
            callbacks = self._claim(event, error)
        for callback, _ in callbacks:
            if asyncio.isfuture(callback):
                resolve_future(callback, error)

    def _claim(self, event: ExpMessage, outcome: Any) -> list[tuple[Any, bool]]:
        """Return the callbacks of an event, and keep the outcome, if any, for `on_event` where no future waits."""
        callbacks = [entry for entry in self._callbacks[event] if not (asyncio.isfuture(entry[0]) and entry[0].done())]
        futures = [callback for callback, _ in callbacks if asyncio.isfuture(callback)]
        for entries in self._callbacks.values():  # a future that waits for several events is in several lists
            entries[:] = [entry for entry in entries if not any(entry[0] is future for future in futures)]
        if outcome and not futures:
            self._unclaimed[event] = outcome
        return callbacks

    def _check_address(self, addr: Any) -> None:
        if addr and (addr[0], addr[1]) not in ((self.hostname, self.port), self._services.address(self.name)):
            raise ValueError(f"{self.name} is at {self.server_uri}, not at {addr}")

    @staticmethod
    def _compose(data: Any) -> Message:
        if isinstance(data, (str, bytes, bytearray)):
            data = json.loads(data)
        if not isinstance(data, (list, tuple)) or not data:
            raise TypeError(f"a message is [event, *args], not {data!r}")
        event, *args = data
        event = ExpMessage.validate(event, allow_bitwise=False)
        if event is ExpMessage.ALYX and len(args) == 2:
            return Message.of(event, args)  # address and token, as iblutil's own Service.alyx gives them
        return compose(event, *args)


def _singles(event: ExpMessage) -> list[ExpMessage]:
    """Return the events of which this one is made, the null message included."""
    if not event:
        return [NULL_MESSAGE]
    return [single for single in ExpMessage.__members__.values() if single & event]


def _identity(callback: Any) -> Any:
    """Return by what iblutil knows a callback again, also one that its Services has wrapped."""
    return getattr(callback, "id", None) or hash(callback)


class RigServices(app.Services):
    """All rigs of a configuration, as iblutil's `Services`, over the rigsync core.

    iblutil's verbs `init`, `start`, `stop`, `status`, `info`, `cleanup` and `alyx` are coroutines that return a dict
    of rig name to answer; `assign_callback`, `clear_callbacks` and `await_all` are iblutil's own.

    Parameters
    ----------
    rigs : Rigs
        The configuration.
    log : ResultLog, optional
        Where outcomes are filed.
    connected : Latch, optional
        Set while every rig is alive or suspect.
    response_received : Arrivals, optional
        Announced at each completed push.
    subscribers : Subscribers, optional
        Who is told of events.
    """

    def __init__(
        self,
        rigs: Rigs,
        *,
        log: ResultLog | None = None,
        connected: Latch | None = None,
        response_received: Arrivals | None = None,
        subscribers: Subscribers | None = None,
    ):
        self._timeout: float | None = None
        super().__init__(
            [RemoteRig(config, self) for config in rigs.rigs.values()],
            timeout=max((config.timeout for config in rigs.rigs.values()), default=10.0),
        )
        self._timeout = None  # each rig's own, unless somebody sets one for all
        self._rigs = rigs
        self.log = ResultLog() if log is None else log
        self.connected = Latch() if connected is None else connected
        self.response_received = Arrivals() if response_received is None else response_received
        self.subscribers = Subscribers() if subscribers is None else subscribers
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._fanout: Fanout | None = None
        self._endpoint: Endpoint | None = None
        self._addresses: dict[str, tuple[Any, ...]] = {}
        self._pending: dict[float, Callable[[Outcome | NotRunning], object]] = {}
        self._confirmations: dict[float, asyncio.Future[None]] = {}
        self._confirmed: set[float] = set()
        self._pings: dict[tuple[str, int], Callable[[PingReply | RigError], object]] = {}

    # --------------------------------------------------------------------------------------------- life cycle

    async def open(self) -> None:
        """Look up the rigs' addresses, open the sockets, and begin to probe, on the running event loop.

        Raises
        ------
        ConfigError
            A name that does not resolve, or two rigs at one address; names the rig.
        RigsyncError
            The system gives no more sockets.
        RuntimeError
            They are open.
        """
        if self.is_open:
            raise RuntimeError("the services are open already")
        loop = self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        resolved = {name: await look_up(config) for name, config in self._rigs.rigs.items()}
        self._addresses = {name: address for name, (_, address) in resolved.items()}
        check_distinct(self._addresses)
        stamps = StampClock(time.time_ns(), loop.time())
        self._fanout = Fanout(self._rigs.rigs, self._rigs.timing, secrets.token_hex(8), stamps, Random())
        endpoint = Endpoint(self._fanout, self._on_event, self._fanout.report_refusal)
        try:
            for name, (family, address) in resolved.items():
                for line in Line:
                    await endpoint.connect((name, line), family, address)
        except BaseException as error:
            endpoint.close()
            if isinstance(error, OSError):
                raise self._explained(error, name) from error
            raise
        self._endpoint = endpoint
        self._fanout.connect(loop.time())
        endpoint.pump()

    @staticmethod
    def _explained(error: OSError, name: str) -> RigsyncError:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return RigsyncError(
                f"no more sockets at rig {name}: each rig takes two; raise the limit of open files (ulimit -n)"
            )
        return RigsyncError(f"no socket towards rig {name}: {error}")

    @property
    def is_open(self) -> bool:
        """Whether messages can be pushed."""
        return self._endpoint is not None

    def close(self) -> None:
        """Say goodbye to the rigs, close the sockets, and settle what is outstanding; soon, if not on the loop."""
        if self._loop and threading.get_ident() != self._thread:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and they were before it
                self._loop.call_soon_threadsafe(self.close)
            return
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None or self._fanout is None:
            return
        self._fanout.farewell()
        endpoint.close()
        self._fanout = None
        closed = NotRunning("closed before every rig had answered")
        pending, self._pending = self._pending, {}
        for done in pending.values():
            done(closed)
        for future in self._confirmations.values():
            resolve_future(future, closed)
        self._confirmations.clear()
        self._confirmed.clear()
        for name, n in list(self._pings):
            self._finish_ping((name, n), RigTimeout(name, "closed before the probe was answered"))
        self.connected.unset()
        super().close()

    # ------------------------------------------------------------------------------------------------ reading

    @property
    def timeout(self) -> float:
        """Seconds allowed for answers; each rig's own until one is set here for all, 0 or None for no limit."""
        if self._timeout is not None:
            return self._timeout
        return max((rig.config.timeout for rig in self.values()), default=10.0)

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._timeout = seconds or 0.0

    def longest(self, timeout: float | None) -> float:
        """Return the seconds within which a push with this timeout is settled."""
        return timeout if timeout is not None else self.timeout or math.inf

    def peer(self, name: str) -> Peer | None:
        """Return the core's view of a rig; None until open."""
        return self._fanout.peers[name] if self._fanout else None

    def address(self, name: str) -> tuple[Any, ...]:
        """Return the socket address to which the rig's name resolved, as host and port."""
        return self._addresses.get(name, ())[:2]

    # ------------------------------------------------------------------------------------------------ sending

    def push(
        self,
        message: Message,
        request_time: float,
        done: Callable[[Outcome | NotRunning], object],
        rigs: Iterable[str] | None = None,
        timeout: float | None = None,
        confirmation: asyncio.Future[None] | None = None,
    ) -> None:
        """Send a message, from any thread; `done` is called on the loop's thread with what became of it.

        Parameters
        ----------
        message : Message
            Composed by `rigsync.protocol.arguments.compose`.
        request_time : float
            From `draw_request_time`; the key in the log.
        done : callable
            Called with a `PushResult`, a `PushError`, or `NotRunning` where the services were closed before.
        rigs : iterable of str, optional
            Names; all by default.
        timeout : float, optional
            Seconds, instead of each rig's own.
        confirmation : asyncio.Future, optional
            Resolved when the one rig named confirms that it has the message.

        Raises
        ------
        NotRunning
            The services are not open.
        """
        if self._loop is None or self._endpoint is None:
            raise NotRunning("the services are not open: never opened, or closed")
        args = (message, request_time, done, rigs, timeout, confirmation)
        if threading.get_ident() == self._thread:
            self._push(*args)
            return
        try:
            self._loop.call_soon_threadsafe(self._push, *args)
        except RuntimeError:
            raise NotRunning("the event loop of the services is closed") from None

    def _push(
        self,
        message: Message,
        request_time: float,
        done: Callable[[Outcome | NotRunning], object],
        rigs: Iterable[str] | None,
        timeout: float | None,
        confirmation: asyncio.Future[None] | None,
    ) -> None:
        endpoint, fanout = self._endpoint, self._fanout
        if endpoint is None or fanout is None:
            done(NotRunning("closed before the message was sent"))
            return
        self._pending[request_time] = done
        if confirmation:
            self._confirmations[request_time] = confirmation
        if timeout is None and self._timeout is not None:
            timeout = self._timeout or math.inf
        fanout.push(message, request_time, endpoint.now(), rigs, timeout, confirmation is not None)
        endpoint.pump()

    def send_confirmed(
        self, message: Message, rig: str, timeout: float | None, confirmed: asyncio.Future[None]
    ) -> None:
        """Send a message to one rig; `confirmed` is resolved when the rig has it, or fails. From any thread."""

        def done(outcome: Outcome | NotRunning) -> None:
            error: BaseException | None = outcome if isinstance(outcome, NotRunning) else None
            if isinstance(outcome, PushError):
                error = outcome.failed[rig]
            resolve_future(confirmed, error)

        self.push(message, draw_request_time(), done, [rig], timeout, confirmed)

    def withdraw_queued(self) -> int:
        """Take out of the queues what has not been sent; return how many pushes that touches. On the loop's thread."""
        if self._fanout is None or self._endpoint is None:
            return 0
        touched = self._fanout.withdraw_queued()
        self._endpoint.pump()
        return touched

    async def _signal(
        self, event: Any, method: str, *args: Any, concurrent: bool = True, reverse: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Send one message to all rigs, as iblutil's verbs ask; return their answers.

        Raises
        ------
        PushError
            Some rig failed; a `TimeoutError` too where all failures are time-outs.
        """
        message = self._compose_verb(event, method, *args, **kwargs)
        if concurrent:
            return dict(await self.request(message))
        answers: dict[str, Any] = {}
        failures: dict[str, RigError] = {}
        for name in reversed(list(self)) if reverse else list(self):
            try:
                answers.update(await self.request(message, [name]))
            except PushError as error:  # the others are told all the same
                failures.update(error.failed)
                last = error
        if failures:
            result = PushResult(message.event.name, last.result.request_time, answers, failures)
            raise result.as_error()
        return answers

    @staticmethod
    def _compose_verb(event: Any, method: str, *args: Any, data: Any = None, **_: Any) -> Message:
        if method == "confirmed_send":  # the message itself, as iblrig's older code gives it
            return RemoteRig._compose(args[0])
        event = ExpMessage.validate(event, allow_bitwise=False)
        return compose(event, *args) if data is None else compose(event, *args, data)

    async def request(self, message: Message, rigs: Iterable[str] | None = None) -> PushResult:
        """Send a message and wait for the answers, on any event loop.

        Raises
        ------
        PushError
            Some rig failed.
        NotRunning
            The services are not open, or were closed meanwhile.
        """
        future: asyncio.Future[PushResult] = asyncio.get_running_loop().create_future()
        self.push(message, draw_request_time(), lambda outcome: resolve_future(future, outcome), rigs)
        return await future

    async def alyx(self, alyx: Any = None) -> dict[str, Any]:
        """Send an Alyx token to all rigs, or ask them for one; return their answers."""
        return await self._signal(ExpMessage.ALYX, "alyx", alyx)

    def ping(self, rig: str, timeout: float, done: Callable[[PingReply | RigError], object]) -> None:
        """Send one probe now; `done` is called with what became of it. On the loop's thread.

        Parameters
        ----------
        rig : str
            Name of the rig.
        timeout : float
            Seconds.
        done : callable
            Called once, with a `PingReply`, or with `RigTimeout` or `RigRefused`.
        """
        if self._fanout is None or self._endpoint is None or self._loop is None:
            raise NotRunning("the services are not open: never opened, or closed")
        key = (rig, self._fanout.probe(rig, self._endpoint.now()))
        late = RigTimeout(rig, f"no answer from {self._rigs.rigs[rig].address} within {timeout:g} s")
        timer = self._loop.call_later(timeout, lambda: self._finish_ping(key, late))

        def finish(outcome: PingReply | RigError) -> None:
            timer.cancel()
            done(outcome)

        self._pings[key] = finish
        self._endpoint.pump()

    def _finish_ping(self, key: tuple[str, int], outcome: PingReply | RigError) -> None:
        if finish := self._pings.pop(key, None):
            finish(outcome)

    # ------------------------------------------------------------------------------------------------- events

    def _on_event(self, event: Event) -> None:
        if isinstance(event, MessageReceived):
            rig = self[event.rig]
            address, answers = self.address(event.rig), event.request_time is not None
            rig.deliver(event.event, event.args, address, answers and event.request_time in self._confirmations)
        elif isinstance(event, PushCompleted):
            self._complete(event)
            return
        elif isinstance(event, RequestReceived):
            if confirmation := self._confirmations.get(event.request_time):
                self._confirmed.add(event.request_time)
                resolve_future(confirmation, None)
        elif isinstance(event, ProbeAnswered):
            self._finish_ping((event.rig, event.n), self._ping_reply(event))
        elif isinstance(event, ProbeRefused):
            self._refuse_pings(event.rig)
        elif isinstance(event, RemoteComplaint):
            logger.error("%s: its callback for %s failed: %s", event.rig, event.event.name, event.text)
            self[event.rig].deliver(NULL_MESSAGE, [event.text, event.event], self.address(event.rig), False)
        elif isinstance(event, LinkChanged):
            self._note_link(event)
        elif isinstance(event, ViolationSeen):
            logger.warning("%s: %s (further ones are counted, not logged)", event.source, event.problem)
        self.subscribers.tell(event)

    def _complete(self, event: PushCompleted) -> None:
        result = PushResult(event.event.name, event.request_time, event.answers, event.failures)
        outcome = result.as_outcome()
        for error in event.failures.values():
            logger.error("%s: %s", event.event.name, error)
        done = self._pending.pop(event.request_time, None)  # before a subscriber can close the services
        self._confirmations.pop(event.request_time, None)
        if event.request_time in self._confirmed:
            self._confirmed.remove(event.request_time)
            for name, error in event.failures.items():
                self[name].deliver_failure(event.event, error)
        self.log.file(event.request_time, outcome)
        self.response_received.announce()
        self.subscribers.tell(event)
        if done:
            done(outcome)

    def _note_link(self, event: LinkChanged) -> None:
        level = logging.WARNING if event.after in (LinkState.LOST, LinkState.SUSPECT) else logging.INFO
        logger.log(level, "%s is %s: %s", event.rig, event.after.value, event.reason)
        if self._fanout and self._fanout.is_connected:
            self.connected.set()
        else:
            self.connected.unset()

    def _ping_reply(self, event: ProbeAnswered) -> PingReply:
        rig = self[event.rig]
        host, port = self.address(event.rig)
        peer = rig.peer
        known = peer if peer and event.stamps else None
        return PingReply(
            event.rig,
            str(Address("udp", host, port)).partition("://")[2],
            event.round_trip,
            rig.dialect,
            known.status.name if known and known.status is not None else None,
            known.exp_ref if known else None,
            known.version if known else None,
        )

    def _refuse_pings(self, rig: str) -> None:
        address = urlsplit(self[rig].server_uri).netloc
        refused = RigRefused(
            rig, f"the host of {address} is up and nothing listens at that port; start the rig's program there"
        )
        for key in [key for key in self._pings if key[0] == rig]:
            self._finish_ping(key, refused)


def resolve_future(future: asyncio.Future[Any], outcome: Any) -> None:
    """Give a future of any event loop its result, or its exception where `outcome` is one; at most once."""

    def settle() -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    on_loop_of(future, settle)


def on_loop_of(future: asyncio.Future[Any], settle: Callable[[], object]) -> None:
    """Call a function where the future may be touched: here, if its loop runs this, else on its loop, soon."""
    loop = future.get_loop()
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if loop is running:
        settle()
        return
    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        logger.debug("an answer came for a waiter whose event loop has been closed")
