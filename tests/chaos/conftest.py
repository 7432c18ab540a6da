"""A stage for each scenario, with its seed told where it fails."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.stage import Stage


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Where a scenario takes place. What is random in it follows from its name, or from the variable CHAOS_SEED."""
    seed = int(os.environ.get("CHAOS_SEED") or zlib.crc32(request.node.name.encode()))
    print(f"seed {seed}: CHAOS_SEED={seed} draws the same again")
    stage = Stage(tmp_path, seed)
    try:
        yield stage
    finally:
        stage.close()
