from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from platforms import linux, posix

from rigsync.agent.checks import files_problem, free_bytes_problem, in_the_way, missing_programs
from rigsync.agent.growth import matching_files

not_for_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="nothing is forbidden to an administrator"
)


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
    assert matching_files(str(tmp_path / "*")) == {}


# ----------------------------------------------------------------------------------------------------------- growth


def test_what_is_in_the_way_is_told_whatever_it_is(tmp_path: Path) -> None:
    assert in_the_way(str(tmp_path / "missing" / "x.avi")) is None
    (tmp_path / "x.avi").write_bytes(b"x" * 29_000)
    told = in_the_way(str(tmp_path / "x.avi"))
    assert told
    assert told.startswith(f"{str(tmp_path / 'x.avi')!r} is there already (29,000 B, of 20")
    assert in_the_way(str(tmp_path))
