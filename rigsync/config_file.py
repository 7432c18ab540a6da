"""The YAML file of rigs, read with the line of every key, so that errors can name the place.

Only `rigsync.config` uses it. PyYAML's own types are not used: YAML 1.1 takes ``no`` for a boolean and ``12:30`` for
the number 750, so every value stays the text that stands in the file, and its key decides what is read from it.
"""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

from rigsync.errors import ConfigError

MAX_BYTES = 1 << 20
"""The largest file that is read, in bytes: a thousand times what a lab needs, and some seconds of PyYAML's time."""

_EXPECTED = "expected a YAML file with a key 'rigs', or lines such as cameras: 192.168.1.20"

_NUMBER = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}  # as in YAML 1.1


class _Loader(yaml.SafeLoader):
    """Composes nodes, without aliases, by which a small file can stand for a huge or endless one."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # an omission of types-PyYAML
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise ConfigError(
                "aliases (*name) and tags (!name) are not supported; write the value out", line=_line(event)
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
    node = _compose(_read_text(file))
    if not isinstance(node, yaml.MappingNode):
        problem = "the file is empty" if node is None else "the file is not a map"
        raise ConfigError(f"{problem}; {_EXPECTED}", line=_line(node) if node else 1)
    lines: dict[str, int] = {}
    flat = all(key.value != "rigs" for key, _ in node.value)
    document = _map(node, "rigs" if flat else "", lines)
    if flat:
        for name, value in document.items():
            if not isinstance(value, str):
                problem = "expected an address, not a map; rigs with keys of their own stand below a first line 'rigs:'"
                raise ConfigError(problem, line=lines[f"rigs.{name}"], key=f"rigs.{name}")
        return {"rigs": document}, lines
    if isinstance(timing := document.get("timing"), dict):
        document["timing"] = {key: _number(value) for key, value in timing.items()}
    if isinstance(rigs := document["rigs"], dict):
        document["rigs"] = {name: _typed(rig) for name, rig in rigs.items()}
    return document, lines


def _read_text(file: str) -> str:
    if os.path.isdir(file):
        raise ConfigError(f"this is a folder; {_EXPECTED}")
    try:
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError comes from a path with a null character
        raise ConfigError(f"cannot be read ({getattr(error, 'strerror', None) or error}); {_EXPECTED}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"the file is larger than {MAX_BYTES:,} bytes; {_EXPECTED}")
    try:
        return data.decode("utf-8-sig")  # Notepad puts a mark before the text
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("the file is not UTF-8 text; save it with that encoding", line=line) from error


def _compose(text: str) -> yaml.Node | None:
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
        problem = (
            f"not valid YAML: {error.problem}; expected lines such as cameras: 192.168.1.20, indented by spaces, "
            "and quotes around what has brackets"
        )
        raise ConfigError(problem, line=mark.line + 1 if mark else None) from error
    except RecursionError as error:
        raise ConfigError(f"the file is nested too deeply; {_EXPECTED}", line=loader.line + 1) from error
    except ConfigError:  # a ValueError too, and complete
        raise
    except (ValueError, OverflowError) as error:
        # PyYAML lets these through, for instance from the escape sequence "\UFFFFFFFF".
        raise ConfigError(f"not valid YAML: {error}", line=loader.line + 1) from error


def _map(node: yaml.MappingNode, path: str, lines: dict[str, int]) -> dict[str, Any]:
    """Turn nodes into text and dicts of text, and note the line of each key."""
    found: dict[str, Any] = {}
    for name_node, value in node.value:
        line = _line(name_node)
        if not isinstance(name_node, yaml.ScalarNode):
            raise ConfigError("a key must be text, not a list or a map", line=line, key=path or None)
        name = name_node.value
        key = f"{path}.{name}" if path else name
        if name in found:
            raise ConfigError(f"this key stands twice, first in line {lines[key]}; remove one", line=line, key=key)
        lines[key] = line
        if isinstance(value, yaml.MappingNode):
            found[name] = _map(value, key, lines)
        elif isinstance(value, yaml.ScalarNode):
            found[name] = value.value
        else:
            raise ConfigError(
                "expected text or a map, not a list; quote an IPv6 address in brackets", line=line, key=key
            )
    return found


def _typed(rig: Any) -> Any:
    """Read what is a number or a boolean among the values of a rig."""
    if not isinstance(rig, dict):
        return rig
    readers = {"timeout": _number, "resend": _boolean, "max_message": _number}
    return {key: readers[key](value) if key in readers else value for key, value in rig.items()}


def _number(value: Any) -> Any:
    # What is no number stays as it is, for the check of that key to complain about; likewise below.
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    return int(value) if value.isdigit() else float(value)


def _boolean(value: Any) -> Any:
    return _BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value


def _line(place: Any) -> int:
    return int(place.start_mark.line) + 1
