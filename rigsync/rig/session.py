"""One stretch of a rig's serving: the core, its pump, and the handlers that run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import math
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rigsync import __version__
from rigsync._text import one_line
from rigsync.core.calls import rig_closed
from rigsync.core.enums import ExpMessage
from rigsync.core.events import Event, HandlerDue, HandlerOvertaken, MessageHandled, StatusChanged
from rigsync.core.lifecycle import named_reference
from rigsync.core.messages import Message, Verb
from rigsync.core.notices import FAILURE
from rigsync.core.responder import Responder
from rigsync.core.timing import Timing
from rigsync.errors import NotRunning
from rigsync.journal.recorder import Recorder
from rigsync.net.endpoint import Endpoint, stamp_clock
from rigsync.rig.handlers import EndedBadly, Handler, Outcomes, Raised
from rigsync.rig.rules import log_rules
from rigsync.runtime.callbacks import described, goes_on, runs_here
from rigsync.runtime.hub import Hub
from rigsync.runtime.precise import COARSE, wait_until
from rigsync.runtime.workers import Workers

logger = logging.getLogger("rigsync.rig")

CLOSING = "the rig's program is being closed"
"""The reason of the interrupt at `Rig.close`."""
_BEGINNING = (ExpMessage.EXPINIT, ExpMessage.EXPSTART)


class Session:
    """One stretch of serving: the core, its pump, and the handlers that are running."""

    def __init__(
        self,
        name: str,
        handlers: dict[Verb, list[Handler]],
        handlers_for: Callable[[Verb, list[Any]], Sequence[Handler]],
        make_responder: Callable[..., Responder],
        hub: Hub,
        recorder: Recorder | None,
        logs_outcomes: bool = True,
    ):
        loop = asyncio.get_running_loop()
        self._name, self._handlers_for, self._loop = name, handlers_for, loop
        self.boot = secrets.token_hex(8)
        self.clock = stamp_clock()
        self.responder = make_responder(handlers, Timing(), self.boot, self.clock)
        self.agenda = self.responder.agenda
        self.endpoint = Endpoint(self.responder, hub.ingest, standing=self.responder.standing)
        self.workers = Workers(name)
        self._coroutines: dict[int, asyncio.Task[None]] = {}
        self._started: dict[int, float] = {}  # when each task's handlers were entered, in monotonic seconds
        self._left = False
        self._closes_by = math.inf  # when the end of the experiment is no longer awaited, in monotonic seconds
        self._has_ended = asyncio.Event()  # set at each outcome, for those who wait for the end of the experiment
        self._worker = threading.local()
        self._raised: Raised | None = None
        """What a handler has just raised, until that is told."""
        self._hub, self._is_logged, self._recorder = hub, logs_outcomes, recorder
        rules: list[tuple[type[Event], Callable[[Any], object]]] = [
            (HandlerDue, self._keep_spare),
            (StatusChanged, self._keep_spare),
            (StatusChanged, lambda _: self.endpoint.show(self.picture)),
            (HandlerDue, self._begin),
            (HandlerOvertaken, self._overtake),
            (MessageHandled, self._note_end),
            *log_rules(name),
        ]
        self._rules = [hub.rule(kind, rule) for kind, rule in rules]

    @property
    def picture(self) -> dict[str, Any]:
        """How the rig is, for a broker to keep."""
        return {"status": self.agenda.status.name, "exp_ref": self.agenda.exp_ref, "version": __version__}

    def notify(self, topic: str, key: str | None, body: Any, confirm: bool) -> None:
        """Tell the coordinators that watch; from any thread."""
        self._soon(lambda now: self.responder.notify(topic, key, body, confirm, now))

    def interrupt(self, reason: str) -> None:
        """Interrupt the experiment, if one is under way; from any thread."""
        self._soon(lambda now: self.agenda.interrupt(reason, now))

    def call(self, message: Message, timeout: float, done: Callable[[list[Any] | Exception], object]) -> None:
        """Call a command of the coordinator in charge; from any thread, and `done` is called on the loop's."""
        calls = self.responder.calls
        self._soon(lambda now: calls.ask(message, timeout, done, now), lambda: done(rig_closed(message.event.name)))

    @property
    def runs_here(self) -> bool:
        """Whether the caller runs on the event loop of this rig."""
        return runs_here(self._loop)

    @property
    def is_over(self) -> bool:
        """Whether it has stopped serving. What it has not been told by now is lost."""
        return self._left or self._loop.is_closed()

    def _soon(self, act: Callable[[float], object], otherwise: Callable[[], object] = lambda: None) -> None:
        """Call a function of the core on the loop's thread, with monotonic seconds; another if that is over."""

        def acted() -> None:
            if not self._left:
                act(self.endpoint.now())
                self.endpoint.pump()
            else:
                otherwise()

        try:
            self._loop.call_soon_threadsafe(acted)
        except RuntimeError:
            raise NotRunning(f"rig {self._name} has stopped serving") from None

    def wake(self) -> None:
        """Have the core do soon what is due; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped serving
            self._loop.call_soon_threadsafe(self.tick)

    def tick(self) -> None:
        """Have the core do what is due; on the loop's thread."""
        if not self._left:
            self.responder.handle_timer(self.endpoint.now())
            self.endpoint.pump()

    def begin(self) -> None:
        """Tell what happens from now on, and all that was reported since the rig was made; on the loop's thread."""
        if self._recorder:
            self._recorder.begin()
        self._hub.begin()
        self.tick()

    def await_journal(self, limit: float) -> None:
        """Wait some seconds until all that has happened is in the journal; off the loop."""
        if self._recorder:
            self._recorder.await_written(limit)

    def begin_to_close(self, grace: float) -> None:
        """Refuse experiments, and interrupt what is under way within some seconds; on the loop."""
        if self._closes_by == math.inf:
            self._closes_by = self.endpoint.now() + grace
            self.agenda.close(CLOSING, self.endpoint.now())
            self.endpoint.pump()

    @property
    def ends_here(self) -> bool:
        """Whether the calling thread runs a handler that ends an experiment. It must not wait for itself."""
        return getattr(self._worker, "event", None) in (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT)

    async def is_to_be_awaited(self, ends_there: bool) -> bool:
        """Whether closing the rig has to wait for the end of an experiment."""
        return self.agenda.is_under_way and not ends_there

    async def end_experiment(self, _: object = None) -> None:
        """Wait until nothing is under way, or the grace is over, or nobody waits any longer."""
        try:
            while self.agenda.is_under_way and not self._left and (left := self._closes_by - self.endpoint.now()) > 0:
                self._has_ended.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._has_ended.wait(), left)
        finally:
            if self.agenda.is_under_way and not self._left:
                self._give_up()

    def _give_up(self) -> None:
        """Report, before the goodbye, that the experiment was not stopped in time."""
        running, exp_ref = self.agenda.running, self.agenda.exp_ref
        problem = (
            f"{running.event.name if running else 'the experiment'} was given up, and {self._name} may go on recording "
            f"{exp_ref or 'the experiment'}: the handlers had not ended when the rig's program closed; look at it"
        )
        logger.error("%s: %s", self._name, one_line(problem))
        body = {"problem": problem, "exp_ref": exp_ref}
        self.responder.notify(FAILURE, None, body, True, self.endpoint.now())
        self.endpoint.pump()

    def leave(self) -> None:
        """Say goodbye, close the socket, and cancel coroutine handlers; on the loop's thread."""
        self._left = True
        self.responder.calls.close()
        self.responder.farewell(self.endpoint.now())
        self.endpoint.close()
        for task in self._coroutines.values():
            task.cancel()
        if self._rules:
            self.end_rules()
            self._hub.end()
            if self._recorder:
                self._recorder.end()

    def end_rules(self) -> None:
        """Hear of no event any more."""
        while self._rules:
            self._rules.pop()()

    async def await_bridges(self, _: object = None) -> None:
        """Wait, after `leave`, until bridges have sent what they were told last, 2 s at most."""
        await self._hub.ended()

    async def end_coroutines(self, timeout: float) -> None:
        """Leave, and give coroutine handlers some seconds to end."""
        self.leave()
        if self._coroutines:
            _, stuck = await asyncio.wait(self._coroutines.values(), timeout=timeout)
            for task in stuck:
                logger.warning("%s: %s does not end when cancelled; it is left to itself", self._name, task.get_name())

    def end_workers(self, timeout: float) -> None:
        """Give plain handlers some seconds to end; off the loop."""
        for stuck in self.workers.close(timeout):
            logger.warning("%s: %s is still running its handler; it is left to itself", self._name, stuck)

    def _keep_spare(self, _: Event) -> None:
        self.workers.keep_spare()  # with which EXPINTERRUPT runs when no thread can be had any more

    def _note_end(self, event: MessageHandled) -> None:
        self._has_ended.set()
        if not event.is_told:
            return
        raised = self._raised and self._take_raised(event)
        level = logging.ERROR if raised else logging.WARNING if event.error else logging.INFO
        if (raised and raised.is_told) or not self._is_logged:
            level = logging.DEBUG
        if not logger.isEnabledFor(level):
            return
        text = f"{event.event.name} from {event.source}: {one_line(event.error or 'answered')}"
        logger.log(level, "%s: %s", self._name, text, exc_info=raised and raised.error)

    def _overtake(self, event: HandlerOvertaken) -> None:
        if task := self._coroutines.get(event.task):
            task.cancel()

    def _begin(self, due: HandlerDue) -> None:
        handlers = self._handlers_for(due.event, due.args)
        late = 0.0 if due.schedule is None else self.endpoint.now() - due.schedule.instant
        if late > 0:
            logger.warning("%s: %s came %.1f ms after its instant", self._name, due.event.name, 1000 * late)
        if any(handler.is_coroutine for handler in handlers):
            task = self._loop.create_task(self._run_mixed(due, handlers), name=f"rigsync {due.event.name} handler")
            self._coroutines[due.task] = task
            task.add_done_callback(lambda _: self._coroutines.pop(due.task, None))
            return
        job = functools.partial(self._run_plain, due, handlers)
        try:
            self.workers.submit(
                job, lambda result, error: self._loop.call_soon_threadsafe(self._settle, due, result, error)
            )
        except RuntimeError as error:  # the system gives no more threads
            self._loop.call_soon(self._settle, due, None, error)

    def _enter(self, due: HandlerDue) -> bool:
        """Enter the handlers; return False if they were called off before."""
        if due.schedule and not due.schedule.take():
            return False
        self._started[due.task] = self.endpoint.now()
        return True

    def _run_plain(self, due: HandlerDue, handlers: Sequence[Handler]) -> Any:
        outcomes = Outcomes(self._name, due.event, handlers)
        self._worker.event = due.event
        if due.schedule:
            wait_until(due.schedule.instant, self.endpoint.now, lambda: self._is_given_up(due.task))
        if not self._enter(due):
            return None
        for handler in self._unless_overtaken(due.task, handlers):
            try:
                outcomes.add(handler(due.args))
            except BaseException as error:
                outcomes.add_error(handler, error)
        return outcomes.merged()

    async def _run_mixed(self, due: HandlerDue, handlers: Sequence[Handler]) -> None:
        outcomes = Outcomes(self._name, due.event, handlers)
        if due.schedule:
            await asyncio.sleep(max(0.0, due.schedule.instant - COARSE - self.endpoint.now()))
            wait_until(due.schedule.instant, self.endpoint.now, lambda: self._is_given_up(due.task))
        if not self._enter(due):
            return
        for handler in self._unless_overtaken(due.task, handlers):
            try:
                if handler.is_coroutine:
                    outcomes.add(await handler(due.args))
                else:
                    result, error = await self._in_worker(due, functools.partial(self._call, due, handler))
                    if error is not None:
                        raise error
                    outcomes.add(result)
            except BaseException as error:
                # A GeneratorExit if its event loop has ended without it, and it is being collected.
                if isinstance(error, (asyncio.CancelledError, GeneratorExit)) and self._is_given_up(due.task):
                    raise
                if handler.is_coroutine:
                    goes_on(error)  # Ctrl-C on the main thread; the coordinator hears of it too
                outcomes.add_error(handler, error)
        try:
            self._settle(due, outcomes.merged(), None)
        except BaseException as error:
            self._settle(due, None, error)

    def _call(self, due: HandlerDue, handler: Handler) -> Any:
        self._worker.event = due.event
        return handler(due.args)

    async def _in_worker(self, due: HandlerDue, function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        # The exception is returned as a value, since neither a future nor a coroutine can raise StopIteration.
        future: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_result((result, error))
            elif error is None and not self.agenda.is_open(due.task):  # nobody has waited for it any more
                self._note_late_end(due, self.endpoint.now())
                self.endpoint.pump()

        self.workers.submit(function, lambda *outcome: self._loop.call_soon_threadsafe(settle, *outcome))
        return await future

    def _unless_overtaken(self, number: int, handlers: Iterable[Handler]) -> Iterator[Handler]:
        # The next handler of an overtaken EXPSTART must not start what EXPINTERRUPT has stopped.
        return itertools.takewhile(lambda _: not self._is_given_up(number), handlers)

    def _is_given_up(self, number: int) -> bool:
        # The core knows it at once; events are told only after the answer to EXPINTERRUPT has left.
        return self._left or not self.agenda.is_open(number)

    def _settle(self, due: HandlerDue, result: Any, error: BaseException | None) -> None:
        now, started = self.endpoint.now(), self._started.pop(due.task, None)
        if error is None and started is not None and not self.agenda.is_open(due.task):
            self._note_late_end(due, now)
        elif error is None:
            try:
                self.agenda.respond(due.task, result, now, started)
            except BaseException as problem:  # from what the handler returned
                error = problem
        if error is not None:
            self._raised = error if isinstance(error, Raised) else Raised(error)
            error = self._raised.error
            self.agenda.fail(due.task, *described(error), now, is_over=isinstance(error, EndedBadly))
        self.endpoint.pump()
        if (
            self._raised and not self._raised.is_told and self._is_logged
        ):  # nor with what became of the message, which was overtaken
            self._raised.log(self._name, due.event)
        self._raised = None

    def _take_raised(self, event: MessageHandled) -> Raised | None:
        """Return the exception that has failed a message, to be told with that, once."""
        raised = self._raised
        if not raised or not (event.error or "").startswith(f"{described(raised.error)[0]}: "):
            return None
        self._raised = None
        return raised

    def _note_late_end(self, due: HandlerDue, now: float) -> None:
        """Report that nobody has stopped what a handler began after EXPINTERRUPT had overtaken it."""
        if due.event in _BEGINNING:
            problem = (
                f"the handler of {due.event.name} went on after EXPINTERRUPT had overtaken it, and has ended only now; "
                "look whether something runs there; a coroutine function that lets itself be cancelled ends in time"
            )
            logger.error("%s: %s", self._name, problem)
            reference = named_reference(due.event, due.args)
            self.responder.notify(FAILURE, None, {"problem": problem, "exp_ref": reference}, True, now)
