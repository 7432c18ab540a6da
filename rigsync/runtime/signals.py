"""Signals that end a program: they wait while what must not be cut short goes on, and then they are obeyed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import Any, ClassVar

from rigsync.runtime.console_window import watch_console_window


def ending_signals() -> list[int]:
    """Return the signals, beside Ctrl-C, that end a program which does not handle them.

    SIGHUP says that the terminal is gone; SIGBREAK is what Windows has in place of SIGTERM.
    """
    return [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


@contextlib.contextmanager
def signals_held_back() -> Iterator[list[int]]:
    """Hold back Ctrl-C and requests to end until the context is left, for what takes a bounded time.

    Gives the list of those that have come; those that are in it at the end are obeyed.
    """
    came: list[int] = []
    try:
        with signals_handled(lambda number, _: came.append(number), signal.SIGINT, *ending_signals()):
            yield came
    finally:
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def signals_handled(
    handler: Callable[[int, FrameType | None], Any], *numbers: int, even_ignored: Collection[int] = ()
) -> Iterator[None]:
    """Let a function handle signals until the context is left. Ignored ones stay ignored, as after `nohup`.

    Those in `even_ignored` are handled all the same. On another thread than the main one, which no signal interrupts,
    it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in numbers if number in even_ignored or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    watch_console_window()
    try:
        yield
    finally:
        for number, former in before.items():
            # None is a handler that Python has not installed and cannot put back.
            signal.signal(number, signal.SIG_DFL if former is None else former)


class Terminated(SystemExit):
    """A signal ends the program in the middle of an experiment; the exit status is 128 plus its number."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name

    def __str__(self) -> str:
        return f"{self.name} ended the program"


class EndingSignals:
    """Makes signals that end a program raise `Terminated`, so that it leaves its `with`; on the main thread only.

    These signals, and Ctrl-C, wait while rigs are being stopped. Nested experiments wait for each other. On an event
    loop, a task has to end, not whatever runs: `end` is called with the `Terminated`, or the KeyboardInterrupt, in
    place of raising it, and returns whether the task will.
    """

    _open: ClassVar[dict[EndingSignals, None]] = {}
    """Those that have taken over and not given back, the first first. They need not end in the reverse order."""

    _holding: ClassVar[dict[EndingSignals, bool]] = {}
    """Those that hold signals back; whether Ctrl-C is held back too."""
    _held: ClassVar[list[int]] = []

    def __init__(self, end: Callable[[Terminated | KeyboardInterrupt], bool] | None = None) -> None:
        self._end = end
        self.holds_ctrl_c = False
        """Whether Ctrl-C has to wait, and what comes to a task in its place: its cancellation."""
        self._before: dict[int, Any] = {}
        self._due: list[int] = []
        self._process = os.getpid()

    def take_over(self) -> None:
        """Handle Ctrl-C if it is Python's, and those signals that the program leaves to the system."""
        if threading.current_thread() is threading.main_thread():
            for other in [other for other in (*self._open, *self._holding) if other._process != self._process]:
                self._open.pop(other, None)  # it was left to the process of which this is a fork
                self._holding.pop(other, None)
            self._open[self] = None
            for number in (signal.SIGINT, *ending_signals()):
                usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                handler = signal.getsignal(number)
                owner = getattr(handler, "__self__", None)
                if handler is usual or (isinstance(owner, EndingSignals) and owner._process != self._process):
                    self._before[number] = usual
                    signal.signal(number, self._handle)
            watch_console_window()

    def hold(self, *, ctrl_c: bool) -> None:
        """Hold back signals from now on."""
        self.holds_ctrl_c = ctrl_c
        if threading.current_thread() is threading.main_thread():
            self._holding[self] = ctrl_c

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process and number != signal.SIGINT:  # a fork, which has no rigs to stop
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif any(self._holding.values()) if number == signal.SIGINT else self._holding:
            self._held.append(number)
        else:
            error = KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
            for each in list(self._open):
                if each._end is None:
                    break
                if each._end(error):  # the event loop cancels the other tasks when this one ends the program
                    return
            raise error

    def give_back(self) -> None:
        """Leave signals to the system again, except those that the program has taken meanwhile; hold none back."""
        self.holds_ctrl_c = False
        self._open.pop(self, None)
        # Another thread cannot do that: the experiment was entered on the main thread and left on another.
        is_main = threading.current_thread() is threading.main_thread()
        for number, handler in self._before.items() if is_main else ():
            if signal.getsignal(number) == self._handle:
                if heir := next(iter(self._open), None):  # another task's experiment goes on
                    heir._before[number] = handler
                signal.signal(number, heir._handle if heir else handler)
        self._before.clear()
        if self._holding.pop(self, None) is not None and not self._holding:
            self._due = self._held.copy()
            self._held.clear()

    def act(self, error: BaseException | None) -> None:
        """Obey the signals that were held back, unless the program is ending anyway."""
        if isinstance(error, Terminated):
            return
        for number in self._due:
            if number != signal.SIGINT:
                raise Terminated(number)
        if self._due and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt
