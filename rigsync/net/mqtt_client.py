"""One client of an MQTT broker: a thin shell around paho-mqtt.

On the running event loop::

    client = MqttClient(parse_uri("mqtts://broker.lab/rigs"), hear, changed=note)
    client.subscribe(["rigs/+/view"])  # now, and again at each connection
    client.publish("rigs/events/x", data, qos=1)  # False where it is left out
    client.close()  # what waits leaves, within `LINGER`

It calls `hear(topic, data, is_retained)` and `changed(problem)` in the order of what happened. `changed` gets None at
each connection, and a text where the broker is lost or refuses something. Each text is logged once, until the broker is
back. The client connects again by itself, for ever. `net.mqtt_broker` has users, passwords and TLS.

Connecting blocks, so it has a thread of its own. Everything else runs on the loop: paho reads and writes packets when
the loop says that the socket is ready. A thread for that would wait for the interpreter's lock at each read, up to 5 ms
while the loop is at work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rigsync.core.rigs import Address
from rigsync.net.mqtt_broker import UNREADABLE, AnswerTo, Tls, Will, closed, explained, login, refusal, tls
from rigsync.runtime.workers import Workers

try:
    from paho.mqtt.client import Client, MQTTMessage, MQTTv5
    from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.subscribeoptions import SubscribeOptions
except ModuleNotFoundError as missing:
    text = "MQTT needs paho-mqtt, which is not installed: install the extra mqtt of rigsync, or pip install paho-mqtt"
    raise ModuleNotFoundError(text, name=missing.name) from missing

logger = logging.getLogger("rigsync.mqtt")

WAITING = 4096
"""Most messages that wait to leave, or for the broker's confirmation. More than these are left out."""
WAITING_BYTES = 8 << 20
"""Most bytes of these."""
LARGEST = 1 << 20
"""Bytes of the largest message that the broker may send here, unless told otherwise."""
AT_ONCE = 16
"""Most packets that are read and handled before other things have their turn. The others wait in the socket."""
PATIENCE = 3.0
"""Seconds that connecting may take, and then again for the broker's answer."""
KEEPALIVE = 10
"""Seconds of silence after which the client asks whether the broker is there. The broker gives a client up after 1.5
times as many."""
FIRST_RETRY = 0.1
LAST_RETRY = 4.0
"""Seconds between two attempts to connect, at first and at most. They double each time. Up to half of them is taken off
at random, so that the clients do not all come at once to a broker that is back."""
LINGER = 0.5
"""Seconds that waiting messages have to leave, at the end."""
MOST_SAID = 32
"""Most different problems that are told between two connections."""
NO_SUBSCRIBERS = 0x10
"""The reason code of a message that nobody has subscribed to (MQTT 5, section 3.4.2.1)."""
OVERHEAD = 64
"""Bytes of a packet beside topic and content."""
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)  # of any number, without another file
_FILTERS = 100  # in one packet


class _Message(NamedTuple):
    topic: str
    data: bytes
    qos: int
    retain: bool
    correlation: bytes

    @property
    def size(self) -> int:
        return len(self.topic.encode()) + len(self.data) + len(self.correlation) + OVERHEAD


class MqttClient:
    """A client of one broker, on the running event loop.

    Parameters
    ----------
    broker : Address
        The broker, as `rigsync.config.address.parse_uri` gives it.
    hear : callable
        Called with topic, content and whether it was retained, of each message.
    changed : callable
        Called with None when the broker is there, and with a text when it is away, or refuses a topic. The client logs
        the text, unless this returns True.
    requested : callable, optional
        Called in place of `hear`, with an `AnswerTo` besides.
    unheard : callable
        Called with the topic of a message with QoS 1 that nobody has subscribed to.
    will : Will, optional
        What the broker publishes when it loses this client.
    keeps : bool
        Whether messages with QoS 1 wait for a broker that is away. Otherwise none leaves later than on the connection
        on which it was published.
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
        keeps: bool = True,
        largest: int = LARGEST,
    ):
        self.broker = broker
        self._hear, self._changed, self._requested, self._unheard = hear, changed, requested, unheard
        self._loop = asyncio.get_running_loop()
        self.is_connected = False
        self.is_refused = False
        """Whether the latest problem is a refusal: the broker has refused this client, or a topic."""
        self.limit = 1 << 28
        """Bytes of the largest packet that the broker takes."""
        self._keeps, self._largest = keeps, largest
        self._topics: dict[str, int] = {}
        self._outbox: deque[_Message] = deque()
        self._unconfirmed: dict[int, _Message] = {}
        self._waiting_bytes = 0  # of both
        self._asked: dict[int, list[str]] = {}
        self._came: list[tuple[Callable[..., object], tuple[Any, ...]]] = []  # what packets mean, until all are read
        self._said: set[str] = set()
        self._why = ""
        """Why the broker has ended the connection, as it says."""
        self._sock: Any = None
        self._at_once = 1
        self._is_writing = self._is_due = self._ends = False
        self._news = asyncio.Event()  # the broker is there, or gone
        self._tls = tls(os.environ) if broker.scheme == "mqtts" else None
        self._paho = _paho_client(broker, will, self._tls)
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_subscribe = self._on_subscribe
        self._paho.on_message = self._on_message
        self._paho.on_socket_open = _send_at_once
        self._paho.on_socket_close = self._on_socket_close
        self._timer: asyncio.TimerHandle | None = None
        self._task = self._loop.create_task(self._keep_connected(), name=f"rigsync broker {broker}")

    def subscribe(self, topics: Iterable[str], qos: int = 0) -> None:
        """Hear what is published on topics, now and after each new connection."""
        added = [topic for topic in topics if topic not in self._topics]
        self._topics.update(dict.fromkeys(added, qos))
        if self.is_connected:  # otherwise the connection begins with all
            self._subscribe(added)

    def _subscribe(self, topics: list[str]) -> None:
        for first in range(0, len(topics), _FILTERS):
            some = topics[first : first + _FILTERS]
            _, mid = self._paho.subscribe([(topic, SubscribeOptions(self._topics[topic])) for topic in some])
            if mid is not None:
                self._asked[mid] = some
        self._watch_writing()

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Hear no more of topics."""
        gone = [topic for topic in topics if self._topics.pop(topic, None) is not None]
        if gone and self.is_connected:
            self._paho.unsubscribe(gone)
            self._watch_writing()

    def publish(self, topic: str, data: bytes, *, qos: int = 0, retain: bool = False, correlation: bytes = b"") -> bool:
        """Publish a message; return False if it is left out.

        With QoS 0 that happens if the broker is away. With QoS 1 the message waits until the broker has confirmed it,
        unless the client keeps none. Either is left out if too much waits, or if it is too large for the broker.
        """
        message = _Message(topic, data, qos, retain, correlation)
        if self._ends or message.size > self.limit or not (self.is_connected or (qos and self._keeps)):
            return False
        if self.unsent >= WAITING or self._waiting_bytes + message.size > WAITING_BYTES:
            return False
        self._waiting_bytes += message.size
        self._outbox.append(message)
        self._flush()
        return True

    @property
    def unsent(self) -> int:
        """Messages that wait to leave, or for the broker's confirmation."""
        return len(self._outbox) + len(self._unconfirmed)

    def close(self) -> None:
        """Send what waits, and disconnect; idempotent. This blocks the loop for `LINGER` at most."""
        if self._ends:
            return
        self._ends = True
        self._task.cancel()
        self._stop_ticking()
        paho, sock, until = self._paho, self._sock, time.monotonic() + LINGER
        while self._is_open() and (self.unsent or paho.want_write()) and (left := until - time.monotonic()) > 0:
            wants = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox or paho.want_write() else 0)
            with _Selector() as selector:
                selector.register(sock, wants)
                selector.select(left)
            self._read_packets()
            paho.loop_write()
            self._flush()
        if self._is_open():
            paho.disconnect()
            paho.loop_write()
        self._drop_connection()  # where the broker takes no more, or the socket was connected just now

    # ------------------------------------------------------------------------------------------------- connecting

    async def _keep_connected(self) -> None:
        retry = FIRST_RETRY
        while True:
            self._why, problem = "", None
            self._news.clear()
            try:
                await self._open()
            except ssl.SSLError as error:
                self._why = explained(error)
            except Exception as error:  # whatever it is, the next attempt may succeed
                logger.debug("no connection to the broker %s", self.broker, exc_info=True)
                problem = explained(error)
            begun, was_there = self._loop.time(), self.is_connected
            while was_there and self._is_open():  # it may have been lost in the turn in which it was there
                self._news.clear()
                await self._news.wait()
            if self._came:  # before the loss
                self._loop.call_soon(self._handle, len(self._came))
                await asyncio.sleep(0)
            if self._ends:  # `wait_for` swallows a cancellation that meets its result, until Python 3.12
                return
            self.is_connected = False
            self._forget_unsent()
            if was_there:
                self._said.clear()  # what it refused tells nothing of its loss
            self._note_lost(self._why or problem or closed(was_there), bool(self._why))
            lasted = was_there and self._loop.time() > begun + LAST_RETRY
            retry = FIRST_RETRY if lasted else min(2 * retry, LAST_RETRY)
            await asyncio.sleep(retry * random.uniform(0.5, 1.0))

    async def _open(self) -> None:
        """Connect, and wait until the broker is there, or has ended the connection."""
        workers = Workers("mqtt")
        try:
            await workers.begin(self._connect)
        finally:
            workers.close(0.0)
        self._sock = self._paho.socket()
        self._loop.add_reader(self._sock, self._read)
        self._tick()
        self._watch_writing()
        try:
            await asyncio.wait_for(self._news.wait(), PATIENCE)
        except (asyncio.TimeoutError, TimeoutError):
            self._why = f"it has not answered for {PATIENCE:g} s; is that the port of an MQTT broker?"
            self._paho.disconnect()

    def _connect(self) -> None:
        """Connect, on a worker."""
        limits: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limits.MaximumPacketSize = self._largest + OVERHEAD + (1 << 16)  # a topic has at most that
        host, port = self.broker.host, self.broker.port
        try:
            self._paho.connect(host, port, keepalive=KEEPALIVE, clean_start=True, properties=limits)
        except BaseException:
            if self._tls and self._tls.wrapped:
                self._tls.wrapped.close()
            raise
        if self._ends and (sock := self._paho.socket()) is not None:  # nobody waits for the connection any more
            sock.close()

    def _drop_connection(self) -> None:
        if (sock := self._paho.socket()) is not None:
            self._on_socket_close(self._paho, None, sock)
            sock.close()
        self._news.set()

    def _tick(self) -> None:
        self._paho.loop_misc()  # pings a silent broker, and ends the connection to one that is gone
        self._timer = self._loop.call_later(1.0, self._tick) if self._is_open() else None

    def _stop_ticking(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _is_open(self) -> bool:
        return self._sock is not None and self._paho.socket() is self._sock

    def _on_socket_close(self, _client: Client, _data: Any, sock: Any) -> None:
        if sock is self._sock:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
            self._sock, self._is_writing = None, False
            self._stop_ticking()

    def _forget_unsent(self) -> None:
        """Forget what waits and is not kept. By the next connection it is out of date, and paho would send it then."""
        waiting = (*self._unconfirmed.values(), *self._outbox)
        self._paho.drop_out_messages()
        self._paho.on_publish = None
        self._unconfirmed.clear()
        self._outbox = deque(message for message in waiting if message.qos and self._keeps)
        self._waiting_bytes = sum(message.size for message in self._outbox)

    # ------------------------------------------------------------------------------------------- reading, writing

    def _read(self) -> None:
        if not self._came:  # else what has come has its turn first
            self._read_packets()
            self._handle()

    def _handle(self, most: int = AT_ONCE) -> None:
        """Handle what has come, a bounded number in a turn of the loop: paho reads more where much is unconfirmed."""
        came, self._came = self._came[:most], self._came[most:]
        sock = self._sock
        if self._came:
            self._loop.call_soon(self._handle)
        elif isinstance(sock, ssl.SSLSocket) and sock.pending():  # bytes of which no selector knows
            self._loop.call_soon(self._read_rest, sock)
        for function, args in came:
            if self._ends:
                return
            function(*args)
        self._flush()

    def _read_rest(self, sock: Any) -> None:
        if sock is self._sock:
            self._read()

    def _read_packets(self) -> None:
        for _ in range(self._at_once):
            before = len(self._came)
            try:
                problem = self._paho.loop_read() is MQTTErrorCode.MQTT_ERR_PROTOCOL
            except Exception:
                logger.debug("a packet of the broker %s cannot be read", self.broker, exc_info=True)
                self._drop_connection()
                problem = True
            if problem and self.is_connected:  # otherwise it is no broker, or has refused
                self._why = self._why or UNREADABLE
            if len(self._came) == before or not self._is_open():
                self._at_once = 1  # the rest has yet to come, and a read in vain costs as much as any
                break
        else:
            self._at_once = min(AT_ONCE, 4 * self._at_once)

    def _write(self) -> None:
        self._paho.loop_write()
        self._flush()

    def _watch_writing(self) -> None:
        """Have the loop watch for room in the socket, as long as something waits to be written."""
        if self._is_open() and self._paho.want_write() != self._is_writing:
            self._is_writing = not self._is_writing
            if self._is_writing:
                self._loop.add_writer(self._sock, self._write)
            else:
                self._loop.remove_writer(self._sock)

    def _flush(self) -> None:
        """Hand waiting messages to paho, as long as the socket takes them, a bounded number in a turn of the loop."""
        paho = self._paho
        for _ in range(AT_ONCE):
            if not (self._outbox and (self.is_connected or self._ends) and self._is_open()) or paho.want_write():
                break
            message = self._outbox.popleft()
            if message.size > self.limit:  # it was taken before the broker said how much it takes
                self._waiting_bytes -= message.size
                self._note(f"{message.topic} is left out: it takes at most {self.limit:,} bytes; raise its packet size")
                continue
            properties = Properties(PacketTypes.PUBLISH) if message.correlation else None  # type: ignore[no-untyped-call]
            if properties:
                properties.CorrelationData = message.correlation
            info = paho.publish(message.topic, message.data, message.qos, message.retain, properties)
            if message.qos:
                if not self._unconfirmed:
                    paho.on_publish = self._on_publish  # it costs time, so only while a confirmation is due
                self._unconfirmed[info.mid] = message
            else:
                self._waiting_bytes -= message.size
        else:
            if self._outbox and not self._is_due:
                self._is_due = True
                self._loop.call_soon(self._flush_rest)
        self._watch_writing()

    def _flush_rest(self) -> None:
        self._is_due = False
        self._flush()

    # ---------------------------------------------------------------------------------------------------- telling

    def _note_there(self) -> None:
        self.is_connected, self.is_refused = True, False
        self._news.set()
        self._subscribe(list(self._topics))
        if self._said:
            logger.info("the broker %s is there again", self.broker)
            self._said.clear()
        self._changed(None)

    def _note(self, problem: str) -> None:
        if problem not in self._said and len(self._said) < MOST_SAID:
            self._said.add(problem)
            if self._changed(problem) is not True:
                logger.warning("the broker %s: %s", self.broker, problem)

    def _note_lost(self, problem: str, is_told: bool) -> None:
        """Take note that the connection is lost; `is_told` if the broker has said why, which counts for more."""
        self.is_refused = is_told
        if is_told or not self._said:
            self._note(problem)

    def _note_denied(self, problem: str) -> None:
        self.is_refused = True
        self._note(f"{problem}; allow it in the broker's access list")

    # -------------------------------------------------------------------------------------------- called by paho

    def _on_connect(self, _client: Client, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._why = refusal(reason.value, str(reason))
            return
        self.limit = getattr(properties, "MaximumPacketSize", 1 << 28)
        self._asked.clear()
        self._came.append((self._note_there, ()))

    def _on_disconnect(self, _client: Client, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._why = refusal(reason.value, str(reason))
        self._news.set()

    def _on_subscribe(self, _client: Client, _data: Any, mid: int, reasons: list[Any], _properties: Any) -> None:
        for topic, reason in zip(self._asked.pop(mid, ()), reasons, strict=False):
            if reason.is_failure:
                self._came.append((self._note_denied, (f"this user may not hear {topic} ({reason})",)))

    def _on_publish(self, client: Client, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        if (message := self._unconfirmed.pop(mid, None)) is None:
            return
        self._waiting_bytes -= message.size
        if not self._unconfirmed:
            client.on_publish = None
        if reason.value == NO_SUBSCRIBERS:
            self._came.append((self._unheard, (message.topic,)))
        elif reason.is_failure:
            self._came.append((self._note_denied, (f"this user may not publish on {message.topic} ({reason})",)))

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        try:
            heard = message.topic, bytes(message.payload), message.retain
        except UnicodeDecodeError:  # this client has subscribed to no such topic
            return
        if self._requested:
            wanted = message.properties
            to = AnswerTo(getattr(wanted, "ResponseTopic", ""), getattr(wanted, "CorrelationData", b""))
            self._came.append((self._requested, (*heard, to)))
        else:
            self._came.append((self._hear, heard))


def _paho_client(broker: Address, will: Will | None, context: Tls | None) -> Client:
    client = Client(CallbackAPIVersion.VERSION2, f"rigsync-{secrets.token_hex(8)}", protocol=MQTTv5)
    client.connect_timeout = PATIENCE
    user, password = login(broker, os.environ)
    if user or password:
        client.username_pw_set(user, password)
    if context:
        client.tls_set_context(context)
    if will:
        client.will_set(will.topic, will.data, qos=1, retain=True)
    return client


def _send_at_once(_client: Client, _data: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a frame waits for no other
