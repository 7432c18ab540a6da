"""The running commands of one agent."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import cast

from rigsync.agent.aside import Aside
from rigsync.agent.file import Stop
from rigsync.agent.process import Exit, Process
from rigsync.agent.programs import Step
from rigsync.errors import RigsyncError

GENTLE = Stop("interrupt", 5.0)
"""How a `run` command is ended: its file does not say."""
KILL = Stop("kill", 0.0)

GOOD_STATUSES = (0, 255)
"""Good exit statuses of a command that was stopped, if its file names none. ffmpeg has the second one after an
interrupt."""
_SIGNALS = {"interrupt": 2, "terminate": 15, "kill": 9}
"""Numbers of the signals, the same on all systems with signals."""
_CONTROL_C_EXIT = 0xC000013A
"""Exit status on Windows after an interrupt: STATUS_CONTROL_C_EXIT."""

LONGEST_LABEL = 80
"""Characters of a program's name in names of streams and items, which have to hold more."""
NOT_STARTED = 127
"""Exit status of a command that could not be started, as in shells."""
START_LIMIT = 2.0
"""Seconds that the end of all commands waits for one that is still being started: its drive may hang."""
LAST_GRACE = 5.0
"""Seconds beyond its grace after which a command has to be gone, killed if need be."""
LOOK_LIMIT = 1.0
"""Seconds for a look at the processes that are left of a command. It may hang as they do."""
MOST_NAMED = 10
"""Most process ids in a text."""
LONGEST_OUTPUT, LONGEST_REASON = 1500, 500
"""Characters of a command's last lines in an answer, which has to fit into a datagram, and in an error, which somebody
has to read."""
LOOK_AT_DRIVE = "look whether the drives that it uses are there; else restart the computer"


class CommandFailed(RigsyncError):
    """A command has failed, took too long, or does not do its job; the text has its last lines."""


class Child:
    """One command, from its start to its end. `label` is its name in answers, in the log and as a stream."""

    process: Process
    starting: asyncio.Future[None]
    """Done when it runs, or cannot be started."""

    def __init__(self, label: str, stop: Stop, ended: asyncio.Future[Exit]):
        self.label, self.stop, self.ended = label, stop, ended
        self.asked: Stop | None = None
        """How it was first told to end; None before that."""

    def end(self, stop: Stop | None = None) -> None:
        stop = stop or self.stop
        self.asked = self.asked or stop
        self.process.stop(cast("Step", stop.signal), stop.grace)


def is_good_end(
    ended: Exit, stop: Stop, good_exit: Collection[int] | None, windows: bool = sys.platform == "win32"
) -> bool:
    """Return whether a command that was to go on has ended well when it was told to end by `stop`.

    Good exit statuses have 128 plus its number for a signal; None stands for 0, 255 and the signal that was sent.
    """
    first = stop.signal if stop.grace else {"interrupt": "terminate"}.get(stop.signal, "kill")  # with no time between
    if ended.how == "by itself":
        return False
    if ended.how == "kill":
        return first == "kill" or (windows and first == "terminate")
    if good_exit is None:
        good_exit = (*GOOD_STATUSES, 128 + _SIGNALS[first], *([_CONTROL_C_EXIT] if windows else ()))
    if ended.signal is None:
        return ended.status in good_exit
    known = getattr(signal, ended.signal, None)
    return known is not None and 128 + known in good_exit


class Commands:
    """All running commands of one agent. `ended` is called on the event loop with each that has ended, and how."""

    def __init__(self, ended: Callable[[Child, Exit], None], aside: Aside, rig: str = ""):
        self._ended, self._aside, self._rig = ended, aside, rig
        self._children: list[Child] = []
        self._none_left = threading.Condition()
        self._is_closed = False

    def running(self) -> list[Child]:
        """Return the running commands in the order of their starts; from any thread."""
        with self._none_left:
            return self._children.copy()

    def close(self) -> None:
        """Tell all to end, and let no more begin; from any thread, without waiting."""
        with self._none_left:
            self._is_closed = True
        for child in self.running():
            child.end()

    def wait(self, timeout: float) -> bool:
        """Wait until none runs, and kill the rest; return whether none is left. Off the event loop."""
        if self._wait(timeout):
            return True
        for child in self.running():
            child.end(KILL)
        return self._wait(LAST_GRACE)

    def _wait(self, timeout: float) -> bool:
        with self._none_left:
            return self._none_left.wait_for(lambda: not self._children, timeout)

    async def begin(
        self,
        words: Sequence[str] | str,
        *,
        folder: str,
        environment: Mapping[str, str],
        on_line: Callable[[Child, str], None],
        on_exit: Callable[[Child, Exit], None],
        stop: Stop = GENTLE,
        gives_way: bool = False,
    ) -> Child:
        """Start a command; text is a line for the shell. A thread of its own passes on its output and its end.

        One that gives way has a low priority.

        Raises
        ------
        ProgramError
            It cannot be started.
        CommandFailed
            All commands are being ended.
        """
        loop = asyncio.get_running_loop()
        child = Child("", stop, loop.create_future())

        def over(outcome: Exit) -> None:
            on_exit(child, outcome)
            self._remove(child)
            with contextlib.suppress(RuntimeError):  # the rig has stopped serving, and nobody waits
                loop.call_soon_threadsafe(self._settle, child, outcome)

        child.process = Process(
            words,
            folder=folder,
            environment=environment,
            on_line=lambda line: on_line(child, line),
            on_exit=over,
            rig=self._rig,
            gives_way=gives_way,
        )
        # Before it starts: an interrupt that comes meanwhile has to find it.
        with self._none_left:
            if self._is_closed:
                raise CommandFailed(f"{child.process.program} was not started: the rig's program is being closed")
            child.label = self._label(child.process.program[:LONGEST_LABEL])
            self._children.append(child)
        try:
            child.starting = self._aside.begin(child.process.start)
        except RuntimeError:  # the system gives no more threads, or all are being ended
            self._remove(child)
            raise
        child.starting.add_done_callback(lambda starting: self._note_start(child, starting))
        await asyncio.shield(child.starting)  # whoever gave up waiting ends it, or ends all
        return child

    async def end(self, child: Child, stop: Stop | None = None) -> Exit:
        """End a command, and wait for it.

        Raises
        ------
        CommandFailed
            It cannot be ended: it hangs in the system. It has been told to end.
        """
        child.end(stop)
        await asyncio.wait([child.starting], timeout=START_LIMIT)
        if not child.starting.done():
            raise CommandFailed(f"{child.label} hangs while it is being started, and will be ended; {LOOK_AT_DRIVE}")
        await asyncio.wait([child.ended], timeout=(stop or child.stop).grace + LAST_GRACE)
        if not child.ended.done():
            left = await self._left(child)
            raise CommandFailed(f"{child.label} does not end, though it was killed{left}; {LOOK_AT_DRIVE}")
        return child.ended.result()

    async def end_all(self, stop: Stop | None) -> dict[str, str]:
        """End all and wait; return in words how each has ended. Raise `CommandFailed` if some cannot be ended."""
        children = self.running()
        for child in reversed(children):
            child.end(stop)
        outcomes = await asyncio.gather(*(self.end(child, stop) for child in children), return_exceptions=True)
        if problems := [str(outcome) for outcome in outcomes if isinstance(outcome, BaseException)]:
            raise CommandFailed("; ".join(problems))
        ended = [outcome for outcome in outcomes if isinstance(outcome, Exit)]
        return {child.label: outcome.described() for child, outcome in zip(children, ended, strict=True)}

    async def _left(self, child: Child) -> str:
        """Return in words which processes are left of a command; nothing if that cannot be found out."""
        look = self._aside.begin(child.process.left)
        if not (await asyncio.wait([look], timeout=LOOK_LIMIT))[0] or look.exception() or not (left := look.result()):
            return ""
        more = ", ..." if len(left) > MOST_NAMED else ""
        return f" (what is left: process {', '.join(map(str, left[:MOST_NAMED]))}{more})"

    def _label(self, program: str) -> str:
        taken = {child.label for child in self._children}
        numbered = (f"{program} {number}" for number in range(2, len(taken) + 2))
        return program if program not in taken else next(label for label in numbered if label not in taken)

    def _note_start(self, child: Child, starting: asyncio.Future[None]) -> None:
        # Even if nobody waits for its start any more: an interrupt waits for its end.
        if error := starting.exception():
            self._remove(child)
            child.ended.set_result(Exit(NOT_STARTED, None, "by itself", (str(error),)))

    def _remove(self, child: Child) -> None:
        with self._none_left:
            if child in self._children:
                self._children.remove(child)
            self._none_left.notify_all()

    def _settle(self, child: Child, outcome: Exit) -> None:
        if not child.ended.done():
            child.ended.set_result(outcome)
        self._ended(child, outcome)


def by_itself(child: Child, ended: Exit) -> str:
    """Return in words that a command has ended that was to go on."""
    return f"{child.label} {ended.described()}, and was to go on{output_of(ended)}"


def bad_end(child: Child, ended: Exit) -> str:
    if ended.how == "by itself":
        return by_itself(child, ended)
    hint = ""
    if ended.how != "kill" and ended.status is not None:
        hint = f" (if that is how it ends, say so by good_exit: [{ended.status}])"
    return f"{child.label} {ended.described()}, and its file may not be whole{hint}{output_of(ended)}"


def fitting(last_lines: Sequence[str], room: int) -> list[str]:
    """Return as many of some lines, from the last one back, as fit into so many characters; at least that one's end."""
    lines = [line[-room:] for line in last_lines[-1:]]
    room -= sum(map(len, lines))
    for line in reversed(last_lines[:-1]):
        room -= len(line) + 1
        if room < 0:
            break
        lines.insert(0, line)
    return lines


def last_words(children: Iterable[Child]) -> str:
    """Return the last lines of commands that run, as the end of a sentence."""
    words = ""
    for child in children:
        if lines := child.process.last_lines:
            words += f"; last lines of {child.label}: {' | '.join(fitting(lines, LONGEST_REASON))}"
    return words


def output_of(ended: Exit) -> str:
    """Return a command's last lines, as the end of a sentence."""
    lines = fitting(ended.last_lines, LONGEST_REASON)
    return f"; its last lines: {' | '.join(lines)}" if lines else "; it has printed nothing"
