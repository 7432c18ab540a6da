"""The socket addresses of a rig, by a name server if need be."""

from __future__ import annotations

import socket
from typing import Any

from rigsync.core.rigs import Address, RigConfig, is_literal
from rigsync.errors import ConfigError


def addresses_of(address: Address) -> list[tuple[int, tuple[Any, ...]]]:
    """Find the socket addresses that an address stands for, in the order in which to try them.

    Blocks for seconds if a name server does not answer. Each has its family, ``socket.AF_INET`` first and then
    ``socket.AF_INET6``, and what ``connect`` of such a socket takes.

    Raises
    ------
    OSError, UnicodeError
        The host, or the network interface of an IPv6 address, is unknown; or IDNA cannot encode the name.
    """
    flags = socket.AI_NUMERICHOST if is_literal(address) else 0
    kind = socket.SOCK_STREAM if address.scheme == "tcp" else socket.SOCK_DGRAM
    found = socket.getaddrinfo(address.host, address.port, type=kind, flags=flags)
    addresses = dict.fromkeys((int(family), sockaddr) for family, _, _, _, sockaddr in found)
    return sorted(addresses, key=lambda entry: entry[0] != socket.AF_INET)


def resolve_all(config: RigConfig) -> list[tuple[int, tuple[Any, ...]]]:
    """Find the socket addresses of a rig, as `addresses_of` does.

    Raises
    ------
    ConfigError
        There are none.
    """
    host = config.address.host
    if config.address.is_brokered:  # the broker's address is looked up with each connection to it
        return [(socket.AF_UNSPEC, config.place)]
    try:
        return addresses_of(config.address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        problem = f"the host {host!r} of rig {config.name!r} cannot be resolved ({reason}); check "
        if is_literal(config.address):
            problem += "whether this computer has IPv6 and the network interface named after %"
        else:
            problem += f"its spelling, and whether `ping {host}` finds it; or give its IP address instead"
        raise ConfigError(problem, key=f"rigs.{config.name}.uri") from error


def resolve(config: RigConfig) -> tuple[int, tuple[Any, ...]]:
    """Find the first socket address of a rig, as `resolve_all` does."""
    return resolve_all(config)[0]
