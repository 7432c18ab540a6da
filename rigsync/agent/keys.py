"""The keys of an agent's file: one table, from which both the checks and the schema for editors come."""

from __future__ import annotations

import os
import re

from rigsync.config.alerts import ALERTS
from rigsync.config.files import RIG_BRIDGES
from rigsync.config.journal import JOURNAL
from rigsync.config.rigs import NAME
from rigsync.config.schema import (
    MOST_ITEMS,
    Key,
    Table,
    boolean,
    choice,
    either,
    free,
    listing,
    mapping,
    number,
    size,
    text,
)
from rigsync.config.yaml import document_node, read_text
from rigsync.core.ownership import LEASE
from rigsync.core.rigs import LARGEST_MESSAGE, LISTEN_PORT, MAX_DATAGRAM, MAX_MESSAGE
from rigsync.errors import ConfigError

EXPECTED = "expected a YAML file with the keys name, listen and on, as docs/agent.md has it"
"""What the error asks for where a file is none of these."""

DAY = 86_400.0
LONGEST_LEASE = 7 * DAY
SHORTEST_WAIT = 0.001
"""Bounds of times, in seconds; what is beyond them was meant otherwise."""
LONGEST_PATTERN = 500
"""Characters of a regular expression, which is tried at every line of output."""
LARGEST_STATUS = 2**32 - 1
"""Exit statuses on Windows; elsewhere they are at most 255."""

SIGNALS = ("interrupt", "terminate", "kill")
"""How a process can be asked to end, the politest way first."""
END, INTERRUPT = ENDS = ("end", "interrupt")
"""How a session may have ended."""
WAIT, GO_ON = WHILE_RECORDING = ("wait", "go on")
"""What is done after a session waits while another one records, or goes on."""
REFUSE, KEEP, OVERWRITE = EXISTING = ("refuse", "keep", "overwrite")
"""What may be done about a file that is there before it is recorded; the first is the default."""

_COMMAND = either(
    {str: text(), list: listing(text(), least=1)}, "a command, as text in quotes or as a list of its words"
)
_VARIABLE = text(whole="[A-Za-z_][A-Za-z0-9_]*", expected="a name of letters, digits and _")
_WAIT = number(SHORTEST_WAIT, DAY, "seconds")

_RUN = {
    "run": Key(_COMMAND, "A command that is waited for; other than exit status 0 is a failure of the message."),
    "timeout": Key(_WAIT, "Seconds that the command of run may take; then it is ended, and has failed.", default=60.0),
}
_HOW = {
    "shell": Key(boolean(), "Have a shell read the command, as one line.", default=False),
    "folder": Key(text(), "The folder in which the command runs; that of this file where there is none."),
}
_START = {
    "start": Key(
        _COMMAND, "A command that goes on until EXPEND, EXPINTERRUPT, EXPCLEANUP, the lease or the agent's end."
    ),
    "ready": Key(
        Table(
            {
                "file": Key(text(), "The file that says that it records.", required=True),
                "within": Key(_WAIT, "Seconds within which the file has to exist.", required=True),
            }
        ),
        "Answer only when this file exists; until then the start may fail.",
    ),
    "frames": Key(
        text(LONGEST_PATTERN),
        "A regular expression with one group: the number of frames in a line of the command's output.",
    ),
    "good_exit": Key(
        listing(number(0, LARGEST_STATUS, whole=True), least=1),
        "The exit statuses with which it may end when it is told to, 128 and its number for a signal; in place of 0, "
        "255 and the signal that it was sent.",
    ),
}
_STOP = {
    "stop": Key(
        Table(
            {
                "signal": Key(choice(SIGNALS), "How it is asked first.", default="interrupt"),
                "grace": Key(number(0, DAY, "seconds"), "Seconds until the next, harder way.", default=10.0),
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

_VALIDATE = Table(
    {
        "run": Key(
            _COMMAND,
            "A command that looks at a finished file, {file}, or at all where it does not name {file}; other than exit "
            "status 0 fails EXPEND.",
            required=True,
        ),
        "timeout": Key(
            _WAIT, "Seconds that it may take for each file; then it is ended, and has failed.", default=60.0
        ),
        **_HOW,
    }
)

_FINISH = Table(
    {
        "steps": Key(
            listing(
                Table(
                    {
                        "run": Key(
                            _COMMAND,
                            "A command; other than exit status 0 is a failure, and it is run again later.",
                            required=True,
                        ),
                        "timeout": Key(
                            _WAIT, "Seconds that it may take; then it is ended, and has failed.", default=21_600.0
                        ),
                        "percent": Key(
                            text(LONGEST_PATTERN),
                            "A regular expression with one group: the percentage in a line of the command's output.",
                        ),
                        **_HOW,
                    }
                ),
                least=1,
            ),
            "What is done after a session, one command after the other: copying, transcoding, checksums.",
            required=True,
        ),
        "after": Key(
            listing(choice(ENDS), least=1),
            "After which ends: of sessions that were ended, or interrupted.",
            default=[*ENDS],
        ),
        "at_once": Key(
            number(1, 16, "sessions", whole=True), "Of how many sessions this is done at the same time.", default=1
        ),
        "while_recording": Key(
            choice(WHILE_RECORDING),
            "From EXPINIT to the end of the next recording, what is done waits, or goes on.",
            default=WAIT,
        ),
        "queue": Key(
            text(),
            "The folder in which rigsync keeps what is still to be done; by default one for this rig, in finish beside "
            "this file.",
        ),
    }
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
                    "path": Key(text(), "A file or folder on the disk.", required=True),
                    "at_least": Key(size(), "How much has to be free, such as 20 GB.", required=True),
                }
            ),
            "Refuse EXPINIT where the disk has less room.",
        ),
        "files": Key(listing(text(), least=1), "Files that have to be readable, and folders that have to be writable."),
        "programs": Key(listing(text(), least=1), "Programs that have to be there besides those of the commands."),
    },
    some=("free_disk", "files", "programs"),
)

AGENT = Table(
    {
        "name": Key(NAME, "The name of the rig.", required=True),
        "listen": Key(
            text(500),
            "Where it listens, for instance udp://0.0.0.0:11001, or mqtt://broker/prefix by way of a broker.",
            default=f"udp://0.0.0.0:{LISTEN_PORT}",
        ),
        "main_sync": Key(boolean(), "Whether it records the signal to which all rigs are aligned.", default=False),
        "lease": Key(
            number(0, LONGEST_LEASE, "seconds (0 for never)"),
            "Seconds of the coordinator's silence after which it interrupts by itself; 0 for never.",
            default=LEASE,
        ),
        "max_message": Key(
            number(MAX_DATAGRAM, LARGEST_MESSAGE, "bytes", whole=True),
            "Bytes of the largest message on tcp://; rigs.yaml says the same of this rig.",
            default=MAX_MESSAGE,
        ),
        "experiment_description": Key(free(), "Devices and their settings, sent with each answer."),
        "variables": Key(
            mapping(text(), _VARIABLE, MOST_ITEMS),
            "Text that {name} stands for, here and in every command and path.",
        ),
        "rehearsal": Key(
            mapping(text(), _VARIABLE, MOST_ITEMS),
            "Of the variables, what some stand for in a rehearsal; without it there is none.",
        ),
        "folders": Key(listing(text(), least=1), "Folders that are made at EXPINIT, for what is recorded."),
        "existing": Key(
            choice(EXISTING),
            "What to do where a file of ready or verify is there before: refuse to start; or keep it, for the recorder "
            "adds to it; or have it overwritten.",
            default=REFUSE,
        ),
        "on": Key(_MESSAGES, "What is done at each message.", required=True),
        "require": Key(_REQUIRE, "What has to be there; without it EXPINIT is refused."),
        "verify": Key(
            Table(
                {
                    "files": Key(text(), "The files that are recorded; * and ? stand for others.", required=True),
                    "growing_within": Key(_WAIT, "Seconds in which they have to grow.", required=True),
                    "settled_within": Key(
                        _WAIT,
                        "Seconds after the end within which they have to stop growing; then they must not for as long.",
                        default=1.0,
                    ),
                    "segments": Key(
                        boolean(),
                        "The recorder goes on in new files: the newest has to grow, finished ones stay as they are.",
                        default=False,
                    ),
                }
            ),
            "Tell where these files stop growing while RUNNING, and fail EXPEND where they are not there, or empty.",
        ),
        "validate": Key(_VALIDATE, "What looks at the finished files at EXPEND, once verify has found them good."),
        "finish": Key(_FINISH, "What is done after a session, in the background, while the next one may begin."),
        "logs": Key(
            Table(
                {
                    "folder": Key(
                        text(), "The folder of the logs; by default one for this rig, in logs beside this file."
                    ),
                    "keep": Key(number(1, 100_000, "sessions", whole=True), "How many sessions are kept.", default=100),
                    "max_size": Key(size(low=10_000), "How large the log of a session may grow.", default="10 MB"),
                }
            ),
            "Where the output of the commands goes.",
            default={},
        ),
        "bridges": Key(RIG_BRIDGES, "By what other programs are told what happens at this rig.", default={}),
        "journal": JOURNAL,
        "alerts": Key(ALERTS, "Who is told of what that happens at this rig.", default=[]),
    },
    needs={"validate": ("verify",)},
)
"""The whole file."""


def is_agent_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is meant for an agent, and not a file of rigs, even if it has mistakes.

    Raises
    ------
    ConfigError
        The file cannot be read.
    """
    source = os.fspath(path)
    try:
        keys = {key.value for key, _ in document_node(source, EXPECTED).value if isinstance(key.value, str)}
    except ConfigError:
        # Not YAML, because of a mistake: the lines that look like keys tell it.
        keys = set(re.findall(r"^([a-z_]+)[ \t]*:", read_text(source, EXPECTED), re.MULTILINE))
    # A flat file of rigs may have a rig whose name is one of these, but hardly two.
    return "rigs" not in keys and len(keys & set(AGENT.keys)) > 1
