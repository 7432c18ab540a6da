"""`rigsync check --live` against real agents and other rigs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_programs import Outcome, environment, run_here
from processes import LONG, PROBE_WARNING, IblutilServer, free_port

from rigsync import Auxiliaries, BusyError, ExpStatus, Rig
from rigsync.agent.agent import Agent
from rigsync.agent.aside import PATIENCE
from rigsync.agent.file import read_agent_file
from rigsync.cli.live import WAIT, Found
from rigsync.core import agenda
from rigsync.core.queries import CHECK

pytestmark = pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")

REFERENCE = "2026-03-01_2_mouse"
ON = {"EXPINIT": {"run": [sys.executable, "-V"]}}


class Lab:
    """Agents in a folder, and a file of rigs."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self.folder, self._stack = folder, stack
        self.rigs: dict[str, Any] = {}

    def agent(self, name: str = "left", **keys: Any) -> Agent:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "listen": "udp://127.0.0.1:0", "on": ON} | keys))
        agent = self._stack.enter_context(Agent(read_agent_file(path)))
        self.rigs[name] = agent.uri
        return agent

    def check(self, *arguments: str, status: int = 0) -> Outcome:
        (self.folder / "rigs.yaml").write_text(json.dumps({"rigs": self.rigs}))
        outcome = run_here(["check", "--live", *arguments], self.folder, environment(self.folder))
        assert outcome.status == status, outcome
        assert "Traceback" not in outcome.err
        return outcome


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        yield Lab(tmp_path, stack)


def test_each_rig_has_its_line(lab: Lab, serve: Callable[..., Rig]) -> None:
    lab.agent("left", require={"free_disk": {"path": ".", "at_least": "1 kB"}, "files": ["."]})
    lab.agent(
        "right",
        on={"EXPINIT": {"run": "recorder-of-nobody {exp_ref}"}},
        require={"free_disk": {"path": ".", "at_least": "900 PB"}, "files": ["gone"], "programs": ["ls-of-nobody"]},
    )
    lab.rigs["python"] = serve("python").uri
    with IblutilServer("imaging") as imaging, IblutilServer("ephys", scheme="tcp") as ephys:
        lab.rigs |= {"imaging": imaging.uri, "ephys": ephys.uri, "off": f"udp://127.0.0.1:{free_port()}"}
        lines = lab.check(status=1).out.splitlines()
        assert ephys.reports == [], "it was connected to, which takes it from its task"
        assert imaging.calls == []
    assert lines[0] == "left: all there"
    assert lines[1].startswith("right: missing: the program 'recorder-of-nobody' is not there; install it")
    for reason in ("'ls-of-nobody' is not there", "and 900 PB are required", "gone' does not exist"):
        assert reason in lines[1]
    assert lines[2:4] == [
        "python: cannot be asked: its program has no command rigsync.check",
        "imaging: cannot be asked: it runs iblutil, which has no commands",
    ]
    assert lines[4].startswith(
        "ephys: cannot be asked: it may run iblutil, and a connection would take it from its task"
    )
    assert lines[5].startswith("off: no answer: ")
    assert len(lines) == 6


def test_rigs_that_cannot_be_asked_do_not_fail_the_whole(lab: Lab, serve: Callable[..., Rig]) -> None:
    lab.agent()
    lab.rigs["python"] = serve("python").uri
    lab.check()


def test_it_may_be_asked_during_a_session_and_changes_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = lab.agent(folders=["data/{exp_ref}"], require={"files": ["."]})
    with Auxiliaries({"left": agent.uri}) as task:
        task.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
        task.request("EXPSTART", REFERENCE, timeout=LONG)
        before = {*lab.folder.rglob("*")}
        assert lab.check("--ref", "2026-03-01_3_mouse").out == "left: all there\n"
        assert {*lab.folder.rglob("*")} - before == {lab.folder / "rigs.yaml"}
        assert (agent.status, agent.exp_ref) == (ExpStatus.RUNNING, REFERENCE)

        # A rig of the version before refuses it then, as any command.
        monkeypatch.setattr(agenda, "FOR_ANYBODY", frozenset())
        with Auxiliaries({"left": agent.uri}) as other, pytest.raises(BusyError):
            other.call("left", CHECK.name)
        assert lab.check().out.startswith("left: cannot be asked: its rigsync, from before this command,")
        task.request("EXPEND", timeout=LONG)  # as only the one in charge may


def test_a_session_hears_nothing_of_a_rig_that_cannot_be_asked(
    lab: Lab, serve: Callable[..., Rig], connect: Callable[..., Auxiliaries], caplog: pytest.LogCaptureFixture
) -> None:
    rig = serve("python")
    lab.rigs["python"] = rig.uri
    task = connect(rig)
    with task.experiment(REFERENCE) as session:
        lab.check()
        task.request("EXPINFO")  # behind what the rig tells
        session.check()
    assert [text for text in caplog.messages if CHECK.name in text] == []


def test_what_needs_a_session_is_named_and_a_reference_is_enough_for_some(lab: Lab) -> None:
    agent = lab.agent(
        on={
            "EXPINIT": {"run": "prepare-of-nobody", "folder": "{message.box}"},
            "EXPSTART": {"run": "./tools/prepare", "folder": "{message.box}"},
        },
        require={
            "free_disk": {"path": "data/{exp_ref}", "at_least": "900 PB"},
            "files": ["{subject}.txt", "{message.box}/a", "gone"],
        },
    )
    always, of_a_reference = (
        "the program ./tools/prepare in {message.box}",
        ["the disk of data/{exp_ref}", "{subject}.txt"],
    )
    with Auxiliaries({"left": agent.uri}) as aux:
        told = aux.call("left", CHECK.name, timeout=LONG)
        assert told["left_out"] == [always, *of_a_reference, "{message.box}/a"]
        nobody, problem = told["problems"]
        assert "'prepare-of-nobody' is not there" in nobody
        assert problem.endswith("/gone' does not exist; create it, connect its drive, or correct the path")
        told = aux.call("left", CHECK.name, exp_ref="../x", timeout=LONG)
        assert told["left_out"] == [always, *of_a_reference, "{message.box}/a"]
        assert "the value '../x' of {subject} is not a reference" in told["problems"][0]
        assert told["problems"][1:] == [nobody, problem]
    line = lab.check("--ref", REFERENCE, status=1).out
    assert "/mouse.txt' does not exist" in line
    assert "and 900 PB are required" in line
    assert line.endswith(f" (not checked without a session: {always}, {{message.box}}/a)\n")


def test_a_rig_in_python_may_answer_it(lab: Lab, serve: Callable[..., Rig]) -> None:
    answers: dict[str, Any] = {
        "good": {"problems": []},
        "bad": {"problems": ["no camera"]},
        "odd": "yes",
        "misspelt": {"problem": ["no camera"]},
    }
    for name, answer in answers.items():
        rig = serve(name)
        rig.command(CHECK.name)(lambda exp_ref=None, answer=answer: answer)
        lab.rigs[name] = rig.uri
    rigs = json.loads(lab.check("--json", status=1).out)["rigs"]
    assert {name: told["outcome"] for name, told in rigs.items()} == {
        "good": "ready",
        "bad": "missing",
        "odd": "failed",
        "misspelt": "failed",
    }
    assert (rigs["bad"]["problems"], rigs["bad"]["left_out"]) == (["no camera"], [])


def test_a_line_stays_a_line_though_a_rig_lacks_everything() -> None:
    line = str(Found("missing", ["no camera"] * 100_000, ["the lens"]))
    assert line.startswith("missing: no camera; no camera; ")
    assert line.endswith("... (--json has the rest)")
    assert len(line) < 6000


def test_many_reasons_fit_into_an_answer(lab: Lab) -> None:
    agent = lab.agent(require={"files": [f"{'é' * 200}{number}" for number in range(40)]})
    with Auxiliaries({"left": agent.uri}) as aux:
        problems = aux.call("left", CHECK.name, timeout=LONG)["problems"]
    assert sum(map(len, problems)) < 2100
    assert problems[-1] == f"{41 - len(problems)} more"


def test_it_is_for_files_of_rigs(lab: Lab) -> None:
    lab.agent()
    assert "left.yaml is the file of an agent, and --live asks the rigs of a file of rigs: name one" in (
        lab.check("left.yaml", status=2).err
    )
    outcome = run_here(["check", "--ref", REFERENCE], lab.folder, environment(lab.folder))
    assert "--ref is for --live" in outcome.err


def test_the_rigs_that_are_found_are_asked_though_a_name_is_unknown(lab: Lab) -> None:
    lab.agent()
    lab.rigs["gone"] = "no-such-host.invalid"
    outcome = lab.check(status=2)
    assert outcome.out == "left: all there\n"
    assert "the host 'no-such-host.invalid' of rig 'gone' cannot be resolved" in outcome.err


def test_it_waits_until_an_agent_has_named_a_drive_that_hangs() -> None:
    assert WAIT > PATIENCE
