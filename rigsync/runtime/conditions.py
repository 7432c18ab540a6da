"""Conditions that answer to the protocols of both `threading.Condition` and `threading.Event`.

Task code uses ``connected`` and ``response_received`` in both ways, and the classes here serve both. They mend two
things that make a plain Condition unfit:

* To announce, a Condition needs the lock that its users hold. Here the service thread announces, and a user may stay
  within ``with aux.response_received:`` for minutes. So announcements take no lock. (A signal handler may also
  interrupt a thread that holds a lock, and wait itself. Nobody would ever release the lock.)
* A Condition forgets: whoever waits after the announcement has missed it. These classes remember.

`Awaited` is the same for one waiter: a `concurrent.futures.Future` without a lock.
"""

from __future__ import annotations

import functools
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

_Value = TypeVar("_Value")

_NO_LIMIT = threading.TIMEOUT_MAX / 2


def _comes(news: queue.SimpleQueue[None], timeout: float | None) -> bool:
    try:
        news.get(timeout=None if timeout is None else min(max(0.0, timeout), _NO_LIMIT))
    except queue.Empty:
        return False
    return True


class Awaited:
    """A value that one thread waits for and another one brings, without waiting itself.

    It holds no lock, since a signal handler may interrupt the waiting thread anywhere and wait itself.
    """

    __slots__ = ("_is_there", "_news", "_value")

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_there = False
        self._value: Any = None

    def bring(self, value: Any) -> None:
        """Bring the value, unless there is one."""
        if not self._is_there:
            self._value, self._is_there = value, True
            self._news.put(None)

    def is_there(self) -> bool:
        return self._is_there

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most so many seconds; return whether it is there."""
        if not self._is_there:
            _comes(self._news, timeout)
        return self._is_there

    def value(self) -> Any:
        """Return the value; None before it was brought."""
        return self._value


class _Announced(threading.Condition):
    """Base of `Latch` and `Arrivals`: announcements without a lock, and waiting for them."""

    # A Condition takes these from its lock for its own wait(). They are stable, but typeshed leaves them out.
    _is_owned: Callable[[], bool]
    _release_save: Callable[[], object]
    _acquire_restore: Callable[[object], None]

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[queue.SimpleQueue[None], bool] = {}  # in the order in which they began
        self._announcement = object()  # the newest; anything but the one that was seen is news

    def wait_for(self, predicate: Callable[[], _Value], timeout: float | None = None) -> _Value:
        """Wait until a predicate is true, some seconds at most; return its last value.

        It is called at once, and again whenever something happens; with the lock held if the caller holds it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            seen = self._state()  # before the predicate, or what happens meanwhile would be missed
            value = predicate()
            left = None if deadline is None else deadline - time.monotonic()
            if value or (left is not None and left <= 0):
                return value
            self._wait_until(functools.partial(self._differs_from, seen), left)

    def notify(self, n: int = 1) -> None:
        """Wake `n` waiters or a few more, holding the lock (else `RuntimeError`). The owner announces without it."""
        self._require_lock()
        self._announcement = object()
        self._wake_waiters(n)

    def notify_all(self) -> None:
        """Wake all waiters, holding the lock (else `RuntimeError`). The owner announces without it."""
        self._require_lock()
        self._announce()

    def _announce(self) -> None:
        self._announcement = object()
        self._wake_waiters()

    def _wake_waiters(self, most: float = math.inf) -> None:
        for waiter in tuple(self._waiting):  # a copy in one step: others come and go
            if most <= 0:
                break
            if self._waiting.pop(waiter, False):  # otherwise another thread has woken it
                waiter.put(None)
                most -= 1

    def _require_lock(self) -> None:
        if not self._is_owned():
            raise RuntimeError("cannot notify on un-acquired lock")

    def _state(self) -> object:
        return self._announcement

    def _differs_from(self, state: object) -> bool:
        return self._state() != state

    def _wait_until(self, happened: Callable[[], bool], timeout: float | None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        released = None
        try:
            while True:
                waiter: queue.SimpleQueue[None] = queue.SimpleQueue()
                self._waiting[waiter] = True  # before it looks, or what happens meanwhile would be missed
                if happened():
                    return True
                if released is None and self._is_owned():
                    # Whoever gets the user's lock next finds this thread waiting.
                    released = self._release_save()
                if not _comes(waiter, None if end is None else end - time.monotonic()):
                    return happened()
        finally:
            self._waiting.pop(waiter, None)
            if released is not None:
                self._acquire_restore(released)


class Latch(_Announced):
    """A state that is set or not, such as ``Auxiliaries.connected``.

    `wait` returns at once while it is set, so that a late waiter does not hang. Within ``with latch:`` it releases the
    lock meanwhile, as that of a Condition does. Otherwise it works like that of an Event.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False

    def set(self) -> None:
        """Set the latch and wake all waiters. Needs no lock and never blocks: for the owner, on any thread."""
        self._is_set = True
        self._announce()

    def unset(self) -> None:
        """Unset the latch. Needs no lock and never blocks: for the owner, on any thread."""
        self._is_set = False
        self._wake_waiters()  # threads in wait_for() look again, threads in wait() go on waiting

    def is_set(self) -> bool:
        """Return whether the latch is set."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the latch is set, or somebody notifies, some seconds at most; return whether that has happened."""
        before = self._announcement
        return self._wait_until(lambda: self._is_set or self._announcement is not before, timeout)

    def _state(self) -> object:
        return self._announcement, self._is_set


class Arrivals(_Announced):
    """A count of announcements, such as ``Auxiliaries.response_received``.

    Each thread has seen the announcements up to some point, at first none. `wait` returns at once if there are more. So
    a thread does not miss a response between request and wait, and does not take it from another thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first = self._announcement
        self._seen = threading.local()

    def announce(self) -> None:
        """Count an announcement and wake all waiters. Needs no lock and never blocks: for the owner, on any thread."""
        self._announce()

    def mark(self) -> None:
        """Mark all announcements as seen by the calling thread, before it asks for something new."""
        self._seen.announcement = self._announcement

    def clear(self) -> None:
        """Do as `mark` does, under the name that an Event has for it. Other threads do not notice."""
        self.mark()

    def is_set(self) -> bool:
        """Return whether the calling thread has not seen every announcement, so that `wait` would return at once."""
        return self._announcement is not getattr(self._seen, "announcement", self._first)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for an announcement that the calling thread has not seen, some seconds at most; then mark all as seen.

        False if the time is out.
        """
        announced = self._wait_until(self.is_set, timeout)
        if announced:
            self.mark()
        return announced

    def notify(self, n: int = 1) -> None:
        """Announce in place of the owner. All waiters wake, whatever `n` is: an announcement is for everybody."""
        self.notify_all()
