"""What the shell completes, beside what click knows: the names of commands, options and files.

A completer never fails and prints nothing, since a shell shows neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from rigsync.cli.rigs import rigs_of_file
from rigsync.config.rigs import Rigs
from rigsync.errors import RigsyncError


def one_of(names: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return a completer of names in capitals, which may be typed in small letters."""
    return lambda _, __, incomplete: beginning(incomplete.upper(), names)


def rigs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a rig from the file of rigs. It asks nothing of the network."""
    return beginning(incomplete, rigs_for(ctx).rigs)


def rigs_for(ctx: click.Context) -> Rigs:
    """Return the rigs of the file that the command would take; none if it cannot be read."""
    named = ctx.params.get("rigs_file")
    try:
        return rigs_of_file(os.path.expanduser(named) if named else None)  # the shell has not read the line yet
    except RigsyncError:
        return Rigs({})


def beginning(incomplete: str, names: Iterable[str]) -> list[CompletionItem]:
    """Return the names that go on from what is typed."""
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
