"""What rigs report, to one function for each kind: order, threads, and functions that raise, hang or come too late."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_helpers import ends_within
from processes import LONG, until

import rigsync.runtime.lanes
from rigsync import Auxiliaries, LoopBlocked, Rig
from rigsync.coordinator.auxiliaries import CLOSE_TIMEOUT
from rigsync.coordinator.reports import Reports
from rigsync.core.events import Notice
from rigsync.runtime.hub import Hub

Serve = Callable[..., Rig]
Connect = Callable[..., Auxiliaries]


@pytest.fixture
def rig(serve: Serve) -> Rig:
    return serve("cameras")


@pytest.fixture
def aux(rig: Rig, connect: Connect) -> Auxiliaries:
    return connect(rig)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


def texts(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= level and record.name in ("rigsync.reports", "rigsync.callbacks")
    ]


# ------------------------------------------------------------------------------------------------ order and threads


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_function_is_called_with_each_notice_of_its_topic(rig: Rig, aux: Auxiliaries, kind: str) -> None:
    got: list[Any] = []

    def plain(notice: Notice) -> None:
        got.append((notice, threading.current_thread()))

    async def coroutine(notice: Notice) -> None:
        await asyncio.sleep(0)
        plain(notice)

    aux.on_notice("trial", plain if kind == "plain" else coroutine)
    rig.notify("other", 0)
    for i in range(20):
        rig.notify("trial", {"n": i}, key="left")
    until(lambda: len(got) == 20)
    assert [notice.body["n"] for notice, _ in got] == list(range(20))
    first, thread = got[0]
    assert (first.rig, first.topic, first.key) == ("cameras", "trial", "left")
    assert (thread is aux.thread) == (kind == "coroutine")
    assert thread is not threading.current_thread()


def test_all_are_called_one_after_the_other_in_the_order_of_arrival_over_rigs_and_topics(
    serve: Serve, connect: Connect
) -> None:
    rigs = [serve("cameras"), serve("ephys")]
    aux = connect(*rigs)
    arrived: list[Any] = []
    began: list[Any] = []
    running: list[Any] = []
    overlaps: list[Any] = []

    def begin(notice: Notice) -> None:
        overlaps.extend(running)
        running.append(notice)
        began.append(notice)

    def plain(notice: Notice) -> None:
        begin(notice)
        time.sleep(0.001)
        running.remove(notice)

    async def coroutine(notice: Notice) -> None:
        begin(notice)
        await asyncio.sleep(0.001)
        running.remove(notice)

    aux.on("notice", arrived.append)
    aux.on_notice("a", plain)
    aux.on_notice("b", coroutine)
    for i in range(60):
        rigs[i % 2].notify("ab"[i // 2 % 2], i)
    until(lambda: len(began) == 60 and not running)
    assert began == arrived
    assert overlaps == []


def test_a_plain_function_may_push_wait_and_call(rig: Rig, aux: Auxiliaries) -> None:
    rig.command("focus")(lambda z: z + 1)
    got: list[Any] = []

    def refocus(notice: Notice) -> None:
        got.append(aux.call("cameras", "focus", notice.body))
        got.append(sorted(aux.request("EXPINFO")))

    aux.on_notice("blurred", refocus)
    rig.notify("blurred", 3)
    until(lambda: len(got) == 2)
    assert got == [4, ["cameras"]]


def test_a_coroutine_function_may_await_a_call(rig: Rig, aux: Auxiliaries) -> None:
    rig.command("focus")(lambda z: z + 1)
    got: list[Any] = []

    async def refocus(notice: Notice) -> None:
        assert aux.services
        got.append(await aux.services.call("cameras", "focus", notice.body))

    aux.on_notice("blurred", refocus)
    rig.notify("blurred", 3)
    until(lambda: got == [4])


def test_partials_and_objects_are_functions_too(rig: Rig, aux: Auxiliaries) -> None:
    got: list[Any] = []

    class Note:
        async def __call__(self, notice: Notice) -> None:
            got.append(notice.body)

    def note(where: list[Any], notice: Notice) -> None:
        where.append(notice.body)

    aux.on_notice("a", Note())
    aux.on_notice("b", functools.partial(note, got))
    rig.notify("a", 1)
    rig.notify("b", 2)
    until(lambda: got == [1, 2])


# --------------------------------------------------------------------------------------------------------- assigning


def test_another_function_takes_the_place_of_the_first(rig: Rig, aux: Auxiliaries) -> None:
    got: list[Any] = []
    end_first = aux.on_notice("trial", lambda notice: got.append(("first", notice.body)))
    end_second = aux.on_notice("trial", lambda notice: got.append(("second", notice.body)))
    end_first()  # which is not called any more: no harm to the second
    rig.notify("trial", 1)
    until(lambda: got == [("second", 1)])
    end_second()
    end_second()
    aux.on_notice("other", lambda notice: got.append("other"))
    rig.notify("trial", 2)
    rig.notify("other", 3)
    until(lambda: got == [("second", 1), "other"])


def test_none_ends_it(rig: Rig, aux: Auxiliaries) -> None:
    got: list[Any] = []
    aux.on_notice("trial", got.append)
    aux.on_notice("trial", None)()
    aux.on_notice("never", None)
    aux.on_notice("other", got.append)
    rig.notify("trial", 1)
    rig.notify("other", 2)
    until(lambda: got)
    assert [notice.body for notice in got] == [2]


def test_what_waits_for_a_function_that_is_ended_is_not_for_a_later_one(
    rig: Rig, aux: Auxiliaries, gate: threading.Event
) -> None:
    got: list[Any] = []
    reached = threading.Event()
    arrived: list[Any] = []

    def hold(notice: Notice) -> None:
        reached.set()
        gate.wait(LONG)

    aux.on("notice", arrived.append)
    aux.on_notice("hold", hold)
    aux.on_notice("trial", lambda notice: got.append(("first", notice.body)))
    aux.on_notice("replaced", lambda notice: got.append(("old", notice.body)))
    rig.notify("hold")
    rig.notify("trial", 1)
    rig.notify("replaced", 2)
    until(lambda: len(arrived) == 3)
    assert reached.wait(LONG)
    aux.on_notice("trial", None)
    aux.on_notice("trial", lambda notice: got.append(("second", notice.body)))
    aux.on_notice("replaced", lambda notice: got.append(("new", notice.body)))
    rig.notify("trial", 3)
    until(lambda: len(arrived) == 4)
    gate.set()
    until(lambda: len(got) == 2)
    assert got == [("new", 2), ("second", 3)]


@pytest.mark.parametrize(
    ("topic", "callback", "error"),
    [(3, print, TypeError), ("", print, ValueError), ("trial", 5, TypeError), ("trial", "print", TypeError)],
)
def test_what_is_no_topic_or_no_function(aux: Auxiliaries, topic: Any, callback: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        aux.on_notice(topic, callback)


@pytest.mark.parametrize(("topic", "instead"), [("progress", "ProgressChanged"), ("stream", "StreamEvent")])
def test_what_events_of_its_own_tell_is_refused_rather_than_never_told(
    aux: Auxiliaries, topic: str, instead: str
) -> None:
    with pytest.raises(ValueError, match=instead):
        aux.on_notice(topic, print)
    aux.on(instead, print)


# -------------------------------------------------------------------------------------------- functions that misbehave


@pytest.mark.parametrize("error", [ValueError("spilt"), SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_one_that_raises_is_logged_by_name_and_harms_no_other(
    rig: Rig, aux: Auxiliaries, caplog: pytest.LogCaptureFixture, kind: str, error: BaseException
) -> None:
    got: list[Any] = []

    def spill(notice: Notice) -> None:
        raise error

    async def spill_on_loop(notice: Notice) -> None:
        raise error

    aux.on_notice("spill", spill if kind == "plain" else spill_on_loop)
    aux.on_notice("trial", got.append)
    for topic in ("spill", "trial", "spill", "trial"):
        rig.notify(topic)
    until(lambda: len(got) == 2)
    assert aux.request("EXPINFO")
    told = [text for text in texts(caplog) if "spill" in text]
    assert len(told) == 2
    name = "spill" if kind == "plain" else "spill_on_loop"
    assert told[0].startswith("callback for notices of 'spill' ")
    assert f"<locals>.{name} raised an exception" in told[0]


def test_one_that_cancels_itself_harms_no_other(rig: Rig, aux: Auxiliaries) -> None:
    got: list[Any] = []

    async def give_up(notice: Notice) -> None:
        raise asyncio.CancelledError

    aux.on_notice("spill", give_up)
    aux.on_notice("trial", got.append)
    rig.notify("spill")
    rig.notify("trial")
    until(lambda: got)


def test_one_that_blocks_the_service_thread_from_within_is_told_so(
    rig: Rig, aux: Auxiliaries, caplog: pytest.LogCaptureFixture
) -> None:
    async def call(notice: Notice) -> None:
        aux.call("cameras", "focus")

    aux.on_notice("trial", call)
    rig.notify("trial")
    until(lambda: texts(caplog))
    (record,) = [record for record in caplog.records if record.name == "rigsync.reports"]
    assert record.exc_info
    assert record.exc_info[0] is LoopBlocked


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_beyond_what_may_wait_the_oldest_are_dropped_and_that_is_told_by_name_with_the_number(
    rig: Rig,
    aux: Auxiliaries,
    gate: threading.Event,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(rigsync.runtime.lanes, "WAITING", 10)
    got: list[Any] = []
    arrived: list[Any] = []
    reached = threading.Event()

    def dawdle(notice: Notice) -> None:
        reached.set()
        gate.wait(LONG)

    async def dawdle_on_loop(notice: Notice) -> None:
        reached.set()
        while not gate.is_set():
            await asyncio.sleep(0.001)

    aux.on("notice", arrived.append)
    aux.on_notice("dawdle", dawdle if kind == "plain" else dawdle_on_loop)
    aux.on_notice("trial", lambda notice: got.append(notice.body))
    rig.notify("dawdle")
    assert reached.wait(LONG)
    for i in range(25):
        rig.notify("trial", i)
    until(lambda: len(arrived) == 26)
    name = "dawdle" if kind == "plain" else "dawdle_on_loop"
    (told,) = texts(caplog)
    assert f"<locals>.{name} for notices keeps 10 of them waiting; the oldest are dropped" in told
    gate.set()
    until(lambda: len(texts(caplog)) == 2)
    assert got == list(range(15, 25))
    assert texts(caplog)[1].startswith("15 notices were dropped while callback ")
    assert f".{name} " in texts(caplog)[1]
    rig.notify("trial", "after")
    until(lambda: got[-1] == "after")
    assert len(texts(caplog)) == 2


def test_large_notices_do_not_fill_the_memory_while_they_wait(
    rig: Rig,
    aux: Auxiliaries,
    gate: threading.Event,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rigsync.runtime.lanes, "WAITING_BYTES", 100_000)
    got: list[str] = []
    arrived: list[Any] = []
    reached = threading.Event()

    def look(notice: Notice) -> None:
        reached.set()
        gate.wait(LONG)
        got.append(notice.body[0])

    aux.on("notice", arrived.append)
    aux.on_notice("picture", look)
    rig.notify("picture", "0")
    assert reached.wait(LONG)
    for i in range(1, 10):
        rig.notify("picture", str(i) * 30_000)
    until(lambda: len(arrived) == 10)
    gate.set()
    until(lambda: len(texts(caplog)) == 2)
    assert got == ["0", "7", "8", "9"]
    assert "keeps 3 of them waiting; the oldest are dropped" in texts(caplog)[0]
    assert texts(caplog)[1].startswith("6 notices were dropped while callback ")


def test_a_notice_that_comes_in_the_turn_in_which_the_last_is_done_is_not_left_to_wait() -> None:
    got: list[int] = []

    async def main() -> None:
        hub = Hub()
        reports = Reports(hub)
        await hub.start()

        async def note(notice: Notice) -> None:
            got.append(notice.body)

        reports.assign("trial", note)
        for turns in range(20):
            hub.ingest(Notice("cameras", "trial", None, turns, True))
            for _ in range(turns):
                await asyncio.sleep(0)
            hub.ingest(Notice("cameras", "trial", None, -turns, True))
            while len(got) < 2 * turns + 2:
                await asyncio.sleep(0)
        hub.stop()

    asyncio.run(asyncio.wait_for(main(), LONG))
    assert got == [number for turns in range(20) for number in (turns, -turns)]


def test_ten_thousand_may_wait() -> None:
    assert rigsync.runtime.lanes.WAITING == 10_000


def test_a_flood_is_worked_off_without_a_call_deeper_than_the_stack() -> None:
    got: list[int] = []

    async def main() -> None:
        hub = Hub("reports")
        Reports(hub).assign("trial", lambda notice: got.append(notice.body))
        await hub.start()
        for i in range(5000):
            hub.ingest(Notice("cameras", "trial", None, i, True))
        while len(got) < 5000:
            await asyncio.sleep(0.001)
        hub.stop()
        hub.end_workers(LONG)

    asyncio.run(asyncio.wait_for(main(), LONG))
    assert got == list(range(5000))


# ----------------------------------------------------------------------------------------------------------- closing


CLOSING = CLOSE_TIMEOUT + 1.5
"""Seconds in which `close` returns, as it promises, and what a busy computer adds."""


def test_close_does_not_wait_for_a_function_that_hangs(
    rig: Rig, aux: Auxiliaries, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    reached = threading.Event()
    after: list[Any] = []

    def hang(notice: Notice) -> None:
        reached.set()
        gate.wait(LONG)

    aux.on_notice("trial", hang)
    aux.on_notice("after", after.append)
    rig.notify("trial")
    rig.notify("after")
    assert reached.wait(LONG)
    ends_within(CLOSING, aux.close)
    assert any("hang for notices is still running; it is left to itself" in text for text in texts(caplog))
    gate.set()
    until(lambda: not [thread for thread in threading.enumerate() if "rigsync-auxiliaries-handler" in thread.name])
    assert after == []


@pytest.mark.parametrize("stubborn", [False, True])
def test_close_does_not_wait_for_a_coroutine_that_hangs(rig: Rig, aux: Auxiliaries, stubborn: bool) -> None:
    reached = threading.Event()
    let_go = threading.Event()

    async def hang(notice: Notice) -> None:
        reached.set()
        while not let_go.is_set():
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                if not stubborn:
                    raise

    aux.on_notice("trial", hang)
    rig.notify("trial")
    assert reached.wait(LONG)
    ends_within(CLOSING, aux.close)
    assert not aux.thread.is_alive()
    let_go.set()


def test_a_plain_function_may_close(rig: Rig, aux: Auxiliaries, caplog: pytest.LogCaptureFixture) -> None:
    closed: list[float] = []

    def close(notice: Notice) -> None:
        begin = time.monotonic()
        aux.close()
        closed.append(time.monotonic() - begin)

    aux.on_notice("trial", close)
    rig.notify("trial")
    until(lambda: closed)
    assert closed[0] < CLOSING
    assert not aux.is_running
    assert not any("still running" in text for text in texts(caplog))


def test_setting_the_stop_event_leaves_no_thread_behind(rig: Rig, aux: Auxiliaries) -> None:
    got: list[Any] = []
    aux.on_notice("trial", got.append)
    rig.notify("trial")
    until(lambda: got)
    aux.stop_event.set()
    until(lambda: not [thread for thread in threading.enumerate() if "rigsync-auxiliaries-handler" in thread.name])


def test_what_was_dropped_is_told_at_the_latest_when_it_is_closed(
    rig: Rig,
    aux: Auxiliaries,
    gate: threading.Event,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rigsync.runtime.lanes, "WAITING", 5)
    arrived: list[Any] = []

    def hang(notice: Notice) -> None:
        gate.wait(LONG)

    aux.on("notice", arrived.append)
    aux.on_notice("trial", hang)
    for i in range(10):
        rig.notify("trial", i)
    until(lambda: len(arrived) == 10)
    aux.close()
    (told,) = [text for text in texts(caplog) if "were dropped" in text]
    assert told[:2] in ("4 ", "5 ")  # as the first had been taken out of those that wait by then, or not
    assert ".hang " in told
