"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from rigsync.protocol.lifecycle import NO_OP, REFUSE, TABLE, ByReference
from rigsync.protocol.messages import ExpMessage, ExpStatus

DOCS = Path(__file__).parents[1] / "docs"


def entries() -> list[tuple[ExpStatus, ExpMessage, object, str]]:
    """Flatten the table: status, message, entry, and the condition in words."""
    flat: list[tuple[ExpStatus, ExpMessage, object, str]] = []
    for status, row in TABLE.items():
        for message, entry in row.items():
            if isinstance(entry, ByReference):
                same = " (same reference or none)" if message is ExpMessage.EXPSTART else " (same reference)"
                flat += [(status, message, entry.same, same), (status, message, entry.other, " (other reference)")]
            else:
                flat.append((status, message, entry, ""))
    return flat


def test_lifecycle_diagram_is_that_of_the_table() -> None:
    text = (DOCS / "lifecycle.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^    (\w+ --> \w+: .*)$", text, re.MULTILINE)
    expected = [
        f"{status.name} --> {entry.name}: {message.name}{condition}"
        for status, message, entry, condition in entries()
        if isinstance(entry, ExpStatus)
    ]
    assert drawn == expected


def test_lifecycle_refusals_are_those_of_the_table() -> None:
    text = (DOCS / "lifecycle.md").read_text(encoding="utf-8")
    for status in TABLE:
        refused = [
            f"{message.name}{condition}"
            for other, message, entry, condition in entries()
            if other is status and entry == REFUSE
        ]
        assert f"| {status.name} | {', '.join(refused)} |" in text


def test_every_entry_is_a_status_or_a_no_op_or_a_refusal() -> None:
    assert {type(entry) for _, _, entry, _ in entries()} == {ExpStatus, str}
    assert {entry for _, _, entry, _ in entries() if isinstance(entry, str)} == {NO_OP, REFUSE}


def test_decision_records_are_listed() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    records = sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))
    assert records
    for name in records:
        title = (DOCS / "decisions" / name).read_text(encoding="utf-8").splitlines()[0]
        number, _, what = title.removeprefix("# ").partition(" ")
        assert f"[{number}]({name}) | {what} |" in index
