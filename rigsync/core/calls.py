"""What a coordinator publishes, and what a rig calls of its coordinator (docs/protocol.md section 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rigsync.core.coordinators import Coordinator, Coordinators
from rigsync.core.messages import Command, Message
from rigsync.core.ownership import Ownership
from rigsync.errors import CallError, CallTimeout, PayloadTooLarge, RemoteError

OWN = "rigsync."
"""How the names of commands and topics begin that are rigsync's own."""
PUBLISH = Command("rigsync.publish")
"""Tells a rig something about a topic: ``[[topic, body], {}]``."""
HEARD, UNHEARD = "heard", "nobody listens"
"""What a rig answers to it."""
CALL = "rigsync.call"
"""Topic of the notice by which a rig calls a command of its coordinator: id, command, args and timeout (s)."""
ANSWER = Command("rigsync.answer")
"""Brings a rig the outcome: ``[[id, value], {}]``, or ``[[id], {error, message, traceback}]``."""
CALLS = 256
CALLS_BYTES = 1 << 20
"""Calls of a rig that wait for answers, and bytes of their arguments. More are refused."""


def rig_closed(command: str) -> CallError:
    return CallError(f"this rig closed before its coordinator answered {command}")


@dataclass(frozen=True, slots=True)
class _Pending:
    """A call that is not answered."""

    command: str
    boot: str
    host: str
    deadline: float
    timeout: float
    size: int
    done: Callable[[list[Any] | Exception], object]


class Calls:
    """The calls of a rig that its coordinator has not answered.

    `notice` encodes a notice under the number that `number` gives; `send` sends a coordinator what waits for it.
    """

    def __init__(
        self,
        ownership: Callable[[], Ownership],
        coordinators: Coordinators,
        notice: Callable[[str, str | None, Any, bool], bytes],
        number: Callable[[], int],
        send: Callable[[Coordinator, float], object],
    ):
        self._ownership, self._coordinators, self._send = ownership, coordinators, send
        self._notice, self._number = notice, number
        self._pending: dict[int, _Pending] = {}
        self._taken: set[int] = set()
        """Those that the coordinator has confirmed."""

    def ask(
        self, message: Message, timeout: float, done: Callable[[list[Any] | Exception], object], now: float
    ) -> None:
        """Have the coordinator in charge do a command; `done` gets its value, in a list, or the error, once."""
        command, owner = message.event.name, self._ownership().owner
        coordinator = self._coordinators.find(owner.boot) if owner and owner.boot else None
        if owner is None or self._ownership().host is None:
            problem = "no coordinator is in charge; one is, from its EXPINIT or EXPSTART until EXPCLEANUP"
        elif coordinator is None:
            problem = f"the coordinator in charge, on {owner.host}, speaks the iblutil dialect, which knows no calls"
        elif len(self._pending) >= CALLS or self._held + len(message.body) > CALLS_BYTES:
            problem = f"{len(self._pending)} calls wait for its answer already; wait for some of them first"
        else:
            n = self._number()
            body = {"id": n, "command": command, "args": message.args, "timeout": timeout}
            try:
                frame = self._notice(CALL, None, body, True)
            except PayloadTooLarge as error:
                done(error)
                return
            pending = _Pending(command, coordinator.boot, owner.host, now + timeout, timeout, len(message.body), done)
            self._pending[n] = pending
            coordinator.notices.add(n, frame, now)
            self._send(coordinator, now)
            return
        done(CallError(f"{command} was not called: {problem}"))

    @property
    def _held(self) -> int:
        return sum(pending.size for pending in self._pending.values())

    def acknowledge(self, boot: str, n: int, takes_calls: bool) -> None:
        """Process that a coordinator has confirmed a notice, and whether it knows of calls."""
        if (pending := self._pending.get(n)) and pending.boot == boot:
            self._taken.add(n)
            if not takes_calls:
                problem = f"the coordinator in charge, on {pending.host}, has an older rigsync, which takes no calls"
                self._settle(n, CallError(f"{pending.command} was not called: {problem}; update it there"))

    def answer(self, boot: str, args: list[Any]) -> bool:
        """Take an answer; return whether it was awaited."""
        (n, *values), error = args[0] or [None], args[1]
        pending = self._pending.get(n) if isinstance(n, int) else None
        if n is None or pending is None or pending.boot != boot:
            return False
        if "error" in error:
            texts = (str(error.get(part) or "") for part in ("error", "message", "traceback"))
            self._settle(n, RemoteError(f"the coordinator on {pending.host}", *texts))
        else:
            self._settle(n, values[:1] or [None])
        return True

    def leave(self, boot: str) -> None:
        """Settle the calls of a coordinator that has said goodbye."""
        for n, pending in list(self._pending.items()):
            if pending.boot == boot:
                problem = f"the coordinator on {pending.host} closed before it answered {pending.command}"
                self._settle(n, CallError(f"{problem}; whether it has done it is not known"))

    def close(self) -> None:
        """Settle all: the rig closes."""
        for n, pending in list(self._pending.items()):
            self._settle(n, rig_closed(pending.command))

    def handle_timer(self, now: float) -> None:
        """Give up what was not answered in time."""
        for n, pending in list(self._pending.items()):
            if now >= pending.deadline:
                what = "has it, and may still do it" if n in self._taken else "may never have had it"
                problem = f"no answer to {pending.command} within {pending.timeout:g} s"
                self._settle(n, CallTimeout(f"{problem}: the coordinator on {pending.host} {what}"))

    def next_timer(self) -> float:
        return min(pending.deadline for pending in self._pending.values()) if self._pending else math.inf

    def _settle(self, n: int, outcome: list[Any] | Exception) -> None:
        self._taken.discard(n)
        self._pending.pop(n).done(outcome)
