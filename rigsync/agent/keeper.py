"""The small program between the agent and one of its commands, on Linux and macOS: it leaves nothing behind.

An agent that is killed can end nothing. So each command is the child of a keeper. The keeper notices by the end of its
connection that the agent is gone. `rigsync.agent.programs` starts it without any package, as
``keeper.py CONNECTION OUTPUT``. It imports little, since each command waits for it to start.

What it is given:

* CONNECTION: the number of its end of a socket pair. First comes what to run, in the form of `order`. It answers
  ``started PID`` or ``failed folder|program ERRNO``, and ``ended STATUS STEPS`` when nothing of the command is left.
  STATUS is the exit status, negative for a signal. STEPS is what the command was sent, such as
  ``interrupt,terminate``, or ``-`` if it ended by itself. Orders are ``interrupt GRACE``, ``terminate GRACE`` and
  ``kill GRACE``, with the grace in seconds, each in a line.
* OUTPUT: the number of the reading end of a pipe whose other end is its standard error. Or ``-`` for a command in the
  foreground of a terminal (`rigsync.agent.foreground`). Such a one shares process group, input, output and signals with
  the starter of the keeper, and may leave something behind when it ends by itself.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import time

assert sys.platform != "win32"  # noqa: S101  # says to mypy too that this is for where there are process groups

INTERRUPT, TERMINATE, KILL = "interrupt", "terminate", "kill"
STEPS = (INTERRUPT, TERMINATE, KILL)
"""The steps to end a command, in their order."""
SIGNALS = {INTERRUPT: signal.SIGINT, TERMINATE: signal.SIGTERM, KILL: signal.SIGKILL}

SECOND_GRACE = 2.0
"""Seconds from terminate to kill for a command that was to be interrupted."""
LEFTOVER_GRACE = 1.0
"""Seconds from terminate to kill for the rest of a command that has ended by itself."""
ORPHANED = {INTERRUPT: 0.0, TERMINATE: 1.0, KILL: 1.5}
"""Seconds until each step when the agent is gone. A recorder has to finish its file, and nothing may be left after 2
s."""

_RESCAN, _MOST_RESCAN = 0.05, 1.0
"""Seconds until the first look for processes that were started during the kill, and between later looks."""
_LOOK = 0.02
"""Seconds between looks whether the group is empty, if the system does not tell."""

_IGNORED = ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGTSTP", "SIGTTIN", "SIGTTOU")
"""Signals that a terminal sends to all in its foreground, and that are only for the command or the agent."""
_OF_PYTHON = ("SIGPIPE", "SIGXFSZ", "SIGCHLD")
"""Signals that Python ignores, or that wake this program. The command must not inherit that."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Run one command and keep it until nothing of it is left."""
    adopts = _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Imports take a while. A signal of the terminal meanwhile ends this program; ignored, it would be lost.
    before = {name: signal.signal(getattr(signal, name), signal.SIG_IGN) for name in _IGNORED}
    connection = int(arguments[0])
    output = None if arguments[1] == "-" else int(arguments[1])
    for descriptor in (connection, output):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)  # by the command
    waker, wakened = os.pipe()
    for descriptor in (waker, wakened):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only a signal with a handler wakes
    signal.set_wakeup_fd(wakened)
    own = [name for name in _IGNORED if output is not None or before[name] != signal.SIG_IGN]
    mark, folder, *command = _told(connection)
    if mark:
        name, _, value = mark.partition(b"=")
        os.environb[name] = value
    pid, failure = start(connection, folder, command, leads=output is not None, own=own)
    if failure:
        _say(connection, f"failed {failure}")
    else:
        _say(connection, f"started {pid}")
        Keeper(pid, adopts, connection, output, waker).run()


# -------------------------------------------------------------------------------------------------------- starting


def order(mark: str, folder: str, command: list[str]) -> bytes:
    """Return the first thing that a keeper is told, or raise `ValueError` for a null character in it.

    The mark is ``NAME=VALUE`` in the environment of the command, empty for none: by it `rigsync.agent.orphans` finds
    what is left if the keeper is killed. An empty folder is the present one. On the keeper's own command line ``pkill
    -f`` would find the command.
    """
    fields = [os.fsencode(field) for field in (mark, folder, *command)]
    if any(b"\0" in field for field in fields):
        raise ValueError("embedded null byte")
    data = b"\0".join(fields)
    return b"%d\n%s" % (len(data), data)


def _told(connection: int) -> list[bytes]:
    data, size = bytearray(), None
    while size is None or len(data) < size:
        if not (some := os.read(connection, 65_536)):
            os._exit(1)  # the agent is gone
        data += some
        if size is None and b"\n" in data:
            size = int(data[: data.index(b"\n")])
            del data[: data.index(b"\n") + 1]
    return bytes(data).split(b"\0")


def start(connection: int, folder: bytes, command: list[bytes], *, leads: bool, own: list[str]) -> tuple[int, str]:
    """Start a command; return its pid, and what failed with its errno, or nothing.

    If the connection is closed while it still is being started, since its drive hangs, the command is killed, and this
    program ends. `leads` says that it has a process group of its own, and this program's standard error as its output.
    `own` are signals that do to it what they do to any program, though this one ignores them.
    """
    keeper = os.getpid()
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _become(keeper, folder, command, tell, leads, own)
        finally:
            os._exit(127)
    os.close(tell)
    if leads:
        with contextlib.suppress(OSError):  # the child does so too: whoever comes first
            os.setpgid(pid, pid)
    poll = select.poll()
    for descriptor in (told, connection):
        poll.register(descriptor, select.POLLIN)
    if told not in dict(poll.poll()):
        os.kill(pid, signal.SIGKILL)
        os._exit(1)
    failure = os.read(told, 100).decode()  # ended by exec, which closes the other end
    os.close(told)
    if failure:
        os.waitpid(pid, 0)
    return pid, failure


def _become(keeper: int, folder: bytes, command: list[bytes], tell: int, leads: bool, own: list[str]) -> None:
    if leads:
        os.setpgid(0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:  # it was killed before the line above, which has had no effect then
        os._exit(127)
    for name in {*own, *_OF_PYTHON}:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    if leads:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(2, 1)
    what = "folder"
    try:
        if folder:
            os.chdir(folder)
        what = "program"
        os.execvp(command[0], command)  # noqa: S606  # which program is the user's to say
    except OSError as error:
        os.write(tell, f"{what} {error.errno}".encode())


def _prctl(option: int, value: int) -> bool:
    """Set something of this process that only Linux knows; return whether that was done."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes
    except ImportError:  # a Python that was built without it
        return False
    return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)


# --------------------------------------------------------------------------------------------------------- keeping


class Keeper:
    """Keeps one command: obeys the agent, takes its place when it is gone, and ends what is left of the command.

    `adopts` says that every orphan among the command's descendants becomes a child of this process. The command leads a
    process group, unless it is one in the foreground, which has no `output`. `waker` is readable when a child has
    ended.
    """

    def __init__(self, pid: int, adopts: bool, connection: int, output: int | None, waker: int):
        self.pid, self.adopts = pid, adopts
        self.connection, self.output, self.waker = connection, output, waker
        self.status: int | None = None  # until the command's main process has ended
        self.childless = False
        self.due: dict[str, float] = {}
        """When each step is to be made that has been planned and not made."""
        self.made: list[str] = []
        self.how: list[str] = []
        """What was sent before the main process had ended, or all where something had to be killed later."""
        self._told = b""
        self._rescan = _RESCAN
        self._poll = select.poll()
        for descriptor in (connection, waker):
            self._poll.register(descriptor, select.POLLIN)

    def run(self) -> None:
        """Keep the command until nothing of it is left, and say so."""
        while True:
            self._reap()
            if self._is_gone():
                break
            now = time.monotonic()
            self._spare_no_time(now)
            self._step(now)
            for descriptor, _ in self._poll.poll(self._patience(time.monotonic())):
                if descriptor == self.waker:
                    _read(self.waker)
                elif descriptor == self.connection:
                    self._listen()
                else:
                    _read(descriptor)
        if self.how and self.made[-1] == KILL:
            self.how = self.made
        _say(self.connection, f"ended {self.status} {','.join(self.how) or '-'}")

    def plan(self, steps: dict[str, float], now: float) -> None:
        """Make steps after so many seconds each, or sooner where that was planned before; none is made twice."""
        last = STEPS.index(self.made[-1]) if self.made else -1
        for step, seconds in steps.items():
            if STEPS.index(step) > last:
                self.due[step] = min(self.due.get(step, math.inf), now + seconds)

    # --------------------------------------------------------------------------------------------- what happens

    def _listen(self) -> None:
        try:
            data = os.read(self.connection, 4096)
        except OSError:
            data = b""
        now = time.monotonic()
        if not data:  # the agent is gone, and nobody else reads what the command writes: it must not stumble over that
            self._poll.unregister(self.connection)
            if self.output is not None:
                self._poll.register(self.output, select.POLLIN)
            self.plan(ORPHANED, now)
            return
        *lines, self._told = (self._told + data).split(b"\n")
        for line in lines:
            step, _, seconds = line.decode().partition(" ")
            self.plan(ladder(step, float(seconds)), now)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if not pid:
                return
            if pid == self.pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.how = self.made.copy()
                if not self.made:
                    self.plan({TERMINATE: 0.0, KILL: LEFTOVER_GRACE}, time.monotonic())

    def _is_gone(self) -> bool:
        if self.status is None:
            return False
        if self.output is None and not (self.adopts and self.made):
            return True
        if self.adopts:
            return self.childless
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # macOS says so of a group of the dead
            return False
        return False

    # ---------------------------------------------------------------------------------------------- what is done

    def _spare_no_time(self, now: float) -> None:
        # What a shell has left running in the background ignores an interrupt: there is nothing to wait for. What does
        # not ignore it may be finishing its file, even though the shell before it has ended at once.
        if self.status is not None and self.made == [INTERRUPT] and self.adopts:
            left = [pid for pid, _ in descendants()]
            if left and all(_ignores_interrupt(pid) for pid in left):
                self.plan({TERMINATE: 0.0, KILL: LEFTOVER_GRACE}, now)

    def _step(self, now: float) -> None:
        ready = [step for step in STEPS if self.due.get(step, math.inf) <= now]
        if not ready:
            return
        step = ready[-1]
        for earlier in STEPS[: STEPS.index(step) + 1]:
            self.due.pop(earlier, None)
        if step == KILL:
            self.due[KILL] = now + self._rescan
            self._rescan = min(2 * self._rescan, _MOST_RESCAN)  # one that hangs in the kernel may stay for long
        if self.made[-1:] != [step]:
            self.made.append(step)
        self._send(SIGNALS[step])
        if step != KILL:
            self._send(signal.SIGCONT)  # else one that is stopped would learn of it too late

    def _send(self, number: int) -> None:
        if self.output is None:
            if self.status is None:
                with contextlib.suppress(OSError):  # it is somebody else's by now
                    os.kill(self.pid, number)
        elif self.status is None or not self.adopts:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, number)
        if self.adopts:
            for pid, group in descendants():
                is_sent = pid == self.pid if self.output is None else self.status is None and group == self.pid
                if not is_sent:
                    with contextlib.suppress(OSError):
                        os.kill(pid, number)

    def _patience(self, now: float) -> float | None:
        """Return the milliseconds until there is something to do, None for as long as nothing happens."""
        waits = [due - now for due in self.due.values()]
        if self.status is not None and not self.adopts:
            waits.append(_LOOK)
        return max(0.0, min(waits)) * 1000 + 1 if waits else None


def ladder(step: str, grace: float) -> dict[str, float]:
    """Return after how many seconds each step is made where the first one is `step`."""
    if step == INTERRUPT:
        return {INTERRUPT: 0.0, TERMINATE: grace, KILL: grace + SECOND_GRACE}
    return {TERMINATE: 0.0, KILL: grace} if step == TERMINATE else {KILL: 0.0}


def descendants() -> list[tuple[int, int]]:
    """Return the pid and the process group of every living descendant of this process. Linux only."""
    children: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it has ended in the meantime
                text = _content(f"/proc/{name}/stat")
                # proc(5): pid (name) state ppid pgrp; the name may contain anything, a parenthesis too.
                state, parent, group = text[text.rindex(b")") + 2 :].split(None, 3)[:3]
                # The dead have no descendants: those were adopted.
                if state not in (b"Z", b"X"):
                    children.setdefault(int(parent), []).append((int(name), int(group)))
    found = children.get(os.getpid(), []).copy()
    for pid, _ in found:  # which grows
        found += children.get(pid, [])
    return found


def _ignores_interrupt(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for line in _content(f"/proc/{pid}/status").splitlines():
            if line.startswith(b"SigIgn:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)
    return False


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 65_536)


def _say(connection: int, line: str) -> None:
    with contextlib.suppress(OSError):  # the agent is gone
        os.write(connection, f"{line}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
