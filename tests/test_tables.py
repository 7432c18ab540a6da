"""Tables of the commands in a terminal of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rigsync.cli.terminal import fitted

SESSIONS = (
    ["session", "began", "PC", "outcome", "rigs", "files"],
    [
        ["2026-11-20_1_mouse", "2026-11-20 10:15", "behaviour", "complete", "cameras, ephys", "7"],
        ["2026-11-20_2_mouse", "2026-11-20 11:15", "behaviour", "failed", "ephys (no probe is connected)", "-"],
    ],
    ["files"],
    [(0, 1), (2, 3), (4,), (5,)],
)
RIGS = (
    ["rig", "EXPINIT", "EXPSTART"],
    [["cameras:left", "1.2 ms", ""], ["ephys", "failed", ""]],
    ["EXPINIT", "EXPSTART"],
)


def shown(table: tuple[list[str], list[list[str]], list[str]], width: int, *stacks: list[tuple[int, ...]]) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(fitted(*table, width, *stacks))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [24, 30, 40, 50, 60, 70, 80, 120])
def test_no_word_is_broken_and_no_line_is_too_long(width: int) -> None:
    for table, stacks in ((SESSIONS[:3], [SESSIONS[3]]), (SESSIONS[:3], []), (RIGS, [])):
        lines = shown(table, width, *stacks)
        assert max(map(len, lines)) <= width
        words = {word for cells in table[1] for cell in cells for word in cell.split() if word != "-"}
        assert words <= set(" ".join(lines).split())


def test_it_is_one_table_where_there_is_room_and_stacked_where_there_is_less() -> None:
    assert shown(SESSIONS[:3], 120, SESSIONS[3])[0].split() == SESSIONS[0]
    assert [line.split() for line in shown(SESSIONS[:3], 80, SESSIONS[3])[:2]] == [
        ["session", "PC"],
        ["began", "outcome", "rigs", "files"],
    ]


def test_where_there_is_no_room_for_the_words_each_row_has_lines() -> None:
    assert shown(SESSIONS[:3], 30, SESSIONS[3])[6:] == [
        "2026-11-20_2_mouse",
        "  began: 2026-11-20 11:15",
        "  PC: behaviour",
        "  outcome: failed",
        "  rigs: ephys (no probe is",
        "    connected)",
    ]


@pytest.mark.parametrize("width", [1, 10, 40, 80])
def test_a_longer_word_than_any_terminal_has_columns_is_broken(width: int) -> None:
    path = "/data/" + "subject" * 30
    lines = shown((["rig", "file"], [["cameras", path]], []), width)
    assert max(map(len, lines)) <= max(width, 5)
    assert path in "".join(line.strip() for line in lines).replace("cameras", "")
