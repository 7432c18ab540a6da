"""What `Rig` offers to report with while it works: progress and streams."""

from __future__ import annotations

import threading
from typing import Any

from rigsync.core.board import Board
from rigsync.core.rigs import Room

RESERVED = {
    "progress": "use rig.progress(item, value, total, unit)",
    "stream": "use rig.add_stream(id, ...), rig.update_stream and rig.remove_stream",
    "status": "it tells each change of its status by itself; for more, use a topic of your own, or rig.progress",
}
"""Topics of notices that a rig tells by itself, and what to do instead."""


class RigBoard:
    """A rig's board, to be written on from any thread, at any time, also while the rig does not serve.

    Nothing here waits. What is on the board when a coordinator connects is told to it.

    Parameters
    ----------
    room : Room
        How large a notice may be.
    """

    def __init__(self, room: Room):
        # One that a signal handler can enter again.
        self._board = Board(room, threading.RLock())

    def _wake(self) -> None:
        """Have the board sent, soon, if the rig serves."""
        raise NotImplementedError

    def progress(self, item: str, value: float, total: float | None = None, unit: str | None = None) -> None:
        """Report how far something is, as often as you like: frames, bytes, trials.

        It costs about a microsecond. At most ten values a second are sent of each item, and the last one always
        arrives. All items are forgotten when EXPINIT begins another experiment.

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
            One of these is of the wrong type, empty, too long, or not finite; or there are too many items.
        """
        if self._board.progress(item, value, total, unit):
            self._wake()

    def add_stream(self, id: str, **info: Any) -> None:
        """Show that the rig has a stream, such as a camera or a file that it writes.

        That it was added, and removed, is told to each coordinator once and in order.

        Parameters
        ----------
        id : str
            Its name: 1 to 100 characters, at most 1,024 streams.
        **info
            What there is to know of it, as far as it can be sent; ``state`` is shown by ``rigsync watch``.

        Raises
        ------
        TypeError, ValueError
            The name is no text, empty, too long, or taken; or there are too many streams, or too much is said of them.
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
        """Show that a stream is no more. Its last information is told with that.

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
