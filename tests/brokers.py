"""Brokers of MQTT for tests: mosquitto in a process of its own, and a relay before it that loses publications."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from getpass import getuser
from pathlib import Path
from random import Random

import pytest
from processes import LONG, free_port, until

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
_HAS_CLIENTS = shutil.which("mosquitto_sub") and shutil.which("mosquitto_passwd")
needs_mosquitto = pytest.mark.skipif(not (MOSQUITTO and _HAS_CLIENTS), reason="no mosquitto here, with its clients")


class Broker:
    """A mosquitto on a port of loopback; it may be killed and started again there.

    Parameters
    ----------
    folder : Path
        Where its configuration stands.
    lines : sequence of str
        What is in that besides the port. Without any, everybody may come in.
    """

    def __init__(self, folder: Path, lines: Sequence[str] = ("allow_anonymous true",), scheme: str = "mqtt"):
        self.folder, self.port, self.scheme = folder, free_port(), scheme
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(*lines)

    def configure(self, *lines: str) -> None:
        """Write another configuration, for the next start."""
        text = "\n".join([f"listener {self.port} 127.0.0.1", "set_tcp_nodelay true", f"user {getuser()}", *lines, ""])
        (self.folder / "mosquitto.conf").write_text(text, encoding="utf-8")

    def start(self) -> None:
        command = [str(MOSQUITTO), "-v", "-c", str(self.folder / "mosquitto.conf")]
        with open(self.folder / "mosquitto.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._answers, LONG)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(LONG)
            self._process = None

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(encoding="utf-8", errors="replace")

    def uri(self, prefix: str = "lab", login: str = "", port: int | None = None) -> str:
        return f"{self.scheme}://{login + '@' if login else ''}127.0.0.1:{port or self.port}/{prefix}"


@contextlib.contextmanager
def running_broker(folder: Path, *lines: str, scheme: str = "mqtt") -> Iterator[Broker]:
    """Run a broker."""
    broker = Broker(folder, lines or ("allow_anonymous true",), scheme)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


class LossyRelay:
    """A relay before a broker that loses a share of the publications with QoS 0 on their way there.

    Parameters
    ----------
    port : int
        The broker's.
    share : float
        From 0 to 1.
    """

    def __init__(self, port: int, share: float, seed: int = 1):
        self._to, self._share, self._random = port, share, Random(seed)
        self.lost = self.passed = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listening]
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def __enter__(self) -> LossyRelay:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(LONG)

    def _run(self, function: Callable[..., None], *args: socket.socket) -> None:
        self._threads.append(threading.Thread(target=self._quietly, args=(function, *args), daemon=True))
        self._threads[-1].start()

    def _quietly(self, function: Callable[..., None], *args: socket.socket) -> None:
        with contextlib.suppress(OSError):
            function(*args)

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            broker = socket.create_connection(("127.0.0.1", self._to))
            for sock in (client, broker):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, broker]
            self._run(self._pass_packets, client, broker)
            self._run(self._pass_bytes, broker, client)

    def _pass_bytes(self, source: socket.socket, destination: socket.socket) -> None:
        while data := source.recv(1 << 16):
            destination.sendall(data)
        destination.shutdown(socket.SHUT_RDWR)

    def _pass_packets(self, source: socket.socket, destination: socket.socket) -> None:
        with source.makefile("rb") as stream:
            while head := stream.read(1):
                size, shift, length = 0, 0, b""
                while not length or length[-1] & 128:  # MQTT 5, section 1.5.5
                    length += stream.read(1)
                    size |= (length[-1] & 127) << shift
                    shift += 7
                packet = head + length + stream.read(size)
                if head[0] & 0xF6 == 0x30 and self._random.random() < self._share:  # PUBLISH, with QoS 0
                    self.lost += 1
                else:
                    self.passed += 1
                    destination.sendall(packet)
        destination.shutdown(socket.SHUT_RDWR)
