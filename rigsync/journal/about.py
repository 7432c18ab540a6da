"""What a run is: the program, its versions, its configuration files as they were, and the task's repository."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rigsync import __version__
from rigsync.journal.secrets import file_without_secrets

LARGEST_FILE = 256 << 10
"""Bytes of a configuration file that are kept."""
LONGEST = 10.0
"""Seconds for git to tell the state of a repository."""
LOOK = 0.1
"""Seconds between two looks whether it has."""
_DESCRIBE = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]


def about_run(files: Iterable[str | os.PathLike[str]], more: dict[str, Any]) -> dict[str, Any]:
    """Return what the journal keeps of a run: versions, the user, and configuration files without secrets."""
    user = ""
    with contextlib.suppress(Exception):  # nobody may have that number
        user = getpass.getuser()
    return {
        "rigsync": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "user": user,
        "files": {os.path.abspath(path): _text_of(Path(path)) for path in files},
        "repository": None,
        **more,
    }


def _text_of(path: Path) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file_without_secrets(file.read(LARGEST_FILE))
    except OSError:
        return None


def folder_of_task() -> str | None:
    """Return the folder of the program's main script, or where it runs if it has none; None for rigsync's commands."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if path is None:
        return os.getcwd()
    spec = getattr(main, "__spec__", None)
    is_ours = (spec is not None and spec.name.partition(".")[0] == "rigsync") or Path(path).stem == "rigsync"
    return None if is_ours else os.path.dirname(os.path.abspath(path))


class Repository:
    """Asks git in which state the repository of a folder is, without waiting for it."""

    def __init__(self, folder: str):
        self._folder = folder
        self._until = time.monotonic() + LONGEST
        self._git: subprocess.Popen[str] | None = None
        with contextlib.suppress(OSError):  # there is no git here
            self._git = subprocess.Popen(  # noqa: S603
                ["git", "-c", "core.fsmonitor=false", "-C", folder, *_DESCRIBE],  # noqa: S607 - whichever there is
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )

    def look(self) -> dict[str, Any] | None:
        """Return the repository once git has told it; None before, and where there is none."""
        if self._git is None or (self._git.poll() is None and time.monotonic() < self._until):
            return None
        told = self.close().strip()  # less than all of it where it took too long
        commit, _, dirty = told.partition("-")
        return {"folder": self._folder, "commit": commit, "dirty": bool(dirty)} if commit else None

    @property
    def is_asked(self) -> bool:
        """Whether git has not told it yet."""
        return self._git is not None

    def close(self) -> str:
        """Wait for git no longer; return what it has said."""
        git, self._git = self._git, None
        if git is None:
            return ""
        with contextlib.suppress(OSError):
            git.kill()
        return git.communicate()[0]
