"""Messages cut out of a byte stream, however it comes in pieces."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync.core import legacy, messages
from rigsync.core.arguments import compose
from rigsync.core.rigs import MAX_MESSAGE, MAX_VALUES, Room, counted, width_of
from rigsync.core.stream import DEEPEST, StreamDecoder, room_of, values_in
from rigsync.errors import PayloadTooLarge, RemoteProtocolError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\[]{}, \n\té🐭', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('k"\\]}', max_size=3), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(
    st.builds(
        lambda content, ascii_only, indent: json.dumps(content, ensure_ascii=ascii_only, indent=indent).encode(),
        st.lists(JSON, max_size=4) | st.dictionaries(st.text("ab", max_size=2), JSON, max_size=4),
        st.booleans(),
        st.sampled_from([None, 1]),
    ),
    max_size=6,
)
SPACE = st.text(" \t\r\n", max_size=3).map(str.encode)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """Cut a stream into pieces at these places, taken around where it is shorter."""
    at = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[begin:end] for begin, end in itertools.pairwise(at)]


def fed(pieces: list[bytes], limit: int = MAX_MESSAGE) -> tuple[list[bytes], str | None]:
    """Return the messages, and the kind of what ended them."""
    decoder = StreamDecoder(limit)
    found: list[bytes] = []
    try:
        for piece in pieces:
            for message in decoder.feed(piece):
                found.append(message)
                assert decoder.held == 0
    except RemoteProtocolError as error:
        return found, error.kind
    return found, None


@given(MESSAGES, st.lists(SPACE, min_size=7, max_size=7), st.lists(st.integers(0, 10_000), max_size=20))
@settings(deadline=None)
def test_any_messages_in_any_pieces_come_out_as_they_went_in(
    contents: list[bytes], spaces: list[bytes], places: list[int]
) -> None:
    stream = b"".join(space + content for space, content in zip(spaces, [*contents, b""], strict=False))
    assert fed(cut(stream, places)) == (contents, None)
    assert fed([stream]) == (contents, None)
    assert fed([stream[i : i + 1] for i in range(len(stream))]) == (contents, None)


@given(MESSAGES, st.binary(max_size=30), st.lists(st.integers(0, 10_000), max_size=20))
@settings(deadline=None)
def test_any_bytes_give_messages_or_a_protocol_error_the_same_in_any_pieces(
    contents: list[bytes], junk: bytes, places: list[int]
) -> None:
    stream = b"".join(contents) + junk
    found, kind = fed([stream])
    assert found[: len(contents)] == contents
    assert fed(cut(stream, places)) == (found, kind)
    for message in found:  # what is cut out is a frame, or no frame, and never anything else
        try:
            messages.decode(message)
        except RemoteProtocolError:
            continue


@given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', "\\", "a", ",", "\\\\", '\\"', " "]), max_size=30))
@settings(deadline=None)
def test_strings_and_brackets_are_followed_as_by_a_reader_of_json(parts: list[str]) -> None:
    text = "[" + "".join(parts) + "]"
    try:
        json.loads(text, strict=False)
    except ValueError:
        return
    assert fed([text.encode()]) == ([text.encode()], None)


def test_frames_of_both_dialects_one_after_another() -> None:
    stream = [
        messages.probe("0" * 16, 1, 2),
        legacy.array(compose("EXPEND", "}]"), legacy.COORDINATOR_MARK),
        messages.request("0" * 16, 2, compose("EXPINIT", {"a": ["[", '"', "\\"]})),
    ]
    assert fed([b"".join(stream)]) == (stream, None)


@pytest.mark.parametrize(
    ("junk", "kind"),
    [
        (b"x", "junk in the stream"),
        (b",[2]", "junk in the stream"),
        (b"]", "junk in the stream"),
        (b'"a"', "junk in the stream"),
        (b"\0[2]", "junk in the stream"),
        (b"\xef\xbb\xbf[2]", "junk in the stream"),
        (b"GET / HTTP/1.1\r\n", "junk in the stream"),
        (b"[2}", "mismatched brackets"),
        (b'{"a":[1}]', "mismatched brackets"),
        (b"[" * (DEEPEST + 1), "nested too deeply"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_no_message_ends_the_stream_after_those_before(junk: bytes, kind: str, whole: bool) -> None:
    stream = b"[1]\r\n [4, null]\t" + junk
    pieces = [stream] if whole else [stream[i : i + 1] for i in range(len(stream))]
    assert fed(pieces) == ([b"[1]", b"[4, null]"], kind)


def test_what_is_as_deep_as_allowed_passes() -> None:
    content = b"[" * DEEPEST + b"]" * DEEPEST
    assert fed([content, b"[1]"]) == ([content, b"[1]"], None)


def test_junk_is_shown_in_part_only() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        list(StreamDecoder(100).feed(b"token=" + b"s" * 1000))
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_message_up_to_the_limit_passes_and_one_byte_more_does_not(step: int) -> None:
    limit = 50
    fits, over = (b'["' + b"x" * (size - 4) + b'"]' for size in (limit, limit + 1))

    def pieces(stream: bytes) -> list[bytes]:
        return [stream[i : i + step] for i in range(0, len(stream), step)]

    assert fed(pieces(fits * 3), limit) == ([fits] * 3, None)
    assert fed(pieces(fits + over), limit) == ([fits], "message over the limit")


@pytest.mark.parametrize(("size", "says_why"), [(50, True), (51, False)])
def test_a_message_that_only_its_wide_characters_put_over_the_limit_is_told_so(size: int, says_why: bool) -> None:
    data = b'["' + "\u0100".encode() + b"x" * (size - 6) + b'"]'
    with pytest.raises(RemoteProtocolError) as raised:
        list(StreamDecoder(50).feed(data))
    assert ("count for more with characters beyond U+00FF" in str(raised.value)) is says_why


def test_what_is_over_the_limit_is_found_out_before_it_is_kept() -> None:
    decoder = StreamDecoder(1000)
    assert list(decoder.feed(b'["' + b"x" * 98)) == []
    for _ in range(9):
        assert list(decoder.feed(b"x" * 100)) == []
    assert decoder.held == 1000
    with pytest.raises(RemoteProtocolError, match=r"takes 1,000 \(max_message\)"):
        list(decoder.feed(b"x"))


@pytest.mark.parametrize(
    "content",
    [b'"' + b"x" * 48 + b'",', b'"' + b"\\\\" * 24 + b'",', b'"' + b'\\"' * 24 + b'",', b"[1,2],", b"12345,"],
    ids=["text", "backslashes", "quotes", "lists", "numbers"],
)
def test_time_grows_as_the_message_does(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that went through what it holds for each piece would take 16 times as long for 4 times as much."""
    monkeypatch.setattr("rigsync.core.stream.MAX_VALUES", 10**9)

    def seconds(size: int) -> float:
        stream = b"[" + content * (size // len(content)) + b"1]"
        begin = time.process_time()
        assert fed([stream[i : i + 512] for i in range(0, len(stream), 512)])[0] == [stream]
        return time.process_time() - begin

    seconds(1 << 18)
    assert any(seconds(1 << 20) < 10 * seconds(1 << 18) for _ in range(5))


def holding(values: int, filling: bytes) -> bytes:
    """Return a message of so many values beside its last."""
    return b"[" + filling * values + b"1]"


@pytest.mark.parametrize(
    ("filling", "each"),
    [(b"1,", 1), (b"[],", 2), (b'{"a":1},', 3), (b'",:[{",', 1), (b'"\\",[",', 1)],
    ids=["numbers", "lists", "maps", "text", "escapes"],
)
@pytest.mark.parametrize("step", [7, 100_000])
def test_more_values_than_a_message_may_hold_are_refused_before_they_have_come(
    filling: bytes, each: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigsync.core.stream.MAX_VALUES", 1 + 300 * each)
    fits, over = (holding(count, filling) for count in (300, 301))
    assert values_in(fits, 0) == 1 + 300 * each
    assert values_in(over, 0) == 1 + 301 * each
    stream = fits + fits + over[:-1]  # it is refused though its end is still to come
    assert fed([stream[i : i + step] for i in range(0, len(stream), step)]) == ([fits, fits], "too many values")


def test_a_refused_message_is_not_kept_but_for_how_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigsync.core.stream.MAX_VALUES", 1000)
    decoder = StreamDecoder(1 << 20)
    data = messages.request("a" * 16, 7, compose("EXPINFO", None, ["x" * 2000, [1] * 990]))

    def feed() -> None:
        for i in range(0, len(data), 10):
            list(decoder.feed(data[i : i + 10]))

    with pytest.raises(RemoteProtocolError, match="more than 1,000 values") as caught:
        feed()
    assert messages.told_frame(caught.value.head, "request") == ("a" * 16, 7)
    assert messages.told_frame(caught.value.head, "reply") is None
    assert messages.told_frame(b"[64,", "request") is None
    assert len(caught.value.head) == 200
    assert decoder.held == 0


def test_what_is_written_with_more_values_than_are_read_is_refused_where_it_is_written() -> None:
    room = Room(MAX_MESSAGE, scheme="tcp")
    for text in (",:[{" * MAX_VALUES, "," * (MAX_VALUES - 10)):
        compose("EXPINFO", None, text, room=room)
    message = compose("EXPINFO", None, [1] * (MAX_VALUES - 100), room=room)
    assert (
        len(list(StreamDecoder(MAX_MESSAGE).feed(messages.request("a" * 16, 2**63 - 1, message, "b" * 16, 2**63 - 1))))
        == 1
    )
    with pytest.raises(PayloadTooLarge, match=r"the message holds 500,002 values, and one may hold 499,960"):
        compose("EXPINFO", None, [1] * MAX_VALUES, room=room)
    with pytest.raises(PayloadTooLarge, match="values"):
        messages.notice(messages.Notice("a" * 16, 1, "log", None, [[]] * MAX_VALUES, True), room)


def test_many_small_messages_in_one_piece_take_no_longer_than_in_many() -> None:
    def seconds(count: int) -> float:
        stream = b"[4,null ]" * count
        begin = time.process_time()
        assert len(fed([stream])[0]) == count
        return time.process_time() - begin

    seconds(1000)
    assert any(seconds(40_000) < 10 * seconds(10_000) for _ in range(5))


def test_the_largest_message_in_small_pieces() -> None:
    piece = b'"' + b"x" * 1397 + b'",'
    decoder = StreamDecoder(MAX_MESSAGE)
    count = MAX_MESSAGE // len(piece) - 1
    assert not list(decoder.feed(b"["))
    for _ in range(count):
        assert not list(decoder.feed(piece))
    (message,) = decoder.feed(b"1]")
    assert len(message) == count * len(piece) + 3
    content: list[Any] = json.loads(message)
    assert len(content) == count + 1


def test_a_message_in_tiny_pieces_takes_little_more_than_its_bytes() -> None:
    decoder = StreamDecoder(MAX_MESSAGE)
    assert not list(decoder.feed(b'["'))
    tracemalloc.start()
    try:
        for i in range(20_000):
            assert not list(decoder.feed(b"%02d" % (i % 100)))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.held == 40_002
    assert taken < 2 * decoder.held
    (message,) = decoder.feed(b'"]')
    assert message == b'["' + b"".join(b"%02d" % (i % 100) for i in range(20_000)) + b'"]'
    assert isinstance(message, bytes)


@pytest.mark.parametrize("escape", [b'\\"', b"\\\\", b'\\",', b"\\n"], ids=["quotes", "backslashes", "commas", "lines"])
def test_escapes_take_less_time_than_short_strings(escape: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one in Python they took more."""
    monkeypatch.setattr("rigsync.core.stream.MAX_VALUES", 10**9)

    def seconds(content: bytes) -> float:
        stream = b'["' + content * ((1 << 20) // len(content)) + b'"]'
        begin = time.process_time()
        assert fed([stream[i : i + (1 << 16)] for i in range(0, len(stream), 1 << 16)])[0] == [stream]
        return time.process_time() - begin

    assert any(2 * seconds(escape) < seconds(b'", "') for _ in range(5))


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 5000])
@pytest.mark.parametrize("escape", [b'\\"', b"\\\\", b'\\"]'])
def test_a_string_of_any_number_of_escapes_ends_where_it_ends(count: int, escape: bytes) -> None:
    stream = b'["' + escape * count + b'"]'
    for step in (len(stream), 2000, 7):
        assert fed([stream[i : i + step] for i in range(0, len(stream), step)]) == ([stream], None)


@pytest.mark.parametrize(
    ("text", "width"),
    [
        (b"x", 1),
        ("\xff".encode(), 1),
        (b"\\u00ff\\n", 1),
        ("\u0100".encode(), 2),
        (b"\\u0100", 2),
        ("\uffff".encode(), 2),
        (b"\\uFFFF", 2),
        ("\U00010000".encode(), 4),
        ("\U0010ffff".encode(), 4),
        (b"\\ud83d\\ude00", 4),
        (b"\\uD83D\\uDE00", 4),
    ],
)
@pytest.mark.parametrize("step", [1, 5, 100])
def test_a_message_of_wide_characters_counts_for_what_reading_it_takes(text: bytes, width: int, step: int) -> None:
    def pieces(stream: bytes, step: int) -> list[bytes]:
        return [stream[i : i + step] for i in range(0, len(stream), step)]

    assert width_of(text) == width
    data = b'["' + b"x" * 20 + text + b"x" * 20 + b'"]'
    limit = counted(len(data), width)
    assert fed(pieces(data, step), limit) == ([data], None)
    assert fed(pieces(data * 2, step), limit) == ([data] * 2, None)
    assert fed(pieces(data, step), limit - 1) == ([], "message over the limit")
    plain = b'["' + b"x" * (limit - 4) + b'"]'  # what came before counts no more
    assert fed(pieces(data + plain, step), limit) == ([data, plain], None)


@pytest.mark.parametrize("value", [[], {}, {"a": {}}, [1.5], [[[[]]]], "x", "\u4e00", 10**15, "x" * 999 + "\U0001f600"])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_a_message_takes_no_more_room_than_is_counted(value: Any, is_ascii: bool) -> None:
    data = json.dumps([value] * 3000, ensure_ascii=is_ascii).encode()
    tracemalloc.start()
    try:
        read = json.loads(data)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(read) == 3000
    assert taken <= room_of(data, len(data))
    assert room_of(data, len(data) - 1) == len(data)  # over in any case
