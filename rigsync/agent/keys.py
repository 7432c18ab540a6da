"""The keys of an agent's file: one table, from which both the checks and the schema for editors come."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rigsync._text import close_match, shortened
from rigsync.config.yaml import BOOLEANS, NOTHING, Plain, number_of
from rigsync.core.ownership import LEASE
from rigsync.core.rigs import LARGEST_MESSAGE, LISTEN_PORT, LONGEST_NAME, MAX_DATAGRAM, MAX_MESSAGE
from rigsync.errors import ConfigError

DAY = 86_400.0
LONGEST_LEASE = 7 * DAY
SHORTEST_WAIT = 0.001
"""Bounds of times, in seconds; what is beyond them was meant otherwise."""
LONGEST_TEXT = 8000
"""Characters of a command or a path; cmd takes 8,191 in a line."""
LONGEST_PATTERN = 500
"""Characters of a regular expression, which is tried at every line of output."""
MOST_ITEMS = 200
"""Items of a list, and variables."""
DEEPEST = 20
"""Levels of maps and lists in an experiment description."""
LARGEST_STATUS = 2**32 - 1
"""Exit statuses on Windows; elsewhere they are at most 255."""
LARGEST = 10**18
"""Bytes; no disk has more."""

SIGNALS = ("interrupt", "terminate", "kill")
"""How a process can be asked to end, the politest way first."""
REFUSE, KEEP, OVERWRITE = EXISTING = ("refuse", "keep", "overwrite")
"""What may be done about a file that is there before it is recorded; the first is the default."""

_BYTES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4, "PB": 1000**5} | {
    f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTP", start=1)
}
# Exactly as YAML 1.1 has them.
_TRUTHS = {form: truth for name, truth in BOOLEANS.items() for form in (name, name.capitalize(), name.upper())}
_SIZE = rf"^([0-9]{{1,15}}(?:\.[0-9]{{1,15}})?) ?({'|'.join(_BYTES)})$"
VARIABLE_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


class Kind(Protocol):
    """What may stand at a key."""

    def read(self, value: Any, key: str) -> Any:
        """Return the value as what it is; raise `ConfigError`, with the key, where it cannot be that."""

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of it."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text without control characters, but for tabs and line ends."""

    most: int = LONGEST_TEXT

    def read(self, value: Any, key: str) -> str:
        """Return the value; raise `ConfigError` where it is something else."""
        if not isinstance(value, str):
            hint = "; put quotes around text that begins with a brace" if isinstance(value, dict) else ""
            raise ConfigError(f"expected text, not {_shown(value)}{hint}", key=key)
        if isinstance(value, Plain) and value in NOTHING:
            raise ConfigError("no value stands here; expected text", key=key)
        if not value.strip():
            raise ConfigError("expected text that is not empty", key=key)
        if len(value) > self.most:
            raise ConfigError(f"expected at most {self.most:,} characters, not {len(value):,}", key=key)
        if not all(character.isprintable() or character in "\t\n" for character in value):
            raise ConfigError(f"there is a character in {shortened(value)} that cannot be printed", key=key)
        return str(value)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        # Numbers and booleans are text as they stand in the file.
        return {"type": ["string", "number", "boolean"], "pattern": r"\S", "maxLength": self.most}


@dataclass(frozen=True, slots=True)
class Number:
    """A number between two bounds."""

    low: float
    high: float
    unit: str
    whole: bool = False

    def read(self, value: Any, key: str) -> float:
        """Return the value; raise `ConfigError` where it is something else."""
        number = value if isinstance(value, str) and not isinstance(value, Plain) else number_of(value)
        kinds = (int,) if self.whole else (int, float)
        if not isinstance(number, kinds) or not self.low <= number <= self.high:
            kind = f"{'whole number' if self.whole else 'number'}{f' of {self.unit}' if self.unit else ''}"
            raise ConfigError(f"expected a {kind} from {self.low:g} to {self.high:.10g}, not {_shown(value)}", key=key)
        return number if self.whole else float(number)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "integer" if self.whole else "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or false, in any way in which YAML has them."""

    def read(self, value: Any, key: str) -> bool:
        """Return the value; raise `ConfigError` where it is something else."""
        if isinstance(value, bool):
            return value
        if not isinstance(value, str) or value not in _TRUTHS:
            raise ConfigError(f"expected true or false, not {_shown(value)}", key=key)
        return _TRUTHS[value]

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"enum": [True, False, *_TRUTHS]}


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes with its unit."""

    low: int = 1

    def read(self, value: Any, key: str) -> int:
        """Return the value; raise `ConfigError` where it is something else."""
        match = re.fullmatch(_SIZE, value) if isinstance(value, str) else None
        if not match:
            raise ConfigError(
                f"expected a size with its unit, such as 20 GB or 512 MiB, not {_shown(value)}; "
                f"the units are {', '.join(_BYTES)}",
                key=key,
            )
        size = int(float(match[1]) * _BYTES[match[2]])
        if not self.low <= size <= LARGEST:
            raise ConfigError(f"expected {self.low:,} bytes or more, up to 1000 PB, not {_shown(value)}", key=key)
        return size

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "string", "pattern": _SIZE}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, value: Any, key: str) -> str:
        """Return the value; raise `ConfigError` where it is something else."""
        if value not in self.words:
            hint = close_match(value, self.words) if isinstance(value, str) else ""
            raise ConfigError(f"expected one of {', '.join(self.words)}, not {_shown(value)}{hint}", key=key)
        return str(value)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of things of one kind."""

    item: Kind
    least: int = 0

    def read(self, value: Any, key: str) -> tuple[Any, ...]:
        """Return the value; raise `ConfigError` where it is something else."""
        if not isinstance(value, list):
            raise ConfigError(f"expected a list, such as [one, two], not {_shown(value)}", key=key)
        if not self.least <= len(value) <= MOST_ITEMS:
            raise ConfigError(f"expected {self.least} to {MOST_ITEMS} items, not {len(value)}", key=key)
        return tuple(self.item.read(item, f"{key}[{index}]") for index, item in enumerate(value))

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "array", "items": self.item.schema(), "minItems": self.least, "maxItems": MOST_ITEMS}


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command: text, or a list of words."""

    def read(self, value: Any, key: str) -> str | tuple[str, ...]:
        """Return the value; raise `ConfigError` where it is something else."""
        if isinstance(value, list):
            words: tuple[str, ...] = Listing(Text(), least=1).read(value, key)
            return words
        if isinstance(value, dict):
            raise ConfigError("expected a command, as text in quotes or as a list of its words, not a map", key=key)
        return Text().read(value, key)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"anyOf": [Text().schema(), Listing(Text(), least=1).schema()]}


@dataclass(frozen=True, slots=True)
class Named:
    """A map from names of the lab's own choice to text, in the order of the file."""

    def read(self, value: Any, key: str) -> dict[str, str]:
        """Return the value; raise `ConfigError` where it is something else."""
        found = _checked_map(value, key)
        if len(found) > MOST_ITEMS:
            raise ConfigError(f"expected at most {MOST_ITEMS} of them, not {len(found)}", key=key)
        for name in found:
            if not re.fullmatch(VARIABLE_NAME, name):
                raise ConfigError(
                    f"expected a name of letters, digits and _, not {shortened(name)}", key=f"{key}.{name}"
                )
        return {name: Text().read(text, f"{key}.{name}") for name, text in found.items()}

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {
            "type": "object",
            "patternProperties": {VARIABLE_NAME: Text().schema()},
            "additionalProperties": False,
            "maxProperties": MOST_ITEMS,
        }


@dataclass(frozen=True, slots=True)
class Free:
    """A map of anything, in which quotes make text of what would be a number, or true, false or null."""

    def read(self, value: Any, key: str) -> dict[str, Any]:
        """Return the value; raise `ConfigError` where it is something else."""
        found: dict[str, Any] = self._typed(_checked_map(value, key), key, 1)
        return found

    def _typed(self, value: Any, key: str, depth: int) -> Any:
        if depth > DEEPEST:
            raise ConfigError(f"nested more than {DEEPEST} levels deep", key=key)
        if isinstance(value, dict):
            return {name: self._typed(item, f"{key}.{name}", depth + 1) for name, item in value.items()}
        if isinstance(value, list):
            return [self._typed(item, f"{key}[{index}]", depth + 1) for index, item in enumerate(value)]
        if not isinstance(value, Plain):
            return value
        if value in NOTHING:
            return None
        if value.lower() in ("true", "false"):  # as in YAML 1.2, since `no` and `on` are what people write for text
            return value.lower() == "true"
        number = number_of(value)
        return str(value) if isinstance(number, str) or abs(number) == float("inf") else number

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "object"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what may stand there, and what it means; the default is as it would stand in the file."""

    kind: Kind
    description: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Table:
    """A map with certain keys.

    Parameters
    ----------
    keys : mapping of str to Key
        The keys.
    needs : mapping of str to tuple of str
        For a key that says more about others: these, one of which has to be there.
    some : tuple of str
        Keys of which one has to be there.
    misplaced : mapping of str to str
        For keys that are known elsewhere: why they cannot stand here.
    """

    keys: Mapping[str, Key]
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    some: tuple[str, ...] = ()
    misplaced: Mapping[str, str] = field(default_factory=dict)

    def read(self, value: Any, key: str) -> dict[str, Any]:
        """Return the values of all keys, None where one is neither there nor has a default."""
        found = _checked_map(value, key)
        for name in found:
            self._check_name(name, _below(key, name))
        for name, entry in self.keys.items():
            if entry.required and name not in found:
                raise ConfigError(f"this key is missing: {entry.description}", key=_below(key, name))
        for name, others in self.needs.items():
            if name in found and not any(other in found for other in others):
                raise ConfigError(
                    f"this says more about {' or '.join(others)}, which is missing", key=_below(key, name)
                )
        if self.some and not any(name in found for name in self.some):
            raise ConfigError(f"expected at least one of the keys {', '.join(self.some)}", key=key)
        return {
            name: None if value is None else entry.kind.read(value, _below(key, name))
            for name, entry in self.keys.items()
            for value in [found.get(name, entry.default)]
        }

    def _check_name(self, name: str, key: str) -> None:
        if name in self.misplaced:
            raise ConfigError(self.misplaced[name], key=key)
        if name not in self.keys:
            raise ConfigError(
                f"unknown key {shortened(name)}{close_match(name, self.keys)}; the keys here are "
                f"{', '.join(self.keys)}",
                key=key,
            )

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        properties = {}
        for name, entry in self.keys.items():
            properties[name] = {"description": entry.description, **entry.kind.schema()}
            if entry.default is not None:
                properties[name]["default"] = entry.default
        found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        if required := [name for name, entry in self.keys.items() if entry.required]:
            found["required"] = required
        if self.some:
            found["anyOf"] = [{"required": [name]} for name in self.some]
        if self.needs:
            found["dependentSchemas"] = {
                name: {"anyOf": [{"required": [other]} for other in others]} for name, others in self.needs.items()
            }
        return found


def _checked_map(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(
            f"expected a map, with one key and its value in each line, not {_shown(value)}", key=key or None
        )
    return value


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return shortened(str(value), 80)
    return "a map" if isinstance(value, dict) else "a list"


# ------------------------------------------------------------------------------------------------------- the table

_WAIT = Number(SHORTEST_WAIT, DAY, "seconds")

_RUN = {
    "run": Key(CommandLine(), "A command that is waited for; other than exit status 0 is a failure of the message."),
    "timeout": Key(_WAIT, "Seconds that the command of run may take; then it is ended, and has failed.", default=60.0),
}
_HOW = {
    "shell": Key(Boolean(), "Have a shell read the command, as one line.", default=False),
    "folder": Key(Text(), "The folder in which the command runs; that of this file where there is none."),
}
_START = {
    "start": Key(
        CommandLine(), "A command that goes on until EXPEND, EXPINTERRUPT, EXPCLEANUP, the lease or the agent's end."
    ),
    "ready": Key(
        Table(
            {
                "file": Key(Text(), "The file that says that it records.", required=True),
                "within": Key(_WAIT, "Seconds within which the file has to exist.", required=True),
            }
        ),
        "Answer only when this file exists; until then the start may fail.",
    ),
    "frames": Key(
        Text(LONGEST_PATTERN),
        "A regular expression with one group: the number of frames in a line of the command's output.",
    ),
    "good_exit": Key(
        Listing(Number(0, LARGEST_STATUS, "", whole=True), least=1),
        "The exit statuses with which it may end when it is told to, 128 and its number for a signal; in place of 0, "
        "255 and the signal that it was sent.",
    ),
}
_STOP = {
    "stop": Key(
        Table(
            {
                "signal": Key(Choice(SIGNALS), "How it is asked first.", default="interrupt"),
                "grace": Key(
                    Number(0, DAY, "seconds"),
                    "Seconds until the next, harder way.",
                    default=10.0,
                ),
            }
        ),
        "End what start began: interrupt, after the grace terminate, after that kill.",
    )
}

_BEGIN = Table(
    {**_RUN, **_START, **_HOW},
    needs={
        "timeout": ("run",),
        "ready": ("start",),
        "frames": ("start",),
        "good_exit": ("start",),
        "shell": ("run", "start"),
        "folder": ("run", "start"),
    },
    some=("run", "start"),
    misplaced={"stop": "stop belongs to EXPEND, EXPINTERRUPT or EXPCLEANUP; at this message nothing is to be stopped"},
)
_END = Table(
    {**_STOP, **_RUN, **_HOW},
    needs={"timeout": ("run",), "shell": ("run",), "folder": ("run",)},
    some=("stop", "run"),
    misplaced=dict.fromkeys(
        _START, "start and its keys belong to EXPINIT or EXPSTART; after this message nothing would end the process"
    ),
)

BEGINNING = ("EXPINIT", "EXPSTART")
ENDING = ("EXPEND", "EXPINTERRUPT", "EXPCLEANUP")
"""The messages at which something may be started, and at which it may be stopped."""

_MESSAGES = Table(
    {
        "EXPINIT": Key(_BEGIN, "What prepares a session."),
        "EXPSTART": Key(_BEGIN, "What records."),
        "EXPEND": Key(_END, "What ends the recording."),
        "EXPINTERRUPT": Key(_END, "What is done besides, where a session is broken off."),
        "EXPCLEANUP": Key(_END, "What tidies up, for instance transfers the files."),
    },
    some=BEGINNING + ENDING,
    misplaced=dict.fromkeys(
        ("EXPINFO", "EXPSTATUS", "ALYX"),
        f"a rig answers this message by itself; the messages here are {', '.join(BEGINNING + ENDING)}",
    ),
)

_REQUIRE = Table(
    {
        "free_disk": Key(
            Table(
                {
                    "path": Key(Text(), "A file or folder on the disk.", required=True),
                    "at_least": Key(Size(), "How much has to be free, such as 20 GB.", required=True),
                }
            ),
            "Refuse EXPINIT where the disk has less room.",
        ),
        "files": Key(Listing(Text(), least=1), "Files that have to be readable, and folders that have to be writable."),
        "programs": Key(Listing(Text(), least=1), "Programs that have to be there besides those of the commands."),
    },
    some=("free_disk", "files", "programs"),
)

AGENT = Table(
    {
        "name": Key(Text(LONGEST_NAME), "The name of the rig.", required=True),
        "listen": Key(
            Text(500), "Where it listens, for instance udp://0.0.0.0:11001.", default=f"udp://0.0.0.0:{LISTEN_PORT}"
        ),
        "main_sync": Key(Boolean(), "Whether it records the signal to which all rigs are aligned.", default=False),
        "lease": Key(
            Number(0, LONGEST_LEASE, "seconds (0 for never)"),
            "Seconds of the coordinator's silence after which it interrupts by itself; 0 for never.",
            default=LEASE,
        ),
        "max_message": Key(
            Number(MAX_DATAGRAM, LARGEST_MESSAGE, "bytes", whole=True),
            "Bytes of the largest message on tcp://; rigs.yaml says the same of this rig.",
            default=MAX_MESSAGE,
        ),
        "experiment_description": Key(Free(), "Devices and their settings, sent with each answer."),
        "variables": Key(Named(), "Text that {name} stands for, here and in every command and path."),
        "folders": Key(Listing(Text(), least=1), "Folders that are made at EXPINIT, for what is recorded."),
        "existing": Key(
            Choice(EXISTING),
            "What to do where a file of ready or verify is there before: refuse to start; or keep it, for the recorder "
            "adds to it; or have it overwritten.",
            default=REFUSE,
        ),
        "on": Key(_MESSAGES, "What is done at each message.", required=True),
        "require": Key(_REQUIRE, "What has to be there; without it EXPINIT is refused."),
        "verify": Key(
            Table(
                {
                    "files": Key(Text(), "The files that are recorded; * and ? stand for others.", required=True),
                    "growing_within": Key(_WAIT, "Seconds in which they have to grow.", required=True),
                    "settled_within": Key(
                        _WAIT,
                        "Seconds after the end within which they have to stop growing; then they must not for as long.",
                        default=1.0,
                    ),
                    "segments": Key(
                        Boolean(),
                        "The recorder goes on in new files: the newest has to grow, finished ones stay as they are.",
                        default=False,
                    ),
                }
            ),
            "Tell where these files stop growing while RUNNING, and fail EXPEND where they are not there, or empty.",
        ),
        "logs": Key(
            Table(
                {
                    "folder": Key(
                        Text(), "The folder of the logs; by default one for this rig, in logs beside this file."
                    ),
                    "keep": Key(Number(1, 100_000, "sessions", whole=True), "How many sessions are kept.", default=100),
                    "max_size": Key(Size(low=10_000), "How large the log of a session may grow.", default="10 MB"),
                },
            ),
            "Where the output of the commands goes.",
            default={},
        ),
    }
)
"""The whole file."""
