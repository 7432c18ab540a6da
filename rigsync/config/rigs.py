"""The rigs of an experiment, made from a caller's mapping and checked."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rigsync._text import shortened
from rigsync.config.address import parse_uri
from rigsync.config.alerts import Alert
from rigsync.config.journal import JournalSettings
from rigsync.config.programs import KEYS, program_rig, scheme_of
from rigsync.config.schema import Key, Known, Mistakes, Table, boolean, choice, number, text, under
from rigsync.core.rigs import (
    A_NAME,
    DATAGRAM_ROOM,
    DIALECTS,
    LARGEST_MESSAGE,
    LISTEN_PORT,
    LONGEST_NAME,
    LONGEST_PAUSE,
    MAX_DATAGRAM,
    RigConfig,
    Room,
)
from rigsync.core.timing import DEFAULT_TIMING, SHORTEST, Timing
from rigsync.errors import ConfigError, UnknownRig

_USUAL = {field.name: field.default for field in dataclasses.fields(RigConfig)}

NAME = text(LONGEST_NAME, r"\S(?:[^\t\n]*\S)?", A_NAME)
ADDRESS = text(500, nothing="the address is missing; write one, such as 192.168.1.20, or leave the rig out")
RIG = Table(
    {
        "uri": Key(
            ADDRESS,
            "The address of the rig, for instance 192.168.1.20 or tcp://camera-pc:11002: an IP address or a host name. "
            f"Without udp:// or tcp:// before it, it is udp://; without a port after it, the port is {LISTEN_PORT}. Or "
            "mqtt://broker/prefix, or mqtts://, by way of a broker of MQTT.",
            required=True,
        ),
        "timeout": Key(
            number(SHORTEST, unit="seconds"), "Seconds that the rig may take to answer.", default=_USUAL["timeout"]
        ),
        "dialect": Key(choice(DIALECTS), "The dialect of the rig; auto finds out.", default=_USUAL["dialect"]),
        "resend": Key(
            boolean(),
            "Only for a rig that speaks iblutil: whether rigsync may send a message again that it did not answer. The "
            "rig may then run its handlers twice.",
            default=_USUAL["resend"],
        ),
        "pause": Key(
            number(0, LONGEST_PAUSE, "seconds"),
            "Only for a rig that speaks iblutil: seconds between a message of the rig and the next one to it; 0 if its "
            "handlers are callbacks.",
        ),
        "max_message": Key(
            number(MAX_DATAGRAM, LARGEST_MESSAGE, "bytes", whole=True),
            "Only for tcp://: bytes of the largest message; the rig's own max_message has to be as large.",
            default=_USUAL["max_message"],
        ),
        **KEYS,
    }
)
"""The keys of a rig, in a file and in a mapping for `rigs_from`."""


def checked_lease(lease: object) -> float:
    """Return a rig's lease in seconds, 0 for none; raise a ConfigError with the key ``lease`` for anything else."""
    if isinstance(lease, bool) or not isinstance(lease, (int, float)) or not 0 <= lease <= sys.float_info.max:
        raise ConfigError(f"expected a number of seconds, or 0 for never, not {shortened(lease, 80)}", key="lease")
    return float(lease)


def checked_timeout(timeout: object) -> float | None:
    """Return a timeout in seconds, None for None; raise a TypeError or a ValueError for anything else."""
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


@dataclass(frozen=True, slots=True)
class Rigs:
    """All rigs of an experiment.

    Parameters
    ----------
    rigs : mapping of str to RigConfig
        The rigs by name, in the order in which rigsync shows them; kept as a read-only copy.
    timing : Timing
        The times by which they are asked and watched.
    source : str, optional
        The file that they come from.
    may_share : bool
        Whether two names may share a UDP address, as in the map of names to URIs that iblrig's task code passes. Each
        message then goes there once for each name.
    bridges : mapping
        The options of each bridge that `rigsync bridge` starts, by its name.
    journal : JournalSettings, optional
        The journal that the file asks for; None for none.
    report : Path, optional
        The folder for a report at each session's end; None for none.
    alerts : tuple of Alert
        Who is told of what by a program that commands an experiment on these rigs.
    metadata : str, optional
        The folder of each session for its metadata, with variables such as ``{session_path}``; None for none.

    Raises
    ------
    ConfigError
        A rig stands under another name than its own, or two rigs have one address and may not.
    """

    rigs: Mapping[str, RigConfig]
    timing: Timing = DEFAULT_TIMING
    source: str | None = None
    may_share: bool = False
    bridges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)  # with a broker's password
    journal: JournalSettings | None = None
    report: Path | None = None
    alerts: tuple[Alert, ...] = field(default=(), repr=False)
    metadata: str | None = None
    _room: Room = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, rig in self.rigs.items():
            if rig.name != name:
                raise ConfigError(f"the rig under this key calls itself {rig.name!r}", key=f"rigs.{name}")
        self.check_distinct({name: rig.place for name, rig in self.rigs.items()})
        object.__setattr__(self, "rigs", MappingProxyType(dict(self.rigs)))
        object.__setattr__(self, "_room", self.room(self.rigs))  # each push to all rigs asks for it

    def check_distinct(self, found: Mapping[str, tuple[Any, ...]]) -> None:
        """Check that no two rigs share an address that they may not share, given the socket address of each by name.

        Raises
        ------
        ConfigError
            Two rigs have the same; the text names both.
        """
        mistakes = []
        taken: dict[tuple[Any, ...], str] = {}
        for name, sockaddr in found.items():
            scheme = self.rigs[name].address.scheme
            first = name if self.may_share and scheme == "udp" else taken.setdefault((scheme, *sockaddr), name)
            if first != name:
                problem = (
                    f"rigs {first!r} and {name!r} have the same address, host {sockaddr[0]} and port {sockaddr[1]}; "
                    "give each rig an address of its own"
                )
                mistakes.append(ConfigError(problem, key=f"rigs.{name}.uri"))
        if mistakes:
            raise ConfigError.of(mistakes)

    def room(self, names: Iterable[str] | None = None) -> Room:
        """Return how large a message to some rigs may be, by default to all rigs.

        Parameters
        ----------
        names : iterable of str, optional
            Names of rigs.
        """
        if names is None:
            return self._room
        return min((self.rigs[name].room for name in names), key=lambda room: room.limit, default=DATAGRAM_ROOM)

    def matching(self, patterns: str | Iterable[str] | None) -> list[str]:
        """Return the names that match, in the order of the rigs; all for None.

        Parameters
        ----------
        patterns : str or iterable of str or None
            Names, or patterns such as ``cameras:*``, with ``*``, ``?`` and ``[...]``. Case counts.

        Raises
        ------
        UnknownRig
            A name or pattern matches none.
        TypeError
            A pattern is no text.
        """
        if patterns is None:
            return list(self.rigs)
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
        """Return the one name that matches a name or a pattern.

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
    """Make rigs from a mapping, with `timing` in place of the usual times, or of those in `clients`.

    It maps the name of a rig to a URI (see `parse_uri`), to a `RigConfig`, or to a mapping with the keys of `RIG`. None
    stands for no rigs.

    Raises
    ------
    ConfigError
        A rig has a mistake. The ``key`` is ``rigs.<name>`` or a key below that.
    TypeError
        `clients` is of another type.
    """
    if isinstance(clients, Rigs):
        return clients if timing is None else dataclasses.replace(clients, timing=timing)
    if clients is None:
        clients = {}
    if isinstance(clients, (str, os.PathLike)):
        raise TypeError(
            f"{os.fspath(clients)!r} is one text, and rigs are a mapping of name to URI; for a file, write "
            "Auxiliaries.from_file(...) or Coordinator.from_file(...)"
        )
    if not isinstance(clients, Mapping):
        raise TypeError(f"expected a mapping of rig names to URIs, Rigs or None, not {type(clients).__name__}")
    is_flat = bool(clients) and not any(isinstance(client, (RigConfig, Mapping)) for client in clients.values())
    mistakes = Mistakes()
    rigs = rigs_of(clients, mistakes)
    if mistakes:
        raise ConfigError.of(mistakes)
    return Rigs(rigs, timing or Timing(), may_share=is_flat)


def rigs_of(clients: Mapping[str, Any], mistakes: Mistakes, folder: str = "") -> dict[str, RigConfig]:
    """Return a `RigConfig` for each entry of a map of rigs (see `rigs_from`) that has no mistake.

    Relative paths begin at `folder`.
    """
    rigs = {}
    for name, client in clients.items():
        with mistakes:
            rigs[name] = _rig_from(name, client, folder)
    return rigs


def _rig_from(name: str, client: object, folder: str) -> RigConfig:
    if isinstance(client, RigConfig):
        return client
    key = f"rigs.{name}"
    options: Mapping[str, Any] = client if isinstance(client, Mapping) else {"uri": client}
    if not isinstance(options, Known) and (misnamed := list(RIG.misnamed(options, key))):
        raise ConfigError.of(misnamed)
    if scheme := scheme_of(options["uri"]):
        with under(key):
            return program_rig(name, scheme, options, folder)
    if foreign := [each for each in KEYS if options.get(each) is not None]:
        problem = f"{foreign[0]} is for a rig whose address begins with osc:// or zmq+req://"
        raise ConfigError(problem, key=f"{key}.{foreign[0]}")
    with under(f"{key}.uri"):
        address = parse_uri(options["uri"])
    try:
        return RigConfig(
            name, address, **{each: value for each, value in options.items() if each not in ("uri", *KEYS)}
        )
    except ConfigError as error:
        raise ConfigError(error.problem, key=key if error.key == "name" else f"{key}.{error.key}") from None
