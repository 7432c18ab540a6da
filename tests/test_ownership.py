"""Whose experiment it is, with real rigs and coordinators in processes of their own: refusals, takeovers, leases."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_programs import environment, run_here
from processes import LONG, Program, RigProgram, port_of, until

from rigsync import Auxiliaries, BusyError, ConfigError, ExpStatus, PushError, RemoteError, Rig, Timing
from rigsync.cli.watching import in_charge
from rigsync.config.rigs import rigs_from
from rigsync.core import messages
from rigsync.core.arguments import compose
from rigsync.core.clock import StampClock
from rigsync.core.ownership import Ownership
from rigsync.core.peer import FAREWELLS
from rigsync.core.responder import Responder
from rigsync.net import relay
from rigsync.net.relay import relay_before
from rigsync.runtime.program import this_program

REFERENCE = "2026-03-01_2_mouse"
OTHER = "2026-03-01_3_mouse"


@pytest.fixture
def rig(stack: contextlib.ExitStack) -> Rig:
    return stack.enter_context(Rig("cameras", "udp://127.0.0.1:0"))


def coordinator(stack: contextlib.ExitStack, *rigs: Rig | RigProgram) -> Auxiliaries:
    return stack.enter_context(Auxiliaries({rig.name: rig.uri for rig in rigs}))


def refusal(aux: Auxiliaries, message: str, *args: Any) -> RemoteError:
    outcome = aux.push(message, *args, wait=True)
    assert isinstance(outcome, PushError), outcome
    (failure,) = outcome.failed.values()
    assert isinstance(failure, RemoteError)
    return failure


@pytest.mark.parametrize(
    ("message", "args"),
    [("EXPINIT", [OTHER]), ("EXPSTART", [REFERENCE]), ("EXPEND", []), ("EXPCLEANUP", []), ("ALYX", [])],
)
def test_another_coordinator_is_refused_by_name(
    stack: contextlib.ExitStack, rig: Rig, message: str, args: list[Any]
) -> None:
    owner, other = coordinator(stack, rig), coordinator(stack, rig)
    owner.request("EXPINIT", REFERENCE)
    failure = refusal(other, message, *args)
    assert isinstance(failure, BusyError)
    assert "127.0.0.1" in str(failure)
    assert REFERENCE in str(failure)
    assert rig.status is ExpStatus.INITIALIZED
    assert owner.request("EXPSTART", REFERENCE)


def test_another_coordinator_may_ask_and_interrupt(stack: contextlib.ExitStack, rig: Rig) -> None:
    owner, other = coordinator(stack, rig), coordinator(stack, rig)
    owner.request("EXPINIT", REFERENCE)
    reply = other.ping("cameras")["cameras"]
    assert not isinstance(reply, Exception)
    assert reply.owner == "127.0.0.1"
    assert other.request("EXPSTATUS") == {"cameras": [10]}
    assert other.request("EXPINFO")["cameras"][1]["exp_ref"] == REFERENCE
    assert other.request("EXPINTERRUPT")
    assert rig.status is ExpStatus.STOPPED
    owner.request("EXPCLEANUP")
    other.request("EXPINIT", OTHER)


def test_a_goodbye_frees_the_rig(stack: contextlib.ExitStack, rig: Rig) -> None:
    other = coordinator(stack, rig)
    with Auxiliaries({"cameras": rig.uri}) as owner:
        owner.request("EXPINIT", REFERENCE)
        assert isinstance(refusal(other, "EXPSTART"), BusyError)
    until(lambda: not isinstance(other.push("EXPSTART", wait=True), PushError))


def test_an_experiment_is_taken_over_by_its_reference(stack: contextlib.ExitStack, rig: Rig) -> None:
    owner, other = coordinator(stack, rig), coordinator(stack, rig)
    ran: list[str] = []
    rig.on("EXPINIT")(lambda: ran.append("EXPINIT"))
    owner.request("EXPINIT", REFERENCE)
    owner.request("EXPSTART", REFERENCE)
    wrong = refusal(other, "EXPINIT", {"exp_ref": OTHER, "takeover": True})
    assert OTHER in str(wrong)
    assert REFERENCE in str(wrong)
    assert "exp_ref is missing" in str(refusal(other, "EXPINIT", {"takeover": True}))
    assert "true or false" in str(refusal(other, "EXPINIT", {"exp_ref": REFERENCE, "takeover": "yes"}))
    answer = other.request("EXPINIT", {"exp_ref": REFERENCE, "takeover": True})["cameras"]
    assert answer[0]["status"] == 20
    assert ran == ["EXPINIT"]
    assert isinstance(refusal(owner, "EXPEND"), BusyError)
    other.request("EXPEND")


@pytest.mark.parametrize("lease", [-1, -0.001, True, "300", None, float("nan"), float("inf"), [1]])
def test_a_lease_that_is_none_is_refused(lease: Any) -> None:
    with pytest.raises(ConfigError, match="lease"):
        Rig("cameras", "udp://127.0.0.1:0", lease=lease)


def test_a_refusal_names_the_program_that_is_in_charge(stack: contextlib.ExitStack) -> None:
    rig = stack.enter_context(Rig("cameras", "udp://127.0.0.1:0"))
    aux = coordinator(stack, rig)
    with Program("coordinate", rigs={"cameras": rig.uri}) as other:
        other.wait_for("connected")
        other.tell("push", "EXPINIT", REFERENCE)
        other.wait_for("result", "EXPINIT")
        text = refusal(aux, "EXPINIT", OTHER).message
        told = re.search(r"the coordinator on 127\.0\.0\.1 \((.*), pid (\d+), started (\d\d:\d\d:\d\d)\) is in", text)
        assert told, text
        assert told[1] == "processes.py"
        assert int(told[2]) == other._process.pid
        assert REFERENCE in text
        assert "close it there" in text


def test_a_second_connection_of_this_program_is_told_so(stack: contextlib.ExitStack) -> None:
    rig = stack.enter_context(Rig("cameras", "udp://127.0.0.1:0"))
    first, second = coordinator(stack, rig), coordinator(stack, rig)
    first.request("EXPINIT", {"exp_ref": REFERENCE})
    text = refusal(second, "EXPEND").message
    assert f"pid {os.getpid()}, " in text
    assert text.startswith("EXPEND refused: this very program (")
    assert "close that one" in text


def test_a_program_s_arguments_are_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    told = f", pid {os.getpid()}, started "
    for argv, name in (
        (["/lab/task.py", "--token", "secret"], "task.py"),
        (["/lab/session/__main__.py", "secret"], "session"),
        (["-c", "secret"], "python"),
        (["/lab/" + 100 * "x"], 40 * "x"),
        ([], "python"),
    ):
        monkeypatch.setattr(sys, "argv", argv)
        assert this_program()[:-8] == name + told


def test_rigs_interrupt_when_their_owner_is_killed_and_say_why(
    stack: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="rigsync.rig")
    names = ("cameras", "ephys", "imaging")
    told: dict[str, Any] = {}
    rigs = [Rig(name, "udp://127.0.0.1:0", lease=1.5) for name in names]
    for rig in rigs:
        rig.on("EXPINTERRUPT")(lambda data, name=rig.name: told.update({name: data}))
        stack.enter_context(rig)
    watcher = coordinator(stack, *rigs)
    statuses: list[Any] = []
    watcher.on("notice", lambda notice: statuses.append(notice.body) if notice.topic == "status" else None)
    with Program("coordinate", rigs={rig.name: rig.uri for rig in rigs}) as victim:
        victim.wait_for("connected")
        victim.tell("push", "EXPINIT", REFERENCE)
        victim.wait_for("result", "EXPINIT")
        victim.tell("push", "EXPSTART", REFERENCE)
        victim.wait_for("result", "EXPSTART")
        victim.kill()
    until(lambda: all(rig.status is ExpStatus.STOPPED for rig in rigs))
    until(lambda: set(told) == set(names))
    for data in told.values():
        assert "127.0.0.1" in data["reason"]
        assert REFERENCE in data["reason"]
        assert "silent for the lease of 1.5 s" in data["reason"]
    until(lambda: sum("lease" in str(body["reason"]) for body in statuses) == len(names))
    assert sum("interrupts: the coordinator on 127.0.0.1" in message for message in caplog.messages) == len(names)
    # Nobody owns it any more.
    assert watcher.request("EXPINIT", OTHER)


def test_an_owner_with_a_long_beat_is_there_between_two_probes(stack: contextlib.ExitStack, rig: Rig) -> None:
    other = coordinator(stack, rig)
    owner = stack.enter_context(Auxiliaries(rigs_from({"cameras": rig.uri}, Timing(beat=8.0))))
    heard: list[int] = []
    owner.on_notice("light", lambda notice: heard.append(notice.body))
    for message in ("EXPINIT", "EXPSTART", "EXPEND"):
        owner.request(message, *([REFERENCE] if message != "EXPEND" else []))
    begin, told = time.monotonic(), 0
    while time.monotonic() < begin + 7.0:  # longer than a rig waits for an owner with a beat of 1 s
        rig.notify("light", told, confirm=False)
        told += 1
        failure = refusal(other, "EXPINIT", OTHER)
        assert isinstance(failure, BusyError)
        assert "when that one has been silent for 40 s" in str(failure)
        time.sleep(0.5)
    until(lambda: heard == list(range(told)))


def test_a_rig_without_a_lease_goes_on(stack: contextlib.ExitStack) -> None:
    forever = stack.enter_context(Rig("cameras", "udp://127.0.0.1:0", lease=0))
    brief = stack.enter_context(Rig("ephys", "udp://127.0.0.1:0", lease=0.5))
    with Program("coordinate", rigs={"cameras": forever.uri, "ephys": brief.uri}) as victim:
        victim.wait_for("connected")
        victim.tell("push", "EXPINIT", REFERENCE)
        victim.wait_for("result", "EXPINIT")
        victim.kill()
    until(lambda: brief.status is ExpStatus.STOPPED)
    assert forever.status is ExpStatus.INITIALIZED


def test_an_owner_that_is_there_keeps_its_rig_beyond_the_lease(stack: contextlib.ExitStack) -> None:
    brief = stack.enter_context(Rig("cameras", "udp://127.0.0.1:0", lease=2.5))
    gone = stack.enter_context(Rig("ephys", "udp://127.0.0.1:0", lease=2.5))
    owner = coordinator(stack, brief)
    owner.request("EXPINIT", REFERENCE)
    with Program("coordinate", rigs={"ephys": gone.uri}) as victim:
        victim.wait_for("connected")
        victim.tell("push", "EXPINIT", REFERENCE)
        victim.wait_for("result", "EXPINIT")
        victim.kill()
    until(lambda: gone.status is ExpStatus.STOPPED, "the lease of a killed owner")
    assert brief.status is ExpStatus.INITIALIZED


def test_a_killed_owner_s_rig_in_a_process_of_its_own_interrupts(stack: contextlib.ExitStack) -> None:
    program = stack.enter_context(RigProgram("cameras", handlers={"EXPINTERRUPT": "count"}, lease=1))
    with Program("coordinate", rigs={"cameras": program.uri}) as victim:
        victim.wait_for("connected")
        victim.tell("push", "EXPINIT", REFERENCE)
        victim.wait_for("result", "EXPINIT")
        victim.kill()
    (_, _, (data,)) = program.wait_for("ran", "EXPINTERRUPT")
    assert "silent for the lease of 1 s" in data["reason"]


# ---------------------------------------------------------------------------------------- when the owner is no more


def crashed_owner(rig: Rig, *messages: tuple[str, Any]) -> None:
    """Have a coordinator in a process of its own push messages, and kill it."""
    with Program("coordinate", rigs={rig.name: rig.uri}) as victim:
        victim.wait_for("connected")
        for message, argument in messages:
            victim.tell("push", message, argument)
            victim.wait_for("result", message)
        victim.kill()


@pytest.mark.parametrize("first", [REFERENCE, {"anything": 1}], ids=["with a reference", "without"])
@pytest.mark.parametrize("lease", [0, 300])
def test_after_a_crash_an_interrupt_is_the_way_to_the_next_experiment(
    stack: contextlib.ExitStack, first: Any, lease: float
) -> None:
    rig = stack.enter_context(Rig("cameras", "udp://127.0.0.1:0", lease=lease))
    crashed_owner(rig, ("EXPINIT", first))
    aux = coordinator(stack, rig)
    assert "or stop it with EXPINTERRUPT" in str(refusal(aux, "EXPINIT", OTHER))
    aux.request("EXPINTERRUPT")
    until(lambda: not isinstance(aux.push("EXPINIT", OTHER, wait=True), PushError), "the owner is given up")
    assert rig.exp_ref == OTHER


def test_a_script_that_ends_without_closing_leaves_its_rig_to_the_next(stack: contextlib.ExitStack, rig: Rig) -> None:
    script = (
        f"from rigsync import Auxiliaries; aux = Auxiliaries({{'cameras': {rig.uri!r}}})\n"
        f"aux.request('EXPINIT', {REFERENCE!r}); aux.request('EXPSTART'); aux.request('EXPEND')"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=LONG)
    coordinator(stack, rig).request("EXPINIT", OTHER)


class Impatient(Rig):
    """A rig that takes a coordinator that tells no beat for gone after a quarter of a second."""

    def _make_responder(self, handled: Any, timing: Timing, boot: str, stamps: StampClock) -> Responder:
        return super()._make_responder(handled, Timing(beat=0.05), boot, stamps)


@pytest.fixture
def left(stack: contextlib.ExitStack) -> Rig:
    """A rig that is INITIALIZED, and hears nothing more of the one in charge."""
    rig = stack.enter_context(Impatient("cameras", "udp://127.0.0.1:0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as crashed:
        crashed.sendto(messages.request("0" * 16, 1, compose("EXPINIT", REFERENCE)), ("127.0.0.1", port_of(rig.uri)))
        until(lambda: rig.status is ExpStatus.INITIALIZED)
    return rig


def test_terminals_show_how_long_the_one_in_charge_is_silent_and_when_the_rig_interrupts(
    stack: contextlib.ExitStack, left: Rig, tmp_path: Path
) -> None:
    aux = coordinator(stack, left)
    until(lambda: aux.view("cameras").owner_heard)
    (tmp_path / "rigs.yaml").write_text(f"rigs:\n  cameras: {left.uri}\n")
    out = run_here(["watch", "--once"], tmp_path, environment(tmp_path)).out
    assert re.search(r" 127\.0\.0\.1, silent for (\d+ min )?\d+ s, interrupts in \d min( \d+ s)?  ", out), out
    for arguments in (["watch", "--once"], ["ping", "-c", "1"]):
        began = time.time()
        told = json.loads(run_here([*arguments, "--json"], tmp_path, environment(tmp_path)).out)["rigs"]["cameras"]
        assert told["owner"] == "127.0.0.1"
        assert told["owner_heard"] < told["heard"]
        assert began < told["heard"] < told["interrupts_at"] < told["owner_heard"] + 300.1


def test_when_the_task_has_gone_without_an_end_the_end_of_the_lease_is_shown(
    stack: contextlib.ExitStack, rig: Rig
) -> None:
    with Auxiliaries({"cameras": rig.uri}, leave_running=True) as task:
        task.request("EXPINIT", REFERENCE)
    aux = coordinator(stack, rig)
    until(lambda: aux.view("cameras").interrupts_at)
    view = aux.view("cameras")
    assert (view.owner, view.owner_heard) == (None, None)
    aux.request("EXPINIT", {"exp_ref": REFERENCE, "takeover": True})
    until(lambda: aux.view("cameras").owner == "127.0.0.1")
    assert aux.view("cameras").interrupts_at is None


def test_a_rig_of_the_version_before_tells_nothing_of_it_and_nothing_is_shown(
    stack: contextlib.ExitStack, left: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = coordinator(stack, left)
    until(lambda: watching.view("cameras").interrupts_at)
    monkeypatch.setattr(Ownership, "absence", lambda *_: (None, None))
    until(lambda: watching.view("cameras").interrupts_at is None)
    view = watching.view("cameras")
    assert (view.owner, view.owner_heard, in_charge(view, time.time())) == ("127.0.0.1", None, "127.0.0.1")


class MissesGoodbyes(relay.Relay):
    """Carries one of the goodbyes of each coordinator, the last one; chance would now and then carry none."""

    goodbyes = 0

    def _carry(self, random: Any, loss: float, send: Any) -> None:
        if b'"kind":"bye"' in send.args[0]:
            self.goodbyes += 1
            loss = float(self.goodbyes % len(FAREWELLS) > 0)
        super()._carry(random, loss, send)


@pytest.mark.parametrize("seed", range(4))
def test_one_command_after_the_other_over_a_bad_network(
    stack: contextlib.ExitStack, rig: Rig, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `rigsync push` is used: each command is a coordinator of its own, whose goodbye lets the next one in."""
    monkeypatch.setattr(relay, "Relay", MissesGoodbyes)
    target = {"cameras": ("127.0.0.1", port_of(rig.uri))}
    bad = stack.enter_context(relay_before(target, loss=0.2, seed=seed))["cameras"]
    assert isinstance(bad, MissesGoodbyes)
    for message, *args in (("EXPINIT", REFERENCE), ("EXPSTART", REFERENCE), ("EXPEND",), ("EXPCLEANUP",)):
        expected = bad.goodbyes + len(FAREWELLS)
        with Auxiliaries({"cameras": "udp://{}:{}".format(*bad.address)}) as aux:
            aux.request(message, *args)
        until(lambda expected=expected: bad.goodbyes == expected)  # type: ignore[misc]
