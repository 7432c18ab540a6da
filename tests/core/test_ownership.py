"""Whose experiment it is, and for how long (docs/protocol.md section 4)."""

from __future__ import annotations

import math
from copy import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigsync.core.ownership import LEASE as USUAL_LEASE
from rigsync.core.ownership import Ownership, Sender

ANA = Sender("10.0.0.1", "a" * 16)
ANA_AGAIN = Sender("10.0.0.1", "b" * 16)
BEN = Sender("10.0.0.2", "c" * 16)
OLD = Sender("10.0.0.3", None)
"""Two boots on one host, another host, and one of the iblutil dialect."""
LEASE = 10.0


def owned(by: Sender = ANA, now: float = 100.0, lease: float = LEASE) -> Ownership:
    ownership = Ownership(lease)
    ownership.claim(by, now)
    return ownership


@pytest.mark.parametrize("sender", [ANA, BEN, OLD])
def test_without_an_owner_anyone_may_command(sender: Sender) -> None:
    ownership = Ownership(LEASE)
    assert ownership.allows(sender)
    assert ownership.owner is None
    assert ownership.host is None
    assert ownership.expires() == math.inf


@pytest.mark.parametrize("owner", [ANA, BEN, OLD])
def test_only_the_owner_may_command(owner: Sender) -> None:
    ownership = owned(owner)
    assert [sender for sender in (ANA, ANA_AGAIN, BEN, OLD) if ownership.allows(sender)] == [owner]
    assert ownership.owner == owner
    assert ownership.host == owner.host


def test_a_coordinator_that_was_started_anew_on_the_owner_s_host_is_another() -> None:
    assert not owned(ANA).allows(ANA_AGAIN)


def test_a_coordinator_of_the_iblutil_dialect_is_known_by_its_host_alone() -> None:
    ownership = owned(OLD)
    assert ownership.allows(Sender(OLD.host, None))
    assert not ownership.allows(Sender("10.0.0.4", None))
    assert not ownership.allows(Sender(OLD.host, "a" * 16))


def test_a_claim_takes_the_place_of_the_owner_before() -> None:
    ownership = owned(ANA)
    ownership.claim(BEN, 105.0)
    assert not ownership.allows(ANA)
    assert ownership.allows(BEN)
    assert ownership.expires() == 105.0 + LEASE


def test_an_owner_whose_computer_has_another_address_is_the_same() -> None:
    ownership = owned(now=100.0)
    ownership.heard(ANA.boot or "", 104.0, BEN.host)
    assert ownership.host == BEN.host
    assert ownership.is_led_by(Sender(BEN.host, ANA.boot))
    assert ownership.is_led_by(ANA)  # what was under way
    assert hash(Sender(BEN.host, ANA.boot)) == hash(ANA)
    assert not ownership.allows(BEN)
    assert ownership.expires() == 114.0


def test_how_long_an_owner_was_silent_and_when_that_is_too_long() -> None:
    patient = Sender("10.0.0.1", "a" * 16, patience=50.0)
    ownership = owned(patient, now=100.0)
    ownership.heard("a" * 16, 104.0)
    assert [ownership.silence(now) for now in (104.0, 110.0, 154.0)] == [0.0, 6.0, 50.0]
    assert [ownership.is_gone(now) for now in (104.0, 153.9, 154.0)] == [False, False, True]
    ownership.release()
    assert ownership.silence(1e9) == 0.0
    assert not ownership.is_gone(1e9)
    assert not owned(OLD).is_gone(1e9)


def test_what_nobody_has_listened_to_is_not_held_against_the_owner_once_in_a_silence() -> None:
    ownership = owned(now=100.0)  # whose lease is 10 s, and whose patience 5 s
    ownership.pass_over(2.0, 103.0)
    assert ownership.expires() == 112.0  # there is time enough
    ownership.pass_over(1.0, 111.0)
    assert ownership.expires() == 116.0
    ownership.pass_over(1.0, 115.0)
    assert ownership.expires() == 117.0  # not a second time
    ownership.heard("a" * 16, 116.0)
    ownership.pass_over(1.0, 124.0)
    assert ownership.expires() == 129.0
    brief = owned(now=100.0, lease=ANA.patience)
    brief.pass_over(1.0, 104.0)
    assert brief.expires() == 109.0  # all of its patience
    nobody = Ownership(LEASE)
    nobody.pass_over(1.0, 100.0)
    assert nobody.expires() == math.inf


def test_the_lease_is_300_s_unless_told_otherwise() -> None:
    assert USUAL_LEASE == 300.0


def test_a_released_experiment_is_nobody_s() -> None:
    ownership = owned()
    ownership.release()
    assert ownership.allows(BEN)
    assert ownership.owner is None
    assert ownership.expires() == math.inf


def test_the_lease_runs_from_the_last_sign_of_life_of_the_owner() -> None:
    ownership = owned(now=100.0)
    assert ownership.expires() == 110.0
    ownership.heard(ANA.boot or "", 104.0)
    assert ownership.expires() == 114.0


@pytest.mark.parametrize("boot", [ANA_AGAIN.boot, BEN.boot, "", "None"])
def test_the_signs_of_life_of_others_do_not_renew_it(boot: str) -> None:
    ownership = owned(now=100.0)
    ownership.heard(boot, 104.0)
    assert ownership.expires() == 110.0


def test_a_lease_of_0_never_ends() -> None:
    assert owned(lease=0).expires() == math.inf


def test_an_owner_of_the_iblutil_dialect_has_no_lease() -> None:
    assert owned(OLD).expires() == math.inf


def test_one_that_has_said_goodbye_lets_another_command_while_its_lease_goes_on() -> None:
    ownership = owned(now=100.0)
    ownership.leave(ANA.boot or "")
    assert ownership.host is None
    assert ownership.allows(BEN)
    assert ownership.owner == ANA
    assert ownership.expires() == 110.0
    ownership.heard(ANA.boot or "", 104.0)  # a datagram that was overtaken by its goodbye
    assert ownership.expires() == 110.0
    assert ownership.host is None


@pytest.mark.parametrize("boot", [ANA_AGAIN.boot, BEN.boot, ""])
def test_the_goodbye_of_another_changes_nothing(boot: str) -> None:
    ownership = owned()
    ownership.leave(boot)
    assert ownership.host == ANA.host
    assert not ownership.allows(BEN)


def test_an_experiment_that_was_left_can_be_claimed_and_is_its_new_owner_s() -> None:
    ownership = owned(now=100.0)
    ownership.leave(ANA.boot or "")
    ownership.claim(BEN, 120.0)
    assert ownership.host == BEN.host
    assert not ownership.allows(ANA)
    assert ownership.expires() == 130.0


def test_one_that_was_released_after_a_goodbye_is_as_new() -> None:
    ownership = owned()
    ownership.leave(ANA.boot or "")
    ownership.release()
    ownership.claim(BEN, 120.0)
    assert ownership.host == BEN.host


def test_with_the_recording_the_ownership_of_an_iblutil_coordinator_ends_and_no_other_s() -> None:
    old, ana = owned(OLD), owned(ANA)
    old.ended()
    ana.ended()
    assert old.owner is None
    assert ana.owner == ANA
    Ownership(LEASE).ended()


def test_a_copy_remembers_how_it_was() -> None:
    ownership = owned(ANA)
    before = copy(ownership)
    ownership.claim(BEN, 120.0)
    assert (before.owner, before.expires()) == (ANA, 110.0)


SENDERS = st.sampled_from([ANA, ANA_AGAIN, BEN, OLD])


@given(st.lists(st.tuples(st.sampled_from(["claim", "leave", "heard", "release", "ended"]), SENDERS)))
def test_there_is_never_more_than_one_that_is_let_in_alone(steps: list[tuple[str, Sender]]) -> None:
    ownership, now = Ownership(LEASE), 0.0
    for action, sender in steps:
        now += 1.0
        if action == "claim":
            ownership.claim(sender, now)
            assert ownership.allows(sender)
        elif action == "leave":
            ownership.leave(sender.boot or "")
        elif action == "heard":
            ownership.heard(sender.boot or "", now)
        elif action == "release":
            ownership.release()
        else:
            ownership.ended()
        allowed = [other for other in (ANA, ANA_AGAIN, BEN, OLD) if ownership.allows(other)]
        assert allowed == ([ownership.owner] if ownership.host else [ANA, ANA_AGAIN, BEN, OLD])
        assert ownership.expires() <= now + LEASE or ownership.expires() == math.inf
