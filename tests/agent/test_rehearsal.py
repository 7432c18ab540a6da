"""Rehearsals of an agent: what its file says of them, where they record, and that they leave nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_programs import environment, run_here
from live_helpers import in_thread
from platforms import needs_ffmpeg, posix
from processes import LONG, IblutilServer, until

from agent.test_agent import STOP, Lab
from rigsync import ExpStatus, Rig
from rigsync.agent.agent import Agent
from rigsync.agent.file import AgentFile, read_agent_file
from rigsync.core.enums import ExpMessage
from rigsync.errors import ConfigError

REFERENCE = "2026-03-01_2_mouse"
SECONDS = 0.3
"""Of a rehearsal here."""

RECORDER = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
path, most = sys.argv[1], int(sys.argv[2])
os.makedirs(os.path.dirname(path), exist_ok=True)
with open(os.path.join(os.path.dirname(path), "..", "..", "said"), "a") as said:
    said.write(os.environ.get("RIGSYNC_REHEARSAL", "-") + " ")
with open(path + ".part", "w") as file:
    file.write("x" * 100)
os.rename(path + ".part", path)
for size in range(10 ** 9):
    if size < most:
        with open(path, "a") as file:
            file.write("x" * 100)
    time.sleep(0.005)
"""


class Bench(Lab):
    """A folder with data, scratch and an agent that records to either."""

    def recorder(self, source: str = RECORDER, most: int = 10**9, **keys: Any) -> Agent:
        """Serve an agent whose recorder is this program, which gets the path of its file and how often to write."""
        path = "{data}/{exp_ref}/left.bin"
        on = {
            "EXPSTART": {"start": [*self.program(source), path, str(most)], "ready": {"file": path, "within": LONG}},
            "EXPEND": STOP,
            "EXPCLEANUP": {"run": self.program("open('moved', 'w').close()", "move.py")},
        }
        return self.agent(
            keys.pop("on", on),
            **{
                "variables": {"data": str(self.folder / "data")},
                "rehearsal": {"data": str(self.folder / "scratch")},
                "folders": ["{data}/{exp_ref}"],
                "verify": {"files": "{data}/{exp_ref}/*.bin", "growing_within": 5, "settled_within": 0.2},
                "require": {"files": [str(self.folder / "data")]},
                **keys,
            },
        )

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def files(self) -> set[str]:
        """Return what lies in data and scratch, and what a transfer has left."""
        there = [*self.folder.glob("data/**/*"), *self.folder.glob("scratch*/**/*"), *self.folder.glob("moved")]
        return {path.relative_to(self.folder).as_posix() for path in there}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        bench.close()


def test_it_records_into_scratch_and_leaves_nothing(bench: Bench) -> None:
    agent = bench.recorder()
    rehearsal = bench.connect().rehearse(REFERENCE, seconds=SECONDS)
    proof = rehearsal["cameras"]
    assert (proof.problem, rehearsal.succeeded) == ("", True)
    assert proof.grew
    assert proof.grew % 100 == 0
    assert bench.said == "1 "
    assert bench.files() == set()  # neither of the recording nor of EXPCLEANUP's run
    assert not (bench.folder / "scratch").exists()  # which it has made itself
    assert agent.status is ExpStatus.CONNECTED
    assert bench.log() == ""
    assert f"EXPSTART of {REFERENCE}" in bench.log(exp_ref="rehearsal")


def test_the_experiment_after_it_is_in_earnest(bench: Bench) -> None:
    bench.recorder()
    aux = bench.connect()
    assert aux.rehearse(REFERENCE, seconds=SECONDS).succeeded
    with aux.experiment(REFERENCE):
        until(lambda: bench.said == "1 - ")
    assert bench.files() == {f"data/{REFERENCE}", f"data/{REFERENCE}/left.bin", "moved"}


def test_what_was_there_before_stays(bench: Bench) -> None:
    bench.recorder()
    before = bench.folder / "scratch" / REFERENCE / "older.bin"  # which matches verify
    before.parent.mkdir(parents=True)
    before.write_text("precious")
    assert bench.connect().rehearse(REFERENCE, seconds=SECONDS).succeeded
    assert bench.files() == {f"scratch/{REFERENCE}", f"scratch/{REFERENCE}/older.bin"}
    assert before.read_text() == "precious"


@posix  # where anybody can make a link
@pytest.mark.parametrize(
    ("scratch", "files"),
    [
        ("scratch", "{data}/*.bin"),  # a link to data
        ("scratch", "{data}/{exp_ref}/*.bin"),
        ("below", "{data}/{exp_ref}/*.bin"),  # in which the session's folder is such a link
        (".", "{data}/**/*.bin"),  # above
    ],
)
def test_where_it_would_record_among_real_files_it_is_refused(bench: Bench, scratch: str, files: str) -> None:
    data = bench.folder / "data" / REFERENCE
    data.mkdir()
    (bench.folder / "below").mkdir()
    (bench.folder / "scratch").symlink_to(bench.folder / "data", target_is_directory=True)
    (bench.folder / "below" / REFERENCE).symlink_to(data, target_is_directory=True)
    bench.recorder(
        rehearsal={"data": str(bench.folder / scratch)},
        on={"EXPSTART": {"start": bench.program(RECORDER)}, "EXPEND": STOP},
        verify={"files": files, "growing_within": 5},
    )
    problem = bench.connect().rehearse(REFERENCE, seconds=SECONDS)["cameras"].problem
    assert problem.startswith("EXPINIT failed: PathTaken: ")
    assert not (bench.folder / "said").exists()


@posix
def test_what_a_link_in_scratch_leads_to_stays(bench: Bench) -> None:
    agent = bench.recorder(verify={"files": "{data}/**/*.bin", "growing_within": 5, "settled_within": 0.2})
    (bench.folder / "scratch").mkdir()
    (bench.folder / "scratch" / "link").symlink_to(bench.folder / "data", target_is_directory=True)
    rehearsing = in_thread(bench.connect().rehearse, REFERENCE, seconds=SECONDS)
    until(lambda: agent.status is ExpStatus.RUNNING)
    (bench.folder / "data" / "real.bin").write_text("precious")  # of another program, meanwhile
    problem = rehearsing.result(LONG)["cameras"].problem
    assert "look whose it is, and delete it" in problem
    assert (bench.folder / "data" / "real.bin").read_text() == "precious"
    assert not (bench.folder / "scratch" / REFERENCE).exists()


@pytest.mark.parametrize("existing", ["refuse", "keep", "overwrite"])
def test_a_file_in_the_way_is_neither_overwritten_nor_removed(bench: Bench, existing: str) -> None:
    bench.recorder(existing=existing)
    before = bench.folder / "scratch" / REFERENCE / "left.bin"
    before.parent.mkdir(parents=True)
    before.write_text("precious")
    problem = bench.connect().rehearse(REFERENCE, seconds=SECONDS)["cameras"].problem
    assert problem.startswith("EXPINIT failed: PathTaken: ")
    assert problem.endswith("move it away, or rehearse with another reference")
    assert before.read_text() == "precious"


def test_what_the_file_requires_in_earnest_is_checked(bench: Bench) -> None:
    missing = str(bench.folder / "drive")
    (bench.folder / "scratch").mkdir()
    bench.recorder(variables={"data": missing}, require={"files": ["{data}"]})
    problem = bench.connect().rehearse(REFERENCE, seconds=SECONDS)["cameras"].problem
    assert problem.startswith("EXPINIT failed: RequirementMissing: ")
    assert missing in problem
    assert bench.files() == set()


def test_a_recorder_that_does_not_start_is_named_and_leaves_nothing(bench: Bench) -> None:
    agent = bench.recorder("import sys; open(sys.argv[1] + '.part.bin', 'w').close(); sys.exit('no camera')")
    problem = bench.connect().rehearse(REFERENCE, seconds=SECONDS)["cameras"].problem
    assert problem.startswith("EXPSTART failed: CommandFailed: ")
    assert problem.endswith("no camera; then interrupted and cleaned up")
    assert bench.files() == set()
    assert agent.status is ExpStatus.CONNECTED


def test_a_recorder_whose_file_does_not_grow_has_failed(bench: Bench) -> None:
    bench.recorder(most=1)
    rehearsal = bench.connect().rehearse(REFERENCE, seconds=SECONDS)
    assert "it has recorded nothing in " in rehearsal["cameras"].problem
    assert bench.files() == set()


def test_a_recorder_that_dies_is_told_with_its_reason(bench: Bench) -> None:
    dies = "import os, sys, time\nopen(sys.argv[1], 'w').close()\nwhile not os.path.exists('die'): time.sleep(0.01)\n"
    agent = bench.recorder(f"{dies}sys.exit('the lamp broke')")
    rehearsing = in_thread(bench.connect().rehearse, REFERENCE, seconds=2 * LONG)
    until(lambda: agent.status is ExpStatus.RUNNING)
    (bench.folder / "die").touch()
    problem = rehearsing.result(LONG)["cameras"].problem
    assert "the lamp broke" in problem
    assert bench.files() == set()


def test_a_disk_that_is_too_small_for_the_session_fails(bench: Bench) -> None:
    bench.recorder()
    rehearsal = bench.connect().rehearse(REFERENCE, seconds=SECONDS, minutes=1e9)
    assert "its disk is too small: 1e+09 min take some " in rehearsal["cameras"].problem
    assert not rehearsal.succeeded
    assert bench.files() == set()


def test_an_interrupt_of_its_own_such_as_after_the_lease_leaves_nothing(bench: Bench) -> None:
    agent = bench.recorder()
    aux = bench.connect()
    aux.request("EXPINIT", {"exp_ref": REFERENCE, "rehearsal": True})
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    assert bench.files() == {f"scratch/{REFERENCE}", f"scratch/{REFERENCE}/left.bin"}
    agent.interrupt("the coordinator has been silent for the lease")
    until(lambda: agent.status is ExpStatus.STOPPED)
    assert bench.files() == set()


def test_an_experiment_in_place_of_a_rehearsal_that_has_not_begun(bench: Bench) -> None:
    bench.recorder()
    aux = bench.connect()
    aux.request("EXPINIT", {"exp_ref": REFERENCE, "rehearsal": True})
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    aux.request("EXPEND", timeout=LONG)
    assert bench.said == "- "
    assert bench.files() == {f"data/{REFERENCE}", f"data/{REFERENCE}/left.bin"}


@needs_ffmpeg
def test_ffmpeg_a_rig_in_python_and_one_of_iblutil(bench: Bench, serve: Callable[..., Rig]) -> None:
    path = "{data}/{exp_ref}/left.mkv"
    start = f"ffmpeg -hide_banner -n -re -f lavfi -i testsrc -flush_packets 1 {path}"
    agent = bench.recorder(
        on={"EXPSTART": {"start": start, "ready": {"file": path, "within": LONG}}, "EXPEND": STOP},
        verify={"files": "{data}/{exp_ref}/*.mkv", "growing_within": 5},
    )
    ephys = Rig("ephys", "udp://127.0.0.1:0")
    folders: list[Path] = []
    ephys.rehearsal(lambda _, __, folder: folders.append(Path(folder)))
    ephys.on("EXPEND")(lambda: (folders[0] / "raw.bin").write_bytes(b"x" * 5000) and None)
    with ephys, IblutilServer("imaging") as imaging:
        rigs = {"cameras": agent.uri, "ephys": ephys.uri, "imaging": imaging.uri}
        (bench.folder / "rigs.yaml").write_text(yaml.safe_dump(rigs))
        arguments = ["rehearse", "-t", "1", "--json", "--ref", REFERENCE]
        outcome = run_here(arguments, bench.folder, environment(bench.folder))
        assert imaging.calls == ["EXPINFO"]
    assert outcome.status == 0, outcome.out + outcome.err
    document = json.loads(outcome.out)
    told = document["rigs"]
    assert (document["succeeded"], document["exp_ref"]) == (True, REFERENCE)
    assert told["imaging"]["left_out"]
    assert told["cameras"]["grew"] > 0
    assert told["ephys"]["grew"] == 5000
    assert document["skew"] < 1
    assert bench.files() == set()
    assert not folders[0].exists()


# ---------------------------------------------------------------------------------------------------------- the file

FILE = """\
name: cameras
variables: {data: "/data", raw: "{data}/raw"}
folders: ["{raw}/{exp_ref}"]
on:
  EXPSTART: {start: "rec {raw}/{exp_ref}/left.mp4", ready: {file: "{raw}/{exp_ref}/left.mp4", within: 5}}
  EXPEND: {stop: {}}
  EXPCLEANUP: {stop: {}, run: "move {raw}"}
existing: overwrite
verify: {files: "{raw}/{exp_ref}/*.mp4", growing_within: 5}
"""


def read(tmp_path: Path, text: str) -> AgentFile:
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    return read_agent_file(path, platform="linux")


def test_its_variables_stand_for_something_else(tmp_path: Path) -> None:
    assert read(tmp_path, FILE).rehearsal is None
    file = read(tmp_path, FILE + 'rehearsal: {data: "/scratch"}\n')
    other = file.rehearsal
    assert other is not None
    assert (str(file.folders[0]), str(other.folders[0])) == ("/data/raw/{exp_ref}", "/scratch/raw/{exp_ref}")
    folder = "/scratch/raw/{exp_ref}"
    assert list(map(str, other.outputs())) == [f"{folder}/*.mp4", f"{folder}/left.mp4"]
    assert other.existing == "refuse"
    assert other.action(ExpMessage.EXPCLEANUP).run is None
    assert other.action(ExpMessage.EXPCLEANUP).stop == file.action(ExpMessage.EXPCLEANUP).stop


@pytest.mark.parametrize(
    ("line", "place", "text"),
    [
        ("rehearsal: {dada: /x}", "10: rehearsal.dada", "there is no variable 'dada'; did you mean 'data'?"),
        ("rehearsal: {}", "10: rehearsal", "name a variable"),
        ('rehearsal: {data: "/data/"}', "10: rehearsal", "a rehearsal would write '/data//raw/{exp_ref}/*.mp4' as in"),
        ('rehearsal: {data: "~/x"}', "10: rehearsal", "with these variables folders[0] is wrong: ~ does not stand for"),
        ('rehearsal: {data: "{x}"}', "10: rehearsal", "with these variables variables.data is wrong: unknown variable"),
        ("rehearsal: {data: 3, raw: [x]}", "10: rehearsal.raw", "expected text, not a list"),
    ],
)
def test_what_cannot_be_meant_is_a_mistake(tmp_path: Path, line: str, place: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"{FILE}{line}\n")
    (error,) = caught.value.errors
    assert f"{error.line}: {error.key}" == place
    assert error.problem.startswith(text)


def test_a_relative_path_may_be_the_same(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a rehearsal would write"):
        read(tmp_path, FILE.replace('"/data"', "data") + f"rehearsal: {{data: {json.dumps(str(tmp_path / 'data'))}}}\n")


def test_without_verify_nothing_could_be_proven(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write verify too"):
        read(tmp_path, FILE.partition("verify")[0] + 'rehearsal: {data: "/scratch"}\n')


def test_check_shows_it(tmp_path: Path) -> None:
    (tmp_path / "cameras.yaml").write_text(FILE + 'rehearsal: {data: "/scratch"}\n')
    document = json.loads(run_here(["check", "cameras.yaml", "--json"], tmp_path, environment(tmp_path)).out)
    assert document["agent"]["rehearsal"] == {"data": "/scratch", "raw": "/scratch/raw"}
