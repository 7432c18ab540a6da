"""`rigsync doctor`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from typing import Any

import click

from rigsync._text import printable
from rigsync.agent.keys import is_agent_file
from rigsync.cli import completion
from rigsync.cli.bridge_classes import classes_of
from rigsync.cli.logs import start_logging
from rigsync.cli.options import json_option, rigs_option, verbose_option
from rigsync.cli.output import milliseconds, offset, write_json, write_line, write_lines, write_text
from rigsync.cli.rigs import chosen, rigs_of_file
from rigsync.coordinator.view import clock_document
from rigsync.doctor.doctor import Diagnosis, diagnose
from rigsync.doctor.evidence import Evidence, text_of
from rigsync.doctor.findings import Finding
from rigsync.doctor.libraries import lacking_library
from rigsync.errors import ConfigError


@click.command(short_help="Find out what is wrong with rigs, and what to do.")
@click.argument("patterns", metavar="[RIG | AGENT.yaml]...", nargs=-1, shell_complete=completion.rigs)
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

    It also looks whether the libraries are here that the bridges of the file need, or those of an agent's file.

    With --json, the "fault" of a finding is one of: unknown-name, same-address, no-route, wrong-interface,
    answers-from-another-address, other-protocol, closed-port, deaf, silence, broker, hangs, not-examined, not-a-rig,
    wrong-rig, wrong-dialect, version, mtu, clock, second-coordinator, unwell, library.
    """
    start_logging()
    agents = [each for each in patterns if _is_agent_file(each)]
    names = [each for each in patterns if each not in agents]
    bridges = [name for agent in agents for name in _bridges_of(agent)]
    diagnoses = {}
    if names or not agents:
        rigs = rigs_of_file(rigs_file)
        bridges += rigs.bridges
        diagnoses = diagnose(chosen(rigs, names), idle=idle)
    lacking = _lacking(bridges)
    if as_json:
        documents = {name: _document(diagnosis) for name, diagnosis in diagnoses.items()}
        findings = {name: {"findings": [dataclasses.asdict(found)]} for name, found in lacking.items()}
        write_json({"rigs": documents, "bridges": {name: findings.get(name, {"findings": []}) for name in bridges}})
    else:
        _print(diagnoses.values(), lacking)
    return 1 if lacking or any(diagnosis.findings for diagnosis in diagnoses.values()) else 0


def _is_agent_file(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml")) and os.path.isfile(name) and is_agent_file(name)


def _bridges_of(agent: str) -> list[str]:
    """Return the bridges of an agent's file. What reads such files is only loaded for that."""
    return list(import_module("rigsync.agent.file").read_agent_file(agent).bridges)


def _lacking(bridges: Iterable[str]) -> dict[str, Finding]:
    """Return a finding for each bridge whose library is not here."""
    found = {}
    for name in bridges:
        try:
            classes_of([name])
        except ConfigError as error:
            found[name] = lacking_library(name, error.problem)
    return found


def _print(diagnoses: Collection[Diagnosis], lacking: Mapping[str, Finding]) -> None:
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
    for name, finding in lacking.items():
        write_text(f"bridge {name}: {finding.fault.value}")
        write_text(f"seen: {finding.seen}", "  ")
        write_text(f"that is: {finding.meaning}", "  ")
        write_text(f"what to do: {finding.remedies[0]}", "  ")
    write_line()
    totals = [f"{unwell} of {len(diagnoses)} rigs unwell"] if unwell else []
    totals += [f"{len(lacking)} bridge{'s' * (len(lacking) > 1)} without a library"] if lacking else []
    write_line(", ".join(totals) or "all is well")


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
