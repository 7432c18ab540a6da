"""Calls between peers: many at once, to all rigs, and from a rig to its coordinator; real rigs and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from live_helpers import EchoServer, Gate, RawRig, in_thread
from processes import LONG, PROBE_WARNING, port_of, until

from rigsync import (
    Aborted,
    Auxiliaries,
    CallError,
    CallTimeout,
    Coordinator,
    LoopBlocked,
    NotRunning,
    NotSupported,
    PayloadError,
    PushError,
    RemoteError,
    Rig,
    RigTimeout,
    UnknownRig,
)
from rigsync.coordinator import links
from rigsync.core import messages
from rigsync.core.throttle import TOLD_EACH_MINUTE
from rigsync.net.relay import relay_before

pytestmark = pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")

Serve = Callable[..., Rig]
Connect = Callable[..., Auxiliaries]


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, LONG))


@pytest.fixture
def rig(serve: Serve) -> Rig:
    return serve("cameras")


@pytest.fixture
def aux(rig: Rig, connect: Connect) -> Auxiliaries:
    return connect(rig)


# ----------------------------------------------------------------------------------------------------- many at once


def test_many_calls_to_one_rig_are_outstanding_and_each_gets_its_own_answer_in_whatever_order(
    rig: Rig, aux: Auxiliaries
) -> None:
    last = threading.Event()

    @rig.command
    def count(n: int) -> int:
        if n == 0:
            assert last.wait(LONG), "the first waits for one that was made after it"
        elif n == 20:
            last.set()
        return -n

    calls = [aux.call_nowait("cameras", "count", n) for n in range(21)]
    assert calls[20].result(LONG) == -20
    assert [call.result(LONG) for call in calls] == [-n for n in range(21)]
    assert all(call.done for call in calls)


def test_calls_are_awaited_on_a_loop_and_waited_for_on_a_thread(serve: Serve) -> None:
    rigs = [serve(name) for name in ("cameras", "ephys", "imaging")]
    for one in rigs:
        one.command("who")(lambda n, name=one.name: [name, n])

    async def main() -> None:
        async with Coordinator({one.name: one.uri for one in rigs}) as lab:
            calls = [lab.call_nowait(rigs[n % 3].name, "who", n) for n in range(300)]
            random.Random(1).shuffle(calls)
            for name, n in await asyncio.gather(*calls):
                assert rigs[n % 3].name == name
            call = lab.call_nowait("cameras", "who", 7)
            with pytest.raises(LoopBlocked, match="await it there"):
                call.result()
            assert await asyncio.get_running_loop().run_in_executor(None, call.result) == ["cameras", 7]
            assert await call == ["cameras", 7], "again"

    run(main())


def test_calls_through_a_bad_network_are_each_run_once(rig: Rig, stack: contextlib.ExitStack) -> None:
    ran: list[int] = []

    @rig.command
    def count(n: int) -> int:
        ran.append(n)
        return -n

    target = {"cameras": ("127.0.0.1", port_of(rig.uri))}
    bad = stack.enter_context(relay_before(target, loss=0.1, duplication=0.1, seed=3))["cameras"]
    aux = stack.enter_context(Auxiliaries({"cameras": "udp://{}:{}".format(*bad.address)}))
    calls = {n: aux.call_nowait("cameras", "count", n, timeout=LONG) for n in range(100)}
    assert {n: call.result(LONG) for n, call in calls.items()} == {n: -n for n in range(100)}
    assert sorted(ran) == list(range(100))
    until(lambda: aux.view("cameras").late_answers > 0)


def test_a_call_fails_for_itself_alone_and_no_log_is_flooded(
    rig: Rig, aux: Auxiliaries, caplog: pytest.LogCaptureFixture
) -> None:
    @rig.command
    def half(n: int) -> int:
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n // 2

    calls = [aux.call_nowait("cameras", "half", n) for n in range(40)]
    until(lambda: all(call.done for call in calls))  # nobody waits for any, so the log tells of a few
    for n, call in enumerate(calls):
        if n % 2:
            with pytest.raises(RemoteError, match=f"{n} is odd"):
                call.result(LONG)
        else:
            assert call.result(LONG) == n // 2

    def told() -> list[Any]:
        return [entry for entry in caplog.records if entry.name == "rigsync.push" and entry.levelno >= logging.ERROR]

    until(lambda: len(told()) == 3)


def test_a_push_waits_for_no_call_and_a_call_for_no_push(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    @rig.on("EXPINIT")
    def prepare(data: Any) -> None:
        assert begun.wait(LONG), "the call has begun although this runs"

    begun = threading.Event()
    rig.command("focus")(lambda: begun.set() or gate())
    init = in_thread(aux.request, "EXPINIT", "2026-11-30_1_mouse")
    call = aux.call_nowait("cameras", "focus")
    assert init.result(LONG)["cameras"]
    assert not call.done
    with pytest.raises(RigTimeout, match=r"cameras: no answer to focus within 0.01 s; it goes on"):
        call.result(0.01)
    gate.open.set()
    assert call.result(LONG) is None


def test_what_makes_no_sense_is_refused_at_the_call(aux: Auxiliaries) -> None:
    with pytest.raises(UnknownRig):
        aux.call_nowait("camras", "focus")
    with pytest.raises(PayloadError):
        aux.call_nowait("cameras", "focus", object())
    with pytest.raises(ValueError, match="push it"):
        aux.call_nowait("cameras", "EXPINIT")
    assert not aux.log


def test_a_call_that_waits_here_is_taken_back_and_the_end_of_the_program_settles_all(
    rig: Rig, aux: Auxiliaries, gate: Gate
) -> None:
    rig.command("focus")(gate)
    calls = [aux.call_nowait("cameras", "focus") for _ in range(12)]
    assert gate.reached.wait(LONG)
    calls[-1].cancel()
    with pytest.raises(Aborted, match="taken out of the queue unsent"):
        calls[-1].result(LONG)
    waiting = in_thread(calls[0].result)
    aux.close()
    with pytest.raises(Aborted, match="this program closed before focus was answered"):
        waiting.result(LONG)
    with pytest.raises(NotRunning):
        aux.call_nowait("cameras", "focus")


def test_more_calls_than_there_is_room_for_are_refused_at_once_with_a_remedy(
    rig: Rig, aux: Auxiliaries, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.command("focus")(lambda *_: gate())
    monkeypatch.setattr("rigsync.coordinator.service.MOST_CALLS", 5)
    monkeypatch.setattr("rigsync.coordinator.service.CALL_BYTES", 10_000)
    calls = [aux.call_nowait("cameras", "focus", "x" * 4000) for _ in range(2)]
    with pytest.raises(CallError, match="2 calls are outstanding; wait for some of them first"):
        aux.call_nowait("cameras", "focus", "x" * 4000)
    calls += [aux.call_nowait("cameras", "focus") for _ in range(3)]
    with pytest.raises(CallError, match="5 calls are outstanding"):
        aux.call_nowait("cameras", "focus")
    gate.open.set()
    assert [call.result(LONG) for call in calls] == [None] * 5
    assert aux.call_nowait("cameras", "focus", "x" * 4000).result(LONG) is None, "there is room again"


def test_the_traceback_of_a_remote_exception_is_shown_above_its_text(rig: Rig, aux: Auxiliaries) -> None:
    @rig.command
    def focus() -> None:
        raise FileNotFoundError("no lens")

    with pytest.raises(RemoteError) as caught:
        aux.call_nowait("cameras", "focus").result(LONG)
    error = caught.value
    assert str(error) == "cameras: FileNotFoundError: no lens"
    assert 'raise FileNotFoundError("no lens")' in error.traceback
    shown = "".join(traceback.format_exception(error))
    assert "on cameras:\n  File " in shown
    assert shown.count('raise FileNotFoundError("no lens")') == 1
    assert shown.count("FileNotFoundError: no lens") == 1
    assert shown.endswith("RemoteError: cameras: FileNotFoundError: no lens\n")
    assert RemoteError("cameras", "Busy", "later").__cause__ is None


@pytest.mark.parametrize("waits", [True, False], ids=["waited for", "nobody waits"])
def test_a_failure_that_is_raised_is_not_logged_too(
    rig: Rig, aux: Auxiliaries, gate: Gate, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @rig.command
    def focus() -> None:
        gate()
        raise OSError("no lens")

    caplog.set_level(logging.INFO, "rigsync.push")
    call = aux.call_nowait("cameras", "focus")
    assert gate.reached.wait(LONG)
    waiting = in_thread(call.result) if waits else None
    pending = aux.services._pending[call.request_time]
    until(lambda: bool(pending.is_waited_for) == waits)
    gate.open.set()
    until(lambda: call.done)
    if waiting:
        with pytest.raises(RemoteError, match="no lens"):
            waiting.result(LONG)
    (record,) = until(lambda: [record for record in caplog.records if record.name == "rigsync.push"])
    assert record.getMessage() == "focus: cameras: OSError: no lens"
    assert record.levelno == (logging.INFO if waits else logging.ERROR)


def test_of_many_calls_that_are_waited_for_the_log_tells_a_few(
    rig: Rig, aux: Auxiliaries, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(links, "FIRST_WORD", 0.05)
    caplog.set_level(logging.DEBUG, "rigsync.wait")
    rig.command("focus")(gate)
    calls = [aux.call_nowait("cameras", "focus", timeout=LONG) for _ in range(50)]

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*calls)

    waiting = in_thread(asyncio.run, all_of_them())

    def levels() -> list[int]:
        return [record.levelno for record in caplog.records if record.name == "rigsync.wait"]

    until(lambda: len(levels()) > 50)
    gate.open.set()
    assert levels().count(logging.WARNING) == TOLD_EACH_MINUTE
    assert waiting.result(LONG) == [None] * 50


# -------------------------------------------------------------------------------------------------------- published


def test_what_is_published_is_heard_by_all_rigs_and_confirmed_by_each(serve: Serve, connect: Connect) -> None:
    rigs = {name: serve(name) for name in ("cameras", "ephys", "imaging")}
    heard: list[Any] = []
    rigs["cameras"].on_topic("light")(lambda body: heard.append(("cameras", body)))

    @rigs["ephys"].on_topic("light")
    async def note(body: Any) -> dict[str, int]:
        heard.append(("ephys", body))
        return {"what it returns": 1}

    @rigs["ephys"].on_topic("light")
    def note_bare() -> None:
        heard.append(("ephys", "again"))

    rigs["ephys"].on_topic("sound")(lambda body: heard.append(body))
    aux = connect(*rigs.values())
    result = aux.publish("light", {"lux": 3}).result(LONG)
    assert result == {"cameras": ["heard"], "ephys": ["heard"], "imaging": ["nobody listens"]}
    assert sorted(heard, key=str) == [("cameras", {"lux": 3}), ("ephys", "again"), ("ephys", {"lux": 3})]
    assert aux.publish("light", rigs="im*").result(LONG) == {"imaging": ["nobody listens"]}

    async def publish() -> Any:
        async with Coordinator({name: rig.uri for name, rig in rigs.items()}) as lab:
            return await lab.publish("sound", "beep")

    assert run(publish()) == {"cameras": ["nobody listens"], "ephys": ["heard"], "imaging": ["nobody listens"]}
    assert heard[-1] == "beep"


def test_what_is_published_in_order_is_heard_in_order(rig: Rig, aux: Auxiliaries) -> None:
    heard: list[int] = []
    rig.on_topic("gain")(heard.append)
    pushes = [aux.publish("gain", n) for n in range(50)]
    assert [push.result(LONG) for push in pushes] == [{"cameras": ["heard"]}] * 50
    assert heard == list(range(50))


def test_rigs_that_do_not_hear_what_is_published_are_named_each_with_its_reason(
    serve: Serve, connect: Connect, stack: contextlib.ExitStack
) -> None:
    rig = serve("cameras")

    @rig.on_topic("light")
    def fail(body: Any) -> None:
        raise OSError("no lamp")

    echo = stack.enter_context(EchoServer("iblutil"))
    old = stack.enter_context(RawRig("old", refuse_unknown))
    clients = {"cameras": rig.uri, "iblutil": echo.uri, "old": old.uri}
    aux = stack.enter_context(Auxiliaries(clients))
    with pytest.raises(PushError) as caught:
        aux.publish("light").result(LONG)
    told = {name: str(error) for name, error in caught.value.failed.items()}
    assert told == {
        "cameras": "cameras: OSError: no lamp",
        "iblutil": "iblutil: rigsync.publish was not sent: the rig speaks the iblutil dialect, which knows no "
        "commands; run rigsync on that computer (rigsync serve)",
        "old": "old: rigsync.publish was not run: the rig's rigsync, raw, is older than that; update it there",
    }
    assert isinstance(caught.value.failed["old"], NotSupported)


def refuse_unknown(rig: RawRig, request: messages.Request, source: Any) -> None:
    """Answer as a rig of the version before does to a command that it does not know."""
    problem = f"the rig has no command {request.event.name!r}; it has: (none)"
    rig.socket.sendto(messages.failure(rig.boot, request.n, "UnknownCommand", problem, ""), source)


def test_nobody_publishes_into_an_experiment_of_somebody_else(rig: Rig, aux: Auxiliaries, connect: Connect) -> None:
    heard: list[Any] = []
    rig.on_topic("light")(heard.append)
    other = connect(rig)
    aux.request("EXPINIT", "2026-11-30_1_mouse")
    with pytest.raises(PushError, match="BusyError"):
        other.publish("light").result(LONG)
    assert aux.publish("light", 1).result(LONG) == {"cameras": ["heard"]}
    assert heard == [1]


def test_names_of_topics_and_commands_are_checked(rig: Rig, aux: Auxiliaries) -> None:
    for wrong, error in (("", ValueError), ("x" * 101, ValueError), (3, TypeError)):
        with pytest.raises(error):
            aux.publish(wrong)  # type: ignore[arg-type]
        with pytest.raises(error):
            rig.on_topic(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a topic is heard by a function"):
        rig.on_topic("light")(3)  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"rigsync's own: 'rigsync\.publish'"):
        rig.command("rigsync.publish")
    with pytest.raises(RemoteError, match=r"it has: \(none\)"):
        aux.call("cameras", "focus")


# ------------------------------------------------------------------------------------- a rig calls its coordinator

REFERENCE = "2026-11-30_1_mouse"


def test_a_rig_calls_its_coordinator_from_any_handler(rig: Rig, aux: Auxiliaries) -> None:
    threads: list[str] = []

    @aux.command
    def add(a: int, *, b: int = 0) -> int:
        threads.append(threading.current_thread().name)
        return a + b

    @aux.command("where")
    async def name_of_loop() -> str:
        return threading.current_thread().name

    @rig.on("EXPINIT")
    def prepare(data: Any) -> dict[str, Any]:
        return {"sum": rig.call_coordinator("add", 1, b=2).result()}

    @rig.command
    async def ask() -> list[Any]:
        return await asyncio.gather(*(rig.call_coordinator("add", n) for n in range(20)), rig.call_coordinator("where"))

    answer = aux.request("EXPINIT", {"exp_ref": REFERENCE})["cameras"][0]
    assert answer["sum"] == 3, "while the coordinator waits for the answer to EXPINIT"
    assert aux.call("cameras", "ask") == [*range(20), "rigsync-auxiliaries"]
    assert "handler" in threads[0]


def error_of(call: Any) -> Exception:
    """Return what a call of a coordinator raises."""
    with pytest.raises(Exception) as caught:
        call.result(LONG)
    return caught.value


def test_a_command_of_a_coordinator_may_call_the_rig_that_calls_it(rig: Rig, aux: Auxiliaries) -> None:
    rig.command("position")(lambda: 7)
    aux.command("double_position")(lambda: 2 * aux.call("cameras", "position"))
    aux.request("EXPINIT", REFERENCE)
    assert rig.call_coordinator("double_position").result(LONG) == 14


def test_a_coordinator_on_an_event_loop_answers_too(rig: Rig) -> None:
    async def main() -> None:
        async with Coordinator({"cameras": rig.uri}) as lab:

            @lab.command
            async def where() -> str:
                await asyncio.sleep(0)
                return threading.current_thread().name

            await lab.push("EXPINIT", REFERENCE)
            call = rig.call_coordinator("where")
            assert await call == threading.current_thread().name
            assert await call == threading.current_thread().name
            assert lab.command("stay")(asyncio.sleep) is asyncio.sleep
            staying = rig.call_coordinator("stay", LONG)
            while len(lab._commands._tasks) == 0:
                await asyncio.sleep(0.002)
        with pytest.raises(CallError, match="closed before it answered stay"):
            await staying

    run(main())


def test_what_the_function_of_a_coordinator_raises_is_raised_at_the_rig(
    rig: Rig, aux: Auxiliaries, caplog: pytest.LogCaptureFixture
) -> None:
    @aux.command
    def weigh() -> None:
        raise FileNotFoundError("no scale")

    @aux.command
    async def leave() -> None:
        raise asyncio.CancelledError("by itself")

    aux.command("object")(object)
    aux.command("large")(lambda: "x" * 70_000)
    aux.request("EXPINIT", REFERENCE)
    error = error_of(rig.call_coordinator("weigh"))
    assert isinstance(error, RemoteError)
    assert str(error) == "the coordinator on 127.0.0.1: FileNotFoundError: no scale"
    assert 'raise FileNotFoundError("no scale")' in error.traceback
    assert "weigh, called by cameras, failed: FileNotFoundError: no scale" in caplog.text
    assert "CancelledError: by itself" in str(error_of(rig.call_coordinator("leave")))
    assert "PayloadError: the value of object is of type object" in str(error_of(rig.call_coordinator("object")))
    assert "PayloadTooLarge: the message takes 70,209 bytes" in str(error_of(rig.call_coordinator("large")))
    assert str(error_of(rig.call_coordinator("weight"))) == (
        "the coordinator on 127.0.0.1: UnknownCommand: the coordinator has no command 'weight'; it has: weigh, leave, "
        "object, large; add it there by @lab.command"
    )
    assert "weigh() got an unexpected keyword" in str(error_of(rig.call_coordinator("weigh", kilo=1)))


def test_a_call_of_a_coordinator_ends_where_nobody_answers(serve: Serve, connect: Connect, gate: Gate) -> None:
    rig = serve("cameras")
    with pytest.raises(CallError, match="ask was not called: no coordinator is in charge"):
        rig.call_coordinator("ask").result(LONG)
    aux = connect(rig)
    aux.command("ask")(gate)
    aux.request("EXPINIT", REFERENCE)
    late = rig.call_coordinator("ask", timeout=1.0)  # within which the coordinator confirms it
    with pytest.raises(TimeoutError, match=r"no answer to ask within 1 s: the coordinator on 127.0.0.1 has it"):
        late.result()
    call = rig.call_coordinator("ask")
    with pytest.raises(CallTimeout, match=r"within 0.01 s; it goes on: wait for it again"):
        call.result(0.01)
    waiting = in_thread(call.result)
    rig.close()
    with pytest.raises(CallError, match="this rig closed before its coordinator answered ask"):
        waiting.result(LONG)
    with pytest.raises(NotRunning, match="start it before it calls its coordinator"):
        rig.call_coordinator("ask")
    gate.open.set()


def test_a_coroutine_handler_must_await_its_call(rig: Rig, aux: Auxiliaries) -> None:
    @rig.command
    async def wait() -> str:
        return str(error_of(rig.call_coordinator("ask")))

    aux.request("EXPINIT", REFERENCE)
    assert aux.call("cameras", "wait") == "result() on the event loop would wait for itself; await it there"


def test_calls_of_a_rig_through_a_bad_network_are_done_once(rig: Rig, stack: contextlib.ExitStack) -> None:
    target, done = {"cameras": ("127.0.0.1", port_of(rig.uri))}, list[int]()
    bad = stack.enter_context(relay_before(target, loss=0.15, duplication=0.2, seed=5))["cameras"]
    aux = stack.enter_context(Auxiliaries({"cameras": "udp://{}:{}".format(*bad.address)}))

    @aux.command
    def count(n: int) -> int:
        done.append(n)
        return -n

    aux.request("EXPINIT", REFERENCE, timeout=LONG)
    calls = [rig.call_coordinator("count", n, timeout=LONG) for n in range(40)]
    assert [call.result(LONG) for call in calls] == [-n for n in range(40)]
    assert sorted(done) == list(range(40))


def test_calls_that_wait_at_a_coordinator_are_bounded(
    rig: Rig, aux: Auxiliaries, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.coordinator.commands.WAITING", 3)
    monkeypatch.setattr("rigsync.coordinator.commands.WAITING_BYTES", 10_000)
    aux.command("ask")(lambda *_: gate())
    aux.request("EXPINIT", REFERENCE)
    calls = [rig.call_coordinator("ask", "x" * 6000, timeout=LONG)]
    assert gate.reached.wait(LONG)
    assert "Busy: too many calls wait here already" in str(error_of(rig.call_coordinator("ask", "x" * 6000)))
    calls += [rig.call_coordinator("ask", timeout=LONG) for _ in range(2)]
    assert "Busy: too many calls wait here already" in str(error_of(rig.call_coordinator("ask")))
    gate.open.set()
    assert [call.result(LONG) for call in calls] == [None] * 3
    until(lambda: aux._commands._answers == 0)


def test_names_of_a_coordinator_s_commands_are_checked(rig: Rig, aux: Auxiliaries) -> None:
    aux.command("ask")(print)
    with pytest.raises(ValueError, match="has a command 'ask' already"):
        aux.command("ask")(len)
    with pytest.raises(ValueError, match="push it"):
        aux.command("EXPINIT")(print)
    with pytest.raises(TypeError, match="is done by a function"):
        aux.command("two")(2)
    with pytest.raises(TypeError, match="the name of a command is text"):
        aux.command(3)(print)
    with pytest.raises(ValueError, match=r"use rig\.call_coordinator"):
        rig.notify("rigsync.call")
    with pytest.raises(ValueError, match="positive number of seconds"):
        rig.call_coordinator("ask", timeout=0)
    with pytest.raises(PayloadError):
        rig.call_coordinator("ask", object())
