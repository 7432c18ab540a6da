"""What rigs report of their own accord, to one function for each topic: one call at a time, in the order of arrival."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rigsync.core.board import PROGRESS, STREAM
from rigsync.core.events import Notice, ProgressChanged, StreamEvent
from rigsync.runtime.hub import Hub
from rigsync.runtime.lanes import Callee

logger = logging.getLogger("rigsync.reports")

TOLD_BY = {PROGRESS: ProgressChanged, STREAM: StreamEvent}
"""Topics of which no notice is told as it comes, and the events that tell what they say."""


@dataclass(slots=True, eq=False)
class _Callback:
    """A user's function, as it was assigned; without it, once it is ended."""

    callee: Callee | None


@dataclass(slots=True, eq=False)
class _Kind:
    """A topic for as long as it has a callback: what waited for that is not for one that is assigned later."""

    topic: str
    callback: _Callback

    @property
    def callee(self) -> Callee | None:
        """The function; None where it has been ended."""
        return self.callback.callee

    @property
    def role(self) -> str:
        """What the log calls the callback."""
        return f"callback for notices of {self.topic!r}"


class Reports:
    """The callbacks of one coordinator, which share one lane: the next call begins when the one before has ended."""

    def __init__(self, hub: Hub) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._lane = hub.lane(logger, "callback", "notices")
        hub.subscribe(Notice, self._tell)

    def assign(self, topic: str, callback: Callable[[Notice], Any] | None) -> Callable[[], None]:
        """Do as `Lab.on_notice`; from any thread."""
        if not isinstance(topic, str):
            raise TypeError(f"the topic of a notice is text, not {type(topic).__name__}")
        if not topic:
            raise ValueError("the topic of a notice is not empty")
        if event := TOLD_BY.get(topic):
            raise ValueError(f"{topic!r} is told by events of its own: subscribe with aux.on({event.__name__!r}, ...)")
        if callback is not None and not callable(callback):
            raise TypeError(f"a callback is a function, not {type(callback).__name__}")
        made = None if callback is None else _Callback(Callee.of(callback))
        # In single steps, without a lock: a signal handler may interrupt this, and wait for the service thread, which
        # may be about to assign, too.
        if made is None:
            if kind := self._kinds.pop(topic, None):
                kind.callback.callee = None
        elif (kind := self._kinds.get(topic)) and kind.callee:
            kind.callback = made
        else:
            self._kinds[topic] = _Kind(topic, made)

        def end() -> None:
            if made is not None:
                made.callee = None

        return end

    def _tell(self, notice: Notice) -> None:
        if (kind := self._kinds.get(notice.topic)) and kind.callee:
            self._lane.put(kind, notice)
