"""What a run is: the program, its versions, its configuration files as they were, and the task's repository."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import subprocess
import sys
import tempfile
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
LONGEST_END = 1.0
"""Seconds for git to end when it is told to."""
_STATUS = ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
_COMMIT = "# branch.oid "


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
        self._git: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # there is no git here, or no room for what it says
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it may say more than a pipe takes
            self._git = subprocess.Popen(  # noqa: S603
                ["git", "-c", "core.fsmonitor=false", "-C", folder, *_STATUS],  # noqa: S607 - whichever there is
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.DEVNULL,
                # Else it locks the repository for a moment, in which its user may want to commit something.
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )

    def look(self) -> dict[str, Any] | None:
        """Return the repository once git has told it; None before, and where there is none."""
        if self._git is None or (self._git.poll() is None and time.monotonic() < self._until):
            return None
        has_told = self._git.returncode == 0
        if has_told:
            self._said.seek(0)
        lines = self._said.read(LARGEST_FILE).decode(errors="replace").splitlines() if has_told else []
        self.close()
        found = [line.removeprefix(_COMMIT) for line in lines if line.startswith(_COMMIT)]
        changed = any(not line.startswith("#") for line in lines)
        return {"folder": self._folder, "commit": found[0], "dirty": changed} if found else None

    @property
    def is_asked(self) -> bool:
        """Whether git has not told it yet."""
        return self._git is not None

    def close(self) -> None:
        """Wait for git no longer."""
        git, self._git = self._git, None
        if git:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                git.terminate()  # a git that is killed may leave what it has locked
                git.wait(LONGEST_END)
            self._said.close()
