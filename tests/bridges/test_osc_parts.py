"""The pure parts of the OSC bridge: addresses and patterns, packets, bundles, framing, subscriptions."""

from __future__ import annotations

import random
import struct
import time
from typing import Any

import pytest

pytest.importorskip("pythonosc", reason="python-osc is not installed here")

from pythonosc.osc_message import OscMessage

from bridges.support import GOOD, SAMPLES, SEED, bundle, message, mutated
from rigsync.bridges.osc import codec, framing
from rigsync.bridges.osc.address_space import LONGEST, AddressSpace, BadPattern, matcher
from rigsync.bridges.osc.bundles import MOST_AHEAD, Bundles
from rigsync.bridges.osc.clients import KEPT, MOST_CLIENTS, Clients
from rigsync.errors import RemoteProtocolError

# ------------------------------------------------------------------------------------------- addresses and patterns


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("*", ["", "a", "cameras"], []),
        ("cam*", ["cam", "cameras"], ["ca", "xcam"]),
        ("*eras", ["cameras", "eras"], ["erase"]),
        ("c*m*s", ["cams", "cameras", "cmms"], ["cam", "camera"]),
        ("?", ["a"], ["", "ab"]),
        ("cam?", ["cam1"], ["cam", "cam12"]),
        ("cam[0-3]", ["cam0", "cam3"], ["cam4", "cam", "cam-"]),
        ("cam[3-0]", ["cam1"], ["cam4"]),
        ("[abc]", ["a", "c"], ["d", "-"]),
        ("[!a]", ["b", "-"], ["a", ""]),
        ("[!a-c]", ["d"], ["b"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("{cameras,ephys}", ["cameras", "ephys"], ["camera", "cameras,ephys", ""]),
        ("{cam,ephys}*", ["cameras", "ephys2"], ["laser"]),
        ("{a,ab}{b,}", ["a", "ab", "abb"], ["b"]),
        ("{,a}", ["", "a"], ["b"]),
        ("cameras:left", ["cameras:left"], ["cameras"]),
    ],
)
def test_a_pattern_fits_what_it_says(pattern: str, fitting: list[str], others: list[str]) -> None:
    fits = matcher(pattern)
    assert [text for text in fitting if not fits(text)] == []
    assert [text for text in others if fits(text)] == []


@pytest.mark.parametrize("pattern", ["[abc", "{a,b", "a[", "a{", "x" * (LONGEST + 1)])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        matcher(pattern)


@pytest.mark.parametrize("pattern", ["*a" * 199 + "b", "{a,aa,aaa}" * 39, "{a,aa}?*" * 44 + "b", "[!b]*" * 79 + "b"])
def test_no_pattern_matches_for_ever(pattern: str) -> None:
    """As regular expressions, these take longer than the age of the world."""
    begun = time.process_time()
    assert not matcher(pattern)("a" * 300 + "c")
    assert time.process_time() - begun < 5


def space(*addresses: str) -> AddressSpace[str]:
    made: AddressSpace[str] = AddressSpace()
    for address in addresses:
        made.add(address, address)
    return made


RIGS = space(
    "/rigsync/push/START", *(f"/rigsync/{way}" for way in ("cameras/START", "cameras/END", "ephys/START")), "/a/b/c/d"
)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/rigsync/push/START", ["/rigsync/push/START"]),
        ("/rigsync/*/START", ["/rigsync/push/START", "/rigsync/cameras/START", "/rigsync/ephys/START"]),
        ("/rigsync/{ephys,cameras}/START", ["/rigsync/cameras/START", "/rigsync/ephys/START"]),
        ("/rigsync/c*/*", ["/rigsync/cameras/START", "/rigsync/cameras/END"]),
        ("//END", ["/rigsync/cameras/END"]),
        ("//d", ["/a/b/c/d"]),
        ("/a//d", ["/a/b/c/d"]),
        ("/a//b//d", ["/a/b/c/d"]),
        ("/a/b//c/d", ["/a/b/c/d"]),
        ("//*//d", ["/a/b/c/d"]),
        ("/rigsync", []),
        ("/*/START", []),
        ("/rigsync/cameras/START/more", []),
    ],
)
def test_a_pattern_names_addresses(pattern: str, found: list[str]) -> None:
    assert RIGS.find(pattern) == found


@pytest.mark.parametrize("pattern", ["", "rigsync", "/", "/a/", "/a//", "//a" * 5, "/[", "/" + "x" * LONGEST])
def test_what_is_no_pattern_of_addresses_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        RIGS.find(pattern)


@pytest.mark.parametrize("address", ["", "a", "/", "/a//b", "/a b", "/a*", "/{a,b}", "/a\n"])
def test_what_is_no_address_has_no_method(address: str) -> None:
    with pytest.raises(BadPattern):
        AddressSpace[str]().add(address, "method")


def test_methods_come_and_go_and_leave_nothing_behind() -> None:
    made = space("/a/b")
    removes = [made.add("/a/b", "second"), made.add("/a/b/c", "third")]
    assert made.find("/a/b") == ["/a/b", "second"]
    for remove in (*removes, *removes):
        remove()
    assert made.find("//*") == ["/a/b"]
    assert not made._root.children["a"].children["b"].children


def test_many_addresses_are_searched_in_bounded_time() -> None:
    many = space(*(f"/rigsync/rig{number}/{verb}" for number in range(1000) for verb in ("INIT", "START", "END")))
    begun = time.process_time()
    for pattern in ("//*//*//*//*", "/rigsync/" + "{a,rig*,b?}" * 20 + "/*", "/rigsync/" + "*?" * 90 + "/START"):
        many.find(pattern)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("/rigsync/camera/START", "; did you mean '/rigsync/cameras'?"),
        ("/rigsync/cameras/STRAT", "; did you mean '/rigsync/cameras/START'?"),
        ("/rigsink/cameras/START", "; did you mean '/rigsync'?"),
        ("/zzz", "; below / there are rigsync, a"),
        ("/a/zzz", "; below /a there are b"),
        ("/a/b/c/d/e", ""),
    ],
)
def test_an_address_that_is_not_there_is_told_with_what_is(address: str, told: str) -> None:
    assert RIGS.close_to(address) == told


# --------------------------------------------------------------------------------------------------------- packets


def test_messages_are_read_as_python_osc_writes_them() -> None:
    sent = message("/a", 1, -2.5, "text", b"blob", True, False, None, 1 << 40, [1, ["x"]])
    assert codec.decode(sent.dgram) == ("/a", [1, -2.5, "text", b"blob", True, False, None, 1 << 40, [1, ["x"]]])
    assert codec.decode(message("/a").dgram) == ("/a", [])
    assert codec.decode(b"/a\0\0") == ("/a", [])  # without type tags, as old programs send it


def test_messages_are_written_as_python_osc_reads_them() -> None:
    args = ["text", "", "é", 5, -1, 2.5, True, 1 << 40, 1e300, "\ud800\0\0\0b", 10**400]
    read = OscMessage(codec.encode("/rigsync/reply", args))
    assert read.address == "/rigsync/reply"
    *exact, large, largest, odd, beyond = read.params
    assert beyond == largest
    assert exact == ["text", "", "é", 5, -1, 2.5, 1]
    assert large == pytest.approx(1 << 40)
    assert largest == pytest.approx(3.4e38)
    assert odd == "?b"


def test_a_bundle_is_taken_apart_each_message_with_its_instant() -> None:
    first, second, third = (message("/m", number) for number in range(3))
    packet = bundle(1000.5, first, bundle(1002.0, second), bundle(900.0, third)).dgram
    tags = [(codec.seconds_of(tag), codec.decode(data)[1]) for tag, data in codec.unpack(packet)]
    assert tags == [(1000.5, [0]), (1002.0, [1]), (1000.5, [2])]  # none before the bundle around it
    assert codec.unpack(first.dgram) == [(codec.IMMEDIATELY, first.dgram)]
    assert codec.unpack(bundle(0, first).dgram) == [(codec.IMMEDIATELY, first.dgram)]


def nested(levels: int, inner: bytes) -> bytes:
    for _ in range(levels):
        inner = b"#bundle\0" + bytes(7) + b"\1" + struct.pack(">i", len(inner)) + inner
    return inner


HEAD = b"#bundle\0" + bytes(7) + b"\1"


@pytest.mark.parametrize(
    ("packet", "told"),
    [
        (b"", "neither a message"),
        (b"junk", "neither a message"),
        (b"#bundle\0", "neither a message"),
        (HEAD + struct.pack(">i", -4), "whose element of -4 bytes"),  # on which python-osc never ends
        (HEAD + struct.pack(">i", 8) + GOOD[:4], "whose element of 8 bytes"),
        (HEAD + struct.pack(">i", 3) + b"/a\0\0", "whose element of 3 bytes"),
        (HEAD + b"\0\0", "whose element of 0 bytes"),
        (HEAD + struct.pack(">i", 4) + b"junk", "neither a message"),
        (nested(40, GOOD), "bundles in bundles"),
        (HEAD + 1025 * (struct.pack(">i", 4) + b"/a\0\0"), "a bundle of more than 1,024 messages"),
    ],
)
def test_what_is_no_packet_is_refused(packet: bytes, told: str) -> None:
    with pytest.raises(codec.BadPacket, match=told):
        codec.unpack(packet)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"/no end", "ends in its address"),
        (b"/a\0\0,i", "ends in its address or its type tags"),
        (b"/a\0\0iii\0", "do not begin with a comma"),
        (b"/a\0\0,iQ\0\0\0\0\1", "the type 'Q'"),
        (b"/a\0\0,i\0\0", "cannot be read"),
        (b"/a\0\0,b\0\0\x7f\xff\xff\xff", "cannot be read"),
        (b"/\xff\xff\0,i\0\0\0\0\0\1", "cannot be read"),
        (b"/a\0\0,]\0\0", "do not close"),
        (b"/a\0\0,[\0\0", "cannot be read"),
        (b"/a\0\0," + b"[" * 30 + b"]" * 30 + b"\0\0\0", "more than 16 deep"),
        (b"/a\0\0," + b"T" * 2000 + b"\0\0\0", "more than 1,024 arguments"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(codec.BadPacket, match=told):
        codec.decode(data)


def test_a_hundred_thousand_mutated_packets_are_each_read_or_refused() -> None:
    chance = random.Random(SEED).random
    outcomes = {"read": 0, "refused": 0}
    begun = time.process_time()
    for number in range(100_000):
        try:
            for _, data in codec.unpack(mutated(SAMPLES[number % len(SAMPLES)], chance)):
                RIGS.find(codec.decode(data)[0])
            outcomes["read"] += 1
        except (codec.BadPacket, BadPattern):
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5000
    assert time.process_time() - begun < 120


# --------------------------------------------------------------------------------------------------------- bundles


def test_what_waits_comes_at_its_instant_equal_ones_in_the_order_of_arrival() -> None:
    waiting: Bundles[str] = Bundles()
    for due, item in [(3.0, "d"), (2.0, "c"), (2.0, "b"), (1.0, "a")]:
        assert not waiting.problem(due, 10)
        waiting.put(due, item, 10)
    assert waiting.next_due() == 1.0
    assert waiting.take_due(0.9) == []
    assert waiting.take_due(2.0) == ["a", "c", "b"]
    assert waiting.next_due() == 3.0
    assert waiting.clear() == 1
    assert waiting.take_due(9.0) == []
    assert not waiting


def test_no_more_waits_than_there_is_room_for() -> None:
    few: Bundles[int] = Bundles(most=2)
    few.put(1.0, 1, 5)
    few.put(1.0, 2, 5)
    assert "2 messages of 10 bytes wait already" in few.problem(1.0, 5)
    few.take_due(1.0)
    assert not few.problem(1.0, 5)
    small: Bundles[int] = Bundles(most_bytes=10)
    small.put(1.0, 1, 6)
    assert "room for no more" in small.problem(1.0, 5)
    assert not small.problem(1.0, 4)
    small.take_due(1.0)
    assert not small.problem(1.0, 10)
    assert "an hour is the most" in small.problem(MOST_AHEAD + 1, 1)


# --------------------------------------------------------------------------------------------------------- framing

PACKETS = [GOOD, b"\xc0\xdb\xdc\xdd" * 5, bytes(range(256)), b"/", b"\xdb" * 50, b"\xc0" * 50]


@pytest.mark.parametrize("kind", [framing.Slip, framing.LengthPrefixed])
@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
def test_a_stream_is_cut_into_packets_however_it_comes(kind: Any, piece: int) -> None:
    stream = b"".join(map(kind.frame, PACKETS))
    decoder = kind(1000)
    found = [packet for at in range(0, len(stream), piece) for packet in decoder.feed(stream[at : at + piece])]
    assert found == PACKETS
    assert decoder.held == 0
    list(decoder.feed(kind.frame(GOOD)[:-2]))
    assert decoder.held > 0


@pytest.mark.parametrize(
    ("kind", "stream", "told"),
    [
        (framing.Slip, framing.LengthPrefixed.frame(GOOD), r"needs tcp\+length://"),
        (framing.Slip, b"POST / HTTP/1.1\r\n\r\n" + framing.Slip.frame(GOOD), "is not SLIP"),
        (framing.Slip, b"\xc0/a\xdb\0\xc0", r"an escape that SLIP does not know"),
        (framing.Slip, b"/" * 101 + b"\xc0", "a packet of 101 bytes"),
        (framing.Slip, b"/" * 202, "a packet of 101 bytes"),
        (framing.LengthPrefixed, framing.Slip.frame(GOOD), "needs tcp://"),
        (framing.LengthPrefixed, struct.pack(">I", 101), "a packet of 101 bytes"),
    ],
)
def test_a_stream_that_is_none_is_refused_with_what_it_may_be(kind: Any, stream: bytes, told: str) -> None:
    decoder = kind(100)
    with pytest.raises(RemoteProtocolError, match=told):
        list(decoder.feed(stream))


# --------------------------------------------------------------------------------------------------- subscriptions


def test_a_subscription_is_renewed_or_forgotten() -> None:
    clients: Clients[str] = Clients()
    assert clients.subscribe("a", "Link*", 0.0) is True
    assert clients.subscribe("b", "*", 30.0) is True
    assert clients.wanting("LinkLost", 30.0) == ["a", "b"]
    assert clients.wanting("Notice", 30.0) == ["b"]
    assert clients.subscribe("a", "No*", 50.0) is False
    assert clients.wanting("Notice", KEPT + 1) == ["a", "b"]
    assert clients.wanting("Notice", KEPT + 31) == ["a"]
    assert clients.unsubscribe("a")
    assert not clients.unsubscribe("a")
    assert clients.wanting("Notice", KEPT + 31) == []


def test_there_is_room_for_so_many_subscribers() -> None:
    clients: Clients[int] = Clients()
    assert all(clients.subscribe(number, "*", 0.0) for number in range(MOST_CLIENTS))
    assert clients.subscribe(-1, "*", 1.0) is None
    assert clients.subscribe(0, "*", 1.0) is False
    assert clients.subscribe(-1, "*", KEPT) is True  # all but one are forgotten
    with pytest.raises(BadPattern):
        clients.subscribe(-2, "[", KEPT)
