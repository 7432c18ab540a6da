"""The links of a coordinator to its rigs, on an event loop, over the rigsync core."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random
from typing import Any

from rigsync.config.rigs import Rigs
from rigsync.coordinator.pings import Pings
from rigsync.coordinator.results import PingReply, PushResult, ResultLog, draw_request_time
from rigsync.coordinator.rules import LogRules
from rigsync.coordinator.settling import Settling
from rigsync.coordinator.view import RigView, Views
from rigsync.coordinator.ways import Ways
from rigsync.core.clock import StampClock
from rigsync.core.events import (
    CoordinatorClosed,
    CoordinatorOpened,
    Event,
    MessageReceived,
    PushCompleted,
    PushDecided,
)
from rigsync.core.fanout import Fanout
from rigsync.core.lifecycle import ENDS
from rigsync.core.messages import Message, Verb
from rigsync.core.orders import Order
from rigsync.core.peer import Peer
from rigsync.core.rigs import LONGEST_PAUSE, PAUSE, is_pause
from rigsync.errors import Aborted, NotRunning, PushError, RigError
from rigsync.journal.recorder import Recorder
from rigsync.net.endpoint import Endpoint, stamp_clock
from rigsync.runtime.callbacks import guarded, runs_here
from rigsync.runtime.conditions import Arrivals, Latch
from rigsync.runtime.hub import Hub
from rigsync.runtime.program import this_program

wait_logger = logging.getLogger("rigsync.wait")

Outcome = PushResult | PushError

FIRST_WORD = 2.0
"""Seconds of waiting for a push after which it is said for whom; then again whenever it has lasted twice as long."""


@dataclass(slots=True)
class _Pending:
    """A push that is not completed."""

    event: Verb
    done: Callable[[Outcome], object]
    is_waited_for: Callable[[], bool] | None
    """Whether somebody still waits for it, who is to be told for whom."""
    raises: bool = False
    """Whether who waits for it raises what has failed."""
    raised: frozenset[str] | None = None
    """Rigs whose failures it raises: those of the first outcome, on which it goes on; None before that."""
    size: int = 0
    """Bytes of the answers so far."""
    telling: asyncio.TimerHandle | None = None

    def hand_over(self, outcome: Outcome) -> Collection[str]:
        """Give the outcome to who waits for it; return the rigs whose failures are raised there."""
        if self.raised is None:
            is_raised = self.raises and self.is_waited_for is not None and self.is_waited_for()
            self.raised = frozenset(outcome.failed) if is_raised else frozenset()
        guarded("waiter for a push", self.done, outcome)
        return self.raised


def _ignore(_: object) -> None:
    """Ignore an outcome: the log has it."""


class Links:
    """The links to all rigs of a configuration, and the pushes that are under way.

    Parameters
    ----------
    log : ResultLog, optional
        Where outcomes are filed.
    hub : Hub, optional
        Where events are told, while it runs; by default one of its own, which runs while the services are open.
    pause : callable, optional
        Returns, at each push, the seconds that an iblutil rig has after its last word.
    recorder : Recorder, optional
        Records what the hub tells: a step of an experiment, and what has failed, before who waits for it goes on.
    """

    def __init__(
        self,
        rigs: Rigs,
        *,
        log: ResultLog | None = None,
        hub: Hub | None = None,
        pause: Callable[[], float] = lambda: PAUSE,
        recorder: Recorder | None = None,
    ):
        self._timeout: float | None = None  # each rig's own, unless somebody sets one for all
        self._longest_timeout = max((config.timeout for config in rigs.rigs.values()), default=10.0)
        self._longest_pause = max((config.pause or 0.0 for config in rigs.rigs.values()), default=0.0)
        self._rigs = rigs
        self.log = ResultLog() if log is None else log
        self.connected = Latch()
        """Set while the services are open."""
        self.response_received = Arrivals()
        """Announced at each completed push."""
        self.hub = Hub("services", owner="RigServices") if hub is None else hub
        self._has_own_hub = hub is None
        self._pause = pause
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = self._closing = False
        self._fanout: Fanout
        self.clock: StampClock
        """The clock by which rigs' starts are told, since they were opened."""
        self._endpoint: Endpoint | None = None
        self._pending: dict[float, _Pending] = {}
        self._settling: dict[float, tuple[_Pending | None, Outcome]] = {}
        """Pushes that are completed, and of which subscribers are being told; then who waits is."""
        self._settled = Settling(recorder, self.on_loop)
        self._ways = Ways(rigs, self.hub)
        self._pings = Pings(self, lambda rig: str(rigs.rigs[rig].address))
        self._views = Views(self.hub)
        self._make_rules()

    def _make_rules(self) -> None:
        rules: list[tuple[type[Event], Callable[[Any], object]]] = [
            (CoordinatorOpened, lambda event: self.connected.set() if event.rigs else None),
            (CoordinatorClosed, lambda _: self.connected.unset()),
            (MessageReceived, self._note_size),
            (PushCompleted, self._complete),
            (PushCompleted, self._file),
            (PushCompleted, lambda _: self.response_received.announce()),  # who looks then finds the result
        ]
        for kind, rule in rules:
            self.hub.rule(kind, rule)
        self.hub.rule(PushDecided, self._decide, last=True)
        self.hub.rule(PushCompleted, self._settle, last=True)
        self._log_rules = LogRules(self.hub, self.peer)

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
        self._settled.begin()
        self._loop = asyncio.get_running_loop()
        if before := self._endpoint:  # its event loop was closed, and they were not
            self._endpoint = None
            self._fanout.abandon()
            self._ways.forget()
        left = self._fanout.take_events() if before else ()
        try:
            self._endpoint = await self._connect()
        finally:
            self._opening = False
        if self._has_own_hub:
            self.hub.begin()
        for event in left:
            self.hub.ingest(event)
        if self._closing:
            self.close()
            raise NotRunning("the services were closed while they were being opened")
        self._fanout.connect(self._endpoint.now())
        self._endpoint.pump()
        self.hub.ingest(CoordinatorOpened(list(self._rigs.rigs)))

    async def _connect(self) -> Endpoint:
        found = await self._ways.look_up()
        boot, self.clock = secrets.token_hex(8), stamp_clock()
        fanout = Fanout(self._rigs.rigs, self._rigs.timing, boot, self.clock, Random(), this_program())
        self._ways.share(fanout)
        reports = fanout.report_refusal, fanout.report_life
        endpoint = Endpoint(fanout, self.hub.ingest, *reports, on_loss=fanout.report_loss)
        try:
            await self._ways.open(endpoint, found, boot)
        except BaseException:
            endpoint.close()
            self._ways.close()
            raise
        self._fanout = fanout
        return endpoint

    @property
    def is_open(self) -> bool:
        """Whether messages can be pushed."""
        return self._endpoint is not None and self._loop is not None and not self._loop.is_closed()

    @property
    def is_opening(self) -> bool:
        """Whether `open` is under way."""
        return self._opening

    @property
    def runs_here(self) -> bool:
        """Whether the caller runs on the event loop on which they were opened."""
        return self._loop is not None and runs_here(self._loop)

    @property
    def is_connected(self) -> bool:
        """Whether there are rigs and the services are open, as iblutil has it."""
        return bool(self._rigs.rigs) and self.is_open

    @property
    def all_alive(self) -> bool:
        """Whether there are rigs and every one has answered lately: its link is alive or suspect."""
        return self.is_open and self._fanout.all_alive

    def close(self) -> None:
        """Say goodbye to the rigs, close the sockets, and settle what is outstanding; soon, if not on the loop."""
        with contextlib.suppress(NotRunning):  # never opened, or closed with its loop
            self.on_loop(self._close)

    def say_goodbye(self) -> None:
        """Tell the rigs that this program is ending, and no more; soon, if not on the loop."""
        self.on_loop(self._say_goodbye)

    def _say_goodbye(self) -> None:
        if self._endpoint:
            self._fanout.say_goodbye()
            self._endpoint.pump()

    def _close(self) -> None:
        self._closing = True
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            return
        self._ways.close()
        self._settled.close()
        self._fanout.say_goodbye()
        self._fanout.abandon()
        endpoint.close()  # which tells what became of the pushes that are outstanding
        self._pings.close()
        with contextlib.suppress(NotRunning):  # a hub that has ended before
            self.hub.ingest(CoordinatorClosed())
        if self._has_own_hub:
            self.hub.end()

    def on_loop(self, function: Callable[..., object], *args: Any) -> None:
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
        return self._longest_timeout if self._timeout is None else self._timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._timeout = seconds or 0.0

    def longest(self, timeout: float | None) -> float:
        """Return the seconds within which a push with this timeout is settled."""
        longest = max(self._pause(), self._longest_pause)
        waiting = 2 + len(self._pending)  # what is outstanding has its pauses before
        return (timeout if timeout is not None else self.timeout or math.inf) + waiting * longest

    def peer(self, name: str) -> Peer | None:
        """Return the core's view of a rig; None until open."""
        return self._fanout.peers[name] if self._endpoint else None

    def view(self, name: str) -> RigView:
        """Return how a rig is now, in one piece; from any thread."""
        return self._views.of(name, self.peer(name))

    def views(self) -> dict[str, RigView]:
        """Return how each rig is now, by name, in their order; from any thread."""
        return {name: self.view(name) for name in self._rigs.rigs}

    def address(self, name: str) -> tuple[Any, ...]:
        """Return the socket address to which the rig's name resolved, as host and port."""
        return self._ways.address(name)

    # ------------------------------------------------------------------------------------------------ sending

    def order(
        self,
        message: Message,
        rigs: list[str] | None = None,
        timeout: float | None = None,
        delay: float | None = None,
        patience: float = 0.0,
        *,
        all_or_none: bool = False,
        confirm: bool = False,
        raises: bool = False,
        beside: bool = False,
        request_time: float | None = None,
    ) -> Order:
        """Make an order for `push`, from any thread.

        Parameters
        ----------
        message : Message
            Composed by `rigsync.core.arguments.compose`, in the room that there is for these rigs.
        rigs : list of str, optional
            Names or patterns; all by default.
        timeout, delay : float, optional
            Seconds, instead of each rig's own; seconds from now until the one instant at which all rigs are to act.
        patience, all_or_none, confirm, raises, beside, request_time
            As for `rigsync.core.orders.Order`; a new request time by default.

        Raises
        ------
        NotRunning, ValueError, UnknownRig
            The services are not open; `refresh_rate` is no pause; a name or pattern matches none.
        """
        if (endpoint := self._endpoint) is None:
            raise NotRunning("the services are not open: never opened, or closed")
        if rigs is not None and not self._rigs.rigs.keys() >= set(rigs):  # most are names already
            rigs = self._rigs.matching(rigs)
        if timeout is None and self._timeout is not None:
            timeout = self._timeout or math.inf
        if not is_pause(pause := self._pause()):
            raise ValueError(f"refresh_rate is the seconds of a pause, from 0 to {LONGEST_PAUSE:g}, not {pause!r}")
        act_at = None if delay is None else endpoint.now() + delay
        drawn = draw_request_time() if request_time is None else request_time
        return Order(message, drawn, rigs, timeout, act_at, patience, pause, all_or_none, confirm, raises, beside)

    def push(
        self,
        order: Order,
        done: Callable[[Outcome], object] = _ignore,
        is_waited_for: Callable[[], bool] | None = None,
    ) -> None:
        """Send a message, from any thread; the loop's thread calls `done` with the `PushResult` or `PushError`.

        An order for all or none calls it as soon as it is certain to have failed, with the `PushError` of those that
        have answered or failed by then; and once more when all have. While `is_waited_for` returns true, the log says
        for which rigs somebody waits, and for how long.
        """
        pending = _Pending(order.message.event, done, is_waited_for, order.raises)
        try:
            self.on_loop(self._push, order, pending)
        except NotRunning:  # closed since the order was made
            guarded("waiter for a push", done, self.abort(order))

    def abort(self, order: Order) -> Outcome:
        """Return, and file, the outcome of a push that no rig will answer: this program has closed. From any thread."""
        name = order.message.event.name
        names = self._rigs.rigs if order.rigs is None else order.rigs
        failures = {rig: Aborted(rig, f"this program closed before {name} was answered") for rig in names}
        outcome = PushResult(name, order.request_time, {}, failures).as_outcome()
        self.log.file(order.request_time, outcome)
        self.response_received.announce()
        return outcome

    def _push(self, order: Order, pending: _Pending) -> None:
        if (endpoint := self._endpoint) is None:
            guarded("waiter for a push", pending.done, self.abort(order))
            return
        self._pending[order.request_time] = pending
        now = endpoint.now()
        self._fanout.push(order, now)
        if pending.is_waited_for:
            ahead = 0.0 if order.act_at is None else max(0.0, order.act_at - now)
            self._tell_wait_in(ahead + FIRST_WORD, order.request_time, pending, FIRST_WORD)
        endpoint.pump()

    def _tell_wait_in(self, seconds: float, request_time: float, pending: _Pending, waited: float) -> None:
        loop = asyncio.get_running_loop()
        pending.telling = loop.call_later(seconds, self._tell_wait, request_time, pending, waited)

    def _tell_wait(self, request_time: float, pending: _Pending, seconds: float) -> None:
        """Say for which rigs somebody waits; next when that has lasted twice as long."""
        pending.telling = None
        if pending.is_waited_for and pending.is_waited_for() and (rigs := self._fanout.outstanding(request_time)):
            level = self._log_rules.level_of_wait(pending.event, rigs)
            wait_logger.log(level, "waiting for %s: %s, %g s", ", ".join(rigs), pending.event.name, seconds)
            self._tell_wait_in(seconds, request_time, pending, 2 * seconds)

    def note_wait(self, request_time: float, is_waited_for: Callable[[], bool]) -> None:
        """Say from now on for whom somebody waits, who has begun to wait after the push; on the loop's thread."""
        if (pending := self._pending.get(request_time)) and not pending.telling:
            pending.is_waited_for = is_waited_for
            self._tell_wait_in(FIRST_WORD, request_time, pending, FIRST_WORD)

    def outstanding(self, request_time: float) -> list[str]:
        """Return the rigs that have not answered a push yet; from any thread."""
        return self._fanout.outstanding(request_time) if self._endpoint else []

    def is_pending(self, request_time: float) -> bool:
        """Return whether not every rig has answered a push, or failed; from any thread."""
        return request_time in self._pending

    def is_ending(self) -> bool:
        """Whether a message that ends a recording is outstanding; from any thread."""
        return any(pending.event in ENDS for pending in list(self._pending.values()))

    def withdraw_queued(self, request_time: float | None = None) -> int:
        """Take back, on the loop's thread, what has not been sent of one push or of all; return of how many pushes."""
        if self._endpoint is None:
            return 0
        touched = self._fanout.withdraw_queued(request_time)
        self._endpoint.pump()
        return touched

    # -------------------------------------------------------------------------------------------------- rules

    def _note_size(self, event: MessageReceived) -> None:
        if event.request_time is not None and (pending := self._pending.get(event.request_time)):
            pending.size += event.size

    def _decide(self, event: PushDecided) -> None:
        if pending := self._pending.get(event.request_time):
            result = PushResult(event.event.name, event.request_time, event.answers, event.failures)
            self._settled.hand_over(event, functools.partial(pending.hand_over, result.as_outcome()))

    def _complete(self, event: PushCompleted) -> None:
        pending = self._pending.pop(event.request_time, None)  # before a subscriber can close the services
        if pending and pending.telling:
            pending.telling.cancel()
        result = PushResult(event.event.name, event.request_time, event.answers, event.failures, event.starts, event.at)
        self._settling[event.request_time] = pending, result.as_outcome()

    def _file(self, event: PushCompleted) -> None:
        pending, outcome = self._settling[event.request_time]
        self.log.file(event.request_time, outcome, pending.size if pending else 0)

    def _settle(self, event: PushCompleted) -> None:
        pending, outcome = self._settling.pop(event.request_time)

        settle = self._log_rules.log_failures
        self._settled.hand_over(event, lambda: settle(event, pending.hand_over(outcome) if pending else ()))

    # ------------------------------------------------------------------------------------------------ looking

    def tell_each(self, request_time: float) -> dict[str, list[Any] | RigError] | None:
        """Tell of each rig that answers a push from now on, by `RigSettled`; return what is known already.

        On the loop's thread. None where the push is completed, or was never made here.
        """
        return self._fanout.tell_each(request_time) if self._endpoint else None

    def ping(self, rig: str, timeout: float, done: Callable[[PingReply | RigError], object]) -> None:
        """Send one probe now. On the loop's thread, which calls `done` once with what became of it.

        Raises
        ------
        NotRunning
            The services are not open.
        KeyError
            No such rig.
        """
        if self._endpoint is None:
            raise NotRunning("the services are not open: never opened, or closed")
        self._pings.wait(rig, self._fanout.probe(rig, self._endpoint.now()), timeout, done)
        self._endpoint.pump()
