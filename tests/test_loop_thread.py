from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import inspect
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from live_helpers import in_thread
from processes import LONG, run_strictly, until

from rigsync.errors import LoopBlocked, NotRunning
from rigsync.runtime.conditions import Awaited
from rigsync.runtime.loop_thread import LoopThread

SHORT = 0.02
"""Seconds for waits that are to end by time-out."""


@pytest.fixture(autouse=True)
def nothing_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail on threads left behind and on what asyncio has to complain of: destroyed tasks, lost exceptions."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + LONG
    for thread in set(threading.enumerate()) - before:
        threading.Thread.join(thread, max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), f"{thread.name} was left behind"
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name in ("asyncio", "concurrent.futures")] == []


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread("test")
    thread.start()
    yield thread
    end(thread)


def end(thread: LoopThread) -> None:
    thread.stop()
    thread.join(LONG)
    assert not thread.is_alive()
    assert thread.event_loop is not None
    assert thread.event_loop.is_closed()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "rigsync.loop_thread"]


async def forever(started: threading.Event | None = None) -> None:
    if started is not None:
        started.set()
    await asyncio.get_running_loop().create_future()


async def echo(message: Any) -> Any:
    await asyncio.sleep(0)
    return message


async def hang(message: Any) -> None:
    await forever()


class Doing(LoopThread):
    """Runs the given coroutine functions as its tasks, and keeps what it hears of."""

    def __init__(self, *functions: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        super().__init__()
        self.functions = functions
        self.failed: list[tuple[BaseException, bool]] = []

    def create_all_tasks(self) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(function()) for function in self.functions]

    def task_failed(self, error: BaseException) -> None:
        self.failed.append((error, self.on_loop_thread))


# ---------------------------------------------------------------------------------------------------- the thread


def test_names_and_attributes() -> None:
    thread = LoopThread()
    assert (thread.thread_name, thread.name, thread.timeout) == ("LoopThread", "rigsync-LoopThread", 15.0)
    assert Doing().name == "rigsync-Doing"
    thread = LoopThread("rigs", timeout=3)
    assert (thread.thread_name, thread.name, thread.timeout) == ("rigs", "rigsync-rigs", 3)
    assert thread.daemon
    assert thread.event_loop is None
    assert thread.failure is None
    assert not thread.stop_requested
    assert not thread.is_running


def test_life(thread: LoopThread) -> None:
    assert thread.is_running
    assert isinstance(thread.event_loop, asyncio.SelectorEventLoop)
    assert not thread.on_loop_thread
    thread.stop()
    assert thread.stop_requested
    assert not thread.is_running
    thread.join(LONG)
    assert not thread.is_alive()
    assert thread.event_loop.is_closed()
    assert thread.failure is None


def test_start_returns_when_the_tasks_are_made() -> None:
    class Slow(LoopThread):
        made = False

        def create_all_tasks(self) -> list[asyncio.Task[Any]]:
            assert self.on_loop_thread
            assert asyncio.get_running_loop() is self.event_loop
            time.sleep(5 * SHORT)
            self.made = True
            return []

    thread = Slow()
    thread.start()
    assert thread.made
    end(thread)


@pytest.mark.parametrize("kind", [OSError, SystemExit, KeyboardInterrupt])
def test_start_raises_what_create_all_tasks_raises(kind: type[BaseException]) -> None:
    error = kind("no such port")
    cleaned_up: list[None] = []

    async def task() -> None:
        try:
            await forever()
        finally:
            cleaned_up.append(None)

    class Failing(Doing):
        def create_all_tasks(self) -> list[asyncio.Task[Any]]:
            self.begun = asyncio.create_task(task())
            raise error

        def run(self) -> None:
            super().run()
            time.sleep(5 * SHORT)  # start() is to wait for the very end

    thread = Failing()
    with pytest.raises(kind) as caught:
        thread.start()
    assert caught.value is error
    assert thread.failure is error
    assert not thread.is_alive()
    assert thread.event_loop is not None
    assert thread.event_loop.is_closed()
    assert thread.begun.cancelled()
    assert thread.failed == []
    with pytest.raises(NotRunning, match="died of") as refused:
        thread.run_coroutine(echo, 1)
    assert refused.value.__cause__ is error


def test_start_raises_where_no_loop_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError("too many open files")

    def fail() -> None:
        raise error

    monkeypatch.setattr(asyncio, "SelectorEventLoop", fail)
    thread = LoopThread()
    with pytest.raises(OSError, match="too many") as caught:
        thread.start()
    assert caught.value is error
    assert thread.failure is error
    assert thread.event_loop is None
    assert not thread.is_alive()
    assert not thread.is_running


def test_start_twice(thread: LoopThread) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="once"):
            thread.start()
        end(thread)


def test_start_after_stop() -> None:
    thread = Doing(forever)
    thread.stop()
    with pytest.raises(NotRunning, match="stopped"):
        thread.start()
    assert not thread.is_alive()
    assert thread._tasks == []


def test_join_before_start() -> None:
    with pytest.raises(RuntimeError, match="before it is started"):
        LoopThread().join()


def test_join_warns_of_a_running_thread(thread: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    assert inspect.signature(thread.join).parameters["timeout"].default == 2.0
    thread.join(SHORT)
    (warning,) = warnings_of(caplog)
    assert "rigsync-test" in warning
    assert "nobody has called stop()" in warning
    let_go = threading.Event()
    thread.call(let_go.wait, LONG)
    thread.stop()
    thread.join(SHORT)
    assert "something blocks" in warnings_of(caplog)[-1]
    let_go.set()
    thread.join(None)
    assert len(warnings_of(caplog)) == 2


def test_blocking_calls_on_the_thread_itself_are_refused(thread: LoopThread) -> None:
    async def blocking(call: Callable[[], Any]) -> Any:
        assert thread.on_loop_thread
        return call()

    for call in (lambda: thread.run_coroutine(echo, 1), thread.join, lambda: thread.join(0)):
        with pytest.raises(LoopBlocked, match="rigsync-test"):
            thread.run_coroutine(blocking, call)
    assert thread.run_coroutine(echo, 1) == 1


# -------------------------------------------------------------------------------------------------- run_coroutine


class Asynchronous:
    async def method(self, message: Any) -> Any:
        return await echo(message)

    async def __call__(self, message: Any) -> Any:
        return await echo(message)


async def echo_second(first: Any, second: Any) -> Any:
    return await echo(second)


@pytest.mark.parametrize(
    "coroutine",
    [
        echo,
        Asynchronous().method,
        Asynchronous(),
        functools.partial(echo_second, 1),
        functools.partial(functools.partial(echo_second), 1),
        functools.partial(Asynchronous()),
        functools.partial(Asynchronous.method, None),
    ],
)
def test_result(thread: LoopThread, coroutine: Any) -> None:
    message = {"data": "test"}
    assert thread.run_coroutine(coroutine, message) is message
    until(lambda: not thread._requests)


@pytest.mark.parametrize(
    "kind", [None, 1, print, lambda message: echo(message), Asynchronous, functools.partial(print)]
)
def test_not_a_coroutine_function(thread: LoopThread, kind: Any) -> None:
    with pytest.raises(TypeError, match="coroutine function"):
        thread.run_coroutine(kind, 1)


def test_run_coroutine_before_start() -> None:
    with pytest.raises(AttributeError, match="start"):
        LoopThread().run_coroutine(echo, 1)


@pytest.mark.parametrize(
    "kind",
    [
        ValueError,
        TimeoutError,
        asyncio.TimeoutError,
        concurrent.futures.TimeoutError,
        asyncio.CancelledError,
        concurrent.futures.CancelledError,
        SystemExit,
        KeyboardInterrupt,
    ],
)
def test_the_coroutines_own_exception(thread: LoopThread, kind: type[BaseException]) -> None:
    error = kind("own")

    async def fail(message: Any) -> None:
        await asyncio.sleep(0)
        raise error

    with pytest.raises(kind) as caught:
        thread.run_coroutine(fail, 1)
    if kind is not asyncio.CancelledError:  # of that, the task makes one of its own
        assert caught.value is error
    assert thread.run_coroutine(echo, 1) == 1
    assert thread.failure is None


@pytest.mark.parametrize("own", [True, False])
def test_late_coroutine_is_cancelled(thread: LoopThread, own: bool) -> None:
    cancelled = threading.Event()

    async def hang(message: Any) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    thread.timeout = LONG if own else SHORT
    with pytest.raises(TimeoutError, match=r"hang took more than 0\.02 s on rigsync-test") as caught:
        thread.run_coroutine(hang, 1, timeout=SHORT if own else None)
    assert type(caught.value) is TimeoutError
    assert cancelled.wait(LONG)
    until(lambda: not thread._requests)


def test_late_coroutine_that_was_not_begun_never_is(thread: LoopThread) -> None:
    let_go, begun = threading.Event(), threading.Event()

    async def begin(message: Any) -> None:
        begun.set()

    thread.call(let_go.wait, LONG)
    with pytest.raises(TimeoutError):
        thread.run_coroutine(begin, 1, timeout=0)
    let_go.set()
    until(lambda: not thread._requests)
    assert not begun.is_set()


@pytest.mark.parametrize("own", [True, False])
def test_waiting_as_long_as_it_takes(thread: LoopThread, own: bool) -> None:
    async def linger(message: Any) -> Any:
        await asyncio.sleep(5 * SHORT)
        return message

    thread.timeout = SHORT if own else -1
    assert thread.run_coroutine(linger, 1, timeout=-1 if own else None) == 1


def test_other_negative_times_are_over(thread: LoopThread) -> None:
    with pytest.raises(TimeoutError):
        thread.run_coroutine(hang, 1, timeout=-0.5)


def test_ctrl_c_of_the_caller_cancels_the_coroutine(thread: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def hang(message: Any) -> None:
        try:
            await forever(started)
        finally:
            cancelled.set()

    def interrupt(*args: Any) -> None:
        assert started.wait(LONG)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Awaited, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            thread.run_coroutine(hang, 1)
    assert cancelled.wait(LONG)


def test_ctrl_c_before_the_coroutine_is_handed_over_leaves_nothing(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    call = thread.call

    def interrupt(*args: Any) -> None:
        monkeypatch.setattr(thread, "call", call)
        raise KeyboardInterrupt

    monkeypatch.setattr(thread, "call", interrupt)
    with pytest.raises(KeyboardInterrupt):
        thread.run_coroutine(echo, 1)
    assert thread.run_coroutine(echo, 2) == 2  # after whatever the first one has left
    assert not thread._requests
    assert not caplog.records


def test_stop_frees_those_who_wait(thread: LoopThread) -> None:
    started = threading.Event()
    waiter = in_thread(thread.run_coroutine, forever, started, -1)
    assert started.wait(LONG)
    thread.stop()
    with pytest.raises(NotRunning, match="stopped"):
        waiter.result(LONG)
    with pytest.raises(NotRunning, match="rigsync-test was stopped"):
        thread.run_coroutine(echo, 1)
    end(thread)
    with pytest.raises(NotRunning, match="stopped"):
        thread.run_coroutine(echo, 1)
    assert not thread._requests


def test_stop_frees_those_whose_coroutine_goes_on_regardless(
    thread: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    started = threading.Event()

    async def stubborn(message: Any) -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await forever(started)

    waiter = in_thread(thread.run_coroutine, stubborn, "secret", -1)
    assert started.wait(LONG)
    thread.stop()
    with pytest.raises(NotRunning):
        waiter.result(LONG)
    (warning,) = warnings_of(caplog)
    assert "stubborn" in warning
    assert "secret" not in warning


def test_stop_frees_those_whose_coroutine_is_only_begun_then(thread: LoopThread) -> None:
    let_go = threading.Event()
    thread.call(let_go.wait, LONG)
    waiter = in_thread(thread.run_coroutine, hang, 1, -1)
    until(lambda: len(thread._requests) == 1)
    thread.stop()
    let_go.set()
    with pytest.raises(NotRunning):
        waiter.result(LONG)


def test_closing_the_loop_frees_those_it_never_heard_of(thread: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "call", lambda function, *args: None)  # as a call into a loop that is just closed
    waiter = in_thread(thread.run_coroutine, echo, 1, -1)
    until(lambda: len(thread._requests) == 1)
    thread.stop()
    with pytest.raises(NotRunning):
        waiter.result(LONG)


def test_result_of_a_coroutine_that_ends_in_time_while_the_loop_stops(thread: LoopThread) -> None:
    started = threading.Event()

    async def tidy(message: Any) -> Any:
        try:
            await forever(started)
        except asyncio.CancelledError:
            return message

    waiter = in_thread(thread.run_coroutine, tidy, 1, -1)
    assert started.wait(LONG)
    thread.stop()
    assert waiter.result(LONG) == 1


def test_run_coroutine_from_many_threads_while_it_stops() -> None:
    for _ in range(10):
        thread = LoopThread()
        thread.start()
        barrier = threading.Barrier(9)

        def ask(thread: LoopThread = thread, barrier: threading.Barrier = barrier) -> int:
            barrier.wait(LONG)
            for number in range(10_000):
                try:
                    assert thread.run_coroutine(echo, number, -1) == number
                except NotRunning:
                    return number
            return -1

        callers = [in_thread(ask) for _ in range(8)]
        barrier.wait(LONG)
        thread.run_coroutine(echo, 1)
        end(thread)
        assert all(caller.result(LONG) >= 0 for caller in callers)


# ----------------------------------------------------------------------------------------------------------- call


def test_calls_come_in_order_and_on_the_loop(thread: LoopThread) -> None:
    calls: list[tuple[int, bool]] = []
    for number in range(100):
        thread.call(lambda number: calls.append((number, thread.on_loop_thread)), number)
    thread.run_coroutine(echo, 1)
    assert calls == [(number, True) for number in range(100)]


def test_call_on_the_loop_itself(thread: LoopThread) -> None:
    called = threading.Event()
    thread.call(thread.call, called.set)
    assert called.wait(LONG)


def test_call_when_not_running(thread: LoopThread) -> None:
    with pytest.raises(NotRunning, match="start"):
        LoopThread().call(print)
    thread.stop()
    with pytest.raises(NotRunning, match="stopped"):
        thread.call(print)
    end(thread)
    with pytest.raises(NotRunning, match="stopped"):
        thread.call(print)
    thread.stop_requested = False  # as if it had been closed between the check and the call
    with pytest.raises(NotRunning):
        thread.call(print)


# ----------------------------------------------------------------------------------------------------------- stop


def test_stop_from_the_loop_itself(thread: LoopThread) -> None:
    thread.call(thread.stop)
    thread.join(LONG)
    assert not thread.is_alive()


def test_stop_within_create_all_tasks() -> None:
    class Stopping(LoopThread):
        def create_all_tasks(self) -> list[asyncio.Task[Any]]:
            self.stop()
            return [asyncio.create_task(forever())]

    thread = Stopping()
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    assert thread._tasks[0].cancelled()


def test_stop_is_idempotent() -> None:
    never_started = LoopThread()
    never_started.stop()
    never_started.stop()
    cleaning, let_go = threading.Event(), asyncio.Event()

    async def task() -> None:
        try:
            await forever()
        finally:
            cleaning.set()
            await let_go.wait()

    thread = Doing(task)
    thread.start()
    barrier = threading.Barrier(8)
    for stopped in [in_thread(lambda: (barrier.wait(LONG), thread.stop())) for _ in range(8)]:
        stopped.result(LONG)
    assert cleaning.wait(LONG)
    thread.stop()
    assert thread.is_alive()  # and none of them has waited
    assert thread.event_loop is not None
    thread.event_loop.call_soon_threadsafe(let_go.set)
    end(thread)
    end(thread)
    assert thread.failure is None


def test_stop_waits_for_the_clean_up_of_tasks() -> None:
    log: list[str] = []

    async def later() -> None:
        try:
            await forever()
        finally:
            log.append("later")

    async def task() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(SHORT)
            log.append("task")
            background.append(asyncio.create_task(later()))
            await asyncio.sleep(0)

    background: list[asyncio.Task[None]] = []
    thread = Doing(task)
    thread.start()
    end(thread)
    assert log == ["task", "later"]


def test_stubborn_tasks_are_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    cleaned_up: list[None] = []

    async def stubborn_listener() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await forever()

    async def orderly() -> None:
        try:
            await forever()
        finally:
            cleaned_up.append(None)

    thread = Doing(stubborn_listener, orderly)
    thread.start()
    start = time.monotonic()
    end(thread)
    assert time.monotonic() - start >= 0.9
    (warning,) = warnings_of(caplog)
    assert "rigsync-Doing abandons" in warning
    assert "stubborn_listener" in warning
    assert cleaned_up == [None]
    thread._tasks.clear()


def test_asynchronous_generators_are_closed(thread: LoopThread) -> None:
    log: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            log.append("closed")

    async def begin(generator: AsyncIterator[int]) -> int:
        return await generator.__anext__()

    generator = numbers()
    assert thread.run_coroutine(begin, generator) == 1
    end(thread)
    assert log == ["closed"]


def test_stuck_asynchronous_generator_is_abandoned(thread: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            while not let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(LONG)

    async def begin(generator: AsyncIterator[int]) -> int:
        return await generator.__anext__()

    let_go = threading.Event()
    generator = numbers()
    thread.run_coroutine(begin, generator)
    end(thread)
    assert any("shutdown_asyncgens" in warning for warning in warnings_of(caplog))


def test_executor_threads_are_ended(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running: Future[threading.Thread] = Future()

    def work() -> None:
        running.set_result(threading.current_thread())
        time.sleep(5 * SHORT)

    async def begin(function: Callable[[], Any]) -> None:
        asyncio.get_running_loop().run_in_executor(None, function)

    monkeypatch.setattr("rigsync.runtime.loop_thread._EXECUTOR_GRACE", LONG)
    thread.run_coroutine(begin, work)
    worker = running.result(LONG)
    assert worker.name.startswith("rigsync-test")
    end(thread)
    assert not worker.is_alive()
    assert caplog.records == []


def test_executor_threads_that_have_hardly_begun_are_ended_too(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = concurrent.futures.thread._worker

    def dawdle(*args: Any) -> None:
        time.sleep(5 * SHORT)
        work(*args)

    async def begin(function: Callable[[], Any]) -> None:
        asyncio.get_running_loop().run_in_executor(None, function)

    monkeypatch.setattr("rigsync.runtime.loop_thread._EXECUTOR_GRACE", LONG)
    monkeypatch.setattr("concurrent.futures.thread._worker", dawdle)
    thread.run_coroutine(begin, print)
    end(thread)
    assert not [other for other in threading.enumerate() if other.name.startswith("rigsync-test_")]


def test_stuck_executor_thread_is_left_behind(thread: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    running, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        running.set()
        assert let_go.wait(LONG)

    async def in_executor(function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, function)

    waiter = in_thread(thread.run_coroutine, in_executor, hang, -1)
    assert running.wait(LONG)
    end(thread)
    with pytest.raises(NotRunning):
        waiter.result(LONG)
    (warning,) = warnings_of(caplog)
    assert "rigsync-test_0 is still busy" in warning
    let_go.set()


# ------------------------------------------------------------------------------------------------- dying of tasks


async def die() -> None:
    await asyncio.sleep(0)
    raise LookupError("no rig")


def test_a_dying_task_is_reported_and_stops_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    cleaned_up: list[None] = []

    async def other() -> None:
        try:
            await forever()
        finally:
            cleaned_up.append(None)

    thread = Doing(die, other)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    assert isinstance(thread.failure, LookupError)
    assert thread.failed == [(thread.failure, True)]
    assert cleaned_up == [None]
    assert not thread.is_running
    assert thread.stop_requested
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("rigsync.loop_thread", logging.CRITICAL)
    assert "rigsync-Doing" in record.getMessage()
    assert record.exc_info
    assert record.exc_info[1] is thread.failure
    assert "in die" in caplog.text
    for refused in (lambda: thread.call(print), lambda: thread.run_coroutine(echo, 1)):
        with pytest.raises(NotRunning, match="LookupError") as caught:
            refused()
        assert caught.value.__cause__ is thread.failure


def test_a_dying_task_frees_those_who_wait() -> None:
    let_go = asyncio.Event()

    async def die_later() -> None:
        await let_go.wait()
        await die()

    async def hang(message: Any) -> None:
        let_go.set()
        await forever()

    thread = Doing(die_later)
    thread.start()
    with pytest.raises(NotRunning, match="LookupError") as caught:
        thread.run_coroutine(hang, 1, timeout=-1)
    assert isinstance(caught.value.__cause__, LookupError)
    end(thread)


def test_the_first_failure_is_kept_and_the_others_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def die_in_clean_up() -> None:
        try:
            await forever()
        finally:
            raise OSError("port lost")

    thread = Doing(die, die_in_clean_up)
    thread.start()
    thread.join(LONG)
    assert isinstance(thread.failure, LookupError)
    assert [type(error) for error, _ in thread.failed] == [LookupError, OSError]
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL] * 2


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_asyncio_lets_through_is_a_failure_too(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        await asyncio.sleep(0)
        raise kind("leave")

    thread = Doing(leave, forever)
    thread.start()
    thread.join(LONG)
    assert isinstance(thread.failure, kind)
    assert thread.failed == [(thread.failure, True)]
    assert thread._tasks[1].cancelled()
    assert len(caplog.records) == 1
    end(thread)


def test_system_exit_of_a_called_function_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    started = threading.Event()
    thread = Doing(functools.partial(forever, started))
    thread.start()
    waiter = in_thread(thread.run_coroutine, hang, 1, -1)
    until(lambda: bool(thread._requests))
    thread.call(sys.exit, "leave")
    with pytest.raises(NotRunning, match="SystemExit"):
        waiter.result(LONG)
    end(thread)
    assert [type(error) for error, _ in thread.failed] == [SystemExit]
    assert len(caplog.records) == 1


def test_system_exit_during_the_clean_up_does_not_keep_it_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    cleaned_up: list[None] = []

    async def leave() -> None:
        try:
            await forever()
        finally:
            sys.exit("leave")

    async def orderly() -> None:
        try:
            await forever()
        finally:
            cleaned_up.append(None)

    thread = Doing(leave, orderly)
    thread.start()
    end(thread)
    assert isinstance(thread.failure, SystemExit)
    assert thread.failed == [(thread.failure, True)]
    assert len(caplog.records) == 1
    assert len(cleaned_up) == 1


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_task_failed_that_fails_is_logged(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(Doing):
        def task_failed(self, error: BaseException) -> None:
            raise kind("oops")

    thread = Clumsy(die)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    assert isinstance(thread.failure, LookupError)
    assert warnings_of(caplog)[-1] == "task_failed() of rigsync-Clumsy has failed"


def test_tasks_that_end_leave_the_loop_running(caplog: pytest.LogCaptureFixture) -> None:
    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    thread = Doing(functools.partial(echo, 1), cancel_itself)
    thread.start()
    until(lambda: all(task.done() for task in thread._tasks))
    assert thread.run_coroutine(echo, 1) == 1
    assert thread.is_running
    end(thread)
    assert thread.failure is None
    assert thread.failed == []
    assert caplog.records == []


# ------------------------------------------------------------------------------------- the end of the interpreter


@pytest.mark.parametrize("ending", ["", "import atexit; atexit.register(lambda: (thread.stop(), thread.join()))"])
def test_the_program_can_end(ending: str) -> None:
    program = "\n".join(
        (
            "import asyncio",
            "from rigsync.runtime.loop_thread import LoopThread",
            "class Thread(LoopThread):",
            "    def create_all_tasks(self):",
            "        return [asyncio.create_task(asyncio.sleep(3600))]",
            "async def in_executor(function):",
            "    return await asyncio.get_running_loop().run_in_executor(None, function)",
            "thread = Thread()",
            "thread.start()",
            "assert thread.run_coroutine(in_executor, int) == 0",
            ending,
        )
    )
    ended = run_strictly(program, "-W", "error")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
