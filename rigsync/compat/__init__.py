"""rigsync in the shape of other packages, for programs that have loaded these; none is loaded from here."""

from __future__ import annotations

import sys
from importlib import import_module

from rigsync.coordinator.faces import lenders


def lend_iblutil() -> None:
    """Have `isinstance` know iblutil's classes once the program has loaded them."""
    # The class, not the module: that is there while another thread is still loading it.
    if hasattr(sys.modules.get("iblutil.io.net.app"), "Services"):
        import_module("rigsync.compat.iblutil")
        lenders.discard(lend_iblutil)


lenders.add(lend_iblutil)
