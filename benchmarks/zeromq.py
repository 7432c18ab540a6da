"""The ZeroMQ bridge beside raw pyzmq, in one run: `python -m benchmarks zmq`.

`python -m benchmarks.zeromq PUB REP LAST` hears events as docs/bridges.md says, until one with that number.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from benchmarks.farm import farm
from benchmarks.measure import auxiliaries
from benchmarks.osc import share_of
from rigsync.bridges.zmq import ZmqBridge
from rigsync.hub.events import define
from rigsync.hub.timers import Timer

MANY = 100_000
SPACED = 1500
"""Events of the measurement of latency."""
Mark = define("BenchmarkMark")
PAGE = Path(__file__).parents[1] / "docs" / "bridges.md"


@contextmanager
def bridged() -> Iterator[ZmqBridge]:
    with farm("rigsync", 4) as ports, auxiliaries(ports) as aux:
        time.sleep(2)  # past the burst of probes
        with ZmqBridge(aux, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0") as bridge:
            yield bridge


@contextmanager
def listening(*args: object) -> Iterator[Any]:
    command = [sys.executable, "-m", "benchmarks.zeromq", *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "here\n"
        yield process.stdout


def latency() -> tuple[float, float]:
    """Median seconds from the event to a subscriber in another process, and from sending its bytes by raw pyzmq."""
    with bridged() as bridge, listening(bridge.pub, bridge.rep, SPACED - 1) as out:
        each = Timer(0.002, "count up", count=SPACED, make=lambda tick: Mark([tick.value - 1, time.time()]))
        bridge.lab.hub.add(each)  # on the event loop, where events of rigs begin, too
        ours = statistics.median(map(float, out.readline().split()))
    with zmq.Context() as context, context.socket(zmq.PUB) as pub:
        port = pub.bind_to_random_port("tcp://127.0.0.1")
        with listening(f"tcp://127.0.0.1:{port}") as out:
            time.sleep(1)  # its subscription
            for _ in range(SPACED):
                pub.send_multipart([b"BenchmarkMark.", b"%-300.6f" % time.time()])
                time.sleep(0.002)
            pub.send_multipart([b"BenchmarkMark.", b""])
            theirs = statistics.median(map(float, out.readline().split()))
    return ours, theirs


def joined() -> tuple[int, int, float]:
    """Events heard by who joins in the middle, how many of them were missed or came twice, and events a second."""
    with bridged() as bridge:
        hub, begun = bridge.lab.hub, time.perf_counter()
        for number in range(MANY // 2):
            hub.ingest(Mark([number, 0.0]))
        with listening(bridge.pub, bridge.rep, MANY - 1) as out:
            for number in range(MANY // 2, MANY):
                hub.ingest(Mark([number, 0.0]))
            seen = list(map(int, out.readline().split()))
            took = time.perf_counter() - begun
    return len(seen), sum(one != seen[0] + place for place, one in enumerate(seen)), MANY / took


def idle_share() -> float:
    """Share of one core that a bridge takes, with 4 rigs and one subscriber."""

    @contextmanager
    def heard(aux: Any) -> Iterator[None]:
        with zmq.Context() as context, context.socket(zmq.SUB) as sub:
            sub.subscribe("")
            with ZmqBridge(aux, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0") as bridge:
                sub.connect(bridge.pub)
                yield

    return share_of(heard)


def hear(pub: str, rep: str, last: int) -> None:
    space: dict[str, Any] = {}
    page = PAGE.read_text(encoding="utf-8")
    exec(next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def events" in block), space)
    seen: list[Any] = []
    for told in space["events"](pub, rep):
        if "type" not in told:
            print("here", flush=True)
        elif told["type"] == "BenchmarkMark":
            number, stamp = told["fields"]["payload"]
            seen.append(time.time() - stamp if stamp else number)
            if number == last:
                break
    print(*seen, flush=True)


def hear_raw(pub: str) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        sub.connect(pub)
        sub.subscribe("")
        print("here", flush=True)
        seen: list[float] = []
        while data := sub.recv_multipart()[1]:
            seen.append(time.time() - float(data))
    print(*seen, flush=True)


if __name__ == "__main__":
    if sys.argv[2:]:
        hear(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        hear_raw(sys.argv[1])
