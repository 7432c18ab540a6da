"""What one alert tells, and when: gathered, at most once a minute for each cause, tried again. Pure: time goes in."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from random import Random

from rigsync._text import one_line
from rigsync.alerts.watch import Happening
from rigsync.config.alerts import DISK_LOW, FAILURE
from rigsync.core.backoff import Backoff
from rigsync.core.throttle import Throttle
from rigsync.core.timing import Timing

INTERVAL = 60.0
"""Least seconds between two alerts of one cause: what has happened, and to which rigs."""
GATHER = 1.0
"""Seconds for which an alert waits for more of its kind: where a switch fails, all rigs are lost within a beat."""
TRIES = 8
"""How often an alert is tried, over some five minutes: a network that has lost its rigs may be back by then."""
MOST_LINES = 10
"""Most things that one alert tells; the rest are counted."""
MOST_REMEMBERED = 1000
"""Most texts that are known to have been told."""
_PACE = Timing(resend_first=2.0, resend_max=120.0)

_Cause = tuple[str, tuple[str, ...]]


@dataclass(slots=True)
class Message:
    """One alert on its way."""

    on: str
    time: float
    """When the first of it happened, as Unix time in seconds."""
    due: float
    """When it is to be tried, in monotonic seconds."""
    exp_ref: str | None = None
    lines: list[Happening] = field(default_factory=list)
    held_back: int = 0
    tries: int = 0

    @property
    def rigs(self) -> list[str]:
        """Names of the rigs that it is about."""
        return list(dict.fromkeys(rig for line in self.lines for rig in line.rigs))

    @property
    def what(self) -> str:
        """What has happened, in one line: equal texts once, with the names of all their rigs."""
        rigs: dict[str, list[str]] = {}
        for line in self.lines:
            rigs.setdefault(line.text, []).extend(line.rigs)
        told = (f"{', '.join(dict.fromkeys(names))}: {text}" if names else text for text, names in rigs.items())
        return one_line("; ".join(told))


class Plan:
    """What one alert has to tell. `on` are its causes; times are monotonic seconds that do not go back."""

    def __init__(self, on: tuple[str, ...], random: Random):
        self._on = frozenset(on)
        self._throttle: Throttle[_Cause] = Throttle(INTERVAL)
        self._backoff = Backoff(_PACE, random)
        self._waiting: dict[str, Message] = {}
        self._held: dict[_Cause, tuple[Happening, float]] = {}
        self._count: Counter[_Cause] = Counter()
        self._told: OrderedDict[tuple[tuple[str, ...], str], float] = OrderedDict()
        self._is_ending = False

    def note(self, happening: Happening, now: float, wall: float) -> None:
        """Take note of what has happened at monotonic `now` and Unix time `wall` (s)."""
        if happening.on == DISK_LOW and DISK_LOW not in self._on:
            happening = happening._replace(on=FAILURE)  # as which the rig has told it
        if happening.on not in self._on:
            return
        cause = happening.on, happening.rigs
        if self._has_told(happening, now):
            self._count[cause] += 1
        elif self._throttle.note(cause, now) or self._is_ending:
            self._add(cause, happening, now, wall)
        else:
            self._count[cause] += cause in self._held
            self._held[cause] = happening, wall

    def _has_told(self, happening: Happening, now: float) -> bool:
        """Whether this very text was told within the interval: a rig that fails and stops for it says it twice."""
        while self._told and (len(self._told) > MOST_REMEMBERED or next(iter(self._told.values())) + INTERVAL <= now):
            self._told.popitem(last=False)
        key = happening.rigs, happening.text
        is_known = key in self._told
        self._told.setdefault(key, now)
        return is_known

    def _add(self, cause: _Cause, happening: Happening, now: float, wall: float) -> None:
        message = self._waiting.setdefault(happening.on, Message(happening.on, wall, now + GATHER))
        message.exp_ref = message.exp_ref or happening.exp_ref
        message.held_back += self._count.pop(cause, 0)
        self._put(message, [happening])

    def _put(self, message: Message, lines: list[Happening]) -> None:
        room = MOST_LINES - len(message.lines)
        message.lines += lines[:room]
        message.held_back += max(0, len(lines) - room)

    def take(self, now: float) -> Message | None:
        """Return an alert that is to be tried; whoever takes it says by `sent` or `failed` what has become of it."""
        for cause in self._throttle.take(now):
            if held := self._held.pop(cause, None):
                self._add(cause, held[0], now, held[1])
        first = min(self._waiting.values(), key=lambda message: message.due, default=None)
        if first is None or (first.due > now and not self._is_ending):
            return None
        first.tries += 1
        return self._waiting.pop(first.on)

    def next_timer(self) -> float:
        """Return when there is something to take at the latest."""
        return min([self._throttle.next_timer(), *(message.due for message in self._waiting.values())])

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return not (self._waiting or self._held)

    def sent(self, message: Message, now: float) -> None:
        """Take note that an alert was told: the next of its causes has to wait from now on."""
        for line in message.lines:
            cause = line.on, line.rigs
            self._throttle.tell(cause, now)
            if cause in self._held:
                self._throttle.note(cause, now)

    def failed(self, message: Message, now: float, for_good: bool) -> float | None:
        """Return in how many seconds an alert is tried again; None where it is given up."""
        if for_good or self._is_ending or message.tries >= TRIES:
            return None
        wait = self._backoff.wait(message.tries)
        message.due = now + wait
        if newer := self._waiting.pop(message.on, None):
            message.held_back += newer.held_back
            self._put(message, newer.lines)
        self._waiting[message.on] = message
        return wait

    def end(self, now: float) -> None:
        """Have all that waits tried once more, at once."""
        self._is_ending = True
        for cause, (happening, wall) in self._held.items():
            self._add(cause, happening, now, wall)
        self._held.clear()
        self._throttle.clear()
