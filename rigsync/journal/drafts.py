"""The rows of a journal, before they are in its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(slots=True, eq=False)
class RunRow:
    """One opening of a coordinator or a rig; `id` is None while the file does not have it."""

    uuid: str
    kind: str
    name: str
    host: str
    program: str
    opened: float
    about: dict[str, Any]
    closed: float | None = None
    id: int | None = None
    is_changed: bool = True


@dataclass(slots=True, eq=False)
class SessionRow:
    """One experiment, as one run has seen it; `id` is None while the file does not have it."""

    run: RunRow
    ref: str
    subject: str | None
    began: float
    ended: float | None = None
    outcome: str | None = None
    rigs: dict[str, str] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    failures: int = 0
    adopts: frozenset[str] = frozenset()
    """Its rigs, where it goes on with a session that another coordinator has begun and not ended, if there is one."""
    is_joined: bool = False
    """Whether the run goes on with a session that another program has begun, or ends it."""
    is_only_ended: bool = False
    """Whether the run has begun nothing of it, and only told the rigs to end."""
    is_settled: bool = False
    """Whether it was over before this run took part in it; then what the file has of it stays."""
    id: int | None = None
    is_changed: bool = True


class RecordRow(NamedTuple):
    """One thing that happened."""

    run: RunRow
    session: SessionRow | None
    time: float
    mono: float
    kind: str
    rig: str | None
    number: int
    cause: int | None
    failure: bool
    data: str
