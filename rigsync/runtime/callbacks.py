"""Calling users' functions, and settling futures of any event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from rigsync.core.events import Event

logger = logging.getLogger("rigsync.callbacks")

RAISED = "%s %s raised an exception; the others run and the link stays"
Subscriber = Callable[[Any], object]


class Subscribers:
    """Subscribers by class of event. An exception in one harms no other."""

    def __init__(self) -> None:
        self._by_event: dict[type[Event], list[Subscriber]] = {}

    def add(self, event: type[Event], callback: Subscriber) -> Callable[[], None]:
        """Call `callback` with each event of a class and its subclasses; return a function that ends this."""
        subscribers = self._by_event.setdefault(event, [])
        subscribers.append(callback)

        def remove() -> None:
            if callback in subscribers:
                subscribers.remove(callback)

        return remove

    def tell(self, event: Event) -> None:
        """Call each subscriber of the event."""
        for kind in type(event).__mro__:
            for callback in tuple(self._by_event.get(kind, ())):
                guarded(f"subscriber to {kind.__name__}", callback, event)


def guarded(role: str, callback: Callable[..., object], *args: Any) -> None:
    """Call a user's function; log an exception, even SystemExit, with the function's name."""
    try:
        callback(*args)
    except BaseException:
        logger.exception(RAISED, role, name_of(callback))


def name_of(callback: Callable[..., object]) -> str:
    """Return the name of a user's function in the log."""
    return getattr(callback, "__qualname__", None) or type(callback).__qualname__


def resolve_future(future: asyncio.Future[Any], outcome: Any) -> None:
    """Give a future of any event loop its result, or its exception if `outcome` is one; at most once."""

    def settle() -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    on_loop_of(future, settle)


def on_loop_of(future: asyncio.Future[Any], settle: Callable[[], object]) -> None:
    """Call a function where the future may be touched: at once on the future's loop, or soon from elsewhere."""
    loop = future.get_loop()
    if runs_here(loop):
        settle()
        return
    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        logger.debug("an answer came for a waiter whose event loop has been closed")


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller runs on this event loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
