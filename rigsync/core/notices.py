"""What rigs tell of their own accord, at both ends (docs/protocol.md sections 2 and 3).

Confirmed notices go to each coordinator one at a time, the next when the last has been acknowledged. So each is told
once and in order. Of the others only the newest of a topic and key counts.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from itertools import islice
from random import Random
from typing import Any

from rigsync.core.backoff import Backoff
from rigsync.core.messages import Notice
from rigsync.core.timing import Timing

FAILURE = "failure"
"""Topic by which a rig reports that it records badly, or not at all: ``{'problem': text}``."""
RECOVERED = "recovered"
"""Topic by which it reports that this is over, with the key of the failure."""
FINISH = "finish"
"""Topic by which an agent tells how it gets on with what is to be done after a session: ``{'exp_ref': text or None,
'attempts': number, 'problem': text or None}``. Without a problem it is done."""
FREE_DISK = "free_disk"
"""Key of a failure, and of its end, that says that a disk is nearly full."""
WAITING = 10_000
WAITING_BYTES = 4 << 20
"""Confirmed notices that may wait for one coordinator, and their bytes. Where there are more, the oldest are given
up."""
NOTICE_BYTES = 300
"""Bytes that a notice takes beside its own."""
KEPT = 120.0
"""Seconds for which notices wait for a silent coordinator: longer than any partition that heals by itself."""
KEYS = 1024
"""Topics and keys whose newest notice a coordinator remembers, for each rig."""


def finish_text(key: object, body: Mapping[str, Any]) -> str:
    """Return in words what a notice `FINISH` tells."""
    attempts, problem = body.get("attempts"), body.get("problem")
    if problem:
        return f"{key}: attempt {attempts} has failed, and it is tried again: {problem}"
    return f"{key}: done" if attempts == 1 else f"{key}: done, after {attempts} attempts"


class NoticeFilter:
    """Tells new notices of one boot of a rig from repeated ones."""

    __slots__ = ("_confirmed", "_newest")

    def __init__(self) -> None:
        self._confirmed = -1
        self._newest: OrderedDict[tuple[str, str | None], int] = OrderedDict()

    def is_new(self, notice: Notice) -> bool:
        """Return whether a notice is new, and remember it."""
        if notice.confirm:
            newest, self._confirmed = self._confirmed, max(self._confirmed, notice.n)
            return notice.n > newest
        key = notice.topic, notice.key
        newest = self._newest.pop(key, -1)
        self._newest[key] = max(newest, notice.n)
        if len(self._newest) > KEYS:
            self._newest.popitem(last=False)
        return notice.n > newest


class NoticeQueue:
    """The confirmed notices that wait for one coordinator."""

    __slots__ = (
        *("_backoff", "_bytes", "_is_copy", "_newest", "_sent_at", "_tries", "_waiting"),
        *("due", "lost", "overflowed"),
    )

    def __init__(self, timing: Timing, random: Random):
        self._backoff = Backoff(timing, random)
        self._waiting: OrderedDict[int, tuple[bytes, Hashable]] = OrderedDict()
        self._newest: dict[Hashable, int] = {}  # numbers of those that a newer one may replace
        self._bytes = self._tries = 0
        self._sent_at = 0.0
        self._is_copy = False
        self.due = math.inf
        """When the first is to be sent, again or for the first time, in monotonic seconds."""
        self.overflowed = False
        """Whether some were given up."""
        self.lost = -1
        """The highest number that was ever given up."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, n: int, frame: bytes, now: float, instead: Hashable = None) -> None:
        """Queue a notice, whose number is higher than those before.

        An earlier notice about the same thing (`instead`) is taken out, so that none waits in vain on a slow link.
        """
        if instead is not None:
            self.take_back(instead)
            self._newest[instead] = n
        self._waiting[n] = frame, instead
        self._bytes += len(frame)
        while len(self._waiting) > 2 and (len(self._waiting) > WAITING or self._bytes > WAITING_BYTES):
            # Never the first: it has been sent, and may still be acknowledged.
            self.lost = next(islice(self._waiting, 1, None))
            self._take_out(self.lost)
            self.overflowed = True
        if len(self._waiting) == 1:
            self._tries, self.due = 0, now

    @property
    def size(self) -> int:
        return self._bytes + NOTICE_BYTES * len(self._waiting)

    def give_up(self) -> bool:
        """Give up all but the first, which may still be acknowledged; return whether there was more."""
        rest = list(islice(self._waiting, 1, None))
        for n in rest:
            self._take_out(n)
            self.lost = n
        self.overflowed = self.overflowed or bool(rest)
        return bool(rest)

    def take_back(self, instead: Hashable) -> None:
        """Take out a waiting notice about something, unless it is under way."""
        n = self._newest.get(instead)
        if n is not None and n != self._first():
            self._take_out(n)

    def send(self, now: float) -> bytes:
        """Return the first notice for the caller to send, and plan when to send it again."""
        self._tries += 1
        if self._tries == 1:
            self._sent_at = now
        self.due = now + self._backoff.wait(self._tries)
        return self._waiting[self._first()][0]

    def acknowledge(self, n: int, now: float) -> None:
        if not self._waiting or self._first() != n or not self._tries:
            return  # of an earlier copy
        if self._tries == 1 and not self._is_copy:
            self._backoff.add_sample(now - self._sent_at)
        self._take_out(n)
        self._is_copy = False
        self._tries, self.due = 0, now if self._waiting else math.inf

    def rest(self) -> list[bytes]:
        """Return all that wait, in order, to be sent a last time."""
        return [frame for frame, _ in self._waiting.values()]

    def pause(self) -> None:
        """Send nothing until the coordinator is heard again."""
        self.due = math.inf

    def resume(self, now: float) -> None:
        """Go on, since the coordinator has been heard."""
        if self._waiting and self.due == math.inf:
            self._is_copy = self._tries > 0  # whose acknowledgement measures no round trip (Karn's rule)
            self._tries, self.due = 0, now

    def clear(self) -> None:
        self._waiting.clear()
        self._newest.clear()
        self._bytes = 0
        self.due = math.inf

    def _first(self) -> int:
        return next(iter(self._waiting))

    def _take_out(self, n: int) -> None:
        frame, instead = self._waiting.pop(n)
        self._bytes -= len(frame)
        if self._newest.get(instead) == n:
            del self._newest[instead]
