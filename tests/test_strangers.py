"""A network with strangers in it: what they send takes little memory, no place, and no time from who belongs."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from processes import LONG, port_of, until

from rigsync import Auxiliaries, Rig
from rigsync.protocol import messages
from rigsync.protocol.arguments import compose

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
    until(lambda: not session_of(rig).responder._agenda.open_tasks())
