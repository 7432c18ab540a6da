"""The documents say what the code does."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_layering import LAYERS, PACKAGE, TESTING_MAY_IMPORT

from rigsync import errors
from rigsync.config.address import parse_uri
from rigsync.core import legacy, messages
from rigsync.core.answers import Identity, answer_arguments, experiment_information
from rigsync.core.arguments import compose
from rigsync.core.board import TOPICS
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.legacy import Array
from rigsync.core.lifecycle import NO_OP, REFUSE, TABLE, ByReference
from rigsync.core.messages import (
    Frame,
    Message,
    decode,
)
from rigsync.core.notices import FAILURE, FINISH, RECOVERED
from rigsync.core.rigs import MAX_DATAGRAM, RigConfig
from rigsync.core.stream import StreamDecoder
from rigsync.core.timing import Timing
from rigsync.errors import RemoteProtocolError
from rigsync.rig.board import RESERVED

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def rows_after(text: str, begin: str) -> list[list[str]]:
    """Return the cells of the first table after `begin`, which may be its heading, without its heading."""
    lines = text[text.index(begin) :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def code(cell: str) -> list[str]:
    """Return what a cell has as code."""
    return re.findall(r"`([^`]+)`", cell)


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


@pytest.mark.parametrize("path", sorted((DOCS / "decisions").glob("0*.md")), ids=lambda path: path.stem)
def test_decision_records_have_the_same_parts(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    parts = [part[1] for line in lines if (part := re.match(r"\*\*(\w+)\.\*\*", line))]
    assert parts[:4] == ["Status", "Context", "Decision", "Consequences"]
    assert parts[4:] in ([], ["Rejected"])


def prose(path: Path) -> str:
    """Return a page without its blocks and code spans, which hold no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them of its headings."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").glob("*.md")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_the_documents_lead_to_files_and_headings(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(path)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_the_documents_import_is_there(path: Path) -> None:
    if path.name == "CHANGELOG.md":  # which tells of releases before, too
        return
    for module, names in re.findall(r"\bfrom (rigsync[\w.]*) import (\w+(?:, \w+)*)", path.read_text(encoding="utf-8")):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


# --------------------------------------------------------------------------------------------- docs/protocol.md

PROTOCOL = text_of("protocol.md")
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in (PACKAGE / "core").glob("*.py")}

UNITS = {"": 1, "s": 1, "ms": 1e-3, "ppm": 1e-6, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20}
SAMPLES = {
    "text": "x",
    "natural": 5,
    "negative": -5,
    "fraction": 1.5,
    "truth": True,
    "list": [],
    "map": {},
    "null": None,
}
"""A value of each sort, to see what a field takes."""
TYPES = {
    "text": {"text"},
    "text or null": {"text", "null"},
    "whole number": {"natural"},
    "whole number or null": {"natural", "null"},
    "stamp": {"natural", "negative"},
    "stamp or null": {"natural", "negative", "null"},
    "list": {"list"},
    "true or false": {"truth"},
    "anything": {*SAMPLES},
    "name of a status": set[str](),
    "name of a message": set[str](),
    "1": set[str](),
    "one of the kinds below": set[str](),
    "16 hexadecimal digits, small letters": set[str](),
}
"""What the document calls the type of a field, and which of the samples it takes."""
LEFT_OUT = {"connect_timeout"}
"""Of the waits, those that have nothing to do with the wire."""


def examples() -> list[bytes]:
    """Return the messages that the document shows; it breaks them where they are long, and makes tabs visible."""
    blocks = re.findall(r"^```json\n(.*?)^```", PROTOCOL, re.MULTILINE | re.DOTALL)
    joined = "".join(blocks).replace("\n", "").replace("␉", "\t")
    return list(StreamDecoder(MAX_DATAGRAM).feed(joined.encode("utf-8")))


def frames(kind: str) -> list[dict[str, Any]]:
    found = [json.loads(data) for data in examples() if data[:1] == b"{"]
    return [content for content in found if content["kind"] == kind]


def kinds() -> list[str]:
    return [code(row[0])[0] for row in rows_after(PROTOCOL, "| kind | from |")]


def fields(kind: str) -> dict[str, str]:
    """Return the fields of a kind with their types, those of every frame first."""
    (text,) = re.findall(rf"^### `{kind}`\n(.*?)^###? ", PROTOCOL, re.MULTILINE | re.DOTALL)
    rows = rows_after(PROTOCOL, "## 2. ") + (rows_after(text, "| field |") if "| field |" in text else [])
    return {code(name)[0]: what for name, what, *_ in rows}


class Asked(dict[str, Any]):
    """A frame that keeps which fields its reader asks for."""

    def __init__(self, content: dict[str, Any]):
        super().__init__(content)
        self.fields: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.fields.add(key)
        return super().get(key, default)


def encoded(frame: Frame | Array, mark: bytes) -> bytes:
    """Return a message as rigsync writes it."""
    match frame:
        case Array(event, [str(text), ExpMessage() as failed]) if event == legacy.NULL_MESSAGE:
            error, _, problem = text.partition(": ")
            return legacy.error_array(error, problem, failed)
        case Array(event, args):
            return legacy.array(Message.of(event, args), mark)
        case messages.Probe():
            beat = frame.beat / 1000 if frame.beat else None
            return messages.probe(frame.boot, frame.n, frame.t0, program=frame.program, beat=beat)
        case messages.Alive():
            return messages.alive(frame)
        case messages.Request():
            return messages.request(
                frame.boot, frame.n, Message.of(frame.event, frame.args), frame.to, frame.at, frame.of
            )
        case messages.Ack():
            return messages.ack(frame.boot, frame.n, frame.to, frame.done)
        case messages.Reply():
            message = Message.of(ExpMessage.EXPINFO, frame.args)  # of which no more than the arguments is written
            return messages.reply(frame.boot, frame.n, message, frame.started, frame.finished, frame.to)
        case messages.Failure():
            return messages.failure(frame.boot, frame.n, frame.error, frame.message, frame.traceback, frame.to)
        case messages.Notice():
            return messages.notice(frame)
        case messages.Bye():
            return messages.bye(frame.boot, frame.n, frame.reason, frame.to)
    raise AssertionError(f"nothing writes {frame}")


def number(text: str) -> float:
    """Return a quantity as the document writes it: in seconds, bytes, or a plain number."""
    figure, _, unit = text.partition(" ")
    return float(figure.replace(",", "")) * UNITS[unit]


def in_the_code(name: str) -> Any:
    """Return what a name in the table of numbers stands for."""
    holder, _, attribute = name.rpartition(".")
    if holder == "Timing":
        return getattr(Timing(), attribute)
    if holder == "core.rigs.RigConfig":
        return getattr(RigConfig("cameras", parse_uri("udp://127.0.0.1")), attribute)
    return getattr(importlib.import_module(f"rigsync.{holder}"), attribute)


@pytest.mark.parametrize("data", examples(), ids=lambda data: data[:50].decode())
def test_examples_of_the_protocol_are_read_and_written(data: bytes) -> None:
    mark = legacy.RIG_MARK if legacy.has_mark(data, legacy.RIG_MARK) else legacy.COORDINATOR_MARK
    assert encoded(decode(data), mark) == data


def test_kinds_of_the_protocol_are_those_of_the_code() -> None:
    assert kinds() == list(messages._KINDS)
    assert {kind for kind in kinds() if frames(kind)} == {*kinds()}


@pytest.mark.parametrize("kind", kinds())
def test_fields_of_the_protocol_are_those_that_are_read(kind: str) -> None:
    asked: set[str] = set()
    for content in frames(kind):
        messages._read_frame(frame := Asked(content))
        asked |= frame.fields
    assert {*fields(kind)} == asked
    assert {key for content in frames(kind) for key in content} <= asked


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind in kinds() for field in fields(kind)])
def test_types_of_the_protocol_are_those_that_are_taken(kind: str, field: str) -> None:
    what = fields(kind)[field]
    content = next((content for content in frames(kind) if field in content), frames(kind)[0])
    taken = set()
    for sort, value in SAMPLES.items():
        with contextlib.suppress(RemoteProtocolError):
            decode(json.dumps({**content, field: value}).encode())
            taken.add(sort)
    assert taken == TYPES[what]
    without = json.dumps({key: value for key, value in content.items() if key != field}).encode()
    if "null" in taken:
        decode(without)
    else:
        with pytest.raises(RemoteProtocolError):
            decode(without)


def test_messages_of_the_protocol_are_those_of_iblutil() -> None:
    rows = rows_after(PROTOCOL, "| message | number |")
    assert {code(name)[0]: int(n) for name, n, *_ in rows} == {m.name: int(m) for m in ExpMessage.__members__.values()}
    for name, _, follows, answer in rows:
        event = ExpMessage[code(name)[0]]
        assert len(code(follows)) == len(compose(event).args), name
        if event is not ExpMessage.ALYX:
            assert len(code(answer)) == len(answer_arguments(event, ExpStatus.CONNECTED, None, {})), name
    assert ", ".join(f"{status.name} {int(status)}" for status in ExpStatus) in PROTOCOL.replace("\n", " ")


def test_what_an_answer_holds_is_in_the_protocol() -> None:
    told = experiment_information(Identity("cameras"), ExpStatus.CONNECTED, None, {})
    (text,) = re.findall(r"`info` is a map with (.*?), in it what", PROTOCOL, re.DOTALL)
    assert code(text) == list(told)


def test_failures_of_the_protocol_are_those_that_a_rig_sends() -> None:
    refused = re.findall(r'_refuse\(\s*\w+, "(\w+)"', SOURCES["agenda"])
    refused += re.findall(r'self\._refuse\([^")]*"(\w+)"', SOURCES["responder"])
    unsent = re.findall(r"except \((.*)\) as error:\n\s+problem = .*cannot be sent", SOURCES["agenda"])
    assert len(unsent) == 1
    named = [name for row in rows_after(PROTOCOL, "| `error` | why |") for name in code(row[0])]
    assert sorted(named) == sorted({*refused, *unsent[0].split(", ")})


def test_failures_with_classes_of_their_own_are_in_the_protocol() -> None:
    named = [name for row in rows_after(PROTOCOL, "| `error` | why |") for name in code(row[0])]
    own = [name for name in named if type(errors.remote_error("cameras", name, "")) is not errors.RemoteError]
    (text,) = re.findall(r"with its type, text and traceback\. (.*?), if the traceback", PROTOCOL.replace("\n", " "))
    assert sorted(code(text)) == sorted(own)


def test_topics_of_the_protocol_are_those_of_the_code() -> None:
    named = [code(topic)[0] for topic, *_ in rows_after(PROTOCOL, "| topic | key |")]
    assert sorted(named) == sorted({*RESERVED, *TOPICS, FAILURE, RECOVERED, FINISH, "log"})


@pytest.mark.parametrize("row", rows_after(PROTOCOL, "## 5. Numbers"), ids=lambda row: row[2])
def test_numbers_of_the_protocol_are_those_of_the_code(row: list[str]) -> None:
    _, told, name = row
    assert number(told) == pytest.approx(in_the_code(code(name)[0]), rel=1e-12)


def test_every_wait_is_among_the_numbers_of_the_protocol() -> None:
    named = {code(row[2])[0] for row in rows_after(PROTOCOL, "## 5. Numbers")}
    assert {f"Timing.{name}" for name in Timing.__slots__ if name not in LEFT_OUT} <= named


def test_what_the_protocol_says_in_words_is_among_its_numbers() -> None:
    told = {number(row[1]) for row in rows_after(PROTOCOL, "## 5. Numbers")}
    words = re.sub(r"^```.*?^```|^\|[^\n]*? in the code.*?\n\n", "", PROTOCOL, flags=re.MULTILINE | re.DOTALL)
    said = re.findall(r"(?<![\d,.])([\d,.]*\d)\s(s|ms|ppm|bytes|KiB|MiB)\b", words)
    assert len(said) > 30
    assert [f"{figure} {unit}" for figure, unit in said if number(f"{figure} {unit}") not in told] == []


# ---------------------------------------------------------------------------------------------- docs/install.md


def test_what_is_installed_instead_of_iblutil_is_what_else_the_project_needs() -> None:
    project = (DOCS.parent / "pyproject.toml").read_text(encoding="utf-8")
    listed = project[project.index("\ndependencies = [") :].partition("]")[0]
    needed = re.findall(r'"([\w-]+)>=', listed)
    (named,) = re.findall(r"^pip install ((?:\w+ )+\w+)$", text_of("install.md"), re.MULTILINE)
    assert {*named.split(), "iblutil"} == {*needed}
    assert "pip install --no-deps ." in text_of("install.md")


# ----------------------------------------------------------------------------------------- docs/architecture.md


def modules() -> set[str]:
    """Return what the package consists of, at its top level."""
    return {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }


def test_layers_of_the_architecture_are_those_of_the_code() -> None:
    rows = [{*code(row[1])} for row in rows_after(text_of("architecture.md"), "| layer |")]
    assert rows == [*(present for layer in LAYERS if (present := layer & modules())), {"testing"}]
    assert set().union(*rows) == modules()


def test_what_testing_takes_is_in_the_architecture() -> None:
    *_, (_, _, what) = rows_after(text_of("architecture.md"), "| layer |")
    assert {*code(what)} == TESTING_MAY_IMPORT


def test_the_core_of_the_architecture_is_that_of_the_code() -> None:
    rows = rows_after(text_of("architecture.md"), "| in `core` |")
    named = [name for row in rows for name in code(row[0])]
    assert sorted(named) == sorted(SOURCES.keys() - {"__init__"})
