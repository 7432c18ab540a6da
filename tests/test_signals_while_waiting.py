"""A signal handler may push, wait and call, wherever it interrupts the main thread that waits for rigs."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import FrameType
from typing import Any

import pytest
from live_helpers import in_thread
from processes import LONG, ROOT

from rigsync.errors import NotRunning
from rigsync.runtime import conditions
from rigsync.runtime.conditions import Arrivals, Awaited, Latch
from rigsync.runtime.waiters import Waiters

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no signals on a timer on this system")

PROGRAM = """
import faulthandler, signal, sys, time
from rigsync import Auxiliaries, Rig

faulthandler.dump_traceback_later({watchdog}, exit=True)
rig = Rig("cameras", "udp://127.0.0.1:0")
rig.start()
aux = Auxiliaries({{"cameras": rig.uri}})
"""

FORCED = """
# Each go, a handler runs once: before a line of these files at which no go was interrupted yet, whatever is held.
import asyncio, threading

places, taken = set(), []
signal.signal(signal.SIGUSR1, lambda number, frame: handle())

def answered():
    outcome = aux.push("EXPSTATUS", wait=True, timeout=5)
    assert "cameras" in outcome, outcome

def at_each_line(files, go):
    def trace(frame, event, arg):
        place = frame.f_code.co_filename.replace(chr(92), "/"), frame.f_lineno
        if event == "line" and not taken and place[0].endswith(files) and place not in places:
            places.add(place)
            taken.append(place)
            signal.raise_signal(signal.SIGUSR1)
        return trace

    while True:
        taken.clear()
        with go() as act:
            sys.settrace(trace)
            try:
                act()
            finally:
                sys.settrace(None)
        if not taken:
            break
    assert len(places) >= {least}, places
    print(len(places), "places")
"""

WAITS = """
import contextlib

gate = threading.Event()
ask = {{
    "push": lambda: aux.push("EXPSTATUS", wait=True, timeout=5),
    "ping": lambda: aux.ping(timeout=5),
    "clear": lambda: aux.clear_message_queue(),
    "wait_for": lambda: aux.wait_for(timeout=5),
    "event": lambda: (aux.push("EXPSTATUS", timeout=5), aux.response_received.wait(5)),
    "condition": lambda: (
        aux.push("EXPSTATUS", timeout=5), aux.response_received.wait_for(lambda: aux.response_received.is_set(), 5)
    ),
}}["{way}"]

@contextlib.contextmanager
def go():
    # Nothing is answered before the handler runs, and all that is before the handler's own.
    gate.clear()
    aux.thread.call(gate.wait)
    without_handler = threading.Timer(0.5, gate.set)
    without_handler.start()
    yield ask
    without_handler.cancel()
    without_handler.join()

def handle():
    gate.set()
    answered()

at_each_line(("runtime/conditions.py", "runtime/waiters.py", "runtime/loop_thread.py", "threading.py", "_base.py"), go)
aux.close()
rig.close()
"""

STEPS = """
import contextlib

def nothing(*_):
    pass

def on_service_thread(act):
    # Once, before the handler's push is answered.
    def told(_):
        end()
        act()
    end = aux.on("PushCompleted", told)

@contextlib.contextmanager
def go():
    yield act

ours = aux
way = "{way}"
if way == "draw":
    files = "coordinator/results.py"
    act = lambda: aux.push("EXPSTATUS", timeout=5)
    def handle():
        on_service_thread(lambda: aux.push("EXPSTATUS", timeout=5))
        answered()
elif way == "callbacks":
    files = "coordinator/remote_rig.py"
    remote = aux.services["cameras"]
    async def ask():
        await remote.confirmed_send(["EXPSTATUS", 0])
        await remote.on_event("EXPSTATUS")
    def act():
        remote.assign_callback("EXPSTATUS", nothing)
        remote.clear_callbacks("EXPSTATUS")
        asyncio.run(asyncio.wait_for(ask(), 5))
    handle = answered
elif way == "experiment":
    files = "coordinator/failures.py"
    from rigsync.errors import ExperimentError
    number = 0
    def act():
        global number
        number += 1
        with contextlib.suppress(ExperimentError), aux.experiment("2026-01-01_%d_mouse" % number, on_failure=nothing):
            pass
    def handle():
        rig.notify("failure", {{"problem": "no light"}})
        answered()
elif way == "notices":
    files = "coordinator/reports.py"
    act = lambda: aux.on_notice("lamp", nothing)()
    def handle():
        on_service_thread(lambda: aux.on_notice("lamp", nothing)())
        answered()
elif way == "close":
    files = "coordinator/auxiliaries.py", "coordinator/service_thread.py", "runtime/workers.py", "threading.py"
    @contextlib.contextmanager
    def go():
        global aux
        aux = Auxiliaries()
        yield aux.close
        assert not aux.thread.is_alive()
    handle = lambda: aux.close()
elif way == "push":
    files = tuple("coordinator/%s.py" % name for name in ("auxiliaries", "lab", "service_thread", "service"))
    files += "runtime/waiters.py", "runtime/conditions.py"
    from rigsync.errors import Aborted, NotRunning, PushError
    aborted, go_on = [], threading.Event()
    rig.on("EXPINFO")(lambda *_: go_on.wait() and None)
    @contextlib.contextmanager
    def go():
        global aux
        aux = Auxiliaries({{"cameras": rig.uri}})
        go_on.clear()
        without_handler = threading.Timer(0.5, go_on.set)
        without_handler.start()
        yield act
        without_handler.cancel()
        without_handler.join()
        aux.close()
    def act():
        try:
            outcome = aux.push("EXPINFO", wait=True, timeout=5)
        except NotRunning:
            assert not aux.log  # closed before it was sent
            return
        key, = aux.log
        assert aux.log[key] is outcome
        if isinstance(outcome, PushError):
            assert isinstance(outcome.failed["cameras"], Aborted), outcome
            assert "this program closed before EXPINFO was " in str(outcome), outcome
            aborted.append(outcome)
    def handle():
        aux.close()
        go_on.set()
at_each_line(files, go)
if way == "push":
    assert len(aborted) > 10, aborted
ours.close()
rig.close()
"""

ANYTHING = """
import contextlib

def nothing(*_):
    pass

number = 0

def ref():
    global number
    number += 1
    return "2026-01-01_%d_mouse" % number

def experiment():
    with aux.experiment(ref(), on_failure=nothing):
        pass

waits = {{
    "push": lambda: aux.push("EXPSTATUS", wait=True, timeout=5),
    # Of one thread's news each is taken once, here perhaps by the handler.
    "event": lambda: (aux.push("EXPSTATUS", timeout=5), aux.response_received.wait(0.1)),
    "experiment": experiment,
}}

@contextlib.contextmanager
def go():
    yield waits["{way}"]

ours = aux

def handle():
    if "{way}" == "push":
        experiment()
        aux.begin(ref())
        aux.interrupt()
        return
    key = aux.push("EXPSTATUS", timeout=5)
    while key not in aux.log:
        aux.response_received.wait(5)
    assert "cameras" in aux.log[key] and len(aux.log) and list(aux.log.items()), aux.log
    assert aux.view("cameras") and aux.views and repr(aux) and aux.all_alive
    aux.on("LinkLost", nothing)()
    aux.on_notice("lamp", nothing)()
    aux.hub.subscribe("Notice", nothing)()
    assert aux.ping(timeout=5)

names = ("auxiliaries", "lab", "service_thread", "coordinator", "course", "experiment", "view")
files = *("coordinator/%s.py" % name for name in names), "runtime/conditions.py"
at_each_line(files, go)
ours.close()
rig.close()
"""

UNFORCED = """
count = 0
def interrupted(number, frame):
    global count
    signal.setitimer(signal.ITIMER_REAL, 0)
    outcome = aux.push("EXPSTATUS", wait=True, timeout=30)
    if "cameras" not in outcome:
        print("not answered", outcome, file=sys.stderr)
        sys.exit(3)
    count += 1
    signal.setitimer(signal.ITIMER_REAL, 0.003)

signal.signal(signal.SIGALRM, interrupted)
signal.setitimer(signal.ITIMER_REAL, 0.003)
while count < 500:
    outcome = aux.push("EXPSTATUS", wait=True, timeout=30)
    assert "cameras" in outcome, outcome
signal.setitimer(signal.ITIMER_REAL, 0)
aux.close()
rig.close()
"""


@pytest.mark.parametrize("way", ["push", "ping", "clear", "wait_for", "event", "condition"])
def test_a_handler_that_interrupts_a_wait_anywhere_is_answered(way: str) -> None:
    run_forced(WAITS, way, least=10)


@pytest.mark.parametrize(
    ("way", "least"), [("draw", 6), ("callbacks", 20), ("experiment", 6), ("notices", 8), ("close", 10), ("push", 60)]
)
def test_a_handler_that_interrupts_a_step_of_what_threads_share_is_answered(way: str, least: int) -> None:
    """The service thread takes the same step before it answers, and must not wait for the one that is interrupted."""
    run_forced(STEPS, way, least)


@pytest.mark.parametrize(("way", "least"), [("push", 40), ("event", 40), ("experiment", 100)])
def test_a_handler_may_do_what_any_other_code_may(way: str, least: int) -> None:
    run_forced(ANYTHING, way, least)


def run_forced(program: str, way: str, least: int) -> None:
    subprocess.run(
        [sys.executable, "-c", (PROGRAM + FORCED + program).format(watchdog=4 * LONG, way=way, least=least)],
        cwd=ROOT,
        check=True,
        timeout=5 * LONG,
    )


def test_handlers_on_a_timer_are_answered() -> None:
    subprocess.run(
        [sys.executable, "-c", PROGRAM.format(watchdog=4 * LONG) + UNFORCED], cwd=ROOT, check=True, timeout=5 * LONG
    )


@pytest.mark.parametrize("kind", [Awaited, Latch, Arrivals])
def test_who_brings_never_waits_for_one_who_waits(kind: type[Awaited | Latch | Arrivals]) -> None:
    """Whatever line the one who waits stands still at."""
    places: set[int] = set()
    while brought_at_a_new_place(kind, places):
        pass
    assert len(places) > 2


def brought_at_a_new_place(kind: type[Any], places: set[int]) -> bool:
    """Have a thread wait, and stand still at a line of the wait that is not among `places`, while another brings."""
    waited_for = kind()
    bring = getattr(waited_for, {Awaited: "bring", Latch: "set", Arrivals: "announce"}[kind])
    stopped: list[int] = []

    def stop(frame: FrameType, event: str, _: Any) -> Any:
        is_new = frame.f_lineno not in places and frame.f_code.co_filename == conditions.__file__
        if event == "line" and not stopped and is_new:
            places.add(frame.f_lineno)
            stopped.append(frame.f_lineno)
            in_thread(bring, *([1] if kind is Awaited else [])).result(LONG)
        return stop

    def wait() -> None:
        sys.settrace(stop)
        try:
            waited_for.wait(0.05)
        finally:
            sys.settrace(None)

    in_thread(wait).result(LONG)
    return bool(stopped)


def test_what_comes_while_the_service_thread_is_asked_whether_it_reacts_counts() -> None:
    """A signal handler may close just then: the thread is gone, and has told what became of the push."""

    class Ended:
        def call(self, *_: Any) -> None:
            future.bring("aborted")
            raise NotRunning

    waiters: Any = Waiters(Ended(), NotRunning, None)  # type: ignore[arg-type]
    with waiters.future() as future:
        assert waiters.wait(future, 0.0) == "aborted"
