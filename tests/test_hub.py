"""The hub on an event loop: threads, workers, coroutines, sources, boundaries, states, and what goes wrong there."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from live_helpers import came_true, in_thread, run
from processes import LONG, until

import rigsync.runtime.hub
import rigsync.runtime.lanes
import rigsync.runtime.waiters
from rigsync import Auxiliaries, Coordinator, ExpMessage, Hub, LoopStuck, NotRunning, Rig, Timer, UnknownEvent, events
from rigsync.core.events import ProgressChanged, put_stamp
from rigsync.hub import hub as hub_core
from rigsync.hub.hub import State
from rigsync.runtime.callbacks import guarded


@dataclass(frozen=True, slots=True)
class Pulse(events.Event):
    n: int = 0


@dataclass(frozen=True, slots=True)
class Echo(events.Event):
    n: int = 0


def texts(caplog: pytest.LogCaptureFixture, standstills: bool = False) -> list[str]:
    """Return what the hub has logged; of standstills, which a busy computer causes too, only where that is wanted."""
    told = [r.getMessage() for r in caplog.records if r.name in ("rigsync.hub", "rigsync.callbacks")]
    return [text for text in told if standstills or "the event loop stood still" not in text]


def stamped(event: events.Event) -> events.Event:
    put_stamp(event, (1, event.PRIORITY, 0.0, None))
    return event


def progress(value: int, item: str = "frames") -> ProgressChanged:
    return ProgressChanged("cameras", item, value, None, None)


# ---------------------------------------------------------------------------------------------------------- telling


def test_what_is_told_on_the_loop_is_told_at_once() -> None:
    async def main() -> None:
        told: list[Any] = []
        async with Hub() as hub:
            hub.subscribe(Pulse, told.append)
            hub.subscribe("pulse", told.append)
            hub.ingest(Pulse(1))
            assert told == [Pulse(1), Pulse(1)]

    run(main)


def _press_ctrl_c(_: object) -> None:
    signal.raise_signal(signal.SIGINT)


async def _press_ctrl_c_soon(_: object) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("way", ["subscriber", "coroutine", "filter", "rule", "timer"])
def test_ctrl_c_while_a_function_of_the_program_runs_ends_the_program_and_no_event_is_lost(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    loop = asyncio.SelectorEventLoop()
    hub = Hub()

    async def main() -> None:
        await hub.start()
        if way == "timer":
            hub.add(Timer(0.01, make=_press_ctrl_c))
        elif way == "filter":
            hub.filter(lambda event: _press_ctrl_c(event) if event == Pulse(1) else None)
        elif way == "rule":
            hub.rule(Pulse, lambda event: guarded("waiter for a push", _press_ctrl_c, event) if event.n == 1 else None)
        else:
            pressed = _press_ctrl_c if way == "subscriber" else _press_ctrl_c_soon
            hub.subscribe(Pulse, pressed, where=lambda event: event.n == 1)
        hub.subscribe(Pulse, told.append)
        hub.ingest(Pulse(1))
        hub.ingest(Pulse(2))
        await asyncio.sleep(LONG)

    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
        loop.run_until_complete(_end(hub))
    finally:
        loop.close()
    assert told == [Pulse(1), Pulse(2)]
    assert texts(caplog) == []


async def _end(hub: Hub) -> None:
    await hub.__aexit__()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
        await asyncio.wait({task})


def test_ctrl_c_while_a_function_of_the_program_runs_outside_of_an_event_loop_goes_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        guarded("on_failure", _press_ctrl_c, None)


def test_what_a_subscriber_on_another_thread_raises_does_not_end_its_loop(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Hub() as hub:
            hub.subscribe(Pulse, _interrupted)
            hub.ingest(Pulse(1))
            await asyncio.sleep(0)

    in_thread(lambda: run(main)).result(LONG)
    assert [text.partition(", ")[2].partition(";")[0] for text in texts(caplog)] == ["KeyboardInterrupt"]


def _interrupted(_: object) -> None:
    raise KeyboardInterrupt


def test_subscribe_and_its_end_and_as_a_decorator() -> None:
    async def main() -> None:
        told: list[Any] = []
        async with Hub() as hub:

            @hub.subscribe(Pulse, where=lambda event: event.n % 2)
            def odd(event: Pulse) -> None:
                told.append(("odd", event.n))

            end = hub.subscribe(Pulse, lambda event: told.append(("first", event.n)), priority=-1)
            default = hub.default(lambda event: told.append(("default", event.n)))
            for n in (1, 2):
                hub.ingest(Pulse(n))
            end()
            end()
            hub.ingest(Pulse(3))
            hub.ingest(Echo(4))
            end_discarding = hub.discard(Echo)
            hub.ingest(Echo(5))
            end_discarding()
            default()
            hub.ingest(Echo(6))
            odd(Pulse(9))  # is still the function
        expected = [("first", 1), ("odd", 1), ("first", 2), ("odd", 3), ("default", 4), ("odd", 9)]
        assert told == expected

    run(main)


def test_from_any_thread_each_in_its_order() -> None:
    async def main() -> None:
        told: list[Any] = []
        async with Hub() as hub:
            hub.subscribe(Pulse, lambda event: told.append((event.n, threading.current_thread())))

            def tell(first: int) -> None:
                for n in range(first, first + 1000):
                    hub.ingest(Pulse(n))

            threads = [threading.Thread(target=tell, args=(first,)) for first in (0, 10_000, 20_000)]
            for thread in threads:
                thread.start()
            await came_true(lambda: len(told) == 3000)
            for thread in threads:
                thread.join(LONG)
        assert {thread for _, thread in told} == {threading.current_thread()}
        for first in (0, 10_000, 20_000):
            assert [n for n, _ in told if first <= n < first + 10_000] == list(range(first, first + 1000))

    run(main)


def test_a_hundred_thousand_secondary_events_on_a_loop_that_goes_on_meanwhile() -> None:
    count = 100_000

    async def main() -> None:
        told: list[int] = []
        turns: list[int] = []
        async with Hub() as hub:

            @hub.subscribe(Pulse)
            def flood(event: Pulse) -> None:
                for n in range(count):
                    hub.ingest(Echo(n))

            hub.subscribe(Echo, lambda event: told.append(event.n))
            hub.ingest(Pulse())
            while len(told) < count:
                turns.append(len(told))
                await asyncio.sleep(0)
        assert told == list(range(count))
        assert turns  # were all told in one go, there would be none

    run(main)


def test_what_follows_from_itself_for_ever_does_not_keep_the_loop() -> None:
    async def main() -> None:
        hub = Hub()
        await hub.start()
        hub.subscribe(Pulse, lambda event: hub.ingest(Pulse(event.n + 1)))
        hub.ingest(Pulse())
        await asyncio.sleep(0.2)
        hub.stop()
        assert hub.state is State.STOPPED

    run(main)


def test_what_is_told_before_the_start_waits_for_it() -> None:
    async def main() -> None:
        told: list[Any] = []
        hub = Hub()
        assert hub.state is State.READY
        hub.subscribe(Pulse, told.append)
        hub.ingest(Pulse(1))
        assert told == []
        async with hub:
            assert told == [Pulse(1)]

    run(main)


def test_ids_and_causes(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        told: dict[str, Any] = {}
        async with Hub() as hub:

            @hub.subscribe(Pulse)
            async def coroutine(event: Pulse) -> None:
                await asyncio.sleep(0)
                hub.ingest(Echo(1))

            @hub.subscribe(Pulse, run="worker")
            def worker(event: Pulse) -> None:
                hub.ingest(Echo(2))

            hub.subscribe(Pulse, lambda event: hub.ingest(Echo(3)))
            hub.subscribe(Echo, lambda event: told.setdefault(f"{event.n}", event.stamp))
            hub.ingest(Pulse(), id=700)
            await came_true(lambda: len(told) == 3)
            hub.ingest(Echo(4), cause=5)
            hub.ingest(Echo(5), id=900)
        assert [told[n].cause for n in "12345"] == [700, 700, 700, 5, None]
        assert told["5"].id == 900
        assert sorted(told[n].id for n in "1234") == [1, 2, 3, 4]
        assert abs(told["1"].time - time.time()) < LONG

    run(main)


# --------------------------------------------------------------------------------------- coroutines and workers


def test_where_subscribers_run() -> None:
    async def main() -> None:
        where: dict[str, Any] = {}
        async with Hub("lab") as hub:

            async def coroutine(event: Pulse) -> None:
                where["coroutine"] = threading.current_thread()

            hub.subscribe(Pulse, lambda _: where.__setitem__("plain", threading.current_thread()))
            hub.subscribe(Pulse, coroutine)
            hub.subscribe(Pulse, lambda _: where.__setitem__("worker", threading.current_thread()), run="worker")
            hub.ingest(Pulse())
            await came_true(lambda: len(where) == 3)
        here = threading.current_thread()
        assert (where["plain"], where["coroutine"]) == (here, here)
        assert where["worker"].name.startswith("rigsync-lab-handler")

    run(main)


@pytest.mark.parametrize("kind", ["worker", "coroutine"])
def test_one_that_takes_its_time_holds_up_no_other_and_gets_all_in_order(kind: str) -> None:
    async def main() -> None:
        go, slow, quick = threading.Event(), [], []

        def dawdle(event: Pulse) -> None:
            assert go.wait(LONG)
            slow.append(event.n)

        async def dawdle_on_loop(event: Pulse) -> None:
            while not go.is_set():
                await asyncio.sleep(0.001)
            slow.append(event.n)

        async with Hub() as hub:
            if kind == "worker":
                hub.subscribe(Pulse, dawdle, run="worker")
            else:
                hub.subscribe(Pulse, dawdle_on_loop)
            hub.subscribe(Pulse, lambda event: quick.append(event.n))
            for n in range(20):
                hub.ingest(Pulse(n))
            assert quick == list(range(20))
            assert slow == []
            go.set()
            await came_true(lambda: len(slow) == 20)
            assert slow == quick

    run(main)


@pytest.mark.parametrize("run_on", ["loop", "worker", "coroutine"])
def test_one_that_raises_is_logged_with_its_name_and_the_real_type_and_the_rest_run(
    caplog: pytest.LogCaptureFixture, run_on: str
) -> None:
    async def main() -> None:
        told: list[Any] = []

        def spill(event: Pulse) -> None:
            raise ZeroDivisionError(event.n)

        async def spill_on_loop(event: Pulse) -> None:
            raise ZeroDivisionError(event.n)

        async with Hub() as hub:
            if run_on == "coroutine":
                hub.subscribe(Pulse, spill_on_loop)
            else:
                hub.subscribe(Pulse, spill, run=run_on)
            hub.subscribe(Pulse, told.append)
            for n in range(2):
                hub.ingest(Pulse(n))
            await came_true(lambda: len(texts(caplog)) == 2)
        assert told == [Pulse(0), Pulse(1)]

    run(main)
    for record in caplog.records:
        assert "subscriber to Pulse" in record.getMessage()
        assert "spill" in record.getMessage()
        assert "raised an exception, ZeroDivisionError;" in record.getMessage()
        assert record.exc_info
        assert record.exc_info[0] is ZeroDivisionError


def test_one_that_blocks_the_loop_is_named_with_how_long(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_core, "SLOW", 0.1)

    async def main() -> None:
        async with Hub() as hub:

            @hub.subscribe(Pulse)
            def blocks(event: Pulse) -> None:
                time.sleep(0.25)

            hub.ingest(Pulse())

    run(main)
    (told,) = [text for text in texts(caplog, standstills=True) if "blocks took" in text]
    assert told.startswith("subscriber to Pulse test_one_that_blocks_the_loop")
    assert float(told.partition(" took ")[2].partition(" s, and the event loop stood still")[0]) >= 0.2


def test_beyond_what_may_wait_the_oldest_are_dropped_counted_and_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rigsync.runtime.lanes, "WAITING", 5)

    async def main() -> None:
        reached, go, got = threading.Event(), threading.Event(), []

        def dawdle(event: Pulse) -> None:
            reached.set()
            assert go.wait(LONG)
            got.append(event.n)

        async with Hub() as hub:
            hub.subscribe(Pulse, dawdle, run="worker")
            hub.ingest(Pulse(0))
            await came_true(reached.is_set)
            for n in range(1, 13):
                hub.ingest(Pulse(n))
            go.set()
            await came_true(lambda: len(got) == 6)
            assert got == [0, 8, 9, 10, 11, 12]
            await came_true(lambda: len(texts(caplog)) == 2)

    run(main)
    first, second = texts(caplog)
    assert ".dawdle for events keeps 5 of them waiting; the oldest are dropped from now on" in first
    assert second.startswith("7 events were dropped while subscriber ")


def test_progress_that_waits_is_superseded(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        reached, go, got = threading.Event(), threading.Event(), []

        def dawdle(event: ProgressChanged) -> None:
            reached.set()
            assert go.wait(LONG)
            got.append((event.item, event.value))

        async with Hub() as hub:
            hub.subscribe(ProgressChanged, dawdle, run="worker")
            hub.ingest(progress(0))
            await came_true(reached.is_set)
            for n in range(1, 20_001):
                hub.ingest(progress(n))
                hub.ingest(progress(n, "bytes"))
            go.set()
            await came_true(lambda: len(got) == 3)
        assert got == [("frames", 0), ("frames", 20_000), ("bytes", 20_000)]

    run(main)
    assert texts(caplog) == []


def test_progress_of_another_hub_supersedes_none() -> None:
    async def main() -> None:
        on_loop, on_worker = list[Any](), list[Any]()
        async with Hub("here") as here, Hub("a") as a, Hub("b") as b:
            here.subscribe(ProgressChanged, lambda event: on_loop.append(event.value))
            here.subscribe(ProgressChanged, lambda event: on_worker.append(event.value), run="worker")
            for number, hub in enumerate((a, b)):
                hub.join(here)
                hub.ingest(progress(number))
            here.queue(stamped(progress(2, item=["no", "key"])))  # type: ignore[arg-type]
            await came_true(lambda: len(on_worker) == 3)
        assert on_loop == on_worker == [0, 1, 2]

    run(main)


def test_what_waits_for_a_loop_that_hangs_is_bounded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rigsync.runtime.hub, "MOST_WAITING", 10)
    told: list[int] = []
    hub = Hub("lab")
    hub.subscribe(Pulse, lambda event: told.append(event.n))
    for n in range(25):
        hub.ingest(Pulse(n))

    async def main() -> None:
        async with hub:
            pass

    run(main)
    assert told == list(range(15, 25))
    assert texts(caplog) == [
        "hub 'lab' keeps 10 events waiting for its event loop; the oldest are dropped from now on",
        "15 events were dropped while the event loop of hub 'lab' did not take them",
    ]


# ---------------------------------------------------------------------------------------------------------- sources


class Push:
    """Tells three events from a thread of its own."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def start(self, ingest: Callable[[events.Event], None]) -> None:
        self.thread = in_thread(lambda: [ingest(Pulse(n)) for n in range(3)])

    def close(self) -> None:
        self.closed.set()


async def pull(count: int) -> AsyncIterator[Pulse]:
    for n in range(count):
        await asyncio.sleep(0)
        yield Pulse(n)


def test_sources_that_push_and_that_are_pulled() -> None:
    async def main() -> None:
        told: list[int] = []
        source, hub = Push(), Hub()
        hub.subscribe(Pulse, lambda event: told.append(event.n))
        hub.add(source)
        async with hub:
            await came_true(lambda: told == [0, 1, 2])
            hub.add(pull(5))  # while it loops
            await came_true(lambda: told == [0, 1, 2, 0, 1, 2, 3, 4])
            await came_true(lambda: len(hub._sources._running) == 1)  # one that has no more is removed
            assert not source.closed.is_set()
        assert source.closed.is_set()
        source.thread.result(LONG)

    run(main)


def test_the_start_of_a_source_may_take_its_time_and_the_hub_is_starting_meanwhile() -> None:
    async def main() -> None:
        states: list[State] = []

        class Slow:
            async def start(self, ingest: Callable[[events.Event], None]) -> None:
                await asyncio.sleep(0.01)
                states.append(hub.state)
                ingest(Pulse(1))

            async def close(self) -> None:
                states.append(hub.state)

        told: list[Any] = []
        hub = Hub()
        hub.add(Slow())
        hub.subscribe(Pulse, told.append)
        async with hub:
            assert told == [Pulse(1)]
        assert states == [State.STARTING, State.STOPPED]

    run(main)


def test_sources_are_removed_and_closed_and_one_that_never_waits_keeps_nobody_from_anything() -> None:
    async def main() -> None:
        closed: list[str] = []

        async def hurry() -> AsyncIterator[Pulse]:
            try:
                while True:
                    yield Pulse()
            finally:
                closed.append("pull")

        async with Hub() as hub:
            source = Push()
            ends = [hub.add(hurry()), hub.add(source)]
            await asyncio.sleep(0.02)
            for end in ends:
                in_thread(end).result(LONG)
            await came_true(lambda: closed == ["pull"] and source.closed.is_set())
            hub.ingest(Pulse())

    run(main)


def test_a_source_that_raises_is_named_and_the_hub_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> AsyncIterator[Pulse]:
        yield Pulse(1)
        raise OSError("unplugged")

    class Faulty:
        name = "trigger box"

        def start(self, ingest: Any) -> None:
            raise ValueError("no such port")

        def close(self) -> None:
            raise RuntimeError("was never open")

    async def main() -> None:
        told: list[Any] = []
        async with Hub() as hub:
            hub.subscribe(Pulse, told.append)
            for source in (broken(), Faulty()):
                hub.add(source)
            await came_true(lambda: len(texts(caplog)) == 3)
            hub.ingest(Pulse(2))
            assert told == [Pulse(1), Pulse(2)]
            with pytest.raises(TypeError, match="a source is a Timer, has start"):
                hub.add(3)

    run(main)
    told = sorted(texts(caplog))
    assert told[0] == "closing of source trigger box raised an exception, RuntimeError; it counts as closed"
    assert told[1].startswith("source ")
    assert told[1].endswith("broken raised an exception, OSError; it is closed and removed")
    assert told[2] == "source trigger box raised an exception, ValueError; it is closed and removed"


def test_timers_are_told_as_events_and_cancelled_at_the_end() -> None:
    async def main() -> None:
        ticks: list[Any] = []
        pulses: list[Any] = []
        hub = Hub()
        hub.subscribe("tick", ticks.append)
        hub.subscribe(Pulse, pulses.append)
        hub.add(Timer(0.01, "count down", count=3, name="countdown"))
        async with hub:
            begin = time.monotonic()
            hub.add(Timer(0.02, "ongoing", make=lambda tick: Pulse(tick.value)))
            end = hub.add(Timer(1000.0, name="never"))
            await came_true(lambda: len(pulses) >= 5)
            assert time.monotonic() - begin >= 0.1
            assert ticks[-1].is_last
            assert ticks[-1].value == 0
            end()
        count = len(pulses)
        await asyncio.sleep(0.05)
        assert len(pulses) == count

    run(main)


def test_the_make_of_a_timer_that_raises_is_reported_and_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        def make(tick: events.Tick) -> Pulse | None:
            calls.append(tick)
            if len(calls) < 3:
                raise LookupError
            return Pulse(len(calls)) if len(calls) % 2 else None

        told: list[Any] = []
        calls: list[events.Tick] = []
        async with Hub() as hub:
            hub.subscribe(Pulse, lambda event: told.append(event.n))
            hub.add(Timer(0.005, "ongoing", name="blinker", make=make))
            await came_true(lambda: told)
        assert all(n % 2 for n in told)

    run(main)
    assert texts(caplog)[0] == "timer blinker raised an exception, LookupError; it goes on"


# ------------------------------------------------------------------------------------------------------- boundaries


def test_joined_hubs_pass_events_on_and_none_goes_round() -> None:
    async def main() -> None:
        told: dict[str, list[int]] = {"a": [], "b": [], "c": []}
        async with Hub("a") as a, Hub("b") as b, Hub("c") as c:
            for name, hub in (("a", a), ("b", b), ("c", c)):
                hub.subscribe(Pulse, lambda event, name=name: told[name].append(event.n))
            both = a.join(b, both_ways=True)
            b.join(c, where=lambda event: event.n < 30)
            with pytest.raises(ValueError, match="circle: 'a' -> 'b' -> 'c' -> 'a'"):
                c.join(a)
            event = Pulse(10)
            a.ingest(event)
            b.ingest(Pulse(20))
            c.ingest(Pulse(25))
            b.ingest(Pulse(30))
            await came_true(lambda: len(told["a"]) == 3 and len(told["b"]) == 3 and len(told["c"]) == 3)
            await asyncio.sleep(0.05)
            assert told == {"a": [10, 20, 30], "b": [20, 30, 10], "c": [25, 20, 10]}
            assert event.stamp
            assert event.stamp.id == 1  # as where it was told first
            both.end()
            both.end()
            a.ingest(Pulse(40))
            b.ingest(Pulse(50))
            await asyncio.sleep(0.05)
            assert (told["a"][-1], told["b"][-1]) == (40, 50)
            c.join(a)

    run(main)


def test_hubs_of_two_threads_are_joined_and_one_that_stops_is_parted_with(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        there, told = Hub("there"), []
        running, stop = threading.Event(), threading.Event()

        async def serve() -> None:
            async with there:
                running.set()
                await came_true(stop.is_set)

        other = in_thread(run, serve)
        await came_true(running.is_set)
        there.subscribe(Pulse, lambda event: told.append((event.n, threading.current_thread())))
        async with Hub("here") as here:
            here.join(there)
            here.ingest(Pulse(1))
            await came_true(lambda: told)
            assert told[0][1] is not threading.current_thread()
            stop.set()
            await came_true(other.done)
            here.ingest(Pulse(2))
            here.ingest(Pulse(3))

    run(main)
    (text,) = [text for text in texts(caplog) if "passes nothing on" in text]
    assert text.startswith("hub 'here' passes nothing on any more: ingest() of Pulse while hub 'there' is STOPPED")


# ----------------------------------------------------------------------------------------------------------- states


def test_states_and_what_is_called_in_the_wrong_one() -> None:
    async def main() -> None:
        hub = Hub("lab")
        assert hub.state is State.READY
        await hub.start()
        assert hub.state is State.LOOPING
        with pytest.raises(RuntimeError, match=r"start\(\) while hub 'lab' is LOOPING already"):
            await hub.start()
        hub.stop()
        hub.stop()
        assert hub.state is State.STOPPED
        with pytest.raises(NotRunning, match=r"ingest\(\) of Pulse while hub 'lab' is STOPPED"):
            hub.ingest(Pulse())
        told: list[Any] = []
        hub.subscribe(Pulse, told.append)
        await hub.start()  # again, with its subscribers
        hub.ingest(Pulse())
        in_thread(hub.stop).result(LONG)
        await came_true(lambda: hub.state is State.STOPPED)
        assert told == [Pulse()]

    run(main)


def test_stop_in_a_subscriber_and_what_waits_then() -> None:
    async def main() -> None:
        told: list[int] = []
        hub = Hub()

        @hub.subscribe(Pulse)
        def end(event: Pulse) -> None:
            told.append(event.n)
            if event.n == 0:
                for n in range(1, 4):
                    hub.ingest(Pulse(n))
                hub.stop()

        task = asyncio.create_task(hub.run())
        await came_true(lambda: hub.state is State.LOOPING)
        hub.ingest(Pulse())
        await task
        assert told == [0, 1, 2, 3]
        assert hub.state is State.STOPPED

    run(main)


def test_a_hub_that_has_an_owner_is_not_stopped_by_another(serve: Any, connect: Any) -> None:
    rig: Rig = serve("cameras")
    aux: Auxiliaries = connect(rig)
    for hub, owner in ((aux.hub, "Auxiliaries"), (rig.hub, "Rig")):
        with pytest.raises(RuntimeError, match=f"{owner} starts and stops it"):
            hub.stop()
    assert aux.request("EXPINFO")


@pytest.mark.parametrize("thing", [3, None, "print"])
def test_what_is_no_function(thing: Any) -> None:
    hub = Hub()
    calls: list[Callable[[], Any]] = [
        lambda: hub.default(thing),
        lambda: hub.filter(thing),
        lambda: hub.subscribe(Pulse)(thing),
    ]
    if thing is not None:
        calls += [lambda: hub.subscribe(Pulse, thing), lambda: hub.subscribe(Pulse, print, where=thing)]
    for call in calls:
        with pytest.raises(TypeError, match=f"is a function, not {type(thing).__name__}: {thing!r}"):
            call()


def test_what_cannot_be_subscribed() -> None:
    hub = Hub()

    async def coroutine(_: Any) -> None: ...

    with pytest.raises(UnknownEvent, match="did you mean 'LinkLost'"):
        hub.subscribe("LinkLots", print)
    with pytest.raises(TypeError, match=r"coroutine is a coroutine function, which runs on the loop"):
        hub.subscribe(Pulse, coroutine, run="worker")
    with pytest.raises(ValueError, match="run is 'loop' or 'worker', not 'thread'"):
        hub.subscribe(Pulse, print, run="thread")
    with pytest.raises(TypeError, match=r"a filter decides at once: .*coroutine is a coroutine function"):
        hub.filter(coroutine)
    with pytest.raises(TypeError, match="the priority of an event is a whole number, not 'high'"):
        hub.ingest(Pulse(), priority="high")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a hub is joined with a hub, not with 3"):
        hub.join(3)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------- of a coordinator and of a rig


def test_a_coordinator_and_a_rig_tell_all_that_happens(serve: Any, connect: Any) -> None:
    rig: Rig = serve("cameras")
    aux: Auxiliaries = connect(rig)
    theirs: list[Any] = []
    ours: list[Any] = []
    rig.hub.subscribe(events.RigEvent, theirs.append)

    @aux.on("PushCompleted")
    def completed(event: events.PushCompleted) -> None:
        ours.append(event)

    result = aux.request("EXPINIT", {"exp_ref": "2026-01-01_1_mouse"})
    assert [event.request_time for event in ours] == [result.request_time]
    assert ours[0].stamp.id > 0
    until(lambda: any(isinstance(event, events.StatusChanged) for event in theirs))
    assert {"MessageHandled", "StatusChanged"} <= {event.stamp.type for event in theirs}
    assert completed(ours[0]) is None


def test_a_filter_keeps_no_push_from_its_answer(serve: Any, connect: Any, caplog: pytest.LogCaptureFixture) -> None:
    rig: Rig = serve("cameras")
    aux: Auxiliaries = connect(rig)
    told: list[Any] = []
    aux.on("PushCompleted", told.append)
    for hub in (aux.hub, rig.hub):
        hub.filter(lambda _: True)
    caplog.set_level(logging.INFO)
    result = aux.request("EXPINIT", {"exp_ref": "2026-01-01_1_mouse"})
    assert aux.log[result.request_time] is result
    until(lambda: any("EXPINIT from" in record.getMessage() for record in caplog.records))
    assert told == []


def test_a_worker_of_a_coordinators_hub_may_push(serve: Any, connect: Any) -> None:
    rig: Rig = serve("cameras", {"EXPINFO": lambda *_: {"n": 1}})
    aux: Auxiliaries = connect(rig)
    answers: list[Any] = []
    ends: list[Callable[[], None]] = []

    def ask(event: events.PushCompleted) -> None:
        if event.event is ExpMessage.EXPSTATUS:
            answers.append(aux.request("EXPINFO"))

    ends.append(aux.hub.subscribe("PushCompleted", ask, run="worker"))
    aux.request("EXPSTATUS")
    until(lambda: answers)


def test_the_hub_of_a_rig_outlives_its_serving(connect: Any) -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    told: list[Any] = []
    rig.hub.subscribe("MessageHandled", told.append)
    for _ in range(2):
        with rig:
            aux: Auxiliaries = connect(rig)
            aux.request("EXPINFO")
            until(lambda: told)
            aux.close()
        told.clear()
    assert rig.hub.state is State.STOPPED


def test_a_thread_that_is_stuck_is_told_with_the_name_of_the_subscriber_that_blocks_it(
    serve: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rigsync.runtime.waiters, "STUCK_AFTER", 0.2)
    aux: Auxiliaries = connect(serve("cameras"))
    reached, go = threading.Event(), threading.Event()

    def hang(event: events.PushCompleted) -> None:
        reached.set()
        assert go.wait(LONG)

    aux.on("PushCompleted", hang)
    assert aux.hub.blocked_by is None
    aux.push("EXPINFO")
    assert reached.wait(LONG)
    try:
        with pytest.raises(LoopStuck, match=r"a callback of this program, .*\.hang, blocks it"):
            aux.push("EXPINFO", wait=True, timeout=0.1)
    finally:
        go.set()


def test_the_opening_and_the_closing_of_a_coordinator_are_events(serve: Any) -> None:
    aux = Auxiliaries({"cameras": serve("cameras").uri})
    told: list[Any] = []
    aux.on("CoordinatorClosed", lambda event: told.append((event, aux.connected.is_set(), event.stamp.id > 1)))
    assert aux.connected.is_set()
    aux.close()
    assert told == [(events.CoordinatorClosed(), False, True)]


def test_a_log_handler_that_raises_keeps_nobody_from_being_told() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    def spill(event: Pulse) -> None:
        raise ValueError

    async def main() -> None:
        told: list[Any] = []
        async with Hub() as hub:
            hub.subscribe(Pulse, spill)
            hub.subscribe(Pulse, told.append)
            for n in range(2):
                hub.ingest(Pulse(n))
        assert told == [Pulse(0), Pulse(1)]

    broken = Broken()
    logging.getLogger("rigsync.callbacks").addHandler(broken)
    try:
        run(main)
    finally:
        logging.getLogger("rigsync.callbacks").removeHandler(broken)


def test_the_size_of_an_event_of_ones_own_is_its_own_affair() -> None:
    @dataclass(frozen=True, slots=True)
    class Sized(events.Event):
        size: str = "XL"

    async def main() -> None:
        told: list[Any] = []
        async with Hub() as hub:
            hub.subscribe(Sized, told.append, run="worker")
            hub.ingest(Sized())
            await came_true(lambda: told == [Sized()])

    run(main)


class Telling:
    """Takes a while to tell others what it was told last, as a bridge does."""

    def __init__(self, hub: Hub):
        self.has_told, self._remove = False, hub.add(self)

    def start(self, ingest: Callable[[events.Event], None]) -> None:
        pass

    async def close(self) -> None:
        await asyncio.sleep(0.1)
        self.has_told = True


def test_who_closes_waits_until_the_bridges_have_said_their_last_words() -> None:
    async def coordinator(uri: str) -> Telling:
        async with Coordinator({"cameras": uri}) as lab:
            return Telling(lab.hub)

    async def a_rig() -> Telling:
        async with Rig("ephys", "udp://127.0.0.1:0") as ephys:
            return Telling(ephys.hub)

    with Rig("cameras", "udp://127.0.0.1:0") as rig:
        of_rig = Telling(rig.hub)
        with Auxiliaries({"cameras": rig.uri}) as aux:
            of_aux = Telling(aux.hub)
        assert of_aux.has_told
        assert asyncio.run(coordinator(rig.uri)).has_told
    assert of_rig.has_told
    assert asyncio.run(a_rig()).has_told
