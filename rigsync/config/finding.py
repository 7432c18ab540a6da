"""Where rigsync looks for the file of rigs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rigsync.config.user_folders import CONFIGURATION, user_folder
from rigsync.errors import ConfigError


def find_rigs_file(explicit: str | os.PathLike[str] | None = None) -> Path | None:
    """Find the file of rigs: ``--rigs``, ``RIGSYNC_RIGS``, ``./rigs.yaml``, then the user's configuration folder.

    It returns the first that exists, and raises a ConfigError where ``--rigs``, which is `explicit`, or
    ``RIGSYNC_RIGS`` names a file that does not.
    """
    in_environment = os.environ.get("RIGSYNC_RIGS") or None  # empty is as good as not set
    for origin, named in (("--rigs", explicit), ("the environment variable RIGSYNC_RIGS", in_environment)):
        if named is not None:
            if not os.path.exists(named):
                raise ConfigError(f"{origin} names this file, which does not exist; correct the path", file=str(named))
            return Path(named)
    candidates = (Path("rigs.yaml"), user_config_file())
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def user_config_file(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the path of this user's file of rigs, whether or not it exists.

    It is ``rigsync/rigs.yaml`` in the folder where programs of that system keep their configuration: ``%APPDATA%``,
    ``~/Library/Application Support``, or ``$XDG_CONFIG_HOME`` (XDG Base Directory Specification) or ``~/.config``.
    """
    return user_folder(CONFIGURATION, environ, platform) / "rigs.yaml"
