"""YAML files of rigs and of agents, read with the line of every key, so that errors can name the place.

Every value stays the text of the file, and `config.schema` decides what that means. PyYAML would take ``no`` for a
boolean and ``12:30`` for the number 750, as YAML 1.1 says.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from rigsync.config.schema import UNREAD, Mistakes, Plain
from rigsync.errors import ConfigError

MAX_BYTES = 1 << 20
"""Most bytes of a file: a thousand times what a lab needs, and some seconds of PyYAML's time."""
DEEPEST = 20
"""Most levels of maps and lists in a file."""

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_DOUBLE_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_UNCLOSED = re.compile(r'"[^"\n]*\\"(?=\s*(?:[]},:#]|$))', re.MULTILINE)
_MADE_BY = {
    '"': "a quote within the text",
    "0": "a null character",
    "a": "a bell",
    "b": "a backspace",
    "t": "a tab",
    "n": "a line end",
    "v": "a vertical tab",
    "f": "a form feed",
    "r": "a carriage return",
    "e": "an escape character",
    "N": "a next-line character",
    "_": "a no-break space",
    "L": "a line separator",
    "P": "a paragraph separator",
}
"""What the letter after a backslash makes, if no text needs that."""


class _Loader(yaml.SafeLoader):
    """Composes nodes to a certain depth, and no aliases, with which a small file can make a huge or endless one."""

    def __init__(self, text: str):
        super().__init__(text)
        self._path: list[Any] = []
        self.mistakes = Mistakes()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # an omission of types-PyYAML
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            problem = "aliases (*name) and tags (!name) are not supported; write the value out"
            self.mistakes.add([ConfigError(problem, line=line_of(event))])
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]  # an omission of types-PyYAML
            return yaml.ScalarNode("", "")
        self._path.append(index)
        if len(self._path) > DEEPEST + 1 and isinstance(event, yaml.CollectionStartEvent):
            key = "".join(f"[{at}]" if isinstance(at, int) else f".{at.value}" if at else "" for at in self._path)
            problem = f"nested more than {DEEPEST} levels deep"
            raise ConfigError(problem, line=line_of(event), key=key.removeprefix("."))
        node = super().compose_node(parent, index)
        self._path.pop()
        return node


def document_node(file: str, expected: str) -> yaml.MappingNode:
    """Return the map that a file holds; raise `ConfigError` without a key, and if possible with a line."""
    node = _compose(read_text(file, expected), expected)
    if not isinstance(node, yaml.MappingNode):
        problem = "the file is empty" if node is None else "the file is not a map"
        raise ConfigError(f"{problem}; {expected}", line=line_of(node) if node else 1)
    return node


def read_text(file: str, expected: str) -> str:
    """Return the text of a file; the errors are those of `document_node`."""
    if os.path.isdir(file):
        raise ConfigError(f"this is a folder; {expected}", file=file)
    try:
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError comes from a path with a null character
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot be read ({why}); {expected}", file=file) from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"the file is larger than {MAX_BYTES:,} bytes; {expected}", file=file)
    try:
        return data.decode("utf-8-sig")  # Notepad puts a mark before the text
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("the file is not UTF-8 text; save it with that encoding", file=file, line=line) from error


def _compose(text: str, expected: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"not valid YAML: the character {chr(error.character)!r} is not allowed", line=line
        ) from error
    with loader.mistakes:
        node = _single_node(loader, text, expected)
        if not loader.mistakes:
            return node
    # Whatever else the file says depends on these.
    raise ConfigError.of(loader.mistakes) from loader.mistakes[-1].__cause__


def _single_node(loader: _Loader, text: str, expected: str) -> yaml.Node | None:
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        start = error.context_mark.index if error.context_mark else 0
        quoted, unclosed = _DOUBLE_QUOTED.match(text, start), _UNCLOSED.match(text, start)
        misread = _misread(quoted[0]) if quoted else None
        if unclosed and error.problem == "found unexpected end of stream":
            misread = misread or _misread(unclosed[0], harmless="")
        example = f"{expected}, indented by spaces, and quotes around what has brackets, braces or a colon"
        problem = misread or f"{error.problem}; {example}"
        raise ConfigError(f"not valid YAML: {problem}", line=mark.line + 1 if mark else None) from error
    except ConfigError:  # a ValueError too, and complete
        raise
    except (ValueError, OverflowError) as error:
        # PyYAML lets these through, for instance at the escape sequence "\UFFFFFFFF".
        raise ConfigError(f"not valid YAML: {error}", line=loader.line + 1) from error


def _misread(source: str, harmless: str = '\\"/ \t\r\n') -> str | None:
    """Say what is wrong with text in double quotes, if a backslash in it is hardly meant as an escape."""
    for escape in _ESCAPE.finditer(source):
        code, made = escape[1], _MADE_BY.get(escape[1], "an unknown escape")
        if len(code) > 1:
            number, made = int(code[1:], 16), "a character that cannot be printed"
            if number <= sys.maxunicode and chr(number).isprintable():
                continue
        elif code in harmless:
            continue
        if len(source) > 80:  # the word alone
            source = re.split(r"\s", source[: escape.start()])[-1] + re.split(r"\s", source[escape.start() :])[0]
        meant = re.sub(r'\\(["\\])', r"\1", re.sub(r"\s*\n\s*", " ", source.strip('"')))
        return (
            f"\\{code}, {made}: in double quotes a backslash begins an escape; "
            "write '{}' in single quotes or {}".format(meant.replace("'", "''"), meant.replace("\\", "/"))
        )
    return None


def map_of(node: yaml.MappingNode, lines: dict[str, int], mistakes: Mistakes, path: str = "") -> dict[str, Any]:
    """Turn nodes into text, dicts and lists, and note the line of each key in `lines`."""
    lines.setdefault(path, line_of(node))
    found: dict[str, Any] = {}
    for name_node, value in node.value:
        line = line_of(name_node)
        if not isinstance(name_node, yaml.ScalarNode):
            mistakes.add([ConfigError("a key must be text, not a list or a map", line=line, key=path or None)])
            continue
        text = _value(name_node, lines, mistakes, path)
        if text is UNREAD:
            continue
        name = str(text)
        key = f"{path}.{name}" if path else name
        if name in found:
            problem = f"this key is there twice, first in line {lines[key]}; remove one"
            mistakes.add([ConfigError(problem, line=line, key=key)])
            found[name] = UNREAD
            continue
        lines[key] = line
        found[name] = _value(value, lines, mistakes, key)
    return found


def _value(node: yaml.Node, lines: dict[str, int], mistakes: Mistakes, path: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return map_of(node, lines, mistakes, path)
    if isinstance(node, yaml.ScalarNode):
        start: Any = node.start_mark  # whose buffer types-PyYAML does not know to be there
        if node.style == '"' and (problem := _misread(start.buffer[start.pointer : node.end_mark.pointer])):
            mistakes.add([ConfigError(problem, line=line_of(node), key=path or None)])
            return UNREAD
        return node.value if node.style else Plain(node.value)
    items = []
    for index, item in enumerate(node.value):
        key = f"{path}[{index}]"
        lines[key] = line_of(item)
        items.append(_value(item, lines, mistakes, key))
    return items


def located(error: ConfigError, file: str, lines: Mapping[str, int]) -> ConfigError:
    """Add the file to an error, and the line of its key or of the nearest key around it; put mistakes in order."""
    parts: dict[str, ConfigError] = {}
    for part in error.errors:
        key = part.key or ""
        while key and key not in lines:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        placed = ConfigError(part.problem, file=file, line=part.line or lines.get(key), key=part.key)
        parts.setdefault(str(placed), placed)
    return ConfigError.of(sorted(parts.values(), key=lambda part: part.line or 0))


def line_of(place: Any) -> int:
    """Return the line, from 1, in which a node or an event begins."""
    return int(place.start_mark.line) + 1
