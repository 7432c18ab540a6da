"""Journals that no experiment has written: of a session as long, and as unlucky, as a test asks for."""

from __future__ import annotations

import json
import math
import random
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rigsync.core.enums import ExpStatus
from rigsync.journal.store import open_to_write

BEGAN = 1_795_600_800.0
"""Unix time at which the sessions begin: 2026-11-25, 10:00 UTC."""
RIGS_FILE = """\
# The rigs of room 3
rigs:
  cameras:left: udp://192.168.1.22:11001
  cameras:right: udp://192.168.1.23:11001
  ephys: {uri: "udp://192.168.1.21:11001", timeout: 30}
  scanner: osc://192.168.1.30:9000
"""


@dataclass
class MadeUp:
    """A session to be written.

    Parameters
    ----------
    ref : str
        Its reference.
    rigs : sequence of str
        Names of the rigs.
    seconds : float
        For how long they record.
    every : float
        Seconds between two measurements of a link.
    outcome : str or None
        Of the session; None where it goes on.
    troubles : mapping of str to str
        What became of rigs that are not well.
    recorded : mapping of str to dict
        What rigs tell of their files; by default each tells of two.
    silent : mapping of str to tuple
        From when to when a rig is silent, as shares of the recording.
    failing : sequence of tuple
        Rig, share of the recording, key and text of a failure.
    notices : sequence of tuple
        Rig, share of the recording, topic and body.
    late : mapping of str to float
        Milliseconds after the instant at which rigs begin.
    """

    ref: str = "2026-11-25_1_mouse7"
    rigs: Sequence[str] = ("cameras:left", "cameras:right", "ephys", "scanner")
    seconds: float = 60.0
    every: float = 10.0
    outcome: str | None = "complete"
    troubles: Mapping[str, str] = field(default_factory=dict)
    recorded: Mapping[str, Any] = field(default_factory=dict)
    silent: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    failing: Sequence[tuple[str, float, str, str]] = ()
    notices: Sequence[tuple[str, float, str, Any]] = ()
    late: Mapping[str, float] = field(default_factory=dict)
    began: float = BEGAN
    about: Mapping[str, Any] = field(
        default_factory=lambda: {
            "rigsync": "0.1.0",
            "python": "3.11.2",
            "platform": "Linux-6.1",
            "user": "lab",
            "provenance": {"commit": "4be1c0d", "dirty": True},
            "files": {"rigs.yaml": RIGS_FILE},
        }
    )
    program: str = "task.py, process 4711"
    host: str = "behaviour-3"

    def write(self, path: Path) -> None:
        """Add it to a journal."""
        with closing(open_to_write(path)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN")
            run = connection.execute(
                "INSERT INTO run(uuid, kind, name, host, program, opened, closed, about) VALUES(?,?,?,?,?,?,?,?)",
                (
                    uuid.uuid4().hex,
                    "coordinator",
                    "",
                    self.host,
                    self.program,
                    self.began - 5,
                    self.began + self.seconds + 60,
                    json.dumps(self.about),
                ),
            ).lastrowid
            records = sorted(self._records(), key=lambda record: record[0])
            files = [file for rig in self.rigs for file in self._recorded(rig).get("files", [])]
            ended = None if self.outcome is None else self.began + self.seconds + 3.2
            session = connection.execute(
                "INSERT INTO session(run, ref, subject, began, ended, outcome, rigs, files, bytes, failures)"
                " VALUES(?,?,?,?,?,?,?,?,?,?)",
                (
                    run,
                    self.ref,
                    self.ref.split("_")[-1],
                    self.began,
                    ended,
                    self.outcome,
                    json.dumps({rig: self.troubles.get(rig, "ok") for rig in self.rigs}),
                    len(files),
                    sum(file.get("bytes") or 0 for file in files),
                    sum(record[3] for record in records),
                ),
            ).lastrowid
            connection.executemany(
                "INSERT INTO record(run, session, time, mono, kind, rig, number, failure, data)"
                f" VALUES({run},{session},?,?,?,?,?,?,?)",
                (
                    (time, time - self.began + 1000, kind, rig, number, failure, json.dumps(data))
                    for number, (time, kind, rig, failure, data) in enumerate(records, 1)
                ),
            )
            connection.execute("COMMIT")

    def _recorded(self, rig: str) -> dict[str, Any]:
        frames = int(self.seconds * 60)
        files = [
            {
                "path": f"D:/data/{self.ref}/{rig.replace(':', '-')}{suffix}",
                "bytes": size,
                "frames": count,
                "verified": how,
            }
            for suffix, size, count, how in (
                (".mp4", frames * 21_000, frames, "ffprobe"),
                (".timestamps.csv", frames * 19, None, "size"),
            )
        ]
        found: dict[str, Any] = self.recorded.get(rig, {"seconds": self.seconds + 0.02, "files": files})
        return found

    def _records(self) -> list[tuple[float, str, str | None, int, Any]]:
        chance = random.Random(self.ref)
        began, start = self.began, self.began + 2.4
        end = start + self.seconds
        made: list[tuple[float, str, str | None, int, Any]] = []
        for event, at, slow, instant in (
            ("EXPINFO", began - 0.1, 0.02, None),
            ("EXPINIT", began, 1.3, None),
            ("EXPSTART", start - 0.5, 0.3, start),
            ("EXPEND", end, 0.6, None),
            ("EXPCLEANUP", end + 0.85, 0.1, None),
        ):
            if self.outcome is None and at >= end:
                break
            made += self._push(event, at, slow, instant, chance)
        for rig in self.rigs:
            made += self._samples(rig, began - 1, end, chance)
            if rig in self.silent:
                made += self._silence(rig, start, chance)
        for rig, share, key, text in self.failing:
            data = {"topic": "failure", "key": key, "body": {"problem": text}, "confirmed": True, "size": 99}
            made.append((start + share * self.seconds, "Notice", rig, 1, data))
        for rig, share, topic, body in self.notices:
            data = {"topic": topic, "key": None, "body": body, "confirmed": True, "size": 99}
            made.append((start + share * self.seconds, "Notice", rig, 0, data))
        return made

    def _push(
        self, event: str, at: float, slow: float, instant: float | None, chance: random.Random
    ) -> list[tuple[float, str, str | None, int, Any]]:
        states = {"EXPINIT": "INITIALIZED", "EXPSTART": "RUNNING", "EXPEND": "STOPPED", "EXPCLEANUP": "CONNECTED"}
        key, args = at - 0.0002, [self.ref, None]
        begun = {"request_time": key, "event": event, "args": args, "rigs": list(self.rigs), "at": instant}
        made: list[tuple[float, str, str | None, int, Any]] = [(at, "PushBegun", None, 0, begun)]
        answers, failures, starts, last = {}, {}, {}, at
        for number, rig in enumerate(self.rigs):
            entered = (instant or at) + self.late.get(rig, 0.1 * number) / 1000
            answered = entered + slow * (0.3 + chance.random())
            last = max(last, answered)
            if rig in self.troubles and event == "EXPEND":
                failures[rig] = {"error": "RemoteError", "problem": self.troubles[rig]}
                continue
            status = ExpStatus[states.get(event, "CONNECTED")]
            information = {"status": int(status)} | ({"recorded": self._recorded(rig)} if event == "EXPEND" else {})
            answers[rig] = [self.ref, information]
            starts[rig] = {"time": entered, "bound": 0.00015 * (1 + number % 3), "is_estimate": number % 4 == 3}
            received = {"event": event, "args": answers[rig], "request_time": key, "size": 300}
            made.append((answered, "MessageReceived", rig, 0, received))
            if event in states:
                body = {"status": states[event], "exp_ref": self.ref, "reason": None}
                data = {"topic": "status", "key": None, "body": body, "confirmed": True, "size": 200}
                made.append((answered - 0.001, "Notice", rig, 0, data))
        done = {"request_time": key, "event": event, "answers": answers, "failures": failures, "starts": starts}
        made.append((last + 0.0001, "PushCompleted", None, int(bool(failures)), {**done, "at": instant}))
        return made

    def _samples(
        self, rig: str, begin: float, end: float, chance: random.Random
    ) -> list[tuple[float, str, str | None, int, Any]]:
        made: list[tuple[float, str, str | None, int, Any]] = []
        number = list(self.rigs).index(rig)
        offset, trip = 0.004 * (number - 1.3) - (183.2 if number == 2 else 0.0), 0.0007 * (1 + number % 3)
        for place in range(int((end - begin) / self.every) + 1):
            time = begin + place * self.every
            share = (time - begin) / (end - begin)
            round_trip = trip * (1 + abs(chance.gauss(0, 0.25))) + (0.02 if chance.random() < 0.004 else 0.0)
            drift = 2.1e-6 * (number - 1)
            clock = {
                "offset": offset + drift * (time - begin) + 3e-5 * math.sin(9 * share) + chance.gauss(0, 1e-5),
                "bound": 0.0001 + 0.0001 * abs(chance.gauss(0, 1)),
                "drift": drift,
                "delay": trip / 2,
            }
            silent = self.silent.get(rig, (2, 2))
            data = {
                "link": "alive",
                "dialect": "rigsync",
                "status": "RUNNING" if share > 0.05 else "CONNECTED",
                "exp_ref": self.ref,
                "owner": "192.168.1.10",
                "round_trip": round_trip,
                "loss": 0.4 if silent[0] <= share <= silent[1] else chance.choice([0, 0, 0, 0, 0.02]),
                "clock": clock,
                "failures": {},
                "version": "0.1.0",
            }
            made.append((time, "Sample", rig, 0, data))
            if place % 2:
                told = {"item": "frames", "value": int(3600 * share), "total": None, "unit": "frames"}
                made.append((time + 0.1, "ProgressChanged", rig, 0, told))
        return made

    def _silence(self, rig: str, start: float, chance: random.Random) -> list[tuple[float, str, str | None, int, Any]]:
        first, last = (start + share * self.seconds for share in self.silent[rig])
        reason = "it has been silent for 5 beats"
        return [
            (first, "LinkSuspect", rig, 0, {"before": "alive", "after": "suspect", "reason": "silent for 3 beats"}),
            (first + 2.0, "LinkLost", rig, 1, {"before": "suspect", "after": "lost", "reason": reason}),
            (last, "LinkAlive", rig, 0, {"before": "lost", "after": "alive", "reason": "answered"}),
        ]


def unlucky() -> MadeUp:
    """Return a session of 24 minutes in which much goes wrong."""
    return MadeUp(
        seconds=1440.0,
        outcome="incomplete",
        troubles={"ephys": "EndedBadly: the recorder died 11:37 before the end: No space left on device"},
        silent={"cameras:right": (0.31, 0.36)},
        failing=[("ephys", 0.515, "D:/data/probe00.bin", "the recorder has died: No space left on device")],
        notices=[
            ("cameras:left", 0.2, "dropped", {"text": "12 frames"}),
            ("scanner", 0.7, "laser", {"text": "power 41 mW"}),
        ],
        recorded={"ephys": {"seconds": 743.1, "files": []}},
        late={"cameras:left": 0.21, "cameras:right": 0.34, "ephys": 0.12, "scanner": 1.9},
    )
