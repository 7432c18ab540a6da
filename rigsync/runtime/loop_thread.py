"""A daemon thread that runs an event loop, so that synchronous programs can use asynchronous code."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar, cast

from rigsync.errors import LoopBlocked, NotRunning
from rigsync.runtime.conditions import Awaited

_Message = TypeVar("_Message")
_Result = TypeVar("_Result")

_logger = logging.getLogger("rigsync.loop_thread")

# Together these are less than the 2 s of join(), so that even the slowest stop is over when join() returns.
_TASKS_GRACE = 1.0
"""Seconds for cancelled tasks to clean up."""
_GENERATORS_GRACE = 0.4
"""Seconds for asynchronous generators to close."""
_EXECUTOR_GRACE = 0.4
"""Seconds for the threads of the default executor to end."""


class LoopThread(threading.Thread):
    """A daemon thread that runs an event loop until it is stopped.

    Subclasses override `create_all_tasks` to say what runs on the loop. Without tasks it only serves `run_coroutine`
    and `call`. If a task dies, the thread stops, and logs an error: see `task_failed`.

    Parameters
    ----------
    thread_name : str, optional
        Name of the thread, after ``rigsync-``; by default the name of the class.
    timeout : float, optional
        Seconds that `run_coroutine` waits by default; -1 for as long as it takes.

    Attributes
    ----------
    thread_name : str
        The name without ``rigsync-``; `name` has both.
    timeout : float
        As given.
    stop_requested : bool
        Whether anybody has called `stop`, or a task has failed.
    event_loop : asyncio.AbstractEventLoop or None
        The loop; None until the thread is started.
    failure : BaseException or None
        The exception that the thread died of, if it did.
    """

    def __init__(self, thread_name: str | None = None, timeout: float = 15.0):
        self.thread_name = thread_name or type(self).__name__
        super().__init__(name=f"rigsync-{self.thread_name}", daemon=True)
        self.timeout = timeout
        self.stop_requested = False
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self.failure: BaseException | None = None
        self._begun = threading.Event()
        self._start_error: BaseException | None = None
        self._tasks: list[asyncio.Task[Any]] = []  # kept here, since a loop holds its tasks by weak references only
        self._requests: set[_Request[Any]] = set()
        self._end: asyncio.Future[None]

    # ------------------------------------------------------------------------------------------- for subclasses

    def create_all_tasks(self) -> list[asyncio.Task[Any]]:
        """Create the tasks that run until the thread is stopped. Called once, on the loop.

        If one of them raises an exception, the thread stops. One that returns is merely done.
        """
        return []

    def task_failed(self, error: BaseException) -> None:
        """React to the death of a task. Called on this thread, once for each, just before the loop is stopped.

        The exception is logged already, and the first one is kept in `failure`.
        """

    # ---------------------------------------------------------------------------------------- for other threads

    @property
    def is_running(self) -> bool:
        """Whether the loop runs and nobody has asked it to stop."""
        return self.event_loop is not None and self.event_loop.is_running() and not self.stop_requested

    @property
    def on_loop_thread(self) -> bool:
        """Whether the caller is on this very thread."""
        return threading.current_thread() is self

    def start(self) -> None:
        """Start the thread; return when the loop runs and `create_all_tasks` has returned.

        Raises
        ------
        RuntimeError
            If it was started before.
        NotRunning
            If it was stopped before it could begin.
        BaseException
            Whatever `create_all_tasks` or the making of the loop raised. The thread has ended.
        """
        super().start()
        self._begun.wait()
        if self._start_error is not None:
            super().join()
            raise self._start_error

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a plain function on the loop soon, in the order of the calls; do not wait for it.

        What it raises is logged by asyncio.

        Raises
        ------
        NotRunning
            If the thread was not started, was asked to stop, or is dead.
        """
        loop = self.event_loop
        if loop is None or self.stop_requested:
            raise self._not_running()
        try:
            loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # it was closed since
            raise self._not_running() from None

    def run_coroutine(
        self,
        coroutine: Callable[[_Message], Coroutine[Any, Any, _Result]],
        message: _Message,
        timeout: float | None = None,
    ) -> _Result:
        """Run a coroutine function on the loop, and wait for its result.

        Parameters
        ----------
        coroutine : callable
            A coroutine function, or a partial, bound method or callable object that is one.
        message : object
            Its only argument.
        timeout : float, optional
            Seconds to wait. None means the attribute `timeout`; -1 as long as it takes.

        Returns
        -------
        object
            What the coroutine returned.

        Raises
        ------
        AttributeError
            If the thread was not started.
        TypeError
            If `coroutine` is no coroutine function.
        LoopBlocked
            If called on the loop's own thread, where the coroutine could not run while this waits.
        NotRunning
            If the loop is stopped, before the call or during it.
        TimeoutError
            If the coroutine took too long. It is cancelled then.
        BaseException
            Whatever the coroutine raised.
        """
        if self.event_loop is None:
            raise AttributeError(f"{self.name} has no event loop yet; call start() first")
        if not is_coroutine_function(coroutine):
            raise TypeError(f"expected a coroutine function (async def), not {coroutine!r}")
        if self.on_loop_thread:
            raise LoopBlocked(f"run_coroutine() on {self.name} itself would wait for ever; await the coroutine instead")
        request = _Request(functools.partial(coroutine, message))
        # Filed first: the closing of the loop settles all filed requests, so that nobody waits for ever.
        self._requests.add(request)
        limit = self.timeout if timeout is None else timeout
        try:
            self.call(request.begin, self._settle)
            if not request.outcome.wait(None if limit == -1 else limit):
                raise TimeoutError(f"{request.name} took more than {limit:g} s on {self.name} and was cancelled")
            result, error = request.outcome.value()
            if error is not None:
                raise error
            return cast("_Result", result)
        finally:
            self._requests.discard(request)
            if not request.outcome.is_there():  # too late, or the caller was interrupted by Ctrl-C
                with contextlib.suppress(NotRunning):
                    self.call(request.cancel)

    def stop(self) -> None:
        """Ask the thread to stop. At any time, from any thread, repeatedly. It does not wait (see `join`).

        All tasks are cancelled. A task that does not end within about a second is abandoned with a warning. Then
        asynchronous generators and the default executor are shut down, and the loop is closed.
        """
        self.stop_requested = True
        if self.event_loop is not None:
            with contextlib.suppress(RuntimeError):  # closed already
                self.event_loop.call_soon_threadsafe(self._finish)

    def join(self, timeout: float | None = 2.0) -> None:
        """Wait some seconds until the thread has ended, or without limit; log a warning if it has not.

        Raises
        ------
        LoopBlocked
            If called on the loop's own thread.
        RuntimeError
            If the thread was not started.
        """
        if self.on_loop_thread:
            raise LoopBlocked(f"join() on {self.name} itself would wait for ever; call it from another thread")
        super().join(timeout)
        if self.is_alive():
            reason = "something blocks its event loop" if self.stop_requested else "nobody has called stop()"
            _logger.warning("%s is still running after %g s: %s", self.name, timeout, reason)

    # --------------------------------------------------------------------------------------- on the thread itself

    def run(self) -> None:
        """Run the loop until it is stopped. For the thread itself; call `start` instead."""
        try:
            # A selector loop on every system: Windows' proactor loop goes deaf on UDP after an ICMP reset.
            loop = asyncio.SelectorEventLoop()
        except Exception as error:
            self.failure = self._start_error = error
        else:
            self._end = loop.create_future()
            self.event_loop = loop
            self._turn(loop)
        self._begun.set()

    def _turn(self, loop: asyncio.SelectorEventLoop) -> None:
        executor = concurrent.futures.ThreadPoolExecutor(thread_name_prefix=self.name)
        loop.set_default_executor(executor)
        loop.call_soon(self._begin)
        self._completes(loop, self._end)
        while not self._completes(loop, self._clean_up()):
            pass  # a task has left its clean-up by SystemExit; the others still get theirs
        _end_executor(executor)
        for task in asyncio.all_tasks(loop):
            _logger.warning("%s abandons a task that has not ended when cancelled: %r", self.name, task)
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # this has just been logged
        loop.close()
        for request in self._requests.copy():
            self._settle(request)

    def _completes(self, loop: asyncio.SelectorEventLoop, awaitable: Awaitable[None]) -> bool:
        try:
            loop.run_until_complete(awaitable)
        except BaseException as error:  # asyncio lets SystemExit and KeyboardInterrupt of any task through
            self._fail(error)
            return False
        return True

    def _begin(self) -> None:
        try:
            self._start_tasks()
        except BaseException as error:
            self.failure = self._start_error = error
            self.stop()
        else:
            self._begun.set()

    def _start_tasks(self) -> None:
        if self.stop_requested:
            raise self._not_running()
        self._tasks = self.create_all_tasks()
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    def _finish(self) -> None:
        if not self._end.done():
            self._end.set_result(None)

    async def _clean_up(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _TASKS_GRACE
        # In rounds, since the clean-up of one task may create others.
        while (tasks := asyncio.all_tasks() - {asyncio.current_task()}) and (left := deadline - loop.time()) > 0:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=left)
        # Not wait_for(): it waits without end if a generator swallows its cancellation.
        await asyncio.wait({loop.create_task(loop.shutdown_asyncgens())}, timeout=_GENERATORS_GRACE)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if error is self.failure:  # a SystemExit comes twice: from its task and from the loop
            return
        if self.failure is None:
            self.failure = error
        _logger.critical("%s has died of %s and stops", self.name, type(error).__name__, exc_info=error)
        try:
            self.task_failed(error)
        except BaseException:
            _logger.exception("task_failed() of %s has failed", self.name)
        self.stop()

    def _settle(self, request: _Request[Any], task: asyncio.Task[Any] | None = None) -> None:
        if task is not None and not task.cancelled():
            request.outcome.bring(task.result())
        else:
            error = self._not_running() if self.stop_requested else asyncio.CancelledError()
            request.outcome.bring((None, error))

    def _not_running(self) -> NotRunning:
        if self.failure is not None:
            died_of = f"{self.name} has died of {type(self.failure).__name__}; see the log, then make a new one"
            error = NotRunning(died_of)
            error.__cause__ = self.failure
            return error
        if self.stop_requested:
            return NotRunning(f"{self.name} was stopped; make a new one")
        return NotRunning(f"{self.name} is not started; call start() first")


class _Request(Generic[_Result]):
    """A coroutine that the loop runs for a waiting caller on another thread."""

    def __init__(self, coroutine: functools.partial[Coroutine[Any, Any, _Result]]):
        function = _without_partial(coroutine)
        self.name: str = getattr(function, "__qualname__", type(function).__qualname__)
        self.outcome = Awaited()
        self._coroutine = coroutine
        self._task: asyncio.Task[tuple[_Result | None, BaseException | None]] | None = None

    def begin(self, settle: Callable[[_Request[_Result], asyncio.Task[Any]], object]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"run_coroutine({self.name})")
        self._task.add_done_callback(functools.partial(settle, self))

    def cancel(self) -> None:
        if self._task:  # else Ctrl-C came before the loop was asked to begin it
            self._task.cancel()

    async def _run(self) -> tuple[_Result | None, BaseException | None]:
        try:
            return await self._coroutine(), None
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return None, error  # as a value: a SystemExit is the caller's, and must not end the loop


def _without_partial(function: object) -> object:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def is_coroutine_function(function: object) -> bool:
    """Return whether calling it gives a coroutine; also for partials and callable objects."""
    function = _without_partial(function)
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(type(function).__call__)
    )


def _end_executor(executor: concurrent.futures.ThreadPoolExecutor) -> None:
    # Not loop.shutdown_default_executor(). Up to Python 3.11 it waits without end. It needs a further thread, which
    # from 3.12 on cannot be started while the interpreter exits.
    executor.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + _EXECUTOR_GRACE
    # The executor's initializer would only know threads that have begun by now.
    for thread in list(executor._threads):
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            _logger.warning("%s is still busy; it is left behind", thread.name)
