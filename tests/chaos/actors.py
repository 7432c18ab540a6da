"""What runs in the processes of a scenario: rigs and coordinators that write down all that they do.

Started as ``python -m chaos.actors FOLDER OPTIONS``, a process serves rigs or has coordinators, takes commands from
its standard input, and ends when that does, so that none outlives the tests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import PROBE_WARNING, IblutilRig

from rigsync import Auxiliaries, ExpMessage, PushError, Rig
from rigsync.core import events

HANDLED = ("EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP")


class Journal:
    """A file with a line for each thing that happened; what was written is there even if the process is killed."""

    def __init__(self, folder: Path):
        # One for each process: nowhere but on POSIX are writes of several processes to one file kept apart.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file = os.open(folder / f"{os.getpid()}.journal", flags)

    def write(self, what: str, *details: Any) -> None:
        """Write a line: when (monotonic and wall clock, s), which process, what."""
        line = json.dumps([time.monotonic(), time.time(), os.getpid(), what, *details])
        os.write(self._file, line.encode() + b"\n")


def wait(seconds: float) -> None:
    """Wait as `time.sleep` does, which fails with EINVAL under libfaketime where the monotonic clock is not faked."""
    threading.Event().wait(seconds)


# ------------------------------------------------------------------------------------------------------------ rigs


class RigActor:
    """A rig whose handlers write down that they run, and take as long as the message asks for (``hold``, s)."""

    def __init__(self, journal: Journal, name: str, uri: str):
        self._journal = journal
        self.rig = Rig(name, uri)
        for message in HANDLED:
            self.rig.on(message)(self._handler(message))

    def start(self) -> None:
        self.rig.start()
        self._journal.write("listening", self.rig.name, self.rig.uri)

    def _handler(self, message: str) -> Callable[..., dict[str, Any]]:
        def handle(*args: Any) -> dict[str, Any]:
            order = args[-1]
            self._journal.write("began", self.rig.name, message, order["token"])
            wait(order.get("hold", 0.0))
            self._journal.write("ended", self.rig.name, message, order["token"])
            return {"ran": order["token"], "pid": os.getpid()}

        return handle


def serve_rigs(journal: Journal, rigs: dict[str, str], standby: bool) -> None:
    """Serve rigs, at once or on the command ``start``: so does a process take over within milliseconds."""
    actors = [RigActor(journal, name, uri) for name, uri in rigs.items()]

    def start() -> None:
        for actor in actors:
            actor.start()

    journal.write("ready")
    if not standby:
        start()
    obey({"start": start})


def serve_iblutil(journal: Journal, rigs: dict[str, str]) -> None:
    """Serve as iblutil rigs, as labs have them now."""

    def reporter(name: str) -> Callable[..., None]:
        def report(what: str, *details: Any) -> None:
            if what == "called":
                message, args = details
                for line in ("began", "ended"):
                    journal.write(line, name, message, args[-1]["token"])
            else:
                journal.write(f"iblutil {what}", name, *details)

        return report

    async def serve() -> None:
        for name, uri in rigs.items():
            await IblutilRig(name, int(uri.rpartition(":")[2]), (), (), reporter(name)).open()
            journal.write("listening", name, uri)
        threading.Thread(target=obey, args=({},), daemon=True).start()
        await asyncio.Event().wait()

    asyncio.run(serve())


# ---------------------------------------------------------------------------------------------------- coordinators


class CoordinatorActor:
    """A coordinator that writes down each push before it, and what became of it after."""

    def __init__(self, journal: Journal, name: str, rigs: dict[str, str]):
        self._journal, self._name, self._rigs = journal, name, list(rigs)
        self._auxiliaries = Auxiliaries(rigs)
        self._auxiliaries.on(events.ProbeAnswered, self._probed)
        self._auxiliaries.on(events.LinkChanged, lambda event: self._tell("link", event.rig, event.after.value))
        self._auxiliaries.on(events.RestartSeen, lambda event: self._tell("restarted", event.rig))
        self._tell("connected", self._auxiliaries.all_alive)

    def run(self, steps: list[dict[str, Any]]) -> None:
        """Push the messages one after the other."""
        for step in steps:
            wait(step["pause"])
            self._push(**step)

    def _push(
        self, message: str, token: str, args: list[Any], rigs: list[str] | None, timeout: float, pause: float
    ) -> None:
        del pause
        self._tell("push", message, token, rigs or self._rigs, args)
        try:
            outcome = self._auxiliaries.push(message, *args, wait=True, rigs=rigs, timeout=timeout)
        except Exception as error:
            self._tell("raised", token, repr(error))
            return
        result = outcome.result if isinstance(outcome, PushError) else outcome
        failed = {rig: [type(error).__name__, str(error)] for rig, error in result.failed.items()}
        self._tell("outcome", token, result.request_time, dict(result), failed)

    def _probed(self, event: Any) -> None:
        if event.stamps:
            self._tell("stamps", event.rig, event.n, event.stamps)

    def _tell(self, what: str, *details: Any) -> None:
        self._journal.write(what, self._name, *details)


def coordinate(journal: Journal, coordinators: dict[str, dict[str, str]]) -> None:
    """Have coordinators, each of which runs any number of scripts at the same time: the command ``run``."""
    # At the same time: a constructor waits for its rigs, which may be long where the network is bad.
    actors: dict[str, CoordinatorActor] = {}

    def begin(name: str) -> None:
        actors[name] = CoordinatorActor(journal, name, coordinators[name])

    def run(name: str, steps: list[dict[str, Any]]) -> None:
        threading.Thread(target=actors[name].run, args=(steps,), daemon=True).start()

    threads = [threading.Thread(target=begin, args=(name,)) for name in coordinators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    obey({"run": run})


# -------------------------------------------------------------------------------------------------------- commands


def obey(commands: dict[str, Callable[..., None]]) -> None:
    """Do what the parent says until it says no more; then end."""
    rest = b""
    # Not sys.stdin: its lock, held by a daemon thread, would abort the interpreter when it exits.
    while data := os.read(0, 65_536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            command, *args = json.loads(line)
            commands[command](*args)
    os._exit(0)


ROLES: dict[str, Callable[..., None]] = {
    "rigs": serve_rigs,
    "iblutil": serve_iblutil,
    "coordinators": coordinate,
}

if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", PROBE_WARNING, RuntimeWarning)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    assert set(HANDLED) <= set(ExpMessage.__members__)
    ROLES[sys.argv[2]](Journal(Path(sys.argv[1])), **json.loads(sys.argv[3]))
