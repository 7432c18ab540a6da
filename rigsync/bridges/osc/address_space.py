"""The addresses that an OSC server knows, and the patterns that name several of them (OSC 1.0; ``//`` from OSC 1.1).

A pattern is not made a regular expression, which some patterns would keep busy for ever. The matcher goes through it
once, with all the places of the text that it may have reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Generic, TypeVar

from rigsync._text import close_match, shortened
from rigsync.bridges.asking import Refused

LONGEST = 400
"""Most characters of an address or a pattern: the time that matching takes grows with their square."""
MOST_LEVELS = 4
"""Most ``//`` in a pattern. Each looks at all addresses below."""
SPECIAL = frozenset(" #*,/?[]{}")
"""Characters that no part of an address may have."""
_WILD = frozenset("*?[{")
_MOST_COMPARED = 200
"""Most names that are compared with one that is not there."""

Method = TypeVar("Method")
_Step = Callable[[str, set[int]], set[int]]
"""From a text, and the places that a pattern may have reached in it, to those after its next element."""


class BadPattern(Refused):
    """An address or pattern that cannot be one; the text says why."""


class AddressSpace(Generic[Method]):
    """Methods by their address, of which a pattern names some; changed from any thread, also while it is searched."""

    def __init__(self) -> None:
        self._root: _Node[Method] = _Node()

    def add(self, address: str, method: Method) -> Callable[[], None]:
        """Add a method, beside those that the address may have; return what takes it away again.

        Raises
        ------
        BadPattern
            It is no address: one begins with ``/``, and its parts have none of the characters of a pattern.
        """
        parts = _parts(address)
        for part in parts:
            if not part or SPECIAL & set(part) or not part.isprintable():
                raise BadPattern(
                    f"{shortened(address, 80)} is no address of a method: {shortened(part)} cannot be a part"
                )
        way = [self._root]
        for part in parts:
            way.append(way[-1].children.setdefault(part, _Node()))
        way[-1].methods = (*way[-1].methods, method)

        def remove() -> None:
            way[-1].methods = tuple(other for other in way[-1].methods if other is not method)
            for above, part in zip(way[-2::-1], parts[::-1], strict=True):
                if (below := above.children.get(part)) and not below.methods and not below.children:
                    del above.children[part]

        return remove

    def find(self, pattern: str) -> list[Method]:
        """Return the methods that a pattern names, in the order in which their addresses were added.

        Raises
        ------
        BadPattern
            It is no pattern, or one that is too long.
        """
        nodes: list[_Node[Method]] = [self._root]
        for part in _pattern_parts(pattern):
            if not part:
                nodes = list(dict.fromkeys(below for node in nodes for below in node.walk()))
            elif _WILD.isdisjoint(part):
                nodes = [below for node in nodes if (below := node.children.get(part))]
            else:
                fits = matcher(part)
                nodes = [below for node in nodes for name, below in list(node.children.items()) if fits(name)]
        return [method for node in nodes for method in node.methods]

    def close_to(self, pattern: str) -> str:
        """Return, for an address that is not there, ``; did you mean '...'?``, or what stands where it goes wrong."""
        node, known = self._root, ""
        for part in _pattern_parts(pattern):
            if part not in node.children:
                names = list(node.children)[:_MOST_COMPARED]
                if close := close_match(part, names):
                    return close.replace("'", f"'{known}/", 1)
                shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
                return f"; below {known or '/'} there are {shown}" if names else ""
            node, known = node.children[part], f"{known}/{part}"
        return ""


class _Node(Generic[Method]):
    """A part of addresses."""

    __slots__ = ("children", "methods")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Method]] = {}
        self.methods: tuple[Method, ...] = ()

    def walk(self) -> Iterator[_Node[Method]]:
        """Yield it and all below."""
        yield self
        for child in list(self.children.values()):
            yield from child.walk()


def _parts(address: str) -> list[str]:
    if not address.startswith("/"):
        raise BadPattern(f"{shortened(address, 80)} is no OSC address, which begins with /")
    if len(address) > LONGEST:
        raise BadPattern(f"{shortened(address, 80)} has more than {LONGEST} characters, the most of an OSC address")
    return address[1:].split("/")


def _pattern_parts(pattern: str) -> list[str]:
    parts = _parts(pattern)
    if not parts[-1]:
        raise BadPattern(f"{shortened(pattern, 80)} ends with /, and names nothing")
    if parts.count("") > MOST_LEVELS:
        raise BadPattern(f"{shortened(pattern, 80)} has more than {MOST_LEVELS} times //")
    return parts


@lru_cache(256)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a text matches one part of a pattern, in time proportional to the product of both.

    Parameters
    ----------
    pattern : str
        ``*`` is any characters, ``?`` one, ``[a-z]`` one of these, ``[!a]`` one of the others, ``{a,b}`` either text.

    Raises
    ------
    BadPattern
        A bracket or brace is not closed, or it is too long.
    """
    if len(pattern) > LONGEST:
        raise BadPattern(f"{shortened(pattern, 80)} has more than {LONGEST} characters, the most of a pattern")
    steps = list(_steps(pattern))

    def fits(text: str) -> bool:
        places = {0}
        for step in steps:
            places = step(text, places)
            if not places:
                return False
        return len(text) in places

    return fits


def _steps(pattern: str) -> Iterator[_Step]:
    position = 0
    while position < len(pattern):
        first = pattern[position]
        position += 1
        if first in "[{":
            closing = "]" if first == "[" else "}"
            end = pattern.find(closing, position)
            if end < 0:
                raise BadPattern(f"{shortened(pattern, 80)} has a {first} without its {closing}")
            inner, position = pattern[position:end], end + 1
            yield _one_of(inner) if first == "[" else _either(sorted(set(inner.split(","))))
        elif first == "*":
            yield _any
        elif first == "?":
            yield _one_of("!")
        else:
            yield _either([first])


def _any(text: str, places: set[int]) -> set[int]:
    return set(range(min(places), len(text) + 1))


def _one_of(inner: str) -> _Step:
    is_other = inner.startswith("!")
    inner = inner[is_other:]
    ranges: list[tuple[str, str]] = []
    position = 0
    while position < len(inner):
        is_range = inner[position + 1 : position + 2] == "-" and position + 2 < len(inner)
        end = position + 2 if is_range else position
        ranges.append((min(inner[position], inner[end]), max(inner[position], inner[end])))
        position = end + 1

    def step(text: str, places: set[int]) -> set[int]:
        return {
            place + 1
            for place in places
            if place < len(text) and any(low <= text[place] <= high for low, high in ranges) is not is_other
        }

    return step


def _either(texts: list[str]) -> _Step:
    return lambda text, places: {place + len(one) for place in places for one in texts if text.startswith(one, place)}
