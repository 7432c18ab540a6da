"""Regular expressions from a file, which are searched for in the lines of a recorder: none may take long.

Python's `re` tries all ways in which repeats can share a text, and meanwhile nothing else of the program runs. With a
repeat within a repeat these ways are exponentially many, with several repeats of the same characters a power of the
text's length.
"""

from __future__ import annotations

import operator
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

from rigsync.errors import ConfigError

if sys.version_info >= (3, 11):
    from re import _parser as parser  # type: ignore[attr-defined]
else:
    import sre_parse as parser

LONGEST_PROGRESS = 200
"""Characters of a line that are searched for the number of frames. A search may take time that grows with the cube of
that, and meanwhile the rig answers nothing."""
MOST_WAYS = 50_000
"""Ways in which an expression and its repeats may lie on a line. It takes some tenths of a second at most to try them;
with one more repeat of the same characters it would be half a minute."""
_ASCII = frozenset(map(chr, range(128)))
_DIGIT, _BLANK, _LETTER, _SIGN = "\u0663", "\u00a0", "\u00e9", "\u2603"
"""Each stands for all characters of its kind beyond ASCII."""
_ALL = _ASCII | {_DIGIT, _BLANK, _LETTER, _SIGN}


class MayTakeLong(Exception):
    """Why an expression may take long, in words."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One place of an expression."""

    characters: frozenset[str]
    ways: int = 1
    """In how many it may match: more than one for a repeat, an option, alternatives."""
    is_needed: bool = True


def read_expression(text: str, key: str) -> re.Pattern[str]:
    """Read an expression with one group; raise a `ConfigError` of that key where it is none, or may take long."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pattern = re.compile(text)
    except (re.error, ArithmeticError, RecursionError, Warning) as error:
        raise ConfigError(f"not a regular expression: {error}", key=key) from error
    if pattern.groups != 1:
        raise ConfigError(
            f"expected one group in parentheses, around the number, not {pattern.groups}; (?:...) is none",
            key=key,
        )
    try:
        check_is_quick(text)
    except MayTakeLong as error:
        raise ConfigError(f"some line may take so long that the rig answers nothing: {error}", key=key) from None
    return pattern


def check_is_quick(pattern: str) -> None:
    """Check that no line can make a search for an expression take long.

    Raises
    ------
    MayTakeLong
        It has a repeat within a repeat, a reference to a group, or too many repeats that share characters.
    """
    parts = list(_parts(parser.parse(pattern)))
    varying = [i for i, part in enumerate(parts) if part.ways > 1]
    between_two = {pair: _ends(parts, *pair) for pair in combinations(varying, 2)}
    # Where all repeats before one end, that one has its place; so it has where all after it begin.
    from_the_left = from_the_right = max((_beginnings(parts, one) for one in varying), default=1)
    for one in varying:
        from_the_left *= _bounded(parts[one], sum(n for (_, after), n in between_two.items() if after == one))
        from_the_right *= _bounded(parts[one], sum(n for (before, _), n in between_two.items() if before == one))
    ways = min(from_the_left, from_the_right)
    if ways > MOST_WAYS:
        raise MayTakeLong(
            "several of its repeats match the same characters; begin with what stands right before the number, such as "
            r"frame=\s*(\d+)"
        )


def _bounded(part: _Part, ways: int) -> int:
    return max(1, min(part.ways, ways))


def _beginnings(parts: Sequence[_Part], varying: int) -> int:
    """Return at how many places the search may begin where a repeat goes on to the same end."""
    before = _needed(parts[:varying])
    return _places(before) if all(characters & parts[varying].characters for characters in before) else 1


def _ends(parts: Sequence[_Part], before: int, after: int) -> int:
    """Return at how many places one repeat may end and leave the rest to another; 0 where that is certain."""
    first, second = parts[before].characters, parts[after].characters
    between = _needed(parts[before + 1 : after])
    if first & second and any(all(characters & either for characters in between) for either in (first, second)):
        return min(parts[before].ways, parts[after].ways, _places(between))
    later = (  # what is between them may stand so many characters later
        all(one & other for one, other in zip([first] * by + between, between + [second] * by, strict=True))
        for by in range(1, len(between) + 1)
    )
    return 1 + len(between) if any(later) else 0


def _places(characters: Sequence[frozenset[str]]) -> int:
    """Return at how many places of a line such characters may stand, which may overlap."""
    shifts = range(1, len(characters) + 1)
    return LONGEST_PROGRESS // next((by for by in shifts if all(map(operator.and_, characters, characters[by:]))), 1)


def _needed(parts: Sequence[_Part]) -> list[frozenset[str]]:
    return [part.characters for part in parts if part.is_needed]


def _parts(items: Any) -> Iterator[_Part]:
    for operation, value in items:
        name = str(operation)
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            yield _Part(_characters(name, value))
        elif name == "SUBPATTERN":
            yield from _parts(value[-1])
        elif name == "ATOMIC_GROUP":
            yield from _parts(value)
        elif name == "BRANCH":
            yield from _alternatives(value[1])
        elif name in ("ASSERT", "ASSERT_NOT"):
            yield from (replace(part, is_needed=False) for part in _parts(value[1]))
        elif name.endswith("_REPEAT"):
            yield from _repeated(*value)
        elif name != "AT":
            raise MayTakeLong("it refers to a group of its own, such as \\1")


def _alternatives(branches: Any) -> Iterator[_Part]:
    fixed: set[str] = set()
    for branch in branches:
        parts = list(_parts(branch))
        if any(part.ways > 1 for part in parts):
            yield from (replace(part, is_needed=False) for part in parts)
        else:
            fixed.update(*(part.characters for part in parts))
    yield _Part(frozenset(fixed), len(branches), is_needed=False)


def _repeated(least: int, most: int, items: Any) -> Iterator[_Part]:
    inner = list(_parts(items))
    if least == most == 1 or most == 0:
        yield from inner
    elif most == 1:
        yield from (replace(part, ways=max(2, part.ways), is_needed=False) for part in inner)
    elif any(part.ways > 1 for part in inner):
        raise MayTakeLong("a repeat or alternatives are within a repeat, such as (a+)+")
    elif least == most:
        yield from inner * min(least, 1 + LONGEST_PROGRESS // max(1, len(inner)))
    else:
        characters = frozenset[str]().union(*(part.characters for part in inner))
        yield _Part(characters, min(most - least + 1, LONGEST_PROGRESS), is_needed=least > 0)


def _characters(name: str, value: Any) -> frozenset[str]:
    if name == "ANY":
        return _ALL
    if name == "LITERAL":
        return frozenset(_cases(value))
    if name == "NOT_LITERAL":
        return _ALL - (_ASCII & {chr(value)})
    found: set[str] = set()
    for kind, what in value:
        if str(kind) == "LITERAL":
            found |= _cases(what)
        elif str(kind) == "RANGE":
            found.update(*(_cases(code) for code in range(what[0], min(what[1], 127) + 1)))
            found.update((_ALL - _ASCII) | set("iIkKsS") if what[1] > 127 else ())  # cases of these are beyond ASCII
        elif str(kind) == "CATEGORY":
            found |= _of_category(str(what))
    return frozenset(_ALL - (found & _ASCII) if str(value[0][0]) == "NEGATE" else found)


def _cases(code: int) -> set[str]:
    """Return a character in both cases, for an expression may ignore them."""
    return {one if one in _ASCII else _kind_of(one) for one in (chr(code), *chr(code).swapcase())}


def _kind_of(character: str) -> str:
    if character.isdecimal():
        return _DIGIT
    return _LETTER if character.isalnum() else _BLANK if character.isspace() else _SIGN


@lru_cache
def _of_category(name: str) -> frozenset[str]:
    letter = name.removeprefix("CATEGORY_").removeprefix("NOT_")[0]
    expression = re.compile("\\" + (letter if "NOT_" in name else letter.lower()))
    return frozenset(filter(expression.match, _ALL))
