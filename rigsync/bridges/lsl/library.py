"""LSL's clock compared with this program's: a program that commands rigs may use no other part of liblsl.

All programs of a computer share that clock, and it needs none of liblsl's threads and sockets.
`rigsync.bridges.lsl.program` has everything else.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

try:
    from pylsl import local_clock
except ModuleNotFoundError as missing:
    text = "LSL needs pylsl, which is not installed: install the extra lsl of rigsync, or pip install pylsl"
    raise ModuleNotFoundError(text, name=missing.name) from missing
except (RuntimeError, OSError, AttributeError) as problem:  # pylsl looks for the library and its functions at import
    text = (
        f"pylsl finds no liblsl that works here: its wheel for {platform.system()} {platform.machine()} "
        "has none, or it is too old for this system; conda install -c conda-forge liblsl, or set PYLSL_LIB to its file"
    )
    raise ImportError(text, name="pylsl") from problem

READINGS = 20
"""Most readings of both clocks for one comparison. On a busy computer, other programs run between two readings."""
NEAR = 5e-6
"""Seconds; a reading whose bound is at most this is good enough."""


def ahead_of(clock: Callable[[], float]) -> tuple[float, float]:
    """Return by how many seconds LSL's clock is ahead of another one, and the bound of the error."""
    readings: list[tuple[float, float]] = []
    while not readings or (min(readings)[0] > NEAR and len(readings) < READINGS):
        before, there, after = local_clock(), clock(), local_clock()
        readings.append(((after - before) / 2, (before + after) / 2 - there))
    half, ahead = min(readings)
    return ahead, half
