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
from rigsync.errors import ConfigError
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
"""How an address is written."""
_DOMAIN = b"rigsync"


def zmq_address(text: str) -> Address:
    """Read where a bridge listens; raise a `ConfigError` that says how that is written."""
    what = "where a ZeroMQ bridge can listen"
    address = parse_uri(text, allow_port_zero=True, what=what, expected=EXPECTED, brokers=False)
    if address.scheme != "tcp" or not is_literal(address) or not re.search(r":\d+$", text):
        raise ConfigError(f"{text!r} is not {what}; expected {EXPECTED}")
    return address


class Keys:
    """The secret key of a bridge, and the public keys of those who may connect.

    Parameters
    ----------
    curve : mapping
        ``secret_key``, a file as `zmq.auth.create_certificates` writes it, and ``clients``, keys of 40 characters.

    Raises
    ------
    ConfigError
        The file cannot be read, has no secret key, or others may read it; a client's key is none.
    """

    def __init__(self, curve: Mapping[str, Any]):
        file, self.clients = curve["secret_key"], frozenset(curve["clients"])
        if not zmq.has("curve"):
            raise ConfigError("this ZeroMQ has no CURVE: pip install pyzmq brings one that has")
        try:
            mode = os.stat(file).st_mode
            _, self.secret = zmq.auth.load_certificate(file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the secret key {file} cannot be read: {error}") from error
        if sys.platform != "win32" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"others may read the secret key {file}: chmod 600 {file}")
        for key in filter(None, (self.secret, *map(str.encode, self.clients))):
            with contextlib.suppress(ValueError, KeyError):
                if len(key) == 40 and len(z85.decode(key)) == 32:
                    continue
            problem = f"in {file}, or among curve's clients, is a key that is none: those have 40 characters"
            raise ConfigError(f"{problem}; zmq.auth.create_certificates makes them")
        if not self.secret or not self.clients:
            lacks = "a client's key" if self.secret else f"the secret key, which {file} does not have"
            raise ConfigError(f"curve lacks {lacks}; zmq.auth.create_certificates makes both")


class Inbox:
    """A socket that takes messages on the running event loop, one a turn."""

    def __init__(self, socket: zmq.Socket[bytes], take: Callable[[list[bytes]], object]):
        self._socket, self._take = socket, take
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._descriptor = socket.FD
        self._loop.add_reader(self._descriptor, self._look)
        self._look_again()

    def send(self, parts: list[bytes]) -> None:
        """Send an answer. Who has gone, or reads none, misses it."""
        self._socket.send_multipart(parts, zmq.NOBLOCK)
        self._look_again()

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        if self._again:
            self._again.cancel()

    def _look_again(self) -> None:
        # The descriptor tells of what has come since the socket was used last, once.
        if self._again is None:
            self._again = self._loop.call_soon(self._look)

    def _look(self) -> None:
        if self._again:
            self._again.cancel()
            self._again = None
        with contextlib.suppress(zmq.Again):
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
            self._look_again()
            self._take(parts)


class Sockets:
    """Where a bridge publishes, and where it is asked.

    Parameters
    ----------
    received : callable
        Called with each message to the latter.
    turned_away : callable
        Called with the address of a program whose key is unknown.
    """

    def __init__(self, received: Callable[[list[bytes]], object], turned_away: Callable[[str], object]):
        self._received, self._turned_away = received, turned_away
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._inboxes: list[Inbox] = []
        self._keys: Keys | None = None
        self._pub: zmq.Socket[bytes]
        self._rep: Inbox
        self._zap: Inbox

    async def open(self, pub: Address, rep: Address, keys: Keys | None) -> list[Address]:
        """Open all, and return where it publishes and is asked; raise a `ListenError` where that cannot be."""
        self._keys = keys
        if keys:
            zap = self._socket(zmq.REP)
            zap.bind("inproc://zeromq.zap.01")
            self._zap = self._inbox(zap, self._answer_zap)
        self._pub = self._socket(zmq.PUB)
        self._pub.setsockopt(zmq.SNDHWM, WAITING)
        router = self._socket(zmq.ROUTER)
        router.setsockopt(zmq.RCVHWM, REQUESTS_WAITING)
        at = [await self._bound(self._pub, pub), await self._bound(router, rep)]
        self._rep = self._inbox(router, self._received)
        return at

    def publish(self, topic: bytes, data: bytes) -> None:
        """Send to all who have subscribed to the topic, or to what it begins with."""
        self._pub.send_multipart([topic, data], zmq.NOBLOCK)

    def answer(self, parts: list[bytes]) -> None:
        """Answer who has asked."""
        self._rep.send(parts)

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

    def _inbox(self, socket: zmq.Socket[bytes], take: Callable[[list[bytes]], object]) -> Inbox:
        self._inboxes.append(Inbox(socket, take))
        return self._inboxes[-1]

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
            raise await loop.run_in_executor(None, explained, failed, "the ZeroMQ bridge", str(at), at) from None
        return Address("tcp", at.host, int(socket.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2]))

    def _answer_zap(self, parts: list[bytes]) -> None:
        """Say whether a program may connect (ZeroMQ RFC 27)."""
        version, request, _, address, _, mechanism, *credentials = parts
        is_known = mechanism == b"CURVE" and z85.encode(credentials[0]).decode() in getattr(self._keys, "clients", ())
        if not is_known:
            self._turned_away(address.decode(errors="replace"))
        status = [b"200", b"OK"] if is_known else [b"400", b"unknown key"]
        self._zap.send([version, request, *status, b"", b""])


def is_local(at: Address) -> bool:
    """Tell whether only programs of this computer reach an address."""
    return ipaddress.ip_address(at.host.partition("%")[0]).is_loopback
