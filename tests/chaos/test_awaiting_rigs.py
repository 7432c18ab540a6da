"""A hundred experiments with each sort of iblutil rig that awaits its messages."""

from __future__ import annotations

from awaiting_rigs import VARIANTS, whole_experiments_of


def test_a_hundred_experiments_with_rigs_that_await_each_message() -> None:
    """Both patterns of `on_event`, UDP and TCP, logging at DEBUG and at ERROR, all at a time."""
    assert whole_experiments_of(VARIANTS, 100) == dict.fromkeys(VARIANTS, 100)
