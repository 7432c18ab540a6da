"""A command with a keeper, on Linux and macOS."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rigsync._text import one_line
from rigsync.agent import keeper, orphans, programs
from rigsync.agent.programs import RefusedStart, Step

assert sys.platform != "win32"  # noqa: S101  # says to mypy too that this is for where there are keepers

_logger = logging.getLogger("rigsync.agent")

_KEEPER = Path(__file__).with_name("keeper.py")
_START_LIMIT = 10.0
"""Seconds for a command to begin. Some milliseconds are usual; a network drive may hang for longer."""
_GROUP_LIMIT = 1.0
"""Seconds for killed processes to be gone. If nobody reaps the dead, they stay for ever."""
_CHUNK = 65_536
_LATE_OUTPUT = 1 << 20
"""Most bytes that are read after the end: those in the pipe, and no more if somebody goes on writing."""


class KeptCommand:
    """A command with a keeper; it runs when this is made.

    Parameters
    ----------
    command : sequence of str, or str
        The program and its arguments, or a line for the shell.
    folder : str or None
        Where it runs; None for here.
    environment : mapping of str to str
        Added to that of this process.
    rig : str
        The rig, for its mark.

    Raises
    ------
    RefusedStart, OSError, ValueError
        It cannot be started.
    """

    def __init__(self, command: Sequence[str] | str, folder: str | None, environment: Mapping[str, str], rig: str):
        arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        self.keeper = ""
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as passed:
            self._connection, theirs = socket.socketpair()
            opened.callback(self._connection.close)
            passed.callback(theirs.close)
            self._output, write = os.pipe()
            opened.callback(os.close, self._output)
            passed.callback(os.close, write)
            numbers = [theirs.fileno(), self._output]
            self._keeper = programs.begin(
                _KEEPER,
                programs.KEEPER,
                numbers,
                environment=environment,
                mark=orphans.mark(os.getpid(), rig),
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=write,
                start_new_session=True,  # so that a Ctrl+C in the agent's terminal is the agent's alone
            )
            opened.callback(self._end_keeper)
            passed.close()  # or the end of the keeper would not be noticed
            os.set_blocking(self._output, False)
            mark = orphans.mark(self._keeper.pid, rig)
            self.keeper = mark.keeper if mark else ""
            order = keeper.order(f"{orphans.MARK}={mark.text()}" if mark else "", folder or "", arguments)
            self.pid = self._await_start(order)
            programs.ensure_watcher()
            opened.pop_all()

    def stop(self, step: Step, grace: float) -> None:
        """Begin to end it; do nothing if it has ended."""
        with contextlib.suppress(OSError):  # it has ended
            self._connection.send(f"{step} {grace}\n".encode())
        self._keeper.send_signal(signal.SIGCONT)  # somebody may have stopped it

    def run(self, read: Callable[[bytes], None]) -> tuple[int | None, int | None, Sequence[Step]]:
        """Pass on its output until nothing of it is left; return its status or signal, and the steps that were sent."""
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._connection, select.POLLIN)
        is_kept = True
        while is_kept:
            for descriptor, _ in poll.poll():
                if descriptor == self._output:
                    if self._pass_on(read) == 0:
                        poll.unregister(self._output)
                else:
                    is_kept = self._listen()
        self._keeper.wait()
        if not self._told:
            self._end_without_keeper(lambda: self._pass_on(read))
        left = _LATE_OUTPUT
        while left > 0 and (count := self._pass_on(read)):
            left -= count
        os.close(self._output)
        self._connection.close()
        if not self._told:
            return None, signal.SIGKILL, ()
        _, status, steps = self._told.decode().split()
        code = int(status)
        made: list[Any] = [] if steps == "-" else steps.split(",")
        return (code, None, made) if code >= 0 else (None, -code, made)

    def _await_start(self, order: bytes) -> int:
        """Tell the keeper what to run; return its pid once it runs."""
        self._told = b""
        self._connection.settimeout(_START_LIMIT)
        try:
            with contextlib.suppress(ConnectionError):  # the keeper has ended
                self._connection.sendall(order)
            while b"\n" not in self._told:
                if not self._listen():
                    said = os.read(self._output, _CHUNK).decode("utf-8", "replace")
                    raise OSError(f"{sys.executable} did not start: {one_line(said)}")
        except TimeoutError:
            raise OSError(f"it did not begin within {_START_LIMIT:.0f} s; is its drive reachable?") from None
        line, _, self._told = self._told.partition(b"\n")
        what, *details = line.decode().split()
        if what == "failed":
            raise RefusedStart(details[0], int(details[1]))
        return int(details[0])

    def _listen(self) -> bool:
        """Process what the keeper says; return whether it is still there."""
        try:
            said = self._connection.recv(_CHUNK)
        except ConnectionError:  # it has ended without reading all that it was told
            return False
        self._told += said
        return bool(said)

    def _pass_on(self, read: Callable[[bytes], None]) -> int | None:
        """Pass on some output; return its bytes: 0 at the end, None if there is none now."""
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return None
        if data:
            read(data)
        return len(data)

    def _end_keeper(self) -> None:
        self._connection.close()  # then it kills a command that hangs while it is being started
        try:
            self._keeper.wait(_GROUP_LIMIT)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
        if self._keeper.wait() < 0:
            self._end_orphans(limit=orphans.KILL_AFTER + _GROUP_LIMIT)

    def _end_without_keeper(self, meanwhile: Callable[[], object]) -> None:
        """End what the kernel has not killed together with the keeper; return when nothing is left."""
        _logger.error("the keeper of process %d was killed, and that process with it", self.pid)
        self._end_orphans(meanwhile=meanwhile)
        deadline = time.monotonic() + _GROUP_LIMIT
        with contextlib.suppress(OSError):  # macOS forbids signals to the dead
            while time.monotonic() < deadline:
                os.killpg(self.pid, signal.SIGKILL)
                time.sleep(0.01)

    def _end_orphans(self, **how: Any) -> None:
        if self.keeper:
            orphans.end(lambda: orphans.kept_by(self.keeper), **how)
