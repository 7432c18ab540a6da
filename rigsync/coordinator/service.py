"""The coordinator on an event loop, over the rigsync core, with the members of iblutil's `Services`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import math
import os
import secrets
import sys
import time
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from rigsync._text import one_line
from rigsync.config.rigs import Rigs, checked_timeout
from rigsync.coordinator.faces import Faced
from rigsync.coordinator.remote_rig import RemoteRig, identity, message_of
from rigsync.coordinator.results import PingReply, PushResult, ResultLog, draw_request_time
from rigsync.coordinator.rules import LogRules
from rigsync.core.arguments import compose, compose_command
from rigsync.core.enums import PROTOCOL_VERSION, ExpMessage
from rigsync.core.events import (
    CoordinatorClosed,
    CoordinatorOpened,
    Dialect,
    Event,
    LinkChanged,
    LinkState,
    MessageReceived,
    ProbeAnswered,
    ProbeRefused,
    PushCompleted,
    PushDecided,
    RemoteComplaint,
    RequestReceived,
)
from rigsync.core.fanout import Fanout
from rigsync.core.legacy import NULL_MESSAGE
from rigsync.core.messages import Command, Message, Verb
from rigsync.core.peer import Line, Peer
from rigsync.core.rigs import LONGEST_PAUSE, PAUSE, Address, RigConfig, is_literal, is_pause
from rigsync.errors import (
    ConfigError,
    NotRunning,
    PushError,
    RemoteError,
    RigError,
    RigLost,
    RigRefused,
    RigsyncError,
    RigTimeout,
)
from rigsync.net.endpoint import Endpoint, look_up, stamp_clock
from rigsync.net.udp import own_address
from rigsync.runtime.callbacks import guarded, name_of, resolve_future, runs_here
from rigsync.runtime.conditions import Arrivals, Latch
from rigsync.runtime.hub import Hub

logger = logging.getLogger("rigsync.service")
link_logger = logging.getLogger("rigsync.link")
wait_logger = logging.getLogger("rigsync.wait")

Outcome = PushResult | PushError

FIRST_WORD = 2.0
"""Seconds of waiting for a push after which it is said for whom; then again whenever it has lasted twice as long."""
LOOKS_THERE = 6
"""Look-ups for which a lost rig that has answered is waited for where it was, before other addresses of its name are
tried: half a minute, in which its program is started again."""

LONGEST_SCRIPT = 40
"""Characters of a script's name that rigs are told."""
MOST_ON_WINDOWS = 250
"""Rigs: select() there watches 512 sockets, each rig takes two, and the event loop some for itself."""


_STARTED = time.strftime("%H:%M:%S")
"""When this program began with rigsync."""


def this_program() -> str:
    """Return which program this is: the name of its script, and never its arguments, which may hold secrets."""
    path = next(iter(getattr(sys, "argv", ())), "")
    if os.path.basename(path) == "__main__.py":  # of a package
        path = os.path.dirname(path)
    name = os.path.basename(path)
    shown = "python" if name in ("", "-c") else one_line(name)[:LONGEST_SCRIPT]
    return f"{shown}, pid {os.getpid()}, started {_STARTED}"


@dataclass(slots=True)
class _Pending:
    """A push that is not completed."""

    event: Verb
    done: Callable[[Outcome | NotRunning], object]
    confirmation: asyncio.Future[None] | None = None
    confirmed: bool = False
    size: int = 0
    """Bytes of the answers so far."""
    is_waited_for: Callable[[], bool] = lambda: False
    """Whether somebody still waits for it, who is to be told for whom."""
    telling: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _Ping:
    """A probe whose answer somebody waits for."""

    rig: str
    n: int
    done: Callable[[PingReply | RigError], object]
    timer: asyncio.TimerHandle | None = None


class RigServices(Faced, UserDict[str, RemoteRig]):
    """All rigs of a configuration by name, over the rigsync core, with the members of iblutil's `Services`.

    A map that cannot be changed. The verbs `init`, `start`, `stop`, `status`, `info`, `cleanup` and `alyx` are
    coroutines that return a dict of rig name to answer. For `isinstance`, it is a `Services` where iblutil is loaded.

    Parameters
    ----------
    rigs : Rigs
        The configuration.
    log : ResultLog, optional
        Where outcomes are filed.
    connected : Latch, optional
        Set while the services are open.
    response_received : Arrivals, optional
        Announced at each completed push.
    hub : Hub, optional
        Where events are told, while it runs; by default one of its own, which runs while the services are open.
    pause : callable, optional
        Returns, at each push, the seconds that an iblutil rig has after its last word; 0.2 by default.
    """

    __version__ = PROTOCOL_VERSION

    def __init__(
        self,
        rigs: Rigs,
        *,
        log: ResultLog | None = None,
        connected: Latch | None = None,
        response_received: Arrivals | None = None,
        hub: Hub | None = None,
        pause: Callable[[], float] = lambda: PAUSE,
    ):
        super().__init__()
        by_name = {name: RemoteRig(config, self) for name, config in rigs.rigs.items()}
        self.data = MappingProxyType(by_name)  # type: ignore[assignment] # so that nobody adds or takes one
        self._timeout: float | None = None  # each rig's own, unless somebody sets one for all
        self._rigs = rigs
        self.log = ResultLog() if log is None else log
        self.connected = Latch() if connected is None else connected
        self.response_received = Arrivals() if response_received is None else response_received
        self.hub = Hub("services", owner="RigServices") if hub is None else hub
        self._has_own_hub = hub is None
        self._pause = pause
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = self._closing = False
        self._fanout: Fanout
        self._endpoint: Endpoint | None = None
        self._addresses: dict[str, tuple[Any, ...]] = {}
        self._pending: dict[float, _Pending] = {}
        self._pings: list[_Ping] = []
        self._searches: dict[str, asyncio.Task[None]] = {}
        self._answered: set[str] = set()
        self._settling: dict[float, tuple[_Pending | None, Outcome]] = {}
        """Pushes that are completed, and of which subscribers are being told; then who waits is."""
        self._make_rules()

    # --------------------------------------------------------------------------------------------- life cycle

    async def open(self) -> None:
        """Look up the rigs' addresses, open the sockets, and begin to probe, on the running event loop.

        Raises
        ------
        ConfigError
            A name that does not resolve, or two rigs at one address that may not share it; names the rig.
        RigsyncError
            The system gives no more sockets.
        RuntimeError
            They are open.
        NotRunning
            They were closed meanwhile.
        """
        if self.is_open or self._opening:
            raise RuntimeError("the services are open already")
        self._opening, self._closing = True, False
        self._loop = asyncio.get_running_loop()
        try:
            self._endpoint = await self._connect()
        finally:
            self._opening = False
        if self._has_own_hub:
            self.hub.begin()
        if self._closing:
            self.close()
            raise NotRunning("the services were closed while they were being opened")
        self._fanout.connect(self._endpoint.now())
        self._endpoint.pump()
        self.hub.ingest(CoordinatorOpened(list(self.data)))

    async def _connect(self) -> Endpoint:
        rigs = self._rigs.rigs
        if sys.platform == "win32" and len(rigs) > MOST_ON_WINDOWS:
            raise RigsyncError(f"{len(rigs)} rigs are more than Windows can watch at once, which is {MOST_ON_WINDOWS}")
        all_found = await asyncio.gather(*(look_up(config) for config in rigs.values()))
        found = [addresses[0] for addresses in all_found]
        self._addresses = {name: address for name, (_, address) in zip(rigs, found, strict=True)}
        self._check_distinct(self._addresses)
        self._fanout = Fanout(rigs, self._rigs.timing, secrets.token_hex(8), stamp_clock(), Random(), this_program())
        fanout = self._fanout
        for name, address in self._addresses.items():
            fanout.peers[name].is_shared = self._rigs.may_share and list(self._addresses.values()).count(address) > 1
        endpoint = Endpoint(fanout, self.hub.ingest, fanout.report_refusal, fanout.report_life)
        try:
            for name, (family, address) in zip(rigs, found, strict=True):
                await self._open_lines(endpoint, name, family, address)
        except BaseException as error:
            endpoint.close()
            if isinstance(error, OSError):
                raise self._explained(error, name) from error
            raise
        return endpoint

    def _check_distinct(self, addresses: dict[str, tuple[Any, ...]]) -> None:
        self._rigs.check_distinct(addresses)
        for first, second in itertools.combinations(addresses, 2):
            if self._rigs.may_share and addresses[first] == addresses[second]:
                logger.warning("%s and %s have the same address: each message goes there for both", first, second)

    async def _open_lines(self, endpoint: Endpoint, name: str, family: int, address: tuple[Any, ...]) -> None:
        config = self._rigs.rigs[name]
        lines = [(name, line) for line in Line]
        if config.address.scheme == "tcp":
            endpoint.connect_stream(lines, family, address, config.max_message)
            return
        for line in lines:
            await endpoint.connect(line, family, address)

    @staticmethod
    def _explained(error: OSError, name: str) -> RigsyncError:
        if error.errno in (errno.EMFILE, errno.ENFILE, getattr(errno, "WSAEMFILE", errno.EMFILE)):
            return RigsyncError(
                f"no more sockets at rig {name}: each rig takes two; raise the limit of open files (ulimit -n)"
            )
        return RigsyncError(f"no socket towards rig {name}: {error}")

    @property
    def is_open(self) -> bool:
        """Whether messages can be pushed."""
        return self._endpoint is not None

    @property
    def is_connected(self) -> bool:
        """Whether there are rigs and the services are open, as iblutil has it."""
        return bool(self.data) and self.is_open

    @property
    def all_alive(self) -> bool:
        """Whether there are rigs and every one has answered lately: its link is alive or suspect."""
        return self.is_open and self._fanout.all_alive

    def close(self) -> None:
        """Say goodbye to the rigs, close the sockets, and settle what is outstanding; soon, if not on the loop."""
        with contextlib.suppress(NotRunning):  # never opened, or closed with its loop
            self._on_loop(self._close)

    def say_goodbye(self) -> None:
        """Tell the rigs that this program is ending, and no more; soon, if not on the loop.

        Raises
        ------
        NotRunning
            Never opened, or the event loop is closed.
        """
        self._on_loop(self._say_goodbye)

    def _say_goodbye(self) -> None:
        if self._endpoint:
            self._fanout.say_goodbye()
            self._endpoint.pump()

    def _close(self) -> None:
        self._closing = True
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            return
        for search in self._searches.values():
            search.cancel()
        self._fanout.say_goodbye()
        self._fanout.abandon()
        endpoint.close()  # which tells what became of the pushes that are outstanding
        for ping in list(self._pings):
            self._finish_pings([ping], RigTimeout(ping.rig, "closed before the probe was answered"))
        with contextlib.suppress(NotRunning):  # a hub that has ended before
            self.hub.ingest(CoordinatorClosed())
        for rig in self.values():
            rig.close()
        if self._has_own_hub:
            self.hub.end()

    def _on_loop(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the loop: now, if this is its thread, else soon."""
        loop = self._loop
        if loop is None:
            raise NotRunning("the services were never opened")
        if runs_here(loop):
            function(*args)
            return
        try:
            loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            raise NotRunning("the event loop of the services is closed") from None

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
        pauses = [self._pause(), *(rig.config.pause or 0.0 for rig in self.values())]
        waiting = 2 + len(self._pending)  # what is outstanding has its pauses before
        return (timeout if timeout is not None else self.timeout or math.inf) + waiting * max(pauses)

    def peer(self, name: str) -> Peer | None:
        """Return the core's view of a rig; None until open."""
        return self._fanout.peers[name] if self._endpoint else None

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
        delay: float | None = None,
        patience: float = 0.0,
        all_or_none: bool = False,
        is_waited_for: Callable[[], bool] | None = None,
    ) -> None:
        """Send a message, from any thread; `done` is called on the loop's thread with what became of it.

        Parameters
        ----------
        message : Message
            Composed by `rigsync.core.arguments.compose`.
        request_time : float
            From `draw_request_time`; the key in the log.
        done : callable
            Called with a `PushResult`, a `PushError`, or `NotRunning` where the services were closed before.
        rigs : iterable of str, optional
            Names; all by default.
        timeout : float, optional
            Seconds, instead of each rig's own.
        confirmation : asyncio.Future, optional
            Resolved when the one rig named confirms that it has the message; of an iblutil rig no more is awaited.
        delay : float, optional
            Seconds from now until the one instant at which all rigs are to act.
        patience : float
            Seconds beyond the timeout for rigs that say that they are working on it.
        all_or_none : bool
            Whether `done` is called as soon as it is certain that the push has failed, with the `PushError` of those
            that have answered or failed by then; and once more when all have.
        is_waited_for : callable, optional
            Tells whether somebody still waits for it; while it does, the log says for which rigs, and for how long.

        Raises
        ------
        NotRunning
            The services are not open.
        UnknownRig
            A name that none of the rigs has.
        PayloadTooLarge
            The message is too large for one of them.
        ValueError
            `refresh_rate` is no pause.
        """
        if self._endpoint is None:
            raise NotRunning("the services are not open: never opened, or closed")
        names = None if rigs is None else self._rigs.matching(rigs)
        self._rigs.room(names).check(message.size, message.body)
        if timeout is None and self._timeout is not None:
            timeout = self._timeout or math.inf
        pause = self._pause()
        if not is_pause(pause):
            raise ValueError(f"refresh_rate is the seconds of a pause, from 0 to {LONGEST_PAUSE:g}, not {pause!r}")
        act_at = None if delay is None else self._endpoint.now() + delay
        pending = _Pending(message.event, done, confirmation)
        if is_waited_for:
            pending.is_waited_for = is_waited_for
        self._on_loop(self._push, message, request_time, pending, names, timeout, act_at, patience, pause, all_or_none)

    def _push(
        self,
        message: Message,
        request_time: float,
        pending: _Pending,
        rigs: list[str] | None,
        timeout: float | None,
        act_at: float | None,
        patience: float,
        pause: float,
        all_or_none: bool,
    ) -> None:
        endpoint = self._endpoint
        if endpoint is None:
            guarded("waiter for a push", pending.done, NotRunning("closed before the message was sent"))
            return
        self._pending[request_time] = pending
        confirm = pending.confirmation is not None
        now = endpoint.now()
        self._fanout.push(message, request_time, now, rigs, timeout, confirm, act_at, patience, pause, all_or_none)
        if pending.is_waited_for():
            ahead = 0.0 if act_at is None else max(0.0, act_at - now)
            loop = asyncio.get_running_loop()
            pending.telling = loop.call_later(ahead + FIRST_WORD, self._tell_wait, request_time, pending, FIRST_WORD)
        endpoint.pump()

    def _tell_wait(self, request_time: float, pending: _Pending, seconds: float) -> None:
        """Say for which rigs somebody waits; next when that has lasted twice as long."""
        if pending.is_waited_for() and (rigs := self._fanout.outstanding(request_time)):
            wait_logger.warning("waiting for %s: %s, %g s", ", ".join(rigs), pending.event.name, seconds)
            loop = asyncio.get_running_loop()
            pending.telling = loop.call_later(seconds, self._tell_wait, request_time, pending, 2 * seconds)

    def outstanding(self, request_time: float) -> list[str]:
        """Return the rigs that have not answered a push yet; from any thread."""
        return self._fanout.outstanding(request_time) if self._endpoint else []

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
        if self._endpoint is None:
            return 0
        touched = self._fanout.withdraw_queued()
        self._endpoint.pump()
        return touched

    # ------------------------------------------------------------------------------------------------- iblutil's

    async def init(self, data: Any = None, concurrent: bool = True) -> dict[str, Any]:
        """Send EXPINIT to all rigs and wait for their answers.

        Parameters
        ----------
        data : object
            What the rigs are to know.
        concurrent : bool
            Whether all get it at once; else each when the one before has answered.

        Returns
        -------
        dict of str to list
            The answers by name of rig; here and in the other verbs.

        Raises
        ------
        PushError
            Some rig failed; a `TimeoutError` too where all failures are time-outs. Here and in the other verbs.
        NotRunning
            The services are not open, or were closed meanwhile.
        """
        return await self._signal(ExpMessage.EXPINIT, "init", data=data, concurrent=concurrent)

    async def start(self, exp_ref: Any, data: Any = None, concurrent: bool = True) -> dict[str, Any]:
        """Send EXPSTART to all rigs and wait for their answers.

        Parameters
        ----------
        exp_ref : str or dict
            The experiment, ``yyyy-mm-dd_n_subject`` or a map of ``date``, ``sequence`` and ``subject``.
        data : object
            What else the rigs are to know.
        concurrent : bool
            As for `init`.
        """
        return await self._signal(ExpMessage.EXPSTART, "start", exp_ref, data=data, concurrent=concurrent)

    async def stop(self, data: Any = None, immediately: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Send EXPEND, or EXPINTERRUPT, to all rigs and wait for their answers; the last rig comes first.

        Parameters
        ----------
        data : object
            What the rigs are to know, for instance the error that interrupts.
        immediately : bool
            Whether to interrupt.
        **kwargs
            ``concurrent``, as for `init`.
        """
        return await self._signal(ExpMessage.EXPEND, "stop", data=data, immediately=immediately, reverse=True, **kwargs)

    async def status(self, status: Any, **kwargs: Any) -> dict[str, Any]:
        """Send EXPSTATUS to all rigs and wait for theirs.

        Parameters
        ----------
        status : ExpStatus, str or int
            The status of this computer.
        **kwargs
            ``concurrent``, as for `init`.
        """
        return await self._signal(ExpMessage.EXPSTATUS, "status", status, **kwargs)

    async def info(self, status: Any, data: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Send EXPINFO to all rigs and wait for what they are.

        Parameters
        ----------
        status : ExpStatus, str or int
            The status of this computer.
        data : object
            What this computer says of itself.
        **kwargs
            ``concurrent``, as for `init`.
        """
        return await self._signal(ExpMessage.EXPINFO, "info", status, data=data, **kwargs)

    async def cleanup(self, data: Any = None, concurrent: bool = True) -> dict[str, Any]:
        """Send EXPCLEANUP to all rigs and wait for their answers; the last rig comes first.

        Parameters
        ----------
        data : object
            What the rigs are to know.
        concurrent : bool
            As for `init`.
        """
        return await self._signal(ExpMessage.EXPCLEANUP, "cleanup", data=data, reverse=True, concurrent=concurrent)

    async def alyx(self, alyx: Any = None) -> dict[str, Any]:
        """Send an Alyx token to all rigs, or ask them for one.

        Parameters
        ----------
        alyx : object, optional
            An Alyx client, whose token is sent if it is logged in. None asks the rigs for one.

        Returns
        -------
        dict of str to list
            The answers by name of rig: address and token, where a rig was asked for one.

        Raises
        ------
        PushError
            Some rig failed.
        TypeError
            It is no Alyx client.
        NotRunning
            The services are not open, or were closed meanwhile.
        """
        return await self._signal(ExpMessage.ALYX, "alyx", alyx)

    def assign_callback(
        self, event: Any, callback: Callable[..., object] | asyncio.Future[Any], return_service: bool = False
    ) -> None:
        """Have a function called, or a future resolved, when a message comes from any rig.

        Parameters
        ----------
        event, callback
            As for `RemoteRig.assign_callback`.
        return_service : bool
            Whether the function is called with the `RemoteRig` too, as the last argument.

        Raises
        ------
        TypeError, ValueError
            As for `RemoteRig.assign_callback`; also for a future that is to get the rig.
        """
        for rig in self.values():
            rig.assign_callback(event, _with_rig(callback, rig) if return_service else callback)

    def clear_callbacks(
        self, event: Any, callback: Callable[..., object] | asyncio.Future[Any] | None = None
    ) -> dict[str, int]:
        """Remove the callbacks of a message from all rigs, or one of them.

        Parameters
        ----------
        event, callback
            As for `RemoteRig.clear_callbacks`.

        Returns
        -------
        dict of str to int
            How many were removed, by name of rig.

        Raises
        ------
        TypeError, ValueError
            As for `RemoteRig.clear_callbacks`.
        """
        return {name: rig.clear_callbacks(event, callback) for name, rig in self.items()}

    async def await_all(self, event: Any) -> dict[str, Any]:
        """Wait until every rig has sent a message, at most `timeout` seconds.

        Parameters
        ----------
        event : str, int or ExpMessage
            The message, or several joined by ``|``, of which each rig sends one.

        Returns
        -------
        dict of str to list
            What follows the event, by name of rig.

        Raises
        ------
        asyncio.TimeoutError
            Not every rig has; names those.
        RigError
            A rig failed to answer the last `confirmed_send` of it.
        TypeError, ValueError
            No such message.
        """
        event = ExpMessage.validate(event)
        waits = {name: asyncio.ensure_future(rig.on_event(event)) for name, rig in self.items()}
        if not waits:
            return {}
        try:
            _, late = await asyncio.wait(waits.values(), timeout=self.timeout or None)
        finally:
            for wait in waits.values():
                wait.cancel()
        answers = {name: wait.result()[0] for name, wait in waits.items() if wait not in late}
        if late:
            missing = ", ".join(name for name in waits if name not in answers)
            raise asyncio.TimeoutError(f"no {event.name} within {self.timeout:g} s from {missing}")
        return answers

    async def _signal(
        self, event: Any, method: str, *args: Any, concurrent: bool = True, reverse: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Send one message to all rigs, as the verbs ask, and iblrig's older code; return their answers."""
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

    def _compose_verb(
        self, event: Any, method: str, *args: Any, data: Any = None, immediately: bool = False
    ) -> Message:
        room = self._rigs.room()
        if method == "confirmed_send":  # the message itself, as iblrig's older code gives it
            return message_of(args[0], room)
        if immediately:  # older releases of iblutil name EXPEND all the same
            event = ExpMessage.EXPINTERRUPT
        return compose(event, *args, *([] if data is None else [data]), room=room)

    async def request(
        self, message: Message, rigs: Iterable[str] | None = None, timeout: float | None = None
    ) -> PushResult:
        """Send a message and wait for the answers, on any event loop.

        Parameters
        ----------
        message : Message
            Composed by `rigsync.core.arguments.compose`.
        rigs : iterable of str, optional
            Names or patterns; all by default.
        timeout : float, optional
            Seconds, instead of each rig's own.

        Returns
        -------
        PushResult
            The answer of each rig.

        Raises
        ------
        PushError
            Some rig failed.
        NotRunning
            The services are not open, or were closed meanwhile.
        UnknownRig
            A name or pattern that matches none.
        """
        future: asyncio.Future[PushResult] = asyncio.get_running_loop().create_future()
        self.push(message, draw_request_time(), lambda outcome: resolve_future(future, outcome), rigs, timeout)
        return await future

    async def call(self, rig: str, command: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Have a rig do a command and wait for the value that it returns, on any event loop.

        Parameters
        ----------
        rig, command, *args, timeout, **kwargs
            As for `rigsync.Auxiliaries.call`.

        Returns
        -------
        object
            What the function on the rig has returned, as plain JSON values.

        Raises
        ------
        RigError
            What became of it, where the rig has not done it.
        PayloadError, PayloadTooLarge, TypeError, ValueError, UnknownRig
            As for `rigsync.Auxiliaries.call`.
        NotRunning
            The services are not open, or were closed meanwhile.
        """
        name = self._rigs.only(rig)
        message = compose_command(command, args, kwargs, self._rigs.room([name]))
        try:
            result = await self.request(message, [name], checked_timeout(timeout))
        except PushError as error:
            failure = copy(error.failed[name])  # not the one in the log, as for Auxiliaries.call
        else:
            return result[name][0]
        raise failure

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

        Raises
        ------
        NotRunning
            The services are not open.
        KeyError
            No such rig.
        """
        if self._endpoint is None:
            raise NotRunning("the services are not open: never opened, or closed")
        n = self._fanout.probe(rig, self._endpoint.now())
        late = RigTimeout(rig, f"no answer from {self._rigs.rigs[rig].address} within {timeout:g} s")
        ping = _Ping(rig, n, done)
        ping.timer = asyncio.get_running_loop().call_later(timeout, self._finish_pings, [ping], late)
        self._pings.append(ping)
        self._endpoint.pump()

    def _finish_pings(self, pings: list[_Ping], outcome: PingReply | RigError) -> None:
        for ping in pings:
            self._pings.remove(ping)
            if ping.timer:
                ping.timer.cancel()
            guarded("waiter for a ping", ping.done, outcome)

    # ------------------------------------------------------------------------------------------------- events

    def _make_rules(self) -> None:
        rules: dict[type[Event], Callable[[Any], object]] = {
            CoordinatorOpened: self._note_opening,
            CoordinatorClosed: lambda _: self.connected.unset(),
            MessageReceived: self._deliver,
            PushDecided: self._decide,
            RequestReceived: self._confirm,
            ProbeAnswered: self._answer_pings,
            ProbeRefused: self._refuse_pings,
            RemoteComplaint: self._note_complaint,
            LinkChanged: self._note_link,
            PushCompleted: self._complete,
        }
        for kind, rule in rules.items():
            self.hub.rule(kind, rule)
        self.hub.rule(PushCompleted, self._settle, last=True)
        LogRules(self.hub)

    def _note_opening(self, event: CoordinatorOpened) -> None:
        if event.rigs:
            self.connected.set()

    def _answer_pings(self, event: ProbeAnswered) -> None:
        if answered := [ping for ping in self._pings if (ping.rig, ping.n) == (event.rig, event.n)]:
            now = asyncio.get_running_loop().time()
            self._finish_pings(answered, self._fanout.peers[event.rig].mistaken_for(now) or self._ping_reply(event))

    def _deliver(self, event: MessageReceived) -> None:
        pending = self._pending.get(event.request_time) if event.request_time is not None else None
        if pending:
            pending.size += event.size
        if isinstance(event.event, Command):  # of which iblutil's callbacks know nothing
            return
        self[event.rig].deliver(event.event, event.args, self.address(event.rig))

    def _confirm(self, event: RequestReceived) -> None:
        pending = self._pending.get(event.request_time)
        if pending and pending.confirmation and not isinstance(pending.event, Command):
            pending.confirmed = True
            self[event.rig].note_confirmed(pending.event)
            resolve_future(pending.confirmation, None)

    def _decide(self, event: PushDecided) -> None:
        if pending := self._pending.get(event.request_time):
            result = PushResult(event.event.name, event.request_time, event.answers, event.failures)
            guarded("waiter for a push", pending.done, result.as_outcome())

    def _complete(self, event: PushCompleted) -> None:
        name = event.event.name
        result = PushResult(name, event.request_time, event.answers, event.failures, event.starts, event.at)
        outcome = result.as_outcome()
        pending = self._pending.pop(event.request_time, None)  # before a subscriber can close the services
        if pending and pending.telling:
            pending.telling.cancel()
        if not isinstance(event.event, Command):  # of which iblutil's callbacks know nothing
            self._deliver_failures(event.event, event.failures, was_confirmed=bool(pending and pending.confirmed))
        self.log.file(event.request_time, outcome, pending.size if pending else 0)
        self.response_received.announce()
        self._settling[event.request_time] = pending, outcome

    def _settle(self, event: PushCompleted) -> None:
        pending, outcome = self._settling.pop(event.request_time)
        if pending:
            closed = NotRunning("closed before every rig had answered") if self._closing and event.failures else None
            guarded("waiter for a push", pending.done, closed or outcome)

    def _deliver_failures(self, event: ExpMessage, failures: Mapping[str, RigError], was_confirmed: bool) -> None:
        if was_confirmed:
            for name, error in failures.items():
                self[name].deliver_failure(error, event)
        for name, error in failures.items():
            if isinstance(error, RemoteError):  # iblutil's callbacks for errors: for every one
                self[name].deliver(NULL_MESSAGE, [f"{error.error}: {error.message}", event], self.address(name))

    def _note_complaint(self, event: RemoteComplaint) -> None:
        error, _, problem = event.text.partition(": ")
        self[event.rig].deliver_failure(RemoteError(event.rig, error, problem), event.event)
        self[event.rig].deliver(NULL_MESSAGE, [event.text, event.event], self.address(event.rig))

    def _note_link(self, event: LinkChanged) -> None:
        if event.after is LinkState.ALIVE:
            self._answered.add(event.rig)
        if event.after is LinkState.LOST and self[event.rig].dialect == Dialect.IBLUTIL.value:
            # What it has confirmed is not outstanding any more, and would be awaited without end.
            self[event.rig].deliver_failure(RigLost(event.rig, f"lost before it answered: {event.reason}"))
        if event.after is LinkState.LOST and self._endpoint:
            self._endpoint.reconnect((event.rig, Line.REQUESTS), event.reason)
            self._search(event.rig)

    def _search(self, rig: str) -> None:
        """Look for another way to a lost rig until it answers."""
        before = self._searches.get(rig)
        if before is None or before.done():  # the rig was back, and is lost again before that was told
            search = asyncio.get_running_loop().create_task(self._look_for(rig), name=f"rigsync search for {rig}")
            self._searches[rig] = search
            search.add_done_callback(lambda done: self._searches.get(rig) is done and self._searches.pop(rig))

    async def _look_for(self, rig: str) -> None:
        config, timing = self._rigs.rigs[rig], self._rigs.timing
        interval = timing.beat if is_literal(config.address) else timing.lost_after  # which asks a name server
        for look in itertools.count():
            endpoint = self._endpoint
            if endpoint is None or self[rig].state is not LinkState.LOST:
                return
            try:
                await self._look_once(endpoint, config, stay=rig in self._answered and look < LOOKS_THERE)
            except (ConfigError, OSError, RuntimeError) as error:  # the last where the system gives no more threads
                link_logger.debug("%s: looking for another way to it: %s", rig, error)
            await asyncio.sleep(interval)

    async def _look_once(self, endpoint: Endpoint, config: RigConfig, stay: bool) -> None:
        """Open a rig's lines again where its name stands for another address, or this computer has another towards it.

        Of several addresses of its name each to which there is a way has its turn, unless it is to `stay` at the one
        where it was last.
        """
        rig, found = config.name, await look_up(config)
        before = self._addresses[rig]
        addresses = [address for _, address in found]
        turn = addresses.index(before) if before in addresses else -1
        others = found if turn < 0 else [] if stay else [*found[turn + 1 :], *found[:turn]]
        reached = [other for other in others if own_address(*other) is not None]  # one without a way has no turn
        if reached or turn < 0:
            family, address = (reached or found)[0]
            self._check_distinct({**self._addresses, rig: address})
        elif any(endpoint.is_stranded((rig, line)) for line in Line):
            family, address = found[turn]
        else:
            return
        await self._open_lines(endpoint, rig, family, address)
        self._addresses[rig] = address
        if address == before:
            link_logger.warning("%s: this computer's own network has changed; trying again from its new address", rig)
        elif turn < 0:
            link_logger.warning("%s: its name stands for %s now, no longer for %s", rig, address[0], before[0])
        else:
            link_logger.info("%s: trying %s, another address of its name, in place of %s", rig, address[0], before[0])

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
            known.owner if known else None,
            known.clock if known else None,
        )

    def _refuse_pings(self, event: ProbeRefused) -> None:
        rig, address = event.rig, urlsplit(self[event.rig].server_uri).netloc
        refused = RigRefused(
            rig, f"the host of {address} is up and nothing listens at that port; start the rig's program there"
        )
        self._finish_pings([ping for ping in self._pings if ping.rig == rig], refused)


def _with_rig(callback: Any, rig: RemoteRig) -> Callable[..., object]:
    """Return a function that calls another one with the rig too, and can be cleared by that one's name."""
    if not callable(callback):
        raise TypeError("a callback that is to get the rig is a function")

    def call(*content: Any) -> object:
        return callback(*content, rig)

    call.id = identity(callback)  # type: ignore[attr-defined]
    call.__qualname__ = name_of(callback)  # as the log calls it
    return call
