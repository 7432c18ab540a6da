"""Each fault that the doctor knows, provoked with real sockets, processes and networks."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Command, environment
from live_helpers import RawRig, in_thread, silent_rig
from networks import HERE, THERE, Lab, lab
from processes import LONG, PROBE_WARNING, IblutilServer, free_port, until

import rigsync
from rigsync import Rig
from rigsync.config.rigs import Rigs, rigs_from
from rigsync.coordinator.view import clock_text
from rigsync.core import messages
from rigsync.core.arguments import compose
from rigsync.core.clock import StampClock
from rigsync.core.health import Health
from rigsync.core.responder import Responder
from rigsync.core.stream import StreamDecoder
from rigsync.doctor.doctor import BURST, BURST_INTERVAL, ECHO_BURST, SIZES, Diagnosis, diagnose
from rigsync.doctor.evidence import Evidence, Told
from rigsync.doctor.findings import Fault, Finding, judge
from rigsync.net import udp
from rigsync.net.interfaces import own_interfaces

__all__ = ["lab"]  # a fixture

pytestmark = pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")

REFERENCE = "2026-01-31_1_mouse"

LINGER = struct.Struct("HH" if sys.platform == "win32" else "ii")  # struct linger: on, for 0 s

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the whole of 127.0.0.0/8")


def examine(**rigs: Any) -> dict[str, Diagnosis]:
    return diagnose(rigs_from(rigs))


def finding_of(diagnosis: Diagnosis, fault: Fault) -> Finding:
    (finding,) = diagnosis.findings
    assert finding.fault is fault, finding
    assert finding.seen
    assert finding.meaning
    assert finding.remedies
    return finding


def only(found: dict[str, Any], fault: Fault) -> dict[str, Any]:
    """Return the one finding in the document of one rig."""
    (finding,) = found["findings"]
    assert finding["fault"] == fault.value, finding
    return dict(finding)


class Answering:
    """A UDP socket that answers each datagram as told, with bytes and the socket that sends them.

    Parameters
    ----------
    answer : callable
        Called with each datagram; returns the answer, None for none.
    sender : socket, optional
        What sends it; by default the socket that was asked.
    """

    def __init__(self, answer: Callable[[bytes], bytes | None], sender: socket.socket | None = None):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.02)
        self.uri = f"udp://127.0.0.1:{self.socket.getsockname()[1]}"
        self.received: list[tuple[bytes, Any]] = []
        self._answer, self._sender = answer, sender or self.socket
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                data, source = self.socket.recvfrom(65_535)
                self.received.append((data, source))
                if (answer := self._answer(data)) is not None:
                    self._sender.sendto(answer, source)

    def __enter__(self) -> Answering:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(LONG)
        self.socket.close()


class ShiftedRig(Rig):
    """A rig whose clock is off by some seconds."""

    shift = 0.0

    def _make_responder(self, handled: Any, timing: Any, boot: str, stamps: StampClock) -> Responder:
        now = time.monotonic()
        shifted = StampClock(stamps.stamp(now) + round(self.shift * 1e9), now)
        return super()._make_responder(handled, timing, boot, shifted)


@pytest.fixture
def shifted() -> Iterator[Callable[..., str]]:
    """Start rigs whose clocks are off; gives the URI."""
    with contextlib.ExitStack() as stack:

        def start(name: str, shift: float, scheme: str = "udp") -> str:
            rig = ShiftedRig(name, f"{scheme}://127.0.0.1:0")
            rig.shift = shift
            return stack.enter_context(rig).uri

        yield start


# ------------------------------------------------------------------------------------------------------- all well


def test_a_rig_with_which_all_is_well(serve: Callable[..., Any]) -> None:
    rig = serve("cameras")
    found = examine(cameras=rig.uri)["cameras"]
    assert found.findings == ()
    evidence = found.evidence
    assert (evidence.dialect.value, evidence.probes, evidence.answers) == ("rigsync", BURST, BURST)
    assert evidence.alive
    assert (evidence.alive.name, evidence.alive.version) == ("cameras", rigsync.__version__)
    assert evidence.clock
    assert abs(evidence.clock.offset) < 1
    assert 0 < (evidence.round_trip or 0) < LONG
    assert evidence.largest == SIZES[-1]


def test_no_handler_runs_and_no_experiment_is_disturbed(serve: Callable[..., Any], connect: Callable[..., Any]) -> None:
    ran: list[str] = []
    rig = serve("cameras", {name: lambda *_, name=name: ran.append(name) for name in rigsync.ExpMessage.__members__})
    task = connect(rig)
    task.request("EXPINIT", {"exp_ref": REFERENCE})
    task.request("EXPSTART", REFERENCE)
    (diagnosis,) = examine(cameras=rig.uri).values()
    assert diagnosis.findings == ()  # the coordinator in charge is on this computer
    assert diagnosis.evidence.owner == "127.0.0.1"
    task.request("EXPEND")
    assert ran == ["EXPINIT", "EXPSTART", "EXPEND"]


def has_taken(rig: Rig, failures: int) -> None:
    """Wait until a rig knows of so many failures: its loop may be reading, and answers before it takes a notice."""
    assert rig._session
    health = rig._session.responder.agenda.health
    until(lambda: len(health._failures) == failures)


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_rig_that_is_not_well(serve: Callable[..., Any], connect: Callable[..., Any], scheme: str) -> None:
    rig = serve("cameras", scheme=scheme)
    task = connect(rig)
    task.request("EXPINIT", {"exp_ref": REFERENCE})
    task.request("EXPSTART", REFERENCE)
    for key in ("left", "right"):
        rig.notify("failure", {"problem": f"{key}.mp4 has stopped growing", "exp_ref": REFERENCE}, key=key)
    rig.progress("left", 3)  # it has the key of a failure
    has_taken(rig, 2)
    finding = finding_of(look(rig.uri), Fault.UNWELL)
    since = r"since \d\d:\d\d:\d\d: {}\.mp4 has stopped growing"
    assert re.fullmatch(f"{since.format('left')}; {since.format('right')}", finding.seen)
    assert "$ rigsync push EXPCLEANUP --to cameras" in finding.remedies
    rig.notify("recovered", None, key="left")
    rig.interrupt("the recorder has died")
    until(lambda: rig.status is rigsync.ExpStatus.STOPPED)
    finding = finding_of(look(rig.uri), Fault.UNWELL)
    assert "left" not in finding.seen
    assert finding.seen.endswith("it has stopped by itself: the recorder has died")
    rig.notify("failure", {"problem": "the recorder has died", "exp_ref": REFERENCE}, key="ffmpeg")
    has_taken(rig, 2)
    finding = finding_of(look(rig.uri), Fault.UNWELL)
    assert finding.seen.count("the recorder has died") == 1
    assert finding.seen.endswith("it has stopped by itself for that")
    task.request("EXPCLEANUP")
    assert look(rig.uri).findings == ()


def test_a_failure_is_as_old_as_the_rig_says_and_a_repeat_is_no_news() -> None:
    told, now = Told(), 1_800_000_000.0
    for n, body, at in (
        (3, {"problem": "stalled", "age": 100.0}, now),
        (3, {"problem": "stalled"}, now + 50.0),
        (4, {"problem": "two\nlines"}, now + 7.0),
        (5, {"problem": "no such age", "age": 10**600}, now + 8.0),
    ):
        told.receive(messages.Notice("0" * 16, n, "failure", f"key {n}", body, True), at)
    assert told.problems == [
        f"since {clock_text(now - 100.0)}: stalled",
        f"since {clock_text(now + 7.0)}: lines | two",
        f"since {clock_text(now + 8.0)}: no such age",
    ]


def test_a_rig_that_does_not_tell_what_is_wrong(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigsync.core.coordinators.WATCHERS", 0)  # others watch already, as many as there may be
    rig = serve("cameras")
    for key in ("left", "right"):
        rig.notify("failure", {"problem": f"{key}.mp4 has stopped growing"}, key=key)
    has_taken(rig, 2)
    finding = finding_of(examine(cameras=rig.uri)["cameras"], Fault.UNWELL)
    assert finding.seen == "the rig says that 2 things are wrong, and has not told what"


def test_a_rig_of_the_version_before_is_unwell_by_what_it_tells(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Health, "troubles", 0)  # of which it says nothing
    rig = serve("cameras")
    rig.notify("failure", "left.mp4 has stopped growing", key="left")
    has_taken(rig, 1)
    finding = finding_of(examine(cameras=rig.uri)["cameras"], Fault.UNWELL)
    assert finding.seen.endswith(": left.mp4 has stopped growing")


def findings_of(name: str, *told: Any) -> dict[Fault, Finding]:
    """Return what is found of an answer, of a rig at an address of some other computer."""
    config = rigs_from({"cameras": "udp://10.9.9.9"}).rigs["cameras"]
    alive = messages.Alive("0" * 16, 1, 0, 0, 0, name, rigsync.ExpStatus.RUNNING, REFERENCE, rigsync.__version__, *told)
    evidence = Evidence(config, probes=1, answers=1, alive=alive)
    return {finding.fault: finding for finding in judge(evidence, [evidence])}


def test_a_second_coordinator_that_is_silent_and_when_the_rig_interrupts() -> None:
    finding = findings_of("cameras", "10.9.9.8", None, 170_000, 130_000)[Fault.SECOND_COORDINATOR]
    assert finding.seen.endswith(f"experiment {REFERENCE} (RUNNING), and has been silent for 2 min 50 s")
    assert finding.meaning.endswith("has crashed, the rig interrupts by itself in 2 min 10 s")
    finding = findings_of("cameras", "10.9.9.8")[Fault.SECOND_COORDINATOR]
    assert finding.seen.endswith(f"experiment {REFERENCE} (RUNNING)")
    assert "after its lease (300 s, unless its program says otherwise)" in finding.meaning


def test_what_is_wrong_with_another_rig_at_that_address_is_not_said_of_this_one() -> None:
    assert list(findings_of("cameras", None, 1)) == [Fault.UNWELL]
    assert list(findings_of("ephys", None, 1)) == [Fault.WRONG_RIG]


def test_an_iblutil_rig_is_asked_once_and_nothing_large(connect: Callable[..., Any]) -> None:
    with IblutilServer("cameras", held=["EXPINFO"]) as rig:
        task = connect({"cameras": rig.uri})
        asked = in_thread(task.push, "EXPINFO", "CONNECTED", wait=True)
        until(lambda: rig.calls == ["EXPINFO"])  # its echo is out, its answer is not
        (diagnosis,) = examine(cameras=rig.uri).values()
        rig.let_go()
        assert list(asked.result(LONG)) == ["cameras"]
        assert rig.is_connected
        assert rig.calls == ["EXPINFO"]
        assert rig.errors == []
    assert diagnosis.findings == ()
    assert diagnosis.evidence.dialect.value == "iblutil"
    assert diagnosis.evidence.largest is None


def test_what_an_iblutil_rig_gets_is_short_and_little() -> None:
    with Answering(lambda data: data) as rig:
        examine(cameras=rig.uri)
        assert len(rig.received) < BURST  # no more once it has answered
        assert max(len(data) for data, _ in rig.received) < 300


def test_a_rig_hears_goodbye_so_that_it_keeps_no_notices() -> None:
    with RawRig() as rig:
        examine(cameras=rig.uri)
        until(lambda: "Bye" in rig.sources)


def test_many_rigs_are_examined_at_the_same_time(serve: Callable[..., Any]) -> None:
    with contextlib.ExitStack() as stack:
        rigs = {f"closed{i}": f"udp://127.0.0.1:{free_port()}" for i in range(100)}
        for i in range(100):
            rigs.update(stack.enter_context(silent_rig(f"silent{i}")))
        rigs["cameras"] = serve("cameras").uri
        begun = time.monotonic()
        found = diagnose(_distinct(rigs))
        assert time.monotonic() - begun < LONG
    assert found["cameras"].findings == ()
    faults = [diagnosis.findings[0].fault for name, diagnosis in found.items() if name != "cameras"]
    assert set(faults) == {Fault.CLOSED_PORT, Fault.SILENCE}
    assert faults.count(Fault.SILENCE) == 100


def _distinct(rigs: dict[str, str]) -> Rigs:
    """Leave out rigs that have got the port of another."""
    by_uri = {uri: name for name, uri in rigs.items()}
    return rigs_from({name: uri for uri, name in by_uri.items()})


# ------------------------------------------------------------------------------------------------- it is not there


def test_a_name_that_does_not_resolve() -> None:
    finding = finding_of(examine(cameras="nowhere.invalid")["cameras"], Fault.UNKNOWN_NAME)
    assert finding.seen.startswith("the name nowhere.invalid does not resolve: ")
    assert "$ ping nowhere.invalid" in finding.remedies


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        released.wait(LONG)
        raise OSError("too late")

    monkeypatch.setattr("rigsync.doctor.doctor.LOOK_UP_TIMEOUT", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr("socket.getaddrinfo", hang)
        finding = finding_of(examine(cameras="some.lab")["cameras"], Fault.UNKNOWN_NAME)
        released.set()
    assert "no name server has answered" in finding.seen


def test_the_doctor_does_not_hear_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Towards a port of this machine the system may choose that very port."""
    port = free_port()

    def at_the_rigs_port(family: int) -> socket.socket:
        sock = udp_socket(family)
        with contextlib.suppress(OSError):  # another of the doctor's has it
            sock.bind(("127.0.0.1", port))
        return sock

    udp_socket = udp.udp_socket
    monkeypatch.setattr(udp, "udp_socket", at_the_rigs_port)
    finding_of(examine(cameras=f"127.0.0.1:{port}")["cameras"], Fault.CLOSED_PORT)


def test_a_closed_port() -> None:
    port = free_port()
    finding = finding_of(examine(cameras=f"127.0.0.1:{port}")["cameras"], Fault.CLOSED_PORT)
    assert f"the host of 127.0.0.1:{port} is up and nothing listens" in finding.seen
    assert "this address is this computer's own" in finding.meaning
    assert not [remedy for remedy in finding.remedies if "firewall" in remedy]


@pytest.mark.parametrize(("here", "there"), [("tcp", "udp"), ("udp", "tcp")])
def test_a_rig_that_answers_by_the_other_protocol(serve: Callable[..., Any], here: str, there: str) -> None:
    uri = serve("cameras", scheme=here).uri
    wrong = uri.replace(here, there)
    rigs = rigs_from({"cameras": {"uri": wrong, "dialect": "rigsync"}})
    finding = finding_of(diagnose(rigs)["cameras"], Fault.OTHER_SCHEME)
    assert finding.seen == f"nothing answers at {wrong}, and the rig does at {uri}"
    assert finding.remedies[0] == f"correct the file of rigs: cameras: {uri}"


def test_another_rig_at_the_port_of_the_other_protocol_is_not_meant(serve: Callable[..., Any]) -> None:
    uri = serve("ephys").uri
    finding_of(look(uri.replace("udp://", "")), Fault.CLOSED_PORT)


def test_no_connection_is_opened_to_see_whether_an_iblutil_rig_is_there_on_tcp() -> None:
    with Taking() as rig:
        wrong = rig.uri.removeprefix("tcp://")
        finding_of(examine(cameras=wrong)["cameras"], Fault.CLOSED_PORT)
        assert not rig.was_called()
        diagnose(rigs_from({"cameras": wrong}), idle=True)
        assert rig.was_called()


def test_silence_of_a_program_that_hangs() -> None:
    with silent_rig("cameras") as rigs:
        finding = finding_of(diagnose(rigs_from(rigs))["cameras"], Fault.SILENCE)
        port = rigs["cameras"].rpartition(":")[2]
    assert f"no answer from 127.0.0.1:{port} to {BURST} probes" in finding.seen
    commands = [remedy for remedy in finding.remedies if remedy.startswith("$ ")]
    rule = f'name="rigsync {port}" dir=in action=allow protocol=UDP localport={port}'
    assert f"$ netsh advfirewall firewall add rule {rule}" in commands
    assert f"$ sudo ufw allow {port}/udp" in commands
    assert f"$ sudo firewall-cmd --permanent --add-port={port}/udp && sudo firewall-cmd --reload" in commands


def test_a_rig_that_answers_late_is_there() -> None:
    received: list[bytes] = []

    def answer(data: bytes) -> bytes | None:
        received.append(data)
        return data if len(received) > BURST else None  # from the second burst on

    with Answering(answer) as rig:
        (diagnosis,) = examine(cameras=rig.uri).values()
    assert diagnosis.findings == ()
    assert diagnosis.evidence.dialect.value == "iblutil"


def test_an_iblutil_rig_that_went_deaf() -> None:
    with IblutilServer("cameras") as rig:
        rigs = rigs_from({"cameras": {"uri": rig.uri, "dialect": "iblutil"}})
        assert diagnose(rigs)["cameras"].findings == ()
        rig.go_deaf()
        finding = finding_of(diagnose(rigs)["cameras"], Fault.DEAF)
        assert "closes its socket for good after a lost or late echo" in finding.meaning
        assert finding.remedies[0].startswith("restart the rig's program")
        finding = finding_of(examine(cameras=rig.uri)["cameras"], Fault.CLOSED_PORT)  # nobody knows what it spoke
        assert any("gone deaf" in remedy for remedy in finding.remedies)


def test_an_iblutil_rig_that_is_said_to_be_one_gets_the_same_bytes_only() -> None:
    with Answering(lambda _: None) as rig:
        diagnose(rigs_from({"cameras": {"uri": rig.uri, "dialect": "iblutil"}}))
        by_source: dict[Any, set[bytes]] = {}
        for data, source in rig.received:
            by_source.setdefault(source, set()).add(data)
        assert all(len(different) == 1 for different in by_source.values())
        assert len(rig.received) <= len(by_source) * ECHO_BURST


# ------------------------------------------------------------------------------------------ it is somewhere else


def test_an_answer_from_another_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with Answering(lambda data: data, other) as rig:
            finding = finding_of(examine(cameras=rig.uri)["cameras"], Fault.OTHER_ADDRESS)
    assert finding.seen == f"asked at {rig.uri[6:]}, and the answer came from 127.0.0.1:{port}"
    assert "relay" in finding.meaning


@needs_linux
def test_an_answer_from_another_address() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        port = other.getsockname()[1]
        with Answering(lambda data: data, other) as rig:
            finding = finding_of(examine(cameras=rig.uri)["cameras"], Fault.OTHER_ADDRESS)
    assert "several addresses" in finding.meaning
    assert finding.remedies[0].endswith(f"cameras: udp://127.0.0.2:{port}")
    assert rig.uri in finding.remedies[1]


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "an address to listen"),
        ("255.255.255.255", "the broadcast address"),
        ("224.0.0.7", "a multicast address"),
        ("169.254.7.7", "an address that a computer gives itself"),
    ],
)
def test_an_address_at_which_no_rig_can_be(address: str, kind: str) -> None:
    finding = finding_of(examine(cameras=f"{address}:{free_port()}")["cameras"], Fault.WRONG_INTERFACE)
    assert finding.seen.startswith(f"{address} is {kind}")


def test_two_names_of_one_rig(serve: Callable[..., Any]) -> None:
    rig = serve("cameras")
    port = rig.uri.rpartition(":")[2]
    found = examine(cameras=rig.uri, ephys=f"localhost:{port}")
    for name, other in (("cameras", "ephys"), ("ephys", "cameras")):
        finding = finding_of(found[name], Fault.SAME_ADDRESS)
        assert finding.seen == f"it has the same address as {other}: 127.0.0.1:{port}"


def test_this_computers_interfaces_are_known() -> None:
    loopback = [own for own in own_interfaces() if str(own.address) == "127.0.0.1/8"]
    assert len(loopback) == 1
    assert loopback[0].name.startswith("lo") or sys.platform == "win32"


# ---------------------------------------------------------------------------------------------- it does not match


def test_a_rig_of_another_version(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]) -> None:
    monkeypatch.setattr("rigsync.rig.rig.__version__", "9.7.1")
    finding = finding_of(examine(cameras=serve("cameras").uri)["cameras"], Fault.VERSION)
    assert finding.seen == f"the rig has rigsync 9.7.1, this computer {rigsync.__version__}"
    assert "$ pip install --upgrade rigsync" in finding.remedies


def test_a_patch_of_the_same_version_matches(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]) -> None:
    series = rigsync.__version__.rpartition(".")[0]
    monkeypatch.setattr("rigsync.rig.rig.__version__", f"{series}.99")
    assert examine(cameras=serve("cameras").uri)["cameras"].findings == ()


def test_a_rig_of_another_version_of_the_protocol() -> None:
    with Answering(lambda data: data.replace(b'"rigsync":1', b'"rigsync":2')) as rig:
        finding = finding_of(examine(cameras=rig.uri)["cameras"], Fault.VERSION)
    assert "version 2 of the dialect, this side speaks 1" in finding.seen


@pytest.mark.parametrize("junk", [b"\x00\x01hello", b"{}", b"[99]", b'{"rigsync":1'])
def test_something_else_at_the_address(junk: bytes) -> None:
    with Answering(lambda _: junk) as rig:
        finding = finding_of(examine(cameras=rig.uri)["cameras"], Fault.VERSION if junk == b"{}" else Fault.NOT_A_RIG)
    assert "another" in finding.seen + finding.meaning


def test_an_iblutil_rig_that_is_said_to_speak_rigsync() -> None:
    with IblutilServer("cameras") as rig:
        found = diagnose(rigs_from({"cameras": {"uri": rig.uri, "dialect": "rigsync"}}))
    finding_of(found["cameras"], Fault.DIALECT)


# -------------------------------------------------------------------------------------------------- whose clock it is


@pytest.mark.parametrize(("shift", "words"), [(90.0, "90.000 s ahead of"), (-2.0, "2.000 s behind")])
def test_a_clock_that_is_off_while_no_third_one_tells(
    shifted: Callable[[str, float], str], shift: float, words: str
) -> None:
    finding = finding_of(examine(cameras=shifted("cameras", shift))["cameras"], Fault.CLOCK)
    assert finding.seen == f"the rig's clock is {words} this computer's; no third clock tells which of the two is off"
    assert {"$ w32tm /resync", "$ sudo timedatectl set-ntp true"} < set(finding.remedies)


def test_a_clock_that_is_off_by_less_than_a_second(shifted: Callable[[str, float], str]) -> None:
    assert examine(cameras=shifted("cameras", 0.9))["cameras"].findings == ()


def test_a_third_clock_tells_that_the_rigs_is_off(shifted: Callable[[str, float], str]) -> None:
    found = examine(cameras=shifted("cameras", 90), ephys=shifted("ephys", 0.1))
    assert found["ephys"].findings == ()
    finding = finding_of(found["cameras"], Fault.CLOCK)
    assert "the rig's is off" in finding.seen
    assert finding.remedies[0].startswith("have the rig's computer set by a time server")


def test_a_third_clock_tells_that_this_computers_is_off(shifted: Callable[[str, float], str]) -> None:
    found = examine(cameras=shifted("cameras", 90), ephys=shifted("ephys", 90.2))
    for name in ("cameras", "ephys"):
        assert "this computer's is off" in finding_of(found[name], Fault.CLOCK).seen


def test_a_system_clock_that_is_off(tmp_path: Path) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("there is no libfaketime (package libfaketime)")
    faked = {"LD_PRELOAD": str(library), "FAKETIME": "+90s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    arguments = ["serve", "cameras", "--uri", "udp://127.0.0.1:0", "--json"]
    with Command(arguments, tmp_path, environment(tmp_path, **faked)) as rig:
        found = examine(cameras=json.loads(rig.line())["listening"])["cameras"]
    clock = found.evidence.clock
    assert clock
    assert abs(clock.offset - 90) < 0.5
    finding_of(found, Fault.CLOCK)


# --------------------------------------------------------------------------------------------- somebody else's rig


@needs_linux
@pytest.mark.parametrize(
    ("reference", "command"),
    [
        (REFERENCE, f'$ rigsync push EXPINIT \'{{"exp_ref": "{REFERENCE}", "takeover": true}}\' --to \'left camera\''),
        ("'; reboot", '$ rigsync push EXPINIT \'{"exp_ref": "REFERENCE", "takeover": true}\' --to \'left camera\''),
    ],
)
def test_a_second_coordinator_in_charge(serve: Callable[..., Any], reference: str, command: str) -> None:
    rig = serve("left camera")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as owner:
        owner.bind(("127.0.0.2", 0))
        owner.settimeout(LONG)
        host, _, port = rig.uri[6:].rpartition(":")
        owner.sendto(messages.request("c" * 16, 1, compose("EXPINIT", {"exp_ref": reference})), (host, int(port)))
        assert isinstance(messages.decode(owner.recv(65_535)), messages.Notice | messages.Reply)
        finding = finding_of(examine(**{"left camera": rig.uri})["left camera"], Fault.SECOND_COORDINATOR)
    assert finding.seen == f"the computer 127.0.0.2 is in charge of the rig's experiment {reference} (INITIALIZED)"
    assert "BusyError" in finding.meaning
    assert command in finding.remedies
    assert "$ rigsync push EXPINTERRUPT --to 'left camera'" in finding.remedies


def test_advice_for_a_second_coordinator_can_be_followed(lab: Lab) -> None:
    lab.serve()
    # A coordinator on the rig's own computer, which says no goodbye: another host than the task's, for the rig.
    script = (
        "import os, rigsync\n"
        f"aux = rigsync.Auxiliaries({{'cameras': 'udp://127.0.0.1'}})\n"
        f"aux.request('EXPINIT', {{'exp_ref': '{REFERENCE}'}})\n"
        "os._exit(0)"
    )
    lab.run(lab.rig, "env", f"PYTHONPATH={Path(rigsync.__file__).parents[1]}", sys.executable, "-c", script)
    finding = only(lab.doctor(cameras=THERE)["cameras"], Fault.SECOND_COORDINATOR)
    assert f"the rig's own computer (127.0.0.1) is in charge of the rig's experiment {REFERENCE}" in finding["seen"]
    (command,) = [remedy for remedy in finding["remedies"] if "takeover" in remedy]
    pushed = lab.start(lab.pc, *shlex.split(command)[2:]).outcome()
    assert pushed.status == 0, pushed


# ------------------------------------------------------------------------------------------------ padded probes


def test_no_answer_is_longer_than_the_probe(serve: Callable[..., Any]) -> None:
    rig = serve("c" * 100)
    host, _, port = rig.uri[6:].rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LONG)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.connect((host, int(port)))

        def answer(data: bytes) -> bytes:
            sock.send(data)
            answered = sock.recv(65_535)
            assert isinstance(messages.decode(answered), messages.Alive)
            return answered

        bare = len(answer(messages.probe("d" * 16, 1, 0)))
        for size in (400, 1400, 1600, 8000, 60_000, messages.MAX_DATAGRAM):
            data = messages.probe("d" * 16, 2, 0, size)
            assert len(data) == size
            assert len(answer(data)) == size  # the way back is tried as well
        for pad in (
            '"pad":""',
            '"pad":null',
            '"pad":"x"',
            f'"pad":"{"é" * 300}"',
            f'"pad":"{chr(92)}ud800{"a" * 500}"',
        ):
            data = messages.probe("d" * 16, 3, 0)[:-1] + f",{pad}}}".encode()
            assert len(answer(data)) <= max(bare, len(data))


def test_the_doctor_tells_its_beat() -> None:
    asked: list[Any] = []

    class Listening(Responder):
        def receive_datagram(self, data: bytes, source: Any, now: float) -> None:
            asked.append(messages.decode(data))
            super().receive_datagram(data, source, now)

    class ListeningRig(Rig):
        def _make_responder(self, handled: Any, timing: Any, boot: str, stamps: StampClock) -> Responder:
            return Listening(self._identity, handled, timing, boot, stamps, self._lease, self._room, self._board)

    with ListeningRig("cameras", "udp://127.0.0.1:0") as rig:
        examine(cameras=rig.uri)
    assert {frame.beat for frame in asked if isinstance(frame, messages.Probe)} == {1000}


def test_a_pad_that_is_no_text_is_reported_and_not_answered(serve: Callable[..., Any]) -> None:
    with pytest.raises(rigsync.RemoteProtocolError, match="pad is 7, not text"):
        messages.decode(messages.probe("d" * 16, 3, 0)[:-1] + b',"pad":7}')


# -------------------------------------------------------------------------------------- between two computers


def test_all_is_well_between_two_computers(lab: Lab) -> None:
    lab.serve()
    found = lab.doctor(cameras=THERE)["cameras"]
    assert found["findings"] == []
    assert (found["address"], found["largest_datagram"]) == (f"{THERE}:11001", SIZES[-1])


def test_no_route(lab: Lab) -> None:
    found = lab.doctor(cameras="198.51.100.7", ephys="10.231.77.99")
    assert "Network is unreachable" in only(found["cameras"], Fault.NO_ROUTE)["seen"]
    finding = only(found["ephys"], Fault.NO_ROUTE)  # in the local network, and no such computer
    assert f"the network cannot carry anything to 10.231.77.99: No route to host (sent from {HERE})" in finding["seen"]
    assert "$ ip route get 10.231.77.99" in finding["remedies"]


def test_a_firewall_that_rejects(lab: Lab) -> None:
    lab.serve()
    lab.filter(lab.rig, "input", "udp dport 11001 reject with icmpx type admin-prohibited")  # as firewalld does
    finding = only(lab.doctor(cameras=THERE)["cameras"], Fault.NO_ROUTE)
    assert "$ sudo firewall-cmd --permanent --add-port=11001/udp && sudo firewall-cmd --reload" in finding["remedies"]


def test_a_firewall_here_that_forbids(lab: Lab) -> None:
    lab.serve()
    lab.filter(lab.pc, "output", "udp dport 11001 drop")
    assert "Operation not permitted" in only(lab.doctor(cameras=THERE)["cameras"], Fault.NO_ROUTE)["seen"]


def test_a_firewall_that_drops_one_port_and_its_remedy(lab: Lab) -> None:
    lab.serve()
    lab.filter(lab.rig, "input", "udp dport 11001 drop")
    finding = only(lab.doctor(cameras=THERE)["cameras"], Fault.SILENCE)
    assert "its host is up, for it refuses at other ports" in finding["seen"]
    assert f"sent from {HERE}" in finding["seen"]
    (remedy,) = [remedy for remedy in finding["remedies"] if " nft " in remedy]
    command = remedy.removeprefix("$ sudo ").replace("inet filter input", "inet t input")
    lab.run(lab.rig, *command.split())
    assert lab.doctor(cameras=THERE)["cameras"]["findings"] == []


def test_a_firewall_that_drops_everything(lab: Lab) -> None:
    lab.serve()
    lab.filter(lab.rig, "input", "drop")
    finding = only(lab.doctor(cameras=THERE)["cameras"], Fault.SILENCE)
    assert "and nothing else from its host" in finding["seen"]


def test_a_closed_port_on_another_computer(lab: Lab) -> None:
    finding = only(lab.doctor(cameras=THERE)["cameras"], Fault.CLOSED_PORT)
    assert "very computer" not in finding["meaning"]
    assert "$ sudo ufw allow 11001/udp" in finding["remedies"]


def test_datagrams_that_leave_by_the_wrong_interface(lab: Lab) -> None:
    lab.serve()
    lab.plug("vpn", "10.231.78.1", "10.231.78.2")
    lab.run(lab.pc, "ip", "route", "add", f"{THERE}/32", "via", "10.231.78.2")  # as VPN programs do
    lab.filter(lab.rig, "input", 'iifname "vpn" drop')
    finding = only(lab.doctor(cameras=THERE)["cameras"], Fault.WRONG_INTERFACE)
    assert finding["seen"].startswith(
        f"what is sent to {THERE} leaves from 10.231.78.1, although the interface {HERE}/24 (cable)"
    )


def test_an_interface_that_is_switched_off(lab: Lab) -> None:
    lab.serve()
    lab.plug("campus", "10.231.78.1", "10.231.78.2")
    lab.run(lab.pc, "ip", "route", "add", "default", "via", "10.231.78.2")
    lab.run(lab.pc, "ip", "link", "set", "cable", "down")
    lab.filter(lab.rig, "input", 'iifname "campus" drop')
    finding = only(lab.doctor(cameras=THERE)["cameras"], Fault.WRONG_INTERFACE)
    assert f"the interface {HERE}/24 (cable)" in finding["seen"]


def test_a_rig_that_listens_at_another_address_of_its_name(lab: Lab) -> None:
    lab.plug("other", "10.231.78.1", "10.231.78.2")
    lab.name("rig-pc", THERE, "10.231.78.2")
    lab.serve(host="10.231.78.2")
    finding = only(lab.doctor(cameras="rig-pc")["cameras"], Fault.WRONG_INTERFACE)
    asked = finding["seen"].rpartition("and not at ")[2]
    assert finding["seen"].endswith(f"the rig answers at 10.231.78.2:11001, and not at {asked}")
    assert finding["remedies"][0].endswith("cameras: udp://10.231.78.2:11001")


def test_large_datagrams_that_are_lost(lab: Lab) -> None:
    lab.serve()
    lab.run(lab.pc, "ip", "link", "set", "cable", "mtu", "9000")  # jumbo frames at one end only
    found = lab.doctor(cameras=THERE)["cameras"]
    finding = only(found, Fault.MTU)
    assert finding["seen"] == "datagrams of 1,400 bytes come back, those of 1,600 bytes do not"
    assert found["largest_datagram"] == 1400
    lab.run(lab.pc, "ip", "link", "set", "cable", "mtu", "1500")
    assert lab.doctor(cameras=THERE)["cameras"]["findings"] == []


def test_large_answers_that_are_lost(lab: Lab) -> None:
    lab.serve()
    lab.run(lab.rig, "ip", "link", "set", "cable", "mtu", "9000")
    finding = only(lab.doctor(cameras=THERE)["cameras"], Fault.MTU)
    assert finding["seen"] == "datagrams of 1,400 bytes come back, those of 1,600 bytes do not"


# ------------------------------------------------------------------------------------------------------- over TCP


def on_tcp(uri: str, dialect: str = "rigsync") -> dict[str, str]:
    """Return the configuration of a rig that may be connected to."""
    return {"uri": uri if "://" in uri else f"tcp://{uri}", "dialect": dialect}


def look(uri: str, dialect: str = "rigsync", *, idle: bool = False) -> Diagnosis:
    return diagnose(rigs_from({"cameras": on_tcp(uri, dialect)}), idle=idle)["cameras"]


class Taking:
    """A TCP socket that listens, and does as told with each connection that it takes.

    Parameters
    ----------
    behave : callable, optional
        Called with each connection; by default connections are taken by the system alone, and nothing answers.
    """

    def __init__(self, behave: Callable[[socket.socket], object] | None = None):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp://127.0.0.1:{self.socket.getsockname()[1]}"
        self.socket.settimeout(0.02)
        self._behave = behave
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def was_called(self) -> bool:
        """Take the next connection that waits, and tell whether there was one."""
        try:
            self.socket.accept()[0].close()
        except TimeoutError:
            return False
        return True

    def _run(self) -> None:
        while self._behave and not self._ended.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                connection, _ = self.socket.accept()
                connection.settimeout(LONG)
                with connection:
                    self._behave(connection)

    def __enter__(self) -> Taking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(LONG)
        self.socket.close()


def test_a_rig_on_tcp_with_which_all_is_well(serve: Callable[..., Any]) -> None:
    found = look(serve("cameras", scheme="tcp").uri)
    assert found.findings == ()
    evidence = found.evidence
    assert (evidence.dialect.value, evidence.probes, evidence.answers) == ("rigsync", BURST, BURST)
    assert evidence.alive
    assert evidence.alive.name == "cameras"
    assert evidence.clock
    assert abs(evidence.clock.offset) < 1
    assert (evidence.local, evidence.largest) == ("127.0.0.1", None)


def test_no_experiment_on_tcp_is_disturbed(serve: Callable[..., Any], connect: Callable[..., Any]) -> None:
    ran: list[str] = []
    rig = serve(
        "cameras",
        {name: lambda *_, name=name: ran.append(name) for name in rigsync.ExpMessage.__members__},
        scheme="tcp",
    )
    task = connect(rig)
    task.request("EXPINIT", {"exp_ref": REFERENCE})
    diagnosis = look(rig.uri)
    assert diagnosis.findings == ()
    assert diagnosis.evidence.owner == "127.0.0.1"
    task.request("EXPSTART", REFERENCE)
    assert ran == ["EXPINIT", "EXPSTART"]


@pytest.mark.parametrize("dialect", ["auto", "iblutil"])
def test_an_iblutil_rig_on_tcp_is_left_to_its_task(connect: Callable[..., Any], dialect: str) -> None:
    with IblutilServer("cameras", held=["EXPINFO"], scheme="tcp") as rig:
        task = connect({"cameras": rig.uri})
        asked = in_thread(task.push, "EXPINFO", "CONNECTED", wait=True)
        until(lambda: rig.calls == ["EXPINFO"])
        finding = finding_of(look(rig.uri, dialect), Fault.NOT_EXAMINED)
        rig.let_go()
        assert list(asked.result(LONG)) == ["cameras"]
        assert list(task.push("EXPSTATUS", "RUNNING", wait=True)) == ["cameras"]
        assert rig.errors == []
    assert "the doctor has not connected to 127.0.0.1:" in finding.seen
    assert "take it from its task" in finding.meaning
    assert "$ rigsync doctor --idle cameras" in finding.remedies
    assert any("write dialect: rigsync" in remedy for remedy in finding.remedies) == (dialect == "auto")


@pytest.mark.parametrize("dialect", ["auto", "iblutil"])
def test_nobody_connects_to_a_rig_on_tcp_that_may_be_iblutils(dialect: str) -> None:
    with Taking() as rig:
        finding = finding_of(look(rig.uri, dialect), Fault.NOT_EXAMINED)
        assert "its host is up, for it refuses at other ports" in finding.seen
        assert not rig.was_called()
        look(rig.uri, dialect, idle=True)
        assert rig.was_called()


@pytest.mark.parametrize("dialect", ["auto", "iblutil", "rigsync"])
def test_an_iblutil_rig_on_tcp_gets_one_probe_while_no_experiment_runs(
    connect: Callable[..., Any], dialect: str
) -> None:
    with IblutilServer("cameras", scheme="tcp") as rig:
        diagnosis = look(rig.uri, dialect, idle=True)
        assert diagnosis.evidence.dialect.value == "iblutil"
        assert (diagnosis.evidence.probes, diagnosis.evidence.answers) == (1, 1)
        if dialect == "rigsync":
            finding_of(diagnosis, Fault.DIALECT)
        else:
            assert diagnosis.findings == ()
        assert list(connect({"cameras": rig.uri}).request("EXPSTATUS", "RUNNING")) == ["cameras"]
        assert rig.calls == ["EXPSTATUS"]
        assert rig.errors == []


def test_nothing_follows_the_first_probe_on_tcp_until_it_is_answered() -> None:
    received: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        received.append(connection.recv(65_535))
        connection.settimeout(5 * BURST_INTERVAL)
        with contextlib.suppress(TimeoutError):
            received.append(connection.recv(65_535))
        connection.sendall(received[0])

    with Taking(behave) as rig:
        assert look(rig.uri, "auto", idle=True).evidence.dialect.value == "iblutil"
    assert len(received) == 1


def test_an_iblutil_rig_on_tcp_that_went_deaf_echoes_and_that_is_said(tmp_path: Path) -> None:
    with IblutilServer("cameras", scheme="tcp") as rig:
        with socket.create_connection(("127.0.0.1", rig.port), LONG) as task:
            message = b"[8, 20, null]"
            task.sendall(message)
            received = b""
            while len(received) <= len(message):
                received += task.recv(65_535)
            task.sendall(b"[no echo]")  # of its answer: it closes, and drops its callbacks
            until(lambda: rig.errors)
        (tmp_path / "rigs.yaml").write_text(
            json.dumps({"rigs": {"cameras": on_tcp(rig.uri, "iblutil")}}), encoding="utf-8"
        )
        with Command(["doctor", "--idle"], tmp_path, environment(tmp_path)) as doctor:
            said = " ".join(doctor.outcome().out.split())
    assert "iblutil, echoes (over TCP, only a message can tell whether it also acts), " in said


def test_a_rig_on_tcp_hears_goodbye() -> None:
    received: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        decoder = StreamDecoder(messages.MAX_DATAGRAM)
        while data := connection.recv(65_535):
            for message in decoder.feed(data):
                received.append(message)
                frame = messages.decode(message)
                if isinstance(frame, messages.Probe):
                    answer = messages.Alive(
                        "a" * 16, frame.n, frame.t0, frame.t0, frame.t0, "raw", rigsync.ExpStatus.CONNECTED, None, "0.0"
                    )
                    connection.sendall(messages.alive(answer))

    with Taking(behave) as rig:
        look(rig.uri)
        until(lambda: any(b'"bye"' in data for data in received))


def test_a_name_of_a_rig_on_tcp_that_does_not_resolve() -> None:
    finding = finding_of(look("nowhere.invalid"), Fault.UNKNOWN_NAME)
    assert any("cameras: tcp://192.168.1.20:11001" in remedy for remedy in finding.remedies)


@pytest.mark.parametrize("dialect", ["rigsync", "iblutil"])
def test_a_closed_port_on_tcp(dialect: str) -> None:
    port = free_port(scheme="tcp")
    finding = finding_of(look(f"127.0.0.1:{port}", dialect, idle=True), Fault.CLOSED_PORT)
    assert f"the host of 127.0.0.1:{port} is up and nothing listens" in finding.seen
    assert not any("deaf" in remedy for remedy in finding.remedies)  # an iblutil rig that went deaf listens on TCP


@pytest.mark.parametrize("reads", [True, False])
def test_a_program_on_tcp_that_hangs(reads: bool) -> None:
    def read(connection: socket.socket) -> None:
        while connection.recv(65_535):
            pass

    with Taking(read if reads else None) as rig:
        finding = finding_of(look(rig.uri), Fault.HANGS)
    assert finding.seen == f"the host of {rig.uri[6:]} takes a TCP connection, and nothing answers on it"
    assert not any("firewall" in remedy for remedy in finding.remedies)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-OpenSSH"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 400"),
        (b"[99]", ""),
        (b"", "the connection is closed without an answer"),
    ],
)
def test_something_else_on_tcp(answer: bytes, words: str) -> None:
    def behave(connection: socket.socket) -> None:
        connection.recv(65_535)
        connection.sendall(answer)

    with Taking(behave) as rig:
        finding = finding_of(look(rig.uri), Fault.NOT_A_RIG)
        port = rig.uri.rpartition(":")[2]
    assert words in finding.seen
    assert f"$ ss -ltnp | grep :{port}" in finding.remedies
    assert f"$ netstat -ano -p TCP | findstr :{port}" in finding.remedies


def test_a_connection_that_is_reset_is_no_closed_port() -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(65_535)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 0))  # closing resets

    with Taking(reset) as rig:
        finding_of(look(rig.uri), Fault.NOT_A_RIG)


def test_a_rig_on_tcp_of_another_version_of_the_protocol() -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(connection.recv(65_535).replace(b'"rigsync":1', b'"rigsync":2'))

    with Taking(behave) as rig:
        finding_of(look(rig.uri), Fault.VERSION)


def test_a_rig_on_tcp_of_another_version(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]) -> None:
    monkeypatch.setattr("rigsync.rig.rig.__version__", "9.7.1")
    finding_of(look(serve("cameras", scheme="tcp").uri), Fault.VERSION)


def test_a_clock_of_a_rig_on_tcp_that_is_off(shifted: Callable[..., str]) -> None:
    finding = finding_of(look(shifted("cameras", 90.0, "tcp")), Fault.CLOCK)
    assert finding.seen.startswith("the rig's clock is 90.000 s ahead of this computer's")


@needs_linux
def test_a_second_coordinator_in_charge_over_tcp(serve: Callable[..., Any]) -> None:
    rig = serve("cameras", scheme="tcp")
    port = int(rig.uri.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), LONG, ("127.0.0.2", 0)) as owner:
        owner.sendall(messages.request("c" * 16, 1, compose("EXPINIT", {"exp_ref": REFERENCE})))
        assert owner.recv(65_535)
        finding = finding_of(look(rig.uri), Fault.SECOND_COORDINATOR)
    assert finding.seen == f"the computer 127.0.0.2 is in charge of the rig's experiment {REFERENCE} (INITIALIZED)"
    assert "interrupts by itself after its lease" in finding.meaning


def test_one_port_may_be_two_rigs_by_udp_and_tcp(serve: Callable[..., Any]) -> None:
    cameras = serve("cameras", scheme="tcp")
    ephys = serve("ephys", port=int(cameras.uri.rpartition(":")[2]))
    found = diagnose(rigs_from({"cameras": on_tcp(cameras.uri), "ephys": ephys.uri}))
    assert [diagnosis.findings for diagnosis in found.values()] == [(), ()]


def test_two_names_of_one_rig_on_tcp(serve: Callable[..., Any]) -> None:
    rig = serve("cameras", scheme="tcp")
    found = diagnose(
        rigs_from({"cameras": on_tcp(rig.uri), "ephys": on_tcp(rig.uri.replace("127.0.0.1", "localhost"))})
    )
    for diagnosis in found.values():
        finding_of(diagnosis, Fault.SAME_ADDRESS)


def test_two_computers_on_tcp(lab: Lab) -> None:
    lab.serve(scheme="tcp")
    assert lab.doctor(cameras=on_tcp(THERE))["cameras"]["findings"] == []
    lab.filter(lab.rig, "input", "tcp dport 11001 drop")
    finding = only(lab.doctor(cameras=on_tcp(THERE))["cameras"], Fault.SILENCE)
    where = f"no answer from {THERE}:11001 to the call for a TCP connection, sent from {HERE}"
    assert finding["seen"] == f"{where}; its host is up, for it refuses at other ports"
    commands = [remedy for remedy in finding["remedies"] if remedy.startswith("$ ")]
    rule = 'name="rigsync 11001" dir=in action=allow protocol=TCP localport=11001'
    assert f"$ netsh advfirewall firewall add rule {rule}" in commands
    assert "$ sudo ufw allow 11001/tcp" in commands
    assert "$ sudo firewall-cmd --permanent --add-port=11001/tcp && sudo firewall-cmd --reload" in commands
    (command,) = [command for command in commands if " nft " in command]
    lab.run(lab.rig, *command.removeprefix("$ sudo ").replace("inet filter input", "inet t input").split())
    assert lab.doctor(cameras=on_tcp(THERE))["cameras"]["findings"] == []


def test_a_firewall_that_drops_everything_on_tcp(lab: Lab) -> None:
    lab.serve(scheme="tcp")
    lab.filter(lab.rig, "input", "drop")
    found = lab.doctor(cameras=on_tcp(THERE), ephys=on_tcp(f"{THERE}:11002", "auto"))
    assert "and nothing else from its host" in only(found["cameras"], Fault.SILENCE)["seen"]
    assert "its host has sent nothing either" in only(found["ephys"], Fault.NOT_EXAMINED)["seen"]


@pytest.mark.parametrize(
    ("how", "fault"), [("icmpx type admin-prohibited", Fault.NO_ROUTE), ("tcp reset", Fault.CLOSED_PORT)]
)
def test_a_firewall_that_rejects_on_tcp(lab: Lab, how: str, fault: Fault) -> None:
    lab.serve(scheme="tcp")
    lab.filter(lab.rig, "input", f"tcp dport 11001 reject with {how}")
    finding = only(lab.doctor(cameras=on_tcp(THERE))["cameras"], fault)
    assert "$ sudo ufw allow 11001/tcp" in finding["remedies"]


def test_no_route_on_tcp(lab: Lab) -> None:
    found = lab.doctor(
        cameras=on_tcp("198.51.100.7"), ephys=on_tcp("10.231.77.99"), old=on_tcp("198.51.100.8", "iblutil")
    )
    assert "Network is unreachable" in only(found["cameras"], Fault.NO_ROUTE)["seen"]
    finding = only(found["ephys"], Fault.NO_ROUTE)
    assert f"the network cannot carry anything to 10.231.77.99: No route to host (sent from {HERE})" in finding["seen"]
    assert "$ sudo ufw allow 11001/tcp" in finding["remedies"]
    only(found["old"], Fault.NO_ROUTE)  # which no connection was needed for


def test_the_wrong_interface_on_tcp(lab: Lab) -> None:
    lab.plug("vpn", "10.231.78.1", "10.231.78.2")
    lab.name("rig-pc", THERE, "10.231.78.2")
    lab.serve(host="10.231.78.2", scheme="tcp")
    finding = only(lab.doctor(cameras=on_tcp("rig-pc"))["cameras"], Fault.WRONG_INTERFACE)
    assert finding["remedies"][0].endswith("cameras: tcp://10.231.78.2:11001")
    assert finding["remedies"][1].endswith("tcp://0.0.0.0:11001")
    lab.run(lab.pc, "ip", "route", "add", f"{THERE}/32", "via", "10.231.78.2")
    lab.filter(lab.rig, "input", 'iifname "vpn" drop')
    for dialect in ("rigsync", "iblutil"):
        finding = only(lab.doctor(cameras=on_tcp(THERE, dialect))["cameras"], Fault.WRONG_INTERFACE)
        assert f"although the interface {HERE}/24 (cable)" in finding["seen"]
