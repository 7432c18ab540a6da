"""What an agent tells of its recording in the answer to EXPEND: files, bytes, frames, and who has looked at them."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from platforms import needs_ffmpeg, posix
from processes import LONG, until

from agent.test_agent import STOP, Lab, lab
from agent.test_serve import FFMPEG
from agent.test_validation import REFUSES, agent_of, started
from rigsync.agent.recorded import MOST_FILES, ROOM, frames_in, what_was_recorded
from rigsync.core.rigs import LONGEST_DESCRIPTION, MAX_DATAGRAM

__all__ = ["lab"]  # a fixture

COUNTS = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(print("frame= 41", flush=True)))
open(sys.argv[1], "w").write("xyz")
for frame in range(40):
    print("frame=", frame, flush=True)
open("ready", "w").close()
while True:
    time.sleep(0.02)
"""


def told(lab: Lab, message: str = "EXPEND") -> dict[str, Any]:
    found: dict[str, Any] = started(lab).request(message, timeout=LONG)["cameras"][-1]["recorded"]
    return found


def counting(lab: Lab, **keys: Any) -> None:
    words = [*lab.program(COUNTS, "counts.py"), "left.avi"]
    start = {"start": words, "ready": {"file": "ready", "within": LONG}, "frames": r"frame=\s*(\d+)"}
    verify = {"files": "*.avi", "growing_within": 600, "settled_within": 0.1}
    lab.agent({"EXPSTART": start, "EXPEND": STOP}, verify=verify, existing="overwrite", **keys)


def test_files_with_their_bytes(lab: Lab) -> None:
    agent_of(lab, {"a.avi": "four", "b.avi": "xx"}, {"run": [*lab.program("print('fine')", "fine.py")]})
    document = told(lab)
    seconds = document.pop("seconds")
    assert 0 < seconds < LONG
    program = lab.program("", "x.py")[0].rpartition("/")[2]
    assert document == {
        "files": [
            {"path": str(lab.folder / "video" / "a.avi"), "bytes": 4, "frames": None, "verified": program},
            {"path": str(lab.folder / "video" / "b.avi"), "bytes": 2, "frames": None, "verified": program},
        ]
    }


@posix
def test_frames_that_the_only_recorder_of_one_file_tells(lab: Lab) -> None:
    counting(lab)
    (file,) = told(lab)["files"]
    assert (file["frames"], file["bytes"], file["verified"]) == (41, 3, "size")


@posix
@needs_ffmpeg
def test_frames_that_ffprobe_counts_in_the_file(lab: Lab) -> None:
    made = lab.folder / "made.mp4"
    subprocess.run([*FFMPEG.replace("-re ", "").split(), "-v", "error", "-frames:v", "12", made], check=True)
    count = "ffprobe -v error -select_streams v -count_packets -show_entries stream=nb_read_packets -of default=nw=1"
    agent_of(lab, {"left.mp4": "made.mp4"}, {"run": f"{count} {{file}}"})
    (file,) = told(lab)["files"]
    assert (file["frames"], file["verified"], file["bytes"]) == (12, "ffprobe", made.stat().st_size)


def test_a_file_that_was_moved_was_looked_at_by_nobody(lab: Lab) -> None:
    move = lab.program("import os; os.rename('video/c', 'd')", "m.py")
    agent_of(lab, {"c": "good"}, {"run": lab.program("", "x.py")}, {"run": move})
    (file,) = told(lab)["files"]
    assert (file["path"], file["bytes"], file["verified"]) == (str(lab.folder / "video" / "c"), 4, None)


def test_after_an_interrupt_nobody_has_looked(lab: Lab) -> None:
    agent_of(lab, {"a": "good"}, {"run": [*lab.program(REFUSES), "{file}"]})
    (file,) = told(lab, "EXPINTERRUPT")["files"]
    assert (file["bytes"], file["verified"]) == (4, None)


def test_an_interrupt_that_overtakes_the_end_tells_what_was_recorded(lab: Lab) -> None:
    ends = lab.program("import time; open('ending', 'w').close(); time.sleep(1000)", "ends.py")
    agent_of(lab, {"a": "good"}, {"run": lab.program("", "x.py")}, {"run": ends})
    aux = started(lab)
    aux.push("EXPEND")
    until((lab.folder / "ending").exists)
    (file,) = aux.request("EXPINTERRUPT", timeout=LONG)["cameras"][-1]["recorded"]["files"]
    assert (file["bytes"], file["verified"]) == (4, None)
    aux.request("EXPCLEANUP", timeout=LONG)


@posix
def test_a_second_take_has_frames_of_its_own(lab: Lab) -> None:
    counting(lab)
    assert told(lab)["files"][0]["frames"] == 41
    aux = lab.connections[-1]
    aux.request("EXPCLEANUP", timeout=LONG)
    for name in ("ready", "left.avi"):
        (lab.folder / name).unlink()
    lab.program(COUNTS.replace("frame=", "picture"), "counts.py")
    assert told(lab)["files"][0]["frames"] is None


def test_a_rehearsal_has_recorded_nothing(lab: Lab) -> None:
    program = lab.program("import os, sys, time\nopen(sys.argv[1], 'w').write('x')\ntime.sleep(1000)", "w.py")
    start = {"start": [*program, "{data}/a.avi"], "ready": {"file": "{data}/a.avi", "within": LONG}}
    lab.agent(
        {"EXPSTART": start, "EXPEND": {"stop": {"signal": "kill"}}},
        verify={"files": "{data}/*.avi", "growing_within": 600, "settled_within": 0.1},
        variables={"data": "data"},
        rehearsal={"data": "scratch"},
        folders=["{data}"],
    )
    aux = lab.connect()
    aux.request("EXPINIT", {"exp_ref": "2026-03-01_2_mouse", "rehearsal": True}, timeout=LONG)
    aux.request("EXPSTART", timeout=LONG)
    assert "recorded" not in aux.request("EXPEND", timeout=LONG)["cameras"][-1]


def test_an_agent_that_knows_no_files_tells_none(lab: Lab) -> None:
    lab.agent({"EXPSTART": lab.sleeper(), "EXPEND": STOP})
    assert "recorded" not in started(lab).request("EXPEND", timeout=LONG)["cameras"][-1]


# ---------------------------------------------------------------------------------------------------------- bounds


def test_of_many_files_the_rest_is_counted() -> None:
    document = what_was_recorded({f"/data/{number:04}": 10 for number in range(250)}, 1.23456, {}, {})
    assert len(document["files"]) == MOST_FILES
    assert (document["more"], document["more_bytes"], document["seconds"]) == (150, 1500, 1.235)


@pytest.mark.parametrize("letter", ["a", "é", "\U0001f42d", '"', "\udcff"])
def test_it_fits_into_a_datagram_whatever_the_names_are(letter: str) -> None:
    document = what_was_recorded({f"/{letter * 250}/{number:04}": 10 for number in range(120)}, 1.0, {}, {})
    assert len(json.dumps(document)) < ROOM + 200 < MAX_DATAGRAM - LONGEST_DESCRIPTION
    assert 2 < len(document["files"]) == 120 - document["more"]
    json.dumps(document).encode("utf-8", "strict")


@pytest.mark.parametrize(
    ("line", "frames"),
    [
        ("nb_read_packets=360", 360),
        ("nb_read_frames=12", 12),
        ("frames: 7", 7),
        ("12 Frame = 8", 8),
        ("keyframes=3", None),
        ("no frames", None),
        (f"frames={'9' * 40}", None),
    ],
)
def test_lines_that_count_frames(line: str, frames: int | None) -> None:
    assert frames_in(["frame=1", line] if frames else [line]) == frames
