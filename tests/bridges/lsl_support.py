"""pylsl on this computer alone, for the tests of the LSL bridge; they are skipped where it is not to be had.

Streams are in programs of their own, which are killed: liblsl now and then ends a program in which a stream ends.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import until

CONFIG = str(Path(__file__).with_name("lsl_api.cfg"))
os.environ["LSLAPICFG"] = CONFIG  # liblsl reads it at its first use; programs of the tests inherit it

try:
    from rigsync.bridges.lsl.library import local_clock as local_clock
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)

_numbers = itertools.count()

RECORDER = """
import json, sys
import pylsl

name, path = sys.argv[1:]
found = []
while not found:
    found = pylsl.resolve_byprop("name", name, 1, 0.5)
inlet = pylsl.StreamInlet(found[0])
inlet.open_stream(60)
with open(path, "w", encoding="utf-8") as out:
    print(json.dumps(inlet.info(60).as_xml()), file=out, flush=True)
    while True:
        sample, stamp = inlet.pull_sample(0.5)
        if sample:
            print(json.dumps([json.loads(sample[0]), stamp]), file=out, flush=True)
"""


def stream_name() -> str:
    """Return a name that no other test has."""
    return f"test-{os.getpid()}-{next(_numbers)}"


class Recorder:
    """What a program of its own has recorded of a stream."""

    def __init__(self, path: Path):
        self._path = path

    def _lines(self) -> list[str]:
        """Return all whole lines."""
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    @property
    def description(self) -> str:
        return str(json.loads(until(self._lines, "a recorded stream")[0]))

    def markers(self, *kinds: str) -> list[tuple[dict[str, Any], float]]:
        """Return markers of some types, all by default, with their stamps."""
        found = [(marker, stamp) for marker, stamp in map(json.loads, self._lines()[1:])]
        return [each for each in found if not kinds or each[0]["type"] in kinds]


@contextmanager
def recorder(name: str, folder: Path) -> Iterator[Recorder]:
    """Record a stream by another process."""
    path = folder / f"{name}.jsonl"
    process = subprocess.Popen([sys.executable, "-c", RECORDER, name, str(path)])
    try:
        yield Recorder(path)
    finally:
        process.kill()
        process.wait()


STREAM = """
import json, os, sys
import pylsl

outlet = pylsl.StreamOutlet(pylsl.StreamInfo(*json.loads(sys.argv[1])))
print("begun", flush=True)
for line in sys.stdin:
    sample, stamp = json.loads(line)
    outlet.push_sample([v.encode("utf-8", "surrogateescape") if isinstance(v, str) else v for v in sample], stamp)
    print("pushed", flush=True)
os._exit(0)
"""


class Stream:
    """A stream of another program."""

    def __init__(self, name: str, channels: int = 1, rate: float = 0.0, kind: str = "string"):
        info = json.dumps([name, "Markers", channels, rate, kind, ""])
        self._process = subprocess.Popen(
            [sys.executable, "-c", STREAM, info], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answered()

    def _answered(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline()

    def push_sample(self, sample: list[Any], stamp: float = 0.0) -> None:
        assert self._process.stdin
        print(json.dumps([sample, stamp]), file=self._process.stdin, flush=True)
        self._answered()

    def suspend(self) -> None:
        """Let it be, to all others, a computer that is cut off."""
        psutil.Process(self._process.pid).suspend()

    def resume(self) -> None:
        psutil.Process(self._process.pid).resume()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
