"""The file of an agent, from YAML to frozen dataclasses. It is checked whole; nothing is opened or run."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rigsync._text import shortened
from rigsync.agent.command_line import read_words
from rigsync.agent.expressions import MayTakeLong, check_is_quick
from rigsync.agent.keys import AGENT
from rigsync.agent.template import MESSAGE, OF_THE_SESSION, Source, Template, Use
from rigsync.config.address import parse_uri
from rigsync.config.schema import under
from rigsync.config.yaml import document_node, located, map_of, read_text
from rigsync.core.enums import ExpMessage
from rigsync.core.rigs import LONGEST_DESCRIPTION
from rigsync.errors import ConfigError

_EXPECTED = "expected a YAML file with the keys name, listen and on, as docs/agent.md has it"
_DRIVE = re.compile(r"[A-Za-z]:")
_KNOWN = (*OF_THE_SESSION, MESSAGE)
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - nothing is opened here


@dataclass(frozen=True, slots=True)
class Command:
    """A command; for a shell one, `words` is the whole line. `folder` is None for the file's."""

    words: tuple[Template, ...]
    shell: bool = False
    folder: Template | None = None

    @property
    def program(self) -> str | None:
        """The program, which no message can choose; None if a shell reads the line."""
        return None if self.shell else str(self.words[0])

    @property
    def read_by_shell(self) -> bool:
        """Whether a shell reads its words: by `shell`, or because one of them is a shell or a batch file."""
        return any(word.use is Use.SHELL for word in self.words)

    def filled(self, values: Source) -> tuple[str, ...]:
        return tuple(word.fill(values) for word in self.words)

    def __str__(self) -> str:
        words = map(str, self.words)
        return " ".join(
            words if self.shell else (w if re.fullmatch(r"[^\s'\"]+", w) else shlex.quote(w) for w in words)
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A command that is awaited, for `timeout` seconds at most."""

    command: Command
    timeout: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The file that shows that a command records, and the seconds within which it has to exist."""

    file: Template
    within: float


@dataclass(frozen=True, slots=True)
class Start:
    """A command that goes on until it is stopped. The one group of `frames` is the number of frames in its output."""

    command: Command
    ready: Ready | None = None
    frames: re.Pattern[str] | None = None
    good_exit: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """How a command is ended: by ``interrupt``, ``terminate`` or ``kill``, and harder after `grace` seconds."""

    signal: str
    grace: float


@dataclass(frozen=True, slots=True)
class Action:
    """The steps of a message, in this order."""

    stop: Stop | None = None
    run: Run | None = None
    start: Start | None = None


@dataclass(frozen=True, slots=True)
class FreeDisk:
    path: Template
    at_least: int


@dataclass(frozen=True, slots=True)
class Require:
    """What EXPINIT requires. `programs` are those besides the commands'."""

    free_disk: FreeDisk | None = None
    files: tuple[Template, ...] = ()
    programs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verify:
    """Files that have to grow, by a pattern as in `glob`."""

    files: Template
    growing_within: float
    settled_within: float
    segments: bool


@dataclass(frozen=True, slots=True)
class Logs:
    """Where output goes; `folder` is None for the rig's own in ``logs`` beside the file."""

    folder: Template | None
    keep: int
    max_size: int


@dataclass(frozen=True, slots=True)
class AgentFile:
    """A rig as its file describes it, with the keys of docs/agent.md. `lines` has the line of each key."""

    source: str
    name: str
    listen: str
    main_sync: bool
    lease: float
    max_message: int
    description: dict[str, Any]
    variables: dict[str, str]
    folders: tuple[Template, ...]
    existing: str
    on: dict[ExpMessage, Action]
    require: Require | None
    verify: Verify | None
    logs: Logs
    lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """The folder of the file, where relative paths begin."""
        return Path(os.path.abspath(self.source)).parent

    @property
    def logs_folder(self) -> Path:
        """Return the folder of the logs; by default the rig's own, since several files may lie in one folder."""
        if self.logs.folder:
            return self.folder / str(self.logs.folder)
        own = "".join(character if character.isalnum() or character in "-_." else "_" for character in self.name)
        return self.folder / "logs" / (own.strip(".") or "_")

    def action(self, event: ExpMessage) -> Action:
        return self.on.get(event, Action())

    def commands(self) -> Iterator[Command]:
        for action in self.on.values():
            for step in (action.run, action.start):
                if step:
                    yield step.command

    def error(self, problem: str, key: str) -> ConfigError:
        return located(ConfigError(problem, key=key), self.source, self.lines)


def read_agent_file(path: str | os.PathLike[str], platform: str = sys.platform) -> AgentFile:
    """Read the file of an agent. How a command is split into words depends on the `sys.platform`.

    Raises
    ------
    ConfigError
        The file cannot be read, or has a mistake. The error has the file and, where there is one, line and key.
    """
    source = os.fspath(path)
    lines: dict[str, int] = {}
    try:
        found = AGENT.read(map_of(document_node(source, _EXPECTED), lines), "")
        return _Reader(found, windows=platform == "win32").file(source, lines)
    except ConfigError as error:
        raise located(error, source, lines) from error.__cause__


def is_agent_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is meant for an agent, and not a file of rigs, even if it has mistakes.

    Raises
    ------
    ConfigError
        The file cannot be read.
    """
    source = os.fspath(path)
    try:
        keys = {key.value for key, _ in document_node(source, _EXPECTED).value if isinstance(key.value, str)}
    except ConfigError:
        # Not YAML, because of a mistake: the lines that look like keys tell it.
        keys = set(re.findall(r"^([a-z_]+)[ \t]*:", read_text(source, _EXPECTED), re.MULTILINE))
    # A flat file of rigs may have a rig whose name is one of these, but hardly two.
    return "rigs" not in keys and len(keys & set(AGENT.keys)) > 1


def check_distinct_agents(files: Iterable[AgentFile]) -> None:
    """Check that no two files have one rig or one address; the error names the second one's key."""
    earlier: list[AgentFile] = []
    for file in files:
        for other in earlier:
            if file.name == other.name:
                problem = f"two rigs have the name {shortened(file.name)}; the other stands in {other.source}"
                raise file.error(problem, "name")
            if _share_an_address(file.listen, other.listen):
                raise file.error(f"{other.name} in {other.source} listens at {other.listen} already", "listen")
        earlier.append(file)


def _share_an_address(first: str, second: str) -> bool:
    one, two = parse_uri(first, allow_port_zero=True), parse_uri(second, allow_port_zero=True)
    if (one.scheme, one.port) != (two.scheme, two.port) or not one.port:
        return False
    return one.host == two.host or one.host in _WILDCARDS or two.host in _WILDCARDS


class _Reader:
    """Turns values of the right types into what they mean."""

    def __init__(self, found: dict[str, Any], *, windows: bool):
        self._found, self._windows = found, windows
        self._constants: dict[str, str] = {}

    def file(self, source: str, lines: dict[str, int]) -> AgentFile:
        found = self._found
        with under("listen"):
            listen = parse_uri(found["listen"], allow_port_zero=True)
        self._read_variables()
        on = {ExpMessage[event]: self._action(event, action) for event, action in found["on"].items() if action}
        self._check_ends(on)
        return AgentFile(
            source,
            found["name"],
            str(listen),
            found["main_sync"],
            found["lease"],
            found["max_message"],
            self._description(),
            {name: text for name, text in self._constants.items() if name != "rig"},
            self._paths("folders", found["folders"]),
            found["existing"],
            on,
            self._require(),
            self._verify(),
            self._logs(),
            MappingProxyType(lines),
        )

    def _read_variables(self) -> None:
        self._constants["rig"] = self._found["name"]
        for name, text in (self._found["variables"] or {}).items():
            key = f"variables.{name}"
            if name in (*OF_THE_SESSION, "rig", MESSAGE):
                raise ConfigError(f"{{{name}}} has a meaning of its own already; give it another name", key=key)
            with under(key):
                self._constants[name] = str(self._template(text, known=()))

    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = self._found["experiment_description"] or {}
        try:
            size = len(json.dumps(description).encode())
        except ValueError as error:  # a number with too many digits
            raise ConfigError(str(error), key="experiment_description") from error
        if size > LONGEST_DESCRIPTION:
            raise ConfigError(
                f"{size:,} bytes as JSON, and {LONGEST_DESCRIPTION:,} are the most, since it goes with each answer",
                key="experiment_description",
            )
        return description

    def _action(self, event: str, found: dict[str, Any]) -> Action:
        key = f"on.{event}"
        run = start = stop = None
        if found.get("stop"):
            stop = Stop(**found["stop"])
        if found.get("run"):
            run = Run(self._command(found, "run", key), found["timeout"])
        if found.get("start"):
            ready = found["ready"] and Ready(
                self._path(found["ready"]["file"], f"{key}.ready.file"), found["ready"]["within"]
            )
            frames = found["frames"] and _pattern(found["frames"], f"{key}.frames")
            start = Start(self._command(found, "start", key), ready, frames, found["good_exit"])
        return Action(stop, run, start)

    def _check_ends(self, on: dict[ExpMessage, Action]) -> None:
        starts = [event for event, action in on.items() if action.start]
        stops = [event for event, action in on.items() if action.stop]
        if starts and ExpMessage.EXPEND not in stops:
            raise ConfigError(
                "nothing stops what is started here; write EXPEND: {stop: {signal: interrupt, grace: 10}}",
                key=f"on.{starts[0].name}.start",
            )
        if stops and not starts:
            raise ConfigError("there is nothing to stop: no message has a start", key=f"on.{stops[0].name}.stop")

    def _command(self, found: dict[str, Any], verb: str, parent: str) -> Command:
        key, line, shell = f"{parent}.{verb}", found[verb], found["shell"]
        folder = self._path(found["folder"], f"{parent}.folder") if found["folder"] else None
        with under(key):
            words = read_words(line, shell, self._template, self._windows)
        return Command(words, shell, folder)

    def _require(self) -> Require | None:
        found = self._found["require"]
        if not found:
            return None
        disk = found["free_disk"] and FreeDisk(
            self._path(found["free_disk"]["path"], "require.free_disk.path"), found["free_disk"]["at_least"]
        )
        files = self._paths("require.files", found["files"])
        programs = []
        for index, text in enumerate(found["programs"] or ()):
            with under(f"require.programs[{index}]"):
                programs.append(str(self._template(text, known=())))
        return Require(disk, files, tuple(programs))

    def _verify(self) -> Verify | None:
        found = self._found["verify"]
        return found and Verify(**{**found, "files": self._path(found["files"], "verify.files", use=Use.GLOB)})

    def _logs(self) -> Logs:
        found = self._found["logs"]
        folder = self._path(found["folder"], "logs.folder", known=()) if found["folder"] else None
        return Logs(**{**found, "folder": folder})

    def _template(self, text: str, known: tuple[str, ...] = _KNOWN, use: Use = Use.ARGUMENT) -> Template:
        return Template.parse(text, known, self._constants, use)

    def _paths(self, key: str, texts: Iterable[str] | None) -> tuple[Template, ...]:
        return tuple(self._path(text, f"{key}[{index}]") for index, text in enumerate(texts or ()))

    def _path(self, text: str, key: str, known: tuple[str, ...] = _KNOWN, use: Use = Use.ARGUMENT) -> Template:
        with under(key):
            template = self._template(text, known, use)
            self._check_path(str(template))
        return template

    def _check_path(self, path: str) -> None:
        drive = _DRIVE.match(path)
        rest = path[2:] if drive else path
        shown = shortened(path, 80)
        if ".." in re.split(r"[/\\]", rest):
            raise ConfigError(f"'..' leads out of the folder in {shown}; write out where the files are")
        if drive and rest[:1] not in ("/", "\\"):
            raise ConfigError(f"{shown} begins wherever that drive's present folder is; write {path[:2]}/ instead")
        if self._windows and ":" in rest:
            raise ConfigError(f"there is a colon in {shown}, which no file name on Windows may have")
        if re.match(r"~[^/\\]*(?:[/\\]|$)", path):
            raise ConfigError(f"~ does not stand for your folder in {shown}; write that folder out")
        if any(not character.isprintable() for character in path):
            raise ConfigError(f"there is a character in {shown} that cannot be printed")


def _pattern(text: str, key: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pattern = re.compile(text)
    except (re.error, ArithmeticError, RecursionError, Warning) as error:
        raise ConfigError(f"not a regular expression: {error}", key=key) from error
    if pattern.groups != 1:
        raise ConfigError(
            f"expected one group in parentheses, around the number of frames, not {pattern.groups}; (?:...) is none",
            key=key,
        )
    try:
        check_is_quick(text)
    except MayTakeLong as error:
        raise ConfigError(f"some line may take so long that the rig answers nothing: {error}", key=key) from None
    return pattern
