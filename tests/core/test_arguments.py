"""From what callers have to what the wire carries: `compose`, `to_plain` and the refusals of both."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import pathlib
import re
import socket
import uuid
from collections import OrderedDict, UserDict, deque, namedtuple
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync.core import messages
from rigsync.core.arguments import DEEPEST, checked_delay, compose, compose_command, to_plain, validate_event
from rigsync.core.clock import MOST_AHEAD
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.messages import MAX_DATAGRAM, Command
from rigsync.errors import PayloadError, PayloadTooLarge

np = pytest.importorskip("numpy", reason="NumPy comes with iblutil, which is not installed here")


class Camera(enum.Enum):
    LEFT = "left"
    RIGHT = 2
    PATH = pathlib.PurePosixPath("/data")


class Rate(enum.IntEnum):
    FAST = 150


class Label(str):
    __slots__ = ()


class Count(int):
    pass


@dataclasses.dataclass
class Box:
    name: str
    when: datetime.date
    inner: Any = None


@dataclasses.dataclass(frozen=True)
class Corner:
    x: int


@dataclasses.dataclass(eq=False)
class Ring:
    """Can be a key of a mapping that it holds."""

    inner: Any = None


Point = namedtuple("Point", "x y")


# ---------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("EXPINIT", [None]),
        ("EXPSTART", [None, None]),
        ("EXPEND", [None]),
        ("EXPINTERRUPT", [None]),
        ("EXPCLEANUP", [None]),
        ("EXPSTATUS", [0]),
        ("EXPINFO", [0, None]),
        ("ALYX", [None, {}]),
    ],
)
def test_all_arguments_may_be_left_out(event: str, expected: list[Any]) -> None:
    message = compose(event)
    assert message.event is ExpMessage[event]
    assert message.args == expected
    assert json.loads(message.body) == expected


@pytest.mark.parametrize(
    ("event", "args", "expected"),
    [
        ("EXPINIT", [{"a": 1}], [{"a": 1}]),
        ("EXPINIT", ["2024-01-02_1_mouse"], ["2024-01-02_1_mouse"]),
        ("EXPSTART", ["2024-01-02_1_mouse"], ["2024-01-02_1_mouse", None]),
        ("EXPSTART", ["2024-01-02_1_mouse", [1]], ["2024-01-02_1_mouse", [1]]),
        ("EXPSTART", [None, [1]], [None, [1]]),
        ("EXPSTART", ["", [1]], [None, [1]]),
        ("EXPEND", ["text"], ["text"]),
        ("EXPINTERRUPT", [0], [0]),
        ("EXPCLEANUP", [[]], [[]]),
        ("EXPSTATUS", [ExpStatus.RUNNING], [20]),
        ("EXPSTATUS", [" running "], [20]),
        ("EXPSTATUS", [20], [20]),
        ("EXPINFO", ["STOPPED", {"a": 1}], [30, {"a": 1}]),
        ("EXPINFO", [None, {"a": 1}], [0, {"a": 1}]),
    ],
)
def test_arguments_stand_where_iblutil_has_them(event: str, args: list[Any], expected: list[Any]) -> None:
    assert compose(event, *args).args == expected


@pytest.mark.parametrize("event", ["expinit", " EXPINIT\n", 1, ExpMessage.EXPINIT])
def test_a_message_may_be_named_as_iblutil_allows(event: Any) -> None:
    assert compose(event).event is ExpMessage.EXPINIT


@pytest.mark.parametrize(
    "event",
    [
        "EXPPAUSE",
        "",
        "EXPINIT|EXPEND",
        "1",
        0,
        ExpMessage(0),
        3,
        ExpMessage.EXPINIT | ExpMessage.EXPEND,
        256,
        -1,
        10**30,
    ],
)
def test_an_unknown_or_compound_message_lists_the_choices(event: Any) -> None:
    with pytest.raises(ValueError, match=r"EXPINIT.*EXPSTART.*EXPEND.*ALYX"):
        compose(event)


def test_a_mistyped_message_is_recognised() -> None:
    with pytest.raises(ValueError, match="there is no message 'EXPSTRAT'; did you mean 'EXPSTART'"):
        validate_event("EXPSTRAT")


def test_the_null_message_is_refused_as_such() -> None:
    with pytest.raises(ValueError, match="null message"):
        validate_event(0)


@pytest.mark.parametrize("event", [None, True, False, 1.0, b"EXPINIT", ["EXPINIT"], ExpMessage, object()])
def test_a_message_of_a_wrong_type_lists_the_choices(event: Any) -> None:
    with pytest.raises(TypeError, match=r"(?i)unknown event type.*EXPINIT, EXPSTART.*ALYX"):
        compose(event)


@pytest.mark.parametrize("event", ["EXPINIT", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP", "EXPSTATUS", "ALYX"])
def test_a_second_argument_is_one_too_many(event: str) -> None:
    with pytest.raises(TypeError, match=rf"{event} takes at most 1 arguments \(\w+\), got 2"):
        compose(event, None, None)


@pytest.mark.parametrize(("event", "names"), [("EXPSTART", "exp_ref, data"), ("EXPINFO", "status, data")])
def test_a_third_argument_is_one_too_many(event: str, names: str) -> None:
    with pytest.raises(TypeError, match=rf"{event} takes at most 2 arguments \({names}\), got 3"):
        compose(event, None, None, None)


@pytest.mark.parametrize("event", ["EXPSTATUS", "EXPINFO"])
@pytest.mark.parametrize("status", ["ASLEEP", "", 5, -1, 10**30])
def test_an_unknown_status_lists_the_choices(event: str, status: Any) -> None:
    with pytest.raises(ValueError, match="CONNECTED, INITIALIZED, RUNNING, STOPPED"):
        compose(event, status)


@pytest.mark.parametrize("status", [True, 20.0, [20], {"status": 20}, b"RUNNING"])
def test_a_status_of_a_wrong_type_lists_the_choices(status: Any) -> None:
    with pytest.raises(TypeError, match=f"CONNECTED, INITIALIZED, RUNNING, STOPPED, not {type(status).__name__}"):
        compose("EXPSTATUS", status)


@pytest.mark.parametrize(
    "date",
    [
        "2024-01-02",
        "2024-01-02T10:11:12",
        datetime.date(2024, 1, 2),
        datetime.datetime(2024, 1, 2, 10, 11, 12),
        np.datetime64("2024-01-02"),
        np.datetime64("2024-01-02T10:11:12"),
    ],
)
@pytest.mark.parametrize("sequence", [3, "3", "003", np.int64(3), np.uint8(3)])
@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_a_reference_in_parts_is_sent_as_text(date: Any, sequence: Any, kind: Any) -> None:
    parts = kind({"date": date, "sequence": sequence, "subject": "mouse_1"})
    assert compose("EXPSTART", parts).args == ["2024-01-02_3_mouse_1", None]
    assert compose("EXPINIT", {"exp_ref": parts, "b": 2}).args == [{"exp_ref": "2024-01-02_3_mouse_1", "b": 2}]
    assert compose("EXPSTART", None, {"exp_ref": parts}).args == [None, {"exp_ref": "2024-01-02_3_mouse_1"}]


def test_a_reference_in_the_data_is_sent_as_text_without_changing_the_caller_s_data() -> None:
    data = {"exp_ref": {"date": datetime.date(2024, 1, 2), "sequence": 1, "subject": "m"}}
    compose("EXPINIT", data)
    assert data == {"exp_ref": {"date": datetime.date(2024, 1, 2), "sequence": 1, "subject": "m"}}


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"date": "2024-01-02", "sequence": 1},
        {"date": "2024-01-02", "subject": "m"},
        {"sequence": 1, "subject": "m"},
        {"date": "2024-01-02", "sequence": "first", "subject": "m"},
        {"date": "2024-01-02", "sequence": None, "subject": "m"},
        {"date": "2024-01-02", "sequence": [], "subject": "m"},
        {"date": "2024-01-02", "sequence": math.inf, "subject": "m"},
        {"date": "2024-01-02", "sequence": math.nan, "subject": "m"},
        {"date": "2024-01-02", "sequence": "9" * 10_000, "subject": "m" * 10_000},
    ],
)
def test_a_reference_that_lacks_a_part_is_refused_briefly(parts: dict[str, Any]) -> None:
    for args in (("EXPSTART", parts), ("EXPINIT", {"exp_ref": parts})):
        with pytest.raises(ValueError, match=r"needs date, sequence .* and subject") as caught:
            compose(*args)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("reference", [5, True, 1.5, ["2024-01-02_1_m"], b"2024-01-02_1_m", pathlib.Path("m")])
def test_a_reference_of_another_type_is_refused(reference: Any) -> None:
    with pytest.raises(ValueError, match="text or a map"):
        compose("EXPSTART", reference)


# -------------------------------------------------------------------------------------------------------- ALYX


def alyx(**changes: Any) -> SimpleNamespace:
    fields = {"base_url": "https://alyx", "user": "ana", "_token": {"token": "SECRET"}, "is_logged_in": True}
    return SimpleNamespace(**{name: value for name, value in (fields | changes).items() if value is not ...})


def test_a_client_that_is_logged_in_is_sent_as_address_and_token() -> None:
    assert compose("ALYX", alyx()).args == ["https://alyx", {"ana": {"token": "SECRET"}}]
    assert not compose("ALYX", alyx()).asks_token


def test_a_client_that_is_not_logged_in_asks_for_a_token() -> None:
    message = compose("ALYX", alyx(is_logged_in=False, user=..., _token=...))
    assert message.args == ["https://alyx", {}]
    assert message.asks_token


@pytest.mark.parametrize("lacking", ["base_url", "user", "_token", "is_logged_in"])
def test_what_is_no_client_is_refused_with_what_it_lacks(lacking: str) -> None:
    with pytest.raises(TypeError, match=f"ALYX takes an object with base_url.*SimpleNamespace.*{lacking}") as caught:
        compose("ALYX", alyx(**{lacking: ...}))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("client", ["https://alyx", {"ana": "SECRET"}, 1, True])
def test_a_bare_token_is_no_client(client: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(client).__name__}") as caught:
        compose("ALYX", client)
    assert "SECRET" not in str(caught.value)


def test_a_token_that_cannot_be_sent_is_not_shown() -> None:
    with pytest.raises(PayloadError, match=r"alyx\['ana'\]") as caught:
        compose("ALYX", alyx(_token=b"SECRET"))
    assert "SECRET" not in str(caught.value)


def test_a_message_never_shows_its_arguments() -> None:
    for message in (compose("ALYX", alyx()), compose("EXPINIT", {"password": "SECRET"})):
        assert "SECRET" not in repr(message)
        assert message.event.name in repr(message)


# ---------------------------------------------------------------------------------------------------- rich types

UTC = datetime.timezone.utc

RICH: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (-7, -7),
    (2.5, 2.5),
    ("é🐭", "é🐭"),
    ("\ud800", "\ud800"),
    (10**639, 10**639),
    (datetime.date(2024, 1, 2), "2024-01-02"),
    (datetime.datetime(2024, 1, 2, 3, 4, 5, 6), "2024-01-02T03:04:05.000006"),
    (datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "2024-01-02T03:04:05+00:00"),
    (datetime.time(3, 4, 5), "03:04:05"),
    (datetime.timedelta(minutes=1, milliseconds=500), 60.5),
    (pathlib.PurePosixPath("/data/a"), "/data/a"),
    (pathlib.PureWindowsPath("C:\\data"), "C:\\data"),
    (pathlib.Path("a"), "a"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Camera.LEFT, "left"),
    (Camera.RIGHT, 2),
    (Camera.PATH, "/data"),
    (Rate.FAST, 150),
    (ExpStatus.RUNNING, 20),
    (Label("left"), "left"),
    (Count(3), 3),
    ((1, (2, 3)), [1, [2, 3]]),
    ([], []),
    (deque([1, 2], maxlen=2), [1, 2]),
    (Point(1, [2]), [1, [2]]),
    ({"a": {"b": (1,)}}, {"a": {"b": [1]}}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (UserDict(a=1), {"a": 1}),
    (set(), []),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({2: None}.keys(), [2]),
    ({Camera.RIGHT, Camera.LEFT}, [2, "left"]),
    ({1, "a", None, 2.5, True + 1, (1, "x"), Corner(4)}, [None, {"x": 4}, 2.5, 1, 2, [1, "x"], "a"]),
    ({datetime.date(2024, 1, 2), datetime.date(2023, 1, 2)}, ["2023-01-02", "2024-01-02"]),
    ({frozenset({2, 1}), frozenset({0})}, [[0], [1, 2]]),
    (Box("b", datetime.date(2024, 1, 2)), {"name": "b", "when": "2024-01-02", "inner": None}),
    (
        Box("b", datetime.date(2024, 1, 2), [Corner(1), {"c": {Corner(2)}}]),
        {"name": "b", "when": "2024-01-02", "inner": [{"x": 1}, {"c": [{"x": 2}]}]},
    ),
    (np.bool_(True), True),
    (np.int8(-3), -3),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.float16(1.5), 1.5),
    (np.float32(0.25), 0.25),
    (np.float64(0.1), 0.1),
    (np.longdouble(1.5), 1.5),
    (np.str_("left"), "left"),
    (np.datetime64("2024-01-02"), "2024-01-02"),
    (np.datetime64("2024-01-02T03:04:05.123456789"), "2024-01-02T03:04:05.123456789"),
    (np.datetime64("NaT", "s"), "NaT"),
    (np.timedelta64(1500, "ms"), 1.5),
    (np.timedelta64(2, "D"), 172_800.0),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.array([], float), []),
    (np.array([0.5, 1.5], np.float32), [0.5, 1.5]),
    (np.array([0.5], np.longdouble), [0.5]),
    (np.array([True, False]), [True, False]),
    (np.array(["a", "bc"]), ["a", "bc"]),
    (np.array(["2024-01-02", "NaT"], "M8[D]"), ["2024-01-02", "NaT"]),
    (np.array([1, 2], "m8[s]"), [1.0, 2.0]),
    (np.array(5), 5),
    (np.array("a"), "a"),
    (np.array("2024-01-02", "M8[D]"), "2024-01-02"),
    (np.array({"a": 1}, object), {"a": 1}),
    (np.array([None, {"a": Camera.LEFT}, np.int8(1), "x"], object), [None, {"a": "left"}, 1, "x"]),
    (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
    (np.ma.array([1, 2], mask=[0, 1]), [1, None]),
]


@pytest.mark.parametrize(("value", "plain"), RICH, ids=lambda value: f"{type(value).__name__}")
def test_rich_types_become_plain(value: Any, plain: Any) -> None:
    message = compose("EXPEND", value)
    assert message.args == [plain]
    assert json.loads(message.body) == [plain]


@pytest.mark.parametrize(("value", "plain"), RICH, ids=lambda value: f"{type(value).__name__}")
def test_rich_types_become_plain_wherever_they_stand(value: Any, plain: Any) -> None:
    wrapped = {"list": [value], "box": Box("b", datetime.date(2024, 1, 2), value), "array": np.empty(1, object)}
    wrapped["array"][0] = value
    message = compose("EXPSTART", None, wrapped)
    expected = {"list": [plain], "box": {"name": "b", "when": "2024-01-02", "inner": plain}, "array": [plain]}
    assert message.args == [None, expected]
    assert json.loads(message.body) == [None, expected]


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


@pytest.mark.parametrize(("value", "plain"), RICH, ids=lambda value: f"{type(value).__name__}")
def test_nothing_but_plain_types_is_left(value: Any, plain: Any) -> None:
    assert is_plain(to_plain(value, "data"))


def test_durations_that_are_not_a_time_stay_so() -> None:
    (value,) = compose("EXPEND", np.timedelta64("NaT", "s")).args
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (1, "1"),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        (Label("a"), "a"),
        (np.str_("a"), "a"),
        (np.int64(3), "3"),
        (Camera.LEFT, "left"),
        (Camera.RIGHT, "2"),
        (Rate.FAST, "150"),
        (pathlib.PurePosixPath("/a"), "/a"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_keys_that_are_not_text_are_sent_as_text(key: Any, name: str) -> None:
    message = compose("EXPEND", {key: 1})
    assert message.args == [{name: 1}]
    assert type(next(iter(message.args[0]))) is str


@pytest.mark.parametrize(
    "data", [{1: "a", "1": "b"}, {True: 1, "true": 2}, {None: 1, "null": 2}, {Camera.LEFT: 1, "left": 2}]
)
def test_keys_that_would_become_one_are_refused(data: Any) -> None:
    with pytest.raises(PayloadError, match=r"data\['x'\] has two keys that are both sent as"):
        compose("EXPEND", {"x": data})


@pytest.mark.parametrize("key", [(1, 2), frozenset({1}), Corner(1), b"k", object(), len])
def test_keys_that_cannot_be_text_are_refused(key: Any) -> None:
    with pytest.raises(PayloadError, match="key of"):
        compose("EXPEND", {key: 1})


# ----------------------------------------------------------------------------------------------------- refusals


def generator() -> Any:
    yield 1


REFUSED: list[tuple[Any, str]] = [
    (b"bytes", "bytes"),
    (bytearray(b"a"), "bytearray"),
    (memoryview(b"a"), "memoryview"),
    (object(), "object"),
    (SimpleNamespace(a=1), "types.SimpleNamespace"),
    (len, "builtin_function_or_method"),
    (lambda: None, "function"),
    (generator, "function"),
    (generator(), "generator"),
    (Corner, "type"),
    (int, "type"),
    (json, "module"),
    (..., "ellipsis"),
    (1j, "complex"),
    (range(3), "range"),
    (iter([1]), "list_iterator"),
    (ValueError("x"), "ValueError"),
    (Mock(), "unittest.mock.Mock"),
    (np.complex128(1j), "numpy.complex128"),
    (np.array([1j]), "numpy.ndarray of complex128"),
    (np.zeros(2, [("a", int), ("b", float)]), r"numpy.ndarray of \[\('a'"),
    (np.zeros(2, [("a", int)])[0], r"numpy.void of \[\('a'"),
    (np.bytes_(b"a"), r"numpy.bytes_ of \|S1"),
    (np.array([b"a"]), r"numpy.ndarray of \|S1"),
    (np.timedelta64(1, "Y"), "numpy.timedelta64"),
    (np.dtype(int), "numpy.dtype"),
]


@pytest.mark.parametrize(("value", "kind"), REFUSED, ids=lambda value: f"{type(value).__name__}")
def test_what_cannot_be_sent_is_refused_with_its_path_and_type(value: Any, kind: str) -> None:
    with pytest.raises(PayloadError, match=rf"^data is of type {kind}"):
        compose("EXPEND", value)
    with pytest.raises(PayloadError, match=rf"^data\['cameras'\]\[1\]\.inner is of type {kind}"):
        compose("EXPSTART", None, {"cameras": ["left", Box("b", datetime.date(2024, 1, 2), value)]})


def test_a_socket_is_refused() -> None:
    with socket.socket() as handle, pytest.raises(PayloadError, match=r"data\['s'\] is of type socket.socket"):
        compose("EXPINIT", {"s": handle})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([object()], r"data\[0\] is"),
        ({"a": {"b": object()}}, r"data\['a'\]\['b'\] is"),
        ({5: object()}, r"data\[5\] is"),
        ({object}, r"data\{\} is"),
        (np.array([1, object()], object), r"data\[1\] is"),
        (Box("b", datetime.date(2024, 1, 2), (1, object())), r"data\.inner\[1\] is"),
    ],
)
def test_the_path_is_as_the_caller_would_write_it(value: Any, path: str) -> None:
    with pytest.raises(PayloadError, match=f"^{path}"):
        compose("EXPEND", value)


def test_the_path_begins_with_the_name_of_the_argument() -> None:
    with pytest.raises(PayloadError, match=r"^data is"):
        compose("EXPINFO", "RUNNING", object())


def self_referring() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    mapping: dict[str, Any] = {}
    mapping["self"] = mapping
    box = Box("b", datetime.date(2024, 1, 2))
    box.inner = {"box": box}
    array = np.empty(1, object)
    array[0] = array
    queue: deque[Any] = deque()
    queue.append((queue,))
    ring = Ring()
    ring.inner = {ring: 1}
    return [items, mapping, box, array, queue, ring]


@pytest.mark.parametrize("value", self_referring(), ids=lambda value: type(value).__name__)
def test_what_refers_to_itself_is_refused_with_a_short_text(value: Any) -> None:
    with pytest.raises(PayloadError, match="refers to itself") as caught:
        compose("EXPEND", value)
    assert len(str(caught.value)) < 200


def test_nesting_is_allowed_to_a_fixed_depth() -> None:
    value: Any = 1
    for _ in range(DEEPEST):
        value = [value]
    assert compose("EXPEND", value).args == [value]
    with pytest.raises(PayloadError, match=f"nested more than {DEEPEST} deep"):
        compose("EXPEND", [value])


@pytest.mark.parametrize(
    "value",
    [10**640, -(10**640), 10**5000, [10**5000], {10**5000: 1}, {(10**5000,)}, {10**5000}, Count(10**640)],
    ids=lambda value: type(value).__name__,
)
def test_a_whole_number_that_no_other_side_reads_is_refused_with_its_path(value: Any) -> None:
    with pytest.raises(PayloadError, match=r"data.* is a whole number of more than 640 digits"):
        compose("EXPEND", value)


class Odd:
    """Claims to be an array of whole numbers and is none."""

    dtype = np.dtype(int)

    def tolist(self) -> list[Any]:
        return [object()]


def test_what_only_json_finds_out_is_refused_as_well() -> None:
    with pytest.raises(PayloadError, match="EXPEND cannot be sent"):
        compose("EXPEND", Odd())


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
@settings(deadline=None)
def test_plain_values_are_left_as_they_are(value: Any) -> None:
    assert to_plain(value, "data") == value
    assert is_plain(to_plain(value, "data"))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates() | st.uuids()
HASHABLE = st.recursive(SCALARS, lambda inner: st.frozensets(inner, max_size=4) | st.tuples(inner, inner), max_leaves=8)


@given(st.frozensets(HASHABLE, max_size=6))
@settings(deadline=None)
def test_sets_of_anything_can_be_sent(value: frozenset[Any]) -> None:
    (items,) = compose("EXPEND", value).args
    assert len(items) == len(value)


@given(st.frozensets(st.integers() | st.text(max_size=5) | st.booleans() | st.tuples(st.integers()), max_size=6))
@settings(deadline=None)
def test_the_order_of_a_set_depends_on_its_items_alone(value: frozenset[Any]) -> None:
    backwards = dict.fromkeys(reversed(list(value))).keys()  # a set that is iterated in the opposite order
    assert to_plain(backwards, "data") == to_plain(value, "data")


# -------------------------------------------------------------------------------------------------------- sizes


def test_the_largest_payload_fits_and_one_byte_more_does_not() -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        compose("EXPINIT", "x" * MAX_DATAGRAM)
    overhead = caught.value.size - MAX_DATAGRAM
    text = "x" * (MAX_DATAGRAM - overhead)
    message = compose("EXPINIT", text)
    request = messages.request("f" * 16, 2**63 - 1, message, "f" * 16, -(2**63) + 1)
    reply = messages.reply("f" * 16, 2**63 - 1, message, -(2**63) + 1, -(2**63) + 1, "f" * 16)
    assert MAX_DATAGRAM - 30 < len(request) < len(reply) == MAX_DATAGRAM  # which takes a little more
    with pytest.raises(PayloadTooLarge, match=r"65,508 bytes .* at most 65,507") as caught:
        compose("EXPINIT", text + "x")
    assert (caught.value.size, caught.value.limit) == (65_508, 65_507)


def test_the_size_is_that_of_the_encoded_text() -> None:
    compose("EXPINIT", "x" * 60_000)
    with pytest.raises(PayloadTooLarge, match=r"12\d,\d{3} bytes"):
        compose("EXPINIT", "🐭" * 10_000)


def test_a_structure_that_holds_itself_many_times_is_found_out_at_once() -> None:
    value: list[Any] = []
    for _ in range(50):
        value = [value, value]
    with pytest.raises(PayloadTooLarge):
        compose("EXPINIT", value)


@pytest.mark.parametrize("value", [list(range(10**6)), np.zeros(10**7), {"a": [None] * 10**6}])
def test_what_is_far_too_large_is_not_gone_through_whole(value: Any) -> None:
    with pytest.raises(PayloadTooLarge):
        compose("EXPINIT", value)


# ---------------------------------------------------------------------------------------------------- commands


def test_a_command_has_positional_arguments_and_keywords() -> None:
    message = compose_command("focus", (1, pathlib.PurePosixPath("/a")), {"z": np.float64(0.5), "at": None})
    assert message.event == Command("focus")
    assert message.args == [[1, "/a"], {"z": 0.5, "at": None}]
    assert json.loads(message.body) == message.args
    assert compose_command("home", (), {}).args == [[], {}]


@pytest.mark.parametrize(
    ("args", "keywords", "named"),
    [
        ((), {"z": object()}, "z is of type object"),
        ((), {"z": {"a": [1, object()]}}, "z['a'][1] is of type object"),
        ((1, object()), {}, "args[1] is of type object"),
    ],
)
def test_an_argument_of_a_command_that_cannot_be_sent_is_named(
    args: tuple[Any, ...], keywords: dict[str, Any], named: str
) -> None:
    with pytest.raises(PayloadError) as caught:
        compose_command("focus", args, keywords)
    assert named in str(caught.value)


def test_a_command_that_is_too_large_is_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        compose_command("focus", ("x" * 40_000,), {"y": "x" * 40_000})


@pytest.mark.parametrize(("name", "error"), [("expinit", ValueError), ("", ValueError), (3, TypeError)])
def test_a_command_needs_a_name_of_its_own(name: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        compose_command(name, (), {})


WALL = 1_700_000_000.0


@pytest.mark.parametrize(
    ("at", "delay", "seconds"),
    [
        *[(None, None, None), (None, 2, 2.0), (None, 1e-6, 1e-6), (None, MOST_AHEAD, MOST_AHEAD)],
        *[(WALL + 3.0, None, 3.0), (WALL + MOST_AHEAD, None, MOST_AHEAD)],
    ],
)
def test_an_instant_is_so_many_seconds_ahead(at: Any, delay: Any, seconds: float | None) -> None:
    assert checked_delay(ExpMessage.EXPSTART, at, delay, WALL) == seconds


@pytest.mark.parametrize(
    ("at", "delay", "error", "told"),
    [
        (WALL + 1, 1.0, ValueError, "not as both"),
        ("soon", None, TypeError, "at is a number of seconds of Unix time, as time.time() gives, not str"),
        (None, "soon", TypeError, "delay is a number of seconds from now, not str"),
        (None, True, TypeError, "delay is a number of seconds from now, not bool"),
        (
            WALL,
            None,
            ValueError,
            f"at={WALL:g} is not an instant within the hour ahead, but 0 s from now; it is in",
        ),
        (
            None,
            0,
            ValueError,
            "delay=0 is not an instant within the hour ahead, but 0 s from now; it is in seconds from",
        ),
        (None, 3601, ValueError, "delay=3601 is not an instant within the hour ahead, but 3601 s from now"),
        (None, math.nan, ValueError, "delay is not an instant within the hour ahead; it is in seconds from now"),
        pytest.param(
            *(None, 10**400, ValueError, "delay is not an instant within the hour ahead; it is in seconds from now"),
            id="huge",
        ),
    ],
)
def test_what_is_no_instant_ahead_says_why(at: Any, delay: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=re.escape(told)):
        checked_delay(ExpMessage.EXPSTART, at, delay, WALL)


def test_an_interrupt_has_no_instant() -> None:
    assert checked_delay(ExpMessage.EXPINTERRUPT, None, None, WALL) is None
    with pytest.raises(ValueError, match="EXPINTERRUPT acts at once; leave out at and delay"):
        checked_delay(ExpMessage.EXPINTERRUPT, None, 1.0, WALL)
