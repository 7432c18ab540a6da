"""What a message may put into a command or a path, and what it may not."""

from __future__ import annotations

import fnmatch
import posixpath
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rigsync.agent.template import LONGEST_VALUE, MESSAGE, SubstitutionError, Template, Use, is_shell_safe
from rigsync.errors import ConfigError

KNOWN = ("exp_ref", "subject", MESSAGE)

HARMLESS = [
    "mouse",
    "2026-01-31_1_mouse",
    "a b",
    " a",
    "it's",
    'say "hi"',
    "a;b",
    "$(reboot)",
    "`reboot`",
    "${HOME}",
    "%PATH%",
    "a&b|c",
    "*",
    "[a]?",
    "{exp_ref}",
    "{{",
    "~",
    ".hidden",
    "a..b",
    "...a",
    "console",
    "CONsole.txt",
    "com10",
    "é",
    "小鼠",
    "a-b",
    "@file",
    "x" * LONGEST_VALUE,
]
"""What is a part of one word like any other, where no shell reads it."""

# Value, and part of the reason.
HARMFUL = [
    ("", "is empty"),
    ("/etc/passwd", "a slash"),
    ("a/b", "a slash"),
    ("../a", "a slash"),
    ("..\\a", "a backslash"),
    ("\\\\server\\share", "a backslash"),
    ("C:", "a colon"),
    ("left.mp4:stream", "a colon"),
    (".", "stands for a folder"),
    ("..", "stands for a folder"),
    ("a.", "ends in a dot"),
    ("...", "ends in a dot"),
    ("a ", "ends in a dot or a blank"),
    ("a\nb", "cannot be printed"),
    ("a\r", "cannot be printed"),
    ("a\0b", "cannot be printed"),
    ("\x1b[2J", "cannot be printed"),
    ("a\tb", "cannot be printed"),
    ("a\u2028b", "cannot be printed"),
    ("a\u202eb", "cannot be printed"),
    ("\ud800", "cannot be printed"),
    ("\udc2f", "cannot be printed"),
    ("CON", "a device on Windows"),
    ("nul", "a device on Windows"),
    ("Aux.txt", "a device on Windows"),
    ("prn .tar.gz", "a device on Windows"),
    ("COM1", "a device on Windows"),
    ("lpt9.mp4", "a device on Windows"),
    ("com\u00b9", "a device on Windows"),
    ("CONIN$", "a device on Windows"),
    ("x" * (LONGEST_VALUE + 1), "1,001 characters"),
    # What becomes one of these where a program's code page lacks it.
    ("a\uff0fb", "a slash"),
    ("a\uff3cb", "a backslash"),
    ("a\u00a5b", "a backslash"),
    ("C\uff1a", "a colon"),
    ("\u2025", "stands for a folder"),
    ("\uff0e\uff0e", "stands for a folder"),
    ("a\u2026", "ends in a dot"),
    ("\uff23\uff2f\uff2e", "a device on Windows"),
]


def filled(text: str, value: str, use: Use = Use.ARGUMENT) -> str:
    return Template.parse(text, KNOWN, use=use).fill({"message.x": value})


# ---------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{exp_ref}", "E"),
        ("a{exp_ref}b{subject}", "aEbS"),
        ("{message.my-key_1}", "M"),
        ("{data}/{exp_ref}", "/d/E"),
        ("{{exp_ref}}", "{exp_ref}"),
        ("{{{exp_ref}}}", "{E}"),
        ("{{}}{{", "{}{"),
    ],
)
def test_filling(text: str, expected: str) -> None:
    template = Template.parse(text, KNOWN, {"data": "/d"})
    assert template.fill({"exp_ref": "E", "subject": "S", "message.my-key_1": "M"}) == expected


def test_what_is_known_at_run_time_only() -> None:
    template = Template.parse("{data}/{exp_ref}/{message.x}", KNOWN, {"data": "/d"})
    assert template.variables == {"exp_ref", "message.x"}
    assert str(template) == "/d/{exp_ref}/{message.x}"


@pytest.mark.parametrize("text", ["{", "}", "a{b", "a}b", "{{}", "{}}", "{a{b}}", "{exp_ref"])
def test_braces_come_in_pairs(text: str) -> None:
    with pytest.raises(ConfigError, match=r"without its counterpart|unknown variable"):
        Template.parse(text, KNOWN)


@pytest.mark.parametrize(
    "name",
    ["x", "", " exp_ref", "exp_ref ", "EXP_REF", "message", "message.", "message.a.b", "message.é", "exp_ref.x", "0"],
)
def test_unknown_variables(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown variable .*the variables here are data, exp_ref, subject, message"):
        Template.parse(f"a{{{name}}}", KNOWN, {"data": "d"})


def test_without_messages_there_is_no_variable_of_one() -> None:
    with pytest.raises(ConfigError, match=r"the variables here are \(none\)"):
        Template.parse("{message.x}", ())


def test_a_close_match_is_told() -> None:
    with pytest.raises(ConfigError, match="did you mean 'subject'"):
        Template.parse("{subjekt}", KNOWN)


def test_a_missing_value() -> None:
    with pytest.raises(SubstitutionError, match=r"there is no value for \{subject\}"):
        Template.parse("{subject}", KNOWN).fill({})


# ------------------------------------------------------------------------------------------------ one word, one path


@pytest.mark.parametrize("value", HARMLESS)
def test_a_harmless_value_is_a_part_of_the_word(value: str) -> None:
    assert filled("a{message.x}", value) == f"a{value}"
    assert filled("/data/{message.x}/left.mp4", value) == f"/data/{value}/left.mp4"


@pytest.mark.parametrize("use", Use)
@pytest.mark.parametrize(("value", "why"), HARMFUL)
def test_a_harmful_value_is_refused_by_name(value: str, why: str, use: Use) -> None:
    with pytest.raises(SubstitutionError, match=re.escape(why)) as caught:
        filled("a{message.x}", value, use)
    text = str(caught.value)
    assert "{message.x}" in text
    assert repr(value)[:30] in text
    assert len(text) < 300
    assert text.isprintable()


@pytest.mark.parametrize("value", ["-rf", "--output=x", "-", "\uff0drf"])
def test_a_value_that_would_be_an_option(value: str) -> None:
    with pytest.raises(SubstitutionError, match="taken for an option"):
        filled("{message.x}", value)
    assert filled("--session={message.x}", value) == f"--session={value}"


@pytest.mark.parametrize(
    ("text", "value"), [("C{message.x}", "ON"), ("a/{message.x}UL.txt", "N"), ("/d/{message.x}1", "COM")]
)
def test_a_name_that_becomes_a_device_with_what_stands_beside_it(text: str, value: str) -> None:
    with pytest.raises(SubstitutionError, match="a device on Windows"):
        filled(text, value)


@settings(max_examples=1000, deadline=None)
@given(value=st.text(max_size=12) | st.text("./\\:~ -aCONul$;'\"\n*", max_size=8))
@example("..")
def test_no_value_leads_out_of_its_folder(value: str) -> None:
    for text in (
        "/data/{message.x}",
        "/data/{message.x}/left.mp4",
        "/data/.{message.x}",
        "/data/{message.x}{message.x}",
    ):
        try:
            path = filled(text, value)
        except SubstitutionError:
            continue
        assert posixpath.normpath(path) == path
        assert path.startswith("/data/")
        assert re.split(r"[/\\]", path).count("..") == 0
        assert len(re.split(r"[/\\]", path)) == len(re.split(r"[/\\]", text))


@settings(max_examples=500, deadline=None)
@given(value=st.text(max_size=12) | st.text("*?[]!-ab.", min_size=1, max_size=6))
def test_in_a_pattern_a_value_stands_for_itself(value: str) -> None:
    try:
        pattern = filled("x{message.x}/*.mp4", value, Use.GLOB)
    except SubstitutionError:
        return
    folder = pattern.rpartition("/")[0]
    assert fnmatch.fnmatchcase(f"x{value}", folder)
    for other in ("xab", f"x{value}a", "x" + value[1:]):
        assert fnmatch.fnmatchcase(other, folder) == (other == f"x{value}")


def test_a_program_gets_the_very_word() -> None:
    program = "import sys; sys.stdout.buffer.write(ascii(sys.argv[1:]).encode())"
    for value in HARMLESS:
        words = [sys.executable, "-c", program, filled("x={message.x}", value)]
        done = subprocess.run(words, capture_output=True, check=True, timeout=60)
        assert done.stdout.decode() == ascii([f"x={value}"])


# ---------------------------------------------------------------------------------------------------------- shells


@pytest.mark.parametrize("value", ["mouse", "2026-01-31_1_mouse", "a.b", "a+b@c=d", "_", "1", "A"])
def test_what_is_let_into_a_line_for_a_shell(value: str) -> None:
    assert is_shell_safe(value)
    assert filled("echo {message.x}", value, Use.SHELL) == f"echo {value}"


MEANT_FOR_SHELLS = ";$'\"`&|<>(){}!^%#~*?[]\\\n\r\t, "
"""Characters that mean something to sh, to cmd or to both."""


@pytest.mark.parametrize(
    "value", ["$(reboot)", "`a`", "$HOME", "%PATH%", "-a", "é", "\u0663", "", *(f"a{c}b" for c in MEANT_FOR_SHELLS)]
)
def test_what_is_not(value: str) -> None:
    assert not is_shell_safe(value)
    with pytest.raises(SubstitutionError, match=r"\{message.x\}"):
        filled("echo a{message.x}", value, Use.SHELL)


@settings(max_examples=1000, deadline=None)
@given(value=st.text(min_size=1, max_size=8) | st.text("ab-_.+@= ;$'\"`&|<>(){}!^%#~*?[]\\\n", min_size=1, max_size=5))
def test_to_a_shell_a_value_is_one_word_without_meaning(value: str) -> None:
    if not is_shell_safe(value):
        return
    assert shlex.split(filled("echo {message.x} end", value, Use.SHELL)) == ["echo", value, "end"]
    assert shlex.quote(value) == value
    assert not set(value) & set(MEANT_FOR_SHELLS)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sh")
def test_a_shell_reads_the_very_value(tmp_path: Path) -> None:
    for value in ("mouse", "a=b", "@x", "+e", "_.-", "a.b"):
        line = filled("printf %s {message.x}", value, Use.SHELL)
        done = subprocess.run(["sh", "-c", line], capture_output=True, check=True, cwd=tmp_path, timeout=60)
        assert done.stdout.decode() == value
