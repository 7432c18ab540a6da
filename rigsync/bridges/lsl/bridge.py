"""The LSL bridge: a stream of markers for recorders, and the markers of another stream as events."""

from __future__ import annotations

import asyncio
import logging
import queue
import re
import socket
import time
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

from rigsync._text import shortened
from rigsync.bridges.bridge import Bridge
from rigsync.bridges.lsl.child import Child
from rigsync.bridges.lsl.library import ahead_of
from rigsync.bridges.lsl.markers import LslMarker, Markers, RigMarkers
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.coordinator.coordinator import Coordinator
from rigsync.core.events import Event
from rigsync.errors import ConfigError, NotRunning
from rigsync.rig.rig import Rig
from rigsync.runtime.workers import Workers

if TYPE_CHECKING:
    from rigsync.bridges.lsl.program import Options

logger = logging.getLogger("rigsync.bridge")

NAME = "rigsync"
"""Default name of the stream."""
NAMES = r"[^'\"]*[^'\"\s][^'\"]*"
"""Pattern of a stream's name. It has no quotes: LSL searches by XPath, which cannot escape them."""
LONGEST_NAME = 100
MOST_WAITING = 10_000
"""Most markers that wait for liblsl's program."""
AGAIN, SELDOM = 0.5, 60.0
"""Seconds between two looks for a stream, and before a new program replaces one that has ended.

That pause doubles for each program that has ended within a minute, from AGAIN up to SELDOM."""
SILENCE = 10.0
"""Seconds without a marker after which the search has to find the stream again."""
CLOSE = 1.8
"""Seconds that the program has to send its markers, and to end. Then the bridge kills it."""
ROUNDING = 1e-6
"""Largest error in seconds of Unix time in floating point."""


class LslBridge(Bridge):
    """Tells LSL recorders what happens, by a stream of markers, and tells the hub the markers of another stream.

    A context manager: ``with`` for an `Auxiliaries` or a `Rig`, ``async with`` on its event loop.

    Parameters
    ----------
    lab : Auxiliaries, Coordinator or Rig
        Who commands the rigs; or a rig, of which it tells the messages, the outcomes and what is wrong. It has to be
        open.
    name : str
        Name of the stream. Two bridges of one computer need two.
    from_ : str, optional
        Name of a stream whose markers become events, `LslMarker`.

    Raises
    ------
    ConfigError
        A name is empty or too long, or has quotes or characters that cannot be printed.

    Examples
    --------
    >>> with Auxiliaries({"cameras": "udp://192.168.1.20:11001"}) as aux, LslBridge(aux, from_="stimuli"):
    ...     aux.hub.subscribe("LslMarker", lambda marker: print(marker.time, marker.value))
    """

    name = "LSL bridge"

    def __init__(self, lab: Auxiliaries | Coordinator | Rig, name: str = NAME, from_: str | None = None):
        super().__init__(lab.hub)
        self.lab = lab
        self.stream = _checked(name)
        """Name of the stream of markers."""
        self._from = None if from_ is None else _checked(from_)
        self._ahead = 0.0
        """Seconds by which LSL's clock is ahead of the coordinator's."""

    # --------------------------------------------------------------------------------------------------- life cycle

    async def _open(self) -> None:
        self._markers, self._ahead, bound = self._compared()
        self._options: Options = {
            "name": self.stream,
            "source_id": f"{NAME}/{self.stream}@{socket.gethostname()}",
            "ahead": f"{self._ahead:.7f}",
            "bound": f"{bound + ROUNDING + time.get_clock_info('monotonic').resolution:.7f}",
            "heard": self._from,
            "again": AGAIN,
            "silence": SILENCE,
        }
        self._waiting: queue.SimpleQueue[tuple[str, float] | None] = queue.SimpleQueue()
        self._unsent: list[tuple[str, float]] = []
        self._workers = Workers("lsl")
        self._child: Child | None = None
        self._keeping: asyncio.Future[None] | None = None
        self._closing = False
        self._ends.append(self._stop)
        child, told = await self._workers.begin(self._begin_child)
        self._keeping = asyncio.ensure_future(self._keep(child, told))
        logger.info("LSL stream %s has begun; all in the network can read it", self.stream)

    def _compared(self) -> tuple[Markers | RigMarkers, float, float]:
        """Return what makes markers, how far LSL's clock is ahead of the one of their times, and the bound of that."""
        if isinstance(self.lab, Rig):
            return RigMarkers(self.lab.name, time.monotonic), *ahead_of(time.time)
        if (services := self.lab.services) is None:
            raise NotRunning("an LSL bridge needs rigs, and this program has none, or does not command them itself")
        since_monotonic, bound = ahead_of(time.monotonic)
        return Markers(services.tell_each), since_monotonic + services.clock.instant(0), bound

    def _begin_child(self) -> tuple[Child, list[list[Any]]]:
        """Start liblsl's program, and wait until its stream is there; return the program, and what else it has told."""
        problem = f"the LSL stream {shortened(self.stream)} cannot begin"
        try:
            child = self._child = Child(self._options)
        except OSError as error:
            raise NotRunning(f"{problem}: {error}") from error
        if self._closing:
            child.kill()
        told = child.read()
        if told and told[0] == ["begun"]:
            return child, told[1:]
        child.kill()
        child.close()
        while child.read():
            pass
        ended = child.wait()
        raise NotRunning(f"{problem}: {told[0][1] if told else f'its program has ended ({ended})'}")

    async def _keep(self, child: Child, told: list[list[Any]]) -> None:
        """Pass on what liblsl's program tells; begin another one whenever the program fails."""
        begin, pause = self._workers.begin, AGAIN
        while True:
            begun = time.monotonic()
            ended = await self._follow(child, told)
            if self._closing:
                return
            problem = f"the program of LSL stream {shortened(self.stream)} has ended ({ended}); another one begins"
            while problem:
                self._note("ended", problem)
                await asyncio.sleep(pause)
                if self._closing:
                    return
                pause = AGAIN if time.monotonic() > begun + SELDOM else min(2 * pause, SELDOM)
                try:
                    child, told = await begin(self._begin_child)
                    problem = ""
                except RuntimeError as error:  # `NotRunning` is one, and so is that no thread is to be had
                    problem = str(error)

    async def _follow(self, child: Child, told: list[list[Any]]) -> str:
        """Pass on what liblsl's program tells until it has ended; return how it has."""
        begin, sending = self._workers.begin, None
        try:
            sending = begin(self._send_all, child)
            self._take(told)
            while told := await begin(child.read):
                self._take(told)
            ended = await begin(child.wait)
        except RuntimeError as error:  # no thread is to be had
            child.kill()
            while child.read():
                pass
            child.wait()
            ended = str(error)
        if sending:
            self._waiting.put(None)  # `sending` may wait for a marker
            await sending
        else:
            child.close()
        return ended

    def _stop(self) -> None:
        self._closing = True
        self._waiting.put(None)

    async def _say_last_words(self) -> None:
        self._stop()
        keeping, self._keeping = self._keeping, None
        try:
            if keeping and not (await asyncio.wait({keeping}, timeout=CLOSE))[0]:
                self._note(
                    "dropped", f"liblsl did not send all within {CLOSE:g} s; the markers that are left are dropped"
                )
        finally:
            if self._child:
                self._child.kill()  # so the threads that read from it or write to it go on
                self._child.wait()
                self._child.close()
            if keeping:
                keeping.cancel()
            self._workers.close(0.0)

    # ---------------------------------------------------------------------------------------------------- going out

    def _send_all(self, child: Child) -> None:
        """Hand markers to liblsl's program until None comes; keep those that it does not take for the next program."""
        unsent, self._unsent = self._unsent, []
        for marker in chain(unsent, iter(self._waiting.get, None)):
            try:
                child.send(*marker)
            except OSError:
                self._unsent.append(marker)
        child.close()

    def _tell(self, event: Event) -> None:
        for marker in self._markers.of(event):
            # The computer's clock may be set at any time; the coordinator's follows the monotonic one.
            ahead = self._ahead if marker.is_start else ahead_of(time.time)[0]
            if self._waiting.qsize() + len(self._unsent) < MOST_WAITING:
                self._waiting.put((marker.text, marker.time + ahead))
            else:
                self._note("dropped", f"{MOST_WAITING:,} markers wait for liblsl, and those that come now are dropped")

    # ------------------------------------------------------------------------------------------------------ coming in

    def _take(self, told: Iterable[list[Any]]) -> None:
        """Act on the lines of liblsl's program; `rigsync.bridges.lsl.program` describes them."""
        heard = shortened(str(self._from))
        for kind, *what in told:
            if kind == "marker":
                value, here, stamp = what
                try:
                    unix = None if here is None else here - self._ahead
                    self.hub.ingest(LslMarker(str(self._from), value, unix, stamp))
                except NotRunning:  # the hub has stopped, and is about to end this
                    return
            elif kind == "found":
                logger.info("LSL stream %s is there, on %s: its markers are events", heard, shortened(what[0]))
            elif kind == "lost":
                logger.warning("LSL stream %s %s; the bridge looks for it until it comes", heard, what[0])
            elif kind == "too long":
                self._note("too long", f"a marker of LSL stream {heard} is too long, and is no event")
            else:
                self._note("failed", f"liblsl did not take a marker: {what[0]}")


def _checked(name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch(NAMES, name) or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{shortened(str(name))} is no name of an LSL stream: expected up to {LONGEST_NAME} characters, no quotes"
        )
    return name
