"""`rigsync check` of an agent's file, and `rigsync schema`."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from agent.support import EXAMPLE, FULL, LEAST
from cli_programs import Command, Outcome, environment, run_here
from platforms import posix

from rigsync.agent.keys import AGENT
from rigsync.config.files import rigs_schema
from rigsync.config.schema import document

Rigsync = Callable[..., Outcome]


@pytest.fixture
def rigsync(tmp_path: Path) -> Rigsync:
    """Run a command in a folder with the file cameras.yaml."""

    def run(text: str | bytes, *arguments: str, status: int = 0) -> Outcome:
        (tmp_path / "cameras.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        programs = tmp_path / "programs"  # that are on this computer
        programs.mkdir(exist_ok=True)
        for name in ("python", "ffmpeg", "ffprobe", "exiftool"):
            (programs / name).touch(mode=0o755)
        path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        outcome = run_here(arguments, tmp_path, {**environment(tmp_path), **path})
        assert outcome.status == status, outcome
        assert "Traceback" not in outcome.err
        return outcome

    return run


def rows(outcome: Outcome) -> list[list[str]]:
    heading, *lines = outcome.out.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", heading)][:3]
    return [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines]


def test_check_shows_what_is_done_at_each_message(rigsync: Rigsync, tmp_path: Path) -> None:
    outcome = rigsync(EXAMPLE, "check", "cameras.yaml")
    assert outcome.err.startswith(
        "cameras.yaml: the rig cameras listens at udp://0.0.0.0:11001, interrupts after a lease of 300 s\n"
    )
    shown = [(at, does, re.sub(" {2,}", " | ", what)) for at, does, what in rows(outcome)]
    assert shown == [
        ("EXPINIT", "require", "20 GB free at D:/data"),
        ("EXPINIT", "require", "D:/data"),
        ("EXPINIT", "run", "python prepare.py --session {exp_ref} | 20 s"),
        ("EXPSTART", "start", "ffmpeg -f lavfi D:/data/{exp_ref}/left.mp4"),
        ("EXPSTART", "ready", "D:/data/{exp_ref}/left.mp4 | 5 s"),
        ("EXPEND", "stop", "interrupt | 10 s"),
        ("EXPCLEANUP", "run", "python transfer.py {exp_ref} | 60 s"),
        ("RUNNING", "verify", "D:/data/{exp_ref}/*.mp4 grows | 5 s"),
        ("EXPEND", "verify", "D:/data/{exp_ref}/*.mp4 has settled | 1 s"),
        ("always", "log", str(tmp_path / "logs" / "cameras")),
    ]


def test_check_shows_every_key(rigsync: Rigsync, tmp_path: Path) -> None:
    outcome = rigsync(FULL, "check", "cameras.yaml", status=1)
    assert "cameras:left listens at tcp://[::1]:12001, has no lease, records the main sync signal" in outcome.err
    for text in (
        "python 'prepare it.py' {message.operator} (in /data)",
        "frames    frame=\\s*([0-9]+)",
        "echo {date} {number} {subject} > /data/done (by a shell)",
        "/data/bin/tool",
        "/data/raw/{x}/{exp_ref}",
        "existing  keep",
        "/data/raw/{x}/cam_*.avi grows, in segments",
        "/data/raw/{x}/cam_*.avi has settled",
        "validate  ffprobe -v error {file} (in /data)",
        "cp -r /data/raw/{x}/{exp_ref} /nas/raw (in /data)",
        "after end, 2 at once; while another session records: go on",
        "queue     /data/queue",
        str(tmp_path / "logs" / "of"),
    ):
        assert text in outcome.out
    assert outcome.err.splitlines()[-1] == (
        "Error: the program /data/bin/tool is not on this computer, so EXPINIT would fail; install it, or correct its "
        "name or PATH"
    )


def test_check_with_json(rigsync: Rigsync, tmp_path: Path) -> None:
    document = json.loads(rigsync(EXAMPLE, "check", "cameras.yaml", "--json").out)
    assert (document["file"], document["errors"]) == ("cameras.yaml", [])
    agent = document["agent"]
    assert (agent["name"], agent["listen"], agent["lease"]) == ("cameras", "udp://0.0.0.0:11001", 300)
    assert (agent["main_sync"], agent["variables"]) == (False, {"data": "D:/data"})
    assert agent["on"]["EXPINIT"] == {
        "stop": None,
        "run": {
            "words": ["python", "prepare.py", "--session", "{exp_ref}"],
            "shell": False,
            "folder": None,
            "timeout": 20,
        },
        "start": None,
    }
    start = agent["on"]["EXPSTART"]["start"]
    assert (start["ready"], start["frames"]) == ({"file": "D:/data/{exp_ref}/left.mp4", "within": 5}, None)
    assert agent["on"]["EXPEND"]["stop"] == {"signal": "interrupt", "grace": 10}
    assert agent["require"]["free_disk"] == {"path": "D:/data", "at_least": 20 * 10**9}
    assert agent["existing"] == "refuse"
    assert agent["verify"] == {
        "files": "D:/data/{exp_ref}/*.mp4",
        "growing_within": 5,
        "settled_within": 1,
        "segments": False,
    }
    assert agent["logs"] == {"folder": str(tmp_path / "logs" / "cameras"), "keep": 100, "max_size": 10_000_000}
    document = json.loads(rigsync(FULL, "check", "cameras.yaml", "--json", status=1).out)
    assert document["missing_programs"] == ["/data/bin/tool"]
    full = document["agent"]
    assert full["experiment_description"]["authors"] == ["me", 7]
    assert full["finish"]["steps"][0]["words"][0] == "cp"
    assert [step["percent"] for step in full["finish"]["steps"]] == [r"(\d+)%", None]
    assert full["finish"]["queue"] == "/data/queue"
    assert full["validate"]["words"] == ["ffprobe", "-v", "error", "{file}"]
    least = json.loads(rigsync(LEAST, "check", "cameras.yaml", "--json").out)["agent"]
    assert (least["require"], least["verify"]) == (None, None)


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["table", "json"])
def test_check_never_shows_the_password_of_a_broker(rigsync: Rigsync, more: tuple[str, ...]) -> None:
    text = re.sub("(?m)^listen:.*$", "listen: mqtt://me:secret@b.lab/room1", EXAMPLE)
    outcome = rigsync(text, "check", "cameras.yaml", *more)
    assert "mqtt://b.lab:1883/room1" in outcome.out + outcome.err
    assert "secret" not in outcome.out + outcome.err


def test_a_mistake_is_told_with_file_line_and_key(rigsync: Rigsync) -> None:
    text = EXAMPLE.replace("EXPSTART", "EXPSTRT")
    problem = "unknown key 'EXPSTRT'; did you mean 'EXPSTART'?; the keys here are "
    outcome = rigsync(text, "check", "cameras.yaml", status=2)
    assert outcome.out == ""
    assert outcome.err.startswith(f"Error: cameras.yaml:8: on.EXPSTRT: {problem}")
    document = json.loads(rigsync(text, "check", "cameras.yaml", "--json", status=2).out)
    assert (document["file"], document["agent"]) == ("cameras.yaml", None)
    (error,) = document["errors"]
    assert error.pop("problem").startswith(problem)
    assert error == {"file": "cameras.yaml", "line": 8, "key": "on.EXPSTRT"}


def test_all_mistakes_are_told_at_once(rigsync: Rigsync) -> None:
    text = EXAMPLE.replace("EXPSTART", "EXPSTRT") + "lease: soon\nexisting: maybe\n"
    keys = ["on.EXPSTRT", "lease", "existing"]
    outcome = rigsync(text, "check", "cameras.yaml", status=2)
    assert [line.split(": ")[2] for line in outcome.err.splitlines()] == keys
    document = json.loads(rigsync(text, "check", "cameras.yaml", "--json", status=2).out)
    assert [error["key"] for error in document["errors"]] == keys
    lines = [
        f"Error: {error['file']}:{error['line']}: {error['key']}: {error['problem']}" for error in document["errors"]
    ]
    assert lines == outcome.err.splitlines()


def test_what_is_not_even_yaml_is_told_as_an_agents_file(rigsync: Rigsync) -> None:
    outcome = rigsync("name: a\non: {EXPINIT: [\n", "check", "cameras.yaml", status=2)
    assert outcome.err.startswith("Error: cameras.yaml:3: not valid YAML: ")
    assert "expected a YAML file with the keys name, listen and on" in outcome.err


@pytest.mark.parametrize("text", ["cameras: [a\n", b"name: \xff\n"])
def test_other_files_are_told_as_files_of_rigs(rigsync: Rigsync, text: str | bytes) -> None:
    outcome = rigsync(text, "check", "cameras.yaml", status=2)
    assert outcome.err.startswith("Error: cameras.yaml:")
    assert json.loads(rigsync(text, "check", "cameras.yaml", "--json", status=2).out)["rigs"] == {}


def test_nothing_is_run_and_no_socket_opened(rigsync: Rigsync, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        text = f"listen: udp://127.0.0.1:{taken.getsockname()[1]}\n" + LEAST.replace("date", "touch here")
        rigsync(text, "check", "cameras.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cameras.yaml", "programs"]


def test_a_regular_expression_that_python_warns_of_is_a_mistake(rigsync: Rigsync) -> None:
    text = FULL.replace("frame=\\s*([0-9]+)", "([[a])")
    outcome = rigsync(text, "check", "cameras.yaml", status=2)
    assert "on.EXPSTART.frames: not a regular expression: Possible nested set" in outcome.err


@posix
@pytest.mark.parametrize(
    ("rig", "more", "key"),
    [
        ("cameras", "variables: {data: données}", "variables.data"),
        ("cameras", "folders: [données]", "folders[0]"),
        ("données", 'folders: ["{rig}"]', "folders[0]"),
    ],
)
def test_a_path_that_the_locale_cannot_write_is_explained(tmp_path: Path, rig: str, more: str, key: str) -> None:
    (tmp_path / "cameras.yaml").write_text(f"{LEAST.replace('cameras', rig)}\n{more}\n", encoding="utf-8")
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with Command(["check", "cameras.yaml"], tmp_path, environment(tmp_path, **ascii_alone)) as command:
        outcome = command.outcome()
    assert outcome.status == 2
    assert (
        f"{key}: 'donn\\xe9es' has '\\xe9' in it, and file names here are ascii: start rigsync with PYTHONUTF8=1"
        in (outcome.err)
    )
    with Command(
        ["check", "cameras.yaml"], tmp_path, environment(tmp_path, **{**ascii_alone, "PYTHONUTF8": "1"})
    ) as command:
        assert command.outcome().status == 0


def test_a_terminal_is_told_no_more_than_text(rigsync: Rigsync) -> None:
    text = LEAST.replace("date", "'echo \u202e {x\u202e}'")
    outcome = rigsync(text, "check", "cameras.yaml", status=2)
    assert "\u202e" not in outcome.err


@pytest.mark.parametrize("which", [(), ("agent",), ("rigs",)])
def test_schema_prints_the_schema(rigsync: Rigsync, which: tuple[str, ...]) -> None:
    outcome = rigsync(LEAST, "schema", *which)
    agent = document("The file of a rigsync agent", AGENT.schema)
    assert json.loads(outcome.out) == (rigs_schema() if which == ("rigs",) else agent)
    assert outcome.err == ""


def test_check_explains_a_backslash_in_either_kind_of_file(rigsync: Rigsync) -> None:
    for text, key in (
        (LEAST.replace("date", r'[ffmpeg, "E:\behaviour\a.mp4"]'), "3: on.EXPINIT.run[1]"),
        ('rigs:\n  cameras: 10.0.0.1\n  "E:\\behaviour\\a.mp4": 10.0.0.2\n', "3: rigs"),
    ):
        assert rigsync(text, "check", "cameras.yaml", status=2).err == (
            rf"Error: cameras.yaml:{key}: \b, a backspace: in double quotes a backslash begins an escape; "
            r"write 'E:\behaviour\a.mp4' in single quotes or E:/behaviour/a.mp4" + "\n"
        )


def test_a_schema_that_there_is_not(rigsync: Rigsync) -> None:
    told = rigsync(LEAST, "schema", "rig", status=2).err
    assert "'rig' is not one of 'rigs', 'agent'" in told


def test_where_rigs_are_expected_the_file_of_an_agent_is_told_as_such(rigsync: Rigsync) -> None:
    told = rigsync(EXAMPLE, "ping", "--rigs", "cameras.yaml", status=2).err
    assert told == "Error: cameras.yaml: this is the file of an agent, for rigsync serve; a task takes a file of rigs\n"
