"""YAML as editors read it, and files that are nearly what a JSON Schema says."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rigsync.config.schema import number_of
from rigsync.errors import ConfigError

Schema = dict[str, Any]
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
IMPLICIT = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}


def _editor(base: Any) -> Any:
    """Return a class that reads YAML as editors do: by the core schema of YAML 1.2, where `on` and each key is text."""

    class Core(base):  # type: ignore[misc]  # chosen when the test runs
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML has it

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
            return {key.value: self.construct_object(value, deep=True) for key, value in node.value}

    for tag, pattern in IMPLICIT.items():
        Core.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), None)
    Core.add_constructor("tag:yaml.org,2002:int", _integer)
    return Core


def _integer(loader: Any, node: yaml.ScalarNode) -> float:
    digits = loader.construct_scalar(node)
    return int(digits) if len(digits) < 400 else float(digits)  # as JavaScript has it


# The one in C, where there is one: PyYAML's own takes most of the time of a test that reads a thousand files.
EDITORS = [_editor(getattr(yaml, "CSafeLoader", yaml.SafeLoader)), _editor(yaml.SafeLoader)]


def load(text: str | bytes) -> Any:
    """Return a document as an editor has it."""
    try:
        return yaml.load(text, EDITORS[0])
    except yaml.YAMLError:  # as `{a:}`, which the one in C does not take
        return yaml.load(text, EDITORS[1])


def places(schema: Schema, name: str | None = None, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Schema]]:
    """Return the path and the schema of each key, and of those in it; `name` stands for a name of the lab's choice."""
    found: list[tuple[tuple[str, ...], Schema]] = []
    for branch in (schema, *schema.get("anyOf", ()), schema.get("then", {}), schema.get("else", {})):
        inner = dict(branch.get("properties", {}))
        if name and isinstance(branch.get("additionalProperties"), dict):
            inner[name] = branch["additionalProperties"]
        for key, its in inner.items():
            found += [((*path, key), its), *places(its, name, (*path, key))]
    return found


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["20 GB", "kill", "{data}", "{exp_ref}", "a 'b", "..", "(a)", "udp://a:1", "yes", "1e3", "5", ".5"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    ["a", "{exp_ref}", "x {message.y}", "tcp://h:1", "(a)", "~", "7", "no", "../x", "null"]
) | st.text(min_size=1, max_size=10)


def fitting(schema: Schema) -> st.SearchStrategy[Any]:
    """Return values that the schema takes, or nearly."""
    types = schema.get("type", ())
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema and not types:
        return st.one_of([fitting(branch) for branch in schema["anyOf"]])
    if "array" in types:
        return st.lists(fitting(schema["items"]), min_size=1, max_size=3)
    if "object" in types and isinstance(schema.get("additionalProperties"), dict):
        return st.dictionaries(st.sampled_from(["data", "b", "c d"]), fitting(schema["additionalProperties"]))
    if "object" in types and "properties" in schema:
        keys = {name: fitting(inner) for name, inner in schema["properties"].items()}
        needed = {name: keys.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(needed, optional=keys)
    if "object" in types:
        return st.dictionaries(st.text(max_size=5), VALUES, max_size=3)
    if "minimum" in schema:
        low, high = schema["minimum"], min(schema["maximum"], schema["minimum"] + 1000)
        numbers = st.integers(int(low), int(high)) | st.floats(low, high)
        return numbers | numbers.map(str)
    if types == "string":
        return st.sampled_from(["20 GB", "1.5 MiB", "100000 B", "1 PB"])
    return WORDS | st.integers() | st.booleans()


def near(example: str, schema: Schema, name: str | None = None) -> st.SearchStrategy[str]:
    """Return files that have any value at one or two of their keys, so that they get past YAML and names."""
    whole = load(example)
    values = [(path, fitting(inner)) for path, inner in places(schema, name)]

    @st.composite
    def files(draw: st.DrawFn) -> str:
        document = copy.deepcopy(whole)
        for _ in range(draw(st.integers(1, 2))):
            (*outer, last), good = draw(st.sampled_from(values))
            inner = document
            for key in outer:
                inner = inner.setdefault(key, {})
                if not isinstance(inner, dict):
                    break
            else:
                inner[last] = draw(good if draw(st.integers(0, 3)) else VALUES)
        return str(yaml.dump(document, Dumper=DUMPER))

    return files()


OF_ONE_KEY = re.compile(
    "unknown key|key is missing|this says more about|belongs? to EXP|by itself; the messages here|"
    "the (value|address) is missing|expected (text|a map|a list|a number|a whole number|a name|the name of a rig as|"
    "a size|a command|an address|true or false|one of|at least one of|"
    r"at most [\d,]+ characters|[0-9]+ to)"
)
"""What a JSON Schema finds as well: mistakes that show without looking into texts, or from one key to another."""


def without_quotes(value: Any) -> Any:
    """Return a document whose numbers in quotes are numbers, since a schema can set no bounds to those."""
    if isinstance(value, dict):
        return {name: without_quotes(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_quotes(item) for item in value]
    return number_of(value)


def agree(read: Callable[[Path], object], schema: Draft202012Validator, path: Path, text: str) -> None:
    """Check that a file is good for its reader and for its schema, or for neither as far as a schema can say it."""
    path.write_text(text, encoding="utf-8")
    try:
        read(path)
    except ConfigError as error:
        assert not (OF_ONE_KEY.search(error.problem) and schema.is_valid(without_quotes(load(text)))), error  # noqa: PT017 - one of two
    else:
        schema.validate(load(text))
