"""`rigsync log --collect`: the rigs' own journals, fetched into this computer's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import rigsync
from rigsync._text import printable
from rigsync.cli.asked import journal_file
from rigsync.cli.logs import start_logging
from rigsync.cli.outcomes import failure_in_words
from rigsync.cli.rigs import chosen, connect, may_be_asked, rigs_of_file
from rigsync.core.queries import JOURNAL
from rigsync.errors import NotSupported, RemoteError, RigError
from rigsync.journal.collected import Collection, WrongPage
from rigsync.journal.reading import usual_journal_file

WAIT = 15.0
"""Seconds for each page: a rig reads it from its disk."""
_NO_JOURNAL = "it keeps no journal, or has a rigsync from before there was one"


@dataclass(frozen=True)
class Fetched:
    """What came of one rig."""

    text: str
    is_whole: bool


def collect(file: str | None, rigs_file: str | None) -> int:
    """Fetch the journals of all rigs, tell on stderr what came of each, and return the exit status."""
    start_logging()
    rigs = rigs_of_file(rigs_file)
    path = journal_file(file, rigs_file) or usual_journal_file()
    names = [name for name, rig in rigs.rigs.items() if may_be_asked(rig)]
    fetched = dict.fromkeys(rigs.rigs, Fetched("not asked: it runs iblutil, or may do so, which has no journal", True))
    if names:
        # The pool outlives the connection, whose end, at Ctrl-C too, ends what is asked.
        with ThreadPoolExecutor(len(names)) as pool, connect(chosen(rigs, names)) as auxiliaries:
            found = pool.map(functools.partial(_fetch, path, auxiliaries), names)
            fetched |= zip(names, found, strict=True)
    _tell(fetched)
    return int(not all(one.is_whole for one in fetched.values()))


def _fetch(path: Path, auxiliaries: rigsync.Auxiliaries, rig: str) -> Fetched:
    def ask(**keywords: Any) -> Any:
        return auxiliaries.call(rig, JOURNAL.name, timeout=WAIT, **keywords)

    try:
        with Collection(path) as collection:
            count = collection.fetch(rig, ask)
    except NotSupported:
        return Fetched("not asked: it runs iblutil, which has no journal", True)
    except WrongPage as error:
        return Fetched(f"what it tells of its journal is wrong: {error}", False)
    except RigError as error:
        if isinstance(error, RemoteError) and error.error == "UnknownCommand":
            return Fetched(_NO_JOURNAL, True)
        return Fetched(failure_in_words(error), False)
    return Fetched("nothing new" if not count else "one record" if count == 1 else f"{count:,} records", True)


def _tell(fetched: Mapping[str, Fetched]) -> None:
    for rig, one in fetched.items():
        mark = "" if one.is_whole else "Error: "
        click.echo(printable(f"{mark}{rig}: {one.text}"), err=True)
