"""What is a source, and which hubs may be joined."""

from __future__ import annotations

from typing import Any

import pytest

from rigsync.hub.sources import Node, check_joinable, mode_of, name_of_source


def test_what_is_a_source() -> None:
    class Push:
        name = "trigger"

        def start(self, ingest: Any) -> None: ...

    class Pull:
        def __aiter__(self) -> Any: ...

        async def __anext__(self) -> Any: ...

    assert (mode_of(Push()), mode_of(Pull())) == ("push", "pull")
    assert (name_of_source(Push()), name_of_source(Pull())) == ("trigger", Pull.__qualname__)
    for thing in (Push, 3, None, iter(())):
        with pytest.raises(TypeError, match="a source is a Timer, has start"):
            mode_of(thing)


def test_hubs_that_would_close_a_circle_are_not_joined() -> None:
    a, b, c, d = (Node(name) for name in "abcd")

    def join(here: Node, there: Node, both_ways: bool = False) -> None:
        check_joinable(here, there, both_ways)
        here.others.append(there)
        if both_ways:
            there.others.append(here)

    join(a, b)
    join(b, c, both_ways=True)
    for here, there, both_ways, text in (
        (a, a, False, "cannot be joined with itself"),
        (a, b, True, "'a' passes its events on to 'b' already"),
        (b, a, False, "'a' passes its events on to 'b' already"),
        (c, a, False, "'a' -> 'b' -> 'c' -> 'a'"),
        (a, c, True, "would close a circle"),
    ):
        with pytest.raises(ValueError, match=r"join|passes") as told:
            join(here, there, both_ways)
        assert text in str(told.value)
    join(c, d)
    join(a, d)  # two ways to d, none back
    with pytest.raises(ValueError, match="circle"):
        join(d, b)
