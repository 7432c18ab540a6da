"""Who is believed: what others forge in the name of a rig or of a coordinator, and what older ones write."""

from __future__ import annotations

import pytest

from rigsync.core import events, messages
from rigsync.core.coordinators import ALL_KEPT_BYTES, ALL_NOTICE_BYTES, COORDINATORS, FORGOTTEN
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import Dialect, LinkState
from rigsync.core.legacy_answers import ALL_WAITING_BYTES
from rigsync.core.messages import Alive, Message, Notice, decode
from rigsync.core.outputs import Line
from rigsync.core.rigs import is_called
from rigsync.errors import Cancelled, RigLost, RigRestarted, RigTimeout, WrongRig

from .support import COORDINATOR, HERE, NAME, RIG, WALL, PeerBench, RigBench

STRANGER = "5" * 16
NEW = "b" * 16
OLD_ALIVE = '{{"rigsync":1,"kind":"alive","boot":"{boot}","n":{n},"t0":{t0},"t1":1,"t2":1,"name":"cameras",'
OLD_ALIVE += '"status":"RUNNING","exp_ref":null,"version":"0.1.0","owner":null}}'
OLD_REPLY = '{{"rigsync":1,"kind":"reply","boot":"{boot}","n":{n},"args":[{{"status":20}}],"started":1,"finished":2}}'
"""As rigs write them that name no coordinator."""


@pytest.fixture
def bench() -> PeerBench:
    """A link to a rig that names its coordinator."""
    bench = PeerBench().connect()
    alive(bench)
    bench.outbox.clear()
    bench.told.clear()
    return bench


def alive(bench: PeerBench, boot: str = RIG, to: str | None = COORDINATOR) -> None:
    """Answer a probe that leaves now."""
    n = bench.peer.probe(bench.now)
    probe = bench.peer.prober.log._newest[-1]
    frame = Alive(boot, n, probe.stamp, WALL, WALL, NAME, ExpStatus.CONNECTED, None, "0.1.0", to=to)
    bench.receive(messages.alive(frame), Line.PROBES)


def old(template: str, n: int, boot: str = RIG, t0: int = 0) -> bytes:
    return template.format(boot=boot, n=n, t0=t0).encode()


# -------------------------------------------------------------------------------------------- forged in a rig's name


@pytest.mark.parametrize("to", [None, STRANGER])
def test_forged_answers_settle_nothing(bench: PeerBench, to: str | None) -> None:
    bench.submit("EXPEND", timeout=3.0)
    done = Message.of(ExpMessage.EXPEND, [{"status": 30}])
    for n in range(1, 11):
        bench.receive(messages.ack(RIG, n, to))
        bench.receive(messages.failure(RIG, n, "OSError", "", "", to))
        bench.receive(messages.reply(RIG, n, done, 1, 2, to))
    assert bench.outcomes == []
    assert bench.peer.violations == {"not for this program": 30}
    bench.receive(messages.reply(RIG, 1, done, 1, 2, COORDINATOR))
    assert bench.outcome() == [{"status": 30}]


@pytest.mark.parametrize("to", [None, STRANGER])
def test_forged_goodbyes_notices_and_signs_of_life_mean_nothing(bench: PeerBench, to: str | None) -> None:
    bench.receive(messages.bye(RIG, 0, "forged", to))
    assert bench.peer.state is LinkState.ALIVE
    bench.receive(messages.notice(Notice(RIG, 2**62, "failure", None, {"problem": "forged"}, True, to=to)))
    assert bench.events(events.Notice) == []
    assert bench.outbox == []
    forged = Alive(RIG, 999, 0, WALL, WALL, NAME, ExpStatus.STOPPED, "forged", "0.0.1", to=to)
    for _ in range(20):
        bench.receive(messages.alive(forged), Line.PROBES)
        bench.run(0.5)
    assert bench.peer.state is LinkState.LOST
    assert bench.peer.process.status is ExpStatus.CONNECTED


def test_a_rig_that_has_named_its_coordinator_is_held_to_it_after_a_restart(bench: PeerBench) -> None:
    alive(bench, NEW, to=None)  # an old program, or a forged one
    assert bench.events(events.RestartSeen) == []
    alive(bench, NEW)
    assert len(bench.events(events.RestartSeen)) == 1


def test_an_older_program_in_the_place_of_a_newer_one_is_believed_in_the_end(bench: PeerBench) -> None:
    bench.run(8.0)
    alive(bench, NEW, to=None)
    assert bench.peer.state is LinkState.LOST
    bench.run(3.0)
    alive(bench, NEW, to=None)
    assert bench.peer.state is LinkState.ALIVE
    request = bench.submit("EXPEND")
    bench.receive(old(OLD_REPLY, request.n, NEW))
    assert bench.outcome() == [{"status": 20}]


# ------------------------------------------------------------------------------------------- the version before


def test_a_rig_of_the_version_before_is_believed() -> None:
    bench = PeerBench().connect()
    (probe, *_) = [decode(data) for data in bench.sent(Line.PROBES)]
    assert isinstance(probe, messages.Probe)
    bench.receive(old(OLD_ALIVE, probe.n, t0=probe.t0), Line.PROBES)
    assert (bench.peer.dialect, bench.peer.process.status) == (Dialect.RIGSYNC, ExpStatus.RUNNING)
    request = bench.submit("EXPSTART")
    bench.receive(f'{{"rigsync":1,"kind":"ack","boot":"{RIG}","n":{request.n}}}'.encode())
    bench.receive(old(OLD_REPLY, request.n))
    assert bench.outcome() == [{"status": 20}]
    bench.receive(f'{{"rigsync":1,"kind":"bye","boot":"{RIG}","n":0,"reason":"the rig is closing"}}'.encode())
    assert bench.peer.state is LinkState.LOST


def test_a_rig_of_the_version_before_gives_up_as_it_did() -> None:
    bench = PeerBench().connected()
    bench.submit("EXPEND", timeout=1.0)
    bench.run(1.5)
    assert type(bench.outcome()) is RigTimeout


def test_a_coordinator_of_the_version_before_is_answered_in_what_it_knows() -> None:
    bench = RigBench()
    bench.receive(f'{{"rigsync":1,"kind":"probe","boot":"{COORDINATOR}","n":7,"t0":123}}'.encode())
    request = f'{{"rigsync":1,"kind":"request","boot":"{COORDINATOR}","n":1,"event":"EXPINIT"'
    bench.receive(f'{request},"args":[{{"exp_ref":"2026-01-01_1_m"}}],"at":null,"to":"{RIG}"}}'.encode())
    alive, reply = [decode(data) for data in bench.sent()]
    assert isinstance(alive, messages.Alive)
    assert isinstance(reply, messages.Reply)
    assert alive.t0 == 123
    bench.receive(f'{{"rigsync":1,"kind":"bye","boot":"{COORDINATOR}","n":8,"reason":"over"}}'.encode())
    assert bench.agenda.ownership.host is None


# ------------------------------------------------------------------------------------- whom a rig says that it means


def test_all_that_a_rig_sends_names_the_one_that_it_is_sent_to() -> None:
    bench = RigBench("EXPINIT")
    for boot in (COORDINATOR, STRANGER):
        bench.receive(messages.probe(boot, 1, 0), ("10.0.0.1", 1))
    bench.request("EXPINIT", "2026-01-01_1_m")
    bench.run(0.1)
    bench.request("EXPINIT", "2026-01-01_1_m", n=1)
    bench.respond(bench.due().task)
    bench.rig.notify("temperature", None, 3, False, bench.now)
    bench.request("EXPSTART", boot=STRANGER)
    bench.rig.farewell(bench.now)
    bench._collect()
    named = {(type(frame).__name__, frame.to) for frame in map(decode, bench.sent())}  # type: ignore[union-attr]
    both = {(kind, boot) for kind in ("Alive", "Bye") for boot in (COORDINATOR, STRANGER)}
    assert named == both | {("Ack", COORDINATOR), ("Reply", COORDINATOR), ("Failure", STRANGER)}


# ------------------------------------------------------------------------------------- forged in a coordinator's name


def test_a_goodbye_with_another_boot_or_from_another_host_is_not_believed() -> None:
    bench = RigBench().enter("RUNNING")
    bench.receive(messages.bye(STRANGER, 1, "forged"))
    bench.receive(messages.bye(COORDINATOR, 1, "forged"), ("10.0.0.66", 50_000))
    assert bench.agenda.ownership.host == "10.0.0.1"
    assert bench.do("EXPEND").args


def test_who_is_refused_after_its_goodbye_hears_of_it() -> None:
    bench = RigBench().enter("RUNNING")
    bench.receive(messages.bye(COORDINATOR, 1, "forged by one who has read its boot"))
    assert bench.do("EXPEND").error == "SaidGoodbye"


@pytest.mark.parametrize("n", [2**63 - 1, 10_000_100])
def test_no_request_uses_up_all_numbers(n: int) -> None:
    bench = RigBench().enter("RUNNING")
    bench.request("EXPSTATUS", n=n)
    refused = bench.answer()
    assert (refused.error, refused.n) == ("ValueError", n)
    assert bench.do("EXPEND").args


def test_a_first_request_may_have_any_number() -> None:
    bench = RigBench()
    bench.request("EXPSTATUS", n=123_456_789)  # of a task that has gone on for days, after a restart of the rig
    assert bench.answer().args == [0]


def test_the_task_goes_on_and_nothing_runs_twice_under_a_flood_of_forged_coordinators() -> None:
    bench = RigBench().enter("RUNNING")
    guest = messages.request(STRANGER, 1, Message.of(ExpMessage.EXPSTATUS, [0]), RIG)
    bench.receive(guest)
    bench.sent()
    for number in range(1, COORDINATORS + FORGOTTEN + 1000):  # the guest is in the filter by then
        bench.rig.receive_datagram(guest.replace(STRANGER.encode(), b"%016x" % number), HERE, bench.now)
        bench.rig.take_datagrams()
        bench.rig.take_events()
    bench.receive(guest)
    assert bench.answer().error == "Busy"
    bench.request("EXPEND", n=bench.n)  # a repeat of EXPSTART's number
    assert isinstance(bench.answer(), messages.Reply)
    assert bench.agenda.status is ExpStatus.RUNNING
    assert bench.do("EXPEND").args
    bench.request("EXPSTATUS", n=1, boot=NEW)  # somebody new
    assert bench.answer().args == [30]


def test_what_the_end_has_overtaken_was_not_run() -> None:
    bench = PeerBench().connected()
    bench.submit("EXPSTART", delay=5.0)
    bench.submit("EXPEND")
    bench.reply({})
    assert bench.outcome() == [{}]
    bench.failure("Overtaken", "not run now", n=1)
    error = bench.outcome()
    assert type(error) is Cancelled
    assert str(error) == f"{NAME}: EXPEND came before EXPSTART, which was not run"


# ----------------------------------------------------------------------------------------------------- another rig


def named(bench: PeerBench, name: str, boot: str = RIG) -> None:
    """Answer a probe that leaves now as a rig of some name."""
    n = bench.peer.probe(bench.now)
    probe = bench.peer.prober.log._newest[-1]
    frame = Alive(boot, n, probe.stamp, WALL, WALL, name, ExpStatus.CONNECTED, None, "0.1.0", to=bench.boot)
    bench.receive(messages.alive(frame), Line.PROBES)


def test_nothing_is_sent_to_a_rig_of_another_name() -> None:
    bench = PeerBench().connect()
    bench.submit("EXPINIT")
    bench.submit("EXPSTART")
    named(bench, "ephys")
    bench.submit("EXPINTERRUPT")
    assert bench.sent() == []
    assert [type(error) for _, error in bench.outcomes] == [WrongRig] * 3
    assert str(bench.outcomes[0][1]) == (
        "cameras: the rig at udp://10.0.1.1:11001 says that it is ephys; correct the address of cameras in the "
        "configuration, or the name ephys where that rig's program is started; EXPINIT was not sent"
    )
    assert (bench.peer.state, bench.peer.process.status) == (LinkState.LOST, None)
    assert len(bench.events(events.LinkLost)) == 1


def test_a_rig_that_has_its_right_name_in_the_end_is_asked() -> None:
    bench = PeerBench().connect()
    named(bench, "ephys")
    named(bench, "cameras", NEW)
    assert bench.peer.state is LinkState.ALIVE
    request = bench.submit("EXPINIT")
    assert bench.sent() == [bench.frame(request, to=NEW)]


def test_what_was_outstanding_when_another_rig_took_the_address_is_told(bench: PeerBench) -> None:
    bench.submit("EXPSTART")
    bench.sent()
    named(bench, "ephys", NEW)
    error = bench.outcome()
    assert type(error) is WrongRig
    assert str(error).endswith("look at cameras for what became of EXPSTART")


def test_another_rig_that_is_gone_again_is_not_blamed_any_more() -> None:
    bench = PeerBench().connect()
    named(bench, "ephys")
    bench.run(6.0)
    bench.submit("EXPINIT")
    bench.run(2.0)
    assert type(bench.outcome()) is RigLost


def test_one_rig_may_answer_for_two_that_share_its_address() -> None:
    bench = PeerBench().connect()
    bench.peer.process.is_shared = True
    named(bench, "ephys")
    assert bench.peer.state is LinkState.ALIVE


@pytest.mark.parametrize(
    ("wanted", "told", "same"),
    [
        ("cameras", "cameras", True),
        ("Cameras ", "cameras", True),
        ("cameras", "", True),
        ("cameras:left", "cameras", True),
        ("cameras:left", "left", True),
        ("cameras:left", "right", False),
        ("cameras", "cameras:left", True),
        ("cameras:left", "cameras:right", False),
        ("cameras", "ephys", False),
        ("cameras", "cameras2", False),
    ],
)
def test_which_names_are_one(wanted: str, told: str, same: bool) -> None:
    assert is_called(wanted, told) is same


# ----------------------------------------------------------------------------------------------- another dialect


def test_a_forged_array_does_not_make_an_iblutil_rig_of_a_known_one(bench: PeerBench) -> None:
    request = bench.submit("EXPEND")
    bench.run(0.1)
    bench.sent(Line.PROBES)
    for data in (b"[4,null]", b"[4,{}]", b'[0,"OSError: forged",4]', b"[4,null ]"):
        bench.receive(data)
    assert bench.peer.dialect is Dialect.RIGSYNC
    assert bench.outcomes == []
    assert bench.peer.violations == {"message of the other dialect": 4}
    bench.run(0.02)
    assert len(bench.sent(Line.PROBES)) == 1  # which would come back from an iblutil rig
    bench.receive(messages.reply(RIG, request.n, Message.of(ExpMessage.EXPEND, [{}]), 1, 2, COORDINATOR))
    assert bench.outcome() == [{}]


def test_an_iblutil_program_in_the_place_of_a_rig_is_known_by_the_next_probe(bench: PeerBench) -> None:
    bench.sent(Line.PROBES)
    bench.receive(b"[32,10]")
    bench.run(0.03)
    bench.receive(bench.sent(Line.PROBES)[-1], Line.PROBES)
    assert bench.peer.dialect is Dialect.IBLUTIL


def test_a_probe_that_was_answered_and_comes_back_means_nothing(bench: PeerBench) -> None:
    n = bench.peer.probe(bench.now)
    probe = bench.peer.prober.log._newest[-1]
    frame = Alive(RIG, n, probe.stamp, WALL, WALL, NAME, ExpStatus.CONNECTED, None, "0.1.0", to=COORDINATOR)
    bench.receive(messages.alive(frame), Line.PROBES)
    bench.receive(messages.probe(COORDINATOR, n, probe.stamp), Line.PROBES)
    assert bench.peer.dialect is Dialect.RIGSYNC


def test_a_forged_alive_does_not_make_a_rigsync_rig_of_an_iblutil_one() -> None:
    bench = PeerBench().connected("iblutil")
    request = bench.submit("EXPEND")
    bench.run(15.0)
    bench.outbox.clear()
    for _ in range(5):
        bench.receive(old(OLD_ALIVE, 0), Line.PROBES)
    assert bench.peer.dialect is Dialect.IBLUTIL
    assert request.request_time not in [at for at, outcome in bench.outcomes if type(outcome) is RigRestarted]
    (probe,) = [decode(data) for data in bench.sent(Line.PROBES)]
    assert isinstance(probe, messages.Probe)
    assert probe.t0
    bench.receive(old(OLD_ALIVE, probe.n, t0=probe.t0), Line.PROBES)  # one that is there answers
    assert bench.peer.dialect is Dialect.RIGSYNC


def test_a_configured_iblutil_rig_s_answers_are_arrays() -> None:
    bench = PeerBench(dialect="iblutil").connect()
    request = bench.submit("EXPEND")
    n = bench.peer.probe(bench.now)
    bench.receive(old(OLD_ALIVE, n, t0=0), Line.PROBES)
    bench.receive(old(OLD_REPLY, request.n))
    assert bench.outcomes == []


# ---------------------------------------------------------------------------------------------------------- memory


def test_the_answers_to_iblutil_coordinators_wait_in_a_bounded_room_which_the_one_in_charge_has_its_own_of() -> None:
    bench = RigBench(experiment_description={"text": "x" * 31_000}).enter("RUNNING", dialect="iblutil")
    for sender in range(300):
        for n in range(8):
            bench.array(ExpMessage.EXPINFO, n, None, source=("10.0.0.9", 1000 + sender))
    arrays = bench.rig._arrays
    lanes = arrays._lanes.values()
    assert arrays._waiting <= ALL_WAITING_BYTES
    assert arrays._waiting == sum(
        len(answer) for lane in lanes for _, answer in [*lane.answers, *filter(None, [lane.awaited])]
    )
    assert b"too many answers" in bench.sent()[-1]
    bench.array(ExpMessage.EXPINFO, 0, None)
    assert len(bench.sent()[-1]) > 31_000
    bench.run(9.0)
    assert arrays._waiting == 0


def test_the_answers_kept_for_strangers_leave_those_of_the_one_in_charge() -> None:
    bench = RigBench(experiment_description={"text": "x" * 31_000}).enter("RUNNING")
    for sender in range(600):
        for n in range(1, 9):
            bench.request("EXPINFO", 0, n=n, boot=f"{sender:016x}")
        bench.sent()
    known = bench.rig._coordinators._known
    assert sum(coordinator.size for coordinator in known.values()) < 1.2 * ALL_KEPT_BYTES
    bench.request("EXPSTART", n=bench.n)
    assert isinstance(bench.answers()[-1], messages.Reply)


def test_notices_that_nobody_confirms_are_bounded_over_all() -> None:
    bench = RigBench().enter("RUNNING")
    for sender in range(60):
        bench.probe(f"{sender:016x}")
    for _ in range(100):
        bench.rig.notify("big", None, "x" * 30_000, True, bench.now)
    watchers = bench.rig._coordinators._watchers
    sizes = {boot: watcher.notices.size for boot, watcher in watchers.items()}
    assert sizes.pop(COORDINATOR) > 2.9e6
    assert sum(sizes.values()) <= ALL_NOTICE_BYTES
