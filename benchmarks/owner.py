"""The owner of a rig that strangers attack."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from rigsync import Auxiliaries

POLL = 0.01
"""Seconds between two probes, and between two looks at the rig's memory."""
AT_ONCE = 32
"""Probes without an answer, beyond which it sends fewer: a coordinator remembers 64, and knows no answer to others."""
EXPERIMENT = (("EXPINIT", "2026-01-01_1_mouse"), ("EXPSTART", "2026-01-01_1_mouse"), ("EXPEND",))


class Owner:
    """A coordinator that probes a rig all the time, and runs one experiment after the other. A context manager.

    Attributes
    ----------
    longest : float
        Seconds between a probe and the next answer, at most: one that is lost counts until a later one is answered.
    commands, failed : int
        How many messages it has sent, and how many of them have not run.
    """

    def __init__(self, uri: str):
        self.aux = Auxiliaries({"rig": uri})
        assert self.aux.all_alive
        self.boot: str = self.aux.services.peer("rig").link.boot  # type: ignore[union-attr]
        self.longest, self.commands, self.failed = 0.0, 0, 0
        self._unanswered: deque[float] = deque()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._experiment), threading.Thread(target=self._probe)]

    def _probe(self) -> None:
        while not self._ended.wait(POLL if len(self._unanswered) < AT_ONCE else 10 * POLL):
            self.aux.thread.call(self._ping)

    def _ping(self) -> None:
        sent = time.monotonic()
        self._unanswered.append(sent)
        assert self.aux.services
        self.aux.services.ping("rig", 60, lambda reply: self._answered(sent, reply))

    def _answered(self, sent: float, reply: Any) -> None:
        if isinstance(reply, Exception):
            return
        self.longest = max(self.longest, self.waits())
        while self._unanswered and self._unanswered[0] <= sent:
            self._unanswered.popleft()

    def waits(self) -> float:
        """Return for how many seconds the oldest probe without an answer has waited."""
        return time.monotonic() - self._unanswered[0] if self._unanswered else 0.0

    def _experiment(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.is_set()  # once more, after all that came
            for message, *args in EXPERIMENT:
                self.commands += 1
                self.failed += isinstance(self.aux.push(message, *args, wait=True), Exception)
            self._ended.wait(0.05)

    def __enter__(self) -> Owner:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self.longest = max(self.longest, self.waits())
        self.aux.close()
