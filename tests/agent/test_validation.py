"""`validate` of an agent's file: a command that looks at what was recorded, on real files, ffprobe's among them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_programs import has_ended, still_there
from platforms import linux, needs_ffmpeg, posix
from processes import LONG, until

from agent.test_agent import REFERENCE, SAYS_ITS_ARGUMENTS, STOP, WAITS, Lab, failure, init, lab
from agent.test_serve import FFMPEG, SLEEPER, Folder, begin, listening
from agent.test_serve import folder as folder  # a fixture
from rigsync import Auxiliaries, ExpStatus
from rigsync.agent.agent import Agent
from rigsync.agent.commands import CommandFailed
from rigsync.agent.file import AgentFile, Run, read_agent_file
from rigsync.agent.validation import faults
from rigsync.agent.values import Values
from rigsync.core.messages import LONGEST_PROBLEM
from rigsync.errors import ConfigError

__all__ = ["lab"]  # a fixture

WRITES = """
import json, os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
os.mkdir("video")
for name, text in json.loads(sys.argv[1]).items():
    with open(os.path.join("video", name), "wb") as file:
        file.write(open(text, "rb").read() if os.path.exists(text) else text.encode())
open("ready", "w").close()
while True:
    time.sleep(0.02)
"""
REFUSES = """
import os, sys
content = open(sys.argv[-1]).read()
print(sys.argv[-1], "at", hex(id(content)), "has no moov atom")
sys.exit(0 if content == "good" else 3)
"""


def agent_of(lab: Lab, files: dict[str, str], validate: dict[str, Any], end: Any = None, **verify: Any) -> Agent:
    """Return an agent that writes such files to the folder `video`, then waits for its end."""
    start = {
        "start": [*lab.program(WRITES, "writes.py"), json.dumps(files).replace("{", "{{").replace("}", "}}")],
        "ready": {"file": "ready", "within": LONG},
    }
    verify = {"files": "video/*", "growing_within": 600, "settled_within": 0.1, **verify}
    on = {"EXPSTART": start, "EXPEND": {**STOP, **(end or {})}}
    return lab.agent(on, verify=verify, validate={"timeout": LONG, **validate}, existing="overwrite")


def started(lab: Lab) -> Auxiliaries:
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    return aux


# ------------------------------------------------------------------------------------------------------ real files


@posix
@needs_ffmpeg
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_video_that_is_cut_off_in_the_middle_fails_the_experiment(lab: Lab, is_whole: bool) -> None:
    made = lab.folder / "made.mp4"
    subprocess.run([*FFMPEG.replace("-re ", "").split(), "-v", "error", "-t", "1", made], check=True)
    if not is_whole:
        made.write_bytes(made.read_bytes()[: made.stat().st_size // 2])
    agent_of(lab, {"left.mp4": "made.mp4"}, {"run": "ffprobe -hide_banner -v error {file}"})
    aux = started(lab)
    if is_whole:
        assert aux.request("EXPEND", timeout=LONG)["cameras"][-1]["validated"] == 1
        assert not aux.view("cameras").failures
        return
    error = failure(aux, "EXPEND")
    assert error.error == "EndedBadly"
    assert error.message.startswith(
        "left.mp4 failed validate: ffprobe ended by itself with exit status 1; its last lines: "
    )
    assert "moov atom not found" in error.message
    assert failure(aux, "EXPEND").message == error.message
    late = lab.connect()
    until(lambda: "left.mp4 failed validate" in late.view("cameras").failures.get("EXPEND", ""))
    assert "left.mp4 failed validate" in aux.request("EXPINFO", "CONNECTED")["cameras"][-1]["failures"]["EXPEND"]


def test_all_files_are_looked_at_and_equal_reasons_are_told_once(lab: Lab) -> None:
    files = {"a.avi": "bad", "b.avi": "good", "c.avi": "bad"}
    agent = agent_of(lab, files, {"run": [*lab.program(REFUSES), "{file}"]})
    error = failure(started(lab), "EXPEND")
    assert error.message.startswith("a.avi, c.avi failed validate: ")
    assert error.message.count("exit status 3") == error.message.count("has no moov atom") == 1
    assert agent.status is ExpStatus.STOPPED


@posix
def test_any_name_of_a_file_is_one_word(lab: Lab) -> None:
    names = ["-rf", "$(touch escaped).avi", "a b; touch escaped", 'it\'s "red"', "{exp_ref}", "%PATH%", "é"]
    files = dict.fromkeys(names, "good")
    words = [*lab.program(SAYS_ITS_ARGUMENTS), "--subject={subject}", "--of={file}", "{file}"]
    agent_of(lab, files, {"run": words})
    assert started(lab).request("EXPEND", timeout=LONG)["cameras"][-1]["validated"] == len(names)
    told = [line for line in lab.log().splitlines() if "RIGSYNC_EVENT" in line]
    arguments = [json.loads(line.partition("] ")[2])[0] for line in told]
    paths = [str(lab.folder / "video" / name) for name in names]
    assert sorted(arguments) == sorted([["--subject=mouse", f"--of={path}", path] for path in paths])
    assert not (lab.folder / "escaped").exists()


@posix
def test_a_name_that_cannot_be_printed_is_no_word(lab: Lab) -> None:
    agent_of(lab, {"a\nb.avi": "good", "c.avi": "bad"}, {"run": [*lab.program(REFUSES), "{file}"]})
    message = failure(started(lab), "EXPEND").message
    assert "a\\nb.avi failed validate: the value " in message
    assert "of {file} has a character in it that cannot be printed; nothing was run with it" in message
    assert "c.avi failed validate: " in message


def test_one_that_names_no_file_runs_once(lab: Lab) -> None:
    words = [*lab.program(SAYS_ITS_ARGUMENTS), "video", "{exp_ref}"]
    agent_of(lab, {"a.avi": "good", "b.avi": "good"}, {"run": words})
    assert started(lab).request("EXPEND", timeout=LONG)["cameras"][-1]["validated"] == 2
    (line,) = [line for line in lab.log().splitlines() if "RIGSYNC_EVENT" in line]
    assert json.loads(line.partition("] ")[2])[0] == ["video", REFERENCE]


def test_one_that_takes_too_long_is_ended_and_named(lab: Lab) -> None:
    agent_of(lab, {"a.avi": "good"}, {"run": [*lab.program(WAITS), "{file}"], "timeout": 0.3})
    message = failure(started(lab), "EXPEND").message
    assert message.startswith("a.avi failed validate: ")
    assert "took more than 0.3 s and was interrupted" in message


def test_what_run_has_moved_is_looked_at_under_its_new_name_or_told(lab: Lab) -> None:
    source = "import os; os.rename('video/a', 'video/b'); os.rename('video/c', 'd')"
    agent_of(
        lab,
        {"a": "good", "c": "good"},
        {"run": [*lab.program(REFUSES), "{file}"]},
        {"run": lab.program(source, "m.py")},
    )
    message = failure(started(lab), "EXPEND").message
    assert message == "c failed validate: run of EXPEND has moved it away before; move it at EXPCLEANUP"


def test_it_looks_at_nothing_where_verify_has_found_a_fault(lab: Lab) -> None:
    agent_of(lab, {"a": "", "b": "bad"}, {"run": [*lab.program(REFUSES), "{file}"]})
    message = failure(started(lab), "EXPEND").message
    assert "is empty" in message
    assert "validate" not in message


def test_the_last_segment_may_have_just_begun(lab: Lab) -> None:
    agent_of(lab, {"a": "good", "b": ""}, {"run": [*lab.program(REFUSES), "{file}"]}, segments=True)
    assert started(lab).request("EXPEND", timeout=LONG)["cameras"][-1]["validated"] == 1


def test_an_interrupt_ends_it_and_does_not_run_it(lab: Lab) -> None:
    source = "import os, time\nopen('pid.new', 'w').write(str(os.getpid()))\nos.rename('pid.new', 'pid')\n" + WAITS
    agent = agent_of(lab, {"a": "good"}, {"run": [*lab.program(source), "{file}"]})
    aux, pid = started(lab), lab.folder / "pid"
    aux.push("EXPEND")
    until(pid.exists)
    process = psutil.Process(int(pid.read_text()))
    assert aux.ping("cameras", timeout=LONG)["cameras"].status == "RUNNING"  # type: ignore[union-attr]
    pid.unlink()
    aux.request("EXPINTERRUPT", timeout=LONG)
    assert has_ended(process)
    assert agent.status is ExpStatus.STOPPED
    assert not pid.exists(), "it was run by EXPINTERRUPT too"


@linux
def test_an_agent_that_is_killed_leaves_none_of_it_running(folder: Folder) -> None:
    source = "import time; open('left', 'w').write('x'); time.sleep(1000)"
    start = {"start": [SLEEPER[0], "-c", source], "ready": {"file": "left", "within": LONG}}
    file = folder.write(
        on={"EXPSTART": start, "EXPEND": STOP},
        verify={"files": "left", "growing_within": 600, "settled_within": 0.1},
        validate={"run": [*SLEEPER, "{file}"], "timeout": LONG},
    )
    with folder.serve(file) as command:
        aux, _ = begin(listening(command))
        with aux:
            until(lambda: (folder.path / "left").read_text())
            aux.push("EXPEND")
            path = str(folder.path / "left")
            until(lambda: any(child.cmdline()[-1:] == [path] for child in command.children() if not has_ended(child)))
            everything = command.children()
            command.process.kill()
            command.process.wait()
            assert still_there(everything, LONG) == []


def test_its_program_is_looked_for_before_anything_begins(lab: Lab) -> None:
    agent_of(lab, {"a": "good"}, {"run": "ffprobe-of-nobody {file}"})
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": REFERENCE})
    assert error.error == "RequirementMissing"
    assert "the program 'ffprobe-of-nobody' is not there" in error.message


# -------------------------------------------------------------------------------------------------- reasons and file


def test_reasons_that_differ_by_the_file_or_by_a_place_in_memory_are_equal(tmp_path: Path) -> None:
    async def fail(_: Run, values: Values) -> None:
        raise CommandFailed(f"[mov @ 0x{abs(hash(values.file)):x}] {values.file}: no index")

    finished = {f"/data/{number}.mp4": True for number in range(7)}
    told = asyncio.run(faults(_validate(tmp_path), finished, Values("EXPEND", "cameras"), fail, print))["validate"]
    assert told.startswith("0.mp4, 1.mp4, 2.mp4, 3.mp4 and 3 more failed validate: [mov @ 0x")
    assert told.endswith("] /data/0.mp4: no index")


def test_files_whose_reasons_do_not_fit_are_counted(tmp_path: Path) -> None:
    async def fail(_: Run, values: Values) -> None:
        raise CommandFailed(f"frame {values.file and hash(values.file)} is bad{'.' * 400}")

    finished = {f"/data/{number:02}.mp4": True for number in range(60)}
    told = asyncio.run(faults(_validate(tmp_path), finished, Values("EXPEND", "cameras"), fail, print))["validate"]
    named = told.count("failed validate: ")
    assert named >= 3
    assert told.endswith(f"; so did {60 - named} more, see the log of the session")
    assert len(told) < LONGEST_PROBLEM - len("EXPEND: EndedBadly: ")


def _validate(folder: Path, validate: str = "{run: 'ffprobe {file}'}", more: str = "", name: str = "rig.yaml") -> Any:
    return _read(folder, validate, more, name).validate


def _read(folder: Path, validate: str, more: str, name: str = "rig.yaml") -> AgentFile:
    verify = "verify: {files: '*', growing_within: 5}"
    path = folder / name
    path.write_text(f"name: cameras\non:\n  EXPINIT: {{run: date}}\n{verify}\nvalidate: {validate}\n{more}\n")
    return read_agent_file(path)


@pytest.mark.parametrize(
    ("validate", "more", "key", "problem"),
    [
        ("ffprobe {file}", "", "validate", "expected a map"),
        ("{timeout: 5}", "", "validate.run", "this key is missing: A command that looks at a finished file, {file}"),
        ("{run: 'ffprobe {file}', shell: true}", "", "validate.run", "a shell would read {file}"),
        ("{run: [bash, look.sh, '{file}']}", "", "validate.run", "a shell would read {file}"),
        ("{run: 'look.bat {file}'}", "", "validate.run", "a shell would read {file}"),
        ("{run: '{file}'}", "", "validate.run", "would have a message choose the program"),
        ("{run: [python, -c, 'open(\"{file}\")']}", "", "validate.run", "would have a message write code"),
        ("{run: 'ffprobe {files}'}", "", "validate.run", "unknown variable 'files'; did you mean 'file'?"),
        ("{run: 'ffprobe {file}', folder: '{file}'}", "", "validate.folder", "unknown variable 'file'"),
        ("{run: 'ffprobe {file}'}", "variables: {file: left.mp4}", "variables.file", "give this variable another name"),
        ("{run: 'ffprobe {file}'}", "folders: ['{file}']", "folders[0]", "unknown variable 'file'"),
    ],
)
def test_a_mistake_is_told_with_its_key(tmp_path: Path, validate: str, more: str, key: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]*") as told:
        _read(tmp_path, validate, more)
    assert told.value.key == key
    assert problem in told.value.problem


def test_it_needs_verify_and_a_variable_named_file_is_fine_without_it(tmp_path: Path) -> None:
    path = tmp_path / "rig.yaml"
    path.write_text("name: cameras\non: {EXPINIT: {run: date}}\nvalidate: {run: 'ffprobe {file}'}\n")
    with pytest.raises(ConfigError, match="this says more about verify, which is missing"):
        read_agent_file(path)
    path.write_text("name: cameras\nvariables: {file: left.mp4}\non: {EXPINIT: {run: 'ls {file}'}}\n")
    assert read_agent_file(path).validate is None


def test_what_a_shell_reads_may_look_at_all_files(tmp_path: Path) -> None:
    assert _validate(tmp_path, "{run: 'ffprobe video/{exp_ref}.mp4 > log', shell: true}").command.shell
