"""What the folder of a session gets: IBL's description, tables of files and events, provenance."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_programs import environment, run_here
from processes import until

from journal.filling import REF, T0, Filler, filling
from rigsync import Auxiliaries, ConfigError, Rig, load_rigs
from rigsync.core.session_paths import place
from rigsync.journal.metadata.description import merged
from rigsync.journal.metadata.writing import COLUMNS, EVENTS, FILES, SESSION, Written, write
from rigsync.journal.query import Journal

DESCRIPTION = "_ibl_experiment.description.yaml"
CAMERAS = {"devices": {"cameras": {"left": {"fps": 60, "collection": "raw_video_data"}}}, "procedures": ["imaging"]}
EPHYS = {
    "devices": {"neuropixel": {"probe00": {"collection": "raw_ephys_data/probe00"}}},
    "sync": {"nidq": {"collection": "raw_ephys_data", "extension": "bin", "acquisition_software": "spikeglx"}},
    "tasks": [{"choiceworld": {"collection": "raw_task_data_00"}}],
}
TASK = {
    "tasks": [{"choiceworld": {"collection": "raw_task_data_00"}}, {"passive": {"collection": "raw_task_data_01"}}],
    "projects": ["ibl"],
    "version": "1.0.0",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def filler(path: Path) -> Iterator[Filler]:
    with filling(path) as filler:
        yield filler


def a_session(filler: Filler, *stubs: tuple[str, Any], **columns: Any) -> tuple[int, int]:
    """Add a session whose rigs have sent descriptions at EXPINFO."""
    run = filler.run(about=json.dumps({"rigsync": "0.2.0", "repository": {"commit": "abc", "dirty": True}}))
    answers = {rig: [0, {"status": 0, "experiment_description": stub}] for rig, stub in stubs}
    filler.push(run, None, "EXPINFO", -1.0, answers=answers)
    rigs = {rig: "ok" for rig, _ in stubs} or {"cameras": "ok"}
    return run, filler.session(run, rigs=rigs, **columns)


def written(path: Path, folder: Path, ref: str = REF) -> Written:
    with Journal(path) as journal:
        return write(journal, journal.session(ref), folder)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------- descriptions


def test_one_description_of_those_of_the_rigs(path: Path, filler: Filler, tmp_path: Path) -> None:
    run, _ = a_session(filler, ("cameras", CAMERAS), ("ephys", EPHYS), ("empty", {}))
    information = {"exp_ref": REF, "experiment_description": TASK}
    filler.record(run, None, "PushBegun", {"event": "EXPINFO", "args": ["CONNECTED", information], "rigs": []}, -1.1)
    done = written(path, tmp_path / "out")
    assert (done.conflicts, done.problems) == ([], [])
    assert yaml.safe_load((tmp_path / "out" / DESCRIPTION).read_text(encoding="utf-8")) == {
        "tasks": TASK["tasks"],
        "projects": ["ibl"],
        "version": "1.0.0",
        "devices": {**CAMERAS["devices"], **EPHYS["devices"]},  # type: ignore[dict-item]
        "procedures": ["imaging"],
        "sync": EPHYS["sync"],
    }


def test_it_is_read_by_ibllib(path: Path, filler: Filler, tmp_path: Path) -> None:
    params = pytest.importorskip("ibllib.io.session_params", reason="ibllib is not installed")
    a_session(filler, ("cameras", CAMERAS), ("ephys", EPHYS))
    written(path, tmp_path)
    read = params.read_params(tmp_path)
    assert params.get_cameras(read) == ["left"]
    assert params.get_sync_label(read) == "nidq"
    assert params.get_task_collection(read, "choiceworld") == "raw_task_data_00"
    assert read == params.merge_params(dict(CAMERAS), EPHYS, copy=True) | {"version": "1.0.0"}


def test_what_contradicts_is_named_and_the_first_counts(path: Path, filler: Filler, tmp_path: Path) -> None:
    other = {
        "devices": {"cameras": {"left": {"fps": 30}, "right": {"fps": 30}}},
        "sync": {"bpod": {"collection": "raw_task_data_00"}},
        "procedures": "none",
    }
    a_session(filler, ("cameras", CAMERAS), ("ephys", EPHYS), ("other", other))
    done = written(path, tmp_path)
    assert [conflict.partition(":")[0] for conflict in done.conflicts] == [
        "devices.cameras.left.fps",
        "sync",
        "procedures",
    ]
    assert done.conflicts[0] == "devices.cameras.left.fps: 60 of cameras counts, not 30 of other"
    text = (tmp_path / DESCRIPTION).read_text(encoding="utf-8")
    assert text.count("# CONFLICT ") == 3
    found = yaml.safe_load(text)
    assert found["devices"]["cameras"] == {**CAMERAS["devices"]["cameras"], "right": {"fps": 30}}  # type: ignore[index]
    assert found["sync"] == EPHYS["sync"]
    assert json.loads((tmp_path / SESSION).read_text(encoding="utf-8"))["description_conflicts"] == done.conflicts


def test_hostile_descriptions_stay_data(path: Path, filler: Filler, tmp_path: Path) -> None:
    hostile = {
        "a\n# CONFLICT": "!!python/object/apply:os.system [id]",
        "b": "\x1b[2J",
        "tasks": ["- x: y", {"&a": "*a"}],
    }
    a_session(filler, ("cameras", hostile), ("ephys", "no map"), ("third", {"b": "other\nline"}))
    done = written(path, tmp_path)
    assert done.problems == ["what ephys sends as its experiment description is no map; see its configuration"]
    text = (tmp_path / DESCRIPTION).read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {**hostile, "version": "1.0.0"}
    assert text.splitlines()[1] == "# CONFLICT b: '\\x1b[2J' of cameras counts, not 'other\\nline' of third"


def test_true_is_not_one() -> None:
    assert merged({"a": {"x": 1}, "b": {"x": True}})[1] == ["x: 1 of a counts, not True of b"]
    assert merged({"a": {}, "b": {}}) == ({}, [])


def test_a_file_of_somebody_else_stays(path: Path, filler: Filler, tmp_path: Path) -> None:
    a_session(filler, ("cameras", CAMERAS))
    (tmp_path / DESCRIPTION).write_text("tasks: []\n")
    done = written(path, tmp_path)
    (problem,) = done.problems
    assert "is there, and is not rigsync's: it is left as it is" in problem
    assert (tmp_path / DESCRIPTION).read_text() == "tasks: []\n"
    assert {path.name for path in done.paths} == {SESSION, FILES, EVENTS}


def test_without_descriptions_there_is_no_file(path: Path, filler: Filler, tmp_path: Path) -> None:
    a_session(filler)
    assert written(path, tmp_path).problems == []
    assert not (tmp_path / DESCRIPTION).exists()


# ---------------------------------------------------------------------------------------------------------- tables


def test_the_files_of_the_rigs(path: Path, filler: Filler, tmp_path: Path) -> None:
    run, session = a_session(filler)
    files = [{"path": "/data/left.mp4", "bytes": 1200, "frames": 360, "verified": "ffprobe"}, {"path": 3}, "x"]
    recorded = {"seconds": 12.5, "files": files, "more": 2, "more_bytes": 50}
    answers = {"cameras": [{"recorded": recorded}], "ephys": [{"recorded": "lots"}], "=cmd()": [{"recorded": recorded}]}
    filler.push(run, session, "EXPEND", 50.0, answers=answers)
    written(path, tmp_path)
    rows = table(tmp_path / FILES)
    assert rows[0] == {
        "rig": "cameras",
        "path": "/data/left.mp4",
        "bytes": "1200",
        "frames": "360",
        "seconds": "12.5",
        "verified": "ffprobe",
        "files": "1",
    }
    assert (rows[1]["path"], rows[1]["bytes"], rows[1]["files"]) == ("", "50", "2")
    assert [row["rig"] for row in rows] == ["cameras", "cameras", "'=cmd()", "'=cmd()"]


def test_the_events_are_those_of_ndx_events(path: Path, filler: Filler, tmp_path: Path) -> None:
    run, session = a_session(filler)
    starts = {"cameras": {"time": T0 + 1.5, "bound": 0.0002, "is_estimate": False}}
    filler.push(run, session, "EXPSTART", 2.0, "cameras", "ephys", starts=starts, request_time=T0 + 1.0)
    filler.record(run, session, "MessageReceived", {"event": "EXPSTART", "request_time": T0 + 1.0}, 1.75, rig="cameras")
    problem = {"topic": "failure", "key": "x", "body": {"problem": "the file\nstopped"}}
    filler.record(run, session, "Notice", problem, 3.0, rig="cameras", failure=1)
    filler.record(run, session, "Notice", {"topic": "reward", "body": {"ul": 3}}, 2.5, rig="ephys")
    filler.record(run, session, "Notice", {"topic": "log", "body": {"message": "EXPSTART"}}, 2.6, rig="ephys")
    filler.record(run, session, "ProgressChanged", {"item": "frames"}, 2.7, rig="ephys")
    filler.record(run, session, "Lick", {"port": "=left"}, 2.8)
    filler.record(run, session, "LslMarker", {"stream": "s", "value": "stim", "time": T0 + 2.25, "lsl_time": 1.0}, 2.9)
    filler.record(run, session, "LinkLost", {"reason": "silent for 5 s"}, 4.0, rig="ephys", failure=1)
    filler.push(run, session, "EXPEND", 5.0, failures={"ephys": {"error": "RigLost", "problem": "it is lost"}})
    filler.push(run, session, "rigsync.check", 5.5, "cameras")
    filler.sample(run, session, "cameras", 2.0, 0.1)
    written(path, tmp_path)
    rows = table(tmp_path / EVENTS)
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["timestamp"], row["duration"], row["event_type"], row["rig"], row["outcome"]) for row in rows] == [
        ("1.000000", "", "EXPSTART", "ephys", "ok"),
        ("1.500000", "0.250000", "EXPSTART", "cameras", "ok"),
        ("2.250000", "", "LslMarker", "", ""),
        ("2.500000", "", "reward", "ephys", ""),
        ("2.800000", "", "Lick", "", ""),
        ("3.000000", "", "failure", "cameras", ""),
        ("4.000000", "", "link lost", "ephys", ""),
        ("5.000000", "", "EXPEND", "ephys", "failed"),
    ]
    told = {row["event_type"]: row["annotation"] for row in rows}
    assert told["failure"] == "the file\\nstopped"
    assert (told["reward"], told["Lick"], told["LslMarker"]) == ('{"ul": 3}', '{"port": "=left"}', "stim")
    assert (rows[1]["bound"], rows[-1]["annotation"]) == ("0.000200", "it is lost")


def test_no_event_is_before_the_start(path: Path, filler: Filler, tmp_path: Path) -> None:
    """When a rig began is known to some milliseconds only, and may be before the record of its message."""
    run, session = a_session(filler)
    starts = {"cameras": {"time": T0 - 0.25, "bound": 0.3, "is_estimate": True}}
    filler.push(run, session, "EXPINIT", 1.0, "cameras", starts=starts)
    filler.push(run, session, "EXPSTART", 2.0, "cameras", request_time=T0 + 2.0)
    written(path, tmp_path)
    assert [row["timestamp"] for row in table(tmp_path / EVENTS)] == ["0.000000", "2.250000"]
    document = json.loads((tmp_path / SESSION).read_text(encoding="utf-8"))
    assert datetime.fromisoformat(document["session_start_time"]).timestamp() == pytest.approx(T0 - 0.25)
    assert datetime.fromisoformat(document["began"]).timestamp() == pytest.approx(T0)


def test_the_session_and_where_it_comes_from(path: Path, filler: Filler, tmp_path: Path) -> None:
    a_session(filler)
    written(path, tmp_path)
    document = json.loads((tmp_path / SESSION).read_text(encoding="utf-8"))
    assert document["provenance"]["repository"] == {"commit": "abc", "dirty": True}
    assert (document["subject"], document["date"], document["number"]) == ("mouse", "2026-11-30", "1")
    assert (document["session_path"], document["bids"]) == ("mouse/2026-11-30/001", "sub-mouse/ses-20261130001")
    start = datetime.fromisoformat(document["session_start_time"])
    assert start.tzinfo is not None  # NWB wants one
    assert start.timestamp() == pytest.approx(T0)
    assert document["outcome"] == "complete"


def test_it_is_written_again_and_over_no_other_session(path: Path, filler: Filler, tmp_path: Path) -> None:
    a_session(filler, ("cameras", CAMERAS))
    folder = tmp_path / "out"
    written(path, folder)
    before = {found.name: found.read_bytes() for found in folder.iterdir()}
    written(path, folder)
    assert {found.name: found.read_bytes() for found in folder.iterdir()} == before
    a_session(filler, ("cameras", EPHYS), ref="2026-11-30_2_mouse", began=T0 + 100)
    with pytest.raises(FileExistsError, match=r"has the metadata of another session, 2026-11-30_1_mouse: give each"):
        written(path, folder, "2026-11-30_2_mouse")
    (folder / SESSION).write_text("no JSON")
    with pytest.raises(FileExistsError, match="cannot be read"):
        written(path, folder)
    assert {found.name: found.read_bytes() for found in folder.iterdir()} == {**before, SESSION: b"no JSON"}


# --------------------------------------------------------------------------------------------------- where it goes


@pytest.mark.parametrize(
    ("template", "folder"),
    [
        ("/d/{session_path}", "/d/mouse/2026-11-30/001"),
        ("/d/{bids}/beh", "/d/sub-mouse/ses-20261130001/beh"),
        ("/d/{subject}_{date}_{number}_{exp_ref}", "/d/mouse_2026-11-30_1_2026-11-30_1_mouse"),
        ("/d", "/d"),
    ],
)
def test_the_folder_of_a_session(template: str, folder: str) -> None:
    assert place(template, REF) == folder


@pytest.mark.parametrize(
    "ref", ["mouse", "2026-11-30_1_../x", "2026-11-30_1_..", "2026-11-30_1_a\nb", "2026-11-30_1_NUL"]
)
def test_no_reference_leads_elsewhere(ref: str) -> None:
    for template in ("/d/{session_path}", "/d/{subject}", "/d/{exp_ref}", "/d/{bids}"):
        with pytest.raises(ValueError, match=r"reference|subject"):
            place(template, ref)


def test_rigs_yaml_asks_for_it_at_the_end_of_each_session(
    tmp_path: Path, serve: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIGSYNC_JOURNAL", str(tmp_path / "journal.sqlite"))
    rig = serve("cameras", experiment_description=CAMERAS)
    file = tmp_path / "rigs.yaml"
    file.write_text(json.dumps({"rigs": {"cameras": rig.uri}, "metadata": "sessions/{session_path}"}))
    with Auxiliaries.from_file(file) as aux:
        aux.begin("2026-03-01_2_mouse")
        aux.end()
        folder = tmp_path / "sessions" / "mouse" / "2026-03-01" / "002"
        until((folder / DESCRIPTION).exists)
    until(lambda: {row["event_type"] for row in table(folder / EVENTS)} >= {"EXPINIT", "EXPSTART", "EXPEND"})
    assert yaml.safe_load((folder / DESCRIPTION).read_text(encoding="utf-8"))["devices"] == CAMERAS["devices"]


def test_an_unknown_variable_is_a_mistake_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rigs.yaml"
    file.write_text("rigs: {cameras: 127.0.0.1}\nmetadata: data/{session}\n")
    with pytest.raises(
        ConfigError, match=r"rigs.yaml:2: metadata: unknown variable \{session\}; the variables here are"
    ):
        load_rigs(file)


def test_the_command(path: Path, filler: Filler, tmp_path: Path) -> None:
    a_session(filler, ("cameras", CAMERAS), ("ephys", {"procedures": "none"}))
    home = tmp_path / "home"
    home.mkdir()

    def run(*arguments: str) -> Any:
        return run_here(["metadata", *arguments, "--journal", str(path)], home, environment(home))

    outcome = run()
    assert outcome.status == 1
    assert (
        outcome.err
        == "Warning: the descriptions differ: procedures: ['imaging'] of cameras counts, not 'none' of ephys\n"
    )
    names = (SESSION, FILES, EVENTS, DESCRIPTION)
    assert outcome.out.split() == [str(Path("mouse/2026-11-30/001") / name) for name in names]
    assert all((home / line).is_file() for line in outcome.out.split())
    assert "did you mean '2026-11-30_1_mouse'?" in run("2026-11-30_1_mous").err
    assert "unknown variable {x}" in run("-o", "{x}").err
    assert run("-o", str(home / "mouse" / "2026-11-30" / "001" / SESSION)).status == 1
