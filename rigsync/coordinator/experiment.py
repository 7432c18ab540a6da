"""An experiment as a context, plain or asynchronous: begun on all rigs or on none, and never left running."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from rigsync.coordinator.course import Course, Steps
from rigsync.coordinator.push import Push
from rigsync.coordinator.results import PushResult
from rigsync.core.orders import Asked
from rigsync.errors import PushError, RigsyncError
from rigsync.runtime.callbacks import runs_here
from rigsync.runtime.signals import EndingSignals, Terminated

LAST_WORDS = 2.0
"""Seconds for which a program that ends in the middle of an experiment waits for rigs to confirm the interrupt."""


class Experiment(Course["Experiment", None]):
    """One experiment on all rigs; see `Auxiliaries.experiment`, which makes it."""

    HOW_TO_BEGIN = "`with aux.experiment(...) as session:` or by aux.begin(...)"

    def __init__(self, push: Callable[[Asked], PushResult | PushError | None], *course: Any, **options: Any):
        super().__init__(*course, **options)
        self._push = push

    def __enter__(self) -> Experiment:
        return self.begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run(self._exit(error))

    def _run(self, steps: Steps) -> Any:
        resume: Callable[[Any], Asked] = steps.send
        come: Any = None
        while True:
            try:
                asked = resume(come)
                resume, come = steps.send, self._push(asked)
            except StopIteration as over:
                return over.value
            except BaseException as error:  # Ctrl-C too, wherever it finds this
                if inspect.getgeneratorstate(steps) == inspect.GEN_CLOSED:  # they have raised it
                    raise
                resume, come = steps.throw, error

    def say_last_words(self) -> None:
        """Interrupt what is still running, for the interpreter is ending."""
        if rigs := self._in_charge_of:
            report = {"error": "SystemExit", "message": "the program ended in the middle of the experiment"}
            with contextlib.suppress(RigsyncError):
                self._push(Asked("EXPINTERRUPT", (report,), rigs, LAST_WORDS))


class AsyncExperiment(Course[Awaitable["AsyncExperiment"], Awaitable[None]]):
    """One experiment on all rigs, on an event loop; see `Coordinator.experiment`, which makes it.

    A task that is cancelled within it has the rigs interrupted, as an exception does. While rigs are being stopped, a
    further cancellation waits.

    Where its task is thrown away when the event loop has ended, nobody can wait: the rigs are told to stop if the loop
    ever runs again, and the log says that they may go on if it cannot.
    """

    HOW_TO_BEGIN = "`async with lab.experiment(...) as session:` or by await lab.experiment(...).begin()"

    def __init__(self, push: Callable[[Asked], Push], *course: Any, **options: Any):
        super().__init__(*course, **options)
        self._push = push
        end_task = weakref.WeakMethod(self._end_task)  # or the system's table of handlers would keep all this
        self._signals = EndingSignals(lambda cause: (end := end_task()) is not None and end(cause))
        self._task: asyncio.Task[Any] | None = None
        self._terminated: Terminated | KeyboardInterrupt | None = None
        self._cancelled = False
        self._nobody_waits = False

    def _enter(self) -> None:
        super()._enter()
        self._task = asyncio.current_task()

    def _take_up(self, call: str) -> None:
        super()._take_up(call)
        self._task = asyncio.current_task()

    async def __aenter__(self) -> AsyncExperiment:
        return await self.begin()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._run(self._exit(error))

    def _leave(self, error: BaseException | None) -> Steps:
        """Interrupt what `error` leaves running; then obey who has asked for the end meanwhile."""
        self._nobody_waits = self._task is not None and not runs_here(self._task.get_loop())
        yield from super()._leave(self._terminated or error)
        if self._terminated:
            raise self._terminated from None
        if self._cancelled and not isinstance(error, asyncio.CancelledError):
            raise asyncio.CancelledError

    async def _run(self, steps: Steps) -> Any:
        resume: Callable[[Any], Asked] = steps.send
        come: Any = None
        while True:
            try:
                asked = resume(come)
                resume, come = steps.send, await self._outcome(self._push(asked))
            except StopIteration as over:
                return over.value
            except BaseException as error:
                if inspect.getgeneratorstate(steps) == inspect.GEN_CLOSED:  # they have raised it
                    raise
                resume, come = steps.throw, error

    async def _outcome(self, push: Push) -> PushResult | PushError | None:
        if self._nobody_waits:
            return None
        while True:
            try:
                return await push.outcome()
            except asyncio.CancelledError:
                if not self._signals.holds_ctrl_c:
                    raise
                self._cancelled = True

    def _end_task(self, cause: Terminated | KeyboardInterrupt) -> bool:
        """Have the task that holds the experiment leave it, for a signal asks the program to end; or return False.

        A second Ctrl-C does not ask.
        """
        is_second = self._terminated is not None and isinstance(cause, KeyboardInterrupt)
        if is_second or self._task is None or not self._task.get_loop().is_running():
            return False
        self._terminated = cause
        self._task.get_loop().call_soon_threadsafe(self._cancel_task, self._task, cause)
        return True

    @staticmethod
    def _cancel_task(task: asyncio.Task[Any], cause: BaseException) -> None:
        if task.done():  # begun there and left to nobody; the event loop ends, and cancels what is left
            raise cause
        task.cancel()
