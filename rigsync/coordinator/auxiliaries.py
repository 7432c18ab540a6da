"""The synchronous facade: task code pushes messages to all rigs and hears what became of them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any, Literal, cast, overload

from rigsync._text import close_match
from rigsync.config.journal import Journal
from rigsync.config.rigs import Rigs, checked_timeout
from rigsync.coordinator.coordinator import Coordinator
from rigsync.coordinator.experiment import Experiment
from rigsync.coordinator.lab import Lab
from rigsync.coordinator.own_queue import OwnQueue
from rigsync.coordinator.rehearsal import PlainRehearsal, Rehearsal
from rigsync.coordinator.results import PingReply, PushResult, ResultLog, WritableLog
from rigsync.coordinator.service import RigServices
from rigsync.coordinator.service_thread import CLOSE_TIMEOUT, ServiceThread
from rigsync.core.arguments import compose, compose_command, parts_of, validate_event
from rigsync.core.enums import ExpMessage
from rigsync.core.events import CoordinatorClosed
from rigsync.core.orders import Asked
from rigsync.core.rigs import PAUSE
from rigsync.errors import LoopBlocked, LoopStuck, NotRunning, PushError, RigError
from rigsync.runtime.conditions import Arrivals, Latch
from rigsync.runtime.hub import Hub
from rigsync.runtime.signals import signals_held_back
from rigsync.runtime.waiters import comes_true

logger = logging.getLogger("rigsync.auxiliaries")

_KEYWORDS = ("wait", "rigs", "timeout", "at", "delay", "patience")


class Auxiliaries(Lab[Experiment, Rehearsal]):
    """Connect to remote rigs and command them, from synchronous code.

    Messages are queued to a daemon thread. It sends them to all rigs at once, collates the answers and files them under
    the request time. Any number of threads may push at once; instances share nothing.

    An object without references ends as by `close`, once all outstanding pushes are answered. A callback that refers
    to the object keeps it: close it, or end the subscription.

    The constructor returns when every rig has answered, or after the time allowed. It warns of those that have not
    answered. They connect by themselves when they appear.

    Parameters
    ----------
    clients : Rigs or mapping or None
        Name of rig to URI, as for `iblrig.net.Auxiliaries`; or what `rigsync.load_rigs` gives. None or an empty
        mapping is legal: then nothing is connected, and pushes complete at once.
    connect_timeout : float, optional
        Seconds that the constructor waits for the rigs; by default as the configuration's timing says (2 s).
    log_limit : int
        How many results the log keeps; fewer where their answers take more than 64 MiB.
    leave_running : bool
        Whether started rigs go on recording after `close` or the end of the program. By default those that got neither
        EXPEND nor EXPINTERRUPT are interrupted then.
    journal : bool, str or os.PathLike, optional
        Where all that happens is kept, as for `Coordinator`.

    Raises
    ------
    ConfigError
        A malformed URI, a name that does not resolve, or two rigs at one address. (A map of names to URIs may have two
        names for one UDP address.)
    RigsyncError
        The system gives no more sockets.
    TypeError, ValueError
        `clients` or `log_limit` is of the wrong type, or the limit is not positive.
    """

    services: RigServices | None = None
    """A map of the remote rigs, with the members of `iblutil.io.net.app.Services`; None without rigs."""
    connected: Latch = None  # type: ignore[assignment] # set for each instance; the class shows it, as iblrig's does
    """Set while the services are open, even if rigs are lost. It serves as a thread event and as a condition."""
    response_received: Arrivals = None  # type: ignore[assignment] # likewise
    """Notified whenever all rigs have answered a push, or failed. It serves as a thread event and as a condition."""
    stop_event: threading.Event = None  # type: ignore[assignment] # likewise
    """Once set, the thread stops and cleans up the services."""
    refresh_rate: float = PAUSE
    """Seconds between the last word of an iblutil rig and its next message. Its program may await each message by
    `on_event`, and drops what comes sooner. (Nothing polls; the name is iblrig's.)"""

    _kind, _kind_of_rehearsal = Experiment, PlainRehearsal

    def __init__(
        self,
        clients: Rigs | Mapping[str, Any] | None = None,
        *,
        connect_timeout: float | None = None,
        log_limit: int = 10_000,
        leave_running: bool = False,
        journal: Journal = None,
    ):
        serves_itself = type(self).listen is not Auxiliaries.listen
        own, log = weakref.ref(self), (WritableLog if serves_itself else ResultLog)(log_limit)
        lab = self._lab = Coordinator(
            clients,
            connect_timeout=connect_timeout,
            leave_running=leave_running,
            log=log,
            hub=Hub("auxiliaries", owner="Auxiliaries"),
            pause=lambda: aux.refresh_rate if (aux := own()) else PAUSE,
            journal=journal,
        )
        self._rigs, self.hub, self._services, self._log = lab.rigs, lab.hub, lab.services, log
        self._reports, self._closing, self._commands = lab._reports, lab._closing, lab._commands
        self._unfinished, self._made = set(), weakref.WeakSet()  # not the coordinator's, to which the thread refers
        self._clients = {name: str(rig.address) for name, rig in self._rigs.rigs.items()}
        self._begun: Experiment | None = None  # by `begin`, the last
        self._warned: set[str] = set()
        self._is_created = self._listens = False
        """Whether `create` and `listen` of this class have been called. A subclass may have its own in their place."""
        self.connected, self.response_received = self._services.connected, self._services.response_received
        self.thread = self._thread = ServiceThread(self, lab)
        self.stop_event, self._queued, self._send = self.thread.stop_event, self.thread.queued, self.thread.push
        self._own_queue = OwnQueue(type(self).__name__, self._queued, log, self.response_received, self._rigs.room())
        self.create = self.thread.telling(type(self).create)  # type: ignore[method-assign] # whoever's it is
        weakref.finalize(self, self.thread.let_go).atexit = False
        self.thread.start()
        try:
            self.thread.await_creation()
            if self._is_created and self.services:
                with contextlib.suppress(NotRunning, LoopStuck):  # closed meanwhile, or dead; the next call says which
                    self.thread.wait_for(lab.await_rigs, lab.connect_timeout)
        except BaseException:  # Ctrl-C too: nobody else has the object to close it
            self.close()
            raise

    def __enter__(self) -> Auxiliaries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        rigs = ", ".join(map(repr, (self.services or {}).values()))
        return f"<Auxiliaries {'running' if self.is_running else 'stopped'}: {rigs or 'no rigs'}>"

    # ------------------------------------------------------------------------------------------------- looking

    @property
    def is_connected(self) -> bool:
        """bool: True if there are rigs and the services are open, even if rigs are lost.

        Task code asks this before each message. If one lost rig made it False, the others would hear nothing.
        """
        return self.services is not None and self.is_running and bool(self.services.is_connected)

    @property
    def all_alive(self) -> bool:
        """bool: True if there are rigs and every one has answered lately; `wait_for` waits for that."""
        return self.is_running and self._services.all_alive

    @property
    def is_running(self) -> bool:
        """bool: True if the service thread is at work."""
        return self.thread.serves

    def response(self, request_time: float, default: Any = None) -> Any:
        """Return what became of the push that returned `request_time`, the result or the error, without waiting.

        It is `default` while the push is not completed, or where its result has left the log.
        """
        return self._log.get(request_time, default)

    def wait_for(self, *rigs: str, timeout: float | None = None) -> None:
        """Wait until rigs answer, for instance those whose computers are still starting.

        Parameters and errors: as for `Coordinator.wait_for`; also `LoopBlocked` and `LoopStuck`, as for `push`.
        """
        limit = checked_timeout(timeout)
        self._rigs.matching(rigs or None)
        self._check_waiting("wait_for()")
        self.thread.wait_for(lambda: self._lab.wait_for(*rigs, timeout=limit), limit)

    # ------------------------------------------------------------------------------------------------- pushing

    @overload
    def push(
        self,
        message: ExpMessage | str | int,
        *args: Any,
        wait: Literal[False] = False,
        rigs: str | Iterable[str] | None = None,
        timeout: float | None = None,
        at: float | None = None,
        delay: float | None = None,
        patience: float = 0.0,
        **kwargs: Any,
    ) -> float: ...

    @overload
    def push(
        self,
        message: ExpMessage | str | int,
        *args: Any,
        wait: Literal[True],
        rigs: str | Iterable[str] | None = None,
        timeout: float | None = None,
        at: float | None = None,
        delay: float | None = None,
        patience: float = 0.0,
        **kwargs: Any,
    ) -> PushResult | PushError: ...

    def push(
        self,
        message: ExpMessage | str | int,
        *args: Any,
        wait: bool = False,
        rigs: str | Iterable[str] | None = None,
        timeout: float | None = None,
        at: float | None = None,
        delay: float | None = None,
        patience: float = 0.0,
        **kwargs: Any,
    ) -> PushResult | PushError | float:
        """Send a message to the rigs.

        Parameters
        ----------
        message, *args, rigs, timeout, at, delay, patience
            As for `Coordinator.push`.
        wait : bool
            Whether to wait until every rig has answered or failed.
        **kwargs
            Ignored, as in iblrig. Unknown keywords and surplus arguments are left out, and a warning names them.

        Returns
        -------
        PushResult or PushError or float
            With `wait`, a dict of rig name to answer. Where a rig failed, the error that holds this dict, *returned,
            not raised* (a `TimeoutError` too if all failures are time-outs). So it is, with `Aborted` for each rig that
            has not answered, if another thread or a signal handler closes meanwhile. Without `wait`, the request time,
            the key in `log`.

        Raises
        ------
        TypeError, ValueError, UnknownRig, NotRunning
            As for `Coordinator.push`; `NotRunning` also where the service thread has died.
        LoopBlocked
            With `wait`, on the service thread itself, that is, in a callback.
        LoopStuck
            With `wait`: the service thread does not react, because a callback of this program blocks it.
        """
        known, ignored = _known_of(validate_event(message), args, kwargs)
        if ignored and ignored not in self._warned:
            self._warned.add(ignored)
            logger.warning("%s", ignored)
        asked = Asked(message, known, rigs, timeout, at, delay, patience)
        return cast("PushResult | PushError | float", self._push(asked, wait))

    def _push(self, asked: Asked, wait: bool) -> Any:
        if wait:
            self._check_blocking("push(wait=True)")
        if self.is_running and not (self._is_created and self._listens):
            limit = (self.services.timeout if self.services else 0.0) + self.refresh_rate
            return self._own_queue.push(asked, wait, limit)
        order = self._order(asked)
        self.response_received.mark()
        if wait:
            return self.thread.push_and_wait(order)
        self.thread.push(order)  # the log has the outcome
        return order.request_time

    def _ask(self, asked: Asked) -> PushResult | PushError | None:
        if self.thread.on_loop_thread and asked.message in ("EXPINTERRUPT", "EXPCLEANUP"):
            # A generator that holds the experiment was collected on the service thread, which cannot wait.
            self.push(asked.message, *asked.args, rigs=asked.rigs)
            return None
        outcome: PushResult | PushError = self._push(asked, wait=True)
        return outcome

    def request(
        self,
        message: ExpMessage | str | int,
        *args: Any,
        rigs: str | Iterable[str] | None = None,
        timeout: float | None = None,
        at: float | None = None,
        delay: float | None = None,
        patience: float = 0.0,
    ) -> PushResult:
        """Send a message and wait for the answers like ``push(wait=True)``, but raise the `PushError` if a rig failed.

        Its ``result`` holds the answers of the others. Parameters and other errors: as for `push`.
        """
        outcome = self._push(Asked(message, args, rigs, timeout, at, delay, patience, raises=True), wait=True)
        if isinstance(outcome, PushError):
            # Not the one in the log, to which the traceback would tie all that the caller holds.
            raise outcome.result.as_error()
        result: PushResult = outcome
        return result

    def begin(self, ref: Any, **options: Any) -> Experiment:
        """Begin an experiment as `experiment` does, for a program that cannot hold a ``with`` open.

        A program with windows or a notebook begins in one place and ends in another, by `end` or `interrupt`. Where
        neither is called, the end of the program, or `close`, interrupts the rigs. Parameters and errors: as for
        `experiment`; `RuntimeError` where one that was begun here goes on.
        """
        if self._begun and self._begun.goes_on:
            raise RuntimeError(f"the experiment {self._begun.exp_ref} goes on; call end() or interrupt() first")
        self._begun = self.experiment(ref, **options)
        return self._begun.begin()

    def end(self) -> None:
        """End the experiment that `begin` has begun; errors as for `Experiment.end`."""
        self._present("end()").end()

    def interrupt(self, reason: BaseException | str = "interrupted by the program") -> None:
        """Interrupt the experiment that `begin` has begun; parameters and errors as for `Experiment.interrupt`."""
        self._present("interrupt()").interrupt(reason)

    def _present(self, call: str) -> Experiment:
        if self._begun is None:
            raise RuntimeError(f"{call}: no experiment was begun; begin one by begin(ref)")
        return self._begun

    def call(self, rig: str, command: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call a command of a rig, made there by ``@rig.command(...)``, and wait for the value that it returns.

        Parameters and errors: as for `Coordinator.call`; also `LoopBlocked` and `LoopStuck`, as for `push`.
        """
        names = [self._rigs.only(rig)]
        composed = compose_command(command, args, kwargs, self._rigs.room(names))
        limit = checked_timeout(timeout)
        self._check_waiting("call()")
        self.response_received.mark()
        outcome = self.thread.push_and_wait(self._services.order(composed, names, limit, raises=True))
        if isinstance(outcome, PushError):
            raise copy(outcome.failed[names[0]])  # not the one in the log, as for `request`
        return outcome[names[0]][0]

    def ping(self, *rigs: str, timeout: float = 1.0) -> dict[str, PingReply | RigError]:
        """Send one probe to each rig, and wait for what comes back.

        Parameters, outcomes and errors: as for `Coordinator.ping`; also `LoopBlocked` and `LoopStuck`, as for `push`.
        """
        limit = checked_timeout(timeout) or 0.0
        self._check_waiting("ping()")
        told = self.thread.wait_for(lambda: self._lab.ping(*rigs, timeout=limit), limit)
        return cast("dict[str, PingReply | RigError]", told)

    def clear_message_queue(self) -> int:
        """Take back messages that have not been sent yet; return how many. For their rigs they end as `Aborted`.

        It raises `LoopStuck` where the service thread does not react.
        """
        if not self.is_running:
            return 0
        if self.thread.on_loop_thread:
            return self._services.withdraw_queued()
        return int(self.thread.wait_for(self._lab.withdraw_queued, 0.0))

    # ------------------------------------------------------------------------------------------ the daemon thread

    async def create(self) -> None:
        """Create the services and begin to probe; for the daemon thread. Errors as for `Coordinator.open`."""
        if not self._is_created:
            await self._lab.connect()
            self._is_created = True
            if self._rigs.rigs:
                self.services = self._services

    async def listen(self) -> None:
        """Create the services, and serve until the stop event is set. For the daemon thread."""
        queued, self._listens, thread = dict(self._queued), True, self.thread
        try:
            await self.create()
            if not self._is_created and self.services is not None:
                await self._own_queue.serve(self.services, self.stop_event.is_set, lambda: self.refresh_rate)
            elif not self.stop_event.is_set():
                for request_time, (event, args, _) in queued.items():  # before a subclass's `listen` called this one
                    thread.push(self._services.order(compose(event, *args), request_time=request_time))
                del self  # the object ends when nobody else refers to it
                await thread.stopping.wait()
        finally:
            await thread.end()

    async def cleanup(self, notify_services: bool = False) -> None:
        """Close the links and cancel pending callbacks. May be awaited on any event loop.

        Parameters
        ----------
        notify_services : bool
            Whether to send EXPCLEANUP to the rigs first, and wait for their answers; failures are logged.
        """
        services = self._services
        if self.services is not None and self.services is not services:  # a subclass's own
            self.services.close()
        if not services.is_open:
            return
        await self._closing.stop(self._unfinished)
        if notify_services:
            await _clean_up(services)
        services.close()
        await comes_true(lambda: not services.is_open, self.hub, [CoordinatorClosed], CLOSE_TIMEOUT)

    def close(self) -> None:
        """Close the links and wait, at most 2 s, and 2 s for alerts, for the thread to end. May be called repeatedly.

        Raises
        ------
        LoopBlocked
            On the service thread itself; set `stop_event` there.
        """
        self._check_blocking("close()")
        for experiment in list(self._made):
            experiment.note_closing()
        end = time.monotonic() + CLOSE_TIMEOUT
        with signals_held_back():  # a second Ctrl-C would end the program before it has said goodbye
            self.stop_event.set()
            if self.services is None and self._rigs.rigs:  # still looking names up, or failed: no goodbye
                self.thread.stop()
            self.thread.join(CLOSE_TIMEOUT + self._closing.alerts.longest_end)
            self.hub.end_workers(max(0.0, end - time.monotonic()) / 2)
            self._lab.await_journal(max(0.0, end - time.monotonic()) / 2)

    # ------------------------------------------------------------------------------------------------ helpers

    def _check_blocking(self, call: str) -> None:
        if self.thread.on_loop_thread:
            raise LoopBlocked(f"{call} on the service thread, that is, in a callback, would wait for itself")

    def _check_waiting(self, call: str) -> None:
        self._check_blocking(call)
        self._check_open()

    def _check_open(self) -> None:
        if not self.is_running or not self._is_created:
            raise self.thread.not_running()


async def _clean_up(services: RigServices) -> None:
    try:
        await services.request(compose(ExpMessage.EXPCLEANUP))
    except PushError as error:
        logger.error("closing although %s", error)  # noqa: TRY400 - the text says all


def _known_of(event: ExpMessage, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], str]:
    """Return the arguments that the message takes, and what to say of keywords and arguments beyond that."""
    parts = parts_of(event)
    if not kwargs and len(args) <= len(parts):
        return args, ""
    ignored = [f"the keyword {name}{close_match(name, _KEYWORDS).replace('; did', ', did')}" for name in kwargs]
    if len(args) > len(parts):
        ignored.append(f"the last {len(args) - len(parts)} of {len(args)} arguments")
    text = f"push of {event.name} ignores {'; '.join(ignored)}; {event.name} takes {', '.join(parts)}"
    return args[: len(parts)], text
