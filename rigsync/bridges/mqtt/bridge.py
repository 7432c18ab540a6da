"""The MQTT bridge: it publishes all that happens at a broker, which keeps the present picture of each rig."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import socket
import time
from collections import deque
from operator import attrgetter
from typing import Any

from rigsync._text import printable
from rigsync.bridges.asking import AskedBridge, Refused
from rigsync.bridges.requests import json_object, request_of
from rigsync.bridges.telling import picture_of, view_of
from rigsync.config.address import parse_broker
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.coordinator.coordinator import Coordinator
from rigsync.coordinator.view import RigView
from rigsync.core.events import Event
from rigsync.core.rigs import LONGEST_NAME
from rigsync.core.throttle import Throttle
from rigsync.errors import ConfigError
from rigsync.hub.documents import document_of, json_of, json_within
from rigsync.net.mqtt import topic_name
from rigsync.net.mqtt_broker import AnswerTo, Will
from rigsync.net.mqtt_client import OVERHEAD, MqttClient
from rigsync.rig.rig import Rig
from rigsync.runtime.program import this_program

logger = logging.getLogger("rigsync.bridge")

MOST_TOLD = 64 << 10
"""Most bytes of JSON in a message. Beyond that, or beyond what the broker takes, large parts are left out."""
PAUSE = 1.0
"""Seconds between two pictures of a rig."""
AT_ONCE = 16
"""Most pictures that are told before other things have their turn."""
RENEWED = 60.0
"""Seconds after which an unchanged picture is told again. Fields that each probe changes do not count as a change."""
_WILD = frozenset("+#")
_NOWHERE = AnswerTo("", b"")
_COMPUTED = ("owner_heard", "interrupts_at")
_INSTANTS = attrgetter(*_COMPUTED)
"""Fields that are computed anew each time, to the microsecond; they count as changed only from or to None."""
_EACH_PROBE = frozenset({"heard", "round_trip", "clock", "loss", "late_answers", *_COMPUTED})
_LASTING = attrgetter(*(field.name for field in dataclasses.fields(RigView) if field.name not in _EACH_PROBE))


class MqttBridge(AskedBridge[AnswerTo]):
    """Publishes what happens at an MQTT broker, with the picture of each rig; docs/bridges.md lists the topics.

    A context manager: ``with`` for an `Auxiliaries` or a `Rig`, ``async with`` on its event loop. It opens even while
    the broker is away, and goes on when the broker is back.

    Parameters
    ----------
    lab : Auxiliaries, Coordinator or Rig
        Who commands the rigs; or a rig, for which the bridge only tells what happens. It has to be open.
    broker : str
        ``mqtt://host:port/prefix``, or ``mqtts://`` for TLS.
    commands : bool
        Whether it takes messages and commands for the rigs, from whoever may publish on ``PREFIX/push/#`` and
        ``PREFIX/call/#`` there.

    Raises
    ------
    ConfigError
        The address is malformed, a file with a password or certificate cannot be read, or a rig is to take commands.

    Examples
    --------
    >>> with Auxiliaries({"cameras": "udp://192.168.1.20:11001"}) as aux, MqttBridge(aux, "mqtt://broker/lab"):
    ...     input("mosquitto_sub -h broker -t 'lab/#' shows what happens; press Enter to end")
    """

    name = "MQTT bridge"

    def __init__(self, lab: Auxiliaries | Coordinator | Rig, broker: str, commands: bool = False):
        super().__init__(lab)
        self._of = lab.name if isinstance(lab, Rig) else None
        if self._of and commands:
            raise ConfigError(f"rig {self._of} takes no commands by its bridge: its coordinator commands it")
        self._broker, self._commands = parse_broker(broker), commands
        self._prefix = self._broker.prefix

    async def _open(self) -> None:
        self._await_requests()
        self._from = {"host": socket.gethostname(), "program": this_program(), "run": secrets.token_hex(8)}
        self._sequence = 0
        self._rigs = frozenset([self.lab.name] if isinstance(self.lab, Rig) else self.lab.views)
        self._throttle: Throttle[str] = Throttle(PAUSE)
        self._due: deque[str] = deque()
        self._shown: dict[str, tuple[tuple[Any, ...], float]] = {}
        self._alarm: asyncio.Handle | None = None
        self._presence = self._topic("bridges", self._from["run"])
        will = Will(self._presence, b"")  # an empty message, at which the broker forgets the topic
        self._client = MqttClient(
            self._broker, lambda *_: None, changed=self._note_broker, requested=self._receive, will=will
        )
        self._ends.append(self._stop)
        logger.info("%s publishes at %s", self.name, self._broker)
        if self._commands:
            topics = [f"{self._prefix}/{verb}/+" for verb in ("push", "call")]
            text = "%s takes commands on %s at %s: whoever may publish there commands the rigs; set its access list"
            logger.warning(text, self.name, " and ".join(topics), self._broker)
            self._client.subscribe(topics)  # with QoS 0: no request comes twice

    def _stop(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        for topic in (*(self._topic("views", rig) for rig in self._shown), self._presence):
            self._client.publish(topic, b"", qos=1, retain=True)
        self._client.close()

    def _topic(self, *names: str) -> str:
        return "/".join([self._prefix, *(topic_name(printable(name)[:LONGEST_NAME]) for name in names)])

    def _note_broker(self, problem: str | None) -> bool:
        """Take note of a problem, or with None that the broker is there; return whether the problem is logged here."""
        if problem and self._client.is_connected:
            self._note("denied", f"the broker {self._broker}: {problem}")
            return True
        if problem:
            self.counts["broker"] += 1
            return False
        self._publish(self._presence, {**self._from, "rigs": sorted(self._rigs), "time": time.time()}, retain=True)
        self._shown = dict.fromkeys(self._shown, ((), 0.0))  # so each is told again, and removed at the end
        for rig in self._rigs:
            self._note_changed(rig)
        return False

    def _publish(self, topic: str, document: dict[str, Any], retain: bool = False) -> bool:
        room = min(MOST_TOLD, self._client.limit - len(topic.encode()) - OVERHEAD)
        return self._send(topic, json_within(room, document), retain=retain)

    def _send(self, topic: str, text: str, correlation: bytes = b"", **options: Any) -> bool:
        """Publish, and return whether the client has taken the message."""
        data = text.encode()
        leaves = self._client.publish(topic, data, qos=1, correlation=correlation, **options)
        if not leaves:
            waiting = f"{self._client.unsent:,} messages wait for the broker, which takes no more"
            largest = f"the broker takes at most {self._client.limit:,} in a packet"
            size = len(topic.encode()) + len(data) + len(correlation) + OVERHEAD
            why = largest if size > self._client.limit else waiting
            self._note("left out", f"{topic}, {len(data):,} bytes, is left out: {why}")
        return leaves

    def _tell(self, event: Event) -> None:
        self._sequence += 1
        document = {"from": self._from, "sequence": self._sequence, **document_of(event)}
        rig = document["rig"] = document.get("rig") or self._of
        about = [rig] if isinstance(rig, str) and rig else []
        self._publish(self._topic("events", type(event).__name__, *about), document)
        for each in about:
            if each in self._rigs:
                self._note_changed(each)

    # ------------------------------------------------------------------------------------------------------ coming in

    def _receive(self, topic: str, data: bytes, is_retained: bool, to: AnswerTo) -> None:
        below = f"{self._prefix}/answers/"
        may_answer = not to.topic or (to.topic.startswith(below) and _WILD.isdisjoint(to.topic))
        with self._answered(to if may_answer else _NOWHERE):
            verb, name = topic.split("/")[-2:]
            if is_retained:
                raise Refused(f"{topic} is retained, and would be done again and again: publish it without that")
            if not may_answer:  # the broker may let this bridge publish where the sender may not
                raise Refused(f"an answer goes below {below}, not to {to.topic}")
            request = request_of({**(json_object(data) if data else {}), verb: name})
            self._do(to, request.done_by(self._asking), lambda found: self._answer(to, request.answer(found)))

    def _refuse(self, where: AnswerTo, problem: str) -> None:
        self._answer(where, {"error": problem})

    def _answer(self, to: AnswerTo, document: dict[str, Any]) -> None:
        if to.topic and not self._send(to.topic, json_of(document), correlation=to.correlation):
            problem = "the outcome is known, but its answer is too large for the broker, or too much waits for it"
            self._send(to.topic, json_of({"error": problem}), correlation=to.correlation)

    # ------------------------------------------------------------------------------------------------------ pictures

    def _note_changed(self, rig: str) -> None:
        if self._throttle.note(rig, self._loop.time()):
            self._due.append(rig)
        self._arm()

    def _arm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if self._due:
            self._alarm = self._loop.call_soon(self._ring)
        elif self._throttle.is_waiting:
            self._alarm = self._loop.call_at(self._throttle.next_timer(), self._ring)

    def _ring(self) -> None:
        self._due.extend(self._throttle.take(self._loop.time()))
        for _ in range(min(AT_ONCE, len(self._due))):
            self._show(self._due.popleft())
        self._arm()

    def _view(self, rig: str) -> RigView | None:
        """Return how a rig is; None where that is not known any more."""
        if isinstance(self.lab, Rig):
            return view_of(self.lab)
        services = self.lab.services
        return services.view(rig) if services else None

    def _show(self, rig: str) -> None:
        """Tell how a rig is, unless the broker knows. A broker that is away gets all pictures when it is back."""
        if not self._client.is_connected or not (view := self._view(rig)):
            return
        now = self._loop.time()
        lasting = *_LASTING(view), *(each is None for each in _INSTANTS(view))
        before, told_at = self._shown.get(rig, (None, 0.0))
        if lasting != before or now >= told_at + RENEWED:
            document = {"from": self._from, "time": time.time(), "rig": rig, **picture_of(view)}
            if self._publish(self._topic("views", rig), document, retain=True):
                self._shown[rig] = lasting, now
            else:
                self._note_changed(rig)
