"""Worker threads for a rig's synchronous handlers, so that no handler holds up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rigsync.errors import NotRunning
from rigsync.runtime.callbacks import resolve_future

_Result = TypeVar("_Result")

_logger = logging.getLogger("rigsync.workers")

_IDLE_LIMIT = 4
"""Most idle workers. Handlers rarely overlap; if they do, an idle worker spares the start of a thread."""


class Workers:
    """Daemon threads that run each function at once, even if others are stuck.

    Their number has no limit: the handler of EXPINTERRUPT must run while other handlers hang. A
    `concurrent.futures.ThreadPoolExecutor` would not do: the interpreter waits for its threads before it exits, and a
    single stuck handler would keep the program from ending.

    Threads are called ``rigsync-<name>-handler-<number>``, and ``rigsync-<name>-spare``.
    """

    def __init__(self, name: str):
        self._name = name
        # Between threads. A signal handler that closes may interrupt `close` on the main thread, and enters again: it
        # takes what the other has not taken yet. Nothing else here runs on that thread.
        self._lock = threading.RLock()
        self._closed = False
        self._started = 0
        self._workers: list[_Worker] = []  # all living ones, and some that have ended
        self._idle: list[_Worker] = []
        self._spare: _Worker | None = None

    def keep_spare(self) -> None:
        """Keep one worker in reserve: the system may give no more threads, as while the interpreter exits."""
        with self._lock, contextlib.suppress(RuntimeError):
            if self._spare is None and not self._closed:
                self._spare = self._new_worker(f"rigsync-{self._name}-spare")

    def submit(
        self, function: Callable[[], _Result], done: Callable[[_Result | None, BaseException | None], object]
    ) -> None:
        """Run a function on a worker, at once; `NotRunning` if the workers are closed.

        The worker calls `done` with the result and None, or with None and the exception, even SystemExit. A
        RuntimeError of `done` means that its event loop is closed, and is logged at DEBUG.
        """
        with self._lock:
            if self._closed:
                raise NotRunning(f"the handlers of {self._name} are closed; make a new rig")
            worker = self._idle.pop() if self._idle else self._new_or_spare_worker()
            worker.busy = True
        worker.jobs.put((function, done))

    def begin(self, function: Callable[..., _Result], *args: Any) -> asyncio.Future[_Result]:
        """Run a function on a worker, at once. Call this on an event loop, which gets the outcome.

        The future may be cancelled or forgotten. `NotRunning` if the workers are closed, `RuntimeError` if the system
        gives no more threads.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody has looked at it
        job = functools.partial(function, *args)
        self.submit(job, lambda result, error: resolve_future(future, result if error is None else error))
        return future

    def close(self, timeout: float) -> list[str]:
        """Refuse further work, end idle workers, and wait some seconds at most for busy ones.

        Return the names of the threads that are still busy, also the caller's own.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
            if spare:
                self._idle.append(spare)
            with contextlib.suppress(IndexError):  # until there is none
                while True:
                    self._idle.pop().jobs.put(None)
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join(max(0.0, deadline - time.monotonic()))
        return [worker.name for worker in self._workers if worker.busy]

    def _new_or_spare_worker(self) -> _Worker:
        try:
            worker = self._new_worker(f"rigsync-{self._name}-handler-{self._started + 1}")
        except RuntimeError:  # the system gives no more threads
            if self._spare is None:
                raise
            worker, self._spare = self._spare, None
            return worker
        self._started += 1
        return worker

    def _new_worker(self, name: str) -> _Worker:
        worker = _Worker(name, self._rest)
        worker.start()
        self._workers = [*filter(threading.Thread.is_alive, self._workers), worker]
        return worker

    def _rest(self, worker: _Worker) -> bool:
        with self._lock:
            worker.busy = False
            stays = not self._closed and len(self._idle) < _IDLE_LIMIT
            if stays:
                self._idle.append(worker)
        return stays


class _Worker(threading.Thread):
    def __init__(self, name: str, rest: Callable[[_Worker], bool]):
        super().__init__(name=name, daemon=True)
        self.busy = False
        self.jobs: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any, BaseException | None], object]] | None]
        self.jobs = queue.SimpleQueue()
        self._rest = rest

    def run(self) -> None:
        while self._do_next() and self._rest(self):
            pass

    def _do_next(self) -> bool:
        # Separate from run(), so that an idle worker keeps nothing of its last job alive.
        job = self.jobs.get()
        if job is None:
            return False
        function, done = job
        try:
            result = function()
        except BaseException as error:
            _report(done, None, error)
        else:
            _report(done, result, None)
        return True


def _report(done: Callable[[Any, BaseException | None], object], result: Any, error: BaseException | None) -> None:
    try:
        done(result, error)
    except RuntimeError:
        _logger.debug("the outcome of a handler has come too late", exc_info=True)
    except BaseException:
        _logger.exception("the outcome of a handler could not be reported")
