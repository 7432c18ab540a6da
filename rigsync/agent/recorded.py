"""What was recorded, as the answer to EXPEND tells it: files, bytes, frames, and who has looked at them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rigsync._text import duration_text
from rigsync.agent.recording import Recording

MOST_FILES = 100
"""Most files that are told by name; of further ones their number and their bytes are told."""
ROOM = 16_000
"""Bytes of all names: the answer has to fit into a datagram, beside a description of 32,000 bytes."""
SIZE = "size"
"""How a file was verified that is there, has settled, and is not empty; else the program of ``validate``."""
_FRAMES = re.compile(r"(?:^|[^a-z])(?:nb_(?:read_)?(?:frames|packets)|frames?) {0,8}[=:] {0,8}(\d{1,18})(?!\d)", re.I)
"""How programs that count frames tell them: ``nb_read_packets=360`` of ffprobe, ``frames: 360``."""


@dataclass(slots=True)
class Take:
    """One recording of an agent: how long it takes, and what commands have said of it."""

    began: float | None = None
    """Monotonic seconds; None once its end is in the log."""
    lasted: float | None = None
    """Seconds, once it is over."""
    counted: dict[str, int] = field(default_factory=dict)
    """By label, the frames that a command of ``start`` has told last."""
    frames: dict[str, int] = field(default_factory=dict)
    """By path, the frames that ``validate`` has counted."""
    by: dict[str, str] = field(default_factory=dict)
    """By path, the program that has looked at it. The empty path stands for all."""

    def end(self) -> str | None:
        """Note the end; return in words how long it has taken, once."""
        if self.began is None:
            return None
        self.lasted = time.monotonic() - self.began
        self.began = None
        return duration_text(self.lasted)

    def note(self, path: str, result: Any) -> None:
        """Take note of a run of ``validate`` on a file, or on all, that has ended well."""
        self.by[path] = result["command"]
        if (frames := frames_in(result["last_lines"])) is not None:
            self.frames[path] = frames

    def told(self, recording: Recording, has_ended: bool) -> dict[str, Any]:
        """Return what an answer says of it; nobody has looked at files unless it has ended by EXPEND, and well."""
        by, looked_at = self.by.get("", SIZE), recording.finished if has_ended else {}
        verified = {path: self.by.get(path, by) for path, is_there in looked_at.items() if is_there}
        counted = self.counted.values()
        return {"recorded": what_was_recorded(recording.sizes(), self.lasted, verified, self.frames, counted)}


def frames_in(lines: Iterable[str]) -> int | None:
    """Return how many frames the last of some lines tells that tells any; None if none does."""
    found = [match for line in lines for match in _FRAMES.findall(line[:1000])]
    return int(found[-1]) if found else None


def what_was_recorded(
    sizes: Mapping[str, int],
    seconds: float | None,
    verified: Mapping[str, str],
    frames: Mapping[str, int],
    counted: Iterable[int] = (),
) -> dict[str, Any]:
    """Return what was recorded, for an answer.

    Parameters
    ----------
    sizes : mapping of str to int
        Bytes by path.
    seconds : float or None
        For how long.
    verified : mapping of str to str
        By path, who has looked at the file.
    frames : mapping of str to int
        Frames by path, as far as somebody has counted them in the file.
    counted : iterable of int
        Frames that each recorder has told of itself. Where there is one recorder and one file, they are that file's.
    """
    told = list(counted)
    of_the_only = told[0] if len(told) == len(sizes) == 1 else None
    files: list[dict[str, Any]] = []
    left = dict(sorted(sizes.items()))
    room = ROOM
    for path, size in sorted(sizes.items()):
        name = os.fsencode(os.path.abspath(path)).decode("utf-8", "replace")  # file names may hold anything
        file = {"path": name, "bytes": size, "frames": frames.get(path, of_the_only), "verified": verified.get(path)}
        room -= len(json.dumps(file))
        if len(files) == MOST_FILES or room < 0:
            break
        files.append(file)
        del left[path]
    document: dict[str, Any] = {"seconds": None if seconds is None else round(seconds, 3), "files": files}
    if left:
        document |= {"more": len(left), "more_bytes": sum(left.values())}
    return document
