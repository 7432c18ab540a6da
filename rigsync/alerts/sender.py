"""What tells one alert: a thread of its own, so that an address that hangs holds up neither rigs nor other alerts."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from random import Random
from typing import Any

from rigsync.alerts import command, webhook
from rigsync.alerts.limits import Limit, NotSent
from rigsync.alerts.plan import Message, Plan
from rigsync.alerts.texts import values_of
from rigsync.alerts.watch import Happening
from rigsync.config.alerts import Alert, Desktop, Hook, Webhook
from rigsync.core.events import Event
from rigsync.errors import NotRunning
from rigsync.hub.events import AlertFailed, AlertSent

logger = logging.getLogger("rigsync.alerts")

LONGEST_REQUEST = 10.0
"""Seconds for a web address to answer."""
LONGEST_COMMAND = 30.0
"""Seconds for a command to end."""
MOST_WAITING = 1000
"""Most happenings that wait for the thread while it tells something; the rest are counted."""


def tell(alert: Alert, values: Mapping[str, Any], limit: Limit) -> None:
    """Tell somebody, and return when that is done; raise `NotSent` where it cannot be, or not within the limit."""
    if isinstance(alert.way, Webhook):
        webhook.tell(alert.way, values, limit)
    elif isinstance(alert.way, Hook):
        command.tell(alert.way, values, limit)
    else:
        command.show(values, limit)


def longest(alert: Alert) -> float:
    """Return the most seconds that one attempt takes."""
    return LONGEST_REQUEST if isinstance(alert.way, Webhook) else LONGEST_COMMAND


def problem_with(alert: Alert) -> str | None:
    """Return why an alert cannot be told on this computer as it is now; None where nothing is known against it."""
    if isinstance(alert.way, Desktop):
        return command.desktop_problem()
    if isinstance(alert.way, Hook):
        return command.problem_with(alert.way)
    try:
        webhook.url_of(alert.way)
    except NotSent as error:
        return str(error)
    return None


def trial(alert: Alert, limit: Limit) -> None:
    """Tell somebody that this is a test; errors as for `tell`."""
    happening = Happening(alert.on[0], (), "this is a test: nothing has happened", None)
    tell(alert, values_of(Message(alert.on[0], time.time(), 0.0, lines=[happening]), socket.gethostname()), limit)


class Sender:
    """Tells one alert, on a daemon thread.

    It is handed happenings by one thread, without a lock and without waiting.

    Parameters
    ----------
    alert : Alert
        Who is told of what.
    ingest : callable
        Takes the events that say what has become of an alert, from any thread.
    """

    def __init__(self, alert: Alert, ingest: Callable[[Event], None]):
        self._alert, self._ingest = alert, ingest
        self._host = socket.gethostname()
        self._plan = Plan(alert.on, Random())
        self._news: queue.SimpleQueue[tuple[Happening, float, float] | None] = queue.SimpleQueue()
        self._left_out = 0
        self._thread: threading.Thread | None = None
        self._limit: Limit | None = None
        self._end_by = math.inf
        self.ended: Future[None] = Future()
        """Done when the thread has ended, or none was begun."""
        self.ended.set_running_or_notify_cancel()  # whoever gives up waiting must not cancel it

    def offer(self, happening: Happening) -> None:
        """Hand over what has happened."""
        if self._end_by < math.inf:
            return
        if self._news.qsize() >= MOST_WAITING:
            self._left_out += 1
            return
        self._news.put((happening, time.monotonic(), time.time()))
        self.begin()

    def begin(self) -> None:
        """Have the thread run. A program that ends can begin none any more."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"rigsync-{self._alert.key}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system gives no more threads: the next happening tries again
                logger.error("%s: nobody is told for now: %s", self._alert.name, error)  # noqa: TRY400 - it says all
            else:
                self._thread = thread

    def end(self, seconds: float) -> None:
        """Have what waits tried once more, within some seconds, and no more; from any thread, without waiting."""
        if self._end_by == math.inf:
            self._end_by = time.monotonic() + seconds
            if self._thread is None:
                self._end()
            self._news.put(None)

    def cut(self) -> None:
        """End what is being told now; from any thread."""
        self._end_by = 0.0
        if limit := self._limit:
            limit.cut()

    # --------------------------------------------------------------------------------------------- on its thread

    def _run(self) -> None:
        try:
            while not self._take_news():
                self._tell_due()
            self._plan.end(time.monotonic())
            self._tell_due()
        except BaseException:
            logger.exception("%s: nobody is told any more", self._alert.name)
        finally:
            self._end()

    def _end(self) -> None:
        with contextlib.suppress(InvalidStateError):  # it was begun just as somebody has ended it
            self.ended.set_result(None)

    def _take_news(self) -> bool:
        """Wait until there is something to do; return whether this is the end."""
        due, is_last = self._plan.next_timer(), False
        wait = None if due == math.inf else max(0.0, due - time.monotonic())
        with contextlib.suppress(queue.Empty):
            news = self._news.get(timeout=wait)
            while True:
                if news is None:
                    is_last = True
                else:
                    self._plan.note(*news)
                news = self._news.get_nowait()
        left_out, self._left_out = self._left_out, 0
        if left_out:
            logger.error("%s: %d happenings came too fast and are not told", self._alert.name, left_out)
        return is_last

    def _tell_due(self) -> None:
        while message := self._plan.take(time.monotonic()):
            self._tell(message)

    def _tell(self, message: Message) -> None:
        limit = self._limit = Limit(min(longest(self._alert), self._end_by - time.monotonic()))
        try:
            if not limit.left:
                raise NotSent("the program has ended before", for_good=True)
            tell(self._alert, values_of(message, self._host), limit)
        except NotSent as error:
            self._note_failure(message, error)
        except Exception as error:
            logger.debug("%s", self._alert.name, exc_info=True)
            self._note_failure(message, NotSent(f"it cannot be told: {type(error).__name__}", for_good=True))
        else:
            self._plan.sent(message, time.monotonic())
            logger.info("%s: told %s: %s", self._alert.name, message.on, message.what)
            self._report(AlertSent(*self._about(message)))
        finally:
            self._limit = None

    def _note_failure(self, message: Message, error: NotSent) -> None:
        wait = self._plan.failed(message, time.monotonic(), error.for_good or self._end_by < math.inf)
        if wait is not None:
            text = "%s: %s; it is tried again in %.0f s: %s"
            logger.info(text, self._alert.name, error, wait, message.what)
            return
        times = f" after {message.tries} tries" if message.tries > 1 else ""
        text = "%s: nobody was told of %s%s: %s: %s"
        logger.error(text, self._alert.name, message.on, times, error, message.what)
        self._report(AlertFailed(*self._about(message), str(error)))

    def _about(self, message: Message) -> tuple[str, str, list[str], str | None, str, int, int]:
        told = message.exp_ref, message.what, message.held_back, message.tries
        return self._alert.name, message.on, message.rigs, *told

    def _report(self, event: Event) -> None:
        with contextlib.suppress(NotRunning):  # the hub has stopped; the log has it
            self._ingest(event)
