"""Writes a file whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file in place of the one that is there, if any. What UTF-8 does not have is escaped.

    Raises
    ------
    OSError
        It cannot be written; names the file, not the one beside it that is put there when it is whole.
    """
    beside = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(beside, "x", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # it was never made, as a rule
            beside.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
