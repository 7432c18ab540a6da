"""The ZeroMQ bridge beside raw pyzmq, in one run: `python -m benchmarks zmq`.

`python -m benchmarks.zeromq PUB REP LAST` hears events as docs/bridges.md says, until one with that number.
`python -m benchmarks.zeromq hub LAST` is a hub that takes events from another one, and `python -m benchmarks.zeromq
pull LAST` a PULL socket.
"""

from __future__ import annotations

import asyncio
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
from rigsync import Hub
from rigsync.bridges.zmq import ZmqBridge, ZmqSink, ZmqSource
from rigsync.hub.events import define
from rigsync.hub.timers import Timer

MANY = 100_000
SPACED = 1500
"""Events of the measurement of latency."""
MOST_AHEAD = 5000
"""Events that wait in a sink: half of what it keeps."""
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


def latency() -> tuple[float, float, float]:
    """Median seconds from the event to a subscriber in another process, and from sending its bytes by raw pyzmq.

    Events begin on the event loop, as those of rigs do; and, for the second figure, on another thread.
    """
    with bridged() as bridge, listening(bridge.pub, bridge.rep, SPACED - 1) as out:
        each = Timer(0.002, "count up", count=SPACED, make=lambda tick: Mark([tick.value - 1, time.time()]))
        bridge.lab.hub.add(each)
        ours = statistics.median(map(float, out.readline().split()))
    with bridged() as bridge, listening(bridge.pub, bridge.rep, SPACED - 1) as out:
        for number in range(SPACED):
            bridge.lab.hub.ingest(Mark([number, time.time()]))
            time.sleep(0.002)
        elsewhere = statistics.median(map(float, out.readline().split()))
    with zmq.Context() as context, context.socket(zmq.PUB) as pub:
        port = pub.bind_to_random_port("tcp://127.0.0.1")
        with listening(f"tcp://127.0.0.1:{port}") as out:
            time.sleep(1)  # its subscription
            for _ in range(SPACED):
                pub.send_multipart([b"BenchmarkMark.", b"%-300.6f" % time.time()])
                time.sleep(0.002)
            pub.send_multipart([b"BenchmarkMark.", b""])
            theirs = statistics.median(map(float, out.readline().split()))
    return ours, elsewhere, theirs


@contextmanager
def receiving(role: str, last: int) -> Iterator[tuple[str, Any]]:
    """Run a receiver in another process; give where it listens, and what it prints."""
    command = [sys.executable, "-m", "benchmarks.zeromq", role, str(last)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip(), process.stdout


async def by_hub(uri: str, count: int, interval: float) -> None:
    """Tell events in a hub that is joined with the one at `uri`, as fast as it takes them for an interval of 0."""
    async with Hub("here") as hub, ZmqSink(hub, uri) as sink:
        for number in range(count):
            hub.ingest(Mark([number, time.time()]))
            if interval or len(sink._outgoing) > MOST_AHEAD:
                await asyncio.sleep(interval or 0.001)
        await sink._emptied.wait()


def by_push(uri: str, count: int, interval: float) -> None:
    """Send as many bytes of each event by a PUSH socket."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.connect(uri)
        for _ in range(count):
            push.send(b"%-220.6f" % time.time())  # about as long as an event between hubs
            if interval:
                time.sleep(interval)


def between_hubs() -> dict[str, tuple[float, float, float]]:
    """Return p50 and p95 of seconds from hub to hub, and events a second; and the same of PUSH and PULL."""
    found = {}
    for role in ("hub", "pull"):
        figures: list[float] = []
        for count, interval in ((SPACED, 0.002), (MANY, 0.0)):
            with receiving(role, count - 1) as (uri, out):
                if role == "hub":
                    asyncio.SelectorEventLoop().run_until_complete(by_hub(uri, count, interval))
                else:
                    by_push(uri, count, interval)
                figures += map(float, out.readline().split())
        half, most, _, _, _, rate = figures
        found[role] = half, most, rate
    return found


def told(late: list[float], begun: float, ended: float) -> None:
    """Print p50, p95 and events a second."""
    print(statistics.median(late), statistics.quantiles(late, n=20)[-1], len(late) / (ended - begun), flush=True)


async def take(last: int) -> None:
    late: list[float] = []
    times: list[float] = []
    done = asyncio.Event()

    def note(mark: Any) -> None:
        number, stamp = mark.payload
        times.append(time.time())
        late.append(times[-1] - stamp)
        if number == last:
            done.set()

    async with Hub("there") as hub, ZmqSource(hub, "tcp://127.0.0.1:0") as source:
        hub.subscribe("BenchmarkMark", note)
        print(source.uri, flush=True)
        await done.wait()
        told(late, times[0], times[-1])
        await asyncio.sleep(0.1)  # the last acknowledgement


def pull(last: int) -> None:
    late: list[float] = []
    times: list[float] = []
    with zmq.Context() as context, context.socket(zmq.PULL) as sock:
        print(f"tcp://127.0.0.1:{sock.bind_to_random_port('tcp://127.0.0.1')}", flush=True)
        for _ in range(last + 1):
            stamp = float(sock.recv())
            times.append(time.time())
            late.append(times[-1] - stamp)
    told(late, times[0], times[-1])


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
    if sys.argv[1] == "hub":
        asyncio.SelectorEventLoop().run_until_complete(take(int(sys.argv[2])))
    elif sys.argv[1] == "pull":
        pull(int(sys.argv[2]))
    elif sys.argv[2:]:
        hear(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        hear_raw(sys.argv[1])
