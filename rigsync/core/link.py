"""The link to one rig, as the parts of a `Peer` share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from random import Random

from rigsync.core.backoff import Backoff
from rigsync.core.clock import StampClock
from rigsync.core.events import Event
from rigsync.core.liveness import BROKERED_A_SECOND, MOST_A_SECOND, Liveness
from rigsync.core.outputs import Line
from rigsync.core.rigs import RigConfig
from rigsync.core.timing import Timing


class Link:
    """The rig, the coordinator, and where both put what leaves and what is told.

    Datagrams go to `outbox`, each with the rig and the line; events to `told`. `program` says for people which program
    the coordinator is; `links` is the number of its rigs, which share what may leave in a second, and `numbers` those
    of its requests.
    """

    def __init__(
        self,
        config: RigConfig,
        timing: Timing,
        boot: str,
        stamps: StampClock,
        random: Random,
        outbox: list[tuple[tuple[str, Line], bytes]],
        told: list[Event],
        program: str | None = None,
        links: int = 1,
        numbers: Iterator[int] | None = None,
    ):
        self.config, self.name = config, config.name
        self.timing, self.boot, self.stamps, self.program = timing, boot, stamps, program
        self.outbox, self.events = outbox, told
        self.numbers = numbers or count(1)
        self.requests, self.probes = (self.name, Line.REQUESTS), (self.name, Line.PROBES)
        self.is_stream = config.address.scheme == "tcp"
        self.backoff = Backoff(timing, random)
        self.is_brokered = config.address.is_brokered
        self.most_a_second = BROKERED_A_SECOND if self.is_brokered else MOST_A_SECOND
        """Probes to overdue rigs, and requests sent again, to all rigs together."""
        self.liveness = Liveness(timing, random, links, self.most_a_second)
        self.violations: Counter[str] = Counter()
