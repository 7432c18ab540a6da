"""Rigs that are programs of another protocol: their addresses, and what they are sent at each message."""

from __future__ import annotations

import os
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

SCHEMES = ("osc", "osc+tcp", "osc+tcp+length", "zmq+req")
"""How the addresses of such rigs begin. An OSC program is sent a list, a ZeroMQ program a map."""
OSC, ZMQ = "osc", "zmq+req"
"""The protocols, each by the address with which it begins: OSC is by UDP, or by TCP with either framing."""
FIELDS = ("exp_ref", "date", "number", "subject")
"""The fields of a template that come from the reference of the experiment."""
MESSAGE = "message."
"""``{message.KEY}`` is the value of KEY in the message's data, or else in the data of EXPINIT."""
ID = "id"
"""By OSC, a number that the answer must repeat."""
_EXAMPLES = {OSC: '[/exp/start, "{exp_ref}"]', ZMQ: '{command: start, session: "{exp_ref}"}'}
CURVE_KEY = text(40, r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}", "a public key, 40 characters in quotes")
"""A public key of ZeroMQ."""
_ENDS = ("EXPEND", "EXPINTERRUPT")
_FAMILY = (MESSAGE, "for what the message's data have by that name")
_TEMPLATE = either(
    {list: listing(scalar(), 1), dict: Kind(free().read, {"type": "object"})},
    f"a list, such as {_EXAMPLES[OSC]}, or a map, such as {_EXAMPLES[ZMQ]}",
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
        "Only for osc://, by UDP: where the program's answers come, unless they go to the port that it was sent from.",
    ),
    "curve": Key(
        Table(
            {
                "secret_key": Key(text(), "The file of rigsync's own secret key.", required=True),
                "server": Key(CURVE_KEY, "The program's public key.", required=True),
            }
        ),
        "Only for zmq+req://: the keys of a program that lets nobody in without.",
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
    curve : mapping, optional
        By ZeroMQ, ``secret_key``, the file of rigsync's own key, and ``server``, the program's public key.
    """

    messages: Mapping[str, Any] = field(default_factory=dict, hash=False)
    answer: str | None = None
    listen: Address | None = None
    ping: Any = field(default=None, hash=False)
    curve: Mapping[str, str] | None = field(default=None, hash=False)
    tells_start: ClassVar[bool] = False

    @property
    def protocol(self) -> str:
        """The protocol, `OSC` or `ZMQ`."""
        return protocol_of(self.address.scheme)


def protocol_of(scheme: str) -> str:
    """Return the protocol of an address that begins so."""
    return OSC if scheme.startswith(OSC) else scheme


def scheme_of(uri: object) -> str | None:
    """Return how the address of such a rig begins; None for any other address."""
    scheme = uri.partition("://")[0].lower() if isinstance(uri, str) and "://" in uri else ""
    return scheme if scheme in SCHEMES else None


def program_rig(name: str, scheme: str, options: Mapping[str, Any], folder: str = "") -> ProgramRig:
    """Return such a rig; raise a `ConfigError` with all its mistakes, whose keys begin at the rig.

    Relative paths begin at `folder`.
    """
    protocol = protocol_of(scheme)
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
            mistakes.add(_problems(template, place, protocol))
    mistakes.add(_lacking(messages, protocol, getattr(options["messages"], "wrong", frozenset())))
    with mistakes, under("uri"):
        expected = f"{scheme}://, a host and a port, such as {scheme}://192.168.1.30:9000"
        found = parse_uri(uri.partition("://")[2], what="a host and a port", expected=expected)
        if not re.search(r":\d+$", uri):
            raise ConfigError(f"{shortened(uri, 80)} has no port; expected {expected}")
    with mistakes, under("listen"):
        listen = None if options["listen"] is None else parse_uri(options["listen"], what="where answers can come")
    curve = options["curve"]
    if curve is not None:
        curve = {"secret_key": os.path.join(folder, curve["secret_key"]), "server": curve["server"]}
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
        curve=curve,
    )


def _misplaced(scheme: str, options: Mapping[str, Any]) -> Iterator[ConfigError]:
    is_osc = protocol_of(scheme) == OSC
    others = {"curve": "by ZeroMQ"} if is_osc else {"answer": "by OSC"}
    others |= {} if scheme == OSC else {"listen": "by OSC over UDP"}
    for key, whose in {**others, **dict.fromkeys(("dialect", "resend", "pause"), "that speaks iblutil")}.items():
        if options.get(key) not in (None, False, "auto"):
            yield ConfigError(f"{key} is for a rig {whose}", key=key)


def _lacking(messages: Mapping[str, Any], protocol: str, wrong: frozenset[str]) -> Iterator[ConfigError]:
    if not messages and not wrong:
        problem = (
            f"nothing says what the program is sent; write it, such as messages: {{EXPINIT: {_EXAMPLES[protocol]}}}"
        )
        yield ConfigError(problem, key="messages")
    missing = [end for end in _ENDS if end not in messages and end not in wrong]
    if "EXPSTART" in messages and missing:
        problem = f"{' and '.join(_ENDS)} have to stop what EXPSTART starts; write {' and '.join(missing)}, too"
        yield ConfigError(problem, key="messages")


def _problems(template: Any, key: str, protocol: str) -> Iterator[ConfigError]:
    known = () if key == "ping" else (*FIELDS, ID) if protocol == OSC else FIELDS
    if isinstance(template, dict) is (protocol == OSC):
        yield ConfigError(f"what a rig at {protocol}:// is sent is written as in {_EXAMPLES[protocol]}", key=key)
    elif protocol == OSC and not re.fullmatch(r"/[^\s#*,?\[\]{}]*", str(template[0])):
        problem = f"an OSC message begins with an address, such as /exp/start, not with {shortened(template[0], 80)}"
        yield ConfigError(problem, key=f"{key}[0]")
    else:
        none = "" if known else "a ping has no fields"
        yield from wrong_fields(template, key, known, _FAMILY if known else ("", ""), none)
