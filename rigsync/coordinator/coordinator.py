"""The coordinator: an event loop's code pushes messages to all rigs, and awaits what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from rigsync._text import close_match
from rigsync.config.files import load_rigs
from rigsync.config.rigs import Rigs, checked_timeout, rigs_from
from rigsync.coordinator.async_experiment import AsyncExperiment
from rigsync.coordinator.course import Course
from rigsync.coordinator.failures import RigFailure, Started
from rigsync.coordinator.push import Push
from rigsync.coordinator.reports import Reports
from rigsync.coordinator.results import PingReply, ResultLog
from rigsync.coordinator.service import RigServices
from rigsync.coordinator.view import RigView, Views
from rigsync.core import events
from rigsync.core.arguments import checked_delay, compose
from rigsync.core.enums import ExpMessage
from rigsync.core.orders import Asked, Order
from rigsync.core.rigs import PAUSE
from rigsync.errors import BusyError, NotRunning, RigError, RigsMissing, UnknownEvent
from rigsync.hub.events import kinds_below
from rigsync.hub.hub import State
from rigsync.runtime.callbacks import on_loop_of, resolve_future
from rigsync.runtime.hub import Hub
from rigsync.runtime.signals import EndingSignals

logger = logging.getLogger("rigsync.auxiliaries")
link_logger = logging.getLogger("rigsync.link")

Function = TypeVar("Function", bound=Callable[..., Any])

STOP_TIMEOUT = 1.2
"""Seconds, when a coordinator closes, for interrupting rigs that were started and not ended, and for the answers of
those that are told to end."""
STOP_GRACE = 0.3
"""Seconds more for an iblutil rig, whose pause comes first."""
UNENDED = {"error": "Closed", "message": "the program that started the rig closed without EXPEND"}
"""What such rigs are told."""


class Coordinator:
    """Command remote rigs from an event loop; `Auxiliaries` is the same for synchronous code.

    ``async with Coordinator(rigs) as lab`` opens the links, waits until every rig has answered, or for the time
    allowed, and closes them at the end. It warns of rigs that have not answered. They connect by themselves when they
    appear.

    Any selector event loop will do. An object without references is closed, so a notebook's cell that makes one may be
    run again.

    Parameters
    ----------
    rigs : Rigs or mapping, optional
        What `rigsync.load_rigs` gives, or name of rig to URI.
    connect_timeout : float, optional
        Seconds to wait for the rigs; by default as the configuration's timing says (2 s).
    leave_running : bool
        Whether started rigs go on recording after `close`. By default those that got neither EXPEND nor EXPINTERRUPT
        are interrupted then.
    log : ResultLog, optional
        Where outcomes are filed; by default one of 10,000 results.
    hub : Hub, optional
        Where events are told; by default one of its own. It runs on the same event loop; if it does not run yet, it
        does while the coordinator is open.
    pause : callable, optional
        Returns, at each push, the seconds that an iblutil rig has after its last word; 0.2 by default.

    Raises
    ------
    ConfigError
        A malformed URI.
    TypeError, ValueError
        `rigs` is of the wrong type.

    Examples
    --------
    >>> async def main() -> None:
    ...     async with Coordinator.from_file("rigs.yaml") as lab:
    ...         async with lab.experiment("2026-11-29_1_mouse") as session:
    ...             print(await lab.call("cameras", "focus", 3))
    """

    def __init__(
        self,
        rigs: Rigs | Mapping[str, Any] | None = None,
        *,
        connect_timeout: float | None = None,
        leave_running: bool = False,
        log: ResultLog | None = None,
        hub: Hub | None = None,
        pause: Callable[[], float] = lambda: PAUSE,
    ):
        self.rigs = rigs_from(rigs)
        """The configuration."""
        self.hub = Hub("coordinator", owner="Coordinator") if hub is None else hub
        """Where all that happens is told: see `rigsync.Hub` and docs/hub.md."""
        self._runs_hub = hub is None
        self._connect_timeout = self.rigs.timing.connect_timeout if connect_timeout is None else connect_timeout
        self._leave_running = leave_running
        self._reports = Reports(self.hub)
        self._started = Started(self.hub)
        self._views = Views(self.hub.rule)
        self.services = RigServices(self.rigs, log=log, hub=self.hub, pause=pause)
        """The rigs by name, with the members of iblutil's `Services`."""
        self.log = self.services.log
        """The newest results by request time: a read-only mapping that never blocks."""
        self._unfinished: set[Course[Any, Any]] = set()
        """Experiments that have been entered and not left."""
        self._let_go: weakref.finalize[Any, Any] | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Coordinator:
        """Make one for the rigs of a YAML file.

        Parameters
        ----------
        path : str or os.PathLike
            See `rigsync.load_rigs`.
        **options
            Keywords of the constructor.

        Raises
        ------
        ConfigError
            The file, by line and key.
        """
        return cls(load_rigs(path), **options)

    def __repr__(self) -> str:
        rigs = ", ".join(map(repr, self.services.values()))
        return f"<{type(self).__name__} {'open' if self.is_open else 'closed'}: {rigs or 'no rigs'}>"

    # --------------------------------------------------------------------------------------------- life cycle

    async def open(self) -> Coordinator:
        """Open the links on the running event loop, and wait for the rigs as long as is allowed.

        Returns
        -------
        Coordinator
            This one, for ``lab = await Coordinator(rigs).open()``.

        Raises
        ------
        ConfigError
            A name that does not resolve, or two rigs at one address.
        RigsyncError
            The system gives no more sockets, or the event loop is Windows' proactor loop.
        RuntimeError
            It is open.
        NotRunning
            It was closed meanwhile.
        """
        await self.connect()
        self._let_go = weakref.finalize(
            self, _close_soon, self.services, self._started, self._leave_running, self.hub, self._runs_hub
        )
        try:
            missing = await self._missing_after(list(self.rigs.rigs), self._connect_timeout)
        except BaseException:  # cancelled
            await self.close()
            raise
        self.warn_of(missing)
        return self

    async def connect(self) -> None:
        """Open the links on the running event loop, and begin to probe, without waiting for a rig; else as `open`."""
        if self.is_open or self.services.is_opening:
            raise RuntimeError("the coordinator is open already")
        if self._runs_hub or self.hub.state is not State.LOOPING:
            self.hub.begin()
            self._runs_hub = True
        try:
            await self.services.open()
        except BaseException:
            if self._runs_hub:
                self.hub.end()
            raise

    async def close(self) -> None:
        """Interrupt what was started and not ended, say goodbye to the rigs, and close the links; repeatedly."""
        if self._let_go:
            self._let_go.detach()
        for experiment in list(self._unfinished):
            experiment.note_closing()
        signals = EndingSignals()
        signals.take_over()
        signals.hold(ctrl_c=True)  # it takes a bounded time
        try:
            await self.stop_what_was_started()
        finally:  # cancelled or not, also while it is being opened
            self.services.close()
            if self._runs_hub:
                self.hub.end()
            signals.give_back()
        signals.act(None)

    def take_started(self) -> list[str]:
        """Return the rigs that are to be interrupted when the program ends, and forget them."""
        return [] if self._leave_running else self._started.take(self.services)

    async def stop_what_was_started(self) -> None:
        """Interrupt rigs that were started and not told to end; wait until the others have answered what ends them."""
        interrupt = self._interrupt_what_was_started()  # which has left, whenever this is cancelled
        await asyncio.gather(self._await_interrupt(interrupt), self._await_ends())

    async def _await_ends(self) -> None:
        """Wait for the answers to messages that end a recording. One that is lost is sent again meanwhile."""
        if not self.services.is_ending():
            return
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def look(_: object) -> None:
            if not self.services.is_ending():
                resolve_future(ended, None)

        unsubscribe = self.hub.rule(events.PushCompleted, look, last=True)
        try:
            look(None)
            with contextlib.suppress(asyncio.TimeoutError):  # the log tells which have not answered
                await asyncio.wait_for(ended, STOP_TIMEOUT)
        finally:
            unsubscribe()

    def _interrupt_what_was_started(self) -> Push | None:
        """Interrupt rigs that this program has started and not told to end."""
        if not (rigs := self.take_started()):
            return None
        try:
            order = self.services.order(compose(ExpMessage.EXPINTERRUPT, UNENDED), rigs, STOP_TIMEOUT)
            return Push(self, self.services, order)
        except (NotRunning, ValueError) as error:  # the pause is invalid
            logger.error("%s may go on recording: %s", ", ".join(rigs), error)  # noqa: TRY400
            return None

    async def _await_interrupt(self, push: Push | None) -> None:
        """Wait for what became of it; log the rigs that may go on recording."""
        if push is None:
            return
        try:
            outcome = await asyncio.wait_for(push.outcome(), STOP_TIMEOUT + STOP_GRACE)
        except asyncio.TimeoutError:
            reason = "their pause was longer than the time to close"
            logger.error("%s may go on recording: %s", ", ".join(push.rigs), reason)  # noqa: TRY400
            return
        unmoved = [rig for rig, failure in outcome.failed.items() if not isinstance(failure, BusyError)]
        if unmoved:  # why, the log has told
            logger.error("%s may go on recording", ", ".join(unmoved))

    async def __aenter__(self) -> Coordinator:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------------------------------------- looking

    @property
    def is_open(self) -> bool:
        """Whether messages can be pushed."""
        return self.services.is_open

    @property
    def all_alive(self) -> bool:
        """Whether there are rigs and every one has answered lately; `wait_for` waits for that."""
        return self.services.all_alive

    def view(self, rig: str) -> RigView:
        """Return how a rig is now, in one piece. Safe to call from any thread.

        Parameters
        ----------
        rig : str
            Its name, or a pattern that matches one rig.

        Raises
        ------
        UnknownRig, ValueError, TypeError
            No rig, or more than one, is meant.
        """
        return self._views.of(self.services[self.rigs.only(rig)])

    @property
    def views(self) -> dict[str, RigView]:
        """How each rig is now, by name, in their order."""
        return {name: self._views.of(rig) for name, rig in self.services.items()}

    @overload
    def on(self, event: type[events.Event] | str, callback: Callable[[Any], object]) -> Callable[[], None]: ...

    @overload
    def on(self, event: type[events.Event] | str, callback: None = None) -> Callable[[Function], Function]: ...

    def on(self, event: type[events.Event] | str, callback: Callable[[Any], object] | None = None) -> Any:
        """Have a function called with each event of one kind; also as a decorator, ``@lab.on("LinkLost")``.

        Parameters
        ----------
        event, callback
            As for `Auxiliaries.on`. Functions are called on this event loop, in place of the service thread.

        Returns
        -------
        callable
            Call it to end the subscription; as a decorator, the function.

        Raises
        ------
        TypeError, ValueError
            As for `Auxiliaries.on`.
        """
        kinds = {kind.__name__.lower(): kind for kind in kinds_below(events.CoordinatorEvent)}
        name = getattr(event, "__name__", str(event))
        if name.lower() not in kinds:
            choices = sorted(kind.__name__ for kind in kinds.values())
            close = close_match(name, choices)
            raise UnknownEvent(f"no event {name!r}{close or ';'} choices: {', '.join(choices)}")
        return self.hub.subscribe(kinds[name.lower()], callback)

    def on_notice(self, topic: str, callback: Callable[[events.Notice], Any] | None) -> Callable[[], None]:
        """Call one function with all notices of one topic, as `Auxiliaries.on_notice` does.

        Parameters
        ----------
        topic, callback
            As there.

        Returns
        -------
        callable
            Call it to end this, unless another function has taken the place.

        Raises
        ------
        TypeError, ValueError
            As there.
        """
        return self._reports.assign(topic, callback)

    async def wait_for(self, *rigs: str, timeout: float | None = None) -> None:
        """Wait until rigs answer, for instance those whose computers are still starting.

        Parameters
        ----------
        *rigs, timeout
            As for `Auxiliaries.wait_for`.

        Raises
        ------
        RigsMissing
            A `TimeoutError`, as there.
        TypeError, ValueError, UnknownRig
            As for `push`.
        NotRunning
            It is not open, or was closed meanwhile.
        """
        limit = checked_timeout(timeout)
        names = self.rigs.matching(rigs or None)
        if missing := await self._missing_after(names, limit):
            raise RigsMissing(missing)

    async def _missing_after(self, rigs: list[str], limit: float | None) -> dict[str, str]:
        self._check_open()
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def check(_: object) -> None:
            if not self.is_open or not self.missing(rigs):
                resolve_future(answered, None)

        unsubscribe = [self.hub.rule(kind, check) for kind in (events.LinkAlive, events.CoordinatorClosed)]
        try:
            check(None)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(answered, limit)
        finally:
            for end in unsubscribe:
                end()
        self._check_open()
        return self.missing(rigs)

    def missing(self, rigs: Iterable[str]) -> dict[str, str]:
        """Return those of some rigs that do not answer, by name, with what is known of each."""
        found = {name: self.services[name] for name in rigs}
        return {name: rig.reason for name, rig in found.items() if rig.state is not events.LinkState.ALIVE}

    def warn_of(self, missing: Mapping[str, str]) -> None:
        """Warn of rigs that have not answered when the time to connect is over."""
        for name, reason in missing.items():
            if self.services[name].state is not events.LinkState.LOST:  # of which the log tells
                text = "%s does not answer yet (%s) and is commanded as soon as it does; see `rigsync doctor`"
                link_logger.warning(text, name, reason)

    def _check_open(self) -> None:
        if not self.is_open:
            raise NotRunning(
                "the coordinator is not open: enter it by `async with`, or await its open(), on the loop that runs"
            )

    # ------------------------------------------------------------------------------------------------- pushing

    def push(
        self,
        message: ExpMessage | str | int,
        *args: Any,
        rigs: str | Iterable[str] | None = None,
        timeout: float | None = None,
        at: float | None = None,
        delay: float | None = None,
        patience: float = 0.0,
    ) -> Push:
        """Send a message to the rigs. It leaves at once, whether or not anybody awaits the push.

        Parameters
        ----------
        message, *args, rigs, timeout, at, delay, patience
            As for `Auxiliaries.push`.

        Returns
        -------
        Push
            ``await`` it for the `PushResult`, or the `PushError` of rigs that have failed, which it raises. Or go
            through the rigs as they answer: ``async for rig, outcome in push``. It has `request_time` and `cancel`.

        Raises
        ------
        TypeError, ValueError
            The message or an argument is of the wrong type, unknown, cannot be encoded, or is too large; or the
            instant is past, over an hour ahead, given twice, or given to EXPINTERRUPT, which acts at once.
        UnknownRig
            A name or pattern that matches none.
        NotRunning
            It is not open.
        """
        return self._push(Asked(message, args, rigs, timeout, at, delay, patience))

    def _push(self, asked: Asked) -> Push:
        make_order = self.checked(asked)
        self._check_open()
        return Push(self, self.services, make_order())

    def checked(self, asked: Asked) -> Callable[[], Order]:
        """Check what is to be pushed, in the caller's stack; return what makes the order where the links are open."""
        rigs = None if asked.rigs is None else self.rigs.matching(asked.rigs)
        message = compose(asked.message, *asked.args, room=self.rigs.room(rigs))
        limit = checked_timeout(asked.timeout)
        ahead = checked_delay(message.event, asked.at, asked.delay, time.time())
        patience = asked.patience
        if isinstance(patience, bool) or not 0 <= patience < math.inf:
            raise ValueError(f"patience is a number of seconds from 0 on, not {patience!r}")
        order = self.services.order
        return functools.partial(order, message, rigs, limit, ahead, patience, all_or_none=asked.all_or_none)

    async def call(self, rig: str, command: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call a command of a rig, made there by ``@rig.command(...)``, and return the value that it returns.

        Parameters
        ----------
        rig, command, *args, timeout, **kwargs
            As for `Auxiliaries.call`.

        Returns
        -------
        object
            What the function on the rig has returned, as plain JSON values. It is also filed in `log`.

        Raises
        ------
        RigError
            What became of it, where the rig has not done it; as for `Auxiliaries.call`.
        PayloadError, PayloadTooLarge, TypeError, ValueError, UnknownRig
            As for `Auxiliaries.call`.
        NotRunning
            It is not open, or was closed meanwhile.
        """
        self._check_open()
        return await self.services.call(rig, command, *args, timeout=timeout, **kwargs)

    async def ping(self, *rigs: str, timeout: float = 1.0) -> dict[str, PingReply | RigError]:
        """Send one probe to each rig, and return what comes back.

        Parameters
        ----------
        *rigs, timeout
            As for `Auxiliaries.ping`.

        Returns
        -------
        dict of str to PingReply or RigError
            As there.

        Raises
        ------
        UnknownRig
            A name or pattern that matches none.
        NotRunning
            It is not open.
        """
        self._check_open()
        limit = checked_timeout(timeout) or 0.0
        names = self.rigs.matching(rigs or None)
        loop = asyncio.get_running_loop()
        told: dict[str, asyncio.Future[PingReply | RigError]] = {name: loop.create_future() for name in names}

        def begin(name: str, future: asyncio.Future[PingReply | RigError]) -> None:
            try:
                self.services.ping(name, limit, functools.partial(_settle, future))
            except NotRunning as error:  # closed meanwhile
                resolve_future(future, error)

        for name, future in told.items():
            self.services.on_loop(begin, name, future)
        return {name: await future for name, future in told.items()}

    def experiment(
        self,
        ref: Any,
        *,
        init: Mapping[str, Any] | None = None,
        start: Any = None,
        delay: float | None = None,
        rigs: str | Iterable[str] | None = None,
        timeout: float | None = None,
        on_failure: Callable[[RigFailure], object] | None = None,
    ) -> AsyncExperiment:
        """Return an experiment to be entered by ``async with``: begun on all rigs or on none, and never left running.

        Parameters
        ----------
        ref, init, start, delay, rigs, timeout, on_failure
            As for `Auxiliaries.experiment`.

        Returns
        -------
        AsyncExperiment
            With ``check()``, ``ready``, ``failures``, ``exp_ref`` and ``results``.

        Raises
        ------
        TypeError, ValueError, UnknownRig
            As for `push`. Entering and leaving raise `ExperimentError`.
        """
        names = self.rigs.matching(rigs)
        options = {"init": init, "start": start, "delay": delay, "timeout": timeout, "on_failure": on_failure}
        return AsyncExperiment(self._push, lambda: self.services, self.hub, self._unfinished, names, ref, **options)


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    on_loop_of(future, lambda: None if future.done() else future.set_result(value))


def _close_soon(services: RigServices, started: Started, leave_running: bool, hub: Hub, runs_hub: bool) -> None:
    """Close the links of a coordinator that nobody refers to any more, on its event loop."""

    def close(_: object = None) -> None:
        services.close()
        if runs_hub:
            hub.end()

    def stop_and_close() -> None:
        if services.is_open:
            rigs = [] if leave_running else started.take(services)
            if not rigs:
                close()
                return
            said = compose(ExpMessage.EXPINTERRUPT, UNENDED)
            order = services.order(said, rigs, timeout=STOP_TIMEOUT)
            services.push(order, lambda _: asyncio.get_running_loop().call_soon(close))  # when all of it is told

    try:
        # Never at once: garbage may be collected in the middle of whatever the services do.
        services.on_loop(lambda: asyncio.get_running_loop().call_soon(stop_and_close))
    except NotRunning:  # closed with its event loop
        if rigs := [] if leave_running else started.take(services):
            text = "%s may go on recording: the event loop was closed before the coordinator"
            logger.error(text, ", ".join(rigs))  # noqa: TRY400 - the text says all
