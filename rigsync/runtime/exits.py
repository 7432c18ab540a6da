"""The end of a program that has not closed what it opened."""

from __future__ import annotations

import atexit
from collections.abc import Callable

from rigsync.runtime.callbacks import guarded
from rigsync.runtime.signals import signals_held_back

COORDINATORS, RIGS, ALERTS, JOURNALS, REPORTS = range(5)
"""The stages in their order: rigs come after coordinators, which they still answer, then who is told of both; the
journal hears of all, and reports are made of the journal."""

_hooks: list[tuple[int, Callable[[], None]]] = []


def at_exit(stage: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Call a function when the program ends, after those of earlier stages."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        _hooks.append((stage, function))
        return function

    return register


@atexit.register
def _end() -> None:
    with signals_held_back() as came:
        for _, function in sorted(_hooks, key=lambda hook: hook[0]):
            guarded("end of the program", function)
        came.clear()  # the program is ending
