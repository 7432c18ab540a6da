"""What becomes of files while they are recorded. Pure but for looks at files."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from platforms import posix

from rigsync.agent.growth import Growth, Kept, Seen, Segments, Whole, matching_files

PATTERN = "/data/*.mp4"
A, B = "/data/a.mp4", "/data/b.mp4"


def matching_sizes(pattern: str) -> dict[str, int]:
    return {path: seen.size for path, seen in matching_files(pattern).items()}


def test_sizes_of_matching_files(tmp_path: Path) -> None:
    folder = tmp_path / "a [1]" / "deep"
    folder.mkdir(parents=True)
    for name, size in (("a.mp4", 3), ("b.mp4", 0), ("c.txt", 1)):
        (folder / name).write_bytes(b"x" * size)
    (folder / "d.mp4").mkdir()
    expected = {str(folder / "a.mp4"): 3, str(folder / "b.mp4"): 0}
    assert matching_sizes(os.path.join(glob.escape(str(folder)), "*.mp4")) == expected
    assert matching_sizes(os.path.join(glob.escape(str(tmp_path)), "**", "*.mp4")) == expected
    assert matching_sizes(str(tmp_path / "missing" / "*")) == {}


@posix
def test_a_file_that_vanishes_has_no_size(tmp_path: Path) -> None:
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")  # as one that is deleted after it was listed
    assert matching_sizes(str(tmp_path / "*")) == {}


def test_a_file_that_is_being_written_grows(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with open(path, "wb", buffering=0) as file:
        for size in (0, 10, 20):
            assert matching_sizes(str(tmp_path / "*")) == {str(path): size}
            file.write(b"x" * 10)


@pytest.fixture
def growth() -> Growth:
    return Growth(5, PATTERN)


def test_a_growing_file_is_not_told(growth: Growth) -> None:
    for second in range(20):
        assert growth.update({A: second}, second) == ([], [])


def test_a_file_that_stops_is_told_once_and_once_when_it_goes_on(growth: Growth) -> None:
    assert growth.update({A: 1, B: 1}, 0) == ([], [])
    assert growth.update({A: 1, B: 2}, 4.9) == ([], [])
    assert growth.update({A: 1, B: 3}, 5) == ([A], [])
    assert growth.update({A: 1, B: 4}, 6) == ([], [])
    assert growth.update({A: 2, B: 5}, 7) == ([], [A])
    assert growth.update({A: 3, B: 6}, 8) == ([], [])
    assert growth.update({A: 3, B: 7}, 12.9) == ([], [])
    assert growth.update({A: 3, B: 8}, 13) == ([A], [])


def test_a_file_that_is_removed_or_replaced_does_not_grow(growth: Growth) -> None:
    growth.update({A: 100, B: 100}, 0)
    growth.update({A: 50}, 4)
    assert growth.update({A: 50}, 5) == ([A, B], [])
    assert growth.update({A: 51}, 6) == ([], [A])  # the new one
    assert growth.update({A: 52, B: 10}, 7) == ([], [])
    assert growth.update({A: 53, B: 11}, 8) == ([], [B])


def test_no_file_at_all_is_told_by_the_pattern(growth: Growth) -> None:
    assert growth.update({}, 100) == ([], [])
    assert growth.update({}, 104) == ([], [])
    assert growth.update({}, 105) == ([PATTERN], [])
    assert growth.update({}, 106) == ([], [])
    assert growth.update({A: 0}, 107) == ([], [PATTERN])
    assert growth.update({A: 0}, 112) == ([A], [])


def test_a_file_that_comes_in_time_is_enough(growth: Growth) -> None:
    growth.update({}, 0)
    assert growth.update({A: 0}, 4) == ([], [])
    assert growth.update({}, 8.9) == ([], [])
    assert growth.update({}, 9) == ([A], [])  # and not the pattern


@settings(deadline=None)
@given(st.lists(st.tuples(st.dictionaries(st.sampled_from([A, B]), st.integers(0, 3)), st.floats(0, 4))))
def test_stopped_and_resumed_take_turns(steps: list[tuple[dict[str, int], float]]) -> None:
    growth, now, stopped = Growth(5, PATTERN), 0.0, set[str]()
    for sizes, passed in steps:
        now += passed
        new, back = growth.update(sizes, now)
        assert not stopped & set(new)
        assert set(back) <= stopped
        stopped = (stopped - set(back)) | set(new)
        assert stopped <= {A, B, PATTERN}


# --------------------------------------------------------------------------------------------------------- segments


def seen(**sizes: int) -> dict[str, Seen]:
    """Return what files look like that were written to in the order of their names."""
    return {name: Seen(size, number, (1, number)) for number, (name, size) in enumerate(sizes.items())}


@pytest.fixture
def segments() -> Segments:
    return Segments(5, 1, PATTERN)


def test_only_the_newest_segment_has_to_grow(segments: Segments) -> None:
    assert segments.update({}, 0) == ([], [])
    assert segments.update(seen(a=10), 4) == ([], [])
    assert segments.update(seen(a=20), 8) == ([], [])
    assert segments.update(seen(a=20, b=1), 12) == ([], [])
    for second in range(13, 30):
        assert segments.update(seen(a=20, b=second), second) == ([], [])
    assert segments.newest == "b"
    assert segments.finished == {"a"}
    assert segments.unfinished == []


def test_a_new_segment_is_growth_though_it_is_empty(segments: Segments) -> None:
    segments.update(seen(a=10), 0)
    assert segments.update(seen(a=10, b=0), 4.9) == ([], [])
    assert segments.newest == "a"
    assert segments.update(seen(a=10, b=0), 9.8) == ([], [])
    assert segments.update(seen(a=10, b=0), 9.9) == ([PATTERN], [])
    assert segments.update(seen(a=10, b=1), 11) == ([], [PATTERN])


def test_segments_that_are_not_there_are_told(segments: Segments) -> None:
    segments.update({}, 0)
    assert segments.update({}, 5) == ([PATTERN], [])
    assert segments.is_empty
    assert segments.update(seen(a=0), 6) == ([], [PATTERN])


def test_the_end_of_a_segment_may_come_when_the_next_has_begun(segments: Segments) -> None:
    segments.update(seen(a=10, b=1), 0)
    segments.update(seen(a=12, b=2), 0.9)
    assert segments.finished == set()
    segments.update(seen(a=12, b=3), 1)
    assert segments.finished == {"a"}
    assert segments.unfinished == []


def test_two_recorders_are_not_taken_for_segments_of_one(segments: Segments) -> None:
    for second in range(4):
        segments.update(seen(a=second + 1, b=second + 1), second)
    assert segments.unfinished == ["a"]


# ------------------------------------------------------------------------------------------------------ what is kept


def losses(kept: Kept, found: dict[str, Seen]) -> dict[str, str]:
    """Return what is newly known to be lost."""
    before = dict(kept.lost)
    kept.update(found)
    return {path: lost for path, lost in kept.lost.items() if path not in before}


def test_what_is_kept_may_grow_and_may_be_moved_away() -> None:
    kept = Kept(seen(a=10, b=10))
    assert losses(kept, seen(a=11, b=10)) == {}
    assert losses(kept, {}) == {}
    assert losses(kept, seen(a=11, b=10)) == {}


def test_what_shrinks_is_told_once() -> None:
    kept = Kept(seen(a=29_000, b=10))
    kept.update(seen(a=50_000, b=10))
    assert losses(kept, seen(a=9_000, b=10)) == {"a": "had 29,000 B before, and now has 9,000 B"}
    assert losses(kept, seen(a=9_000, b=10)) == {}


def test_what_is_replaced_is_told() -> None:
    kept = Kept(seen(a=10))
    assert losses(kept, {"a": Seen(20, 0, (1, 7))}) == {"a": "was replaced: another file of 20 B has its name"}


def test_what_is_finished_has_to_stay() -> None:
    kept = Kept({})
    kept.keep("a", Seen(10, 0, (1, 0)))
    assert losses(kept, seen(a=10)) == {}
    kept.keep("a", Seen(10, 0, (1, 0)))
    assert losses(kept, {}) == {"a": "is gone, though it was finished; look for what has moved or removed it"}
    assert losses(kept, {}) == {}


def test_what_is_cut_or_replaced_while_it_is_recorded_is_told_once_with_sizes_and_time() -> None:
    whole = Whole(segments=False)
    assert whole.update(seen(a=10), "14:03:20") == {}
    assert whole.update(seen(a=29_000), "14:03:21") == {}
    assert whole.update({}, "14:03:22") == {}  # it may have been moved away
    was = "while it was recorded: at 14:03:21 it had 29,000 B, "
    assert whole.update(seen(a=9_000), "14:03:23") == {"a": f"was cut {was}then it had only 9,000 B"}
    assert whole.update(seen(a=29_000), "14:03:21") == {}
    other = {"a": Seen(29_000, 0, (1, 7))}
    assert whole.update(other, "14:03:25") == {"a": f"was replaced {was}another file of 29,000 B has its name"}
    assert whole.update(other, "14:03:26") == {}


def test_what_is_empty_or_has_another_name_has_lost_nothing() -> None:
    whole = Whole(segments=False)
    whole.update({"a": Seen(0, 0, (1, 1))}, "")
    assert whole.update({"a": Seen(5, 0, (1, 2))}, "") == {}
    assert whole.update({"a": Seen(1, 0, (1, 3)), "a.1": Seen(5, 0, (1, 2))}, "") == {}


def test_a_segment_that_is_cut_is_finished_unless_it_grows_again() -> None:
    whole = Whole(segments=True)
    whole.update(seen(a=1_000), "14:03:20")
    for size in (500, 500, 400):
        assert whole.update(seen(a=size, b=9), "14:03:21") == {}
    expected = "was cut while it was recorded: at 14:03:20 it had 1,000 B, then it had only 400 B"
    assert whole.update(seen(a=401, b=9), "14:03:22") == {"a": expected}
    assert whole.update(seen(a=402, b=9), "14:03:23") == {}


# --------------------------------------------------------------------------------------------- what was recorded over


def of(path: Path, changed: int) -> dict[str, Seen]:
    return {str(path): Seen(path.stat().st_size, changed, (1, 1))}


def content(byte: str, size: int) -> bytes:
    return byte.encode() * size


@pytest.mark.parametrize("size", [1, 3, 500, 5_000_000])
def test_what_is_recorded_over_is_told_once_though_it_is_larger_again(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(content("x", size))
    kept = Kept(of(path, 1))
    path.write_bytes(content("y", 3 * size))
    assert losses(kept, of(path, 2)) == {str(path): "was recorded over: what it held before is not in it any more"}
    assert losses(kept, of(path, 3)) == {}


def test_what_is_added_to_is_not_recorded_over(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(content("x", 9_000))
    kept = Kept(of(path, 1))
    path.write_bytes(content("x", 9_000) + content("y", 100))
    assert losses(kept, of(path, 2)) == {}
    with path.open("r+b") as file:  # an index at the begin and at the end of what there was
        file.write(content("z", 100))
        file.seek(8_900)
        file.write(content("z", 100))
    assert losses(kept, of(path, 3)) == {}


def test_what_is_empty_or_cannot_be_read_is_not_recorded_over(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    kept = Kept({**of(path, 1), str(tmp_path / "gone"): Seen(10, 1, (1, 2))})
    path.write_bytes(b"y")
    assert losses(kept, {**of(path, 2), str(tmp_path / "gone"): Seen(20, 2, (1, 2))}) == {}


@posix
def test_what_could_not_be_read_before_is_not_recorded_over(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.symlink_to(tmp_path / "later")
    kept = Kept({str(path): Seen(10, 1, (1, 1))})
    (tmp_path / "later").write_bytes(content("y", 20))
    assert losses(kept, of(path, 2)) == {}
