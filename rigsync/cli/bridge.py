"""`rigsync bridge`."""

from __future__ import annotations

from contextlib import ExitStack
from logging import INFO
from time import sleep
from typing import Any

import click

from rigsync import ConfigError, NotRunning
from rigsync._text import printable
from rigsync.cli.bridge_classes import classes_of, made
from rigsync.cli.children import signals_noted
from rigsync.cli.logs import background_logging
from rigsync.cli.options import rigs_option, verbose_option
from rigsync.cli.output import end_interrupted_line
from rigsync.cli.rigs import connect, rigs_of_file
from rigsync.config.rigs import Rigs
from rigsync.core.events import LinkState

INTERVAL = 0.1
"""Seconds between looks whether to end."""


@click.group(
    short_help="Let other programs command rigs, and tell them what happens.",
    invoke_without_command=True,
)
@rigs_option
@verbose_option
@click.pass_context
def command(ctx: click.Context, rigs_file: str | None) -> None:
    """Let programs that speak other protocols command the rigs, and tell them what happens, until Ctrl-C.

    Without a protocol, it starts what stands under `bridges:` in the file of rigs. docs/bridges.md has the addresses
    and messages of each.
    """
    if ctx.invoked_subcommand is None:
        rigs = rigs_of_file(rigs_file)
        if not rigs.bridges:
            problem = "no bridge stands in it; write a section bridges:, or name one, as in rigsync bridge osc"
            raise ConfigError(problem, file=rigs.source)
        _run(rigs, rigs.bridges)
    elif rigs_file:
        raise click.UsageError(f"write --rigs behind {ctx.invoked_subcommand}")


@command.command(short_help="Open Sound Control: Bonsai, Max, TouchDesigner and others.")
@click.option(
    "--listen", metavar="URI", help="Where OSC programs send to: udp:// (as is usual), tcp://, tcp+length://."
)
@click.option("--to", metavar="URI", multiple=True, help="A program that is told all that happens; may be repeated.")
@rigs_option
@verbose_option
def osc(listen: str | None, to: tuple[str, ...], rigs_file: str | None) -> None:
    """Let OSC programs command the rigs, and tell them what happens, until Ctrl-C.

    It listens on udp://127.0.0.1:9000, unless --listen or the file of rigs says otherwise. OSC has no password: whoever
    reaches that port commands the rigs.

    \b
    rigsync bridge osc
    rigsync bridge osc --listen tcp://127.0.0.1:9000 --to udp://127.0.0.1:9001
    oscsend 127.0.0.1 9000 /rigsync/push/EXPSTART s 2026-01-31_1_mouse
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    _run_one("osc", rigs_file, listen=listen, to=to)


@command.command(short_help="ZeroMQ: events to subscribers, requests in JSON.")
@click.option("--pub", metavar="ADDR", help="Where it publishes all that happens.")
@click.option("--rep", metavar="ADDR", help="Where it is asked.")
@rigs_option
@verbose_option
def zmq(pub: str | None, rep: str | None, rigs_file: str | None) -> None:
    """Let ZeroMQ programs command the rigs, and publish what happens, until Ctrl-C.

    It publishes on tcp://127.0.0.1:5556 and is asked on tcp://127.0.0.1:5555, unless the options or the file of rigs
    say otherwise. Without keys (curve: in the file), whoever reaches the latter commands the rigs.

    \b
    rigsync bridge zmq
    rigsync bridge zmq --pub tcp://127.0.0.1:6000 --rep tcp://127.0.0.1:6001
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    _run_one("zmq", rigs_file, pub=pub, rep=rep)


@command.command(short_help="MQTT: events and how each rig is, at a broker.")
@click.option("--broker", metavar="URL", help="The broker, and with what all topics begin: mqtt://host/prefix.")
@rigs_option
@verbose_option
def mqtt(broker: str | None, rigs_file: str | None) -> None:
    """Publish what happens at an MQTT broker, and keep there how each rig is, until Ctrl-C.

    The broker stands in --broker or in the file of rigs. Let the password stand in the environment, in
    RIGSYNC_MQTT_PASSWORD, or in a file that RIGSYNC_MQTT_PASSWORD_FILE names: others see what is typed here.

    \b
    rigsync bridge mqtt --broker mqtt://broker.lab/room1
    mosquitto_sub -h broker.lab -t 'room1/#' -v
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    lacking = "no broker stands in it; write --broker mqtt://host/prefix, or bridges: {mqtt: {broker: ...}} in it"
    _run_one("mqtt", rigs_file, lacking, broker=broker)


def _run_one(name: str, rigs_file: str | None, lacking: str = "", /, **given: Any) -> None:
    """Run one bridge, with what is given in place of what the file says; `lacking` where it cannot do with neither."""
    rigs = rigs_of_file(rigs_file)
    options = {**rigs.bridges.get(name, {}), **{option: value for option, value in given.items() if value}}
    if lacking and not options:
        raise ConfigError(lacking, file=rigs.source)
    _run(rigs, {name: options})


@command.command(short_help="Lab Streaming Layer: LabRecorder and others.")
@click.option("--name", metavar="NAME", help="Name of the stream of markers; rigsync, unless the file says otherwise.")
@click.option("--from", "from_", metavar="NAME", help="The stream whose markers become events.")
@rigs_option
@verbose_option
def lsl(name: str | None, from_: str | None, rigs_file: str | None) -> None:
    """Tell LSL recorders what happens, as a stream of markers, until Ctrl-C.

    Every push, answer, failure and start is a marker, stamped with the moment when it happened.

    \b
    rigsync bridge lsl
    rigsync bridge lsl --name rig-3 --from stimuli
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    given: dict[str, Any] = {"name": name, "from": from_}
    _run_one("lsl", rigs_file, **given)


def _run(rigs: Rigs, bridges: Any) -> None:
    """Connect to the rigs, and run bridges until a signal, or until the rigs' thread has ended."""
    classes = classes_of(bridges)
    with background_logging(INFO), signals_noted() as came, ExitStack() as stack:
        auxiliaries = stack.enter_context(connect(rigs))
        for view in auxiliaries.views.values():
            if view.link is not LinkState.ALIVE:
                click.echo(f"{view.rig} does not answer yet: {printable(view.reason)}; see rigsync doctor", err=True)
        for bridge in made(classes, bridges, auxiliaries):
            stack.enter_context(bridge)
        while not came:
            if not auxiliaries.is_running:
                raise NotRunning("the service thread has ended; see the log (-v)")
            sleep(INTERVAL)
    end_interrupted_line()
