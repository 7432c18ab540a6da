"""The socket addresses of a rig, by a name server if need be."""

from __future__ import annotations

import socket
from typing import Any

from rigsync.core.rigs import RigConfig, is_literal
from rigsync.errors import ConfigError


def resolve_all(config: RigConfig) -> list[tuple[int, tuple[Any, ...]]]:
    """Find the socket addresses of a rig. Blocks for seconds if a name server does not answer.

    Parameters
    ----------
    config : RigConfig
        The rig.

    Returns
    -------
    list of (int, tuple)
        In the order in which to try them: the family, ``socket.AF_INET`` first and then ``socket.AF_INET6``, and the
        address that ``connect`` of such a socket takes.

    Raises
    ------
    ConfigError
        The host, or the network interface of an IPv6 address, is unknown.
    """
    host, port, literal = config.address.host, config.address.port, is_literal(config.address)
    flags = socket.AI_NUMERICHOST if literal else 0
    try:
        kind = socket.SOCK_STREAM if config.address.scheme == "tcp" else socket.SOCK_DGRAM
        found = socket.getaddrinfo(host, port, type=kind, flags=flags)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA cannot encode
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
