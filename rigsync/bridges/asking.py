"""What untrusted programs may ask a bridge for: messages to rigs, and commands of rigs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from rigsync._text import one_line
from rigsync.bridges.bridge import Bridge
from rigsync.config.rigs import checked_timeout
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.coordinator.coordinator import Coordinator
from rigsync.coordinator.results import unconfirmed_in
from rigsync.coordinator.service import RigServices
from rigsync.core.arguments import compose
from rigsync.core.doubts import doubt_of
from rigsync.core.enums import ExpMessage
from rigsync.core.throttle import ALL_TOLD_EACH_MINUTE, TOLD_EACH_MINUTE, Ration
from rigsync.errors import PushError, RemoteError, RigError, RigsyncError
from rigsync.hub.documents import json_of, plain
from rigsync.rig.rig import Rig
from rigsync.runtime.callbacks import goes_on

logger = logging.getLogger("rigsync.bridge")

MOST_UNDER_WAY = 256
"""Most messages and commands that are under way for others at a time. EXPINTERRUPT may use twice as many."""
MOST_NAMED = 1024
"""Most different names and patterns of rigs in a request: each takes its time on the event loop."""
OK = "ok"
UNCONFIRMED = "Unconfirmed"
"""Stands for an error's name if a message has left and nobody confirms it."""


def power_over(lab: Auxiliaries | Coordinator | Rig) -> str:
    """Return what a program that reaches a bridge can do, in words."""
    return "hears what happens at this rig" if isinstance(lab, Rig) else "commands the rigs"


Where = TypeVar("Where")
"""Where an answer goes."""


class Refused(ValueError):
    """A request is impossible, or not allowed to its sender; the text tells the sender why, in one line."""

    kind: ClassVar[str] = "refused"
    """The kind under which the bridge counts it."""


class Asking:
    """Pushes and calls for others on a coordinator's event loop, a bounded number at a time."""

    def __init__(self, lab: Auxiliaries | Coordinator | Rig):
        self._lab = lab
        self._under_way = 0
        self._doubts: Ration[str] = Ration(60.0, TOLD_EACH_MINUTE, ALL_TOLD_EACH_MINUTE)

    async def push(
        self, message: ExpMessage, args: Sequence[Any], rigs: Sequence[str] | None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Push a message to rigs, all for None; return each one's answer or `RigError` by name; raise `Refused`."""
        with self._asked(is_interrupt=message is ExpMessage.EXPINTERRUPT) as services:
            composed = compose(message, *args)
            doubt = doubt_of(message, args)
            if doubt and self._doubts.allows(doubt, time.monotonic()):
                logger.warning("%s", doubt)
            try:
                result = await services.request(composed, rigs and _each_once(rigs), checked_timeout(timeout))
            except PushError as error:
                result = error.result
            found = {**result, **result.failed}
            return {rig: found[rig] for rig in services if rig in found}

    async def call(
        self, rigs: Sequence[str], command: str, args: Sequence[Any], timeout: float | None = None
    ) -> dict[str, Any]:
        """Call a command of rigs; return the value of each or its `RigError`, by name; raise `Refused`."""
        with self._asked() as services:
            asked = set(map(services._rigs.only, _each_once(rigs)))  # before any is called: one may be unknown
            rigs = [rig for rig in services if rig in asked]
            called = [services.call(rig, command, *args, timeout=timeout) for rig in rigs]
            values = await asyncio.gather(*called, return_exceptions=True)
        for value in values:
            if isinstance(value, BaseException) and not isinstance(value, RigError):
                raise Refused(one_line(str(value))) from value
        return dict(zip(rigs, values, strict=True))

    @contextlib.contextmanager
    def _asked(self, is_interrupt: bool = False) -> Iterator[RigServices]:
        """Count what is under way; raise `Refused` for what nobody can ask, or not now."""
        if self._under_way >= MOST_UNDER_WAY * (1 + is_interrupt):
            raise Refused(f"{self._under_way} messages and commands are under way already: wait for their outcome")
        if isinstance(self._lab, Rig):
            raise Refused("this is a rig, which its coordinator commands; here it only tells what happens")
        if (services := self._lab.services) is None:
            raise Refused("this program has no rigs, or does not command them itself")
        self._under_way += 1
        try:
            yield services
        except (RigsyncError, TypeError, ValueError) as error:
            raise Refused(one_line(str(error))) from error
        finally:
            self._under_way -= 1


def _each_once(rigs: Sequence[str]) -> list[str]:
    """Return names and patterns without repetition; raise `Refused` for too many."""
    if len(named := list(dict.fromkeys(rigs))) > MOST_NAMED:
        raise Refused(f"a request names {MOST_NAMED:,} rigs and patterns at most, not {len(named):,}")
    return named


class AskedBridge(Bridge, Generic[Where]):
    """A bridge that takes requests. It does or refuses each request, and answers it once."""

    def __init__(self, lab: Auxiliaries | Coordinator | Rig):
        super().__init__(lab.hub)
        self.lab = lab

    def _await_requests(self) -> None:
        """Begin, on the event loop; `_open` calls this."""
        self._loop = asyncio.get_running_loop()
        self._asking = Asking(self.lab)
        self._done: dict[asyncio.Task[dict[str, Any]], tuple[Where, Callable[[], None]]] = {}
        self._ends.append(self._call_off)

    def _refuse(self, where: Where, problem: str) -> None:
        """Answer what was wrong."""
        raise NotImplementedError

    def _described(self, where: Where, problem: object) -> str:
        """Return a problem in the words of the log."""
        return str(problem)

    def _do(
        self, where: Where, asking: Coroutine[Any, Any, dict[str, Any]], answer: Callable[[dict[str, Any]], object]
    ) -> None:
        """Ask rigs for something, and answer with the outcome by name of rig."""
        task = self._loop.create_task(asking, name=f"rigsync {self.name}")

        def done() -> None:
            if self._done.pop(task, None) and not task.cancelled():
                with self._answered(where):
                    answer(task.result())

        self._done[task] = where, done
        task.add_done_callback(lambda _: done())

    @contextlib.contextmanager
    def _answered(self, where: Where) -> Iterator[None]:
        """Count and answer whatever goes wrong: no request may end the bridge or the loop."""
        try:
            yield
        except Refused as error:
            self._note(error.kind, self._described(where, error))
            self._refuse(where, one_line(str(error)))
        except BaseException as error:  # also SystemExit, which would end the loop
            if not goes_on(error):
                problem = f"{type(error).__name__}: {error}"
                self._note("failed", self._described(where, f"a request has raised {problem}"))
                self._refuse(where, one_line(problem))

    def _call_off(self) -> None:
        for task, (where, done) in list(self._done.items()):
            if task.cancel():
                self._refuse(where, "the bridge closes before the outcome is known")
            else:
                done()


def in_words(outcome: Any, has_value: bool) -> str:
    """Return the outcome of a message or command at a rig: ``ok``, with a value as JSON behind it, or the failure."""
    if isinstance(outcome, RigError):
        name = "" if isinstance(outcome, RemoteError) else f"{type(outcome).__name__}: "  # its problem begins with one
        return one_line(f"{name}{outcome.problem}")
    if not has_value and (told := unconfirmed_in(outcome)) is not None:
        return one_line(f"{UNCONFIRMED}: {told}")
    return f"{OK} {json_of(plain(outcome))}" if has_value and outcome is not None else OK


def no_number(text: str) -> None:
    """Refuse NaN and infinity, which JSON does not know; for `json.loads`."""
    raise ValueError(f"{text} is no number that JSON knows")
