"""A rig and a coordinator made as section 6 of docs/protocol.md says, of sockets and JSON alone, against rigsync's."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from typing import Any

import pytest
from processes import LONG, port_of, until

from rigsync import Auxiliaries, ExpStatus, PushError, Rig, Timing
from rigsync.config.rigs import rigs_from
from rigsync.net.relay import relay_before


class StepRig(threading.Thread):
    """A rig in ten steps."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.boot, self.status = secrets.token_hex(8), "CONNECTED"
        self.exp_ref: str | None = None
        self.highest: dict[str, int] = {}
        self.answers: dict[tuple[str, int], dict[str, Any] | None] = {}
        self.runs: list[str] = []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.address = self.sock.getsockname()

    def run(self) -> None:
        while True:
            try:
                data, source = self.sock.recvfrom(65_536)
            except ConnectionResetError:  # so Windows says that a coordinator has gone
                continue
            if data == b"end":
                break
            with contextlib.suppress(ValueError):
                if data[:1] == b"{" and (frame := json.loads(data))["rigsync"] == 1:
                    self.take(frame, source)

    def take(self, frame: dict[str, Any], source: Any) -> None:
        key = frame["boot"], frame["n"]
        if frame["kind"] == "probe":
            now = time.time_ns()
            told = {"status": self.status, "exp_ref": self.exp_ref, "name": "steps", "version": "0.1.0", "owner": None}
            self.send(source, "alive", frame["n"], t0=frame["t0"], t1=now, t2=now, **told)
        elif frame["kind"] != "request":
            return
        elif key in self.answers:
            self.send(source, **(self.answers[key] or {"kind": "ack", "n": frame["n"]}))
        elif frame["n"] > self.highest.get(frame["boot"], 0):
            if frame.get("to") not in (None, self.boot):
                self.send(source, "failure", frame["n"], error="RigRestarted", message="started anew", traceback="")
                return
            self.highest[frame["boot"]] = frame["n"]
            answer = self.answers[key] = {"n": frame["n"], **self.act(frame["event"], frame["args"])}
            self.send(source, **answer)

    def act(self, event: str, args: list[Any]) -> dict[str, Any]:
        """Do as the lifecycle says, as far as the test goes."""
        if event == "EXPSTART" and self.status != "INITIALIZED":
            return {"kind": "failure", "error": "StateError", "message": f"status is {self.status}", "traceback": ""}
        self.runs.append(event)
        leads_to = {"EXPINIT": "INITIALIZED", "EXPSTART": "RUNNING", "EXPEND": "STOPPED", "EXPCLEANUP": "CONNECTED"}
        self.status = leads_to.get(event, self.status)
        if event == "EXPINIT":
            self.exp_ref = args[0]["exp_ref"]
        info = {"status": int(ExpStatus[self.status])}
        first = {"EXPSTART": [self.exp_ref], "EXPINFO": [info["status"]]}.get(event, [])
        return {"kind": "reply", "args": [*first, info], "started": time.time_ns(), "finished": time.time_ns()}

    def send(self, source: Any, kind: str, n: int, **rest: Any) -> None:
        frame = {"rigsync": 1, "kind": kind, "boot": self.boot, "n": n, **rest}
        self.sock.sendto(json.dumps(frame).encode(), source)

    def __enter__(self) -> StepRig:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.sendto(b"end", self.address)
        self.join(LONG)
        self.sock.close()


class StepCoordinator:
    """A coordinator in five."""

    def __init__(self, port: int):
        self.boot, self.n, self.probes = secrets.token_hex(8), 0, 0
        self.rig: str | None = None
        self.told: dict[int, dict[str, Any]] = {}
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(("127.0.0.1", port))
        while self.rig is None:
            self.probe()

    def probe(self) -> None:
        self.probes += 1
        self.send("probe", self.probes, t0=time.time_ns())
        self.hear(0.1)

    def ask(self, wait: float = 0.1, **what: Any) -> dict[str, Any]:
        self.n += 1
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            self.send("request", self.n, **what, to=self.rig)
            again = time.monotonic() + wait
            while (left := again - time.monotonic()) > 0:
                frame = self.hear(left)
                if frame and frame["kind"] in ("reply", "failure") and frame["n"] == self.n:
                    return frame
            wait = min(2 * wait, 1.0)
        raise TimeoutError

    def hear(self, timeout: float) -> dict[str, Any] | None:
        self.sock.settimeout(timeout)
        try:
            frame: dict[str, Any] = json.loads(self.sock.recv(65_536))
        except TimeoutError:
            return None
        if frame["kind"] == "alive":
            self.rig = frame["boot"]
        if frame["boot"] != self.rig:
            return None
        if frame["kind"] == "notice" and frame["confirm"]:
            self.send("ack", frame["n"])
            self.told[frame["n"]] = frame["body"]
        return frame

    def send(self, kind: str, n: int, **rest: Any) -> None:
        self.sock.send(json.dumps({"rigsync": 1, "kind": kind, "boot": self.boot, "n": n, **rest}).encode())

    def __enter__(self) -> StepCoordinator:
        return self

    def __exit__(self, *_: object) -> None:
        for _ in range(4):
            self.send("bye", 0, reason="done")
        self.sock.close()


def test_a_rig_made_by_the_steps_is_commanded() -> None:
    with StepRig() as rig, Auxiliaries({"steps": f"udp://127.0.0.1:{rig.address[1]}"}) as aux:
        with aux.experiment("2026-11-20_1_mouse") as session:
            assert session.results["EXPSTART"]["steps"] == ["2026-11-20_1_mouse", {"status": 20}]
            session.check()
        with pytest.raises(PushError, match="StateError: status is CONNECTED"):
            aux.request("EXPSTART", "2026-11-20_1_mouse")
    assert rig.runs == ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]


def test_a_rig_that_knows_no_field_beyond_the_steps_is_commanded_with_a_long_beat() -> None:
    with StepRig() as rig:
        rigs = rigs_from({"steps": f"udp://127.0.0.1:{rig.address[1]}"}, Timing(beat=10.0))
        with Auxiliaries(rigs) as aux, aux.experiment("2026-11-20_1_mouse") as session:
            session.check()
    assert rig.runs == ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]


def test_a_rig_made_by_the_steps_runs_nothing_twice_on_a_bad_network() -> None:
    with (
        StepRig() as rig,
        relay_before({"steps": rig.address}, seed=1, loss=0.2, duplication=0.2) as relays,
        Auxiliaries({"steps": f"udp://127.0.0.1:{relays['steps'].address[1]}"}) as aux,
    ):
        for _ in range(5):
            for message in ("EXPINIT", "EXPEND", "EXPCLEANUP"):
                aux.request(message, {"exp_ref": "2026-11-20_1_mouse"})
    assert rig.runs == ["EXPINIT", "EXPEND", "EXPCLEANUP"] * 5


def test_a_coordinator_made_by_the_steps_commands() -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    rig.command("focus")(lambda z: {"z": z})
    with rig:
        with StepCoordinator(port_of(rig.uri)) as coordinator:
            refused = coordinator.ask(event="EXPSTART", args=["2026-11-20_1_mouse", None])
            assert (refused["kind"], refused["error"]) == ("failure", "StateError")
            coordinator.ask(event="EXPINIT", args=[{"exp_ref": "2026-11-20_1_mouse"}])
            begun = coordinator.ask(event="EXPSTART", args=["2026-11-20_1_mouse", None])
            assert begun["args"][0] == "2026-11-20_1_mouse"
            assert coordinator.ask(command="focus", args=[[], {"z": 3}])["args"] == [{"z": 3}]
            coordinator.ask(event="EXPEND", args=[None])
            coordinator.ask(event="EXPCLEANUP", args=[None])
            until(lambda: coordinator.hear(0.01) is None and len(coordinator.told) == 4)
        assert rig.status is ExpStatus.CONNECTED
    assert [body["status"] for body in coordinator.told.values()] == ["INITIALIZED", "RUNNING", "STOPPED", "CONNECTED"]
