"""`aux.rehearse`, with rigs in Python: what each proves, what is left out, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_programs import environment, run_here
from live_helpers import Gate, came_true, in_thread, run
from processes import LONG, IblutilServer, until

from rigsync import Auxiliaries, Coordinator, ExpStatus, Rig
from rigsync.cli.rehearse import remarks_on, table_of
from rigsync.cli.tables import plain_lines
from rigsync.coordinator.rehearsal import Proof, Rehearsal, prove
from rigsync.core.enums import ExpMessage
from rigsync.core.events import MessageHandled, MessageReceived, StatusChanged

REFERENCE = "2026-03-01_2_mouse"
BRIEF = 0.1
"""Seconds of a rehearsal here."""
HANDLED = ("EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP")

Connect = Callable[..., Auxiliaries]


class Recorder:
    """A rig that records: a header at EXPSTART, and the rest at EXPEND, if it is told how much."""

    def __init__(self, folder: Path, name: str = "cameras", grows_by: int = 1000, serves: bool = True):
        self.rig = Rig(name, "udp://127.0.0.1:0")
        self.grows_by = grows_by
        self.told: list[str] = []
        self.folder: Path | None = None
        self.there_at_cleanup: bool | None = None
        for verb in HANDLED:
            self.rig.on(verb)(self._noter(verb))
        self.rig.rehearsal(str(folder))(self.rehearse)
        self.rig.on("EXPSTART")(lambda: self._write(50))
        self.rig.on("EXPEND")(lambda: self._write(self.grows_by))
        self.rig.on("EXPCLEANUP")(self._look)
        if serves:
            self.rig.start()

    def rehearse(self, exp_ref: str, data: dict[str, Any], folder: str) -> dict[str, Any]:
        self.told.append(f"rehearsal {exp_ref} {data.get('box')}")
        self.folder = Path(folder)
        return {"camera": "FLIR"}

    def is_interrupted_and_clean(self) -> None:
        assert self.told[-2:] == ["EXPINTERRUPT", "EXPCLEANUP"]
        assert self.folder is not None
        assert not self.folder.exists()
        assert self.rig.status is ExpStatus.CONNECTED

    def _noter(self, verb: str) -> Callable[..., None]:
        return lambda *_: self.told.append(verb)

    def _write(self, count: int) -> None:
        if self.folder:
            with (self.folder / "left.bin").open("ab") as file:
                file.write(b"x" * count)

    def _look(self) -> None:
        self.there_at_cleanup = bool(self.folder and self.folder.exists())


@pytest.fixture
def recorder(tmp_path: Path) -> Any:
    recorder = Recorder(tmp_path)
    yield recorder
    recorder.rig.close()


# ---------------------------------------------------------------------------------------------------- what is proven


def test_it_records_into_a_folder_of_its_own_and_leaves_nothing(recorder: Recorder, connect: Connect) -> None:
    rehearsal = connect(recorder.rig).rehearse(seconds=BRIEF, minutes=10, init={"box": 4})
    today = time.strftime("%Y-%m-%d")
    assert recorder.told == [f"rehearsal {today}_1_rehearsal 4", "EXPSTART", "EXPEND", "EXPCLEANUP"]
    proof = rehearsal["cameras"]
    assert (rehearsal.succeeded, proof.problem) == (True, "")
    assert proof.grew == 1000  # not the header
    assert proof.seconds is not None
    assert proof.seconds >= BRIEF
    assert proof.expected == int(1000 / proof.seconds * 600)
    for figure in (proof.started_in, proof.ended_in, proof.free, proof.late, proof.bound):
        assert figure is not None
    assert recorder.folder is not None
    assert not recorder.folder.exists()
    assert recorder.there_at_cleanup is False  # so what moves files to a server does not find these
    assert (recorder.rig.status, recorder.rig.exp_ref) == (ExpStatus.CONNECTED, None)


def test_a_real_experiment_is_as_ever(recorder: Recorder, connect: Connect) -> None:
    aux = connect(recorder.rig)
    aux.rehearse(seconds=BRIEF)
    recorder.told.clear()
    recorder.folder = None
    with aux.experiment(REFERENCE) as session:
        assert "rehearsal" not in session.results["EXPINIT"]["cameras"][0]
    assert recorder.told == ["EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]
    assert "rehearsal" not in session.results["EXPEND"]["cameras"][0]


def test_rigs_that_cannot_are_left_out_and_begin_nothing(
    recorder: Recorder, serve: Callable[..., Rig], connect: Connect
) -> None:
    told: list[str] = []
    plain = serve("ephys", {verb: lambda *_, verb=verb: told.append(verb) for verb in HANDLED})
    with IblutilServer("imaging") as imaging:
        rehearsal = connect(recorder.rig, plain, {"imaging": imaging.uri}).rehearse(REFERENCE, seconds=BRIEF)
        assert imaging.calls == ["EXPINFO"]
    assert told == []
    assert rehearsal.succeeded
    assert {rig: proof.left_out for rig, proof in rehearsal.items()} == {
        "cameras": False,
        "ephys": True,
        "imaging": True,
    }
    assert "@rig.rehearsal" in rehearsal["ephys"].problem
    assert "iblutil" in rehearsal["imaging"].problem


def test_where_none_takes_part_nothing_is_proven(serve: Callable[..., Rig], connect: Connect) -> None:
    rehearsal = connect(serve("ephys")).rehearse(seconds=60)  # which nobody waits for
    assert not rehearsal.succeeded
    assert remarks_on(rehearsal)[-1] == "no rig has taken part, so nothing is proven"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("rehearsal", "EXPINIT failed: OSError: no camera"),
        ("EXPSTART", "EXPSTART failed: OSError: no camera; then interrupted and cleaned up"),
        ("EXPEND", "EXPEND failed: OSError: no camera; then interrupted and cleaned up"),
    ],
)
def test_one_that_fails_keeps_nobody_from_the_end(
    recorder: Recorder, tmp_path: Path, connect: Connect, message: str, text: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no camera")

    bad = Recorder(tmp_path, "ephys", serves=False)
    if message == "rehearsal":
        bad.rehearse = fail  # type: ignore[method-assign]
        bad.rig._rehearsal = None
        bad.rig.rehearsal(str(tmp_path))(fail)
    else:
        bad.rig.on(message)(fail)
    with bad.rig:
        rehearsal = connect(recorder.rig, bad.rig).rehearse(seconds=BRIEF)
        assert (rehearsal["cameras"].problem, rehearsal["ephys"].problem) == ("", text)
        assert not rehearsal.succeeded
        assert {recorder.rig.status, bad.rig.status} == {ExpStatus.CONNECTED}
    assert list(tmp_path.iterdir()) == []


def test_one_that_stops_by_itself_says_why(recorder: Recorder, connect: Connect) -> None:
    def interrupt(change: StatusChanged) -> None:
        if change.after is ExpStatus.RUNNING:
            recorder.rig.interrupt("the cable is out")

    recorder.rig.hub.subscribe(StatusChanged, interrupt)
    rehearsal = connect(recorder.rig).rehearse(seconds=2 * LONG)  # of which nobody waits for the rest
    assert "the cable is out" in rehearsal["cameras"].problem
    assert not rehearsal.succeeded


def test_one_whose_files_do_not_grow_has_failed(recorder: Recorder, connect: Connect) -> None:
    recorder.grows_by = 0
    rehearsal = connect(recorder.rig).rehearse(seconds=BRIEF)
    assert "it has recorded nothing in 0." in rehearsal["cameras"].problem
    assert recorder.rig.status is ExpStatus.CONNECTED


def test_one_that_is_not_there_is_named(recorder: Recorder, connect: Connect) -> None:
    rehearsal = connect(recorder.rig, {"ephys": "udp://127.0.0.1:9"}, connect_timeout=0).rehearse(seconds=BRIEF)
    assert rehearsal["ephys"].problem.startswith("EXPINFO failed: ")
    assert rehearsal["cameras"].problem == ""
    assert not rehearsal.succeeded


def test_somebody_s_experiment_goes_on(recorder: Recorder, connect: Connect) -> None:
    task, other = connect(recorder.rig), connect(recorder.rig)
    with task.experiment(REFERENCE) as session:
        for reference in (None, REFERENCE):
            rehearsal = other.rehearse(reference, seconds=BRIEF)
            assert "EXPINIT failed: BusyError" in rehearsal["cameras"].problem
        session.check()
        assert (recorder.rig.status, recorder.rig.exp_ref) == (ExpStatus.RUNNING, REFERENCE)
    assert "EXPINTERRUPT" not in recorder.told


def test_ctrl_c_leaves_somebody_s_experiment_alone(
    recorder: Recorder, tmp_path: Path, connect: Connect, gate: Gate
) -> None:
    ephys = Rig("ephys", "udp://127.0.0.1:0")
    ephys.rehearsal(str(tmp_path))(gate)
    task = connect(recorder.rig)

    def press() -> None:
        assert gate.reached.wait(LONG)
        os.kill(os.getpid(), signal.SIGINT) if os.name == "posix" else signal.raise_signal(signal.SIGINT)

    with ephys, task.experiment(REFERENCE) as session:
        pressing = in_thread(press)
        with pytest.raises(KeyboardInterrupt):
            connect(recorder.rig, ephys).rehearse(seconds=2 * LONG)
        pressing.result(LONG)
        session.check()
        assert recorder.rig.status is ExpStatus.RUNNING
        gate.open.set()
    assert "EXPINTERRUPT" not in recorder.told


def test_ctrl_c_leaves_an_experiment_alone_that_began_meanwhile(
    recorder: Recorder, tmp_path: Path, connect: Connect, gate: Gate
) -> None:
    ephys = Rig("ephys", "udp://127.0.0.1:0")
    ephys.rehearsal(str(tmp_path))(gate)
    task, refused = connect(recorder.rig), threading.Event()

    def press() -> None:
        assert gate.reached.wait(LONG)
        assert refused.wait(LONG)
        aux.ping("cameras")  # behind the refusal
        os.kill(os.getpid(), signal.SIGINT) if os.name == "posix" else signal.raise_signal(signal.SIGINT)

    with ephys:
        aux = connect(recorder.rig, ephys)

        def begin(answer: MessageReceived) -> None:
            if answer.rig == "cameras" and answer.event is ExpMessage.EXPINFO:
                task.request("EXPINIT", {"exp_ref": REFERENCE})
                task.request("EXPSTART", REFERENCE)

        aux.hub.subscribe(MessageReceived, begin)
        recorder.rig.hub.subscribe(MessageHandled, lambda handled: refused.set() if handled.error else None)
        pressing = in_thread(press)
        with pytest.raises(KeyboardInterrupt):
            aux.rehearse(seconds=2 * LONG)
        pressing.result(LONG)
        assert (recorder.rig.status, recorder.rig.exp_ref) == (ExpStatus.RUNNING, REFERENCE)
        gate.open.set()
    assert "EXPINTERRUPT" not in recorder.told


def test_on_an_event_loop_it_is_awaited(recorder: Recorder) -> None:
    async def main() -> Rehearsal:
        async with Coordinator({"cameras": recorder.rig.uri}) as lab:
            return await lab.rehearse(REFERENCE, seconds=BRIEF)

    rehearsal = run(main)
    assert (rehearsal.succeeded, rehearsal.exp_ref) == (True, REFERENCE)


def test_ctrl_c_interrupts_and_removes(recorder: Recorder, connect: Connect) -> None:
    aux = connect(recorder.rig)

    def press() -> None:
        until(lambda: recorder.rig.status is ExpStatus.RUNNING)
        os.kill(os.getpid(), signal.SIGINT) if os.name == "posix" else signal.raise_signal(signal.SIGINT)

    pressing = in_thread(press)
    with pytest.raises(KeyboardInterrupt):
        aux.rehearse(seconds=2 * LONG)
    pressing.result(LONG)
    recorder.is_interrupted_and_clean()


def test_a_task_that_is_cancelled_interrupts_and_removes(recorder: Recorder) -> None:
    async def main() -> None:
        async with Coordinator({"cameras": recorder.rig.uri}) as lab:
            task = asyncio.create_task(lab.rehearse(seconds=2 * LONG))
            await came_true(lambda: recorder.rig.status is ExpStatus.RUNNING)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main)
    recorder.is_interrupted_and_clean()


# ----------------------------------------------------------------------------------------------------------- the rig


def test_a_coroutine_may_rehearse_and_its_failure_leaves_no_folder(tmp_path: Path, connect: Connect) -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    folders: list[Path] = []

    @rig.rehearsal(str(tmp_path))
    async def rehearse(exp_ref: str, data: Any, folder: str) -> None:
        folders.append(Path(folder))
        await asyncio.sleep(0)
        assert len(folders) > 1, "not the first time"

    rig.on("EXPEND")(lambda: (folders[-1] / "left.bin").write_bytes(b"x") and None)
    with rig:
        aux = connect(rig)
        assert "not the first time" in aux.rehearse(seconds=BRIEF)["cameras"].problem
        assert aux.rehearse(seconds=BRIEF).succeeded
    assert list(tmp_path.iterdir()) == []


def test_a_rig_that_closes_removes_the_folder(recorder: Recorder, tmp_path: Path, connect: Connect) -> None:
    aux = connect(recorder.rig)
    aux.request("EXPINIT", {"exp_ref": REFERENCE, "rehearsal": True})
    aux.request("EXPSTART", REFERENCE)
    aux.request("EXPEND")
    assert len(list(tmp_path.iterdir())) == 1
    recorder.rig.close()
    assert list(tmp_path.iterdir()) == []


def test_where_nobody_cleans_up_the_folder_goes_with_the_interrupt(
    recorder: Recorder, tmp_path: Path, connect: Connect
) -> None:
    aux = connect(recorder.rig)
    aux.request("EXPINIT", {"exp_ref": REFERENCE, "rehearsal": True})
    aux.request("EXPSTART", REFERENCE)
    assert len(list(tmp_path.iterdir())) == 1
    recorder.rig.interrupt("the coordinator has been silent for the lease")
    until(lambda: recorder.rig.status is ExpStatus.STOPPED)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_meant_is_refused_at_the_decorator(recorder: Recorder) -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    with pytest.raises(TypeError, match=r"a rehearsal brings exp_ref and data and folder; write def go\("):

        @rig.rehearsal
        def go(a: Any, b: Any, c: Any, d: Any) -> None: ...

    with pytest.raises(TypeError, match="by a function"):
        rig.rehearsal("scratch")(3)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="already"):
        recorder.rig.rehearsal(lambda: None)
    with rig, pytest.raises(RuntimeError, match="before it is started"):
        rig.rehearsal(lambda: None)


@pytest.mark.parametrize("options", [{"seconds": 0}, {"seconds": True}, {"minutes": -1}, {"rigs": []}, {"init": 3}])
def test_what_cannot_be_meant_is_refused_at_the_call(recorder: Recorder, connect: Connect, options: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        connect(recorder.rig).rehearse(**options)
    assert recorder.told == []


# ------------------------------------------------------------------------------------------------ figures and screen


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (None, "does not say"),
        ({"grew": "much", "seconds": 3, "free": 1}, "does not say"),
        ({"grew": 5, "seconds": float("nan"), "free": 1}, "does not say"),
        ({"grew": 5, "seconds": -3, "free": 1}, "does not say"),
        ({"grew": 10**400, "seconds": 3, "free": 1}, "does not say"),
        ({"grew": 5, "seconds": 1e-310, "free": 1}, "too small"),
        ({"grew": 5, "seconds": 3, "free": 10**400}, "cannot be found out"),
        ({"grew": 0, "seconds": 3.0, "free": 1}, "nothing in 3.0 s"),
        ({"grew": 3000, "seconds": 3.0, "free": None}, "cannot be found out"),
        (
            {"grew": 3000, "seconds": 3.0, "free": 3_599_999},
            "its disk is too small: 60 min take some 3.6 MB, and 3.6 MB are free; move data away, or record elsewhere",
        ),
        ({"grew": 3000, "seconds": 3.0, "free": 3_600_000}, None),
    ],
)
def test_what_a_rig_tells_is_proof_or_named(told: Any, text: str | None) -> None:
    problem = prove(Proof(), told, minutes=60)
    assert problem is None if text is None else text in str(problem)


def test_the_table_says_what_was_proven_and_below_it_what_was_not() -> None:
    rehearsal = Rehearsal(
        "2026-03-01_1_rehearsal",
        90,
        {
            "left": Proof("", False, 0.221, 1.16, 16_800, 3.0, 68_700_000_000, 30_240_000, 0.00007, 0.00027),
            "right": Proof("EXPSTART failed: OSError: no camera; then interrupted and cleaned up"),
            "imaging": Proof("it runs iblutil", left_out=True),
        },
        skew=0.0123,
    )
    columns, rows = table_of(rehearsal)
    assert plain_lines(columns, rows, columns[2:]) == [
        "rig      outcome   started in           grew by  ended in  from the instant     free  90 min take",
        "left     ok            0.22 s  16.8 kB in 3.0 s    1.16 s   +0.07 ± 0.27 ms  68.7 GB      30.2 MB",
        "right    failed             -                 -         -                 -        -            -",
        "imaging  left out           -                 -         -                 -        -            -",
    ]
    assert remarks_on(rehearsal) == [
        "right: EXPSTART failed: OSError: no camera; then interrupted and cleaned up",
        "imaging: it runs iblutil",
        "12.30 ms between the first and the last",
    ]
    assert not rehearsal.succeeded


def test_what_several_rigs_say_is_told_once() -> None:
    proofs = {rig: Proof("EXPINIT failed: BusyError: refused") for rig in ("left", "right")}
    assert remarks_on(Rehearsal("2026-03-01_1_rehearsal", 60, proofs)) == [
        "left, right: EXPINIT failed: BusyError: refused"
    ]


def test_the_command_fails_where_a_rig_has(recorder: Recorder, tmp_path: Path) -> None:
    recorder.grows_by = 0
    (tmp_path / "rigs.yaml").write_text(f"cameras: {recorder.rig.uri}\n")
    outcome = run_here(["rehearse", "-t", "0.1"], tmp_path, environment(tmp_path))
    assert outcome.status == 1, outcome.err
    assert "cameras: it has recorded nothing" in outcome.out


def test_what_is_logged_on_the_rig_is_no_fault(
    recorder: Recorder, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        connect(recorder.rig).rehearse(seconds=BRIEF)
    told = [record.getMessage() for record in caplog.records]
    assert [line for line in told if "after its instant" not in line] == []  # as a busy computer may begin
