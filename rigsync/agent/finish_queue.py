"""What is still to be done after sessions: a folder with one small file for each, which survives agent and computer.

A file is written beside its place, and put there whole. So whoever reads one reads all of it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rigsync._text import one_line
from rigsync.agent.expressions import read_expression
from rigsync.agent.file import AgentFile
from rigsync.agent.template import SubstitutionError, Use
from rigsync.agent.values import LONGEST_IN_ENVIRONMENT, ROOM_IN_ENVIRONMENT, Values, filled, folder_of
from rigsync.errors import ConfigError

RECORDING, ENDED, WAITING, FAILED = STATES = ("recording", "ended", "waiting", "failed")
"""States of a job: its session goes on; has ended, and waits for EXPCLEANUP; the job may be done; has failed for
good."""
RETRY, FORGET = WISHES = ("retry", "forget")
"""What somebody may wish of a job, by a file beside it that its agent finds."""

EVENT = "FINISH"
"""What `RIGSYNC_EVENT` is for these commands."""
FORMAT = 1
LONGEST_FILE = 4 << 20
"""Bytes of one file. What a message may put into it is bounded below, and takes twice as much as JSON at most."""
LONGEST_TEXT = 2000
"""Characters of a problem that are kept."""
_LEFT_OVER = 3600.0
"""Seconds after which what was never put in its place is removed: whoever wrote it was killed."""
_TRIES, _PAUSE = 20, 0.05
"""Attempts to put a file in its place, and seconds between them: on Windows nobody can while somebody reads it."""
_NAME = re.compile(rf"(?P<id>[0-9a-z-]{{1,80}})\.(?P<what>json|{'|'.join(WISHES)})")


@dataclass(frozen=True, slots=True)
class FilledStep:
    """A command with every value in its place."""

    words: tuple[str, ...]
    """Its words; for a shell one, its line."""
    shell: bool
    by_shell: bool
    """Whether a shell reads its words, so that its environment has only what a shell cannot misread."""
    folder: str
    timeout: float
    percent: str | None

    @property
    def program(self) -> str:
        return self.words[0] if self.shell else os.path.basename(self.words[0])


@dataclass(slots=True)
class Job:
    """What is to be done after one session."""

    id: str
    rig: str
    exp_ref: str | None
    began: float
    """When the session began, in Unix seconds."""
    data: dict[str, Any] = field(default_factory=dict)
    """What the messages of the session had as data."""
    outputs: tuple[tuple[str, bool], ...] = ()
    """Paths of what was recorded; True for a pattern."""
    state: str = RECORDING
    steps: tuple[FilledStep, ...] | None = None
    """None until the session is over."""
    done: int = 0
    """How many of the steps are done."""
    attempts: int = 0
    """How often a step has failed."""
    due: float = 0.0
    """When it may be tried again, in Unix seconds."""
    problem: str | None = None
    """Why it has failed last."""
    failed: float = 0.0
    """When it had failed for good, in Unix seconds, of what the coordinators have been told; else 0."""
    running: bool = False
    percent: float | None = None
    """Of the step that runs, if its output says so."""

    @property
    def label(self) -> str:
        return self.exp_ref or "a session without a reference"

    @property
    def share(self) -> float:
        """How much of it is done, in percent."""
        return 100 * (self.done + (self.percent or 0) / 100) / max(1, len(self.steps or ()))

    def values(self) -> Values:
        return Values(EVENT, self.rig, self.exp_ref, self.data)

    def add_data(self, data: Mapping[str, Any]) -> None:
        """Take in the data of a message, as far as commands can get them."""
        room = ROOM_IN_ENVIRONMENT - sum(map(_size, self.data.items()))
        for key, value in data.items():
            size = _size((key, value))
            if isinstance(key, str) and size <= min(room, LONGEST_IN_ENVIRONMENT):
                self.data[key] = value
                room -= size

    def fill(self, file: AgentFile) -> None:
        """Give it the commands of an agent's file; raise `SubstitutionError` where a value is missing or refused."""
        values = self.values()
        self.steps = tuple(
            FilledStep(
                step.command.filled(values),
                step.command.shell,
                step.command.read_by_shell,
                folder_of(file, step.command, values),
                step.timeout,
                step.percent.pattern if step.percent else None,
            )
            for step in (file.finish.steps if file.finish else ())
        )
        self.done = 0

    def begin_anew(self) -> None:
        """Have it done again, as if it had not been tried."""
        self.state, self.attempts, self.due, self.problem, self.running = WAITING, 0, 0.0, None, False
        self.failed = 0.0

    def text(self) -> bytes:
        return json.dumps({"rigsync": FORMAT, **asdict(self)}, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def document(self) -> dict[str, Any]:
        """Return what there is to know of it, for a table and as JSON."""
        names = ("id", "rig", "exp_ref", "state", "running", "attempts", "began", "due", "problem", "done", "percent")
        return {**{name: getattr(self, name) for name in names}, "steps": len(self.steps or ())}


def new_job(file: AgentFile, values: Values, data: Mapping[str, Any], now: float) -> Job:
    """Return the job of a session that begins to record at Unix time `now` (s)."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    name = f"{stamp}-{int(now % 1 * 1e6):06d}-{secrets.token_hex(3)}"  # in the order in which they begin
    outputs = []
    for template in file.outputs():
        with contextlib.suppress(SubstitutionError):  # of EXPINIT, which had other data
            outputs.append((filled(file, template, values), template.use is Use.GLOB))
    reference = values.exp_ref if isinstance(values.exp_ref, str) else None
    job = Job(name, file.name, reference, now, outputs=tuple(outputs))
    job.add_data(data)
    return job


@dataclass(frozen=True, slots=True)
class Listing:
    """What a queue holds."""

    jobs: list[Job]
    """In the order of their sessions."""
    wishes: list[tuple[str, str]]
    """What is wished of which job, by its id."""
    junk: dict[str, str]
    """Files by name that are none of rigsync's, or damaged, and why."""


class Queue:
    """The jobs in one folder. All of it blocks: a drive may hang."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[str, tuple[tuple[int, ...], Job]] = {}

    def look(self) -> Listing:
        """Read all that is there; an empty folder, or none, has no jobs.

        Raises
        ------
        OSError
            The folder cannot be read.
        """
        listing = Listing([], [], {})
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return listing
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                self._tidy(name)
            elif not (match := _NAME.fullmatch(name)):
                listing.junk[name] = "is no file of rigsync"
            elif match["what"] in WISHES:
                listing.wishes.append((match["what"], match["id"]))
            else:
                try:
                    listing.jobs.append(self._job(name, match["id"]))
                except FileNotFoundError:  # somebody has just removed it
                    continue
                except (OSError, ValueError) as error:
                    listing.junk[name] = str(error)
        self._known = {name: known for name, known in self._known.items() if name in names}
        return listing

    def save(self, name: str, text: bytes, what: str = "json", durable: bool = True) -> None:
        """Write a job, or what is wished of one, in place of what there was.

        Raises
        ------
        OSError
            It cannot be written. What there was stays.
        """
        self.folder.mkdir(0o700, parents=True, exist_ok=True)
        path = self.folder / f".{name}.{secrets.token_hex(4)}.tmp"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                if durable:
                    os.fsync(descriptor)
            _patiently(lambda: os.replace(path, self.folder / f"{name}.{what}"))
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        if durable:
            _keep_names(self.folder)

    def remove(self, name: str, what: str = "json") -> None:
        with contextlib.suppress(FileNotFoundError):
            _patiently((self.folder / f"{name}.{what}").unlink)

    def job(self, name: str, what: str = "json") -> Job | None:
        """Return a job as it is now, or as somebody wishes it to be; None where that cannot be read."""
        try:
            return parsed(name, _read(self.folder / f"{name}.{what}"))
        except (OSError, ValueError):
            return None

    def _job(self, name: str, of: str) -> Job:
        path = self.folder / name
        found = os.lstat(path)
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        known = self._known.get(name)
        if not known or known[0] != stamp:
            known = self._known[name] = stamp, parsed(of, _read(path))
        return known[1]

    def _tidy(self, name: str) -> None:
        with contextlib.suppress(OSError):
            path = self.folder / name
            if time.time() - os.lstat(path).st_mtime > _LEFT_OVER:
                path.unlink()


def parsed(name: str, text: bytes) -> Job:
    """Return the job in a file; raise `ValueError` where that is none."""
    try:
        found = json.loads(text.decode("utf-8", "surrogatepass"))
        form = found.pop("rigsync")
        if isinstance(form, int) and form > FORMAT:
            raise _NewerFormat
        steps = found.pop("steps")
        job = Job(**found)
        job.steps = None if steps is None else tuple(FilledStep(**{**step, "words": _texts(step)}) for step in steps)
        job.outputs = tuple((_checked(path, str), _checked(is_pattern, bool)) for path, is_pattern in job.outputs)
        _check(job, name)
    except _NewerFormat:
        raise ValueError("a newer rigsync has written it; update this one") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise ValueError(f"is damaged, or no file of rigsync ({one_line(str(error))[:200]})") from None
    return job


class _NewerFormat(Exception):
    pass


def _texts(step: Mapping[str, Any]) -> tuple[str, ...]:
    words = tuple(_checked(word, str) for word in _checked(step["words"], list))
    if not words or not words[0] or (step["shell"] and len(words) > 1):
        raise ValueError("a command without words")
    return words


def _check(job: Job, name: str) -> None:
    if job.id != name or job.state not in STATES or (job.state == WAITING and job.steps is None):
        raise ValueError("its name, or state, is another one")
    for value, kind in (
        (job.rig, str),
        (job.exp_ref, (str, type(None))),
        (job.data, dict),
        (job.problem, (str, type(None))),
        (job.running, bool),
        (job.done, int),
        (job.attempts, int),
    ):
        _checked(value, kind)
    numbers = [job.began, job.due, job.failed, *([] if job.percent is None else [job.percent])]
    for step in job.steps or ():
        for value, kind in (
            (step.shell, bool),
            (step.by_shell, bool),
            (step.folder, str),
            (step.percent, (str, type(None))),
        ):
            _checked(value, kind)
        if step.percent is not None:
            read_expression(step.percent, "percent")
        numbers.append(step.timeout)
    if not all(isinstance(number, (int, float)) and 0 <= number < math.inf for number in numbers):
        raise ValueError("a number in it cannot be")
    if not 0 <= job.done <= len(job.steps or ()) or job.attempts < 0:
        raise ValueError("a count in it cannot be")


def _checked(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} has another type")
    return value


def _read(path: Path) -> bytes:
    if not stat.S_ISREG(os.lstat(path).st_mode):  # a pipe would be waited for, and a link leads elsewhere
        raise ValueError("is no file of rigsync")
    with path.open("rb") as file:
        text = file.read(LONGEST_FILE + 1)
    if len(text) > LONGEST_FILE:
        raise ValueError("is too large for a file of rigsync")
    return text


def _patiently(act: Callable[[], object]) -> None:
    for left in reversed(range(_TRIES)):
        try:
            act()
        except PermissionError:
            if sys.platform != "win32" or not left:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _keep_names(folder: Path) -> None:
    """Have the names in a folder outlive a power cut; on Windows the system does so by itself."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError:  # some network drives cannot
            return
        finally:
            os.close(descriptor)


def _size(item: tuple[Any, Any]) -> int:
    key, value = item
    try:
        return len(json.dumps([key, value]))
    except (TypeError, ValueError, RecursionError):
        return LONGEST_FILE
