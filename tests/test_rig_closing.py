"""A rig whose program ends in the middle of an experiment stops what it has begun, and tells why."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_helpers import Gate, in_thread
from platforms import posix
from processes import LONG, ROOT, RigProgram, calm, until

from rigsync import Auxiliaries, ExpStatus, PushError, Rig
from rigsync.core.events import LinkChanged, LinkState, Notice
from rigsync.rig import rig as rig_module
from rigsync.runtime.workers import Workers, _Worker

REFERENCE = "2026-03-01_2_mouse"
CLOSING = "the rig's program is being closed"
SLACK = 1.5
"""Seconds that a busy computer adds."""


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    yield rig
    rig.close()


class Told:
    """What a coordinator hears, in order."""

    def __init__(self, aux: Auxiliaries):
        self.all: list[str] = []
        aux.on("notice", self.note)
        aux.on("LinkChanged", self.note_link)

    def note(self, notice: Notice) -> None:
        if notice.topic == "failure":
            self.all.append(f"failure: {notice.body['problem']}")
        if notice.topic == "status" and notice.body["reason"]:
            self.all.append(f"{notice.body['status']}: {notice.body['reason']}")

    def note_link(self, change: LinkChanged) -> None:
        if change.after is LinkState.LOST:
            self.all.append(change.reason)


GIVEN_UP = (
    f"EXPINTERRUPT was given up, and cameras may go on recording {REFERENCE}: the handlers had not ended when the "
    "rig's program closed; look at it"
)
TOLD = [f"STOPPED: {CLOSING}", "it said goodbye: the rig is closing"]


def record(rig: Rig, kind: str) -> list[Any]:
    """Give a rig a handler of EXPINTERRUPT that takes a moment; return with what it has been called."""
    reasons: list[Any] = []

    def plain(data: Any = None) -> None:
        time.sleep(0.1)
        rig.notify("mine", "told by the handler")
        reasons.append(data)

    async def coroutine(data: Any = None) -> None:
        await asyncio.sleep(0.1)
        reasons.append(data)

    rig.on("EXPINTERRUPT")(plain if kind == "plain" else coroutine)
    return reasons


def begin(aux: Auxiliaries, status: ExpStatus) -> None:
    aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
    if status is ExpStatus.RUNNING:
        aux.request("EXPSTART", REFERENCE, timeout=LONG)


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize("status", [ExpStatus.INITIALIZED, ExpStatus.RUNNING])
def test_close_interrupts_what_is_under_way_and_tells_why(rig: Rig, kind: str, status: ExpStatus) -> None:
    reasons = record(rig, kind)
    rig.start()
    with Auxiliaries({"cameras": rig.uri}) as aux:
        told = Told(aux)
        begin(aux, status)
        rig.close()
        assert reasons == [{"reason": CLOSING}]
        assert until(lambda: len(told.all) > 1 and told.all) == TOLD


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_leaving_async_with_interrupts_what_is_under_way(kind: str) -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    reasons, heard = record(rig, kind), []

    def command() -> tuple[Auxiliaries, Told]:
        aux = Auxiliaries({"cameras": rig.uri})
        told = Told(aux)
        begin(aux, ExpStatus.RUNNING)
        return aux, told

    async def serve() -> None:
        async with rig:
            heard.append(await asyncio.to_thread(command))

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(serve())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    ((aux, told),) = heard
    with aux:
        assert reasons == [{"reason": CLOSING}]
        assert until(lambda: len(told.all) > 1 and told.all) == TOLD


@pytest.mark.parametrize("before", ["nothing", "EXPEND"])
def test_close_interrupts_nothing_where_nothing_is_under_way(rig: Rig, before: str) -> None:
    reasons = record(rig, "plain")
    rig.start()
    with Auxiliaries({"cameras": rig.uri}) as aux:
        if before == "EXPEND":
            begin(aux, ExpStatus.RUNNING)
            aux.request("EXPEND", timeout=LONG)
        rig.close()
    assert reasons == []


def test_an_end_that_is_under_way_is_waited_for(rig: Rig, gate: Gate) -> None:
    interrupted = record(rig, "plain")
    rig.on("EXPEND")(gate)
    rig.start()
    with Auxiliaries({"cameras": rig.uri}) as aux:
        begin(aux, ExpStatus.RUNNING)
        ended = in_thread(aux.request, "EXPEND", timeout=LONG)
        assert gate.reached.wait(LONG)
        closing = in_thread(rig.close)
        until(lambda: rig._session is None or rig._session._closes_by < float("inf"))
        gate.open.set()
        assert ended.result(LONG)["cameras"][0]["status"] == ExpStatus.STOPPED
        closing.result(LONG)
    assert gate.left.is_set()
    assert interrupted == []


@pytest.mark.parametrize("kind", ["plain", "coroutine", "loop"])
def test_a_handler_that_does_not_stop_is_given_up_and_told_of(
    rig: Rig, gate: Gate, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rig_module, "INTERRUPT_GRACE", 0.5)

    async def sulk() -> None:
        while not gate.open.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    async def block() -> None:
        gate()

    rig.on("EXPINTERRUPT")({"plain": gate, "coroutine": sulk, "loop": block}[kind])
    rig.start()
    loop_thread = rig._thread
    with Auxiliaries({"cameras": rig.uri}) as aux:
        told = Told(aux)
        begin(aux, ExpStatus.RUNNING)
        started = time.monotonic()
        rig.close()
        assert time.monotonic() - started < 0.5 + 2 + 1 + SLACK
        if kind != "loop":  # which can tell nothing
            assert until(lambda: len(told.all) > 1 and told.all) == [f"failure: {GIVEN_UP}", TOLD[1]]
    assert not rig.is_running
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert any(text.startswith("cameras: ") and "may go on recording" in text for text in errors)
    gate.open.set()
    assert loop_thread
    loop_thread.join(LONG)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("rigsync-cameras")])


def test_nothing_begins_once_the_closing_has_begun(rig: Rig, gate: Gate) -> None:
    rig.on("EXPINTERRUPT")(gate)
    begun: list[str] = []
    rig.on("EXPINIT")(lambda data=None: begun.append("EXPINIT"))
    rig.start()
    with Auxiliaries({"cameras": rig.uri}) as aux:
        begin(aux, ExpStatus.RUNNING)
        begun.clear()
        closing = in_thread(rig.close)
        assert gate.reached.wait(LONG)
        outcome = in_thread(aux.push, "EXPINIT", {"exp_ref": "2026-03-01_3_mouse"}, wait=True, timeout=LONG)
        until(lambda: rig._session and rig._session.responder.agenda._waiting)
        gate.open.set()
        refused = outcome.result(LONG)
        assert isinstance(refused, PushError)
        assert CLOSING in str(refused)
        closing.result(LONG)
    assert begun == []


@pytest.mark.parametrize("message", ["EXPEND", "EXPINTERRUPT"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_handler_that_ends_an_experiment_may_close_its_rig(rig: Rig, message: str, mixed: bool) -> None:
    took: list[float] = []

    def close(data: Any = None) -> None:
        started = time.monotonic()
        rig.close()
        took.append(time.monotonic() - started)

    async def nothing() -> None:
        pass

    rig.on(message)(close)
    if mixed:
        rig.on(message)(nothing)
    rig.start()
    with Auxiliaries({"cameras": rig.uri}) as aux:
        begin(aux, ExpStatus.RUNNING)
        aux.push(message)
        until(lambda: took)
    assert took[0] < 2 + SLACK  # and not the time that an end has, which would be its own
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("rigsync-cameras")])


def test_interrupt_runs_where_the_system_gives_no_more_threads(
    rig: Rig, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = record(rig, "plain")
    rig.on("EXPSTART")(gate)
    rig.start()
    with Auxiliaries({"cameras": rig.uri}) as aux:
        aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
        aux.push("EXPSTART", REFERENCE)
        assert gate.reached.wait(LONG)

        def none_left(_: _Worker) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(_Worker, "start", none_left)
        closing = in_thread(rig.close)
        until(lambda: reasons)
        gate.open.set()
        closing.result(LONG)
    assert reasons == [{"reason": CLOSING}]


def test_the_spare_worker_is_the_last_to_be_taken() -> None:
    workers, gate, done = Workers("cameras"), Gate(), []
    workers.keep_spare()
    workers.keep_spare()
    workers.submit(gate, lambda *_: None)
    assert gate.reached.wait(LONG)
    names = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("rigsync-cameras"))
    assert names == ["rigsync-cameras-handler-1", "rigsync-cameras-spare"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Worker, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        workers.submit(lambda: threading.current_thread().name, lambda result, _: done.append(result))
        until(lambda: done)
    assert done == ["rigsync-cameras-spare"]
    gate.open.set()
    assert workers.close(LONG) == []


# --------------------------------------------------------------------------------------------------- its own process


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_interrupts_what_is_under_way_and_the_exit_status_is_0(name: str) -> None:
    handlers = {"EXPINTERRUPT": "count"}
    with RigProgram(handlers=handlers) as program, Auxiliaries({"cameras": program.uri}) as aux:
        told = Told(aux)
        begin(aux, ExpStatus.RUNNING)
        program.signal(getattr(signal, name))
        program.wait_for("ran", "EXPINTERRUPT")
        assert until(lambda: len(told.all) > 1 and told.all) == TOLD
        assert program.exit_status() == 0
        program.wait_for("ended")


IGNORES_SIGHUP = """
import os, signal, sys
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
from rigsync import Rig
from rigsync.cli.children import ended_by_signals
with ended_by_signals():
    found = [signal.getsignal(signal.SIGHUP) == signal.SIG_IGN]
import threading
def look():
    while not rig.is_running:
        pass
    found.append(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
rig = Rig("cameras", "udp://127.0.0.1:0")
threading.Thread(target=look).start()
rig.run()
assert found == [sys.argv[1] == "nohup"] * 2, found
"""


@posix
@pytest.mark.parametrize("way", ["nohup", "plain"])
def test_nohup_stays_in_force(way: str) -> None:
    subprocess.run([sys.executable, "-c", IGNORES_SIGHUP, way], cwd=ROOT, check=True, timeout=LONG)


IMPATIENT = """
import asyncio, os, signal, sys, threading, time
from rigsync import Rig

rig = Rig("cameras", "udp://127.0.0.1:0")

@rig.on("EXPINTERRUPT")
def interrupt(data):
    for _ in range(int(sys.argv[2])):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)  # a moment between two presses
    time.sleep(1.5)

def wait():
    print(rig.uri, flush=True)
    while True:
        time.sleep(0.1)

def leave_with():
    with rig:
        wait()

async def leave_async_with():
    async with rig:
        print(rig.uri, flush=True)
        await asyncio.Event().wait()

def end():
    rig.start()
    wait()

{"with": leave_with, "async with": lambda: asyncio.run(leave_async_with()), "end": end}[sys.argv[1]]()
"""
"""A rig whose user presses Ctrl-C again while EXPINTERRUPT runs."""


@posix
@pytest.mark.parametrize("way", ["with", "end", "async with"])
def test_ctrl_c_again_and_again_cuts_no_telling_short(way: str) -> None:
    if way == "async with" and sys.version_info < (3, 11):
        pytest.skip("asyncio.run of Python 3.10 ends its event loop at the second Ctrl-C")
    presses = "1" if way == "async with" else "2"
    program = [sys.executable, "-c", IMPATIENT, way, presses]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        with Auxiliaries({"cameras": process.stdout.readline().strip()}) as aux:
            told = Told(aux)
            begin(aux, ExpStatus.RUNNING)
            process.send_signal(signal.SIGINT)
            until(lambda: len(told.all) > 1)
            given_up = [f"failure: {GIVEN_UP}", TOLD[1]]
            assert told.all == (given_up if way == "async with" else TOLD)
        _, shown = process.communicate(timeout=LONG)
        assert process.returncode != 0
        assert "KeyboardInterrupt" in shown


PROGRAM = """
import asyncio, os, sys, threading
from rigsync import Auxiliaries, Rig

rig = Rig("cameras", "udp://127.0.0.1:0")
def plain(data):
    with open(sys.argv[1], "a") as file:
        file.write(f"{data['reason']}\\n")
async def coroutine(data):
    await asyncio.sleep(0.1)
    plain(data)
def stuck(data):
    plain(data)
    threading.Event().wait()
rig.on("EXPINTERRUPT")({"plain": plain, "coroutine": coroutine, "stuck": stuck}[sys.argv[2]])
rig.start()
aux = Auxiliaries({"cameras": rig.uri}, leave_running=True)
aux.request("EXPINIT", {"exp_ref": "2026-03-01_2_mouse"})
aux.request("EXPSTART", "2026-03-01_2_mouse")
aux.close()  # else it may tell that the rig is lost
"""


def run_to_its_end(ending: str, path: Path, kind: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(ending), str(path), kind],
        cwd=ROOT,
        timeout=LONG,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize("ending", ["", "sys.exit(0)"])
def test_a_program_that_ends_without_close_interrupts_what_is_under_way(tmp_path: Path, kind: str, ending: str) -> None:
    ended = run_to_its_end(ending, tmp_path / "reasons", kind)
    assert (ended.returncode, calm(ended.stderr)) == (0, "")
    assert (tmp_path / "reasons").read_text() == f"{CLOSING}\n"


def test_a_program_ends_though_its_handler_of_expinterrupt_does_not(tmp_path: Path) -> None:
    started = time.monotonic()
    ended = run_to_its_end("", tmp_path / "reasons", "stuck")
    assert time.monotonic() - started < LONG / 2
    assert ended.returncode == 0
    assert f"cameras: {GIVEN_UP}" in ended.stderr
    assert (tmp_path / "reasons").read_text() == f"{CLOSING}\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("way", ["sys.exit(0)", "rig.close(); sys.exit(0)"])
def test_a_fork_interrupts_nothing(tmp_path: Path, way: str) -> None:
    ending = f"""
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 and later: a fork beside threads
    pid = os.fork()
    if not pid:
        {way}
    assert os.waitpid(pid, 0)[1] == 0
    assert not os.path.exists(sys.argv[1]), "the fork has interrupted"
    rig.close()
    """
    ended = run_to_its_end(ending, tmp_path / "reasons", "plain")
    assert (ended.returncode, calm(ended.stderr)) == (0, "")
    assert (tmp_path / "reasons").read_text() == f"{CLOSING}\n"
