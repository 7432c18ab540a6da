"""Rigs by way of a broker beside a raw fan-out of paho, in one run: `python -m benchmarks mqtt`. It needs mosquitto.

`python -m benchmarks.mqtt KIND PORT COUNT FIRST` serves rigs at a broker: ``rigsync``, or ``raw``, a client of paho for
each, which answers each message with one of the size of a reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.farm import raw_reply
from benchmarks.measure import MESSAGE
from benchmarks.osc import share_of
from rigsync.bridges.mqtt import MqttBridge

RIGS = 1000
EACH = 250
"""Rigs in a process: paho waits by select(), which watches 1,024 descriptors, and a client of it takes three."""
ROUNDS = 40
BEAT = 5.0
"""Seconds between probes to each rig, as docs/facility.md has it for so many."""


@contextlib.contextmanager
def broker() -> Iterator[int]:
    """Run a mosquitto; give its port on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosquitto.conf"
        path.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n", encoding="utf-8")
        command = [shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "mosquitto", "-c", str(path)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                time.sleep(0.5)
                yield port
            finally:
                process.terminate()


@contextlib.contextmanager
def rigs(kind: str, port: int, count: int) -> Iterator[None]:
    """Serve rigs at a broker, in as many processes as it takes."""
    with contextlib.ExitStack() as stack:
        processes = []
        for first in range(0, count, EACH):
            command = [
                sys.executable,
                "-m",
                "benchmarks.mqtt",
                kind,
                str(port),
                str(min(EACH, count - first)),
                str(first),
            ]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            processes.append(process)
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "here\n"
        yield
        for process in processes:
            assert process.stdin
            process.stdin.close()


def raw_client(port: int) -> Client:
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.connect("127.0.0.1", port)
    return client


def raw(count: int, rounds: int) -> list[float]:
    """Seconds from the first of as many messages as there are rigs until the last answer is there."""
    with broker() as port, rigs("raw", port, count):
        client, all_there = raw_client(port), threading.Event()
        waiting = [0]

        def heard(*_: Any) -> None:
            waiting[0] -= 1
            if not waiting[0]:
                all_there.set()

        client.on_message = heard
        client.subscribe("raw/+/out")
        client.loop_start()
        time.sleep(1)
        taken = []
        for _ in range(rounds):
            waiting[0] = count
            all_there.clear()
            begun = time.perf_counter()
            for number in range(count):
                client.publish(f"raw/{number}/in", MESSAGE)
            assert all_there.wait(30)
            taken.append(time.perf_counter() - begun)
            time.sleep(0.1)
        client.disconnect()
        client.loop_stop()
    return taken


def pushes(count: int, rounds: int) -> list[float]:
    """Seconds that pushes to as many rigs take."""
    from rigsync import Auxiliaries
    from rigsync.config.rigs import rigs_from
    from rigsync.core.timing import Timing

    with broker() as port, rigs("rigsync", port, count):
        uri = f"mqtt://127.0.0.1:{port}/lab"
        rigs_there = rigs_from({f"rig{number}": uri for number in range(count)}, Timing(beat=BEAT))
        with Auxiliaries(rigs_there, connect_timeout=60) as auxiliaries:
            time.sleep(10)  # past the burst of probes
            taken = []
            for _ in range(rounds):
                begun = time.perf_counter()
                assert len(auxiliaries.push("EXPSTATUS", 0, wait=True)) == count
                taken.append(time.perf_counter() - begun)
                time.sleep(0.1)
    return taken


def fan_out() -> tuple[list[float], list[float]]:
    """Quantiles of both, p50 and p99, in seconds: pushes by rigsync, and the raw fan-out."""
    found = (pushes(RIGS, ROUNDS), raw(RIGS, ROUNDS))
    ours, theirs = ([statistics.median(taken), sorted(taken)[-1 - len(taken) // 100]] for taken in found)
    return ours, theirs


async def serve(port: int, count: int, first: int) -> None:
    from rigsync import Rig

    async with contextlib.AsyncExitStack() as stack:
        made = [Rig(f"rig{number}", f"mqtt://127.0.0.1:{port}/lab") for number in range(first, first + count)]
        await asyncio.gather(*map(stack.enter_async_context, made))
        print("here", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def idle_share() -> float:
    """Share of one core that a bridge takes, with 4 rigs."""
    with broker() as port:
        return share_of(lambda aux: MqttBridge(aux, f"mqtt://127.0.0.1:{port}/lab"))


def serve_raw(port: int, count: int, first: int) -> None:
    answer = raw_reply()
    clients = []
    for number in range(first, first + count):
        client = raw_client(port)
        client.on_message = lambda client, _, message: client.publish(f"{message.topic[:-2]}out", answer)
        client.subscribe(f"raw/{number}/in")
        client.loop_start()
        clients.append(client)
    print("here", flush=True)
    sys.stdin.read()
    for client in clients:
        client.disconnect()
        client.loop_stop()


if __name__ == "__main__":
    which, *numbers = sys.argv[1:]
    if which == "raw":
        serve_raw(*map(int, numbers))
    else:
        asyncio.SelectorEventLoop().run_until_complete(serve(*map(int, numbers)))
