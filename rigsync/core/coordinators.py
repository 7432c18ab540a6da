"""What a rig remembers of each coordinator: answers for repeats, and notices."""

from __future__ import annotations

import hashlib
import math
import struct
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain, islice
from random import Random
from typing import Any

from rigsync.core.notices import KEPT, NoticeQueue
from rigsync.core.timing import Timing
from rigsync.errors import RemoteProtocolError

FORGOTTEN = 1 << 14
"""Forgotten coordinators whose highest number is kept, so that none of their requests is run again."""
LOOKED_AT = 64
"""One that has only probed is forgotten first. It is looked for among so many of those silent for longest."""
FILTER_BITS = 1 << 24
"""Size of the filter that knows those forgotten before them. With a million in it, one newcomer in 2,000 is refused by
mistake."""
FILTER_HASHES = 8
JUMP = 10_000_000
"""By how much a number may be above the highest before it: more than a coordinator asks other rigs meanwhile. A forged
request with the highest number there is would leave none for those to come."""
Address = tuple[Any, ...]
"""Host and port, and what else the transport needs to answer."""

ONE_PACKET = 1200
"""Bytes of an answer that any network carries whole (RFC 9000 section 14). A larger one may lose a part each time."""
RECORDS = 256
"""Answers kept for each coordinator; the newest alone would do (docs/decisions/0003)."""
KEPT_BYTES = 1 << 20
"""Bytes of answers kept for each coordinator, beside the newest: some that fill a datagram may be under way at once."""
ALL_KEPT_BYTES = 8 << 20
"""Bytes of all kept answers and records, without those of the coordinator in charge."""
RECORD_BYTES = 512
"""Bytes that a record takes beside its answer."""
ALL_NOTICE_BYTES = 16 << 20
"""Bytes of notices that wait for all coordinators but the one in charge."""
COORDINATORS = 1024
"""Coordinators remembered. The one in charge and those that watch stay. A flood of forged ones pushes out the others,
those silent for longest first."""
WATCHERS = 64
"""Coordinators that get notices: the first that probed. Forged ones must not make a rig send to a thousand."""

GONE = "it is silent: its program has ended without a goodbye, or it is cut off"
ONE_OF_MANY = f"{WATCHERS} others get them already; close programs that need not watch"
BEHIND = "more wait for it than are kept; see whether its computer is overloaded or its network loses much"
"""Why a coordinator misses confirmed notices."""


class Standing(IntEnum):
    """How much the sender of a message has to do with the rig. Where there is too much for all, the lowest go first."""

    STRANGER = 0
    WATCHES = 1
    IN_CHARGE = 2


@dataclass(slots=True)
class Record:
    """A request that has been accepted, and its answer once there is one."""

    n: int
    source: Address
    coordinator: Coordinator
    frame: bytes | None = None
    is_withheld: bool = False
    """Whether the answer waits until its coordinator's host has shown that it receives."""

    def keep(self, frame: bytes) -> None:
        """Keep the answer, for repeats, and forget the oldest beyond what is kept."""
        self.frame = frame
        self.coordinator.kept_bytes += len(frame)
        self.coordinator.trim(RECORDS, self)


@dataclass(slots=True)
class Coordinator:
    """One boot of one coordinator."""

    boot: str
    host: str
    last_seen: float
    notices: NoticeQueue
    patience: float
    """Seconds of silence after which it does not count as there: five of its beats."""
    highest: int = 0
    records: OrderedDict[int, Record] = field(default_factory=OrderedDict)
    kept_bytes: int = 0
    address: Address | None = None
    """Where its probes come from; None after it has said goodbye."""
    told_overflow: str | None = None
    """Why it misses notices, as far as that was told."""
    program: str | None = None
    """Which program it is, for people."""
    has_left: bool = False
    """Whether it has said goodbye. After that nothing of its boot counts."""
    is_spent: bool = False
    """Whether it was forgotten so long ago that the rig does not know which of its requests were run."""

    def open_record(self, n: int, source: Address) -> Record:
        """File request `n`, the highest so far; forget the oldest answers where there are too many."""
        self.highest = n
        self.trim(RECORDS - 1)
        record = self.records[n] = Record(n, source, self)
        return record

    def trim(self, most: int, newest: Record | None = None) -> None:
        """Forget the oldest answers beyond `most` and beyond the bytes that are kept, but never the newest."""
        while self.records and (len(self.records) > most or self.kept_bytes > KEPT_BYTES):
            oldest = next(iter(self.records.values()))
            if oldest.frame is None or oldest is newest:
                break
            del self.records[oldest.n]
            self.kept_bytes -= len(oldest.frame)

    def forget_answers(self) -> None:
        """Forget all answers, but neither requests under way nor the highest number."""
        self.records = OrderedDict((n, record) for n, record in self.records.items() if record.frame is None)
        self.kept_bytes = 0

    def is_gone(self, now: float) -> bool:
        """Whether it has been silent for so long that it does not count as there."""
        return now > self.last_seen + self.patience

    @property
    def size(self) -> int:
        return self.kept_bytes + RECORD_BYTES * len(self.records)

    @property
    def is_waiting(self) -> bool:
        """Whether one of its requests is under way. A repeat of that must be recognised."""
        return any(record.frame is None for record in self.records.values())


class Filter:
    """Knows all boot numbers that were added, in a fixed amount of memory; mistakes few others for them.

    A Bloom filter (Communications of the ACM 13, 1970, p. 422).
    """

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, boot: str) -> None:
        if not self._bits:  # few rigs ever need it
            self._bits = bytearray(FILTER_BITS // 8)
        for place in self._places(boot):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, boot: str) -> bool:
        return bool(self._bits) and all(self._bits[place >> 3] >> (place & 7) & 1 for place in self._places(boot))

    @staticmethod
    def _places(boot: str) -> list[int]:
        digest = hashlib.blake2b(boot.encode("ascii"), digest_size=4 * FILTER_HASHES).digest()
        return [number % FILTER_BITS for (number,) in struct.iter_unpack("<I", digest)]


class Coordinators:
    """All coordinators of one rig."""

    def __init__(self, timing: Timing, random: Random):
        self._timing, self._random = timing, random
        self._known: OrderedDict[str, Coordinator] = OrderedDict()
        self._forgotten: OrderedDict[str, int] = OrderedDict()
        self._spent = Filter()
        self._watchers: dict[str, Coordinator] = {}
        self.kept: str | None = None
        """Boot number of the experiment's owner, also after its lease. It is told everything however long it was
        silent, for it has to hear what became of its experiment."""
        self.short_changed: list[tuple[Address, str]] = []
        """Addresses of those that miss confirmed notices, each once, and why. Whoever reports them empties it."""
        self.newcomers: list[Coordinator] = []
        """Those that have begun to watch, or have missed something and have all the rest: it is not known how much they
        know. Whoever tells them empties it."""
        self._grown = 0
        """Bytes of answers since the last check of how many are kept."""

    def seen(self, boot: str, source: Address, now: float, beat: float | None = None) -> Coordinator | None:
        """Return the coordinator of a frame that came from `source`; None where there is no room for another one.

        `beat` are the seconds between its probes, where the frame tells them. A boot number that another host used
        lately is forged (`RemoteProtocolError`).
        """
        coordinator = self._known.get(boot)
        if coordinator is None:
            if len(self._known) >= COORDINATORS and not self._forget_one():
                return None
            notices, highest = NoticeQueue(self._timing, self._random), self._forgotten.pop(boot, 0)
            coordinator = Coordinator(boot, source[0], now, notices, self._timing.lost_after, highest)
            self._known[boot] = coordinator
            coordinator.is_spent = not coordinator.highest and boot in self._spent
        elif coordinator.host != source[0] and not coordinator.is_gone(now):
            raise RemoteProtocolError("forged source", f"a frame in the name of a coordinator on {coordinator.host}")
        self._known.move_to_end(boot)
        coordinator.host = source[0]  # silent for long enough: its computer has another address now
        coordinator.last_seen, coordinator.address = now, None if coordinator.has_left else source
        if beat is not None:
            coordinator.patience = self._timing.silence(beat)
        coordinator.notices.resume(now)
        return coordinator

    def watch(self, boot: str, now: float, certainly: bool = False) -> None:
        """Send notices to a coordinator that was seen; `certainly` also where there are too many already."""
        if certainly:
            self.kept = boot
        if boot in self._known and boot not in self._watchers and not self._known[boot].has_left:
            self._expire_watchers(now)
            if certainly or len(self._watchers) < WATCHERS:
                self._watchers[boot] = self._known[boot]
                self._catch_up(self._known[boot])
            else:
                self._short_changed(self._known[boot], ONE_OF_MANY)

    def find(self, boot: str) -> Coordinator | None:
        """Return a coordinator that gets notices."""
        return self._watchers.get(boot)

    def watches(self, boot: str, host: str) -> bool:
        return boot in self._watchers and self._watchers[boot].host == host

    def _expire_watchers(self, now: float) -> None:
        for boot in [boot for boot, watcher in self._watchers.items() if watcher.last_seen < now - KEPT]:
            if boot == self.kept:
                continue
            if len(self._watchers[boot].notices):
                self._short_changed(self._watchers[boot], GONE)
            self._stop_watching(boot)

    def _short_changed(self, coordinator: Coordinator, reason: str) -> None:
        if not coordinator.told_overflow and coordinator.address and len(self.short_changed) < WATCHERS:
            coordinator.told_overflow = reason
            self.short_changed.append((coordinator.address, reason))

    def _catch_up(self, coordinator: Coordinator) -> None:
        """Have a coordinator told the present state. That it was silent once hides nothing of what it misses then."""
        self.newcomers.append(coordinator)
        if coordinator.told_overflow == GONE:
            coordinator.told_overflow = None

    def _stop_watching(self, boot: str) -> None:
        if watcher := self._watchers.pop(boot, None):
            watcher.notices.clear()

    def _forget_one(self) -> bool:
        """Forget a stranger; return whether there was one."""
        strangers = (known for boot, known in self._known.items() if boot not in self._watchers and boot != self.kept)
        oldest = list(islice(strangers, LOOKED_AT))
        # Those that have only probed go first: nothing of theirs would be run twice.
        idle = (known for known in oldest if not known.records)
        done = (known for known in chain(oldest, strangers) if not known.is_waiting)
        if (known := next(chain(idle, done), None)) is None:
            return False
        del self._known[known.boot]
        if known.highest:
            self._forgotten[known.boot] = known.highest
            if len(self._forgotten) > FORGOTTEN:
                boot, _ = self._forgotten.popitem(last=False)
                self._spent.add(boot)
        elif known.is_spent:
            self._spent.add(known.boot)
        return True

    def leave(self, boot: str, source: Address) -> bool:
        """Send no more notices to a coordinator that has said goodbye; return whether it is known."""
        coordinator = self._known.get(boot)
        if coordinator is None or coordinator.host != source[0]:
            return False
        coordinator.address, coordinator.has_left = None, True
        self._stop_watching(boot)
        return True

    def acknowledge(self, boot: str, n: int, source: Address, now: float) -> bool:
        """Take a coordinator's acknowledgement of a notice; return whether the coordinator is known."""
        coordinator = self._known.get(boot)
        if coordinator is None or coordinator.host != source[0]:
            return False
        coordinator.notices.acknowledge(n, now)
        if coordinator.notices.overflowed and not len(coordinator.notices) and boot in self._watchers:
            coordinator.notices.overflowed = False
            self._catch_up(coordinator)
        return True

    def file_notice(self, n: int, frame: bytes, now: float, instead: Hashable = None) -> list[Coordinator]:
        """Queue a notice for each coordinator that watches, or may be back soon; return these."""
        self._expire_watchers(now)
        for watcher in self._watchers.values():
            watcher.notices.add(n, frame, now, instead)
        self.bound_notices()
        for watcher in self._watchers.values():
            if watcher.notices.overflowed:
                self._short_changed(watcher, GONE if watcher.is_gone(now) else BEHIND)
        return [watcher for watcher in self._watchers.values() if watcher.notices.due <= now]

    def take_back(self, instead: Hashable) -> None:
        for watcher in self._watchers.values():
            watcher.notices.take_back(instead)

    def due(self, now: float) -> list[Coordinator]:
        """Return the coordinators to which a notice is to be sent now; silent ones have to be heard first."""
        found = []
        for watcher in self._watchers.values():
            if now < watcher.notices.due:
                continue
            if not watcher.is_gone(now):
                found.append(watcher)
            else:
                watcher.notices.pause()
        return found

    def watching(self, now: float, except_for: str | None = None) -> list[tuple[Address, str]]:
        """Return address and boot number of the coordinators that watch and were heard lately, but for one boot."""
        if len(self._watchers) == (except_for in self._watchers):  # it is the only one
            return []
        return [
            (watcher.address, boot)
            for boot, watcher in self._watchers.items()
            if boot != except_for and watcher.address and not watcher.is_gone(now)
        ]

    def last_words(self, now: float) -> list[tuple[Address, str, list[bytes]]]:
        """Return address and boot number of those that watch, each with its unconfirmed notices."""
        return [(address, boot, self._watchers[boot].notices.rest()) for address, boot in self.watching(now)]

    def withheld(self, host: str) -> list[Record]:
        """Return the answers that wait for a host to show that it receives."""
        known = (coordinator for coordinator in self._known.values() if coordinator.host == host)
        return [record for coordinator in known for record in coordinator.records.values() if record.is_withheld]

    def keep(self, record: Record, frame: bytes) -> None:
        """Keep an answer for repeats; forget the oldest of others where all together take too much."""
        record.keep(frame)
        self._grown += len(frame) + RECORD_BYTES
        if self._grown > ALL_KEPT_BYTES // 8:  # adding up each time would take too long
            self._grown = 0
            strangers = (known for boot, known in self._known.items() if boot not in self._watchers)
            watchers = (known for boot, known in self._watchers.items() if boot != self.kept)
            others = (known for known in chain(strangers, watchers) if known is not record.coordinator)
            excess = sum(known.size for boot, known in self._known.items() if boot != self.kept) - ALL_KEPT_BYTES
            while excess > 0 and (other := next(others, None)):
                before = other.size
                other.forget_answers()
                excess -= before - other.size

    def bound_notices(self) -> None:
        """Give up notices where too many wait for all but the one in charge, first for those with most."""
        queues = [watcher.notices for boot, watcher in self._watchers.items() if boot != self.kept]
        while sum(queue.size for queue in queues) > ALL_NOTICE_BYTES:
            fullest = max(queues, key=lambda queue: queue.size)
            if not fullest.give_up():
                return

    def next_timer(self) -> float:
        return min((watcher.notices.due for watcher in self._watchers.values()), default=math.inf)
