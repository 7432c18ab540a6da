from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import LONG, until

from rigsync.errors import NotRunning
from rigsync.runtime.workers import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers("camera")
    yield workers
    assert workers.close(LONG) == []


class Outcome:
    """A `done` that keeps what it is told."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self.calls: list[tuple[Any, BaseException | None]] = []
        self.thread = threading.current_thread()

    def __call__(self, result: Any, error: BaseException | None) -> None:
        self.calls.append((result, error))
        self.thread = threading.current_thread()
        self._told.set()

    def wait(self) -> tuple[Any, BaseException | None]:
        assert self._told.wait(LONG)
        return self.calls[0]


class Stuck:
    """A handler that hangs until it is let go."""

    def __init__(self, workers: Workers) -> None:
        self.outcome = Outcome()
        self._running, self._let_go = threading.Event(), threading.Event()
        workers.submit(self._hang, self.outcome)
        assert self._running.wait(LONG)

    def _hang(self) -> str:
        self._running.set()
        assert self._let_go.wait(LONG)
        return threading.current_thread().name

    def let_go(self) -> str:
        self._let_go.set()
        name, error = self.outcome.wait()
        assert error is None
        return str(name)


def do(workers: Workers, function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Run a function; return when its worker is idle again, or has ended."""
    outcome = Outcome()
    workers.submit(function, outcome)
    result = outcome.wait()
    until(lambda: not outcome.thread.busy)  # type: ignore[attr-defined]
    assert outcome.calls == [result]
    return result


def test_result_and_the_thread_it_comes_from(workers: Workers) -> None:
    outcome = Outcome()
    workers.submit(threading.current_thread, outcome)
    thread, error = outcome.wait()
    assert error is None
    assert thread is outcome.thread
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread.name == "rigsync-camera-handler-1"


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, SystemExit, KeyboardInterrupt])
def test_error_of_a_handler_and_the_worker_goes_on(workers: Workers, kind: type[BaseException]) -> None:
    error = kind("oops")

    def fail() -> None:
        raise error

    assert do(workers, fail) == (None, error)
    assert do(workers, lambda: threading.current_thread().name) == ("rigsync-camera-handler-1", None)


def test_idle_worker_is_reused(workers: Workers) -> None:
    assert {do(workers, threading.get_ident) for _ in range(50)} == {do(workers, threading.get_ident)}


def test_a_stuck_handler_holds_up_no_other(workers: Workers) -> None:
    stuck = [Stuck(workers) for _ in range(10)]
    name, _ = do(workers, lambda: threading.current_thread().name)
    assert name == "rigsync-camera-handler-11"
    assert {one.let_go() for one in stuck} == {f"rigsync-camera-handler-{number}" for number in range(1, 11)}


def test_worker_is_not_idle_before_done_has_returned(workers: Workers) -> None:
    reporting, let_go = threading.Event(), threading.Event()

    def done(result: Any, error: BaseException | None) -> None:
        reporting.set()
        assert let_go.wait(LONG)

    workers.submit(lambda: None, done)
    assert reporting.wait(LONG)
    assert do(workers, lambda: threading.current_thread().name) == ("rigsync-camera-handler-2", None)
    let_go.set()


def test_surplus_idle_workers_end(workers: Workers) -> None:
    stuck = [Stuck(workers) for _ in range(7)]
    for one in stuck:
        one.let_go()
    until(lambda: sum(one.outcome.thread.is_alive() for one in stuck) == 4)
    until(lambda: len(workers._idle) == 4)
    again = [Stuck(workers) for _ in range(5)]
    names = [one.let_go() for one in again]
    assert names[-1] == "rigsync-camera-handler-8"
    assert len(workers._workers) == 5  # the ended ones are forgotten


def test_idle_worker_keeps_nothing_alive(workers: Workers) -> None:
    class Rig:
        def handle(self) -> Rig:
            return self

    rig = Rig()
    gone = weakref.ref(rig)
    outcome = Outcome()
    workers.submit(rig.handle, outcome)
    outcome.wait()
    outcome.calls.clear()
    del rig
    until(lambda: gone() is None)


def test_done_on_a_closed_loop_is_logged_at_debug(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.SelectorEventLoop()
    loop.close()
    caplog.set_level(logging.DEBUG)
    with pytest.raises(RuntimeError):
        loop.call_soon_threadsafe(print)
    workers.submit(lambda: None, lambda result, error: loop.call_soon_threadsafe(print, result, error))
    until(lambda: len(workers._idle) == 1)
    (record,) = (record for record in caplog.records if record.name == "rigsync.workers")
    assert record.levelno == logging.DEBUG
    assert do(workers, lambda: threading.current_thread().name) == ("rigsync-camera-handler-1", None)


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_done_that_fails_otherwise_is_logged(
    workers: Workers, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    def done(result: Any, error: BaseException | None) -> None:
        raise kind("oops")

    workers.submit(lambda: None, done)
    until(lambda: len(workers._idle) == 1)
    (record,) = (record for record in caplog.records if record.name == "rigsync.workers")
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert do(workers, lambda: threading.current_thread().name) == ("rigsync-camera-handler-1", None)


def test_close_ends_idle_workers_and_refuses_work() -> None:
    workers = Workers("camera")
    outcome = Outcome()
    workers.submit(lambda: None, outcome)
    outcome.wait()
    assert workers.close(LONG) == []
    assert not outcome.thread.is_alive()
    with pytest.raises(NotRunning, match="camera"):
        workers.submit(lambda: None, outcome)
    assert workers.close(LONG) == []


def test_close_does_not_name_idle_workers() -> None:
    for _ in range(20):
        workers = Workers("camera")
        do(workers, int)
        assert workers.close(0) == []


def test_close_without_any_worker() -> None:
    assert Workers("camera").close(0) == []


def test_close_names_the_busy_after_the_time_in_total() -> None:
    workers = Workers("camera")
    stuck = [Stuck(workers) for _ in range(9)]
    start = time.monotonic()
    names = workers.close(0.5)
    took = time.monotonic() - start
    assert sorted(names) == [f"rigsync-camera-handler-{number}" for number in range(1, 10)]
    assert 0.49 <= took < 4  # each in turn would take 4.5
    assert sorted(workers.close(0)) == sorted(names)
    for one in stuck:
        one.let_go()
    assert workers.close(LONG) == []


def test_close_waits_for_the_busy() -> None:
    workers = Workers("camera")
    stuck = Stuck(workers)
    timer = threading.Timer(0.05, stuck.let_go)
    timer.start()
    assert workers.close(LONG) == []
    assert not stuck.outcome.thread.is_alive()
    assert stuck.outcome.wait() == ("rigsync-camera-handler-1", None)


def test_close_from_a_handler() -> None:
    workers = Workers("camera")
    outcome = Outcome()
    workers.submit(lambda: workers.close(LONG), outcome)
    assert outcome.wait() == (["rigsync-camera-handler-1"], None)
    assert workers.close(LONG) == []


def test_submits_from_many_threads(workers: Workers) -> None:
    lock, done = threading.Lock(), threading.Event()
    results: list[int] = []
    barrier = threading.Barrier(8)

    def keep(result: Any, error: BaseException | None) -> None:
        with lock:
            results.append(result)
            if len(results) == 800:
                done.set()

    def submit(start: int) -> None:
        barrier.wait(LONG)
        for number in range(start, start + 100):
            workers.submit(lambda number=number: number, keep)  # type: ignore[misc]

    threads = [threading.Thread(target=submit, args=(100 * part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    assert done.wait(LONG)
    assert sorted(results) == list(range(800))
    for thread in threads:
        thread.join(LONG)


def test_thread_that_cannot_be_had_is_an_error_of_submit(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            workers.submit(lambda: None, Outcome())
    assert workers._workers == []
    assert do(workers, lambda: 1) == (1, None)


def test_stuck_handler_does_not_keep_the_program_from_ending() -> None:
    program = (
        "import threading; from rigsync.runtime.workers import Workers; running = threading.Event()\n"
        "def hang(): running.set(); threading.Event().wait()\n"
        "Workers('camera').submit(hang, print); assert running.wait(20)"
    )
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_outcomes_arrive_on_an_event_loop(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        assert await workers.begin(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await workers.begin(divmod, 7, 0)
        workers.begin(divmod, 7, 0)  # whose failure nobody wants to know
        # On this one worker; each of those before may have had a worker of its own.
        await workers.begin(until, lambda: sum(worker.busy for worker in workers._workers) == 1)
        await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name in ("asyncio", "rigsync.workers")] == []


def test_an_outcome_that_is_not_wanted_any_more_may_come_late(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        problems: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: problems.append(context))
        for outcome in (None, OSError("gone")):
            late = workers.begin(lambda outcome=outcome: fail(outcome) if go.wait(LONG) and outcome else None)
            late.cancel()
        go.set()
        # One worker after the other has told what came of it before this one can.
        await workers.begin(until, lambda: sum(worker.busy for worker in workers._workers) == 1)
        await asyncio.sleep(0)
        assert problems == []

    def fail(error: OSError) -> None:
        raise error

    asyncio.run(main())
    assert caplog.messages == []
