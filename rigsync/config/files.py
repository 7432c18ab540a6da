"""Files of rigs: where they are looked for, and how they are read."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rigsync.config.rigs import Rigs, check_keys, checked_map, rigs_of, under
from rigsync.core.timing import Timing
from rigsync.errors import ConfigError


def load_rigs(path: str | os.PathLike[str]) -> Rigs:
    """Read a YAML file of rigs; rigs.example.yaml shows every key.

    Parameters
    ----------
    path : str or os.PathLike
        A file in the long form, with the key ``rigs`` and, as needed, ``timing``; or, without a key ``rigs``, the
        flat map of name to URI that iblrig's remote_devices.yaml is.

    Returns
    -------
    Rigs
        The rigs in the order of the file, which is their ``source``.

    Raises
    ------
    ConfigError
        The file cannot be read or holds what cannot be; the error has the file and, where there is one, the line
        and the key, which for a flat file is the one that it would have in the long form.
    """
    from rigsync.config.yaml import read_rigs_file  # here, because most programs need no PyYAML

    file = str(Path(path))
    lines: dict[str, int] = {}
    try:
        document, lines = read_rigs_file(file)
        check_keys(document, ("timing", "rigs"))
        timing = checked_map(document.get("timing") or {}, "timing")
        check_keys(timing, [field.name for field in dataclasses.fields(Timing)], "timing")
        with under("timing"):
            times = Timing(**timing)
        rigs = checked_map(document["rigs"] or {}, "rigs")
        return Rigs(rigs_of(rigs), times, source=file)
    except ConfigError as error:
        key = error.key or ""
        line = error.line or lines.get(key) or lines.get(key.rpartition(".")[0])
        raise ConfigError(error.problem, file=file, line=line, key=error.key) from error.__cause__


def find_rigs_file(
    explicit: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    cwd: str | os.PathLike[str] | None = None,
) -> Path | None:
    """Find the file of rigs: ``--rigs``, ``RIGSYNC_RIGS``, ``./rigs.yaml``, then the user's configuration folder.

    Parameters
    ----------
    explicit : str or os.PathLike, optional
        The file that ``--rigs`` names.
    environ : mapping of str to str
        The environment.
    cwd : str or os.PathLike, optional
        The folder from which relative paths start; the working directory by default.

    Returns
    -------
    pathlib.Path or None
        The first that there is.

    Raises
    ------
    ConfigError
        ``--rigs`` or ``RIGSYNC_RIGS`` names a file that does not exist.
    """
    folder = Path(cwd or "")
    in_environment = environ.get("RIGSYNC_RIGS") or None  # empty is as good as not set
    for origin, named in (("--rigs", explicit), ("the environment variable RIGSYNC_RIGS", in_environment)):
        if named is not None:
            if not os.path.exists(folder / named):
                raise ConfigError(f"{origin} names this file, which does not exist; correct the path", file=str(named))
            return folder / named
    candidates = (folder / "rigs.yaml", user_config_file(environ))
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def user_config_file(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Tell where this user's file of rigs is looked for, whether or not there is one.

    Parameters
    ----------
    environ : mapping of str to str
        The environment.
    platform : str
        The operating system, as in `sys.platform`.

    Returns
    -------
    pathlib.Path
        ``rigsync/rigs.yaml`` in the folder where programs of that system keep their configuration: ``%APPDATA%``,
        ``~/Library/Application Support``, or ``$XDG_CONFIG_HOME`` (XDG Base Directory Specification) or ``~/.config``.
    """
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    if platform == "win32":
        folder = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    elif platform == "darwin":
        folder = home / "Library" / "Application Support"
    else:
        folder = Path(environ.get("XDG_CONFIG_HOME", ""))
        if not folder.is_absolute():  # the specification has such a value ignored
            folder = home / ".config"
    return folder / "rigsync" / "rigs.yaml"
