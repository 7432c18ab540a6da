"""ZeroMQ's sockets on an event loop: where a bridge publishes, where it is asked, and who may."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rigsync.bridges.requests import LARGEST
from rigsync.config.address import parse_uri
from rigsync.core.rigs import Address, is_literal
from rigsync.errors import ConfigError, RigsyncError
from rigsync.net.ports import explained

try:
    import zmq
    import zmq.auth
    from zmq.utils import z85
except ModuleNotFoundError as missing:
    text = "ZeroMQ needs pyzmq, which is not installed: install the extra zmq of rigsync, or pip install pyzmq"
    raise ModuleNotFoundError(text, name=missing.name) from missing

WAITING = 10_000
"""Messages that wait for one subscriber. It misses what comes beyond that, and gets it from the history."""
REQUESTS_WAITING = 16
"""Requests of one client that wait for the event loop. ZeroMQ reads no more of them until then."""
CUT = 4 * LARGEST
"""Bytes of a part of a message from which the connection is cut, unread."""
LINGER = 200
"""Milliseconds that what was sent last has, at the end, to reach who is slow."""
EXPECTED = "tcp://, an IP address of this computer and a port, such as tcp://127.0.0.1:5555"
EXPECTED_THERE = "tcp://, a host and a port, such as tcp://192.168.1.10:5557"
"""How an address is written, here and elsewhere."""
_DOMAIN = b"rigsync"


def zmq_address(text: str, *, is_ours: bool = True) -> Address:
    """Read where a bridge, or another program, listens; raise a `ConfigError` that says how that is written."""
    what, expected = ("where ZeroMQ can listen", EXPECTED) if is_ours else ("where a hub listens", EXPECTED_THERE)
    address = parse_uri(text, allow_port_zero=is_ours, what=what, expected=expected, brokers=False)
    if address.scheme != "tcp" or (is_ours and not is_literal(address)) or not re.search(r":\d+$", text):
        raise ConfigError(f"{text!r} is not {what}; expected {expected}")
    return address


class Keys:
    """The secret key of a bridge, and the public keys of those on the other side.

    Parameters
    ----------
    curve : mapping
        ``secret_key``, a file as `zmq.auth.create_certificates` writes it, and the public keys, of 40 characters.
    of : str
        Under which key these stand: ``clients``, or ``server``, which is one.

    Raises
    ------
    ConfigError
        The file cannot be read, has no secret key, or others may read it; a public key is missing or malformed.
    """

    def __init__(self, curve: Mapping[str, Any], of: str = "clients"):
        file, others = curve.get("secret_key", ""), curve.get(of, ())
        self.others = frozenset([others] if isinstance(others, str) else others)
        if not zmq.has("curve"):
            raise ConfigError("this ZeroMQ has no CURVE: pip install pyzmq brings one that has")
        try:
            mode = os.stat(file).st_mode
            self.public, self.secret = zmq.auth.load_certificate(file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the secret key {file} cannot be read: {error}") from error
        if sys.platform != "win32" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"others may read the secret key {file}: chmod 600 {file}")
        for key in filter(None, (self.secret, *map(str.encode, self.others))):
            with contextlib.suppress(ValueError, KeyError):
                if len(key) == 40 and len(z85.decode(key)) == 32:
                    continue
            problem = f"in {file}, or among curve's {of}, is a malformed key: a key has 40 characters"
            raise ConfigError(f"{problem}; zmq.auth.create_certificates makes them")
        if not self.secret or not self.others:
            lacks = f"a {of.rstrip('s')}'s key" if self.secret else f"the secret key, which {file} does not have"
            raise ConfigError(f"curve lacks {lacks}; zmq.auth.create_certificates makes both")

    def show(self, socket: zmq.Socket[bytes]) -> None:
        """Have a socket that connects use them. The other side's key is that of one server."""
        (server,) = self.others
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret or b"")
        socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode())


class Inbox:
    """A socket that takes messages on the running event loop, one a turn.

    It calls `idle` when no more messages wait; then the socket may be able to send again, too.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        take: Callable[[list[bytes]], object],
        idle: Callable[[], object] = lambda: None,
    ):
        self._socket, self._take, self._idle = socket, take, idle
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._descriptor = socket.FD
        try:
            self._loop.add_reader(self._descriptor, self.look)
        except NotImplementedError:
            problem = "this event loop does not watch ZeroMQ's sockets; run on asyncio.SelectorEventLoop() instead"
            raise RigsyncError(f"{problem} (asyncio.WindowsSelectorEventLoopPolicy)") from None
        self._look_again()

    def send(self, parts: list[bytes]) -> bool:
        """Send a message; return whether it has left. A receiver that has gone, or reads nothing, misses an answer."""
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._look_again()
        return True

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        if self._again:
            self._again.cancel()

    def _look_again(self) -> None:
        # The descriptor signals only once what has come since the last use of the socket.
        if self._again is None:
            self._again = self._loop.call_soon(self.look)

    def look(self) -> None:
        """Take the next message, if there is one."""
        if self._again:
            self._again.cancel()
            self._again = None
        try:
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            self._idle()
        else:
            self._look_again()
            self._take(parts)


class Question:
    """One request to a REP socket, and its answer.

    It has a connection of its own. So a late answer is never taken for that of another request.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        at: Address,
        keys: Keys | None,
        text: str,
        take: Callable[[list[bytes]], object],
    ):
        self._socket = context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.MAXMSGSIZE, CUT)
        if keys:
            keys.show(self._socket)
        self._socket.setsockopt(zmq.IPV6, ":" in at.host)
        self._socket.connect(str(at))
        self._inbox = Inbox(self._socket, take)
        self._inbox.send([text.encode()])

    def close(self) -> None:
        """Wait no longer. A request that has not left by now does not leave."""
        self._inbox.close()
        self._socket.close(0)


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return the context for the sockets of one rig."""
    return zmq.Context()


class SocketSet:
    """ZeroMQ's sockets of one bridge, on the running event loop.

    Parameters
    ----------
    keys : Keys, optional
        Its own, and those of the others.
    turned_away : callable
        Called with the address of a program that has connected and whose key is unknown.
    """

    def __init__(self, keys: Keys | None, turned_away: Callable[[str], object] = lambda _: None):
        self._keys, self._turned_away = keys, turned_away
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._inboxes: list[Inbox] = []
        self._zap: Inbox | None = None

    async def listen(self, kind: int, at: Address, waiting: int) -> tuple[zmq.Socket[bytes], Address]:
        """Open a socket with room for so many messages, and return where it listens; may raise a `ListenError`."""
        if self._keys and not self._zap:
            zap = self._socket(zmq.REP)
            zap.bind("inproc://zeromq.zap.01")
            self._zap = self.inbox(zap, self._answer_zap)
        socket = self._socket(kind)
        socket.setsockopt(zmq.SNDHWM if kind == zmq.PUB else zmq.RCVHWM, waiting)
        return socket, await self._bound(socket, at)

    async def router(
        self, at: Address, waiting: int, received: Callable[[list[bytes]], object]
    ) -> tuple[Inbox, Address]:
        """Open a socket that others send to, with room for so many messages; return it, and where it listens."""
        socket, at = await self.listen(zmq.ROUTER, at, waiting)
        return self.inbox(socket, received), at

    def dealer(self, to: Address, received: Callable[[list[bytes]], object], idle: Callable[[], object]) -> Inbox:
        """Open a socket that sends to a router, which may come later; it sends only while the router is there."""
        socket = self._socket(zmq.DEALER)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.IPV6, ":" in to.host)
        if self._keys:
            self._keys.show(socket)
        socket.connect(str(to))
        return self.inbox(socket, received, idle)

    def inbox(
        self,
        socket: zmq.Socket[bytes],
        take: Callable[[list[bytes]], object],
        idle: Callable[[], object] = lambda: None,
    ) -> Inbox:
        """Have a function called with each message that comes."""
        self._inboxes.append(Inbox(socket, take, idle))
        return self._inboxes[-1]

    def close(self) -> None:
        for inbox in self._inboxes:
            inbox.close()
        for socket in self._sockets:
            socket.close(LINGER)
        self._context.term()

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.MAXMSGSIZE, CUT)
        self._sockets.append(socket)
        return socket

    async def _bound(self, socket: zmq.Socket[bytes], at: Address) -> Address:
        socket.setsockopt(zmq.IPV6, ":" in at.host)
        if self._keys:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret or b"")
            socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)  # without an answer from _answer_zap nobody comes in
        try:
            socket.bind(str(at))
        except zmq.ZMQError as error:
            number = errno.EADDRINUSE if error.errno == zmq.EADDRINUSE else error.errno
            failed = OSError(number, error.strerror)
            loop = asyncio.get_running_loop()
            raise await loop.run_in_executor(None, explained, failed, "ZeroMQ", str(at), at) from None
        return Address("tcp", at.host, int(socket.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2]))

    def _answer_zap(self, parts: list[bytes]) -> None:
        """Say whether a program may connect (ZeroMQ RFC 27)."""
        version, request, _, address, _, mechanism, *credentials = parts
        is_known = mechanism == b"CURVE" and z85.encode(credentials[0]).decode() in getattr(self._keys, "others", ())
        if not is_known:
            self._turned_away(address.decode(errors="replace"))
        status = [b"200", b"OK"] if is_known else [b"400", b"unknown key"]
        if self._zap:
            self._zap.send([version, request, *status, b"", b""])


class Sockets(SocketSet):
    """Where a bridge publishes, and where it is asked."""

    _pub: zmq.Socket[bytes]
    _rep: Inbox

    async def open(self, pub: Address, rep: Address, received: Callable[[list[bytes]], object]) -> list[Address]:
        """Open both, and return where it publishes and is asked; raise a `ListenError` where that cannot be.

        A function is called with each message to the latter.
        """
        self._pub, published = await self.listen(zmq.PUB, pub, WAITING)
        self._rep, asked = await self.router(rep, REQUESTS_WAITING, received)
        return [published, asked]

    def publish(self, topic: bytes, data: bytes) -> None:
        """Send to all who have subscribed to the topic, or to what it begins with."""
        self._pub.send_multipart([topic, data], zmq.NOBLOCK)

    def answer(self, parts: list[bytes]) -> None:
        """Answer who has asked."""
        self._rep.send(parts)


def is_local(at: Address) -> bool:
    """Tell whether only programs of this computer reach an address."""
    return ipaddress.ip_address(at.host.partition("%")[0]).is_loopback
