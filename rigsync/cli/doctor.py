"""`rigsync doctor`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import click

from rigsync._text import printable
from rigsync.cli import completion
from rigsync.cli.logs import start_logging
from rigsync.cli.options import json_option, rigs_option, verbose_option
from rigsync.cli.output import milliseconds, offset, write_json, write_line, write_lines, write_text
from rigsync.cli.rigs import chosen, rigs_of_file
from rigsync.coordinator.view import clock_document
from rigsync.doctor.doctor import Diagnosis, diagnose
from rigsync.doctor.evidence import Evidence, text_of


@click.command(short_help="Find out what is wrong with rigs, and what to do.")
@click.argument("patterns", metavar="[RIG]...", nargs=-1, shell_complete=completion.rigs)
@rigs_option
@click.option(
    "--idle",
    is_flag=True,
    help="Say that no experiment runs. The doctor then connects, too, to rigs on tcp:// that speak or may speak "
    "iblutil, which takes them from a task that uses them.",
)
@json_option
@verbose_option
def command(patterns: tuple[str, ...], rigs_file: str | None, idle: bool, as_json: bool) -> int:
    """Find out what is wrong with each RIG, a name or a pattern such as 'cameras:*'; with all rigs by default.

    It takes some seconds. It does not disturb an experiment: it only probes, and does not connect to rigs that a
    connection would disturb. The exit status is 1 if something is wrong, or could not be examined.

    With --json, the "fault" of a finding is one of: unknown-name, same-address, no-route, wrong-interface,
    answers-from-another-address, other-protocol, closed-port, deaf, silence, broker, hangs, not-examined, not-a-rig,
    wrong-rig, wrong-dialect, version, mtu, clock, second-coordinator, unwell.
    """
    start_logging()
    diagnoses = diagnose(chosen(rigs_of_file(rigs_file), patterns), idle=idle)
    if as_json:
        write_json({"rigs": {name: _document(diagnosis) for name, diagnosis in diagnoses.items()}})
    else:
        _print(diagnoses.values())
    return 1 if any(diagnosis.findings for diagnosis in diagnoses.values()) else 0


def _print(diagnoses: Collection[Diagnosis]) -> None:
    told: dict[tuple[str, ...], str] = {}  # remedies by rig: many rigs may have the same fault
    unwell = sum(bool(diagnosis.findings) for diagnosis in diagnoses)
    for diagnosis in diagnoses:
        evidence, name = diagnosis.evidence, diagnosis.evidence.rig.name
        faults = ", ".join(finding.fault.value for finding in diagnosis.findings)
        write_text(f"{name} ({_address_of(evidence)}): {faults or f'all is well, {_state_of(evidence)}'}")
        for finding in diagnosis.findings:
            write_text(f"seen: {finding.seen}", "  ")
            write_text(f"that is: {finding.meaning}", "  ")
            if finding.remedies in told:
                write_text(f"what to do: as for {told[finding.remedies]}", "  ")
                continue
            told[finding.remedies] = name
            write_line("  what to do:")
            for remedy in finding.remedies:
                if remedy.startswith("$ "):
                    write_lines(f"      {printable(remedy[2:])}")  # in one line, for copying
                else:
                    write_text(f"- {remedy}", "    ")
    write_line()
    write_line(f"{unwell} of {len(diagnoses)} rigs unwell" if unwell else "all is well")


def _address_of(evidence: Evidence) -> str:
    return text_of(evidence.asked) if evidence.asked else str(evidence.rig.address).partition("://")[2]


def _state_of(evidence: Evidence) -> str:
    alive = evidence.alive
    parts = [f"{evidence.dialect.value} {alive.version}" if alive else evidence.dialect.value]
    if evidence.connected and not alive:
        parts.append("echoes (over TCP, only a message can tell whether it also acts)")
    if alive:
        parts.append(" ".join(part for part in (alive.status.name, alive.exp_ref) if part))
    parts.append(f"{milliseconds(evidence.round_trip)} ms")
    if evidence.clock:
        parts.append(f"offset {offset(evidence.clock)}")
    return ", ".join(parts)


def _document(diagnosis: Diagnosis) -> dict[str, Any]:
    evidence, alive = diagnosis.evidence, diagnosis.evidence.alive
    return {
        "address": _address_of(evidence),
        "dialect": evidence.dialect.value if evidence.has_answered else None,
        "version": alive.version if alive else None,
        "status": alive.status.name if alive else None,
        "exp_ref": alive.exp_ref if alive else None,
        "owner": evidence.owner,
        "sent": evidence.probes,
        "received": evidence.answers,
        "round_trip_ms": None if evidence.round_trip is None else 1000 * evidence.round_trip,
        "clock": clock_document(evidence.clock),
        "largest_datagram": evidence.largest,
        "findings": [dataclasses.asdict(finding) for finding in diagnosis.findings],
    }
