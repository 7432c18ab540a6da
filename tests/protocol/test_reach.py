"""How much a rig sends to a host that has not shown that it receives it: whoever forges an address gets no weapon."""

from __future__ import annotations

from typing import Any

import pytest

from rigsync.protocol import messages
from rigsync.protocol.arguments import compose
from rigsync.protocol.events import HandlerDue
from rigsync.protocol.messages import Ack, Alive, Failure, Notice, Reply, decode
from rigsync.protocol.reach import AMPLIFICATION, BORROWED, BORROWED_PER_SECOND, CHALLENGES, HOSTS, Reach

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
    tally.bench.rig.respond(due.task, None, tally.bench.now)
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


@pytest.mark.parametrize("name", ["cameras", "cameras of the second rig upstairs"])
@pytest.mark.parametrize(("program", "answered"), [(PROGRAM, 6), (None, 3)])
def test_a_usual_burst_of_probes_is_enough_for_a_coordinator_of_today_and_for_an_older_one(
    program: str | None, answered: int, name: str
) -> None:
    tally = Tally(experiment_description=LARGE, name=name)
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


def test_failures_are_bounded_too() -> None:
    tally = Tally("EXPINFO")
    tally.receive(request("EXPINFO", 1))
    (due,) = tally.bench.events(HandlerDue)
    tally.bench.rig.fail(due.task, "OSError", "disk full", "x" * 20_000, tally.bench.now)
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
