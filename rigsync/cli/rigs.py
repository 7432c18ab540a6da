"""The rigs of a command, and the connection to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

import rigsync
from rigsync.agent.keys import is_agent_file
from rigsync.cli.loading import loading
from rigsync.config.files import load_rigs, rig_error
from rigsync.config.finding import find_rigs_file, user_config_file
from rigsync.config.rigs import Rigs
from rigsync.core.rigs import RigConfig
from rigsync.errors import ConfigError

TELLING, LONGEST_TELLING = 0.1, 1.0
"""Seconds of quiet after which rigs have told how they are, and the most seconds to wait for that."""


def rigs_of_file(explicit: str | None = None) -> Rigs:
    """Read the file of rigs that ``--rigs`` names, or else `find_rigs_file` finds."""
    file = find_rigs_file(explicit)
    if file is None:
        raise ConfigError(_nothing_found())
    return read(file)


def read(file: str | os.PathLike[str]) -> Rigs:
    """Read a file of rigs, in which there has to be one."""
    try:
        rigs = load_rigs(file)
    except ConfigError as error:
        if os.path.isfile(file) and is_agent_file(file):
            problem = "this is the file of an agent, for rigsync serve; a task takes a file of rigs"
            raise ConfigError(problem, file=os.fspath(file)) from error
        raise
    if not rigs.rigs:
        problem = "there is no rig in it; write one in each line, for instance cameras: 192.168.1.20"
        raise ConfigError(problem, file=rigs.source)
    return rigs


def chosen(rigs: Rigs, patterns: Iterable[str]) -> Rigs:
    """Return the rigs that match names or patterns, in the order of the file; without patterns all."""
    names = rigs.matching(patterns)
    return replace(rigs, rigs={name: rigs.rigs[name] for name in names}) if names else rigs


def may_be_asked(rig: RigConfig) -> bool:
    """Return whether a rig can have commands, and no connection takes it from its task (docs/lab.md)."""
    return rig.dialect == "rigsync" or (rig.dialect == "auto" and rig.address.scheme != "tcp")


def connect(rigs: Rigs, connect_timeout: float | None = None, leave_running: bool = False) -> rigsync.Auxiliaries:
    """Connect to rigs; an error about one of them has file and line."""
    with loading():
        kind = rigsync.Auxiliaries
    try:
        return kind(rigs, connect_timeout=connect_timeout, leave_running=leave_running)
    except ConfigError as error:
        raise located(error, rigs) from error


def located(error: ConfigError, rigs: Rigs) -> ConfigError:
    """Return an error about one of the rigs with its file and line."""
    return error if rigs.source is None else rig_error(error, rigs.source)


def _nothing_found() -> str:
    return f"""there is no file of rigs. Looked for:
  the file that --rigs names               none given
  the file that RIGSYNC_RIGS names         not set
  {os.path.abspath("rigs.yaml")}
  {user_config_file()}
Write one of these, with a line for each rig:
  rigs:
    cameras: 192.168.1.20
    neuropixel: 192.168.1.21:11002
rigs.example.yaml, which comes with rigsync's source, shows all that can stand in it. To try rigsync without any
rig: rigsync demo"""


def let_tell(told: Callable[[], Any]) -> None:
    """Wait until the rigs have told what they tell each program that connects, by what is `told` so far."""
    end, before = monotonic() + LONGEST_TELLING, None
    while monotonic() < end and (now := told()) != before:
        before = now
        sleep(TELLING)
