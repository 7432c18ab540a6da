"""The measurements; each gives the thing measured and what it is held against, from the same run."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import functools
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from benchmarks.farm import farm
from rigsync.core import messages

MESSAGE = b'{"rigsync":1,"kind":"request","boot":"0123456789abcdef","n":1234,"event":"EXPSTATUS","args":[0],"at":null}'


def median(sample: list[float]) -> float:
    return statistics.median(sample)


def interleaved(rounds: int, *calls: Callable[[], float]) -> list[list[float]]:
    """Call each in turn, over and over, so that all meet the same weather; return the seconds each took."""
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for sample, call in zip(samples, calls, strict=True):
            sample.append(call())
    return samples


class RawFanout:
    """The floor: a thread with an event loop, a connected socket for each rig, no protocol at all."""

    def __init__(self, ports: list[int]):
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._waiting = 0
        self._future: Future[None] = Future()
        self._transports: list[Any] = []
        asyncio.run_coroutine_threadsafe(self._open(ports), self._loop).result()

    async def _open(self, ports: list[int]) -> None:
        fanout = self

        class Line(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                fanout._waiting -= 1
                if not fanout._waiting:
                    fanout._future.set_result(None)

        for port in ports:
            transport, _ = await self._loop.create_datagram_endpoint(Line, remote_addr=("127.0.0.1", port))
            self._transports.append(transport)

    def push(self) -> float:
        begun = time.perf_counter()
        self._future = Future()
        self._loop.call_soon_threadsafe(self._send)
        self._future.result(10)
        return time.perf_counter() - begun

    def _send(self) -> None:
        self._waiting = len(self._transports)
        for transport in self._transports:
            transport.sendto(MESSAGE)

    def close(self) -> None:
        for transport in self._transports:
            self._loop.call_soon_threadsafe(transport.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


class PollingAuxiliaries:
    """The existing pattern: a thread that looks into a queue every 0.2 s and awaits iblutil's `Services`."""

    refresh_rate = 0.2

    def __init__(self, clients: dict[str, str]):
        self._clients = clients
        self._queue: dict[float, Any] = {}
        self._log: dict[float, Any] = {}
        self._answered = threading.Condition()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)
        self._thread.start()
        self._ready.wait(10)

    async def _listen(self) -> None:
        import logging

        from iblutil.io.net.app import EchoProtocol, Services

        quiet = logging.getLogger("benchmark")
        rigs = [await EchoProtocol.client(uri, name, log=quiet) for name, uri in self._clients.items()]
        services = Services(rigs, timeout=10)
        self._ready.set()
        while not self._stop.is_set():
            for when in sorted(self._queue):
                method, args = self._queue.pop(when)
                answers = await getattr(services, method)(*args)
                with self._answered:
                    self._log[when] = answers
                    self._answered.notify_all()
            await asyncio.sleep(self.refresh_rate)
        services.close()

    def push(self, method: str, *args: Any) -> Any:
        when = time.time()
        with self._answered:
            self._queue[when] = method, args
            self._answered.wait_for(lambda: when in self._log, 15)
        return self._log[when]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)


@contextlib.contextmanager
def auxiliaries(ports: list[int], **options: Any) -> Iterator[Any]:
    from rigsync import Auxiliaries

    with Auxiliaries({f"rig{i}": f"127.0.0.1:{port}" for i, port in enumerate(ports)}, **options) as aux:
        aux.wait_for(timeout=60)
        yield aux


def allow_sockets(count: int) -> None:
    """Let this process and those that it starts have so many open files, where the system allows fewer by default."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < count:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(count, hard) if hard >= 0 else hard))


def timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def push_once(aux: Any) -> None:
    result = aux.push("EXPSTATUS", wait=True)
    assert not isinstance(result, Exception), result


def push_latency(count: int, rounds: int, kind: str = "rigsync") -> tuple[float, float]:
    """Medians in seconds of ``push(wait=True)`` to `count` rigs in another process, and of the raw fan-out."""
    allow_sockets(3 * count + 100)
    with farm(kind, count) as ports, farm("raw", count) as raw_ports, auxiliaries(ports) as aux:
        raw = RawFanout(raw_ports)
        interleaved(20, lambda: timed(lambda: push_once(aux)), raw.push)
        ours, floor = interleaved(rounds, lambda: timed(lambda: push_once(aux)), raw.push)
        raw.close()
    return median(ours), median(floor)


def polling_latency(count: int, rounds: int) -> float:
    """Median in seconds of a push by the existing pattern to `count` iblutil rigs in another process."""
    with farm("iblutil", count) as ports:
        aux = PollingAuxiliaries({f"rig{i}": f"udp://127.0.0.1:{port}" for i, port in enumerate(ports)})
        sample = [timed(lambda: aux.push("status", 0)) for _ in range(rounds)]
        aux.close()
    return median(sample)


def iblutil_latency(count: int, rounds: int, rest: float) -> float:
    """Median in seconds of a rigsync push to `count` iblutil rigs in another process, `rest` s after the one before."""
    sample = []
    with farm("iblutil", count) as ports, auxiliaries(ports) as aux:
        for _ in range(rounds):
            time.sleep(rest)
            sample.append(timed(lambda: push_once(aux)))
    return median(sample)


def start_spread() -> tuple[float, float]:
    """Seconds between the first and the last of four iblutil rigs with 0.4 s echoes being told to start.

    Of rigsync, and of the existing pattern.
    """
    with farm("slow", 4) as ports, auxiliaries(ports) as aux:
        told = [answer[0] for answer in aux.request("EXPSTART", "2026-01-01_1_mouse").values()]
        ours = max(told) - min(told)
    with farm("slow", 4) as ports:
        polling = PollingAuxiliaries({f"rig{i}": f"udp://127.0.0.1:{port}" for i, port in enumerate(ports)})
        told = [answer[0] for answer in polling.push("start", "2026-01-01_1_mouse").values()]
        polling.close()
    return ours, max(told) - min(told)


def quantile(sample: list[float], share: float) -> float:
    """Return the value below which a share of the sample lies."""
    return sorted(sample)[min(len(sample) - 1, int(share * len(sample)))]


def latency_under_loss(pushes: int = 1000) -> tuple[int, float, float]:
    """How many pushes to 3 rigs succeed where 20 % are lost each way, and their p50 and p99 in seconds."""
    with farm("lossy", 3) as ports, auxiliaries(ports) as aux:
        sample, succeeded = [], 0
        for _ in range(pushes):
            begun = time.perf_counter()
            succeeded += not isinstance(aux.push("EXPSTATUS", wait=True), Exception)
            sample.append(time.perf_counter() - begun)
    return succeeded, quantile(sample, 0.5), quantile(sample, 0.99)


def entry_delay(is_coroutine: bool, rounds: int = 100) -> tuple[float, float]:
    """Seconds by which a handler is entered after its instant, as the rig says: p50 and p95."""
    from rigsync import Auxiliaries, Rig

    async def coroutine() -> None:
        """Do nothing."""

    rig = Rig("rig", "udp://127.0.0.1:0")
    rig.on("EXPINFO")(coroutine if is_coroutine else lambda: None)
    with rig, Auxiliaries({"rig": rig.uri}) as aux:
        aux.request("EXPINIT", "2026-01-01_1_mouse")
        results = [aux.request("EXPINFO", delay=0.05) for _ in range(rounds)]
    late = [result.starts["rig"].time - (result.at or 0.0) for result in results]
    return median(late), quantile(late, 0.95)


def start_skew(rigs: int = 16, rounds: int = 60, settle: float = 75.0) -> tuple[float, float, float]:
    """Seconds between the first and the last of `rigs` rigs, each a process of its own, entering a handler, as p95.

    Their network delays each datagram by 2 to 20 ms. Returned are the skew where they act at one instant, the skew
    where they act when told, and the error bound that the results gave for a start.
    """
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(farm("jittery", 1, rig))[0] for rig in range(rigs)]
        aux = stack.enter_context(auxiliaries(ports))
        aux.request("EXPINIT", "2026-01-01_1_mouse")
        time.sleep(settle)  # the clocks become known

        def skew(**options: float) -> float:
            result = aux.request("EXPINFO", **options)
            bounds.extend(start.bound for start in result.starts.values())
            entered = [answer[1]["entered"] for answer in result.values()]
            return max(entered) - min(entered)

        bounds: list[float] = []
        scheduled, at_once = interleaved(rounds, lambda: skew(delay=0.2), skew)
    return quantile(scheduled, 0.95), quantile(at_once, 0.95), median(bounds)


def early_starts(rounds: int = 25, rigs: int = 4, settle: float = 3.0) -> tuple[float, float, float]:
    """Spread of the starts of `rigs` rigs, each a process of its own, `settle` s after a program has connected.

    Their network delays each datagram by 1 to 6 ms. Returned are the p50 and p95 of the seconds between the first and
    the last, by the one monotonic clock of this computer, and the share of the rounds in which what the result says of
    any two starts is so within its bounds.
    """
    spreads, agreed = [], 0
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(farm("near", 1, rig))[0] for rig in range(rigs)]
        for _ in range(rounds):
            with auxiliaries(ports) as aux:
                connected = time.monotonic()
                aux.request("EXPINIT", "2026-01-01_1_mouse")
                time.sleep(max(0.0, connected + settle - time.monotonic()))
                result = aux.request("EXPINFO", delay=0.4)
                aux.request("EXPINTERRUPT")
                aux.request("EXPCLEANUP")
            entered = {rig: answer[1]["entered"] for rig, answer in result.items()}
            spreads.append(max(entered.values()) - min(entered.values()))
            agreed += all(
                abs((one.time - other.time) - (entered[rig] - entered[another])) <= one.bound + other.bound + 1e-6
                for (rig, one), (another, other) in itertools.combinations(result.starts.items(), 2)
            )
    return median(spreads), quantile(spreads, 0.95), agreed / rounds


def idle_load(seconds: float = 10.0) -> float:
    """Share of one core that an idle coordinator of 16 rigs takes."""
    with farm("rigsync", 16) as ports, auxiliaries(ports):
        time.sleep(2)  # past the burst of probes
        begun, used = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        return (time.process_time() - used) / (time.perf_counter() - begun)


def progress_load(seconds: float = 10.0) -> tuple[float, int]:
    """Share of one core that 20,000 progress calls a second take of a rig's process, one coordinator watching.

    Also the most datagrams of one item that came in any second; each value that is sent again counts.
    """
    command = [sys.executable, "-m", "benchmarks.progress", str(seconds)]
    came: dict[str, list[float]] = {}
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdin and process.stdout
        sock.connect(("127.0.0.1", int(process.stdout.readline())))
        sock.settimeout(0.2)
        boot, probed = "c" * 16, 0.0
        while process.poll() is None:
            if time.monotonic() - probed >= 1:
                probed = time.monotonic()
                sock.send(messages.probe(boot, 1, 0))
            with contextlib.suppress(TimeoutError, ConnectionError):
                frame = messages.decode(sock.recv(65_535))
                if isinstance(frame, messages.Notice) and frame.confirm:
                    sock.send(messages.ack(boot, frame.n))
                if isinstance(frame, messages.Notice) and frame.topic == "progress":
                    came.setdefault(str(frame.key), []).append(time.monotonic())
                elif isinstance(frame, messages.Alive) and process.stdin:
                    print("go", file=process.stdin, flush=True)
        share: float = json.loads(process.stdout.read())
    assert len(came) == 20
    return share, max(most_in_a_second(times) for times in came.values())


def most_in_a_second(times: list[float]) -> int:
    """Return how many of the instants, which are in order, lie within one second at most."""
    # A hundredth of the interval is allowed for the way, which is not always as long.
    return max(bisect.bisect_left(times, begin + 0.999) - i for i, begin in enumerate(times))


def hub_ratio(count: int = 1_000_000, rounds: int = 10) -> tuple[float, float]:
    """Seconds of CPU in which a hub tells `count` events to five handlers, and a bare loop over the same handlers."""
    from rigsync import Hub, events

    class Pulse(events.Event):
        """An event without anything."""

    told = [0] * 5

    def handler(n: int) -> Callable[[Any], None]:
        def count_one(_: Any) -> None:
            told[n] += 1

        return count_one

    handlers = [handler(n) for n in range(len(told))]

    def through_hub() -> None:
        for event in batch:
            hub.ingest(event)

    def bare() -> None:
        for event in batch:
            for handler in handlers:
                handler(event)

    def cpu(call: Callable[[], None]) -> float:
        begun = time.process_time()
        call()
        return time.process_time() - begun

    async def main() -> list[list[float]]:
        for handler in handlers:
            hub.subscribe(Pulse, handler)
        async with hub:
            return interleaved(rounds, lambda: cpu(through_hub), lambda: cpu(bare))

    hub, batch = Hub(), [Pulse() for _ in range(count // rounds)]
    ours, floor = asyncio.run(main())
    assert told == [2 * count] * 5
    return sum(ours), sum(floor)


def memory_growth(pushes: int = 200_000) -> tuple[float, float]:
    """Resident MiB when the log has reached its limit, and after `pushes`, of a coordinator of its own process."""
    with farm("rigsync", 1) as ports:
        command = [sys.executable, "-m", "benchmarks.memory", str(ports[0]), str(pushes)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    full, end = json.loads(output)
    return full, end


def help_ratio(rounds: int = 15) -> tuple[float, float]:
    """Median seconds of the whole process ``rigsync --help``, and of ``python -c "import click"``."""
    ours, click = interleaved(
        rounds,
        lambda: timed(lambda: run([sys.executable, "-m", "rigsync", "--help"])),
        lambda: timed(lambda: run([sys.executable, "-c", "import click"])),
    )
    return median(ours), median(click)


def rig_ratio(rounds: int = 15) -> tuple[float, float]:
    """Median seconds of a whole process that imports rigsync and makes a `Rig`, and of ``python -c "import asyncio"``.

    Both from byte-code that is kept, as where a program is run more than once.
    """
    made = "import rigsync; rigsync.Rig('cameras', 'udp://127.0.0.1:0')"
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        calls = [functools.partial(run, [sys.executable, "-c", code], env) for code in (made, "import asyncio")]
        for call in calls:
            call()
        ours, asyncio_alone = interleaved(rounds, *(functools.partial(timed, call) for call in calls))
    return median(ours), median(asyncio_alone)


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
