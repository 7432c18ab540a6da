"""A rig that is a ZeroMQ program with a REP socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from rigsync._text import shortened
from rigsync.bridges.asking import no_number
from rigsync.bridges.stand_in import Problem, ProgramFailed, StandIn
from rigsync.bridges.zmq.sockets import Keys, Question, new_context
from rigsync.core.rigs import Address
from rigsync.errors import ConfigError
from rigsync.hub.documents import json_of
from rigsync.net.endpoint import look_up


class ZmqRig(StandIn):
    """Sends messages to a ZeroMQ program as JSON, and takes its replies; docs/bridges.md describes both."""

    async def connect(self) -> None:
        self._context = new_context()
        self._asked: set[Question] = set()
        self._pinged: Question | None = None
        try:
            self._keys = Keys(self.config.curve, "server") if self.config.curve else None
        except ConfigError as error:
            raise ConfigError(error.problem, key=f"rigs.{self.name}.curve") from error
        (_, (host, *_)), *_ = await look_up(self.config)
        self._address = Address("tcp", host, self.config.address.port)

    def disconnect(self) -> None:
        for question in list(self._asked):
            self._end(question)
        self._context.term()

    def _ask(self, message: Any, take: Callable[[list[bytes]], object]) -> Question:
        question = Question(self._context, self._address, self._keys, json_of(message), take)
        self._asked.add(question)
        return question

    def _end(self, question: Question | None) -> None:
        if question in self._asked:
            self._asked.remove(question)
            question.close()

    @property
    def look_at(self) -> str:
        if not self.config.curve:
            return super().look_at
        return f"{super().look_at}, and whether both sides know each other's key (curve)"

    async def ping(self) -> None:
        self._end(self._pinged)  # its answer comes too late
        if self.config.ping:
            self._pinged = self._ask(self.config.ping, self._note_life)

    def _note_life(self, _: object) -> None:
        self.heard = self.loop.time()

    def send(self, message: Any, number: int, instant: float | None) -> asyncio.Future[dict[str, Any]]:
        future: asyncio.Future[dict[str, Any]] = self.loop.create_future()

        def take(parts: list[bytes]) -> None:
            self._note_life(parts)
            if not future.done():
                try:
                    future.set_result(self._read(parts[-1]))
                except Problem as problem:
                    future.set_exception(problem)

        question = self._ask(message, take)
        future.add_done_callback(lambda _: self._end(question))
        return future

    def _read(self, data: bytes) -> dict[str, Any]:
        """Return the content of an answer beside its ``ok``; raise a `Problem` if it has failed, or is malformed."""
        try:
            found = json.loads(data, parse_constant=no_number)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("ok"), bool):
            self.counts["malformed"] += 1
            expected = '{"ok": true}, or {"ok": false, "error": "what has failed"}'
            raise Problem(
                f"{self.at} has answered {shortened(data, 80)}, not {expected}; look there whether it is done"
            )
        if not found.pop("ok"):
            raise ProgramFailed(str(found.get("error") or f"{self.at} says that it has failed, and not why"))
        return {"answer": found} if found else {}
