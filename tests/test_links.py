"""Links as task code sees them: events, waiting for rigs, clocks, names that move; with real rigs and sockets."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from live_helpers import Gate, in_thread
from processes import LONG, RigProgram, free_port, port_of, until

import rigsync.coordinator.ways
from rigsync import (
    Auxiliaries,
    ClockEstimate,
    ListenError,
    LoopBlocked,
    NotRunning,
    PushError,
    Rig,
    RigRestarted,
    RigsMissing,
    Timing,
    UnknownRig,
)
from rigsync.config.rigs import rigs_from
from rigsync.coordinator import links
from rigsync.core import events
from rigsync.core.enums import ExpStatus
from rigsync.core.events import LinkState
from rigsync.net import udp
from rigsync.net.udp import own_address

EAGER = Timing(beat=0.2)
CALM = Timing(beat=0.5)
"""For tests in which a link must not be suspect, or must be so before it is lost: half of that would be too quick for a
busy computer."""


def connect(stack: contextlib.ExitStack, uris: dict[str, str], timing: Timing = EAGER, **options: Any) -> Auxiliaries:
    return stack.enter_context(Auxiliaries(rigs_from(uris, timing), **options))


class Told:
    """The names of the link events of each rig, in order."""

    def __init__(self, aux: Auxiliaries):
        self.events: list[tuple[str, str]] = []
        for kind in ("LinkAlive", "LinkSuspect", "LinkLost", "RestartSeen"):
            aux.on(kind, lambda event: self.events.append((type(event).__name__, event.rig)))

    def of(self, rig: str) -> list[str]:
        return [name for name, of in self.events if of == rig]


# -------------------------------------------------------------------------------------------------------- events


def test_a_rig_that_is_killed_is_lost_and_is_back_when_it_is_started_again(stack: contextlib.ExitStack) -> None:
    other = stack.enter_context(RigProgram("ephys"))
    with RigProgram("cameras") as victim:
        aux = connect(stack, {"cameras": victim.uri, "ephys": other.uri}, CALM)
        told = Told(aux)
        victim.kill()
        until(lambda: "LinkLost" in told.of("cameras"))
    with RigProgram("cameras", victim.uri):
        until(lambda: "LinkAlive" in told.of("cameras"))
        until(lambda: "RestartSeen" in told.of("cameras"))
    assert "LinkLost" not in told.of("ephys")


def test_a_rig_that_stands_still_is_suspect_then_lost_then_alive(stack: contextlib.ExitStack) -> None:
    if not hasattr(__import__("signal"), "SIGSTOP"):
        pytest.skip("this system cannot stop a process")
    from signal import SIGCONT, SIGSTOP

    program = stack.enter_context(RigProgram("cameras"))
    aux = connect(stack, {"cameras": program.uri}, CALM)
    told = Told(aux)
    changes: list[events.LinkChanged] = []
    aux.on("LinkChanged", changes.append)
    program.signal(SIGSTOP)
    until(lambda: told.of("cameras")[-2:] == ["LinkSuspect", "LinkLost"])
    program.signal(SIGCONT)
    until(lambda: told.of("cameras")[-3:] == ["LinkSuspect", "LinkLost", "LinkAlive"])
    assert [event.after.value for event in changes] == ["suspect", "lost", "alive"]


def test_a_program_that_stands_still_itself_does_not_take_its_rigs_for_lost(
    stack: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    program = stack.enter_context(RigProgram("cameras"))
    aux = connect(stack, {"cameras": program.uri})
    told = Told(aux)
    stood_still: list[events.StoodStill] = []
    answered: list[events.ProbeAnswered] = []

    def block(event: events.ProbeAnswered) -> None:
        answered.append(event)
        if len(answered) == EAGER.burst_count + 2:  # one a beat by now: none that comes meanwhile is a sign of life
            time.sleep(2 * EAGER.lost_after)

    aux.on("StoodStill", stood_still.append)
    aux.on("ProbeAnswered", block)
    until(lambda: len(answered) > EAGER.burst_count + 4)
    assert "LinkLost" not in told.of("cameras")
    assert stood_still[0].seconds > EAGER.lost_after
    assert "this program stood still for" in caplog.text


def test_a_restart_with_a_request_outstanding_is_told_and_not_run_again(stack: contextlib.ExitStack) -> None:
    with RigProgram("cameras", handlers={"EXPINIT": "hang"}) as victim:
        aux = connect(stack, {"cameras": victim.uri})
        waiting = aux.push("EXPINIT", {"number": 1}, timeout=LONG)
        victim.wait_for("ran", "EXPINIT")
        victim.kill()
    with RigProgram("cameras", victim.uri, handlers={"EXPINIT": "count"}) as second:
        outcome = until(lambda: aux.response(waiting))
        assert isinstance(outcome, PushError)
        # Within a beat of its death it was refused; or it was there again before that was noticed.
        failure = outcome.failed["cameras"]
        aux.wait_for("cameras", timeout=LONG)
        assert aux.request("EXPINIT", {"number": 2})["cameras"]
        second.wait_for("ran")  # its report may come after the answer
        assert second.all("ran") == [["ran", "EXPINIT", [{"number": 2}]]], failure


def test_a_restart_that_nothing_else_shows_settles_what_is_outstanding() -> None:
    first, second = Rig("cameras", "udp://127.0.0.1:0"), None
    ran: list[str] = []
    reached, go = threading.Event(), threading.Event()

    @first.on("EXPINIT")
    def hang() -> None:
        reached.set()
        go.wait(LONG)

    with first:
        port = port_of(first.uri)
        with Auxiliaries(rigs_from({"cameras": first.uri}, EAGER)) as aux:
            waiting = aux.push("EXPINIT", timeout=LONG)
            assert reached.wait(LONG)
            # In place of the first, at once and without a farewell, as a supervisor does after a crash.
            session = first._session
            assert session
            first._thread.call(session.endpoint.close)  # type: ignore[union-attr]
            until(lambda: session.endpoint._closed)
            second = Rig("cameras", f"udp://127.0.0.1:{port}")
            second.on("EXPINIT")(lambda: ran.append("EXPINIT"))
            with second:
                outcome = until(lambda: aux.response(waiting))
                assert isinstance(outcome.failed["cameras"], RigRestarted)
                assert "EXPINIT" in str(outcome.failed["cameras"])
                assert ran == []
        go.set()


# ------------------------------------------------------------------------------------------------------- waiting


def test_waiting_for_rigs_ends_when_all_answer(stack: contextlib.ExitStack) -> None:
    port = free_port()
    there = stack.enter_context(Rig("ephys", "udp://127.0.0.1:0"))
    aux = connect(stack, {"cameras:left": f"udp://127.0.0.1:{port}", "ephys": there.uri}, connect_timeout=0.01)
    aux.wait_for("ephys", timeout=LONG)
    waiting = in_thread(aux.wait_for, "cameras:*", timeout=LONG)
    until(lambda: aux.thread.waiters._waiting)
    assert not waiting.done()
    with Rig("cameras:left", f"udp://127.0.0.1:{port}"):
        waiting.result(LONG)
        aux.wait_for(timeout=LONG)


def test_rigs_that_do_not_appear_are_named_with_what_is_known(stack: contextlib.ExitStack) -> None:
    there = stack.enter_context(Rig("ephys", "udp://127.0.0.1:0"))
    aux = connect(stack, {"cameras": f"udp://127.0.0.1:{free_port()}", "ephys": there.uri}, connect_timeout=0.01)
    aux.wait_for("ephys", timeout=LONG)
    until(lambda: aux.services and aux.services["cameras"].state is events.LinkState.LOST)
    with pytest.raises(RigsMissing) as caught:
        aux.wait_for(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert list(caught.value.reasons) == ["cameras"]
    assert "nothing listens at this port" in str(caught.value)


@pytest.mark.parametrize("which", [0, 1])
def test_a_coordinator_is_not_its_own_rig(
    which: int, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack
) -> None:
    """Towards a port of this machine the system may choose that very port, and the socket would hear itself."""
    port = free_port()
    made: list[socket.socket] = []

    def at_the_rigs_port(family: int) -> socket.socket:
        sock = udp_socket(family)
        if len(made) == which:  # one of the two lines towards the rig
            sock.bind(("127.0.0.1", port))
        made.append(sock)
        return sock

    udp_socket = udp.udp_socket
    monkeypatch.setattr(udp, "udp_socket", at_the_rigs_port)
    aux = connect(stack, {"cameras": f"udp://127.0.0.1:{port}"}, connect_timeout=0.01)
    until(lambda: aux.services and aux.services["cameras"].state is not events.LinkState.UNKNOWN)
    with pytest.raises(RigsMissing, match="nothing listens at this port"):
        aux.wait_for(timeout=0.3)
    with Rig("cameras", f"udp://127.0.0.1:{port}"):  # whose port is free
        aux.wait_for(timeout=LONG)


def test_waiting_for_rigs_ends_with_the_instance(stack: contextlib.ExitStack) -> None:
    aux = connect(stack, {"cameras": f"udp://127.0.0.1:{free_port()}"}, connect_timeout=0.01)
    waiting = in_thread(aux.wait_for)
    until(lambda: aux.thread.waiters._waiting)
    aux.close()
    with pytest.raises(NotRunning):
        waiting.result(LONG)
    with pytest.raises(NotRunning):
        aux.wait_for()


def test_waiting_is_checked(stack: contextlib.ExitStack) -> None:
    rig = stack.enter_context(Rig("ephys", "udp://127.0.0.1:0"))
    aux = connect(stack, {"ephys": rig.uri})
    with pytest.raises(UnknownRig):
        aux.wait_for("cameras")
    with pytest.raises(TypeError):
        aux.wait_for(timeout="1")  # type: ignore[arg-type]
    caught: list[BaseException] = []

    def wait(_: object) -> None:
        try:
            aux.wait_for()
        except LoopBlocked as error:
            caught.append(error)

    aux.on("PushCompleted", wait)
    aux.request("EXPSTATUS")
    until(lambda: caught)
    Auxiliaries().close()
    with Auxiliaries() as none:
        none.wait_for()


# --------------------------------------------------------------------------------------------------------- names


def test_a_name_that_stands_for_another_address_after_a_reboot(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name server of one's own cannot be had in a test; all else is real.
    where = {"host": "127.0.0.1"}
    asked: list[str] = []
    look_up = socket.getaddrinfo

    def answer(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "camera-pc":
            asked.append(where["host"])
            return look_up(where["host"], *args, **{**kwargs, "flags": socket.AI_NUMERICHOST})
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with Rig("cameras", "udp://127.0.0.1:0") as before:
        port = port_of(before.uri)
        aux = connect(stack, {"cameras": f"udp://camera-pc:{port}"}, connect_timeout=LONG)
        assert aux.all_alive
        told = Told(aux)
        where["host"] = "127.0.0.2"
        assert asked == ["127.0.0.1"]
    with Rig("cameras", f"udp://127.0.0.2:{port}"):
        aux.wait_for("cameras", timeout=LONG)
        assert aux.request("EXPSTATUS") == {"cameras": [0]}
    told_of = [name for name in told.of("cameras") if name != "LinkSuspect"]  # for which a busy computer is enough
    assert told_of[:3] == ["LinkLost", "RestartSeen", "LinkAlive"]
    assert aux.services is not None
    assert aux.services.address("cameras")[0] == "127.0.0.2"


def stand_for(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Have the name camera-pc stand for several addresses."""
    look_up = socket.getaddrinfo

    def answer(host: str, *args: Any, **kwargs: Any) -> Any:
        if host != "camera-pc":
            return look_up(host, *args, **kwargs)
        return [entry for host in hosts for entry in look_up(host, *args, **{**kwargs, "flags": socket.AI_NUMERICHOST})]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_a_rig_that_is_not_at_the_first_address_of_its_name_is_found_at_another(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    try:
        rig = stack.enter_context(Rig("cameras", f"udp://{f'[{host}]' if ':' in host else host}:0"))
    except ListenError as reason:
        pytest.skip(str(reason))
    stand_for(monkeypatch, "127.0.0.1", host)
    aux = connect(stack, {"cameras": f"udp://camera-pc:{port_of(rig.uri)}"}, connect_timeout=0)
    aux.wait_for("cameras", timeout=LONG)
    assert aux.services is not None
    assert aux.services.address("cameras")[0] == host


@pytest.mark.parametrize("host", ["2001:db8::1", "fe80::1"])
def test_an_address_of_a_name_to_which_there_is_no_way_is_passed_over(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    """One of IPv6 where this computer has none (RFC 3849: the first is nobody's), or without its interface."""
    if own_address(socket.AF_INET6, (host, 11001)) is not None:
        pytest.skip("this computer has a way to that address")
    caplog.set_level(logging.INFO)
    stand_for(monkeypatch, "127.0.0.1", "127.0.0.2", host)
    connect(stack, {"cameras": f"udp://camera-pc:{free_port()}"}, connect_timeout=0)

    def tried() -> list[str]:
        return [record.args[1] for record in caplog.records if "another address" in record.msg]  # type: ignore

    until(lambda: len(tried()) == 4)
    assert tried() == ["127.0.0.2", "127.0.0.1"] * 2
    assert "sending again" not in caplog.text


def test_a_rig_that_has_answered_is_waited_for_where_it_was(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_for(monkeypatch, "127.0.0.1", "127.0.0.2")
    with Rig("cameras", "udp://127.0.0.1:0") as rig:
        aux = connect(stack, {"cameras": f"udp://camera-pc:{port_of(rig.uri)}"})
        told = Told(aux)
    until(lambda: told.of("cameras")[-1:] == ["LinkLost"])
    assert aux.services is not None
    for _ in range(3):
        assert aux.services.address("cameras")[0] == "127.0.0.1"
        time.sleep(EAGER.lost_after / 2)
    monkeypatch.setattr(rigsync.coordinator.ways, "LOOKS_THERE", 0)
    with Rig("cameras", f"udp://127.0.0.2:{port_of(rig.uri)}"):
        aux.wait_for("cameras", timeout=LONG)  # its computer has only the other address by now


def test_other_addresses_of_a_rig_that_has_answered_are_tried_after_six_look_ups(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_for(monkeypatch, "127.0.0.1", "127.0.0.2")
    with Rig("cameras", "udp://127.0.0.1:0") as rig:
        uri = f"udp://camera-pc:{port_of(rig.uri)}"
        aux = stack.enter_context(Auxiliaries(rigs_from({"cameras": uri}, Timing(beat=0.04))))
        services, look_up = aux.services, rigsync.coordinator.ways.look_up
        assert services is not None
        looked: list[str] = []

        async def look(config: Any) -> Any:
            looked.append(services.address("cameras")[0])
            return await look_up(config)

        monkeypatch.setattr(rigsync.coordinator.ways, "look_up", look)
    until(lambda: len(looked) >= 8)
    assert looked[:8] == 7 * ["127.0.0.1"] + ["127.0.0.2"]  # the seventh has led to the other one


SEARCHING = """
import socket, sys, threading
from rigsync import Auxiliaries
aux = Auxiliaries({{"cameras": "{uri}"}})
stuck = threading.Event()

def hang(*args, **kwargs):
    stuck.set()
    threading.Event().wait()

socket.getaddrinfo = hang
print(aux.all_alive, flush=True)
sys.stdin.readline()
if not stuck.wait({patience}):
    sys.exit("the name was not looked up again")
"""


def test_a_name_server_that_does_not_answer_does_not_keep_a_program_from_ending() -> None:
    with Rig("cameras", "udp://127.0.0.1:0") as rig:
        program = SEARCHING.format(uri=rig.uri.replace("127.0.0.1", "localhost"), patience=LONG)
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                assert process.stdout.readline() == "True\n"
                rig.close()
                process.communicate("\n", timeout=2 * LONG)
            finally:
                process.kill()
    assert process.returncode == 0


# -------------------------------------------------------------------------------------------------------- clocks


def clock_of(aux: Auxiliaries, rig: str) -> ClockEstimate:
    assert aux.services is not None
    clock: ClockEstimate | None = until(lambda: aux.services[rig].clock)  # type: ignore[index]
    assert clock is not None
    return clock


def test_clocks_of_one_computer_agree_within_the_bound(stack: contextlib.ExitStack) -> None:
    program = stack.enter_context(RigProgram("cameras"))
    aux = connect(stack, {"cameras": program.uri})
    clock = clock_of(aux, "cameras")
    assert clock.bound > 0
    # Each program reads the wall time between two looks at the monotonic clock.
    assert abs(clock.offset) <= clock.bound + 1e-3
    reply = aux.ping("cameras")["cameras"]
    assert not isinstance(reply, Exception)
    assert reply.clock is not None
    assert reply.clock.delay >= 0


def libfaketime() -> str | None:
    folders = [Path("/usr/lib"), Path("/usr/local/lib"), Path("/opt/homebrew/lib")]
    patterns = ["*/faketime/libfaketime.so.1", "faketime/libfaketime.so.1"]  # to look at all depths takes a second
    found = [path for folder in folders for pattern in patterns for path in folder.glob(pattern)]
    return str(found[0]) if found else None


@pytest.mark.skipif(libfaketime() is None, reason="libfaketime is not installed")
def test_a_clock_that_is_90_s_off_is_measured_within_its_bound(stack: contextlib.ExitStack) -> None:
    script = (
        "import sys, time; from rigsync import Rig\n"
        "rig = Rig('cameras', 'udp://127.0.0.1:0'); rig.start()\n"
        # The truth: what the rig's clock says at a moment that both know by the monotonic clock.
        "session = rig._session; now = session.endpoint.now()\n"
        "print(rig.uri, session.responder._stamps.stamp(now), repr(now), flush=True); sys.stdin.read(); rig.close()"
    )
    preload = {"LD_PRELOAD": libfaketime() or "", "FAKETIME": "+90s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    environment = {**os.environ, **preload, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout
            uri, stamp, now = process.stdout.readline().split()
            aux = connect(stack, {"cameras": uri}, Timing())
            until(lambda: clock_of(aux, "cameras").bound < 1e-3)
            clock = clock_of(aux, "cameras")
            ours = aux.services._fanout._stamps.stamp(float(now))  # type: ignore[union-attr]
            truth = (int(stamp) - ours) / 1e9
            assert 89.9 < truth < 90.1
            assert abs(clock.offset - truth) <= clock.bound
        finally:
            process.kill()


def test_a_stepped_system_clock_moves_no_stamp(stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = stack.enter_context(Rig("cameras", "udp://127.0.0.1:0"))
    aux = connect(stack, {"cameras": rig.uri})
    aux.request("EXPINIT")
    before = clock_of(aux, "cameras")
    first = aux.request("EXPSTART").starts["cameras"].time
    step = 3600.0
    wall, wall_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: wall() - step)
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() - round(step * 1e9))
    second = aux.request("EXPEND", delay=0.05).starts["cameras"].time
    assert 0 < second - first < LONG
    after = clock_of(aux, "cameras")
    assert abs(after.offset - before.offset) <= before.bound + after.bound + 1e-3


# ------------------------------------------------------------------------------------------------- one picture of a rig


def test_a_view_has_all_that_is_known_and_does_not_change(serve: Any, connect: Any) -> None:
    rig = serve("cameras", {"EXPINIT": lambda *_: None})
    aux = connect(rig)
    before = aux.view("cam*")
    aux.request("EXPINIT", {"exp_ref": "2026-03-01_2_mouse"})
    # A probe that comes while EXPINIT is worked on tells its owner, and not yet its status.
    until(lambda: aux.view("cameras").owner and aux.view("cameras").state == "INITIALIZED")
    after = aux.view("cameras")
    assert (before.status, before.exp_ref, before.last_message) == (ExpStatus.CONNECTED, None, None)
    assert (after.rig, after.link, after.dialect, after.state) == ("cameras", LinkState.ALIVE, "rigsync", "INITIALIZED")
    assert (after.exp_ref, after.version) == ("2026-03-01_2_mouse", rigsync.__version__)
    assert after.last_message
    assert after.last_message.text == "EXPINIT"
    assert after.last_failure is None
    assert aux.views.keys() == {"cameras"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.link = LinkState.LOST  # type: ignore[misc]
    with pytest.raises(UnknownRig):
        aux.view("laser")


def test_whom_a_push_waits_for_is_told_when_the_text_says(
    serve: Any, connect: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute = 60.0
    monkeypatch.setattr(links, "FIRST_WORD", minute)
    aux = connect(serve("cameras", {"EXPINIT": gate}))
    begin = time.monotonic()
    push = in_thread(aux.push, "EXPINIT", {"exp_ref": "2026-03-01_2_mouse"}, wait=True)
    assert gate.reached.wait(LONG)
    (pending,) = aux.services._pending.values()
    assert begin + minute <= pending.telling.when() <= time.monotonic() + minute
    gate.open.set()
    push.result(LONG)
