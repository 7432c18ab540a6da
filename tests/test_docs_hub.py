"""docs/hub.md: its snippets print what it says, and its numbers are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import calm

from rigsync.hub.events import KINDS

TEXT = (Path(__file__).parents[1] / "docs" / "hub.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("script", "output"), SNIPPETS)
def test_snippets_print_what_the_page_says(script: str, output: str, tmp_path: Path) -> None:
    path = tmp_path / "snippet.py"
    path.write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, calm(done.stderr)) == (0, "")
    assert done.stdout == output


def test_every_snippet_is_run() -> None:
    assert len(SNIPPETS) == TEXT.count("```python") == 4


def test_numbers_are_those_of_the_code() -> None:
    listed = {int(number): name for number, name in re.findall(r"\| (\d+) \| `(\w+)` ", TEXT)}
    assert listed == {number: kind.__name__ for number, kind in enumerate(KINDS, 1)}
