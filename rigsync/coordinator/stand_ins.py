"""Rigs that are programs of another protocol: rigs of this program stand in for them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from rigsync.config.address import parse_uri
from rigsync.config.programs import ProgramRig
from rigsync.errors import ConfigError
from rigsync.net.resolve import addresses_of

GROUP = "rigsync.rigs"
"""The entry points by which a package names, for the beginning of an address, the class that stands in."""


class StandIn(Protocol):
    """A rig of the rigsync dialect that does what is asked by another program. It is made with a `ProgramRig`."""

    uri: str
    """Where it listens, once it is open."""

    async def open(self) -> None:
        """Serve, on the running event loop."""

    def end(self) -> None:
        """Stop serving, at once."""


class StandIns:
    """Those of one coordinator, on its event loop."""

    def __init__(self) -> None:
        self._open: dict[str, StandIn] = {}

    async def look_up(self, config: ProgramRig) -> list[tuple[int, tuple[Any, ...]]]:
        """Return family and address of the one for a rig; begin it where it does not serve yet.

        Raises
        ------
        ConfigError
            Nothing can stand in, or what it needs is not installed, or the rig's name does not resolve.
        RigsyncError
            It cannot listen.
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
    scheme, key = config.address.scheme, f"rigs.{config.name}.uri"
    metadata = import_module("importlib.metadata")  # which takes as long to load as all the rest of a coordinator
    for found in metadata.entry_points(group=GROUP, name=scheme):
        try:
            made: Callable[[ProgramRig], StandIn] = found.load()
        except ModuleNotFoundError as error:
            raise ConfigError(str(error), key=key) from error
        return made
    problem = f"nothing here speaks {scheme}://; install rigsync again, from the folder in which it is: pip install ."
    raise ConfigError(problem, key=key)
