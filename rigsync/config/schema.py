"""One checker for YAML files: tables of keys read a file, and make its JSON Schema.

`config.yaml` hands over every value as the text of the file. The kind of its key decides what that means.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rigsync._text import close_match, closest, shortened
from rigsync.errors import ConfigError

LONGEST_TEXT = 8000
"""Most characters of a command or a path; cmd takes 8,191 in a line."""
MOST_ITEMS = 200
"""Most items of a list, and most variables."""
LARGEST = 10**18
"""The largest size in bytes; no disk has more."""
MOST_TOLD = 100
"""Most mistakes of a file that are told at once."""
NOTHING = ("", "~", "null", "Null", "NULL")
"""Plain text that YAML takes for no value."""

_WHOLE = r"[+-]?[0-9]{1,400}"
_NUMBER = rf"^(?:{_WHOLE}(?:\.[0-9]{{0,400}})?|[+-]?\.[0-9]{{1,400}})(?:[eE][+-]?[0-9]{{1,3}})?$"
# Exactly as YAML 1.1 has them.
_TRUTHS = {
    form: truth
    for names, truth in ((("true", "yes", "on"), True), (("false", "no", "off"), False))
    for name in names
    for form in (name, name.capitalize(), name.upper())
}
_BYTES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4, "PB": 1000**5} | {
    f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTP", start=1)
}
_SIZE = rf"^([0-9]{{1,15}}(?:\.[0-9]{{1,15}})?) ?({'|'.join(_BYTES)})$"


class Plain(str):
    """Text without quotes in the file."""

    __slots__ = ()


UNREAD = Plain()
"""Stands for a value whose mistake has been told before anybody asks what it means."""


class Told(ConfigError):
    """What depends on a mistake that is told already: nothing more is told."""

    def __init__(self) -> None:
        super().__init__("this depends on another mistake")

    @property
    def errors(self) -> tuple[ConfigError, ...]:
        return ()


class Mistakes(list[ConfigError]):
    """The mistakes of a file. A block `with mistakes:` ends at one, which is added, and what follows goes on."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, ConfigError):
            self.add(error.errors)
        return isinstance(error, ConfigError)

    def add(self, errors: Iterable[ConfigError]) -> None:
        self.extend(islice(errors, MOST_TOLD - len(self)))


class Known(dict[str, Any]):
    """The values of a map without the wrong ones: who asks for one of these raises `Told`."""

    wrong: frozenset[str] = frozenset()
    """The names of the wrong ones."""

    def __missing__(self, name: str) -> Any:
        raise Told


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    `read` is a function of value, key and the file's mistakes. It raises a `ConfigError` where it can return nothing,
    and otherwise adds what is wrong with parts of the value to the mistakes. `schema` is a JSON Schema.
    """

    read: Callable[[Any, str, Mistakes], Any]
    schema: dict[str, Any]


@dataclass(frozen=True)
class Key:
    """One key of a table: what its value may be, and what it means. The default is written as in the file."""

    kind: Kind | Table
    description: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True)
class Table:
    """A map with certain keys."""

    keys: Mapping[str, Key]
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a key that says more about others: those others. One of them has to be there."""
    some: tuple[str, ...] = ()
    """Keys of which one has to be there."""
    misplaced: Mapping[str, str] = field(default_factory=dict)
    """For keys that belong elsewhere: why they cannot be here."""

    def read(self, value: Any, key: str, mistakes: Mistakes) -> Known:
        """Return the values of all keys; None for a key that is missing and has no default."""
        found = _map(value, key)
        mistakes.add(self.misnamed(found, key))
        meant = self._meant(found)
        values = Known()
        for name, entry in self.keys.items():
            if name not in found and (entry.required or name in meant):
                continue
            given = found.get(name, entry.default)
            with mistakes:
                values[name] = None if given is None else _read(entry.kind, given, _below(key, name), mistakes)
        values.wrong = frozenset(self.keys) - frozenset(values)
        return values

    def misnamed(self, found: Mapping[Any, Any], key: str) -> Iterator[ConfigError]:
        """Yield an error for each key that cannot be here, and for each that is missing and not just misspelt."""
        for name in found:
            if name not in self.keys:
                unknown = f"unknown key {shortened(name, 80)}{close_match(name, self.keys)}; the keys here are "
                problem = self.misplaced.get(name) or unknown + ", ".join(self.keys)
                yield ConfigError(problem, key=_below(key, name))
        there = found.keys() | self._meant(found)
        for name, entry in self.keys.items():
            if entry.required and name not in there:
                yield ConfigError(f"this key is missing: {entry.description}", key=_below(key, name))
        for name, others in self.needs.items():
            if name in found and there.isdisjoint(others):
                problem = f"this says more about {' or '.join(others)}, which is missing"
                yield ConfigError(problem, key=_below(key, name))
        if self.some and there.isdisjoint(self.some) and all(name in self.keys for name in found):
            yield ConfigError(f"expected at least one of the keys {', '.join(self.some)}", key=key)

    def _meant(self, found: Mapping[Any, Any]) -> set[str | None]:
        """Return the keys that unknown ones are likely to mean."""
        unknown = (name for name in found if name not in self.keys and name not in self.misplaced)
        return {closest(name, self.keys) for name in islice(unknown, MOST_TOLD)}

    @property
    def schema(self) -> dict[str, Any]:
        properties = {}
        for name, entry in self.keys.items():
            properties[name] = {"description": entry.description, **entry.kind.schema}
            if entry.default is not None:
                properties[name]["default"] = entry.default
        required = [name for name, entry in self.keys.items() if entry.required]
        may_be_empty = not required and not self.some
        found: dict[str, Any] = {"type": ["object", "null"] if may_be_empty else "object"}
        found |= {"properties": properties, "additionalProperties": False}
        if required:
            found["required"] = required
        if self.some:
            found["anyOf"] = [{"required": [name]} for name in self.some]
        if self.needs:
            found["dependentSchemas"] = {
                name: {"anyOf": [{"required": [other]} for other in others]} for name, others in self.needs.items()
            }
        return found


def document(title: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


# ------------------------------------------------------------------------------------------------------- the kinds


def text(
    most: int = LONGEST_TEXT,
    whole: str | None = None,
    expected: str = "text that is not empty",
    nothing: str = "the value is missing; expected text",
) -> Kind:
    """Take printable text that is not empty, or that matches the regular expression `whole`."""

    def read(value: Any, key: str, _: Mistakes) -> str:
        if not isinstance(value, str):
            hint = f"; put quotes around text that begins with a {'brace' if isinstance(value, dict) else 'bracket'}"
            raise _wrong("text", value, key, hint)
        if isinstance(value, Plain) and value in NOTHING:
            raise ConfigError(nothing, key=key)
        if not (re.fullmatch(whole, value) if whole else value.strip()):
            raise _wrong(expected, value, key)
        if len(value) > most:
            raise ConfigError(f"expected at most {most:,} characters, not {len(value):,}", key=key)
        if not all(character.isprintable() or character in "\t\n" for character in value):
            raise ConfigError(f"there is a character in {shortened(value)} that cannot be printed", key=key)
        return str(value)

    # Numbers and booleans are text as they stand in the file.
    pattern = f"^{whole}$" if whole else r"\S"
    return Kind(read, {"type": ["string", "number", "boolean"], "pattern": pattern, "maxLength": most})


def number(low: float, high: float = sys.float_info.max, unit: str = "", *, whole: bool = False) -> Kind:
    kinds = (int,) if whole else (int, float)

    def read(value: Any, key: str, _: Mistakes) -> Any:
        found = number_of(value)
        if whole and isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, kinds) and low <= found <= high:
            return found
        bounds = f"from {low:g} to {high:.10g}"
        if high == sys.float_info.max:
            bounds = f"of at least {low:g}" if isinstance(found, kinds) and 0 < found < low else "above 0"
        raise _wrong(f"a {'whole ' if whole else ''}number {unit and f'of {unit} '}{bounds}", value, key)

    types = ["integer" if whole else "number", "string"]  # text is a number in quotes
    return Kind(read, {"type": types, "pattern": _NUMBER, "minimum": low, "maximum": high})


def boolean() -> Kind:
    """Take true or false, in any of YAML's ways to write them."""

    def read(value: Any, key: str, _: Mistakes) -> bool:
        if isinstance(value, bool):
            return value
        if not isinstance(value, str) or value not in _TRUTHS:
            raise _wrong("true or false", value, key)
        return _TRUTHS[value]

    return Kind(read, {"enum": [True, False, *_TRUTHS]})


def size(low: int = 1) -> Kind:
    """Take a number of bytes with its unit."""

    def read(value: Any, key: str, _: Mistakes) -> int:
        match = re.fullmatch(_SIZE, value) if isinstance(value, str) else None
        if not match:
            units = f"; the units are {', '.join(_BYTES)}"
            raise _wrong("a size with its unit, such as 20 GB or 512 MiB", value, key, units)
        found = int(float(match[1]) * _BYTES[match[2]])
        if not low <= found <= LARGEST:
            raise _wrong(f"{low:,} bytes or more, up to 1000 PB", value, key)
        return found

    return Kind(read, {"type": "string", "pattern": _SIZE})


def choice(words: tuple[str, ...]) -> Kind:
    def read(value: Any, key: str, _: Mistakes) -> str:
        if value not in words:
            hint = close_match(value, words) if isinstance(value, str) else ""
            raise _wrong(f"one of {', '.join(words)}", value, key, hint)
        return str(value)

    return Kind(read, {"enum": list(words)})


def listing(item: Kind | Table, least: int = 0, most: int = MOST_ITEMS) -> Kind:
    def read(value: Any, key: str, mistakes: Mistakes) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong("a list, such as [one, two]", value, key)
        if not least <= len(value) <= most:
            raise ConfigError(f"expected {least} to {most} items, not {len(value)}", key=key)
        items = []
        for index, each in enumerate(value):
            with mistakes:
                items.append(_read(item, each, f"{key}[{index}]", mistakes))
        if len(items) < len(value):
            raise Told
        return tuple(items)

    return Kind(read, {"type": "array", "items": item.schema, "minItems": least, "maxItems": most})


def either(kinds: Mapping[type, Kind | Table], expected: str, hint: str = "") -> Kind:
    """Take text, a list or a map, each by a kind of its own."""

    def read(value: Any, key: str, mistakes: Mistakes) -> Any:
        kind = next((kind for of, kind in kinds.items() if isinstance(value, of)), None)
        if kind is None:
            raise _wrong(expected, value, key, hint)
        return kind.read(value, key, mistakes)

    return Kind(read, {"anyOf": [kind.schema for kind in kinds.values()]})


def mapping(item: Kind, name: Kind, most: int | None = None) -> Kind:
    """Take a map from free names to things of one kind, in the order of the file."""

    def read(value: Any, key: str, mistakes: Mistakes) -> Known:
        found = _map(value, key)
        if most and len(found) > most:
            raise ConfigError(f"expected at most {most} of them, not {len(found)}", key=key)
        values = Known()
        for each, given in found.items():
            one = Known()
            with mistakes:
                one["value"] = _read(item, given, f"{key}.{each}", mistakes)
            with mistakes:
                right = name.read(each, f"{key}.{each}", mistakes)
                values[right] = one["value"]
        values.wrong = frozenset(found) - frozenset(values)
        return values

    schema = {"type": ["object", "null"], "propertyNames": name.schema, "additionalProperties": item.schema}
    return Kind(read, schema | ({"maxProperties": most} if most else {}))


def free() -> Kind:
    """Take a map of anything. Quotes make text of a number, true, false and null."""
    return Kind(lambda value, key, _: _typed(_map(value, key)), {"type": ["object", "null"]})


def scalar() -> Kind:
    """Take text, a number, true or false; in quotes, all of them are text."""

    def read(value: Any, key: str, _: Mistakes) -> Any:
        if isinstance(value, (dict, list)):
            raise _wrong("text or a number", value, key, "; put quotes around text that begins with a brace or bracket")
        if (found := _typed(value)) is None:
            raise ConfigError("the value is missing; expected text or a number", key=key)
        return found

    return Kind(read, {"type": ["string", "number", "boolean"]})


def _typed(value: Any) -> Any:
    if value is UNREAD:
        raise Told
    if isinstance(value, dict):
        return {name: _typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if value in NOTHING:
        return None
    if value.lower() in ("true", "false"):  # as in YAML 1.2, since `no` and `on` are what people write for text
        return value.lower() == "true"
    found = number_of(value)
    # A number with more digits than other programs keep, such as that of a device, stays text. So does infinity.
    most = 10**15 if isinstance(found, int) else float("inf")
    return str(value) if isinstance(found, str) or abs(found) >= most else found


# --------------------------------------------------------------------------------------------------- for all of it


@contextmanager
def under(key: str) -> Iterator[None]:
    """Put the keys of errors below this one."""
    try:
        yield
    except Told:
        raise
    except ConfigError as error:
        parts = (ConfigError(part.problem, key=_below(key, part.key) if part.key else key) for part in error.errors)
        raise ConfigError.of(parts) from error.__cause__


def _read(kind: Kind | Table, value: Any, key: str, mistakes: Mistakes) -> Any:
    if value is UNREAD:
        raise Told
    return kind.read(value, key, mistakes)


def number_of(value: Any) -> Any:
    """Return the number that text means, in quotes or not; return anything else as it is."""
    if not isinstance(value, str) or not re.fullmatch(_NUMBER, value):
        return value
    return int(value) if re.fullmatch(_WHOLE, value) else float(value)


def _map(value: Any, key: str) -> dict[str, Any]:
    if isinstance(value, Plain) and value in NOTHING:
        return {}
    if not isinstance(value, dict):
        raise _wrong("a map, with one key and its value in each line", value, key)
    return value


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _wrong(expected: str, value: Any, key: str, hint: str = "") -> ConfigError:
    kinds: dict[type, str] = {dict: "a map", list: "a list"}
    shown = kinds.get(type(value)) or shortened(str(value), 80)
    return ConfigError(f"expected {expected}, not {shown}{hint}", key=key or None)
