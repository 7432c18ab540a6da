"""OSC packets, good and damaged, for the tests of the bridge."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

SEED = 20261130


def message(address: str, *args: Any) -> OscMessage:
    builder = OscMessageBuilder(address)
    for arg in args:
        builder.add_arg(arg)
    return builder.build()


def bundle(at: float, *contents: Any) -> Any:
    builder = OscBundleBuilder(at)
    for content in contents:
        builder.add_content(content)
    return builder.build()


GOOD = message("/a", 1).dgram
SIZES = [struct.pack(">i", size) for size in (-4, -1, 0, 4, 1 << 20, -(1 << 31))]
SPLICES = [b"#bundle\0", b",", b"[", b"\0\0\0\0", b"/", b"\xff"]


def mutated(packet: bytes, chance: Callable[[], float]) -> bytes:
    """Return a packet with some of its bytes changed, left out, doubled or cut."""
    data = bytearray(packet)
    for _ in range(1 + int(3 * chance())):
        place, some = int(len(data) * chance()), int(9 * chance())
        match int(5 * chance()):
            case 0:
                data[place : place + 1] = bytes([int(256 * chance())])
            case 1:
                del data[place : place + some]
            case 2:
                data[place:place] = data[place : place + 4 * some]
            case 3:
                data[place : place + 4] = SIZES[some % len(SIZES)]
            case 4:
                data[place:place] = SPLICES[some % len(SPLICES)]
    return bytes(data)


SAMPLES = [
    GOOD,
    message("/rigsync/push/EXPSTART", "2026-11-20_1_mouse", '{"a": 1}').dgram,
    message("/rigsync/*/EXPINFO", 1, 2.5, "x", b"blob", [1, [2]], None, True).dgram,
    bundle(0, message("/a", 1), bundle(0, message("/b", "x"), message("/c"))).dgram,
]
