"""What the actors wrote down, and whether it is as promised.

Promised is, of every push and every rig that it went to: a handler runs at most once, in whatever process of the rig;
exactly once, and to its end, where the push succeeded; and no outcome says success where the rig did not act. The
table of docs/lifecycle.md is part of that: what it has as a no-op is answered as the first time, without a run.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.lifecycle import LIFECYCLE_MESSAGES, NO_OP, TABLE, ByReference, decide, fingerprint, named_reference


@dataclass(frozen=True)
class Line:
    """One line of a journal."""

    now: float
    """Monotonic seconds, the same clock for all processes of a machine."""
    wall: float
    """Unix time as the process had it."""
    pid: int
    what: str
    details: tuple[Any, ...]


@dataclass
class Run:
    """One run of a handler."""

    rig: str
    message: str
    token: str
    pid: int
    began: float
    wall: float
    ended: float | None = None


@dataclass
class Push:
    """One push, and what became of it."""

    coordinator: str
    pid: int
    message: str
    token: str
    rigs: list[str]
    args: list[Any]
    began: float
    ended: float | None = None
    request_time: float | None = None
    raised: str | None = None
    answers: dict[str, list[Any]] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    """Type and text of the error by rig."""

    @property
    def is_settled(self) -> bool:
        return self.ended is not None

    @property
    def succeeded(self) -> bool:
        return self.is_settled and set(self.answers) == set(self.rigs)


class Journals:
    """All journals of a folder, of which each line is read once."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._lines: list[Line] = []

    def read(self) -> list[Line]:
        """Return the lines in the order in which it happened. One that is still being written is left out."""
        for path in self._folder.glob("*.journal"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole, _, rest = file.read().rpartition(b"\n")
                self._read[path] = file.tell() - len(rest)
            for text in whole.splitlines():
                now, wall, pid, what, *details = json.loads(text)
                self._lines.append(Line(now, wall, pid, what, tuple(details)))
        self._lines.sort(key=lambda line: line.now)
        return self._lines


class Record:
    """What happened, put together."""

    def __init__(self, lines: Iterable[Line]):
        self.lines = list(lines)
        self.pushes: dict[str, Push] = {}
        self.runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        """By rig and token."""
        for line in self.lines:
            if read_line := getattr(self, f"_read_{line.what}", None):
                read_line(line, *line.details)

    def _read_push(
        self, line: Line, coordinator: str, message: str, token: str, rigs: list[str], args: list[Any]
    ) -> None:
        assert token not in self.pushes, f"{token} was pushed twice: the scenario is wrong"
        self.pushes[token] = Push(coordinator, line.pid, message, token, rigs, args, line.now)

    def _read_outcome(
        self, line: Line, coordinator: str, token: str, request_time: float, answers: Any, failed: Any
    ) -> None:
        push = self.pushes[token]
        push.ended, push.request_time, push.answers, push.failed = line.now, request_time, answers, failed

    def _read_raised(self, line: Line, coordinator: str, token: str, error: str) -> None:
        self.pushes[token].ended, self.pushes[token].raised = line.now, error

    def _read_began(self, line: Line, rig: str, message: str, token: str) -> None:
        self.runs[rig, token].append(Run(rig, message, token, line.pid, line.now, line.wall))

    def _read_ended(self, line: Line, rig: str, message: str, token: str) -> None:
        next(run for run in self.runs[rig, token] if run.pid == line.pid and run.ended is None).ended = line.now

    # ------------------------------------------------------------------------------------------------- promises

    def problems(self, killed: Collection[int] = (), iblutil: Collection[str] = ()) -> list[str]:
        """Return what was not as promised.

        Parameters
        ----------
        killed : collection of int
            Processes that were killed: what they left unfinished is nobody's fault.
        iblutil : collection of str
            Rigs that are iblutil's.
        """
        found = []
        for push in self.pushes.values():
            if push.raised:
                found.append(f"{push.token} raised {push.raised}")
            elif push.is_settled:
                found += self._outcome_problems(push, iblutil)
            elif push.pid not in killed:
                found.append(f"{push.token} of {push.coordinator} has no outcome")
        for (rig, token), runs in self.runs.items():
            found += self._run_problems(rig, token, runs, killed)
        return found + self._order_problems()

    def _run_problems(self, rig: str, token: str, runs: list[Run], killed: Collection[int]) -> list[str]:
        found = []
        push = self.pushes.get(token)
        if len(runs) > 1:
            found.append(f"{rig} ran {token} {len(runs)} times, in processes {[run.pid for run in runs]}")
        if push is None or rig not in push.rigs or any(run.message != push.message for run in runs):
            found.append(f"{rig} ran {token}, which it was not told")
        elif runs[0].began < push.began:
            found.append(f"{rig} ran {token} before it was told")
        found += [f"{rig} never ended {token}" for run in runs if run.ended is None and run.pid not in killed]
        return found

    def _outcome_problems(self, push: Push, iblutil: Collection[str]) -> list[str]:
        found = []
        if sorted([*push.answers, *push.failed]) != sorted(push.rigs):
            found.append(f"{push.token} went to {push.rigs} and came to {[*push.answers, *push.failed]}")
        for rig, answer in push.answers.items():
            runs = self.runs.get((rig, push.token), [])
            if runs or rig in iblutil or ExpMessage[push.message] not in LIFECYCLE_MESSAGES:
                found += self._success_problems(push, rig, answer, runs, rig in iblutil)
            else:
                found += self._no_op_problems(push, rig, answer)
        return found

    def _success_problems(self, push: Push, rig: str, answer: list[Any], runs: list[Run], iblutil: bool) -> list[str]:
        if not runs:
            return [f"{push.token} succeeded at {rig}, which did not act: {answer}"]
        if runs[0].ended is None or (push.ended or 0) < runs[0].ended:
            return [f"{push.token} succeeded at {rig}, which had not ended it: {answer}"]
        if not iblutil and answer[-1].get("ran") != push.token:
            return [f"{push.token} succeeded at {rig} by the answer to another message: {answer}"]
        return []

    def _no_op_problems(self, push: Push, rig: str, answer: list[Any]) -> list[str]:
        """Say what is wrong with a success without a run: the table has to have a no-op there."""
        info = answer[-1]
        status = ExpStatus(info["status"])
        if push.message == "EXPINIT" and push.args[0].get("takeover") and info["exp_ref"] == push.args[0]["exp_ref"]:
            return []  # which asks for nothing to be run
        entry = TABLE[status][ExpMessage[push.message]]
        if (entry.same if isinstance(entry, ByReference) else entry) is not NO_OP:
            return [f"{push.token} succeeded at {rig}, which did not act in {status.name}: {answer}"]
        if repeated := info.get("ran"):
            runs = self.runs.get((rig, repeated), [])
            if not any(run.pid == info["pid"] and run.ended and run.ended <= (push.ended or 0) for run in runs):
                return [f"{push.token} succeeded at {rig} as a repeat of {repeated}, which it never did: {answer}"]
        return []

    def _order_problems(self) -> list[str]:
        """Say which processes gave two pushes one request time, or went back in time."""
        found = []
        drawn: dict[int, set[float]] = defaultdict(set)
        last: dict[str, Push] = {}
        for push in sorted(self.pushes.values(), key=lambda push: push.began):
            if push.request_time is None:
                continue
            if push.request_time in drawn[push.pid]:
                found.append(f"two pushes with the request time {push.request_time}")
            drawn[push.pid].add(push.request_time)
            before = last.get(push.coordinator)
            # Of pushes at the same time, in two threads, either may draw first.
            sequential = before is not None and before.pid == push.pid and (before.ended or 0) < push.began
            if before and sequential and (before.request_time or 0) > push.request_time:
                found.append(f"{push.token} has an earlier request time than {before.token} before it")
            last[push.coordinator] = push
        return found

    def stamps(self, coordinator: str, rig: str) -> list[tuple[int, int, int, int]]:
        """Return the four stamps (RFC 5905 section 8) of each probe that came back, by the number of the probe."""
        found = [
            line.details for line in self.lines if line.what == "stamps" and line.details[:2] == (coordinator, rig)
        ]
        return [tuple(stamps) for _, _, _, stamps in sorted(found, key=lambda details: details[2])]


def by_the_table(pushes: Sequence[Push], rig: str) -> list[str]:
    """Return what the table says of pushes one after the other, to a rig that was CONNECTED before the first.

    Returns
    -------
    list of str
        ``run``, ``no-op`` or ``StateError`` for each.
    """
    status, reference, said = ExpStatus.CONNECTED, None, []
    initialised_with: bytes | None = None
    for push in pushes:
        event = ExpMessage[push.message]
        if event not in LIFECYCLE_MESSAGES:
            said.append("run")
            continue
        named = named_reference(event, push.args)
        data = fingerprint(event, push.args)
        decision = decide(status, event, reference, named, has_new_data=data not in (None, initialised_with))
        if decision.refusal:
            said.append("StateError")
        elif decision.no_op:
            said.append("no-op")
        else:
            assert decision.status is not None
            said.append("run")
            status = decision.status
            if event is ExpMessage.EXPINIT:
                reference, initialised_with = named, data
            elif event is ExpMessage.EXPSTART:
                reference = reference or named
            elif status is ExpStatus.CONNECTED:
                reference = None
    return said


def as_happened(record: Record, pushes: Sequence[Push], rig: str) -> list[str]:
    """Return what did happen, in the words of `by_the_table`."""
    happened = []
    for push in pushes:
        if rig in push.failed:
            error, text = push.failed[rig]
            happened.append("StateError" if error == "RemoteError" and "StateError" in text else text)
        else:
            happened.append("run" if record.runs.get((rig, push.token)) else "no-op")
    return happened
