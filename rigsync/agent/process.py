"""A command as the agent's child in every sense: it and all that it starts end with it, and with the agent.

An agent that is killed can end nothing. So on Linux and macOS a small program of its own runs each command: the keeper
(`rigsync.agent.keeper`). On Windows a job object does its work (`rigsync.agent.windows_job`). Neither needs an event
loop: on Windows rigs have selector loops, which know no processes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from rigsync._text import one_line
from rigsync.agent import orphans, programs
from rigsync.errors import RigsyncError

if sys.platform != "win32":
    from rigsync.agent import keeper

_logger = logging.getLogger("rigsync.agent")

Step = Literal["interrupt", "terminate", "kill"]
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
LONGEST_LINE = 4096
"""Bytes of a line that are kept. Output without line ends is perhaps a video on the wrong output."""
LAST_LINES = 20
STEADY, AT_ONCE = 1 << 20, 4 << 20
"""Bytes of output a second that become lines, and how many of these at once. Output holds up neither the command nor
the agent: what is beyond is left out, and counted."""
_COST = 200
"""Bytes that each line counts besides: empty lines take time too."""

_KEEPER = Path(__file__).with_name("keeper.py")
_START_LIMIT = 10.0
"""Seconds for a command to begin. Some milliseconds are usual; a network drive may hang for longer."""
_GROUP_LIMIT = 1.0
"""Seconds for killed processes to be gone. If nobody reaps the dead, they stay for ever."""
_CHUNK = 65_536
_LATE_OUTPUT = 1 << 20
"""Most bytes that are read after the end: those in the pipe, and no more if somebody goes on writing."""

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
    """A command that runs until it ends by itself or is stopped. Works from any thread.

    Its standard input is empty. When its main process ends, the rest of its process group is told to terminate, and
    killed after 1 s. On Linux that includes processes that have left the group.

    Parameters
    ----------
    command : sequence of str, or str
        The program and its arguments, each of which stays one argument; or a line for the shell.
    shell : bool
        Whether it is a line for the shell: ``/bin/sh``, or ``cmd.exe`` on Windows.
    folder : str, optional
        Where it runs; by default where this process does.
    environment : mapping of str to str
        Added to the environment of this process.
    on_line : callable
        Called with each line of its output, standard and error alike, without the line end. A carriage return ends a
        line too, since programs report progress so. Lines are cut after 4 KiB, and bytes that are no UTF-8 are
        replaced. It is called on the command's own thread, as is `on_exit`. Until it returns, no more is read, and in
        the end the command waits. Of more than a megabyte a second, most lines are left out, and a line says how many.
    on_exit : callable
        Called once, with an `Exit`, when nothing of the command is left and all its lines were passed on.
    rig : str
        The rig whose command it is. If this program and all that cleans up after it are killed, the next agent of that
        name ends the rest of the command.

    Raises
    ------
    TypeError
        A text that is not for the shell, or a list that is.
    ValueError
        The command is empty.
    """

    def __init__(
        self,
        command: Sequence[str] | str,
        *,
        shell: bool,
        folder: str | None,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        on_exit: Callable[[Exit], None],
        rig: str = "",
    ):
        if isinstance(command, str) != shell:
            raise TypeError("a command for the shell is one line of text, any other one a list of arguments")
        if not command:
            raise ValueError("the command is empty")
        self._command, self._folder, self._environment = command, folder, dict(environment)
        self._rig = rig
        self._on_line, self._on_exit = on_line, on_exit
        self._output = Output()
        self._room: float = AT_ONCE
        self._read_at = 0.0
        self._left_out = 0
        self._lock = threading.Lock()
        self._started = False
        self._child: _Child | None = None
        self._early: list[tuple[Step, float]] = []
        self._thread: threading.Thread | None = None
        self._exit: Exit | None = None
        self._ended = threading.Event()

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
        RuntimeError
            If it was started before.
        """
        with self._lock:
            if self._started:
                raise RuntimeError(f"{self.program} was started before; make a new Process")
            self._started = True
        child = _start(self._command, self._folder, self._environment, self._rig)
        with self._lock:
            self._child = child
            for step, grace in self._early:
                child.stop(step, grace)
        name = f"rigsync-command-{self.program}"
        self._thread = threading.Thread(target=self._run, args=(child,), name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system gives no more threads: nobody would know of the command
            child.stop("kill", 0.0)
            child.run(lambda _: None)
            raise ProgramError(f"{self.program!r} was ended at once: {error}") from error

    def stop(self, signal: Step, grace: float) -> None:
        """Begin to end the command and all that it has started; return at once.

        Processes that have not ended after `grace` are told to terminate, and killed after 2 s more. A command that is
        being stopped already is not sent the same step again; the next steps may come sooner. One that is still being
        started ends as soon as it runs. Nothing happens to one that has ended.

        On Windows terminating is killing: there is nothing between an interrupt (Ctrl+Break) and that.

        Parameters
        ----------
        signal : {'interrupt', 'terminate', 'kill'}
            What to send first.
        grace : float
            Seconds that it may take to end after that.
        """
        with self._lock:
            if self._child:
                self._child.stop(signal, grace)
            else:
                self._early.append((signal, grace))

    def wait(self, timeout: float | None) -> Exit | None:
        """Wait until nothing of the command is left and `on_exit` has returned; return how it ended, None if it runs.

        `on_exit` must not need anything that the caller holds. It may itself call this, which returns at once.

        Parameters
        ----------
        timeout : float or None
            Seconds to wait at most; None for as long as it takes.
        """
        if threading.current_thread() is not self._thread:
            self._ended.wait(timeout)
            return self._exit if self._ended.is_set() else None
        return self._exit

    def _run(self, child: _Child) -> None:
        status, number, steps = child.run(self._read)
        self._give(self._said_what_is_left_out())
        self._give(self._output.end())
        how: How = steps[-1] if steps else "by itself"
        name = _signal_name(number) if number else None
        self._exit = Exit(status, name, how, self._output.last, tuple(steps[:-1]))
        try:
            self._on_exit(self._exit)
        except Exception:
            _logger.exception("the end of %s could not be reported", self.program)
        self._ended.set()

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


# ---------------------------------------------------------------------------------------------------------- output


class Output:
    """Makes lines of a command's output, and keeps the last ones."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._is_cut = False
        self._has_returned = False
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._overwrites = False  # the next line is the last of those kept

    @property
    def last(self) -> tuple[str, ...]:
        """The last lines as a terminal would show them: overwritten ones are left out."""
        return tuple(self._last)

    def feed(self, data: bytes) -> list[str]:
        """Add output; return the lines that it completes, without their ends."""
        if not data:
            return []
        is_rest = self._has_returned and data.startswith(b"\n")  # Windows' line end came in two pieces
        self._has_returned = data.endswith(b"\r")
        if is_rest:
            data = data[1:]
            self._overwrites = False
        lines: list[str] = []
        for part in data.splitlines(keepends=True):
            text = part.rstrip(b"\r\n")
            room = LONGEST_LINE + 1 - len(self._line)
            if room > 0:
                self._line += text[:room]
            if len(self._line) > LONGEST_LINE and not self._is_cut:
                self._is_cut = True
                lines.append(self._take(self._line[:LONGEST_LINE], "..."))
            if len(text) < len(part):
                if not self._is_cut:
                    lines.append(self._take(self._line))
                self._overwrites = part.endswith(b"\r")
                self._line.clear()
                self._is_cut = False
        return lines

    def skip(self, data: bytes) -> None:
        """Add output of which only the last lines are kept."""
        tail = data[-_CHUNK // 8 :].splitlines(keepends=True)[-LAST_LINES - 1 :]
        if sum(map(len, tail)) < len(data):  # the first line lacks its beginning
            self._line.clear()
            self._is_cut = self._has_returned = False
            tail = tail[1:] or tail
        self.feed(b"".join(tail))

    def end(self) -> list[str]:
        """Return the unfinished last line, if there is one."""
        rest, self._line = self._line, bytearray()
        return [self._take(rest)] if rest and not self._is_cut else []

    def _take(self, data: bytearray, more: str = "") -> str:
        text = data.decode("utf-8", "replace") + more
        if self._overwrites and self._last:
            self._last.pop()
        self._overwrites = False
        self._last.append(one_line(text))
        return text


# ------------------------------------------------------------------------------------------------ one for each system


class _Child(Protocol):
    """Starts a command, knows its end, and can end it."""

    @property
    def pid(self) -> int: ...

    @property
    def keeper(self) -> str:
        """Its keeper, as `orphans.identity` has it; empty if there is none, or marks cannot be found."""

    def stop(self, step: Step, grace: float) -> None:
        """Begin to end it; do nothing if it has ended."""

    def run(self, read: Callable[[bytes], None]) -> tuple[int | None, int | None, Sequence[Step]]:
        """Pass on its output until nothing of it is left; return its status or signal, and the steps that were sent."""


def _start(command: Sequence[str] | str, folder: str | None, environment: Mapping[str, str], rig: str) -> _Child:
    try:
        if sys.platform == "win32":
            from rigsync.agent.windows_job import JobCommand

            if folder and not os.path.isdir(folder):
                raise _Failed("folder", errno.ENOENT)
            return JobCommand(command, folder, environment)
        else:  # noqa: RET505  # mypy looks for the name on Windows otherwise
            return _KeptCommand(command, folder, environment, rig)
    except _Failed as error:
        raise ProgramError(_problem(command, folder, error.what, error.number)) from None
    except (OSError, ValueError) as error:  # out of processes, arguments too long or with a null character
        name = command if isinstance(command, str) else command[0]
        raise ProgramError(f"{one_line(name)!r} cannot be started: {error}") from error


class _Failed(Exception):
    def __init__(self, what: str, number: int):
        super().__init__(what, number)
        self.what, self.number = what, number


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


if sys.platform != "win32":

    class _KeptCommand:
        """A command with a keeper."""

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
            with contextlib.suppress(OSError):  # it has ended
                self._connection.send(f"{step} {grace}\n".encode())
            self._keeper.send_signal(signal.SIGCONT)  # somebody may have stopped it

        def run(self, read: Callable[[bytes], None]) -> tuple[int | None, int | None, Sequence[Step]]:
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
                raise _Failed(details[0], int(details[1]))
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
