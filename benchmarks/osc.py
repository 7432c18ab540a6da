"""The OSC bridge beside python-osc's own server and client, in one run: `python -m benchmarks osc`.

`python -m benchmarks.osc PORT SECONDS` floods a port with one message, for the measurement of a server, and `python -m
benchmarks.osc program` is an OSC program that tells when it acts.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.osc_server import BlockingOSCUDPServer
from pythonosc.udp_client import SimpleUDPClient

from benchmarks.farm import farm
from benchmarks.measure import auxiliaries, interleaved
from rigsync import Auxiliaries
from rigsync.bridges.osc import OscBridge
from rigsync.bridges.osc.telling import event_message
from rigsync.core.events import ProgressChanged

ADDRESS = "/benchmark/mark"
FLOOD = 1.0
"""Seconds of each flood."""
ROUNDS = 5
TOLD = 3000
"""Events of each round."""


def message(*args: Any) -> OscMessage:
    builder = OscMessageBuilder(ADDRESS)
    for arg in args:
        builder.add_arg(arg)
    return builder.build()


def flood(port: int, seconds: float) -> None:
    data = message(1, 2.5, "text").dgram
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(20):
                sock.send(data)


@contextmanager
def bridged(rigs: int = 4, **options: Any) -> Iterator[OscBridge]:
    with (
        farm("rigsync", rigs) as ports,
        auxiliaries(ports) as aux,
        OscBridge(aux, "udp://127.0.0.1:0", **options) as osc,
    ):
        yield osc


def handled_under_flood(port: int, calls: list[Any]) -> float:
    """Messages a second that a server hands to its method while another process sends as fast as it can."""
    before, begun = len(calls), time.perf_counter()
    subprocess.run([sys.executable, "-m", "benchmarks.osc", str(port), str(FLOOD)], check=True)
    time.sleep(0.2)  # what waits in its buffers
    return (len(calls) - before) / min(FLOOD + 0.2, time.perf_counter() - begun)


def throughput_in() -> tuple[float, float]:
    """Messages a second of the bridge, and of python-osc's server."""
    ours: list[Any] = []
    theirs: list[Any] = []
    dispatcher = Dispatcher()
    dispatcher.map(ADDRESS, lambda *args: theirs.append(args))
    with bridged() as osc, BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher) as server:
        osc.add(ADDRESS, lambda *args: ours.append(args))
        port = int(osc.uri.rpartition(":")[2])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        samples = interleaved(
            ROUNDS,
            lambda: handled_under_flood(port, ours),
            lambda: handled_under_flood(server.server_address[1], theirs),
        )
        server.shutdown()
        thread.join()
    return statistics.median(samples[0]), statistics.median(samples[1])


def throughput_out() -> tuple[float, float]:
    """Events a second that the bridge tells, and messages of the same content that python-osc's client sends."""
    event = ProgressChanged("cameras", "frames", 1234, 5000, "frame")
    told = OscMessage(event_message(event))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        port = sink.getsockname()[1]
        with bridged(to=f"udp://127.0.0.1:{port}") as osc, SimpleUDPClient("127.0.0.1", port) as client:
            hub, services = osc.lab.hub, osc.lab.services
            assert services is not None

            def ours() -> float:
                done = threading.Event()
                took: list[float] = []

                def tell() -> None:
                    took.append(rate(lambda: hub.ingest(ProgressChanged("cameras", "frames", 1234, 5000, "frame"))))
                    done.set()

                services.on_loop(tell)
                done.wait(60)
                return took[0]

            samples = interleaved(ROUNDS, ours, lambda: rate(lambda: client.send_message(told.address, told.params)))
    return statistics.median(samples[0]), statistics.median(samples[1])


def rate(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    for _ in range(TOLD):
        call()
    return TOLD / (time.perf_counter() - begun)


def lateness(count: int = 300) -> tuple[float, float]:
    """Median and 95th percentile of the seconds between the instant of a bundle and the call of its method."""
    late: list[float] = []
    with bridged() as osc, SimpleUDPClient("127.0.0.1", int(osc.uri.rpartition(":")[2])) as client:
        instants: list[float] = []
        osc.add(ADDRESS, lambda number: late.append(time.time() - instants[number]))
        for number in range(count):
            instants.append(time.time() + 0.05 + 0.0137 * (number % 7))
            bundle = OscBundleBuilder(instants[-1])
            bundle.add_content(message(number))
            client.send(bundle.build())
            time.sleep(0.02)
        time.sleep(0.3)
    return statistics.median(late), statistics.quantiles(late, n=20)[-1]


def rig_lateness(count: int = 150) -> tuple[float, float]:
    """Median and 95th percentile of the seconds by which an OSC program acts after the instant of a push.

    The program is python-osc's server in another process; the message comes as a bundle with its time tag.
    """
    late = []
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.osc", "program"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout
        try:
            uri = f"osc://127.0.0.1:{program.stdout.readline().strip()}"
            messages = {"EXPINFO": [ADDRESS, "{id}"]}
            with Auxiliaries({"program": {"uri": uri, "messages": messages, "answer": "/answer"}}) as aux:
                aux.request("EXPINIT", {"exp_ref": "2026-11-20_1_mouse"})  # only who is in charge may name an instant
                for number in range(count):
                    result = aux.request("EXPINFO", delay=0.05 + 0.0037 * (number % 7))
                    (acted,) = result["program"][-1]["answer"]
                    late.append(float(acted) - result.at)
        finally:
            program.terminate()
    return statistics.median(late), statistics.quantiles(late, n=20)[-1]


def serve() -> None:
    dispatcher = Dispatcher()
    # Numbers of OSC have 32 bits, so the time goes as text.
    dispatcher.map(ADDRESS, lambda _, number: ("/answer", number, "ok", repr(time.time())))
    with BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


def idle_share() -> float:
    """Share of one core that a bridge that tells one program takes, with 4 rigs."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        return share_of(lambda aux: OscBridge(aux, "udp://127.0.0.1:0", to=f"udp://127.0.0.1:{sink.getsockname()[1]}"))


def share_of(bridge: Callable[[Any], Any], seconds: float = 10.0) -> float:
    """Share of one core that a bridge takes beyond its coordinator, with 4 rigs."""

    def used() -> float:
        begun, before = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        return (time.process_time() - before) / (time.perf_counter() - begun)

    with farm("rigsync", 4) as ports, auxiliaries(ports) as aux:
        time.sleep(2)  # past the burst of probes
        without = used()
        with bridge(aux):
            return used() - without


if __name__ == "__main__":
    if sys.argv[1] == "program":
        serve()
    else:
        flood(int(sys.argv[1]), float(sys.argv[2]))
