"""Commands with a keeper, on Linux and macOS."""

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
NICE = 10
"""The priority of a command that gives way, as nice(1) has it: a tenth of a core beside one that does not. On Linux
schedulers of disks go by it too."""
_LATE_OUTPUT = 1 << 20
"""Most bytes that are read after the end: those in the pipe, and no more if somebody goes on writing."""


class _Kept:
    """A keeper, and what it says of its command. `keeper` is its identity; empty where marks cannot be found."""

    def __init__(self, environment: Mapping[str, str], rig: str, output: int | None, **options: Any):
        self.keeper = ""
        self._rig, self._told = rig, b""
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:  # or the end of the keeper would not be noticed
                arguments = [theirs.fileno(), "-" if output is None else output]
                self._process = programs.begin(
                    _KEEPER,
                    programs.KEEPER,
                    arguments,
                    environment=environment,
                    mark=orphans.mark(os.getpid(), rig),
                    pass_fds=[number for number in arguments if isinstance(number, int)],
                    **options,
                )
        except BaseException:
            self._connection.close()
            raise

    def _run(self, command: Sequence[str], folder: str = "") -> str:
        """Tell the keeper what to run; return what it answers, nothing if it is gone."""
        mark = orphans.mark(self._process.pid, self._rig)
        self.keeper = mark.keeper if mark else ""
        order = keeper.order(f"{orphans.MARK}={mark.text()}" if mark else "", folder, list(command))
        with contextlib.suppress(ConnectionError):  # the keeper has ended
            self._connection.sendall(order)
        return self._line()

    def _line(self) -> str:
        """Return the keeper's next line; an empty one if it is gone."""
        while b"\n" not in self._told:
            if not self._listen():
                return ""
        line, _, self._told = self._told.partition(b"\n")
        return line.decode()

    def _listen(self) -> bool:
        """Process what the keeper says; return whether it is still there."""
        try:
            said = self._connection.recv(_CHUNK)
        except ConnectionError:  # it has ended without reading all that it was told
            return False
        self._told += said
        return bool(said)

    def stop(self, step: Step, grace: float) -> None:
        """Begin to end the command; do nothing if it has ended."""
        with contextlib.suppress(OSError):  # it has ended
            self._connection.send(f"{step} {grace}\n".encode())
        self._process.send_signal(signal.SIGCONT)  # somebody may have stopped it

    def _give_up(self) -> None:
        """End the keeper of a command that does not run."""
        self._connection.close()  # then it kills a command that hangs while it is being started
        try:
            self._process.wait(_GROUP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
        if self._process.wait() < 0:
            self._end_orphans(limit=orphans.KILL_AFTER + _GROUP_LIMIT)

    def _end_orphans(self, **how: Any) -> None:
        """End what the kernel has not killed together with the keeper."""
        if self.keeper:
            orphans.end(lambda: orphans.kept_by(self.keeper), **how)


class KeptCommand(_Kept):
    """A command whose output is passed on; text is a line for the shell. It runs when this is made.

    Raises
    ------
    RefusedStart, OSError, ValueError
        It cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str] | str,
        folder: str | None,
        environment: Mapping[str, str],
        rig: str,
        gives_way: bool = False,
    ):
        arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        with contextlib.ExitStack() as opened:
            self._output, write = os.pipe()
            opened.callback(os.close, self._output)
            try:
                super().__init__(
                    environment,
                    rig,
                    self._output,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=write,
                    start_new_session=True,  # so that a Ctrl+C in the agent's terminal is the agent's alone
                )
            finally:
                os.close(write)
            opened.callback(self._give_up)
            os.set_blocking(self._output, False)
            self._connection.settimeout(_START_LIMIT)
            try:
                line = self._run(arguments, folder or "")
            except TimeoutError:
                raise OSError(f"it did not begin within {_START_LIMIT:.0f} s; is its drive reachable?") from None
            if not line:
                said = os.read(self._output, _CHUNK).decode("utf-8", "replace")
                raise OSError(f"{sys.executable} did not start: {one_line(said)}")
            what, *details = line.split()
            if what == "failed":
                raise RefusedStart(details[0], int(details[1]))
            self.pid = int(details[0])
            if gives_way:
                _give_way(self.pid)
            programs.ensure_watcher()
            opened.pop_all()

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
        self._process.wait()
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

    def _pass_on(self, read: Callable[[bytes], None]) -> int | None:
        """Pass on some output; return its bytes: 0 at the end, None if there is none now."""
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return None
        if data:
            read(data)
        return len(data)

    def _end_without_keeper(self, meanwhile: Callable[[], object]) -> None:
        """Return when nothing is left of a command whose keeper was killed."""
        _logger.error("the keeper of process %d was killed, and that process with it", self.pid)
        self._end_orphans(meanwhile=meanwhile)
        deadline = time.monotonic() + _GROUP_LIMIT
        with contextlib.suppress(OSError):  # macOS forbids signals to the dead
            while time.monotonic() < deadline:
                os.killpg(self.pid, signal.SIGKILL)
                time.sleep(0.01)


def _give_way(pid: int) -> None:
    """Have a command give way to others, with all that it starts, unless it has ended already."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, pid, NICE)
    if sys.platform == "linux":  # where a session may count as one (sched(7), the autogroup feature)
        with contextlib.suppress(OSError), open(f"/proc/{pid}/autogroup", "w") as file:
            file.write(str(NICE))


class Foreground(_Kept):
    """A command in the foreground of this program's terminal. It runs when this is made.

    When this program is gone, the command and all that it has started are interrupted, terminated after 1 s, and killed
    after 1.5 s. (On macOS only the command itself.) On Linux they also end so if the keeper is killed, with this
    program or alone. What the command leaves behind when it ends by itself stays.

    Raises
    ------
    OSError
        It cannot be run.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        with contextlib.ExitStack() as opened:
            self._watcher = programs.Watcher()
            opened.callback(self._watcher.close)
            super().__init__(environment, "", None)
            opened.callback(self._give_up)
            line = self._run(command)
            if not line and (status := self._process.wait()) < 0:  # a Ctrl-C that came before it could ignore one
                line, self._told = "started", f"ended {status}\n".encode()
            if not line:
                raise OSError(f"{sys.executable} did not start")
            what, *details = line.split()
            if what == "failed":
                number = int(details[1])
                raise OSError(number, os.strerror(number))
            opened.pop_all()

    def wait(self) -> int:
        """Wait until it has ended; return its exit status, or the number of a signal, negative.

        If its keeper was killed, and so the command too, whatever the command had started is ended first.
        """
        line = self._line()
        if not line:
            self._end_orphans()
        self._connection.close()
        self._process.wait()
        self._watcher.release()  # what the command leaves behind now, it leaves by intention
        return int(line.split()[1]) if line else -signal.SIGKILL  # by the system, with its keeper

    def end(self, grace: float) -> None:
        """Terminate it and all that it has started; kill what is left after the grace (s)."""
        try:
            self.stop("terminate", grace)
            self.wait()
        except BaseException:  # a second signal means that there is no time
            self.stop("kill", 0)
            self.wait()
            raise
