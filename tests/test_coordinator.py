"""The coordinator on an event loop: pushes that are awaited, experiments as asynchronous contexts, and its ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from live_helpers import EchoServer, Gate, Lab
from platforms import posix
from processes import LONG, free_port, until

from rigsync import (
    Aborted,
    Auxiliaries,
    Coordinator,
    ExperimentError,
    ExpMessage,
    ExpStatus,
    Hub,
    NotRunning,
    PingReply,
    PushError,
    PushResult,
    RemoteError,
    Rig,
    RigFailure,
    RigRefused,
    RigsMissing,
    UnknownRig,
)
from rigsync.coordinator.push import Push
from rigsync.core.events import LinkAlive, PushCompleted, RigSettled
from rigsync.hub.hub import State
from rigsync.runtime.hub import SLICE

REFERENCE = "2026-03-01_2_mouse"
INTERRUPTED = ["EXPINFO", "EXPINIT", "EXPSTART", "EXPINTERRUPT", "EXPCLEANUP"]

Serve = Callable[..., Rig]


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, LONG))


async def came_true(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


@pytest.fixture
def rigs(serve: Serve) -> Lab:
    return Lab(serve)


def fail(*_: Any) -> None:
    raise RuntimeError("no camera found")


# ---------------------------------------------------------------------------------------------------------- pushes


@pytest.mark.parametrize(
    ("call", "usual"),
    [("push", {"patience": 0.0}), ("ping", {"timeout": 1.0}), ("rehearse", {"seconds": 3.0, "minutes": 60.0})],
)
def test_calls_have_the_same_numbers_by_default_with_and_without_await(call: str, usual: dict[str, float]) -> None:
    for kind in (Auxiliaries, Coordinator):
        parameters = inspect.signature(getattr(kind, call)).parameters
        assert {name: parameters[name].default for name in usual} == usual


def test_a_push_is_awaited_for_its_result(rigs: Lab) -> None:
    cameras, ephys = rigs.rig("cameras"), rigs.rig("ephys")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            assert lab.is_open
            assert lab.all_alive
            push = lab.push("EXPINIT", {"exp_ref": REFERENCE})
            assert not push.done
            result = await push
            assert push.done
            assert type(result) is PushResult
            assert set(result) == {"cameras", "ephys"}
            assert await push is result  # as often as one likes
            assert lab.log[push.request_time] is result
            assert (cameras.status, ephys.status) == (ExpStatus.INITIALIZED, ExpStatus.INITIALIZED)
            assert set(await lab.push("EXPSTATUS", rigs="eph*")) == {"ephys"}
            assert "cameras" in repr(lab)
        assert not lab.is_open
        assert not lab.all_alive
        assert "closed" in repr(lab)

    run(main())


def test_a_push_that_fails_on_a_rig_raises_what_holds_the_answers(rigs: Lab) -> None:
    rigs.rig("cameras", {"EXPINIT": fail})
    rigs.rig("ephys")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            push = lab.push("EXPINIT", {"exp_ref": REFERENCE})
            with pytest.raises(PushError, match="no camera found") as told:
                await push
            assert set(told.value.result) == {"ephys"}
            assert isinstance(told.value.failed["cameras"], RemoteError)
            outcome = await push.outcome()
            assert isinstance(outcome, PushError)
            assert told.value is not outcome  # or its traceback would keep what this frame holds
            assert lab.log[push.request_time] is outcome

    run(main())


def test_a_push_goes_out_whether_or_not_it_is_awaited(rigs: Lab) -> None:
    rig = rigs.rig("cameras")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            lab.push("EXPINIT", {"exp_ref": REFERENCE})
            await came_true(lambda: rig.status is ExpStatus.INITIALIZED)

    run(main())


def test_who_awaits_a_push_may_be_cancelled_and_the_push_goes_on(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINIT": gate})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            push = lab.push("EXPINIT", {"exp_ref": REFERENCE})
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(push.outcome(), 0.05)
            gate.open.set()
            assert set(await push) == {"cameras"}

    run(main())


def test_each_rig_is_told_of_as_it_answers(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINIT": gate})
    rigs.rig("ephys")
    rigs.rig("imaging", {"EXPINIT": fail})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            push = lab.push("EXPINIT", {"exp_ref": REFERENCE})
            seen: dict[str, Any] = {}
            async for rig, outcome in push:
                seen[rig] = outcome
                if len(seen) == 2:
                    assert not push.done
                    gate.open.set()
            assert list(seen)[-1] == "cameras"
            assert isinstance(seen["ephys"], list)
            assert isinstance(seen["imaging"], RemoteError)
            again = {rig: outcome async for rig, outcome in push}  # when all have answered
            assert {rig: type(outcome) for rig, outcome in again.items()} == {
                rig: type(outcome) for rig, outcome in seen.items()
            }

    run(main())


def test_who_comes_late_is_told_of_rigs_that_have_answered_before(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINIT": gate})
    rigs.rig("ephys")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            answered = asyncio.Event()
            lab.on("MessageReceived", lambda _: answered.set())
            told: list[RigSettled] = []
            lab.on("RigSettled", told.append)
            push = lab.push("EXPINIT", {"exp_ref": REFERENCE})
            await answered.wait()
            assert told == []  # nobody has asked for each
            seen = []
            async for rig, _ in push:
                seen.append(rig)
                gate.open.set()
            assert seen == ["ephys", "cameras"]
            assert [event.rig for event in told] == ["cameras"]

    run(main())


def test_going_through_the_rigs_may_end_early(rigs: Lab) -> None:
    rigs.rig("cameras")
    rigs.rig("ephys")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            push = lab.push("EXPSTATUS")
            async with contextlib.aclosing(push.__aiter__()) as outcomes:
                async for _ in outcomes:
                    break
            assert set(await push) == {"cameras", "ephys"}

    run(main())


def test_going_through_the_rigs_ends_when_the_coordinator_closes(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINFO": gate})

    async def main() -> dict[str, Any]:
        lab = await Coordinator(rigs.uris).open()
        push = lab.push("EXPINFO", "CONNECTED")
        closing = asyncio.get_running_loop().call_later(0.05, lab.services.close)
        seen = {rig: outcome async for rig, outcome in push}
        closing.cancel()
        await lab.close()
        return seen

    assert isinstance(run(main())["cameras"], Aborted)


def test_each_rig_is_told_of_once_though_its_event_waits_in_the_hub(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINIT": gate})
    rigs.rig("ephys")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            push = lab.push("EXPINIT", {"exp_ref": REFERENCE})
            first, seen = push.__aiter__(), []
            waiting = asyncio.ensure_future(first.__anext__())
            await asyncio.sleep(0)
            # The event of a rig that is known by then comes when somebody else has begun to go through the rigs.
            await came_true(waiting.done)
            async for rig, outcome in push:
                seen.append(rig)
                if rig == "ephys":
                    event = RigSettled("ephys", push.request_time, ExpMessage.EXPINIT, outcome)
                    lab.hub.ingest(event)
                    gate.open.set()
            assert seen == ["ephys", "cameras"]
            await first.aclose()

    run(main())


def test_going_through_the_rigs_of_a_push_whose_end_waits_in_the_hub(rigs: Lab) -> None:
    rigs.rig("cameras")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            lab.hub.filter(lambda event: None)  # from now on events wait for each other

            @lab.on("MessageReceived")
            def note(_: Any) -> None:  # after which the event loop has a turn, before the next event is told
                lab.hub.ingest(RigSettled("nobody", 0.0, ExpMessage.EXPSTATUS, []))
                time.sleep(2 * SLICE)

            push = lab.push("EXPSTATUS")
            while lab.services.outstanding(push.request_time):
                await asyncio.sleep(0)
            assert not push.done
            assert [rig async for rig, _ in push] == ["cameras"]

    run(main())


def test_going_through_the_rigs_on_another_event_loop_says_what_to_do(rigs: Lab) -> None:
    rigs.rig("cameras")

    async def elsewhere(lab: Coordinator) -> None:
        push = lab.push("EXPSTATUS")
        with pytest.raises(RuntimeError, match="here, await the push"):
            async for _ in push:
                pass
        assert set(await push) == {"cameras"}
        assert isinstance((await lab.ping(timeout=LONG))["cameras"], PingReply)
        await lab.wait_for(timeout=LONG)

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            await asyncio.to_thread(run, elsewhere(lab))

    run(main())


def test_what_has_not_been_sent_is_taken_back(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINFO": gate})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            first, second, third = (lab.push("EXPINFO", "CONNECTED") for _ in range(3))
            second.cancel()
            with pytest.raises(PushError, match="taken out of the queue") as told:
                await second
            assert isinstance(told.value.failed["cameras"], Aborted)
            first.cancel()  # which has been sent
            gate.open.set()
            assert set(await first) == set(await third) == {"cameras"}
            third.cancel()  # too late, and no harm

    run(main())


def test_whom_a_push_waits_for_is_told_while_it_is_awaited(
    rigs: Lab, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rigsync.coordinator import links

    monkeypatch.setattr(links, "FIRST_WORD", 0.05)
    rigs.rig("cameras", {"EXPINIT": gate})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            push = lab.push("EXPINIT", {"exp_ref": REFERENCE})
            assert "waiting for" not in caplog.text
            waiting = asyncio.ensure_future(push.outcome())
            await came_true(lambda: "waiting for cameras: EXPINIT, 0.05 s" in caplog.text)
            gate.open.set()
            await waiting

    run(main())


def test_who_begins_to_wait_late_is_told_for_whom(
    rigs: Lab, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rigsync.coordinator import links

    monkeypatch.setattr(links, "FIRST_WORD", 0.05)
    rigs.rig("cameras", {"EXPINIT": gate})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            push = lab.push("EXPINIT", {"exp_ref": REFERENCE})
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(push.outcome(), 0.01)
            await came_true(lambda: lab.services._pending[push.request_time].telling is None)
            assert "waiting for" not in caplog.text
            waiting = asyncio.ensure_future(push.outcome())
            await came_true(lambda: "waiting for cameras: EXPINIT, 0.05 s" in caplog.text)
            gate.open.set()
            await waiting

    run(main())


def test_what_cannot_be_pushed_is_told_at_the_call(rigs: Lab) -> None:
    rigs.rig("cameras")

    async def main() -> None:
        lab = Coordinator(rigs.uris)
        with pytest.raises(NotRunning, match=r"the coordinator is not open: enter it by `async with`"):
            lab.push("EXPSTATUS")
        async with lab:
            with pytest.raises(UnknownRig):
                lab.push("EXPSTATUS", rigs="camera")
            with pytest.raises(ValueError, match="patience"):
                lab.push("EXPSTATUS", patience=-1)
            with pytest.raises(TypeError):
                lab.push("EXPSTATUS", object())
            with pytest.raises(RuntimeError, match="open already"):
                await lab.open()
            assert lab.is_open
        for call in (lab.ping(), lab.call("cameras", "focus"), lab.wait_for()):
            with pytest.raises(NotRunning):
                await call

    run(main())


def test_a_push_that_is_outstanding_when_it_closes_names_the_rig(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINFO": gate})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            push = lab.push("EXPINFO", "CONNECTED")
            waiting = asyncio.ensure_future(push.outcome())
            await came_true(gate.reached.is_set)
        outcome = await waiting
        assert isinstance(outcome, PushError)
        assert isinstance(outcome.failed["cameras"], Aborted)

    run(main())


# --------------------------------------------------------------------------------------------------------- looking


def test_calls_pings_views_and_events(rigs: Lab) -> None:
    rig = rigs.rig("cameras")
    rig.command("focus")(lambda z: 2 * z)
    seen: list[Any] = []
    notices: list[Any] = []

    async def main() -> None:
        lab = Coordinator(rigs.uris)
        lab.on("LinkAlive", seen.append)

        @lab.on(PushCompleted)
        async def note(event: PushCompleted) -> None:
            seen.append(event)

        lab.on_notice("focus", notices.append)
        async with lab:
            assert await lab.call("cameras", "focus", z=3) == 6
            with pytest.raises(RemoteError, match="UnknownCommand"):
                await lab.call("cameras", "fokus")
            replies = await lab.ping()
            assert isinstance(replies["cameras"], PingReply)
            assert lab.view("cam*").status is ExpStatus.CONNECTED
            assert list(lab.views) == ["cameras"]
            rig.notify("focus", {"score": 1})
            await came_true(lambda: notices)
            await came_true(lambda: any(isinstance(event, PushCompleted) for event in seen))

    run(main())
    assert isinstance(seen[0], LinkAlive)
    assert notices[0].body == {"score": 1}


def test_rigs_that_are_missing_are_named_and_waited_for(rigs: Lab, caplog: pytest.LogCaptureFixture) -> None:
    rigs.rig("cameras")
    port = free_port()
    rigs.uris["late"] = f"udp://127.0.0.1:{port}"

    async def main() -> None:
        async with Coordinator(rigs.uris, connect_timeout=0.05) as lab:
            assert isinstance((await lab.ping("late"))["late"], RigRefused)
            await lab.wait_for("cameras", timeout=LONG)
            with pytest.raises(RigsMissing, match="late"):
                await lab.wait_for(timeout=0.05)
            waiting = asyncio.ensure_future(lab.wait_for(timeout=LONG))
            await asyncio.sleep(0)
            async with Rig("late", f"udp://127.0.0.1:{port}"):
                await waiting
                assert lab.all_alive

    run(main())
    assert "late does not answer yet" in caplog.text or "late is lost" in caplog.text


def test_who_waits_for_a_rig_hears_when_the_coordinator_closes() -> None:
    async def main() -> None:
        lab = await Coordinator({"late": f"udp://127.0.0.1:{free_port()}"}, connect_timeout=0).open()
        waiting = asyncio.ensure_future(lab.wait_for())
        await asyncio.sleep(0.01)
        await lab.close()
        with pytest.raises(NotRunning):
            await waiting

    run(main())


def test_it_may_be_opened_again(rigs: Lab) -> None:
    rigs.rig("cameras")

    async def main() -> None:
        lab = Coordinator(rigs.uris)
        seen: list[PushCompleted] = []
        lab.on("PushCompleted", seen.append)
        for _ in range(2):
            async with lab:
                await lab.push("EXPSTATUS")
            await lab.close()  # which it is
        assert len(seen) == 2

    run(main())


def test_it_closes_what_it_has_opened_where_that_fails() -> None:
    async def main() -> None:
        lab = Coordinator({"cameras": "udp://no-such-host.invalid:11001"})
        with pytest.raises(Exception, match=r"no-such-host"):
            await lab.open()
        assert not lab.is_open

    run(main())


def test_opening_may_be_cancelled() -> None:
    async def main() -> None:
        lab = Coordinator({"cameras": f"udp://127.0.0.1:{free_port()}"}, connect_timeout=LONG)
        opening = asyncio.ensure_future(lab.open())
        await came_true(lambda: lab.is_open)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not lab.is_open

    run(main())


def test_one_that_is_closed_while_it_opens_is_closed() -> None:
    async def main() -> None:
        lab = Coordinator({"cameras": f"udp://localhost:{free_port()}"}, connect_timeout=LONG)
        opening = asyncio.ensure_future(lab.open())
        await asyncio.sleep(0)  # it looks the name up
        with pytest.raises(RuntimeError, match="the coordinator is open already"):
            await lab.open()
        assert not lab.is_open
        await lab.close()
        with pytest.raises(NotRunning):
            await opening
        assert not lab.is_open

    run(main())


def test_closing_that_is_cancelled_interrupts_and_closes_all_the_same(rigs: Lab, gate: Gate) -> None:
    rig = rigs.rig("cameras", {"EXPINTERRUPT": gate})

    async def main() -> None:
        lab = await Coordinator(rigs.uris).open()
        await lab.push("EXPINIT", {"exp_ref": REFERENCE})
        await lab.push("EXPSTART", REFERENCE)

        async def close() -> None:
            current = asyncio.current_task()
            assert current
            current.cancel()  # which comes at the first await
            await lab.close()

        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(close())
        assert not lab.is_open
        assert lab.hub.state is State.STOPPED
        await came_true(gate.reached.is_set)
        gate.open.set()
        await came_true(lambda: rig.status is ExpStatus.STOPPED)

    run(main())


def test_a_hub_that_runs_already_is_used_and_left_running(rigs: Lab) -> None:
    rigs.rig("cameras")

    async def main() -> None:
        async with Hub() as hub:
            async with Coordinator(rigs.uris, hub=hub) as lab:
                assert set(await lab.push("EXPSTATUS")) == {"cameras"}
            assert hub.state is State.LOOPING

    run(main())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the first event loop was closed before the sockets
def test_one_whose_event_loop_was_closed_says_so_and_may_be_opened_on_another(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINFO": gate})
    lab = Coordinator(rigs.uris)

    async def leave_open() -> tuple[Push, Push]:
        await lab.open()
        return lab.push("EXPINFO", "CONNECTED"), lab.push("EXPSTATUS")

    awaited, left = asyncio.run(leave_open())

    async def go_on() -> None:
        assert not lab.is_open
        with pytest.raises(NotRunning, match="on the loop that runs"):
            lab.push("EXPSTATUS")
        with pytest.raises(PushError, match="this program closed"):
            await awaited
        gate.open.set()
        async with lab:
            assert left.done
            assert set(await lab.push("EXPSTATUS")) == {"cameras"}

    run(go_on())


def test_what_is_left_running_when_the_event_loop_was_closed_is_told(rigs: Lab) -> None:
    rig = rigs.rig("cameras")
    program = textwrap.dedent(
        f"""
        import asyncio
        from rigsync import Coordinator

        async def main():
            lab = await Coordinator({{"cameras": {rig.uri!r}}}).open()
            await lab.push("EXPINIT", {{"exp_ref": {REFERENCE!r}}})
            await lab.push("EXPSTART", {REFERENCE!r})
            return lab

        lab = asyncio.run(main())
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0
    assert "cameras may go on recording: the event loop was closed before the coordinator" in done.stderr


def test_no_rigs_are_no_trouble() -> None:
    async def main() -> None:
        async with Coordinator() as lab:
            assert await lab.push("EXPSTATUS") == {}
            assert [each async for each in lab.push("EXPSTATUS")] == []
            assert not lab.all_alive

    run(main())


# ------------------------------------------------------------------------------------------------------- experiments


def test_a_whole_experiment(rigs: Lab) -> None:
    cameras, ephys = rigs.rig("cameras"), rigs.rig("ephys")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            session = lab.experiment(REFERENCE, init={"box": 4}, start={"stage": 2}, delay=0.05)
            with pytest.raises(RuntimeError, match=r"async with lab.experiment"):
                session.check()
            async with session as entered:
                assert entered is session
                assert session.ready.is_set()
                assert (cameras.status, ephys.status) == (ExpStatus.RUNNING, ExpStatus.RUNNING)
                session.check()
                assert session.failures == {}
                assert "AsyncExperiment" in repr(session)
            assert set(session.results) == {"EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"}
            with pytest.raises(RuntimeError, match="begun once"):
                await session.begin()
            with pytest.raises(RuntimeError, match="is over"):
                await session.end()

    run(main())
    assert rigs.verbs("cameras") == ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]
    assert rigs.args("cameras", "EXPINIT")[0]["box"] == 4
    assert (cameras.status, ephys.status) == (ExpStatus.CONNECTED, ExpStatus.CONNECTED)


def test_an_exception_interrupts_all_rigs_and_goes_on(rigs: Lab) -> None:
    rigs.rig("cameras")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab, lab.experiment(REFERENCE):
            raise ZeroDivisionError("the task has a fault")

    with pytest.raises(ZeroDivisionError):
        run(main())
    assert rigs.verbs("cameras") == INTERRUPTED
    assert rigs.args("cameras", "EXPINTERRUPT")[0]["error"] == "ZeroDivisionError"


def test_a_rig_that_cannot_begin_has_the_others_stopped(rigs: Lab) -> None:
    started = threading.Event()
    rigs.rig("cameras")
    rigs.rig("ephys", {"EXPSTART": lambda *_: started.wait(LONG) and fail()})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            lab.on("MessageReceived", lambda answer: answer.event is ExpMessage.EXPSTART and started.set())
            async with lab.experiment(REFERENCE):
                pytest.fail("it has not begun")

    with pytest.raises(ExperimentError, match="no camera found") as told:
        run(main())
    assert told.value.outcomes["cameras"] == "started; then interrupted and cleaned up"
    assert rigs.verbs("cameras") == INTERRUPTED


def test_a_rig_that_fails_while_it_records_is_told_and_fails_the_end(rigs: Lab) -> None:
    rig = rigs.rig("cameras")
    failures: list[RigFailure] = []

    async def main() -> None:
        async with (
            Coordinator(rigs.uris) as lab,
            lab.experiment(REFERENCE, on_failure=failures.append) as session,
        ):
            rig.interrupt("the cable is loose")
            await came_true(lambda: failures)
            assert "the cable is loose" in session.failures["cameras"]
            assert not session.ready.is_set()
            session.check()

    with pytest.raises(ExperimentError, match="the cable is loose"):
        run(main())
    assert [failure.rig for failure in failures] == ["cameras"]


@pytest.mark.parametrize("message", ["EXPINIT", "EXPSTART", "EXPEND"])
def test_a_task_that_is_cancelled_interrupts_what_it_waits_for(rigs: Lab, gate: Gate, message: str) -> None:
    rigs.rig("cameras", {message: gate})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:

            async def work() -> None:
                async with lab.experiment(REFERENCE):
                    pass

            working = asyncio.ensure_future(work())
            await came_true(gate.reached.is_set)
            working.cancel()
            await came_true(lambda: "EXPINTERRUPT" in rigs.verbs("cameras"))
            gate.open.set()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert rigs.args("cameras", "EXPINTERRUPT")[0]["error"] == "CancelledError"

    run(main())


def test_a_second_cancellation_waits_until_the_rigs_are_stopped(rigs: Lab, gate: Gate) -> None:
    rig = rigs.rig("cameras", {"EXPINTERRUPT": gate})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:

            async def work() -> None:
                async with lab.experiment(REFERENCE):
                    raise ZeroDivisionError

            working = asyncio.ensure_future(work())
            await came_true(gate.reached.is_set)
            working.cancel()
            await asyncio.sleep(0.01)
            assert not working.done()
            gate.open.set()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert rig.status is ExpStatus.CONNECTED

    run(main())


def test_an_experiment_is_begun_in_one_place_and_ended_in_another(rigs: Lab) -> None:
    rig = rigs.rig("cameras")

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            session = await lab.experiment(REFERENCE).begin()
            assert rig.status is ExpStatus.RUNNING
            await session.end()
            session = await lab.experiment(REFERENCE, init={"part": 2}).begin()
            await session.interrupt("enough")
            assert rigs.args("cameras", "EXPINTERRUPT")[0]["message"] == "enough"
            await lab.experiment(REFERENCE).begin()

    before = signal.getsignal(signal.SIGTERM)
    run(main())
    assert signal.getsignal(signal.SIGTERM) == before
    assert rig.status is ExpStatus.STOPPED  # closing has interrupted it
    assert rigs.verbs("cameras").count("EXPINTERRUPT") == 2


def test_what_goes_on_is_not_called_over(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPEND": gate})

    async def main() -> None:
        async with Coordinator(rigs.uris) as lab:
            session = await lab.experiment(REFERENCE).begin()
            ending = asyncio.ensure_future(session.end())
            await came_true(gate.reached.is_set)
            with pytest.raises(RuntimeError, match="is ending just now"):
                await session.interrupt()
            gate.open.set()
            await ending

    run(main())


def test_a_body_that_closes_the_coordinator_has_the_rigs_interrupted_and_is_not_told_otherwise(
    rigs: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rigs.rig("cameras")

    async def main() -> None:
        lab = await Coordinator(rigs.uris).open()
        with pytest.raises(NotRunning, match="not open"):
            async with lab.experiment(REFERENCE):
                await lab.close()

    run(main())
    assert rig.status is ExpStatus.STOPPED
    assert "may go on recording" not in caplog.text


@pytest.mark.parametrize("while_it", ["records", "ends"])
def test_an_experiment_whose_task_is_thrown_away_after_the_event_loop_has_stopped_is_interrupted(
    rigs: Lab, gate: Gate, while_it: str
) -> None:
    rigs.rig("cameras", {"EXPEND": gate})
    lab, begun = Coordinator(rigs.uris), asyncio.Event()

    async def work() -> None:
        async with lab.experiment(REFERENCE):
            begun.set()
            while while_it == "records":
                await asyncio.sleep(0.01)

    async def begin() -> Any:
        await lab.open()
        task = asyncio.ensure_future(work())
        await begun.wait()
        while while_it == "ends" and not gate.reached.is_set():
            await asyncio.sleep(0.01)
        return task

    loop = asyncio.SelectorEventLoop()
    before = signal.getsignal(signal.SIGTERM)
    try:
        task = loop.run_until_complete(asyncio.wait_for(begin(), LONG))
        task.get_coro().close()  # as where nobody refers to the task any more
        assert signal.getsignal(signal.SIGTERM) == before
        gate.open.set()
        loop.run_until_complete(asyncio.wait_for(came_true(lambda: rigs.verbs("cameras")[-1] == "EXPCLEANUP"), LONG))
        assert rigs.verbs("cameras") == INTERRUPTED or while_it == "ends"
        task.cancel()
        loop.run_until_complete(lab.close())
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def test_started_rigs_are_left_running_where_that_is_asked_for(rigs: Lab) -> None:
    rig = rigs.rig("cameras")

    async def main() -> None:
        async with Coordinator(rigs.uris, leave_running=True) as lab:
            await lab.push("EXPINIT", {"exp_ref": REFERENCE})
            await lab.push("EXPSTART", REFERENCE)

    run(main())
    assert rig.status is ExpStatus.RUNNING


def test_iblutil_rigs_take_part() -> None:
    async def main(uri: str) -> None:
        async with Coordinator({"cameras": uri}) as lab:
            lab.services.timeout = LONG
            await lab.push("EXPINIT", {"exp_ref": REFERENCE})
            assert lab.view("cameras").dialect == "iblutil"

    with EchoServer("cameras") as echo:
        run(main(echo.uri))
        assert [event.name for event, _ in echo.calls] == ["EXPINIT"]


# --------------------------------------------------------------------------------------------------------------- ends


def test_one_without_references_is_closed_and_interrupts_what_it_has_started(rigs: Lab) -> None:
    rig = rigs.rig("cameras")

    async def main() -> None:
        lab = await Coordinator(rigs.uris).open()
        services = lab.services
        await lab.push("EXPINIT", {"exp_ref": REFERENCE})
        await lab.push("EXPSTART", REFERENCE)
        gone = weakref.ref(lab)
        del lab
        await came_true(lambda: gc.collect() >= 0 and gone() is None)
        await came_true(lambda: not services.is_open)
        await came_true(lambda: rig.status is ExpStatus.STOPPED)

    run(main())


def test_one_without_references_lives_until_its_pushes_are_answered(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINFO": gate})

    async def main() -> None:
        lab = await Coordinator(rigs.uris).open()
        push, gone = lab.push("EXPINFO", "CONNECTED"), weakref.ref(lab)
        del lab
        gc.collect()
        assert gone() is not None
        gate.open.set()
        assert set(await push) == {"cameras"}
        del push
        await came_true(lambda: gc.collect() >= 0 and gone() is None)
        await asyncio.sleep(0)

    run(main())


@posix
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_that_end_a_program_interrupt_its_experiment(rigs: Lab, number: int, status: int) -> None:
    rig = rigs.rig("cameras")
    program = textwrap.dedent(
        f"""
        import asyncio, sys
        from rigsync import Coordinator

        async def main():
            async with Coordinator({{"cameras": {rig.uri!r}}}) as lab, lab.experiment({REFERENCE!r}):
                print("runs", flush=True)
                await asyncio.sleep(60)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            sys.exit(130)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout
        assert task.stdout.readline() == "runs\n"
        task.send_signal(number)
        assert task.wait(LONG) == status
    assert rigs.verbs("cameras") == INTERRUPTED
    expected = "CancelledError" if number == signal.SIGINT else "Terminated"
    assert rigs.args("cameras", "EXPINTERRUPT")[0]["error"] in (expected, "KeyboardInterrupt")


def test_one_without_references_and_with_an_experiment_that_has_begun_frees_its_rigs(rigs: Lab) -> None:
    rigs.rig("cameras")

    async def main() -> None:
        before = signal.getsignal(signal.SIGTERM)
        lab = await Coordinator(rigs.uris).open()
        session, services = await lab.experiment(REFERENCE).begin(), lab.services
        del lab, session
        gc.collect()
        assert signal.getsignal(signal.SIGTERM) == before
        await came_true(lambda: not services.is_open)
        assert rigs.verbs("cameras")[-1] == "EXPINTERRUPT"
        async with Coordinator(rigs.uris) as lab:  # it has said goodbye: nobody is in charge
            await lab.push("EXPINIT", {"exp_ref": "2026-03-01_3_mouse"})

    run(main())


def program_of(rigs: Lab, body: str) -> str:
    """Return a program that runs lines in `main`, with a coordinator `lab` for each rig."""
    head = f"""
import asyncio, sys, time
from rigsync import Coordinator

async def main():
    labs = [await Coordinator({{name: uri}}).open() for name, uri in {rigs.uris!r}.items()]
    lab = labs[0]
    try:
{textwrap.indent(textwrap.dedent(body), " " * 8)}
    finally:
        for lab in labs:
            await lab.close()

try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(130)
"""
    return head.replace("REFERENCE", repr(REFERENCE))


OVERLAPPING = """
async def work():
    async with labs[1].experiment(REFERENCE):
        await may_end.wait()

may_end = asyncio.Event()
working = asyncio.ensure_future(work())
await asyncio.sleep(0)
async with lab.experiment(REFERENCE):
    may_end.set()
    await working
    print("runs", flush=True)
    await asyncio.sleep(60)
"""
ELSEWHERE = """
await asyncio.ensure_future(lab.experiment(REFERENCE).begin())
print("runs", flush=True)
await asyncio.sleep(60)
"""


@posix
@pytest.mark.parametrize(
    ("body", "number", "status"),
    [
        (OVERLAPPING, signal.SIGTERM, 143),
        (ELSEWHERE, signal.SIGTERM, 143),
        (ELSEWHERE, signal.SIGINT, 130),
    ],
    ids=["the first has ended", "its task is done", "Ctrl-C"],
)
def test_a_signal_finds_the_experiment_that_goes_on(rigs: Lab, body: str, number: int, status: int) -> None:
    rigs.rig("cameras")
    rigs.rig("ephys")
    command = [sys.executable, "-c", program_of(rigs, body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout
        assert task.stdout.readline() == "runs\n"
        task.send_signal(number)
        assert task.wait(LONG) == status
    assert "EXPINTERRUPT" in rigs.verbs("cameras")


@posix
def test_a_signal_that_was_held_back_is_obeyed_though_cleaning_up_is_cancelled(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPCLEANUP": gate})
    body = """
    async def work():
        async with lab.experiment(REFERENCE):
            print("runs", flush=True)
            raise ZeroDivisionError

    working = asyncio.ensure_future(work())
    await asyncio.get_running_loop().run_in_executor(None, input)
    working.cancel()
    await asyncio.wait([working])
    print("goes on", flush=True)
    """
    command = [sys.executable, "-c", program_of(rigs, body)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as task:
        assert gate.reached.wait(LONG)
        task.send_signal(signal.SIGTERM)
        printed, _ = task.communicate("cancel\n", LONG)
        assert task.returncode == 143
    assert printed == "runs\n"


@posix
def test_a_signal_while_it_closes_is_obeyed_when_it_has_closed(rigs: Lab, gate: Gate) -> None:
    rigs.rig("cameras", {"EXPINTERRUPT": gate})
    body = """
    await lab.push("EXPINIT", {"exp_ref": REFERENCE})
    await lab.push("EXPSTART", REFERENCE)
    """
    with subprocess.Popen([sys.executable, "-c", program_of(rigs, body)], stderr=subprocess.PIPE, text=True) as task:
        assert gate.reached.wait(LONG)
        task.send_signal(signal.SIGTERM)
        _, told = task.communicate(timeout=LONG)
        assert task.returncode == 143
    assert "cameras may go on recording" in told  # it has waited as long as it does without a signal


@posix
def test_a_second_ctrl_c_while_it_closes_has_rigs_told_goodbye(rigs: Lab, gate: Gate) -> None:
    rig = rigs.rig("cameras", {"EXPINTERRUPT": gate})
    body = """
    await lab.push("EXPINIT", {"exp_ref": REFERENCE})
    await lab.push("EXPSTART", REFERENCE)
    print("runs", flush=True)
    await asyncio.sleep(60)
    """
    command = [sys.executable, "-c", program_of(rigs, body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as task:
        assert task.stdout
        assert task.stdout.readline() == "runs\n"
        task.send_signal(signal.SIGINT)
        assert gate.reached.wait(LONG)
        task.send_signal(signal.SIGINT)
        _, told = task.communicate(timeout=LONG)
        assert task.returncode == 130
    assert "destroyed" not in told
    gate.open.set()
    until(lambda: rig.status is ExpStatus.STOPPED)

    async def another() -> None:
        async with Coordinator(rigs.uris) as lab:
            await lab.push("EXPINIT", {"exp_ref": "2026-03-01_3_mouse"})

    run(another())


NOTEBOOK = """
import json, sys
from jupyter_client.manager import KernelManager

manager = KernelManager(kernel_name="python3")
manager.kernel_spec.argv[0] = sys.executable
manager.start_kernel()
client = manager.blocking_client()
client.start_channels()
client.wait_for_ready(timeout=60)

def run(cell):
    printed = []
    def note(message):
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed.append(message["content"]["text"])
    reply = client.execute_interactive(cell, output_hook=note, timeout=60)["content"]
    return [reply["status"], reply.get("evalue"), "".join(printed)]

print(json.dumps([run(cell) for cell in json.loads(sys.stdin.read())]))
client.stop_channels()
manager.shutdown_kernel(now=True)
"""


def test_a_notebook_s_cell_that_is_run_twice_gets_a_working_object_and_the_orphan_is_closed(rigs: Lab) -> None:
    """In a real kernel of Jupyter's, whose event loop runs already."""
    rig = rigs.rig("cameras")
    opening = f"""
from rigsync import Coordinator
from rigsync.coordinator.service import RigServices
lab = await Coordinator({rigs.uris!r}).open()
print(sorted(await lab.push("EXPSTATUS")))
"""
    looking = """
import asyncio, gc
gc.collect()
await asyncio.sleep(0)
print(sum(found.is_open for found in gc.get_objects() if isinstance(found, RigServices)))
"""
    whole = f"""
async with lab.experiment({REFERENCE!r}) as session:
    print(session.ready.is_set())
await lab.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        input=json.dumps([opening, opening, looking, whole]),
        capture_output=True,
        text=True,
        timeout=LONG * 4,
    )
    assert done.returncode == 0, done.stderr
    opened = ["ok", None, "['cameras']\n"]
    assert json.loads(done.stdout) == [opened, opened, ["ok", None, "1\n"], ["ok", None, "True\n"]]
    assert rig.status is ExpStatus.CONNECTED
