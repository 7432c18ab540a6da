"""What the journal costs: events that it takes, and pushes beside one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.farm import farm
from rigsync import Auxiliaries, Hub
from rigsync.config.journal import JournalSettings
from rigsync.hub.events import define
from rigsync.journal.recorder import COORDINATOR, Recorder, Subject

RATE = 20_000
"""Events a second."""
LASTS = 10.0
"""Seconds for which they come."""
TURN = 0.5
"""Seconds of pushes by one program, before it is the other's turn."""
TURNS = 12
Marker = define("Marker")


def flood() -> tuple[int, int, float, float]:
    """Return how many events were told and kept, how many a second, and the longest until a record was safe (s)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        told, seconds, longest = asyncio.run(_flood(path))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            (kept,) = connection.execute("SELECT count(*) FROM record WHERE kind = 'Marker'").fetchone()
    return told, kept, told / seconds, longest


async def _flood(path: Path) -> tuple[int, float, float]:
    ages: list[float] = []
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(path, ages, over))
    async with Hub() as hub:
        recorder = Recorder(hub, JournalSettings(str(path)), Subject(COORDINATOR))
        recorder.begin()
        looking.start()
        begun, told = time.monotonic(), 0
        while (now := time.monotonic()) < begun + LASTS:
            while told < RATE * (now - begun):
                hub.ingest(Marker({"name": "stimulus", "value": told}))
                told += 1
            await asyncio.sleep(0.001)
        seconds = time.monotonic() - begun
        over.set()
        recorder.end()
    await asyncio.to_thread(recorder.await_written, 60.0)
    looking.join()
    return told, seconds, max(ages)


def _look(path: Path, ages: list[float], over: threading.Event) -> None:
    """Note, each 0.1 s, how old the newest record in the file is: that long nothing has been safe."""
    over.wait(1.0)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        while not over.wait(0.1):
            (newest,) = connection.execute("SELECT time FROM record ORDER BY id DESC LIMIT 1").fetchone()
            ages.append(time.time() - newest)


@contextlib.contextmanager
def _program(number: int, port: int, journal: str, rate: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.journal", str(number), str(port), journal, str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def pushes(rate: int = 0) -> tuple[float, float, float, float]:
    """Return p50 and p99 (s) of pushes to one rig by a program with a journal, and by one without, turn by turn.

    Beside the pushes, `rate` events a second are told in each.
    """
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, farm("rigsync", 2) as ports, contextlib.ExitStack() as stack:
        journals = str(Path(folder) / "journal.sqlite"), "off"
        programs = {
            journal: stack.enter_context(_program(number, port, journal, rate))
            for number, (journal, port) in enumerate(zip(journals, ports, strict=True))
        }
        for turn in range(TURNS + 1):
            for journal, program in programs.items():
                assert program.stdin
                assert program.stdout
                program.stdin.write("\n")
                program.stdin.flush()
                sample = json.loads(program.stdout.readline())
                if turn:  # the first warms up
                    taken.setdefault(journal, []).extend(sample)
    ours, bare = (taken[journal] for journal in journals)
    return statistics.median(ours), _p99(ours), statistics.median(bare), _p99(bare)


def _p99(sample: list[float]) -> float:
    return statistics.quantiles(sample, n=100)[-1]


def _child(number: int, port: int, journal: str, rate: int) -> None:
    with Auxiliaries({f"rig{number}": f"udp://127.0.0.1:{port}"}, journal=journal) as aux:
        for _ in sys.stdin:
            sample: list[float] = []
            begun = time.perf_counter()
            if rate:
                aux.thread.call(_tell, aux, begun, rate, 0)
            while (start := time.perf_counter()) < begun + TURN:
                aux.push("EXPSTATUS", 0, wait=True)
                sample.append(time.perf_counter() - start)
            print(json.dumps(sample), flush=True)


def _tell(aux: Auxiliaries, begun: float, rate: int, told: int) -> None:
    """Tell so many events a second, on the event loop."""
    now = time.perf_counter()
    while told < rate * (now - begun):
        aux.hub.ingest(Marker({"name": "stimulus", "value": told}))
        told += 1
    if now < begun + TURN:
        asyncio.get_running_loop().call_later(0.001, _tell, aux, begun, rate, told)


if __name__ == "__main__":
    os.environ.pop("RIGSYNC_JOURNAL", None)
    _child(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
