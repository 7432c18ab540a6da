"""The coordinator: an event loop's code pushes messages to all rigs, and awaits what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from rigsync._text import line_for_each, one_line
from rigsync.alerts.alerting import Alerts
from rigsync.alerts.watch import CoordinatorWatch
from rigsync.config.journal import Journal
from rigsync.config.rigs import Rigs, checked_timeout, rigs_from
from rigsync.coordinator.closing import Closing
from rigsync.coordinator.commands import Commands
from rigsync.coordinator.experiment import AsyncExperiment
from rigsync.coordinator.journaling import going_on_at, recorder_of, reports_of
from rigsync.coordinator.lab import Lab
from rigsync.coordinator.push import Push
from rigsync.coordinator.rehearsal import AsyncRehearsal, Rehearsal
from rigsync.coordinator.reports import Reports
from rigsync.coordinator.results import PingReply, ResultLog
from rigsync.coordinator.service import RigServices
from rigsync.core import events
from rigsync.core.enums import ExpMessage
from rigsync.core.orders import Asked
from rigsync.core.rigs import PAUSE
from rigsync.errors import NotRunning, RigError, RigsMissing
from rigsync.hub.hub import State
from rigsync.runtime.callbacks import on_loop_of, resolve_future
from rigsync.runtime.hub import Hub
from rigsync.runtime.signals import EndingSignals
from rigsync.runtime.waiters import comes_true

link_logger, wait_logger = logging.getLogger("rigsync.link"), logging.getLogger("rigsync.wait")

FIRST_WORD = 0.5
"""Seconds of waiting for rigs at the beginning after which it is said which are known not to be there."""


class Coordinator(Lab[AsyncExperiment, Coroutine[Any, Any, Rehearsal]]):
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
    journal : bool, str or os.PathLike, optional
        Where all that happens is kept (docs/journal.md): True for this user's journal, a path for another, False or
        ``"off"`` for none. By default as the file of rigs says; none for rigs that come from no file.

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

    _kind, _kind_of_rehearsal = AsyncExperiment, AsyncRehearsal

    def __init__(
        self,
        rigs: Rigs | Mapping[str, Any] | None = None,
        *,
        connect_timeout: float | None = None,
        leave_running: bool = False,
        log: ResultLog | None = None,
        hub: Hub | None = None,
        pause: Callable[[], float] = lambda: PAUSE,
        journal: Journal = None,
    ):
        self.rigs = self._rigs = rigs_from(rigs)
        """The configuration."""
        self.hub = Hub("coordinator", owner="Coordinator") if hub is None else hub
        self._runs_hub = hub is None
        self.connect_timeout = self.rigs.timing.connect_timeout if connect_timeout is None else connect_timeout
        """Seconds to wait for the rigs."""
        self._reports = Reports(self.hub)
        self._recorder = recorder_of(self.hub, self.rigs, journal, lambda: services)  # before the others
        self._session_reports = reports_of(self.hub, self.rigs, self._recorder)
        services = RigServices(self.rigs, log=log, hub=self.hub, pause=pause, recorder=self._recorder)
        self.services = self._services = services
        """The rigs by name, with the members of iblutil's `Services`."""
        self._alerts = Alerts(self.hub, self.rigs.alerts, CoordinatorWatch(functools.partial(going_on_at, services)))
        self._closing = Closing(self.services, leave_running, self._alerts)
        self._send, self._commands = self.services.push, Commands(self.services, self.rigs)
        self._unfinished, self._made = set(), weakref.WeakSet()
        self._let_go: weakref.finalize[Any, Any] | None = None

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
        self._let_go = weakref.finalize(self, self._closing.let_go, self._runs_hub)
        try:
            await self.await_rigs()
        except BaseException:  # cancelled
            await self.close()
            raise
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
            self._alerts.open()
        except BaseException:
            if self._runs_hub:
                self.hub.end()
            raise

    async def close(self) -> None:
        """Interrupt what was started and not ended, say goodbye to the rigs, and close the links; repeatedly.

        Alerts that wait are tried once more, for 2 s at most.
        """
        if self._let_go:
            self._let_go.detach()
        for experiment in list(self._made):
            experiment.note_closing()
        signals = EndingSignals()
        signals.take_over()
        signals.hold(ctrl_c=True)  # it takes a bounded time
        try:
            await self._closing.stop(self._unfinished)
        finally:  # cancelled or not, also while it is being opened
            self.services.close()
            if self._runs_hub:
                self.hub.end()
                await self.hub.ended()
            if self._recorder:
                await asyncio.get_running_loop().run_in_executor(None, self._recorder.await_written)
            if self._session_reports:
                await asyncio.get_running_loop().run_in_executor(None, self._session_reports.await_written)
            signals.give_back()
        signals.act(None)

    def await_journal(self, limit: float) -> None:
        """Wait some seconds, after the end, until the journal has all, and the last report is written; off the loop."""
        if self._recorder:
            self._recorder.await_written(limit)
        if self._session_reports:
            self._session_reports.await_written()

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

    async def wait_for(self, *rigs: str, timeout: float | None = None) -> None:
        """Wait until rigs answer, for instance those whose computers are still starting.

        Parameters
        ----------
        *rigs : str
            Names or patterns; all rigs by default.
        timeout : float, optional
            Seconds; without end by default.

        Raises
        ------
        RigsMissing
            A `TimeoutError`. Its text names the rigs that do not answer, and why as far as it is known.
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
        """Wait until rigs answer, so many seconds at most; return the others by name, with what is known of each."""

        def missing() -> dict[str, str]:
            found = {name: self.services[name] for name in rigs}
            return {name: rig.reason for name, rig in found.items() if rig.state is not events.LinkState.ALIVE}

        self._check_open()
        kinds = events.LinkAlive, events.CoordinatorClosed
        await comes_true(lambda: not self.is_open or not missing(), self.hub, kinds, limit)
        self._check_open()
        return missing()

    async def await_rigs(self) -> None:
        """Wait for all rigs as long as is allowed; say which are known not to be there, and at last which are not."""
        rigs, first = list(self.rigs.rigs), min(FIRST_WORD, self.connect_timeout)
        missing = await self._missing_after(rigs, first)
        if missing and first < self.connect_timeout:
            with contextlib.suppress(Exception):
                known = {rig: why for rig, why in missing.items() if self.services[rig].state is events.LinkState.LOST}
                for line in line_for_each(known):  # they may be about to start
                    wait_logger.info("waiting for %s", one_line(line))
            missing = await self._missing_after(rigs, self.connect_timeout - first)
        with contextlib.suppress(Exception):  # a log handler of the program, for instance
            for name, reason in missing.items():
                if self.services[name].state is not events.LinkState.LOST:  # of which the log tells
                    text = "%s does not answer yet (%s) and is commanded as soon as it does; see `rigsync doctor`"
                    link_logger.warning(text, name, reason)

    def _check_open(self) -> None:
        if not self.is_open:
            raise NotRunning(
                "the coordinator is not open: enter it by `async with`, or await its open(), on the loop that runs"
            )

    async def withdraw_queued(self) -> int:
        """Take back messages that have not been sent yet; return how many."""
        return self.services.withdraw_queued()

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
        message : ExpMessage, str or int
            The message.
        *args
            What follows it: ``data`` for EXPINIT, EXPEND, EXPINTERRUPT and EXPCLEANUP; ``exp_ref, data`` for EXPSTART;
            ``status, data`` for EXPINFO; ``status`` for EXPSTATUS; an Alyx client, or nothing, for ALYX.
        rigs : str or iterable of str, optional
            Names, or patterns such as ``'cameras:*'``; all rigs by default.
        timeout : float, optional
            Seconds for the answers, instead of each rig's own; they count from the instant where there is one.
        at : float, optional
            Unix time in seconds, by this computer's clock, at which all rigs are to act, each by its own clock. At
            most an hour ahead. EXPEND, EXPINTERRUPT and `close` call off what still waits. A rig of the iblutil
            dialect cannot wait; it gets the message half a round trip before.
        delay : float, optional
            The same as seconds from now.
        patience : float
            Seconds beyond the timeout for rigs that confirm, again and again, that they are working on the message.
            Rigs of the iblutil dialect cannot confirm that.

        Returns
        -------
        Push
            ``await`` it for the `PushResult`, or the `PushError` of rigs that have failed, which it raises. Or go
            through the rigs as they answer: ``async for rig, outcome in push``. It has `request_time` and `cancel`. The
            result's ``starts`` tell when each rig began to act, with error bounds, and its ``skew`` how far they lie
            apart.

        Raises
        ------
        TypeError, ValueError
            The message or an argument is of the wrong type, unknown, cannot be encoded, or is too large; or the
            instant is past, over an hour ahead, given twice, or given to EXPINTERRUPT, which acts at once.
        UnknownRig
            A name or pattern that matches none.
        NotRunning
            It is not open. Nothing is sent.
        """
        return self._ask(Asked(message, args, rigs, timeout, at, delay, patience, raises=True))

    def _ask(self, asked: Asked) -> Push:
        return Push(self, self.services, self._order(asked))

    async def call(self, rig: str, command: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call a command of a rig, made there by ``@rig.command(...)``, and return the value that it returns.

        The command runs once, whatever the network loses. Calls and pushes to a rig run in the order in which they were
        made: later ones wait, except EXPINTERRUPT. Only rigs of rigsync know commands.

        Parameters
        ----------
        rig : str
            Its name, or a pattern that matches one rig.
        command : str
            The command.
        *args, **kwargs
            Arguments of the function on the rig; plain values, as for `push`.
        timeout : float, optional
            Seconds for the answer, instead of the rig's own.

        Returns
        -------
        object
            What the function on the rig has returned, as plain JSON values. It is also filed in `log`.

        Raises
        ------
        RemoteError
            The function has raised an exception. Its type, text and traceback are in ``error``, ``message`` and
            ``traceback``. ``UnknownCommand`` means that the rig has no such command, ``TypeError`` perhaps that the
            arguments do not fit.
        BusyError
            Another program's experiment goes on at the rig.
        NotSupported
            The rig speaks the iblutil dialect.
        RigTimeout, RigLost, RigRefused, RigRestarted, WrongRig, Interrupted, Aborted
            As for `push`.
        PayloadError, PayloadTooLarge
            An argument cannot be sent. Nothing was sent.
        TypeError, ValueError
            The name of the rig or command, or the timeout, is not valid; or the pattern matches several rigs.
        UnknownRig
            A name or pattern that matches none.
        NotRunning
            It is not open, or was closed meanwhile.
        """
        self._check_open()
        return await self.services.call(rig, command, *args, timeout=timeout, **kwargs)

    async def ping(self, *rigs: str, timeout: float = 1.0) -> dict[str, PingReply | RigError]:
        """Send one probe to each rig, and return what comes back.

        Parameters
        ----------
        *rigs : str
            Names or patterns; all rigs by default.
        timeout : float
            Seconds.

        Returns
        -------
        dict of str to PingReply or RigError
            `RigTimeout` for silence, `RigRefused` where nothing listens at the port.

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


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    on_loop_of(future, lambda: None if future.done() else future.set_result(value))
