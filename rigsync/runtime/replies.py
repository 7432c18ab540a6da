"""What is to come: awaited on any event loop, or waited for on a thread."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from rigsync.errors import LoopBlocked
from rigsync.runtime.callbacks import resolve_future
from rigsync.runtime.conditions import Awaited

Value = TypeVar("Value")

SLICE = 0.5
"""Most seconds that a thread waits before it looks whether anybody can still answer, and for Ctrl-C on Windows."""


class Reply(Generic[Value]):
    """An answer that is under way: ``await reply``, or ``reply.result()`` on another thread than the event loop's.

    Either may be done repeatedly, and by several at once. What was asked goes on where nobody waits for it.
    """

    def __init__(self) -> None:
        self._outcome: Any = None
        self._waiting: list[Callable[[], object]] = []

    @property
    def done(self) -> bool:
        """Whether the outcome is there, be it a value or an error."""
        return self._outcome is not None

    def __await__(self) -> Generator[Any, None, Value]:
        return self._result().__await__()

    def result(self, timeout: float | None = None) -> Value:
        """Wait for it on this thread.

        Parameters
        ----------
        timeout : float, optional
            Seconds; by default until it is settled, as it is in any case when the time of what was asked is over.

        Returns
        -------
        object
            What ``await`` gives.

        Raises
        ------
        TimeoutError
            It is not there yet. What was asked goes on, and may be waited for again.
        LoopBlocked
            On the event loop, which would have to bring it: await it there.
        Exception
            What ``await`` raises.
        """
        if self._runs_here():
            raise LoopBlocked("result() on the event loop would wait for itself; await it there")
        end = math.inf if timeout is None else time.monotonic() + timeout
        come = Awaited()
        wake = functools.partial(come.bring, True)
        self._waiting.append(wake)  # before it looks: another thread may settle it
        try:
            self._begin_to_wait()
            while self._outcome is None and not come.wait(max(0.0, min(SLICE, end - time.monotonic()))):
                if time.monotonic() >= end:
                    raise self._late(timeout)
                self._look()
        finally:
            self._waiting.remove(wake)
        return self._value(self._outcome)

    async def _come(self) -> Any:
        """Wait until it is settled, and return the outcome, an error too."""
        if self._outcome is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            wake = functools.partial(resolve_future, future, None)
            self._waiting.append(wake)  # before it looks again: another thread may settle it
            try:
                if self._outcome is None:
                    self._begin_to_wait()
                    await future
            finally:
                self._waiting.remove(wake)
        return self._outcome

    async def _result(self) -> Value:
        return self._value(await self._come())

    def _settle(self, outcome: Any) -> None:
        """Bring the outcome, which is not None, unless there is one."""
        if self._outcome is None:
            self._outcome = outcome
            for wake in list(self._waiting):
                wake()

    # ------------------------------------------------------------------------------------- for who has made it

    def _value(self, outcome: Any) -> Value:
        """Return the value of an outcome, or raise its error."""
        raise NotImplementedError

    def _runs_here(self) -> bool:
        """Whether the caller runs where it is settled."""
        raise NotImplementedError

    def _late(self, timeout: float | None) -> TimeoutError:
        """Return the error of a wait that is over."""
        raise NotImplementedError

    def _begin_to_wait(self) -> None:
        """Take note that somebody waits; settle it if it cannot come any more."""
        self._look()

    def _look(self) -> None:
        """Settle it if it cannot come any more."""
        raise NotImplementedError
