"""Text with variables in braces, and what a message may put into it.

A value from outside fills one place in one word. It is never split, and never leads a path elsewhere. If a shell reads
the word, the value has no character that means anything to a shell.
"""

from __future__ import annotations

import enum
import glob
import os
import re
import sys
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from rigsync._text import close_match, shortened
from rigsync.core.session_paths import DEVICE, PATHS
from rigsync.errors import ConfigError, RigsyncError

PARTS = ("exp_ref", "date", "number", "subject")
"""The variables for the reference of the experiment, and its parts."""
OF_THE_SESSION = (*PARTS, *PATHS)
"""All variables that come from the reference of the experiment."""
MESSAGE = "message"
"""``{message.KEY}`` is the value of KEY in the message's data, known at run time only."""
FILE = "file"
"""In ``validate``, the absolute path of a finished file. So it begins with no ``-``; no shell may read it."""

LONGEST_VALUE = 1000
"""Most characters of a value from a message: several times a file name's 255, and far less than a command line can
hold."""

_NOT_PRINTABLE = "has a character in it that cannot be printed"
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SEPARATORS = re.compile(r"[/\\]")
_OF_A_PATH = {"/": "a slash", "\\": "a backslash", ":": "a colon"}
_AS_BACKSLASHES = str.maketrans("\u00a5\u20a9", "\\\\")  # the yen and the won sign, on Windows in Japan and Korea
_SHELL_SAFE = re.compile(r"[A-Za-z0-9_.+@=][A-Za-z0-9_.+@=-]*", re.ASCII)


class SubstitutionError(RigsyncError, ValueError):
    """A value of a message is not allowed in a command or path; the text names the variable and the reason."""


class Use(enum.Enum):
    """What a template's text is for. The allowed values depend on it."""

    ARGUMENT = "argument"
    """One word of a command that no shell reads, or a path."""
    SHELL = "shell"
    """A line that a shell reads."""
    GLOB = "glob"
    """A pattern of file names. Values in it stand for themselves."""


class Source(Protocol):
    def __getitem__(self, name: str, /) -> str:
        """Return the value of a variable; raise `KeyError` or `SubstitutionError` if there is none."""


@dataclass(frozen=True, slots=True)
class Variable:
    name: str

    def __str__(self) -> str:
        return f"{{{self.name}}}"


@dataclass(frozen=True, slots=True)
class Template:
    """Text with places for values; made by `parse`."""

    parts: tuple[str | Variable, ...]
    use: Use = Use.ARGUMENT

    @classmethod
    def parse(
        cls,
        text: str,
        known: Collection[str],
        constants: Mapping[str, str] | None = None,
        use: Use = Use.ARGUMENT,
    ) -> Template:
        """Read ``{name}`` as the place of a variable, and ``{{`` and ``}}`` as braces.

        The values of `known` variables come at run time; with `MESSAGE` among them, ``{message.KEY}`` is one too. The
        values of `constants` are known now, and become part of the text.

        Raises
        ------
        ConfigError
            A brace without its counterpart, an unknown variable, or a character that this program cannot write into
            a file name; without file, line and key.
        """
        constants = constants or {}
        parts: list[str | Variable] = []
        end = 0
        for token in _TOKEN.finditer(text):
            parts.append(text[end : token.start()])
            end = token.end()
            name = token[1]
            if name is None:
                if len(token[0]) == 1:
                    raise ConfigError(
                        f"a {token[0]!r} without its counterpart in {shortened(text, 80)}; variables are written "
                        "{name}, and braces themselves {{ and }}"
                    )
                parts.append(token[0][0])
            elif name in constants:
                parts.append(glob.escape(constants[name]) if use is Use.GLOB else constants[name])
            else:
                parts.append(_variable(name, known, constants))
        template = cls(_joined([*parts, text[end:]]), use)
        if why := _beyond_the_locale(str(template)):
            raise ConfigError(f"{str(template)[:80]!a} {why}")
        return template

    @property
    def variables(self) -> frozenset[str]:
        """The variables that are known at run time only."""
        return frozenset(part.name for part in self.parts if isinstance(part, Variable))

    def fill(self, values: Source) -> str:
        """Return the text with every value in its place; raise `SubstitutionError` if a value may not be."""
        written = ""
        plain = [""]  # the folders and the file of a path
        touched = {}  # by position in `plain`: the variable that is in it
        for part in self.parts:
            if isinstance(part, str):
                written += part
                first, *others = _SEPARATORS.split(part)
                plain[-1] += first
                plain += others
                continue
            value = _looked_up(part.name, values)
            if part.name == FILE:
                why = None if value.isprintable() else _NOT_PRINTABLE
            else:
                why = _objection_to(part.name, value, self.use, at_beginning=not written)
            if why:
                raise refused(part.name, value, why)
            written += glob.escape(value) if self.use is Use.GLOB else value
            first, *others = value.split("/") if part.name in PATHS else [value]
            plain[-1] += first
            touched[len(plain) - 1] = part.name
            for name in others:
                plain.append(name)
                touched[len(plain) - 1] = part.name
        for position, name in touched.items():
            # A value may form such a name together with the text beside it. A line for a shell does not consist of
            # names.
            if self.use is not Use.SHELL and (why := _objection_to_name(plain[position])):
                raise refused(name, plain[position], why)
        return written

    def __str__(self) -> str:
        return "".join(map(str, self.parts))


def is_shell_safe(value: str, name: str = "") -> bool:
    """Return whether a shell can read the value of a variable as nothing but a word."""
    return _objection_to(name, value, Use.SHELL) is None


def refused(name: str, value: object, why: str) -> SubstitutionError:
    return SubstitutionError(f"the value {shortened(value)} of {{{name}}} {why}; nothing was run with it")


def _variable(name: str, known: Collection[str], constants: Mapping[str, str]) -> Variable:
    prefix, _, key = name.partition(".")
    if MESSAGE in known and prefix == MESSAGE and _KEY.fullmatch(key):
        return Variable(name)
    if name in known and name != MESSAGE:
        return Variable(name)
    names = [*constants, *(other for other in known if other != MESSAGE)]
    shown = [*names, f"{MESSAGE}.KEY for what the message's data have by that name"] if MESSAGE in known else names
    raise ConfigError(
        f"unknown variable {shortened(name)}{close_match(name, names)}; the variables here are "
        f"{', '.join(shown) or '(none)'}; braces themselves are written {{{{ and }}}}"
    )


def _joined(parts: list[str | Variable]) -> tuple[str | Variable, ...]:
    """Join neighbouring pieces of text, and leave out empty ones."""
    joined: list[str | Variable] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)


def _looked_up(name: str, values: Source) -> str:
    try:
        return values[name]
    except KeyError:
        raise SubstitutionError(f"there is no value for {{{name}}}; nothing was run") from None


def _objection_to(name: str, value: str, use: Use, at_beginning: bool = False) -> str | None:
    """Return why the value of a variable must not be put into a text; that of a folder has several names."""
    if name not in PATHS:
        return _objection(value, use, at_beginning)
    first, *others = value.split("/")
    whys = [_objection(first, use, at_beginning), *(_objection(other, use) for other in others)]
    return next((why for why in whys if why), None)


def _objection(value: str, use: Use, at_beginning: bool = False) -> str | None:
    """Return why a value must not be put into a text; None if it may."""
    if not value:
        return "is empty"
    if len(value) > LONGEST_VALUE:
        return f"has {len(value):,} characters, and {LONGEST_VALUE:,} are the most"
    if not value.isprintable():
        return _NOT_PRINTABLE
    if why := _beyond_the_locale(value):
        return why
    # On Windows a program may get, for a letter that its code page lacks, the one that looks most like it.
    alike = unicodedata.normalize("NFKC", value).translate(_AS_BACKSLASHES)
    for character, word in _OF_A_PATH.items():
        if character in value or character in alike:
            return f"has {word} in it, which would lead to another folder or drive"
    for form in (value, alike):
        if why := _objection_to_name(form):
            return why
        if form.endswith((".", " ")):
            return "ends in a dot or a blank, which Windows leaves out"
    if use is Use.SHELL and not _SHELL_SAFE.fullmatch(value):
        return "has other characters than letters, digits and _ . + @ = -, the only ones allowed in a line for a shell"
    if at_beginning and alike.startswith("-"):
        return "begins with -, and would be taken for an option"
    return None


def _beyond_the_locale(text: str) -> str | None:
    """Return what to do about a character that this program cannot write into a file name or a command's words."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        return (
            f"has {text[error.start]!a} in it, and file names here are {encoding}: start rigsync with PYTHONUTF8=1 in "
            "its environment, or in a UTF-8 locale, such as LC_ALL=C.UTF-8"
        )
    return None


def _objection_to_name(name: str) -> str | None:
    """Return why no file or folder may have this name; None if it may."""
    if name in (".", ".."):
        return "stands for a folder, and would lead elsewhere"
    if DEVICE.fullmatch(name):
        return "is the name of a device on Windows"
    return None
