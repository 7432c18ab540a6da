"""One push on an event loop: it can be awaited, and tells of each rig as that answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from copy import copy
from typing import Any

from rigsync.coordinator.results import PushResult
from rigsync.coordinator.service import RigServices
from rigsync.core.events import RigSettled
from rigsync.core.orders import Order
from rigsync.errors import NotRunning, PushError, RigError, RigTimeout
from rigsync.runtime.replies import Reply, Value

Outcome = PushResult | PushError


class Sent(Reply[Value]):
    """A message that is on its way to rigs, whether or not anybody waits for it."""

    def __init__(
        self,
        lab: object,
        services: RigServices,
        order: Order,
        push: Callable[[Order, Callable[[Outcome], object]], None] | None = None,
    ):
        super().__init__()
        self._lab = lab  # which is kept until every rig has answered
        self._services, self._order = services, order
        (push or services.push)(order, self._settle)

    def __repr__(self) -> str:
        outcome = "under way" if self._outcome is None else type(self._outcome).__name__
        return f"<{type(self).__name__} of {self._order.message.event.name} at {self.request_time!r}: {outcome}>"

    @property
    def request_time(self) -> float:
        """Unix time in seconds: its key in the coordinator's `log`."""
        return self._order.request_time

    @property
    def rigs(self) -> list[str]:
        """The rigs that it goes to, in their order."""
        return list(self._services if self._order.rigs is None else self._order.rigs)

    def cancel(self) -> None:
        """Take the message back from rigs that it has not been sent to: for them it ends as `Aborted`.

        What has been sent is not undone. EXPINTERRUPT stops what runs, and calls off what waits for its instant.
        """
        with contextlib.suppress(NotRunning):  # closed, which has taken it back
            self._services.on_loop(self._services.withdraw_queued, self.request_time)

    def _runs_here(self) -> bool:
        return self._services.runs_here

    def _late(self, timeout: float | None) -> TimeoutError:
        names = ", ".join(self._services.outstanding(self.request_time) or self.rigs)
        problem = f"no answer to {self._order.message.event.name} within {timeout:g} s; it goes on: wait for it again"
        return RigTimeout(names, problem)

    def _begin_to_wait(self) -> None:
        self._on_loop(self._services.note_wait, self.request_time, lambda: bool(self._waiting))

    def _look(self) -> None:
        self._on_loop(lambda: None)

    def _on_loop(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self._services.on_loop(function, *args)
        except NotRunning:  # the event loop is closed, and the coordinator was not
            self._settle(self._services.abort(self._order))


class Push(Sent[PushResult]):
    """A message on its way to rigs; see `Coordinator.push`, which makes it.

    ``await push`` gives the `PushResult`, or raises the `PushError` that holds it. The message is on its way whether or
    not anybody awaits it, and goes on where who awaits it is cancelled.
    """

    async def outcome(self) -> Outcome:
        """Wait until every rig has answered or failed, and return what became of it, an error too."""
        outcome: Outcome = await self._come()
        return outcome

    async def __aiter__(self) -> AsyncIterator[tuple[str, list[Any] | RigError]]:
        """Go through the rigs as they answer, on the coordinator's event loop.

        Yields
        ------
        rig : str
            Its name.
        outcome : list or RigError
            What follows the event in its answer, or why there is none.

        Raises
        ------
        RuntimeError
            On another event loop, where a push can only be awaited.
        """
        if not self._services.runs_here:
            raise RuntimeError("go through a push's rigs on the event loop of its coordinator; here, await the push")
        come: asyncio.Queue[tuple[str, list[Any] | RigError]] = asyncio.Queue()

        def note(event: RigSettled) -> None:
            if event.request_time == self.request_time:
                come.put_nowait((event.rig, event.outcome))

        unsubscribe = self._services.hub.rule(RigSettled, note)
        try:
            known = self._services.tell_each(self.request_time)
            if known is None:  # every rig has answered by now
                outcome = await self.outcome()
                result = outcome.result if isinstance(outcome, PushError) else outcome
                known = {**result, **result.failed}
            for each in known.items():
                yield each
            told = set(known)
            while len(told) < len(self.rigs):
                rig, outcome_of_rig = await come.get()
                if rig not in told:  # else it was known, and the event of it had waited
                    told.add(rig)
                    yield rig, outcome_of_rig
        finally:
            unsubscribe()

    def _value(self, outcome: Outcome) -> PushResult:
        if isinstance(outcome, PushError):
            # Not the one in the log, to which the traceback would tie all that the caller holds.
            raise outcome.result.as_error()
        return outcome


class Call(Sent[Any]):
    """A call on its way to a rig; see `Coordinator.call_nowait`, which makes it.

    ``await call`` gives the value that the function on the rig returns, or raises what `Coordinator.call` does. On
    another thread ``call.result()`` does the same.
    """

    def _value(self, outcome: Outcome) -> Any:
        (rig,) = self.rigs
        if isinstance(outcome, PushError):
            raise copy(outcome.failed[rig])  # not the one in the log
        return outcome[rig][0]
