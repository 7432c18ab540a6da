"""A command in the foreground of this program's terminal. It does not outlive this program, however that ends.

Ctrl-C and Ctrl-Z reach it like any program: it has this program's process group, input and output. On Linux and macOS
a keeper (`rigsync.agent.keeper`) stands between the two. On Windows the command is in a job object.
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
            """Kill it and all that it has started: Windows has no gentler way."""
            terminate_job(self._job)
            self.wait()

else:
    from rigsync.agent import keeper

    class Foreground:
        """A command with a keeper; it runs when this is made.

        When this program is gone, the command and all that it has started are interrupted, terminated after 1 s, and
        killed after 1.5 s. (On macOS only the command itself.) On Linux they also end so if the keeper is killed, with
        this program or alone. What the command leaves behind when it ends by itself stays.

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
                        _KEEPER,
                        programs.KEEPER,
                        [number, "-"],
                        environment=environment,
                        mark=orphans.mark(os.getpid(), rig=""),
                        pass_fds=[number],
                    )
                mark = orphans.mark(self._keeper.pid, rig="")
                self._kept_by = mark.keeper if mark else ""
                with contextlib.suppress(ConnectionError):  # the keeper has ended
                    order = keeper.order(f"{orphans.MARK}={mark.text()}" if mark else "", "", list(command))
                    self._connection.sendall(order)
                line = self._line()
                if not line and (status := self._keeper.wait()) < 0:  # a Ctrl-C that came before it could ignore one
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

            If its keeper was killed, and so the command too, whatever the command had started is ended first.
            """
            line = self._line()
            if not line and self._kept_by:
                orphans.end(lambda: orphans.kept_by(self._kept_by))
            self._close()
            return int(line.split()[1]) if line else -signal.SIGKILL  # by the system, with its keeper

        def end(self, grace: float) -> None:
            """Terminate it and all that it has started; kill what is left after the grace (s)."""
            try:
                self._say(f"terminate {grace}")
                self.wait()
            except BaseException:  # a second signal means that there is no time
                self._say("kill 0")
                self.wait()
                raise

        def _say(self, line: str) -> None:
            with contextlib.suppress(OSError):  # it has ended
                self._connection.send(f"{line}\n".encode())
            self._keeper.send_signal(signal.SIGCONT)  # somebody may have stopped it

        def _line(self) -> str:
            """Return the keeper's next line; an empty one if it is gone."""
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
            self._watcher.release()  # what the command leaves behind now, it leaves by intention
