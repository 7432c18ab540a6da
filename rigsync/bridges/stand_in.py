"""A rig in this program that stands in for a program of another protocol: it passes on what messages ask for."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from rigsync._text import one_line
from rigsync.config.programs import FIELDS, ID, MESSAGE, ProgramRig
from rigsync.config.templates import filled
from rigsync.core import agenda
from rigsync.core.agenda import Agenda
from rigsync.core.clock import StampClock
from rigsync.core.coordinators import Address
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import HandlerDue
from rigsync.core.lifecycle import ENDS, named_reference, reference_parts
from rigsync.core.messages import Verb
from rigsync.core.queries import Task
from rigsync.core.responder import Responder
from rigsync.core.throttle import ALL_TOLD_EACH_MINUTE, TOLD_EACH_MINUTE, Ration
from rigsync.core.timing import Timing
from rigsync.rig.rig import Rig

logger = logging.getLogger("rigsync.bridge")

PING_EVERY = 1.0
"""Seconds between two pings."""
AWAY_AFTER = 2.5
"""Seconds of silence, from a program with a ping, after which its rig falls silent, too."""
REFUSAL = 0.05
"""Seconds to wait for the refusal of a closed port, after a message that nobody confirms."""
STEP = 0.001
"""Seconds between the instant of a message that has left, and that of the message that ends its experiment."""
_IDLE = (ExpStatus.CONNECTED, ExpStatus.STOPPED)
_ASKS = re.compile(rb'.{0,80}"kind":"(?:probe|request)"')


class Problem(Exception):
    """Why a program has not done what a message asks for."""


class ProgramFailed(Problem):
    """The program says that it has failed."""


class NoAnswer(Problem):
    """The program has not answered in time."""


class NotThere(Problem):
    """Nothing listens at the program's port."""


class StandIn(Rig):
    """A rig on this program's event loop that sends another program what messages ask for; subclasses say how.

    Parameters
    ----------
    config : ProgramRig
        The program.
    """

    def __init__(self, config: ProgramRig):
        super().__init__(config.name, "udp://127.0.0.1:0")
        self.config, self.at = config, str(config.address)
        lacks = [] if self.shows_life else ["does not say whether it is there"]
        lacks += [] if self.confirms else ["confirms nothing"]
        version = f"{self._identity.version} for {self.at}{', which ' if lacks else ''}{' and '.join(lacks)}"
        self._identity = dataclasses.replace(self._identity, version=version)
        self.counts: Counter[str] = Counter()
        """How many useless packets of each kind have come."""
        # A little less than the coordinator waits: the coordinator's own time-out would tell less.
        self.limit = config.timeout - min(0.5, config.timeout / 10)
        self.under_way = 0
        """Messages whose outcome is awaited."""
        self.heard = -math.inf
        """When the program gave its last sign of life, in seconds of the event loop."""
        self._data: dict[str, Any] = {}  # the data of EXPINIT
        self._number = secrets.randbelow(2**31)  # so no late answer to an earlier program of rigsync matches
        self._wrong = ""
        self._early: dict[ExpMessage, tuple[float, asyncio.Future[dict[str, Any]]]] = {}
        self._notes: Ration[str] = Ration(60.0, TOLD_EACH_MINUTE, ALL_TOLD_EACH_MINUTE)
        self._watching: asyncio.Task[None] | None = None
        self.hub.rule(HandlerDue, self._send_early)
        for name in config.messages:
            self.on(name)(self._handler(ExpMessage[name]))

    # ------------------------------------------------------------------------------------- what a protocol says

    _is_logged = False

    @property
    def confirms(self) -> bool:
        """Whether the program answers what it is sent."""
        return True

    @property
    def shows_life(self) -> bool:
        """Whether one can know that the program is there."""
        return bool(self.config.ping)

    @property
    def look_at(self) -> str:
        """What to look at where no answer comes."""
        return "look at its program"

    sends_early = False
    """Whether a message leaves before its instant, with a time tag."""

    async def connect(self) -> None:
        """Open the way to the program; raise a `RigsyncError` if that fails."""
        raise NotImplementedError

    def disconnect(self) -> None:
        raise NotImplementedError

    def send(self, message: Any, number: int, instant: float | None) -> asyncio.Future[dict[str, Any]]:
        """Send a message that takes effect at an instant of the event loop, None for at once; return its outcome.

        The future ends with the content of the answer, or with a `Problem`. It is cancelled when nobody waits any more.
        """
        raise NotImplementedError

    async def ping(self) -> None:
        """Send the ping, if there is one, and repair the way to the program. Called once a second."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------------------- serving

    async def open(self) -> None:
        """Serve, on the running event loop."""
        self.loop = asyncio.get_running_loop()
        try:
            await self.connect()
            await self.__aenter__()
        except BaseException:
            self.end()
            raise
        logger.info(
            "%s is %s, and this program its rig: if this is killed, nobody stops that; rigsync push EXPINTERRUPT does",
            self.name,
            self.at,
        )
        self._watching = self.loop.create_task(self._watch(), name=f"rigsync watch over {self.at}")

    def end(self) -> None:
        """Stop serving, at once. The program itself goes on with what it does."""
        if self._watching:
            self._watching.cancel()
        session, self._session = self._session, None
        if session:
            session.leave()
            session.workers.close(0.0)
            self.hub.end_workers(0.0)
        self.disconnect()

    async def _watch(self) -> None:
        while True:
            try:
                if not self.under_way:  # a program that is at work on a message need not answer pings
                    await self.ping()
            except Exception as error:
                self.note("failed", f"{self.at} cannot be asked whether it is there: {type(error).__name__}: {error}")
            await asyncio.sleep(PING_EVERY)

    @property
    def is_away(self) -> bool:
        """Whether a program with a ping has been silent for too long. Then its rig is silent, too."""
        return bool(self.config.ping) and not self.under_way and self.loop.time() > self.heard + AWAY_AFTER

    def note_refusal(self) -> None:
        """Take note that nothing listens at the port: an experiment there is over."""
        self.heard = -math.inf
        if self.shows_life and not self.under_way and self.status in (ExpStatus.INITIALIZED, ExpStatus.RUNNING):
            self.interrupt(f"nothing listens at {self.at} any more: the program there has ended")

    def note(self, kind: str, text: str) -> None:
        """Count a useless packet or a failed ping, and log it, a few times a minute."""
        self.counts[kind] += 1
        self._wrong = f"; {text}"
        if self._notes.allows(kind, self.loop.time()):
            logger.warning("%s: %s", self.name, one_line(text))

    def _make_responder(self, handled: Collection[Verb], timing: Timing, boot: str, stamps: StampClock) -> Responder:
        identity, lease, room, board = self._identity, self._lease, self._room, self._board
        responder = _Responder(identity, handled, timing, boot, stamps, lease, room, board)
        responder.is_away = lambda: self.is_away
        return responder

    # ------------------------------------------------------------------------------------------------- messages

    def _handler(self, event: ExpMessage) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
        async def handle(*args: Any) -> dict[str, Any]:
            self.under_way += 1
            left = self._early.pop(event, None)
            future = left[1] if left else None
            try:
                future = future or self._begin(event, args, self._after(event))
                await asyncio.wait({future}, timeout=self.limit if self.confirms else REFUSAL)
                return self._outcome(event, future)
            finally:
                self.under_way -= 1
                if future:
                    future.cancel()

        return handle

    def _after(self, event: ExpMessage) -> float | None:
        """Return the instant for a message that ends an experiment: just after one that has left early; else None."""
        if event not in ENDS:
            return None
        left, self._early = self._early, {}
        for _, future in left.values():
            future.cancel()
        last = max((instant for instant, _ in left.values()), default=-math.inf)
        return last + STEP if last > self.loop.time() else None

    def _outcome(self, event: ExpMessage, future: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        if future.done():
            return future.result()
        if self.confirms:
            raise NoAnswer(
                f"{self.at} has not answered {event.name} within {self.limit:.3g} s{self._wrong}; {self.look_at}"
            )
        return {"unconfirmed": f"sent to {self.at}, which confirms nothing"}

    def _send_early(self, due: HandlerDue) -> None:
        event = due.event
        if isinstance(event, ExpMessage) and (left := self._early.pop(event, None)):  # one that was called off
            left[1].cancel()
        if self.sends_early and due.schedule and isinstance(event, ExpMessage) and event.name in self.config.messages:
            try:
                future = self._begin(event, due.args, due.schedule.instant)
            except Problem as problem:
                future = self.loop.create_future()
                future.set_exception(problem)
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may be called off
            self._early[event] = due.schedule.instant, future

    def _begin(self, event: ExpMessage, args: Sequence[Any], instant: float | None) -> asyncio.Future[dict[str, Any]]:
        """Send a message; raise a `Problem` if the template needs a value that the message lacks."""
        self._wrong = ""
        data = args[-1] if args and isinstance(args[-1], dict) else {}
        if event is ExpMessage.EXPINIT:
            self._data = data
        data = {**self._data, **data}
        reference = named_reference(event, list(args)) or self.exp_ref
        parts = reference_parts(reference or "")
        session = dict(zip(FIELDS, (reference, *(parts or (None, None, None))), strict=True))
        number = self._number = self._number % (2**31 - 1) + 1

        def value_of(name: str) -> Any:
            is_data, values = name.startswith(MESSAGE), {**session, ID: number}
            value = data.get(name.removeprefix(MESSAGE)) if is_data else values[name]
            if value is not None:
                return value
            if event is ExpMessage.EXPINTERRUPT:  # it must leave in any case
                return ""
            where = "its data, nor had EXPINIT" if is_data else "it, nor a reference of that form"
            raise Problem(f"{event.name} has nothing for {{{name}}} in {where}: send it, or change messages of the rig")

        return self.send(filled(self.config.messages[event.name], value_of), number, instant)


class _Agenda(Agenda):
    """Sends every EXPINTERRUPT: another program may have begun what goes on. Tells no EXPEND as done that is not."""

    _interrupted: dict[str, Any] | None = None  # what has become of the last EXPINTERRUPT
    _unstopped: agenda.Problem | None = None  # how the EXPINTERRUPT has failed after which EXPEND fails

    def fail(self, number: int, error: str, message: str, traceback: str, now: float, is_over: bool = False) -> None:
        task = self.tasks.get(number)
        if task and task.event is ExpMessage.EXPINTERRUPT and task.leads_to is ExpStatus.STOPPED:
            self._bad_end = self._unstopped = agenda.Problem(error, message, traceback)
        super().fail(number, error, message, traceback, now, is_over)

    def _succeed(self, task: Task, returned: Any, now: float) -> None:
        if task.event is ExpMessage.EXPINTERRUPT:
            self._bad_end = None if self._bad_end is self._unstopped else self._bad_end
            self._interrupted = returned
        elif task.event is ExpMessage.EXPEND and task.leads_to is None and "unconfirmed" in (self._interrupted or {}):
            returned = self._interrupted
        super()._succeed(task, returned, now)

    def _begin(self, task: Task, now: float) -> None:
        if task.event is ExpMessage.EXPINTERRUPT and self.status in _IDLE:
            task.leads_to = self.status
            self.running = task
            self._run(task, now)
        elif task.event is ExpMessage.EXPSTART and self.status in _IDLE:
            problem = (
                "EXPSTART refused: it needs an EXPINIT from the same program of rigsync first; rigsync run sends both"
            )
            self._refuse(task, "StateError", problem, now)
        elif task.event is ExpMessage.EXPEND and self.status is ExpStatus.CONNECTED and not self._begun_here:
            problem = (
                "EXPEND was not sent: this program of rigsync has begun nothing there; to stop what another one has "
                "begun, type rigsync push EXPINTERRUPT"
            )
            self._refuse(task, "StateError", problem, now)
        else:
            super()._begin(task, now)


class _Responder(Responder):
    """Is as silent as its program, but still confirms notices."""

    kind_of_agenda = _Agenda
    is_away: Callable[[], bool]

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        if not (_ASKS.match(data) and self.is_away()):
            super().receive_datagram(data, source, now)
