"""A rig as its coordinator knows it, and how large messages may be."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import ClassVar, TypeGuard

from rigsync._text import close_match, shortened
from rigsync.core.timing import check_seconds
from rigsync.errors import ConfigError, PayloadTooLarge

LISTEN_PORT = 11001
"""The port at which a rig listens unless told otherwise, the same as in `iblutil.io.net`."""
MAX_DATAGRAM = 65_507
"""Bytes of the largest UDP payload over IPv4: 65,535 less 20 of IP header and 8 of UDP header."""
MAX_MESSAGE = 1 << 26
"""Bytes of the largest message over TCP, unless told otherwise: 64 MiB."""
LONGEST_DESCRIPTION = 32_000
"""Bytes of an experiment description, which is part of almost every answer and has to leave room for the rest."""
MAX_VALUES = 500_000
"""Most values in one message. So many are read within half a second, while everybody else waits. In memory they take
more than as text, an empty list some thirty times as much. A long text is one value."""
LARGEST_MESSAGE = 1 << 30
"""Largest value of that setting: a computer has to hold a message several times over."""
_WIDE = re.compile(rb"[\xc4-\xf4]|\\u(?:[^0]|0[^0])")
_WIDEST = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")
_COUNTED = {1: 2, 2: 3, 4: 5}  # half bytes
PAUSE = 0.2
"""Seconds between a message of an iblutil rig and the next one to it, unless told otherwise. iblrig looks at its queue
as often as that, and programs of rigs rely on it."""
LONGEST_PAUSE = 60.0
"""Longest pause, in seconds: an EXPINTERRUPT waits for it too."""
LONGEST_NAME = 100
"""Characters of a rig's name, which is part of every answer to a probe."""
A_NAME = "the name of a rig as text that is not empty, without control characters and without white space at its ends"
"""What errors say that the name of a rig is to be."""
DIALECTS = ("auto", "iblutil", "rigsync")
"""Dialects of a rig in a configuration (docs/protocol.md sections 1 and 2); ``auto`` finds out (section 3)."""


def width_of(text: bytes) -> int:
    """Return how many bytes each character of a JSON text takes in memory: one is enough to make all of them wider."""
    if text.isascii() and b"\\u" not in text:
        return 1
    return 4 if _WIDEST.search(text) else 2 if _WIDE.search(text) else 1


def counted(size: int, width: int) -> int:
    """Return what a message over TCP counts for, whose characters take so many bytes each.

    While it is read there are its bytes, its text, and the texts in that: three to ten times as much. No message takes
    more than four times what it counts for.
    """
    return size * _COUNTED[width] // 2


def is_called(name: str, told: str) -> bool:
    """Whether a rig that calls itself `told` may be the one that a configuration calls `name`.

    Capitals make no difference. One side may use only one part of a name such as ``cameras:left``. A rig without a
    name may be any.
    """
    wanted, is_told = name.strip().casefold(), told.strip().casefold()
    return not is_told or is_told in (wanted, *wanted.split(":")) or wanted in is_told.split(":")


def is_pause(value: object) -> TypeGuard[float]:
    """Whether a value can be the pause of an iblutil rig, in seconds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST_PAUSE


@dataclass(frozen=True, slots=True)
class Address:
    """Where a rig listens, as `parse_uri` gives it.

    Parameters
    ----------
    scheme : str
        ``udp``, ``tcp``, or ``mqtt`` or ``mqtts`` of a broker.
    host : str
        An IP address in its shortest form, IPv6 without brackets, or a host name in lower case.
    port : int
        The port, 1 to 65535, or 0 for any free one where a rig listens.
    prefix : str
        The prefix of the topics at the broker.
    login : str
        User and password for the broker, as in the URI. They are neither shown nor compared.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""
    login: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def is_brokered(self) -> bool:
        """Whether a broker stands between both sides."""
        return self.scheme in ("mqtt", "mqtts")


def is_literal(address: Address) -> bool:
    """Whether the host is an IP address, which needs no look-up."""
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Room:
    """How large a message may be.

    Parameters
    ----------
    limit : int
        Bytes of the largest.
    rig : str, optional
        The rig whose limit it is.
    scheme : {'udp', 'tcp', 'mqtt', 'mqtts'}
        How it would be sent; the remedy depends on it.
    """

    limit: int = MAX_DATAGRAM
    rig: str | None = None
    scheme: str = "udp"

    def check(self, size: int, text: str = "") -> None:
        """Raise `PayloadTooLarge` where `size`, in bytes, is too much for a message with a JSON text in ASCII."""
        if self.scheme == "tcp" and counted(size, max(_COUNTED)) > self.limit:
            size = counted(size, width_of(text.encode("ascii")))
        if size > self.limit:
            raise PayloadTooLarge(size, self.limit, self.rig, self.scheme)


DATAGRAM_ROOM = Room()
"""That of a datagram."""


@dataclass(frozen=True, slots=True)
class RigConfig:
    """One rig, as its coordinator knows it.

    Parameters
    ----------
    name : str
        The name by which task code and results call it, for instance ``cameras:left``.
    address : Address
        Where it listens.
    timeout : float
        Seconds that it may take to answer, unless a push says otherwise.
    dialect : {'auto', 'iblutil', 'rigsync'}
        Its dialect; ``auto`` finds out on connecting.
    resend : bool
        Whether a request may be sent again to a rig of the iblutil dialect, which then runs its handlers twice.
    pause : float, optional
        Seconds between a message of a rig of the iblutil dialect and the next one to it, by default
        `Auxiliaries.refresh_rate`. Use 0 for a rig whose handlers are callbacks.
    max_message : int
        Bytes of the largest message to and from a ``tcp://`` rig; over ``udp://`` it is that of a datagram anyway.

    Raises
    ------
    ConfigError
        A value cannot be; its ``key`` is the name of the parameter.
    """

    name: str
    address: Address
    timeout: float = 10.0
    dialect: str = "auto"
    resend: bool = False
    pause: float | None = None
    max_message: int = MAX_MESSAGE
    tells_start: ClassVar[bool] = True
    """Whether its answers tell when it began to act. They do not if another program acts for it."""

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
            raise ConfigError(f"expected {A_NAME}, not {shortened(name, 80)}", key="name")
        if len(name) > LONGEST_NAME:
            raise ConfigError(
                f"expected the name of a rig in at most {LONGEST_NAME} characters, not {len(name)}",
                key="name",
            )
        if not isinstance(self.address, Address):
            raise ConfigError(
                f"expected an Address, as parse_uri() gives, not {shortened(self.address, 80)}", key="address"
            )
        check_seconds(self.timeout, "timeout")
        if self.dialect not in DIALECTS:
            hint = close_match(self.dialect, DIALECTS)
            raise ConfigError(
                f"expected one of {', '.join(DIALECTS)}, not {shortened(self.dialect, 80)}{hint}", key="dialect"
            )
        if not isinstance(self.resend, bool):
            raise ConfigError(f"expected true or false, not {shortened(self.resend, 80)}", key="resend")
        if self.pause is not None and not is_pause(self.pause):
            raise ConfigError(
                f"expected a number of seconds from 0 to {LONGEST_PAUSE:g}, not {shortened(self.pause, 80)}",
                key="pause",
            )
        if self.address.is_brokered:
            if self.dialect == "iblutil":
                raise ConfigError(
                    "a rig of the iblutil dialect has udp:// or tcp://: no broker carries it", key="dialect"
                )
            object.__setattr__(self, "dialect", "rigsync")
        most = self.max_message
        if not isinstance(most, int) or isinstance(most, bool) or not MAX_DATAGRAM <= most <= LARGEST_MESSAGE:
            raise ConfigError(
                f"expected a whole number of bytes from {MAX_DATAGRAM} to {LARGEST_MESSAGE}, not {shortened(most, 80)}",
                key="max_message",
            )

    @property
    def place(self) -> tuple[str | int, ...]:
        """Its place: host and port, and at a broker also prefix and name. No two rigs share one."""
        address = self.address
        return (address.host, address.port, *((address.prefix, self.name) if address.is_brokered else ()))

    @property
    def room(self) -> Room:
        """How large a message to this rig may be."""
        limit = self.max_message if self.address.scheme == "tcp" else MAX_DATAGRAM
        return Room(limit, self.name, self.address.scheme)
