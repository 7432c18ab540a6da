"""The coordinator on an event loop, and its rigs, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pathlib
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from types import FrameType
from typing import Any

import pytest
from live_helpers import SHORT, EchoServer, RawRig, came_true, ends_within, in_thread, silent_rig
from processes import LONG, calm, run_strictly, until

from rigsync import __version__
from rigsync.config.rigs import rigs_from
from rigsync.coordinator import remote_rig, results
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.coordinator.remote_rig import RemoteRig
from rigsync.coordinator.results import PushResult, draw_request_time
from rigsync.coordinator.service import RigServices
from rigsync.coordinator.view import RigView
from rigsync.core import events, messages
from rigsync.core.arguments import compose
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.timing import Timing
from rigsync.errors import (
    Aborted,
    ConfigError,
    NotRunning,
    PayloadError,
    PushError,
    PushTimeout,
    RemoteError,
    RigError,
    RigTimeout,
    UnknownRig,
)
from rigsync.net.endpoint import Endpoint
from rigsync.rig.rig import Rig
from rigsync.runtime.hub import Hub

ROOT = pathlib.Path(__file__).parents[1]
REFERENCE = "2026-03-01_2_mouse"
PROMPT = 5.0
"""Seconds that tell what happens at once from what waits for a time-out (10 s)."""

Serve = Callable[..., Rig]
Connect = Callable[..., Auxiliaries]

# An iblutil server warns of everything that it does not know, probes included.
pytestmark = pytest.mark.filterwarnings("ignore:Expected list, got:RuntimeWarning")


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Do as `asyncio.run` does, on a loop that does UDP on Windows too, and within `LONG`."""

    async def main() -> Any:
        return await asyncio.wait_for(coroutine, LONG)

    loop = asyncio.SelectorEventLoop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@contextlib.asynccontextmanager
async def opened(rigs: Iterable[Any], timing: Timing | None = None, **options: Any) -> AsyncIterator[RigServices]:
    """Open services of rigs, wait until all have answered, and close them in the end."""
    clients: dict[str, Any] = {}
    for rig in rigs:
        clients.update(rig if isinstance(rig, dict) else {rig.name: rig.uri})
    services = RigServices(rigs_from(clients, timing), **options)
    await services.open()
    try:
        if not any(isinstance(rig, dict) for rig in rigs):
            await came_true(lambda: services.all_alive)
        yield services
    finally:
        services.close()


# ------------------------------------------------------------------------------------------------- what they tell


def test_remote_rigs_tell_what_the_rig_says(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    auxiliaries = connect(rig)
    assert auxiliaries.services
    remote = auxiliaries.services["cameras"]
    auxiliaries.request("EXPINIT", {"exp_ref": REFERENCE})
    until(lambda: (remote.exp_ref, remote.owner) == (REFERENCE, "127.0.0.1"))
    assert remote.rig_status is ExpStatus.INITIALIZED
    assert remote.version == __version__
    assert 0 < (remote.round_trip or 0) < LONG
    assert remote.loss == 0
    auxiliaries.close()
    told = (remote.rig_status, remote.exp_ref, remote.owner, remote.version, remote.round_trip, remote.loss)
    assert told == (None,) * 6


def test_a_remote_rig_is_asked_while_probes_go_on(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    auxiliaries = connect(serve("cameras"), timing=Timing(beat=0.001))
    assert auxiliaries.services
    remote = auxiliaries.services["cameras"]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # the threads take turns in the middle of everything
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert 0 <= (remote.loss or 0) <= 1
            assert remote.clock
    finally:
        sys.setswitchinterval(interval)


def test_rigs_are_looked_up_by_name_and_say_where_they_are() -> None:
    services = RigServices(rigs_from({"cameras": "192.168.1.20:5000", "ephys": "udp://[::1]", "old": "ws://10.0.0.1"}))
    cameras, ephys, old = services.values()
    assert (cameras.name, cameras.server_uri) == ("cameras", "udp://192.168.1.20:5000")
    assert (cameras.hostname, cameras.port, cameras.protocol) == ("192.168.1.20", 5000, "udp")
    assert (ephys.hostname, ephys.port, old.protocol) == ("::1", 11001, "tcp")
    assert (list(services), len(services), services["ephys"]) == (["cameras", "ephys", "old"], 3, ephys)
    assert "cameras" in repr(cameras)


def test_the_map_of_rigs_cannot_be_changed() -> None:
    services = RigServices(rigs_from({"cameras": "192.168.1.20:5000"}))
    with pytest.raises(TypeError):
        services["other"] = services["cameras"]
    with pytest.raises(TypeError):
        del services["cameras"]
    with pytest.raises(TypeError):
        services.pop("cameras")
    assert list(services) == ["cameras"]


# ------------------------------------------------------------------------------------------------- opening, closing


def test_open_and_close(serve: Serve) -> None:
    async def main() -> None:
        services = RigServices(rigs_from({"cameras": serve("cameras").uri}))
        rig = services["cameras"]
        assert (services.is_open, services.is_connected, services.all_alive, rig.is_alive) == (False,) * 4
        assert (rig.peer, rig.dialect, rig.state.value) == (None, "unknown", "unknown")
        await services.open()
        assert services.is_open
        await came_true(lambda: services.all_alive)
        assert services.connected.is_set()
        assert (rig.dialect, rig.state.value) == ("rigsync", "alive")
        assert rig.peer.process.version
        with pytest.raises(RuntimeError, match="open already"):
            await services.open()
        services.close()
        services.close()
        assert (services.is_open, services.is_connected, services.connected.is_set()) == (False, False, False)
        assert not rig.is_connected

    run(main())


def test_services_can_be_opened_again(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            services.close()
            await services.open()
            await came_true(lambda: services.all_alive)
            assert await services.status("CONNECTED") == {"cameras": [0]}

    run(main())


def test_services_that_are_not_open_say_so() -> None:
    async def main() -> None:
        services = RigServices(rigs_from({"cameras": "127.0.0.1:9"}))
        for call in (
            lambda: services.status("CONNECTED"),
            lambda: services["cameras"].status("CONNECTED"),
            lambda: services["cameras"].confirmed_send(["EXPEND"]),
        ):
            with pytest.raises(NotRunning, match="not open"):
                await call()
        with pytest.raises(NotRunning, match="not open"):
            services["cameras"].send(["EXPEND"])
        with pytest.raises(NotRunning, match="not open"):
            services.ping("cameras", 1.0, print)
        assert services.withdraw_queued() == 0
        services.close()

    run(main())


def test_close_on_another_thread(connect: Connect, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    aux = connect(serve("cameras"))
    assert aux.services is not None
    close, closers = Endpoint.close, []

    def spy(self: Endpoint) -> None:
        closers.append(threading.current_thread())
        close(self)

    monkeypatch.setattr(Endpoint, "close", spy)
    aux.services.close()  # as a task may that knows iblutil
    until(lambda: closers)
    assert closers == [aux.thread]
    until(lambda: not aux.services.is_open)  # type: ignore[union-attr]
    until(lambda: not aux.connected.is_set())  # which comes last
    with pytest.raises(NotRunning):
        aux.push("EXPEND")


def test_close_frees_those_who_wait(serve: Serve) -> None:
    held = threading.Event()

    async def main() -> None:
        async with opened([serve("cameras", {"EXPINIT": lambda data: held.wait(LONG) and None})]) as services:
            waits = [
                asyncio.ensure_future(wait)
                for wait in (services.init(), services["cameras"].confirmed_send(["EXPINFO", 0]))
            ]
            waiting = asyncio.ensure_future(services["cameras"].on_event("EXPEND"))
            pings: list[Any] = []
            await asyncio.sleep(0)
            services.ping("cameras", LONG, pings.append)
            services.close()
            for wait, error in zip(waits, (PushError, Aborted), strict=True):
                with pytest.raises(error, match="closed"):
                    await wait
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert [type(ping) for ping in pings] == [RigTimeout]

    try:
        run(main())
    finally:
        held.set()


def test_host_names_are_looked_up(serve: Serve) -> None:
    rig = serve("cameras")
    uri = rig.uri.replace("127.0.0.1", "localhost")

    async def main() -> None:
        async with opened([{"cameras": uri}]) as services:
            await came_true(lambda: services.all_alive)
            assert services.address("cameras") == ("127.0.0.1", int(uri.rpartition(":")[2]))
            assert services["cameras"].hostname == "localhost"
            await services["cameras"].confirmed_send(["EXPSTATUS", 0], addr=services.address("cameras"))
            await services["cameras"].confirmed_send(["EXPSTATUS", 0], addr=("localhost", services["cameras"].port))

    run(main())


def test_unknown_host_is_refused_and_names_the_rig(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def unknown(host: str, *args: Any, **kwargs: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    async def main() -> None:
        services = RigServices(rigs_from({"cameras": "127.0.0.1:9", "ephys": "ephys-pc.invalid"}))
        with pytest.raises(ConfigError, match=r"rigs\.ephys\.uri: the host 'ephys-pc\.invalid' of rig 'ephys'"):
            await services.open()
        assert not services.is_open

    run(main())


def test_open_that_is_cancelled_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Endpoint.connect
    count = 0

    async def slow(self: Endpoint, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            await asyncio.Event().wait()
        await connect(self, *args)

    monkeypatch.setattr(Endpoint, "connect", slow)

    async def main() -> None:
        services = RigServices(rigs_from({"cameras": "127.0.0.1:9", "ephys": "127.0.0.1:10"}))
        opening = asyncio.ensure_future(services.open())
        await came_true(lambda: count == 3)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not services.is_open

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of open files to lower on Windows")
def test_too_many_sockets_is_a_clear_error() -> None:
    code = """
        import resource, rigsync, os
        taken = max(map(int, os.listdir("/dev/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 20, taken + 20))
        try:
            rigsync.Auxiliaries({f"rig{i}": f"127.0.0.1:{20_000 + i}" for i in range(16)})
        except rigsync.RigsyncError as error:
            print(error)
        for _ in range(20):  # and none of them is left open
            os.dup(0) if _ < 12 else None
        """
    done = run_strictly(code)
    assert (done.returncode, calm(done.stderr)) == (0, "")
    assert "no more sockets at rig rig" in done.stdout
    assert "ulimit -n" in done.stdout


# ------------------------------------------------------------------------------------------------------------ verbs


def test_verbs_return_the_answers(serve: Serve) -> None:
    seen: list[Any] = []
    handlers = {event: lambda *args, event=event: seen.append((event, *args)) for event in ExpMessage.__members__}
    del handlers["ALYX"]

    async def main() -> None:
        async with opened([serve("cameras", handlers), serve("ephys")]) as services:
            everyone = {"cameras", "ephys"}
            answers = await services.init({"exp_ref": REFERENCE})
            assert set(answers) == everyone
            assert answers["ephys"][0]["status"] == int(ExpStatus.INITIALIZED)
            answers = await services.start({"date": "2026-03-01", "sequence": "02", "subject": "mouse"}, data={"a": 1})
            assert [answer[0] for answer in answers.values()] == [REFERENCE] * 2
            assert await services.status(ExpStatus.RUNNING) == {"cameras": [20], "ephys": [20]}
            answers = await services.info("RUNNING", data={"b": 2})
            assert [answer[0] for answer in answers.values()] == [20, 20]
            answers = await services.stop({"c": 3})
            assert [answer[0]["status"] for answer in answers.values()] == [30, 30]
            answers = await services.cleanup()
            assert [answer[0]["status"] for answer in answers.values()] == [0, 0]
            answers = await services.stop(immediately=True)
            assert set(answers) == everyone
            assert type(answers) is dict

    run(main())
    assert seen == [
        ("EXPINIT", {"exp_ref": REFERENCE}),
        ("EXPSTART", REFERENCE, {"a": 1}),
        ("EXPSTATUS", 20),
        ("EXPINFO", 20, {"b": 2}),
        ("EXPEND", {"c": 3}),
        ("EXPCLEANUP", None),
    ]


def test_verbs_raise_what_went_wrong(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras", {"EXPINIT": lambda data: 1 / 0}), serve("ephys")]) as services:
            with pytest.raises(PushError, match="ZeroDivisionError") as raised:
                await services.init()
            assert list(raised.value.result) == ["ephys"]
            with pytest.raises(PayloadError):
                await services.init(object())
            with pytest.raises(ValueError, match="SLEEPING"):
                await services.status("SLEEPING")

    run(main())


@pytest.mark.parametrize(
    ("verb", "args", "reverse"),
    [
        ("init", (), False),
        ("status", ("CONNECTED",), False),
        ("info", ("CONNECTED",), False),
        ("stop", (), True),
        ("cleanup", (), True),
    ],
)
def test_one_after_the_other(serve: Serve, verb: str, args: tuple[Any, ...], reverse: bool) -> None:
    trace: list[str] = []

    def handler(name: str) -> Callable[..., None]:
        def handle(*_: Any) -> None:
            trace.append(f"{name} begins")
            time.sleep(0.02)
            trace.append(f"{name} ends")

        return handle

    names = ["cameras", "ephys", "imaging"]
    event = {"init": "EXPINIT", "status": "EXPSTATUS", "info": "EXPINFO", "stop": "EXPEND", "cleanup": "EXPCLEANUP"}

    async def main() -> None:
        async with opened([serve(name, {event[verb]: handler(name)}) for name in names]) as services:
            if reverse:
                await services.init()  # else these would be no-ops
            answers = await getattr(services, verb)(*args, concurrent=False)
            assert sorted(answers) == names

    run(main())
    order = names[::-1] if reverse else names
    assert trace == [f"{name} {what}" for name in order for what in ("begins", "ends")]


def test_one_after_the_other_though_one_fails(serve: Serve) -> None:
    told: list[str] = []

    async def main() -> None:
        handlers: list[Any] = [lambda data: told.append("cameras"), lambda data: 1 / 0, lambda data: told.append("end")]
        rigs = [serve(name, {"EXPINTERRUPT": h}) for name, h in zip(["cameras", "bad", "end"], handlers, strict=True)]
        async with opened(rigs) as services:
            await services.init()
            with pytest.raises(PushError, match="ZeroDivisionError") as raised:
                await services.stop(immediately=True, concurrent=False)
            assert list(raised.value.failed) == ["bad"]
            assert sorted(raised.value.result) == ["cameras", "end"]
            assert raised.value.result.request_time in services.log

    run(main())
    assert told == ["end", "cameras"]


def test_await_all(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras"), serve("ephys")]) as services:
            waiting = asyncio.ensure_future(services.await_all("EXPSTATUS"))
            await asyncio.sleep(0)
            await services.status("CONNECTED")
            assert await waiting == {"cameras": [0], "ephys": [0]}
            services.timeout = SHORT
            with pytest.raises(asyncio.TimeoutError, match=r"^no EXPEND within 0\.05 s from cameras, ephys$"):
                await services.await_all("EXPEND")
            await came_true(lambda: not [t for t in asyncio.all_tasks() if "on_event" in repr(t)])
            assert services.clear_callbacks("EXPEND") == {"cameras": 0, "ephys": 0}

    run(main())


def test_await_all_of_no_rigs_ends_at_once() -> None:
    assert run(RigServices(rigs_from({})).await_all("EXPEND")) == {}


def test_await_all_of_several_messages_takes_the_first_of_each_rig(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras"), serve("ephys")]) as services:
            waiting = asyncio.ensure_future(services.await_all(ExpMessage.EXPSTATUS | ExpMessage.EXPINFO))
            await asyncio.sleep(0)
            await services["ephys"].info("RUNNING")
            await services["cameras"].status("CONNECTED")
            answers = await waiting
            assert (answers["cameras"], answers["ephys"][0]) == ([0], ExpStatus.CONNECTED)

    run(main())


def test_await_all_raises_the_failure_of_a_rig_that_was_asked(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras", {"EXPINFO": lambda *_: 1 / 0}), serve("ephys")]) as services:
            for rig in services.values():
                await rig.info("CONNECTED")
            with pytest.raises(RemoteError, match="ZeroDivisionError"):
                await services.await_all("EXPINFO")

    run(main())


def test_alyx(serve: Serve) -> None:
    class Alyx:
        base_url, user, _token, is_logged_in = "https://alyx.example.org", "anne", "secret", True

    given: list[Any] = []

    def handle(base_url: str | None, token: Any) -> Any:
        given.append((base_url, token))
        return None if token else ("https://other.example.org", {"bert": "word"})

    async def main() -> None:
        async with opened([serve("cameras", {"ALYX": handle})]) as services:
            assert list(await services.alyx(Alyx())) == ["cameras"]
            assert await services.alyx() == {"cameras": ["https://other.example.org", {"bert": "word"}]}
            assert await services["cameras"].alyx(Alyx()) is None
            assert await services["cameras"].alyx() == ["https://other.example.org", {"bert": "word"}]
            await services["cameras"].confirmed_send((ExpMessage.ALYX, "https://a.example.org", {"carl": "key"}))
            await came_true(lambda: len(given) == 5)  # it is confirmed before it is handled
            with pytest.raises(TypeError, match="base_url"):
                await services.alyx("token")

    run(main())
    mine = ("https://alyx.example.org", {"anne": "secret"})
    assert given == [mine, (None, {}), mine, (None, {}), ("https://a.example.org", {"carl": "key"})]


# ------------------------------------------------------------------------------------------------------- time-outs


def test_each_rig_has_its_own_timeout_until_one_is_set(serve: Serve) -> None:
    held = threading.Event()

    def hold(*_: Any) -> None:
        held.wait(LONG)

    async def main() -> None:
        quick, slow = serve("quick", {"EXPINFO": hold}), serve("slow", {"EXPINFO": hold})
        clients = {"quick": {"uri": quick.uri, "timeout": 0.1}, "slow": {"uri": slow.uri, "timeout": 0.2}}
        async with opened([clients]) as services:
            await came_true(lambda: services.all_alive)
            assert services.timeout == 0.2
            with pytest.raises(PushTimeout) as raised:
                await services.info("CONNECTED")
            assert sorted(raised.value.failed) == ["quick", "slow"]
            services.timeout = 0.05
            assert services.timeout == 0.05
            with pytest.raises(PushTimeout):
                await services.info("CONNECTED")
            for unlimited in (0, None):
                services.timeout = unlimited  # type: ignore[assignment]
                assert services.timeout == 0
                waiting = asyncio.ensure_future(services.info("CONNECTED"))
                done, _ = await asyncio.wait({waiting}, timeout=0.4)
                assert not done
                held.set()
                assert sorted(await waiting) == ["quick", "slow"]
                held.clear()

    try:
        run(main())
    finally:
        held.set()


def test_time_allowed_for_a_confirmation() -> None:
    async def main() -> None:
        with RawRig("cameras", RawRig.ignore) as raw:
            async with opened([raw]) as services:
                with pytest.raises(RigTimeout, match="without a sign"):
                    await services["cameras"].confirmed_send(["EXPEND"], timeout=SHORT)

    run(main())


# ------------------------------------------------------------------------------------------------------- callbacks


def test_callbacks(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras"), serve("ephys")]) as services:
            calls: list[Any] = []

            def callback(data: Any, addr: Any, rig: Any = None) -> None:
                calls.append((data, addr, rig))

            services.assign_callback("EXPSTATUS", callback)
            services.assign_callback(ExpMessage.EXPSTATUS, callback, return_service=True)
            await services.status("CONNECTED")
            expected = [([0], (rig.hostname, rig.port), given) for rig in services.values() for given in (None, rig)]
            assert sorted(calls, key=repr) == sorted(expected, key=repr)
            assert services.clear_callbacks("EXPSTATUS", callback) == {"cameras": 2, "ephys": 2}
            assert services.clear_callbacks("EXPSTATUS") == {"cameras": 0, "ephys": 0}
            calls.clear()
            await services.status("CONNECTED")
            assert calls == []
            with pytest.raises(TypeError):
                services.assign_callback("EXPSTATUS", "no function")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="is a function"):
                services.assign_callback("EXPSTATUS", asyncio.Future(), return_service=True)
            with pytest.raises(ValueError, match="NOSUCH"):
                services.assign_callback("NOSUCH", callback)

    run(main())


def test_callback_for_several_events_gets_the_rig_last(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            calls: list[Any] = []
            both = ExpMessage.EXPSTATUS | ExpMessage.EXPEND
            services.assign_callback(both, lambda data, addr, *rest: calls.append(rest), return_service=True)
            await services.status("CONNECTED")
            assert calls == [(ExpMessage.EXPSTATUS, services["cameras"])]

    run(main())


def test_callback_that_gets_the_rig_and_raises_is_logged_by_its_name(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def clumsy(*_: Any) -> None:
        raise ValueError("oh")

    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            services.assign_callback("EXPSTATUS", clumsy, return_service=True)
            await services.status("CONNECTED")

    run(main())
    assert "clumsy raised an exception" in caplog.text


def test_callback_for_several_events_is_told_which(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            calls: list[Any] = []
            rig, both = services["cameras"], ExpMessage.EXPSTATUS | ExpMessage.EXPEND
            rig.assign_callback(both, lambda data, addr, event: calls.append(event))
            await services.status("CONNECTED")
            await services.stop()
            await services.info("CONNECTED")
            assert calls == [ExpMessage.EXPSTATUS, ExpMessage.EXPEND]
            assert rig.clear_callbacks(both) == 2
            rig.assign_callback(~ExpMessage.ALYX, lambda *_: calls.append("any"))
            assert rig.clear_callbacks(~ExpMessage.ALYX) == 7

    run(main())


def test_futures_as_callbacks(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            future = asyncio.get_running_loop().create_future()
            services.assign_callback("EXPSTATUS", future)
            await services.status("CONNECTED")
            rig = services["cameras"]
            assert await future == ([0], (rig.hostname, rig.port))
            await services.status("CONNECTED")  # it is spent, and in nobody's way
            cancelled, kept = (asyncio.get_running_loop().create_future() for _ in range(2))
            rig.assign_callback("EXPEND", cancelled)
            rig.assign_callback("EXPEND", kept)
            assert rig.clear_callbacks("EXPEND", cancelled) == 1
            assert rig.clear_callbacks("EXPEND", cancel_futures=False) == 1
            assert (cancelled.cancelled(), kept.cancelled()) == (True, False)

    run(main())


def test_future_of_another_loop_is_cancelled_on_that_loop(serve: Serve, connect: Connect) -> None:
    aux = connect(serve("cameras"))
    assert aux.services is not None
    rig = aux.services["cameras"]
    waiters = [in_thread(run, rig.on_event("EXPEND")) for _ in range(3)]
    until(lambda: len(rig._callbacks[ExpMessage.EXPEND]) == 3)
    assert rig.clear_callbacks("EXPEND") == 3
    for waiter in waiters:
        with pytest.raises(asyncio.CancelledError):
            waiter.result(PROMPT)


def test_callback_that_raises_is_logged_and_harms_nobody(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def clumsy(*_: Any) -> None:
        raise ValueError("clumsy")

    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            calls: list[Any] = []
            services.assign_callback("EXPSTATUS", clumsy)
            services.assign_callback("EXPSTATUS", lambda data, addr: calls.append(data))
            future = asyncio.get_running_loop().create_future()
            services.assign_callback("EXPSTATUS", future)
            assert await services.status("CONNECTED") == {"cameras": [0]}
            assert calls == [[0]]
            assert (await future)[0] == [0]
            assert services.all_alive

    run(main())
    assert any("clumsy" in r.getMessage() and "EXPSTATUS" in r.getMessage() for r in caplog.records)


def test_callbacks_may_be_assigned_and_cleared_from_other_threads(serve: Serve, connect: Connect) -> None:
    aux = connect(serve("cameras"))
    services = aux.services
    assert services is not None
    calls: list[Any] = []

    def work() -> None:
        def mine(data: Any, addr: Any) -> None:
            calls.append(data)

        for _ in range(50):
            services.assign_callback("EXPSTATUS", mine)
            assert services.clear_callbacks("EXPSTATUS", mine) == {"cameras": 1}

    services.assign_callback("EXPSTATUS", lambda data, addr: calls.append("mine"))
    workers = [in_thread(work) for _ in range(4)]
    for _ in range(100):
        aux.request("EXPSTATUS")
    for worker in workers:
        worker.result(LONG)
    assert calls.count("mine") == 100
    assert services.clear_callbacks("EXPSTATUS") == {"cameras": 1}


# --------------------------------------------------------------------------------------- confirmed_send and on_event


async def ask(rig: RemoteRig, number: int, wait: float | None) -> Any:
    """Do as iblutil's documentation shows: send, wait for the confirmation, then for the answer."""
    await rig.confirmed_send([ExpMessage.EXPINFO, 0, number])
    answer = rig.on_event("EXPINFO")
    data, addr = await (answer if wait is None else asyncio.wait_for(answer, wait))
    assert addr == (rig.hostname, rig.port)
    return data


def count_up(status: int, data: int) -> dict[str, int]:
    return {"next": data + 1}


@pytest.mark.parametrize("wait", [None, LONG], ids=["bare", "wait_for"])
def test_answer_is_not_missed_on_the_services_loop(serve: Serve, wait: float | None) -> None:
    async def main() -> None:
        async with opened([serve("cameras", {"EXPINFO": count_up})]) as services:
            for number in range(200):
                data = await ask(services["cameras"], number, wait)
                assert data[1]["next"] == number + 1

    run(main())


@pytest.mark.parametrize("wait", [None, LONG], ids=["bare", "wait_for"])
def test_answer_is_not_missed_on_another_loop(serve: Serve, connect: Connect, wait: float | None) -> None:
    aux = connect(serve("cameras", {"EXPINFO": count_up}))
    assert aux.services is not None
    rig = aux.services["cameras"]

    async def main() -> None:
        for number in range(200):
            assert (await ask(rig, number, wait))[1]["next"] == number + 1

    run(main())


def test_answer_is_not_missed_between_looking_and_waiting(serve: Serve, connect: Connect) -> None:
    """The answer may come at any point of `on_event`, which runs on another thread than the one that delivers."""
    aux = connect(serve("cameras", {"EXPINFO": count_up}))
    assert aux.services is not None
    rig = aux.services["cameras"]
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        run(_ask_often(rig, 200))
    finally:
        sys.setswitchinterval(switching)


@pytest.mark.parametrize("who", ["on_event", "deliver"])
def test_answer_is_not_missed_wherever_the_other_thread_stands(who: str) -> None:
    """Stop the one thread before each line in turn, and let the other one do all that it can meanwhile."""
    clients = rigs_from({"cameras": "udp://127.0.0.1:11001"})
    rig, places = RemoteRig(clients.rigs["cameras"], RigServices(clients)), set[int]()
    addr = "127.0.0.1", 11001

    def wait() -> Any:
        return run(rig.on_event("EXPINFO"))

    def deliver() -> None:
        rig.deliver(ExpMessage.EXPINFO, [1], addr)

    def go() -> tuple[Any, bool]:
        others: list[Any] = []

        def stop(frame: FrameType, event: str, _: Any) -> Any:
            is_new = frame.f_code.co_filename == remote_rig.__file__ and frame.f_lineno not in places
            if event == "line" and is_new and not others:
                places.add(frame.f_lineno)
                others.append(in_thread(deliver if who == "on_event" else wait))
                until(lambda: others[0].done() or (who == "deliver" and any(rig._callbacks.values())))
            return stop

        rig._asked.add(ExpMessage.EXPINFO)
        in_the_end = threading.Timer(0.3, lambda: others or deliver())
        if who == "on_event":
            in_the_end.start()
        sys.settrace(stop)
        try:
            outcome = wait() if who == "on_event" else deliver()
        finally:
            sys.settrace(None)
        if who == "on_event":
            in_the_end.cancel()
            in_the_end.join()
        else:
            outcome = (others[0] if others else in_thread(wait)).result(LONG)
        return outcome, bool(others)

    is_new = True
    while is_new:
        outcome, is_new = in_thread(go).result(LONG)
        assert outcome == ([1], addr)
        assert (rig._unclaimed, any(rig._callbacks.values()), rig._asked) == ({}, False, set())
    assert len(places) > 8


async def _ask_often(rig: RemoteRig, times: int) -> None:
    for number in range(times):
        assert (await ask(rig, number, None))[1]["next"] == number + 1


def test_several_tasks_ask_for_different_things(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            rig = services["cameras"]

            async def one(event: str, *args: Any) -> Any:
                for _ in range(50):
                    await rig.confirmed_send([event, *args])
                    await asyncio.sleep(0)
                    data, _ = await rig.on_event(event)
                return data

            asked = [one("EXPSTATUS", 0), one("EXPINFO", 0), one("EXPEND"), one("EXPCLEANUP")]
            status, info, *_ = await asyncio.gather(*asked)
            assert status == [0]
            assert info[1]["status"] == 0

    run(main())


def test_a_rig_tells_what_its_view_tells_and_so_does_a_ping(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            rig = services["cameras"]
            await came_true(lambda: rig.state is events.LinkState.ALIVE and rig.rig_status is not None)
            await rig.init({"exp_ref": REFERENCE})
            await came_true(lambda: rig.exp_ref is not None and rig.owner is not None)
            replies: list[Any] = []
            services.ping("cameras", LONG, replies.append)
            await came_true(lambda: bool(replies))
            view, (reply,) = rig.view, replies
            assert isinstance(view, RigView)
            assert (view.rig, view.link, view.status) == ("cameras", rig.state, rig.rig_status)
            names = ["dialect", "exp_ref", "version", "owner"]
            assert [getattr(rig, name) for name in names] == [getattr(reply, name) for name in names]
            assert (reply.rig, reply.status) == (view.rig, view.status and view.status.name)
        closed = rig.view
        assert (rig.reason, rig.dialect, rig.clock, rig.progress, rig.streams) == (
            closed.reason,
            "unknown",
            None,
            {},
            {},
        )
        assert closed.reason == "the services are not open"
        assert type(rig).rig_status.__doc__

    run(main())


def test_what_is_announced_is_filed_and_rules_come_before_subscribers(serve: Serve) -> None:
    async def main() -> None:
        told: list[tuple[str, bool, bool]] = []
        async with opened([serve("cameras")]) as services:

            def note(event: events.PushCompleted) -> None:
                is_filed = event.request_time in services.log
                told.append((type(event).__name__, is_filed, services.response_received.is_set()))

            services.response_received.mark()
            services.hub.subscribe(events.PushCompleted, note)
            assert services.connected.is_set()
            await services.status(0)
        assert told == [("PushCompleted", True, True)]
        assert not services.connected.is_set()

    run(main())


def test_verbs_of_one_rig(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras"), serve("ephys")]) as services:
            rig = services["cameras"]
            await rig.init({"exp_ref": REFERENCE})
            data, _ = await rig.on_event("EXPINIT")
            assert data[0]["exp_ref"] == REFERENCE
            await rig.start(REFERENCE, {"a": 1})
            assert (await rig.on_event("EXPSTART"))[0][0] == REFERENCE
            await rig.status("RUNNING")
            assert (await rig.on_event("EXPSTATUS"))[0] == [20]
            await rig.info(ExpStatus.RUNNING, {"b": 2})
            assert (await rig.on_event("EXPINFO"))[0][0] == 20
            await rig.stop()
            assert (await rig.on_event(ExpMessage.EXPEND))[0][0]["status"] == 30
            await rig.cleanup()
            await rig.on_event("EXPCLEANUP")
            await rig.stop(immediately=True)
            data, _, event = await rig.on_event(ExpMessage.EXPEND | ExpMessage.EXPINTERRUPT)
            assert event is ExpMessage.EXPINTERRUPT
            assert (await services.status("CONNECTED")) == {"cameras": [0], "ephys": [0]}

    run(main())


def test_several_events_at_once(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            rig, ends = services["cameras"], ExpMessage.EXPEND | ExpMessage.EXPINTERRUPT
            for event in (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT) * 2:
                waiting = asyncio.ensure_future(rig.on_event(ends))  # before the message
                await asyncio.sleep(0)
                await rig.confirmed_send([event])
                assert (await waiting)[2] is event
                await rig.confirmed_send([event])
                await came_true(lambda event=event: event in rig._unclaimed)
                assert (await rig.on_event(ends))[2] is event  # after the message
                await rig.confirmed_send([event])
                assert len(await rig.on_event(event)) == 2

    run(main())


def test_waiting_that_was_given_up_does_not_take_the_next_answer(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            rig = services["cameras"]
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(rig.on_event("EXPEND"), SHORT)
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(rig.on_event(ExpMessage.EXPEND | ExpMessage.EXPINIT), SHORT)
            assert not any(rig._callbacks.values())
            cancelled = asyncio.get_running_loop().create_future()
            rig.assign_callback("EXPEND", cancelled)
            cancelled.cancel()
            await rig.confirmed_send(["EXPEND"])
            await came_true(lambda: ExpMessage.EXPEND in rig._unclaimed)
            assert await asyncio.wait_for(rig.on_event("EXPEND"), LONG)

    run(main())


def test_answer_that_nobody_fetched_is_not_taken_for_the_next(serve: Serve) -> None:
    held = threading.Event()

    def handle(status: int, data: int) -> dict[str, int]:
        assert data == 1 or held.wait(LONG)
        return {"next": data + 1}

    async def main() -> None:
        async with opened([serve("cameras", {"EXPINFO": handle})]) as services:
            rig = services["cameras"]
            await rig.info(0, 1)
            await came_true(lambda: ExpMessage.EXPINFO in rig._unclaimed)
            await rig.info(0, 2)
            waiting = asyncio.ensure_future(rig.on_event("EXPINFO"))
            await asyncio.sleep(SHORT)
            held.set()
            assert (await waiting)[0][1]["next"] == 3
            with pytest.raises(asyncio.TimeoutError):  # and an answer is fetched once
                await asyncio.wait_for(rig.on_event("EXPINFO"), SHORT)

    try:
        run(main())
    finally:
        held.set()


def test_failure_reaches_who_waits_for_the_answer(serve: Serve, connect: Connect) -> None:
    def fail(*_: Any) -> None:
        raise FileNotFoundError("no disk D:")

    aux = connect(serve("cameras", {"EXPINIT": fail}))
    assert aux.services is not None
    rig = aux.services["cameras"]

    async def main() -> None:
        for _ in range(20):  # whether the failure comes before the waiting or after it
            await rig.confirmed_send(["EXPINIT"])
            with pytest.raises(RemoteError, match="no disk D:"):
                await rig.on_event("EXPINIT")
        # Not that of another message, nor that of the next of the same.
        await rig.confirmed_send(["EXPINIT"])
        await rig.confirmed_send(["EXPSTATUS"])
        assert (await rig.on_event("EXPSTATUS"))[0] == [0]
        with pytest.raises(RemoteError):
            await rig.on_event("EXPINIT")

    run(main())


def test_answer_that_never_comes_after_its_confirmation(connect: Connect) -> None:
    with RawRig("cameras", RawRig.acknowledge) as raw:
        aux = connect({"cameras": {"uri": raw.uri, "timeout": 1.0}})  # within which it is confirmed
        assert aux.services is not None
        rig = aux.services["cameras"]

        async def main() -> None:
            await rig.confirmed_send(["EXPINIT"])
            with pytest.raises(RigTimeout, match="still working"):
                await rig.on_event("EXPINIT")

        run(main())


def test_unconfirmed_message_leaves_nothing_for_the_next_wait() -> None:
    async def main() -> None:
        with RawRig("cameras", RawRig.ignore) as raw:
            async with opened([raw]) as services:
                rig = services["cameras"]
                with pytest.raises(RigError):
                    await rig.confirmed_send(["EXPINIT"], timeout=SHORT)
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(rig.on_event("EXPINIT"), SHORT)

    run(main())


def test_confirmation_comes_before_the_answer(serve: Serve) -> None:
    held = threading.Event()

    async def main() -> None:
        async with opened([serve("cameras", {"EXPINIT": lambda data: held.wait(LONG) and None})]) as services:
            rig = services["cameras"]
            await rig.init()
            waiting = asyncio.ensure_future(rig.on_event("EXPINIT"))
            await asyncio.sleep(SHORT)
            assert not waiting.done()
            held.set()
            assert (await waiting)[0][0]["status"] == 10

    try:
        run(main())
    finally:
        held.set()


def test_caller_who_gave_up_the_confirmation_harms_nothing() -> None:
    async def main() -> None:
        requests: list[Any] = []
        with RawRig("cameras", lambda raw, *request: requests.append(request)) as raw:
            async with opened([raw]) as services:
                rig = services["cameras"]
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(rig.confirmed_send(["EXPINIT"]), SHORT)
                await came_true(lambda: requests)
                raw.reply(*requests[-1])
                raw.on_request = RawRig.reply
                await rig.confirmed_send(["EXPSTATUS", 0])
                assert (await rig.on_event("EXPSTATUS"))[0] == [{"by": "cameras"}]

    run(main())


@pytest.mark.parametrize(
    "data",
    [
        ["EXPSTATUS", 0],
        ("expstatus",),
        [32, "CONNECTED"],
        "[32, 0]",
        b"[32]",
        bytearray(b"[32]"),
        [ExpMessage.EXPSTATUS],
    ],
)
def test_forms_of_a_message(serve: Serve, data: Any) -> None:
    assert ExpMessage.EXPSTATUS == 32

    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            await services["cameras"].confirmed_send(data)
            assert (await services["cameras"].on_event("EXPSTATUS"))[0] == [0]
            services["cameras"].send(data)
            await came_true(lambda: len(services.log) == 2)

    run(main())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([], TypeError),
        (5, TypeError),
        ("{}", TypeError),
        ("no JSON", json.JSONDecodeError),
        (["NOSUCH"], ValueError),
        ([ExpMessage.EXPINIT | ExpMessage.EXPEND], ValueError),
        (["EXPEND", 1, 2], TypeError),
        (["EXPEND", object()], PayloadError),
    ],
)
def test_what_is_no_message(serve: Serve, data: Any, error: type) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            with pytest.raises(error):
                await services["cameras"].confirmed_send(data)
            with pytest.raises(error):
                services["cameras"].send(data)
            assert len(services.log) == 0

    run(main())


def test_send_waits_for_nothing(serve: Serve) -> None:
    got: list[Any] = []

    async def main() -> None:
        async with opened([serve("cameras", {"EXPINFO": lambda status, data: got.append(data)})]) as services:
            for i in range(5):
                services["cameras"].send(["EXPINFO", 0, i])
            services["cameras"].send(["EXPINFO", 0, 5], addr=services.address("cameras"))
            await came_true(lambda: len(got) == 6)
            with pytest.raises(ValueError, match="not at"):
                services["cameras"].send(["EXPINFO", 0], addr=("127.0.0.1", 1))
            with pytest.raises(ValueError, match="not at"):
                await services["cameras"].confirmed_send(["EXPINFO", 0], addr=("10.0.0.1", services["cameras"].port))

    run(main())
    assert got == list(range(6))


# ------------------------------------------------------------------------------------------------------- iblutil rigs


def test_iblutil_rig(serve: Serve) -> None:
    async def main() -> None:
        with EchoServer("cameras", lambda event, data: [{"got": data}]) as echo:
            async with opened([echo, serve("ephys")]) as services:
                rig = services["cameras"]
                assert rig.dialect == "iblutil"
                for number in range(30):
                    await rig.confirmed_send(["EXPINIT", number])
                    data, addr = await rig.on_event("EXPINIT")
                    assert data == [{"got": [number]}]
                    assert addr == (rig.hostname, rig.port)
                answers = await services.init({"exp_ref": REFERENCE})
                assert answers["cameras"] == [{"got": [{"exp_ref": REFERENCE}]}]
                assert sorted(answers) == ["cameras", "ephys"]

    run(main())


def test_iblutil_rig_whose_callback_fails(serve: Serve) -> None:
    def fail(event: ExpMessage, data: list[Any]) -> None:
        raise OSError("no disk D:")

    async def main() -> None:
        with EchoServer("cameras", fail) as echo:
            async with opened([echo]) as services:
                rig = services["cameras"]
                with pytest.raises(PushError, match="OSError: no disk D:") as raised:
                    await services.init()
                assert isinstance(raised.value.failed["cameras"], RemoteError)
                await rig.init()
                with pytest.raises(RemoteError, match="no disk D:"):
                    await rig.on_event("EXPINIT")

    run(main())


def test_iblutil_rig_sends_of_its_own_accord() -> None:
    async def main() -> None:
        with EchoServer("cameras") as echo:
            async with opened([echo]) as services:
                await services.status("CONNECTED")
                waiting = asyncio.ensure_future(
                    services["cameras"].on_event(ExpMessage.EXPEND | ExpMessage.EXPINTERRUPT)
                )
                await asyncio.sleep(0)
                sent = echo.send(ExpMessage.EXPINTERRUPT, {"why": "disk full"})
                data, _, event = await waiting
                assert (data, event) == ([{"why": "disk full"}], ExpMessage.EXPINTERRUPT)
                await asyncio.wrap_future(sent)  # its echo is back

    run(main())


def test_complaint_reaches_the_callbacks_for_errors() -> None:
    async def main() -> None:
        with EchoServer("cameras") as echo:  # of a rig of the rigsync dialect anybody could forge it
            async with opened([echo]) as services:
                errors: list[Any] = []
                services.assign_callback(ExpMessage(0), lambda data, addr: errors.append(data))
                future = asyncio.get_running_loop().create_future()
                services["cameras"].assign_callback(0, future)
                await services.status("CONNECTED")
                echo.complain(b'[0, "OSError: disk full", 4]')
                data, _ = await future
                assert data == ["OSError: disk full", ExpMessage.EXPEND]
                assert errors == [data]
                assert services["cameras"].clear_callbacks(0) == 1

    run(main())


# --------------------------------------------------------------------------------------------- events, log, the rest


def test_events_and_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    told: list[Any] = []
    hub = Hub()
    hub.subscribe(events.CoordinatorEvent, told.append)

    async def main() -> None:
        rig = serve("cameras")
        async with hub, opened([rig], hub=hub) as services:
            result = await services.request(compose("EXPSTATUS"))
            assert isinstance(result, PushResult)
            assert services.log[result.request_time] is result
            rig.close()
            await came_true(lambda: not services.all_alive)
            assert services.connected.is_set()
            serve("cameras", port=int(rig.uri.rpartition(":")[2]))
            await came_true(lambda: services.all_alive)

    run(main())
    kinds = [type(event) for event in told]
    for kind in (events.DialectDetected, events.ProbeAnswered, events.MessageReceived, events.PushCompleted):
        assert kind in kinds
    assert kinds.count(events.RestartSeen) == 1
    links = [event.after.value for event in told if isinstance(event, events.LinkChanged)]
    assert links == ["alive", "lost", "alive"]
    levels = {r.getMessage().partition(":")[0]: r.levelno for r in caplog.records if r.name == "rigsync.link"}
    assert levels["cameras is lost"] == logging.WARNING
    assert levels["cameras is alive"] == logging.INFO


def test_failures_are_logged_with_the_rigs_name(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with silent_rig("cameras") as clients:
            async with opened([clients]) as services:
                services.timeout = SHORT
                with pytest.raises(PushTimeout):
                    await services.stop()

    run(main())
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].startswith("EXPEND: cameras: no answer to EXPEND in time")


def test_request_times_are_unique_though_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0 + draw_request_time(), *[5.0] * 10_000])
    monkeypatch.setattr(results.time, "time", lambda: next(clock))
    monkeypatch.setattr(results, "_drawn", results._drawn.copy())  # restored afterwards
    drawn = [in_thread(lambda: [draw_request_time() for _ in range(500)]) for _ in range(8)]
    times = [future.result(LONG) for future in drawn]
    assert all(of_one == sorted(of_one) for of_one in times)
    assert len({t for of_one in times for t in of_one}) == 8 * 500


def test_pushes_from_many_tasks(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras", {"EXPINFO": count_up}), serve("ephys")]) as services:
            answers = await asyncio.gather(*(services.info("CONNECTED", number) for number in range(100)))
            assert [answer["cameras"][1]["next"] for answer in answers] == list(range(1, 101))
            assert len(services.log) == 100

    run(main())


def test_services_of_a_closed_loop_say_so(serve: Serve) -> None:
    services = RigServices(rigs_from({"cameras": serve("cameras").uri}))
    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(services.open())
    loop.run_until_complete(asyncio.sleep(0))
    services.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with pytest.raises(NotRunning):
        services["cameras"].send(["EXPEND"])
    ends_within(PROMPT, services.close)


def test_forged_answer_from_elsewhere_has_no_effect(connect: Connect) -> None:
    """Also see test_endpoint.py; here for the iblutil dialect, which has nothing else to tell it by."""
    with RawRig("cameras", RawRig.acknowledge) as raw, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
        aux = connect(raw)
        push = in_thread(aux.push, "EXPEND", wait=True, timeout=0.3)
        until(lambda: raw.requests)
        forger.sendto(b"[4, {}]", raw.sources["Request"])
        forger.sendto(
            messages.reply(RawRig.boot, raw.requests[0].n, compose("EXPEND", {}), 1, 2), raw.sources["Request"]
        )
        assert isinstance(push.result(LONG), PushTimeout)


def test_stopping_immediately_interrupts_though_older_releases_of_iblutil_name_another_event(serve: Serve) -> None:
    told: list[str] = []

    async def main() -> None:
        handlers = {
            "EXPINTERRUPT": lambda data=None: told.append("EXPINTERRUPT"),
            "EXPEND": lambda data=None: told.append("EXPEND"),
        }
        async with opened([serve("cameras", handlers)]) as services:
            await services.init("2026-01-01_1_mouse")
            await services._signal(ExpMessage.EXPEND, "stop", data=None, immediately=True, reverse=True)

    run(main())
    assert told == ["EXPINTERRUPT"]


def test_unknown_rig_fails_at_the_call(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            with pytest.raises(UnknownRig, match="the rigs are: cameras"):
                await services.request(compose("EXPSTATUS"), ["camera"])

    run(main())


def test_what_is_outstanding_when_the_services_close_is_in_the_log_and_announced() -> None:
    async def main() -> None:
        with silent_rig("cameras") as clients:
            async with opened([clients]) as services:
                order = services.order(compose("EXPSTART"))
                services.push(order)
                services.response_received.mark()
                services.close()
                assert isinstance(services.log[order.request_time].failed["cameras"], Aborted)
                assert services.response_received.is_set()

    run(main())


def test_a_waiter_that_raises_stops_neither_the_pump_nor_the_others(serve: Serve) -> None:
    def clumsy(_: Any) -> None:
        raise ValueError("clumsy")

    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            services.push(services.order(compose("EXPSTATUS")), clumsy)
            assert await services.request(compose("EXPSTATUS"))

    run(main())


def test_a_rig_that_is_lost_as_the_search_for_it_ends_is_searched_for_anew(serve: Serve) -> None:
    async def main() -> None:
        async with opened([serve("cameras")]) as services:
            services._ways._search("cameras")
            await asyncio.sleep(0)  # it ends, which it is about to tell
            ended = services._ways._searches["cameras"]
            assert ended.done()
            services._ways._search("cameras")
            anew = services._ways._searches["cameras"]
            assert anew is not ended
            await asyncio.sleep(0)
            assert services._ways._searches.get("cameras") is not ended
            await came_true(lambda: not services._ways._searches)

    run(main())
