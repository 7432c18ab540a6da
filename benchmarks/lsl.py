"""The LSL bridge beside LSL's own clocks: `python -m benchmarks lsl`; on this computer alone.

`python -m benchmarks.lsl recorder NAME` prints the stamps of a stream as they come, and `python -m benchmarks.lsl rig
NAME` is a rig with a stream of its own, which prints its address and how its two clocks stand to each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["LSLAPICFG"] = str(Path(__file__).parents[1] / "tests" / "bridges" / "lsl_api.cfg")

import psutil
import pylsl

from benchmarks.farm import farm
from benchmarks.measure import auxiliaries
from rigsync import Auxiliaries, Rig
from rigsync.bridges.lsl import LslBridge
from rigsync.bridges.lsl.library import ahead_of
from rigsync.core.clock import NANOSECONDS

PUSHES = 300
NAME = f"benchmark-{os.getpid()}"


def find(name: str) -> Any:
    search = pylsl.ContinuousResolver("name", name)
    while not (found := search.results()):
        time.sleep(0.05)
    inlet = pylsl.StreamInlet(found[0])
    inlet.open_stream(10)
    return inlet


@contextlib.contextmanager
def program(role: str) -> Iterator[Any]:
    command = [sys.executable, "-m", "benchmarks.lsl", role, NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout
        finally:
            process.kill()


def record(name: str) -> None:
    inlet = find(name)
    while True:
        sample, stamp = inlet.pull_sample(1.0)
        if sample:
            print(json.dumps([json.loads(sample[0]), stamp]), flush=True)


def serve(name: str) -> None:
    with Rig("clocks", "udp://127.0.0.1:0") as rig:
        outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "Markers", 1, 0, "string", name))
        session: Any = rig._session
        ahead, bound = ahead_of(lambda: session.responder._stamps.stamp(time.monotonic()) / NANOSECONDS)
        print(json.dumps([rig.uri, ahead, bound]), flush=True)
        sys.stdin.read()
        del outlet


def stamps() -> tuple[list[float], list[float], float]:
    """Seconds by which markers of pushes are off the instant when the hub told of them; those of starts, and more.

    A start is held against LSL's clock as the rig's handler reads it; the share within the told bound is the last.
    """
    entered: dict[float, float] = {}
    begun: dict[float, tuple[float, float]] = {}
    with Rig("cameras", "udp://127.0.0.1:0") as rig, Auxiliaries({"cameras": rig.uri}) as aux:
        now: list[float] = []
        rig.on("EXPINFO")(lambda *_: now.append(pylsl.local_clock()))

        def note(event: Any) -> None:
            clock = pylsl.local_clock()
            begun[event.request_time] = clock - (time.time() - event.stamp.time), event.stamp.time

        aux.hub.subscribe("PushBegun", note, priority=-1)
        with LslBridge(aux, NAME), program("recorder") as told:
            heard: list[tuple[dict[str, Any], float]] = []
            reading = threading.Thread(target=lambda: heard.extend(map(json.loads, told)))
            reading.start()
            time.sleep(3)
            for _ in range(PUSHES):
                aux.request("EXPINFO")
                entered[max(begun)] = now[-1]
                time.sleep(0.005)
            time.sleep(1)
    reading.join()
    off = {"PushBegun": [], "RigStarted": []}  # type: dict[str, list[float]]
    is_held = []
    for marker, stamp in heard:
        fields, kind = marker["fields"], marker["type"]
        if kind == "PushBegun" and fields["request_time"] in begun:
            off[kind].append(abs(stamp - begun[fields["request_time"]][0]))
        elif kind == "RigStarted" and fields["request_time"] in entered:
            late = entered[fields["request_time"]] - stamp
            off[kind].append(abs(late))
            is_held.append(late >= -fields["bound"])
    assert len(off["PushBegun"]) == PUSHES
    return off["PushBegun"], off["RigStarted"], statistics.fmean(is_held)


def agreement(seconds: float = 10.0) -> tuple[float, float, float]:
    """How far LSL's comparison of two programs' clocks and rigsync's are apart, and the bound of each, in seconds."""
    with program("rig") as told:
        uri, there, exact = json.loads(told.readline())
        with Auxiliaries({"clocks": uri}) as aux:
            inlet = find(NAME)
            time.sleep(seconds)
            correction, uncertainty = _correction(inlet)
            services: Any = aux.services
            here = ahead_of(time.monotonic)[0] + services.clock.instant(0)
            clock = aux.views["clocks"].clock
            assert clock is not None
            ours = here - there - clock.offset
    return abs(correction - ours), clock.bound + exact, uncertainty


def _correction(inlet: Any) -> tuple[float, float]:
    """Do as `StreamInlet.time_correction`, which does not say how uncertain it is."""
    call = pylsl.lib.lib.lsl_time_correction_ex
    call.restype = ctypes.c_double
    remote, uncertainty, problem = ctypes.c_double(), ctypes.c_double(), ctypes.c_int()
    of = ctypes.byref
    found = call(inlet.obj, of(remote), of(uncertainty), ctypes.c_double(5.0), of(problem))
    return found, uncertainty.value


def idle_share(seconds: float = 10.0) -> float:
    """Share of one core that a bridge takes beyond its coordinator of 4 rigs, while it listens to a stream.

    Its program with liblsl is included.
    """

    def taken(program: int | None) -> float:
        times = psutil.Process(program).cpu_times() if program else None
        return time.process_time() + (times.user + times.system if times else 0.0)

    def used(program: int | None = None) -> float:
        begun, before = time.perf_counter(), taken(program)
        time.sleep(seconds)
        return (taken(program) - before) / (time.perf_counter() - begun)

    with farm("rigsync", 4) as ports, auxiliaries(ports) as aux, program("rig"):
        time.sleep(2)  # past the burst of probes
        without = used()
        with LslBridge(aux, f"{NAME}-own", from_=NAME) as bridge:
            time.sleep(2)
            assert bridge._child
            return used(bridge._child.pid) - without


if __name__ == "__main__":
    {"recorder": record, "rig": serve}[sys.argv[1]](sys.argv[2])
