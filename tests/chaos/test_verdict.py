"""The verdict finds what is not as promised, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from chaos.verdict import Line, Record, as_happened, by_the_table

TASK, RIG, OTHER = 1, 2, 3
"""Processes: a coordinator, a rig, and that rig's successor."""

REFERENCE = "2026-03-01_1_mouse"

Happening = tuple[Any, ...]


def told(message: str = "EXPINFO", token: str = "t", rigs: tuple[str, ...] = ("cameras",)) -> Happening:
    args = [REFERENCE, {"token": token}] if message == "EXPSTART" else [{"token": token}]
    return TASK, "push", "task", message, token, list(rigs), args


def began(message: str = "EXPINFO", token: str = "t", pid: int = RIG) -> Happening:
    return pid, "began", "cameras", message, token


def ended(message: str = "EXPINFO", token: str = "t", pid: int = RIG) -> Happening:
    return pid, "ended", "cameras", message, token


def answered(token: str = "t", request_time: float = 1.0, **info: Any) -> Happening:
    return TASK, "outcome", "task", token, request_time, {"cameras": [{"ran": token, "pid": RIG, **info}]}, {}


def failed(token: str = "t", error: str = "RigTimeout") -> Happening:
    return TASK, "outcome", "task", token, 1.0, {}, {"cameras": [error, error]}


def record(happenings: Iterable[Happening]) -> Record:
    return Record(
        Line(float(now), float(now), pid, what, details) for now, (pid, what, *details) in enumerate(happenings, 1)
    )


def idle(token: str, status: int, request_time: float = 1.0) -> Happening:
    return TASK, "outcome", "task", token, request_time, {"cameras": [{"status": status}]}, {}


INIT = [told("EXPINIT", "i"), began("EXPINIT", "i"), ended("EXPINIT", "i"), answered("i", status=10)]
INIT_AGAIN = told("EXPINIT", "j")


@pytest.mark.parametrize(
    "happenings",
    [
        [told(), began(), ended(), answered()],
        [told(), failed()],
        [told(), began(), ended(), failed()],
        [told(), began(), failed(), ended()],
        [*INIT, INIT_AGAIN, answered("j", 2.0, ran="i", status=10)],
        [told("EXPEND"), idle("t", 0)],
        [told("EXPINTERRUPT"), idle("t", 30)],
    ],
)
def test_what_is_as_promised(happenings: list[Happening]) -> None:
    assert record(happenings).problems() == []


@pytest.mark.parametrize(
    ("happenings", "problem"),
    [
        ([told(), began(), ended(), began(), ended(), answered()], "ran t 2 times"),
        ([told(), began(), ended(), began(pid=OTHER), ended(pid=OTHER), answered()], "ran t 2 times"),
        ([told(), answered()], "did not act"),
        ([told(), began(), answered(), ended()], "had not ended it"),
        ([told(), began(), ended(), answered(ran="s")], "answer to another message"),
        ([told(), began(), ended()], "no outcome"),
        ([told(), began(), failed()], "never ended"),
        ([began(), ended()], "was not told"),
        ([told(rigs=("ephys",)), began(), ended(), failed()], "was not told"),
        ([told(), began("EXPEND"), ended("EXPEND"), failed()], "was not told"),
        ([began(), told(), ended(), answered()], "before it was told"),
        ([told(rigs=("cameras", "ephys")), began(), ended(), answered()], "came to"),
        ([told("EXPEND"), idle("t", 20)], "did not act in RUNNING"),
        ([told("EXPSTART"), idle("t", 10)], "did not act in INITIALIZED"),
        ([*INIT, INIT_AGAIN, answered("j", 2.0, ran="i", pid=OTHER, status=10)], "which it never did"),
        ([*INIT, INIT_AGAIN, answered("j", 2.0, ran="h", status=10)], "which it never did"),
        ([*INIT, told(), began(), ended(), answered(request_time=0.5)], "earlier request time"),
        ([*INIT, told(), began(), ended(), answered()], "two pushes"),
        ([told(), (TASK, "raised", "task", "t", "LoopStuck()")], "raised LoopStuck"),
    ],
)
def test_what_is_not_as_promised(happenings: list[Happening], problem: str) -> None:
    assert problem in "\n".join(record(happenings).problems())


def test_what_a_killed_process_leaves_unfinished_is_nobodys_fault() -> None:
    assert record([told(), began(), failed()]).problems(killed={RIG}) == []
    assert record([told(), began(), ended()]).problems(killed={TASK}) == []
    assert record([told(), began(), began(pid=OTHER), ended(pid=OTHER), failed()]).problems(killed={RIG})


def test_iblutil_rigs_have_no_no_op() -> None:
    assert record([told("EXPEND"), idle("t", 0)]).problems(iblutil={"cameras"})


def test_sequences_are_held_against_the_table() -> None:
    happenings = [*INIT, told("EXPEND", "e"), began("EXPEND", "e"), ended("EXPEND", "e"), answered("e", 2.0, status=30)]
    happenings += [told("EXPEND", "f"), answered("f", 3.0, ran="e", status=30)]
    text = "cameras: StateError: EXPSTART refused"
    happenings += [told("EXPSTART", "s"), (TASK, "outcome", "task", "s", 4.0, {}, {"cameras": ["RemoteError", text]})]
    happenings += [told("EXPINFO", "t"), failed("t")]
    found = record(happenings)
    pushes = list(found.pushes.values())
    assert by_the_table(pushes, "cameras") == ["run", "run", "no-op", "StateError", "run"]
    assert as_happened(found, pushes, "cameras") == ["run", "run", "no-op", "StateError", "RigTimeout"]
