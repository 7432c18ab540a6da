"""Handing over what became of a push, once that is in the journal where it has to be."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass

from rigsync.core.events import PushCompleted, PushDecided
from rigsync.core.lifecycle import LIFECYCLE_MESSAGES
from rigsync.errors import NotRunning
from rigsync.journal.recorder import Recorder
from rigsync.journal.writer import LONGEST_WAIT


@dataclass(eq=False, slots=True)
class _Held:
    request_time: float
    function: Callable[[], object]
    late: asyncio.TimerHandle


class Settling:
    """Calls functions when the journal has what was told, in the order in which they came for each push.

    Parameters
    ----------
    recorder : Recorder, optional
        Who records. Without one, functions are called at once.
    on_loop : callable
        Calls a function on the event loop: now if this is its thread, else soon.
    """

    def __init__(self, recorder: Recorder | None, on_loop: Callable[..., object]):
        self._recorder, self._on_loop = recorder, on_loop
        self._held: dict[_Held, None] = {}
        self._is_closing = False

    def hand_over(self, event: PushCompleted | PushDecided, function: Callable[[], object]) -> None:
        """Call a function: now; after a step of an experiment, or a failure, when the journal has it, or in 1 s."""
        is_kept = event.failures or event.event in LIFECYCLE_MESSAGES
        if self._recorder is None or self._is_closing or not is_kept:
            function()
            return
        late = asyncio.get_running_loop().call_later(LONGEST_WAIT, self._give_up)
        held = _Held(event.request_time, function, late)
        self._held[held] = None
        self._recorder.when_safe(functools.partial(self._soon, held))

    def begin(self) -> None:
        """Wait for the journal from now on."""
        self._is_closing = False

    def close(self) -> None:
        """Call all that wait, for nobody will later, and wait no more."""
        self._is_closing = True
        self._flush()

    def _flush(self) -> None:
        for held in list(self._held):
            self._call(held)

    def _soon(self, held: _Held) -> None:
        with contextlib.suppress(NotRunning):  # closed, which has called it
            self._on_loop(self._call, held)

    def _give_up(self) -> None:
        """Wait for a disk that hangs no longer: an experiment goes on without its journal."""
        if self._recorder:
            self._recorder.note_slow()
        self._flush()

    def _call(self, held: _Held) -> None:
        for each in [other for other in self._held if other.request_time == held.request_time]:
            if each in self._held:
                del self._held[each]
                each.late.cancel()
                each.function()
            if each is held:
                break
