"""Rigs that are programs of another protocol: their addresses, and what they are sent at each message."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rigsync._text import shortened
from rigsync.config.address import parse_uri
from rigsync.config.schema import Key, Kind, Known, Mistakes, Table, either, free, listing, scalar, text, under
from rigsync.config.templates import wrong_fields
from rigsync.core.enums import ExpMessage
from rigsync.core.rigs import Address, RigConfig
from rigsync.errors import ConfigError

SCHEMES = ("osc", "zmq+req")
"""How the addresses of such rigs begin. An OSC program is sent a list, a ZeroMQ program a map."""
FIELDS = ("exp_ref", "date", "number", "subject")
"""The fields of a template that come from the reference of the experiment."""
MESSAGE = "message."
"""``{message.KEY}`` is the value of KEY in the message's data, or else in the data of EXPINIT."""
ID = "id"
"""By OSC, a number that the answer must repeat."""
_EXAMPLES = {"osc": '[/exp/start, "{exp_ref}"]', "zmq+req": '{command: start, session: "{exp_ref}"}'}
_ENDS = ("EXPEND", "EXPINTERRUPT")
_FAMILY = (MESSAGE, "for what the message's data have by that name")
_TEMPLATE = either(
    {list: listing(scalar(), 1), dict: Kind(free().read, {"type": "object"})},
    f"a list, such as {_EXAMPLES['osc']}, or a map, such as {_EXAMPLES['zmq+req']}",
)
KEYS = {
    "messages": Key(
        Table(
            {
                name: Key(_TEMPLATE, f"What {name} is to that program; without it the program hears nothing of {name}.")
                for name, message in ExpMessage.__members__.items()
                if message is not ExpMessage.ALYX  # it carries a token
            }
        ),
        "Only for osc:// and zmq+req://: what the program is sent at each message. By OSC a list of address and "
        "arguments, by ZeroMQ a map, with fields such as {exp_ref}.",
    ),
    "answer": Key(
        text(500, r"/\S*", "an OSC address, such as /exp/answer"),
        "Only for osc://: the OSC address of the program's answers. Without it nobody confirms anything.",
    ),
    "listen": Key(
        text(500, r"udp://\S+:[0-9]{1,5}", "udp://, an IP address of this computer and a port"),
        "Only for osc://: where the program's answers come, unless they go to the port that it was sent from.",
    ),
    "ping": Key(_TEMPLATE, "Only for osc:// and zmq+req://: what the program is sent each second, and answers."),
}
"""The keys that the table of a rig has for such programs."""


@dataclass(frozen=True, slots=True)
class ProgramRig(RigConfig):
    """A program of another protocol as a rig. A rig of rigsync stands in for it.

    Parameters
    ----------
    messages : mapping
        What the program is sent at each message, by its name: texts, numbers, lists and maps, with fields in the texts.
    answer : str, optional
        By OSC, the address of its answers.
    listen : Address, optional
        By OSC, where its answers come, beside the port that the message left from.
    ping : list or mapping, optional
        What it is sent each second, and answers.
    """

    messages: Mapping[str, Any] = field(default_factory=dict, hash=False)
    answer: str | None = None
    listen: Address | None = None
    ping: Any = field(default=None, hash=False)
    tells_start: ClassVar[bool] = False


def scheme_of(uri: object) -> str | None:
    """Return how the address of such a rig begins; None for any other address."""
    scheme = uri.partition("://")[0].lower() if isinstance(uri, str) and "://" in uri else ""
    return scheme if scheme in SCHEMES else None


def program_rig(name: str, scheme: str, options: Mapping[str, Any]) -> ProgramRig:
    """Return such a rig; raise a `ConfigError` with all its mistakes, whose keys begin at the rig."""
    mistakes = Mistakes()
    if not isinstance(options, Known):
        own = {key: value for key, value in options.items() if key in KEYS}
        options = Known({**options, **Table(KEYS).read(own, "", mistakes)})
        if mistakes:
            raise ConfigError.of(mistakes)
    uri, ping, timeout = options["uri"], options["ping"], options.get("timeout")
    messages = {each: value for each, value in (options["messages"] or {}).items() if value is not None}
    mistakes.add(_misplaced(scheme, options))
    for place, template in [*((f"messages.{each}", value) for each, value in messages.items()), ("ping", ping)]:
        if template is not None:
            mistakes.add(_problems(template, place, scheme))
    mistakes.add(_lacking(messages, scheme, getattr(options["messages"], "wrong", frozenset())))
    with mistakes, under("uri"):
        expected = f"{scheme}://, a host and a port, such as {scheme}://192.168.1.30:9000"
        found = parse_uri(uri.partition("://")[2], what="a host and a port", expected=expected)
        if not re.search(r":\d+$", uri):
            raise ConfigError(f"{shortened(uri, 80)} has no port; expected {expected}")
    with mistakes, under("listen"):
        listen = None if options["listen"] is None else parse_uri(options["listen"], what="where answers can come")
    if mistakes:
        raise ConfigError.of(mistakes)
    return ProgramRig(
        name,
        Address(scheme, found.host, found.port),
        **({} if timeout is None else {"timeout": timeout}),
        dialect="rigsync",
        messages=messages,
        answer=options["answer"],
        listen=listen,
        ping=ping,
    )


def _misplaced(scheme: str, options: Mapping[str, Any]) -> Iterator[ConfigError]:
    others = {"answer": "by OSC", "listen": "by OSC"} if scheme != "osc" else {}
    for key, whose in {**others, **dict.fromkeys(("dialect", "resend", "pause"), "that speaks iblutil")}.items():
        if options.get(key) not in (None, False, "auto"):
            yield ConfigError(f"{key} is for a rig {whose}", key=key)


def _lacking(messages: Mapping[str, Any], scheme: str, wrong: frozenset[str]) -> Iterator[ConfigError]:
    if not messages and not wrong:
        problem = f"nothing says what the program is sent; write it, such as messages: {{EXPINIT: {_EXAMPLES[scheme]}}}"
        yield ConfigError(problem, key="messages")
    missing = [end for end in _ENDS if end not in messages and end not in wrong]
    if "EXPSTART" in messages and missing:
        problem = f"{' and '.join(_ENDS)} have to stop what EXPSTART starts; write {' and '.join(missing)}, too"
        yield ConfigError(problem, key="messages")


def _problems(template: Any, key: str, scheme: str) -> Iterator[ConfigError]:
    known = () if key == "ping" else (*FIELDS, ID) if scheme == "osc" else FIELDS
    if isinstance(template, dict) is (scheme == "osc"):
        yield ConfigError(f"what a rig at {scheme}:// is sent is written as in {_EXAMPLES[scheme]}", key=key)
    elif scheme == "osc" and not re.fullmatch(r"/[^\s#*,?\[\]{}]*", str(template[0])):
        problem = f"an OSC message begins with an address, such as /exp/start, not with {shortened(template[0], 80)}"
        yield ConfigError(problem, key=f"{key}[0]")
    else:
        none = "" if known else "a ping has no fields"
        yield from wrong_fields(template, key, known, _FAMILY if known else ("", ""), none)
