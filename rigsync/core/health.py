"""What is wrong with a rig now, and why it has stopped, at both ends (docs/decisions/0030)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.lifecycle import name_different
from rigsync.core.messages import Verb, to_json
from rigsync.core.notices import FAILURE, RECOVERED

MOST = 64
"""Failures that a rig keeps, and a coordinator of it; beyond that the oldest are forgotten."""
MOST_BYTES = 16 << 10
"""Bytes of their keys and texts as JSON. With a reference and a reason they have to fit into one datagram."""
LONGEST = 2000
"""Characters of one text."""
LONGEST_AGE = 1e9
"""Seconds of an age that is believed, some thirty years: it leads to a time of day that can be shown."""
STATUS = "status"
"""Topic by which a rig tells each change of its status."""
_BEGINS_ANEW = (ExpMessage.EXPINIT, ExpMessage.EXPCLEANUP)


def problem_of(body: Any) -> str:
    """Return what a notice of a failure says."""
    problem = body.get("problem") if isinstance(body, dict) else None
    return str(problem or body)[:LONGEST]


def age_in(body: Any) -> float:
    """Return how many seconds a notice was told before it was sent here, as its body says; 0 where that cannot be."""
    age = body.get("age") if isinstance(body, dict) else None
    return age if isinstance(age, (int, float)) and 0 <= age <= LONGEST_AGE else 0.0


def was_before(body: Any, time: float, began: float) -> bool:
    """Whether a notice that came at a time (s) says, by the age in its body, that this was so before another time.

    A notice without an age tells what is new, also where the clock was set back meanwhile.
    """
    age = age_in(body)
    return age > 0 and time - age < began


@dataclass(slots=True)
class Lasting:
    """A notice that whoever begins to watch is told, until it is settled."""

    topic: str
    key: str | None
    body: dict[str, Any]
    at: float
    """When it was told first, in monotonic seconds."""
    n: int | None
    """Its number. A coordinator that has heard it knows it by that; None where it was told by an answer alone."""
    order: int = 0
    """How many failures there had been."""


class Health:
    """What a rig knows to be wrong with itself: failures until they are settled, and why it has stopped."""

    def __init__(self) -> None:
        self._failures: dict[str, Lasting] = {}
        self._stopped: Lasting | None = None
        self._count = self._mark = 0  # of failures: all, and those before the last EXPINIT or EXPCLEANUP began
        self.is_untold = False
        """Whether something has changed that no notice has told."""

    @property
    def failures(self) -> dict[str, str]:
        """What is wrong, by what has failed; an empty key where that was not said."""
        return {key: entry.body["problem"] for key, entry in self._failures.items()}

    @property
    def picture(self) -> dict[str, Any]:
        """The failures, and as ``status_reason`` why it has stopped by itself; None where it has not."""
        return {"failures": self.failures, "status_reason": self._stopped.body["reason"] if self._stopped else None}

    @property
    def troubles(self) -> int:
        """How many things are wrong: the failures, and that it has stopped by itself."""
        return len(self._failures) + (self._stopped is not None)

    def note(self, topic: str, key: str | None, body: Any, now: float, n: int | None) -> None:
        """Take note of a notice that is told at monotonic `now` (s), if it says what is wrong, or that it is over.

        Its ``age`` may say that this was so before.
        """
        if topic == FAILURE:
            exp_ref = body.get("exp_ref") if isinstance(body, dict) else None
            told = {"problem": problem_of(body), "exp_ref": exp_ref if isinstance(exp_ref, str) else None}
            self._count += 1
            self._failures.pop(key or "", None)
            self._failures[key or ""] = Lasting(topic, key, told, now - age_in(body), n, self._count)
            while len(self._failures) > MOST or _size(self.failures) > MOST_BYTES:
                del self._failures[next(iter(self._failures))]
        elif topic == RECOVERED:
            self._failures.pop(key or "", None)

    def note_bad_end(self, error: str, message: str, exp_ref: str | None, now: float) -> None:
        """Take note that the handlers of an EXPEND have failed; the one that has sent it hears that by the answer."""
        body = {"problem": f"EXPEND: {error}: {message}", "exp_ref": exp_ref}
        self.note(FAILURE, ExpMessage.EXPEND.name, body, now, None)
        self.is_untold = True

    def note_status(self, body: dict[str, Any], now: float, n: int) -> None:
        """Take note of what a notice tells of the status: it has the reason, where the rig has acted by itself."""
        self._stopped = Lasting(STATUS, None, body, now, n) if body["reason"] else None
        self.is_untold = False

    def begin(self, event: Verb) -> None:
        """Take note that a message begins to run: what is told from now on outlasts it."""
        if event in _BEGINS_ANEW:
            self._mark = self._count

    def settle(self, event: Verb, exp_ref: str | None) -> None:
        """Forget what a message has settled by its success, which leads to an experiment."""
        settled: list[str] = []
        if event in _BEGINS_ANEW:
            settled = [key for key, entry in self._failures.items() if self._is_past(entry, exp_ref)]
        elif event is ExpMessage.EXPEND and event.name in self._failures:
            settled = [event.name]
        for key in settled:
            del self._failures[key]
        self.is_untold = self.is_untold or bool(settled)

    def _is_past(self, entry: Lasting, exp_ref: str | None) -> bool:
        return entry.order <= self._mark or name_different(entry.body["exp_ref"], exp_ref)

    def lasting(self, lost: int) -> list[Lasting]:
        """Return what one that begins to watch is told, in that order: last what has no number that it may know.

        Numbers up to `lost` may have been given up before they reached it.
        """
        found = [*self._failures.values()]
        if stopped := self._stopped:
            body = {**stopped.body, **told(self.failures)}
            found.append(Lasting(STATUS, None, body, stopped.at, stopped.n))
        return sorted(found, key=lambda entry: (entry.n is None or entry.n <= lost, entry.n or 0))


class HealthView:
    """What a coordinator knows of a rig's health, of one boot, as far as its notices have come."""

    def __init__(self) -> None:
        self._failures: dict[str, str] = {}
        self.reason: str | None = None
        """Why the rig has last changed its status by itself; None where it was told to."""
        self.status: ExpStatus | None = None
        """The status that it has told last, by a notice or in an answer to a probe."""

    @property
    def failures(self) -> dict[str, str]:
        """A copy. Safe to call from any thread."""
        return self._failures.copy()

    @property
    def has_stopped(self) -> bool:
        """Whether it has said that nothing is recorded."""
        return self.status in (ExpStatus.STOPPED, ExpStatus.CONNECTED)

    def clear(self) -> None:
        """Forget everything: the rig's program is gone."""
        self._failures, self.reason, self.status = {}, None, None

    def receive(self, notice: Any) -> None:
        """Take a notice, of `core.messages` or `core.events`, if it is about the rig's health."""
        body = notice.body if isinstance(notice.body, dict) else {}
        if notice.topic == FAILURE:
            self._replace({**_without(self._failures, notice.key), notice.key or "": problem_of(notice.body)})
        elif notice.topic == RECOVERED:
            self._failures = _without(self._failures, notice.key)
        elif notice.topic == STATUS and isinstance(name := body.get("status"), str) and name in ExpStatus.__members__:
            reason, failures = body.get("reason"), body.get("failures")
            self.status = ExpStatus[name]
            self.reason = reason[:LONGEST] if isinstance(reason, str) else None
            if isinstance(failures, dict):
                self._replace({str(key): str(text)[:LONGEST] for key, text in failures.items()})
            elif self.status in (ExpStatus.CONNECTED, ExpStatus.INITIALIZED):
                self._failures = {}

    def _replace(self, failures: dict[str, str]) -> None:
        while len(failures) > MOST or _size(failures) > MOST_BYTES:
            del failures[next(iter(failures))]
        self._failures = failures


def told(failures: dict[str, str]) -> dict[str, Any]:
    """Return failures as a field of what tells them; nothing where there are none."""
    return {"failures": failures} if failures else {}


def _without(failures: dict[str, str], key: str | None) -> dict[str, str]:
    return {other: text for other, text in failures.items() if other != (key or "")}


def _size(failures: dict[str, str]) -> int:
    return len(to_json(failures))
