"""What strangers can do to a rig: `python -m benchmarks strangers` (about four minutes).

The rig is a process of its own, the attackers are another one, and the owner is in this one: it probes the rig all the
time, and runs one experiment after the other. `python -m benchmarks.strangers ATTACK PORT BOOT` runs one attack to its
end; BOOT is the owner's number, which an attacker may have read on the wire.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.owner import POLL, Owner

HERE = "127.0.0.1"
OTHER = "127.0.0.2"
"""Another host, where the system takes all of 127.0.0.0/8 for its own (Linux, Windows)."""
LARGE = 59_000_000
"""Bytes of a large message."""
WIDE = 25_000_000
"""Bytes of a large text with one character beyond U+FFFF, which counts 2.5 times."""
UNREAD = 20_000_000
"""Bytes of each of many large messages whose echoes nobody reads."""
FLOODED = 64 << 20
"""Bytes beyond what a rig took before that are a lot, whatever small things come."""
TIMES = 4
"""Times its size that a large message may take."""
DEAF = 0.5
"""Seconds without an answer to a probe that are many."""
AMPLIFIED = 3
"""Bytes that may leave for each that has come."""


# ------------------------------------------------------------------------------------------------------ the rig


def serve(uri: str, streams: int) -> None:
    """Serve until EOF, with a description of 31 kB where there are streams; print the port."""
    from rigsync import Rig

    logging.disable(logging.CRITICAL)
    rig = Rig("rig", uri, experiment_description={"devices": "x" * 31_000 * bool(streams)})
    rig.on("EXPINIT", "EXPSTART", "EXPEND")(lambda *_: None)
    for number in range(streams):
        rig.add_stream(f"camera{number}", state="RECORDING", file="x" * 100)
    with rig:
        print(rig.uri.rpartition(":")[2], flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def rig_program(uri: str, streams: int = 0) -> Iterator[tuple[int, int]]:
    """Run a rig in a process of its own; give its process id and port."""
    command = [sys.executable, "-m", "benchmarks.strangers", "rig", uri, str(streams)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(20)


# ------------------------------------------------------------------------------------------------ the attackers


def expinfo(boot: str, args: bytes, at: int | None = None) -> bytes:
    head = f'{{"rigsync":1,"kind":"request","boot":"{boot}","n":1,"event":"EXPINFO","at":{at or "null"},"args":[0,'
    return head.encode() + args + b"]}"


def lists() -> bytes:
    return b"[" + b"[]," * (LARGE // 3) + b"[]]"


def text(is_frame: bool) -> bytes:
    """Return one large text, as a frame or as a message of the iblutil dialect."""
    content = b'"' + b"x" * LARGE + b'"'
    return expinfo("a" * 16, content) if is_frame else b"[64,0," + content + b"]"


def send_large(port: int, data: bytes, count: int = 1) -> None:
    """Send a large message on each of some connections, and read what the rig says until it has no more to say."""

    def send(sock: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):  # it is closed before all has left
            sock.sendall(data)

    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection((HERE, port))) for _ in range(count)]
        senders = [threading.Thread(target=send, args=[sock]) for sock in socks]
        for sender in senders:
            sender.start()
        for sock in socks:
            sock.settimeout(3)
            with contextlib.suppress(ConnectionError, TimeoutError):
                while sock.recv(1 << 20):
                    pass
        for sender in senders:
            sender.join()


def read_nothing(port: int, size: int, count: int) -> None:
    """Send a message of the iblutil dialect on each of some connections, and read nothing for 5 s."""

    def send(sock: socket.socket, number: int) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # it is closed before all has left
            sock.sendall(b'[64,%d,"' % number + b"x" * size + b'"]')

    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection((HERE, port), 20)) for _ in range(count)]
        senders = [threading.Thread(target=send, args=[sock, number]) for number, sock in enumerate(socks)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        time.sleep(5)


def begin_messages(port: int) -> None:
    """Have 126 connections begin a message of 1 MB, and stop for 6 s."""
    with contextlib.ExitStack() as stack:
        left = {}
        for number in range(126):
            sock = stack.enter_context(socket.create_connection((HERE, port)))
            sock.setblocking(False)
            left[sock] = expinfo(f"{number:016x}", b'"' + b"x" * 1_000_000)
        until = time.monotonic() + 6
        while time.monotonic() < until:
            for sock, data in left.items():
                with contextlib.suppress(BlockingIOError, ConnectionError):  # the second where it was dropped
                    left[sock] = data[sock.send(data) :]
            time.sleep(0.1)


def flood(port: int, datagrams: Iterator[bytes], ports: int, each: int, source: str = HERE, answered: int = 1) -> None:
    """Send datagrams from many ports, `each` from each, no faster than the rig answers: so that it has to take them.

    One in `answered` has an answer.
    """
    for _ in range(ports):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            sock.connect((HERE, port))
            sock.settimeout(1)
            for sent in range(0, each, 16):
                block = list(itertools.islice(datagrams, min(16, each - sent)))
                with contextlib.suppress(OSError):  # no answer within the time: so it goes on
                    for data in block:
                        sock.send(data)
                    for _ in block[::answered]:
                        sock.recv(1 << 16)


def rush(port: int, datagrams: Iterator[bytes]) -> None:
    """Send datagrams from 20 ports as fast as they leave, for 5 s, far more than a rig can handle."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(20)]
        for sock in socks:
            sock.connect((HERE, port))
            sock.setblocking(False)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            for sock in socks:
                with contextlib.suppress(OSError):
                    sock.send(next(datagrams))


def instants() -> Iterator[bytes]:
    content, at = b'"' + b"x" * 60_000 + b'"', time.time_ns() + 3_600 * 10**9
    return (expinfo(f"{boot:016x}", content, at) for boot in itertools.count())


def forged(owner: str) -> Iterator[bytes]:
    """Yield the probe and the request of one coordinator after the other, and their goodbyes, and the owner's."""
    for number in itertools.count():
        boot = f"{number:016x}"
        yield b'{"rigsync":1,"kind":"probe","boot":"%s","n":1,"t0":1}' % boot.encode()
        yield expinfo(boot, b"null")
        for name in (boot, owner):
            yield b'{"rigsync":1,"kind":"bye","boot":"%s","n":1,"reason":"forged"}' % name.encode()


ATTACKS: dict[str, Callable[[int, str], None]] = {
    "nothing": lambda *_: time.sleep(5),
    "lists": lambda port, _: send_large(port, lists()),
    "lists3": lambda port, _: send_large(port, lists(), 3),
    "text": lambda port, _: send_large(port, text(is_frame=False)),
    "textframe": lambda port, _: send_large(port, text(is_frame=True)),
    "wide": lambda port, _: send_large(port, expinfo("a" * 16, b'"' + b"x" * WIDE + "\U0001f600".encode() + b'"')),
    "unread": lambda port, _: read_nothing(port, UNREAD, 45),
    "begun": lambda port, _: begin_messages(port),
    "instants": lambda port, _: flood(port, instants(), 1, 4_000),
    "instantsports": lambda port, _: flood(port, instants(), 2_000, 2),
    "frames": lambda port, _: flood(port, (expinfo(f"{n:016x}", b"null") for n in itertools.count()), 2_000, 100),
    "arrays": lambda port, _: flood(port, (b"[64,0,%d]" % n for n in itertools.count()), 2_000, 100),
    "rush": lambda port, _: rush(port, (expinfo(f"{n:016x}", b"null") for n in itertools.count())),
    "forged": lambda port, owner: flood(port, forged(owner), 17, 16_000, OTHER, answered=2),
}


# --------------------------------------------------------------------------------------------------- the damage


class Damage(NamedTuple):
    """What an attack has done."""

    memory: int
    """Bytes that the rig had beyond those before, at most."""
    longest: float
    """Seconds between a probe of the owner and the next answer, at most."""
    commands: int
    failed: int
    """Messages of the owner, and those that did not run."""
    seconds: float
    """That the attack took."""


def resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def most_resident(pid: int) -> int:
    """Return the bytes that a process had at most so far, those that it has where the system does not tell that."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    return resident(pid)


def damage(attack: str, scheme: str) -> Damage:
    """Have a rig of its own attacked, and return what that did to it and to its owner."""
    with rig_program(f"{scheme}://{HERE}:0") as (pid, port):
        with Owner(f"{scheme}://{HERE}:{port}") as owner:
            time.sleep(1)
            before = most = resident(pid)
            owner.longest, began = 0.0, time.monotonic()
            command = [sys.executable, "-m", "benchmarks.strangers", attack, str(port), owner.boot]
            with subprocess.Popen(command) as attackers:
                while attackers.poll() is None:
                    time.sleep(POLL)
                    most = max(most, resident(pid))
            seconds = time.monotonic() - began
            assert not attackers.returncode
        most = max(most, most_resident(pid))
    return Damage(most - before, owner.longest, owner.commands, owner.failed, seconds)


# ------------------------------------------------------------------------------------------------ amplification


def own_address() -> str | None:
    """Return an IPv4 address of this computer that is not the loopback's, which has to show nothing."""
    found = itertools.chain.from_iterable(psutil.net_if_addrs().values())
    addresses = (address.address for address in found if address.family == socket.AF_INET)
    return next((address for address in addresses if not address.startswith("127.")), None)


def questions() -> dict[str, bytes]:
    """Return what a forger may ask, by what it is."""
    return {
        "EXPINFO, rigsync dialect": expinfo("a" * 16, b"null"),
        "a probe": b'{"rigsync":1,"kind":"probe","boot":"%s","n":1,"t0":1}' % (b"a" * 16),
        "EXPINFO, iblutil dialect, whose first answers are bounded in bytes for all hosts together": b"[64,0,null]",
    }


def amplification(address: str, data: bytes) -> tuple[int, int]:
    """Return how many bytes a rig with a large description and 64 streams sends in 5 s to one that never answers.

    Also those that were sent to it.
    """
    with rig_program("udp://0.0.0.0:0", 64) as (_, port), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        sock.send(data)
        came, until = 0, time.monotonic() + 5
        with contextlib.suppress(TimeoutError):
            while (left := until - time.monotonic()) > 0:
                sock.settimeout(left)
                came += len(sock.recv(1 << 16))
    return came, len(data)


if __name__ == "__main__":
    if sys.argv[1] == "rig":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        ATTACKS[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
