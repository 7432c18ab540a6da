"""`rigsync serve FILE.yaml` as a process of its own: its end, its death, and real ffmpeg."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cli_programs import Command, environment, has_ended, run_here, still_there
from platforms import linux, needs_ffmpeg, posix
from processes import LONG, Leftovers, free_port, keepers_of, suspended, until, watchers_of

from rigsync import Auxiliaries, ExperimentError, PushError
from rigsync.core.events import RestartSeen

REFERENCE = "2026-03-01_2_mouse"
STOP = {"stop": {"signal": "interrupt", "grace": 10}}


FFMPEG = "ffmpeg -hide_banner -y -re -f lavfi -i testsrc=size=160x120:rate=30 -pix_fmt yuv420p -preset ultrafast"


class Folder:
    """Files of agents, and `rigsync serve` on them."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, name: str = "cameras", on: Any = None, **keys: Any) -> str:
        document = {"name": name, "listen": "udp://127.0.0.1:0", "on": on or {"EXPINIT": {"run": "true"}}, **keys}
        (self.path / f"{name}.yaml").write_text(yaml.safe_dump(document))
        return f"{name}.yaml"

    def serve(self, *arguments: str) -> Command:
        return Command(["serve", *arguments, "--json"], self.path, environment(self.path))

    def refused(self, *arguments: str) -> str:
        outcome = run_here(["serve", *arguments, "--json"], self.path, environment(self.path))
        assert outcome.status == 2
        assert outcome.out == ""  # nothing listened
        return outcome.err


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def listening(command: Command) -> dict[str, str]:
    told = json.loads(command.line('{"rig"'))
    return {told["rig"]: told["listening"]}


def kill_at_once(*processes: psutil.Process) -> None:
    """Kill processes before any of them can do something about the end of another one."""
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()


SLEEPER = [sys.executable, "-c", "import time\nwhile True: time.sleep(0.1)"]


def begin(uris: dict[str, str]) -> tuple[Auxiliaries, int]:
    aux = Auxiliaries(uris)
    aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
    started = aux.request("EXPSTART", REFERENCE, timeout=LONG)
    (answer,) = started.values()
    return aux, answer[-1]["started"]["pid"]


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_what_it_runs(folder: Folder, name: str) -> None:
    number = getattr(signal, name)
    file = folder.write(on={"EXPSTART": {"start": SLEEPER}, "EXPEND": STOP})
    with folder.serve(file) as command:
        aux, pid = begin(listening(command))
        with aux:
            child = psutil.Process(pid)
            notices: list[Any] = []
            aux.on("notice", notices.append)
            command.process.send_signal(number)
            assert command.outcome().status == 0
            assert has_ended(child)
            until(lambda: any(n.topic == "status" and n.body["status"] == "STOPPED" for n in notices))


@posix
@pytest.mark.parametrize("with_verify", [True, False])
def test_it_says_what_was_recorded_and_when(folder: Folder, with_verify: bool) -> None:
    source = "import sys, time; open(sys.argv[1], 'w').write('x' * 12_345)\nwhile True: time.sleep(0.1)"
    start = {"start": [sys.executable, "-c", source, "left.mp4"], "ready": {"file": "left.mp4", "within": LONG}}
    verify = {"verify": {"files": "left.mp4", "growing_within": 60, "settled_within": 0.1}} if with_verify else {}
    file = folder.write(on={"EXPSTART": start, "EXPEND": STOP}, listen=f"udp://127.0.0.1:{free_port()}", **verify)
    with Command(["serve", file], folder.path, environment(folder.path)) as command:
        found = re.fullmatch(r"\d\d:\d\d:\d\d rig cameras listens on (.+)", command.error_line())
        assert found
        aux, _ = begin({"cameras": found[1]})
        with aux:
            until(lambda: (folder.path / "left.mp4").stat().st_size)
            aux.request("EXPEND", timeout=LONG)
        command.interrupt()
        lines = command.outcome().err.splitlines()
    what = "recorded left.mp4 12.3 kB in" if with_verify else "its commands ran for"
    (told,) = [line for line in lines if what in line]
    assert re.fullmatch(rf"\d\d:\d\d:\d\d cameras: {what} \d+:\d\d", told)


@posix
@pytest.mark.parametrize("whole", [True, False])
def test_one_that_was_killed_and_started_again_does_not_say_that_it_has_ended_the_recording(
    folder: Folder, whole: bool
) -> None:
    uri = f"udp://127.0.0.1:{free_port()}"
    file = folder.write(on={"EXPSTART": {"start": SLEEPER}, "EXPEND": STOP}, listen=uri)
    with folder.serve(file) as first:
        listening(first)
        with Auxiliaries({"cameras": uri}) as aux, contextlib.ExitStack() as stack:
            restarted: list[RestartSeen] = []
            aux.on("RestartSeen", restarted.append)
            session = aux.experiment(REFERENCE)
            if whole:
                session.__enter__()
            else:
                aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
                aux.request("EXPSTART", REFERENCE, timeout=LONG)
            first.process.kill()
            first.process.wait()
            listening(stack.enter_context(folder.serve(file)))
            until(lambda: restarted)
            text = f"StateError: this program has recorded nothing of {REFERENCE}: it was started anew since that began"
            if whole:
                with pytest.raises(ExperimentError, match=f"EXPEND failed: {text}") as told:
                    session.__exit__(None, None, None)
                assert told.value.outcomes["cameras"].endswith("; then interrupted and cleaned up")
            else:
                for _ in range(2):
                    with pytest.raises(PushError, match=text):
                        aux.request("EXPEND", timeout=LONG)
                aux.request("EXPINTERRUPT")
                aux.request("EXPCLEANUP")
            with pytest.raises(PushError, match=text):  # as long as this task has begun nothing else there
                aux.request("EXPEND")
            with Auxiliaries({"cameras": uri}) as other:
                other.request("EXPEND")  # which is meant for whatever there is, and is answered as ever
            begin({"cameras": uri})[0].close()


@posix
def test_a_recorder_that_ends_badly_is_in_the_log(folder: Folder) -> None:
    recorder = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit('No space left on device'));"
        "open('ready', 'w').close()\nwhile True: time.sleep(0.1)"
    )
    start = {"start": [sys.executable, "-c", recorder], "ready": {"file": "ready", "within": LONG}}
    with folder.serve(folder.write(on={"EXPSTART": start, "EXPEND": STOP})) as command:
        aux, _ = begin(listening(command))
        with aux, Auxiliaries(aux._rigs) as other:
            notices: list[Any] = []
            other.on("notice", notices.append)
            assert isinstance(aux.push("EXPEND", wait=True, timeout=LONG), PushError)
            # What `rigsync watch` shows, as any other program that watches.
            until(lambda: any("No space left" in str(n.body["error"]) for n in notices if n.topic == "log"))
        command.process.terminate()
        told = command.outcome().err
        assert told.count("EXPEND from 127.0.0.1:") == told.count("EndedBadly: ") == 1
        assert "No space left on device" in told


@posix
@needs_ffmpeg
def test_killed_while_ffmpeg_records_it_leaves_nothing_and_the_file_is_playable(folder: Folder) -> None:
    video = folder.path / "left.mp4"
    start = {"start": f"{FFMPEG} left.mp4", "ready": {"file": "left.mp4", "within": 20}, "frames": r"frame=\s*(\d+)"}
    file = folder.write(on={"EXPSTART": start, "EXPEND": STOP})
    with folder.serve(file) as command:
        aux, pid = begin(listening(command))
        with aux:
            assert aux.services
            progress = lambda: aux.services["cameras"].progress.get("ffmpeg frames")  # type: ignore[index]  # noqa: E731
            until(lambda: progress() and progress().value > 20)
            everything = command.children()
            assert pid in [child.pid for child in everything]
            command.process.kill()
            command.process.wait()
            assert still_there(everything, 2.0) == []  # the promise
    told = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(video)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(told.stdout) > 0.3
    assert told.stderr == ""


@linux
@pytest.mark.parametrize("way", ["background", "setsid"])
def test_killed_with_its_keepers_it_leaves_nothing(folder: Folder, way: str) -> None:
    with Leftovers() as leftovers:
        start = {"start": leftovers.line(way), "shell": True}
        with folder.serve(folder.write(on={"EXPSTART": start, "EXPEND": STOP})) as command:
            aux, _ = begin(listening(command))
            with aux:
                leftovers.await_all(way)
                kill_at_once(*keepers_of(command.process.pid), psutil.Process(command.process.pid))
                until(lambda: not leftovers.found())


@linux
def test_killed_with_all_that_cleans_up_after_it_the_next_start_does(folder: Folder) -> None:
    with Leftovers() as leftovers:
        start = {"start": leftovers.line("setsid"), "shell": True}
        # A name that no other test's agent has, which might start just then and do this one's work.
        name = f"cameras {leftovers.seconds}"
        file = folder.write(name, on={"EXPSTART": start, "EXPEND": STOP})
        with folder.serve(file) as command:
            aux, _ = begin(listening(command))
            with aux:
                leftovers.await_all("setsid")
                pid = command.process.pid
                watchers = watchers_of(pid)
                assert watchers
                kill_at_once(*watchers, *keepers_of(pid), psutil.Process(pid))
        left = leftovers.found()
        assert left
        with folder.serve(folder.write("ephys")) as command:
            listening(command)
            assert leftovers.found() == left  # which are none of that one's
        with folder.serve(file) as command:
            listening(command)
            assert leftovers.found() == []
            command.interrupt()
            said = command.outcome().err
        assert f"{name}: an earlier agent was killed; what it had left running was ended: " in said
        for process in left:
            assert f"sleep (process {process.pid})" in said


@linux
@pytest.mark.parametrize("way", ["setsid", "unmarked"])
def test_killed_with_its_watcher_while_its_keeper_is_stopped_the_next_start_ends_what_is_left(
    folder: Folder, way: str
) -> None:
    with Leftovers() as leftovers, contextlib.ExitStack() as stack:
        line = f"exec env -i sleep {leftovers.seconds}" if way == "unmarked" else leftovers.line(way)
        name = f"cameras {leftovers.seconds}"
        file = folder.write(name, on={"EXPSTART": {"start": line, "shell": True}, "EXPEND": STOP})
        with folder.serve(file) as command:
            aux, _ = begin(listening(command))
            with aux:
                until(leftovers.found) if way == "unmarked" else leftovers.await_all(way)
                pid = command.process.pid
                (keeper,) = keepers_of(pid)
                stack.enter_context(suspended(keeper))
                kill_at_once(*watchers_of(pid), psutil.Process(pid))
        assert leftovers.found()
        with folder.serve(file) as command:
            listening(command)
            assert leftovers.found() == []
            assert still_there([keeper], LONG) == []
            command.interrupt()
            said = command.outcome().err
        assert way == "unmarked" or f"{name}: an earlier agent was killed; what it had left running was ended: " in said
        assert "does not end" not in said


@linux
def test_a_keeper_that_is_killed_is_a_recording_that_has_failed(folder: Folder) -> None:
    with Leftovers() as leftovers:
        start = {"start": leftovers.line("setsid"), "shell": True}
        with folder.serve(folder.write(on={"EXPSTART": start, "EXPEND": STOP})) as command:
            aux, _ = begin(listening(command))
            with aux:
                notices: list[Any] = []
                aux.on("notice", notices.append)
                leftovers.await_all("setsid")
                kill_at_once(*keepers_of(command.process.pid))
                until(lambda: any(n.topic == "status" and n.body["status"] == "STOPPED" for n in notices))
                assert leftovers.found() == []
                (failure,) = [n.body["problem"] for n in notices if n.topic == "failure"]
                assert "was killed from outside" in failure
            command.interrupt()
            assert "the keeper of process" in command.outcome().err


@linux
def test_an_end_after_its_keeper_was_killed_waits_for_what_is_left(folder: Folder) -> None:
    with Leftovers() as leftovers:
        start = {"start": leftovers.line("stubborn"), "shell": True}
        with folder.serve(folder.write(on={"EXPSTART": start, "EXPEND": STOP})) as command:
            aux, _ = begin(listening(command))
            with aux:
                leftovers.await_all("stubborn")
                kill_at_once(*keepers_of(command.process.pid))
                with pytest.raises(PushError, match="EndedBadly"):  # and not before nothing is left
                    aux.request("EXPEND", timeout=LONG)
                assert leftovers.found() == []


def test_several_files_are_several_rigs(folder: Folder) -> None:
    files = [folder.write("left"), folder.write("right")]
    with folder.serve(*files) as command:
        uris = {**listening(command), **listening(command)}
        with Auxiliaries(uris) as aux:
            assert set(aux.request("EXPSTATUS", timeout=LONG)) == {"left", "right"}
        command.interrupt()
        assert command.outcome().status == 0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda f: [f.write("left", unknown=1)], "left.yaml:"),
        (lambda f: [f.write("left"), f.write("left2", name="left")], "two rigs have the name"),
        (
            lambda f: [f.write(on={"EXPSTART": {"start": "sleep 1"}})],
            "on.EXPSTART.start: nothing stops",
        ),
        (lambda f: [f.write(on={"EXPINIT": {"run": "echo {nothing}"}})], "unknown variable 'nothing'"),
        (lambda f: [f.write(on={"EXPBEGIN": {"run": "true"}})], "EXPBEGIN"),
        (lambda f: [f.write(folders=["../outside"])], "leads out of the folder"),
        (lambda f: ["missing.yaml"], "missing.yaml"),
        (lambda f: [f.write(), "--latency", "1"], "--latency is for a NAME"),
        (lambda f: [f.write(), "--fail", "EXPINIT"], "--fail is for a NAME"),
        (lambda f: ["one", "two"], "give one NAME, or files"),
        (lambda f: [f.write(), "two"], "two"),
        (lambda f: [f.write("left").removesuffix(".yaml")], "there is a file left.yaml; write that"),
        (lambda f: ["."], ". is a file or folder"),
        (lambda f: [f.rigs()], "this is a file of rigs, for tasks"),
    ],
)
def test_what_is_wrong_is_told_before_anything_listens(
    folder: Folder, make: Callable[[Any], list[str]], text: str
) -> None:
    class Writer:
        @staticmethod
        def rigs() -> str:
            (folder.path / "rigs.yaml").write_text("cameras: 127.0.0.1\n")
            return "rigs.yaml"

        @staticmethod
        def write(file: str = "cameras", **keys: Any) -> str:
            name = keys.pop("name", file)
            written = folder.write(name, **keys)
            if name != file:
                os.replace(folder.path / written, folder.path / f"{file}.yaml")
                folder.write(name)
            return f"{file}.yaml"

    assert text in folder.refused(*make(Writer))


def test_all_mistakes_of_all_files_are_told_before_anything_listens(folder: Folder) -> None:
    files = [folder.write("left", lease="soon", colour="red"), folder.write("right", listen="udp://127.0.0.1:11009")]
    files.append(folder.write("top", main_sync="so"))
    (folder.path / "twin.yaml").write_bytes((folder.path / "right.yaml").read_bytes())
    told = folder.refused(*files, "twin.yaml").splitlines()
    for line, parts in zip(
        told,
        [
            ("left.yaml:", "colour: unknown key"),
            ("left.yaml:", "lease: expected"),
            ("top.yaml:", "main_sync: expected"),
            ("twin.yaml:", "name: two rigs have the name 'right'"),
            ("twin.yaml:", "listen: right in right.yaml listens at"),
        ],
        strict=True,
    ):
        assert line.startswith("Error: ")
        assert all(part in line for part in parts)


def test_a_port_that_is_taken_is_told_and_nothing_stays(folder: Folder) -> None:
    port = free_port()
    files = [folder.write("left"), folder.write("right", listen=f"udp://127.0.0.1:{port}")]
    with folder.serve(files[1]) as first:
        listening(first)
        with folder.serve(*files) as command:
            outcome = command.outcome()
        assert outcome.status == 1
        assert f"port {port} is in use" in outcome.err
        first.interrupt()
        assert first.outcome().status == 0


SLOW = """
import signal, sys, time

def end(*_):
    print("told", flush=True)
    time.sleep(1)
    open(sys.argv[1], "w").close()
    sys.exit()

signal.signal(signal.SIGINT, end)
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


@posix
def test_two_agents_end_what_they_run_however_often_they_are_told_to(folder: Folder) -> None:
    (folder.path / "slow.py").write_text(SLOW)
    names = ("first", "second")
    on = {name: {"EXPSTART": {"start": [sys.executable, "slow.py", f"{name}.end"]}, "EXPEND": STOP} for name in names}
    files = [folder.write(name, on[name]) for name in names]
    with folder.serve(*files) as command:
        uris = {**listening(command), **listening(command)}
        with Auxiliaries(uris) as aux:
            aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
            aux.request("EXPSTART", REFERENCE, timeout=LONG)
            logs = [folder.path / "logs" / name / f"{REFERENCE}.rigsync.log" for name in names]
            until(lambda: all(log.exists() and "] ready\n" in log.read_text() for log in logs))
            for name in reversed(names):
                command.process.terminate()
                log = folder.path / "logs" / name / f"{REFERENCE}.rigsync.log"
                until(lambda log=log: "] told\n" in log.read_text())
            command.process.terminate()
            assert command.outcome().status == 0
    assert all((folder.path / f"{name}.end").exists() for name in names)
