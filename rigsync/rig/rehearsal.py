"""A rehearsal on a rig in Python: a function in EXPINIT's place, and a folder that is removed in the end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, overload

from rigsync.core.answers import Identity
from rigsync.core.enums import ExpMessage
from rigsync.core.lifecycle import LIFECYCLE_MESSAGES, named_reference, rehearses
from rigsync.core.messages import Verb
from rigsync.rig.handlers import Function, Handler, RigHandlers, check_brings

logger = logging.getLogger("rigsync.rig")


class RigRehearsals(RigHandlers):
    """What a rig's program does in a rehearsal."""

    _identity: Identity
    _rehearsal: _Rehearsal | None = None

    @property
    def is_running(self) -> bool:
        """Whether it serves."""
        raise NotImplementedError

    @overload
    def rehearsal(self, folder: str | None = None, /) -> Callable[[Function], Function]: ...

    @overload
    def rehearsal(self, folder: Function, /) -> Function: ...

    def rehearsal(self, folder: Any = None, /) -> Any:
        """Decorate the function that takes EXPINIT's place in a rehearsal: ``@rig.rehearsal``.

        It is called with ``exp_ref, data, folder``, or as many of them as it takes. `folder` is a new one that nobody
        else uses: what is recorded has to go there. The handlers of EXPINIT do not run. Those of the other messages do.
        The folder is removed before the handlers of EXPCLEANUP, after those of EXPINTERRUPT, and when the rig closes.

        What its files have grown by between EXPSTART and EXPEND, and the free space of its disk, is the rig's share in
        what `Auxiliaries.rehearse` tells.

        Parameters
        ----------
        folder : str, optional
            Where these folders are made, ``@rig.rehearsal("D:/scratch")``: best on the disk that takes the real
            recordings. The system's folder for temporary files by default.

        Raises
        ------
        TypeError
            The decorated object is no function, or needs more than a rehearsal brings.
        ValueError
            The rig has one already.
        RuntimeError
            The rig serves already.
        """
        if callable(folder):
            return self.rehearsal()(folder)

        def register(function: Function) -> Function:
            if not callable(function):
                raise TypeError(f"a rehearsal is done by a function, not by {type(function).__name__}")
            if self._rehearsal:
                raise ValueError(f"rig {self.name} has a function for rehearsals already")
            if self.is_running:
                raise RuntimeError(f"rig {self.name} serves already; write @rig.rehearsal before it is started")
            check_brings(function, "a rehearsal", ("exp_ref", "data", "folder"))
            self._rehearsal = _Rehearsal(self.name, function, folder)
            self._identity = dataclasses.replace(self._identity, rehearses=True)
            for event in LIFECYCLE_MESSAGES:  # at which something is done now
                self._handlers.setdefault(event, [])
            return function

        return register

    def _handlers_for(self, event: Verb, args: list[Any]) -> Sequence[Handler]:
        usual = super()._handlers_for(event, args)
        return self._rehearsal.handlers(event, args, usual) if self._rehearsal else usual

    def _end_rehearsal(self) -> None:
        """Remove what a rehearsal has left, for the rig closes."""
        if self._rehearsal:
            self._rehearsal.remove_at_last()


class _Rehearsal:
    def __init__(self, rig: str, function: Callable[..., Any], parent: str | None):
        self._rig, self._parent, self._begin = rig, parent, Handler.of(function)
        self._folder: str | None = None
        self._mark = self._recorded = 0.0
        """When it began to record, in monotonic seconds, and how long it has recorded."""
        self._size = 0
        """Bytes in the folder when it began to record."""

    def handlers(self, event: Verb, args: list[Any], usual: Sequence[Handler]) -> Sequence[Handler]:
        """Return what a message runs, in place of the usual handlers."""
        remove, remove_at_last = _own(self._remove), _own(self.remove_at_last)
        if event is ExpMessage.EXPINIT:
            begin = Handler(self._begun, 1, self._begin.is_coroutine)
            return [remove_at_last, *([begin] if rehearses(event, args) else usual)]
        if not self._folder:
            return usual
        around: dict[Verb, list[Handler]] = {
            ExpMessage.EXPSTART: [*usual, _own(self._note_start)],
            ExpMessage.EXPEND: [_own(self._note_end), *usual, _own(self._proof)],
            ExpMessage.EXPINTERRUPT: [*usual, remove],
            # Before too: what moves files to a server must not find these.
            ExpMessage.EXPCLEANUP: [remove, *usual, remove_at_last],
        }
        return around.get(event, usual)

    def remove_at_last(self) -> None:
        """Remove the folder, or tell that it stays."""
        self._remove()
        folder, self._folder = self._folder, None
        if folder:
            logger.warning("%s: the folder %s of a rehearsal cannot be removed; delete it", self._rig, folder)

    def _remove(self) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)  # on Windows not what is still open
            if not os.path.exists(self._folder):
                self._folder = None

    def _begun(self, data: Any = None) -> Any:
        self._folder = tempfile.mkdtemp(prefix="rigsync-rehearsal-", dir=self._parent)
        with contextlib.ExitStack() as stack:
            stack.callback(self.remove_at_last)
            returned = self._begin((named_reference(ExpMessage.EXPINIT, [data]), data, self._folder))
            stack.pop_all()
        return self._awaited(returned) if self._begin.is_coroutine else returned

    async def _awaited(self, returned: Awaitable[Any]) -> Any:
        with contextlib.ExitStack() as stack:
            stack.callback(self.remove_at_last)
            result = await returned
            stack.pop_all()
        return result

    def _note_start(self) -> None:
        self._size, self._mark = _size(self._folder), time.monotonic()

    def _note_end(self) -> None:
        self._recorded = time.monotonic() - self._mark

    def _proof(self) -> dict[str, Any]:
        grew = _size(self._folder) - self._size
        free = shutil.disk_usage(self._folder or ".").free
        return {"rehearsal": {"grew": grew, "seconds": self._recorded, "free": free}}


def _own(function: Callable[[], Any]) -> Handler:
    return Handler(function, 0, is_coroutine=False)


def _size(folder: str | None) -> int:
    """Return the bytes of all files in a folder."""
    size = 0
    for path, _, names in os.walk(folder or ""):
        for name in names:
            with contextlib.suppress(OSError):  # gone since
                size += os.stat(os.path.join(path, name)).st_size
    return size
