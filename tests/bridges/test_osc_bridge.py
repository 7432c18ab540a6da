"""The OSC bridge on real sockets: python-osc and liblo on the other side, real rigs behind it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import json
import logging
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("pythonosc", reason="python-osc is not installed here")

from live_helpers import Gate, Lab, in_thread, run
from processes import LONG, free_port, has_ipv6, port_of, until
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_message import OscMessage
from pythonosc.osc_server import ThreadingOSCUDPServer
from pythonosc.osc_tcp_server import MODE_1_0, MODE_1_1, ThreadingOSCTCPServer
from pythonosc.tcp_client import SimpleTCPClient
from pythonosc.udp_client import SimpleUDPClient

from bridges.support import SAMPLES, SEED, bundle, message, mutated
from rigsync import Auxiliaries, Coordinator, Hub, events
from rigsync.bridges import asking
from rigsync.bridges.osc import OscBridge
from rigsync.bridges.osc import bridge as bridge_module
from rigsync.bridges.osc.bridge import part_of
from rigsync.bridges.osc.wire import FRAMINGS
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.errors import ConfigError, ListenError, LoopBlocked, NotRunning, RigTimeout
from rigsync.hub.documents import document_of, plain

REFERENCE = "2026-11-20_1_mouse"
ANY = "udp://127.0.0.1:0"
SCHEMES = ["udp", "tcp", "tcp+length"]
MODES = {"tcp": MODE_1_1, "tcp+length": MODE_1_0}


class Program:
    """An OSC program made of python-osc, that keeps what it is told.

    Parameters
    ----------
    uri : str
        The bridge.
    """

    def __init__(self, uri: str):
        scheme, port = uri.partition(":")[0], port_of(uri)
        if scheme == "udp":
            self._client: Any = SimpleUDPClient("127.0.0.1", port)
            self._client._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._client._sock.bind(("127.0.0.1", 0))
        else:
            self._client = SimpleTCPClient("127.0.0.1", port, mode=MODES[scheme])
            self._client.socket.settimeout(0.01)
            self._decoder = FRAMINGS[scheme](65536)
        self.told: list[tuple[str, list[Any]]] = []

    def send(self, address: str, *args: Any) -> None:
        self._client.send_message(address, list(args))

    def send_raw(self, packet: Any) -> None:
        self._client.send(packet)

    def look(self) -> list[tuple[str, list[Any]]]:
        """Return address and arguments of all that it was told."""
        if hasattr(self._client, "socket"):  # its own reader takes half a message for a whole one, if the rest is late
            with contextlib.suppress(TimeoutError):
                come = self._decoder.feed(self._client.socket.recv(65536))
                self.told += [(one.address, one.params) for one in map(OscMessage, come)]
        else:
            self.told += [(one.address, one.params) for one in self._client.get_messages(0.01)]
        return self.told

    def await_one(self, address: str, fits: Callable[[list[Any]], bool] = lambda _: True) -> list[Any]:
        """Return the arguments of the first message to an address, and forget it and those before."""

        def look() -> list[Any] | None:
            for number, (where, args) in enumerate(self.look()):
                if where == address and fits(args):
                    del self.told[: number + 1]
                    return args
            return None

        return until(look, f"a message to {address}")

    def ask(self, address: str, *args: Any) -> list[str]:
        """Send a message, and return the texts of the answer."""
        self.send(address, *args)
        return self.await_one("/rigsync/reply", lambda told: told[0] == address)[1:]

    def close(self) -> None:
        (self._client._sock if hasattr(self._client, "_sock") else self._client).close()


@pytest.fixture
def lab(serve: Callable[..., Any]) -> Lab:
    return Lab(serve)


@pytest.fixture
def bridged(connect: Callable[..., Any], stack: contextlib.ExitStack) -> Callable[..., OscBridge]:
    """Connect to rigs, and enter a bridge."""

    def start(*rigs: Any, listen: str = ANY, **options: Any) -> OscBridge:
        return stack.enter_context(OscBridge(connect(*rigs), listen=listen, **options))

    return start


@pytest.fixture
def program(stack: contextlib.ExitStack) -> Callable[[str], Program]:
    def start(uri: str) -> Program:
        return stack.enter_context(contextlib.closing(Program(uri)))

    return start


# ------------------------------------------------------------------------------------------------------ coming in


@pytest.mark.parametrize("scheme", SCHEMES)
def test_python_osc_commands_rigs_and_hears_what_became_of_each(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program], scheme: str
) -> None:
    def fail() -> None:
        raise OSError("no disk")

    cameras = lab.rig("cameras")
    cameras.command("focus")(lambda z, unit="mm": f"{z} {unit}")
    bridge = bridged(cameras, lab.rig("ephys", {"EXPSTART": fail}), listen=f"{scheme}://127.0.0.1:0")
    assert bridge.uri.startswith(f"{scheme}://127.0.0.1:")
    task = program(bridge.uri)
    assert task.ask("/rigsync/push/EXPINIT", json.dumps({"exp_ref": REFERENCE})) == ["cameras: ok", "ephys: ok"]
    assert lab.args("ephys", "EXPINIT") == ({"exp_ref": REFERENCE},)
    assert task.ask("/rigsync/*/EXPSTART", REFERENCE) == [
        "cameras: ok",
        "ephys: OSError: no disk",
    ]
    assert lab.args("cameras", "EXPSTART")[0] == REFERENCE
    assert task.ask("/rigsync/call/cameras/focus", 3) == ['cameras: ok "3 mm"']
    (unknown,) = task.ask("/rigsync/call/cameras/fokus", 3)
    assert unknown.startswith("cameras: UnknownCommand: the rig has no command 'fokus'")
    assert task.ask("/rigsync/{cameras,laser}/EXPEND") == ["cameras: ok"]
    assert "EXPEND" not in lab.verbs("ephys")


def test_a_pattern_is_one_push_to_the_rigs_that_it_names(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program]
) -> None:
    bridge = bridged(*map(lab.rig, ("cameras:left", "cameras:right", "ephys")))
    pushed: list[Any] = []
    bridge.lab.hub.subscribe("PushBegun", pushed.append)
    task = program(bridge.uri)
    assert task.ask("/rigsync/[ce]*/EXPINFO") == ["cameras:left: ok", "cameras:right: ok", "ephys: ok"]
    assert task.ask("/rigsync//EXPINFO") == ["cameras:left: ok", "cameras:right: ok", "ephys: ok"]
    assert task.ask("/rigsync/cameras:l*/EXPINFO") == ["cameras:left: ok"]
    assert [push.rigs for push in pushed] == [[*lab.uris], [*lab.uris], ["cameras:left"]]


@pytest.mark.parametrize(
    ("address", "args", "told"),
    [
        ("/rigsync/camera/EXPEND", [], "no address '/rigsync/camera/EXPEND'; did you mean '/rigsync/cameras'?"),
        ("/rigsync/push/EXPSTRAT", [], "no address '/rigsync/push/EXPSTRAT'; did you mean '/rigsync/push/EXPSTART'?"),
        ("/valve", [], "error: there is no address '/valve'; below / there are rigsync"),
        ("/rigsync/*/EXP*", [], "error: this names several messages, EXPINIT, EXPSTART, EXPEND"),
        ("/rigsync/[/EXPEND", [], "error: '[' has a [ without its ]"),
        ("/rigsync/push/EXPEND", [1, 2, 3], "error: EXPEND takes at most 1 arguments (data), got 3"),
        ("/rigsync/push/EXPINIT", ["{exp_ref: x}"], "error: '{exp_ref: x}' looks like JSON and is not: "),
        ("/rigsync/push/EXPINIT", ['{"a": NaN}'], "error: '{\"a\": NaN}' looks like JSON and is not: NaN is no number"),
        ("/rigsync/push/EXPINIT", ["[" * 3000], "looks like JSON and is not"),
        ("/rigsync/push/EXPSTATUS", ["FINE"], "error: unknown status 'FINE'"),
        ("/rigsync/push/EXPINIT", [b"blob"], "error: data is of type bytes, which cannot be sent"),
        ("/rigsync/push/ALYX", ["token"], "error: ALYX takes an object with base_url"),
        ("/rigsync/call/cameras", [], "error: a command of a rig has one name, as in /rigsync/call/cameras/focus"),
        ("/rigsync/call/cameras/f*", [], "error: a command of a rig has one name"),
        ("/rigsync/call/laser/focus", [], "'/rigsync/call/laser/focus'; below /rigsync/call there are cameras"),
        ("/rigsync/subscribe", [2.5], "error: a subscription takes a pattern of types of events"),
        ("/rigsync/subscribe", ["{a"], "error: '{a' has a { without its }"),
        ("/rigsync/unsubscribe", [], "error: there is no such subscription"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_answered_with_what_was_wrong(
    lab: Lab,
    bridged: Callable[..., OscBridge],
    program: Callable[[str], Program],
    address: str,
    args: list[Any],
    told: str,
) -> None:
    task = program(bridged(lab.rig("cameras")).uri)
    (answer,) = task.ask(address, *args)
    assert told in answer
    assert lab.told == []
    assert task.ask("/rigsync/push/EXPINFO") == ["cameras: ok"]


def test_names_that_cannot_stand_in_an_address() -> None:
    assert part_of("cameras:left") == "cameras:left"
    assert part_of("my rig #1/a") == "my%20rig%20%231%2Fa"
    assert part_of("50%") == "50%25"
    assert part_of("push") == "%70ush"


def test_a_rig_whose_name_is_an_address_of_the_bridge_is_reached(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program]
) -> None:
    task = program(bridged(lab.rig("push"), lab.rig("my rig")).uri)
    assert task.ask("/rigsync/%70ush/EXPINFO") == ["push: ok"]
    assert task.ask("/rigsync/my%20rig/EXPINFO") == ["my rig: ok"]


def test_functions_of_the_program_come_and_go(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program], caplog: pytest.LogCaptureFixture
) -> None:
    bridge = bridged(lab.rig("cameras"))
    task = program(bridge.uri)
    called: list[Any] = []
    bridge.add("/valve/open", lambda *args: called.append(args))
    remove = bridge.add("/valve/state", lambda: "closed")
    bridge.add("/valve/break", lambda: 1 / 0)
    bridge.add("/valve/exit", lambda: exec("raise SystemExit"))
    task.send("/valve/o*", 1, 2.5)
    assert task.ask("/valve/state") == ["closed"]
    assert called == [(1, 2.5)]
    assert task.ask("/valve/break") == ["error: ZeroDivisionError: division by zero"]
    assert task.ask("/valve/exit") == ["error: SystemExit: "]
    assert bridge.counts["failed"] == 2
    remove()
    assert "there is no address '/valve/state'" in task.ask("/valve/state")[0]
    with pytest.raises(ValueError, match="no address of a method"):
        bridge.add("/valve/*", print)
    for function in ("print", asyncio.sleep):
        with pytest.raises(TypeError, match="an OSC method is a plain function"):
            bridge.add("/valve/wait", function)  # type: ignore[arg-type]


def test_only_so_many_are_under_way_and_an_interrupt_has_room_all_the_same(
    lab: Lab,
    bridged: Callable[..., OscBridge],
    program: Callable[[str], Program],
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "MOST_UNDER_WAY", 2)
    task = program(bridged(lab.rig("cameras", {"EXPINFO": gate})).uri)
    task.send("/rigsync/push/EXPINFO")
    task.send("/rigsync/push/EXPINFO")
    refused = "error: 2 messages and commands are under way already: wait for their outcome"
    assert task.ask("/rigsync/call/cameras/focus") == [refused]
    assert task.ask("/rigsync/push/EXPINTERRUPT") == ["cameras: ok"]
    gate.open.set()


def test_who_waits_for_an_outcome_is_told_that_the_bridge_closes(
    lab: Lab, connect: Callable[..., Any], program: Callable[[str], Program], gate: Gate
) -> None:
    with OscBridge(connect(lab.rig("cameras", {"EXPINFO": gate})), listen=ANY) as bridge:
        task = program(bridge.uri)
        task.send("/rigsync/push/EXPINFO")
        assert gate.reached.wait(LONG)
    assert task.await_one("/rigsync/reply") == [
        "/rigsync/push/EXPINFO",
        "error: the bridge closes before the outcome is known",
    ]
    gate.open.set()


# -------------------------------------------------------------------------------------------------------- bundles


def test_bundles_are_acted_on_at_their_instant_nested_ones_at_theirs_equal_ones_in_order(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program]
) -> None:
    bridge = bridged(lab.rig("cameras"))
    called: list[tuple[int, float]] = []
    bridge.add("/mark", lambda number: called.append((number, time.time())))
    task = program(bridge.uri)
    mark = [message("/mark", number) for number in range(6)]
    for ahead in (0.2, 0.8, 3.2, 12.8):  # a busy computer may need more time to take them in
        called.clear()
        at = time.time() + ahead
        task.send_raw(bundle(at, mark[1], bundle(at + 0.1, mark[4])))
        task.send_raw(bundle(at, mark[2], mark[3]))
        task.send_raw(bundle(at + 0.1, mark[5]))
        task.send_raw(mark[0])
        until(lambda: called)
        is_in_time = [number for number, _ in called] == [0] and len(bridge._bundles) == 5
        until(lambda: len(called) == 6)
        if is_in_time:
            break
    assert is_in_time
    assert [number for number, _ in called] == [0, 1, 2, 3, 4, 5]
    early = [number for number, when in called[1:] if when < at + (0.1 if number > 3 else 0.0) - 0.005]
    assert early == []  # the clocks that set and read the instant are two


def test_a_bundle_that_comes_late_is_acted_on_at_once_with_a_note(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program], caplog: pytest.LogCaptureFixture
) -> None:
    bridge = bridged(lab.rig("cameras"))
    task = program(bridge.uri)
    for years in (100, 1 / 365 / 24):  # a century, and an hour
        task.send_raw(bundle(time.time() - years * 365 * 86400, message("/rigsync/push/EXPINFO")))
        assert task.await_one("/rigsync/reply") == ["/rigsync/push/EXPINFO", "cameras: ok"]
    assert bridge.counts["late"] == 2
    (line,) = [record.getMessage() for record in caplog.records if "after its instant" in record.getMessage()]
    assert line.startswith("OSC bridge: 127.0.0.1 port ")


def test_what_cannot_wait_is_refused_and_what_waits_is_cancelled_by_close(
    lab: Lab, connect: Callable[..., Any], program: Callable[[str], Program], caplog: pytest.LogCaptureFixture
) -> None:
    with OscBridge(connect(lab.rig("cameras")), listen=ANY) as bridge:
        task = program(bridge.uri)
        task.send_raw(bundle(time.time() + 7200, message("/rigsync/push/EXPINFO")))
        (_, told) = task.await_one("/rigsync/reply")
        assert "s ahead, and an hour is the most" in told
        task.send_raw(bundle(time.time() + 60, message("/rigsync/push/EXPINIT", REFERENCE)))
        assert task.ask("/rigsync/push/EXPINFO") == ["cameras: ok"]
    assert "closes: 1 messages that waited for their instant are cancelled" in caplog.text
    assert lab.verbs("cameras") == ["EXPINFO"]


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("scheme", SCHEMES)
def test_junk_of_any_kind_is_counted_and_the_next_good_one_works(
    lab: Lab,
    bridged: Callable[..., OscBridge],
    program: Callable[[str], Program],
    scheme: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bridge = bridged(lab.rig("cameras"), listen=f"{scheme}://127.0.0.1:0")
    chance = random.Random(SEED).random
    task = program(bridge.uri)
    for number in itertools.count():
        # EXPINFO changes nothing, and a rig answers it by the hundred.
        junk = mutated(SAMPLES[number % len(SAMPLES)].replace(b"EXPSTART", b"EXPINFO\0"), chance)
        task.send_raw(type("Raw", (), {"dgram": junk}))
        if number % 100 == 99:
            task.look()
            if bridge.counts["malformed"] > 300:
                break
    other = program(bridge.uri)

    def works() -> bool:
        other.send("/rigsync/push/EXPSTATUS")  # again and again: what there is no room for is lost, as on any network
        return ("/rigsync/reply", ["/rigsync/push/EXPSTATUS", "cameras: ok"]) in other.look()

    until(works)
    lines = [record for record in caplog.records if record.name == "rigsync.bridge" and record.levelno > logging.INFO]
    assert 0 < len(lines) <= 3  # one for each kind
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("listens", "sends", "told"), [("tcp", "tcp+length", "tcp+length://"), ("tcp+length", "tcp", "tcp://")]
)
def test_the_other_framing_is_named_in_the_log(
    lab: Lab,
    bridged: Callable[..., OscBridge],
    program: Callable[[str], Program],
    listens: str,
    sends: str,
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bridge = bridged(lab.rig("cameras"), listen=f"{listens}://127.0.0.1:0")
    program(bridge.uri.replace(f"{listens}:", f"{sends}:", 1)).send("/rigsync/push/EXPINFO")
    until(lambda: f"a program that frames packets otherwise needs {told}" in caplog.text)
    assert program(bridge.uri).ask("/rigsync/push/EXPINFO") == ["cameras: ok"]


def test_two_bridges_that_are_led_to_each_other_do_not_answer_each_other_for_ever(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program]
) -> None:
    cameras = lab.rig("cameras")
    first = bridged(cameras)
    second = bridged(cameras, to=first.uri)
    until(lambda: first.counts["misled"] > 3)
    assert first.counts.keys() == {"misled"}
    assert not second.counts


# ------------------------------------------------------------------------------------------------------ going out


@pytest.mark.parametrize("scheme", SCHEMES)
def test_who_subscribes_is_told_how_each_rig_is_and_then_every_event(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program], scheme: str
) -> None:
    cameras = lab.rig("cameras")
    bridge = bridged(cameras, lab.rig("ephys"), listen=f"{scheme}://127.0.0.1:0")
    bridge.lab.request("EXPINIT", {"exp_ref": REFERENCE})
    until(lambda: all(view.status is ExpStatus.INITIALIZED for view in bridge.lab.views.values()))
    viewer = program(bridge.uri)
    viewer.send("/rigsync/subscribe")
    until(lambda: len(viewer.look()) > 2)
    assert [where for where, _ in viewer.told[:3]] == ["/rigsync/view", "/rigsync/view", "/rigsync/reply"]
    rig, link, status, reference, trouble, document = viewer.await_one("/rigsync/view")
    assert (rig, link, status, reference, trouble) == ("cameras", "alive", "INITIALIZED", REFERENCE, "")
    assert json.loads(document)["exp_ref"] == REFERENCE
    assert viewer.await_one("/rigsync/view")[0] == "ephys"
    assert viewer.await_one("/rigsync/reply") == ["/rigsync/subscribe", "ok"]
    cameras.progress("frames", 5, 10, "frame")
    rig, item, value, total, unit, document = viewer.await_one("/rigsync/event/ProgressChanged")
    assert (rig, item, value, total, unit) == ("cameras", "frames", 5, 10, "frame")
    assert json.loads(document)["type"] == "ProgressChanged"
    viewer.send("/rigsync/push/EXPINTERRUPT")
    rig, verb, document = viewer.await_one("/rigsync/event/PushCompleted")
    assert (rig, verb) == ("", "EXPINTERRUPT")
    assert json.loads(document)["fields"]["answers"].keys() == {"cameras", "ephys"}
    assert viewer.ask("/rigsync/unsubscribe") == ["ok"]


def test_a_pattern_chooses_the_types_of_events(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program]
) -> None:
    bridge = bridged(lab.rig("cameras"))
    viewer = program(bridge.uri)
    assert viewer.ask("/rigsync/subscribe", "Push{Begun,Completed}") == ["ok"]
    viewer.told.clear()
    assert viewer.ask("/rigsync/push/EXPINFO") == ["cameras: ok"]
    assert viewer.ask("/rigsync/subscribe", "*") == ["ok"]  # renewed, with another one
    assert [where for where, _ in viewer.told if "view" in where] == []
    viewer.await_one("/rigsync/event/ProbeAnswered")


def test_events_go_to_another_port_of_the_sender_where_it_says_so(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program]
) -> None:
    bridge = bridged(lab.rig("cameras"))
    sender, listener = program(bridge.uri), program(bridge.uri)
    port = listener._client._sock.getsockname()[1]
    assert sender.ask("/rigsync/subscribe", "Push*", port) == ["ok"]
    assert listener.await_one("/rigsync/view")[0] == "cameras"
    assert sender.ask("/rigsync/push/EXPINFO") == ["cameras: ok"]
    assert listener.await_one("/rigsync/event/PushCompleted")[1] == "EXPINFO"
    assert sender.ask("/rigsync/unsubscribe", port) == ["ok"]


@pytest.mark.skipif(not has_ipv6(), reason="this computer has no IPv6")
def test_events_go_to_another_port_over_ipv6_too(lab: Lab, bridged: Callable[..., OscBridge]) -> None:
    bridge = bridged(lab.rig("cameras"), listen="udp://[::1]:0")
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listener,
    ):
        listener.bind(("::1", 0))
        listener.settimeout(LONG)
        sender.sendto(message("/rigsync/subscribe", listener.getsockname()[1]).dgram, ("::1", port_of(bridge.uri)))
        assert OscMessage(listener.recv(4096)).address == "/rigsync/view"


class Server:
    """A server of python-osc, that keeps what it is told."""

    def __init__(self, uri: str):
        self.told: list[tuple[str, list[Any]]] = []
        dispatcher = Dispatcher()
        dispatcher.set_default_handler(lambda where, *args: self.told.append((where, list(args))))
        at, scheme = ("127.0.0.1", port_of(uri)), uri.partition(":")[0]
        if scheme == "udp":
            self._server: Any = ThreadingOSCUDPServer(at, dispatcher)
        else:
            ThreadingOSCTCPServer.allow_reuse_address = True
            ThreadingOSCTCPServer.daemon_threads = True
            self._server = ThreadingOSCTCPServer(at, dispatcher, mode=MODES[scheme])
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def has(self, address: str) -> bool:
        return any(where == address for where, _ in list(self.told))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_that_is_given_is_told_also_where_it_comes_late(
    lab: Lab, bridged: Callable[..., OscBridge], stack: contextlib.ExitStack, scheme: str
) -> None:
    uri = f"{scheme}://127.0.0.1:{free_port(scheme=scheme[:3])}"
    bridged(lab.rig("cameras"), to=[uri])
    server = stack.enter_context(contextlib.closing(Server(uri)))
    until(lambda: server.has("/rigsync/event/ProbeAnswered"))
    until(lambda: server.has("/rigsync/view"))
    assert scheme == "udp" or server.told[0][0] == "/rigsync/view"


def test_who_is_told_commands_nothing(lab: Lab, bridged: Callable[..., OscBridge]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as told:
        told.bind(("127.0.0.1", 0))
        told.settimeout(LONG)
        bridge = bridged(lab.rig("cameras"), to=f"udp://127.0.0.1:{told.getsockname()[1]}")
        _, source = told.recvfrom(65536)
        for _ in range(3):
            told.sendto(message("/rigsync/push/EXPINFO").dgram, source)
        told.recvfrom(65536)
        program = Program(bridge.uri)
        with contextlib.closing(program):
            assert program.ask("/rigsync/push/EXPSTATUS") == ["cameras: ok"]
    assert lab.verbs("cameras") == []


def test_an_event_that_is_too_large_is_told_without_its_large_parts(
    lab: Lab, bridged: Callable[..., OscBridge], program: Callable[[str], Program]
) -> None:
    cameras = lab.rig("cameras")
    bridge = bridged(cameras)
    viewer = program(bridge.uri)
    viewer.ask("/rigsync/subscribe", "Notice")
    cameras.notify("scan", {"text": "x" * 5000})
    *_, document = viewer.await_one("/rigsync/event/Notice", lambda args: args[1] == "scan")
    assert json.loads(document)["fields"]["left_out"] == ["body"]
    assert json.loads(document)["rig"] == "cameras"


def test_tokens_of_alyx_are_told_to_nobody() -> None:
    told = [
        events.PushBegun(1.0, ExpMessage.ALYX, ["https://alyx", {"user": "f3a8"}], ["cameras"], None),
        events.MessageReceived("cameras", ExpMessage.ALYX, ["https://alyx", {"user": "f3a8"}], 1.0),
        events.PushCompleted(1.0, ExpMessage.ALYX, {"cameras": ["https://alyx", {"user": "f3a8"}]}, {}),
        events.RigSettled("cameras", 1.0, ExpMessage.ALYX, ["https://alyx", {"user": "f3a8"}]),
    ]
    for event in told:
        assert "f3a8" not in json.dumps(document_of(event))


def test_any_value_of_an_event_becomes_plain(tmp_path: Any) -> None:
    assert plain(float("nan")) == "nan"
    assert plain(datetime.timedelta(seconds=2)) == 2.0
    assert plain({1: (2, {3})}) == {"1": [2, [3]]}
    assert plain(events.LinkState.LOST) == "lost"
    assert plain(ExpMessage.EXPINIT) == "EXPINIT"
    assert plain(RigTimeout("cameras", "late")) == {"error": "RigTimeout", "problem": "late"}
    assert plain(object()) == "<object>"
    assert plain(tmp_path) == str(tmp_path)
    circle: list[Any] = []
    circle.append(circle)
    assert "<list>" in json.dumps(plain(circle))
    json.dumps(plain(events.Start(1.0, 0.5)))


# --------------------------------------------------------------------------------------------------- liblo's tools

tools = pytest.mark.skipif(
    not (shutil.which("oscsend") and shutil.which("oscdump")), reason="liblo-tools (oscsend, oscdump) is not here"
)


def oscsend(uri: str, *args: str) -> None:
    url = f"osc.{'udp' if uri.startswith('udp') else 'tcp'}://127.0.0.1:{port_of(uri)}"
    subprocess.run(["oscsend", url, *args], check=True, timeout=LONG)


@contextlib.contextmanager
def oscdump(scheme: str, port: int) -> Iterator[list[str]]:
    """Run oscdump, and collect its lines without their time."""
    lines: list[str] = []
    with subprocess.Popen(
        ["oscdump", "-L", f"osc.{scheme}://:{port}"], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout
        reader = in_thread(lambda: [lines.append(line.partition(" ")[2].strip()) for line in process.stdout or ()])
        try:
            yield lines
        finally:
            process.terminate()
            reader.result(LONG)


@tools
@pytest.mark.parametrize("scheme", ["udp", "tcp+length"])
def test_oscsend_commands_and_oscdump_is_told(lab: Lab, bridged: Callable[..., OscBridge], scheme: str) -> None:
    port = free_port(scheme=scheme[:3])
    bridge = bridged(
        lab.rig("cameras"), lab.rig("ephys"), listen=f"{scheme}://127.0.0.1:0", to=f"{scheme}://127.0.0.1:{port}"
    )
    with oscdump(scheme[:3], port) as lines:
        until(lambda: any(line.startswith("/rigsync/view sssss") and '"cameras" "alive"' in line for line in lines))
        oscsend(bridge.uri, "/rigsync/push/EXPINIT", "s", '{"exp_ref": "2026-11-20_1_mouse"}')
        until(lambda: any(line.startswith('/rigsync/event/PushCompleted sss "" "EXPINIT"') for line in lines))
        oscsend(bridge.uri, "/rigsync/{cameras,laser}/EXPSTART", "s", REFERENCE)
        until(lambda: any(line.startswith('/rigsync/event/PushCompleted sss "" "EXPSTART"') for line in lines))
    assert lab.verbs("cameras") == ["EXPINIT", "EXPSTART"]
    assert lab.verbs("ephys") == ["EXPINIT"]


# ------------------------------------------------------------------------------------------- its beginning and end


def test_a_coordinator_has_one_on_its_own_loop(lab: Lab) -> None:
    lab.rig("cameras")

    async def main() -> None:
        async with Coordinator(lab.uris) as coordinator, OscBridge(coordinator, listen=ANY) as bridge:
            told = await asyncio.get_running_loop().run_in_executor(None, ask, bridge.uri)
            assert told == ["cameras: ok"]
            with pytest.raises(LoopBlocked, match="async with"):
                OscBridge(coordinator, listen=ANY).__enter__()

    def ask(uri: str) -> list[str]:
        with contextlib.closing(Program(uri)) as program:
            return program.ask("/rigsync/push/EXPINFO")

    run(main)


def test_it_ends_with_the_auxiliaries(lab: Lab, connect: Callable[..., Any]) -> None:
    aux = connect(lab.rig("cameras"))
    with OscBridge(aux, listen=ANY) as bridge:
        aux.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", port_of(bridge.uri)))
    with pytest.raises(NotRunning, match="enter the Auxiliaries, Coordinator, Rig or Hub before the bridge"):
        OscBridge(aux, listen=ANY).__enter__()


def test_without_rigs_it_says_so(connect: Callable[..., Any], program: Callable[[str], Program]) -> None:
    with OscBridge(connect(), listen=ANY) as bridge:
        assert program(bridge.uri).ask("/rigsync/push/EXPINFO") == [
            "error: this program has no rigs, or does not command them itself"
        ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_port_that_is_in_use_is_told_with_who_uses_it(lab: Lab, connect: Callable[..., Any], scheme: str) -> None:
    aux = connect(lab.rig("cameras"))
    with OscBridge(aux, listen=f"{scheme}://127.0.0.1:0") as bridge:
        with pytest.raises(ListenError, match=r"the OSC bridge cannot listen on .*: port \d+ is in use"):
            OscBridge(aux, listen=bridge.uri).__enter__()
        assert bridge.uri.startswith(scheme)


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:9000", "udp://127.0.0.1", "tcp+length://:9000", "9000", "udp://a b:1"]
)
def test_what_is_no_address_is_told_with_what_one_is(connect: Callable[..., Any], text: str) -> None:
    for options in ({"listen": text}, {"to": [text]}):
        with pytest.raises(ConfigError, match=r"is not the address of an OSC program: .*such as udp://127.0.0.1:9000"):
            OscBridge(connect(), **options)


def test_a_host_that_does_not_resolve_is_named(lab: Lab, connect: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"the host of udp://no-such-host\.invalid:9000 cannot be resolved"):
        OscBridge(connect(lab.rig("cameras")), listen=ANY, to="udp://no-such-host.invalid:9000").__enter__()


def test_it_says_so_where_it_listens_beyond_this_computer(
    lab: Lab, bridged: Callable[..., OscBridge], caplog: pytest.LogCaptureFixture
) -> None:
    bridged(lab.rig("cameras"))
    assert "password" not in caplog.text
    bridge = bridged(lab.rig("ephys"), listen="udp://0.0.0.0:0")
    assert f"listens on {bridge.uri}, beyond this computer: OSC has no password" in caplog.text
    assert bridge_module.LISTEN == "udp://127.0.0.1:9000"


def test_events_of_a_hub_of_ones_own_are_told(lab: Lab, program: Callable[[str], Program]) -> None:
    lab.rig("cameras")
    Lick = events.define("LickOfTheOscTest", 2907)  # noqa: N806 - a class

    async def main() -> list[Any]:
        async with (
            Hub() as hub,
            Coordinator(lab.uris, hub=hub) as coordinator,
            OscBridge(coordinator, listen=ANY) as bridge,
        ):
            viewer, loop = program(bridge.uri), asyncio.get_running_loop()
            await loop.run_in_executor(None, viewer.ask, "/rigsync/subscribe", "Lick*")
            hub.ingest(Lick([7], rig={"a", 1}))
            hub.ingest(Lick(7))
            address, fits = "/rigsync/event/LickOfTheOscTest", lambda args: args[1] == 7
            told: list[Any] = await loop.run_in_executor(None, viewer.await_one, address, fits)
            return told

    rig, payload, document = run(main)
    assert (rig, payload) == ("", 7)
    assert json.loads(document)["fields"]["payload"] == 7


def test_an_auxiliaries_may_be_used_beside_it(lab: Lab, bridged: Callable[..., OscBridge]) -> None:
    bridge = bridged(lab.rig("cameras"))
    assert isinstance(bridge.lab, Auxiliaries)
    assert bridge.lab.request("EXPINFO").succeeded.keys() == {"cameras"}
