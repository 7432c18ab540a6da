"""`rigsync log --collect` against real rigs: of agents and of rigs in Python, some of which do not tell theirs."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Outcome, environment, run_here
from processes import LONG, until

from rigsync import Auxiliaries, Journal, JournalError, Rig
from rigsync.agent.agent import Agent
from rigsync.agent.file import read_agent_file
from rigsync.core.queries import JOURNAL
from rigsync.rig.handlers import CommandHandler

REF = "2026-03-01_1_mouse"
Collect = Callable[..., Outcome]
Served = Callable[..., Rig]


@pytest.fixture(autouse=True)
def journals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rigs of this process write journals of their own."""
    monkeypatch.delenv("RIGSYNC_JOURNAL")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return tmp_path / "ours.sqlite"


@pytest.fixture
def serving(serve: Served, tmp_path: Path) -> Served:
    """Serve a rig that has a journal, at this computer's own address."""

    def begin(name: str, **options: Any) -> Rig:
        return serve(name, journal=tmp_path / f"{name}.sqlite", **options)

    return begin


@pytest.fixture
def collect(tmp_path: Path, ours: Path) -> Collect:
    def run(uris: dict[str, str], *arguments: str) -> Outcome:
        (tmp_path / "rigs.yaml").write_text("rigs:\n" + "".join(f"  {name}: {uri}\n" for name, uri in uris.items()))
        asked = ["log", "--collect", "--rigs", "rigs.yaml", *(arguments or ["--all"])]
        return run_here(asked, tmp_path, environment(tmp_path, RIGSYNC_JOURNAL=str(ours)))

    return run


def session_with(uris: dict[str, str], journal: Path, *rigs: str) -> None:
    """Have a session, and wait until these rigs have its end in their own journals."""
    with Auxiliaries(uris, journal=journal) as aux, aux.experiment(REF):
        pass
    for rig in rigs:
        until(functools.partial(has_end, journal.with_name(f"{rig}.sqlite")))


def has_end(path: Path) -> bool:
    try:
        with Journal(path) as journal:
            return any(record.data["after"] == "CONNECTED" for record in journal.events(kinds="StatusChanged"))
    except JournalError:  # there is none yet
        return False


def kinds(path: Path, rig: str) -> list[str]:
    with Journal(path) as journal:
        runs = {run.id for run in journal.runs() if run.collected and run.name == rig}
        return [record.kind for record in journal.events() if record.run in runs]


def test_all_that_rigs_have_written_is_merged(serving: Served, collect: Collect, ours: Path, tmp_path: Path) -> None:
    rigs = [serving("left"), serving("right")]
    uris = {"cameras:left": rigs[0].uri, "right": rigs[1].uri}
    session_with(uris, ours, "left", "right")
    told = collect(uris, "--json")
    assert told.status == 0
    assert [line.partition(":")[0] for line in told.err.splitlines()] == ["cameras", "right"]
    for rig in uris:
        assert kinds(ours, rig).count("StatusChanged") == 4
    with Journal(ours) as journal:
        session = journal.session(REF)
        assert session.host == socket.gethostname()
        assert {run.name for run in journal.runs(session)} == {"", "cameras:left", "right"}
        records = list(journal.events(session, rigs="cameras:left", kinds="StatusChanged"))
        assert [record.data["after"] for record in records] == ["INITIALIZED", "RUNNING", "STOPPED", "CONNECTED"]
        assert all(record.rig == "cameras:left" for record in records)
        before = journal.newest
    assert "nothing new" in collect(uris).err
    with Journal(ours) as journal:
        assert [record.kind for record in journal.events(after=before) if record.session] == []


def test_fetching_leaves_no_trace(serving: Served, collect: Collect, ours: Path, tmp_path: Path) -> None:
    """Else each page would make records, which would have to be fetched, and hold the pages."""
    rig = serving("left")
    session_with({"left": rig.uri}, ours, "left")
    for _ in range(3):
        assert collect({"left": rig.uri}).status == 0
    for path in (ours, tmp_path / "left.sqlite"):
        with Journal(path) as journal:
            assert [record for record in journal.events() if record.data.get("event") == JOURNAL.name] == []


def test_an_agent_tells_its_journal(collect: Collect, ours: Path, tmp_path: Path) -> None:
    file = tmp_path / "left.yaml"
    at = tmp_path / "left.sqlite"
    file.write_text(f"name: left\nlisten: udp://127.0.0.1:0\njournal: {at}\non: {{EXPCLEANUP: {{run: date}}}}\n")
    with Agent(read_agent_file(file)) as agent:
        session_with({"left": agent.uri}, ours)
        until(lambda: collect({"left": agent.uri}).status == 0 and "StatusChanged" in kinds(ours, "left"))
    with Journal(ours) as journal:
        (run,) = [run for run in journal.runs() if run.collected]
        (text,) = run.about["files"].values()
        assert "listen: udp://127.0.0.1:0" in text


def test_rigs_that_have_none(serving: Served, serve: Served, collect: Collect, ours: Path) -> None:
    """They are named, and the others are fetched all the same."""
    left, bare = serving("left"), serve("bare")
    session_with({"left": left.uri}, ours, "left")
    uris = {"left": left.uri, "bare": bare.uri, "old": "{uri: 127.0.0.1:9, dialect: iblutil}"}
    told = collect(uris)
    assert told.status == 0
    lines = told.err.splitlines()
    assert lines[1] == "bare: it keeps no journal, or has a rigsync from before there was one"
    assert lines[2].startswith("old: not asked: it runs iblutil")
    assert "StatusChanged" in kinds(ours, "left")


def test_a_rig_that_does_another_programs_experiment(serving: Served, collect: Collect, ours: Path) -> None:
    """It would read its disk meanwhile; who is in charge may ask."""
    left, right = serving("left"), serving("right")
    session_with({"right": right.uri}, ours, "right")
    with Auxiliaries({"left": left.uri}) as aux, aux.experiment(REF):
        told = collect({"left": left.uri, "right": right.uri})
        assert told.status == 1
        assert told.err.splitlines()[0].startswith("Error: left: BusyError: ")
        assert "StatusChanged" in kinds(ours, "right")
        assert aux.call("left", JOURNAL.name, timeout=LONG)["runs"]
    assert collect({"left": left.uri}).status == 0


def test_a_rig_that_is_off(serving: Served, collect: Collect, ours: Path) -> None:
    session_with({"left": serving("left").uri}, ours)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        uri = f"udp://127.0.0.1:{gone.getsockname()[1]}"
        gone.close()
        told = collect({"off": f"{{uri: '{uri}', dialect: rigsync}}"})
    assert told.status == 1
    assert told.err.splitlines()[-1].startswith("Error: off: Rig")
    assert REF in told.out  # what is there is shown


def test_a_rig_that_lies(serve: Served, collect: Collect, ours: Path) -> None:
    rig = serve("liar")
    rig._handlers[JOURNAL] = [CommandHandler.of(lambda: {"runs": "\x1b[31m"})]
    session_with({"liar": rig.uri}, ours)
    told = collect({"liar": rig.uri})
    assert told.status == 1
    assert told.err == (
        "Error: liar: what it tells of its journal is wrong: it answers {'runs': '\\x1b[31m'}, and not with its runs\n"
    )


def test_a_journal_that_cannot_be_written(serving: Served, tmp_path: Path, ours: Path) -> None:
    ours.write_text("some text that is no database, and long enough to be read as one" * 20)
    (tmp_path / "rigs.yaml").write_text(f"rigs: {{left: '{serving('left').uri}'}}\n")
    asked = ["log", "--collect", "--journal", str(ours)]
    told = run_here(asked, tmp_path, environment(tmp_path, RIGSYNC_JOURNAL="off"))
    assert told.status == 1
    assert told.err.startswith(f"Error: journal {ours}: it cannot be opened: file is not a database")
    assert ours.read_text().startswith("some text")


def test_nobody_else_may_define_it() -> None:
    with pytest.raises(ValueError, match=r"are rigsync's own: 'rigsync\.journal'"):
        Rig("left", "udp://127.0.0.1:0").command(JOURNAL.name)
