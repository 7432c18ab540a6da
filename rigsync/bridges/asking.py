"""What a bridge has done for programs that it does not trust: messages to rigs, and commands of one rig."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rigsync._text import one_line
from rigsync.bridges.telling import json_of, plain
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.coordinator.coordinator import Coordinator
from rigsync.coordinator.service import RigServices
from rigsync.core.arguments import compose
from rigsync.core.doubts import doubt_of
from rigsync.core.enums import ExpMessage
from rigsync.core.throttle import ALL_TOLD_EACH_MINUTE, TOLD_EACH_MINUTE, Ration
from rigsync.errors import PushError, RemoteError, RigError, RigsyncError

logger = logging.getLogger("rigsync.bridge")

MOST_UNDER_WAY = 256
"""Most messages and commands that are under way for others at a time. EXPINTERRUPT has as much room again."""
OK = "ok"


class Refused(Exception):
    """What cannot be done, or not for this sender; the text is for the sender, in one line."""


class Asking:
    """Pushes and calls for others on a coordinator's event loop, so many at a time."""

    def __init__(self, lab: Auxiliaries | Coordinator):
        self._lab = lab
        self._under_way = 0
        self._doubts: Ration[str] = Ration(60.0, TOLD_EACH_MINUTE, ALL_TOLD_EACH_MINUTE)

    async def push(self, message: ExpMessage, args: Sequence[Any], rigs: Sequence[str]) -> dict[str, str]:
        """Push a message to rigs; return ``ok``, or the failure in one line, by name of rig; raise `Refused`."""
        with self._asked(is_interrupt=message is ExpMessage.EXPINTERRUPT) as services:
            composed = compose(message, *args)
            doubt = doubt_of(message, args)
            if doubt and self._doubts.allows(doubt, time.monotonic()):
                logger.warning("%s", doubt)
            failed: Mapping[str, RigError] = {}
            try:
                await services.request(composed, rigs)
            except PushError as error:
                failed = error.failed
            return {rig: _failure(failed[rig]) if rig in failed else OK for rig in rigs}

    async def call(self, rigs: Sequence[str], command: str, args: Sequence[Any]) -> dict[str, str]:
        """Call a command of rigs; return ``ok`` and its value as JSON, or the failure, by name; raise `Refused`."""
        with self._asked() as services:
            called = [services.call(rig, command, *args) for rig in rigs]
            values = await asyncio.gather(*called, return_exceptions=True)
        for value in values:
            if isinstance(value, BaseException) and not isinstance(value, RigError):
                raise Refused(one_line(str(value))) from value
        told = (_failure(value) if isinstance(value, RigError) else _success(value) for value in values)
        return dict(zip(rigs, told, strict=True))

    @contextlib.contextmanager
    def _asked(self, is_interrupt: bool = False) -> Iterator[RigServices]:
        """Count what is under way; have what cannot be asked, or not now, told as `Refused`."""
        if self._under_way >= MOST_UNDER_WAY * (1 + is_interrupt):
            raise Refused(f"{self._under_way} messages and commands are under way already: wait for their outcome")
        if (services := self._lab.services) is None:
            raise Refused("this program has no rigs, or does not command them itself")
        self._under_way += 1
        try:
            yield services
        except (RigsyncError, TypeError, ValueError) as error:
            raise Refused(one_line(str(error))) from error
        finally:
            self._under_way -= 1


def _success(value: Any) -> str:
    return OK if value is None else f"{OK} {json_of(plain(value))}"


def _failure(error: RigError) -> str:
    name = "" if isinstance(error, RemoteError) else f"{type(error).__name__}: "  # else its problem begins with one
    return one_line(f"{name}{error.problem}")
