"""The ways to the rigs: their addresses, the sockets towards them, and the search for a lost one."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import sys
from typing import Any

from rigsync.config.programs import ProgramRig
from rigsync.config.rigs import Rigs
from rigsync.coordinator.stand_ins import StandIns
from rigsync.core.events import LinkChanged, LinkState
from rigsync.core.fanout import Fanout
from rigsync.core.outputs import Line
from rigsync.core.rigs import RigConfig, is_literal
from rigsync.errors import ConfigError, RigsyncError
from rigsync.net.endpoint import Endpoint, look_up
from rigsync.net.udp import own_address
from rigsync.runtime.hub import Hub

logger = logging.getLogger("rigsync.service")
link_logger = logging.getLogger("rigsync.link")

LOOKS_THERE = 6
"""Look-ups for which a lost rig that has answered is waited for where it was, before other addresses of its name are
tried: half a minute, in which its program is started again."""
MOST_ON_WINDOWS = 250
"""Rigs: select() there watches 512 sockets, each rig takes two, and the event loop some for itself."""

_Found = list[tuple[int, tuple[Any, ...]]]


class Ways:
    """The addresses of the rigs, and the sockets towards them, of which one endpoint takes care."""

    def __init__(self, rigs: Rigs, hub: Hub):
        self._rigs = rigs
        self._endpoint: Endpoint | None = None
        self._boot = ""
        self._addresses: dict[str, tuple[Any, ...]] = {}
        self._states: dict[str, LinkState] = {}
        self._answered: set[str] = set()
        self._searches: dict[str, asyncio.Task[None]] = {}
        self._stand_ins = StandIns()
        hub.rule(LinkChanged, self._note_link)

    def address(self, rig: str) -> tuple[Any, ...]:
        """Return the socket address to which a rig's name resolved, as host and port."""
        return self._addresses.get(rig, ())[:2]

    async def look_up(self) -> _Found:
        """Look up all rigs; return family and address of each, in their order.

        Raises
        ------
        ConfigError
            A name that does not resolve, or two rigs at one address that may not share it.
        RigsyncError
            More rigs than this system can watch, or one that stands in for another program cannot listen.
        """
        rigs = self._rigs.rigs
        direct = sum(not config.address.is_brokered for config in rigs.values())
        if sys.platform == "win32" and direct > MOST_ON_WINDOWS:
            raise RigsyncError(f"{direct} rigs are more than Windows can watch at once, which is {MOST_ON_WINDOWS}")
        looks = [asyncio.ensure_future(self._found(config)) for config in rigs.values()]
        try:
            await asyncio.gather(*looks, return_exceptions=True)  # all: none begins to stand in after that is ended
            found = [look.result()[0] for look in looks]
            self._addresses = {name: address for name, (_, address) in zip(rigs, found, strict=True)}
            self._check_distinct(self._addresses)
        except BaseException:
            self._stand_ins.end()
            raise
        return found

    async def _found(self, config: RigConfig) -> _Found:
        return await (self._stand_ins.look_up(config) if isinstance(config, ProgramRig) else look_up(config))

    def share(self, fanout: Fanout) -> None:
        """Tell the core which rigs have an address that others have too."""
        addresses = list(self._addresses.values())
        for name, address in self._addresses.items():
            fanout.peers[name].process.is_shared = self._rigs.may_share and addresses.count(address) > 1

    async def open(self, endpoint: Endpoint, found: _Found, boot: str) -> None:
        """Open the sockets towards all rigs; raise `RigsyncError` where the system gives no more of them."""
        self._endpoint, self._states, self._answered = endpoint, {}, set()
        self._boot = boot
        for name, (family, address) in zip(self._rigs.rigs, found, strict=True):
            try:
                await self._open_lines(endpoint, name, family, address)
            except OSError as error:
                raise _explained(error, name) from error

    def close(self) -> None:
        """End the searches, and the rigs that stand in for programs."""
        self._endpoint = None
        for search in self._searches.values():
            search.cancel()
        self._stand_ins.end()

    def forget(self) -> None:
        """Begin anew: the event loop was closed before."""
        self._stand_ins = StandIns()

    def _check_distinct(self, addresses: dict[str, tuple[Any, ...]]) -> None:
        self._rigs.check_distinct(addresses)
        for first, second in itertools.combinations(addresses, 2):
            if self._rigs.may_share and addresses[first] == addresses[second]:
                logger.warning("%s and %s have the same address: each message goes there for both", first, second)

    async def _open_lines(self, endpoint: Endpoint, name: str, family: int, address: tuple[Any, ...]) -> None:
        config = self._rigs.rigs[name]
        lines = [(name, line) for line in Line]
        if config.address.is_brokered:
            endpoint.connect_by_broker(lines, config.address, self._boot)
            return
        if config.address.scheme == "tcp":
            endpoint.connect_stream(lines, family, address, config.max_message)
            return
        for line in lines:
            await endpoint.connect(line, family, address)

    # --------------------------------------------------------------------------------------------- lost rigs

    def _note_link(self, event: LinkChanged) -> None:
        self._states[event.rig] = event.after
        if event.after is LinkState.ALIVE:
            self._answered.add(event.rig)
        if event.after is LinkState.LOST and self._endpoint:
            self._endpoint.reconnect((event.rig, Line.REQUESTS), event.reason)
            self._search(event.rig)

    def _search(self, rig: str) -> None:
        """Look for another way to a lost rig until it answers."""
        before = self._searches.get(rig)
        if before is None or before.done():  # the rig was back, and is lost again before that was told
            search = asyncio.get_running_loop().create_task(self._look_for(rig), name=f"rigsync search for {rig}")
            self._searches[rig] = search
            search.add_done_callback(lambda done: self._searches.get(rig) is done and self._searches.pop(rig))

    async def _look_for(self, rig: str) -> None:
        config, timing = self._rigs.rigs[rig], self._rigs.timing
        interval = timing.beat if is_literal(config.address) else timing.lost_after  # which asks a name server
        for look in itertools.count():
            endpoint = self._endpoint
            if endpoint is None or self._states.get(rig) is not LinkState.LOST:
                return
            try:
                await self._look_once(endpoint, rig, stay=rig in self._answered and look < LOOKS_THERE)
            except (ConfigError, OSError, RuntimeError) as error:  # the last where the system gives no more threads
                link_logger.debug("%s: looking for another way to it: %s", rig, error)
            await asyncio.sleep(interval)

    async def _look_once(self, endpoint: Endpoint, rig: str, stay: bool) -> None:
        """Open a rig's lines again where its name stands for another address, or this computer has another towards it.

        Of several addresses of its name each to which there is a way has its turn, unless it is to `stay` at the one
        where it was last.
        """
        found = await self._found(self._rigs.rigs[rig])
        before = self._addresses[rig]
        addresses = [address for _, address in found]
        turn = addresses.index(before) if before in addresses else -1
        others = found if turn < 0 else [] if stay else [*found[turn + 1 :], *found[:turn]]
        reached = [other for other in others if own_address(*other) is not None]  # one without a way has no turn
        if reached or turn < 0:
            family, address = (reached or found)[0]
            self._check_distinct({**self._addresses, rig: address})
        elif any(endpoint.is_stranded((rig, line)) for line in Line):
            family, address = found[turn]
        else:
            return
        await self._open_lines(endpoint, rig, family, address)
        self._addresses[rig] = address
        if address == before:
            link_logger.warning("%s: this computer's own network has changed; trying again from its new address", rig)
        elif turn < 0:
            link_logger.warning("%s: its name stands for %s now, no longer for %s", rig, address[0], before[0])
        else:
            link_logger.info("%s: trying %s, another address of its name, in place of %s", rig, address[0], before[0])


def _explained(error: OSError, name: str) -> RigsyncError:
    if error.errno in (errno.EMFILE, errno.ENFILE, getattr(errno, "WSAEMFILE", errno.EMFILE)):
        return RigsyncError(
            f"no more sockets at rig {name}: each rig takes two; raise the limit of open files (ulimit -n)"
        )
    return RigsyncError(f"no socket towards rig {name}: {error}")
