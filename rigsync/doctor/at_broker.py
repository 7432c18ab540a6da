"""A rig at a broker: the doctor's line to it, and its finding if the rig does not answer there."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator
from typing import Any

from rigsync.core.coordinators import Standing
from rigsync.core.rigs import RigConfig
from rigsync.doctor.evidence import Evidence
from rigsync.doctor.lines import Line
from rigsync.errors import RemoteProtocolError
from rigsync.net.endpoint import mqtt_module


class BrokerLine(Line):
    """A line by way of a broker; `boot` is the doctor's. It receives as a `rigsync.net.mqtt.BrokerPump`."""

    def __init__(self, rig: RigConfig, boot: str):
        super().__init__()
        self.reason: str | None = None
        """Why the broker, or the rig there, cannot be reached."""
        self._news_of_broker = asyncio.Event()
        self._rigs: Any = mqtt_module().RigsAtBroker(self, rig.address, boot, self._note)
        self._line = self._rigs.line((rig.name,), rig.address.prefix)

    async def is_there(self, patience: float) -> bool:
        """Wait up to so many seconds for the broker; return whether it is there."""
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self._news_of_broker.wait(), patience)
        return bool(self._rigs.client.is_connected)

    def send(self, data: bytes) -> None:
        self._line.send(self._line.name, data)

    def close(self) -> None:
        self._rigs.close()

    def _note(self, problem: str | None) -> bool:
        if problem:
            self.reason = f"the broker {self._rigs.client.broker}: {problem}"
        self._news_of_broker.set()
        return True  # a finding tells it

    def receive(self, data: bytes, _source: Any) -> None:
        self._keep(data)

    def lose(self, _line: Any, reason: str) -> None:
        self.reason = reason

    def reject(self, _source: Any, error: RemoteProtocolError) -> None:
        self._keep(error)

    def refuse(self, line: Any) -> None: ...

    def show_life(self, line: Any) -> None: ...

    def standing(self, _head: bytes, _source: Any) -> Standing:
        return Standing.STRANGER


@contextlib.asynccontextmanager
async def broker_line(rig: RigConfig, boot: str) -> AsyncIterator[BrokerLine]:
    """Open a line to a rig at its broker; the errors are `Endpoint.connect_by_broker`'s."""
    line = BrokerLine(rig, boot)
    try:
        yield line
    finally:
        line.close()


def at_broker(evidence: Evidence) -> tuple[str, ...]:
    """Return signs, meaning and remedy for a rig that does not answer at its broker."""
    address = evidence.rig.address
    return (
        evidence.broker or f"no answer to {evidence.probes} probes by way of the broker {address}",
        "rig and task meet at that broker, and one of them does not get there, or the rig's program hangs",
        "start the rig's program, with the broker, the prefix and the name that stand in the file of rigs",
        "see which rigs the broker knows (-u and -P for user and password):",
        f"$ mosquitto_sub -h {address.host} -p {address.port} -t {shlex.quote(address.prefix + '/+/view')} -v",
    )
