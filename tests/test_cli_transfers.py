"""`rigsync transfers`: by the files of agents that run or do not, and over the network."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_programs import Outcome, environment, run_here
from processes import LONG, free_port, until

from rigsync import Rig
from rigsync.agent import finish_work
from rigsync.agent.agent import Agent
from rigsync.agent.file import read_agent_file
from rigsync.agent.finish_queue import FilledStep, Job, Queue
from rigsync.agent.in_use import InUse, take_queue

REFERENCE = "2026-03-01_2_mouse"
OTHER = "2026-03-01_3_mouse"
WAITS = [sys.executable, "-c", "import time\nwhile True: time.sleep(0.1)"]


class Lab:
    """The file of an agent in a folder, with a queue, and perhaps an agent that serves it."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack):
        self.folder, self._stack = folder, stack
        self.write([sys.executable, "-V"])
        self.queue = Queue(folder / "finish" / "left")

    def write(self, *steps: list[str]) -> None:
        document = {"name": "left", "listen": "udp://127.0.0.1:0", "on": {"EXPINIT": {"run": [sys.executable, "-V"]}}}
        finish = {"finish": {"steps": [{"run": step} for step in steps]}} if steps else {}
        (self.folder / "left.yaml").write_text(yaml.safe_dump(document | finish))

    def job(self, exp_ref: str | None = REFERENCE, *words: str, **more: Any) -> Job:
        step = FilledStep(words or (sys.executable, "-V"), False, False, str(self.folder), 60.0, None)
        name = f"20260301-{len(list(self.folder.glob('finish/left/*'))):02}"
        job = Job(name, "left", exp_ref, time.time() - 7, **{"state": "waiting", "steps": (step,), **more})
        self.queue.save(job.id, job.text())
        return job

    def serve(self) -> Agent:
        return self._stack.enter_context(Agent(read_agent_file(self.folder / "left.yaml")))

    def claimed(self) -> None:
        """Do as an agent that does the jobs, and finds no wishes."""
        lock = InUse("left")
        take_queue(lock, self.queue.folder)
        self._stack.callback(lock.keep_only)

    def show(self, *arguments: str, status: int = 0) -> Outcome:
        outcome = run_here(["transfers", *arguments], self.folder, environment(self.folder))
        assert outcome.status == status, outcome
        assert "Traceback" not in outcome.err
        return outcome

    def rows(self, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.show(*arguments, "--json", status=status).out)["transfers"]
        return found


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(finish_work, "LOOK", 0.05)
    with contextlib.ExitStack() as stack:
        yield Lab(tmp_path, stack)


def states(jobs: list[dict[str, Any]]) -> list[str]:
    return [job["text"] for job in jobs]


def test_nothing_to_do(lab: Lab) -> None:
    assert lab.show("left.yaml").out == "nothing is to be done\n"
    assert lab.show("left.yaml", "--retry").out == "left: nothing has failed\n"
    assert not lab.queue.folder.exists()


def test_each_session_has_its_line(lab: Lab) -> None:
    lab.claimed()
    lab.job(state="failed", attempts=9, problem="rsync ended by itself with exit status 12")
    lab.job(OTHER, running=True, percent=40.0)
    lab.job(None, due=time.time() + 100, problem="no server", attempts=1)
    lab.job(state="recording", steps=None)
    lab.job(state="ended", steps=None)
    lab.job()
    lines = lab.show("left.yaml", status=1).out.splitlines()
    assert lines[0].split() == ["session", "rig", "state", "failures", "age"]
    assert lines[1].split(None, 2)[:2] == [REFERENCE, "left"]
    assert "failed: rsync ended by itself with exit status 12" in lines[1]
    assert lines[1].split()[-3:] == ["9", "7", "s"]
    assert "running 40 %" in lines[2]
    when = time.strftime("%H:%M", time.localtime(time.time() + 100))
    assert lines[3].startswith("-")
    assert f"tried again at {when}: no server" in lines[3]
    assert "its session goes on" in lines[4]
    assert "waits for EXPCLEANUP" in lines[5]
    assert " waiting " in lines[6]
    rows = lab.rows("left.yaml", status=1)
    assert [row["state"] for row in rows] == ["failed", "waiting", "waiting", "recording", "ended", "waiting"]
    assert (rows[1]["percent"], rows[1]["running"], rows[1]["steps"]) == (40, True, 1)


def test_where_no_agent_runs_nothing_is_told_to_run(lab: Lab) -> None:
    lab.job(running=True, percent=40.0)
    lab.job(state="recording", steps=None)
    assert states(lab.rows("left.yaml")) == ["waits for its agent, which does not run"] * 2


def test_what_has_failed_is_tried_again_with_the_commands_of_the_file_as_it_is_now(lab: Lab) -> None:
    lab.job(REFERENCE, "no-such-program", state="failed", attempts=9, problem="it was not found")
    lab.job(OTHER, state="failed", attempts=9, problem="else", data={"box": 4})
    agent = lab.serve()
    until(lambda: agent._finish._work._has_claim)
    lab.write([sys.executable, "-c", "import sys; open('done', 'a').write(sys.argv[1])", "{subject}"])
    assert lab.show("left.yaml", "--retry", REFERENCE).out == f"{REFERENCE}: is tried again now\n"
    until(lambda: (lab.folder / "done").exists() and (lab.folder / "done").read_text() == "mouse")
    until(lambda: [row["exp_ref"] for row in lab.rows("left.yaml", status=1)] == [OTHER])
    assert lab.show("left.yaml", "--retry").out == f"{OTHER}: is tried again now\n"
    until(lambda: not lab.rows("left.yaml"))


def test_where_no_agent_runs_the_next_one_tries_it_again(lab: Lab) -> None:
    lab.job(state="failed", attempts=9, problem="no server")
    assert lab.show("left.yaml", "--retry").out == f"{REFERENCE}: is tried again when the agent is started\n"
    assert [(job.state, job.attempts) for job in lab.queue.look().jobs] == [("waiting", 0)]
    lab.serve()
    until(lambda: not lab.queue.look().jobs)


@pytest.mark.parametrize("is_served", [True, False])
def test_what_is_forgotten_is_done_no_more(lab: Lab, is_served: bool) -> None:
    job = lab.job(REFERENCE, *WAITS)
    lab.job(OTHER, *WAITS)
    if is_served:
        lab.serve()
        until(lambda: states(lab.rows("left.yaml")) == ["running", "waiting"])
    assert lab.show("left.yaml", "--forget", job.id).out == f"{REFERENCE}: forgotten\n"
    assert [row["exp_ref"] for row in lab.rows("left.yaml")] == [OTHER]


def test_what_cannot_be_tried_again_is_told(lab: Lab) -> None:
    lab.job(state="failed", problem="no server")
    lab.write([sys.executable, "-c", "pass", "{message.note}"])
    assert "FINISH has no 'note' in its data" in lab.show("left.yaml", "--retry", status=1).err
    lab.write()
    assert "left.yaml has no finish any more" in lab.show("left.yaml", "--retry", status=1).err
    assert [job.state for job in lab.queue.look().jobs] == ["failed"]


def test_a_session_that_goes_on_is_left_alone(lab: Lab) -> None:
    lab.job(state="recording", steps=None)
    lab.job(OTHER, running=True)
    lab.claimed()
    assert "its session goes on" in lab.show("left.yaml", "--forget", REFERENCE, status=1).err
    assert "it is being done" in lab.show("left.yaml", "--retry", OTHER, status=1).err


def test_an_agent_that_does_not_find_a_wish_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigsync.cli.transfers.OBEYED_WITHIN", 0.1)
    lab.job(state="failed", problem="no server")
    lab.claimed()
    assert "the agent has not found this wish yet" in lab.show("left.yaml", "--retry", status=1).err


def test_a_reference_that_nobody_knows(lab: Lab) -> None:
    assert "there is nothing" in lab.show("left.yaml", "--retry", REFERENCE, status=2).err
    lab.job()
    error = lab.show("left.yaml", "--forget", "2026-03-01_2_mose", status=2).err
    assert "nothing is to be done after 2026-03-01_2_mose" in error
    assert f"did you mean '{REFERENCE}'?" in error


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--retry"], "name the agent's FILE.yaml, on that computer"),
        (["--retry", "left.yaml"], "name the agent's FILE.yaml; give it before --retry"),
        (["left.yaml", "--rigs", "rigs.yaml"], "give either FILE.yaml or --rigs FILE"),
        (["left.yaml", "--retry", "--forget", "x"], "give either --retry or --forget"),
        (["gone.yaml"], "gone.yaml"),
    ],
)
def test_wrong_usage(lab: Lab, arguments: list[str], problem: str) -> None:
    assert problem in lab.show(*arguments, status=2).err


def test_junk_is_named_and_the_rest_is_shown(lab: Lab) -> None:
    lab.job()
    (lab.queue.folder / "20260101-x.json").write_text("{")
    outcome = lab.show("left.yaml", status=1)
    assert REFERENCE in outcome.out
    assert f"Error: {lab.queue.folder / '20260101-x.json'}: is damaged, or no file of rigsync" in outcome.err


def test_a_queue_that_is_no_folder(lab: Lab) -> None:
    (lab.folder / "finish").write_text("a file in its place")
    assert "cannot be read" in lab.show("left.yaml", status=1).err


def test_hostile_text_is_escaped(lab: Lab) -> None:
    lab.job("\x1b[31mred\n", state="failed", problem="\x1b]0;title\x07")
    out = lab.show("left.yaml", status=1).out
    assert "\x1b" not in out
    assert "\\x1b[31mred" in out
    assert len(out.splitlines()) == 2


# --------------------------------------------------------------------------------------------------- over the network


def rigs(lab: Lab, **uris: Any) -> None:
    (lab.folder / "rigs.yaml").write_text(json.dumps({"rigs": uris}))


def test_all_rigs_are_asked(lab: Lab, serve: Callable[..., Rig]) -> None:
    lab.job(REFERENCE, *WAITS)
    agent = lab.serve()
    rigs(lab, left=agent.uri, python=serve("python").uri)
    until(lambda: states(lab.rows()) == ["running"])
    out = lab.show().out
    assert out.splitlines()[1].split()[:2] == [REFERENCE, "left"]
    assert "python" not in out


def test_what_has_failed_is_told_in_the_table_alone_and_a_queue_that_cannot_be_written_below(lab: Lab) -> None:
    lab.job(state="failed", problem="no server", attempts=9)
    agent = lab.serve()
    rigs(lab, left=agent.uri)
    until(lambda: agent.picture["failures"])
    outcome = lab.show(status=1)
    assert "failed: no server" in outcome.out
    assert outcome.err == ""
    agent.notify("failure", {"problem": "it is kept in memory"}, key=finish_work.UNWRITTEN)
    until(lambda: finish_work.UNWRITTEN in agent.picture["failures"])
    assert lab.show(status=1).err == "Error: left: it is kept in memory\n"


def test_a_rig_that_does_not_answer(lab: Lab) -> None:
    rigs(lab, left=lab.serve().uri, gone=f"udp://127.0.0.1:{free_port()}")
    assert "Error: gone: " in lab.show(status=1).err


def test_what_is_no_answer_of_an_agent(lab: Lab, serve: Callable[..., Rig]) -> None:
    rig = serve("odd")
    rig.command("rigsync.transfers")(lambda: {"jobs": [{"id": 5}], "more": 0})
    rigs(lab, odd=rig.uri)
    assert "Error: odd: its rigsync.transfers returns" in lab.show(status=1).err


def test_more_than_an_answer_holds_is_counted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigsync.agent.finishing.ROOM_TOLD", 1000)
    lab.job(REFERENCE, *WAITS)
    for _ in range(3):
        lab.job(OTHER, state="failed", problem="x" * 5000)
    agent = lab.serve()
    rigs(lab, left=agent.uri)
    until(lambda: states(lab.rows(status=1))[2:] == ["and 2 more"])


def test_a_rig_that_another_one_is_in_charge_of_answers_too(lab: Lab, connect: Callable[..., Any]) -> None:
    lab.job(REFERENCE, *WAITS)
    agent = lab.serve()
    connect(agent).request("EXPINIT", {"exp_ref": OTHER}, timeout=LONG)
    rigs(lab, left=agent.uri)
    until(lambda: states(lab.rows()) == ["waiting"])


def test_a_rig_on_tcp_that_may_run_iblutil_is_named_and_not_asked(lab: Lab) -> None:
    rigs(lab, left="tcp://127.0.0.1:9")
    assert lab.show().err.startswith("left is not asked: it may run iblutil")
