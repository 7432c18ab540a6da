"""What is read the same way in every YAML file: backslashes in quotes, control characters, depth, empty maps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from rigsync.agent.file import read_agent_file
from rigsync.config.files import load_rigs
from rigsync.config.schema import MOST_TOLD
from rigsync.errors import ConfigError

AGENT = "name: cameras\non:\n  EXPINIT: {run: date}\n"
Read = Callable[[Path], object]
# Name: the file, with a place for text in line 5, its key where it can be read, and what reads it.
PLACES: dict[str, tuple[str, str | None, Read]] = {
    "value of an agent": (AGENT + "folders:\n  - %s\n", "folders[0]", read_agent_file),
    "word of a command": (
        "name: cameras\non:\n  EXPINIT:\n    run: [ffmpeg,\n      %s, -n]\n",
        "on.EXPINIT.run[1]",
        read_agent_file,
    ),
    "command": ("name: cameras\non:\n  EXPINIT:\n    timeout: 5\n    run: %s\n", "on.EXPINIT.run", read_agent_file),
    "description": (
        AGENT + "experiment_description:\n  a: [{b: %s}]\n",
        "experiment_description.a[0].b",
        read_agent_file,
    ),
    "key of an agent": (AGENT + "experiment_description:\n  %s: 1\n", "experiment_description", read_agent_file),
    "address of a rig": ("rigs:\n  a: b\n  c:\n    timeout: 5\n    uri: %s\n", "rigs.c.uri", load_rigs),
    "name of a rig": ("rigs:\n  a: b\n  c: d\n  e: f\n  %s: g\n", "rigs", load_rigs),
    "address in a flat file": ("a: b\nc: d\ne: f\ng: h\ni: %s\n", "rigs.i", load_rigs),
    "name in a flat file": ("a: b\nc: d\ne: f\ng: h\n%s: i\n", "rigs", load_rigs),
}
LONG = "python record.py --where E:\\behaviour\\left.mp4 --and " + "more " * 20


def told(tmp_path: Path, read: Read, text: str) -> ConfigError:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert caught.value.file == str(path)
    return caught.value


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("text", "letter", "made", "instead"),
    [
        (r"E:\behaviour", "b", "a backspace", r"'E:\behaviour' in single quotes or E:/behaviour"),
        (r"E:\new\x", "n", "a line end", r"'E:\new\x' in single quotes or E:/new/x"),
        (r"E:\tmp", "t", "a tab", "E:/tmp"),
        (r"E:\raw", "r", "a carriage return", "E:/raw"),
        (r"E:\\data\raw", "r", "a carriage return", r"'E:\data\raw' in single quotes or E:/data/raw"),
        (r"\\\\server\\a's\final", "f", "a form feed", r"'\\server\a''s\final' in single quotes or //server/a's/final"),
        (r"E:\Neuro", "N", "a next-line character", "E:/Neuro"),
        (r"E:\2p\0", "2", "an unknown escape", "E:/2p/0"),
        (r"E:\ephys", "e", "an escape character", "E:/ephys"),
        (r"E:\x07", "x07", "a character that cannot be printed", "E:/x07"),
        (r"E:\ud800", "ud800", "a character that cannot be printed", "E:/ud800"),
        (r"D:\data", "d", "an unknown escape", r"'D:\data' in single quotes or D:/data"),
        (r"C:\Users\me", "U", "an unknown escape", r"'C:\Users\me' in single quotes or C:/Users/me"),
        (r"D:\xyz", "x", "an unknown escape", "D:/xyz"),
        (LONG, "b", "a backspace", r"'E:\behaviour\left.mp4' in single quotes or E:/behaviour/left.mp4"),
    ],
)
def test_a_backslash_in_double_quotes_is_explained(
    tmp_path: Path, place: str, text: str, letter: str, made: str, instead: str
) -> None:
    file, key, read = PLACES[place]
    error = told(tmp_path, read, file.replace("%s", f'"{text}"'))
    assert f"\\{letter}, {made}: in double quotes a backslash begins an escape; write " in error.problem
    assert error.problem.endswith(instead)
    assert error.problem.startswith("not valid YAML: ") or made != "an unknown escape"
    assert error.line == 5
    assert error.key == (None if error.problem.startswith("not valid YAML") else key)
    assert error.problem.isprintable()


@pytest.mark.parametrize("place", ["value of an agent", "command", "address of a rig", "address in a flat file"])
def test_a_backslash_before_the_closing_quote_is_explained(tmp_path: Path, place: str) -> None:
    file, _, read = PLACES[place]
    error = told(tmp_path, read, file.replace("%s", '"D:\\"'))
    assert error.problem == (
        r"not valid YAML: \", a quote within the text: in double quotes a backslash begins an escape; "
        r"write 'D:\' in single quotes or D:/"
    )


def test_what_is_told_of_text_over_several_lines_is_one_line(tmp_path: Path) -> None:
    error = told(tmp_path, read_agent_file, AGENT + 'folders:\n  - "D:/it is\n    here\\back"\n')
    assert error.problem.endswith(r"write 'D:/it is here\back' in single quotes or D:/it is here/back")


def test_a_quote_that_is_forgotten_is_no_backslash(tmp_path: Path) -> None:
    error = told(tmp_path, read_agent_file, AGENT + r'folders: ["a \"b\" c]' + "\n")
    assert "found unexpected end of stream; expected a YAML file" in error.problem


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"'E:\behaviour\new'", r"E:\behaviour\new"),
        (r"E:\behaviour\new", r"E:\behaviour\new"),
        (r'"E:\\behaviour\\new"', r"E:\behaviour\new"),
        (r'"E:\/caf\u00e9 \"a\" \x41\U0001F600"', 'E:/café "a" A😀'),
        ('"a \\\n  b"', "a b"),
        ("|\n    a\n    \tb", "a\n\tb\n"),
        ("'a\n\n    b'", "a\nb"),
    ],
)
def test_text_that_is_meant_is_read(tmp_path: Path, written: str, read: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(AGENT + "experiment_description:\n  a: " + written + "\n", encoding="utf-8")
    assert read_agent_file(path).description == {"a": read}


@pytest.mark.parametrize(("read", "text"), [(load_rigs, "rigs:\n  a: b\n"), (read_agent_file, AGENT)])
def test_raw_control_characters_are_shown(tmp_path: Path, read: Read, text: str) -> None:
    error = told(tmp_path, read, text + "# \b\n")
    assert error.problem == "not valid YAML: the character '\\x08' is not allowed"


@pytest.mark.parametrize("read", [load_rigs, read_agent_file])
def test_depth_has_one_bound(tmp_path: Path, read: Read) -> None:
    error = told(tmp_path, read, "a:\n  b: " + "[" * 21 + "]" * 21 + "\n")
    assert error.problem == "nested more than 20 levels deep"
    assert (error.line, error.key) == (2, "a.b" + "[0]" * 19)


def test_a_map_whose_lines_are_left_out_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(AGENT + "variables:\n  # data: D:/data\nlogs:\nexperiment_description:\n")
    file = read_agent_file(path)
    assert (file.variables, file.description, file.logs.keep) == ({}, {}, 100)
    error = told(tmp_path, read_agent_file, AGENT + "require:\n")
    assert error.problem == "expected at least one of the keys free_disk, files, programs"


def test_quotes_around_a_number_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(AGENT + "lease: '60'\nlogs: {keep: 5.0}\n")
    file = read_agent_file(path)
    assert (file.lease, file.logs.keep) == (60, 5)
    path.write_text("timing: {lost_beats: '6', beat: \"2\"}\nrigs:\n")
    assert (load_rigs(path).timing.lost_beats, load_rigs(path).timing.beat) == (6, 2)


def test_the_number_of_a_device_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(AGENT + "experiment_description: {serial: 1234567890123456, gain: -5, rate: 1e20}\n")
    assert read_agent_file(path).description == {"serial": "1234567890123456", "gain": -5, "rate": 1e20}


WRONG_AGENT = r"""
nmae: cameras
listen: udp://x y
lease: soon
colour: red
main_sync: true
main_sync: false
variables:
  data: "E:\behaviour"
  raw: "{data}/raw"
  other: "{nothing}"
folders: ["{raw}/x", "{exp_rf}", ../a]
on:
  EXPINIT: {run: "make {date} {rig}", tiemout: 5}
  EXPSTART:
    start: [ffmpeg, "{other}"]
    good_exit: [a, 0, b]
    frames: (a+)+
  EXPEND: {stpo: {signal: interrupt}}
  EXPCLEANUP: {run: "{bad", folder: "C:x"}
require: {free_disk: {path: .., at_least: 5}, files: [~/x], programs: ["{exp_ref}"]}
verify: {files: "~/x", growing_within: no}
logs: {keep: 0, max_size: 1 kB}
"""
WRONG_RIGS = """
timing: {beat: 30, suspect_beats: 9}
rigs:
  a: {uri: "udp://1.2.3", timeout: soon}
  b: 10.0.0.1
  c: {uri: 10.0.0.1, dialect: iblutl, puase: 1}
  d: [x]
  e: 10.0.0.1
  f: {timeuot: 3}
  [g]: h
colour: red
"""
ALL_MISTAKES: dict[str, tuple[Read, str, list[tuple[int, str | None]]]] = {
    "agent": (
        read_agent_file,
        WRONG_AGENT,
        # Not told are what {data}, {other} and {rig} are used for, the missing name and stop, and the empty EXPEND.
        [
            (2, "nmae"),
            (3, "listen"),
            (4, "lease"),
            (5, "colour"),
            (7, "main_sync"),
            (9, "variables.data"),
            (11, "variables.other"),
            (12, "folders[1]"),
            (12, "folders[2]"),
            (14, "on.EXPINIT.tiemout"),
            (17, "on.EXPSTART.good_exit[0]"),
            (17, "on.EXPSTART.good_exit[2]"),
            (18, "on.EXPSTART.frames"),
            (19, "on.EXPEND.stpo"),
            (20, "on.EXPCLEANUP.run"),
            (20, "on.EXPCLEANUP.folder"),
            (21, "require.free_disk.at_least"),
            (21, "require.free_disk.path"),
            (21, "require.files[0]"),
            (21, "require.programs[0]"),
            (22, "verify.growing_within"),
            (22, "verify.files"),
            (23, "logs.keep"),
            (23, "logs.max_size"),
        ],
    ),
    "rigs": (
        load_rigs,
        WRONG_RIGS,
        [
            (2, "timing.beat"),
            (2, "timing.suspect_beats"),
            (4, "rigs.a.timeout"),
            (4, "rigs.a.uri"),
            (6, "rigs.c.puase"),
            (6, "rigs.c.dialect"),
            (6, "rigs.c.uri"),
            (7, "rigs.d"),
            (8, "rigs.e.uri"),
            (9, "rigs.f.timeuot"),
            (9, "rigs.f.uri"),
            (10, "rigs"),
            (11, "colour"),
        ],
    ),
    "flat file": (
        load_rigs,
        "x: b c\n'': d\ne: \"\\b\"\ne: f\ng: udp://h:0\n",
        [(1, "rigs.x.uri"), (2, "rigs."), (3, "rigs.e"), (4, "rigs.e"), (5, "rigs.g.uri")],
    ),
    "names of rigs": (load_rigs, "rigs:\n  ' a': [b]\n  c: ~\n", [(2, "rigs. a"), (2, "rigs. a"), (3, "rigs.c")]),
    "aliases": (load_rigs, "a: &b c\nd: *b\ne: !f g\nh: *b\ni: j k\n", [(2, None), (3, None), (4, None)]),
    "aliases in what is no YAML": (load_rigs, "a: &b c\nd: *b\ne: [\n", [(2, None), (4, None)]),
    "variables that are no map": (
        read_agent_file,
        "name: a\nvariables: [b]\nfolders: ['{c}', ../d]\non: {EXPINIT: {run: '{c}'}, EXPCLEANUP: {run: ' '}}\n",
        [(2, "variables"), (3, "folders[1]"), (4, "on.EXPCLEANUP.run")],
    ),
    "stop that is wrong": (
        read_agent_file,
        "name: a\non:\n  EXPSTART: {start: b}\n  EXPEND: {stop: {signal: c, grace: d}}\n",
        [(4, "on.EXPEND.stop.signal"), (4, "on.EXPEND.stop.grace")],
    ),
    "start that is misspelt": (
        read_agent_file,
        "name: a\non:\n  EXPSTART: {strat: b, frames: (c)}\n  EXPEND: {stop: {}}\n",
        [(3, "on.EXPSTART.strat")],
    ),
    "description": (
        read_agent_file,
        'nam: a\nexperiment_description: {b: ["\\b", "\\f"]}\non: {}\n',
        [(1, "nam"), (2, "experiment_description.b[0]"), (2, "experiment_description.b[1]"), (3, "on")],
    ),
}


@pytest.mark.parametrize("case", ALL_MISTAKES)
def test_all_mistakes_of_a_file_are_told_at_once_and_nothing_that_depends_on_them(tmp_path: Path, case: str) -> None:
    read, text, places = ALL_MISTAKES[case]
    error = told(tmp_path, read, text)
    assert sorted((part.line or 0, part.key or "") for part in error.errors) == sorted(
        (line, key or "") for line, key in places
    )
    assert [part.line for part in error.errors] == [line for line, _ in places]
    assert str(error).splitlines() == [str(part) for part in error.errors]
    first = error.errors[0]
    assert (error.problem, error.line, error.key) == (first.problem, first.line, first.key)
    assert {part.file for part in error.errors} == {error.file}
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(copied), list(map(str, copied.errors))) == (str(error), list(map(str, error.errors)))


def test_one_mistake_is_one_error(tmp_path: Path) -> None:
    error = told(tmp_path, load_rigs, "rigs:\n  a: {uri: b, timeout: c}\n")
    assert error.errors == (error,)
    assert "\n" not in str(error)


def test_a_file_with_thousands_of_mistakes_is_told_of_a_hundred(tmp_path: Path) -> None:
    for text in ("".join(f"a{i}: b c\n" for i in range(3000)), "rigs:\n" + "".join(f"a{i}:\n" for i in range(3000))):
        assert len(told(tmp_path, load_rigs, text).errors) == MOST_TOLD
    assert len(told(tmp_path, read_agent_file, "".join(f"a{i}:\n" for i in range(3000))).errors) == MOST_TOLD
