"""The rest of commands whose keeper was killed, on Linux: each process of a command has a mark in its environment.

The mark tells the agent, the keeper and the rig of a process. So whoever looks for orphans leaves alone the processes
of a living agent or keeper. Three look for them:

* the agent, when one of its keepers was killed (`rigsync.agent.process`, `rigsync.agent.foreground`);
* the watcher, when the agent is gone. It is this file, run as a program of its own. It is no child of the agent, so
  whoever kills the agent with all its children does not hit it. `rigsync.agent.programs` starts it as
  ``orphans.py PIPE AGENT``. PIPE is the number of the reading end of a pipe that the agent holds open. A byte from
  there means that there is nothing to look for;
* an agent that starts, in case the watcher was killed too.

A keeper has a mark as well, of its agent alone. One that is stopped, and so does not notice that its agent is gone, is
woken. If it does not go on, the others do its work.

A process that has cleared its environment, or runs as another user, is found by its keeper alone. Nothing of rigsync
can be imported here.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

MARK = "KEPT_BY_RIGSYNC"
"""The variable. No key of a message's data makes one of this name, since those begin with ``RIGSYNC_``."""

TERMINATE_AFTER, KILL_AFTER = 1.0, 1.5
"""Seconds from interrupt to terminate and to kill, the same as with a living keeper."""
KEEPER_LIMIT = 2.0
"""Seconds for the keepers and the watcher of a killed agent to end what it ran, before others do."""
LAST_LIMIT = 2.0
"""Seconds after a kill before a process counts as hanging."""
KEEPER_END = 1.0
"""Seconds for a keeper to end after its command."""
LONGEST = KEEPER_LIMIT + KILL_AFTER + LAST_LIMIT + KEEPER_END + 1.0
"""Most seconds of `end_of_dead_agents`, unless a look at a process hangs as the process does."""

_LOOK, _LATER_LOOK = 0.05, 0.5
"""Seconds between two looks, and between looks for killed processes that hang in the kernel."""
_EMPTY_LOOKS = 2
"""Looks in a row that have to find nothing. The first may miss a process that is just being started."""


class Mark(NamedTuple):
    """The mark in the environment of a command's processes, and of its keeper."""

    space: str
    """The namespace of the process ids below: those of a container mean other processes outside of it."""
    agent: str
    """The agent, as `identity` has it."""
    keeper: str
    """The keeper; the agent itself in the mark of a keeper."""
    rig: str
    """The rig's name; empty for a command of `rigsync run`, which may leave processes behind by intention."""

    def text(self) -> str:
        return "/".join(self)

    @property
    def is_keepers(self) -> bool:
        return self.keeper == self.agent


def identity(pid: int) -> str:
    """Return ``PID.START`` of a process, which is unique on this computer for ever; empty if it has ended."""
    found = _stat(pid)
    return f"{pid}.{found[19].decode()}" if found else ""


def mark(keeper: int, rig: str) -> Mark | None:
    """Return the mark for what a process keeps; None where marks cannot be found again."""
    if not (kept_by := identity(keeper)):
        return None
    return Mark(_space(), identity(os.getpid()), kept_by, rig)


def kept_by(keeper: str) -> list[int]:
    return [pid for pid, found in _marked().items() if found.keeper == keeper]


def end(
    find: Callable[[], list[int]], limit: float = math.inf, meanwhile: Callable[[], object] | None = None
) -> list[int]:
    """Interrupt, terminate and kill the processes that `find` returns, until there are none, or for `limit` seconds.

    `meanwhile` is called at each look, some milliseconds apart. Return the processes that are left.
    """
    if sys.platform == "win32":
        return []
    begun, empty = time.monotonic(), 0
    steps = ((0.0, signal.SIGINT), (TERMINATE_AFTER, signal.SIGTERM))
    sent: dict[int, set[int]] = {number: set() for _, number in steps}
    end_at = begun + limit
    while True:
        if meanwhile:
            meanwhile()
        left = find()
        now = time.monotonic()
        empty = 0 if left else empty + 1
        if empty == _EMPTY_LOOKS or now >= end_at:
            return left
        if left and sent[signal.SIGINT].issuperset(left) and all(map(_ignores_interrupt, left)):
            begun = min(begun, now - TERMINATE_AFTER)  # as a shell's background jobs do: do not wait
        for pid in left:
            if now - begun >= KILL_AFTER:
                _send(pid, signal.SIGKILL)
            for after, number in steps:
                if now - begun >= after and pid not in sent[number]:
                    sent[number].add(pid)
                    _send(pid, number)
                    _send(pid, signal.SIGCONT)  # otherwise a stopped process would learn of it too late
        time.sleep(_LOOK if now - begun < KILL_AFTER + LAST_LIMIT else _LATER_LOOK)


def end_of_dead_agents(rig: str) -> tuple[list[str], list[str]]:
    """End what agents of a rig's name have left running, if they were killed with their keepers and watcher.

    It takes some seconds if there is anything to end. Return what has ended, and what hangs although it was killed,
    each with its name and pid.
    """
    names: dict[int, str] = {}
    ours = _lineage()

    def look() -> dict[int, Mark]:
        return _waking(
            {pid: of for pid, of in _marked().items() if of.rig == rig and pid not in ours and _is_nobodys(pid, of)}
        )

    def find() -> list[int]:
        found = [pid for pid, of in look().items() if not of.is_keepers]
        names.update({pid: _name(pid) for pid in found if pid not in names})
        return found

    def await_end(limit: float) -> dict[int, Mark]:
        deadline = time.monotonic() + limit
        while (left := look()) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        return left

    find()
    if await_end(KEEPER_LIMIT) and find():
        end(find, KILL_AFTER + LAST_LIMIT)
    left = await_end(KEEPER_END)
    told = {pid: f"{names.get(pid) or _name(pid)} (process {pid})" for pid in {**names, **left}}
    return [told[pid] for pid in names if pid not in left], [told[pid] for pid in left]


def main(arguments: list[str]) -> None:
    """Watch an agent. When it is gone, end what its keepers leave, since they were killed with it."""
    if sys.platform == "win32":
        return
    if os.fork():
        os._exit(0)  # the agent's child ends: this one is nobody's
    for name in ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.chdir("/")  # so that the folder's drive can be removed
    if os.read(int(arguments[0]), 1):
        return
    agent = arguments[1]
    patience = time.monotonic() + KEEPER_LIMIT

    def look() -> dict[int, Mark]:
        return _waking({pid: of for pid, of in _marked().items() if of.agent == agent})

    def is_late() -> bool:
        return time.monotonic() > patience

    def find() -> list[int]:
        return [pid for pid, of in look().items() if not of.is_keepers and (is_late() or _is_gone(of.keeper))]

    while look():
        if find():
            end(find)
        time.sleep(_LATER_LOOK if is_late() else _LOOK)


# -------------------------------------------------------------------------------------------------------- processes


def _marked() -> dict[int, Mark]:
    """Return all processes with a mark of this namespace of process ids."""
    space, begin, found = _space(), f"\0{MARK}=".encode(), {}
    for pid in _pids():
        _, has, rest = (b"\0" + _content(f"/proc/{pid}/environ")).partition(begin)
        fields = rest.partition(b"\0")[0].decode("utf-8", "surrogateescape").split("/", 3)
        if has and len(fields) == len(Mark._fields) and fields[0] == space and all(map(_is_identity, fields[1:3])):
            found[pid] = Mark(*fields)
    return found


def _waking(found: dict[int, Mark]) -> dict[int, Mark]:
    """Wake the keepers among some processes of dead agents: one that is stopped does not know of its agent's end."""
    if sys.platform != "win32":
        for pid, of in found.items():
            if of.is_keepers:
                _send(pid, signal.SIGCONT)
    return found


def _is_nobodys(pid: int, found: Mark) -> bool:
    if sys.platform == "win32":
        return False
    try:
        is_ours = os.stat(f"/proc/{pid}").st_uid == os.geteuid()  # root could see other users' processes
    except OSError:
        return False
    return is_ours and _is_gone(found.agent)


def _is_identity(text: str) -> bool:
    """Whether a text may come from `identity`: a process can write anything into its environment."""
    pid, _, start = text.partition(".")
    return all(
        number.isascii() and number.isdigit() and len(number) <= most for number, most in ((pid, 11), (start, 20))
    )


def _is_gone(who: str) -> bool:
    return identity(int(who.partition(".")[0])) != who


def _lineage() -> set[int]:
    """Return this process and its ancestors."""
    found, pid = set[int](), os.getpid()
    while pid and pid not in found:
        found.add(pid)
        pid = int(stat[1]) if (stat := _stat(pid)) else 0
    return found


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the state on; none for a dead process."""
    text = _content(f"/proc/{pid}/stat")
    fields = text[text.rfind(b")") + 2 :].split()  # the name may contain anything, even a parenthesis
    return fields if fields and fields[0] not in (b"Z", b"X") else []


def _name(pid: int) -> str:
    return "".join(filter(str.isprintable, _content(f"/proc/{pid}/comm").decode("utf-8", "replace"))) or "?"


def _ignores_interrupt(pid: int) -> bool:
    for line in _content(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"SigIgn:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)
    return False


def _pids() -> Iterable[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if sys.platform == "linux" else []


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _content(path: str) -> bytes:
    """Return the content of a file of /proc; nothing if the process has ended, or is another user's."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            return file.read()
    return b""


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):  # it has ended
        os.kill(pid, number)


if __name__ == "__main__":
    main(sys.argv[1:])
