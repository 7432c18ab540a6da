"""The way of one push, as docs/architecture.md has it: it enters each room once, and climbs back to none."""

from __future__ import annotations

import asyncio.events
import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from processes import LONG, until
from test_layering import place

import rigsync
from rigsync import Auxiliaries, Rig
from rigsync.core.fanout import Fanout
from rigsync.net.endpoint import Endpoint

PACKAGE = Path(rigsync.__file__).parent

THERE = ("coordinator", "net")
"""From the facade to the socket. The core takes its part and returns: it calls nobody."""
IN = ("net", "hub", "rig", "runtime")
"""At the rig: from the socket to the worker that runs the handlers. The hub tells it, after the core has returned."""
AT_WORK = ("runtime", "rig")
BACK = ("rig", "net")
"""The one return: from the handlers to the socket."""


def file_of(code: CodeType) -> str:
    """Return the module of rigsync that a function is in, as in ``net/udp.py``, '' for any other."""
    path = Path(code.co_filename)
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else ""


def room_of(file: str) -> str:
    # The hub is in two packages: the pure one, and its place on an event loop.
    return "hub" if file == "runtime/hub.py" else file.partition("/")[0]


def stack_of(frame: FrameType | None) -> list[tuple[str, str]]:
    """Return module and name of the functions of rigsync that have led here since the event loop's turn, in order."""
    found = []
    while frame and frame.f_code.co_filename != asyncio.events.__file__:
        if file := file_of(frame.f_code):
            found.append((file, frame.f_code.co_name))
        frame = frame.f_back
    return found[::-1]


def rooms(stack: list[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(room for room, _ in itertools.groupby(room_of(file) for file, _ in stack))


class Way:
    """Notes the stack wherever bytes or work are handed on, and the calls before it that climb to a higher layer."""

    HANDED_ON = frozenset({"send", "sendto", "put"})

    def __init__(self) -> None:
        self._found: list[tuple[str, tuple[str, ...], list[tuple[str, str]]]] = []
        """The first function of each stack, its rooms, and the modules of the calls that have climbed on the way."""
        self._climbs: dict[str, list[tuple[str, str]]] = {}

    def note(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call" and arg.__name__ in self.HANDED_ON:
            self._note_stack(stack_of(frame))
        elif event == "call" and file_of(frame.f_code):
            stack = stack_of(frame)
            if stack[-1] == ("rig/handlers.py", "__call__"):
                self._note_stack(stack)
            files = [file for file, _ in stack[-2:]]
            above, below = (place(file.partition("/")[0]) for file in (files[0], files[-1]))
            if above is not None and below is not None and below > above:
                self._climbs.setdefault(stack[0][1], []).append((files[0], files[-1]))

    def _note_stack(self, stack: list[tuple[str, str]]) -> None:
        if stack:
            first = stack[0][1]
            self._found.append((first, rooms(stack), self._climbs.get(first, []).copy()))

    def rooms(self, first: str) -> list[tuple[str, ...]]:
        """Return the rooms of each stack that begins with a function."""
        return [found for name, found, _ in self._found if name == first]

    def climbs(self, first: str) -> list[tuple[str, str]]:
        """Return the calls that have climbed before something was handed on by what begins with a function."""
        return [climb for name, _, climbs in self._found if name == first for climb in climbs]


@contextlib.contextmanager
def noted(way: Way, *threads: Any) -> Iterator[None]:
    """Note what these threads do, and this one, and those that begin meanwhile."""

    def note_by(function: Callable[..., object] | None) -> None:
        threading.setprofile(function)  # type: ignore[arg-type]
        for thread in threads:
            done = threading.Event()
            thread.call(sys.setprofile, function)
            thread.call(done.set)
            assert done.wait(LONG)
        sys.setprofile(function)  # type: ignore[arg-type]

    note_by(way.note)
    try:
        yield
    finally:
        note_by(None)


@pytest.fixture
def way(serve: Callable[..., Rig], connect: Callable[..., Auxiliaries]) -> Callable[[], Way]:
    """Return a function that pushes once, and returns the way of that."""
    rig = serve("cameras", {"EXPINFO": lambda *_: None})
    aux = connect(rig)

    def push() -> Way:
        way = Way()
        with noted(way, aux.thread, rig._thread):
            assert aux.push("EXPINFO", "CONNECTED", wait=True, timeout=LONG)["cameras"]
            until(lambda: way.rooms("_settle"), "the answer")
        return way

    return push


def test_it_enters_each_room_once_and_climbs_back_to_none(way: Callable[[], Way]) -> None:
    found = way()
    assert found.rooms("push") == [("coordinator",)]  # which wakes the event loop
    assert found.rooms("_push") == [THERE]
    assert found.climbs("push") == found.climbs("_push") == []


def test_at_the_rig_there_is_one_return(way: Callable[[], Way]) -> None:
    found = way()
    assert IN in found.rooms("_read")
    assert AT_WORK in found.rooms("run")
    assert found.rooms("_settle") == [BACK]
    assert found.climbs("_settle") == []


def test_a_detour_is_found(way: Callable[[], Way], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "def climb(*args):\n    return send(*args)\n"
    detour: dict[str, Any] = {"send": Endpoint._send}
    exec(compile(lines, str(PACKAGE / "coordinator" / "detour.py"), "exec"), detour)
    monkeypatch.setattr(Endpoint, "_send", detour["climb"])
    found = way()
    assert found.rooms("_push") == [("coordinator", "net", "coordinator", "net")]
    assert found.climbs("_push") == [("net/endpoint.py", "coordinator/detour.py")]


def test_a_call_that_climbs_and_returns_is_found(way: Callable[[], Way], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "def asked(*args):\n    return take(*args)\n"
    detour: dict[str, Any] = {"take": Fanout.take_datagrams}
    exec(compile(lines, str(PACKAGE / "coordinator" / "detour.py"), "exec"), detour)
    monkeypatch.setattr(Fanout, "take_datagrams", detour["asked"])
    found = way()
    assert found.rooms("_push") == [THERE]
    assert ("net/endpoint.py", "coordinator/detour.py") in found.climbs("_push")
