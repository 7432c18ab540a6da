from __future__ import annotations

import glob
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from platforms import linux, posix

from rigsync.agent.checks import (
    FULL,
    FreeSpace,
    Growth,
    Kept,
    Samples,
    Seen,
    Segments,
    Whole,
    files_problem,
    free_bytes_problem,
    in_the_way,
    matching_files,
    missing_programs,
)

not_for_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="nothing is forbidden to an administrator"
)

PATTERN = "/data/*.mp4"
A, B = "/data/a.mp4", "/data/b.mp4"


def matching_sizes(pattern: str) -> dict[str, int]:
    return {path: seen.size for path, seen in matching_files(pattern).items()}


# --------------------------------------------------------------------------------------------------------- programs


def test_missing_programs_are_found(tmp_path: Path) -> None:
    script = tmp_path / "record"
    script.write_text("echo")
    names = [sys.executable, "no-such-program", str(tmp_path / "missing"), "no-such-program"]
    assert missing_programs(names) == ["no-such-program", str(tmp_path / "missing")]
    if sys.platform != "win32":
        assert missing_programs(["sh", str(script)]) == [str(script)]  # not executable


# ------------------------------------------------------------------------------------------------------------- disks


def test_a_disk_with_room_is_no_problem(tmp_path: Path) -> None:
    assert free_bytes_problem(str(tmp_path), 1) is None
    assert free_bytes_problem(str(tmp_path / "not" / "yet" / "there"), 1) is None


def test_a_disk_without_room_is_told(tmp_path: Path) -> None:
    problem = free_bytes_problem(str(tmp_path), 20_000_000_000_000_000)
    assert problem is not None
    assert repr(str(tmp_path)) in problem
    assert "20 PB are required; move data away" in problem


# ---------------------------------------------------------------------------------------------------- files, folders


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    assert files_problem(str(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "missing")
    assert files_problem(path) == f"{path!r} does not exist; create it, connect its drive, or correct the path"
    assert "cannot be reached" in (files_problem("a\0b") or "")


@linux
def test_a_folder_in_which_nobody_can_write_is_told() -> None:
    problem = files_problem("/proc/self")  # not even an administrator
    assert problem is not None
    assert problem.startswith("the folder '/proc/self' cannot be written to: ")


@not_for_root
def test_a_read_only_folder_and_an_unreadable_file_are_told(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("a: 1")
    assert files_problem(str(file)) is None
    file.chmod(0)
    assert "cannot be read: Permission denied" in (files_problem(str(file)) or "")
    tmp_path.chmod(0o500)
    try:
        assert "cannot be written to: Permission denied" in (files_problem(str(tmp_path)) or "")
    finally:
        tmp_path.chmod(0o700)


@linux
def test_a_file_that_cannot_be_read_is_told() -> None:
    problem = files_problem("/proc/self/mem")  # its first page is never there
    assert problem is not None
    assert problem.startswith("the file '/proc/self/mem' cannot be read: Input/output error")


@posix
def test_a_pipe_or_a_device_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert files_problem(str(pipe)) is None  # to open it would wait for somebody to write
    assert matching_sizes(str(tmp_path / "*")) == {}


# ----------------------------------------------------------------------------------------------------------- growth


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


def test_what_is_kept_may_grow_and_may_be_moved_away() -> None:
    kept = Kept(seen(a=10, b=10))
    assert kept.update(seen(a=11, b=10)) == {}
    assert kept.update({}) == {}
    assert kept.update(seen(a=11, b=10)) == {}


def test_what_shrinks_is_told_once() -> None:
    kept = Kept(seen(a=29_000, b=10))
    kept.update(seen(a=50_000, b=10))
    assert kept.update(seen(a=9_000, b=10)) == {"a": "had 29,000 B before, and now has 9,000 B"}
    assert kept.update(seen(a=9_000, b=10)) == {}


def test_what_is_replaced_is_told() -> None:
    kept = Kept(seen(a=10))
    assert kept.update({"a": Seen(20, 0, (1, 7))}) == {"a": "was replaced: another file of 20 B has its name"}


def test_what_is_finished_has_to_stay() -> None:
    kept = Kept({})
    kept.keep("a", Seen(10, 0, (1, 0)))
    assert kept.update(seen(a=10)) == {}
    kept.keep("a", Seen(10, 0, (1, 0)))
    assert kept.update({}) == {"a": "is gone, though it was finished; look for what has moved or removed it"}
    assert kept.update({}) == {}


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


def test_what_is_in_the_way_is_told_whatever_it_is(tmp_path: Path) -> None:
    assert in_the_way(str(tmp_path / "missing" / "x.avi")) is None
    (tmp_path / "x.avi").write_bytes(b"x" * 29_000)
    told = in_the_way(str(tmp_path / "x.avi"))
    assert told
    assert told.startswith(f"{str(tmp_path / 'x.avi')!r} is there already (29,000 B, of 20")
    assert in_the_way(str(tmp_path))


# ------------------------------------------------------------------------------------------------------- free space

MB = 1_000_000


def test_a_disk_that_lasts_is_not_told() -> None:
    space = FreeSpace()
    for second in range(100):
        assert space.update(1000 * MB - second * MB, second) is None
    assert space.rate == MB


def test_a_disk_is_told_when_it_lasts_for_two_minutes_and_when_it_lasts_for_four_again() -> None:
    space = FreeSpace()
    told = [second for second in range(200) if space.update(300 * MB - second * MB, second)]
    assert told == [181]
    assert space.described() == "101 MB free, 1 MB less each second, which is enough for 101 s"
    news = [space.update(800 * MB, 200 + second) for second in range(3)]
    assert news == [False, None, None]
    assert space.described() == "800 MB free"


def test_a_disk_that_becomes_full_at_once_is_told_without_a_rate() -> None:
    space = FreeSpace()
    assert space.update(MB, 0) is None
    assert space.update(FULL - 1, 1)
    assert space.is_full
    assert space.described() == "65.5 kB free"
    for second in range(2, 100):
        assert space.update(0, second) is None  # it does not become fuller, and is full all the same


def test_a_full_disk_is_told_with_the_rate_at_which_it_was_filled() -> None:
    space = FreeSpace()
    assert [space.update(10 * MB - second * MB, second) for second in range(11)].count(True) == 1
    assert space.described() == "0 B free, after 1 MB less each second"


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    space = FreeSpace()
    for second in range(100):
        space.update(10_000 * MB - (0 if second < 50 else (second - 50) * MB), second)
    assert space.rate == MB
    assert space.left == (10_000 - 49)


def test_what_is_set_aside_at_once_is_no_rate() -> None:
    space = FreeSpace()
    for second in range(100):
        assert space.update(1000 * MB - (900 * MB if second > 10 else 0), second) is None


# --------------------------------------------------------------------------------------------- what was recorded over


def of(path: Path, changed: int) -> dict[str, Seen]:
    return {str(path): Seen(path.stat().st_size, changed, (1, 1))}


def content(byte: str, size: int) -> bytes:
    return byte.encode() * size


@pytest.mark.parametrize("size", [1, 3, 500, 5_000_000])
def test_what_is_recorded_over_is_told_once_though_it_is_larger_again(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(content("x", size))
    samples = Samples(of(path, 1))
    path.write_bytes(content("y", 3 * size))
    assert samples.recorded_over(of(path, 2)) == {str(path)}
    assert samples.recorded_over(of(path, 3)) == set()


def test_what_is_added_to_is_not_recorded_over(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(content("x", 9_000))
    samples = Samples(of(path, 1))
    path.write_bytes(content("x", 9_000) + content("y", 100))
    assert samples.recorded_over(of(path, 2)) == set()
    with path.open("r+b") as file:  # an index at the begin and at the end of what there was
        file.write(content("z", 100))
        file.seek(8_900)
        file.write(content("z", 100))
    assert samples.recorded_over(of(path, 3)) == set()


def test_what_is_empty_or_cannot_be_read_is_not_recorded_over(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    samples = Samples({**of(path, 1), str(tmp_path / "gone"): Seen(10, 1, (1, 2))})
    path.write_bytes(b"y")
    assert samples.recorded_over({**of(path, 2), str(tmp_path / "gone"): Seen(20, 2, (1, 2))}) == set()
