"""The end of a coordinator: rigs that it has started and not told to end are interrupted, and ends are waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from rigsync.alerts.alerting import Alerts
from rigsync.coordinator.course import Course
from rigsync.coordinator.failures import Started
from rigsync.coordinator.push import Push
from rigsync.coordinator.service import RigServices
from rigsync.core.arguments import compose
from rigsync.core.enums import ExpMessage
from rigsync.core.events import PushCompleted
from rigsync.core.orders import Order
from rigsync.errors import BusyError, NotRunning, PushError
from rigsync.runtime.waiters import comes_true

logger = logging.getLogger("rigsync.auxiliaries")

STOP_TIMEOUT = 1.2
"""Seconds, when a coordinator closes, for interrupting rigs that were started and not ended, and for the answers of
those that are told to end."""
STOP_GRACE = 0.3
"""Seconds more for an iblutil rig, whose pause comes first."""
UNENDED = {"error": "Closed", "message": "the program that started the rig closed without EXPEND"}
"""What such rigs are told."""


class Closing:
    """Stops what a coordinator has started, when it closes or is let go, unless that is to go on recording."""

    def __init__(self, services: RigServices, leave_running: bool, alerts: Alerts):
        self._services, self._leave_running, self.alerts = services, leave_running, alerts
        self._started = Started(services.hub)

    def _take_started(self) -> list[str]:
        """Return the rigs that are to be interrupted, and forget them."""
        return [] if self._leave_running else self._started.take(self._services)

    def _order(self, rigs: list[str]) -> Order:
        return self._services.order(compose(ExpMessage.EXPINTERRUPT, UNENDED), rigs, STOP_TIMEOUT)

    def interrupt(self, unfinished: Iterable[Course[Any, Any]]) -> Push | None:
        """Interrupt rigs that were started and not told to end, if there are any. It has left when this returns.

        The unfinished experiments, which have not been left, do not interrupt these rigs again.
        """
        if not (rigs := self._take_started()):
            return None
        for experiment in list(unfinished):
            experiment.leave_to_closing(rigs)
        try:
            return Push(self, self._services, self._order(rigs))
        except (NotRunning, ValueError) as error:  # the pause is invalid
            logger.error("%s may go on recording: %s", ", ".join(rigs), error)  # noqa: TRY400
            return None

    async def stop(self, unfinished: Iterable[Course[Any, Any]]) -> None:
        """Interrupt as `interrupt` does; wait for that, and for the answers to other messages that end a recording.

        Alerts that wait are told then.
        """
        await self._stop(unfinished)
        await self.alerts.finish()

    async def _stop(self, unfinished: Iterable[Course[Any, Any]]) -> None:
        interrupt = self.interrupt(unfinished)  # which has left, whenever this is cancelled

        def goes_on(interrupt: Push) -> bool:  # its outcome is handed over when the journal has it
            return not interrupt.done and self._services.is_pending(interrupt.request_time)

        def is_over() -> bool:
            return not (interrupt and goes_on(interrupt)) and not self._services.is_ending()

        limit = STOP_TIMEOUT + STOP_GRACE if interrupt else STOP_TIMEOUT
        await comes_true(is_over, self._services.hub, [PushCompleted], limit)  # the log tells which have not answered
        if interrupt and goes_on(interrupt):
            reason = "their pause was longer than the time to close"
            logger.error("%s may go on recording: %s", ", ".join(interrupt.rigs), reason)
        elif interrupt and isinstance(outcome := await interrupt.outcome(), PushError):
            failed = {rig: error for rig, error in outcome.failed.items() if not self._services[rig].has_ended}
            unmoved = [rig for rig, failure in failed.items() if not isinstance(failure, BusyError)]
            if unmoved:  # why, the log has told
                logger.error("%s may go on recording", ", ".join(unmoved))

    def let_go(self, ends_hub: bool) -> None:
        """Stop what was started and close, soon, on the event loop: nobody refers to the coordinator any more."""
        try:
            # Never at once: garbage may be collected in the middle of whatever the services do.
            self._services.on_loop(lambda: asyncio.get_running_loop().call_soon(self._stop_and_close, ends_hub))
        except NotRunning:  # closed with its event loop
            if rigs := self._take_started():
                text = "%s may go on recording: the event loop was closed before the coordinator"
                logger.error(text, ", ".join(rigs))  # noqa: TRY400 - the text says all

    def _stop_and_close(self, ends_hub: bool) -> None:
        def close(_: object = None) -> None:
            self._services.close()
            if ends_hub:
                self._services.hub.end()

        if not self._services.is_open:
            return
        if rigs := self._take_started():
            # The rest when all of it is told.
            self._services.push(self._order(rigs), lambda _: asyncio.get_running_loop().call_soon(close))
        else:
            close()
