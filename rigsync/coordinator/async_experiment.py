"""An experiment as an asynchronous context."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rigsync.coordinator.course import Course, Steps
from rigsync.coordinator.push import Push
from rigsync.coordinator.results import PushResult
from rigsync.core.orders import Asked
from rigsync.errors import PushError
from rigsync.runtime.callbacks import runs_here
from rigsync.runtime.signals import EndingSignals, Terminated


class AsyncExperiment(Course):
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

    async def begin(self) -> AsyncExperiment:
        """Begin on all rigs or on none, as entering by ``async with`` does.

        Then `end` or `interrupt` has to follow. Where neither does, closing the coordinator interrupts the rigs.

        Returns
        -------
        AsyncExperiment
            This one.

        Raises
        ------
        ExperimentError
            A rig has not begun; those that had are interrupted and cleaned up.
        RuntimeError
            It was begun before.
        """
        self._enter()
        self._task = asyncio.current_task()
        try:
            await self._run(self._beginning())
        except BaseException as error:
            await self._leave(error)
            raise
        self._state = "running"
        return self

    async def end(self) -> None:
        """End on all rigs and have them clean up, as leaving an ``async with`` does.

        Raises
        ------
        ExperimentError
            A rig has failed, now or before.
        RuntimeError
            It was never begun, or is over.
        """
        self._check_goes_on("end()")
        self._task = asyncio.current_task()
        try:
            await self._run(self._ending())
        except BaseException as problem:
            await self._leave(problem)
            raise
        await self._leave(None)

    async def interrupt(self, reason: BaseException | str = "interrupted by the program") -> None:
        """Interrupt all rigs and have them clean up, as an exception in an ``async with`` does.

        Parameters
        ----------
        reason : BaseException or str, optional
            Why; the rigs are told.

        Raises
        ------
        RuntimeError
            It was never begun, or is over.
        """
        self._check_goes_on("interrupt()")
        self._task = asyncio.current_task()
        await self._leave(reason if isinstance(reason, BaseException) else RuntimeError(reason))

    async def __aenter__(self) -> AsyncExperiment:
        return await self.begin()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            await self._leave(error)
        elif self._state == "running":  # else the body has ended or interrupted it
            await self.end()

    async def _leave(self, error: BaseException | None) -> None:
        """Interrupt what `error` leaves running; then obey who has asked for the end meanwhile."""
        self._nobody_waits = self._task is not None and not runs_here(self._task.get_loop())
        cause = self._terminated or error
        await self._run(self._leaving(cause))
        if self._terminated:
            raise self._terminated from None
        if self._cancelled and not isinstance(error, asyncio.CancelledError):
            raise asyncio.CancelledError

    async def _run(self, steps: Steps) -> Any:
        """Run steps, and return what they return; what is raised while they wait is raised in them."""
        resume: Callable[[Any], Asked] = steps.send
        come: Any = None
        try:
            while True:
                asked = resume(come)
                try:
                    resume, come = steps.send, await self._outcome(self._push(asked))
                except BaseException as error:
                    resume, come = steps.throw, error
        except StopIteration as over:
            return over.value

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
