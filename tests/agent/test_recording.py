"""What it means that something was recorded: the end, what was there before, who else records there, and the disk."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Command, environment
from platforms import posix
from processes import LONG, until

from agent.test_agent import NEXT, RECORDER, REFERENCE, STOP, WAITS, Lab, failure, init, lab, noted
from agent.test_serve import Folder, listening
from rigsync import Auxiliaries, ExperimentError, ExpStatus
from rigsync.agent.agent import Agent
from rigsync.agent.recording import files_text

__all__ = ["lab"]  # a fixture


ANEW = """
import os, signal, sys, time
told = []
signal.signal(signal.SIGINT, lambda *_: told.append(True))
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.write(b"x" * 100)  # before it may end: the file is seen as soon as it is there
        if told: sys.exit(0)
        time.sleep(0.01)
"""
"""A recorder that opens its file anew."""
SEGMENTS = """
import itertools, os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
os.makedirs(sys.argv[1], exist_ok=True)
for number in itertools.count():
    with open(os.path.join(sys.argv[1], f"cam_{number:03}.avi"), "wb", buffering=0) as file:
        for _ in range(20):
            file.write(b"x" * 100)
            time.sleep(0.01)
            while os.path.exists("freeze"):
                time.sleep(0.01)
"""
"""A recorder that begins a new file every 0.2 s."""


class Writer:
    """Something outside of the agent's control that goes on writing until it is told to stop."""

    def __init__(self, path: Path):
        self.path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        with open(self.path, "ab", buffering=0) as file:
            while not self._stop.wait(0.02):
                file.write(b"x")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def writer(lab: Lab) -> Iterator[Callable[[str], Writer]]:
    writers: list[Writer] = []

    def begin(name: str) -> Writer:
        writers.append(Writer(lab.folder / name))
        return writers[-1]

    yield begin
    for each in writers:
        each.stop()


def recorder(lab: Lab, source: str, file: str, *, name: str = "cameras", **keys: Any) -> Agent:
    """Return an agent that records a file, by a program to which its path is given."""
    start = {"start": [*lab.program(source, f"{name}.py"), file]}
    if ready := keys.pop("ready", {"file": file, "within": LONG}):
        start["ready"] = ready
    verify = {"files": file, "growing_within": 5, "settled_within": 0.2, **keys.pop("verify", {})}
    return lab.agent({"EXPSTART": start, "EXPEND": STOP, **keys.pop("on", {})}, name, verify=verify, **keys)


def record(aux: Auxiliaries, exp_ref: str = REFERENCE, **data: Any) -> None:
    """Go through a whole experiment."""
    init(aux, exp_ref)
    aux.request("EXPSTART", exp_ref, data, timeout=LONG)
    aux.request("EXPEND", timeout=LONG)


# ---------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (WAITS, "there is no file"),
        (
            f"import sys; open(sys.argv[1], 'w').close(); {WAITS}",
            "x.avi is empty; look at the recorder's output and settings",
        ),
        (
            "import os, sys; open(sys.argv[1], 'w').write('x'); os.unlink(sys.argv[1]); "
            f"open(os.path.join(os.path.dirname(sys.argv[1]), 'gone'), 'w'); {WAITS}",
            "there is no file",
        ),
    ],
)
def test_a_session_that_has_recorded_nothing_is_no_success(lab: Lab, source: str, problem: str) -> None:
    agent = recorder(lab, source, "data/x.avi", ready=None)
    aux = lab.connect()

    def task() -> None:
        with aux.experiment(REFERENCE, timeout=LONG):
            if "open" in source:
                file = lab.folder / "data" / "x.avi"
                until(lambda: file.with_name("gone").exists() if "unlink" in source else file.exists())

    with pytest.raises(ExperimentError, match=problem) as told:
        task()
    assert "x.avi" in told.value.outcomes["cameras"]
    assert agent.status is ExpStatus.CONNECTED
    assert not agent._commands.running()


def test_a_file_from_before_that_stays_as_it_is_has_not_been_recorded(lab: Lab) -> None:
    (lab.folder / "data" / "x.avi").write_bytes(b"of yesterday")
    recorder(lab, WAITS, "data/x.avi", ready=None, existing="keep", verify={"growing_within": 0.5})
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: failures)
    assert "x.avi has changed since EXPSTART after 0.5 s; compare verify" in failures[0].body["problem"]
    assert "x.avi has changed since EXPSTART; compare verify" in failure(aux, "EXPEND").message


def test_rigsync_run_has_status_125_where_nothing_was_recorded(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    start = {"start": [sys.executable, "-c", WAITS]}
    file = folder.write(on={"EXPSTART": start, "EXPEND": STOP}, verify={"files": "x.avi", "growing_within": 5})
    with folder.serve(file) as agent:
        (uri,) = listening(agent).values()
        (tmp_path / "rigs.yaml").write_text(f"cameras: {uri}\n")
        arguments = ["run", "--ref", REFERENCE, "--rigs", "rigs.yaml", "--", sys.executable, "-c", ""]
        with Command(arguments, tmp_path, environment(tmp_path)) as run:
            outcome = run.outcome()
    assert outcome.status == 125
    assert "there is no file" in outcome.err


def test_a_file_that_vanishes_at_the_end_is_no_success(lab: Lab) -> None:
    source = RECORDER.replace("sys.exit(0)", "(os.unlink(path), sys.exit(0))")
    recorder(lab, source, "data/x.avi")
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: aux.services and aux.services["cameras"].progress.get("x.avi"))
    assert "x.avi is gone; look for what has moved or removed it" in failure(aux, "EXPEND").message


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({}, "no file"),
        ({"b.mp4": 12_345_678, "a.mp4": 0}, "a.mp4 0 B, b.mp4 12.3 MB"),
        ({f"{n}.avi": 1000 for n in range(6)}, "0.avi 1 kB, 1.avi 1 kB, 2.avi 1 kB, 3.avi 1 kB, 2 more, 6 kB in all"),
    ],
)
def test_what_was_recorded_is_told_in_few_words(sizes: dict[str, int], text: str) -> None:
    assert files_text(sizes) == text


def test_a_file_that_has_another_name_once_it_is_whole_is_a_success(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = RECORDER.replace("sys.exit(0)", "(os.rename(path, path[:-5]), sys.exit(0))")
    recorder(lab, source, "data/x.avi.part", verify={"files": "data/x.*"})
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: aux.services and aux.services["cameras"].progress.get("x.avi.part"))
    aux.request("EXPEND", timeout=LONG)
    assert (lab.folder / "data" / "x.avi").exists()
    assert re.search(r"cameras: recorded x\.avi [\d.]+ k?B in \d+:\d\d", caplog.text)  # once, by its last name


def test_what_is_told_to_stop_and_goes_on_is_no_success(lab: Lab, writer: Callable[[str], Writer]) -> None:
    """A recorder that `run` is to stop, and that the agent cannot."""
    agent = lab.agent(
        {"EXPEND": {"run": lab.program("print('stop, please')")}},
        verify={"files": "data/*.avi", "growing_within": 5, "settled_within": 0.3},
    )
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    outside = writer("data/x.avi")
    error = failure(aux, "EXPEND")
    assert "x.avi still grows 0.3 s after the end" in error.message
    assert error.error == "RecordingGoesOn"
    assert agent.status is ExpStatus.RUNNING  # so that EXPINTERRUPT may do what it can
    lab.logged("stop, please")
    outside.stop()
    aux.request("EXPEND", timeout=LONG)
    assert agent.status is ExpStatus.STOPPED


def test_a_second_is_what_a_file_has_to_be_still(lab: Lab) -> None:
    lab.agent(
        {"EXPEND": {"run": lab.program("print('stop, please')")}}, verify={"files": "data/*.avi", "growing_within": 5}
    )
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    (lab.folder / "data" / "x.avi").write_text("recorded")
    begun = time.monotonic()
    aux.request("EXPEND", timeout=LONG)
    assert time.monotonic() - begun >= 1


def test_a_recorder_that_finishes_its_file_after_it_was_told_to_stop_has_the_time(
    lab: Lab, writer: Callable[[str], Writer]
) -> None:
    lab.agent({"EXPEND": {"run": lab.program("open('told', 'w')")}}, verify={
        "files": "data/x.avi", "growing_within": 5, "settled_within": 3,
    })  # fmt: skip
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    outside = writer("data/x.avi")
    key = aux.push("EXPEND", timeout=LONG)
    until((lab.folder / "told").exists)
    size = outside.path.stat().st_size if outside.path.exists() else 0
    until(lambda: outside.path.stat().st_size > size + 10)
    outside.stop()
    assert not isinstance(until(lambda: aux.response(key)), Exception)


def test_what_the_file_runs_at_the_end_may_move_what_was_recorded(lab: Lab) -> None:
    run = {"run": [*lab.program("import os, sys; os.rename(*sys.argv[1:])", "move.py"), "data/x.avi", "data/moved"]}
    recorder(lab, RECORDER, "data/x.avi", on={"EXPEND": {**STOP, **run}})
    record(lab.connect())
    assert (lab.folder / "data" / "moved").stat().st_size


def test_a_run_that_fails_hides_nothing_of_the_recording(lab: Lab) -> None:
    run = {"run": lab.program("import sys; sys.exit('no server')", "move.py")}
    recorder(lab, WAITS, "data/x.avi", ready=None, on={"EXPEND": {**STOP, **run}})
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    told = failure(aux, "EXPEND").message
    assert "no server" in told
    assert "there is no file" in told


def test_an_interrupted_session_may_have_recorded_nothing(lab: Lab) -> None:
    agent = recorder(lab, WAITS, "data/x.avi", ready=None)
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    assert aux.request("EXPINTERRUPT", timeout=LONG)["cameras"][0]["ended"]
    assert agent.status is ExpStatus.STOPPED
    assert [failure for failure in failures if "x.avi" in failure.body["problem"]] == []


# ------------------------------------------------------------------------------------------- what was there before


def test_a_recording_is_not_recorded_over(lab: Lab) -> None:
    agent = recorder(lab, ANEW, "data/{exp_ref}.avi")
    file = lab.folder / "data" / f"{REFERENCE}.avi"
    aux = lab.connect()
    record(aux)
    before = file.read_bytes()
    assert before
    error = failure(aux, "EXPINIT", {"exp_ref": REFERENCE})
    assert error.error == "PathTaken"
    assert f"is there already ({len(before):,} B, of " in error.message
    assert "move it away, record under another name or number, or write existing: keep or existing:" in error.message
    assert file.read_bytes() == before
    assert agent.status is ExpStatus.STOPPED
    record(aux, NEXT)


def test_what_is_known_at_expstart_only_is_refused_there_and_takes_have_files_of_their_own(lab: Lab) -> None:
    agent = recorder(lab, ANEW, "data/{exp_ref}_{message.n}.avi")
    aux = lab.connect()
    for n in range(3):
        record(aux, n=n)
    assert len(list((lab.folder / "data").iterdir())) == 3
    init(aux)
    error = failure(aux, "EXPSTART", REFERENCE, {"n": 1})
    assert "_1.avi' is there already" in error.message
    assert agent.status is ExpStatus.INITIALIZED
    aux.request("EXPSTART", REFERENCE, {"n": 3}, timeout=LONG)
    aux.request("EXPEND", timeout=LONG)


def test_what_a_failed_start_has_left_is_told_as_such(lab: Lab) -> None:
    source = "import sys; open(sys.argv[1], 'w').write('begun'); sys.exit('no camera')"
    recorder(lab, source, "data/x.avi", ready={"file": "data/ready", "within": LONG})
    aux = lab.connect()
    init(aux)
    assert "no camera" in failure(aux, "EXPSTART", REFERENCE).message
    told = failure(aux, "EXPSTART", REFERENCE).message
    assert "x.avi' is there already (5 B" in told
    assert ", left by an EXPSTART that has failed; move it away" in told


def test_existing_overwrite_records_over_it(lab: Lab) -> None:
    recorder(lab, ANEW, "data/x.avi", existing="overwrite")
    file = lab.folder / "data" / "x.avi"
    file.write_bytes(b"x" * 1_000_000)
    aux = lab.connect()
    failures = noted(aux, "failure")
    record(aux)
    assert 0 < file.stat().st_size < 1_000_000
    assert failures == []


def test_existing_keep_adds_to_it(lab: Lab) -> None:
    recorder(lab, RECORDER, "data/x.avi", existing="keep")
    file = lab.folder / "data" / "x.avi"
    file.write_bytes(b"of yesterday")
    record(lab.connect())
    assert file.read_bytes().startswith(b"of yesterdayxxx")


@pytest.mark.parametrize("keys", [{"existing": "keep"}, {"verify": {"files": "data/*.avi"}}])
@pytest.mark.parametrize("how", ["shrinks", "is replaced"])
def test_what_was_there_before_and_is_lost_is_told_at_once_and_at_the_end(
    lab: Lab, keys: dict[str, Any], how: str
) -> None:
    is_replaced = how == "is replaced"
    source = RECORDER
    if is_replaced:
        source = source.replace("frames = 0", "os.rename(path, path + '.old')\nopen(path, 'w').write('x' * 100_000)")
        source = source.replace("frames += 1", "frames = 1")
    else:
        source = source.replace("frames = 0", "open(path, 'w').close()\nframes = 0")
    recorder(lab, source, "data/x.avi", ready=None, **keys)
    (lab.folder / "data" / "x.avi").write_bytes(b"x" * 29_000)
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: failures)
    expected = "was replaced: another file" if is_replaced else "had 29,000 B before, and now has"
    assert expected in failures[0].body["problem"]
    assert expected in failure(aux, "EXPEND").message


def test_a_loss_that_no_look_has_seen_is_seen_at_the_end(lab: Lab) -> None:
    # At one stroke: the file is ready as soon as it has changed, and must not be seen halfway.
    waits = "file.truncate(1)\n    while not told: time.sleep(0.01)\n    sys.exit(0)\n    while True:"
    source = ANEW.replace('"wb"', '"r+b"').replace("while True:", waits)
    recorder(lab, source, "data/x.avi", existing="keep", verify={"growing_within": 100})
    (lab.folder / "data" / "x.avi").write_bytes(b"x" * 29_000)
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    assert "had 29,000 B before, and now has 1 B" in failure(aux, "EXPEND").message


@pytest.mark.parametrize("event", ["EXPSTART", "EXPINIT"])
@pytest.mark.parametrize("how", ["shrinks", "is replaced", "shrinks late", "stays"])
def test_a_file_of_ready_alone_that_is_to_be_kept_and_is_lost_fails_the_end(lab: Lab, event: str, how: str) -> None:
    """Late is after the command was ready; what is lost before may have become as large as it was by the end."""
    source = {
        "shrinks": ANEW,
        "is replaced": ANEW.replace("with", "os.rename(sys.argv[1], sys.argv[1] + '.old')\nwith")
        .replace("100", "2_000_000")
        .replace("0.01", "1"),
        "shrinks late": ANEW.replace('"wb"', '"ab"').replace(
            "time.sleep", "os.path.exists('late') and cut(); time.sleep"
        ),
        "stays": ANEW.replace('"wb"', '"ab"'),
    }[how]
    source = f"import os, sys\ndef cut(): os.truncate(sys.argv[1], 5); os.rename('late', 'done')\n{source}"
    start = {"start": [*lab.program(source, "a.py"), "data/x.avi"], "ready": {"file": "data/x.avi", "within": LONG}}
    agent = lab.agent({event: start, "EXPEND": STOP}, existing="keep")
    file = lab.folder / "data" / "x.avi"
    file.write_bytes(b"y" * 1_000_000)
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    if how == "shrinks late":
        (lab.folder / "late").touch()
        until((lab.folder / "done").exists)
    if how == "stays":
        aux.request("EXPEND", timeout=LONG)
        assert file.read_bytes().startswith(b"y" * 1_000_000 + b"x")
        assert failures == []
        return
    if how == "shrinks":
        with file.open("ab") as grown:
            grown.write(b"x" * 2_000_000)
    expected = "was replaced: another file of" if how == "is replaced" else "had 1,000,000 B before, and now has"
    told = failure(aux, "EXPEND").message
    assert told.count(f"x.avi {expected}") == 1
    assert agent.status is ExpStatus.STOPPED
    if how != "shrinks late":
        until(lambda: failures, "the notice, which is told on another thread")
    assert len(failures) == (how != "shrinks late")
    init(aux, NEXT)
    aux.request("EXPCLEANUP", timeout=LONG)


OVER = ANEW.replace('"wb"', '"r+b"').replace("    while True", "    file.write(b'x' * 2_000_000)\n    while True")
"""One that writes over its file, and beyond: nobody ever sees it smaller than before."""


@pytest.mark.parametrize("pattern", ["data/x_*.avi", "data/x_1.avi"])
def test_a_file_from_before_that_is_recorded_over_fails_the_end_though_it_is_larger_again(
    lab: Lab, pattern: str
) -> None:
    verify = {"files": pattern, "growing_within": 5, "settled_within": 0.2}
    start = [*lab.program(OVER, "a.py"), "data/x_1.avi"]
    lab.agent({"EXPSTART": {"start": start}, "EXPEND": STOP}, verify=verify, existing="keep")
    file = lab.folder / "data" / "x_1.avi"
    file.write_bytes(b"y" * 1_000_000)
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: file.stat().st_size > 2_000_000)
    until(lambda: failures)
    told = failure(aux, "EXPEND").message
    assert told.count("x_1.avi was recorded over: what it held before is not in it any more") == 1


def test_a_loss_of_a_file_that_ready_and_verify_name_is_told_once(lab: Lab) -> None:
    recorder(lab, ANEW, "data/x.avi", existing="keep")
    (lab.folder / "data" / "x.avi").write_bytes(b"y" * 1_000_000)
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    assert failure(aux, "EXPEND").message.count("had 1,000,000 B before, and now has") == 1


def test_what_expinit_moves_away_is_no_obstacle(lab: Lab) -> None:
    run = {
        "run": lab.program("import os; os.path.exists('data/x.avi') and os.rename('data/x.avi', 'data/old')", "m.py")
    }
    recorder(lab, ANEW, "data/x.avi", on={"EXPINIT": run})
    aux = lab.connect()
    record(aux)
    record(aux)
    assert (lab.folder / "data" / "old").stat().st_size


def test_what_expinit_has_begun_to_record_is_no_obstacle(lab: Lab) -> None:
    file = "data/{exp_ref}.avi"
    start = {"start": [*lab.program(ANEW), file], "ready": {"file": file, "within": LONG}}
    verify = {"files": file, "growing_within": 5, "settled_within": 0.2}
    lab.agent({"EXPINIT": start, "EXPSTART": {"run": lab.program("", "a.py")}, "EXPEND": STOP}, verify=verify)
    aux = lab.connect()
    record(aux)
    assert "is there already" in failure(aux, "EXPINIT", {"exp_ref": REFERENCE}).message


# ------------------------------------------------------------------------------------- what becomes of its own files


CUTS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
with open(sys.argv[1], "ab", buffering=0) as file:
    file.write(b"x" * 1_000_000)
    while True:
        if os.path.exists("cut"):
            file.truncate(9)
            os.rename("cut", "done")
        file.write(b"x" * 100)
        time.sleep(0.01)
"""
"""A recorder that cuts its own file once, and goes on behind it as though nothing had happened."""


def cut_itself(file: Path, folder: Path) -> None:
    (folder / "cut").touch()
    until((folder / "done").exists)


def cut_by_another(file: Path, folder: Path) -> None:
    os.truncate(file, 9)


def replace(file: Path, folder: Path) -> None:
    (folder / "new").write_bytes(b"y" * 100_000)
    os.replace(folder / "new", file)


@pytest.mark.parametrize(
    ("harm", "pattern", "expected"),
    [
        (cut_itself, "data/x.avi", "was cut"),
        (cut_by_another, "data/*.avi", "was cut"),
        pytest.param(replace, "data/x.avi", "was replaced", marks=posix),
    ],
)
def test_a_file_that_loses_what_is_recorded_is_told_at_once_and_fails_the_end(
    lab: Lab, harm: Callable[[Path, Path], None], pattern: str, expected: str
) -> None:
    recorder(lab, CUTS, "data/x.avi", verify={"files": pattern})
    file = lab.folder / "data" / "x.avi"
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: recorded(aux) > 1_000_000)
    harm(file, lab.folder)
    until(lambda: failures)
    told = failures[0].body["problem"]
    size = r"another file of 100,000 B has its name" if harm is replace else r"then it had only [\d,]+ B"
    whole = rf"x\.avi {expected} while it was recorded: at \d\d:\d\d:\d\d it had 1,[\d,]+ B, {size};"
    assert re.search(whole, told)
    assert told.endswith("; find out whether start does that, or another program")
    assert len(re.findall(whole, failure(aux, "EXPEND").message)) == 1


def recorded(aux: Auxiliaries, name: str = "x.avi") -> int:
    """Return how large a file is, as the rig has told."""
    assert aux.services
    found = aux.services["cameras"].progress.get(name)
    return int(found.value) if found else 0


PREALLOCATES = """
import os, signal, sys, time
stops = []
signal.signal(signal.SIGINT, lambda *_: stops.append(True))
with open(sys.argv[1], "wb", buffering=0) as file:
    size = 0
    file.write(b"header")
    while not stops:
        size += 100
        file.truncate(size + 1_000_000)
        time.sleep(0.01)
    file.truncate(size)
    file.seek(0)
    file.write(b"HEADER")
"""
"""A recorder that sets space aside, and gives it back when it is told to stop."""


def test_space_that_is_given_back_at_the_end_is_no_loss(lab: Lab) -> None:
    recorder(lab, PREALLOCATES, "data/x.avi")
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: recorded(aux) > 1_000_000)
    aux.request("EXPEND", timeout=LONG)
    assert 0 < (lab.folder / "data" / "x.avi").stat().st_size < 1_000_000
    assert failures == []


@pytest.mark.parametrize("is_harmed", [False, True])
def test_a_segment_may_be_cut_when_it_is_finished_and_not_while_it_grows(lab: Lab, is_harmed: bool) -> None:
    source = """
import itertools, os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
for number in itertools.count():
    with open(os.path.join("data", f"cam_{number:03}.avi"), "ab", buffering=0) as file:
        file.truncate(1_000_000)
        count = 0
        while count < 20 or os.path.exists("long"):
            count += file.write(b"x" * 100) // 100
            time.sleep(0.01)
        file.truncate(2_000)
    time.sleep(0.15)
"""
    start = {"start": lab.program(source)}
    verify = {"files": "data/cam_*.avi", "growing_within": 1, "settled_within": 0.5, "segments": True}
    lab.agent({"EXPSTART": start, "EXPEND": STOP}, verify=verify)
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: recorded(aux, "cam_003.avi"))
    if is_harmed:
        (lab.folder / "long").touch()
        newest = until(lambda: [file for file in (lab.folder / "data").iterdir() if file.stat().st_size > 1_003_000])[0]
        until(lambda: recorded(aux, newest.name) > 1_003_000)
        os.truncate(newest, 100)
        until(lambda: failures)
        expected = f"{newest.name} was cut while it was recorded: at "
        assert expected in failures[0].body["problem"]
        assert expected in failure(aux, "EXPEND").message
    else:
        aux.request("EXPEND", timeout=LONG)
        assert failures == []


# --------------------------------------------------------------------------------------------- who else records there


def two(lab: Lab, one: str, other: str, **keys: Any) -> tuple[Auxiliaries, Auxiliaries]:
    agents = [recorder(lab, RECORDER, file, name=name, **keys) for name, file in (("left", one), ("right", other))]
    return lab.connect(agents[0]), lab.connect(agents[1])


def test_a_path_is_in_use_by_one_recording_at_a_time(lab: Lab) -> None:
    left, right = two(lab, "data/{exp_ref}.avi", "data/{exp_ref}.avi")
    init(left)
    error = failure(right, "EXPINIT", {"exp_ref": REFERENCE}, rig="right")
    assert error.error == "PathTaken"
    assert f"{REFERENCE}.avi' is in use by the rig left (process {os.getpid()})" in error.message
    init(right, NEXT)
    left.request("EXPSTART", REFERENCE, timeout=LONG)
    right.request("EXPINTERRUPT", timeout=LONG)
    assert "in use by the rig left" in failure(right, "EXPINIT", {"exp_ref": REFERENCE}, rig="right").message


@pytest.mark.parametrize("end", ["EXPEND", "EXPINTERRUPT", "EXPCLEANUP", "EXPINIT", "close"])
def test_a_path_is_free_again_when_the_recording_is_over(lab: Lab, end: str) -> None:
    left, right = two(lab, "data/{exp_ref}.avi", "data/{exp_ref}.avi", existing="keep")
    init(left)
    if end in ("EXPEND", "EXPINTERRUPT"):
        left.request("EXPSTART", REFERENCE, timeout=LONG)
    failure(right, "EXPINIT", {"exp_ref": REFERENCE}, rig="right")
    if end == "close":
        lab.agents[0].close()
    elif end == "EXPINIT":
        init(left, NEXT)
    else:
        left.request(end, timeout=LONG)
    record(right)


def test_a_path_is_free_again_when_the_recording_has_ended_badly(lab: Lab) -> None:
    recorder(lab, WAITS, "data/x.avi", name="left", ready=None)
    recorder(lab, RECORDER, "data/x.avi", name="right")
    left, right = (lab.connect(agent) for agent in lab.agents)
    init(left)
    left.request("EXPSTART", REFERENCE, timeout=LONG)
    failure(right, "EXPINIT", {"exp_ref": REFERENCE}, rig="right")
    assert "there is no file" in failure(left, "EXPEND", rig="left").message
    record(right)


def test_what_is_known_at_expstart_only_is_in_use_from_then_on(lab: Lab) -> None:
    left, right = two(lab, "data/{message.n}.avi", "data/{message.n}.avi")
    init(left)
    init(right)
    left.request("EXPSTART", REFERENCE, {"n": 1}, timeout=LONG)
    error = failure(right, "EXPSTART", REFERENCE, {"n": 1}, rig="right")
    assert "1.avi' is in use by the rig left" in error.message
    right.request("EXPSTART", REFERENCE, {"n": 2}, timeout=LONG)


@pytest.mark.parametrize(
    "link", ["data/./x.avi", pytest.param("linked/x.avi", marks=posix), pytest.param("hard/y.avi", marks=posix)]
)
def test_links_and_relative_names_lead_to_one_path(lab: Lab, link: str) -> None:
    if os.name == "posix":
        (lab.folder / "linked").symlink_to(lab.folder / "data")
    (lab.folder / "hard").mkdir()
    (lab.folder / "data" / "x.avi").write_text("")
    os.link(lab.folder / "data" / "x.avi", lab.folder / "hard" / "y.avi")
    left, right = two(lab, str(lab.folder / "data" / "x.avi"), link, existing="keep")
    init(left)
    told = failure(right, "EXPINIT", {"exp_ref": REFERENCE}, rig="right").message
    assert "is in use by the rig left" in told


@pytest.mark.parametrize("first", ["path", "pattern"])
def test_a_path_and_a_pattern_that_matches_it_are_not_recorded_at_once(lab: Lab, first: str) -> None:
    left = recorder(lab, RECORDER, "data/o_l.avi", name="left")
    on = {"EXPSTART": {"start": lab.program(WAITS, "right.py")}, "EXPEND": STOP}
    right = lab.agent(on, "right", verify={"files": "data/o_*.avi", "growing_within": 5})
    agents = [left, right] if first == "path" else [right, left]
    one, other = map(lab.connect, agents)
    init(one)
    error = failure(other, "EXPINIT", {"exp_ref": NEXT}, rig=agents[1].name)
    assert error.error == "PathTaken"
    assert f"which is in use by the rig {agents[0].name} (process {os.getpid()}); end that recording" in error.message
    one.request("EXPCLEANUP", timeout=LONG)
    init(other, NEXT)


def two_patterns(lab: Lab, other: str = "data/*_left.avi") -> tuple[Auxiliaries, Auxiliaries]:
    """Two rigs with different patterns, of which a file may match both."""
    agents = []
    for name, files in (("left", "data/cam_*.avi"), ("right", other)):
        on = {"EXPSTART": {"start": [*lab.program(RECORDER, f"{name}.py"), f"data/cam_{name}"]}, "EXPEND": STOP}
        verify = {"files": files, "growing_within": 5, "settled_within": 0.2}
        agents.append(lab.agent(on, name, verify=verify, existing="keep"))
    return lab.connect(agents[0]), lab.connect(agents[1])


@pytest.mark.parametrize("other", ["data/*_left.avi", pytest.param("linked/*_left.avi", marks=posix), "*/*_left.*"])
def test_two_patterns_that_match_a_file_that_is_there_are_not_recorded_at_once(lab: Lab, other: str) -> None:
    if os.name == "posix":
        (lab.folder / "linked").symlink_to(lab.folder / "data")
    left, right = two_patterns(lab, other)
    init(left)
    init(right, NEXT)
    right.request("EXPCLEANUP", timeout=LONG)
    file = lab.folder / "data" / "cam_left.avi"
    file.write_text("of yesterday")
    error = failure(right, "EXPINIT", {"exp_ref": NEXT}, rig="right")
    assert error.error == "PathTaken"
    assert "cam_left.avi' is matched by" in error.message
    assert f"cam_*.avi', which is in use by the rig left (process {os.getpid()}); end that" in error.message
    left.request("EXPCLEANUP", timeout=LONG)
    init(right, NEXT)
    file.unlink()
    init(left)
    file.write_text("of today")
    assert "is matched by" in failure(right, "EXPSTART", NEXT, rig="right").message


def test_a_file_that_appears_and_that_two_recordings_match_is_told_by_both(lab: Lab) -> None:
    left, right = two_patterns(lab)
    told = [noted(aux, "failure") for aux in (left, right)]
    for aux in (left, right):
        init(aux)
        aux.request("EXPSTART", REFERENCE, timeout=LONG)
    with (lab.folder / "data" / "cam_left.avi").open("ab", buffering=0) as file:
        until(lambda: file.write(b"x") and all(told))
    for failures, aux, rig, other in zip(told, (left, right), ("left", "right"), ("right", "left"), strict=True):
        (problem,) = [notice.body["problem"] for notice in failures if "is matched by" in notice.body["problem"]]
        assert f"which is in use by the rig {other} (process {os.getpid()})" in problem
        assert problem in failure(aux, "EXPEND", rig=rig).message


def test_one_pattern_in_one_folder_is_in_use_and_in_two_folders_is_not(lab: Lab) -> None:
    agents = []
    for name, files in (("left", "data/cam_*.avi"), ("right", "data/./cam_*.avi"), ("third", "other/cam_*.avi")):
        on = {"EXPSTART": {"start": lab.program(WAITS, f"{name}.py")}, "EXPEND": STOP}
        agents.append(lab.agent(on, name, verify={"files": files, "growing_within": 5}))
    left, right, third = (lab.connect(agent) for agent in agents)
    init(left)
    assert "cam_*.avi' is in use by the rig left" in failure(right, "EXPINIT", {"exp_ref": NEXT}, rig="right").message
    init(third)


def test_two_programs_do_not_record_to_one_file_and_one_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "record.py").write_text(RECORDER)
    start = {"start": [sys.executable, "record.py", "data/x.avi"], "ready": {"file": "data/x.avi", "within": LONG}}
    on = {"EXPSTART": start, "EXPEND": STOP}
    files = [folder.write(name, on, existing="keep") for name in ("left", "right")]
    with folder.serve(files[0]) as first, folder.serve(files[1]) as second:
        with Auxiliaries(listening(first)) as left, Auxiliaries(listening(second)) as right:
            init(left)
            left.request("EXPSTART", REFERENCE, timeout=LONG)
            told = failure(right, "EXPINIT", {"exp_ref": REFERENCE}, rig="right").message
            assert f"x.avi' is in use by the rig left (process {first.process.pid})" in told
            first.process.kill()
            first.process.wait()
            init(right)
            right.request("EXPSTART", REFERENCE, timeout=LONG)
            right.request("EXPEND", timeout=LONG)
        second.interrupt()
        assert second.outcome().status == 0


# ------------------------------------------------------------------------------------------------------- segments


def segments_agent(lab: Lab) -> Agent:
    start = {"start": [*lab.program(SEGMENTS), "data/{exp_ref}"]}
    verify = {"files": "data/{exp_ref}/cam_*.avi", "growing_within": 1, "settled_within": 0.2, "segments": True}
    return lab.agent({"EXPSTART": start, "EXPEND": STOP}, verify=verify)


def test_a_recorder_that_goes_on_in_new_files_is_healthy(lab: Lab) -> None:
    segments_agent(lab)
    aux = lab.connect()
    failures = noted(aux, "failure")

    def files() -> list[Path]:
        return sorted((lab.folder / "data").rglob("*.avi"))

    with aux.experiment(REFERENCE, timeout=LONG) as session:
        until(lambda: len(files()) > 8)  # the first ones are finished for longer than they would have to grow
        session.check()
    assert failures == []


def test_segments_that_do_not_go_on_are_told_and_their_recovery_too(lab: Lab) -> None:
    segments_agent(lab)
    aux = lab.connect()
    failures, recoveries = noted(aux, "failure"), noted(aux, "recovered")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: len(list((lab.folder / "data").rglob("*.avi"))) > 2)
    (lab.folder / "freeze").touch()
    until(lambda: failures)
    assert "has stopped growing: no new file, and not a byte in cam_" in failures[0].body["problem"]
    (lab.folder / "freeze").unlink()
    until(lambda: recoveries)
    aux.request("EXPEND", timeout=LONG)
    assert len(failures) == 1


def test_a_finished_segment_that_vanishes_is_told_and_fails_the_end(lab: Lab) -> None:
    segments_agent(lab)
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: len(list((lab.folder / "data").rglob("*.avi"))) > 4)
    (lab.folder / "data" / REFERENCE / "cam_000.avi").unlink()
    until(lambda: failures)
    assert "cam_000.avi is gone, though it was finished" in failures[0].body["problem"]
    assert "cam_000.avi is gone" in failure(aux, "EXPEND").message


def test_a_second_recorder_of_the_same_files_is_told_and_fails_the_end(
    lab: Lab, writer: Callable[[str], Writer]
) -> None:
    segments_agent(lab)
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: len(list((lab.folder / "data").rglob("*.avi"))) > 2)
    second = writer(f"data/{REFERENCE}/cam_000.avi")
    expected = "cam_000.avi still grows, though a newer one has begun: a second recorder may be writing"
    until(lambda: any(expected in notice.body["problem"] for notice in failures))
    second.stop()
    assert expected in failure(aux, "EXPEND").message


# ------------------------------------------------------------------------------------------------------- the disk


def test_the_free_disk_is_shown_while_something_is_recorded(lab: Lab) -> None:
    recorder(lab, RECORDER, "data/x.avi", require={"free_disk": {"path": "data", "at_least": "1 kB"}})
    aux = lab.connect()
    init(aux)
    assert "free disk" not in aux.view("cameras").progress
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    shown = until(lambda: aux.view("cameras").progress.get("free disk"))
    assert (shown.unit, shown.value > 1000) == ("B", True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "rigsync-test", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nobody may mount a disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


FILLS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        try:
            file.write(b"x" * 10_000)
        except OSError as error:
            print(error.strerror, flush=True)
        time.sleep(0.02)
"""


def test_a_disk_that_fills_is_told_before_it_is_full_and_as_the_cause(lab: Lab, small_disk: Path) -> None:
    disk = {"free_disk": {"path": "small", "at_least": "1 MB"}}
    source = FILLS.replace("while True:", "print('recording', flush=True)\n    while True:")
    agent = recorder(lab, source, "small/x.avi", require=disk, verify={"growing_within": 1})
    aux = lab.connect()
    failures, recoveries = noted(aux, "failure"), noted(aux, "recovered")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: failures)
    told = failures[0].body["problem"]
    assert told.startswith(f"the disk of {str(small_disk)!r} is nearly full: ")
    assert " MB free, " in told
    assert " kB less each second, which is enough for " in told
    assert "last lines of python" in told
    assert "recording" in told
    until(lambda: len(failures) > 1)
    told = failures[1].body["problem"]
    assert "x.avi has stopped growing: not a byte within 1 s; the disk of" in told
    assert "is full: 0 B free" in told
    assert "No space left on device" in told
    with open(small_disk / "x.avi", "r+b") as file:
        file.truncate(1000)  # as though somebody had moved data away
    until(lambda: any("grows again" in notice.body["problem"] for notice in recoveries))
    with contextlib.suppress(Exception):
        aux.request("EXPEND", timeout=LONG)
    assert len(agent._watches) == 2
    until(lambda: all(watch.done() for watch in agent._watches), "the end of the watch")
