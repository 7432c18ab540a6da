"""Rigs that are programs of other protocols: OSC and ZeroMQ programs, real sockets, the facade before them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("pythonosc", reason="python-osc is not installed here")
pytest.importorskip("zmq", reason="pyzmq is not installed here")

import zmq
import zmq.auth
from cli_programs import Command, Outcome, environment
from live_helpers import Gate, in_thread
from processes import LONG, free_port, until
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_server import BlockingOSCUDPServer

from bridges.programs import Heard, OscProgram, answers, osc_program, pong
from bridges.support import message
from bridges.test_cli_bridge import without_the_libraries
from bridges.test_osc_bridge import oscdump, oscsend, tools
from rigsync import Auxiliaries, Coordinator, ExperimentError, PushError
from rigsync.bridges import stand_in
from rigsync.bridges.asking import in_words
from rigsync.bridges.osc import rig as osc_rig
from rigsync.bridges.requests import Request
from rigsync.cli.outcomes import document_of
from rigsync.config.rigs import rigs_from
from rigsync.config.templates import filled
from rigsync.coordinator import stand_ins
from rigsync.core import queries
from rigsync.core.enums import ExpMessage
from rigsync.core.events import LinkState
from rigsync.core.timing import Timing
from rigsync.doctor.doctor import diagnose
from rigsync.errors import ConfigError, ListenError
from rigsync.net import udp

REFERENCE = "2026-11-20_1_mouse"
QUICK = Timing(beat=0.1, connect_timeout=LONG)
"""Finds in half a second that a rig is lost."""
MESSAGES = {
    "EXPINIT": ["/init", "{exp_ref}", "{message.gain}"],
    "EXPSTART": ["/start", "{id}", "box {number}: {subject}"],
    "EXPEND": ["/stop"],
    "EXPINTERRUPT": ["/halt"],
}
OK = {"/init": answers("ok"), "/start": answers("ok", "left.mp4"), "/stop": answers(1), "/halt": answers(True)}


def rig(program: OscProgram | int, **options: Any) -> dict[str, Any]:
    port = program if isinstance(program, int) else program.port
    return {"bonsai": {"uri": f"osc://127.0.0.1:{port}", "messages": MESSAGES, **options}}


@pytest.fixture
def program() -> Iterator[Callable[..., OscProgram]]:
    """Begin OSC programs, which all end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda reactions=OK, port=0: stack.enter_context(osc_program(dict(reactions), port))


@pytest.fixture
def aux(program: Any, connect: Callable[..., Auxiliaries]) -> Callable[..., Auxiliaries]:
    """Connect to the one rig of these tests, which answers at ``/answer`` unless the test says otherwise.

    The connection ends before the programs do.
    """

    def start(program: OscProgram | int, timing: Timing | None = None, **options: Any) -> Auxiliaries:
        return connect(rig(program, **{"answer": "/answer", **options}), timing=timing)

    return start


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[stand_in.StandIn]:
    """The rigs that stand in for programs, as they are made."""
    found: list[stand_in.StandIn] = []
    before = stand_in.StandIn.open

    async def noting(self: stand_in.StandIn) -> None:
        found.append(self)
        await before(self)

    monkeypatch.setattr(stand_in.StandIn, "open", noting)
    return found


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def begun(aux: Auxiliaries) -> Auxiliaries:
    """Have the rig run."""
    aux.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 2.5})
    aux.request("EXPSTART", REFERENCE)
    return aux


# --------------------------------------------------------------------------------------------------------- OSC


def test_an_experiment_reaches_an_osc_program_in_its_own_words(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram], caplog: pytest.LogCaptureFixture
) -> None:
    bonsai = program()
    with aux(bonsai).experiment(REFERENCE, init={"gain": 2.5}) as session:
        session.check()
    told = [(heard.address, heard.args) for heard in bonsai.heard]
    assert told[0] == ("/init", (REFERENCE, 2.5))
    assert told[1][0] == "/start"
    assert told[1][1][1] == "box 1: mouse"
    assert told[2:] == [("/stop", ())]
    _, information = session.results["EXPSTART"]["bonsai"]
    assert information["answer"] == ["left.mp4"]
    assert all(not result.unconfirmed for result in session.results.values())
    assert warnings_in(caplog) == []


def test_the_log_says_at_the_start_that_nobody_stops_the_program_of_a_task_that_is_killed(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rigsync.bridge")
    bonsai = program()
    aux(bonsai)
    told = f"bonsai is osc://127.0.0.1:{bonsai.port}, and this program its rig: if this is killed, nobody stops that;"
    assert [record.levelno for record in caplog.records if told in record.getMessage()] == [logging.INFO]


def late(*told: Any) -> Callable[..., None]:
    """Answer the first message only when the next one has come, and that one never."""
    waiting: list[Any] = []

    def answer(heard: Heard, send: Callable[..., None]) -> None:
        for key, reply in waiting:
            reply("/answer", key, *told)
        waiting[:] = [] if waiting else [(heard.args[0], send)]

    return answer


@pytest.mark.parametrize(
    ("reaction", "limit", "problem", "counted"),
    [
        (None, 0.1, "NoAnswer: osc://127.0.0.1:{} has not answered EXPSTART within 0.1 s; look at its program", {}),
        (lambda _, send: send("/start", "ok"), 0.1, "has not answered EXPSTART within 0.1 s; look", {}),
        (answers("no camera", "at port", 2), LONG, "ProgramFailed: no camera at port 2", {}),
        (answers(False), LONG, "ProgramFailed: osc://127.0.0.1:{} says that it has failed, and not why", {}),
        (answers(0, "no disk"), LONG, "ProgramFailed: no disk", {}),
        (answers(), 1.0, "s; an answer names its message first, then ok or the failure, not [", {"malformed": 1}),
        (lambda _, send: send("/answer"), 1.0, "or the failure, not []; look at its program", {"malformed": 1}),
        (lambda _, send: send("/answer", 1, "ok"), 1.0, "nobody waits for the answer to 1, which", {"unexpected": 1}),
    ],
    ids=["silent", "another address", "failure", "false", "zero", "no outcome", "nothing", "another number"],
)
def test_only_ok_is_success(
    aux: Callable[..., Auxiliaries],
    program: Callable[..., OscProgram],
    made: list[stand_in.StandIn],
    reaction: Any,
    limit: float,
    problem: str,
    counted: dict[str, int],
) -> None:
    bonsai = program({**OK, "/start": reaction})
    lab = aux(bonsai)
    lab.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
    made[0].limit = limit
    outcome = lab.push("EXPSTART", REFERENCE, wait=True, timeout=LONG)
    assert isinstance(outcome, PushError)
    assert problem.format(bonsai.port) in outcome.failed["bonsai"].problem
    until(lambda: lab.view("bonsai").state == "INITIALIZED")
    assert made[0].counts == counted


def test_a_program_has_a_little_less_time_than_its_rig(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram], made: list[stand_in.StandIn]
) -> None:
    aux(program({}), timeout=2.0)
    assert made[0].limit == pytest.approx(1.8)


def test_an_answer_that_comes_late_is_not_taken_for_that_of_the_next_message(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram], made: list[stand_in.StandIn]
) -> None:
    bonsai = program({**OK, "/start": late("ok")})
    lab = aux(bonsai)
    lab.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
    made[0].limit = 0.3
    for _ in range(2):
        outcome = lab.push("EXPSTART", REFERENCE, wait=True, timeout=LONG)
        assert "NoAnswer" in outcome.failed["bonsai"].problem
    until(lambda: made[0].counts == {"unexpected": 1})


def test_the_second_of_two_answers_and_junk_change_nothing(
    aux: Callable[..., Auxiliaries],
    program: Callable[..., OscProgram],
    made: list[stand_in.StandIn],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def twice(heard: Heard, send: Callable[..., None]) -> None:
        for told in ("ok", "no camera"):
            send("/answer", heard.args[0], told)

    bonsai = program({**OK, "/start": twice})
    bonsai.reactions["/init"] = lambda heard, send: [
        bonsai.send(send.__kwdefaults__["to"], data) for data in (b"junk", message("/answer", "/init", "ok").dgram)
    ]
    begun(aux(bonsai))
    until(lambda: made[0].counts == {"malformed": 1, "unexpected": 1})
    assert "bonsai: osc://127.0.0.1" in caplog.text
    assert "which came late or twice" in caplog.text


def test_answers_come_to_a_port_of_their_own_and_from_no_other_computer(
    aux: Callable[..., Auxiliaries],
    program: Callable[..., OscProgram],
    monkeypatch: pytest.MonkeyPatch,
    made: list[stand_in.StandIn],
) -> None:
    port = free_port()
    other = program({})  # from whose port the program answers

    def elsewhere(heard: Heard, _: Any) -> None:
        key = heard.args[0] if heard.address == "/start" else heard.address
        other.send(("127.0.0.1", port), message("/answer", key, "ok").dgram)

    bonsai = program(dict.fromkeys(OK, elsewhere))
    lab = begun(aux(bonsai, listen=f"udp://127.0.0.1:{port}"))
    made[0].limit = 1.0
    monkeypatch.setattr(made[0], "_address", ("192.0.2.1", bonsai.port))
    outcome = lab.push("EXPEND", wait=True, timeout=LONG)
    assert "; something came from 127.0.0.1, which is not osc://127.0.0.1" in outcome.failed["bonsai"].problem
    assert made[0].counts == {"stranger": 1}


def test_a_port_for_answers_that_is_taken_is_told_and_nothing_is_left_open(
    program: Callable[..., OscProgram], serve: Callable[..., Any]
) -> None:
    bonsai = program()
    taken = f"udp://127.0.0.1:{bonsai.port}"
    both = {**rig(bonsai), "other": {"uri": "osc://127.0.0.1:9", "messages": MESSAGES, "listen": taken}}
    with pytest.raises(ListenError, match=f"rig other, for the answers of osc://127.0.0.1:9, cannot listen on {taken}"):
        Auxiliaries(rigs_from(both))


def test_what_nobody_confirms_is_sent_and_never_success(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram], caplog: pytest.LogCaptureFixture
) -> None:
    bonsai = program({})
    lab = aux(bonsai, answer=None)
    sent = {"bonsai": f"sent to osc://127.0.0.1:{bonsai.port}, which confirms nothing"}
    with lab.experiment(REFERENCE, init={"gain": 1}) as session:
        assert session.results["EXPSTART"].unconfirmed == sent
        assert session.results["EXPINFO"].unconfirmed == {}
        assert session.results["EXPSTART"]["bonsai"][1]["unconfirmed"] == sent["bonsai"]
        about = "which does not say whether it is there and confirms nothing"
        assert lab.ping()["bonsai"].version.endswith(f" for osc://127.0.0.1:{bonsai.port}, {about}")
    until(lambda: bonsai.addresses == ["/init", "/start", "/stop"])
    until(lambda: len(warnings_in(caplog)) > 1)
    told = [record.getMessage() for record in warnings_in(caplog)]
    assert told == [
        f"{verb}: bonsai: {sent['bonsai']}; look there whether it is done" for verb in ("EXPSTART", "EXPEND")
    ]
    assert document_of(session.results["EXPSTART"], {})["unconfirmed"] == sent


@pytest.mark.parametrize("has_line", [False, True], ids=["from the beginning", "later"])
def test_what_has_not_left_is_not_told_as_sent(
    aux: Callable[..., Auxiliaries],
    program: Callable[..., OscProgram],
    monkeypatch: pytest.MonkeyPatch,
    has_line: bool,
) -> None:
    bonsai, cut = program({}), OSError(errno.ENETUNREACH, "Network is unreachable")
    is_cut, before = threading.Event(), udp.connected_socket

    class Socket(socket.socket):
        def send(self, *args: Any) -> int:
            if is_cut.is_set():
                raise cut
            return super().send(*args)

    def connected(family: int, address: Any) -> socket.socket:
        if address[1] != bonsai.port:
            return before(family, address)
        if is_cut.is_set():
            raise cut
        return Socket(fileno=before(family, address).detach())

    monkeypatch.setattr(udp, "connected_socket", connected)
    monkeypatch.setattr(stand_in, "PING_EVERY", 0.05)
    if not has_line:
        is_cut.set()
    lab = aux(bonsai, answer=None)
    is_cut.set()
    for verb, *args in (("EXPINIT", {"gain": 1, "exp_ref": REFERENCE}), ("EXPINTERRUPT",)):
        outcome = lab.push(verb, *args, wait=True)
        told = f"nothing has left for osc://127.0.0.1:{bonsai.port}: [Errno {cut.errno}] {cut.strerror}"
        assert told in outcome.failed["bonsai"].problem
    is_cut.clear()
    until(lambda: not isinstance(lab.push("EXPINTERRUPT", wait=True), PushError))
    until(lambda: bonsai.addresses == ["/halt"])


def test_the_old_line_stays_until_there_is_a_new_one(
    aux: Callable[..., Auxiliaries],
    program: Callable[..., OscProgram],
    made: list[stand_in.StandIn],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def open_udp_line(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(stand_in, "PING_EVERY", 0.05)
    lab = aux(bonsai := program({}), answer=None)
    (line,) = (vars(rig)["_line"] for rig in made)
    monkeypatch.setattr(osc_rig, "open_udp_line", open_udp_line)
    monkeypatch.setattr(line, "is_stranded", lambda: True)
    until(lambda: made[0].counts["failed"])
    assert lab.request("EXPINTERRUPT").unconfirmed
    until(lambda: bonsai.addresses == ["/halt"])


def test_what_nobody_confirms_is_no_success_of_a_bridge_either() -> None:
    answer = [REFERENCE, {"status": 20, "unconfirmed": "sent to osc://h:1"}]
    assert in_words(answer, False) == "Unconfirmed: sent to osc://h:1"
    request = Request("push", ExpMessage.EXPSTART, [], None, None)
    told = request.answer({"bonsai": answer})["outcomes"]["bonsai"]
    assert (told["ok"], told["error"], told["problem"]) == (False, "Unconfirmed", "sent to osc://h:1")


@pytest.mark.parametrize("answer", ["/answer", None], ids=["answers", "sent"])
def test_a_port_at_which_nothing_listens_is_told_at_once(aux: Callable[..., Auxiliaries], answer: str | None) -> None:
    outcome = aux(port := free_port(), answer=answer).push("EXPINIT", {"gain": 1, "exp_ref": REFERENCE}, wait=True)
    told = f"RemoteError: NotThere: nothing listens at osc://127.0.0.1:{port}: start its program there"
    assert told.endswith(outcome.failed["bonsai"].problem)


def test_a_failure_is_told_once_and_without_a_traceback(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram], caplog: pytest.LogCaptureFixture
) -> None:
    lab = aux(program({**OK, "/init": answers("no camera")}))
    with pytest.raises(ExperimentError, match="ProgramFailed: no camera"), lab.experiment(REFERENCE, init={"gain": 1}):
        pass
    assert [record.getMessage() for record in caplog.records if "camera" in record.getMessage()] == []
    lab.push("EXPINIT", {"gain": 1, "exp_ref": REFERENCE}, wait=True)
    lines = until(lambda: [line for line in warnings_in(caplog) if "camera" in line.getMessage()])
    assert [(line.name, line.exc_info) for line in lines] == [("rigsync.push", None)]


def test_data_that_a_template_needs_and_nobody_has_sent(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram]
) -> None:
    bonsai = program()
    outcome = aux(bonsai).push("EXPINIT", {"exp_ref": REFERENCE}, wait=True)
    told = "EXPINIT has nothing for {message.gain} in its data, nor had EXPINIT: send it, or change messages of the rig"
    assert told in outcome.failed["bonsai"].problem
    assert bonsai.heard == []


def test_an_interrupt_leaves_whoever_began_and_whatever_its_template_lacks(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram]
) -> None:
    bonsai = program()
    halt = {**MESSAGES, "EXPINTERRUPT": ["/halt", "{exp_ref}", "{message.gain}"]}
    lab = aux(bonsai, messages=halt)
    assert not isinstance(lab.push("EXPINTERRUPT", wait=True), PushError)
    assert bonsai.heard[0][2:4] == ("/halt", ("", ""))
    problem = lab.push("EXPSTART", REFERENCE, wait=True).failed["bonsai"].problem
    assert "it needs an EXPINIT from the same program of rigsync first; rigsync run sends both" in problem


def test_no_end_is_told_of_what_another_program_has_begun(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram]
) -> None:
    bonsai = program()
    lab = aux(bonsai)
    problem = lab.push("EXPEND", wait=True).failed["bonsai"].problem
    assert "EXPEND was not sent: this program of rigsync has begun nothing there" in problem
    assert bonsai.heard == []
    lab.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
    lab.request("EXPCLEANUP")
    lab.request("EXPEND")


def test_no_end_is_confirmed_after_an_interrupt_that_is_not(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram]
) -> None:
    lab = begun(aux(program({}), answer=None))
    assert lab.request("EXPINTERRUPT").unconfirmed == lab.request("EXPEND").unconfirmed != {}


def test_no_end_is_told_after_an_interrupt_that_has_failed(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram]
) -> None:
    bonsai = program({**OK, "/halt": answers("stuck")})
    lab = begun(aux(bonsai))
    for verb in ("EXPINTERRUPT", "EXPEND", "EXPINTERRUPT", "EXPEND"):
        assert "ProgramFailed: stuck" in lab.push(verb, wait=True).failed["bonsai"].problem
    bonsai.reactions["/halt"] = answers("ok")
    lab.request("EXPINTERRUPT")
    lab.request("EXPEND")
    assert bonsai.addresses == ["/init", "/start", "/halt", "/halt", "/halt"]


# ---------------------------------------------------------------------------------------------------- instants


def test_what_is_to_be_done_at_an_instant_leaves_before_it_as_a_bundle_with_its_time_tag(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram]
) -> None:
    bonsai = program()
    lab = aux(bonsai)
    lab.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
    result = lab.request("EXPSTART", REFERENCE, delay=0.2)
    (start,) = (heard for heard in bonsai.heard if heard.address == "/start")
    assert start.datagram.startswith(b"#bundle\0")
    assert start.due == pytest.approx(result.at, abs=0.002)
    assert result.starts == {}, "when the program began, nobody knows"


def test_python_osc_acts_on_it_at_its_instant(aux: Callable[..., Auxiliaries]) -> None:
    acted: list[float] = []
    dispatcher = Dispatcher()

    def act(_: Any, *args: Any) -> tuple[str, Any, str]:
        acted.append(time.time())
        return "/answer", args[0] if isinstance(args[0], int) else "/init", "ok"

    dispatcher.map("/init", act)
    dispatcher.map("/start", act)
    dispatcher.map("/halt", lambda _: ("/answer", "/halt", 1))
    with BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher) as server:
        served = in_thread(server.serve_forever)
        lab = aux(server.server_address[1])
        lab.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
        result = lab.request("EXPSTART", REFERENCE, delay=0.2)
        assert acted[-1] >= result.at - 0.001
        lab.request("EXPINTERRUPT")
        server.shutdown()
        served.result(LONG)


def test_an_interrupt_is_acted_on_after_a_start_that_has_left_already(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "LEAD", 0.3)
    bonsai = program()
    lab = aux(bonsai)
    lab.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
    bonsai.reactions["/start"] = lambda *_: lab.push("EXPINTERRUPT")  # as soon as it comes, which is before its instant
    lab.push("EXPSTART", REFERENCE, delay=0.4, wait=True)
    until(lambda: "/halt" in bonsai.addresses)
    start, halt = (next(heard for heard in bonsai.heard if heard.address == name) for name in ("/start", "/halt"))
    assert start.due is not None
    assert (halt.due or halt.at) > start.due


def test_what_has_left_and_was_called_off_does_not_stand_for_the_next_message(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "LEAD", 0.3)
    bonsai = program({"/init": lambda *_: lab.push("EXPINTERRUPT")})
    lab = aux(bonsai, messages={"EXPINIT": ["/init"]})
    assert isinstance(lab.push("EXPINIT", {"exp_ref": REFERENCE}, delay=0.4, wait=True), PushError)
    bonsai.reactions["/init"] = answers("ok")
    lab.request("EXPINIT", {"exp_ref": REFERENCE})
    assert bonsai.addresses == ["/init", "/init"]


# ------------------------------------------------------------------------------------------------- is it there?


@pytest.fixture
def _pings_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in, "PING_EVERY", 0.02)
    monkeypatch.setattr(stand_in, "AWAY_AFTER", 0.5)


@pytest.mark.usefixtures("_pings_often")
def test_a_program_that_answers_no_ping_is_lost_and_back_when_it_does(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram]
) -> None:
    bonsai = program({**OK, "/ping": pong})
    lab = aux(bonsai, QUICK, ping=["/ping"])
    until(lambda: lab.all_alive)
    del bonsai.reactions["/ping"]
    until(lambda: lab.view("bonsai").link is LinkState.LOST)
    outcome = lab.push("EXPINIT", {"exp_ref": REFERENCE, "gain": 1}, wait=True)
    assert type(outcome.failed["bonsai"]).__name__ == "RigLost"
    assert bonsai.heard == []
    bonsai.reactions["/ping"] = pong
    until(lambda: lab.view("bonsai").link is LinkState.ALIVE)
    begun(lab)


@pytest.mark.usefixtures("_pings_often")
def test_a_program_that_ends_in_a_session_is_told_and_begins_anew_when_it_is_started_again(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram]
) -> None:
    with osc_program({**OK, "/ping": pong}) as bonsai:
        lab = begun(aux(bonsai, QUICK, ping=["/ping"]))
    until(lambda: lab.view("bonsai").status_reason)
    told = f"nothing listens at osc://127.0.0.1:{bonsai.port} any more: the program there has ended"
    assert lab.view("bonsai").status_reason == told
    again = program({**OK, "/ping": pong}, bonsai.port)
    until(lambda: lab.view("bonsai").link is LinkState.ALIVE)
    outcome = lab.push("EXPEND", wait=True)
    assert told in outcome.failed["bonsai"].problem
    begun(lab)
    assert again.addresses == ["/init", "/start"]


@pytest.mark.usefixtures("_pings_often")
def test_a_program_that_works_need_not_answer_pings_meanwhile(
    aux: Callable[..., Auxiliaries], program: Callable[..., OscProgram], made: list[stand_in.StandIn], gate: Gate
) -> None:
    def slow(heard: Heard, send: Callable[..., None]) -> None:
        gate()  # as a program does whose one thread loads a movie
        send("/answer", "/init", "ok")

    lab = aux(program({**OK, "/init": slow, "/ping": pong}), QUICK, ping=["/ping"])
    push = in_thread(lab.request, "EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
    assert gate.reached.wait(LONG)
    until(lambda: made[0].loop.time() > made[0].heard + 2 * stand_in.AWAY_AFTER)
    assert not made[0].is_away
    gate.open.set()
    assert "bonsai" in push.result(LONG)


def test_on_a_loop_of_its_own_a_coordinator_has_it_and_leaves_nothing(program: Callable[..., OscProgram]) -> None:
    bonsai = program()

    async def main() -> None:
        lab = Coordinator({**rig(bonsai, answer="/answer")})
        for _ in range(2):  # it may be opened again
            async with lab:
                await lab.push("EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
                await lab.push("EXPSTART", REFERENCE)

    asyncio.run(main())
    assert bonsai.addresses == ["/init", "/start", "/halt"] * 2


# ----------------------------------------------------------------------------------------------------- over TCP

TCP = """
import json, sys
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_tcp_server import BlockingOSCTCPServer

def heard(address, *args):
    print(json.dumps([address, *args]), flush=True)
    key = args[0] if args and isinstance(args[0], int) else address
    return ("/pong",) if address == "/ping" else ("/answer", key, "ok")

program = Dispatcher()
program.map("/*", heard)
BlockingOSCTCPServer.allow_reuse_address = True
server = BlockingOSCTCPServer(("127.0.0.1", int(sys.argv[2])), program, sys.argv[1])
print(server.server_address[1], flush=True)
server.serve_forever()
"""
SCHEMES = {"osc+tcp": "1.1", "osc+tcp+length": "1.0"}
"""The versions of OSC, as python-osc calls the framings."""


class TcpProgram:
    """python-osc's own server in a process that may be killed; it answers all that it hears."""

    def __init__(self, scheme: str, port: int = 0):
        command = [sys.executable, "-c", TCP, SCHEMES[scheme], str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())
        self.uri = f"{scheme}://127.0.0.1:{self.port}"
        self.heard: list[Any] = []
        self._reader = in_thread(lambda: [self.heard.append(json.loads(line)) for line in self.process.stdout or ()])

    @property
    def addresses(self) -> list[str]:
        return [address for address, *_ in self.heard if address != "/ping"]

    def __enter__(self) -> TcpProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.result(LONG)
        assert self.process.stdout
        self.process.stdout.close()


def of(program: TcpProgram, **options: Any) -> dict[str, Any]:
    return {"bonsai": {"uri": program.uri, "messages": MESSAGES, "answer": "/answer", **options}}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_over_tcp_a_program_hears_and_answers_on_one_connection(
    connect: Callable[..., Auxiliaries], scheme: str
) -> None:
    with TcpProgram(scheme) as bonsai:
        lab = connect(of(bonsai, ping=["/ping"]))
        with lab.experiment(REFERENCE, init={"gain": 2.5}) as session:
            assert all(not result.unconfirmed for result in session.results.values())
        begin = time.time()
        lab.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
        at = lab.request("EXPSTART", REFERENCE, delay=0.3).at
        assert begin < at <= time.time()
        until(lambda: ["/ping"] in bonsai.heard)
        lab.close()
    assert bonsai.addresses == ["/init", "/start", "/stop", "/init", "/start", "/halt"]
    assert ["/init", REFERENCE, 2.5] in bonsai.heard


@pytest.mark.parametrize("answer", ["/answer", None], ids=["answers", "sent"])
@pytest.mark.usefixtures("_pings_often")
def test_over_tcp_a_program_that_is_killed_in_a_session_is_told_without_a_ping(
    connect: Callable[..., Auxiliaries], answer: str | None
) -> None:
    with TcpProgram("osc+tcp") as bonsai:
        lab = begun(connect(of(bonsai, answer=answer), timing=QUICK))
        assert ("which confirms nothing" in lab.ping()["bonsai"].version) is (answer is None)
        assert "which does not say whether it is there" not in lab.ping()["bonsai"].version
    told = f"nothing listens at {bonsai.uri} any more: the program there has ended"
    until(lambda: lab.view("bonsai").status_reason == told)
    until(lambda: lab.view("bonsai").link is LinkState.LOST)
    assert type(lab.push("EXPSTART", REFERENCE, wait=True).failed["bonsai"]).__name__ == "RigLost"
    with TcpProgram("osc+tcp", bonsai.port) as again:
        until(lambda: lab.view("bonsai").link is LinkState.ALIVE)
        begun(lab)
        until(lambda: again.addresses == ["/init", "/start"])
        lab.close()


@pytest.mark.parametrize("answer", ["/answer", None], ids=["answers", "sent"])
def test_over_tcp_nothing_is_told_as_sent_without_a_connection(
    connect: Callable[..., Auxiliaries], made: list[stand_in.StandIn], answer: str | None
) -> None:
    with TcpProgram("osc+tcp") as bonsai:
        lab = connect(of(bonsai, answer=answer))
        lab.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 1})
        made[0].under_way = 1  # so that it still hears messages while it is away
    (line,) = (vars(rig)["_line"] for rig in made)
    until(lambda: not line.is_open)
    problem = lab.push("EXPSTART", REFERENCE, wait=True, timeout=LONG).failed["bonsai"].problem
    assert f"NotThere: there is no connection to {bonsai.uri}: start its program there" in problem


def test_over_tcp_an_answer_that_can_no_longer_come_is_not_waited_for(
    connect: Callable[..., Auxiliaries], gate: Gate
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def program() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                gate()

        served = in_thread(program)
        port = server.getsockname()[1]
        lab = connect({"bonsai": {"uri": f"osc+tcp://127.0.0.1:{port}", "messages": MESSAGES, "answer": "/answer"}})
        push = in_thread(lab.push, "EXPINIT", {"exp_ref": REFERENCE, "gain": 1}, wait=True, timeout=LONG)
        assert gate.reached.wait(LONG)
        gate.open.set()
        problem = push.result(LONG).failed["bonsai"].problem
        assert f"the connection to osc+tcp://127.0.0.1:{port} has ended; look there whether it is done" in problem
        served.result(LONG)
        lab.close()


def test_over_tcp_a_program_that_reads_nothing_is_told(
    connect: Callable[..., Auxiliaries], made: list[stand_in.StandIn]
) -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # little enough to be full soon
        server.bind(("127.0.0.1", 0))
        server.listen()
        uri = f"osc+tcp://127.0.0.1:{server.getsockname()[1]}"
        lab = connect({"bonsai": {"uri": uri, "messages": {"EXPINTERRUPT": ["/halt", "x" * 8000]}}})
        vars(made[0])["_line"]._stream.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        )
        connection, _ = server.accept()
        with connection:
            outcomes = (lab.push("EXPINTERRUPT", wait=True, timeout=LONG) for _ in range(100))
            failed = next(outcome for outcome in outcomes if isinstance(outcome, PushError))
            assert f"{uri} does not read what it is sent: " in failed.failed["bonsai"].problem
            lab.close()


def test_over_tcp_what_is_no_osc_is_told_and_the_connection_opened_again(
    connect: Callable[..., Auxiliaries], made: list[stand_in.StandIn], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"osc+tcp+length://127.0.0.1:{server.getsockname()[1]}"
        lab = connect({"bonsai": {"uri": uri, "messages": MESSAGES}})
        first, _ = server.accept()
        with first:
            first.sendall(b"GET / HTTP/1.1")
            until(lambda: made[0].counts == {"malformed": 1})
            second, _ = server.accept()
            second.close()
        lab.close()
    assert "needs tcp://" in caplog.text


# ----------------------------------------------------------------------------------------------- liblo's tools


@tools
def test_oscdump_hears_it_and_oscsend_answers(aux: Callable[..., Auxiliaries]) -> None:
    port, answers_at = free_port(), f"udp://127.0.0.1:{free_port()}"
    with oscdump("udp", port) as lines:
        until(lambda: [oscsend(f"udp://127.0.0.1:{port}", "/there"), "/there" in lines][1])
        lab = aux(port, listen=answers_at)
        push = in_thread(lab.request, "EXPINIT", {"exp_ref": REFERENCE, "gain": 2.5})
        until(lambda: f'/init sf "{REFERENCE}" 2.500000' in lines)
        oscsend(answers_at, "/answer", "ss", "/init", "ok")
        assert "bonsai" in push.result(LONG)
        push = in_thread(lab.request, "EXPSTART", REFERENCE, delay=0.3)
        line = until(lambda: next((line for line in lines if line.startswith('/start is "') or "/start" in line), ""))
        number = line.split("/start is ")[1].split()[0]
        oscsend(answers_at, "/answer", "isi", number, "ok", "7")
        assert push.result(LONG)["bonsai"][1]["answer"] == [7]
        halt = in_thread(lab.request, "EXPINTERRUPT")
        until(lambda: any(line.startswith("/halt") for line in lines))
        oscsend(answers_at, "/answer", "si", "/halt", "1")
        halt.result(LONG)


# ------------------------------------------------------------------------------------------------------- ZeroMQ

REP = """
import json, sys, time, zmq
socket = zmq.Context().socket(zmq.REP)
socket.bind(sys.argv[1])
print(socket.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
while True:
    told = socket.recv_json()
    print(json.dumps(told), flush=True)
    time.sleep(told.get("sleep", 0))
    socket.send_string(told.get("answer", '{"ok": true}'))
"""
ZMQ_MESSAGES = {
    "EXPINIT": {"do": "init", "session": "{exp_ref}", "gain": "{message.gain}", "answer": "{message.answer}"},
    "EXPSTART": {"do": "start", "of": ["{subject}", 3, {"n": "{number}"}], "sleep": "{message.sleep}"},
    "EXPEND": {"do": "stop", "answer": '{{"ok": true, "did": "stop"}}'},
    "EXPINTERRUPT": {"do": "halt"},
}


@contextlib.contextmanager
def rep(uri: str = "tcp://127.0.0.1:*") -> Iterator[tuple[str, list[Any]]]:
    """Run a program with a REP socket; yield where it is, and what it is told."""
    heard: list[Any] = []
    with subprocess.Popen([sys.executable, "-c", REP, uri], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        at = process.stdout.readline().strip()
        reader = in_thread(lambda: [heard.append(json.loads(line)) for line in process.stdout or ()])
        try:
            yield at, heard
        finally:
            process.kill()
            reader.result(LONG)


def stim(at: str, **options: Any) -> dict[str, Any]:
    return {"stim": {"uri": at.replace("tcp", "zmq+req"), "messages": ZMQ_MESSAGES, **options}}


def test_a_zeromq_program_is_asked_in_json_and_killed_and_started_again(
    connect: Callable[..., Auxiliaries], made: list[stand_in.StandIn]
) -> None:
    ok = '{"ok": true, "movie": "a.avi"}'
    with rep() as (at, heard):
        lab = connect(stim(at))
        data = {"exp_ref": REFERENCE, "gain": 2.5, "answer": ok}
        (information,) = lab.request("EXPINIT", data, timeout=LONG)["stim"]
        assert information["answer"] == {"movie": "a.avi"}
        lab.request("EXPSTART", REFERENCE, {"sleep": 0}, timeout=LONG)
        until(lambda: len(heard) == 2)
        assert heard == [
            {"do": "init", "session": REFERENCE, "gain": 2.5, "answer": ok},
            {"do": "start", "of": ["mouse", 3, {"n": "1"}], "sleep": 0},
        ]
    made[0].limit = 0.3
    outcome = lab.push("EXPEND", wait=True, timeout=LONG)
    assert "NoAnswer: zmq+req://127.0.0.1" in outcome.failed["stim"].problem
    with rep(at) as (_, heard):
        until(lambda: not isinstance(lab.push("EXPEND", wait=True, timeout=LONG), PushError))
        until(lambda: heard)
        assert {told["do"] for told in heard} == {"stop"}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ('{"ok": false, "error": "no movie"}', "ProgramFailed: no movie"),
        ('{"ok": false}', "says that it has failed, and not why"),
        ('{"ok": 1}', """has answered b'{"ok": 1}', not {"ok": true}, or {"ok": false, "error": "what has failed"}"""),
        ("junk", "has answered b'junk', not"),
        ("[" * 50_000, "look there whether it is done"),
    ],
)
def test_only_ok_in_json_is_success(connect: Callable[..., Auxiliaries], answer: str, problem: str) -> None:
    with rep() as (at, _):
        lab = connect(stim(at))
        data = {"exp_ref": REFERENCE, "gain": 1, "answer": answer}
        outcome = lab.push("EXPINIT", data, wait=True)
        assert problem in outcome.failed["stim"].problem


@pytest.mark.usefixtures("_pings_often")
def test_a_zeromq_answer_that_comes_late_is_nobody_elses_and_pings_tell_that_it_is_there(
    connect: Callable[..., Auxiliaries], made: list[stand_in.StandIn]
) -> None:
    with rep() as (at, _):
        lab = connect(stim(at, ping={"do": "ping"}), timing=QUICK)
        until(lambda: lab.all_alive)
        lab.request("EXPINIT", {"exp_ref": REFERENCE, "gain": 1, "answer": '{"ok": true}'}, timeout=LONG)
        made[0].limit = 0.2
        outcome = lab.push("EXPSTART", REFERENCE, {"sleep": 1.0}, wait=True, timeout=LONG)
        assert "NoAnswer" in outcome.failed["stim"].problem
        outcomes = iter(lambda: lab.push("EXPEND", wait=True, timeout=LONG), None)
        (information,) = next(outcome for outcome in outcomes if not isinstance(outcome, PushError))["stim"]
        assert information["answer"] == {"did": "stop"}
    until(lambda: lab.view("stim").link is LinkState.LOST)


KEYED = """
import json, sys, zmq, zmq.auth
from zmq.auth.thread import ThreadAuthenticator

context = zmq.Context()
authenticator = ThreadAuthenticator(context)
authenticator.start()
authenticator.configure_curve(domain="*", location=sys.argv[2])
socket = context.socket(zmq.REP)
socket.curve_publickey, socket.curve_secretkey = zmq.auth.load_certificate(sys.argv[1])
socket.curve_server = True
socket.bind("tcp://127.0.0.1:*")
print(socket.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
while True:
    socket.recv()
    socket.send_json({"ok": True})
"""


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a program that knows the keys of some programs; give where it is, and the keys of one that it knows."""
    for name in ("program", "rigsync", "stranger"):
        zmq.auth.create_certificates(tmp_path, name)
        (tmp_path / f"{name}.key_secret").chmod(0o600)
    (tmp_path / "known").mkdir()
    (tmp_path / "rigsync.key").rename(tmp_path / "known" / "rigsync.key")
    command = [sys.executable, "-c", KEYED, str(tmp_path / "program.key_secret"), str(tmp_path / "known")]
    public, _ = zmq.auth.load_certificate(tmp_path / "program.key")
    curve = {"secret_key": "rigsync.key_secret", "server": public.decode()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip().replace("tcp", "zmq+req"), curve
        finally:
            process.kill()


def file_of(folder: Path, uri: str, curve: dict[str, str] | None) -> Path:
    messages = {"EXPINIT": {"do": "init"}}
    rigs = {"stim": {"uri": uri, "messages": messages, **({"curve": curve} if curve else {})}}
    (folder / "rigs.yaml").write_text(yaml.safe_dump({"rigs": rigs}), encoding="utf-8")
    return folder / "rigs.yaml"


def test_a_zeromq_program_with_keys_lets_in_whom_it_knows(
    keyed: tuple[str, dict[str, str]], tmp_path: Path, made: list[stand_in.StandIn]
) -> None:
    uri, curve = keyed
    with Auxiliaries.from_file(file_of(tmp_path, uri, curve)) as lab:  # the path of the key begins at the file
        assert "stim" in lab.request("EXPINIT", {"exp_ref": REFERENCE})
    another = zmq.curve_keypair()[0].decode()
    for wrong in ({**curve, "secret_key": "stranger.key_secret"}, {**curve, "server": another}, None):
        with Auxiliaries.from_file(file_of(tmp_path, uri, wrong)) as lab:
            made[-1].limit = 0.5
            problem = lab.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True, timeout=LONG).failed["stim"].problem
        assert "has not answered EXPINIT within 0.5 s; look at its program" in problem
        assert ("whether both sides know each other's key (curve)" in problem) is (wrong is not None)


@pytest.mark.parametrize(
    ("change", "key", "problem"),
    [
        ({"secret_key": "nowhere"}, "rigs.stim.curve", "the secret key .*nowhere cannot be read"),
        ({"secret_key": "program.key"}, "rigs.stim.curve", "curve lacks the secret key"),
        ({"server": "short"}, "rigs.stim.curve.server", "a public key, 40 characters in quotes"),
    ],
)
def test_keys_that_are_none_are_told_with_their_place_in_the_file(
    keyed: tuple[str, dict[str, str]], tmp_path: Path, change: dict[str, str], key: str, problem: str
) -> None:
    uri, curve = keyed
    (tmp_path / "program.key").chmod(0o600)
    with pytest.raises(ConfigError, match=problem) as caught:
        Auxiliaries.from_file(file_of(tmp_path, uri, {**curve, **change}))
    assert caught.value.key == key


# ----------------------------------------------------------------------------------------- the file and commands

FILE = """rigs:
  bonsai:
    uri: osc://127.0.0.1:{port}
    messages:
      EXPINIT: [/init, "{{exp_ref}}"]
      EXPSTART: [/start]
      EXPEND: [/stop]
      EXPINTERRUPT: [/halt]
"""


def rigsync(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Outcome:
    with Command([*arguments], folder, env or environment(folder)) as command:
        return command.outcome()


def test_commands_tell_that_nobody_confirms(tmp_path: Path, program: Callable[..., OscProgram]) -> None:
    bonsai = program({})
    (tmp_path / "rigs.yaml").write_text(FILE.format(port=bonsai.port), encoding="utf-8")
    pushed = rigsync(tmp_path, "push", "EXPINTERRUPT")
    assert pushed.status == 3
    assert "bonsai  sent " in pushed.out
    assert "which confirms nothing" in pushed.out
    assert "EXPINTERRUPT: bonsai: sent to osc://" in pushed.err
    ran = rigsync(tmp_path, "run", "--ref", REFERENCE, "--", sys.executable, "-c", "")
    assert ran.status == 0
    assert ran.err.count("look there whether it is done") == 2
    until(lambda: bonsai.addresses == ["/halt", "/init", "/start", "/stop"])


def test_without_its_library_a_rig_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "rigs.yaml").write_text(FILE.format(port=9000), encoding="utf-8")
    outcome = rigsync(tmp_path, "ping", "-c", "1", env=without_the_libraries(tmp_path))
    assert outcome.status == 2
    assert "rigs.yaml:3: rigs.bonsai.uri: OSC needs python-osc, which is not installed: " in outcome.err


def test_a_package_that_was_not_installed_again_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "GROUP", "rigsync.nothing")
    with pytest.raises(ConfigError, match="nothing here speaks osc://; install rigsync again"):
        Auxiliaries(rig(9000))


def test_the_doctor_sends_an_osc_program_nothing(program: Callable[..., OscProgram]) -> None:
    bonsai = program()
    (finding,) = diagnose(rigs_from(rig(bonsai)))["bonsai"].findings
    assert finding.fault.value == "not-examined"
    assert finding.remedies == ("$ rigsync ping bonsai",)
    assert bonsai.all == []


def test_a_field_alone_keeps_what_it_is_and_braces_are_doubled() -> None:
    values = {"a": 2.5, "b": "x", "c": [1], "d": None}
    template = {"one": "{a}", "two": ["{b}{a}", "{{{b}}}", 3, True], "three": "{c}", "four": "-{c}"}
    assert filled(template, values.__getitem__) == {
        "one": 2.5,
        "two": ["x2.5", "{x}", 3, True],
        "three": [1],
        "four": "-[1]",
    }
