"""OSC packets to messages and back: the bytes of arguments by python-osc, and before it what it takes on trust.

python-osc follows a bundle's sizes wherever they lead, back to where it came from too, and leaves out what it does not
know. So a packet is taken apart, and the types of a message are checked, before it sees any.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rigsync._text import shortened
from rigsync.bridges.asking import Refused

try:
    from pythonosc.osc_message import OscMessage, ParseError
    from pythonosc.parsing import osc_types
except ModuleNotFoundError as missing:
    text = "OSC needs python-osc, which is not installed: install the extra osc of rigsync, or pip install python-osc"
    raise ModuleNotFoundError(text, name=missing.name) from missing

LARGEST = 65_507
"""Bytes of the largest packet, over TCP too: as much as a datagram carries."""
MOST_ARGUMENTS = 1024
"""Most arguments of a message. python-osc takes time in proportion to their number times the size of the message."""
DEEPEST = 16
"""Levels of bundles in bundles, and of lists in lists."""
MOST_MESSAGES = 1024
"""Most messages of one packet."""
IMMEDIATELY = 1
"""The time tag that means at once."""
_BUNDLE = b"#bundle\0"
_HEAD = struct.Struct(">8sQ")
_SIZE = struct.Struct(">i")
_UNIX = 2_208_988_800
"""Seconds from 1900, where time tags begin, to 1970."""
_TYPES = frozenset("ifsbhdtrmTFN[]")
_INT32, _FLOAT32 = 1 << 31, 3.4e38


class BadPacket(Refused):
    """Bytes that are no OSC packet; the text says why."""

    kind = "malformed"


class Element(NamedTuple):
    """A message of a packet."""

    tag: int
    """When to act on it, as an OSC time tag: the latest of the bundles that it is in."""
    data: bytes


def unpack(packet: bytes) -> list[Element]:
    """Return the messages of a packet, each with its time tag; raise a `BadPacket` where it is none."""
    found: list[Element] = []
    for element in _elements(packet, IMMEDIATELY, 0):
        found.append(element)
        if len(found) > MOST_MESSAGES:
            raise BadPacket(f"a bundle of more than {MOST_MESSAGES:,} messages")
    return found


def _elements(packet: bytes, tag: int, depth: int) -> Iterator[Element]:
    if packet[:1] == b"/":
        yield Element(tag, packet)
        return
    if not packet.startswith(_BUNDLE) or len(packet) < _HEAD.size:
        raise BadPacket(f"{shortened(packet[:16])} is neither a message, which begins with /, nor a bundle")
    if depth > DEEPEST:
        raise BadPacket(f"bundles in bundles, more than {DEEPEST} deep")
    tag = max(tag, _HEAD.unpack_from(packet)[1])  # a bundle acts no sooner than the one around it
    position = _HEAD.size
    while position < len(packet):
        begin = position + _SIZE.size
        size = _SIZE.unpack_from(packet, position)[0] if begin <= len(packet) else 0
        position = begin + size
        if size < 0 or size % 4 or position > len(packet):
            raise BadPacket(f"a bundle whose element of {size:,} bytes cannot be there")
        yield from _elements(packet[begin:position], tag, depth + 1)


def decode(data: bytes) -> tuple[str, list[Any]]:
    """Return address and arguments of a message; raise a `BadPacket` where it is none."""
    _check_types(data)
    try:
        message = OscMessage(data)
        return message.address, message.params
    except (ParseError, ValueError, OverflowError) as error:  # text that is not UTF-8 is a ValueError
        raise BadPacket(f"a message whose arguments cannot be read: {error.args[-1]}") from None


def address_of(data: bytes) -> str:
    """Return the address of a message that may be damaged behind it."""
    return data.partition(b"\0")[0].decode(errors="replace")


def _check_types(data: bytes) -> None:
    """Raise a `BadPacket` for types of arguments that python-osc does not know, or too many of them."""
    begin = (data.find(b"\0") // 4 + 1) * 4
    end = data.find(b"\0", begin)
    if begin == 0 or (end < 0 and begin < len(data)):
        raise BadPacket("a message that ends in its address or its type tags")
    tags = data[begin:end].decode("latin-1") if begin < len(data) else ","
    if tags[:1] != ",":
        raise BadPacket(f"a message whose type tags do not begin with a comma: {shortened(tags)}")
    if unknown := set(tags[1:]) - _TYPES:
        raise BadPacket(f"a message with an argument of the type {shortened(min(unknown))}, which is not known here")
    if len(tags) > MOST_ARGUMENTS:
        raise BadPacket(f"a message of more than {MOST_ARGUMENTS:,} arguments")
    depth = 0
    for tag in tags:
        depth += (tag == "[") - (tag == "]")
        if not 0 <= depth <= DEEPEST:
            raise BadPacket(f"a message whose lists do not close, or are more than {DEEPEST} deep")


def encode(address: str, args: Sequence[str | float]) -> bytes:
    """Return a message of texts, whole numbers and others, the plain types that every OSC program takes."""
    tags, parts = ",", []
    for value in args:
        if isinstance(value, str):
            tags += "s"
            parts.append(_string(value))
        elif isinstance(value, int) and -_INT32 <= value < _INT32:
            tags += "i"
            parts.append(osc_types.write_int(value))
        else:
            tags += "f"
            parts.append(osc_types.write_float(float(min(max(value, -_FLOAT32), _FLOAT32))))
    return b"".join([_string(address), _string(tags), *parts])


def bundle(at: float, message: bytes) -> bytes:
    """Return a message that takes effect at a Unix time in seconds."""
    return _HEAD.pack(_BUNDLE, int((at + _UNIX) * 2**32)) + _SIZE.pack(len(message)) + message


def _string(text: str) -> bytes:
    """Return text, whatever is in it, as OSC has it: ended by a null character, and filled up to four bytes."""
    data = text.encode(errors="replace").replace(b"\0", b"")
    return data + bytes(4 - len(data) % 4)


def seconds_of(tag: int) -> float:
    """Return a time tag as Unix time in seconds."""
    return tag / 2**32 - _UNIX
