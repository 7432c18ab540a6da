"""What `Rig` reports while it works: progress and streams."""

from __future__ import annotations

import threading
from typing import Any

from rigsync.core.board import Board
from rigsync.core.calls import CALL
from rigsync.core.rigs import Room

RESERVED = {
    "progress": "use rig.progress(item, value, total, unit)",
    "stream": "use rig.add_stream(id, ...), rig.update_stream and rig.remove_stream",
    CALL: "use rig.call_coordinator(command, ...)",
    "status": "it tells each change of its status by itself; for more, use a topic of your own, or rig.progress",
}
"""Topics of notices that a rig tells by itself, and what to use instead."""


class RigBoard:
    """A rig's board. Write on it from any thread, at any time, also while the rig does not serve.

    Nothing here waits. A coordinator that connects is told what is on the board.

    Parameters
    ----------
    room : Room
        How large a notice may be.
    """

    def __init__(self, room: Room):
        # A signal handler can enter it again.
        self._board = Board(room, threading.RLock())

    def _wake(self) -> None:
        """Have the board sent soon, if the rig serves."""
        raise NotImplementedError

    def progress(self, item: str, value: float, total: float | None = None, unit: str | None = None) -> None:
        """Report how far something is, as often as you like: frames, bytes, trials.

        A call costs about a microsecond. At most ten values a second of each item are sent, and the last one always
        arrives. EXPINIT of another experiment clears all items.

        Parameters
        ----------
        item : str
            What it is, for instance ``left.mp4``: 1 to 100 characters, at most 1,024 items.
        value : int or float
            Where it stands.
        total : int or float, optional
            Where it will end.
        unit : str, optional
            What it is counted in, for instance ``B`` for bytes.

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong type, empty, too long, or not finite; or there are too many items.
        """
        if self._board.progress(item, value, total, unit):
            self._wake()

    def add_stream(self, id: str, **info: Any) -> None:
        """Show that the rig has a stream, such as a camera or a file that it writes.

        Each coordinator is told once, and in order, that it was added and removed.

        Parameters
        ----------
        id : str
            Its name: 1 to 100 characters, at most 1,024 streams.
        **info
            What there is to know of it; anything that can be sent. ``rigsync watch`` shows ``state``.

        Raises
        ------
        TypeError, ValueError
            The name is no text, empty, too long, or taken; or there are too many streams, or too much information.
        PayloadError, PayloadTooLarge
            The information cannot be sent.
        """
        if self._board.add_stream(id, info):
            self._wake()

    def update_stream(self, id: str, **info: Any) -> None:
        """Show what has changed of a stream, as often as you like; at most ten changes a second are sent.

        Parameters
        ----------
        id : str
            Its name.
        **info
            What has changed; the rest stays.

        Raises
        ------
        UnknownStream
            There is none of that name; the text names those that there are.
        PayloadError, PayloadTooLarge, ValueError
            The information cannot be sent.
        """
        if self._board.update_stream(id, info):
            self._wake()

    def remove_stream(self, id: str) -> None:
        """Show that a stream has ended; its last information is sent along.

        Parameters
        ----------
        id : str
            Its name.

        Raises
        ------
        UnknownStream
            There is none of that name; the text names those that there are.
        """
        if self._board.remove_stream(id):
            self._wake()
