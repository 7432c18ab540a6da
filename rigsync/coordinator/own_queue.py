"""Pushes of a subclass of `Auxiliaries` that makes its services or serves its queue itself, as iblrig's class does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rigsync.coordinator.faces import shown
from rigsync.coordinator.results import ResultLog, draw_request_time
from rigsync.coordinator.service import RigServices
from rigsync.core.arguments import compose, validate_event
from rigsync.core.orders import Asked
from rigsync.core.rigs import Room
from rigsync.errors import LoopStuck
from rigsync.runtime.conditions import Arrivals


class OwnQueue:
    """The queue of one object, from which each message is taken when its outcome is in the log."""

    def __init__(
        self, owner: str, queued: dict[float, list[Any]], log: ResultLog, response_received: Arrivals, room: Room
    ):
        self._owner, self._queued, self._log, self._received = owner, queued, log, response_received
        self._room = room

    def push(self, asked: Asked, wait: bool, limit: float) -> Any:
        """Queue a message; wait for its outcome so many seconds at most, if that is asked for.

        Raises
        ------
        ValueError
            More is asked than the message and its arguments.
        LoopStuck
            The outcome does not come.
        """
        compose(asked.message, *asked.args, room=self._room)  # for its errors
        if any(part is not None for part in (asked.rigs, asked.timeout, asked.at, asked.delay)) or asked.patience:
            raise ValueError(f"{self._owner} serves its queue itself: push takes message and arguments alone")
        event, request_time = validate_event(asked.message), draw_request_time()
        with self._received:
            self._queued[request_time] = [shown(event), asked.args, {}]
            if not wait:
                return request_time
            if not self._received.wait_for(lambda: request_time in self._log, limit):
                raise LoopStuck(f"{self._owner} has not answered {event.name} in time; look at its listen")
            return self._log[request_time]

    async def serve(self, services: RigServices, is_over: Callable[[], bool], pause: Callable[[], float]) -> None:
        """Send what is queued through services that the subclass has made, one message after the other."""
        while not is_over():
            for request_time in sorted(self._queued):
                event, args, _ = self._queued[request_time]
                message = [event, *compose(event, *args, room=self._room).args]
                try:
                    outcome: Any = await services._signal(event, "confirmed_send", message)
                except Exception as error:
                    outcome = error
                self._queued.pop(request_time, None)
                self._log.file(request_time, outcome)
                self._received.announce()
            await asyncio.sleep(pause())
