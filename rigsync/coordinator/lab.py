"""What a program has of its rigs, be it synchronous or on an event loop: events, views, experiments."""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar, overload

from rigsync._text import close_match
from rigsync.config.rigs import Rigs, checked_timeout
from rigsync.coordinator.closing import Closing
from rigsync.coordinator.commands import Commands
from rigsync.coordinator.course import Course
from rigsync.coordinator.failures import RigFailure
from rigsync.coordinator.push import Call, Push
from rigsync.coordinator.reports import Reports
from rigsync.coordinator.results import ResultLog
from rigsync.coordinator.service import RigServices
from rigsync.coordinator.view import RigView
from rigsync.core import events
from rigsync.core.arguments import check_topic, checked_delay, compose, compose_command
from rigsync.core.calls import PUBLISH
from rigsync.core.doubts import doubt_of
from rigsync.core.orders import Asked, Order
from rigsync.errors import UnknownEvent
from rigsync.hub.events import kinds_below
from rigsync.runtime.hub import Hub

logger = logging.getLogger("rigsync.auxiliaries")

Function = TypeVar("Function", bound=Callable[..., Any])
_Lab = TypeVar("_Lab", bound="Lab[Any, Any]")
_Experiment = TypeVar("_Experiment", bound=Course[Any, Any])
_Rehearsed = TypeVar("_Rehearsed")


class Lab(Generic[_Experiment, _Rehearsed]):
    """What `Coordinator` and `Auxiliaries` have in common. Each says who waits, and where."""

    hub: Hub
    """Where all that happens is told: see `rigsync.Hub` and docs/hub.md."""
    _rigs: Rigs
    _services: RigServices
    _reports: Reports
    _commands: Commands
    _closing: Closing
    _send: Callable[[Order, Callable[[Any], object]], None]
    """Pushes an order, and calls a function with the outcome."""
    _unfinished: set[Course[Any, Any]]
    """Experiments that have been entered and not left."""
    _made: weakref.WeakSet[Course[Any, Any]]
    """All its experiments that there still are."""
    _kind: ClassVar[type[Any]]
    """The class of its experiments."""
    _kind_of_rehearsal: ClassVar[type[Any]]

    @classmethod
    def from_file(cls: type[_Lab], path: str | os.PathLike[str], **options: Any) -> _Lab:
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
        rigs = import_module("rigsync.config.files").load_rigs(path)
        return cls(rigs, **options)  # type: ignore[call-arg] # each takes the rigs first

    # ------------------------------------------------------------------------------------------------- looking

    @property
    def log(self) -> ResultLog:
        """The newest results by request time: a read-only mapping that never blocks."""
        return self._services.log

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
        return self._services.view(self._rigs.only(rig))

    @property
    def views(self) -> dict[str, RigView]:
        """How each rig is now, by name, in their order."""
        return self._services.views()

    @overload
    def on(self, event: type[events.Event] | str, callback: Callable[[Any], object]) -> Callable[[], None]: ...

    @overload
    def on(self, event: type[events.Event] | str, callback: None = None) -> Callable[[Function], Function]: ...

    def on(self, event: type[events.Event] | str, callback: Callable[[Any], object] | None = None) -> Any:
        """Have a function called with each event of one kind; also as a decorator, ``@lab.on("LinkLost")``.

        Parameters
        ----------
        event : class or str
            One of the classes in `rigsync.events` that a coordinator tells, or its name in any case:
            ``LinkAlive``, ``LinkSuspect``, ``LinkLost`` (or ``LinkChanged`` for all three), ``RestartSeen``,
            ``notice``, ``ProgressChanged``, ``StreamAdded``, ``StreamUpdated``, ``StreamRemoved``, ``MessageReceived``,
            ``PushCompleted``, ...
        callback : callable, optional
            A plain function is called with the event on the event loop, which an `Auxiliaries` has on its service
            thread. So it has to be quick and must not block. A coroutine function is awaited there. `hub` has more:
            ``hub.subscribe(..., run="worker")``.

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
        kinds = {kind.__name__.lower(): kind for kind in kinds_below(events.CoordinatorEvent)}
        name = getattr(event, "__name__", str(event))
        if name.lower() not in kinds:
            choices = sorted(kind.__name__ for kind in kinds.values())
            close = close_match(name, choices)
            raise UnknownEvent(f"no event {name!r}{close or ';'} choices: {', '.join(choices)}")
        return self.hub.subscribe(kinds[name.lower()], callback)

    def on_notice(self, topic: str, callback: Callable[[events.Notice], Any] | None) -> Callable[[], None]:
        """Call one function with all notices of one topic, which rigs tell by ``rig.notify(topic, ...)``.

        The functions of all topics are called one after the other, in the order in which the notices came. A plain
        function runs on a thread of its own: it may block, and may push, wait and call. A coroutine function runs on
        the event loop. An exception is logged with the function's name. At most 10,000 notices and 64 MiB of them
        wait. Beyond that the oldest are dropped, and the log says so.

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
        return self._reports.assign(topic, callback)

    def command(self, name: Any, /) -> Any:
        """Decorate the function that does a command, which rigs call by ``rig.call_coordinator``: ``@lab.command``.

        It is called with the arguments of the call, and returns its value, which is anything that can be sent. An
        exception goes to the rig as type, text and traceback. A plain function runs on a thread, where it may block,
        push and call; a coroutine function on the event loop. Eight run at a time. Only a rig of which this coordinator
        is in charge calls it.

        Parameters
        ----------
        name : str
            1 to 100 printable characters, and not the name of a message. ``@lab.command`` without a name takes that of
            the function.

        Raises
        ------
        TypeError, ValueError
            As for `Rig.command`.
        """
        if callable(name):
            return self.command(getattr(name, "__name__", None))(name)

        def register(function: Function) -> Function:
            self._commands.add(name, function)
            return function

        return register

    # ------------------------------------------------------------------------------------------------- asking

    def call_nowait(self, rig: str, command: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Call:
        """Call a command of a rig, and return at once; from any thread.

        Such calls wait for no push and no other call, and none waits for them: up to eight of this program run at a
        rig at once. They begin in the order in which they were made, and are answered as each ends. All others wait
        here. A call that takes much room, some 64 KiB, runs alone.

        Parameters
        ----------
        rig, command, *args, **kwargs
            As for `Coordinator.call`.
        timeout : float, optional
            Seconds for the answer, instead of the rig's own. They count from now: give many calls time for all.

        Returns
        -------
        Call
            ``await`` it on any event loop, or wait by its ``result(timeout)`` on a thread: each gives the value, or
            raises what `Coordinator.call` does. ``cancel()`` takes it back while it waits here.

        Raises
        ------
        CallError
            20,000 calls or 64 MiB of their arguments are outstanding. Nothing was sent: wait for some of them first.
        PayloadError, PayloadTooLarge, TypeError, ValueError, UnknownRig, NotRunning
            As for `Coordinator.call`, at once.
        """
        order = self._services.order_call(rig, command, args, kwargs, checked_timeout(timeout), self._check_open)
        return Call(self, self._services, order, self._send)

    def publish(
        self, topic: str, body: Any = None, *, rigs: str | Iterable[str] | None = None, timeout: float | None = None
    ) -> Push:
        """Tell all rigs something, and return at once; functions that a rig has by ``@rig.on_topic(topic)`` hear it.

        It is confirmed, and has its turn at each rig, as a push. As a command, only who is in charge may publish while
        an experiment goes on.

        Parameters
        ----------
        topic : str
            1 to 100 characters.
        body : object
            Anything that can be sent.
        rigs, timeout
            As for `Coordinator.push`.

        Returns
        -------
        Push
            ``await`` it, or wait by its ``result(timeout)`` on a thread, for the `PushResult`: ``["heard"]`` of a rig
            whose functions have returned, or ``["nobody listens"]``. Its `PushError` names rigs that have not heard
            it: `RemoteError` for a function that has raised, `NotSupported` of iblutil's and older rigs, and others as
            for a call.

        Raises
        ------
        PayloadError, PayloadTooLarge, TypeError, ValueError, UnknownRig, NotRunning
            As for `Coordinator.push`. Nothing is sent.
        """
        check_topic(topic)
        names = self._rigs.matching(rigs)
        message = compose_command(PUBLISH.name, (topic, body), {}, self._rigs.room(names))
        limit = checked_timeout(timeout)
        self._check_open()
        return Push(self, self._services, self._services.order(message, names, limit), self._send)

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
    ) -> _Experiment:
        """Return an experiment to be entered: begun on all rigs or on none, and never left running.

        An `Auxiliaries` gives an `Experiment`, for ``with``. A `Coordinator` gives an `AsyncExperiment`, for
        ``async with``.

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
            Called with a `RigFailure` when a rig fails after it has begun, on the event loop. For rigs that have failed
            by the time that all have begun, it is called on the thread that enters. With or without it,
            ``session.check()`` raises, and so does leaving if nobody has checked.

        Returns
        -------
        Experiment or AsyncExperiment
            With ``check()``, ``ready``, ``failures``, ``exp_ref`` and ``results``.

        Raises
        ------
        TypeError, ValueError, UnknownRig
            As for `push`; or there are no rigs. Entering and leaving raise `ExperimentError`.
        """
        if not (names := self._rigs.matching(rigs)):
            raise ValueError("an experiment on no rigs records nothing: name rigs where this program connects to them")
        options = {"init": init, "start": start, "delay": delay, "timeout": timeout, "on_failure": on_failure}
        made: _Experiment = self._kind(self._ask, self._services, self._unfinished, names, ref, **options)
        self._made.add(made)
        return made

    def rehearse(
        self,
        ref: Any = None,
        *,
        seconds: float = 3.0,
        minutes: float = 60.0,
        init: Mapping[str, Any] | None = None,
        start: Any = None,
        rigs: str | Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> _Rehearsed:
        """Have the rigs record for some seconds into scratch folders, and return what each has proven.

        It is an experiment that leaves nothing behind: each rig checks what it requires, begins with the others at one
        instant, records, ends, verifies, and removes what it has recorded. A rig that fails does not keep the others
        from their end. Rigs that cannot rehearse hear of nothing but EXPINFO: those of iblutil, agents without
        ``rehearsal`` in their file, programs without ``@rig.rehearsal``. On a `Coordinator` it is awaited.

        Parameters
        ----------
        ref : str or mapping, optional
            Reference; by default that of today, with number 1 and the subject ``rehearsal``.
        seconds : float
            How long to record.
        minutes : float
            Length of the session whose size is expected: what a rig has recorded, at the same rate.
        init, start, rigs, timeout
            As for `experiment`.

        Returns
        -------
        Rehearsal
            A mapping of rig to what it has proven, or what its problem is. ``succeeded`` says whether any rig took
            part, and each of those has recorded, ended well, and has room for the session.

        Raises
        ------
        TypeError, ValueError, UnknownRig, NotRunning
            As for `experiment` and `push`. What goes wrong on rigs is in the result.
        """
        if not (names := self._rigs.matching(rigs)):
            raise ValueError("a rehearsal on no rigs proves nothing: name rigs where this program connects to them")
        ref = f"{date.today()}_1_rehearsal" if ref is None else ref
        options = {"seconds": seconds, "minutes": minutes, "init": init, "start": start, "timeout": timeout}
        made = self._kind_of_rehearsal(self._ask, self._services, self._unfinished, names, ref, **options)
        rehearsed: _Rehearsed = made.run()
        return rehearsed

    def _ask(self, asked: Asked) -> Any:
        """Push what an experiment asks for; return what `_kind` waits for."""
        raise NotImplementedError

    def _check_open(self) -> None:
        """Raise `NotRunning` where nothing can be pushed."""
        raise NotImplementedError

    def _order(self, asked: Asked) -> Order:
        """Check what is to be pushed, in the caller's stack, and make the order."""
        rigs = None if asked.rigs is None else self._rigs.matching(asked.rigs)
        message = compose(asked.message, *asked.args, room=self._rigs.room(rigs))
        if doubt := doubt_of(message.event, asked.args):
            logger.warning("%s", doubt)
        limit = checked_timeout(asked.timeout)
        ahead = checked_delay(message.event, asked.at, asked.delay, time.time())
        patience = asked.patience
        if isinstance(patience, bool) or not 0 <= patience < math.inf:
            raise ValueError(f"patience is a number of seconds from 0 on, not {patience!r}")
        self._check_open()
        options = {"all_or_none": asked.all_or_none, "raises": asked.raises}
        return self._services.order(message, rigs, limit, ahead, patience, **options)
