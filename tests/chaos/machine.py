"""What the operating system can do to a scenario: a bad network in the kernel, and clocks that are wrong."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PATIENCE = 30.0
"""Seconds that a tool of the system may take."""
TASK_HOST, RIG_HOST, OTHER_TASK_HOST = "10.77.0.1", "10.77.0.2", "10.77.0.3"


class NotToBeHad(Exception):
    """This machine cannot do that; the text says what is missing."""


class ToolFailed(Exception):
    """A tool of the system said no; the text is what it said."""


# ------------------------------------------------------------------------------------------------------ the kernel


class Host:
    """A network namespace: another computer, as far as the network goes.

    It has no name, and is there as long as a process holds it. That process ends when its standard input does, so
    that not even tests that are killed leave a namespace behind.

    Parameters
    ----------
    enter : sequence of str
        Command under which to make it.
    as_root : bool
        Make it as root of a user namespace: without being root, that is.
    """

    def __init__(self, enter: Sequence[str] = (), as_root: bool = False):
        user = ["--user", "--map-root-user"] if as_root else []
        self._holder = subprocess.Popen(
            [*enter, "unshare", *user, "--net", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdin
        assert self._holder.stdout
        with contextlib.suppress(BrokenPipeError):
            self._holder.stdin.write(b"there\n")
            self._holder.stdin.flush()
        if not self._holder.stdout.readline():  # what is echoed comes from within the namespace
            assert self._holder.stderr
            problem = self._holder.stderr.read().decode(errors="replace").strip()
            self.close()
            raise NotToBeHad(problem)
        user = ["--user", "--preserve-credentials"] if as_root or enter else []
        self.enter = ["nsenter", f"--target={self._holder.pid}", *user, "--net", "--"]
        """Command under which a program runs in it."""

    @property
    def pid(self) -> int:
        return self._holder.pid

    def close(self) -> None:
        """Let go of it: with its last process the kernel removes it, and what is in it."""
        self._holder.kill()
        self._holder.wait(PATIENCE)
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if pipe:
                pipe.close()

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a tool in it.

        Raises
        ------
        ToolFailed
            It says no.
        """
        done = subprocess.run(
            [*self.enter, *command], input=text, capture_output=True, encoding="utf-8", timeout=PATIENCE
        )
        if done.returncode:
            raise ToolFailed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout


class Cable:
    """Two hosts and the cable between them: the task's, `TASK_HOST`, and the rigs', `RIG_HOST`."""

    def __init__(self, task: Host, rigs: Host):
        self.task, self.rigs = task, rigs
        task.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", str(rigs.pid))
        for host, address in ((task, TASK_HOST), (rigs, RIG_HOST)):
            host.run("ip", "address", "add", f"{address}/24", "dev", "wire")
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "link", "set", "wire", "up")

    def lose(self, percent: Mapping[int, int]) -> None:
        """Have the kernel lose a share of the datagrams to and from rigs at some ports, each way."""
        self._filter(self.task, "sport", percent)
        self._filter(self.rigs, "dport", percent)

    def lose_one_way(self, percent: Mapping[int, int], there: bool) -> None:
        """Have the kernel lose datagrams only on the way to the rigs, or only on the way from them."""
        self._filter(self.task, "sport", {} if there else percent)
        self._filter(self.rigs, "dport", percent if there else {})

    def duplicate(self, percent: Mapping[int, int]) -> None:
        """Have the kernel send a share of the datagrams to rigs at some ports twice.

        Raises
        ------
        ToolFailed
            A kernel that cannot.
        """
        rules = [
            f"udp dport {port} numgen random mod 100 < {share} counter dup to {RIG_HOST}"
            for port, share in percent.items()
        ]
        self.task.run("nft", "-f", "-", text=_table("ip twice", "output", rules))

    def counted(self) -> int:
        """Return how many datagrams the rules have dealt with, both ways."""
        listed = "".join(host.run("nft", "list", "ruleset") for host in (self.task, self.rigs))
        words = listed.split()
        return sum(int(words[place + 1]) for place, word in enumerate(words) if word == "packets")

    def pull(self) -> None:
        """Unplug it at the task's end, whose system then refuses to send."""
        self.task.run("ip", "link", "set", "wire", "down")

    def plug(self) -> None:
        """Plug it in again."""
        self.task.run("ip", "link", "set", "wire", "up")

    def readdress(self, address: str) -> None:
        """Give the task's end another address, in place of the one that it has."""
        self.task.run("ip", "address", "flush", "dev", "wire")
        self.task.run("ip", "address", "add", f"{address}/24", "dev", "wire")

    def delay(self, *netem: str) -> None:
        """Have the kernel delay, reorder and duplicate at both ends, in the words of ``tc netem``.

        Raises
        ------
        ToolFailed
            A kernel that cannot.
        """
        for host in (self.task, self.rigs):
            host.run("tc", "qdisc", "replace", "dev", "wire", "root", "netem", *netem)

    @staticmethod
    def _filter(host: Host, end: str, percent: Mapping[int, int]) -> None:
        rules = [
            f"udp {end} {port} {f'numgen random mod 100 < {share}' if share < 100 else ''} counter drop"
            for port, share in percent.items()
        ]
        host.run("nft", "-f", "-", text=_table("inet lossy", "input", rules))


def _table(name: str, hook: str, rules: Sequence[str]) -> str:
    """Return a script for nft that puts rules in the place of those before, in one transaction."""
    lines = [f"table {name}", f"delete table {name}", f"table {name} {{", "chain faults {"]
    return "\n".join([*lines, f"type filter hook {hook} priority 0;", *rules, "}", "}", ""])


@contextlib.contextmanager
def cable() -> Iterator[Cable]:
    """Make two hosts with a cable between them, as root or, where users may make namespaces, without.

    Raises
    ------
    NotToBeHad
        This machine does not allow it, or lacks a tool.
    """
    if missing := [tool for tool in ("unshare", "nsenter", "ip", "nft") if shutil.which(tool, path=_path()) is None]:
        raise NotToBeHad(f"no {', '.join(missing)} on {sys.platform}")
    with contextlib.ExitStack() as stack:
        try:
            task = Host()
        except NotToBeHad as as_we_are:
            try:
                task = Host(as_root=True)
            except NotToBeHad as as_root:
                raise NotToBeHad(f"{as_we_are}; {as_root}") from None
            stack.callback(task.close)
            enter = ["nsenter", f"--target={task.pid}", "--user", "--preserve-credentials", "--"]
            rigs = Host(enter)
        else:
            stack.callback(task.close)
            rigs = Host()
        stack.callback(rigs.close)
        try:
            rigs.run("nft", "-f", "-", text=_table("inet tried", "input", ["udp dport 9 numgen random mod 9 < 1 drop"]))
            made = Cable(task, rigs)
        except ToolFailed as problem:
            if "syntax error" in str(problem):  # which is no fault of the machine
                raise
            raise NotToBeHad(str(problem)) from None
        yield made


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


# ------------------------------------------------------------------------------------------------------ the clocks


@functools.cache
def libfaketime() -> Path:
    """Return where libfaketime is.

    Raises
    ------
    NotToBeHad
        It is not there.
    """
    if not sys.platform.startswith("linux"):
        raise NotToBeHad(f"libfaketime is preloaded on Linux only, not on {sys.platform}")
    # The one for programs with threads.
    places = (*Path("/usr/lib").glob("*/faketime"), Path("/usr/lib/faketime"), Path("/usr/local/lib/faketime"))
    for place in places:
        if (library := place / "libfaketimeMT.so.1").exists():
            return library
    raise NotToBeHad("no libfaketimeMT.so.1 (Debian: apt-get install libfaketime)")


class FalseClock:
    """A system clock that is wrong by some seconds, and can be stepped while programs run under it.

    Parameters
    ----------
    file : Path
        Where it is kept.
    shift : float
        Seconds by which it is ahead.
    """

    def __init__(self, file: Path, shift: float):
        self._file = file
        self.env = {
            "LD_PRELOAD": str(libfaketime()),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            # A step does not touch the monotonic clock of any system. The second name is that of older versions.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            # Where waits are for the monotonic clock, this remedy of old C libraries has threads spin, for seconds.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
        self.step(shift)

    def step(self, shift: float) -> None:
        """Set it to be ahead by so many seconds."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{shift:+}s\n", encoding="ascii")
        new.replace(self._file)  # at once: libfaketime must never find half of it
