"""The commands of a coordinator, which its rigs call."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Any

from rigsync._text import one_line
from rigsync.config.rigs import Rigs
from rigsync.coordinator.links import Links
from rigsync.core.arguments import compose_command, to_plain
from rigsync.core.calls import ANSWER, CALL
from rigsync.core.events import CoordinatorClosed, Notice
from rigsync.core.messages import LONGEST_PROBLEM, Command
from rigsync.errors import NotRunning, PayloadError, PayloadTooLarge, closest_first
from rigsync.runtime.callbacks import described, goes_on
from rigsync.runtime.lanes import Callee

logger = logging.getLogger("rigsync.commands")

RUNNING = 8
"""Calls whose functions run at the same time, those of all rigs together."""
WAITING = 1024
WAITING_BYTES = 64 << 20
"""Calls that wait for that, or run, and their bytes. More are answered that they are too many; where as many answers
are under way, they are not answered."""
LONGEST_TRACEBACK = 3000
"""Characters of the end of a traceback, which tells most: with the rest they fit into a datagram in any alphabet."""


class Commands:
    """Does what rigs call, and has the outcome sent to them."""

    def __init__(self, links: Links, rigs: Rigs):
        self._links, self._rigs = links, rigs
        self._functions: dict[str, Callee] = {}
        self._tasks: dict[asyncio.Task[None], int] = {}  # and the bytes of each call
        self._answers = 0
        self._places = asyncio.Semaphore(RUNNING)
        links.hub.rule(Notice, self._note)
        links.hub.rule(CoordinatorClosed, self._end)

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Do as `Lab.command`."""
        command = Command(name)
        if not callable(function):
            raise TypeError(f"a command is done by a function, not by {type(function).__name__}")
        callee = Callee.of(function)
        if self._functions.setdefault(command.name, callee) is not callee:
            raise ValueError(f"this coordinator has a command {command.name!r} already")

    def _note(self, notice: Notice) -> None:
        if notice.topic != CALL or not isinstance(body := notice.body, dict):
            return
        n, name, asked, timeout = (body.get(key) for key in ("id", "command", "args", "timeout"))
        is_call = isinstance(n, int) and isinstance(name, str) and isinstance(timeout, (int, float)) and timeout > 0
        if not is_call or not isinstance(asked, list) or [type(part) for part in asked] != [list, dict]:
            return
        held = sum(self._tasks.values())
        if len(self._tasks) >= WAITING or (held and held + notice.size > WAITING_BYTES):
            self._fail(notice.rig, n, timeout, "Busy", "too many calls wait here already; call later")
            return
        doing = self._do(notice.rig, n, name, asked, timeout)
        task = asyncio.get_running_loop().create_task(doing, name=f"rigsync call of {notice.rig}")
        self._tasks[task] = notice.size
        task.add_done_callback(self._tasks.pop)

    async def _do(self, rig: str, n: Any, name: Any, asked: Any, timeout: Any) -> None:
        end = time.monotonic() + timeout
        async with self._places:
            if time.monotonic() >= end:  # nobody waits for it any more
                return
            if (callee := self._functions.get(name)) is None:
                known = ", ".join(closest_first(name, list(self._functions))) or "(none)"
                problem = f"the coordinator has no command {name!r}; it has: {known}; add it there by @lab.command"
                self._fail(rig, n, timeout, "UnknownCommand", problem)
                return
            try:
                value = await self._called(callee, asked)
                self._answer(rig, timeout, n, to_plain(value, f"the value of {name}", self._rigs.room([rig])))
            except BaseException as error:
                if isinstance(error, (asyncio.CancelledError, GeneratorExit)) and not self._links.is_open:
                    raise
                goes_on(error)  # Ctrl-C on the main thread; the rig hears of it too
                kind, text, told = described(error)
                if isinstance(error, (PayloadError, PayloadTooLarge)):
                    told = ""
                logger.exception("%s, called by %s, failed: %s", name, rig, one_line(f"{kind}: {text}"))
                self._fail(rig, n, timeout, kind, text, told)

    async def _called(self, callee: Callee, asked: Any) -> Any:
        call = functools.partial(callee.function, *asked[0], **asked[1])
        if not callee.is_coroutine:
            return await self._links.hub.in_worker(call)
        return await call()

    def _fail(self, rig: str, n: Any, timeout: Any, error: str, message: str, traceback: str = "") -> None:
        self._answer(
            *(rig, timeout, n),
            error=error[:200],
            message=message[:LONGEST_PROBLEM],
            traceback=traceback[-LONGEST_TRACEBACK:],
        )

    def _answer(self, rig: str, timeout: Any, *args: Any, **error: str) -> None:
        message = compose_command(ANSWER.name, args, error, self._rigs.room([rig]))
        if self._answers >= 2 * WAITING:
            logger.debug("%s gets no answer: too many are under way", rig)
            return
        try:
            order = self._links.order(message, [rig], timeout, beside=True)
        except NotRunning:  # closed meanwhile, and the rig has heard of that
            return
        self._answers += 1
        self._links.push(order, self._note_answered)

    def _note_answered(self, _: object) -> None:
        self._answers -= 1

    def _end(self, _: object) -> None:
        for task in self._tasks:
            task.cancel()
