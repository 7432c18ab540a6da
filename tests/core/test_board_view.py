"""What a coordinator makes of a rig's notices on its board, in whatever order and shape they come."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigsync.core import events
from rigsync.core.board import MOST, MOST_BYTES, Progress
from rigsync.core.board_view import INTERVAL, SPARE, BoardView
from rigsync.core.events import ProgressChanged, StreamAdded, StreamRemoved, StreamUpdated
from rigsync.core.messages import Notice, to_json
from rigsync.core.outputs import Line
from rigsync.errors import RemoteProtocolError

from .support import NAME, RIG, PeerBench


class Bench:
    """A view, and what it has told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.view = BoardView(NAME, self.told)
        self.now = 100.0

    def receive(self, n: int, topic: str, key: str | None, body: Any, confirm: bool) -> bool:
        return self.view.receive(Notice(RIG, n, topic, key, body, confirm), self.now)

    def progress(self, n: int, value: Any, item: str = "a", confirm: bool = False, **more: Any) -> bool:
        return self.receive(n, "progress", item, {"value": value, "total": None, "unit": None, **more}, confirm)

    def stream(self, n: int, action: str, number: int, name: str = "left", confirm: bool = True, **info: Any) -> bool:
        return self.receive(n, "stream", name, {"action": action, "number": number, "info": info}, confirm)

    def run(self, seconds: float) -> list[Any]:
        """Let time pass; return what was told, since the last look."""
        end = self.now + seconds
        while (when := self.view.next_timer()) <= end:
            self.now = max(self.now, when)
            self.view.handle_timer(self.now)
            assert self.view.next_timer() > self.now
        self.now = end
        told = self.told.copy()
        self.told.clear()
        return told

    def values(self, seconds: float = 0.0) -> list[Any]:
        return [event.value for event in self.run(seconds)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# ------------------------------------------------------------------------------------------------------ progress


def test_the_first_value_is_told_at_once_and_is_to_be_seen(bench: Bench) -> None:
    assert bench.progress(1, 3, total=9.5, unit="B")
    assert bench.run(0) == [ProgressChanged(NAME, "a", 3, 9.5, "B")]
    assert bench.view.progress == {"a": Progress(3, 9.5, "B")}
    assert bench.view.next_timer() == math.inf


def test_four_values_a_second_are_told_and_the_last_but_all_are_to_be_seen(bench: Bench) -> None:
    told = []
    for n in range(21):
        bench.progress(n, n)
        assert bench.view.progress["a"].value == n
        told += bench.values(0.1)
    told += bench.values(10)
    assert told[0] == 0
    assert told[-1] == 20
    assert 8 <= len(told) <= 10


def test_the_same_value_once_more_is_not_told(bench: Bench) -> None:
    bench.progress(1, 3)
    bench.run(10)
    bench.progress(2, 3, confirm=True)
    assert bench.run(10) == []
    assert not bench.progress(1, 4)  # older
    bench.progress(3, 3, unit="B")
    assert len(bench.run(10)) == 1


@given(st.permutations(list(enumerate("abcabcabc"))))
def test_an_older_value_never_takes_the_place_of_a_newer(order: list[tuple[int, str]]) -> None:
    bench = Bench()
    for n, item in order:
        bench.progress(n, n, item)
    assert {item: shown.value for item, shown in bench.view.progress.items()} == {"a": 6, "b": 7, "c": 8}


def test_a_value_of_the_experiment_before_does_not_come_back(bench: Bench) -> None:
    bench.progress(1, 1, "old")
    bench.progress(7, 7, "new")  # which has overtaken the one that clears
    assert bench.receive(5, "progress", None, None, True)
    assert not bench.progress(4, 4, "late")
    assert list(bench.view.progress) == ["new"]


def test_the_last_value_is_told_before_it_is_forgotten_and_nothing_later(bench: Bench) -> None:
    bench.progress(1, 1)
    bench.progress(2, 2)
    bench.receive(3, "progress", None, None, True)
    assert bench.values() == [1, 2]
    assert bench.values(10) == []


# ------------------------------------------------------------------------------------------------------- streams


def test_streams_come_change_and_go(bench: Bench) -> None:
    bench.stream(1, "add", 1, fps=30)
    assert bench.run(0) == [StreamAdded(NAME, "left", {"fps": 30})]
    bench.stream(2, "update", 1, confirm=False, fps=31)
    assert bench.view.streams == {"left": {"fps": 31}}
    bench.stream(3, "update", 1, confirm=False, fps=32)
    assert bench.run(INTERVAL - 0.01) == []
    assert bench.run(0.01) == [StreamUpdated(NAME, "left", {"fps": 32})]
    bench.stream(4, "update", 1, confirm=False, fps=33)
    bench.stream(5, "remove", 1, fps=33)
    assert bench.run(10) == [StreamRemoved(NAME, "left", {"fps": 33})]
    assert bench.view.streams == {}


def test_an_update_of_a_stream_that_is_not_there_is_ignored(bench: Bench) -> None:
    assert not bench.stream(1, "update", 1, confirm=False)
    assert not bench.stream(2, "remove", 1)
    bench.stream(3, "add", 1)
    bench.stream(4, "remove", 1)
    assert not bench.stream(5, "update", 1, confirm=False)
    assert [type(event) for event in bench.run(10)] == [StreamAdded, StreamRemoved]


def test_an_update_is_of_the_stream_that_it_means_and_of_no_other_of_that_name(bench: Bench) -> None:
    bench.stream(1, "add", 1, take=1)
    assert not bench.stream(5, "update", 2, confirm=False, take=2, frames=9)  # has overtaken the two below
    bench.stream(3, "remove", 1, take=1)
    bench.stream(4, "add", 2, take=2)
    assert not bench.stream(2, "update", 1, confirm=False, take=1)  # has been overtaken
    bench.stream(6, "update", 2, take=2, frames=9)
    told = [event.info for event in bench.run(10)]
    assert told == [{"take": 1}, {"take": 1}, {"take": 2}, {"take": 2, "frames": 9}]


def test_an_older_update_never_takes_the_place_of_a_newer(bench: Bench) -> None:
    bench.stream(1, "add", 1)
    bench.stream(4, "update", 1, confirm=False, frames=4)
    assert not bench.stream(3, "update", 1, frames=3)
    assert not bench.stream(2, "add", 1, frames=2)  # told to it alone, beside what was told to all
    assert bench.view.streams == {"left": {"frames": 4}}


def test_one_whose_removal_was_given_up_is_removed_when_there_is_another_of_its_name(bench: Bench) -> None:
    bench.stream(1, "add", 1, take=1)
    bench.stream(9, "add", 2, take=2)
    assert not bench.stream(10, "add", 1, take=1)
    assert [(type(event), event.info["take"]) for event in bench.run(10)] == [
        (StreamAdded, 1),
        (StreamRemoved, 1),
        (StreamAdded, 2),
    ]


def test_the_state_told_anew_forgets_all_that_is_older_and_nothing_newer(bench: Bench) -> None:
    bench.stream(1, "add", 1, "left")
    bench.stream(2, "add", 2, "right")
    bench.stream(8, "update", 2, "right", confirm=False, frames=8)
    bench.progress(3, 3, "a")
    bench.progress(9, 9, "b")
    bench.run(10)
    assert bench.receive(5, "stream", None, None, True)
    assert bench.run(10) == [StreamRemoved(NAME, "left", {})]
    assert list(bench.view.progress) == ["b"]
    assert not bench.progress(4, 4, "a")
    bench.stream(6, "add", 2, "right")
    assert bench.view.streams == {"right": {"frames": 8}}


def test_what_is_seen_and_told_is_a_copy(bench: Bench) -> None:
    bench.stream(1, "add", 1, files=["a"])
    bench.run(0)[0].info["files"].append("b")
    bench.view.streams["left"]["files"].append("c")
    bench.view.progress["a"] = Progress(1)
    assert bench.view.streams == {"left": {"files": ["a"]}}
    assert bench.view.progress == {}


def test_emptied_it_begins_anew(bench: Bench) -> None:
    bench.stream(100, "add", 7, fps=30)
    bench.progress(101, 1)
    bench.progress(102, 2)
    bench.receive(103, "progress", None, None, True)
    bench.run(0)
    bench.view.empty()
    assert bench.run(10) == [StreamRemoved(NAME, "left", {"fps": 30})]
    assert (bench.view.progress, bench.view.streams) == ({}, {})
    assert bench.progress(1, 1)
    assert bench.stream(2, "add", 1)


# ------------------------------------------------------------------------------------------------- what is refused

DEEP: Any = {}
for _ in range(200):
    DEEP = {"a": DEEP}
VALUE = {"value": 1, "total": None, "unit": None}
ADD: dict[str, Any] = {"action": "add", "number": 1, "info": {}}


@pytest.mark.parametrize(
    ("topic", "key", "body", "confirm"),
    [
        ("progress", None, {}, True),
        ("progress", None, None, False),
        ("stream", None, None, False),
        ("stream", None, [], True),
        ("progress", "", VALUE, False),
        ("progress", "x" * 101, VALUE, False),
        ("progress", "a", None, False),
        ("progress", "a", 5, False),
        ("progress", "a", [1], False),
        ("progress", "a", {}, False),
        *(("progress", "a", {"value": value}, False) for value in (None, True, "1", math.nan, -math.inf, 10**400, [])),
        *(("progress", "a", {"value": 1, "total": total}, False) for total in (True, "1", math.nan, math.inf, {})),
        *(("progress", "a", {"value": 1, "unit": unit}, False) for unit in ("", "x" * 101, 5, [])),
        ("stream", "", ADD, True),
        ("stream", "a", None, True),
        ("stream", "a", {}, True),
        ("stream", "a", ADD, False),
        *(("stream", "a", {**ADD, "info": info}, True) for info in (None, [], "a", DEEP, {"a": [1] * 600_000})),
        *(("stream", "a", {**ADD, "number": number}, True) for number in (None, True, 1.0, "1")),
        *(("stream", "a", {**ADD, "action": action}, True) for action in (None, "clear", 5, [])),
    ],
)
def test_what_makes_no_sense_is_refused_and_harms_nothing(
    bench: Bench, topic: str, key: str | None, body: Any, confirm: bool
) -> None:
    bench.progress(1, 1)
    bench.stream(2, "add", 1, fps=30)
    with pytest.raises(RemoteProtocolError) as refused:
        bench.receive(3, topic, key, body, confirm)
    assert refused.value.kind == "malformed notice"
    assert bench.view.progress == {"a": Progress(1)}
    assert bench.view.streams == {"left": {"fps": 30}}


def test_a_rig_that_makes_up_names_does_not_take_all_memory(bench: Bench) -> None:
    for n in range(SPARE * MOST):
        bench.progress(n, n, str(n))
    for n in range(MOST):
        bench.stream(n, "add", n, str(n))
    with pytest.raises(RemoteProtocolError, match="too many items"):
        bench.progress(SPARE * MOST, 1, "one more")
    with pytest.raises(RemoteProtocolError, match="too many streams"):
        bench.stream(MOST, "add", MOST, "one more")
    assert bench.progress(SPARE * MOST + 1, 1, "7")
    assert bench.stream(MOST + 1, "remove", 7, "7")
    assert bench.stream(MOST + 2, "add", MOST + 2, "one more")


def test_nor_does_one_that_says_much_of_each(bench: Bench) -> None:
    text = "x" * (MOST_BYTES // 10)
    most = SPARE * 10 - 1
    for n in range(most):
        bench.stream(n, "add", n, str(n), text=text)
    with pytest.raises(RemoteProtocolError, match="too large streams"):
        bench.stream(most, "add", most, "one more", text=text)
    with pytest.raises(RemoteProtocolError, match="too large streams"):
        bench.stream(most + 1, "update", 1, "1", text=text, more=text)
    assert bench.view.streams["1"] == {"text": text}
    bench.stream(most + 2, "remove", 1, "1")
    assert bench.stream(most + 3, "add", most + 3, "one more", text=text)
    bench.view.empty()
    assert bench.view._bytes == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "info", "a"]), inner),
)
BODY = JSON | st.fixed_dictionaries(
    {},
    optional={
        "action": st.sampled_from(["add", "update", "remove"]) | JSON,
        "number": JSON,
        "info": JSON,
        "value": JSON,
    },
)


@given(
    st.lists(st.tuples(st.sampled_from(["progress", "stream"]), st.none() | st.text(max_size=3), BODY, st.booleans()))
)
def test_whatever_comes_is_taken_or_is_a_violation(notices: list[tuple[str, str | None, Any, bool]]) -> None:
    bench = Bench()
    for n, notice in enumerate(notices):
        try:
            bench.receive(n, *notice)
        except RemoteProtocolError:
            continue
        bench.run(0.1)
    assert bench.view._bytes == sum(len(to_json(info)) for info in bench.view.streams.values())


# ------------------------------------------------------------------------------------------------------ in a peer


@pytest.fixture
def peer() -> PeerBench:
    return PeerBench().connected()


def test_what_is_malformed_is_confirmed_counted_and_told_once(peer: PeerBench) -> None:
    for n in (1, 2):
        peer.notice(n, "nonsense", topic="progress", key="a")
    assert len([data for data in peer.sent(Line.PROBES) if b'"ack"' in data]) == 2
    assert peer.peer.violations == {"malformed notice": 2}
    (violation,) = peer.events(events.ViolationSeen)
    assert violation.kind == "malformed notice"
    assert peer.events(events.Notice) == []


def test_the_board_is_told_by_events_of_its_own_and_a_repeat_is_none(peer: PeerBench) -> None:
    for _ in range(2):
        peer.notice(5, {"action": "add", "number": 1, "info": {}}, topic="stream", key="left")
        peer.notice(6, {"value": 1, "total": None, "unit": None}, topic="progress", key="a", confirm=False)
    assert peer.told == [StreamAdded(NAME, "left", {}), ProgressChanged(NAME, "a", 1, None, None)]
    assert peer.peer.violations == {"late notice": 2}


def test_what_has_to_wait_is_told_by_the_timer(peer: PeerBench) -> None:
    for n in (1, 2):
        peer.notice(n, {"value": n, "total": None, "unit": None}, topic="progress", key="a", confirm=False)
    peer.run(1)
    assert [event.value for event in peer.events(ProgressChanged)] == [1, 2]


def test_a_rig_that_is_started_anew_has_an_empty_board(peer: PeerBench) -> None:
    peer.notice(5, {"action": "add", "number": 1, "info": {"fps": 30}}, topic="stream", key="left")
    peer.notice(6, {"value": 1, "total": None, "unit": None}, topic="progress", key="a")
    peer.told.clear()
    peer.alive(boot="b" * 16)
    told = [event for event in peer.told if isinstance(event, (StreamRemoved, events.RestartSeen))]
    assert told == [StreamRemoved(NAME, "left", {"fps": 30}), events.RestartSeen(NAME)]
    assert (peer.peer.board.progress, peer.peer.board.streams) == ({}, {})


def test_an_iblutil_program_in_its_place_has_no_board(peer: PeerBench) -> None:
    peer.notice(5, {"action": "add", "number": 1, "info": {}}, topic="stream", key="left")
    peer.run(2)
    peer.receive(peer.sent(Line.PROBES)[-1], Line.PROBES)
    assert peer.events(StreamRemoved) == [StreamRemoved(NAME, "left", {})]
