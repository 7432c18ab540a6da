"""The ZeroMQ bridge: all that happens is published, and what is asked is done."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from rigsync.bridges.asking import AskedBridge, power_over
from rigsync.bridges.requests import read_request
from rigsync.bridges.telling import pictures
from rigsync.bridges.zmq.history import History
from rigsync.bridges.zmq.sockets import Keys, Sockets, is_local, zmq_address
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.coordinator.coordinator import Coordinator
from rigsync.core.events import Event
from rigsync.hub.bounded import superseding_key
from rigsync.hub.documents import document_of, json_of, json_within
from rigsync.rig.rig import Rig

logger = logging.getLogger("rigsync.bridge")

PUB = "tcp://127.0.0.1:5556"
"""Where a bridge publishes unless told otherwise: nobody from elsewhere reaches it."""
REP = "tcp://127.0.0.1:5555"
"""Where it is asked."""
MOST_TOLD = 64 << 10
"""Bytes of JSON in an event. Beyond it large parts are left out: as many as that may wait for each subscriber."""
BEAT = 1.0
"""Seconds between two tellings of the newest sequence number, by which a subscriber knows that it missed the last."""


class ZmqBridge(AskedBridge[list[bytes]]):
    """Publishes what happens by ZeroMQ, and takes requests in JSON; docs/bridges.md has them.

    A context manager: ``with`` for an `Auxiliaries` or a `Rig`, ``async with`` on its event loop.

    Parameters
    ----------
    lab : Auxiliaries, Coordinator or Rig
        Who commands the rigs; or a rig, for which the bridge only tells what happens. It has to be open.
    pub, rep : str
        ``tcp://address:port`` where it publishes, and where it is asked. Without keys, whoever reaches the latter
        commands the rigs. With port 0 the system chooses one.
    curve : mapping, optional
        ``secret_key``, a file of `zmq.auth.create_certificates` that nobody else may read, and ``clients``, the public
        keys of the programs that may connect: no others do then.

    Raises
    ------
    ConfigError
        An address or a key is malformed.

    Examples
    --------
    >>> with Auxiliaries({"cameras": "udp://192.168.1.20:11001"}) as aux, ZmqBridge(aux) as bridge:
    ...     print("subscribe to", bridge.pub, "and ask", bridge.rep)
    """

    name = "ZeroMQ bridge"

    def __init__(
        self,
        lab: Auxiliaries | Coordinator | Rig,
        pub: str = PUB,
        rep: str = REP,
        curve: Mapping[str, Any] | None = None,
    ):
        super().__init__(lab)
        self._pub, self._rep = zmq_address(pub), zmq_address(rep)
        self._keys = None if curve is None else Keys(curve)

    @property
    def pub(self) -> str:
        """Where it publishes, with the port that the system chose."""
        return str(self._pub)

    @property
    def rep(self) -> str:
        """Where it is asked, with the port that the system chose."""
        return str(self._rep)

    async def _open(self) -> None:
        self._await_requests()
        self._history = History()
        self._run = secrets.token_hex(8)
        self._alarm: asyncio.Handle | None = None
        self._sockets = Sockets(self._keys, lambda who: self._note("turned away", f"{who}: its key is unknown"))
        self._ends.append(self._stop)
        self._pub, self._rep = await self._sockets.open(self._pub, self._rep, self._receive)
        logger.info("%s publishes on %s and is asked on %s", self.name, self.pub, self.rep)
        for at in {self._pub, self._rep} if not self._keys else ():
            if not is_local(at):
                text = (
                    "%s listens on %s, beyond this computer and without keys: whoever reaches that port %s, or hears "
                    "all; listen on 127.0.0.1, or write keys under curve:"
                )
                logger.warning(text, self.name, at, power_over(self.lab))
        self._beat()

    def _stop(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        self._sockets.close()

    # ---------------------------------------------------------------------------------------------------- going out

    def _tell(self, event: Event) -> None:
        document = {"run": self._run, "sequence": self._history.sequence + 1, **document_of(event)}
        data = json_within(MOST_TOLD, document).encode()
        rig = document.get("rig")
        topic = f"{type(event).__name__}.{rig if isinstance(rig, str) else ''}"
        self._sockets.publish(topic.encode(errors="replace"), data)
        self._history.put(data, superseding_key(event, self.hub.boundary))  # nobody can ask for it before this returns

    def _beat(self) -> None:
        self._alarm = self._loop.call_later(BEAT, self._beat)
        self._sockets.publish(b"beat.", json_of({"run": self._run, "sequence": self._history.sequence}).encode())

    def _snapshot(self, place: tuple[Any, int] | None) -> bytes:
        """Return what has happened after a place, or how all is now where that cannot be told any more."""
        run, sequence = place or (None, 0)
        found = self._history.after(sequence) if run == self._run else None
        if found:
            events, sequence = found
            head = json_of({"run": self._run, "sequence": sequence}).encode()
            return head[:-1] + b',"events":[' + b",".join(events) + b"]}"
        if run == self._run and sequence < self._history.gone:
            self._note(
                "gone",
                f"a subscriber asks for what came after {sequence:,}: no longer kept; it gets the views instead",
            )
        now = {"run": self._run, "sequence": self._history.sequence, "views": pictures(self.lab), "events": []}
        return json_of(now).encode()

    # ------------------------------------------------------------------------------------------------------ coming in

    def _receive(self, parts: list[bytes]) -> None:
        *envelope, data = parts
        with self._answered(envelope):
            request = read_request(data)
            if request.verb == "snapshot":
                self._sockets.answer([*envelope, self._snapshot(request.what)])
            elif request.verb == "views":
                self._answer(envelope, {"views": pictures(self.lab)})
            else:
                asking = request.done_by(self._asking)
                self._do(envelope, asking, lambda found: self._answer(envelope, request.answer(found)))

    def _refuse(self, where: list[bytes], problem: str) -> None:
        self._answer(where, {"error": problem})

    def _answer(self, envelope: list[bytes], document: Mapping[str, Any]) -> None:
        self._sockets.answer([*envelope, json_of(document).encode()])
