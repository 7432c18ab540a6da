"""A rehearsal on the wire: who says that it can, and what is never taken for one (docs/protocol.md section 4)."""

from __future__ import annotations

from typing import Any

import pytest

from core.support import RigBench
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.lifecycle import Rehearsing, decide
from rigsync.core.messages import Failure

REF, OTHER = "2024-01-02_1_mouse", "2024-01-02_2_mouse"
REHEARSAL = {"exp_ref": REF, "rehearsal": True}


def rehearses(bench: RigBench) -> Any:
    return bench.do("EXPINFO", 0).args[-1].get("rehearses")


def test_only_a_rig_that_can_says_so() -> None:
    assert rehearses(RigBench(rehearses=True)) is True
    assert rehearses(RigBench()) is None


def test_one_that_cannot_refuses_and_says_what_to_write() -> None:
    bench = RigBench("EXPINIT")
    answer = bench.do("EXPINIT", REHEARSAL)
    assert isinstance(answer, Failure)
    assert (answer.error, bench.agenda.status) == ("StateError", ExpStatus.CONNECTED)
    assert "@rig.rehearsal" in answer.message
    assert isinstance(bench.do("EXPINIT", {**REHEARSAL, "rehearsal": "yes"}), Failure)
    assert not isinstance(bench.do("EXPINIT", {**REHEARSAL, "rehearsal": False}), Failure)


@pytest.mark.parametrize("status", ["INITIALIZED", "RUNNING", "STOPPED"])
@pytest.mark.parametrize("reference", [REF, OTHER])
def test_it_takes_nobody_s_place(status: str, reference: str) -> None:
    bench = RigBench(rehearses=True).enter(status, REF)
    answer = bench.do("EXPINIT", {"exp_ref": reference, "rehearsal": True})
    assert isinstance(answer, Failure)
    assert f"here it is {status} of {REF}; to go on, type rigsync push EXP" in answer.message
    assert (bench.agenda.status.name, bench.agenda.exp_ref) == (status, REF)


@pytest.mark.parametrize("data", [{"exp_ref": REF}, {"exp_ref": REF, "takeover": True}])
def test_an_experiment_is_never_told_that_a_rehearsal_is_it(data: dict[str, Any]) -> None:
    bench = RigBench(rehearses=True)
    bench.do("EXPINIT", REHEARSAL)
    bench.do("EXPSTART", REF)
    answer = bench.do("EXPINIT", data)
    assert isinstance(answer, Failure)
    assert "is a rehearsal, RUNNING of" in answer.message
    assert bench.agenda.status is ExpStatus.RUNNING


def test_nobody_is_told_to_take_a_rehearsal_over() -> None:
    bench = RigBench(rehearses=True)
    bench.do("EXPINIT", REHEARSAL)
    bench.do("EXPSTART", REF)
    bench.request("EXPINIT", {"exp_ref": OTHER}, boot="b" * 16, source=("10.0.0.2", 5000))
    told = bench.answer().message
    assert "a rehearsal of some seconds; wait for its end" in told
    assert "takeover" not in told


@pytest.mark.parametrize("end", [None, "EXPEND", "EXPCLEANUP"])
def test_an_experiment_follows_a_rehearsal_that_is_over_or_has_not_begun(end: str | None) -> None:
    bench = RigBench("EXPINIT", rehearses=True)
    bench.do("EXPINIT", REHEARSAL)
    if end:
        bench.do(end)
    bench.do("EXPINIT", {"exp_ref": REF})  # it runs anew: `do` answers for its handler
    bench.do("EXPSTART", REF)
    taken_over = bench.do("EXPINIT", {"exp_ref": REF, "takeover": True})
    assert not isinstance(taken_over, Failure)
    assert bench.agenda.status is ExpStatus.RUNNING


def test_no_other_decision_depends_on_it() -> None:
    for event in (ExpMessage.EXPSTART, ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT, ExpMessage.EXPCLEANUP):
        for status in ExpStatus.__members__.values():
            rehearsing = Rehearsing(is_asked=True, goes_on=True)
            assert decide(status, event, REF, REF, rehearsal=rehearsing) == decide(status, event, REF, REF)
