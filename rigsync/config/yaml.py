"""YAML files, read with the line of every key, so that errors can name the place: those of rigs, and of agents.

PyYAML's own types are not used: YAML 1.1 takes ``no`` for a boolean and ``12:30`` for the number 750, so every value
stays the text that stands in the file, and its key decides what is read from it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import yaml

from rigsync.errors import ConfigError

MAX_BYTES = 1 << 20
"""The largest file that is read, in bytes: a thousand times what a lab needs, and some seconds of PyYAML's time."""


@dataclass(frozen=True, slots=True)
class Sort:
    """A sort of file, and what its errors say of it.

    Parameters
    ----------
    expected : str
        What the file is to be.
    example : str
        What its lines look like.
    no_lists : str, optional
        What is said of a list, where none may stand in it.
    """

    expected: str
    example: str
    no_lists: str | None = None


RIGS = Sort(
    "expected a YAML file with a key 'rigs', or lines such as cameras: 192.168.1.20",
    "expected lines such as cameras: 192.168.1.20, indented by spaces, and quotes around what has brackets",
    "expected text or a map, not a list; quote an IPv6 address in brackets",
)


class Plain(str):
    """Text that stands in the file without quotes."""

    __slots__ = ()


_NUMBER = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""What is read as true and false, as in YAML 1.1."""
NOTHING = ("", "~", "null", "Null", "NULL")
"""Plain text that every other reader of YAML takes for no value."""


class _Loader(yaml.SafeLoader):
    """Composes nodes, without aliases, by which a small file can stand for a huge or endless one."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # an omission of types-PyYAML
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise ConfigError(
                "aliases (*name) and tags (!name) are not supported; write the value out", line=line_of(event)
            )
        return super().compose_node(parent, index)


def read_rigs_file(file: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a file of rigs in either form.

    Parameters
    ----------
    file : str
        The path of the file.

    Returns
    -------
    document : dict
        The document in the long form, that is, with a key ``rigs``. Numbers and booleans are read where they belong;
        every other value, a wrong one included, is a dict or the text in the file.
    lines : dict of str to int
        The line, from 1, of each key, for instance ``rigs.cameras.uri``.

    Raises
    ------
    ConfigError
        There is no such document in the file. The error has line and key as far as there are any, and no file: the
        caller knows it.
    """
    node = document_node(file, RIGS)
    lines: dict[str, int] = {}
    flat = all(key.value != "rigs" for key, _ in node.value)
    document = map_of(node, RIGS, lines, "rigs" if flat else "")
    if flat:
        for name, value in document.items():
            if not isinstance(value, str):
                problem = "expected an address, not a map; rigs with keys of their own stand below a first line 'rigs:'"
                raise ConfigError(problem, line=lines[f"rigs.{name}"], key=f"rigs.{name}")
        _check_addresses(document, lines)
        return {"rigs": document}, lines
    if isinstance(timing := document.get("timing"), dict):
        document["timing"] = {key: number_of(value) for key, value in timing.items()}
    if isinstance(rigs := document["rigs"], dict):
        _check_addresses(rigs, lines)
        document["rigs"] = {name: _typed(rig) for name, rig in rigs.items()}
    return document, lines


def _check_addresses(rigs: dict[str, Any], lines: dict[str, int]) -> None:
    for name, rig in rigs.items():
        key, address = (f"rigs.{name}.uri", rig.get("uri")) if isinstance(rig, dict) else (f"rigs.{name}", rig)
        if isinstance(address, Plain) and address in NOTHING:
            problem = "no address stands here; write one, such as 192.168.1.20, or leave the rig out"
            raise ConfigError(problem, line=lines[key], key=key)


def document_node(file: str, sort: Sort) -> yaml.MappingNode:
    """Return the map that a file holds.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds none; the error has no file, and a line where there is one.
    """
    node = _compose(read_text(file, sort), sort)
    if not isinstance(node, yaml.MappingNode):
        problem = "the file is empty" if node is None else "the file is not a map"
        raise ConfigError(f"{problem}; {sort.expected}", line=line_of(node) if node else 1)
    return node


def read_text(file: str, sort: Sort) -> str:
    """Return the text of a file; the errors are those of `document_node`."""
    if os.path.isdir(file):
        raise ConfigError(f"this is a folder; {sort.expected}")
    try:
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError comes from a path with a null character
        raise ConfigError(f"cannot be read ({getattr(error, 'strerror', None) or error}); {sort.expected}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"the file is larger than {MAX_BYTES:,} bytes; {sort.expected}")
    try:
        return data.decode("utf-8-sig")  # Notepad puts a mark before the text
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("the file is not UTF-8 text; save it with that encoding", line=line) from error


def _compose(text: str, sort: Sort) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"not valid YAML: the character {chr(error.character)!r} is not allowed", line=line
        ) from error
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = f"not valid YAML: {error.problem}; {sort.example}"
        raise ConfigError(problem, line=mark.line + 1 if mark else None) from error
    except RecursionError as error:
        raise ConfigError(f"the file is nested too deeply; {sort.expected}", line=loader.line + 1) from error
    except ConfigError:  # a ValueError too, and complete
        raise
    except (ValueError, OverflowError) as error:
        # PyYAML lets these through, for instance from the escape sequence "\UFFFFFFFF".
        raise ConfigError(f"not valid YAML: {error}", line=loader.line + 1) from error


def map_of(node: yaml.MappingNode, sort: Sort, lines: dict[str, int], path: str = "") -> dict[str, Any]:
    """Turn nodes into text and dicts and lists of text, and note the line of each key in `lines`.

    Raises
    ------
    ConfigError
        A key that is not text or stands twice, or a list where none may stand.
    """
    found: dict[str, Any] = {}
    for name_node, value in node.value:
        line = line_of(name_node)
        if not isinstance(name_node, yaml.ScalarNode):
            raise ConfigError("a key must be text, not a list or a map", line=line, key=path or None)
        name = name_node.value
        key = f"{path}.{name}" if path else name
        if name in found:
            raise ConfigError(f"this key stands twice, first in line {lines[key]}; remove one", line=line, key=key)
        lines[key] = line
        found[name] = _value(value, sort, lines, key)
    return found


def _value(node: yaml.Node, sort: Sort, lines: dict[str, int], path: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return map_of(node, sort, lines, path)
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.style else Plain(node.value)
    if sort.no_lists:
        raise ConfigError(sort.no_lists, line=lines[path], key=path)
    items = []
    for index, item in enumerate(node.value):
        key = f"{path}[{index}]"
        lines[key] = line_of(item)
        items.append(_value(item, sort, lines, key))
    return items


def _typed(rig: Any) -> Any:
    """Read what is a number or a boolean among the values of a rig."""
    if not isinstance(rig, dict):
        return rig
    readers = {"timeout": number_of, "resend": boolean_of, "pause": number_of, "max_message": number_of}
    return {key: readers[key](value) if key in readers else value for key, value in rig.items()}


def number_of(value: Any) -> Any:
    """Return the number that text stands for; what is no number stays as it is, for its key's check to complain of."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    return int(value) if value.isdigit() else float(value)


def boolean_of(value: Any) -> Any:
    """Return the boolean that text stands for, as in YAML 1.1; what is none stays as it is."""
    return BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value


def line_of(place: Any) -> int:
    """Return the line, from 1, in which a node or an event begins."""
    return int(place.start_mark.line) + 1
