from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from processes import free_port

from rigsync.net import ports
from rigsync.net.ports import holder_of, parse_lsof, parse_netstat, parse_proc_net, parse_tasklist, program_name

HOLD = """
import socket, sys
family, address = {family}, {address!r}
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((address, 0))
    print(sock.getsockname()[1], flush=True)
    sys.stdin.read()
"""
"""A program that holds a port, says which, and ends with its input."""

PROC_NET = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  412: 00000000:2AF9 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 3391882 2 0000000000000000 0
  412: 0100007F:2AF9 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 3391883 2 0000000000000000 0
 1931: 0100007F:C2B1 0100007F:2AF9 01 00000000:00000000 00:00000000 00000000  1000        0 3391999 2 0000000000000000 0
 2080: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 21344 2 0000000000000000 0
"""
PROC_NET_6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when \
retrnsmt   uid  timeout inode ref pointer drops
  412: 00000000000000000000000000000000:2AF9 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 \
00000000  1000        0 4410021 2 0000000000000000 0
"""
LSOF = """\
p512
cmDNSResponder
f6
n*:5353
p48210
cpython3.12
f7
n127.0.0.1:61022->127.0.0.1:11001
f9
n192.168.1.20:11001->192.168.1.5:61500
p48333
cGoogle Chrome Helper
f12
n[::1]:11002
"""
NETSTAT = """\

Aktive Verbindungen

  Proto  Lokale Adresse         Remoteadresse          Status           PID
  UDP    0.0.0.0:123            *:*                                    1204
  UDP    0.0.0.0:11001          *:*                                    9876
  UDP    127.0.0.1:11001        *:*                                    5555
  UDP    192.168.1.20:1100      *:*                                    4
"""
NETSTAT_6 = """\

Active Connections

  Proto  Local Address          Foreign Address        State           PID
  UDP    [::]:123               *:*                                    1204
  UDP    [fe80::1c2b:3d4e%11]:11001  *:*                               7777
"""
TASKLIST = '"pythonw.exe","9876","Console","1","48.212 K"\n'
NO_TASK = "INFO: No tasks are running which match the specified criteria.\n"
JUNK = ["", "\n", "\0", ":" * 100, 'UDP "', '"', "n", "p\nc\nn", "UDP x:11001 y", "a b c d e f g h i j :2AF9"]


# --------------------------------------------------------------------------------------------------------- parsers


@pytest.mark.parametrize(
    ("text", "port", "inodes"),
    [
        (PROC_NET, 11001, {"3391882", "3391883"}),
        (PROC_NET, 53, {"21344"}),
        (PROC_NET, 0xC2B1, {"3391999"}),
        (PROC_NET, 11002, set()),
        (PROC_NET_6, 11001, {"4410021"}),
    ],
)
def test_proc_net(text: str, port: int, inodes: set[str]) -> None:
    assert parse_proc_net(text, port) == inodes


@pytest.mark.parametrize(
    ("comm", "cmdline", "name"),
    [
        ("python3\n", "/usr/bin/python3\0camera.py\0", "python3"),
        ("bonsai-acquisit\n", "/opt/bonsai/bonsai-acquisition\0--rig\0", "bonsai-acquisition"),
        ("camera\n", "/usr/bin/python3\0camera.py\0", "camera"),  # it has given itself this name
        ("kworker/0:1\n", "", "kworker/0:1"),
        ("(sd-pam)\n", "(sd-pam)\0", "(sd-pam)"),
    ],
)
def test_program_names(comm: str, cmdline: str, name: str) -> None:
    assert program_name(comm, cmdline) == name


@pytest.mark.parametrize(
    ("port", "holder"),
    [
        (5353, "mDNSResponder (pid 512)"),
        (11001, "python3.12 (pid 48210)"),
        (11002, "Google Chrome Helper (pid 48333)"),
        (1001, None),
        (61500, None),
    ],
)
def test_lsof(port: int, holder: str | None) -> None:
    assert parse_lsof(LSOF, port) == holder


def test_lsof_does_not_take_a_correspondent_for_the_holder() -> None:
    assert parse_lsof("p48210\ncpython3.12\nf7\nn127.0.0.1:61022->127.0.0.1:11001\n", 11001) is None


@pytest.mark.parametrize(
    ("text", "port", "pid"),
    [
        (NETSTAT, 11001, "9876"),
        (NETSTAT, 123, "1204"),
        (NETSTAT, 1100, "4"),
        (NETSTAT, 1001, None),
        (NETSTAT_6, 11001, "7777"),
        (NETSTAT_6.replace("\n", "\r\n"), 123, "1204"),
    ],
)
def test_netstat(text: str, port: int, pid: str | None) -> None:
    assert parse_netstat(text, port) == pid


def test_tasklist() -> None:
    assert parse_tasklist(TASKLIST, "9876") == "pythonw.exe"
    assert parse_tasklist(TASKLIST, "987") is None
    assert parse_tasklist(NO_TASK, "9876") is None
    assert parse_tasklist('\r\n"Bonsai, 64 bit.exe","4","Services","0","8 K"\r\n', "4") == "Bonsai, 64 bit.exe"


@pytest.mark.parametrize("text", JUNK)
def test_parsers_find_nothing_in_junk(text: str) -> None:
    assert parse_proc_net(text, 11001) == set()
    assert parse_lsof(text, 11001) is None
    assert parse_netstat(text, 11001) is None
    assert parse_tasklist(text, "9876") is None


# -------------------------------------------------------------------------------------------------- with real ports


@pytest.fixture
def hold() -> Iterator[Callable[..., tuple[int, int]]]:
    """Have child processes hold ports: a function that returns the port and the process id."""
    children: list[subprocess.Popen[str]] = []

    def begin(family: int = socket.AF_INET, address: str = "127.0.0.1") -> tuple[int, int]:
        program = HOLD.format(family=int(family), address=address)
        # Not sys.executable where that is a mere launcher, as in virtual environments on Windows: the pid would differ.
        executable = getattr(sys, "_base_executable", sys.executable)
        child = subprocess.Popen(
            [executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        assert child.stdout is not None
        port = child.stdout.readline()
        if not port:
            pytest.skip(f"no such socket on this machine: {child.communicate()[1]}")
        return int(port), child.pid

    yield begin
    for child in children:
        child.communicate(timeout=20)


def test_the_holder_of_a_port(hold: Callable[..., tuple[int, int]]) -> None:
    port, pid = hold()
    holder = holder_of(port)
    assert holder is not None
    assert holder.endswith(f" (pid {pid})")
    assert "python" in holder.lower()


def test_two_ports_are_not_confused(hold: Callable[..., tuple[int, int]]) -> None:
    for port, pid in [hold(), hold()]:
        assert str(holder_of(port)).endswith(f" (pid {pid})")


def test_who_talks_to_a_port_does_not_hold_it(hold: Callable[..., tuple[int, int]]) -> None:
    port, pid = hold()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        assert str(holder_of(port)).endswith(f" (pid {pid})")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_socket_for_both_families_holds_the_port_in_both(
    hold: Callable[..., tuple[int, int]], family: socket.AddressFamily
) -> None:
    port, pid = hold(socket.AF_INET6, "::")
    assert str(holder_of(port, family)).endswith(f" (pid {pid})")


def test_a_free_port_has_no_holder() -> None:
    assert holder_of(free_port()) is None


@pytest.mark.skipif(sys.platform != "linux", reason="about /proc")
def test_the_search_through_proc_is_bounded(
    hold: Callable[..., tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, _ = hold()
    monkeypatch.setattr(ports, "PATIENCE", -1.0)
    assert holder_of(port) is None


def test_the_holder_of_a_tcp_port_is_who_listens() -> None:
    program = (
        "import socket, sys; sock = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        "print(sock.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen(
            [sys.executable, "-c", program, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            connected = int(child.stdout.readline())
            accepted, _ = server.accept()
            with accepted:
                assert str(holder_of(port, scheme="tcp")).endswith(f" (pid {os.getpid()})")
                assert holder_of(connected, scheme="tcp") is None
                assert holder_of(port) is None  # the ports of UDP are others
            child.stdin.close()


# --------------------------------------------------------------------------------------- with the tools of elsewhere


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend to be on another system, where commands print what is given by the beginning of their command line."""

    def begin(system: str, outputs: dict[str, str | Exception]) -> None:
        def output(*command: str) -> str:
            printed = next((text for key, text in outputs.items() if " ".join(command).startswith(key)), "")
            if isinstance(printed, Exception):
                raise printed
            return printed

        monkeypatch.setattr(ports, "_output", output)
        monkeypatch.setitem(ports._FINDERS, sys.platform, ports._FINDERS[system])

    return begin


WINDOWS = {"netstat -ano -p UDPv6": NETSTAT_6, "netstat -ano -p UDP": NETSTAT, "tasklist /FI PID eq 9876 /FO": TASKLIST}


def test_windows(pretend: Callable[..., None]) -> None:
    pretend("win32", WINDOWS)
    assert holder_of(11001) == "pythonw.exe (pid 9876)"
    assert holder_of(11001, socket.AF_INET6) == "a program (pid 7777)"
    assert holder_of(11002) is None


NETSTAT_TCP = """
  Proto  Local Address          Foreign Address        State           PID
  TCP    192.168.1.20:11001     192.168.1.7:50123      ESTABLISHED     1111
  TCP    0.0.0.0:11001          0.0.0.0:0              ABH\u00d6REN       9876
  TCP    [::]:11002             [::]:0                 LISTENING       7777
"""


def test_tcp_elsewhere(pretend: Callable[..., None]) -> None:
    pretend("win32", {"netstat -ano -p TCP": NETSTAT_TCP, "tasklist /FI PID eq 9876 /FO": TASKLIST})
    assert holder_of(11001, scheme="tcp") == "pythonw.exe (pid 9876)"
    assert holder_of(11002, scheme="tcp") == "a program (pid 7777)"
    assert holder_of(50123, scheme="tcp") is None
    pretend("darwin", {"lsof -nP -i4TCP:11001 -sTCP:LISTEN ": LSOF})
    assert holder_of(11001, scheme="tcp") == "python3.12 (pid 48210)"
    assert holder_of(11001) is None


def test_macos(pretend: Callable[..., None]) -> None:
    pretend("darwin", {"lsof -nP -i4UDP:11001 ": LSOF, "lsof -nP -i6UDP:11002 ": LSOF})
    assert holder_of(11001) == "python3.12 (pid 48210)"
    assert holder_of(11002) == "Google Chrome Helper (pid 48333)"
    assert holder_of(11003) is None


@pytest.mark.parametrize("system", ["win32", "darwin"])
@pytest.mark.parametrize(
    "failure", [FileNotFoundError("no such tool"), PermissionError(), subprocess.TimeoutExpired("netstat", 3.0)]
)
def test_a_tool_that_fails_is_no_error(pretend: Callable[..., None], system: str, failure: Exception) -> None:
    pretend(system, {"": failure})
    assert holder_of(11001) is None


@pytest.mark.parametrize("system", ["win32", "darwin"])
@pytest.mark.parametrize("text", JUNK)
def test_junk_is_no_error(pretend: Callable[..., None], system: str, text: str) -> None:
    pretend(system, {"": text})
    assert holder_of(11001) is None


def test_an_unknown_system_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ports._FINDERS, sys.platform)
    assert holder_of(11001) is None


def test_a_tool_may_print_any_bytes_and_report_failure() -> None:
    program = "import sys; sys.stdout.buffer.write(b'\\xff\\x81ok'); sys.exit(1)"
    assert ports._output(sys.executable, "-c", program) == "\ufffd\ufffdok"


def test_a_tool_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "PATIENCE", 0.2)
    with pytest.raises(subprocess.TimeoutExpired):
        ports._output(sys.executable, "-c", "import time; time.sleep(20)")
