"""Paths in use: locks that the system holds, by which one recording at a time has a file."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from platforms import posix
from processes import LONG

from rigsync.agent import in_use
from rigsync.agent.in_use import InUse, Output, PathTaken, keys_of_outputs, single_path

for_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be another user")

ONE = {"path /data/left.avi": "/data/left.avi"}


def taken(other: InUse, wanted: dict[str, str]) -> str:
    with pytest.raises(PathTaken) as told, other.taking(wanted):
        raise AssertionError("it was let in")
    return str(told.value)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/data/left.avi", "/data/left.avi"),
        ("/data/*.avi", None),
        ("/data/lef?.avi", None),
        ("/data/[lr].avi", None),
        ("/data/**/left.avi", None),
        ("/rig [[]1][*]/left[?].avi", "/rig [1]*/left?.avi"),
    ],
)
def test_a_pattern_that_stands_for_one_path_is_known(pattern: str, path: str | None) -> None:
    assert single_path(pattern) == path


def test_one_has_it_at_a_time(tmp_path: Path) -> None:
    left, right = InUse("left", tmp_path), InUse("right", tmp_path)
    with left.taking(ONE):
        pass
    expected = f"'/data/left.avi' is in use by the rig left (process {os.getpid()}); end that recording, or give"
    assert taken(right, ONE).startswith(expected)
    with left.taking(ONE):  # it has it already
        pass
    left.keep_only()
    assert list(tmp_path.iterdir()) == []
    with right.taking(ONE):
        assert "the rig right" in taken(left, ONE)
    right.keep_only()


def test_what_fails_gives_back_what_it_has_taken_and_no_more(tmp_path: Path) -> None:
    left, right = InUse("left", tmp_path), InUse("right", tmp_path)
    two = {"path b": "b", "path c": "c"}
    with left.taking(ONE):
        pass
    with contextlib.suppress(ValueError), left.taking(ONE | two):
        raise ValueError
    with right.taking(two):
        pass
    assert "c" in taken(left, {"path d": "d", "path c": "c"})
    with right.taking({"path d": "d"}):
        pass
    assert "left.avi" in taken(right, ONE)
    left.keep_only()
    right.keep_only()


HOLDS = """
import sys
from pathlib import Path
from rigsync.agent.in_use import InUse
with InUse("left", Path(sys.argv[1])).taking({"path /data/left.avi": "/data/left.avi"}):
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_a_program_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "holds\n"
        right = InUse("right", tmp_path)
        assert f"the rig left (process {holder.pid})" in taken(right, ONE)
        holder.kill()
        holder.wait(LONG)
        with right.taking(ONE):
            assert "the rig right" in taken(InUse("third", tmp_path), ONE)
        right.keep_only()


def test_junk_in_the_place_of_a_name_is_no_name(tmp_path: Path) -> None:
    left, right = InUse("left", tmp_path), InUse("right", tmp_path)
    with left.taking(ONE):
        (file,) = tmp_path.iterdir()
        most = (b"[" * 4096, b'{"rig":"x","pid":1e999}', b'{"rig":"x","pid":-1,"key":""}', b"9" * 5000)
        for junk in (b"", b"{", b"[]", b'{"rig": "x"}', b"\xff", b'{"rig": "x", "pid": "y"}', *most):
            file.write_bytes(junk)
            assert "in use by another recording" in taken(right, ONE)
            with right.taking({"path /data/right.avi": "/data/right.avi"}):  # which looks at the texts of all others
                pass
            right.keep_only()
    left.keep_only()


@for_root
@pytest.mark.parametrize("mode", [0o666, 0o644, 0o600])
def test_another_users_lock_is_a_lock_and_what_it_has_left_is_none(mode: int) -> None:
    """The other user is one who is not root, to whom the file's mode means something."""
    asks = HOLDS.replace("with InUse", "import os; os.seteuid(65534)\nwith InUse")

    def answer(folder: str) -> str:
        command = [sys.executable, "-c", asks, folder]
        return subprocess.run(command, capture_output=True, input="", text=True, timeout=LONG, check=False).stderr

    with tempfile.TemporaryDirectory() as folder:  # not that of pytest, into which no other user gets
        os.chmod(folder, 0o1777)
        left = InUse("left", Path(folder))
        with left.taking(ONE):
            (file,) = Path(folder).iterdir()
            file.chmod(mode)
            told = answer(folder)
            assert ("or may not be opened" if mode == 0o600 else "in use by the rig left") in told
            file.chmod(0o666)
            for lock in left._locks.values():
                assert lock
                os.close(lock)  # as though it were killed
            left._locks.clear()
        assert answer(folder) == ""


def test_where_nothing_can_be_locked_it_is_told_and_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = InUse("left", tmp_path / "missing")
    with caplog.at_level(logging.WARNING), rig.taking(ONE):
        pass
    rig.keep_only()
    assert "left: another rig can record to /data/left.avi too, since no lock can be had: " in caplog.text


PUT = {
    "symbolic link": lambda place, victim: place.symlink_to(victim),
    "link to nothing": lambda place, victim: place.symlink_to(victim.parent / "nothing"),
    "hard link": lambda place, victim: os.link(victim, place),
    "pipe": lambda place, victim: os.mkfifo(place, 0o666),
    "locked pipe": lambda place, victim: os.mkfifo(place, 0o666),
    "folder": lambda place, victim: place.mkdir(),
}


@posix
@pytest.mark.parametrize("what", PUT)
def test_what_a_stranger_puts_in_the_place_of_a_lock_is_refused(tmp_path: Path, what: str) -> None:
    """In a process of its own, since it was to wait for ever."""
    locks, precious = tmp_path / "locks", tmp_path / "precious"
    locks.mkdir()
    precious.write_text("of value")
    place = InUse("right", locks)._file_of("path /data/left.avi")
    PUT[what](place, precious)
    with contextlib.ExitStack() as stack:
        if what == "locked pipe":
            import fcntl

            opened = os.open(place, os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, opened)
            fcntl.flock(opened, fcntl.LOCK_EX)
        command = [sys.executable, "-c", HOLDS, str(locks)]
        told = subprocess.run(command, capture_output=True, input="", text=True, timeout=LONG, check=False).stderr
        assert f"PathTaken: {str(place)!r}, by which rigs of this computer take turns, is no such file" in told
        assert "delete it" in told
        with InUse("right", locks).taking({"path /data/right.avi": "x"}):  # whatever lies there, this is another one
            pass
    assert precious.read_text() == "of value"


def test_a_file_with_another_text_is_locked_and_stays_as_it_is(tmp_path: Path) -> None:
    left = InUse("left", tmp_path)
    file = left._file_of("path /data/left.avi")
    file.write_text("of value")
    with left.taking(ONE):
        assert file.read_text() == "of value"
        assert "in use by another recording" in taken(InUse("right", tmp_path), ONE)
    left.keep_only()


@pytest.mark.parametrize(
    ("path", "pattern", "is_refused"),
    [
        ("o_l.avi", "o_*.avi", True),
        ("o_l.avi", "o_[lr].avi", True),
        ("o_l.avi", "p_*.avi", False),
        ("o_l.avi", os.path.join("*", "o_*.avi"), False),
        (os.path.join("deeper", "o_l.avi"), os.path.join("*", "o_*.avi"), True),
        (os.path.join("deeper", "o_l.avi"), os.path.join("d*", "**", "*_l.avi"), True),
        (os.path.join("deeper", "o_l.avi"), "**", True),
        (os.path.join("deeper", "o_l.avi"), os.path.join("**", "p_*"), False),
        (os.path.join(".deeper", "o_l.avi"), os.path.join("**", "o_*"), False),
        (".o_l.avi", "*", False),
        (os.path.join("deeper", "o_l.avi"), "*", False),
    ],
)
def test_a_path_and_a_pattern_that_matches_it_are_in_conflict(
    tmp_path: Path, path: str, pattern: str, is_refused: bool
) -> None:
    locks, data = tmp_path / "locks", tmp_path / "data [1]"
    locks.mkdir()
    exact = keys_of_outputs([Output.at(str(data / path))])
    several = keys_of_outputs([Output.of(os.path.join(glob.escape(str(data)), pattern))])
    left, right = InUse("left", locks), InUse("right", locks)
    for first, then, how in ((exact, several, "matches"), (several, exact, "is matched by")):
        with left.taking(first):
            pass
        if is_refused:
            told = taken(right, then)
            assert f" {how} {next(iter(first)).partition(' ')[2]!r}, which is in use by the rig left (process" in told
        else:
            with right.taking(then):
                pass
        for rig in (left, right):
            rig.keep_only()
        assert list(locks.iterdir()) == []
    with left.taking(exact), left.taking(several):  # one rig may have both
        pass
    left.keep_only()


@pytest.mark.parametrize("of_pattern", ["data/*_l.avi", "data/**", pytest.param("linked/*_l.avi", marks=posix)])
def test_two_patterns_are_in_conflict_where_one_file_is_matched_by_both(tmp_path: Path, of_pattern: str) -> None:
    locks, data = tmp_path / "locks", tmp_path / "data"
    locks.mkdir()
    data.mkdir()
    if os.name == "posix":
        (tmp_path / "linked").symlink_to(data)
    left, right = InUse("left", locks), InUse("right", locks)
    mine, others = Output.of(str(data / "o_*.avi")), Output.of(str(tmp_path / of_pattern))
    with left.taking(keys_of_outputs([mine])), right.taking(keys_of_outputs([others])):
        (data / "o_r.avi" if "**" not in of_pattern else data / ".o_l.avi").touch()
        for output, rig in ((mine, left), (others, right)):
            assert rig.shared(Output.of(output.path).files) == {}
        (data / "o_l.avi").touch()
        for output, rig, other in ((mine, left, right), (others, right, left)):
            (path,) = [file for file in Output.of(output.path).files if file.endswith("o_l.avi")]
            told = rig.shared([path])[path]
            assert told.startswith(f"{path!r} is matched by {str(data)!r}"[:-1])
            assert f"which is in use by the rig {other._rig} (process {os.getpid()}); end that" in told
    left.keep_only()
    assert right.shared([path]) == {}
    right.keep_only()


def test_a_pattern_of_one_that_was_killed_is_in_nobodys_way(tmp_path: Path) -> None:
    left, right = InUse("left", tmp_path), InUse("right", tmp_path)
    several = keys_of_outputs([Output.of(str(tmp_path / "o_*.avi"))])
    with left.taking(several):
        for lock in left._locks.values():
            assert lock
            os.close(lock)  # as though it were killed
        left._locks.clear()
    with right.taking(keys_of_outputs([Output.at(str(tmp_path / "o_l.avi"))])):
        pass
    right.keep_only()


def test_files_are_known_by_where_they_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data" / "left.avi"
    file.parent.mkdir()
    whole, relative = Output.at(str(file)), Output.at(os.path.join("data", ".", "left.avi"))
    assert (whole.keys, whole.existing) == (relative.keys, None)
    file.write_text("recorded")
    os.link(file, tmp_path / "other.avi")
    whole, other = Output.at(str(file)), Output.at("other.avi")
    assert whole.keys[0] != other.keys[0]
    assert whole.keys[1] == other.keys[1]
    assert whole.existing
    assert "left.avi' is there already (8 B, of " in whole.existing
    assert keys_of_outputs([whole, other]) == {
        whole.keys[0]: whole.path,
        whole.keys[1]: "other.avi",
        other.keys[0]: "other.avi",
    }


def test_patterns_are_known_by_the_folder_to_which_they_lead(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    keys = {Output.of(os.path.join(data, ".", "cam_*.avi")).keys, Output.of(os.path.join(data, "cam_*.avi")).keys}
    assert len(keys) == 1
    keys |= {Output.of(os.path.join(data, "c", "cam_*.avi")).keys, Output.of(os.path.join(data, "*", "cam.avi")).keys}
    assert len(keys) == 3


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_macos_takes_upper_and_lower_case_for_one(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(in_use.sys, "platform", platform)
    is_one = Output.at("/data/Left.avi").keys == Output.at("/data/left.avi").keys
    assert is_one == (platform == "darwin" or os.name == "nt")
