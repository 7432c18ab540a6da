"""The hub without a loop: who is told what, in which order, and what becomes of subscribers that fail."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from rigsync.core.enums import ExpMessage
from rigsync.core.events import (
    Event,
    LinkChanged,
    LinkLost,
    LinkState,
    ProgressChanged,
    PushBegun,
    RestartSeen,
)
from rigsync.errors import UnknownEvent
from rigsync.hub.hub import SLOW, HubCore, Stage, Subscription


@dataclass(frozen=True, slots=True)
class Numbered(Event):
    n: int


@dataclass(frozen=True, slots=True)
class Urgent(Event):
    PRIORITY: ClassVar[int] = -5
    n: int = 0


class Bench:
    """A core with clocks that stand still unless a subscriber takes its time, and a list of what was reported."""

    def __init__(self) -> None:
        self.now, self.wall = 50.0, 1000.0
        self.raised_: list[tuple[str, str, BaseException]] = []
        self.slow: list[tuple[str, str, float]] = []
        self.core = HubCore(lambda: self.now, lambda: self.wall, self)
        self.told: list[Any] = []

    def raised(self, role: str, name: str, error: BaseException) -> None:
        self.raised_.append((role, name, error))

    def held_up(self, role: str, name: str, seconds: float) -> None:
        self.slow.append((role, name, seconds))

    def on(
        self,
        kind: type[Event] | None,
        tell: Callable[[Any], object] | str,
        priority: float = 0,
        stage: Stage = Stage.USUAL,
    ) -> Subscription:
        name = tell if isinstance(tell, str) else tell.__name__
        called = (lambda event: self.told.append((tell, event))) if isinstance(tell, str) else tell
        made = Subscription(kind, called, priority, stage, name)
        self.core.subscribe(made)
        return made

    def tell(self, *told: Event) -> list[Any]:
        self.told.clear()
        for event in told:
            self.core.ingest(event, None, None, None)
        self.core.tell_all()
        return [who for who, _ in self.told]


@pytest.fixture
def bench() -> Bench:
    return Bench()


LOST = LinkLost("cameras", LinkState.ALIVE, LinkState.LOST, "silent")


# --------------------------------------------------------------------------------------------------------- who is told


def test_subscribers_to_a_class_and_to_those_it_is_derived_from(bench: Bench) -> None:
    for kind in (LinkLost, LinkChanged, Event, RestartSeen):
        bench.on(kind, kind.__name__)
    assert bench.tell(LOST) == ["LinkLost", "LinkChanged", "Event"]


def test_several_for_one_type_in_the_order_of_priority_and_then_of_registration(bench: Bench) -> None:
    for name, priority in (("a", 0), ("b", 5), ("c", -5), ("d", 0), ("e", -5)):
        bench.on(LinkLost, name, priority)
    assert bench.tell(LOST) == ["c", "e", "a", "d", "b"]


def test_default_is_told_of_what_nobody_asks_for(bench: Bench) -> None:
    bench.on(None, "default")
    bench.on(Event, "everything")
    bench.on(LinkLost, "lost")
    bench.on(RestartSeen, "rule", stage=Stage.FIRST)  # rigsync's own does not count
    assert bench.tell(LOST) == ["everything", "lost"]
    assert bench.tell(RestartSeen("cameras")) == ["rule", "default", "everything"]


def test_subscribers_come_and_go(bench: Bench) -> None:
    first, _ = bench.on(Event, "first"), bench.on(Event, "second")
    assert bench.tell(LOST) == ["first", "second"]
    bench.core.end(first)
    bench.core.end(first)
    assert bench.tell(LOST) == ["second"]
    bench.on(Event, "third")
    assert bench.tell(LOST) == ["second", "third"]


def test_one_that_is_ended_by_another_is_not_told_of_the_same_event_any_more(bench: Bench) -> None:
    later: list[Subscription] = []
    bench.on(Event, lambda _: bench.core.end(later[0]))
    later.append(bench.on(Event, "ended"))
    assert bench.tell(LOST) == []


def test_filters_see_every_event_in_order_and_can_consume_it(bench: Bench) -> None:
    seen: list[tuple[int, Event]] = []
    lost, other = LOST, RestartSeen("cameras")
    bench.on(Event, "first rule", stage=Stage.FIRST)
    bench.on(Event, "last rule", stage=Stage.LAST)
    bench.on(Event, "subscriber", -1000)
    ends = [
        bench.core.add_filter(lambda event, n=n: seen.append((n, event)) or (n == 2 and event is lost), f"f{n}")
        for n in (1, 2, 3)
    ]
    assert bench.tell(lost, other) == ["first rule", "last rule", "first rule", "subscriber", "last rule"]
    assert seen == [(1, lost), (2, lost), (1, other), (2, other), (3, other)]
    ends[1]()
    assert bench.tell(lost) == ["first rule", "subscriber", "last rule"]
    for end in ends:
        end()
    seen.clear()
    assert bench.tell(lost) == ["first rule", "subscriber", "last rule"]
    assert seen == []


def test_a_filter_that_raises_is_reported_and_consumes_nothing(bench: Bench) -> None:
    def faulty(_: Event) -> bool:
        raise KeyError("no")

    bench.core.add_filter(faulty, "faulty")
    bench.on(Event, "subscriber")
    assert bench.tell(LOST) == ["subscriber"]
    assert [(role, name, type(error)) for role, name, error in bench.raised_] == [("filter", "faulty", KeyError)]


# --------------------------------------------------------------------------------------------------- order, priorities


def test_secondary_events_are_told_breadth_first(bench: Bench) -> None:
    def spread(event: Numbered) -> None:
        bench.told.append((event.n, event))
        if event.n < 7:
            for child in (2 * event.n, 2 * event.n + 1):
                bench.core.ingest(Numbered(child), None, None, None)

    bench.on(Numbered, spread)
    assert bench.tell(Numbered(1)) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]


def test_all_subscribers_are_told_of_an_event_before_any_is_of_what_follows(bench: Bench) -> None:
    bench.on(Numbered, lambda event: event.n == 1 and bench.core.ingest(Numbered(2), None, None, None))
    bench.on(Numbered, lambda event: bench.told.append((("last", event.n), event)))
    assert bench.tell(Numbered(1)) == [("last", 1), ("last", 2)]


def test_a_hundred_thousand_secondary_events_keep_their_order(bench: Bench) -> None:
    count = 100_000

    def flood(event: Numbered) -> None:
        if event.n == 0:
            for n in range(1, count + 1):
                bench.core.ingest(Numbered(n), None, None, None)
        bench.told.append((event.n, event))

    bench.on(Numbered, flood)
    assert bench.tell(Numbered(0)) == list(range(count + 1))


def test_priority_overtakes_and_equal_ones_keep_their_order(bench: Bench) -> None:
    def begin(_: RestartSeen) -> None:
        for told in (
            ProgressChanged("cameras", "frames", 1, None, None),
            Numbered(1),
            ProgressChanged("cameras", "frames", 2, None, None),
            PushBegun(1.0, ExpMessage.EXPINTERRUPT, [], ["cameras"], None),
            Numbered(2),
            Urgent(1),
            Urgent(2),
        ):
            bench.core.ingest(told, None, None, None)

    bench.on(RestartSeen, begin)
    bench.on(Event, "told")
    bench.tell(RestartSeen("cameras"))
    told = [event for _, event in bench.told[1:]]
    assert told[:2] == [Urgent(1), Urgent(2)]
    assert told[2:3] + told[4:5] == [Numbered(1), Numbered(2)]
    assert isinstance(told[3], PushBegun)
    assert [event.value for event in told[5:]] == [1, 2]


def test_a_priority_that_is_given_counts_in_place_of_that_of_the_class(bench: Bench) -> None:
    def begin(_: RestartSeen) -> None:
        for n, priority in enumerate((3, -9, None, 100, -9)):
            bench.core.ingest(Numbered(n), None, priority, None)

    bench.on(RestartSeen, begin)
    bench.on(Numbered, "told")
    bench.tell(RestartSeen("cameras"))
    assert [event.n for _, event in bench.told] == [1, 4, 2, 0, 3]


def test_priorities_that_are_done_with_leave_nothing_behind(bench: Bench) -> None:
    for n in range(1000):
        bench.core.stamp(event := Numbered(n), None, n, None)
        bench.core.put(event)
        bench.core.tell_all()
    assert len(bench.core._by_priority) <= 2


def test_what_does_not_end_is_told_in_slices(bench: Bench) -> None:
    def on_and_on(event: Numbered) -> None:
        bench.now += 0.01
        bench.told.append((event.n, event))
        bench.core.ingest(Numbered(event.n + 1), None, None, None)

    bench.on(Numbered, on_and_on)
    bench.core.ingest(Numbered(0), None, None, None)
    assert not bench.core.tell_all(bench.now + 0.095)
    assert [n for n, _ in bench.told] == list(range(11))
    assert bench.core.waiting == 1
    assert bench.core.clear() == 1
    assert bench.core.tell_all()


def test_what_has_come_by_a_boundary_is_told_with_the_stamp_that_it_has_and_seen_to_have_come_that_way(
    bench: Bench,
) -> None:
    boundary, seen = object(), []
    bench.on(Event, lambda event: seen.append((event.n, bench.core.boundary)))
    bench.core.stamp(event := Numbered(1), 99, None, None)
    bench.core.put(event, boundary)
    bench.core.stamp(other := Numbered(2), None, None, None)
    bench.core.put(other)
    assert bench.core.tell_all()
    assert seen == [(1, boundary), (2, None)]
    assert event.stamp
    assert event.stamp.id == 99


def test_rules_are_for_what_happens_here_and_filters_and_subscribers_for_what_comes_by_a_boundary_too(
    bench: Bench,
) -> None:
    for stage in Stage:
        bench.on(Numbered, stage.name, stage=stage)
    bench.core.add_filter(lambda event: event.n == 3, "no threes")
    for n, boundary in ((1, object()), (2, None), (3, object())):
        bench.core.stamp(event := Numbered(n), None, None, None)
        bench.core.put(event, boundary)
    assert bench.core.tell_all()
    assert [(name, event.n) for name, event in bench.told] == [("USUAL", 1), ("FIRST", 2), ("USUAL", 2), ("LAST", 2)]


# ------------------------------------------------------------------------------------------------------------- stamps


def test_each_event_has_id_type_priority_time_rig_and_cause(bench: Bench) -> None:
    bench.on(LinkLost, lambda _: bench.core.ingest(Numbered(1), None, None, None))
    event, other = replace(LOST), Urgent()
    assert event.stamp is None
    bench.tell(event, other)
    bench.wall = 2000.0
    assert event.stamp == (1, "LinkLost", 0, 1000.0, "cameras", None)
    assert other.stamp == (2 + 1, "Urgent", -5, 1000.0, None, None)
    seen: list[Any] = []
    bench.on(Numbered, seen.append)
    bench.tell(replace(LOST))
    assert seen[0].stamp == (5, "Numbered", 0, 2000.0, None, 4)
    assert event == replace(LOST)  # what is noted of an event is no part of it
    assert pickle.loads(pickle.dumps(event)) == event


def test_ids_are_sequential_or_given(bench: Bench) -> None:
    told = [Numbered(n) for n in range(4)]
    for event, number in zip(told, (None, 77, None, 0), strict=True):
        bench.core.ingest(event, number, None, None)
    assert [event.stamp.id for event in told if event.stamp] == [1, 77, 2, 0]


@pytest.mark.parametrize("thing", [3, "LinkLost", None, LinkLost, object()])
def test_what_is_no_event(bench: Bench, thing: Any) -> None:
    with pytest.raises(UnknownEvent, match="what is told is an event"):
        bench.core.ingest(thing, None, None, None)
    assert bench.tell(LOST) == []


# ------------------------------------------------------------------------------------------- subscribers that misbehave


@pytest.mark.parametrize("error", [ValueError("spilt"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_one_that_raises_is_reported_with_its_name_and_the_type_and_the_rest_are_told(
    bench: Bench, error: BaseException
) -> None:
    def clumsy(_: Event) -> None:
        raise error

    bench.on(LinkChanged, clumsy)
    bench.on(LinkLost, "next")
    assert bench.tell(LOST, LOST) == ["next", "next"]
    assert bench.raised_ == [("subscriber to LinkChanged", "clumsy", error)] * 2


def test_one_that_takes_long_is_named_with_how_long_and_no_other_is(bench: Bench) -> None:
    def dawdle(_: Event) -> None:
        bench.now += 3.0

    def quick(_: Event) -> None:
        bench.now += 0.9 * SLOW

    for function in (quick, dawdle, quick):
        bench.on(LinkLost, function)
    bench.tell(LOST)
    assert bench.slow == [("subscriber to LinkLost", "dawdle", 3.0)]
    bench.core.add_filter(dawdle, "slow filter")
    bench.tell(LOST)
    assert bench.slow[1:] == [("filter", "slow filter", 3.0), ("subscriber to LinkLost", "dawdle", 3.0)]


def test_who_is_being_told_can_be_seen(bench: Bench) -> None:
    seen: list[Any] = []
    bench.on(LinkLost, lambda _: seen.append(bench.core.running and bench.core.running.name))
    bench.tell(LOST)
    assert seen == ["<lambda>"]
    assert bench.core.running is None
