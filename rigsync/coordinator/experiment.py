"""An experiment as a context: begun on all rigs or on none, and never left running."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rigsync.coordinator.course import Course, Steps
from rigsync.coordinator.results import PushResult
from rigsync.core.orders import Asked
from rigsync.errors import PushError, RigsyncError

logger = logging.getLogger("rigsync.experiment")

LAST_WORDS = 2.0
"""Seconds for which a program that ends in the middle of an experiment waits for rigs to confirm the interrupt."""


class Experiment(Course):
    """One experiment on all rigs; see `Auxiliaries.experiment`, which makes it."""

    HOW_TO_BEGIN = "`with aux.experiment(...) as session:` or by aux.begin(...)"

    def __init__(self, push: Callable[[Asked], PushResult | PushError | None], *course: Any, **options: Any):
        super().__init__(*course, **options)
        self._push = push

    # --------------------------------------------------------------------------------------------- life cycle

    def begin(self) -> Experiment:
        """Begin on all rigs or on none, as entering by ``with`` does; for a program that cannot hold a ``with`` open.

        Then `end` or `interrupt` has to follow. Where neither does, the end of the program interrupts the rigs.

        Returns
        -------
        Experiment
            This one.

        Raises
        ------
        ExperimentError
            A rig has not begun; those that had are interrupted and cleaned up.
        RuntimeError
            It was begun before.
        """
        self._enter()
        try:
            self._run(self._beginning())
        except BaseException as error:
            self._run(self._leaving(error))
            raise
        self._state = "running"
        return self

    def end(self) -> None:
        """End on all rigs and have them clean up, as leaving a ``with`` does.

        Raises
        ------
        ExperimentError
            A rig has failed, now or before.
        RuntimeError
            It was never begun, or is over.
        """
        self._check_goes_on("end()")
        try:
            self._run(self._ending())
        except BaseException as problem:
            self._run(self._leaving(problem))
            raise
        self._run(self._leaving(None))

    def interrupt(self, reason: BaseException | str = "interrupted by the program") -> None:
        """Interrupt all rigs and have them clean up, as an exception in a ``with`` does.

        Parameters
        ----------
        reason : BaseException or str, optional
            Why; the rigs are told.

        Raises
        ------
        RuntimeError
            It was never begun, or is over.
        """
        self._check_goes_on("interrupt()")
        self._run(self._leaving(reason if isinstance(reason, BaseException) else RuntimeError(reason)))

    def __enter__(self) -> Experiment:
        return self.begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._run(self._leaving(error))
        elif self._state == "running":  # else the body has ended or interrupted it
            self.end()

    def _run(self, steps: Steps) -> Any:
        """Run steps, and return what they return; what is raised while they wait is raised in them."""
        resume: Callable[[Any], Asked] = steps.send
        come: Any = None
        try:
            while True:
                asked = resume(come)
                try:
                    resume, come = steps.send, self._push(asked)
                except BaseException as error:
                    resume, come = steps.throw, error
        except StopIteration as over:
            return over.value

    def say_last_words(self) -> None:
        """Interrupt what is still running, for the interpreter is ending."""
        if rigs := self._in_charge_of:
            report = {"error": "SystemExit", "message": "the program ended in the middle of the experiment"}
            with contextlib.suppress(RigsyncError):
                self._push(Asked("EXPINTERRUPT", (report,), rigs, LAST_WORDS))
