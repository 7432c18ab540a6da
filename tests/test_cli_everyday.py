"""`rigsync start`, `stop`, `interrupt` and `status`: a session by hand, with real rigs."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Command, Outcome, environment, run_here
from live_helpers import Gate
from processes import LONG, RigProgram, free_port, until

from rigsync import Auxiliaries, Experiment, ExpStatus, Rig
from rigsync.core.ownership import LEASE

REFERENCE = "2026-03-01_2_mouse"
VERBS = ("EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP")
BEGUN = ["EXPINFO", "EXPINIT", "EXPSTART"]
ROLLED_BACK = [*BEGUN, "EXPINTERRUPT", "EXPCLEANUP"]


class Desk:
    """A folder with a file of rigs, whose rigs note what they are told."""

    def __init__(self, folder: Path, serve: Callable[..., Rig]):
        self.folder, self._serve = folder, serve
        self.told: dict[str, list[str]] = {}
        self.arguments: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.uris: dict[str, str] = {}

    def rig(self, name: str, handlers: dict[str, Callable[..., Any]] | None = None, **options: Any) -> Rig:
        """Start a rig, and write it into rigs.yaml."""
        self.told[name] = []

        def noter(verb: str) -> Callable[..., Any]:
            def note(*args: Any) -> Any:
                self.told[name].append(verb)
                self.arguments[name, verb] = args
                return handlers[verb](*args) if handlers and verb in handlers else None

            return note

        rig = self._serve(name, {verb: noter(verb) for verb in VERBS}, **options)
        self.add(name, rig.uri)
        return rig

    def add(self, name: str, uri: str) -> None:
        self.uris[name] = uri
        (self.folder / "rigs.yaml").write_text(json.dumps({"rigs": self.uris}), encoding="utf-8")

    def start(self, *arguments: str) -> Command:
        """Start a command in a process of its own."""
        return Command([*arguments], self.folder, environment(self.folder))

    def run(self, *arguments: str, status: int = 0) -> Outcome:
        """Run a command to its end, which has to have that exit status."""
        outcome = run_here(arguments, self.folder, environment(self.folder))
        assert outcome.status == status, outcome
        assert "Traceback" not in outcome.err
        return outcome

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status).out)


@pytest.fixture
def desk(tmp_path: Path, serve: Callable[..., Rig]) -> Desk:
    return Desk(tmp_path, serve)


@pytest.fixture
def programs(desk: Desk) -> Iterator[list[RigProgram]]:
    """Two rigs in processes of their own."""
    with RigProgram("cameras") as cameras, RigProgram("ephys") as ephys:
        for program in (cameras, ephys):
            desk.add(program.name, program.uri)
        yield [cameras, ephys]


def rows_of(text: str) -> dict[str, list[str]]:
    """Read the last table: rig to outcome, and what became of it."""
    lines = text.splitlines()
    heading = max(i for i, line in enumerate(lines) if line.startswith("rig "))
    rows = [re.split(r" {2,}", line) for line in lines[heading + 1 :]]
    return {row[0]: row[1:] for row in rows if len(row) == 3}


# ------------------------------------------------------------------------------------------- a session by hand


def test_a_session_by_hand_is_two_lines(desk: Desk, programs: list[RigProgram]) -> None:
    with desk.start("start", REFERENCE, "--delay", "0.3") as command:
        begun = command.outcome()
    assert (begun.status, begun.err) == (0, "")
    assert [line.split()[0] for line in begun.out.splitlines()[:3]] == BEGUN
    assert re.search(r"^EXPINIT +cameras [\d.]+ ms  ephys [\d.]+ ms$", begun.out, re.MULTILINE)
    for outcome, words in rows_of(begun.out).values():
        assert outcome == "ok"
        assert re.fullmatch(r"records until \d\d:\d\d:\d\d, for (4 min \d+ s|5 min)", words)
    assert re.search(r"^[\d.]+ ms between the first and the last$", begun.out, re.MULTILINE)
    assert begun.out.endswith(f"{REFERENCE} has begun, and nobody is in charge of it: rigsync stop ends it\n")

    status = desk.run("status").out
    assert status.count("RUNNING") == 2
    assert status.count("interrupts in") == 2

    with desk.start("stop") as command:
        ended = command.outcome()
    assert (ended.status, ended.err) == (0, "")
    assert rows_of(ended.out) == {"cameras": ["ok", "ended and cleaned up"], "ephys": ["ok", "ended and cleaned up"]}
    assert desk.run("status").out.count("CONNECTED") == 2


def test_status_is_what_watch_shows_once(desk: Desk) -> None:
    desk.rig("cameras")
    desk.rig("ephys")

    def shown(outcome: Outcome) -> list[list[str]]:
        heading, *rows = outcome.out.splitlines()
        return [heading.split(), *(row.split()[:3] for row in rows)]  # the rest is measured

    assert shown(desk.run("status")) == shown(desk.run("watch", "--once"))
    assert desk.json("status")["rigs"]["cameras"].keys() == desk.json("watch", "--once")["rigs"]["cameras"].keys()
    assert list(desk.json("status", "eph*")["rigs"]) == ["ephys"]
    desk.add("gone", f"udp://127.0.0.1:{free_port()}")
    assert desk.json("status", status=1)["rigs"]["gone"]["status"] is None


def test_status_tells_what_is_wrong_in_its_table_alone(desk: Desk) -> None:
    rig = desk.rig("cameras")
    rig.notify("failure", {"problem": "the lamp is dark"}, key="lamp")
    until(lambda: rig.picture["failures"])
    outcome = desk.run("status")
    assert (outcome.out.count("the lamp is dark"), outcome.err) == (1, "")


def test_the_data_and_the_pattern(desk: Desk) -> None:
    desk.rig("cameras:left")
    desk.rig("ephys")
    desk.run("start", REFERENCE, "--init", '{"box": 4}', "--start", '{"stage": 2}', "--to", "cameras:*")
    assert desk.arguments["cameras:left", "EXPINIT"] == ({"box": 4, "exp_ref": REFERENCE},)
    assert desk.arguments["cameras:left", "EXPSTART"] == (REFERENCE, {"stage": 2})
    assert desk.told["ephys"] == []
    shown = rows_of(desk.run("stop").out)
    assert shown == {"cameras:left": ["ok", "ended and cleaned up"], "ephys": ["ok", "nothing goes on there"]}
    assert desk.told["ephys"] == []


def test_as_json(desk: Desk) -> None:
    desk.rig("cameras")
    desk.rig("ephys", lease=0)
    before = time.time()
    begun = desk.json("start", REFERENCE, "--delay", "0.2")
    assert (begun["exp_ref"], begun["recording"]) == (REFERENCE, True)
    assert list(begun["messages"]) == BEGUN
    assert begun["messages"]["EXPSTART"]["starts"].keys() == {"cameras", "ephys"}
    assert begun["messages"]["EXPINIT"]["ms"].keys() == {"cameras", "ephys"}
    assert before + LEASE - 5 < begun["until"]["cameras"] < time.time() + LEASE + 5
    assert begun["until"]["ephys"] is None
    assert begun["rigs"]["ephys"]["outcome"] == "records until it is told to stop: it has no lease"
    ended = desk.json("stop")
    assert ended["exp_ref"] == REFERENCE
    assert ended["rigs"]["cameras"] == {"outcome": "ended and cleaned up", "failure": None, "unconfirmed": None}
    assert list(ended["messages"]) == ["EXPEND", "EXPCLEANUP"]


def test_a_reference_of_another_form_is_refused_unless_it_is_meant(desk: Desk) -> None:
    rig = desk.rig("cameras")
    assert "if it is meant, add --any-ref" in desk.run("start", "mouse1", status=2).err
    assert "the reference is empty" in desk.run("start", "", "--any-ref", status=2).err
    assert "leave exp_ref out of init" in desk.run("start", REFERENCE, "--init", '{"exp_ref": "x"}', status=2).err
    assert desk.told["cameras"] == []
    desk.run("start", "mouse1", "--any-ref")
    assert (rig.status, rig.exp_ref) == (ExpStatus.RUNNING, "mouse1")


@pytest.mark.parametrize("delay", ["1e9", "0", "-1"])
def test_an_instant_that_is_none_is_refused_before_any_rig_is_told(desk: Desk, delay: str) -> None:
    desk.rig("cameras")
    outcome = desk.run("start", REFERENCE, "--delay", delay, status=2)
    assert "delay" in outcome.err
    assert desk.told["cameras"] == []


def test_it_records_under_no_other_name_than_the_one_that_was_typed(desk: Desk) -> None:
    """As where somebody has begun another experiment at the main sync, and not gone on."""
    desk.rig("cameras")
    desk.rig("ephys", {"EXPINFO": lambda *_: {"exp_ref": "2026-03-01_9_rat"}}, main_sync=True)
    outcome = desk.run("start", REFERENCE, status=1)
    assert "2026-03-01_9_rat has begun there, and it is the main sync" in rows_of(outcome.out)["ephys"][1]
    assert outcome.err.endswith(f"Error: {REFERENCE} has not begun on any rig\n")
    assert desk.told == {"cameras": ["EXPINFO"], "ephys": ["EXPINFO"]}


# --------------------------------------------------------------------------------------------------- all or none


def test_a_rig_that_fails_at_the_start_takes_the_others_back(desk: Desk, programs: list[RigProgram]) -> None:
    with RigProgram("imaging", handlers={"EXPSTART": "raise"}) as imaging:
        desk.add("imaging", imaging.uri)
        with desk.start("start", REFERENCE) as command:
            outcome = command.outcome()
        assert outcome.status == 1
        rows = rows_of(outcome.out)
        assert rows["cameras"] == ["ok", "started; then interrupted and cleaned up"]
        assert rows["imaging"][0] == "failed"
        assert "EXPSTART failed: ValueError: imaging cannot do EXPSTART" in rows["imaging"][1]
        assert outcome.err.endswith(f"Error: {REFERENCE} has not begun on any rig\n")
        states = desk.json("status")["rigs"]
        assert {rig: state["status"] for rig, state in states.items()} == dict.fromkeys(states, "CONNECTED")
    document = desk.json("start", REFERENCE, status=1)  # that rig is gone now
    assert document["recording"] is False
    assert document["rigs"]["imaging"]["failure"]["type"] == "RigRefused"


def test_a_rig_that_records_already_is_left_alone(desk: Desk) -> None:
    desk.rig("cameras")
    desk.rig("ephys")
    desk.run("start", REFERENCE)
    again = desk.run("start", REFERENCE, status=1)
    assert "it records 2026-03-01_2_mouse already" in again.out
    other = desk.run("start", "2026-03-01_3_mouse", status=1)
    assert "EXPINIT for 2026-03-01_3_mouse refused" in other.out
    assert {rig: told[:3] for rig, told in desk.told.items()} == {"cameras": BEGUN, "ephys": BEGUN}
    assert {rig: row["status"] for rig, row in desk.json("status")["rigs"].items()} == {
        "cameras": "RUNNING",
        "ephys": "RUNNING",
    }


def test_ctrl_c_in_the_middle_takes_all_back(desk: Desk, gate: Gate) -> None:
    desk.rig("cameras")
    desk.rig("ephys", {"EXPSTART": gate})
    with desk.start("start", REFERENCE) as command:
        until(gate.reached.is_set)
        until(lambda: "EXPSTART" in desk.told["cameras"])
        command.interrupt()
        gate.open.set()
        outcome = command.outcome()
    assert outcome.status == 130
    assert "stopping cameras, ephys: EXPINTERRUPT" in outcome.err
    until(lambda: desk.told["cameras"] == ROLLED_BACK)
    until(lambda: desk.told["ephys"] == ROLLED_BACK)


def test_an_instant_that_ctrl_c_comes_before(desk: Desk) -> None:
    desk.rig("cameras")
    with desk.start("start", REFERENCE, "--delay", "30") as command:
        until(lambda: "EXPINIT" in desk.told["cameras"])
        assert command.line("EXPINIT")
        command.interrupt()
        assert command.outcome().status == 130
    until(lambda: desk.told["cameras"][-1:] == ["EXPCLEANUP"])
    assert "EXPSTART" not in desk.told["cameras"]


# ---------------------------------------------------------------------------------------------------------- stop


def test_stop_where_nothing_goes_on(desk: Desk) -> None:
    desk.rig("cameras")
    assert rows_of(desk.run("stop").out) == {"cameras": ["ok", "nothing goes on there"]}
    assert desk.told["cameras"] == []


def test_stop_ends_what_goes_on_and_says_where_nothing_does(desk: Desk) -> None:
    desk.rig(
        "cameras", {"EXPEND": lambda *_: {"recorded": {"seconds": 62.0, "files": [{"path": "/a", "bytes": 2000000}]}}}
    )
    desk.rig("ephys")
    desk.run("start", REFERENCE, "--to", "cameras")
    assert rows_of(desk.run("stop").out) == {
        "cameras": ["ok", "ended and cleaned up: one file, 2 MB, in 1 min 2 s"],
        "ephys": ["ok", "nothing goes on there"],
    }


@pytest.mark.parametrize("others", [True, False])
def test_a_rig_whose_program_was_started_anew_has_not_ended_well(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    """It says that nothing goes on there, which is not how a session ends; the journal knows that it had begun."""
    monkeypatch.setenv("RIGSYNC_JOURNAL", str(desk.folder / "journal.sqlite"))
    if others:
        desk.rig("cameras")
    with RigProgram("ephys") as ephys:
        desk.add("ephys", ephys.uri)
        desk.run("start", REFERENCE)
        ephys.kill()
    with RigProgram("ephys", ephys.uri):
        told = desk.run("stop", status=1).out
    lost = f"{REFERENCE} had begun there, and does not go on: look at its files, and at rigsync log"
    found = {"ephys": ["failed", lost]}
    assert rows_of(told) == ({"cameras": ["ok", "ended and cleaned up"], **found} if others else found)
    if others:
        (session,) = json.loads(desk.run("sessions", "--json").out)
        assert (session["outcome"], session["rigs"]["cameras"]) == ("incomplete", "ok")
        assert session["rigs"]["ephys"] == "it had begun, and was not ended with the others"
        desk.run("start", REFERENCE, "--to", "cameras")
        assert rows_of(desk.run("stop", "--to", "cameras").out) == {"cameras": ["ok", "ended and cleaned up"]}


def test_a_rig_that_does_not_end_is_interrupted_and_the_others_have_ended(desk: Desk) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    cameras = desk.rig("cameras", {"EXPEND": fail})
    desk.rig("ephys")
    desk.run("start", REFERENCE)
    outcome = desk.run("stop", status=1)
    rows = rows_of(outcome.out)
    assert rows["ephys"] == ["ok", "ended and cleaned up"]
    assert rows["cameras"][0] == "failed"
    assert "EXPEND failed: OSError: the disk is full" in rows["cameras"][1]
    assert rows["cameras"][1].endswith("then interrupted and cleaned up")
    assert cameras.status is ExpStatus.CONNECTED
    assert desk.told["ephys"][3:] == ["EXPEND", "EXPCLEANUP"]


def test_a_rig_that_has_ended_by_itself_is_told_and_cleaned_up(desk: Desk) -> None:
    cameras = desk.rig("cameras")
    desk.run("start", REFERENCE)
    cameras.interrupt("the recorder has died")
    until(lambda: cameras.status is ExpStatus.STOPPED)
    outcome = desk.run("stop", status=1)
    assert not [line for line in outcome.out.splitlines() if line.rstrip() == "EXPCLEANUP"]
    rows = rows_of(outcome.out)
    assert rows["cameras"][0] == "failed"
    assert "the recorder has died" in rows["cameras"][1]
    assert cameras.status is ExpStatus.CONNECTED


def test_another_program_s_session_goes_on(desk: Desk, connect: Callable[..., Auxiliaries]) -> None:
    cameras = desk.rig("cameras")
    with connect(cameras).experiment(REFERENCE) as session:
        outcome = desk.run("stop", status=1)
        row = rows_of(outcome.out)["cameras"]
        assert row[0] == "failed"
        assert "BusyError" in row[1]
        assert "is in charge of 2026-03-01_2_mouse" in row[1]
        assert cameras.status is ExpStatus.RUNNING
        session.check()
    assert desk.told["cameras"] == [*BEGUN, "EXPEND", "EXPCLEANUP"]


def test_ctrl_c_turns_a_stop_that_takes_long_into_an_interrupt(desk: Desk, gate: Gate) -> None:
    desk.rig("cameras", {"EXPEND": gate})
    desk.run("start", REFERENCE)
    with desk.start("stop") as command:
        until(gate.reached.is_set)
        command.interrupt()
        until(lambda: "EXPINTERRUPT" in desk.told["cameras"])
        gate.open.set()
        assert command.outcome().status == 130
    until(lambda: desk.told["cameras"][-1] == "EXPCLEANUP")


def test_ctrl_c_leaves_what_another_program_is_in_charge_of(
    desk: Desk, connect: Callable[..., Auxiliaries], gate: Gate
) -> None:
    ephys = desk.rig("ephys")
    aux = connect(ephys)
    with aux.experiment("2026-03-01_9_rat") as session:
        desk.rig("cameras", {"EXPEND": gate})
        desk.run("start", REFERENCE, "--to", "cameras")
        with desk.start("stop") as command:
            until(gate.reached.is_set)
            command.interrupt()
            until(lambda: "EXPINTERRUPT" in desk.told["cameras"])
            gate.open.set()
            assert command.outcome().status == 130
        assert ephys.status is ExpStatus.RUNNING
        session.check()


# ----------------------------------------------------------------------------------------------------- interrupt


def test_interrupt_stops_all_and_says_why(desk: Desk) -> None:
    desk.rig("cameras")
    desk.rig("ephys")
    desk.run("start", REFERENCE)
    shown = rows_of(desk.run("interrupt", "the animal is out").out)
    assert shown == {rig: ["ok", "interrupted and cleaned up"] for rig in ("cameras", "ephys")}
    for rig in ("cameras", "ephys"):
        assert desk.told[rig] == ROLLED_BACK
        (report,) = desk.arguments[rig, "EXPINTERRUPT"]
        assert (report["error"], report["message"]) == ("InterruptedByHand", "the animal is out")


def test_interrupt_stops_another_program_s_session_and_leaves_it_to_that_to_clean_up(
    desk: Desk, connect: Callable[..., Auxiliaries]
) -> None:
    cameras = desk.rig("cameras")
    session = connect(cameras).begin(REFERENCE)
    row = rows_of(desk.run("interrupt").out)["cameras"]
    assert row[0] == "ok"
    assert row[1].startswith("interrupted; to clean up is left to the one in charge: ")
    assert cameras.status is ExpStatus.STOPPED
    until(lambda: "cameras" in session.failures)
    assert "EXPINTERRUPT came from" in session.failures["cameras"]
    session.interrupt()


def test_interrupt_of_a_rig_that_is_not_there_fails(desk: Desk) -> None:
    desk.rig("cameras")
    desk.add("gone", f"udp://127.0.0.1:{free_port()}")
    document = desk.json("interrupt", "--timeout", "1", status=1)
    assert document["rigs"]["gone"]["failure"]["type"] == "RigRefused"
    assert document["rigs"]["gone"]["outcome"].startswith("may go on recording: RigRefused")
    assert document["rigs"]["cameras"]["failure"] is None


# ------------------------------------------------------------------------------------------ out of reach at the end


def test_a_rig_out_of_reach_is_said_to_be_left_to_its_lease(desk: Desk) -> None:
    """Nobody tells it later: the command has ended by then."""
    with RigProgram("ephys", handlers={"EXPSTART": "spin"}) as ephys:
        desk.rig("cameras")
        desk.add("ephys", ephys.uri)
        outcome = desk.run("start", REFERENCE, "--timeout", "1.5", status=1)
        words = rows_of(outcome.out)["ephys"][1]
        assert words.endswith("if it records, it goes on until its lease is over")
    assert desk.told["cameras"] == ROLLED_BACK


def test_a_program_that_is_a_rig_is_interrupted_and_nothing_else(desk: Desk) -> None:
    pytest.importorskip("pythonosc", reason="an OSC program needs python-osc")
    messages = {
        "EXPINIT": ["/init", "{exp_ref}"],
        "EXPSTART": ["/start"],
        "EXPEND": ["/stop"],
        "EXPINTERRUPT": ["/halt"],
    }
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.bind(("127.0.0.1", 0))
        uri = f"osc://127.0.0.1:{program.getsockname()[1]}"
        (desk.folder / "rigs.yaml").write_text(json.dumps({"rigs": {"bonsai": {"uri": uri, "messages": messages}}}))
        refused = desk.run("start", REFERENCE, status=2)
        assert "bonsai: a program by OSC or ZeroMQ is a rig of rigsync's own, what records only while" in refused.err
        shown = rows_of(desk.run("stop", status=3).out)["bonsai"]
        assert shown[0] == "sent"
        assert "nobody here knows whether it records; rigsync interrupt stops it" in shown[1]
        halted = rows_of(desk.run("interrupt", status=3).out)["bonsai"]
        assert halted[0] == "sent"
        assert program.recv(1000)[:6] == b"/halt\0", "it got nothing before"


# ------------------------------------------------------------------------------------------------- the same in Python


def test_an_experiment_is_left_to_another_program(desk: Desk, connect: Callable[..., Auxiliaries]) -> None:
    rig = desk.rig("cameras")
    with connect(rig, leave_running=True) as aux:
        session = aux.experiment(REFERENCE)
        with pytest.raises(RuntimeError, match="never begun"):
            session.leave_running()
        with session:
            session.leave_running()
        with pytest.raises(RuntimeError, match="is over"):
            session.end()
    assert (rig.status, desk.told["cameras"]) == (ExpStatus.RUNNING, BEGUN)
    with connect(rig) as aux:
        session = aux.experiment(REFERENCE)
        session.join(["cameras"])
        with pytest.raises(RuntimeError, match="begun once"):
            session.join(["cameras"])
        session.end()
    assert (rig.status, desk.told["cameras"]) == (ExpStatus.CONNECTED, [*BEGUN, "EXPEND", "EXPCLEANUP"])


def test_what_has_joined_and_fails_interrupts_what_is_its_own(desk: Desk, connect: Callable[..., Auxiliaries]) -> None:
    rigs = [desk.rig("cameras"), desk.rig("ephys")]
    desk.run("start", REFERENCE)
    session = connect(*rigs).experiment(REFERENCE)
    session.join(["cameras"])
    with pytest.raises(ZeroDivisionError), session_of(session):
        raise ZeroDivisionError
    assert desk.told == {"cameras": ROLLED_BACK, "ephys": BEGUN}


@contextlib.contextmanager
def session_of(session: Experiment) -> Iterator[None]:
    """End or interrupt an experiment that was joined."""
    try:
        yield
    except BaseException as error:
        session.interrupt(error)
        raise
    session.end()


# ------------------------------------------------------------------------------------------- a rig that is not there


def test_a_rig_that_is_not_there_is_named_while_it_is_waited_for(desk: Desk) -> None:
    uris = {"cameras": desk.rig("cameras").uri, "ephys": f"udp://127.0.0.1:{free_port()}"}
    text = json.dumps({"timing": {"connect_timeout": LONG}, "rigs": uris})
    (desk.folder / "rigs.yaml").write_text(text, encoding="utf-8")
    with desk.start("status") as command:
        assert command.error_line() == "waiting for ephys: its host says that nothing listens at this port"
        with Rig("ephys", uris["ephys"]):  # it was about to start
            outcome = command.outcome()
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.count("CONNECTED") == 2
