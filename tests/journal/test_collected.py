"""Pages of a rig's journal: as the rig makes them, and as they are taken in, also from a rig that lies."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from journal.filling import REF, T0, Filler, filling
from rigsync import Journal, JournalError
from rigsync.core.rigs import MAX_DATAGRAM
from rigsync.journal.collected import Collection, WrongPage
from rigsync.journal.pages import PAGE_BYTES, answer, packed, unpacked

ABOUT = {"clock": {"time": T0, "mono": 1000.0}, "files": {"/left.yaml": "name: left"}}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return tmp_path / "theirs.sqlite"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return tmp_path / "ours.sqlite"


@pytest.fixture
def rig(theirs: Path) -> Iterator[Filler]:
    with filling(theirs) as filler:
        run = filler.run("rig", "left", uuid="0000-left", about=json.dumps(ABOUT), host="left-pc")
        session = filler.session(run, rigs={"left": "ok"})
        for number in range(5):
            filler.record(run, session if number else None, "Notice", {"topic": "log", "body": number}, number)
        yield filler


def asking(path: Path, rig: str = "left") -> Callable[..., Any]:
    return lambda **keywords: json.loads(json.dumps(answer(path, rig, **keywords)))


def fetch(ours: Path, ask: Callable[..., Any], rig: str = "left") -> int:
    with Collection(ours) as collection:
        return collection.fetch(rig, ask)


def bodies(path: Path) -> list[Any]:
    with Journal(path) as journal:
        return [record.data["body"] for record in journal.events()]


def test_what_a_rig_has_written_is_here_and_comes_once(theirs: Path, ours: Path, rig: Filler) -> None:
    assert fetch(ours, asking(theirs), "cameras:left") == 5
    assert fetch(ours, asking(theirs), "cameras:left") == 0
    rig.record(1, 1, "Notice", {"topic": "log", "body": 5}, 5)
    rig.connection.execute("UPDATE session SET outcome = 'failed', failures = 3")
    rig.connection.execute("UPDATE run SET closed = 7")
    assert fetch(ours, asking(theirs), "cameras:left") == 1
    assert fetch(ours, asking(theirs), "cameras:left") == 0
    with Journal(ours) as journal:
        (run,) = journal.runs()
        assert (run.uuid, run.kind, run.name, run.host, run.closed) == (
            "0000-left",
            "rig",
            "cameras:left",
            "left-pc",
            7,
        )
        assert run.about == ABOUT
        assert run.collected is not None
        (session,) = journal.sessions()
        assert (session.ref, session.outcome, session.failures, session.rigs) == (REF, "failed", 3, {"left": "ok"})
        records = list(journal.events())
        assert [record.data["body"] for record in records] == [0, 1, 2, 3, 4, 5]
        assert [record.session for record in records] == [None, *[session.id] * 5]
        assert {record.rig for record in records} == {"cameras:left"}
        assert {record.bound for record in records} == {None}


def test_a_run_that_closes_is_told_without_a_new_record(theirs: Path, ours: Path, rig: Filler) -> None:
    fetch(ours, asking(theirs))
    rig.connection.execute("UPDATE run SET closed = 7")
    assert fetch(ours, asking(theirs)) == 0
    with Journal(ours) as journal:
        assert journal.runs()[0].closed == 7


def test_a_rig_tells_its_own_runs_alone(theirs: Path, ours: Path, rig: Filler) -> None:
    other = rig.run("rig", "right", uuid="0000-right")
    rig.record(other, None, "Notice", {"topic": "log", "body": "right"}, 0)
    task = rig.run("coordinator", uuid="0000-task")
    rig.record(task, None, "Notice", {"topic": "log", "body": "task"}, 0)
    fetched = rig.run("rig", "left", uuid="0000-fetched", collected='{"rig": "left"}')
    rig.record(fetched, None, "Notice", {"topic": "log", "body": "fetched"}, 0)
    assert fetch(ours, asking(theirs)) == 5
    for uuid in ("0000-right", "0000-task", "0000-fetched", "none"):
        with pytest.raises(LookupError, match="this rig has no run"):
            answer(theirs, "left", run=uuid)


def test_pages_fit_into_a_datagram(theirs: Path, ours: Path, rig: Filler) -> None:
    """However many records there are, and however large."""
    noise = [os.urandom(300).hex() for _ in range(700)]
    rig.connection.execute("BEGIN")
    for number, text in enumerate(noise):
        rig.record(1, 1, "Notice", {"topic": "log", "body": text}, 10 + number)
    rig.record(1, 1, "Notice", {"topic": "log", "body": os.urandom(100_000).hex()}, 800)
    rig.connection.execute("COMMIT")
    sizes = []
    ask = asking(theirs)

    def measured(**keywords: Any) -> Any:
        told = ask(**keywords)
        sizes.append(len(json.dumps(told)))
        return told

    assert fetch(ours, measured) == 706
    assert max(sizes) < PAGE_BYTES + 200 < MAX_DATAGRAM - 20_000
    assert len(sizes) < 40
    assert bodies(ours)[5:705] == noise
    with Journal(ours) as journal:
        *_, last = journal.events()
        assert last.data == {"topic": "log", "body": last.data["body"], "left_out": []}
        assert len(last.data["body"]) == 200


@pytest.mark.parametrize("files", [{"/a": os.urandom(60_000).hex()}, None])
def test_what_a_run_is_fits_too(theirs: Path, ours: Path, rig: Filler, files: Any) -> None:
    """Without its files, where these are large; with its small parts alone where there is much else."""
    about = {"rigsync": "0.1.0", "files": files, "rigs": None if files else {"left": os.urandom(60_000).hex()}}
    rig.connection.execute("UPDATE run SET about = ?", [json.dumps(about)])
    assert fetch(ours, asking(theirs)) == 5
    with Journal(ours) as journal:
        told = journal.runs()[0].about
        assert told["rigsync"] == "0.1.0"
        assert told["files"] is None
        assert ("left_out" in told) == (files is None)


def test_what_is_of_this_computer_is_here_already(theirs: Path, rig: Filler) -> None:
    assert fetch(theirs, asking(theirs)) == 0
    assert bodies(theirs) == [0, 1, 2, 3, 4]


def test_two_that_collect_at_once_write_nothing_twice(theirs: Path, ours: Path, rig: Filler) -> None:
    rig.connection.execute("BEGIN")
    for number in range(5, 3000):
        rig.record(1, 1, "Notice", {"topic": "log", "body": number}, number)
    rig.connection.execute("COMMIT")
    with ThreadPoolExecutor(3) as pool:
        counts = list(pool.map(lambda _: fetch(ours, asking(theirs)), range(3)))
    assert sum(counts) == 3000
    assert bodies(ours) == list(range(3000))


def test_pages_are_in_the_file_whole_or_not_at_all(theirs: Path, ours: Path, rig: Filler) -> None:
    """What a rig told before it went is kept, and the next time goes on from there."""
    for number in range(5, 1200):
        rig.record(1, 1, "Notice", {"topic": "log", "body": number}, number)
    ask, pages = asking(theirs), iter(range(10))

    def going(**keywords: Any) -> Any:
        if keywords and next(pages) == 2:
            raise ConnectionError
        return ask(**keywords)

    with pytest.raises(ConnectionError):
        fetch(ours, going)
    before = len(bodies(ours))
    assert 0 < before < 1200
    assert fetch(ours, ask) == 1200 - before
    assert bodies(ours) == list(range(1200))


def test_a_journal_that_is_being_written(theirs: Path, ours: Path, rig: Filler) -> None:
    """The writer of this computer goes on at the same time."""
    with filling(ours) as writer:
        run = writer.run()
        session = writer.session(run)
        writer.record(run, session, "Notice", {"topic": "log", "body": "own"}, -1)
        assert fetch(ours, asking(theirs)) == 5
        writer.record(run, session, "Notice", {"topic": "log", "body": "own"}, 9)
    assert sorted(map(str, bodies(ours))) == ["0", "1", "2", "3", "4", "own", "own"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"run": 7}, TypeError),
        ({"run": "0000-left", "after": "x"}, TypeError),
        ({"run": "0000-left", "after": True}, TypeError),
        ({"run": "0000-left", "after": -1}, ValueError),
        ({"run": "0000-left", "after": 2**70}, ValueError),
        ({"run": "' OR 1"}, LookupError),
    ],
)
def test_a_rig_is_asked_wrongly(theirs: Path, rig: Filler, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        answer(theirs, "left", **arguments)


def test_a_rig_whose_journal_is_gone(theirs: Path) -> None:
    with pytest.raises(JournalError, match="there is no such journal"):
        answer(theirs, "left")


# ------------------------------------------------------------------------------------------ rigs that tell nonsense

RUN = {"uuid": "0000-left", "host": "h", "program": "p", "opened": 1.0, "closed": None, "about": {}}
SESSION = [1, "ref", None, 1.0, 2.0, "complete", "{}", 0, 0, 0]
RECORD = [1, 1, 1.0, 1.0, "Notice", None, 1, None, 0, "{}"]


def page(**parts: Any) -> dict[str, Any]:
    document = {"run": RUN, "sessions": [SESSION], "records": [RECORD], **parts}
    return {"page": packed(document), "after": 1, "is_last": True}


def with_(row: list[Any], place: int, value: Any) -> list[Any]:
    return [*row[:place], value, *row[place + 1 :]]


def test_the_page_that_the_others_here_spoil_is_taken(ours: Path) -> None:
    assert fetch(ours, told(page())) == 1


def told(page: Any, runs: Any = None) -> Callable[..., Any]:
    listed = {"runs": [["0000-left", 1.0, None, 1]]} if runs is None else runs
    return lambda **keywords: page if keywords else listed


@pytest.mark.parametrize(
    "runs",
    [
        7,
        [],
        {"runs": 7},
        {"runs": [7]},
        {"runs": [["0000-left", 1.0, None]]},
        {"runs": [["0000-left", 1.0, None, "x"]]},
        {"runs": [["0000-left", 1.0, None, -1]]},
        {"runs": [[None, 1.0, None, 1]]},
    ],
)
def test_runs_of_another_form(ours: Path, runs: Any) -> None:
    with pytest.raises(WrongPage):
        fetch(ours, told(page(), runs))


@pytest.mark.parametrize(
    "wrong",
    [
        7,
        {},
        {"page": 7},
        {"page": "***"},
        {"page": "eJwDAAAAAAE="[:8]},
        page(run=7),
        page(run={**RUN, "uuid": "0000-right"}),
        page(run={**RUN, "opened": "x"}),
        page(run={**RUN, "opened": True}),
        page(run={**RUN, "about": []}),
        page(run={**RUN, "host": "x" * 10_000}),
        page(sessions=7),
        page(sessions=[[1]]),
        *(page(sessions=[with_(SESSION, place, {})]) for place in range(10)),
        page(sessions=[with_(SESSION, 5, "splendid")]),
        page(sessions=[with_(SESSION, 6, "[" * 100_000)]),
        page(sessions=[with_(SESSION, 8, 2**65)]),
        page(records=7),
        page(records=[[1]]),
        *(page(records=[with_(RECORD, place, [])]) for place in (0, 2, 3, 4, 6, 7, 9)),
        page(records=[with_(RECORD, 4, "No Kind")]),
        page(records=[with_(RECORD, 9, '{"a": NaN}')]),
        page(records=[with_(RECORD, 9, "7")]),
        page(records=[RECORD, RECORD]),
        page(records=[with_(RECORD, 0, number) for number in range(1, 600)]),
        {"page": packed({"run": {**RUN, "about": {"x": "x" * (20 << 20)}}, "sessions": [], "records": []})},
    ],
)
def test_a_page_of_another_form_changes_nothing(ours: Path, wrong: Any) -> None:
    with pytest.raises(WrongPage):
        fetch(ours, told(wrong))
    with Journal(ours) as journal:
        assert journal.runs() == []
        assert list(journal.events()) == []


def test_infinity_is_no_time() -> None:
    with pytest.raises(ValueError, match="Infinity is no number"):
        unpacked(base64.b64encode(zlib.compress(b'{"time": Infinity}')).decode(), 100)
    with pytest.raises(ValueError):
        packed({"time": math.inf})


def test_pages_without_end(ours: Path) -> None:
    numbers = iter(range(1, 100))

    def ask(**keywords: Any) -> Any:
        if not keywords:
            return {"runs": [["0000-left", 1.0, None, 10**6]]}
        record = with_(RECORD, 0, min(next(numbers), 7))
        return {**page(records=[record] if record[0] > keywords["after"] else []), "is_last": False}

    with pytest.raises(WrongPage, match="its pages do not go on"):
        fetch(ours, ask)
    with Journal(ours) as journal:
        assert len(list(journal.events())) == 7


def test_what_only_a_coordinator_tells_is_not_taken_from_a_rig(ours: Path) -> None:
    forged = with_(with_(RECORD, 0, 2), 4, "PushCompleted")
    other = with_(with_(RECORD, 0, 3), 5, "another rig")
    assert fetch(ours, told(page(records=[RECORD, forged, other]))) == 2
    with Journal(ours) as journal:
        assert [(record.kind, record.rig) for record in journal.events()] == [("Notice", "left")] * 2


def test_the_run_of_another_rig_is_not_added_to(ours: Path) -> None:
    assert fetch(ours, told(page()), "left") == 1
    with pytest.raises(WrongPage, match="fetched from 'left' before"):
        fetch(ours, told(page(records=[with_(RECORD, 0, 2)])), "right")
    with filling(ours) as filler:
        filler.connection.execute("UPDATE run SET collected = NULL")
    assert fetch(ours, told(page(records=[with_(RECORD, 0, 2)])), "left") == 0


def test_hostile_text_is_kept_as_it_is(ours: Path) -> None:
    hostile = "<script>\x1b[31m=1+1 '; DROP TABLE record; --"
    row = with_(RECORD, 9, json.dumps({"topic": "log", "body": hostile}))
    fetch(ours, told(page(records=[row], sessions=[with_(SESSION, 1, hostile)])))
    assert bodies(ours) == [hostile]
    with Journal(ours) as journal:
        assert journal.sessions()[0].ref == hostile


def test_a_journal_that_cannot_be_written(tmp_path: Path, rig: Filler, theirs: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=re.escape(str(tmp_path / "file" / "journal.sqlite"))):
        fetch(tmp_path / "file" / "journal.sqlite", asking(theirs))
    with filling(tmp_path / "ours.sqlite") as filler, contextlib.suppress(AssertionError):
        filler.connection.execute("DROP TABLE record")
    with pytest.raises(JournalError, match="it cannot be written: no such table"):
        fetch(tmp_path / "ours.sqlite", asking(theirs))
