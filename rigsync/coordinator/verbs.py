"""The members of iblutil's `Services`: verbs to all rigs, and callbacks for what they send."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import UserDict
from collections.abc import Callable, Iterable
from typing import Any

from rigsync.config.rigs import Rigs
from rigsync.coordinator.faces import Faced
from rigsync.coordinator.remote_rig import RemoteRig, identity, message_of
from rigsync.coordinator.results import PushResult
from rigsync.core.arguments import compose
from rigsync.core.enums import PROTOCOL_VERSION, ExpMessage
from rigsync.core.messages import Message
from rigsync.errors import PushError, RigError
from rigsync.runtime.callbacks import name_of


class Verbs(Faced, UserDict[str, RemoteRig]):
    """What iblutil's `Services` offers, over one coroutine that sends a message to rigs and waits for the answers."""

    __version__ = PROTOCOL_VERSION
    timeout: float
    _rigs: Rigs

    @abstractmethod
    async def request(
        self, message: Message, rigs: Iterable[str] | None = None, timeout: float | None = None
    ) -> PushResult:
        """Send a message and wait for the answers."""

    async def init(self, data: Any = None, concurrent: bool = True) -> dict[str, Any]:
        """Send EXPINIT to all rigs and wait for their answers.

        Parameters
        ----------
        data : object
            What the rigs are to know.
        concurrent : bool
            Whether all get it at once; else each when the one before has answered.

        Returns
        -------
        dict of str to list
            The answers by name of rig; here and in the other verbs.

        Raises
        ------
        PushError
            Some rig failed; a `TimeoutError` too where all failures are time-outs. `Aborted` stands for each rig
            without an answer where the services were closed meanwhile. Here and in the other verbs.
        NotRunning
            The services are not open.
        """
        return await self._signal(ExpMessage.EXPINIT, "init", data=data, concurrent=concurrent)

    async def start(self, exp_ref: Any, data: Any = None, concurrent: bool = True) -> dict[str, Any]:
        """Send EXPSTART to all rigs and wait for their answers.

        Parameters
        ----------
        exp_ref : str or dict
            The experiment, ``yyyy-mm-dd_n_subject`` or a map of ``date``, ``sequence`` and ``subject``.
        data : object
            What else the rigs are to know.
        concurrent : bool
            As for `init`.
        """
        return await self._signal(ExpMessage.EXPSTART, "start", exp_ref, data=data, concurrent=concurrent)

    async def stop(self, data: Any = None, immediately: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Send EXPEND, or EXPINTERRUPT, to all rigs and wait for their answers; the last rig comes first.

        Parameters
        ----------
        data : object
            What the rigs are to know, for instance the error that interrupts.
        immediately : bool
            Whether to interrupt.
        **kwargs
            ``concurrent``, as for `init`.
        """
        return await self._signal(ExpMessage.EXPEND, "stop", data=data, immediately=immediately, reverse=True, **kwargs)

    async def status(self, status: Any, **kwargs: Any) -> dict[str, Any]:
        """Send EXPSTATUS to all rigs and wait for theirs.

        Parameters
        ----------
        status : ExpStatus, str or int
            The status of this computer.
        **kwargs
            ``concurrent``, as for `init`.
        """
        return await self._signal(ExpMessage.EXPSTATUS, "status", status, **kwargs)

    async def info(self, status: Any, data: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Send EXPINFO to all rigs and wait for what they are.

        Parameters
        ----------
        status : ExpStatus, str or int
            The status of this computer.
        data : object
            What this computer says of itself.
        **kwargs
            ``concurrent``, as for `init`.
        """
        return await self._signal(ExpMessage.EXPINFO, "info", status, data=data, **kwargs)

    async def cleanup(self, data: Any = None, concurrent: bool = True) -> dict[str, Any]:
        """Send EXPCLEANUP to all rigs and wait for their answers; the last rig comes first.

        Parameters
        ----------
        data : object
            What the rigs are to know.
        concurrent : bool
            As for `init`.
        """
        return await self._signal(ExpMessage.EXPCLEANUP, "cleanup", data=data, reverse=True, concurrent=concurrent)

    async def alyx(self, alyx: Any = None) -> dict[str, Any]:
        """Send an Alyx token to all rigs, or ask them for one.

        Parameters
        ----------
        alyx : object, optional
            An Alyx client, whose token is sent if it is logged in. None asks the rigs for one.

        Returns
        -------
        dict of str to list
            The answers by name of rig: address and token, where a rig was asked for one.

        Raises
        ------
        PushError
            Some rig failed.
        TypeError
            It is no Alyx client.
        NotRunning
            The services are not open.
        """
        return await self._signal(ExpMessage.ALYX, "alyx", alyx)

    def assign_callback(
        self, event: Any, callback: Callable[..., object] | asyncio.Future[Any], return_service: bool = False
    ) -> None:
        """Have a function called, or a future resolved, when a message comes from any rig.

        Parameters
        ----------
        event, callback
            As for `RemoteRig.assign_callback`.
        return_service : bool
            Whether the function is called with the `RemoteRig` too, as the last argument.

        Raises
        ------
        TypeError, ValueError
            As for `RemoteRig.assign_callback`; also for a future that is to get the rig.
        """
        for rig in self.values():
            rig.assign_callback(event, _with_rig(callback, rig) if return_service else callback)

    def clear_callbacks(
        self, event: Any, callback: Callable[..., object] | asyncio.Future[Any] | None = None
    ) -> dict[str, int]:
        """Remove the callbacks of a message from all rigs, or one of them.

        Parameters
        ----------
        event, callback
            As for `RemoteRig.clear_callbacks`.

        Returns
        -------
        dict of str to int
            How many were removed, by name of rig.

        Raises
        ------
        TypeError, ValueError
            As for `RemoteRig.clear_callbacks`.
        """
        return {name: rig.clear_callbacks(event, callback) for name, rig in self.items()}

    async def await_all(self, event: Any) -> dict[str, Any]:
        """Wait until every rig has sent a message, at most `timeout` seconds.

        Parameters
        ----------
        event : str, int or ExpMessage
            The message, or several joined by ``|``, of which each rig sends one.

        Returns
        -------
        dict of str to list
            What follows the event, by name of rig.

        Raises
        ------
        asyncio.TimeoutError
            Not every rig has; names those.
        RigError
            A rig failed to answer the last `confirmed_send` of it.
        TypeError, ValueError
            No such message.
        """
        event = ExpMessage.validate(event)
        waits = {name: asyncio.ensure_future(rig.on_event(event)) for name, rig in self.items()}
        if not waits:
            return {}
        try:
            _, late = await asyncio.wait(waits.values(), timeout=self.timeout or None)
        finally:
            for wait in waits.values():
                wait.cancel()
        answers = {name: wait.result()[0] for name, wait in waits.items() if wait not in late}
        if late:
            missing = ", ".join(name for name in waits if name not in answers)
            raise asyncio.TimeoutError(f"no {event.name} within {self.timeout:g} s from {missing}")
        return answers

    async def _signal(
        self, event: Any, method: str, *args: Any, concurrent: bool = True, reverse: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Send one message to all rigs, as the verbs ask, and iblrig's older code; return their answers."""
        message = self._compose_verb(event, method, *args, **kwargs)
        if concurrent:
            return dict(await self.request(message))
        answers: dict[str, Any] = {}
        failures: dict[str, RigError] = {}
        for name in reversed(list(self)) if reverse else list(self):
            try:
                answers.update(await self.request(message, [name]))
            except PushError as error:  # the others are told all the same
                failures.update(error.failed)
                last = error
        if failures:
            result = PushResult(message.event.name, last.result.request_time, answers, failures)
            raise result.as_error()
        return answers

    def _compose_verb(
        self, event: Any, method: str, *args: Any, data: Any = None, immediately: bool = False
    ) -> Message:
        room = self._rigs.room()
        if method == "confirmed_send":  # the message itself, as iblrig's older code gives it
            return message_of(args[0], room)
        if immediately:  # older releases of iblutil name EXPEND all the same
            event = ExpMessage.EXPINTERRUPT
        return compose(event, *args, *([] if data is None else [data]), room=room)


def _with_rig(callback: Any, rig: RemoteRig) -> Callable[..., object]:
    """Return a function that calls another one with the rig too, and can be cleared by that one's name."""
    if not callable(callback):
        raise TypeError("a callback that is to get the rig is a function")

    def call(*content: Any) -> object:
        return callback(*content, rig)

    call.id = identity(callback)  # type: ignore[attr-defined]
    call.__qualname__ = name_of(callback)  # as the log calls it
    return call
