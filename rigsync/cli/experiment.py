"""The experiment that `rigsync demo` runs."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import click

from rigsync import Auxiliaries, ExpStatus, PushResult
from rigsync.cli.children import Children, ended_by_signals
from rigsync.cli.outcomes import document_of, timed_push
from rigsync.cli.plain_views import View
from rigsync.net.relay import relay_before

RECORDING = 0.5
"""Seconds between start and end: long enough to watch."""


@dataclass
class Experiment:
    exp_ref: str
    addresses: dict[str, tuple[str, int]]
    """Host and port of each rig, or of the relay before it."""
    dialects: dict[str, str] = field(default_factory=dict)
    pushes: list[tuple[PushResult, dict[str, float]]] = field(default_factory=list)
    """Result of each message, with the seconds that each rig took."""
    datagrams: dict[str, int] | None = None
    """How many datagrams a relay has carried and lost; None without a relay."""

    def document(self) -> dict[str, Any]:
        return {
            "exp_ref": self.exp_ref,
            "rigs": {
                name: {"address": f"{host}:{port}", "dialect": self.dialects[name]}
                for name, (host, port) in self.addresses.items()
            },
            "pushes": [document_of(result, seconds) for result, seconds in self.pushes],
            "datagrams": self.datagrams,
        }


def run_experiment(number: int, loss: float, view: View, seed: int | None = None) -> Experiment:
    """Run an experiment with rigs that are started for it and ended after it; an iblutil rig is spared the `loss`."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        addresses = _start_rigs(number, stack.enter_context(Children()))
        relays = {}
        if loss:
            relayed = list(addresses)
            spared = ""
            if _has_iblutil():
                spared = (
                    f" but those of {relayed.pop()}: an iblutil rig would close its socket for good at the first loss"
                )
            click.echo(f"A relay loses {100 * loss:g}% of all datagrams{spared}.", err=True)
            relays = stack.enter_context(
                relay_before({name: addresses[name] for name in relayed}, loss=loss, seed=seed)
            )
            addresses.update({name: relay.address for name, relay in relays.items()})
        experiment = Experiment(f"{date.today()}_1_demo", addresses)
        uris = {name: f"udp://{host}:{port}" for name, (host, port) in addresses.items()}
        auxiliaries = stack.enter_context(Auxiliaries(uris, journal=True))
        stack.enter_context(view)
        _command_rigs(experiment, auxiliaries, view)
        if relays:
            experiment.datagrams = {
                "forwarded": sum(relay.forwarded for relay in relays.values()),
                "dropped": sum(relay.dropped for relay in relays.values()),
            }
    return experiment


def _start_rigs(number: int, children: Children) -> dict[str, tuple[str, int]]:
    click.echo(f"Starting {number} rigs on this computer ...", err=True)
    started = []
    of_iblutil = _has_iblutil()
    if not of_iblutil:
        click.echo("All are rigs of rigsync: a rig of iblutil needs iblutil installed.", err=True)
    for i in range(1, number if of_iblutil else number + 1):
        main_sync = ["--main-sync"] if i == 1 else []
        options = ["--uri", "udp://127.0.0.1:0", "--json", "--until-eof", *main_sync]
        started.append(children.start(f"rig{i}", "-m", "rigsync", "serve", f"rig{i}", *options))
    if of_iblutil:
        started.append(children.start(f"rig{number}", "-m", "rigsync.cli.iblutil_rig", f"rig{number}"))
    return {child.name: child.address() for child in started}


def _has_iblutil() -> bool:
    return importlib.util.find_spec("iblutil") is not None


def _command_rigs(experiment: Experiment, auxiliaries: Auxiliaries, view: View) -> None:
    messages: list[tuple[str, list[Any]]] = [
        ("EXPINFO", [ExpStatus.CONNECTED]),
        ("EXPINIT", [{"exp_ref": experiment.exp_ref}]),
        ("EXPSTART", [experiment.exp_ref]),
        ("EXPEND", []),
        ("EXPCLEANUP", []),
    ]
    view.begin(list(experiment.addresses), [message for message, _ in messages])
    for message, arguments in messages:
        view.pushed(message)
        result, seconds = timed_push(auxiliaries, message, arguments, on_answer=view.answered)
        experiment.pushes.append((result, seconds))
        view.settled(result, seconds)
        if message == "EXPSTART":
            view.pause(RECORDING)
            time.sleep(RECORDING)
    if auxiliaries.services:
        experiment.dialects = {name: rig.dialect for name, rig in auxiliaries.services.items()}
