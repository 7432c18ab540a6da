"""The ZeroMQ bridge on real sockets: programs in this process and in others, real rigs behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_connection
from typing import Any

import psutil
import pytest

pytest.importorskip("zmq", reason="pyzmq is not installed here")

import zmq
import zmq.auth
from live_helpers import Gate, Lab, run
from processes import LONG, free_port, has_ipv6, port_of, until

from rigsync import Coordinator, events
from rigsync.bridges import asking
from rigsync.bridges.requests import LARGEST
from rigsync.bridges.zmq import ZmqBridge
from rigsync.bridges.zmq import bridge as bridge_module
from rigsync.bridges.zmq import history as history_module
from rigsync.bridges.zmq import sockets as sockets_module
from rigsync.errors import ConfigError, ListenError

REFERENCE = "2026-11-20_1_mouse"
ANY = "tcp://127.0.0.1:0"
PAGE = (Path(__file__).parents[2] / "docs" / "bridges.md").read_text(encoding="utf-8")
SUBSCRIBER = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "def events" in block)
"""What the page tells subscribers to do."""
PATIENCE = 1000 * int(LONG)


@pytest.fixture(autouse=True)
def _quick_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "BEAT", 0.05)


@pytest.fixture
def lab(serve: Callable[..., Any]) -> Lab:
    return Lab(serve)


@pytest.fixture
def bridged(connect: Callable[..., Any], stack: contextlib.ExitStack) -> Callable[..., ZmqBridge]:
    """Connect to rigs, and enter a bridge."""

    def start(*rigs: Any, **options: Any) -> ZmqBridge:
        return stack.enter_context(ZmqBridge(connect(*rigs), **{"pub": ANY, "rep": ANY, **options}))

    return start


@pytest.fixture
def socket() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Connect a socket."""
    with zmq.Context() as context, contextlib.ExitStack() as stack:

        def start(kind: int, uri: str, topic: str = "", **options: Any) -> zmq.Socket[bytes]:
            made = stack.enter_context(context.socket(kind))
            for name, value in {"rcvtimeo": PATIENCE, "linger": 0, **options}.items():
                setattr(made, name, value)
            made.connect(uri)
            if kind == zmq.SUB:
                made.subscribe(topic)
            return made

        yield start


def ask(socket: zmq.Socket[bytes], request: Any) -> Any:
    socket.send_json(request)
    return socket.recv_json()


def subscribed(socket: Callable[..., zmq.Socket[bytes]], bridge: ZmqBridge) -> zmq.Socket[bytes]:
    """Return a socket that hears what is published from now on."""
    sub = socket(zmq.SUB, bridge.pub)
    sub.recv_multipart()  # a beat at the latest
    return sub


def heard(sub: zmq.Socket[bytes], kind: str) -> tuple[str, Any]:
    """Return topic and content of the next event of a kind."""
    while True:
        topic, data = sub.recv_multipart()
        if topic.decode().startswith(f"{kind}."):
            return topic.decode(), json.loads(data)


Lick = events.define("LickOfTheZmqTest")


# ---------------------------------------------------------------------------------------------------------- asked


def test_progress_that_is_missed_comes_in_its_newest_value_and_of_another_hub_in_all(
    lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]]
) -> None:
    bridge, other = bridged(lab.rig("cameras")), lab.rig("elsewhere")
    req = socket(zmq.REQ, bridge.rep)
    place = {key: value for key, value in ask(req, {"snapshot": True}).items() if key in ("run", "sequence")}
    told: list[Any] = []
    bridge.lab.hub.subscribe("ProgressChanged", told.append)
    boundary = other.hub.join(bridge.lab.hub)
    for hub, rig in ((bridge.lab.hub, "cameras"), (other.hub, "elsewhere")):
        for value in (1, 2, 3):
            hub.ingest(progress := events.ProgressChanged(rig, "frames", value, None, None))
            until(lambda progress=progress: progress in told)  # else it is superseded where it waits to be told
    boundary.end()
    missed = ask(req, {"snapshot": place})["events"]
    found = [(each["rig"], each["fields"]["value"]) for each in missed if each["type"] == "ProgressChanged"]
    assert found == [("cameras", 3), ("elsewhere", 1), ("elsewhere", 2), ("elsewhere", 3)]


def test_a_push_is_answered_with_what_became_of_each_rig(
    lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]]
) -> None:
    def fail() -> None:
        raise OSError("no disk")

    cameras = lab.rig("cameras:left")
    cameras.command("focus")(lambda z: {"z": z})
    bridge = bridged(cameras, lab.rig("cameras:right"), lab.rig("ephys", {"EXPSTART": fail}))
    req = socket(zmq.REQ, bridge.rep)
    found = ask(req, {"push": "EXPINIT", "args": [{"exp_ref": REFERENCE}], "timeout": 20})
    assert [*found["outcomes"]] == ["cameras:left", "cameras:right", "ephys"]
    assert lab.args("ephys", "EXPINIT") == ({"exp_ref": REFERENCE},)
    found = ask(req, {"push": "EXPSTART", "args": [REFERENCE]})["outcomes"]
    assert {rig: outcome["ok"] for rig, outcome in found.items()} == {
        "cameras:left": True,
        "cameras:right": True,
        "ephys": False,
    }
    assert found["ephys"] == {"ok": False, "error": "RemoteError", "problem": "OSError: no disk"}
    assert [*ask(req, {"push": "EXPEND", "rigs": "cameras:*"})["outcomes"]] == ["cameras:left", "cameras:right"]
    assert "EXPEND" not in lab.verbs("ephys")
    found = ask(req, {"call": "focus", "rigs": ["cameras:left", "ephys"], "args": [3], "timeout": 20})["outcomes"]
    assert found["cameras:left"] == {"ok": True, "answer": {"z": 3}}
    assert found["ephys"]["problem"].startswith("UnknownCommand: the rig has no command 'focus'")
    views = ask(req, {"views": True})["views"]
    assert {rig: view["link"] for rig, view in views.items()} == dict.fromkeys(lab.uris, "alive")


def test_a_command_is_called_once_however_often_its_rig_is_named(
    lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]]
) -> None:
    called: list[str] = []
    for name in ("cameras", "ephys"):
        lab.rig(name).command("focus")(lambda name=name: called.append(name))
    bridge = bridged(lab.uris)
    req = socket(zmq.REQ, bridge.rep)
    many = ["ephys", "cam*", *["cameras"] * 50_000]
    assert [*ask(req, {"call": "focus", "rigs": many})["outcomes"]] == ["cameras", "ephys"]
    assert [*ask(req, {"push": "EXPINFO", "rigs": many})["outcomes"]] == ["cameras", "ephys"]
    assert "no rig matches 'laser'" in ask(req, {"call": "focus", "rigs": ["cameras", "laser"]})["error"]
    assert sorted(called) == ["cameras", "ephys"]
    for request in ({"call": "focus"}, {"push": "EXPINFO"}):
        found = ask(req, {**request, "rigs": [f"cam*{'*' * n}" for n in range(1025)]})
        assert found == {"error": "a request names 1,024 rigs and patterns at most, not 1,025"}


def test_a_timeout_is_the_requests_own(
    lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]], gate: Gate
) -> None:
    bridge = bridged(lab.rig("cameras", {"EXPINFO": gate}))
    found = ask(socket(zmq.REQ, bridge.rep), {"push": "EXPINFO", "timeout": 0.2})
    assert found["outcomes"]["cameras"]["error"] == "RigTimeout"


@pytest.mark.parametrize("envelope", [[], [b""], [b"7", b""], [b"a", b"b", b""]], ids=len)
def test_a_dealer_has_several_under_way_each_answered_behind_its_own_envelope(
    lab: Lab,
    bridged: Callable[..., ZmqBridge],
    socket: Callable[..., zmq.Socket[bytes]],
    gate: Gate,
    envelope: list[bytes],
) -> None:
    bridge = bridged(lab.rig("cameras"), lab.rig("ephys", {"EXPINFO": gate}))
    dealer = socket(zmq.DEALER, bridge.rep)
    dealer.send_multipart([*envelope, b'{"push": "EXPINFO", "rigs": "ephys"}'])
    assert gate.reached.wait(LONG)
    dealer.send_multipart([*envelope, b'{"push": "EXPINFO", "rigs": "cameras"}'])
    for rig in ("cameras", "ephys"):
        *before, data = dealer.recv_multipart()
        assert (before, [*json.loads(data)["outcomes"]]) == (envelope, [rig])
        gate.open.set()


def test_wrong_requests_are_answered_with_what_was_wrong_and_the_next_good_one_works(
    lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]], caplog: Any
) -> None:
    bridge = bridged(lab.rig("cameras"))
    req = socket(zmq.REQ, bridge.rep)
    wrong = [
        (b"", "is not JSON"),
        (b"x" * (LARGEST + 1), "a request has at most 1,048,576 bytes"),
        (b'{"psuh": 1}', "did you mean 'push'?"),
        (b'{"push": "EXPINFO", "rigs": "camras"}', "no rig matches 'camras'; the rigs are: cameras"),
        (b'{"push": "EXPINFO", "timeout": "5"}', "a timeout is a number of seconds, not str"),
        (b'{"push": "EXPINFO", "timeout": -5}', "a timeout is a positive number of seconds, not -5"),
        (b'{"push": "EXPEND", "args": [1, 2, 3]}', "EXPEND takes at most 1 arguments (data), got 3"),
        (b'{"call": "focus", "rigs": "laser"}', "no rig matches 'laser'"),
        (b'{"call": "focus", "rigs": "cameras", "timeout": true}', "a timeout is a number of seconds, not bool"),
        (b'{"snapshot": 1}', 'write {"snapshot": true}'),
    ]
    for data, told in wrong:
        req.send(data)
        found: Any = req.recv_json()
        assert [*found] == ["error"]
        assert told in found["error"]
        assert "\n" not in found["error"]
        assert ask(req, {"push": "EXPINFO"})["outcomes"]["cameras"]["ok"]
    assert bridge.counts["refused"] == len(wrong)
    assert caplog.text.count("ZeroMQ bridge: ") == 1  # once a minute


def test_what_is_no_zeromq_or_far_too_large_is_cut_and_the_next_good_one_works(
    lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]]
) -> None:
    bridge = bridged(lab.rig("cameras"))
    for uri in (bridge.pub, bridge.rep):
        for data in (b"GET / HTTP/1.1\r\n\r\n" * 100, b"\xff" + bytes(8) + b"\x7f" + b"\xff" * 1000):
            with create_connection(("127.0.0.1", port_of(uri)), LONG) as stranger, contextlib.suppress(OSError):
                stranger.sendall(data)
    dealer = socket(zmq.DEALER, bridge.rep)
    dealer.send(b"x" * (sockets_module.CUT + 1))
    dealer.send(b"never read: the connection is cut")
    assert ask(socket(zmq.REQ, bridge.rep), {"push": "EXPINFO"})["outcomes"]["cameras"]["ok"]


def test_so_many_requests_are_under_way_at_most(
    lab: Lab,
    bridged: Callable[..., ZmqBridge],
    socket: Callable[..., zmq.Socket[bytes]],
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "MOST_UNDER_WAY", 1)
    bridge = bridged(lab.rig("cameras", {"EXPINFO": gate}))
    first, second = (socket(zmq.REQ, bridge.rep) for _ in range(2))
    first.send_json({"push": "EXPINFO"})
    assert gate.reached.wait(LONG)
    assert "1 messages and commands are under way already" in ask(second, {"push": "EXPINFO"})["error"]
    gate.open.set()
    assert "outcomes" in first.recv_json()


def test_an_answer_that_is_awaited_while_the_bridge_closes(
    lab: Lab, connect: Callable[..., Any], socket: Callable[..., zmq.Socket[bytes]], gate: Gate
) -> None:
    aux = connect(lab.rig("cameras", {"EXPINFO": gate}))
    with ZmqBridge(aux, ANY, ANY) as bridge:
        req = socket(zmq.REQ, bridge.rep)
        req.send_json({"push": "EXPINFO"})
        assert gate.reached.wait(LONG)
    assert req.recv_json() == {"error": "the bridge closes before the outcome is known"}


# ------------------------------------------------------------------------------------------------------- published


def test_events_are_published_by_type_and_rig_with_consecutive_numbers(
    lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]]
) -> None:
    bridge = bridged(lab.rig("cameras"))
    sub = subscribed(socket, bridge)
    numbers: list[int] = []
    bridge.lab.hub.ingest(Lick(["x" * 70_000], rig="large"))
    for _ in range(20):
        bridge.lab.hub.ingest(Lick([7], rig="ephys"))
    while len(numbers) < 25:
        topic, data = sub.recv_multipart()
        told = json.loads(data)
        if topic != b"beat.":
            assert topic.decode() == f"{told['type']}.{told['rig'] or ''}"
            numbers.append(told["sequence"])
        if told.get("type") == "LickOfTheZmqTest":
            payload = {"left_out": ["payload"]} if told["rig"] == "large" else {"payload": [7]}
            assert told["fields"] == payload
    assert numbers == [*range(numbers[0], numbers[0] + 25)]


def test_who_subscribes_to_a_topic_hears_that_alone(
    lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]]
) -> None:
    bridge = bridged(lab.rig("cameras"), lab.rig("ephys"))
    sub = socket(zmq.SUB, bridge.pub, "LickOfTheZmqTest.cameras")
    sub.subscribe("beat.")
    assert sub.recv_multipart()[0] == b"beat."
    for rig in ("ephys", "cameras"):
        bridge.lab.hub.ingest(Lick(1, rig=rig))
    topic = b"beat."
    while topic == b"beat.":
        topic, _ = sub.recv_multipart()
    assert topic == b"LickOfTheZmqTest.cameras"


JOINING = """
seen = []
for told in events(*sys.argv[1:3]):
    if "type" not in told:
        print("views", *told, flush=True)
    elif told["type"] == "LickOfTheZmqTest":
        seen.append(told["fields"]["payload"])
        if told["rig"] == "slow" and len(seen) % 1000 == 1:
            time.sleep(0.1)
        if seen[-1] == int(sys.argv[3]) - 1:
            break
print(*seen)
"""


@contextlib.contextmanager
def joining(bridge: ZmqBridge, count: int) -> Iterator[subprocess.Popen[str]]:
    """Run what the page says in another process, until it has heard the last of so many events."""
    program = "import sys, time\n" + SUBSCRIBER + JOINING
    command = [sys.executable, "-W", "error", "-c", program, bridge.pub, bridge.rep, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(2 * LONG, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            watchdog.join()
            process.kill()


def seen_by(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout
    return list(map(int, process.stdout.readline().split()))


@pytest.mark.parametrize("room", [None, 5], ids=["usual", "most are dropped on the way"])
def test_a_subscriber_in_another_process_that_joins_in_the_middle_misses_none_and_gets_none_twice(
    lab: Lab, bridged: Callable[..., ZmqBridge], monkeypatch: pytest.MonkeyPatch, room: int | None
) -> None:
    if room:
        monkeypatch.setattr(sockets_module, "WAITING", room)
    count = 5000
    bridge = bridged(lab.rig("cameras"))
    hub = bridge.lab.hub
    with joining(bridge, count) as process:
        assert process.stdout
        number = 0
        joined: list[str] = []
        reader = threading.Thread(target=lambda: joined.append(process.stdout.readline() if process.stdout else ""))
        reader.start()
        while number < count - 2000 and not joined:  # the middle is where it joins
            hub.ingest(Lick(number, rig="slow"))
            number += 1
            reader.join(0.002)
        reader.join(LONG)
        assert joined == ["views cameras\n"]
        for rest in range(number, count):
            hub.ingest(Lick(rest, rig="slow"))
        seen = seen_by(process)
    assert seen == [*range(seen[0], count)]
    assert seen[0] <= number
    assert bridge.counts["gone"] == 0


def test_what_is_missed_last_of_all_is_known_by_the_beat(
    lab: Lab,
    bridged: Callable[..., ZmqBridge],
    socket: Callable[..., zmq.Socket[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bridge = bridged(lab.rig("cameras"))
    req, sub = socket(zmq.REQ, bridge.rep), subscribed(socket, bridge)
    place = ask(req, {"snapshot": True})
    publish = bridge._sockets.publish
    monkeypatch.setattr(
        bridge._sockets, "publish", lambda topic, data: publish(topic, data) if topic[:4] != b"Lick" else None
    )
    bridge.lab.hub.ingest(Lick("lost on the way"))
    told = [json.loads(sub.recv_multipart()[1]) for _ in range(20)]
    assert any(one["sequence"] > place["sequence"] and "type" not in one for one in told)
    missed = ask(req, {"snapshot": {"run": place["run"], "sequence": place["sequence"]}})
    assert "lost on the way" in [event["fields"].get("payload") for event in missed["events"]]
    assert "views" not in missed


@pytest.mark.parametrize("run", ["its own", "another"])
def test_who_has_missed_more_than_is_kept_or_knew_another_bridge_begins_anew(
    lab: Lab,
    bridged: Callable[..., ZmqBridge],
    socket: Callable[..., zmq.Socket[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    run: str,
) -> None:
    monkeypatch.setattr(history_module, "MOST_KEPT", 10)
    bridge = bridged(lab.rig("cameras"))
    req = socket(zmq.REQ, bridge.rep)
    first = ask(req, {"snapshot": True})
    assert [*first["views"]] == ["cameras"]
    for number in range(30 if run == "its own" else 5):
        bridge.lab.hub.ingest(Lick(number))
    until(lambda: bridge._history.sequence >= first["sequence"] + (30 if run == "its own" else 5))
    place = {"run": first["run"] if run == "its own" else run, "sequence": first["sequence"]}
    found = ask(req, {"snapshot": place})
    assert ([*found["views"]], found["events"], found["run"]) == (["cameras"], [], first["run"])
    assert bridge.counts["gone"] == (run == "its own")
    assert ("no longer kept; it gets the views instead" in caplog.text) == (run == "its own")


KILLED = """
import sys, zmq
context = zmq.Context()
subs = [context.socket(zmq.SUB) for _ in range(50)]
for sub in subs:
    sub.subscribe("")
    sub.connect(sys.argv[1])
for sub in subs:
    sub.recv_multipart()
print("all hear", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="counts descriptors")
def test_killed_subscribers_leave_no_trace(lab: Lab, bridged: Callable[..., ZmqBridge]) -> None:
    bridge = bridged(lab.rig("cameras"))
    this = psutil.Process()
    before = this.num_fds()
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, bridge.pub], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "all hear\n"
            assert this.num_fds() >= before + 50
        finally:
            process.kill()
    for number in range(100):
        bridge.lab.hub.ingest(Lick(number))
    until(lambda: this.num_fds() <= before)


# ------------------------------------------------------------------------------------------------------------ keys


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Any]:
    """Make a pair of keys; return the file of the secret one, and both."""

    def make(name: str) -> Any:
        _, secret = zmq.auth.create_certificates(tmp_path, name)
        os.chmod(secret, 0o600)
        return secret, *zmq.auth.load_certificate(secret)

    return make


def test_with_keys_only_those_who_are_named_connect(
    lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]], keys: Callable[[str], Any]
) -> None:
    file, server, _ = keys("bridge")
    (_, public, secret), (_, other, others) = keys("task"), keys("stranger")
    bridge = bridged(lab.rig("cameras"), curve={"secret_key": file, "clients": [public.decode()]})
    for wrong in ({"curve_publickey": other, "curve_secretkey": others, "curve_serverkey": server}, {}):
        strangers = [socket(kind, uri, **wrong) for kind, uri in ((zmq.REQ, bridge.rep), (zmq.SUB, bridge.pub))]
        strangers[0].send_json({"push": "EXPINFO"})
    until(lambda: bridge.counts["turned away"])
    good = {"curve_publickey": public, "curve_secretkey": secret, "curve_serverkey": server}
    assert ask(socket(zmq.REQ, bridge.rep, **good), {"push": "EXPINIT", "args": [REFERENCE]})["outcomes"]
    assert heard(socket(zmq.SUB, bridge.pub, **good), "beat")
    assert all(not stranger.poll(0) for stranger in strangers)
    assert lab.verbs("cameras") == ["EXPINIT"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_secret_key_that_others_may_read_is_refused(connect: Callable[..., Any], keys: Callable[[str], Any]) -> None:
    file, public, _ = keys("bridge")
    os.chmod(file, 0o640)
    with pytest.raises(ConfigError, match=rf"others may read the secret key {re.escape(file)}: chmod 600 "):
        ZmqBridge(connect(), ANY, ANY, {"secret_key": file, "clients": [public.decode()]})


@pytest.mark.parametrize(
    ("file", "clients", "told"),
    [
        ("no_such_file", ["k" * 40], "the secret key .*no_such_file cannot be read: "),
        ("bridge.key", ["k" * 40], "curve lacks the secret key, which .*bridge.key does not have"),
        ("bridge.key_secret", [], "curve lacks a client's key"),
        ("bridge.key_secret", ["k" * 39], "is a malformed key: a key has 40 characters"),
        ("bridge.key_secret", ["~" * 40], "is a malformed key: a key has 40 characters"),
    ],
)
def test_what_is_no_key_is_told(
    connect: Callable[..., Any],
    keys: Callable[[str], Any],
    tmp_path: Path,
    file: str,
    clients: list[str],
    told: str,
) -> None:
    keys("bridge")
    for each in tmp_path.iterdir():
        os.chmod(each, 0o600)
    with pytest.raises(ConfigError, match=told):
        ZmqBridge(connect(), ANY, ANY, {"secret_key": tmp_path / file, "clients": clients})


# ------------------------------------------------------------------------------------------- its beginning and end


def test_a_coordinator_has_one_on_its_own_loop(lab: Lab, socket: Callable[..., zmq.Socket[bytes]]) -> None:
    lab.rig("cameras")

    async def main() -> None:
        async with Coordinator(lab.uris) as coordinator, ZmqBridge(coordinator, ANY, ANY) as bridge:
            req, loop = socket(zmq.REQ, bridge.rep), asyncio.get_running_loop()
            for _ in range(3):
                found = await loop.run_in_executor(None, ask, req, {"push": "EXPINFO"})
                assert found["outcomes"]["cameras"]["ok"]

    run(main)


@pytest.mark.parametrize("option", ["pub", "rep"])
def test_a_port_that_is_in_use_is_told_with_who_uses_it(lab: Lab, connect: Callable[..., Any], option: str) -> None:
    aux = connect(lab.rig("cameras"))
    with ZmqBridge(aux, ANY, ANY) as bridge:
        options = {"pub": ANY, "rep": ANY, option: getattr(bridge, option)}
        with pytest.raises(ListenError, match=r"ZeroMQ cannot listen on tcp://.*: port \d+ is in use"):
            ZmqBridge(aux, **options).__enter__()
    with ZmqBridge(aux, **options) as again:  # all is closed
        assert getattr(again, option) == options[option]


@pytest.mark.parametrize(
    "text", ["udp://127.0.0.1:5555", "tcp://localhost:5555", "tcp://127.0.0.1", "tcp://*:5555", "5555"]
)
def test_what_is_no_address_is_told_with_what_one_is(connect: Callable[..., Any], text: str) -> None:
    for option in ("pub", "rep"):
        with pytest.raises(ConfigError, match=r"is not where ZeroMQ can listen.*such as tcp://127.0.0.1:5555"):
            ZmqBridge(connect(), **{option: text})


def test_it_says_so_where_it_listens_beyond_this_computer_without_keys(
    lab: Lab, bridged: Callable[..., ZmqBridge], caplog: pytest.LogCaptureFixture, keys: Callable[[str], Any]
) -> None:
    cameras = lab.rig("cameras")
    bridged(cameras)
    file, public, _ = keys("bridge")
    bridged(cameras, rep="tcp://0.0.0.0:0", curve={"secret_key": file, "clients": [public.decode()]})
    assert "beyond" not in caplog.text
    bridge = bridged(cameras, rep="tcp://0.0.0.0:0")
    assert f"listens on {bridge.rep}, beyond this computer and without keys: whoever reaches" in caplog.text
    assert caplog.text.count("beyond") == 1
    assert {bridge_module.PUB, bridge_module.REP} == {"tcp://127.0.0.1:5556", "tcp://127.0.0.1:5555"}


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_ipv6(lab: Lab, bridged: Callable[..., ZmqBridge], socket: Callable[..., zmq.Socket[bytes]]) -> None:
    bridge = bridged(lab.rig("cameras"), rep=f"tcp://[::1]:{free_port('::1', 'tcp')}")
    assert "cameras" in ask(socket(zmq.REQ, bridge.rep, ipv6=True), {"views": True})["views"]
    assert port_of(bridge.rep)
