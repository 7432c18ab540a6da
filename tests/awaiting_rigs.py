"""Experiments with real iblutil rigs whose programs await each message, many at a time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable

from live_helpers import in_thread
from processes import LONG, AwaitingProgram

from rigsync import Auxiliaries, PushError

PATTERNS, SCHEMES, LEVELS = ("any", "sequence"), ("udp", "tcp"), ("DEBUG", "ERROR")
VARIANTS = ["-".join(parts) for parts in itertools.product(PATTERNS, SCHEMES, LEVELS)]
MESSAGES = (
    ("EXPINFO", "CONNECTED"),
    ("EXPINIT", {"exp_ref": "2026-03-01_2_mouse"}),
    ("EXPSTART", "2026-03-01_2_mouse"),
    ("EXPEND",),
    ("EXPCLEANUP",),
)


def whole_experiments(rig: AwaitingProgram, count: int, pause: float | None = None) -> int:
    """Run experiments, one message right after the answer to the one before; return how many went well as a whole."""
    whole = 0
    with Auxiliaries({rig.name: rig.uri}, connect_timeout=LONG) as aux:
        if pause is not None:
            aux.refresh_rate = pause
        for _ in range(count):
            outcomes = [aux.push(*message, wait=True, timeout=10.0) for message in MESSAGES]
            whole += not any(isinstance(outcome, PushError) for outcome in outcomes)
    return whole


def whole_experiments_of(variants: Iterable[str], count: int) -> dict[str, int]:
    """Return how many experiments of each variant went well, all variants running at the same time."""
    with contextlib.ExitStack() as stack:
        running = {}
        for variant in variants:
            pattern, scheme, level = variant.split("-")
            rig = stack.enter_context(AwaitingProgram("cameras", pattern, level, scheme))
            running[variant] = in_thread(whole_experiments, rig, count)
        return {variant: future.result(10 * count + LONG) for variant, future in running.items()}
