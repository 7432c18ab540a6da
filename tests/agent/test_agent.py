"""A rig whose handlers are commands, with real commands: Python programs, shells and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
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

import psutil
import pytest
import yaml
from platforms import linux, posix
from processes import LONG, until

from rigsync import Auxiliaries, ExperimentError, ExpStatus, PushError, RemoteError
from rigsync.agent import agent as agent_module
from rigsync.agent import aside, commands, kept_command, orphans, recording, session_log
from rigsync.agent.agent import Agent
from rigsync.agent.aside import Aside
from rigsync.agent.commands import CommandFailed, Commands, is_good_end
from rigsync.agent.file import Stop, read_agent_file
from rigsync.agent.process import Exit
from rigsync.core.enums import ExpMessage
from rigsync.core.events import Notice
from rigsync.core.queries import CHECK

REFERENCE = "2026-03-01_2_mouse"


STOP = {"stop": {"signal": "interrupt", "grace": 10}}

RECORDER = """
import os, signal, sys, time
path, told = sys.argv[1], []
signal.signal(signal.SIGINT, lambda *_: told.append(True))
os.makedirs(os.path.dirname(path), exist_ok=True)
frames = 0
while True:
    with open(path, "a") as file:
        file.write("x" * 100)
    frames += 1
    print("frame=", frames, flush=True)
    if told: sys.exit(0)  # not before: the file is seen as soon as it is there
    time.sleep(0.02)
"""
WAITS = "import time\nwhile True: time.sleep(0.1)"  # one long sleep can miss a signal at its start
STUBBORN = """
import signal, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
print("ignores you", flush=True)
time.sleep(1000)
"""
SAYS_ITS_ARGUMENTS = """
import json, os, sys
print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if k.startswith("RIGSYNC_")}]), flush=True)
"""


class Lab:
    """A folder with programs, agents in it, and a coordinator of them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.agents: list[Agent] = []
        self.connections: list[Auxiliaries] = []
        (folder / "data").mkdir()

    def program(self, source: str, name: str = "program.py") -> list[str]:
        path = self.folder / name
        path.write_text(textwrap.dedent(source))
        return [sys.executable, str(path)]

    def sleeper(self) -> dict[str, Any]:
        """One that runs until it is ended; ready once it can be, for Python fails at an interrupt before that."""
        source = "import pathlib, time\npathlib.Path('sleeps').touch()\nwhile True: time.sleep(0.1)"
        return {
            "start": self.program(source, "sleeper.py"),
            "ready": {"file": str(self.folder / "sleeps"), "within": LONG},
        }

    def agent(self, on: dict[str, Any], name: str = "cameras", **keys: Any) -> Agent:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "listen": "udp://127.0.0.1:0", "on": on} | keys))
        agent = Agent(read_agent_file(path))
        agent.start()
        self.agents.append(agent)
        return agent

    def connect(self, *agents: Agent, **options: Any) -> Auxiliaries:
        self.connections.append(Auxiliaries({agent.name: agent.uri for agent in agents or self.agents}, **options))
        return self.connections[-1]

    def log(self, name: str = "cameras", exp_ref: str = REFERENCE) -> str:
        path = self.folder / "logs" / name / f"{exp_ref}.rigsync.log"
        return path.read_text() if path.exists() else ""

    def logged(self, text: str) -> None:
        """Wait until a text is in the log, which is written by a thread of its own."""
        until(lambda: text in self.log(), f"{text!r} in the log")

    def close(self) -> None:
        for opened in (*self.connections, *self.agents):
            opened.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.close()


def init(aux: Auxiliaries, exp_ref: str | None = REFERENCE, **data: Any) -> Any:
    return aux.request("EXPINIT", {"exp_ref": exp_ref, **data}, timeout=LONG)


def failure(aux: Auxiliaries, message: str, *args: Any, rig: str = "cameras") -> RemoteError:
    outcome = aux.push(message, *args, wait=True, timeout=LONG)
    assert isinstance(outcome, PushError), outcome
    error = outcome.failed[rig]
    assert isinstance(error, RemoteError), error
    return error


def started_pid(answers: Any, rig: str = "cameras") -> int:
    return int(answers[rig][-1]["started"]["pid"])


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def noted(aux: Auxiliaries, topic: str) -> list[Notice]:
    notices: list[Notice] = []
    aux.on("notice", lambda notice: notices.append(notice) if notice.topic == topic else None)
    return notices


# ------------------------------------------------------------------------------------------------------------- run


def test_run_waits_and_answers_with_status_and_last_lines(lab: Lab) -> None:
    lab.agent({"EXPINIT": {"run": lab.program("for n in range(30): print('line', n)")}})
    told = init(lab.connect())["cameras"][0]["run"]
    assert told["status"] == 0
    assert told["last_lines"] == ["line 0", "line 29"]
    lab.logged("[")
    lab.logged("line 0")


def test_a_command_that_fails_fails_the_message_with_its_last_lines(lab: Lab) -> None:
    agent = lab.agent({"EXPINIT": {"run": lab.program("import sys; print('no camera'); sys.exit(3)")}})
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": REFERENCE})
    assert error.error == "CommandFailed"
    assert "ended by itself with exit status 3; its last lines: no camera" in error.message
    assert agent.status is ExpStatus.CONNECTED


def test_the_last_of_what_a_command_has_printed_is_told_however_long(lab: Lab) -> None:
    lab.agent({"EXPINIT": {"run": lab.program("import sys; print('first'); print('x' * 900, 'no disk'); sys.exit(1)")}})
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": REFERENCE})
    assert error.message.endswith("xxx no disk")
    assert len(error.message) < 700


def test_a_command_that_takes_too_long_is_ended_and_named(lab: Lab) -> None:
    lab.agent({"EXPINIT": {"run": lab.program(WAITS), "timeout": 0.3}})
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": REFERENCE})
    assert "took more than 0.3 s and was interrupted" in error.message


def test_words_are_arguments_and_values_are_in_the_environment(lab: Lab) -> None:
    words = [*lab.program(SAYS_ITS_ARGUMENTS), "--session", "{exp_ref}", "{date}|{number}|{subject}", "{message.note}"]
    lab.agent({"EXPINIT": {"run": words}}, variables={"unused": "x"})
    note = 'it\'s "red"; $(rm -rf .) `ls` & %PATH%'
    told = init(lab.connect(), note=note, box=4, nested={"a": [1]})["cameras"][0]["run"]
    arguments, environment = json.loads(told["last_lines"][0])
    assert arguments == ["--session", REFERENCE, "2026-03-01|2|mouse", note]
    assert environment["RIGSYNC_EXP_REF"] == REFERENCE
    assert environment["RIGSYNC_SUBJECT"] == "mouse"
    assert environment["RIGSYNC_NOTE"] == note
    assert environment["RIGSYNC_BOX"] == "4"
    assert json.loads(environment["RIGSYNC_NESTED"]) == {"a": [1]}
    assert (environment["RIGSYNC_RIG"], environment["RIGSYNC_EVENT"]) == ("cameras", "EXPINIT")


def test_the_data_of_expinit_is_known_until_the_end(lab: Lab) -> None:
    words = [*lab.program(SAYS_ITS_ARGUMENTS), "{message.box}"]
    lab.agent({"EXPCLEANUP": {"run": words}})
    aux = lab.connect()
    init(aux, box=4)
    told = aux.request("EXPCLEANUP", {"box": 5}, timeout=LONG)["cameras"][0]["run"]
    assert json.loads(told["last_lines"][0])[0] == ["5"]
    init(aux, box=4)
    told = aux.request("EXPCLEANUP", timeout=LONG)["cameras"][0]["run"]
    assert json.loads(told["last_lines"][0])[0] == ["4"]


HOSTILE = [
    "2026-03-01_2_../../etc",
    "2026-03-01_2_a/b",
    "2026-03-01_2_a\\b",
    "2026-03-01_2_a\nb",
    "../../etc/passwd",
    "/etc/passwd",
    "C:/windows",
    "2026-03-01_2_..",
    "2026-13-01_2_mouse",
    "mouse",
    "$(touch escaped)",
]


@pytest.mark.parametrize("reference", HOSTILE)
def test_a_reference_that_could_lead_elsewhere_is_refused_by_name(lab: Lab, reference: str) -> None:
    agent = lab.agent(
        {"EXPSTART": {"start": [*lab.program(RECORDER), "{data}/{exp_ref}/left.txt"]}, "EXPEND": STOP},
        variables={"data": str(lab.folder / "data")},
        folders=["{data}/{exp_ref}"],
    )
    before = sorted(lab.folder.rglob("*"))
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": reference})
    assert error.error == "SubstitutionError"
    assert "exp_ref" in error.message
    assert agent.status is ExpStatus.CONNECTED
    assert sorted(lab.folder.rglob("*")) == before


@pytest.mark.parametrize(
    "value", ["../x", "/etc", "a/b", "a\\b", "a\nb", "-rf", "", "nul", "a\0b", ["a"], {"a": 1}, None]
)
def test_a_value_that_could_lead_elsewhere_is_refused_by_name(lab: Lab, value: Any) -> None:
    lab.agent({"EXPINIT": {"run": [*lab.program(SAYS_ITS_ARGUMENTS), "{message.name}"]}})
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": REFERENCE, "name": value})
    assert error.error == "SubstitutionError"
    assert "message.name" in error.message


@posix
def test_a_shell_gets_what_means_nothing_to_it_and_no_more(lab: Lab) -> None:
    lab.agent(
        {"EXPINIT": {"run": "echo session {exp_ref} | tr a-z A-Z; echo {message.name}$RIGSYNC_NOTE", "shell": True}}
    )
    aux = lab.connect()
    told = init(aux, name="left_1", note="$(touch escaped)")["cameras"][0]["run"]
    assert told["last_lines"] == [f"SESSION {REFERENCE.upper()}", "left_1"]
    for name in ("a b", "$(touch escaped)", "`id`", "a;b", "a'b", 'a"b', "a|b", "a&b", "*", "~"):
        error = failure(aux, "EXPINIT", {"exp_ref": "2026-03-01_3_mouse", "name": name})
        assert error.error == "SubstitutionError"
    assert not (lab.folder / "escaped").exists()


def test_without_a_reference_a_file_that_needs_none_works(lab: Lab) -> None:
    lab.agent({"EXPINIT": {"run": lab.program("print('ready')")}})
    assert init(lab.connect(), None)["cameras"][0]["run"]["last_lines"] == ["ready"]


# ----------------------------------------------------------------------------------------------- start and its ends


def recording_agent(lab: Lab, program: str = RECORDER, stop: Any = STOP, **keys: Any) -> Agent:
    path = "{data}/{exp_ref}/left.txt"
    keys = {"ready": {"file": path, "within": 10}, "frames": r"frame= (\d+)", **keys}
    more = {key: keys.pop(key) for key in ("require", "verify", "lease", "folders", "logs", "existing") if key in keys}
    start = {"start": [*lab.program(program), path], **{key: value for key, value in keys.items() if value}}
    return lab.agent({"EXPSTART": start, "EXPEND": stop}, variables={"data": str(lab.folder / "data")}, **more)


def test_start_keeps_it_running_until_the_end(lab: Lab) -> None:
    agent = recording_agent(lab)
    aux = lab.connect()
    failures, others = noted(aux, "failure"), noted(aux, "log")
    init(aux)
    answers = aux.request("EXPSTART", REFERENCE, timeout=LONG)
    pid = started_pid(answers)
    assert (lab.folder / "data" / REFERENCE / "left.txt").exists()
    assert psutil.pid_exists(pid)
    assert agent.status is ExpStatus.RUNNING
    ended = aux.request("EXPEND", timeout=LONG)["cameras"][0]["ended"]
    assert list(ended.values()) == ["was interrupted and ended with exit status 0"]
    assert is_gone(pid)
    lab.logged("was interrupted and ended with exit status 0")
    agent.notify("log", "what was told before has come")
    until(lambda: others)
    assert failures == []


@pytest.mark.parametrize("end", ["EXPINTERRUPT", "close"])
def test_it_ends_with_an_interrupt_and_with_the_agent(lab: Lab, end: str) -> None:
    agent = recording_agent(lab)
    aux = lab.connect()
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    notices = noted(aux, "status")
    if end == "close":
        agent.close()
        until(lambda: any(n.body["reason"] == "the rig's program is being closed" for n in notices))
    else:
        aux.request(end, timeout=LONG)
    assert is_gone(pid)


def test_the_file_says_how_it_ends_whoever_ends_it(lab: Lab) -> None:
    recording_agent(lab, stop={"stop": {"signal": "terminate", "grace": 10}})
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    (ended,) = aux.request("EXPINTERRUPT", timeout=LONG)["cameras"][0]["ended"].values()
    assert ended == "was terminated and ended with SIGTERM"


def test_what_expinit_has_started_ends_with_expcleanup(lab: Lab) -> None:
    lab.agent({"EXPINIT": lab.sleeper(), "EXPEND": STOP}, existing="overwrite")
    aux = lab.connect()
    pid = started_pid(init(aux))
    assert "ended" in aux.request("EXPCLEANUP", timeout=LONG)["cameras"][0]
    assert is_gone(pid)


def test_it_ends_with_the_lease(lab: Lab) -> None:
    recording_agent(lab, lease=3)
    aux = lab.connect(leave_running=True)
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    aux.close()
    until(lambda: is_gone(pid))
    lab.logged("was interrupted")
    lab.logged("has been silent for the lease of 3 s")


def test_a_message_over_max_message_of_the_file_is_refused_with_the_key(lab: Lab) -> None:
    lab.agent({"EXPINIT": {"run": lab.program("print('ready')")}}, listen="tcp://127.0.0.1:0", max_message=300_000)
    aux = lab.connect()
    large = {"exp_ref": REFERENCE, "note": "x" * 250_000}
    assert init(aux, **large)["cameras"][0]["run"]["last_lines"] == ["ready"]
    error = failure(aux, "EXPINIT", {**large, "note": "x" * 350_000})
    assert error.error == "PayloadTooLarge"
    assert "and this side takes 300,000 (max_message)" in str(error)


def test_one_that_ignores_everything_is_killed_and_the_answer_says_so(lab: Lab) -> None:
    agent = recording_agent(lab, STUBBORN, {"stop": {"signal": "interrupt", "grace": 0.2}}, ready=None)
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    lab.logged("ignores you")
    # A failure: its file was not finished. It was ok, with this in `ended`, which no task code looks at.
    error = failure(aux, "EXPEND")
    text = "was killed after it ignored interrupt and terminate, and its file may not be whole; its last lines: ignores"
    assert text in error.message
    assert is_gone(pid)
    assert agent.status is ExpStatus.STOPPED
    assert failure(aux, "EXPEND").message == error.message  # as the first time
    assert "interrupted" not in aux.request("EXPINTERRUPT", timeout=LONG)["cameras"][0]
    assert failure(aux, "EXPEND").message == error.message
    aux.request("EXPCLEANUP", timeout=LONG)
    assert agent.status is ExpStatus.CONNECTED
    assert failures == []  # it is told once, by the answer


ENDS = """
import os, resource, signal, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def end(*_):
    print("ends by", {how!r}, flush=True)
    {how}
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
print("records", flush=True)
while True:
    time.sleep(0.1)
"""
DIES = "signal.signal({0}, signal.SIG_DFL); os.kill(os.getpid(), {0}); time.sleep(1000)"


def ending_agent(lab: Lab, how: str, signal: str = "interrupt", **keys: Any) -> tuple[Agent, Auxiliaries]:
    """Return an agent that records with a program that ends in some way when it is told to, and a coordinator."""
    stop = {"stop": {"signal": signal, "grace": 10}}
    agent = recording_agent(lab, ENDS.format(how=how), stop, ready=None, **keys)
    return agent, lab.connect()


def begin(lab: Lab, aux: Auxiliaries) -> None:
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    lab.logged("records")


@posix
@pytest.mark.parametrize(
    ("how", "keys", "told"),
    [
        (DIES.format("signal.SIGSEGV"), {}, "was interrupted and crashed with SIGSEGV"),
        ("sys.exit('No space left on device')", {}, "was interrupted and ended with exit status 1"),
        (DIES.format("signal.SIGTERM"), {}, "was interrupted and ended with SIGTERM"),
        ("sys.exit(143)", {}, "was interrupted and ended with exit status 143"),
        (DIES.format("signal.SIGINT"), {"signal": "terminate"}, "was terminated and ended with SIGINT"),
        ("sys.exit(255)", {"good_exit": [0]}, "was interrupted and ended with exit status 255"),
        (DIES.format("signal.SIGINT"), {"good_exit": [0, 255]}, "was interrupted and ended with SIGINT"),
    ],
)
def test_a_bad_end_is_a_failure_with_the_last_lines(lab: Lab, how: str, keys: dict[str, Any], told: str) -> None:
    agent, aux = ending_agent(lab, how, **keys)
    begin(lab, aux)
    error = failure(aux, "EXPEND")
    assert error.error == "EndedBadly"
    assert told in error.message
    assert "its last lines: records | ends by" in error.message
    if "No space" in how:
        assert error.message.endswith("No space left on device")
        assert "if that is how it ends, say so by good_exit: [1]" in error.message
    assert agent.status is ExpStatus.STOPPED


@posix
@pytest.mark.parametrize(
    ("how", "keys"),
    [
        ("sys.exit(0)", {}),
        ("sys.exit(255)", {}),
        ("sys.exit(130)", {}),
        (DIES.format("signal.SIGINT"), {}),
        ("sys.exit(143)", {"signal": "terminate"}),
        (DIES.format("signal.SIGTERM"), {"signal": "terminate"}),
        ("sys.exit(0)", {"signal": "kill"}),
        ("sys.exit(3)", {"good_exit": [0, 3]}),
        (DIES.format("signal.SIGINT"), {"good_exit": [130]}),
        (DIES.format("signal.SIGSEGV"), {"good_exit": [139]}),
    ],
)
def test_a_good_end_is_none(lab: Lab, how: str, keys: dict[str, Any]) -> None:
    agent, aux = ending_agent(lab, how, **keys)
    begin(lab, aux)
    assert "ended" in aux.request("EXPEND", timeout=LONG)["cameras"][0]
    assert agent.status is ExpStatus.STOPPED


@posix
def test_a_bad_end_is_a_failure_of_the_experiment_and_all_is_cleaned_up(lab: Lab) -> None:
    other = lab.agent({"EXPEND": {"run": lab.program("print('ended')", "a.py")}}, "ephys")
    ended = lab.program("print('lights off')", "b.py")
    agent = lab.agent(
        {
            "EXPSTART": {"start": lab.program(ENDS.format(how="sys.exit('No space left on device')"))},
            "EXPEND": {**STOP, "run": ended},
        }
    )
    aux = lab.connect()

    def task() -> None:
        with aux.experiment(REFERENCE, timeout=LONG):
            lab.logged("records")

    with pytest.raises(ExperimentError, match="No space left on device") as told:
        task()
    assert list(told.value.failed) == ["cameras"]
    assert told.value.outcomes["cameras"].endswith("; then interrupted and cleaned up")
    assert told.value.outcomes["ephys"] == "ended and cleaned up"
    lab.logged("lights off")  # what else the file says of EXPEND is done all the same
    assert {agent.status, other.status} == {ExpStatus.CONNECTED}


@posix
def test_an_interrupt_that_meets_a_bad_end_tells_it_and_has_not_failed(lab: Lab) -> None:
    agent, aux = ending_agent(lab, "sys.exit('No space left on device')")
    failures = noted(aux, "failure")
    begin(lab, aux)
    assert "ended" in aux.request("EXPINTERRUPT", timeout=LONG)["cameras"][0]
    until(lambda: failures)
    assert "was interrupted and ended with exit status 1" in failures[0].body["problem"]
    assert failures[0].body["exp_ref"] == REFERENCE
    assert agent.status is ExpStatus.STOPPED
    aux.request("EXPCLEANUP", timeout=LONG)


@posix
def test_an_interrupt_that_overtakes_the_end_tells_of_a_bad_one(lab: Lab) -> None:
    agent = lab.agent(
        {
            "EXPSTART": {"start": lab.program(ENDS.format(how="sys.exit('No space left on device')"))},
            "EXPEND": {**STOP, "run": lab.program(WAITS, "a.py")},
        }
    )
    aux = lab.connect()
    failures = noted(aux, "failure")
    begin(lab, aux)
    aux.push("EXPEND")
    lab.logged("was interrupted and ended with exit status 1")
    until(lambda: any(child.process.pid for child in agent._commands.running()))
    aux.request("EXPINTERRUPT", timeout=LONG)
    until(lambda: failures)
    assert "No space left on device" in failures[0].body["problem"]


@pytest.mark.parametrize(
    ("ended", "stop", "good_exit", "windows", "is_good"),
    [
        (Exit(0, None, "terminate", (), ("interrupt",)), Stop("interrupt", 5.0), None, False, True),
        (Exit(None, "SIGTERM", "terminate", (), ("interrupt",)), Stop("interrupt", 5.0), None, False, False),
        (Exit(None, "SIGTERM", "terminate"), Stop("interrupt", 0.0), None, False, True),  # with no time between
        (Exit(None, "SIGKILL", "kill"), Stop("terminate", 0.0), None, False, True),
        (Exit(None, "SIGKILL", "kill", (), ("terminate",)), Stop("terminate", 5.0), None, False, False),
        (Exit(None, "SIGKILL", "kill"), Stop("kill", 0.0), [0], False, True),
        (Exit(0, None, "kill", (), ("interrupt", "terminate")), Stop("interrupt", 5.0), None, False, False),
        (Exit(0, None, "by itself"), Stop("interrupt", 5.0), None, False, False),
        (Exit(None, "signal 35", "interrupt"), Stop("interrupt", 5.0), None, False, False),
        (Exit(0xC000013A, None, "interrupt"), Stop("interrupt", 5.0), None, True, True),
        (Exit(0xC000013A, None, "interrupt"), Stop("interrupt", 5.0), None, False, False),
        (Exit(1, None, "kill"), Stop("terminate", 5.0), None, True, True),  # to terminate is to kill there
        (Exit(1, None, "kill"), Stop("kill", 0.0), None, True, True),
        (Exit(1, None, "kill", (), ("interrupt",)), Stop("interrupt", 5.0), None, True, False),
        (Exit(1, None, "kill", (), ("interrupt",)), Stop("interrupt", 0.0), None, True, True),
    ],
)
def test_which_end_is_good(ended: Exit, stop: Stop, good_exit: list[int] | None, windows: bool, is_good: bool) -> None:
    assert is_good_end(ended, stop, good_exit, windows) is is_good


def test_one_that_does_not_begin_in_time_fails_the_start_and_is_gone(lab: Lab) -> None:
    agent = recording_agent(
        lab,
        "import time; print('warming up', flush=True)\nwhile True: time.sleep(0.1)",
        ready={"file": "{data}/never", "within": 0.3},
    )
    aux = lab.connect()
    init(aux)
    error = failure(aux, "EXPSTART", REFERENCE)
    assert error.error == "CommandFailed"
    assert "has not begun to write" in error.message
    assert "within 0.3 s (it is not there, or is as before)" in error.message
    assert "warming up" in error.message
    assert agent.status is ExpStatus.INITIALIZED
    assert not agent._commands.running()


def test_one_that_ends_before_it_has_begun_fails_the_start_at_once(lab: Lab) -> None:
    agent = recording_agent(
        lab, "import sys; sys.exit('no camera')", ready={"file": "{data}/never", "within": 2 * LONG}
    )
    aux = lab.connect()
    init(aux)
    error = failure(aux, "EXPSTART", REFERENCE)
    assert "ended by itself with exit status 1" in error.message
    assert "no camera" in error.message
    assert agent.status is ExpStatus.INITIALIZED


def test_a_file_from_before_does_not_count_as_ready(lab: Lab) -> None:
    folder = lab.folder / "data" / REFERENCE
    folder.mkdir()
    (folder / "left.txt").write_text("of yesterday")
    ready = {"file": "{data}/{exp_ref}/left.txt", "within": 0.3}
    recording_agent(lab, WAITS, ready=ready, existing="overwrite")
    aux = lab.connect()
    init(aux)
    assert "has not begun to write" in failure(aux, "EXPSTART", REFERENCE).message


def test_an_interrupt_while_it_is_being_started_leaves_nothing(lab: Lab) -> None:
    agent = recording_agent(lab, WAITS, ready={"file": "{data}/never", "within": 30})
    aux = lab.connect()
    init(aux)
    key = aux.push("EXPSTART", REFERENCE)
    until(lambda: agent._commands.running() and agent._commands.running()[0].process.pid)
    aux.request("EXPINTERRUPT", timeout=LONG)
    until(lambda: aux.response(key))
    assert "Interrupted" in type(aux.response(key).failed["cameras"]).__name__
    assert not agent._commands.running()
    assert agent.status is ExpStatus.STOPPED


def test_an_interrupt_ends_a_command_that_is_waited_for(lab: Lab) -> None:
    agent = lab.agent({"EXPINIT": {"run": lab.program(WAITS)}})
    aux = lab.connect()
    aux.push("EXPINIT", {"exp_ref": REFERENCE})
    until(lambda: agent._commands.running() and agent._commands.running()[0].process.pid)
    aux.request("EXPINTERRUPT", timeout=LONG)
    assert not agent._commands.running()


def test_one_that_dies_while_it_records_is_told_at_once(lab: Lab) -> None:
    agent = recording_agent(lab)
    aux = lab.connect()
    failures, statuses = noted(aux, "failure"), noted(aux, "status")

    def task() -> None:
        with aux.experiment(REFERENCE, timeout=LONG) as session:
            psutil.Process(started_pid(session.results["EXPSTART"])).kill()
            until(lambda: session.failures)
            session.check()

    with pytest.raises(ExperimentError, match="was killed from outside"):
        task()
    assert "was killed from outside" in failures[0].body["problem"]
    assert "frame=" in failures[0].body["problem"]
    assert any(n.body["status"] == "STOPPED" and "was killed from outside" in n.body["reason"] for n in statuses)
    assert agent.status is ExpStatus.CONNECTED


@linux
def test_one_that_dies_just_before_it_is_told_to_end_is_told_too(lab: Lab) -> None:
    recording_agent(lab)
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    guard = psutil.Process(pid).parent()
    assert guard
    guard.suspend()  # it learns of both at once
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_gone(pid))
    key = aux.push("EXPEND")
    lab.logged("EXPEND of")
    with contextlib.suppress(psutil.NoSuchProcess):  # the agent has woken it already
        guard.resume()
    # By the answer to EXPEND. It was by a notice, which an experiment that is ending does not look at any more.
    assert "was killed from outside" in str(until(lambda: aux.response(key)).failed["cameras"])
    assert failures == []


@linux
def test_one_that_dies_just_before_another_experiment_ends_it_does_not_interrupt_that(lab: Lab) -> None:
    agent = lab.agent({"EXPINIT": {"start": lab.program(WAITS)}, "EXPEND": STOP})
    aux = lab.connect()
    failures = noted(aux, "failure")
    pid = started_pid(init(aux))
    guard = psutil.Process(pid).parent()
    assert guard
    guard.suspend()  # it learns of both at once
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_gone(pid))
    (child,) = agent._commands.running()
    key = aux.push("EXPINIT", {"exp_ref": NEXT})
    until(lambda: child.asked)
    with contextlib.suppress(psutil.NoSuchProcess):  # the agent has woken it already
        guard.resume()
    answers = until(lambda: aux.response(key))
    assert not isinstance(answers, PushError), answers
    assert psutil.pid_exists(started_pid(answers))
    until(lambda: failures)
    assert failures[0].body["exp_ref"] == REFERENCE
    assert agent.status is ExpStatus.INITIALIZED


def test_one_that_ends_well_before_its_time_is_told_too(lab: Lab) -> None:
    agent = recording_agent(
        lab,
        """
        import os, sys, time
        open(sys.argv[1], "w")
        while not os.path.exists("go"):
            time.sleep(0.01)
        print("done")
        """,
        folders=["{data}/{exp_ref}"],
    )
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    (lab.folder / "go").touch()
    until(lambda: agent.status is ExpStatus.STOPPED)
    error = failure(aux, "EXPEND")
    assert error.error == "EndedBadly"
    assert "ended by itself with exit status 0" in error.message
    assert "done" in error.message
    assert isinstance(aux.push("EXPEND", wait=True, timeout=LONG), PushError)


def test_a_program_that_is_not_there_any_more_fails_the_start(lab: Lab) -> None:
    recording_agent(lab)
    aux = lab.connect()
    init(aux)
    (lab.folder / "program.py").unlink()
    assert "No such file" in failure(aux, "EXPSTART", REFERENCE).message


def test_two_commands_of_one_program_have_names_of_their_own(lab: Lab) -> None:
    lab.agent({"EXPINIT": lab.sleeper(), "EXPSTART": lab.sleeper(), "EXPEND": STOP}, existing="overwrite")
    aux = lab.connect()
    first = init(aux)["cameras"][0]["started"]["command"]
    second = aux.request("EXPSTART", REFERENCE, timeout=LONG)["cameras"][1]["started"]["command"]
    assert second == f"{first} 2"
    assert set(aux.request("EXPEND", timeout=LONG)["cameras"][0]["ended"]) == {first, second}


def test_another_experiment_ends_what_the_one_before_has_started(lab: Lab) -> None:
    lab.agent({"EXPINIT": lab.sleeper(), "EXPEND": STOP}, existing="overwrite")
    aux = lab.connect()
    first = started_pid(init(aux))
    second = started_pid(init(aux, "2026-03-01_3_mouse"))
    assert is_gone(first)
    assert psutil.pid_exists(second)


# -------------------------------------------------------------------------------------------- require, verify, logs


def test_what_is_required_refuses_the_experiment_on_every_screen(lab: Lab) -> None:
    lab.agent(
        {"EXPINIT": {"run": "no-such-program --version"}},
        require={
            "free_disk": {"path": "data", "at_least": "900 PB"},
            "files": ["data/missing"],
            "programs": ["another-one"],
        },
    )
    aux, other = lab.connect(), lab.connect()
    seen = noted(other, "log")
    error = failure(aux, "EXPINIT", {"exp_ref": REFERENCE})
    assert error.error == "RequirementMissing"
    for text in ("no-such-program", "another-one", "are free at", "900 PB are required", "missing' does not exist"):
        assert text in error.message
    until(lambda: seen)
    assert "RequirementMissing" in seen[0].body["error"]
    assert "no-such-program" in seen[0].body["error"]


def test_folders_are_made_when_all_is_there_that_is_required(lab: Lab) -> None:
    keys: dict[str, Any] = {"folders": ["data/{exp_ref}/videos"]}
    lab.agent({"EXPINIT": {"run": "no-such-program"}}, **keys)
    failure(lab.connect(), "EXPINIT", {"exp_ref": REFERENCE})
    assert not (lab.folder / "data" / REFERENCE).exists()
    other = lab.agent({"EXPINIT": {"run": lab.program("print('ready')")}}, name="other", **keys)
    init(lab.connect(other))
    assert (lab.folder / "data" / REFERENCE / "videos").is_dir()


def test_folders_that_cannot_be_made_refuse_the_experiment(lab: Lab) -> None:
    (lab.folder / "data" / REFERENCE).write_text("a file where the folder should be")
    lab.agent({"EXPINIT": {"run": lab.program("print('ready')")}}, folders=["data/{exp_ref}/videos"])
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": REFERENCE})
    assert error.error == "RequirementMissing"
    assert "videos' cannot be made" in error.message


def test_a_folder_that_cannot_be_written_to_refuses_the_experiment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/proc/self") if sys.platform == "linux" else lab.folder / "data"  # read-only for root as well
    if sys.platform != "linux":
        folder.chmod(0o500)
    lab.agent({"EXPINIT": {"run": lab.program("print('ran')")}}, require={"files": [str(folder)]})
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": REFERENCE})
    assert "cannot be written to" in error.message


@posix
@pytest.mark.parametrize("files", ["{data}/{exp_ref}/*.txt", "{data}/{exp_ref}/left.txt"])
def test_a_recorder_that_freezes_is_told_within_the_time_and_its_recovery_too(lab: Lab, files: str) -> None:
    recording_agent(lab, verify={"files": files, "growing_within": 2})
    aux = lab.connect()
    failures, recoveries = noted(aux, "failure"), noted(aux, "recovered")
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    until(lambda: aux.services and aux.services["cameras"].progress.get("left.txt"))
    assert failures == []
    os.kill(pid, signal.SIGSTOP)
    frozen = time.monotonic()
    until(lambda: failures)
    assert time.monotonic() - frozen < 3  # the promise, and what it takes to get here on a busy machine
    assert "left.txt has stopped growing: not a byte within 2 s" in failures[0].body["problem"]
    lab.logged("left.txt has stopped growing")
    assert failures[0].key == "left.txt"
    os.kill(pid, signal.SIGCONT)
    until(lambda: recoveries)
    assert len(failures) == 1
    aux.request("EXPEND", timeout=LONG)


def test_a_recorder_that_writes_nothing_is_told(lab: Lab) -> None:
    recording_agent(
        lab,
        WAITS,
        ready=None,
        verify={"files": "{data}/{exp_ref}/*.txt", "growing_within": 0.5},
    )
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: failures)
    assert "there is no file" in failures[0].body["problem"]
    assert "*.txt after 0.5 s; compare verify with what start writes" in failures[0].body["problem"]


def test_it_is_told_when_nobody_can_look_any_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = recording_agent(lab, verify={"files": "{data}/{exp_ref}/*.txt", "growing_within": 5})
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)

    def refuse(*_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(agent._aside, "begin", refuse)
        until(lambda: failures)
    assert "is not watched any more" in failures[0].body["problem"]
    assert "can't start new thread" in failures[0].body["problem"]
    assert aux.request("EXPEND", timeout=LONG)["cameras"][0]["ended"]


def test_what_is_left_of_an_earlier_recording_need_not_grow(lab: Lab) -> None:
    folder = lab.folder / "data" / REFERENCE
    folder.mkdir()
    (folder / "before.txt").write_text("of an hour ago")
    recording_agent(lab, verify={"files": "{data}/{exp_ref}/*.txt", "growing_within": 0.3})
    aux = lab.connect()
    failures = noted(aux, "failure")
    assert aux.services
    remote = aux.services["cameras"]
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: "left.txt" in remote.progress)
    size = remote.progress["left.txt"].value
    until(lambda: remote.progress["left.txt"].value > size + 3000)  # for longer than it would take to be told
    assert [failure for failure in failures if "before.txt" in failure.body["problem"]] == []
    assert "before.txt" not in remote.progress


def test_how_far_a_recording_is(lab: Lab) -> None:
    recording_agent(lab, verify={"files": "{data}/{exp_ref}/*.txt", "growing_within": 5}, frames=r"(\d+)")
    aux = lab.connect()
    assert aux.services
    remote = aux.services["cameras"]
    ended: list[Any] = []
    aux.on("StreamRemoved", ended.append)
    init(aux)
    label = aux.request("EXPSTART", REFERENCE, timeout=LONG)["cameras"][1]["started"]["command"]
    until(lambda: remote.streams.get(label, {}).get("state") == "running")
    until(lambda: f"{label} frames" in remote.progress and "left.txt" in remote.progress)
    assert remote.progress["left.txt"].unit == "B"
    frames = remote.progress[f"{label} frames"].value
    aux.request("EXPEND", timeout=LONG)
    size = (lab.folder / "data" / REFERENCE / "left.txt").stat().st_size
    until(lambda: remote.progress["left.txt"].value == size)
    assert remote.progress[f"{label} frames"].value >= frames > 0  # its exit status is none of them
    until(lambda: ended)
    assert ended[0].info["state"] == "ended"
    assert ended[0].info["outcome"] == "was interrupted and ended with exit status 0"
    aux.request("EXPCLEANUP", timeout=LONG)
    until(lambda: not remote.progress, "what is over is shown no more")


def test_no_line_keeps_the_rig_from_answering(lab: Lab) -> None:
    """In all of this one the expression would be looked for for minutes, while nothing else runs."""
    source = "import time; print('frame=1 ' * 500); print('frame=7 fps=3', flush=True)\nwhile True: time.sleep(0.1)"
    recording_agent(lab, source, ready=None, frames=r".*=(\d).*fps")
    aux = lab.connect()
    assert aux.services
    init(aux)
    label = aux.request("EXPSTART", REFERENCE, timeout=LONG)["cameras"][1]["started"]["command"]
    until(lambda: aux.services["cameras"].progress.get(f"{label} frames"))
    assert aux.services["cameras"].progress[f"{label} frames"].value == 7
    aux.request("EXPEND", timeout=LONG)


def test_each_session_has_a_log_of_its_own_and_old_ones_go(lab: Lab) -> None:
    lab.agent({"EXPINIT": {"run": lab.program("print('hello')")}}, logs={"folder": "protocols", "keep": 2})
    aux = lab.connect()
    for n in range(3):
        init(aux, f"2026-03-01_{n}_mouse")
        aux.request("EXPCLEANUP", timeout=LONG)
    logs = sorted(path.name for path in (lab.folder / "protocols").iterdir())
    assert logs == ["2026-03-01_1_mouse.rigsync.log", "2026-03-01_2_mouse.rigsync.log"]


def test_a_reference_that_is_no_file_name_has_its_log_by_the_time(lab: Lab) -> None:
    lab.agent({"EXPINIT": {"run": lab.program("print('hello')")}})
    init(lab.connect(), "of the third kind / 1")
    (log,) = (lab.folder / "logs" / "cameras").iterdir()
    assert log.name.startswith("20")


def test_it_is_a_rig_like_any_other(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lab.agent(
        {"EXPINIT": {"run": lab.program("print('hello')")}},
        main_sync=True,
        experiment_description={"devices": {"cameras": {"left": {"fps": 60}}}},
    )
    ((status, info),) = lab.connect().request("EXPINFO").values()
    assert (status, info["main_sync"]) == (0, True)
    assert info["experiment_description"]["devices"]["cameras"]["left"]["fps"] in (60, "60")


def test_many_sessions_leave_nothing(lab: Lab) -> None:
    agent = recording_agent(lab)
    aux = lab.connect()
    for n in range(5):
        with aux.experiment(f"2026-03-01_{n}_mouse", timeout=LONG) as session:
            session.check()
    assert not agent._commands.running()
    # The thread of the last one may be about to end when its end is answered.
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("rigsync-command")])


def test_two_agents_and_one_that_refuses(lab: Lab) -> None:
    recording_agent(lab)
    lab.agent({"EXPINIT": {"run": "no-such-program"}}, name="ephys")
    aux = lab.connect()

    def task() -> None:
        with aux.experiment(REFERENCE, timeout=LONG):
            pass

    with pytest.raises(ExperimentError) as told:
        task()
    # Whichever is first: that it is ready, or that the other is not.
    told_of = ("initialised; then interrupted and cleaned up", "EXPINIT called off; then interrupted and cleaned up")
    assert told.value.outcomes["cameras"] in told_of
    assert "no-such-program" in told.value.outcomes["ephys"]


# ----------------------------------------------------------------------------------------- what else may go wrong

NEXT = "2026-03-01_3_mouse"


@pytest.mark.parametrize("message", ["EXPINIT", "EXPSTART"])
def test_what_one_still_prepares_is_ended_as_soon_as_another_refuses(lab: Lab, message: str) -> None:
    prepare = {
        "EXPINIT": {"run": lab.program(WAITS)},
        "EXPSTART": {"start": lab.program(WAITS), "ready": {"file": "never", "within": 2 * LONG}},
    }
    slow = lab.agent(
        {message: prepare[message], "EXPEND": STOP} if message == "EXPSTART" else {message: prepare[message]}
    )
    refuses = "import os, sys, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nsys.exit('no camera')"
    lab.agent({message: {"run": lab.program(refuses, "a.py")}}, "ephys")
    aux = lab.connect()
    pids: list[int] = []

    def let_go() -> None:
        until(lambda: slow._commands.running() and slow._commands.running()[0].process.pid)
        pids.append(slow._commands.running()[0].process.pid)
        (lab.folder / "go").touch()

    helping = threading.Thread(target=let_go)
    helping.start()
    begun = time.monotonic()
    with pytest.raises(ExperimentError, match="no camera") as told:
        aux.experiment(REFERENCE).__enter__()
    assert time.monotonic() - begun < LONG  # while the other would prepare for longer
    helping.join(LONG)
    assert told.value.outcomes["cameras"] == f"{message} called off; then interrupted and cleaned up"
    assert is_gone(pids[0])
    assert slow.status is ExpStatus.CONNECTED


def test_an_experiment_that_is_refused_leaves_the_one_before_as_it_was(lab: Lab) -> None:
    lab.agent(
        {
            "EXPINIT": {"start": lab.program(WAITS, "warm.py")},
            "EXPSTART": {"start": [*lab.program(RECORDER), "{data}/{exp_ref}/left.txt"]},
            "EXPEND": STOP,
            "EXPCLEANUP": {"run": [*lab.program(SAYS_ITS_ARGUMENTS, "says.py"), "{message.box}"]},
        },
        variables={"data": str(lab.folder / "data")},
        require={"files": ["{data}/{exp_ref}"]},
    )
    (lab.folder / "data" / REFERENCE).mkdir()
    aux = lab.connect()
    warm = started_pid(init(aux, box=4))
    assert "does not exist" in failure(aux, "EXPINIT", {"exp_ref": NEXT, "box": 5}).message
    assert psutil.pid_exists(warm)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: (lab.folder / "data" / REFERENCE / "left.txt").exists())
    aux.request("EXPEND", timeout=LONG)
    told = aux.request("EXPCLEANUP", timeout=LONG)["cameras"][0]["run"]
    assert json.loads(told["last_lines"][0])[0] == ["4"]


def test_an_experiment_that_fails_after_it_has_ended_the_one_before_says_so(lab: Lab) -> None:
    agent = lab.agent(
        {
            "EXPINIT": {
                "run": [*lab.program("import sys; sys.exit(sys.argv[1] == '3')"), "{number}"],
                "start": lab.program(WAITS, "warm.py"),
            },
            "EXPEND": STOP,
        }
    )
    aux = lab.connect()
    statuses = noted(aux, "status")
    init(aux)
    failure(aux, "EXPINIT", {"exp_ref": NEXT})
    until(lambda: agent.status is ExpStatus.STOPPED)
    until(lambda: statuses[-1:] and statuses[-1].body["reason"])
    assert f"EXPINIT of {NEXT} failed" in statuses[-1].body["reason"]


@pytest.mark.parametrize("program", ["no-such-program", sys.executable])
def test_one_that_is_called_off_while_it_starts_is_no_obstacle(program: str) -> None:
    threads = Aside("test")

    async def call_off() -> list[str]:
        def nothing(*_: Any) -> None:
            pass

        kept = Commands(nothing, threads)
        begin = kept.begin([program, "-c", WAITS], folder="", environment={}, on_line=nothing, on_exit=nothing)
        starting = asyncio.create_task(begin)
        await asyncio.sleep(0)
        assert kept.running()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        ended = await asyncio.wait_for(kept.end_all(None), LONG)
        assert kept.wait(LONG)
        return list(ended)

    try:
        ended = asyncio.run(call_off())
    finally:
        threads.close()
    assert ended == [program if program == "no-such-program" else os.path.basename(program)]


def test_none_begins_once_all_are_told_to_end(tmp_path: Path) -> None:
    """As the `run` of an EXPINTERRUPT would that comes to it only when the agent has waited long enough."""
    threads = Aside("test")

    async def begin_late() -> None:
        def nothing(*_: Any) -> None:
            pass

        kept = Commands(nothing, threads)
        kept.close()
        words = [sys.executable, "-c", "open('ran', 'w')"]
        with pytest.raises(CommandFailed, match="was not started: the rig's program is being closed"):
            await kept.begin(words, folder=str(tmp_path), environment={}, on_line=nothing, on_exit=nothing)
        assert kept.wait(LONG)

    try:
        asyncio.run(begin_late())
    finally:
        threads.close()
    assert not (tmp_path / "ran").exists()


def test_one_that_no_thread_can_be_had_for_is_no_obstacle() -> None:
    threads = Aside("test")
    threads.close()  # as though the system gave no more

    async def begin() -> None:
        def nothing(*_: Any) -> None:
            pass

        kept = Commands(nothing, threads)
        with pytest.raises(RuntimeError):
            await kept.begin(["true"], folder="", environment={}, on_line=nothing, on_exit=nothing)
        assert await kept.end_all(None) == {}

    asyncio.run(begin())


@pytest.mark.parametrize("turns", range(6))
def test_an_interrupt_is_heeded_though_a_command_ends_at_that_moment(lab: Lab, turns: int) -> None:
    agent = lab.agent({"EXPINIT": {"run": lab.program(WAITS)}})

    async def interrupt() -> bool:
        """Interrupt some turns of the loop after the command has ended; return whether the handler went on."""
        handling = asyncio.create_task(agent.handle(ExpMessage.EXPINIT, {"exp_ref": REFERENCE}))
        while not (running := agent._commands.running()) or not running[0].process.pid:
            await asyncio.sleep(0.01)
        running[0].ended.set_result(Exit(0, None, "by itself"))
        for _ in range(turns):
            await asyncio.sleep(0)
        has_ended = handling.done()
        handling.cancel()
        await asyncio.wait([handling])
        return handling.cancelled() or has_ended

    assert asyncio.run(interrupt())


def test_files_of_any_name_and_number_are_looked_at(lab: Lab) -> None:
    source = """
    import os, sys, time
    folder = os.path.dirname(os.fsencode(sys.argv[1]))
    os.makedirs(folder)
    names = [b"%d.txt" % n for n in range(1100)] + [b"n" * 200 + b".txt"]
    if sys.platform == "linux":
        names.append(b"\\xff.txt")
    files = [open(os.path.join(folder, name), "wb", buffering=0) for name in names]
    while True:
        for file in files:
            file.write(b"x")
        time.sleep(0.05)
    """
    recording_agent(
        lab, source, verify={"files": "{data}/{exp_ref}/*.txt", "growing_within": 6}, ready=None, frames=None
    )
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    folder = lab.folder / "data" / REFERENCE
    until(lambda: folder.exists() and len(list(folder.iterdir())) > 1100)
    assert aux.services
    until(lambda: sum(item.endswith(".txt") for item in aux.services["cameras"].progress) > 1000)  # it has 1,024 items
    assert failures == []
    os.kill(pid, signal.SIGSTOP)
    until(lambda: len(failures) > 1100)
    os.kill(pid, signal.SIGCONT)


def test_the_file_may_be_in_a_folder_that_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "rig [1]*").mkdir() if os.name == "posix" else (tmp_path / "rig [1]").mkdir()
    (folder,) = tmp_path.iterdir()
    lab = Lab(folder)
    try:
        path = "data/{exp_ref}/left.txt"
        lab.agent(
            {
                "EXPSTART": {"start": [*lab.program(RECORDER), path], "ready": {"file": path, "within": LONG}},
                "EXPEND": STOP,
            },
            verify={"files": path, "growing_within": 1},
        )
        aux = lab.connect()
        init(aux)
        aux.request("EXPSTART", REFERENCE, timeout=LONG)
        assert aux.services
        until(lambda: aux.services["cameras"].progress.get("left.txt"))
    finally:
        lab.close()


@posix
def test_a_command_of_a_long_name_is_one_like_any_other(lab: Lab) -> None:
    name = "n" * 150
    program = lab.folder / name
    program.write_text("#!/bin/sh\nsleep 1000\n")
    program.chmod(0o700)
    agent = lab.agent({"EXPSTART": {"start": [f"./{name}"]}, "EXPEND": STOP})
    aux = lab.connect()
    failures = noted(aux, "failure")
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    os.kill(pid, signal.SIGKILL)
    until(lambda: agent.status is ExpStatus.STOPPED)
    until(lambda: failures)


def test_one_that_is_being_closed_begins_no_other_experiment(lab: Lab) -> None:
    agent = recording_agent(lab, STUBBORN, {"stop": {"signal": "interrupt", "grace": 1}}, ready=None)
    aux = lab.connect()
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    lab.logged("ignores you")
    closing = threading.Thread(target=agent.close)
    closing.start()
    until(lambda: agent._commands.running() and "is being closed" in lab.log())
    begun = aux.push("EXPINIT", {"exp_ref": NEXT}, wait=True, timeout=LONG)
    assert isinstance(begun, PushError)
    assert "is being closed" in str(begun)
    closing.join(LONG)
    assert is_gone(pid)
    assert not agent._commands.running()


# ------------------------------------------------------------------------------------------ however it is closed


@pytest.mark.parametrize("fate", ["returns", "raises", "is cancelled"])
def test_async_with_ends_its_commands_politely(lab: Lab, fate: str) -> None:
    agent = recording_agent(lab)
    agent.close()
    pids: list[int] = []
    notices: list[Notice] = []

    def begin() -> None:
        aux = lab.connect()
        aux.on("notice", notices.append)
        init(aux)
        pids.append(started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG)))

    async def serve() -> None:
        async with agent:
            await asyncio.get_running_loop().run_in_executor(None, begin)
            if fate == "raises":
                raise ValueError("of the program's own")
            if fate == "is cancelled":
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                await asyncio.sleep(0)

    loop = asyncio.SelectorEventLoop()
    try:
        with contextlib.suppress(ValueError, asyncio.CancelledError):
            loop.run_until_complete(serve())
        assert is_gone(pids[0])
        assert not agent._commands.running()
        assert "was interrupted and ended with exit status 0" in lab.log()
        until(lambda: any(n.topic == "status" and "is being closed" in str(n.body["reason"]) for n in notices))
    finally:
        for child in agent._commands.running():
            child.process.stop("kill", 0)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_it_serves_again_after_it_was_closed(lab: Lab) -> None:
    agent = recording_agent(lab, existing="keep")
    for _ in range(2):
        aux = lab.connect(agent)
        init(aux)
        pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
        agent.close()
        assert is_gone(pid)
        agent.start()


def test_its_commands_end_with_its_event_loop(lab: Lab) -> None:
    agent = recording_agent(lab)
    aux = lab.connect()
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    assert agent._thread
    agent._thread.call(sys.exit)
    until(lambda: is_gone(pid), "the end of the command")
    with pytest.raises(RuntimeError, match="serves already"):
        agent.start()


def test_what_is_stubborn_is_killed_before_the_program_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "LAST_GRACE", -4.9)  # 0.1 s with the grace of a command that is waited for
    agent = lab.agent({"EXPINIT": {"run": lab.program(STUBBORN)}})
    aux = lab.connect()
    aux.push("EXPINIT", {"exp_ref": REFERENCE})
    lab.logged("ignores you")
    pid = agent._commands.running()[0].process.pid
    agent.close()
    assert is_gone(pid)


def test_a_command_that_cannot_be_shown_is_ended(lab: Lab) -> None:
    agent = recording_agent(lab)
    for number in range(1024):
        agent.add_stream(f"stream {number}")
    aux = lab.connect()
    init(aux)
    assert "streams" in failure(aux, "EXPSTART", REFERENCE).message
    until(lambda: not agent._commands.running(), "the end of the command")


# ------------------------------------------------------------------------------------------------ drives that hang


class Drive:
    """A folder that hangs whoever looks at it, as a network drive does whose server is gone."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.hung: set[threading.Thread] = set()
        self._is_there = threading.Event()
        self._is_there.set()
        for module, name in [(os, name) for name in ("stat", "lstat", "scandir", "listdir", "mkdir", "access", "open")]:
            monkeypatch.setattr(module, name, self._hanging(getattr(module, name)))
        monkeypatch.setattr("builtins.open", self._hanging(open))

    def _hanging(self, function: Any) -> Any:
        @functools.wraps(function)
        def hanging(*args: Any, **keywords: Any) -> Any:
            if args and not isinstance(args[0], int) and os.fspath(args[0]).startswith(str(self.folder)):
                self.hung.add(threading.current_thread())
                self._is_there.wait()
                self.hung.discard(threading.current_thread())
            return function(*args, **keywords)

        return hanging

    def hang(self) -> None:
        self._is_there.clear()

    def come_back(self) -> None:
        self._is_there.set()


@pytest.fixture
def drive(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    (lab.folder / "drive").mkdir()
    drive = Drive(lab.folder / "drive", monkeypatch)
    try:
        yield drive
    finally:
        drive.come_back()


def test_whoever_asks_what_is_missing_leaves_one_look_at_a_drive_that_hangs(
    lab: Lab, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "PATIENCE", 0.2)
    lab.agent({"EXPINIT": {"run": "date"}}, require={"files": ["drive/{exp_ref}"]})
    aux = lab.connect()
    drive.hang()
    for number in range(1, 5):
        answer = aux.call("cameras", CHECK.name, exp_ref=f"2026-03-01_{number}_mouse", timeout=LONG)
        (problem,) = answer["problems"]
        assert problem.startswith("'drive/{exp_ref}' does not answer within 0.2 s; is its drive connected")
    assert len(drive.hung) == 1


def test_a_drive_that_hangs_refuses_the_experiment_by_name(
    lab: Lab, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "PATIENCE", 0.2)
    agent = lab.agent({"EXPCLEANUP": {"run": "date"}}, require={"files": ["drive"], "programs": ["no-such-program"]})
    other = lab.agent({"EXPINIT": {"run": "date"}}, name="other", folders=["drive/{exp_ref}"])
    aux = lab.connect()
    drive.hang()
    for _ in range(5):
        outcome = aux.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True, timeout=LONG)
        assert isinstance(outcome, PushError)
        for rig in (agent, other):
            assert "drive" in str(outcome.failed[rig.name])
            assert "does not answer within 0.2 s" in str(outcome.failed[rig.name])
        assert "no-such-program" in str(outcome.failed["cameras"])
    assert len(drive.hung) == 2  # since nobody asks twice
    drive.come_back()
    until(lambda: not drive.hung)
    assert init(lab.connect(other))


@posix
def test_drives_that_hang_hold_up_no_interrupt(lab: Lab, drive: Drive) -> None:
    agent = lab.agent({"EXPINTERRUPT": {"run": "date"}}, require={"files": ["drive/{exp_ref}"]})
    aux = lab.connect()
    drive.hang()
    for number in range(1, 41):
        aux.push("EXPINIT", {"exp_ref": f"2026-03-01_{number}_mouse"})
        until(lambda count=number: len(drive.hung) == count)  # type: ignore[misc]
        assert aux.request("EXPINTERRUPT", timeout=LONG)["cameras"][0]["run"]["status"] == 0
    assert aux.request("EXPINFO", timeout=LONG)
    assert agent.is_running


def test_a_recording_on_a_drive_that_hangs_is_told_and_can_be_ended(
    lab: Lab, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "LAST_LOOK", 0.1)
    agent = recording_agent(lab, verify={"files": "drive/*.txt", "growing_within": 1})
    (drive.folder / "left.txt").write_text("")
    aux = lab.connect()
    failures, recoveries = noted(aux, "failure"), noted(aux, "recovered")
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    drive.hang()
    until(lambda: failures)
    assert "drive" in failures[0].body["problem"]
    assert "does not answer within 1 s" in failures[0].body["problem"]
    drive.come_back()
    until(lambda: recoveries)
    assert "answers again" in recoveries[0].body["problem"]
    drive.hang()
    until(lambda: drive.hung)
    begun = time.monotonic()
    error = failure(aux, "EXPEND")
    assert time.monotonic() - begun < 10
    assert (error.error, "drive" in error.message) == ("RecordingGoesOn", True)
    assert "does not answer within 0.1 s, so that nobody knows what was recorded" in error.message
    assert len(drive.hung) == 1  # since nobody asks twice
    assert not agent._commands.running()
    aux.request("EXPINTERRUPT", timeout=LONG)
    assert agent.status is ExpStatus.STOPPED


def test_the_last_look_at_a_drive_that_hangs_is_a_failure_until_it_is_back(
    lab: Lab, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "LAST_LOOK", 0.1)
    agent = recording_agent(lab, verify={"files": "drive/*.txt", "growing_within": LONG})
    aux = lab.connect()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    until(lambda: agent._recording and agent._recording._last and agent._recording._last.done())
    (drive.folder / "left.txt").write_text("recorded")
    drive.hang()  # most of a second before the next look
    assert "does not answer within 0.1 s" in failure(aux, "EXPEND").message
    assert len(drive.hung) == 1
    assert agent.status is ExpStatus.RUNNING
    drive.come_back()
    until(lambda: not drive.hung)
    monkeypatch.setattr(recording, "LAST_LOOK", LONG)
    aux.request("EXPEND", timeout=LONG)
    assert agent.status is ExpStatus.STOPPED


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_drive_that_hangs_is_what_start_fails_of(
    lab: Lab, drive: Drive, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(aside, "PATIENCE", 0.2)
    agent = recording_agent(lab, WAITS, ready={"file": "drive/left.txt", "within": 1})
    aux = lab.connect()
    init(aux)
    if when == "before":
        drive.hang()
        assert "left.txt' does not answer within 0.2 s" in failure(aux, "EXPSTART", REFERENCE).message
    else:
        key = aux.push("EXPSTART", REFERENCE)
        until(lambda: agent._commands.running())
        drive.hang()
        until(lambda: aux.response(key))
        assert "within 1 s (its drive does not answer), and was" in str(aux.response(key).failed["cameras"])
    assert not agent._commands.running()


def test_a_command_that_ends_while_its_drive_hangs_fails_the_start_at_once(
    lab: Lab, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os, sys, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nsys.exit('no camera')"
    agent = recording_agent(lab, source, ready={"file": "drive/left.txt", "within": 10 * LONG})
    aux = lab.connect()
    init(aux)
    key = aux.push("EXPSTART", REFERENCE, timeout=LONG)
    until(agent._commands.running)
    drive.hang()
    until(lambda: drive.hung)
    (lab.folder / "go").touch()
    assert "no camera" in str(until(lambda: aux.response(key)).failed["cameras"])


def test_a_log_on_a_drive_that_hangs_holds_up_nothing(
    lab: Lab, drive: Drive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session_log, "CLOSE_LIMIT", 0.1)
    agent = recording_agent(lab, logs={"folder": "drive"})
    aux = lab.connect()
    drive.hang()
    init(aux)
    aux.request("EXPSTART", REFERENCE, timeout=LONG)
    assert drive.hung
    assert agent._thread not in drive.hung
    aux.request("EXPEND", timeout=LONG)
    aux.request("EXPCLEANUP", timeout=LONG)
    assert "its drive does not answer" in caplog.text
    drive.come_back()
    path = drive.folder / f"{REFERENCE}.rigsync.log"
    until(lambda: path.exists() and "EXPCLEANUP of" in path.read_text())
    events = [line.split()[3] for line in path.read_text().splitlines() if f" of {REFERENCE}" in line]
    assert events == ["EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]


# ------------------------------------------------------------------------------------------------ commands that hang


@posix
def test_what_an_earlier_agent_has_left_and_cannot_be_ended_refuses_the_experiment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = (["sleep (process 6)"], ["ffmpeg (process 7)"])
    monkeypatch.setattr(orphans, "end_of_dead_agents", lambda rig: found)
    lab.agent({"EXPINIT": {"run": lab.program("")}})
    problem = "what an earlier agent has left running does not end, though it was killed: ffmpeg (process 7); look "
    assert problem in caplog.text
    assert "what it had left running was ended: sleep (process 6)" in caplog.text
    aux = lab.connect()
    assert problem in failure(aux, "EXPINIT", {"exp_ref": REFERENCE}).message
    found = (["ffmpeg (process 7)"], [])
    init(aux)
    aux.request("EXPCLEANUP", timeout=LONG)
    found = ([], ["another (process 8)"])
    init(aux)  # which does not look again


def test_a_command_that_hangs_while_it_starts_holds_up_no_interrupt(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one on a network drive whose server is gone; here it is its keeper that hangs."""
    keeper = lab.folder / "keeper.py"
    keeper.write_text(
        "import os, runpy, time\nif os.environ['RIGSYNC_EVENT'] == 'EXPINIT': time.sleep(1000)\n"
        f"runpy.run_path({str(kept_command._KEEPER)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(kept_command, "_KEEPER", keeper)
    monkeypatch.setattr(kept_command, "_START_LIMIT", LONG)
    monkeypatch.setattr(commands, "START_LIMIT", 0.2)
    agent = lab.agent({"EXPINIT": {"run": "true"}, "EXPINTERRUPT": {"run": "date"}})
    aux = lab.connect()
    try:
        aux.push("EXPINIT", {"exp_ref": REFERENCE})
        until(agent._commands.running)
        assert "hangs while it is being started" in failure(aux, "EXPINTERRUPT").message
        lab.logged("EXPINTERRUPT: 'date'")
        assert "hangs while it is being started" in failure(aux, "EXPINIT", {"exp_ref": NEXT}).message
    finally:
        for child in psutil.Process().children():
            child.kill()
    until(lambda: not agent._commands.running())


@posix
def test_one_that_cannot_even_be_killed_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that hangs in the kernel; here its keeper does nothing, and is not woken."""
    monkeypatch.setattr(commands, "LAST_GRACE", 0.3)
    monkeypatch.setattr(subprocess.Popen, "send_signal", lambda *_: None)
    agent = lab.agent(
        {
            "EXPSTART": {"start": lab.program(WAITS)},
            "EXPEND": {"stop": {"signal": "interrupt", "grace": 0}, "run": lab.program("print('lights off')", "a.py")},
        }
    )
    aux = lab.connect()
    init(aux)
    pid = started_pid(aux.request("EXPSTART", REFERENCE, timeout=LONG))
    guard = psutil.Process(pid).parent()
    assert guard
    guard.suspend()
    try:
        problem = failure(aux, "EXPEND").message
        assert "does not end, though it was killed" in problem
        if sys.platform == "linux":
            assert f"(what is left: process {pid})" in problem
        lab.logged("lights off")
        assert "does not end, though it was killed" in failure(aux, "EXPINTERRUPT").message
        assert agent.status is ExpStatus.STOPPED
        assert "does not end, though it was killed" in failure(aux, "EXPINIT", {"exp_ref": NEXT}).message
    finally:
        guard.resume()
    until(lambda: is_gone(pid))
    init(aux, NEXT)
