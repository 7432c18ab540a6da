"""What became of a push, and the log of all of them."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from typing import Any

from rigsync.core.clock import ClockEstimate
from rigsync.core.events import Start
from rigsync.core.lifecycle import STILL_RUNNING, says_running
from rigsync.errors import PushError, PushTimeout, RigError

MOST_BYTES = 64 << 20
"""Bytes of answers that a log keeps, as they came over the network. 10,000 of the largest would fill any memory."""
KEPT_ANYWAY = 16
"""Newest results that a log keeps whatever their size, so that whoever pushes and then looks finds them."""

_drawn: dict[float, object] = {0.0: None}
"""The newest request times, each with a token of who drew it."""


def draw_request_time() -> float:
    """Return the Unix time in seconds, strictly increasing in this process even where the clock is set back."""
    # No lock: the handler of a signal that interrupts who holds it would wait for a service thread that waits for it.
    token = object()
    while True:
        newest = max(_drawn.copy())
        drawn = max(time.time(), math.nextafter(newest, math.inf))
        if _drawn.setdefault(drawn, token) is token and max(_drawn.copy()) == drawn:
            break  # else somebody has drawn it, or a later one, meanwhile
    for earlier in _drawn.copy():
        if earlier < newest:
            _drawn.pop(earlier, None)
    return drawn


def unconfirmed_in(answer: Any) -> str | None:
    """Return what an answer says if nobody confirms that the message was done; None if it is confirmed."""
    information = answer[-1] if isinstance(answer, list) and answer else None
    told = information.get("unconfirmed") if isinstance(information, dict) else None
    return told if isinstance(told, str) else None


def unconfirmed_of(answers: Mapping[str, Any]) -> dict[str, str]:
    """Return what `unconfirmed_in` finds in each answer that has it, by rig."""
    return {rig: told for rig, answer in answers.items() if (told := unconfirmed_in(answer)) is not None}


def still_running(answers: Mapping[str, Any]) -> dict[str, str]:
    """Return what is told of the rigs that have answered the end, and say that they record all the same, by rig."""
    return {rig: STILL_RUNNING for rig, answer in answers.items() if says_running(answer)}


class PushResult(dict[str, list[Any]]):
    """The answers to one push: a dict of rig name to what follows the event in that rig's answer.

    Attributes
    ----------
    message : str
        Name of the message, for instance ``EXPSTART``.
    request_time : float
        Unix time in seconds; the push's key in the log.
    failed : dict of str to RigError
        The rigs that did not answer, or answered with an error.
    starts : dict of str to Start
        When the rigs that answered began to act, in seconds of Unix time, with an error bound. This computer's clock
        counts as it was when the connection was made; if it is set later, these times do not jump.
    at : float or None
        The instant at which they were to act, by the same clock; None for at once.
    """

    def __init__(
        self,
        message: str,
        request_time: float,
        answers: Mapping[str, list[Any]],
        failed: Mapping[str, RigError],
        starts: Mapping[str, Start] | None = None,
        at: float | None = None,
    ):
        super().__init__(answers)
        self.message, self.request_time, self.failed = message, request_time, dict(failed)
        self.starts, self.at = dict(starts or {}), at

    @property
    def succeeded(self) -> dict[str, list[Any]]:
        """The answers, without the rest."""
        return dict(self)

    @property
    def unconfirmed(self) -> dict[str, str]:
        """What is known of each rig that was sent the message, and that nobody confirms to have done it."""
        return unconfirmed_of(self)

    @property
    def skew(self) -> float | None:
        """Seconds between the first start and the last; None where fewer than two are known."""
        times = [start.time for start in self.starts.values()]
        return max(times) - min(times) if len(times) > 1 else None

    def as_outcome(self) -> PushResult | PushError:
        """Return the result itself if every rig answered, otherwise the error that holds it."""
        return self.as_error() if self.failed else self

    def as_error(self) -> PushError:
        """Return the error that holds the result, for a push that failed on a rig."""
        all_late = all(isinstance(error, TimeoutError) for error in self.failed.values())
        return (PushTimeout if all_late else PushError)(self.message, self, self.failed)

    def __reduce__(self) -> tuple[Any, ...]:
        return PushResult, (self.message, self.request_time, dict(self), self.failed, self.starts, self.at)


@dataclass(frozen=True, slots=True)
class PingReply:
    """What one rig said to one probe."""

    rig: str
    """Name of the rig."""
    address: str
    """Host and port that answered."""
    round_trip: float
    """Seconds."""
    dialect: str
    """``rigsync`` or ``iblutil``."""
    status: str | None
    """Name of the rig's ExpStatus; None from an iblutil rig, whose echo says nothing."""
    exp_ref: str | None
    """The rig's experiment reference."""
    version: str | None
    """Version of rigsync on the rig."""
    owner: str | None = None
    """Host of the coordinator that is in charge of the rig's experiment; None where there is none."""
    clock: ClockEstimate | None = None
    """The rig's clock against this computer's; None from an iblutil rig, which does not say."""
    troubles: int = 0
    """How many things are wrong with the rig now, which its view names; 0 also from a rig that does not say."""


class ResultLog(Mapping[float, Any]):
    """The newest results by request time: read-only, and never blocks.

    Parameters
    ----------
    limit : int
        How many are kept, so that memory does not grow in a week-long session; fewer if their answers take more than 64
        MiB.

    Raises
    ------
    ValueError
        `limit` is not a positive whole number.
    """

    def __init__(self, limit: int = 10_000):
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"the log's limit is a positive whole number, not {limit!r}")
        self.limit = limit
        self._results: dict[float, PushResult | PushError] = {}
        self._sizes: OrderedDict[float, int] = OrderedDict()
        self._bytes = 0
        # Between threads. A signal handler that interrupts its owner, as it may where the main thread turns the loop,
        # enters again: it adds what it has, and leaves it to the other to drop the oldest.
        self._filing = threading.RLock()
        self._is_dropping = False

    def file(self, request_time: float, outcome: PushResult | PushError, size: int = 0) -> None:
        """Add an outcome with the bytes of its answers; drop the oldest over the limits. For its owner; any thread."""
        with self._filing:
            self._results[request_time] = outcome
            self._sizes[request_time] = size
            self._bytes += size
            if self._is_dropping:
                return
            self._is_dropping = True
            try:
                while len(self._sizes) > self.limit or (self._bytes > MOST_BYTES and len(self._sizes) > KEPT_ANYWAY):
                    oldest, freed = self._sizes.popitem(last=False)
                    del self._results[oldest]
                    self._bytes -= freed
            finally:
                self._is_dropping = False

    def __getitem__(self, request_time: float) -> PushResult | PushError:
        return self._results[request_time]

    def __iter__(self) -> Iterator[float]:
        return iter(tuple(self._results))  # a copy, as below: the service thread may add while the caller iterates

    def values(self) -> ValuesView[PushResult | PushError]:
        """Return the present results; the view does not follow the log."""
        return self._results.copy().values()

    def items(self) -> ItemsView[float, PushResult | PushError]:
        """Return the present request times and results; the view does not follow the log."""
        return self._results.copy().items()

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"<ResultLog of {len(self)} results>"


class WritableLog(ResultLog):
    """The log for a subclass whose `listen` files the outcomes itself, as iblrig's does."""

    def __setitem__(self, request_time: float, outcome: Any) -> None:
        self.file(request_time, outcome)
