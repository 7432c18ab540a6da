"""Checks that every test leaves nothing running or open behind it, and fixtures that several test files share."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

# By default an example that takes 0.2 s, or some that take a second to draw, fail their test: a busy computer's may.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

os.environ["RIGSYNC_JOURNAL"] = "off"
"""No test writes into the journal of whoever runs the tests; those of the journal name a file of their own."""

PATIENCE = 2.0
"""Seconds that what is ending may take to end."""

_PROCESS = psutil.Process()
_DESCRIPTORS = "/proc/self/fd"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest by far: at the end their process would run alone."""
    items.sort(key=lambda item: item.path.name not in ("test_long_session.py", "test_awaiting_rigs.py"))


def pytest_collection() -> None:
    """Search for no garbage while tests are collected: what they are made of stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Take what the tests are made of out of the collection of garbage, which went through half a million objects."""
    gc.enable()
    gc.collect()
    gc.freeze()


# ----------------------------------------------------------------------------------------------------------- leaks


class _Destroyed(logging.Handler):
    """Keeps what asyncio says of tasks that were thrown away while they waited."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "was destroyed but it is pending" in record.getMessage():
            self.messages.append(record.getMessage())


def _pending_tasks() -> set[asyncio.Task[Any]]:
    # Of all loops, running or not: asyncio offers only those of one loop. The first name is that of Python up to 3.11.
    tasks = [*getattr(asyncio.tasks, "_all_tasks", ()), *getattr(asyncio.tasks, "_scheduled_tasks", ())]
    # LoopThread abandons a task that ignores its cancellation, and says so: that one is not left behind unnoticed.
    return {task for task in tasks if not task.done() and getattr(task, "_log_destroy_pending", True)}


def _open_sockets() -> set[tuple[Any, ...]]:
    if not sys.platform.startswith("linux"):
        return {(found.fd, found.type, found.laddr) for found in _PROCESS.net_connections("all")}
    # psutil reads all sockets of the computer, which took a quarter of the time of all tests.
    found = set()
    for number in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):  # closed since, such as that of this listing
            what = os.readlink(f"{_DESCRIPTORS}/{number}")
            if what.startswith("socket:"):
                found.add((number, what))
    return found


def _children() -> set[psutil.Process]:
    if hasattr(os, "waitid"):  # psutil looks at every process of the computer, which takes longer than most tests
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return set()
    return set(_PROCESS.children(recursive=True))


_KINDS: dict[str, Callable[[], set[Any]]] = {
    "thread": lambda: set(threading.enumerate()),
    "socket": _open_sockets,
    "asyncio task": _pending_tasks,
    "child process": _children,
}


def _newcomers(before: Mapping[str, set[Any]]) -> list[str]:
    found = [f"{kind} left behind: {item!r}" for kind, find in _KINDS.items() for item in find() - before[kind]]
    if any(text.startswith("socket") for text in found):
        found += [f"address of a socket: {socket!r}" for socket in _PROCESS.net_connections("all")]
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail for every thread, socket, asyncio task or child process that is there after a test and was not before.

    A socket that nobody refers to any more is closed by the collection of garbage here; pytest turns the
    ResourceWarning of that into the test's error, since pyproject.toml has warnings as errors.
    """
    before = {kind: find() for kind, find in _KINDS.items()}
    destroyed = _Destroyed()
    logging.getLogger("asyncio").addHandler(destroyed)
    try:
        yield
        deadline = time.monotonic() + PATIENCE
        while (left := _newcomers(before)) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
    finally:
        logging.getLogger("asyncio").removeHandler(destroyed)
    assert not left, "\n".join(left)
    assert not destroyed.messages, "\n".join(destroyed.messages)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """Escape lone surrogates in what a test has logged, which one process cannot send to another as UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


# ------------------------------------------------------------------------------------------------- rigs and clients


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What is entered here is left after the test, the last first."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def gate() -> Iterator[Any]:
    """A `Gate`, for handlers to wait at; it is opened after the test."""
    from live_helpers import Gate

    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Start rigs at free ports: ``serve('cameras', {'EXPSTART': function}, main_sync=True)``; all are closed after."""
    from rigsync.rig.rig import Rig

    with contextlib.ExitStack() as stack:

        def start(
            name: str,
            handlers: Mapping[str, Callable[..., Any]] | None = None,
            *,
            port: int = 0,
            scheme: str = "udp",
            **options: Any,
        ) -> Rig:
            rig = Rig(name, f"{scheme}://127.0.0.1:{port}", **options)
            for message, handler in (handlers or {}).items():
                rig.on(message)(handler)
            rig.start()
            stack.callback(rig.close)
            return rig

        yield start


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Connect to rigs, ``connect(rig, other)`` or ``connect({'cameras': uri})``; all connections are closed after."""
    from rigsync.config.rigs import rigs_from
    from rigsync.coordinator.auxiliaries import Auxiliaries
    from rigsync.core.timing import Timing

    with contextlib.ExitStack() as stack:

        def start(*rigs: Any, timing: Timing | None = None, kind: type = Auxiliaries, **options: Any) -> Auxiliaries:
            clients: dict[str, Any] = {}
            for rig in rigs:
                clients.update(rig if isinstance(rig, Mapping) else {rig.name: rig.uri})
            auxiliaries = kind(rigs_from(clients, timing), **options)
            stack.callback(auxiliaries.close)
            return auxiliaries

        yield start
