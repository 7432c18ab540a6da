"""What docs/journal.md says about questions is so: its program runs, and its commands are understood."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_programs import environment, run_here

from journal.filling import filling
from rigsync.cli import happened
from rigsync.core.clock import TOLERANCE
from rigsync.journal.clocks import HEARD, PROBED
from rigsync.journal.scribe import SAMPLED

PAGE = (Path(__file__).parents[2] / "docs" / "journal.md").read_text(encoding="utf-8")
QUESTIONS = PAGE[PAGE.index("## Questions") :]


def test_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    file = tmp_path / "journal.sqlite"
    monkeypatch.setenv("RIGSYNC_JOURNAL", str(file))
    with filling(file) as filler:
        run = filler.run()
        session = filler.session(run, outcome="failed")
        filler.sample(run, session, "cameras", 0, 1)
        filler.push(run, session, "EXPSTART", 1, failures={"cameras": {"error": "RigLost", "problem": "silent"}})
    (program,) = re.findall(r"```python\n(.*?)```", QUESTIONS, re.DOTALL)
    names: dict[str, object] = {}
    exec(program, names)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["failed", "None"]
    assert len(names["table"]) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "command", re.findall(r"`rigsync ((?:log|sessions)[^`]*)`", PAGE[PAGE.index("## Questions") :])
)
def test_its_commands_are_understood(tmp_path: Path, command: str) -> None:
    file = tmp_path / "journal.sqlite"
    with filling(file) as filler:
        filler.session(filler.run())
    words = [word.strip("'") for word in command.split()]
    if "--follow" in words or "--collect" in words:
        words += ["--help"]
    assert run_here(words, tmp_path, environment(tmp_path, RIGSYNC_JOURNAL=str(file))).status == 0


def test_its_figures() -> None:
    assert f"{1e3 * TOLERANCE:g} ms for each second" in QUESTIONS
    assert f"plus {1e3 * (PROBED * TOLERANCE + HEARD):g} ms" in QUESTIONS
    assert re.sub(r"\s+", " ", QUESTIONS).count(f"every {SAMPLED:g} s in an experiment") == 1
    assert happened.seconds_text(0.003) in QUESTIONS
