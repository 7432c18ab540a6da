"""A network with strangers in it: what they send takes little memory, no place, and no time from who belongs."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from live_helpers import in_thread
from processes import LONG, RigProgram, port_of, until

from rigsync import Auxiliaries, PayloadTooLarge, PushError, RemoteError, Rig
from rigsync.config.rigs import rigs_from
from rigsync.core import messages
from rigsync.core.arguments import compose
from rigsync.core.reach import Reach
from rigsync.core.timing import Timing
from rigsync.testing import SimNetwork

REFERENCE = "2026-03-01_2_mouse"


def session_of(rig: Rig) -> Any:
    """Return the stretch of serving of a rig, for a look at its inside."""
    session = rig._session
    assert session is not None
    return session


def stranger(stack: contextlib.ExitStack, rig: Rig) -> socket.socket:
    """Return a socket that nobody knows, connected with a rig."""
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.connect(("127.0.0.1", port_of(rig.uri)))
    sock.settimeout(LONG)
    return sock


def test_a_flood_for_an_instant_to_come_is_refused_and_the_owner_s_commands_run(stack: contextlib.ExitStack) -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    rig.on("EXPINFO")(lambda *_: None)
    rig.command("focus")(lambda z: z)
    stack.enter_context(rig)
    aux = stack.enter_context(Auxiliaries({"cameras": rig.uri}))
    aux.request("EXPINIT", REFERENCE)
    sock = stranger(stack, rig)
    large, at = compose("EXPINFO", None, "x" * 60_000), time.time_ns() + 3_600 * 10**9
    for i in range(300):
        sock.send(messages.request(f"{i:016x}", 1, large, None, at))
        frame = messages.decode(sock.recv(1 << 16))
        assert isinstance(frame, messages.Failure)
        assert (frame.error, frame.n) == ("BusyError", 1)
        assert "the coordinator on 127.0.0.1 is in charge" in frame.message
    assert aux.call("cameras", "focus", 3) == 3
    until(lambda: not session_of(rig).responder.agenda.tasks)


# ------------------------------------------------------------------------------------------------- large messages

LARGE = 59_000_000


def most_memory(pid: int) -> int:
    """Return the most bytes that a process has had in memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def request(args: bytes, boot: str = "a" * 16) -> bytes:
    """Return an EXPINFO, with JSON of any sort and size after its status."""
    head = b'{"rigsync":1,"kind":"request","boot":"%s","n":1,"event":"EXPINFO",' % boot.encode()
    return head + b'"args":[0,' + args + b"]}"


def connection(stack: contextlib.ExitStack, uri: str) -> socket.socket:
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(uri)), LONG))
    sock.settimeout(LONG)
    return sock


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory a process has had")
def test_empty_lists_of_59_mb_are_refused_with_the_reason_and_take_no_memory(stack: contextlib.ExitStack) -> None:
    rig = stack.enter_context(RigProgram(uri="tcp://127.0.0.1:0"))
    before = most_memory(rig.pid)
    for boot in ("a" * 16, "b" * 16, "c" * 16):
        sock = connection(stack, rig.uri)
        data = request(b"[" + b"[]," * (LARGE // 3) + b"[]]", boot)

        def send(sock: socket.socket = sock, data: bytes = data) -> None:
            with contextlib.suppress(ConnectionError):  # it is closed before all has left
                sock.sendall(data)

        sender = threading.Thread(target=send)
        sender.start()
        answer = messages.decode(sock.recv(1 << 16))
        assert isinstance(answer, messages.Failure)
        assert (answer.n, answer.error) == (1, "PayloadTooLarge")
        assert "not run: too many values: a message of more than 500,000 values" in answer.message
        sender.join(LONG)
    assert most_memory(rig.pid) - before < LARGE


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory a process has had")
def test_large_texts_at_once_are_taken_one_by_one_in_4_times_their_size(stack: contextlib.ExitStack) -> None:
    rig = stack.enter_context(RigProgram(uri="tcp://127.0.0.1:0"))
    before = most_memory(rig.pid)
    clients = [stack.enter_context(Auxiliaries({"cameras": rig.uri})) for _ in range(3)]
    text = "x" * LARGE

    def ask(aux: Auxiliaries) -> Any:  # one that takes longer than its share is closed, and comes again
        return aux.request("EXPINFO", None, text, timeout=4 * LONG)["cameras"][0]

    assert [asked.result(5 * LONG) for asked in [in_thread(ask, aux) for aux in clients]] == [0] * 3
    assert most_memory(rig.pid) - before < 4 * LARGE + (64 << 20)  # docs/protocol.md section 1; at once it were 12


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory a process has had")
def test_many_that_send_large_messages_and_read_no_echo_take_no_more_than_one_of_them(
    stack: contextlib.ExitStack,
) -> None:
    size, count = 10_000_000, 20
    rig = stack.enter_context(RigProgram(uri="tcp://127.0.0.1:0"))
    aux = stack.enter_context(Auxiliaries({"cameras": rig.uri}))
    aux.request("EXPINIT", REFERENCE)
    before = most_memory(rig.pid)
    senders = []
    for number in range(count):
        sock, data = connection(stack, rig.uri), b'[64,%d,"' % number + b"x" * size + b'"]'

        def send(sock: socket.socket = sock, data: bytes = data) -> None:
            with contextlib.suppress(OSError):  # it is closed before all has left
                sock.sendall(data)

        senders.append(threading.Thread(target=send))
        senders[-1].start()
    for sender in senders:
        sender.join(4 * LONG)
        assert not sender.is_alive()
    assert aux.request("EXPSTART", REFERENCE, timeout=LONG)
    assert aux.all_alive
    assert most_memory(rig.pid) - before < 4 * size + (64 << 20)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory a process has had")
@pytest.mark.parametrize("character", ["\U0001f600", "\u4e00"])
def test_a_text_of_wide_characters_takes_four_times_what_may_come_at_most(
    stack: contextlib.ExitStack, character: str
) -> None:
    rig = stack.enter_context(RigProgram(uri="tcp://127.0.0.1:0"))
    before = most_memory(rig.pid)
    for number, size in enumerate((25_000_000, LARGE)):
        sock = connection(stack, rig.uri)
        data = request(b'"' + b"x" * size + character.encode() + b'"', f"{number:016x}")

        def send(sock: socket.socket = sock, data: bytes = data) -> None:
            with contextlib.suppress(ConnectionError):  # it is closed before all has left
                sock.sendall(data)

        sender = threading.Thread(target=send)
        sender.start()
        answer = messages.decode(sock.recv(1 << 16))
        sender.join(LONG)
        if size < LARGE:
            assert isinstance(answer, messages.Reply)
        else:
            assert isinstance(answer, messages.Failure)
            assert answer.error == "PayloadTooLarge"
            assert "which count for more with characters beyond U+00FF" in answer.message
    assert most_memory(rig.pid) - before < 4 * (64 << 20)
    aux = stack.enter_context(Auxiliaries({"cameras": rig.uri}))
    with pytest.raises(PayloadTooLarge, match="carries at most"):
        aux.push("EXPINFO", None, "x" * LARGE + character)


def test_one_that_begins_a_large_message_and_stops_does_not_keep_others_from_theirs(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.net.tcp_listener.STALLED", 0.05)
    rig = stack.enter_context(Rig("cameras", "tcp://127.0.0.1:0"))
    rig.on("EXPINFO")(lambda _, data: {"size": len(data)})
    sock = connection(stack, rig.uri)
    sock.sendall(request(b'"' + b"x" * 1_000_000))
    until(lambda: session_of(rig).endpoint._listener._turn)
    aux = stack.enter_context(Auxiliaries({"cameras": rig.uri}))
    assert aux.request("EXPINFO", None, "x" * 1_000_000)["cameras"][1]["size"] == 1_000_000
    until(lambda: not session_of(rig).endpoint._listener._turn)
    assert sock.recv(1) == b""


@pytest.mark.parametrize("pace", [0, 40_000], ids=["stalled", "slow"])
def test_several_slow_strangers_in_a_row_do_not_keep_the_one_in_charge_from_its_message(
    stack: contextlib.ExitStack, pace: int
) -> None:
    rig = stack.enter_context(Rig("cameras", "tcp://127.0.0.1:0"))
    rig.on("EXPINIT")(lambda data: {"size": len(data["notes"])})
    aux = stack.enter_context(Auxiliaries({"cameras": rig.uri}))
    over = threading.Event()

    def go_on(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it is closed, or all is over
            while pace and not over.wait(0.2):
                sock.sendall(b"x" * pace)

    senders = []
    for number in range(6):
        sock = connection(stack, rig.uri)
        sock.sendall(request(b'"' + b"x" * 400_000, f"{number:016x}"))
        senders.append(threading.Thread(target=go_on, args=[sock]))
        senders[-1].start()
    until(lambda: len(session_of(rig).endpoint._listener._waiting) == 5)
    began = time.monotonic()
    answer = aux.request("EXPINIT", {"exp_ref": REFERENCE, "notes": "x" * 1_000_000}, timeout=LONG)
    assert answer["cameras"][-1]["size"] == 1_000_000
    assert time.monotonic() - began < 5.0
    assert aux.all_alive
    over.set()
    for sender in senders:
        sender.join(LONG)


def test_two_slow_senders_of_large_messages_are_both_taken(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.net.tcp_listener.STALLED", 0.2)
    monkeypatch.setattr("rigsync.net.tcp_listener.SLOWEST", 10_000)
    rig = stack.enter_context(Rig("cameras", "tcp://127.0.0.1:0"))

    def send_slowly(sock: socket.socket, boot: str) -> bytes:
        data = request(b'"' + b"x" * 600_000 + b'"', boot)
        for begin in range(0, len(data), 50_000):
            sock.sendall(data[begin : begin + 50_000])
            time.sleep(0.1)  # the pace of a slow network: 1.2 s in all
        return sock.recv(1 << 16)

    answers = [in_thread(send_slowly, connection(stack, rig.uri), boot) for boot in ("a" * 16, "b" * 16)]
    assert all(isinstance(messages.decode(answer.result(LONG)), messages.Reply) for answer in answers)


def patient(rig: Rig) -> Auxiliaries:
    """Connect to a rig that says nothing while it writes or reads half a million values: seconds, where it is busy."""
    return Auxiliaries(rigs_from({"cameras": rig.uri}, Timing(beat=10.0)))


def test_too_many_values_are_refused_at_the_side_that_sends_them(stack: contextlib.ExitStack) -> None:
    rig = stack.enter_context(Rig("cameras", "tcp://127.0.0.1:0"))
    rig.on("EXPINFO")(lambda _, count: {"values": [0] * count})
    aux = stack.enter_context(patient(rig))
    with pytest.raises(PayloadTooLarge, match="500,002 values, and one may hold 499,960; send them as text"):
        aux.push("EXPINFO", None, [0] * 500_000)
    assert len(aux.request("EXPINFO", None, 400_000, timeout=LONG)["cameras"][1]["values"]) == 400_000
    outcome = aux.push("EXPINFO", None, 500_000, wait=True, timeout=LONG)
    assert isinstance(outcome, PushError)
    failure = outcome.failed["cameras"]
    assert isinstance(failure, RemoteError)
    assert failure.error == "PayloadTooLarge"


def test_an_older_rig_s_answer_of_too_many_values_is_told_and_not_asked_for_again(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.core.messages.MAX_VALUES", 10**9)  # as on one of the version before
    ran: list[Any] = []
    rig = stack.enter_context(Rig("cameras", "tcp://127.0.0.1:0"))
    rig.on("EXPINFO")(lambda _, count: ran.append(count) or {"values": [0] * count})
    aux = stack.enter_context(patient(rig))
    outcome = aux.push("EXPINFO", None, 500_000, wait=True, timeout=LONG)
    assert isinstance(outcome, PushError)
    text = str(outcome.failed["cameras"])
    assert "PayloadTooLarge: the rig has run EXPINFO, but this side refuses its answer: too many values" in text
    assert ran == [500_000]
    assert aux.request("EXPINFO", None, 3, timeout=LONG)["cameras"][1]["values"] == [0, 0, 0]


def test_an_older_coordinator_that_sends_too_many_values_is_told(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.core.messages.MAX_VALUES", 10**9)  # as on one of the version before
    rig = stack.enter_context(Rig("cameras", "tcp://127.0.0.1:0"))
    aux = stack.enter_context(patient(rig))
    outcome = aux.push("EXPINFO", None, [0] * 700_000, wait=True, timeout=LONG)
    assert isinstance(outcome, PushError)
    assert "PayloadTooLarge: not run: too many values" in str(outcome.failed["cameras"])
    assert aux.request("EXPINFO", None, "x", timeout=LONG)


# ------------------------------------------------------------------------------------------- forged addresses


@pytest.mark.parametrize("seed", range(5))
def test_large_answers_reach_a_coordinator_that_is_new_without_delay(seed: int) -> None:
    network = SimNetwork(seed)
    network.add_rig("cameras", experiment_description={"devices": "x" * 31_000})
    coordinator = network.coordinator()
    pushed = coordinator.push("EXPINFO")
    assert network.run(0.02, lambda: pushed in coordinator.results)  # before anything is sent again
    assert "x" * 31_000 in str(coordinator.results[pushed].answers)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this computer show that it receives, as any that comes by an address of the network has to."""
    monkeypatch.setattr(Reach, "has_shown", lambda self, host: self.is_open or host in self._shown)


@pytest.mark.usefixtures("far")
def test_over_a_real_network_large_answers_and_notices_reach_a_coordinator_that_is_new(
    stack: contextlib.ExitStack,
) -> None:
    rig = Rig("cameras", "udp://0.0.0.0:0", experiment_description={"devices": "x" * 31_000})
    stack.enter_context(rig)
    aux = stack.enter_context(Auxiliaries({"cameras": f"udp://127.0.0.1:{port_of(rig.uri)}"}))
    told: list[Any] = []
    aux.on_notice("trial", lambda notice: told.append(notice.body))
    aux.wait_for(timeout=LONG)
    for n in range(5):
        rig.notify("trial", n)
    for event, *args in (("EXPINFO",), ("EXPINIT", REFERENCE), ("EXPSTART", REFERENCE), ("EXPEND",)):
        began = time.monotonic()
        assert "x" * 31_000 in str(aux.request(event, *args, timeout=5))
        assert time.monotonic() - began < 2.0
    until(lambda: told == list(range(5)))
    rig.notify("trial", 5, confirm=False)  # and what is sent once, now that its host has shown itself
    until(lambda: told == list(range(6)))
    assert "127.0.0.1" in session_of(rig).responder._reach._shown


def test_a_flood_of_refusals_floods_no_screen(stack: contextlib.ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    rig = stack.enter_context(Rig("cameras", "udp://127.0.0.1:0"))
    aux = stack.enter_context(Auxiliaries({"cameras": rig.uri}))
    aux.request("EXPINIT", REFERENCE)
    sock = stranger(stack, rig)
    for i in range(500):
        sock.send(messages.request(f"{i:016x}", 1, compose("EXPSTART", REFERENCE), None, None))
        assert isinstance(messages.decode(sock.recv(1 << 16)), messages.Failure)
    heard = threading.Event()
    aux.on_notice("last", lambda _: heard.set())
    rig.notify("last")
    assert heard.wait(LONG)
    lines = [record.getMessage() for record in caplog.records]
    assert 1 <= sum("EXPSTART from" in line and line.startswith("cameras: ") for line in lines) <= 12
    assert sum("more in vain than is told, the last: BusyError" in line for line in lines) == 1
