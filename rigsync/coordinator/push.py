"""One push on an event loop: it can be awaited, and tells of each rig as that answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator
from typing import Any

from rigsync.coordinator.results import PushResult
from rigsync.coordinator.service import RigServices
from rigsync.core.events import RigSettled
from rigsync.core.orders import Order
from rigsync.errors import NotRunning, PushError, RigError
from rigsync.runtime.callbacks import resolve_future


class Push:
    """A message on its way to rigs; see `Coordinator.push`, which makes it.

    ``await push`` gives the `PushResult`, or raises the `PushError` that holds it. The message is on its way whether or
    not anybody awaits it, and goes on where who awaits it is cancelled.
    """

    def __init__(self, lab: object, services: RigServices, order: Order):
        self._lab = lab  # which is kept until every rig has answered
        self._services, self._order = services, order
        self._outcome: PushResult | PushError | None = None
        self._waiting: list[asyncio.Future[None]] = []
        services.push(order, self._settle)

    def __repr__(self) -> str:
        outcome = "under way" if self._outcome is None else type(self._outcome).__name__
        return f"<Push of {self._order.message.event.name} at {self.request_time!r}: {outcome}>"

    @property
    def request_time(self) -> float:
        """Unix time in seconds: the push's key in the coordinator's `log`."""
        return self._order.request_time

    @property
    def rigs(self) -> list[str]:
        """The rigs that it goes to, in their order."""
        return list(self._services if self._order.rigs is None else self._order.rigs)

    @property
    def done(self) -> bool:
        """Whether every rig has answered or failed."""
        return self._outcome is not None

    def cancel(self) -> None:
        """Take the message back from rigs that it has not been sent to: for them it ends as `Aborted`.

        What has been sent is not undone. EXPINTERRUPT stops what runs, and calls off what waits for its instant.
        """
        with contextlib.suppress(NotRunning):  # closed, which has taken it back
            self._services.on_loop(self._services.withdraw_queued, self.request_time)

    def __await__(self) -> Generator[Any, None, PushResult]:
        return self._result().__await__()

    async def outcome(self) -> PushResult | PushError:
        """Wait until every rig has answered or failed, and return what became of it, an error too."""
        if self._outcome is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)  # before it looks again: another thread may settle it
            try:
                if self._outcome is None:
                    services = self._services
                    try:
                        services.on_loop(services.note_wait, self.request_time, lambda: bool(self._waiting))
                    except NotRunning:  # the event loop is closed, and the coordinator was not
                        self._settle(services.abort(self._order))
                    await future
            finally:
                self._waiting.remove(future)
        assert self._outcome is not None  # noqa: S101 - `_settle` has set it
        return self._outcome

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

    async def _result(self) -> PushResult:
        outcome = await self.outcome()
        if isinstance(outcome, PushError):
            # Not the one in the log, to which the traceback would tie all that the caller holds.
            raise outcome.result.as_error()
        return outcome

    def _settle(self, outcome: PushResult | PushError) -> None:
        if self._outcome is None:  # one for all or none settles twice
            self._outcome = outcome
            for future in list(self._waiting):
                resolve_future(future, None)
