"""Those who forge the address of a rig or of a coordinator, on real sockets."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from live_helpers import Gate, in_thread
from processes import LONG, port_of, until

from rigsync import Auxiliaries, Rig
from rigsync.config.rigs import rigs_from
from rigsync.coordinator.results import PushResult
from rigsync.core import messages
from rigsync.core.enums import ExpMessage
from rigsync.core.messages import Message
from rigsync.doctor.doctor import diagnose
from rigsync.errors import PushError, PushTimeout, RigsMissing, WrongRig

STRANGER = "5" * 16


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def asked(rig: Rig, data: bytes, sock: socket.socket | None = None) -> Any:
    """Return what a rig answers to a datagram of a stranger."""
    with contextlib.ExitStack() as stack:
        sock = sock or stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.settimeout(LONG)
        sock.sendto(data, ("127.0.0.1", port_of(rig.uri)))
        return messages.decode(sock.recv(65_535))


def forge(rig: Rig, *datagrams: bytes) -> None:
    """Have datagrams leave from a rig's address to whoever has asked it for something."""
    session = rig._session
    assert session
    records = [record for known in session.responder._coordinators._known.values() for record in known.records.values()]
    for data in datagrams:
        for record in records:
            session._soon(lambda _, data=data, to=record.source: session.endpoint._send(to, data))  # type: ignore[misc]


def test_an_answer_that_is_forged_in_the_rig_s_name_is_no_success(stack: contextlib.ExitStack) -> None:
    gate = Gate()
    rig = stack.enter_context(Rig("cameras", "udp://127.0.0.1:0"))
    rig.on("EXPINFO")(gate)
    aux = stack.enter_context(Auxiliaries({"cameras": rig.uri}))
    stack.callback(gate.open.set)
    boot = asked(rig, messages.probe(STRANGER, 1, 1)).boot  # which is no secret
    push = in_thread(aux.push, "EXPINFO", 0, wait=True, timeout=1.0)
    assert gate.reached.wait(LONG)
    message = Message.of(ExpMessage.EXPINFO, [0, {"forged": True}])
    forge(rig, *[messages.reply(boot, n, message, 1, 2, to) for n in range(1, 11) for to in (None, STRANGER)])
    forge(rig, b"[64,0,{}]", b"[64,null ]")
    forge(rig, messages.bye(boot, 0, "forged"), messages.bye(boot, 0, "forged", STRANGER))
    assert isinstance(push.result(LONG), PushTimeout)
    gate.open.set()
    assert aux.all_alive
    assert aux.services["cameras"].dialect == "rigsync"
    peer = aux.services.peer("cameras")
    assert peer
    until(lambda: peer.violations.get("not for this program") == 22)
    assert isinstance(aux.push("EXPINFO", 0, wait=True), PushResult)


# ----------------------------------------------------------------------------------------------------- another rig


def test_rigs_that_have_swapped_addresses_are_named_and_asked_nothing(stack: contextlib.ExitStack) -> None:
    began: list[str] = []
    rigs = [stack.enter_context(Rig(name, "udp://127.0.0.1:0")) for name in ("cameras", "ephys")]
    for rig in rigs:
        rig.on("EXPINIT")(lambda data, name=rig.name: began.append(name))
        rig.on("EXPINTERRUPT")(lambda data, name=rig.name: began.append(name))
    cameras, ephys = rigs
    aux = stack.enter_context(Auxiliaries({"cameras": ephys.uri, "ephys": cameras.uri}, connect_timeout=0.2))
    for message in ("EXPINIT", "EXPINTERRUPT"):
        failed = aux.push(message, "2026-01-01_1_m", wait=True)
        assert isinstance(failed, PushError)
        assert {name: type(error) for name, error in failed.failed.items()} == {"cameras": WrongRig, "ephys": WrongRig}
        assert f"the rig at {ephys.uri} says that it is ephys" in str(failed.failed["cameras"])
    assert not aux.all_alive
    with pytest.raises(RigsMissing, match=r"cameras: the rig at .* says that it is ephys"):
        aux.wait_for(timeout=0.1)
    outcomes: SimpleQueue[Any] = SimpleQueue()
    aux.thread.call(aux.services.ping, "cameras", LONG, outcomes.put)
    assert isinstance(outcomes.get(timeout=LONG), WrongRig)
    assert "says that it is ephys" in aux.view("cameras").last_failure.text
    found = diagnose(rigs_from({"cameras": ephys.uri, "ephys": cameras.uri}))
    assert [[finding.fault.value for finding in seen.findings] for seen in found.values()] == [["wrong-rig"]] * 2
    assert f"it answers at {cameras.uri}" in found["cameras"].findings[0].remedies[0]
    assert began == []


# ------------------------------------------------------------------------------------------------------------ memory

PROGRAM = """
import sys, tracemalloc
from rigsync import Rig
rig = Rig("cameras", "udp://127.0.0.1:0", experiment_description={"text": "x" * 31_000})
rig.start()
rig.add_stream("left", text="x" * 30_000)
tracemalloc.start()
print(rig.uri, flush=True)
sys.stdin.readline()
print(tracemalloc.get_traced_memory()[0], flush=True)
sys.stdin.read()
rig.close()
"""
"""A rig that tells how many bytes it keeps more than at its beginning. What a system says of its memory is rounded."""


# What iblutil coordinators do not confirm is given up after a second, so that even without a bound little is kept.
@pytest.mark.parametrize(("dialect", "most"), [("iblutil", 12e6), ("rigsync", 32e6)])
def test_a_flood_of_senders_takes_less_than_64_mb(dialect: str, most: float) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        assert child.stdout
        port = port_of(child.stdout.readline().decode().strip())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", port))
            sock.settimeout(LONG)
            for sender in range(500):
                flood(dialect, port, sender)
                if sender % 4 == 0:  # the rig keeps pace
                    sock.send(messages.probe(STRANGER, sender + 1, 1))
                    while getattr(messages.decode(sock.recv(65_535)), "n", None) != sender + 1:
                        pass
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert int(child.stdout.readline()) < most
        child.stdin.close()
        assert child.wait(LONG) == 0


def flood(dialect: str, port: int, sender: int) -> None:
    """Have one more sender, at a port of its own, ask for more than it takes in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        boot = f"{sender:016x}"
        info = Message.of(ExpMessage.EXPINFO, [0, None])
        for n in range(1, 9):
            data = f"[64,0,{n}]".encode() if dialect == "iblutil" else messages.request(boot, n, info)
            sock.sendto(data, ("127.0.0.1", port))
        if dialect == "rigsync":
            sock.sendto(messages.probe(boot, 9, 1), ("127.0.0.1", port))
