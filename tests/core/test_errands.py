"""The queue of what one rig is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from rigsync.core.arguments import compose
from rigsync.core.errands import Errand, Errands, Request
from rigsync.core.liveness import Liveness
from rigsync.core.orders import Order
from rigsync.core.rigs import MAX_MESSAGE, Room
from rigsync.core.timing import Timing


@pytest.mark.parametrize(
    "take",
    [
        pytest.param(Errands.take_unsent, id="unsent"),
        pytest.param(lambda errands: errands.take_expired(20.0), id="expired"),
        pytest.param(lambda errands: errands.take_called_off(None, 0.0, True), id="called off"),
        pytest.param(Errands.take_overtaken, id="overtaken"),
    ],
)
def test_taking_thousands_out_of_the_queue_does_not_hold_up_the_loop(take: Callable[[Errands], list[Errand]]) -> None:
    message = compose("EXPINFO")
    requests = [Request(Order(message, float(n), act_at=1.0), n) for n in range(20_000)]
    errands = Errands(Liveness(Timing(), Random(0)), lost_grace=1.0)
    for request in requests:
        errands.add(Errand(request, submitted=0.0, deadline=10.0))
    before = time.thread_time()  # whatever else the computer does
    taken = take(errands)
    assert time.thread_time() - before < 1.0
    assert [errand.request for errand in taken] == requests
    assert errands.is_idle


def errand(event: str = "EXPINFO", deadline: float = 10.0, submitted: float = 0.0, **order: Any) -> Errand:
    return Errand(Request(Order(compose(event), 1.0, **order), 1), submitted, deadline)


def test_more_time_is_for_what_the_rig_says_that_it_works_on() -> None:
    errands, asked = Errands(Liveness(Timing(), Random(0)), lost_grace=1.0), errand(patience=5.0)
    assert errands.limit(asked) == 10.0
    asked.received = True  # which an echo says, too
    assert errands.limit(asked) == 10.0
    asked.in_hand = True
    assert errands.limit(asked) == 15.0


def test_a_lost_rig_has_a_second_from_its_loss_or_from_what_was_asked_or_is_awaited_later() -> None:
    liveness = Liveness(Timing(), Random(0))
    errands, timed = Errands(liveness, lost_grace=1.0), errand(act_at=6.0)
    liveness.connect(0.0)
    liveness.refuse(3.0)
    assert errands.limit(errand()) == errands.limit(timed) == 4.0
    assert errands.limit(errand(submitted=7.0)) == 8.0
    assert errands.limit(errand(deadline=3.5)) == 3.5
    timed.received = True  # the rig may be silent until its instant
    assert errands.limit(timed) == 7.0


def test_a_standstill_gives_each_errand_more_time_once() -> None:
    errands, asked = Errands(Liveness(Timing(), Random(0)), lost_grace=1.0), errand()
    errands.add(asked)
    errands.note_standstill(9.0)
    assert (errands.limit(asked), errands.next_timer()) == (10.0, 10.0)  # there is time enough
    errands.note_standstill(9.5)
    assert (errands.limit(asked), errands.next_timer()) == (10.5, 10.5)
    errands.note_standstill(10.4)
    assert errands.limit(asked) == 10.5
    assert errands.take_expired(10.5) == [asked]


def test_interrupts_go_before_all_others_in_their_order() -> None:
    errands = Errands(Liveness(Timing(), Random(0)), lost_grace=1.0)
    info, first, second = errand(), errand("EXPINTERRUPT"), errand("EXPINTERRUPT")
    for asked in (info, first, second):
        errands.add(asked)
    begun = []
    while asked := errands.next():  # type: ignore[assignment]
        begun.append(asked)
        errands.remove(asked)
    assert begun == [first, second, info]


@pytest.mark.parametrize(
    ("act_at", "end_at", "tries", "rig_waits", "outcome"),
    [
        (None, None, 1, True, "stays"),
        (5.0, None, 1, True, "doubtful"),
        (5.0, None, 0, True, "called off"),
        (5.0, None, 0, False, "called off"),
        (5.0, None, 1, False, "stays"),  # an iblutil rig acts as soon as it hears
        (1.0, None, 1, True, "stays"),  # its instant has come
        (5.0, 6.0, 1, True, "stays"),
        (5.0, 5.0, 1, True, "doubtful"),
    ],
)
def test_an_end_calls_off_what_waits_for_no_earlier_instant(
    act_at: float | None, end_at: float | None, tries: int, rig_waits: bool, outcome: str
) -> None:
    errands, asked = Errands(Liveness(Timing(), Random(0)), lost_grace=1.0), errand(act_at=act_at)
    errands.add(asked)
    assert errands.next() is asked
    asked.tries = tries
    called_off = errands.take_called_off(end_at, 1.0, rig_waits)
    found = "called off" if called_off else "doubtful" if errands.doubtful else "stays"
    assert (found, errands.current) == (outcome, asked if outcome == "stays" else None)


def test_calls_beside_the_line_are_eight_at_most() -> None:
    errands = Errands(Liveness(Timing(), Random(0)), lost_grace=1.0)
    for _ in range(9):
        errands.add(errand(beside=True))
    assert len(list(iter(errands.next_beside, None))) == 8


@pytest.mark.parametrize(
    ("sizes", "begun"), [([1 << 20, 1 << 20], 2), ([1 << 20, (1 << 20) + 1], 1), ([3 << 20, 1000], 1)]
)
def test_calls_beside_the_line_take_two_mebibytes_at_most_or_are_alone(sizes: list[int], begun: int) -> None:
    errands = Errands(Liveness(Timing(), Random(0)), lost_grace=1.0)
    for size in sizes:
        text = "x" * (size - len('[""]') - 128)  # which a value takes
        message = compose("EXPINIT", text, room=Room(MAX_MESSAGE))
        errands.add(Errand(Request(Order(message, 1.0, beside=True), 1), 0.0, 10.0))
    assert len(list(iter(errands.next_beside, None))) == begun
    errands.remove(errands.beside[0])
    assert errands.next_beside() or begun == 2
