"""Rigs in a process of their own: `python -m benchmarks.farm KIND COUNT FIRST` prints their ports and serves until EOF.

KIND is ``raw`` (asyncio endpoints that answer each datagram with one of the size of a rigsync reply), ``rigsync``
(rigs without handlers), ``handlers`` (rigs whose handlers run in worker threads), ``iblutil`` (EchoProtocol servers
that answer), ``slow`` (iblutil's wire with 0.4 s between a message and its echo), ``lossy`` (rigs behind a network
that loses 20 % each way), ``jittery`` (behind one that delays each datagram by 2 to 20 ms; their handlers tell when
they were entered), or ``near`` (the same with 1 to 6 ms).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

SLOW_ECHO = 0.4
"""Seconds."""
FAULTS: dict[str, dict[str, Any]] = {
    "lossy": {"loss": 0.2},
    "jittery": {"delay": (0.002, 0.02)},
    "near": {"delay": (0.001, 0.006)},
}
"""What the relay before the rigs of a kind does."""


@contextlib.contextmanager
def farm(kind: str, count: int, first: int = 0) -> Iterator[list[int]]:
    """Run `count` rigs of one kind, numbered from `first`, in a process of their own; give their ports on 127.0.0.1."""
    command = [sys.executable, "-m", "benchmarks.farm", kind, str(count), str(first)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(10)


class RawRig(asyncio.DatagramProtocol):
    """Answers each datagram with a fixed one."""

    def __init__(self, answer: bytes):
        self._answer = answer

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(self._answer, addr)


class SlowEcho(asyncio.DatagramProtocol):
    """iblutil's wire over a long way: echoes late, then answers, and notes when it was told to start."""

    def __init__(self) -> None:
        self._answered = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if data == self._answered or data[:1] == b"{":
            if data[:1] == b"{":
                self._transport.sendto(data, addr)  # a probe
            return
        told = asyncio.get_running_loop().time()
        asyncio.get_running_loop().call_later(SLOW_ECHO, self._echo, data, addr, told)

    def _echo(self, data: bytes, addr: tuple[str, int], told: float) -> None:
        self._transport.sendto(data, addr)
        self._answered = json.dumps([json.loads(data)[0], told, {}]).encode()
        asyncio.get_running_loop().call_later(0.01, self._transport.sendto, self._answered, addr)


def raw_reply() -> bytes:
    """Return a reply as a rigsync rig sends it to EXPSTATUS."""
    from rigsync.core import messages
    from rigsync.core.arguments import encode
    from rigsync.core.enums import ExpMessage

    stamp = 1_700_000_000_000_000_000
    return messages.reply("0" * 16, 1234, encode(ExpMessage.EXPSTATUS, [0]), stamp, stamp)


async def serve(kind: str, count: int, first: int) -> None:
    loop = asyncio.get_running_loop()
    ports = []
    async with contextlib.AsyncExitStack() as stack:
        for number in range(first, first + count):
            if kind in ("rigsync", "handlers", *FAULTS):
                ports.append(await open_rig(stack, kind, number))
            elif kind == "iblutil":
                ports.append(await open_iblutil(number))
            else:
                factory = SlowEcho if kind == "slow" else lambda: RawRig(raw_reply())
                transport, _ = await loop.create_datagram_endpoint(factory, local_addr=("127.0.0.1", 0))
                ports.append(transport.get_extra_info("sockname")[1])
        print(json.dumps(ports), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


async def open_rig(stack: contextlib.AsyncExitStack, kind: str, number: int) -> int:
    from rigsync import Rig

    rig = Rig(f"rig{number}", "udp://127.0.0.1:0")
    if kind == "handlers":
        rig.on("EXPSTATUS")(lambda status=None: None)
    elif kind in ("jittery", "near"):
        rig.on("EXPINFO")(start_recording)
    await stack.enter_async_context(rig)
    port = int(rig.uri.rpartition(":")[2])
    if kind in FAULTS:
        from rigsync.net.relay import Relay

        relay = Relay(("127.0.0.1", port), **FAULTS[kind])
        await relay.open()
        stack.callback(relay.close)
        return relay.address[1]
    return port


def start_recording() -> dict[str, float]:
    entered = time.monotonic()
    # As a camera takes; meanwhile the processor is the other rigs', which share it here and nowhere else.
    time.sleep(0.05)
    return {"entered": entered}


async def open_iblutil(number: int) -> int:
    import socket

    from iblutil.io.net.app import EchoProtocol
    from iblutil.io.net.base import ExpMessage

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    quiet = logging.getLogger("benchmark")
    server = await EchoProtocol.server(f"udp://127.0.0.1:{port}", name=f"rig{number}", log=quiet)
    tasks = set()

    def answer(data: list[Any], addr: tuple[str, int], event: Any) -> None:
        task = asyncio.get_running_loop().create_task(server.confirmed_send([event, *data], addr=addr))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server.assign_callback(ExpMessage.any(), answer)
    return port


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    # Not epoll, which wakes up to a millisecond late: delays are to be what they are said to be.
    event_loop = asyncio.SelectorEventLoop(selectors.SelectSelector() if sys.argv[1] in FAULTS else None)
    event_loop.run_until_complete(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
