"""Paths in an agent's file, before any value is in them."""

from __future__ import annotations

import re

from rigsync._text import shortened
from rigsync.errors import ConfigError

_DRIVE = re.compile(r"[A-Za-z]:")


def check_path(path: str, windows: bool) -> None:
    """Check a path of an agent's file; raise a `ConfigError` without a key where it cannot be meant."""
    drive = _DRIVE.match(path)
    rest = path[2:] if drive else path
    shown = shortened(path, 80)
    if ".." in re.split(r"[/\\]", rest):
        raise ConfigError(f"'..' leads out of the folder in {shown}; write out where the files are")
    if drive and rest[:1] not in ("/", "\\"):
        raise ConfigError(f"{shown} begins wherever that drive's present folder is; write {path[:2]}/ instead")
    if windows and ":" in rest:
        raise ConfigError(f"there is a colon in {shown}, which no file name on Windows may have")
    if re.match(r"~[^/\\]*(?:[/\\]|$)", path):
        raise ConfigError(f"~ does not stand for your folder in {shown}; write that folder out")
    if any(not character.isprintable() for character in path):
        raise ConfigError(f"there is a character in {shown} that cannot be printed")
