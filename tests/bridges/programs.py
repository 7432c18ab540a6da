"""Programs of other protocols that rigs stand in for, on threads of a test."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pythonosc.osc_bundle import OscBundle
from pythonosc.osc_message import OscMessage

from bridges.support import message


class Heard(NamedTuple):
    at: float
    """Unix time at which it came."""
    due: float | None
    """When it is to be acted on; None for at once."""
    address: str
    args: tuple[Any, ...]
    datagram: bytes


Reaction = Callable[..., None]
"""Called with what came, and with a function that sends a message back."""


class OscProgram:
    """Hears OSC messages, and reacts to each address by a function of the test."""

    def __init__(self, reactions: dict[str, Reaction] | None = None, port: int = 0):
        self.reactions = reactions or {}
        self.all: list[Heard] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def heard(self) -> list[Heard]:
        return [heard for heard in self.all if heard.address != "/ping"]

    @property
    def addresses(self) -> list[str]:
        return [heard.address for heard in self.heard]

    def _serve(self) -> None:
        while True:
            data, source = self._socket.recvfrom(65536)
            if not data:
                return
            at, due, content = time.time(), None, data
            if OscBundle.dgram_is_bundle(data):
                bundle = OscBundle(data)
                due, content = bundle.timestamp, bundle.content(0).dgram
            told = OscMessage(content)
            heard = Heard(at, due, told.address, tuple(told.params), data)
            self.all.append(heard)
            if reaction := self.reactions.get(told.address):
                reaction(heard, lambda address, *args, to=source: self.send(to, message(address, *args).dgram))

    def send(self, to: Any, data: bytes) -> None:
        self._socket.sendto(data, to)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knocking:
            knocking.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()


def answers(*told: Any) -> Reaction:
    """Return a reaction that answers at once: with the first argument, or else the address, and what is given."""

    def answer(heard: Heard, send: Callable[..., None]) -> None:
        key = heard.args[0] if heard.args and isinstance(heard.args[0], int) else heard.address
        send("/answer", key, *told)

    return answer


def pong(heard: Heard, send: Callable[..., None]) -> None:
    send("/pong")


@contextlib.contextmanager
def osc_program(reactions: dict[str, Reaction] | None = None, port: int = 0) -> Iterator[OscProgram]:
    program = OscProgram(reactions, port)
    try:
        yield program
    finally:
        program.close()
