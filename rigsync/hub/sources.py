"""Where events come from beside the program itself: sources that push, sources that are pulled, and other hubs."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from rigsync.core.events import Event


@runtime_checkable
class PushSource(Protocol):
    """A source that tells events whenever it has some; `close` ends it, where it has that."""

    def start(self, ingest: Callable[[Event], None]) -> Any:
        """Begin; may be a coroutine function. `ingest` may be called from any thread, until the hub has stopped."""


def mode_of(source: object) -> str:
    """Return ``pull`` for an asynchronous iterator, ``push`` for what has a `start`; else raise a TypeError."""
    if isinstance(source, AsyncIterable):
        return "pull"
    if isinstance(source, PushSource) and not isinstance(source, type):
        return "push"
    raise TypeError(
        f"a source is a Timer, has start(ingest), or is an asynchronous iterator of events; {source!r} is none of these"
    )


def name_of_source(source: object) -> str:
    """Return what reports call a source."""
    name = getattr(source, "name", None) or getattr(source, "__qualname__", None)
    return name if isinstance(name, str) else type(source).__qualname__


@dataclass(eq=False)
class Node:
    """One hub among those that are joined."""

    name: str
    others: list[Node] = field(default_factory=list)
    """Those to which it passes events on."""


def check_joinable(here: Node, there: Node, both_ways: bool) -> None:
    """Let hubs be joined only where no event can come back to a hub by another way than it left.

    Raises
    ------
    ValueError
        They are one, are joined already, or the boundary would close a circle; it names the hubs on that.
    """
    if here is there:
        raise ValueError(f"hub {here.name!r} cannot be joined with itself")
    for first, second in ((here, there), (there, here)):
        if second in first.others:
            raise ValueError(f"hub {first.name!r} passes its events on to {second.name!r} already")
    ways = [(there, here), (here, there)] if both_ways else [(there, here)]
    for begin, end in ways:
        if way := next(_ways(begin, end, [begin]), None):
            names = " -> ".join(repr(node.name) for node in [*way, begin])
            raise ValueError(f"joining {here.name!r} and {there.name!r} would close a circle: {names}")


def _ways(begin: Node, end: Node, passed: list[Node]) -> Iterator[list[Node]]:
    for other in begin.others:
        if other is end:
            yield [*passed, other]
        elif other not in passed:
            yield from _ways(other, end, [*passed, other])
