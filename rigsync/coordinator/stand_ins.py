"""Rigs of this program that stand in for programs of another protocol."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from rigsync.config.address import parse_uri
from rigsync.config.programs import ProgramRig
from rigsync.errors import ConfigError
from rigsync.net.resolve import addresses_of

GROUP = "rigsync.rigs"
"""Group of entry points: the beginning of an address names the class of the rig that stands in."""


class StandIn(Protocol):
    """A rig of the rigsync dialect that has another program do what is asked. It is made with a `ProgramRig`."""

    uri: str
    """Where it listens, once it is open."""

    async def open(self) -> None:
        """Serve, on the running event loop."""

    def end(self) -> None:
        """Stop serving, at once."""


class StandIns:
    """The rigs that stand in for programs, of one coordinator, on its event loop."""

    def __init__(self) -> None:
        self._open: dict[str, StandIn] = {}

    async def look_up(self, config: ProgramRig) -> list[tuple[int, tuple[Any, ...]]]:
        """Return family and address of the rig that stands in for a program; start it if it does not serve yet.

        Raises
        ------
        ConfigError
            No class can stand in, or its library is not installed, or the host name does not resolve.
        RigsyncError
            The rig cannot listen.
        """
        if config.name not in self._open:
            self._open[config.name] = made = _class_for(config)(config)
            await made.open()
        return addresses_of(parse_uri(self._open[config.name].uri))

    def end(self) -> None:
        """End all."""
        while self._open:
            self._open.popitem()[1].end()


def _class_for(config: ProgramRig) -> Callable[[ProgramRig], StandIn]:
    protocol, key = config.protocol, f"rigs.{config.name}.uri"
    metadata = import_module("importlib.metadata")  # it takes as long to load as all the rest of a coordinator
    for found in metadata.entry_points(group=GROUP, name=protocol):
        try:
            made: Callable[[ProgramRig], StandIn] = found.load()
        except ModuleNotFoundError as error:
            raise ConfigError(str(error), key=key) from error
        return made
    problem = f"nothing here speaks {protocol}://; install rigsync again, from the folder in which it is: pip install ."
    raise ConfigError(problem, key=key)
