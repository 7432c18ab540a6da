"""An `Auxiliaries` that nobody refers to any more ends as one that was closed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import LONG, ROOT, calm, collected, until

from rigsync import Auxiliaries, ExpStatus, Rig
from rigsync.core.events import PushCompleted
from rigsync.runtime.signals import ending_signals

REFERENCE = "2026-03-01_2_mouse"


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig("cameras", "udp://127.0.0.1:0") as rig:
        yield rig


def gone(aux: weakref.ref[Auxiliaries], thread: threading.Thread) -> None:
    collected(aux)
    until(lambda: not thread.is_alive())


def test_its_thread_and_sockets_are_gone_at_once(rig: Rig) -> None:
    """Without a garbage collection."""
    before = len(psutil.Process().net_connections("all"))
    gc.disable()
    try:
        aux = Auxiliaries({"cameras": rig.uri})
        aux.request("EXPSTATUS", timeout=LONG)
        assert len(psutil.Process().net_connections("all")) > before
        thread, weak = aux.thread, weakref.ref(aux)
        del aux
        until(lambda: weak() is None)  # its own thread may be using it just now
        until(lambda: not thread.is_alive())
    finally:
        gc.enable()
    assert len(psutil.Process().net_connections("all")) <= before


def test_what_it_has_started_is_interrupted(rig: Rig) -> None:
    reasons: list[Any] = []
    rig.on("EXPINTERRUPT")(reasons.append)
    aux = Auxiliaries({"cameras": rig.uri})
    aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    thread, weak = aux.thread, weakref.ref(aux)
    del aux
    gone(weak, thread)
    assert rig.status is ExpStatus.STOPPED
    assert "closed without EXPEND" in reasons[0]["message"]


@pytest.mark.parametrize("way", ["begun", "entered by hand", "kept"])
def test_an_experiment_that_goes_on_is_interrupted(rig: Rig, way: str) -> None:
    """It tells of failures, and refers to the object, and all that does not keep it."""
    aux = Auxiliaries({"cameras": rig.uri})
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, *ending_signals())]
    session = aux.begin(REFERENCE) if way == "begun" else aux.experiment(REFERENCE, on_failure=print)
    if way != "begun":
        session.__enter__()
    thread, weak = aux.thread, weakref.ref(aux)
    try:
        del aux
        if way == "kept":  # who has the experiment can end it, and needs the object for that
            gc.collect()
            session.end()
            assert weak() is not None
        del session
        gone(weak, thread)
        assert rig.status is (ExpStatus.CONNECTED if way == "kept" else ExpStatus.STOPPED)
    finally:
        for number, handler in before:  # which is not given back where nobody has ended it
            signal.signal(number, handler)


def test_an_experiment_that_nobody_keeps_tells_of_failures_all_the_same(rig: Rig) -> None:
    told: list[str] = []
    with Auxiliaries({"cameras": rig.uri}) as aux:
        aux.experiment(REFERENCE, on_failure=lambda failure: told.append(failure.rig)).begin()
        gc.collect()
        rig.interrupt("the lamp is broken")
        until(lambda: told)
        (session,) = aux._unfinished
        session.interrupt()
        assert not aux._unfinished


def test_what_is_left_running_on_purpose_goes_on(rig: Rig) -> None:
    aux = Auxiliaries({"cameras": rig.uri}, leave_running=True)
    aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    thread, weak = aux.thread, weakref.ref(aux)
    del aux
    gone(weak, thread)
    assert rig.status is ExpStatus.RUNNING


def test_what_is_outstanding_is_answered_before(rig: Rig) -> None:
    entered, go, ended = threading.Event(), threading.Event(), threading.Event()

    @rig.on("EXPINFO")
    def inform() -> None:
        entered.set()
        assert go.wait(LONG)
        ended.set()

    aux = Auxiliaries({"cameras": rig.uri})
    aux.push("EXPINFO")
    assert entered.wait(LONG)
    thread, weak = aux.thread, weakref.ref(aux)
    del aux
    gc.collect()
    assert weak() is not None
    go.set()
    assert ended.wait(LONG)
    until(lambda: not thread.is_alive())
    collected(weak)


def test_one_that_is_collected_on_its_own_thread_ends(rig: Rig) -> None:
    """Where the last that refers to it is a subscriber that goes."""
    box: dict[str, Any] = {"aux": Auxiliaries({"cameras": rig.uri})}
    thread, weak, on = box["aux"].thread, weakref.ref(box["aux"]), []

    def let_go(_: PushCompleted) -> None:
        on.append(threading.current_thread())
        box.clear()
        gc.collect()

    box["aux"].on("PushCompleted", let_go)
    box["aux"].push("EXPSTATUS")
    until(lambda: on)
    assert on == [thread]
    until(lambda: not thread.is_alive())
    collected(weak)


def test_collected_in_a_cycle_on_any_thread(rig: Rig) -> None:
    class Task:
        def __init__(self) -> None:
            self.aux, self.me = Auxiliaries({"cameras": rig.uri}), self

    task = Task()
    thread, weak = task.aux.thread, weakref.ref(task.aux)
    del task
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join(LONG)
    gone(weak, thread)


def test_one_that_is_referred_to_lives_without_being_used(rig: Rig) -> None:
    aux = Auxiliaries({"cameras": rig.uri})
    gc.collect()
    assert aux.request("EXPSTATUS", timeout=LONG)
    aux.close()


class Own(Auxiliaries):
    """As a subclass does that wraps what runs on the thread."""

    async def create(self) -> None:
        await super().create()
        self.created = True

    async def listen(self) -> None:
        await super().listen()
        self.ended = True


def test_a_subclass_with_methods_of_its_own_works_as_before(rig: Rig) -> None:
    aux = Own({"cameras": rig.uri})
    assert aux.created
    gc.collect()
    assert aux.request("EXPSTATUS", timeout=LONG)
    aux.close()
    assert aux.ended


PROGRAM = """
import sys
from rigsync import Auxiliaries

def main():
    aux = Auxiliaries({"cameras": sys.argv[1]})
    aux.request("EXPINIT", {"exp_ref": "2026-03-01_2_mouse"})
    aux.request("EXPSTART", "2026-03-01_2_mouse")

main()
"""


def test_a_program_that_ends_right_after_waits_for_the_interrupt(rig: Rig, tmp_path: Path) -> None:
    for _ in range(3):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, rig.uri],
            cwd=ROOT,
            timeout=LONG,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, calm(ended.stderr)) == (0, "")
        assert rig.status is ExpStatus.STOPPED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_that_lets_go_of_it_ends_nothing(rig: Rig) -> None:
    program = """
    import os, sys, gc
    from rigsync import Auxiliaries
    aux = Auxiliaries({"cameras": sys.argv[1]})
    aux.request("EXPINIT", {"exp_ref": "2026-03-01_2_mouse"})
    aux.request("EXPSTART", "2026-03-01_2_mouse")
    pid = os.fork()
    if not pid:
        del aux
        gc.collect()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert aux.request("EXPSTATUS")["cameras"][0] == 20
    aux.request("EXPEND")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), rig.uri], cwd=ROOT, timeout=LONG, check=True)
