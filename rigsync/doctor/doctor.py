"""What is wrong between this computer and its rigs, and what to do about it.

`diagnose` examines all rigs at the same time and takes some seconds. It only probes, from sockets of its own. That
disturbs no experiment and runs no handler. A mere connection would disturb a rig of the iblutil dialect on ``tcp://``,
so `diagnose` spares such a rig unless no experiment runs. It collects an `Evidence` for each rig.
`rigsync.doctor.findings` derives the findings from that.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rigsync.config.programs import ProgramRig
from rigsync.config.rigs import Rigs
from rigsync.core import messages
from rigsync.core.clock import ClockFilter, StampClock
from rigsync.core.events import Dialect
from rigsync.core.messages import Alive, Notice, Probe
from rigsync.core.rigs import RigConfig, is_called
from rigsync.doctor.at_broker import broker_line
from rigsync.doctor.evidence import Evidence, SocketAddress
from rigsync.doctor.findings import Finding, judge
from rigsync.doctor.lines import Line, StreamLine, datagram_line, stream_line
from rigsync.doctor.unwell import troubles_of
from rigsync.errors import ConfigError, RemoteProtocolError
from rigsync.net.endpoint import stamp_clock
from rigsync.net.interfaces import own_interfaces
from rigsync.net.lines import has_no_way
from rigsync.net.resolve import addresses_of
from rigsync.runtime.loop_thread import LoopThread
from rigsync.runtime.workers import Workers

LOOK_UP_TIMEOUT = 3.0
"""Seconds for a name server to answer."""
BURST, BURST_INTERVAL = 8, 0.02
"""Probes to each rig, and seconds between two: the same as on connecting."""
ECHO_BURST, ECHO_INTERVAL = 3, 0.3
"""The same to a rig that, by the configuration, speaks iblutil. It warns of messages that it does not know."""
BEAT = 1.0
"""The beat, in seconds, that the probes tell rigs: the doctor's probes are no farther apart."""
PATIENCE = 1.0
"""Seconds after which a probe counts as lost."""
SILENCE = 3.5
"""Seconds to wait for any answer. Linux needs 3 s to find that a computer is not in the local network. Windows asks a
refusing TCP port again for 2 s."""
SHORT = 256
"""Bytes of a usual probe. To an unknown computer a rig sends at most three times the bytes that came, and its answer
has to fit into these."""
SIZES = (1400, 1600, 8000, 60000)
"""Bytes of padded probes: within a packet of Ethernet, just beyond, within a jumbo frame of 9,000, and near the most
that a datagram carries."""
TRIES, TRIES_UNDER_LOSS = 4, 10
"""Sendings of a padded probe, without and with loss of short ones."""
LONGEST_TRY = 0.4
"""Seconds to wait for the answer to a padded probe."""
PACE = 50e6
"""Bytes a second of padded probes to all rigs together: a burst would overflow switches, which looks like the fault."""
KNOCKED = (33434, 33435, 33436)
"""UDP ports at which nothing listens, by convention: traceroute's."""
AT_ONCE = 100
"""Silent rigs that are examined at a time. Each takes some sockets, and Windows watches 512."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was seen of one rig, and what is wrong with it: nothing where all is well."""

    evidence: Evidence
    findings: tuple[Finding, ...]


def diagnose(rigs: Rigs, *, idle: bool = False) -> dict[str, Diagnosis]:
    """Examine all rigs, at the same time; return the diagnoses by name of rig, in the order of the configuration.

    With `idle`, no experiment runs, and the doctor also connects to rigs on ``tcp://`` that are, or may be, of the
    iblutil dialect. That takes them from a task that is connected to them.
    """
    thread = LoopThread("doctor", timeout=-1)
    thread.start()
    try:
        evidences: list[Evidence] = thread.run_coroutine(functools.partial(_examine_all, idle=idle), rigs)
    finally:
        thread.stop()
        thread.join()
    interfaces = own_interfaces()
    return {evidence.rig.name: Diagnosis(evidence, judge(evidence, evidences, interfaces)) for evidence in evidences}


# ------------------------------------------------------------------------------------------------------ examining


async def _examine_all(rigs: Rigs, idle: bool) -> list[Evidence]:
    workers = Workers("doctor")
    examination = _Examination(workers, idle)
    try:
        return list(await asyncio.gather(*(examination.examine(config) for config in rigs.rigs.values())))
    finally:
        workers.close(0.0)  # a look-up that hangs is left behind


class _Examination:
    def __init__(self, workers: Workers, idle: bool):
        self._workers, self._idle = workers, idle
        self._loop = asyncio.get_running_loop()
        self._stamps = stamp_clock()
        self._seeking = asyncio.Semaphore(AT_ONCE)
        self._free_at = self._loop.time()

    async def examine(self, config: RigConfig) -> Evidence:
        """Gather the evidence of one rig."""
        evidence = Evidence(config)
        if config.address.is_brokered:
            await self._examine_at_broker(evidence)
            return evidence
        addresses = await self._look_up(config, evidence)
        if not addresses:
            return evidence
        evidence.asked, *others = addresses
        evidence.spared = isinstance(config, ProgramRig)
        if evidence.spared:
            return evidence
        try:
            if config.address.scheme == "tcp":
                await self._examine_stream(evidence, evidence.asked, others)
            else:
                await self._examine_datagrams(evidence, evidence.asked, others)
        except OSError as error:  # an error of opening the socket: there is no route
            _note_error(evidence, error)
            await asyncio.gather(
                self._reach_another(evidence, others), self._try_other_scheme(evidence, evidence.asked)
            )
        return evidence

    async def _examine_at_broker(self, evidence: Evidence) -> None:
        evidence.asked, evidence.local = evidence.rig.place, socket.gethostname()[:80]
        boot = secrets.token_hex(8)
        try:
            async with broker_line(evidence.rig, boot) as line:
                visit = _Visit(line, evidence, self._stamps, boot)
                if await line.is_there(SILENCE):
                    await visit.probe()
                if evidence.alive:
                    await visit.hear_out()
                    visit.leave()
                evidence.broker = line.reason
        except ConfigError as error:
            evidence.broker = str(error)

    async def _examine_datagrams(
        self, evidence: Evidence, asked: SocketAddress, others: Sequence[SocketAddress]
    ) -> None:
        begun = self._loop.time()
        async with datagram_line(asked) as line:
            evidence.local = line.local
            visit = _Visit(line, evidence, self._stamps)
            await visit.probe()
            if evidence.has_answered and evidence.alive and not evidence.refused:
                await visit.try_sizes(self._pace)
                await visit.hear_out()
                visit.leave()
            elif not evidence.has_answered:
                async with self._seeking:
                    await self._seek(visit, asked, others, begun + SILENCE)

    async def _examine_stream(self, evidence: Evidence, asked: SocketAddress, others: Sequence[SocketAddress]) -> None:
        async with datagram_line(asked) as line:  # sends nothing, and shows the way there
            evidence.local = line.local
        evidence.spared = not self._idle and evidence.rig.dialect != Dialect.RIGSYNC.value
        if evidence.spared:
            async with self._seeking:
                await asyncio.gather(self._knock(evidence, asked), self._try_other_scheme(evidence, asked))
            return
        with contextlib.suppress(TimeoutError):
            await self._call(evidence, asked)
        if not evidence.has_answered and not evidence.connected:
            async with self._seeking:
                searches = (self._knock(evidence, asked), self._try_other_scheme(evidence, asked))
                await asyncio.gather(self._reach_another(evidence, others), *searches)

    async def _call(self, evidence: Evidence, address: SocketAddress) -> None:
        """Probe over a TCP connection."""
        async with stream_line(address, evidence.rig.max_message, SILENCE) as line:
            evidence.connected = True
            visit = _Visit(line, evidence, self._stamps)
            await visit.probe()
            if evidence.alive:
                await visit.hear_out()
                visit.leave()

    async def _look_up(self, config: RigConfig, evidence: Evidence) -> list[SocketAddress]:
        """Return all addresses of a rig's host; a coordinator takes the first."""
        try:
            found = await asyncio.wait_for(self._workers.begin(addresses_of, config.address), LOOK_UP_TIMEOUT)
            return [address for _, address in found]
        except (asyncio.TimeoutError, TimeoutError):
            evidence.unresolved = f"no name server has answered within {LOOK_UP_TIMEOUT:g} s"
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA cannot encode
            evidence.unresolved = str(getattr(error, "strerror", None) or error)
        return []

    async def _seek(self, visit: _Visit, asked: SocketAddress, others: Sequence[SocketAddress], until: float) -> None:
        """Find out why a rig does not answer over UDP."""
        evidence = visit.evidence
        searches = [self._reach_another(evidence, others), self._try_other_scheme(evidence, asked)]
        if not evidence.refused and not evidence.unreachable and not evidence.junk:
            searches += [self._listen_to_all(evidence, asked), self._knock(evidence, asked)]
        await asyncio.gather(*searches)
        found = (evidence.junk, evidence.reached_at, evidence.answered_from, evidence.other_scheme)
        explained = evidence.host_is_up or any(found)
        if not explained and not evidence.has_answered:
            await visit.wait(until)

    async def _reach_another(self, evidence: Evidence, others: Sequence[SocketAddress]) -> None:
        """See whether the rig answers at another address of its name."""
        if evidence.spared:
            return
        for address in others:
            trial = Evidence(evidence.rig, asked=address)
            with contextlib.suppress(OSError):
                if evidence.rig.address.scheme == "tcp":
                    await self._call(trial, address)
                else:
                    async with datagram_line(address) as line:
                        await _Visit(line, trial, self._stamps).probe()
            if trial.has_answered:
                evidence.reached_at = address
                return

    async def _try_other_scheme(self, evidence: Evidence, asked: SocketAddress) -> None:
        """See whether the rig listens on TCP, where UDP was asked, or the other way round."""
        trial = Evidence(evidence.rig, asked=asked)
        with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError):
            if evidence.scheme == "tcp":
                async with datagram_line(asked) as line:
                    await _Visit(line, trial, self._stamps).probe()
            elif self._idle or evidence.rig.dialect == Dialect.RIGSYNC.value:
                await self._call(trial, asked)
        is_this_one = trial.alive is None or is_called(evidence.rig.name, trial.alive.name)
        if trial.has_answered and is_this_one:
            evidence.other_scheme = "udp" if evidence.scheme == "tcp" else "tcp"

    async def _listen_to_all(self, evidence: Evidence, asked: SocketAddress) -> None:
        """See whether an answer comes from elsewhere, which a connected socket would not take."""
        with contextlib.suppress(OSError):
            async with datagram_line(asked, hears_everybody=True) as line:
                trial = Evidence(evidence.rig, asked=asked)
                await _Visit(line, trial, self._stamps).probe()
                if trial.has_answered and line.source and line.source[:2] != asked[:2]:
                    evidence.answered_from = line.source
                elif trial.has_answered:  # it is there, late or after much loss
                    for name in ("probes", "answers", "dialect", "alive", "round_trip", "clock"):
                        setattr(evidence, name, getattr(trial, name))

    async def _knock(self, evidence: Evidence, asked: SocketAddress) -> None:
        """See whether the host refuses at ports where nothing listens."""

        async def refuses(port: int) -> bool:
            with contextlib.suppress(OSError):
                async with datagram_line((asked[0], port, *asked[2:])) as line:
                    line.socket.send(b"")  # asyncio sends no empty datagram
                    news = await line.next(self._loop.time() + PATIENCE)
                    return news is not None and isinstance(news.content, ConnectionError)
            return False

        evidence.host_is_up = any(await asyncio.gather(*map(refuses, KNOCKED)))

    async def _pace(self, size: int) -> None:
        """Wait until a padded probe may leave."""
        turn = self._free_at = max(self._free_at, self._loop.time()) + size / PACE
        await asyncio.sleep(turn - self._loop.time())


class _Visit:
    """Probes one address from one socket."""

    def __init__(self, line: Line, evidence: Evidence, stamps: StampClock, boot: str | None = None):
        self.line, self.evidence = line, evidence
        self._stamps, self._clock = stamps, ClockFilter()
        self._boot = boot or secrets.token_hex(8)
        self._loop = asyncio.get_running_loop()
        self._sent: dict[int, tuple[float, int]] = {}
        self._answered: set[int] = set()
        self._burst: set[int] = set()
        self._n = 0

    async def probe(self) -> None:
        """Send a burst of probes, and wait for answers."""
        evidence = self.evidence
        is_stream = isinstance(self.line, StreamLine)
        # An iblutil rig shows each unknown datagram once, so it gets the same again.
        echoing = evidence.rig.dialect == Dialect.IBLUTIL.value
        count, interval = (ECHO_BURST, ECHO_INTERVAL) if echoing else (BURST, BURST_INTERVAL)
        for number in range(count):
            self._burst.add(self._send(0 if echoing else self._n + 1))
            evidence.probes += 1
            if is_stream and number == 0:
                # A stream loses nothing, so one is enough; and iblutil takes two that arrive together for one message.
                await self.wait(self._loop.time() + SILENCE, lambda: evidence.has_answered or evidence.junk is not None)
                if not evidence.has_answered:
                    return
            await self.wait(self._loop.time() + interval, lambda: echoing and evidence.has_answered)
            if evidence.dialect is Dialect.IBLUTIL or evidence.refused or evidence.unreachable:
                return
        await self.wait(
            self._loop.time() + PATIENCE, lambda: evidence.answers >= evidence.probes or evidence.junk is not None
        )

    async def try_sizes(self, pace: Callable[[int], Any]) -> None:
        """Find out how large datagrams may be, both ways: the answer to a padded probe is as long as the probe."""
        evidence = self.evidence
        lossless = evidence.answers == evidence.probes
        for size in SIZES:
            for attempt in range(TRIES if lossless else TRIES_UNDER_LOSS):
                await pace(size)
                n = self._send(self._n + 1, size)
                patience = min(LONGEST_TRY, 0.1 * (attempt + 1) + 4 * (evidence.round_trip or 0.0))
                await self.wait(self._loop.time() + patience, functools.partial(self._answered.__contains__, n))
                if n in self._answered:
                    evidence.largest = size
                    break
            else:
                evidence.lost_size = size
                return

    async def hear_out(self) -> None:
        """Wait until the rig has told all that it says is wrong."""
        evidence = self.evidence
        patience = self._loop.time() + PATIENCE
        await self.wait(patience, lambda: len(evidence.told.problems) >= troubles_of(evidence))

    def leave(self) -> None:
        """Say goodbye, so that a rigsync rig sends no notices here."""
        self.line.send(messages.bye(self._boot, self._n + 1, "the doctor leaves"))

    async def wait(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Process what comes until monotonic `until` (s), or until the visit needs no more."""
        evidence = self.evidence
        while not (done() or evidence.refused or evidence.unreachable) and (news := await self.line.next(until)):
            if isinstance(news.content, OSError):
                _note_error(evidence, news.content)
            elif isinstance(news.content, RemoteProtocolError):
                self._note_junk(news.content)
            else:
                self._receive(news.content, news.time)

    def _send(self, n: int, size: int = 0) -> int:
        now = self._loop.time()
        stamp = self._stamps.stamp(now) if n else 0
        self._n = max(self._n, n)
        self._sent[n] = (now, stamp)
        beat = BEAT if n else None  # an iblutil rig prints what it gets
        self.line.send(messages.probe(self._boot, n, stamp, size or (SHORT if n else 0), beat=beat))
        return n

    def _receive(self, data: bytes, now: float) -> None:
        evidence = self.evidence
        try:
            frame = messages.decode(data)
            if isinstance(frame, Notice):
                self._receive_notice(frame)
            if not isinstance(frame, (Alive, Probe)):
                return
            if frame.n not in self._sent or (isinstance(frame, Probe) and frame.boot != self._boot):
                raise RemoteProtocolError("stray frame", "an answer without a question")
        except RemoteProtocolError as error:
            self._note_junk(error)
            return
        if frame.n in self._answered:
            return  # doubled by the network
        self._answered.add(frame.n)
        evidence.junk = evidence.unreachable = None
        sent, stamp = self._sent[frame.n]
        evidence.round_trip = min(evidence.round_trip or math.inf, now - sent)
        evidence.answers += frame.n in self._burst  # padded probes do not count
        if isinstance(frame, Alive):
            evidence.dialect, evidence.alive = Dialect.RIGSYNC, frame
            if frame.t0 == stamp:
                self._clock.add((frame.t0, frame.t1, frame.t2, self._stamps.stamp(now)), now)
                evidence.clock = self._clock.estimate
        else:
            evidence.dialect = Dialect.IBLUTIL

    def _receive_notice(self, frame: Notice) -> None:
        """Take what a rig tells whoever begins to watch it: one thing after the other, as each is acknowledged."""
        alive = self.evidence.alive
        if alive and (frame.boot, frame.to or self._boot) == (alive.boot, self._boot):
            self.evidence.told.receive(frame, time.time())
            if frame.confirm:
                self.line.send(messages.ack(self._boot, frame.n))

    def _note_junk(self, error: RemoteProtocolError) -> None:
        if not self.evidence.has_answered:
            self.evidence.junk = self.evidence.junk or error


def _note_error(evidence: Evidence, error: OSError) -> None:
    if isinstance(error, ConnectionError):  # on Linux and macOS, and on Windows
        evidence.refused = True
    elif has_no_way(error) or isinstance(error, PermissionError):
        evidence.unreachable = os.strerror(error.errno) if error.errno else str(error)
