"""An experiment as a context: begun on all rigs or on none, and never left running."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rigsync.coordinator.course import Course, Steps
from rigsync.coordinator.results import PushResult
from rigsync.core.orders import Asked
from rigsync.errors import PushError, RigsyncError

LAST_WORDS = 2.0
"""Seconds for which a program that ends in the middle of an experiment waits for rigs to confirm the interrupt."""


class Experiment(Course["Experiment", None]):
    """One experiment on all rigs; see `Auxiliaries.experiment`, which makes it."""

    HOW_TO_BEGIN = "`with aux.experiment(...) as session:` or by aux.begin(...)"

    def __init__(self, push: Callable[[Asked], PushResult | PushError | None], *course: Any, **options: Any):
        super().__init__(*course, **options)
        self._push = push

    def __enter__(self) -> Experiment:
        return self.begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run(self._exit(error))

    def _run(self, steps: Steps) -> Any:
        resume: Callable[[Any], Asked] = steps.send
        come: Any = None
        while True:
            try:
                asked = resume(come)
                resume, come = steps.send, self._push(asked)
            except StopIteration as over:
                return over.value
            except BaseException as error:  # Ctrl-C too, wherever it finds this
                if inspect.getgeneratorstate(steps) == inspect.GEN_CLOSED:  # they have raised it
                    raise
                resume, come = steps.throw, error

    def say_last_words(self) -> None:
        """Interrupt what is still running, for the interpreter is ending."""
        if rigs := self._in_charge_of:
            report = {"error": "SystemExit", "message": "the program ended in the middle of the experiment"}
            with contextlib.suppress(RigsyncError):
                self._push(Asked("EXPINTERRUPT", (report,), rigs, LAST_WORDS))
