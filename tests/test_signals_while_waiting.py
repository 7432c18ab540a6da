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

from rigsync.runtime import conditions
from rigsync.runtime.conditions import Arrivals, Awaited, Latch

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
# The handler runs in the middle of each wait: before each line of it, wherever that stands and whatever is held there.
import threading
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
places, inside, reached = {{}}, [], 0

def interrupted(number, frame):
    inside.append(frame)
    began = time.monotonic()
    outcome = aux.push("EXPSTATUS", wait=True, timeout=2)
    if "cameras" not in outcome:
        print("not answered", outcome, file=sys.stderr)
        sys.exit(3)
    inside.pop()

signal.signal(signal.SIGUSR1, interrupted)
WAITS = ("rigsync/conditions.py", "rigsync/waiters.py", "rigsync/loop_thread.py", "threading.py", "_base.py")

def trace(frame, event, arg):
    if inside or not frame.f_code.co_filename.replace(chr(92), "/").endswith(WAITS):
        return None if inside else trace
    place = frame.f_code.co_filename, frame.f_lineno
    if event == "line" and places.setdefault(place, 0) < 2:
        places[place] += 1
        signal.raise_signal(signal.SIGUSR1)
    return trace

for _ in range(3):
    sys.settrace(trace)
    try:
        ask()
    finally:
        sys.settrace(None)
assert len(places) > 5, places
print(len(places), "places")
aux.close()
rig.close()
"""

UNFORCED = """
count = 0
def interrupted(number, frame):
    global count
    signal.setitimer(signal.ITIMER_REAL, 0)
    outcome = aux.push("EXPSTATUS", wait=True, timeout=5)
    if "cameras" not in outcome:
        print("not answered", outcome, file=sys.stderr)
        sys.exit(3)
    count += 1
    signal.setitimer(signal.ITIMER_REAL, 0.003)

signal.signal(signal.SIGALRM, interrupted)
signal.setitimer(signal.ITIMER_REAL, 0.003)
for number in range(4000):
    outcome = aux.push("EXPSTATUS", wait=True, timeout=5)
    assert "cameras" in outcome, outcome
signal.setitimer(signal.ITIMER_REAL, 0)
assert count > 50, count
aux.close()
rig.close()
"""


@pytest.mark.parametrize("way", ["push", "ping", "clear", "wait_for", "event", "condition"])
def test_a_handler_that_interrupts_a_wait_anywhere_is_answered(way: str) -> None:
    subprocess.run(
        [sys.executable, "-c", (PROGRAM + FORCED).format(watchdog=2 * LONG, way=way)],
        cwd=ROOT,
        check=True,
        timeout=3 * LONG,
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
