"""The synchronous facade: task code pushes messages to all rigs and hears what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from copy import copy
from typing import Any, Literal, TypeVar, overload

from rigsync._text import close_match
from rigsync.config.files import load_rigs
from rigsync.config.rigs import Rigs, checked_timeout
from rigsync.coordinator.coordinator import STOP_TIMEOUT, UNENDED, Coordinator
from rigsync.coordinator.course import Course
from rigsync.coordinator.experiment import Experiment
from rigsync.coordinator.faces import shown
from rigsync.coordinator.failures import RigFailure
from rigsync.coordinator.results import PingReply, PushResult, ResultLog, WritableLog, draw_request_time
from rigsync.coordinator.service import RigServices
from rigsync.coordinator.view import RigView
from rigsync.core import events
from rigsync.core.arguments import compose, compose_command, parts_of, validate_event
from rigsync.core.enums import ExpMessage
from rigsync.core.orders import Asked, Order
from rigsync.core.rigs import PAUSE
from rigsync.errors import (
    LoopBlocked,
    LoopStuck,
    NotRunning,
    PushError,
    RigError,
    RigsMissing,
)
from rigsync.runtime.callbacks import guarded, resolve_future
from rigsync.runtime.conditions import Arrivals, Awaited, Latch
from rigsync.runtime.exits import COORDINATORS, at_exit
from rigsync.runtime.hub import Hub
from rigsync.runtime.loop_thread import LoopThread
from rigsync.runtime.signals import signals_held_back
from rigsync.runtime.waiters import STUCK_AFTER, Waiters, settled, stuck

logger = logging.getLogger("rigsync.auxiliaries")
link_logger = logging.getLogger("rigsync.link")

Function = TypeVar("Function", bound=Callable[..., Any])

CLOSE_TIMEOUT = 2.0
"""Seconds within which `Auxiliaries.close` returns; `STOP_TIMEOUT` of these are for interrupting what was started."""
_CLOSED = "closed before every rig had answered"
_KEYWORDS = ("wait", "rigs", "timeout", "at", "delay", "patience")


class Auxiliaries:
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
    hub: Hub
    """Where all that happens is told: see `rigsync.Hub` and docs/hub.md."""
    stop_event: threading.Event = None  # type: ignore[assignment] # likewise
    """Once set, the thread stops and cleans up the services."""
    refresh_rate: float = PAUSE
    """Seconds between the last word of an iblutil rig and its next message. Its program may await each message by
    `on_event`, and drops what comes sooner. (Nothing polls; the name is iblrig's.)"""

    def __init__(
        self,
        clients: Rigs | Mapping[str, Any] | None = None,
        *,
        connect_timeout: float | None = None,
        log_limit: int = 10_000,
        leave_running: bool = False,
    ):
        serves_itself = type(self).listen is not Auxiliaries.listen
        own, log = weakref.ref(self), (WritableLog if serves_itself else ResultLog)(log_limit)
        self._lab = Coordinator(
            clients,
            leave_running=leave_running,
            log=log,
            hub=Hub("auxiliaries", owner="Auxiliaries"),
            pause=lambda: aux.refresh_rate if (aux := own()) else PAUSE,
        )
        self._rigs, self._log, self.hub = self._lab.rigs, log, self._lab.hub
        self._clients = {name: str(rig.address) for name, rig in self._rigs.rigs.items()}
        self._queued: dict[float, list[Any]] = {}
        """Unanswered pushes: message, arguments and keywords by request time, as in iblrig."""
        self._begun: Experiment | None = None
        """What `begin` has begun last."""
        self._unfinished: set[Course[Any, Any]] = set()
        """Experiments that have been entered and not left."""
        self._warned: set[str] = set()
        self._listens = False
        """Whether `listen` is this class's own. A subclass's may serve the queue itself."""
        self.connected, self.response_received = self._lab.services.connected, self._lab.services.response_received
        self.stop_event = _StopEvent(self._wake)
        self._remote: RigServices | None = None
        self._created = Awaited()
        """Set to the services when these are created, or to the exception that prevented it."""
        self.create = self._telling()  # type: ignore[method-assign] # whoever's it is
        self.thread = self._thread = _ServiceThread(self)
        why = weakref.WeakMethod(self._not_running)
        self._waiters = Waiters(self.thread, lambda: error() if (error := why()) else NotRunning(_CLOSED), self.hub)
        _unclosed.add(self)
        weakref.finalize(self, _let_go, self._thread).atexit = False
        self.thread.start()
        try:
            self._created.wait()
            if isinstance(failure := self._created.value(), Exception):
                raise failure
            if self._remote and self.services:
                wait = self._rigs.timing.connect_timeout if connect_timeout is None else connect_timeout
                self._await_all(min(wait, threading.TIMEOUT_MAX / 2))
        except BaseException:  # Ctrl-C too: nobody else has the object to close it
            self.close()
            raise

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> Auxiliaries:
        """Connect to the rigs of a YAML file.

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
        return self.is_running and self._remote is not None and self._remote.all_alive

    @property
    def is_running(self) -> bool:
        """bool: True if the service thread is at work."""
        # A fork has a copy of the object, but no thread.
        return not self.stop_event.is_set() and self.thread.is_running and self.thread.is_alive()

    @property
    def log(self) -> ResultLog:
        """The newest results by request time: a read-only mapping that never blocks."""
        return self._log

    def response(self, request_time: float, default: Any = None) -> Any:
        """Return what became of a push, without waiting.

        Parameters
        ----------
        request_time : float
            What `push` returned.
        default : object
            Returned while the push is not completed, or where its result has left the log.

        Returns
        -------
        PushResult or PushError or object
            The result, the error that holds it where a rig failed, or `default`.
        """
        return self._log.get(request_time, default)

    @overload
    def on(self, event: type[events.Event] | str, callback: Callable[[Any], object]) -> Callable[[], None]: ...

    @overload
    def on(self, event: type[events.Event] | str, callback: None = None) -> Callable[[Function], Function]: ...

    def on(self, event: type[events.Event] | str, callback: Callable[[Any], object] | None = None) -> Any:
        """Have a function called with each event of one kind; also as a decorator, ``@aux.on("LinkLost")``.

        Parameters
        ----------
        event : class or str
            One of the classes in `rigsync.events` that a coordinator tells, or its name in any case:
            ``LinkAlive``, ``LinkSuspect``, ``LinkLost`` (or ``LinkChanged`` for all three), ``RestartSeen``,
            ``notice``, ``ProgressChanged``, ``StreamAdded``, ``StreamUpdated``, ``StreamRemoved``, ``MessageReceived``,
            ``PushCompleted``, ...
        callback : callable, optional
            A plain function is called with the event on the service thread, and so has to be quick and must not block;
            a coroutine function is awaited there. `hub` has more: ``aux.hub.subscribe(..., run="worker")``.

        Returns
        -------
        callable
            Call it to end the subscription; as a decorator, the function.

        Raises
        ------
        ValueError
            No such event.
        TypeError
            It is no function.
        """
        return self._lab.on(event, callback)

    def on_notice(self, topic: str, callback: Callable[[events.Notice], Any] | None) -> Callable[[], None]:
        """Call one function with all notices of one topic, which rigs tell by ``rig.notify(topic, ...)``.

        The functions of all topics are called one after the other, in the order in which the notices came. A plain
        function runs on a thread of its own: it may block, and may push, wait and call. A coroutine function runs on
        the service thread's event loop. An exception is logged with the function's name. At most 10,000 notices and
        64 MiB of them wait. Beyond that the oldest are dropped, and the log says so.

        Parameters
        ----------
        topic : str
            ``status``, ``log``, or a topic of the rigs' own. (For progress and streams use `on` with
            ``ProgressChanged`` and ``StreamEvent``.)
        callback : callable or None
            Called with the `rigsync.core.events.Notice`, in place of the topic's earlier function. None ends it.

        Returns
        -------
        callable
            Call it to end this, unless another function has taken the place.

        Raises
        ------
        TypeError, ValueError
            The topic is no text, empty, or ``progress`` or ``stream``; or the callback is no function.
        """
        return self._lab.on_notice(topic, callback)

    def wait_for(self, *rigs: str, timeout: float | None = None) -> None:
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
        TypeError, ValueError, UnknownRig, NotRunning, LoopBlocked
            As for `push`.
        """
        limit = checked_timeout(timeout)
        names = self._rigs.matching(rigs or None)
        self._check_blocking("wait_for()")
        if missing := self._missing_after(names, limit):
            raise RigsMissing(missing)

    def _missing_after(self, rigs: list[str], limit: float | None) -> dict[str, str]:
        """Wait until rigs answer, so many seconds at most; return the others by name, with what is known of each."""
        self._check_running()
        with self._waiters.futures(1) as (future,):

            def check(_: object = None) -> None:
                if not self._lab.missing(rigs):
                    future.bring(None)

            unsubscribe = self.hub.rule(events.LinkAlive, check)
            try:
                self.thread.call(check)
                if not settled(future, limit):
                    return self._lab.missing(rigs)
            finally:
                unsubscribe()
            if isinstance(outcome := future.value(), NotRunning):
                raise outcome
        return {}

    def _await_all(self, timeout: float) -> None:
        with contextlib.suppress(NotRunning):  # closed meanwhile, or dead; the next call says which
            self.thread.call(self._lab.warn_of, self._missing_after(list(self._rigs.rigs), timeout))

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
        message : ExpMessage, str or int
            The message.
        *args
            What follows it: ``data`` for EXPINIT, EXPEND, EXPINTERRUPT and EXPCLEANUP; ``exp_ref, data`` for EXPSTART;
            ``status, data`` for EXPINFO; ``status`` for EXPSTATUS; an Alyx client, or nothing, for ALYX.
        wait : bool
            Whether to wait until every rig has answered or failed.
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
        **kwargs
            Ignored, as in iblrig. Unknown keywords and surplus arguments are left out, and a warning names them.

        Returns
        -------
        PushResult or PushError or float
            With `wait`, a dict of rig name to answer. Where a rig failed, the error that holds this dict, *returned,
            not raised* (a `TimeoutError` too if all failures are time-outs). So it is, with `Aborted` for each rig that
            has not answered, if another thread or a signal handler closes meanwhile. Without `wait`, the request time,
            the key in `log`. The dict's ``starts`` tell when each rig began to act, with error bounds, and its ``skew``
            how far they lie apart.

        Raises
        ------
        TypeError, ValueError
            The message or an argument is of the wrong type, unknown, cannot be encoded, or is too large; or the
            instant is past, over an hour ahead, given twice, or given to EXPINTERRUPT, which acts at once.
        UnknownRig
            A name or pattern that matches none.
        NotRunning
            After `close`, and nothing is sent; or the service thread has died.
        LoopBlocked
            With `wait`, on the service thread itself.
        LoopStuck
            With `wait`: the service thread does not react, because a callback of this program blocks it.
        """
        known = self._known_of(validate_event(message), args, kwargs)
        asked = Asked(message, known, rigs, timeout, at, delay, patience)
        outcome: PushResult | PushError | float = self._push(asked, wait)
        return outcome

    def _known_of(self, event: ExpMessage, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the arguments that the message takes; warn once of each keyword or argument beyond that."""
        parts = parts_of(event)
        ignored = [f"the keyword {name}{close_match(name, _KEYWORDS).replace('; did', ', did')}" for name in kwargs]
        if len(args) > len(parts):
            ignored.append(f"the last {len(args) - len(parts)} of {len(args)} arguments")
        text = f"push of {event.name} ignores {'; '.join(ignored)}; {event.name} takes {', '.join(parts)}"
        if ignored and text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)
        return args[: len(parts)]

    def _push(self, asked: Asked, wait: bool) -> Any:
        make_order = self._lab.checked(asked)
        if wait:
            self._check_blocking("push(wait=True)")
        if self.is_running and (self._remote is None or not self._listens):
            if any(part is not None for part in (asked.rigs, asked.timeout, asked.at, asked.delay)) or asked.patience:
                raise ValueError(
                    f"{type(self).__name__} serves its queue itself: push takes message and arguments alone"
                )
            return self._queue_for_subclass(validate_event(asked.message), asked.args, wait)
        self._check_running()
        order = make_order()
        self.response_received.mark()
        if wait:
            return self._push_and_wait(order)
        self._begin_push(order, lambda _: None)  # the log has the outcome
        return order.request_time

    def _push_of_experiment(self, asked: Asked) -> PushResult | PushError | None:
        if self.thread.on_loop_thread and asked.message in ("EXPINTERRUPT", "EXPCLEANUP"):
            # A generator that holds the experiment was collected on the service thread, which cannot wait.
            self.push(asked.message, *asked.args, rigs=asked.rigs)
            return None
        outcome: PushResult | PushError = self._push(asked, wait=True)
        return outcome

    def _check_running(self) -> RigServices:
        """Return the services; raise where they are not open."""
        if not self.is_running or self._remote is None:
            raise self._not_running()
        return self._remote

    def _begin_push(
        self, order: Order, done: Callable[[Any], object], is_waited_for: Callable[[], bool] | None = None
    ) -> None:
        def settle(outcome: Any) -> None:
            self._queued.pop(order.request_time, None)
            done(outcome)

        self._queued[order.request_time] = [order.message.event, order.message.args, {}]
        try:
            self._lab.services.push(order, settle, is_waited_for=is_waited_for)
        except BaseException:
            self._queued.pop(order.request_time, None)
            raise

    def _queue_for_subclass(self, event: ExpMessage, args: tuple[Any, ...], wait: bool) -> Any:
        """Queue a message for a subclass that makes its services or serves the queue itself, as iblrig's class does."""
        request_time = draw_request_time()
        limit = (self.services.timeout if self.services else 0.0) + self.refresh_rate
        with self.response_received:
            self._queued[request_time] = [shown(event), args, {}]
            if not wait:
                return request_time
            if not self.response_received.wait_for(lambda: request_time in self._log, limit):
                raise LoopStuck(f"{type(self).__name__} has not answered {event.name} in time; look at its listen")
            return self._log[request_time]

    def _push_and_wait(self, order: Order) -> PushResult | PushError:
        waits = True
        with self._waiters.futures(1) as (future,):
            try:
                self._begin_push(order, future.bring, lambda: waits)
                ahead = 0.0 if order.act_at is None else max(0.0, order.act_at - time.monotonic())
                longest = ahead + self._lab.services.longest(order.timeout) + order.patience
                try:
                    outcome: PushResult | PushError = self._waiters.wait(future, longest)
                except NotRunning:
                    if self.thread.failure:
                        raise
                    outcome = self._lab.services.abort(order)
            finally:
                waits = False
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
        """Send a message and wait for the answers like ``push(wait=True)``, but raise if a rig failed.

        Parameters
        ----------
        message, *args, rigs, timeout, at, delay, patience
            As for `push`.

        Returns
        -------
        PushResult
            The answer of each rig.

        Raises
        ------
        PushError
            A rig failed. The error's ``result`` holds the answers of the others. It is a `PushTimeout` if all failures
            are time-outs.
        TypeError, ValueError, UnknownRig, NotRunning, LoopBlocked, LoopStuck
            As for `push`.
        """
        asked = Asked(message, args, rigs, timeout, at, delay, patience)
        outcome: PushResult | PushError = self._push(asked, wait=True)
        if isinstance(outcome, PushError):
            # Not the one in the log, to which the traceback would tie all that the caller holds.
            raise outcome.result.as_error()
        return outcome

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
        NotRunning
            The services are not open.
        """
        self._rigs.only(rig)
        if self._remote is None:
            raise self._not_running()
        return self._lab.view(rig)

    @property
    def views(self) -> dict[str, RigView]:
        """How each rig is now, by name, in their order; empty where the services are not open."""
        return self._lab.views if self._remote else {}

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
    ) -> Experiment:
        """Return an experiment to be entered by ``with``: begun on all rigs or on none, and never left running.

        Entering sends EXPINFO, EXPINIT and EXPSTART, and waits for all rigs. If one fails, those that have begun are
        interrupted and cleaned up, and one error names every rig.

        Leaving sends EXPEND and EXPCLEANUP. An exception, KeyboardInterrupt, a signal that ends the program, or the
        interpreter's exit has it send EXPINTERRUPT and EXPCLEANUP instead. The data of EXPINTERRUPT are the exception's
        type, text, traceback, file and line. The exception goes on.

        Parameters
        ----------
        ref : str or mapping
            Reference of the experiment, ``yyyy-mm-dd_n_subject`` or a mapping of date, sequence and subject. If one rig
            is the main sync and has a reference, that one counts: see the context's ``exp_ref``.
        init : mapping, optional
            Data of EXPINIT, beside the reference. ``{'takeover': True}`` goes on with a running experiment.
        start : object, optional
            Data of EXPSTART.
        delay : float, optional
            Seconds after which all rigs begin at one instant; at once by default.
        rigs : str or iterable of str, optional
            Names or patterns; all rigs by default.
        timeout : float, optional
            Seconds for the answers to each message. By default each rig's own, and ten minutes more for a rig that
            confirms that it is working on it, since preparing, and finishing and copying files, take time.
        on_failure : callable, optional
            Called with a `RigFailure` when a rig fails after it has begun, on the service thread. For rigs that have
            failed by the time that all have begun, it is called on the thread that enters. With or without it,
            ``session.check()`` raises, and so does leaving if nobody has checked.

        Returns
        -------
        Experiment
            With ``check()``, ``ready``, ``failures``, ``exp_ref`` and ``results``.

        Raises
        ------
        TypeError, ValueError, UnknownRig
            As for `push`. Entering and leaving raise `ExperimentError`.
        """
        names = self._rigs.matching(rigs)

        def services() -> RigServices:
            if self._remote is None:
                raise self._not_running()
            return self._remote

        options = {"init": init, "start": start, "delay": delay, "timeout": timeout, "on_failure": on_failure}
        return Experiment(self._push_of_experiment, services, self.hub, self._unfinished, names, ref, **options)

    def begin(self, ref: Any, **options: Any) -> Experiment:
        """Begin an experiment as `experiment` does, for a program that cannot hold a ``with`` open.

        A program with windows or a notebook begins in one place and ends in another, by `end` or `interrupt`. Where
        neither is called, the end of the program, or `close`, interrupts the rigs.

        Parameters
        ----------
        ref, **options
            As for `experiment`.

        Returns
        -------
        Experiment
            The one that goes on.

        Raises
        ------
        RuntimeError
            One that was begun here goes on.
        ExperimentError, TypeError, ValueError, UnknownRig
            As for `experiment`.
        """
        if self._begun and self._begun.goes_on:
            raise RuntimeError(f"the experiment {self._begun.exp_ref} goes on; call end() or interrupt() first")
        self._begun = self.experiment(ref, **options)
        return self._begun.begin()

    def end(self) -> None:
        """End the experiment that `begin` has begun: EXPEND and EXPCLEANUP on all rigs.

        Raises
        ------
        ExperimentError
            A rig has failed, now or before.
        RuntimeError
            None goes on.
        """
        self._present("end()").end()

    def interrupt(self, reason: BaseException | str = "interrupted by the program") -> None:
        """Interrupt the experiment that `begin` has begun: EXPINTERRUPT and EXPCLEANUP on all rigs.

        Parameters
        ----------
        reason : BaseException or str, optional
            Why; the rigs are told.

        Raises
        ------
        RuntimeError
            None goes on.
        """
        self._present("interrupt()").interrupt(reason)

    def _present(self, call: str) -> Experiment:
        if self._begun is None:
            raise RuntimeError(f"{call}: no experiment was begun; begin one by begin(ref)")
        return self._begun

    def call(self, rig: str, command: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call a command of a rig, made there by ``@rig.command(...)``, and wait for the value that it returns.

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
        UnknownRig, NotRunning, LoopBlocked, LoopStuck
            As for `push`.
        """
        names = [self._rigs.only(rig)]
        composed = compose_command(command, args, kwargs, self._rigs.room(names))
        limit = checked_timeout(timeout)
        self._check_blocking("call()")
        self.response_received.mark()
        outcome = self._push_and_wait(self._check_running().order(composed, names, limit))
        if isinstance(outcome, PushError):
            # Not the one in the log, to which the traceback would tie all that the caller holds.
            raise copy(outcome.failed[names[0]])
        return outcome[names[0]][0]

    def ping(self, *rigs: str, timeout: float = 1.0) -> dict[str, PingReply | RigError]:
        """Send one probe to each rig, and wait for what comes back.

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
            After `close`, or where the service thread has died.
        LoopBlocked
            On the service thread itself.
        LoopStuck
            The service thread does not react, because a callback of this program blocks it.
        """
        self._check_blocking("ping()")
        remote = self._check_running()
        limit = checked_timeout(timeout) or 0.0
        names = self._rigs.matching(rigs or None)

        def begin(name: str, done: Callable[[Any], None]) -> None:
            try:
                remote.ping(name, limit, done)
            except NotRunning as error:  # closed meanwhile
                done(error)

        with self._waiters.futures(len(names)) as futures:
            for name, future in zip(names, futures, strict=True):
                self.thread.call(begin, name, future.bring)
            return {name: self._waiters.wait(future, limit) for name, future in zip(names, futures, strict=True)}

    def clear_message_queue(self) -> int:
        """Take back messages that have not been sent yet. For their rigs they end as `Aborted`.

        Returns
        -------
        int
            The number of messages that were taken back from at least one rig.

        Raises
        ------
        LoopStuck
            The service thread does not react.
        """
        remote = self._remote
        if remote is None or not self.is_running:
            return 0
        if self.thread.on_loop_thread:
            return remote.withdraw_queued()

        async def withdraw(services: RigServices) -> int:
            return services.withdraw_queued()

        try:
            return self.thread.run_coroutine(withdraw, remote, STUCK_AFTER)
        except TimeoutError:
            raise stuck(self.hub) from None

    # ------------------------------------------------------------------------------------------ the daemon thread

    async def create(self) -> None:
        """Create the services, open their sockets and begin to probe. For the daemon thread.

        Raises
        ------
        ConfigError
            A name that does not resolve, or two rigs at one address.
        """
        if self._remote is not None:
            return
        await self._lab.connect()
        self._remote = remote = self._lab.services
        if self._rigs.rigs:
            self.services = remote

    async def listen(self) -> None:
        """Create the services, and serve until the stop event is set. For the daemon thread."""
        queued, self._listens = dict(self._queued), True
        stopping, end = self._thread.stopping, functools.partial(_end, weakref.ref(self), self._thread)
        try:
            await self.create()
            if self._remote is None and self.services is not None:
                await self._serve_queue(self.services)
            elif not self.stop_event.is_set():
                self._send_queued(queued)
                del self  # the object ends when nobody else refers to it
                await stopping.wait()
        finally:
            await end()

    async def serve(self) -> None:
        """Do what `listen` does, and then end the thread; for the daemon thread alone."""
        own, thread, hub, listening = weakref.ref(self), self._thread, self.hub, self.listen()
        del self  # as in `listen`
        try:
            await listening
        except asyncio.CancelledError:
            hub.end()
            raise
        except Exception as error:
            if (aux := own()) is None or error is not aux._created.value():  # which the constructor raises
                raise  # to `task_failed`, which closes the services; the hub tells what becomes of their pushes
        hub.end()
        if aux := own():
            aux.stop_event.set()
            aux.connected.unset()
            aux.fail_waiters(_CLOSED)
        _leaving.discard(thread)
        thread.stop()

    def _send_queued(self, queued: Mapping[float, list[Any]]) -> None:
        """Send what was pushed before the `listen` of a subclass called this class's."""
        for request_time, (event, args, _) in queued.items():
            if self._remote:
                order = self._remote.order(compose(event, *args), request_time=request_time)
                self._remote.push(order, functools.partial(self._take_off, request_time))

    def _take_off(self, request_time: float, _: object) -> None:
        self._queued.pop(request_time, None)

    async def _serve_queue(self, services: RigServices) -> None:
        """Serve the queue through services of iblutil, which the `create` of a subclass has made as iblrig's does."""
        while not self.stop_event.is_set():
            for request_time in sorted(self._queued):
                event, args, _ = self._queued[request_time]
                message = [event, *compose(event, *args).args]
                try:
                    outcome: Any = await services._signal(event, "confirmed_send", message)
                except Exception as error:
                    outcome = error
                self._queued.pop(request_time, None)
                self._log.file(request_time, outcome)
                self.response_received.announce()
            await asyncio.sleep(self.refresh_rate)

    def _telling(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """Wrap `create`, also a subclass's, so that the constructor hears of its end."""
        own, create = weakref.ref(self), type(self).create

        async def create_and_tell() -> None:
            aux = own()
            if aux is None:
                return
            try:
                await create(aux)
            except Exception as error:
                aux._created.bring(error)
                raise
            if aux.services:
                aux.connected.set()
            aux._created.bring(None)

        return create_and_tell

    async def cleanup(self, notify_services: bool = False) -> None:
        """Close the links and cancel pending callbacks. May be awaited on any event loop.

        Parameters
        ----------
        notify_services : bool
            Whether to send EXPCLEANUP to the rigs first, and wait for their answers; failures are logged.
        """
        remote = self._remote
        if remote is None and self.services is not None:  # a subclass's own
            self.services.close()
        if remote is None or not remote.is_open:
            return
        await self._lab.stop_what_was_started()
        if notify_services:
            try:
                await remote.request(compose(ExpMessage.EXPCLEANUP))
            except PushError as error:
                logger.error("closing although %s", error)  # noqa: TRY400 - the text says all
        if self.thread.on_loop_thread:
            remote.close()
            return
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._waiters.futures(1, lambda _: resolve_future(closed, None)) as (future,):

            def close_services() -> None:
                remote.close()
                future.bring(None)

            with contextlib.suppress(NotRunning):  # the thread has closed them, and has ended
                self.thread.call(close_services)
                await closed

    def close(self) -> None:
        """Close the links and wait, at most 2 s, for the thread to end. May be called repeatedly.

        Raises
        ------
        LoopBlocked
            On the service thread itself; set `stop_event` there.
        """
        self._check_blocking("close()")
        for experiment in list(self._unfinished):
            experiment.note_closing()
        end = time.monotonic() + CLOSE_TIMEOUT
        with signals_held_back():  # a second Ctrl-C would end the program before it has said goodbye
            self.stop_event.set()
            if self.services is None and self._rigs.rigs:  # still looking names up, or failed: no goodbye
                self.thread.stop()
            self.thread.join(CLOSE_TIMEOUT)
            self.hub.end_workers(max(0.0, end - time.monotonic()) / 2)

    def await_outstanding(self, end: float) -> None:
        """Wait until all pushes are answered, or until monotonic `end` in seconds; log what is given up."""

        def outstanding() -> list[float]:
            return [request_time for request_time in list(self._queued) if request_time not in self._log]

        timeout = max(0.0, end - time.monotonic())
        self.response_received.wait_for(lambda: not outstanding() or not self.is_running, timeout)
        for request_time in outstanding():
            rigs = self._remote.outstanding(request_time) if self._remote else []
            if given_up := self._queued.pop(request_time, None):
                who = f"{', '.join(rigs)} had not answered" if rigs else "not every rig had answered"
                logger.error("%s was given up: %s when the program ended", given_up[0].name, who)

    def say_last_words(self) -> None:
        """Interrupt the experiments that have not been left, for the interpreter is ending."""
        for experiment in list(self._unfinished):
            if isinstance(experiment, Experiment):
                experiment.say_last_words()

    def say_goodbye(self) -> None:
        """Only say goodbye, for a program that ends: its threads that still wait are to end in silence."""
        said = Awaited()
        if self._remote:
            with contextlib.suppress(NotRunning):
                self._remote.say_goodbye()
                self.thread.call(said.bring, True)
                said.wait(CLOSE_TIMEOUT)

    def stop_at_exit(self) -> None:
        """Interrupt what was started, for the interpreter is ending; `await_outstanding` waits for it."""
        if self._remote and (rigs := self._lab.take_started()):
            self.push(ExpMessage.EXPINTERRUPT, UNENDED, rigs=rigs, timeout=STOP_TIMEOUT)

    def fail_waiters(self, reason: str) -> None:
        """Tell all waiting threads that no answer will come; for the service thread."""
        self._created.bring(NotRunning(reason))
        self._waiters.fail(NotRunning(reason))

    def _wake(self) -> None:
        try:
            self.thread.call(self._thread.stop_serving)
        except NotRunning:
            logger.debug("stop event set, and the service thread has ended already")

    # ------------------------------------------------------------------------------------------------ helpers

    def _check_blocking(self, call: str) -> None:
        if self.thread.on_loop_thread:
            raise LoopBlocked(f"{call} on the service thread, that is, in a callback, would wait for itself")

    def _not_running(self) -> NotRunning:
        failure = self.thread.failure
        if failure:
            return NotRunning(f"the service thread has died of {type(failure).__name__}: {failure}")
        if self.stop_event.is_set():
            return NotRunning("closed: make a new Auxiliaries to go on")
        if self.is_running:
            return NotRunning(f"{type(self).__name__} makes its services itself, and they can only be pushed to")
        return NotRunning("the service thread has ended, or this process is a fork: make a new Auxiliaries to go on")


async def _end(own: weakref.ref[Auxiliaries], thread: _ServiceThread) -> None:
    """Close the services of an object that may be gone."""
    if aux := own():
        await aux.cleanup()  # which tells who waits for a push what became of it
    else:
        await thread.lab.close()


_unclosed: weakref.WeakSet[Auxiliaries] = weakref.WeakSet()
_leaving: set[_ServiceThread] = set()
"""Threads that close objects without references."""


def _let_go(thread: _ServiceThread) -> None:
    """Close, soon, on a thread: the object is being collected, perhaps on its own service thread."""
    if thread.is_alive():  # not in a fork, nor after `close`
        _leaving.add(thread)
        with contextlib.suppress(NotRunning):
            thread.call(thread.stop_serving)


@at_exit(COORDINATORS)
def _say_goodbye_for_the_unclosed() -> None:
    """Interrupt what a program leaves running, and say goodbye, if it ends without `close`.

    Its rigs would wait for it until their lease is over.
    """
    for auxiliaries in list(_unclosed):
        auxiliaries.say_last_words()
    running = [auxiliaries for auxiliaries in list(_unclosed) if auxiliaries.services and auxiliaries.is_running]
    end = time.monotonic() + CLOSE_TIMEOUT
    for auxiliaries in running:
        guarded("end of the program", auxiliaries.await_outstanding, end)
    for auxiliaries in running:
        guarded("end of the program", auxiliaries.stop_at_exit)
    for thread in list(_leaving):
        threading.Thread.join(thread, max(0.0, end - time.monotonic()))
    end = time.monotonic() + STOP_TIMEOUT
    for auxiliaries in running:
        guarded("end of the program", auxiliaries.await_outstanding, end)
        guarded("end of the program", auxiliaries.say_goodbye)


class _StopEvent(threading.Event):
    """An event that wakes the service thread, which does not poll it.

    It has no lock, which `threading.Event` holds while it is set: a signal handler that closes may interrupt that.
    """

    def __init__(self, wake: Callable[[], None]):
        super().__init__()
        self._latch = Latch()
        self._wake = weakref.WeakMethod(wake)

    def is_set(self) -> bool:
        return self._latch.is_set()

    def set(self) -> None:
        self._latch.set()
        if wake := self._wake():
            wake()

    def clear(self) -> None:
        self._latch.unset()

    def wait(self, timeout: float | None = None) -> bool:
        return self._latch.wait(timeout)


class _ServiceThread(LoopThread):
    """The daemon thread of one `Auxiliaries`."""

    def __init__(self, auxiliaries: Auxiliaries):
        super().__init__("auxiliaries")
        # Not the object itself, or this thread would keep it from being collected.
        self._own = weakref.ref(auxiliaries)
        self.lab = auxiliaries._lab
        self.stopping = asyncio.Event()

    def stop_serving(self) -> None:
        """Have `Auxiliaries.listen` end; for this thread."""
        self.stopping.set()

    def create_all_tasks(self) -> list[asyncio.Task[Any]]:
        aux = self._own()
        return [asyncio.get_running_loop().create_task(aux.serve(), name="rigsync listen")] if aux else []

    def task_failed(self, error: BaseException) -> None:
        if aux := self._own():
            aux.fail_waiters(f"the service thread has died of {type(error).__name__}: {error}")
        if services := (aux.services if aux else self.lab.services):
            services.close()
        self.lab.hub.end()
