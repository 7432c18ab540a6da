"""What the bridges of a file need on this computer, and lack."""

from __future__ import annotations

from rigsync.doctor.findings import Fault, Finding


def lacking_library(bridge: str, problem: str) -> Finding:
    """Return the finding for a bridge whose library is not there.

    Parameters
    ----------
    bridge : str
        Its name under ``bridges:``.
    problem : str
        What the bridge says at its start: what is missing, then a semicolon or colon, then what to do.
    """
    seen, _, remedy = problem.rpartition("; " if "; " in problem else ": ")
    meaning = f"rigsync bridge {bridge}, and an agent with this bridge, cannot start on this computer; the rigs work"
    return Finding(Fault.LIBRARY, seen, meaning, (remedy,))
