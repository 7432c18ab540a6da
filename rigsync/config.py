"""What rigs there are and how they are timed: from a mapping or a YAML file to frozen dataclasses, checked.

Nothing here goes on the network, but for `resolve`, which may ask a name server.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import ipaddress
import math
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from rigsync.errors import ConfigError, PayloadTooLarge, UnknownRig

LISTEN_PORT = 11001
"""The port at which a rig listens unless told otherwise, the same as in `iblutil.io.net`."""

SCHEMES = {"udp": "udp", "tcp": "tcp", "ws": "tcp"}
"""How rigs are spoken to, by what stands before ``://``; iblutil means plain TCP by ws (docs/protocol.md section 1)."""

MAX_DATAGRAM = 65_507
"""Bytes of the largest UDP payload over IPv4: 65,535 less 20 of IP header and 8 of UDP header."""
MAX_MESSAGE = 1 << 26
"""Bytes of the largest message over TCP, unless told otherwise: 64 MiB."""
MAX_VALUES = 500_000
"""Values in one message, as many as are read within half a second: reading holds up everybody else. Once they are read
they take more memory than as text, an empty list some thirty times as much. A long text is one value."""
LARGEST_MESSAGE = 1 << 30
"""Bytes to which that may be set: a computer has to hold a message several times over."""

PAUSE = 0.2
"""Seconds that an iblutil rig has after a message of its own before the next one leaves, unless told otherwise. iblrig
looks at its queue so often, and programs of rigs rely on the time that this gives them."""

LONGEST_PAUSE = 60.0
"""Seconds that such a pause may last: an EXPINTERRUPT waits for it too."""

LONGEST_NAME = 100
"""Characters of a rig's name, which is part of every answer to a probe."""
SHORTEST = 0.001
MOST = 1000
"""Bounds of what a `Timing` may hold, in seconds and in number: beyond them a link would take a computer for itself."""

DIALECTS = ("auto", "iblutil", "rigsync")
"""What a rig may be said to speak (docs/protocol.md sections 1 and 2); ``auto`` finds out (section 3)."""

_RIG_KEYS = ("uri", "timeout", "dialect", "resend", "pause", "max_message")
# RFC 1123 section 2.1, and underscores since names of Windows machines have them. A trailing dot makes it absolute.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII | re.IGNORECASE)
_MAX_HOST_NAME = 253  # characters without the trailing dot (RFC 1035 section 2.3.4)
_ZONE = re.compile(r"[\w.~-]+", re.ASCII)  # the zone of fe80::1%eth0 (RFC 6874 section 2)


# --------------------------------------------------------------------------------------------------------- helpers


def _checked_map(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"expected a map, with one key and its value in each line, not {_shown(value)}", key=key)
    return value


def _check_keys(options: Mapping[str, Any], known: Iterable[str], key: str = "") -> None:
    known = list(known)
    for name in options:
        if name not in known:
            path = f"{key}.{name}" if key else name
            problem = f"unknown key {_shown(name)}{close_match(name, known)}; the keys here are {', '.join(known)}"
            raise ConfigError(problem, key=path)


def _check_seconds(value: object, key: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise ConfigError(f"expected a number of seconds above 0, not {_shown(value)}", key=key)


def is_called(name: str, told: str) -> bool:
    """Tell whether a rig that says that it is `told` may be the one that a configuration calls `name`.

    Capitals make no difference. Of a name such as ``cameras:left`` one side may say one part only. A rig that says no
    name may be any.
    """
    wanted, is_told = name.strip().casefold(), told.strip().casefold()
    return not is_told or is_told in (wanted, *wanted.split(":")) or wanted in is_told.split(":")


def is_pause(value: object) -> TypeGuard[float]:
    """Tell whether a value can be the seconds of an iblutil rig's pause."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST_PAUSE


def checked_lease(lease: object) -> float:
    """Return a rig's lease in seconds, 0 for none.

    Raises
    ------
    ConfigError
        It is not a number of seconds from 0 on; the key is ``lease``.
    """
    if isinstance(lease, bool) or not isinstance(lease, (int, float)) or not 0 <= lease <= sys.float_info.max:
        raise ConfigError(f"expected a number of seconds, or 0 for never, not {_shown(lease)}", key="lease")
    return float(lease)


def close_match(wanted: object, known: Iterable[str]) -> str:
    """Return ``; did you mean 'name'?`` where one of the known names is close to what was wanted, else nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(wanted).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def checked_timeout(timeout: object) -> float | None:
    """Return a timeout in seconds, None for None.

    Raises
    ------
    TypeError
        It is no number.
    ValueError
        It is not positive.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"a timeout is a number of seconds, not {type(timeout).__name__}")
    try:
        seconds = float(timeout)
    except OverflowError:
        seconds = math.inf
    if math.isnan(seconds) or seconds <= 0:
        raise ValueError(f"a timeout is a positive number of seconds, not {timeout!r}")
    return seconds


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextmanager
def _under(key: str) -> Iterator[None]:
    """Put the keys of errors below this one."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(error.problem, key=f"{key}.{error.key}" if error.key else key) from None


# ------------------------------------------------------------------------------------------------------ addresses


@dataclass(frozen=True, slots=True)
class Address:
    """Where a rig listens, as `parse_uri` gives it.

    Parameters
    ----------
    scheme : str
        ``udp`` or ``tcp``.
    host : str
        An IP address in its shortest form, IPv6 without brackets, or a host name in lower case.
    port : int
        The port, 1 to 65535, or 0 for any free one where a rig listens.
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_uri(text: object, *, allow_port_zero: bool = False) -> Address:
    """Read the address of a rig: ``[udp://|tcp://]host[:port]``, UDP where neither stands.

    Parameters
    ----------
    text : str or ipaddress.IPv4Address or ipaddress.IPv6Address
        The host is an IPv4 address, an IPv6 address (in brackets where a port follows) or a host name in any case.
        The port is `LISTEN_PORT` where none is given. ``ws://`` is another way to write ``tcp://``, as in iblutil.
    allow_port_zero : bool
        Accept port 0, with which a rig listens at any free port.

    Returns
    -------
    Address
        The address in one normal form, so that equal addresses compare equal.

    Raises
    ------
    ConfigError
        The text is not such an address. The error has no file, line or key: the caller knows them.
    """
    if isinstance(text, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        text = str(text)
    try:
        return _address(text, lowest_port=0 if allow_port_zero else 1)
    except ValueError as error:
        raise ConfigError(
            f"{_shown(text)} is not the address of a rig: {error}; "
            f"expected [udp://|tcp://]host[:port], for instance udp://192.168.1.20:{LISTEN_PORT}"
        ) from None


def _address(text: object, lowest_port: int) -> Address:
    if not isinstance(text, str):
        raise ValueError(f"it is of type {type(text).__name__}, not text")  # noqa: TRY004 - becomes a ConfigError
    if any(character.isspace() for character in text):
        raise ValueError("there is white space in it")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "udp", text
    if scheme.lower() not in SCHEMES:
        raise ValueError("only udp:// and tcp:// are supported")
    scheme = SCHEMES[scheme.lower()]
    if any(character in rest for character in "/?#@"):
        raise ValueError("neither user, path nor query may stand in it")
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if ":" not in host or not bracket or tail[:1] not in ("", ":"):
            raise ValueError("brackets stand around an IPv6 address, before the port")
        colon, port = tail[:1], tail[1:]
    elif rest.count(":") > 1:
        host, colon, port = rest, "", ""  # an IPv6 address without brackets, hence without port
    else:
        host, colon, port = rest.partition(":")
    if not colon:
        return Address(scheme, _host(host), LISTEN_PORT)
    if not re.fullmatch("[0-9]{1,5}", port) or not lowest_port <= int(port) <= 65535:
        raise ValueError(f"the port is a number from {lowest_port} to 65535")
    return Address(scheme, _host(host), int(port))


def _host(text: str) -> str:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        name = text.removesuffix(".")
        if not name:
            raise ValueError("it has no host") from None
        if not _HOST_NAME.fullmatch(text) or len(name) > _MAX_HOST_NAME:
            raise ValueError(
                f"{_shown(text)} is neither an IP address nor a host name (letters, digits, hyphens, underscores, dots)"
            ) from None
        if name.isdigit():
            raise ValueError("a port alone; an address stands before it, such as 0.0.0.0 where a rig listens") from None
        # No top-level domain is a number (RFC 3696 section 2): this is an IPv4 address with a typing error.
        if name.rpartition(".")[2].isdigit():
            raise ValueError(f"{_shown(text)} is not an IPv4 address, which has four numbers from 0 to 255") from None
        return text.lower()
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.scope_id is not None and not _ZONE.fullmatch(ip.scope_id):
        raise ValueError("after % stands the name or number of a network interface")
    # ::ffff:192.168.1.20 is an IPv4 address in disguise, and on Windows an IPv6 socket cannot reach it.
    return str(ip.ipv4_mapped or ip)


def is_literal(address: Address) -> bool:
    """Tell whether the host is an IP address, which needs no look-up."""
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return False
    return True


def resolve_all(config: RigConfig) -> list[tuple[int, tuple[Any, ...]]]:
    """Find the socket addresses of a rig. Blocks, for seconds where a name server does not answer.

    Parameters
    ----------
    config : RigConfig
        The rig.

    Returns
    -------
    list of (int, tuple)
        In the order in which to try them, each with its family: ``socket.AF_INET``, which is preferred, or
        ``socket.AF_INET6``, and what ``connect`` of a socket of that family takes.

    Raises
    ------
    ConfigError
        The host is unknown, or the network interface of an IPv6 address is.
    """
    host, port, literal = config.address.host, config.address.port, is_literal(config.address)
    flags = socket.AI_NUMERICHOST if literal else 0
    try:
        kind = socket.SOCK_STREAM if config.address.scheme == "tcp" else socket.SOCK_DGRAM
        found = socket.getaddrinfo(host, port, type=kind, flags=flags)
    except (OSError, UnicodeError) as error:  # a UnicodeError comes from a name that IDNA cannot encode
        reason = getattr(error, "strerror", None) or error
        problem = f"the host {host!r} of rig {config.name!r} cannot be resolved ({reason}); check "
        if literal:
            problem += "whether this computer has IPv6 and the network interface named after %"
        else:
            problem += f"its spelling, and whether `ping {host}` finds it; or give its IP address instead"
        raise ConfigError(problem, key=f"rigs.{config.name}.uri") from error
    addresses = dict.fromkeys((int(family), sockaddr) for family, _, _, _, sockaddr in found)
    return sorted(addresses, key=lambda entry: entry[0] != socket.AF_INET)


def resolve(config: RigConfig) -> tuple[int, tuple[Any, ...]]:
    """Find the first socket address of a rig, as `resolve_all` does."""
    return resolve_all(config)[0]


def check_distinct(resolved: Mapping[str, tuple[Any, ...]]) -> None:
    """Check that no two rigs have one address.

    Parameters
    ----------
    resolved : mapping of str to tuple
        Name of rig to scheme and socket address: (scheme, host, port) or, for IPv6, (scheme, host, port, flow, zone).

    Raises
    ------
    ConfigError
        Two rigs have the same; the text names both.
    """
    taken: dict[tuple[Any, ...], str] = {}
    for name, sockaddr in resolved.items():
        first = taken.setdefault(sockaddr, name)
        if first != name:
            raise ConfigError(
                f"rigs {first!r} and {name!r} have the same address, host {sockaddr[1]} and port {sockaddr[2]}; "
                "give each rig an address of its own",
                key=f"rigs.{name}.uri",
            )


# ---------------------------------------------------------------------------------------------------------- timing


@dataclass(frozen=True, slots=True)
class Timing:
    """Every time and count that rigsync waits by; times in seconds, reasons beside each.

    Raises
    ------
    ConfigError
        A value is not a number above 0, a count is not a whole number, or two values contradict each other; its
        ``key`` is the name of the field.
    """

    # Liveness (docs/protocol.md section 3).
    beat: float = 1.0  # between two probes of a link
    burst_count: int = 8  # probes on connecting, so that a few lost ones do not delay it ...
    burst_interval: float = 0.02  # ... and between two of them: many round trips of a lab network
    suspect_beats: int = 3  # silent beats after which a link is suspect: two datagrams in a row may get lost
    lost_beats: int = 5  # silent beats after which a link is lost, and a coordinator forgotten by its rigs
    overdue_probes: int = 8  # probes a beat while a link is overdue, so that it is not lost to lost datagrams
    iblutil_beat: float = 15.0  # between two probes of an iblutil rig, which has to echo each
    iblutil_suspect_probes: int = 2  # unanswered probes after which an iblutil rig is suspect ...
    iblutil_lost_probes: int = 3  # ... and lost
    clock_bound: float = 0.001  # a clock that is known less well than this is measured as often as an overdue link
    lost_grace: float = 1.0  # a lost rig is asked all the same; its outcome is settled after this much more silence
    # Resending (docs/protocol.md section 2, after RFC 6298 and RFC 7252).
    resend_first: float = 0.1  # before any round trip was measured: ten of a slow lab network
    resend_min: float = 0.025  # below that, the scheduling of a busy computer looks like loss
    resend_max: float = 1.0  # the back-off ends here: a person waits
    ask_again: float = 1.0  # after an ack, which recovers a lost reply
    ack_delay: float = 0.005  # a rig that cannot answer within this time acknowledges first
    # Waits.
    echo_timeout: float = 1.0  # after which an iblutil peer that awaits an echo closes its socket (section 1)
    connect_timeout: float = 2.0  # the constructor of `Auxiliaries` waits so long for every rig to answer

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float):
                _check_seconds(value, field.name)
                if value < SHORTEST:
                    raise ConfigError(f"expected at least {SHORTEST} s, not {_shown(value)}", key=field.name)
            elif not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
                raise ConfigError(f"expected a whole number from 1 to {MOST}, not {_shown(value)}", key=field.name)
        self._check_less("suspect_beats", "lost_beats")
        self._check_less("iblutil_suspect_probes", "iblutil_lost_probes")
        if self.resend_min > self.resend_max:
            raise ConfigError(f"{self.resend_min} is over resend_max, which is {self.resend_max}", key="resend_min")

    def _check_less(self, low: str, high: str) -> None:
        if getattr(self, low) >= getattr(self, high):
            raise ConfigError(
                f"{getattr(self, low)} is not below {high}, which is {getattr(self, high)}: "
                "a rig is suspect before it is lost",
                key=low,
            )

    @property
    def suspect_after(self) -> float:
        """Seconds of silence after which a link is suspect."""
        return self.suspect_beats * self.beat

    @property
    def lost_after(self) -> float:
        """Seconds of silence after which a link is lost."""
        return self.lost_beats * self.beat

    @property
    def overdue_interval(self) -> float:
        """Seconds between two probes of a link that is overdue."""
        return self.beat / self.overdue_probes


# ------------------------------------------------------------------------------------------------------------ rigs


@dataclass(frozen=True, slots=True)
class Room:
    """How large a message may be.

    Parameters
    ----------
    limit : int
        Bytes of the largest.
    rig : str, optional
        The rig that allows no more.
    scheme : {'udp', 'tcp'}
        How it would be sent, on which the remedy depends.
    """

    limit: int = MAX_DATAGRAM
    rig: str | None = None
    scheme: str = "udp"

    def check(self, size: int) -> None:
        """Raise `PayloadTooLarge` where `size`, in bytes, is too much."""
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
        What it speaks; ``auto`` finds out on connecting.
    resend : bool
        Whether a request may be sent again to a rig of the iblutil dialect, which then runs its handlers twice.
    pause : float, optional
        Seconds that a rig of the iblutil dialect has after each message of its own before the next one leaves; by
        default as `Auxiliaries.refresh_rate` says. 0 is for a rig whose handlers are callbacks.
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

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
            raise ConfigError(
                "expected the name of a rig as text that is not empty, without control characters and without "
                f"white space at its ends, not {_shown(name)}",
                key="name",
            )
        if len(name) > LONGEST_NAME:
            raise ConfigError(
                f"expected the name of a rig in at most {LONGEST_NAME} characters, not {len(name)}",
                key="name",
            )
        if not isinstance(self.address, Address):
            raise ConfigError(f"expected an Address, as parse_uri() gives, not {_shown(self.address)}", key="address")
        _check_seconds(self.timeout, "timeout")
        if self.dialect not in DIALECTS:
            hint = close_match(self.dialect, DIALECTS)
            raise ConfigError(f"expected one of {', '.join(DIALECTS)}, not {_shown(self.dialect)}{hint}", key="dialect")
        if not isinstance(self.resend, bool):
            raise ConfigError(f"expected true or false, not {_shown(self.resend)}", key="resend")
        if self.pause is not None and not is_pause(self.pause):
            raise ConfigError(f"expected seconds from 0 to {LONGEST_PAUSE:g}, not {_shown(self.pause)}", key="pause")
        most = self.max_message
        if not isinstance(most, int) or isinstance(most, bool) or not MAX_DATAGRAM <= most <= LARGEST_MESSAGE:
            raise ConfigError(
                f"expected a whole number of bytes from {MAX_DATAGRAM} to {LARGEST_MESSAGE}, not {_shown(most)}",
                key="max_message",
            )

    @property
    def room(self) -> Room:
        """How large a message to this rig may be."""
        limit = self.max_message if self.address.scheme == "tcp" else MAX_DATAGRAM
        return Room(limit, self.name, self.address.scheme)


@dataclass(frozen=True, slots=True)
class Rigs:
    """All rigs of an experiment.

    Parameters
    ----------
    rigs : mapping of str to RigConfig
        The rigs by name, in the order in which they are told; kept as a read-only copy.
    timing : Timing
        The times by which they are asked and watched.
    source : str, optional
        The file that they come from.
    may_share : bool
        Whether two names may have one UDP address, as in the map of names to URIs that iblrig's task code passes: each
        message then goes there for both.

    Raises
    ------
    ConfigError
        A rig stands under another name than its own, or two rigs have one address and may not.
    """

    rigs: Mapping[str, RigConfig]
    timing: Timing = Timing()
    source: str | None = None
    may_share: bool = False

    def __post_init__(self) -> None:
        for name, rig in self.rigs.items():
            if rig.name != name:
                raise ConfigError(f"the rig under this key calls itself {rig.name!r}", key=f"rigs.{name}")
        self.check_distinct({name: (rig.address.host, rig.address.port) for name, rig in self.rigs.items()})
        object.__setattr__(self, "rigs", MappingProxyType(dict(self.rigs)))

    def check_distinct(self, found: Mapping[str, tuple[Any, ...]]) -> None:
        """Check that no two rigs have one address that may not.

        Parameters
        ----------
        found : mapping of str to tuple
            Name of rig to socket address: (host, port), or, for IPv6, (host, port, flow, zone).

        Raises
        ------
        ConfigError
            Two rigs have the same; the text names both.
        """
        addresses = {name: (self.rigs[name].address.scheme, *address) for name, address in found.items()}
        check_distinct({n: address for n, address in addresses.items() if not self.may_share or address[0] == "tcp"})

    def room(self, names: Iterable[str] | None = None) -> Room:
        """Return how large a message to all of these rigs may be; to all there are by default.

        Parameters
        ----------
        names : iterable of str, optional
            Names of rigs.
        """
        rooms = (self.rigs[name].room for name in (self.rigs if names is None else names))
        return min(rooms, key=lambda room: room.limit, default=DATAGRAM_ROOM)

    def matching(self, patterns: str | Iterable[str]) -> list[str]:
        """Return the names that are meant, in the order of the rigs.

        Parameters
        ----------
        patterns : str or iterable of str
            Names, or patterns such as ``cameras:*`` (with ``*``, ``?`` and ``[...]``, upper and lower case told apart).

        Raises
        ------
        UnknownRig
            A name or pattern that matches none.
        TypeError
            Something that is no text.
        """
        chosen: set[str] = set()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if not isinstance(pattern, str):
                raise TypeError(f"a rig is chosen by its name or a pattern, not by {type(pattern).__name__}")
            matches = [name for name in self.rigs if name == pattern or fnmatch.fnmatchcase(name, pattern)]
            if not matches:
                raise UnknownRig(pattern, self.rigs)
            chosen.update([pattern] if pattern in matches else matches)
        return [name for name in self.rigs if name in chosen]

    def only(self, pattern: str) -> str:
        """Return the one name that is meant.

        Parameters
        ----------
        pattern : str
            A name, or a pattern that matches one.

        Raises
        ------
        UnknownRig
            It matches none.
        ValueError
            It matches several.
        TypeError
            It is no text.
        """
        if not isinstance(pattern, str):
            raise TypeError(f"one rig is chosen by its name, not by {type(pattern).__name__}")
        names = self.matching(pattern)
        if len(names) > 1:
            raise ValueError(f"{pattern!r} matches {', '.join(names)}; name one of them")
        return names[0]


def rigs_from(clients: Rigs | Mapping[str, Any] | None, timing: Timing | None = None) -> Rigs:
    """Make rigs of what a caller has.

    Parameters
    ----------
    clients : Rigs or mapping or None
        Name of rig to a URI (see `parse_uri`), to a `RigConfig`, or to a mapping with the key ``uri`` and, as needed,
        ``timeout``, ``dialect``, ``resend``, ``pause`` and ``max_message``. None stands for no rigs.
    timing : Timing, optional
        Other times than the usual ones, or than those of the `Rigs` given.

    Returns
    -------
    Rigs
        The very same if `clients` is a `Rigs` and no timing is given.

    Raises
    ------
    ConfigError
        A rig cannot be; its ``key`` is ``rigs.<name>`` or a key below that.
    TypeError
        `clients` is of another type.
    """
    if isinstance(clients, Rigs):
        return clients if timing is None else dataclasses.replace(clients, timing=timing)
    if clients is None:
        clients = {}
    if not isinstance(clients, Mapping):
        raise TypeError(f"expected a mapping of rig names to URIs, Rigs or None, not {type(clients).__name__}")
    is_flat = bool(clients) and not any(isinstance(client, (RigConfig, Mapping)) for client in clients.values())
    return Rigs(_rigs_of(clients), timing or Timing(), may_share=is_flat)


def _rigs_of(clients: Mapping[str, Any]) -> dict[str, RigConfig]:
    return {name: _rig_from(name, client) for name, client in clients.items()}


def _rig_from(name: str, client: object) -> RigConfig:
    if isinstance(client, RigConfig):
        return client
    key = f"rigs.{name}"
    options: dict[str, Any] = dict(client) if isinstance(client, Mapping) else {"uri": client}
    _check_keys(options, _RIG_KEYS, key)
    if "uri" not in options:
        raise ConfigError("the address of the rig is missing, for instance uri: 192.168.1.20", key=f"{key}.uri")
    with _under(f"{key}.uri"):
        address = parse_uri(options.pop("uri"))
    try:
        return RigConfig(name, address, **options)
    except ConfigError as error:
        raise ConfigError(error.problem, key=key if error.key == "name" else f"{key}.{error.key}") from None


# ----------------------------------------------------------------------------------------------------------- files


def load_rigs(path: str | os.PathLike[str]) -> Rigs:
    """Read a YAML file of rigs; rigs.example.yaml shows every key.

    Parameters
    ----------
    path : str or os.PathLike
        A file in the long form, with the key ``rigs`` and, as needed, ``timing``; or, without a key ``rigs``, the
        flat map of name to URI that iblrig's remote_devices.yaml is.

    Returns
    -------
    Rigs
        The rigs in the order of the file, which is their ``source``.

    Raises
    ------
    ConfigError
        The file cannot be read or holds what cannot be; the error has the file and, where there is one, the line
        and the key, which for a flat file is the one that it would have in the long form.
    """
    from rigsync.config_file import read_rigs_file  # here, because most programs need no PyYAML

    file = str(Path(path))
    lines: dict[str, int] = {}
    try:
        document, lines = read_rigs_file(file)
        _check_keys(document, ("timing", "rigs"))
        timing = _checked_map(document.get("timing") or {}, "timing")
        _check_keys(timing, [field.name for field in dataclasses.fields(Timing)], "timing")
        with _under("timing"):
            times = Timing(**timing)
        rigs = _checked_map(document["rigs"] or {}, "rigs")
        return Rigs(_rigs_of(rigs), times, source=file)
    except ConfigError as error:
        key = error.key or ""
        line = error.line or lines.get(key) or lines.get(key.rpartition(".")[0])
        raise ConfigError(error.problem, file=file, line=line, key=error.key) from error.__cause__


def find_rigs_file(
    explicit: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    cwd: str | os.PathLike[str] | None = None,
) -> Path | None:
    """Find the file of rigs: ``--rigs``, ``RIGSYNC_RIGS``, ``./rigs.yaml``, then the user's configuration folder.

    Parameters
    ----------
    explicit : str or os.PathLike, optional
        The file that ``--rigs`` names.
    environ : mapping of str to str
        The environment.
    cwd : str or os.PathLike, optional
        The folder from which relative paths start; the working directory by default.

    Returns
    -------
    pathlib.Path or None
        The first that there is.

    Raises
    ------
    ConfigError
        ``--rigs`` or ``RIGSYNC_RIGS`` names a file that does not exist.
    """
    folder = Path(cwd or "")
    in_environment = environ.get("RIGSYNC_RIGS") or None  # empty is as good as not set
    for origin, named in (("--rigs", explicit), ("the environment variable RIGSYNC_RIGS", in_environment)):
        if named is not None:
            if not os.path.exists(folder / named):
                raise ConfigError(f"{origin} names this file, which does not exist; correct the path", file=str(named))
            return folder / named
    candidates = (folder / "rigs.yaml", user_config_file(environ))
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def user_config_file(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Tell where this user's file of rigs is looked for, whether or not there is one.

    Parameters
    ----------
    environ : mapping of str to str
        The environment.
    platform : str
        The operating system, as in `sys.platform`.

    Returns
    -------
    pathlib.Path
        ``rigsync/rigs.yaml`` in the folder where programs of that system keep their configuration: ``%APPDATA%``,
        ``~/Library/Application Support``, or ``$XDG_CONFIG_HOME`` (XDG Base Directory Specification) or ``~/.config``.
    """
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    if platform == "win32":
        folder = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    elif platform == "darwin":
        folder = home / "Library" / "Application Support"
    else:
        folder = Path(environ.get("XDG_CONFIG_HOME", ""))
        if not folder.is_absolute():  # the specification has such a value ignored
            folder = home / ".config"
    return folder / "rigsync" / "rigs.yaml"
