"""docs/alerts.md, held to the code: its files are read, and its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from processes import ROOT

from rigsync.alerts import alerting, command, plan, sender
from rigsync.config.alerts import CAUSES, FIELDS, PRESETS
from rigsync.config.files import load_rigs

PAGE = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
FILES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def first_cells(heading: str) -> list[str]:
    rows = PAGE[PAGE.index(heading) :].partition("\n\n")[0].splitlines()[2:]
    return [re.findall(r"`([^`]+)`", row.split("|")[1])[0] for row in rows]


@pytest.mark.parametrize("text", FILES)
def test_its_files_are_good(tmp_path: Path, text: str) -> None:
    (tmp_path / "rigs.yaml").write_text(text, encoding="utf-8")
    assert load_rigs(tmp_path / "rigs.yaml").alerts


def test_its_tables_are_those_of_the_code() -> None:
    assert tuple(first_cells("| `on` | what has happened, in")) == CAUSES
    assert tuple(first_cells("| field | what |")) == FIELDS
    assert {*first_cells("| key of `webhook` | what |")} == {"preset", "url_from", "url", "body"}
    for preset in PRESETS:
        assert f"`{preset}`" in PAGE


def test_its_numbers_are_those_of_the_code() -> None:
    assert (plan.GATHER, plan.INTERVAL, plan.TRIES, plan._PACE.resend_first, plan._PACE.resend_max) == (
        1,
        60,
        8,
        2,
        120,
    )
    assert "waits a second" in PAGE
    assert "eight times in all" in PAGE
    assert f"A web address has {sender.LONGEST_REQUEST:g} s to answer, a command {sender.LONGEST_COMMAND:g} s." in PAGE
    assert f"tried once more, for {alerting.LAST_TRY:g} s" in PAGE
    assert f"killed after {command.GRACE:g} s more" in PAGE
