"""rigsync and iblutil, each on either side, over real sockets: what labs have today goes on working."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from typing import Any

import pytest
from processes import (
    LONG,
    PROBE_WARNING,
    TOKEN,
    FakeAlyx,
    IblutilProgram,
    IblutilServer,
    RigProgram,
    free_port,
    iblutil_net,
    port_of,
    until,
)

from rigsync import (
    Auxiliaries,
    BusyError,
    Interrupted,
    PushError,
    PushResult,
    RemoteError,
    Rig,
    RigConfig,
    RigRefused,
    Rigs,
    RigTimeout,
    Timing,
)
from rigsync.config.address import parse_uri
from rigsync.core import legacy
from rigsync.core.events import LinkState, MessageReceived
from rigsync.net.relay import relay_before
from rigsync.runtime.loop_thread import LoopThread

EchoProtocol, Services = iblutil_net().app.EchoProtocol, iblutil_net().app.Services
ExpMessage, ExpStatus = iblutil_net().base.ExpMessage, iblutil_net().base.ExpStatus

pytestmark = pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")

REFERENCE = "2026-03-01_2_mouse"
SCHEMES = ["udp", "tcp"]


def answers(aux: Auxiliaries, message: str, *args: Any, **options: Any) -> PushResult:
    """Return what all rigs answered."""
    outcome = aux.push(message, *args, wait=True, **{"timeout": LONG, **options})
    assert isinstance(outcome, PushResult), outcome
    return outcome


def failure(aux: Auxiliaries, rig: str, message: str, *args: Any, **options: Any) -> Exception:
    """Return how one rig failed."""
    outcome = aux.push(message, *args, wait=True, **{"timeout": LONG, **options})
    assert isinstance(outcome, PushError), outcome
    return outcome.failed[rig]


def connect(uris: Mapping[str, str], timing: Timing | None = None, **options: Any) -> Auxiliaries:
    """Return a coordinator of rigs of which each has the same options."""
    rigs = {name: RigConfig(name, parse_uri(uri), **options) for name, uri in uris.items()}
    return Auxiliaries(Rigs(rigs, timing or Timing()))


# ---------------------------------------------------------------------------- a rigsync coordinator, iblutil's rigs


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_message_to_iblutil_rigs(scheme: str) -> None:
    with (
        IblutilProgram("ephys", scheme=scheme) as ephys,
        IblutilServer("left", scheme=scheme) as left,
        IblutilServer("right", scheme=scheme) as right,
        connect({rig.name: rig.uri for rig in (left, ephys, right)}) as aux,
    ):
        assert aux.all_alive
        assert {rig.dialect for rig in aux.services.values()} == {"iblutil"}

        def info(name: str, event: str, *got: Any) -> dict[str, Any]:
            return {"rig": name, "event": event, "got": list(got)}

        answered: Counter[str] = Counter()

        def check(message: str, *args: Any, expected: Any) -> None:
            found = answers(aux, message, *args)
            assert found == {name: expected(name) for name in ("left", "ephys", "right")}
            assert found.failed == {}
            assert aux.log[found.request_time] is found
            answered[message] += bool(found["ephys"])  # else the echo was the answer
            ephys.wait_for("answered", message, count=answered[message])
            for server in (left, right):
                server.wait_for_echo(message, answered[message])

        ref = {"exp_ref": REFERENCE, "n": [1, 2.5, None, "é"]}
        check("EXPINFO", "CONNECTED", {"a": 1}, expected=lambda name: [20, info(name, "EXPINFO", 0, {"a": 1})])
        check("EXPINIT", ref, expected=lambda name: [info(name, "EXPINIT", ref)])
        check("EXPSTART", REFERENCE, "now", expected=lambda name: [REFERENCE, info(name, "EXPSTART", REFERENCE, "now")])
        check("EXPSTATUS", "RUNNING", expected=lambda name: [20])
        check("EXPEND", expected=lambda name: [info(name, "EXPEND", None)])
        check("EXPINTERRUPT", "smoke", expected=lambda name: [info(name, "EXPINTERRUPT", "smoke")])
        check("EXPCLEANUP", expected=lambda name: [info(name, "EXPCLEANUP", None)])
        check("ALYX", expected=lambda name: [FakeAlyx.base_url, TOKEN])
        check("ALYX", FakeAlyx(), expected=lambda name: [])  # a token handed over is only echoed
        check("EXPSTATUS", "STOPPED", expected=lambda name: [20])  # and the next message goes as well
        for server in (left, right):
            assert server.rig.token == [FakeAlyx.base_url, TOKEN]
            assert server.is_connected
            assert server.errors == []
        ephys.tell("ask")
        assert ephys.wait_for("connected") == ["connected", True]
        assert not ephys.all("error")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_messages_at_once_to_one_iblutil_rig(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, since such a rig stands no other."""
    monkeypatch.setattr(legacy, "ARRAY_GAP", 0.25)  # this rig shares a busy process: it may read late
    with IblutilServer("ephys", scheme=scheme) as server, connect({"ephys": server.uri}) as aux:
        asked = [aux.push("EXPINFO", "CONNECTED", n, timeout=LONG) for n in range(100 if scheme == "udp" else 10)]
        for n, when in enumerate(asked):
            found = until(lambda when=when: aux.response(when))
            assert found["ephys"][1]["got"] == [0, n]
        assert server.is_connected
        assert server.errors == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_failing_callback_on_an_iblutil_rig(scheme: str) -> None:
    with (
        IblutilServer("ephys", failing=["EXPSTART"], scheme=scheme) as server,
        IblutilServer("cameras", scheme=scheme) as other,
        connect({"ephys": server.uri, "cameras": other.uri}) as aux,
    ):
        outcome = aux.push("EXPSTART", REFERENCE, wait=True, timeout=LONG)
        assert isinstance(outcome, PushError)
        assert not isinstance(outcome, TimeoutError)  # it is told, not guessed from silence
        error = outcome.failed["ephys"]
        assert isinstance(error, RemoteError)
        assert (error.error, error.message) == ("ValueError", "ephys cannot do EXPSTART")
        assert list(outcome.result) == ["cameras"]
        assert set(answers(aux, "EXPSTATUS")) == {"ephys", "cameras"}
        assert server.is_connected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_unsolicited_messages_of_an_iblutil_rig(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    got: list[Any] = []
    events: list[MessageReceived] = []
    with IblutilServer("ephys", held=["EXPSTART"], scheme=scheme) as server, connect({"ephys": server.uri}) as aux:
        aux.on("MessageReceived", events.append)
        aux.services.assign_callback("EXPINFO", lambda data, address: got.append(1 / 0))  # harms nothing
        aux.services.assign_callback("EXPINFO", lambda data, address: got.append((data, address)))
        answers(aux, "EXPSTATUS")
        server.wait_for_echo("EXPSTATUS")
        server.say("EXPINFO")  # returns when its echo is back
        expected = [20, {"rig": "ephys", "event": "EXPINFO", "got": []}]
        until(lambda: got)
        assert got == [(expected, ("127.0.0.1", server.port))]
        assert "ZeroDivisionError" in caplog.text
        # Likewise while an answer is outstanding, which it does not settle.
        asked = aux.push("EXPSTART", REFERENCE, timeout=LONG)
        until(lambda: "EXPSTART" in server.calls)
        server.say("EXPINFO")
        until(lambda: len(got) == 2)
        assert aux.response(asked) is None
        server.let_go()
        assert until(lambda: aux.response(asked))["ephys"][0] == REFERENCE
        assert [(event.event.name, event.request_time is None) for event in events] == [
            ("EXPSTATUS", False),
            ("EXPINFO", True),
            ("EXPINFO", True),
            ("EXPSTART", False),
        ]
        assert server.errors == []
        assert server.is_connected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_interrupt_of_an_iblutil_rig_that_works_on_something(scheme: str) -> None:
    with IblutilServer("ephys", held=["EXPSTART"], scheme=scheme) as server, connect({"ephys": server.uri}) as aux:
        asked = aux.push("EXPSTART", REFERENCE, timeout=LONG)
        until(lambda: "EXPSTART" in server.calls)
        assert answers(aux, "EXPINTERRUPT")["ephys"][0]["event"] == "EXPINTERRUPT"
        server.wait_for_echo("EXPINTERRUPT")
        assert isinstance(until(lambda: aux.response(asked)).failed["ephys"], Interrupted)
        server.let_go()  # the answer that nobody waits for any more is echoed all the same
        server.wait_for_echo("EXPSTART")
        assert set(answers(aux, "EXPSTATUS")) == {"ephys"}
        assert server.errors == []
        assert server.is_connected


class LateRig(asyncio.DatagramProtocol):
    """A model of an iblutil rig whose echoes come late, on a thread of its own; a context manager.

    Parameters
    ----------
    name : str
        Its name, which is its answer.
    thread : LoopThread
        On which it runs.
    echo_after : float
        Seconds until a message is echoed; probes are echoed at once.
    deaf_for : int
        How many messages it drops at first.

    Attributes
    ----------
    messages : list of (float, bytes)
        What has come, with monotonic times.
    echoes : list of float
        When its echoes left.
    confirmed : list of bytes
        Its own answers that came back.
    """

    def __init__(self, name: str, thread: LoopThread, echo_after: float = 0.0, deaf_for: int = 0):
        self.name, self._thread, self._echo_after, self._deaf_for = name, thread, echo_after, deaf_for
        self.messages: list[tuple[float, bytes]] = []
        self.echoes: list[float] = []
        self.confirmed: list[bytes] = []
        self._answers: set[bytes] = set()

    def __enter__(self) -> LateRig:
        self._thread.run_coroutine(LateRig._open, self)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.run_coroutine(LateRig._close, self)

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport, _ = await self._loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.uri = f"udp://127.0.0.1:{self._transport.get_extra_info('sockname')[1]}"

    async def _close(self) -> None:
        self._transport.close()

    def datagram_received(self, data: bytes, source: Any) -> None:
        if data.startswith(b"{"):
            self._transport.sendto(data, source)
        elif data in self._answers:
            self.confirmed.append(data)
        else:
            self.messages.append((time.monotonic(), data))
            if len(self.messages) > self._deaf_for:
                self._loop.call_later(self._echo_after, self._answer, data, source)

    def _answer(self, data: bytes, source: Any) -> None:
        self.echoes.append(time.monotonic())
        self._transport.sendto(data, source)
        answer = json.dumps([json.loads(data)[0], self.name]).encode()
        self._answers.add(answer)
        self._transport.sendto(answer, source)


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread("late rigs")
    thread.start()
    yield thread
    thread.stop()
    thread.join(LONG)


def test_slow_echoes_delay_nobody_else(thread: LoopThread) -> None:
    """iblutil's own coordinator tells four such rigs to start at 0, 0.4, 0.8 and 1.2 s."""
    late = 0.4
    with contextlib.ExitStack() as stack:
        rigs = [stack.enter_context(LateRig(f"rig{i}", thread, late)) for i in range(4)]
        aux = stack.enter_context(connect({rig.name: rig.uri for rig in rigs}))
        assert answers(aux, "EXPSTART", REFERENCE) == {rig.name: [rig.name] for rig in rigs}
        told = [rig.messages[0][0] for rig in rigs]
        assert max(told) < min(rig.echoes[0] for rig in rigs)  # all were told before anybody had confirmed
        assert max(told) - min(told) < late / 4
        until(lambda: all(rig.confirmed for rig in rigs))
        assert [len(rig.messages) for rig in rigs] == [1, 1, 1, 1]


def test_no_resending_to_an_iblutil_rig_by_default(thread: LoopThread) -> None:
    """It would run its callbacks twice."""
    with LateRig("ephys", thread, deaf_for=1) as rig, connect({"ephys": rig.uri}) as aux:
        error = failure(aux, "ephys", "EXPSTART", REFERENCE, timeout=1.5)
        assert isinstance(error, RigTimeout)
        assert "restart its program" in str(error)
        assert len(rig.messages) == 1
        assert aux.services["ephys"].state is LinkState.ALIVE
        assert answers(aux, "EXPSTATUS") == {"ephys": ["ephys"]}


def test_resending_to_an_iblutil_rig_where_it_is_allowed(thread: LoopThread) -> None:
    with LateRig("ephys", thread, deaf_for=2) as rig, connect({"ephys": rig.uri}, resend=True) as aux:
        assert answers(aux, "EXPSTART", REFERENCE) == {"ephys": ["ephys"]}
        assert len(rig.messages) == 3
        assert len({data for _, data in rig.messages}) == 1


def test_probes_do_not_disturb_an_outstanding_echo() -> None:
    """A datagram from the address whose echo it awaits would make the iblutil rig close its socket for good."""
    timing = Timing(iblutil_beat=0.02)
    with (
        IblutilServer("ephys") as server,
        relay_before({"ephys": ("127.0.0.1", server.port)}, seed=1) as relays,
        connect({"ephys": f"udp://127.0.0.1:{relays['ephys'].address[1]}"}, timing) as aux,
    ):
        probes: list[Any] = []
        aux.on("ProbeAnswered", probes.append)
        relays["ephys"].delay = (0.15, 0.15)  # so that each echo is outstanding for 0.3 s, fifteen probes long
        for message in ("EXPINIT", "EXPSTART", "EXPEND"):
            assert answers(aux, message)["ephys"]
            server.wait_for_echo(message)
        assert len(probes) > 10
        assert server.errors == []
        assert server.is_connected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_iblutil_rig_that_goes_deaf(scheme: str) -> None:
    with (
        IblutilServer("ephys", scheme=scheme) as server,
        IblutilServer("cameras", scheme=scheme) as other,
        connect({"ephys": server.uri, "cameras": other.uri}) as aux,
    ):
        answers(aux, "EXPINIT")
        server.go_deaf()
        outcome = aux.push("EXPSTART", REFERENCE, wait=True, timeout=LONG)
        assert isinstance(outcome, PushError)
        assert isinstance(outcome.failed["ephys"], RigRefused)
        assert str(server.port) in str(outcome.failed["ephys"])
        assert set(outcome.result) == {"cameras"}
        assert aux.services["ephys"].state is LinkState.LOST
        assert not aux.all_alive
        assert set(answers(aux, "EXPEND", rigs="cameras")) == {"cameras"}  # STOP always reaches the live ones


@pytest.mark.parametrize("scheme", SCHEMES)
def test_dialect_as_configured(scheme: str) -> None:
    with Rig("cameras", f"{scheme}://127.0.0.1:0") as rig, connect({"cameras": rig.uri}, dialect="iblutil") as aux:
        for message in ("EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"):
            assert answers(aux, message)["cameras"][-1]["rig_version"]
        assert aux.services["cameras"].dialect == "iblutil"
        error = failure(aux, "cameras", "EXPSTART")
        assert isinstance(error, RemoteError)
        assert error.error == "StateError"
        assert answers(aux, "ALYX", FakeAlyx()) == {"cameras": []}
        assert answers(aux, "ALYX") == {"cameras": [None, {}]}
    with Rig("cameras", f"{scheme}://127.0.0.1:0") as rig, connect({"cameras": rig.uri}, dialect="rigsync") as aux:
        answers(aux, "EXPINIT")
        assert aux.services["cameras"].dialect == "rigsync"
    with IblutilServer("ephys", scheme=scheme) as server, connect({"ephys": server.uri}, dialect="iblutil") as aux:
        answers(aux, "EXPINIT")
        assert server.is_connected


@pytest.mark.filterwarnings(r"ignore:Expected list, got \{'rigsync'. 1, 'kind'. 'request':RuntimeWarning")
def test_wrong_dialect_configured() -> None:
    with IblutilServer("ephys") as server, connect({"ephys": server.uri}, dialect="rigsync") as aux:
        assert isinstance(failure(aux, "ephys", "EXPINIT", timeout=0.5), RigTimeout)
        assert server.calls == []
        assert server.is_connected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_dialect_is_detected_anew_when_a_rig_is_replaced(scheme: str) -> None:
    port = free_port(scheme=scheme)
    timing = Timing(beat=0.2, iblutil_beat=0.2)
    with connect({"ephys": f"{scheme}://127.0.0.1:{port}"}, timing) as aux:
        for _ in range(2):
            with IblutilServer("ephys", port, scheme=scheme) as server:
                until(lambda: aux.services["ephys"].dialect == "iblutil" and aux.all_alive)
                assert answers(aux, "EXPINIT")["ephys"][0]["rig"] == "ephys"
                assert server.calls == ["EXPINIT"]
                assert server.is_connected
            with Rig("ephys", f"{scheme}://127.0.0.1:{port}") as rig:
                until(lambda: aux.services["ephys"].dialect == "rigsync" and aux.all_alive)
                assert answers(aux, "EXPINIT", REFERENCE)["ephys"][0]["exp_ref"] == REFERENCE
                assert rig.status == ExpStatus.INITIALIZED


# ----------------------------------------------------------------------------- iblutil's coordinators, a rigsync rig


@pytest.fixture(params=SCHEMES)
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    # On TCP, iblutil's client has to read an echo before the answer comes. A busy computer may take longer than 50 ms.
    monkeypatch.setattr(legacy, "ARRAY_GAP", 0.3)
    with Rig("cameras", f"{request.param}://127.0.0.1:0", experiment_description={"devices": {}}) as rig:
        yield rig


@contextlib.asynccontextmanager
async def client_of(rig: Rig, name: str | None = None) -> AsyncIterator[EchoProtocol]:
    log = logging.getLogger(f"iblutil.client.{name}")  # else iblutil sets up one that writes on standard output
    client = await EchoProtocol.client(rig.uri, name=name or rig.name, log=log)
    try:
        yield client
        await asyncio.sleep(0.02)  # anything that a rig sends too much comes by then, and closes the client
        assert client.is_connected
    finally:
        client.close()


async def answer(client: EchoProtocol, event: str, sent: Coroutine[Any, Any, Any]) -> Any:
    """Send a message by a verb of the client's, and return what follows the event in the answer."""
    waiting = asyncio.ensure_future(client.on_event(event))
    await asyncio.sleep(0)
    await sent
    data, address = await asyncio.wait_for(waiting, LONG)
    assert address == (client.hostname, client.port)
    return data


def info(status: int, exp_ref: str | None, **more: Any) -> dict[str, Any]:
    import rigsync

    return {
        "exp_ref": exp_ref,
        "main_sync": False,
        "experiment_description": {"devices": {}},
        "master": False,
        "rig_version": rigsync.__version__,
        "spec_version": "1.0.0",
        "status": status,
        **more,
    }


def test_every_verb_of_an_iblutil_client(rig: Rig) -> None:
    calls: list[Any] = []
    for message in ExpMessage.__members__:

        @rig.on(message)
        def handle(*args: Any, message: str = message) -> None:
            calls.append((message, *args))

    async def command() -> None:
        async with client_of(rig) as client:
            ref = {"date": "2026-03-01", "sequence": 2, "subject": "mouse"}
            assert await answer(client, "EXPINFO", client.info("CONNECTED", {"a": 1})) == [0, info(0, None)]
            assert await answer(client, "EXPINIT", client.init({"exp_ref": REFERENCE})) == [info(10, REFERENCE)]
            assert await answer(client, "EXPSTART", client.start(ref, 5)) == [REFERENCE, info(20, REFERENCE)]
            assert await answer(client, "EXPSTATUS", client.status("RUNNING")) == [20]
            assert await answer(client, "EXPEND", client.stop("done")) == [info(30, REFERENCE)]
            assert await answer(client, "EXPINTERRUPT", client.stop(immediately=True)) == [info(30, REFERENCE)]
            assert await answer(client, "EXPCLEANUP", client.cleanup()) == [info(0, None)]
            assert await client.alyx() == [None, {}]

    asyncio.run(command())
    assert calls == [
        ("EXPINFO", 0, {"a": 1}),
        ("EXPINIT", {"exp_ref": REFERENCE}),
        ("EXPSTART", REFERENCE, 5),
        ("EXPSTATUS", 20),
        ("EXPEND", "done"),
        ("EXPCLEANUP", None),  # EXPINTERRUPT had nothing to stop
        ("ALYX", None, {}),
    ]


def test_services_of_iblutil_as_iblrig_uses_them(rig: Rig) -> None:
    got: list[Any] = []
    rig.on("EXPEND", "EXPINTERRUPT")(lambda data: got.append(data))

    async def command() -> None:
        async with client_of(rig) as cameras, client_of(other, "ephys") as ephys:
            services = Services([cameras, ephys], timeout=LONG)
            both = ("cameras", "ephys")

            def expected(*follows: Any) -> dict[str, list[Any]]:
                return {name: list(follows) for name in both}

            assert services.is_connected
            assert await services.info("CONNECTED", {}) == expected(0, info(0, None))
            assert await services.init({"exp_ref": REFERENCE}) == expected(info(10, REFERENCE))
            assert await services.start(REFERENCE) == expected(REFERENCE, info(20, REFERENCE))
            assert await services.status("RUNNING") == expected(20)
            # iblrig hands over what push() was given after the message, a tuple.
            assert await services.stop(()) == expected(info(30, REFERENCE))
            assert await services.cleanup() == expected(info(0, None))
            assert await services.init({"exp_ref": REFERENCE}) == expected(info(10, REFERENCE))
            details = {"reason": "smoke"}
            assert await services.stop((details,), immediately=True) == expected(info(30, REFERENCE))
            assert await services.init([REFERENCE], concurrent=True) == expected(info(10, None))
            await services.alyx(FakeAlyx())
            assert await services.status("RUNNING", concurrent=True) == expected(10)
            assert got == [None, details]

    with Rig("ephys", "udp://127.0.0.1:0", experiment_description={"devices": {}}) as other:
        asyncio.run(command())


def test_slow_and_coroutine_handlers_for_an_iblutil_client(rig: Rig) -> None:
    @rig.on("EXPINIT")
    def slow() -> dict[str, Any]:
        time.sleep(0.05)
        return {"files": 2}

    @rig.on("EXPSTART")
    async def slow_too() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"files": 3}

    async def command() -> None:
        async with client_of(rig) as client:
            assert await answer(client, "EXPINIT", client.init()) == [info(10, None, files=2)]
            assert await answer(client, "EXPSTART", client.start(None)) == [None, info(20, None, files=3)]

    asyncio.run(command())


def test_errors_reach_an_iblutil_client(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    @rig.on("EXPINIT")
    def fail() -> None:
        raise FileNotFoundError("no such drive: é")

    async def command() -> None:
        async with client_of(rig) as client:
            errors: asyncio.Queue[Any] = asyncio.Queue()
            client.assign_callback(ExpMessage(0), lambda data, address: errors.put_nowait(data))
            await client.init(REFERENCE)
            text, event = await asyncio.wait_for(errors.get(), LONG)
            assert (text, event) == ("FileNotFoundError: no such drive: é", ExpMessage.EXPINIT)
            await client.start(REFERENCE)
            text, event = await asyncio.wait_for(errors.get(), LONG)
            assert text.startswith("StateError: EXPSTART")
            assert event == ExpMessage.EXPSTART
            assert await answer(client, "EXPSTATUS", client.status("RUNNING")) == [0]

    asyncio.run(command())
    assert "Callback for EXPINIT" in caplog.text  # iblutil says so itself


def test_token_of_an_iblutil_client(rig: Rig) -> None:
    held: list[Any] = []

    @rig.on("ALYX")
    def keep(base_url: str, token: Any) -> Any:
        if token:
            held[:] = [base_url, token]
        return held or None

    async def command() -> None:
        async with client_of(rig) as client:
            assert await client.alyx() == [None, {}]
            await client.alyx(FakeAlyx())
            # An answer beyond the echo would be taken for a wrong echo of the next message.
            for _ in range(5):
                assert await answer(client, "EXPSTATUS", client.status("RUNNING")) == [0]
                await client.alyx(FakeAlyx())
            assert await client.alyx() == [FakeAlyx.base_url, TOKEN]

    asyncio.run(command())
    assert held == [FakeAlyx.base_url, TOKEN]


@pytest.mark.parametrize("rig", ["udp"], indirect=True)
def test_client_that_does_not_echo_the_answer(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port_of(rig.uri)))
        sock.settimeout(LONG)
        sock.send(b"[1, null]")
        assert sock.recv(65_535) == b"[1, null]"
        assert json.loads(sock.recv(65_535)) == [1, info(10, None)]
        until(lambda: "did not confirm the answer to EXPINIT" in caplog.text)
        assert [record.levelname for record in caplog.records if "did not confirm" in record.message] == ["WARNING"]
        sock.send(b"[2, null, null]")
        assert sock.recv(65_535) == b"[2, null, null]"
        answered = sock.recv(65_535)
        assert json.loads(answered) == [2, None, info(20, None)]
        # The next answer waits for this one's echo, and comes when it is there.
        sock.send(b"[64, 20]")
        assert sock.recv(65_535) == b"[64, 20]"
        sock.send(answered)
        assert json.loads(sock.recv(65_535)) == [64, 20, info(20, None)]
    with connect({"cameras": rig.uri}) as aux:
        assert answers(aux, "EXPSTATUS") == {"cameras": [20]}


@pytest.mark.parametrize("rig", ["udp"], indirect=True)
def test_junk_between_the_messages_of_an_iblutil_client(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port_of(rig.uri)))
        sock.settimeout(LONG)
        for junk in (b"", b"\xff" * 1000, b"[", b"[]", b"[3]", b"[true]", b"[999, 1]", b"[0, 1]", b'{"rigsync": 2}'):
            sock.send(junk)
        sock.send(b"[32, 0]")
        assert sock.recv(65_535) == b"[32, 0]"
        assert json.loads(sock.recv(65_535)) == [32, 0]
    assert rig.is_running
    assert "127.0.0.1" in caplog.text


def test_two_coordinators_at_once_one_of_each_kind(rig: Rig) -> None:
    rounds = 10
    runs: list[int] = []
    rig.on("EXPINFO")(lambda status, data: runs.append(data) or {"n": data})
    seen: list[Any] = []

    def push() -> None:
        with connect({"cameras": rig.uri}) as aux:
            seen.extend(answers(aux, "EXPINFO", "CONNECTED", n)["cameras"][1]["n"] for n in range(rounds))

    async def command() -> list[Any]:
        async with client_of(rig) as client:
            return [
                (await answer(client, "EXPINFO", client.info("CONNECTED", -n)))[1]["n"] for n in range(1, rounds + 1)
            ]

    pusher = threading.Thread(target=push)
    pusher.start()
    try:
        told = asyncio.run(command())
    finally:
        pusher.join(LONG)
    assert told == [-n for n in range(1, rounds + 1)]
    assert seen == list(range(rounds))
    assert sorted(runs) == [*reversed(told), *seen]


def test_experiment_belongs_to_one_coordinator_of_either_kind(rig: Rig) -> None:
    async def command(aux: Auxiliaries) -> None:
        async with client_of(rig) as client:
            assert await answer(client, "EXPINIT", client.init(REFERENCE)) == [info(10, REFERENCE)]
            refused = await asyncio.to_thread(aux.push, "EXPSTART", REFERENCE, wait=True)
            assert isinstance(refused.failed["cameras"], BusyError)
            takeover = {"exp_ref": REFERENCE, "takeover": True}
            await asyncio.to_thread(answers, aux, "EXPINIT", takeover)
            started = await asyncio.to_thread(answers, aux, "EXPSTART", REFERENCE)
            assert started == {"cameras": [REFERENCE, info(20, REFERENCE)]}
            assert (await answer(client, "EXPSTATUS", client.status("CONNECTED"))) == [20]
            errors: asyncio.Queue[Any] = asyncio.Queue()
            client.assign_callback(ExpMessage(0), lambda data, address: errors.put_nowait(data))
            await client.cleanup()
            text = (await asyncio.wait_for(errors.get(), LONG))[0]
            assert re.match(
                r"BusyError: EXPCLEANUP refused: the coordinator on 127\.0\.0\.1 (\(.*\) )?is in charge of ", text
            )
            await asyncio.to_thread(answers, aux, "EXPEND")

    with connect({"cameras": rig.uri}) as aux:
        asyncio.run(command(aux))


def test_interrupt_of_an_iblutil_client_during_a_slow_start(rig: Rig) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    @rig.on("EXPSTART")
    def slow() -> None:
        begun.set()
        assert go.wait(LONG)
        ended.set()

    interrupts: list[Any] = []
    rig.on("EXPINTERRUPT")(lambda data: interrupts.append((data, ended.is_set())))

    async def command() -> None:
        async with client_of(rig) as client:
            errors: asyncio.Queue[Any] = asyncio.Queue()
            client.assign_callback(ExpMessage(0), lambda data, address: errors.put_nowait(data))
            await answer(client, "EXPINIT", client.init(REFERENCE))
            await client.start(REFERENCE)
            assert await asyncio.to_thread(begun.wait, LONG)
            stopped = await answer(client, "EXPINTERRUPT", client.stop("smoke", immediately=True))
            assert stopped == [info(30, REFERENCE)]
            assert interrupts == [("smoke", False)]
            text, event = await asyncio.wait_for(errors.get(), LONG)
            assert text.startswith("Interrupted: ")
            assert event == ExpMessage.EXPSTART
            go.set()
            assert await asyncio.to_thread(ended.wait, LONG)
            assert await answer(client, "EXPSTATUS", client.status("RUNNING")) == [30]

    try:
        asyncio.run(command())
    finally:
        go.set()


# -------------------------------------------------------------------------------------------------- all of it at once


def test_one_process_commands_rigs_of_both_kinds_in_other_processes() -> None:
    handled = dict.fromkeys(("EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"), "count")
    with contextlib.ExitStack() as stack:
        programs: list[RigProgram | IblutilProgram] = [
            RigProgram("cameras", handlers=handled),
            IblutilProgram("ephys"),
            RigProgram("microscope", main_sync=True, handlers=handled),
            IblutilProgram("behaviour"),
        ]
        for program in programs:
            stack.push(program.__exit__)
        for program in programs:
            program.__enter__()
        aux = stack.enter_context(Auxiliaries({program.name: program.uri for program in programs}))
        assert aux.all_alive
        names = {program.name for program in programs}
        pids = {program.name: program.pid for program in programs if isinstance(program, RigProgram)}
        for message, *args in (
            ("EXPINFO", "CONNECTED"),
            ("EXPINIT", {"exp_ref": REFERENCE}),
            ("EXPSTART", REFERENCE),
            ("EXPEND",),
            ("EXPCLEANUP",),
        ):
            found = answers(aux, message, *args)
            assert set(found) == names
            assert {name: found[name][-1]["pid"] for name in pids} == pids
            assert {name: found[name][-1]["rig"] for name in names - set(pids)} == {n: n for n in names - set(pids)}
        assert found["microscope"][-1]["main_sync"] is True
        for program in programs:
            what = "ran" if isinstance(program, RigProgram) else "called"
            program.wait_for(what, "EXPCLEANUP")  # its report may come after the answer
            assert [report[1] for report in program.all(what)] == list(handled)
            assert not program.all("error")
