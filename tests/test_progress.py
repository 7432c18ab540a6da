"""Progress and streams, with real rigs, sockets, and a bad network between."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from processes import LONG, free_port, port_of, until

from rigsync import Auxiliaries, PayloadError, PayloadTooLarge, Progress, Rig, UnknownStream
from rigsync.core import messages
from rigsync.core.events import ProgressChanged, StreamAdded, StreamEvent, StreamRemoved
from rigsync.core.rigs import DATAGRAM_ROOM
from rigsync.net.relay import relay_before
from rigsync.rig.board import RigBoard

ITEMS = [f"item {i}" for i in range(20)]


@pytest.fixture
def rig(stack: contextlib.ExitStack) -> Rig:
    return stack.enter_context(Rig("cameras", "udp://127.0.0.1:0"))


class Watcher:
    """A coordinator that notes what it is told."""

    def __init__(self, stack: contextlib.ExitStack, uri: str):
        self.aux = stack.enter_context(Auxiliaries({"cameras": uri}))
        assert self.aux.services
        self.remote = self.aux.services["cameras"]
        self.changes: list[ProgressChanged] = []
        self.streams: list[StreamEvent] = []
        self.notices: list[Any] = []
        self.aux.on("ProgressChanged", self.changes.append)
        self.aux.on("StreamEvent", self.streams.append)
        self.aux.on("Notice", self.notices.append)

    def steps(self) -> list[tuple[type[StreamEvent], str]]:
        """Return which streams were added and removed, in order."""
        told = [(type(event), event.id) for event in self.streams.copy()]
        return [step for step in told if step[0] in (StreamAdded, StreamRemoved)]


class BareWatcher:
    """A coordinator that is nothing but a socket, and counts the datagrams that come.

    Attributes
    ----------
    came : dict of str to list of (int, bool)
        Of each item of progress, every value that came, and whether it was confirmed.
    """

    boot = "00000000000000cc"

    def __init__(self, port: int):
        self.came: dict[str, list[tuple[Any, bool]]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(0.05)
        self._ended = threading.Event()
        self._seen: set[int] = set()
        self.is_known = False
        self._thread = threading.Thread(target=self._run, name="bare watcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> BareWatcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(LONG)
        self._socket.close()

    def _run(self) -> None:
        probed = 0.0
        while not self._ended.is_set():
            if time.monotonic() - probed >= 0.5:
                probed = time.monotonic()
                self._socket.send(messages.probe(self.boot, 1, 0))
            try:
                frame = messages.decode(self._socket.recv(65_535))
            except TimeoutError:
                continue
            if isinstance(frame, messages.Notice):
                if frame.confirm:
                    self._socket.send(messages.ack(self.boot, frame.n))
                if frame.topic == "progress" and frame.n not in self._seen:  # what is sent again is another matter
                    self._seen.add(frame.n)
                    self.came.setdefault(str(frame.key), []).append((frame.body["value"], frame.confirm))
            elif isinstance(frame, messages.Alive):
                self.is_known = True


def test_a_thousand_calls_a_second_of_each_item_are_ten_datagrams_and_four_events(
    stack: contextlib.ExitStack, rig: Rig
) -> None:
    watcher = Watcher(stack, rig.uri)
    bare = stack.enter_context(BareWatcher(port_of(rig.uri)))
    until(lambda: watcher.aux.all_alive and bare.is_known)
    begun, calls = time.monotonic(), 0
    while (now := time.monotonic() - begun) < 3:
        while calls < 1000 * now:
            calls += 1
            for item in ITEMS:
                rig.progress(item, calls, 10_000, "frames")
        time.sleep(0.001)
    took = time.monotonic() - begun
    until(lambda: all(bare.came.get(item, [])[-1:] == [(calls, True)] for item in ITEMS), "the last value, confirmed")
    assert watcher.remote.progress == dict.fromkeys(ITEMS, Progress(calls, 10_000, "frames"))
    until(lambda: {event.item for event in watcher.changes.copy() if event.value == calls} == set(ITEMS))
    for item in ITEMS:
        values = [value for value, _ in bare.came[item]]
        assert values == sorted(values)
        assert len(values) <= 10 * took + 3  # the first, the last, and that once more
        told = [event.value for event in watcher.changes if event.item == item]
        assert told == sorted(set(told))
        assert len(told) <= 4 * (took + 1) + 1
    assert watcher.notices == []


def test_values_that_come_slowly_are_all_told(stack: contextlib.ExitStack, rig: Rig) -> None:
    watcher = Watcher(stack, rig.uri)
    for value in (1, 2.5, 3):
        rig.progress("trials", value)
        until(lambda value=value: [event.value for event in watcher.changes][-1:] == [value])  # type: ignore[misc]
    assert watcher.changes == [ProgressChanged("cameras", "trials", value, None, None) for value in (1, 2.5, 3)]


def test_what_changes_wakes_a_rig_to_which_nothing_comes(rig: Rig) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as coordinator:
        coordinator.connect(("127.0.0.1", port_of(rig.uri)))
        coordinator.settimeout(LONG)
        coordinator.send(messages.probe(BareWatcher.boot, 1, 0))
        assert isinstance(messages.decode(coordinator.recv(65_535)), messages.Alive)
        rig.progress("trials", 1)
        notice = messages.decode(coordinator.recv(65_535))
        assert isinstance(notice, messages.Notice)
        assert notice.key == "trials"


def test_each_change_of_a_board_wakes_its_rig() -> None:
    class Board(RigBoard):
        woken = 0

        def _wake(self) -> None:
            self.woken += 1

    board = Board(DATAGRAM_ROOM)
    board.add_stream("left")
    assert board.woken == 1
    board.update_stream("left", fps=30)
    board.update_stream("left", fps=30)
    assert board.woken == 2
    board.remove_stream("left")
    assert board.woken == 3
    board = Board(DATAGRAM_ROOM)
    for _ in range(2):
        board.progress("trials", 1)
        assert board.woken == 1


def test_streams_are_told_in_order_to_every_coordinator_over_a_bad_network(
    stack: contextlib.ExitStack, rig: Rig
) -> None:
    target = {"cameras": ("127.0.0.1", port_of(rig.uri))}
    bad = stack.enter_context(relay_before(target, loss=0.3, duplication=0.2, reordering=0.2, seed=1))["cameras"]
    watchers = [Watcher(stack, "udp://{}:{}".format(*bad.address)), Watcher(stack, rig.uri)]
    until(lambda: all(watcher.aux.all_alive for watcher in watchers))
    expected = []
    for i in range(9):
        rig.add_stream(f"camera {i % 3}", take=i)
        for frames in range(100):
            rig.update_stream(f"camera {i % 3}", frames=frames)
            rig.progress("frames", 100 * i + frames)
        rig.remove_stream(f"camera {i % 3}")
        expected += [(StreamAdded, f"camera {i % 3}"), (StreamRemoved, f"camera {i % 3}")]
    rig.add_stream("the end")
    rig.update_stream("the end", state="done")
    for watcher in watchers:
        until(lambda watcher=watcher: watcher.remote.streams == {"the end": {"state": "done"}})  # type: ignore[misc]
        until(lambda watcher=watcher: watcher.remote.progress == {"frames": Progress(899)})  # type: ignore[misc]
        assert watcher.steps() == [*expected, (StreamAdded, "the end")]
        removed = [event for event in watcher.streams if isinstance(event, StreamRemoved)]
        assert [event.info for event in removed] == [{"take": i, "frames": 99} for i in range(9)]


def test_who_comes_late_gets_the_present_state(stack: contextlib.ExitStack, rig: Rig) -> None:
    first = Watcher(stack, rig.uri)
    rig.add_stream("gone")
    rig.add_stream("left", fps=30)
    rig.update_stream("left", state="recording")
    rig.remove_stream("gone")
    rig.progress("frames", 12, 5000)
    late = Watcher(stack, rig.uri)
    for watcher in (first, late):
        until(lambda watcher=watcher: watcher.remote.progress == {"frames": Progress(12, 5000)})  # type: ignore[misc]
        until(
            lambda watcher=watcher: watcher.remote.streams == {"left": {"fps": 30, "state": "recording"}}  # type: ignore[misc]
        )


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_what_is_reported_before_and_between_serving_is_there(stack: contextlib.ExitStack, scheme: str) -> None:
    rig = Rig("cameras", f"{scheme}://127.0.0.1:{free_port(scheme=scheme)}")
    rig.add_stream("left", fps=30)
    rig.progress("frames", 1)
    rig.start()
    try:
        watcher = Watcher(stack, rig.uri)
        until(lambda: watcher.remote.streams == {"left": {"fps": 30}})
        until(lambda: watcher.remote.progress == {"frames": Progress(1)})
        rig.progress("frames", 2)
        rig.progress("frames", 3)
        rig.close()
        until(lambda: watcher.remote.progress == {"frames": Progress(3)}, "its last words")
        rig.progress("frames", 4)
        rig.update_stream("left", fps=60)
        rig.add_stream("right")
        watcher.streams.clear()
        rig.start()
        until(lambda: watcher.remote.streams == {"left": {"fps": 60}, "right": {}})
        until(lambda: watcher.remote.progress == {"frames": Progress(4)})
        until(lambda: len(watcher.steps()) == 3)
        assert watcher.steps() == [(StreamRemoved, "left"), (StreamAdded, "left"), (StreamAdded, "right")]
        rig.progress("frames", 5)
        until(lambda: watcher.remote.progress == {"frames": Progress(5)}, "it is awake again")
    finally:
        rig.close()


def test_another_experiment_begins_without_progress(stack: contextlib.ExitStack, rig: Rig) -> None:
    rig.on("EXPINIT")(lambda data=None: rig.progress("preparing", 1))
    watcher = Watcher(stack, rig.uri)
    rig.progress("old", 1)
    rig.add_stream("left")
    until(lambda: "old" in watcher.remote.progress)
    watcher.aux.request("EXPINIT", {"exp_ref": "2026-01-31_1_mouse"})
    until(lambda: watcher.remote.progress == {"preparing": Progress(1)})
    assert list(watcher.remote.streams) == ["left"]


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_a_handler_may_report(stack: contextlib.ExitStack, rig: Rig, kind: str) -> None:
    def report() -> None:
        rig.add_stream("left")
        rig.progress("frames", 1)

    async def report_on_loop() -> None:
        report()

    rig.on("EXPINFO")(report if kind == "thread" else report_on_loop)
    watcher = Watcher(stack, rig.uri)
    watcher.aux.request("EXPINFO")
    until(lambda: watcher.remote.progress == {"frames": Progress(1)})
    until(lambda: list(watcher.remote.streams) == ["left"])


def test_a_rig_on_the_program_s_own_event_loop_may_report(stack: contextlib.ExitStack) -> None:
    async def main(rig: Rig) -> None:
        async with rig:
            watcher = await asyncio.to_thread(Watcher, stack, rig.uri)
            rig.progress("frames", 1)
            await asyncio.to_thread(until, lambda: watcher.remote.progress == {"frames": Progress(1)})

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(main(Rig("cameras", "udp://127.0.0.1:0")))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def test_reports_come_from_any_thread(stack: contextlib.ExitStack, rig: Rig) -> None:
    watcher = Watcher(stack, rig.uri)

    def report(name: str) -> None:
        for i in range(5000):
            rig.progress(name, i, None if i % 3 else i)
            if i % 500 == 0:
                rig.add_stream(name, i=i)
                rig.update_stream(name, i=i + 1)
                rig.remove_stream(name)

    threads = [threading.Thread(target=report, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: watcher.remote.progress == dict.fromkeys("abcd", Progress(4999)))
    until(lambda: len(watcher.steps()) == 4 * 20)
    for name in "abcd":
        infos = [event.info["i"] for event in watcher.streams if event.id == name and isinstance(event, StreamRemoved)]
        assert infos == [500 * i + 1 for i in range(10)]


def test_nothing_of_it_waits_or_fails_where_the_rig_does_not_serve() -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    for _ in range(2):
        rig.progress("frames", 1)
        rig.add_stream("left")
        rig.update_stream("left", fps=30)
        rig.remove_stream("left")
        with rig:
            rig.progress("frames", 2)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda rig: rig.progress("a", "12"), TypeError),
        (lambda rig: rig.progress("", 1), ValueError),
        (lambda rig: rig.progress("a", float("nan")), ValueError),
        (lambda rig: rig.add_stream("left"), ValueError),
        (lambda rig: rig.add_stream("right", a=object()), PayloadError),
        (lambda rig: rig.add_stream("right", a="x" * 70_000), PayloadTooLarge),
        (lambda rig: rig.update_stream("right", a=1), UnknownStream),
        (lambda rig: rig.update_stream("right", a=1), LookupError),
        (lambda rig: rig.remove_stream("right"), UnknownStream),
    ],
)
@pytest.mark.parametrize("serves", [True, False])
def test_what_cannot_be_is_refused_at_the_call(
    call: Callable[[Rig], None], error: type[Exception], serves: bool
) -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    rig.add_stream("left")
    with rig if serves else contextlib.nullcontext(), pytest.raises(error):
        call(rig)


@pytest.mark.parametrize(
    ("topic", "instead"), [("progress", "rig.progress"), ("stream", "rig.add_stream"), ("status", "topic of your own")]
)
def test_the_topics_of_the_rig_itself_are_refused_to_notify(rig: Rig, topic: str, instead: str) -> None:
    with pytest.raises(ValueError, match=instead):
        rig.notify(topic, 1)


def test_of_a_rig_that_is_not_there_nothing_is_known() -> None:
    with Auxiliaries({"cameras": f"127.0.0.1:{free_port()}"}, connect_timeout=0.0) as aux:
        assert aux.services
        assert (aux.services["cameras"].progress, aux.services["cameras"].streams) == ({}, {})
