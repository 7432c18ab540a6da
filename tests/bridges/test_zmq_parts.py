"""The pure parts of the ZeroMQ bridge: what a request may be, and what is kept for those who missed it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from rigsync.bridges.asking import Refused
from rigsync.bridges.requests import LARGEST, read_request
from rigsync.bridges.zmq import history as history_module
from rigsync.bridges.zmq.history import History
from rigsync.core.enums import ExpMessage


def history(count: int) -> History:
    made = History()
    for number in range(1, count + 1):
        made.put(b"%d" % number)
    return made


def test_what_came_after_a_number_is_told_once_and_in_order() -> None:
    kept = history(5)
    assert kept.after(2) == ([b"3", b"4", b"5"], 5)
    assert kept.after(5) == ([], 5)
    assert kept.after(0) == ([b"1", b"2", b"3", b"4", b"5"], 5)
    assert (kept.after(6), kept.after(-1)) == (None, None)


def test_beyond_its_bounds_the_oldest_go_and_nobody_is_told_that_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MOST_KEPT", 3)
    kept = history(5)
    assert kept.after(2) == ([b"3", b"4", b"5"], 5)
    assert kept.after(1) is None
    monkeypatch.setattr(history_module, "MOST_KEPT_BYTES", 10)
    kept.put(b"123456789")
    assert (kept.after(4), kept.after(3)) == (([b"5", b"123456789"], 6), None)
    kept.put(b"12345678901")
    assert (kept.gone, kept.after(6), kept.after(7)) == (7, None, ([], 7))


def test_progress_supersedes_what_was_kept_of_the_same_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MOST_KEPT", 4)
    kept = History()
    kept.put(b"start")
    for number in range(1000):
        kept.put(b"frames %d" % number, ("cameras", "frames"))
        kept.put(b"bytes %d" % number, ("cameras", "bytes"))
    kept.put(b"end")
    assert kept.after(0) == ([b"start", b"frames 999", b"bytes 999", b"end"], 2002)
    assert kept.after(2000) == ([b"bytes 999", b"end"], 2002)
    kept.put(b"more")
    assert kept.gone == 1


def test_much_is_told_in_parts_that_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MOST_AT_ONCE", 50)
    kept, told, sequence = history(500), [], 0
    kept.put(b"x" * 100)  # more than is told at once: comes by itself
    while sequence < kept.sequence:
        found = kept.after(sequence)
        assert found
        part, sequence = found
        assert len(b"".join(part)) <= 50 or len(part) == 1
        told += part
    assert told == [*(b"%d" % number for number in range(1, 501)), b"x" * 100]


GOOD = b'{"push": "EXPSTART", "args": ["ref"], "rigs": "cam*", "timeout": 5}'


def test_a_request_is_read() -> None:
    read = read_request(GOOD)
    assert (read.verb, read.what, read.args, read.rigs, read.timeout) == (
        "push",
        ExpMessage.EXPSTART,
        ["ref"],
        ["cam*"],
        5,
    )
    assert read_request(b'{"call": "focus", "rigs": ["a", "b"]}').rigs == ["a", "b"]
    assert read_request(b'{"snapshot": {"run": "a", "sequence": 7}}').what == ("a", 7)
    assert read_request(b'{"snapshot": true}').what is None


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "b'' is not JSON: Expecting value"),
        (b"\xff\xfe\xfd", "is not JSON: "),
        (b"[" * 100_000, "is not JSON: "),
        (b'{"push": NaN}', "NaN is no number that JSON knows"),
        (b"9" * 5000, "is not JSON: "),
        (b'"push"', "a request is a JSON object, for instance"),
        (b"{}", "a request has one of push, call, views, snapshot, not []"),
        (b'{"psuh": "EXPSTART"}', "not ['psuh']; did you mean 'push'?"),
        (b'{"push": "EXPEND", "call": "focus"}', "a request has one of push, call, views, snapshot, not push, call"),
        (b'{"push": "EXPSTRAT"}', "there is no message 'EXPSTRAT'; did you mean 'EXPSTART'?"),
        (b'{"push": ["EXPEND"]}', "there is no message ['EXPEND']; "),
        (b'{"push": "EXPEND", "rig": "a"}', "key 'rig'; args, rigs, timeout may go with push; did you mean 'rigs'?"),
        (b'{"push": "EXPEND", "args": "a"}', "args is a list, not 'a'"),
        (b'{"push": "EXPEND", "rigs": 5}', "rigs is a name or a pattern, or a list of these, not 5"),
        (b'{"push": "EXPEND", "rigs": []}', "rigs is a name or a pattern, or a list of these, not []"),
        (b'{"call": "focus"}', "a call names its rigs"),
        (b'{"call": 5, "rigs": "a"}', "a command is named by text, not 5"),
        (b'{"views": 1}', 'write {"views": true}, not 1'),
        (b'{"views": true, "rigs": "a"}', "unknown key 'rigs'; nothing may go with views"),
        (b'{"snapshot": {"run": "a"}}', 'write {"snapshot": true}, or where you stand'),
        (b'{"snapshot": {"run": "a", "sequence": true}}', 'write {"snapshot": true}, or where you stand'),
        (b" " * (LARGEST + 1), "a request has at most 1,048,576 bytes, not 1,048,577"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_told_with_what_is_wrong(data: bytes, told: str) -> None:
    with pytest.raises(Refused) as caught:
        read_request(data)
    assert told in str(caught.value)


def test_thousands_of_mutated_requests_are_each_read_or_refused() -> None:
    chance = random.Random(20261130)
    samples = [GOOD, b'{"snapshot": {"run": "a", "sequence": 7}}', json.dumps({"call": "ö", "rigs": ["a"]}).encode()]
    outcomes: dict[str, int] = {"read": 0, "refused": 0}
    for _ in range(10_000):
        data: Any = bytearray(chance.choice(samples))
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(data))
            data[place : place + chance.randint(0, 3)] = chance.choice([b"", b'"', b"{", b"\xff", b"9", b"true", b","])
        try:
            read_request(bytes(data))
            outcomes["read"] += 1
        except Refused:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100
