"""The program that holds a port, so that "address in use" can name it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rigsync.core.rigs import Address
from rigsync.errors import ListenError

PATIENCE = 3.0
"""Most seconds of one enquiry: the operator waits for the error message."""


def holder_of(port: int, family: int = socket.AF_INET, scheme: str = "udp") -> str | None:
    """Name the program that holds a port of this machine. It may block for some seconds, and never raises.

    If `family` has no known holder, the other one counts too: a socket for both IPv6 and IPv4 holds the port in both.
    On TCP only sockets that listen count.

    Returns
    -------
    str or None
        For instance ``python3 (pid 1234)``. None if nothing holds the port, or the system does not say: Linux and macOS
        hide other users' programs.
    """
    find = _FINDERS.get(sys.platform)
    if find is None:
        return None
    try:
        first, second = (6, 4) if family == socket.AF_INET6 else (4, 6)
        return find(port, first, scheme) or find(port, second, scheme)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def explained(error: OSError, who: str, uri: str, address: Address) -> ListenError:
    """Return why somebody cannot listen at an address, with the program that holds the port; may block for seconds."""
    failed = f"{who} cannot listen on {uri}"
    if error.errno == errno.EADDRINUSE:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        holder = holder_of(address.port, family, address.scheme)
        by = f" by {holder}" if holder else ""
        return ListenError(f"{failed}: port {address.port} is in use{by}; stop that, or use another")
    if error.errno == errno.EADDRNOTAVAIL:
        return ListenError(f"{failed}: no interface of this machine has that address; try 0.0.0.0")
    return ListenError(f"{failed}: {error}")


# ---------------------------------------------------------------------------------------------------------- Linux


def parse_proc_net(text: str, port: int, listening: bool = False) -> set[str]:
    """Return the inodes of the sockets at a local port, from the text of ``/proc/net/udp`` or the like (proc(5)).

    With `listening`, only sockets without a partner, since an accepted TCP connection has the port as well.
    """
    rows = (line.split() for line in text.splitlines()[1:])
    at_port = [row for row in rows if len(row) > 9 and row[1].endswith(f":{port:04X}")]
    return {row[9] for row in at_port if not listening or row[2].endswith(":0000")}


def program_name(comm: str, cmdline: str) -> str:
    """Return the name of a program from ``/proc/<pid>/comm``, which is cut after 15 bytes, and ``cmdline``."""
    short = comm.rstrip("\n")
    full = os.path.basename(cmdline.partition("\0")[0])
    return full if full.startswith(short) else short


def _find_on_linux(port: int, version: int, scheme: str) -> str | None:
    table = Path(f"/proc/net/{scheme}" if version == 4 else f"/proc/net/{scheme}6").read_text(encoding="ascii")
    links = {f"socket:[{inode}]" for inode in parse_proc_net(table, port, scheme == "tcp")}
    deadline = time.monotonic() + PATIENCE
    for pid in filter(str.isdigit, os.listdir("/proc") if links else ()):
        if time.monotonic() > deadline:
            break
        with contextlib.suppress(OSError):  # another user's, or it has ended since
            if _has_open(pid, links):
                comm, cmdline = (
                    Path("/proc", pid, file).read_text(encoding="utf-8", errors="replace")
                    for file in ("comm", "cmdline")
                )
                return f"{program_name(comm, cmdline)} (pid {pid})"
    return None


def _has_open(pid: str, links: set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    for descriptor in os.listdir(folder):
        with contextlib.suppress(OSError):  # closed since
            if os.readlink(f"{folder}/{descriptor}") in links:
                return True
    return False


# ---------------------------------------------------------------------------------------------------------- macOS


def parse_lsof(text: str, port: int) -> str | None:
    """Name the first holder of a local port in the output of ``lsof -F pcn``: one field a line, its letter first."""
    pid = command = ""
    for line in text.splitlines():
        field, value = line[:1], line[1:]
        if field == "p":
            pid = value
        elif field == "c":
            command = value
        # lsof also lists programs that talk to this port; their name is local->remote.
        elif field == "n" and value.partition("->")[0].endswith(f":{port}"):
            return f"{command} (pid {pid})"
    return None


def _find_on_macos(port: int, version: int, scheme: str) -> str | None:
    listening = ["-sTCP:LISTEN"] if scheme == "tcp" else []
    return parse_lsof(_output("lsof", "-nP", f"-i{version}{scheme.upper()}:{port}", *listening, "-Fpcn"), port)


# -------------------------------------------------------------------------------------------------------- Windows


def parse_netstat(text: str, port: int) -> str | None:
    """Return the process id of the first holder of a local port in the output of ``netstat -ano -p``."""
    # Headings are translated, and perhaps the states of TCP. UDP has no states: that column is empty. A socket that
    # listens has 0.0.0.0:0 or [::]:0 as its partner.
    row = rf"^\s*(?:UDP\s+\S+:{port}\s+\S+|TCP\s+\S+:{port}\s+\S+:0\s+\S+)\s+(\d+)\s*$"
    found = re.search(row, text, re.MULTILINE)
    return found and found[1]


def parse_tasklist(text: str, pid: str) -> str | None:
    """Return the name of a process in the output of ``tasklist /FO CSV /NH``."""
    # Without such a process, the only line is a remark in the system's language.
    found = re.search(rf'^"([^"]+)","{pid}",', text, re.MULTILINE)  # file names have no quotes on Windows
    return found and found[1]


def _find_on_windows(port: int, version: int, scheme: str) -> str | None:
    table = scheme.upper() if version == 4 else f"{scheme.upper()}v6"
    pid = parse_netstat(_output("netstat", "-ano", "-p", table), port)
    if pid is None:
        return None
    name = parse_tasklist(_output("tasklist", "/FI", f"PID eq {pid}", "/FO", "CSV", "/NH"), pid)
    return f"{name or 'a program'} (pid {pid})"


_FINDERS: dict[str, Callable[[int, int, str], str | None]] = {
    "linux": _find_on_linux,
    "darwin": _find_on_macos,
    "win32": _find_on_windows,
}
"""By `sys.platform`; each takes the port, the version of IP, and the scheme."""


def _output(*command: str) -> str:
    # The status says nothing: lsof reports failure if it has found nothing, or could not see everything.
    return subprocess.run(  # noqa: S603 - the commands stand above, and of the arguments only numbers vary
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="replace",
        timeout=PATIENCE,
        # Otherwise a console window would flash up beside a graphical task (Windows).
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    ).stdout
