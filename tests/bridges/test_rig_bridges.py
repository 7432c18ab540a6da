"""The bridges of a rig: it tells what happens at it, and is commanded by its coordinator alone."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("pythonosc", reason="python-osc is not installed here")
pytest.importorskip("zmq", reason="pyzmq is not installed here")

import zmq
from brokers import needs_mosquitto, running_broker
from cli_programs import Command, environment
from live_helpers import run
from processes import LONG, FakeAlyx, free_port, until

from bridges.subscribers import Subscriber, publish
from bridges.test_cli_bridge import without_the_libraries
from bridges.test_osc_bridge import Program
from rigsync import Auxiliaries, PushError, Rig, events
from rigsync.agent.agent import Agent
from rigsync.agent.file import read_agent_file
from rigsync.bridges.bridge import Bridge
from rigsync.bridges.mqtt import MqttBridge
from rigsync.bridges.osc import OscBridge
from rigsync.bridges.zmq import ZmqBridge
from rigsync.core.enums import ExpStatus
from rigsync.errors import ConfigError
from rigsync.runtime.hub import Hub

REFERENCE = "2026-11-20_1_mouse"
ANY, ANY_ZMQ = "udp://127.0.0.1:0", "tcp://127.0.0.1:0"
SLEEPER = [sys.executable, "-c", "import time\nwhile True: time.sleep(0.1)"]


class Listener:
    """A program that hears by ZeroMQ what happens at a rig."""

    def __init__(self, pub: str, rep: str, stack: contextlib.ExitStack):
        context = stack.enter_context(zmq.Context())
        self._sub, self._req = (stack.enter_context(context.socket(kind)) for kind in (zmq.SUB, zmq.REQ))
        for socket, uri in ((self._sub, pub), (self._req, rep)):
            socket.linger, socket.rcvtimeo = 0, 1000 * int(LONG)
            socket.connect(uri)
        self._sub.subscribe("")
        self._sub.recv_multipart()  # a beat at the latest: it is connected

    def ask(self, request: Any) -> Any:
        self._req.send_json(request)
        return self._req.recv_json()

    def hear(self, kind: str, fits: Callable[[Any], object] = lambda _: True) -> Any:
        """Return the fields of the next event of a kind."""
        while True:
            told: Any = json.loads(self._sub.recv_multipart()[1])
            if told.get("type") == kind and fits(told["fields"]):
                return {"rig": told["rig"], **told["fields"]}


@pytest.fixture
def listener() -> Iterator[Callable[[str, str], Listener]]:
    with contextlib.ExitStack() as stack:
        yield lambda pub, rep: Listener(pub, rep, stack)


def session(uri: str) -> None:
    with Auxiliaries({"left": uri}) as aux:
        aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
        aux.request("EXPSTART", REFERENCE, timeout=LONG)
        aux.request("EXPEND", timeout=LONG)


def test_its_hub_is_told_of_its_notices_progress_and_streams(serve: Callable[..., Rig]) -> None:
    rig = serve("left")
    told: list[Any] = []
    rig.hub.subscribe(events.CoordinatorEvent, told.append)
    rig.progress("frames", 10, 20, "frames")
    rig.notify("light", {"on": True}, key="lamp")
    rig.notify("failure", {"problem": "too dark"}, key="lamp")
    rig.add_stream("camera", state="running")
    until(lambda: len(told) >= 4)
    rig.update_stream("camera", fps=30)
    until(lambda: any(isinstance(event, events.StreamUpdated) for event in told))
    rig.remove_stream("camera")
    until(lambda: isinstance(told[-1], events.StreamRemoved))
    expected: list[Any] = [
        events.Notice("left", "light", "lamp", {"on": True}, True),
        events.Notice("left", "failure", "lamp", {"problem": "too dark"}, True),
        events.ProgressChanged("left", "frames", 10, 20, "frames"),
        events.StreamAdded("left", "camera", {"state": "running"}),
        events.StreamUpdated("left", "camera", {"state": "running", "fps": 30}),
        events.StreamRemoved("left", "camera", {"state": "running", "fps": 30}),
    ]
    assert [event for event in expected if event not in told] == []
    assert rig.picture["failures"] == {"lamp": "too dark"}


def test_programs_hear_what_happens_at_a_rig_and_how_it_is_and_command_nothing(
    serve: Callable[..., Rig], listener: Callable[[str, str], Listener]
) -> None:
    done: list[str] = []
    rig = serve("left", {"EXPSTART": lambda *_: done.append("EXPSTART")})
    rig.command("focus")(done.append)
    rig.notify("failure", {"problem": "too dark"}, key="lamp")
    with ZmqBridge(rig, ANY_ZMQ, ANY_ZMQ) as zmq_bridge, OscBridge(rig, ANY) as osc_bridge:
        hears, program = listener(zmq_bridge.pub, zmq_bridge.rep), Program(osc_bridge.uri)
        with contextlib.closing(program):
            until(lambda: hears.ask({"snapshot": True})["views"]["left"]["failures"] == {"lamp": "too dark"})
            for request in ({"push": "EXPSTART"}, {"call": "focus", "rigs": "left"}):
                assert "this is a rig, which its coordinator commands" in hears.ask(request)["error"]
            program.send("/rigsync/subscribe")
            assert program.await_one("/rigsync/view")[:3] == ["left", "alive", "CONNECTED"]
            for address in ("/rigsync/push/EXPSTART", "/rigsync/left/EXPSTART", "/rigsync/call/left/focus"):
                (answer,) = program.ask(address)
                assert answer.startswith("error: ")
            session(rig.uri)
            for status in ("INITIALIZED", "RUNNING", "STOPPED"):
                found = hears.hear("StatusChanged", lambda fields, status=status: fields["after"] == status)
                assert found["exp_ref"] == REFERENCE
            program.await_one("/rigsync/event/MessageHandled", lambda args: "EXPEND" in args)
            assert hears.ask({"views": True})["views"]["left"]["status"] == "STOPPED"
    assert done == ["EXPSTART"]


@pytest.mark.parametrize("ends", ["the bridge first", "the rig first"])
def test_it_ends_with_its_rig_at_the_latest_and_leaves_no_port_open(ends: str) -> None:
    for _ in range(2):
        rig = Rig("left", "udp://127.0.0.1:0")
        rig.start()
        pub, rep = (f"tcp://127.0.0.1:{free_port(scheme='tcp')}" for _ in range(2))
        for _ in range(2):
            with contextlib.ExitStack() as stack:
                stack.callback(rig.close)
                bridges = [ZmqBridge(rig, pub, rep), OscBridge(rig, ANY)]
                for bridge in bridges:
                    stack.enter_context(bridge)
                if ends == "the rig first":
                    rig.close()
            assert all(bridge._closed.done() and not bridge._ends for bridge in bridges)
            rig.start()
        rig.close()


def test_all_ends_even_where_one_part_of_it_fails() -> None:
    bridge = Bridge(Hub("lab"))
    bridge._closed = Future()
    done: list[str] = []
    bridge._ends = [lambda: done.append("first"), lambda: {}["a fault"], lambda: done.append("last")]
    with pytest.raises(KeyError):
        run(bridge.close)
    assert done == ["first", "last"]
    assert bridge._closed.done()


def test_a_rig_on_the_programs_own_loop() -> None:
    async def main() -> None:
        async with Rig("left", "udp://127.0.0.1:0") as rig, ZmqBridge(rig, ANY_ZMQ, ANY_ZMQ) as bridge:
            assert bridge.pub.startswith("tcp://127.0.0.1:")

    run(main)


def test_it_says_what_who_reaches_it_from_elsewhere_can_do(
    serve: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    rig = serve("left")
    with ZmqBridge(rig, "tcp://0.0.0.0:0", ANY_ZMQ), OscBridge(rig, "udp://0.0.0.0:0"):
        pass
    assert caplog.text.count("whoever reaches that port hears what happens at this rig") == 2


# ------------------------------------------------------------------------------------------------- an agent's file


@pytest.fixture
def agent_file(tmp_path: Path) -> Callable[..., str]:
    def write(**keys: Any) -> str:
        on = {"EXPSTART": {"start": SLEEPER}, "EXPEND": {"stop": {"signal": "kill"}}}
        document = {"name": "left", "listen": "udp://127.0.0.1:0", "on": on, **keys}
        (tmp_path / "left.yaml").write_text(yaml.safe_dump(document))
        return "left.yaml"

    return write


def test_serve_starts_and_ends_the_bridges_of_the_file(
    agent_file: Callable[..., str], tmp_path: Path, listener: Callable[[str, str], Listener]
) -> None:
    pub, rep = (f"tcp://127.0.0.1:{free_port(scheme='tcp')}" for _ in range(2))
    file = agent_file(bridges={"zmq": {"pub": pub, "rep": rep}, "osc": {"listen": f"udp://127.0.0.1:{free_port()}"}})
    with Command(["serve", file, "--json"], tmp_path, environment(tmp_path)) as command:
        uri = json.loads(command.line('{"rig"'))["listening"]
        hears = listener(pub, rep)
        assert hears.ask({"views": True})["views"]["left"]["status"] == "CONNECTED"
        assert "its coordinator commands" in hears.ask({"push": "EXPINFO"})["error"]
        with Auxiliaries({"left": uri}) as aux:
            aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
            aux.request("EXPSTART", REFERENCE, timeout=LONG)
            assert hears.hear("MessageHandled", lambda fields: fields["event"] == "EXPSTART")["error"] is None
            command.interrupt()  # the rig interrupts, which is told before the bridge ends
            assert hears.hear("StatusChanged", lambda fields: fields["after"] == "STOPPED")["exp_ref"] == REFERENCE
            assert command.outcome().status == 0
    for uri in (pub, rep):
        with zmq.Context() as context, context.socket(zmq.REP) as socket:
            socket.bind(uri)


def test_what_is_wrong_with_a_bridge_is_told_before_the_rig_serves(
    agent_file: Callable[..., str], tmp_path: Path
) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        file = agent_file(bridges={"zmq": {"pub": f"tcp://127.0.0.1:{port}", "rep": ANY_ZMQ}})
        with Command(["serve", file, "--json"], tmp_path, environment(tmp_path)) as command:
            outcome = command.outcome()
    assert (outcome.status != 0, outcome.out) == (True, "")
    assert f"ZeroMQ cannot listen on tcp://127.0.0.1:{port}" in outcome.err
    assert "Traceback" not in outcome.err
    with Command(["serve", file], tmp_path, without_the_libraries(tmp_path)) as command:
        outcome = command.outcome()
    assert (outcome.status, outcome.out) == (2, "")
    assert "ZeroMQ needs pyzmq, which is not installed: install the extra zmq" in outcome.err


def test_a_rig_tells_recorders_by_lsl_and_hears_the_markers_of_others(
    agent_file: Callable[..., str], tmp_path: Path
) -> None:
    lsl = pytest.importorskip("bridges.lsl_support", exc_type=ImportError)
    name, source = lsl.stream_name(), lsl.stream_name()
    pub, rep = (f"tcp://127.0.0.1:{free_port(scheme='tcp')}" for _ in range(2))
    file = agent_file(bridges={"lsl": {"name": name, "from": source}, "zmq": {"pub": pub, "rep": rep}})
    with (
        lsl.Stream(source) as stimuli,
        Command(["serve", file, "--json"], tmp_path, environment(tmp_path)) as command,
        contextlib.ExitStack() as stack,
    ):
        uri = json.loads(command.line('{"rig"'))["listening"]
        hears = Listener(pub, rep, stack)
        recorder = stack.enter_context(lsl.recorder(name, tmp_path))
        assert recorder.description
        begun = lsl.local_clock()
        with Auxiliaries({"left": uri}) as aux:
            aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
            aux.request("EXPSTART", REFERENCE, timeout=LONG, delay=0.1)
            aux.request("ALYX", FakeAlyx(), timeout=LONG)
            with pytest.raises(PushError):
                aux.request("EXPSTART", "2026-11-20_2_mouse", timeout=LONG)
            done = until(lambda: recorder.markers("StatusChanged")[1:], "the status")
            stimuli.push_sample(["flash"])
            assert hears.hear("LslMarker")["value"] == "flash"
            command.interrupt()
            until(lambda: recorder.markers("StatusChanged")[2:], "the last words")
        assert command.outcome().status == 0
    (running, at), *_ = done
    assert (running["rig"], running["fields"]["after"]) == ("left", "RUNNING")
    due = {marker["fields"]["event"]: marker for marker, _ in recorder.markers("HandlerDue")}
    assert due["EXPINIT"]["fields"]["at"] is None
    assert 0 < due["EXPSTART"]["fields"]["at"] - due["EXPSTART"]["time"] < 0.15
    errors = [marker["fields"] for marker, _ in recorder.markers("MessageHandled") if marker["fields"]["error"]]
    assert [told["event"] for told in errors] == ["EXPSTART"]
    assert FakeAlyx._token not in json.dumps(recorder.markers())
    assert begun < at < lsl.local_clock()
    stamps = [stamp - marker["time"] for marker, stamp in recorder.markers()]
    assert max(stamps) - min(stamps) < 0.001  # the same two clocks


@needs_mosquitto
def test_a_rig_tells_a_facility_by_mqtt_and_takes_no_commands_there(
    agent_file: Callable[..., str], tmp_path: Path, serve: Callable[..., Rig]
) -> None:
    pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed here")
    with running_broker(tmp_path) as broker, contextlib.ExitStack() as stack:
        file = agent_file(bridges={"mqtt": {"broker": broker.uri(login="cameras:secret")}})
        with Command(["check", file, "--json"], tmp_path, environment(tmp_path)) as checking:
            shown = checking.outcome().out
        assert json.loads(shown)["agent"]["bridges"]["mqtt"]["broker"] == f"mqtt://***@127.0.0.1:{broker.port}/lab"
        with Command(["serve", file, "--json"], tmp_path, environment(tmp_path)) as command:
            uri = json.loads(command.line('{"rig"'))["listening"]
            sub = stack.enter_context(Subscriber(broker, "lab/#"))
            until(lambda: [view for view in sub.of("lab/views/left") if view and view["status"] == "CONNECTED"])
            with Auxiliaries({"left": uri}) as aux:
                aux.request("EXPINIT", {"exp_ref": REFERENCE}, timeout=LONG)
                aux.request("EXPSTART", REFERENCE, timeout=LONG)
                for message in ("push/EXPEND", "call/focus"):
                    publish(broker, f"lab/{message}", "")
                until(lambda: [view for view in sub.of("lab/views/left") if view and view["status"] == "RUNNING"])
                until(lambda: aux.views["left"].status is ExpStatus.RUNNING)
            command.interrupt()
            outcome = command.outcome()
        assert (outcome.status, "secret" in outcome.err) == (0, False)
        until(lambda: sub.of("lab/views/left")[-1] is None)  # it has taken its picture away
    told = sub.of("lab/events/StatusChanged/left")
    assert [each["fields"]["after"] for each in told] == ["INITIALIZED", "RUNNING", "STOPPED"]
    assert {each["rig"] for each in told} == {"left"}
    with pytest.raises(ConfigError, match="rig left takes no commands by its bridge: its coordinator commands it"):
        MqttBridge(serve("left"), broker.uri(), commands=True)


@pytest.mark.parametrize(
    ("bridge", "key", "problem"),
    [
        ({"broker": "mqtt://broker", "commands": True}, "mqtt.commands", "nobody commands a rig by its bridge"),
        ({"broker": "tcp://broker"}, "mqtt.broker", "is not the address of an MQTT broker"),
    ],
)
def test_a_broker_that_is_none_and_commands_that_no_rig_takes(
    agent_file: Callable[..., str], tmp_path: Path, bridge: dict[str, Any], key: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        read_agent_file(tmp_path / agent_file(bridges={"mqtt": bridge}))
    assert (caught.value.key, caught.value.line is not None) == (f"bridges.{key}", True)


def test_the_file_is_read_as_that_of_rigs_is_and_shown(agent_file: Callable[..., str], tmp_path: Path) -> None:
    curve = {"secret_key": "bridge.key_secret", "clients": ["k" * 40]}
    path = tmp_path / agent_file(
        bridges={"osc": {"to": ["udp://127.0.0.1:9001"]}, "zmq": {"curve": curve}},
        variables={"data": "a"},
        rehearsal={"data": "b"},
        verify={"files": "{data}/*.mp4", "growing_within": 5},
    )
    file = read_agent_file(path)
    assert file.rehearsal
    for each in (file, file.rehearsal):
        assert each.bridges["osc"] == {"listen": "udp://127.0.0.1:9000", "to": ("udp://127.0.0.1:9001",)}
        assert each.bridges["zmq"]["curve"]["secret_key"] == str(tmp_path / "bridge.key_secret")
    assert Agent(file).name == "left"  # which itself knows of no bridge
    with Command(["check", "left.yaml"], tmp_path, environment(tmp_path)) as command:
        shown = " ".join(command.outcome().out.split())
    assert "always tell osc: udp://127.0.0.1:9000, udp://127.0.0.1:9001" in shown
    assert "always tell zmq: tcp://127.0.0.1:5556, tcp://127.0.0.1:5555" in shown
    with Command(["check", "left.yaml", "--json"], tmp_path, environment(tmp_path)) as command:
        assert json.loads(command.outcome().out)["agent"]["bridges"]["osc"]["to"] == ["udp://127.0.0.1:9001"]
    with pytest.raises(ConfigError, match="unknown key 'ocs'; did you mean 'osc'") as caught:
        read_agent_file(tmp_path / agent_file(bridges={"ocs": {}}))
    assert caught.value.key == "bridges.ocs"
    assert read_agent_file(tmp_path / agent_file()).bridges == {}
