"""A command as the agent's child in every sense: it and all that it starts end with it, and with the agent.

An agent that is killed can end nothing. So on Linux and macOS a small program of its own runs each command: the keeper
(`rigsync.agent.keeper`). On Windows a job object does its work (`rigsync.agent.windows_job`). Neither needs an event
loop: on Windows rigs have selector loops, which know no processes.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rigsync._text import one_line
from rigsync.agent import orphans
from rigsync.agent.output import Output
from rigsync.agent.programs import RefusedStart, Step
from rigsync.errors import RigsyncError

if sys.platform == "win32":
    from rigsync.agent.windows_job import JobCommand as _Child
else:
    from rigsync.agent.kept_command import KeptCommand as _Child

_logger = logging.getLogger("rigsync.agent")

How = Literal["by itself", "interrupt", "terminate", "kill"]

LONGEST_NAME = 40
"""Characters of a line for the shell by which it is called where it runs no program."""
_BEFORE_COMMAND = re.compile(
    r"!|[{}]|\w+=.*|if|then|elif|else|while|until|do|exec|command|env|nohup|time|sudo|nice", re.DOTALL
)
"""Words of a shell behind which that word comes which says what is run."""
_NO_PROGRAM = re.compile(
    r"[.:]|\[\[?|alias|break|case|cd|continue|declare|done|echo|esac|eval|exit|export|false|fi|for|function|local|"
    r"printf|pwd|read|return|select|set|shift|source|test|trap|true|type|ulimit|umask|unset|wait"
)
"""What a shell does itself."""
STEADY, AT_ONCE = 1 << 20, 4 << 20
"""Bytes of output a second that become lines, and how many of these at once. Output holds up neither the command nor
the agent: what is beyond is left out, and counted."""
_COST = 200
"""Bytes that each line counts besides: empty lines take time too."""

_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS")


class ProgramError(RigsyncError, OSError):
    """A command that cannot be started: its program or folder is missing, or the program may not be run."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended."""

    status: int | None
    """Its exit status; None if a signal ended it."""
    signal: str | None
    """The name of the signal that ended it, for instance ``SIGKILL``."""
    how: How
    """The last step by which it, or something that it had started, was told to end."""
    last_lines: tuple[str, ...] = ()
    """Its last output, at most 20 lines, fit for a message. Of lines that overwrite each other it has only the last."""
    ignored: tuple[Step, ...] = ()
    """Earlier steps, which did not end it."""

    def described(self) -> str:
        """Return how it ended, as the end of a sentence about the command."""
        code = f"exit status {self.status}" if self.signal is None else self.signal
        if self.how == "by itself":
            if self.signal in _CRASHES:
                return f"crashed with {self.signal}"
            if self.signal == "SIGKILL":
                return "was killed from outside (by hand, or for want of memory: see the system's log)"
            if self.signal:
                return f"was ended from outside by {self.signal}"
            return f"ended by itself with {code}"
        after = f" after it ignored {' and '.join(self.ignored)}" if self.ignored else ""
        if self.how == "kill":
            return f"was killed{after}"
        done = "was interrupted" if self.how == "interrupt" else "was terminated"
        return f"{done}{after} and {'crashed' if self.signal in _CRASHES else 'ended'} with {code}"


class Process:
    """A command that runs until it ends by itself or is stopped; text is a line for the shell. Works from any thread.

    Its standard input is empty. When its main process ends, the rest of its process group is told to terminate, and
    killed after 1 s. On Linux that includes processes that have left the group.

    `on_line` is called with each line of its output, standard and error alike, without the line end, and `on_exit`
    once, when nothing of it is left and all its lines were passed on. Both are called on the command's own thread.
    Until they return, no more is read, and in the end the command waits. A carriage return ends a line too, since
    programs report progress so. Lines are cut after 4 KiB, and bytes that are no UTF-8 are replaced. Of more than a
    megabyte a second, most lines are left out, and a line says how many.

    If this program and all that cleans up after it are killed, the next agent with the name of `rig` ends the rest.
    With `gives_way` it runs with a low priority.
    """

    def __init__(
        self,
        command: Sequence[str] | str,
        *,
        folder: str | None,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        on_exit: Callable[[Exit], None],
        rig: str = "",
        gives_way: bool = False,
    ):
        if not command:
            raise ValueError("the command is empty")
        self._command, self._folder, self._environment = command, folder, dict(environment)
        self._rig, self._gives_way = rig, gives_way
        self._on_line, self._on_exit = on_line, on_exit
        self._output = Output()
        self._room: float = AT_ONCE
        self._read_at = 0.0
        self._left_out = 0
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._early: list[tuple[Step, float]] = []

    @property
    def program(self) -> str:
        """What to call the command by: the name of its program, or of the first one in its line for the shell."""
        if isinstance(self._command, str):
            return _program_in(self._command) or one_line(self._command.strip())[:LONGEST_NAME] or "sh"
        return os.path.basename(self._command[0])

    @property
    def pid(self) -> int:
        """The process id of the command; 0 before it was started."""
        return self._child.pid if self._child else 0

    @property
    def last_lines(self) -> tuple[str, ...]:
        """Its last output so far, in the form of `Exit`."""
        try:
            return self._output.last
        except RuntimeError:  # it is printing at this moment
            return ()

    def left(self) -> list[int]:
        """Return the living processes of the command and of all that it has started; on Linux only."""
        return orphans.kept_by(self._child.keeper) if self._child and self._child.keeper else []

    def start(self) -> None:
        """Start the command; return when it runs.

        Raises
        ------
        ProgramError
            If it cannot be started; the text says why and what to do. `on_exit` is not called then.
        """
        child = _start(self._command, self._folder, self._environment, self._rig, self._gives_way)
        with self._lock:
            self._child = child
            for step, grace in self._early:
                child.stop(step, grace)
        name = f"rigsync-command-{self.program}"
        try:
            threading.Thread(target=self._run, args=(child,), name=name, daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads: nobody would know of the command
            child.stop("kill", 0.0)
            child.run(lambda _: None)
            raise ProgramError(f"{self.program!r} was ended at once: {error}") from error

    def stop(self, signal: Step, grace: float) -> None:
        """Begin to end the command and all that it has started; return at once.

        Processes that have not ended after `grace` seconds are told to terminate, and killed after 2 s more. A command
        that is being stopped already is not sent the same step again; the next steps may come sooner. One that is still
        being started ends as soon as it runs. Nothing happens to one that has ended.

        On Windows terminating is killing: there is nothing between an interrupt (Ctrl+Break) and that.
        """
        with self._lock:
            if self._child:
                self._child.stop(signal, grace)
            else:
                self._early.append((signal, grace))

    def _run(self, child: _Child) -> None:
        status, number, steps = child.run(self._read)
        self._give(self._said_what_is_left_out())
        self._give(self._output.end())
        how: How = steps[-1] if steps else "by itself"
        name = _signal_name(number) if number else None
        try:
            self._on_exit(Exit(status, name, how, self._output.last, tuple(steps[:-1])))
        except Exception:
            _logger.exception("the end of %s could not be reported", self.program)

    def _read(self, data: bytes) -> None:
        now = time.monotonic()
        self._room = min(AT_ONCE, self._room + (now - self._read_at) * STEADY)
        self._read_at = now
        ends = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
        if ends and self._room <= 0:
            self._left_out += ends
            self._output.skip(data)
            return
        if ends:  # output without line ends is cut and thrown away, which costs nothing
            self._room -= len(data) + _COST * ends
        self._give(self._said_what_is_left_out())
        self._give(self._output.feed(data))

    def _said_what_is_left_out(self) -> list[str]:
        count, self._left_out = self._left_out, 0
        return [f"({count:,} lines are left out here: it prints faster than anybody reads)"] if count else []

    def _give(self, lines: list[str]) -> None:
        for line in lines:
            try:
                self._on_line(line)
            except Exception:
                _logger.exception("a line of %s could not be passed on", self.program)


# ------------------------------------------------------------------------------------------------------ starting


def _start(
    command: Sequence[str] | str, folder: str | None, environment: Mapping[str, str], rig: str, gives_way: bool
) -> _Child:
    try:
        return _Child(command, folder, environment, rig, gives_way)
    except RefusedStart as error:
        problem = _problem(command, folder, error.what, error.number)
    except (OSError, ValueError) as error:  # out of processes, arguments too long or with a null character
        name = command if isinstance(command, str) else command[0]
        problem = f"{one_line(name)!r} cannot be started: {error}"
    raise ProgramError(problem)


def _problem(command: Sequence[str] | str, folder: str | None, what: str, number: int) -> str:
    """Return why a command cannot be started, and what to do."""
    name = one_line("/bin/sh" if isinstance(command, str) else command[0])
    if what == "folder":
        where = f"the folder {one_line(folder or '')!r}, in which {name!r} is to run,"
        if number == errno.ENOENT:
            return f"{where} does not exist; create it, or correct its path"
        if number == errno.ENOTDIR:
            return f"{where} is a file; correct its path"
        return f"{where} cannot be entered: {os.strerror(number)}"
    path = os.path.join(folder or "", name)
    if number in (errno.ENOENT, errno.ENOTDIR):
        if os.path.basename(name) == name:
            return f"the program {name!r} was not found in any folder of PATH; install it, or give its whole path"
        if os.path.exists(path):
            return f"the program {name!r} cannot be run: the interpreter in its first line does not exist; correct that"
        return f"the program {name!r} does not exist; install it, or correct its path"
    if number == errno.EACCES:
        if os.path.isdir(path) and os.path.basename(name) != name:
            return f"{name!r} is a folder, not a program; correct its path"
        return f"the program {name!r} may not be executed; `chmod +x` it, or write its interpreter before it"
    if number == errno.ENOEXEC:
        return (
            f"{name!r} is no program for this computer; a script needs a first line such as '#!/bin/sh', "
            "or its interpreter before it"
        )
    return f"the program {name!r} cannot be run: {os.strerror(number)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _program_in(line: str) -> str | None:
    """Return the name of the first program that a line for the shell runs; None where that cannot be told."""
    words = shlex.shlex(line.replace("\n", ";"), posix=os.name != "nt", punctuation_chars=True)
    words.commenters = ""
    try:
        found = list(words)
    except ValueError:  # a quote that is not closed
        return None
    is_next = True
    for word in found:
        if word and not word.strip("();<>|&"):
            is_next = "<" not in word and ">" not in word
        elif is_next and not _BEFORE_COMMAND.fullmatch(word):
            if not _NO_PROGRAM.fullmatch(word):
                return os.path.basename(word.strip("\"'"))
            is_next = False
    return None
