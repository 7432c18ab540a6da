"""The queue of what one rig is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import pytest

from rigsync.core.arguments import compose
from rigsync.core.errands import Errand, Errands, Request
from rigsync.core.liveness import Liveness
from rigsync.core.orders import Order
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
