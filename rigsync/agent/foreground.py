"""A command in the foreground of this program's terminal, which does not outlive this program, however that ends.

Ctrl-C and Ctrl-Z reach it as they reach any program: it is in this program's process group, with its input and output.
On Linux and macOS its keeper (`rigsync.agent.keeper`) stands between, on Windows it is in a job object.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rigsync.agent import orphans, programs

_KEEPER = Path(__file__).with_name("keeper.py")


if sys.platform == "win32":
    from rigsync.agent.windows_job import close_job, start_in_job, terminate_job

    class Foreground:
        """A command in a job object."""

        def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
            self._process, self._job = start_in_job(list(command), env={**os.environ, **environment})

        def wait(self) -> int:
            """Wait until it has ended; return its exit status."""
            status = self._process.wait()
            close_job(self._job)
            return status

        def end(self, grace: float) -> None:
            """End it with all that it has started: there is nothing gentle that a program on Windows could be sent."""
            terminate_job(self._job)
            self.wait()

else:
    from rigsync.agent import keeper

    class Foreground:
        """A command with a keeper; it runs when this is made.

        When this program is gone, it and all that it has started are interrupted, after 1 s terminated, after 1.5 s
        killed. (On macOS it alone is.) On Linux what it has started ends so too where the keeper is killed, with this
        program or alone. What it leaves behind when it ends by itself is left.

        Parameters
        ----------
        command : sequence of str
            The program and its arguments.
        environment : mapping of str to str
            Added to that of this process.

        Raises
        ------
        OSError
            It cannot be run.
        """

        def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
            self._connection, theirs = socket.socketpair()
            self._told = b""
            self._watcher = programs.Watcher()
            try:
                with theirs:
                    number = theirs.fileno()
                    self._keeper = programs.begin(
                        _KEEPER, programs.KEEPER, [number, "-"], environment=environment, pass_fds=[number]
                    )
                mark = orphans.mark(self._keeper.pid, rig="")
                self._kept_by = mark.keeper if mark else ""
                with contextlib.suppress(ConnectionError):  # the keeper has ended
                    order = keeper.order(f"{orphans.MARK}={mark.text()}" if mark else "", "", list(command))
                    self._connection.sendall(order)
                line = self._line()
                if not line and (status := self._keeper.wait()) < 0:  # a Ctrl-C that came before it could ignore that
                    line, self._told = "started", f"ended {status}\n".encode()
                what, *details = line.split() or ["failed", "keeper", "0"]
            except BaseException:
                self._connection.close()
                self._watcher.close()
                raise
            if what == "failed":
                self._close()
                number = int(details[1])
                raise OSError(number, os.strerror(number) if number else f"{sys.executable} did not start")

        def wait(self) -> int:
            """Wait until it has ended; return its exit status, or the number of a signal, negative.

            Where its keeper was killed, which kills it too, what it has started is ended first.
            """
            line = self._line()
            if not line and self._kept_by:
                orphans.end(lambda: orphans.kept_by(self._kept_by))
            self._close()
            return int(line.split()[1]) if line else -signal.SIGKILL  # by the system, with its keeper

        def end(self, grace: float) -> None:
            """Terminate it and all that it has started, wait, and kill what is left after the grace (s)."""
            try:
                self._say(f"terminate {grace}")
                self.wait()
            except BaseException:  # a second signal says that there is no time
                self._say("kill 0")
                self.wait()
                raise

        def _say(self, line: str) -> None:
            with contextlib.suppress(OSError):  # it has ended
                self._connection.send(f"{line}\n".encode())

        def _line(self) -> str:
            """Return the next line of the keeper, an empty one where it is gone."""
            while b"\n" not in self._told:
                try:
                    said = self._connection.recv(4096)
                except OSError:  # it has ended without reading all that it was told
                    return ""
                if not said:
                    return ""
                self._told += said
            line, _, self._told = self._told.partition(b"\n")
            return line.decode()

        def _close(self) -> None:
            self._connection.close()
            self._keeper.wait()
            self._watcher.release()  # what is left behind now is left by intention
