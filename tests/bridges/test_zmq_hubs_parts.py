"""The pure parts of hubs that are joined by ZeroMQ: events as JSON and back, and how each gets there once."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pythonosc", reason="python-osc is not installed here")
pytest.importorskip("zmq", reason="pyzmq is not installed here")

from rigsync import events
from rigsync.bridges.asking import Refused
from rigsync.bridges.requests import LARGEST
from rigsync.bridges.zmq import carrying
from rigsync.bridges.zmq.carrying import RESEND, WINDOW, Incoming, Outgoing, read_head, read_object
from rigsync.bridges.zmq.codec import NotKnown, NotWhole, read_event, write_event
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import Dialect, LinkState, put_stamp
from rigsync.core.messages import Command
from rigsync.core.schedule import Schedule
from rigsync.errors import BusyError, RemoteError, RigLost

from bridges.support import mutated  # isort: skip

STAMP = (7, -5, 1796000000.25, 3)
Lick = events.define("LickOfTheHubsTest")


@dataclass(frozen=True, slots=True)
class Trial(events.Event):
    """An event of a program's own."""

    number: int
    seconds: float
    outcome: str | None = None


SAMPLES: list[events.Event] = [
    Lick({"deep": [1, 2.5, None, True, {"=": "a mark"}, ("x", 1)], "much": math.inf}, rig="cameras"),
    Lick([float("-inf"), {"=": ["Command", "no command"]}]),
    Trial(3, 2, "hit"),
    events.LinkLost("cameras", LinkState.SUSPECT, LinkState.LOST, "silent"),
    events.StatusChanged(ExpStatus.INITIALIZED, ExpStatus.RUNNING, "2026-11-20_1_mouse"),
    events.PushBegun(1796000000.5, Command("focus"), [[2.5], {}], ["cameras"], None),
    events.PushCompleted(1796000000.5, ExpMessage.EXPSTART, {"a": ["ref", {}]}, {}, {"a": events.Start(1.5, 0.1)}),
    events.ProbeAnswered("cameras", 3, 0.001, (1, 2, 3, 4)),
    events.DialectDetected("cameras", Dialect.RIGSYNC),
    events.ProgressChanged("cameras", "left.mp4", 10, None, "B"),
    events.Tick("blinker", 1, 0, False),
]


def carried(event: events.Event, via: tuple[str, ...] = ("a", "b")) -> Any:
    put_stamp(event, STAMP)
    return read_event(write_event(event, 12, via))


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_comes_as_it_left(event: events.Event) -> None:
    found = carried(event)
    assert found == (event, STAMP, 12, ("a", "b"))
    assert repr(found.event) == repr(event)


def test_failures_come_as_the_exceptions_that_they_were() -> None:
    lost = RigLost("ephys", "silent for 5 s")
    failed = RemoteError("cameras", "OSError", "no disk", "Traceback:\n  line 1\nOSError")
    busy = BusyError("left", "BusyError", "another task")
    event = events.PushCompleted(1.5, ExpMessage.EXPINIT, {}, {"ephys": lost, "cameras": failed, "left": busy})
    found = carried(event).event.failures
    assert [(type(error), vars(error)) for error in found.values()] == [
        (type(error), vars(error)) for error in (lost, failed, busy)
    ]


def test_what_only_its_own_rig_can_use_stays_there_and_no_token_leaves() -> None:
    due = events.HandlerDue(1, ExpMessage.EXPSTART, ["ref"], Schedule(5.0))
    assert carried(due).event == dataclasses.replace(due, schedule=None)
    secret = {"ONE": {"token": "c2VjcmV0"}}
    for event in (
        events.PushBegun(1.5, ExpMessage.ALYX, [secret], ["cameras"], None),
        events.PushCompleted(1.5, ExpMessage.ALYX, {"cameras": [secret]}, {"ephys": RigLost("ephys", "silent")}),
        events.RigSettled("cameras", 1.5, ExpMessage.ALYX, [secret]),
    ):
        put_stamp(event, STAMP)
        assert b"c2VjcmV0" not in (data := write_event(event, 1, ("a",)))
        assert type(read_event(data).event) is type(event)


def test_what_a_message_to_a_rig_may_hold_comes_as_the_rig_would_get_it() -> None:
    assert carried(Lick({"file": Path("left.mp4"), 3: {1, 2}})).event.payload == {"file": "left.mp4", "3": [1, 2]}


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (object(), "LickOfTheHubsTest cannot be told to another hub: "),
        ("x" * LARGEST, "LickOfTheHubsTest takes 1,048,"),
        (10**5000, "LickOfTheHubsTest cannot be told to another hub: "),
    ],
    ids=["no JSON", "too large", "too many digits"],
)
def test_what_json_cannot_hold_is_not_told_in_part(payload: Any, told: str) -> None:
    put_stamp(event := Lick(payload), STAMP)
    with pytest.raises(NotWhole, match=told):
        write_event(event, 1, ("a",))
    (round_ := []).append(round_)
    put_stamp(event := Lick(round_), STAMP)
    with pytest.raises(NotWhole, match="refers to itself"):
        write_event(event, 1, ("a",))


def changed(**keys: Any) -> bytes:
    put_stamp(SAMPLES[3], STAMP)
    return json.dumps({**json.loads(write_event(SAMPLES[3], 12, ("a",))), **keys}).encode()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is no event: JSONDecodeError"),
        (b"\xff\xfe", "is no event"),
        (b"[" * 100_000, "is no event: RecursionError"),
        (b" " * (LARGEST + 1), "an event has at most 1,048,576 bytes"),
        (b"[]", "is no event"),
        (changed(via=[]), "it has gone through 0 hubs"),
        (changed(via=["a"] * 65), "it has gone through 65 hubs"),
        (changed(via="a"), "via is 'a', not "),
        (changed(via=["a", "x" * 65]), "a number from 1 to"),
        (changed(number=1 << 63), "a number from 1 to"),
        (changed(number=0), "a number from 1 to"),
        (changed(id="7"), "id is '7', not int"),
        (changed(priority=0.5), "priority is 0.5, not int"),
        (changed(time=None), "time is None, not float"),
        (changed(fields={"rig": 5}), "rig is 5, not str"),
        (changed(fields={}), "TypeError: .*missing"),
        (changed(fields={"rig": {"=": []}}), "is no event"),
        (changed(fields={"rig": {"=": ["eval", "1"]}}), "there is no 'eval'"),
        (changed(fields={"before": {"=": ["LinkState", "GONE"]}}), "KeyError: 'GONE'"),
    ],
)
def test_what_is_no_event_is_told_with_what_is_wrong(data: bytes, told: str) -> None:
    with pytest.raises(NotWhole, match=told):
        read_event(data)


def test_unknown_types_are_told_apart_and_unknown_fields_ignored() -> None:
    with pytest.raises(NotKnown, match=r"no event 'Zebra.*define\(name\) makes it known"):
        read_event(changed(type="Zebra"))
    with pytest.raises(NotKnown, match="did you mean 'LinkLost'"):
        read_event(changed(type="linklost"))
    fields = json.loads(changed())["fields"]
    assert read_event(changed(fields={**fields, "of a later version": 1}, more=2)).event == SAMPLES[3]


def test_damaged_events_raise_nothing_else() -> None:
    chance = random.Random(20261130)
    for event in SAMPLES:
        put_stamp(event, STAMP)
        data = write_event(event, 1, ("a",))
        for _ in range(300):
            with contextlib.suppress(NotWhole, NotKnown):
                read_event(mutated(data, chance.random))


# ------------------------------------------------------------------------------------------------- each once, in order


def exchange(outgoing: Outgoing, incoming: Incoming, now: float, loses: Any = lambda: False) -> list[bytes]:
    """Send what is due; return what was taken."""
    told = []
    outgoing.handle_timer(now)
    while message := outgoing.due():
        outgoing.note_sent(now)
        if loses():
            continue
        run, first, sequence = read_head(message[0])
        if incoming.take(run, first, sequence):
            told.append(message[1])
        if not loses():
            outgoing.acknowledge(run, incoming.taken(run), now)
    return told


def test_each_comes_once_and_in_order_whatever_is_lost_and_whoever_is_started_anew() -> None:
    chance = random.Random(20261130)
    outgoing, number, now = Outgoing(), 0, 0.0
    receivers: list[tuple[Incoming, list[int]]] = []
    while number < 2000 or len(outgoing):
        if number % 500 == 0 and len(receivers) <= number // 500:  # a new program, which knows nothing
            receivers.append((Incoming(), []))
        for _ in range(chance.randrange(9)):
            if number < 2000 and not (number and number % 500 == 0 and len(receivers) <= number // 500):
                outgoing.put(b"%d" % number, now)
                number += 1
        incoming, told = receivers[-1]
        told += map(int, exchange(outgoing, incoming, now, lambda: chance.random() < 0.1))
        now += RESEND
    for incoming, told in receivers:
        assert told == [*range(told[0], told[0] + len(told))]
        assert incoming.missed == 0
    for (_, before), (_, after) in itertools.pairwise(receivers):  # what was not yet confirmed comes to both
        assert before[-1] + 1 - WINDOW <= after[0] <= before[-1] + 1
    assert (receivers[0][1][0], receivers[-1][1][-1], outgoing.dropped, len(receivers)) == (0, 1999, 0, 4)


def test_a_confirmation_that_comes_after_it_went_back_counts() -> None:
    outgoing, incoming = Outgoing(), Incoming()
    for number in range(WINDOW + 10):
        outgoing.put(b"%d" % number, 0.0)
    heads = []
    while message := outgoing.due():
        heads.append(read_head(message[0]))
        outgoing.note_sent(0.0)
    assert all(incoming.take(*head) for head in heads)
    outgoing.handle_timer(RESEND)
    outgoing.acknowledge(heads[0][0], WINDOW, RESEND)
    assert len(outgoing) == 10
    assert exchange(outgoing, incoming, RESEND) == [b"%d" % number for number in range(WINDOW, WINDOW + 10)]


def test_so_much_is_under_way_and_after_a_silence_one_at_a_time() -> None:
    outgoing, incoming = Outgoing(), Incoming()
    for number in range(WINDOW + 50):
        outgoing.put(b"%d" % number, 0.0)
    assert exchange(outgoing, incoming, 0.0, lambda: True) == []
    assert outgoing._next == WINDOW + 1
    outgoing.handle_timer(RESEND - 0.01)
    assert outgoing.due() is None
    assert exchange(outgoing, incoming, RESEND, lambda: True) == []
    assert outgoing._next == 2
    assert len(exchange(outgoing, incoming, 2 * RESEND)) == WINDOW + 50


def test_beyond_its_bounds_the_oldest_go_and_both_sides_count_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "MOST_WAITING", 5)
    outgoing, incoming = Outgoing(), Incoming()
    exchange(outgoing, incoming, 0.0)
    outgoing.put(b"0", 0.0)
    assert exchange(outgoing, incoming, 0.0) == [b"0"]
    for number in range(1, 9):
        outgoing.put(b"%d" % number, 1.0)
    assert (len(outgoing), outgoing.dropped) == (5, 3)
    assert not outgoing.is_stuck(1.0 + carrying.PATIENCE - 0.1)
    assert outgoing.is_stuck(1.0 + carrying.PATIENCE)
    assert exchange(outgoing, incoming, 2.0) == [b"4", b"5", b"6", b"7", b"8"]
    assert (incoming.missed, outgoing.is_stuck(99.0)) == (3, False)
    monkeypatch.setattr(carrying, "MOST_WAITING_BYTES", 10)
    for _ in range(3):
        outgoing.put(b"12345", 3.0)
    assert (len(outgoing), outgoing.dropped) == (2, 4)


def test_nobody_confirms_what_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    outgoing = Outgoing()
    for number in range(5):
        outgoing.put(b"%d" % number, 0.0)
    head = json.loads(outgoing.due()[0])  # type: ignore[index]
    outgoing.note_sent(0.0)
    for run, taken in ((head["run"], 2), (head["run"], 0), (head["run"], "1"), (head["run"], True), ("x", 1)):
        outgoing.acknowledge(run, taken, 0.0)
    assert len(outgoing) == 5
    outgoing.acknowledge(head["run"], 1, 0.0)
    assert len(outgoing) == 4


def test_what_the_receiver_has_told_itself_is_left_out_unless_it_is_on_its_way_already() -> None:
    outgoing, incoming = Outgoing(), Incoming()
    run, first, sequence = read_head(outgoing.greeting()[0])
    assert not incoming.take(run, first, sequence)
    assert (incoming.taken(run), incoming.missed) == (0, 0)
    for number in range(4):
        outgoing.put(b"%d" % number, 0.0, ("here", "there") if number % 2 == 0 else ("here",))
    assert outgoing.due()
    outgoing.note_sent(0.0)
    outgoing.leave_out("there")
    outgoing.handle_timer(RESEND)
    assert exchange(outgoing, incoming, RESEND) == [b"0", b"1", b"3"]
    assert (len(outgoing), outgoing._size) == (0, 0)


def test_what_is_kept_of_senders_and_of_events_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "MOST_SENDERS", 2)
    monkeypatch.setattr(carrying, "MOST_SEEN", 2)
    incoming = Incoming()
    assert [incoming.take(run, 1, 1) for run in "abc"] == [True] * 3
    assert [incoming.taken(run) for run in "abc"] == [0, 1, 1]
    assert [incoming.is_new("a", n) for n in (1, 2, 1, 3, 1)] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "nothing that one hub tells another"),
        (b'{"push": "EXPSTART"}', "nothing that one hub tells another"),
        (b'{"rigsync": 2}', "the other hub writes version 2, and this one 1: update the older rigsync"),
        (b'{"rigsync": 1}', "lacks run, first and sequence"),
        (b'{"rigsync": 1, "run": "a", "first": 3, "sequence": 1}', "the number 1 does not follow 3"),
        (b'{"rigsync": 1, "run": "a", "first": 0, "sequence": 1}', "the number 1 does not follow 0"),
        (b'{"rigsync": 1, "run": "a", "first": 1, "sequence": NaN}', "is not JSON"),
    ],
)
def test_what_is_no_head_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(Refused, match=told):
        read_head(data)


def test_unknown_keys_are_ignored() -> None:
    assert read_object(b'{"rigsync": 1, "later": 1}')["rigsync"] == 1
