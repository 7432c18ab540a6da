"""What a bridge tells of rigs: the present picture of each, as plain data for JSON."""

from __future__ import annotations

from typing import Any

from rigsync import __version__
from rigsync.coordinator.lab import Lab
from rigsync.coordinator.view import RigView
from rigsync.core.events import LinkState
from rigsync.hub.documents import plain
from rigsync.rig.rig import Rig


def picture_of(view: RigView) -> dict[str, Any]:
    """Return how a rig is, as `RigView.document` has it."""
    picture: dict[str, Any] = plain(view.document())
    return picture


def view_of(rig: Rig) -> RigView:
    """Return how a rig of this program is, as a coordinator would see it."""
    return RigView(rig.name, LinkState.ALIVE, "it runs here", "rigsync", version=__version__, **rig.picture)


def pictures(lab: Lab[Any, Any] | Rig) -> dict[str, dict[str, Any]]:
    """Return how each rig of a lab is now, by name; of a rig, how it is itself."""
    views = {lab.name: view_of(lab)} if isinstance(lab, Rig) else lab.views
    return {rig: picture_of(view) for rig, view in views.items()}
