"""Files of rigs, and how rigsync reads them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from rigsync.config.address import parse_broker
from rigsync.config.alerts import ALERTS, Alert, alerts_of
from rigsync.config.journal import JOURNAL, JournalSettings, journal_of
from rigsync.config.programs import CURVE_KEY
from rigsync.config.rigs import ADDRESS, NAME, RIG, Rigs, rigs_of
from rigsync.config.schema import (
    Key,
    Known,
    Mistakes,
    Table,
    boolean,
    document,
    either,
    listing,
    mapping,
    number,
    text,
    under,
)
from rigsync.config.yaml import document_node, located, map_of
from rigsync.core.session_paths import check_place
from rigsync.core.timing import DEFAULT_TIMING, MOST, SHORTEST, Timing
from rigsync.errors import ConfigError

_TIMES = {
    "beat": "Seconds between two probes of a rig.",
    "burst_count": "Probes on connecting.",
    "burst_interval": "Seconds between two probes on connecting.",
    "suspect_beats": "Silent beats after which a rig is suspect.",
    "lost_beats": "Silent beats after which a rig is lost.",
    "overdue_probes": "Probes in each beat while a rig is overdue.",
    "iblutil_beat": "Seconds between two probes of a rig that speaks iblutil.",
    "iblutil_suspect_probes": "Unanswered probes after which a rig that speaks iblutil is suspect.",
    "iblutil_lost_probes": "Unanswered probes after which a rig that speaks iblutil is lost.",
    "clock_bound": "Seconds. A rig whose clock is known less exactly than that is probed like an overdue one.",
    "lost_grace": "Seconds to wait for the answer of a lost rig.",
    "resend_first": "Seconds before a message is sent again, until a round trip was measured.",
    "resend_min": "The fewest seconds before a message is sent again.",
    "resend_max": "The most seconds before a message is sent again.",
    "ask_again": "Seconds before a rig that is at work is asked again.",
    "ack_delay": "Seconds after which a rig that is still at work says so.",
    "echo_timeout": "Seconds to wait for the echo of a rig that speaks iblutil.",
    "connect_timeout": "Seconds to wait for the rigs at the start.",
}
_TIMING = Table(
    {
        field.name: Key(
            number(SHORTEST, unit="seconds") if isinstance(field.default, float) else number(1, MOST, whole=True),
            _TIMES[field.name],
            default=field.default,
        )
        for field in dataclasses.fields(Timing)
    }
)
_OSC_ADDRESS = text(
    500,
    r"(?:udp|tcp|tcp\+length)://\S+:[0-9]{1,5}",
    "udp://, tcp:// or tcp+length://, a host and a port, such as udp://127.0.0.1:9000",
)
_ZMQ_ADDRESS = text(500, r"tcp://\S+:[0-9]{1,5}", "tcp://, an IP address and a port, such as tcp://127.0.0.1:5555")
_STREAM = text(100, r"[^'\"]*[^'\"\s][^'\"]*", "the name of an LSL stream, without quotes")
_OF_ANY_HUB = {
    "lsl": Key(
        Table(
            {
                "name": Key(_STREAM, "Name of the stream of markers.", default="rigsync"),
                "from": Key(_STREAM, "The stream whose markers become events."),
            }
        ),
        "Markers for recorders by Lab Streaming Layer.",
    ),
    "osc": Key(
        Table(
            {
                "listen": Key(_OSC_ADDRESS, "Where OSC programs send to.", default="udp://127.0.0.1:9000"),
                "to": Key(listing(_OSC_ADDRESS), "OSC programs that are told all that happens.", default=[]),
            }
        ),
        "Commands and events by Open Sound Control.",
    ),
    "zmq": Key(
        Table(
            {
                "pub": Key(_ZMQ_ADDRESS, "Where all that happens is published.", default="tcp://127.0.0.1:5556"),
                "rep": Key(_ZMQ_ADDRESS, "Where it is asked.", default="tcp://127.0.0.1:5555"),
                "curve": Key(
                    Table(
                        {
                            "secret_key": Key(text(), "The file of the bridge's secret key.", required=True),
                            "clients": Key(
                                listing(CURVE_KEY, 1), "Public keys of those who may connect.", required=True
                            ),
                        }
                    ),
                    "Keys, without which nobody can connect.",
                ),
            }
        ),
        "Requests and events by ZeroMQ.",
    ),
}
_AT_BROKER = "Events, and how each rig is, at an MQTT broker."
_BROKER = Key(
    text(500),
    "The broker, and with what its topics begin, as in mqtt://broker.lab/room1; mqtts:// for TLS.",
    required=True,
)
RIG_BRIDGES = Table(
    {
        **_OF_ANY_HUB,
        "mqtt": Key(
            Table(
                {"broker": _BROKER},
                misplaced={"commands": "nobody commands a rig by its bridge: its coordinator does; leave this out"},
            ),
            _AT_BROKER,
        ),
    }
)
"""The bridges of an agent's file, which tell what happens at its rig."""
_COMMANDS = Key(
    boolean(), "Whether whoever may publish on its topics push/# and call/# there commands the rigs.", default=False
)
_BRIDGES = Table({**_OF_ANY_HUB, "mqtt": Key(Table({"broker": _BROKER, "commands": _COMMANDS}), _AT_BROKER)})
_RIGS = Table(
    {
        "timing": Key(_TIMING, "The times by which rigs are asked and watched. Most files leave them out.", default={}),
        "rigs": Key(
            mapping(either({str: ADDRESS, dict: RIG}, "an address in quotes, or a map with the key uri"), NAME),
            "The rigs by name; rigsync shows them in this order.",
            required=True,
        ),
        "bridges": Key(_BRIDGES, "What rigsync bridge starts.", default={}),
        "journal": JOURNAL,
        "report": Key(text(1000), "The folder for a report of each session, written at its end (docs/report.md)."),
        "alerts": Key(ALERTS, "Who is told of what, while this program commands an experiment.", default=[]),
        "metadata": Key(
            text(1000),
            "The folder of a session for its metadata, written at its end, such as D:/data/{session_path}.",
        ),
    }
)
_FLAT = mapping(
    either({str: ADDRESS}, "an address", "; rigs with keys of their own stand below a first line 'rigs:'"), NAME
)


def rigs_schema() -> dict[str, Any]:
    """Return the JSON Schema of a file of rigs in either form."""
    either_form = {"type": "object", "if": {"required": ["rigs"]}, "then": _RIGS.schema, "else": _FLAT.schema}
    return document("The rigs of an experiment, for rigsync", either_form)


def bridges_of(found: Known, folder: Path) -> dict[str, Any]:
    """Return the options of each bridge of a file. Relative paths begin at the file's folder.

    Raises
    ------
    ConfigError
        The broker is none; its ``key`` begins at ``bridges``.
    """
    bridges = {name: dict(options) for name, options in found.items() if options is not None}
    if "zmq" in bridges and (curve := found["zmq"]["curve"]):
        bridges["zmq"]["curve"] = {**curve, "secret_key": str(folder / curve["secret_key"])}
    if "mqtt" in bridges:
        with under("bridges.mqtt.broker"):
            parse_broker(found["mqtt"]["broker"])
    return bridges


def _metadata_of(folder: str | None, there: Path) -> str | None:
    """Return the folder of a session, in which variables stand; a relative one begins in the file's folder."""
    if folder is None:
        return None
    try:
        check_place(folder)
    except ValueError as error:
        raise ConfigError(str(error), key="metadata") from error
    return str(there.absolute() / folder)


def load_rigs(path: str | os.PathLike[str]) -> Rigs:
    """Read a YAML file of rigs; rigs.example.yaml shows every key.

    Parameters
    ----------
    path : str or os.PathLike
        A file in the long form, with the key ``rigs`` and, as needed, ``timing``. Or a flat map of names to URIs, such
        as iblrig's remote_devices.yaml.

    Returns
    -------
    Rigs
        The rigs in the order of the file, which is their ``source``.

    Raises
    ------
    ConfigError
        The file cannot be read, or has mistakes. The error has the file and, if it can, line and key, and in ``errors``
        all mistakes. A flat file has the keys of the long form.
    """
    return _load(str(Path(path)))[0]


def rig_error(error: ConfigError, file: str) -> ConfigError:
    """Add the file and the line to an error about one of its rigs."""
    return located(error, file, _load(file)[1])


def _load(file: str) -> tuple[Rigs, dict[str, int]]:
    lines: dict[str, int] = {}
    mistakes = Mistakes()
    with mistakes:
        node = document_node(file, "expected a YAML file with a key 'rigs', or lines such as cameras: 192.168.1.20")
        timing, bridges = DEFAULT_TIMING, {}
        journal: JournalSettings | None = JournalSettings()
        report = metadata = None
        alerts: tuple[Alert, ...] = ()
        if all(key.value != "rigs" for key, _ in node.value):
            found = _FLAT.read(map_of(node, lines, mistakes, "rigs"), "rigs", mistakes)
        else:
            whole = _RIGS.read(map_of(node, lines, mistakes), "", mistakes)
            with mistakes, under("timing"):
                timing = Timing(**{name: whole["timing"][name] for name in _TIMES})
            found = whole["rigs"]
            with mistakes:
                bridges = bridges_of(whole["bridges"], Path(file).parent)
            with mistakes:
                journal = journal_of(whole["journal"], Path(file).parent)
            report = None if whole["report"] is None else Path(file).parent.absolute() / whole["report"]
            with mistakes:
                alerts = alerts_of(whole["alerts"], Path(file).parent, mistakes)
            with mistakes:
                metadata = _metadata_of(whole["metadata"], Path(file).parent)
        parts: dict[str, Any] = {"bridges": bridges, "journal": journal, "report": report, "alerts": alerts}
        parts["metadata"] = metadata
        rigs = Rigs(rigs_of(found, mistakes, os.path.dirname(file)), timing, source=file, **parts)
        if not mistakes:
            return rigs, lines
    raise located(ConfigError.of(mistakes), file, lines) from mistakes[0].__cause__
