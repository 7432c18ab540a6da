"""The commands of an agent's file: how they become words, and which are refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from itertools import pairwise

from rigsync._text import shortened
from rigsync.agent.template import FILE, Template, Use, Variable
from rigsync.errors import ConfigError

_INTERPRETER = re.compile(
    r"(?:(?:python|pypy|lua|php|ruby|perl)[w\d.]*|node|deno|bun|R|Rscript|julia|matlab|octave)(?:\.exe)?", re.IGNORECASE
)
_CODE_FOLLOWS = frozenset({"-c", "-e", "-E", "-r", "-p", "-pe", "-ne", "-batch", "--eval", "--print", "--execute"})
# Programs that read words as a shell does. For them a value is not safe just because it is one word.
_SHELL = re.compile(r"(?:sh|bash|dash|zsh|ksh|csh|tcsh|fish|busybox|cmd|powershell|pwsh|ssh|wsl|su)(?:\.exe)?")
_BATCH = re.compile(r"\.(?:bat|cmd)[. ]*$", re.IGNORECASE)
_PROGRAM_FOLLOWS = re.compile(r"(?:^|[;&|(`\n])\s*[^\s;&|(`]*$")
_OPERATOR = re.compile(r"\|\|?|&&?|;|<|(?:&|\d*)>>?(?:&?\d|[\w./{]\S*)?")
"""Pipes and the like, if they are words of their own. Within quotes, beside other text, they are left alone."""


def read_words(
    line: str | tuple[str, ...], shell: bool, template: Callable[..., Template], windows: bool
) -> tuple[Template, ...]:
    """Return the words of a command; for a shell one, the whole line. On Windows a backslash is a backslash.

    Raises
    ------
    ConfigError
        It is refused; the text says why.
    """
    if shell and isinstance(line, tuple):
        raise ConfigError("a shell reads one line; write the command as text, not as a list")
    if isinstance(line, str) and shell:
        words = [template(line.strip(), use=Use.SHELL)]
    else:
        if isinstance(line, str):
            line = tuple(_split(line, windows))
            _check_no_shell_is_meant(line)
        words = [template(word) for word in line]
        if any(_reads_as_shell(str(word)) for word in words):
            words = [Template(word.parts, Use.SHELL) for word in words]
    if not str(words[0]).strip():
        raise ConfigError("there is no program in it")
    if words[0].use is Use.SHELL and any(FILE in word.variables for word in words):
        raise ConfigError(
            "a shell would read {file}, and a file's name may mean something to it; write the program itself that looks"
            " at the file, without shell, sh, cmd or a batch file"
        )
    _check_program(words[0], shell)
    if not shell:
        _check_code(words)
    return tuple(words)


def _split(line: str, windows: bool) -> list[str]:
    words = shlex.shlex(line, posix=True, punctuation_chars=False)
    words.whitespace_split = True
    words.commenters = ""
    if windows:
        words.escape = ""
    try:
        return list(words)
    except ValueError as error:
        raise ConfigError(
            f"{str(error)[:1].lower()}{str(error)[1:]} in {shortened(line, 80)}; close the quotes, or write the "
            "command as a list of words"
        ) from error


def _reads_as_shell(word: str) -> bool:
    """Whether a word names a shell, or a batch file, whose arguments cmd reads anew on Windows."""
    name = re.split(r"[/\\]", word)[-1].lower()
    return bool(_SHELL.fullmatch(name) or _BATCH.search(name))


def _check_code(words: Sequence[Template]) -> None:
    """Check that no message writes code behind an interpreter's ``-c`` or the like."""
    if not _INTERPRETER.fullmatch(re.split(r"[/\\]", str(words[0]))[-1]):
        return
    for flag, word in pairwise(words[1:]):
        if "." in str(flag) or "/" in str(flag):
            return  # the script; further words are its arguments
        if str(flag) in _CODE_FOLLOWS and word.variables:
            raise ConfigError(
                f"{{{min(word.variables)}}} would have a message write code, behind {flag}; hand it over as an argument"
                " of its own, or read it from the environment, where it is RIGSYNC_..."
            )


def _check_program(line: Template, shell: bool) -> None:
    """Check that no message chooses the program: neither the first word nor, in a shell, a word behind ``;``."""
    before = ""
    for part in line.parts:
        if isinstance(part, Variable) and (not shell or _PROGRAM_FOLLOWS.search(before)):
            raise ConfigError(f"{part} would have a message choose the program; write out which it is")
        before += str(part)


def _check_no_shell_is_meant(words: Sequence[str]) -> None:
    """Check that a line has nothing that only a shell understands."""
    for word in words[1:]:
        if _OPERATOR.fullmatch(word):
            raise ConfigError(
                f"{word!r} would be an argument of {words[0]!r}, for no shell reads this; "
                "add `shell: true` if one is to read it, or write the command as a list"
            )
