"""All rigs by name, with the members of iblutil's `Services`."""

from __future__ import annotations

import asyncio
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any

from rigsync.config.rigs import Rigs, checked_timeout
from rigsync.coordinator.faces import Faced
from rigsync.coordinator.links import Links
from rigsync.coordinator.remote_rig import RemoteRig, identity, message_of
from rigsync.coordinator.results import PushResult
from rigsync.core.arguments import compose, compose_command
from rigsync.core.enums import PROTOCOL_VERSION, ExpMessage
from rigsync.core.events import (
    Dialect,
    LinkChanged,
    LinkState,
    MessageReceived,
    PushCompleted,
    RemoteComplaint,
    RequestReceived,
)
from rigsync.core.legacy import NULL_MESSAGE
from rigsync.core.messages import Command, Message
from rigsync.core.orders import Order
from rigsync.errors import CallError, PushError, RemoteError, RigError, RigLost
from rigsync.runtime.callbacks import name_of, resolve_future

MOST_CALLS = 20_000
CALL_BYTES = 64 << 20
"""Calls that may be outstanding while nobody waits for them, and bytes of their arguments."""
SMALL_CALL = 2048
"""Bytes of a call up to which these are not added up: all such calls take less."""


class RigServices(Faced, Links, UserDict[str, RemoteRig]):
    """All rigs of a configuration by name, over the rigsync core, with the members of iblutil's `Services`.

    A map that cannot be changed. The verbs `init`, `start`, `stop`, `status`, `info`, `cleanup` and `alyx` are
    coroutines that send their message to all rigs, and return a dict of rig name to answer. With ``concurrent=False``
    each rig gets it when the one before has answered; `stop` and `cleanup` then begin with the last rig. For
    `isinstance`, it is a `Services` where iblutil is loaded.

    Parameters
    ----------
    rigs : Rigs
        The configuration.
    **options
        ``log``, ``hub`` and ``pause``, as for `Links`.

    Raises
    ------
    PushError
        By the verbs: some rig failed; a `TimeoutError` too where all failures are time-outs. `Aborted` stands for each
        rig without an answer where the services were closed meanwhile.
    NotRunning
        By the verbs: the services are not open.
    """

    __version__ = PROTOCOL_VERSION

    def __init__(self, rigs: Rigs, **options: Any):
        Links.__init__(self, rigs, **options)
        by_name = {name: RemoteRig(config, self) for name, config in rigs.rigs.items()}
        self._calls: dict[float, int] = {}
        """Bytes of the outstanding calls that nobody need wait for, by request time."""
        self.data = MappingProxyType(by_name)  # type: ignore[assignment] # so that nobody adds or takes one
        self.hub.rule(MessageReceived, self._deliver)
        self.hub.rule(RequestReceived, lambda event: self[event.rig].note_received(event.request_time))
        self.hub.rule(RemoteComplaint, self._note_complaint)
        self.hub.rule(LinkChanged, self._note_link)
        self.hub.rule(PushCompleted, self._note_errors)
        self.hub.rule(PushCompleted, lambda event: self._calls.pop(event.request_time, None))

    def _close(self) -> None:
        super()._close()
        self._calls.clear()
        for rig in self.values():
            rig.close()

    # ------------------------------------------------------------------------------------------------- sending

    async def request(
        self, message: Message, rigs: Iterable[str] | None = None, timeout: float | None = None
    ) -> PushResult:
        """Send a message and wait for the answers, on any event loop.

        Parameters
        ----------
        message : Message
            Composed by `rigsync.core.arguments.compose`.
        rigs : iterable of str, optional
            Names or patterns; all by default.
        timeout : float, optional
            Seconds, instead of each rig's own.

        Raises
        ------
        PushError
            Some rig failed.
        NotRunning
            The services are not open.
        UnknownRig
            A name or pattern that matches none.
        """
        names = None if rigs is None else self._rigs.matching(rigs)
        self._rigs.room(names).check(message.size, message.body)
        return await self._outcome(self.order(message, names, timeout))

    async def _outcome(self, order: Order) -> PushResult:
        future: asyncio.Future[PushResult] = asyncio.get_running_loop().create_future()
        is_waited_for = (lambda: not future.done()) if order.raises else None
        self.push(order, lambda outcome: resolve_future(future, outcome), is_waited_for)
        return await future

    async def call(self, rig: str, command: str, /, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Have a rig do a command and wait for the value that it returns, on any event loop.

        Parameters, value and errors are those of `Coordinator.call`.
        """
        name = self._rigs.only(rig)
        message = compose_command(command, args, kwargs, self._rigs.room([name]))
        try:
            result = await self._outcome(self.order(message, [name], checked_timeout(timeout), raises=True))
        except PushError as error:
            failure = copy(error.failed[name])  # not the one in the log, as for Auxiliaries.call
        else:
            return result[name][0]
        raise failure

    def order_call(
        self,
        rig: str,
        command: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        timeout: float | None,
        check_open: Callable[[], object],
    ) -> Order:
        """Make the order for a call that waits for no other; for errors see `Lab.call_nowait`. From any thread."""
        name = self._rigs.only(rig)
        message = compose_command(command, args, kwargs, self._rigs.room([name]))
        check_open()
        order = self.order(message, [name], timeout, beside=True)
        # In single steps: other threads call, too.
        held = sum(self._calls.copy().values()) if message.size > SMALL_CALL else 0
        if (count := len(self._calls)) >= MOST_CALLS or (held and held + message.size > CALL_BYTES):
            problem = f"{name}: {command} was not called: {count:,} calls are outstanding"
            raise CallError(f"{problem}; wait for some of them first")
        self._calls[order.request_time] = message.size
        return order

    async def init(self, data: Any = None, concurrent: bool = True) -> dict[str, Any]:
        """Send EXPINIT.

        Parameters
        ----------
        data : object, optional
            What the rigs are to know.
        concurrent : bool
            Whether all are sent it at once.

        Returns
        -------
        dict of str to list
            The answers by name of rig.
        """
        return await self._signal(ExpMessage.EXPINIT, "init", data=data, concurrent=concurrent)

    async def start(self, exp_ref: Any, data: Any = None, concurrent: bool = True) -> dict[str, Any]:
        """Send EXPSTART; it returns as `init` does.

        Parameters
        ----------
        exp_ref : str or mapping
            ``yyyy-mm-dd_n_subject``, or a map of ``date``, ``sequence`` and ``subject``.
        data, concurrent
            As for `init`.
        """
        return await self._signal(ExpMessage.EXPSTART, "start", exp_ref, data=data, concurrent=concurrent)

    async def stop(self, data: Any = None, immediately: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Send EXPEND; it returns as `init` does.

        Parameters
        ----------
        data, concurrent
            As for `init`.
        immediately : bool
            Whether to send EXPINTERRUPT instead.
        """
        return await self._signal(ExpMessage.EXPEND, "stop", data=data, immediately=immediately, reverse=True, **kwargs)

    async def status(self, status: Any, **kwargs: Any) -> dict[str, Any]:
        """Send EXPSTATUS; the rigs answer with theirs, as for `init`.

        Parameters
        ----------
        status : ExpStatus, str or int
            This computer's, an `ExpStatus`, its name or number.
        concurrent
            As for `init`.
        """
        return await self._signal(ExpMessage.EXPSTATUS, "status", status, **kwargs)

    async def info(self, status: Any, data: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Send EXPINFO; the rigs answer what they are, as for `init`.

        Parameters
        ----------
        status : ExpStatus, str or int
            This computer's, an `ExpStatus`, its name or number.
        data : object, optional
            What this computer says of itself.
        concurrent
            As for `init`.
        """
        return await self._signal(ExpMessage.EXPINFO, "info", status, data=data, **kwargs)

    async def cleanup(self, data: Any = None, concurrent: bool = True) -> dict[str, Any]:
        """Send EXPCLEANUP; it returns as `init` does.

        Parameters
        ----------
        data, concurrent
            As for `init`.
        """
        return await self._signal(ExpMessage.EXPCLEANUP, "cleanup", data=data, reverse=True, concurrent=concurrent)

    async def alyx(self, alyx: Any = None) -> dict[str, Any]:
        """Send a token of Alyx, or ask for one.

        Parameters
        ----------
        alyx : AlyxClient, optional
            One that is logged in; without it the rigs are asked for theirs.

        Returns
        -------
        dict of str to list
            What they answer, with address and token, by name of rig.
        """
        return await self._signal(ExpMessage.ALYX, "alyx", alyx)

    def assign_callback(
        self, event: Any, callback: Callable[..., object] | asyncio.Future[Any], return_service: bool = False
    ) -> None:
        """Do as `RemoteRig.assign_callback` for all rigs.

        With `return_service`, the function is called with the `RemoteRig` too, as the last argument; not a future.
        """
        for rig in self.values():
            rig.assign_callback(event, _with_rig(callback, rig) if return_service else callback)

    def clear_callbacks(
        self, event: Any, callback: Callable[..., object] | asyncio.Future[Any] | None = None
    ) -> dict[str, int]:
        """Do as `RemoteRig.clear_callbacks` for all rigs; return how many were removed, by name of rig."""
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

    # ------------------------------------------------------------------------------ what iblutil's callbacks hear

    def _deliver(self, event: MessageReceived) -> None:
        if not isinstance(event.event, Command) and (rig := self.data[event.rig]).hears(event.event):
            rig.deliver(event.event, event.args, self.address(event.rig))

    def _note_errors(self, event: PushCompleted) -> None:
        for name, error in event.failures.items():
            if isinstance(error, RemoteError) and not isinstance(event.event, Command):
                self._deliver_error(name, f"{error.error}: {error.message}", event.event)

    def _note_complaint(self, event: RemoteComplaint) -> None:
        error, _, problem = event.text.partition(": ")
        self[event.rig].deliver_failure(RemoteError(event.rig, error, problem), event.event)
        self._deliver_error(event.rig, event.text, event.event)

    def _deliver_error(self, rig: str, text: str, event: ExpMessage) -> None:
        self[rig].deliver(NULL_MESSAGE, [text, event], self.address(rig))

    def _note_link(self, event: LinkChanged) -> None:
        if event.after is LinkState.LOST and self[event.rig].dialect == Dialect.IBLUTIL.value:
            # What it has confirmed is not outstanding any more, and would be awaited without end.
            self[event.rig].deliver_failure(RigLost(event.rig, f"lost before it answered: {event.reason}"))


def _with_rig(callback: Any, rig: RemoteRig) -> Callable[..., object]:
    """Return a function that calls another one with the rig too, and can be cleared by that one's name."""
    if not callable(callback):
        raise TypeError("a callback that is to get the rig is a function")

    def call(*content: Any) -> object:
        return callback(*content, rig)

    call.id = identity(callback)  # type: ignore[attr-defined]
    call.__qualname__ = name_of(callback)  # as the log calls it
    return call
