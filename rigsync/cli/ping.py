"""`rigsync ping`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, cast

import click

from rigsync import Auxiliaries, NotRunning, PingReply, RigConfig, RigError, RigRefused, RigServices, WrongRig
from rigsync.cli import completion
from rigsync.cli.logs import start_logging
from rigsync.cli.options import SECONDS, json_option, rigs_option, verbose_option
from rigsync.cli.output import end_interrupted_line, milliseconds, offset, write_json, write_line, write_text
from rigsync.cli.rigs import chosen, connect, rigs_of_file
from rigsync.cli.tables import print_table
from rigsync.coordinator.view import RigView, clock_text
from rigsync.core.events import LinkState

CONNECT_TIMEOUT = 0.2
"""Seconds to wait for the rigs before the first probe. Ping itself finds out whether they answer."""
_TOLD = (
    *("link", "heard", "dialect", "version", "status", "status_reason", "exp_ref", "failures"),
    *("owner", "owner_heard", "interrupts_at", "clock"),
)
"""What JSON has of a rig's view."""
LONGEST_WAIT = 0.25
"""Longest single wait in seconds: Windows lets Ctrl-C through only after it."""


@click.command(short_help="Probe rigs again and again, and show whether they answer.")
@click.argument("patterns", metavar="[RIG]...", nargs=-1, shell_complete=completion.rigs)
@click.option("-c", "--count", type=click.IntRange(min=1), help="Stop after so many probes, instead of at Ctrl-C.")
@click.option(
    "-i", "--interval", type=SECONDS, default=1.0, show_default=True, metavar="S", help="Seconds between two probes."
)
@click.option(
    "-W", "--timeout", type=SECONDS, default=1.0, show_default=True, metavar="S", help="Seconds to wait for an answer."
)
@rigs_option
@json_option
@verbose_option
def command(
    patterns: tuple[str, ...], count: int | None, interval: float, timeout: float, rigs_file: str | None, as_json: bool
) -> int:
    """Probe each RIG, a name or a pattern such as 'cameras:*'; all rigs by default.

    It prints a line for each answer and, at the end (after COUNT probes, or at Ctrl-C), a table. The exit status is 1
    if a rig has not answered at all.
    """
    start_logging()
    rigs = chosen(rigs_of_file(rigs_file), patterns)
    tallies = {name: Tally(rig, timeout) for name, rig in rigs.rigs.items()}
    try:
        with connect(rigs, CONNECT_TIMEOUT) as auxiliaries:
            try:
                for name, number, outcome in _probe(auxiliaries, list(tallies), count, interval, timeout):
                    line = tallies[name].add(number, outcome)
                    if not as_json:
                        write_text(line)
            finally:
                for name, view in auxiliaries.views.items():
                    tallies[name].view = view
    except KeyboardInterrupt:
        end_interrupted_line()
    if as_json:
        write_json({"rigs": {name: tally.document() for name, tally in tallies.items()}})
    else:
        _print_summary(list(tallies.values()))
    return 0 if all(tally.received for tally in tallies.values()) else 1


def _probe(
    auxiliaries: Auxiliaries, names: list[str], count: int | None, interval: float, timeout: float
) -> Iterator[tuple[str, int, PingReply | RigError]]:
    """Probe all rigs at each interval; yield name, number and outcome of each probe."""
    services = cast("RigServices", auxiliaries.services)
    outcomes: SimpleQueue[tuple[str, int, PingReply | RigError]] = SimpleQueue()

    def note(name: str, number: int, outcome: PingReply | RigError) -> None:
        outcomes.put((name, number, outcome))

    sent, settled, due = 0, 0, monotonic()
    while count is None or settled < count * len(names):
        if sent != count and monotonic() >= due:
            sent, due = sent + 1, max(due + interval, monotonic())
            for name in names:
                auxiliaries.thread.call(services.ping, name, timeout, partial(note, name, sent))
        try:
            wait = LONGEST_WAIT if sent == count else min(LONGEST_WAIT, max(0.0, due - monotonic()))
            yield outcomes.get(timeout=wait)
            settled += 1
        except Empty:
            if not auxiliaries.is_running:
                raise NotRunning("the service thread has ended; see the log (-v)") from None


class Tally:
    """The outcomes of the probes of one rig, each of which is settled after `timeout` seconds."""

    def __init__(self, rig: RigConfig, timeout: float):
        self.rig, self._timeout = rig, timeout
        self.settled = self.received = 0
        self._sum = self._sum_of_squares = self._longest = 0.0
        self._shortest = math.inf
        self._last: PingReply | None = None
        self._failure: RigError | None = None
        self.view = RigView(rig.name, LinkState.UNKNOWN)
        """How the rig was at the end."""

    def add(self, number: int, outcome: PingReply | RigError) -> str:
        """Add the outcome of a probe; return the line to print."""
        self.settled += 1
        if isinstance(outcome, PingReply):
            self.received, self._last = self.received + 1, outcome
            self._sum += outcome.round_trip
            self._sum_of_squares += outcome.round_trip**2
            self._shortest = min(self._shortest, outcome.round_trip)
            self._longest = max(self._longest, outcome.round_trip)
            told = f"{outcome.dialect} {outcome.version}, {_status_of(outcome)}" if outcome.version else outcome.dialect
            if outcome.troubles:
                told += f", {outcome.troubles} thing{'s' if outcome.troubles > 1 else ''} wrong"
            told += f", seq={number} time={milliseconds(outcome.round_trip)} ms"
            if outcome.clock:
                told += f", offset {offset(outcome.clock)}"
        else:
            self._failure = outcome
            if isinstance(outcome, RigRefused):
                told = f"refused, seq={number}: the host is up, and nothing listens at that port"
            else:
                told = f"no answer within {self._timeout:g} s, seq={number}"
            if isinstance(outcome, WrongRig):
                told = f"{outcome.problem}, seq={number}"
        return f"{self.rig.name} ({self.address}): {told}"

    @property
    def address(self) -> str:
        """Host and port that answered, or those of the configuration."""
        return self._last.address if self._last else str(self.rig.address).partition("://")[2]

    @property
    def status(self) -> str:
        """The rig's status, or why there is none."""
        if self._last:
            return _status_of(self._last) if self.view.link is LinkState.ALIVE else self.view.state
        if self._failure is None:
            return "-"
        if isinstance(self._failure, WrongRig):
            return "wrong rig"
        return "refused" if isinstance(self._failure, RigRefused) else "no answer"

    @property
    def loss(self) -> float | None:
        """Share of probes without an answer."""
        return 1 - self.received / self.settled if self.settled else None

    @property
    def round_trip(self) -> dict[str, float] | None:
        """Minimum, mean, maximum and standard deviation in seconds."""
        if not self.received:
            return None
        mean = self._sum / self.received
        deviation = math.sqrt(max(0.0, self._sum_of_squares / self.received - mean**2))
        return {"min": self._shortest, "avg": mean, "max": self._longest, "mdev": deviation}

    @property
    def advice(self) -> str | None:
        """Advice for a rig that has never answered."""
        if self.received or self._failure is None:
            return None
        if isinstance(self._failure, (RigRefused, WrongRig)):
            return self._failure.problem
        address = self.rig.address
        if address.is_brokered:
            return f"{self._failure.problem}; rigsync doctor {shlex.quote(self.rig.name)} finds out more"
        return (
            f"check that its computer is on and in this network (ping {address.host}), that the rig's program runs "
            f"there, and that no firewall, there or here, keeps {address.scheme.upper()} port {address.port} closed; "
            f"rigsync doctor {shlex.quote(self.rig.name)} finds out more"
        )

    @property
    def trouble(self) -> str:
        """What is wrong with a rig that has answered; of one that does not any more, all that was heard last."""
        view = self.view
        if view.link is LinkState.ALIVE or self._last is None or view.heard is None:
            return view.trouble
        parts = (_status_of(self._last), view.trouble)
        return f"last heard {clock_text(view.heard)}: {'; '.join(part for part in parts if part)}"

    def document(self) -> dict[str, Any]:
        """Return the tally for JSON, times in milliseconds."""
        times = self.round_trip
        return {
            "address": self.address,
            **{name: value for name, value in self.view.document().items() if name in _TOLD},
            "sent": self.settled,
            "received": self.received,
            "loss": self.loss,
            "round_trip_ms": times and {name: 1000 * time for name, time in times.items()},
            "failure": type(self._failure).__name__ if self._failure else None,
            "problem": self._failure.problem if self._failure else None,
            "advice": self.advice,
        }


def _status_of(reply: PingReply) -> str:
    return " ".join(part for part in (reply.status, reply.exp_ref) if part) or "-"


def _print_summary(tallies: list[Tally]) -> None:
    # The lines above have address and dialect. Without these the table fits into 80 columns during an experiment.
    columns = ["rig", "status", "received", "min", "avg", "max ms"]
    rows = []
    for tally in tallies:
        times = tally.round_trip or {}
        rows.append(
            [
                tally.rig.name,
                tally.status,
                f"{tally.received} of {tally.settled}",
                *(milliseconds(times.get(name)) for name in ("min", "avg", "max")),
            ]
        )
    write_line()
    print_table(columns, rows, right=columns[2:], stacks=[(0, 1), (2,), (3,), (4,), (5,)])
    for tally in tallies:
        if told := tally.advice or tally.trouble:
            write_text(f"{tally.rig.name}: {told}")
