"""The folders of a user in which programs of each system keep what is theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Kind(NamedTuple):
    """Where one kind of files is, on Windows and on Linux; macOS has one folder for both."""

    windows: str
    """Environment variable of the folder."""
    below_appdata: str
    """Its name, where that is not set."""
    xdg: str
    """Environment variable of the XDG Base Directory Specification."""
    below_home: str
    """The folder below the home folder, where that is not set."""


CONFIGURATION = Kind("APPDATA", "Roaming", "XDG_CONFIG_HOME", ".config")
DATA = Kind("LOCALAPPDATA", "Local", "XDG_DATA_HOME", ".local/share")


def user_folder(kind: Kind, environ: Mapping[str, str], platform: str) -> Path:
    """Return rigsync's folder for one kind of files, whether or not it exists; `platform` is as `sys.platform`."""
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    if platform == "win32":
        folder = Path(environ.get(kind.windows) or home / "AppData" / kind.below_appdata)
    elif platform == "darwin":
        folder = home / "Library" / "Application Support"
    else:
        folder = Path(environ.get(kind.xdg, ""))
        if not folder.is_absolute():  # the specification has such a value ignored
            folder = home / kind.below_home
    return folder / "rigsync"
