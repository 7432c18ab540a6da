"""UDP: connected sockets towards each rig, and a listener that answers from the address that was asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from rigsync.core.coordinators import Standing
from rigsync.net.lines import (
    Address,
    Line,
    Listener,
    Pump,
    dual_stack,
    has_no_way,
    is_its_own_peer,
    is_wildcard,
    label,
    shown_host,
)

logger = logging.getLogger("rigsync.endpoint")

BUFFER = 1 << 20
"""Bytes of each UDP socket's buffers: a burst from all rigs fits. macOS sends no datagram that is larger than the send
buffer, so this lets it send 65,507 bytes."""
BATCH = 16
"""Datagrams that a listener handles before other things have their turn."""
TAKEN = 512
"""Datagrams that it takes from the kernel meanwhile. What is of those who belong here thus comes before a flood of
strangers, of which the kernel's buffer may hold thousands, and those seconds of work."""
STRANGERS = 1024
"""Datagrams of strangers that wait. Any more are lost, as where the kernel has no room."""
STRANGERS_BYTES = 4 * BUFFER
"""Bytes of these: as many as a burst that the kernel would have kept."""
MOST_UNSENT = 256
"""Most datagrams that wait until the kernel takes more. Further ones are lost, as on a choked network."""
MOST_UNREAD = 1024
"""Most datagrams on a line that are read before a refusal is reported."""
LARGEST_READ = 65_536
"""Most bytes of a datagram."""

_IP_PKTINFO: int = getattr(socket, "IP_PKTINFO", {"linux": 8, "darwin": 26}.get(sys.platform, 0))
_IPV6_PKTINFO: int = getattr(socket, "IPV6_PKTINFO", 0)
_IPV6_RECVPKTINFO: int = getattr(socket, "IPV6_RECVPKTINFO", 0)
_TELLS_ADDRESS = hasattr(socket.socket, "recvmsg") and all((_IP_PKTINFO, _IPV6_PKTINFO, _IPV6_RECVPKTINFO))
"""Whether the kernel can tell which address a datagram came to. On Windows Python cannot ask."""
_IN_PKTINFO = struct.Struct("@I4s4s")  # interface, address to answer from, address asked (ip(7))
_IN6_PKTINFO = struct.Struct("@16sI")  # address, interface (RFC 3542 section 6)

_STRANGER = Standing.STRANGER


def udp_socket(family: int) -> socket.socket:
    """Return a UDP socket that does not block, with room for a burst. The caller binds or connects it."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        with contextlib.suppress(OSError):  # instead of granting less, a system may refuse
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    return sock


class _Complaints:
    """Logs an error of a socket once. An unplugged cable repeats it for each datagram."""

    def __init__(self, name: object):
        self._name = name
        self._said: set[int | None] = set()

    def note(self, error: Exception) -> None:
        number = getattr(error, "errno", None)
        if number not in self._said:
            self._said.add(number)
            logger.warning("%s: %s; sending again by the timers", self._name, error)


async def open_udp_line(pump: Pump, line: Any, family: int, address: Address) -> Line:
    """Open a connected socket: it tells whose port refuses, and keeps out datagrams from elsewhere.

    If nothing can reach the address now, the line loses all datagrams until it is opened again.
    """
    try:
        sock = connected_socket(family, address)
    except OSError as error:
        if not has_no_way(error):
            raise
        return _NoWay(line, family, address, error)
    try:
        return _UdpLine(pump, line, sock)
    except BaseException:
        sock.close()
        raise


def own_address(family: int, address: Address) -> str | None:
    """Return the address from which this computer reaches another one; None if there is no way."""
    try:
        with connected_socket(family, address) as sock:
            return str(sock.getsockname()[0])
    except OSError:
        return None


class _NoWay(Line):
    """A line towards an address that nothing can reach yet. It loses each datagram, as a network does."""

    def __init__(self, name: object, family: int, address: Address, error: OSError):
        self._family, self._address, self.problem = family, address, error
        _Complaints(label(name)).note(error)

    def is_stranded(self) -> bool:
        return own_address(self._family, self._address) is not None


def connected_socket(family: int, address: Address) -> socket.socket:
    """Return a UDP socket towards an address. It hears nobody else, and not itself. An OSError says there is no way."""
    sock = udp_socket(family)
    try:
        sock.connect(address)
        if is_its_own_peer(sock):
            other = connected_socket(family, address)  # while this one is open, so that the next gets another port
            sock.close()
            return other
    except BaseException:
        sock.close()
        raise
    return sock


class _UdpSocket:
    """One UDP socket on the event loop, without asyncio's transport, which costs as much again for each datagram."""

    def __init__(self, pump: Pump, sock: socket.socket, name: str):
        self._pump, self._socket = pump, sock
        self._complaints = _Complaints(name)
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, Address]] = deque()

    def _keep(self, data: bytes, destination: Address) -> None:
        """Let a datagram wait until the kernel takes more."""
        if not self._unsent:
            self._loop.add_writer(self._socket, self._write)
        if len(self._unsent) < MOST_UNSENT:
            self._unsent.append((data, destination))

    def _write(self) -> None:
        while self._unsent:
            try:
                self._transmit(*self._unsent[0])
            except (BlockingIOError, InterruptedError):
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._socket)

    def _transmit(self, data: bytes, destination: Address) -> None:
        raise NotImplementedError

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()


class _UdpLine(_UdpSocket, Line):
    """A connected socket towards a rig."""

    def __init__(self, pump: Pump, line: Any, sock: socket.socket):
        super().__init__(pump, sock, label(line))
        self._line = line
        self._refused = False
        self._loop.add_reader(sock, self._read)

    def _read(self) -> None:
        try:
            data = self._socket.recv(LARGEST_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._note(error)
            return
        self._pump.receive(data, self._line)

    def _note(self, error: OSError) -> None:
        # Linux and macOS report an ICMP refusal as the first, Windows as the second.
        if isinstance(error, (ConnectionRefusedError, ConnectionResetError)):
            self._refused = True
            self._loop.call_soon(self._pump.refuse, self._line)
        else:
            self.problem = error
            self._complaints.note(error)

    def send(self, line: Any, data: bytes) -> None:
        self.problem = None
        if self._socket.fileno() < 0:
            return
        if self._unsent:
            self._keep(data, ())
            return
        self._refused = False
        try:
            self._transmit(data, ())
            if self._refused:
                # The refusal of an earlier datagram was reported in place of sending this one.
                self._transmit(data, ())
        except (BlockingIOError, InterruptedError):
            self._keep(data, ())

    def _transmit(self, data: bytes, destination: Address) -> None:
        try:
            self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            self._note(error)

    def read_waiting(self) -> None:
        """Hand over what has come and was not read yet."""
        for _ in range(MOST_UNREAD):
            if self._socket.fileno() < 0:  # handling the last one has closed it
                return
            try:
                data = self._socket.recv(LARGEST_READ)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an error of another datagram that was sent
            self._pump.receive(data, self._line)

    def is_stranded(self) -> bool:
        """Whether this computer now reaches the rig from another of its addresses."""
        own = own_address(self._socket.family, self._socket.getpeername())
        return own is not None and own != self._socket.getsockname()[0]


async def open_udp_listener(pump: Pump, family: int, address: Address) -> Listener:
    """Open a socket that listens, and answers from the address that was asked.

    A coordinator's connected socket takes nothing from another address, and a plain socket on all addresses answers
    from the one that the system chooses. An OSError says that the address is in use, or is not one of this machine's.
    """
    several = is_wildcard(address)
    if _TELLS_ADDRESS or not several:
        sock = _bound(family, address)
        try:
            return _UdpListener(pump, sock, several)
        except BaseException:
            sock.close()
            raise
    listeners = _UdpListeners(pump, family, address)
    try:
        await listeners.add_each_address()
    except BaseException:
        listeners.close()
        raise
    return listeners


def _bound(family: int, address: Address, is_shared: bool = False) -> socket.socket:
    sock = udp_socket(family)
    try:
        dual_stack(sock, address)
        if is_shared and sys.platform != "win32":  # otherwise a socket for one address would be refused beside all
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


class _UdpListener(_UdpSocket):
    """A listening socket that learns from the kernel which of several addresses was asked."""

    def __init__(self, pump: Pump, sock: socket.socket, several: bool, asked: Any = None):
        super().__init__(pump, sock, "listening socket")
        self._strangers: deque[tuple[bytes, Address]] = deque()  # what has come of them and is not handled yet
        self._strangers_bytes = 0
        self._sources: Counter[Address] = Counter()  # of these
        self._rest: asyncio.Handle | None = None  # handles it
        self.address: Address = sock.getsockname()
        self._space, self._asked = 0, asked
        self._is_plain = sock.family == socket.AF_INET and asked is None and not several
        self._at_once = 1
        """Datagrams that are read in one turn of the loop."""
        if several:
            self._space = socket.CMSG_SPACE(_IN6_PKTINFO.size) + socket.CMSG_SPACE(_IN_PKTINFO.size)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            with contextlib.suppress(OSError):  # not every system takes it for an IPv6 socket
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._loop.add_reader(sock, self._read)

    def _read(self) -> None:
        handled = 0
        is_alone = self._at_once == 1 and not self._strangers  # whoever sends it, nobody waits behind it
        # A read in vain costs as much as another one. So the next turn reads one datagram, and each one after it eight
        # times as many as the last, as long as all have come.
        for _ in range(self._at_once):
            if self._socket.fileno() < 0:  # handling the last one has closed it
                return
            if handled == BATCH:
                break
            try:
                if self._space:
                    data, ancillary, _, address = self._socket.recvmsg(LARGEST_READ, self._space)
                else:
                    data, address = self._socket.recvfrom(LARGEST_READ)
            except (BlockingIOError, InterruptedError):
                self._at_once = 1
                break
            except (ConnectionRefusedError, ConnectionResetError):
                continue  # of something sent: a coordinator has gone
            except OSError as error:
                self._complaints.note(error)
                break
            source = address if self._is_plain else _source(address, _asked(ancillary) if self._space else self._asked)
            # What comes from one source keeps its order.
            if is_alone or (source[:2] not in self._sources and self._pump.standing(data, source) is not _STRANGER):
                self._pump.receive(data, source)
                handled += 1
            elif len(self._strangers) < STRANGERS and self._strangers_bytes + len(data) <= STRANGERS_BYTES:
                self._strangers.append((data, source))
                self._strangers_bytes += len(data)
                self._sources[source[:2]] += 1
        else:
            self._at_once = min(TAKEN, 8 * self._at_once)
        for _ in range(BATCH - handled):
            if not self._strangers or self._socket.fileno() < 0:
                return
            data, source = self._strangers.popleft()
            self._strangers_bytes -= len(data)
            self._sources[source[:2]] -= 1
            if not self._sources[source[:2]]:
                del self._sources[source[:2]]
            self._pump.receive(data, source)
        if self._strangers and not self._rest and self._socket.fileno() >= 0:
            self._rest = self._loop.call_soon(self._read_rest)

    def _read_rest(self) -> None:
        self._rest = None
        if self._socket.fileno() >= 0:
            self._read()

    def send(self, destination: Address, data: bytes) -> None:
        if self._unsent:
            self._keep(data, destination)
            return
        try:
            self._transmit(data, destination)
        except (BlockingIOError, InterruptedError):
            self._keep(data, destination)

    def _transmit(self, data: bytes, destination: Address) -> None:
        is_plain = len(destination) == 2 or not isinstance(destination[2], tuple)
        remote, asked = (destination, None) if is_plain else destination[2:]
        try:
            if asked is None or not self._answer_from(asked, data, remote):
                self._socket.sendto(data, remote)
        except (BlockingIOError, InterruptedError):
            raise
        except (ConnectionRefusedError, ConnectionResetError):
            pass  # of something sent before: a coordinator has gone
        except OSError as error:
            self._complaints.note(error)

    def _answer_from(self, asked: tuple[int, int, bytes], data: bytes, remote: Address) -> bool:
        try:
            self._socket.sendmsg([data], [asked], 0, remote)
        except (BlockingIOError, InterruptedError, ConnectionError):
            raise
        except OSError:
            return False  # the machine has lost that address, or a broadcast address was asked: answer from any
        return True


def _source(address: Address, asked: Any) -> Address:
    """Return host and port and, if the answer needs them, the whole address and the way to answer."""
    host = shown_host(address[0])
    if asked is None and host == address[0] and len(address) == 2:
        return address
    return host, address[1], address, asked


def _asked(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int, int, bytes] | None:
    """Return the data by which `sendmsg` answers from the address that was asked."""
    found = None
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO and len(data) >= _IN6_PKTINFO.size:
            local, interface = _IN6_PKTINFO.unpack_from(data)
            scoped = local[0] == 0xFE and local[1] & 0xC0 == 0x80  # link-local: means nothing without its interface
            return level, kind, _IN6_PKTINFO.pack(local, interface if scoped else 0)
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _IN_PKTINFO.size:
            _, local, asked = _IN_PKTINFO.unpack_from(data)
            # macOS fills in only the second. Routes choose the interface, as for any answer.
            found = level, kind, _IN_PKTINFO.pack(0, local if any(local) else asked, b"\0\0\0\0")
    return found


class _UdpListeners:
    """One socket for all addresses and one for each, for kernels such as Windows' that do not tell which was asked."""

    def __init__(self, pump: Pump, family: int, address: Address):
        self._pump, self._family = pump, family
        self._listeners: list[_UdpListener] = []
        self._add(address)
        self.address: Address = self._listeners[0].address

    async def add_each_address(self) -> None:
        """Listen on each address of this machine."""
        with contextlib.suppress(OSError):  # only a machine with several addresses needs it
            found = await asyncio.get_running_loop().getaddrinfo(
                socket.gethostname(), self.address[1], family=self._family, type=socket.SOCK_DGRAM
            )
            for *_, address in found:
                try:
                    self._add(address)
                except OSError as error:
                    logger.debug("cannot listen on %s by itself: %s", address[0], error)

    def _add(self, address: Address) -> None:
        sock = _bound(self._family, address, is_shared=True)
        self._listeners.append(_UdpListener(self._pump, sock, False, asked=len(self._listeners)))

    def send(self, destination: Address, data: bytes) -> None:
        host, port, remote, asked = destination
        self._listeners[asked].send((host, port, remote, None), data)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
