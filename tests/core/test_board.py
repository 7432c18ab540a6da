"""What a rig shows of its work, and that coordinators come to know it, whatever the network does."""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync.core import messages
from rigsync.core.board import INTERVAL, MOST, MOST_BYTES, MOST_STEPS, QUIET, TOPICS, Board, Post
from rigsync.core.board_view import INTERVAL as TOLD_INTERVAL
from rigsync.core.events import Event, ProgressChanged, StreamAdded, StreamEvent, StreamRemoved, StreamUpdated
from rigsync.core.messages import Notice
from rigsync.errors import PayloadError, PayloadTooLarge, UnknownStream
from rigsync.testing import Coordinator, SimNetwork

START = 50.0
"""Seconds; nothing is to depend on where the clock begins."""


class Bench:
    """A board, and a clock that stops at each of its timers."""

    def __init__(self, board: Board | None = None) -> None:
        self.board = board or Board()
        self.board.open()
        self.now = START

    def run(self, seconds: float) -> list[tuple[float, Post]]:
        """Let time pass; return what is to be sent, and after how many seconds."""
        begin, end, sent = self.now, self.now + seconds, []
        while (when := self.board.next_timer()) <= end:
            self.now = max(self.now, when)
            sent += [(round(self.now - begin, 6), post) for post in self.board.take(self.now)]
            assert self.board.next_timer() > self.now
        self.now = end
        return sent

    def values(self, seconds: float) -> list[tuple[float, Any, bool]]:
        """Return after how many seconds which value is sent, and whether confirmed."""
        return [(when, post.body["value"], post.confirm) for when, post in self.run(seconds)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def body(value: Any, total: Any = None, unit: Any = None) -> dict[str, Any]:
    return {"value": value, "total": total, "unit": unit}


# ------------------------------------------------------------------------------------------------- what is sent


def test_a_value_is_sent_at_once_and_once_all_is_quiet_again_so_that_it_arrives(bench: Bench) -> None:
    assert bench.board.progress("frames", 12, 5000, "frames")
    shown = body(12, 5000, "frames")
    first = Post("progress", "frames", shown, confirm=False, is_value=True)
    last = Post("progress", "frames", shown, confirm=True, is_value=True)
    assert bench.run(60) == [(0.0, first), (QUIET, last)]
    assert bench.board.next_timer() == math.inf


def test_of_what_changes_often_ten_values_a_second_are_sent_the_newest_each_time(bench: Bench) -> None:
    sent = []
    for i in range(2000):
        bench.board.progress("frames", i)
        sent += [(round(i / 1000 + when, 3), value, confirm) for when, value, confirm in bench.values(0.001)]
    sent += [(round(2 + when, 3), value, confirm) for when, value, confirm in bench.values(60)]
    *often, last = sent
    assert [when for when, _, _ in often] == pytest.approx([0.1 * i for i in range(21)], abs=0.0011)
    assert [value for _, value, _ in often] == pytest.approx([100 * i for i in range(20)] + [1999], abs=1.1)
    assert not any(confirm for _, _, confirm in often)
    assert last == (pytest.approx(2 + QUIET, abs=0.0011), 1999, True)


def test_what_changes_right_after_its_last_value_was_sent_waits_for_its_turn(bench: Bench) -> None:
    bench.board.progress("a", 1)
    bench.run(QUIET)
    bench.run(0.01)
    bench.board.progress("a", 2)
    sent = bench.values(10)
    assert sent == [(pytest.approx(0.1), 2, False), (pytest.approx(0.1 + QUIET - 0.1, abs=0.11), 2, True)]


def test_only_the_first_change_of_a_tick_wakes_the_sender(bench: Bench) -> None:
    assert bench.board.progress("a", 1)
    assert not bench.board.progress("a", 2)
    assert not bench.board.progress("b", 1)
    bench.board.take(START)
    assert not bench.board.progress("a", 3)
    assert bench.board.next_timer() == START + INTERVAL
    assert [post.body["value"] for post in bench.board.take(START + INTERVAL)] == [3]
    bench.now = START + INTERVAL
    bench.run(10)
    assert bench.board.progress("a", 4)
    assert [value for _, value, _ in bench.values(0.01)] == [4]


def test_what_rests_is_confirmed_while_another_item_that_changed_before_it_goes_on(bench: Bench) -> None:
    bench.board.progress("goes on", 0)
    bench.board.progress("rests", 0)
    sent = []
    for i in range(1, 21):
        sent += [(round(i / 10 - 0.1 + when, 3), post) for when, post in bench.run(0.1)]
        bench.board.progress("goes on", i)
    assert [(when, post.key) for when, post in sent if post.confirm] == [(QUIET, "rests")]
    assert [(post.key, post.body["value"]) for _, post in bench.run(10) if post.confirm] == [("goes on", 20)]


def test_what_does_not_change_is_not_sent(bench: Bench) -> None:
    bench.board.progress("a", 1, 2, "x")
    bench.run(0.05)
    for value in (1, 1.0, np.int64(1)):
        assert not bench.board.progress("a", value, 2, "x")
    assert bench.values(10) == [(pytest.approx(QUIET - 0.05), 1, True)]


@pytest.mark.parametrize("changed", [(2, 9, "x"), (1, 10, "x"), (1, 9, "y"), (1, None, None), (1, 9.5, "x")])
def test_another_value_total_or_unit_is_a_change(bench: Bench, changed: tuple[Any, ...]) -> None:
    bench.board.progress("a", 1, 9, "x")
    bench.run(10)
    assert bench.board.progress("a", *changed)
    assert bench.run(0.01)[0][1].body == body(*changed)


def test_numbers_of_numpy_are_numbers(bench: Bench) -> None:
    for value in (np.int32(3), np.float64(4.5), np.uint8(255)):
        bench.board.progress("a", value, np.int64(10))
        (_, sent), *_ = bench.run(1)
        assert sent.body == body(value.item(), 10)
        assert type(sent.body["value"]) in (int, float)


def test_streams_are_added_and_removed_at_once_in_order_and_each_time(bench: Bench) -> None:
    for i in range(5):
        assert bench.board.add_stream("left", {"i": i})
        assert bench.board.remove_stream("left")
    sent = bench.run(0.001)
    assert {when for when, _ in sent} == {0.0}
    assert all(post.confirm and not post.is_value and post.topic == "stream" for _, post in sent)
    assert [(post.body["action"], post.body["number"], post.body["info"]) for _, post in sent] == [
        (action, i + 1, {"i": i}) for i in range(5) for action in ("add", "remove")
    ]
    assert bench.run(10) == []


def test_updates_are_merged_and_sent_whole_as_values_are(bench: Bench) -> None:
    bench.board.add_stream("left", {"fps": 30, "state": "idle"})
    bench.run(10)
    sent = []
    for i in range(300):
        bench.board.update_stream("left", {"frames": i})
        sent += bench.run(0.001)
    sent += bench.run(10)
    assert 4 <= len(sent) <= 6
    assert {(post.body["action"], post.body["number"]) for _, post in sent} == {("update", 1)}
    assert [post.confirm for _, post in sent] == [False] * (len(sent) - 1) + [True]
    assert sent[-1][1].body["info"] == {"fps": 30, "state": "idle", "frames": 299}
    assert not bench.board.update_stream("left", {"fps": 30})
    assert bench.run(10) == []
    # Whoever sends is woken by the first change alone.
    assert [bench.board.update_stream("left", {"frames": i}) for i in (-1, -2)] == [True, False]


def test_what_is_removed_says_the_last_of_itself_and_sends_nothing_after(bench: Bench) -> None:
    bench.board.add_stream("left", {"frames": 0})
    bench.run(10)
    for i in range(3):
        bench.board.update_stream("left", {"frames": i + 1})
        bench.run(0.01)
    bench.board.remove_stream("left")
    ((_, last),) = bench.run(10)
    assert last.body == {"action": "remove", "number": 1, "info": {"frames": 3}}


def test_an_update_follows_what_adds_its_stream(bench: Bench) -> None:
    bench.board.add_stream("left", {"frames": 0})
    bench.board.update_stream("left", {"frames": 1})
    assert [(when, post.body["action"], post.body["info"], post.confirm) for when, post in bench.run(10)] == [
        (0.0, "add", {"frames": 0}, True),
        (0.0, "update", {"frames": 1}, False),
        (QUIET, "update", {"frames": 1}, True),
    ]


def test_another_experiment_forgets_progress_and_keeps_streams(bench: Bench) -> None:
    bench.board.progress("a", 1)
    bench.board.progress("b", 1)
    bench.board.add_stream("left", {})
    bench.run(10)
    bench.board.progress("a", 2)
    assert bench.board.clear_progress()
    last = Post("progress", "a", {"value": 2, "total": None, "unit": None}, confirm=True, is_value=True)
    assert bench.run(10) == [(0.0, last), (0.0, Post("progress", None, None, confirm=True))]
    assert not bench.board.clear_progress()
    assert [post.key for post in bench.board.snapshot()] == [None, "left"]
    bench.board.progress("a", 2)
    assert [value for _, value, _ in bench.values(10)] == [2, 2]


def test_an_item_of_the_next_experiment_waits_for_its_turn_all_the_same(bench: Bench) -> None:
    bench.board.progress("a", 1)
    bench.run(0.05)
    bench.board.clear_progress()
    bench.board.progress("a", 2)
    sent = bench.run(10)
    assert [(when, post.body and post.body["value"]) for when, post in sent][:3] == [(0.0, 1), (0.0, None), (0.05, 2)]


def test_at_the_end_the_last_of_all_is_sent_so_that_it_arrives(bench: Bench) -> None:
    bench.board.add_stream("left", {})
    bench.board.progress("a", 1)
    bench.run(10)
    bench.board.progress("a", 2)
    bench.run(0.01)
    bench.board.progress("a", 3)
    bench.board.progress("b", 1)
    bench.board.add_stream("right", {})
    posts = bench.board.take_last(bench.now)
    assert all(post.confirm for post in posts)
    assert {(post.key, (post.body.get("value"))) for post in posts} == {("right", None), ("a", 3), ("b", 1)}


def test_who_comes_late_gets_it_all(bench: Bench) -> None:
    bench.board.add_stream("left", {"fps": 30})
    bench.board.progress("a", 1)
    bench.board.progress("a", 2, 9)
    whole = [
        Post("stream", "left", {"action": "add", "number": 1, "info": {"fps": 30}}, confirm=True),
        Post("progress", "a", body(2, 9), confirm=True, is_value=True),
    ]
    assert bench.board.snapshot() == whole
    # Who has been told something may have to forget it.
    assert bench.board.snapshot() == [Post("stream", None, None, confirm=True), *whole]


def test_what_was_shown_before_it_is_served_is_in_the_state_and_is_not_sent_beside_it() -> None:
    board = Board()
    board.progress("a", 1)
    board.add_stream("left", {})
    bench = Bench(board)
    assert bench.run(10) == []
    assert [post.key for post in board.snapshot()] == ["left", "a"]
    board.progress("a", 2)
    assert [value for _, value, _ in bench.values(10)] == [2, 2]
    bench = Bench(board)  # served again
    assert [post.key for post in board.snapshot()] == ["left", "a"]


def test_more_steps_than_can_wait_become_the_present_state_whole(bench: Bench) -> None:
    bench.board.progress("a", 1)
    for _ in range(MOST_STEPS):
        bench.board.add_stream("left", {})
        bench.board.remove_stream("left")
    bench.board.add_stream("right", {})
    assert len(bench.board._steps) <= MOST_STEPS
    sent = [post for _, post in bench.run(0.01)]
    assert [(post.key, post.confirm) for post in sent] == [(None, True), ("right", True), ("a", True), ("a", False)]


def test_as_many_steps_as_can_wait_are_told_one_by_one(bench: Bench) -> None:
    for _ in range(MOST_STEPS // 2):
        bench.board.add_stream("left", {})
        bench.board.remove_stream("left")
    sent = [post.body["action"] for _, post in bench.run(0.01)]
    assert sent == MOST_STEPS // 2 * ["add", "remove"]


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("", 1), ValueError),
        (("x" * 101, 1), ValueError),
        ((5, 1), TypeError),
        ((None, 1), TypeError),
        (([], 1), TypeError),
        (("a", True), TypeError),
        (("a", np.True_), TypeError),
        (("a", "12"), TypeError),
        (("a", None), TypeError),
        (("a", np.arange(2)), TypeError),
        (("a", object()), PayloadError),
        (("a", math.nan), ValueError),
        (("a", math.inf), ValueError),
        (("a", np.float64("nan")), ValueError),
        (("a", 10**400), ValueError),
        (("a", -(10**400)), ValueError),
        (("a", 10**5000), TypeError),
        (("a", 1, math.nan), ValueError),
        (("a", 1, True), TypeError),
        (("a", 1, "9"), TypeError),
        (("a", 1, 9, ""), ValueError),
        (("a", 1, 9, "u" * 101), ValueError),
        (("a", 1, 9, 5), TypeError),
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_progress_that_cannot_be_is_refused_and_leaves_what_was(
    bench: Bench, arguments: tuple[Any, ...], error: type[Exception], is_known: bool
) -> None:
    if is_known:
        bench.board.progress("a", 1, 1)
        bench.run(10)
    before = bench.board.snapshot()[1:]
    with pytest.raises(error):
        bench.board.progress(*arguments)
    assert bench.board.snapshot()[-1:] == before[-1:]
    assert bench.run(10) == []


def test_a_program_that_makes_up_names_is_stopped(bench: Bench) -> None:
    for i in range(MOST):
        bench.board.progress(str(i), i)
        bench.board.add_stream(str(i), {})
    with pytest.raises(ValueError, match="1,024"):
        bench.board.progress("one more", 1)
    with pytest.raises(ValueError, match="1,024"):
        bench.board.add_stream("one more", {})
    bench.board.progress("7", 8)
    bench.board.remove_stream("7")
    bench.board.add_stream("one more", {})


def test_streams_that_cannot_be_are_refused_and_leave_what_was(bench: Bench) -> None:
    bench.board.add_stream("left", {"a": 1})
    with pytest.raises(ValueError, match="'left' already"):
        bench.board.add_stream("left", {"a": 2})
    for name, error in (("", ValueError), ("x" * 101, ValueError), (5, TypeError)):
        with pytest.raises(error):
            bench.board.add_stream(name, {})  # type: ignore[arg-type]
    with pytest.raises(UnknownStream, match=r"'right'.*'left'"):
        bench.board.update_stream("right", {"a": 2})
    with pytest.raises(UnknownStream, match=r"'right'.*'left'"):
        bench.board.remove_stream("right")
    with pytest.raises(PayloadError):
        bench.board.update_stream("left", {"a": object()})
    with pytest.raises(PayloadTooLarge):
        bench.board.add_stream("right", {"a": "x" * 70_000})
    bench.board.update_stream("left", {"b": "x" * 40_000})
    with pytest.raises(PayloadTooLarge):
        bench.board.update_stream("left", {"c": "x" * 40_000})
    (left,) = bench.board.snapshot()
    assert left.body["info"] == {"a": 1, "b": "x" * 40_000}


def test_a_stream_may_take_a_whole_datagram_and_no_byte_more(bench: Bench) -> None:
    largest = {"action": "update", "number": 2**63 - 1, "info": {"a": ""}}
    around = len(messages.notice(Notice("0" * 16, 2**63 - 1, "stream", "left", largest, False, to="0" * 16)))
    room = messages.MAX_DATAGRAM - around
    with pytest.raises(PayloadTooLarge):
        bench.board.add_stream("left", {"a": "x" * (room + 1)})
    bench.board.add_stream("left", {"a": "x" * room})


def test_all_streams_together_may_take_all_the_room_and_no_byte_more(bench: Bench) -> None:
    for i in range(26):
        bench.board.add_stream(str(i), {"a": "x" * 40_000})  # 40,008 bytes as JSON
    room = MOST_BYTES - 26 * 40_008
    with pytest.raises(ValueError, match="say less"):
        bench.board.add_stream("last", {"a": "x" * (room - 7)})
    bench.board.add_stream("last", {"a": "x" * (room - 8)})


def test_all_streams_together_have_an_end(bench: Bench) -> None:
    for i in range(26):
        bench.board.add_stream(str(i), {"a": "x" * 40_000})
    with pytest.raises(ValueError, match="say less"):
        bench.board.add_stream("one more", {"a": "x" * 40_000})
    with pytest.raises(ValueError, match="say less"):
        bench.board.update_stream("0", {"b": "x" * 20_000})
    bench.board.remove_stream("1")
    bench.board.add_stream("one more", {"a": "x" * 40_000})


def test_what_is_given_is_copied(bench: Bench) -> None:
    info = {"files": ["a"]}
    bench.board.add_stream("left", info)
    info["files"].append("b")
    assert bench.run(1)[0][1].body["info"] == {"files": ["a"]}


class Interrupted(dict[Any, Any]):
    """What another thread fills just when the one that empties it has found it empty."""

    def __init__(self, meanwhile: Any):
        super().__init__()
        self.meanwhile = [meanwhile]

    def popitem(self) -> Any:
        if not self and self.meanwhile:
            self.meanwhile.pop()()
            raise KeyError
        return super().popitem()


def test_what_changes_while_the_sender_goes_to_sleep_is_sent(bench: Bench) -> None:
    bench.board.progress("a", 1)
    bench.run(0.05)
    bench.board._dirty = Interrupted(lambda: bench.board.progress("a", 2))
    bench.now = bench.board.next_timer()
    assert bench.board.take(bench.now) == []
    assert bench.board.next_timer() == 0.0
    assert [value for _, value, _ in bench.values(10)] == [2, 2]


def test_what_was_forgotten_while_another_thread_changed_it_is_not_sent(bench: Bench) -> None:
    bench.board.progress("a", 1)
    bench.run(10)
    found = bench.board._items["a"]
    bench.board.clear_progress()
    bench.board._mark(found)
    assert [post.key for _, post in bench.run(10)] == [None]


def test_what_was_forgotten_while_another_thread_changed_it_hides_no_other_of_its_name(bench: Bench) -> None:
    bench.board.progress("a", 1)
    bench.run(10)
    found = bench.board._items["a"]
    bench.board.clear_progress()
    bench.board.progress("a", 2)
    bench.board._mark(found)
    assert [post.body and post.body["value"] for _, post in bench.run(10)] == [None, 2, 2]
    bench.board.progress("a", 3)
    assert [value for _, value, _ in bench.values(10)] == [3, 3]


def test_no_value_is_lost_between_threads() -> None:
    board = Board(lock=threading.RLock())
    board.open()
    newest: dict[str, Any] = {}
    names = [f"{thread}{i}" for thread in "abc" for i in range(5)]

    def report(thread: str) -> None:
        for value in range(2000):
            for i in range(5):
                board.progress(f"{thread}{i}", value, None if value % 7 else value)

    threads = [threading.Thread(target=report, args=(thread,)) for thread in "abc"]
    for thread in threads:
        thread.start()
    now = START
    while any(thread.is_alive() for thread in threads):
        now += 0.05
        newest.update({post.key: post.body for post in board.take(now) if post.key})
    for thread in threads:
        thread.join()
    while (now := max(now, board.next_timer())) < math.inf:
        newest.update({post.key: post.body for post in board.take(now) if post.key})
    assert newest == {name: body(1999) for name in names}


# ------------------------------------------------------------------------------------------- over a bad network


class Stamped(list[Any]):
    """What a coordinator was told, each with when."""

    def __init__(self, network: SimNetwork):
        super().__init__()
        self.network = network
        self.times: list[tuple[float, Event]] = []

    def append(self, event: Any) -> None:
        self.times.append((self.network.now, event))
        super().append(event)


class Story:
    """A rig, coordinators of it, and what goes over the network between."""

    def __init__(self, network: SimNetwork):
        self.network = network
        self.rig = network.add_rig("cameras")
        self.coordinators: list[Coordinator] = []
        self.sent: dict[tuple[Any, str, str], dict[int, float]] = {}
        """By coordinator, topic and key: when which number was first sent, but for what is never held back."""
        self.steps: list[tuple[type[StreamEvent], str]] = []
        carry = network.send

        def send(data: bytes, source: Any, destination: Any) -> None:
            frame = messages.decode(data)
            is_of_board = isinstance(frame, Notice) and frame.key and frame.topic in TOPICS
            if is_of_board and frame.body.get("action", "update") == "update":
                self.sent.setdefault((destination, frame.topic, frame.key), {}).setdefault(frame.n, network.now)
            carry(data, source, destination)

        network.send = send  # type: ignore[method-assign]
        self.join()

    def join(self) -> Coordinator:
        coordinator = self.network.coordinator()
        coordinator.events = Stamped(self.network)
        self.coordinators.append(coordinator)
        return coordinator

    def board_is_known(self) -> bool:
        progress, streams = {}, {}
        for post in self.rig.board.snapshot():
            if post.topic == "progress" and post.key:
                progress[post.key] = post.body
            elif post.key:
                streams[post.key] = post.body["info"]
        return all(self.seen(coordinator) == (progress, streams) for coordinator in self.coordinators)

    @staticmethod
    def seen(coordinator: Coordinator) -> tuple[dict[str, Any], dict[str, Any]]:
        view = coordinator.fanout.peers["cameras"].board
        progress = {item: body(shown.value, shown.total, shown.unit) for item, shown in view.progress.items()}
        return progress, view.streams

    def act(self, action: str, name: str, value: int) -> None:
        board = self.rig.board
        has_stream = any(post.topic == "stream" and post.key == name for post in board.snapshot())
        if action == "progress":
            board.progress(name, value, 9 if value % 2 else None)
        elif action == "burst":
            for i in range(30):
                board.progress(name, 10 * i + value)
                if has_stream:
                    board.update_stream(name, {"value": 10 * i + value})
                self.network.run(0.01)
        elif action == "update" and has_stream:
            board.update_stream(name, {"value": value})
        elif action == "toggle" and has_stream:
            board.remove_stream(name)
            self.steps.append((StreamRemoved, name))
        elif action == "toggle":
            board.add_stream(name, {"value": value})
            self.steps.append((StreamAdded, name))
        elif action == "begin":
            self.coordinators[0].push("EXPINIT", {"exp_ref": f"2026-01-{value + 1:02}_1_mouse"}, timeout=0.5)
        elif action == "join" and len(self.coordinators) < 3:
            self.join()
        elif action == "restart":
            self.rig.listening = False
            self.network.run(0.1)  # until nothing that the program before has sent is under way
            self.rig.listening = True
            self.rig.restart()

    def told(self, coordinator: Coordinator, kind: type[Event]) -> list[tuple[float, Any]]:
        assert isinstance(coordinator.events, Stamped)
        return [(when, event) for when, event in coordinator.events.times if isinstance(event, kind)]


def most_within_a_second(times: list[float]) -> int:
    times = sorted(times)
    return max((sum(begin <= when < begin + 1 - 1e-6 for when in times) for begin in times), default=0)


def quiet_board(story: Story) -> None:
    """Let time pass until nothing more is to be sent; then every coordinator has to know the board."""
    responder = story.rig.responder

    def is_quiet() -> bool:
        waiting = responder._coordinators._watchers.values()
        return story.rig.board.next_timer() == math.inf and not any(len(watcher.notices) for watcher in waiting)

    story.network.run(3)  # in which all are heard of, also by a rig that has been started anew
    assert story.network.run(120, until=is_quiet)
    assert story.network.run(30, until=story.board_is_known), [
        story.rig.board.snapshot(),
        *map(story.seen, story.coordinators),
    ]
    story.network.run(2)
    assert story.board_is_known()


ACTIONS = ["progress", "progress", "burst", "update", "update", "toggle", "toggle", "begin", "join", "restart"]
STEP = st.tuples(st.sampled_from(ACTIONS), st.sampled_from("ab"), st.integers(0, 9), st.sampled_from([0, 0.02, 0.3, 1]))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(STEP, min_size=1, max_size=30),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.0, 0.3]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.3]),
)
def test_at_quiet_every_coordinator_knows_the_board_whatever_happened(
    steps: list[tuple[str, str, int, float]], seed: int, loss: float, duplication: float, reordering: float
) -> None:
    story = Story(SimNetwork(seed, loss=loss, duplication=duplication, reordering=reordering))
    first = story.coordinators[0]
    story.network.run(30, until=lambda: first.fanout.all_alive)
    story.network.run(0.5)
    for action, name, value, wait in steps:
        story.act(action, name, value)
        story.network.run(wait)
    quiet_board(story)

    has_restarted = "restart" in [action for action, *_ in steps]
    begun = [action for action, *_ in steps].count("begin")  # before which the last value is told, out of turn
    # One more where what is confirmed had to wait for its turn, or is the present state for one that comes late.
    most = 10 if loss == 0 else 11
    for (destination, _, _), first_sent in story.sent.items():
        came_late = destination not in first.lines
        assert most_within_a_second(list(first_sent.values())) <= most + came_late + has_restarted + begun
    for coordinator in story.coordinators:
        changes: dict[Any, list[float]] = {}
        for when, event in story.told(coordinator, ProgressChanged):
            changes.setdefault(("progress", event.item), []).append(when)
        streams = [(type(event), event.id) for _, event in story.told(coordinator, StreamEvent)]
        for when, event in story.told(coordinator, StreamUpdated):
            changes.setdefault(("stream", event.id), []).append(when)
        for times in changes.values():
            early = [later - earlier < TOLD_INTERVAL - 1e-6 for earlier, later in itertools.pairwise(times)]
            assert sum(early) <= 2 * begun
        order = [step for step in streams if step[0] is not StreamUpdated]
        for name in "ab":
            of_name = [kind for kind, id in order if id == name]
            assert of_name == [StreamAdded, StreamRemoved] * (len(of_name) // 2) + [StreamAdded] * (len(of_name) % 2)
            updates = itertools.groupby(kind for kind, id in streams if id == name)
            before = [kind for kind, _ in updates]
            assert before[:1] in ([], [StreamAdded])  # none is updated that is not there
            assert (StreamRemoved, StreamUpdated) not in itertools.pairwise(before)
        if coordinator is first and not has_restarted:
            assert order == story.steps


def connected(network: SimNetwork) -> Story:
    story = Story(network)
    network.run(30, until=lambda: story.coordinators[0].fanout.all_alive)
    network.run(1)
    return story


def test_the_last_value_is_told() -> None:
    story = connected(SimNetwork(1, loss=0.3, duplication=0.2, reordering=0.2))
    story.rig.board.add_stream("left", {})
    for i in range(1000):
        story.rig.board.progress("frames", i)
        story.rig.board.update_stream("left", {"frames": i})
        story.network.run(0.005)
    quiet_board(story)
    (coordinator,) = story.coordinators
    values = [event.value for _, event in story.told(coordinator, ProgressChanged)]
    assert values == sorted(set(values))
    assert values[-1] == 999
    assert 12 <= len(values) <= 23
    frames = [event.info.get("frames", -1) for _, event in story.told(coordinator, StreamEvent)]
    assert frames == sorted(set(frames))
    assert frames[-1] == 999


def test_a_coordinator_that_was_away_for_long_gets_the_present_state_and_forgets_what_is_gone() -> None:
    story = connected(SimNetwork(2))
    first, board = story.coordinators[0], story.rig.board
    board.add_stream("left", {"state": "old"})
    board.add_stream("right", {})
    board.progress("a", 1)
    story.network.run(2)
    story.network.cut_off = {next(iter(first.lines))[0]}
    story.network.run(10)
    board.remove_stream("right")
    board.update_stream("left", {"state": "new"})
    board.clear_progress()
    story.network.run(130)
    board.progress("b", 1)  # by which who is away is found to be away for too long
    story.rig.notify("log", "one more thing")
    assert story.seen(first) == ({"a": body(1)}, {"left": {"state": "old"}, "right": {}})
    story.network.cut_off = set()
    quiet_board(story)
    assert story.seen(first) == ({"b": body(1)}, {"left": {"state": "new"}})


def test_a_coordinator_that_has_missed_too_much_gets_the_present_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigsync.core.notices.WAITING", 20)
    story = connected(SimNetwork(3))
    (first,), board = story.coordinators, story.rig.board
    board.add_stream("gone", {})
    story.network.run(2)
    story.network.cut_off = {next(iter(first.lines))[0]}
    board.remove_stream("gone")
    for i in range(30):
        board.add_stream(str(i), {})
        board.remove_stream(str(i))
    board.add_stream("left", {})
    for i in range(30):
        story.rig.notify("log", i)
    story.network.run(8)
    story.network.cut_off = set()
    quiet_board(story)
    assert story.seen(first) == ({}, {"left": {}})


def test_what_takes_the_room_of_what_has_shrunk_is_known_though_it_leaves_before() -> None:
    story = connected(SimNetwork(7))
    (first,), board = story.coordinators, story.rig.board
    for i in range(25):
        board.add_stream(str(i), {"a": "x" * 40_000})
    story.network.run(3)
    board.update_stream("0", {"a": ""})
    board.add_stream("left", {"a": "x" * 50_000})
    quiet_board(story)
    board.update_stream("1", {"b": 1})  # the first to change, and so the first to be sent
    board.update_stream("2", {"a": ""})
    board.update_stream("1", {"b": "x" * 20_000})
    quiet_board(story)
    assert "too large streams" not in first.fanout.peers["cameras"].violations


def test_as_many_items_as_there_may_be_are_known_before_those_of_the_last_experiment_are_forgotten() -> None:
    story = connected(SimNetwork(8))
    (first,), board = story.coordinators, story.rig.board
    for i in range(MOST):
        board.progress(f"old {i}", i)
    quiet_board(story)
    story.network.cut_off = {next(iter(first.lines))[0]}
    board.clear_progress()
    story.network.run(0.05)
    story.network.cut_off = set()
    for i in range(MOST):
        board.progress(f"new {i}", i)
    quiet_board(story)
    assert "too many items of progress" not in first.fanout.peers["cameras"].violations


def test_a_slow_link_is_not_flooded() -> None:
    story = connected(SimNetwork(4, delay=(0.2, 0.2)))
    for i in range(100):
        for item in range(20):
            story.rig.board.progress(str(item), i)
        story.network.run(0.7)
        (watcher,) = story.rig.responder._coordinators._watchers.values()
        assert len(watcher.notices) <= 22, "what waits is needless"
    quiet_board(story)
    for first_sent in story.sent.values():
        assert most_within_a_second(list(first_sent.values())) <= 10
        assert list(first_sent) == sorted(first_sent), "an older value left after a newer"


def test_the_rig_s_last_words_are_what_the_board_says() -> None:
    story = connected(SimNetwork(5))
    story.rig.board.progress("a", 1)
    story.network.run(0.05)
    story.rig.board.progress("a", 2)
    story.rig.board.add_stream("left", {})
    story.rig.responder.farewell(story.network.now)
    story.rig.pump()
    story.rig.listening = False
    story.network.run(1)
    assert story.seen(story.coordinators[0]) == ({"a": body(2)}, {"left": {}})


def test_another_experiment_begins_with_no_progress_and_the_same_goes_on_with_its_own() -> None:
    network = SimNetwork(6)

    def prepare(*_: Any) -> None:
        rig.board.progress("preparing", 1)

    rig = network.add_rig("cameras", {"EXPINIT": prepare})
    coordinator = network.coordinator()
    view = coordinator.fanout.peers["cameras"].board
    rig.board.progress("old", 1)
    rig.board.add_stream("left", {})

    def begin(reference: str) -> list[str]:
        coordinator.push("EXPINIT", {"exp_ref": reference})
        network.run(2)
        return list(view.progress)

    network.run(2)
    assert list(view.progress) == ["old"]
    assert begin("2026-01-01_1_mouse") == ["preparing"]
    rig.board.progress("frames", 1)
    assert begin("2026-01-01_1_mouse") == ["preparing", "frames"]
    assert begin("2026-01-01_2_mouse") == ["preparing"]
    assert list(view.streams) == ["left"]


def test_after_a_cleanup_nothing_is_shown_of_the_experiment_that_is_over() -> None:
    network = SimNetwork(6)

    def tidy(*_: Any) -> None:
        rig.board.progress("copying", 1)

    rig = network.add_rig("cameras", {"EXPCLEANUP": tidy})
    coordinator = network.coordinator()
    view = coordinator.fanout.peers["cameras"].board
    rig.board.add_stream("left", {})
    for message in ("EXPINIT", "EXPSTART"):
        coordinator.push(message, *([{"exp_ref": "2026-01-01_1_mouse"}] if message == "EXPINIT" else []))
        network.run(2)
    rig.board.progress("frames", 7)
    coordinator.push("EXPEND")
    network.run(2)
    assert list(view.progress) == ["frames"]  # how much was recorded is looked at now
    coordinator.push("EXPCLEANUP")
    network.run(2)
    assert list(view.progress) == ["copying"]  # what begins with the cleanup goes on
    coordinator.push("EXPCLEANUP")  # of nothing, which changes nothing
    network.run(2)
    assert list(view.progress) == ["copying"]
    assert list(view.streams) == ["left"]


def test_the_last_that_a_recording_says_is_told_though_a_cleanup_follows_at_once() -> None:
    network = SimNetwork(6)

    def end(*_: Any) -> None:
        rig.board.progress("frames", 36_000)

    rig = network.add_rig("cameras", {"EXPEND": end})
    coordinator = network.coordinator()
    for message in ("EXPINIT", "EXPSTART"):
        coordinator.push(message, *([{"exp_ref": "2026-01-01_1_mouse"}] if message == "EXPINIT" else []))
        network.run(2)
    rig.board.progress("frames", 35_990)
    network.run(0.01)
    coordinator.push("EXPEND")
    network.run(0.01)
    coordinator.push("EXPCLEANUP")
    network.run(2)
    told = [event.value for event in coordinator.events if isinstance(event, ProgressChanged)]
    assert told == [35_990, 36_000]
    assert not coordinator.fanout.peers["cameras"].board.progress
