"""Calling users' functions, and settling futures of any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any

from rigsync.runtime.signals import Terminated

logger = logging.getLogger("rigsync.callbacks")

RAISED = "%s %s raised an exception, %s; %s"


def guarded(role: str, callback: Callable[..., object], *args: Any) -> None:
    """Call a user's function; log an exception, even SystemExit, with the function's name."""
    try:
        callback(*args)
    except BaseException as error:
        report(role, name_of(callback), error)


def report(
    role: str,
    name: str,
    error: BaseException,
    log: logging.Logger = logger,
    then: str = "the others run and the link stays",
) -> None:
    """Log what a user's function raised, with its name and the type; but a signal that came while it ran goes on."""
    if goes_on(error):
        return
    log.error(RAISED, role, name, type(error).__name__, then, exc_info=error)


def goes_on(error: BaseException) -> bool:
    """Return whether this is a signal that came while a user's function ran, and is raised soon all the same.

    From a turn of the event loop of its own, so that who has called the function loses nothing; at once without a loop.
    """
    if not isinstance(error, (KeyboardInterrupt, Terminated)):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False

    def go_on() -> None:
        raise error

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise error from None
    loop.call_soon(go_on)
    return True


def described(error: BaseException) -> tuple[str, str, str]:
    """Return type, text and traceback; a broken exception, too, has to reach the other side."""
    with contextlib.suppress(Exception):
        told = traceback.TracebackException.from_exception(error)  # the text of these can be had even if str() fails
        return str(type(error).__name__), str(told), "".join(told.format())
    return type(error).__name__, "(it cannot be shown)", ""


def name_of(callback: Callable[..., object]) -> str:
    """Return the name of a user's function in the log."""
    return getattr(callback, "__qualname__", None) or type(callback).__qualname__


def resolve_future(future: asyncio.Future[Any], outcome: Any) -> None:
    """Settle a future of any event loop, once, by a result or an exception."""

    def settle() -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    on_loop_of(future, settle)


def on_loop_of(future: asyncio.Future[Any], settle: Callable[[], object]) -> None:
    """Call a function on the future's loop: at once, or soon if called from elsewhere."""
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
