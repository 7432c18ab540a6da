"""Where a rig listens, read from text."""

from __future__ import annotations

import ipaddress
import re

from rigsync._text import shortened
from rigsync.core.rigs import LISTEN_PORT, Address
from rigsync.errors import ConfigError

SCHEMES = {"udp": "udp", "tcp": "tcp", "ws": "tcp"}
"""The transport of each scheme; iblutil means plain TCP by ws (docs/protocol.md section 1)."""
BROKER_PORTS = {"mqtt": 1883, "mqtts": 8883}
"""The usual port of a broker of MQTT, by scheme: without and with TLS."""
PREFIX = "rigsync"
"""The default prefix of topics at a broker."""
_LEVEL = re.compile(r"[\w.~:=-]+")  # of a prefix: what is a name in any program, and neither + nor #
_LONGEST_PREFIX = 200
# RFC 1123 section 2.1, and underscores since names of Windows machines have them. A trailing dot makes it absolute.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII | re.IGNORECASE)
_MAX_HOST_NAME = 253  # characters without the trailing dot (RFC 1035 section 2.3.4)
_ZONE = re.compile(r"[\w.~-]+", re.ASCII)  # the zone of fe80::1%eth0 (RFC 6874 section 2)


EXPECTED = (
    f"[udp://|tcp://]host[:port], for instance udp://192.168.1.20:{LISTEN_PORT}, or mqtt[s]://broker[:port]/prefix"
)
"""How the address of a rig is written."""


def parse_uri(
    text: object,
    *,
    allow_port_zero: bool = False,
    what: str = "the address of a rig",
    expected: str = EXPECTED,
    brokers: bool = True,
) -> Address:
    """Read the address of a rig: ``[udp://|tcp://]host[:port]``, UDP by default, or ``mqtt[s]://broker[:port]/prefix``.

    The host is an IPv4 address, an IPv6 address (in brackets if a port follows) or a host name in any case; equal
    addresses compare equal. The default port is `LISTEN_PORT`; a rig may listen at port 0, which is any free one.
    ``ws://`` means ``tcp://``, as in iblutil. User and password may stand before the host of a broker; no error quotes
    them; there is none where `brokers` is false. Errors say `what` it should be, and how that is written, `expected`.

    Raises
    ------
    ConfigError
        The text is not such an address. The error has no file, line or key: the caller knows them.
    """
    if isinstance(text, Address):
        return text
    if isinstance(text, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        text = str(text)
    try:
        return _address(text, 0 if allow_port_zero else 1, brokers)
    except ValueError as error:
        raise ConfigError(f"{shortened(without_login(text), 80)} is not {what}: {error}; expected {expected}") from None


def parse_broker(text: object) -> Address:
    """Read the address of an MQTT broker, ``mqtt[s]://[user[:password]@]host[:port]/prefix``; raise a `ConfigError`."""
    what, expected = "the address of an MQTT broker", "mqtt://host[:port]/prefix, or mqtts:// for TLS"
    address = parse_uri(text, what=what, expected=expected)
    if not address.is_brokered:
        raise ConfigError(f"{shortened(without_login(text), 80)} is not {what}; expected {expected}")
    return address


def without_login(text: object) -> object:
    """Return a text with user and password cut out of the address in it."""
    if not isinstance(text, str) or "@" not in text:
        return text
    scheme, separator, _ = text.rpartition("@")[0].partition("://")
    return f"{scheme + separator if separator else ''}***@{text.rpartition('@')[2]}"


def _address(text: object, lowest_port: int, brokers: bool) -> Address:
    if not isinstance(text, str):
        raise ValueError(f"it is of type {type(text).__name__}, not text")  # noqa: TRY004 - becomes a ConfigError
    if any(character.isspace() for character in text):
        raise ValueError("it has white space in it")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "udp", text
    if brokers and scheme.lower() in BROKER_PORTS:
        return _broker(scheme.lower(), rest)
    if scheme.lower() not in SCHEMES:
        raise ValueError(f"only udp://{', tcp:// and mqtt://' if brokers else ' and tcp://'} are supported")
    if any(character in rest for character in "/?#@"):
        raise ValueError("it may have no user, path or query")
    return Address(SCHEMES[scheme.lower()], *_host_and_port(rest, lowest_port, LISTEN_PORT))


def _broker(scheme: str, rest: str) -> Address:
    login, _, rest = rest.rpartition("@")
    place, _, prefix = rest.partition("/")
    prefix = prefix.removesuffix("/") or PREFIX
    if len(prefix) > _LONGEST_PREFIX or not all(_LEVEL.fullmatch(level) for level in prefix.split("/")):
        raise ValueError(
            f"the prefix of topics is {shortened(prefix, 80)}, and has to be letters, digits and . _ ~ : = -, in "
            f"levels with / between them, in {_LONGEST_PREFIX} characters at most"
        )
    return Address(scheme, *_host_and_port(place, 1, BROKER_PORTS[scheme]), prefix, login)


def _host_and_port(rest: str, lowest_port: int, usual: int) -> tuple[str, int]:
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if ":" not in host or not bracket or tail[:1] not in ("", ":"):
            raise ValueError("brackets go around an IPv6 address, and the port goes after them")
        colon, port = tail[:1], tail[1:]
    elif rest.count(":") > 1:
        host, colon, port = rest, "", ""  # an IPv6 address without brackets, hence without port
    else:
        host, colon, port = rest.partition(":")
    if not colon:
        return _host(host), usual
    if not re.fullmatch("[0-9]{1,5}", port) or not lowest_port <= int(port) <= 65535:
        raise ValueError(f"the port is a number from {lowest_port} to 65535")
    return _host(host), int(port)


def _host(text: str) -> str:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        name = text.removesuffix(".")
        if not name:
            raise ValueError("it has no host") from None
        if not _HOST_NAME.fullmatch(text) or len(name) > _MAX_HOST_NAME:
            raise ValueError(
                f"{shortened(text, 80)} is neither an IP address nor a host name "
                "(letters, digits, hyphens, underscores, dots)"
            ) from None
        if name.isdigit():
            raise ValueError("it is a port alone; write an address before it, such as 0.0.0.0 for a rig") from None
        # No top-level domain is a number (RFC 3696 section 2): this is an IPv4 address with a typing error.
        if name.rpartition(".")[2].isdigit():
            raise ValueError(
                f"{shortened(text, 80)} is not an IPv4 address, which has four numbers from 0 to 255"
            ) from None
        return text.lower()
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.scope_id is not None and not _ZONE.fullmatch(ip.scope_id):
        raise ValueError("the name or number of a network interface goes after %")
    # ::ffff:192.168.1.20 is an IPv4 address in disguise, and on Windows an IPv6 socket cannot reach it.
    return str(ip.ipv4_mapped or ip)
