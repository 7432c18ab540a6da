"""Where the journal is, and how much it keeps: the key ``journal`` of both kinds of files, and of constructors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rigsync.config.schema import NOTHING, Key, Kind, Mistakes, Plain, Table, either, size, text
from rigsync.config.user_folders import DATA, user_folder

ENVIRONMENT = "RIGSYNC_JOURNAL"
"""The variable that is over all: a path in place of the usual one, or ``off``."""
_DAY = 86_400.0
_UNITS = {"day": _DAY, "week": 7 * _DAY, "month": 30.5 * _DAY, "year": 365.25 * _DAY}
_OFF = ("off", "Off", "OFF", "no", "No", "NO", "false", "False", "FALSE")
_ON = ("on", "On", "ON", "yes", "Yes", "YES", "true", "True", "TRUE")


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """Where a journal is, and how much it keeps."""

    path: str | None = None
    """The file; None for this user's."""
    keep: float = 365.25 * _DAY
    """Seconds for which a session is kept."""
    max_size: int = 2 * 1000**3
    """Bytes beyond which the oldest sessions go."""

    @property
    def file(self) -> Path:
        """The file; for the user's, that of the environment if there is one."""
        named = os.environ.get(ENVIRONMENT) or self.path
        return Path(os.path.abspath(named)) if named else user_journal_file()


Journal = bool | str | os.PathLike[str] | JournalSettings | None
"""What a constructor takes: True for this user's, a path, or False or ``"off"``; None for what the file says."""

_PATH = text()
_TABLE = Table(
    {
        "path": Key(_PATH, "The file; by default one for this user, journal.sqlite in the folder of rigsync's data."),
        "keep": Key(
            text(20, r"[1-9][0-9]{0,4} (?:day|week|month|year)s?", "a time with its unit, such as 1 year or 30 days"),
            "How long a session is kept.",
            default="1 year",
        ),
        "max_size": Key(size(low=10_000_000), "How large it may grow; beyond that the oldest go.", default="2 GB"),
    }
)
_EITHER = either({str: _PATH, dict: _TABLE}, "off, a path, or a map with the keys path, keep and max_size")


def _read(value: Any, key: str, mistakes: Mistakes) -> Any:
    return None if isinstance(value, Plain) and value in NOTHING else _EITHER.read(value, key, mistakes)


JOURNAL = Key(
    Kind(_read, _EITHER.schema),
    "The journal of all that happens: off, a path in place of the usual one, or a map.",
)
"""The key ``journal``."""


def journal_of(found: Any, folder: Path) -> JournalSettings | None:
    """Return what the key ``journal`` of a file says; None where it is off. Relative paths begin at the file's folder.

    ``on`` or nothing is this user's journal.
    """
    if found is None:
        return JournalSettings()
    if isinstance(found, str):
        return None if found in _OFF else JournalSettings() if found in _ON else JournalSettings(str(folder / found))
    amount, _, unit = found["keep"].partition(" ")
    path = found["path"] and str(folder / found["path"])
    return JournalSettings(path, int(amount) * _UNITS[unit.rstrip("s")], found["max_size"])


def chosen_journal(given: Journal, of_file: JournalSettings | None = None) -> JournalSettings | None:
    """Return the journal that a constructor is to have, or None.

    Parameters
    ----------
    given : bool, str, os.PathLike, JournalSettings or None
        What the caller says.
    of_file : JournalSettings, optional
        What the file of rigs says, where there is one.

    Raises
    ------
    TypeError
        It is none of these.
    """
    if given is None:
        settings = of_file
    elif isinstance(given, bool):
        settings = (of_file or JournalSettings()) if given else None
    elif isinstance(given, JournalSettings):
        settings = given
    elif isinstance(given, (str, os.PathLike)):
        path = os.fspath(given)
        settings = None if path == "off" else replace(of_file or JournalSettings(), path=path)
    else:
        raise TypeError(f"journal is a path, True, False or 'off', not {type(given).__name__}")
    return None if os.environ.get(ENVIRONMENT) in _OFF else settings


def user_journal_file(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the path of this user's journal, whether or not it exists.

    It is ``rigsync/journal.sqlite`` in the folder where programs of that system keep their data: ``%LOCALAPPDATA%``,
    ``~/Library/Application Support``, or ``$XDG_DATA_HOME`` (XDG Base Directory Specification) or ``~/.local/share``.
    """
    return user_folder(DATA, environ, platform) / "journal.sqlite"
