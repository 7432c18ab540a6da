"""How progress and streams are said in few words."""

from __future__ import annotations

from typing import Any

import pytest

from rigsync import Progress
from rigsync.cli.progress_text import progress_text, stream_text, work_text


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(1200, 5000), "1200/5000"),
        (Progress(1200, 5000, "frames"), "1200/5000 frames"),
        (Progress(1200), "1200"),
        (Progress(0, 0), "0/0"),
        (Progress(12.5, None, "%"), "12.5%"),
        (Progress(0.1 + 0.2), "0.3"),
        (Progress(10**15), "1e+15"),
        (Progress(10**300, -(10**300)), "1e+300/-1e+300"),
        (Progress(0, None, "B"), "0 B"),
        (Progress(999, None, "B"), "999 B"),
        (Progress(999.99, None, "B"), "1 kB"),
        (Progress(12_345_678, 20_000_000_000, "B"), "12.3 MB/20 GB"),
        (Progress(999_960, None, "bytes"), "1 MB"),
        (Progress(-12_345, None, "B"), "-12.3 kB"),
        (Progress(10**300, None, "B"), "1e+285 PB"),
    ],
)
def test_progress(progress: Progress, text: str) -> None:
    assert progress_text(progress) == text


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({}, "left"),
        ({"state": "recording", "fps": 3}, "left: recording"),
        ({"state": ""}, "left"),
        ({"state": 5}, "left"),
    ],
)
def test_stream(info: dict[str, Any], text: str) -> None:
    assert stream_text("left", info) == text


def test_all_of_it_is_cut_where_nobody_reads_on() -> None:
    assert work_text({}, {}) == ""
    assert work_text({"a": Progress(1)}, {"b": {}, "c": {"state": "idle"}}) == "a 1, b, c: idle"
    assert len(work_text({"x" * 100 + str(i): Progress(1) for i in range(1000)}, {})) == 400
