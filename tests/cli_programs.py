"""The command `rigsync`: as a process of its own, and in this one, where no more than its output is asked for."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from unittest import mock

import psutil
import pytest
from processes import LONG, ROOT, calm

from rigsync import cli


@dataclass(frozen=True)
class Outcome:
    """What a finished command has left."""

    status: int
    out: str
    err: str


class Command:
    """`rigsync` with arguments, running; on leaving the context it is killed if it has not ended.

    Parameters
    ----------
    arguments : list of str
        What follows ``rigsync`` on the command line.
    cwd : Path
        The working directory.
    env : dict of str to str
        The environment.
    stdout : file or descriptor, optional
        Where its output goes instead of a pipe.
    redirection : str, optional
        What stands behind it in the shell that starts it then, for instance ``>&-``.
    before : list of str
        What stands before it on the command line, for instance ``ip netns exec name``.
    stdin : file or descriptor, optional
        What its input is instead of a pipe.
    lasts : float
        Seconds after which it hangs, and is killed.
    """

    def __init__(
        self,
        arguments: list[str],
        cwd: Path,
        env: dict[str, str],
        stdout: Any = subprocess.PIPE,
        redirection: str = "",
        before: Sequence[str] = (),
        stdin: Any = subprocess.PIPE,
        lasts: float = 4 * LONG,  # a rig has to last as long as the test that uses it, on a busy computer too
    ):
        shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"] if redirection else []
        self.process = subprocess.Popen(
            [*shell, *before, sys.executable, "-m", "rigsync", *arguments],
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self._watchdog = threading.Timer(lasts, self.process.kill)
        self._watchdog.start()

    def line(self, beginning: str = "") -> str:
        """Return the next line of its output that begins so, without its end."""
        for line in _pipe(self.process.stdout):
            if line.startswith(beginning):
                return line.rstrip("\n")
        raise AssertionError(f"no line that begins with {beginning!r}: {_pipe(self.process.stderr).read()}")

    def error_line(self) -> str:
        """Return the next line on its stderr."""
        return _pipe(self.process.stderr).readline().rstrip("\n")

    def interrupt(self) -> None:
        """Do as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def children(self) -> list[psutil.Process]:
        """Return the processes that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def outcome(self) -> Outcome:
        """Wait for its end; return the rest of what it says."""
        out = self.process.stdout.read() if self.process.stdout else ""
        err = calm(_pipe(self.process.stderr).read())
        return Outcome(self.process.wait(), out, err)

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._watchdog.cancel()
        self._watchdog.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe
    return pipe


def run_here(arguments: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Outcome:
    """Run a command to its end in this process, by the function that a process of its own would run.

    What it prints, where, and its exit status are the same, and no Python has to start and load modules, which takes
    longer than most commands. Signals, closed streams, terminals and what is left behind need a process of its own.
    """
    logger, rigs, before = logging.getLogger("rigsync"), logging.getLogger("rigsync.rig"), os.getcwd()
    waits = logging.getLogger("rigsync.wait")
    with contextlib.ExitStack() as stack:
        temporary = functools.partial(tempfile.TemporaryFile, "w+", encoding=env.get("PYTHONIOENCODING", "utf-8"))
        out, err = (stack.enter_context(temporary(errors=errors)) for errors in ("strict", "backslashreplace"))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(mock.patch.object(sys, "stdin", stack.enter_context(open(os.devnull))))
        stack.enter_context(mock.patch.object(sys, "argv", ["rigsync", *arguments]))
        stack.enter_context(mock.patch.dict(os.environ, env, clear=True))
        stack.enter_context(mock.patch.object(gc, "freeze"))  # it would keep what tests leave from being found
        stack.enter_context(mock.patch.object(rigs, "disabled", True))  # a rig of this process is not the command
        stack.callback(setattr, logger, "handlers", logger.handlers.copy())
        stack.callback(logger.setLevel, logger.level)
        stack.callback(waits.setLevel, waits.level)
        stack.callback(logging.disable, logging.root.manager.disable)
        stack.callback(os.chdir, before)
        os.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out.seek(0)
        err.seek(0)
        return Outcome(ended.value.code, out.read(), calm(err.read()))


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment in which no file of rigs is to be found, and with what is given besides."""
    foreign = ("RIGSYNC_RIGS", "XDG_CONFIG_HOME", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    inherited = {name: value for name, value in os.environ.items() if name not in foreign}
    folders = {"HOME": str(home), "USERPROFILE": str(home), "APPDATA": str(home / "appdata")}
    return {**inherited, **folders, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **more}


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process has ended; one that nobody has fetched the exit status of counts."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def still_there(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Return which processes have not ended after so many seconds; whoever adopts the dead may take its time."""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while left and time.monotonic() < deadline:
        time.sleep(0.01)
        left = [process for process in left if not has_ended(process)]
    return left
