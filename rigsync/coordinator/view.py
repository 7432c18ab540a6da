"""One picture of each rig, which all that shows rigs reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rigsync._text import error_text
from rigsync.core.board import Progress
from rigsync.core.clock import ClockEstimate
from rigsync.core.enums import ExpStatus
from rigsync.core.events import (
    LinkChanged,
    LinkState,
    MessageReceived,
    Notice,
    RemoteComplaint,
    RestartSeen,
    ViolationSeen,
)
from rigsync.core.health import age_in
from rigsync.core.messages import Verb
from rigsync.core.notices import FAILURE
from rigsync.core.peer import Peer
from rigsync.runtime.hub import Hub

_NOT_RUN = {
    "BusyError": "refused",
    "Busy": "refused",
    "StateError": "refused",
    "Cancelled": "called off",
    "Interrupted": "interrupted",
}
"""What became of a message that was not run, by the type of the error; any other has failed."""
_BACK = "is back"
_ANEW = "the rig's program was started anew"
_LONGEST_TEXT = 1000
"""Characters of what was told that are kept."""


@dataclass(frozen=True, slots=True)
class Told:
    """Something that was told, and when.

    Parameters
    ----------
    text : str
        What.
    time : float
        Unix time in seconds.
    """

    text: str
    time: float


@dataclass(frozen=True, slots=True)
class RigView:
    """How one rig is, at one moment; nothing in it changes any more.

    Parameters
    ----------
    rig : str
        Its name.
    link : LinkState
        Whether it answers.
    reason : str
        What that rests on, in words.
    dialect : {'rigsync', 'iblutil', 'unknown'}
        What it speaks.
    status : ExpStatus or None
        Where in its life cycle it is, as it said last; None of an iblutil rig, which does not say.
    exp_ref : str or None
        Reference of its experiment, as it said last.
    heard : float or None
        When it last gave a sign of life, Unix time in seconds; None before the first. While it does not answer, all
        that it says of itself is of that moment.
    owner : str or None
        Host of the coordinator in charge.
    owner_heard : float or None
        When the rig last heard the one in charge, Unix time in seconds, where that has been silent for five beats.
    interrupts_at : float or None
        When it interrupts its experiment by itself, because nobody is in charge any more, or the one who is is silent.
    round_trip : float or None
        Smoothed, in seconds.
    loss : float or None
        Share of the newest probes that were lost, from 0 to 1.
    clock : ClockEstimate or None
        How its clock stands to this computer's.
    version : str or None
        Version of rigsync there.
    failures : mapping of str to str
        What is wrong now, by what has failed, such as a file: what it has told by notices ``failure``, until it tells
        that this is over, or EXPINIT or EXPCLEANUP has succeeded. The key is empty where it names nothing.
    status_reason : str or None
        Why it has last changed its status by itself, such as that its recorder has died; None where it was told to.
    progress : mapping of str to Progress
        How far things are, by item.
    streams : mapping of str to mapping
        What it says of each of its streams.
    late_answers : int
        How many of its answers came when nobody awaited them any more: too late, or doubled by the network.
    last_message : Told or None
        The last message that it has handled or refused, whoever sent it.
    last_failure : Told or None
        What has gone wrong last, or that it is back.
    """

    rig: str
    link: LinkState
    reason: str = ""
    dialect: str = "unknown"
    status: ExpStatus | None = None
    exp_ref: str | None = None
    heard: float | None = None
    owner: str | None = None
    owner_heard: float | None = None
    interrupts_at: float | None = None
    round_trip: float | None = None
    loss: float | None = None
    clock: ClockEstimate | None = None
    version: str | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    status_reason: str | None = None
    progress: Mapping[str, Progress] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    late_answers: int = 0
    last_message: Told | None = None
    last_failure: Told | None = None

    @property
    def state(self) -> str:
        """The rig's status while it answers, else the state of the link."""
        return self.status.name if self.status is not None and self.link is LinkState.ALIVE else self.link.value

    @property
    def trouble(self) -> str:
        """What is wrong now, in one text, of each the last line first; empty where nothing is."""
        found = [*self.failures.values(), *([self.status_reason] if self.status_reason else [])]
        return "; ".join(dict.fromkeys(map(error_text, found)))

    def document(self) -> dict[str, Any]:
        """Return all of it for JSON, times in milliseconds, instants as Unix time in seconds."""
        return {
            "link": self.link.value,
            "reason": self.reason,
            "heard": self.heard,
            "dialect": self.dialect,
            "version": self.version,
            "status": self.status.name if self.status is not None else None,
            "status_reason": self.status_reason,
            "exp_ref": self.exp_ref,
            "failures": dict(self.failures),
            "owner": self.owner,
            "owner_heard": self.owner_heard,
            "interrupts_at": self.interrupts_at,
            "round_trip_ms": None if self.round_trip is None else 1000 * self.round_trip,
            "clock": clock_document(self.clock),
            "loss": self.loss,
            "last_message": self.last_message and {"message": self.last_message.text, "time": self.last_message.time},
            "last_error": self.last_failure and {"error": self.last_failure.text, "time": self.last_failure.time},
            "progress": {
                item: {"value": shown.value, "total": shown.total, "unit": shown.unit}
                for item, shown in self.progress.items()
            },
            "streams": dict(self.streams),
        }


def _unix_time(instant: float | None) -> float | None:
    """Return an instant in monotonic seconds as Unix time."""
    return None if instant is None else instant - time.monotonic() + time.time()


_READ: Mapping[str, Callable[[Peer], Any]] = {
    "link": lambda peer: peer.state,
    "reason": lambda peer: peer.reason,
    "dialect": lambda peer: peer.dialect.value,
    "status": lambda peer: peer.process.status,
    "exp_ref": lambda peer: peer.process.exp_ref,
    "heard": lambda peer: _unix_time(peer.heard_at),
    "owner": lambda peer: peer.process.owner,
    "owner_heard": lambda peer: _unix_time(peer.process.owner_heard),
    "interrupts_at": lambda peer: _unix_time(peer.process.interrupts_at),
    "round_trip": lambda peer: peer.round_trip,
    "loss": lambda peer: peer.loss(time.monotonic()),
    "clock": lambda peer: peer.clock,
    "version": lambda peer: peer.process.version,
    "failures": lambda peer: peer.health.failures,
    "status_reason": lambda peer: peer.health.reason,
    "progress": lambda peer: peer.board.progress,
    "streams": lambda peer: peer.board.streams,
    "late_answers": lambda peer: peer.violations["late answer"],
}
"""How each field of a view is read of a rig's link; from any thread."""
_NOT_OPEN = RigView("", LinkState.UNKNOWN, "the services are not open")


def read_of(peer: Peer | None, field: str) -> Any:
    """Return one field of a rig's view, without the others."""
    return _READ[field](peer) if peer else getattr(_NOT_OPEN, field)


def clock_document(clock: ClockEstimate | None) -> dict[str, float] | None:
    """Return how a rig's clock stands for JSON; times in milliseconds, the drift in parts in a million."""
    if clock is None:
        return None
    times = {"offset_ms": clock.offset, "bound_ms": clock.bound, "delay_ms": clock.delay}
    return {**{name: 1000 * seconds for name, seconds in times.items()}, "drift_ppm": 1e6 * clock.drift}


class Views:
    """Keeps what links do not: the last message of each rig, and what has gone wrong last."""

    def __init__(self, hub: Hub):
        self._messages: dict[str, tuple[str | Verb, float]] = {}
        self._failures: dict[str, Told] = {}
        self._away: dict[str, float] = {}  # monotonic seconds at which a rig was found silent, or gone
        hub.rule(LinkChanged, self._note_link)
        hub.rule(RestartSeen, self._note_restart)
        hub.rule(RemoteComplaint, lambda event: self._note_failure(event.rig, f"{event.event.name}: {event.text}"))
        hub.rule(ViolationSeen, lambda event: self._note_failure(event.source, event.problem))
        hub.rule(MessageReceived, self._note_answer)
        hub.rule(Notice, self._note_notice)

    def of(self, rig: str, peer: Peer | None) -> RigView:
        """Return how a rig is now, as far as its link says, if there is one. Safe to call from any thread."""
        fields = {field: read_of(peer, field) for field in _READ}
        text, at = self._messages.get(rig, ("", 0.0))
        message = Told(text if isinstance(text, str) else text.name, at) if text else None
        return RigView(rig, **fields, last_message=message, last_failure=self._failures.get(rig))

    def _note_link(self, event: LinkChanged) -> None:
        if event.after is not LinkState.ALIVE:
            self._away.setdefault(event.rig, time.monotonic())
            self._note_failure(event.rig, f"{event.after.value}: {event.reason}")
        elif event.before is not LinkState.UNKNOWN:
            since = self._away.pop(event.rig, None)
            after = "" if since is None else f", after {age_text(time.monotonic() - since)}"
            last = self._failures.get(event.rig)
            why = f": {_ANEW}" if last and last.text == _ANEW else ""  # which is told just before
            self._note_failure(event.rig, f"{_BACK}{after}{why}")

    def _note_restart(self, event: RestartSeen) -> None:
        self._messages.pop(event.rig, None)  # the new program has had none
        self._note_failure(event.rig, _ANEW)

    def _note_notice(self, event: Notice) -> None:
        body = event.body if isinstance(event.body, dict) else {}
        if (event.topic, event.key) == ("log", "message"):
            message, error = body.get("message"), body.get("error")
            if isinstance(message, str) and isinstance(error, str):
                self._note_message(event.rig, f"{message} {_NOT_RUN.get(error.partition(':')[0], 'failed')}")
                self._note_failure(event.rig, f"{message}: {error}")
            elif isinstance(message, str):
                self._note_message(event.rig, message)
        elif event.topic == "status" and isinstance(reason := body.get("reason"), str):
            self._note_failure(event.rig, reason, age_in(event.body))
        elif event.topic == FAILURE:
            self._note_failure(event.rig, str(body.get("problem") or event.body), age_in(event.body))

    def _note_answer(self, event: MessageReceived) -> None:
        self._messages[event.rig] = event.event, time.time()

    def _note_message(self, rig: str, message: str) -> None:
        self._messages[rig] = message[:_LONGEST_TEXT], time.time()

    def _note_failure(self, rig: str, text: str, age: float = 0.0) -> None:
        self._failures[rig] = Told(_ends_of(text), time.time() - age)


def is_back(told: Told) -> bool:
    """Return whether what was told is only that a rig answers again, by the same program."""
    return told.text.startswith(_BACK) and not told.text.endswith(_ANEW)


def _ends_of(text: str) -> str:
    """Return text, cut in the middle if it is long: the end of a traceback says what it was."""
    half = _LONGEST_TEXT // 2
    return text if len(text) <= _LONGEST_TEXT else f"{text[:half]} ... {text[5 - half :]}"


def clock_text(instant: float) -> str:
    """Return a Unix time as the time of day here."""
    return time.strftime("%H:%M:%S", time.localtime(instant))


def age_text(seconds: float) -> str:
    """Return a time that has passed in its largest unit: ``7s``, ``3m``, ``2h``, ``5d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
