"""How LSL's clock stands to this program's: all of liblsl that a program that commands rigs may use.

The clock is one for all programs of a computer, and needs nothing of liblsl's threads and sockets; all else is in
`rigsync.bridges.lsl.program`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

try:
    from pylsl import local_clock
except ModuleNotFoundError as missing:
    text = "LSL needs pylsl, which is not installed: install the extra lsl of rigsync, or pip install pylsl"
    raise ModuleNotFoundError(text, name=missing.name) from missing
except (RuntimeError, OSError, AttributeError) as problem:  # it looks for the library, and for its functions
    text = (
        f"pylsl finds no liblsl that works here: its wheel for {platform.system()} {platform.machine()} "
        "has none, or it is too old for this system; conda install -c conda-forge liblsl, or set PYLSL_LIB to its file"
    )
    raise ImportError(text, name="pylsl") from problem

READINGS = 20
"""Most times that both clocks are read to compare them. On a busy computer, others may run between two readings."""
NEAR = 5e-6
"""Seconds; a reading that is this close is close enough."""


def ahead_of(clock: Callable[[], float]) -> tuple[float, float]:
    """Return by how many seconds LSL's clock is ahead of another one, and the bound of the error."""
    readings: list[tuple[float, float]] = []
    while not readings or (min(readings)[0] > NEAR and len(readings) < READINGS):
        before, there, after = local_clock(), clock(), local_clock()
        readings.append(((after - before) / 2, (before + after) / 2 - there))
    half, ahead = min(readings)
    return ahead, half
