"""The network interfaces of this computer, which Python's standard library does not list."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import ipaddress
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_IN_ADDRESS = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}
"""Place and length of the IP address in a socket address, the same on Linux, macOS and BSD."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One address of this computer."""

    name: str
    """The system's name of the interface; empty if it does not say."""
    address: IPInterface
    """The address, with the network that it is in."""


def own_interfaces() -> list[Interface]:
    """Return the addresses of this computer; none if the system does not list them.

    Windows lists those of IPv4 only.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a C library that is not known here
        return list(_of_windows() if sys.platform == "win32" else _of_posix())
    return []


class _IfAddrs(ctypes.Structure):
    """The beginning of ``struct ifaddrs``, getifaddrs(3)."""


_IfAddrs._fields_ = [
    ("next", ctypes.POINTER(_IfAddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
]


def _of_posix() -> Iterator[Interface]:
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    library.freeifaddrs.argtypes = [ctypes.c_void_p]
    library.freeifaddrs.restype = None
    first = ctypes.POINTER(_IfAddrs)()
    if library.getifaddrs(ctypes.byref(first)):
        raise OSError(ctypes.get_errno(), "getifaddrs")
    try:
        entry = first
        while entry:
            found = entry.contents
            if found.address and found.netmask:
                family = _family(found.address)
                if family in _IN_ADDRESS:
                    address, mask = _ip_bytes(found.address, family), _ip_bytes(found.netmask, family)
                    yield Interface(found.name.decode(errors="replace"), _interface(address, mask))
            entry = found.next
    finally:
        library.freeifaddrs(first)


def _family(sockaddr: int) -> int:
    if sys.platform == "linux":
        return ctypes.c_uint16.from_address(sockaddr).value
    return ctypes.c_uint8.from_address(sockaddr + 1).value  # after the length


def _ip_bytes(sockaddr: int, family: int) -> bytes:
    offset, length = _IN_ADDRESS[socket.AddressFamily(family)]
    return ctypes.string_at(sockaddr + offset, length)


def _interface(address: bytes, mask: bytes) -> IPInterface:
    ones = int.from_bytes(mask, "big").bit_count()
    return ipaddress.ip_interface((address, ones))


class _AddressRow(ctypes.Structure):
    """MIB_IPADDRROW of iphlpapi."""

    _fields_ = (
        ("address", ctypes.c_ubyte * 4),
        ("index", ctypes.c_ulong),
        ("mask", ctypes.c_ubyte * 4),
        ("broadcast", ctypes.c_ulong),
        ("reassembly", ctypes.c_ulong),
        ("unused", ctypes.c_ushort),
        ("kind", ctypes.c_ushort),
    )


def _of_windows() -> Iterator[Interface]:
    # By its name at run time: only Windows has `windll`.
    table_of = getattr(ctypes, "windll").iphlpapi.GetIpAddrTable  # noqa: B009
    size = ctypes.c_ulong(0)
    table_of(None, ctypes.byref(size), False)  # says how much room it needs
    table = ctypes.create_string_buffer(size.value)
    if code := table_of(table, ctypes.byref(size), False):
        raise OSError(code, "GetIpAddrTable")
    count = ctypes.c_ulong.from_buffer(table).value
    for row in (_AddressRow * count).from_buffer(table, ctypes.sizeof(ctypes.c_ulong)):
        yield Interface("", _interface(bytes(row.address), bytes(row.mask)))
