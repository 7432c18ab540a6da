"""The thread of an `Auxiliaries`: what runs there, what waits for it, and the end of a program that does not close."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from rigsync.coordinator.closing import STOP_TIMEOUT
from rigsync.coordinator.coordinator import Coordinator
from rigsync.coordinator.results import PushResult
from rigsync.core.enums import ExpMessage
from rigsync.core.orders import Order
from rigsync.errors import NotRunning, PushError
from rigsync.runtime.callbacks import guarded
from rigsync.runtime.conditions import Awaited, Latch
from rigsync.runtime.exits import COORDINATORS, at_exit
from rigsync.runtime.loop_thread import LoopThread
from rigsync.runtime.waiters import Waiters

logger = logging.getLogger("rigsync.auxiliaries")

CLOSE_TIMEOUT = 2.0
"""Seconds within which `Auxiliaries.close` returns; `STOP_TIMEOUT` of these are for interrupting what was started."""
_CLOSED = "closed before every rig had answered"


class ServiceThread(LoopThread):
    """The daemon thread of one `Auxiliaries`. It refers to the object weakly, and closes what that leaves behind.

    It runs the object's `listen`, which calls `create` and `cleanup`. Subclasses may have each of their own.
    """

    def __init__(self, owner: Any, lab: Coordinator):
        super().__init__("auxiliaries")
        self._own, self._owner_name = weakref.ref(owner), type(owner).__name__
        self._lab = lab
        self.queued: dict[float, list[Any]] = {}
        """Unanswered pushes: message, arguments and keywords by request time, as in iblrig."""
        self.created = Awaited()
        self.stop_event = _StopEvent(self._wake)
        self.stopping = asyncio.Event()
        """Set on this thread when it is to end."""
        self.waiters = Waiters(self, self.not_running, lab.hub)
        self._is_leaving = False
        _threads.add(self)

    @property
    def serves(self) -> bool:
        """Whether it is at work."""
        # A fork has a copy of the object, but no thread.
        return not self.stop_event.is_set() and self.is_running and self.is_alive()

    def not_running(self) -> NotRunning:
        """Return the error that says why nothing can be asked."""
        if self.failure:
            return NotRunning(f"the service thread has died of {type(self.failure).__name__}: {self.failure}")
        if self.stop_event.is_set():
            return NotRunning("closed: make a new Auxiliaries to go on")
        if self.serves:
            return NotRunning(f"{self._owner_name} makes its services itself, and they can only be pushed to")
        return NotRunning("the service thread has ended, or this process is a fork: make a new Auxiliaries to go on")

    # -------------------------------------------------------------------------------------- for other threads

    def push(
        self,
        order: Order,
        done: Callable[[Any], object] = lambda _: None,
        is_waited_for: Callable[[], bool] | None = None,
    ) -> None:
        """Push, and keep it in the queue, and the object in memory, until `done` is called with the outcome."""
        settle = functools.partial(self._take_off, self._own(), order.request_time, done)
        self.queued[order.request_time] = [order.message.event, order.message.args, {}]
        try:
            self._lab.services.push(order, settle, is_waited_for=is_waited_for)
        except BaseException:
            self.queued.pop(order.request_time, None)
            raise

    def _take_off(self, _: object, request_time: float, done: Callable[[Any], object], outcome: Any) -> None:
        self.queued.pop(request_time, None)
        done(outcome)

    def push_and_wait(self, order: Order) -> PushResult | PushError:
        """Push, and wait until every rig has answered or failed."""
        waits, services = True, self._lab.services
        with self.waiters.future() as future:
            try:
                self.push(order, future.bring, lambda: waits)
                ahead = 0.0 if order.act_at is None else max(0.0, order.act_at - time.monotonic())
                longest = ahead + services.longest(order.timeout) + order.patience
                try:
                    outcome: PushResult | PushError = self.waiters.wait(future, longest)
                except NotRunning:
                    if self.failure:
                        raise
                    outcome = services.abort(order)
            finally:
                waits = False
        return outcome

    def await_creation(self) -> None:
        """Wait until the services are created; raise what prevented it."""
        self.created.wait()
        if isinstance(failure := self.created.value(), Exception):
            raise failure

    def wait_for(self, function: Callable[[], Coroutine[Any, Any, Any]], limit: float | None) -> Any:
        """Await a coroutine function on the thread, and wait for what it returns, or raises.

        It takes at most `limit` seconds, if the thread is not stuck.
        """
        tasks: list[asyncio.Task[None]] = []
        with self.waiters.future() as future:

            async def bring() -> None:
                try:
                    outcome = await function()
                except (NotRunning, asyncio.CancelledError):  # closed since
                    outcome = NotRunning(_CLOSED)
                except Exception as error:
                    outcome = error
                future.bring(outcome)

            self.call(lambda: tasks.append(asyncio.get_running_loop().create_task(bring(), name="rigsync wait")))
            try:
                outcome = self.waiters.wait(future, math.inf if limit is None else limit)
            finally:
                if not future.is_there():  # Ctrl-C, or a thread that is stuck
                    with contextlib.suppress(NotRunning):
                        self.call(lambda: [task.cancel() for task in tasks])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    # ------------------------------------------------------------------------------------------ on this thread

    def create_all_tasks(self) -> list[asyncio.Task[Any]]:
        """Serve."""
        aux = self._own()
        if aux is None:
            return []
        return [asyncio.get_running_loop().create_task(self._serve(aux.listen()), name="rigsync listen")]

    async def _serve(self, listening: Coroutine[Any, Any, None]) -> None:
        """Do what `Auxiliaries.listen` does, and then end the thread."""
        try:
            await listening
        except asyncio.CancelledError:
            self._lab.hub.end()
            raise
        except Exception as error:
            if error is not self.created.value():  # which the constructor raises
                raise  # to `task_failed`, which closes the services; the hub tells what becomes of their pushes
        self._lab.hub.end()
        if self._own():
            self.stop_event.set()
            self._lab.services.connected.unset()
            self._fail_waiters(_CLOSED)
        await self._lab.hub.ended()
        self.stop()

    def telling(self, create: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
        """Wrap `create`, also a subclass's, so that the constructor hears of its end."""

        async def create_and_tell() -> None:
            aux = self._own()
            if aux is None:
                return
            try:
                await create(aux)
            except Exception as error:
                self.created.bring(error)
                raise
            if aux.services:
                self._lab.services.connected.set()
            self.created.bring(None)

        return create_and_tell

    async def end(self) -> None:
        """Close the services of an object that may be gone."""
        if aux := self._own():
            await aux.cleanup()  # which tells who waits for a push what became of it
        else:
            await self._lab.close()

    def task_failed(self, error: BaseException) -> None:
        """Tell who waits, and close the services."""
        aux = self._own()
        if aux:
            self._fail_waiters(f"the service thread has died of {type(error).__name__}: {error}")
        if services := (aux.services if aux else self._lab.services):
            services.close()
        self._lab.hub.end()

    def _fail_waiters(self, reason: str) -> None:
        """Tell all waiting threads that no answer will come."""
        self.created.bring(NotRunning(reason))
        self.waiters.fail(NotRunning(reason))

    def _wake(self) -> None:
        try:
            self.call(self.stopping.set)
        except NotRunning:
            logger.debug("stop event set, and the service thread has ended already")

    # ---------------------------------------------------------------------------------------- the last of it

    def let_go(self) -> None:
        """Close, soon, on this thread: the object is being collected, perhaps by this very thread."""
        if self.is_alive():  # not in a fork, nor after `close`
            self._is_leaving = True
            self._wake()

    def _unfinished(self) -> list[Any]:
        return list(aux._unfinished) if (aux := self._own()) else []

    def say_last_words(self) -> None:
        """Interrupt the experiments that have not been left, for the interpreter is ending."""
        for experiment in self._unfinished():
            experiment.say_last_words()

    @property
    def is_starting(self) -> bool:
        """Whether an EXPSTART is outstanding."""
        log = self._lab.services.log
        return any(entry[0] is ExpMessage.EXPSTART and at not in log for at, entry in list(self.queued.items()))

    def interrupt_what_was_started(self) -> None:
        """Interrupt it, for the interpreter is ending; `await_outstanding` waits for it."""
        if interrupt := self._lab._closing.interrupt(self._unfinished()):
            self.queued[interrupt.request_time] = [ExpMessage.EXPINTERRUPT, [], {}]

    def await_outstanding(self, end: float) -> None:
        """Wait until all pushes are answered, or until monotonic `end` in seconds; log what is given up."""
        services = self._lab.services

        def outstanding() -> list[float]:
            return [request_time for request_time in list(self.queued) if request_time not in services.log]

        timeout = max(0.0, end - time.monotonic())
        services.response_received.wait_for(lambda: not outstanding() or not self.serves, timeout)
        for request_time in outstanding():
            rigs = services.outstanding(request_time)
            if given_up := self.queued.pop(request_time, None):
                who = f"{', '.join(rigs)} had not answered" if rigs else "not every rig had answered"
                logger.error("%s was given up: %s when the program ended", given_up[0].name, who)

    def say_goodbye(self) -> None:
        """Only say goodbye, for a program that ends: its threads that still wait are to end in silence."""
        said = Awaited()
        with contextlib.suppress(NotRunning):
            self._lab.services.say_goodbye()
            self.call(said.bring, None)
            said.wait(CLOSE_TIMEOUT)


_threads: weakref.WeakSet[ServiceThread] = weakref.WeakSet()


@at_exit(COORDINATORS)
def _say_goodbye_for_the_unclosed() -> None:
    """Interrupt what a program leaves running, and say goodbye, if it ends without `close`.

    Its rigs would wait for it until their lease is over.
    """
    threads = [thread for thread in list(_threads) if thread.is_alive()]
    for thread in threads:
        thread.say_last_words()
    leaving = [thread for thread in threads if thread._is_leaving]
    running = [thread for thread in threads if not thread._is_leaving and thread.serves]
    end = time.monotonic() + CLOSE_TIMEOUT
    for thread in running:
        if not thread.is_starting:  # which the interrupt overtakes
            guarded("end of the program", thread.await_outstanding, end)
    for thread in running:
        guarded("end of the program", thread.interrupt_what_was_started)
    for thread in leaving:
        threading.Thread.join(thread, max(0.0, end - time.monotonic()))
    end = time.monotonic() + STOP_TIMEOUT
    for thread in running:
        guarded("end of the program", thread.await_outstanding, end)
        guarded("end of the program", thread.say_goodbye)


class _StopEvent(threading.Event):
    """An event that wakes the service thread, which does not poll it.

    It has no lock, which `threading.Event` holds while it is set: a signal handler that closes may interrupt that.
    """

    def __init__(self, wake: Callable[[], None]):
        super().__init__()
        self._latch, self._wake = Latch(), wake

    def is_set(self) -> bool:
        return self._latch.is_set()

    def set(self) -> None:
        self._latch.set()
        self._wake()

    def clear(self) -> None:
        self._latch.unset()

    def wait(self, timeout: float | None = None) -> bool:
        return self._latch.wait(timeout)
