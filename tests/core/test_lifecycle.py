"""The rig's lifecycle against its table, cell by cell (docs/protocol.md section 4)."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.lifecycle import (
    LIFECYCLE_MESSAGES,
    LONGEST_REFERENCE,
    TABLE,
    Decision,
    canonical_reference,
    decide,
    named_reference,
    reference_text,
    takes_over,
)

REF = "2024-01-02_1_mouse"
OTHER = "2024-01-02_2_mouse"

# The table of docs/lifecycle.md, with its no-ops, to the letter.
PROTOCOL_TABLE = """
| | EXPINIT | EXPSTART | EXPEND | EXPINTERRUPT | EXPCLEANUP |
| --- | --- | --- | --- | --- | --- |
| CONNECTED | INITIALIZED | refuse | no-op | no-op | no-op |
| INITIALIZED | same ref: no-op; other: INITIALIZED | RUNNING | STOPPED | STOPPED | CONNECTED |
| RUNNING | same ref: no-op; other: refuse | same ref: no-op; other: refuse | STOPPED | STOPPED | refuse |
| STOPPED | INITIALIZED | refuse | no-op | no-op | CONNECTED |
"""


def cells() -> list[tuple[ExpStatus, ExpMessage, str]]:
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PROTOCOL_TABLE.strip().splitlines()
    ]
    return [
        (ExpStatus[row[0]], ExpMessage[message], cell)
        for row in rows
        for message, cell in zip(header[1:], row[1:], strict=True)
    ]


def outcome(cell: str, same: bool) -> str:
    """Return what a cell says for the same or another reference: a status, 'no-op' or 'refuse'."""
    for part in cell.split("; "):
        reference, _, what = part.rpartition(": ")
        if reference in ("", "same ref" if same else "other"):
            return what
    raise AssertionError(cell)


def named(decision: Decision) -> str:
    assert sum([decision.status is not None, decision.no_op, decision.refusal is not None]) == 1
    if decision.refusal is not None:
        return "refuse"
    return "no-op" if decision.no_op else decision.status.name  # type: ignore[union-attr]


@pytest.mark.parametrize(("status", "event", "cell"), cells())
def test_each_cell_says_what_the_protocol_says(status: ExpStatus, event: ExpMessage, cell: str) -> None:
    assert named(decide(status, event, REF, REF)) == outcome(cell, same=True)
    # docs/protocol.md section 4: EXPSTART has to name the reference of EXPINIT, another one is refused.
    expected = "refuse" if event is ExpMessage.EXPSTART else outcome(cell, same=False)
    assert named(decide(status, event, REF, OTHER)) == expected


def test_the_table_has_these_cells_and_no_others() -> None:
    assert {(status, event) for status, row in TABLE.items() for event in row} == {cell[:2] for cell in cells()}
    assert len(cells()) == len(ExpStatus.__members__) * 5


def test_the_other_messages_are_not_in_the_table() -> None:
    others = {ExpMessage.EXPINFO, ExpMessage.EXPSTATUS, ExpMessage.ALYX}
    assert set(ExpMessage.__members__.values()) - LIFECYCLE_MESSAGES == others


# --------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("status", "present", "given_ref", "expected"),
    [
        (ExpStatus.INITIALIZED, REF, None, "RUNNING"),  # EXPSTART may name none
        (ExpStatus.INITIALIZED, None, REF, "RUNNING"),  # EXPINIT named none
        (ExpStatus.INITIALIZED, None, None, "RUNNING"),
        (ExpStatus.RUNNING, REF, None, "no-op"),
        (ExpStatus.RUNNING, None, None, "no-op"),
        (ExpStatus.INITIALIZED, REF, "2024-01-02_001_mouse", "RUNNING"),  # ALF writes the zeros, iblutil drops them
        (ExpStatus.INITIALIZED, "2024-01-02_001_mouse", REF, "RUNNING"),
        (ExpStatus.INITIALIZED, REF, "2024-01-02_1_mouse2", "refuse"),
        (ExpStatus.INITIALIZED, REF, "2024-01-02_10_mouse", "refuse"),
        (ExpStatus.INITIALIZED, REF, "2024-01-03_1_mouse", "refuse"),
        (ExpStatus.INITIALIZED, REF, "2024-01-02_1_Mouse", "refuse"),
    ],
)
def test_expstart_names_the_reference_of_expinit_or_none(
    status: ExpStatus, present: str | None, given_ref: str | None, expected: str
) -> None:
    assert named(decide(status, ExpMessage.EXPSTART, present, given_ref)) == expected


@pytest.mark.parametrize(
    ("status", "present", "given_ref", "expected"),
    [
        (ExpStatus.INITIALIZED, None, None, "INITIALIZED"),  # it may carry other data than the last one
        (ExpStatus.INITIALIZED, REF, None, "INITIALIZED"),
        (ExpStatus.INITIALIZED, None, REF, "INITIALIZED"),
        (ExpStatus.INITIALIZED, REF, "2024-01-02_01_mouse", "no-op"),
        (ExpStatus.RUNNING, None, None, "refuse"),
        (ExpStatus.RUNNING, REF, None, "refuse"),
        (ExpStatus.RUNNING, None, REF, "refuse"),
        (ExpStatus.STOPPED, REF, REF, "INITIALIZED"),
    ],
)
def test_expinit_without_a_reference_never_passes_for_a_repeat(
    status: ExpStatus, present: str | None, given_ref: str | None, expected: str
) -> None:
    assert named(decide(status, ExpMessage.EXPINIT, present, given_ref)) == expected


@pytest.mark.parametrize(
    ("reference", "canonical"),
    [
        ("2024-01-02_001_mouse", "2024-01-02_1_mouse"),
        ("2024-01-02_1_mouse", "2024-01-02_1_mouse"),
        ("2024-01-02_000_mouse", "2024-01-02_0_mouse"),
        ("2024-01-02_010_m_0_1", "2024-01-02_10_m_0_1"),
        ("2024-01-02_01_two\nlines", "2024-01-02_1_two\nlines"),
        ("24-01-02_01_mouse", "24-01-02_01_mouse"),
        ("free text 007", "free text 007"),
        ("", ""),
    ],
)
def test_leading_zeros_of_the_number_do_not_matter(reference: str, canonical: str) -> None:
    assert canonical_reference(reference) == canonical
    assert canonical_reference(canonical) == canonical


@pytest.mark.parametrize(
    ("event", "args", "expected"),
    [
        (ExpMessage.EXPINIT, [REF], REF),
        (ExpMessage.EXPINIT, [{"exp_ref": REF, "more": 1}], REF),
        (ExpMessage.EXPINIT, [{"exp_ref": {"date": "2024-01-02", "sequence": 1, "subject": "mouse"}}], REF),
        (ExpMessage.EXPINIT, [{"exp_ref": None}], None),
        (ExpMessage.EXPINIT, [{"exp_ref": ""}], None),
        (ExpMessage.EXPINIT, [{}], None),
        (ExpMessage.EXPINIT, [None], None),
        (ExpMessage.EXPINIT, [[1, 2]], None),
        (ExpMessage.EXPINIT, [5], None),
        (ExpMessage.EXPINIT, [""], None),
        (ExpMessage.EXPINIT, [], None),
        # Only under the key exp_ref: data may have a date and a subject of its own.
        (ExpMessage.EXPINIT, [{"date": "2024-01-02", "sequence": 1, "subject": "mouse"}], None),
        (ExpMessage.EXPSTART, [REF, None], REF),
        (ExpMessage.EXPSTART, [{"date": "2024-01-02", "sequence": 1, "subject": "mouse"}], REF),
        (ExpMessage.EXPSTART, [None, {"exp_ref": OTHER}], None),
        (ExpMessage.EXPSTART, [], None),
        (ExpMessage.EXPEND, [REF], None),
        (ExpMessage.EXPINTERRUPT, [{"exp_ref": REF}], None),
        (ExpMessage.EXPCLEANUP, [{"exp_ref": REF}], None),
    ],
)
def test_where_a_reference_is_found(event: ExpMessage, args: list[Any], expected: str | None) -> None:
    assert named_reference(event, args) == expected


@pytest.mark.parametrize("date", ["2024-01-02", "2024-01-02T10:11:12", "2024-01-02 10:11"])
@pytest.mark.parametrize("sequence", [1, "1", "001", 1.0])
def test_a_reference_in_parts_becomes_text(date: str, sequence: Any) -> None:
    assert reference_text({"date": date, "sequence": sequence, "subject": "mouse", "more": 1}) == REF


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"date": "2024-01-02", "sequence": 1},
        {"date": "2024-01-02", "sequence": "one", "subject": "mouse"},
        {"date": "2024-01-02", "sequence": None, "subject": "mouse"},
        {"date": "2024-01-02", "sequence": math.inf, "subject": "mouse"},
        {"date": "2024-01-02", "sequence": -math.inf, "subject": "mouse"},
        {"date": "2024-01-02", "sequence": math.nan, "subject": "mouse"},
        {"date": "2024-01-02", "sequence": {}, "subject": "mouse"},
        {"date": "2024-01-02", "sequence": "9" * 5000, "subject": "mouse"},
        {"date": nested(100_000), "sequence": 1, "subject": "mouse"},
        {"date": "2024-01-02", "sequence": 1, "subject": nested(100_000)},
        nested(100_000),
        1,
        True,
        [REF],
        datetime.date(2024, 1, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_other_reference_is_a_value_error_with_a_short_text(value: Any) -> None:
    with pytest.raises(ValueError, match=r"an experiment reference (needs date, sequence|is text or a map)") as caught:
        reference_text(value)
    assert len(str(caught.value)) < 400


@given(st.text())
def test_text_is_taken_as_it_is(text: str) -> None:
    assert reference_text(text) == (text or None)


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("status", "event", "present", "given_ref", "text"),
    [
        (
            ExpStatus.CONNECTED,
            ExpMessage.EXPSTART,
            None,
            REF,
            f"EXPSTART for {REF} refused: status is CONNECTED; allowed now: EXPINIT, EXPEND, EXPINTERRUPT, EXPCLEANUP; "
            f"to go on, type rigsync push EXPINIT {REF}, then rigsync push EXPSTART {REF}",
        ),
        (
            ExpStatus.RUNNING,
            ExpMessage.EXPINIT,
            REF,
            OTHER,
            f"EXPINIT for {OTHER} refused: status is RUNNING of {REF}; "
            "allowed now: EXPINIT (same reference), EXPSTART (same reference), EXPEND, EXPINTERRUPT; "
            f"to go on, type rigsync push EXPEND, then rigsync push EXPINIT {OTHER}",
        ),
        (
            ExpStatus.RUNNING,
            ExpMessage.EXPCLEANUP,
            REF,
            None,
            f"EXPCLEANUP refused: status is RUNNING of {REF}; "
            "allowed now: EXPINIT (same reference), EXPSTART (same reference), EXPEND, EXPINTERRUPT; "
            "to go on, type rigsync push EXPEND, then rigsync push EXPCLEANUP",
        ),
        (
            ExpStatus.STOPPED,
            ExpMessage.EXPSTART,
            REF,
            None,
            f"EXPSTART refused: status is STOPPED of {REF}; allowed now: EXPINIT, EXPEND, EXPINTERRUPT, EXPCLEANUP; "
            "to go on, type rigsync push EXPINIT REF, then rigsync push EXPSTART REF",
        ),
        (
            ExpStatus.INITIALIZED,
            ExpMessage.EXPSTART,
            REF,
            "mouse 1",
            f"EXPSTART for mouse 1 refused: status is INITIALIZED of {REF}; allowed now: EXPINIT, "
            "EXPSTART (same reference), EXPEND, EXPINTERRUPT, EXPCLEANUP; "
            "to go on, type rigsync push EXPINIT 'mouse 1', then rigsync push EXPSTART 'mouse 1'",
        ),
        (
            ExpStatus.RUNNING,
            ExpMessage.EXPSTART,
            REF,
            OTHER,
            f"EXPSTART for {OTHER} refused: status is RUNNING of {REF}; allowed now: EXPINIT (same reference), "
            "EXPSTART (same reference), EXPEND, EXPINTERRUPT; to go on, type rigsync push EXPEND, "
            f"then rigsync push EXPINIT {OTHER}, then rigsync push EXPSTART {OTHER}",
        ),
    ],
)
def test_a_refusal_says_the_status_the_references_and_what_is_allowed(
    status: ExpStatus, event: ExpMessage, present: str | None, given_ref: str | None, text: str
) -> None:
    assert decide(status, event, present, given_ref).refusal == text


@given(
    st.sampled_from(list(ExpStatus.__members__.values())),
    st.sampled_from(sorted(LIFECYCLE_MESSAGES)),
    st.none() | st.just(REF) | st.text(),
    st.none() | st.just(REF) | st.text(),
)
def test_every_combination_has_exactly_one_decision(
    status: ExpStatus, event: ExpMessage, present: str | None, given_ref: str | None
) -> None:
    assert named(decide(status, event, present, given_ref))


@pytest.mark.parametrize("form", [str, lambda text: {"date": "2026-01-02", "sequence": 1, "subject": text}])
def test_a_reference_that_would_burst_the_answer_to_a_probe_is_refused(form: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="reference"):
        reference_text(form("x" * (LONGEST_REFERENCE + 1)))
    assert reference_text("x" * LONGEST_REFERENCE) == "x" * LONGEST_REFERENCE


def test_a_running_experiment_without_reference_is_not_taken_for_one_that_is_named() -> None:
    assert decide(ExpStatus.RUNNING, ExpMessage.EXPSTART, None, REF).refusal
    assert decide(ExpStatus.RUNNING, ExpMessage.EXPSTART, None, None).no_op
    assert decide(ExpStatus.INITIALIZED, ExpMessage.EXPSTART, None, REF).status is ExpStatus.RUNNING


# ------------------------------------------------------------------------------------------------------- takeover


@pytest.mark.parametrize(
    ("event", "args", "expected"),
    [
        (ExpMessage.EXPINIT, [{"exp_ref": REF, "takeover": True}], True),
        (
            ExpMessage.EXPINIT,
            [{"exp_ref": {"date": "2024-01-02", "sequence": 1, "subject": "mouse"}, "takeover": True}],
            True,
        ),
        (ExpMessage.EXPINIT, [{"exp_ref": REF, "takeover": False}], False),
        (ExpMessage.EXPINIT, [{"takeover": False}], False),
        (ExpMessage.EXPINIT, [{"exp_ref": REF}], False),
        (ExpMessage.EXPINIT, [REF], False),
        (ExpMessage.EXPINIT, [None], False),
        (ExpMessage.EXPINIT, [["takeover"]], False),
        (ExpMessage.EXPINIT, ["takeover"], False),
        (ExpMessage.EXPINIT, [None, {"exp_ref": REF, "takeover": True}], False),
        (ExpMessage.EXPINIT, [], False),
        # Only EXPINIT: what other messages carry is their handlers' own.
        (ExpMessage.EXPSTART, [{"exp_ref": REF, "takeover": True}], False),
        (ExpMessage.EXPSTART, [REF, {"takeover": "yes"}], False),
        (ExpMessage.EXPEND, [{"takeover": True}], False),
        (ExpMessage.EXPINTERRUPT, [{"takeover": 5}], False),
    ],
)
def test_only_an_expinit_that_says_so_takes_over(event: ExpMessage, args: list[Any], expected: bool) -> None:
    assert takes_over(event, args) is expected


@pytest.mark.parametrize("value", [None, 0, 1, "true", "", [], [True], {}, 1.0])
def test_takeover_is_true_or_false(value: Any) -> None:
    with pytest.raises(ValueError, match="takeover is true or false, not "):
        takes_over(ExpMessage.EXPINIT, [{"exp_ref": REF, "takeover": value}])


@pytest.mark.parametrize("data", [{}, {"exp_ref": None}, {"exp_ref": ""}])
def test_a_takeover_has_to_name_the_experiment(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a takeover has to name the experiment: exp_ref is missing"):
        takes_over(ExpMessage.EXPINIT, [{**data, "takeover": True}])


def test_a_takeover_of_a_reference_that_is_none_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="an experiment reference is text or a map"):
        takes_over(ExpMessage.EXPINIT, [{"exp_ref": 5, "takeover": True}])


@pytest.mark.parametrize("status", [ExpStatus.INITIALIZED, ExpStatus.RUNNING, ExpStatus.STOPPED])
@pytest.mark.parametrize(
    ("present", "given_ref", "expected"),
    [
        (REF, REF, "no-op"),
        (REF, "2024-01-02_001_mouse", "no-op"),
        (REF, OTHER, "refuse"),
        (None, REF, "refuse"),
    ],
)
def test_a_takeover_is_of_the_present_experiment_or_refused(
    status: ExpStatus, present: str | None, given_ref: str, expected: str
) -> None:
    decision = decide(status, ExpMessage.EXPINIT, present, given_ref, takeover=True)
    assert named(decision) == expected
    if expected == "refuse":
        assert decision.refusal is not None
        assert f"takeover of {given_ref} refused: the rig's experiment is {present} ({status.name})" in decision.refusal


def test_a_takeover_where_there_is_nothing_is_an_ordinary_expinit() -> None:
    assert named(decide(ExpStatus.CONNECTED, ExpMessage.EXPINIT, None, REF, takeover=True)) == "INITIALIZED"
