"""What the writer's thread makes of a subject when it is opened: its run, and the scribe that writes it."""

from __future__ import annotations

import os
import socket
import time

from rigsync.core.clock import StampClock
from rigsync.journal.about import Repository, about_run, folder_of_task
from rigsync.journal.drafts import RunRow
from rigsync.journal.recorder import RIG, Subject
from rigsync.journal.scribe import Scribe
from rigsync.journal.sessions import CoordinatorSessions, RigSessions
from rigsync.runtime.program import this_program


def scribe_of(subject: Subject, uuid: str, opened: float) -> Scribe:
    """Return the scribe of a run that was opened at a Unix time in seconds."""
    files = [os.path.abspath(path) for path in subject.files]
    about = about_run(files, {"clock": _anchor(subject.clock()), **subject.about()})
    run = RunRow(uuid, subject.kind, subject.name, socket.gethostname(), this_program(), opened, about)
    is_rig = subject.kind == RIG
    sessions = RigSessions(run) if is_rig else CoordinatorSessions(run, subject.reference)
    folder = os.path.dirname(files[0]) if files else None
    where = (folder or folder_of_task()) if is_rig else (folder_of_task() or folder)
    return Scribe(run, sessions, subject.samples, Repository(where) if where else None, time.monotonic())


def _anchor(clock: StampClock | None) -> dict[str, float] | None:
    """Return a moment by the wall clock that stamps follow, and by the monotonic one; both in seconds."""
    now = time.monotonic()
    return None if clock is None else {"time": clock.stamp(now) / 1e9, "mono": now}
