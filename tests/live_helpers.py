"""What tests on real sockets and threads share: patience, threads with results, and stand-ins for rigs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from processes import LONG, free_port, iblutil_net

from rigsync.core import messages
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.messages import Message
from rigsync.errors import RemoteProtocolError

SHORT = 0.05
"""Seconds for waits that are to end by time-out."""


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Run a function on a thread of its own; `result(LONG)` is its result."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return future


def ends_within(seconds: float, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a function returns, or raise what it raises; it must not take longer than `seconds`."""
    begin = time.monotonic()
    try:
        return in_thread(function, *args, **kwargs).result(LONG)
    finally:
        assert time.monotonic() - begin < seconds


class Gate:
    """What a handler waits at, so that it takes as long as a test wants."""

    def __init__(self) -> None:
        self.reached, self.open, self.left = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        self.reached.set()
        assert self.open.wait(LONG)
        self.left.set()


class Lab:
    """Rigs, and what each has been told.

    Parameters
    ----------
    serve : callable
        The fixture that starts a rig.
    """

    VERBS = ("EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP")

    def __init__(self, serve: Callable[..., Any]):
        self._serve = serve
        self.told: list[tuple[str, str, tuple[Any, ...]]] = []
        self.uris: dict[str, str] = {}

    def rig(self, name: str, handlers: dict[str, Callable[..., Any]] | None = None, **options: Any) -> Any:
        def note(verb: str) -> Callable[..., None]:
            return lambda *args: self.told.append((name, verb, args))

        rig = self._serve(name, {verb: note(verb) for verb in self.VERBS}, **options)
        for verb, handler in (handlers or {}).items():
            rig.on(verb)(handler)
        self.uris[name] = rig.uri
        return rig

    def verbs(self, name: str) -> list[str]:
        return [verb for rig, verb, _ in self.told if rig == name]

    def args(self, name: str, verb: str) -> tuple[Any, ...]:
        (args,) = [args for rig, told, args in self.told if (rig, told) == (name, verb)]
        return args


class Wire:
    """A core without a protocol: it keeps what it gets, and sends and tells what the test puts into it."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.outbox: list[tuple[Any, bytes]] = []
        self.events: list[Any] = []
        self.due = math.inf
        self.ticks: list[float] = []
        self.violations: list[tuple[Any, RemoteProtocolError]] = []

    @property
    def messages(self) -> list[bytes]:
        return [data for data, _ in self.received]

    def receive_datagram(self, data: bytes, source: Any, now: float) -> None:
        self.received.append((data, source))

    def report_violation(self, source: Any, error: RemoteProtocolError) -> None:
        self.violations.append((source, error))

    def note_standstill(self, seconds: float, now: float) -> None:
        """Take no notice: a busy computer may bring it about in any test."""

    def handle_timer(self, now: float) -> None:
        self.ticks.append(now)
        if now >= self.due:
            self.due = math.inf

    def next_timer(self) -> float:
        return self.due

    def take_datagrams(self) -> list[tuple[Any, bytes]]:
        taken, self.outbox = self.outbox, []
        return taken

    def take_events(self) -> list[Any]:
        taken, self.events = self.events, []
        return taken


def run(main: Callable[[], Coroutine[Any, Any, Any]], limit: float = LONG) -> Any:
    loop = asyncio.SelectorEventLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main(), limit))
    finally:
        loop.run_until_complete(asyncio.sleep(0))  # sockets close in the turn after they are told to
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def came_true(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        await asyncio.sleep(0.001)


class RawRig:
    """A bare UDP socket that plays a rig of the rigsync dialect, and misbehaves as told.

    Parameters
    ----------
    on_request : callable, optional
        Called on the rig's thread with the rig, the request and where it came from; by default it is answered.
    answers_probes : bool
        Whether it shows signs of life.
    """

    boot = "00000000000000aa"

    def __init__(
        self,
        name: str = "raw",
        on_request: Callable[[RawRig, messages.Request, Any], object] | None = None,
        answers_probes: bool = True,
    ):
        self.name = name
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.02)
        self.port = self.socket.getsockname()[1]
        self.uri = f"udp://127.0.0.1:{self.port}"
        self.on_request = on_request or RawRig.reply
        self.answers_probes = answers_probes
        self.requests: list[messages.Request] = []
        self.received: list[bytes] = []
        self.sources: dict[str, Any] = {}
        """The coordinator's address by the kind of the last frame from it."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"raw rig {name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> RawRig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket without a word, as a killed process does."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(LONG)
        self.socket.close()

    def reply(self, request: messages.Request, source: Any, args: list[Any] | None = None) -> None:
        args = [{"by": self.name}] if args is None else args
        self.socket.sendto(messages.reply(self.boot, request.n, Message.of(request.event, args), 1, 2), source)

    def ignore(self, request: messages.Request, source: Any) -> None:
        """Take a request and say nothing."""

    def acknowledge(self, request: messages.Request, source: Any) -> None:
        """Confirm a request and never answer it."""
        self.socket.sendto(messages.ack(self.boot, request.n), source)

    def alive(self, n: int, t0: int) -> bytes:
        return messages.alive(messages.Alive(self.boot, n, t0, t0, t0, self.name, ExpStatus.CONNECTED, None, "raw"))

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                data, source = self.socket.recvfrom(65_535)
                frame = messages.decode(data)
            except (TimeoutError, RemoteProtocolError, ConnectionError):
                continue
            except OSError:
                return
            self.received.append(data)
            self.sources[type(frame).__name__] = source
            if isinstance(frame, messages.Probe) and self.answers_probes:
                self.socket.sendto(self.alive(frame.n, frame.t0), source)
            elif isinstance(frame, messages.Request):
                self.requests.append(frame)
                self.on_request(self, frame, source)


class EchoServer:
    """A real server of iblutil on a thread of its own, that answers each message.

    Parameters
    ----------
    answer : callable, optional
        Called with the event and what follows it; returns what is to follow the event in the answer, None for none.
    names : mapping, optional
        Messages that are answered by another one.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[ExpMessage, list[Any]], list[Any] | None] | None = None,
        names: Mapping[ExpMessage, ExpMessage] | None = None,
    ):
        self.name, self._names = name, dict(names or {})
        self.calls: list[tuple[ExpMessage, list[Any]]] = []
        self._server = iblutil_net().app.EchoProtocol.server
        self._answer = answer or (lambda event, data: [{"by": name}])
        self._loop = asyncio.SelectorEventLoop()
        self._ready: Future[Any] = Future()
        self._thread = threading.Thread(target=self._run, name=f"iblutil {name}", daemon=True)
        self._thread.start()
        self.protocol = self._ready.result(LONG)
        self.uri = self.protocol.server_uri

    def __enter__(self) -> EchoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(LONG)

    def send(self, *message: Any) -> Future[Any]:
        """Send a message of its own accord to who spoke last."""
        return asyncio.run_coroutine_threadsafe(self._confirm(list(message), self.client), self._loop)

    def complain(self, data: bytes) -> None:
        """Send who spoke last a datagram that it does not confirm, as iblutil does where a callback fails."""
        self._loop.call_soon_threadsafe(self.protocol._transport.sendto, data, self.client)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _confirm(self, message: list[Any], addr: Any) -> None:
        async with self._sending:  # iblutil takes the echo of one message for that of the next
            await self.protocol.confirmed_send(message, addr)

    async def _serve(self) -> None:
        self._end, self._sending = asyncio.Event(), asyncio.Lock()
        tasks: set[asyncio.Task[None]] = set()
        log = logging.getLogger(f"iblutil.test.{self.name}")
        try:
            server = await self._server(f"udp://127.0.0.1:{free_port()}", name=self.name, log=log)
        except BaseException as error:
            self._ready.set_exception(error)
            return

        def receive(data: list[Any], addr: Any, event: ExpMessage) -> None:
            self.client = addr
            self.calls.append((event, data))
            answer = self._answer(event, data)
            if answer is not None:
                message = [int(self._names.get(event, event)), *answer]
                tasks.add(asyncio.ensure_future(self._confirm(message, addr)))

        for event in ExpMessage.__members__.values():
            server.assign_callback(event, lambda data, addr, event=event: receive(data, addr, event))
        self._ready.set_result(server)
        await self._end.wait()
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def silent_rig(name: str = "silent") -> Iterator[dict[str, str]]:
    """A host that is up, with a port at which datagrams arrive and nobody reads them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield {name: f"udp://127.0.0.1:{sock.getsockname()[1]}"}
