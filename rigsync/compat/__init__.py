"""Makes rigsync's objects instances of other packages' classes. It loads none of these packages itself."""

from __future__ import annotations

import sys
from importlib import import_module

from rigsync.coordinator.faces import lenders


def lend_iblutil() -> None:
    """Register with iblutil's classes, if the program has loaded them."""
    # Look for the class: the module is there already while another thread still loads it.
    if hasattr(sys.modules.get("iblutil.io.net.app"), "Services"):
        import_module("rigsync.compat.iblutil")
        lenders.discard(lend_iblutil)


lenders.add(lend_iblutil)
