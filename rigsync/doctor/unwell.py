"""What is wrong with a rig by its own word."""

from __future__ import annotations

import shlex

from rigsync.core.rigs import is_called
from rigsync.doctor.evidence import Evidence


def troubles_of(evidence: Evidence) -> int:
    """Return how many things are wrong, as the rig has said in its last answer."""
    return (evidence.alive.troubles or 0) if evidence.alive else 0


def unwell(evidence: Evidence) -> tuple[str, ...] | None:
    """Return what is seen, what that is and what to do, where a rig says that something is wrong with it."""
    name, problems = evidence.rig.name, evidence.told.problems
    if (untold := troubles_of(evidence) - len(problems)) > 0:
        things = "one thing is" if untold == 1 else f"{untold} things are"
        problems.append(f"the rig says that {things} wrong, and has not told what")
    if not problems or evidence.alive is None or not is_called(name, evidence.alive.name):
        return None
    return (
        "; ".join(problems),
        "the rig answers and is not well: what it records, or has recorded, may be incomplete",
        "look at the rig and at its files, and mend what it names; it tells when that is over",
        "what stays is settled by the next EXPINIT, or, once the experiment is over, by EXPCLEANUP:",
        f"$ rigsync push EXPCLEANUP --to {shlex.quote(name)}",
    )
