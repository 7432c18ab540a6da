"""`rigsync rehearse`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rigsync._text import line_for_each, size_text
from rigsync.cli.logs import start_logging
from rigsync.cli.options import SECONDS, json_option, rigs_option, usage_errors, verbose_option
from rigsync.cli.output import write_json, write_text
from rigsync.cli.push import data_of, init_option, start_option, timeout_option, to_option
from rigsync.cli.rigs import chosen, connect, rigs_of_file
from rigsync.cli.tables import print_table

if TYPE_CHECKING:  # `--help` does not wait for the coordinator
    from rigsync.coordinator.rehearsal import Proof, Rehearsal


@click.command(short_help="Have all rigs record for some seconds, to try them.")
@click.option("--ref", metavar="REF", help="Reference: by default of today, with the subject rehearsal.")
@click.option("-t", "seconds", type=SECONDS, default=3.0, metavar="S", show_default=True, help="Seconds to record.")
@click.option(
    "--minutes", type=SECONDS, default=60.0, metavar="MIN", show_default=True, help="Length of the session to come."
)
@init_option
@start_option
@to_option
@timeout_option
@rigs_option
@json_option
@verbose_option
def command(
    ref: str | None,
    seconds: float,
    minutes: float,
    init: str | None,
    start: str | None,
    patterns: tuple[str, ...],
    timeout: float | None,
    rigs_file: str | None,
    as_json: bool,
) -> int:
    """Have all rigs record for some seconds into scratch folders, before the animal goes in.

    Each rig checks what it requires, begins with the others at one instant, records, ends, verifies, and removes what
    it has recorded. The table shows what each has proven, and how much a session takes at that rate. Rigs that cannot
    rehearse are left out, and nothing is started there.

    The exit status is 1 if a rig has not proven all, has no room for the session, or none could take part.

    \b
    rigsync rehearse
    rigsync rehearse -t 10 --minutes 90
    rigsync rehearse --ref 2026-01-31_1_mouse --init '{"box": 4}'
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    begin, data = data_of(init, start)
    start_logging()
    with connect(chosen(rigs_of_file(rigs_file), patterns)) as auxiliaries, usage_errors():
        rehearsal = auxiliaries.rehearse(ref, seconds=seconds, minutes=minutes, init=begin, start=data, timeout=timeout)
    if as_json:
        write_json(rehearsal.document())
        return int(not rehearsal.succeeded)
    columns, rows = table_of(rehearsal)
    print_table(columns, rows, right=columns[2:], stacks=[(0, 1), (2, 3, 4), (5,), (6, 7)])
    for line in remarks_on(rehearsal):
        write_text(line)
    return int(not rehearsal.succeeded)


def table_of(rehearsal: Rehearsal) -> tuple[list[str], list[list[str]]]:
    """Return the columns, and a row for each rig."""
    columns = ["rig", "outcome", "started in", "grew by", "ended in", "from the instant", "free"]
    return [*columns, f"{rehearsal.minutes:g} min take"], [_row(rig, proof) for rig, proof in rehearsal.items()]


def remarks_on(rehearsal: Rehearsal) -> list[str]:
    """Return what is wrong, a line for all rigs with the same reason, and how far the starts lie apart."""
    lines = line_for_each({rig: proof.problem for rig, proof in rehearsal.items() if proof.problem})
    if rehearsal.skew is not None:
        lines.append(f"{1000 * rehearsal.skew:.2f} ms between the first and the last")
    if all(proof.left_out for proof in rehearsal.values()):
        lines.append("no rig has taken part, so nothing is proven")
    return lines


def _row(rig: str, proof: Proof) -> list[str]:
    outcome = "left out" if proof.left_out else "failed" if proof.problem else "ok"
    instant = "-"
    if proof.late is not None and proof.bound is not None:
        instant = f"{1000 * proof.late:+.2f} ± {1000 * proof.bound:.2f} ms"
    grew = "-" if proof.grew is None else f"{size_text(proof.grew)} in {proof.seconds or 0:.1f} s"
    return [
        rig,
        outcome,
        _seconds(proof.started_in),
        grew,
        _seconds(proof.ended_in),
        instant,
        _size(proof.free),
        _size(proof.expected),
    ]


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def _size(count: int | None) -> str:
    return "-" if count is None else size_text(count)
