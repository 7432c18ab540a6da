"""The file of an agent: what is read from it, and every mistake with its line and key."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.support import EXAMPLE, FULL, LEAST, documents
from rigsync.agent.distinct import check_distinct_agents
from rigsync.agent.file import (
    Action,
    AgentFile,
    Logs,
    Stop,
    read_agent_file,
)
from rigsync.agent.keys import is_agent_file
from rigsync.agent.template import SubstitutionError
from rigsync.config.schema import MOST_ITEMS
from rigsync.config.yaml import DEEPEST
from rigsync.core.enums import ExpMessage
from rigsync.core.rigs import LONGEST_DESCRIPTION
from rigsync.errors import ConfigError

INIT, START, END = ExpMessage.EXPINIT, ExpMessage.EXPSTART, ExpMessage.EXPEND
REFERENCE = {"exp_ref": "2026-01-31_1_mouse"}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | bytes, name: str = "rig.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def words(command: Any) -> list[str]:
    return [str(word) for word in command.words]


# ---------------------------------------------------------------------------------------------------- what is read


def test_the_example(write: Callable[..., Path]) -> None:
    path = write(EXAMPLE)
    file = read_agent_file(path)
    assert (file.source, file.folder) == (str(path), path.parent)
    assert (file.name, str(file.listen), file.main_sync, file.lease) == ("cameras", "udp://0.0.0.0:11001", False, 300)
    assert (file.variables, file.description) == ({"data": "D:/data"}, {})
    assert list(file.on) == [INIT, START, END, ExpMessage.EXPCLEANUP]
    run = file.on[INIT].run
    assert run
    assert (words(run.command), run.timeout) == (["python", "prepare.py", "--session", "{exp_ref}"], 20)
    assert run.command.program == "python"
    assert run.command.filled(REFERENCE) == ("python", "prepare.py", "--session", "2026-01-31_1_mouse")
    start = file.on[START].start
    assert start
    assert start.ready
    assert start.command.filled(REFERENCE)[-1] == "D:/data/2026-01-31_1_mouse/left.mp4"
    assert (start.ready.file.fill(REFERENCE), start.ready.within) == ("D:/data/2026-01-31_1_mouse/left.mp4", 5)
    assert start.frames is None
    assert start.good_exit is None
    assert file.on[END] == Action(stop=Stop("interrupt", 10))
    cleanup = file.on[ExpMessage.EXPCLEANUP].run
    assert cleanup
    assert cleanup.timeout == 60
    assert file.require
    assert file.require.free_disk
    assert (str(file.require.free_disk.path), file.require.free_disk.at_least) == ("D:/data", 20 * 10**9)
    assert [str(path) for path in file.require.files] == ["D:/data"]
    assert file.verify
    assert file.verify.files.fill(REFERENCE) == "D:/data/2026-01-31_1_mouse/*.mp4"
    assert (file.verify.growing_within, file.verify.settled_within, file.verify.segments) == (5, 1, False)
    assert file.existing == "refuse"
    assert file.logs == Logs(None, 100, 10_000_000)


def test_the_least_that_a_file_may_be(write: Callable[..., Path]) -> None:
    file = read_agent_file(write(LEAST))
    assert (str(file.listen), file.main_sync, file.lease) == ("udp://0.0.0.0:11001", False, 300)
    assert file.max_message == 64 << 20
    assert (file.variables, file.require, file.verify) == ({}, None, None)


def test_every_key(write: Callable[..., Path]) -> None:
    file = read_agent_file(write(FULL), platform="linux")
    assert (file.name, str(file.listen), file.main_sync, file.lease) == ("cameras:left", "tcp://[::1]:12001", True, 0)
    assert file.max_message == 200_000_000
    assert file.description == {
        "devices": {
            "cameras": {
                "left": {"fps": 60, "gain": 1.5, "serial": "0042", "sync": True, "note": "no", "label": None},
            }
        },
        "authors": ["me", 7],
    }
    assert file.variables == {"data": "/data", "raw": "/data/raw/{x}"}
    run = file.on[INIT].run
    assert run
    assert run.command.filled({"message.operator": "J. Doe"}) == ("python", "prepare it.py", "J. Doe")
    assert str(run.command.folder) == "/data"
    both = file.on[START]
    assert both.run
    assert both.start
    assert words(both.start.command) == ["ffmpeg", "a b", "/data/raw/{x}", "{}"]
    assert both.start.frames
    assert both.start.frames.search("frame=  12 fps")[1] == "12"  # type: ignore[index]
    end = file.on[END]
    assert end.stop == Stop("interrupt", 10)
    assert end.run
    assert end.run.command.shell
    assert end.run.command.program is None
    values = {"date": "2026-01-31", "number": "1", "subject": "mouse"}
    assert end.run.command.filled(values) == ("echo 2026-01-31 1 mouse > /data/done",)
    assert file.on[ExpMessage.EXPINTERRUPT].stop == Stop("kill", 10)
    assert file.require
    assert file.require.programs == ("exiftool", "/data/bin/tool")
    assert file.existing == "keep"
    assert file.verify
    assert (file.verify.growing_within, file.verify.settled_within, file.verify.segments) == (2, 3, True)
    assert file.validate
    assert words(file.validate.command) == ["ffprobe", "-v", "error", "{file}"]
    assert (file.validate.timeout, str(file.validate.command.folder)) == (30, "/data")
    assert (str(file.logs.folder), file.logs.keep, file.logs.max_size) == ("logs/of", 7, 512 * 1024)


@pytest.mark.parametrize(
    ("platform", "line", "expected"),
    [
        (
            "win32",
            r"C:\tools\ffmpeg.exe -i \\server\share 'a b'",
            ["C:\\tools\\ffmpeg.exe", "-i", r"\\server\share", "a b"],
        ),
        ("linux", r"/usr/bin/ffmpeg a\ b 'c d'# e", ["/usr/bin/ffmpeg", "a b", "c d#", "e"]),
        ("linux", 'sh -c "a; $(b) \'c\'" ""', ["sh", "-c", "a; $(b) 'c'", ""]),
        ("linux", "a|b;c>d", ["a|b;c>d"]),
    ],
)
def test_a_command_is_split_as_that_system_would(
    write: Callable[..., Path], platform: str, line: str, expected: list[str]
) -> None:
    text = "name: a\non:\n  EXPINIT:\n    run: >-\n      " + line + "\n"
    run = read_agent_file(write(text), platform).on[INIT].run
    assert run
    assert words(run.command) == expected


@pytest.mark.parametrize(
    "line",
    [
        "[prepare.bat, '{message.x}']",
        "['C:/x/Prepare.CMD', 'a={message.x}']",
        "['prepare.cmd. ', '{message.x}']",
        "sh -c 'echo {message.x}'",
        "/bin/bash -c '{rig} {message.x}'",
        "timeout 9 PowerShell.EXE -c {message.x}",
        "ssh host echo {message.x}",
        "[env, A=1, 'C:\\x\\cmd.exe', /c, '{message.x}']",
    ],
)
def test_what_reads_its_words_as_a_shell_gets_what_a_shell_may_get(write: Callable[..., Path], line: str) -> None:
    # Batch files as well: Windows has cmd read their arguments anew, so that quotes do not hold (CVE-2024-24576).
    run = read_agent_file(write(LEAST.replace("{run: date}", f"\n    run: {line}"))).on[INIT].run
    assert run
    assert run.command.read_by_shell
    assert not run.command.shell
    assert "mouse" in run.command.filled({"message.x": "mouse"})[-1]
    for value in ('" & calc "', "a b", "$(reboot)"):
        with pytest.raises(SubstitutionError, match="letters, digits"):
            run.command.filled({"message.x": value})


@pytest.mark.parametrize(
    "line", ["python sh.py {message.x}", "bat '{message.x}'", "a.cmds {message.x}", "fishing {message.x}"]
)
def test_other_programs_get_words(write: Callable[..., Path], line: str) -> None:
    run = read_agent_file(write(LEAST.replace("{run: date}", f"\n    run: {line}"))).on[INIT].run
    assert run
    assert not run.command.read_by_shell
    assert run.command.filled({"message.x": "a; b"})[-1] == "a; b"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1 B", 1),
        ("2kB", 2000),
        ("2 KB", 2000),
        ("1.5 MB", 1_500_000),
        ("20 GB", 20 * 10**9),
        ("2 TB", 2 * 10**12),
        ("1 PB", 10**15),
        ("1 KiB", 1024),
        ("3 MiB", 3 * 1024**2),
        ("4 GiB", 4 * 1024**3),
        ("1 TiB", 1024**4),
    ],
)
def test_sizes(write: Callable[..., Path], text: str, size: int) -> None:
    file = read_agent_file(write(EXAMPLE.replace("20 GB", text)))
    assert file.require
    assert file.require.free_disk
    assert file.require.free_disk.at_least == size


def test_variables_may_name_earlier_ones_and_the_rig(write: Callable[..., Path]) -> None:
    text = LEAST + "variables:\n  a: '{rig}-1'\n  b: '{a}/{{c}}'\n"
    assert read_agent_file(write(text)).variables == {"a": "cameras-1", "b": "cameras-1/{c}"}


def test_what_a_variable_holds_is_no_variable_again(write: Callable[..., Path]) -> None:
    text = LEAST.replace("date", "'echo {a}'") + "variables: {a: '{{exp_ref}}'}\n"
    run = read_agent_file(write(text)).on[INIT].run
    assert run
    assert run.command.filled({}) == ("echo", "{exp_ref}")


def test_what_a_variable_holds_is_no_pattern(write: Callable[..., Path]) -> None:
    text = LEAST + "variables: {data: '/d[1]*'}\nverify: {files: '{data}/*', growing_within: 1}\n"
    file = read_agent_file(write(text))
    assert file.verify
    assert file.verify.files.fill({}) == "/d[[]1][*]/*"


# ---------------------------------------------------------------------------------------------------- mistakes


def on(action: str, event: str = "EXPINIT") -> str:
    return f"name: a\non:\n  {event}: {action}\n"


def with_start(rest: str) -> str:
    return f"name: a\non:\n  EXPEND: {{stop: {{}}}}\n  EXPSTART:\n    start: x\n    {rest}\n"


def more(rest: str) -> str:
    """Line 4 and what follows it."""
    return LEAST + rest + "\n"


# Name: text, line, key, part of the problem.
MISTAKES: dict[str, tuple[str | bytes, int | None, str | None, str]] = {
    "empty": ("", 1, None, "the file is empty; expected a YAML file with the keys name, listen and on"),
    "a list": ("\n- a\n", 2, None, "the file is not a map"),
    "unknown bridge": (
        "name: a\non: {EXPINIT: {run: a}}\nbridges:\n  ocs:\n",
        4,
        "bridges.ocs",
        "unknown key 'ocs'; did you mean 'osc'?",
    ),
    "address of a bridge": (
        "name: a\non: {EXPINIT: {run: a}}\nbridges:\n  zmq: {pub: tcp://a}\n",
        4,
        "bridges.zmq.pub",
        "expected tcp://, an IP address and a port",
    ),
    "no YAML": ("name: [a\n", 2, None, "not valid YAML: "),
    "not UTF-8": (b"name: a\n# \xe9\n", 2, None, "the file is not UTF-8 text"),
    "too large": ("#" * (2**20 + 1), None, None, "the file is larger than 1,048,576 bytes"),
    "alias": ("name: &x a\nlisten: *x\n", 2, None, "aliases (*name) and tags (!name) are not supported"),
    "tag": ("name: !!str a\n", 1, None, "aliases (*name) and tags"),
    "deep": ("a: b\nc: " + "[" * 100_000, 2, "c" + "[0]" * 20, "nested more than 20 levels deep"),
    "key of a list": ("name: a\n[b]: c\n", 2, None, "a key must be text"),
    "key twice": ("name: a\nname: b\n", 2, "name", "this key is there twice, first in line 1"),
    "key twice within": ("on:\n  EXPINIT: {run: a,\n    run: b}\n", 3, "on.EXPINIT.run", "twice, first in line 2"),
    "unknown key": (
        more("lisen: a"),
        4,
        "lisen",
        "unknown key 'lisen'; did you mean 'listen'?; the keys here are name",
    ),
    "merge key": (more("<<: {lease: 3}"), 4, "<<", "unknown key '<<'"),
    "no name": ("\non: {EXPINIT: {run: a}}\n", 2, "name", "this key is missing: The name of the rig."),
    "no on": ("name: a\n", 1, "on", "this key is missing"),
    # The rig.
    "name empty": ("name: ''\non: {}\n", 1, "name", "as text that is not empty"),
    "name null": ("name: ~\non: {}\n", 1, "name", "the value is missing; expected text"),
    "name a map": ("name: {a: b}\non: {EXPINIT: {run: a}}\n", 1, "name", "expected text, not a map"),
    "name a list": ("name: [a]\non: {EXPINIT: {run: a}}\n", 1, "name", "expected text, not a list"),
    "name blank at the end": (LEAST.replace("cameras", "'a '"), 1, "name", "white space at its ends"),
    "name unprintable": (LEAST.replace("cameras", r'"a\x07"'), 1, "name", "cannot be printed"),
    "name surrogate": (LEAST.replace("cameras", r'"\ud800"'), 1, "name", "cannot be printed"),
    "name with a line end": (LEAST.replace("cameras", "'a\n\n  b'"), 1, "name", "without control characters"),
    "name long": (LEAST.replace("cameras", "a" * 101), 1, "name", "at most 100 characters, not 101"),
    "listen": (more("listen: http://a"), 4, "listen", "only udp://, tcp:// and mqtt:// are supported"),
    "listen port": (more("listen: a:99999"), 4, "listen", "the port is a number from 0 to 65535"),
    "listen a list": (more("listen: [a]"), 4, "listen", "expected text, not a list"),
    "main_sync": (more("main_sync: maybe"), 4, "main_sync", "expected true or false, not 'maybe'"),
    "main_sync a map": (more("main_sync: {}"), 4, "main_sync", "expected true or false, not a map"),
    "lease negative": (more("lease: -1"), 4, "lease", "expected a number of seconds (0 for never) from 0 to 604800"),
    "lease text": (more("lease: long"), 4, "lease", "not 'long'"),
    "lease quoted": (more("lease: '3oo'"), 4, "lease", "expected a number of seconds"),
    "lease absurd": (more("lease: 1e9"), 4, "lease", "from 0 to 604800, not '1e9'"),
    "lease infinite": (more("lease: 1e999"), 4, "lease", "not '1e999'"),
    "lease nan": (more("lease: .nan"), 4, "lease", "not '.nan'"),
    "lease boolean": (more("lease: yes"), 4, "lease", "not 'yes'"),
    "max_message with a unit": (
        more("max_message: 64 MiB"),
        4,
        "max_message",
        "expected a whole number of bytes from 65507 to 1073741824, not '64 MiB'",
    ),
    "max_message small": (more("max_message: 65506"), 4, "max_message", "from 65507 to 1073741824, not '65506'"),
    "max_message absurd": (more("max_message: 1073741825"), 4, "max_message", "not '1073741825'"),
    "max_message a fraction": (more("max_message: 70000.5"), 4, "max_message", "whole number"),
    "description": (more("experiment_description: a"), 4, "experiment_description", "expected a map"),
    "description long": (
        more(f"experiment_description: {{a: {'x' * LONGEST_DESCRIPTION}}}"),
        4,
        "experiment_description",
        "32,000 are the most",
    ),
    "description deep": (
        more("experiment_description: " + "{a: " * (DEEPEST + 1) + "b" + "}" * (DEEPEST + 1)),
        4,
        "experiment_description" + ".a" * DEEPEST,
        f"nested more than {DEEPEST} levels deep",
    ),
    # Variables.
    "variables a list": (more("variables: [a]"), 4, "variables", "expected a map"),
    "variable's name": (more("variables:\n  a-b: c"), 5, "variables.a-b", "letters, digits and _, not 'a-b'"),
    "variable a list": (more("variables:\n  a: [c]"), 5, "variables.a", "expected text, not a list"),
    "variable empty": (more("variables:\n  a:"), 5, "variables.a", "the value is missing"),
    "variable own": (more("variables:\n  exp_ref: c"), 5, "variables.exp_ref", "{exp_ref} has a meaning of its own"),
    "variable rig": (more("variables:\n  rig: c"), 5, "variables.rig", "{rig} has a meaning of its own"),
    "variable message": (more("variables:\n  message: c"), 5, "variables.message", "{message} has a meaning"),
    "variable later": (more("variables:\n  a: '{b}'\n  b: c"), 5, "variables.a", "unknown variable 'b'"),
    "variable itself": (more("variables:\n  a: '{a}'"), 5, "variables.a", "unknown variable 'a'"),
    "variable of a message": (more("variables:\n  a: '{exp_ref}'"), 5, "variables.a", "the variables here are rig;"),
    "too many": (
        more("variables:\n" + "".join(f"  a{i}: b\n" for i in range(MOST_ITEMS + 1))),
        4,
        "variables",
        f"at most {MOST_ITEMS}",
    ),
    # Messages.
    "on a list": ("name: a\non: [EXPINIT]\n", 2, "on", "expected a map"),
    "on empty": ("name: a\non: {}\n", 2, "on", "expected at least one of the keys EXPINIT, EXPSTART"),
    "unknown message": (
        on("{run: a}", "EXPSTRT"),
        3,
        "on.EXPSTRT",
        "unknown key 'EXPSTRT'; did you mean 'EXPSTART'?; the keys here are EXPINIT, EXPSTART, EXPEND, EXPINTERRUPT",
    ),
    "message in lower case": (on("{run: a}", "expinit"), 3, "on.expinit", "did you mean 'EXPINIT'?"),
    "EXPINFO": (on("{run: a}", "EXPINFO"), 3, "on.EXPINFO", "a rig answers this message by itself"),
    "ALYX": (on("{run: a}", "ALYX"), 3, "on.ALYX", "a rig answers this message by itself"),
    "message text": (on("python a.py"), 3, "on.EXPINIT", "expected a map"),
    "message list": (on("[{run: a}]"), 3, "on.EXPINIT", "expected a map, with one key and its value in each line, not"),
    "message empty": (on("{}"), 3, "on.EXPINIT", "expected at least one of the keys run, start"),
    "end empty": (on("{}", "EXPEND"), 3, "on.EXPEND", "expected at least one of the keys stop, run"),
    "unknown key of a message": (on("{rnu: a}"), 3, "on.EXPINIT.rnu", "unknown key 'rnu'; did you mean 'run'?"),
    # Commands.
    "command empty": (on("{run: ''}"), 3, "on.EXPINIT.run", "expected text that is not empty"),
    "command null": (on("{run: }"), 3, "on.EXPINIT.run", "the value is missing"),
    "command blank": (on("{run: ' '}"), 3, "on.EXPINIT.run", "expected text that is not empty"),
    "command quotes alone": (on("{run: \"''\"}"), 3, "on.EXPINIT.run", "there is no program in it"),
    "command a map": (
        on("{run: {a: b}}"),
        3,
        "on.EXPINIT.run",
        "as text in quotes or as a list of its words, not a map",
    ),
    "command no words": (on("{run: []}"), 3, "on.EXPINIT.run", "expected 1 to 200 items, not 0"),
    "command nested": (on("{run: [a, [b]]}"), 3, "on.EXPINIT.run[1]", "expected text, not a list"),
    "command second line": (
        "name: a\non:\n  EXPINIT:\n    run:\n    - a\n    - {}\n",
        6,
        "on.EXPINIT.run[1]",
        "not a map",
    ),
    "command word empty": (on("{run: [a, '']}"), 3, "on.EXPINIT.run[1]", "expected text that is not empty"),
    "command unprintable": (on(r'{run: "a\0b"}'), 3, "on.EXPINIT.run", r"\0, a null character"),
    "command long": (on(f"{{run: {'x' * 8001}}}"), 3, "on.EXPINIT.run", "at most 8,000 characters, not 8,001"),
    "quotes": (on('{run: "a \'b"}'), 3, "on.EXPINIT.run", 'no closing quotation in "a \'b"; close the quotes'),
    "brace": (on("{run: 'a {b'}"), 3, "on.EXPINIT.run", "a '{' without its counterpart in '{b'"),
    "brace back": (on("{run: 'a b}'}"), 3, "on.EXPINIT.run", "a '}' without its counterpart"),
    "brace twice": (on("{run: 'a {{{rig}}'}"), 3, "on.EXPINIT.run", "without its counterpart"),
    "brace empty": (on("{run: 'a {}'}"), 3, "on.EXPINIT.run", "unknown variable ''"),
    "unknown variable": (
        on("{run: 'a {exp_re}'}"),
        3,
        "on.EXPINIT.run",
        "unknown variable 'exp_re'; did you mean 'exp_ref'?; the variables here are rig, exp_ref, date, number, "
        "subject, session_path, bids, message.KEY",
    ),
    "variable with attribute": (on("{run: 'a {exp_ref.x}'}"), 3, "on.EXPINIT.run", "unknown variable 'exp_ref.x'"),
    "message alone": (on("{run: 'a {message}'}"), 3, "on.EXPINIT.run", "unknown variable 'message'"),
    "message key": (on("{run: [a, '{message.a b}']}"), 3, "on.EXPINIT.run", "unknown variable 'message.a b'"),
    "program from a message": (on("{run: '{message.x} a'}"), 3, "on.EXPINIT.run", "have a message choose the program"),
    "program half": (
        on("{run: 'a{subject}'}"),
        3,
        "on.EXPINIT.run",
        "{subject} would have a message choose the program",
    ),
    "code from a message": (
        on("{run: [python3, -c, 'print({message.n})']}"),
        3,
        "on.EXPINIT.run",
        "{message.n} would have a message write code, behind -c; hand it over as an argument of its own",
    ),
    "code behind options": (on("{run: 'julia -q -e f({subject})'}"), 3, "on.EXPINIT.run", "write code, behind -e"),
    "program of a shell": (on("{run: '{subject} a', shell: true}"), 3, "on.EXPINIT.run", "choose the program"),
    "program behind ;": (on("{run: 'cd x; {subject}', shell: yes}"), 3, "on.EXPINIT.run", "choose the program"),
    "program behind $(": (on("{run: 'a $( b{subject})', shell: yes}"), 3, "on.EXPINIT.run", "choose the program"),
    "pipe": (on("{run: 'a b | tee c'}"), 3, "on.EXPINIT.run", "'|' would be an argument of 'a'"),
    "redirection": (on("{run: 'a b > c'}"), 3, "on.EXPINIT.run", "'>' would be an argument of 'a'"),
    "redirection to": (on("{run: 'a 2>>{exp_ref}.log'}"), 3, "on.EXPINIT.run", "no shell reads this"),
    "redirection of errors": (on("{run: 'a 2>&1'}"), 3, "on.EXPINIT.run", "add `shell: true`"),
    "second command": (on("{run: 'a && b'}"), 3, "on.EXPINIT.run", "or write the command as a list"),
    "shell and list": (on("{run: [a, b], shell: true}"), 3, "on.EXPINIT.run", "a shell reads one line"),
    "shell": (on("{run: a, shell: bash}"), 3, "on.EXPINIT.shell", "expected true or false, not 'bash'"),
    "shell alone": (
        "name: a\non:\n  EXPEND: {stop: {}, shell: true}\n  EXPSTART: {start: x}\n",
        3,
        "on.EXPEND.shell",
        "this says more about run, which is missing",
    ),
    "timeout zero": (on("{run: a, timeout: 0}"), 3, "on.EXPINIT.timeout", "from 0.001 to 86400, not '0'"),
    "timeout negative": (on("{run: a, timeout: -5}"), 3, "on.EXPINIT.timeout", "not '-5'"),
    "timeout absurd": (on("{run: a, timeout: 86401}"), 3, "on.EXPINIT.timeout", "from 0.001 to 86400"),
    "timeout a list": (on("{run: a, timeout: [5]}"), 3, "on.EXPINIT.timeout", "not a list"),
    "timeout alone": (with_start("timeout: 5"), 6, "on.EXPSTART.timeout", "this says more about run"),
    "folder": (on("{run: a, folder: ../b}"), 3, "on.EXPINIT.folder", "'..' leads out of the folder"),
    # Start and stop.
    "start without stop": (on("{start: a}", "EXPSTART"), 3, "on.EXPSTART.start", "nothing stops what is started here"),
    "stop elsewhere only": (
        "name: a\non:\n  EXPSTART: {start: x}\n  EXPINTERRUPT: {stop: {}}\n",
        3,
        "on.EXPSTART.start",
        "nothing stops what is started here",
    ),
    "stop without start": (on("{stop: {}}", "EXPEND"), 3, "on.EXPEND.stop", "there is nothing to stop"),
    "stop in EXPINIT": (on("{stop: {}}"), 3, "on.EXPINIT.stop", "stop belongs to EXPEND, EXPINTERRUPT or EXPCLEANUP"),
    "stop in EXPSTART": (with_start("stop: {}"), 6, "on.EXPSTART.stop", "stop belongs to EXPEND"),
    "start in EXPEND": (on("{start: a}", "EXPEND"), 3, "on.EXPEND.start", "start and its keys belong to EXPINIT or"),
    "start in EXPCLEANUP": (on("{start: a}", "EXPCLEANUP"), 3, "on.EXPCLEANUP.start", "belong to EXPINIT or EXPSTART"),
    "ready in EXPEND": (on("{run: a, ready: {}}", "EXPEND"), 3, "on.EXPEND.ready", "belong to EXPINIT or EXPSTART"),
    "signal": (
        "name: a\non:\n  EXPSTART: {start: x}\n  EXPEND: {stop: {signal: SIGINT}}\n",
        4,
        "on.EXPEND.stop.signal",
        "expected one of interrupt, terminate, kill, not 'SIGINT'",
    ),
    "signal a list": (
        "name: a\non:\n  EXPSTART: {start: x}\n  EXPEND: {stop: {signal: [kill]}}\n",
        4,
        "on.EXPEND.stop.signal",
        "not a list",
    ),
    "stop text": (
        "name: a\non:\n  EXPSTART: {start: x}\n  EXPEND: {stop: interrupt}\n",
        4,
        "on.EXPEND.stop",
        "expected a map",
    ),
    "grace": (
        "name: a\non:\n  EXPSTART: {start: x}\n  EXPEND: {stop: {grace: -1}}\n",
        4,
        "on.EXPEND.stop.grace",
        "expected a number of seconds from 0 to 86400",
    ),
    "ready without start": (
        on("{run: a, ready: {file: b, within: 1}}"),
        3,
        "on.EXPINIT.ready",
        "this says more about start, which is missing",
    ),
    "ready without file": (with_start("ready: {within: 1}"), 6, "on.EXPSTART.ready.file", "this key is missing"),
    "ready without within": (with_start("ready: {file: a}"), 6, "on.EXPSTART.ready.within", "this key is missing"),
    "ready text": (with_start("ready: a"), 6, "on.EXPSTART.ready", "expected a map"),
    "ready escapes": (with_start("ready: {file: a/../../b, within: 1}"), 6, "on.EXPSTART.ready.file", "'..' leads out"),
    "good_exit alone": (on("{run: a, good_exit: [0]}"), 3, "on.EXPINIT.good_exit", "this says more about start"),
    "good_exit number": (with_start("good_exit: 0"), 6, "on.EXPSTART.good_exit", "expected a list"),
    "good_exit none": (with_start("good_exit: []"), 6, "on.EXPSTART.good_exit", "expected 1 to 200 items"),
    "good_exit signal": (
        with_start("good_exit: [SIGINT]"),
        6,
        "on.EXPSTART.good_exit[0]",
        "expected a whole number from 0 to 4294967295, not 'SIGINT'",
    ),
    "good_exit negative": (with_start("good_exit: [0, -2]"), 6, "on.EXPSTART.good_exit[1]", "expected a whole number"),
    "frames without start": (on("{run: a, frames: '(a)'}"), 3, "on.EXPINIT.frames", "this says more about start"),
    "frames bad": (with_start("frames: '(a'"), 6, "on.EXPSTART.frames", "not a regular expression: missing )"),
    "frames no group": (with_start("frames: 'a'"), 6, "on.EXPSTART.frames", "expected one group in parentheses"),
    "frames two groups": (with_start("frames: '(a)(b)'"), 6, "on.EXPSTART.frames", "not 2"),
    "frames repeat": (with_start("frames: '(a){99999999999}'"), 6, "on.EXPSTART.frames", "not a regular expression"),
    "frames nested set": (with_start("frames: '([[a])'"), 6, "on.EXPSTART.frames", "not a regular expression"),
    "frames deep": (with_start(f"frames: '{'(?:' * 160}'"), 6, "on.EXPSTART.frames", "not a regular expression"),
    "frames slow": (
        with_start("frames: '(?:(a+)+)b'"),
        6,
        "on.EXPSTART.frames",
        "some line may take so long that the rig answers nothing: a repeat or alternatives are within a repeat",
    ),
    "frames long": (with_start(f"frames: '(a){'b' * 500}'"), 6, "on.EXPSTART.frames", "at most 500 characters"),
    # What has to be there.
    "require empty": (
        more("require: {}"),
        4,
        "require",
        "expected at least one of the keys free_disk, files, programs",
    ),
    "require a list": (more("require: [a]"), 4, "require", "expected a map"),
    "files text": (more("require: {files: a}"), 4, "require.files", "expected a list, such as [one, two], not 'a'"),
    "files without quotes": (more("require: {files: [{data}]}"), 4, "require.files[0]", "put quotes around text that"),
    "files empty": (more("require: {files: []}"), 4, "require.files", "expected 1 to 200 items, not 0"),
    "files escape": (more("require:\n  files:\n  - a\n  - b/../c"), 7, "require.files[1]", "'..' leads out"),
    "files escape on Windows": (more(r"require: {files: ['a\..\c']}"), 4, "require.files[0]", "'..' leads out"),
    "files escape by a variable": (
        more("variables: {up: '..'}\nrequire: {files: ['a/{up}/c']}"),
        5,
        "require.files[0]",
        "'..' leads out of the folder in 'a/../c'",
    ),
    "files escape by two": (
        more("variables: {dot: '.'}\nrequire: {files: ['a/{dot}{dot}/c']}"),
        5,
        "require.files[0]",
        "'..' leads out",
    ),
    "files on a drive": (more("require: {files: ['D:data']}"), 4, "require.files[0]", "write D:/ instead"),
    "files of a user": (
        more("require: {files: ['~/data']}"),
        4,
        "require.files[0]",
        "~ does not stand for your folder",
    ),
    "files with a line end": (more("require: {files: ['a\n\n b']}"), 4, "require.files[0]", "cannot be printed"),
    "programs": (more("require: {programs: ['{subject}']}"), 4, "require.programs[0]", "unknown variable 'subject'"),
    "disk without path": (more("require: {free_disk: {at_least: 1 GB}}"), 4, "require.free_disk.path", "is missing"),
    "disk without size": (more("require: {free_disk: {path: a}}"), 4, "require.free_disk.at_least", "is missing"),
    "disk escapes": (
        more("require: {free_disk: {path: .., at_least: 1 GB}}"),
        4,
        "require.free_disk.path",
        "'..' leads out",
    ),
    **{
        f"size {size}": (
            more(f"require: {{free_disk: {{path: a, at_least: {size}}}}}"),
            4,
            "require.free_disk.at_least",
            "expected",
        )
        for size in (
            "20",
            "20 Gb",
            "-1 GB",
            "GB",
            "1e3 GB",
            "0 GB",
            "0.1 B",
            "1001 PB",
            "[1 GB]",
            "1 GB free",
            "nan GB",
        )
    },
    "verify without files": (more("verify: {growing_within: 5}"), 4, "verify.files", "this key is missing"),
    "verify without time": (more("verify: {files: a}"), 4, "verify.growing_within", "this key is missing"),
    "verify escapes": (more("verify: {files: '../*', growing_within: 5}"), 4, "verify.files", "'..' leads out"),
    "verify time": (more("verify: {files: a, growing_within: never}"), 4, "verify.growing_within", "not 'never'"),
    "verify settled": (
        more("verify: {files: a, growing_within: 1, settled_within: 0}"),
        4,
        "verify.settled_within",
        "expected a number of seconds from 0.001",
    ),
    "verify segments": (
        more("verify: {files: a, growing_within: 1, segments: 2}"),
        4,
        "verify.segments",
        "expected true or false",
    ),
    "existing": (more("existing: append"), 4, "existing", "expected one of refuse, keep, overwrite, not 'append'"),
    "finish without steps": (more("finish: {at_once: 2}"), 4, "finish.steps", "this key is missing"),
    "finish of nothing": (more("finish: {steps: []}"), 4, "finish.steps", "expected 1 to"),
    "finish step": (more("finish:\n  steps:\n    - {timeout: 5}"), 6, "finish.steps[0].run", "this key is missing"),
    "finish starts": (more("finish: {steps: [{start: a}]}"), 4, "finish.steps[0].start", "unknown key 'start'"),
    "finish variable": (
        more("finish: {steps: [{run: 'a {ref}'}]}"),
        4,
        "finish.steps[0].run",
        "unknown variable 'ref'",
    ),
    "finish percent": (more("finish: {steps: [{run: a, percent: x}]}"), 4, "finish.steps[0].percent", "one group"),
    "finish slow": (more("finish: {steps: [{run: a, percent: '(a+)+'}]}"), 4, "finish.steps[0].percent", "so long"),
    "finish at once": (more("finish: {steps: [{run: a}], at_once: 0}"), 4, "finish.at_once", "from 1 to 16"),
    "finish after": (more("finish: {steps: [{run: a}], after: [stop]}"), 4, "finish.after[0]", "end, interrupt"),
    "finish meanwhile": (
        more("finish: {steps: [{run: a}], while_recording: stop}"),
        4,
        "finish.while_recording",
        "expected one of wait, go on",
    ),
    "finish queue": (more("finish: {steps: [{run: a}], queue: '{exp_ref}'}"), 4, "finish.queue", "unknown variable"),
    "logs escape": (more("logs: {folder: a/..}"), 4, "logs.folder", "'..' leads out"),
    "logs of a session": (more("logs: {folder: 'a/{exp_ref}'}"), 4, "logs.folder", "unknown variable 'exp_ref'"),
    "logs keep": (more("logs: {keep: 0}"), 4, "logs.keep", "expected a whole number of sessions from 1 to 100000"),
    "logs keep half": (more("logs: {keep: 1.5}"), 4, "logs.keep", "expected a whole number"),
    "logs size": (more("logs: {max_size: 1 kB}"), 4, "logs.max_size", "expected 10,000 bytes or more"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_with_file_line_and_key(write: Callable[..., Path], case: str) -> None:
    text, line, key, problem = MISTAKES[case]
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        read_agent_file(path)
    (error,) = (error for error in caught.value.errors if problem in error.problem)
    assert (error.file, error.line, error.key) == (str(path), line, key)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path, problem in ((tmp_path / "gone.yaml", "cannot be read"), (tmp_path, "this is a folder")):
        with pytest.raises(ConfigError, match=problem) as caught:
            read_agent_file(path)
        assert caught.value.file == str(path)


def test_a_colon_is_let_into_paths_where_the_system_lets_it(write: Callable[..., Path]) -> None:
    text = LEAST + "require: {files: ['/data/12:30']}\n"
    assert read_agent_file(write(text), "linux").require
    with pytest.raises(ConfigError, match="there is a colon in") as caught:
        read_agent_file(write(text), "win32")
    assert (caught.value.line, caught.value.key) == (4, "require.files[0]")


@pytest.mark.parametrize("line", [r"C:\x\ffmpeg.exe", "..\\tool.exe", "./tool.exe", "../tool.exe {exp_ref}"])
def test_a_command_may_lie_anywhere(write: Callable[..., Path], line: str) -> None:
    assert read_agent_file(write(on(f"{{run: '{line}'}}")), "win32").on[INIT].run


def mutations() -> st.SearchStrategy[str]:
    """Pieces of good files, in any order, with anything between."""
    pieces = re.findall(r"[\w./]+|\s+|.", EXAMPLE + FULL)
    return st.lists(st.sampled_from(pieces) | st.text(max_size=3), max_size=60).map("".join)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_file_or_a_config_error(write: Callable[..., Path], content: bytes) -> None:
    check_anything(write(content))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(text=mutations())
def test_any_pieces_are_a_file_or_a_config_error(write: Callable[..., Path], text: str) -> None:
    check_anything(write(text.encode("utf-8", "surrogatepass")))


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(text=documents(), platform=st.sampled_from(["linux", "win32"]))
def test_any_value_at_any_key_is_read_or_a_config_error(write: Callable[..., Path], text: str, platform: str) -> None:
    check_anything(write(text), platform)


def check_anything(path: Path, platform: str = "linux") -> None:
    for read in (lambda: read_agent_file(path, platform), lambda: is_agent_file(path)):
        try:
            read()
        except ConfigError as error:
            assert error.file == str(path)  # noqa: PT017 - either way is right
            assert error.key is None or error.line  # noqa: PT017 - likewise


# ------------------------------------------------------------------------------------------- which file it is


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EXAMPLE, True),
        (LEAST, True),
        ("on: {}\nname: a", True),
        ("name: a\nlisten: udp://a\n", True),
        ("name: [a\non: {x\n", True),
        ("rigs:\n  cameras: a\nname: x\non: {}\n", False),
        ("cameras: 192.168.1.20\n", False),
        ("name: 192.168.1.20\n", False),
        ("timing: {}\nrigs: {}\n", False),
        ("rigs: {a: [\n", False),
        ("", False),
        ("- a", False),
    ],
)
def test_which_files_are_an_agents(write: Callable[..., Path], text: str, expected: bool) -> None:
    assert is_agent_file(write(text)) is expected


def test_a_file_that_cannot_be_read_is_no_file_of_either_sort(tmp_path: Path, write: Callable[..., Path]) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path, write(b"name: \xff")):
        with pytest.raises(ConfigError) as caught:
            is_agent_file(path)
        assert caught.value.file == str(path)


# ------------------------------------------------------------------------------------------------- several files


def several(write: Callable[..., Path], *pairs: tuple[str, str]) -> list[AgentFile]:
    texts = (f"listen: {listen}\n\n{LEAST.replace('cameras', name)}" for name, listen in pairs)
    return [read_agent_file(write(text, f"{index}.yaml")) for index, text in enumerate(texts)]


def test_agents_that_differ(write: Callable[..., Path]) -> None:
    check_distinct_agents(
        several(
            write,
            ("a", "127.0.0.1:11001"),
            ("b", "127.0.0.1:11002"),
            ("c", "tcp://127.0.0.1:11001"),
            ("d", "127.0.0.2:11001"),
            ("e", "0.0.0.0:11003"),
            ("f", "127.0.0.1:0"),
            ("g", "127.0.0.1:0"),
        )
    )
    check_distinct_agents([])


@pytest.mark.parametrize(
    ("first", "second", "line", "key", "problem"),
    [
        (("a", "127.0.0.1:1"), ("a", "127.0.0.1:2"), 3, "name", "two rigs have the name 'a'; the other stands in"),
        (("a", "127.0.0.1"), ("b", "udp://127.0.0.1:11001"), 1, "listen", "a in "),
        (("a", "0.0.0.0"), ("b", "127.0.0.1"), 1, "listen", "listens at udp://0.0.0.0:11001 already"),
        (("a", "127.0.0.1"), ("b", "'[::]:11001'"), 1, "listen", "listens at udp://127.0.0.1:11001 already"),
        (("a", "ws://HOST:5"), ("b", "tcp://host:5"), 1, "listen", "listens at tcp://host:5 already"),
    ],
)
def test_agents_that_clash(
    write: Callable[..., Path], first: tuple[str, str], second: tuple[str, str], line: int, key: str, problem: str
) -> None:
    files = several(write, ("z", "127.0.0.9:9"), first, second)
    with pytest.raises(ConfigError) as caught:
        check_distinct_agents(files)
    assert problem in caught.value.problem
    assert (caught.value.file, caught.value.line, caught.value.key) == (files[2].source, line, key)


def test_what_is_done_after_a_session(write: Callable[..., Path]) -> None:
    path = write(FULL)
    file = read_agent_file(path)
    assert file.finish
    copying, done = file.finish.steps
    assert words(copying.command) == ["cp", "-r", "/data/raw/{x}/{exp_ref}", "/nas/raw"]
    assert (copying.timeout, copying.percent and copying.percent.pattern) == (9000, r"(\d+)%")
    assert (done.command.shell, done.timeout, done.percent) == (True, 21_600, None)
    assert (file.finish.after, file.finish.at_once, file.finish.while_recording) == (("end",), 2, "go on")
    assert str(file.queue_folder) == "/data/queue"
    least = read_agent_file(write(LEAST + "finish: {steps: [{run: a}]}\n"))
    assert least.finish
    assert (least.finish.after, least.finish.at_once, least.finish.while_recording) == (("end", "interrupt"), 1, "wait")
    assert least.queue_folder == path.parent / "finish" / "cameras"
    assert [command.program for command in least.commands()] == ["date", "a"]


def test_good_exit_is_a_list_of_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(with_start("good_exit: [0, 130, 3221225786]"))
    start = read_agent_file(path).on[START].start
    assert start is not None
    assert start.good_exit == (0, 130, 3221225786)
