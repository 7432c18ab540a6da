"""What is odd about the experiment that a message names."""

from __future__ import annotations

from typing import Any

import pytest

from rigsync.core.doubts import doubt_of, doubt_of_reference
from rigsync.core.enums import ExpMessage
from rigsync.core.messages import Command

REFERENCE = "2026-11-20_1_mouse"
WRITE = f"; write {{'exp_ref': '{REFERENCE}'}}"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "EXPINIT names no experiment"),
        ((None,), "EXPINIT names no experiment"),
        (("",), "EXPINIT names no experiment"),
        (({},), "EXPINIT names no experiment: its data have no 'exp_ref'"),
        (({"box": 4},), "EXPINIT names no experiment: its data have no 'exp_ref'"),
        (({"exp_ref": None},), "EXPINIT names no experiment: its 'exp_ref' is empty"),
        (({"ref": REFERENCE},), "EXPINIT names no experiment: its data have 'ref' and no 'exp_ref'"),
        (({"Exp_Ref": REFERENCE},), "EXPINIT names no experiment: its data have 'Exp_Ref' and no 'exp_ref'"),
        (({1: 2, "session": 3},), "EXPINIT names no experiment: its data have 'session' and no 'exp_ref'"),
        (
            ([REFERENCE],),
            f"EXPINIT names no experiment: its data are ['{REFERENCE}'], and the reference is text or stands in a map "
            "as exp_ref",
        ),
    ],
)
def test_an_init_that_names_no_experiment(args: tuple[Any, ...], told: str) -> None:
    assert doubt_of(ExpMessage.EXPINIT, args) == told + WRITE


@pytest.mark.parametrize("value", [REFERENCE, {"exp_ref": REFERENCE}, {"exp_ref": REFERENCE, "ref": 1}])
def test_an_init_that_names_one(value: Any) -> None:
    assert doubt_of(ExpMessage.EXPINIT, (value,)) is None


@pytest.mark.parametrize("reference", ["mouse 1", "mouse1", "2026-11-20_mouse", "20261120_1_mouse"])
def test_a_reference_of_another_form(reference: str) -> None:
    told = doubt_of_reference(reference)
    assert told is not None
    assert told.startswith(f"the reference '{reference}' has not the form yyyy-mm-dd_n_subject")
    assert doubt_of(ExpMessage.EXPINIT, (reference,)) == told
    assert doubt_of(ExpMessage.EXPINIT, ({"exp_ref": reference},)) == told


@pytest.mark.parametrize("date", ["2026-13-45", "2026-02-30", "0000-01-01"])
def test_a_date_that_is_in_no_calendar(date: str) -> None:
    told = doubt_of_reference(f"{date}_1_x")
    assert told == f"the reference '{date}_1_x' has a date that is in no calendar"
    assert doubt_of(ExpMessage.EXPINIT, (f"{date}_1_x",)) == told


@pytest.mark.parametrize(
    "reference", [None, "", REFERENCE, {"date": "2026-11-20", "sequence": 1, "subject": "mouse"}, 7, {"subject": "m"}]
)
def test_what_is_no_reference_or_a_good_one_is_not_doubted_here(reference: Any) -> None:
    assert doubt_of_reference(reference) is None


def test_other_messages_name_no_experiment() -> None:
    assert doubt_of(ExpMessage.EXPSTART, ()) is None
    assert doubt_of(ExpMessage.EXPSTART, ("mouse 1",)) is None
    assert doubt_of(ExpMessage.EXPEND, ("mouse",)) is None
    assert doubt_of(Command("focus"), ([], {})) is None
