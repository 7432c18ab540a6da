"""rigsync's own messages and statuses are those of iblutil: by name, by value, in maps, in what is asked of them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from processes import iblutil_net

from rigsync import ExpMessage, ExpStatus
from rigsync.core.enums import PROTOCOL_VERSION

base = iblutil_net().base

PAIRS = [(ExpMessage, base.ExpMessage), (ExpStatus, base.ExpStatus)]


@pytest.mark.parametrize(("own", "theirs"), PAIRS)
def test_names_and_numbers_are_those_of_iblutil(own: Any, theirs: Any) -> None:
    assert {name: int(member) for name, member in own.__members__.items()} == {
        name: int(member) for name, member in theirs.__members__.items()
    }
    assert PROTOCOL_VERSION == base.PROTOCOL_VERSION


@pytest.mark.parametrize(("own", "theirs"), PAIRS)
def test_each_stands_for_the_other_in_comparisons_and_maps(own: Any, theirs: Any) -> None:
    for mine, other in zip(own.__members__.values(), theirs.__members__.values(), strict=True):
        assert mine == other
        assert {mine: "found"}[other] == {other: "found"}[mine] == "found"


@pytest.mark.parametrize("event", base.ExpMessage.__members__.values())
def test_a_message_is_meant_by_itself_name_or_number(event: Any) -> None:
    for meant in (event, event.name, f" {event.name.lower()} ", int(event), ExpMessage[event.name]):
        found = ExpMessage.validate(meant)
        assert (type(found), found.name) == (ExpMessage, event.name)


@pytest.mark.parametrize(("event", "error"), [("EXPLODE", ValueError), (None, TypeError), (1.0, TypeError)])
def test_what_iblutil_refuses_is_refused_with_the_same_error(event: Any, error: type[Exception]) -> None:
    for messages in (ExpMessage, base.ExpMessage):
        with pytest.raises(error):
            messages.validate(event)


def test_several_in_one() -> None:
    both = ExpMessage.EXPINIT | ExpMessage.EXPEND
    theirs = base.ExpMessage.EXPINIT | base.ExpMessage.EXPEND
    assert [*both] == [*theirs] == [1, 4]
    assert both.name == "EXPINIT|EXPEND"
    assert ExpMessage.validate(both) == both
    assert ExpMessage.any() == base.ExpMessage.any()
    with pytest.raises(ValueError, match="not one message; the messages are EXPINIT, EXPSTART"):
        ExpMessage.validate(both, allow_bitwise=False)


@pytest.mark.parametrize("member", [*ExpMessage.__members__.values(), *ExpStatus.__members__.values()])
def test_they_can_be_sent_to_another_process(member: Any) -> None:
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member
