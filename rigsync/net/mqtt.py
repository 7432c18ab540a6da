"""Frames by way of a broker: the lines of a coordinator to its rigs, and the place where a rig hears coordinators.

The topics are those of docs/protocol.md: a rig hears ``PREFIX/RIG/in``, answers on ``PREFIX/RIG/out/BOOT`` of the
coordinator, and has its picture, retained, on ``PREFIX/RIG/view``. The dialect sends again what is lost, so frames have
QoS 0. Pictures have QoS 1, and so has the first probe to a rig on a connection: with QoS 1 alone, the broker says that
it does not take a message, or that nobody hears it. Nothing of a connection leaves on the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rigsync._text import one_line
from rigsync.core import messages
from rigsync.core.rigs import MAX_DATAGRAM, Address
from rigsync.errors import ListenError, RemoteProtocolError
from rigsync.net.lines import Address as Source
from rigsync.net.lines import Line, Listener, Pump, label
from rigsync.net.mqtt_broker import Will
from rigsync.net.mqtt_client import MqttClient

logger = logging.getLogger("rigsync.endpoint")

LARGEST = 2 * MAX_DATAGRAM
"""Bytes of the largest message that a broker may send here. A frame, with the host of its sender, has at most half as
many."""
BROKER_PATIENCE = 4.0
"""Seconds that a broker may be away before its rigs count as lost for that reason. A broker that is started again is
back within them."""
CLAIM = 0.2
"""Seconds that a rig waits before it serves, in case another one serves under the same name."""
CLAIM_AGAIN = 5.0
"""Seconds between two attempts of a rig whose name another one has."""
_HEAD = 64
_HOST = re.compile(rb'"host":"([^"\\\x00-\x1f]{1,100})"\}\Z')


def topic_name(rig: str) -> str:
    """Return the name of a rig as a level of a topic, with the characters escaped that mean something there."""
    return re.sub(r"[%+#/]", lambda found: f"%{ord(found[0]):02X}", rig)


def _instead(data: bytes, kind: str, limit: int, broker: Address) -> bytes | None:
    """Return a failure in place of a frame that is too large for the broker; None if the frame is of another kind."""
    if (told := messages.told_frame(data, kind)) is None:
        return None
    boot, n = told
    frame = json.loads(data)
    sender, to = (boot, frame.get("to")) if kind == "reply" else (frame.get("to"), boot)
    was = "the message was run, and its answer" if kind == "reply" else "nothing was run: the message"
    problem = (
        f"{was} takes {len(data):,} bytes, of which the broker {broker} carries at most {limit:,}; raise its largest "
        "packet size, or send a path to the data instead"
    )
    return messages.failure(sender, n, "PayloadTooLarge", problem, "", to) if sender else None


class BrokerPump(Pump, Protocol):
    """The receiver of the reports of lines at a broker."""

    def lose(self, line: Any, reason: str) -> None:
        """Report that the way to a rig has ended, and why."""


class RigsAtBroker:
    """All that a coordinator says to its rigs at one broker, by one client; `boot` is the coordinator's.

    `changed` is that of `MqttClient`.
    """

    def __init__(
        self,
        pump: BrokerPump,
        broker: Address,
        boot: str,
        changed: Callable[[str | None], object] = lambda _: None,
    ):
        self._pump, self._broker, self._boot, self._told = pump, broker, boot, changed
        self._host = json.dumps(socket.gethostname()[:80]).encode("ascii")
        self._lines: dict[str, MqttLine] = {}
        self._unsure: set[str] = set()
        """Topics on which no probe has left on this connection."""
        self._loop = asyncio.get_running_loop()
        self._giving_up: asyncio.TimerHandle | None = None
        self.client = MqttClient(
            broker, self._heard, changed=self._changed, unheard=self._unheard, keeps=False, largest=LARGEST
        )

    def line(self, name: Any, prefix: str) -> MqttLine:
        """Return the line to a rig with a prefix of topics; `name` is the core's name for it."""
        base = f"{prefix}/{topic_name(label(name))}"
        line = self._lines[base] = MqttLine(self, name, base)
        self.client.subscribe([f"{prefix}/+/out/{self._boot}", f"{base}/view"])
        self._unsure.add(base)
        return line

    def send(self, line: MqttLine, data: bytes) -> None:
        if len(data) > self.client.limit - len(line.base) - 200:
            if instead := _instead(data, "request", self.client.limit, self._broker):
                self._loop.call_soon(self._pump.receive, instead, line.name)
            return
        asks = line.base in self._unsure and b'"kind":"probe"' in data[:_HEAD]
        data = b'%s,"host":%s}' % (data[:-1], self._host)
        if self.client.publish(f"{line.base}/in", data, qos=int(asks)) and asks:
            self._unsure.discard(line.base)

    def close(self) -> None:
        self._stop_giving_up()
        self.client.close()

    def _heard(self, topic: str, data: bytes, _is_retained: bool) -> None:
        base, _, kind = topic.removesuffix(f"/out/{self._boot}").rpartition("/")
        if kind == "view" and topic.endswith("/view"):
            if (line := self._lines.get(base)) and (reason := line.gone(data)):
                self._pump.lose(line.name, reason)
        elif line := self._lines.get(f"{base}/{kind}"):  # rigs of others with this prefix, and junk, have no line
            line.boot = messages.sender_of(data[:_HEAD]) or line.boot
            self._pump.receive(data, line.name)

    def _changed(self, problem: str | None) -> object:
        if problem is None:
            self._unsure.update(self._lines)
            self._stop_giving_up()
        elif not self.client.is_connected and self._giving_up is None:
            self._giving_up = self._loop.call_later(BROKER_PATIENCE, self._give_up, problem)
        return self._told(problem)

    def _stop_giving_up(self) -> None:
        if self._giving_up:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self, problem: str) -> None:
        for line in self._lines.values():
            self._pump.lose(line.name, f"the broker {self._broker}: {problem}")

    def _unheard(self, topic: str) -> None:
        if line := self._lines.get(topic.removesuffix("/in")):
            self._unsure.add(line.base)
            problem = f"nobody listens on {topic} at the broker; start the rig's program, or correct its name or prefix"
            self._pump.lose(line.name, problem)


class MqttLine(Line):
    """The way to one rig at a broker."""

    def __init__(self, rigs: RigsAtBroker, name: Any, base: str):
        self._rigs, self.name, self.base = rigs, name, base
        self.boot: str | None = None
        """The boot number of the rig's process, once it was heard."""

    def send(self, line: Any, data: bytes) -> None:
        self._rigs.send(self, data)

    def gone(self, picture: bytes) -> str | None:
        """Return why the rig has gone, if its picture says so."""
        view = _view(picture)
        if view is None or view.get("connected") is not False or self.boot not in (None, view.get("boot")):
            return None
        return f"the broker says that it has gone: {one_line(str(view.get('reason')))[:200]}"


def _view(data: bytes) -> dict[str, Any] | None:
    """Return the content of a rig's picture; None for anything else."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(view := json.loads(data), dict):
            return view
    return None


def _rank(view: Mapping[str, Any]) -> tuple[bool, float, str]:
    """Return the rank of a rig. The lower of one name stays: one in an experiment, or the one that began earlier."""
    return view.get("status") not in ("INITIALIZED", "RUNNING"), view["since"], str(view.get("boot"))


class MqttListener(Listener):
    """The place at a broker where a rig hears coordinators.

    Only one program serves under a name: a newcomer asks on the topic of the picture, and a program that serves then
    publishes its picture again.
    """

    def __init__(self, pump: Pump, at: Address, rig: str, boot: str, picture: Mapping[str, Any]):
        self._pump, self._at, self._rig, self._boot = pump, at, rig, boot
        self.address = at.host, at.port
        self._base = f"{at.prefix}/{topic_name(rig)}"
        self._since = time.time()
        self._picture = dict(picture)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._serves = self._has_served = self._yields = False
        self._next: asyncio.TimerHandle | None = None
        self._showing: asyncio.Handle | None = None
        will = Will(f"{self._base}/view", self._gone("the broker has lost its connection"))
        self._client = MqttClient(at, self._heard, changed=self._changed, will=will, keeps=False, largest=LARGEST)
        self._client.subscribe([f"{self._base}/view"])

    async def open(self) -> None:
        """Serve, or begin to try if the broker is not there yet.

        Raises
        ------
        ListenError
            The broker refuses, or another program serves under this name.
        """
        try:
            await self._opened
        except BaseException:
            self.close()
            raise

    def send(self, destination: Source, data: bytes) -> None:
        if len(data) > self._client.limit - len(self._base) - 200:
            if (instead := _instead(data, "reply", self._client.limit, self._at)) is None:
                return
            data = instead
        self._client.publish(f"{self._base}/out/{destination[2]}", data)

    def show(self, picture: Mapping[str, Any]) -> None:
        """Have the broker keep another picture of the rig."""
        self._picture.update(picture)
        self._show_soon(0.0)

    def close(self) -> None:
        for due in (self._next, self._showing):
            if due:
                due.cancel()
        if self._serves:
            self._client.publish(f"{self._base}/view", self._gone("it was closed"), qos=1, retain=True)
        self._client.close()

    # -------------------------------------------------------------------------------------------------- the name

    def _changed(self, problem: str | None) -> bool:
        """Begin to serve, or report the problem; return whether the problem is told here."""
        if problem is None:
            self._claim()
            return False
        self._serves = self._serves and self._client.is_connected
        if self._opened.done():
            return False
        if self._client.is_refused:
            self._opened.set_exception(ListenError(f"rig {self._rig} cannot listen on {self._at}: {problem}"))
        else:
            logger.warning("rig %s will listen as soon as the broker %s is there: %s", self._rig, self._at, problem)
            self._opened.set_result(None)
        return True

    def _claim(self) -> None:
        self._serves = False
        self._ask()
        self._again(CLAIM, self._serve)

    def _ask(self) -> None:
        # With QoS 1 the broker says if this rig may not publish there.
        self._publish({**self._picture, "name": self._rig, "boot": self._boot, "claims": self._since}, qos=1)

    def _again(self, seconds: float, function: Any) -> None:
        if self._next:
            self._next.cancel()
        self._next = self._loop.call_later(seconds, function)

    def _serve(self) -> None:
        self._next = None
        if self._client.is_connected:
            if self._yields:
                logger.warning("%s: the other program has gone; this one is heard now", self._rig)
            elif not self._has_served:
                logger.info("rig %s listens on %s", self._rig, self._at)
            self._has_served = True
            self._serves, self._yields = True, False
            self._client.subscribe([f"{self._base}/in"])
            self._show()
            if not self._opened.done():
                self._opened.set_result(None)

    def _note_view(self, data: bytes, is_retained: bool) -> None:
        view = _view(data) or {}
        if view.get("boot") == self._boot and (self._serves is view.get("connected", self._serves)):
            return
        is_other = not is_retained and view.get("boot") != self._boot  # and said so just now
        since = view.get("claims", view.get("since"))
        comes_first = isinstance(since, (int, float)) and _rank({**view, "since": since}) < self._rank
        if self._serves:
            if is_other and view.get("connected") is True and comes_first:  # the broker was late, or parted
                self._serves = False
                self._client.unsubscribe([f"{self._base}/in"])
                self._yield()
            else:  # the broker may now keep another picture than this rig's; who claims the name is answered at once
                self._show_soon(0.0 if "claims" in view else 0.1)
        elif is_other and (view.get("connected") is True or ("claims" in view and comes_first)):
            self._yield()
        elif is_other and "claims" in view and self._next:
            self._ask()

    @property
    def _rank(self) -> tuple[bool, float, str]:
        return _rank({**self._picture, "since": self._since, "boot": self._boot})

    def _yield(self) -> None:
        problem = (
            f"another program serves as rig {self._rig} on {self._at}; stop one of the two, or give one another name"
        )
        if not self._opened.done():
            self._opened.set_exception(ListenError(problem))
            return
        if not self._yields:
            self._yields = True
            logger.error("%s: %s; this one is not heard until then", self._rig, problem)
        self._again(CLAIM_AGAIN, self._claim)

    # ------------------------------------------------------------------------------------------------- picture

    def _show_soon(self, seconds: float) -> None:
        if self._showing is None:  # else it will be shown anyway
            self._showing = self._loop.call_later(seconds, self._show)

    def _show(self) -> None:
        self._showing = None
        if self._serves:
            base = {"rigsync": 1, "name": self._rig, "boot": self._boot, "connected": True, "since": self._since}
            self._publish({**base, **self._picture}, qos=1, retain=True)

    def _gone(self, reason: str) -> bytes:
        view = {"rigsync": 1, "name": self._rig, "boot": self._boot, "connected": False, "reason": reason}
        return json.dumps(view).encode("ascii")

    def _publish(self, view: Mapping[str, Any], **how: Any) -> None:
        self._client.publish(f"{self._base}/view", json.dumps(view).encode("ascii"), **how)

    # ------------------------------------------------------------------------------------------------- hearing

    def _heard(self, topic: str, data: bytes, is_retained: bool) -> None:
        if topic.endswith("/view"):
            self._note_view(data, is_retained)
            return
        boot, host = messages.sender_of(data[:_HEAD]), _HOST.search(data[-120:])
        named = host[1].decode("ascii", "replace") if host else f"by way of {self._at.host}"
        source = named, "mqtt", boot
        if boot is None:
            problem = f"{len(data):,} bytes on {topic}, which do not begin as a frame does"
            self._pump.reject(source, RemoteProtocolError("not a frame", problem))
        else:
            self._pump.receive(data, source)


async def open_mqtt_listener(pump: Pump, at: Address, rig: str, boot: str, picture: Mapping[str, Any]) -> MqttListener:
    """Open the place where a rig hears coordinators; see `MqttListener.open`."""
    listener = MqttListener(pump, at, rig, boot, picture)
    await listener.open()
    return listener
