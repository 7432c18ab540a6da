"""Kinds of events: by class, name and number, and those of a program's own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import pytest

from rigsync.core.events import CoordinatorEvent, Event, LinkChanged, LinkLost
from rigsync.errors import UnknownEvent
from rigsync.hub import events
from rigsync.hub.events import define, kind_of, kinds_below, number_of


@dataclass(frozen=True, slots=True)
class Counted(Event):
    n: int


def test_kinds_by_class_name_and_number() -> None:
    for number, kind in enumerate(events.KINDS, 1):
        assert kind_of(kind) is kind
        assert kind_of(kind.__name__) is kind_of(kind.__name__.upper()) is kind
        assert kind_of(number) is kind
        assert number_of(kind) == number
    assert kind_of(Counted) is kind_of("counted") is Counted
    assert number_of(Counted) is None


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("LinkLots", "no event 'LinkLots'; did you mean 'LinkLost'?"),
        ("RigLost", "no event 'RigLost'; did you mean 'LinkLost'?"),
        ("xyz", "no event 'xyz'; rigsync.events lists them"),
        (999, "no event has the number 999; make one by rigsync.events.define"),
        (int, "int is no event"),
        (True, "named by its class, name or number, not by True"),
        (2.5, "not by 2.5"),
        (None, "not by None"),
    ],
)
def test_unknown_kinds_are_errors_with_close_matches(kind: Any, text: str) -> None:
    with pytest.raises(UnknownEvent) as told:
        kind_of(kind)
    assert text in str(told.value)


class Numbers(IntEnum):
    LAMP = 1777


def test_events_of_ones_own() -> None:
    lamp = define("Lamp", Numbers.LAMP)
    assert define("Lamp", 1777) is lamp  # a cell that is run twice
    assert kind_of("lamp") is kind_of(Numbers.LAMP) is kind_of(1777) is lamp
    event = lamp({"on": True}, rig="cameras")
    assert (event.payload, event.rig, event.stamp) == ({"on": True}, "cameras", None)
    assert event == lamp({"on": True}, "cameras")


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("Lamp", 1778, "there is an event 'Lamp' already, with number 1777"),
        ("linklost", None, "there is an event 'linklost' already"),
        ("Other", 1777, "the number 1777 is that of Lamp"),
        ("Other", 12, "a whole number from 1000 on: 12"),
        ("Other", True, "a whole number from 1000 on"),
        ("two words", None, "is a Python identifier, not 'two words'"),
        (5, None, "is a Python identifier, not 5"),
    ],
)
def test_what_cannot_be_defined(name: Any, number: Any, text: str) -> None:
    define("Lamp", 1777)
    with pytest.raises(ValueError, match=r"event|number") as told:
        define(name, number)
    assert text in str(told.value)


def test_all_below_a_class_are_found() -> None:
    assert LinkLost in kinds_below(LinkChanged)
    assert {LinkChanged, LinkLost} <= set(kinds_below(CoordinatorEvent))
    assert CoordinatorEvent not in kinds_below(CoordinatorEvent)
