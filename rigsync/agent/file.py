"""The file of an agent, from YAML to frozen dataclasses. It is checked whole; nothing is opened or run."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rigsync._text import close_match, shortened
from rigsync.agent.command_line import read_words
from rigsync.agent.expressions import read_expression
from rigsync.agent.keys import AGENT, BEGINNING, ENDING, EXPECTED, REFUSE
from rigsync.agent.paths import check_path
from rigsync.agent.template import FILE, MESSAGE, OF_THE_SESSION, Source, Template, Use
from rigsync.config.address import parse_uri
from rigsync.config.alerts import Alert, alerts_of
from rigsync.config.files import bridges_of
from rigsync.config.journal import JournalSettings, journal_of
from rigsync.config.schema import Known, Mistakes, Told, under
from rigsync.config.yaml import document_node, located, map_of
from rigsync.core.enums import ExpMessage
from rigsync.core.rigs import LONGEST_DESCRIPTION, Address
from rigsync.errors import ConfigError

_KNOWN = (*OF_THE_SESSION, MESSAGE)


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
class Step(Run):
    """A command of `finish`. The one group of `percent` is the percentage in a line of its output."""

    percent: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """What is done in the background after a session. `queue` is None for the rig's own folder in ``finish``."""

    steps: tuple[Step, ...]
    after: tuple[str, ...]
    at_once: int
    while_recording: str
    queue: Template | None


@dataclass(frozen=True, slots=True)
class AgentFile:
    """A rig as its file describes it, with the keys of docs/agent.md. `lines` has the line of each key."""

    source: str
    name: str
    listen: Address
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
    validate: Run | None
    finish: Finish | None
    logs: Logs
    bridges: Mapping[str, Any] = field(repr=False)  # with a broker's password
    journal: JournalSettings | None
    alerts: tuple[Alert, ...]
    lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    rehearsal: AgentFile | None = None
    """What it is in a rehearsal; None where it has none."""

    @property
    def folder(self) -> Path:
        """The folder of the file, where relative paths begin."""
        return Path(os.path.abspath(self.source)).parent

    @property
    def logs_folder(self) -> Path:
        """Return the folder of the logs; by default the rig's own, since several files may lie in one folder."""
        return self._own_folder(self.logs.folder, "logs")

    @property
    def queue_folder(self) -> Path:
        """Return the folder of what is to be done after sessions; by default the rig's own."""
        return self._own_folder(self.finish.queue if self.finish else None, "finish")

    def _own_folder(self, chosen: Template | None, beside: str) -> Path:
        if chosen:
            return self.folder / str(chosen)
        own = "".join(character if character.isalnum() or character in "-_." else "_" for character in self.name)
        return self.folder / beside / (own.strip(".") or "_")

    def action(self, event: ExpMessage) -> Action:
        return self.on.get(event, Action())

    def outputs(self) -> Iterator[Template]:
        """Yield the paths of what is recorded."""
        if self.verify:
            yield self.verify.files
        for action in self.on.values():
            if action.start and action.start.ready:
                yield action.start.ready.file

    def commands(self) -> Iterator[Command]:
        for action in self.on.values():
            for step in (action.run, action.start):
                if step:
                    yield step.command
        if self.validate:
            yield self.validate.command
        yield from (step.command for step in (self.finish.steps if self.finish else ()))

    def error(self, problem: str, key: str) -> ConfigError:
        return located(ConfigError(problem, key=key), self.source, self.lines)


def read_agent_file(path: str | os.PathLike[str], platform: str = sys.platform) -> AgentFile:
    """Read the file of an agent. How a command is split into words depends on the `sys.platform`.

    Raises
    ------
    ConfigError
        The file cannot be read, or has mistakes. The error has the file and, where there is one, line and key, and in
        ``errors`` all mistakes.
    """
    source = os.fspath(path)
    lines: dict[str, int] = {}
    mistakes = Mistakes()
    with mistakes:
        found = AGENT.read(map_of(document_node(source, EXPECTED), lines, mistakes), "", mistakes)
        windows = platform == "win32"
        file = _Reader(found, mistakes, windows=windows).file(source, lines)
        if not mistakes:
            return file if found["rehearsal"] is None else replace(file, rehearsal=_rehearsed(file, found, windows))
    raise located(ConfigError.of(mistakes), source, lines) from mistakes[0].__cause__


def _rehearsed(file: AgentFile, found: Known, windows: bool) -> AgentFile:
    """Return what a file is in a rehearsal, in which some of its variables stand for something else."""
    others, variables = found["rehearsal"], found["variables"] or {}
    for name in others:
        if name not in variables:
            here = ", ".join(variables) or "(none)"
            problem = f"there is no variable {shortened(name)}{close_match(name, variables)}; variables here: {here}"
            raise ConfigError(problem, key=f"rehearsal.{name}")
    if not others:
        raise ConfigError("name a variable with the folder that a rehearsal may write to instead", key="rehearsal")
    if not file.verify:
        raise ConfigError("only verify shows that something was recorded; write verify too", key="rehearsal")
    meant, mistakes = Known({**found, "variables": Known({**variables, **others})}), Mistakes()
    with mistakes:
        other = _Reader(meant, mistakes, windows=windows).file(file.source, dict(file.lines))
    if mistakes:
        raise ConfigError(f"with these variables {mistakes[0].key} is wrong: {mistakes[0].problem}", key="rehearsal")
    for ours, its in zip(file.outputs(), other.outputs(), strict=True):
        paths = (os.path.normcase(os.path.normpath(file.folder / str(one))) for one in (ours, its))
        if len(set(paths)) == 1:
            where = shortened(str(its), 80)
            problem = f"a rehearsal would write {where} as in earnest; begin that with a variable that differs here"
            raise ConfigError(problem, key="rehearsal")
    cleanup = replace(other.action(ExpMessage.EXPCLEANUP), run=None)  # it would move the files away
    return replace(other, existing=REFUSE, on={**other.on, ExpMessage.EXPCLEANUP: cleanup}, finish=None)


class _Reader:
    """Turns values of the right types into what they mean."""

    def __init__(self, found: Known, mistakes: Mistakes, *, windows: bool):
        self._found, self._mistakes, self._windows = found, mistakes, windows
        self._constants: dict[str, str] = {}
        self._wrong: frozenset[str] | None = frozenset()
        """The variables that are wrong; None where nobody knows which there are."""

    def file(self, source: str, lines: dict[str, int]) -> AgentFile:
        found = self._found
        self._read_variables()
        readers: dict[str, Callable[[], Any]] = {
            "listen": self._listen,
            "description": self._description,
            "folders": lambda: self._paths("folders", found["folders"]),
            "on": self._on,
            "ends": self._check_ends,
            "require": self._require,
            "verify": self._verify,
            "validate": self._validate,
            "finish": self._finish,
            "logs": self._logs,
            "bridges": lambda: bridges_of(found["bridges"], Path(source).parent),
            "journal": lambda: journal_of(found["journal"], Path(os.path.abspath(source)).parent),
            "alerts": lambda: alerts_of(found["alerts"], Path(source).parent, self._mistakes, self._windows),
        }
        parts = self._each(readers)
        variables = {name: text for name, text in self._constants.items() if name != "rig"}
        as_they_are = {key: found[key] for key in ("name", "main_sync", "lease", "max_message", "existing")}
        known = {name: parts[name] for name in readers if name != "ends"}
        return AgentFile(source, variables=variables, **as_they_are, **known, lines=MappingProxyType(lines))

    def _each(self, readers: Mapping[str, Callable[[], Any]]) -> Known:
        """Return what the readers return; go on after one that finds a mistake."""
        parts = Known()
        for name, read in readers.items():
            with self._mistakes:
                parts[name] = read()
        return parts

    def _listen(self) -> Address:
        with under("listen"):
            return parse_uri(self._found["listen"], allow_port_zero=True)

    def _read_variables(self) -> None:
        self._wrong = None
        with self._mistakes:
            self._constants["rig"] = self._found["name"]
        with self._mistakes:
            variables: Known = self._found["variables"] or Known()
            self._wrong = variables.wrong | ({"rig"} - self._constants.keys())
            for name, text in variables.items():
                with self._mistakes:
                    self._constants[name] = self._variable(name, text)
                self._wrong |= {name} - self._constants.keys()

    def _variable(self, name: str, text: str) -> str:
        key = f"variables.{name}"
        if name in (*OF_THE_SESSION, "rig", MESSAGE):
            raise ConfigError(f"{{{name}}} has a meaning of its own already; give it another name", key=key)
        with under(key):
            return str(self._template(text, known=()))

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

    def _on(self) -> dict[ExpMessage, Action]:
        on = {}
        for event, found in self._found["on"].items():
            if found:
                with self._mistakes:
                    on[ExpMessage[event]] = self._action(event, found)
        return on

    def _action(self, event: str, found: Known) -> Action:
        key = f"on.{event}"
        readers: dict[str, Callable[[], Any]] = {"run": lambda: self._run(found, key)}
        if event in ENDING:
            readers["stop"] = lambda: found["stop"] and Stop(found["stop"]["signal"], found["stop"]["grace"])
        else:
            readers["start"] = lambda: self._start(found, key)
        steps = self._each(readers)
        return Action(**{name: steps[name] for name in readers})

    def _run(self, found: Known, key: str) -> Run | None:
        return found["run"] and Run(self._command(found, "run", key), found["timeout"])

    def _start(self, found: Known, key: str) -> Start | None:
        if not found["start"]:
            return None
        parts = self._each(
            {
                "command": lambda: self._command(found, "start", key),
                "ready": lambda: found["ready"] and self._ready(found["ready"], f"{key}.ready"),
                "frames": lambda: found["frames"] and read_expression(found["frames"], f"{key}.frames"),
            }
        )
        return Start(parts["command"], parts["ready"], parts["frames"], found["good_exit"])

    def _ready(self, found: Known, key: str) -> Ready:
        return Ready(self._path(found["file"], f"{key}.file"), found["within"])

    def _check_ends(self) -> None:
        on = self._found["on"]
        starts = [event for event in BEGINNING if on[event] and on[event]["start"]]
        stops = [event for event in ENDING if on[event] and on[event]["stop"] is not None]
        if starts and "EXPEND" not in stops:
            raise ConfigError(
                "nothing stops what is started here; write EXPEND: {stop: {signal: interrupt, grace: 10}}",
                key=f"on.{starts[0]}.start",
            )
        if stops and not starts:
            raise ConfigError("there is nothing to stop: no message has a start", key=f"on.{stops[0]}.stop")

    def _command(self, found: Known, verb: str, parent: str, known: tuple[str, ...] = _KNOWN) -> Command:
        def words() -> tuple[Template, ...]:
            with under(f"{parent}.{verb}"):
                template = functools.partial(self._template, known=known)
                return read_words(found[verb], found["shell"], template, self._windows)

        def folder() -> Template | None:
            return found["folder"] and self._path(found["folder"], f"{parent}.folder")

        parts = self._each({"words": words, "folder": folder})
        return Command(parts["words"], found["shell"], parts["folder"])

    def _require(self) -> Require | None:
        found = self._found["require"]
        if not found:
            return None
        parts = self._each(
            {
                "disk": lambda: found["free_disk"] and self._free_disk(found["free_disk"]),
                "files": lambda: self._paths("require.files", found["files"]),
                "programs": lambda: self._programs(found["programs"]),
            }
        )
        return Require(parts["disk"], parts["files"], parts["programs"])

    def _free_disk(self, found: Known) -> FreeDisk:
        return FreeDisk(self._path(found["path"], "require.free_disk.path"), found["at_least"])

    def _programs(self, texts: Iterable[str] | None) -> tuple[str, ...]:
        programs = []
        for index, text in enumerate(texts or ()):
            with self._mistakes, under(f"require.programs[{index}]"):
                programs.append(str(self._template(text, known=())))
        return tuple(programs)

    def _verify(self) -> Verify | None:
        found = self._found["verify"]
        if not found:
            return None
        files = self._path(found["files"], "verify.files", use=Use.GLOB)
        return Verify(files, found["growing_within"], found["settled_within"], found["segments"])

    def _validate(self) -> Run | None:
        found = self._found["validate"]
        if not found:
            return None
        if FILE in self._constants:
            problem = "in validate, {file} is each finished file; give this variable another name"
            raise ConfigError(problem, key=f"variables.{FILE}")
        return Run(self._command(found, "run", "validate", (*_KNOWN, FILE)), found["timeout"])

    def _finish(self) -> Finish | None:
        found = self._found["finish"]
        if not found:
            return None
        steps = tuple(self._step(step, f"finish.steps[{index}]") for index, step in enumerate(found["steps"]))
        queue = found["queue"] and self._path(found["queue"], "finish.queue", known=())
        return Finish(steps, found["after"], found["at_once"], found["while_recording"], queue)

    def _step(self, found: Known, key: str) -> Step:
        percent = found["percent"] and read_expression(found["percent"], f"{key}.percent")
        return Step(self._command(found, "run", key), found["timeout"], percent)

    def _logs(self) -> Logs:
        found = self._found["logs"]
        folder = self._path(found["folder"], "logs.folder", known=()) if found["folder"] else None
        return Logs(folder, found["keep"], found["max_size"])

    def _template(self, text: str, known: tuple[str, ...] = _KNOWN, use: Use = Use.ARGUMENT) -> Template:
        missing = set(re.findall(r"\{(\w+)\}", text)).difference(known, self._constants)
        if missing if self._wrong is None else missing & self._wrong:
            raise Told
        return Template.parse(text, known, self._constants, use)

    def _paths(self, key: str, texts: Iterable[str] | None) -> tuple[Template, ...]:
        paths = []
        for index, text in enumerate(texts or ()):
            with self._mistakes:
                paths.append(self._path(text, f"{key}[{index}]"))
        return tuple(paths)

    def _path(self, text: str, key: str, known: tuple[str, ...] = _KNOWN, use: Use = Use.ARGUMENT) -> Template:
        with under(key):
            template = self._template(text, known, use)
            check_path(str(template), self._windows)
        return template
