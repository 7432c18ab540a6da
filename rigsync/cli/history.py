"""What `rigsync watch` has seen of the rigs since it began."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from rigsync.coordinator.view import RigView, Told, is_back
from rigsync.core.enums import ExpStatus
from rigsync.core.events import LinkState

RATE_OVER, RATE_FROM = 10.0, 2.0
"""Seconds over which a rate is measured, and before it is first known."""


@dataclass(slots=True)
class _Seen:
    """What was seen of one rig; instants in monotonic seconds."""

    view: RigView
    running_since: float | None = None
    was_running: bool = False
    """Whether it was RUNNING already when it was first heard, or heard again: since when, nobody here knows."""
    settled: Told | None = None
    """The last failure of an earlier experiment."""
    values: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)
    """By item of progress: when it was seen, and its value."""


class History:
    """Remembers how rigs were until it was last told. Pure: views and the monotonic time (s) are arguments."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._now = 0.0

    def note(self, views: Sequence[RigView], now: float) -> None:
        """Take in how the rigs are now."""
        self._now = now
        for view in views:
            seen = self._seen.setdefault(view.rig, _Seen(RigView(view.rig, LinkState.UNKNOWN)))
            before, seen.view = seen.view, view
            if view.exp_ref != before.exp_ref and view.exp_ref and before.exp_ref:
                seen.settled = before.last_failure
            if view.link is LinkState.ALIVE:
                self._note_alive(seen, before)

    def running_for(self, rig: str) -> tuple[float, bool] | None:
        """Return for how many seconds a rig has been RUNNING, and whether it may be longer; None if it is not."""
        seen = self._seen.get(rig)
        if seen is None or seen.running_since is None or seen.view.link is not LinkState.ALIVE:
            return None
        return self._now - seen.running_since, seen.was_running

    def rates(self, rig: str) -> Mapping[str, float]:
        """Return, by item of progress, what changes a second; only of what changes, of a rig that answers."""
        seen = self._seen.get(rig)
        if seen is None or seen.view.link is not LinkState.ALIVE:
            return {}
        rates = {item: _rate(values) for item, values in seen.values.items()}
        return {item: rate for item, rate in rates.items() if rate and isfinite(rate)}

    def has_failed(self, view: RigView) -> bool:
        """Return whether something has gone wrong at a rig in its experiment; that it is back is no fault."""
        if view.trouble:
            return True
        seen, failure = self._seen.get(view.rig), view.last_failure
        return failure is not None and not is_back(failure) and (seen is None or failure != seen.settled)

    def _note_alive(self, seen: _Seen, before: RigView) -> None:
        now, view = self._now, seen.view
        if view.status is not ExpStatus.RUNNING:
            seen.running_since = None
        elif seen.running_since is None or (view.exp_ref != before.exp_ref):
            seen.running_since, seen.was_running = now, before.link is not LinkState.ALIVE
        for item in seen.values.keys() - view.progress.keys():
            del seen.values[item]
        for item, progress in view.progress.items():
            values = seen.values.setdefault(item, deque())
            values.append((now, progress.value))
            while now - values[0][0] > RATE_OVER:
                values.popleft()


def _rate(values: Sequence[tuple[float, float]]) -> float | None:
    (began, first), (ended, last) = values[0], values[-1]
    return (float(last) - float(first)) / (ended - began) if ended - began >= RATE_FROM else None
