"""What the shell completes, beside the names of commands and options, which click knows.

A completer never fails and prints nothing: a shell shows neither. Its modules are loaded when it is called.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import shlex
from collections.abc import Mapping
from threading import Thread
from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

from rigsync.errors import RigError, RigsyncError

if TYPE_CHECKING:
    from rigsync.config.rigs import Rigs
    from rigsync.core.rigs import RigConfig

LONGEST_WAIT = 1.0
"""Seconds that a rig may take to say which commands it has; a person waits."""
_PLAIN = re.compile(r"[\w.:-]+")
"""A command that a shell takes for a plain word. It comes from another computer, so that no other is offered."""


@add_completion_class
class _Bash(BashComplete):
    """Completion for bash, which ends a word at a colon, and has what it is given typed as it is."""

    _typed = 0
    """Characters of the word up to its last colon. Bash leaves them as they are."""

    def get_completion_args(self) -> tuple[list[str], str]:
        before, last = super().get_completion_args()
        words: list[str] = []
        for word in (*before, last):
            if words and word and (word.startswith(":") or words[-1].endswith(":")):
                words[-1] += word
            else:
                words.append(word)
        self._typed = words[-1].rfind(":") + 1
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type == "plain":
            item.value = shlex.quote(item.value[self._typed :])
        return super().format_completion(item)


def messages(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a message, in small letters too."""
    from rigsync.cli.push import MESSAGES

    return _beginning(incomplete.upper(), {name: meaning for name, (_, meaning) in MESSAGES.items()})


def rigs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a rig, from the file of rigs. It asks nothing of the network."""
    return _beginning(incomplete, {name: str(rig.address) for name, rig in _rigs_of_file(ctx).rigs.items()})


def commands(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a command by asking the rig."""
    rigs = _rigs_of_file(ctx)
    try:
        rig = rigs.only(ctx.params.get("rig") or "")
    except (RigsyncError, ValueError):
        return []
    if not _may_be_asked(rigs.rigs[rig]):
        return []
    logging.disable()
    importlib.import_module("rigsync.coordinator.auxiliaries")  # which takes as long as a rig may
    found: list[str] = []
    # By a thread that may be left behind: a name server may take longer than a person waits.
    asking = Thread(target=lambda: found.extend(_asked(rigs, rig)), name="rigsync completion", daemon=True)
    asking.start()
    asking.join(LONGEST_WAIT)
    return _beginning(incomplete, dict.fromkeys(filter(_PLAIN.fullmatch, found)))


def _asked(rigs: Rigs, name: str) -> list[str]:
    from rigsync.cli.call import NO_COMMAND, commands_in
    from rigsync.cli.rigs import chosen, connect

    try:
        with connect(chosen(rigs, [name]), connect_timeout=LONGEST_WAIT) as auxiliaries:
            auxiliaries.call(name, NO_COMMAND, timeout=LONGEST_WAIT)
    except RigError as error:
        return commands_in(error) or []
    except RigsyncError:
        pass
    return []


def _may_be_asked(rig: RigConfig) -> bool:
    """Return whether a rig can have commands, and no key in a shell takes it from its task (docs/lab.md)."""
    return rig.dialect == "rigsync" or (rig.dialect == "auto" and rig.address.scheme != "tcp")


def _rigs_of_file(ctx: click.Context) -> Rigs:
    from rigsync.cli.rigs import rigs_of_file
    from rigsync.config.rigs import Rigs

    named = ctx.params.get("rigs_file")
    try:
        return rigs_of_file(os.path.expanduser(named) if named else None)  # the shell has not read the line yet
    except RigsyncError:
        return Rigs({})


def _beginning(incomplete: str, names: Mapping[str, str | None]) -> list[CompletionItem[str]]:
    return [CompletionItem(name, help=text) for name, text in names.items() if name.startswith(incomplete)]
