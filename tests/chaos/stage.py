"""Where a scenario takes place: its processes, its relays, and what was written down."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from processes import ROOT, free_port, port_of

from chaos.verdict import Journals, Line, Push, Record
from rigsync.net.relay import Relay, relay_before

PATIENCE = 90.0
"""Seconds that only pass where something hangs."""
TIMEOUT = 40.0
"""Seconds for an answer: more tries than a network that loses a third each way can spoil."""

Step = dict[str, Any]


class Actor:
    """A process of a scenario."""

    def __init__(self, stage: Stage, role: str, options: dict[str, Any], under: Sequence[str], env: Mapping[str, str]):
        self.stage = stage
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        command = [*under, sys.executable, "-m", "chaos.actors", str(stage.folder), role, json.dumps(options)]
        self._errors = (stage.folder / f"{next(stage.numbers)}-{role}.log").open("wb")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path, **env},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def tell(self, *command: Any) -> None:
        """Give it a command."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, without a farewell: SIGKILL, or what Windows has for it."""
        self.stage.killed.add(self.pid)
        self._process.kill()
        self._process.wait(PATIENCE)

    def end(self) -> None:
        """Leave nothing of it."""
        self._process.kill()
        self._process.wait(PATIENCE)
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._errors.close()


class RigsActor(Actor):
    """A process that serves rigs."""

    def __init__(self, stage: Stage, role: str, uris: dict[str, str], options: dict[str, Any], **how: Any):
        self.uris = uris
        super().__init__(stage, role, {"rigs": uris, **options}, **how)

    @property
    def targets(self) -> dict[str, tuple[str, int]]:
        """Host and port by rig, as `Stage.relays` takes them."""
        return {name: ("127.0.0.1", port_of(uri)) for name, uri in self.uris.items()}

    def wait(self) -> RigsActor:
        """Wait until all of its rigs listen; from then on `uris` has the ports that the system chose."""
        for name in self.uris:
            self.uris[name] = self.stage.wait_for("listening", name, pid=self.pid).details[1]
        return self


class CoordinatorsActor(Actor):
    """A process that has coordinators."""

    def __init__(self, stage: Stage, rigs: Mapping[str, Mapping[str, str]], **how: Any):
        self.rigs = {name: dict(uris) for name, uris in rigs.items()}
        super().__init__(stage, "coordinators", {"coordinators": self.rigs}, **how)

    def wait(self) -> CoordinatorsActor:
        """Wait until all of its coordinators are there, whether they have found their rigs or not."""
        for name in self.rigs:
            self.stage.wait_for("connected", name, pid=self.pid)
        return self

    def begin(self, name: str, steps: Iterable[Step]) -> list[Step]:
        """Have a coordinator push messages one after the other; do not wait."""
        steps = list(steps)
        self.stage.begun.update({step["token"]: self.pid for step in steps})
        self.tell("run", name, steps)
        return steps

    def run(self, name: str, steps: Iterable[Step]) -> list[Push]:
        """Have a coordinator push messages one after the other, and return what became of them."""
        return self.stage.settled(self.begin(name, steps))


class Stage:
    """The processes and relays of one scenario, which are ended with it, and what they wrote down.

    Parameters
    ----------
    folder : Path
        An empty folder.
    seed : int
        Of all that is drawn here.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed, self.random = folder, seed, Random(seed)
        self.numbers = itertools.count(1)
        self.killed: set[int] = set()
        self.begun: dict[str, int] = {}
        """Processes that were told to push, by the token of the message."""
        self.iblutil: set[str] = set()
        self.stack = contextlib.ExitStack()
        self._actors: list[Actor] = []
        self._journals, self._record = Journals(folder), Record([])

    def close(self) -> None:
        """End all that was begun here."""
        with self.stack:
            for actor in self._actors:
                self.stack.callback(actor.end)

    # ------------------------------------------------------------------------------------------------ processes

    def rigs(
        self,
        uris: Iterable[str] | Mapping[str, str],
        *,
        standby: bool = False,
        under: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> RigsActor:
        """Start a process with rigs, at the URIs given, or each at a free port.

        Parameters
        ----------
        uris : iterable of str, or mapping
            Names, or names and URIs.
        standby : bool
            They listen only when told ``start``.
        under : sequence of str
            Command under which to start it.
        env : mapping, optional
            Additions to its environment.
        """
        if not isinstance(uris, Mapping):
            # Not one that the system chooses, which may be a coordinator's before the rig is started again.
            uris = {name: f"udp://127.0.0.1:{free_port()}" for name in uris}
        actor = RigsActor(self, "rigs", dict(uris), {"standby": standby}, under=under, env=env or {})
        self._actors.append(actor)
        return actor

    def iblutil_rigs(self, uris: Iterable[str] | Mapping[str, str]) -> RigsActor:
        """Start a process with iblutil rigs."""
        if not isinstance(uris, Mapping):
            uris = {name: f"udp://127.0.0.1:{free_port()}" for name in uris}
        self.iblutil |= set(uris)
        actor = RigsActor(self, "iblutil", dict(uris), {}, under=(), env={})
        self._actors.append(actor)
        return actor

    def coordinators(
        self,
        rigs: Mapping[str, Mapping[str, str]],
        *,
        under: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> CoordinatorsActor:
        """Start a process with coordinators, each with the URIs of its rigs."""
        actor = CoordinatorsActor(self, rigs, under=under, env=env or {})
        self._actors.append(actor)
        return actor

    def relays(self, targets: Mapping[str, tuple[str, int]], **faults: Any) -> dict[str, Relay]:
        """Put a bad network before rigs."""
        return self.stack.enter_context(relay_before(targets, seed=self.random.getrandbits(64), **faults))

    # ------------------------------------------------------------------------------------------------- messages

    def step(
        self,
        message: str,
        reference: str | None = None,
        *,
        rigs: list[str] | None = None,
        timeout: float = TIMEOUT,
        pause: float = 0.0,
        **order: Any,
    ) -> Step:
        """Return a message with an argument that no other has. What is in `order` the rig's handler gets too."""
        order["token"] = token = f"{message}-{next(self.numbers)}"
        if message == "EXPINIT":
            args: list[Any] = [{"exp_ref": reference, **order}]
        else:
            leading = {"EXPSTART": [reference], "EXPINFO": ["CONNECTED"]}
            args = [*leading.get(message, []), order]
        return {"message": message, "token": token, "args": args, "rigs": rigs, "timeout": timeout, "pause": pause}

    def reference(self) -> str:
        """Return the reference of an experiment that there has not been yet."""
        return f"2026-03-01_{next(self.numbers)}_mouse"

    def session(self, reference: str | None = None, **options: Any) -> list[Step]:
        """Return the messages of a whole experiment."""
        reference = reference or self.reference()
        starts = [self.step(message, reference, **options) for message in ("EXPINIT", "EXPSTART")]
        return [*starts, *(self.step(message, **options) for message in ("EXPINFO", "EXPEND", "EXPCLEANUP"))]

    def infos(self, count: int, **options: Any) -> list[Step]:
        """Return messages that any rig runs, whatever its status."""
        return [self.step("EXPINFO", **options) for _ in range(count)]

    # ---------------------------------------------------------------------------------------------- what happened

    def record(self) -> Record:
        """Return what has happened."""
        lines = self._journals.read()
        if len(lines) > len(self._record.lines):
            self._record = Record(lines)
        return self._record

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until a condition is true, and return its value."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            dead = [actor.pid for actor in self._actors if not actor.is_alive and actor.pid not in self.killed]
            assert not dead, f"processes {dead} have ended by themselves while waiting for {what}"
            assert time.monotonic() < deadline, f"{what} never came true"
            time.sleep(0.01)
        return value

    def wait_for(self, what: str, *details: Any, pid: int | None = None, after: float = 0.0) -> Line:
        """Wait for a line of a journal, by one process or by any, later than a monotonic time (s)."""

        def find() -> Line | None:
            for line in self._journals.read():
                wanted = line.what == what and line.details[: len(details)] == details
                if wanted and line.now > after and pid in (None, line.pid):
                    return line
            return None

        found: Line = self.until(find, f"{what} {details} of {pid or 'any process'}")
        return found

    def began(self, step: Step, rig: str) -> Line:
        """Wait until a rig's handler of a message runs."""
        return self.wait_for("began", rig, step["message"], step["token"])

    def settled(self, steps: Iterable[Step]) -> list[Push]:
        """Wait until there is an outcome of each message, and return what became of them."""
        tokens = [step["token"] for step in steps]

        def find() -> list[Push] | None:
            pushes = self.record().pushes
            found = [pushes[token] for token in tokens if token in pushes and pushes[token].is_settled]
            return found if len(found) == len(tokens) else None

        found: list[Push] = self.until(find, f"the outcomes of {tokens}")
        return found

    def check(self) -> Record:
        """Wait until all that was begun is over; fail with all that was not as promised."""
        record = self.until(
            self._completed, f"the outcomes of all {len(self.begun)} pushes, and the end of every handler"
        )
        problems = record.problems(self.killed, self.iblutil) + self._complaints()
        assert not problems, "\n".join([*problems, f"(seed {self.seed})"])
        return record

    def _completed(self) -> Record | None:
        """Return what has happened, once nothing more will but by processes that are killed."""
        record = self.record()
        settled = {token for token, push in record.pushes.items() if push.is_settled}
        open_runs = [run.pid for runs in record.runs.values() for run in runs if run.ended is None]
        pending = {pid for token, pid in self.begun.items() if token not in settled}
        return record if pending <= self.killed and set(open_runs) <= self.killed else None

    def _complaints(self) -> list[str]:
        """Return what the processes have to complain of: no fault may make a traceback."""
        found = []
        for path in sorted(self.folder.glob("*.log")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if "Traceback" in text or "never retrieved" in text:
                found.append(f"{path.name}:\n{text[-3000:]}")
        return found


def all_succeeded(pushes: Iterable[Push]) -> None:
    """Fail where a push did not succeed at every rig."""
    failed = [f"{push.token}: {push.failed or push.raised or 'no outcome'}" for push in pushes if not push.succeeded]
    assert not failed, "\n".join(failed)
