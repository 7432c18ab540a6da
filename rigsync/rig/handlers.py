"""A rig's handlers: what they are given, and what becomes of what they return or raise."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from rigsync._text import one_line
from rigsync.core.arguments import check_topic, parts_of, validate_event
from rigsync.core.calls import HEARD, OWN, PUBLISH, UNHEARD
from rigsync.core.enums import ExpMessage
from rigsync.core.messages import Command, Verb
from rigsync.core.queries import FOR_ANYBODY
from rigsync.errors import RigsyncError
from rigsync.runtime.callbacks import described
from rigsync.runtime.loop_thread import is_coroutine_function

logger = logging.getLogger("rigsync.rig")

Function = TypeVar("Function", bound=Callable[..., Any])
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Handler:
    """A user's function that handles a message."""

    function: Callable[..., Any]
    most: int | None
    """Positional arguments that it takes; None for any number."""
    is_coroutine: bool

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Handler:
        """Inspect a function's parameters, once."""
        return cls(function, _most_arguments(function), is_coroutine_function(function))

    @property
    def name(self) -> str:
        """Its name in the log."""
        return getattr(self.function, "__qualname__", None) or repr(self.function)

    def is_for(self, args: Sequence[Any]) -> bool:
        """Whether it handles a message with these arguments."""
        return True

    def __call__(self, args: Sequence[Any]) -> Any:
        """Call the function with as many of a message's arguments as it takes."""
        return self.function(*args[: self.most])


class CommandHandler(Handler):
    """A user's function that does a command."""

    __slots__ = ()

    def __call__(self, args: Sequence[Any]) -> Any:
        """Call the function with the coordinator's arguments; Python itself refuses those that do not fit."""
        positional, keywords = args
        return self.function(*positional, **keywords)


@dataclass(frozen=True, slots=True)
class TopicHandler(Handler):
    """A user's function that hears what is published about one topic."""

    topic: str

    def is_for(self, args: Sequence[Any]) -> bool:
        """Whether its topic is the one that is published."""
        return bool(args[0][:1] == [self.topic])

    def __call__(self, args: Sequence[Any]) -> Any:
        """Call the function with the body, if it takes one."""
        return self.function(*(args[0][1:2] or [None])[: self.most])


class RigHandlers:
    """What a rig's program does at messages and commands."""

    def __init__(self, name: str):
        self._name = name
        self._handlers: dict[Verb, list[Handler]] = {PUBLISH: []}  # told that nobody listens, where nobody does

    @property
    def name(self) -> str:
        """str: Name of the rig."""
        return self._name

    def _handlers_for(self, event: Verb, args: list[Any]) -> Sequence[Handler]:
        """Return what a message runs."""
        return tuple(handler for handler in self._handlers.get(event, ()) if handler.is_for(args))

    def on(self, *messages: ExpMessage | str | int) -> Callable[[Function], Function]:
        """Decorate a handler of one or more messages.

        It is called with the message's arguments, or as many of them as it takes: ``data`` for EXPINIT, EXPEND,
        EXPINTERRUPT and EXPCLEANUP; ``exp_ref, data`` for EXPSTART; ``status`` for EXPSTATUS; ``status, data`` for
        EXPINFO; ``base_url, token`` for ALYX. It returns None or a dict, which is merged into the answer's info; for
        ALYX an Alyx client, or ``base_url, token``.

        A plain function runs in a worker thread, a coroutine function on the event loop. An exception goes to the
        coordinator as type, text and traceback. Several handlers of a message run one after the other, also after one
        has failed.

        EXPINTERRUPT cancels a running coroutine. It does not wait for a running plain function, and handlers that
        were to follow do not run. If such a plain function begins something all the same, the rig reports that as a
        failure when the function has ended.

        Parameters
        ----------
        *messages : ExpMessage, str or int
            The messages.

        Raises
        ------
        TypeError, ValueError
            No message, or an unknown one; or the function needs more than the message brings.
        """
        if len(messages) == 1 and callable(messages[0]):
            name = getattr(messages[0], "__name__", "the function")
            raise TypeError(f"@rig.on needs the message that {name}() handles: write @rig.on('EXPSTART') above it")
        known = [validate_event(message) for message in messages]
        if not known:
            raise TypeError("name the message to handle, for instance @rig.on('EXPSTART')")

        def register(function: Function) -> Function:
            if not callable(function):
                raise TypeError(f"a handler is a function, not {type(function).__name__}")
            for event in known:
                check_fits(function, event)
            for event in known:
                self._handlers.setdefault(event, []).append(Handler.of(function))
            return function

        return register

    @overload
    def command(self, name: str, /) -> Callable[[Function], Function]: ...

    @overload
    def command(self, name: Function, /) -> Function: ...

    def command(self, name: Any, /) -> Any:
        """Decorate the function that does a command, which `Auxiliaries.call` asks for: ``@rig.command('focus')``.

        It is called with the arguments of the call. It returns the call's value, which is anything that can be sent. An
        exception goes to the coordinator as type, text and traceback. A plain function runs in a worker thread, a
        coroutine function on the event loop. Commands run beside handlers of messages, and beside each other. During
        an experiment only the coordinator in charge may call them. A command changes no status, and goes on when
        EXPINTERRUPT comes.

        Parameters
        ----------
        name : str
            1 to 100 printable characters, and not the name of a message. ``@rig.command`` without a name takes that of
            the function.

        Raises
        ------
        TypeError
            The name is no text, or the decorated object is no function.
        ValueError
            The name is not allowed for a command, or the rig has such a command already.

        Examples
        --------
        >>> from rigsync import Rig
        >>> rig = Rig('cameras', 'udp://127.0.0.1:0')
        >>> @rig.command('focus')
        ... def focus(z, speed=1.0):
        ...     return {'z': z}
        """
        if callable(name):
            return self.command(getattr(name, "__name__", None))(name)  # type: ignore[arg-type]
        command = Command(name)
        if command.name.startswith(OWN) and command not in FOR_ANYBODY:
            raise ValueError(f"the names of commands that begin with {OWN!r} are rigsync's own: {command.name!r}")

        def register(function: Function) -> Function:
            if not callable(function):
                raise TypeError(f"a command is done by a function, not by {type(function).__name__}")
            handlers = [CommandHandler.of(function)]
            if self._handlers.setdefault(command, handlers) is not handlers:
                raise ValueError(f"rig {self.name} has a command {command.name!r} already")
            return function

        return register

    def on_topic(self, topic: str) -> Callable[[Function], Function]:
        """Decorate a function that hears what a coordinator publishes: ``@rig.on_topic('light')``.

        It is called with the body of ``lab.publish('light', body)``. What it returns does not matter; an exception goes
        to the coordinator, as that of a command. It runs where and when a command would. Several functions of a topic
        run one after the other.

        Parameters
        ----------
        topic : str
            1 to 100 characters.

        Raises
        ------
        TypeError, ValueError
            The topic is no text, empty or too long; or the decorated object is no function that takes a body.
        """
        check_topic(topic)

        def register(function: Function) -> Function:
            if not callable(function):
                raise TypeError(f"a topic is heard by a function, not by {type(function).__name__}")
            known = Handler.of(function)
            self._handlers[PUBLISH].append(TopicHandler(function, known.most, known.is_coroutine, topic))
            return function

        return register


class EndedBadly(RigsyncError):
    """A handler of EXPEND raises this if the recording has ended, and badly. EXPEND fails, the rig is STOPPED."""


class Raised(Exception):
    """What a handler has raised. `is_told` says that the log has it already."""

    def __init__(self, error: BaseException):
        super().__init__(error)
        self.error = error
        self.is_told = False
        """Whether the log has it already."""

    def log(self, rig: str, event: Verb, handler: str = "the handler") -> None:
        """Log it by itself, and not with what became of the message."""
        kind, text, _ = described(self.error)
        told = one_line(f"{kind}: {text}")
        logger.error("%s: %s of %s failed: %s", rig, handler, event.name, told, exc_info=self.error)
        self.is_told = True


class Outcomes:
    """Results and exceptions of the handlers of one message."""

    def __init__(self, rig: str, event: Verb, handlers: Sequence[Handler]):
        self._rig, self._event, self._count = rig, event, len(handlers)
        self._returned: list[Any] = []
        self._raised: Raised | None = None

    def add(self, returned: Any) -> None:
        """Add what a handler returned."""
        if returned is not None:
            self._returned.append(returned)

    def add_error(self, handler: Handler, error: BaseException) -> None:
        """Take in what a handler raised; the first is what the coordinator hears of."""
        raised = Raised(error)
        if self._count > 1:  # else it is told with what becomes of the message
            raised.log(self._rig, self._event, f"handler {handler.name}")
        self._raised = self._raised or raised

    def merged(self) -> Any:
        """Return the one result, or all of them in one dict; raise the first exception."""
        if self._raised:
            raise self._raised
        if self._event == PUBLISH:
            return HEARD if self._count else UNHEARD
        if len(self._returned) < 2:
            return self._returned[0] if self._returned else None
        merged: dict[str, Any] = {}
        for returned in self._returned:
            merged.update(returned)
        return merged


def check_fits(function: Callable[..., Any], event: ExpMessage) -> None:
    """Check that a handler can be called with what a message brings.

    Raises
    ------
    TypeError
        It asks for more. Python itself would find out when the message comes, at the end of a session for instance.
    """
    check_brings(function, event.name, ("base_url", "token") if event is ExpMessage.ALYX else parts_of(event))


def check_brings(function: Callable[..., Any], what: str, brought: Sequence[str]) -> None:
    """Check that a function can be called with so many arguments; `TypeError` as for `check_fits`."""
    try:
        # Not of what a decorator has wrapped: it may bring arguments itself.
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):  # a built-in that does not say
        return
    asked = [parameter for parameter in parameters if parameter.default is parameter.empty]
    positional = [parameter.name for parameter in asked if parameter.kind in _POSITIONAL]
    by_name = [parameter.name for parameter in asked if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    if len(positional) <= len(brought) and not by_name:
        return
    name = getattr(function, "__name__", None) or "handler"
    wanted = ", ".join(positional + [f"{one} by name" for one in by_name])
    raise TypeError(
        f"{name}() cannot handle {what}: it needs {wanted}, and {what} brings {' and '.join(brought)}; "
        f"write def {name}({', '.join(f'{part}=None' for part in brought)})"
    )


def _most_arguments(handler: Callable[..., Any]) -> int | None:
    """Return how many positional arguments a handler takes; None for any number."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # a built-in that does not say
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(parameter.kind in _POSITIONAL for parameter in parameters)
