"""What a rig calls of its coordinator."""

from __future__ import annotations

from copy import copy
from typing import Any

from rigsync.config.rigs import checked_timeout
from rigsync.core.arguments import compose_command
from rigsync.core.calls import rig_closed
from rigsync.core.rigs import Room
from rigsync.errors import CallTimeout
from rigsync.rig.session import Session
from rigsync.runtime.replies import Reply

TIMEOUT = 10.0
"""Seconds for the answer to a call, by default."""


class CoordinatorCall(Reply[Any]):
    """A call on its way to the coordinator; see `Rig.call_coordinator`, which makes it."""

    def __init__(self, session: Session, command: str):
        super().__init__()
        self._session, self._command = session, command

    def _value(self, outcome: list[Any] | Exception) -> Any:
        if isinstance(outcome, Exception):
            raise copy(outcome)  # it may be waited for again
        return outcome[0]

    def _runs_here(self) -> bool:
        return self._session.runs_here

    def _late(self, timeout: float | None) -> TimeoutError:
        return CallTimeout(f"no answer to {self._command} within {timeout:g} s; it goes on: wait for it again")

    def _look(self) -> None:
        if self._session.is_over:
            self._settle(rig_closed(self._command))


class RigCalls:
    """How a rig's program calls its coordinator."""

    def _calling(self) -> tuple[Session, Room]:
        """Return what sends a call, and the room for it; `NotRunning` where the rig does not serve."""
        raise NotImplementedError

    def call_coordinator(self, command: str, /, *args: Any, timeout: float = TIMEOUT, **kwargs: Any) -> CoordinatorCall:
        """Call a command of the coordinator in charge, made there by ``@lab.command``, and return at once.

        From any thread and any handler, also while a message is worked on. The function runs there once at most.

        Parameters
        ----------
        command : str
            The command.
        *args, **kwargs
            Arguments of the function there; plain values, as for `notify`.
        timeout : float
            Seconds for the answer.

        Returns
        -------
        CoordinatorCall
            ``await`` it on any event loop, such as in a coroutine handler; in a plain handler, which has a thread of
            its own, wait by its ``result()``. Each gives the value, or raises

            * `CallError` where no coordinator is in charge, or it is one of the iblutil dialect or of an older rigsync,
              256 calls wait already, or it closes before it has answered;
            * `CallTimeout`, a `TimeoutError`, where it does not answer in time;
            * `RemoteError` where the function there has raised; of the type ``UnknownCommand`` where there is none.

        Raises
        ------
        PayloadError, PayloadTooLarge, TypeError, ValueError
            The command or the timeout is not valid, or an argument cannot be sent.
        NotRunning
            The rig does not serve.
        """
        session, room = self._calling()
        message = compose_command(command, args, kwargs, room)
        call = CoordinatorCall(session, command)
        session.call(message, checked_timeout(timeout) or TIMEOUT, call._settle)
        return call
