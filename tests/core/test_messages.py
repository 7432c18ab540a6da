"""The wire format, byte for byte, and the decoder's contract: any bytes give a frame or `RemoteProtocolError`."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rigsync._text import one_line, size_text
from rigsync.core import legacy, messages
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.legacy import COORDINATOR_MARK, NULL_MESSAGE, RIG_MARK, Array, has_mark
from rigsync.core.messages import (
    MAX_DATAGRAM,
    Ack,
    Alive,
    Bye,
    Command,
    Failure,
    Frame,
    Message,
    Notice,
    Probe,
    Reply,
    Request,
    decode,
)
from rigsync.errors import PayloadTooLarge, RemoteProtocolError

BOOT = "0123456789abcdef"
EVENTS = list(ExpMessage.__members__.values())
STATUSES = list(ExpStatus.__members__.values())

# Every kind of frame: how it is written, its bytes to the letter, and what is read from them.
FRAMES = {
    "probe": (
        messages.probe(BOOT, 3, 1_700_000_000_000_000_000),
        b'{"rigsync":1,"kind":"probe","boot":"0123456789abcdef","n":3,"t0":1700000000000000000}',
        Probe(BOOT, 3, 1_700_000_000_000_000_000),
    ),
    "probe that tells program and beat": (
        messages.probe(BOOT, 3, 1_700_000_000_000_000_000, program="task.py", beat=2.5),
        b'{"rigsync":1,"kind":"probe","boot":"0123456789abcdef","n":3,"t0":1700000000000000000,"program":"task.py",'
        b'"beat":2500}',
        Probe(BOOT, 3, 1_700_000_000_000_000_000, program="task.py", beat=2500),
    ),
    "alive": (
        messages.alive(
            Alive(BOOT, 3, 1, 2, 4, "cameras", ExpStatus.RUNNING, "2024-01-02_1_mouse", "0.1.0", "10.0.0.1")
        ),
        b'{"rigsync":1,"kind":"alive","boot":"0123456789abcdef","n":3,"t0":1,"t1":2,"t2":4,"name":"cameras",'
        b'"status":"RUNNING","exp_ref":"2024-01-02_1_mouse","version":"0.1.0","owner":"10.0.0.1"}',
        Alive(BOOT, 3, 1, 2, 4, "cameras", ExpStatus.RUNNING, "2024-01-02_1_mouse", "0.1.0", "10.0.0.1"),
    ),
    "alive of a rig that is not well, whose owner is silent": (
        messages.alive(Alive(BOOT, 3, 1, 2, 4, "c", ExpStatus.RUNNING, None, "", "10.0.0.1", 2, 170_000, 130_000)),
        b'{"rigsync":1,"kind":"alive","boot":"0123456789abcdef","n":3,"t0":1,"t1":2,"t2":4,"name":"c",'
        b'"status":"RUNNING","exp_ref":null,"version":"","owner":"10.0.0.1","troubles":2,"silence":170000,'
        b'"lease":130000}',
        Alive(BOOT, 3, 1, 2, 4, "c", ExpStatus.RUNNING, None, "", "10.0.0.1", 2, 170_000, 130_000),
    ),
    "alive without experiment": (
        messages.alive(Alive(BOOT, 3, 1, 2, 4, "c", ExpStatus.CONNECTED, None, "")),
        b'{"rigsync":1,"kind":"alive","boot":"0123456789abcdef","n":3,"t0":1,"t1":2,"t2":4,"name":"c",'
        b'"status":"CONNECTED","exp_ref":null,"version":"","owner":null}',
        Alive(BOOT, 3, 1, 2, 4, "c", ExpStatus.CONNECTED, None, ""),
    ),
    "request": (
        messages.request(BOOT, 4, Message.of(ExpMessage.EXPSTART, ["2024-01-02_1_mouse", {"a": [1, "é"]}])),
        b'{"rigsync":1,"kind":"request","boot":"0123456789abcdef","n":4,"event":"EXPSTART",'
        b'"args":["2024-01-02_1_mouse",{"a":[1,"\\u00e9"]}],"at":null}',
        Request(BOOT, 4, ExpMessage.EXPSTART, ["2024-01-02_1_mouse", {"a": [1, "é"]}], None),
    ),
    "request to one boot of a rig, at an instant": (
        messages.request(BOOT, 4, Message.of(ExpMessage.EXPEND, [None]), "fedcba9876543210", 1_700_000_000_000_000_000),
        b'{"rigsync":1,"kind":"request","boot":"0123456789abcdef","n":4,"event":"EXPEND","args":[null],'
        b'"at":1700000000000000000,"to":"fedcba9876543210"}',
        Request(BOOT, 4, ExpMessage.EXPEND, [None], 1_700_000_000_000_000_000, "fedcba9876543210"),
    ),
    "command": (
        messages.request(BOOT, 4, Message.of(Command("fokus é"), [[1, "a"], {"z": 3}]), "fedcba9876543210"),
        b'{"rigsync":1,"kind":"request","boot":"0123456789abcdef","n":4,"command":"fokus \\u00e9",'
        b'"args":[[1,"a"],{"z":3}],"at":null,"to":"fedcba9876543210"}',
        Request(BOOT, 4, Command("fokus é"), [[1, "a"], {"z": 3}], None, "fedcba9876543210"),
    ),
    "ack": (
        messages.ack(BOOT, 4),
        b'{"rigsync":1,"kind":"ack","boot":"0123456789abcdef","n":4}',
        Ack(BOOT, 4),
    ),
    "reply": (
        messages.reply(BOOT, 4, Message.of(ExpMessage.EXPEND, [{"frames": 7}]), 10, 20),
        b'{"rigsync":1,"kind":"reply","boot":"0123456789abcdef","n":4,"args":[{"frames":7}],'
        b'"started":10,"finished":20}',
        Reply(BOOT, 4, [{"frames": 7}], 10, 20),
    ),
    "failure": (
        messages.failure(BOOT, 4, "OSError", "disk full", "Traceback ..."),
        b'{"rigsync":1,"kind":"failure","boot":"0123456789abcdef","n":4,"error":"OSError",'
        b'"message":"disk full","traceback":"Traceback ..."}',
        Failure(BOOT, 4, "OSError", "disk full", "Traceback ..."),
    ),
    "notice": (
        messages.notice(Notice(BOOT, 6, "progress", "trial", {"done": [7, "é"]}, True)),
        b'{"rigsync":1,"kind":"notice","boot":"0123456789abcdef","n":6,"topic":"progress","key":"trial",'
        b'"body":{"done":[7,"\\u00e9"]},"confirm":true}',
        Notice(BOOT, 6, "progress", "trial", {"done": [7, "é"]}, True),
    ),
    "notice without key and body": (
        messages.notice(Notice(BOOT, 6, "", None, None, False)),
        b'{"rigsync":1,"kind":"notice","boot":"0123456789abcdef","n":6,"topic":"","key":null,"body":null,'
        b'"confirm":false}',
        Notice(BOOT, 6, "", None, None, False),
    ),
    "bye": (
        messages.bye(BOOT, 5, "closing"),
        b'{"rigsync":1,"kind":"bye","boot":"0123456789abcdef","n":5,"reason":"closing"}',
        Bye(BOOT, 5, "closing"),
    ),
}


def written(kind: str, /, **changes: object) -> bytes:
    """Return the valid frame of a kind with some fields changed, and without those that are `...`."""
    content = json.loads(FRAMES[kind][1]) | changes
    return json.dumps({key: value for key, value in content.items() if value is not ...}).encode()


def violation(data: bytes) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data)
    return caught.value


# ------------------------------------------------------------------------------------------- rigsync dialect


@pytest.mark.parametrize("kind", FRAMES)
def test_each_frame_is_written_to_the_letter(kind: str) -> None:
    data, expected, _ = FRAMES[kind]
    assert data == expected


@pytest.mark.parametrize("kind", FRAMES)
def test_each_frame_is_read(kind: str) -> None:
    _, data, frame = FRAMES[kind]
    assert decode(data) == frame


@pytest.mark.parametrize("kind", FRAMES)
def test_unknown_fields_are_ignored(kind: str) -> None:
    data = written(kind, colour="blue", nested={"rigsync": 2})
    assert decode(data) == FRAMES[kind][2]


@pytest.mark.parametrize("kind", FRAMES)
def test_fields_may_come_in_any_order_and_with_blanks(kind: str) -> None:
    content = json.loads(FRAMES[kind][1])
    data = json.dumps(dict(reversed(content.items())), indent=2).encode()
    assert decode(data) == FRAMES[kind][2]


def test_a_request_may_say_at_what_instant_to_act() -> None:
    frame = decode(written("request", at=1_700_000_000_000_000_000))
    assert isinstance(frame, Request)
    assert frame.at == 1_700_000_000_000_000_000


def test_a_request_without_an_instant_is_for_at_once() -> None:
    frame = decode(written("request", at=...))
    assert isinstance(frame, Request)
    assert frame.at is None


def test_a_reference_may_be_missing_from_an_alive() -> None:
    frame = decode(written("alive", exp_ref=...))
    assert isinstance(frame, Alive)
    assert frame.exp_ref is None


def test_a_request_that_says_nothing_of_a_boot_is_for_any() -> None:
    for to in (None, ...):
        frame = decode(written("request", to=to))
        assert isinstance(frame, Request)
        assert frame.to is None


def test_an_owner_may_be_missing_from_an_alive() -> None:
    frame = decode(written("alive", owner=...))
    assert isinstance(frame, Alive)
    assert frame.owner is None


def test_key_and_body_may_be_missing_from_a_notice() -> None:
    assert decode(written("notice", key=..., body=...)) == Notice(BOOT, 6, "progress", None, None, True)
    assert decode(written("notice", key=None, body=None)) == Notice(BOOT, 6, "progress", None, None, True)


@pytest.mark.parametrize("body", [None, False, 0, 1.5, "text", [], [1, [2]], {}, {"a": {"b": None}}])
def test_any_json_is_the_body_of_a_notice(body: object) -> None:
    frame = decode(messages.notice(Notice(BOOT, 6, "log", None, body, True)))
    assert isinstance(frame, Notice)
    assert frame.body == body
    assert type(frame.body) is type(body)


def test_utf8_beyond_ascii_is_read() -> None:
    data = FRAMES["bye"][1].replace(b"closing", b"\xc3\xa9\xf0\x9f\x90\xad")
    assert decode(data) == Bye(BOOT, 5, "é🐭")


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        (2, "2"),
        (0, "0"),
        (True, "True"),
        ("1", "'1'"),
        (None, "None"),
        (..., "None"),
        ([1], "[1]"),
        ({}, "{}"),
        (1.5, "1.5"),
    ],
)
def test_another_version_is_foreign_and_is_named(version: object, shown: str) -> None:
    error = violation(written("ack", rigsync=version))
    assert error.kind == "foreign version"
    assert f"version {shown} " in str(error)
    assert "speaks 1" in str(error)


@pytest.mark.parametrize("kind", ["notices", "PROBE", "", None, ..., 1, True, [], {}, ["probe"], {"probe": 1}])
def test_an_unknown_kind_is_named(kind: object) -> None:
    assert violation(written("ack", kind=kind)).kind == "unknown kind"


@pytest.mark.parametrize(
    "boot",
    [
        "0123456789abcde",  # 15
        "0123456789abcdef0",  # 17
        "0123456789ABCDEF",
        "0123456789abcdeg",
        "0123456789abcdef\n",
        "\uff10123456789abcdef",  # a digit, but not an ASCII one
        "",
        81985529216486895,
        None,
        ...,
        True,
        ["0123456789abcdef"],
        {"0123456789abcdef": 1},
    ],
)
@pytest.mark.parametrize("kind", FRAMES)
def test_a_malformed_boot_is_refused_in_every_kind(kind: str, boot: object) -> None:
    error = violation(written(kind, boot=boot))
    assert error.kind == "malformed frame"
    assert "boot is" in str(error)


NOT_STAMPS = [1.0, 1.5, True, False, None, ..., "1", [], {}, 2**63, -(2**63), 10**400, math.nan, math.inf]
NOT_WHOLE = [-1, 1.0, 1.5, True, False, None, ..., "1", [], {}, 2**63, 10**400, math.nan, math.inf]
NOT_TEXT = [None, ..., 1, 1.5, True, [], {}, ["a"]]
NOT_A_LIST = [None, ..., 1, "args", True, {}, {"0": 1}]

WRONG_FIELDS = [
    *(("ack", "n", value) for value in NOT_WHOLE),
    *(("probe", "n", value) for value in NOT_WHOLE),
    *(("bye", "n", value) for value in NOT_WHOLE),
    *(("probe", "t0", value) for value in NOT_STAMPS),
    *(("probe", "beat", value) for value in NOT_WHOLE if value not in (None, ...)),
    *(("alive", "n", value) for value in NOT_WHOLE),
    *(("alive", key, value) for key in ("t0", "t1", "t2") for value in NOT_STAMPS),
    *(("alive", key, value) for key in ("name", "version") for value in NOT_TEXT),
    *(("alive", "exp_ref", value) for value in (1, True, [], {}, 1.5, {"date": "2024-01-02"})),
    *(("alive", "status", value) for value in (*NOT_TEXT, "running", "NONE", "", 20, "__class__", "name")),
    *(("request", "n", value) for value in NOT_WHOLE),
    *(("request", "args", value) for value in NOT_A_LIST),
    *(("request", "at", value) for value in (1.5, True, "1", [], {}, 2**63)),
    *(("request", "to", value) for value in (1, True, [], {}, 1.5, ["fedcba9876543210"])),
    *(("alive", "owner", value) for value in (1, True, [], {}, 1.5, ["10.0.0.1"])),
    *(
        ("alive", key, value)
        for key in ("troubles", "silence", "lease")
        for value in NOT_WHOLE
        if value not in (None, ...)
    ),
    *(("notice", "n", value) for value in NOT_WHOLE),
    *(("notice", "topic", value) for value in NOT_TEXT),
    *(("notice", "key", value) for value in (1, True, [], {}, 1.5, ["trial"])),
    *(("notice", "confirm", value) for value in (None, ..., 0, 1, "true", [], {}, 1.0)),
    *(("request", "event", value) for value in (*NOT_TEXT, "expinit", "EXPINIT|EXPEND", "NONE", "", "mro", "any")),
    *(("command", "n", value) for value in NOT_WHOLE),
    *(("command", "args", value) for value in NOT_A_LIST),
    *(("command", "at", value) for value in (1.5, True, "1", [], {}, 2**63)),
    *(("command", "command", value) for value in (1, 1.5, True, [], {}, ["focus"])),
    *(("reply", "args", value) for value in NOT_A_LIST),
    *(("reply", key, value) for key in ("started", "finished") for value in NOT_STAMPS),
    *(("reply", "n", value) for value in NOT_WHOLE),
    *(("failure", key, value) for key in ("error", "message", "traceback") for value in NOT_TEXT),
    *(("failure", "n", value) for value in NOT_WHOLE),
    *(("bye", "reason", value) for value in NOT_TEXT),
]


@pytest.mark.parametrize(("kind", "key", "value"), WRONG_FIELDS)
def test_a_field_that_is_missing_or_of_a_wrong_type_is_named(kind: str, key: str, value: object) -> None:
    error = violation(written(kind, **{key: value}))
    assert error.kind == "malformed frame"
    assert f"{key} is " in str(error)


@pytest.mark.parametrize("event", [None, ...])
@pytest.mark.parametrize("command", [None, ...])
def test_a_request_for_nothing_is_refused(event: object, command: object) -> None:
    assert violation(written("command", event=event, command=command)).kind == "malformed frame"


@pytest.mark.parametrize("kind", ["request", "command"])
def test_a_request_for_a_message_and_a_command_at_once_is_refused(kind: str) -> None:
    error = violation(written(kind, event="EXPSTART", command="focus"))
    assert (error.kind, "not both" in str(error)) == ("malformed frame", True)


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "\0", "\ud800", "EXPSTART", "expstart", " ALYX "])
def test_the_name_of_no_command_is_refused_at_both_ends(name: str) -> None:
    assert violation(written("command", command=name)).kind == "malformed frame"
    with pytest.raises(ValueError, match=r"command"):
        Command(name)


@pytest.mark.parametrize("name", [None, 1, b"focus", ["focus"], ExpMessage.EXPSTART])
def test_the_name_of_a_command_is_text(name: Any) -> None:
    with pytest.raises(TypeError, match="name of a command"):
        Command(name)


@pytest.mark.parametrize(
    "args", [[], [[]], [{}], [{}, []], [[], []], [[], {}, None], [None, {}], [[1], None], [3], ["ab", {"z": 1}]]
)
def test_arguments_of_a_command_that_are_of_another_shape_are_refused(args: list[object]) -> None:
    assert violation(written("command", args=args)).kind == "malformed frame"


def test_a_command_is_never_an_array() -> None:
    with pytest.raises(TypeError, match="focus is a command, and the iblutil dialect knows none"):
        legacy.array(Message.of(Command("focus"), [[], {}]), COORDINATOR_MARK)


def test_the_largest_number_that_is_accepted() -> None:
    assert decode(written("ack", n=2**63 - 1)) == Ack(BOOT, 2**63 - 1)


def test_a_wrong_member_is_answered_with_the_choices() -> None:
    assert "CONNECTED, INITIALIZED, RUNNING, STOPPED" in str(violation(written("alive", status="ASLEEP")))
    assert "EXPINIT, EXPSTART" in str(violation(written("request", event="EXPPAUSE")))


def test_a_violation_never_shows_a_long_value_whole() -> None:
    error = violation(written("bye", boot="x" * 60_000))
    assert len(str(error)) < 200


# ------------------------------------------------------------------------------------------- iblutil dialect


@pytest.mark.parametrize(
    ("event", "args", "expected"),
    [
        (ExpMessage.EXPINIT, [{"exp_ref": "r"}], b'[1,{"exp_ref":"r"}]'),
        (ExpMessage.EXPSTART, ["r", None], b'[2,"r",null]'),
        (ExpMessage.EXPEND, [None], b"[4,null]"),
        (ExpMessage.EXPCLEANUP, [None], b"[8,null]"),
        (ExpMessage.EXPINTERRUPT, [{}], b"[16,{}]"),
        (ExpMessage.EXPSTATUS, [20], b"[32,20]"),
        (ExpMessage.EXPINFO, [0, "é"], b'[64,0,"\\u00e9"]'),
        (ExpMessage.ALYX, ["https://a.b", {"user": {"token": "t"}}], b'[128,"https://a.b",{"user":{"token":"t"}}]'),
        (ExpMessage.EXPEND, [], b"[4]"),
    ],
)
@pytest.mark.parametrize("mark", [COORDINATOR_MARK, RIG_MARK])
def test_each_message_is_an_array_to_the_letter_and_has_its_mark_before_the_end(
    event: ExpMessage, args: list[object], expected: bytes, mark: bytes
) -> None:
    data = legacy.array(Message.of(event, args), mark)
    assert data == expected[:-1] + mark + b"]"
    assert [has_mark(data, other) for other in (COORDINATOR_MARK, RIG_MARK)] == [
        other == mark for other in (COORDINATOR_MARK, RIG_MARK)
    ]
    assert decode(data) == Array(event, args)


def test_the_two_sides_have_marks_that_differ_and_that_no_encoder_writes() -> None:
    assert COORDINATOR_MARK != RIG_MARK
    assert COORDINATOR_MARK.isspace()
    assert RIG_MARK.isspace()
    for content in ([1], [1, None], [1, " "], [1, "\t"], [1, [" "]], [1, {"a": " "}]):
        assert not any(has_mark(json.dumps(content).encode(), mark) for mark in (COORDINATOR_MARK, RIG_MARK))


@pytest.mark.parametrize("event", EVENTS)
def test_an_array_as_iblutil_writes_it_is_read(event: ExpMessage) -> None:
    data = json.dumps([event, {"é": [1, 2.5, None]}]).encode()
    assert decode(data) == Array(event, [{"é": [1, 2.5, None]}])


def test_a_remote_error_is_read_with_its_event() -> None:
    assert decode(b'[0, "OSError: disk full", 2]') == Array(NULL_MESSAGE, ["OSError: disk full", ExpMessage.EXPSTART])


def test_a_remote_error_is_written_as_iblutil_recognises_it() -> None:
    data = legacy.error_array("OSError", "disk\nfull", ExpMessage.EXPSTART)
    assert data == b'[0,"OSError: disk\\nfull",2]'
    assert data[1:2] == b"0"  # what iblutil looks at
    assert decode(data) == Array(NULL_MESSAGE, ["OSError: disk\nfull", ExpMessage.EXPSTART])


@given(st.text(max_size=20), st.text(max_size=9000), st.sampled_from(EVENTS))
@example("E", "🐭" * 70_000, ExpMessage.ALYX)
@example("🐭" * 70_000, "", ExpMessage.ALYX)
@settings(deadline=None)
def test_a_remote_error_always_fits_and_has_no_blank_after_the_bracket(
    error: str, message: str, event: ExpMessage
) -> None:
    data = legacy.error_array(error, message, event)
    assert len(data) <= MAX_DATAGRAM
    assert data.startswith(b'[0,"')
    frame = decode(data)
    assert isinstance(frame, Array)
    assert frame.args[1] is event
    assert f"{error}: {message}".startswith(frame.args[0])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[]", "empty array"),
        (b"[ ] ", "empty array"),
        (b"[true]", "unknown event"),
        (b"[false]", "unknown event"),
        (b"[null]", "unknown event"),
        (b'["EXPINIT"]', "unknown event"),
        (b"[1.0]", "unknown event"),
        (b"[3]", "unknown event"),  # EXPINIT and EXPSTART at once
        (b"[255, null]", "unknown event"),
        (b"[256]", "unknown event"),
        (b"[-1]", "unknown event"),
        (b"[[1]]", "unknown event"),
        (b'[{"1": 1}]', "unknown event"),
        (b"[NaN]", "unknown event"),
        (b"[Infinity]", "unknown event"),
        (b"[1e999]", "unknown event"),
        (b"[" + b"9" * 600 + b"]", "unknown event"),
        (b'["\\ud800"]', "unknown event"),
        (b"[0]", "malformed error"),
        (b'[0, "E: x"]', "malformed error"),
        (b'[0, "E: x", 2, 3]', "malformed error"),
        (b'[0, "E: x", 3]', "malformed error"),
        (b'[0, "E: x", 0]', "malformed error"),
        (b'[0, "E: x", true]', "malformed error"),
        (b'[0, "E: x", 2.0]', "malformed error"),
        (b'[0, "E: x", "EXPEND"]', "malformed error"),
        (b'[0, "E: x", []]', "malformed error"),
        (b'[0, "E: x", {}]', "malformed error"),
        (b"[0, null, 2]", "malformed error"),
        (b"[0, [], 2]", "malformed error"),
    ],
)
def test_a_malformed_array_is_refused(data: bytes, kind: str) -> None:
    assert violation(data).kind == kind


# ------------------------------------------------------------------------------------------------- any bytes


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "junk"),
        (b"hello", "junk"),
        (b"\x00\xff", "junk"),
        (b" [1]", "junk"),
        (b"\xef\xbb\xbf[1]", "junk"),
        (b'"[1]"', "junk"),
        (b"1", "junk"),
        (b"null", "junk"),
        (b"[", "not JSON"),
        (b"{", "not JSON"),
        (b"[1", "not JSON"),
        (b"[1] [1]", "not JSON"),
        (b"{}x", "not JSON"),
        (b"[1,]", "not JSON"),
        (b"{'rigsync': 1}", "not JSON"),
        (b'["\xff\xfe"]', "not JSON"),
        (b'["\xed\xa0\x80"]', "not JSON"),  # a lone surrogate, which UTF-8 forbids
        (b'["\xc3"]', "not JSON"),
        (b"[\x00]", "not JSON"),
        (b'["a\nb"]', "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b'{"a":' * 12_000, "not JSON"),
        (b"[" * 30_000 + b"]" * 30_000, None),  # what becomes of it depends on how deep Python's own decoder goes
        (b"[" + b"9" * 10_000 + b"]", "not JSON"),
        (b"[1," + b"-" + b"9" * 10_000 + b"]", "not JSON"),
        (b'{"n":' + b"9" * 10_000 + b"}", "not JSON"),
        (b"{}", "foreign version"),
        (b'{"rigsync": NaN}', "foreign version"),
        (b'{"rigsync": Infinity}', "foreign version"),
        (b'{"rigsync": 1, "kind": "\\ud800"}', "unknown kind"),
        (b'{"rigsync": 1, "kind": "ack", "boot": "\\udfff"}', "malformed frame"),
        (b'{"rigsync": 1, "kind": "ack", "boot": NaN}', "malformed frame"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, kind: str | None) -> None:
    error = violation(data)
    assert error.kind == kind or kind is None
    assert str(error).startswith(error.kind)
    str(error).encode()  # can be logged


@pytest.mark.parametrize("kind", FRAMES)
def test_every_truncated_frame_is_refused(kind: str) -> None:
    data = FRAMES[kind][1]
    for length in range(len(data)):
        assert violation(data[:length]).kind == ("junk" if length == 0 else "not JSON")


def test_every_truncated_array_is_refused() -> None:
    data = json.dumps([2, "2024-01-02_1_mouse", {"a": [1]}]).encode()
    for length in range(1, len(data)):
        assert violation(data[:length]).kind == "not JSON"


def is_frame_or_violation(data: bytes) -> bool:
    try:
        return isinstance(decode(data), (Frame, Array))
    except RemoteProtocolError as error:
        return bool(error.kind) and bool(repr(error))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FINITE_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(b"[".__add__) | st.binary(max_size=300).map(b"{".__add__))
@settings(deadline=None, max_examples=300)
def test_any_bytes_give_a_frame_or_a_violation(data: bytes) -> None:
    assert is_frame_or_violation(data)


@given(JSON, st.sampled_from(EVENTS) | st.none())
@settings(deadline=None, max_examples=300)
def test_any_json_gives_a_frame_or_a_violation(value: object, event: ExpMessage | None) -> None:
    content = value if event is None else [int(event), value]
    assert is_frame_or_violation(json.dumps(content).encode())


KEYS = ["rigsync", "kind", "boot", "n", "t0", "t1", "t2", "name", "status", "exp_ref", "version", "event", "args"]
KEYS += [
    "command",
    "to",
    "owner",
    "topic",
    "key",
    "body",
    "confirm",
    "at",
    "started",
    "finished",
    "error",
    "message",
    "traceback",
    "reason",
]


@given(
    st.sampled_from(list(FRAMES)),
    st.dictionaries(st.sampled_from(KEYS), JSON | st.just(...), max_size=3),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2),
)
@settings(deadline=None, max_examples=500)
def test_any_mutation_of_a_frame_gives_a_frame_or_a_violation(
    kind: str, changes: dict[str, object], flips: list[tuple[int, int]]
) -> None:
    data = bytearray(written(kind, **changes))
    for place, byte in flips:
        data[place % len(data)] = byte
    assert is_frame_or_violation(bytes(data))


# ---------------------------------------------------------------------------------------------- round trips

BOOTS = st.text("0123456789abcdef", min_size=16, max_size=16)
WHOLES = st.integers(0, 2**63 - 1)
TEXTS = st.text(st.characters(), max_size=300)  # lone surrogates too: file names from Linux have them


@given(BOOTS, WHOLES, WHOLES)
@settings(deadline=None)
def test_a_probe_survives_the_wire(boot: str, n: int, t0: int) -> None:
    assert decode(messages.probe(boot, n, t0)) == Probe(boot, n, t0)


def test_a_probe_is_padded_to_the_byte_where_the_field_for_that_fits() -> None:
    plain = messages.probe(BOOT, 3, 4)
    field = len(',"pad":""')
    for size in range(len(plain) + 2 * field):
        padded = messages.probe(BOOT, 3, 4, size)
        assert len(padded) == (len(plain) if size < len(plain) + field else size)
        assert json.loads(padded).pop("pad", "") == "." * (len(padded) - len(plain) - field)


@given(
    st.builds(
        Alive,
        *(BOOTS, WHOLES, WHOLES, WHOLES, WHOLES, TEXTS, st.sampled_from(STATUSES)),
        *(st.none() | TEXTS, TEXTS, st.none() | TEXTS),
        *(st.none() | WHOLES, st.none() | WHOLES, st.none() | WHOLES),
    )
)
@settings(deadline=None)
def test_an_alive_survives_the_wire(frame: Alive) -> None:
    assert decode(messages.alive(frame)) == frame


@given(BOOTS, WHOLES, st.sampled_from(EVENTS), st.lists(FINITE_JSON, max_size=3))
@settings(deadline=None)
def test_a_message_survives_the_wire_as_request_reply_and_array(
    boot: str, n: int, event: ExpMessage, args: list[object]
) -> None:
    message = Message.of(event, args)
    assert decode(messages.request(boot, n, message)) == Request(boot, n, event, args, None)
    assert decode(messages.reply(boot, n, message, n, n)) == Reply(boot, n, args, n, n)
    for mark in (COORDINATOR_MARK, RIG_MARK):
        data = legacy.array(message, mark)
        assert has_mark(data, mark)
        assert decode(data) == Array(event, args)


NAMES = st.text(st.characters(), min_size=1, max_size=100).filter(
    lambda name: name.isprintable() and name.strip().upper() not in ExpMessage.__members__
)


@given(
    *(BOOTS, WHOLES, NAMES, st.lists(FINITE_JSON, max_size=3)),
    *(st.dictionaries(st.text(max_size=8), FINITE_JSON, max_size=3), FINITE_JSON),
)
@settings(deadline=None)
def test_a_command_survives_the_wire_as_request_and_reply(
    boot: str, n: int, name: str, args: list[object], keywords: dict[str, object], value: object
) -> None:
    command = Command(name)
    message = Message.of(command, [args, keywords])
    assert decode(messages.request(boot, n, message, boot)) == Request(boot, n, command, [args, keywords], None, boot)
    assert decode(messages.reply(boot, n, Message.of(command, [value]), n, n)) == Reply(boot, n, [value], n, n)


@given(st.builds(Notice, BOOTS, WHOLES, TEXTS, st.none() | TEXTS, FINITE_JSON, st.booleans()))
@settings(deadline=None)
def test_a_notice_survives_the_wire(frame: Notice) -> None:
    assert decode(messages.notice(frame)) == frame


@given(BOOTS, WHOLES, BOOTS | st.none(), st.none() | st.integers(-(2**63) + 1, 2**63 - 1))
@settings(deadline=None)
def test_whom_and_when_a_request_means_survives_the_wire(boot: str, n: int, to: str | None, at: int | None) -> None:
    message = Message.of(ExpMessage.EXPSTART, ["r"])
    assert decode(messages.request(boot, n, message, to, at)) == Request(boot, n, ExpMessage.EXPSTART, ["r"], at, to)


@given(BOOTS, WHOLES, st.text(max_size=200), st.text(max_size=300), TEXTS)
@settings(deadline=None)
def test_a_failure_of_ordinary_size_survives_the_wire(
    boot: str, n: int, error: str, message: str, traceback: str
) -> None:
    assert decode(messages.failure(boot, n, error, message, traceback)) == Failure(boot, n, error, message, traceback)


@given(BOOTS, WHOLES, TEXTS)
@settings(deadline=None)
def test_ack_and_bye_survive_the_wire(boot: str, n: int, reason: str) -> None:
    assert decode(messages.ack(boot, n)) == Ack(boot, n)
    assert decode(messages.bye(boot, n, reason)) == Bye(boot, n, reason)


@given(st.sampled_from(["a", "é", "🐭", "\0", '"', "\ud800"]), *[st.integers(0, 200_000)] * 3)
@example("🐭", 200_000, 200_000, 200_000)
@settings(deadline=None, max_examples=60)
def test_a_failure_always_fits_into_a_datagram(character: str, error: int, message: int, traceback: int) -> None:
    data = messages.failure("f" * 16, 2**63 - 1, character * error, character * message, character * traceback + "end")
    assert len(data) <= MAX_DATAGRAM
    frame = decode(data)
    assert isinstance(frame, Failure)
    assert frame.error == character * min(error, 200)
    assert frame.message == character * min(message, 2000)
    assert frame.traceback.endswith("end")  # the end of a traceback tells most
    assert len(data) > MAX_DATAGRAM // 3 or frame.traceback == character * traceback + "end"  # no more cut than needed


# ---------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("event", EVENTS)
def test_the_largest_message_fits_as_request_reply_and_array_and_one_byte_more_is_refused(event: ExpMessage) -> None:
    largest = 0
    for length in range(MAX_DATAGRAM - 400, MAX_DATAGRAM):
        try:
            Message.of(event, ["x" * length])
        except PayloadTooLarge:
            break
        largest = length
    message = Message.of(event, ["x" * largest])
    for data in (
        request := messages.request("f" * 16, 2**63 - 1, message, "f" * 16, -(2**63) + 1),
        reply := messages.reply("f" * 16, 2**63 - 1, message, -(2**63) + 1, -(2**63) + 1, "f" * 16),
        legacy.array(message, RIG_MARK),
    ):
        assert len(data) <= MAX_DATAGRAM
    assert len(reply) == MAX_DATAGRAM  # which takes a little more than the request
    assert len(request) > MAX_DATAGRAM - 30
    with pytest.raises(PayloadTooLarge, match=r"65,50[89] bytes .* at most 65,507; .*tcp://") as caught:
        Message.of(event, ["x" * (largest + 1)])
    assert caught.value.size > caught.value.limit == 65_507


@pytest.mark.parametrize("name", ["focus", "é" * 100, "🐭" * 100])
def test_the_largest_command_fits_whatever_its_name(name: str) -> None:
    size = Message.of(Command(name), [[""], {}]).size
    message = Message.of(Command(name), [["x" * (MAX_DATAGRAM - size)], {}])
    request = messages.request("f" * 16, 2**63 - 1, message, "f" * 16, -(2**63) + 1)
    assert MAX_DATAGRAM - 30 <= len(request) <= MAX_DATAGRAM
    with pytest.raises(PayloadTooLarge):
        Message.of(Command(name), [["x" * (MAX_DATAGRAM - size + 1)], {}])


def test_the_largest_notice_fits_and_one_byte_more_is_refused() -> None:
    empty = len(messages.notice(Notice("f" * 16, 1, "log", None, "", True, to="f" * 16)))
    text = "x" * (MAX_DATAGRAM - empty)
    notice = messages.notice(Notice("f" * 16, 1, "log", None, text, True))
    assert len(messages.addressed(notice, "f" * 16)) == MAX_DATAGRAM
    with pytest.raises(PayloadTooLarge, match=r"65,508 bytes .* at most 65,507; .*tcp://") as caught:
        messages.notice(Notice("f" * 16, 1, "log", None, text + "x", True))
    assert (caught.value.size, caught.value.limit) == (65_508, 65_507)


def test_what_a_notice_holds_is_never_shown() -> None:
    notice = Notice(BOOT, 1, "log", None, {"token": "SECRET"}, True)
    assert "SECRET" not in repr(notice) + repr(decode(messages.notice(notice)))


def test_what_a_message_holds_is_never_shown() -> None:
    message = Message.of(ExpMessage.ALYX, ["https://alyx", {"user": {"token": "SECRET"}}])
    shown = [message, decode(legacy.array(message, RIG_MARK)), decode(messages.request(BOOT, 1, message))]
    shown.append(decode(messages.reply(BOOT, 1, message, 0, 0)))
    command = Message.of(Command("log in"), [["SECRET"], {"token": "SECRET"}])
    shown += [command, decode(messages.request(BOOT, 1, command))]
    for value in shown:
        assert "SECRET" not in repr(value) + str(value)


@pytest.mark.parametrize(
    ("event", "args", "asks"),
    [
        (ExpMessage.ALYX, [None, {}], True),
        (ExpMessage.ALYX, ["https://alyx", {}], True),
        (ExpMessage.ALYX, ["https://alyx", {"user": "t"}], False),
        (ExpMessage.EXPINFO, [None, {}], False),
    ],
)
def test_alyx_without_a_token_asks_for_one(event: ExpMessage, args: list[object], asks: bool) -> None:
    assert Message.of(event, args).asks_token is asks


def test_a_clock_before_1970_is_no_violation() -> None:
    assert decode(written("probe", t0=-5)) == Probe(BOOT, 3, -5)


def test_text_from_outside_stays_on_one_line_of_the_log() -> None:
    assert one_line("a\nERROR forged\x1b[2J\ud800 é") == "a\\nERROR forged\\x1b[2J\\ud800 é"
    assert len(one_line("x" * 10**5)) == 1003


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.99, "1 kB"),
        (1000, "1 kB"),
        (1_540_000, "1.54 MB"),
        (999_499_999, "999 MB"),
        (20_000_000_000, "20 GB"),
        (5 * 10**12, "5 TB"),
        (2 * 10**16, "20 PB"),
        (-12_345, "-12.3 kB"),
    ],
)
def test_sizes_are_written_as_people_do(count: float, text: str) -> None:
    assert size_text(count) == text
