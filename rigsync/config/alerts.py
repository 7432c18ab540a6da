"""Who is told of what: the section ``alerts`` of a file of rigs, and of an agent's file."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rigsync.config.schema import (
    Key,
    Kind,
    Known,
    Mistakes,
    Table,
    boolean,
    choice,
    either,
    free,
    listing,
    text,
)
from rigsync.config.templates import fields_of, wrong_fields
from rigsync.errors import ConfigError

FAILURE, LOST, INTERRUPTED, SESSION_END, DISK_LOW = "failure", "lost", "interrupted", "session end", "disk low"
CAUSES = (FAILURE, LOST, INTERRUPTED, SESSION_END, DISK_LOW)
"""What somebody can be told of."""
FIELDS = ("on", "what", "rig", "exp_ref", "host", "time", "held_back")
"""The fields of a command's words and of a webhook's body."""
PRESETS = ("slack", "teams", "mattermost", "ntfy")
"""Whose webhooks rigsync knows the body of."""
MOST = 20
"""Most alerts of a file. Each has a thread while something is told."""

_URL = re.compile(r"https?://[^\s/?#]+(?:[/?#]\S*)?", re.ASCII)
_SHELLS = re.compile(r"(?:sh|bash|dash|zsh|ksh|csh|tcsh|fish|busybox|ssh|wsl|su)(?:\.exe)?", re.IGNORECASE)
_WHOLE_LINE = re.compile(r"(?:cmd|powershell|pwsh)(?:\.exe)?", re.IGNORECASE)
"""Programs that take all that stands behind some word of theirs for code."""
_INTERPRETERS = re.compile(
    r"(?:(?:python|pypy|lua|php|ruby|perl)[w\d.]*|node|deno|bun|R|Rscript|julia|matlab|octave|osascript)(?:\.exe)?",
    re.IGNORECASE,
)
_CODE_FOLLOWS = re.compile(r"-[a-z]*[cCeErp]|-batch|--(?:eval|print|execute|command)")
_BATCH = re.compile(r"\.(?:bat|cmd)[. ]*$", re.IGNORECASE)
_EXPECTED_URL = "expected a URL that begins with https:// or http:// (its text is not shown here: it is a secret)"


def url_problem(url: str) -> str | None:
    """Return why a text is no URL of a webhook, without the text; None where it is one."""
    return None if url.isprintable() and _URL.fullmatch(url) else _EXPECTED_URL


def _secret_url() -> Kind:
    """Take a URL that no error shows."""

    def read(value: Any, key: str, _: Mistakes) -> str:
        if not isinstance(value, str) or url_problem(value):
            raise ConfigError(_EXPECTED_URL, key=key)
        return str(value)

    return Kind(read, {"type": "string", "pattern": f"^{_URL.pattern}$"})


def _preset() -> Kind:
    words = choice(PRESETS)

    def read(value: Any, key: str, mistakes: Mistakes) -> Any:
        if isinstance(value, str) and "://" in value:
            raise ConfigError(f"expected one of {', '.join(PRESETS)}, not a URL, which stands under url", key=key)
        return words.read(value, key, mistakes)

    return Kind(read, words.schema)


_WEBHOOK = Table(
    {
        "preset": Key(_preset(), "Whose webhook it is, which gives the body; without it body, or all fields."),
        "url": Key(_secret_url(), "Its URL, which is a secret: better let it stand in the environment."),
        "url_from": Key(
            text(100, r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable"),
            "The environment variable that holds the URL.",
        ),
        "body": Key(free(), "The JSON that is sent, a map with fields such as {what} in its texts."),
    },
    some=("url", "url_from"),
)
_ALERT = Table(
    {
        "on": Key(listing(choice(CAUSES), 1), "What is told.", required=True),
        "webhook": Key(
            either({str: _secret_url(), dict: _WEBHOOK}, "a map with the key url_from or url"),
            "A web address to which JSON is sent.",
        ),
        "command": Key(listing(text(), 1), "A program and its arguments, with fields such as {what}; no shell."),
        "desktop": Key(boolean(), "Whether a notification is shown on this computer's desktop."),
    },
    some=("webhook", "command", "desktop"),
)
ALERTS = listing(_ALERT, most=MOST)
"""The kind of the section."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A web address to which JSON is sent."""

    preset: str | None
    url: str | None = field(repr=False)
    url_from: str | None
    body: Mapping[str, Any] | None

    @property
    def what(self) -> str:
        return f"webhook {self.preset}" if self.preset else "webhook"


@dataclass(frozen=True, slots=True)
class Hook:
    """A program that is run, by its words; `folder` is that of the file."""

    words: tuple[str, ...]
    folder: str

    @property
    def what(self) -> str:
        return f"command {os.path.basename(self.words[0])}"


@dataclass(frozen=True, slots=True)
class Desktop:
    """A notification on the desktop."""

    what = "desktop"


@dataclass(frozen=True, slots=True)
class Alert:
    """One way by which somebody is told of some causes. `key` is where it stands in its file."""

    key: str
    on: tuple[str, ...]
    way: Webhook | Hook | Desktop

    @property
    def name(self) -> str:
        """What the log calls it; nothing of it is secret."""
        return f"{self.key} ({self.way.what})"

    def document(self) -> dict[str, Any]:
        """Return it for JSON, without a URL."""
        told: dict[str, Any] = {"key": self.key, "on": list(self.on), "by": self.way.what}
        if isinstance(self.way, Webhook):
            told |= {"url": "***" if self.way.url else None, "url_from": self.way.url_from}
        return told | ({"command": list(self.way.words)} if isinstance(self.way, Hook) else {})


def alerts_of(
    found: Sequence[Known], folder: Path, mistakes: Mistakes, windows: bool = sys.platform == "win32"
) -> tuple[Alert, ...]:
    """Return what stands in a section that was read; add what is wrong with it to the mistakes."""
    alerts: list[Alert] = []
    for index, each in enumerate(found):
        key = f"alerts[{index}]"
        with mistakes:
            on = tuple(dict.fromkeys(each["on"]))
            if (given := each["webhook"]) is not None:
                whole = Known(preset=None, url=given, url_from=None, body=None) if isinstance(given, str) else given
                with mistakes:
                    alerts.append(Alert(f"{key}.webhook", on, _webhook(whole, f"{key}.webhook")))
            if words := each["command"]:
                with mistakes:
                    _check_words(words, f"{key}.command", windows)
                    alerts.append(Alert(f"{key}.command", on, Hook(words, os.path.abspath(folder))))
            if each["desktop"]:
                alerts.append(Alert(f"{key}.desktop", on, Desktop()))
            elif each["desktop"] is False and each["webhook"] is None and not each["command"]:
                raise ConfigError("nobody is told: write webhook, command or desktop: true", key=key)
    return tuple(alerts)


def _webhook(found: Known, key: str) -> Webhook:
    preset, body = found["preset"], found["body"]
    if found["url"] and found["url_from"]:
        raise ConfigError("url and url_from both say where it is; leave one out", key=f"{key}.url")
    if preset and body:
        raise ConfigError(f"the preset {preset} has a body of its own; leave one out", key=f"{key}.body")
    if problems := list(wrong_fields(body, f"{key}.body", FIELDS)):
        raise ConfigError.of(problems)
    if preset == "ntfy" and found["url"] and topic_of(found["url"]) is None:
        raise ConfigError("a URL of ntfy ends with the topic, as in https://ntfy.sh/my-lab-4f7a", key=f"{key}.url")
    return Webhook(preset, found["url"], found["url_from"], body or None)


def topic_of(url: str) -> tuple[str, str] | None:
    """Return the address of an ntfy server and the topic that a URL names; None where it names none."""
    path, mark, query = url.partition("#")[0].partition("?")
    address, _, topic = path.rstrip("/").rpartition("/")
    return None if address.endswith("/") or not topic or "://" not in address else (f"{address}/{mark}{query}", topic)


def _check_words(words: tuple[str, ...], key: str, windows: bool) -> None:
    if problems := list(wrong_fields(words, key, FIELDS)):
        raise ConfigError.of(problems)
    if fields_of(words[0]):
        raise ConfigError("a field would choose the program; write out which it is", key=f"{key}[0]")
    if windows and _BATCH.search(words[0]):
        problem = "cmd.exe reads the arguments of a batch file anew, as code; name a program that is none"
        raise ConfigError(problem, key=f"{key}[0]")
    for index in _code(words):
        if names := fields_of(words[index]):
            problem = (
                f"{{{names[0]}}} would be code here; read it from the environment, where it is {variable(names[0])}"
            )
            raise ConfigError(f"{problem}, or hand it over as an argument of its own", key=f"{key}[{index}]")


def variable(name: str) -> str:
    """Return the environment variable of a command that holds a field."""
    return f"RIGSYNC_ALERT_{name.upper()}"


def _code(words: Sequence[str]) -> Iterator[int]:
    """Yield the positions of words that a shell or an interpreter takes for code."""
    for index, word in enumerate(words[:-1]):
        name = re.split(r"[/\\]", word)[-1]
        if _WHOLE_LINE.fullmatch(name):
            script = next((at for at, each in enumerate(words) if at > index and each.lower() == "-file"), len(words))
            yield from range(index + 1, min(script + 2, len(words)))
        elif re.fullmatch(r"(?:ssh|wsl)(?:\.exe)?", name, re.IGNORECASE):  # which hand all of it to a shell
            yield from range(index + 1, len(words))
        elif _SHELLS.fullmatch(name) or _INTERPRETERS.fullmatch(name):
            for at in range(index + 1, len(words)):
                if words[at] == "-m" or re.search(r"^[^-].*[./\\]", words[at]):
                    break  # the script; what follows are its arguments
                if words[at].startswith("-"):
                    yield at
                if _CODE_FOLLOWS.fullmatch(words[at]):
                    yield min(at + 1, len(words) - 1)
                    break
