"""How much a rig sends to a host that has not shown that it receives it: whoever forges an address gets no weapon."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rigsync.core import messages
from rigsync.core.arguments import compose, compose_command
from rigsync.core.events import EchoMissing, HandlerDue, MessageHandled, ViolationSeen
from rigsync.core.legacy import Array
from rigsync.core.legacy_answers import ALL_WITHHELD_BYTES
from rigsync.core.messages import Ack, Alive, Failure, Notice, Reply, decode
from rigsync.core.reach import AMPLIFICATION, BORROWED, BORROWED_PER_SECOND, CHALLENGES, HOSTS, Reach
from rigsync.core.throttle import ALL_TOLD_EACH_MINUTE, TOLD_EACH_MINUTE

from .support import COORDINATOR, HERE, RIG, PeerBench, RigBench

LARGE = {"devices": "x" * 31_000}
PROGRAM = "task.py, pid 4711, started 14:03:11"


class Tally:
    """A rig among strangers, and how many bytes it has had from, and sent to, each host."""

    def __init__(self, *handled: str, **options: Any):
        self.bench = RigBench(*handled, strangers=True, **options)
        self.had: dict[str, int] = {}
        self.sent: dict[str, int] = {}

    def receive(self, data: bytes, source: Any = HERE) -> list[Any]:
        """Have the rig receive something, and return what it sends at once."""
        self.had[source[0]] = self.had.get(source[0], 0) + len(data)
        self.bench.rig.receive_datagram(data, source, self.bench.now)
        return self.collect()

    def collect(self) -> list[Any]:
        found = self.bench.rig.take_datagrams()
        self.bench.told += self.bench.rig.take_events()
        for destination, data in found:
            self.sent[destination[0]] = self.sent.get(destination[0], 0) + len(data)
        return [decode(data) for _, data in found]

    def run(self, seconds: float) -> list[Any]:
        """Let time pass, and return what is sent meanwhile."""
        found, end = [], self.bench.now + seconds
        while (when := self.bench.rig.next_timer()) <= end:
            self.bench.now = max(self.bench.now, when)
            self.bench.rig.handle_timer(self.bench.now)
            found += self.collect()
        self.bench.now = end
        return found

    @property
    def factor(self) -> float:
        return max(self.sent.get(host, 0) / had for host, had in self.had.items())


def request(event: str, n: int, at: int | None = None) -> bytes:
    return messages.request(COORDINATOR, n, compose(event), RIG, at)


@pytest.mark.parametrize("frame", ["probe", "EXPINFO", "EXPINIT", "EXPSTATUS", "all"])
def test_nothing_has_a_rig_send_more_than_3_times_as_much_to_who_has_not_shown_that_it_receives(frame: str) -> None:
    tally = Tally(experiment_description=LARGE)
    for name in map(str, range(50)):
        tally.bench.rig._board.add_stream(name, {"camera": "x" * 500})
    for n in range(1, 60):
        if frame in ("probe", "all"):
            tally.receive(messages.probe(COORDINATOR, n, 0))
        if frame != "probe":
            event = frame if frame != "all" else ("EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP")[n % 5]
            for _ in range(3):
                tally.receive(request(event, n))
        assert tally.factor <= AMPLIFICATION
        tally.bench.rig.notify("log", None, "x" * 2000, True, tally.bench.now)
        tally.run(1.0)
        assert tally.factor <= AMPLIFICATION
    tally.bench.rig.farewell(tally.bench.now)
    tally.collect()
    assert tally.factor <= AMPLIFICATION


def test_an_answer_waits_until_the_host_has_acknowledged_what_it_alone_was_sent() -> None:
    tally = Tally("EXPINFO", experiment_description=LARGE)
    (alive,) = tally.receive(messages.probe(COORDINATOR, 1, 0, program=PROGRAM))
    assert isinstance(alive, Alive)
    tally.receive(request("EXPINFO", 1))
    (due,) = tally.bench.events(HandlerDue)
    tally.bench.agenda.respond(due.task, None, tally.bench.now)
    (challenge,) = tally.collect()
    assert isinstance(challenge, Notice)
    assert challenge.confirm
    assert CHALLENGES <= challenge.n < 2 * CHALLENGES
    for wrong in (challenge.n - 1, challenge.n + 1, 1, 2 * CHALLENGES):
        assert tally.receive(messages.ack(COORDINATOR, wrong)) == []
    assert tally.receive(messages.ack(COORDINATOR, challenge.n), ("10.0.0.9", 1)) == []  # it is another host's
    (reply,) = tally.receive(messages.ack(COORDINATOR, challenge.n))
    assert isinstance(reply, Reply)
    assert reply.args[1]["experiment_description"] == LARGE
    assert tally.factor > 10
    assert isinstance(tally.receive(request("EXPINFO", 1))[-1], Reply)  # and from now on at once


@pytest.mark.parametrize("is_well", [True, False])
@pytest.mark.parametrize("name", ["cameras", "cameras of the second rig upstairs"])
@pytest.mark.parametrize(("program", "answered"), [(PROGRAM, 6), (None, 3)])
def test_a_usual_burst_of_probes_is_enough_for_a_coordinator_of_today_and_for_an_older_one(
    program: str | None, answered: int, name: str, is_well: bool
) -> None:
    tally = Tally(experiment_description=LARGE, name=name)
    if not is_well:
        tally.bench.rig.notify("failure", "left.mp4", "stopped growing", True, tally.bench.now)
    frames: list[Any] = []
    for n in range(1, 9):
        frames += tally.receive(messages.probe(COORDINATOR, n, 1_800_000_000_000_000_000, program=program))
    alive = [index for index, frame in enumerate(frames) if isinstance(frame, Alive)]
    challenges = [index for index, frame in enumerate(frames) if isinstance(frame, Notice)]
    assert len(alive) >= answered
    assert challenges[-1] > alive[0]  # before, it cannot know whose it is
    challenge = frames[challenges[-1]]
    assert challenge.to == COORDINATOR
    assert tally.receive(messages.ack(COORDINATOR, challenge.n)) == []
    (reply,) = tally.receive(request("EXPINFO", 1))
    assert isinstance(reply, Reply)
    assert tally.bench.rig._reach.has_shown(HERE[0])
    *_, answer = tally.receive(messages.probe(COORDINATOR, 9, 0))
    assert isinstance(answer, Alive)
    assert (answer.troubles is None) == is_well  # which was left out until then, so that it takes nobody's room


def test_a_coordinator_acknowledges_it_and_tells_nobody() -> None:
    bench = PeerBench().connected()
    body = {"action": "remove", "number": 0, "info": {}}
    bench.notice(CHALLENGES + 5, body, topic="stream", key="?")
    acks = [decode(data) for _, data in bench.outbox]
    assert acks == [Ack(bench.boot, CHALLENGES + 5)]
    assert bench.events() == []
    bench.notice(2 * CHALLENGES + 1, {"trial": 7})
    (told,) = bench.events()
    assert told.body == {"trial": 7}


def test_iblutil_shows_it_by_the_echo_of_an_answer_whose_white_space_is_its_own() -> None:
    tally = Tally(experiment_description=LARGE)
    host, other = ("10.0.0.5", 4000), ("10.0.0.6", 4000)
    source = b"[64, 0, null]"
    tally.bench.rig.receive_datagram(source, host, tally.bench.now)
    (_, echo), (_, answer) = tally.bench.rig.take_datagrams()
    assert echo == source
    assert decode(answer).args[1]["experiment_description"] == LARGE  # type: ignore[union-attr]
    assert answer[-2:] == b"\t]"
    tally.receive(answer, other)
    tally.receive(answer[:-42] + b" " * 40 + b"\t]", host)
    assert not any(tally.bench.rig._reach.has_shown(address[0]) for address in (host, other))
    tally.receive(answer, host)
    assert tally.bench.rig._reach.has_shown(host[0])


def test_answers_to_iblutil_s_coordinators_that_have_shown_nothing_are_bounded_over_all_of_them() -> None:
    tally = Tally(experiment_description=LARGE)
    for second in range(10):
        for i in range(100):
            tally.receive(b"[64, 0, null]", (f"10.1.{second}.{i}", 4000))
        tally.run(1.0)
    beyond = sum(tally.sent.values()) - AMPLIFICATION * sum(tally.had.values())
    assert beyond <= BORROWED + 10 * BORROWED_PER_SECOND


def flooded(tally: Tally) -> None:
    for i in range(100):
        tally.receive(b"[64, 0, null]", (f"10.2.0.{i}", 4000))


def answers_to(tally: Tally, host: tuple[str, int], seconds: float, flood: int = 0) -> list[bytes]:
    """Let time pass, in which forged senders go on, and return what leaves to a host but for its own echoes."""
    found: list[bytes] = []
    end = tally.bench.now + seconds
    i = 0
    while tally.bench.now < end:
        tally.bench.now += 0.05
        if i % 24 == 12:  # each 1.2 s
            for k in range(flood):
                tally.bench.rig.receive_datagram(b"[64, 0, null]", (f"10.3.{i}.{k}", 4000), tally.bench.now)
        if tally.bench.rig.next_timer() <= tally.bench.now:
            tally.bench.rig.handle_timer(tally.bench.now)
        found += [data for to, data in tally.bench.rig.take_datagrams() if to == host]
        i += 1
    return found


def test_an_answer_to_iblutil_s_coordinator_that_may_not_leave_yet_leaves_later() -> None:
    tally = Tally(experiment_description=LARGE)
    flooded(tally)
    host = ("10.0.0.5", 4000)
    assert len(tally.receive(b"[64, 0, null]", host)) == 1  # the echo
    (answer,) = answers_to(tally, host, 4.0)
    assert answer[-2:] == b"\t]"
    tally.receive(answer, host)
    assert tally.bench.rig._reach.has_shown(host[0])


def test_a_stream_of_forged_senders_does_not_silence_a_new_coordinator_of_iblutil() -> None:
    tally = Tally(experiment_description={"devices": "x" * 1500})
    for i in range(60):
        tally.receive(b"[64, 0, null]", (f"10.2.0.{i}", 4000))
    answers_to(tally, HERE, 5.5, flood=16)  # more than may leave
    host = ("10.0.0.5", 4000)
    assert len(tally.receive(b"[64, 0, null]", host)) == 1
    (answer,) = answers_to(tally, host, 1.0, flood=16)
    assert answer[-2:] == b"\t]"


def test_the_reason_of_a_refusal_leaves_later_too() -> None:
    tally = Tally(experiment_description=LARGE)
    tally.bench.rig._reach.show(HERE[0])
    tally.receive(request("EXPINIT", 1))
    flooded(tally)
    while tally.bench.rig._arrays._common.take(50, tally.bench.now):
        pass
    host = ("10.0.0.5", 4000)
    start = b'[2, "2026-03-01_2_mouse", null]'
    assert [frame for frame in tally.receive(start, host) if isinstance(frame, Array)] == [decode(start)]
    (reason,) = answers_to(tally, host, 1.0)
    assert b"BusyError" in reason


def test_the_host_in_charge_gets_its_first_answer_at_once_whatever_strangers_send() -> None:
    tally = Tally(experiment_description=LARGE)
    flooded(tally)
    host = ("10.0.0.5", 4000)
    _, answer = tally.receive(b"[1, null]", host)
    assert answer.event.name == "EXPINIT"
    assert tally.factor > 1000


def test_answers_that_may_not_leave_yet_are_bounded_and_the_newest_leaves_first() -> None:
    tally = Tally(experiment_description=LARGE)
    for i in range(250):
        tally.receive(b"[64, 0, null]", (f"10.4.0.{i}", 4000))
    lanes = tally.bench.rig._arrays._withheld.values()
    assert sum(lane.size for lane in lanes) <= ALL_WITHHELD_BYTES
    assert tally.bench.rig.violations["answer given up, as it could not leave"] > 200
    assert len(answers_to(tally, ("10.4.0.249", 4000), 4.0)) == 1
    answers_to(tally, HERE, 60.0)
    assert not tally.bench.rig._arrays._withheld
    assert tally.bench.rig.next_timer() == math.inf


def test_what_is_withheld_costs_no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally("EXPINFO")
    for i in range(64):
        data = messages.probe(f"{i:016x}", 1, 0)
        tally.receive(data, (f"10.5.0.{i}", 4000))
    tally.receive(messages.probe(COORDINATOR, 1, 0))
    encoded: list[Any] = []
    notice = messages.notice
    monkeypatch.setattr(messages, "notice", lambda *args: encoded.append(args) or notice(*args))
    before = dict(tally.sent)
    for n in range(100):
        tally.bench.rig.notify("log", None, n, False, tally.bench.now)
    tally.bench.rig.receive_datagram(request("EXPSTATUS", 1), HERE, tally.bench.now)
    tally.collect()
    assert len(encoded) <= 102  # each notice once, not once more for each that it is withheld from
    assert all(tally.sent[host] == size for host, size in before.items() if host != HERE[0])


def test_failures_are_bounded_too() -> None:
    tally = Tally("EXPINFO")
    tally.receive(request("EXPINFO", 1))
    (due,) = tally.bench.events(HandlerDue)
    tally.bench.agenda.fail(due.task, "OSError", "disk full", "x" * 20_000, tally.bench.now)
    (challenge,) = tally.collect()
    (failure,) = tally.receive(messages.ack(COORDINATOR, challenge.n))
    assert isinstance(failure, Failure)


def test_this_computer_has_to_show_nothing() -> None:
    reach = Reach(False)
    assert reach.spend("127.0.0.1", 10**6)
    assert reach.spend("::1", 10**6)
    assert not reach.spend("10.0.0.1", 1)
    assert Reach(True).spend("10.0.0.1", 10**6)


def test_hosts_that_are_remembered_are_bounded() -> None:
    reach = Reach(False)
    for i in range(2 * HOSTS):
        reach.heard(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", 100)
        reach.show(f"11.{i >> 16}.{i >> 8 & 255}.{i & 255}")
    assert len(reach._left) == len(reach._shown) == HOSTS
    assert reach.challenge("10.0.0.1") != reach.challenge("10.0.0.2") != Reach(False).challenge("10.0.0.2")


def test_refusals_of_strangers_are_told_a_few_times_and_then_counted() -> None:
    bench = RigBench()
    bench.rig.receive_datagram(request("EXPINIT", 1), HERE, bench.now)
    watcher = ("10.0.0.2", 4000)
    bench.rig.receive_datagram(messages.probe("d" * 16, 1, 0), watcher, bench.now)
    bench.rig.take_datagrams(), bench.rig.take_events()

    def refused(times: int, host: str, first: int) -> tuple[list[Any], int]:
        for i in range(times):
            data = messages.request(f"{first + i:016x}", 1, compose("EXPSTART", "2026-03-01_2_mouse"), None, None)
            bench.rig.receive_datagram(data, (host, 4000), bench.now)
        notices = [to for to, data in bench.rig.take_datagrams() if to == watcher and b'"log"' in data]
        return bench.rig.take_events(), len(notices)

    events, notices = refused(500, "10.0.0.9", 1)
    handled = [event for event in events if isinstance(event, MessageHandled)]
    assert len(handled) == 500
    assert sum(event.is_told for event in handled) == notices == TOLD_EACH_MINUTE
    (seen,) = (event for event in events if isinstance(event, ViolationSeen))
    assert "BusyError" in seen.problem
    assert bench.rig.violations[seen.kind] == 500 - TOLD_EACH_MINUTE
    told = 0
    for k in range(100):
        told += refused(1, f"10.7.0.{k}", 1000 + k)[1]
    assert told == ALL_TOLD_EACH_MINUTE - TOLD_EACH_MINUTE
    bench.now += 60.0
    bench.rig.receive_datagram(messages.probe("d" * 16, 2, 0), watcher, bench.now)
    bench.rig.take_datagrams()
    assert refused(10, "10.0.0.9", 2000)[1] == TOLD_EACH_MINUTE


def test_of_the_one_in_charge_each_refusal_is_told() -> None:
    bench = RigBench()
    bench.rig.receive_datagram(request("EXPINIT", 1), HERE, bench.now)
    for n in range(2, 12):
        bench.rig.receive_datagram(
            messages.request(COORDINATOR, n, compose_command("no", (), {}), RIG), HERE, bench.now
        )
    refused = [event for event in bench.rig.take_events() if isinstance(event, MessageHandled) and event.error]
    assert len(refused) == 10
    assert all(event.is_told for event in refused)


def test_answers_that_strangers_do_not_confirm_are_told_a_few_times() -> None:
    tally = Tally()
    for i in range(200):
        tally.receive(b"[64, 0, null]", (f"10.8.0.{i}", 4000))
    tally.run(60.0)
    missing = [event for event in tally.bench.told if isinstance(event, EchoMissing)]
    assert len(missing) == ALL_TOLD_EACH_MINUTE
