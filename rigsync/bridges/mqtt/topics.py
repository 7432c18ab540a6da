"""Where a bridge publishes what: pure."""

from __future__ import annotations

from typing import Any

LONGEST = 200
"""Most characters of a name in a topic. Rigs have shorter ones; events of a program's own may name anything."""
_SPECIAL = frozenset("+#/%")


class Topics:
    """The topics below a prefix.

    Parameters
    ----------
    prefix : str
        With what all begin.
    """

    def __init__(self, prefix: str):
        self._prefix = prefix

    def of_event(self, kind: str, rig: object) -> str:
        """Return ``PREFIX/events/TYPE/RIG``; without the last of an event that is about no rig, or about several."""
        return self._of("events", kind, rig) if isinstance(rig, str) and rig else self._of("events", kind)

    def of_view(self, rig: str) -> str:
        """Return where the picture of a rig stands."""
        return self._of("views", rig)

    def of_bridge(self, run: str) -> str:
        """Return where it stands that a bridge is there."""
        return self._of("bridges", run)

    def _of(self, *names: Any) -> str:
        return "/".join([self._prefix, *map(level, names)])


def level(name: str) -> str:
    """Return a name as one level of a topic: what cannot stand there, as ``%`` and its number."""
    return "".join(f"%{ord(one):02X}" if one in _SPECIAL or not one.isprintable() else one for one in name[:LONGEST])
