"""One client of an MQTT broker: a thin shell around paho-mqtt, which has a thread of its own.

On the running event loop::

    client = MqttClient(parse_uri("mqtts://broker.lab/rigs"), hear, changed=note)
    client.subscribe(["rigs/+/view"])  # now, and again at each connection
    client.publish("rigs/events/x", data, qos=1)  # False where it is left out
    client.close()  # what waits leaves, within `LINGER`

It calls `hear(topic, data, is_retained)` and `changed(problem)` on that loop, in the order of what happened. `changed`
gets None at each connection, and a text where the broker is lost or refuses something. Each text is logged once, until
the broker is back. The client connects again by itself, for ever. `net.mqtt_broker` has users, passwords and TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rigsync.core.rigs import Address
from rigsync.net.mqtt_broker import closed, explained, login, refusal, tls

try:
    from paho.mqtt.client import Client, MQTTMessage, MQTTv5
    from paho.mqtt.enums import CallbackAPIVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.subscribeoptions import SubscribeOptions
except ModuleNotFoundError as missing:
    text = "MQTT needs paho-mqtt, which is not installed: install the extra mqtt of rigsync, or pip install paho-mqtt"
    raise ModuleNotFoundError(text, name=missing.name) from missing

logger = logging.getLogger("rigsync.mqtt")

WAITING = 4096
"""Messages that wait to leave, and as many that have come and wait for the event loop. Any more are left out."""
WAITING_BYTES = 8 << 20
"""Bytes of these, each way."""
LARGEST = 1 << 20
"""Bytes of the largest message that the broker may send here, unless told otherwise."""
AT_ONCE = 16
"""Messages that the event loop handles before other things have their turn, and packets that the thread reads before it
writes."""
PATIENCE = 5.0
"""Seconds that connecting may take, and that the broker has to answer then."""
KEEPALIVE = 10
"""Seconds of silence after which the broker is asked whether it is there. It takes a client for lost after half as many
more."""
FIRST_RETRY = 0.1
LAST_RETRY = 4.0
"""Seconds between two attempts to connect, at first and at last; doubled each time, and up to half of it less, so that
not all clients come at once to a broker that is back."""
LINGER = 0.5
"""Seconds that what waits has to leave, at the end."""
MOST_SAID = 32
"""Most problems that are logged between two connections."""
NO_SUBSCRIBERS = 0x10
"""The reason code of a message that nobody has subscribed to (MQTT 5, section 3.4.2.1)."""
OVERHEAD = 64
"""Bytes of a packet beside topic and content."""


class Will(NamedTuple):
    """What the broker publishes, retained, when it loses this client."""

    topic: str
    data: bytes


class AnswerTo(NamedTuple):
    """Where the sender of a message wants an answer (MQTT 5, section 4.10)."""

    topic: str
    """Empty where it wants none."""
    correlation: bytes
    """What is to go with it."""


class _Message(NamedTuple):
    topic: str
    data: bytes
    qos: int
    retain: bool
    connection: int
    """The number of the connection on which it was to leave; with QoS 0 it leaves on no other."""
    properties: Properties | None


class MqttClient:
    """A connection to one broker, for all that a program says there; on the running event loop.

    Parameters
    ----------
    broker : Address
        The broker, as `rigsync.config.address.parse_uri` gives it.
    hear : callable
        Called with topic, content and whether it was retained, of each message.
    changed : callable
        Called with None when the broker is there, and with a text when it is not, or refuses a topic; that is logged
        unless True is returned.
    requested : callable, optional
        Called in place of `hear`, with an `AnswerTo` besides.
    unheard : callable
        Called with the topic of a message with QoS 1 that nobody has subscribed to.
    will : Will, optional
        What the broker publishes when it loses this client.
    largest : int
        Bytes of the largest message that the broker may send.

    Raises
    ------
    ConfigError
        A file that the environment names cannot be read, or others may read the password.
    """

    def __init__(
        self,
        broker: Address,
        hear: Callable[[str, bytes, bool], object],
        *,
        changed: Callable[[str | None], object] = lambda _: None,
        requested: Callable[[str, bytes, bool, AnswerTo], object] | None = None,
        unheard: Callable[[str], object] = lambda _: None,
        will: Will | None = None,
        largest: int = LARGEST,
    ):
        self.broker = broker
        self._hear, self._changed, self._requested, self._unheard = hear, changed, requested, unheard
        self._loop = asyncio.get_running_loop()
        self.is_connected = False
        self.is_refused = False
        """Whether the broker is there and has refused this client, or a topic, at last."""
        self.limit = 1 << 28
        """Bytes of the largest packet that the broker takes."""
        self.left_out = 0
        """Messages from the broker that were left out, since the event loop was behind."""
        self._connections = 0
        self._topics: dict[str, int] = {}
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...], int]] = deque()
        self._came = self._taken = self._came_bytes = self._taken_bytes = 0  # each is changed by one thread alone
        self._is_due = False
        self._outbox: deque[_Message | tuple[bool, list[str]]] = deque()
        self._put = self._gone = self._put_bytes = self._gone_bytes = 0
        self._unconfirmed: dict[int, _Message] = {}
        self._asked: dict[int, list[str]] = {}
        self._said: set[str] = set()
        self._why = ""
        """Why the connection that is being opened, or that ends, does so."""
        self._is_woken = self._ends = False
        self._ends_by = 0.0
        self._was_there = False
        self._packets = 0
        self._largest = largest
        self._paho = _paho_client(broker, will)
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_subscribe = self._on_subscribe
        self._paho.on_message = self._on_message
        self._paho.on_socket_open = _send_at_once
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"rigsync-mqtt-{broker.host}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------------- on the event loop

    def subscribe(self, topics: Iterable[str], qos: int = 0) -> None:
        """Hear what is published on topics, now and after each new connection."""
        added = [topic for topic in topics if topic not in self._topics]
        self._topics.update(dict.fromkeys(added, qos))
        if added and self.is_connected:  # otherwise the connection begins with all
            self._outbox.append((True, added))
            self._wake()

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Hear no more of topics."""
        gone = [topic for topic in topics if self._topics.pop(topic, None) is not None]
        if gone and self.is_connected:
            self._outbox.append((False, gone))
            self._wake()

    def publish(self, topic: str, data: bytes, *, qos: int = 0, retain: bool = False, correlation: bytes = b"") -> bool:
        """Publish a message; return False where it is left out.

        With QoS 0 that is where the broker is not there. With QoS 1 it waits for the broker, and again until the broker
        has confirmed it. Either is left out where too much waits, or where the broker takes no packet as large.
        """
        size = len(topic) + len(data) + OVERHEAD
        if self._ends or size > self.limit or not (self.is_connected or qos):
            return False
        if self.unsent >= WAITING or self._put_bytes - self._gone_bytes + size > WAITING_BYTES:
            return False
        self._put, self._put_bytes = self._put + 1, self._put_bytes + size
        properties = Properties(PacketTypes.PUBLISH) if correlation else None  # type: ignore[no-untyped-call]
        if properties:
            properties.CorrelationData = correlation
        self._outbox.append(_Message(topic, data, qos, retain, self._connections, properties))
        self._wake()
        return True

    @property
    def unsent(self) -> int:
        """Messages that wait to leave, or for the broker's word that it has them."""
        return self._put - self._gone

    def close(self) -> None:
        """Send what waits, take leave of the broker, and end the thread; idempotent. Waits for it, at most `LINGER`."""
        if not self._ends:
            self._ends_by = time.monotonic() + LINGER
            self._ends = True
            self._wake()
            self._thread.join(2 * LINGER)

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(OSError):  # the thread has ended
                self._waker.send(b"\0")

    def _deliver(self) -> None:
        self._is_due = False
        for _ in range(AT_ONCE):
            if not self._inbox or self._ends:
                return
            function, args, size = self._inbox.popleft()
            self._taken, self._taken_bytes = self._taken + 1, self._taken_bytes + size
            function(*args)
        if self._inbox and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._deliver)

    def _note(self, problem: str | None) -> None:
        if problem is None:
            self.is_connected, self.is_refused = True, False
            self._connections += 1
            if self._topics:
                self._outbox.appendleft((True, list(self._topics)))
                self._wake()
            if self._said:
                logger.info("the broker %s is there again", self.broker)
                self._said.clear()
        elif problem in self._said or len(self._said) >= MOST_SAID:
            return
        else:
            self._said.add(problem)
        if self._changed(problem) is not True and problem is not None:
            logger.warning("the broker %s: %s", self.broker, problem)

    def _note_lost(self, problem: str, is_told: bool) -> None:
        """Take note that there is no connection; `is_told` where the broker has said why, which counts for more."""
        self.is_connected, self.is_refused = False, is_told
        if is_told or not self._said:
            self._note(problem)

    def _note_denied(self, problem: str) -> None:
        self.is_refused = True
        self._note(problem)

    # ---------------------------------------------------------------------------------------------- on the thread

    def _run(self) -> None:
        retry = FIRST_RETRY
        with self._woken, self._waker:
            while True:
                self._why, self._was_there = "", False
                problem = None
                try:
                    self._connect()
                    self._serve()
                except (OSError, ValueError) as error:
                    problem = explained(error)
                if self._ends:
                    if sock := self._paho.socket():  # which takes no more
                        sock.close()
                    return
                told = self._why or problem or closed(self._was_there)
                self._tell(self._note_lost, told, bool(self._why))
                retry = FIRST_RETRY if self._was_there else min(2 * retry, LAST_RETRY)
                self._wait(retry * random.uniform(0.5, 1.0))
                if self._ends:
                    return

    def _connect(self) -> None:
        limits: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limits.MaximumPacketSize = self._largest + OVERHEAD + (1 << 16)  # a topic has at most that
        broker = self.broker
        self._paho.connect(broker.host, broker.port, keepalive=KEEPALIVE, clean_start=True, properties=limits)

    def _wait(self, seconds: float) -> None:
        """Wait, unless this client is closed meanwhile."""
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._ends and (left := until - time.monotonic()) > 0:
                if selector.select(left):
                    self._take_wake()

    def _take_wake(self) -> None:
        self._woken.recv(64)
        self._is_woken = False

    def _serve(self) -> None:
        """Read and write until the connection ends."""
        paho, began = self._paho, time.monotonic()
        sock: Any = paho.socket()
        misc = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(sock, selectors.EVENT_READ)
            wanted = selectors.EVENT_READ
            while self._is_open(sock):
                want = selectors.EVENT_READ | (selectors.EVENT_WRITE if paho.want_write() else 0)
                if want != wanted:
                    selector.modify(sock, want)
                    wanted = want
                for key, mask in selector.select(0.1 if self._ends else 1.0):
                    if key.fileobj is self._woken:
                        self._take_wake()
                        continue
                    if mask & selectors.EVENT_READ:
                        self._read(sock)
                    if mask & selectors.EVENT_WRITE:
                        paho.loop_write()
                self._flush()
                now = time.monotonic()
                if now > misc + 1.0:
                    misc = now
                    paho.loop_misc()
                if not self._was_there and now > began + PATIENCE and self._is_open(sock):
                    self._why = f"it has not answered for {PATIENCE:g} s; is that the port of an MQTT broker?"
                    paho.disconnect()
                elif self._ends and (
                    not (self._outbox or self._unconfirmed or paho.want_write()) or now > self._ends_by
                ):
                    paho.disconnect()
                    paho.loop_write()
                    break

    def _read(self, sock: Any) -> None:
        for _ in range(AT_ONCE):
            before = self._packets
            self._paho.loop_read()
            if self._packets == before or not self._is_open(sock):
                break  # the rest has yet to come
        while self._is_open(sock) and isinstance(sock, ssl.SSLSocket) and sock.pending():
            self._paho.loop_read()  # of which no selector knows

    def _is_open(self, sock: Any) -> bool:
        return self._paho.socket() is sock

    def _flush(self) -> None:
        """Hand to paho what waits, as long as the socket takes it."""
        paho = self._paho
        while self._outbox and paho.is_connected() and not paho.want_write():
            entry = self._outbox.popleft()
            if not isinstance(entry, _Message):
                self._subscribe(*entry)
                continue
            if entry.qos:
                info = paho.publish(entry.topic, entry.data, entry.qos, entry.retain, entry.properties)
                if not self._unconfirmed:
                    paho.on_publish = self._on_publish  # which costs, so only while something is to be confirmed
                self._unconfirmed[info.mid] = entry
            else:
                if entry.connection == self._connections:
                    paho.publish(entry.topic, entry.data, 0, entry.retain)
                self._note_gone(entry)

    def _note_gone(self, entry: _Message) -> None:
        self._gone += 1
        self._gone_bytes += len(entry.topic) + len(entry.data) + OVERHEAD

    def _subscribe(self, wanted: bool, topics: list[str]) -> None:
        for first in range(0, len(topics), 100):
            some = topics[first : first + 100]
            if not wanted:
                self._paho.unsubscribe(some)
                continue
            _, mid = self._paho.subscribe([(topic, SubscribeOptions(self._topics.get(topic, 0))) for topic in some])
            if mid is not None:
                self._asked[mid] = some

    def _tell(self, function: Callable[..., object], *args: Any, size: int = 0) -> None:
        """Have a function called on the event loop, in its turn."""
        self._came, self._came_bytes = self._came + 1, self._came_bytes + size
        self._inbox.append((function, args, size))
        if not self._is_due:
            self._is_due = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed, and this client was not
                self._ends = True

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._why = refusal(reason.value, str(reason))
            return
        self._was_there = True
        self.limit = getattr(properties, "MaximumPacketSize", 1 << 28)
        self._asked.clear()
        self._tell(self._note, None)

    def _on_disconnect(self, _client: Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._why = refusal(reason.value, str(reason))

    def _on_subscribe(self, _client: Client, _data: Any, mid: int, reasons: list[Any], _properties: Any) -> None:
        for topic, reason in zip(self._asked.pop(mid, ()), reasons, strict=False):
            if reason.is_failure:
                problem = f"this user may not hear {topic} ({reason}); allow it in the broker's access list"
                self._tell(self._note_denied, problem)

    def _on_publish(self, client: Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        if (entry := self._unconfirmed.pop(mid, None)) is None:
            return
        self._note_gone(entry)
        if not self._unconfirmed:
            client.on_publish = None
        if reason.value == NO_SUBSCRIBERS:
            self._tell(self._unheard, entry.topic)
        elif reason.is_failure:
            problem = f"this user may not publish on {entry.topic} ({reason}); allow it in the broker's access list"
            self._tell(self._note_denied, problem)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._packets += 1
        size = len(message.payload) + OVERHEAD
        if self._came - self._taken >= WAITING or self._came_bytes - self._taken_bytes + size > WAITING_BYTES:
            self.left_out += 1
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:  # none of those to which this client has subscribed
            return
        heard = topic, bytes(message.payload), message.retain
        if self._requested:
            wanted = message.properties
            to = AnswerTo(getattr(wanted, "ResponseTopic", ""), getattr(wanted, "CorrelationData", b""))
            self._tell(self._requested, *heard, to, size=size)
        else:
            self._tell(self._hear, *heard, size=size)


def _paho_client(broker: Address, will: Will | None) -> Client:
    client = Client(CallbackAPIVersion.VERSION2, f"rigsync-{secrets.token_hex(8)}", protocol=MQTTv5)
    client.connect_timeout = PATIENCE
    user, password = login(broker, os.environ)
    if user or password:
        client.username_pw_set(user, password)
    if broker.scheme == "mqtts":
        client.tls_set_context(tls(os.environ))
    if will:
        client.will_set(will.topic, will.data, qos=1, retain=True)
    return client


def _send_at_once(_client: Client, _data: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a frame waits for no other
